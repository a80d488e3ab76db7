// Preact with htm, and the few hooks that all views share.
import { Component, Fragment, createRef, h, render } from "./vendor/preact.js";
import { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./vendor/hooks.js";
import htm from "./vendor/htm.js";

export const html = htm.bind(h);
export { Component, Fragment, createRef, render, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState };

// ---- where we are: #/view/argument?name=value
export function here() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [view = "", ...rest] = path.split("/").map(decodeURIComponent);
  return { view: view || "search", arg: rest.join("/"), params: Object.fromEntries(new URLSearchParams(query)) };
}

export function link(view, arg = "", params = {}) {
  const kept = Object.entries(params).filter(([, value]) => value !== "" && value !== undefined && value !== null);
  const query = new URLSearchParams(kept).toString();
  return `#/${view}${arg ? "/" + encodeURIComponent(arg) : ""}${query ? "?" + query : ""}`;
}

export function go(view, arg, params, { replace = false } = {}) {
  const to = link(view, arg, params);
  if (!replace) location.hash = to;
  else {
    history.replaceState(null, "", to);
    dispatchEvent(new HashChangeEvent("hashchange"));
  }
}

export function useRoute() {
  const [route, setRoute] = useState(here);
  useLayoutEffect(() => {
    const changed = () => setRoute(here());
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return route;
}

// ---- what is being loaded: {value, error, loading}; an answer that comes too late is dropped, and an old value that is
// still shown is `loading` from the first moment
export function useLoad(load, deps) {
  const [state, setState] = useState({ of: [] });
  const [turn, setTurn] = useState(0);
  const of = [...deps, turn];
  useEffect(() => {
    const stop = new AbortController();
    Promise.resolve(load(stop.signal)).then(
      (value) => stop.signal.aborted || setState({ value, of }),
      (error) => stop.signal.aborted || setState({ error, of }),
    );
    return () => stop.abort();
  }, of);
  const loading = of.some((one, i) => one !== state.of[i]);
  return { value: state.value, error: state.error, loading, again: () => setTurn((n) => n + 1) };
}

export function useKeys(keys, deps) {
  useLayoutEffect(() => {
    const pressed = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
      if (document.querySelector("dialog[open]")) return;
      const typing = event.target.closest?.("input:not([type=checkbox], [type=range]), textarea, select");
      if (typing && event.key !== "Escape") return;
      if (event.key === "Enter" && event.target.closest?.("a, button, summary")) return;
      const action = keys[event.key];
      if (action && action(event) !== false) event.preventDefault();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, deps);
}

export function useSize(ref) {
  const [size, setSize] = useState({ width: 0, height: 0 });
  useLayoutEffect(() => {
    const seen = new ResizeObserver(([entry]) => {
      const { width, height } = entry.contentRect;
      setSize((old) => (Math.abs(old.width - width) < 1 && Math.abs(old.height - height) < 1 ? old : { width, height }));
    });
    seen.observe(ref.current);
    return () => seen.disconnect();
  }, []);
  return size;
}

// ---- one thing is said at a time; screen readers hear it, and it may be undone
let show = () => {};
export const said = { listen: (f) => (show = f) };
export const say = (text, undo) => show({ text, undo, at: Date.now() });

// ---- small parts
export const share = (p) => (p >= 0.995 ? "99 %" : p < 0.01 ? "< 1 %" : `${Math.round(100 * p)} %`);
export const count = (n, one, many) => `${Number(n).toLocaleString("en")} ${n === 1 ? one : (many ?? one + "s")}`;
export const clock = (s) => (s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`);
export const figure = (v) => (typeof v !== "number" ? String(v ?? "–") : !isFinite(v) ? "–" : Number.isInteger(v) ? v.toLocaleString("en") : Math.abs(v) < 0.001 ? v.toExponential(1) : v.toFixed(Math.abs(v) < 10 ? 3 : 1));
export const words = (name) => String(name).replaceAll("_", " ");

export const Bars = ({ items }) => html`<ul class="bars">
  ${items.map(([name, value, href]) => html`<li key=${name}>
    <span title=${name}>${href ? html`<a href=${href}>${name}</a>` : name}</span>
    <span class="bar" aria-hidden="true"><i style=${{ width: `${Math.min(100, 100 * value)}%` }}></i></span>
    <span>${share(value)}</span>
  </li>`)}
</ul>`;

export const Wrong = ({ error, again }) => html`<div class="note wrong" role="alert">
  <p>${error.message}</p>${again && html`<button onClick=${again}>Try again</button>`}
</div>`;

export const Empty = ({ title, children, art = true }) => html`<div class="empty">
  ${art && html`<svg viewBox="0 0 96 64" aria-hidden="true"><rect x="8" y="14" width="44" height="36" rx="4"/><rect x="30" y="6" width="44" height="36" rx="4"/><circle cx="64" cy="42" r="14"/><path d="m74 52 12 10"/></svg>`}
  <h2>${title}</h2>${children}
</div>`;

export function Dialog({ title, close, children }) {
  const ref = useRef();
  useEffect(() => {
    const before = document.activeElement;
    ref.current.showModal();
    return () => before?.focus?.();
  }, []);
  return html`<dialog ref=${ref} aria-label=${title} onClose=${close} onClick=${(e) => e.target === ref.current && close()}>
    <div class="stack"><h2>${title}</h2>${children}</div>
  </dialog>`;
}

const paths = {
  image: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.500 9.500h.01", close: "M6 6l12 12M18 6 6 18", back: "M15 5l-7 7 7 7", next: "M9 5l7 7-7 7",
  crop: "M7 3v14h14M3 7h14v14", eye: "M2 12s4-7 10-7 10 7 10 7-4 7-10 7S2 12 2 12zM12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6z",
  check: "M5 12l5 5L20 7", jobs: "M4 7h16M4 12h10M4 17h13", play: "M8 5l11 7-11 7z", pencil: "M4 20l1-5L16 4l4 4L9 19z", camera: "M4 8h4l2-3h4l2 3h4v11H4zM12 10a3.500 3.500 0 1 0 0 7 3.500 3.500 0 0 0 0-7z",
};
export const Icon = ({ name }) => html`<svg class="i" viewBox="0 0 24 24" width="18" height="18" fill="none" stroke="currentColor" stroke-width="1.700" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true"><path d=${paths[name]}/></svg>`;
