"""Regime features for tasks other than label: last layers where scikit-learn finds them, and whole trainings."""

from __future__ import annotations

import html
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from neocog import fit
from neocog.data import open_source
from neocog.fit.heads import choose, cross_validate, strata_of
from neocog.fit.run import read_json, records
from neocog.fit.transfer import same_answers
from neocog.tasks.last_layers import ridge
from neocog.tasks.logistic import logistic
from neocog.tasks.number import Number
from neocog.tasks.tags import Tags
from neocog.tasks.task import saved

QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "precision": "float32"}


def made(n: int = 120, d: int = 6, k: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standardised features, a yes or no for each of k tags (some not known), and numbers (some not known)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d))
    x = (x - x.mean(0)) / x.std(0)
    z = x @ rng.normal(size=(d, k)) - 1
    y = (rng.random((n, k)) < 1 / (1 + np.exp(-z))).astype(float)
    numbers = z + rng.normal(size=z.shape)
    gone = rng.random((n, k)) < 0.2
    gone[:, 0] = False
    return x, np.where(gone, np.nan, y), np.where(gone, np.nan, numbers)


def test_yes_or_no_for_each_tag_is_logistic_regression_of_each() -> None:
    x, y, _ = made()
    each = np.where(y == 1, 3.0, 1.0)
    weight, bias = logistic(x, y, 3, each, 0.05, tolerance=1e-8)
    for k in range(3):
        known = ~np.isnan(y[:, k])
        total = each[known, k].sum()
        one = LogisticRegression(C=1 / (0.05 * total), tol=1e-10, max_iter=1000)
        one.fit(x[known], y[known, k], sample_weight=each[known, k])
        assert weight[k] == pytest.approx(one.coef_[0], abs=1e-3)
        assert bias[k] == pytest.approx(one.intercept_[0], abs=1e-3)


def test_folds_spread_pictures_by_the_rarest_tag_that_each_has() -> None:
    source = open_source("drawn:n=60,size=32")
    tags: Any = source.columns["tags"]
    rows = np.arange(5, 60)
    found = strata_of(Tags(tags.names), source, rows)
    counts = sum(tags[i] for i in range(60))
    rarest = [min(np.flatnonzero(tags[int(i)]), key=lambda k: (counts[k], k), default=-1) for i in rows]
    assert [(a == b) for a in found for b in found] == [(a == b) for a in rarest for b in rarest]


def test_a_tag_that_nothing_is_known_of_keeps_weights_of_nothing() -> None:
    x, y, numbers = made()
    y[:, 1] = numbers[:, 1] = np.nan
    weight, bias = logistic(x, y, 3, np.ones(y.shape), 0.1)
    assert np.isfinite(weight).all() and (weight[1] == 0).all() and bias[1] == 0
    for weight, bias in ridge(x, numbers, np.ones(len(x)), (1.0, 0.1)):
        assert np.isfinite(weight).all() and (weight[1] == 0).all() and bias[1] == 0


def test_least_squares_leaves_out_what_is_not_known() -> None:
    x, _, numbers = made()
    layers = list(ridge(x, numbers, np.ones(len(x)), (1.0, 0.01)))
    for (weight, bias), strength in zip(layers, (1.0, 0.01), strict=True):
        for k in range(3):
            known = ~np.isnan(numbers[:, k])
            one = Ridge(alpha=strength * known.sum()).fit(x[known], numbers[known, k])
            assert weight[k] == pytest.approx(one.coef_, abs=1e-8) and bias[k] == pytest.approx(one.intercept_)


@pytest.mark.parametrize("loss", ["bce", "squared"])
def test_the_layer_of_tags_gives_the_share_of_each_tag(loss: str) -> None:
    x, y, _ = made()
    weights = [1.0, 4.0, 2.0] if loss == "bce" else None
    task = Tags("abc", loss=loss, weights=weights, prior=[0.3, -1.0, 2.0])
    (head,) = task.fit_head(x, {"tags": y}, (0.01,))
    p = task.probabilities(x @ head[0].T + head[1])
    assert p.mean(0) == pytest.approx(np.nanmean(y, 0), abs=0.05)
    assert task.figures({"rows": np.arange(120), "outputs": x @ head[0].T + head[1], "tags": y})["map"] > 0.6


def test_the_layer_of_numbers_knows_angles_and_steps() -> None:
    rng = np.random.default_rng(1)
    turn = rng.uniform(0, 360, 300)
    x = np.stack((np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn)), rng.normal(size=300)), 1)
    steps = np.clip(np.round(2 * x[:, 2]), -2, 2)
    names, zeros, ones = ("turn", "step"), [0.0, 0.0], [1.0, 1.0]
    task = Number(names, zeros, ones, ones, (360.0, None), (None, [-2, -1, 0, 1, 2]), loss="ordinal")
    z = task._standard(np.stack((turn, steps), 1))
    ((weight, bias),) = task.fit_head(x, {"numbers": z}, (1e-4,))
    assert weight.shape == (6, 3)
    figures = task.figures({"rows": np.arange(300), "outputs": x @ weight.T + bias, "numbers": z})
    assert figures["per_number"]["turn"]["mae"] < 1 and figures["per_number"]["step"]["mae"] < 0.1


def test_the_strength_is_that_with_the_best_score() -> None:
    x, _, numbers = made(60)
    task = Number("abc", np.zeros(3), np.ones(3), np.ones(3), [None] * 3, [None] * 3)
    head = choose(x, {"numbers": numbers}, task, folds=np.arange(60) % 5)
    assert head.kind == "number" and head.chosen == "5-fold cross-validation"
    assert min(head.tried, key=lambda row: row["loss"])["strength"] == head.strength
    held = choose(x[:40], {"numbers": numbers[:40]}, task, held_out=(x[40:], {"numbers": numbers[40:]}))
    assert held.chosen == "20 validation pictures"


def test_cross_validation_of_any_task_is_its_goal_on_pictures_that_were_not_seen() -> None:
    x, y, numbers = made(100)
    task: Any = Number("abc", np.zeros(3), np.ones(3), np.ones(3), [None] * 3, [None] * 3)
    found = cross_validate(x, {"numbers": numbers}, task, np.zeros(100, int))
    assert found is not None and found.goal == "relative_mae" and (found.folds, found.repeats) == (5, 3)
    # the noise has a deviation of 1, so a mean absolute error of 0.8 is the best there is
    assert 0.7 < found.value < 1.1 and found.interval[0] < found.value < found.interval[1]
    assert found.figures()["cv_relative_mae"] == found.value and found.figures()["cv_n"] == 100
    tags = Tags("abc")
    crossed = cross_validate(x, {"tags": y}, tags, np.zeros(100, int))
    assert crossed is not None and crossed.goal == "map" and 0.6 < crossed.value < 1
    before = tags.figures(crossed.seen)["log_loss"]
    tags.calibrate(crossed.seen)
    assert tags.figures(crossed.seen)["log_loss"] < before


def test_a_head_is_kept_only_for_as_many_outputs() -> None:
    plain = Number(["x"], [0.0], [1.0], [1.0], [None], [None])
    steps = Number(["x"], [0.0], [1.0], [1.0], [None], [[1, 2, 3]], loss="ordinal")
    assert same_answers(saved(plain), plain) and not same_answers(saved(plain), steps)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> fit.Run:
    out = tmp_path_factory.mktemp("base") / "run"
    return fit.train("drawn:n=100,size=32", net="lenet5", epochs=1, out=out, set={"min_steps": 1}, **QUIET)


@pytest.mark.parametrize("task", ["tags", "number"])
def test_few_pictures_are_learned_from_features(task: str, base: fit.Run, tmp_path: Path) -> None:
    run = fit.train("drawn:n=400,size=32", task=task, start=base.folder, out=tmp_path / "run", **QUIET)
    start = run.settings["settings"]["start"]
    assert start["regime"] == "features" and start["head"] == "new"
    assert ("a tag to learn from" if task == "tags" else "tenth of the numbers") in start["why"]
    goal = run.task.goal[0]
    assert not math.isnan(run.metrics[f"test_{goal}"])
    (head,) = records(run.folder, "head")
    assert head["head"] == task and len(head["tried"]) > 2
    assert run.metrics[f"cv_{goal}_interval"][0] < run.metrics[f"cv_{goal}"] and run.metrics["cv_n"] > 300
    assert f"cross-validated {run.task.figure}" in " ".join(run.summary())
    assert f"Cross-validated {html.escape(run.task.figure)}" in run.report.read_text()
    if task == "number":  # the answers are those of scikit-learn on the same features
        source = open_source("drawn:n=400,size=32")
        values = np.stack([source.columns["numbers"][int(i)] for i in np.flatnonzero(source.splits == 0)])
        features = [
            load_file(run.folder / "features" / f"{name}-0.safetensors")["features"] for name in ("train", "val")
        ]
        scale = StandardScaler().fit(features[0])
        one = Ridge(alpha=head["strength"] * len(values)).fit(scale.transform(features[0]), values)
        wanted = one.predict(scale.transform(features[1]))
        found = load_file(run.folder / "val.safetensors")["outputs"] * run.task.deviation + run.task.mean
        assert (abs(found - wanted) / run.task.deviation).max() < 0.05  # features that hardly differ count less here
    before, after = base.net().state_dict(), run.net().state_dict()
    kept = [k for k in after if not k.startswith(str(run.net().head)) and not k.startswith("classifier")]
    assert kept and all((before[k.removeprefix("trunk.")] == after[k]).all() for k in kept)
    found = run.predict([np.zeros((32, 32, 3), np.uint8)])[0]
    assert found.problem is None and "Start" in run.report.read_text()
    assert read_json(run.folder / "net.json")["task"]["name"] == task
