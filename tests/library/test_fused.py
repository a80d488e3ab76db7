"""Fused convolutions: the same function for every pattern that may and that may not be fused, and what is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from library.test_embed import NET, pixels, weights  # noqa: F401 (fixtures)
from torch import nn

from neocog.fit.device import Device
from neocog.library import fused
from neocog.library.embed import FUSE_FROM, MEASURE_FROM, Embedder, _folded
from neocog.library.fused import FusedConv, fuse, usable
from neocog.nets import build

SIDE = 64
needs_operators = pytest.mark.skipif(not usable(), reason="this PyTorch has no fused convolutions")


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fused_layers(net: nn.Module) -> list[FusedConv]:
    return [m for m in net.modules() if isinstance(m, FusedConv)]


@torch.inference_mode()
def differ(net: nn.Module, made: nn.Module, x: torch.Tensor) -> float:
    """Largest difference from the net in float64, in units of its largest output."""
    expected = net.double()(x.double())
    net.float()
    return float((made(x) - expected).abs().max() / expected.abs().max())


def with_statistics(net: nn.Module) -> nn.Module:
    """Batch normalisation that is not the identity."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                value.copy_(torch.rand(value.shape, generator=torch.Generator().manual_seed(len(value))) + 0.5)
    return net.eval()


@needs_operators
@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("mobilenet_v1_025", {}, 27),
        ("mobilenet_v1_025", {"padding": "tensorflow"}, 27),
        ("mobilenet_v2_035", {}, 52),
        ("efficientnet_lite0", {}, 49),
        ("resnet18", {}, 20),
        ("squeezenet1_1", {}, 26),
        (NET, {}, 19),
        pytest.param("vgg11_bn", {}, 8, marks=pytest.mark.slow),
        pytest.param("densenet121", {}, 120, marks=pytest.mark.slow),
        pytest.param("googlenet", {}, 57, marks=pytest.mark.slow),
    ],
)
def test_nets_of_the_zoo_keep_their_function(name, options, count):
    torch.manual_seed(0)
    net = with_statistics(build(name, **options))
    side = 32 if name == NET else SIDE
    made, found = fuse(_folded(net, (3, side, side)), (3, side, side))
    assert found == count == len(fused_layers(made))
    x = some(3, 3, side, side)
    assert differ(net, made, x) < 1e-4
    with torch.inference_mode():
        expected = net(x)
        if usable(torch.bfloat16):
            with torch.autocast("cpu", torch.bfloat16):
                exact = (net(x) - expected).abs().max()
                assert (made(x) - expected).abs().max() < 2 * exact + 0.02 * expected.abs().max()


@needs_operators
@pytest.mark.parametrize("size", [(16, 16), (17, 16), (9, 14)])
@pytest.mark.parametrize("groups", [1, 4])
def test_one_sided_padding_at_any_size(size, groups):
    """The padding follows the size of each input, as it does in the net."""
    from neocog.nets.gates import SameConv2d

    net = nn.Sequential(SameConv2d(4, 8, 3, 2, groups=groups), nn.BatchNorm2d(8), nn.ReLU6(), SameConv2d(8, 4, 5, 3))
    with_statistics(net)
    made, count = fuse(net, (4, 16, 16))
    assert count == 2 and not any(isinstance(m, nn.BatchNorm2d | nn.ReLU6) for m in made)
    assert differ(net, made, some(2, 4, *size)) < 1e-5


class Odd(nn.Module):
    """What must not be fused: outputs read twice, a shared activation, a shared filter, a filter used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d, self.e = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(5))
        self.c.weight = self.b.weight
        self.circular = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
        self.norm = nn.BatchNorm2d(4)
        self.relu, self.relu_a, self.relu6 = nn.ReLU(inplace=True), nn.ReLU(), nn.ReLU6(inplace=True)
        self.limits = nn.Hardtanh(-0.5, 0.25, inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        x = self.relu_a(a) - a  # read twice
        x = self.relu6(self.circular(self.c(self.b(x))))
        x = self.limits(self.norm(self.d(x)))
        x = self.relu(self.e(x)) + self.e(-x)  # used twice
        return self.relu(x + 1)


@needs_operators
def test_what_cannot_be_fused_is_left_alone():
    torch.manual_seed(0)
    net = with_statistics(Odd())
    before = {key: value.clone() for key, value in net.state_dict().items()}
    made, count = fuse(net, (4, 8, 8))
    assert {name for name, m in made.named_modules() if isinstance(m, FusedConv)} == {"a", "d"} and count == 2
    assert made.a.kind == "none" and made.d.kind == "hardtanh" and isinstance(made.norm, nn.Identity)
    assert differ(net, made, some(2, 4, 8, 8)) < 1e-5
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())  # a copy was changed


@needs_operators
def test_a_layer_that_is_looked_at_keeps_its_output():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)).eval()
    x = some(1, 3, 8, 8)
    for keep in ("0", "1", "2"):
        made = fuse(with_statistics(net), (3, 8, 8), keep)[0]
        seen: list[torch.Tensor] = []
        for one in (net, made):
            one.get_submodule(keep).register_forward_hook(lambda module, given, out, to=seen: to.append(out.clone()))
        with torch.inference_mode():
            net(x), made(x)
        torch.testing.assert_close(seen[1], seen[0], atol=1e-5, rtol=1e-5)
        net.get_submodule(keep)._forward_hooks.clear()


def test_nothing_to_fuse_gives_the_net_itself():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    assert fuse(net, (3, 2, 2)) == (net, 0)


@needs_operators
@pytest.mark.parametrize("bf16", [False, True])
def test_the_embedder_says_that_it_fused_and_gives_the_same(weights, pixels, monkeypatch, bf16):  # noqa: F811
    if bf16 and not usable(torch.bfloat16):
        pytest.skip("no bfloat16")
    monkeypatch.setattr("neocog.fit.device.choose", lambda wanted: Device("cpu", bf16=bf16, channels_last=True))
    plain, made = Embedder(NET, weights), Embedder(NET, weights, amount=MEASURE_FROM)
    assert "convolutions fused with their activations" in made.how and "fused" not in plain.how
    (features, chances), (expected, theirs) = made.embed(pixels), plain.embed(pixels)
    tolerance = 0.03 if bf16 else 1e-5
    np.testing.assert_allclose(features, expected, atol=tolerance * abs(expected).max(), rtol=0)
    np.testing.assert_allclose(chances, theirs, atol=0.05 if bf16 else 1e-5, rtol=0)


@needs_operators
def test_the_embedder_of_a_layer_fuses_around_it(weights, pixels):  # noqa: F811
    for layer in ("conv1", "layer2"):
        plain, made = Embedder(NET, weights, layer=layer), Embedder(NET, weights, layer=layer, amount=FUSE_FROM)
        assert "fused" in made.how
        np.testing.assert_allclose(made.embed(pixels[:3])[0], plain.embed(pixels[:3])[0], atol=1e-4, rtol=1e-4)


def test_without_the_operators_the_net_stays_as_it_is(weights, pixels, monkeypatch):  # noqa: F811
    monkeypatch.setattr(fused, "usable", lambda dtype=torch.float32: False)
    made = Embedder(NET, weights, amount=FUSE_FROM)
    assert "fused" not in made.how and not fused_layers(made._net) and made.embed(pixels[:2])[0].shape == (2, 64)
