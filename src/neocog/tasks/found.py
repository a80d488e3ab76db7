"""How good found boxes are: COCO's and VOC's average precision, and what kind each error is.

Found and true boxes of a split are flat arrays, each box with the number of its picture. COCO's figures are those of
faster-coco-eval (the same numbers as pycocotools, tested by its authors).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from neocog.errors import UsageError

BANDS = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}  # area in pixels, as COCO
HIT = 0.5  # IoU from which on a box is found
_NEAR = 0.1  # IoU from which on a wrong box means an object, but misses it
KINDS = ("right", "badly placed", "wrong class", "found twice", "background", "ignored")


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
