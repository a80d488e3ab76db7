"""VGG: torchvision's names, the paper's rule of cost, other sizes."""

from __future__ import annotations

import pytest
import torch
from nets.counting import multiply_adds, trainable
from torch import nn

from neocog import nets
from neocog.errors import NetError
from neocog.nets.vgg import STAGES, make_stages

NAMES = nets.names("vgg")


def on_meta(name: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        return nets.build(name, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_layers_are_as_many_as_the_name_says(name: str) -> None:
    net = on_meta(name)
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == int(name.removeprefix("vgg").removesuffix("_bn"))
    assert {conv.kernel_size for conv in net.features if isinstance(conv, nn.Conv2d)} == {(3, 3)}
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in net.features) == 5


def test_bn_adds_scale_and_shift_and_keeps_the_biases() -> None:
    for depth in STAGES:
        plain, normed = on_meta(f"vgg{depth}"), on_meta(f"vgg{depth}_bn")
        channels = sum(conv.out_channels for conv in plain.features if isinstance(conv, nn.Conv2d))
        assert trainable(normed) == trainable(plain) + 2 * channels
        assert all(conv.bias is not None for conv in normed.features if isinstance(conv, nn.Conv2d))


def test_names_are_torchvisions() -> None:
    plain, normed = set(on_meta("vgg16").state_dict()), set(on_meta("vgg16_bn").state_dict())
    assert {"features.0.weight", "features.28.bias", "classifier.0.weight", "classifier.3.bias"} <= plain
    assert {"features.1.running_mean", "features.40.weight", "features.41.running_var"} <= normed
    assert on_meta("vgg16").classifier[0].in_features == 25088


def test_stages_cost_the_same() -> None:
    """Doubling the channels while halving the map keeps a layer's cost: 9 H W C^2 (the second of each stage)."""
    costs, size = [], 224
    convs = [layer for layer in on_meta("vgg13").features if isinstance(layer, nn.Conv2d)]
    for conv in convs[1::2]:
        costs.append(size**2 * 9 * conv.in_channels * conv.out_channels)
        size //= 2
    assert len(set(costs[:4])) == 1
    assert costs[4] == costs[0] // 4  # 512 channels are not doubled again


def test_the_deck_counts_a_net_with_one_convolution_less() -> None:
    """The slides' VGG-16 of 137.8 M parameters and 13.6 G MACs lacks the third convolution of stage 3."""
    with torch.device("meta"):
        features = make_stages((2, 2, 2, 3, 3), 3)
    lost = 256 * 256 * 9 + 256
    assert trainable(features) == trainable(on_meta("vgg16").features) - lost
    assert multiply_adds(features, (3, 224, 224)) + 123_633_664 == 13_620_576_256


@pytest.mark.parametrize("size", [32, 64, 150, 321])
def test_other_sizes(size: int) -> None:
    net = on_meta("vgg11_bn", input_size=size, classes=4, in_channels=1).eval()
    assert net(torch.empty(2, 1, size, size, device="meta")).shape == (2, 4)
    assert net.features(torch.empty(1, 1, size, size, device="meta")).shape == (1, 512, size // 32, size // 32)
    assert net.classifier[0].in_features == 25088


def test_wrong_values_are_named() -> None:
    with pytest.raises(NetError, match="vgg16 needs pictures of at least 32x32, got input_size=31"):
        on_meta("vgg16", input_size=31)
    with pytest.raises(NetError, match="dropout is a probability"):
        on_meta("vgg11", dropout=1.0)
    with pytest.raises(NetError, match=r"\(B, 3, H, W\), got \(1, 1, 32, 32\).*in_channels"):
        on_meta("vgg11")(torch.empty(1, 1, 32, 32, device="meta"))
    # 31 pixels leave no map, so the smallest size is the smallest
    with pytest.raises(RuntimeError, match="too small"):
        on_meta("vgg11")(torch.empty(1, 3, 31, 31, device="meta"))


def test_values_keep_their_size_through_the_convolutions() -> None:
    """The reason for not drawing convolutions from N(0, 0.01^2) as the paper did for its 11 layers."""
    torch.manual_seed(0)
    features = nets.vgg.make_stages(STAGES[19], 3)
    nets.layers.he_init(features)
    with torch.no_grad():
        out = features(torch.randn(1, 3, 64, 64))
    assert 0.05 < out.std() < 20
