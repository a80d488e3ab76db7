// Teach: a word from a few pictures, yes and no with single keys, and then a network of it.
import { get, lib, picture, post, remove } from "../api.js";
import { Curve } from "../curve.js";
import { Dialog, Empty, Icon, Wrong, count, go, html, link, share, useEffect, useKeys, useLoad, useRef, useState } from "../lib.js";
import { TrainForm } from "./training.js";

const BATCH = 6; // answers that are learned from at once

export function TeachDialog({ library, pictures, guess = "", close, done }) {
  const [name, setName] = useState(/^[\p{L}\p{N} ]+$/u.test(guess) ? guess : "");
  const [busy, work] = useState(false);
  const [error, fail] = useState(null);
  const submit = async (e) => {
    e.preventDefault();
    work(true);
    try {
      const taught = await post(lib(library, "concepts"), { name: name.trim(), examples: pictures });
      close();
      done?.();
      go("teach", taught.name);
    } catch (problem) { fail(problem); work(false); }
  };
  return html`<${Dialog} title="Teach a word" close=${close}><form class="stack" onSubmit=${submit}>
    <p class="soft">${count(pictures.length, "picture shows", "pictures show")} what the word means. The whole library is tagged with it at once.</p>
    <label class="field">The word<input value=${name} maxlength="100" required onInput=${(e) => setName(e.target.value)} placeholder="our cat" ref=${(el) => el && !el.dataset.seen && ((el.dataset.seen = 1), el.focus())}/></label>
    ${error && html`<${Wrong} error=${error}/>`}
    <div class="row"><button class="main" disabled=${busy || !name.trim()}>${busy ? "Learning …" : "Teach"}</button><button type="button" onClick=${close}>Cancel</button></div>
  </form><//>`;
}

export function Teach({ route, library, jobs }) {
  const [training, train] = useState(false);
  const known = useLoad((signal) => get(lib(library, "concepts"), {}, signal), [library, route.arg]);
  if (!library) return html`<${Empty} title="No library yet"><p class="soft">Teaching needs pictures: <code>neocog index ~/Pictures</code></p><//>`;
  if (known.error) return html`<${Wrong} error=${known.error} again=${known.again}/>`;
  if (!known.value) return html`<p class="soft">Loading …</p>`;
  const concepts = known.value.concepts;
  if (route.arg) return html`<${Concept} key=${route.arg} library=${library} name=${route.arg} changed=${known.again} jobs=${jobs}/>`;
  return html`<div class="stack"><div class="row"><h1>Your words</h1>${concepts.length > 0 && html`<button class="main push" onClick=${() => train(true)}>Train a network on all of them</button>`}</div>
    ${concepts.length ? html`<ul class="tiles">${concepts.map((one) => html`<li key=${one.name}><a class="card tile" href=${link("teach", one.name)}>
        <span class="mosaic">${(one.pictures ?? []).slice(0, 4).map((id) => html`<img key=${id} src=${picture(library, id, "thumbnail", { size: 320 })} alt="" loading="lazy"/>`)}</span>
        <b>${one.name}</b><span class="soft small number">${count(one.examples, "example")} · ${count(one.tagged, "picture")} tagged</span></a></li>`)}</ul>`
      : html`<${Empty} title="No words taught yet"><p class="soft">Search for something, tick a few pictures that show it (key <kbd>x</kbd>), and choose <b>Teach a word</b>.</p><a class="button main" href=${link("search")}>To the search</a><//>`}
    ${training && html`<${TrainDialog} library=${library} word="" jobs=${jobs} close=${() => train(false)}/>`}
  </div>`;
}

const TrainDialog = ({ library, word, jobs, close }) => html`<${Dialog} title=${word ? `Train a network on ${word}` : "Train a network on all your words"} close=${close}>
  <p class="soft">Your examples and answers are its pictures. It goes on when this page is closed.</p>
  <${TrainForm} data=${`library:${library}${word ? "#" + word : ""}`} library=${library} jobs=${jobs}/><//>`;

function Concept({ library, name, changed, jobs }) {
  const [taught, learn] = useState(null);
  const asked = useRef({ queue: [], yes: [], no: [] }); // keys may come faster than the page is drawn
  const [, drawn] = useState(0);
  const order = useRef([]);
  const set = (next) => { asked.current = { ...asked.current, ...next }; drawn((n) => n + 1); };
  const { queue, yes, no } = asked.current;
  const [busy, work] = useState(false);
  const [history, remember] = useState([]);
  const [error, fail] = useState(null);
  const [leaving, leave] = useState(false);
  const [training, train] = useState(false);
  const here = lib(library, "concepts", name);
  const take = (now) => {
    learn(now);
    set({ queue: now.uncertain, yes: [], no: [] });
    remember((old) => [...old, { answers: now.examples + now.negatives, quality: now.quality }]);
  };
  useEffect(() => { get(`${here}/uncertain`).then(take, fail); }, [here]);
  const send = async () => {
    const said = { yes: asked.current.yes, no: asked.current.no };
    set({ queue: [], yes: [], no: [] });
    work(true);
    try { take(await post(`${here}/answers`, said)); } catch (problem) { fail(problem); }
    work(false);
  };
  const answer = (right) => {
    const now = asked.current;
    const one = now.queue[0];
    if (!one) return;
    set({ queue: now.queue.slice(1), ...(right ? { yes: [...now.yes, one.id] } : { no: [...now.no, one.id] }) });
    order.current.push(one);
    if (now.yes.length + now.no.length + 1 >= BATCH || now.queue.length === 1) void send();
  };
  const skip = () => set({ queue: [...asked.current.queue.slice(1), ...asked.current.queue.slice(0, 1)] });
  const undo = () => {
    const now = asked.current;
    const last = now.yes.length + now.no.length ? order.current.pop() : null;
    if (!last) return false;
    set({ queue: [last, ...now.queue], yes: now.yes.filter((id) => id !== last.id), no: now.no.filter((id) => id !== last.id) });
  };
  useKeys({ y: () => answer(true), n: () => answer(false), s: skip, Backspace: undo, Enter: () => (asked.current.yes.length + asked.current.no.length ? void send() : false) }, [here]);
  if (error) return html`<${Wrong} error=${error} again=${() => { fail(null); get(`${here}/uncertain`).then(take, fail); }}/>`;
  if (!taught) return html`<p class="soft">Loading …</p>`;
  const one = queue[0];
  const waiting = yes.length + no.length;
  return html`<div class="teach">
    <div class="row"><a class="button plain" href=${link("teach")}><${Icon} name="back"/>Your words</a></div>
    <h1>Is this <em>${name}</em>?</h1>
    <div class="asking">
      <div class="stage ask-picture">${one ? html`<img key=${one.id} src=${picture(library, one.id, "thumbnail", { size: 640 })} alt=${one.name || "The picture in question"}/>` : html`<p class="soft">${busy ? "Learning …" : "Nothing is uncertain any more."}</p>`}</div>
      <div class="row answers"><button class="main" disabled=${!one} onClick=${() => answer(true)}>Yes <kbd>y</kbd></button><button disabled=${!one} onClick=${() => answer(false)}>No <kbd>n</kbd></button>
        <button class="plain" disabled=${!one} onClick=${skip}>Skip <kbd>s</kbd></button>
        <span class="push soft small" aria-live="polite">${one?.probability !== undefined ? `taken for it with ${share(one.probability)}` : ""}</span></div>
      <ol class="strip next" aria-label="Next pictures">${queue.slice(1, 8).map((other) => html`<li key=${other.id}><img src=${picture(library, other.id, "thumbnail", { size: 160 })} alt=""/></li>`)}</ol>
    </div>
    <aside class="stack">
      <dl class="big-facts"><div><dt>Examples</dt><dd class="number">${taught.examples}</dd></div><div><dt>Not it</dt><dd class="number">${taught.negatives}</dd></div>
        <div><dt>Tagged</dt><dd class="number">${taught.tagged}</dd></div><div><dt>Ranked right</dt><dd class="number">${taught.quality == null ? "–" : share(taught.quality)}</dd></div></dl>
      <p class="soft small">Ranked right: of examples that were held out, how often they come before other pictures. ${waiting ? `${count(waiting, "answer")} not yet learned from; Enter learns now.` : ""}</p>
      ${history.filter((h) => h.quality != null).length > 1 && html`<${Curve} title="Ranked right" x=${{ name: "answers", values: history.map((h) => h.answers) }} lines=${[{ name: "ranked right", values: history.map((h) => h.quality) }]} height=${140}/>`}
      ${taught.notes?.length > 0 && html`<ul class="notes small soft">${taught.notes.map((note) => html`<li key=${note}>${note}</li>`)}</ul>`}
      <div class="stack tight"><a class="button" href=${link("search", "", { q: `tag:"${name}"` })}>See what carries it</a>
        <button class="main" onClick=${() => train(true)}>Train a network on this</button>
        <button class="plain" onClick=${() => leave(true)}>Forget this word</button></div>
    </aside>
    ${training && html`<${TrainDialog} library=${library} word=${name} jobs=${jobs} close=${() => train(false)}/>`}
    ${leaving && html`<${Dialog} title=${`Forget ${name}?`} close=${() => leave(false)}><p>Its examples, answers and tags are removed. Pictures stay.</p>
      <div class="row"><button class="main" onClick=${async () => { await remove(here); changed(); go("teach"); }}>Forget it</button><button onClick=${() => leave(false)}>Keep it</button></div><//>`}
  </div>`;
}
