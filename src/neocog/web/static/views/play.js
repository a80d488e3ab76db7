// Play: a small net on a known set of pictures, from a form; it trains as every other run does, and is watched here.
import { post } from "../api.js";
import { html, say, useState } from "../lib.js";
import { Training } from "./training.js";

const SETS = { digits: "Handwritten digits, 8 × 8", "drawn:n=2000,size=32,task=shape": "Drawn shapes, 32 × 32", cifar10: "CIFAR-10, 32 × 32" };

export function Play(props) {
  const { jobs, state } = props;
  const [data, setData] = useState("digits");
  const [layers, setLayers] = useState([{ filters: 16, size: 3, pool: true }, { filters: 32, size: 3, pool: true }]);
  const [rate, setRate] = useState("0.1");
  const [batch, setBatch] = useState("64");
  const [epochs, setEpochs] = useState("10");
  const [run, watch] = useState("");
  const change = (i, values) => setLayers(layers.map((one, k) => (k === i ? { ...one, ...values } : one)));
  const submit = async (e) => {
    e.preventDefault();
    try {
      const job = await post("jobs", { kind: "train", data, layers, rate: Number(rate), batch: Number(batch), epochs: Number(epochs) });
      jobs.watch(job);
      watch(job.run);
    } catch (error) { say(error.message); }
  };
  const sets = Object.entries(SETS).filter(([name]) => name !== "cifar10" || (state.data ?? []).includes("cifar10"));
  return html`<div class="stack"><div><h1>Play with a small net</h1><p class="soft narrow">Choose its layers, how fast it learns, and on what. It trains in seconds, and everything it does can be watched.</p></div>
    <div class="playing" data-run=${Boolean(run)}><form class="card settings" onSubmit=${submit}>
      <div class="row"><label class="field">Pictures<select value=${data} onChange=${(e) => setData(e.target.value)}>${sets.map(([name, text]) => html`<option key=${name} value=${name}>${text}</option>`)}</select></label>
        <label class="field">Learning rate<input class="short" type="number" min="0.0001" max="2" step="any" value=${rate} onInput=${(e) => setRate(e.target.value)}/></label>
        <label class="field">Batch<input class="short" type="number" min="4" max="1024" value=${batch} onInput=${(e) => setBatch(e.target.value)}/></label>
        <label class="field">Epochs<input class="short" type="number" min="1" max="200" value=${epochs} onInput=${(e) => setEpochs(e.target.value)}/></label></div>
      <fieldset class="layer-list"><legend>Layers</legend>${layers.map((one, i) => html`<div class="row" key=${i}><b class="number">${i + 1}</b>
          <label class="row">filters <input class="tiny" type="number" min="1" max="256" value=${one.filters} onInput=${(e) => change(i, { filters: Number(e.target.value) })}/></label>
          <label class="row">of <select value=${one.size} onChange=${(e) => change(i, { size: Number(e.target.value) })}>${[1, 3, 5, 7].map((n) => html`<option key=${n} value=${n}>${n} × ${n}</option>`)}</select></label>
          <label class="row"><input type="checkbox" checked=${one.pool} onChange=${(e) => change(i, { pool: e.target.checked })}/> then pooling</label>
          ${layers.length > 1 && html`<button type="button" class="plain" aria-label=${`Remove layer ${i + 1}`} onClick=${() => setLayers(layers.filter((_, k) => k !== i))}>Remove</button>`}</div>`)}
        ${layers.length < 6 && html`<button type="button" onClick=${() => setLayers([...layers, { filters: 32, size: 3, pool: false }])}>Add a layer</button>`}</fieldset>
      <div><button class="main">Train</button></div></form>
    ${run && html`<${Training} ...${props} route=${{ view: "training", arg: run, params: {} }}/>`}</div>
  </div>`;
}
