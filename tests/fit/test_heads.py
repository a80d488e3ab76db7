"""Heads on fixed features: against closed forms and gradients, folds that leak nothing, intervals that are honest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import threadpoolctl
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from neocog.errors import DataError, UsageError
from neocog.fit import heads
from neocog.fit.heads import CrossValidated, Head, choose, stratified_folds
from neocog.tasks import Label, logistic
from neocog.tasks.last_layers import KINDS


def fit_head(x: Any, y: Any, classes: int, weights: Any = None, held_out: Any = None, **how: Any) -> Head:
    """A head for the task label."""
    if held_out is not None:
        held_out = held_out[0], {"label": held_out[1]}
    task = Label([str(k) for k in range(classes)], weights=weights)
    return choose(x, {"label": y}, task, held_out=held_out, folds=stratified_folds(y, 5), **how)


def cross_validate(x: Any, y: Any, classes: int, **how: Any) -> CrossValidated | None:
    return heads.cross_validate(x, {"label": y}, Label([str(k) for k in range(classes)]), y, **how)


def blobs(n: int, d: int = 12, k: int = 3, spread: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points around `k` centres; the features have other scales and means."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % k
    centres = np.random.default_rng(99).normal(size=(k, d)) * 2
    x = centres[labels] + spread * random.normal(size=(n, d))
    return (x * np.linspace(2, 20, d) + np.linspace(-50, 50, d)).astype(np.float32), labels


def standardised(x: np.ndarray) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    mean, spread = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    return torch.from_numpy((x - mean) / spread), mean, spread


@pytest.mark.parametrize("kind", KINDS)
def test_classes_that_are_apart_are_told_apart(kind: str) -> None:
    x, y = blobs(120)
    held_x, held_y = blobs(60, seed=1)
    head = fit_head(x, y, 3, kind=kind, held_out=(held_x, held_y))
    assert head.chosen == "60 validation pictures" and head.logits(held_x).dtype == np.float32
    assert (head.logits(held_x).argmax(1) == held_y).mean() > 0.95
    # a class that has no picture is never named
    head = fit_head(x, y, 4, kind=kind, strength=0.1)
    assert head.weight.shape == (4, 12) and (head.logits(held_x).argmax(1) != 3).all()


@pytest.mark.parametrize("kind", KINDS)
def test_two_classes_and_weights(kind: str) -> None:
    x, y = blobs(90, k=2, spread=6.0)
    keep = (y == 0) | (np.arange(90) < 18)  # 45 against 9
    x, y = x[keep], y[keep]
    plain = fit_head(x, y, 2, kind=kind, strength=0.1).logits(x).argmax(1)
    balanced = fit_head(x, y, 2, kind=kind, strength=0.1, weights=np.array([0.2, 1.0])).logits(x).argmax(1)
    assert (balanced == 1).sum() > (plain == 1).sum()


def test_softmax_is_where_the_gradient_vanishes() -> None:
    x, y = blobs(90, spread=4.0)
    head = fit_head(x, y, 3, strength=0.03)
    z, mean, spread = standardised(x)
    w = torch.from_numpy(head.weight * spread).double().requires_grad_()
    b = torch.from_numpy(head.bias + head.weight.astype(np.float64) @ mean).double().requires_grad_()
    loss = F.cross_entropy(z @ w.T + b, torch.from_numpy(y)) + 0.03 / 2 * w.square().sum()
    for gradient in torch.autograd.grad(loss, (w, b)):
        assert gradient.abs().max() < 1e-3


@pytest.mark.parametrize("kind", ["three classes", "two classes", "more features than pictures", "weighted"])
def test_softmax_is_where_scikit_learn_ends(kind: str) -> None:
    k = 2 if kind == "two classes" else 3
    n, d = (24, 60) if kind == "more features than pictures" else (90, 12)
    x, y = blobs(n, d, k, spread=4.0)
    weights = np.array([1.0, 3.0, 0.5])[:k] if kind == "weighted" else None
    z, _, spread = standardised(x)
    for strength in (1.0, 0.03, 1e-3):
        head = fit_head(x, y, k, strength=strength, weights=weights)
        # of two classes scikit-learn fits the difference of the weights, whose square is twice that of both
        c = (2 if k == 2 else 1) / strength / n
        counts = None if weights is None else weights[y] / weights[y].mean()
        best = LogisticRegression(C=c, tol=1e-10, max_iter=10_000, solver="newton-cg").fit(z.numpy(), y, counts)
        w = best.coef_ if k > 2 else np.concatenate((-best.coef_, best.coef_)) / 2
        assert head.weight * spread == pytest.approx(w, abs=2e-3 * np.abs(w).max())
        assert (head.logits(x).argmax(1) == best.predict(z.numpy())).all()


def test_a_small_head_is_fitted_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several threads for tiny products wait for each other where the machine is busy: 25 s instead of 0.6."""
    used: list[list[int]] = []
    solve = logistic._solve

    def looked(*given: Any) -> Any:
        used.append([pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"])
        return solve(*given)

    monkeypatch.setattr(logistic, "_solve", looked)
    x, y = blobs(60)
    with threadpoolctl.threadpool_limits(limits=2):
        fit_head(x, y, 3)
        assert used and used[0] and all(threads == 1 for pools in used for threads in pools)
        first = len(used)
        monkeypatch.setattr(logistic, "_TINY", 10)
        fit_head(x, y, 3, strength=0.1)
        assert max(used[first]) == 2
    assert first < 400  # steps of all the folds and strengths; by gradients alone there were 1,700


@pytest.mark.parametrize("shape", [(90, 12), (20, 40)])
def test_linear_is_ridge_regression(shape: tuple[int, int]) -> None:
    n, d = shape
    x, y = blobs(n, d, spread=3.0)
    head = fit_head(x, y, 3, kind="linear", strength=0.3)
    z, _, spread = standardised(x)
    a, targets = z.numpy(), np.eye(3)[y]
    w = np.linalg.solve(a.T @ a + n * 0.3 * np.eye(d), a.T @ (targets - targets.mean(0))).T
    assert head.weight * spread == pytest.approx(w, abs=1e-4)
    assert head.logits(x) == pytest.approx(a @ w.T + targets.mean(0), abs=1e-3)


def test_svm_is_where_the_gradient_vanishes() -> None:
    x, y = blobs(90, spread=4.0)
    head = fit_head(x, y, 3, kind="svm", strength=0.1)
    z, mean, spread = standardised(x)
    w = torch.from_numpy(head.weight * spread).double().requires_grad_()
    b = torch.from_numpy(head.bias + head.weight.astype(np.float64) @ mean).double()
    sign = 2 * F.one_hot(torch.from_numpy(y)) - 1
    hinge = (1 - sign * (z @ w.T + b)).clamp(min=0)
    loss = hinge.square().mean(0).sum() / 2 + 0.1 / 2 * w.square().sum()
    assert torch.autograd.grad(loss, w)[0].abs().max() < 5e-3


def test_the_strength_is_that_of_the_lowest_loss() -> None:
    x, y = blobs(60, d=80, spread=8.0)
    head = fit_head(x, y, 3)
    assert head.chosen == "5-fold cross-validation"
    losses = {row["strength"]: row["loss"] for row in head.tried}
    assert head.strength == min(losses, key=lambda s: losses[s]) and len(losses) > 3
    assert fit_head(x, y, 3).weight == pytest.approx(head.weight)  # nothing is left to chance
    given_one = fit_head(x, y, 3, strength=0.5)
    assert given_one.strength == 0.5 and not given_one.chosen and not given_one.tried


def test_what_cannot_be_fitted() -> None:
    x, y = blobs(20)
    with pytest.raises(UsageError, match=r"unknown head 'svn' .did you mean 'svm'"):
        fit_head(x, y, 3, kind="svn")
    with pytest.raises(DataError, match="at least two classes"):
        fit_head(x, np.zeros(20, int), 3)


# ---------------------------------------------------------------- folds


@settings(max_examples=60)
@given(st.lists(st.integers(0, 4), min_size=4, max_size=60), st.integers(2, 6), st.integers(0, 9), st.data())
def test_folds_are_even_and_keep_groups_together(labels: list[int], k: int, seed: int, data: st.DataObject) -> None:
    y = np.array(labels)
    folds = stratified_folds(y, k, seed=seed)
    used = folds.max() + 1
    assert folds.min() == 0 and 2 <= used <= k
    for label in set(labels):
        counts = np.bincount(folds[y == label], minlength=used)
        assert counts.max() - counts.min() <= 1
    groups = np.array(data.draw(st.lists(st.integers(-1, 8), min_size=len(y), max_size=len(y))))
    folds = stratified_folds(y, k, groups, seed)
    for group in set(groups[groups >= 0].tolist()):
        assert len(set(folds[groups == group].tolist())) == 1


def test_one_rare_class_does_not_halve_the_training_pictures() -> None:
    labels = np.array([0] * 20 + [1] * 20 + [2] * 2)
    assert stratified_folds(labels, 5).max() == 4


def test_cross_validation_of_random_labels_is_chance_and_of_copies_only_with_groups() -> None:
    random = np.random.default_rng(3)
    x, y = random.normal(size=(60, 80)).astype(np.float32), random.integers(0, 2, 60)
    found = cross_validate(x, y, 2, strength=0.1)
    assert found is not None and (found.folds, found.repeats) == (5, 3)
    assert found.interval[0] < 0.5 < found.interval[1]
    # every picture four times: the copies give the answer away unless they stay together
    many, labels, groups = np.repeat(x, 4, axis=0), np.repeat(y, 4), np.repeat(np.arange(60), 4)
    leaking = cross_validate(many, labels, 2, strength=0.01)
    honest = cross_validate(many, labels, 2, strength=0.01, groups=groups)
    assert leaking is not None and honest is not None
    assert leaking.value > 0.85
    assert honest.value < 0.7 and honest.interval[0] < 0.5


def test_the_interval_covers_what_large_samples_say() -> None:
    """The accuracy on 4,000 new pictures lies in 95 % intervals of 60 pictures nearly always."""
    covered, widths = 0, []
    for seed in range(20):
        x, y = blobs(60, spread=7.0, seed=seed)
        found = cross_validate(x, y, 3, strength=0.1, seed=seed)
        new_x, new_y = blobs(4000, spread=7.0, seed=1000 + seed)
        truth = (fit_head(x, y, 3, strength=0.1).logits(new_x).argmax(1) == new_y).mean()
        assert found is not None
        low, high = found.interval
        covered += low <= truth <= high
        widths.append(high - low)
    assert covered >= 17
    assert np.mean(widths) < 0.5  # and it says something


def test_where_all_folds_agree_the_interval_is_not_a_point() -> None:
    x, y = blobs(40, spread=0.01)
    found = cross_validate(x, y, 3, strength=0.1)
    assert found is not None and found.value == 1.0
    assert found.interval[0] < 0.93 and found.interval[1] == 1.0  # Wilson, 40 of 40: 91.2 %
    assert found.figures()["cv_n"] == 40 and "cv_accuracy" in found.figures()


def test_cross_validation_that_would_take_minutes_is_left_out_unless_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = blobs(40)
    monkeypatch.setattr("neocog.fit.heads._WORK", (10.0, 20.0, 30.0))
    assert cross_validate(x, y, 3) is None
    wanted = cross_validate(x, y, 3, strength=1.0, folds=4, costly=True)
    assert wanted is not None and (wanted.folds, wanted.repeats) == (4, 1)
    assert cross_validate(x[:2], y[:2], 3, costly=True) is None  # one class would be left to learn from
