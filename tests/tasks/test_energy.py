"""Energies: the nearest place of the curve against a search, the loss in closed form, what is found and refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neocog import fit
from neocog.data import open_source
from neocog.data.batches import Batch
from neocog.data.drawn_scene import make_scene
from neocog.data.kinds import Numbers
from neocog.data.source import Source
from neocog.tasks.energy import Energy
from neocog.tasks.task import load, saved

NAN = math.nan


def planned(values: Any, periods: tuple[float | None, ...] = (360.0,)) -> Energy:
    values = np.asarray(values, np.float64).reshape(len(values), -1)
    source = Source("made", (), np.full(len(values), -1), np.full(len(values), -1))
    source.columns = {"numbers": Numbers(values, "xyz"[: values.shape[1]], periods)}
    return Energy.plan(source, np.arange(len(values)), {})


def batch_of(task: Energy, values: Any) -> Batch:
    rows = [None if np.isnan(row).all() else row for row in np.asarray(values, np.float64).reshape(len(values), -1)]
    valid = torch.ones(len(rows), dtype=torch.bool)
    return Batch((), task.collate({"numbers": rows}, None, valid), torch.arange(len(rows)), valid)


def at(degrees: Any) -> torch.Tensor:
    """The places of angles on the circle, (N, 3)."""
    places = torch.tensor([-60.0, 0.0, 60.0], dtype=torch.float64)
    return torch.deg2rad(torch.as_tensor(degrees, dtype=torch.float64)[:, None] - places).cos()


@pytest.mark.parametrize("period", [360.0, None])
def test_the_nearest_place_is_that_of_a_search_over_the_whole_curve(period: float | None) -> None:
    task = planned([10, 100, 200, 300], (period,))
    outputs = 2 * torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    reach = 180 if period else 90
    grid = torch.arange(-reach, reach + 0.005, 0.01, dtype=torch.float64)
    far = torch.cdist(outputs, at(grid))
    assert torch.allclose(task.energy(outputs), far.min(1).values, atol=1e-6)
    off = (torch.rad2deg(task.nearest(outputs)[:, 0]) - grid[far.argmin(1)] + 180) % 360 - 180
    assert off.abs().max() < 0.011


def test_the_loss_is_the_square_for_things_and_falls_with_the_energy_of_all_else() -> None:
    task = planned([30, 90, 200, NAN])
    assert task.share == 0.75 and task.notes[0].startswith("1 picture of 4 to learn from has no number")
    assert "add pictures of other things" in planned([30, 90]).notes[0]
    outputs = at([30, 90, 0, 0]).float() + torch.tensor([[0.0, 0, 0], [3, 0, 4], [0, 0, 0], [0, 0, 0]])
    values = [30, 90, 180, NAN]
    found = task.losses(outputs, batch_of(task, values))
    assert found.total.item() == pytest.approx((2 / 3 * (0 + 25 + 4 * 1.5) + 2 * 1) / 4, rel=1e-4)
    unread = batch_of(task, values)
    unread.valid[3] = False  # a picture that cannot be read is no picture without the thing
    assert task.losses(outputs, unread).total.item() == pytest.approx(2 / 3 * 31 / 3, rel=1e-4)


def test_figures_and_answers_of_a_known_case(tmp_path: Path) -> None:
    task = planned([0, 90, 180, 270, NAN, NAN])
    outputs = at([10, 90, 90, 350, 0, 0]).float()
    outputs[4] *= 0.5  # energy 0.61
    outputs[5] *= 0.9  # energy 0.12: as if it were the thing
    seen = {k: np.asarray(v) for k, v in task.observe(outputs, batch_of(task, [0, 90, 180, 355, NAN, NAN])).items()}
    figures = task.figures(seen)
    assert figures["auc"] == 1.0 and figures["within_15_degrees"] == 0.75
    task.threshold = 0.2
    figures = task.figures(seen)
    assert (figures["found"], figures["refused"]) == (1.0, 0.5)
    assert figures["right"] == pytest.approx((0.75 + 0.5) / 2) and figures["mae"] == pytest.approx(
        (10 + 0 + 90 + 5) / 4
    )
    assert task.worst(seen)[:2].tolist() == [2, 5]
    again = load(saved(task))
    one, _, _, _, other, _ = again.answers(outputs, batch_of(task, [NAN] * 6), list("abcdef"))
    assert one.row()["found"] and one.row()["x"] == pytest.approx(10, abs=1e-3)
    assert other.row() == {
        "found": False,
        "energy": pytest.approx(0.5 * 1.5**0.5),
        "x": None,
        "x_low": None,
        "x_high": None,
    }
    assert other.to_json()["numbers"] is None
    assert other.draw(np.zeros((20, 20, 3), np.uint8)).shape[0] > 20


def turned(n: int, *shapes: str) -> Source:
    """Drawn pictures with the angle of the largest shape, if it is one of `shapes`."""
    source = open_source(f"drawn:n={n},size=32")
    angles = [float(make_scene(0, i).objects[0].turn) for i in range(n)]
    there = np.isin(source.labels, [source.classes.index(shape) for shape in shapes])
    source.columns = {"numbers": Numbers(np.where(there, angles, NAN), ("angle",), (360,))}  # type: ignore[misc]
    return source


def test_a_training_learns_both(tmp_path: Path) -> None:
    how: dict[str, Any] = {"progress": False, "device": "cpu", "diagnosis": False, "set": {"min_steps": 1}}
    run = fit.train(turned(96, "heart", "crescent"), task="energy", net="lenet5", epochs=2, out=tmp_path / "r", **how)
    assert 0 < run.metrics["test_right"] < 1 and run.task.threshold > 0  # type: ignore[attr-defined]
    assert "do not show the thing" in run.report.read_text() or run.task.notes
