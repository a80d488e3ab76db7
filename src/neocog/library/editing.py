"""Corrections of what is known of a picture: labels, caption, boxes, and whether it shows a taught word; with undo."""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa

from neocog.errors import UsageError
from neocog.library.gallery import row_of
from neocog.library.lock import Lock
from neocog.library.store import Store
from neocog.library.teaching import correct_all, take_back
from neocog.library.view import view_of
from neocog.names import shown

_KEPT = 200  # changes that can be undone
_MOST, _LONGEST = 200, 2000  # labels or boxes of a picture, and characters of a text


def change(
    store: Store,
    hash: str,
    *,
    labels: list[str] | None = None,
    caption: str | None = None,
    boxes: list[dict[str, Any]] | None = None,
    words: dict[str, bool] | None = None,
) -> None:
    """Correct a picture; what is None stays.

    Args:
        labels: all that it has from now on. caption: a person's; "" removes it.
        boxes: all that it has from now on: {"text": what is in it, "box": [x0, y0, x1, y1]} in fractions.
        words: name of a taught concept -> whether the picture shows it.

    Raises:
        NoPicture: the library has no such picture. UsageError: a value is wrong. LibraryError: it cannot be written.
    """
    view = view_of(store)
    row = row_of(view, hash)
    new: dict[str, Any] = {}
    if labels is not None:
        new["labels"] = list(dict.fromkeys(_text(one) for one in labels if one.strip()))[:_MOST]
    if caption is not None:
        new["captions"] = [_text(caption)] if caption.strip() else []
    if boxes is not None:
        new["boxes"] = [_box(one) for one in boxes[:_MOST]]
    with _changing(store):
        boxes_before = store.load("boxes", {}).get(hash, [])
        old = {n: boxes_before if n == "boxes" else view.table.column(n)[row].as_py() or [] for n in new}
        for name, right in (words or {}).items():
            correct_all(store, name, [(hash, right)], ask=0)
        if words:
            old["words"] = list(words)
        _write(store, hash, new)
        if old:
            entry = {"hash": hash, "before": old, "time": time.strftime("%Y-%m-%dT%H:%M:%S")}
            store.save("edits", [*store.load("edits", []), entry][-_KEPT:])


def undo(store: Store) -> dict[str, Any] | None:
    """Take the last change back and return {"id", "changed", "left"}; None if there is none."""
    with _changing(store):
        edits = store.load("edits", [])
        if not edits:
            return None
        last = edits.pop()
        before = dict(last["before"])
        changed = list(before)
        for name in reversed(before.pop("words", [])):
            take_back(store, name, last["hash"])
        _write(store, last["hash"], before)
        store.save("edits", edits)
    return {"id": last["hash"], "changed": changed, "left": len(edits)}


def _write(store: Store, hash: str, values: dict[str, Any]) -> None:
    columns = {name: pa.array([value], pa.list_(pa.string())) for name, value in values.items() if name != "boxes"}
    if columns:
        store.merge(pa.table({"hash": pa.array([hash]), **columns}))
    if "boxes" in values:
        store.save("boxes", {**store.load("boxes", {}), hash: values["boxes"]})


def _text(text: str) -> str:
    text = shown(" ".join(text.split()))
    if len(text) > _LONGEST:
        raise UsageError(f"expected at most {_LONGEST:,} characters, got {len(text):,}")
    return text


def _box(one: dict[str, Any]) -> dict[str, Any]:
    try:
        x0, y0, x1, y1 = corners = [float(v) for v in one["box"]]
        good = 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
    except (ValueError, TypeError):
        good = False
    if not good:
        raise UsageError(f"expected a box x0, y0, x1, y1 in fractions of the picture, got {one['box']}")
    if not (text := _text(str(one["text"]))):
        raise UsageError("expected what is in the box, got no name")
    return {"text": text, "box": corners}


def _changing(store: Store) -> Lock:
    return Lock(store.folder / "edits.lock", "correcting it", wait=60)
