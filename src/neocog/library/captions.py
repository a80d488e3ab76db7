"""Captions and labels for the pictures of a library, from any manifest that `neocog.data` reads, or from a net.

A library detects what a picture shows; what people wrote about it is in tables beside it (CSV, TSV,
JSONL or Parquet with a path and captions or labels; columns are guessed from their names, and notes say so).
What a net wrote stands in a column of its own, ``described``, and counts less in a search.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from neocog.data.open import open_source
from neocog.data.places import read_place
from neocog.data.source import Source
from neocog.data.stores import is_sound, moment
from neocog.errors import DataError, LibraryError, MissingExtra
from neocog.library.store import Store
from neocog.records import counted

if TYPE_CHECKING:
    from neocog.fit import Run
    from neocog.tasks.caption import Described

_AT_ONCE = 256  # pictures whose sentences are written at once, so that a kill loses no more


@dataclass(frozen=True)
class Annotated:
    """The result of `annotate`.

    Attributes:
        pictures: rows of the library that the table speaks of; `changed` of them have other captions or labels now.
        captions, labels: texts that the table has for them.
        missing: pictures of the table that are not in the library.
        notes: what was guessed of the table.
    """

    pictures: int
    changed: int
    captions: int
    labels: int
    missing: int
    notes: tuple[str, ...]


def annotate(
    store: Store,
    table: str | os.PathLike[str] | Source,
    *,
    columns: Mapping[str, str] | None = None,
    replace: bool = False,
) -> Annotated:
    """Give pictures the captions and labels that a table (or any source made of files) has for them.

    Args:
        columns: which column of the table is what (see `data.open_source`).
        replace: forget the captions and labels that these pictures had, instead of adding to them.

    Raises: DataError: the table cannot be read. LibraryError: none of its pictures is in the library.
    """
    source = open_source(table, columns=columns)
    rows = store.rows(["hash", "paths", "captions", "labels"])
    found = {path: i for i, paths in enumerate(rows.column("paths").to_pylist()) for path in paths or ()}
    old = {name: rows.column(name).to_pylist() for name in ("captions", "labels")}
    new: dict[str, dict[int, list[str]]] = {"captions": {}, "labels": {}}
    met, missing, counts = set(), 0, {"captions": 0, "labels": 0}
    for i in range(len(source)):
        path = source.path(i)
        row = None if path is None else found.get(store.text_of(os.path.abspath(path)))
        if row is None:
            missing += 1
            continue
        met.add(row)
        sample = source.sample(i)
        for name, texts in (("captions", sample.captions), ("labels", sample.labels)):
            if texts:
                counts[name] += len(texts)
                before = new[name].get(row, [] if replace else old[name][row] or [])
                new[name][row] = list(dict.fromkeys((*before, *texts)))
    if missing and not met:
        raise LibraryError(
            f"none of the {counted(missing)} of {table} is in {store.folder}; index their folder first: "
            "'neocog index FOLDER'"
        )
    changed = [row for row in sorted(met) if any(new[n].get(row, old[n][row]) != old[n][row] for n in new)]
    if changed:
        texts = pa.list_(pa.string())
        hashes = rows.column("hash").take(pa.array(changed))
        columns_of = {n: pa.array([new[n].get(r, old[n][r]) for r in changed], texts) for n in new}
        store.merge(pa.table({"hash": hashes, **columns_of}))
    return Annotated(len(met), len(changed), counts["captions"], counts["labels"], missing, tuple(source.notes))


def _given(store: Store, place: str) -> Path | bytes:
    """A picture's file, or a frame's bytes; none where it cannot be read."""
    if moment(place) is None:
        return store.path_of(place)
    try:
        return read_place(store.name_of(place))
    except (OSError, DataError, MissingExtra):
        return b""


@dataclass(frozen=True)
class Told:
    """The result of `describe`: pictures that got a sentence, were withheld one, or could not be read."""

    written: int
    withheld: int
    unreadable: int


def describe(
    store: Store,
    run: Run | str | os.PathLike[str] | None = None,
    *,
    again: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Told:
    """Write a sentence for every picture that has none, marked as written by a net; unsure ones are withheld.

    The vectors that the library has are read where they are those of the run's trunk; else the files.

    Args:
        run: of the task caption; None: the model that comes with neocog.
        again: also for pictures that have one.

    Raises: UsageError: the run has another task, or none comes with neocog.
    """
    from neocog.fit.captioning import caption, captioner, on_features

    trained = captioner(run)
    rows = store.rows(["hash", "paths", "described"])
    hashes, paths = rows.column("hash").to_pylist(), rows.column("paths").to_pylist()
    told = rows.column("described").to_pylist()
    wanted = [i for i, one in enumerate(told) if (again or not one) and not is_sound(paths[i][0])]
    vectors: dict[str, np.ndarray] = {}
    name = getattr(trained, "vectors", None)  # the library's name of what the trunk makes of a picture
    if name in store.models():
        vectors = dict(zip(*store.vectors(name), strict=True))
    counts, texts = {"written": 0, "withheld": 0, "unreadable": 0}, pa.list_(pa.string())
    for first in range(0, len(wanted), _AT_ONCE):
        some = wanted[first : first + _AT_ONCE]
        known = [i for i in some if hashes[i] in vectors]
        others = [i for i in some if hashes[i] not in vectors]
        found: list[tuple[int, Described]] = []
        if known:
            x = np.stack([vectors[hashes[i]] for i in known]).astype(np.float32)
            found += zip(known, on_features(trained, x, [hashes[i] for i in known]), strict=True)
        found += zip(others, caption([_given(store, paths[i][0]) for i in others], trained), strict=True)
        good = [(i, one) for i, one in found if one.problem is None]
        said = [["" if one.withheld else one.texts[0]] for _, one in good]
        counts["withheld"] += said.count([""])
        counts["written"] += len(said) - said.count([""])
        counts["unreadable"] += len(found) - len(good)
        if good:
            made = {"hash": [hashes[i] for i, _ in good], "described": pa.array(said, texts)}
            store.merge(pa.table(made))
        if progress:
            progress(min(first + _AT_ONCE, len(wanted)), len(wanted))
    return Told(**counts)
