"""What a convolution can be replaced by, and what that costs: arithmetic only, for advice and rewriting alike.

For C input and K output channels and k x k filters: a chain of 3x3 needs 9 C K for each link, a depthwise filter with a
pointwise one 9 C + C K, G groups with a 1x1 that mixes them 9 C K / G + K K, a vertical and a horizontal filter of rank
R k (C + K) R.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Conv:
    """A convolution, and the map that it reads (height, width; or one or three sizes)."""

    inputs: int
    outputs: int
    kernel: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int = 1
    bias: bool = True
    size: Sizes = ()
    norm: bool = False  # BN behind it, and with it a ReLU: what follows a link of a chain, the last one excepted
    relu: bool = False

    @property
    def weights(self) -> int:
        return self.inputs // self.groups * self.outputs * prod(self.kernel)

    @property
    def params(self) -> int:
        return self.weights + self.outputs * self.bias + 2 * self.outputs * self.norm

    @property
    def out(self) -> Sizes:
        """Sizes of the map that it makes."""
        return tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        )

    @property
    def macs(self) -> int:
        """Multiply-adds for one example."""
        return self.weights * prod(self.out)

    @property
    def numbers(self) -> int:
        """Numbers that it writes for one example; the ReLU works in place."""
        return self.outputs * prod(self.out) * (1 + self.norm)


@dataclass(frozen=True)
class Cost:
    params: int
    macs: int
    numbers: int


def cost(steps: Sequence[Conv]) -> Cost:
    """Parameters, multiply-adds and written numbers of convolutions one after the other, for one example."""
    return Cost(sum(s.params for s in steps), sum(s.macs for s in steps), sum(s.numbers for s in steps))


def fits_chain(conv: Conv, side: int = 5) -> bool:
    """True for square odd filters of at least `side`, which do not cover the whole map, with strides of 2s and 3s."""
    return (
        len(conv.kernel) == 2
        and conv.kernel[0] == conv.kernel[1] >= side
        and conv.kernel[0] % 2 == 1
        and conv.stride[0] == conv.stride[1]
        and _factors(conv.stride[0]) is not None
        and set(conv.dilation) == {1}
        and prod(conv.out) > 1
    )


def fits_dense(conv: Conv, channels: int = 64) -> bool:
    """True for filters of at least 3 along each axis that connect many inputs with many outputs, all with all."""
    return (
        conv.groups == 1 and min(conv.kernel) >= 3 and min(conv.inputs, conv.outputs) >= channels and prod(conv.out) > 1
    )


def chain(conv: Conv, width: int | None = None, norm: bool = False) -> list[Conv]:
    """A chain of 3x3 convolutions that sees at least as much: 5x5 -> two, 7x7 -> three.

    The first links take the stride, one factor each, so that they shrink the map early. Inner links have `width`
    channels: by default the smaller of inputs and outputs; half the outputs where the input is a picture.
    """
    factors = _factors(conv.stride[0]) or []
    strides, field, jump = [], 1, 1
    while field < conv.kernel[0] or factors:
        step = factors.pop(0) if factors else 1
        strides.append(step)
        field += 2 * jump
        jump *= step
    if width is None:
        inner = min(conv.inputs, conv.outputs) if conv.inputs >= 16 else max(conv.outputs // 2, 1)
        width = max(inner // conv.groups, 1) * conv.groups
    later = strides.count(1)
    found: list[tuple[int, list[Conv]]] = []
    for paddings in product((1, 0, 2), repeat=len(strides) - later):
        for total in [conv.padding[0]] if later == len(strides) else range(2 * later + 1):
            even = [total // later + (i < total % later) for i in range(later)] if later else []
            steps = _links(conv, strides, [*paddings, *even], width, norm)
            if steps is not None and steps[-1].out == conv.out:
                found.append((sum(abs(p - 1) for p in paddings) + abs(total - later), steps))
    return min(found, key=lambda item: item[0])[1] if found else []  # nearest to a padding of 1 everywhere


def _links(conv: Conv, strides: list[int], paddings: Sequence[int], width: int, norm: bool) -> list[Conv] | None:
    steps: list[Conv] = []
    size, inputs = conv.size, conv.inputs
    for index, (stride, padding) in enumerate(zip(strides, paddings, strict=True)):
        last = index == len(strides) - 1
        step = Conv(
            inputs, conv.outputs if last else width, (3, 3), (stride,) * 2, (padding,) * 2, (1, 1), conv.groups,
            conv.bias if last else not norm, size, norm and not last, not last,
        )  # fmt: skip
        if min(step.out) < 1:
            return None
        steps.append(step)
        size, inputs = step.out, step.outputs
    return steps


def separable(conv: Conv, norm: bool = False) -> list[Conv]:
    """A filter for each channel, then a 1x1 convolution (MobileNet)."""
    first = replace(conv, outputs=conv.inputs, groups=conv.inputs, bias=not norm, norm=norm, relu=True)
    return [first, _pointwise(conv.inputs, conv.outputs, first.out, conv.bias)]


def grouped(conv: Conv, groups: int | None = None, mix: bool = True) -> list[Conv]:
    """Groups of filters that each read their part of the inputs; with `mix`, a 1x1 convolution behind them.

    `groups` is by default the largest of 8, 4, 2 that divides inputs and outputs. Returns [] if none does.
    """
    groups = groups or next((g for g in (8, 4, 2) if conv.inputs % g == conv.outputs % g == 0), 0)
    if not groups or conv.inputs % groups or conv.outputs % groups:
        return []
    first = replace(conv, groups=groups, bias=conv.bias and not mix)
    return [first, _pointwise(conv.outputs, conv.outputs, first.out, conv.bias)] if mix else [first]


def split(conv: Conv, rank: int | None = None) -> list[Conv]:
    """A vertical filter to `rank` channels (default: the smaller of inputs and outputs), then a horizontal one."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = conv.kernel, conv.stride, conv.padding, conv.dilation
    rank = rank or min(conv.inputs, conv.outputs)
    down = Conv(conv.inputs, rank, (kh, 1), (sh, 1), (ph, 0), (dh, 1), 1, False, conv.size)
    return [down, Conv(rank, conv.outputs, (1, kw), (1, sw), (0, pw), (1, dw), 1, conv.bias, down.out)]


def squeezed(conv: Conv, norm: bool = False) -> list[Conv]:
    """A 1x1 convolution to a quarter of the channels in front of it (GoogLeNet, ResNet)."""
    inner = max(conv.inputs // 4, 1)
    first = replace(_pointwise(conv.inputs, inner, conv.size, not norm), norm=norm, relu=True)
    return [first, replace(conv, inputs=inner, groups=1)]


def _pointwise(inputs: int, outputs: int, size: Sizes, bias: bool) -> Conv:
    one, zero = (1,) * len(size), (0,) * len(size)
    return Conv(inputs, outputs, one, one, zero, one, 1, bias, size)


def _factors(stride: int) -> list[int] | None:
    """Factors of 2 and 3; None if there are others (a 3x3 filter of stride 5 would not look at every pixel)."""
    found = []
    for factor in (2, 3):
        while stride % factor == 0:
            found.append(factor)
            stride //= factor
    return found if stride == 1 else None
