"""Trace any module: run it once on tensors that have a shape and no numbers, and note every operator.

PyTorch's dispatch mode shows the operators below all modules and functions, so the code of a module does not matter:
functional code, recurrent cells, attention and other libraries' layers are seen alike. Each operator belongs to the
innermost module that is running. Parameters and buffers are replaced by tensors on the "meta" device while the trace
runs, and put back; so are attributes that the module's own code sets, its mode, and the random state. Constants that
the module makes itself stay real numbers, so that code which reads them still works; code that reads numbers which
depend on the input cannot run on shapes, and then the module is run once on real random numbers (and a note says so).
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ..errors import NetError
from .attention import attention_of_a_processor
from .notes import Open
from .noting import Run
from .running import Shapes, arguments, entries, not_compiled, once_each, storage, tensors, unwrapped, watching
from .shortcuts import META
from .undo import as_it_was
from .whole import Anatomy


def trace(module: nn.Module, input: Any, *, name: str = "", training_memory: bool = True) -> Anatomy:
    """Return what `module` is made of when it computes `input`.

    Args:
        module: any module. It is left exactly as it was.
        input: shape of one example, such as ``(3, 224, 224)`` (the batch is 1), or a list of shapes for several
            arguments; or a tensor, or a tuple of arguments, or a dict of keyword arguments (tensors, or anything else
            that the module takes).
        name: what to call the net; default: the name of its class.
        training_memory: also run it in training mode, to find what is kept for the backward pass.

    Raises:
        NetError: the module cannot take this input, has parameters or buffers without a shape yet (lazy modules), or
            is or contains TorchScript.

    What to know of the figures:

    - The way of attention is that of a processor: ``F.scaled_dot_product_attention`` is one operator that never holds
      the matrix of scores, except with dropout (in training), with a mask that is trained, or where shapes do not fit.
    - The training memory of ``nn.LSTM`` is that of its steps one by one; on a processor one operator computes them
      all, and keeps a workspace of its own that is not known here.
    - An input of three dimensions is read as (B, C, L) for receptive fields. For tokens, (B, N, D), sizes are those
      along D, and mean nothing; all other figures are right.
    - ``torch.autocast`` has no effect on tensors without numbers: memory is that of the parameters' own type.
    - The module's own hooks run as in any call; what they change outside of the module stays changed.
    - What the module changes in globals, closures, attributes of classes, NumPy arrays, or in objects of other
      packages (a trainer, a logger) stays changed; see `undo.Undo`.
    """
    module = unwrapped(module)
    _check(module)
    args, kwargs = arguments(input, module)
    notes: list[str] = []
    run = Run(module, real=False)
    try:
        if any(t.layout != torch.strided for t in (*module.parameters(), *module.buffers())):
            raise NotImplementedError("it has sparse parameters or buffers")
        outputs = run.go(args, kwargs)
    except Exception as error:
        if isinstance(error, NetError):
            raise
        run = Run(module, real=True)
        try:
            outputs = run.go(args, kwargs)
        except Exception as again:
            shown = ", ".join(str(tuple(t.shape)) for t in tensors((args, kwargs)))
            raise NetError(
                f"{type(module).__name__} cannot compute an input of shape {shown}: {again}; "
                "give trace() an input that the module takes, such as trace(module, (3, 224, 224))"
            ) from again
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        notes.append(f"computed on real random numbers, because it does not run on shapes alone ({reason})")
    if run.chose:
        notes.append("torch.cond: only the branch that these numbers chose was followed; the other may read more")
    layers = run.layers
    training: int | None = None
    if training_memory and not run.real:
        saved = _training_memory(module, args, kwargs, notes)
        if saved is not None:
            training = sum(saved.values())
            _share_out(saved, layers)
    elif training_memory:
        notes.append("training memory: not found, because the module does not run on shapes alone")
    everything = {id(p): (path, p) for path, p in module.named_parameters()}
    parameters = [p for _, p in everything.values()]
    return Anatomy(
        name=name or type(module).__name__,
        inputs=tuple(tuple(t.shape) for t in (*tensors((args, kwargs)), *run.held)),
        outputs=tuple(tuple(t.shape) for t in tensors(outputs)),
        layers=tuple(layer.finish() for layer in layers),
        modules={path: type(m).__name__ for path, m in module.named_modules() if path in run.ran or not path},
        params=sum(map(entries, parameters)),
        trainable=sum(entries(p) for p in parameters if p.requires_grad),
        buffers=sum(map(entries, module.buffers())),
        unused=() if run.chose else tuple(path for path, p in everything.values() if path not in run.touched),
        param_bytes=sum(entries(p) * p.element_size() for p in parameters),
        peak_bytes=run.ledger.peak,
        training_bytes=training,
        uncounted=dict(sorted(run.uncounted.items())),
        notes=tuple(notes),
    )


def _check(module: nn.Module) -> None:
    """Refuse what cannot be run on shapes, before anything is touched."""
    for path, m in module.named_modules():
        if isinstance(m, torch.jit.ScriptModule):
            raise NetError(
                f"{'the module' if not path else repr(path)} is a TorchScript module, whose layers cannot be seen; "
                "trace the module that it was made from"
            )
        for key, value in (*m._parameters.items(), *m._buffers.items()):
            if isinstance(value, nn.parameter.UninitializedParameter | nn.parameter.UninitializedBuffer):
                what, name = "buffer" if key in m._buffers else "parameter", f"{path}.{key}".lstrip(".")
                raise NetError(f"{what} {name!r} has no shape yet; run the module once on an example, then trace it")


def _share_out(saved: dict[str, int], layers: list[Open]) -> None:
    """Give what a module keeps for training to its layers, in proportion to the maps that they write."""
    by_module: dict[str, list[Open]] = {}
    for layer in layers:
        by_module.setdefault(layer.module, []).append(layer)
    for path, size in saved.items():
        while path not in by_module and path:
            path = path.rpartition(".")[0]
        mine = by_module.get(path, [])
        total = sum(layer.output_bytes for layer in mine)
        for layer in mine:
            layer.saved_bytes += size * layer.output_bytes // total if total else size // len(mine)


# --- training --------------------------------------------------------------------------------------------------------


def _training_memory(
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
        stack.enter_context(as_it_was(module, training=mode))
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
