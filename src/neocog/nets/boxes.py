"""Arithmetic of boxes: overlap, suppression, deltas, anchors, and maps cut out by boxes. Plain PyTorch.

Boxes are corners x0 y0 x1 y1 in pixels of the input, (..., 4); pixel i covers [i, i + 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_LARGEST = math.log(1000 / 16)  # of the deltas of width and height, before the exponential


def area(boxes: Tensor) -> Tensor:
    """(..., 4) -> (...): 0 for inverted boxes."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every box of `a` (..., N, 4) with every one of `b` (..., M, 4): (..., N, M)."""
    both = _common(a.unsqueeze(-2), b.unsqueeze(-3))
    return both / (area(a).unsqueeze(-1) + area(b).unsqueeze(-2) - both).clamp(min=1e-9)


def pairwise_inside(a: Tensor, b: Tensor) -> Tensor:
    """The share of every box of `a` (..., N, 4) that lies within every one of `b` (..., M, 4): (..., N, M)."""
    return _common(a.unsqueeze(-2), b.unsqueeze(-3)) / area(a).unsqueeze(-1).clamp(min=1e-9)


def _common(a: Tensor, b: Tensor) -> Tensor:
    (left, top, right, bottom), (x0, y0, x1, y1) = a.unbind(-1), b.unbind(-1)
    wide = (torch.minimum(right, x1) - torch.maximum(left, x0)).clamp(min=0)
    return wide * (torch.minimum(bottom, y1) - torch.maximum(top, y0)).clamp(min=0)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of pairs (..., 4) -> (...)."""
    both = _common(a, b)
    return both / (area(a) + area(b) - both).clamp(min=1e-9)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised intersection over union of pairs (..., 4) -> (...), -1 to 1 (Rezatofighi et al. 2019)."""
    both = _common(a, b)
    union = (area(a) + area(b) - both).clamp(min=1e-9)
    hull = area(torch.cat((torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])), -1))
    hull = hull.clamp(min=1e-9)
    return both / union - (hull - union) / hull


def nms(boxes: Tensor, scores: Tensor, groups: Tensor, most_iou: float) -> Tensor:
    """Greedy non-maximum suppression within groups (classes): indices of what is kept, by falling score.

    A box falls if a kept one of its group with a higher score overlaps it by more than `most_iou`. Exact: who is kept
    is computed for all boxes at once, again and again until nothing changes, which takes as many rounds as the longest
    chain of boxes that suppress each other (Zheng et al. 2020, "Enhancing Geometric Factors", cluster NMS).

    Args:
        boxes: (N, 4). scores: (N,); of equal ones the first counts as higher. groups: (N,) of any type.
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    sorted_boxes, sorted_groups = boxes[order], groups[order]
    beats = pairwise_iou(sorted_boxes, sorted_boxes) > most_iou
    beats &= sorted_groups[:, None] == sorted_groups[None]
    beating = beats.triu(1).to(boxes)  # [i, j]: i has the higher score, and j falls if i is kept; 0 or 1
    kept = beating.new_ones(len(order))
    while True:
        again = (kept @ beating == 0).to(boxes)
        if torch.equal(again, kept):
            return order[kept > 0]
        kept = again


def voted(boxes: Tensor, scores: Tensor, groups: Tensor, kept: Tensor, least_iou: float = 0.65) -> Tensor:
    """The boxes `kept` (K,) by suppression, each as the mean of all of its group that overlap it: (K, 4).

    The mean is weighted by the scores; "box voting" of Gidaris & Komodakis 2015, section 5.

    Args:
        boxes: (N, 4). scores: (N,). groups: (N,). least_iou: of a box that has a vote.
    """
    near = pairwise_iou(boxes[kept], boxes) > least_iou
    weight = (scores * (near & (groups[kept, None] == groups))).to(boxes)
    return weight @ boxes / weight.sum(1, keepdim=True).clamp(min=1e-9)


def encode(boxes: Tensor, anchors: Tensor, scales: Sequence[float] = (1, 1, 1, 1)) -> Tensor:
    """Boxes (..., 4) as deltas from anchors (..., 4), times `scales` (Ren et al. 2015, equation 2)."""
    (x, y, w, h), (ax, ay, aw, ah) = _centred(boxes), _centred(anchors)
    deltas = torch.stack(((x - ax) / aw, (y - ay) / ah, (w / aw).log(), (h / ah).log()), -1)
    return deltas * deltas.new_tensor(scales)


def decode(deltas: Tensor, anchors: Tensor, scales: Sequence[float] = (1, 1, 1, 1)) -> Tensor:
    """The boxes (..., 4) that `encode` made deltas (..., 4) of."""
    dx, dy, dw, dh = (deltas / deltas.new_tensor(scales)).unbind(-1)
    ax, ay, aw, ah = _centred(anchors)
    x, y = ax + dx * aw, ay + dy * ah
    w, h = aw * dw.clamp(max=_LARGEST).exp(), ah * dh.clamp(max=_LARGEST).exp()
    return torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), -1)


def _centred(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre, width and height; sides of at least a thousandth of a pixel."""
    w, h = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3).unbind(-1)
    x, y = ((boxes[..., 2:] + boxes[..., :2]) / 2).unbind(-1)
    return x, y, w, h


def cut(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) cut at the edges of a picture of `size`, height and width."""
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([size[1], size[0]] * 2))


def grid(height: int, width: int, stride: int, device: torch.device | None = None) -> Tensor:
    """Centres x, y of the cells of a map, in pixels of the input: (height * width, 2), row by row."""
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return (torch.stack((x, y), -1).reshape(-1, 2).float() + 0.5) * stride


def anchors(height: int, width: int, stride: int, side: float, ratios: Sequence[float]) -> Tensor:
    """Boxes of area side^2 around every cell, one for each ratio height / width: (height * width * ratios, 4)."""
    centres = grid(height, width, stride)[:, None]  # (cells, 1, 2)
    half = torch.tensor([(side / math.sqrt(r) / 2, side * math.sqrt(r) / 2) for r in ratios])
    return torch.cat((centres - half, centres + half), -1).reshape(-1, 4)


def roi_align(features: Tensor, boxes: Tensor, picture: Tensor, stride: int, size: int = 7, samples: int = 2) -> Tensor:
    """What a map shows within boxes, as small maps of one size (He et al. 2017, "Mask R-CNN", section 3).

    Each of size x size bins is the mean of samples x samples values, read between the cells by bilinear interpolation.

    Args:
        features: (B, C, H, W), of pictures at 1 / stride.
        boxes: (R, 4) in pixels of the pictures. picture: int64 (R,), which of the B.

    Returns:
        (R, C, size, size), with gradients to `features`.
    """
    height, width = features.shape[-2:]
    steps = (torch.arange(size * samples, device=boxes.device, dtype=boxes.dtype) + 0.5) / (size * samples)
    corners = boxes / stride
    x = corners[:, :1] + (corners[:, 2:3] - corners[:, :1]) * steps  # (R, size * samples)
    y = corners[:, 1:2] + (corners[:, 3:] - corners[:, 1:2]) * steps
    outside_x, outside_y = (x < -0.5) | (x > width + 0.5), (y < -0.5) | (y > height + 0.5)
    features = features.float() if features.dtype in (torch.bfloat16, torch.float16) else features
    across, down = torch.broadcast_tensors((2 * x / width - 1)[:, None, :], (2 * y / height - 1)[:, :, None])
    places = torch.stack((across, down), -1).to(features.dtype)  # (R, size * samples, size * samples, 2), -1 to 1
    outside = outside_y[:, :, None] | outside_x[:, None, :]
    rows, made = [picture[:0]], [features.new_zeros(0, features.shape[1], size, size)]
    for b in picture.unique().tolist():
        own = torch.nonzero(picture == b).flatten()
        tall = places[own].reshape(1, -1, size * samples, 2)
        read = F.grid_sample(features[b : b + 1], tall, padding_mode="border", align_corners=False)
        read = read.masked_fill(outside[own].reshape(1, 1, -1, size * samples), 0.0)
        rows.append(own)
        made.append(F.avg_pool2d(read, samples)[0].unflatten(1, (len(own), size)).transpose(0, 1))
    return torch.cat(made)[torch.cat(rows).argsort()]


def pyramid_roi_align(maps: Mapping[int, Tensor], boxes: Tensor, picture: Tensor, size: int = 7) -> Tensor:
    """`roi_align` on the level that suits each box: 224 pixels on stride 16 (Lin et al. 2017, equation 1).

    Args:
        maps: stride -> (B, C, H / stride, W / stride).
    """
    strides = sorted(maps)
    wanted = torch.floor(4 + torch.log2(area(boxes).sqrt() / 224 + 1e-8))
    level = wanted.clamp(math.log2(strides[0]), math.log2(strides[-1])).round()
    rows = [torch.nonzero(level == round(math.log2(stride))).flatten() for stride in strides]
    made = [roi_align(maps[s], boxes[own], picture[own], s, size) for s, own in zip(strides, rows, strict=True)]
    return torch.cat(made)[torch.cat(rows).argsort()]
