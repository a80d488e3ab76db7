"""Boxes in one pass: every cell of the maps says which class is there, and how far the box's sides are.

Tian et al. 2019, "FCOS: Fully Convolutional One-Stage Object Detection" (COCO, ResNet-50-FPN: AP 38.7 with what its
section 4 calls improvements: centre sampling, GIoU, a second score beside the sides). That score is learned to be the
overlap of the box with the true one (Wu et al. 2020, "IoU-aware Single-stage Object Detector"), by which boxes are
ranked better than by the centre-ness of FCOS. Two towers of 3x3 convolutions, the same at all strides, read a
pyramid; classes are learned by the focal loss (Lin et al. 2017, "Focal Loss for Dense
Object Detection"), whose prior of 0.01 keeps the many empty cells from drowning the few others at the beginning.

| output | shape, P cells of all strides together |
|---|---|
| classes | (B, P, K) logits |
| sides | (B, P, 4) distances from the cell's centre to left, top, right, bottom, in pixels |
| quality | (B, P) logits of the overlap (IoU) of the box with the true one |
| cells | (P, 4) centre x, y, stride, and where the centre is in the mirror image |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .boxes import area, cut, giou, grid, iou, nms, voted
from .layers import he_init
from .pyramid import Pyramid, conv_norm

PRIOR = 0.01  # share of the cells that hold an object, as the net says before it has learned anything
ALPHA, GAMMA = 0.25, 2.0  # of the focal loss
_RADIUS = 1.5  # strides around a box's centre in which cells are asked for it
_REACH = 4  # strides: a level's boxes reach at most this far from the cell (FCOS: 8, for pictures of 800 pixels)
_BEFORE, _IOU = 1000, 0.6  # of suppression


def levels(channels: Mapping[int, int], octaves: int, finest: int) -> list[int]:
    """Strides that a detector reads: the trunk's from some octaves below its coarsest on, and at least one above it.

    None is below `finest`, and there are at least three.
    """
    coarsest = max(channels)
    made = [s for s in channels if s >= max(finest, coarsest >> octaves) or s == coarsest]
    while made[-1] <= coarsest or len(made) < 3:
        made.append(2 * made[-1])
    return made


class OneStage(nn.Module):
    """The head.

    Args:
        channels: stride -> channels of the trunk's maps.
        width: channels of the pyramid and the towers.
        depth: convolutions of each tower (published: 4, of width 256).
    """

    def __init__(self, channels: Mapping[int, int], classes: int, width: int = 128, depth: int = 2) -> None:
        super().__init__()
        self.strides = levels(channels, octaves=2, finest=4)
        self.pyramid = Pyramid(channels, width, self.strides)
        self.class_tower, self.side_tower = (
            nn.Sequential(*(conv_norm(width, width) for _ in range(depth))) for _ in range(2)
        )
        self.classes = nn.Conv2d(width, classes, 3, padding=1)
        self.sides = nn.Conv2d(width, 4, 3, padding=1)
        self.quality = nn.Conv2d(width, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(self.strides)))
        he_init(self)
        for last in (self.classes, self.sides, self.quality):
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.classes.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]
        nn.init.constant_(self.sides.bias, math.log(_REACH / 2))  # type: ignore[arg-type]  # boxes of 4 strides

    def forward(self, maps: Mapping[int, Tensor], x: Tensor, **_: Any) -> dict[str, Tensor]:
        """Maps by stride and pictures (B, C, H, W) -> see the module."""
        made: dict[str, list[Tensor]] = {"classes": [], "sides": [], "quality": [], "cells": []}
        for (stride, level), scale in zip(self.pyramid(maps).items(), self.scales, strict=True):
            named, placed = self.class_tower(level), self.side_tower(level)
            made["classes"].append(self.classes(named).flatten(2).transpose(1, 2))
            reach = (scale * self.sides(placed).float()).clamp(max=6.0).exp()
            made["sides"].append(reach.flatten(2).transpose(1, 2) * stride)
            made["quality"].append(self.quality(placed).flatten(1))
            height, width = level.shape[-2:]
            cells = grid(height, width, stride, x.device)
            turned = x.shape[-1] - cells[:, :1]
            made["cells"].append(torch.cat((cells, torch.full_like(turned, stride), turned), 1))
        return {name: torch.cat(parts, 0 if name == "cells" else 1) for name, parts in made.items()}


def corners(outputs: Mapping[str, Tensor]) -> Tensor:
    """The boxes (B, P, 4) of all cells."""
    centre, sides = outputs["cells"][:, :2], outputs["sides"]
    return torch.cat((centre - sides[..., :2], centre + sides[..., 2:]), -1)


def scores_of(outputs: Mapping[str, Tensor]) -> Tensor:
    """The scores (B, P, K) of all cells: the root of probability times expected overlap."""
    return (outputs["classes"].sigmoid() * outputs["quality"].sigmoid()[..., None]).sqrt()


def unmirrored(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs for mirror images, as they would be for the pictures themselves: box for box, cell for cell."""
    cells = outputs["cells"]
    order = torch.arange(len(cells), device=cells.device)
    for stride in cells[:, 2].unique():
        level = order[cells[:, 2] == stride]
        order[level] = level.view(-1, cells[level, 0].unique().numel()).flip(1).flatten()
    left, top, right, bottom = outputs["sides"][:, order].unbind(-1)
    beyond = cells[order, 0] - cells[:, 3]  # the last column of a map may reach over the picture's edge
    sides = torch.stack((right + beyond, top, left - beyond, bottom), -1)
    classes, quality = (outputs[name][:, order] for name in ("classes", "quality"))
    return {"classes": classes, "sides": sides, "quality": quality, "cells": cells}


def assign(cells: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Which box each cell is asked for.

    A cell is asked for a box if it lies near its centre and the box's size suits its stride; for the smallest such
    box if there are several.

    Args:
        cells: (P, 4). boxes: (B, M, 4). labels: int64 (B, M): the class, -1 no box, -2 ignored.

    Returns:
        int64 (B, P), the number of the box, -1 none; bool (B, P), whether the cell lies in an ignored box (and is
        asked for none), so that whatever it says is right.
    """
    x, y, stride = cells[:, 0, None], cells[:, 1, None], cells[:, 2, None]  # (P, 1)
    left, top, right, bottom = (side[:, None] for side in boxes.unbind(-1))  # (B, 1, M)
    sides = torch.stack((x - left, y - top, right - x, bottom - y), -1)  # (B, P, M, 4)
    within = sides.amin(-1) > 0
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    near = ((x - middle_x).abs() < _RADIUS * stride) & ((y - middle_y).abs() < _RADIUS * stride)
    reach = sides.amax(-1)
    steps = cells[:, 2].unique()
    low = torch.where(stride == steps[0], 0.0, stride * (_REACH / 2))
    high = torch.where(stride == steps[-1], math.inf, stride * float(_REACH))
    asked = within & near & (reach > low) & (reach <= high) & (labels >= 0)[:, None]
    size = torch.where(asked, area(boxes)[:, None], math.inf)
    smallest, chosen = size.min(-1)
    chosen = torch.where(smallest < math.inf, chosen, -1)
    return chosen, (within & (labels == -2)[:, None]).any(-1) & (chosen < 0)


def one_stage_losses(
    outputs: Mapping[str, Tensor], boxes: Tensor, labels: Tensor, valid: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Sums of the losses over all pictures, by part, and the number of cells that hold an object (at least 1 each).

    Args:
        boxes: (B, M, 4). labels: int64 (B, M) as in `assign`. valid: bool (B,), pictures that count.
    """
    cells, logits = outputs["cells"], outputs["classes"]
    chosen, ignored = assign(cells, boxes, labels)
    holds = (chosen >= 0) & valid[:, None]
    target = torch.zeros_like(logits)
    picture, cell = torch.nonzero(holds, as_tuple=True)
    box = chosen[picture, cell]
    target[picture, cell, labels[picture, box]] = 1.0
    focal = focal_loss(logits, target).sum(-1)
    wanted, found = boxes[picture, box], corners(outputs)[picture, cell]
    overlap = iou(found.detach(), wanted)
    quality = F.binary_cross_entropy_with_logits(outputs["quality"][picture, cell], overlap, reduction="sum")
    parts = {
        "classes": focal[~ignored & valid[:, None]].sum(),
        "boxes": (1 - giou(found, wanted)).sum(),
        "quality": quality,
    }
    return parts, (holds.sum(1).clamp(min=1) * valid).sum()


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of yes or no, in which what is already right counts little, of any shape (Lin et al. 2017)."""
    p = logits.sigmoid()
    right = p * target + (1 - p) * (1 - target)
    weight = ALPHA * target + (1 - ALPHA) * (1 - target)
    return weight * (1 - right) ** GAMMA * F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def one_stage_found(
    outputs: Mapping[str, Tensor], size: tuple[int, int], least: float, most: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes (D, 4), scores and classes of each picture, by falling score, after suppression within classes.

    Args:
        size: height and width of the pictures. least: lowest score. most: boxes of a picture.
    """
    found = []
    for boxes, each in zip(cut(corners(outputs), size), scores_of(outputs), strict=True):
        best, place = each.flatten().topk(min(_BEFORE, each.numel()))
        place = place[best > least]
        cell, label = place // each.shape[1], place % each.shape[1]
        every, best = boxes[cell], best[: len(place)]
        kept = nms(every, best, label, _IOU)[:most]
        found.append((voted(every, best, label, kept), best[kept], label[kept]))
    return found
