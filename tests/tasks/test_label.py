"""The label task: its loss against formulas, class weights, and what does not count."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neocog.tasks import Label, balance


def test_no_opinion_costs_the_logarithm_of_the_classes() -> None:
    for smoothing in (0.0, 0.2):
        task = Label("abcde", smoothing)
        loss = task.loss(torch.zeros(7, 5), torch.arange(7) % 5)
        assert loss.item() == pytest.approx(math.log(5))


def test_mixed_pictures_count_for_both_labels() -> None:
    torch.manual_seed(0)
    task, logits, y = Label("abc", 0.1), torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    partner = torch.tensor([5, 4, 3, 2, 1, 0])
    mixed = task.loss(logits, y, partner, 0.3)
    expected = 0.3 * task.loss(logits, y) + 0.7 * task.loss(logits, y[partner])
    torch.testing.assert_close(mixed, expected)


def test_unreadable_pictures_do_not_count() -> None:
    task, logits = Label("ab"), torch.randn(4, 2)
    y = torch.tensor([0, 1, -100, -100])
    torch.testing.assert_close(task.loss(logits, y) * 4, task.loss(logits[:2], y[:2]) * 2)
    assert int(task.right(logits, torch.full((4,), -100))) == 0


def test_pieces_of_a_batch_add_up() -> None:
    torch.manual_seed(1)
    task, logits, y = Label("abc", 0.2, torch.tensor([1.0, 2.0, 0.5])), torch.randn(9, 3), torch.arange(9) % 3
    parts = sum(task.loss(logits[i : i + 2], y[i : i + 2]) * len(y[i : i + 2]) / 9 for i in range(0, 9, 2))
    torch.testing.assert_close(parts, task.loss(logits, y))


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=30).filter(lambda c: sum(c) > 0))
@settings(deadline=None)
def test_balance_makes_classes_equal_up_to_a_limit(counts: list[int]) -> None:
    weights = balance(np.array(counts)).double().numpy()
    there = np.array(counts) > 0
    assert (weights * counts).sum() / sum(counts) == pytest.approx(1.0, rel=1e-4)
    assert weights[there].max() <= 20.001 * weights[there].min()
    if there.sum() and max(counts) <= 20 * min(c for c in counts if c):
        mass = (weights * counts)[there]
        assert mass.max() == pytest.approx(mass.min(), rel=1e-4)


def test_figures_of_nothing_are_not_numbers() -> None:
    assert math.isnan(Label("ab").measure(np.zeros((0, 2)), np.zeros(0, np.int64))["accuracy"])
