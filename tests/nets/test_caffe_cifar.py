"""Caffe's nets for CIFAR-10: sizes, within-channel normalisation, other inputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from neocog import nets
from neocog.errors import NetError
from neocog.nets.caffe_cifar import SpatialResponseNorm

NAMES = nets.names("caffe_cifar")


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3, 5]))
def test_norm_within_a_channel(height: int, width: int, size: int) -> None:
    torch.manual_seed(height * 10 + width)
    x = 50 * torch.randn(2, 3, height, width, dtype=torch.float64)
    expected = torch.empty_like(x)
    reach = size // 2
    for i in range(height):
        for j in range(width):
            window = x[:, :, max(0, i - reach) : i + reach + 1, max(0, j - reach) : j + reach + 1]
            mean = window.square().sum((2, 3)) / size**2  # places beyond the border count as zeros
            expected[:, :, i, j] = x[:, :, i, j] / (1 + 5e-5 * mean) ** 0.75
    torch.testing.assert_close(SpatialResponseNorm(size)(x), expected)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_are_caffes(name: str) -> None:
    net, shapes = nets.build(name), {}
    for key, layer in net.named_children():
        layer.register_forward_hook(lambda layer, args, out, key=key: shapes.__setitem__(key, tuple(out.shape[1:])))
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    pools = [shapes[f"pool{number}"] for number in (1, 2, 3)]
    assert pools == [(32, 16, 16), (32, 8, 8), (64, 4, 4)]
    normed = [key for key, layer in net.named_children() if isinstance(layer, SpatialResponseNorm)]
    assert normed == (["norm1", "norm2"] if name.endswith("full") else [])
    assert isinstance(net.pool1, nn.MaxPool2d) and isinstance(net.pool2, nn.AvgPool2d)
    assert nets.head_of(net).in_features == (1024 if name.endswith("full") else 64)


@pytest.mark.parametrize("name", NAMES)
def test_other_sizes(name: str) -> None:
    for size in (8, 9, 11, 28, 33, 47):
        net = nets.build(name, classes=4, in_channels=1, input_size=size)
        assert net(torch.zeros(2, 1, size, size)).shape == (2, 4)
    with pytest.raises(NetError, match=r"built for pictures of 47x47, got 32x32.*input_size=32"):
        net(torch.zeros(1, 1, 32, 32))
    with pytest.raises(NetError, match="at least 8x8, got input_size=7"):
        nets.build(name, input_size=7)


@pytest.mark.parametrize("name", NAMES)
def test_learns_colours(name: str) -> None:
    torch.manual_seed(0)
    net = nets.build(name, classes=3, input_size=8)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    y = torch.arange(24) % 3
    x = 0.3 * torch.randn(24, 3, 8, 8) + nn.functional.one_hot(y, 3)[:, :, None, None]
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert (net(x).argmax(1) == y).double().mean() > 0.9
