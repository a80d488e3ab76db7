"""A class for each pixel: a map of classes over the picture.

The net is one of the zoo that gives such maps (U-Net, FCN, SegNet, ...), or any trunk with a decoder: the trunk's maps
of all strides are joined in a pyramid (Lin et al. 2017), summed, sharpened by the finest maps, and read by a 1x1
convolution.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neocog.charts import heatmap
from neocog.data.kinds import NOT_LABELLED
from neocog.errors import DataError, UsageError
from neocog.nets.pyramid import Joined, conv_norm
from neocog.nets.tiling import over_picture
from neocog.page import Html, paragraph, table
from neocog.records import counted
from neocog.tasks.answer import Answer, Claim, which
from neocog.tasks.masks import border_f, border_weights, dice_loss, is_ground
from neocog.tasks.regions import Regions as Regions
from neocog.tasks.regions import fitted
from neocog.tasks.task import Batch, Losses, Section, Seen, Source, Targets, Task, Trunk, Warp, register

ADJUSTMENTS = (0.0, 0.5, 1.0)  # of which the validation pictures choose one
_LOOK_AT = 200  # masks that are read to find how frequent each class is


class Decoder(Joined):
    """Maps of all strides -> a map of classes at the size of the picture.

    Maps from stride 4 on are joined in a pyramid (Kirillov et al. 2019). Finer ones cost most, so few channels are kept
    there: at stride 2 a quarter of `width`, at stride 1 an eighth, as a U-Net narrows on its way up.
    """

    def __init__(self, channels: Mapping[int, int], classes: int, width: int = 128) -> None:
        super().__init__(channels, width, finest=4)
        self.fine = sorted((s for s in channels if s < self.stride), reverse=True)
        self.narrow, self.lateral, self.join = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for stride in self.fine:
            thin = max(16, width // (4 if stride > 1 else 8))
            self.narrow.append(nn.Conv2d(width, thin, 1))
            self.lateral.append(nn.Conv2d(channels[stride], thin, 1, bias=False))
            self.join.append(conv_norm(thin, thin))
            width = thin
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Mapping[int, Tensor], x: Tensor) -> Tensor:  # type: ignore[override]
        """-> logits (B, classes, H, W) for pictures (B, C, H, W)."""
        total = super().forward(maps)
        for stride, narrow, lateral, join in zip(self.fine, self.narrow, self.lateral, self.join, strict=True):
            total = join(_enlarged(narrow(total), maps[stride].shape) + lateral(maps[stride]))
        return _enlarged(self.last(total), x.shape)


def _enlarged(maps: Tensor, shape: torch.Size) -> Tensor:
    return F.interpolate(maps, shape[-2:], mode="bilinear", align_corners=False)


@register
class Segment(Task):
    """Cross-entropy over classes for each labelled pixel, and Dice where classes are small.

    Rare classes count more in the loss, so that they are learned at all; but then they are found too often where a
    pixel may be of either side of a border. So `adjustment` times the logarithm of the weights is taken off the logits
    (Menon et al. 2021, "Long-tail learning via logit adjustment", section 4.1): with 1 the outputs say how probable a
    class is.

    Args:
        classes: names, in the order of the outputs.
        weights: (K,), how much a pixel of each class counts.
        dice: share of the Dice loss (Milletari et al. 2016) in the whole.
        width: channels of the decoder; 0: half of those of the trunk's deepest maps, at most 128.
        border: how much more a pixel between two objects that touch counts, w0 of Ronneberger et al. 2015 (there 10).
        tile: side of the tiles in which pictures are seen at their own scale; 0: the whole picture, scaled.
        colours: RGB of each class, where the data say it.
        adjustment: see above; None: not chosen yet, by the mean IoU on the validation pictures.
    """

    name = "segment"
    about = "a class for each pixel"
    needs = {"mask": "mask"}
    goal = ("miou", "max")
    figure = "mean IoU"
    fit = "pad"
    geometry = True
    zooms = False  # drawn pictures at 64 pixels: 0.969 on validation pictures without, 0.960 with zoom 0.25
    recipe = "dense"
    answer = Regions
    kept = ("classes", "weights", "colours", "adjustment")
    options = {"dice": 0.0, "width": 0, "border": 0.0, "tile": 0}
    summed = frozenset({"confusion", "loss_sum", "border_sum", "border_n"})

    def __init__(
        self,
        classes: Sequence[str],
        weights: Sequence[float] | None = None,
        colours: Sequence[Sequence[int]] | None = None,
        adjustment: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.classes, self.adjustment = tuple(classes), adjustment
        self.colours = None if colours is None else tuple((int(r), int(g), int(b)) for r, g, b in colours)
        self.weights = None if weights is None else torch.tensor(list(weights), dtype=torch.float32)

    @classmethod
    def plan(cls, source: Source, rows: np.ndarray, settings: Mapping[str, Any]) -> Segment:
        column: Any = source.columns["mask"]
        names = column.names
        if len(names) < 2:
            raise DataError(
                f"{source.name} has masks of one class, {names}; expected at least two, one may be the ground"
            )
        own = cls.chosen(settings)
        for name, value in own.items():
            if value < 0:
                raise UsageError(f"--task-option {name}= needs a number of at least 0, not {value}")
        counts = _counts(column, rows)
        if (counts > 0).sum() < 2 and len(rows) <= _LOOK_AT:
            what = "labelled pixel" if not counts.any() else f"class but {names[int(counts.argmax())]!r}"
            raise DataError(
                f"the masks of {source.name} hold no {what} in the {counted(len(rows))} to train on, so there is "
                "nothing to tell apart; 'neocog check' says which values were found"
            )
        weights = None if settings.get("balance", "auto") == "none" else balanced(counts)
        return cls(names, weights, **own, colours=getattr(column, "colours", None))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Segment:
        return cls(**{"adjustment": 0.0, **values})  # what older runs, which do not say it, have

    @classmethod
    def usual_net(cls, size: int) -> str | None:
        return "unet_small" if size <= 96 else None

    @property
    def zoo_outputs(self) -> int:
        return len(self.classes)

    def head(self, trunk: Trunk) -> nn.Module:
        width = self.how["width"] or min(128, trunk.channels[max(trunk.channels)] // 2)  # as in detect
        return Decoder(trunk.channels, len(self.classes), width)

    def run(self, net: nn.Module, batch: Batch) -> Any:
        return over_picture(net, batch.x, (tile, tile) if (tile := self.how["tile"]) else None)

    def collate(self, values: dict[str, Any], warp: Warp | None, valid: Tensor) -> Targets:
        assert warp is not None
        height, width = warp.size
        made = torch.full((len(valid), height, width), NOT_LABELLED, dtype=torch.uint8)
        for b, mask in enumerate(values["mask"]):
            if valid[b] and mask is not None:
                made[b] = warp.mask(b, fitted(mask, tuple(warp.sizes[b].tolist())))
        return {"mask": made}

    def losses(self, outputs: Tensor, batch: Batch) -> Losses:
        outputs, mask, labelled = _aligned(outputs, batch)
        count = labelled.sum()
        weights = None if self.weights is None else self.weights.to(outputs)
        each = F.cross_entropy(outputs, mask, weights, ignore_index=NOT_LABELLED, reduction="none")
        if self.how["border"]:
            plain = (
                each if weights is None else F.cross_entropy(outputs, mask, ignore_index=NOT_LABELLED, reduction="none")
            )
            near = np.stack([border_weights(one, self.how["border"]) for one in batch.targets["mask"].cpu().numpy()])
            each = each + plain * torch.from_numpy(near).to(plain)
        parts = {"cross_entropy": each.sum() / count.clamp(min=1)}
        if self.how["dice"]:
            parts["dice"] = self.how["dice"] * dice_loss(outputs, mask, labelled)
        right = ((outputs.detach().argmax(1) == mask) & labelled).sum()
        return Losses(parts, count, {"pixel_accuracy": right})

    def unmirrored(self, outputs: Tensor) -> Tensor:
        return outputs.flip(-1)

    turns_back = True

    def unturned(self, outputs: Tensor, quarter: int) -> Tensor:
        return outputs.rot90(-quarter, (-2, -1))

    def observe(self, outputs: Tensor, batch: Batch) -> dict[str, Any]:
        outputs, mask, labelled = _aligned(outputs, batch)
        k = len(self.classes)
        weights = None if self.weights is None else self.weights.to(outputs)
        loss = F.cross_entropy(outputs, mask, weights, ignore_index=NOT_LABELLED, reduction="sum")
        confusions, borders = [], []
        for adjustment in self._tried:
            found = self._adjusted(outputs, adjustment).argmax(1)
            each = [
                torch.bincount((true * k + own)[there], minlength=k * k).view(k, k)
                for true, own, there in zip(mask, found, labelled, strict=True)
            ]
            confusions.append(torch.stack(each))
            borders.append(torch.stack([border_f(own, true, k) for own, true in zip(found, mask, strict=True)]))
        border = torch.stack(borders)  # (T, B, K)
        return {
            "rows": batch.rows,
            "iou": torch.stack([_iou(c.double()).cpu() for c in confusions], 1),  # (B, T)
            "confusion": torch.stack(confusions).sum(1),  # (T, K, K)
            "loss_sum": loss[None].double(),
            "border_sum": border.nansum(1),
            "border_n": (~border.isnan()).sum(1),
        }

    @property
    def _tried(self) -> tuple[float, ...]:
        if self.weights is None:
            return (0.0,)
        return ADJUSTMENTS if self.adjustment is None else (self.adjustment,)

    def _adjusted(self, outputs: Tensor, adjustment: float | None = None) -> Tensor:
        """Logits (B, K, H, W) without so much of the weights; None: as chosen."""
        much = (self.adjustment or 0.0) if adjustment is None else adjustment
        if self.weights is None or not much:
            return outputs
        return outputs - much * self.weights.to(outputs).log()[:, None, None]

    def calibrate(self, seen: Seen) -> None:
        if self.weights is None or not len(seen.get("confusion", ())):
            self.adjustment = 0.0 if self.weights is None else 0.5  # without validation pictures: half
        elif self.adjustment is None:
            self.adjustment = ADJUSTMENTS[self._best(seen)]

    def _best(self, seen: Seen) -> int:
        """Which of the adjustments that were tried is the chosen one, or, before that, has the best mean IoU."""
        if len(seen["confusion"]) == 1:
            return 0
        if self.adjustment is not None:
            return ADJUSTMENTS.index(self.adjustment)
        return int(np.argmax([np.nanmean(_by_class(c)[0]) if c.sum() else 0.0 for c in seen["confusion"]]))

    def _judged(self, seen: Seen) -> Seen:
        """The same with the figures of one adjustment."""
        if "confusion" not in seen or seen["confusion"].ndim == 2:  # the latter in runs of before there were several
            return seen
        best = self._best(seen)
        one = {name: seen[name][best] for name in ("confusion", "border_sum", "border_n")}
        return {**seen, **one, "iou": seen["iou"][:, best]}

    def figures(self, seen: Seen) -> dict[str, Any]:
        seen = self._judged(seen)
        confusion = seen.get("confusion")
        if confusion is None or not confusion.sum():
            return {"n": 0, "miou": float("nan"), "loss": float("nan")}
        iou, recall, _ = _by_class(confusion)
        share = confusion.sum(1) / confusion.sum()
        accuracy = float(np.diag(confusion).sum() / confusion.sum())
        border = _border(seen)
        return {
            "n": len(seen["rows"]),
            "miou": float(np.nanmean(iou)),
            "pixel_accuracy": accuracy,
            **({"pixel_error": 1 - accuracy} if len(self.classes) == 2 else {}),
            "mean_accuracy": float(np.nanmean(recall)),
            "frequency_weighted_iou": float(np.nansum(share * iou)),
            "boundary_f": float(np.nanmean(border)) if not np.isnan(border).all() else float("nan"),
            "loss": float(seen["loss_sum"][0] / confusion.sum()),
            "per_class": {name: float(v) for name, v in zip(self.classes, iou, strict=True)},
        }

    def worst(self, seen: Seen) -> np.ndarray:
        seen = self._judged(seen)
        order = np.argsort(seen["iou"], kind="stable")
        return seen["rows"][order[seen["iou"][order] >= 0]]

    def caption(self, seen: Seen, row: int) -> str:
        return f"IoU {self._judged(seen)['iou'][seen['rows'] == row][0]:.2f}; labels, answer, errors"

    def sections(self, seen: Seen, figures: Mapping[str, Any]) -> list[Section]:
        seen = self._judged(seen)
        confusion = seen["confusion"]
        columns = dict(
            zip(("IoU", "found", "right", "boundary F"), (*_by_class(confusion), _border(seen)), strict=True)
        )
        share = confusion.sum(1) / max(1, confusion.sum())
        rows = [
            {
                "class": self.classes[k],
                "of all pixels": f"{share[k]:.1%}",
                **{name: "-" if np.isnan(v[k]) else f"{v[k]:.1%}" for name, v in columns.items()},
            }
            for k in np.argsort(columns["IoU"], kind="stable")
        ]
        words = paragraph(
            "Found: the share of a class's pixels that the net finds (recall). Right: the share of the pixels given a "
            "class that belong to it (precision). Boundary F: agreement of the borders within 0.75 % of the "
            "picture's diagonal."
        )
        return [
            Section("Classes", Html(table(rows, numeric=("of all pixels", *columns)) + words)),
            Section("Confusion matrix (pixels)", Html(heatmap(confusion, self.classes, self.classes))),
        ]

    def answers(self, outputs: Tensor, batch: Batch, keys: Sequence[str], top: int = 5) -> list[Answer]:
        assert batch.warp is not None
        found: list[Answer] = []
        for b, key in enumerate(keys):
            p, mask = batch.warp.maps_back(b, self._adjusted(outputs[b]).softmax(0)).max(0)
            found.append(Regions(key, self.classes, mask.byte().cpu().numpy(), p.half().cpu().numpy(), self.colours))
        return found

    claims = "a class, or a pixel of the file as x,y"

    def claim(self, outputs: Tensor, batch: Batch, what: str | None = None, other: Any = None) -> Claim:
        """A class: the mean of its logits where it was found. A pixel: the log-probability of its class there."""
        assert batch.warp is not None
        found = outputs[0].detach().argmax(0)
        (height, width), (rows, columns) = batch.x.shape[-2:], found.shape
        if what is not None and re.fullmatch(r"\d+,\d+", what):
            x, y = batch.warp.points(0, np.array([[float(n) + 0.5 for n in what.split(",")]]))[0].tolist()
            if not (0 <= x < width and 0 <= y < height):
                raise UsageError(f"the pixel {what} is outside of what the net sees of the picture")
            row, column = int(y * rows / height), int(x * columns / width)
            k, at = int(found[row, column]), [float(n) for n in what.split(",")]
            name = f"{self.classes[k]} at {what}"
            return Claim(name, lambda out: out[:, :, row, column].log_softmax(1)[:, k], (*at, *at), True)  # type: ignore[arg-type]
        counts = torch.bincount(found.flatten(), minlength=len(self.classes)).tolist()
        order = sorted(range(len(counts)), key=lambda k: (is_ground(self.classes[k]) or not counts[k], -counts[k]))
        k = which(what, self.classes, "class", order[0])
        where = (found == k).float() if counts[k] else torch.ones_like(found, dtype=torch.float32)
        return Claim(self.classes[k], lambda out: (out[:, k] * where).sum((1, 2)) / where.sum(), local=True)

    reading = "`classes` (B, H, W) is the class of each pixel; `output` (B, K, h, w) are the logits before adjustment."

    def readings(self, outputs: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        return {"classes": _enlarged(self._adjusted(outputs), torch.Size(size)).argmax(1).to(torch.uint8)}


def balanced(counts: np.ndarray) -> list[float] | None:
    """Weights of classes with these numbers of pixels, of mean 1 over all pixels; None where one class has all.

    The inverse square root of the share is between equal weight for all pixels and equal weight for all classes.
    """
    if (counts > 0).sum() < 2:
        return None
    share = counts / counts.sum()
    each = np.ones(len(counts))
    each[share > 0] = 1 / np.sqrt(share[share > 0])
    return (each / (each * share).sum()).tolist()  # type: ignore[no-any-return]


def _counts(column: Any, rows: np.ndarray) -> np.ndarray:
    """How many pixels each class has in some of the masks."""
    counts = np.zeros(len(column.names))
    for i in rows[np.linspace(0, len(rows) - 1, min(_LOOK_AT, len(rows))).astype(int)]:
        try:
            mask = column[int(i)]
        except DataError:
            continue  # 'neocog check' says which
        if mask is not None:
            counts += np.bincount(mask.ravel(), minlength=256)[: len(counts)]
    return counts


def _aligned(outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs as large as the masks, the masks (int64), and which pixels are labelled."""
    mask = batch.targets["mask"].long()
    if outputs.shape[-2:] != mask.shape[-2:]:
        outputs = F.interpolate(outputs, mask.shape[-2:], mode="bilinear", align_corners=False)
    return outputs, mask, mask != NOT_LABELLED


def _by_class(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IoU, recall and precision of each class (K,); nan where nothing is to be said."""
    hits, true, found = np.diag(confusion).astype(float), confusion.sum(1), confusion.sum(0)
    parts = ((hits, true + found - hits), (hits, true), (hits, found))
    iou, recall, precision = (np.where(of > 0, part / np.maximum(of, 1), np.nan) for part, of in parts)
    return iou, recall, precision


def _border(seen: Seen) -> np.ndarray:
    """Boundary F of each class, the mean over the pictures where it has a border; nan where none has."""
    n = seen["border_n"]
    return np.where(n > 0, seen["border_sum"] / np.maximum(n, 1), np.nan)


def _iou(confusion: Tensor) -> Tensor:
    """Mean IoU over the classes that are there, of confusion matrices (B, K, K); -1 where nothing is labelled."""
    hits = confusion.diagonal(dim1=1, dim2=2)
    union = confusion.sum(1) + confusion.sum(2) - hits
    there = union > 0
    mean = (hits / union.clamp(min=1) * there).sum(1) / there.sum(1).clamp(min=1)
    return torch.where(there.any(1), mean, -1.0)
