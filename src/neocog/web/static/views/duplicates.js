// Duplicates: groups of the same picture, the best one first. Nothing is ever deleted here.
import { get, lib, picture } from "../api.js";
import { Empty, Wrong, count, html, link, useLoad, useState } from "../lib.js";

const LEVELS = { exact: "Same file", near: "Same picture", similar: "Same scene" };
const SHOWN = 50;

export function Duplicates({ library }) {
  const [level, setLevel] = useState("near");
  const [most, more] = useState(SHOWN);
  const found = useLoad((signal) => get(lib(library, "duplicates"), { level }, signal), [library, level]);
  const groups = found.value?.groups ?? [];
  return html`<div class="stack">
    <div class="row"><div class="tabs" role="group" aria-label="How alike">${Object.entries(LEVELS).map(([name, text]) => html`
        <button key=${name} aria-pressed=${level === name} onClick=${() => setLevel(name)}>${text}</button>`)}</div>
      <span class="soft" aria-live="polite">${found.loading ? "Comparing …" : count(groups.length, "group")}</span></div>
    ${found.error ? html`<${Wrong} error=${found.error}/>` : !found.loading && !groups.length ? html`<${Empty} title="No duplicates"><p class="soft">No two pictures are alike in this way.</p><//>`
      : groups.slice(0, most).map((group, g) => html`<section class="card group" key=${g}>
        <ul class="strip">${group.pictures.map((one, i) => html`<li key=${one.id + i}><a href=${link("picture", one.id)}><img src=${picture(library, one.id, "thumbnail", { size: 320 })} alt=${one.name} loading="lazy"/></a>
          <span class="small name">${one.name}</span><span class="small soft number">${i ? "" : "best · "}${one.width}×${one.height}</span></li>`)}</ul></section>`)}
    ${groups.length > most && html`<button onClick=${() => more(most + SHOWN)}>Show more groups</button>`}
  </div>`;
}
