"""Numbers: losses in closed form, angles, ordinal answers, figures as scikit-learn has them, intervals that hold."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from neocog.data.batches import Batch
from neocog.data.kinds import Numbers
from neocog.data.source import Source
from neocog.errors import DataError, UsageError
from neocog.fit.choices import _by_task
from neocog.tasks.canvas import PLAIN, captioned
from neocog.tasks.measured import Measured
from neocog.tasks.measures import conformal
from neocog.tasks.number import HELD, LOSSES, Number

NAN = math.nan


def source_of(values: Any, periods: Any = (), names: str = "") -> Source:
    values = np.asarray(values, np.float64)
    values = values.reshape(len(values), -1)
    n = len(values)
    source = Source("made", (), np.full(n, -1), np.full(n, -1))
    source.columns = {"numbers": Numbers(values, tuple(names or "xyz"[: values.shape[1]]), periods)}
    return source


def planned(values: Any, periods: Any = (), **settings: Any) -> Number:
    return Number.plan(source_of(values, periods), np.arange(len(values)), settings)


def batch_of(task: Number, values: Any) -> Batch:
    valid = torch.ones(len(values), dtype=torch.bool)
    rows = [None if np.isnan(row).all() else row for row in np.asarray(values, np.float64).reshape(len(values), -1)]
    return Batch((), task.collate({"numbers": rows}, None, valid), torch.arange(len(values)), valid)


def seen_of(task: Number, outputs: Any, values: Any) -> dict[str, np.ndarray]:
    made = task.observe(torch.as_tensor(outputs, dtype=torch.float32), batch_of(task, values))
    return {k: np.asarray(v) for k, v in made.items()}


def answers(task: Number, outputs: Any) -> list[Measured]:
    made = torch.as_tensor(outputs, dtype=torch.float32)
    batch = Batch((), {}, torch.arange(len(made)), torch.ones(len(made), dtype=torch.bool))
    return task.answers(made, batch, [str(i) for i in range(len(made))])  # type: ignore[return-value]


# ---- losses


def test_the_losses_in_closed_form() -> None:
    values = [0.0, 2.0]  # mean 1, deviation 1: targets are -1 and 1
    far = [0.5, 3.0]
    outputs = torch.tensor([[-0.5], [4.0]])
    wanted = {
        "squared": sum(0.5 * v * v for v in far) / 2,
        "absolute": sum(far) / 2,
        "huber": (0.5 * far[0] ** 2 + far[1] - 0.5) / 2,
    }
    for loss, value in wanted.items():
        task = planned(values, loss=loss)
        found = task.losses(outputs, batch_of(task, values))
        assert found.total.item() == pytest.approx(value) and found.count == 2


@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_not_known_counts_for_nothing(loss: str) -> None:
    values = np.array([[1.0, 20], [2, NAN], [NAN, NAN], [4, 50]])
    task = planned(values, (None, 360), loss=loss)
    outputs = torch.randn(4, task.outputs, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = task.losses(outputs, batch_of(task, values))
    found.total.backward()
    assert found.count == 2.5 and (outputs.grad[2] == 0).all() and (outputs.grad[1, -2:] == 0).all()
    assert (outputs.grad[[0, 3]] != 0).all()
    figures = task.figures(seen_of(task, outputs.detach(), values))
    assert figures["loss"] == pytest.approx(found.total.item(), rel=1e-5)


def test_a_batch_of_which_nothing_is_known_has_a_loss_of_nothing() -> None:
    task = planned([1.0, 2.0])
    outputs = torch.ones(2, 1, requires_grad=True)
    found = task.losses(outputs, batch_of(task, [NAN, NAN]))
    found.total.backward()
    assert found.total == 0 and found.count == 0 and (outputs.grad == 0).all()


# ---- answers of each kind


def test_answers_are_in_the_units_of_the_number() -> None:
    values = [10.0, 20, 30, 40]
    task = planned(values)
    targets = batch_of(task, values).targets["numbers"]
    assert [a.value for a in answers(task, targets)] == pytest.approx(values)
    assert answers(task, [[0.0]])[0].value == pytest.approx(25)  # a net that says nothing says the mean


def test_large_numbers_keep_their_differences() -> None:
    values = 1.7e9 + np.arange(8.0)  # seconds since 1970; float32 knows only every 128th
    task = planned(values)
    seen = seen_of(task, batch_of(task, values).targets["numbers"], values)
    assert task.figures(seen)["mae"] < 1e-3


def test_an_angle_is_the_same_after_a_turn() -> None:
    task = planned([10.0, 350, 90, 270], (360.0,))
    assert task.outputs == 2
    turn = np.deg2rad([350.0, 10, 359])
    outputs = 3 * np.stack((np.cos(turn), np.sin(turn)), 1)  # the length does not matter
    assert [a.value for a in answers(task, outputs)] == pytest.approx([350, 10, 359], abs=1e-3)
    figures = task.figures(seen_of(task, outputs, [10.0, 370, -1]))
    assert figures["mae"] == pytest.approx(20 / 3, abs=1e-3)
    for loss in ("squared", "absolute", "huber"):
        same = planned([10.0, 350, 90, 270], (360.0,), loss=loss)
        exact = torch.tensor(outputs / 3, dtype=torch.float32)
        assert same.losses(exact, batch_of(same, [350.0, 370, -361])).total.item() == pytest.approx(0, abs=1e-3)


def test_intervals_of_an_angle_go_around_it() -> None:
    task = planned([10.0, 350, 90, 270], (360.0,))
    task.half = (30.0,)
    ((low, high),) = answers(task, [[1.0, 0.0]])[0].intervals  # type: ignore[misc]
    assert (low, high) == pytest.approx((330, 30))
    task.half = (200.0,)
    assert answers(task, [[1.0, 0.0]])[0].intervals == ((0.0, 360.0),)


def test_pictures_with_angles_are_not_mirrored() -> None:
    assert not _by_task(source_of([1.0, 2], (360.0,), "a"), Number).allowed
    assert _by_task(source_of([1.0, 2], (), "a"), Number).allowed


def test_ordinal_answers_are_values_that_were_seen() -> None:
    values = [1.0, 2, 2, 5]
    task = planned(values, loss="ordinal")
    assert task.outputs == 2  # larger than 1? larger than 2?
    assert [a.value for a in answers(task, [[-1.0, -1], [3, -1], [3, 2]])] == [1, 2, 5]
    outputs = torch.tensor([[0.4, -0.2]] * 4)
    p = [1 / (1 + math.exp(-v)) for v in (0.4, -0.2)]
    wanted = [-math.log(1 - p[0]) - math.log(1 - p[1]), *[-math.log(p[0]) - math.log(1 - p[1])] * 2]
    wanted.append(-math.log(p[0]) - math.log(p[1]))
    assert task.losses(outputs, batch_of(task, values)).total.item() == pytest.approx(sum(wanted) / 4, rel=1e-5)
    with pytest.raises(UsageError, match="whole numbers"):
        planned([1.0, 2.5], loss="ordinal")


@pytest.mark.parametrize("loss", LOSSES)
def test_json_gives_the_task_back(loss: str) -> None:
    values = np.array([[1.0, 20], [2, 30], [3, 40], [4, 50]])
    task = planned(values, (None, 360), loss=loss)
    task.half = (1.5, None)
    again = Number.from_json(json.loads(json.dumps(task.to_json())))
    outputs = np.random.default_rng(0).normal(size=(4, task.outputs))
    assert [a.to_json() for a in answers(task, outputs)] == [a.to_json() for a in answers(again, outputs)]
    assert again.to_json() == task.to_json()


def test_numbers_that_tell_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="'x' of made is always 3"):
        planned([3.0, 3.0])
    with pytest.raises(DataError, match="'y' of made is never known"):
        planned([[1.0, NAN], [2.0, NAN]])
    with pytest.raises(UsageError, match="expected one of squared, absolute, huber, ordinal"):
        planned([1.0, 2.0], loss="l2")


# ---- figures


def test_figures_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(40, 12, (50, 2)) * (1, 100)
    task = planned(truth)
    outputs = (truth + rng.normal(0, 5, (50, 2)) - task.mean) / task.deviation
    found = outputs * task.deviation + task.mean
    figures = task.figures(seen_of(task, outputs, truth))
    assert not {"mae", "rmse"} & figures.keys()  # of numbers in two units
    for k, name in enumerate("xy"):
        row = figures["per_number"][name]
        assert row["mae"] == pytest.approx(mean_absolute_error(truth[:, k], found[:, k]), rel=1e-4)
        assert row["rmse"] == pytest.approx(root_mean_squared_error(truth[:, k], found[:, k]), rel=1e-4)
        assert row["r2"] == pytest.approx(r2_score(truth[:, k], found[:, k]), abs=1e-4)
        median = np.median(truth[:, k])
        assert row["relative_mae"] == pytest.approx(row["mae"] / np.abs(truth[:, k] - median).mean(), rel=1e-4)
    assert figures["r2"] == pytest.approx(np.mean([row["r2"] for row in figures["per_number"].values()]))
    assert task.goal == ("relative_mae", "min") and planned(truth[:, :1]).goal == ("mae", "min")


def test_always_answering_the_median_has_a_relative_error_of_one() -> None:
    for periods, values in ((), np.arange(11.0) ** 2), ((360.0,), np.linspace(-80, 80, 11)):
        task = planned(values, periods)
        constant = [[1.0, 0.0]] * 11 if periods else [[(25.0 - task.mean[0]) / task.deviation[0]]] * 11
        assert task.figures(seen_of(task, constant, values))["relative_mae"] == pytest.approx(1, rel=1e-4)


# ---- intervals


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_of_any_errors_at_least_nine_in_ten_are_inside_in_their_turn(errors: list[float], random: Any) -> None:
    """Each error is judged by the interval of the others: exchangeable ones are inside nine times out of ten."""
    inside = 0
    for k in range(len(errors)):
        half = conformal(np.array(errors[:k] + errors[k + 1 :]), HELD)
        inside += half is None or errors[k] <= half
    assert inside >= math.floor(0.9 * len(errors))


def test_intervals_hold_on_pictures_that_did_not_choose_them() -> None:
    rng = np.random.default_rng(5)
    truth = rng.normal(0, 10, 4000)
    task = planned(truth)
    outputs = ((truth + rng.standard_t(3, 4000) - task.mean) / task.deviation)[:, None]
    task.calibrate(seen_of(task, outputs[:500], truth[:500]))
    figures = task.figures(seen_of(task, outputs[500:], truth[500:]))
    assert 0.87 < figures["coverage"] < 0.93
    low, high = answers(task, outputs[:1])[0].intervals[0]  # type: ignore[misc]
    assert high - low == pytest.approx(2 * task.half[0])
    spans = np.array([a.intervals[0] for a in answers(task, outputs[500:])])
    held = (spans[:, 0] <= truth[500:]) & (truth[500:] <= spans[:, 1])
    assert np.mean(held) == pytest.approx(figures["coverage"], abs=1e-3)


def test_too_few_pictures_give_no_interval() -> None:
    assert conformal(np.arange(8.0), HELD) is None and conformal(np.arange(9.0), HELD) == 8
    task = planned([1.0, 2, 3])
    task.calibrate(seen_of(task, [[0.0]] * 3, [1.0, 2, 3]))
    assert task.half == (None,) and "coverage" not in task.figures(seen_of(task, [[0.0]] * 3, [1.0, 2, 3]))
    answer = answers(task, [[0.0]])[0]
    assert answer.row() == {"x": pytest.approx(2), "x_low": None, "x_high": None}


# ---- the rest


def test_strata_are_tenths_of_the_first_number() -> None:
    values = np.arange(200.0)[np.random.default_rng(0).permutation(200)]
    values[7] = NAN
    found = Number.strata(source_of(values))
    assert found is not None and found[7] == -1
    assert np.bincount(found[found >= 0]).tolist() == pytest.approx([20] * 10, abs=1)
    assert found[values == 0] == 0 and found[values == 199] == 9


def test_the_report_shows_worst_answers_and_a_scatter_plot() -> None:
    values = np.array([[1.0, 10], [2, NAN], [3, 30], [NAN, NAN]])
    task = planned(values)
    seen = seen_of(task, [[0.0, 0], [0, 0], [9, 0], [0, 0]], values)
    assert task.worst(seen)[0] == 2 and task.worst(seen)[-1] in (1, 3)
    assert "(x)" in task.caption(seen, 1) and "(y)" not in task.caption(seen, 1)
    numbers, scatter = task.sections(seen, task.figures(seen))
    assert "R2" in numbers.body and scatter.body.count("<svg") == 2 and scatter.body.count("<circle") == 5
    answer = Measured("a", ("x", "y"), (1.0, 10.0), ((0.0, 2.0), None))
    picture = np.zeros((32, 32), np.uint8)
    assert answer.draw(picture, np.array([1.5, NAN])).shape[0] > 256


def test_words_that_are_wider_than_the_picture_are_broken() -> None:
    drawn = captioned(np.zeros((256, 180, 3), np.uint8), [("eye_distance 19.91 (12.13 to 27.68) years", PLAIN)])
    one = captioned(np.zeros((256, 180, 3), np.uint8), [("eye", PLAIN)])
    assert len(drawn) > len(one)
    assert (drawn[256:, -4:] == drawn[-1, -1]).all()  # nothing is cut off at the right
