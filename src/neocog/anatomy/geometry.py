"""What operators do to places: windows, slices, sums, products, concatenations (see `place`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import islice, pairwise
from math import ceil, floor, inf, prod
from typing import Any

import numpy as np

from .place import (
    Axis,
    Place,
    covered,
    expanded,
    free,
    fresh,
    fresh_digit,
    length,
    moved,
    neat,
    one_digit,
    reshaped,
    with_spans,
    without,
)
from .record import Number, Shape

_MOST = 2**22  # numbers in a table of intervals; beyond it, one interval for all positions


def repeated(place: Place, times: Sequence[int], out: Shape) -> Place:
    """The whole tensor several times along its dimensions."""
    place = replace(place, dims=((),) * (len(out) - len(place.dims)) + place.dims)
    shape = [n for times_, dim in zip(times, place.shape(), strict=True) for n in (times_, dim)]
    place = reshaped(place, [n for dim in place.shape() for n in (1, dim)])  # type: ignore[arg-type]
    return reshaped(expanded(place, tuple(shape)), out)


# --- positions that read several others ------------------------------------------------------------------------------


Formula = Callable[[Axis, int], Axis]  # an axis, and which of its digits lies along the dimension
Position = Callable[[int], int]


def _reading(place: Place, dim: int, n: int, first: Position, last: Position, formula: Formula) -> Place:
    """Each of `n` positions along a dimension reads those from `first` to `last`; outside of the map is nothing."""
    place = one_digit(place, dim)
    if not place.dims[dim]:
        return fresh(place, dim, n)
    (digit,) = place.of(dim)
    axes: list[Axis] = []
    for a in place.axes:
        if digit in a.over:
            at, old = a.over.index(digit), a.spans
            a = formula(a, at)
            if old is not None:
                spans = np.full((*old.shape[: at + 1], n, *old.shape[at + 2 :]), inf)
                spans[1] = -inf
                new, source = np.moveaxis(spans, at + 1, 0), np.moveaxis(old, at + 1, 0)
                for x in range(n):
                    part = source[max(first(x), 0) : max(last(x) + 1, 0)]
                    if len(part):
                        new[x, 0], new[x, 1] = part[:, 0].min(0), part[:, 1].max(0)
                a = with_spans(a, spans)
        axes.append(a)
    dims = (*place.dims[:dim], (n,), *place.dims[dim + 1 :])
    return replace(place, dims=dims, axes=tuple(axes))


def _stepped(a: Axis, at: int, factor: Number) -> dict[str, Any]:
    """Stride and steps after each position along a dimension moves `factor` times as far."""
    steps = (*a.steps[:at], neat(Fraction(a.steps[at]) * factor), *a.steps[at + 1 :])
    return {"stride": neat(Fraction(a.stride) * length(factor)), "steps": steps}


def _window(place: Place, dim: int, n: int, k: int, s: Number, p: int, d: int = 1) -> Place:
    """A convolution or pooling along one dimension, with stride and padding of either sign."""
    reach = d * (k - 1)

    def formula(a: Axis, at: int) -> Axis:
        step = a.steps[at]
        padding = neat(a.padding + p * step + (reach * -step if step < 0 else 0))
        return replace(a, size=int(a.size + reach * length(step)), padding=padding, **_stepped(a, at, s))

    return _reading(place, dim, n, lambda x: floor(x * s) - p, lambda x: floor(x * s) - p + reach, formula)


Sizes = Sequence[int]


def window(place: Place, kernel: Sizes, stride: Sequence[Number], padding: Sizes, dilation: Sizes, out: Shape) -> Place:
    """A convolution or pooling over the last ``len(kernel)`` dimensions."""
    first = len(place.dims) - len(kernel)
    for i, (k, s, p, d, n) in enumerate(zip(kernel, stride, padding, dilation, out[-len(kernel) :], strict=True)):
        if (k, s, p) != (1, 1, 0):
            place = _window(place, first + i, n, k, s, p, d)
    return place


def _centred(place: Place, dim: int, n: int, taps: int, factor: Fraction, middle: Fraction, half: Fraction) -> Place:
    """An enlarged dimension: position x sees the old ones that are at most `half` from ``x * factor + middle``.

    These are `taps` at most. Which ones, changes from position to position in the rhythm of the enlargement; the
    padding says where the centre is on average.
    """

    def formula(a: Axis, at: int) -> Axis:
        step = a.steps[at]
        padding = neat(a.padding - middle * step + Fraction(taps - 1) * length(step) / 2)
        return replace(a, size=int(a.size + (taps - 1) * length(step)), padding=padding, **_stepped(a, at, factor))

    low, high = middle - half, middle + half
    return _reading(place, dim, n, lambda x: ceil(x * factor + low), lambda x: floor(x * factor + high), formula)


def transposed(place: Place, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, out: Shape) -> Place:
    """A transposed convolution; the size is that of the output position which sees most."""
    first = len(place.dims) - len(kernel)
    for i, (k, s, p, d, n) in enumerate(zip(kernel, stride, padding, dilation, out[-len(kernel) :], strict=True)):
        reach = d * (k - 1)
        most = ceil(Fraction(reach + 1, s))  # input positions that meet in one output position
        middle = Fraction(2 * p - reach, 2 * s)  # input position in the centre of output position 0
        place = _centred(place, first + i, n, most, Fraction(1, s), middle, Fraction(reach, 2 * s))
    return place


def adaptive(place: Place, before: Shape, out: Shape, spatial: int) -> Place:
    """Adaptive pooling of the last `spatial` dimensions; windows may overlap where sizes do not divide."""
    kernel, stride = [], []
    for n, o in zip(before[-spatial:], out[-spatial:], strict=True):
        kernel.append(max(ceil((i + 1) * n / o) - floor(i * n / o) for i in range(o)))
        stride.append(Fraction(n, o))
    return window(place, kernel, stride, [0] * spatial, [1] * spatial, out)


def resized(place: Place, before: Shape, out: Shape, taps: int) -> Place:
    """Interpolation of the last dimensions: `taps` is 1 for nearest, 2 for linear, 4 for cubic."""
    for dim, (n, o) in enumerate(zip(before, out, strict=True)):
        if n == o:
            continue
        if not place.runs(dim):
            place = fresh(covered(place, [dim], keep=True), dim, o)
            continue
        factor = Fraction(n, o)
        place = _centred(place, dim, o, taps, factor, (factor - 1) / 2, Fraction(taps, 2))
    return place


def padded(place: Place, left: dict[int, int], out: Shape) -> Place:
    """Padding (or, negative, cropping) in front of dimensions; the rest of the new size lies behind."""
    for dim, n in enumerate(out):
        if n != prod(place.dims[dim]) or left.get(dim):
            place = sliced(place, dim, -left.get(dim, 0), 1, n)
    return place


def sliced(place: Place, dim: int, first: int, step: int, n: int) -> Place:
    """Every `step`-th position of a dimension from `first` on; in reverse where `step` is negative."""
    if not place.runs(dim):
        return fresh(covered(place, [dim], keep=True), dim, n)
    return _window(place, dim, n, 1, step, -first)


def rolled(place: Place, dim: int, by: int) -> Place:
    """Positions that leave at one end and come in at the other.

    The picture is taken as a ring where the map covers it: what comes in continues the map beyond its border.
    """
    n = prod(place.dims[dim])
    by = (by + n // 2) % n - n // 2 if n else 0
    if not by or not place.runs(dim):
        return place
    place = one_digit(place, dim)
    digit = place.of(dim)[0]
    axes = []
    for a, side in zip(place.axes, place.sides, strict=True):
        if digit in a.over:
            at = a.over.index(digit)
            ring = a.steps[at] * n in (side, -side)
            if ring and a.spans is None:
                a = replace(a, padding=neat(a.padding + by * a.steps[at]))
            else:
                spans = np.roll(a.firsts(place.digits(), a.over), by, at + 1)
                if ring:
                    part = [slice(None)] * spans.ndim
                    part[at + 1] = slice(0, by) if by > 0 else slice(n + by, n)
                    spans = spans.copy()
                    spans[tuple(part)] -= float(n * a.steps[at]) * (1 if by > 0 else -1)
                a = with_spans(a, spans, float(-by * a.steps[at]) if ring else 0.0)
        axes.append(a)
    return replace(place, axes=tuple(axes))


def unfolded(place: Place, dim: int, size: int, step: int) -> Place:
    """Windows of a dimension, whose positions become a last dimension (``Tensor.unfold``)."""
    n = (prod(place.dims[dim]) - size) // step + 1
    if not place.runs(dim):
        place = fresh(place, dim, n)
        return replace(place, dims=(*place.dims, (size,)))
    place = one_digit(place, dim)
    digit, last = place.of(dim)[0], len(place.digits())
    axes = []
    for a in place.axes:
        if digit in a.over:
            at = a.over.index(digit)
            spans = a.spans
            if spans is not None:
                at_once = np.arange(n)[:, None] * step + np.arange(size)
                spans = np.moveaxis(spans.take(at_once, at + 1), at + 2, -1)
            steps = (*a.steps[:at], neat(Fraction(a.steps[at]) * step), *a.steps[at + 1 :], a.steps[at])
            a = replace(a, over=(*a.over, last), steps=steps, spans=spans)
        axes.append(a)
    dims = (*place.dims[:dim], (n,), *place.dims[dim + 1 :], (size,))
    return replace(place, dims=dims, axes=tuple(axes))


def swept(place: Place, dims: Sequence[int], out: Shape) -> Place:
    """Positions that each see all along some dimensions: a softmax, a linear layer, a Fourier transform."""
    for d in {d % len(place.dims) for d in dims}:
        if place.runs(d) or out[d] != prod(place.dims[d]):
            place = fresh(covered(place, [d], keep=True), d, out[d])
    return place


# --- several tensors -------------------------------------------------------------------------------------------------


def _alike(places: Sequence[Place], out: Shape) -> list[Place]:
    """The places with the same digits in every dimension, broadcast to the same rank; 1 where one is repeated."""
    wide = [replace(p, dims=((),) * (len(out) - len(p.dims)) + p.dims) for p in places]
    if all(p.dims == wide[0].dims for p in wide[1:]) and wide[0].shape() == out:
        return wide
    fine: list[tuple[int, ...]] = []
    for d, n in enumerate(out):
        cuts = {1, n}
        for p in wide:
            if prod(p.dims[d]) == n:
                cuts.update(prod(p.dims[d][k:]) for k in range(len(p.dims[d])))
        ends = sorted(cuts, reverse=True)
        if all(a % b == 0 for a, b in pairwise(ends)):
            fine.append(tuple(a // b for a, b in pairwise(ends)) or (1,))
        else:
            fine.append((n,))
    made = []
    for p in wide:
        target = tuple(m for d, n in enumerate(out) for m in (fine[d] if prod(p.dims[d]) == n else (1,) * len(fine[d])))
        p = reshaped(p, target)
        for d in range(len(target)):
            p = one_digit(p, d)
            if not p.dims[d]:
                p = fresh_digit(p, d)
        rest = iter(p.dims)
        made.append(replace(p, dims=tuple(tuple(n for dim in islice(rest, len(sizes)) for n in dim) for sizes in fine)))
    return made


def merged(places: Sequence[Place], out: Shape) -> Place | None:
    """Union of what several tensors see, for a sum or a product; broadcast from the right as tensors are."""
    shown = [p for p in places if p.axes]
    if not shown:
        return replace(free(out), at_least=any(p.at_least for p in places))
    if len({len(p.axes) for p in shown}) > 1:
        return None  # two pictures with different axes
    if any(len(p.dims) > len(out) or any(n not in (1, o) for n, o in zip(p.shape()[::-1], out[::-1], strict=False))
           for p in shown):  # fmt: skip
        return None
    alike = _alike([*shown, free(out)], out) if any(p.shape() != out for p in shown) else _alike(shown, out)
    digits = [max(sizes) for sizes in zip(*(p.digits() for p in alike), strict=True)]
    shown = alike[: len(shown)]
    sources = [[_still(a, p.digits(), digits) for a in p.axes] for p in shown]
    most = max(range(len(shown)), key=lambda k: sum(bool(a.over) for a in sources[k]))
    first = shown[most]
    aligned, whole, at_least = first.aligned, first.whole, any(p.at_least for p in places)
    axes = sources[most]
    for k, p in enumerate(shown):
        if k == most:
            continue
        aligned, whole = aligned and p.aligned, whole or p.whole
        if all(_covers(b, n) for b, n in zip(sources[k], p.sides, strict=True)) and any(a.over for a in axes):
            whole = True  # a value of the whole picture joins every position
            continue
        made = [_union(a, b, digits) for a, b in zip(axes, sources[k], strict=True)]
        axes, aligned = [a for a, _ in made], aligned and all(fits for _, fits in made)
    rest = iter(digits)
    dims = tuple(tuple(islice(rest, len(dim))) for dim in first.dims)
    return Place(dims, tuple(axes), first.sides, aligned, whole, at_least)


def _still(a: Axis, own: list[int], digits: list[int]) -> Axis:
    """The axis without the digits along which its tensor is repeated."""
    return without(a, [k for k, i in enumerate(a.over) if own[i] != digits[i]])


def _covers(a: Axis, side: int) -> bool:
    """Whether an axis has been summed up, but for a border that its stride leaves out."""
    return not a.over and a.size > 0 and -a.padding < a.stride and a.size - a.padding > side - a.stride


def _union(a: Axis, b: Axis, digits: list[int]) -> tuple[Axis, bool]:
    """Interval that covers both; and whether their centres and strides agree."""
    if not b.size or not a.size:
        return (a if a.size else b), True
    stride = max(a.stride, b.stride) if len(a.over) == len(b.over) else (a if len(a.over) > len(b.over) else b).stride
    if (a.over, a.steps) == (b.over, b.steps) and a.spans is b.spans is None:
        first, last = min(-a.padding, -b.padding), max(a.size - a.padding, b.size - b.padding)
        centres = 2 * a.padding - a.size == 2 * b.padding - b.size
        return Axis(int(last - first), stride, neat(-first), a.over, a.steps), centres and a.stride == b.stride
    over = sorted({*a.over, *b.over})
    fine = dict(zip(b.over, b.steps, strict=True)) | dict(zip(a.over, a.steps, strict=True))
    if prod(digits[i] for i in over) > _MOST:
        one, two = a.firsts(digits, a.over), b.firsts(digits, b.over)
        low, high = min(one[0].min(), two[0].min()), max(one[1].max(), two[1].max())
        return Axis(int(high - low) + 1, stride, neat(Fraction(-low)), (), ()), False
    one, two = a.firsts(digits, over), b.firsts(digits, over)
    spans = np.stack((np.minimum(one[0], two[0]), np.maximum(one[1], two[1])))
    base = replace(a, over=tuple(over), steps=tuple(fine[i] for i in over), stride=stride, spans=None)
    moved = _drift(one, spans)
    return with_spans(base, spans, float(moved.mean()) if moved.size else 0.0), not _drift(one, two).any()


def _drift(before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """How far the centres of intervals move, where both see something."""
    before, after = np.broadcast_arrays(before, after)
    seen = np.isfinite(before[0]) & np.isfinite(after[0])
    return (after[:, seen] - before[:, seen]).sum(0) / 2  # type: ignore[no-any-return]


def joined(places: Sequence[Place], dim: int, out: Shape) -> Place | None:
    """A concatenation along a dimension: positions keep what they see; where nothing depends on it, all see all."""
    if not any(p.runs(dim) for p in places):
        one = [fresh(covered(p, [dim], keep=True), dim, out[dim]) for p in places]
        return merged(one, out)
    shown = [p for p in places if p.axes]
    if len({len(p.axes) for p in shown}) > 1:
        return None
    sees_nothing = tuple(Axis(0, a.stride, 0, (), ()) for a in shown[0].axes)
    cut = [one_digit(p if p.axes else replace(p, axes=sees_nothing, sides=shown[0].sides), dim) for p in places]
    sides = [prod(p.dims[dim]) for p in cut]
    # the other dimensions with the same digits: as places of one position along `dim`
    rest = out[:dim] + out[dim + 1 :]
    order = [*(d for d in range(len(out)) if d != dim), dim]
    tails = [moved(p, order) for p in cut]
    longest = max(sides)
    wide = _alike([sliced(p, len(rest), 0, 1, longest) for p in tails], (*rest, longest))
    last = len(wide[0].digits()) - 1
    digits = [max(sizes) for sizes in zip(*(p.digits() for p in wide), strict=True)]
    axes = []
    for mine in zip(*(p.axes for p in wide), strict=True):
        over = sorted({i for a in mine for i in a.over} | {last})
        parts = []
        for a, n in zip(mine, sides, strict=True):
            parts.append(np.broadcast_to(a.firsts(digits, over), (2, *(digits[i] for i in over)))[..., :n])
        base, size = max(mine, key=lambda a: (a.size > 0) * len(a.over)), max(a.size for a in mine)
        steps = dict(zip(base.over, base.steps, strict=True))
        spans, per = np.concatenate(parts, -1), tuple(steps.get(i, 0) for i in over)
        axes.append(Axis(size, base.stride, base.padding, tuple(over), per, spans))
    dims = (*wide[0].dims[:-1], (out[dim],))
    whole, at_least = any(p.whole for p in places), any(p.at_least for p in places)
    place = Place(dims, tuple(axes), shown[0].sides, False, whole, at_least)
    back = [*range(dim), len(out) - 1, *range(dim, len(out) - 1)]
    return moved(place, back)


def written(place: Place, shape: Shape, part: Place | None, offsets: dict[int, int] | None) -> Place | None:
    """What a tensor sees, after a part of it has been overwritten from `offsets` on; None if that is not known."""
    if part is None or offsets is None:
        return replace(place, at_least=True) if place.axes else None
    new = padded(part, offsets, shape)
    if not place.axes or not new.axes:
        return new if new.axes else place
    same = place.dims == new.dims and all(
        (a.over, a.steps, a.size) == (b.over, b.steps, b.size) and a.spans is b.spans is None
        and (a.padding - b.padding) % side == 0 for a, b, side in zip(place.axes, new.axes, place.sides, strict=True)
    )  # fmt: skip
    return place if same else merged([place, new], shape)  # the same on a ring: circular padding


def contracted(a: Place, b: Place, out: Shape) -> Place | None:
    """Matrix product of (..., m, k) and (..., k, n).

    The dimension k of both is summed up. Where a row of the left one and a column of the right one both have their own
    place in the picture (attention), every position of the result sees all the columns.
    """
    left = covered(a, [len(a.dims) - 1], keep=True)
    right = covered(b, [len(b.dims) - 2], keep=True)
    if len(a.dims) > 1 and left.runs(len(a.dims) - 2) and right.runs(len(b.dims) - 1):
        right = covered(right, [len(b.dims) - 1], keep=True)
    return merged([left, right], out)
