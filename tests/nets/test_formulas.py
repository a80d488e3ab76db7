"""The arithmetic of the lectures, checked: sizes, parameters, multiply-adds, blocks, operators.

Where a slide is wrong or rounds, the test has the right figure and the comment says what the slide prints.
Counts: biases in the parameters, not in the multiply-adds (MACs); one multiply-add is one.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from nets.counting import multiply_adds, trainable
from torch import Tensor, nn

from neocog.errors import NetError
from neocog.nets.layers import StochasticDepth, survival_rule
from neocog.nets.local import TrueConv2d, true_convolution
from neocog.nets.pooling import FitConv2d, FitMaxPool2d, L2Pool2d, L2PoolFeatures, output_size

MIB = 2**20


def count(net: nn.Module, *shape: int) -> tuple[int, int]:
    """Parameters and MACs of a module for one input of `shape`."""
    net.to("meta")
    return trainable(net), multiply_adds(net, shape)


def conv_macs(before: int, after: int, kernel: int, side: int, groups: int = 1) -> int:
    return side**2 * after * kernel**2 * before // groups


# 1. Sizes


def test_sizes_of_the_slides() -> None:
    assert [output_size(7, 3, stride, fit="strict") for stride in (1, 2)] == [5, 3]
    with pytest.raises(NetError, match=r"2\.33"):
        output_size(7, 3, 3, fit="strict")
    assert [output_size(7, 3, 3, fit=fit) for fit in ("floor", "ceil")] == [2, 3]
    for kernel, padding in ((3, 1), (5, 2), (7, 3)):
        assert output_size(32, kernel, padding=padding, fit="strict") == 32
    assert output_size(32, 5, fit="strict") == 28
    assert output_size(32, 5, 3, fit="strict") == 10


def test_alexnet_fits_227_and_not_224() -> None:
    with pytest.raises(NetError, match=r"54\.25"):
        output_size(224, 11, 4, fit="strict")
    with pytest.raises(NetError, match=r"55\.25"):
        output_size(224, 11, 4, 2, fit="strict")
    assert output_size(227, 11, 4, fit="strict") == output_size(224, 11, 4, 2) == 55
    assert output_size(227, 11, 4, 2) == 56
    sides = [227]
    for kernel, stride, padding in ((11, 4, 0), (3, 2, 0), (5, 1, 2), (3, 2, 0), *[(3, 1, 1)] * 3, (3, 2, 0)):
        sides.append(output_size(sides[-1], kernel, stride, padding, fit="strict"))
    assert sides == [227, 55, 27, 27, 13, 13, 13, 13, 6]


def test_pools_that_need_ceil() -> None:
    """GoogLeNet as published: 112, 56, 28, 14, 7 without padding in its pools."""
    assert [output_size(side, 3, 2, fit="ceil") for side in (112, 56, 28, 14)] == [56, 28, 14, 7]
    assert [output_size(side, 3, 2) for side in (112, 56, 28, 14)] == [55, 27, 13, 6]


@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2))
def test_transposed_convolution_is_the_transpose(side: int, kernel: int, stride: int, padding: int) -> None:
    wide = stride * (side - 1) + kernel - 2 * padding
    if wide < 1:
        return
    torch.manual_seed(side)
    weight = torch.randn(3, 2, kernel, kernel, dtype=torch.float64)
    x = torch.randn(1, 2, wide, wide, dtype=torch.float64)
    y = torch.randn(1, 3, side, side, dtype=torch.float64)
    back = F.conv_transpose2d(y, weight, stride=stride, padding=padding)
    assert back.shape[2] == wide
    assert output_size(wide, kernel, stride, padding, fit="strict") == side
    forward = F.conv2d(x, weight, stride=stride, padding=padding)
    torch.testing.assert_close((forward * y).sum(), (x * back).sum())


def extent(*layers: nn.Module) -> int:
    """Side of the square of input pixels that one output value depends on, measured by its gradient."""
    x = torch.zeros(1, 1, 41, 41, dtype=torch.float64, requires_grad=True)
    out = nn.Sequential(*layers).double()(x)
    out[0, 0, out.shape[2] // 2, out.shape[3] // 2].backward()
    rows = x.grad[0, 0].abs().sum(1).nonzero().flatten()
    return int(rows.max() - rows.min()) + 1


def test_dilated_filters_see_further() -> None:
    conv = [nn.Conv2d(1, 1, 3, dilation=dilation, bias=False) for dilation in (1, 2, 4)]
    assert extent(conv[1]) == 5 and trainable(conv[1]) == 9
    assert extent(conv[0], conv[1]) == 7 and trainable(nn.Sequential(*conv[:2])) == 18
    assert [extent(*conv[: i + 1]) for i in range(3)] == [2 ** (i + 2) - 1 for i in range(3)] == [3, 7, 15]
    for dilation in (1, 2, 4):
        effective = dilation * (3 - 1) + 1
        assert output_size(41, 3, dilation=dilation) == output_size(41, effective)
    assert [extent(*[nn.Conv2d(1, 1, 3)] * layers) for layers in (1, 2, 3)] == [1 + layers * 2 for layers in (1, 2, 3)]


def test_filters_of_one_two_and_three_dimensions() -> None:
    for dimensions, kind in enumerate((nn.Conv1d, nn.Conv2d, nn.Conv3d), start=1):
        assert trainable(kind(4, 6, 5, bias=False)) == 6 * 4 * 5**dimensions


# 2. Parameters, multiply-adds, connections, memory


@given(
    st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(5, 12), st.integers(1, 3)
)
def test_a_convolution_costs(before: int, after: int, kernel: int, stride: int, side: int, groups: int) -> None:
    before, after = before * groups, after * groups
    net = FitConv2d(before, after, kernel, stride, groups=groups, fit="floor")
    out = output_size(side, kernel, stride)
    macs = out**2 * after * kernel**2 * before // groups
    assert count(net, before, side, side) == (after * kernel**2 * before // groups + after, macs)


def test_layers_of_the_slides() -> None:
    assert count(nn.Conv2d(3, 10, 5, padding=2), 3, 32, 32) == (760, 768_000)
    assert count(nn.Conv2d(3, 5, 5, bias=False), 3, 32, 32) == (375, 294_000)  # slide 001 counts no biases
    assert count(nn.Conv2d(3, 5, 5), 3, 32, 32) == (380, 294_000)
    assert count(nn.Conv2d(3, 5, 5, 3, bias=False), 3, 32, 32) == (375, 37_500)
    assert trainable(nn.Linear(3 * 32 * 32, 1, bias=False)) == 3_072
    assert trainable(nn.Linear(3 * 200 * 200, 1, bias=False)) == 120_000
    assert nn.Conv2d(3, 10, 5, padding=2)(torch.zeros(1, 3, 32, 32)).shape == (1, 10, 32, 32)


def test_connections_of_conv5_of_alexnet() -> None:
    """Connections = output positions x weights; without groups, which the real net has."""
    weights, macs = count(nn.Conv2d(384, 256, 3, padding=1, bias=False), 384, 13, 13)
    assert (weights, 13**2 * weights, macs) == (884_736, 149_520_384, 149_520_384)
    weights, macs = count(nn.Conv2d(384, 256, 3, padding=1, bias=False, groups=2), 384, 13, 13)
    assert (weights, macs) == (442_368, 74_760_192)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_number_of_operations_with_same_padding(groups: int) -> None:
    """Guideline 3 of the slides, (H Hf / stride) (W Wf / stride) C K; divided by G where there are groups."""
    for kernel, stride in ((3, 1), (5, 1), (3, 2)):
        conv = nn.Conv2d(8, 12, kernel, stride, kernel // 2, groups=groups, bias=False)
        expected = (16 * kernel / stride) * (20 * kernel / stride) * 8 * 12 / groups
        assert count(conv, 8, 16, 20)[1] == expected


@pytest.mark.parametrize("channels", [3, 64])
def test_small_filters_in_place_of_a_large_one(channels: int) -> None:
    def chain(*kernels: int) -> int:
        return trainable(nn.Sequential(*[nn.Conv2d(channels, channels, k, bias=False) for k in kernels]))

    assert chain(3, 3) == 18 * channels**2 < chain(5) == 25 * channels**2
    assert chain(3, 3, 3) == 27 * channels**2 < chain(7) == 49 * channels**2
    assert round(100 * (chain(7) / chain(3, 3, 3) - 1)) == 81  # "81 % more"
    one = [nn.Conv2d(1, 1, 3)]
    assert extent(*one * 2) == extent(nn.Conv2d(1, 1, 5)) == 5
    assert extent(*one * 3) == extent(nn.Conv2d(1, 1, 7)) == 7


@pytest.mark.parametrize(("channels", "side"), [(64, 14), (256, 7)])
def test_rule_of_vgg_half_the_side_twice_the_channels(channels: int, side: int) -> None:
    """Same MACs, half the memory, four times the parameters. (VGG itself keeps 512 channels at its last stage.)"""
    for c, n, memory, params in ((channels, 2 * side, 4, 9), (2 * channels, side, 2, 36)):
        conv = nn.Conv2d(c, c, 3, padding=1, bias=False)
        assert count(conv, c, n, n) == (params * channels**2, 36 * side**2 * channels**2)
        assert c * n * n == memory * side**2 * channels


def test_residual_blocks() -> None:
    c, side = 16, 8
    basic = [nn.Conv2d(c, c, 3, padding=1, bias=False) for _ in range(2)]
    bottleneck = [
        nn.Conv2d(4 * c, c, 1, bias=False),
        nn.Conv2d(c, c, 3, padding=1, bias=False),
        nn.Conv2d(c, 4 * c, 1, bias=False),
    ]
    assert count(nn.Sequential(*basic), c, side, side)[1] == 18 * side**2 * c**2
    assert count(nn.Sequential(*bottleneck), 4 * c, side, side)[1] == (4 + 9 + 4) * side**2 * c**2


def test_groups_and_depthwise() -> None:
    for groups in (1, 2, 4):  # some frames print C_out x C_in x K x K for groups, too
        conv = nn.Conv2d(8, 12, 3, padding=1, groups=groups, bias=False)
        assert conv.weight.shape == (12, 8 // groups, 3, 3)
        assert count(conv, 8, 10, 10)[1] == 12 * 8 * 9 * 100 // groups
    assert nn.Conv2d(8, 8, 3, groups=8).weight.shape == (8, 1, 3, 3)


def test_low_rank_filters() -> None:
    c, k, g = 24, 36, 4
    full = trainable(nn.Conv2d(c, k, 3, bias=False))
    split = trainable(nn.Sequential(nn.Conv2d(c, k, (1, 3), bias=False), nn.Conv2d(k, k, (3, 1), bias=False)))
    grouped = nn.Sequential(nn.Conv2d(c, k, 3, groups=g, bias=False), nn.Conv2d(k, k, 1, bias=False))
    assert (full, split) == (3 * 3 * c * k, 1 * 3 * c * k + 3 * 1 * k * k)
    assert trainable(grouped) == g * (3 * 3 * (c // g) * (k // g)) + k * k


# 3. Totals of the decks


# Layers of a net with fully connected ends: (maps before, maps after, kernel, side of the output, groups)
Layers = list[tuple[int, int, int, int, int]]
DECK: Layers = [
    (3, 96, 11, 55, 1), (96, 256, 5, 27, 1), (256, 384, 3, 13, 1), (384, 384, 3, 13, 1), (384, 256, 3, 13, 1),
]  # fmt: skip
ORIGINAL: Layers = [(b, a, k, s, 2 if number in (1, 3, 4) else 1) for number, (b, a, k, s, _) in enumerate(DECK)]


def tower(first: int) -> Layers:
    widths = (3, 64, 192, 384, 256, 256)
    sides = (first, 27, 13, 13, 13)
    return [(b, a, k, s, 1) for (b, a), k, s in zip(pairwise(widths), (11, 5, 3, 3, 3), sides, strict=True)]


FULL = (4096, 4096, 1000)


def totals(layers: Layers, last: int) -> tuple[int, int, float]:
    """Parameters, MACs, and MiB of the float32 outputs of all layers; `last` numbers enter the classifier."""
    units = (last, *FULL)
    params = sum(a * (k * k * b // g + 1) for b, a, k, _, g in layers)
    macs = sum(conv_macs(b, a, k, s, g) for b, a, k, s, g in layers)
    full = [b * a for b, a in pairwise(units)]
    outputs = sum(a * s * s for _, a, _, s, _ in layers) + sum(FULL)
    return params + sum(full) + sum(FULL), macs + sum(full), 4 * outputs / MIB


def test_three_alexnets() -> None:
    """The bar charts of the deck (61M, 0.7 G, 1.9 MB) are those of the one-tower net, its list of layers is another."""
    params, macs, memory = totals(tower(55), 256 * 36)
    assert (params, macs) == (61_100_840, 714_188_480)
    assert memory == pytest.approx(1.885, abs=5e-4)
    params, macs, memory = totals(tower(56), 256 * 36)  # 227 with padding 2
    assert (params, macs) == (61_100_840, 716_767_232)
    assert memory == pytest.approx(1.912, abs=5e-4)
    params, macs, memory = totals(DECK, 256 * 36)
    assert (params, round(macs / 1e6, 1)) == (62_378_344, 1135.3)
    assert memory == pytest.approx(2.515, abs=5e-4)
    assert totals(ORIGINAL, 256 * 36)[:2] == (60_965_224, 724_406_816)


def vgg(*convs: int) -> tuple[int, int, float]:
    """`convs` convolutions in each of five stages of 64, 128, 256, 512 and 512 maps."""
    layers: Layers = []
    before = 3
    for stage, (number, width) in enumerate(zip(convs, (64, 128, 256, 512, 512), strict=True)):
        for _ in range(number):
            layers.append((before, width, 3, 224 >> stage, 1))
            before = width
    return totals(layers, 512 * 49)


def test_vgg16_of_the_deck_lacks_a_layer() -> None:
    """138M / 13.6 G / 48.6 MB is VGG-16 with two convolutions in stage 3, as the deck lists it."""
    params, macs, memory = vgg(2, 2, 2, 3, 3)
    assert (params, macs) == (137_767_464, 13_620_576_256)
    assert memory == pytest.approx(48.652, abs=5e-4)
    true = vgg(2, 2, 3, 3, 3)
    assert true[:2] == (138_357_544, 15_470_264_320)
    assert true[2] == pytest.approx(51.715, abs=5e-4)
    # the ratios of the slide are those of its rounded figures
    assert [round(ratio, 1) for ratio in (48.6 / 1.9, 13.6 / 0.7)] == [25.6, 19.4]
    assert round(138 / 61, 2) == 2.26
    assert round(true[1] / totals(tower(55), 256 * 36)[1], 1) == 21.7
    assert vgg(2, 2, 4, 4, 4)[:2] == (143_667_240, 19_632_062_464)  # VGG-19 has 4 in stages 3, 4 and 5


def test_units_of_alexnet() -> None:
    """ "650K units": the paper counts 253,440 in the first layer and 622,312 in all, 55 x 55 x 96 makes more."""
    assert sum(a * s * s for _, a, _, s, _ in DECK) + sum(FULL) == 659_272
    assert 253_440 + 659_272 - 55 * 55 * 96 == 622_312


# 6. Blocks


def test_squeeze_and_excitation_costs_less_than_a_hundredth() -> None:
    """Squeeze 4CHW (a slide prints CHW), two fully connected layers, ReLU, sigmoid, scaling; bottleneck 4C wide."""
    c, side, reduction = 64, 56, 16
    squeeze = scale = 4 * c * side**2
    layers = nn.Sequential(nn.Linear(4 * c, 4 * c // reduction, False), nn.Linear(4 * c // reduction, 4 * c, False))
    params, macs = count(layers, 4 * c)
    assert params == macs == 2 * c**2  # all that a counter of convolutions and linear layers sees
    total = squeeze + scale + macs + 4 * c // reduction + 4 * c
    assert total == 8 * c * side**2 + 2 * c**2 + 17 * c // 4 == 1_614_096
    bottleneck = 17 * side**2 * c**2
    assert bottleneck == 218_365_952
    assert round(100 * total / bottleneck, 2) == 0.74


def resnext_macs(c: int, groups: int, width: int, side: int) -> int:
    inner = groups * width
    block = nn.Sequential(
        nn.Conv2d(4 * c, inner, 1, bias=False),
        nn.Conv2d(inner, inner, 3, padding=1, groups=groups, bias=False),
        nn.Conv2d(inner, 4 * c, 1, bias=False),
    )
    return count(block, 4 * c, side, side)[1]


def test_resnext_of_equal_cost() -> None:
    """9 G c^2 + 8 G C c - 17 C^2 = 0; the widths quoted are rounded, which costs a little more."""
    c, side = 64, 14
    roots = []
    for groups in (1, 2, 4, 8, 32):
        root = (-8 * groups * c + math.sqrt(64 * groups**2 * c**2 + 612 * groups * c**2)) / (18 * groups)
        assert 9 * groups * root**2 + 8 * groups * c * root == pytest.approx(17 * c**2)
        roots.append(round(root, 2))
    assert roots == [64, 39.95, 23.93, 13.70, 3.97]
    dearer = {}
    for groups, width in ((1, 64), (2, 40), (4, 24), (8, 14), (32, 4)):  # the table of the authors
        macs = resnext_macs(c, groups, width, side)
        assert macs == (8 * c * width + 9 * width**2) * side**2 * groups
        dearer[groups] = macs / (17 * c**2 * side**2) - 1
    assert dearer[1] == 0
    assert [round(100 * dearer[groups], 2) for groups in (4, 32)] == [0.37, 0.74]  # residues 256 and 512 of 69,632
    assert round(100 * dearer[8], 1) == 2.6


@pytest.mark.parametrize(("channels", "speed"), [(64, 7.89), (512, 8.84)])
def test_mobilenet_is_up_to_nine_times_faster(channels: int, speed: float) -> None:
    full = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    separable = nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
    )
    side = 7
    slow, fast = (count(net, channels, side, side)[1] for net in (full, separable))
    assert slow == 9 * channels**2 * side**2
    assert fast == (9 * channels + channels**2) * side**2
    assert slow / fast == pytest.approx(9 * channels / (9 + channels))
    assert round(slow / fast, 2) == speed


def test_relu6() -> None:
    x = torch.linspace(-2, 9, 23)
    assert torch.equal(nn.ReLU6()(x), x.clamp(min=0).clamp(max=6))


def test_stochastic_depth_of_54_blocks() -> None:
    rule = survival_rule(54, 0.5)
    assert rule == [pytest.approx(1 - block / 54 * 0.5) for block in range(1, 55)]
    assert sum(rule) == pytest.approx((3 * 54 - 1) / 4) == 40.25


def test_stochastic_depth_has_the_same_mean_in_training_and_evaluation() -> None:
    """Both forms: the paper's scales in evaluation by p, the other in training by 1 / p."""
    torch.manual_seed(0)
    x = torch.full((4, 1, 1, 1), 3.0, dtype=torch.float64)
    for form, expected in (("paper", 3 + 0.7 * 6), ("scaled", 3 + 6)):
        layer = StochasticDepth(0.7, form)
        mean = torch.stack([layer(x, lambda v: 2 * v, x) for _ in range(3000)]).mean().item()
        assert mean == pytest.approx(expected, abs=0.2)
        assert layer.eval()(x, lambda v: 2 * v, x).mean().item() == pytest.approx(expected)


# 7. Operators


IMAGE = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0], [0, 1, 1, 0, 0]])


def correlate(x: Tensor, kernel: Tensor) -> Tensor:
    return F.conv2d(x[None, None].double(), kernel[None, None].double())[0, 0]


def test_convolution_of_the_slides() -> None:
    kernel = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]])
    expected = torch.tensor([[4, 3, 4], [2, 4, 3], [2, 3, 4]]).double()
    assert torch.equal(correlate(IMAGE, kernel), expected)
    # the filter is symmetric, so convolution proper gives the same
    assert torch.equal(true_convolution(IMAGE[None, None].double(), kernel[None, None].double())[0, 0], expected)


def test_filters_of_the_slides() -> None:
    blur = torch.tensor([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 8
    laplace = torch.tensor([[0, -1, 0], [-1, 4, -1], [0, -1, 0]])
    edge = torch.tensor([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    flat, ramp = torch.full((5, 5), 3.0), torch.arange(5.0).expand(5, 5)
    assert (correlate(flat, blur) == 3).all()
    assert not correlate(flat, laplace).any() and not correlate(flat, edge).any()
    assert not correlate(ramp, laplace).any()
    assert (correlate(ramp, edge) == -8).all()  # it is brighter on the right
    assert (true_convolution(ramp[None, None], edge[None, None].float()) == 8).all()  # rotated, the filter changes sign
    assert not correlate(ramp.T, edge).any()


def test_demo_with_two_filters() -> None:
    """Stride 2, padding 1, two filters of 3x3x3 with biases 1 and 0.

    The second filter is garbled in the slides, no printed version gives the printed output; the one here is the only
    one within three entries of it, of -1, 0 and 1, that does.
    """
    x = torch.tensor(
        [
            [[1, 2, 0, 0, 0], [2, 2, 0, 0, 0], [2, 2, 2, 1, 0], [1, 0, 0, 2, 0], [1, 1, 0, 1, 0]],
            [[1, 0, 0, 1, 0], [1, 0, 0, 0, 1], [0, 0, 1, 2, 0], [0, 1, 0, 1, 0], [1, 1, 1, 1, 2]],
            [[0, 0, 2, 2, 2], [1, 2, 2, 2, 0], [1, 1, 1, 1, 0], [1, 2, 0, 0, 0], [2, 2, 2, 1, 0]],
        ]
    )
    first = [[[0, 0, -1], [-1, 0, 0], [-1, -1, -1]], [[1, 1, -1], [0, 0, 0], [-1, 1, 1]],
             [[-1, -1, -1], [0, 1, 1], [0, -1, 0]]]  # fmt: skip
    second = [[[-1, 0, 0], [1, -1, -1], [0, 0, -1]], [[-1, 0, 1], [1, -1, 1], [-1, 0, 1]],
              [[-1, -1, -1], [-1, 1, -1], [0, 1, -1]]]  # fmt: skip
    layer = FitConv2d(3, 2, 3, stride=2, padding=1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([first, second]))
        layer.bias.copy_(torch.tensor([1, 0]))
        out = layer(x[None].float())[0].long()
    assert out.tolist() == [
        [[-3, -1, 4], [-2, -7, -4], [1, -1, 1]],
        [[-7, 3, 1], [-7, -11, -1], [-4, -2, -4]],
    ]


def test_pooling_of_the_slides() -> None:
    x = torch.tensor([[1.0, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]])[None, None]
    assert FitMaxPool2d(2)(x)[0, 0].tolist() == [[6, 8], [3, 4]]
    assert F.avg_pool2d(x, 2)[0, 0].tolist() == [[3.25, 5.25], [2, 2]]  # (1/K) sum
    sums = torch.tensor([[63.0, 133], [18, 26]])
    torch.testing.assert_close(L2Pool2d(2)(x)[0, 0], sums.sqrt())  # the slide divides by nothing
    torch.testing.assert_close(L2Pool2d(2, mean=True)(x)[0, 0], (sums / 4).sqrt())
    maps = torch.tensor([3.0, 4, 12])[None, :, None, None]
    torch.testing.assert_close(L2PoolFeatures(3)(maps).flatten(), torch.tensor([5, 13, 160**0.5]))


def test_layer_with_several_maps() -> None:
    """h_j = max(0, sum_k h_k * w_kj), and with a bias B(l) and convolution proper (two of the decks)."""
    torch.manual_seed(0)
    x = torch.randn(1, 3, 5, 5, dtype=torch.float64)
    layer = TrueConv2d(3, 2, 3).double()
    with torch.no_grad():
        out = torch.relu(layer(x))[0]
        for j in range(2):
            total = layer.bias[j] + sum(
                true_convolution(x[:, k : k + 1], layer.weight[j : j + 1, k : k + 1])[0, 0] for k in range(3)
            )
            torch.testing.assert_close(out[j], total.clamp(min=0))
