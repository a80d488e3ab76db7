"""Which labels a net doubts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from neocog.fit.suspects import doubted


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


@given(st.integers(1, 30), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_only_labels_that_are_not_the_likeliest_are_doubted(n, k, seed):
    random = np.random.default_rng(seed)
    probabilities, labels = random.dirichlet(np.ones(k), n), random.integers(0, k, n)
    rows, classes = doubted(probabilities, labels)
    assert (classes != labels[rows]).all()
    assert (probabilities[rows, classes] > probabilities[rows, labels[rows]]).all()
    assert not set(rows) & set(np.flatnonzero(probabilities.argmax(1) == labels))
