// The map: every picture as a point, near to what it resembles. Drag to move, wheel to zoom, lasso to choose.
import { get, lib, picture } from "../api.js";
import { Empty, Icon, Wrong, count, html, link, useEffect, useLayoutEffect, useLoad, useRef, useSize, useState } from "../lib.js";
import { JobLine } from "./jobs.js";
import { TeachDialog } from "./teach.js";

const THUMBS = 160; // pictures that are drawn as pictures at once

export function MapView({ library, again, jobs }) {
  const map = useLoad((signal) => get(lib(library, "map"), {}, signal), [library]);
  const making = map.value?.job && jobs.list.find((job) => job.id === map.value.job.id);
  useEffect(() => { if (map.value?.job) jobs.watch(map.value.job); }, [map.value]);
  useEffect(() => { if (making?.state === "done") map.again(); }, [making?.state]);
  if (map.error) return html`<${Wrong} error=${map.error} again=${map.again}/>`;
  if (!map.value?.ids) return html`<div class="card narrow" aria-live="polite">${making ? html`<${JobLine} job=${making}/>` : "Laying out the pictures …"}</div>`;
  if (!map.value.ids.length) return html`<${Empty} title="No map yet"><p class="soft">The pictures have no vectors to be laid out by.</p><//>`;
  return html`<${Plane} library=${library} map=${map.value} again=${again}/>`;
}

function Plane({ library, map, again }) {
  const ref = useRef();
  const canvas = useRef();
  const { width } = useSize(ref);
  const height = Math.max(320, Math.min(innerHeight - 230, 900));
  const [lasso, setLasso] = useState(false);
  const [inside, choose] = useState([]);
  const [teaching, teach] = useState(false);
  const view = useRef({ x: 0.5, y: 0.5, zoom: 1 });
  const loop = useRef(null); // what the lasso has gone around
  const images = useRef(new Map());
  const { ids, x, y } = map;

  const scale = () => Math.min(width, height) * 0.92 * view.current.zoom;
  const at = (i) => [(x[i] - view.current.x) * scale() + width / 2, (y[i] - view.current.y) * scale() + height / 2];
  const draw = () => {
    const c = canvas.current;
    if (!c || !width) return;
    const dense = devicePixelRatio || 1;
    if (c.width !== Math.round(width * dense)) c.width = Math.round(width * dense);
    if (c.height !== Math.round(height * dense)) c.height = Math.round(height * dense);
    const g = c.getContext("2d");
    const css = getComputedStyle(document.documentElement);
    g.setTransform(dense, 0, 0, dense, 0, 0);
    g.clearRect(0, 0, width, height);
    const marked = new Set(inside);
    g.fillStyle = css.getPropertyValue("--edge");
    const near = [];
    const size = ids.length > 20000 ? 2 : 3;
    for (let i = 0; i < ids.length; i++) {
      const [px, py] = at(i);
      if (px < -40 || py < -40 || px > width + 40 || py > height + 40) continue;
      near.push(i);
      g.fillRect(px - size / 2, py - size / 2, size, size);
    }
    // as many pictures as there is room for, no two over one another; the same ones stay while the map moves
    const side = Math.max(34, Math.min(96, 30 * Math.sqrt(view.current.zoom)));
    const taken = new Set();
    let drawn = 0;
    for (const i of near) {
      const cell = `${Math.floor((x[i] * scale()) / (side * 1.15))},${Math.floor((y[i] * scale()) / (side * 1.15))}`;
      if (drawn >= THUMBS || taken.has(cell)) continue;
      taken.add(cell);
      drawn++;
      const image = thumbnail(i);
      const [px, py] = at(i);
      if (!image.complete || !image.naturalWidth) continue;
      const ratio = image.naturalWidth / image.naturalHeight;
      const [w, h] = ratio > 1 ? [side, side / ratio] : [side * ratio, side];
      g.drawImage(image, px - w / 2, py - h / 2, w, h);
    }
    g.fillStyle = g.strokeStyle = css.getPropertyValue("--accent");
    for (const i of near) if (marked.has(i)) { const [px, py] = at(i); g.fillRect(px - 3, py - 3, 6, 6); }
    if (loop.current) {
      g.lineWidth = 2;
      g.beginPath();
      loop.current.forEach(([px, py], k) => (k ? g.lineTo(px, py) : g.moveTo(px, py)));
      g.stroke();
    }
  };
  const queued = useRef(0);
  const later = () => { queued.current ||= requestAnimationFrame(() => { queued.current = 0; latest.current(); }); };
  const latest = useRef(draw);
  latest.current = draw;
  const thumbnail = (i) => {
    const kept = images.current;
    let image = kept.get(i);
    if (!image) {
      image = new Image();
      image.onload = later;
      image.src = picture(library, ids[i], "thumbnail", { size: 160 });
      kept.set(i, image);
      if (kept.size > 4 * THUMBS) kept.delete(kept.keys().next().value);
    }
    return image;
  };
  useLayoutEffect(draw, [width, height, inside]);
  useEffect(() => {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", later);
    const wheel = (e) => {
      e.preventDefault();
      const r = canvas.current.getBoundingClientRect();
      zoom(Math.exp(-e.deltaY * 0.0015), e.clientX - r.left, e.clientY - r.top);
    };
    canvas.current.addEventListener("wheel", wheel, { passive: false });
    const c = canvas.current;
    return () => { dark.removeEventListener("change", later); c.removeEventListener("wheel", wheel); };
  }, [width]);
  const zoom = (factor, px = width / 2, py = height / 2) => {
    const v = view.current;
    const before = scale();
    v.zoom = Math.max(0.7, Math.min(400, v.zoom * factor));
    v.x += (px - width / 2) * (1 / before - 1 / scale());
    v.y += (py - height / 2) * (1 / before - 1 / scale());
    later();
  };
  const pan = (dx, dy) => { view.current.x -= dx / scale(); view.current.y -= dy / scale(); later(); };
  const hold = useRef(null);
  const place = (e) => { const r = canvas.current.getBoundingClientRect(); return [e.clientX - r.left, e.clientY - r.top]; };
  const down = (e) => {
    canvas.current.setPointerCapture(e.pointerId);
    hold.current = { at: place(e), moved: 0 };
    if (lasso) loop.current = [place(e)];
  };
  const drag = (e) => {
    if (!hold.current) return;
    const [px, py] = place(e);
    const [ox, oy] = hold.current.at;
    hold.current.moved += Math.abs(px - ox) + Math.abs(py - oy);
    hold.current.at = [px, py];
    if (lasso) { loop.current.push([px, py]); later(); } else pan(px - ox, py - oy);
  };
  const up = (e) => {
    if (!hold.current) return;
    const [px, py] = place(e);
    if (lasso && loop.current.length > 3) {
      const around = loop.current;
      choose(ids.map((_, i) => i).filter((i) => within(at(i), around)));
    } else if (hold.current.moved < 5) {
      let best = -1, least = 30 ** 2;
      for (let i = 0; i < ids.length; i++) { const [ax, ay] = at(i); const d = (ax - px) ** 2 + (ay - py) ** 2; if (d < least) [best, least] = [i, d]; }
      choose(best >= 0 ? [best] : []);
    }
    hold.current = loop.current = null;
    later();
  };
  const pressed = (e) => {
    const by = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[e.key];
    if (by) pan(...by);
    else if (e.key === "+" || e.key === "=") zoom(1.3);
    else if (e.key === "-") zoom(1 / 1.3);
    else return;
    e.preventDefault();
  };
  return html`<div class="stack">
    <div class="plane" ref=${ref}><canvas ref=${canvas} style=${{ width: `${width}px`, height: `${height}px` }} data-lasso=${lasso} tabindex="0" role="application"
        aria-label=${`Map of ${count(ids.length, "picture")}; arrows move it, plus and minus zoom`}
        onPointerDown=${down} onPointerMove=${drag} onPointerUp=${up} onPointerCancel=${up} onKeyDown=${pressed}></canvas>
      <div class="tools row"><button aria-pressed=${lasso} onClick=${() => setLasso(!lasso)}>Lasso</button>
        <button class="icon" aria-label="Zoom in" onClick=${() => zoom(1.5)}>+</button><button class="icon" aria-label="Zoom out" onClick=${() => zoom(1 / 1.5)}>−</button></div></div>
    <p class="soft small">${map.method ? `${map.method}: near points look alike, distances between far ones mean little.` : ""} ${lasso ? "Draw around pictures to choose them." : "Drag to move, scroll to zoom, click a point to see it."}</p>
    ${inside.length > 0 && html`<section class="stack"><div class="row"><h2>${count(inside.length, "picture")} chosen</h2>
        <button class="main push" onClick=${() => teach(true)}>Teach a word</button><button class="icon plain" aria-label="Clear the choice" onClick=${() => choose([])}><${Icon} name="close"/></button></div>
      <ul class="strip">${inside.slice(0, 60).map((i) => html`<li key=${i}><a href=${link("picture", ids[i])}><img src=${picture(library, ids[i], "thumbnail", { size: 320 })} alt=${map.names?.[i] ?? "picture"} loading="lazy"/></a></li>`)}</ul></section>`}
    ${teaching && html`<${TeachDialog} library=${library} pictures=${inside.map((i) => ids[i])} close=${() => teach(false)} done=${again}/>`}
  </div>`;
}

function within([px, py], around) {
  let odd = false;
  for (let i = 0, j = around.length - 1; i < around.length; j = i++) {
    const [ax, ay] = around[i], [bx, by] = around[j];
    if (ay > py !== by > py && px < ((bx - ax) * (py - ay)) / (by - ay) + ax) odd = !odd;
  }
  return odd;
}
