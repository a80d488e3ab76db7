// The shell: what is on top, which view is shown, what was just said.
import { get } from "./api.js";
import { Wrong, Icon, go, html, link, render, said, useEffect, useKeys, useLoad, useRef, useRoute, useState } from "./lib.js";
import { Jobs, useJobs } from "./views/jobs.js";
import { Network } from "./views/network.js";
import { Picture } from "./views/picture.js";
import { Play } from "./views/play.js";
import { Search } from "./views/search.js";
import { Teach } from "./views/teach.js";
import { Training } from "./views/training.js";

const VIEWS = { search: Search, picture: Picture, teach: Teach, training: Training, network: Network, play: Play, jobs: Jobs };
const NAMES = { search: "Search", teach: "Teach", training: "Training", network: "Network", play: "Play" };
const HOME = { picture: "search" };

function Toast() {
  const [told, tell] = useState(null);
  useEffect(() => said.listen(tell), []);
  const undo = async () => {
    tell(null);
    await told.undo();
  };
  useKeys({ z: () => (told?.undo ? void undo() : false) }, [told]);
  useEffect(() => {
    if (!told || told.undo) return;
    const timer = setTimeout(() => tell(null), 6000);
    return () => clearTimeout(timer);
  }, [told]);
  return html`<div aria-live="polite" role="status">
    ${told && html`<div class="toast"><span>${told.text}</span>
      ${told.undo && html`<button onClick=${undo}>Undo <kbd>z</kbd></button>`}
      <button onClick=${() => tell(null)} aria-label="Close this message"><${Icon} name="close"/></button></div>`}
  </div>`;
}

function App() {
  const route = useRoute();
  const jobs = useJobs();
  const state = useLoad((signal) => get("state", {}, signal), [jobs.changed]);
  const main = useRef();
  const [wanted, want] = useState(() => localStorage.getItem("library"));
  const libraries = state.value?.libraries ?? [];
  const library = (libraries.find((one) => one.name === wanted) ?? libraries[0])?.name;
  const View = VIEWS[route.view] ?? Search;
  const current = HOME[route.view] ?? (VIEWS[route.view] ? route.view : "search");
  useEffect(() => {
    document.title = `${NAMES[current] ?? "Jobs"} · neocog`;
  }, [current]);
  const choose = (name) => {
    localStorage.setItem("library", name);
    want(name);
    go("search");
  };
  useKeys({ "/": () => {
    const box = document.querySelector("#query");
    if (box) box.focus();
    else {
      go("search");
      setTimeout(() => document.querySelector("#query")?.focus(), 100);
    }
  } }, [route.view]);
  const busy = jobs.list.filter((job) => job.state === "running" || job.state === "waiting").length;
  return html`
    <a class="skip" href="#main" onClick=${(e) => { e.preventDefault(); main.current.focus(); }}>Skip to the content</a>
    <header class="top">
      <a class="mark" href=${link("search")}><img src="static/icon.svg" alt="" width="22" height="22"/>neocog</a>
      <nav aria-label="Views">${Object.entries(NAMES).map(([view, name]) => html`
        <a key=${view} href=${link(view)} aria-current=${current === view ? "page" : undefined}>${name}</a>`)}</nav>
      <div class="push">
        ${libraries.length > 1 && html`<select aria-label="Library" value=${library} onChange=${(e) => choose(e.target.value)}>
          ${libraries.map((one) => html`<option key=${one.name}>${one.name}</option>`)}</select>`}
        <a class="button" href=${link("jobs")} aria-label=${busy ? `Jobs: ${busy} running` : "Jobs"}><${Icon} name="jobs"/>${busy ? html`<span class="number">${busy}</span>` : null}</a>
      </div>
    </header>
    <main id="main" tabindex="-1" ref=${main}>
      ${state.error ? html`<${Wrong} error=${state.error} again=${state.again}/>`
        : state.value && html`<${View} key=${route.view + library} route=${route} state=${state.value} again=${state.again} library=${library} jobs=${jobs}/>`}
    </main>
    <${Toast}/>`;
}

render(html`<${App}/>`, document.getElementById("app"));
