"""Attention on shapes, as a processor computes it.

PyTorch has two ways for ``scaled_dot_product_attention``: one operator that never holds the whole matrix of scores, and
products and a softmax one after the other, which do. Which one it takes depends on the device, and for tensors without
numbers it is always the second; so the choice for a processor is made here, and its operator called.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from .running import Shapes

_NAME = "scaled_dot_product_attention"
_TRUE = F.scaled_dot_product_attention
_TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_lock = threading.Lock()
_uses: dict[str, int] = {}  # name of a Python module -> traces that are running with the replacement in it


def one_operator(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, causal: bool, grouped: bool
) -> bool:
    """Whether a processor computes this by its one operator (PyTorch's ``use_flash_attention_cpp``)."""
    if dropout > 0 or not torch.backends.cuda.flash_sdp_enabled():
        return False
    if not (query.dim() == key.dim() == value.dim() == 4 and query.dtype in _TYPES):
        return False
    if not query.dtype == key.dtype == value.dtype or query.shape[0] != key.shape[0] or key.shape[0] != value.shape[0]:
        return False
    heads = query.shape[1], key.shape[1], value.shape[1]
    if grouped:
        if not all(heads) or heads[1] != heads[2] or heads[0] % heads[1]:
            return False
    elif not heads[0] == heads[1] == heads[2]:
        return False
    if not query.shape[3] == key.shape[3] == value.shape[3] or key.shape[2] != value.shape[2]:
        return False
    if not (query.shape[2] and key.shape[2]) or not query.stride(3) == key.stride(3) == value.stride(3) == 1:
        return False
    return mask is None or (not causal and _mask_fits(query, key, mask))


def _mask_fits(query: Tensor, key: Tensor, mask: Tensor) -> bool:
    if mask.requires_grad or mask.dim() not in (2, 4) or mask.dtype not in (torch.bool, torch.float32, query.dtype):
        return False
    wanted = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])[-mask.dim() :]
    return all(n in (1, w) for n, w in zip(mask.shape, wanted, strict=True))


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    on_shapes = any(t.device.type == "meta" for t in (query, key, value))
    if not (on_shapes and isinstance(_get_current_dispatch_mode(), Shapes)) or not one_operator(
        query, key, value, attn_mask, dropout_p, is_causal, enable_gqa
    ):
        return _TRUE(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if attn_mask is not None and attn_mask.dtype == torch.bool:  # what PyTorch makes of it, before the operator
        attn_mask = torch.where(attn_mask, 0.0, torch.full((), -torch.inf, dtype=query.dtype))
    operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    return operator(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]  # type: ignore[no-any-return]


@contextmanager
def attention_of_a_processor(module: nn.Module) -> Iterator[None]:
    """Let ``F.scaled_dot_product_attention`` make the choice above while a trace runs, for shapes in the trace only.

    Also where the module's own source file has imported the function by its name.
    """
    files = {kind.__module__ for m in module.modules() for kind in type(m).__mro__[:-1]}
    names = sorted({"torch.nn.functional", "torch._C._nn"} | files)
    taken: list[str] = []
    try:
        with _lock:
            for name in names:
                holder: dict[str, Any] = vars(sys.modules[name]) if name in sys.modules else {}
                if _uses.get(name) or holder.get(_NAME) is _TRUE:
                    _uses[name] = _uses.get(name, 0) + 1
                    holder[_NAME] = _attend
                    taken.append(name)
        yield
    finally:
        with _lock:
            for name in taken:
                _uses[name] -= 1
                if not _uses[name] and name in sys.modules:
                    setattr(sys.modules[name], _NAME, _TRUE)
