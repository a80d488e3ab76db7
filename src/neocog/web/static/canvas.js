// What is drawn over a picture: a region that is marked, boxes, a map of what counts.
import { picture } from "./api.js";
import { html, useRef, useState } from "./lib.js";

const clamp = (v) => Math.max(0, Math.min(1, v));
const placed = ([x0, y0, x1, y1]) => ({ left: `${100 * x0}%`, top: `${100 * y0}%`, width: `${100 * (x1 - x0)}%`, height: `${100 * (y1 - y0)}%` });

/* A picture on which a box is drawn, [x0, y0, x1, y1] in fractions: by pointer, or with the arrow keys (shift: its size). */
export function Marker({ src, alt, box, draw, active = true, children }) {
  const ref = useRef();
  const from = useRef(null);
  const point = (e) => {
    const r = ref.current.getBoundingClientRect();
    return [clamp((e.clientX - r.left) / r.width), clamp((e.clientY - r.top) / r.height)];
  };
  const start = (e) => {
    if (!active || e.button) return;
    e.preventDefault();
    ref.current.focus({ preventScroll: true });
    ref.current.setPointerCapture(e.pointerId);
    from.current = point(e);
  };
  const drag = (e) => {
    if (!from.current) return;
    const [x, y] = point(e);
    const [a, b] = from.current;
    draw([Math.min(a, x), Math.min(b, y), Math.max(a, x), Math.max(b, y)], false);
  };
  const end = (e) => {
    if (!from.current) return;
    drag(e);
    from.current = null;
    if (box) draw(box[2] - box[0] > 0.02 && box[3] - box[1] > 0.02 ? box : null, true);
  };
  const pressed = (e) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
    if (!active || !step || e.altKey || e.ctrlKey || e.metaKey) return;
    e.preventDefault();
    e.stopPropagation();
    const [x0, y0, x1, y1] = box ?? [0.25, 0.25, 0.75, 0.75];
    const [dx, dy] = box ? step.map((s) => s * 0.02) : [0, 0];
    if (e.shiftKey) draw([x0, y0, clamp(Math.max(x0 + 0.04, x1 + dx)), clamp(Math.max(y0 + 0.04, y1 + dy))], true);
    else {
      const [mx, my] = [Math.max(-x0, Math.min(1 - x1, dx)), Math.max(-y0, Math.min(1 - y1, dy))];
      draw([x0 + mx, y0 + my, x1 + mx, y1 + my], true);
    }
  };
  return html`<div class="marker" data-active=${active} ref=${ref} tabindex=${active ? 0 : -1} role=${active ? "group" : undefined}
      aria-label=${active ? "Mark a region: drag, or move it with the arrow keys, and size it with shift and the arrow keys" : undefined}
      onPointerDown=${start} onPointerMove=${drag} onPointerUp=${end} onPointerCancel=${() => (from.current = null)} onKeyDown=${pressed}>
    <img src=${src} alt=${alt} draggable=${false}/>
    ${children}
    ${box && html`<span class="region" style=${placed(box)}></span>`}
  </div>`;
}

export function RegionPicker({ src, box, done }) {
  const [marked, mark] = useState(box ?? null);
  return html`<div class="stack">
    <p class="soft">Drag over the part that counts. Only this part is compared.</p>
    <${Marker} src=${src} alt="The example" box=${marked} draw=${mark}/>
    <div class="row"><button class="main" onClick=${() => done(marked)}>${marked ? "Use this region" : "Use all of it"}</button>
      ${marked && html`<button onClick=${() => mark(null)}>All of it</button>`}</div>
  </div>`;
}

/* Named boxes over a picture: [{box: fractions, text}]. */
export const Boxes = ({ boxes, chosen, choose }) => boxes.map((one, i) => html`
  <button key=${i} class="found" style=${placed(one.box)} aria-pressed=${chosen === i} onPointerDown=${(e) => e.stopPropagation()} onClick=${() => choose?.(i)}>
    <span>${one.text}</span></button>`);

/* What counted in a picture, laid over it; the first one takes a while, because the net must be opened. */
export function Heat({ library, id, what }) {
  const [state, set] = useState("Looking …");
  return html`<img class="heat" src=${picture(library, id, "heatmap", { what })} alt=${state ? "" : `What counted for ${what}, bright where it counted most`} onLoad=${() => set("")} onError=${() => set(`The net cannot show what counted for ${what}.`)}/>
    ${state && html`<span class="heat-state" role="status">${state}</span>`}`;
}
