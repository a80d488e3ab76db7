"""Ranks, recalls and the losses of matching, against what they are by their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from neocog.tasks.ranking import both_ways, figures_of, matching_loss, ranks


def test_ranks_are_those_of_the_closest_right_answer() -> None:
    first = np.eye(3, dtype=np.float32)
    second = np.array([[0, 1, 0], [0.6, 0.8, 0], [0.6, 0, 0.8], [0, 0.6, 0.8], [1, 0, 0]], np.float32)
    owner = np.array([0, 0, 1, 2, 2])
    forward, backward = ranks(first, second, owner)
    # picture 0: its best has 0.6; 1.0 and 0.6 of others stand before it
    assert forward.tolist() == [3, 5, 2]  # equal ones stand before it
    assert backward.tolist() == [3, 2, 3, 1, 3]
    shuffled = np.array([3, 0, 4, 1, 2])
    again = ranks(first, second[shuffled], owner[shuffled])
    assert again[0].tolist() == forward.tolist() and again[1].tolist() == backward[shuffled].tolist()


def test_equal_vectors_find_nothing() -> None:
    first, second = np.ones((4, 1), np.float32), np.ones((8, 1), np.float32)
    forward, backward = ranks(first, second, np.repeat(np.arange(4), 2))
    assert forward.tolist() == [7] * 4 and backward.tolist() == [4] * 8


def test_figures_leave_out_who_has_no_answer() -> None:
    found = figures_of(np.array([1, 4, 0, 20]), "there")
    assert found["there_recall_at_1"] == pytest.approx(1 / 3) and found["there_recall_at_5"] == pytest.approx(2 / 3)
    assert found["there_median_rank"] == 4 and found["there_mrr"] == pytest.approx((1 + 1 / 4 + 1 / 20) / 3)


def test_the_softmax_is_that_of_the_paper_where_each_query_has_one_answer() -> None:
    torch.manual_seed(0)
    cosines, gamma = torch.rand(5, 5) * 2 - 1, torch.tensor(10.0)
    found = matching_loss(cosines, torch.eye(5, dtype=torch.bool), gamma)
    assert found.item() == pytest.approx(torch.nn.functional.cross_entropy(gamma * cosines, torch.arange(5)).item())


def test_another_right_answer_is_no_negative() -> None:
    cosines = torch.tensor([[0.5, 0.9, -0.5]])
    both = torch.tensor([[True, True, False]])
    each = [math.log(1 + math.exp(10 * (-0.5 - c))) for c in (0.5, 0.9)]
    assert matching_loss(cosines, both, torch.tensor(10.0)).item() == pytest.approx(sum(each) / 2, rel=1e-4)
    assert matching_loss(cosines, both, torch.tensor(1.0), loss="hardest", margin=0.2).item() == 0.0


def test_hinges_are_the_sum_or_the_worst() -> None:
    cosines = torch.tensor([[0.5, 0.4, 0.6, -0.9]])
    right, gamma = torch.tensor([[True, False, False, False]]), torch.tensor(1.0)
    assert matching_loss(cosines, right, gamma, loss="hinge", margin=0.2).item() == pytest.approx(0.1 + 0.3)
    assert matching_loss(cosines, right, gamma, loss="hardest", margin=0.2).item() == pytest.approx(0.3)


def test_hard_negatives_are_the_nearest() -> None:
    cosines = torch.tensor([[0.5, 0.4, 0.6, -0.9]])
    right, gamma = torch.tensor([[True, False, False, False]]), torch.tensor(4.0)
    found = matching_loss(cosines, right, gamma, negatives=1, hard=True).item()
    assert found == pytest.approx(math.log(1 + math.exp(4 * 0.1)), rel=1e-4)
    some = {round(matching_loss(cosines, right, gamma, negatives=1).item(), 4) for _ in range(60)}
    assert len(some) == 3  # each of the wrong ones, by chance


def test_gradients_are_finite_without_a_negative_or_a_question() -> None:
    cosines = torch.tensor([[0.5]], requires_grad=True)
    matching_loss(cosines, torch.tensor([[True]]), torch.tensor(10.0)).backward()
    assert torch.isfinite(cosines.grad).all()  # type: ignore[arg-type]
    assert matching_loss(cosines, torch.tensor([[False]]), torch.tensor(10.0)).item() == 0.0


def test_the_loss_of_a_split_is_that_of_one_large_batch() -> None:
    random = np.random.default_rng(0)
    first, second = (random.normal(size=(n, 4)).astype(np.float32) for n in (3, 6))
    owner = np.repeat(np.arange(3), 2)
    positive = torch.from_numpy(np.arange(3)[:, None] == owner[None])
    cosines, gamma = torch.from_numpy(first @ second.T), torch.tensor(2.0)
    expected = (matching_loss(cosines, positive, gamma) + matching_loss(cosines.T, positive.T, gamma)) / 2
    both = both_ways(first, second, (owner, np.arange(6)), 2.0)
    assert np.mean([one.loss for one in both]) == pytest.approx(expected.item(), rel=1e-5)
