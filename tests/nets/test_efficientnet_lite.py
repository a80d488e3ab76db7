"""EfficientNet-Lite: the release's table, timm's names, TensorFlow's padding, and maps for heads."""

from __future__ import annotations

import pytest
import torch
from nets.counting import multiply_adds, trainable
from torch import nn

from neocog import nets
from neocog.errors import NetError
from neocog.nets.gates import SameConv2d
from neocog.nets.trunk import Trunk

# the release's table: millions of parameters, input, top-1; and timm's count for tf_efficientnet_lite*, in millions
_RELEASE = {0: (4.7, 224, 75.1, 4.65), 1: (5.4, 240, 76.7, 5.42), 2: (6.1, 260, 77.6, 6.09), 3: (8.2, 280, 79.8, 8.20),
            4: (13.0, 300, 81.5, 13.01)}  # fmt: skip
_MACS = {0: 385_187_552, 1: 600_185_232, 2: 859_736_272, 3: 1_383_321_872, 4: 2_553_034_336}
_DEPTHS = {0: (1, 2, 2, 3, 3, 4, 1), 1: (1, 3, 3, 4, 4, 5, 1), 2: (1, 3, 3, 4, 4, 5, 1), 3: (1, 3, 3, 5, 5, 6, 1),
           4: (1, 4, 4, 6, 6, 8, 1)}  # fmt: skip


@pytest.mark.parametrize("number", range(5))
def test_published_figures(number: int) -> None:
    name, (millions, size, top1, timms) = f"efficientnet_lite{number}", _RELEASE[number]
    with torch.device("meta"):
        net = nets.build(name)
    facts = nets.facts(name)
    assert (round(trainable(net) / 1e6, 1), facts.input) == (millions, (3, size, size))
    assert round(trainable(net) / 1e6, 2) == timms
    assert multiply_adds(net, facts.input) == facts.macs == _MACS[number]
    assert facts.accuracy.startswith(f"ImageNet top-1 {top1} %")
    assert tuple(len(stage) for stage in net.blocks) == _DEPTHS[number]
    assert (net.conv_stem.out_channels, net.conv_head.out_channels) == (32, 1280)  # neither grows


def test_layers_are_timms_and_pad_as_tensorflow() -> None:
    with torch.device("meta"):
        net = nets.build("efficientnet_lite0")
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    for name, shape in (
        ("conv_stem.weight", (32, 3, 3, 3)), ("bn1.running_mean", (32,)), ("blocks.0.0.conv_dw.weight", (32, 1, 3, 3)),
        ("blocks.0.0.conv_pw.weight", (16, 32, 1, 1)), ("blocks.0.0.bn2.weight", (16,)),
        ("blocks.2.0.conv_dw.weight", (144, 1, 5, 5)), ("blocks.5.3.conv_pwl.weight", (192, 1152, 1, 1)),
        ("blocks.6.0.bn3.bias", (320,)), ("conv_head.weight", (1280, 320, 1, 1)), ("bn2.weight", (1280,)),
        ("classifier.weight", (1000, 1280)),
    ):  # fmt: skip
        assert shapes[name] == shape, name
    strided = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2)]
    assert len(strided) == 5 and all(isinstance(layer, SameConv2d) for layer in strided)
    assert {layer.eps for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)} == {1e-3}
    assert not any(isinstance(layer, nn.SiLU | nn.Sigmoid) for layer in net.modules())


def test_maps_at_every_stride() -> None:
    trunk = Trunk(nets.build("efficientnet_lite0").eval())
    assert trunk.channels == {2: 96, 4: 144, 8: 240, 16: 672, 32: 1280}
    with torch.no_grad():
        maps = trunk.maps(torch.randn(1, 3, 64, 96))
    assert {stride: tuple(m.shape) for stride, m in maps.items()} == {
        stride: (1, channels, 64 // stride, 96 // stride) for stride, channels in trunk.channels.items()
    }
    assert trunk.width == 1280


def test_dropout_is_a_probability() -> None:
    with pytest.raises(NetError, match="dropout is a probability"):
        nets.build("efficientnet_lite0", dropout=1.0)
