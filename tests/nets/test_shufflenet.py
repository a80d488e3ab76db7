"""ShuffleNets: figures, torchvision's names and outputs, and what the shuffle does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets.counting import multiply_adds, trainable
from nets.reference import check_against_reference, rows_of
from torch import nn

from neocog import nets
from neocog.errors import NetError
from neocog.nets.gates import ChannelShuffle

_ZOO = {
    **{f"shufflenet_v1_1x_g{groups}": f"shufflenet_v1_1x_g{groups}" for groups in (1, 2, 3, 8)},
    "shufflenet_v1_0.5x_g3": "shufflenet_v1_0_5x_g3",
    "shufflenet_v1_1.5x_g3": "shufflenet_v1_1_5x_g3",
    "shufflenet_v1_2x_g8": "shufflenet_v1_2x_g8",
    "shufflenet_v2_x0.5": "shufflenet_v2_x0_5",
    "shufflenet_v2_x1.0": "shufflenet_v2_x1_0",
    "shufflenet_v2_x2.0": "shufflenet_v2_x2_0",
}


def test_rows_of_the_zoo(facts_folder: Path) -> None:
    rows = rows_of(facts_folder, _ZOO)
    assert {row["arch"] for row in rows} == set(_ZOO)
    for row in rows:
        with torch.device("meta"):
            net = nets.build(_ZOO[row["arch"]])
        figures = trainable(net), multiply_adds(net, (3, 224, 224))
        assert figures == (int(row["params"]), int(row["macs"])), row["arch"]


def test_reference_outputs(facts_folder: Path) -> None:
    check_against_reference("shufflenet_v2_x1_0", "shufflenet_v2_x1_0", facts_folder)


@pytest.mark.parametrize(
    ("name", "width", "parameters"),
    [  # pytorchcv's figures for the paper's narrower nets
        ("shufflenet_v1_1x_g1", 0.25, 209_746),
        ("shufflenet_v1_1x_g3", 0.25, 305_902),
        ("shufflenet_v1_1x_g1", 0.75, 975_214),
        ("shufflenet_v1_1x_g3", 0.75, 1_238_266),
        ("shufflenet_v1_1x_g3", 0.5, 718_324),
    ],
)
def test_widths(name: str, width: float, parameters: int) -> None:
    with torch.device("meta"):
        assert trainable(nets.build(name, width=width)) == parameters


def test_heads_have_the_bias_of_their_family() -> None:
    with torch.device("meta"):
        assert nets.build("shufflenet_v1_1x_g3").classifier[0].bias is not None
        assert nets.build("shufflenet_v1_2x_g3").classifier[0].bias is None
        changed = nets.change_head(nets.build("shufflenet_v1_2x_g3"), 7)
    assert changed.classifier[0].bias is None


@given(st.integers(1, 6), st.integers(1, 6))
def test_shuffle_is_the_transpose_of_a_table(groups: int, each: int) -> None:
    channels = groups * each
    x = torch.arange(channels).reshape(1, channels, 1, 1)
    out = ChannelShuffle(groups)(x).flatten().tolist()
    assert out == [group * each + index for index in range(each) for group in range(groups)]
    assert torch.equal(ChannelShuffle(groups, inverse=True)(ChannelShuffle(groups)(x)), x)
    assert torch.equal(ChannelShuffle(groups)(x), nn.ChannelShuffle(groups)(x))


def test_shuffle_refuses_what_does_not_divide() -> None:
    with pytest.raises(NetError, match="cannot shuffle 5 channels among 2 groups"):
        ChannelShuffle(2)(torch.zeros(1, 5, 2, 2))


@pytest.mark.parametrize("name", ["shufflenet_v1_1x_g3", "shufflenet_v1_2x_g3"])
def test_every_output_of_a_unit_depends_on_every_input(name: str) -> None:
    """What the shuffle is for: without it a grouped unit's outputs see a third of the inputs."""
    torch.manual_seed(0)
    unit = nets.build(name).features[1].eval()  # stride 1
    channels = unit.branch_main_1[0].in_channels
    x = torch.rand(1, channels, 3, 3, dtype=torch.float64, requires_grad=True)
    unit.double()
    unit.branch_main_1[2] = nn.Identity()  # a ReLU would hide some paths
    unit.relu = nn.Identity()
    for output in (0, channels // 2, channels - 1):
        (gradient,) = torch.autograd.grad(unit(x)[0, output, 1, 1], x)
        assert (gradient.abs().sum((2, 3)) > 0).double().mean().item() > 0.99
    unit.shuffle = nn.Identity()
    (gradient,) = torch.autograd.grad(unit(x)[0, 0, 1, 1], x)
    assert (gradient.abs().sum((2, 3)) > 0).double().mean().item() == pytest.approx(1 / 3)


def test_released_shuffle_is_the_papers_with_its_filters_in_another_order() -> None:
    """One shuffles before the depthwise convolution, the other after it: the same functions can be learnt."""
    torch.manual_seed(0)
    paper = nets.build("shufflenet_v1_1x_g2").features[0].eval().double()
    order = paper.shuffle(torch.arange(50).reshape(1, 50, 1, 1)).flatten()
    x = torch.randn(2, 24, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        expected = paper(x)
        conv, norm = paper.branch_main_1[3], paper.branch_main_1[4]
        inverse = order.argsort()
        for value in (conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var):
            value.copy_(value[inverse])
        paper.shuffle_after = 4
        torch.testing.assert_close(paper(x), expected)


def test_stride_two_keeps_the_mean_of_the_input() -> None:
    unit = nets.build("shufflenet_v1_1x_g3").features[0].eval()
    x = torch.rand(1, 24, 8, 8)
    with torch.no_grad():
        out = unit(x)
    assert out.shape == (1, 240, 4, 4)
    torch.testing.assert_close(out[:, :24], nn.functional.avg_pool2d(x, 3, 2, 1))


def test_v2_passes_half_of_the_channels_unchanged() -> None:
    unit = nets.build("shufflenet_v2_x0_5").stage2[1].eval()
    x = torch.rand(1, 48, 4, 4)
    with torch.no_grad():
        assert torch.equal(unit(x)[:, ::2], x[:, :24])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("shufflenet_v1_1x_g8", {"width": 0.3}, "quarters cannot be split into 8 groups"),
        ("shufflenet_v1_1x_g1", {"width": 0}, "width is a factor .* above 0, got 0"),
        ("shufflenet_v1_1x_g1", {"groups": 2}, "no option 'groups'"),
        ("shufflenet_v2_x1_0", {"dropout": -1}, "dropout is a probability"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(NetError, match=message), torch.device("meta"):
        nets.build(name, **options)
