"""What a collection is like as a whole: how much, when, where, with which words; all that is known of a picture; and
what may be typed next into a query."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from neocog.data.stores import is_sound, is_video, moment, told
from neocog.library.describe import describe, nearest_to
from neocog.library.folders import folders
from neocog.library.gallery import row_of
from neocog.library.query import FIELDS, HAS
from neocog.library.rows import SCHEMA
from neocog.library.sentences import witness_of
from neocog.library.store import Store
from neocog.library.terms import typed
from neocog.library.view import View, view_of
from neocog.names import shown

_COMMON = 200  # names of a kind that are listed, the most frequent first
_CELL = 0.25  # degrees: pictures in the same cell are one place of `places`


def overview(store: Store) -> dict[str, Any]:
    """Return counts of pictures, folders, labels, tags, cameras, dates, what is taught, and the nets that saw them."""
    view = view_of(store)
    table = view.table
    taken = view.taken
    known = taken[~np.isnat(taken)]
    return {
        "pictures": len(view),
        "holds": store.holds(),
        "files": int(pc.sum(pc.list_value_length(table.column("paths"))).as_py() or 0),
        "problems": len(store.problems()),
        "version": view.version,
        "read_only": store.read_only,
        "unfinished": store.unfinished_note(),
        "folders": [
            {"name": shown(str(one.path)), "pictures": one.pictures, "there": one.there} for one in folders(store)
        ],
        "labels": _counted(table.column("labels")),
        "tags": _counted(table.column("tags")),
        "keywords": _counted(table.column("keywords")),
        "cameras": _counted(table.column("camera")),
        "taught": list(store.load("taught", {})),
        "model": store.model,
        "models": list(store.models()),
        "sounds": list(store.models_of(sounds=True)),
        "hears": store.model_of(sounds=True),
        "dates": {"first": _day(known.min()), "last": _day(known.max()), "known": len(known)} if len(known) else None,
        "positions": int(pc.count(table.column("latitude")).as_py()),
        "witnesses": witnesses(view),
    }


def witnesses(view: View) -> dict[str, bool]:
    """Return what a search can ask here: vectors, concepts, sentence, text, taught."""
    model = view.model()
    return {
        "vectors": model is not None,
        "concepts": model is not None and view.vocabulary(model) is not None,
        "sentence": model is not None and witness_of(view) is not None,
        "text": len(view.text.words) > 0,
        "taught": bool(view.store.load("taught", {})),
    }


def timeline(store: Store) -> dict[str, Any]:
    """Return {"months": [{"month": "2023-05", "count": 12}, ...], "undated": 3}: when pictures were taken."""
    taken = view_of(store).taken
    months, counts = np.unique(taken[~np.isnat(taken)].astype("datetime64[M]"), return_counts=True)
    return {
        "months": [{"month": str(m), "count": int(n)} for m, n in zip(months, counts, strict=True)],
        "undated": int(np.isnat(taken).sum()),
    }


def places(store: Store) -> dict[str, Any]:
    """Return where pictures were taken: {"named": [{"name", "count"}], "points": [{"latitude", "longitude", "count"}]}.

    A point stands for a cell of a quarter of a degree; most frequent first.
    """
    view = view_of(store)
    north, east = (view.table.column(name).to_numpy() for name in ("latitude", "longitude"))
    rows = np.flatnonzero(~np.isnan(north) & ~np.isnan(east))
    cells = np.stack([north[rows], east[rows]], 1) // _CELL
    _, inverse, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    means = [np.bincount(inverse.reshape(-1), values[rows], len(counts)) / counts for values in (north, east)]
    points = [
        {"latitude": round(float(y), 5), "longitude": round(float(x), 5), "count": int(n)}
        for y, x, n in zip(*means, counts, strict=True)
    ]
    named = [{"name": name, "count": count} for name, count in _counted(view.table.column("places")).items()]
    return {"named": named, "points": sorted(points, key=lambda one: -one["count"])}


def neighbours(store: Store, hash: str, limit: int = 12) -> list[dict[str, Any]]:
    """Return the pictures most like one of the library: id, name, likeness (cosine). Raises: NoPicture."""
    view = view_of(store)
    row, model = row_of(view, hash), view.model(None, [hash])
    if model is None:
        return []
    seen, vectors = view.vectors(model)
    at = np.flatnonzero(seen == row)
    if not len(at):
        return []
    found = nearest_to(view, model, vectors[at[0]].astype(np.float32), row, limit)
    return [{"id": one.hash, "name": shown(told(one.path).rpartition("/")[2]), "likeness": one.cosine} for one in found]


def picture(store: Store, hash: str) -> dict[str, Any]:
    """Return all that a library knows of a picture, JSON-able (`seconds`: where in its video). Raises: NoPicture."""
    view = view_of(store)
    row = row_of(view, hash)
    place = (view.paths(row) or ("",))[0]
    whole_table = store.rows([name for name in SCHEMA.names if name != "thumb"])
    known = whole_table.slice(pc.index(whole_table.column("hash"), hash).as_py(), 1).to_pylist()[0]
    said: dict[str, Any] = {"concepts": [], "broader": [], "taught": [], "unusual": []}
    if view.model(None, [hash]) in (known["models"] or ()):
        whole = describe(store, hash, top=1)
        for kind in ("concepts", "broader", "taught"):
            said[kind] = [{"name": name, "probability": p} for name, p in getattr(whole, kind)]
        said["unusual"] = list(whole.unusual)
    caption = next(iter(known["captions"] or ()), "")
    machine = next(filter(None, known["described"] or ()), "")
    exif = {
        "Taken": known["taken"] and str(known["taken"]),
        "Camera": known["camera"],
        "Position": known["latitude"] is not None and f"{known['latitude']:.5f}, {known['longitude']:.5f}",
        "Place": ", ".join(known["places"] or ()),
        "Keywords": ", ".join(known["keywords"] or ()),
        "Text": " ".join(known["texts"] or ()),
        "Size": f"{known['size']:,} bytes",
    }
    return {
        "id": hash,
        "name": name_of(view, row),
        "files": [inside(store, path) for path in view.paths(row)],
        "sound": is_sound(place),
        "hears": store.model_of(sounds=True) if is_sound(place) else None,
        "seconds": at[1] if (at := moment(place)) and is_video(at[0]) else None,
        "width": known["width"],
        "height": known["height"],
        "date": known["taken"].isoformat() if known["taken"] else None,
        "labels": known["labels"] or [],
        "tags": known["tags"] or [],
        "captions": known["captions"] or [],
        "caption": {"text": caption or machine, "machine": not caption} if caption or machine else None,
        "boxes": store.load("boxes", {}).get(hash, []),
        "exif": {name: value for name, value in exif.items() if value},
        **said,
    }


def name_of(view: View, row: int) -> str:
    """Return the name of a picture's first file, as people read it."""
    paths = view.paths(row)
    return shown(told(paths[0]).rpartition("/")[2]) if paths else ""


def keep_map(store: Store, ids: Sequence[str], places: np.ndarray, method: str) -> None:
    """Keep where the pictures lie in a plane, each axis from 0 to 1: float (N, 2). `method`: how, in a sentence."""
    x, y = (np.round(places[:, k].astype(np.float64), 4).tolist() for k in (0, 1))
    store.save("map", {"model": store.model, "method": method, "ids": list(ids), "x": x, "y": y})


def kept_map(store: Store) -> dict[str, Any] | None:
    """Return what `keep_map` kept: model, method, ids, x, y; None if nothing was, or if pictures came or went since."""
    known = store.load("map")
    model = store.model
    if known is None or model is None or known["model"] != model or len(known["ids"]) != len(store.vectors(model)[0]):
        return None
    return dict(known)


def inside(store: Store, path: str) -> str:
    """Return a path from the indexed folder that it lies in on, such as "italy/day 1/IMG_3.jpg"."""
    roots = [shown(store.name_of(text)) for text in (*store.folders, *store.unfinished)]
    path = shown(path)
    root = max((root for root in roots if path.startswith(root.rstrip("/") + "/")), key=len, default="")
    return path[len(root.rstrip("/").rpartition("/")[0]) :].lstrip("/") if root else path.rpartition("/")[2]


def _counted(column: Any) -> dict[str, int]:
    values = pc.list_flatten(column) if hasattr(column.type, "value_type") else column
    return dict(Counter(name for name in values.to_pylist() if name).most_common(_COMMON))


def _day(moment: np.datetime64) -> str:
    return str(moment.astype("datetime64[D]"))


# ---- what may be typed next into a query

_MOST = 12  # of what may be typed next
_FROM = {"tag": ("tags", "keywords"), "label": ("labels",), "camera": ("cameras",)}
_LAST = re.compile(r'(?:^|(?<=[\s(]))(-?)((?:[A-Za-z_]+:)?)((?:"[^"]*|[^\s"()]*))$')


def complete(store: Store, text: str, at: int | None = None) -> dict[str, Any]:
    """Return what the piece of a query before position `at` may become.

    Returns:
        {"start", "end", "options": [{"insert", "text", "kind"}]}: `insert` replaces ``text[start:end]``; `kind` is
        field, concept, taught, word, or the name of a field.
    """
    at = len(text) if at is None else max(0, min(at, len(text)))
    found = _LAST.search(text[:at])
    if found is None:
        return {"start": at, "end": at, "options": []}
    field, piece = found[2][:-1].lower(), found[3].lstrip('"').lower()
    start = found.start(3) if field else found.start(2)
    options = _values(store, field, piece) if field else _words(store, piece)
    return {"start": start, "end": at, "options": options[:_MOST]}


def _values(store: Store, field: str, piece: str) -> list[dict[str, str]]:
    if field == "has":
        names = list(HAS)
    elif field == "duplicates":
        names = ["yes", "no"]
    elif field in ("taken", "after", "before"):
        taken = view_of(store).taken
        names = sorted({str(year) for year in taken[~np.isnat(taken)].astype("datetime64[Y]")}, reverse=True)
    elif field == "place":
        names = [name for row in view_of(store).table.column("places").to_pylist() for name in row or ()]
    elif field == "folder":
        paths = view_of(store).table.column("paths").to_pylist()
        names = [part for row in paths for part in inside(store, store.name_of(row[0])).split("/")[:-1] if row]
    else:
        known = overview(store) if field in _FROM else {}
        names = [name for kind in _FROM.get(field, ()) for name in known[kind]]
    chosen = [name for name in dict.fromkeys(names) if piece in name.lower()]
    chosen.sort(key=lambda name: not name.lower().startswith(piece))
    return [{"insert": f"{typed(name)} ", "text": name, "kind": field} for name in chosen]


def _words(store: Store, piece: str) -> list[dict[str, str]]:
    if not piece:
        return []
    view = view_of(store)
    found = [{"insert": f"{name}:", "text": f"{name}:", "kind": "field"} for name in FIELDS if name.startswith(piece)]
    kinds: dict[str, str] = dict.fromkeys(store.load("taught", {}), "taught")
    model = view.model()
    concepts = view.vocabulary(model) if model is not None else None
    for name in sorted(concepts.spellings, key=len) if concepts is not None else ():
        kinds.setdefault(name, "concept")
    for name in view.text.words:
        kinds.setdefault(name, "word")
    starts = [name for name in kinds if name.lower().startswith(piece) and name.lower() != piece]
    starts.sort(key=lambda name: (("taught", "concept", "word").index(kinds[name]), len(name), name))
    return found + [{"insert": f"{name} ", "text": name, "kind": kinds[name]} for name in starts]
