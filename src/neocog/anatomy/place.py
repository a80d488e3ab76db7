"""Receptive fields: which pixels a position of a tensor can see, carried through every operator.

A `Place` takes the index along each dimension of a tensor apart into digits, as a number is written: a map of 56 rows
that is cut into windows of 7 has the digits (8, 7) there. `Axis` is one axis of the picture. As long as the interval
of pixels that a position sees follows a formula, it begins at ``sum(digit * step) - padding`` and has `size` pixels,
and the recurrences are those of Araujo, Norris, Sim 2019 (doi 10.23915/distill.00021), equations 1 to 5:
``r += d (k - 1) j``, ``P += p j``, ``j *= s``. Else (windows of attention, tokens in one row) `spans` holds the first
and the last pixel for every value of the digits. Behind branches the union of the intervals is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, inf, prod
from typing import Any

import numpy as np

from .record import Field, Number, Shape


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One axis of the picture, as the positions of a tensor see it."""

    size: int  # pixels that a position sees; of the one that sees most, if they differ
    stride: Number
    padding: Number  # where positions differ: so that the centre is right on average
    over: tuple[int, ...]  # digits on which the interval depends, in order; () once the axis has been summed up
    steps: tuple[Number, ...]  # pixels for one more of each
    spans: np.ndarray[Any, Any] | None = None  # (first and last pixel, digits ...); inf, -inf: sees nothing

    def firsts(self, digits: Sequence[int], over: Sequence[int], formula: bool = False) -> np.ndarray[Any, Any]:
        """(first and last pixel, one dimension for each digit in `over`); those that do not matter have size 1."""
        if self.spans is not None and not formula:
            where = [i in self.over for i in over]
            sides = iter(self.spans.shape[1:])
            return self.spans.reshape(2, *(next(sides) if here else 1 for here in where))
        first = np.full((1,) * len(over), float(-self.padding) if self.size else inf)
        for digit, step in zip(self.over, self.steps, strict=True):
            k = over.index(digit)
            first = first + np.arange(digits[digit]).reshape(-1, *(1,) * (len(over) - k - 1)) * float(step)
        return np.stack((first, first + self.size - 1 if self.size else -first))


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """What each position of a tensor sees of the picture. Without axes: nothing of it."""

    dims: tuple[tuple[int, ...], ...]  # sizes of the digits of each dimension; they are numbered from left to right
    axes: tuple[Axis, ...]
    sides: Shape  # of the picture
    aligned: bool = True
    whole: bool = False
    at_least: bool = False  # some path to it could not be followed

    def field(self) -> Field | None:
        """The receptive field of one position; None for a tensor that does not come from a picture."""
        if not self.axes:
            return None
        axes = [
            replace(a, size=n, padding=0) if self.whole and not a.size else a
            for a, n in zip(self.axes, self.sides, strict=True)
        ]
        return Field(
            tuple(a.size for a in axes),
            tuple(a.stride for a in axes),
            tuple(a.padding for a in axes),
            self.aligned,
            self.whole,
            self.at_least,
        )

    def shape(self) -> Shape:
        return tuple(prod(dim) for dim in self.dims)

    def digits(self) -> list[int]:
        return [n for dim in self.dims for n in dim]

    def of(self, dim: int) -> range:
        """Numbers of the digits of a dimension."""
        before = sum(len(d) for d in self.dims[:dim])
        return range(before, before + len(self.dims[dim]))

    def runs(self, dim: int) -> bool:
        """Whether it matters where one is along a dimension."""
        mine = self.of(dim)
        return any(i in mine for a in self.axes for i in a.over)


def free(shape: Shape) -> Place:
    """Place of a tensor that sees nothing of the picture: a constant, a second input."""
    return Place(tuple((n,) if n != 1 else () for n in shape), (), ())


def start(shape: Shape, integers: bool) -> Place | None:
    """Place of an input: (B, C, H, W), (B, C, L), (B, C, T, H, W), or token ids (B, N); None for more dimensions."""
    first = 1 if integers and len(shape) == 2 else 2
    sides = shape[first:]
    if len(sides) > 3:
        return None
    dims = (*free(shape[:first]).dims, *((n,) for n in sides))
    before = sum(len(d) for d in dims[:first])
    return Place(dims, tuple(Axis(1, 1, 0, (before + i,), (1,)) for i in range(len(sides))), sides)


def neat(value: Number) -> Number:
    return value.numerator if isinstance(value, Fraction) and value.denominator == 1 else value


def length(step: Number) -> Number:
    """A step without its sign."""
    return step if step >= 0 else -step


def with_spans(axis: Axis, spans: np.ndarray[Any, Any], shift: float = 0.0) -> Axis:
    """The axis with other intervals; `shift` is how far their centres have moved on average."""
    widths = spans[1] - spans[0] + 1
    size = ceil(float(widths.max(initial=0)) - 1e-6)
    padding = axis.padding
    if size and axis.size:
        padding = neat(Fraction(axis.padding + Fraction(size - axis.size, 2) - Fraction(shift)).limit_denominator(1000))
    if not axis.over:
        first = spans[0].min()
        return replace(axis, size=size, padding=neat(Fraction(-first)) if size else 0, spans=None)
    return replace(axis, size=size, padding=padding, spans=spans)


def without(axis: Axis, gone: Sequence[int]) -> Axis:
    """The axis without those of its digits, counted along `Axis.over`, on which nothing depends."""
    if not gone:
        return axis
    kept = [k for k in range(len(axis.over)) if k not in gone]
    over, steps = tuple(axis.over[k] for k in kept), tuple(axis.steps[k] for k in kept)
    if axis.spans is None:
        return replace(axis, over=over, steps=steps)
    spans = axis.spans[(slice(None), *(0 if k in gone else slice(None) for k in range(len(axis.over))))]
    return with_spans(replace(axis, over=over, steps=steps), spans)


# --- other digits: nothing that is seen changes ------------------------------------------------------------------


class _Digits:
    """The digits of a place, while they are split, joined or dropped."""

    def __init__(self, place: Place) -> None:
        self.sizes, self.axes = place.digits(), list(place.axes)

    def split(self, i: int, inner: int) -> None:
        self.sizes[i : i + 1] = [self.sizes[i] // inner, inner]
        for k, a in enumerate(self.axes):
            over = tuple(j + (j > i) for j in a.over)
            if i in a.over:
                at = a.over.index(i)
                steps = (*a.steps[:at], neat(Fraction(a.steps[at]) * inner), *a.steps[at:])
                spans = a.spans
                if spans is not None:
                    sides = spans.shape
                    spans = spans.reshape(*sides[: at + 1], sides[at + 1] // inner, inner, *sides[at + 2 :])
                over = (*over[: at + 1], i + 1, *over[at + 1 :])
                a = replace(a, steps=steps, spans=spans)
            self.axes[k] = replace(a, over=over)

    def join(self, i: int) -> None:
        """Make one digit of the digits i and i + 1."""
        outer, inner = self.sizes[i : i + 2]
        for k, a in enumerate(self.axes):
            pair = [j for j in (i, i + 1) if j in a.over]
            over = tuple(dict.fromkeys(j - (j > i) for j in a.over))
            if pair:
                at = a.over.index(pair[0])
                step = a.steps[a.over.index(i + 1)] if i + 1 in a.over else Fraction(a.steps[at]) / inner
                linear = (
                    (len(pair) == 2 and a.steps[at] == step * inner) or (outer == 1 and i + 1 in a.over) or inner == 1
                )
                spans = a.spans
                if spans is not None or not linear:
                    both = sorted({*a.over, i, i + 1})
                    spans = a.firsts(self.sizes, both)
                    spans = np.broadcast_to(spans, (2, *(self.sizes[j] if j in (i, i + 1) else spans.shape[n + 1]
                                                         for n, j in enumerate(both))))  # fmt: skip
                    at = both.index(i)
                    spans = spans.reshape(*spans.shape[: at + 1], outer * inner, *spans.shape[at + 3 :])
                at = a.over.index(pair[0])
                steps = (*a.steps[:at], neat(Fraction(step)), *a.steps[at + len(pair) :])
                a = replace(a, steps=steps, spans=spans)
            self.axes[k] = replace(a, over=over)
        self.sizes[i : i + 2] = [outer * inner]

    def drop(self, i: int) -> None:
        """Leave out a digit of one value, or one on which nothing depends."""
        del self.sizes[i]
        for k, a in enumerate(self.axes):
            if i in a.over:
                a = without(a, [a.over.index(i)])
            self.axes[k] = replace(a, over=tuple(j - (j > i) for j in a.over))


def reshaped(place: Place, after: Shape) -> Place:
    """The same numbers in the same order, with other dimensions."""
    work, at = _Digits(place), 0
    sizes = work.sizes
    dims: list[tuple[int, ...]] = []
    for n in after:
        begin, have = at, 1
        if n == 1 and at < len(sizes) and sizes[at] == 1:
            at += 1
        while have < n and at < len(sizes):
            rest = n // have
            if sizes[at] == 1:
                work.drop(at)
            elif rest % sizes[at] == 0:
                have *= sizes[at]
                at += 1
            elif sizes[at] % rest == 0:
                work.split(at, sizes[at] // rest)
            else:
                work.join(at)
        dims.append(tuple(sizes[begin:at]))
    while at < len(sizes):
        work.drop(at)
    return replace(place, dims=tuple(dims), axes=tuple(work.axes))


def moved(place: Place, order: Sequence[int]) -> Place:
    """Dimensions in another order."""
    old = [i for d in order for i in place.of(d)]
    new = {i: k for k, i in enumerate(old)}
    axes = []
    for a in place.axes:
        sequence = sorted(range(len(a.over)), key=lambda k: new[a.over[k]])
        spans = None if a.spans is None else a.spans.transpose(0, *(k + 1 for k in sequence))
        axes.append(
            replace(
                a,
                over=tuple(new[a.over[k]] for k in sequence),
                steps=tuple(a.steps[k] for k in sequence),
                spans=spans,
            )
        )
    return replace(place, dims=tuple(place.dims[d] for d in order), axes=tuple(axes))


def one_digit(place: Place, dim: int) -> Place:
    """A dimension written as one digit."""
    if len(place.dims[dim]) <= 1:
        return place
    work, first = _Digits(place), place.of(dim)[0]
    for _ in place.dims[dim][1:]:
        work.join(first)
    dims = (*place.dims[:dim], (work.sizes[first],), *place.dims[dim + 1 :])
    return replace(place, dims=dims, axes=tuple(work.axes))


def expanded(place: Place, out: Shape) -> Place:
    """Repeated to a larger shape, as sums do."""
    dims = ((),) * (len(out) - len(place.dims)) + place.dims
    place = replace(place, dims=dims)
    for d, n in enumerate(out):
        if n != prod(place.dims[d]):
            place = covered(place, [d], keep=True)
            place = fresh(place, d, n)
    return place


def fresh(place: Place, dim: int, n: int) -> Place:
    """Put `n` positions on which nothing depends in the place of a dimension that nothing depends on."""
    mine, sizes = place.of(dim), (n,) if n != 1 else ()
    more = len(sizes) - len(mine)
    axes = [replace(a, over=tuple(i + more if i >= mine.stop else i for i in a.over)) for a in place.axes]
    return replace(place, dims=(*place.dims[:dim], sizes, *place.dims[dim + 1 :]), axes=tuple(axes))


def covered(place: Place, dims: Sequence[int], keep: bool) -> Place:
    """A sum or maximum over dimensions: what is left sees what all their positions saw."""
    gone = {d % len(place.dims) for d in dims}
    digits = place.digits()
    summed = {i for d in gone for i in place.of(d)}
    left = [i for i in range(len(digits)) if i not in summed]
    new = {i: k for k, i in enumerate(left)}
    axes = []
    for a in place.axes:
        mine = [k for k, i in enumerate(a.over) if i in summed]
        if mine:
            kept = [k for k in range(len(a.over)) if k not in mine]
            a_over, a_steps = tuple(a.over[k] for k in kept), tuple(a.steps[k] for k in kept)
            ranges = [(digits[a.over[k]] - 1) * a.steps[k] for k in mine]
            within = min(length(a.steps[k]) for k in mine)
            rest = [length(s) for s in a_steps if length(s) > within]
            stride = min(rest) if rest and len(rest) == len(a_steps) else a.stride
            if a.spans is None:
                size = int(a.size + sum(length(r) for r in ranges)) if a.size else 0
                padding = neat(a.padding - sum(r for r in ranges if r < 0))
                a = Axis(size, stride, padding, a_over, a_steps)
            else:
                across = tuple(k + 1 for k in mine)
                spans = np.stack((a.spans.min(across)[0], a.spans.max(across)[1]))
                a = with_spans(Axis(a.size, stride, a.padding, a_over, a_steps), spans)
        axes.append(replace(a, over=tuple(new[i] for i in a.over)))
    kept_dims = tuple(() if i in gone else d for i, d in enumerate(place.dims) if keep or i not in gone)
    return replace(place, dims=kept_dims, axes=tuple(axes))


def fresh_digit(place: Place, dim: int) -> Place:
    """A digit of one value in a dimension of size 1."""
    at = place.of(dim).start
    axes = [replace(a, over=tuple(i + (i >= at) for i in a.over)) for a in place.axes]
    return replace(place, dims=(*place.dims[:dim], (1,), *place.dims[dim + 1 :]), axes=tuple(axes))
