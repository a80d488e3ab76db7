"""What each operator costs, and what it does to receptive fields.

Multiply-adds (MACs) are those of convolutions and matrix products, without biases: positions of the output times
weights that meet there. All other arithmetic is counted in `others`, in operations:

    pointwise (ReLU, +, *, sigmoid ...)         1 for each number of the result
    sums, means, maxima, norms over dimensions  1 for each number that is read
    pooling                                     window for each number of the result
    batch normalisation, evaluation             2 for each number (one multiplication, one addition)
    normalisation with its own statistics       7 for each number (mean 1, variance 3, the rest 3)
    softmax                                     3 for each number (exponential, sum, division)
    linear and cubic interpolation              2 for each tap
    attention by one operator                   4 for each score (scaling 1, softmax 3), and 1 for a mask

Operators that only move numbers cost nothing. Whatever is in none of the tables is named in `Anatomy.uncounted`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from . import geometry as g
from .geometry import Place
from .record import Shape

Places = list[tuple[Place, Shape]]  # places and shapes of the tensors that an operator reads


def _pair(value: Any, n: int) -> list[int]:
    """A size for each of `n` axes from a number, a list of one, or a list of `n`."""
    values = [int(value)] if isinstance(value, int) else [int(v) for v in value]
    return values * n if len(values) == 1 else values


def _given(args: Sequence[Any], index: int, default: Any) -> Any:
    return args[index] if len(args) > index and args[index] is not None else default


# --- multiply-adds: (arguments, result) -> (MACs, numbers of weights that take part) -------------------------------


def _convolution(args: Sequence[Any], out: Tensor) -> int:
    x, weight, turned = args[0], args[1], args[6]
    positions = x.shape[2:] if turned else out.shape[2:]
    return out.shape[0] * prod(positions) * weight.numel()


def _product(a: int, b: int) -> Callable[[Sequence[Any], Tensor], int]:
    """Matrix product of arguments a and b: all of the left one's numbers, times columns of the right one."""

    def macs(args: Sequence[Any], out: Tensor) -> int:
        columns = args[b].shape[-1] if args[b].dim() > 1 else 1
        return args[a].numel() * columns  # type: ignore[no-any-return]

    return macs


def _linear(args: Sequence[Any], out: Tensor) -> int:
    return args[0].numel() * args[1].shape[0]  # type: ignore[no-any-return]


def _attention(args: Sequence[Any], out: Tensor) -> int:
    q, k, v = args[0], args[1], args[2]
    return q.numel() * k.shape[-2] + prod(q.shape[:-1]) * k.shape[-2] * v.shape[-1]  # type: ignore[no-any-return]


def attention_others(args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    """What attention by one operator computes besides its products."""
    scores: int = prod(args[0].shape[:-1]) * args[1].shape[-2]
    return scores * (4 if kwargs.get("attn_mask") is None else 5)


def _distances(args: Sequence[Any], out: Tensor) -> int:
    return out.numel() * args[0].shape[-1]  # type: ignore[no-any-return]


MACS: dict[str, Callable[[Sequence[Any], Tensor], int]] = {
    "convolution": _convolution,
    "_convolution": _convolution,
    "convolution_overrideable": _convolution,
    "mm": _product(0, 1),
    "bmm": _product(0, 1),
    "mv": _product(0, 1),
    "dot": _product(0, 1),
    "vdot": _product(0, 1),
    "matmul": _product(0, 1),
    "addmm": _product(1, 2),
    "_addmm_activation": _product(1, 2),
    "addmv": _product(1, 2),
    "baddbmm": _product(1, 2),
    "addbmm": _product(1, 2),
    "linear": _linear,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
    "scaled_dot_product_attention": _attention,
    "_cdist_forward": _distances,
    "_euclidean_dist": _distances,
}

# --- other arithmetic: (arguments, result) -> operations -----------------------------------------------------------


def _per_output(factor: int) -> Callable[[Sequence[Any], Tensor], int]:
    return lambda args, out: factor * out.numel()


def _per_input(factor: int = 1) -> Callable[[Sequence[Any], Tensor], int]:
    return lambda args, out: factor * args[0].numel()


def _pooling(axes: int) -> Callable[[Sequence[Any], Tensor], int]:
    return lambda args, out: out.numel() * prod(_pair(args[1], axes))


def _batch_norm(args: Sequence[Any], out: Tensor) -> int:
    training = bool(args[5]) if len(args) > 5 and isinstance(args[5], bool) else False
    return (7 if training else 2) * out.numel()


_REDUCTIONS = (
    "mean sum prod amax amin aminmax max min logsumexp norm linalg_vector_norm var std var_mean std_mean argmax argmin "
    "any all nansum median mode cumsum cumprod logcumsumexp cummax cummin count_nonzero trace"
).split()
OTHERS: dict[str, Callable[[Sequence[Any], Tensor], int]] = {
    **dict.fromkeys(_REDUCTIONS, _per_input()),
    **{name: _per_input(4) for name in ("var", "std", "var_mean", "std_mean")},
    **{f"{kind}_pool{n}d": _pooling(n) for kind in ("avg", "max") for n in (1, 2, 3)},
    **{f"max_pool{n}d_with_indices": _pooling(n) for n in (2, 3)},
    **{f"_adaptive_avg_pool{n}d": _per_input() for n in (2, 3)},
    **{f"adaptive_{kind}_pool{n}d": _per_input() for kind in ("avg", "max") for n in (1, 2, 3)},
    **dict.fromkeys(("_softmax", "_log_softmax", "softmax", "log_softmax", "_safe_softmax"), _per_output(3)),
    **dict.fromkeys(
        ("native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit", "_batch_norm_with_update"), _batch_norm
    ),
    **dict.fromkeys(("_native_batch_norm_legit_no_training", "_batch_norm_no_update"), _per_output(2)),
    **dict.fromkeys(("native_layer_norm", "native_group_norm", "_fused_rms_norm", "rms_norm"), _per_output(7)),
    **{f"upsample_{kind}{n}d": _per_output(2 * 2**n) for kind, n in (("linear", 1), ("bilinear", 2), ("trilinear", 3))},
    "_upsample_bilinear2d_aa": _per_output(8),
    "upsample_bicubic2d": _per_output(32),
    "_upsample_bicubic2d_aa": _per_output(32),
    "grid_sampler_2d": _per_output(8),
    "grid_sampler_3d": _per_output(16),
    "native_dropout": _per_output(2),
    "glu": _per_output(2),
    "embedding_bag": lambda args, out: args[1].numel() * args[0].shape[-1],
    "_embedding_bag": lambda args, out: args[1].numel() * args[0].shape[-1],
    "_embedding_bag_forward_only": lambda args, out: args[1].numel() * args[0].shape[-1],
    "_weight_norm_interface": _per_input(3),
    "renorm": _per_input(3),
    "index_add": _per_output(1),
    "scatter_add": _per_output(1),
    "scatter_reduce": _per_output(1),
    "_thnn_fused_lstm_cell": _per_output(30),
    "_thnn_fused_gru_cell": _per_output(20),
}  # fmt: skip

# Operators that move, make or compare numbers, without arithmetic.
FREE = frozenset(
    """
    view _unsafe_view reshape _reshape_alias transpose permute t numpy_T swapaxes expand slice select split
    split_with_sizes split_copy chunk unbind squeeze unsqueeze cat stack concat clone copy copy_ _to_copy to contiguous
    detach alias lift lift_fresh lift_fresh_copy as_strided as_strided_ narrow diagonal unfold im2col col2im
    zeros ones empty empty_strided empty_like zeros_like ones_like full full_like arange linspace logspace eye
    scalar_tensor new_zeros new_ones new_empty new_empty_strided new_full rand randn randint randperm rand_like
    randn_like
    randint_like bernoulli normal uniform exponential random multinomial normal_functional constant_pad_nd
    reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d pad
    index index_select index_put _unsafe_index _index_put_impl index_copy index_fill take take_along_dim gather scatter
    masked_fill masked_scatter masked_select nonzero where embedding roll flip rot90 repeat repeat_interleave tile tril
    triu tril_indices triu_indices meshgrid pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle
    max_unpool2d max_unpool3d upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d sort argsort topk unique searchsorted bucketize one_hot
    _local_scalar_dense equal is_nonzero item fill fill_ zero zero_ set_ resize_ view_as_real view_as_complex real imag
    dropout alpha_dropout feature_dropout _fused_dropout set_data size sym_size stride sym_stride numel sym_numel
    storage_offset sym_storage_offset is_same_size _has_compatible_shallow_copy_type result_type isinf isnan
    unsafe_split unsafe_chunk split_with_sizes_copy slice_scatter select_scatter diagonal_scatter expand_copy view_copy
    _pack_padded_sequence _pad_packed_sequence
    diag diag_embed movedim swapdims adjoint mT mH H T rename refine_names bernoulli_ uniform_ normal_ native_dropout_
    """.split()
)

# --- what an operator does to receptive fields ---------------------------------------------------------------------


def place_of(name: str, args: Sequence[Any], kwargs: dict[str, Any], read: Places, out: Tensor) -> Place | None:
    """Place of the result. `name` is the operator's, without "aten." and without a trailing underscore."""
    if not read:
        return None
    shape = tuple(out.shape)
    rule = _PLACES.get(name)
    if rule is not None:
        return rule(args, kwargs, read, shape)
    if any(s == shape for _, s in read) or name in _POINTWISE:
        return g.merged(read, shape)
    return None


def _place_convolution(args: Sequence[Any], kwargs: dict[str, Any], read: Places, out: Shape) -> Place | None:
    kernel = tuple(args[1].shape[2:])
    stride, padding, dilation = (_pair(args[i], len(kernel)) for i in (3, 4, 5))
    rule = g.transposed if args[6] else g.window
    return rule(read[0][0], kernel, stride, padding, dilation, out)


def _place_pool(axes: int, dilated: bool) -> Callable[..., Place | None]:
    def rule(args: Sequence[Any], kwargs: dict[str, Any], read: Places, out: Shape) -> Place | None:
        kernel = _pair(args[1], axes)
        stride = _pair(_given(args, 2, None) or kernel, axes)
        padding = _pair(_given(args, 3, 0), axes)
        dilation = _pair(_given(args, 4, 1), axes) if dilated else [1] * axes
        return g.window(read[0][0], kernel, stride, padding, dilation, out)

    return rule


def _place_adaptive(axes: int) -> Callable[..., Place | None]:
    return lambda args, kwargs, read, out: g.adaptive(read[0][0], read[0][1], out, axes)


def _place_resize(taps: int) -> Callable[..., Place | None]:
    return lambda args, kwargs, read, out: g.resized(read[0][0], read[0][1], out, taps)


def _place_pad(args: Sequence[Any], kwargs: dict[str, Any], read: Places, out: Shape) -> Place | None:
    amounts = args[1]  # (left, right) of the last dimension, then of the one before it
    return g.padded(read[0][0], {len(out) - 1 - i: int(v) for i, v in enumerate(amounts[::2])}, out)


def _place_slice(args: Sequence[Any], kwargs: dict[str, Any], read: Places, out: Shape) -> Place | None:
    dim = _given(args, 1, 0) % len(out)
    n = read[0][1][dim]
    first = min(max(_given(args, 2, 0) + (n if _given(args, 2, 0) < 0 else 0), 0), n)
    return g.sliced(read[0][0], dim, first, _given(args, 4, 1), out[dim])


def _place_select(args: Sequence[Any], kwargs: dict[str, Any], read: Places, out: Shape) -> Place | None:
    place, shape = read[0]
    dim = args[1] % len(shape)
    one = g.sliced(place, dim, args[2] % shape[dim], 1, 1)
    return None if one is None else g.covered(one, [dim], keep=False)


def _place_view(args: Sequence[Any], kwargs: dict[str, Any], read: Places, out: Shape) -> Place | None:
    return g.reshaped(read[0][0], read[0][1], out)


def _place_permute(args: Sequence[Any], kwargs: dict[str, Any], read: Places, out: Shape) -> Place | None:
    return g.moved(read[0][0], [d % len(out) for d in args[1]])


def _place_transpose(args: Sequence[Any], kwargs: dict[str, Any], read: Places, out: Shape) -> Place | None:
    order = list(range(len(out)))
    a, b = (args[1] % len(out), args[2] % len(out)) if len(args) > 2 else (0, len(out) - 1)
    order[a], order[b] = order[b], order[a]
    return g.moved(read[0][0], order)


def _place_reduce(args: Sequence[Any], kwargs: dict[str, Any], read: Places, out: Shape) -> Place | None:
    place, shape = read[0]
    dims = next((a for a in args[1:] if isinstance(a, (int, list, tuple)) and not isinstance(a, bool)), None)
    dims = kwargs.get("dim", dims)
    chosen = list(range(len(shape))) if dims is None or dims == [] else [dims] if isinstance(dims, int) else list(dims)
    return g.covered(place, [d % len(shape) for d in chosen], keep=len(out) == len(shape))


def _place_cat(args: Sequence[Any], kwargs: dict[str, Any], read: Places, out: Shape) -> Place | None:
    dim = _given(args, 1, kwargs.get("dim", 0)) % len(out)
    joined = g.merged(read, out)
    if joined is not None and any(p.dims[dim] for p, _ in read):
        axis = joined.dims[dim]
        axes = tuple(g.replace(a, n=out[dim]) if i in axis and len(axis) == 1 else a for i, a in enumerate(joined.axes))
        return g.replace(joined, axes=axes, aligned=False)
    return joined


def _place_stack(args: Sequence[Any], kwargs: dict[str, Any], read: Places, out: Shape) -> Place | None:
    dim = _given(args, 1, kwargs.get("dim", 0)) % len(out)
    joined = g.merged(read, read[0][1])
    return None if joined is None else g.replace(joined, dims=(*joined.dims[:dim], (), *joined.dims[dim:]))


def _place_product(a: int, b: int) -> Callable[..., Place | None]:
    def rule(args: Sequence[Any], kwargs: dict[str, Any], read: Places, out: Shape) -> Place | None:
        left = next((p for p, _ in read if p is places_of(args[a])), None)
        right = next((p for p, _ in read if p is places_of(args[b])), None)
        return g.contracted(left, right, len(out), args[a].dim(), args[b].dim())

    return rule


def places_of(tensor: Tensor) -> Place | None:
    """The place that the trace has noted on a tensor."""
    note = getattr(tensor, "_neocog", None)
    return None if note is None else note.place


def _place_linear(args: Sequence[Any], kwargs: dict[str, Any], read: Places, out: Shape) -> Place | None:
    return g.covered(read[0][0], [len(out) - 1], keep=True)


def _place_expand(args: Sequence[Any], kwargs: dict[str, Any], read: Places, out: Shape) -> Place | None:
    place = read[0][0]
    return g.replace(place, dims=((),) * (len(out) - len(place.dims)) + place.dims)


def _place_squeeze(args: Sequence[Any], kwargs: dict[str, Any], read: Places, out: Shape) -> Place | None:
    return g.reshaped(read[0][0], read[0][1], out)


def _place_embedding(args: Sequence[Any], kwargs: dict[str, Any], read: Places, out: Shape) -> Place | None:
    place = read[-1][0]
    return g.replace(place, dims=(*place.dims, ())) if len(place.dims) + 1 == len(out) else None


def _place_attention(args: Sequence[Any], kwargs: dict[str, Any], read: Places, out: Shape) -> Place | None:
    """As its two products: queries times keys, and the scores times values."""
    q, k, v = args[:3]
    keys, rank = places_of(k), len(out)
    if keys is not None:
        keys = g.moved(keys, [*range(rank - 2), rank - 1, rank - 2])
    scores = g.contracted(places_of(q), keys, rank, rank, rank)
    return g.contracted(scores, places_of(v), rank, rank, rank)


def _place_shuffle(args: Sequence[Any], kwargs: dict[str, Any], read: Places, out: Shape) -> Place | None:
    return g.resized(read[0][0], (*out[:-2], *read[0][1][-2:]), out, 1)


def _place_unpool(args: Sequence[Any], kwargs: dict[str, Any], read: Places, out: Shape) -> Place | None:
    return g.resized(read[0][0], read[0][1], out, 1)


def _place_im2col(args: Sequence[Any], kwargs: dict[str, Any], read: Places, out: Shape) -> Place | None:
    place, shape = read[0]
    if len(shape) != 4:
        return None
    kernel, dilation, padding, stride = (_pair(args[i], 2) for i in (1, 2, 3, 4))
    sides = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, d, p, s in zip(shape[2:], kernel, dilation, padding, stride, strict=True)
    ]
    seen = g.window(place, kernel, stride, padding, dilation, (*shape[:2], *sides))
    return None if seen is None else g.replace(seen, dims=((), (), seen.dims[2] + seen.dims[3]))


def _unknown(args: Sequence[Any], kwargs: dict[str, Any], read: Places, out: Shape) -> Place | None:
    return None


_Rule = Callable[[Sequence[Any], dict[str, Any], Places, Shape], Place | None]
_PLACES: dict[str, _Rule] = {
    "convolution": _place_convolution,
    "_convolution": _place_convolution,
    **{f"avg_pool{n}d": _place_pool(n, False) for n in (1, 2, 3)},
    **{f"max_pool{n}d{suffix}": _place_pool(n, True) for n in (1, 2, 3) for suffix in ("", "_with_indices")},
    **{f"{under}adaptive_avg_pool{n}d": _place_adaptive(n) for n in (1, 2, 3) for under in ("", "_")},
    **{f"adaptive_max_pool{n}d": _place_adaptive(n) for n in (1, 2, 3)},
    **{f"upsample_nearest{n}d": _place_resize(1) for n in (1, 2, 3)},
    **{f"_upsample_nearest_exact{n}d": _place_resize(1) for n in (1, 2, 3)},
    **{f"upsample_{kind}": _place_resize(2) for kind in ("linear1d", "bilinear2d", "trilinear3d")},
    **dict.fromkeys(("upsample_bicubic2d", "_upsample_bicubic2d_aa"), _place_resize(4)),
    "_upsample_bilinear2d_aa": _place_resize(2),
    **dict.fromkeys(
        ("constant_pad_nd", *(f"{k}_pad{n}d" for k in ("reflection", "replication") for n in (1, 2, 3))), _place_pad
    ),
    "slice": _place_slice,
    "select": _place_select,
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), _place_view),
    **dict.fromkeys(("squeeze", "unsqueeze"), _place_squeeze),
    "permute": _place_permute,
    **dict.fromkeys(("transpose", "t"), _place_transpose),
    **dict.fromkeys(_REDUCTIONS, _place_reduce),
    "cat": _place_cat,
    "stack": _place_stack,
    **{name: _place_product(0, 1) for name in ("mm", "bmm", "mv", "matmul")},
    **{name: _place_product(1, 2) for name in ("addmm", "_addmm_activation", "baddbmm", "addmv")},
    "linear": _place_linear,
    "expand": _place_expand,
    "embedding": _place_embedding,
    **{name: _place_attention for name in MACS if "attention" in name},
    "pixel_shuffle": _place_shuffle,
    "max_unpool2d": _place_unpool,
    "max_unpool3d": _place_unpool,
    "im2col": _place_im2col,
    **dict.fromkeys(("roll", "flip", "as_strided", "gather", "index", "index_select", "sort", "repeat"), _unknown),
}  # fmt: skip
_POINTWISE = frozenset(("where", "masked_fill", "clone", "_to_copy", "detach", "alias"))


def kind_of(func: Any) -> tuple[str, str]:
    """Name of an operator and what is known of it: "macs", "others", "free" or "unknown"."""
    name = func._schema.name.rpartition("::")[2]
    bare = name if name.endswith("__") else name.rstrip("_") or name
    for table, kind in ((MACS, "macs"), (OTHERS, "others"), (FREE, "free")):
        if bare in table:
            return bare, kind
    if name in FREE:
        return name, "free"
    if torch.Tag.pointwise in func.tags or bare in _ACTIVATIONS:
        return bare, "pointwise"
    return bare, "unknown"


_ACTIVATIONS = frozenset(
    """relu relu6 leaky_relu elu celu selu gelu silu mish hardswish hardsigmoid hardtanh prelu _prelu_kernel rrelu
    rrelu_with_noise softplus softshrink hardshrink log_sigmoid_forward tanh sigmoid add sub mul div neg exp log sqrt
    rsqrt pow square abs sin cos clamp clamp_min clamp_max maximum minimum eq ne lt le gt ge logical_not logical_and
    logical_or bitwise_not bitwise_and bitwise_or remainder fmod floor ceil round trunc sign erf lerp addcmul
    addcdiv rsub reciprocal threshold floor_divide true_divide heaviside nan_to_num xlogy atan2
    __and__ __or__ __xor__""".split()
)
