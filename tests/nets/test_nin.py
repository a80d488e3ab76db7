"""Network in Network: shapes of the authors' releases, what its head computes, that it learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neocog import nets
from neocog.errors import NetError


def on_meta(name: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        return nets.build(name, **options)  # type: ignore[arg-type]


def shapes_of(name: str) -> dict[str, tuple[int, int]]:
    net, shapes = on_meta(name).eval(), {}
    for key, layer in net.features.named_children():
        layer.register_forward_hook(
            lambda layer, args, out, key=key: shapes.__setitem__(key, (out.shape[1], out.shape[2]))
        )
    size = nets.facts(name).input[-1]
    net(torch.empty(1, 3, size, size, device="meta"))
    return {key: shape for key, shape in shapes.items() if "relu" not in key}


def test_shapes_of_the_cifar_net() -> None:
    assert shapes_of("nin_cifar") == {
        "conv1": (192, 32), "cccp1": (160, 32), "cccp2": (96, 32), "pool1": (96, 16), "drop1": (96, 16),
        "conv2": (192, 16), "cccp3": (192, 16), "cccp4": (192, 16), "pool2": (192, 8), "drop2": (192, 8),
        "conv3": (192, 8), "cccp5": (192, 8),
    }  # fmt: skip


def test_shapes_of_the_imagenet_net() -> None:
    assert shapes_of("nin_imagenet") == {
        "conv1": (96, 54), "cccp1": (96, 54), "cccp2": (96, 54), "pool1": (96, 27),
        "conv2": (256, 27), "cccp3": (256, 27), "cccp4": (256, 27), "pool2": (256, 13),
        "conv3": (384, 13), "cccp5": (384, 13), "cccp6": (384, 13), "pool3": (384, 6), "drop3": (384, 6),
        "conv4": (1024, 6), "cccp7": (1024, 6),
    }  # fmt: skip
    # the authors say that the file of the weights has 29 MB (of 2^20 bytes)
    assert int(nets.facts("nin_imagenet").params * 4 / 2**20) in (28, 29)


def test_kinds_of_pooling() -> None:
    net = on_meta("nin_cifar")
    assert isinstance(net.features.pool1, nn.MaxPool2d) and isinstance(net.features.pool2, nn.AvgPool2d)
    assert all(isinstance(on_meta("nin_imagenet").features.get_submodule(f"pool{n}"), nn.MaxPool2d) for n in (1, 2, 3))


def test_logits_are_the_means_of_one_map_for_each_class() -> None:
    torch.manual_seed(0)
    net, x = nets.build("nin_cifar", classes=5).eval(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        maps = net.classifier(net.forward_features(x)).clamp(min=0)
        torch.testing.assert_close(net(x), maps.mean((2, 3)))


def test_other_sizes() -> None:
    for name, sizes in (("nin_cifar", (4, 28, 40)), ("nin_imagenet", (39, 64, 227))):
        for size in sizes:
            net = on_meta(name, input_size=size, classes=3, in_channels=1)
            assert net(torch.empty(2, 1, size, size, device="meta")).shape == (2, 3)
        with pytest.raises(NetError, match=f"at least {sizes[0]}x{sizes[0]}"):
            on_meta(name, input_size=sizes[0] - 1)
    with pytest.raises(NetError, match="dropout is a probability"):
        on_meta("nin_cifar", dropout=2)


def test_learns_colours() -> None:
    torch.manual_seed(0)
    net = nets.build("nin_cifar", classes=3, input_size=8, dropout=0.0)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    y = torch.arange(24) % 3
    x = 0.3 * torch.randn(24, 3, 8, 8) + nn.functional.one_hot(y, 3)[:, :, None, None]
    for _ in range(15):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert (net.eval()(x).argmax(1) == y).double().mean() > 0.9
