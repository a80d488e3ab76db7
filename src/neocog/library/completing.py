"""What may be typed next into a query: fields and their values here, concepts, taught words and words of texts."""

from __future__ import annotations

import re
from typing import Any

from neocog.library.overview import inside, overview
from neocog.library.query import FIELDS, HAS
from neocog.library.store import Store
from neocog.library.view import view_of

_MOST = 12
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
        taken = view_of(store).table.column("taken").drop_null()
        names = sorted({str(year) for year in _years(taken)}, reverse=True)
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
    return [{"insert": _quoted(name) + " ", "text": name, "kind": field} for name in chosen]


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


def _years(taken: Any) -> Any:
    return taken.to_numpy().astype("datetime64[Y]")


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w./~+-]+", name) else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
