"""One contract for the zoo: any net as a trunk that gives maps by stride and a vector, for heads that are not its own.

    trunk = Trunk(build("resnet18"))
    trunk.maps(x)[8]     # (B, 128, H / 8, W / 8): the last map of that stride before the next reduction
    trunk.vector(x)      # (B, 512)
    net = Headed(trunk, head)

Maps are found by running the net once: of all modules, in the order in which they answer, the last one at each
stride. So every net that has maps can carry every head; nothing is written for a family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import NetError
from . import registry
from .taps import tapped

STRIDES = (1, 2, 4, 8, 16, 32)


class Trunk(nn.Module):
    """A net of the zoo, read by its maps.

    Args:
        levels: stride -> dotted name of the module whose output is the map; None finds them.

    Attributes:
        levels: as above. channels: stride -> number of channels. width: numbers in `vector`.
    """

    def __init__(self, net: nn.Module, levels: Mapping[int, str] | None = None) -> None:
        super().__init__()
        self.net = net
        found, later = _find(net)
        self.levels = {stride: name for stride, (name, _) in found.items()}
        if levels is not None:
            self.levels = {int(stride): name for stride, name in levels.items()}
        self.channels = {stride: found[stride][1] for stride in self.levels if stride in found}
        if not self.levels:
            raise NetError(
                f"{getattr(net, 'spec', {}).get('name', type(net).__name__)} has no maps that a head could read; "
                "expected a convolutional net for pictures, such as resnet18"
            )
        self.spec: Any = getattr(net, "spec", None)
        for name in later:  # what comes after the last map has no part in any answer
            for p in net.get_submodule(name).parameters(recurse=False):
                p.requires_grad_(False)

    @property
    def width(self) -> int:
        """Numbers in `vector`."""
        head = registry.head_of(self.net)
        return int(getattr(head, "in_features", 0) or getattr(head, "in_channels", 0))

    def maps(self, x: Tensor) -> dict[int, Tensor]:
        """Maps of pictures (B, C, H, W) by stride, each (B, channels[stride], about H / stride, about W / stride)."""
        names = list(self.levels.values())
        # it ends at the deepest map, which is the last; each module is called once (see _find)
        with tapped(self.net, names, enough=dict.fromkeys(names, 1)) as found:
            self.net(x)
        return {stride: found[name] for stride, name in sorted(self.levels.items())}

    def widths(self) -> list[int]:
        """Channels after each halving, the largest map first; a stride without a map has those of the next one."""
        deepest = max(self.channels)
        strides = [2**k for k in range(1, deepest.bit_length())]
        return [self.channels[min(s for s in self.channels if s >= stride)] for stride in strides]

    def vector(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, width): what the net's own last layer reads."""
        return self.net.forward_features(x)  # type: ignore[operator, no-any-return]


class Headed(nn.Module):
    """A trunk and the head of a task: ``forward(x)`` gives the head what it reads.

    The head's ``forward(maps, x, **more)``: maps by stride, the pictures, and what a task hands over in training.
    """

    head = "answer"

    def __init__(self, trunk: Trunk, answer: nn.Module) -> None:
        super().__init__()
        self.trunk, self.answer = trunk, answer
        self.spec = trunk.spec

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D): means of the deepest maps, or what the head's own ``features(maps)`` gives."""
        maps = self.trunk.maps(x)
        read = getattr(self.answer, "features", None)
        made: Tensor = maps[max(maps)].flatten(2).mean(2) if read is None else read(maps)
        return made

    def forward(self, x: Tensor, **more: Any) -> Any:
        """(B, C, H, W) -> what the head makes of the maps. `x` (B, D) are features of pictures: no trunk is run."""
        return self.answer({} if x.ndim == 2 else self.trunk.maps(x), x, **more)


def levels_of(net: nn.Module) -> dict[int, str]:
    """Stride -> dotted name of the module that gives the net's last map of that stride."""
    return {stride: name for stride, (name, _) in _find(net)[0].items()}


def _find(net: nn.Module) -> tuple[dict[int, tuple[str, int]], list[str]]:
    """Stride -> name and channels of the last module that gives such a map; and the modules used after them."""
    heads = (str(getattr(net, "head", "")), *getattr(net, "aux_heads", ()))
    seen: list[tuple[str, tuple[int, ...]]] = []
    calls: dict[str, int] = {}
    order: list[str] = []
    handles = []
    for name, module in net.named_modules():
        if not name or ".parametrizations." in name:  # those put out weights
            continue

        def note(_module: nn.Module, _inputs: Any, output: Any, name: str = name) -> None:
            order.append(name)
            calls[name] = calls.get(name, 0) + 1
            of_head = any(name == head or name.startswith(f"{head}.") for head in heads if head)
            if isinstance(output, Tensor) and output.ndim == 4 and not of_head:
                seen.append((name, tuple(output.shape)))

        handles.append(module.register_forward_hook(note))
    mode = net.training
    net.eval()
    try:
        where = next(net.parameters())
        with torch.no_grad():
            x = registry.example(net, 1).to(where.device)
            net(x)
    finally:
        net.train(mode)
        for handle in handles:
            handle.remove()
    height = x.shape[-2]
    found: dict[int, tuple[str, int]] = {}
    deepest = 0
    for name, shape in seen:
        if calls[name] > 1 or shape[2] < 2 or shape[3] < 2:  # used again, or a vector: no map of one place
            continue
        stride = min(STRIDES, key=lambda s: abs(height / s - shape[2]))
        if abs(height / stride - shape[2]) > 0.34 * height / stride or stride < deepest:
            continue  # no usual stride, or a map that was made larger again (a decoder)
        deepest = max(deepest, stride)
        found[stride] = (name, shape[1])
    if not found:
        return found, []
    last = order.index(found[max(found)][0])
    return found, [name for name in dict.fromkeys(order[last + 1 :]) if name not in order[: last + 1]]
