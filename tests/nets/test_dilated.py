"""Dilated convolution: what it sees, how the context module starts, and the mirrored margin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from neocog import nets
from neocog.errors import NetError
from neocog.nets.dilated import DILATIONS, MARGIN, ContextModule, mirror


def seen(net: nn.Module, channels: int, side: int) -> int:
    """Side of the square of inputs that one output value in the middle depends on."""
    x = torch.zeros(1, channels, side, side, dtype=torch.float64, requires_grad=True)
    out = net.double()(x)
    out[:, :, out.shape[2] // 2, out.shape[3] // 2].sum().backward()
    assert x.grad is not None
    used = x.grad[0].abs().sum(0) > 0
    rows = used.any(1).nonzero()
    size = int(rows.max() - rows.min()) + 1
    assert size == int(used.any(0).nonzero().max() - used.any(0).nonzero().min()) + 1
    assert used.sum() == size**2  # without holes
    return size


def test_field_grows_exponentially_with_dilations_1_2_4() -> None:
    layers = [nn.Conv2d(1, 1, 3, dilation=dilation) for dilation in (1, 2, 4)]
    for layer in layers:
        nn.init.ones_(layer.weight)
    fields = [seen(nn.Sequential(*layers[:number]), 1, 31) for number in (1, 2, 3)]
    assert fields == [3, 7, 15] == [2 ** (i + 2) - 1 for i in range(3)]
    assert sum(layer.weight.numel() for layer in layers) == 27


def test_fields_of_the_context_module_are_the_papers() -> None:
    fields = [1]
    for dilation in DILATIONS:
        fields.append(fields[-1] + 2 * dilation)
    assert fields[1:] == [3, 5, 9, 17, 33, 65, 67]
    net = ContextModule(1)
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 0.1)
            nn.init.constant_(layer.bias, 0.1)  # no ReLU is closed
    assert seen(net, 1, 81) == 67


@pytest.mark.parametrize(
    ("size", "noise", "tolerance"), [("basic", 0.01, 1e-12), ("large", 0, 1e-12), ("large", 0.01, 0.1)]
)
def test_context_module_starts_as_the_identity(size: str, noise: float, tolerance: float) -> None:
    torch.manual_seed(0)
    net = ContextModule(6, size, noise).double()
    x = torch.rand(2, 6, 11, 9, dtype=torch.float64)
    with torch.no_grad():
        out = net(x)
        assert out.shape == x.shape
        assert (out - x).norm() <= tolerance * x.norm()
        assert torch.equal(net(-x), torch.zeros_like(x)) or noise  # values below 0 are cut off


@pytest.mark.parametrize("classes", [2, 21])
def test_weights_of_the_context_module(classes: int) -> None:
    def weights(net: nn.Module) -> list[tuple[int, ...]]:
        return [tuple(layer.weight.shape) for layer in net if isinstance(layer, nn.Conv2d)]

    with torch.device("meta"):
        basic, large = weights(ContextModule(classes)), weights(ContextModule(classes, "large"))
    assert sum(int(np.prod(shape)) for shape in basic) == 64 * classes**2
    assert [shape[0] // classes for shape in large] == [2, 2, 4, 8, 16, 32, 32, 1]
    with pytest.raises(NetError, match="'basic' or 'large', got 'huge'"):
        ContextModule(classes, "huge")


@given(st.tuples(st.integers(2, 9), st.integers(2, 9)), st.tuples(*[st.integers(0, 40)] * 4))
def test_mirror_continues_pictures(sides: tuple[int, int], margins: tuple[int, int, int, int]) -> None:
    x = torch.randn(1, 2, *sides)
    left, right, top, bottom = margins
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (top, bottom), (left, right)), mode="reflect")
    assert np.array_equal(mirror(x, *margins).numpy(), expected)


def test_front_end_keeps_the_weights_and_an_eighth_of_the_size() -> None:
    with torch.device("meta"):
        front, plain = nets.build("dilated_frontend"), nets.build("fcn32s_vgg16")
        assert front.trunk(torch.empty(1, 3, 900, 900)).shape == (1, 4096, 66, 66)  # the authors' file
        assert (900 - 2 * MARGIN) // 8 == 66
        field, jump = 1, 1
        for layer in front.trunk:
            if isinstance(layer, nn.Conv2d):
                field += (layer.kernel_size[0] - 1) * layer.dilation[0] * jump
            elif isinstance(layer, nn.MaxPool2d):
                field, jump = field + jump, jump * 2
    assert (field, jump) == (380, 8)
    shapes = [{name: value.shape for name, value in net.trunk.state_dict().items()} for net in (front, plain)]
    assert shapes[0] == shapes[1]  # so the weights of the classifier fit


@pytest.mark.parametrize("name", ["dilated_frontend", "dilated_context", "dilated_context_large"])
def test_any_size_gives_scores_of_that_size(name: str) -> None:
    with torch.device("meta"):
        net = nets.build(name)
        for height, width in ((528, 528), (2, 2), (61, 507)):
            assert net(torch.empty(1, 3, height, width)).shape == (1, 21, height, width)
        with pytest.raises(NetError, match="at least 2x2, got 1x9"):
            net(torch.empty(1, 3, 1, 9))
    assert sum(value.numel() for value in net.parameters() if not value.requires_grad) == 21 * 16 * 16


def test_context_of_a_new_net_leaves_the_scores_alone() -> None:
    torch.manual_seed(0)
    net = nets.build("dilated_context", width=1 / 32, classes=4).eval()
    nn.init.constant_(net.final.bias, 10.0)  # scores above 0
    x = torch.randn(1, 3, 24, 16)
    with torch.no_grad():
        whole = net(x)
        net.context = nn.Identity()
        torch.testing.assert_close(whole, net(x))
