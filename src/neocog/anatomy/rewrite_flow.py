"""Which tensor goes where: what a rewrite must know before it may change a layer.

A `Flow` is one computation of a module, operator by operator, on shapes. It answers "who else reads the output of this
layer?", which neither the order of definition nor the layers of an `Anatomy` (they do not know which of them are
outputs of the net) can answer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import NetError
from .formulas import label
from .record import Shape
from .running import Shapes, arguments, shape_only, tensors, watching, with_numbers
from .undo import as_it_was

Changes = dict[str, str]  # name of a layer -> what was done to it, or why nothing was
Key = int  # memory of a tensor: views and results of in-place operators have that of the tensor they look at

# Operators that look at the same numbers in another shape; they copy them only where the memory is not in order.
RESHAPES = {"view", "_unsafe_view", "reshape", "flatten", "alias", "detach", "unsqueeze", "squeeze"}


@dataclass(frozen=True)
class Call:
    """One call of a module."""

    name: str  # dotted path, the first one if it is registered twice
    module: nn.Module
    start: int  # its operators are ops[start:stop]
    stop: int
    reads: tuple[Key, ...]
    read_shapes: tuple[Shape, ...]
    writes: tuple[Key, ...]
    write_shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Op:
    """One operator: "convolution", "native_batch_norm", "add" ..."""

    kind: str
    path: str  # module that was running
    reads: tuple[Key, ...]
    read_shapes: tuple[Shape, ...]
    writes: tuple[Key, ...]
    write_shapes: tuple[Shape, ...]


@dataclass
class Flow:
    """One computation."""

    ops: list[Op] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)  # in the order in which they ended
    outputs: tuple[Key, ...] = ()
    parameters: dict[str, Key] = field(default_factory=dict)
    keep: list[Tensor] = field(default_factory=list)  # all tensors, so that no memory is used twice

    def noted(self, value: Any) -> tuple[tuple[Key, ...], tuple[Shape, ...]]:
        """Memory and shapes of all tensors in a value."""
        found = tensors(value)
        self.keep += found
        return tuple(int(t.untyped_storage()._cdata) for t in found), tuple(tuple(t.shape) for t in found)

    def of(self, name: str) -> list[Call]:
        """Calls of the module with this name."""
        return [call for call in self.calls if call.name == name]

    def leaves(self) -> dict[int, Call]:
        """The call of a module without children that each operator belongs to, by the number of the operator."""
        return {i: c for c in self.calls if not any(c.module.children()) for i in range(c.start, c.stop)}

    def users(self, key: Key, outside: Sequence[Call]) -> list[int]:
        """Indices of the operators that touch `key`, those within the calls `outside` left out."""
        hidden = {i for call in outside for i in range(call.start, call.stop)}
        return [i for i, op in enumerate(self.ops) if key in op.reads and i not in hidden]

    def signature(self) -> list[tuple[str, tuple[Shape, ...]]]:
        """What was computed, without where."""
        return [(op.kind, op.write_shapes) for op in self.ops]


def copy_of(module: nn.Module) -> nn.Module:
    """A copy with weights of its own, which a rewrite may change. Raises: NetError if it cannot be copied."""
    try:
        return copy.deepcopy(module)
    except Exception as error:
        raise NetError(
            f"{type(module).__name__} cannot be copied ({error}); rewrite it before it is compiled, scripted or wrapped"
        ) from error


def record(module: nn.Module, input: Any, *, training: bool = False, batch: int | None = None) -> Flow:
    """Run `module` and return what it computed; it is left as it was.

    `input` is as in `trace`; with `batch`, its first dimension is repeated so many times. A module whose code looks at
    numbers runs on random ones, as a copy.

    Raises: NetError if it cannot compute the input.
    """
    given = arguments(input, module)
    if batch is not None:
        given = pytree.tree_map_only(Tensor, lambda t: t.repeat(batch, *(1,) * (t.dim() - 1)) if t.dim() else t, given)
    try:
        return _run(module, pytree.tree_map_only(Tensor, shape_only, given), training, on_shapes=True)
    except NetError:
        raise
    except Exception as error:
        try:
            if any(p.is_meta for p in module.parameters()):
                raise error
            generator = torch.Generator().manual_seed(0)
            given = pytree.tree_map_only(Tensor, lambda t: with_numbers(t, generator), given)
            return _run(copy_of(module), given, training, on_shapes=False)
        except NetError:
            raise
        except Exception as again:
            raise NetError(f"{type(module).__name__} cannot compute this input: {again}") from again


class _Recorder(Shapes):
    def __init__(self) -> None:
        super().__init__()
        self.flow = Flow()
        self.running: list[tuple[str, int]] = [("", 0)]  # path, and its first operator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tensors((args, kwargs))  # a parameter may be reached as itself, such as the list of weights of nn.LSTM
        read = self.flow.noted([self.stand_ins[id(t)][1] if id(t) in self.swapped else t for t in given])
        result = super().__torch_dispatch__(func, types, args, kwargs)
        kind = label(func).rpartition(".")[2].rstrip("_")
        self.flow.ops.append(Op(kind, self.running[-1][0], *read, *self.flow.noted(result)))
        return result

    def entered(self, module: nn.Module, path: str, args: Any) -> None:
        self.running.append((path, len(self.flow.ops)))

    def left(self, module: nn.Module, path: str, given: Any, output: Any) -> None:
        start, flow = self.running.pop()[1], self.flow
        flow.calls.append(Call(path, module, start, len(flow.ops), *flow.noted(given), *flow.noted(output)))


def _run(module: nn.Module, given: tuple[Any, Any], training: bool, on_shapes: bool) -> Flow:
    recorder = _Recorder()
    flow = recorder.flow
    with ExitStack() as stack:
        stack.enter_context(as_it_was(module, values=not on_shapes, training=training))
        if on_shapes:
            recorder.swap(module)
        flow.parameters = {path: flow.noted(p)[0][0] for path, p in module.named_parameters(remove_duplicate=False)}
        stack.enter_context(torch.no_grad())
        stack.enter_context(watching(module, recorder.entered, recorder.left))
        stack.enter_context(recorder)
        flow.outputs = flow.noted(module(*given[0], **given[1]))[0]
    return flow


def places_of(root: nn.Module, module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Every (parent, name) under which `module` is registered."""
    for parent in root.modules():
        for name, child in parent._modules.items():
            if child is module:
                yield parent, name


def put(root: nn.Module, name: str, new: nn.Module) -> None:
    """Put `new` wherever the module called `name` is registered; it takes over the old one's mode."""
    old = root.get_submodule(name)
    new.train(old.training)
    for parent, key in list(places_of(root, old)):
        parent._modules[key] = new


def ordinary(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """True if the module computes what one of `kinds` computes: no forward of its own, no hooks, no parametrization."""
    for kind in kinds:
        if isinstance(module, kind) and type(module).forward is kind.forward:
            own = getattr(type(module), "_conv_forward", None)
            hooks = module._forward_hooks or module._forward_pre_hooks
            return own is getattr(kind, "_conv_forward", None) and not hooks and not hasattr(module, "parametrizations")
    return False
