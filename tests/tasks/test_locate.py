"""The largest box: IoU in closed form, boxes through the warp and back, what counts and what does not."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from neocog.data import open_source
from neocog.data.augment import Augment
from neocog.data.batches import Batch, Batches, Known, in_order
from neocog.data.kinds import Boxes, BoxSet
from neocog.data.pictures import Streamed
from neocog.data.source import Source
from neocog.data.warp import Warp
from neocog.errors import UsageError
from neocog.records import Preprocess
from neocog.tasks.locate import LOSSES, Locate, Place, Proposals, largest, overlap

CPU = torch.device("cpu")
SET = BoxSet(
    np.array([[0, 0, 2, 2], [10, 4, 20, 16], [0, 0, 30, 30]], np.float32),
    np.array([0, 1, 0], np.int32),
    np.array([False, False, True]),
)


def as_outputs(boxes: Any) -> torch.Tensor:
    """Outputs that answer these boxes, as shares of the input."""
    return (torch.as_tensor(boxes, dtype=torch.float32) - torch.tensor([0.25, 0.25, 0.75, 0.75])) * 4


def batch_of(boxes: Any, labels: Any) -> Batch:
    made = {"boxes": torch.as_tensor(boxes, dtype=torch.float32), "labels": torch.as_tensor(labels)}
    return Batch((), made, torch.arange(len(labels)), torch.ones(len(labels), dtype=torch.bool))


def seen_of(task: Locate, outputs: torch.Tensor, batch: Batch) -> dict[str, np.ndarray]:
    return {k: np.asarray(v) for k, v in task.observe(outputs, batch).items()}


def source_of(rows: list[BoxSet | None]) -> Source:
    n = len(rows)
    source = Source("made", (), np.full(n, -1), np.full(n, -1))
    source.columns = {"boxes": Boxes.of(rows, ("cat", "dog"))}
    return source


def test_the_largest_box_that_is_not_ignored_is_asked_for() -> None:
    corners, label = largest(SET)  # type: ignore[misc]
    assert corners.tolist() == [10, 4, 20, 16] and label == 1
    nothing = BoxSet(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool))
    crowd = BoxSet(SET.corners[2:], SET.labels[2:], SET.ignored[2:])
    assert largest(None) is None and largest(nothing) is None and largest(crowd) is None
    source = source_of([SET, nothing, None, crowd, SET])
    assert Locate.known(source).tolist() == [True, False, False, False, True]
    assert Locate.strata(source).tolist() == [1, -1, -1, -1, 1]  # type: ignore[union-attr]


def test_iou_in_closed_form() -> None:
    first = torch.tensor([[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 1, 1], [1, 1, 1, 1]])
    second = torch.tensor([[0, 0, 2, 2], [1, 1, 3, 3], [2, 2, 3, 3], [1, 1, 1, 1]])
    assert overlap(first, second).tolist() == pytest.approx([1, 1 / 7, 0, 0])


def test_the_losses_in_closed_form() -> None:
    truth, found = [[0.2, 0.2, 0.6, 0.6]], [[0.4, 0.4, 0.8, 0.8]]
    wanted = {"l1": 0.8, "squared": 0.16, "giou": 1 - (0.04 / 0.28 - (0.36 - 0.28) / 0.36)}
    for loss, value in wanted.items():
        parts = Locate(["thing"], loss=loss, weight=1.0).losses(as_outputs(found), batch_of(truth, [0])).parts
        assert parts.keys() == {"box"} and parts["box"].item() == pytest.approx(value, rel=1e-4)
    parts = (
        Locate(["cat", "dog"], weight=1.0)
        .losses(torch.cat((as_outputs(found), torch.tensor([[0.0, math.log(3)]])), 1), batch_of(truth, [1]))
        .parts
    )
    assert parts["class"].item() == pytest.approx(math.log(4 / 3), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_not_known_counts_for_nothing(loss: str) -> None:
    task = Locate(["cat", "dog"], loss=loss)
    outputs = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    batch = batch_of([[0.1, 0.1, 0.5, 0.9], [math.nan] * 4, [0.3, 0.2, 0.9, 0.6]], [0, -1, 1])
    found = task.losses(outputs, batch)
    found.total.backward()
    assert found.count == 2 and torch.isfinite(outputs.grad).all() and (outputs.grad[1] == 0).all()
    assert outputs.grad[[0, 2]].abs().sum() > 0
    figures = task.figures(seen_of(task, outputs.detach(), batch))
    assert figures["loss"] == pytest.approx(found.total.item(), rel=1e-5) and figures["n"] == 3


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_finds_the_box(loss: str) -> None:
    task, batch = Locate(["thing"], loss=loss), batch_of([[0.55, 0.1, 0.95, 0.4]], [0])
    free = nn.Parameter(torch.zeros(1, 4))
    optimizer = torch.optim.Adam([free], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        task.losses(free, batch).total.backward()
        optimizer.step()
    assert overlap(task.corners(free.detach()), batch.targets["boxes"])[0] > 0.9


def test_an_answer_is_the_mean_of_what_the_cells_propose_as_each_counts() -> None:
    head = Proposals({4: 8, 8: 8}, 6, 8).eval()
    kept: list[torch.Tensor] = []
    head.last.register_forward_hook(lambda _m, _i, out: kept.append(out))
    torch.manual_seed(0)
    found = head({4: torch.randn(2, 8, 3, 5), 8: torch.randn(2, 8, 2, 3)}, torch.zeros(2, 3, 12, 20))
    said = kept[0].double()
    wanted = torch.zeros(2, 6, dtype=torch.float64)
    for b in range(2):
        counts = torch.exp(said[b, 0]) / torch.exp(said[b, 0]).sum()
        for y in range(3):
            for x in range(5):
                own = as_outputs([[(x + 0.5) / 5, (y + 0.5) / 3] * 2])[0].double()
                wanted[b, :4] += counts[y, x] * (said[b, 1:5, y, x] + own)
                wanted[b, 4:] += counts[y, x] * said[b, 5:, y, x]
    assert torch.allclose(found.double(), wanted, atol=1e-5)


def test_corners_in_the_wrong_order_are_a_box_nevertheless() -> None:
    found = Locate(["thing"]).corners(as_outputs([[0.8, 0.9, 0.2, 0.1]]))
    assert found[0].tolist() == pytest.approx([0.2, 0.1, 0.8, 0.9], abs=1e-6)


def test_figures_ask_for_box_and_name() -> None:
    task = Locate(["cat", "dog"])
    truth = [[0.2, 0.2, 0.6, 0.6]] * 4
    found = [[0.2, 0.2, 0.6, 0.6], [0.2, 0.2, 0.6, 0.6], [0.4, 0.4, 0.8, 0.8], [0.2, 0.2, 0.6, 0.6]]
    names = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0]])
    batch = batch_of([*truth[:3], [math.nan] * 4], [0, 0, 0, -1])
    figures = task.figures(seen_of(task, torch.cat((as_outputs(found), names), 1), batch))
    assert figures["miou"] == pytest.approx((2 + 1 / 7) / 3, rel=1e-4)
    assert figures["iou50"] == pytest.approx(2 / 3) and figures["class_accuracy"] == pytest.approx(2 / 3)
    assert figures["accuracy"] == pytest.approx(1 / 3)
    assert math.isnan(figures["per_class"]["dog"])
    seen = seen_of(task, torch.cat((as_outputs(found), names), 1), batch)
    assert task.worst(seen).tolist()[0] == 2 and task.worst(seen).tolist()[-1] == 3
    assert task.caption(seen, 1) == "IoU 1.00; the true name is cat" and "not known" in task.caption(seen, 3)
    assert "right name" in task.sections(seen, figures)[0].body


def test_targets_move_with_the_picture_and_answers_move_back() -> None:
    source = open_source("drawn:n=12,size=40")
    task, pre = Locate(source.columns["boxes"].names), Preprocess(32, 32, fit="pad", shape=(32, 48))
    known = Known({"boxes": source.columns["boxes"]}, task.collate, warps=True)
    pictures = Streamed(source, np.arange(12), pre)
    (batch,) = in_order(pictures, 12, CPU, known=known)
    perfect = torch.cat((as_outputs(batch.targets["boxes"]), torch.zeros(12, len(task.classes))), 1)
    for i, answer in enumerate(task.answers(perfect, batch, [str(i) for i in range(12)])):
        assert isinstance(answer, Place)
        wanted, _ = largest(source.columns["boxes"][i])  # type: ignore[misc]
        assert answer.box == pytest.approx(wanted.tolist(), abs=0.01)
        assert answer.draw(source.read(i), source.columns["boxes"][i]).shape[0] > 40
    feed = Batches(pictures, known, Augment(flip="random", zoom=0.3), 12, seed=0, device=CPU)
    moved = next(feed.stream(0))
    assert moved.warp is not None and moved.warp.mirrored.any()
    for b, i in enumerate(moved.rows.tolist()):
        if moved.targets["labels"][b] >= 0:
            cut, _ = moved.warp.boxes(b, largest(source.columns["boxes"][i])[0][None])  # type: ignore[index]
            assert moved.targets["boxes"][b].tolist() == pytest.approx((cut[0] / [48, 32, 48, 32]).tolist(), abs=1e-5)


def test_the_outputs_of_a_mirror_image_are_turned_back() -> None:
    task = Locate(["a", "b"])
    boxes = torch.tensor([[0.1, 0.2, 0.4, 0.9]])
    mirrored = torch.tensor([[0.6, 0.2, 0.9, 0.9]])
    names = torch.tensor([[1.0, 2.0]])
    back = task.unmirrored(torch.cat((as_outputs(mirrored), names), 1))
    assert torch.allclose(back, torch.cat((as_outputs(boxes), names), 1), atol=1e-6)


def test_a_box_that_was_cut_away_is_not_known() -> None:
    warp = Warp(torch.tensor([[[1.0, 0, -15], [0, 1, 0]]]).double(), torch.tensor([[40, 40]]), (32, 32))
    task = Locate(["cat", "dog"])
    gone = BoxSet(np.array([[0, 0, 10, 10]], np.float32), SET.labels[:1], SET.ignored[:1])
    made = task.collate({"boxes": [gone]}, warp, torch.ones(1, dtype=torch.bool))
    assert made["labels"].tolist() == [-1] and made["boxes"].isnan().all()


def test_json_and_rows() -> None:
    task = Locate(["cat"], loss="giou", weight=2.0)
    assert Locate.from_json(json.loads(json.dumps(task.to_json()))).to_json() == task.to_json()
    assert task.outputs is None and Locate(["cat"], method="numbers").outputs == 4
    assert Locate.from_json({"classes": ["cat"], "loss": "l1", "weight": 5.0}).method == "numbers"  # an older run
    answer = Place("k", (1.0, 2.0, 3.0, 4.0), "cat", 0.5)
    assert answer.row() == {"label": "cat", "probability": 0.5, "x0": 1.0, "y0": 2.0, "x1": 3.0, "y1": 4.0}
    assert answer.tags() == (("cat", 0.5),) and Place("k", problem="gone").tags() == ()
    with pytest.raises(UsageError, match="expected one of l1, squared, giou"):
        Locate(["cat"], loss="iou")
