"""Captions and labels for the pictures of a library, from any manifest that `neocog.data` reads.

A library detects what a picture shows; what people wrote about it is in tables beside it (CSV, TSV,
JSONL or Parquet with a path and captions or labels; columns are guessed from their names, and notes say so).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from neocog.data.open import open_source
from neocog.data.source import Source
from neocog.errors import LibraryError
from neocog.library.store import Store


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

    Raises:
        DataError: the table cannot be read. LibraryError: none of its pictures is in the library.
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
            f"none of the {missing:,} pictures of {table} is in {store.folder}; index their folder first: "
            "'neocog index FOLDER'"
        )
    changed = [row for row in sorted(met) if any(new[n].get(row, old[n][row]) != old[n][row] for n in new)]
    if changed:
        texts = pa.list_(pa.string())
        hashes = rows.column("hash").take(pa.array(changed))
        columns_of = {n: pa.array([new[n].get(r, old[n][r]) for r in changed], texts) for n in new}
        store.merge(pa.table({"hash": hashes, **columns_of}))
    return Annotated(len(met), len(changed), counts["captions"], counts["labels"], missing, tuple(source.notes))
