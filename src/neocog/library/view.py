"""A library as searching, teaching and describing read it: its rows, numbered, with everything lined up by row.

A view belongs to one version of the library and is kept until the library changes, so that the second search is
faster than the first. Nothing here imports torch until a picture that is not in the library has to be looked at.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neocog.data.places import is_there, read_place
from neocog.data.recordings import part
from neocog.data.sound import begins
from neocog.data.stores import address, is_sound, moment
from neocog.errors import DataError, UsageError
from neocog.library.concepts import Vocabulary, vocabulary
from neocog.library.fulltext import FullText
from neocog.library.mirror import hash_bytes, hash_texts
from neocog.library.query import Example, Region
from neocog.library.rows import HASH, content_hash, encode_path
from neocog.library.store import Store

COLUMNS = (
    "hash", "paths", "taken", "camera", "latitude", "longitude", "width", "height", "labels", "tags", "captions",
    "described", "keywords", "texts", "places", "phash", "flat", "models",
)  # fmt: skip
FEATURES, OUTPUT = "features", "output"  # layers: what the last one reads, and what it gives
_PAIRS_FROM = 512  # pictures whose pairs show how alike two pictures of the library usually are
_USUAL = 0.52, 0.07  # mean and deviation of the cosine of two photographs, by MobileNet's features
_USUAL_SOUNDS = 0.39, 0.131  # of two parts of recordings, by statistics of MFCCs
_USUAL_RUNS = 0.507, 0.186  # the same by a run that was trained on ten words of two people
_BEHIND = 60.0  # seconds behind the last known place of a video or a recording that are still in it
_AT = re.compile(r"(.+) at (?:(\d+):)?(\d\d):(\d\d)", re.DOTALL)
_BROKEN = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # halves of characters, which stand in no path
_SUMS = 64 << 20  # bytes of probabilities that are kept
_CHUNK = 8192  # rows converted from half precision at a time


class View:
    """One version of a library, row by row."""

    def __init__(self, store: Store, version: int) -> None:
        self._store, self.version = weakref.ref(store), version
        self.table = store.rows(list(COLUMNS))
        self.hashes: np.ndarray = hash_texts(hash_bytes(self.table.column("hash")))
        self._aligned: list[tuple[np.ndarray, np.ndarray]] = []
        self._pairs: dict[tuple[str, str, str], tuple[float, float]] = {}
        self._sums: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}
        self.shifts: dict[tuple[str, int], float] = {}  # see calibration.shift_of
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def store(self) -> Store:
        """The library."""
        store = self._store()
        assert store is not None, "a view is used while its store is"
        return store

    @cached_property
    def text(self) -> FullText:
        """The words of every picture."""
        return FullText(self.table, lambda name, make: self.store.kept(name, self.version, make))

    @cached_property
    def taken(self) -> np.ndarray:
        """When the pictures were taken, datetime64[s] (N,); NaT where that is not known."""
        return np.asarray(self.table.column("taken").to_numpy()).astype("datetime64[s]")

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.hashes, kind="stable")

    def rows_of(self, hashes: np.ndarray | Sequence[str]) -> np.ndarray:
        """Return the row of each hash, int64 (N,); -1 where there is none."""
        wanted = np.asarray(hashes, dtype=self.hashes.dtype if len(self) else "U32")
        if not len(self):
            return np.full(len(wanted), -1)
        place = np.searchsorted(self.hashes, wanted, sorter=self._order).clip(0, len(self) - 1)
        rows = self._order[place]
        return np.where(self.hashes[rows] == wanted, rows, -1)

    def paths(self, row: int) -> tuple[str, ...]:
        """Return the absolute paths of a picture."""
        return tuple(self.store.name_of(text) for text in self.table.column("paths")[row].as_py() or ())

    def model(self, name: str | None = None, like: Sequence[str] = ()) -> str | None:
        """Return a model's name: the one given, or the one to search with; None if there is none.

        `like`: what will be compared with it; recordings have another model than pictures.

        Raises: LibraryError: no such model. UsageError: `like` are of both kinds, or not of the model's.
        """
        kinds = {self.heard(one): one for one in like}
        if len(kinds) > 1:
            raise UsageError("expected pictures or recordings to compare with, got both; name them in two searches")
        if name is not None:
            hears = self.store.card_of(name).get("kind") == "sound"
            if like and hears not in kinds:
                others = ", ".join(self.store.models_of(sounds=not hears)) or "none yet"
                reads, own = ("recordings", "pictures") if hears else ("pictures", "recordings")
                raise UsageError(
                    f"{name} reads {reads}, and {kinds[not hears]} is a {own[:-1]}; nets for {own} here: {others}"
                )
            return name
        return self.store.model_of(sounds=next(iter(kinds))) if kinds else self.store.model

    def heard(self, file: str) -> bool:
        """Whether an example is a recording, by its name, its time as people read it, or its hash."""
        row = int(self.rows_of([file])[0]) if HASH.fullmatch(file) else -1
        found = _AT.fullmatch(file)
        return is_sound((self.paths(row) or ("",))[0] if row >= 0 else found[1] if found else file)

    def vocabulary(self, model: str) -> Vocabulary | None:
        """Return the concepts that a model has probabilities for; None if it has none."""
        card = self.store.models()[model]
        return vocabulary(card["concepts"]) if card.get("concepts") and card.get("classes", 1) else None

    def vectors(self, model: str, layer: str = FEATURES) -> tuple[np.ndarray, np.ndarray]:
        """Return rows int64 (M,) and float16 (M, D) of the pictures that the model has seen; see `unit`.

        `layer`: "features", vectors of length 1; or "output", the probabilities of the net's classes.
        """
        hashes, vectors = self.store.vectors(model) if layer == FEATURES else self.store.probabilities(model)
        rows = self.aligned(hashes)
        return (rows, vectors) if (rows >= 0).all() else (rows[rows >= 0], vectors[rows >= 0])

    def probabilities(self, model: str, concepts: Sequence[int]) -> np.ndarray:
        """Return float32 (N,): the sum of the probabilities of classes, which exclude each other; 0 where unknown.

        Of the last classes that were asked for it is kept: do not write to it.
        """
        chosen = tuple(concepts)
        with self._lock:
            if (model, chosen) in self._sums:
                return self._sums[model, chosen]
        rows, values = self.vectors(model, OUTPUT)
        out, columns = np.zeros(len(self), np.float32), list(chosen)
        for start in range(0, len(rows), _CHUNK):
            part = values[start : start + _CHUNK]
            part = part[:, columns] if 2 * len(columns) < part.shape[1] else part.astype(np.float32)[:, columns]
            out[rows[start : start + _CHUNK]] = part.astype(np.float32).sum(axis=1)
        out.flags.writeable = False
        with self._lock:
            while self._sums and (len(self._sums) + 1) * out.nbytes > _SUMS:
                del self._sums[next(iter(self._sums))]
            self._sums[model, chosen] = out
        return out

    def embed(self, model: str, pictures: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return features float32 (B, D) and probabilities float32 (B, K) of pictures (bytes or uint8 arrays).

        The net that the model's vectors were made with is made once, and kept.

        Raises: LibraryError: its weights are no longer there. DecodeError.
        """
        key = (str(self.store.folder), model)
        if key not in _nets:
            from neocog.library.embed import embedder_of

            _nets[key] = embedder_of(self.store.models()[model])
        features, probabilities = _nets[key].embed(pictures)
        return np.asarray(features, np.float32), np.asarray(probabilities, np.float32)

    def likeness(
        self, model: str, query: np.ndarray, metric: str, layer: str = FEATURES, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Return float32 (N,): cosine to a query (D,), or minus the distance for "euclidean"; -inf where unknown.

        `rows`: compute these only.
        """
        seen, vectors = self.vectors(model, layer)
        out = np.full(len(self), -np.inf, np.float32)
        if metric == "cosine":
            query = query / max(float(np.linalg.norm(query)), 1e-12)
        norms = self._norms(model, layer) if metric == "euclidean" else None
        if rows is None:
            chosen = np.arange(len(seen))
        else:
            wanted = np.zeros(len(self), bool)
            wanted[rows] = True
            chosen = np.flatnonzero(wanted[seen])
        for start in range(0, len(chosen), _CHUNK):
            place = chosen[start : start + _CHUNK]
            if len(chosen) == len(seen):
                place = slice(start, start + _CHUNK)  # type: ignore[assignment]  # a copy less
            product = unit(vectors[place], layer) @ query.astype(np.float32)
            if norms is not None:
                size = norms[place]
                product = -np.sqrt(np.maximum(size * size - 2 * size * product + float(query @ query), 0))
            out[seen[place]] = product
        return out

    def pairs(self, model: str, metric: str, layer: str = FEATURES) -> tuple[float, float]:
        """Return mean and deviation of the likeness of two random pictures."""
        key = (model, metric, layer)
        if key not in self._pairs:
            rows, vectors = self.vectors(model, layer)
            chosen = np.unique(np.linspace(0, max(len(rows) - 1, 0), min(len(rows), _PAIRS_FROM)).astype(int))
            some = unit(vectors[chosen], layer)
            if metric == "euclidean" and len(chosen):
                some = some * self._norms(model, layer)[chosen][:, None]
            if len(some) < 5:  # too few to tell
                scale = float(np.linalg.norm(some, axis=1).mean()) if len(some) else 1.0
                usual = _USUAL_SOUNDS if self.store.models()[model].get("kind") == "sound" else _USUAL
                self._pairs[key] = usual if metric == "cosine" else (-scale, 0.1 * scale)
            else:
                alike = some @ some.T
                if metric == "euclidean":
                    square = np.diag(alike)
                    alike = -np.sqrt(np.maximum(square[:, None] + square[None] - 2 * alike, 0))
                pairs = alike[np.triu_indices(len(some), 1)]
                self._pairs[key] = (float(pairs.mean()), max(float(pairs.std()), 1e-3))
        return self._pairs[key]

    def scale(self, model: str, metric: str, layer: str = FEATURES) -> tuple[float, float]:
        """Return what is taken from a likeness, and what it is then divided by, before a line judges it.

        As `pairs`, but for runs on recordings, whose cosines are judged as they are: of few classes random pairs are
        often of the same one.
        """
        mean, spread = self.pairs(model, metric, layer)
        card = self.store.models()[model]
        if card.get("kind") != "sound" or card.get("weights") is None:
            return mean, spread
        if metric == "cosine":
            return 0.0, 1.0
        usual, deviation = _USUAL_RUNS  # a distance as the cosine that is as unusual
        return mean - spread * usual / deviation, spread / deviation

    def _norms(self, model: str, layer: str) -> np.ndarray:
        norms = self.store.norms(model)
        return norms if layer == FEATURES else np.ones_like(norms)

    def aligned(self, hashes: np.ndarray) -> np.ndarray:
        """Return the row of each hash that the store gave with vectors, int64 (N,); -1 where there is none.

        The store gives the same array again as long as nothing changes.
        """
        for known, rows in self._aligned:
            if known is hashes:
                return rows
        rows = np.arange(len(self)) if np.array_equal(hashes, self.hashes) else self.rows_of(hashes)
        self._aligned = [*self._aligned[-3:], (hashes, rows)]
        return rows


def unit(values: np.ndarray, layer: str = FEATURES) -> np.ndarray:
    """Return vectors float32 (M, D) of length 1 for what a library keeps of a layer.

    Those of the output are the square roots of the probabilities (Bhattacharyya 1943): a sum of products would look
    at the most probable class only.
    """
    values = np.asarray(values, np.float32)
    if layer == FEATURES:
        return values
    roots = np.sqrt(np.maximum(values, 0))  # half precision lets their sum differ from 1
    return roots / np.maximum(np.linalg.norm(roots, axis=-1, keepdims=True), 1e-12)


_views: weakref.WeakKeyDictionary[Store, View] = weakref.WeakKeyDictionary()
_nets: dict[tuple[str, str], Any] = {}  # by library and model


def view_of(store: Store) -> View:
    """Return the view of a library as it is now."""
    version = store.version()
    view = _views.get(store)
    if view is None or view.version != version:
        view = _views[store] = View(store, version)
    return view


def find_picture(view: View, file: str, *, files: bool = True) -> tuple[int, Path | None]:
    """Return (row or -1, path) for a file, the hash of a picture in the library, or the end of its path there.

    With ``files=False`` no file is looked at: only pictures of the library are found.

    Raises: UsageError: there is no such picture. DataError: a recording in which nothing sounds, a damaged video.
    """
    file = _BROKEN.sub("\ufffd", file)
    path = Path(_at(view, file)).expanduser()
    file = str(path) if moment(str(path)) else file
    try:
        data = read_place(str(path)) if files and is_there(str(path)) else None
    except DataError as error:
        raise type(error)(f"{file} cannot be read: {error}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if data is not None:
        return int(view.rows_of([content_hash(data)])[0]), path
    if HASH.fullmatch(file):
        row = int(view.rows_of([file])[0])
        if row >= 0:
            return row, _first(view, row)
    paths = view.table.column("paths")
    flat = pc.list_flatten(paths)
    text = encode_path(file).lstrip("/")
    whole = pc.is_in(flat, value_set=pa.array([text, view.store.text_of(address(file))], pa.string()))
    ends = np.asarray(pc.or_(whole, pc.ends_with(flat, "/" + text))).astype(bool)
    rows = np.unique(np.asarray(pc.list_parent_indices(paths))[ends])
    if len(rows) == 1:
        return int(rows[0]), _first(view, int(rows[0]))
    if len(rows):
        raise UsageError(
            f"{len(rows)} pictures of the library are called {file!r}; type more of the path, such as "
            f"{view.paths(int(rows[0]))[0]}"
        )
    where = f", neither here ({Path.cwd()}) nor in the library; type its full path" if files else " in the library"
    raise UsageError(f"there is no picture {file!r}{where}")


def _at(view: View, file: str) -> str:
    """A moment as neocog prints it (holiday.mp4 at 00:12): the nearest place that is known; all else unchanged."""
    found = _AT.fullmatch(file)
    if found is None:
        return file
    hours, minutes, seconds = (int(part or 0) for part in found.group(2, 3, 4))
    when, name = 3600 * hours + 60 * minutes + seconds + 0.5, encode_path(found[1])
    whole = view.store.text_of(address(found[1]))
    every = pc.list_flatten(view.table.column("paths")).to_pylist()
    known = [(at, p) for p in every if (at := moment(p)) and (at[0] == whole or f"/{at[0]}".endswith(f"/{name}"))]
    if not known or when > _BEHIND + max(at[1] for at, _ in known):
        return file
    return view.store.name_of(min(known, key=lambda one: abs(one[0][1] - when))[1])


def vector_of(
    view: View,
    model: str,
    example: Example,
    layer: str = FEATURES,
    *,
    metric: str = "cosine",
) -> np.ndarray:
    """Return the features float32 (D,) of an example (see `find_picture`) or of a part of it.

    They are as the net gives them where `metric` is "euclidean"; else their length may be 1.

    A picture of the library costs nothing; any other loads the net.

    Raises: UsageError: no such picture, or a region outside it. DecodeError: it cannot be read.
    """
    file, region, data = example.file, example.region, example.data
    if data is not None:
        data = part(data) if begins(data) else data
        row, path = int(view.rows_of([content_hash(data)])[0]), None
    else:
        row, path = find_picture(view, file)
    if row >= 0 and region is None:
        rows, vectors = view.vectors(model, layer)
        found = np.flatnonzero(rows == row)
        if len(found):
            size = float(view._norms(model, layer)[found[0]]) if metric == "euclidean" else 1.0
            return unit(vectors[found[0]], layer) * size
    if data is None and (path is None or not is_there(str(path))):
        raise UsageError(
            f"the file of {file!r} is gone, and the library has no vector of this part of it; use another picture"
        )
    features, probabilities = seen(view, model, file if path is None else str(path), region, data)
    return unit(features if layer == FEATURES else probabilities, layer)


def seen(
    view: View, model: str, file: str, region: Region | None = None, data: bytes | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Features (D,) and probabilities (K,) of a file (or its bytes), or of a part of a picture.

    Raises: DataError: it cannot be read; names the file and the model.
    """
    picture: Any = read_place(file) if data is None else data
    try:
        if region is not None:
            from neocog.data.decode import decode

            pixels = decode(picture)
            left, top, right, bottom = region.pixels(pixels.shape[1], pixels.shape[0])
            picture = np.ascontiguousarray(pixels[top:bottom, left:right])
        features, probabilities = view.embed(model, [picture])
    except DataError as error:
        raise type(error)(f"{file} cannot be read by {model}: {error}") from None
    return features[0], probabilities[0]


def _first(view: View, row: int) -> Path | None:
    paths = view.paths(row)
    return Path(next((p for p in paths if is_there(p)), paths[0])) if paths else None


def texts(view: View, column: str) -> tuple[np.ndarray, pa.Array]:
    """Return (rows, texts) of a column of texts or of lists of texts, each text with the row that it belongs to."""
    values = view.table.column(column)
    if pa.types.is_list(values.type):
        return np.asarray(pc.list_parent_indices(values)), pc.list_flatten(values)
    return np.arange(len(view)), values
