"""SqueezeNet: the Fire module, Caffe's sizes, the authors' figures."""

from __future__ import annotations

import pytest
import torch
from nets.counting import multiply_adds, trainable
from torch import nn

from neocog import nets
from neocog.errors import NetError
from neocog.nets.squeezenet import Fire


def on_meta(name: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        return nets.build(name, **options)  # type: ignore[arg-type]


def test_fire_is_two_filters_side_by_side() -> None:
    torch.manual_seed(0)
    fire, x = Fire(6, 2, 4), torch.randn(2, 6, 5, 5)
    with torch.no_grad():
        squeezed = fire.squeeze(x).relu()
        out = fire(x)
    assert out.shape == (2, 8, 5, 5)
    torch.testing.assert_close(out[:, :4], fire.expand1x1(squeezed).relu())
    torch.testing.assert_close(out[:, 4:], fire.expand3x3(squeezed).relu())


@pytest.mark.parametrize("name", nets.names("squeezenet"))
def test_fires_are_the_papers(name: str) -> None:
    fires = [layer for layer in on_meta(name).features if isinstance(layer, Fire)]
    assert [fire.squeeze.out_channels for fire in fires] == [16, 16, 32, 32, 48, 48, 64, 64]
    assert [fire.expand3x3.out_channels for fire in fires] == [64, 64, 128, 128, 192, 192, 256, 256]
    assert [fire.expand1x1.out_channels for fire in fires] == [fire.expand3x3.out_channels for fire in fires]


@pytest.mark.parametrize(
    ("name", "size", "sides"),
    [
        ("squeezenet1_0", 227, [111, 55, 27, 13]),
        ("squeezenet1_0", 224, [109, 54, 27, 13]),
        ("squeezenet1_1", 227, [113, 56, 28, 14]),  # 56 and 28: windows that do not fit count
        ("squeezenet1_1", 224, [111, 55, 27, 13]),
    ],
)
def test_sizes_are_caffes(name: str, size: int, sides: list[int]) -> None:
    net, seen = on_meta(name).eval(), []
    for layer in net.features:
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            layer.register_forward_hook(lambda layer, args, out: seen.append(out.shape[-1]))
    features = net.forward_features(torch.empty(1, 3, size, size, device="meta"))
    assert seen == sides
    assert features.shape == (1, 512, sides[-1], sides[-1])


def test_operations_of_the_authors() -> None:
    """Their README says 1.72 G operations (2 for each MAC) for the release of version 1.0, at 227."""
    release = on_meta("squeezenet1_0", head_padding=1)
    macs = multiply_adds(release, (3, 227, 227))
    assert macs == 861_339_936
    assert 2 * macs / 1e9 == pytest.approx(1.72, abs=0.005)
    # torchvision's last convolution reads 13 x 13 values, not 15 x 15
    assert multiply_adds(on_meta("squeezenet1_0"), (3, 227, 227)) == macs - (15**2 - 13**2) * 512 * 1000
    assert trainable(release) == 1_248_424


def test_version_1_1_is_2_times_cheaper() -> None:
    """The authors' README: 2.4 times less computation for 1.1, slightly fewer parameters."""
    old = multiply_adds(on_meta("squeezenet1_0", head_padding=1), (3, 227, 227))
    new = multiply_adds(on_meta("squeezenet1_1"), (3, 224, 224))
    assert old / new == pytest.approx(2.4, abs=0.1)


def test_names_are_torchvisions() -> None:
    assert {"features.0.weight", "features.3.squeeze.weight", "features.12.expand3x3.bias", "classifier.1.weight"} <= (
        on_meta("squeezenet1_0").state_dict().keys()
    )
    assert "features.6.squeeze.weight" in on_meta("squeezenet1_1").state_dict()


def test_padded_head_puts_its_bias_on_the_border() -> None:
    torch.manual_seed(0)
    net = nets.build("squeezenet1_1", classes=3, input_size=17, head_padding=1).eval()
    with torch.no_grad():
        net.classifier[1].bias.copy_(torch.tensor([1.0, 2.0, -3.0]))
        features = net.forward_features(torch.randn(1, 3, 17, 17))
        middle = net.classifier[1](features)[:, :, 1:-1, 1:-1].relu().sum((2, 3))
        places = (features.shape[2] + 2) ** 2
        border = (places - features.shape[2] ** 2) * torch.tensor([1.0, 2.0, 0.0])
        torch.testing.assert_close(net.classifier[1:](features).flatten(1), (middle + border) / places)


@pytest.mark.parametrize(("name", "smallest"), [("squeezenet1_0", 21), ("squeezenet1_1", 17)])
def test_other_sizes(name: str, smallest: int) -> None:
    for size in (smallest, 64, 227, 300):
        net = on_meta(name, input_size=size, classes=4, in_channels=1)
        assert net(torch.empty(2, 1, size, size, device="meta")).shape == (2, 4)
    with pytest.raises(NetError, match=f"at least {smallest}x{smallest}"):
        on_meta(name, input_size=smallest - 1)


def test_wrong_options_are_named() -> None:
    with pytest.raises(NetError, match="head_padding must be 0 or 1, got 2"):
        on_meta("squeezenet1_0", head_padding=2)
    with pytest.raises(NetError, match="dropout is a probability"):
        on_meta("squeezenet1_0", dropout=-1)
