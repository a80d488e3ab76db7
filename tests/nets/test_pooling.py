"""Output sizes and pooling, against slow and obvious loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from neocog.errors import NetError
from neocog.nets.pooling import (
    FITS,
    FitAvgPool2d,
    FitConv2d,
    FitMaxPool2d,
    L2Pool2d,
    L2PoolFeatures,
    MaxUnpool2d,
    SwitchedMaxPool2d,
    output_size,
)

SIZES = st.integers(1, 14)
KERNELS = st.integers(1, 5)
STRIDES = st.integers(1, 4)
PADDINGS = st.integers(0, 2)


def windows(size: int, kernel: int, stride: int, padding: int, fit: str) -> list[range]:
    """The positions that each window covers, -padding being the first; counted by moving it step by step."""
    found, start = [], -padding
    while start + kernel <= size + padding:
        found.append(range(start, start + kernel))
        start += stride
    unread = start - stride + kernel < size + padding
    if fit == "ceil" and unread and start < size:
        found.append(range(start, start + kernel))
    return found


def by_windows(x: Tensor, kernel: int, stride: int, padding: int, fit: str, outside: float) -> list[list[Tensor]]:
    """For each window of one map (H, W) the values that it covers; `outside` stands beyond the input."""
    rows, columns = (windows(side, kernel, stride, padding, fit) for side in x.shape)
    height, width = x.shape

    def value(i: int, j: int) -> Tensor:
        return x[i, j] if 0 <= i < height and 0 <= j < width else torch.tensor(outside, dtype=x.dtype)

    return [[torch.stack([value(i, j) for i in down for j in across]) for across in columns] for down in rows]


@given(SIZES, KERNELS, STRIDES, PADDINGS, st.sampled_from(FITS))
def test_output_size_counts_the_windows(size: int, kernel: int, stride: int, padding: int, fit: str) -> None:
    assume(kernel <= size + 2 * padding)
    expected = len(windows(size, kernel, stride, padding, fit))
    if fit == "strict" and (size - kernel + 2 * padding) % stride:
        with pytest.raises(NetError, match="doesn't fit"):
            output_size(size, kernel, stride, padding, fit=fit)
    else:
        assert output_size(size, kernel, stride, padding, fit=fit) == expected


@given(SIZES, KERNELS, STRIDES, PADDINGS)
def test_floor_and_ceil_are_pytorchs(size: int, kernel: int, stride: int, padding: int) -> None:
    assume(kernel <= size + 2 * padding and 2 * padding <= kernel)
    x = torch.zeros(1, 1, size, size)
    for fit in ("floor", "ceil"):
        pooled = F.max_pool2d(x, kernel, stride, padding, ceil_mode=fit == "ceil")
        assert pooled.shape[2] == output_size(size, kernel, stride, padding, fit=fit)
    dilated = F.conv2d(F.pad(x, (4,) * 4), torch.zeros(1, 1, kernel, kernel), None, stride, dilation=2)
    if size + 8 >= 2 * kernel - 1:
        assert dilated.shape[2] == output_size(size, kernel, stride, 4, 2)


def test_strict_refuses_in_the_words_of_the_lecture_and_names_sizes_that_fit() -> None:
    assert [output_size(7, 3, stride, fit="strict") for stride in (1, 2)] == [5, 3]
    words = r"doesn't fit: cannot apply 3x3 filter on 7x7 input with stride 3.*= 2\.33 is not a .*6x6 or 9x9 would fit"
    with pytest.raises(NetError, match=words):
        output_size(7, 3, 3, fit="strict")
    with pytest.raises(NetError, match=r"54\.25 is not a whole number; 223x223 or 227x227 would fit"):
        output_size(224, 11, 4, fit="strict")  # AlexNet as often described; the true input is 227
    with pytest.raises(NetError, match=r"stride 4: .*; 2x2 or 6x6 would fit"):
        output_size(4, 2, 4, fit="strict")


@given(SIZES, KERNELS, st.integers(2, 4), PADDINGS)
def test_sizes_that_the_message_names_do_fit(size: int, kernel: int, stride: int, padding: int) -> None:
    assume(kernel <= size + 2 * padding and (size - kernel + 2 * padding) % stride)
    with pytest.raises(NetError) as caught:
        output_size(size, kernel, stride, padding, fit="strict")
    named = str(caught.value).split("; ")[1].split(" would fit")[0].split(" or ")
    assert named
    for sides in named:
        side = int(sides.split("x")[0])
        assert abs(side - size) < stride
        output_size(side, kernel, stride, padding, fit="strict")


def test_a_window_larger_than_its_input_never_fits() -> None:
    for fit in FITS:
        with pytest.raises(NetError, match=r"cannot apply 5x5 filter on 2x2 input with padding 1; .* at least 3x3"):
            output_size(2, 5, 1, 1, fit=fit)
    with pytest.raises(NetError, match="fit must be 'strict', 'floor' or 'ceil', got 'round'"):
        output_size(7, 3, fit="round")


@given(st.integers(3, 9), st.integers(3, 9), st.integers(1, 3), STRIDES, st.integers(0, 1), st.sampled_from(FITS))
def test_pooling_by_windows(height: int, width: int, kernel: int, stride: int, padding: int, fit: str) -> None:
    assume(2 * padding <= kernel)
    torch.manual_seed(height * 100 + width)
    x = torch.randn(2, 2, height, width, dtype=torch.float64)
    layers: list[nn.Module] = [
        FitMaxPool2d(kernel, stride, padding, fit=fit),
        L2Pool2d(kernel, stride, padding, fit=fit),
        SwitchedMaxPool2d(kernel, stride, padding, fit=fit),
    ]
    if fit == "strict" and any((side - kernel + 2 * padding) % stride for side in (height, width)):
        for layer in (
            *layers,
            FitAvgPool2d(kernel, stride, padding, fit=fit),
            FitConv2d(2, 2, kernel, stride, padding),
        ):
            with pytest.raises(NetError, match="doesn't fit"):
                layer(x.to(next(layer.parameters()).dtype) if list(layer.parameters()) else x)
        return
    for picture in range(2):
        for channel in range(2):
            one = x[picture, channel]
            seen = by_windows(one, kernel, stride, padding, fit, -math.inf)
            largest = torch.stack([torch.stack([values.max() for values in row]) for row in seen])
            seen = by_windows(one, kernel, stride, padding, fit, 0.0)
            root = torch.stack([torch.stack([values.square().sum().sqrt() for values in row]) for row in seen])
            torch.testing.assert_close(layers[0](x)[picture, channel], largest)
            torch.testing.assert_close(layers[1](x)[picture, channel], root)
            maxima, switches = (part[picture, channel] for part in layers[2](x))
            torch.testing.assert_close(maxima, largest)
            assert torch.equal(one.flatten()[switches], maxima)


def test_convolution_with_ceil_reads_zeros_beyond_the_end() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 11, dtype=torch.float64)
    for kernel, stride, padding, dilation in ((3, 2, 0, 1), (3, 3, 1, 1), (1, 3, 0, 1), (3, 4, 1, 2)):
        layer = FitConv2d(3, 4, kernel, stride, padding, dilation, fit="ceil").double()
        out = layer(x)
        sizes = [output_size(side, kernel, stride, padding, dilation, fit="ceil") for side in (8, 11)]
        assert list(out.shape[2:]) == sizes
        wide = F.conv2d(F.pad(x, (padding, 20, padding, 20)), layer.weight, layer.bias, stride, 0, dilation)
        torch.testing.assert_close(out, wide[:, :, : sizes[0], : sizes[1]])
        floor = FitConv2d(3, 4, kernel, stride, padding, dilation, fit="floor").double()
        floor.load_state_dict(layer.state_dict())
        usual = F.conv2d(x, layer.weight, layer.bias, stride, padding, dilation)
        torch.testing.assert_close(floor(x), usual)


def test_averages_count_padding_but_nothing_beyond_it() -> None:
    x = torch.ones(1, 1, 5, 5, dtype=torch.float64)
    out = FitAvgPool2d(3, 3, 1, fit="ceil")(x)[0, 0]  # windows from -1, 2: the second ends inside the padding
    torch.testing.assert_close(out, torch.tensor([[4, 6], [6, 9]], dtype=torch.float64) / 9)
    out = FitAvgPool2d(2, 2, fit="ceil")(x)[0, 0]  # the last windows are half or a quarter full, of ones alone
    assert torch.equal(out, torch.ones(3, 3, dtype=torch.float64))


def test_l2_pooling_of_the_lectures_and_of_other_texts() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(L2Pool2d(2)(x), nn.LPPool2d(2, 2)(x))
    torch.testing.assert_close(L2Pool2d(2, mean=True)(x), L2Pool2d(2)(x) / 2)
    torch.testing.assert_close(L2Pool2d(3, 1, mean=True)(x), F.avg_pool2d(x**2, 3, 1).sqrt())


@given(st.integers(1, 9), st.sampled_from([1, 3, 5]))
def test_l2_pooling_over_neighbouring_features(maps: int, size: int) -> None:
    torch.manual_seed(maps)
    for shape in ((2, maps), (2, maps, 3), (2, maps, 3, 2)):
        x = torch.randn(shape, dtype=torch.float64)
        out = L2PoolFeatures(size)(x)
        assert out.shape == x.shape
        for j in range(maps):
            near = [x[:, k] ** 2 for k in range(maps) if abs(k - j) <= size // 2]
            torch.testing.assert_close(out[:, j], torch.stack(near).sum(0).sqrt())


def test_l2_pooling_over_groups_of_features() -> None:
    x = torch.randn(2, 6, 3, 2, dtype=torch.float64)
    out = L2PoolFeatures(3, groups=True)(x)
    torch.testing.assert_close(out, torch.stack([x[:, :3].norm(dim=1), x[:, 3:].norm(dim=1)], 1))
    with pytest.raises(NetError, match="groups of 4 from 6 maps"):
        L2PoolFeatures(4, groups=True)(x)
    with pytest.raises(NetError, match="size must be odd, got 2"):
        L2PoolFeatures(2)


@pytest.mark.parametrize(
    "layer", [L2Pool2d(2), L2Pool2d(3, 2, 1, mean=True, fit="ceil"), L2PoolFeatures(3), L2PoolFeatures(2, groups=True)]
)
def test_gradients_of_l2_pooling_are_right_and_zero_at_zero(layer: nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)
    zero = torch.zeros(2, 4, 5, 5, requires_grad=True)
    layer(zero).sum().backward()
    assert torch.equal(zero.grad, torch.zeros_like(zero))


@given(st.integers(3, 9), st.integers(3, 9), st.integers(2, 3), st.integers(1, 3), st.integers(0, 1))
def test_unpooling_is_the_transpose_of_pooling(height: int, width: int, kernel: int, stride: int, padding: int) -> None:
    torch.manual_seed(height * 10 + width)
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    maxima, switches = SwitchedMaxPool2d(kernel, stride, padding)(x)
    y = torch.randn_like(maxima)
    back = MaxUnpool2d()(y, switches, (height, width))
    assert back.shape == x.shape
    torch.testing.assert_close((maxima * y).sum(), (x * back).sum())


def test_unpooling_without_overlap_is_pytorchs_and_pools_back() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 7, 8)
    maxima, switches = SwitchedMaxPool2d(2)(x)
    back = MaxUnpool2d()(maxima, switches, x.shape[2:])
    assert torch.equal(back, nn.MaxUnpool2d(2)(maxima, switches, output_size=x.shape))
    assert torch.equal(SwitchedMaxPool2d(2)(back)[0], maxima)
    with pytest.raises(NetError, match="a switch for every value"):
        MaxUnpool2d()(maxima[:1], switches, x.shape[2:])


def test_built_without_memory_and_under_bf16() -> None:
    x = torch.empty(2, 4, 8, 8, device="meta")
    assert L2Pool2d(2)(x).shape == (2, 4, 4, 4)
    maxima, switches = SwitchedMaxPool2d(2)(x)
    assert MaxUnpool2d()(maxima, switches, (8, 8)).shape == x.shape
    assert L2PoolFeatures(3)(x).shape == x.shape
    low = torch.randn(2, 4, 8, 8, dtype=torch.bfloat16)
    assert L2Pool2d(2)(low).dtype == torch.bfloat16
