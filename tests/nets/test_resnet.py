"""Options of the residual nets, and what the blocks compute."""

from __future__ import annotations

import pytest
import torch
from nets.counting import trainable
from torch import nn

from neocog import nets
from neocog.errors import NetError
from neocog.nets.layers import PadShortcut, StochasticDepth


def test_names_are_torchvisions() -> None:
    with torch.device("meta"):
        basic, bottleneck = nets.build("resnet18").state_dict(), nets.build("resnet50").state_dict()
    assert "layer2.0.downsample.0.weight" in basic
    assert "layer1.0.downsample.0.weight" not in basic
    assert {
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.downsample.1.bias",
        "layer4.2.conv3.weight",
        "fc.bias",
    } <= set(bottleneck)
    assert (len(basic), len(bottleneck)) == (122, 320)


def test_stride_sits_where_it_is_told() -> None:
    with torch.device("meta"):
        old, new = nets.build("resnet50_v1").layer2[0], nets.build("resnet50").layer2[0]
        same = nets.build("resnet50", stride_on="1x1").layer2[0]
    assert (old.conv1.stride, old.conv2.stride) == (same.conv1.stride, same.conv2.stride) == ((2, 2), (1, 1))
    assert (new.conv1.stride, new.conv2.stride) == ((1, 1), (2, 2))


def test_small_stem_keeps_the_map() -> None:
    net = nets.build("resnet18", classes=10, input_size=28, in_channels=1, stem="small")
    shapes = []
    for stage in (net.layer1, net.layer4):
        stage.register_forward_hook(lambda layer, args, out: shapes.append(tuple(out.shape)))
    assert net(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    assert shapes == [(2, 64, 28, 28), (2, 512, 4, 4)]
    with pytest.raises(NetError, match="resnet18 needs pictures of at least 32x32, got input_size=28"):
        nets.build("resnet18", input_size=28)
    with pytest.raises(NetError, match="at least 8x8"):
        nets.build("preact_resnet18", input_size=7, stem="small")


@pytest.mark.parametrize("name", ["resnet50", "preact_resnet50", "cifar_resnet20", "cifar_preresnet110"])
def test_blocks_start_as_the_identity_if_told(name: str) -> None:
    torch.manual_seed(0)
    net = nets.build(name, zero_init_residual=True, stem="small").eval()
    x = torch.rand(1, net.layer1[1].conv1.in_channels if "pre" not in name else net.layer1[1].bn1.num_features, 8, 8)
    with torch.no_grad():
        assert torch.equal(net.layer1[1](x), x)
        plain = nets.build(name, stem="small").eval()
        assert not torch.equal(plain.layer1[1](x), x)


def test_blocks_compute_what_the_papers_say() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 16, 8, 8)
    after = nets.build("cifar_resnet20").layer1[0].eval()
    before = nets.build("cifar_preresnet110").layer1[0].eval()
    with torch.no_grad():
        inner = torch.relu(after.bn1(after.conv1(x)))
        torch.testing.assert_close(after(x), torch.relu(x + after.bn2(after.conv2(inner))))
        inner = before.conv1(torch.relu(before.bn1(x)))
        torch.testing.assert_close(before(x), x + before.conv2(torch.relu(before.bn2(inner))))


def test_shortcuts() -> None:
    a, b = nets.build("cifar_resnet20"), nets.build("cifar_resnet20", shortcut="B")
    assert isinstance(a.layer2[0].downsample, PadShortcut) and not a.layer2[0].downsample.average
    assert isinstance(b.layer2[0].downsample, nn.Sequential)
    assert trainable(b) - trainable(a) == 2752
    assert nets.build("stochastic_depth_resnet110").layer3[0].downsample.average


def test_stochastic_depth_follows_the_linear_rule() -> None:
    net = nets.build("stochastic_depth_resnet110")
    layers = [module for module in net.modules() if isinstance(module, StochasticDepth)]
    assert sum(layer.survival for layer in layers) == pytest.approx(40.25)
    assert {layer.form for layer in layers} == {"paper"}
    assert all(conv.bias is not None for conv in net.modules() if isinstance(conv, nn.Conv2d))
    scaled = nets.build("resnet18", stochastic_depth=0.8, stochastic_depth_form="scaled")
    assert scaled.layer4[1].depth.survival == pytest.approx(0.8)
    assert nets.build("resnet18").layer4[1].depth is None


def test_dropped_blocks_change_from_step_to_step_and_evaluation_does_not() -> None:
    torch.manual_seed(0)
    net = nets.build("cifar_resnet20", stochastic_depth=0.5)
    x = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        outs = [net(x) for _ in range(8)]
        assert any(not torch.equal(out, outs[0]) for out in outs)
        net.eval()
        assert torch.equal(net(x), net(x))


def test_dropout_stands_before_the_head() -> None:
    torch.manual_seed(0)
    net = nets.build("cifar_resnet20", dropout=0.5)
    x = torch.randn(4, 3, 8, 8)
    dropped = (net.forward_features(x) == 0).double().mean().item()
    usual = (nets.build("cifar_resnet20").forward_features(x) == 0).double().mean().item()
    assert 0.3 < dropped < 0.7 and usual < 0.1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {"stride_on": "1x1"}, "need bottleneck blocks"),
        ("resnet18", {"groups": 32}, "need bottleneck blocks"),
        ("preact_resnet18", {"stride_on": "1x1"}, "need bottleneck blocks"),
        ("resnet50", {"stride_on": "5x5"}, "stride_on must be '1x1' or '3x3', got '5x5'"),
        ("resnet50", {"shortcut": "C"}, "shortcut must be 'A', 'B' or 'average', got 'C'"),
        ("preact_resnet50", {"shortcut": "C"}, "shortcut must be"),
        ("resnet50", {"stem": "huge"}, "stem must be 'imagenet', 'tensorflow' or 'small', got 'huge'"),
        ("resnet50", {"dropout": 1}, "dropout is a probability"),
        ("resnet50", {"stochastic_depth": 0}, "survival probability above 0"),
        ("resnet50", {"stochastic_depth": 0.5, "stochastic_depth_form": "row"}, "'paper' or 'scaled', got 'row'"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(NetError, match=message), torch.device("meta"):
        nets.build(name, **options)


def test_other_channels_are_refused_with_the_remedy() -> None:
    with pytest.raises(NetError, match=r"\(B, 3, H, W\), got \(1, 1, 32, 32\).*in_channels"):
        nets.build("cifar_resnet20")(torch.zeros(1, 1, 32, 32))
