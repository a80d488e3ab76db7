"""What the models of a library make of its pictures: vectors, their lengths, probabilities."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from neocog.errors import LibraryError, UsageError, closest
from neocog.library.card import NAME, difference
from neocog.library.faults import told
from neocog.library.mirror import forget_older, hash_bytes
from neocog.library.rows import HASH, has_model, matrix
from neocog.library.tables import Tables

_IN_CACHE = 512  # vectors whose float32 form the processor's cache holds
_AT_ONCE = 8192  # rows that are converted from half precision at a time


class Vectors(Tables):
    """The tables of a library, with the models that have vectors in it."""

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
        """Return float32 (N, K): the products of what `derived` gave with K vectors, float32 (width, K).

        Where they fit, the values are read as 8-bit integers: of 386 numbers, that changes a product of unit vectors by
        less than 0.002 (tests/library/test_arrays.py).
        """
        short = self._arrays.short(f"s_{model}{made}", self._key("pictures")[1], values)
        out = np.empty((len(values), query.shape[1]), np.float32)
        for start in range(0, len(values), _IN_CACHE):
            block = slice(start, start + _IN_CACHE)
            out[block] = (values if short is None else short[0])[block].astype(np.float32) @ query
        return out if short is None else np.multiply(out, short[1][:, None], out=out)

    # inside

    def _model(self, name: str) -> dict[str, Any]:
        models = self.models()
        if name not in models:
            there = f"it has {', '.join(models)}" if models else "it has none yet: 'neocog index FOLDER' makes one"
            raise LibraryError(f"{self.folder} has no vectors of {name!r}{closest(name, models)}; {there}")
        return models[name]

    def _unlist(self, model: str) -> None:
        """No row says any more that it has vectors of this model."""
        rows = self._mirror("pictures")
        has = rows.filter(pa.array(has_model(rows, model)))
        if len(has):
            left = [[m for m in row if m != model] for row in has.column("models").to_pylist()]
            changed = pa.table({"hash": has.column("hash"), "models": pa.array(left, pa.list_(pa.string()))})
            self._table("pictures").merge_insert("hash").when_matched_update_all().execute(changed)

    def _put_vectors(self, vectors: dict[str, pa.Table]) -> None:
        for model, rows in vectors.items():
            if len(rows):
                change = self._table(f"vectors_{model}").merge_insert("hash")
                change.when_matched_update_all().when_not_matched_insert_all().execute(rows)

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
