// Search: one box, a grid of hits, and for each the reason why it is one.
import { get, lib, picture, post } from "../api.js";
import { Heat } from "../canvas.js";
import { Grid, useHits } from "../grid.js";
import { Empty, Icon, Wrong, count, go, html, link, share, useLayoutEffect, useState } from "../lib.js";
import { SearchBox } from "../searchbox.js";
import { Duplicates } from "./duplicates.js";
import { Filters } from "./filters.js";
import { MapView } from "./map.js";
import { TeachDialog } from "./teach.js";

const LENSES = { "": "Pictures", map: "Map", duplicates: "Duplicates" };
let dropped = null; // an example from outside stays while other views are looked at

export function Search({ route, library, state, again, jobs }) {
  const { q = "", like = "", box = "", lens = "", all = "", net = "" } = route.params;
  const [outside, setOutside] = useState(dropped);
  const [chosen, choose] = useState(null); // the hit whose reasons are shown
  const [picked, pick] = useState(new Map());
  const [teaching, teach] = useState(false);
  const [filtering, filter] = useState(false);
  const [turn, anew] = useState(0); // grows when another net is searched with
  const to = (params) => go("search", "", { q, like, box, lens, all, net, ...params });
  const example = outside ?? (like && { id: like, url: picture(library, like, "thumbnail", { size: 640 }), name: "a picture of this library", box: box ? box.split(",").map(Number) : null });
  const setExample = (one) => {
    choose(null);
    const inside = one?.id ? one : null;
    dropped = one && !inside ? one : null;
    setOutside(dropped);
    to({ like: inside?.id ?? "", box: inside?.box ? inside.box.map((v) => v.toFixed(3)).join() : "", lens: "", all: "" });
  };
  const asks = JSON.stringify([library, q, like, box, all, net, outside?.url, outside?.box, turn]);
  const hits = useHits(async (offset, limit, signal) => {
    const params = { q, offset, limit, threshold: all ? 0 : undefined };
    if (!outside) return get(lib(library, "search"), { ...params, like, box, model: like ? undefined : net || undefined }, signal);
    const form = new FormData();
    form.append("picture", outside.file, outside.name || "example");
    if (outside.box) form.append("box", outside.box.join());
    for (const [name, value] of Object.entries(params)) if (value !== undefined) form.append(name, value);
    return post(lib(library, "search"), form, {}, signal);
  }, asks + jobs.changed);
  useLayoutEffect(() => { choose(null); pick(new Map()); }, [asks]); // before anything can be chosen
  if (!library) return html`<${First}/>`;

  const toggle = (hit) => {
    const next = new Map(picked);
    next.delete(hit.id) || next.set(hit.id, hit);
    pick(next);
  };
  const open = (hit, index) => link("picture", hit.id, { q, like, box, net, n: index });
  const cell = (hit, index, tab) => html`<figure class="hit" data-chosen=${chosen?.id === hit.id} data-picked=${picked.has(hit.id)}>
    <a href=${open(hit, index)} tabindex=${tab} aria-label=${`${hit.name}${hit.score ? ", " + share(hit.score) : ""}`}>
      <img src=${picture(library, hit.id, "thumbnail", { size: 320 })} srcset=${`${picture(library, hit.id, "thumbnail", { size: 320 })} 1x, ${picture(library, hit.id, "thumbnail", { size: 640 })} 2x`} alt="" loading="lazy" decoding="async"/></a>
    <input type="checkbox" tabindex="-1" checked=${picked.has(hit.id)} aria-label=${`Choose ${hit.name}`} onChange=${() => toggle(hit)}/>
    <figcaption>${hit.why?.length
      ? html`<button class="why" tabindex="-1" aria-expanded=${chosen?.id === hit.id} onClick=${() => choose(chosen?.id === hit.id ? null : hit)}><span class="sr">Why ${hit.name}:</span><b class="number">${share(hit.score)}</b><span>${hit.why[0].text}</span></button>`
      : html`<span class="why"><span>${hit.name}</span></span>`}</figcaption>
  </figure>`;
  const first = hits.first;
  const holds = state.libraries.find((one) => one.name === library)?.holds ?? "";
  const asked = q || example;
  return html`<div class="search">
    <div class="ask">
      <${SearchBox} key=${library} library=${library} query=${q} example=${example} setExample=${setExample} ask=${(text) => to({ q: text, all: "", lens: "" })}/>
      <div class="row under">
        <div class="tabs" role="group" aria-label="How to look">${Object.entries(LENSES).map(([name, text]) => html`
          <a key=${name} href=${link("search", "", { q, like, box, net, lens: name })} aria-current=${lens === name ? "true" : undefined}>${text}</a>`)}</div>
        <button class="plain" aria-expanded=${filtering} onClick=${() => filter(!filtering)}>Filters</button>
        <span class="push soft number" aria-live="polite">${lens ? "" : hits.loading ? "Searching …" : hits.error ? "" : asked ? `${count(hits.total, "hit")} in ${holds}` : holds}</span>
      </div>
      ${filtering && html`<${Filters} library=${library} query=${q} net=${net} pick=${(name) => to({ net: name, lens: "" })} ask=${(text) => to({ q: text, lens: "" })} again=${() => anew(turn + 1)}/>`}
    </div>
    ${lens === "map" ? html`<${MapView} library=${library} again=${again} jobs=${jobs}/>`
      : lens === "duplicates" ? html`<${Duplicates} library=${library}/>`
      : html`<div class="results" data-panel=${Boolean(chosen)}>
      <div class="stack">
        ${first?.notes?.length > 0 && html`<ul class="notes small soft" aria-label="How the query was understood">${first.notes.map((note) => html`<li key=${note}>${note}</li>`)}</ul>`}
        ${hits.error ? html`<${Wrong} error=${hits.error}/>`
          : hits.total === 0 && !hits.loading ? html`<${Nothing} first=${first} q=${q} all=${() => to({ all: "1" })}/>`
          : hits.total > 0 && html`<${Grid} hits=${hits} cell=${cell} label=${asked ? "Hits, best first" : "Pictures, newest first"} keys=${{ x: toggle, w: (hit) => choose(chosen?.id === hit.id ? null : hit) }}/>`}
      </div>
      ${chosen && html`<${Why} key=${chosen.id} hit=${chosen} q=${q} library=${library} close=${() => choose(null)} alike=${() => setExample({ id: chosen.id })}/>`}
    </div>`}
    ${picked.size > 0 && html`<div class="picked" role="region" aria-label="Chosen pictures"><span><b class="number">${picked.size}</b> chosen</span>
      <button class="main" onClick=${() => teach(true)}>Teach a word</button><button class="plain" onClick=${() => pick(new Map())}>Clear</button></div>`}
    ${teaching && html`<${TeachDialog} library=${library} pictures=${[...picked.keys()]} guess=${q} close=${() => teach(false)} done=${again}/>`}
  </div>`;
}

function Nothing({ first, q, all }) {
  return html`<${Empty} title="Nothing found">
    <p class="soft">Nothing answers ${q ? html`<q>${q}</q>` : "this"} with enough certainty.</p>
    ${first?.best > 0 && html`<button onClick=${all}>Show the least unlikely (best ${share(first.best)})</button>`}
  <//>`;
}

function First() {
  return html`<${Empty} title="No library yet">
    <p class="soft">Index a folder of pictures, and it can be searched here:</p>
    <p><code>neocog index ~/Pictures</code></p><p><code>neocog serve ~/Pictures</code></p><//>`;
}

function Why({ hit, q, library, close, alike }) {
  const [map, show] = useState(false);
  const what = hit.why.find((one) => one.witness === "word" && /concepts/.test(one.text))?.what;
  return html`<aside class="why-panel stack" aria-label=${`Why ${hit.name} was found`} onKeyDown=${(e) => e.key === "Escape" && close()}>
    <div class="row"><h2 class="name">${hit.name}</h2><button class="icon plain push" aria-label="Close" onClick=${close}><${Icon} name="close"/></button></div>
    <a class="stage" href=${link("picture", hit.id, { q })}><img src=${picture(library, hit.id, "thumbnail", { size: 640 })} alt=${hit.name}/>
      ${map && html`<${Heat} library=${library} id=${hit.id} what=${what}/>`}</a>
    <dl class="reasons">${hit.why.map((one, i) => html`<div key=${i}><dt><span>${one.witness}</span><b class="number">${share(one.score)}</b></dt><dd>${one.text}</dd></div>`)}</dl>
    <div class="row">${what && html`<button aria-pressed=${map} onClick=${() => show(!map)}><${Icon} name="eye"/>What counted</button>`}
      <button onClick=${alike}>Others like it</button><a class="button" href=${link("picture", hit.id, { q })}>Open</a></div>
  </aside>`;
}
