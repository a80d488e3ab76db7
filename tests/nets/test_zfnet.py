"""ZFNet has the sizes of the paper's figure 3."""

from __future__ import annotations

import pytest
import torch
from nets.counting import trainable
from torch import Tensor, nn

from neocog import nets
from neocog.errors import NetError


def on_meta(name: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        return nets.build(name, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "widths"), [("zfnet", (384, 384, 256)), ("zfnet_wide", (512, 1024, 512))])
def test_shapes_are_the_papers(name: str, widths: tuple[int, int, int]) -> None:
    net, shapes = on_meta(name), []
    for key, layer in net.features.named_children():

        def note(layer: nn.Module, args: object, out: Tensor, key: str = key) -> None:
            shapes.append((key, *out.shape[1:3]))

        if not key.startswith("relu"):
            layer.register_forward_hook(note)
    net.eval()(torch.empty(1, 3, 224, 224, device="meta"))
    third, fourth, fifth = widths
    assert shapes == [
        ("conv1", 96, 110), ("pool1", 96, 55), ("norm1", 96, 55),
        ("conv2", 256, 26), ("pool2", 256, 13), ("norm2", 256, 13),
        ("conv3", third, 13), ("conv4", fourth, 13), ("conv5", fifth, 13), ("pool5", fifth, 6),
    ]  # fmt: skip


def test_published_layers() -> None:
    net = on_meta("zfnet")
    counts = [trainable(layer) for layer in (net.features.conv1, net.features.conv2, net.features.conv3)]
    assert counts == [14208, 614656, 885120]
    assert on_meta("zfnet_wide").classifier.fc6.in_features == 18432
    assert {conv.groups for conv in net.features if isinstance(conv, nn.Conv2d)} == {1}


def test_other_sizes_adapt_the_first_linear_layer() -> None:
    for size, side in ((63, 1), (224, 6), (256, 7)):
        net = on_meta("zfnet", input_size=size, classes=3)
        assert net.classifier.fc6.in_features == 256 * side**2
        assert net(torch.empty(2, 3, size, size, device="meta")).shape == (2, 3)
    with pytest.raises(NetError, match="at least 63x63, got input_size=62"):
        on_meta("zfnet", input_size=62)
    with pytest.raises(NetError, match="built for pictures of 256x256, got 224x224"):
        net(torch.empty(1, 3, 224, 224, device="meta"))
    # 62 leaves a 2x2 map before the last 3x3 pooling
    assert on_meta("zfnet").features[:-1](torch.empty(1, 3, 62, 62, device="meta")).shape[2:] == (2, 2)


def test_initial_biases_are_zero_as_in_the_paper() -> None:
    net = nets.build("zfnet", classes=2, input_size=63)
    assert all((value == 0).all() for name, value in net.named_parameters() if name.endswith("bias"))
