"""The trial before a training from weights: what it shows changes what is trained, and is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neocog import fit
from neocog.fit.heads import CrossValidated
from neocog.fit.run import read_tensors, records, write_tensors
from neocog.fit.trial import Trial

QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "precision": "float32", "diagnosis": False}


def light_and_dark(n: int) -> tuple[np.ndarray, list[str]]:
    """Pictures (n, 32, 32) of noise; those of every second one are brighter."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 100, (n, 32, 32)) + 100 * (np.arange(n) % 2)[:, None, None]
    return pictures.astype(np.uint8), [("dark", "light")[i % 2] for i in range(n)]


def crossed(value: float, half: float = 0.005) -> CrossValidated:
    return CrossValidated("accuracy", value, (value - half, value + half), 5, 1, {}, 100)


@pytest.mark.parametrize(
    ("features", "pixels", "goal", "proposed", "regime"),
    [
        (0.3, 0.4, "max", "features", "top"),
        (0.3, 0.2, "max", "features", "features"),
        (0.8, 0.9, "max", "features", "features"),  # no better than pixels, but good
        (0.3, 0.4, "max", "all", "all"),
        (2.0, 1.5, "min", "features", "top"),
        (1.0, 1.5, "min", "features", "features"),
        (0.99, 0.9, "max", "top", "features"),
        (0.99, 0.9, "max", "all", "features"),
        (0.01, 1.5, "min", "all", "all"),  # nobody knows what the least error is
    ],
)
def test_what_a_trial_changes(features: float, pixels: float, goal: str, proposed: str, regime: str) -> None:
    nothing = crossed(0.1 if goal == "max" else 3.0)
    found = Trial(("accuracy", goal), crossed(features), crossed(pixels), nothing, "on 100 pictures")
    chosen, why = found.judged(proposed, "about 80 pictures a class")
    assert chosen == regime and "on 100 pictures" in why
    assert ("about 80" in why) == (chosen == proposed)


def test_what_may_be_chance_changes_nothing() -> None:
    found = Trial(("accuracy", "max"), crossed(0.24, 0.12), crossed(0.3), crossed(0.1), "on 63 pictures")
    assert found.judged("features", "few")[0] == "features"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> fit.Run:
    out = tmp_path_factory.mktemp("base") / "run"
    return fit.train(light_and_dark(40), net="lenet5", epochs=1, out=out, set={"min_steps": 1}, **QUIET)


def regime(run: fit.Run) -> tuple[str, str]:
    start = run.settings["settings"]["start"]
    return start["regime"], start["why"]


def test_features_that_say_all_there_is_leave_the_trunk_as_it_is(base: fit.Run, tmp_path: Path) -> None:
    run = fit.train(light_and_dark(300), start=base.folder, out=tmp_path / "run", **QUIET)
    chosen, why = regime(run)
    assert chosen == "features" and "accuracy of a last layer alone is 100.00%" in why and "on 8x8 pixels" in why
    assert any(why in note for note in records(run.folder, "start")[0]["notes"])


def test_features_that_say_nothing_are_trained(base: fit.Run, tmp_path: Path) -> None:
    tensors, _ = read_tensors(base.folder / "weights.safetensors")
    first = "conv1.weight"
    write_tensors(base.folder / "weights.safetensors", {**tensors, first: torch.zeros_like(tensors[first])})
    run = fit.train(light_and_dark(100), start=base.folder, out=tmp_path / "run", epochs=1, **QUIET)
    chosen, why = regime(run)
    assert chosen == "top" and "worse than pixels" in why
    asked = fit.train(light_and_dark(100), start=base.folder, regime="features", out=tmp_path / "asked", **QUIET)
    assert regime(asked) == ("features", "asked for")
    few = fit.train(light_and_dark(50), start=base.folder, out=tmp_path / "few", **QUIET)
    assert regime(few)[0] == "features" and "pixels" not in regime(few)[1]
