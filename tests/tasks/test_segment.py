"""A class for each pixel: nets, losses, figures, tiles, answers, resuming, processes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import neocog
from neocog import nets
from neocog.data import open_source
from neocog.data.augment import Augment, draw
from neocog.data.batches import Batch, Batches, Known, in_order
from neocog.data.decode import placed
from neocog.data.kinds import NOT_LABELLED, Masks
from neocog.data.pictures import Streamed
from neocog.data.warp import Warp
from neocog.errors import DataError, UsageError
from neocog.fit.device import Device, with_right_gradients
from neocog.fit.job import Data, Wishes
from neocog.fit.parallel import World
from neocog.fit.plan import make_plan
from neocog.fit.run import read_tensors
from neocog.fit.show import Show
from neocog.nets.tiling import over_picture
from neocog.records import Preprocess
from neocog.tasks import Meter, find
from neocog.tasks.masks import border_f, border_weights, dice_loss
from neocog.tasks.segment import Decoder, Regions, Segment, balanced
from neocog.tasks.task import build_net

QUIET: dict[str, Any] = {"task": "segment", "device": "cpu", "diagnosis": False, "progress": False}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batch_of(masks: np.ndarray, channels: int = 3, rows: int = 0) -> Batch:
    """Noise with these masks (B, H, W)."""
    b, h, w = masks.shape
    x = torch.randn(b, channels, h, w, generator=torch.Generator().manual_seed(0))
    warp = Warp(torch.eye(2, 3, dtype=torch.float64).repeat(b, 1, 1), torch.tensor([[h, w]]).repeat(b, 1), (h, w))
    return Batch((x,), {"mask": torch.from_numpy(masks)}, torch.arange(rows, rows + b), torch.ones(b).bool(), warp)


def random_masks(b: int, side: int, classes: int, seed: int = 0) -> np.ndarray:
    """Blobs of classes, and a strip without labels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (b, side // 4, side // 4)).astype(np.uint8)
    masks = coarse.repeat(4, 1).repeat(4, 2)
    masks[:, : 1 + seed % 3] = NOT_LABELLED
    return np.ascontiguousarray(masks)


# ---------------------------------------------------------------- nets


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n == "fcn_resnet101" else ()) for n in nets.names(task="segment")],
)
def test_every_net_for_masks_learns_and_answers_at_its_smallest_size(name: str) -> None:
    torch.manual_seed(0)
    task = Segment(("a", "b", "c"))
    options = {"width": 1 / 32} if "width" in nets.options(name) else {}
    side = max(16, nets.smallest_picture(name))
    size = side if nets.one_size(name) else nets.facts(name).input[-1]
    spec = {"name": name, "classes": task.zoo_outputs, "in_channels": 3, "input_size": size, **options}
    net = build_net(task, spec)
    batch = batch_of(random_masks(2, side // 4 * 4, 3))
    rate = torch.optim.SGD(net.parameters(), lr=1e-3)
    made = task.run(net, batch)
    assert made.shape == (2, 3, *batch.x.shape[2:])  # cropped, so that every pixel of the mask has its own score
    task.losses(made, batch).total.backward()
    rate.step()
    meter = Meter(task)
    with torch.no_grad():
        meter.add(task.run(net.eval(), batch), batch)
    figures = task.figures(meter.seen())
    assert figures["n"] == 2 and math.isfinite(figures["loss"]) and 0 <= figures["miou"] <= 1


class Valid(nn.Module):
    """A net without padding: 3 pixels are lost on each side, and sides are odd."""

    margin = 3

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 7)
        self.seen: list[tuple[int, ...]] = []

    @staticmethod
    def fitting(side: int) -> int:
        return side + 1 - side % 2

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2] % 2 and x.shape[3] % 2
        self.seen.append(tuple(x.shape[2:]))
        return self.conv(x)


@pytest.mark.parametrize(("size", "tile"), [((20, 31), None), ((20, 31), (8, 9)), ((5, 40), (8, 9)), ((9, 9), (8, 9))])
def test_tiles_of_a_net_without_padding_are_the_whole_pictures_scores(
    size: tuple[int, int], tile: tuple[int, int] | None
) -> None:
    net, x = Valid(), torch.randn(1, 1, *size)
    whole = net.conv(nn.functional.pad(x, (3, 3, 3, 3), mode="reflect"))
    torch.testing.assert_close(over_picture(net, x, tile), whole)
    assert (len(net.seen) > 1) == (tile is not None and size != (9, 9))


def test_tiles_fade_into_each_other() -> None:
    class Place(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + (x.shape[3] == 16)  # a net that says what it is shown

    x = torch.arange(40.0).expand(1, 1, 40, 40)
    torch.testing.assert_close(over_picture(Place(), x, (16, 16)), x + 1)  # weights add up to one everywhere

    class Count(nn.Module):
        n = 0

        def forward(self, x: Tensor) -> Tensor:
            self.n += 1
            return torch.full_like(x, self.n)

    row = over_picture(Count(), torch.zeros(1, 1, 16, 28), (16, 16))[0, 0, 0]
    assert row[0] == 1 and row[-1] == 2 and (row.diff() >= 0).all() and 1 < row[14] < 2


def test_the_decoder_is_narrow_where_maps_are_large() -> None:
    decoder = Decoder({1: 4, 2: 4, 4: 8, 8: 16}, 3, width=32)
    maps = {s: torch.randn(1, c, 32 // s, 24 // s) for s, c in ((1, 4), (2, 4), (4, 8), (8, 16))}
    assert decoder(maps, torch.zeros(1, 3, 32, 24)).shape == (1, 3, 32, 24)
    assert [layer.out_channels for layer in decoder.narrow] == [16, 16] and decoder.last.in_channels == 16
    assert Decoder({2: 4}, 3, width=32)({2: maps[2]}, torch.zeros(1, 3, 32, 24)).shape == (1, 3, 32, 24)


def test_bfloat16_is_left_where_its_gradients_are_wrong() -> None:
    fast = Device("cpu", bf16=True, channels_last=True)
    assert not with_right_gradients(fast, nn.Conv2d(21, 8, 3, dilation=2)).bf16
    for fine in (nn.Conv2d(21, 8, 3), nn.Conv2d(32, 8, 3, dilation=2), nn.Conv2d(11, 8, 3, dilation=2)):
        assert with_right_gradients(fast, fine) == fast
    for frames, bf16 in ((8, False), (16, True)):  # two frames at the last convolution, and four
        clip = nets.build("clip_small", classes=2, in_channels=3, input_size=16, frames=frames)
        assert with_right_gradients(fast, clip, (3, frames, 16, 16)).bf16 is bf16 and clip.training


# ---------------------------------------------------------------- losses


def test_border_weights_are_those_of_the_paper() -> None:
    mask = np.zeros((24, 30), dtype=np.uint8)
    mask[4:20, 3:12], mask[4:20, 15:27], mask[0:2, 5:9] = 1, 1, 2
    mask[10:12, 29] = NOT_LABELLED
    own = [mask * 0 + (mask == 1), (mask == 2) * 1]
    objects = [own[0].copy(), own[0].copy(), own[1]]
    objects[0][:, 13:], objects[1][:, :13] = 0, 0
    y, x = np.mgrid[:24, :30]
    far = []
    for one in objects:
        inside, outside = np.argwhere(one), np.argwhere(one == 0)
        far.append(
            [
                [
                    min(math.hypot(a - i, b - j) for i, j in (outside if one[a, b] else inside))
                    for a, b in zip(row_y, row_x, strict=True)
                ]
                for row_y, row_x in zip(y, x, strict=True)
            ]
        )
    near = np.sort(np.array(far), axis=0)
    expected = 10 * np.exp(-((near[0] + near[1]) ** 2) / (2 * 5**2))
    np.testing.assert_allclose(border_weights(mask, 10.0), expected, atol=1e-3)
    assert border_weights(mask, 10.0)[10, 13] > 5 > border_weights(mask, 10.0)[22, 28]
    assert (border_weights(np.zeros((5, 5), np.uint8), 10.0) == 0).all()


def test_a_border_weighs_more_than_the_plain_loss() -> None:
    masks = np.zeros((1, 16, 16), np.uint8)
    masks[0, 2:14, 1:7], masks[0, 2:14, 9:15] = 1, 1
    batch, outputs = batch_of(masks), torch.randn(1, 2, 16, 16)
    plain, more = (Segment(("a", "b"), [0.5, 2.0], border=w0).losses(outputs, batch) for w0 in (0.0, 10.0))
    each = nn.functional.cross_entropy(outputs, batch.targets["mask"].long(), reduction="none")
    added = (each * torch.from_numpy(border_weights(masks[0], 10.0))).mean()
    torch.testing.assert_close(more.total, plain.total + added)


@pytest.mark.parametrize("options", [{}, {"dice": 0.5}, {"border": 10.0}, {"weights": [0.5, 1.0, 2.0]}])
def test_pieces_of_a_batch_add_up_to_the_whole(options: dict[str, Any]) -> None:
    masks = random_masks(4, 16, 3)
    masks[0, 6:] = NOT_LABELLED  # pieces with unlike numbers of labelled pixels
    masks[3] = NOT_LABELLED
    task, batch = Segment(("a", "b", "c"), **options), batch_of(masks)
    outputs = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    whole = task.losses(outputs, batch)
    parts = [task.losses(outputs[s], batch.part(s)) for s in (slice(0, 1), slice(1, 3), slice(3, 4))]
    torch.testing.assert_close(
        whole.total * whole.count, torch.stack([p.total * p.count for p in parts]).sum(), rtol=1e-10, atol=1e-10
    )
    assert float(parts[2].total) == 0


def test_dice_is_the_overlap_over_the_sum() -> None:
    mask = torch.tensor([[[0, 0, 1, 1]]])
    sure = torch.tensor([[[[50.0, 50, 50, -50]], [[-50.0, -50, -50, 50]]]])  # the third pixel is wrong
    right = dice_loss(sure, mask, mask >= 0)
    torch.testing.assert_close(right, torch.tensor(1 - (2 * 2 / (3 + 2) + 2 * 1 / (1 + 2)) / 2))


def test_weights_are_between_none_and_equal_classes() -> None:
    made = balanced(np.array([100.0, 4.0, 0.0]))
    assert made is not None and made[1] / made[0] == pytest.approx(5)
    assert (np.array(made) * np.array([100, 4, 0]) / 104).sum() == pytest.approx(1)
    assert balanced(np.array([10.0, 0.0])) is None


def test_what_weights_add_to_the_answers_is_taken_off_as_the_validation_pictures_say() -> None:
    """The best outputs of the weighted loss are log(weight x probability), so that a rare class may win."""
    weights, p = torch.tensor([0.5, 4.0]), torch.tensor([0.7, 0.3])
    truth = np.zeros((1, 10, 10), np.uint8)
    truth[:, 7:] = 1  # as often as it is probable
    task, batch = Segment(("ground", "thing"), weights.tolist()), batch_of(truth)
    best = (weights * p).log()[None, :, None, None].expand(1, 2, 10, 10).clone().requires_grad_()
    task.losses(best, batch).total.backward()
    assert best.grad is not None and best.grad.sum((2, 3)).abs().max() < 1e-6  # nothing would be better
    outputs = best.detach()
    seen = {k: np.asarray(v) for k, v in task.observe(outputs, batch).items()}
    assert seen["confusion"][0].tolist() == [[0, 70], [0, 30]] and seen["confusion"][2].tolist() == [[70, 0], [30, 0]]
    assert task.figures(seen)["miou"] == pytest.approx(0.35)  # the best of those that were tried
    task.calibrate(seen)
    assert task.adjustment == 1.0
    (answer,) = task.answers(outputs, batch, ["a"])
    assert isinstance(answer, Regions) and (answer.mask == 0).all()
    assert (task.readings(outputs, (10, 10))["classes"] == 0).all()
    again = Segment.from_json(json.loads(json.dumps(task.to_json())))
    assert again.adjustment == 1.0 and again.observe(outputs, batch)["confusion"].tolist() == [[[70, 0], [30, 0]]]
    older = Segment.from_json({"classes": ["ground", "thing"], "weights": weights.tolist()})
    assert older.adjustment == 0.0 and (older.answers(outputs, batch, ["a"])[0].mask == 1).all()  # type: ignore[attr-defined]


# ---------------------------------------------------------------- figures


def slow_border_f(found: np.ndarray, mask: np.ndarray, k: int) -> float:
    """By the definition, pixel by pixel."""
    h, w = mask.shape
    reach = math.ceil(0.0075 * math.hypot(h, w))

    def border(m: np.ndarray) -> set[tuple[int, int]]:
        made = set()
        for y in range(h):
            for x in range(w):
                for b, a in ((y, x + 1), (y + 1, x), (y + 1, x + 1)):
                    if b < h and a < w and NOT_LABELLED not in (mask[y, x], mask[b, a]):
                        made |= {(y, x)} if (m[y, x] == k) != (m[b, a] == k) else set()
        return made

    def share(some: set[tuple[int, int]], others: set[tuple[int, int]]) -> float:
        near = sum(any(math.hypot(y - b, x - a) <= reach for b, a in others) for y, x in some)
        return near / len(some) if some else 0.0

    own, true = border(found), border(mask)
    if not own and not true:
        return math.nan
    precision, recall = share(own, true), share(true, own)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def test_figures_are_those_of_a_slow_reference() -> None:
    classes, side = 4, 20
    task, meter = Segment(("a", "b", "c", "d")), Meter(Segment(("a", "b", "c", "d")))
    truths, answers = [], []
    for step in range(2):  # two batches: figures are sums over them
        masks = random_masks(2, side, 3, seed=step)
        outputs = torch.randn(2, classes, side, side, generator=torch.Generator().manual_seed(step))
        outputs.scatter_add_(
            1, torch.from_numpy(masks).long().clamp(max=3)[:, None], torch.full((2, 1, side, side), 1.5)
        )
        outputs[:, 3] -= 2
        meter.add(outputs, batch_of(masks, rows=2 * step))
        truths += list(masks)
        answers += list(outputs.argmax(1).numpy())
    figures = task.figures(meter.seen())
    there = [t != NOT_LABELLED for t in truths]
    pairs = np.array(
        [
            (t, a)
            for true, own, lab in zip(truths, answers, there, strict=True)
            for t, a in zip(true[lab], own[lab], strict=True)
        ]
    )
    true, found = pairs.T
    iou = [((true == k) & (found == k)).sum() / ((true == k) | (found == k)).sum() for k in range(classes)]
    share = [(true == k).mean() for k in range(classes)]
    f = [[slow_border_f(a, t, k) for a, t in zip(answers, truths, strict=True)] for k in range(classes)]
    assert figures["n"] == 4
    assert figures["per_class"] == pytest.approx(dict(zip("abcd", iou, strict=True)))
    assert figures["miou"] == pytest.approx(np.mean(iou))
    assert figures["pixel_accuracy"] == pytest.approx((true == found).mean())
    assert figures["frequency_weighted_iou"] == pytest.approx(np.dot(share, iou))
    assert figures["boundary_f"] == pytest.approx(np.mean([np.nanmean(row) for row in f]))
    assert "pixel_error" not in figures
    assert len(task.sections(meter.seen(), figures)) == 2


def test_the_border_may_be_missed_by_the_tolerance() -> None:
    truth = torch.zeros(160, 160, dtype=torch.long)
    truth[40:100, 40:100] = 1  # the tolerance is 2 pixels of a diagonal of 226
    for shift, low, high in ((0, 1.0, 1.0), (2, 0.97, 1.0), (6, 0.0, 0.1)):
        f = border_f(truth.roll((shift, shift), (0, 1)), truth, 3)
        assert low <= f[1] <= high and math.isnan(f[2])


def test_two_classes_have_a_pixel_error() -> None:
    task, masks = Segment(("membrane", "cell")), random_masks(1, 16, 2)
    meter = Meter(task)
    meter.add(torch.randn(1, 2, 16, 16), batch_of(masks))
    figures = task.figures(meter.seen())
    assert figures["pixel_error"] == pytest.approx(1 - figures["pixel_accuracy"])


# ---------------------------------------------------------------- pictures and masks move alike


@pytest.mark.parametrize("fit", ["pad", "tile"])
def test_what_is_done_to_a_picture_is_done_to_its_mask(fit: str) -> None:
    source = open_source("drawn:n=6,size=64")
    truth: Any = source.columns["mask"]

    pictures = [np.repeat((truth[i][:, :, None] > 0) * np.uint8(255), 3, 2) for i in range(6)]
    column = Masks(lambda i: (pictures[i][:, :, 0] > 0).astype(np.uint8), 6, ("ground", "thing"))
    held = Streamed(
        open_source("drawn:n=6,size=64"), np.arange(6), Preprocess(48, 48, (0.5,) * 3, (0.5,) * 3, 3, fit, (48, 48))
    )
    held.source.read = lambda i: pictures[i]  # type: ignore[method-assign]
    known = Known({"mask": column}, Segment(("ground", "thing")).collate, warps=True)
    how = Augment(flip="random", zoom=0.5, rotate=20.0, elastic=3.0)
    feed = Batches(held, known, how, 6, seed=1, device=CPU)
    stream = feed.stream(0)
    for _ in range(3):
        batch = next(stream)
        mask, shown = batch.targets["mask"], batch.x[:, 0]
        sure = (mask != NOT_LABELLED) & (shown.abs() > 0.9)
        agree = ((shown > 0) == (mask == 1))[sure].float().mean()
        assert sure.float().mean() > 0.3 and agree > 0.995
        assert batch.warp is not None and batch.warp.field is not None
    stream.close()


def test_a_bend_is_seen_in_the_mask() -> None:
    how = Augment(elastic=4.0)
    field = __import__("neocog.data.augment", fromlist=["bends"]).bends(draw(how, 1, 0, 0), how, 32, 32)
    mask = np.tile(np.arange(32, dtype=np.uint8) // 8, (32, 1))
    still = Warp(torch.eye(2, 3, dtype=torch.float64)[None], torch.tensor([[32, 32]]), (32, 32))
    bent = Warp(still.matrix, still.sizes, still.size, field)
    assert (still.mask(0, mask).numpy() == mask).all()
    assert 0.02 < (bent.mask(0, mask).numpy() != mask).mean() < 0.9


def test_a_mask_of_another_size_is_fitted_to_its_picture() -> None:
    task = Segment(("a", "b"))
    warp = Warp(torch.eye(2, 3, dtype=torch.float64)[None], torch.tensor([[8, 8]]), (8, 8))
    small = np.array([[0, 1], [1, 0]], dtype=np.uint8)
    made = task.collate({"mask": [small]}, warp, torch.tensor([True]))["mask"][0].numpy()
    assert (made == small.repeat(4, 0).repeat(4, 1)).all()


# ---------------------------------------------------------------- tiles


def test_a_piece_shows_the_picture_at_its_own_scale() -> None:
    source = open_source("drawn:n=3,size=40")
    for shape in ((24, 16), (56, 24), (48, 64)):
        pre = Preprocess(16, 16, channels=3, fit="tile", shape=shape)
        pictures = Streamed(source, np.arange(3), pre)
        for u in (0.0, 0.4, 0.999):
            piece, matrix, size = pictures.read(1, torch.full((4,), u), 0.0) or (None, None, None)
            assert piece is not None and matrix is not None
            assert piece.shape == (*shape, 3) and size == (40, 40)
            whole = placed(source.read(1), pre)[0].transpose(1, 2, 0)
            left, top = (-matrix[:, 2]).astype(int)
            y, x = max(0, -top), max(0, -left)
            part = whole[max(0, top) :, max(0, left) :][: shape[0] - y, : shape[1] - x]
            assert (piece[y : y + part.shape[0], x : x + part.shape[1]] == part).all()
    whole = next(in_order(Streamed(source, np.arange(3), pre), 1, CPU)).x
    assert whole.shape == (1, 3, 40, 40)


def test_tiles_train_on_pieces_and_answer_for_whole_pictures(tmp_path: Path) -> None:
    options = {"tile": 32, "border": 10, "dice": 0.5}
    few = {"min_steps": 2, "batch_size": 4}
    run = neocog.train(
        "drawn:n=12,size=72",
        out=tmp_path / "run",
        net="cifar_resnet20",
        epochs=1,
        set=few,
        task_options=options,
        **QUIET,
    )
    assert run.preprocess.fit == "tile" and run.preprocess.input == (32, 32)
    assert run.task.to_json()["border"] == 10 and 0 <= run.metrics["test_miou"] <= 1
    source = open_source("drawn:n=2,size=72")
    big = np.concatenate([source.read(0), source.read(1)[:, :50]], axis=1)
    both = run.predict([source.read(0), big])
    assert both[0].mask.shape == (72, 72) and both[1].mask.shape == (72, 122)
    assert both[1].confidence.min() > 0 and set(np.unique(both[1].mask)) <= set(range(len(run.classes)))
    with pytest.raises(UsageError, match="tiles of at least 32"):
        neocog.train("drawn:n=12,size=72", out=tmp_path / "no", net="resnet50", task_options={"tile": 8}, **QUIET)
    with pytest.raises(UsageError, match="at least 0"):
        neocog.train("drawn:n=12,size=72", out=tmp_path / "no", net="resnet50", task_options={"border": -1}, **QUIET)


def planned(data: str, **wishes: Any) -> tuple[Any, list[str]]:
    opened = Data.open(data, None, False, task="segment")
    plan, _ = make_plan(Wishes(**wishes), opened, Device("cpu"), World(), Show(False))
    return plan, opened.notes


def test_what_is_lost_by_scaling_is_said() -> None:
    plan, notes = planned("drawn:n=12,size=120", net="cifar_resnet20", size=64)
    assert plan.preprocess.input == (64, 64) and any("120x120 to 64x64" in note for note in notes)
    assert not any("tile=" in note for note in planned("drawn:n=12,size=64", net="cifar_resnet20")[1])
    with pytest.raises(UsageError, match="give one of both"):
        planned("drawn:n=12,size=64", size=32, task_options={"tile": 32})


@pytest.mark.parametrize(
    ("net", "size"), [("unet", 40), ("unet_original", 40), ("deconvnet", 40), ("fcn_resnet50", 40)]
)
def test_zoo_nets_are_built_for_the_pictures(net: str, size: int) -> None:
    plan, _ = planned("drawn:n=12,size=40", net=net)
    assert plan.preprocess.input == (size, size) and plan.net["classes"] == 9
    assert plan.net["input_size"] == (size if nets.one_size(net) else nets.facts(net).input[-1])


# ---------------------------------------------------------------- answers


def test_answers_are_drawn_with_a_legend_and_errors() -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[:30] = 1
    truth = mask.copy()
    truth[:10], truth[50:] = 2, NOT_LABELLED
    answer = Regions(
        "x", ("ground", "sky", "tree"), mask, np.full((60, 80), 0.75, np.float16), ((0, 0, 0), (0, 0, 255), (0, 255, 0))
    )
    picture = np.full((60, 80, 3), 100, np.uint8)
    alone, beside = answer.draw(picture), answer.draw(picture, truth)
    assert alone.shape[0] > 60 and beside.shape[1] > 3 * alone.shape[1] - 10
    scale = alone.shape[1] // 80
    assert alone[10, 10].tolist() == [40, 40, 193]  # the data's own colour
    assert alone[50 * scale, 10].tolist() == [80, 80, 80]  # of the ground only a trace
    errors = beside[:, 2 * alone.shape[1] :]
    red = (errors[: 60 * scale, :, 0].astype(int) - errors[: 60 * scale, :, 1]) > 100
    assert red.mean() == pytest.approx(10 / 60, abs=0.03)
    assert answer.tags() == (("sky", 0.75),)
    assert answer.to_json() == {"height": 60, "width": 80, "shares": {"ground": 0.5, "sky": 0.5}}
    assert answer.draw(picture[:, :, 0]).shape == alone.shape
    many = Regions("x", tuple(f"class {k}" for k in range(40)))
    assert len({tuple(c) for c in many.palette.tolist()}) == 40


# ---------------------------------------------------------------- resuming, processes

HOW: dict[str, Any] = {"net": "cifar_resnet20", "epochs": 2, "set": {"min_steps": 6, "batch_size": 8, "elastic": 1.0}}


def test_a_segmentation_is_continued_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neocog.fit import training

    whole = neocog.train("drawn:n=32,size=32", out=tmp_path / "whole", **HOW, **QUIET)
    asked = iter([False] * 2 + [True] + [False] * 100)
    true_fit = training.fit
    monkeypatch.setattr(training, "fit", lambda *a, **k: true_fit(*a, **{**k, "interrupted": lambda: next(asked)}))
    with pytest.raises(KeyboardInterrupt):
        neocog.train("drawn:n=32,size=32", out=tmp_path / "half", **HOW, **QUIET)
    half = neocog.resume(tmp_path / "half", progress=False)
    a, b = (read_tensors(run.folder / "weights.safetensors")[0] for run in (whole, half))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert repr(half.metrics) == repr(whole.metrics)


EXACT = """
import copy, sys, numpy as np, torch
from pathlib import Path
from neocog import nets
from neocog.data import open_source
from neocog.data.augment import Augment
from neocog.data.batches import Batches, Held, Known
from neocog.data.kinds import Masks
from neocog.fit.parallel import World, join, leave, share_gradients, wait_for_all, with_global_norms
from neocog.fit.run import write_tensors
from neocog.records import Preprocess
from neocog.tasks.segment import Segment
from neocog.tasks.task import build_net
torch.set_num_threads(1)
world = join()
torch.manual_seed(0)
source = open_source("drawn:n=16,size=32")
column = source.columns["mask"]
task = Segment(column.names, np.linspace(0.5, 2, len(column.names)), dice=0.5, width=16, border=5)
net = build_net(task, {"name": "cifar_resnet20", "classes": 10, "in_channels": 3, "input_size": 32}).double()
single = copy.deepcopy(net)
def partly(i):
    mask = column[i].copy()
    mask[: 2 * i] = 255  # every picture has another number of labelled pixels
    return mask
known = Known({"mask": Masks(partly, 16, column.names)}, task.collate, warps=True)
pictures = Held(source, np.arange(16), Preprocess(32, 32, fit="pad", shape=(32, 32)), torch.device("cpu"))

def train(net, world):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    stream = Batches(pictures, known, Augment(zoom=0.3, elastic=1.0), 8, seed=3, device=torch.device("cpu"),
                     dtype=torch.float64, rank=world.rank, world=world.size).stream(0)
    for _ in range(3):
        batch = next(stream)
        found = task.losses(task.run(net, batch), batch)
        (found.total * found.count).backward()
        share_gradients(net, torch.as_tensor(found.count), world)
        optimizer.step()
        optimizer.zero_grad()
    stream.close()
    return net.state_dict()

shared = train(with_global_norms(net, world), world)
if world.first:
    write_tensors(Path(sys.argv[1]), shared)
    write_tensors(Path(sys.argv[2]), train(single, World()))
wait_for_all(world)
leave()
"""


@pytest.mark.slow
def test_two_processes_are_one_where_labelled_pixels_differ(tmp_path: Path) -> None:
    script, shared, single = tmp_path / "exact.py", tmp_path / "shared", tmp_path / "single"
    script.write_text(EXACT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "127.0.0.1:0", str(script), str(shared), str(single)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    a, b = read_tensors(shared)[0], read_tensors(single)[0]
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-9, atol=1e-12)


def test_segment_is_found_by_its_columns() -> None:
    assert find("segment") is Segment


@pytest.mark.parametrize(("value", "said"), [(0, "no class but 'background'"), (255, "no class but 'foreground'")])
def test_masks_that_tell_nothing_apart_are_refused(tmp_path: Path, value: int, said: str) -> None:
    for i in range(4):
        for folder, ending, shape in (("images", "jpg", (8, 8, 3)), ("masks", "png", (8, 8))):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(np.full(shape, value, np.uint8)).save(tmp_path / folder / f"{i}.{ending}")
    source = open_source(tmp_path)
    with pytest.raises(DataError, match=f"{said} in the 4 pictures to train on"):
        Segment.plan(source, np.arange(4), {})
