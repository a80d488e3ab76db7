"""Which tensor goes where: what a rewrite must know before it may change a layer.

A `Flow` is one computation of a module in evaluation mode, operator by operator, on a copy without numbers. It answers
"who else reads the output of this layer?", which neither the order of definition nor the layers of an `Anatomy` (they
do not know which of them are outputs of the net) can answer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import NetError
from .record import Shape
from .running import arguments

Key = int  # memory of a tensor: views and results of in-place operators have that of the tensor they look at

# Operators that look at the same numbers in another shape; they copy them only where the memory is not in order.
RESHAPES = {"view", "_unsafe_view", "reshape", "flatten", "alias", "detach", "unsqueeze", "squeeze"}


@dataclass
class Call:
    """One call of a module."""

    name: str  # dotted path, the first one if it is registered twice
    module: nn.Module  # the module that ran: a copy with the same settings, and hooks of ours
    start: int  # its operators are ops[start:stop]
    stop: int = 0
    reads: tuple[Key, ...] = ()
    read_shapes: tuple[Shape, ...] = ()
    writes: tuple[Key, ...] = ()
    write_shapes: tuple[Shape, ...] = ()


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
    calls: list[Call] = field(default_factory=list)  # in the order in which they began
    outputs: tuple[Key, ...] = ()
    parameters: dict[str, Key] = field(default_factory=dict)
    keep: list[Any] = field(default_factory=list)  # all tensors, so that no memory is used twice

    def of(self, name: str) -> list[Call]:
        """Calls of the module with this name."""
        return [call for call in self.calls if call.name == name]

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


def without_numbers(module: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers have shapes only; costs no memory."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise NetError("a parameter has no shape yet; run the module once on an example, then rewrite it")
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, memo)


def record(module: nn.Module, input: Any, *, training: bool = False, batch: int | None = None) -> Flow:
    """Run a copy of `module` and return what it computed.

    `input` is as in `trace`; with `batch`, its first dimension is repeated so many times. A module whose code looks at
    numbers runs on random ones.

    Raises: NetError if it cannot compute the input.
    """
    first = next((p for p in module.parameters() if p.is_floating_point()), None)
    args, kwargs = arguments(input, torch.get_default_dtype() if first is None else first.dtype)
    if batch is not None:
        args, kwargs = pytree.tree_map_only(
            Tensor, lambda t: t.repeat(batch, *(1,) * (t.dim() - 1)) if t.dim() else t, (args, kwargs)
        )
    meta = pytree.tree_map_only(Tensor, lambda t: torch.empty_like(t, device="meta"), (args, kwargs))
    try:
        return _run(without_numbers(module), meta[0], meta[1], training)
    except NetError:
        raise
    except Exception as error:
        if first is not None and first.is_meta:
            raise NetError(f"{type(module).__name__} cannot compute this input: {error}") from error
        try:
            args, kwargs = pytree.tree_map_only(Tensor, _random, (args, kwargs))
            return _run(copy_of(module), args, kwargs, training)
        except NetError:
            raise
        except Exception as again:
            raise NetError(f"{type(module).__name__} cannot compute this input: {again}") from again


def _random(t: Tensor) -> Tensor:
    if not t.is_meta:
        return t
    if t.is_floating_point():
        return torch.randn(t.shape, dtype=t.dtype, generator=torch.Generator().manual_seed(0))
    return torch.zeros_like(t, device="cpu")


def _key(t: Tensor) -> Key:
    return int(t.untyped_storage()._cdata)


def _tensors(value: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(value) if isinstance(t, Tensor)]


class _Recorder(TorchDispatchMode):
    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow
        self.path = [""]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        read, made = _tensors((args, kwargs)), _tensors(result)
        self.flow.keep += read + made
        self.flow.ops.append(
            Op(
                func.overloadpacket.__name__.rstrip("_"),
                self.path[-1],
                tuple(map(_key, read)),
                tuple(tuple(t.shape) for t in read),
                tuple(map(_key, made)),
                tuple(tuple(t.shape) for t in made),
            )
        )
        return result


def _run(module: nn.Module, args: Any, kwargs: Any, training: bool) -> Flow:
    flow = Flow()
    recorder = _Recorder(flow)
    module.train(training)
    flow.parameters = {path: _key(p) for path, p in module.named_parameters(remove_duplicate=False)}
    flow.keep += list(module.parameters())
    open_calls: list[Call] = []

    def entering(path: str) -> Callable[..., None]:
        def before(m: nn.Module, given: Any, named: Any) -> None:
            tensors = _tensors((given, named))
            flow.keep += tensors
            call = Call(path, m, len(flow.ops))
            call.reads, call.read_shapes = tuple(map(_key, tensors)), tuple(tuple(t.shape) for t in tensors)
            flow.calls.append(call)
            open_calls.append(call)
            recorder.path.append(path)

        return before

    def leaving(m: nn.Module, given: Any, named: Any, output: Any) -> None:
        tensors = _tensors(output)
        flow.keep += tensors
        call = open_calls.pop()
        recorder.path.pop()
        call.stop = len(flow.ops)
        call.writes, call.write_shapes = tuple(map(_key, tensors)), tuple(tuple(t.shape) for t in tensors)

    for path, m in module.named_modules():
        m.register_forward_pre_hook(entering(path), with_kwargs=True)
        m.register_forward_hook(leaving, with_kwargs=True)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), recorder:
        output = module(*args, **kwargs)
    results = _tensors(output)
    flow.keep += results
    flow.outputs = tuple(map(_key, results))
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
