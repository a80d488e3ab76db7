// Training: runs as they are in their folders, whoever started them; curves, errors and filters while they learn.
import { get, listen, post, run as at } from "../api.js";
import { Curve } from "../curve.js";
import { Dialog, Empty, Wrong, count, figure, go, html, link, say, useEffect, useLoad, useState, words } from "../lib.js";
import { JobLine, over } from "./jobs.js";

const SHORT = { running: "running", stopped: "stopped", done: "done", failed: "failed" };

export function Training(props) {
  const { route } = props;
  if (route.params.compare) return html`<${Compare} key=${route.params.compare} names=${route.params.compare.split(",")}/>`;
  return route.arg ? html`<${Watch} key=${route.arg} ...${props} name=${route.arg}/>` : html`<${Runs} ...${props}/>`;
}

function Runs({ jobs, state, library }) {
  const found = useLoad((signal) => get("runs", {}, signal), [jobs.list.filter(over).length]);
  const [picked, pick] = useState([]);
  if (found.error) return html`<${Wrong} error=${found.error} again=${found.again}/>`;
  if (!found.value) return html`<p class="soft">Loading …</p>`;
  const runs = found.value.runs;
  const busy = jobs.list.filter((job) => job.kind === "train" && !over(job));
  return html`<div class="stack"><div class="row"><h1>Trainings</h1>
      ${picked.length > 1 && html`<a class="button push" href=${link("training", "", { compare: picked.join() })}>Compare ${picked.length}</a>`}</div>
    ${busy.map((job) => html`<div class="card" key=${job.id}><${JobLine} job=${job}/></div>`)}
    <details class="card"><summary>Train a network</summary><${TrainForm} state=${state} library=${library} jobs=${jobs}/></details>
    ${runs.length ? html`<div class="scroll"><table><thead><tr><th><span class="sr">Compare</span></th><th>Run</th><th class="roomy">Net</th><th class="roomy">Task</th><th class="number">Best so far</th><th>State</th></tr></thead>
      <tbody>${runs.map((one) => html`<tr key=${one.name}><td><input type="checkbox" aria-label=${`Compare ${one.name}`} checked=${picked.includes(one.name)} onChange=${(e) => pick(e.target.checked ? [...picked, one.name] : picked.filter((n) => n !== one.name))}/></td>
        <td><a href=${link("training", one.name)}><b>${one.name}</b></a><div class="soft small">${one.data ?? ""}</div></td><td class="roomy">${one.net}</td><td class="roomy">${one.task}</td>
        <td class="number">${one.best ? html`${figure(one.best.value)}<div class="soft small">${words(one.best.name)}</div>` : "–"}</td><td>${SHORT[one.state] ?? one.state}</td></tr>`)}</tbody></table></div>`
      : html`<${Empty} title="Nothing was trained yet"><p class="soft">Teach a word and train a network on it, play with a small net, or type <code>neocog train photos/</code>: its run appears here, too.</p><//>`}
  </div>`;
}

const TASKS = [["", "what the data says"], ["label", "one label"], ["tags", "several labels"], ["detect", "boxes"], ["locate", "the one box"], ["segment", "masks"], ["pose", "points"], ["number", "numbers"], ["match", "what belongs together"]];
/* The form that starts a training; `data`: on what, if that is settled. */
export function TrainForm({ data: given, state, library, jobs }) {
  const [data, setData] = useState(given ?? (library ? `library:${library}` : "digits"));
  const [minutes, setMinutes] = useState("3");
  const [net, setNet] = useState("");
  const [task, setTask] = useState("");
  const [error, fail] = useState(null);
  const [busy, work] = useState(false);
  const known = [...(library ? [`library:${library}`] : []), ...(state?.data ?? [])];
  const submit = async (e) => {
    e.preventDefault();
    work(true);
    try {
      const job = await post("jobs", { kind: "train", data, minutes: Number(minutes), ...(net && { net }), ...(task && { task }) });
      jobs.watch(job);
      go("training", job.run);
    } catch (problem) { fail(problem); work(false); }
  };
  return html`<form class="settings" onSubmit=${submit}><div class="row">
    ${!given && html`<label class="field">Pictures<input list="data" value=${data} onInput=${(e) => setData(e.target.value)} required/></label><datalist id="data">${known.map((one) => html`<option key=${one} value=${one}/>`)}</datalist>`}
    ${!given && html`<label class="field">To find<select value=${task} onChange=${(e) => setTask(e.target.value)}>${TASKS.map(([name, text]) => html`<option key=${name} value=${name}>${text}</option>`)}</select></label>`}
    <label class="field">Net<input value=${net} placeholder="chosen for you" onInput=${(e) => setNet(e.target.value)}/></label>
    <label class="field">Minutes<input type="number" min="0.01" max="600" step="any" class="short" value=${minutes} onInput=${(e) => setMinutes(e.target.value)}/></label></div>
    ${error && html`<${Wrong} error=${error}/>`}
    <div><button class="main" disabled=${busy}>Train</button></div></form>`;
}

/* The records of a run's log, followed while it runs. */
function useRun(name) {
  const [state, set] = useState({ loading: true });
  useEffect(() => {
    let stop = () => {};
    let gone = false;
    get(at(name)).then((found) => {
      if (gone) return;
      set({ value: found, records: found.records ?? [] });
      if (found.state !== "running") return;
      stop = listen(`${at(name)}/events?after=${(found.records ?? []).length}`, {
        record: (record) => set((old) => ({ ...old, records: [...old.records, record] })),
        state: (now) => { set((old) => ({ ...old, value: { ...old.value, ...now } })); if (now.state !== "running") stop(); },
      });
    }, (error) => gone || set({ error }));
    return () => { gone = true; stop(); };
  }, [name, state.turn]);
  return { ...state, again: () => set((old) => ({ ...old, turn: (old.turn ?? 0) + 1 })) };
}

const EARLY = ["loss", "accuracy"];
/* Two plots of what every epoch says: the loss, and the figure that is judged. */
function plots(records, goal) {
  const epochs = records.filter((one) => one.kind === "epoch");
  const judged = (goal ?? "val_accuracy").replace(/^(val|train)_/, "");
  const x = { name: "epoch", values: epochs.map((one) => one.epoch) };
  return [...new Set([...EARLY, judged])].map((what) => ({
    title: words(what), x,
    lines: ["val", "train"].map((split) => ({ name: split === "val" ? "validation" : "training", values: epochs.map((one) => one[`${split}_${what}`] ?? null) })).filter((line) => line.values.some((v) => v !== null)),
  })).filter((plot) => plot.lines.length);
}

function Watch({ name, jobs, library }) {
  const seen = useRun(name);
  const [asking, ask] = useState(false);
  const epochs = seen.records?.filter((one) => one.kind === "epoch").length ?? 0;
  const tens = Math.floor((seen.records?.findLast((one) => one.kind === "epoch")?.elapsed ?? 0) / 10);
  const errors = useLoad((signal) => (epochs || seen.value?.state === "done" ? get(at(name, "errors"), {}, signal) : null), [name, seen.value?.state, tens, epochs > 0]);
  if (seen.error) return html`<${Wrong} error=${seen.error} again=${seen.again}/>`;
  if (!seen.value) return html`<p class="soft">Loading …</p>`;
  const { value: found, records } = seen;
  const start = records.find((one) => one.kind === "start");
  const metrics = records.findLast((one) => one.kind === "metrics")?.metrics;
  const last = records.findLast((one) => one.kind === "epoch");
  const findings = records.filter((one) => one.kind === "diagnosis");
  const job = jobs.list.find((one) => one.run === name && !over(one));
  const act = async (what) => {
    try {
      const answer = await post(at(name, what));
      if (answer?.id) jobs.watch(answer);
      say(what === "stop" ? "It stops after this step; nothing is lost." : "It goes on where it stopped.");
      setTimeout(seen.again, 800);
    } catch (error) { say(error.message); }
  };
  const use = async () => {
    ask(false);
    try { jobs.watch(await post("jobs", { kind: "index", library, net: name })); say("The library is indexed with this net; search goes on meanwhile."); } catch (error) { say(error.message); }
  };
  const answer = async () => {
    try { jobs.watch(await post("jobs", { kind: "predict", library, run: name })); go("jobs"); } catch (error) { say(error.message); }
  };
  return html`<div class="stack" data-run=${found.state}>
    <div class="row"><div><h1 class="name">${name}</h1><p class="soft small">${[start?.net?.name ?? found.net, found.task ?? start?.task, start && `${count(start.params, "parameter")}`, start && `${count(start.train, "picture")}`].filter(Boolean).join(" · ")}</p></div>
      <span class="push"></span><span class="chip" data-state=${found.state}>${SHORT[found.state] ?? found.state}</span>
      ${found.state === "running" && html`<button onClick=${() => act("stop")}>Stop</button>`}${found.state === "stopped" && html`<button class="main" onClick=${() => act("resume")}>Resume</button>`}
      ${found.state === "done" && html`${library && html`<button onClick=${() => ask(true)}>Search with it</button>${found.sees && html`<button onClick=${answer}>Ask it about all pictures</button>`}`}<a class="button main" href=${link("network", name)}>Look inside</a>`}</div>
    ${job && html`<div class="stack tight"><progress aria-label="How far the training is" max="1" value=${job.progress ?? undefined}></progress><p class="soft small">${job.message}</p></div>`}
    ${found.error && html`<p class="note wrong">${found.error}</p>`}
    <dl class="big-facts numbers">${(metrics ? Object.entries(metrics).filter(([k, v]) => typeof v === "number" && /^(test|val)_(?!n$|classes)/.test(k)).slice(0, 4)
        : last ? [["epoch", last.epoch], ["validation loss", last.val_loss], [words(found.goal ?? "val_accuracy").replace(/^val /, "validation "), last[found.goal ?? "val_accuracy"]], ["pictures a second", last.pictures_per_second]].filter(([, v]) => v !== undefined) : [])
      .map(([k, v]) => html`<div key=${k}><dt>${words(k)}</dt><dd class="number">${figure(v)}</dd></div>`)}</dl>
    ${epochs ? html`<div class="two">${plots(records, found.goal).map((plot) => html`<div class="card" key=${plot.title}><${Curve} ...${plot}/></div>`)}</div>` : html`<p class="soft" aria-live="polite">${{ running: "The first epoch is under way …", done: "Its last layer was fitted in one step, so there are no curves." }[found.state] ?? "No epoch was finished."}</p>`}
    <div class=${epochs ? "two" : "stack"}>
      <div class="stack">${(epochs > 1 || found.state !== "running") && epochs > 0 && html`<section class="card stack"><h2>First-layer filters</h2><img class="pixels" key=${epochs} src=${`api/${at(name, "filters")}?at=${epochs}`} alt="The filters of the first layer as they are now" onError=${(e) => (e.target.hidden = true)} onLoad=${(e) => (e.target.hidden = false)}/></section>`}
        ${errors.value?.errors?.length > 0 && html`<section class="card stack"><h2>${found.state === "running" ? "Where it is wrong now, the surest first" : "Where it is wrong, the surest first"}</h2><ul class="errors">${errors.value.errors.slice(0, 36).map((one, i) => html`<li key=${i}><figure><img class="pixels" src=${one.picture} alt=${one.key ?? ""} loading="lazy"/><figcaption><b>${one.said}</b> ${one.probability !== undefined ? `${Math.round(100 * one.probability)} %` : ""}<br/><span class="soft">is ${one.true}</span></figcaption></figure></li>`)}</ul></section>`}</div>
      ${(findings.length > 0 || start?.notes?.length > 0) && html`<section class="card stack"><h2>What it says of itself</h2><ul class="findings">${findings.map((one) => html`<li key=${one.name}><b>${words(one.name)}: ${one.verdict}</b><p class="soft">${one.evidence}</p>${one.advice && html`<p>${one.advice}</p>`}</li>`)}${(start?.notes ?? []).map((note) => html`<li key=${note} class="soft small">${note}</li>`)}</ul></section>`}
    </div>
    ${asking && html`<${Dialog} title=${`Search ${library} with this net?`} close=${() => ask(false)}><p>All pictures are looked at once more. From then on the library is searched with what this net knows: ${(found.classes ?? []).slice(0, 8).join(", ")}${found.classes?.length > 8 ? ", …" : ""}. Other words are found by sentence and in texts only.</p>
      <p class="soft">Nothing is lost: Filters, on the search page, goes back to the net before.</p><div class="row"><button class="main" onClick=${use}>Search with it</button><button onClick=${() => ask(false)}>Keep the net as it is</button></div><//>`}
    ${found.report && html`<p><a href=${`api/${at(name, "report")}`}>The whole report</a></p>`}
  </div>`;
}

function Compare({ names }) {
  const found = useLoad((signal) => Promise.all(names.map((name) => get(at(name), {}, signal))), [names.join()]);
  if (found.error) return html`<${Wrong} error=${found.error} again=${found.again}/>`;
  if (!found.value) return html`<p class="soft">Loading …</p>`;
  const all = found.value.map((one, i) => ({ name: names[i], epochs: (one.records ?? []).filter((r) => r.kind === "epoch"), metrics: (one.records ?? []).findLast((r) => r.kind === "metrics")?.metrics ?? {} }));
  const x = [...new Set(all.flatMap((one) => one.epochs.map((e) => e.epoch)))].sort((a, b) => a - b);
  const lines = (what) => all.map((one) => ({ name: one.name, values: x.map((v) => one.epochs.find((e) => e.epoch === v)?.[what] ?? null) })).filter((line) => line.values.some((v) => v !== null));
  const kinds = [...new Set(all.flatMap((one) => Object.keys(one.metrics)))].filter((k) => /^(test|val)_/.test(k) && all.some((one) => typeof one.metrics[k] === "number"));
  return html`<div class="stack"><h1>${names.length} trainings side by side</h1>
    <div class="two">${["val_loss", "val_accuracy"].map((what) => lines(what).length > 0 && html`<div class="card" key=${what}><${Curve} title=${words(what).replace("val", "validation")} x=${{ name: "epoch", values: x }} lines=${lines(what)}/></div>`)}</div>
    <div class="scroll"><table><thead><tr><th>Figure</th>${names.map((name) => html`<th class="number" key=${name}><a href=${link("training", name)}>${name}</a></th>`)}</tr></thead>
      <tbody>${kinds.map((k) => html`<tr key=${k}><th scope="row">${words(k)}</th>${all.map((one) => html`<td class="number" key=${one.name}>${figure(one.metrics[k])}</td>`)}</tr>`)}</tbody></table></div></div>`;
}
