"""What the models of a library make of its pictures: vectors, their lengths, probabilities; and what is nearest to one,
found by comparing with all, or through an index where they are many."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from neocog.errors import LibraryError, UsageError, closest
from neocog.library.card import NAME, difference, read_versions
from neocog.library.lock import LibraryBusy, Lock
from neocog.library.mirror import forget_older, forget_parts, hash_bytes, hash_texts
from neocog.library.rows import HASH, has_model, matrix
from neocog.library.tables import Tables, told
from neocog.machine import usable_cores

_IN_CACHE = 256  # vectors of a product: of more, the linear algebra library is three times as slow
_STACKED = 2  # such products at once; their float32 vectors stay in the processor's cache
_COLUMNS = 4  # of a product: of more, the linear algebra library makes threads of its own, which get in the way
_LEAST_EACH = 8  # such blocks that are worth a thread
_AT_ONCE = 8192  # rows that are converted from half precision at a time


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
_MOST_FROM_INDEX = 1000  # results that the index is asked for; more are found by comparing with all
_KEEP_VERSIONS = timedelta(minutes=10)  # readers may still use them
_CLUTTER = 40  # versions from which joining small files is worth its while

_MOST_SCORES = 64 << 20  # at a time: 256 MB
_BLOCK = 64 << 20  # bytes of float32 that are made of float16 vectors at a time


class Vectors(Tables):
    """The tables of a library, with the models that have vectors in it."""

    def models(self) -> dict[str, dict[str, Any]]:
        """What has vectors here: name -> column, dimension, classes, and what `add_model` got."""
        return dict(self._card.read()["models"])

    def card_of(self, name: str) -> dict[str, Any]:
        """Return what `models` has of one. Raises: LibraryError: there is none of that name."""
        models = self.models()
        if name not in models:
            there = f"it has {', '.join(models)}" if models else "it has none yet: 'neocog index FOLDER' makes one"
            raise LibraryError(f"{self.folder} has no vectors of {name!r}{closest(name, models)}; {there}")
        return models[name]

    @property
    def model(self) -> str | None:
        """The model to search with: that of pictures, else that of recordings; None: there is none."""
        return self.model_of(sounds=False) or self.model_of(sounds=True)

    def model_of(self, *, sounds: bool) -> str | None:
        """The last model with which all pictures, or all recordings, were indexed; None: there is none."""
        card, those = self._card.read(), self.models_of(sounds=sounds)
        chosen = card.get("sounds" if sounds else "model")
        return chosen if chosen in those else next(iter(those), None)

    def models_of(self, *, sounds: bool) -> dict[str, dict[str, Any]]:
        """As `models`, those of pictures or those of recordings."""
        return {name: card for name, card in self.models().items() if (card.get("kind") == "sound") == sounds}

    def use_model(self, name: str) -> None:
        """Make a model the one to search pictures, or recordings, with."""
        key = "sounds" if self.card_of(name).get("kind") == "sound" else "model"
        if self._card.read().get(key) != name:
            with self._writing(), told(self.folder):
                self._card.write(**{key: name})

    def add_model(self, name: str, dimension: int, card: dict[str, Any], *, classes: int = 0) -> None:
        """Make the columns for a model; once more with the same card changes nothing.

        `card` is kept as it is, as JSON (net, weights' fingerprint, preprocessing, vocabulary).

        Raises: LibraryError: there is another model of that name.
        """
        if not NAME.fullmatch(name):
            raise UsageError(f"a model's name is made of a-z, 0-9 and _, got {name!r}")
        whole = {
            **json.loads(json.dumps(card)), "column": f"v_{name}", "dimension": dimension, "classes": classes,
            "id": uuid.uuid4().hex[:8],  # copies in cache/ are named after it
        }  # fmt: skip
        old = self._card.read()["models"].get(name)
        if old is not None and not difference(old, whole) and whole.keys() <= old.keys():
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
                self._card.write(models={**models, name: {**whole, **old}})  # what an older neocog did not note
                return
            self._unlist(name)  # a table without a card: a process was killed between the two
            fields = [
                pa.field("hash", pa.string(), nullable=False),
                pa.field(f"v_{name}", pa.list_(pa.float16(), dimension)),
                pa.field(f"n_{name}", pa.float32()),
                *([pa.field(f"p_{name}", pa.list_(pa.float16(), classes))] if classes else []),
            ]
            self._connect().create_table(f"vectors_{name}", schema=pa.schema(fields))
            self._card.write(models={**models, name: whole})

    def remove_model(self, name: str) -> None:
        """Remove a model and its vectors."""
        made = self.card_of(name).get("id", "")
        with self._writing(), told(self.folder):
            self._card.write(models={key: card for key, card in self.models().items() if key != name})
            self._unlist(name)
        for kind in "vnp":
            forget_older(self.folder / "cache", f"{kind}_{name}_{made}")

    def vectors(self, model: str) -> tuple[np.ndarray, np.ndarray]:
        """Return hashes "U32" (N,) and vectors float16 (N, D) of length 1, in the order of hashes, as `rows`.

        Pictures that are gone, or that the model has not seen yet, are left out. The array may be mapped from disk:
        do not write to it.
        """
        return self._array("v", model, self.card_of(model)["dimension"])

    def probabilities(self, model: str) -> tuple[np.ndarray, np.ndarray]:
        """Return hashes "U32" (N,) and probabilities float16 (N, K), in the order of `vectors`."""
        return self._array("p", model, self.card_of(model)["classes"])

    def norms(self, model: str) -> np.ndarray:
        """Return the lengths, float32 (N,), that the model's vectors had, in the order of `vectors`."""
        self.card_of(model)
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
        """Return float32 (N, K): the products of what `derived` gave with K vectors, float32 (width, K).

        Where they fit, the values are read as 8-bit integers: of 386 numbers, that changes a product of unit vectors by
        less than 0.002 (tests/library/test_arrays.py).
        """
        short = self._arrays.short(f"s_{model}{made}", self._key("pictures")[1], values)
        kept = values if short is None else short[0]
        few = [np.ascontiguousarray(query[:, k : k + _COLUMNS]) for k in range(0, query.shape[1], _COLUMNS)]
        step = _IN_CACHE * _STACKED
        found = [np.empty((-(-len(values) // step) * step, some.shape[1]), np.float32) for some in few]

        def part(begin: int) -> None:
            block = np.zeros((step, kept.shape[1]), np.float32)  # written again and again, it stays in the cache
            stack = block.reshape(_STACKED, _IN_CACHE, -1)
            for start in range(begin, min(begin + each, len(kept)), step):
                some = kept[start : start + step]
                np.copyto(block[: len(some)], some, casting="unsafe")
                for columns, out in zip(few, found, strict=True):
                    np.matmul(stack, columns, out=out[start : start + step].reshape(_STACKED, _IN_CACHE, -1))

        each = step * max(_LEAST_EACH, -(-len(kept) // (step * usable_cores())))
        with ThreadPoolExecutor(usable_cores()) as pool:
            list(pool.map(part, range(0, len(kept), each)))
        out = (found[0] if len(found) == 1 else np.concatenate(found, 1))[: len(values)]
        return out if short is None else np.multiply(out, short[1][:, None], out=out)

    def nearest(self, model: str, queries: np.ndarray, k: int, metric: str = "cosine") -> tuple[np.ndarray, np.ndarray]:
        """Return the `k` nearest pictures to each query: hashes "U32" (Q, k) and similarity float32 (Q, k).

        Args:
            queries: (Q, D) or (D,). For "euclidean" as the net gives them, not brought to length 1.
            metric: "cosine" (similarity -1..1) or "euclidean" (similarity = minus the distance).

        Exact, unless the library is large and has an index (see `index_state`); then rows that the index does not
        know yet are compared exactly, so none is missed. Fewer than `k` columns if there are fewer pictures.

        Raises: LibraryError: no such model, or queries of another dimension.
        """
        if metric not in ("cosine", "euclidean"):
            raise UsageError(f"metric must be 'cosine' or 'euclidean', got {metric!r}")
        if k < 1:
            raise UsageError(f"expected to look for at least 1 picture, got {k}")
        queries = np.atleast_2d(np.asarray(queries, np.float32))
        dimension = self.card_of(model)["dimension"]
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

    def index_state(self, model: str) -> dict[str, int]:
        """How many of the model's vectors are in an index, and how many are compared exactly."""
        stats = None
        if "index" in self.card_of(model):
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

    # inside

    def _unlist(self, model: str) -> None:
        """No row says any more that it has vectors of this model, and their table is removed."""
        rows = self._mirror("pictures")
        has = rows.filter(pa.array(has_model(rows, model)))
        if len(has):
            left = [[m for m in row if m != model] for row in has.column("models").to_pylist()]
            changed = pa.table({"hash": has.column("hash"), "models": pa.array(left, pa.list_(pa.string()))})
            self._table("pictures").merge_insert("hash").when_matched_update_all().execute(changed)
        self._forget(f"vectors_{model}")
        self._connect().drop_table(f"vectors_{model}", ignore_missing=True)

    def _put_vectors(self, vectors: dict[str, pa.Table]) -> None:
        for model, rows in vectors.items():
            if len(rows):
                change = self._table(f"vectors_{model}").merge_insert("hash")
                change.when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def _array(self, kind: str, model: str, width: int) -> tuple[np.ndarray, np.ndarray]:
        column, key, made = f"{kind}_{model}", self._key("pictures")[1], self.card_of(model).get("id", "")
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

    def _compared(self, model: str, queries: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
        hashes, vectors = self.vectors(model)
        norms = self.norms(model) if metric == "euclidean" else None
        wide = self._arrays.wide(model, self._key("pictures")[1], vectors)
        best, score = exact_nearest(wide, queries, min(k, len(hashes)), norms)
        return hashes[best], score

    def _approximate(self, model: str, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest by the index; what it does not know yet is compared exactly, by LanceDB.

        A quantised index gives candidates, which are compared exactly here: a read of the mapped copy costs less
        than one of the table (refine_factor).
        """
        there, vectors = self.vectors(model)  # in order
        table = self._table(f"vectors_{model}")
        k, quantised = min(k, len(there)), self.card_of(model).get("index") == "IVF_PQ"
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

    def _make_index(self, model: str, kind: str, total: int, say: Callable[[str], object] | None) -> None:
        if say:
            say(f"making an index ({kind}) of {total:,} vectors of {model}, so that searching stays fast")
        with told(self.folder):
            from lancedb.index import HnswSq, IvfPq

            table, dimension = self._table(f"vectors_{model}"), self.card_of(model)["dimension"]
            quantised = IvfPq(distance_type="cosine", num_sub_vectors=dimension // 8)
            config = quantised if kind == "IVF_PQ" else HnswSq(distance_type="cosine")
            table.create_index(f"v_{model}", config=config, replace=True)
        with self._writing(), told(self.folder):
            models = self.models()
            if model in models:
                self._card.write(models={**models, model: {**models[model], "index": kind, "index_rows": total}})


def exact_nearest(
    vectors: np.ndarray, queries: np.ndarray, k: int, norms: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the `k` best rows for each query and their scores, (Q, k) each, the best first.

    Args:
        vectors: (N, D) of length 1, float16 or float32.
        queries: float32 (Q, D).
        k: at most N.
        norms: float32 (N,), the lengths that the vectors had; with them the score is minus the Euclidean distance
            to the vectors as they were, else the product.
    """
    if len(queries) > 1 and len(queries) * len(vectors) > _MOST_SCORES:
        half = len(queries) // 2
        parts = [exact_nearest(vectors, part, k, norms) for part in (queries[:half], queries[half:])]
        return np.concatenate([best for best, _ in parts]), np.concatenate([score for _, score in parts])
    scores = np.empty((len(queries), len(vectors)), np.float32)
    step = max(1, _BLOCK // max(1, vectors.shape[1] * 4))
    for start in range(0, len(vectors), step):
        block = vectors[start : start + step]
        scores[:, start : start + step] = queries @ block.astype(np.float32, copy=False).T
    if norms is not None:
        squares = (queries * queries).sum(1)[:, None] + (norms * norms)[None] - 2 * scores * norms[None]
        scores = -np.sqrt(np.maximum(squares, 0))
    if k == 0:
        return np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
    if k < len(vectors):
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    else:
        best = np.tile(np.arange(k), (len(queries), 1))
    found = np.take_along_axis(scores, best, 1)
    order = np.lexsort((best, -found), axis=1)  # equal ones in the order of the table
    return np.take_along_axis(best, order, 1), np.take_along_axis(found, order, 1)
