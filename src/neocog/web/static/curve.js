// Curves, drawn by uPlot in the page's colours; a table of the same numbers for those who do not see them.
import { figure, html, useEffect, useRef, useSize, useState } from "./lib.js";
import UPlot from "./vendor/uplot.js";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const INK = ["--accent", "--second", "--soft", "--ink"];
const DASH = [[], [], [6, 4], [2, 3]];

export function useDark() {
  const [dark, set] = useState(matchMedia("(prefers-color-scheme: dark)").matches);
  useEffect(() => {
    const media = matchMedia("(prefers-color-scheme: dark)");
    const changed = () => set(media.matches);
    media.addEventListener("change", changed);
    return () => media.removeEventListener("change", changed);
  }, []);
  return dark;
}

/* x: {name, values}; lines: [{name, values}], as long as x, null where nothing is known. */
export function Curve({ title, x, lines, height = 220, log = false }) {
  const ref = useRef();
  const plot = useRef();
  const { width } = useSize(ref);
  const dark = useDark();
  const names = lines.map((one) => one.name).join();
  const data = [x.values, ...lines.map((one) => one.values)];
  useEffect(() => {
    if (!width) return;
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px 'Instrument Sans', sans-serif" };
    plot.current = new UPlot({
      width, height, padding: [8, 8, 0, 0], legend: { show: false }, cursor: { y: false, points: { size: 6 } },
      scales: { x: { time: false }, y: log ? { distr: 3 } : {} },
      axes: [{ ...axis, grid: { show: false }, space: 60, size: 28, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] }, { ...axis, size: 52, space: 36 }],
      series: [{}, ...lines.map((one, i) => ({ stroke: colour(INK[i % INK.length]), width: 2, dash: DASH[i % DASH.length], spanGaps: true, points: { show: x.values.length < 3 } }))],
    }, data, ref.current);
    document.fonts.ready.then(() => plot.current?.redraw(false, true)); // a canvas does not wait for its font
    return () => { plot.current.destroy(); plot.current = null; };
  }, [width, height, names, dark, log, x.values.length < 3]);
  useEffect(() => plot.current?.setData(data), [JSON.stringify(data.map((one) => [one.length, one.at(-1)]))]);
  const last = (one) => one.values.findLast((v) => v !== null && v !== undefined);
  return html`<figure class="curve"><figcaption class="row"><b>${title}</b>${lines.map((one, i) => html`<span key=${one.name} class="key" data-line=${i}><i></i>${one.name} <b class="number">${figure(last(one))}</b></span>`)}</figcaption>
    <div ref=${ref} role="img" aria-label=${`${title} by ${x.name}: ${lines.map((one) => `${one.name} now ${figure(last(one))}`).join(", ")}`}></div></figure>`;
}
