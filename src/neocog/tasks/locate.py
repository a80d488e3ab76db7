"""Where is it? The largest box of each picture as four numbers, and the name of what is in it.

The corners are regressed (Sermanet et al. 2013, section 4), as shares of the net's input. Losses: l1, squared, or giou
(Rezatofighi et al. 2019), which judges the whole box. Where boxes have several names, a softmax over these is learned
with it.

- method maps: every cell of a joined map of stride 4 proposes a box around itself and names, and says by how much it
  counts; a softmax over the cells makes one answer of them. So the places of the maps are not lost.
- method numbers: the net's own last layer gives the numbers, as in the paper. Nets that end in a mean or maximum over
  the whole map lose places on the way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neocog.data.kinds import Boxes, BoxSet
from neocog.errors import DataError
from neocog.nets.boxes import giou
from neocog.nets.boxes import iou as overlap
from neocog.nets.pyramid import Joined
from neocog.page import table
from neocog.tasks.answer import Answer, Claim, coco_box, which
from neocog.tasks.canvas import boxed
from neocog.tasks.inside import check_inside
from neocog.tasks.task import Batch, Losses, Section, Seen, Source, Targets, Task, Trunk, Warp, register

METHODS, LOSSES = ("maps", "numbers"), ("l1", "squared", "giou")
_MIDDLE = (0.25, 0.25, 0.75, 0.75)  # where outputs of 0 are; one is a quarter of the picture
_QUARTER = 0.25
_EDGES = ("left", "top", "right", "bottom", "size")
_FINEST = 4  # stride of the map whose cells propose boxes


class Proposals(nn.Module):
    """Maps of all strides -> one box and its names: the mean of what the cells propose, weighted by a softmax."""

    def __init__(self, channels: Mapping[int, int], outputs: int, width: int) -> None:
        super().__init__()
        self.joined = Joined(channels, width, finest=_FINEST)
        self.last = nn.Conv2d(width, 1 + outputs, 1)

    def forward(self, maps: Mapping[int, Tensor], x: Tensor) -> Tensor:
        """-> (B, outputs) of pictures (B, C, H, W): corners in quarters from the middle half, then logits of names."""
        said = self.last(self.joined(maps))  # (B, 1 + outputs, h, w)
        rows, columns = said.shape[-2:]
        counts = said[:, 0].flatten(1).float().softmax(1)
        across = (torch.arange(columns, device=said.device) + 0.5) / columns
        down = (torch.arange(rows, device=said.device) + 0.5) / rows
        own = torch.stack((across.expand(rows, -1), down[:, None].expand(-1, columns))).repeat(2, 1, 1)  # (4, h, w)
        own = (own - own.new_tensor(_MIDDLE)[:, None, None]) / _QUARTER
        boxes = said[:, 1:5].float() + own
        return torch.cat([(v.flatten(2) * counts[:, None]).sum(2) for v in (boxes, said[:, 5:].float())], 1)


@dataclass(frozen=True, slots=True)
class Place(Answer):
    """The box of one picture: x0, y0, x1, y1 in pixels of the upright file, and what is in it.

    `probability` is that of the label among all labels, `classes`; 1 where there is only one.
    """

    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    label: str = ""
    probability: float = 1.0
    classes: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        corners = dict(zip(("x0", "y0", "x1", "y1"), self.box, strict=True))
        return {"label": self.label, "probability": self.probability, **corners}

    def to_json(self) -> dict[str, Any]:
        return {"label": self.label, "probability": self.probability, "box": list(self.box)}

    def coco(self, image_id: int) -> list[dict[str, Any]]:
        x0, y0, x1, y1 = self.box
        number = self.classes.index(self.label) + 1 if self.label in self.classes else 1
        place = {"bbox": coco_box(self.box), "area": round((x1 - x0) * (y1 - y0), 2)}
        return [{"image_id": image_id, "category_id": number, **place, "score": round(self.probability, 4)}]

    def draw(self, picture: np.ndarray, truth: Any = None) -> np.ndarray:
        """The box; with the truth, that in blue, and the answer green if they have half of their area in common."""
        said, found = f"{self.label} {self.probability:.0%}", largest(truth)
        if found is None:
            return boxed(picture, np.array([self.box]), [said], [""])
        mark = "right" if overlap(torch.tensor(self.box), torch.tensor(found[0])) >= 0.5 else "wrong"
        return boxed(picture, np.array([found[0], self.box]), ["truth", said], ["truth", mark])

    def tags(self) -> tuple[tuple[str, float], ...]:
        return ((self.label, self.probability),) if self.label else ()


@register
class Locate(Task):
    """Four numbers for the largest box, and its class.

    Args:
        classes: names of what is in the boxes.
        method: one of `METHODS`. loss: one of `LOSSES`.
        weight: of the box's loss beside the class's.
        width: channels of the head.
    """

    name = "locate"
    about = "the largest object of each picture: one box, and its name"
    needs = {"boxes": "boxes"}
    goal = ("miou", "max")
    figure = "mean IoU"
    fit = "pad"
    geometry = True
    recipe = "dense"
    answer = Place
    options = {"method": "maps", "loss": "l1", "weight": 5.0, "width": 128}
    choices = {"method": METHODS, "loss": LOSSES}
    kept = ("classes",)

    def __init__(self, classes: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self.classes, self.method = tuple(classes), self.how["method"]

    @classmethod
    def known(cls, source: Source) -> np.ndarray:
        """Samples with a box; an empty picture has no place."""
        column: Any = source.columns["boxes"]
        if not isinstance(column, Boxes):
            return np.asarray(column.known)
        counted = np.concatenate(([0], np.cumsum(~column.ignored)))
        return np.asarray(column.known & (np.diff(counted[column.ends]) > 0))

    @classmethod
    def plan(cls, source: Source, rows: np.ndarray, settings: Mapping[str, Any]) -> Locate:
        column: Any = source.columns["boxes"]
        if not len(rows):
            raise DataError(f"{source.name} has no training picture with a box; the task locate needs one in each")
        made = cls(column.names, **cls.chosen(settings))
        made.notes = tuple(check_inside(source, rows, "boxes"))
        return made

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Locate:
        return cls(**{"method": "numbers", **values})  # what older runs, which do not say it, have

    @classmethod
    def strata(cls, source: Source) -> np.ndarray | None:
        """The name of the largest box."""
        column = source.columns["boxes"]
        if not isinstance(column, Boxes):
            return None
        found = [largest(column[i]) for i in range(len(column))]
        return np.array([-1 if one is None else one[1] for one in found], np.int64)

    @property
    def _numbers(self) -> int:
        return 4 + (len(self.classes) if len(self.classes) > 1 else 0)

    @property
    def outputs(self) -> int | None:
        return self._numbers if self.method == "numbers" else None

    def head(self, trunk: Trunk) -> nn.Module:
        return Proposals(trunk.channels, self._numbers, self.how["width"])

    # ---- a batch: boxes as shares of the input's width and height

    def collate(self, values: dict[str, Any], warp: Warp | None, valid: Tensor) -> Targets:
        assert warp is not None
        height, width = warp.size
        boxes, labels = torch.full((len(valid), 4), math.nan), torch.full((len(valid),), -1, dtype=torch.int64)
        for b, row in enumerate(values["boxes"]):
            found = largest(row) if valid[b] else None
            if found is None:
                continue
            cut, good = warp.boxes(b, found[0][None])
            if good[0]:
                boxes[b] = torch.from_numpy(cut[0] / np.array([width, height, width, height], np.float32))
                labels[b] = found[1]
        return {"boxes": boxes, "labels": labels}

    def losses(self, outputs: Tensor, batch: Batch) -> Losses:
        each, known = self._each(outputs, batch.targets)
        count = known.sum()
        found, truth = self.corners(outputs.detach()), batch.targets["boxes"].nan_to_num(0.0)
        right = ((overlap(found, truth) >= 0.5) & known).sum()
        parts = {name: (value * known).sum() / count.clamp(min=1) for name, value in each.items()}
        return Losses(parts, count, {"iou50": right})

    def _each(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """The losses of every picture by part, and of which pictures the box is known."""
        known = targets["labels"] >= 0
        truth = targets["boxes"].nan_to_num(0.5).to(outputs.dtype)
        if self.how["loss"] == "giou":
            box = 1 - giou(self.corners(outputs), truth)
        else:
            far = outputs[:, :4] * _QUARTER + outputs.new_tensor(_MIDDLE) - truth
            box = far.abs().sum(1) if self.how["loss"] == "l1" else (far**2).sum(1)
        parts = {"box": self.how["weight"] * box}
        if len(self.classes) > 1:
            labels = targets["labels"].clamp(min=0)
            parts["class"] = F.cross_entropy(outputs[:, 4:], labels, reduction="none")
        return parts, known

    def corners(self, outputs: Tensor) -> Tensor:
        """Boxes (B, 4) as shares of the input, x0 <= x1 and y0 <= y1."""
        made = outputs[:, :4] * _QUARTER + outputs.new_tensor(_MIDDLE)
        first, second = made[:, :2], made[:, 2:]
        return torch.cat((torch.minimum(first, second), torch.maximum(first, second)), 1)

    def unmirrored(self, outputs: Tensor) -> Tensor:
        """The left edge of the mirror image is the right edge of the picture."""
        made = outputs.clone()
        made[:, 0], made[:, 2] = -outputs[:, 2], -outputs[:, 0]
        return made

    # ---- figures

    def _judged(self, seen: Seen) -> tuple[np.ndarray, np.ndarray]:
        """IoU of every answer with the largest box (nan: not known), and whether the class is right."""
        outputs = torch.from_numpy(np.asarray(seen["outputs"], np.float32))
        common = overlap(self.corners(outputs).double(), torch.from_numpy(seen["boxes"]).double()).numpy()
        named = np.ones(len(common), bool)
        if len(self.classes) > 1:
            named = seen["outputs"][:, 4:].argmax(1) == seen["labels"]
        return np.where(seen["labels"] >= 0, common, np.nan), named

    def figures(self, seen: Seen) -> dict[str, Any]:
        known = seen["labels"] >= 0 if len(seen.get("rows", ())) else np.zeros(0, bool)
        if not known.any():
            return {"n": len(known), "miou": math.nan, "loss": math.nan}
        iou, named = self._judged(seen)
        targets = {k: torch.from_numpy(np.asarray(seen[k])) for k in ("boxes", "labels")}
        parts, _ = self._each(torch.from_numpy(np.asarray(seen["outputs"], np.float32)), targets)
        good = iou >= 0.5
        made: dict[str, Any] = {
            "n": len(known),
            "miou": float(iou[known].mean()),
            "iou50": float(good[known].mean()),
            "accuracy": float((good & named)[known].mean()),  # 1 - the localisation error of ILSVRC
            "loss": float(sum(v.numpy()[known].mean() for v in parts.values())),
        }
        if len(self.classes) > 1:
            made["class_accuracy"] = float(named[known].mean())
            made["per_class"] = {
                name: float(iou[own].mean()) if (own := seen["labels"] == k).any() else math.nan
                for k, name in enumerate(self.classes)
            }
        return made

    def headline(self, figures: Mapping[str, Any]) -> str:
        named = f" with the right name {figures['accuracy']:.1%}," if "class_accuracy" in figures else ""
        return (
            f"mean IoU {figures['miou']:.4f}; IoU of at least 0.5: {figures['iou50']:.1%},{named} n = {figures['n']:,}"
        )

    # ---- the report

    def worst(self, seen: Seen) -> np.ndarray:
        iou, _ = self._judged(seen)
        return seen["rows"][np.argsort(np.nan_to_num(iou, nan=2.0), kind="stable")]

    def caption(self, seen: Seen, row: int) -> str:
        iou, named = self._judged(seen)
        at = int(np.flatnonzero(seen["rows"] == row)[0])
        if np.isnan(iou[at]):
            return "the true box is not known"
        wrong = "" if named[at] else f"; the true name is {self.classes[int(seen['labels'][at])]}"
        return f"IoU {iou[at]:.2f}{wrong}"

    def sections(self, seen: Seen, figures: Mapping[str, Any]) -> list[Section]:
        iou, named = self._judged(seen)
        if "per_class" not in figures:
            return []
        rows = []
        each = np.array([figures["per_class"][name] for name in self.classes])
        for k in np.argsort(each, kind="stable"):  # nan, of classes without pictures, comes last
            own = seen["labels"] == k
            good = iou[own] >= 0.5
            shares = {"IoU of at least 0.5": good, "right name": named[own], "both": good & named[own]}
            rows.append(
                {
                    "class": self.classes[k],
                    "pictures": f"{own.sum():,}",
                    "mean IoU": f"{iou[own].mean():.3f}" if own.any() else "-",
                    **{name: f"{v.mean():.1%}" if own.any() else "-" for name, v in shares.items()},
                }
            )
        return [Section("Classes", table(rows, numeric=tuple(rows[0])[1:]))]

    # ---- answers

    def answers(self, outputs: Tensor, batch: Batch, keys: Sequence[str], top: int = 5) -> list[Answer]:
        assert batch.warp is not None
        height, width = batch.warp.size
        corners = self.corners(outputs).cpu().numpy() * np.array([width, height, width, height])
        several = len(self.classes) > 1
        chances = outputs[:, 4:].softmax(1).cpu().numpy() if several else np.ones((len(outputs), 1))
        found: list[Answer] = []
        for b, (key, p) in enumerate(zip(keys, chances, strict=True)):
            x0, y0, x1, y1 = batch.warp.boxes_back(b, corners[b : b + 1])[0].tolist()
            label = self.classes[int(p.argmax())] if self.classes else ""
            found.append(Place(key, (x0, y0, x1, y1), label, float(p.max()), self.classes))
        return found

    claims = "a class, or left, top, right, bottom or size of the box"

    def claim(self, outputs: Tensor, batch: Batch, what: str | None = None, other: Any = None) -> Claim:
        """A class; or what makes an edge of the box lie further right or down, or its sides longer."""
        several = len(self.classes) > 1
        names = [*(self.classes if several else ()), *_EDGES]
        k = which(what, names, "class or edge", int(outputs[0, 4:].argmax()) if several else len(names) - 1)
        (answer,) = self.answers(outputs[:1].detach(), batch.part(slice(1)), [""])
        box = answer.box  # type: ignore[attr-defined]
        if several and k < len(self.classes):
            return Claim(names[k], lambda out: out[:, 4 + k], box)
        towards = torch.tensor([-1.0, -1.0, 1.0, 1.0] if names[k] == "size" else [names[k] == e for e in _EDGES[:4]])
        return Claim(f"{names[k]} of the box", lambda out: self.corners(out) @ towards.to(out), box)

    reading = "`boxes` are x0, y0, x1, y1 of the one box, `probabilities` those of its classes."

    def readings(self, outputs: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        height, width = size
        boxes = self.corners(outputs) * outputs.new_tensor([width, height, width, height])
        several = len(self.classes) > 1
        return {"boxes": boxes} | ({"probabilities": outputs[:, 4:].softmax(1)} if several else {})


def largest(boxes: BoxSet | None) -> tuple[np.ndarray, int] | None:
    """Corners (4,) and class of the largest box of a picture, of those that are not ignored; None if it has none."""
    if boxes is None:
        return None
    areas = (boxes.corners[:, 2:] - boxes.corners[:, :2]).clip(0).prod(1)
    areas = np.where(boxes.ignored, 0, areas)
    if not len(areas) or areas.max() <= 0:
        return None
    k = int(areas.argmax())
    return boxes.corners[k], int(boxes.labels[k])
