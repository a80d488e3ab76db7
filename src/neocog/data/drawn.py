"""Pictures that neocog draws itself: coloured shapes in relations, with label, tags, boxes, mask and captions.

The offline training ground for every task. Nothing is stored: picture `index` is a pure function of (seed, index,
size), drawn when it is read, so a set of a thousand million pictures opens at once. One largest shape (the one that
the tasks ask for) and up to three smaller ones lie on a flat, graded, noisy or striped ground, under uneven light.

The same bytes on every machine: random numbers are integers hashed from a counter (drawn_scene.py), and pixels are
made with + - * / and square roots only, which IEEE 754 defines to the last bit. Rotations come from a table of
cosines rounded to 1/4096.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from neocog.data.chance import GOLDEN, mix
from neocog.data.columns import LabelSets
from neocog.data.drawn_columns import drawn_columns
from neocog.data.drawn_scene import (
    COLOURS,
    GRAIN_STREAM,
    GROUNDS,
    SHAPES,
    SPLIT_STREAM,
    TAGS,
    TASKS,
    TURNS,
    Object,
    Scene,
    hash64,
    label_codes,
    make_captions,
    make_scene,
    make_tags,
)
from neocog.data.kinds import Column, TextLists
from neocog.data.reader import PICTURE, find
from neocog.data.source import Source, as_indices
from neocog.errors import UsageError, closest
from neocog.records import SPLITS, Box, Sample

SMALLEST, LARGEST = 16, 1024


@dataclass(frozen=True, slots=True)
class Drawing:
    """One picture and everything that is true of it.

    `picture` uint8 (size, size, 3). `label`, `colour`: shape and colour of the largest object. `relation`: where the
    second largest lies as seen from the largest (or "alone"). `labels`: the tags of all objects, sorted. `boxes`: one
    for each object, the two largest first, tight around its visible pixels. `mask` uint8 (size, size): 0 is ground,
    k is the object of ``boxes[k - 1]``; later objects lie over earlier ones. `captions`: two or three sentences.
    """

    picture: np.ndarray
    label: str
    colour: str
    relation: str
    count: int
    labels: tuple[str, ...]
    boxes: tuple[Box, ...]
    mask: np.ndarray
    captions: tuple[str, ...]


# ---- pixels


def _distance(shape: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance to the edge of a shape in the unit circle, negative inside; u points right, v down."""
    name = SHAPES[shape]
    if name == "circle":
        return np.sqrt(u * u + v * v) - 1
    if name == "ring":
        return abs(np.sqrt(u * u + v * v) - 0.79) - 0.21
    if name == "crescent":
        w = u - 0.6
        return np.maximum(np.sqrt(u * u + v * v) - 1, 0.75 - np.sqrt(w * w + v * v))
    u = abs(u)
    if name == "triangle":
        return np.maximum(v, u * 0.8660254 - v * 0.5) - 0.5
    if name == "heart":  # a square on its corner, and two discs on its upper edges
        v, side = v - 0.0768, 0.5257
        w, z = u - 0.3717, v + 0.3717
        return np.minimum((u + abs(v)) * 0.70710678, np.sqrt(w * w + z * z)) - side
    if name == "star":  # fold the plane into one tenth, then the distance to one edge (I. Quilez's method)
        v = -v
        fold = 2 * np.maximum(u * 0.80901699 - v * 0.58778525, 0)
        u, v = u - fold * 0.80901699, v + fold * 0.58778525
        fold = 2 * np.maximum(-u * 0.80901699 - v * 0.58778525, 0)
        u, v = abs(u + fold * 0.80901699), v + fold * 0.58778525
        return ((v - 1) * 0.29389263 + u * 0.59549150) * 1.50588235
    v = abs(v)
    if name == "square":
        return np.maximum(u, v) - 0.70710678
    return np.minimum(np.maximum(u - 0.947418, v - 0.32), np.maximum(u - 0.32, v - 0.947418))  # cross


def _outside(one: Object, size: int) -> tuple[slice, slice, np.ndarray]:
    """Rows, columns and signed distance in pixels (float32) of the part of the picture that holds an object."""
    reach = one.reach * size
    left, right = max(0, int(one.x * size - reach) - 1), min(size, int(one.x * size + reach) + 2)
    top, bottom = max(0, int(one.y * size - reach) - 1), min(size, int(one.y * size + reach) + 2)
    cosine, sine = TURNS[one.turn]
    x = (np.arange(left, right, dtype=np.float32) + np.float32(0.5 - one.x * size)) / np.float32(reach)
    y = ((np.arange(top, bottom, dtype=np.float32) + np.float32(0.5 - one.y * size)) / np.float32(reach))[:, None]
    distance = _distance(one.shape, x * cosine + y * sine, y * cosine - x * sine)
    return slice(top, bottom), slice(left, right), distance * np.float32(reach)


def _paint_ground(scene: Scene, size: int, noise: np.ndarray) -> np.ndarray:
    """float32 (size, size, 3), 0..255. `noise`: at least 81 bytes."""
    first, second = (np.array(colour, np.float32) for colour in scene.grounds)
    if GROUNDS[scene.ground] == "plain":
        return np.full((size, size, 3), first, np.float32)
    steps = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    cosine, sine = TURNS[scene.direction]
    if GROUNDS[scene.ground] == "cloudy":  # 9 x 9 random values, interpolated
        corners = noise[:81].reshape(9, 9).astype(np.float32) / np.float32(255)
        low = (steps * 8).astype(np.intp)
        part = steps * 8 - low.astype(np.float32)
        rows = corners[low] * (1 - part)[:, None] + corners[low + 1] * part[:, None]
        share = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    else:
        share = (steps - np.float32(0.5)) * cosine + ((steps - np.float32(0.5)) * sine)[:, None] + np.float32(0.5)
        if GROUNDS[scene.ground] == "striped":
            wave = (share + 1) / np.float32(scene.period)
            wave = abs(wave - np.floor(wave) - np.float32(0.5)) - np.float32(0.25)
            share = np.minimum(np.maximum(wave * np.float32(scene.period * size) + np.float32(0.5), 0), 1)
    return first + share[:, :, None] * (second - first)


def _paint(seed: int, index: int, scene: Scene, size: int) -> np.ndarray:
    """uint8 (size, size, 3)."""
    words = (size * size * 3 + 7) // 8 + 11
    start = hash64(seed, GRAIN_STREAM, index)
    noise = mix(np.arange(words, dtype=np.uint64) * GOLDEN + np.uint64(start)).astype("<u8").view(np.uint8)
    canvas = _paint_ground(scene, size, noise)
    for one in scene.objects:
        rows, columns, distance = _outside(one, size)
        cover = np.minimum(np.maximum(np.float32(0.5) - distance, 0), 1)[:, :, None]
        part = canvas[rows, columns]
        part += cover * (np.array(one.rgb, np.float32) - part)
    level, across, down = scene.light
    steps = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size) - np.float32(0.5)
    canvas *= ((np.float32(level) + steps * np.float32(across)) + (steps * np.float32(down))[:, None])[:, :, None]
    grain = noise[88 : 88 + size * size * 3].reshape(size, size, 3).astype(np.float32) - np.float32(127.5)
    canvas += grain * np.float32(scene.grain / 127.5)
    return np.minimum(np.maximum(canvas + np.float32(0.5), 0), 255).astype(np.uint8)


def _regions(scene: Scene, size: int) -> tuple[np.ndarray, tuple[Box, ...]]:
    """Mask uint8 (size, size), and the box of the visible pixels of each object."""
    mask = np.zeros((size, size), np.uint8)
    centres = []
    for k, one in enumerate(scene.objects, 1):
        rows, columns, distance = _outside(one, size)
        mask[rows, columns][distance <= 0] = k
        y, x = divmod(int(np.argmin(distance)), distance.shape[1])
        centres.append((rows.start + y, columns.start + x))
    boxes = []
    for k, (one, centre) in enumerate(zip(scene.objects, centres, strict=True), 1):
        if not (mask == k).any():  # thinner than a pixel, in the smallest pictures: it keeps its best pixel
            mask[centre] = k
        ys, xs = np.flatnonzero((mask == k).any(1)), np.flatnonzero((mask == k).any(0))
        boxes.append(Box(float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1), one.tag))
    return mask, tuple(boxes)


def _check_size(size: int) -> None:
    if not (isinstance(size, int) and SMALLEST <= size <= LARGEST):
        raise UsageError(f"expected a size of {SMALLEST} to {LARGEST} pixels, got {size!r}; type for example size=64")


def draw(seed: int, index: int, size: int, *, painted: bool = True) -> Drawing:
    """Draw picture `index` of the set `seed`, `size` pixels wide and high (16 to 1024).

    Without `painted` the picture is empty: what is true of it takes half of the time.

    Raises UsageError for an impossible size or a negative index.
    """
    _check_size(size)
    if index < 0:
        raise UsageError(f"expected an index of 0 or more, got {index}")
    scene = make_scene(seed, index)
    mask, boxes = _regions(scene, size)
    largest = scene.objects[0]
    return Drawing(
        picture=_paint(seed, index, scene, size) if painted else np.zeros((0, 0, 3), np.uint8),
        label=SHAPES[largest.shape],
        colour=COLOURS[largest.colour],
        relation=scene.relation,
        count=len(scene.objects),
        labels=make_tags(scene),
        boxes=boxes,
        mask=mask,
        captions=make_captions(scene),
    )


# ---- the set


class Drawn(Source):
    """Drawn pictures as a Source. Holds no pictures, and computes label columns only when somebody asks for them."""

    drawn = True

    def __init__(self, seed: int, size: int, task: str, indices: range | np.ndarray, *, distinct: bool = False) -> None:
        self.name = "drawn"
        self.notes: list[str] = []
        self.problems = []
        self.seed, self.size, self.task, self.indices, self.distinct = seed, size, task, indices, distinct

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"<Drawn {self.task!r}: {len(self)} pictures of {self.size}x{self.size}, {len(self.classes)} classes>"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("labels", "splits", "label_sets", "columns")}

    @property
    def classes(self) -> tuple[str, ...]:
        return TASKS[self.task]

    @cached_property
    def labels(self) -> np.ndarray:  # type: ignore[override]
        return self._column(np.int32, lambda part: label_codes(self.seed, part, self.task))

    @cached_property
    def splits(self) -> np.ndarray:  # type: ignore[override]
        """80 % train, 10 % val, 10 % test by a hash of the index: more pictures never move one to another split."""

        def codes(part: np.ndarray) -> np.ndarray:
            tenth = hash64(self.seed, SPLIT_STREAM, part.astype(np.uint64)) % 10
            return np.maximum(tenth.astype(np.int8) - 7, 0)

        return self._column(np.int8, codes)

    def _column(self, dtype: Any, codes: Any) -> np.ndarray:
        """Fill an array of one number for each picture, a million at a time: the hashes take eight bytes each."""
        column = np.empty(len(self), dtype)
        for start in range(0, len(self), 1 << 20):
            column[start : start + (1 << 20)] = codes(np.asarray(self.indices[start : start + (1 << 20)], np.int64))
        return column

    @cached_property
    def label_sets(self) -> LabelSets | None:  # type: ignore[override]
        """The tags of every picture if the task is "tags" (about 0.1 ms a picture), else None."""
        return self._tags() if self.task == "tags" else None

    def _tags(self) -> LabelSets:
        rows = [[TAGS.index(tag) for tag in make_tags(make_scene(self.seed, int(i)))] for i in self.indices]
        ends = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        return LabelSets(ends, np.array([code for row in rows for code in row], np.int32))

    @property
    def captions(self) -> TextLists:
        """Captions by index, made when they are read."""
        return _Captions(self)

    @cached_property
    def columns(self) -> Mapping[str, Column]:  # type: ignore[override]
        """Everything that is true of the pictures; each column is computed when somebody asks for it."""
        return drawn_columns(self)

    def key(self, i: int) -> str:
        return f"drawn-{self.seed}#{self.indices[i]}"

    def read(self, i: int) -> np.ndarray:
        index = int(self.indices[i])
        return _paint(self.seed, index, make_scene(self.seed, index), self.size)

    def draw(self, i: int, *, painted: bool = True) -> Drawing:
        """Return picture `i` with all its annotations, or only these."""
        return draw(self.seed, int(self.indices[i]), self.size, painted=painted)

    def sample(self, i: int) -> Sample:
        index = np.array([self.indices[i]])
        scene = make_scene(self.seed, int(index[0]))
        mask, boxes = _regions(scene, self.size)
        code = int(label_codes(self.seed, index, self.task)[0])
        tenth = hash64(self.seed, SPLIT_STREAM, int(index[0])) % 10
        return Sample(
            key=self.key(i),
            label=self.classes[code] if code >= 0 else None,
            labels=make_tags(scene),
            captions=_told(scene, self.distinct),
            boxes=boxes,
            mask=mask,
            split=SPLITS[max(tenth - 7, 0)],
        )

    def select(self, indices: np.ndarray | Sequence[int]) -> Drawn:
        chosen = as_indices(indices, len(self))
        if isinstance(self.indices, np.ndarray):
            chosen = self.indices[chosen]
        return Drawn(self.seed, self.size, self.task, chosen, distinct=self.distinct)

    def fingerprint(self) -> str:
        """Return sha256 hex of what the pictures depend on."""
        text = f"drawn 2 seed={self.seed} size={self.size} task={self.task}{' distinct' * self.distinct}"
        if isinstance(self.indices, range):
            return hashlib.sha256(f"{text} n={len(self)}".encode()).hexdigest()
        return hashlib.sha256(text.encode() + b" " + self.indices.astype("<i8").tobytes()).hexdigest()


class _Captions(TextLists):
    """The captions of a Drawn source, read like a column."""

    def __init__(self, source: Drawn) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> tuple[str, ...]:
        return _told(make_scene(self._source.seed, int(self._source.indices[i])), self._source.distinct)


class DrawnTexts(Source):
    """A sentence or more about each drawn picture, in its place."""

    kind = "text"
    drawn = True

    def __init__(self, pictures: Drawn) -> None:
        self.pictures, self.name, self.splits = pictures, pictures.name, pictures.splits
        self.notes, self.problems = [], []
        self.columns = {role: pictures.columns[role] for role in ("label", "tags", "numbers")}

    def key(self, i: int) -> str:
        return self.pictures.key(i)

    def read(self, i: int) -> str:
        return " ".join(self.pictures.captions[i])

    def fingerprint(self) -> str:
        return f"texts {self.pictures.fingerprint()}"


def _told(scene: Scene, whole: bool) -> tuple[str, ...]:
    """The sentences about a scene, or all that they say as one text."""
    sentences = make_captions(scene)
    return (" ".join(sentences),) if whole else sentences


def drawn_source(
    n: int = 1000, size: int = 64, seed: int = 0, task: str = "shape", distinct: bool = False, kind: str = "picture"
) -> Source:
    """Return `n` drawn pictures of `size` x `size` pixels as a Source; opens at once for any `n`.

    `task` chooses the labels: "shape" or "colour" of the largest object, "relation" of the second largest to it,
    "count" of the objects, or "tags" (several labels for a picture, such as "red circle"). Shapes, colours and counts
    are exactly balanced over every 8, 8 and 4 pictures. Splits are declared, 80/10/10.
    `distinct`: each picture has one caption, all that is said of it, and no two have the same: what looks the same in
    words is left out. Finding them takes about 0.1 ms a picture.
    `kind`: other inputs of this kind than pictures, see ``reader.Reader.drawn``.
    Raises UsageError for an unknown task or a value out of range.
    """
    if task not in TASKS:
        raise UsageError(f"unknown task {task!r} of 'drawn'{closest(str(task), TASKS)}; tasks are {', '.join(TASKS)}")
    for name, value in (("n", n), ("seed", seed)):
        if int(value) != value or value < 0:
            raise UsageError(f"expected {name} to be an integer of 0 or more, got {value!r}; type for example {name}=1")
    _check_size(size)
    if kind != PICTURE:
        return find(kind).drawn(int(n), size, int(seed), task)
    if not distinct:
        return Drawn(int(seed), size, task, range(int(n)))
    chosen: dict[str, int] = {}
    for index in itertools.count():
        if len(chosen) >= n:
            break
        chosen.setdefault(_told(make_scene(int(seed), index), True)[0], index)
    return Drawn(int(seed), size, task, np.fromiter(chosen.values(), np.int64, len(chosen)), distinct=True)
