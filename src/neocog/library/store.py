"""A library on disk: rows of pictures, their vectors, and the nearest of them. The only file that knows LanceDB.

    library.json         format, identity, indexed folders, models; written atomically (card.py)
    pictures.lance       one row for each distinct content (rows.SCHEMA)
    vectors_NAME.lance   what the model NAME makes of them: v_NAME half-precision vector of length 1, n_NAME the length
                         that it had, p_NAME probabilities
    problems.lance       one row for each file that cannot be read
    versions.json        which versions of these tables are read; written whole after each change (card.py)
    cache/               copies that searching maps into memory (mirror.py); may be deleted at any time
    *.lock               who writes at the moment (lock.py)

Outside of this file pictures and vectors are one table, with one column of vectors for each model. They lie apart
because LanceDB rewrites whole rows: tagging 100,000 pictures would rewrite 350 MB of vectors and take every row out
of the index, and so would a second model. Every change of a table is one transaction: a reader, or the next process
after a kill, sees all of it or nothing. A vector is written before the row that counts on it, and depends on nothing
but content and model, so a kill between the two leaves a vector in waiting and nothing wrong. A kill between a change
and versions.json leaves readers with what was there before, until the next process that changes something, or begins
to index, finds the lock of the killed one. Reading takes no lock, needs no right to write, and while it finds its
copies, no LanceDB: importing that takes a second.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neocog.data.stores import is_url
from neocog.errors import LibraryError, UsageError, closest
from neocog.library.arrays import Arrays
from neocog.library.card import NAME, Card, difference, new_card, read_versions, write_json, write_versions
from neocog.library.faults import told
from neocog.library.lock import LibraryBusy, Lock, holder
from neocog.library.mirror import forget_older, forget_parts, hash_bytes, hash_texts, mapped_table
from neocog.library.nearest import exact_nearest
from neocog.library.rows import (
    HASH,
    PROBLEMS,
    SCHEMA,
    Condition,
    completed,
    decode_path,
    encode_path,
    has_model,
    incoming,
    is_ok,
    matrix,
    whole_rows,
)
from neocog.names import shown

# From this many rows an index of vectors is built: below, the exact product in memory answers within 25 ms.
# Measured on two cores, 768 numbers: 53 ms exactly for 200,000; 4.4 ms with IVF_HNSW_SQ, built in 130 s.
INDEX_FROM = 50_000
# From this many, IVF_PQ with 8 numbers in a byte: a process that asks IVF_HNSW_SQ about 100,000 vectors has 0.2 GB more
# than one that asks about 2,000, so a million would need 2 GB.
QUANTISED_FROM = 400_000
INDEX_AGAIN = 4  # times as many rows as when it was built: then it is built anew, with more partitions
# Candidates that the index looks at. Of 6,000 vectors in 1,000 clusters, hard for a graph, the default (15 for ten
# results) finds 0.83 of the ten nearest, 100 finds 0.93, 400 finds 0.998; it costs a millisecond.
_CANDIDATES = 400
_REFINE = 2  # times as many of IVF_HNSW_SQ are compared exactly as are asked for
# Candidates of IVF_PQ that are compared exactly, at least, and for each result. Of a million vectors in 1,000 clusters,
# 200 find 0.91 of the ten nearest, 400 find 0.986, 500 find 0.997.
_SHORTLIST, _SHORTLIST_EACH = 500, 10
_PROBES = 24  # partitions that are looked at; for those vectors 8 would do
_AT_ONCE = 8192  # rows that are converted from half precision at a time
_MOST_FROM_INDEX = 1000  # results that the index is asked for; more are found by comparing with all
_KEEP_VERSIONS = timedelta(minutes=10)  # readers may still use them
_CLUTTER = 40  # versions from which joining small files is worth its while
_READ = ("pictures", "problems")  # tables of which versions.json names the version
_HEAVY = ("thumb",)  # columns that are not mirrored
_MIRRORED = pa.schema([field for field in SCHEMA if field.name not in _HEAVY])


class Store:
    """One library. Several threads may read; changes are made one after the other, by whichever process."""

    def __init__(self, folder: Path, card: Card) -> None:
        self.folder = folder
        self._card = card
        self._db: Any = None
        self._tables: dict[str, Any] = {}
        self._mirrors: dict[str, tuple[str, pa.Table]] = {}
        self._arrays = Arrays(folder / "cache")
        self._lock = threading.RLock()  # of what is kept in memory
        self._changing = threading.RLock()  # of changes; never waited for while `_lock` is held
        self._depth = 0

    def __repr__(self) -> str:
        return f"Store({str(self.folder)!r})"

    @staticmethod
    def create(folder: str | os.PathLike[str]) -> Store:
        """Make an empty library in a folder that is new or holds no library.

        Raises:
            LibraryError: there is a library already, or the folder cannot be written.
        """
        folder = Path(os.path.abspath(folder))
        if (folder / "library.json").exists():
            raise LibraryError(f"{folder} is a library already; open it with Store.open")
        with told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "pictures.lance").exists() and any(
                not entry.name.startswith(".") and not entry.name.endswith((".lance", ".lock", "cache"))
                for entry in folder.iterdir()
            ):
                raise LibraryError(f"{folder} holds other files; choose a folder that is new or empty for the library")
            store = Store(folder, Card(folder, new_card(folder)))
            with store._writing():
                if not (folder / "library.json").exists():
                    for name, schema in (("pictures", SCHEMA), ("problems", PROBLEMS)):
                        store._tables[name] = store._connect().create_table(name, schema=schema, exist_ok=True)
                    store._card.write()  # last: it makes the folder a library
        return Store.open(folder)

    @staticmethod
    def open(folder: str | os.PathLike[str]) -> Store:
        """Open a library for reading and writing; nothing is written before something changes.

        Raises:
            LibraryError: there is none, it is damaged, or a newer version of neocog made it.
        """
        folder = Path(os.path.abspath(folder))
        if not (folder / "library.json").exists() and (folder / ".neocog" / "library.json").exists():
            folder = folder / ".neocog"
        return Store(folder, Card(folder))

    @staticmethod
    def ensure(folder: str | os.PathLike[str]) -> Store:
        """Open the library of a folder, or make one if there is none; several processes may do so at once.

        Raises: as `open` and `create`.
        """
        try:
            return Store.create(folder)
        except LibraryError:
            if not (Path(folder) / "library.json").exists():
                raise
            return Store.open(folder)

    @property
    def read_only(self) -> bool:
        """Whether this user may not change the library."""
        return not os.access(self.folder, os.W_OK) or not os.access(self.folder / "library.json", os.W_OK)

    @property
    def created(self) -> str:
        """When the library was made, local time."""
        return str(self._card.read().get("created", ""))

    # paths

    def text_of(self, path: str | os.PathLike[str]) -> str:
        """Return an absolute path as it is stored."""
        full = os.fspath(path)
        if self._card.read()["inside"]:
            parent = os.path.join(os.fspath(self.folder.parent), "")
            if full.startswith(parent):
                return encode_path(full[len(parent) :])
            if full == parent.rstrip(os.sep):
                return "."
        return encode_path(full)

    def path_of(self, text: str) -> Path:
        """Return the absolute path of a stored one."""
        return Path(os.path.join(self.folder.parent, decode_path(text)))

    def name_of(self, text: str) -> str:
        """Return a stored path as users see it: absolute, or a URL."""
        path = decode_path(text)
        return path if is_url(path) else str(self.path_of(text))

    @property
    def folders(self) -> list[str]:
        """The folders that were indexed, as stored texts."""
        return list(self._card.read()["folders"])

    @property
    def unfinished(self) -> list[str]:
        """The folders, as stored texts, that are indexed for the first time, or were when that was interrupted."""
        return list(self._card.read().get("unfinished", ()))

    @property
    def exclude(self) -> list[str]:
        """What is passed over in its folders: lines as in ``.gitignore``."""
        return list(self._card.read().get("exclude", ()))

    def note(self, **lists: list[str]) -> None:
        """Remember `folders`, `unfinished` or `exclude`; writes only what is different."""
        card = self._card.read()
        if any(card.get(name, []) != value for name, value in lists.items()):
            with self._writing(), told(self.folder):
                self._card.write(**lists)

    # reading

    def __len__(self) -> int:
        """Pictures that are there; those that are gone do not count."""
        return int(self._present().sum())

    def version(self) -> int:
        """A number that grows with every change of the pictures' table."""
        return self._key("pictures")[0]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, with those of the models."""
        made = [f"{kind}_{name}" for name in self.models() for kind in "vnp"]
        return (*SCHEMA.names, *made)

    def rows(self, columns: Sequence[str], where: Condition | None = None, *, gone: bool = False) -> pa.Table:
        """Return columns of the pictures that meet a condition, in the order of their hashes.

        With ``gone=True`` also those of which no file is left.

        Raises:
            UsageError: no such column.
        """
        for name in columns:
            if name not in self.columns:
                raise UsageError(
                    f"no column {name!r}{closest(name, self.columns)}; expected one of {', '.join(self.columns)}"
                )
        table = self._mirror("pictures")
        keep = np.ones(len(table), bool) if gone else is_ok(table)
        if where is not None:
            keep &= where.mask(table)
        plain = [name for name in columns if name in table.column_names]
        heavy = [name for name in columns if name not in plain]
        found = table.select(plain)
        for name in heavy:
            found = found.append_column(name, self._heavy(name, table.column("hash"), keep))
        found = found.select(list(columns))
        return found if keep.all() else found.filter(pa.array(keep))

    def problems(self) -> pa.Table:
        """Files that could not be read: path, reason, mtime_ns, size."""
        return self._mirror("problems")

    def models(self) -> dict[str, dict[str, Any]]:
        """What has vectors here: name -> column, dimension, classes, and what `add_model` got."""
        return dict(self._card.read()["models"])

    @property
    def model(self) -> str | None:
        """The model to search with: the last one with which the whole library was indexed; None if there is none."""
        card = self._card.read()
        chosen = card.get("model")
        return chosen if chosen in card["models"] else next(iter(card["models"]), None)

    def use_model(self, name: str) -> None:
        """Make a model the one to search with."""
        self._model(name)
        if self._card.read().get("model") != name:
            with self._writing(), told(self.folder):
                self._card.write(model=name)

    def vectors(self, model: str) -> tuple[np.ndarray, np.ndarray]:
        """Return hashes "U32" (N,) and vectors float16 (N, D) of length 1, in the order of hashes, as `rows`.

        Pictures that are gone, or that the model has not seen yet, are left out. The array may be mapped from disk:
        do not write to it.
        """
        return self._array("v", model, self._model(model)["dimension"])

    def probabilities(self, model: str) -> tuple[np.ndarray, np.ndarray]:
        """Return hashes "U32" (N,) and probabilities float16 (N, K), in the order of `vectors`."""
        return self._array("p", model, self._model(model)["classes"])

    def norms(self, model: str) -> np.ndarray:
        """Return the lengths, float32 (N,), that the model's vectors had, in the order of `vectors`."""
        self._model(model)
        return np.ascontiguousarray(self._array("n", model, 2)[1]).view(np.float32)[:, 0]

    def derived(
        self, model: str, made: str, width: int, make: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return hashes "U32" (N,) and float16 (N, width): what `make` makes of the vectors of a model, kept on disk.

        Only new pictures are computed. `made`: 32 hexadecimal digits that change with what `make` does.
        """

        def fetch(wanted: list[str] | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for path in (self.folder / "cache").glob(f"{column}_*"):  # what another `make` made
                name = path.name.partition("-")[0]
                if len(name) == len(column) + 33 and name != f"{column}_{made}":
                    forget_older(self.folder / "cache", name)
            chosen = np.arange(len(hashes)) if wanted is None else np.flatnonzero(np.isin(hashes, wanted))
            for start in range(0, len(chosen), _AT_ONCE):
                rows = chosen[start : start + _AT_ONCE]
                yield hashes[rows].astype("S32"), make(vectors[rows].astype(np.float32)).astype(np.float16)

        hashes, vectors = self.vectors(model)
        column, key = f"s_{model}", self._key("pictures")[1] + made
        return self._arrays.get(column, width, made, key, lambda: self._mirror("pictures"), fetch)

    def products(self, model: str, made: str, values: np.ndarray, query: np.ndarray) -> np.ndarray:
        """Return float32 (N, K): the products of what `derived` gave with K vectors, float32 (width, K)."""
        wide = self._arrays.wide(f"s_{model}{made}", self._key("pictures")[1], values)
        out = np.empty((len(values), query.shape[1]), np.float32)
        for start in range(0, len(values), _AT_ONCE):
            out[start : start + _AT_ONCE] = wide[start : start + _AT_ONCE].astype(np.float32, copy=False) @ query
        return out

    # changing

    def add(self, rows: pa.Table) -> int:
        """Add pictures; a hash that is there already is left as it is. Returns how many were new.

        Columns that are not given are empty. Vectors are brought to length 1, and what they had goes to nNAME.

        Raises:
            LibraryError: a vector of the wrong dimension, or the library cannot be written (a full disk).
        """
        rows, vectors = incoming(rows, self.models())
        missing = [field for field in SCHEMA if field.name not in rows.column_names]
        blank = whole_rows({}, len(rows), pa.schema(missing))
        for field in missing:
            value = pa.array(["ok"] * len(rows)) if field.name == "state" else blank.column(field.name)
            rows = rows.append_column(field, value)
        with self._writing(), told(self.folder):
            self._grow()
            self._put_vectors(vectors)
            done = self._table("pictures").merge_insert("hash").when_not_matched_insert_all().execute(rows)
        return int(done.num_inserted_rows)

    def merge(self, rows: pa.Table) -> int:
        """Change the given columns of pictures that are there, by hash. Returns how many were changed.

        Raises: like `add`.
        """
        rows, vectors = incoming(rows, self.models())
        with self._writing(), told(self.folder):
            self._put_vectors(vectors)
            if rows.column_names == ["hash"]:
                return len(rows)
            self._grow()
            done = self._table("pictures").merge_insert("hash").when_matched_update_all().execute(rows)
        return int(done.num_updated_rows)

    def _grow(self) -> None:
        """Give the table of an older neocog the columns that it lacks."""
        table = self._table("pictures")
        there = set(table.schema.names)
        if missing := [field for field in SCHEMA if field.name not in there]:
            table.add_columns(pa.schema(missing))

    def _put_vectors(self, vectors: dict[str, pa.Table]) -> None:
        for model, rows in vectors.items():
            if len(rows):
                change = self._table(f"vectors_{model}").merge_insert("hash")
                change.when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def delete(self, hashes: Sequence[str]) -> None:
        """Remove rows for good, with their vectors and tags; the files are not touched."""
        for one in hashes:
            if not HASH.fullmatch(one):
                raise UsageError(f"expected hashes of 32 hexadecimal digits, got {one!r}")
        with self._writing(), told(self.folder):
            for start in range(0, len(hashes), 1000):
                listed = ", ".join(f"'{one}'" for one in hashes[start : start + 1000])
                for table in ("pictures", *(f"vectors_{model}" for model in self.models())):
                    self._table(table).delete(f"hash IN ({listed})")

    def set_problems(self, found: Sequence[dict[str, Any]], solved: Sequence[str] = ()) -> None:
        """Add or replace problems (path, reason, mtime_ns, size) and remove those of the paths `solved`."""
        old = {row["path"]: row for row in self.problems().to_pylist()}
        new = {path: row for path, row in old.items() if path not in set(solved)}
        new |= {row["path"]: row for row in found}
        if new != old:
            with self._writing(), told(self.folder):
                self._table("problems").add(pa.Table.from_pylist(list(new.values()), PROBLEMS), mode="overwrite")

    def add_model(self, name: str, dimension: int, card: dict[str, Any], *, classes: int = 0) -> None:
        """Make the columns for a model; once more with the same card changes nothing.

        `card` is kept as it is, as JSON (net, weights' fingerprint, preprocessing, vocabulary).

        Raises:
            LibraryError: there is another model of that name.
        """
        if not NAME.fullmatch(name):
            raise UsageError(f"a model's name is made of a-z, 0-9 and _, got {name!r}")
        whole = {
            **json.loads(json.dumps(card)), "column": f"v_{name}", "dimension": dimension, "classes": classes,
            "id": uuid.uuid4().hex[:8],  # copies in cache/ are named after it
        }  # fmt: skip
        old = self._card.read()["models"].get(name)
        if old is not None and not difference(old, whole):
            return
        with self._writing(), told(self.folder):
            models = self.models()
            old = models.get(name)
            if old is not None:
                if differ := difference(old, whole):
                    raise LibraryError(
                        f"{self.folder} has another model {name!r} ({differ} differ; {old['dimension']} numbers a "
                        f"picture there, {dimension} here); give the new one another name, or remove the old one"
                    )
                return
            self._unlist(name)  # a table without a card: a process was killed between the two
            fields = [
                pa.field("hash", pa.string(), nullable=False),
                pa.field(f"v_{name}", pa.list_(pa.float16(), dimension)),
                pa.field(f"n_{name}", pa.float32()),
                *([pa.field(f"p_{name}", pa.list_(pa.float16(), classes))] if classes else []),
            ]
            self._forget(f"vectors_{name}")
            self._connect().drop_table(f"vectors_{name}", ignore_missing=True)
            self._connect().create_table(f"vectors_{name}", schema=pa.schema(fields))
            self._card.write(models={**models, name: whole})

    def remove_model(self, name: str) -> None:
        """Remove a model and its vectors."""
        made = self._model(name).get("id", "")
        with self._writing(), told(self.folder):
            self._card.write(models={key: card for key, card in self.models().items() if key != name})
            self._unlist(name)
            self._forget(f"vectors_{name}")
            self._connect().drop_table(f"vectors_{name}", ignore_missing=True)
        for kind in "vnp":
            forget_older(self.folder / "cache", f"{kind}_{name}_{made}")

    def _unlist(self, model: str) -> None:
        """No row says any more that it has vectors of this model."""
        rows = self._mirror("pictures")
        has = rows.filter(pa.array(has_model(rows, model)))
        if len(has):
            left = [[m for m in row if m != model] for row in has.column("models").to_pylist()]
            changed = pa.table({"hash": has.column("hash"), "models": pa.array(left, pa.list_(pa.string()))})
            self._table("pictures").merge_insert("hash").when_matched_update_all().execute(changed)

    def save(self, name: str, value: Any) -> None:
        """Keep a JSON-able value under a name in the library, atomically (what was taught, how scores calibrate)."""
        if not NAME.fullmatch(name) or name == "library":
            raise UsageError(f"a name is made of a-z, 0-9 and _, got {name!r}")
        with self._writing(), told(self.folder):
            write_json(self.folder / f"{name}.json", value)

    def load(self, name: str, default: Any = None) -> Any:
        """Return what `save` kept under a name."""
        try:
            return json.loads((self.folder / f"{name}.json").read_text("utf-8"))
        except FileNotFoundError:
            return default
        except (OSError, ValueError) as error:
            raise LibraryError(
                f"{self.folder / name}.json cannot be read ({error}); delete it to start again"
            ) from None

    def indexing(self, wait: float = 0.0, waiting: Callable[[str], object] | None = None) -> Lock:
        """The lock of a process that indexes: one at a time for each library."""
        with self._writing():  # and what a killed process saved last counts
            pass
        return Lock(self.folder / "index.lock", "indexing it", wait=wait, waiting=waiting)

    # nearest

    def nearest(self, model: str, queries: np.ndarray, k: int, metric: str = "cosine") -> tuple[np.ndarray, np.ndarray]:
        """Return the `k` nearest pictures to each query: hashes "U32" (Q, k) and similarity float32 (Q, k).

        Args:
            queries: (Q, D) or (D,). For "euclidean" as the net gives them, not brought to length 1.
            metric: "cosine" (similarity -1..1) or "euclidean" (similarity = minus the distance).

        Exact, unless the library is large and has an index (see `index_state`); then rows that the index does not
        know yet are compared exactly, so none is missed. Fewer than `k` columns if there are fewer pictures.

        Raises:
            LibraryError: no such model, or queries of another dimension.
        """
        if metric not in ("cosine", "euclidean"):
            raise UsageError(f"metric must be 'cosine' or 'euclidean', got {metric!r}")
        if k < 1:
            raise UsageError(f"expected to look for at least 1 picture, got {k}")
        queries = np.atleast_2d(np.asarray(queries, np.float32))
        dimension = self._model(model)["dimension"]
        if queries.ndim != 2 or queries.shape[1] != dimension:
            raise LibraryError(
                f"expected vectors of {dimension} numbers, as {model!r} makes them, got {queries.shape[-1]}; "
                "use the net that the library was indexed with, or index it with the new one"
            )
        if metric == "cosine":
            queries = queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-12)
            if k <= _MOST_FROM_INDEX and self.index_state(model)["indexed"]:
                return self._approximate(model, queries, k)
        return self._compared(model, queries, k, metric)

    def _compared(self, model: str, queries: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """The nearest by comparing with all."""
        hashes, vectors = self.vectors(model)
        norms = self.norms(model) if metric == "euclidean" else None
        wide = self._arrays.wide(model, self._key("pictures")[1], vectors)
        best, score = exact_nearest(wide, queries, min(k, len(hashes)), norms)
        return hashes[best], score

    def index_state(self, model: str) -> dict[str, int]:
        """How many of the model's vectors are in an index, and how many are compared exactly."""
        if "index" not in self._model(model):
            return {"indexed": 0, "exact": len(self.vectors(model)[0])}
        with told(self.folder):
            stats = self._table(f"vectors_{model}").index_stats(f"v_{model}_idx")
        if stats is None:
            return {"indexed": 0, "exact": len(self.vectors(model)[0])}
        return {"indexed": int(stats.num_indexed_rows), "exact": int(stats.num_unindexed_rows)}

    @property
    def cluttered(self) -> bool:
        """Whether so many small changes were made that `tidy` is worth its while."""
        known = read_versions(self.folder).get("pictures", {})
        return bool(known.get("version", 0) - known.get("tidied", 0) > _CLUTTER)

    def tidy(self, say: Callable[[str], object] | None = None, *, index_from: int | None = None) -> bool:
        """Join small files, remove versions older than ten minutes, and make or renew the index where it pays.

        Searching goes on meanwhile, with the state from before; so do changes while an index is made. Killing it
        loses nothing. Returns False, with nothing done, if another process is at it.
        """
        least = INDEX_FROM if index_from is None else index_from
        try:
            with Lock(self.folder / "tidy.lock", "tidying it"):
                forget_parts(self.folder / "cache")
                for name in ("pictures", "problems", *(f"vectors_{model}" for model in self.models())):
                    with self._writing(), told(self.folder):
                        # Nobody else writes now: what a killed process left half-written can go. Rows that an index
                        # does not know yet are added to it.
                        self._table(name).optimize(cleanup_older_than=_KEEP_VERSIONS, delete_unverified=True)
                        self._point(tidied=True)
                for model, card in self.models().items():
                    total = sum(self.index_state(model).values())
                    kind = "IVF_PQ" if total >= QUANTISED_FROM and card["dimension"] % 8 == 0 else "IVF_HNSW_SQ"
                    outgrown = total >= INDEX_AGAIN * card.get("index_rows", 0) or card.get("index") != kind
                    if total >= least and outgrown:
                        self._make_index(model, kind, total, say)
        except LibraryBusy:
            return False
        finally:
            self._arrays.clear()
        return True

    def _make_index(self, model: str, kind: str, total: int, say: Callable[[str], object] | None) -> None:
        if say:
            say(f"making an index ({kind}) of {total:,} vectors of {model}, so that searching stays fast")
        with told(self.folder):
            from lancedb.index import HnswSq, IvfPq

            table, dimension = self._table(f"vectors_{model}"), self._model(model)["dimension"]
            quantised = IvfPq(distance_type="cosine", num_sub_vectors=dimension // 8)
            config = quantised if kind == "IVF_PQ" else HnswSq(distance_type="cosine")
            table.create_index(f"v_{model}", config=config, replace=True)
        with self._writing(), told(self.folder):
            models = self.models()
            if model in models:
                self._card.write(models={**models, model: {**models[model], "index": kind, "index_rows": total}})

    def refresh(self) -> None:
        """Bring the copies that searching reads up to date, so that the next search starts at once."""
        self._mirror("problems")
        for model, card in self.models().items():
            self.vectors(model)
            if card["classes"]:
                self.probabilities(model)

    def kept(self, name: str, version: int, make: Callable[[], pa.Table]) -> pa.Table:
        """Return what `make` makes of a version of the pictures' table; kept on disk, if that is still the newest."""
        newest, key = self._key("pictures")
        return mapped_table(self.folder / "cache", name, key, make) if newest == version else make()

    def stored(self, name: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield rows of a table as they are stored, not from the copies, in no order: for checking.

        Raises:
            LibraryError: the table is damaged.
        """
        with told(self.folder):
            yield from self._table(name).search().select(list(columns)).to_batches()

    def forget_copies(self) -> None:
        """Open everything anew when it is needed: the disk was away."""
        with self._lock:
            self._db = None
            self._tables.clear()
            self._mirrors.clear()
        self._arrays.clear()

    def unfinished_note(self) -> str:
        """What there is to say of folders that are indexed for the first time, or were when that was interrupted."""
        if not self.unfinished:
            return ""
        names = ", ".join(map(self.name_of, self.unfinished))
        owner, so_far = holder(self.folder / "index.lock"), f"{len(self):,} pictures are in the library so far"
        if owner:
            return f"{names}: {owner} is indexing this for the first time; {so_far}"
        return f"{names}: indexing this for the first time was interrupted; {so_far}. To continue: neocog index"

    # inside

    def _model(self, name: str) -> dict[str, Any]:
        models = self.models()
        if name not in models:
            there = f"it has {', '.join(models)}" if models else "it has none yet: 'neocog index FOLDER' makes one"
            raise LibraryError(f"{self.folder} has no vectors of {name!r}{closest(name, models)}; {there}")
        return models[name]

    def _connect(self) -> Any:
        if self._db is None:
            # Lance would print a warning about index statistics for every search that asks for them
            os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")
            import lancedb

            self._db = lancedb.connect(self._address(), read_consistency_interval=timedelta(0))
        return self._db

    def _address(self) -> str:
        """The library's folder in a form that LanceDB takes, which is UTF-8 only."""
        address = str(self.folder)
        if shown(address) == address:
            return address
        if not os.path.isdir("/proc/self/fd"):
            raise LibraryError(
                f"LanceDB cannot write into {shown(address)}, whose name is not UTF-8; put the library elsewhere: "
                "neocog index FOLDER --library LIB"
            )
        folder = os.open(self.folder, os.O_RDONLY)
        weakref.finalize(self, os.close, folder)
        return f"/proc/self/fd/{folder}"

    def _table(self, name: str) -> Any:
        with self._lock:
            if name not in self._tables:
                try:
                    self._tables[name] = self._connect().open_table(name)
                except Exception as error:
                    raise LibraryError(
                        f"the table {name!r} of {self.folder} cannot be opened "
                        f"({str(error).splitlines()[0][:200]}); restore it from a copy, or index again from scratch"
                    ) from error
            return self._tables[name]

    def _forget(self, name: str) -> None:
        """Open a table anew the next time."""
        with self._lock:
            self._tables.pop(name, None)
        self._arrays.clear()

    def _key(self, name: str) -> tuple[int, str]:
        """The version of a table that is read, and a name that no other state of it has."""
        known = read_versions(self.folder).get(name)
        if known is not None:
            return known["version"], known["key"]
        version = self._table(name).version  # an older neocog made it, and nothing was changed since
        return version, f"version{version}"

    def _point(self, *, tidied: bool = False) -> None:
        """Note the newest versions of the tables that are open; called by who holds the lock of changes."""
        known = read_versions(self.folder)
        now = {name: self._tables[name].version for name in _READ if name in self._tables}
        changed = {
            name: {"tidied": 0, **known.get(name, {}), "version": version, "key": uuid.uuid4().hex[:12]}
            for name, version in now.items()
            if known.get(name, {}).get("version") != version
        }
        for name, entry in {**known, **changed}.items() if tidied else ():
            if name in now:
                changed[name] = {**entry, "tidied": now[name]}
        if changed:
            write_versions(self.folder, {**known, **changed})

    def _mirror(self, name: str) -> pa.Table:
        """The table's columns without vectors, up to date."""
        with self._lock, told(self.folder):
            for attempt in range(3):
                version, key = self._key(name)
                known = self._mirrors.get(name)
                if known is not None and known[0] == key:
                    return known[1]
                try:
                    read = functools.partial(self._read, name, version)
                    table = mapped_table(self.folder / "cache", name, key, read)
                except (RuntimeError, OSError, ValueError):  # a version that was cleaned up under our feet
                    if attempt == 2:
                        raise
                else:
                    self._mirrors[name] = (key, completed(table, _MIRRORED) if name == "pictures" else table)
        return self._mirrors[name][1]

    def _read(self, name: str, version: int) -> pa.Table:
        self._table(name)  # says so if it is damaged
        table = self._connect().open_table(name)
        table.checkout(version)
        columns = [c for c in table.schema.names if c not in _HEAVY]
        found = table.search().select(columns).to_arrow()
        # LanceDB moves rows that change to the end; an order of our own keeps the copies of vectors valid
        return found.take(pc.sort_indices(found.column(columns[0])))

    def _present(self) -> np.ndarray:
        return is_ok(self._mirror("pictures"))

    def _array(self, kind: str, model: str, width: int) -> tuple[np.ndarray, np.ndarray]:
        column, key, made = f"{kind}_{model}", self._key("pictures")[1], self._model(model).get("id", "")
        rows, fetch = lambda: self._mirror("pictures"), lambda wanted: self._fetch(column, wanted)
        return self._arrays.get(column, width, made, key, rows, fetch)

    def _fetch(self, column: str, wanted: list[str] | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        query = self._table(f"vectors_{column[2:]}").search().select(["hash", column])
        if wanted is not None:
            query = query.where("hash IN ({})".format(", ".join(f"'{one}'" for one in wanted if HASH.fullmatch(one))))
        with told(self.folder):
            for batch in query.to_batches():
                valid = batch.column(column).is_valid()
                rows = batch.filter(valid)
                if not len(rows):
                    continue
                values = rows.column(column)
                if column.startswith("n_"):  # float32, kept as two columns of float16
                    yield hash_bytes(rows.column("hash")), np.asarray(values, np.float32)[:, None].view(np.float16)
                else:
                    yield hash_bytes(rows.column("hash")), matrix(values)

    def _heavy(self, name: str, hashes: pa.ChunkedArray, keep: np.ndarray) -> pa.Array:
        """A column that is not mirrored, in the order of `hashes`; null where `keep` is false."""
        table = self._table("pictures" if name in SCHEMA.names else f"vectors_{name[2:]}")
        found = table.search().select(["hash", name]).to_arrow()
        return found.column(name).combine_chunks().take(pc.index_in(hashes, found.column("hash")))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the lock of a single change, waiting for other threads and processes."""
        with self._changing:
            if self._depth:
                yield
                return
            with Lock(self.folder / "write.lock", "writing to it", wait=600) as lock:
                self._depth += 1
                try:
                    if lock.abandoned and (self.folder / "library.json").exists():
                        for name in _READ:
                            self._table(name)
                    yield
                except BaseException:
                    with contextlib.suppress(Exception):  # the first failure is the one to tell
                        self._point()
                    raise
                else:
                    with told(self.folder):
                        self._point()
                finally:
                    self._depth -= 1

    def _approximate(self, model: str, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest by the index; what it does not know yet is compared exactly, by LanceDB.

        A quantised index gives candidates, which are compared exactly here: a read of the mapped copy costs less
        than one of the table (refine_factor).
        """
        there, vectors = self.vectors(model)  # in order
        table = self._table(f"vectors_{model}")
        k, quantised = min(k, len(there)), self._model(model).get("index") == "IVF_PQ"
        found: list[tuple[np.ndarray, np.ndarray]] = []
        with told(self.folder):
            away = max(0, table.count_rows() - len(there))  # vectors of pictures that are gone: these are skipped
            for query in queries:
                more = min(away, 20 + k)
                while k + more <= 4 * _MOST_FROM_INDEX:
                    search = table.search(query, vector_column_name=f"v_{model}").distance_type("cosine")
                    search = search.nprobes(_PROBES)
                    most = k + more
                    if quantised:
                        most = max(_SHORTLIST, _SHORTLIST_EACH * most)
                    else:
                        search = search.ef(max(_CANDIDATES, 4 * most)).refine_factor(_REFINE)
                    rows = search.select(["hash", "_distance"]).limit(most).to_arrow()
                    names = hash_texts(hash_bytes(rows.column("hash")))
                    place = np.searchsorted(there, names).clip(0, len(there) - 1)
                    known = there[place] == names
                    place, alike = place[known], 1 - np.asarray(rows.column("_distance"), np.float32)[known]
                    if quantised:
                        place.sort()  # read in the order of the file
                        alike = vectors[place].astype(np.float32) @ query
                    if len(place) >= k:
                        best = np.lexsort((place, -alike))[:k]
                        found.append((there[place[best]], alike[best]))
                        break
                    # a graph may not reach everything: then all are compared
                    more = min(away, 4 * more) if more < away else 4 * _MOST_FROM_INDEX
                else:
                    hashes, scores = self._compared(model, query[None], k, "cosine")
                    found.append((hashes[0], scores[0]))
        return np.stack([hashes for hashes, _ in found]), np.stack([scores for _, scores in found])
