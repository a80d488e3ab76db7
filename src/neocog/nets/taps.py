"""What modules inside a net put out while it runs; the net is not changed.

with tapped(net, ["layer3", "layer4"]) as found:
    logits = net(x)
found["layer4"]      # (B, 512, H / 32, W / 32)

Of a module that is called several times the last output is kept; "relu#1" names the first one, "<relu" what it reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from . import registry

LAST = ""  # the name of what the net's last layer reads


class _Enough(Exception):
    """Ends a pass when every module has put out what is wanted."""


class Outputs(dict[str, Any]):
    """By name, the last output of each module in a pass; `calls`: how often each was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()


@contextmanager
def tapped(
    net: nn.Module,
    names: Sequence[str],
    *,
    keep: Callable[[str, Any], Any] = lambda _name, value: value,
    enough: Mapping[str, int] | None = None,
    apart: bool = False,
) -> Iterator[Outputs]:
    """Catch the outputs of modules, by their dotted names; `LAST` is what the net's last layer reads.

    Args:
        keep: makes what is kept of an output, at once: what follows may write into it (ReLU in place).
        enough: after so many calls of each module the pass, and with it the block, ends; None: it runs to its end, as
            it does while a program is traced (torch.export), which no exception may leave.
        apart: what follows reads a copy, so that what is kept stays as it was, and gradients of it can be asked for.
    """
    found, traced = Outputs(), torch.compiler.is_compiling()
    times: Counter[str] = Counter()

    def take(name: str, value: Any) -> Any:
        _, _, number = name.partition("#")
        if number:
            times[name] += 1
            if times[name] != int(number):
                return None
        value = keep(name, value)
        found[name] = value.clone() if traced and isinstance(value, torch.Tensor) else value
        found.calls[name] += 1
        if found.calls == enough and not traced:
            raise _Enough
        return value.clone() if apart and isinstance(value, torch.Tensor) else None  # None: it goes on as it is

    def hook(name: str) -> Any:
        path = name.partition("#")[0]
        if name == LAST or path.startswith("<"):
            module = registry.head_of(net) if name == LAST else net.get_submodule(path[1:])

            def before(_module: nn.Module, inputs: tuple[Any, ...]) -> Any:
                made = take(name, inputs[0])
                return None if made is None else (made, *inputs[1:])

            return module.register_forward_pre_hook(before)
        module = net.get_submodule(path)
        return module.register_forward_hook(lambda _module, _inputs, output: take(name, output))

    handles = [hook(name) for name in names]
    try:
        yield found
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
