"""Layers with filters of their own, with flipped filters, and maxout."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import convolve2d
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from neocog.errors import NetError
from neocog.nets.local import LocallyConnected2d, Maxout, MaxoutConv2d, TrueConv2d, three_ways, true_convolution


def macs(module: nn.Module, *shape: int) -> int:
    """Multiply-adds of the operators that run, counted by PyTorch for one input on the meta device."""
    with FlopCounterMode(display=False) as counter:
        module.to("meta", torch.float32)(torch.empty(1, *shape, device="meta"))
    return counter.get_total_flops() // 2


def slow_local(layer: LocallyConnected2d, x: Tensor) -> Tensor:
    """One dot product after the other."""
    before, after = layer._pads
    x = F.pad(x, (before, after, before, after))
    k, s = layer.kernel_size, layer.stride
    rows, columns = layer.output_size
    out = x.new_zeros(len(x), layer.out_channels, rows, columns)
    for b in range(len(x)):
        for m in range(layer.out_channels):
            for i in range(rows):
                for j in range(columns):
                    patch = x[b, :, i * s : i * s + k, j * s : j * s + k]
                    out[b, m, i, j] = (patch * layer.weight[i, j, m]).sum()
                    if layer.bias is not None:
                        out[b, m, i, j] += layer.bias[m, i, j]
    return out


LAYERS = [
    ((3, 4, (6, 5), 3), {}),
    ((2, 3, (7, 8), 3, 2, 1), {}),
    ((2, 1, 6, 4, 1, "same"), {"bias": False}),
    ((1, 2, (5, 7), 3, 2), {"fit": "strict"}),
    ((2, 2, 4, 4), {}),  # one position: a fully connected layer
]


@pytest.mark.parametrize(("sizes", "options"), LAYERS)
def test_locally_connected_is_a_dot_product_at_each_position(sizes: tuple[int, ...], options: dict[str, bool]) -> None:
    torch.manual_seed(0)
    layer = LocallyConnected2d(*sizes, **options).double()
    x = torch.randn(2, layer.in_channels, *layer.input_size, dtype=torch.float64)
    out = layer(x)
    torch.testing.assert_close(out, slow_local(layer, x))
    positions = out.shape[2] * out.shape[3]
    window = layer.kernel_size**2 * layer.in_channels * layer.out_channels
    assert layer.weight.numel() == positions * window
    total = sum(parameter.numel() for parameter in layer.parameters())
    assert total == positions * window + (positions * layer.out_channels if layer.bias is not None else 0)
    assert macs(layer, *x.shape[1:]) == positions * window


def test_gradients_of_locally_connected() -> None:
    torch.manual_seed(0)
    layer = LocallyConnected2d(2, 2, (4, 5), 3, 1, 1).double()
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    values = [x, *layer.parameters()]
    fast = torch.autograd.grad(layer(x).square().sum(), values)
    slow = torch.autograd.grad(slow_local(layer, x).square().sum(), values)
    torch.testing.assert_close(fast, slow)
    assert torch.autograd.gradcheck(layer, x.detach()[:1].requires_grad_())


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2))
def test_equal_filters_everywhere_make_a_convolution(
    channels: int, maps: int, kernel: int, stride: int, padding: int
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, maps, kernel, stride, padding).double()
    layer = LocallyConnected2d(channels, maps, (6, 7), kernel, stride, padding).double()
    with torch.no_grad():
        layer.weight.copy_(conv.weight.expand_as(layer.weight))
        layer.bias.copy_(conv.bias[:, None, None].expand_as(layer.bias))
    x = torch.randn(2, channels, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(x), conv(x))


def test_same_padding_is_that_of_pytorch() -> None:
    torch.manual_seed(0)
    for kernel in (3, 4, 5):
        layer = LocallyConnected2d(1, 2, 7, kernel, padding="same", bias=False).double()
        weight = torch.randn(2, 1, kernel, kernel, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(weight.expand_as(layer.weight))
        x = torch.randn(2, 1, 7, 7, dtype=torch.float64)
        before = (kernel - 1) // 2
        padded = F.pad(x, (before, kernel - 1 - before) * 2)
        torch.testing.assert_close(layer(x), F.conv2d(padded, weight))


def test_locally_connected_refuses_what_it_has_no_filters_for() -> None:
    layer = LocallyConnected2d(1, 2, (5, 6), 3)
    with pytest.raises(NetError, match=r"\(B, 1, 5, 6\), got \(2, 1, 6, 5\); build it with that input_size"):
        layer(torch.zeros(2, 1, 6, 5))
    with pytest.raises(NetError, match=r"doesn't fit.*7x7 input with stride 3"):
        LocallyConnected2d(1, 1, 7, 3, 3, fit="strict")
    with pytest.raises(NetError, match="'same' with stride 1, got 'same' with stride 2"):
        LocallyConnected2d(1, 1, 7, 3, 2, "same")
    with pytest.raises(NetError, match="'strict' or 'floor', got 'ceil'"):
        LocallyConnected2d(1, 1, 7, 3, fit="ceil")


def test_locally_connected_under_bf16_autocast() -> None:
    torch.manual_seed(0)
    layer, x = LocallyConnected2d(3, 4, 8, 3), torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer(x.contiguous(memory_format=torch.channels_last)).float()
    torch.testing.assert_close(low, layer(x), rtol=0.05, atol=0.05)


def test_true_convolution_is_the_sum_with_a_minus() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    weight, bias = torch.randn(2, 3, 3, 3, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    out = true_convolution(x, weight, bias)
    assert out.shape == (2, 2, 3, 4)
    for b, m, i, j in torch.cartesian_prod(torch.arange(2), torch.arange(2), torch.arange(3), torch.arange(4)).tolist():
        total = bias[m].clone()
        for channel in range(3):
            for down in range(3):
                for across in range(3):
                    total += weight[m, channel, down, across] * x[b, channel, i + 2 - down, j + 2 - across]
        torch.testing.assert_close(out[b, m, i, j], total)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
def test_true_convolution_is_scipys_and_commutes(height: int, width: int, side: int) -> None:
    torch.manual_seed(height * 10 + width)
    x, kernel = (torch.randn(1, 1, *size, dtype=torch.float64) for size in ((height, width), (side, side)))
    full = true_convolution(x, kernel, padding=side - 1)
    torch.testing.assert_close(full[0, 0].numpy(), convolve2d(x[0, 0].numpy(), kernel[0, 0].numpy()))
    if height == width:
        torch.testing.assert_close(full, true_convolution(kernel, x, padding=height - 1))


def test_true_convolution_as_a_layer() -> None:
    torch.manual_seed(0)
    layer = TrueConv2d(3, 4, 3, stride=2, padding=1)
    x = torch.randn(2, 3, 7, 7)
    torch.testing.assert_close(layer(x), true_convolution(x, layer.weight, layer.bias, 2, 1))
    correlation = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    correlation.load_state_dict(layer.state_dict())
    assert not torch.allclose(layer(x), correlation(x))
    with torch.no_grad():
        layer.weight.copy_(correlation.weight.flip(2, 3))
    torch.testing.assert_close(layer(x), correlation(x))


def test_maxout_is_the_largest_of_its_pieces() -> None:
    torch.manual_seed(0)
    layer = Maxout(5, 3, pieces=4).double()
    x = torch.randn(2, 6, 5, dtype=torch.float64)
    out = layer(x)
    weight, bias = layer.linear.weight, layer.linear.bias
    for unit in range(3):
        pieces = [x @ weight[row] + bias[row] for row in range(4 * unit, 4 * unit + 4)]
        torch.testing.assert_close(out[..., unit], torch.stack(pieces).amax(0))
    assert sum(parameter.numel() for parameter in layer.parameters()) == 4 * 3 * (5 + 1)

    conv = MaxoutConv2d(2, 3, 3, pieces=2, padding=1, stride=2).double()
    maps = torch.randn(2, 2, 7, 7, dtype=torch.float64)
    whole = conv.conv(maps)
    torch.testing.assert_close(conv(maps), torch.maximum(whole[:, 0::2], whole[:, 1::2]))
    assert sum(parameter.numel() for parameter in conv.parameters()) == 2 * 3 * (2 * 9 + 1)
    for wrong in (Maxout, MaxoutConv2d):
        with pytest.raises(NetError, match="at least 1 piece"):
            wrong(2, 2, *((3,) if wrong is MaxoutConv2d else ()), pieces=0)


def test_maxout_can_be_the_absolute_value() -> None:
    layer = Maxout(1, 1, bias=False)
    with torch.no_grad():
        layer.linear.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    x = torch.linspace(-2, 2, 9)[:, None]
    assert torch.equal(layer(x), x.abs())


def test_three_ways_are_the_lectures() -> None:
    with torch.device("meta"):
        ways = three_ways()
    assert [way.params for way in ways.values()] == [1_600_000_000, 4_000_000, 10_000]
    for way in ways.values():
        assert way.params == sum(parameter.numel() for parameter in way.module.parameters())
        assert way.macs == macs(way.module, 1, 200, 200)
    x = torch.empty(2, 1, 200, 200, device="meta")
    assert [tuple(way.module(x).shape) for way in ways.values()] == [
        (2, 40_000),
        (2, 1, 200, 200),
        (2, 100, 200, 200),
    ]


def test_three_ways_at_a_size_that_runs() -> None:
    torch.manual_seed(0)
    ways = three_ways(size=6, kernel=3, filters=4, channels=2, bias=True)
    x = torch.randn(2, 2, 6, 6)
    for way in ways.values():
        way.module(x).sum().backward()
        assert way.params == sum(parameter.numel() for parameter in way.module.parameters())
        assert way.macs == macs(way.module, 2, 6, 6)
    assert ways["locally_connected"].params == 36 * (9 * 2 + 1)


def test_three_ways_are_rows_of_the_facts(facts_folder: Path) -> None:
    with (facts_folder / "zoo.csv").open(newline="", encoding="utf-8") as lines:
        rows = {row["arch"]: row for row in csv.DictReader(lines)}
    with torch.device("meta"):
        ways = three_ways()
    for arch, name in (
        ("slides:fc_layer_200px_40k", "fully_connected"),
        ("slides:locally_connected_200px_40k", "locally_connected"),
        ("slides:conv_100x10x10", "convolutional"),
    ):
        assert ways[name].params == int(rows[arch]["params"])
        if rows[arch]["macs"]:
            assert ways[name].macs == int(rows[arch]["macs"])
