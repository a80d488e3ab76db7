"""Found boxes, and how good they are: COCO's and VOC's average precision, and what kind each error is.

Found and true boxes of a split are flat arrays, each box with the number of its picture. COCO's figures are those of
faster-coco-eval (the same numbers as pycocotools, tested by its authors).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from neocog.data.kinds import BoxSet
from neocog.errors import UsageError
from neocog.records import counted
from neocog.tasks.answer import Answer
from neocog.tasks.canvas import boxed

BANDS = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}  # area in pixels, as COCO
_SHORT = 4  # boxes that a line names one by one
HIT = 0.5  # IoU from which on a box is found
_NEAR = 0.1  # IoU from which on a wrong box means an object, but misses it
KINDS = ("right", "badly placed", "wrong class", "found twice", "background", "ignored")
FINE = tuple(KINDS.index(name) for name in ("right", "ignored"))


class Found(NamedTuple):
    """Boxes that a net found: pictures int64 (D,), corners float (D, 4), scores (D,), labels int64 (D,)."""

    pictures: np.ndarray
    corners: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def only(self, which: np.ndarray) -> Found:
        """Some of them."""
        return Found(*(array[which] for array in self))


class There(NamedTuple):
    """Boxes that are there: pictures int64 (M,), corners float (M, 4), labels int64 (M,), ignored bool (M,)."""

    pictures: np.ndarray
    corners: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray


def iou(a: np.ndarray, b: np.ndarray, *, inside: bool = False) -> np.ndarray:
    """Intersection over union of boxes (D, 4) with boxes (M, 4), or over the area of `a`: float64 (D, M)."""
    a, b = a[:, None].astype(np.float64), b[None].astype(np.float64)
    both = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(0).prod(-1)
    one, other = ((c[..., 2:] - c[..., :2]).clip(0).prod(-1) for c in (a, b))
    return np.asarray(both / np.maximum(np.broadcast_to(one, both.shape) if inside else one + other - both, 1e-9))


def coco(found: Found, true: There, classes: Sequence[str]) -> dict[str, Any]:
    """COCO's average precision: ``map`` (IoU .50 to .95), ``ap50``, ``ap75``, by size, and of each class.

    ``per_class``: name -> map, ap50, and the number of boxes that count. What has no box is left out (nan in `map`).
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise UsageError(
            "the task detect is judged by faster-coco-eval, which is not installed; "
            "'pip install faster-coco-eval' installs it"
        ) from None

    pictures = np.unique(np.concatenate((found.pictures, true.pictures)))
    boxes = np.concatenate((true.corners[:, :2], true.corners[:, 2:] - true.corners[:, :2]), 1).astype(np.float64)
    annotations = [
        {
            "id": k + 1, "image_id": int(p), "category_id": int(c), "bbox": box, "area": box[2] * box[3],
            "iscrowd": int(i),
        }
        for k, (p, c, box, i) in enumerate(zip(true.pictures, true.labels, boxes.tolist(), true.ignored, strict=True))
    ]  # fmt: skip
    truth = COCO(
        {
            "images": [{"id": int(p)} for p in pictures],
            "annotations": annotations,
            "categories": [{"id": k, "name": name} for k, name in enumerate(classes)],
        }
    )
    corners = found.corners.astype(np.float64)
    sides = corners[:, 2:] - corners[:, :2]
    rows = np.column_stack((found.pictures, corners[:, :2], sides, found.scores, found.labels))
    with np.errstate(all="ignore"):
        judge = COCOeval_faster(truth, truth.loadRes(rows) if len(rows) else _nothing(COCO, truth), "bbox")
        judge.params.areaRng = [[0.0, 1e10], *([low, high] for low, high in BANDS.values())]
        judge.params.areaRngLbl = ["all", *BANDS]
        judge.evaluate()
        judge.accumulate()
    precision = np.asarray(judge.eval["precision"])[..., -1]  # (IoUs, recalls, classes, bands)
    recall = np.asarray(judge.eval["recall"])[..., -1]

    def mean(values: np.ndarray) -> float:
        return float(values[values > -1].mean()) if (values > -1).any() else float("nan")

    made: dict[str, Any] = {
        "map": mean(precision[..., 0]),
        "ap50": mean(precision[0, ..., 0]),
        "ap75": mean(precision[5, ..., 0]),
        "recall": mean(recall[..., 0]),
    }
    for k, band in enumerate(BANDS, 1):
        if (precision[..., k] > -1).any():
            made[f"map_{band}"] = mean(precision[..., k])
    made["per_class"] = {
        name: {
            "map": mean(precision[:, :, k, 0]),
            "ap50": mean(precision[0, :, k, 0]),
            "boxes": int(((true.labels == k) & ~true.ignored).sum()),
            **{band: mean(precision[:, :, k, b]) for b, band in enumerate(BANDS, 1)},
        }
        for k, name in enumerate(classes)
    }
    return made


def _nothing(kind: Any, truth: Any) -> Any:
    return kind({"images": list(truth.imgs.values()), "annotations": [], "categories": list(truth.cats.values())})


def matched(found: Found, true: There, least: float = HIT) -> tuple[np.ndarray, np.ndarray]:
    """VOC's assignment: each box, by falling score, is right if the true one that it overlaps most is still free.

    Returns:
        int8 (D,): 1 right, 0 wrong, -1 neither (it is an ignored one); bool (M,): true boxes that were found.
    """
    right, taken = np.zeros(len(found.scores), np.int8), np.zeros(len(true.labels), bool)
    order = np.lexsort((np.arange(len(found.scores)), -found.scores, found.labels, found.pictures))
    groups, starts = np.unique(np.stack((found.pictures[order], found.labels[order]), 1), axis=0, return_index=True)
    places: dict[tuple[int, int], np.ndarray] = {}
    if len(true.labels):
        by = np.lexsort((true.labels, true.pictures))
        keys, first = np.unique(np.stack((true.pictures[by], true.labels[by]), 1), axis=0, return_index=True)
        places = {(int(p), int(c)): rows for (p, c), rows in zip(keys, np.split(by, first[1:]), strict=True)}
    for (picture, label), rows in zip(groups, np.split(order, starts[1:]) if len(order) else [], strict=True):
        there = places.get((int(picture), int(label)))
        if there is None:
            continue
        overlap = iou(found.corners[rows], true.corners[there])
        for row, each in zip(rows, overlap, strict=True):
            best = int(each.argmax())
            if each[best] < least:
                continue
            if true.ignored[there[best]]:
                right[row] = -1
            elif not taken[there[best]]:
                right[row], taken[there[best]] = 1, True
    return right, taken


def voc(found: Found, true: There, classes: Sequence[str]) -> dict[str, float]:
    """VOC's average precision at IoU 0.5, the mean over classes: ``voc_ap`` over all points, ``voc_ap11`` over 11."""
    right, _ = matched(found, true)
    every, eleven = [], []
    for k in range(len(classes)):
        count = int(((true.labels == k) & ~true.ignored).sum())
        if not count:
            continue
        rows = np.flatnonzero((found.labels == k) & (right >= 0))
        rows = rows[np.argsort(-found.scores[rows], kind="stable")]
        precision, recall = curve(right[rows] == 1, count)
        every.append(average_precision(precision, recall))
        eleven.append(eleven_points(precision, recall))
    if not every:
        return {}
    return {"voc_ap": float(np.mean(every)), "voc_ap11": float(np.mean(eleven))}


def curve(right: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall (D,) after each found box, of bool (D,) by falling score and the number of true boxes."""
    hits = np.cumsum(right)
    return hits / np.arange(1, len(right) + 1), hits / count


def average_precision(precision: np.ndarray, recall: np.ndarray) -> float:
    """The area under the curve, made to fall only (VOC from 2010 on)."""
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * highest).sum())


def eleven_points(precision: np.ndarray, recall: np.ndarray) -> float:
    """The mean of the highest precision from the recalls 0, 0.1, ..., 1 on (VOC 2007)."""
    return float(np.mean([precision[recall >= t - 1e-9].max(initial=0.0) for t in np.linspace(0, 1, 11)]))


def best_threshold(found: Found, true: There) -> float:
    """The score from which on right and wrong boxes balance best: the highest F1 of all classes together."""
    right, _ = matched(found, true)
    rows = np.flatnonzero(right >= 0)
    rows = rows[np.argsort(-found.scores[rows], kind="stable")]
    hits, count = np.cumsum(right[rows] == 1), int((~true.ignored).sum())
    if not len(rows) or not hits[-1]:
        return 0.3
    f1 = 2 * hits / (np.arange(1, len(rows) + 1) + count)
    last = int(np.flatnonzero(f1 == f1.max())[-1])
    score = found.scores[rows]
    return float((score[last] + score[last + 1]) / 2 if last + 1 < len(score) else score[last])


def kinds(found: Found, true: There) -> tuple[np.ndarray, np.ndarray]:
    """What each found box is, int64 (D,), index into `KINDS`; and which true boxes are missed, bool (M,).

    Badly placed: overlaps one of its class by less than 0.5, but by 0.1. Wrong class: overlaps one of another class
    by 0.5. Found twice: that one was found already, with a higher score. Background: all others (Hoiem et al. 2012).
    """
    right, taken = matched(found, true)
    made = np.full(len(right), KINDS.index("background"))
    for picture in np.unique(found.pictures):
        rows, there = np.flatnonzero(found.pictures == picture), np.flatnonzero(true.pictures == picture)
        if not len(there):
            continue
        overlap = iou(found.corners[rows], true.corners[there])
        same = found.labels[rows][:, None] == true.labels[there][None]
        crowd = iou(found.corners[rows], true.corners[there], inside=True)
        own, other = (np.where(which, overlap, 0).max(1) for which in (same, ~same))
        made[rows] = np.select(
            [
                (np.where(same & true.ignored[there], crowd, 0)).max(1) >= HIT, own >= HIT, other >= HIT, own >= _NEAR
            ],
            [KINDS.index(name) for name in ("ignored", "found twice", "wrong class", "badly placed")],
            KINDS.index("background"),
        )  # fmt: skip
    made[right == 1], made[right == -1] = KINDS.index("right"), KINDS.index("ignored")
    return made, ~taken & ~true.ignored


def there_in(boxes: BoxSet) -> There:
    """The boxes of one picture."""
    count = len(boxes.labels)
    return There(
        np.zeros(count, np.int64),
        np.asarray(boxes.corners, np.float32).reshape(-1, 4),
        np.asarray(boxes.labels, np.int64),
        np.asarray(boxes.ignored, bool),
    )


@dataclass(frozen=True, slots=True)
class Detections(Answer):
    """The boxes that were found in one picture, by falling score.

    Attributes:
        classes: all names that there are.
        corners: float32 (D, 4), x0 y0 x1 y1 in the file's own upright pixels.
        scores: float32 (D,). labels: int64 (D,), index into `classes`.
        threshold: boxes with a lower score are doubtful: they are kept, but neither drawn nor counted.
    """

    classes: tuple[str, ...] = ()
    corners: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    threshold: float = 0.3

    def boxes(self, least: float | None = None) -> list[dict[str, Any]]:
        """A dict for each box with a score of at least `least` (None: the threshold): label, score, box."""
        least = self.threshold if least is None else least
        return [
            {"label": self.classes[k], "score": round(float(s), 4), "box": [round(v, 2) for v in box]}
            for k, s, box in zip(self.labels, self.scores, self.corners.tolist(), strict=True)
            if s >= least
        ]

    def row(self) -> dict[str, Any]:
        found = self.boxes()
        said = (f"{b['label']} {b['score']:.2f} ({' '.join(f'{v:.1f}' for v in b['box'])})" for b in found)
        return {"count": len(found), "boxes": "; ".join(said)}

    def text(self) -> str:
        """How many boxes of each class; of a few also their scores. Where they lie is in tables and documents."""
        found = self.boxes()
        if len(found) <= _SHORT:
            return ", ".join(f"{b['label']} {b['score']:.2f}" for b in found) or "nothing found"
        each = Counter(b["label"] for b in found).most_common()
        return f"{counted(len(found), 'box')}: {', '.join(f'{n} {name}' for name, n in each)}"

    def to_json(self) -> dict[str, Any]:
        every = self.boxes(0.0)
        sure = len(self.boxes())
        return {"boxes": every[:sure], "doubtful": every[sure:], "threshold": round(self.threshold, 4)}

    def coco(self, image_id: int) -> list[dict[str, Any]]:
        """The boxes as COCO's results, doubtful ones too; categories are counted from 1."""
        sides = np.concatenate((self.corners[:, :2], self.corners[:, 2:] - self.corners[:, :2]), 1)
        return [
            {"image_id": image_id, "category_id": int(k) + 1, "bbox": [round(v, 2) for v in box], "score": round(s, 4)}
            for k, box, s in zip(self.labels, sides.tolist(), self.scores.tolist(), strict=True)
        ]

    def draw(self, picture: np.ndarray, truth: Any = None) -> np.ndarray:
        """The boxes over the picture. With the truth: right ones green, wrong ones red, missed ones dashed, orange."""
        found = self._found().only(self.scores >= self.threshold)
        names = [f"{self.classes[k]} {s:.2f}" for k, s in zip(found.labels, found.scores, strict=True)]
        if truth is None:
            return boxed(picture, found.corners, names, found.labels)
        there = there_in(truth)
        kind, missed = kinds(found, there)
        marks = np.array(["right" if k == KINDS.index("right") else "" if k in FINE else "wrong" for k in kind], object)
        order = np.argsort(marks == "right", kind="stable")  # right ones last, on top
        lost = [self.classes[k] for k in there.labels[missed]]
        corners = np.concatenate((there.corners[missed], found.corners[order]))
        return boxed(
            picture, corners, [*lost, *(names[k] for k in order)], ["missed"] * len(lost) + marks[order].tolist()
        )

    def _found(self) -> Found:
        return Found(np.zeros(len(self.scores), np.int64), self.corners, self.scores, self.labels)

    def tags(self) -> tuple[tuple[str, float], ...]:
        best: dict[str, float] = {}
        for one in self.boxes():
            best.setdefault(one["label"], one["score"])  # the first is the surest
        return tuple(best.items())
