"""What training keeps: run a module in training mode on shapes, and add up what autograd saves."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from .attention import attention_of_a_processor
from .running import Shapes, entries, not_compiled, once_each, storage, watching
from .shortcuts import META
from .undo import as_it_was


def training_memory_of(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], notes: list[str]
) -> dict[str, int] | None:
    """Bytes that autograd keeps in training mode, parameters left out, by the module that first keeps them.

    A tensor that several operators keep counts once. None, with a note, if the module cannot be run so.
    """
    reason = ""
    # a batch of one on a map of one pixel has no variance, and BN refuses it in training mode; two examples have
    for batch, mode in ((1, True), (2, True), (1, False)):
        try:
            given = once_each(lambda t, batch=batch: _repeated(batch, t), (args, kwargs))  # type: ignore[misc]
            saved = _saved(module, given[0], given[1], mode)
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"
            continue
        if not mode:
            notes.append("training memory is that of evaluation mode with gradients, because training mode failed")
        return {path: size // batch for path, size in saved.items()}
    notes.append(f"training memory: not found ({reason})")
    return None


def _repeated(batch: int, t: Tensor) -> Tensor:
    """An input with `batch` times as many examples: a shape only, but masks and token ids keep their numbers."""
    if t.device != META and not (t.is_floating_point() or t.is_complex()):
        return t.detach().repeat(batch, *(1,) * (t.dim() - 1)) if t.dim() else t.detach().clone()
    shape = (t.shape[0] * batch, *t.shape[1:]) if t.dim() else t.shape
    return torch.empty(shape, dtype=t.dtype, device=META)


def _saved(module: nn.Module, args: Any, kwargs: Any, mode: bool) -> dict[str, int]:
    shapes = Shapes()
    saved: dict[str, int] = {}
    seen: set[int] = set()
    path: list[str] = [""]
    with ExitStack() as stack:
        stack.enter_context(as_it_was(module))
        for m in module.modules():
            m.training = mode
        shapes.swap(module)
        seen.update(storage(t) for _, t in shapes.stand_ins.values())
        keep: list[Tensor] = []

        def pack(t: Tensor) -> Tensor:
            key = storage(t)
            if key not in seen and not isinstance(t, nn.Parameter):
                seen.add(key)
                keep.append(t)  # so that the storage is not given to another tensor
                saved[path[-1]] = saved.get(path[-1], 0) + (
                    t.untyped_storage().nbytes() if t.layout == torch.strided else entries(t) * t.element_size()
                )
            return t

        def left(m: nn.Module, name: str, given: Any, out: Any) -> None:
            path.pop()

        stack.enter_context(torch.enable_grad())
        stack.enter_context(not_compiled())
        stack.enter_context(watching(module, lambda m, name, args: path.append(name), left))
        stack.enter_context(saved_tensors_hooks(pack, lambda t: t))
        stack.enter_context(attention_of_a_processor(module))
        stack.enter_context(shapes)
        module(*args, **kwargs)
    return saved
