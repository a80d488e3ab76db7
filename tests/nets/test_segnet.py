"""SegNet: its numbers for several sets of classes, and the sizes on the way down and up."""

from __future__ import annotations

import pytest
import torch
from nets.counting import trainable
from torch import Tensor, nn

from neocog import nets
from neocog.nets.deconvnet import ScoringConv2d


@pytest.mark.parametrize(("classes", "params"), [(11, 29_449_355), (12, 29_449_932), (21, 29_455_125)])
def test_parameters_for_the_published_sets_of_classes(classes: int, params: int) -> None:
    with torch.device("meta"):
        net = nets.build("segnet", classes=classes)
        assert trainable(net) == params
        assert trainable(nets.change_head(nets.build("segnet"), classes)) == params


def test_numbers_are_the_authors() -> None:
    with torch.device("meta"):
        net = nets.build("segnet")
    convs = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert (len(convs), len(norms)) == (26, 25)  # none behind the layer that scores
    assert sum(layer.weight.numel() for layer in convs) == 29_426_112
    assert sum(layer.bias.numel() for layer in convs) == 7_948
    assert sum(2 * layer.num_features for layer in norms) == 15_872
    names = [name for name, layer in net.decoder.named_children() if isinstance(layer, nn.Conv2d)]
    assert names == [f"conv{stage}_{n}_D" for stage, last in ((5, 3), (4, 3), (3, 3), (2, 2), (1, 2))
                     for n in range(last, 0, -1) if (stage, n) != (1, 1)]  # fmt: skip


def test_odd_sides_come_back() -> None:
    with torch.device("meta"):
        net = nets.build("segnet")
        sizes: list[tuple[int, int]] = []

        def note(layer: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            sizes.append((out.shape[2], out.shape[3]))

        for layer in net.decoder:
            if isinstance(layer, nn.MaxUnpool2d):
                layer.register_forward_hook(note)
        assert net(torch.empty(1, 3, 360, 480)).shape == (1, 12, 360, 480)
    assert sizes == [(23, 30), (45, 60), (90, 120), (180, 240), (360, 480)]
    small = nets.build("segnet", width=1 / 16).eval()
    for height, width in ((1, 1), (37, 5), (32, 64)):
        assert small(torch.randn(2, 3, height, width)).shape == (2, 12, height, width)


def test_details_survive_the_way_through_the_bottom() -> None:
    """The pooling places carry position: a picture moved by one pixel gives other places, though the map is 1 x 1."""
    torch.manual_seed(0)
    net = nets.build("segnet", width=1 / 16).eval()
    x = torch.zeros(1, 3, 32, 32)
    x[..., 10, 10] = 5
    with torch.no_grad():
        here, there = net(x), net(x.roll(1, 3))
    assert (here - there).abs().max() > 1e-3 * here.abs().max()


def test_head_keeps_device_and_type() -> None:
    head = ScoringConv2d(4, 3).to(torch.float64)
    fresh = head.with_classes(5)
    assert fresh.weight.shape == (5, 4, 3, 3) and fresh.weight.dtype == torch.float64 and fresh.padding == (1, 1)
    assert ScoringConv2d(4, 3).to("meta").with_classes(5).weight.is_meta
