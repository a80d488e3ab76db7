// Filters: each writes its words into the query, so that what is asked stands in one place.
import { get, lib, post } from "../api.js";
import { Wrong, count, html, say, useLoad } from "../lib.js";

const without = (query, field) => query.replace(new RegExp(`(^|\\s)${field}:("[^"]*"|\\S*)`, "g"), " ").replace(/\s+/g, " ").trim();
const quoted = (text) => (/\s/.test(text) ? `"${text.replaceAll('"', "")}"` : text);

export function Filters({ library, query, net, pick, ask, again }) {
  const times = useLoad((signal) => get(lib(library, "timeline"), {}, signal), [library]);
  const places = useLoad((signal) => get(lib(library, "places"), {}, signal), [library]);
  const about = useLoad((signal) => get(lib(library), {}, signal), [library]);
  const { model, hears, sounds = [] } = about.value ?? {};
  const seen = about.value?.models.filter((name) => !sounds.includes(name)) ?? [];
  const use = (name) => {
    pick(sounds.includes(name) && seen.length ? name : ""); // else words ask the net of pictures
    if (name !== model && name !== hears) post(lib(library, "model"), { name }).then(() => { about.again(); again(); }, (error) => say(error.message));
  };
  const chips = (names) => html`<div class="row">${names.map((name) => html`
      <button class="chip" key=${name} aria-pressed=${name === (net || model)} onClick=${() => use(name)}>${name}</button>`)}</div>`;
  const set = (field, value) => ask(`${without(query, field)} ${field}:${quoted(value)}`.trim());
  return html`<div class="filters card stack">
    <section><h3>When</h3>${times.error ? html`<${Wrong} error=${times.error}/>` : times.value && html`<${Timeline} times=${times.value} set=${set}/>`}</section>
    <section><h3>Where</h3>${places.error ? html`<${Wrong} error=${places.error}/>` : places.value && html`<${Places} places=${places.value} set=${set}/>`}</section>
    <section><h3>Which have</h3><div class="row">${["caption", "label", "tag", "date", "gps", "camera"].map((what) => html`
      <button class="chip" key=${what} aria-pressed=${query.includes(`has:${what}`)} onClick=${() => (query.includes(`has:${what}`) ? ask(without(query, "has")) : set("has", what))}>${what === "gps" ? "a position" : `a ${what}`}</button>`)}</div></section>
    ${about.value?.models.length > 1 && html`${seen.length > 0 && html`<section><h3>Seen by</h3>${chips(seen)}</section>`}
      ${sounds.length > 0 && html`<section><h3>Heard by</h3>${chips(sounds)}</section>`}`}
  </div>`;
}

function Timeline({ times, set }) {
  const { months, undated } = times;
  if (!months.length) return html`<p class="soft small">No picture has a date.</p>`;
  const most = Math.max(...months.map((one) => one.count));
  return html`<div class="timeline"><ul>${months.map((one) => html`<li key=${one.month}>
      <button onClick=${() => set("taken", one.month)} title=${`${one.month}: ${count(one.count, "picture")}`} aria-label=${`${one.month}: ${count(one.count, "picture")}`}><i style=${{ height: `${Math.max(4, (100 * one.count) / most)}%` }}></i></button></li>`)}</ul>
    <div class="row small soft number"><span>${months[0].month}</span><span class="push">${months.at(-1).month}</span></div>
    ${undated > 0 && html`<p class="soft small">${count(undated, "picture has", "pictures have")} no date.</p>`}</div>`;
}

/* Where pictures were taken, on a plain grid of degrees: no map is fetched from anywhere. */
function Places({ places, set }) {
  const { named, points } = places;
  if (!named.length && !points.length) return html`<p class="soft small">No picture has a place or a position.</p>`;
  return html`${points.length > 0 && html`<svg class="world" viewBox="-180 -90 360 180" role="img" aria-label="Where pictures were taken, by degrees">
      ${[-120, -60, 0, 60, 120].map((x) => html`<path key=${"x" + x} d=${`M${x} -90V90`}/>`)}${[-60, -30, 0, 30, 60].map((y) => html`<path key=${"y" + y} d=${`M-180 ${y}H180`}/>`)}
      ${points.map((one) => html`<circle key=${`${one.latitude},${one.longitude}`} cx=${one.longitude} cy=${-one.latitude} r=${1.5 + Math.min(6, Math.sqrt(one.count))} tabindex="0" role="button"
        aria-label=${`${count(one.count, "picture")} near ${one.latitude.toFixed(1)}, ${one.longitude.toFixed(1)}`}
        onClick=${() => set("near", `${one.latitude.toFixed(2)},${one.longitude.toFixed(2)},50km`)}
        onKeyDown=${(e) => e.key === "Enter" && set("near", `${one.latitude.toFixed(2)},${one.longitude.toFixed(2)},50km`)}/>`)}</svg>`}
    <div class="row">${named.map((one) => html`<button class="chip" key=${one.name} onClick=${() => set("place", one.name)}>${one.name} <span class="soft number">${one.count}</span></button>`)}</div>`;
}
