"""What the user said of a library's pictures as a source: ``neocog train library:NAME`` trains a whole net on it.

A head on cached vectors is learned in a second; a net that was trained on the same examples and corrections may be
better, and can be exported. Examples and corrections are used as they are; what the library's heads only believe is
not. Boxes that were marked on the page are learned by ``--task detect``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from neocog.data.annotated import tags_of
from neocog.data.columns import LabelColumn
from neocog.data.kinds import Boxes, BoxSet, Column, TextLists
from neocog.data.places import is_there, read_place
from neocog.data.source import Source
from neocog.data.stores import is_elsewhere, is_sound, moment
from neocog.errors import DataError, LibraryError, UsageError
from neocog.library import place
from neocog.library.store import Store
from neocog.library.teaching import answers, concepts_of, known_name, probabilities, said_of
from neocog.library.view import View, view_of
from neocog.records import Problem, counted

PREFIX = "library:"
_SURELY_NOT = 0.05  # probability below which a picture may stand for "not that", where too few were named


@dataclass(frozen=True)
class Labelled:
    """One picture of which something was said: `labels` are the concepts that it shows, () for none of them."""

    hash: str
    path: str  # "" if no file is left
    labels: tuple[str, ...] | None  # None: nothing was said about concepts
    captions: tuple[str, ...] = ()
    boxes: Sequence[tuple[str, Sequence[float]]] | None = None  # what, x0 y0 x1 y1 in pixels; None: none was marked


class LibrarySource(Source):
    """Pictures of a library with the labels that the user gave."""

    def __init__(self, name: str, pictures: Sequence[Labelled], other: str | None, notes: Sequence[str]) -> None:
        """`other`: the class of pictures that show none of the concepts; None leaves them without a label."""
        gone = [
            Problem(one.hash, f"no file is left of this {', '.join(one.labels or ())}")
            for one in pictures
            if not one.path
        ]
        self.pictures = [one for one in pictures if one.path]
        column = LabelColumn()
        for one in self.pictures:
            column.append(list(one.labels or ()) or ([] if other is None or one.labels is None else [other]))
        names, codes, several = column.finish()
        captions = TextLists(one.captions for one in self.pictures)
        boxes = _boxes(self.pictures)
        columns: dict[str, Column] = {} if boxes is None else {"boxes": boxes}
        if boxes is not None and several is None:
            columns["tags"] = tags_of(boxes)
        splits, texts = np.full(len(self.pictures), -1, np.int8), captions if captions.known.any() else None
        super().__init__(
            name, names, codes, splits, notes=notes, problems=gone, label_sets=several, captions=texts, columns=columns
        )

    def key(self, i: int) -> str:
        return self.pictures[i].path

    def path(self, i: int) -> Path | None:
        path = self.pictures[i].path
        return None if is_elsewhere(path) or moment(path) else Path(path)

    def read(self, i: int) -> bytes:
        try:
            return read_place(self.pictures[i].path)
        except OSError as error:
            raise DataError(f"{self.pictures[i].path}: {error.strerror or error}") from error

    def _signature(self, i: int) -> bytes:
        return self.pictures[i].hash.encode()


def library_source(spec: str | os.PathLike[str] | Store) -> LibrarySource:
    """Return the pictures to train on.

    Args:
        spec: a library, or text: ``library:NAME`` (a library's folder, that of its pictures, or its remembered name),
            ``library:NAME#our cat`` for one concept, or ``library:our cat`` for a concept of the usual library.

    With several concepts each is a class (a picture may have several), and pictures that are none of them are "other".
    Of one concept the classes are it and "not it": where fewer were named than show it, pictures of the library that
    almost surely do not are taken, and a note says so. Where nothing was taught, the labels of the library's pictures
    are taken. Without `concept` the boxes that were marked are there as well, on all pictures that have some.

    Raises: LibraryError: no such library, or nothing in it has a label. UsageError: no such concept.
    """
    store, concept = (spec, None) if isinstance(spec, Store) else _opened(os.fspath(spec).removeprefix(PREFIX))
    notes: list[str] = []
    view = view_of(store)
    marked = store.load("boxes", {}) if concept is None else {}
    if not concepts_of(store) and concept is None:
        own = view.table.column("labels").to_pylist()
        pictures = [_picture(view, str(view.hashes[row]), tuple(one)) for row, one in enumerate(own) if one]
        pictures = _marked(view, [one for one in pictures if not is_sound(one.path)], marked)
        if not pictures:
            raise LibraryError(
                f"nothing in {store.folder} has a label: nothing was taught, and the pictures are not in class "
                "folders; teach a word: neocog teach LIBRARY 'our cat' EXAMPLES, or mark boxes: neocog serve"
            )
        if any(one.labels for one in pictures):
            notes.append("nothing was taught, so the labels of the pictures (their folders) are taken")
        return LibrarySource(place.called(store.folder), pictures, None, notes)
    pictures, names = labelled(store, concept)
    other: str | None = "other"
    if len(names) == 1:
        other = f"not {names[0]}"
        pictures += _fill(store, view, names[0], pictures, notes)
    elif any(len(one.labels or ()) > 1 for one in pictures):
        other = None
    return LibrarySource(place.called(store.folder), _marked(view, pictures, marked), other, notes)


def labelled(store: Store, concept: str | None = None) -> tuple[list[Labelled], list[str]]:
    """Return every example and correction of one concept or of all, and the names of these concepts.

    Raises: UsageError: no such concept. LibraryError: nothing was taught yet.
    """
    whole = concepts_of(store)
    names = [known_name(whole, concept)] if concept is not None else list(whole)
    if not names:
        raise LibraryError(f"{store.folder} has no taught words yet; type 'neocog teach LIBRARY \"our cat\" EXAMPLES'")
    labels: dict[str, list[str]] = {}
    files: dict[str, str] = {}
    for name in names:
        for key, kept in (*whole[name]["yes"].items(), *whole[name]["no"].items()):
            if isinstance(kept, dict):
                files[key] = kept["path"]
        shown, denied = answers(whole[name], said_of(store, name))
        for key in shown:
            labels.setdefault(key, []).append(name)
        for key in denied:
            labels.setdefault(key, [])
    view = view_of(store)
    return [_picture(view, key, tuple(found), files.get(key, "")) for key, found in labels.items()], names


def _opened(text: str) -> tuple[Store, str | None]:
    try:
        return Store.open(place.find(text or None)), None
    except LibraryError:
        folder, mark, concept = text.rpartition("#")
        if mark:
            return Store.open(place.find(folder or None)), concept
        with contextlib.suppress(LibraryError, UsageError):  # a concept of the usual library, if there is one
            store = Store.open(place.find(None))
            return store, known_name(concepts_of(store), text)
        raise


def _picture(view: View, key: str, labels: tuple[str, ...] | None, outside: str = "") -> Labelled:
    row = int(view.rows_of([key])[0])
    files = view.paths(row) if row >= 0 else (outside,)
    captions = tuple(view.table.column("captions")[row].as_py() or ()) if row >= 0 else ()
    return Labelled(key, next((f for f in files if f and is_there(f)), ""), labels, captions)


def _fill(store: Store, view: View, name: str, pictures: Sequence[Labelled], notes: list[str]) -> list[Labelled]:
    """Pictures that stand for "not that": spread over the library, as many as are missing for a balance."""
    shown = sum(bool(one.labels) for one in pictures)
    missing = shown - (len(pictures) - shown)
    entry = concepts_of(store)[name]
    if missing <= 0 or entry["model"] not in store.models():
        return []
    p = probabilities(view, entry, said_of(store, name))
    seen = np.zeros(len(view), bool)
    seen[view.vectors(entry["model"])[0]] = True
    known = view.rows_of([one.hash for one in pictures])
    seen[known[known >= 0]] = False
    rows = np.flatnonzero(seen & (p < _SURELY_NOT))
    rows = rows[np.unique(np.linspace(0, max(len(rows) - 1, 0), min(missing, len(rows))).astype(int))]
    if len(rows):
        notes.append(
            f"{counted(len(pictures) - shown, verb='was')} said not to be {name!r}; {len(rows)} more of the library "
            "that very probably are not stand beside them"
        )
    return [_picture(view, str(view.hashes[row]), ()) for row in rows]


def _marked(view: View, pictures: list[Labelled], marked: dict[str, list[dict]]) -> list[Labelled]:
    """The pictures with the boxes that were marked in them, and the others that have boxes."""
    known = {one.hash: one for one in pictures}
    for key, boxes in marked.items():
        row = int(view.rows_of([key])[0])
        if row < 0:
            continue
        wide, high = (view.table.column(side)[row].as_py() for side in ("width", "height"))
        sides = np.array([wide, high, wide, high])
        found = [(one["text"], sides * one["box"]) for one in boxes]
        known[key] = replace(known.get(key) or _picture(view, key, None), boxes=found)
    return list(known.values())


def _boxes(pictures: Sequence[Labelled]) -> Boxes | None:
    names = sorted({name for one in pictures for name, _ in one.boxes or ()})
    place = {name: k for k, name in enumerate(names)}
    sets = [
        None
        if one.boxes is None
        else BoxSet(
            np.array([corners for _, corners in one.boxes], np.float32).reshape(-1, 4),
            np.array([place[name] for name, _ in one.boxes], np.int32),
            np.zeros(len(one.boxes), bool),
        )
        for one in pictures
    ]
    return Boxes.of(sets, names) if names else None
