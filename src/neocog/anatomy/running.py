"""Run a module without changing it: on tensors that have a shape and no numbers, and with everything put back.

Parameters and buffers are replaced by tensors on the "meta" device while it runs; constants that the module makes
itself stay real numbers, so that code which reads them still works.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _torch_module
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import NetError

META = torch.device("meta")


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


def arguments(given: Any, dtype: torch.dtype) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments as tensors with shapes only; numbers that are given stay with their tensors' device and type."""

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


class Calls:
    """Which module is running, from hooks that PyTorch keeps apart from every module's own."""

    def __init__(self, module: nn.Module, entered: Callable[..., None], left: Callable[..., None]) -> None:
        self.paths = {id(m): path for path, m in module.named_modules()}
        self.entered, self.left, self.thread = entered, left, threading.get_ident()

    @contextmanager
    def watching(self) -> Iterator[None]:
        def before(module: nn.Module, args: Any) -> None:
            if threading.get_ident() == self.thread and id(module) in self.paths:
                self.entered(module, self.paths[id(module)], args)

        def after(module: nn.Module, args: Any, output: Any) -> None:
            if threading.get_ident() == self.thread and id(module) in self.paths:
                self.left(module, self.paths[id(module)], output)

        hooks = [
            _torch_module.register_module_forward_pre_hook(before),
            _torch_module.register_module_forward_hook(after),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class Shapes(TorchDispatchMode):
    """Computes on shapes as soon as one tensor is a shape only; constants among themselves stay real."""

    def __init__(self) -> None:
        super().__init__()
        self.stand_ins: dict[int, tuple[Tensor, Tensor]] = {}

    def compute(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> tuple[Any, Any, list[Tensor]]:
        """Return the result of an operator, and the arguments and tensors that it was really given."""
        if not any(t.device == META for t in tensors):
            if kwargs.get("device") == META and func in _KEEPS_NUMBERS:
                kwargs = {**kwargs, "device": tensors[0].device if tensors else torch.device("cpu")}
            return func(*args, **kwargs), args, tensors
        if any(t.device != META for t in tensors):
            args, kwargs = pytree.tree_map_only(Tensor, self._stand_in, (args, kwargs))
            tensors = tensors_in(args, kwargs)
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": META}
        shortcut = _SHORTCUTS.get(func)
        result = func(*args, **kwargs) if shortcut is None else shortcut(args, kwargs)
        return result, args, tensors

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
        return self.compute(func, args, kwargs, tensors_in(args, kwargs))[0]


def spread(value: Any, n: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * n if len(values) == 1 else values


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


def shape_only(t: Tensor) -> Tensor:
    if t.layout != torch.strided:
        return t.to(META)
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=META)


def swap(module: nn.Module, stand_ins: dict[int, tuple[Tensor, Tensor]]) -> None:
    """Put shape-only tensors in the place of all parameters and buffers."""
    for m in module.modules():
        for holder in (m._parameters, m._buffers):
            for key, value in holder.items():
                if value is None:
                    continue
                known = stand_ins.get(id(value))
                if known is None:
                    made = shape_only(value.detach())
                    if isinstance(value, nn.Parameter):
                        made = nn.Parameter(made, requires_grad=value.requires_grad)
                    known = stand_ins[id(value)] = (value, made)
                holder[key] = known[1]  # type: ignore[assignment]


@contextmanager
def as_it_was(module: nn.Module, values: bool = False) -> Iterator[None]:
    """Put everything back that a computation may change: attributes of all modules, mode, gradients, random state.

    Containers that are attributes (hooks, caches) get their old content back; objects inside them are not copied. With
    `values` the numbers in buffers are put back, too.
    """
    saved = []
    numbers: list[tuple[Tensor, Tensor]] = []
    for m in module.modules():
        state = dict(m.__dict__)
        held = [(v, v.copy()) for v in state.values() if isinstance(v, dict | list | set)]
        numbers.extend((v, v.detach().clone()) for v in state.values() if isinstance(v, Tensor))
        saved.append((m, state, held))
    if values:
        numbers.extend((b, b.detach().clone()) for b in module.buffers())
    fast = torch.backends.mha.get_fastpath_enabled()
    random = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    torch.backends.mha.set_fastpath_enabled(False)  # it hides the layers of a transformer in one operator
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.set_rng_state(random)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        for m, state, held in saved:
            for container, content in held:
                if isinstance(container, list):
                    container[:] = content
                else:
                    container.clear()
                    container.update(content)  # type: ignore[arg-type]
            m.__dict__.clear()
            m.__dict__.update(state)
        with torch.no_grad():
            for tensor, value in numbers:
                tensor.copy_(value)


# --- shapes of the operators that convolutional networks are made of: ten times as fast as the general way ----------


def _conv_shape(args: Any, kwargs: Any) -> Tensor:
    x, weight, _, stride, padding, dilation, turned, extra, groups = args[:9]
    axes = weight.dim() - 2
    if x.dim() != axes + 2:
        return torch.ops.aten.convolution.default(*args, **kwargs)  # type: ignore[no-any-return]
    channels = x.shape[1]
    if channels != (weight.shape[0] if turned else weight.shape[1] * groups):
        return torch.ops.aten.convolution.default(*args, **kwargs)  # the general way says what is wrong
    stride, padding, dilation, extra = (spread(v, axes) for v in (stride, padding, dilation, extra))
    sides = []
    for n, k, s, p, d, e in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, extra, strict=True):
        reach = d * (k - 1) + 1
        side = (n - 1) * s - 2 * p + reach + e if turned else (n + 2 * p - reach) // s + 1
        if side < 1:
            raise RuntimeError(f"kernel of {reach} does not fit into a map of {n} with padding {p}")
        sides.append(side)
    out = weight.shape[1] * groups if turned else weight.shape[0]
    return torch.empty((x.shape[0], out, *sides), dtype=x.dtype, device=META)


def _norm_shape(args: Any, kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
    x = args[0]
    count = x.shape[1] if args[5] else 0
    small = torch.empty((count,), dtype=x.dtype, device=META)
    return torch.empty_like(x), small, torch.empty_like(small)


def _same_shape(args: Any, kwargs: Any) -> Tensor:
    return torch.empty_like(args[0])


def _itself(args: Any, kwargs: Any) -> Tensor:
    return args[0]  # type: ignore[no-any-return]


def _sum_shape(args: Any, kwargs: Any) -> Tensor:
    a, b = args[0], args[1]
    if isinstance(b, Tensor) and a.shape == b.shape and a.dtype == b.dtype:
        return torch.empty_like(a)
    return torch.ops.aten.add.Tensor(*args, **kwargs)  # type: ignore[no-any-return]


_aten = torch.ops.aten
# A mask that is sent to the device of the picture, and positions that are counted out there, keep their numbers.
_KEEPS_NUMBERS = frozenset((_aten._to_copy.default, _aten.arange.default, _aten.arange.start, _aten.arange.start_step))
_SHORTCUTS: dict[Any, Callable[[Any, Any], Any]] = {
    _aten.convolution.default: _conv_shape,
    _aten.native_batch_norm.default: _norm_shape,
    _aten.relu.default: _same_shape,
    _aten.relu_.default: _itself,
    _aten.add.Tensor: _sum_shape,
}
