"""Schedules are pure functions of progress; recipes are data that can be changed by text."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neocog.errors import UsageError
from neocog.fit.recipes import RECIPES, Recipe, choose_batch, recipe
from neocog.fit.schedules import SCHEDULES, schedule, side, warmed


@pytest.mark.parametrize("name", SCHEDULES)
@given(progress=st.floats(0, 1))
@settings(deadline=None, max_examples=30)
def test_factors_lie_between_0_and_1(name: str, progress: float) -> None:
    assert -1e-12 <= schedule(name)(progress) <= 1 + 1e-12


def test_known_values() -> None:
    assert [schedule("steps")(p) for p in (0.0, 0.49, 0.5, 0.74, 0.75, 1.0)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    assert schedule("cosine")(0.5) == pytest.approx(0.5)
    assert schedule("linear")(0.25) == 0.75
    assert schedule("triangle")(0.2) == 1 and schedule("triangle")(1.0) == 0
    assert schedule("triangle")(0.6) == pytest.approx(0.5)
    assert warmed(1.0, 0.05, 0.1) == pytest.approx(0.51) and warmed(0.5, 0.3, 0.1) == 0.5


def test_pictures_grow_in_eighths() -> None:
    shares = (0.0, 0.34, 0.36, 0.69, 0.7, 1.0)
    assert [side(32, 0.75, 0.7, p) for p in shares] == [24, 24, 28, 28, 32, 32]
    assert [side(224, 0.5, 0.8, p) for p in (0.0, 0.2, 0.4, 0.6, 0.8)] == [112, 140, 168, 196, 224]
    assert side(32, 1.0, 0.7, 0.0) == 32


@given(st.integers(1, 600), st.floats(0.01, 1.0), st.floats(0.01, 1.0), st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None)
def test_pictures_never_shrink(whole: int, small: float, until: float, one: float, other: float) -> None:
    early, late = sorted((one, other))
    first, then = side(whole, small, until, early), side(whole, small, until, late)
    assert 1 <= first <= then <= whole
    assert side(whole, small, until, 1.0) == whole


def test_errors_name_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'cosine'"):
        schedule("cosin")
    with pytest.raises(UsageError, match="did you mean 'paper-resnet'"):
        recipe("paper-resnt")
    with pytest.raises(UsageError, match="did you mean 'momentum'"):
        recipe("fast", momentun=0.9)
    with pytest.raises(UsageError, match="--set lr= needs a value of type float, not 'fast'"):
        recipe("fast", lr="fast")


def test_text_becomes_the_type_of_the_field() -> None:
    changed = recipe("standard", lr="0.5", batch_size="64", nesterov="false", schedule="cosine")
    assert (changed.lr, changed.batch_size, changed.nesterov, changed.schedule) == (0.5, 64, False, "cosine")
    assert RECIPES["standard"].lr != 0.5


def test_recipes_are_json_able_and_come_back() -> None:
    for r in RECIPES.values():
        assert Recipe(**r.as_dict()) == r
        assert r.about and r.schedule in SCHEDULES
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECIPES["fast"].lr = 1.0  # type: ignore[misc]


def test_the_papers_numbers() -> None:
    alexnet, resnet = RECIPES["paper-alexnet"], RECIPES["paper-resnet"]
    assert (alexnet.batch_size, alexnet.momentum, alexnet.lr, alexnet.weight_decay) == (128, 0.9, 0.01, 5e-4)
    assert alexnet.dropout == 0.5 and alexnet.stall > 0
    assert (resnet.batch_size, resnet.momentum, resnet.lr, resnet.weight_decay) == (128, 0.9, 0.1, 1e-4)
    assert resnet.crop == 4 and resnet.schedule == "steps"


@given(st.integers(1, 5000), st.integers(1, 100_000), st.integers(1, 8))
@settings(deadline=None)
def test_batches_can_be_shared_and_are_no_larger_than_the_data(wanted: int, pictures: int, world: int) -> None:
    batch = choose_batch(wanted, pictures, world)
    assert batch % world == 0
    assert world == 1 or batch < 2 * world or batch // world % 2 == 0  # pictures are mixed in pairs
    if pictures >= world:
        assert batch <= max(wanted, world) and batch <= max(pictures, world)
