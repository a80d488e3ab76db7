"""What is in each drawn picture: objects, their places, the ground, the sentences; no pixels.

Everything is a pure function of (seed, index). Random numbers are those of `chance`, because NumPy promises no stable
streams for its generators' methods. Lengths are in pictures: 1 is the width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neocog.data.chance import ALL, GOLDEN, mix

SHAPES = ("circle", "crescent", "cross", "heart", "ring", "square", "star", "triangle")
COLOURS = ("black", "blue", "green", "orange", "purple", "red", "white", "yellow")
RELATIONS = ("above", "alone", "below", "inside", "left", "right")
COUNTS = ("1", "2", "3", "4")
TAGS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
TASKS = {"shape": SHAPES, "colour": COLOURS, "relation": RELATIONS, "count": COUNTS, "tags": TAGS}

_RGB = (  # of each colour; a scene varies them a little
    (28, 28, 30), (45, 85, 205), (45, 155, 70), (240, 135, 25), (140, 60, 170), (212, 42, 45), (245, 245, 242),
    (240, 218, 45),
)  # fmt: skip
GROUNDS = ("plain", "graded", "cloudy", "striped")
_WORDS = ("no shapes", "one shape", "two shapes", "three shapes", "four shapes")
_PLACES = {"above": "above", "below": "below", "inside": "inside", "left": "to the left of", "right": "to the right of"}
# radius of the circle around a shape, for a shape of the area of a disc of radius 1
REACH = (1.0, 1.3160, 1.2486, 1.2622, 1.2276, 1.2533, 1.4622, 1.5551)
# a disc that lies within the shape (for the ring: in its hole): (x, y, radius), in units of that circle
WITHIN = (
    (0, 0, 0.97), (-0.575, 0, 0.42), (0, 0, 0.45), (0, 0, 0.55), (0, 0, 0.57), (0, 0, 0.70), (0, 0, 0.44), (0, 0, 0.49),
)  # fmt: skip
TURNS = tuple(
    (round(math.cos(math.radians(a)) * 4096) / 4096, round(math.sin(math.radians(a)) * 4096) / 4096) for a in range(360)
)
# independent streams of random numbers of one picture
SHAPE_STREAM, COLOUR_STREAM, COUNT_STREAM, RELATION_STREAM, SPLIT_STREAM, SCENE_STREAM, GRAIN_STREAM = range(7)


@dataclass(slots=True)
class Object:
    """One shape: indices into SHAPES and COLOURS, centre, and turn in degrees, clockwise."""

    shape: int
    colour: int
    size: float  # radius of a disc of the same area; pictures are 1 wide
    x: float = 0.5
    y: float = 0.5
    turn: int = 0
    rgb: tuple[float, ...] = (0.0, 0.0, 0.0)

    @property
    def reach(self) -> float:
        """Radius of the circle around the shape."""
        return self.size * REACH[self.shape]

    @property
    def tag(self) -> str:
        return f"{COLOURS[self.colour]} {SHAPES[self.shape]}"


@dataclass(slots=True)
class Scene:
    """What a picture is drawn from; the same for every size in pixels."""

    objects: list[Object]
    relation: str
    ground: int
    grounds: tuple[tuple[float, ...], tuple[float, ...]]
    direction: int  # degrees, of stripes and gradient
    period: float  # of the stripes
    light: tuple[float, float, float]
    grain: float


# ---- random numbers: the same functions for one Python integer and for a uint64 array


def hash64(seed: int, stream: int, index: Any) -> Any:
    """Return 64 random bits for each index."""
    return mix((mix((seed * GOLDEN + stream) & ALL) + index * GOLDEN) & ALL)


def balanced(seed: int, stream: int, index: Any, kinds: int) -> Any:
    """Return a kind 0..kinds-1 such that every block of `kinds` consecutive indices holds each once, in mixed order."""
    block, place = index // kinds, index % kinds
    number = hash64(seed, stream, block)
    steps = [step for step in range(1, kinds) if math.gcd(step, kinds) == 1]
    chosen = number % len(steps)
    step = steps[chosen] if isinstance(number, int) else np.array(steps, np.uint64)[chosen.astype(np.intp)]
    return (place * step + (number >> 32)) % kinds


def label_codes(seed: int, indices: np.ndarray, task: str) -> np.ndarray:
    """Labels of many pictures without drawing them: int32 (N,), index into ``TASKS[task]``."""
    index = indices.astype(np.uint64)
    if task == "shape":
        codes = balanced(seed, SHAPE_STREAM, index, len(SHAPES))
    elif task == "colour":
        codes = balanced(seed, COLOUR_STREAM, index, len(COLOURS))
    elif task == "count":
        codes = balanced(seed, COUNT_STREAM, index, len(COUNTS))
    elif task == "relation":
        alone = balanced(seed, COUNT_STREAM, index, len(COUNTS)) == 0
        other = balanced(seed, RELATION_STREAM, index, len(RELATIONS) - 1)
        codes = np.where(alone, 1, other + (other >= 1))  # 1 is "alone", the others move up around it
    else:
        codes = np.full(len(index), -1)
    return codes.astype(np.int32)


class _Numbers:
    """Random numbers of one picture, one after the other."""

    def __init__(self, seed: int, index: int) -> None:
        self.state = hash64(seed, SCENE_STREAM, index)

    def below(self, limit: int) -> int:
        self.state = (self.state + GOLDEN) & ALL
        return (mix(self.state) >> 32) * limit >> 32

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * (self.below(1 << 24) / (1 << 24))


# ---- what is in a picture


def make_scene(seed: int, index: int) -> Scene:
    """Choose the objects and the ground; independent of the size in pixels."""
    draw = _Numbers(seed, index)
    count = balanced(seed, COUNT_STREAM, index, len(COUNTS)) + 1
    other = balanced(seed, RELATION_STREAM, index, len(RELATIONS) - 1)
    relation = "alone" if count == 1 else RELATIONS[other + (other >= 1)]
    colour = balanced(seed, COLOUR_STREAM, index, len(COLOURS))
    rest = [c for c in range(len(COLOURS)) if c != colour]  # every object has its own colour: "the red one" is one
    largest = Object(balanced(seed, SHAPE_STREAM, index, len(SHAPES)), colour, 0.0, turn=draw.below(360))
    objects = [largest]
    for _ in range(count - 1):
        objects.append(Object(draw.below(len(SHAPES)), rest.pop(draw.below(len(rest))), 0.0, turn=draw.below(360)))
    if relation == "alone":
        largest.size = draw.between(0.16, 0.26)
        _put_anywhere(draw, largest)
    elif relation == "inside":
        _put_inside(draw, largest, objects[1])
    else:
        _put_beside(draw, largest, objects[1], relation)
    for k in range(2, count):
        _put_free(draw, objects[k], objects[:k])
    for one in objects:
        gain = draw.between(0.88, 1.06)
        one.rgb = tuple(value * gain + draw.between(-10, 10) for value in _RGB[one.colour])
    ground, grounds = draw.below(len(GROUNDS)), _choose_grounds(draw, objects)
    light = (draw.between(0.85, 1.08), draw.between(-0.3, 0.3), draw.between(-0.3, 0.3))
    return Scene(
        objects, relation, ground, grounds, draw.below(360), draw.between(0.08, 0.3), light, draw.between(2, 14)
    )


def _put_anywhere(draw: _Numbers, one: Object) -> None:
    room = one.reach + 0.01
    one.x, one.y = draw.between(room, 1 - room), draw.between(room, 1 - room)


def _put_inside(draw: _Numbers, outer: Object, inner: Object) -> None:
    outer.size = draw.between(0.2, 0.25)
    _put_anywhere(draw, outer)
    wx, wy, within = WITHIN[outer.shape]
    reach = within * outer.reach
    inner.size = min(outer.size * draw.between(0.35, 0.5), 0.88 * reach / REACH[inner.shape])
    slack = (reach - inner.reach) * 0.6  # 0.6 < 1 / sqrt(2): the corner of the square below stays in the disc
    cosine, sine = TURNS[outer.turn]
    inner.x = outer.x + outer.reach * (wx * cosine - wy * sine) + draw.between(-slack, slack)
    inner.y = outer.y + outer.reach * (wx * sine + wy * cosine) + draw.between(-slack, slack)


def _put_beside(draw: _Numbers, largest: Object, second: Object, relation: str) -> None:
    """Place so that the circles around both do not meet along the axis of the relation."""
    edge, gap = 0.01, 0.02
    largest.size = draw.between(0.15, 0.2)
    second.size = largest.size * draw.between(0.5, 0.66)
    fit = min(1.0, (1 - 2 * edge - gap) / (2 * (largest.reach + second.reach)))
    largest.size, second.size = largest.size * fit, second.size * fit
    slack = 1 - 2 * edge - gap - 2 * (largest.reach + second.reach)
    before, between = draw.between(0, slack), draw.between(0, 1)
    near = edge + second.reach + before
    far = near + second.reach + gap + largest.reach + (slack - before) * between
    across = draw.between(largest.reach + edge, 1 - largest.reach - edge)
    drift = across + (far - near) * draw.between(-0.6, 0.6)  # less than along the axis: left is not also above
    drift = min(max(drift, second.reach + edge), 1 - second.reach - edge)
    if relation in ("right", "below"):
        near, far = 1 - near, 1 - far
    if relation in ("left", "right"):
        largest.x, largest.y, second.x, second.y = far, across, near, drift
    else:
        largest.x, largest.y, second.x, second.y = across, far, drift, near


def _put_free(draw: _Numbers, one: Object, others: Sequence[Object]) -> None:
    """Place where little is hidden: the first of some places where circles overlap by at most a third, or the best."""
    one.size = others[1].size * draw.between(0.7, 0.9)
    best = (-9.0, 0.5, 0.5)
    for _ in range(24):
        _put_anywhere(draw, one)
        room = min(math.sqrt((one.x - o.x) ** 2 + (one.y - o.y) ** 2) - o.reach for o in others)
        best = max(best, (room, one.x, one.y))
        if room >= 0.67 * one.reach:
            return
    room, one.x, one.y = best
    one.size = min(one.size, max(room / 0.67, 0.02) / REACH[one.shape])


def _choose_grounds(draw: _Numbers, objects: Sequence[Object]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Two muted colours for the ground, of several tries those that every object stands out from best."""
    best: tuple[float, tuple[tuple[float, ...], tuple[float, ...]]] = (-1.0, ((128.0,) * 3, (128.0,) * 3))
    for _ in range(6):
        level = draw.between(55, 200)
        first = tuple(level + draw.between(-25, 25) for _ in range(3))
        second = tuple(value + draw.between(-40, 40) for value in first)
        contrast = min(
            sum(abs(a - b) for a, b in zip(one.rgb, ground, strict=True))
            for one in objects
            for ground in (first, second)
        )
        best = max(best, (contrast, (first, second)))
        if contrast > 170:
            break
    return best[1]


def make_captions(scene: Scene) -> tuple[str, ...]:
    """Return two or three true sentences, each of which the picture decides to the word.

    The third and the fourth object may be of one size, so they are named in the order of the alphabet.
    """
    told_of = [*scene.objects[:2], *sorted(scene.objects[2:], key=lambda one: one.tag)]
    names = [f"{'an' if one.tag[0] in 'aeiou' else 'a'} {one.tag}" for one in told_of]
    told = [f"The picture shows {_WORDS[len(names)]} on a {GROUNDS[scene.ground]} background."]
    if len(names) == 1:
        return (*told, f"{names[0].capitalize()} is alone in the picture.")
    told.append(f"{names[1].capitalize()} is {_PLACES[scene.relation]} {names[0]}.")
    if len(names) == 2:
        told.append(f"The {scene.objects[0].tag} is larger than the {scene.objects[1].tag}.")
    else:
        rest = " and ".join(names[2:])
        told.append(f"{rest.capitalize()} {'is' if len(names) == 3 else 'are'} smaller than both.")
    return tuple(told)


def make_tags(scene: Scene) -> tuple[str, ...]:
    """Return the tags of all objects, sorted: ``("blue square", "red circle")``."""
    return tuple(sorted({one.tag for one in scene.objects}))
