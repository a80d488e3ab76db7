"""Maps of what speaks for a score: against captum, closed forms, and the DeconvNet of the paper written out."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neocog.errors import UsageError
from neocog.look import maps
from neocog.nets.taps import tapped


class Small(nn.Module):
    """Two stages with max-pooling; ReLU in place, or as a function."""

    def __init__(self, way: str = "module", classes: int = 3) -> None:
        super().__init__()
        self.way = way
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.relu1, self.relu2 = nn.ReLU(way == "inplace"), nn.ReLU(way == "inplace")
        self.pool1, self.pool2 = nn.MaxPool2d(2), nn.MaxPool2d(2)
        self.fc = nn.Linear(8 * 16, classes)

    def _relu(self, x: Tensor, module: nn.Module) -> Tensor:
        if self.way == "function":
            return F.relu(x)
        if self.way == "written":  # and what it returns is not read
            F.relu_(x)
            return x
        if self.way == "clamp":
            return x.clamp(min=0)
        return module(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self._relu(self.conv1(x), self.relu1))
        x = self.pool2(self._relu(self.conv2(x), self.relu2))
        return self.fc(x.flatten(1))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def plain() -> Small:
    torch.manual_seed(0)
    return Small().eval()


def like(net: Small, way: str) -> Small:
    made = Small(way).eval()
    made.load_state_dict(net.state_dict())
    return made


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def score(net: nn.Module) -> maps.Score:
    return lambda x: net(x)[:, 1]


@pytest.fixture
def attr():  # type: ignore[no-untyped-def]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("captum.attr")


def test_gradient_guided_and_deconvolution_are_captums(plain, x, attr):
    f = score(plain)
    for ours, theirs in (
        (maps.gradient(f, x).abs(), attr.Saliency(plain)),
        (maps.gradient(f, x, "guided"), attr.GuidedBackprop(copy.deepcopy(plain))),
        (maps.gradient(f, x, "deconvnet"), attr.Deconvolution(copy.deepcopy(plain))),
    ):
        assert torch.allclose(ours, theirs.attribute(x.clone(), target=1), atol=1e-6), type(theirs).__name__


def test_integrated_gradients_are_captums_and_complete(plain, x, attr):
    f, base = score(plain), torch.full((1, 3, 16, 16), 0.3)
    for b in (None, base):
        ours = maps.integrated(f, x, baseline=b)
        theirs = attr.IntegratedGradients(plain).attribute(
            x, baselines=0 if b is None else b.expand_as(x), target=1, n_steps=50
        )
        assert torch.allclose(ours, theirs, atol=1e-6)
    fine = maps.integrated(f, x, baseline=base, steps=400).sum((1, 2, 3))
    with torch.no_grad():
        assert torch.allclose(fine, f(x) - f(base), atol=2e-3)


def test_occlusion_is_captums(plain, x, attr):
    ours = maps.occlusion(score(plain), x, window=5, stride=3, fill=0.5)
    theirs = attr.Occlusion(plain).attribute(x, (3, 5, 5), (3, 3, 3), baselines=0.5, target=1)[:, 0]
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_gradcam_is_captums(plain, x, attr):
    for layer in ("pool1", "conv2"):
        ours = maps.gradcam(score(plain), plain, x, layer)
        theirs = attr.LayerGradCam(plain, plain.get_submodule(layer)).attribute(x, target=1, relu_attributions=True)
        theirs = attr.LayerAttribution.interpolate(theirs, (16, 16), "bilinear")[:, 0].detach()
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_smoothgrad_is_captums_on_the_same_noise(plain, x, attr):
    one = x[:1]
    span = float(one.max() - one.min())
    ours = maps.smoothgrad(score(plain), one, samples=12, noise=0.2, seed=5)
    noise = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    each = attr.Saliency(plain).attribute(one + 0.2 * span * noise, target=1, abs=False)
    assert torch.allclose(ours[0], each.mean(0), atol=1e-6)


@pytest.mark.parametrize("way", ["inplace", "function", "written", "clamp"])
def test_rectifiers_of_every_kind_follow_the_rules(plain, x, way):
    net = like(plain, way)
    for rule in ("guided", "deconvnet"):
        wanted = maps.gradient(score(plain), x, rule)
        assert torch.allclose(maps.gradient(score(net), x, rule), wanted, atol=1e-6), rule
    assert torch.allclose(maps.gradient(score(net), x), maps.gradient(score(plain), x), atol=1e-6)


def test_the_deconvnet_is_the_one_of_the_paper(plain, x):
    """Unpool with the switches, rectify, filter with the transposed filters, written out (Zeiler and Fergus 2013)."""
    for net in (plain, like(plain, "inplace")):
        a1 = F.relu(net.conv1(x))
        p1, switches1 = F.max_pool2d(a1, 2, return_indices=True)
        a2 = F.relu(net.conv2(p1))
        p2, switches2 = F.max_pool2d(a2, 2, return_indices=True)
        unit = int(p2.amax((0, 2, 3)).argmax())
        kept = torch.zeros_like(p2)
        for b in range(2):
            at = int(p2[b, unit].argmax())
            kept[b, unit].view(-1)[at] = p2[b, unit].flatten()[at]
        signal = F.max_unpool2d(kept, switches2, 2)
        signal = F.conv_transpose2d(signal.relu(), net.conv2.weight, padding=1)
        signal = F.max_unpool2d(signal, switches1, 2)
        wanted = F.conv_transpose2d(signal.relu(), net.conv1.weight, padding=1)
        made = maps.deconvolve(net, net, x, "pool2", unit)
        assert wanted.abs().max() > 0 and torch.allclose(made, wanted, atol=1e-6)


def test_a_deconvnet_passes_normalisation_by_neighbours():
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return F.local_response_norm(self.conv(x), 2, alpha=5.0)

    net, x = Normed(), torch.rand(1, 1, 2, 2) + 1
    made = maps.gradient(lambda x: net(x)[:, 0].sum((1, 2)), x, "deconvnet")
    assert torch.allclose(made, net.conv.weight[0, 0].detach().expand_as(made))


def test_closed_forms_of_a_linear_net(x):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 2, bias=False))
    w = net[1].weight[1].view(3, 16, 16).detach()
    f = score(net)
    assert torch.allclose(maps.gradient(f, x), w.expand_as(x))
    assert torch.allclose(maps.smoothgrad(f, x), w.expand_as(x), atol=1e-6)
    assert torch.allclose(maps.integrated(f, x), w * x, atol=1e-5)
    assert torch.allclose(maps.occlusion(f, x, window=1, stride=1), (w * x).sum(1), atol=1e-4)


def test_gradcam_in_a_closed_form():
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net[0].weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    x = torch.tensor([[[[1.0, -2.0], [3.0, 0.0]]]])
    made = maps.gradcam(lambda x: net(x)[:, 0], net, x, "1")
    assert torch.allclose(made, x[:, 0].clamp(min=0) / 4)
    assert torch.allclose(maps.gradcam(lambda x: net(x)[:, 0], net, x, "1", each=True), made)
    one = maps.gradcam(lambda x: net[:2](x)[:, 0, 1, 0], net, x, "1", each=True)  # one place only
    assert torch.allclose(one, torch.tensor([[[0.0, 0.0], [3.0, 0.0]]]))


def test_a_layer_is_kept_as_it_was_before_what_follows_writes_into_it(plain, x):
    net = like(plain, "inplace")
    for layer in ("conv1", "relu1", "conv2"):
        ours, wanted = (maps.of_layer(score(n), n, x, layer) for n in (net, plain))
        for a, b in zip(ours, wanted, strict=True):
            assert torch.allclose(a, b, atol=1e-6), layer
    assert maps.of_layer(score(net), net, x, "conv1")[0].min() < 0


def test_each_call_of_a_module_that_is_used_again():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice = nn.Conv2d(1, 1, 1, bias=False)
            nn.init.constant_(self.twice.weight, 2.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.twice(self.twice(x)).sum((2, 3))

    net, x = Twice(), torch.ones(1, 1, 2, 2)
    for layer, value, slope in (
        ("twice#1", 2.0, 2.0),
        ("twice#2", 4.0, 1.0),
        ("twice", 4.0, 1.0),
        ("<twice#1", 1.0, 4.0),
    ):
        made, slopes = maps.of_layer(lambda x: net(x)[:, 0], net, x, layer)
        assert (float(made[0, 0, 0, 0]), float(slopes[0, 0, 0, 0])) == (value, slope), layer
    with pytest.raises(UsageError, match="'twice#3' was not used"):
        maps.of_layer(lambda x: net(x)[:, 0], net, x, "twice#3")


def test_nothing_stays_behind(plain, x):
    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in plain.modules())

    with pytest.raises(RuntimeError), tapped(plain, ["conv1", "<relu1"], apart=True):
        plain(x[:, :1])
    maps.gradcam(score(plain), plain, x, "conv2")
    maps.deconvolve(plain, plain, x, "pool2", 0)
    assert hooks() == 0 and all(p.grad is None for p in plain.parameters())


def test_a_rule_that_there_is_not():
    with pytest.raises(UsageError, match="guided or deconvnet, got 'leaky'"):
        maps.Backwards("leaky")
