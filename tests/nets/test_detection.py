"""Boxes, suppression, RoIAlign and the detectors' heads, against slow references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from neocog.nets import boxes as bx
from neocog.nets import one_stage, two_stage


def some_boxes(n, seed=0, size=40.0):
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=g) * size
    return torch.cat((corner, corner + 1 + torch.rand(n, 2, generator=g) * size / 2), 1)


def slow_iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, w) * max(0.0, h)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def slow_nms(boxes, scores, groups, most):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if all(groups[i] != groups[j] or slow_iou(boxes[i], boxes[j]) <= most for j in kept):
            kept.append(i)
    return kept


def test_overlap_of_known_boxes():
    a = torch.tensor([[0.0, 0, 2, 2]])
    b = torch.tensor([[1.0, 1, 3, 3], [0, 0, 2, 2], [2, 0, 4, 2], [1, 1, 1, 1]])
    assert bx.pairwise_iou(a, b)[0].tolist() == pytest.approx([1 / 7, 1, 0, 0])
    assert bx.pairwise_inside(a, b)[0].tolist() == pytest.approx([0.25, 1, 0, 0])
    # side by side the hull is the union; apart by their own width, a third of it is empty
    apart = torch.tensor([[4.0, 0, 6, 2]])
    assert bx.giou(a, b[2:3]).item() == pytest.approx(0.0)
    assert bx.giou(a, apart).item() == pytest.approx(-1 / 3)
    assert bx.giou(a, a).item() == pytest.approx(1.0)


def test_overlap_equals_the_slow_one():
    a, b = some_boxes(20, 1), some_boxes(15, 2)
    slow = [[slow_iou(x, y) for y in b.tolist()] for x in a.tolist()]
    assert np.allclose(bx.pairwise_iou(a, b), slow, atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_suppression_is_exactly_the_greedy_one(seed):
    boxes = some_boxes(120, seed)
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 40, (120,), generator=g) / 40  # many equal ones
    groups = torch.randint(0, 3, (120,), generator=g)
    found = bx.nms(boxes, scores, groups, 0.3).tolist()
    assert found == slow_nms(boxes.tolist(), scores.tolist(), groups.tolist(), 0.3)
    assert 3 < len(found) < 120


def test_suppression_of_a_long_chain_and_of_nothing():
    # each overlaps the next: 0 fells 1, so 2 stays and fells 3, and so on
    chain = torch.tensor([[float(i), 0, i + 3.0, 3] for i in range(30)])
    scores = torch.linspace(1, 0.5, 30)
    zeros = torch.zeros(30)
    assert bx.nms(chain, scores, zeros, 0.45).tolist() == list(range(0, 30, 2))
    assert bx.nms(chain[:0], scores[:0], zeros[:0], 0.5).tolist() == []


def test_deltas_are_undone():
    boxes, own = some_boxes(30, 3), some_boxes(30, 4)
    for scales in ((1, 1, 1, 1), (10, 10, 5, 5)):
        assert torch.allclose(bx.decode(bx.encode(boxes, own, scales), own, scales), boxes, atol=1e-3)
    assert bx.encode(own, own).abs().max() < 1e-5
    # half a width to the right, twice as high
    moved = bx.decode(torch.tensor([[0.5, 0, 0, math.log(2)]]), torch.tensor([[10.0, 10, 20, 20]]))
    assert moved[0].tolist() == pytest.approx([15, 5, 25, 25])


def test_anchors_stand_on_cell_centres():
    made = bx.anchors(2, 3, 8, 32, (0.5, 1.0, 2.0)).view(2, 3, 3, 4)
    assert torch.allclose((made[..., :2] + made[..., 2:]) / 2, bx.grid(2, 3, 8).view(2, 3, 1, 2).expand(2, 3, 3, 2))
    assert bx.area(made).flatten().tolist() == pytest.approx([32.0**2] * 18, rel=1e-5)
    sides = made[0, 0, :, 2:] - made[0, 0, :, :2]
    assert (sides[:, 1] / sides[:, 0]).tolist() == pytest.approx([0.5, 1, 2])
    assert bx.grid(2, 3, 8)[4].tolist() == [12.0, 12.0]


def slow_align(features, box, stride, size, samples):
    """He et al. 2017, one value after the other, as torchvision's roi_align(aligned=True) defines it."""
    channels, height, width = features.shape
    made = np.zeros((channels, size, size))
    x0, y0, x1, y1 = (v / stride - 0.5 for v in box)
    for i in range(size):
        for j in range(size):
            for a in range(samples):
                for b in range(samples):
                    y = y0 + (i + (a + 0.5) / samples) * (y1 - y0) / size
                    x = x0 + (j + (b + 0.5) / samples) * (x1 - x0) / size
                    if y < -1 or y > height or x < -1 or x > width:
                        continue
                    y, x = max(y, 0.0), max(x, 0.0)
                    r, c = min(int(y), height - 1), min(int(x), width - 1)
                    r2, c2 = min(r + 1, height - 1), min(c + 1, width - 1)
                    v, u = (y - r if r < height - 1 else 0.0), (x - c if c < width - 1 else 0.0)
                    top = features[:, r, c] * (1 - u) + features[:, r, c2] * u
                    low = features[:, r2, c] * (1 - u) + features[:, r2, c2] * u
                    made[:, i, j] += (top * (1 - v) + low * v) / samples**2
    return made


@pytest.mark.parametrize("size, samples", [(2, 1), (3, 2)])
def test_roi_align_equals_the_slow_one(size, samples):
    g = torch.Generator().manual_seed(5)
    features = torch.rand(2, 3, 6, 9, dtype=torch.float64, generator=g)
    boxes = torch.tensor(
        [[4.0, 4, 20, 20], [0, 0, 36, 24], [-9, 3, 8, 40], [30, 20, 36, 24], [33.3, 1.7, 50, 9], [7.1, 9.2, 7.9, 9.9]],
        dtype=torch.float64,
    )
    picture = torch.tensor([0, 1, 1, 0, 1, 0])
    found = bx.roi_align(features, boxes, picture, 4, size, samples)
    slow = [slow_align(features[p].numpy(), b, 4, size, samples) for p, b in zip(picture, boxes.tolist(), strict=True)]
    assert np.allclose(found, np.stack(slow), atol=1e-12)


def test_roi_align_has_the_right_gradients():
    features = torch.rand(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[1.3, 2.1, 7.9, 6.7], [-3.0, 0, 4, 12]], dtype=torch.float64)
    where = torch.zeros(2, dtype=torch.int64)
    assert torch.autograd.gradcheck(lambda f: bx.roi_align(f, boxes, where, 2, 2, 2), (features,))


def test_levels_of_a_pyramid_by_size():
    maps = {s: torch.full((1, 1, 512 // s, 512 // s), float(s)) for s in (4, 8, 16, 32)}
    boxes = torch.tensor([[0.0, 0, 20, 20], [0, 0, 112, 112], [0, 0, 224, 224], [0, 0, 500, 500], [0, 0, 60, 60]])
    seen = bx.pyramid_roi_align(maps, boxes, torch.zeros(5, dtype=torch.int64))
    assert seen.shape == (5, 1, 7, 7)
    assert seen[:, 0, 3, 3].tolist() == [4, 8, 16, 32, 4]


def test_giou_and_focal_loss_have_the_right_gradients():
    a, b = some_boxes(6, 1).double().requires_grad_(), some_boxes(6, 2).double()
    assert torch.autograd.gradcheck(lambda a: bx.giou(a, b), (a,))
    logits = torch.randn(5, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0.0, 1, 0, 1, 1], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: one_stage.focal_loss(x, target), (logits,))
    # equation 5: -alpha (1 - p)^2 log p
    p = 0.9
    sure = one_stage.focal_loss(torch.tensor([math.log(p / (1 - p))]), torch.ones(1)).item()
    assert sure == pytest.approx(-0.25 * (1 - p) ** 2 * math.log(p))


CHANNELS = {1: 4, 2: 6, 4: 8, 8: 10}


def maps_of(x, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {s: torch.randn(len(x), c, x.shape[2] // s, x.shape[3] // s, generator=g) for s, c in CHANNELS.items()}


def test_the_one_stage_head_starts_with_its_prior():
    head = one_stage.OneStage(CHANNELS, 5, width=16, depth=1)
    assert head.strides == [4, 8, 16]
    x = torch.zeros(2, 3, 32, 48)
    made = head(maps_of(x), x)
    cells = 8 * 12 + 4 * 6 + 2 * 3
    assert made["classes"].shape == (2, cells, 5) and made["cells"].shape == (cells, 4)
    assert made["classes"].sigmoid().mean().item() == pytest.approx(one_stage.PRIOR, abs=0.003)
    sides = made["sides"] / made["cells"][:, 2:3]
    assert 1.0 < sides.mean().item() < 4.0


def test_outputs_for_a_mirror_image_are_turned_back():
    head = one_stage.OneStage(CHANNELS, 3, width=16, depth=1)
    x = torch.zeros(1, 3, 32, 40)  # at stride 16 the last cells reach over the edge
    maps = {s: torch.randn(1, c, 32 // s, -(-40 // s)) for s, c in CHANNELS.items()}
    with torch.no_grad():
        made = head(maps, x)
    turned = one_stage.unmirrored(made)
    boxes, classes = one_stage.corners(made)[0], made["classes"][0]
    across = torch.stack((40 - boxes[:, 2], boxes[:, 1], 40 - boxes[:, 0], boxes[:, 3]), 1)
    stays = made["cells"][:, 2] < 16  # there the mirror image of a cell is a cell
    for box, name in zip(one_stage.corners(turned)[0][stays], turned["classes"][0][stays], strict=True):
        same = torch.isclose(across, box, atol=1e-3).all(1)
        assert same.sum() == 1 and torch.equal(classes[same][0], name)
    kinds = [one_stage.corners(turned)[0], across]
    assert torch.allclose(*(one.sort(0).values for one in kinds), atol=1e-3)  # and the others' boxes, too


def test_cells_are_asked_for_the_smallest_box_of_their_size():
    strides = (4, 8)
    cells = torch.cat(
        [torch.cat((bx.grid(32 // s, 32 // s, s), torch.full(((32 // s) ** 2, 1), s)), 1) for s in strides]
    )
    boxes = torch.tensor([[[4.0, 4, 16, 16], [6, 6, 14, 14], [-24, -24, 56, 56], [20, 20, 28, 28]]])
    labels = torch.tensor([[0, 1, 2, -2]])
    chosen, ignored = one_stage.assign(cells, boxes, labels)
    asked = {int(k) for k in chosen[0] if k >= 0}
    assert asked == {0, 1, 2}  # and the ignored one never
    at = (cells[:, 0] == 10) & (cells[:, 1] == 10)
    assert chosen[0][at].tolist() == [1]  # in both, and the second is smaller
    large = chosen[0] == 2
    assert (cells[large, 2] == 8).all()
    inside = (cells[:, :2] > 20).all(1) & (cells[:, :2] < 28).all(1)
    assert torch.equal(ignored[0], inside & (chosen[0] < 0))


def perfect(cells, box, label, classes, sure=12.0):
    """Outputs that are right about one box of one picture."""
    chosen, _ = one_stage.assign(cells, box[None, None], torch.tensor([[label]]))
    holds = chosen[0] >= 0
    logits = torch.full((1, len(cells), classes), -sure)
    logits[0, holds, label] = sure
    sides = torch.cat((cells[:, :2] - box[:2], box[2:] - cells[:, :2]), 1).clamp(min=0.1)[None]
    return {"classes": logits, "sides": sides, "quality": torch.zeros(1, len(cells)), "cells": cells}


def test_one_stage_losses_and_answers_of_a_perfect_output():
    cells = torch.cat((bx.grid(8, 8, 4), torch.full((64, 1), 4.0)), 1)
    box = torch.tensor([3.0, 5, 17, 20])
    outputs = perfect(cells, box, 1, 3)
    valid = torch.tensor([True])
    parts, count = one_stage.one_stage_losses(outputs, box[None, None], torch.tensor([[1]]), valid)
    assert parts["classes"] < 1e-3 and parts["boxes"] < 1e-3 and count >= 4
    [(found, scores, labels)] = one_stage.one_stage_found(outputs, (32, 32), 0.05, 100)
    assert torch.allclose(found, box[None], atol=1e-4) and labels.tolist() == [1] and 0.5 < scores.item() < 1
    # the same, where nothing is: wrong; where it is ignored: neither; where the picture cannot be read: nothing
    wrong, one = one_stage.one_stage_losses(outputs, box[None, None], torch.tensor([[-1]]), valid)
    assert wrong["classes"] > 10 and one == 1
    neither, _ = one_stage.one_stage_losses(outputs, box[None, None], torch.tensor([[-2]]), valid)
    assert neither["classes"] < 1e-3
    unread, none = one_stage.one_stage_losses(outputs, box[None, None], torch.tensor([[1]]), ~valid)
    assert sum(unread.values()) == 0 and none == 0


def test_the_second_score_learns_the_overlap_of_the_box():
    cells = torch.cat((bx.grid(8, 8, 4), torch.full((64, 1), 4.0)), 1)
    box = torch.tensor([4.0, 4, 16, 16])
    for narrower, overlap in ((0.0, 1.0), (6.0, 0.5)):
        outputs = perfect(cells, box, 0, 1)
        outputs["sides"] = torch.cat((cells[:, :2] - box[:2], box[2:] - torch.tensor([narrower, 0]) - cells[:, :2]), 1)[
            None
        ]
        best = []
        for p in (overlap, overlap - 0.1, overlap + 0.1):
            if 0 < p <= 1:
                outputs["quality"] = torch.logit(torch.full((1, 64), p), eps=1e-6)
                parts, _ = one_stage.one_stage_losses(
                    outputs, box[None, None], torch.tensor([[0]]), torch.tensor([True])
                )
                best.append(parts["quality"].item())
        assert best[0] == min(best)


@pytest.mark.parametrize("seed", range(3))
def test_a_kept_box_is_the_mean_of_those_that_overlap_it(seed):
    boxes, g = some_boxes(60, seed), torch.Generator().manual_seed(seed)
    scores, groups = torch.rand(60, generator=g), torch.randint(0, 2, (60,), generator=g)
    kept = bx.nms(boxes, scores, groups, 0.5)
    found = bx.voted(boxes, scores, groups, kept, 0.4)
    for k, box in zip(kept.tolist(), found.tolist(), strict=True):
        near = [i for i in range(60) if groups[i] == groups[k] and slow_iou(boxes[i].tolist(), boxes[k].tolist()) > 0.4]
        mean = (scores[near, None] * boxes[near]).sum(0) / scores[near].sum()
        assert box == pytest.approx(mean.tolist(), abs=1e-4)
    alone = some_boxes(1)
    one = torch.zeros(1, dtype=torch.long)
    assert torch.allclose(bx.voted(alone, torch.tensor([0.3]), one, one), alone)


@pytest.mark.parametrize("gated", [False, True])
def test_the_two_stage_head_trains_and_answers(gated):
    torch.manual_seed(0)
    head = two_stage.TwoStage(CHANNELS, 3, width=8, hidden=16, gated=gated)
    x = torch.zeros(2, 3, 32, 48)
    boxes = torch.tensor([[[4.0, 4, 20, 24], [30, 2, 44, 30]], [[0, 0, 0, 0], [0, 0, 0, 0]]])
    labels = torch.tensor([[2, 0], [-1, -1]])
    made = head(maps_of(x), x, boxes=boxes, labels=labels)
    assert set(made) == {"losses"}
    losses = made["losses"]
    assert all(part.shape == (2,) and part.isfinite().all() for part in losses.values())
    assert losses["boxes"][1] == 0 and losses["proposals"][1] == 0 and losses["classes"][1] > 0  # nothing is there
    assert losses["boxes"][0] > 0  # the true boxes are among the proposals
    assert losses["classes"].mean().item() == pytest.approx(math.log(4), rel=0.1)
    sum(part.sum() for part in losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    head.eval()
    with torch.no_grad():
        seen = head(maps_of(x), x, boxes=boxes, labels=labels)
        again = head(maps_of(x), x, boxes=boxes, labels=labels)
    assert seen["named"].shape[1] == 4 and seen["placed"].shape[1:] == (3, 4)
    assert all(torch.equal(seen["losses"][k], again["losses"][k]) for k in losses)  # figures repeat
    for found, scores, names in two_stage.two_stage_found(seen, 2, (32, 48), 0.05, 10):
        assert len(found) == len(scores) == len(names) <= 10
        assert (found[:, 2:] > found[:, :2]).all() and found.min() >= 0 and (scores.diff() <= 0).all()


def test_proposals_in_ignored_boxes_are_no_background():
    torch.manual_seed(0)
    head = two_stage.TwoStage(CHANNELS, 3, width=8, hidden=16).eval()
    x = torch.zeros(1, 3, 32, 48)
    whole = torch.tensor([[[0.0, 0, 48, 32]]])
    with torch.no_grad():
        losses = head(maps_of(x), x, boxes=whole, labels=torch.tensor([[-2]]))["losses"]
        plain = head(maps_of(x), x, boxes=whole, labels=torch.tensor([[-1]]))["losses"]
    assert losses["classes"] == 0 and losses["boxes"] == 0 and plain["classes"] > 0
    # anchors lie half outside the picture at its edges: those are still background
    assert losses["objectness"] != plain["objectness"]


def test_samples_are_balanced():
    hit = torch.arange(100) < 30
    chosen, good = two_stage._sampled(hit, ~hit, 20, 0.25, torch.Generator().manual_seed(0))
    assert len(chosen) == 20 and good.sum() == 5 and torch.equal(hit[chosen], good)
    chosen, good = two_stage._sampled(hit & (torch.arange(100) < 2), ~hit, 20, 0.25, None)
    assert len(chosen) == 20 and good.sum() == 2 and len(chosen.unique()) == 20


def test_strides_that_a_detector_reads():
    usual = dict.fromkeys((2, 4, 8, 16, 32), 8)
    assert one_stage.levels(usual, 2, 4) == [8, 16, 32, 64]  # P3 to P6
    assert one_stage.levels(usual, 3, 2) == [4, 8, 16, 32, 64]  # P2 to P6
    assert one_stage.levels(CHANNELS, 2, 4) == [4, 8, 16]
    assert one_stage.levels({1: 4, 2: 4}, 2, 4) == [2, 4, 8]
