"""MobileNets: figures at every resolution, timm's and torchvision's names and outputs, and TensorFlow's padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from nets.counting import multiply_adds, trainable
from nets.reference import check_against_reference, rows_of
from torch import nn

from neocog import nets
from neocog.errors import NetError
from neocog.nets.gates import SameConv2d, SamePad, same_padding

_WIDTHS = {"1.0": "mobilenet_v1", "0.75": "mobilenet_v1_075", "0.5": "mobilenet_v1_050", "0.25": "mobilenet_v1_025"}
_ZOO = {**{f"mobilenet_v1_{width}": name for width, name in _WIDTHS.items()},
        "conv_mobilenet": "conv_mobilenet", "mobilenet_v2": "mobilenet_v2"}  # fmt: skip


def test_rows_of_the_zoo(facts_folder: Path) -> None:
    rows = rows_of(facts_folder, _ZOO)
    assert len(rows) >= 14
    for row in rows:
        size = int(row["input_chw"].split("x")[-1])
        with torch.device("meta"):
            net = nets.build(_ZOO[row["arch"]], input_size=size)
        figures = trainable(net), multiply_adds(net, (3, size, size))
        assert figures == (int(row["params"]), int(row["macs"])), row["variant_notes"]


@pytest.mark.parametrize(("name", "reference"), [("mobilenet_v1", "mobilenetv1_100"), ("mobilenet_v2", "mobilenet_v2")])
def test_reference_outputs(name: str, reference: str, facts_folder: Path) -> None:
    check_against_reference(name, reference, facts_folder)


def test_padding_costs_nothing() -> None:
    """TF-Slim's table: 41, 149, 325 and 569 million at 224, whichever way the borders are padded."""
    for padding in ("pytorch", "tensorflow"):
        for name, millions in (("mobilenet_v1_025", 41), ("mobilenet_v1_050", 149), ("mobilenet_v1_075", 325)):
            with torch.device("meta"):
                net = nets.build(name, padding=padding)
            assert multiply_adds(net, (3, 224, 224)) // 10**6 == millions


@pytest.mark.parametrize("size", [31, 32, 33, 40])
def test_tensorflow_padding_is_a_padded_convolution(size: int) -> None:
    torch.manual_seed(0)
    net = nets.build("mobilenet_v1_025", padding="tensorflow", input_size=32).eval()
    x = torch.randn(2, 3, size, size)
    seen: list[torch.Tensor] = []
    net.conv_stem.register_forward_hook(lambda layer, args, out: seen.append(out))
    with torch.no_grad():
        assert net(x).shape == (2, 1000)
    before = 0 if size % 2 == 0 else 1  # an odd side needs two rows of zeros, so one goes before it
    expected = F.conv2d(F.pad(x, (before, 1, before, 1)), net.conv_stem.weight, stride=2)
    torch.testing.assert_close(seen[0], expected)


def test_padding_can_be_changed_on_a_built_net() -> None:
    torch.manual_seed(0)
    net = nets.build("mobilenet_v1_025").eval()
    for value in net.state_dict().values():  # values that do not fade away through 27 layers
        if value.dim() == 1:
            value.uniform_(0.5, 1.5)
    with torch.device("meta"):
        other = nets.build("mobilenet_v1_025", padding="tensorflow").eval()
    other.load_state_dict(net.state_dict(), strict=True, assign=True)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        symmetric, same = net(x), other(x)
        assert not torch.allclose(symmetric, same)
        net.set_padding("tensorflow")
        assert net.bn1.eps == net.blocks[4][1].bn2.eps == 1e-3
        assert torch.equal(net(x), same)
        net.set_padding("pytorch")
        assert torch.equal(net(x), symmetric)
    assert [type(layer) for layer in net.modules() if isinstance(layer, nn.Conv2d)] == [nn.Conv2d] * 27


def test_batch_norm_eps_follows_the_padding_unless_given() -> None:
    for options, eps in (({}, 1e-5), ({"padding": "tensorflow"}, 1e-3), ({"bn_eps": 0.01}, 0.01)):
        with torch.device("meta"):
            net = nets.build("mobilenet_v1", **options)
        assert {layer.eps for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)} == {eps}


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 4), st.integers(1, 3))
def test_same_padding_gives_as_many_outputs_as_strides_fit(size: int, kernel: int, stride: int, dilation: int) -> None:
    before, after = same_padding(size, kernel, stride, dilation)
    assert after - before in (0, 1)
    reach = dilation * (kernel - 1) + 1
    # a stride longer than the kernel may leave pixels unread, and then nothing is padded
    assert (size + before + after - reach) // stride + 1 == -(-size // stride)
    x = torch.randn(1, 2, size, size)
    conv = SameConv2d(2, 3, kernel, stride, dilation=dilation)
    plain = nn.Conv2d(2, 3, kernel, stride, dilation=dilation)
    plain.load_state_dict(conv.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(conv(x), plain(SamePad(kernel, stride, dilation)(x)), rtol=1e-4, atol=1e-5)


def test_same_padding_at_most_widens_where_torch_can_say_it() -> None:
    conv = SameConv2d(2, 3, 5)
    plain = nn.Conv2d(2, 3, 5, padding="same")
    plain.load_state_dict(conv.state_dict())
    x = torch.randn(2, 2, 9, 6)
    torch.testing.assert_close(conv(x), plain(x))


def test_v2_adds_only_where_the_shapes_agree() -> None:
    with torch.device("meta"):
        net = nets.build("mobilenet_v2")
    assert [number for number in range(1, 18) if net.features[number].adds] == [3, 5, 6, 8, 9, 10, 12, 13, 15, 16]


def test_widths_of_v2_are_multiples_of_eight() -> None:
    for name, first, last in (("_035", 16, 1280), ("_050", 16, 1280), ("_075", 24, 1280), ("_140", 48, 1792)):
        with torch.device("meta"):
            net = nets.build(f"mobilenet_v2{name}")
        convs = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
        assert all(conv.out_channels % 8 == 0 for conv in convs)
        assert (convs[0].out_channels, convs[-1].out_channels) == (first, last)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "valid"}, "padding must be 'pytorch' or 'tensorflow', got 'valid'"),
        ({"bn_eps": 0}, "bn_eps must be a number above 0, got 0"),
        ({"dropout": 1}, "dropout is a probability"),
        ({"width": 2}, "no option 'width'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(NetError, match=message), torch.device("meta"):
        nets.build("mobilenet_v1", **options)
