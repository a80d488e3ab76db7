// Jobs: what runs, how far it is, how to stop it; they go on when the page is closed.
import { get, listen, remove } from "../api.js";
import { Empty, clock, html, link, say, useCallback, useEffect, useRef, useState } from "../lib.js";

const DONE = ["done", "failed", "cancelled", "crashed"];
export const over = (job) => DONE.includes(job.state);

/* {list, watch(job), changed}: the jobs as they are now; those that run are followed. `changed` is another number when
   one has ended, for it may have changed what a library answers. */
export function useJobs() {
  const [list, setList] = useState([]);
  const [changed, change] = useState(0);
  const followed = useRef(new Map());
  const put = useCallback((job) => setList((old) => [job, ...old.filter((one) => one.id !== job.id)].sort((a, b) => b.started - a.started)), []);
  const watch = useCallback((job) => {
    put(job);
    if (over(job) || followed.current.has(job.id)) return;
    const came = (now) => {
      put(now);
      if (over(now)) {
        followed.current.get(job.id)?.();
        followed.current.delete(job.id);
        change((n) => n + 1);
        say(`${now.title}: ${now.state}`);
      }
    };
    followed.current.set(job.id, listen(`jobs/${encodeURIComponent(job.id)}/events`, { job: came }));
  }, []);
  useEffect(() => {
    get("jobs").then((found) => (found.jobs ?? found).forEach(watch), () => {});
    return () => followed.current.forEach((stop) => stop());
  }, []);
  return { list, watch, changed };
}

export function JobLine({ job }) {
  return html`<div class="job" data-state=${job.state}>
    <div class="row"><b>${job.title}</b><span class="soft">${job.state}</span>
      ${job.run && html`<a href=${link("training", job.run)}>Watch</a>`}
      ${job.kind === "predict" && job.state === "done" && html`<a href=${`api/jobs/${encodeURIComponent(job.id)}/answers`} download>The answers (JSONL)</a>`}
      ${!over(job) && html`<button class="push" onClick=${() => remove(`jobs/${encodeURIComponent(job.id)}`)}>Cancel</button>`}</div>
    ${!over(job) && html`<progress aria-label=${job.title} max="1" value=${job.progress ?? undefined}></progress>`}
    ${job.kind === "predict" && job.result && html`<p class="small">${Object.entries(job.result).slice(0, 8).map(([what, n]) => `${what} ${n.toLocaleString("en")}`).join(" · ")}</p>`}
    <p class=${job.error ? "note wrong" : "soft small"}>${job.error ?? (over(job) ? `started ${new Date(1000 * job.started).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })}` : job.message)}${!over(job) && job.left ? `, about ${clock(job.left)} left` : ""}</p>
  </div>`;
}

export function Jobs({ jobs }) {
  return html`<div class="stack narrow"><h1>Jobs</h1>
    ${jobs.list.length ? jobs.list.map((job) => html`<div class="card" key=${job.id}><${JobLine} job=${job}/></div>`)
      : html`<${Empty} title="Nothing runs"><p class="soft">Trainings and indexing that are started here show their progress on this page, and go on when it is closed.</p><//>`}
  </div>`;
}
