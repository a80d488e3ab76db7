"""Duplicates on three levels, in groups with the best picture first. Nothing is deleted here.

exact    several files of one content.
near     also the same picture rescaled, recompressed or slightly cut: perceptual hash and thumbnail agree (see
         data.duplicates), and so do the vectors, where there are any.
similar  vectors agree: the same scene, another moment or another cut; and exact copies.

The limits were measured with MobileNet v1 0.75 on photographs of Flickr8k: the nearest of 500 others has a cosine of
0.71 (median), at most 0.81; the same photograph recompressed (quality 30), halved, cut by up to 20 % or mirrored has
0.86 to 0.97, made grey 0.77 to 0.9 (60 photographs).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from neocog.data.decode import decode
from neocog.data.duplicates import THUMB, Look, near_pairs
from neocog.data.places import read_place
from neocog.data.stores import file_of, is_sound
from neocog.errors import DataError, MissingExtra, UsageError, closest
from neocog.library.store import Store

LEVELS = ("exact", "near", "similar")
NEAR = 0.75  # cosine that the vectors of near duplicates have at least
SIMILAR = 0.85  # cosine from which two pictures are similar
_SIDE = 256  # pixels of the short side at which sharpness is compared
_BLOCK = 2048
_MOST_PAIRS = 20_000_000  # remembered in full: 320 MB, and some gigabytes while groups are made


@dataclass(frozen=True, slots=True)
class Copy:
    """One file of a group."""

    hash: str
    path: Path
    width: int
    height: int
    size: int  # bytes
    sharpness: float = 0.0  # 0 where it was not needed to decide
    similarity: float = 1.0  # cosine with the first of the group; 1 if there are no vectors


@dataclass(frozen=True, slots=True)
class Group:
    """Pictures that show the same; `best` is the one to keep: the largest, then the sharpest, then the most bytes."""

    level: str
    copies: tuple[Copy, ...]  # the best first

    @property
    def best(self) -> Copy:
        """The picture that is proposed for keeping."""
        return self.copies[0]

    @property
    def superfluous(self) -> int:
        """Bytes of the others."""
        return sum(copy.size for copy in self.copies[1:])


def duplicates(
    store: Store, level: str = "exact", *, threshold: float | None = None, model: str | None = None
) -> list[Group]:
    """Return groups of duplicates, those with most superfluous bytes first.

    Args:
        level: "exact", "near" or "similar"; each has the exact copies, too, beside the picture that they are copies of.
        threshold: cosine from which vectors agree; default `NEAR` or `SIMILAR`.
        model: whose vectors; default: the one that searches use.

    Raises: UsageError: no such level, or a threshold outside 0..1. LibraryError: no such model.
    """
    if level not in LEVELS:
        raise UsageError(f"unknown level {level!r}{closest(level, LEVELS)}; expected one of {', '.join(LEVELS)}")
    if threshold is not None and not 0 < threshold <= 1:
        raise UsageError(f"--threshold is a cosine above 0 and at most 1, got {threshold}")
    columns = ["hash", "paths", "mtimes", "width", "height", "size"]
    rows = store.rows(columns).to_pylist()
    alike: list[list[int]] = []  # rows of different content
    vectors = None
    if level != "exact":
        model = model or store.model
        hashes = [row["hash"] for row in rows]
        vectors = _aligned(store, model, hashes) if model else None
        if level == "near":
            looked_at = np.array([not (row["paths"] and is_sound(os.fspath(row["paths"][0]))) for row in rows], bool)
            pairs = _near(store, looked_at, vectors, NEAR if threshold is None else threshold)
        elif vectors is None:
            raise UsageError(
                "similar pictures are found by their vectors, and the library has none; type 'neocog index FOLDER'"
            )
        else:
            pairs = _similar(vectors, SIMILAR if threshold is None else threshold)
        alike = list(_around_leaders(pairs))
    grouped = {i for group in alike for i in group}
    alone = [[i] for i, row in enumerate(rows) if i not in grouped and len(row["paths"]) > 1]
    groups = [_judged(store, level, [rows[i] for i in g], vectors, g) for g in alike]
    groups += [_judged(store, "exact", [rows[i] for i in g], None, g) for g in alone]
    return sorted(_by_video(groups), key=lambda group: -group.superfluous)


def _by_video(groups: list[Group]) -> Iterator[Group]:
    """Groups in which a video stands once; of several of the same videos alone, the first.

    What is alike within one video is no copy, and two copies of a video are one pair, not one for each of its shots.
    """
    met: set[frozenset[str]] = set()
    for group in groups:
        first = {file_of(os.fspath(copy.path)): copy for copy in reversed(group.copies)}
        files = frozenset(first) if all(file != os.fspath(copy.path) for file, copy in first.items()) else None
        if len(first) < 2 or files in met:
            continue
        if files is not None:
            met.add(files)
        yield group if len(first) == len(group.copies) else replace(group, copies=tuple(reversed(first.values())))


def _oldest_first(store: Store, row: dict) -> list[Path]:
    """Files of one content: the oldest first, then the one nearest to the top."""
    order = sorted(zip(row["mtimes"], row["paths"], strict=True), key=lambda one: (one[0], one[1].count("/"), one[1]))
    return [store.path_of(path) for _, path in order]


def _aligned(store: Store, model: str, hashes: list[str]) -> np.ndarray:
    """Vectors in the order of `hashes`, float16 (N, D); zeros where there is none."""
    known, vectors = store.vectors(model)
    if len(known) == len(hashes):
        return vectors
    out = np.zeros((len(hashes), vectors.shape[1]), np.float16)
    out[np.searchsorted(np.array(hashes), known)] = vectors  # both in the order of hashes
    return out


def _near(store: Store, looked_at: np.ndarray, vectors: np.ndarray | None, threshold: float) -> np.ndarray:
    """Pairs of pictures; `looked_at` (N,): all but recordings, whose spectrograms look alike."""
    table = store.rows(["hash", "phash", "flat", "thumb", "width", "height"])
    rows = np.flatnonzero(np.asarray(table.column("phash").is_valid()) & looked_at)
    table = table.take(rows)
    thumbs = np.frombuffer(b"".join(table.column("thumb").to_pylist()), np.uint8).reshape(len(table), THUMB)
    sides = np.minimum(table.column("width").to_numpy(), table.column("height").to_numpy())
    flat = np.array(table.column("flat").to_pylist(), bool)
    pairs = rows[near_pairs(Look(table.column("phash").to_numpy(), thumbs, flat, sides < 32))]
    if vectors is None or not len(pairs):
        return pairs
    a, b = (vectors[side].astype(np.float32) for side in pairs.T)
    both = a.any(1) & b.any(1)
    return pairs[~both | ((a * b).sum(1) >= threshold)]


def _similar(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """All pairs i < j of rows whose product reaches the threshold; N^2 / 2 products, in blocks."""
    found: list[np.ndarray] = [np.empty((0, 2), np.int64)]
    count = 0
    for start in range(0, len(vectors), _BLOCK):
        ours = vectors[start : start + _BLOCK].astype(np.float32)
        for other in range(start, len(vectors), _BLOCK):
            i, j = np.nonzero(ours @ vectors[other : other + _BLOCK].astype(np.float32).T >= threshold)
            pairs = np.stack([i + start, j + other], 1)
            found.append(pairs[pairs[:, 0] < pairs[:, 1]])
            count += len(found[-1])
            if count > _MOST_PAIRS:
                raise UsageError(
                    f"more than {_MOST_PAIRS:,} pairs of pictures are similar; give a --threshold above {threshold:g}"
                )
    return np.concatenate(found)


def _around_leaders(pairs: np.ndarray) -> Iterator[list[int]]:
    """Yield groups in which everybody is paired with the first, who has most partners: groups do not become chains."""
    near: dict[int, list[int]] = {}
    for i, j in pairs.tolist():
        near.setdefault(i, []).append(j)
        near.setdefault(j, []).append(i)
    taken: set[int] = set()
    for leader in sorted(near, key=lambda i: (-len(near[i]), i)):
        if leader not in taken:
            group = [leader, *sorted(i for i in set(near[leader]) if i not in taken)]
            if len(group) > 1:
                taken.update(group)
                yield group


def _judged(store: Store, level: str, rows: list[dict], vectors: np.ndarray | None, places: list[int]) -> Group:
    """A group with its best picture first, and each picture's files one after the other."""
    area = [(row["width"] or 0) * (row["height"] or 0) for row in rows]
    # sharpness decides among pictures of about the same size; a larger picture is worth more than a sharper one
    rivals = [i for i, a in enumerate(area) if a >= 0.9 * max(area)]
    paths = [_oldest_first(store, row) for row in rows]
    sharp = {i: _sharpness(paths[i][0]) for i in rivals} if len(rivals) > 1 else {}
    order = sorted(range(len(rows)), key=lambda i: (i not in rivals, -sharp.get(i, 0), -area[i], -rows[i]["size"]))
    first = order[0]
    copies = []
    for i in order:
        row, cosine = rows[i], 1.0
        if vectors is not None and i != first:
            cosine = float(vectors[places[i]].astype(np.float32) @ vectors[places[first]].astype(np.float32))
        sharpness = round(sharp.get(i, 0.0), 2)
        copies += [
            Copy(row["hash"], path, row["width"], row["height"], row["size"], sharpness, round(cosine, 4))
            for path in paths[i]
        ]
    return Group(level, tuple(copies))


def _sharpness(path: Path) -> float:
    """Standard deviation of the Laplacian (Pech-Pacheco et al. 2000) at 256 pixels; 0 if the file cannot be read."""
    from PIL import Image

    try:
        picture = Image.fromarray(decode(read_place(os.fspath(path)), short_side=_SIDE)).convert("L")
    except (OSError, DataError, MissingExtra):
        return 0.0
    scale = _SIDE / min(picture.size)
    size = (max(3, round(picture.width * scale)), max(3, round(picture.height * scale)))
    grey = np.asarray(picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0), np.float32)
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * grey[1:-1, 1:-1]).std())
