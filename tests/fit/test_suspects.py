"""Which labels a net doubts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neocog.data import open_source
from neocog.errors import DataError, UsageError
from neocog.fit.suspects import Judged, confident_joint, doubted, noise_matrix, suspicious_labels


def test_a_wrong_label_is_found_and_named():
    labels = np.repeat([0, 1, 2], 20)
    probabilities = np.full((60, 3), 0.05)
    probabilities[np.arange(60), labels] = 0.9
    labels[7] = 2  # the net still says 0
    rows, classes = doubted(probabilities, labels)
    assert (rows.tolist(), classes.tolist()) == ([7], [0])


def test_the_most_doubtful_comes_first():
    labels = np.repeat([0, 1], 50)
    probabilities = np.where(labels[:, None] == [0, 1], 0.8, 0.2)
    probabilities[3], probabilities[60] = (0.1, 0.9), (0.99, 0.01)
    rows, classes = doubted(probabilities, labels)
    assert (rows.tolist(), classes.tolist()) == ([60, 3], [0, 1])


def test_a_class_that_is_always_confused_needs_less_to_be_believed():
    """The net gives class 1 only 0.4 on its own pictures; a picture labelled 0 with 0.45 for class 1 is doubted."""
    labels = np.array([0] * 20 + [1] * 20)
    probabilities = np.array([[0.95, 0.05, 0.0]] * 20 + [[0.3, 0.4, 0.3]] * 20)
    probabilities[0] = 0.35, 0.45, 0.2
    assert doubted(probabilities, labels)[0].tolist() == [0]


def test_the_confident_joint_counts_labels_by_the_class_that_is_believed():
    """Labels a: 8 pictures of a, 2 of b; labels b: 9 of b, and one of which nothing is believed; no label is c."""
    labels = np.array([0] * 10 + [1] * 10)
    probabilities = np.array([[0.8, 0.2, 0.0]] * 8 + [[0.1, 0.9, 0.0]] * 2 + [[0.1, 0.9, 0.0]] * 9 + [[0.5, 0.5, 0.0]])
    joint = confident_joint(probabilities, labels)
    np.testing.assert_allclose(joint, [[0.4, 0.0, 0.0], [0.1, 0.5, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(noise_matrix(joint), [[1.0, 0.0, 0.0], [1 / 6, 5 / 6, 0.0], [0.0, 0.0, 1.0]])
    found = Judged(("a", "b", "c"), np.arange(20), labels, probabilities)
    assert found.noise == {"a": {"a": 1.0}, "b": {"a": 0.1667, "b": 0.8333}}
    assert [row[:3] for row in found.suspicions] == [(8, "a", "b"), (9, "a", "b")]


def test_a_label_of_which_nothing_else_is_believed_stays_right():
    labels = np.array([0] * 4 + [1] * 4)
    joint = confident_joint(np.array([[0.6, 0.4], [0.2, 0.8]] * 2 + [[0.0, 1.0]] * 4), labels)
    assert joint.sum() == pytest.approx(1.0) and (joint >= 0).all()
    np.testing.assert_allclose(joint.sum(axis=0), [0.5, 0.5])  # as many as carry each label


@given(st.integers(1, 30), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_only_another_class_that_is_likelier_for_its_size_is_named(n, k, seed):
    random = np.random.default_rng(seed)
    probabilities, labels = random.dirichlet(np.ones(k), n), random.integers(0, k, n)
    rows, classes = doubted(probabilities, labels)
    usual = np.array([probabilities[labels == c, c].mean() if (labels == c).any() else np.inf for c in range(k)])
    relative = probabilities / usual
    assert (classes != labels[rows]).all() and len(set(rows)) == len(rows)
    assert (relative[rows, classes] > relative[rows, labels[rows]]).all()
    margins = relative[rows, classes] / relative[rows, labels[rows]]
    assert (np.diff(margins) <= 1e-9 * margins[:-1]).all()


def test_a_hard_picture_is_not_doubted_beside_wrong_labels():
    """Two labels are wrong; of a third picture two classes are equally likely, and its own label is not unlikely."""
    labels = np.repeat([0, 1], 30)
    probabilities = np.where(labels[:, None] == [0, 1], 0.9, 0.1)
    probabilities[0] = 0.02, 0.98
    probabilities[31] = 0.95, 0.05
    probabilities[32] = 0.55, 0.45
    rows, classes = doubted(probabilities, labels)
    assert (rows.tolist(), classes.tolist()) == ([0, 31], [1, 0])


def test_wrong_labels_are_found_by_the_other_pictures():
    random = np.random.default_rng(0)
    true = np.arange(40) % 2
    pictures = random.integers(0, 60, (40, 32, 32, 3), dtype=np.uint8)
    pictures[true == 1, :, ::2] += 150  # stripes
    given = true.copy()
    given[[4, 9]] = 1 - given[[4, 9]]
    found = suspicious_labels("auto", open_source((pictures, given)))
    assert {(i, label, likelier) for i, label, likelier, _ in found} >= {(4, "1", "0"), (9, "0", "1")}
    assert {i for i, *_ in found[:2]} == {4, 9}
    assert len(found) <= 4


def test_too_few_pictures_are_refused_with_the_number_that_is_needed():
    with pytest.raises(DataError, match="10 pictures of each of two classes"):
        suspicious_labels("auto", open_source("drawn:n=12,size=32"))


def test_without_a_pretrained_net_a_run_is_asked_for(monkeypatch):
    monkeypatch.setattr("neocog.fit.suspects.at_hand", lambda: None)
    with pytest.raises(UsageError, match="--labels RUN"):
        suspicious_labels("auto", open_source("drawn:n=12,size=32"))
