"""``--minutes`` is what the user waits: preparation and evaluation are subtracted, and said beforehand."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from neocog import fit
from neocog.fit import finish
from neocog.fit.evaluating import views
from neocog.fit.job import Job
from neocog.fit.parallel import World
from neocog.fit.run import records
from neocog.fit.schedules import Clock
from neocog.fit.state import CHECKPOINT


def pictures(n: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = np.arange(n) % 2
    return random.integers(0, 120, (n, 28, 28, 3), dtype=np.uint8) + (labels * 100).astype(np.uint8)[
        :, None, None, None
    ], labels


@pytest.mark.parametrize(
    ("minutes", "seconds", "said"),
    [
        (1, 30, "training takes 0.5 of 1 minute; the rest is for reading pictures and for evaluation"),
        (10, 570, "training takes 9.5 of 10 minutes; the rest"),
        (0.5, 7.5, "0.5 minutes is too short: preparation took 10 s, and evaluation will take about 20 s. "
         "Training gets 7.5 s anyway, so everything together will take about 38 s"),
    ],
)  # fmt: skip
def test_what_is_left_for_training(minutes: float, seconds: float, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "evaluation_seconds", lambda *given: 20.0 - finish._AROUND)
    monkeypatch.setattr("neocog.fit.finish.time.monotonic", lambda: 110.0)
    job: Any = SimpleNamespace(plan=SimpleNamespace(minutes=minutes), world=World(), begin=100.0)
    left, text = finish.seconds_to_train(job)
    assert left == pytest.approx(seconds) and text.startswith(said)


@pytest.mark.parametrize("tta", ["none", "flip", "shift"])
def test_the_estimate_is_of_what_evaluation_does(tta: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in pictures through the net, so that no clock is needed."""
    x = torch.zeros(1, 3, 8, 8)

    def each(*given: object, tta: str, mirror: bool = True) -> float:
        return len(list(views(x, tta, mirror)))

    done, estimated = [], []
    real, estimate = finish.observed, finish.evaluation_seconds

    def counted(net, task, split, device, *, tta="none", mirror=True, chosen=None, **how):  # type: ignore[no-untyped-def]
        done.append(each(tta=tta, mirror=mirror) * len(split if chosen is None else chosen))
        return real(net, task, split, device, tta=tta, mirror=mirror, chosen=chosen, **how)

    monkeypatch.setattr(finish, "_seconds_each", each)
    monkeypatch.setattr(finish, "evaluation_seconds", lambda *given: estimated.append(estimate(*given)) or 0.0)
    monkeypatch.setattr(finish, "observed", counted)
    monkeypatch.setattr(finish, "STRANGERS", (60, 20))
    fit.train(
        pictures(300),
        net="lenet5",
        minutes=0.001,
        set={"tta": tta},
        out=tmp_path / "r",
        diagnosis=False,
        progress=False,
    )
    assert 0.8 * estimated[0] <= sum(done) <= estimated[0]


def test_the_time_of_training_is_decided_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def left(job: Job) -> tuple[float, str]:
        asked.append((job.plan.minutes, time.monotonic() > job.begin))
        return 0.05, "training takes a moment"

    monkeypatch.setattr("neocog.fit.training.seconds_to_train", left)
    data = pictures(40)
    run = fit.train(data, net="lenet5", minutes=1, out=tmp_path / "r", diagnosis=False)
    assert asked == [(1, True)]
    assert "about 1 minute in total" in (told := capsys.readouterr().err) and "training takes a moment" in told
    with safe_open(run.folder / CHECKPOINT, framework="pt") as file:
        counters = json.loads(file.metadata()["counters"])
    assert counters["seconds"] == 0.05 <= counters["elapsed"]
    fit.resume(run.folder, data=data, progress=False)  # its progress is that share of the same time
    assert len(asked) == 1


def test_time_that_is_over_ends_with_figures_and_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is over just after a step, in the middle of an epoch."""
    times = iter([0.1, 0.2, 0.9])

    def progress(self: Clock, step: int) -> float:
        return next(times, 1.0) if step < 4 else 1.0

    monkeypatch.setattr(Clock, "progress", progress)
    how: dict[str, Any] = {"set": {"batch_size": 8}, "diagnosis": False, "progress": False}
    run = fit.train(pictures(200), net="lenet5", minutes=1, out=tmp_path / "r", **how)
    assert [one["step"] for one in records(run.folder, "epoch")] == [3]
    with safe_open(run.folder / CHECKPOINT, framework="pt") as file:
        assert json.loads(file.metadata()["counters"])["step"] == 3


def test_a_clock_of_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neocog.fit.schedules.time.monotonic", lambda: 107.0)
    clock = Clock(steps=5, seconds=20.0, before=3.0, _begin=100.0)
    assert clock.progress(1000) == pytest.approx(0.5)
