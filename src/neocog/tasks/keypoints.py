"""Named points: an answer that says where they lie, and the properties of common sets of points.

Of a set: mirror partners, the lines between points, how well people place them.

COCO's 17 points of a body (Lin et al. 2014), and the 68 points of a face of Multi-PIE (Sagonas et al. 2013, "300 Faces
in-the-Wild"), which are known by their number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from neocog.tasks.answer import Answer
from neocog.tasks.canvas import enlarged

_DRAWN = 320  # smaller pictures are enlarged before points are drawn on them
TRUTH, ANSWER, BETWEEN = (60, 220, 90), (255, 140, 0), (255, 255, 255)

COCO = tuple(
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist "
    "right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle".split()
)
_COCO_LINES = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
    (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip
# the deviation of people who place a point, as a share of the square root of the object's area (cocodataset.org)
COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
    0.089,
)  # fmt: skip
EYE_CORNERS = (36, 45)  # of 68 points: the outer ones
# chains of points, and whether the last is joined to the first: jaw, brows, nose, eyes, lips
_FACE_CHAINS = (
    (0, 17, False), (17, 22, False), (22, 27, False), (27, 31, False), (31, 36, False), (36, 42, True), (42, 48, True),
    (48, 60, True), (60, 68, True),
)  # fmt: skip
_FACE_PAIRS = (
    *((k, 16 - k) for k in range(8)), *((k, 43 - k) for k in range(17, 22)), (31, 35), (32, 34), (36, 45), (37, 44),
    (38, 43), (39, 42), (40, 47), (41, 46), (48, 54), (49, 53), (50, 52), (55, 59), (56, 58), (60, 64), (61, 63),
    (65, 67),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Keypoints(Answer):
    """Where the points of one picture lie.

    Attributes:
        points: float32 (P, 3): x and y in the file's own upright pixels, and the confidence, 0 to 1.
        lines: pairs of points that are joined in the drawing.
    """

    names: tuple[str, ...] = ()
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.float32))
    lines: tuple[tuple[int, int], ...] = ()

    def row(self) -> dict[str, Any]:
        places = zip(self.names, self.points.tolist(), strict=True)
        return {
            f"{name}_{what}": round(value, 3)
            for name, values in places
            for what, value in zip(("x", "y", "confidence"), values, strict=True)
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "points": [
                {"name": name, "x": round(x, 2), "y": round(y, 2), "confidence": round(confidence, 4)}
                for name, (x, y, confidence) in zip(self.names, self.points.tolist(), strict=True)
            ]
        }

    def coco(self, image_id: int) -> list[dict[str, Any]]:
        """One annotation of COCO: x, y and 2 for each point, and the mean confidence as the score."""
        flat = [round(v, 2) for x, y, _ in self.points.tolist() for v in (x, y, 2)]
        if not flat:
            return []
        score = round(float(self.points[:, 2].mean()), 4)
        return [
            {"image_id": image_id, "category_id": 1, "keypoints": flat, "num_keypoints": len(flat) // 3, "score": score}
        ]

    def draw(self, picture: np.ndarray, truth: Any = None) -> np.ndarray:
        """The answer in orange, joined by lines; known points of the truth in green, each joined to its answer."""
        large, times = enlarged(picture, _DRAWN)
        image = Image.fromarray(np.ascontiguousarray(large))
        pen, side = ImageDraw.Draw(image), max(image.size)
        at = [(float(x) * times, float(y) * times) for x, y in self.points[:, :2]]
        thin = max(1, side // 400)
        for one, other in self.lines:
            pen.line((*at[one], *at[other]), fill=ANSWER, width=thin)
        radius = max(1.5, side / (110 if len(at) <= 20 else 180))

        def dot(place: tuple[float, float], colour: tuple[int, int, int]) -> None:
            x, y = place
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=(0, 0, 0))

        known = [] if truth is None else [k for k in range(len(truth)) if truth[k][2] > 0]
        there = {k: (float(truth[k][0]) * times, float(truth[k][1]) * times) for k in known}
        for k, place in there.items():
            pen.line((*place, *at[k]), fill=BETWEEN, width=thin)
        for place in there.values():
            dot(place, TRUTH)
        for place in at:
            dot(place, ANSWER)
        return np.asarray(image)


@dataclass(frozen=True)
class Skeleton:
    """The properties of a set of points.

    Attributes:
        swap: for each point its mirror partner, itself where it has none.
        lines: pairs of points that are joined in drawings.
        sigmas: of each point, see `COCO_SIGMAS`; empty if nobody measured it.
        eyes: the two points whose distance is the scale of errors, or None.
        head: the top and the bottom of the head (PCKh, Andriluka et al. 2014), or None.
    """

    swap: tuple[int, ...]
    lines: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[float, ...] = ()
    eyes: tuple[int, int] | None = None
    head: tuple[int, int] | None = None


def skeleton(names: Sequence[str], swap: Sequence[int] = ()) -> Skeleton:
    """The properties of points with these names; a `swap` that pairs any points is kept."""
    plain = tuple(name.strip().lower().replace(" ", "_").replace("-", "_") for name in names)
    same = tuple(range(len(plain)))
    partners = tuple(swap) if tuple(swap) not in ((), same) else _by_names(plain)
    if len(plain) == 68:
        if partners == same:
            partners = _paired(68, _FACE_PAIRS)
        return Skeleton(partners, _chained(), eyes=EYE_CORNERS)
    if plain == COCO:
        return Skeleton(partners, _COCO_LINES, COCO_SIGMAS)
    top = next((k for k, name in enumerate(plain) if name in ("head_top", "top_head", "top_of_head")), None)
    neck = next((k for k, name in enumerate(plain) if name in ("upper_neck", "neck")), None)
    return Skeleton(partners, head=None if top is None or neck is None else (top, neck))


def _by_names(names: tuple[str, ...]) -> tuple[int, ...]:
    """Partners by the words left and right, or by l and r at an end."""
    sides = (("left", "right"), ("^l_", "r_"), ("_l$", "_r"))
    mates = ((k, re.sub(one, other, name)) for one, other in sides for k, name in enumerate(names))
    return _paired(len(names), [(k, names.index(mate)) for k, mate in mates if mate in names and mate != names[k]])


def _paired(count: int, pairs: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    made = list(range(count))
    for one, other in pairs:
        made[one], made[other] = other, one
    return tuple(made)


def _chained() -> tuple[tuple[int, int], ...]:
    lines = []
    for first, end, closed in _FACE_CHAINS:
        lines += [(k, k + 1) for k in range(first, end - 1)] + [(end - 1, first)] * closed
    return tuple(lines)
