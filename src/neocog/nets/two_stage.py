"""Boxes in two passes: a small net proposes places, a second one looks at each and names it.

Ren et al. 2015, "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks" (VOC 2007, VGG-16:
mAP 69.9 trained on VOC 2007), on a feature pyramid (Lin et al. 2017, COCO, ResNet-50: AP 33.9), with RoIAlign (He et
al. 2017). Proposals: at every cell of every stride three anchors (1:2, 1:1, 2:1, eight strides wide) are scored and
moved. Boxes: what the pyramid shows within a proposal, 7x7, is read by two fully connected layers.

`gated` adds the gated bi-directional block of Zeng et al. 2016, "Gated Bi-Directional CNN for Object Detection"
(GBD-Net; the CUImage team's ILSVRC 2016 entry): a proposal is seen at four sizes, and what is seen at one passes to
the next larger and the next smaller through gates that open by what is seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .boxes import anchors, cut, decode, encode, nms, pairwise_inside, pairwise_iou, pyramid_roi_align, voted
from .layers import he_init
from .one_stage import levels
from .pyramid import Pyramid

RATIOS = (0.5, 1.0, 2.0)
_SIDE = 8  # strides: of an anchor (32 pixels on stride 4)
_SAMPLED, _SAMPLED_ROIS = (256, 0.5), (128, 0.25)  # anchors and proposals of a picture in the loss; most share of hits
_HIT, _MISS = 0.7, 0.3  # IoU of an anchor with a box from which on, and below which, it is one
_HIT_ROI = 0.5
_BEFORE, _AFTER = (1000, 500), (500, 300)  # proposals per stride before, of all after suppression: training, else
_IOU_PROPOSALS, _IOU = 0.7, 0.5  # of suppression
_SCALES = (10.0, 10.0, 5.0, 5.0)  # of the second stage's deltas
_GATED = (-0.2, 0.2, 0.8, 1.7)  # by how much larger the proposal is seen (Zeng et al. 2016, section 3.2)


class Gated(nn.Module):
    """What is seen of proposals at several sizes, (R, C, 7, 7) each, joined by messages both ways -> (R, C, 7, 7).

    Zeng et al. 2016, equations 3 to 6: h1_i from the smaller sizes up, h2_i from the larger ones down, and a 3x3
    convolution of both.
    """

    def __init__(self, width: int, sizes: int) -> None:
        super().__init__()

        def convolutions(count: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(count))

        self.up, self.down = convolutions(sizes), convolutions(sizes)
        self.pass_up, self.pass_down = convolutions(sizes - 1), convolutions(sizes - 1)
        self.gate_up, self.gate_down = convolutions(sizes - 1), convolutions(sizes - 1)
        self.join = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for _ in range(sizes))

    def forward(self, seen: list[Tensor]) -> Tensor:
        up: list[Tensor] = []
        for i, x in enumerate(seen):
            own = self.up[i](x)
            if i:
                gate = self.gate_up[i - 1](seen[i - 1]).sigmoid()
                own = own + gate * self.pass_up[i - 1](up[-1])
            up.append(own.relu())
        down: list[Tensor] = []
        for i in reversed(range(len(seen))):
            own = self.down[i](seen[i])
            if i + 1 < len(seen):
                gate = self.gate_down[i](seen[i + 1]).sigmoid()
                own = own + gate * self.pass_down[i](down[0])
            down.insert(0, own.relu())
        joined = [join(torch.cat(both, 1)).relu() for join, *both in zip(self.join, up, down, strict=True)]
        return torch.stack(joined).amax(0)


class TwoStage(nn.Module):
    """The head.

    In training (and wherever boxes are given) the output has the losses' parts; in evaluation what is found.

    Args:
        channels: stride -> channels of the trunk's maps.
        hidden: of the two fully connected layers (published: 1024).
        gated: see the module.
    """

    def __init__(
        self, channels: Mapping[int, int], classes: int, width: int = 128, hidden: int = 512, gated: bool = False
    ) -> None:
        super().__init__()
        self.strides = levels(channels, octaves=3, finest=2)
        self.pyramid = Pyramid(channels, width, self.strides)
        self.rpn = nn.Conv2d(width, width, 3, padding=1)
        self.objectness = nn.Conv2d(width, len(RATIOS), 1)
        self.moves = nn.Conv2d(width, 4 * len(RATIOS), 1)
        self.gated = Gated(width, len(_GATED)) if gated else None
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Linear(width * 49, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        self.named = nn.Linear(hidden, classes + 1)  # the background comes last
        self.placed = nn.Linear(hidden, 4 * classes)
        he_init(self)
        for last, deviation in ((self.objectness, 0.01), (self.moves, 0.01), (self.named, 0.01), (self.placed, 0.001)):
            nn.init.normal_(last.weight, std=deviation)
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(
        self,
        maps: Mapping[int, Tensor],
        x: Tensor,
        boxes: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """Maps by stride and pictures (B, C, H, W).

        Args:
            boxes: (B, M, 4). labels: int64 (B, M), -1 no box, -2 ignored.

        Returns:
            With boxes: ``losses``, sums over the pictures (B,) of each part. In evaluation: ``rois`` (R, 4),
            ``picture`` (R,), ``named`` (R, K + 1) and ``placed`` (R, K, 4).
        """
        size = (x.shape[2], x.shape[3])
        levels = self.pyramid(maps)
        scores, moves, each = self._propose(levels)
        own = torch.cat(each)
        proposals = self._chosen(decode(moves.detach(), own), scores.detach(), [len(one) for one in each], size)
        made: dict[str, Any] = {}
        seen = {stride: level for stride, level in levels.items() if stride != self.strides[-1]}
        # in evaluation the same samples are drawn each time, so that figures repeat
        g = None if self.training else torch.Generator().manual_seed(0)
        if boxes is not None and labels is not None:
            pictures = zip(scores, moves, boxes, labels, strict=True)
            parts = [self._rpn_loss(score, move, own, box, label, g) for score, move, box, label in pictures]
            made["losses"] = {
                "objectness": torch.stack([one for one, _ in parts]),
                "proposals": torch.stack([two for _, two in parts]),
                **self._box_losses(seen, proposals, boxes, labels, size, g),
            }
        if not self.training:
            rois = torch.cat(proposals)
            picture = torch.repeat_interleave(torch.tensor([len(p) for p in proposals])).to(x.device)
            named, placed = self._look(seen, rois, picture, size)
            made |= {"rois": rois, "picture": picture, "named": named, "placed": placed}
        return made

    # ---- first stage

    def _propose(self, levels: Mapping[int, Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Scores (B, A) and deltas (B, A, 4) of the anchors, and these by stride, (A_s, 4) each."""
        scores, moves, own = [], [], []
        for stride, level in levels.items():
            hidden = self.rpn(level).relu()
            scores.append(self.objectness(hidden).permute(0, 2, 3, 1).flatten(1))
            moves.append(self.moves(hidden).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)))
            height, width = level.shape[-2:]
            own.append(anchors(height, width, stride, _SIDE * stride, RATIOS).to(level.device))
        return torch.cat(scores, 1).float(), torch.cat(moves, 1).float(), own

    def _chosen(self, boxes: Tensor, scores: Tensor, counts: list[int], size: tuple[int, int]) -> list[Tensor]:
        """Proposals (R, 4) of each picture: the best of each stride, without those that others cover."""
        before, after = (one[0 if self.training else 1] for one in (_BEFORE, _AFTER))
        made = []
        for each, score in zip(cut(boxes, size), scores, strict=True):
            rows = []
            for part, first in zip(score.split(counts), np.cumsum([0, *counts]).tolist(), strict=False):
                best = part.topk(min(before, len(part))).indices + first
                best = best[(each[best, 2:] - each[best, :2] >= 1).all(1)]
                rows.append(best[nms(each[best], score[best], torch.zeros_like(best), _IOU_PROPOSALS)])
            every = torch.cat(rows)
            made.append(each[every[score[every].topk(min(after, len(every))).indices]])
        return made

    def _rpn_loss(
        self, scores: Tensor, moves: Tensor, own: Tensor, boxes: Tensor, labels: Tensor, g: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Both losses of the first stage for one picture, over 256 anchors."""
        real, crowd = boxes[labels >= 0], boxes[labels == -2]
        miss, target = torch.ones_like(scores, dtype=torch.bool), own
        hit = ~miss
        if len(real):
            iou = pairwise_iou(own, real)
            best, box = iou.max(1)
            closest = (iou == iou.amax(0)) & (iou > 0)  # each box has at least the anchors nearest to it
            box = torch.where(closest.any(1), closest.float().argmax(1), box)
            hit, miss, target = (best >= _HIT) | closest.any(1), best < _MISS, real[box]
        if len(crowd):
            miss = miss & (pairwise_inside(own, crowd).amax(1) < _HIT_ROI)
        chosen, good = _sampled(hit, miss & ~hit, *_SAMPLED, g)
        if not len(chosen):
            return scores.sum() * 0, moves.sum() * 0
        named = F.binary_cross_entropy_with_logits(scores[chosen], good.to(scores.dtype))
        at = chosen[good]
        off = F.smooth_l1_loss(moves[at], encode(target[at], own[at]), beta=1 / 9, reduction="sum")
        return named, off / len(chosen)

    # ---- second stage

    def _look(
        self, maps: Mapping[int, Tensor], rois: Tensor, picture: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Logits (R, K + 1) and deltas (R, K, 4) of proposals."""
        if self.gated is None:
            seen = pyramid_roi_align(maps, rois, picture)
        else:
            middle, half = (rois[:, :2] + rois[:, 2:]) / 2, (rois[:, 2:] - rois[:, :2]) / 2
            larger = [torch.cat((middle - half * (1 + p), middle + half * (1 + p)), 1) for p in _GATED]
            seen = self.gated([pyramid_roi_align(maps, cut(one, size), picture) for one in larger])
        hidden = self.hidden(seen)
        return self.named(hidden).float(), self.placed(hidden).float().unflatten(1, (-1, 4))

    def _box_losses(
        self,
        maps: Mapping[int, Tensor],
        proposals: list[Tensor],
        boxes: Tensor,
        labels: Tensor,
        size: tuple[int, int],
        g: torch.Generator | None,
    ) -> dict[str, Tensor]:
        """Both losses of the second stage (B,), over 128 proposals of each picture, its true boxes among them."""
        rois, classes, targets, counts = [], [], [], []
        for proposed, box, label in zip(proposals, boxes, labels, strict=True):
            real, names, crowd = box[label >= 0], label[label >= 0], box[label == -2]
            each = torch.cat((proposed, real))
            background = self.named.out_features - 1
            hit = torch.zeros(len(each), dtype=torch.bool, device=each.device)
            miss, target, name = ~hit, each, torch.full((len(each),), background, device=each.device)
            if len(real):
                best, nearest = pairwise_iou(each, real).max(1)
                hit, target = best >= _HIT_ROI, real[nearest]
                miss, name = ~hit, torch.where(hit, names[nearest], background)
            if len(crowd):
                miss = miss & (pairwise_inside(each, crowd).amax(1) < _HIT_ROI)
            chosen, _ = _sampled(hit, miss, *_SAMPLED_ROIS, g)
            rois.append(each[chosen])
            classes.append(name[chosen])
            targets.append(target[chosen])
            counts.append(len(chosen))
        picture = torch.repeat_interleave(torch.tensor(counts)).to(boxes.device)
        at, name, wanted = torch.cat(rois), torch.cat(classes), torch.cat(targets)
        named, placed = self._look(maps, at, picture, size)
        share = 1 / torch.tensor(counts, device=boxes.device).clamp(min=1)[picture]
        hit = name < self.named.out_features - 1
        moved = placed[hit, name[hit]]
        off = F.smooth_l1_loss(moved, encode(wanted[hit], at[hit], _SCALES), reduction="none").sum(1)
        zero = torch.zeros(len(boxes), device=boxes.device)
        return {
            "classes": zero.index_add(0, picture, F.cross_entropy(named, name, reduction="none") * share),
            "boxes": zero.index_add(0, picture[hit], off * share[hit]),
        }


def _sampled(hit: Tensor, miss: Tensor, count: int, share: float, g: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """At most `count` random indices, at most that share of them hits, and which of them are hits."""
    hits, misses = torch.nonzero(hit).flatten(), torch.nonzero(miss).flatten()
    hits = hits[torch.randperm(len(hits), generator=g).to(hits.device)][: int(count * share)]
    misses = misses[torch.randperm(len(misses), generator=g).to(misses.device)][: count - len(hits)]
    both = torch.cat((hits, misses))
    return both, torch.arange(len(both), device=both.device) < len(hits)


def two_stage_found(
    outputs: Mapping[str, Tensor], pictures: int, size: tuple[int, int], least: float, most: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes (D, 4), scores and classes of each picture, by falling score (see ``one_stage_found``)."""
    scores = outputs["named"].softmax(1)[:, :-1]
    boxes = cut(decode(outputs["placed"], outputs["rois"][:, None], _SCALES), size)
    found = []
    for b in range(pictures):
        own = outputs["picture"] == b
        roi, label = torch.nonzero(scores[own] > least, as_tuple=True)
        best, at = scores[own][roi, label], boxes[own][roi, label]
        good = (at[:, 2:] > at[:, :2]).all(1)
        best, at, label = best[good], at[good], label[good]
        kept = nms(at, best, label, _IOU)[:most]
        found.append((voted(at, best, label, kept), best[kept], label[kept]))
    return found
