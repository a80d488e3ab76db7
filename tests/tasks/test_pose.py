"""The task pose: decoding, losses and figures against closed forms, flips, and what does not count."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from neocog import fit
from neocog.data.batches import Batch, Known, in_order
from neocog.data.kinds import Points
from neocog.data.pictures import Streamed
from neocog.data.source import Arrays
from neocog.data.warp import Warp
from neocog.errors import UsageError
from neocog.fit.run import records
from neocog.records import Preprocess
from neocog.tasks.keypoints import ANSWER, COCO, COCO_SIGMAS, TRUTH, Keypoints, skeleton
from neocog.tasks.pose import Pose, decoded, divergence, gaussian, wing

NAMES = ("nose", "left_eye", "right_eye")
SIZE = (32, 48)  # height and width of the input in most tests


def warp(count: int, *, mirrored: bool = False, scale: float = 1.0, left: float = 0.0) -> Warp:
    matrix = torch.eye(2, 3, dtype=torch.float64).repeat(count, 1, 1) * scale
    matrix[:, 0, 2] = left
    if mirrored:
        matrix[:, 0, 0] *= -1
        matrix[:, 0, 2] = SIZE[1] - left
    return Warp(matrix, torch.tensor([SIZE] * count), SIZE)


def batch_of(task: Pose, points: np.ndarray, where: Warp, valid: Tensor | None = None) -> Batch:
    good = torch.ones(len(points), dtype=torch.bool) if valid is None else valid
    targets = task.collate({"points": list(points)}, where, good)
    x = torch.zeros(len(points), 3, *SIZE)
    return Batch((x,), targets, torch.arange(len(points)), good, where)


def perfect(task: Pose, points: Tensor) -> Tensor:
    """What a net would put out that knows the points (B, P, 3), in pixels of the input."""
    if task.method == "regression":
        return points[..., :2] / torch.tensor([SIZE[1], SIZE[0]])
    rows, columns = SIZE[0] // 4, SIZE[1] // 4
    across = gaussian(points[..., 0] / 4, columns, task.sigma)
    down = gaussian(points[..., 1] / 4, rows, task.sigma)
    return (down[..., None] * across[..., None, :]).clamp(min=1e-30).log()


def some(count: int, seed: int = 0, names: int = 3) -> np.ndarray:
    made = np.random.default_rng(seed).uniform(4, [SIZE[1] - 4, SIZE[0] - 4], (count, names, 2))
    return np.concatenate((made, np.full((count, names, 1), 2)), 2).astype(np.float32)


@pytest.mark.parametrize("sigma", [0.8, 1.0, 2.0])
def test_a_point_is_read_finer_than_a_cell(sigma: float) -> None:
    g = torch.Generator().manual_seed(0)
    x, y = 32 * torch.rand(1, 400, generator=g), 32 * torch.rand(1, 400, generator=g)  # up to the edges
    maps = gaussian(y, 32, sigma)[..., None] * gaussian(x, 32, sigma)[..., None, :]
    found_x, found_y, confidence = decoded(maps.log(), sigma)
    assert (found_x - x).abs().max() < 0.02 and (found_y - y).abs().max() < 0.02
    assert confidence.min() > 0.97 and confidence.max() <= 1.0001
    assert (found_x - found_x.round()).abs().mean() > 0.1  # cells alone would give no such places


def test_a_second_place_does_not_move_the_answer_but_lowers_its_confidence() -> None:
    one = gaussian(torch.tensor([[8.3]]), 32, 1.0)
    other = gaussian(torch.tensor([[25.0]]), 32, 1.0)
    maps = one[..., None] * (0.7 * one + 0.3 * other)[..., None, :]
    x, _, confidence = decoded(maps.clamp(min=1e-30).log(), 1.0)
    assert x.item() == pytest.approx(8.3, abs=0.02) and confidence.item() == pytest.approx(0.7, abs=0.01)


def test_the_divergence_is_that_of_the_definition() -> None:
    torch.manual_seed(0)
    logits, across = torch.randn(2, 3, 5, 7), torch.rand(2, 3, 7).softmax(-1)
    down = torch.rand(2, 3, 5).softmax(-1)
    target = down[..., None] * across[..., None, :]
    log_p = logits.flatten(2).log_softmax(-1).view_as(logits)
    torch.testing.assert_close(divergence(logits, across, down), (target * (target.log() - log_p)).sum((-2, -1)))
    torch.testing.assert_close(divergence(target.log(), across, down), torch.zeros(2, 3), atol=1e-5, rtol=0)


def test_wing_is_the_published_formula() -> None:
    e = torch.tensor([0.0, -2.0, 9.9999, 10.0001, 30.0])
    join = 10 * math.log(6)
    expected = torch.tensor([0.0, 10 * math.log(2), join, join, join + 20])
    torch.testing.assert_close(wing(e), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("method", ["heatmap", "regression"])
def test_points_that_are_not_known_count_for_nothing(method: str) -> None:
    task, points = Pose(NAMES, method=method), some(4)
    points[1, 2] = 0
    points[3, 0, :2] = 900  # beyond the picture: not known in the input
    batch = batch_of(task, points, warp(4), torch.tensor([True, True, False, True]))
    torch.manual_seed(0)
    outputs = torch.randn(4, 3, 8, 12) if method == "heatmap" else torch.rand(4, 3, 2)
    outputs.requires_grad_()
    found = task.losses(outputs, batch)
    assert found.count == 7
    found.total.backward()
    moved = outputs.grad.flatten(2).abs().sum(-1) > 0  # type: ignore[union-attr]
    assert moved.tolist() == [[True] * 3, [True, True, False], [False] * 3, [False, True, True]]
    alone = task.losses(outputs[:2], batch.part(slice(0, 2)))
    rest = task.losses(outputs[2:], batch.part(slice(2, 4)))
    torch.testing.assert_close(found.total * 7, alone.total * 5 + rest.total * 2)


@pytest.mark.parametrize("method", ["heatmap", "regression"])
def test_a_mirror_image_has_the_partners_points_and_its_answer_is_turned_back(method: str) -> None:
    task, points = Pose(NAMES, method=method), some(2)
    assert task.swap == (0, 2, 1)
    plain, turned = batch_of(task, points, warp(2)), batch_of(task, points, warp(2, mirrored=True))
    left = turned.targets["points"][:, 1]  # where the net must see the left eye: what was the right one
    torch.testing.assert_close(left[:, 0], SIZE[1] - torch.from_numpy(points[:, 2, 0]))
    torch.testing.assert_close(left[:, 1], torch.from_numpy(points[:, 2, 1]))
    back = task.unmirrored(perfect(task, turned.targets["points"]))
    torch.testing.assert_close(back, perfect(task, plain.targets["points"]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(turned.targets["truth"], torch.from_numpy(points))


@pytest.mark.parametrize("method", ["heatmap", "regression"])
def test_answers_and_errors_are_in_pixels_of_the_file(method: str) -> None:
    task, points = Pose(NAMES, method=method), some(3)
    batch = batch_of(task, points / np.array([2, 2, 1], np.float32), warp(3, scale=2.0))
    outputs = perfect(task, torch.from_numpy(points))
    for answer, truth in zip(task.answers(outputs, batch, "abc"), points / 2, strict=True):
        assert isinstance(answer, Keypoints)
        assert np.abs(answer.points[:, :2] - truth[:, :2]).max() < 0.1
    seen = task.observe(outputs, batch)
    assert seen["error"].max() < 0.1
    shifted = batch_of(task, (points + np.array([6, 8, 0])) / np.array([2, 2, 1]), warp(3, scale=2.0))
    assert task.observe(outputs, shifted)["error"] == pytest.approx(5.0, abs=0.1)  # 10 pixels of the input


def seen_of(task: Pose, truth: np.ndarray, error: np.ndarray) -> dict[str, np.ndarray]:
    scales = np.array([task._scales(one) for one in truth])
    error = np.where(truth[..., 2] > 0, error, np.nan)
    return {
        "rows": np.arange(len(truth)),
        "error": error,
        **{name: scales[:, k] for k, name in enumerate(("scale", "side", "area", "head"))},
        "loss_sum": np.array([6.0, 3.0]),
    }


def test_the_error_of_a_face_is_a_share_of_the_distance_of_its_eyes() -> None:
    task = Pose([str(k) for k in range(68)])
    truth = np.zeros((3, 68, 3))
    truth[..., 2] = 2
    truth[:, 45, 0] = 100  # the eyes' outer corners are points 36 and 45
    truth[:, 8, 1] = 400
    truth[2, 36, 2] = 0  # no eye, no scale
    error = np.array([5.0, 9.0, 1.0])[:, None] * np.ones((3, 68))
    figures = task.figures(seen_of(task, truth, error))
    assert task.norm == "eyes" and task.to_json()["norm"] == "eyes"
    assert figures["n"] == 2 and figures["nme"] == pytest.approx(0.07) and figures["loss"] == 2.0
    assert figures["failures_08"] == 0.5 and figures["failures_10"] == 0.0
    assert "eyes' outer corners" in task.headline(figures)
    assert task.worst(seen_of(task, truth, error)).tolist() == [1, 0]


def test_other_points_are_measured_by_their_box() -> None:
    task = Pose(NAMES)
    truth = np.array([[[0, 0, 2], [30, 40, 2], [0, 0, 0]]] * 2, dtype=float)  # diagonal 50, longer side 40
    error = np.array([[3.0, 5.0, 99.0], [7.0, 9.0, 99.0]])
    figures = task.figures(seen_of(task, truth, error))
    assert figures["nme"] == pytest.approx((4 + 8) / 2 / 50)
    assert figures["pck_10"] == pytest.approx(0.25) and figures["pck_20"] == pytest.approx(0.75)  # below 4, below 8
    assert figures["per_point"]["left_eye"] == pytest.approx(7 / 50) and math.isnan(figures["per_point"]["right_eye"])
    assert "oks" not in figures and "pckh_50" not in figures
    sections = task.sections(seen_of(task, truth, error), figures)
    text = "".join(str(one.body) for one in sections)
    assert text.index("left_eye") < text.index("nose") < text.index("right_eye") and "diagonal" in text


def test_coco_points_have_oks_and_heads_have_pckh() -> None:
    task = Pose(COCO)
    truth = np.full((1, 17, 3), 2.0)
    truth[0, :, 0], truth[0, :, 1] = np.linspace(0, 100, 17), np.linspace(0, 50, 17)
    error = np.full((1, 17), 6.0)
    expected = np.mean([math.exp(-36 / (2 * 5000 * (2 * s) ** 2)) for s in COCO_SIGMAS])
    assert task.figures(seen_of(task, truth, error))["oks"] == pytest.approx(expected)
    task = Pose(("head top", "neck", "pelvis"))
    truth = np.array([[[0, 0, 2], [0, 20, 2], [0, 90, 2]]], dtype=float)
    assert task.figures(seen_of(task, truth, np.array([[9.0, 11.0, 1.0]])))["pckh_50"] == pytest.approx(2 / 3)


def test_partners_are_found_by_name_and_for_faces_by_number() -> None:
    face = skeleton([str(k) for k in range(68)])
    assert all(face.swap[face.swap[k]] == k for k in range(68))
    assert (face.swap[0], face.swap[36], face.swap[8], face.swap[48], face.swap[17]) == (16, 45, 8, 54, 26)
    assert {tuple(sorted((face.swap[a], face.swap[b]))) for a, b in face.lines} == {
        tuple(sorted(line)) for line in face.lines
    }
    assert skeleton(COCO).swap[:3] == (0, 2, 1) and len(skeleton(COCO).lines) == 19
    assert skeleton(("l_knee", "r_knee", "hip")).swap == (1, 0, 2)
    assert skeleton(NAMES, (1, 0, 2)).swap == (1, 0, 2)  # what the data say


def test_a_drawing_shows_answer_and_truth() -> None:
    answer = Keypoints("a", ("p", "q"), np.array([[20, 20, 1], [60, 20, 1]], np.float32), ((0, 1),))
    truth = np.array([[20, 60, 2], [0, 0, 0]], np.float32)
    made = answer.draw(np.zeros((80, 80, 3), np.uint8), truth)
    times = made.shape[0] // 80
    assert made.shape == (80 * times, 80 * times, 3) and times >= 4
    assert tuple(made[20 * times, 20 * times]) == ANSWER and tuple(made[60 * times, 20 * times]) == TRUTH
    assert made[20 * times, 40 * times].any() and made[40 * times, 20 * times].any()  # the lines
    assert not made[:times, :times].any()  # a point that is not known is not drawn
    assert answer.draw(np.zeros((8, 8), np.uint8)).ndim == 3


def test_answers_are_annotations_of_coco() -> None:
    answer = Keypoints("a", ("p", "q"), np.array([[20.004, 2, 1], [6, 9, 0.5]], np.float32))
    assert answer.coco(7) == [
        {"image_id": 7, "category_id": 1, "keypoints": [20, 2, 2, 6, 9, 2], "num_keypoints": 2, "score": 0.75}
    ]
    assert Keypoints("a", problem="gone").coco(7) == []
    assert Pose(COCO).categories()[0]["skeleton"][0] == [16, 14]


def test_pictures_with_points_that_are_not_known_are_validated(tmp_path: Any) -> None:
    points = some(40)
    points[::2, 1] = 0
    source = Arrays(
        [np.full((32, 48, 3), 5 * k, np.uint8) for k in range(40)], columns={"points": Points(points, NAMES)}
    )
    run = fit.train(
        source, task="pose", net="lenet5", size=32, epochs=1, out=tmp_path / "run", progress=False, device="cpu",
        diagnosis=False, task_options={"width": 8}, set={"min_steps": 1},
    )  # fmt: skip
    assert all(math.isfinite(record["val_nme"]) for record in records(run.folder, "epoch"))


def test_wrong_options_are_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown method 'heat'.*heatmap, regression"):
        Pose(NAMES, method="heat")
    with pytest.raises(UsageError, match="sigma above 0"):
        Pose(NAMES, sigma=0)


def test_regression_trains_and_says_how_far_it_can_be_trusted(tmp_path: Any) -> None:
    run = fit.train(
        "drawn:n=60,size=32", task="pose", net="lenet5", size=32, epochs=2, out=tmp_path / "run", progress=False,
        device="cpu", diagnosis=False, task_options={"method": "regression", "width": 16}, set={"min_steps": 1},
    )  # fmt: skip
    assert 0 < run.metrics["test_nme"] < 5 and 0 <= run.metrics["test_pck_20"] <= 1
    answer = run.predict([np.zeros((40, 30, 3), np.uint8)])[0]
    task: Any = run.task
    assert answer.points[:, 2] == pytest.approx(np.array(task.trust), abs=1e-4) and len(task.trust) == 5
    assert set(answer.row()) >= {"centre_x", "centre_y", "centre_confidence"}
    assert (
        run.folder / "examples" / "0.jpg"
    ).is_file() and "How many pictures have which error" in run.report.read_text()


def test_whole_pictures_of_any_shape_go_in_and_come_back() -> None:
    points = some(2)
    source = Arrays([np.zeros((60, 100, 3), np.uint8)] * 2, columns={"points": Points(points, NAMES)})
    task = Pose.plan(source, np.arange(2), {})
    known = Known(source.columns, task.collate, True)
    shown = Streamed(source, np.arange(2), Preprocess(32, 32, fit="pad", shape=(32, 48)))
    batch = next(iter(in_order(shown, 2, torch.device("cpu"), known=known)))
    seen = task.observe(perfect(task, batch.targets["points"]), batch)
    assert seen["error"].max() < 0.3  # pixels of the file: there are 100 across 48 of the input
