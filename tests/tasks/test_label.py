"""The label task: its loss against formulas, class weights, and what does not count."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neocog.data.batches import Batch, Mix
from neocog.tasks import Label, balance
from neocog.tasks.label import IGNORED


def batch(y: torch.Tensor, mix: Mix | None = None) -> Batch:
    return Batch((torch.zeros(len(y), 1, 1, 1),), {"label": y}, torch.arange(len(y)), y >= 0, mix=mix)


def loss(task: Label, logits: torch.Tensor, y: torch.Tensor, mix: Mix | None = None) -> torch.Tensor:
    return task.losses(logits, batch(y, mix)).total


def test_no_opinion_costs_the_logarithm_of_the_classes() -> None:
    for smoothing in (0.0, 0.2):
        task = Label("abcde", smoothing)
        assert loss(task, torch.zeros(7, 5), torch.arange(7) % 5).item() == pytest.approx(math.log(5))


def test_mixed_pictures_count_for_both_labels() -> None:
    torch.manual_seed(0)
    task, logits, y = Label("abc", 0.1), torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    partner = torch.tensor([5, 4, 3, 2, 1, 0])
    mixed = loss(task, logits, y, Mix(partner, 0.3))
    expected = 0.3 * loss(task, logits, y) + 0.7 * loss(task, logits, y[partner])
    torch.testing.assert_close(mixed, expected)


def test_unreadable_pictures_do_not_count() -> None:
    task, logits = Label("ab"), torch.randn(4, 2)
    valid = torch.tensor([True, True, False, False])
    y = task.collate({"label": torch.tensor([0, 1, 0, -1])}, None, valid)["label"]
    assert y.tolist() == [0, 1, IGNORED, IGNORED]
    torch.testing.assert_close(loss(task, logits, y) * 4, loss(task, logits[:2], y[:2]) * 2)
    assert int(task.losses(logits, batch(torch.full((4,), IGNORED))).figures["accuracy"]) == 0


def test_pieces_of_a_batch_add_up() -> None:
    torch.manual_seed(1)
    task, logits, y = Label("abc", 0.2, [1.0, 2.0, 0.5]), torch.randn(9, 3), torch.arange(9) % 3
    found = [task.losses(logits[i : i + 2], batch(y).part(slice(i, i + 2))) for i in range(0, 9, 2)]
    assert [one.count for one in found] == [2, 2, 2, 2, 1]
    torch.testing.assert_close(sum(one.total * one.count for one in found) / 9, loss(task, logits, y))


def test_a_mixed_batch_is_not_taken_apart() -> None:
    y = torch.arange(4) % 2
    with pytest.raises(ValueError, match="cannot be split"):
        batch(y, Mix(y, 0.5)).part(slice(0, 2))


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
    nothing = {"rows": np.zeros(0, np.int64), "logits": np.zeros((0, 2)), "labels": np.zeros(0, np.int64)}
    for seen in (nothing, {}):
        figures = Label("ab").figures(seen)
        assert figures["n"] == 0 and math.isnan(figures["accuracy"]) and math.isnan(figures["loss"])


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_is_more_than_nothing(wrong: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Label("ab", temperature=wrong)


def test_a_net_that_diverged_has_no_figures() -> None:
    seen = {"rows": np.arange(2), "logits": np.array([[0.0, np.nan], [1.0, 2.0]]), "labels": np.array([0, 1])}
    figures = Label("ab").figures(seen)
    assert figures["n"] == 0 and math.isnan(figures["loss"])
