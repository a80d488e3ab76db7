"""A class for each pixel: a map of classes over the picture.

The net is one of the zoo that gives such maps (U-Net, FCN, SegNet, ...), or any trunk with a decoder: the trunk's maps
of all strides are joined in a pyramid (Lin et al. 2017), summed at the finest stride, and read by a 1x1 convolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neocog.data.kinds import NOT_LABELLED
from neocog.errors import DataError
from neocog.nets.pyramid import Pyramid, conv_norm
from neocog.page import Html, heatmap, table
from neocog.tasks import coco
from neocog.tasks.task import Answer, Indexed, Losses, Section, Seen, Targets, Task, register

if TYPE_CHECKING:
    from neocog.data.batches import Batch
    from neocog.data.source import Source
    from neocog.data.warp import Warp
    from neocog.nets.trunk import Trunk

_LOOK_AT = 200  # masks that are read to find how frequent each class is
_GROUND = ("ground", "background", "void")
# colours that are told apart; the first is for the ground
COLOURS = np.array(
    [
        (30, 30, 30), (230, 60, 60), (60, 130, 230), (70, 180, 80), (240, 170, 40), (150, 80, 200), (60, 200, 200),
        (230, 110, 180), (150, 110, 70), (180, 200, 60), (120, 120, 120), (250, 220, 120), (100, 60, 120),
    ],
    dtype=np.uint8,
)  # fmt: skip


class Decoder(nn.Module):
    """Maps of all strides -> a map of classes at the size of the picture."""

    def __init__(self, channels: Mapping[int, int], classes: int, width: int = 128) -> None:
        super().__init__()
        # a map of the whole picture's size costs most and adds least, where a coarser one is there
        self.strides = [s for s in channels if s > 1] or list(channels)
        self.pyramid = Pyramid({s: channels[s] for s in self.strides}, width)
        self.mix = conv_norm(width, width)
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Mapping[int, Tensor], x: Tensor) -> Tensor:
        """-> logits (B, classes, H, W) for pictures (B, C, H, W)."""
        levels = list(self.pyramid(maps).values())
        total = levels[0]
        for level in levels[1:]:
            total = total + F.interpolate(level, total.shape[-2:], mode="bilinear", align_corners=False)
        return F.interpolate(self.last(self.mix(total)), x.shape[-2:], mode="bilinear", align_corners=False)


@dataclass(frozen=True, slots=True)
class Regions(Answer):
    """The class of each pixel of one picture.

    Attributes:
        mask: uint8 (H, W) in the file's own upright pixels, index into `classes`.
        confidence: float16 (H, W), the probability of that class.
    """

    key: str
    classes: tuple[str, ...] = ()
    mask: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.uint8))
    confidence: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float16))
    problem: str | None = None

    def shares(self) -> dict[str, float]:
        """Share of the picture's area of each class that is there, the largest first."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.classes)) / max(1, self.mask.size)
        return {self.classes[k]: float(counts[k]) for k in np.argsort(-counts, kind="stable") if counts[k] > 0}

    def row(self) -> dict[str, Any]:
        return {"regions": "; ".join(f"{name} {share:.1%}" for name, share in self.shares().items())}

    def to_json(self) -> dict[str, Any]:
        height, width = self.mask.shape
        return {"height": height, "width": width, "shares": self.shares()}

    def coco(self, image_id: int) -> list[dict[str, Any]]:
        """One annotation for each class that is there, the ground left out."""
        found = []
        for k in np.unique(self.mask).tolist():
            if k < len(self.classes) and self.classes[k] not in _GROUND:
                mask = self.mask == k
                score = float(self.confidence[mask].mean(dtype=np.float64))
                found.append(coco.region(mask, k, image_id, score))
        return found

    def indexed(self) -> Indexed:
        return Indexed(self.mask, self.classes, COLOURS[np.arange(len(self.classes)) % len(COLOURS)])

    def draw(self, picture: np.ndarray, truth: Any = None) -> np.ndarray:
        """The classes' colours over the picture; with the truth beside it where that is known."""
        if truth is None:
            return coloured(picture, self.mask)
        return np.concatenate((coloured(picture, truth), coloured(picture, self.mask)), axis=1)

    def tags(self) -> tuple[tuple[str, float], ...]:
        return tuple((name, 1.0) for name, share in self.shares().items() if share > 0.01)


def coloured(picture: np.ndarray, mask: np.ndarray, strength: float = 0.55) -> np.ndarray:
    """A mask's colours laid over a picture, uint8 (H, W, 3); pixels without a label stay as they are."""
    wide = np.repeat(picture[:, :, None], 3, 2) if picture.ndim == 2 else picture
    colours = COLOURS[mask % len(COLOURS)].astype(np.float32)
    mixed = wide * (1 - strength) + colours * strength
    return np.where((mask == NOT_LABELLED)[:, :, None], wide, mixed).astype(np.uint8)


@register
class Segment(Task):
    """Cross-entropy over classes for each labelled pixel, and Dice where classes are small.

    Args:
        classes: names, in the order of the outputs.
        weights: (K,), how much a pixel of each class counts.
        dice: share of the Dice loss (Milletari et al. 2016) in the whole.
        width: channels of the decoder.
    """

    name = "segment"
    about = "a class for each pixel"
    needs = {"mask": "mask"}
    goal = ("miou", "max")
    figure = "mean IoU"
    fit = "pad"
    geometry = True
    recipe = "dense"
    options = {"dice": 0.0, "width": 128}
    summed = frozenset({"confusion", "loss_sum"})

    def __init__(
        self, classes: Sequence[str], weights: Sequence[float] | None = None, dice: float = 0.0, width: int = 128
    ) -> None:
        self.classes, self.dice, self.width = tuple(classes), float(dice), int(width)
        self.weights = None if weights is None else torch.tensor(list(weights), dtype=torch.float32)

    @classmethod
    def plan(cls, source: Source, rows: np.ndarray, settings: Mapping[str, Any]) -> Segment:
        column: Any = source.columns["mask"]
        names = column.names
        if len(names) < 2:
            raise DataError(
                f"{source.name} has masks of one class, {names}; expected at least two, one may be the ground"
            )
        counts = np.zeros(len(names))
        for i in rows[np.linspace(0, len(rows) - 1, min(_LOOK_AT, len(rows))).astype(int)]:
            mask = column[int(i)]
            if mask is not None:
                counts += np.bincount(mask.ravel(), minlength=256)[: len(names)]
        weights = None
        if settings.get("balance", "auto") != "none" and (counts > 0).sum() > 1:
            share = counts / counts.sum()
            there = share > 0
            each = np.ones(len(names))
            each[there] = 1 / np.sqrt(share[there])  # between none and equal weight for all classes
            weights = (each / (each * share).sum()).tolist()
        return cls(names, weights, settings.get("dice", 0.0), settings.get("width", 128))

    def to_json(self) -> dict[str, Any]:
        weights = None if self.weights is None else self.weights.tolist()
        return {"classes": list(self.classes), "weights": weights, "dice": self.dice, "width": self.width}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Segment:
        return cls(**values)

    @property
    def zoo_outputs(self) -> int:
        return len(self.classes)

    def head(self, trunk: Trunk) -> nn.Module:
        return Decoder(trunk.channels, len(self.classes), self.width)

    def collate(self, values: dict[str, Any], warp: Warp | None, valid: Tensor) -> Targets:
        assert warp is not None
        height, width = warp.size
        made = torch.full((len(valid), height, width), NOT_LABELLED, dtype=torch.uint8)
        for b, mask in enumerate(values["mask"]):
            if valid[b] and mask is not None:
                made[b] = warp.mask(b, mask)
        return {"mask": made}

    def losses(self, outputs: Tensor, batch: Batch) -> Losses:
        mask = batch.targets["mask"].long()
        if outputs.shape[-2:] != mask.shape[-2:]:
            outputs = F.interpolate(outputs, mask.shape[-2:], mode="bilinear", align_corners=False)
        labelled = mask != NOT_LABELLED
        count = labelled.sum()
        weights = None if self.weights is None else self.weights.to(outputs.device)
        each = F.cross_entropy(outputs, mask, weights, ignore_index=NOT_LABELLED, reduction="none")
        parts = {"cross_entropy": each.sum() / count.clamp(min=1)}
        if self.dice:
            parts["dice"] = self.dice * dice_loss(outputs, mask, labelled)
        right = ((outputs.detach().argmax(1) == mask) & labelled).sum()
        return Losses(parts, count, {"pixel_accuracy": right})

    def unmirrored(self, outputs: Tensor) -> Tensor:
        return outputs.flip(-1)

    def observe(self, outputs: Tensor, batch: Batch) -> dict[str, Any]:
        mask = batch.targets["mask"].long()
        if outputs.shape[-2:] != mask.shape[-2:]:
            outputs = F.interpolate(outputs, mask.shape[-2:], mode="bilinear", align_corners=False)
        labelled, k = mask != NOT_LABELLED, len(self.classes)
        found = outputs.argmax(1)
        loss = F.cross_entropy(outputs, mask, ignore_index=NOT_LABELLED, reduction="sum")
        each = []
        for b in range(len(mask)):
            cells = (mask[b] * k + found[b])[labelled[b]]
            each.append(torch.bincount(cells, minlength=k * k).view(k, k))
        confusion = torch.stack(each)
        return {
            "rows": batch.rows,
            "iou": _iou(confusion.double()).cpu(),
            "confusion": confusion.sum(0),
            "loss_sum": loss[None].double(),
        }

    def figures(self, seen: Seen) -> dict[str, Any]:
        confusion = seen.get("confusion")
        if confusion is None or not confusion.sum():
            return {"n": 0, "miou": float("nan"), "loss": float("nan")}
        hits = np.diag(confusion).astype(np.float64)
        union = confusion.sum(0) + confusion.sum(1) - hits
        iou = np.where(union > 0, hits / np.maximum(union, 1), np.nan)
        recall = hits / np.maximum(confusion.sum(1), 1)
        return {
            "n": len(seen["rows"]),
            "miou": float(np.nanmean(iou)),
            "pixel_accuracy": float(hits.sum() / confusion.sum()),
            "mean_accuracy": float(recall[confusion.sum(1) > 0].mean()),
            "loss": float(seen["loss_sum"][0] / confusion.sum()),
            "per_class": {name: float(v) for name, v in zip(self.classes, iou, strict=True)},
        }

    def worst(self, seen: Seen) -> np.ndarray:
        return seen["rows"][np.argsort(seen["iou"], kind="stable")]

    def caption(self, seen: Seen, row: int) -> str:
        return f"IoU {seen['iou'][seen['rows'] == row][0]:.2f}; left the labels, right the answer"

    def sections(self, seen: Seen, figures: Mapping[str, Any]) -> list[Section]:
        rows = [
            {"class": name, "IoU": "not there" if np.isnan(v) else f"{v:.1%}"}
            for name, v in sorted(figures["per_class"].items(), key=lambda item: (np.isnan(item[1]), item[1]))
        ]
        return [
            Section("Classes", table(rows, numeric=("IoU",))),
            Section("Confusion matrix (pixels)", Html(heatmap(seen["confusion"], self.classes, self.classes))),
        ]

    def answers(self, outputs: Tensor, batch: Batch, keys: Sequence[str], top: int = 5) -> list[Answer]:
        assert batch.warp is not None
        found: list[Answer] = []
        for b, key in enumerate(keys):
            p, mask = batch.warp.maps_back(b, outputs[b].softmax(0)).max(0)
            found.append(Regions(key, self.classes, mask.byte().cpu().numpy(), p.half().cpu().numpy()))
        return found

    def unread(self, key: str, problem: str) -> Answer:
        return Regions(key, problem=problem)


def dice_loss(outputs: Tensor, mask: Tensor, labelled: Tensor) -> Tensor:
    """1 - the mean over the classes that are there of twice the overlap over the sum (Milletari et al. 2016)."""
    k = outputs.shape[1]
    p = outputs.softmax(1) * labelled[:, None]
    truth = F.one_hot(mask.clamp(max=k - 1), k).movedim(-1, 1) * labelled[:, None]
    both, total = (p * truth).sum((0, 2, 3)), (p + truth).sum((0, 2, 3))
    there = truth.sum((0, 2, 3)) > 0
    return 1 - (2 * both / total.clamp(min=1e-6))[there].mean() if there.any() else outputs.sum() * 0


def _iou(confusion: Tensor) -> Tensor:
    """Mean IoU over the classes that are there, of confusion matrices (B, K, K)."""
    hits = confusion.diagonal(dim1=1, dim2=2)
    union = confusion.sum(1) + confusion.sum(2) - hits
    there = union > 0
    return (hits / union.clamp(min=1) * there).sum(1) / there.sum(1).clamp(min=1)
