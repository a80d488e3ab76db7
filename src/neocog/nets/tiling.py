"""Maps over pictures of any size: by overlapping tiles, and from nets without padding, whose output is smaller.

The overlap-tile strategy of Ronneberger et al. 2015 (figure 2): what a net without padding needs around a picture is
its mirror image. The scores of neighbouring tiles fade into each other where they overlap.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dilated import mirror

OVERLAP = 0.25  # share of a tile's side that the next one covers, too


def over_picture(net: nn.Module, x: Tensor, tile: tuple[int, int] | None = None) -> Tensor:
    """Scores (B, classes, H, W) of pictures (B, C, H, W), tile by tile where they are larger than `tile` (None: never).

    A net without padding says how many pixels it takes from each side (`margin`), and which sides it can have
    (`fitting`); smaller pictures are filled up with their mirror image. Scores of another size are scaled.
    """
    margin: int = getattr(net, "margin", 0)
    fitting: Callable[[int], int] = getattr(net, "fitting", int)
    height, width = x.shape[-2:]
    sides = (height, width) if tile is None else tile
    given = [fitting(side + 2 * margin) for side in sides]
    tall, wide = (side - 2 * margin for side in given)
    if not margin and (height, width) == (tall, wide):
        made: Tensor = net(x)  # a net in training may put out more than a tensor here
        return made
    rows, columns = max(0, tall - height), max(0, wide - width)  # of which there are too few
    top, left = rows // 2, columns // 2
    padded = mirror(x, margin + left, margin + columns - left, margin + top, margin + rows - top)
    overlap = 0.0 if margin else OVERLAP  # without padding the edge of a tile is as good as its middle
    ys, xs = _starts(height + rows, tall, overlap), _starts(width + columns, wide, overlap)
    if len(ys) == len(xs) == 1:
        scores = _scaled(net(padded), tall, wide)
    else:
        share = (_ramp(tall, overlap)[:, None] * _ramp(wide, overlap)).to(x.device)
        weight = torch.zeros(height + rows, width + columns, device=x.device)
        total = torch.zeros(0)
        for y in ys:
            for z in xs:
                part = _scaled(net(padded[:, :, y : y + given[0], z : z + given[1]]), tall, wide).float()
                if not total.numel():
                    total = part.new_zeros(*part.shape[:2], *weight.shape)
                total[:, :, y : y + tall, z : z + wide] += part * share
                weight[y : y + tall, z : z + wide] += share
        scores = total.div_(weight)
    return scores[:, :, top : top + height, left : left + width]


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin: as few as cover the length with this overlap, evenly spread."""
    shared = int(tile * overlap)
    count = max(1, math.ceil((length - shared) / (tile - shared)))
    return [round(k * (length - tile) / max(1, count - 1)) for k in range(count)]


def _ramp(side: int, overlap: float) -> Tensor:
    """Weight of a tile's rows: 1 in the middle, falling to the edges where the neighbours rise."""
    away = torch.arange(side) + 0.5
    return (torch.minimum(away, side - away) / max(0.5, side * overlap)).clamp(max=1.0)


def _scaled(scores: Tensor, height: int, width: int) -> Tensor:
    if scores.shape[-2:] == (height, width):
        return scores
    return F.interpolate(scores, (height, width), mode="bilinear", align_corners=False)
