"""DeconvNet: unpooling with switches, transposed convolution, and the numbers of the authors' file."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from neocog import nets
from neocog.errors import NetError
from neocog.nets.deconvnet import decode, encode

SIDES = st.integers(1, 17)


def poolings(levels: int) -> tuple[nn.Sequential, nn.Sequential]:
    down = nn.Sequential(*(nn.MaxPool2d(2, ceil_mode=True, return_indices=True) for _ in range(levels)))
    return down, nn.Sequential(*(nn.MaxUnpool2d(2) for _ in range(levels)))


@given(SIDES, SIDES, st.integers(1, 4))
def test_unpooling_puts_values_back_where_they_came_from(height: int, width: int, levels: int) -> None:
    torch.manual_seed(height * width)
    x = torch.rand(2, 3, height, width) + 0.1
    down, up = poolings(levels)
    top, switches = encode(down, x)
    back = decode(up, top, switches)
    assert back.shape == x.shape
    assert torch.equal(back[back != 0], x[back != 0])
    # one value for each window, and it is the largest there
    window = 2**levels
    assert ((back != 0).sum((2, 3)) == -(-height // window) * -(-width // window)).all()
    assert torch.equal(F.max_pool2d(back, window, ceil_mode=True), F.max_pool2d(x, window, ceil_mode=True))


@given(SIDES, SIDES)
def test_unpooling_is_the_transpose_of_pooling(height: int, width: int) -> None:
    """For fixed switches, <pool(x), y> = <x, unpool(y)>."""
    torch.manual_seed(height + width)
    down, up = poolings(1)
    x = torch.randn(1, 2, height, width, dtype=torch.float64)
    top, switches = encode(down, x)
    y = torch.randn_like(top)
    torch.testing.assert_close((top * y).sum(), (x * decode(up, y, switches)).sum())


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(0, 4))
def test_transposed_convolution_is_the_transpose_of_convolution(
    kernel: int, stride: int, padding: int, more: int
) -> None:
    """<conv(x), y> = <x, conv_T(y)> with the same weights, and sizes S (W - 1) + F - 2 P."""
    torch.manual_seed(kernel * stride)
    padding = min(padding, (kernel - 1) // 2)
    side = 2 + more
    conv = nn.Conv2d(3, 2, kernel, stride, padding, bias=False).double()
    transposed = nn.ConvTranspose2d(2, 3, kernel, stride, padding, bias=False).double()
    transposed.weight = conv.weight
    y = torch.randn(1, 2, side, side, dtype=torch.float64)
    back = transposed(y)
    assert back.shape[2] == stride * (side - 1) + kernel - 2 * padding
    x = torch.randn_like(back)
    torch.testing.assert_close((conv(x) * y).sum(), (x * back).sum())


def test_numbers_are_the_authors() -> None:
    with torch.device("meta"):
        net = nets.build("deconvnet")
    weights = biases = norms = 0
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            weights, biases = weights + layer.weight.numel(), biases + layer.bias.numel()
        elif isinstance(layer, nn.BatchNorm2d):
            norms += 2 * layer.num_features
    assert (weights, biases, norms) == (251_755_520, 16_725, 33_408)
    widths = [layer.out_channels for layer in net.decoder if isinstance(layer, nn.ConvTranspose2d)]
    assert widths == [512, 512, 512, 512, 512, 256, 256, 256, 128, 128, 64, 64, 64]


def test_input_size_sets_the_filters_of_fc6() -> None:
    for size, kernel in ((224, 7), (448, 7), (192, 6), (64, 2), (33, 2), (32, 1)):
        net = nets.build("deconvnet", input_size=size, width=1 / 32).eval()
        assert net.middle.fc6.kernel_size == net.middle.fc6_deconv.kernel_size == (kernel, kernel)
        for height, width in ((size, size), (size + 37, size + 5)):
            assert net(torch.randn(1, 3, height, width)).shape == (1, 21, height, width)
    with pytest.raises(NetError, match="at least 193x193, got 192x224"):
        nets.build("deconvnet", width=1 / 32)(torch.randn(1, 3, 192, 224))
