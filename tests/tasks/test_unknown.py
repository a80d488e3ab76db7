"""Unknown pictures: digits 8 and 9 shown to a net that was trained on 0 to 7."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student

from neocog.errors import UsageError
from neocog.tasks.measures import auroc
from neocog.tasks.unknown import Unknown, fit_unknown


@pytest.fixture(scope="module")
def digits() -> dict[str, np.ndarray]:
    """Features of the hidden layer of a small MLP that knows the digits 0 to 7."""
    datasets = pytest.importorskip("sklearn.datasets")
    from sklearn.neural_network import MLPClassifier

    pictures, labels = datasets.load_digits(return_X_y=True)
    pictures, order = pictures / 16, np.random.default_rng(0).permutation(len(labels))
    pictures, labels = pictures[order], labels[order]
    known = labels < 8
    x, y = pictures[known], labels[known]
    net = MLPClassifier((64,), alpha=1e-3, max_iter=300, random_state=0).fit(x[:800], y[:800])

    def features(pictures: np.ndarray) -> np.ndarray:
        return np.maximum(pictures @ net.coefs_[0] + net.intercepts_[0], 0).astype(np.float32)

    noise = np.random.default_rng(1).random((300, 64))
    return {
        "train": features(x[:800]),
        "labels": y[:800],
        "val": features(x[800:1100]),
        "test": features(x[1100:]),
        "8 and 9": features(pictures[~known]),
        "noise": features(noise),
    }


def test_strangers_are_found(digits: dict[str, np.ndarray]) -> None:
    fitted = fit_unknown(digits["train"], digits["labels"], 8, held_out=digits["val"])
    known = fitted.score(digits["test"])
    for name, least in (("8 and 9", 0.9), ("noise", 0.9)):
        scores = np.concatenate([known, fitted.score(digits[name])])
        assert auroc(scores, np.arange(len(scores)) >= len(known)) > least
    assert (known > fitted.threshold).mean() < 0.12  # asked for 0.05; 300 + 330 pictures leave that much to chance


def test_saved_through_safetensors(digits: dict[str, np.ndarray], tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    fitted = fit_unknown(digits["train"], digits["labels"], 8, held_out=digits["val"])
    save_file(fitted.save() | {"other": np.zeros(3)}, tmp_path / "unknown.safetensors")
    again = Unknown.load(load_file(tmp_path / "unknown.safetensors"))
    assert (again.k, again.threshold, again.false_alarm) == (fitted.k, fitted.threshold, 0.05)
    np.testing.assert_array_equal(again.score(digits["test"]), fitted.score(digits["test"]))


def test_the_bank_is_small_and_holds_every_class() -> None:
    random = np.random.default_rng(0)
    labels = np.concatenate([np.zeros(5000, int), np.full(3, 1)])
    features = random.normal(size=(len(labels), 4)).astype(np.float32)
    features[:, 0] += np.where(labels == 1, 30, -30)  # the classes point in opposite directions
    fitted = fit_unknown(features, labels, 2, bank=100)
    bank = fitted.bank
    assert bank.shape == (100, 4) and bank.dtype == np.float16
    assert (bank[:, 0] > 0).sum() == 3  # all of the rare class


def test_threshold_bounds_false_alarms_on_average() -> None:
    random = np.random.default_rng(0)
    train = random.normal(size=(400, 6)).astype(np.float32)
    fitted = fit_unknown(train, np.zeros(400, int), 1)
    shares = []
    for _ in range(60):
        chosen = fitted.with_threshold(random.normal(size=(39, 6)), 0.1)
        shares.append((chosen.score(random.normal(size=(200, 6))) > chosen.threshold).mean())
    assert 0.06 < np.mean(shares) < 0.125  # conformal: at most 0.1 in expectation, at least 0.1 - 1 / 40


def test_threshold_of_few_pictures_is_a_prediction_limit(digits: dict[str, np.ndarray]) -> None:
    fitted = fit_unknown(digits["train"], digits["labels"], 8)
    few = digits["val"][:5]
    own = fitted.score(few)
    limit = own.mean() + student.ppf(0.95, len(few) - 1) * own.std(ddof=1) * math.sqrt(1 + 1 / len(few))
    assert fitted.with_threshold(few).threshold == pytest.approx(limit)
    assert fitted.with_threshold(few[:1]).threshold == math.inf
    nineteen = digits["val"][:39]
    assert fitted.with_threshold(nineteen).threshold == np.sort(fitted.score(nineteen))[37]


@pytest.mark.parametrize("pictures", [5, 8, 12, 16])
def test_few_held_out_pictures_are_enough_to_tell_noise(digits: dict[str, np.ndarray], pictures: int) -> None:
    fitted = fit_unknown(digits["train"], digits["labels"], 8)
    alarms, caught = [], []
    for seed in range(40):
        chosen = np.random.default_rng(seed).permutation(len(digits["val"]))[:pictures]
        one = fitted.with_threshold(digits["val"][chosen])
        alarms.append((one.score(digits["test"]) > one.threshold).mean())
        caught.append((one.score(digits["noise"]) > one.threshold).mean())
    assert np.mean(alarms) < 0.1 and np.mean(caught) > 0.7


def test_without_held_out_nothing_is_unknown(digits: dict[str, np.ndarray]) -> None:
    fitted = fit_unknown(digits["train"], digits["labels"], 8)
    assert math.isinf(fitted.threshold)
    assert fitted.facts()["threshold"] is None


def test_hard_cases_stay_finite() -> None:
    random = np.random.default_rng(0)
    features = np.zeros((6, 50), np.float32)  # fewer pictures than dimensions, most of them dead
    features[:, :4] = random.normal(size=(6, 4))
    fitted = fit_unknown(features, np.array([0, 0, 2, 2, 2, -1]), 4)  # classes 1 and 3 are empty
    assert np.isfinite(fitted.score(features)).all()
    assert np.isfinite(fitted.score(np.zeros((1, 50)))).all()
    assert fitted.score(np.zeros((0, 50))).shape == (0,)


def test_wrong_input_is_named() -> None:
    features, labels = np.ones((3, 2)), np.array([0, 1, 0])
    with pytest.raises(UsageError, match=r"features \(N, 2\), got \(1, 3\)"):
        fit_unknown(features, labels, 2).score(np.ones((1, 3)))
    with pytest.raises(UsageError, match="finite"):
        fit_unknown(features * np.nan, labels, 2)
    with pytest.raises(UsageError, match="labelled"):
        fit_unknown(features, np.full(3, -1), 2)
    with pytest.raises(UsageError, match=r"unknown\.bank"):
        Unknown.load({"weights": features})
