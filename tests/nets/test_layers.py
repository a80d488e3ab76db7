"""Layers that PyTorch lacks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neocog.errors import NetError
from neocog.nets.layers import PadShortcut, PartialConv2d, StochasticDepth, Subsampling, check_input, survival_rule

TABLES = st.lists(st.sets(st.integers(0, 4), min_size=1).map(sorted), min_size=1, max_size=7)


@given(TABLES)
def test_partial_convolution_is_a_masked_convolution(table: list[list[int]]) -> None:
    torch.manual_seed(0)
    layer = PartialConv2d(5, table, 3).double()
    assert sum(parameter.numel() for parameter in layer.parameters()) == sum(9 * len(row) + 1 for row in table)
    x = torch.randn(2, 5, 6, 6, dtype=torch.float64)
    out = layer(x)
    # find each output map's full filter bank by what single points of each input map do to it
    zero = layer(torch.zeros_like(x))
    masked = torch.zeros(len(table), 5, 3, 3, dtype=torch.float64)
    for channel in range(5):
        point = torch.zeros(1, 5, 5, 5, dtype=torch.float64)
        point[0, channel, 2, 2] = 1
        masked[:, channel] = (layer(point)[0] - zero[0, :, :1, :1]).flip(1, 2)
    for row, filters in zip(table, masked, strict=True):
        assert {channel for channel in range(5) if filters[channel].abs().sum() > 0} == set(row)
    torch.testing.assert_close(out, F.conv2d(x, masked, zero[0, :, 0, 0]))


def test_partial_convolution_refuses_a_table_with_holes() -> None:
    for table in ([[0], []], [[0, 3]], [[-1]]):
        with pytest.raises(NetError, match="names inputs from 0 to 2"):
            PartialConv2d(3, table, 3)


def test_subsampling_is_coefficient_times_sum_plus_bias() -> None:
    layer = Subsampling(2)
    x = torch.arange(32.0).reshape(1, 2, 4, 4)
    torch.testing.assert_close(layer(x), F.avg_pool2d(x, 2))  # as it starts
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([2.0, 3.0]))
        layer.bias.copy_(torch.tensor([1.0, -1.0]))
    assert layer(x)[0, 0, 0, 0].item() == 2 * (0 + 1 + 4 + 5) + 1
    assert layer(x)[0, 1, 1, 1].item() == 3 * (26 + 27 + 30 + 31) - 1


@pytest.mark.parametrize("size", [7, 8])
def test_pad_shortcut(size: int) -> None:
    x = torch.randn(2, 3, size, size)
    picked, averaged = PadShortcut(5, 2)(x), PadShortcut(5, 2, average=True)(x)
    assert picked.shape == averaged.shape == (2, 5, 4, 4)  # what a 3x3 convolution with stride 2 and padding 1 gives
    assert torch.equal(picked[:, :3], x[:, :, ::2, ::2])
    torch.testing.assert_close(averaged[:, :3, :3, :3], F.avg_pool2d(x, 2)[:, :, :3, :3])
    assert not picked[:, 3:].any() and not averaged[:, 3:].any()
    assert torch.equal(PadShortcut(4)(x)[:, :3], x)


def test_linear_decay_has_the_papers_expected_depth() -> None:
    survival = survival_rule(54, 0.5)
    assert sum(survival) == pytest.approx((3 * 54 - 1) / 4)  # 40.25 of 54 blocks
    assert survival[-1] == 0.5
    assert survival == sorted(survival, reverse=True)


def double(x: Tensor) -> Tensor:
    return 2 * x


def test_stochastic_depth_as_published() -> None:
    torch.manual_seed(0)
    layer = StochasticDepth(0.7)
    shortcut, x = torch.ones(8, 3, 2, 2), torch.full((8, 3, 2, 2), 5.0)
    calls: list[Tensor] = []

    def branch(value: Tensor) -> Tensor:
        calls.append(value)
        return 2 * value

    outs = [layer(shortcut, branch, x) for _ in range(1000)]
    kept = sum(bool((out == 11).all()) for out in outs)
    assert kept + sum(bool((out == 1).all()) for out in outs) == 1000  # whole batches, unscaled
    assert len(calls) == kept  # a dropped branch is not computed
    assert 0.65 < kept / 1000 < 0.75
    torch.testing.assert_close(layer.eval()(shortcut, double, x), shortcut + 0.7 * 10)


def test_stochastic_depth_scaled() -> None:
    torch.manual_seed(0)
    layer = StochasticDepth(0.8, "scaled")
    shortcut, x = torch.zeros(2000, 1, 1, 1), torch.ones(2000, 1, 1, 1)
    out = layer(shortcut, double, x)
    assert set(out.flatten().tolist()) == {0.0, 2.5}  # each picture for itself, survivors divided by 0.8
    assert out.mean().item() == pytest.approx(2, rel=0.05)
    assert torch.equal(layer.eval()(shortcut, double, x), 2 * x)


def test_stochastic_depth_refuses_nonsense() -> None:
    for survival in (0, 1.5, -1):
        with pytest.raises(NetError, match="survival probability"):
            StochasticDepth(survival)
    with pytest.raises(NetError, match="'paper' or 'scaled'"):
        StochasticDepth(0.5, "row")


def test_check_input_says_what_to_do() -> None:
    check_input(torch.zeros(1, 3, 8, 8), 3, 8)
    with pytest.raises(NetError, match=r"\(B, 3, H, W\), got \(1, 1, 8, 8\).*in_channels"):
        check_input(torch.zeros(1, 1, 8, 8), 3)
    with pytest.raises(NetError, match=r"expected pictures of shape"):
        check_input(torch.zeros(3, 8, 8), 3)
    with pytest.raises(NetError, match="at least 16x16, got 8x20"):
        check_input(torch.zeros(1, 3, 8, 20), 3, 16)
