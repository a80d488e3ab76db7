"""Boxes around all objects of a picture, each with its class.

Any trunk carries one of two heads: one pass over cells (Tian et al. 2019, FCOS; ``head=one``, the default, several
times as fast), or proposals that are looked at again (Ren et al. 2015, Faster R-CNN with a feature pyramid, Lin et al.
2017; ``head=two``, and with the gates of GBD-Net, Zeng et al. 2016, ``head=gated``). See `neocog.nets.one_stage` and
`neocog.nets.two_stage`.

Judged as COCO does it, in the files' own pixels. Ignored boxes (crowds, difficult ones) are neither to be found nor
wrong if found; pictures without boxes are learned from and judged like all others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neocog.data.columns import LabelSets
from neocog.data.kinds import BoxSet
from neocog.errors import DataError, UsageError
from neocog.nets.boxes import cut
from neocog.nets.one_stage import OneStage, corners, one_stage_found, one_stage_losses, scores_of, unmirrored
from neocog.nets.two_stage import TwoStage, two_stage_found
from neocog.page import paragraph, table
from neocog.records import counted, some_of
from neocog.tasks.answer import Answer, Claim, which
from neocog.tasks.found import (
    BANDS,
    FINE,
    HIT,
    KINDS,
    Detections,
    Found,
    There,
    best_threshold,
    coco,
    iou,
    kinds,
    there_in,
    voc,
)
from neocog.tasks.inside import check_inside
from neocog.tasks.task import Batch, Losses, Section, Seen, Source, Targets, Task, Trunk, Warp, register

HEADS = ("one", "two", "gated")
NOBODY, IGNORED = -1, -2  # instead of a class: no box, and one that is neither to be found nor wrong
_LEAST, _MOST = 0.05, 100  # lowest score of a box that is kept at all; boxes of a picture (as COCO)


@register
class Detect(Task):
    """Boxes with classes.

    Args:
        classes: names, in the order of the outputs.
        head: one of `HEADS`.
        width: channels of the head's maps; 0: half of those of the trunk's deepest maps, at most 128.
        depth: convolutions of the one-stage head's towers.
        threshold: least score of a box in an answer; chosen on the validation pictures.
    """

    name = "detect"
    about = "a box and a class for each object"
    needs = {"boxes": "boxes"}
    goal = ("map", "max")
    figure = "mAP"
    fit = "pad"
    geometry = True
    recipe = "dense"
    answer = Detections
    choices = {"head": HEADS}
    kept = ("classes", "threshold")
    options = {"head": "one", "width": 0, "depth": 2}
    summed = frozenset({"loss_sum", "loss_count"})

    def __init__(
        self,
        classes: Sequence[str],
        threshold: float = 0.3,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.classes, self.threshold, self.kind = tuple(classes), float(threshold), self.how["head"]
        self.views_back = self.kind == "one"  # proposals of two views are not the same ones

    @classmethod
    def plan(cls, source: Source, rows: np.ndarray, settings: Mapping[str, Any]) -> Detect:
        column: Any = source.columns["boxes"]
        counts, empty = np.zeros(len(column.names), np.int64), 0
        for i in rows:
            boxes = column[int(i)]
            counts += np.bincount(boxes.labels[~boxes.ignored], minlength=len(counts))
            empty += len(boxes.labels) == 0
        if not counts.sum():
            raise DataError(
                f"the {counted(len(rows))} of {source.name} for training have no boxes; the task detect needs some "
                "('neocog check' shows the annotations)"
            )
        notes = check_inside(source, rows, "boxes")
        if empty:
            notes.append(f"{empty:,} of {counted(len(rows))} for training without a box: negative examples")
        if absent := [name for name, n in zip(column.names, counts, strict=True) if not n]:
            notes.append(f"no training picture has a box of {some_of(absent)}, so it cannot be learned")
        made = cls(column.names, **cls.chosen(settings))
        made.notes = tuple(notes)
        return made

    @classmethod
    def strata(cls, source: Source) -> LabelSets:
        """The classes in each picture, so that every split has some of all; none where nothing is to be found."""
        column: Any = source.columns["boxes"]
        sets = (column[i] for i in range(len(column)))
        there = [np.zeros(0, np.int32) if one is None else np.unique(one.labels[~one.ignored]) for one in sets]
        return LabelSets(np.cumsum([0, *map(len, there)]), np.concatenate([np.zeros(0, np.int32), *there]))

    def head(self, trunk: Trunk) -> nn.Module:
        # a head much wider than the trunk would take most of the time: 128 channels on placenet two thirds of it
        width = self.how["width"] or min(128, trunk.channels[max(trunk.channels)] // 2)
        if self.kind == "one":
            return OneStage(trunk.channels, len(self.classes), width, self.how["depth"])
        return TwoStage(trunk.channels, len(self.classes), width, gated=self.kind == "gated")

    def run(self, net: nn.Module, batch: Batch) -> Any:
        targets = {k: batch.targets[k] for k in ("boxes", "labels") if k in batch.targets}
        return net(*batch.inputs) if self.kind == "one" else net(*batch.inputs, **targets)

    def collate(self, values: dict[str, Any], warp: Warp | None, valid: Tensor) -> Targets:
        """Boxes float32 (B, M, 4) in pixels of the input, classes int64 (B, M), and the columns' values as they are.

        A box of which little is left inside the picture is ignored.
        """
        assert warp is not None
        sets: list[BoxSet | None] = values["boxes"]
        most = max([1, *(len(one.labels) for one in sets if one is not None)])
        boxes, labels = torch.zeros(len(valid), most, 4), torch.full((len(valid), most), NOBODY)
        for b, one in enumerate(sets):
            if one is None or not valid[b] or not len(one.labels):
                continue
            corners, whole = warp.boxes(b, one.corners)
            label = np.where(one.ignored | ~whole, IGNORED, one.labels)
            label[(corners[:, 2:] <= corners[:, :2]).any(1)] = NOBODY
            boxes[b, : len(label)], labels[b, : len(label)] = torch.from_numpy(corners), torch.from_numpy(label)
        return {"boxes": boxes, "labels": labels, "truth": sets}

    def losses(self, outputs: Any, batch: Batch) -> Losses:
        boxes, labels, valid = batch.targets["boxes"], batch.targets["labels"], batch.valid
        if self.kind == "one":
            sums, count = one_stage_losses(outputs, boxes, labels, valid)
        else:
            sums, count = {k: (v * valid).sum() for k, v in outputs["losses"].items()}, valid.sum()
        return Losses({name: value / count.clamp(min=1) for name, value in sums.items()}, count)

    def unmirrored(self, outputs: Any) -> Any:
        return unmirrored(outputs)

    def _found(self, outputs: Any, batch: Batch) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Corners in pixels of the files, scores and classes of each picture."""
        assert batch.warp is not None
        size = (batch.x.shape[2], batch.x.shape[3])
        if self.kind == "one":
            found = one_stage_found(outputs, size, _LEAST, _MOST)
        else:
            found = two_stage_found(outputs, len(batch), size, _LEAST, _MOST)
        made = []
        for b, (boxes, scores, labels) in enumerate(found):
            corners = batch.warp.boxes_back(b, boxes.cpu().numpy())
            made.append((corners, scores.float().cpu().numpy(), labels.cpu().numpy()))
        return made

    # ---- figures

    def observe(self, outputs: Any, batch: Batch) -> dict[str, Any]:
        losses = self.losses(outputs, batch)
        count = torch.as_tensor(losses.count)
        found, good = self._found(outputs, batch), batch.valid.cpu().numpy()
        truth = [there_in(one if one is not None else _NO_BOXES) for one in batch.targets["truth"]]
        kept = [b for b in range(len(batch)) if good[b]]
        rows = batch.rows.numpy()

        def joined(parts: list[np.ndarray], empty: np.ndarray) -> np.ndarray:
            return np.concatenate([empty, *parts])

        return {
            "rows": rows[kept],
            "each_found_row": joined([np.repeat(rows[b], len(found[b][1])) for b in kept], np.zeros(0, np.int64)),
            "each_found_box": joined([found[b][0] for b in kept], np.zeros((0, 4), np.float32)),
            "each_found_score": joined([found[b][1] for b in kept], np.zeros(0, np.float32)),
            "each_found_label": joined([found[b][2] for b in kept], np.zeros(0, np.int64)),
            "each_true_row": joined([np.repeat(rows[b], len(truth[b].labels)) for b in kept], np.zeros(0, np.int64)),
            "each_true_box": joined([truth[b].corners for b in kept], np.zeros((0, 4), np.float32)),
            "each_true_label": joined([truth[b].labels for b in kept], np.zeros(0, np.int64)),
            "each_true_ignored": joined([truth[b].ignored for b in kept], np.zeros(0, bool)),
            "loss_sum": (losses.total * count)[None].double(),
            "loss_count": count[None].double(),
        }

    def figures(self, seen: Seen) -> dict[str, Any]:
        if not len(seen.get("rows", ())):
            return {"n": 0, "map": float("nan"), "loss": float("nan")}
        found, there = _both(seen)
        every = coco(found, there, self.classes)
        sure, missed = kinds(found.only(found.scores >= self.threshold), there)
        return {
            "n": len(seen["rows"]),
            "boxes": int((~there.ignored).sum()),
            **{k: v for k, v in every.items() if k != "per_class"},
            **voc(found, there, self.classes),
            "wrong": int((~np.isin(sure, FINE)).sum()),
            "missed": int(missed.sum()),
            "loss": float(seen["loss_sum"][0] / max(1.0, seen["loss_count"][0])),
            "per_class": every["per_class"],
        }

    def calibrate(self, seen: Seen) -> None:
        if len(seen.get("rows", ())):
            self.threshold = best_threshold(*_both(seen))

    def _faults(self, seen: Seen) -> tuple[np.ndarray, np.ndarray]:
        """The pictures (rows) of wrong boxes, and of missed ones; several times where there are several."""
        found, there = _both(seen)
        sure = found.only(found.scores >= self.threshold)
        kind, missed = kinds(sure, there)
        return sure.pictures[~np.isin(kind, FINE)], there.pictures[missed]

    def worst(self, seen: Seen) -> np.ndarray:
        rows = seen["rows"]
        faults = np.bincount(np.concatenate(self._faults(seen)), minlength=rows.max(initial=0) + 1)[rows]
        return rows[np.argsort(-faults, kind="stable")]

    def caption(self, seen: Seen, row: int) -> str:
        wrong, missed = (int((rows == row).sum()) for rows in self._faults(seen))
        there = int(((seen["each_true_row"] == row) & ~seen["each_true_ignored"]).sum())
        if not wrong and not missed:
            return f"all {there} found" if there else "no objects, none found"
        return f"{there - missed} of {there} found (green), {missed} missed (orange), {wrong} wrong (red)"

    def headline(self, figures: Mapping[str, Any]) -> str:
        return (
            f"AP50 {figures['ap50']:.3f}, mAP {figures['map']:.3f} "
            f"({counted(figures['n'])}, {counted(figures['boxes'], 'box')}; {figures['missed']:,} missed, "
            f"{figures['wrong']:,} wrong)"
        )

    def sections(self, seen: Seen, figures: Mapping[str, Any]) -> list[Section]:
        def shown(value: float) -> str:
            return "-" if value is None or np.isnan(value) else f"{value:.3f}"

        columns = {"mAP": "map", "AP50": "ap50", **{band: band for band in BANDS}}
        each = [
            {"class": name, "boxes": f"{row['boxes']:,}", **{k: shown(row[v]) for k, v in columns.items()}}
            for name, row in figures["per_class"].items()
        ]
        every = {"map": figures["map"], "ap50": figures["ap50"]}
        every |= {band: figures.get(f"map_{band}", np.nan) for band in BANDS}
        values = {k: shown(every[v]) for k, v in columns.items()}
        each.append({"class": "all", "boxes": f"{figures['boxes']:,}", **values})
        bands = paragraph(
            "mAP is COCO's: the mean over IoU 0.50 to 0.95. Small boxes have an area below 32x32 pixels of the file, "
            "large ones from 96x96 on; - : no such box."
        )
        found, there = _both(seen)
        sure = found.only(found.scores >= self.threshold)
        kind, missed = kinds(sure, there)
        wrong = [(i, what) for i, what in enumerate(KINDS) if what != "ignored"]

        def line(name: str, own: np.ndarray, lost: np.ndarray) -> dict[str, object]:
            counts = {what: int((own & (kind == i)).sum()) for i, what in wrong}
            return {"class": name, **counts, "missed": int(lost.sum())}

        rows = [line(name, sure.labels == k, missed & (there.labels == k)) for k, name in enumerate(self.classes)]
        rows.append(line("all", kind >= 0, missed))
        words = paragraph(
            f"Boxes with a score from {self.threshold:.2f} on, the threshold with the best F1 on the "
            "validation pictures. Badly placed: IoU of 0.1 to 0.5 with an object of the class. Wrong class: IoU of "
            "at least 0.5 with an object of another class."
        )
        return [
            Section("Classes", type(bands)(table(each, numeric=("boxes", *columns)) + bands)),
            Section("Kinds of errors", type(bands)(table(rows, numeric=(*KINDS, "missed")) + words)),
        ]

    # ---- answers

    def answers(self, outputs: Any, batch: Batch, keys: Sequence[str], top: int = 5) -> list[Answer]:
        found = self._found(outputs, batch)
        return [Detections(key, self.classes, *one, self.threshold) for key, one in zip(keys, found, strict=True)]

    reading = (
        "`boxes` (B, P, 4) are x0, y0, x1, y1 of all P cells, `scores` (B, P, K) say how sure each class is there. "
        "Keep scores from the threshold on; of boxes of one class that overlap by an IoU above 0.6 keep the best."
    )

    def readings(self, outputs: Any, size: tuple[int, int]) -> dict[str, Tensor]:
        if self.kind != "one":
            return {}
        return {"boxes": cut(corners(outputs), size), "scores": scores_of(outputs)}

    claims = "a class (its surest box), or the number of a box, 1 for the surest"

    def claim(self, outputs: Any, batch: Batch, what: str | None = None, other: Any = None) -> Claim:
        """The logit of the class of a box, where it was found: in its cell, or of the proposals that overlap it."""
        found, scores, labels = (np.asarray(v) for v in self._found(outputs, batch)[0])
        if not len(scores):
            raise UsageError("the net finds no box in this picture, so there is none to explain")
        if what is None or (what.isdecimal() and 1 <= int(what) <= len(scores)):
            n = int(what or 1) - 1
        else:
            own = np.flatnonzero(labels == which(what, self.classes, "class or box", 0))
            if not len(own):
                raise UsageError(f"the net finds no {what} in this picture; it finds {self.classes[labels[0]]}")
            n = int(own[0])
        k, size = int(labels[n]), (batch.x.shape[2], batch.x.shape[3])
        assert batch.warp is not None
        there = torch.from_numpy(batch.warp.boxes(0, found[n : n + 1])[0])  # in pixels of the input
        if self.kind == "one":
            good = torch.from_numpy(iou(cut(corners(outputs), size)[0].detach().cpu().numpy(), there.numpy())[:, 0])
            cell = int((scores_of(outputs)[0, :, k].detach().cpu() * (good > HIT)).argmax())

            def score(out: Any) -> Tensor:
                return out["classes"][:, cell, k]  # type: ignore[no-any-return]
        else:

            def score(out: Any) -> Tensor:
                logits = out["named"].log_softmax(1)[:, k]
                near = torch.from_numpy(iou(out["rois"].detach().cpu().numpy(), there.numpy())[:, 0] > HIT)
                far = torch.where(near.to(logits.device), logits, logits.detach().amin())
                return torch.stack([far[out["picture"] == b].amax() for b in range(int(out["picture"].max()) + 1)])

        box = tuple(float(v) for v in found[n])
        return Claim(f"box {n + 1}: {self.classes[k]}", score, box, True)  # type: ignore[arg-type]


_NO_BOXES = BoxSet(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool))


def _both(seen: Seen) -> tuple[Found, There]:
    """What was found in a split, and what is there."""
    found = Found(*(seen[f"each_found_{name}"] for name in ("row", "box", "score", "label")))
    return found, There(*(seen[f"each_true_{name}"] for name in ("row", "box", "label", "ignored")))
