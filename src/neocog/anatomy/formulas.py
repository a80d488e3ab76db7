"""What each operator costs.

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

A product of complex numbers is three real ones in the multiply-adds (Gauss; so PyTorch computes complex convolutions).
What a sparse matrix leaves out is not multiplied. Operators that only move numbers cost nothing. Whatever is in none of
the tables, also of other packages, is named in `Anatomy.uncounted`; of attention with a function for scores or masks
(flex_attention), that function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator

from .running import entries
from .shortcuts import spread

# --- multiply-adds: (arguments, result) -> (MACs, numbers of weights that take part) -------------------------------


def _convolution(args: Sequence[Any], out: Tensor) -> int:
    x, weight, turned = args[0], args[1], args[6]
    positions = x.shape[2:] if turned else out.shape[2:]
    return out.shape[0] * prod(positions) * weight.numel()


def _product(a: int, b: int) -> Callable[[Sequence[Any], Tensor], int]:
    """Matrix product of arguments a and b: all of the left one's numbers, times columns of the right one."""

    def macs(args: Sequence[Any], out: Tensor) -> int:
        left, right = args[a], args[b]
        if right.layout != torch.strided and left.layout == torch.strided:  # its entries, times rows of the left one
            return entries(right) * left.shape[-2]
        return entries(left) * (right.shape[-1] if right.dim() > 1 else 1)

    return macs


def _per_column(args: Sequence[Any], out: Tensor) -> int:
    """A product whose right side is packed, or is several matrices, of which a row or a column meets only one."""
    if args[0].dim() == 2 and out.dim() == 3:  # the rows that are summed are shared out
        return args[0].numel() * out.shape[-1]  # type: ignore[no-any-return]
    return out.numel() * args[0].shape[-1]  # type: ignore[no-any-return]


def outer_numbers(args: Sequence[Any], which: Sequence[int]) -> int:
    """Numbers in the product of some of the three arguments of ``_trilinear``, before they are summed."""
    shapes = []
    for k in which:
        shape = list(args[k].shape)
        for dim in sorted(args[3 + k]):
            shape.insert(dim, 1)
        shapes.append(shape)
    return prod(map(max, zip(*shapes, strict=True)))


def _attention(args: Sequence[Any], out: Tensor) -> int:
    q, k, v = args[0], args[1], args[2]
    return q.numel() * k.shape[-2] + prod(q.shape[:-1]) * k.shape[-2] * v.shape[-1]  # type: ignore[no-any-return]


def attention_others(args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    """What attention by one operator computes besides its products."""
    scores: int = prod(args[0].shape[:-1]) * args[1].shape[-2]  # also those that a mask hides
    return scores * (4 if kwargs.get("attn_mask") is None else 5)


_ATTENTION = (
    "scaled_dot_product_attention _scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
    "_scaled_dot_product_fused_attention_overrideable flex_attention"
)
_PER_COLUMN = (
    "_grouped_mm _scaled_grouped_mm _scaled_mm _int_mm _weight_int8pack_mm _weight_int4pack_mm "
    "_weight_int4pack_mm_for_cpu _dyn_quant_matmul_4bit quantized.linear quantized.linear_relu "
    "quantized.linear_dynamic quantized.linear_relu_dynamic quantized.linear_dynamic_fp16 "
    "quantized.linear_relu_dynamic_fp16 quantized.linear_leaky_relu quantized.linear_tanh"
)
MACS: dict[str, Callable[[Sequence[Any], Tensor], int]] = {
    name: macs
    for names, macs in (
        ("convolution _convolution convolution_overrideable", _convolution),
        ("mm bmm mv dot vdot matmul _sparse_mm", _product(0, 1)),
        ("addmm _addmm_activation addmv baddbmm addbmm _sparse_addmm sspaddmm", _product(1, 2)),
        ("linear", lambda args, out: args[0].numel() * args[1].shape[0]),
        ("_trilinear", lambda args, out: outer_numbers(args, (0, 1, 2))),
        (_PER_COLUMN, _per_column),
        (_ATTENTION, _attention),
        ("_cdist_forward _euclidean_dist", lambda args, out: out.numel() * args[0].shape[-1]),
    )
    for name in names.split()
} | {
    f"quantized.conv{n}d{x}": lambda args, out: out.numel() * prod(args[1].unpack()[0].shape[1:])
    for n in (1, 2, 3)
    for x in ("", "_relu", "_dynamic")
}

# --- other arithmetic: (arguments, result) -> operations -----------------------------------------------------------


def _per_output(factor: int) -> Callable[[Sequence[Any], Tensor], int]:
    return lambda args, out: factor * out.numel()


def _per_input(factor: int = 1) -> Callable[[Sequence[Any], Tensor], int]:
    return lambda args, out: factor * args[0].numel()


def _pooling(axes: int) -> Callable[[Sequence[Any], Tensor], int]:
    return lambda args, out: out.numel() * prod(spread(args[1], axes))


def _batch_norm(args: Sequence[Any], out: Tensor) -> int:
    training = bool(args[5]) if len(args) > 5 and isinstance(args[5], bool) else False
    return (7 if training else 2) * out.numel()


REDUCTIONS = (
    "mean sum prod amax amin aminmax max min logsumexp norm linalg_vector_norm var std var_mean std_mean argmax argmin "
    "any all nansum median mode cumsum cumprod logcumsumexp cummax cummin count_nonzero trace"
).split()
OTHERS: dict[str, Callable[[Sequence[Any], Tensor], int]] = {
    **dict.fromkeys(REDUCTIONS, _per_input()),
    **{name: _per_input(4) for name in ("var", "std", "var_mean", "std_mean")},
    **{f"{kind}_pool{n}d": _pooling(n) for kind in ("avg", "max") for n in (1, 2, 3)},
    **{f"max_pool{n}d_with_indices": _pooling(n) for n in (2, 3)},
    **{f"_adaptive_avg_pool{n}d": _per_input() for n in (2, 3)},
    **{f"adaptive_{kind}_pool{n}d": _per_input() for kind in ("avg", "max") for n in (1, 2, 3)},
    **dict.fromkeys(("_softmax", "_log_softmax", "softmax", "log_softmax", "_safe_softmax"), _per_output(3)),
    **dict.fromkeys(
        "native_batch_norm cudnn_batch_norm _native_batch_norm_legit _batch_norm_with_update".split(), _batch_norm
    ),
    **{f"upsample_{kind}{n}d": _per_output(2 * 2**n) for kind, n in (("linear", 1), ("bilinear", 2), ("trilinear", 3))},
    **dict.fromkeys(
        ("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only"),
        lambda args, out: args[1].numel() * args[0].shape[-1],
    ),
    **dict.fromkeys(("_weight_norm_interface", "renorm"), _per_input(3)),
    **{
        name: _per_output(factor)
        for factor, names in (
            (1, "quantize_per_tensor quantize_per_tensor_dynamic quantize_per_channel dequantize index_add scatter_add "
                "scatter_reduce"),
            (2, "_native_batch_norm_legit_no_training _batch_norm_no_update native_dropout glu"),
            (7, "native_layer_norm native_group_norm _fused_rms_norm rms_norm"),
            (8, "_upsample_bilinear2d_aa grid_sampler_2d"),
            (16, "grid_sampler_3d"),
            (20, "_thnn_fused_gru_cell"),
            (30, "_thnn_fused_lstm_cell"),
            (32, "upsample_bicubic2d _upsample_bicubic2d_aa"),
        )
        for name in names.split()
    },
    **{f"quantized.{name}": _per_output(1) for name in (
        "add add_relu add_scalar add_scalar_relu mul mul_relu mul_scalar mul_scalar_relu relu6 leaky_relu hardswish "
        "sigmoid elu celu batch_norm2d batch_norm3d batch_norm batch_norm_relu").split()},
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


def label(func: Any) -> str:
    """Name of an operator with its package, such as "aten.convolution"."""
    return (
        f"higher_order.{func.name()}" if isinstance(func, HigherOrderOperator) else func._schema.name.replace("::", ".")
    )


def kind_of(func: Any) -> tuple[str, str]:
    """Name of an operator and what is known of it: "macs", "others", "pointwise", "free" or "unknown"."""
    package, _, name = label(func).partition(".")
    if package not in ("aten", "prims", "higher_order"):  # another package may mean something else by a name
        name = f"{package}.{name}"
    if isinstance(func, HigherOrderOperator):
        return name, "macs" if name in MACS else "unknown"
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
