"""What each operator does to receptive fields: which rule of `geometry` it follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from . import geometry as g
from .formulas import MACS, REDUCTIONS
from .place import Place
from .record import Shape
from .shortcuts import spread


def place_of(
    name: str, kind: str, args: Sequence[Any], kwargs: dict[str, Any], read: Sequence[Tensor], out: Tensor
) -> Place | None:
    """What the result sees of the picture; None if that cannot be followed.

    `name` is the operator's, without "aten." and without a trailing underscore; `read` are the tensors that it reads
    and that come from an input. Where one of them has no known place, the result has none, or sees "at least" what the
    others do.
    """
    shape, places = tuple(out.shape), {id(t): place_on(t) for t in read}
    known = [p for p in places.values() if p is not None]
    if not known:
        return None
    if len(known) == len(places) and not any(p.axes for p in known):
        return g.free(shape)
    if name in _NEW:
        return g.free(shape)
    if name in _JOINTLY:
        place = _JOINTLY[name](args, kwargs, shape)
    elif name in _PLACES:
        main = args[1] if name == "copy" or "embedding" in name else args[0]
        mine = place_on(main)
        if mine is None:
            return None
        place = _PLACES[name](args, kwargs, mine, shape)
        others = [
            p for t in read if t is not main and name not in _SAME_PLACE and (p := places[id(t)]) is not None and p.axes
        ]
        if others and place is not None:  # weights that are made of the picture, and the like
            place = g.merged([place, *(g.covered(p, range(len(p.dims)), keep=False) for p in others)], shape)
    elif kind == "pointwise" or name in _EACH:
        place = g.merged(known, shape)
    else:
        return None
    return g.replace(place, at_least=True) if place is not None and len(known) < len(places) else place


def place_on(tensor: Tensor) -> Place | None:
    """The place that the trace has noted on a tensor; one that comes from no input sees nothing of the picture."""
    note = getattr(tensor, "_neocog", None)
    return g.free(tuple(tensor.shape)) if note is None or not note.sources else note.place


def given(args: Sequence[Any], index: int, default: Any) -> Any:
    return args[index] if len(args) > index and args[index] is not None else default


_Args = Sequence[Any]
_Kw = dict[str, Any]
_Rule = Callable[[_Args, _Kw, Place, Shape], Place | None]


def _dims(args: _Args, kwargs: _Kw, index: int = 1) -> list[int] | None:
    """The dimensions that an operator is given; None for all of them."""
    dims = kwargs.get("dim", args[index] if len(args) > index else None)
    if isinstance(dims, int) and not isinstance(dims, bool):
        return [dims]
    return list(dims) if isinstance(dims, list | tuple) and dims else None


def _place_convolution(args: _Args, kwargs: _Kw, place: Place, out: Shape) -> Place | None:
    kernel = tuple(args[1].shape[2:])
    if len(out) != len(kernel) + 2:
        return None
    stride, padding, dilation = (spread(args[i], len(kernel)) for i in (3, 4, 5))
    place = g.swept(place, [1], out)
    return (g.transposed if args[6] else g.window)(place, kernel, stride, padding, dilation, out)


def _place_pool(axes: int, dilated: bool) -> _Rule:
    def rule(args: _Args, kwargs: _Kw, place: Place, out: Shape) -> Place | None:
        kernel = spread(args[1], axes)
        stride = spread(given(args, 2, None) or kernel, axes)
        padding = spread(given(args, 3, 0), axes)
        dilation = spread(given(args, 4, 1) if dilated else 1, axes)
        return g.window(place, kernel, stride, padding, dilation, out)

    return rule


def _place_pad(args: _Args, kwargs: _Kw, place: Place, out: Shape) -> Place | None:
    amounts = args[1]  # (left, right) of the last dimension, then of the one before it
    return g.padded(place, {len(out) - 1 - i: int(v) for i, v in enumerate(amounts[::2])}, out)


def _place_slice(args: _Args, kwargs: _Kw, place: Place, out: Shape) -> Place | None:
    dim = given(args, 1, 0) % len(out)
    n = place.shape()[dim]
    first = min(max(given(args, 2, 0) + (n if given(args, 2, 0) < 0 else 0), 0), n)
    step = given(args, 4, 1)
    return place if (out[dim], step) == (n, 1) else g.sliced(place, dim, first, step, out[dim])


def _place_select(args: _Args, kwargs: _Kw, place: Place, out: Shape) -> Place | None:
    dim = args[1] % len(place.dims)
    return g.covered(g.sliced(place, dim, args[2] % place.shape()[dim], 1, 1), [dim], keep=False)


def _place_complex(args: _Args, kwargs: _Kw, place: Place, out: Shape) -> Place | None:
    if len(out) > len(place.dims):
        return g.replace(place, dims=(*place.dims, (2,)))
    return g.covered(place, [len(out)], keep=False)


def _place_transpose(args: _Args, kwargs: _Kw, place: Place, out: Shape) -> Place | None:
    order = list(range(len(out)))
    a, b = (args[1] % len(out), args[2] % len(out)) if len(args) > 2 else (0, len(out) - 1)
    order[a], order[b] = order[b], order[a]
    return g.moved(place, order)


def _place_reduce(index: int) -> _Rule:
    def rule(args: _Args, kwargs: _Kw, place: Place, out: Shape) -> Place | None:
        found, rank = _dims(args, kwargs, index), len(place.dims)
        dims = list(range(rank)) if found is None else [d % rank for d in found]
        if out == place.shape():  # a running sum
            return g.swept(place, dims, out)
        return g.reshaped(g.covered(place, dims, keep=True), out)

    return rule


def _place_swept(default: int | None, index: int = 1) -> _Rule:
    """For an operator whose every result reads all along the dimensions that it is given."""

    def rule(args: _Args, kwargs: _Kw, place: Place, out: Shape) -> Place | None:
        found = _dims(args, kwargs, index) or (list(range(len(out))) if default is None else [default])
        return g.swept(place, found, out)

    return rule


def _place_batch_norm(args: _Args, kwargs: _Kw, place: Place, out: Shape) -> Place | None:
    """In evaluation a norm reads no statistics of the picture, unless it keeps none of its own."""
    of_its_own = not isinstance(args[3], Tensor) or args[5] is True
    return _with_statistics(place, [d for d in range(len(out)) if d != 1], out) if of_its_own else place


def _with_statistics(place: Place, dims: Sequence[int], out: Shape) -> Place | None:
    """Every position, together with a mean over some dimensions."""
    return g.merged([place, g.covered(place, dims, keep=True)], out) if any(map(place.runs, dims)) else place


def _place_shuffle(args: _Args, kwargs: _Kw, place: Place, out: Shape) -> Place | None:
    place = g.swept(place, [len(out) - 3], out)
    return g.resized(place, place.shape(), out, 1)


def _place_unshuffle(args: _Args, kwargs: _Kw, place: Place, out: Shape) -> Place | None:
    r, (*batch, c, h, w) = args[1], place.shape()
    n = len(batch)
    cut = g.reshaped(place, (*batch, c, h // r, r, w // r, r))
    return g.reshaped(g.moved(cut, [*range(n), n, n + 2, n + 4, n + 1, n + 3]), out)


def _place_im2col(args: _Args, kwargs: _Kw, place: Place, out: Shape) -> Place | None:
    shape = place.shape()
    if len(shape) != 4:
        return None
    kernel, dilation, padding, stride = (spread(args[i], 2) for i in (1, 2, 3, 4))
    sides = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, d, p, s in zip(shape[2:], kernel, dilation, padding, stride, strict=True)
    ]
    place = g.swept(place, [1], (*shape[:1], out[1], *shape[2:]))
    return g.reshaped(g.window(place, kernel, stride, padding, dilation, (*out[:2], *sides)), out)


def _place_roll(args: _Args, kwargs: _Kw, place: Place, out: Shape) -> Place | None:
    shifts, dims = spread(args[1], 1), _dims(args, kwargs, 2)
    for shift, dim in zip(shifts, dims or [0], strict=True):
        flat = place if dims else g.reshaped(place, (prod(out),))  # without dimensions: all numbers in one row
        place = g.rolled(flat, dim % len(flat.dims), shift)
    return g.reshaped(place, out)


def _place_flip(args: _Args, kwargs: _Kw, place: Place, out: Shape) -> Place | None:
    for dim in (d % len(out) for d in args[1]):
        place = g.sliced(place, dim, out[dim] - 1, -1, out[dim])
    return place


def _place_chosen(args: _Args, kwargs: _Kw, place: Place, out: Shape) -> Place | None:
    """Positions along one dimension, chosen by numbers: known only where nothing depends on that dimension."""
    dim = args[1] % max(len(place.dims), 1)
    if len(out) != len(place.dims) or any(n != o for d, (n, o) in enumerate(zip(place.shape(), out, strict=True))
                                          if d != dim):  # fmt: skip
        return None
    return None if place.runs(dim) else g.swept(place, [dim], out)


def _place_index(args: _Args, kwargs: _Kw, place: Place, out: Shape) -> Place | None:
    """Likewise, for indices of neighbouring dimensions."""
    chosen = [d for d, index in enumerate(args[1]) if index is not None]
    first, last = chosen[0], chosen[-1] + 1
    if (
        len(chosen) != last - first
        or any(map(place.runs, chosen))
        or any(args[1][d].dtype == torch.bool for d in chosen)
    ):
        return None
    place = g.covered(place, chosen, keep=True)
    within = len(out) - (len(place.dims) - len(chosen))
    return g.expanded(g.replace(place, dims=place.dims[:first] + ((),) * within + place.dims[last:]), out)


def _joint_cat(stacked: bool) -> Callable[[_Args, _Kw, Shape], Place | None]:
    def rule(args: _Args, kwargs: _Kw, out: Shape) -> Place | None:
        dim = given(args, 1, kwargs.get("dim", 0)) % len(out)
        places = [place_on(t) for t in args[0] if stacked or t.dim() == len(out)]
        known = [p for p in places if p is not None]
        if stacked:
            known = [g.reshaped(p, (*out[:dim], 1, *out[dim + 1 :])) for p in known]
        return g.joined(known, dim, out) if len(known) == len(places) else None

    return rule


def _joint_product(a: int, b: int) -> Callable[[_Args, _Kw, Shape], Place | None]:
    def rule(args: _Args, kwargs: _Kw, out: Shape) -> Place | None:
        places = [place_on(t) for t in args[: b + 1]]
        if any(p is None for p in places):
            return None
        left, right = places[a], places[b]
        assert left is not None and right is not None
        wide = out
        if len(right.dims) == 1:  # a vector
            right, wide = g.replace(right, dims=(*right.dims, ())), (*out, 1)
        if len(left.dims) == 1:
            left, wide = g.replace(left, dims=((), *left.dims)), (*wide[:-1], 1, wide[-1])
        made = g.contracted(left, right, wide)
        if made is not None and a:  # what is added
            first = places[0]
            assert first is not None
            return g.merged([g.reshaped(made, out), first], out)
        return None if made is None else g.reshaped(made, out)

    return rule


def _joint_attention(args: _Args, kwargs: _Kw, out: Shape) -> Place | None:
    """As its two products: queries times keys, and the scores times values."""
    q, k, v = (place_on(t) for t in args[:3])
    mask = kwargs.get("attn_mask")
    hidden = None if mask is None else place_on(mask)
    if q is None or k is None or v is None or (mask is not None and hidden is None):
        return None
    rank = len(out)
    scores_shape = (*out[:-1], k.shape()[-2])
    if k.shape()[:-2] != out[:-2]:  # fewer heads of keys than of queries
        k, v = (g.covered(p, range(1, rank - 2), keep=True) for p in (k, v))
    scores = g.contracted(q, g.moved(k, [*range(rank - 2), rank - 1, rank - 2]), scores_shape)
    if scores is not None and hidden is not None:
        scores = g.merged([scores, hidden], scores_shape)
    return None if scores is None else g.contracted(g.swept(scores, [-1], scores_shape), v, out)


_JOINTLY: dict[str, Callable[[_Args, _Kw, Shape], Place | None]] = {
    "cat": _joint_cat(False),
    "stack": _joint_cat(True),
    **{name: _joint_product(0, 1) for name in ("mm", "bmm", "mv", "dot", "vdot", "matmul")},
    **{name: _joint_product(1, 2) for name in ("addmm", "_addmm_activation", "baddbmm", "addmv")},
    **{name: _joint_attention for name in MACS if "attention" in name},
}
_PLACES: dict[str, _Rule] = {
    **dict.fromkeys(("convolution", "_convolution"), _place_convolution),
    **{f"avg_pool{n}d": _place_pool(n, False) for n in (1, 2, 3)},
    **{f"max_pool{n}d{suffix}": _place_pool(n, True) for n in (1, 2, 3) for suffix in ("", "_with_indices")},
    **{f"{kind}_pool{n}d": lambda args, kwargs, place, out, n=n: g.adaptive(place, place.shape(), out, n)  # type: ignore[misc]
       for n in (1, 2, 3) for kind in ("adaptive_avg", "_adaptive_avg", "adaptive_max")},
    **{
        name: lambda args, kwargs, place, out, taps=taps: g.resized(place, place.shape(), out, taps)  # type: ignore[misc]
        for names, taps in (
            ("max_unpool2d max_unpool3d upsample_nearest1d upsample_nearest2d upsample_nearest3d "
             "_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d", 1),
            ("upsample_linear1d upsample_bilinear2d upsample_trilinear3d", 2),
            ("upsample_bicubic2d", 4),
        )
        for name in names.split()
    },
    **{f"{kind}_pad{n}d": _place_pad for kind in ("reflection", "replication") for n in (1, 2, 3)},
    "constant_pad_nd": _place_pad,
    "slice": _place_slice,
    "select": _place_select,
    **dict.fromkeys(
        "view _unsafe_view reshape _reshape_alias squeeze unsqueeze".split(),
        lambda args, kwargs, place, out: g.reshaped(place, out),
    ),
    **dict.fromkeys(("view_as_real", "view_as_complex"), _place_complex),
    **dict.fromkeys(("copy", "expand"), lambda args, kwargs, place, out: g.expanded(place, out)),
    **dict.fromkeys(
        ("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only"),
        lambda args, kwargs, place, out: g.merged([g.covered(place, range(len(place.dims)), keep=False)], out),
    ),
    "permute": lambda args, kwargs, place, out: g.moved(place, [d % len(out) for d in args[1]]),
    **dict.fromkeys(("transpose", "t"), _place_transpose),
    **dict.fromkeys(REDUCTIONS, _place_reduce(1)),
    **dict.fromkeys(("norm", "linalg_vector_norm"), _place_reduce(2)),
    **dict.fromkeys("_softmax _log_softmax softmax log_softmax _safe_softmax sort glu".split(), _place_swept(-1)),
    **dict.fromkeys("_fft_c2c _fft_r2c _fft_c2r".split(), _place_swept(None)),
    "topk": _place_swept(-1, 2),
    **dict.fromkeys(
        ("linear", "_grouped_mm", "_scaled_mm", "_int_mm", "_sparse_mm"),
        lambda args, kwargs, place, out: g.swept(place, [-1], out),
    ),
    **dict.fromkeys(
        ("native_layer_norm", "_fused_rms_norm", "rms_norm"),
        lambda args, kwargs, place, out: _with_statistics(place, range(len(out) - len(args[1]), len(out)), out),
    ),
    "native_group_norm": lambda args, kwargs, place, out: _with_statistics(place, range(1, len(out)), out),
    **dict.fromkeys(
        "native_batch_norm cudnn_batch_norm _native_batch_norm_legit _batch_norm_with_update".split(),
        _place_batch_norm,
    ),
    "embedding": lambda args, kwargs, place, out: g.replace(place, dims=(*place.dims, *g.free(out[-1:]).dims)),
    "pixel_shuffle": _place_shuffle,
    "pixel_unshuffle": _place_unshuffle,
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), lambda args, kwargs, place, out: place),
    "im2col": _place_im2col,
    "roll": _place_roll,
    "flip": _place_flip,
    "repeat": lambda args, kwargs, place, out: g.repeated(place, args[1], out),
    "unfold": lambda args, kwargs, place, out: g.unfolded(place, args[1] % len(place.dims), args[2], args[3]),
    **dict.fromkeys(("gather", "index_select"), _place_chosen),
    "index": _place_index,
}  # fmt: skip
# Operators whose further tensors add nothing: what is overwritten, where maxima were.
_SAME_PLACE = frozenset(("copy", "max_unpool2d", "max_unpool3d"))
# Operators that are known to work on each position by itself, besides those that PyTorch itself calls pointwise.
_EACH = frozenset(
    """where masked_fill clone _to_copy detach alias lift lift_fresh tril triu contiguous to real imag native_dropout
    _native_batch_norm_legit_no_training _batch_norm_no_update dropout prelu rrelu_with_noise bernoulli
    """.split()
)
_NEW = frozenset(
    """zeros_like ones_like empty_like full_like rand_like randn_like randint_like new_zeros new_ones new_full new_empty
    new_empty_strided fill zero""".split()
)  # numbers that depend on nothing
