"""Measures against scikit-learn, closed forms and properties."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neocog.errors import UsageError
from neocog.tasks import measures as m

metrics = pytest.importorskip("sklearn.metrics")


def draw(seed: int, n: int = 200, classes: int = 7, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits that are right more often than chance, and labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    logits = random.normal(size=(n, classes)) * scale
    logits[np.arange(n), labels] += 1.5
    return logits.astype(np.float32), labels


sizes = st.tuples(st.integers(0, 10_000), st.integers(1, 60), st.integers(2, 9))


@given(sizes)
@settings(deadline=None, max_examples=40)
def test_equal_to_sklearn(case: tuple[int, int, int]) -> None:
    seed, n, classes = case
    logits, labels = draw(seed, n, classes)
    predicted, every = logits.argmax(axis=1), list(range(classes))
    matrix = m.confusion(logits, labels)
    assert (matrix == metrics.confusion_matrix(labels, predicted, labels=every)).all()
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predicted, labels=every, zero_division=0
    )
    ours = m.per_class(matrix)
    for name, theirs in {"precision": precision, "recall": recall, "f1": f1, "support": support}.items():
        np.testing.assert_allclose(ours[name], theirs, atol=1e-12)
    assert m.macro_f1(matrix) == pytest.approx(metrics.f1_score(labels, predicted, average="macro", zero_division=0))
    assert m.accuracy(logits, labels) == pytest.approx(metrics.accuracy_score(labels, predicted))
    probabilities = m.softmax(logits)
    assert m.cross_entropy(logits, labels) == pytest.approx(metrics.log_loss(labels, probabilities, labels=every))
    one_hot = np.eye(classes)[labels]
    assert m.brier(probabilities, labels) == pytest.approx(((probabilities - one_hot) ** 2).sum(axis=1).mean())


def test_top_k_equal_to_sklearn() -> None:
    logits, labels = draw(3, 500, 12)
    for k in (1, 2, 5, 11):
        theirs = metrics.top_k_accuracy_score(labels, logits, k=k, labels=list(range(12)))
        assert m.top_k_accuracy(logits, labels, k) == pytest.approx(theirs)
    assert m.top_k_accuracy(logits, labels, 12) == 1


def test_ties_go_to_the_first_class() -> None:
    flat = np.zeros((4, 4))
    assert m.accuracy(flat, np.arange(4)) == 0.25
    assert m.top_k_accuracy(flat, np.arange(4), 2) == 0.5


@given(st.integers(0, 10_000), st.integers(2, 80), st.booleans())
@settings(deadline=None, max_examples=40)
def test_auroc_equal_to_sklearn(seed: int, n: int, ties: bool) -> None:
    random = np.random.default_rng(seed)
    positive = np.arange(n) < max(1, n // 3)
    scores = random.normal(size=n) + positive
    scores = np.round(scores) if ties else scores
    assert m.auroc(scores, positive) == pytest.approx(metrics.roc_auc_score(positive, scores))
    assert m.auroc(-scores, positive) == pytest.approx(1 - m.auroc(scores, positive))


def test_auroc_of_one_kind_is_nan() -> None:
    assert math.isnan(m.auroc(np.arange(3.0), np.ones(3, bool)))


@given(st.integers(0, 10_000), st.floats(0.2, 5))
@settings(deadline=None, max_examples=30)
def test_softmax_sums_to_one_and_keeps_the_order(seed: int, temperature: float) -> None:
    logits, _ = draw(seed, 20)
    probabilities = m.softmax(logits * 100, temperature)  # large logits must not overflow
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert (probabilities.argmax(axis=1) == logits.argmax(axis=1)).all()


def test_closed_forms_of_a_uniform_prediction() -> None:
    labels = np.arange(10) % 5
    flat = np.zeros((10, 5))
    assert m.cross_entropy(flat, labels) == pytest.approx(math.log(5))
    assert m.brier(m.softmax(flat), labels) == pytest.approx(1 - 1 / 5)
    error, _ = m.expected_calibration_error(m.softmax(flat), labels)
    assert error == pytest.approx(0)  # confidence 0.2, and the first class is right for 2 of 10


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    error, bins = m.expected_calibration_error(probabilities, np.array([0, 1, 0, 0]), bins=10)
    assert error == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)
    assert len(bins) == 10 and sum(row["n"] for row in bins) == 4
    assert bins[8] == pytest.approx({"low": 0.8, "high": 0.9, "n": 2, "confidence": 0.9, "accuracy": 0.5})


@given(st.integers(0, 10_000), st.integers(1, 100))
@settings(deadline=None, max_examples=30)
def test_calibration_error_is_a_share(seed: int, n: int) -> None:
    logits, labels = draw(seed, n)
    error, bins = m.expected_calibration_error(m.softmax(logits), labels)
    assert 0 <= error <= 1 and len(bins) == 15 and sum(row["n"] for row in bins) == n


@pytest.mark.parametrize("true", [0.2, 0.7, 1.0, 3.0])
def test_temperature_is_recovered(true: float) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(20_000, 6)) * 2
    probabilities = m.softmax(logits)
    labels = (probabilities.cumsum(axis=1) < random.random((len(logits), 1))).sum(axis=1).clip(max=5)
    assert m.fit_temperature(logits * true, labels) == pytest.approx(true, rel=0.05)


def test_temperature_is_the_minimum() -> None:
    logits, labels = draw(1, 3000, scale=4)
    best = m.fit_temperature(logits, labels)
    losses = [m.cross_entropy(logits, labels, best * factor) for factor in (0.8, 1.0, 1.25)]
    assert losses[1] < losses[0] and losses[1] < losses[2] and losses[1] < m.cross_entropy(logits, labels)


def test_all_correct_asks_for_as_much_confidence_as_there_is_evidence() -> None:
    for n in (10, 1000):
        labels = np.arange(n) % 4
        logits = np.eye(4)[labels] * 3
        confidence = m.softmax(logits, m.fit_temperature(logits, labels)).max(axis=1).mean()
        assert 1 - confidence == pytest.approx(0.75 / (n + 2), rel=1e-3)


@given(st.integers(0, 10_000), st.integers(0, 8), st.floats(1e-6, 1e6))
@settings(deadline=None, max_examples=60)
def test_temperature_is_always_bounded(seed: int, n: int, scale: float) -> None:
    logits, labels = draw(seed, n, 3)
    low, high = m.TEMPERATURES
    assert low * 0.999 <= m.fit_temperature(logits * scale, labels) <= high * 1.001


def test_temperature_without_evidence_is_one() -> None:
    assert m.fit_temperature(np.zeros((0, 3)), np.zeros(0, int)) == 1.0
    assert m.fit_temperature(np.full((5, 3), 7.0), np.zeros(5, int)) == 1.0


def test_temperature_of_a_net_worse_than_chance_is_the_highest() -> None:
    labels = np.arange(100) % 4
    assert m.fit_temperature(-np.eye(4)[labels], labels) == pytest.approx(m.TEMPERATURES[1])


def test_wilson_against_a_published_example() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263 gives 0.2553 to 0.3662.
    assert m.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert m.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert m.wilson(0, 0) == (0, 1)


@given(st.integers(1, 10_000), st.floats(0, 1))
@settings(deadline=None)
def test_wilson_holds_the_share(n: int, share: float) -> None:
    correct = round(share * n)
    low, high = m.wilson(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    assert high - low < 2.1 / math.sqrt(n)


def test_evaluate_is_json_and_leaves_out_the_unlabelled() -> None:
    logits, labels = draw(5, 100)
    names = [f"class {i}" for i in range(7)]
    whole = m.evaluate_logits(logits, labels, names, 1.5)
    assert json.loads(json.dumps(whole, allow_nan=False)) == whole
    low, high = whole["accuracy_interval"]
    assert low < whole["accuracy"] < high and whole["n"] == 100 and "top5_accuracy" in whole
    with_more = m.evaluate_logits(np.vstack([logits, logits[:5]]), np.concatenate([labels, np.full(5, -1)]), names, 1.5)
    assert with_more == whole | {"unlabelled": 5}
    assert sum(row["support"] for row in whole["per_class"]) == 100
    worst = whole["confused"][0]
    matrix = np.array(whole["confusion"])
    assert matrix[names.index(worst["true"]), names.index(worst["predicted"])] == worst["count"]
    assert worst["count"] == (matrix - np.diag(np.diag(matrix))).max()


def test_evaluate_leaves_a_huge_confusion_matrix_out() -> None:
    logits, labels = draw(5, 50, 101)
    assert m.evaluate_logits(logits, labels, [str(i) for i in range(101)])["confusion"] is None


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((3, 2)), np.array([0, 1, 2]), "expected labels 0 to 1, got 0 to 2"),
        (np.zeros((3, 2)), np.array([0, 1]), r"got \(3, 2\) and \(2,\)"),
        (np.full((1, 2), np.nan), np.array([0]), "finite"),
        (np.zeros((0, 2)), np.zeros(0, int), "at least one"),
        (np.zeros((1, 2)), np.array([0.5]), "integer labels"),
    ],
)
def test_wrong_input_is_named(logits: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        m.cross_entropy(logits, labels)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UsageError, match="temperature above 0"):
        m.softmax(np.zeros((1, 2)), 0)
    with pytest.raises(UsageError, match="for 3 classes"):
        m.evaluate_logits(np.zeros((1, 2)), np.array([0]), ["a", "b", "c"])
    with pytest.raises(UsageError, match="correct 3 of 2"):
        m.wilson(3, 2)


def test_what_a_batch_says_in_one_number_is_joined_and_summed_as_arrays_are() -> None:
    from types import SimpleNamespace

    from neocog.tasks import Meter

    def observe(outputs: float, batch: object) -> dict[str, object]:
        return {"rows": np.array([int(outputs)]), "each": np.float32(outputs), "all": outputs}

    meter = Meter(SimpleNamespace(summed=frozenset({"all"}), observe=observe))  # type: ignore[arg-type]
    for value in (2.0, 1.0):
        meter.add(value, None)  # type: ignore[arg-type]
    seen = meter.seen(lambda own: [own, own])
    assert (seen["rows"].tolist(), seen["each"].tolist(), float(seen["all"])) == ([1, 1, 2, 2], [1, 1, 2, 2], 6.0)
