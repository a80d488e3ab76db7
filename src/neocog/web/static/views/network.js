// Network: what a trained net is made of, and what each part of it sees in a picture.
import { get, picture, post, run as at } from "../api.js";
import { Marker } from "../canvas.js";
import { Bars, Empty, Icon, Wrong, count, go, html, link, say, useEffect, useLoad, useRef, useState } from "../lib.js";

export function Network({ route, library, state }) {
  const runs = useLoad((signal) => get("runs", {}, signal), []);
  const list = (runs.value?.runs ?? []).filter((one) => one.state === "done");
  const name = route.arg || list[0]?.name;
  if (runs.error) return html`<${Wrong} error=${runs.error} again=${runs.again}/>`;
  if (!runs.value) return html`<p class="soft">Loading …</p>`;
  if (!name) return html`<${Empty} title="No network yet"><p class="soft">Train one, and it can be looked into here.</p><a class="button main" href=${link("play")}>Play with a small net</a><//>`;
  return html`<div class="stack"><div class="row"><h1>Look inside</h1><select aria-label="Network" value=${name} onChange=${(e) => go("network", e.target.value)}>${list.map((one) => html`<option key=${one.name}>${one.name}</option>`)}</select></div>
    <${Inside} key=${name} name=${name} library=${library} picture=${route.params.picture}/></div>`;
}

function Inside({ name, library, picture: first }) {
  const net = useLoad((signal) => get(at(name, "network"), {}, signal), [name]);
  const [layer, setLayer] = useState(null);
  const [unit, setUnit] = useState(null);
  const [shown, show] = useState(first ? { library, id: first, url: picture(library, first, "thumbnail", { size: 640 }) } : null);
  const [box, cover] = useState(null);
  const [film, shoot] = useState(false);
  const file = useRef();
  const asked = JSON.stringify([shown?.url, layer, unit, box]);
  const seen = useLoad(async (signal) => {
    if (!shown) return null;
    const form = new FormData();
    if (shown.file) form.append("picture", shown.file, "picture");
    else { form.append("library", shown.library); form.append("id", shown.id); }
    if (layer) form.append("layer", layer);
    if (unit !== null) form.append("unit", unit);
    if (box) form.append("cover", box.join());
    return post(at(name, "look"), form, {}, signal);
  }, [name, asked]);
  const one = useLoad((signal) => (layer && unit !== null ? get(at(name, "units", layer, unit), { library }, signal) : null), [name, layer, unit]);
  const random = async () => {
    const { total } = await get(`libraries/${encodeURIComponent(library)}/search`, { limit: 1 });
    const { hits } = await get(`libraries/${encodeURIComponent(library)}/search`, { limit: 1, offset: Math.floor(Math.random() * total) });
    if (hits[0]) { cover(null); show({ library, id: hits[0].id, url: picture(library, hits[0].id, "thumbnail", { size: 640 }) }); }
  };
  useEffect(() => { if (!shown && library) random().catch(() => {}); }, []);
  if (net.error) return html`<${Wrong} error=${net.error} again=${net.again}/>`;
  if (!net.value) return html`<p class="soft">Reading the network …</p>`;
  const { layers, advice = [], facts = {}, svg } = net.value;
  const chosen = layers.find((l) => l.name === layer);
  const pick = (blob) => { cover(null); show({ file: blob, url: URL.createObjectURL(blob) }); };
  return html`
    <${Skyline} layers=${layers} layer=${layer} choose=${(l) => { setLayer(l === layer ? null : l); setUnit(null); }}/>
    <div class="two wide">
      <div class="stack">
        <div class="row">${library && html`<button onClick=${() => random().catch((e) => say(e.message))}>Another picture</button>`}<button onClick=${() => file.current.click()}><${Icon} name="image"/>Your picture</button><button aria-pressed=${film} onClick=${() => shoot(!film)}><${Icon} name="camera"/>Camera</button>
          <input ref=${file} type="file" accept="image/*" hidden onChange=${(e) => { if (e.target.files[0]) pick(e.target.files[0]); e.target.value = ""; }}/></div>
        ${film && html`<${Webcam} pick=${pick} close=${() => shoot(false)}/>`}
        ${shown && html`<div class="two look"><figure class="stack tight"><div class="stage"><${Marker} src=${shown.url} alt="The picture that is looked at" box=${box} draw=${cover}/></div>
            <figcaption class="soft small">${box ? html`The marked part is covered. <button class="chip" onClick=${() => cover(null)}>Uncover</button>` : "Mark a part to cover it, and see what changes."}</figcaption></figure>
          <figure class="stack tight"><div class="stage">${seen.value?.map && html`<img class="wide" src=${seen.value.map} alt=${seen.value.told ?? "What speaks for the answer"}/>`}</div><figcaption class="soft small">${seen.loading ? "Looking …" : seen.value?.told}</figcaption></figure></div>`}
        ${seen.error && html`<${Wrong} error=${seen.error}/>`}
        ${seen.value?.answers && html`<section class="stack tight"><h2>What it answers</h2><div class="two"><${Bars} items=${seen.value.answers.map((a) => [a.name, a.probability])}/>
          ${seen.value.covered && html`<div><p class="soft small">with the marked part covered</p><${Bars} items=${seen.value.covered.map((a) => [a.name, a.probability])}/></div>`}</div></section>`}
        ${chosen && seen.value?.units?.length > 0 && html`<section class="stack tight"><h2>${chosen.name}: the most active units</h2><div class="units">${seen.value.units.map((u) => html`<button key=${u.unit} aria-pressed=${unit === u.unit} onClick=${() => setUnit(unit === u.unit ? null : u.unit)} aria-label=${`Unit ${u.unit}, activation ${u.value.toFixed(2)}`}><img class="pixels" src=${u.map} alt=""/><span class="number">${u.unit}</span></button>`)}</div></section>`}
        ${unit !== null && html`<section class="stack tight"><h2>Unit ${unit} of ${layer}</h2>${one.loading ? html`<p class="soft">Searching what excites it …</p>` : one.error ? html`<${Wrong} error=${one.error}/>` : one.value && html`
          ${one.value.field && html`<p class="soft small">It sees ${one.value.field} pixels of the input.</p>`}
          <ul class="strip">${(one.value.patches ?? []).map((p, i) => html`<li key=${i}><img class="pixels" src=${p.picture} alt=${`Patch with activation ${p.value.toFixed(2)}`}/><span class="small soft number">${p.value.toFixed(2)}</span></li>`)}</ul>
          ${one.value.weights?.length > 0 && html`<h3>What it listens to</h3><ul class="bars">${one.value.weights.map((w) => html`<li key=${w.unit}><span>unit ${w.unit} of ${w.layer}</span><span class="bar" aria-hidden="true"><i style=${{ width: `${100 * Math.abs(w.share)}%` }}></i></span><span>${w.share.toFixed(2)}</span></li>`)}</ul>`}`}</section>`}
        ${svg && html`<${Drawing} svg=${svg} name=${name}/>`}
      </div>
      <aside class="stack"><section class="card stack tight"><h2>In numbers</h2><dl class="facts">${Object.entries(facts).map(([k, v]) => html`<dt key=${k}>${k}</dt><dd class="number">${v}</dd>`)}</dl></section>
        ${chosen && html`<section class="card stack tight"><h2>${chosen.name}</h2><dl class="facts"><dt>kind</dt><dd>${chosen.kind}</dd><dt>output</dt><dd class="number">${chosen.shape.join(" × ")}</dd>${chosen.params !== undefined && html`<dt>parameters</dt><dd class="number">${chosen.params.toLocaleString("en")}</dd>`}${chosen.field && html`<dt>receptive field</dt><dd class="number">${chosen.field}</dd>`}</dl></section>`}
        <section class="card stack tight"><h2>Advice</h2>${advice.length ? html`<ul class="findings">${advice.map((a, i) => html`<li key=${i}><b>${a.title}</b><p class="soft small">${a.text}</p></li>`)}</ul>` : html`<p class="soft small">Nothing stands out.</p>`}</section></aside>
    </div>`;
}

function Drawing({ svg, name }) {
  const [url, set] = useState("");
  useEffect(() => {
    const made = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
    set(made);
    return () => URL.revokeObjectURL(made);
  }, [svg]);
  return html`<section class="stack tight"><h2>The drawing</h2><div class="drawing" tabindex="0" role="region" aria-label="Drawing of the network">${url && html`<img src=${url} alt=${`The layers of ${name}, drawn to scale`}/>`}</div></section>`;
}

/* The layers as a skyline: as high as their map, as wide as their channels; one to choose. */
function Skyline({ layers, layer, choose }) {
  const high = Math.max(...layers.map((l) => l.shape[1] ?? 1));
  return html`<div class="skyline" role="group" aria-label=${`${count(layers.length, "layer")}, from the picture to the answer`}>${layers.map((l) => html`
    <button key=${l.name} aria-pressed=${layer === l.name} title=${`${l.name}: ${l.kind}, ${l.shape.join(" × ")}`} aria-label=${`${l.name}, ${l.kind}, ${l.shape.join(" by ")}`} onClick=${() => choose(l.name)}>
      <i style=${{ height: `${Math.max(4, (120 * Math.sqrt(l.shape[1] ?? 1)) / Math.sqrt(high))}px`, width: `${4 + 3 * Math.log2(1 + l.shape[0])}px` }}></i></button>`)}</div>`;
}

function Webcam({ pick, close }) {
  const video = useRef();
  const [error, fail] = useState(null);
  useEffect(() => {
    let stream;
    let gone = false;
    (navigator.mediaDevices?.getUserMedia({ video: { width: 640 } }) ?? Promise.reject(new Error("This browser gives no camera to this page."))).then((s) => {
      stream = s;
      if (gone) s.getTracks().forEach((t) => t.stop());
      else video.current.srcObject = s;
    }, (e) => fail(e.name === "NotAllowedError" ? new Error("The camera was not allowed.") : e));
    return () => { gone = true; stream?.getTracks().forEach((t) => t.stop()); };
  }, []);
  const shoot = () => {
    const c = document.createElement("canvas");
    c.width = video.current.videoWidth;
    c.height = video.current.videoHeight;
    c.getContext("2d").drawImage(video.current, 0, 0);
    c.toBlob((blob) => blob && pick(blob), "image/jpeg", 0.9);
  };
  return error ? html`<${Wrong} error=${error} again=${close}/>` : html`<div class="stack tight"><video class="own" ref=${video} autoplay playsinline muted></video><div class="row"><button class="main" onClick=${shoot}>Take a picture</button><button onClick=${close}>Close</button></div></div>`;
}
