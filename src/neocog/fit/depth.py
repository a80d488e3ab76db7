"""The layers of a net in the order in which they are used: where its last stages begin, and how some are kept still."""

from __future__ import annotations

import math
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from neocog import nets
from neocog.fit.features import Tapped
from neocog.nets.trunk import Headed
from neocog.tasks.experience import judging

_SHARE = 0.1  # the last stages hold at least this share of the trunk's weights


@dataclass(frozen=True)
class Used:
    """A module as the net uses it: `size` is the number of positions of its output, 0 for a vector (B, D)."""

    name: str
    module: nn.Module
    size: int

    @property
    def weights(self) -> int:
        """Numbers that are its own, not those of modules inside it."""
        return sum(p.numel() for p in self.module.parameters(recurse=False))


def heads_of(net: nn.Module) -> tuple[str, ...]:
    """Dotted names of the layers that name classes: the net's own and its auxiliary ones, and those of its trunk."""
    own = (str(net.head), *getattr(net, "aux_heads", ()))
    if isinstance(net, Headed):
        return own + tuple(f"trunk.net.{name}" for name in heads_of(net.trunk.net))
    return own + tuple(f"trunk.{name}" for name in heads_of(net.trunk)) if isinstance(net, Tapped) else own


def zoo_net(net: nn.Module) -> nn.Module:
    """The net of the zoo inside one that answers by its layers or maps."""
    if isinstance(net, Headed):
        return net.trunk.net
    return net.trunk if isinstance(net, Tapped) else net


def inside(name: str, layers: Sequence[str]) -> bool:
    """Whether a dotted name is one of `layers` or of something in them."""
    return any(name == layer or name.startswith(f"{layer}.") for layer in layers)


def in_order(net: nn.Module) -> list[Used]:
    """Modules that are leaves or hold parameters of their own, without heads, in the order in which they are used."""
    heads = heads_of(net)
    found: dict[str, Used] = {}
    handles = []
    for name, module in net.named_modules():
        own = next(module.parameters(recurse=False), None) is not None
        if name and not inside(name, heads) and (own or not list(module.children())):

            def note(module: nn.Module, _inputs: Any, output: Any, name: str = name) -> None:
                size = math.prod(output.shape[2:]) if isinstance(output, Tensor) and output.ndim > 2 else 0
                found.setdefault(name, Used(name, module, size))

            handles.append(module.register_forward_hook(note))
    try:
        with judging(net):
            net(nets.example(zoo_net(net), 1).to(next(net.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())


def units(used: Sequence[Used]) -> list[list[int]]:
    """The net's layers: indices into `used`, each beginning with a module that has filters or a matrix."""
    found: list[list[int]] = []
    for index, one in enumerate(used):
        if any(p.ndim > 1 for p in one.module.parameters(recurse=False)) or not found:
            found.append([])
        found[-1].append(index)
    return found


def last_stages(used: Sequence[Used]) -> int:
    """Return where the last stages begin: the index into `used` of their first module.

    They are the layers behind the last reduction of the map, and all fully connected ones. Where these are less than
    a tenth of the weights (a gate at the end, say), the stage before belongs to them; where all layers see one size
    (a net without maps), they are the second half.
    """
    weights = [one.weights for one in used]
    sizes = [one.size if one.weights else 0 for one in used]
    # the largest map from here on: gates and other vectors inside a stage do not end it
    rest = list(np.maximum.accumulate(sizes[::-1])[::-1]) if sizes else []
    for size in sorted({s for s in rest if s > 0}):
        first = rest.index(size)
        if first > 0 and any(weights[:first]) and sum(weights[first:]) >= _SHARE * sum(weights):
            return first
    starts = [group[0] for group in units(used)]
    return starts[len(starts) // 2] if starts else 0


def keep_still(net: nn.Module, used: Sequence[Used]) -> None:
    """Freeze modules: no gradients, and permanent eval mode, so that BN keeps its statistics and dropout is off.

    A module around them is put into eval mode, too, where all that the net uses of it is frozen.
    """
    still = {id(one.module) for one in used}
    seen = {id(one.module) for one in in_order(net)}
    for one in used:
        for p in one.module.parameters(recurse=False):
            p.requires_grad_(False)
    for module in net.modules():
        parts = {id(m) for m in module.modules()} & seen
        if parts and parts <= still:
            module.eval()
            module.train = types.MethodType(lambda self, mode=True: self, module)  # type: ignore[method-assign]


def count_parameters(net: nn.Module) -> int:
    """Numbers that are trained."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)
