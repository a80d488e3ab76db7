"""The nearest vectors of a library: compared with all of them, or through an index where they are many."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import numpy as np

from neocog.errors import LibraryError, UsageError
from neocog.library.card import read_versions
from neocog.library.faults import told
from neocog.library.lock import LibraryBusy, Lock
from neocog.library.mirror import forget_parts, hash_bytes, hash_texts
from neocog.library.nearest import exact_nearest
from neocog.library.vectors import Vectors

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


class Neighbours(Vectors):
    """The vectors of a library, and what is nearest to one."""

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

    # inside

    def _compared(self, model: str, queries: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """The nearest by comparing with all."""
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
