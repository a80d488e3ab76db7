"""Put everything back that running a module may change: its attributes and what they hold, its mode, random states."""

from __future__ import annotations

import random
import sys
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .running import slots

_PLAIN = frozenset((type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device, torch.Size))
_COMMON = frozenset((dict, OrderedDict, list, set))


class Undo:
    """What the attributes of a module hold, and what these hold in turn, before it runs.

    Dicts, lists, sets and deques get their old content back, objects of the user's classes their old attributes,
    tensors their old numbers and generators their old state, however deep they lie. Modules in plain lists are
    followed, too. Not followed are globals and closures, attributes of classes, NumPy arrays, and objects of installed
    packages other than the module's own: a trainer or a logger that a module knows is not part of it.

    Args:
        module: what is going to run.
        values: it will run on its own parameters and buffers, so that their numbers may change as well.
    """

    def __init__(self, module: nn.Module, values: bool) -> None:
        self._seen: dict[int, Any] = {}  # id -> object, kept so that its id stays its own
        self._attributes: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._slots: list[tuple[Any, dict[str, Any]]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._numbers: list[tuple[Tensor, Tensor]] = []
        self._states: list[tuple[Any, Any]] = []
        modules = list(module.modules())
        self._theirs = {type(m).__module__.partition(".")[0] for m in modules} - {"torch"}
        self._files: dict[str, bool] = {}
        # these are swapped for shapes, or large: parameters are copied only when an operator writes to them
        self._skipped = {id(p) for m in modules for p in m._parameters.values()}
        self._parameters: dict[int, nn.Parameter] = {}
        if values:
            self._parameters = {p.untyped_storage()._cdata: p for p in module.parameters() if p.layout == torch.strided}
        else:
            self._skipped.update(id(b) for m in modules for b in m._buffers.values())
        waiting: list[Any] = [module]
        while waiting:
            for held in self._note(waiting.pop()):
                kind = type(held)
                if kind in _PLAIN or id(held) in self._skipped or id(held) in self._seen:
                    continue
                self._seen[id(held)] = held
                if kind in _COMMON and not held:  # the ten kinds of hooks that every module has room for
                    self._containers.append((held, ()))
                else:
                    waiting.append(held)

    def _note(self, value: Any) -> Iterable[Any]:
        """Note one object as it is; return what it holds."""
        if isinstance(value, Tensor):
            if value.device.type != "meta" and value.layout == torch.strided:
                self._numbers.append((value, value.detach().clone()))
        elif isinstance(value, dict):
            self._containers.append((value, dict(value)))
            return list(value.values())
        elif isinstance(value, list | set | deque):
            self._containers.append((value, list(value)))
            return list(value)
        elif isinstance(value, tuple | frozenset):
            return value
        elif isinstance(value, nn.Module):
            self._attributes.append((value.__dict__, dict(value.__dict__)))
            return list(value.__dict__.values())
        elif isinstance(value, torch.Generator):
            self._states.append((value.set_state, value.get_state()))
        elif isinstance(value, random.Random):
            self._states.append((value.setstate, value.getstate()))
        elif type(value).__module__.startswith("numpy.random"):
            source = getattr(value, "bit_generator", getattr(value, "_bit_generator", None))
            if source is not None:
                self._states.append((lambda state: setattr(source, "state", state), source.state))
        elif self._belongs(value):
            return self._note_object(value)
        return ()

    def _note_object(self, value: Any) -> list[Any]:
        held: list[Any] = []
        if isinstance(state := getattr(value, "__dict__", None), dict):
            self._attributes.append((state, dict(state)))
            held.extend(state.values())
        if names := slots(value):
            self._slots.append((value, {name: getattr(value, name) for name in names}))
            held.extend(self._slots[-1][1].values())
        return held

    def _belongs(self, value: Any) -> bool:
        """Whether an object is of a class of the user's, or of the package that the module comes from."""
        if isinstance(value, type) or (callable(value) and hasattr(value, "__code__")):
            return False
        name = type(value).__module__
        if name not in self._files:
            top = name.partition(".")[0]
            file = str(getattr(sys.modules.get(name), "__file__", ""))
            installed = "site-packages" in file or "dist-packages" in file
            self._files[name] = top in self._theirs or not (installed or top in sys.stdlib_module_names)
        return self._files[name] or type(value) is SimpleNamespace

    def writes_to(self, tensors: list[Tensor]) -> None:
        """An operator is about to change tensors: keep the numbers of the parameters among them."""
        for t in tensors:
            parameter = self._parameters.pop(t.untyped_storage()._cdata, None) if t.layout == torch.strided else None
            if parameter is not None:
                self._numbers.append((parameter, parameter.detach().clone()))

    def undo(self) -> None:
        """Put everything back."""
        for state, attributes in self._attributes:
            state.clear()
            state.update(attributes)
        for value, attributes in self._slots:
            for name in slots(value):
                object.__delattr__(value, name)
            for name, old in attributes.items():
                object.__setattr__(value, name, old)
        for container, content in self._containers:
            if container or content:
                container.clear()
                put = container.extend if isinstance(container, list | deque) else container.update
                put(content)
        with torch.no_grad():
            for tensor, numbers in self._numbers:
                if not torch.equal(tensor, numbers):  # a copy counts as a change, which a backward pass would refuse
                    tensor.copy_(numbers)
        for put_state, state in self._states:
            put_state(state)


@contextmanager
def as_it_was(module: nn.Module, values: bool = False, training: bool = False) -> Iterator[Undo]:
    """Put everything back that a computation of `module` may change, and the random states of the process.

    In between it is in evaluation mode, or in training mode. With `values` the numbers in parameters and buffers are
    put back, too; parameters only where `Undo.writes_to` is called before they change.
    """
    before = Undo(module, values)
    fast = torch.backends.mha.get_fastpath_enabled()
    numbers, python = torch.get_rng_state(), random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    numpy = sys.modules.get("numpy.random")
    arrays = None if numpy is None else numpy.get_state()
    torch.backends.mha.set_fastpath_enabled(False)  # it hides the layers of a transformer in one operator
    try:
        for m in module.modules():
            m.training = training
        yield before
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.set_rng_state(numbers)
        random.setstate(python)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if numpy is not None and arrays is not None:
            numpy.set_state(arrays)
        before.undo()
