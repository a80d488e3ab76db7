// A grid of any number of pictures: only the rows that are seen are in the page, only the last pages in memory.
import { html, useEffect, useLayoutEffect, useRef, useSize, useState } from "./lib.js";

const PAGE = 60; // hits that are fetched at once
const KEPT = 40; // pages kept in memory
const GAP = 12;

/* Hits by their place in the answer; `load(offset, limit)` gives {total, hits}. Until the answer to a new `key` comes,
   the old one stays, so that nothing that has the focus vanishes, and `loading` says that it is old. */
export function useHits(load, key) {
  const pages = useRef(new Map());
  const [, turn] = useState(0);
  const [state, setState] = useState({});
  const loading = state.key !== key;
  useEffect(() => {
    const stop = new AbortController();
    load(0, PAGE, stop.signal).then(
      (first) => {
        if (stop.signal.aborted) return;
        pages.current = new Map([[0, first.hits]]);
        setState({ first, total: first.total, key });
      },
      (error) => stop.signal.aborted || setState({ error, key }),
    );
    return () => stop.abort();
  }, [key]);
  const at = (index) => {
    const page = Math.floor(index / PAGE);
    const kept = pages.current;
    const hits = kept.get(page);
    if (hits === undefined && !loading) {
      kept.set(page, null);
      load(page * PAGE, PAGE).then(
        (more) => {
          kept.set(page, more.hits);
          for (const old of kept.keys()) if (kept.size > KEPT && Math.abs(old - page) > 2) kept.delete(old);
          turn((n) => n + 1);
        },
        () => setTimeout(() => kept.delete(page), 2000),
      );
    }
    return hits?.[index - page * PAGE];
  };
  return { ...state, loading, at, again: () => turn((n) => n + 1) };
}

/* `cell(hit, index)` draws one; the first link or button in it takes the focus. `keys`: what a letter does to a hit. */
export function Grid({ hits, cell, label, least = 210, extra = 34, keys = {} }) {
  const ref = useRef();
  const { width } = useSize(ref);
  const [seen, see] = useState({ from: 0, to: 0 });
  const [active, setActive] = useState(0);
  const moved = useRef(false);
  const smallest = width < 480 ? 150 : least;
  const columns = Math.max(1, Math.floor((width + GAP) / (smallest + GAP)));
  const wide = (width - GAP * (columns - 1)) / columns;
  const high = wide * 0.75 + extra + GAP;
  const rows = Math.ceil(hits.total / columns);

  useLayoutEffect(() => {
    if (!width) return;
    let waiting = 0;
    const look = () => {
      waiting = 0;
      const top = -ref.current.getBoundingClientRect().top;
      const from = Math.max(0, Math.floor(top / high) - 1);
      const to = Math.min(rows, Math.ceil((top + innerHeight) / high) + 1);
      see((old) => (old.from === from && old.to === to ? old : { from, to }));
    };
    const later = () => { waiting ||= requestAnimationFrame(look); };
    look();
    addEventListener("scroll", later, { passive: true });
    addEventListener("resize", later);
    return () => {
      cancelAnimationFrame(waiting);
      removeEventListener("scroll", later);
      removeEventListener("resize", later);
    };
  }, [width, high, rows]);
  useLayoutEffect(() => setActive(0), [hits.key]);
  useLayoutEffect(() => {
    if (!moved.current) return;
    ref.current.querySelector(`[data-at="${active}"] a, [data-at="${active}"] button`)?.focus({ preventScroll: true });
    moved.current = false;
  }, [active, seen]);

  const move = (to) => {
    const next = Math.max(0, Math.min(hits.total - 1, to));
    const top = ref.current.getBoundingClientRect().top + Math.floor(next / columns) * high;
    if (top < 130 || top + high > innerHeight - 70) scrollBy({ top: top - innerHeight / 3 });
    moved.current = true;
    setActive(next);
  };
  const pressed = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
    if (event.key in steps) move(active + steps[event.key]);
    else if (event.key === "Home") move(0);
    else if (event.key === "End") move(hits.total - 1);
    else if (keys[event.key] && !hits.loading && hits.at(active)) keys[event.key](hits.at(active), active);
    else return;
    event.preventDefault();
  };
  const focused = (event) => {
    const at = event.target.closest("[data-at]")?.dataset.at;
    if (at !== undefined && !moved.current) setActive(Number(at));
  };
  const shown = [];
  for (let i = seen.from * columns; width && i < Math.min(hits.total, seen.to * columns); i++) {
    const place = { width: `${wide}px`, height: `${high - GAP}px`, transform: `translate(${(i % columns) * (wide + GAP)}px, ${Math.floor(i / columns) * high}px)` };
    const hit = hits.at(i);
    shown.push(html`<li key=${i} data-at=${i} style=${place} aria-setsize=${hits.total} aria-posinset=${i + 1}>
      ${hit ? cell(hit, i, i === active ? 0 : -1) : html`<span class="waiting"></span>`}</li>`);
  }
  return html`<ul class="grid" ref=${ref} style=${{ height: `${Math.max(0, rows * high)}px` }} aria-label=${label} aria-busy=${hits.loading}
    onKeyDown=${pressed} onFocusIn=${focused}>${shown}</ul>`;
}
