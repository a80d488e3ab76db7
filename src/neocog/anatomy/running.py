"""Run a module without changing it: on tensors that have a shape and no numbers, and with everything put back.

Parameters and buffers are replaced by tensors on the "meta" device while it runs; constants that the module makes
itself stay real numbers, so that code which reads them still works.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.nn.modules import module as _torch_module
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import NetError
from .shortcuts import HIGHER, META, SHORTCUTS


def entries(t: Tensor) -> int:
    """Numbers that a tensor stores: of a sparse one, those that are not left out."""
    if t.layout == torch.strided:
        return t.numel()
    return t._values().numel() if t.layout == torch.sparse_coo else t.values().numel()


def storage(t: Tensor) -> int:
    """What tells the memory of a tensor from that of others."""
    return t.untyped_storage()._cdata if t.layout == torch.strided else -id(t)  # type: ignore[no-any-return]


def held(given: Any) -> list[Tensor]:
    """Tensors in the attributes of objects among the arguments: a dataclass, a graph, a batch of another library."""
    found: dict[int, Tensor] = {}
    seen: dict[int, Any] = {}
    leaves = [v for v in pytree.tree_leaves(given) if not isinstance(v, Tensor)]
    while leaves:
        value = leaves.pop()
        if id(value) in seen or isinstance(value, type | nn.Module | str | bytes | int | float | torch.device):
            continue
        seen[id(value)] = value  # kept, so that its id stays its own
        if isinstance(value, Tensor):
            found[id(value)] = value
        elif isinstance(value, Mapping):
            leaves.extend(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            leaves.extend(value)
        if not isinstance(value, Tensor) and not callable(value):
            leaves.extend(getattr(value, "__dict__", {}).values())
            leaves.extend(getattr(value, name) for name in slots(value))
    return list(found.values())[::-1]


def slots(value: Any) -> list[str]:
    """Attributes that an object has in ``__slots__``."""
    names: list[str] = []
    for kind in type(value).__mro__:
        own = kind.__dict__.get("__slots__", ())
        names.extend((own,) if isinstance(own, str) else own)
    return [name for name in dict.fromkeys(names) if name not in ("__dict__", "__weakref__") and hasattr(value, name)]


def unwrapped(module: nn.Module) -> nn.Module:
    """The net inside torch.compile's, DataParallel's or DistributedDataParallel's wrapper."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(n, int) and not isinstance(n, bool) for n in value)
    )


def arguments(given: Any, module: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of `module` as tensors with shapes only; what is given as a tensor stays as it is."""
    first = next((p for p in module.parameters() if p.is_floating_point()), None)
    dtype = torch.get_default_dtype() if first is None else first.dtype

    def one(value: Any) -> Any:
        return torch.empty(1, *value, dtype=dtype, device=META) if _is_shape(value) else value

    if isinstance(given, Mapping):
        return (), {str(key): one(value) for key, value in given.items()}
    if isinstance(given, Tensor) or _is_shape(given):
        return (one(given),), {}
    if isinstance(given, list | tuple):
        return tuple(one(value) for value in given), {}
    raise NetError(
        f"expected the input's shape, such as (3, 224, 224), tensors, or a dict of arguments; "
        f"got {type(given).__name__}"
    )


def with_numbers(t: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A tensor on the processor in the place of one that has a shape only: normal noise, or zeros of whole numbers."""
    if t.device != META:
        return t
    if t.is_floating_point():
        return torch.randn(t.shape, dtype=t.dtype, generator=generator)
    return torch.zeros_like(t, device="cpu")


def tensors(value: Any) -> list[Tensor]:
    """All tensors in nested arguments or results."""
    return [t for t in pytree.tree_leaves(value) if isinstance(t, Tensor)]


@contextmanager
def not_compiled() -> Iterator[None]:
    """Run functions and parts of a module that went through torch.compile, or go through it, as they were written."""
    # else nothing is compiled, and the import takes two seconds
    if not {"torch._dynamo", "torch.nn.attention.flex_attention"} & sys.modules.keys():
        yield
        return
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        yield


@contextmanager
def watching(module: nn.Module, entered: Callable[..., object], left: Callable[..., object]) -> Iterator[None]:
    """Say which module is running, by hooks that PyTorch keeps apart from every module's own.

    ``entered(module, path, args)`` and ``left(module, path, (args, kwargs), output)`` are called for every module
    inside `module`, and for itself.
    """
    paths, thread = {id(m): path for path, m in module.named_modules()}, threading.get_ident()

    def before(m: nn.Module, args: Any) -> None:
        if threading.get_ident() == thread and id(m) in paths:
            entered(m, paths[id(m)], args)

    def after(m: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if threading.get_ident() == thread and id(m) in paths:
            left(m, paths[id(m)], (args, kwargs), output)

    with ExitStack() as stack:
        stack.callback(_torch_module.register_module_forward_pre_hook(before).remove)
        stack.callback(_torch_module.register_module_forward_hook(after, with_kwargs=True).remove)
        yield


class Shapes(TorchDispatchMode):
    """Computes on shapes as soon as one tensor is a shape only; constants among themselves stay real."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.stand_ins: dict[int, tuple[Tensor, Tensor]] = {}
        self.chose = False  # one of two branches was followed, the other was not
        self.swapped: frozenset[int] = frozenset()  # ids of the true parameters and buffers, which are not constants

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch would import its compiler to keep it away from this class: two seconds, 80 MiB."""
        return False

    def swap(self, module: nn.Module) -> None:
        """Put shape-only tensors in the place of all parameters and buffers."""
        for m in module.modules():
            for holder in (m._parameters, m._buffers):
                for key, value in holder.items():
                    if value is None:
                        continue
                    if id(value) not in self.stand_ins:
                        made = shape_only(value.detach())
                        if isinstance(value, nn.Parameter):
                            made = nn.Parameter(made, requires_grad=value.requires_grad)
                        self.stand_ins[id(value)] = (value, made)
                    holder[key] = self.stand_ins[id(value)][1]  # type: ignore[assignment]
        self.swapped = frozenset(self.stand_ins)

    def compute(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> tuple[Any, Any, list[Tensor]]:
        """Return the result of an operator, and the arguments and tensors that it was really given."""
        # a parameter may also be reached in another way, such as the list of weights of nn.LSTM
        if not any(t.device == META for t in tensors) and not any(id(t) in self.swapped for t in tensors):
            if kwargs.get("device") == META and func in _KEEPS_NUMBERS:
                kwargs = {**kwargs, "device": tensors[0].device if tensors else torch.device("cpu")}
            return func(*args, **kwargs), args, tensors
        if any(t.device != META for t in tensors):
            args, kwargs = pytree.tree_map_only(Tensor, self._stand_in, (args, kwargs))
            tensors = tensors_in(args, kwargs)
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": META}
        shortcut = HIGHER.get(func.name()) if isinstance(func, HigherOrderOperator) else SHORTCUTS.get(func)
        result = None if shortcut is None else shortcut(args, kwargs)
        return func(*args, **kwargs) if result is None else result, args, tensors

    def higher(self, func: Any, args: Any) -> Any:
        """Run an operator that takes functions as a program does: the branch that is chosen, every turn of a loop.

        `NotImplemented` for any other, whose functions cannot be looked into.
        """
        name = func.name() if isinstance(func, HigherOrderOperator) else ""
        if name == "cond":
            chosen, yes, no, operands = args
            self.chose = True
            branch = yes if bool(chosen) else no  # on shapes alone this fails, and the module is run on real numbers
            with self:
                return branch(*operands)
        if name == "while_loop":
            again, turn, state, more = args
            with self:
                while bool(again(*state, *more)):
                    state = tuple(turn(*state, *more))
                return state
        return NotImplemented

    def _stand_in(self, t: Tensor) -> Tensor:
        """The shape-only tensor for a real one."""
        if t.device == META:
            return t
        if (known := self.stand_ins.get(id(t))) is not None:
            return known[1]
        made = shape_only(t)
        if (note := getattr(t, "_neocog", None)) is not None:  # what a trace knows of it stays known
            made._neocog = note  # type: ignore[attr-defined]
        self.stand_ins[id(t)] = (t, made)  # the real one is kept, so that its id stays its own
        return made

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = self.higher(func, args)
        return self.compute(func, args, kwargs, tensors_in(args, kwargs))[0] if result is NotImplemented else result


def flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from flat(item)
    else:
        yield value


def tensors_in(args: Any, kwargs: Any) -> list[Tensor]:
    found = [a for a in flat(args) if isinstance(a, Tensor)]
    if kwargs:
        found.extend(a for a in flat(tuple(kwargs.values())) if isinstance(a, Tensor))
    return found


def once_each(change: Callable[[Tensor], Tensor], given: Any) -> Any:
    """Apply `change` to every tensor in nested arguments; one that is there twice is changed once, and stays one."""
    done: dict[int, Tensor] = {}

    def one(t: Tensor) -> Tensor:
        if id(t) not in done:
            done[id(t)] = change(t)
        return done[id(t)]

    return pytree.tree_map_only(Tensor, one, given)


def shape_only(t: Tensor) -> Tensor:
    if t.layout != torch.strided:
        return t.to(META)
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=META)


_aten = torch.ops.aten
# A mask that is sent to the device of the picture, and positions that are counted out there, keep their numbers.
_KEEPS_NUMBERS = frozenset((_aten._to_copy.default, _aten.arange.default, _aten.arange.start, _aten.arange.start_step))
