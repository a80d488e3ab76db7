"""Shapes of the results of the commonest operators, without PyTorch's own code for tensors on the "meta" device.

That code is right for every operator, but most of it is Python: it takes ten times as long, and the first call imports
a package for symbolic algebra (two seconds, 80 MiB). A shortcut handles the usual case of its operator; for the rest,
also all errors, it returns None, and PyTorch is asked. tests/anatomy/test_trace_shortcuts.py compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

META = torch.device("meta")
Shortcut = Callable[[Any, Any], Any]  # (arguments, keywords) -> result, or None
_aten = torch.ops.aten


def spread(value: Any, n: int) -> tuple[int, ...]:
    """A size for each of `n` axes from a number, a list of one, or a list of `n`."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * n if len(values) == 1 else values


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=META)


def like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A shape-only tensor in the order of `x`, without gaps: what ``torch.empty_like`` gives."""
    dtype = x.dtype if dtype is None else dtype
    if x.is_contiguous():
        return torch.empty_strided(x.shape, x.stride(), dtype=dtype, device=META)
    if _in_order(x):  # a slice of rows or channels
        return empty(x.shape, dtype)
    whole = 1
    for step, size in sorted((step, size) for size, step in zip(x.shape, x.stride(), strict=True) if size != 1):
        if step != whole:
            return torch.empty_like(x, dtype=dtype, device=META)
        whole *= size
    return torch.empty_strided(x.shape, x.stride(), dtype=dtype, device=META)  # no gaps, dimensions in another order


def _in_order(x: Tensor) -> bool:
    """Whether the last dimension is the one that lies closest together, and so on to the first."""
    if x.is_contiguous():
        return True
    steps = [step for size, step in zip(x.shape, x.stride(), strict=True) if size != 1]
    return all(a > b for a, b in pairwise((*steps, 0)))


def _rows(x: Tensor) -> bool:
    """Whether PyTorch gives a result of `x` in rows (B, C, H, W), and not with the channels last."""
    return x.dim() not in (4, 5) or x.is_contiguous() or x.stride(1) > x.stride(-1)


def _convolution(args: Any, kwargs: Any) -> Tensor | None:
    x, weight, _, stride, padding, dilation, turned, extra, groups = args[:9]
    axes = weight.dim() - 2
    if x.dim() != axes + 2 or x.shape[1] != (weight.shape[0] if turned else weight.shape[1] * groups):
        return None
    stride, padding, dilation, extra = (spread(v, axes) for v in (stride, padding, dilation, extra))
    sides = []
    for n, k, s, p, d, e in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, extra, strict=True):
        reach = d * (k - 1) + 1
        side = (n - 1) * s - 2 * p + reach + e if turned else (n + 2 * p - reach) // s + 1
        if side < 1:
            raise RuntimeError(f"kernel of {reach} does not fit into a map of {n} with padding {p}")
        sides.append(side)
    out = weight.shape[1] * groups if turned else weight.shape[0]
    return empty((x.shape[0], out, *sides), x.dtype)


def _batch_norm(args: Any, kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """As on a processor, which keeps no statistics in evaluation; the code for "meta" does."""
    x, weight = args[0], args[1]
    small = (x.shape[1] if args[5] else 0,)
    dtype = x.dtype if weight is None else weight.dtype
    return like(x), empty(small, dtype), empty(small, dtype)


def _pooled(axes: int, x: Tensor, args: Any, dilation: Any, ceil: bool) -> tuple[int, ...] | None:
    """Shape after pooling; None where the usual code must look at it."""
    kernel = spread(args[1], axes)
    stride = spread(args[2], axes) if len(args) > 2 and args[2] else kernel
    padding = spread(args[3], axes) if len(args) > 3 else (0,) * axes
    if x.dim() not in (axes + 1, axes + 2) or not x.numel() or not _rows(x) or min(stride) < 1:
        return None
    sides = []
    for n, k, s, p, d in zip(x.shape[-axes:], kernel, stride, padding, spread(dilation, axes), strict=True):
        reach = d * (k - 1) + 1
        if not 0 <= p <= k // 2 or k < 1 or d < 1:
            return None
        side = (n + 2 * p - reach + (s - 1 if ceil else 0)) // s + 1
        if ceil and (side - 1) * s >= n + p:  # a window that would begin behind the map
            side -= 1
        if side < 1:
            return None
        sides.append(side)
    return (*x.shape[:-axes], *sides)


def _max_pool(axes: int) -> Shortcut:
    def result(args: Any, kwargs: Any) -> tuple[Tensor, Tensor] | None:
        x, dilation = args[0], args[4] if len(args) > 4 else 1
        shape = None if kwargs else _pooled(axes, x, args, dilation, len(args) > 5 and args[5])
        return None if shape is None else (empty(shape, x.dtype), empty(shape, torch.int64))

    return result


def _average_pool(axes: int) -> Shortcut:
    def result(args: Any, kwargs: Any) -> Tensor | None:
        x = args[0]
        unusual = kwargs or (len(args) > 6 and args[6] == 0) or not x.is_floating_point()
        if axes == 3:  # where PyTorch takes no window that is larger than the volume, even with padding
            unusual = unusual or any(n < k for n, k in zip(x.shape[-3:], spread(args[1], 3), strict=True))
        shape = None if unusual else _pooled(axes, x, args, 1, len(args) > 4 and args[4])
        return None if shape is None else empty(shape, x.dtype)

    return result


def _adaptive_pool(args: Any, kwargs: Any) -> Tensor | None:
    x, sides = args[0], tuple(args[1])
    if x.dim() not in (3, 4) or len(sides) != 2 or min(sides) < 1 or not x.numel() or not _rows(x):
        return None
    return empty((*x.shape[:-2], *sides), x.dtype)


def _reduced(args: Any, kwargs: Any) -> Tensor | None:
    """For a sum or mean over some dimensions."""
    x, dims = args[0], args[1]
    rank, keep = x.dim(), len(args) > 2 and args[2]
    fits = dims and all(-rank <= d < rank for d in dims) and len({d % rank for d in dims}) == len(dims)
    if not fits or kwargs or not (x.is_floating_point() and x.is_contiguous()):
        return None
    gone = {d % rank for d in dims}
    return empty([1 if i in gone else n for i, n in enumerate(x.shape) if keep or i not in gone], x.dtype)


def _addmm(args: Any, kwargs: Any) -> Tensor | None:
    bias, a, b = args[:3]
    fits = a.dim() == b.dim() == 2 and a.shape[1] == b.shape[0] and tuple(bias.shape) == (b.shape[1],)
    return empty((a.shape[0], b.shape[1]), a.dtype) if fits and a.dtype == b.dtype == bias.dtype else None


def _cat(args: Any, kwargs: Any) -> Tensor | None:
    parts, dim = args[0], args[1] if len(args) > 1 else kwargs.get("dim", 0)
    first = parts[0]
    rank = first.dim()
    if rank and -rank <= dim < rank:
        dim %= rank
        side = (*first.shape[:dim], *first.shape[dim + 1 :])
        if all(
            t.dim() == rank and t.dtype == first.dtype and (*t.shape[:dim], *t.shape[dim + 1 :]) == side
            and t.numel() and _rows(t) for t in parts
        ):  # fmt: skip
            return empty((*first.shape[:dim], sum(t.shape[dim] for t in parts), *first.shape[dim + 1 :]), first.dtype)
    return None


def _embedding(args: Any, kwargs: Any) -> Tensor | None:
    weight, ids = args[:2]
    fits = weight.dim() == 2 and ids.dtype in (torch.int64, torch.int32)
    return empty((*ids.shape, weight.shape[1]), weight.dtype) if fits else None


def _made_like(args: Any, kwargs: Any) -> Tensor | None:
    """For ``empty_like`` and its kin."""
    x, order = args[0], kwargs.get("memory_format")
    dtype = kwargs.get("dtype") or x.dtype
    if args[1:] or not dtype.is_floating_point or not kwargs.keys() <= _NAMED:
        return None
    if order in (None, torch.preserve_format):
        return like(x, dtype)
    return empty(x.shape, dtype) if order == torch.contiguous_format else None


def _spreads(small: Sequence[int], large: Sequence[int]) -> bool:
    """Whether a tensor of one shape is repeated to the other, and not the other way round."""
    gap = len(large) - len(small)
    return gap >= 0 and all(n == m or n == 1 for n, m in zip(small, large[gap:], strict=True))


def _pointwise(args: Any, kwargs: Any) -> Tensor | None:
    """For an operator on numbers of one floating type, each by itself, whose tensors fit the shape of the largest."""
    tensors = [a for a in args if isinstance(a, Tensor)]
    most = max(tensors, key=Tensor.numel) if len(tensors) > 1 else tensors[0]
    if most.is_floating_point() and all(type(v) in _SCALARS for v in (*args, *kwargs.values())):
        if len(tensors) == 1:
            return like(most)
        if all(t.dtype == most.dtype and _in_order(t) and _spreads(t.shape, most.shape) for t in tensors):
            return empty(most.shape, most.dtype)
    return None


def _pointwise_in_place(args: Any, kwargs: Any) -> Tensor | None:
    x, scalars = args[0], (*args[1:], *kwargs.values())
    fits = x.is_floating_point() and all(
        type(v) in _SCALARS and (not isinstance(v, Tensor) or (v.shape == x.shape and v.dtype == x.dtype))
        for v in scalars
    )
    return x if fits else None


def _attention(args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
    """Result, and the sum of exponentials of each query and head, which lies in memory as (B, N, heads)."""
    q = args[0]
    exact = torch.float32 if q.dtype in (torch.float16, torch.bfloat16) else q.dtype
    return like(q), empty((q.shape[0], q.shape[2], q.shape[1]), exact).transpose(1, 2)


def _flexible(args: Any, kwargs: Any) -> tuple[Tensor, ...]:
    """flex_attention: result, and for each query the logarithm of the sum of exponentials and the largest score."""
    q, v = args[0], args[2]
    return empty((*q.shape[:-1], v.shape[-1]), q.dtype), *(empty(q.shape[:-1], torch.float32) for _ in range(2))


HIGHER = {"flex_attention": _flexible}  # operators that take functions
_NAMED = frozenset(("dtype", "device", "pin_memory", "memory_format"))
_SCALARS = frozenset((Tensor, nn.Parameter, int, float, bool))
_POINTWISE = (
    "add.Tensor sub.Tensor mul.Tensor div.Tensor add.Scalar sub.Scalar mul.Scalar div.Scalar pow.Tensor_Scalar "
    "hardtanh.default sigmoid.default tanh.default silu.default leaky_relu.default elu.default hardswish.default "
    "hardsigmoid.default exp.default sqrt.default rsqrt.default neg.default abs.default"
).split()
SHORTCUTS: dict[Any, Shortcut] = {
    _aten.convolution.default: _convolution,
    _aten.native_batch_norm.default: _batch_norm,
    _aten.relu.default: lambda args, kwargs: like(args[0]),
    _aten.relu_.default: lambda args, kwargs: args[0],
    _aten.bernoulli_.float: lambda args, kwargs: args[0],
    _aten.max_pool2d_with_indices.default: _max_pool(2),
    _aten.max_pool3d_with_indices.default: _max_pool(3),
    _aten.avg_pool2d.default: _average_pool(2),
    _aten.avg_pool3d.default: _average_pool(3),
    _aten._adaptive_avg_pool2d.default: _adaptive_pool,
    _aten.mean.dim: _reduced,
    _aten.sum.dim_IntList: _reduced,
    _aten.embedding.default: _embedding,
    _aten.addmm.default: _addmm,
    _aten.cat.default: _cat,
    **{getattr(_aten, f"{kind}_like").default: _made_like for kind in ("empty", "rand", "randn", "zeros", "ones")},
    _aten._scaled_dot_product_flash_attention_for_cpu.default: _attention,
}
for _name in _POINTWISE:
    _packet, _, _overload = _name.partition(".")
    SHORTCUTS[getattr(getattr(_aten, _packet), _overload)] = _pointwise
    if (_in_place := getattr(getattr(_aten, _packet + "_", None), _overload, None)) is not None:
        SHORTCUTS[_in_place] = _pointwise_in_place
