"""A sentence space of a library's own: learned from the captions of its pictures, beginning with the one that it has.

The vectors that the library has of the space's trunk are what is learned from, so no picture is read; the training is
that of the task match-captions. A fifth of the pictures with captions is held out, by their hashes, so the same ones
each time: they say what was gained, and a space that does not find more there than the one in use, by more than the
standard error of the gain, is thrown away.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neocog.data.kinds import TextLists
from neocog.data.places import read_place
from neocog.data.source import Source
from neocog.errors import DataError, LibraryError
from neocog.library.sentences import FOLDER, Seen, seen_in, shipped, space_of
from neocog.library.store import Store
from neocog.library.view import View, view_of
from neocog.text.space import Space

FEWEST = 50  # pictures with captions that are learned from
_TO_CALIBRATE = 200  # held-out pictures from which probabilities are learned anew
_SPLITS = np.array([2, 2, 1, *[0] * 7], np.int8)  # test, test, validation, training: by the hash
_AMONG = 10  # recall@10
_OFTEN = 2  # times that a word must be in the captions to be known


@dataclass(frozen=True)
class Learned:
    """What learning from captions gave.

    Attributes:
        pictures, captions: what was learned from. held_out: pictures that the figures are of.
        before, after: recall@10 of sentence to picture, and of picture to sentence, 0..1, of the space that the library
            had, and of the new one.
        kept: whether the new one is used from now on.
    """

    pictures: int
    captions: int
    held_out: int
    before: tuple[float, float]
    after: tuple[float, float]
    kept: bool


def learn_sentences(
    store: Store, *, epochs: float = 8.0, seed: int = 0, progress: bool = False, say: Callable[[str], object] = print
) -> Learned:
    """Learn a sentence space from the captions of a library's pictures; it is used if it finds clearly more.

    Raises: LibraryError: too few pictures with captions, or no vectors of the net that the space reads.
    """
    from neocog.fit import train
    from neocog.text.space_making import calibrated, evened, joined, of_run, shares

    begun, used = shipped(), space_of(store)
    if begun is None or used is None:
        raise LibraryError("no sentence space comes with this installation of neocog; install it again")
    if used.trunk != begun.trunk:
        raise LibraryError(
            f"{store.folder} is searched with the CLIP {used.trunk}, which does not learn from captions; to go back to "
            "the space that comes with neocog, type neocog learn-sentences LIBRARY --forget"
        )
    view = view_of(store)
    if begun.trunk not in store.models():
        raise LibraryError(
            f"{store.folder} has no vectors of {begun.trunk}, which sentences are learned from; type "
            f"'neocog index --net {begun.trunk}'"
        )
    source = Captioned(view, begun.trunk)
    rows = [np.flatnonzero(source.splits == split) for split in range(3)]
    if len(source) < FEWEST or not all(map(len, rows)):
        raise LibraryError(
            f"{len(source):,} pictures of {store.folder} have captions and vectors, at least {FEWEST} are needed; give "
            "a table of captions (columns path, caption): neocog learn-sentences LIBRARY --captions TABLE"
        )
    start = store.models()[begun.trunk]["net"]["from"]
    with store.indexing(wait=600), tempfile.TemporaryDirectory(dir=store.folder, prefix=".learning-") as name:
        work, towers = Path(name), []
        for n in range(begun.towers):
            say(f"tower {n + 1} of {begun.towers}: {len(rows[0]):,} pictures")
            one = begun.tower(n)
            one.save(work / f"begin-{n}")
            run = train(
                source, task="match-captions", start=start, regime="features", epochs=epochs, seed=seed + n,
                out=work / f"run-{n}", set={"lr": 3e-4}, diagnosis=False, progress=progress,
                task_options={**one.sizes, "space": str(work / f"begin-{n}")},
            )  # fmt: skip
            towers.append(of_run(run.folder, begun.trunk))
        new, held = joined(towers), np.concatenate(rows[1:])
        texts = [source.texts[i] for i in rows[0]]
        words = {**begun.about["words"], **shares(texts, _OFTEN)}
        heads = {k: v for k, v in begun.weights.items() if k.startswith("words.")}  # places move little
        new = Space({**new.weights, **heads}, {**begun.about, "words": words, "learned_from": len(rows[0])})
        new = evened(new, source.vectors[rows[0]], texts)
        if len(held) >= _TO_CALIBRATE:
            new = calibrated(new, source.vectors[held], [source.texts[i] for i in held], seen=source.seen(held))
            new.about["calibration"]["threshold"] = begun.threshold  # of a probability, so it stays
        before, after = (_found(space, source, rows[2]) for space in (used, new))
        gain = (after - before).mean(1)  # of each picture
        kept = bool(gain.mean() > gain.std() / np.sqrt(len(gain)))  # by more than the error of the mean
        if kept:
            new.save(work / FOLDER)
            _put(work / FOLDER, store.folder / FOLDER)
    old, found = ((float(one[:, 0].mean()), float(one[:, 1].mean())) for one in (before, after))
    return Learned(len(rows[0]), len(_of(source, rows[0])), len(rows[2]), old, found, kept)


def forget_sentences(store: Store) -> bool:
    """Remove the library's own space, so that the one that comes with neocog is used; False if there was none."""
    own = store.folder / FOLDER
    if not own.exists():
        return False
    _put(None, own)
    return True


class Captioned(Source):
    """The pictures of a library that have captions and vectors, as data to train on; their vectors are their features.

    Attributes:
        vectors: float32 (N, F). texts: the captions of each.
    """

    def __init__(self, view: View, model: str) -> None:
        column = view.table.column("captions")
        seen, values = view.vectors(model)
        place = [k for k, row in enumerate(seen) if column[int(row)].as_py()]
        self._view, self._model, self._rows = view, model, seen[place]
        self._paths = [view.paths(row) for row in self._rows.tolist()]
        self.vectors = values[place].astype(np.float32)
        self.texts = [tuple(column[row].as_py()) for row in self._rows.tolist()]
        splits = np.array([_SPLITS[int(str(one)[:8], 16) % 10] for one in view.hashes[self._rows]], np.int8)
        name = view.store.folder.parent.name or "library"
        super().__init__(name, (), np.full(len(place), -1), splits, captions=TextLists(self.texts))

    def features(self, rows: np.ndarray) -> np.ndarray:
        return self.vectors[rows]

    def seen(self, rows: np.ndarray) -> Seen:
        """What the net's classes say of some of them."""
        view, model, own = self._view, self._model, self._rows[rows]
        return seen_in(view.vocabulary(model), lambda some: view.probabilities(model, some)[own])

    def key(self, i: int) -> str:
        return self._paths[i][0] if self._paths[i] else str(i)

    def read(self, i: int) -> bytes:
        try:
            return read_place(self.key(i))
        except OSError as error:
            raise DataError(f"{self.key(i)}: {error.strerror or error}") from error


def _of(source: Captioned, rows: np.ndarray) -> list[str]:
    return [text for i in rows for text in source.texts[i]]


def _found(space: Space, source: Captioned, rows: np.ndarray) -> np.ndarray:
    """float (N, 2): of each picture the share of its sentences that find it among 10, and whether it finds one so."""
    from neocog.tasks.ranking import ranks

    owner = np.repeat(np.arange(len(rows)), [len(source.texts[i]) for i in rows])
    own, back = ranks(space.pictures(source.vectors[rows]), space.sentences(_of(source, rows)), owner)
    return np.stack([np.bincount(owner, back <= _AMONG) / np.bincount(owner), own <= _AMONG], 1)


def _put(new: Path | None, place: Path) -> None:
    """Put a folder in the place of another one, or remove that one; a killed process leaves none, or a whole one."""
    old = place.with_name(f".{place.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        os.rename(place, old)
    if new is not None:
        os.rename(new, place)
    shutil.rmtree(old, ignore_errors=True)
