// One picture: what is known of it, what the net sees in it, and what you know better.
import { get, lib, patch, picture, post, run } from "../api.js";
import { Boxes, Heat, Marker } from "../canvas.js";
import { Bars, Icon, Wrong, count, go, html, link, say, share, useLayoutEffect, useKeys, useLoad, useState } from "../lib.js";

export function Picture({ route, library, state }) {
  const id = route.arg;
  const { q = "", like = "", box: region = "", net = "", n } = route.params;
  const found = useLoad((signal) => get(lib(library, "pictures", id), {}, signal), [library, id]);
  const near = useLoad((signal) => get(lib(library, "pictures", id, "neighbours"), { limit: 12 }, signal), [library, id]);
  const [what, look] = useState(null); // the concept whose map is shown
  const [box, mark] = useState(null);
  const [tool, use] = useState(""); // "", "region", "box"
  const [chosen, choose] = useState(-1); // box
  const [answer, hear] = useState(null); // what a run says of it
  useLayoutEffect(() => { look(null); mark(null); use(""); choose(-1); hear(null); scrollTo(0, 0); }, [id]);
  const sees = [...(found.value?.concepts ?? []), ...(found.value?.broader ?? [])];
  const back = link("search", "", { q, like, box: region, net });
  const step = async (by) => {
    if (n === undefined) return;
    const to = Number(n) + by;
    if (to < 0) return;
    const { hits } = await get(lib(library, "search"), { q, like, box: region, model: net, offset: to, limit: 1 });
    if (hits.length) go("picture", hits[0].id, { q, like, box: region, net, n: to }, { replace: true });
  };
  useKeys({ ArrowLeft: () => void step(-1), ArrowRight: () => void step(1), Escape: () => (tool ? use("") : void (location.hash = back)), h: () => !found.value?.sound && look(what ? null : sees[0]?.name ?? null), r: () => !found.value?.sound && use(tool === "region" ? "" : "region") }, [id, n, tool, what, found.value]);
  if (found.error) return html`<div class="stack"><a href=${back}>Back to the search</a><${Wrong} error=${found.error} again=${found.again}/></div>`;
  const one = found.value;
  if (!one || one.id !== id) return html`<p class="soft">Loading …</p>`;

  const facts = Object.entries({ file: one.files?.join(", "), camera: one.camera, position: one.latitude != null && `${one.latitude.toFixed(4)}, ${one.longitude.toFixed(4)}`, places: one.places?.join(", "), keywords: one.keywords?.join(", "), texts: one.texts?.join(" · "), ...one.exif }).filter(([, value]) => value);
  const caption = one.captions?.length ? { text: one.captions[0] } : { text: one.machine_captions?.[0], machine: true };
  const change = async (values, told) => {
    try {
      await patch(lib(library, "pictures", id), values);
      found.again();
      say(told, async () => {
        await post(lib(library, "undo"));
        found.again();
        say("Undone.");
      });
    } catch (error) { say(error.message); }
  };
  const draw = (next) => mark(next);
  return html`<div class="picture">
    <div class="viewer">
      <div class="row bar-row"><a class="button plain" href=${back}><${Icon} name="back"/>Back</a>
        ${n !== undefined && html`<button class="icon plain push" aria-label="Previous picture" onClick=${() => step(-1)}><${Icon} name="back"/></button>
          <button class="icon plain" aria-label="Next picture" onClick=${() => step(1)}><${Icon} name="next"/></button>`}</div>
      <div class="stage big"><${Marker} src=${answer?.drawn ?? (one.sound ? picture(library, id, "thumbnail", { size: 640 }) : picture(library, id, "file"))} alt=${answer?.drawn ? `${answer.run} on ${one.name}: ${answer.text}` : caption.text || one.name} box=${box} draw=${draw} active=${Boolean(tool)}>
        ${what && html`<${Heat} key=${what} library=${library} id=${id} what=${what}/>`}
        ${!tool && !answer?.drawn && one.boxes?.length > 0 && html`<${Boxes} boxes=${one.boxes} chosen=${chosen} choose=${(i) => choose(i === chosen ? -1 : i)}/>`}<//></div>
      ${one.sound && html`<audio controls src=${picture(library, id, "file")}></audio>`}
      ${one.seconds != null && html`<${Film} key=${id} src=${`${picture(library, id, "video")}#t=${one.seconds}`}/>`}
      <div class="row tools-row">
        ${!one.sound && html`<button aria-pressed=${tool === "region"} onClick=${() => { mark(null); use(tool === "region" ? "" : "region"); }}><${Icon} name="crop"/>Mark a region</button>`}
        <a class="button" href=${link("search", "", { like: id })}>Others like it</a>
        ${tool === "region" && box && html`<a class="button main" href=${link("search", "", { like: id, box: box.map((v) => v.toFixed(3)).join() })}>Search for this region</a>
          <${BoxName} save=${(name) => { change({ boxes: [...(one.boxes ?? []), { text: name, box }] }, `Box ${name} added.`); use(""); mark(null); }}/>`}
        ${chosen >= 0 && one.boxes?.[chosen] && html`<button onClick=${() => { choose(-1); change({ boxes: one.boxes.filter((_, i) => i !== chosen) }, `Box ${one.boxes[chosen].text} removed.`); }}>Remove the box ${one.boxes[chosen].text}</button>`}
      </div>
      <section class="stack tight near"><h2>Resembles</h2>
        ${near.error ? html`<${Wrong} error=${near.error}/>` : html`<ul class="strip">${(near.value?.neighbours ?? []).map((other) => html`<li key=${other.id}>
          <a href=${link("picture", other.id, { q })}><img src=${picture(library, other.id, "thumbnail", { size: 320 })} alt=${other.name ?? "A picture that resembles it"} loading="lazy"/></a><span class="small soft number">${other.likeness?.toFixed(2)}</span></li>`)}</ul>`}</section>
    </div>
    <aside class="about stack">
      <div><h1 class="name">${one.name}</h1><p class="soft small number">${[!one.sound && `${one.width} × ${one.height}`, one.date && one.date.replace("T", " ").slice(0, 16)].filter(Boolean).join(" · ")}</p></div>
      <${Caption} caption=${caption} save=${(text) => change({ caption: text }, "Caption changed.")}/>
      <section class="stack tight"><h2>Labels</h2><${Labels} labels=${one.labels ?? []} save=${(labels, told) => change({ labels }, told)}/></section>
      ${one.taught?.length > 0 && html`<section class="stack tight"><h2>Your words</h2><ul class="own-words">${one.taught.map((word) => html`<li class="row" key=${word.name}><a href=${link("teach", word.name)}>${word.name}</a><span class="soft small number">${share(word.probability)}</span>
          <button class="chip push" onClick=${() => change({ words: { [word.name]: true } }, `It shows ${word.name}.`)} aria-label=${`It shows ${word.name}`}>Yes</button><button class="chip" onClick=${() => change({ words: { [word.name]: false } }, `It does not show ${word.name}.`)} aria-label=${`It does not show ${word.name}`}>No</button></li>`)}</ul></section>`}
      <section class="stack tight"><h2>What the net ${one.sound ? "hears" : "sees"}</h2>
        ${sees.length ? html`<${Bars} items=${sees.map((c) => [c.name, c.probability, link("search", "", { q: c.name, net: one.hears })])}/>
          ${!one.sound && html`<div class="row">${sees.slice(0, 3).map((c) => html`<button class="chip" key=${c.name} aria-pressed=${what === c.name} onClick=${() => look(what === c.name ? null : c.name)}><${Icon} name="eye"/>${c.name}</button>`)}</div>
          <p class="soft small">Choose a concept to see which parts of the picture speak for it.</p>`}` : html`<p class="soft small">It is sure of nothing.</p>`}
      </section>
      ${!one.sound && html`<${Runs} key=${id} runs=${state.runs} library=${library} id=${id} answer=${answer} hear=${(said) => { look(null); use(""); choose(-1); hear(said); }}
        keep=${(boxes) => { hear(null); change({ boxes: [...(one.boxes ?? []), ...boxes] }, `${count(boxes.length, "box", "boxes")} kept.`); }}/>`}
      ${facts.length > 0 && html`<section class="stack tight"><h2>From the file</h2><dl class="facts">${facts.map(([name, value]) => html`<dt key=${name}>${name}</dt><dd>${String(value)}</dd>`)}</dl></section>`}
      <p class="soft small"><kbd>←</kbd> <kbd>→</kbd> next hit · <kbd>h</kbd> what counted · <kbd>r</kbd> region · <kbd>z</kbd> undo · <kbd>Esc</kbd> back</p>
    </aside>
  </div>`;
}

function Film({ src }) {
  const [bad, fail] = useState(false);
  return bad ? html`<p class="soft small">This browser cannot play its video.</p>` : html`<video class="own" controls preload="metadata" src=${src} onError=${() => fail(true)}></video>`;
}

function Caption({ caption, save }) {
  const [editing, edit] = useState(false);
  const [text, setText] = useState("");
  const submit = (e) => { e.preventDefault(); edit(false); if (text.trim() !== (caption?.text ?? "")) save(text.trim()); };
  if (editing) return html`<form class="stack tight" onSubmit=${submit}><textarea rows="3" aria-label="Caption" value=${text} onInput=${(e) => setText(e.target.value)} ref=${(el) => el && !el.dataset.seen && ((el.dataset.seen = 1), el.focus())}></textarea>
    <div class="row"><button class="main">Save</button><button type="button" onClick=${() => edit(false)}>Cancel</button></div></form>`;
  const start = () => { setText(caption?.text ?? ""); edit(true); };
  return html`<div class="caption">${caption?.text ? html`<p>${caption.text}</p>${caption.machine && html`<span class="chip" title="Written by a network, not by a person">machine-written</span>`}` : html`<p class="soft">No caption.</p>`}
    <button class="plain icon" aria-label=${caption?.text ? "Correct the caption" : "Write a caption"} onClick=${start}><${Icon} name="pencil"/></button></div>`;
}

function Labels({ labels, save }) {
  const [text, setText] = useState("");
  const add = (e) => {
    e.preventDefault();
    const name = text.trim();
    if (name && !labels.includes(name)) save([...labels, name], `Label ${name} added.`);
    setText("");
  };
  return html`<div class="row">${labels.map((name) => html`<span class="chip" key=${name}>${name}<button aria-label=${`Remove the label ${name}`} onClick=${() => save(labels.filter((one) => one !== name), `Label ${name} removed.`)}><${Icon} name="close"/></button></span>`)}
    <form class="row" onSubmit=${add}><input class="short" aria-label="Add a label" placeholder="Add a label" value=${text} onInput=${(e) => setText(e.target.value)}/></form></div>`;
}

/* What your own runs answer: asked for one run at a time, since its net has to be opened. */
function Runs({ runs, library, id, answer, hear, keep }) {
  const [waiting, wait] = useState("");
  const [error, fail] = useState(null);
  const done = runs.filter((one) => one.state === "done" && one.sees);
  if (!done.length) return null;
  const ask = async (name) => {
    fail(null);
    hear(null);
    if (answer?.run === name) return;
    wait(name);
    const form = new FormData();
    form.append("library", library);
    form.append("id", id);
    try { hear({ run: name, ...(await post(run(name, "predict"), form)) }); } catch (problem) { fail(problem); }
    wait("");
  };
  return html`<section class="stack tight"><h2>What your runs say</h2>
    <div class="row">${done.map((one) => html`<button class="chip" key=${one.name} aria-pressed=${answer?.run === one.name} disabled=${Boolean(waiting)} onClick=${() => ask(one.name)}>${one.name}</button>`)}</div>
    <div aria-live="polite">${waiting ? html`<p class="soft small">Asking ${waiting} …</p>` : answer && html`<p class="small">${answer.text}</p>`}</div>
    ${answer?.boxes?.length > 0 && html`<div><button onClick=${() => keep(answer.boxes)}>Keep its ${count(answer.boxes.length, "box", "boxes")}</button></div>`}
    ${error && html`<${Wrong} error=${error}/>`}
  </section>`;
}

function BoxName({ save }) {
  const [name, setName] = useState("");
  return html`<form class="row" onSubmit=${(e) => { e.preventDefault(); if (name.trim()) save(name.trim()); }}><input class="short" aria-label="What is in the box" placeholder="or name what it shows" value=${name} onInput=${(e) => setName(e.target.value)}/><button disabled=${!name.trim()}>Add box</button></form>`;
}
