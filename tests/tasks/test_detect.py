"""The task detect: figures against slow references and hand-made cases, targets, answers, and a small training."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from killed import first_checkpoint_in

import neocog
from neocog.data import Arrays, open_source
from neocog.data.batches import Batch
from neocog.data.drawn import drawn_source
from neocog.data.kinds import Boxes, BoxSet
from neocog.data.source import Source
from neocog.data.warp import Warp
from neocog.errors import DataError, UsageError
from neocog.nets.one_stage import one_stage_losses
from neocog.tasks import Meter, find, guess
from neocog.tasks import found as fd
from neocog.tasks.detect import IGNORED, NOBODY, Detect
from neocog.tasks.task import build_net, load, saved

NAMES = ("cat", "dog")


def found_of(*rows):
    """(picture, label, score, x0, y0, x1, y1) each."""
    a = np.array(rows, np.float64).reshape(-1, 7)
    return fd.Found(a[:, 0].astype(int), a[:, 3:].astype(np.float32), a[:, 2], a[:, 1].astype(int))


def there_of(*rows):
    """(picture, label, ignored, x0, y0, x1, y1) each."""
    a = np.array(rows, np.float64).reshape(-1, 7)
    return fd.There(a[:, 0].astype(int), a[:, 3:].astype(np.float32), a[:, 1].astype(int), a[:, 2] > 0)


def random_case(seed, pictures=6, ignored=True):
    rng = np.random.default_rng(seed)
    there, found = [], []
    for p in range(pictures):
        for _ in range(rng.integers(0, 5)):
            corner, sides = rng.uniform(0, 150, 2), rng.uniform(5, 120, 2)
            label = rng.integers(0, 2)
            there.append((p, label, ignored and rng.random() < 0.15, *corner, *(corner + sides)))
            for _ in range(rng.integers(0, 3)):
                moved = np.array([*corner, *(corner + sides)]) + rng.normal(0, 0.12, 4) * np.tile(sides, 2)
                named = label if rng.random() < 0.8 else 1 - label
                found.append((p, named, round(rng.random(), 2), *moved[:2], *np.maximum(moved[2:], moved[:2] + 1)))
    return found_of(*found), there_of(*there)


# ---------------------------------------------------------------- figures


def slow_average_precision(found, there, label, eleven):
    """VOC's, as its development kit computes it, one box after the other."""
    mine = [k for k in range(len(found.scores)) if found.labels[k] == label]
    mine.sort(key=lambda k: (-found.scores[k], k))
    count = sum(1 for k in range(len(there.labels)) if there.labels[k] == label and not there.ignored[k])
    taken, hits, false, precision, recall = set(), 0, 0, [], []
    for k in mine:
        best, at = 0.0, None
        for j in range(len(there.labels)):
            if there.pictures[j] == found.pictures[k] and there.labels[j] == label:
                overlap = fd.iou(found.corners[k : k + 1], there.corners[j : j + 1])[0, 0]
                if overlap > best:
                    best, at = overlap, j
        if best >= 0.5 and there.ignored[at]:
            continue
        if best >= 0.5 and at not in taken:
            taken.add(at)
            hits += 1
        else:
            false += 1
        precision.append(hits / (hits + false))
        recall.append(hits / count)
    if eleven:
        return (
            sum(
                max([p for p, r in zip(precision, recall, strict=True) if r >= t / 10 - 1e-9], default=0)
                for t in range(11)
            )
            / 11
        )
    area, last = 0.0, 0.0
    for i, r in enumerate(recall):
        area += (r - last) * max(precision[i:])
        last = r
    return area


@pytest.mark.parametrize("seed", range(6))
def test_voc_equals_the_slow_one(seed):
    found, there = random_case(seed, pictures=12)
    fast = fd.voc(found, there, NAMES)
    for name, eleven in (("voc_ap", False), ("voc_ap11", True)):
        slow = np.mean([slow_average_precision(found, there, k, eleven) for k in range(2)])
        assert fast[name] == pytest.approx(slow)
    assert 0.05 < fast["voc_ap"] < 0.95


def test_coco_of_cases_made_by_hand():
    there = there_of((0, 0, 0, 10, 10, 20, 20), (0, 1, 0, 30, 30, 90, 90), (1, 0, 0, 0, 0, 100, 100))
    perfect = found_of((0, 0, 0.9, 10, 10, 20, 20), (0, 1, 0.8, 30, 30, 90, 90), (1, 0, 0.7, 0, 0, 100, 100))
    made = fd.coco(perfect, there, NAMES)
    assert made["map"] == made["ap50"] == made["map_small"] == made["map_medium"] == made["map_large"] == 1
    assert made["per_class"]["cat"]["boxes"] == 2 and made["per_class"]["dog"]["map"] == 1
    # half as wide: IoU 0.5, which counts at 0.5 alone: one of ten thresholds
    half = found_of((0, 1, 0.8, 30, 30, 60, 90))
    dog = fd.coco(half, there, NAMES)["per_class"]["dog"]
    assert dog["ap50"] == pytest.approx(1) and dog["map"] == pytest.approx(0.1)
    # one of two cats: precision 1 up to a recall of 0.5, which is 51 of the 101 points
    one = fd.coco(perfect.only(np.array([0])), there, NAMES)
    assert one["per_class"]["cat"]["ap50"] == pytest.approx(51 / 101) and one["per_class"]["dog"]["ap50"] == 0
    # a wrong one with the highest score: precision 1/2, 2/3, of which the highest from each recall on is 2/3
    false = found_of((1, 0, 0.95, 120, 0, 150, 30))
    mixed = fd.Found(*(np.concatenate(pair) for pair in zip(perfect, false, strict=True)))
    assert fd.coco(mixed, there, NAMES)["per_class"]["cat"]["ap50"] == pytest.approx(2 / 3, abs=1e-3)
    # nothing found, and nothing there
    assert fd.coco(found_of(), there, NAMES)["map"] == 0
    assert np.isnan(fd.coco(found_of(), there_of(), NAMES)["map"])
    assert np.isnan(fd.coco(perfect, there_of(), NAMES)["map"])


def test_ignored_boxes_are_neither_right_nor_wrong():
    there = there_of((0, 0, 0, 0, 0, 40, 40), (0, 0, 1, 50, 50, 90, 90))
    both = found_of((0, 0, 0.9, 50, 50, 90, 90), (0, 0, 0.8, 0, 0, 40, 40))
    assert fd.coco(both, there, NAMES)["per_class"]["cat"]["ap50"] == 1
    assert fd.voc(both, there, NAMES) == {"voc_ap": 1.0, "voc_ap11": 1.0}
    kinds, missed = fd.kinds(both, there)
    assert [fd.KINDS[k] for k in kinds] == ["ignored", "right"] and not missed.any()
    assert fd.best_threshold(both, there) == pytest.approx(0.8)
    # not found either: no fault
    assert not fd.kinds(both.only(np.array([1])), there)[1].any()


def test_kinds_of_errors():
    there = there_of((0, 0, 0, 0, 0, 40, 40), (0, 1, 0, 60, 60, 90, 90), (1, 0, 0, 0, 0, 10, 10))
    found = found_of(
        (0, 0, 0.9, 0, 0, 40, 38),
        (0, 0, 0.8, 0, 0, 40, 36),
        (0, 0, 0.7, 60, 60, 90, 88),
        (0, 1, 0.6, 75, 60, 105, 90),
        (0, 1, 0.5, 0, 60, 20, 90),
        (2, 0, 0.4, 0, 0, 10, 10),
    )
    kinds, missed = fd.kinds(found, there)
    said = [fd.KINDS[k] for k in kinds]
    assert said == ["right", "found twice", "wrong class", "badly placed", "background", "background"]
    assert missed.tolist() == [False, True, True]


def test_the_threshold_balances_right_and_wrong():
    there = there_of((0, 0, 0, 0, 0, 40, 40), (1, 0, 0, 0, 0, 40, 40))
    found = found_of((0, 0, 0.9, 0, 0, 40, 40), (1, 0, 0.6, 0, 0, 40, 40), (1, 0, 0.4, 60, 60, 90, 90))
    assert fd.best_threshold(found, there) == pytest.approx(0.5)
    assert fd.best_threshold(found_of(), there) == 0.3


# ---------------------------------------------------------------- targets


class Made(Source):
    """Pictures with boxes, in memory."""

    def __init__(self, sets, names=NAMES):
        none = np.full(len(sets), -1)
        super().__init__("made", (), none, none)
        self.columns["boxes"] = Boxes.of(sets, names)

    def read(self, i):
        return np.zeros((64, 64, 3), np.uint8)


def boxes_of(*rows):
    """(label, ignored, x0, y0, x1, y1) each."""
    a = np.array(rows, np.float32).reshape(-1, 6)
    return BoxSet(a[:, 2:], a[:, 0].astype(np.int32), a[:, 1] > 0)


def half(n, size=(32, 32), file=(64, 64)):
    """The files shown at half their size."""
    matrix = torch.tensor([[0.5, 0, 0], [0, 0.5, 0]], dtype=torch.float64).repeat(n, 1, 1)
    return Warp(matrix, torch.tensor([file]).repeat(n, 1), size)


def test_targets_move_with_the_picture():
    task = Detect(NAMES)
    sets = [
        boxes_of((1, 0, 8, 8, 24, 40), (0, 1, 0, 0, 20, 20), (0, 0, 40, 60, 60, 90), (0, 0, 70, 70, 90, 90)),
        boxes_of(),
        boxes_of((0, 0, 0, 0, 9, 9)),
    ]
    made = task.collate({"boxes": sets}, half(3), torch.tensor([True, True, False]))
    # of the third only 2 of 15 rows are inside: neither wanted nor wrong; the fourth is outside
    assert made["labels"].tolist() == [[1, IGNORED, IGNORED, NOBODY], [NOBODY] * 4, [NOBODY] * 4]
    assert made["boxes"][0, 0].tolist() == [4, 4, 12, 20]
    assert made["truth"] is sets


def test_a_plan_says_what_it_sees_and_refuses_what_cannot_be_learned():
    source = Made([boxes_of((0, 0, 1, 1, 9, 9)), boxes_of(), None, boxes_of((1, 1, 0, 0, 9, 9))])
    settings = {**Detect.options}
    task = Detect.plan(source, np.array([0, 1, 3]), settings)
    assert any("1 of 3 pictures for training without a box" in note for note in task.notes)
    assert any("box of dog" in note for note in task.notes)
    assert Detect.known(source).tolist() == [True, True, False, True]
    strata = Detect.strata(source)  # the ignored box of dog does not count
    assert [strata[i].tolist() for i in range(4)] == [[0], [], [], []]
    with pytest.raises(DataError, match="have no boxes"):
        Detect.plan(source, np.array([1, 3]), settings)
    with pytest.raises(UsageError, match=r"unknown head 'three'.*one, two"):
        Detect(NAMES, head="three")
    again = load(json.loads(json.dumps(saved(Detect(NAMES, 0.4, head="two", width=64, depth=3)))))
    assert saved(again) == saved(Detect(NAMES, 0.4, head="two", width=64, depth=3))


def test_every_class_of_a_picture_counts_for_the_splits():
    strata = Detect.strata(Made([boxes_of((0, 0, 1, 1, 9, 9), (1, 0, 1, 1, 9, 9), (0, 3, 3, 9, 9, 9)), boxes_of()]))
    assert [strata[i].tolist() for i in range(2)] == [[0, 1], []]


# ---------------------------------------------------------------- a batch


def batch_of(task, n=4, size=32):
    source = open_source(f"drawn:n={n},size={size}")
    sets = [source.columns["boxes"][i] for i in range(n)]
    x = torch.stack([torch.from_numpy(source.read(i)).permute(2, 0, 1) for i in range(n)]) / 255.0
    eye = torch.eye(2, 3, dtype=torch.float64).repeat(n, 1, 1)
    warp = Warp(eye, torch.tensor([[size, size]]).repeat(n, 1), (size, size))
    valid = torch.ones(n, dtype=torch.bool)
    return Batch((x,), task.collate({"boxes": sets}, warp, valid), torch.arange(n), valid, warp)


@pytest.fixture(scope="module")
def shapes():
    return open_source("drawn:n=1,size=32").columns["boxes"].names


@pytest.mark.parametrize("head", ["one", "two"])
def test_pieces_of_a_batch_have_the_loss_of_the_whole(head, shapes):
    torch.manual_seed(0)
    task = Detect(shapes, head=head, width=16, depth=1)
    net = build_net(task, {"name": "cifar_resnet20", "classes": 10, "in_channels": 3}).eval()
    batch = batch_of(task)
    with torch.no_grad():
        whole = task.losses(task.run(net, batch), batch)
        pieces = [batch.part(slice(0, 1)), batch.part(slice(1, 4))]
        losses = [task.losses(task.run(net, piece), piece) for piece in pieces]
    if head == "two":  # its samples differ
        assert sum(float(one.count) for one in losses) == float(whole.count) == 4
        return
    sums = sum(float(one.total) * float(one.count) for one in losses)
    assert sums / sum(float(one.count) for one in losses) == pytest.approx(float(whole.total), rel=1e-5)


@pytest.mark.parametrize("head", ["one", "two"])
def test_a_picture_that_cannot_be_read_counts_for_nothing(head, shapes):
    torch.manual_seed(0)
    task = Detect(shapes, head=head, width=16, depth=1)
    net = build_net(task, {"name": "cifar_resnet20", "classes": 10, "in_channels": 3}).eval()
    batch = batch_of(task)
    batch.valid = torch.tensor([True, False, True, True])
    with torch.no_grad():
        outputs = task.run(net, batch)
        before, seen = task.losses(outputs, batch), task.observe(outputs, batch)
        batch.targets["boxes"][1] += 3
        after = task.losses(outputs, batch)
    assert float(before.total) == float(after.total)
    assert seen["rows"].tolist() == [0, 2, 3] and 1 not in seen["each_true_row"] and 1 not in seen["each_found_row"]


def test_figures_are_those_of_the_files_own_pixels():
    task = Detect(NAMES)
    sets = [boxes_of((1, 0, 8, 8, 24, 40), (0, 1, 40, 40, 60, 60)), boxes_of()]
    warp, valid = half(2), torch.tensor([True, True])
    targets = task.collate({"boxes": sets}, warp, valid)
    batch = Batch((torch.zeros(2, 3, 32, 32),), targets, torch.tensor([5, 7]), valid, warp)
    cells = torch.cat([torch.tensor([[8.0, 12.0, 4.0]]), torch.tensor([[24.0, 24.0, 4.0]])])
    logits = torch.full((2, 2, 2), -9.0)
    logits[0, 0, 1] = 9.0
    sides = torch.tensor([[[4.0, 8, 4, 8], [1, 1, 1, 1]]]).repeat(2, 1, 1)
    outputs = {"classes": logits, "sides": sides, "quality": torch.full((2, 2), 9.0), "cells": cells}
    meter = Meter(task)
    meter.add(outputs, batch)
    seen = meter.seen()
    figures = task.figures(seen)
    assert figures["n"] == 2 and figures["map"] == figures["ap50"] == figures["voc_ap"] == 1 and figures["boxes"] == 1
    assert figures["missed"] == figures["wrong"] == 0
    answers = task.answers(outputs, batch, ["a", "b"])
    assert answers[0].boxes() == [{"label": "dog", "score": pytest.approx(1, abs=1e-3), "box": [8, 8, 24, 40]}]
    assert answers[0].row()["boxes"] == "dog 1.00 (8.0 8.0 24.0 40.0)" and answers[1].row() == {"count": 0, "boxes": ""}
    assert answers[0].tags() == (("dog", pytest.approx(1, abs=1e-3)),) and answers[1].tags() == ()
    assert task.caption(seen, 5) == "all 1 found" and task.caption(seen, 7) == "no objects, none found"
    [one] = answers[0].coco(12)
    assert one == {"image_id": 12, "category_id": 2, "bbox": [8, 8, 16, 32], "score": pytest.approx(1, abs=1e-3)}
    json.dumps(answers[0].to_json())
    # read back as the report does it: rows are counted anew
    assert task.sections({**seen, "rows": np.arange(2)}, figures)


def test_the_worst_pictures_come_first():
    task = Detect(NAMES)
    seen = {
        "rows": np.array([3, 4, 6]),
        "each_found_row": np.array([3, 4]),
        "each_found_box": np.array([[0, 0, 9, 9], [0, 0, 9, 9]], np.float32),
        "each_found_score": np.array([0.9, 0.9]),
        "each_found_label": np.array([0, 0]),
        "each_true_row": np.array([3, 6, 6]),
        "each_true_box": np.array([[0, 0, 9, 9]] * 3, np.float32),
        "each_true_label": np.array([0, 0, 1]),
        "each_true_ignored": np.zeros(3, bool),
        "loss_sum": np.ones(1),
        "loss_count": np.ones(1),
    }
    assert task.worst(seen).tolist() == [6, 4, 3]
    assert task.caption(seen, 6) == "0 of 2 found (green), 2 missed (orange), 0 wrong (red)"
    assert task.caption(seen, 4) == "0 of 0 found (green), 0 missed (orange), 1 wrong (red)"
    task.calibrate(seen)
    assert task.threshold == pytest.approx(0.9)


def test_drawn_answers_show_right_wrong_and_missed():
    from neocog.tasks.found import Detections

    picture = np.zeros((40, 400, 3), np.uint8)
    corners = np.array([[10, 10, 60, 36], [100, 10, 160, 36], [200, 2, 220, 20]], np.float32)
    answer = Detections("x", NAMES, corners, np.array([0.9, 0.8, 0.1]), np.array([0, 1, 0]), 0.5)
    truth = boxes_of((0, 0, 10, 10, 60, 36), (1, 0, 300, 10, 360, 30))
    drawn = answer.draw(picture, truth)
    assert drawn.shape == (40, 400, 3)
    green, red, orange = (40, 200, 80), (235, 50, 50), (255, 150, 20)
    assert tuple(drawn[25, 10]) == green and tuple(drawn[25, 100]) == red
    dashes = (drawn[10, 300:361] == orange).all(-1)
    assert dashes.any() and not dashes.all()
    assert not drawn[:, 200:221].any()  # doubtful: not drawn
    assert answer.text() == f"{NAMES[0]} 0.90, {NAMES[1]} 0.80"
    many = Detections("x", NAMES, np.zeros((6, 4), np.float32), np.full(6, 0.9), np.array([1, 0, 1, 1, 1, 0]), 0.5)
    assert many.text() == f"6 boxes: 4 {NAMES[1]}, 2 {NAMES[0]}" and Detections("x", NAMES).text() == "nothing found"
    plain = answer.draw(picture[:, :, 0])
    assert plain.any() and not (plain == orange).all(-1).any()
    assert answer.draw(np.zeros((20, 10, 3), np.uint8)).shape == (320, 160, 3)  # enlarged, to be read


def test_one_stage_losses_do_not_depend_on_padding():
    task = Detect(NAMES)
    net = build_net(
        Detect(NAMES, width=16, depth=1), {"name": "cifar_resnet20", "classes": 10, "in_channels": 3}
    ).eval()
    sets = [boxes_of((1, 0, 4, 4, 24, 30)), boxes_of()]
    valid = torch.ones(2, dtype=torch.bool)
    made = task.collate({"boxes": sets}, half(2), valid)
    with torch.no_grad():
        outputs = net(torch.rand(2, 3, 32, 32))
    wide = [torch.cat((made["boxes"], torch.zeros(2, 3, 4)), 1), torch.cat((made["labels"], torch.full((2, 3), -1)), 1)]
    short, _ = one_stage_losses(outputs, made["boxes"], made["labels"], valid)
    long, _ = one_stage_losses(outputs, *wide, valid)
    assert {k: float(v) for k, v in short.items()} == {k: float(v) for k, v in long.items()}


# ---------------------------------------------------------------- a training


def small_training(head, out):
    return neocog.train(
        "drawn:n=30,size=32",
        task="detect",
        net="cifar_resnet20",
        task_options={"head": head, "width": 16, "depth": 1},
        epochs=1,
        out=out,
        device="cpu",
        save_every=0.0,
        progress=False,
        diagnosis=False,
    )


@pytest.fixture(scope="module", params=["one", "two"])
def run(request, tmp_path_factory):
    """A run, and beside it what a kill after its first step leaves."""
    folder = tmp_path_factory.mktemp("runs")
    with first_checkpoint_in(folder / "part"):
        return small_training(request.param, folder / request.param)


def test_a_training_that_was_cut_off_ends_in_the_same_bits(run):
    """Samples of the two-stage head are drawn by the step's own seed."""
    part = run.folder.parent / "part"
    assert not (part / "weights.safetensors").exists()
    again = neocog.resume(part, progress=False)
    whole, resumed = run.net().state_dict(), again.net().state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert str(again.metrics) == str(run.metrics)


def test_a_training_leaves_figures_answers_and_a_report(run):
    for name in ("test_map", "test_ap50", "val_map", "val_voc_ap", "test_loss"):
        assert np.isfinite(run.metrics[name]), name
    assert run.task.name == "detect" and run.classes == open_source("drawn:n=1,size=32").columns["boxes"].names
    source = open_source("drawn:n=2,size=48,seed=5")
    answers = run.predict([source.read(i) for i in range(2)] + [b"no picture"])
    assert answers[2].problem and answers[2].boxes() == []
    for answer in answers[:2]:
        assert len(answer.scores) <= 100 and (np.diff(answer.scores) <= 0).all()
        assert answer.corners.min(initial=0) >= 0 and answer.corners.max(initial=0) <= 48
    page = run.report.read_text()
    assert "Kinds of errors" in page and "AP50" in page and "badly placed" in page
    assert (run.folder / "examples" / "0.jpg").exists()


def test_the_task_is_found_and_guessed():
    assert find("detect") is Detect
    assert guess(Made([boxes_of((0, 0, 1, 1, 9, 9)), boxes_of()])) == "detect"
    assert (guess(drawn_source(40, 32)), guess(drawn_source(4, 32, task="tags"))) == ("label", "tags")


@pytest.mark.parametrize("task", ["detect", "locate"])
def test_boxes_outside_of_the_pictures_are_refused_or_told(task):
    far, near = np.array([[40.0, 40, 60, 60]] * 4), np.array([[4.0, 4, 16, 16]] * 4)

    def plan(corners):
        boxes = Boxes(np.arange(len(corners) + 1), corners, np.zeros(len(corners), int), ["thing"])
        made = Arrays([np.zeros((32, 32, 3), np.uint8)] * len(corners), name="boxed", columns={"boxes": boxes})
        return find(task).plan(made, np.arange(len(corners)), find(task).options)

    with pytest.raises(DataError, match="all 4 places in boxes of boxed that were looked at are outside"):
        plan(far)
    with pytest.raises(DataError, match="outside of the pictures or empty"):
        plan(near[:, [2, 3, 0, 1]])  # the wrong way round
    assert "50% of the boxes are outside" in plan(np.concatenate((far, near))).notes[0]
    assert not plan(near).notes
