"""Sets of points that are known by name: their mirror partners, the lines between them, how well people place them.

COCO's 17 points of a body (Lin et al. 2014), and the 68 points of a face of Multi-PIE (Sagonas et al. 2013, "300 Faces
in-the-Wild"), which are known by their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Skeleton:
    """What is known of a set of points.

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
    """What is known of points of these names; a `swap` that pairs any points is kept."""
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
    """Partners by the words left and right."""
    pairs = []
    for k, name in enumerate(names):
        for one, other in (("left", "right"), ("l_", "r_"), ("_l", "_r")):
            mate = name.replace(one, other) if one == "left" else _ended(name, one, other)
            if mate != name and mate in names:
                pairs.append((k, names.index(mate)))
                break
    return _paired(len(names), pairs)


def _ended(name: str, one: str, other: str) -> str:
    """The name with another beginning (``l_``) or end (``_l``)."""
    if one.endswith("_"):
        return other + name.removeprefix(one) if name.startswith(one) else name
    return name.removesuffix(one) + other if name.endswith(one) else name


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
