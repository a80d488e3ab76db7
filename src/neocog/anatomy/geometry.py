"""Receptive fields: which pixels a position of a tensor can see, carried through every operator.

A `Place` says for one tensor what each of its dimensions means in the picture. `Axis` is one axis of the picture as a
tensor sees it: position x covers the pixels ``x * stride - padding`` to ``x * stride - padding + size - 1``, and the
recurrences are those of Araujo, Norris, Sim 2019 (doi 10.23915/distill.00021), equations 1 to 5:
``r += d (k - 1) j``, ``P += p j``, ``j *= s``. Behind branches the union of the intervals is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor, prod

from .record import Field, Number, Shape


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of the picture, as seen from a tensor with `n` positions along it."""

    n: int
    size: int
    stride: Number
    padding: Number


@dataclass(frozen=True, slots=True)
class Place:
    """Axes of the picture, and for each dimension of the tensor the axes that run along it (row-major if several)."""

    axes: tuple[Axis, ...]
    dims: tuple[tuple[int, ...], ...]
    aligned: bool = True
    whole: bool = False

    def field(self) -> Field:
        """The receptive field of one position."""
        return Field(
            tuple(a.size for a in self.axes),
            tuple(a.stride for a in self.axes),
            tuple(a.padding for a in self.axes),
            self.aligned,
            self.whole,
        )

    def runs(self) -> frozenset[int]:
        """Axes along which the tensor has its own positions; the others have been summed up."""
        return frozenset(a for dim in self.dims for a in dim)


def start(shape: Shape, integers: bool) -> Place | None:
    """Place of an input: (B, C, H, W), (B, C, L), (B, C, T, H, W), or token ids (B, N)."""
    first = 1 if integers and len(shape) == 2 else 2
    sides = shape[first:]
    if not sides or len(sides) > 3:
        return None
    axes = tuple(Axis(n, 1, 1, 0) for n in sides)
    return Place(axes, ((),) * first + tuple((i,) for i in range(len(sides))))


def _neat(value: Number) -> Number:
    return value.numerator if isinstance(value, Fraction) and value.denominator == 1 else value


def _over(place: Place, changed: dict[int, Axis]) -> Place:
    return replace(place, axes=tuple(changed.get(i, a) for i, a in enumerate(place.axes)))


def window(
    place: Place,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    out: Shape,
) -> Place | None:
    """A convolution or pooling over the last ``len(kernel)`` dimensions."""
    changed: dict[int, Axis] = {}
    spatial = place.dims[len(place.dims) - len(kernel) :]
    for k, s, p, d, dim, n in zip(kernel, stride, padding, dilation, spatial, out[-len(kernel) :], strict=True):
        if len(dim) > 1:
            if (k, s, p) != (1, 1, 0):
                return None
        elif dim:
            a = place.axes[dim[0]]
            changed[dim[0]] = Axis(
                n, int(a.size + d * (k - 1) * a.stride), _neat(a.stride * s), _neat(a.padding + p * a.stride)
            )
    return _over(place, changed)


def _centred(a: Axis, n: int, taps: int, stride: Number, middle: Fraction) -> Axis:
    """Enlarged axis: each position sees `taps` old ones, around `middle` for position 0.

    Which ones, changes from position to position in the rhythm of the enlargement; the padding says where the centre
    is on average.
    """
    size = int(a.size + (taps - 1) * a.stride)
    return Axis(
        n, size, _neat(Fraction(stride)), _neat(a.padding - middle * a.stride + Fraction(taps - 1) * a.stride / 2)
    )


def transposed(
    place: Place,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    out: Shape,
) -> Place | None:
    """A transposed convolution; the size is that of the output position which sees most."""
    changed: dict[int, Axis] = {}
    spatial = place.dims[len(place.dims) - len(kernel) :]
    for k, s, p, d, dim, n in zip(kernel, stride, padding, dilation, spatial, out[-len(kernel) :], strict=True):
        if len(dim) > 1:
            return None
        if dim:
            a = place.axes[dim[0]]
            extent = d * (k - 1) + 1
            most = ceil(Fraction(extent, s))  # input positions that meet in one output position
            middle = Fraction(2 * p - extent + 1, 2 * s)  # input position in the centre of output position 0
            changed[dim[0]] = _centred(a, n, most, Fraction(a.stride) / s, middle)
    return _over(place, changed)


def adaptive(place: Place, before: Shape, out: Shape, spatial: int) -> Place | None:
    """Adaptive pooling of the last `spatial` dimensions; windows may overlap where sizes do not divide."""
    kernel, stride = [], []
    for n, o in zip(before[-spatial:], out[-spatial:], strict=True):
        kernel.append(max(ceil((i + 1) * n / o) - floor(i * n / o) for i in range(o)))
        stride.append(Fraction(n, o))
    return window(place, kernel, stride, [0] * spatial, [1] * spatial, out)  # type: ignore[arg-type]


def resized(place: Place, before: Shape, out: Shape, taps: int) -> Place | None:
    """Interpolation of the last dimensions: `taps` is 1 for nearest, 2 for linear, 4 for cubic."""
    changed: dict[int, Axis] = {}
    for dim, n, o in zip(place.dims, before, out, strict=True):
        if n == o or not dim:
            continue
        if len(dim) > 1:
            return None
        a = place.axes[dim[0]]
        middle = Fraction(n, 2 * o) - Fraction(1, 2)
        changed[dim[0]] = _centred(a, o, taps, Fraction(a.stride) * n / o, middle)
    return _over(place, changed)


def padded(place: Place, left: dict[int, int], out: Shape) -> Place | None:
    """Padding (or, negative, cropping) in front of dimensions."""
    changed: dict[int, Axis] = {}
    for dim, n in enumerate(out):
        carried = place.dims[dim]
        if len(carried) > 1:
            return None if left.get(dim) else place
        if carried:
            a = place.axes[carried[0]]
            changed[carried[0]] = replace(a, n=n, padding=_neat(a.padding + left.get(dim, 0) * a.stride))
    return _over(place, changed)


def sliced(place: Place, dim: int, first: int, step: int, n: int) -> Place | None:
    """Every `step`-th position of a dimension from `first` on."""
    carried = place.dims[dim]
    if not carried:
        return place
    if len(carried) > 1:
        return None
    a = place.axes[carried[0]]
    return _over(place, {carried[0]: Axis(n, a.size, _neat(a.stride * step), _neat(a.padding - first * a.stride))})


def covered(place: Place, dims: Sequence[int], keep: bool) -> Place:
    """A sum or maximum over dimensions: what is left sees what all their positions saw."""
    changed: dict[int, Axis] = {}
    for dim in dims:
        for index in place.dims[dim]:
            a = place.axes[index]
            changed[index] = Axis(1, int(a.size + (a.n - 1) * a.stride), a.stride, a.padding)
    gone = {d % len(place.dims) for d in dims}
    kept = tuple(() if i in gone else d for i, d in enumerate(place.dims) if keep or i not in gone)
    return replace(_over(place, changed), dims=kept)


def moved(place: Place, order: Sequence[int]) -> Place:
    """Dimensions in another order."""
    return replace(place, dims=tuple(place.dims[i] for i in order))


def reshaped(place: Place, before: Shape, after: Shape) -> Place | None:
    """A view with other dimensions; None where an axis is cut in a way that has no single stride."""
    dims: list[tuple[int, ...]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        olds, news = [i] if i < len(before) else [], [j] if j < len(after) else []
        i, j = i + len(olds), j + len(news)
        while prod(before[k] for k in olds) != prod(after[k] for k in news):
            if prod(before[k] for k in olds) < prod(after[k] for k in news):
                if i >= len(before):
                    return None
                olds.append(i)
                i += 1
            else:
                if j >= len(after):
                    return None
                news.append(j)
                j += 1
        carried = [a for k in olds for a in place.dims[k]]
        large = [k for k in news if after[k] > 1]
        if not carried or len(large) <= 1:
            target = large[0] if large else None
            dims.extend(tuple(carried) if k == target else () for k in news)
        elif [place.axes[a].n for a in carried] == [after[k] for k in large]:
            queue = list(carried)
            dims.extend((queue.pop(0),) if after[k] > 1 else () for k in news)
        elif len(carried) == 1 and len([k for k in olds if before[k] > 1]) == 1:
            return None  # one axis cut into blocks
        else:  # channels and positions regrouped together
            return None
    return replace(place, dims=tuple(dims))


def merged(places: Sequence[tuple[Place, Shape]], out: Shape) -> Place | None:
    """Union of what several tensors see, for a sum or a concatenation; broadcast from the right as tensors are."""
    spread = [(replace(p, dims=((),) * (len(out) - len(p.dims)) + p.dims), s) for p, s in places]
    if not spread:
        return None
    most = max((p for p, _ in spread), key=lambda p: len(p.runs()))
    aligned, whole = most.aligned, most.whole
    axes = list(most.axes)
    for p, _ in spread:
        if p is most:
            continue
        if len(p.axes) != len(axes):
            return None
        aligned, whole = aligned and p.aligned, whole or p.whole
        for index, (a, b) in enumerate(zip(axes, p.axes, strict=True)):
            here, there = index in most.runs(), index in p.runs()
            if here and not there:
                whole = True  # a value of the whole picture joins every position
                continue
            if here and _dim_of(most, index) != _dim_of(p, index):
                return None
            axes[index], fits = _union(a, b)
            aligned = aligned and fits
    return Place(tuple(axes), most.dims, aligned, whole)


def _dim_of(place: Place, axis: int) -> int:
    return next(i for i, dim in enumerate(place.dims) if axis in dim)


def _union(a: Axis, b: Axis) -> tuple[Axis, bool]:
    """Interval that covers both; and whether their centres and strides agree."""
    first = min(-a.padding, -b.padding)
    last = max(a.size - a.padding, b.size - b.padding)
    centres = 2 * a.padding - a.size == 2 * b.padding - b.size
    stride = max(a.stride, b.stride)
    return Axis(max(a.n, b.n), int(last - first), stride, _neat(-first)), centres and a.stride == b.stride


def contracted(a: Place | None, b: Place | None, rows: int, a_rank: int, b_rank: int) -> Place | None:
    """Matrix product of (..., m, k) and (..., k, n), where `rows` is the rank of the result.

    Where only one side comes from the picture, its dimension k is summed up. Where both do (attention), every
    position of the result sees all that either has seen.
    """
    if a is not None and b is not None:
        both = merged([(covered(a, range(a_rank), True), ()), (covered(b, range(b_rank), True), ())], ((0,) * rows))
        return None if both is None else replace(both, whole=True)
    if a is not None:
        left = covered(a, [a_rank - 1], keep=True)
        return replace(left, dims=((),) * (rows - a_rank) + left.dims)
    if b is not None:
        right = covered(b, [b_rank - 2], keep=True)
        return replace(right, dims=((),) * (rows - b_rank) + right.dims)
    return None
