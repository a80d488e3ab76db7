"""What the rules of advice look at: the layers of a trace, who reads whom, and what a replacement saves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from torch import nn

from .record import Layer, Shape
from .rewrite_plans import Conv, Cost, cost
from .whole import Anatomy


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing to improve. Savings are those of this change alone, for the input that was traced; negative: a cost."""

    rule: str  # key in RULES
    layers: tuple[str, ...]
    evidence: str  # with the figures of the trace
    change: str
    saves_params: int = 0
    saves_macs: int = 0
    saves_bytes: int = 0  # of weights, and of maps that are written
    rewrite: str = ""  # rule for rewrite(), with `layers`; "" if it must be done by hand


class View:
    """An anatomy, with what is asked of it again and again."""

    def __init__(self, anatomy: Anatomy, module: nn.Module | None = None) -> None:
        self.anatomy, self.module = anatomy, module
        self.layers = anatomy.layers
        # who made what a layer reads; Identity, Flatten and dropout compute nothing, so it is who made what they read
        self.sources: dict[int, tuple[int, ...]] = {}
        self.users: dict[int, list[int]] = {layer.index: [] for layer in self.layers}
        for layer in self.layers:
            self.sources[layer.index] = tuple(dict.fromkeys(map(self._maker, layer.sources)))
            for source in self.sources[layer.index]:
                if source in self.users and layer.operators:
                    self.users[source].append(layer.index)

    def _maker(self, index: int) -> int:
        while index >= 0 and not self.layers[index].operators and self.layers[index].sources:
            index = self.layers[index].sources[0]
        return index

    @cached_property
    def item(self) -> int:
        """Bytes of one number."""
        return max(self.anatomy.param_bytes // self.anatomy.params, 1) if self.anatomy.params else 4

    @cached_property
    def norm(self) -> bool:
        """True if the net has BN."""
        return any(is_norm(layer) for layer in self.layers)

    @cached_property
    def weighted(self) -> list[Layer]:
        """Layers with weights that are multiplied."""
        return [layer for layer in self.layers if layer.weights]

    @cached_property
    def convs(self) -> list[tuple[Layer, Conv]]:
        """Layers that are one convolution, not transposed."""
        found = ((layer, self._conv(layer)) for layer in self.weighted)
        return [(layer, conv) for layer, conv in found if conv is not None]

    def _conv(self, layer: Layer) -> Conv | None:
        s = layer.settings
        if not layer.parameters or (layer.frozen and layer.frozen == layer.params and self.anatomy.trainable):
            return None  # fixed filters
        if "groups" not in s or s.get("transposed") or layer.operators.count("aten.convolution") != 1:
            return None
        axes = len(s["kernel"])
        if len(layer.inputs[0]) != axes + 2 or len(layer.output) != axes + 2:
            return None
        conv = Conv(
            layer.inputs[0][1], layer.output[1], s["kernel"], s["stride"], s["padding"], s["dilation"], s["groups"],
            s.get("bias", any(p.endswith("bias") for p in layer.parameters)), layer.inputs[0][2:],
        )  # fmt: skip
        return conv if conv.weights == layer.weights and conv.out == layer.output[2:] else None

    def flattened(self, layer: Layer) -> Layer | None:
        """The layer whose map of several positions this linear layer reads as one vector; None if it is no such one."""
        made = self.sources[layer.index]
        if not layer.weights or not layer.inputs or len(layer.inputs[0]) != 2 or not made or made[0] < 0:
            return None
        source = self.layers[made[0]]
        same = prod(source.output) == prod(layer.inputs[0])
        return source if same and len(source.output) > 2 and positions(source.output) > 1 else None

    def behind(self, layer: Layer) -> Iterator[Layer]:
        """All layers that depend on this one, in the order of the computation."""
        reached = {layer.index}
        for other in self.layers[layer.index + 1 :]:
            if reached & set(self.sources[other.index]):
                reached.add(other.index)
                yield other

    @cached_property
    def last(self) -> set[int]:
        """Indices of the layers with weights behind which no other has weights: their outputs are the answers."""
        feeding: set[int] = set()
        for layer in reversed(self.layers):
            if layer.weights or layer.index in feeding:
                feeding.update(self.sources[layer.index])
        return {layer.index for layer in self.weighted} - feeding

    def saved(self, layers: Iterable[Layer], new: Cost) -> tuple[int, int, int]:
        """Parameters, multiply-adds and bytes saved where `new` (for one example) stands for the layers."""
        old = list(layers)
        batch = self.anatomy.batch
        params = sum(layer.params for layer in old) - new.params
        macs = sum(layer.macs for layer in old) - batch * new.macs
        numbers = sum(prod(layer.output) for layer in old if layer.output_bytes) - batch * new.numbers
        return params, macs, self.item * (params + numbers)

    def replaced(
        self, chosen: Sequence[tuple[Layer, Conv]], plan: Callable[[Conv], list[Conv]]
    ) -> tuple[tuple[str, ...], tuple[int, int, int]]:
        """Names of the layers, and what is saved when each becomes what `plan` says; a second call costs MACs only."""
        total = [0, 0, 0]
        for layer, conv in chosen:
            new = cost(plan(conv))
            if not layer.params:  # weights that an earlier layer has counted
                new = Cost(0, new.macs, new.numbers)
            total = [a + b for a, b in zip(total, self.saved([layer], new), strict=True)]
        return names(layer for layer, _ in chosen), (total[0], total[1], total[2])

    def cheaper(self, layer: Layer, plan: list[Conv]) -> bool:
        """True if a plan saves parameters or multiply-adds, and costs more of neither."""
        saved = self.replaced([(layer, plan[0])], lambda _: plan)[1][:2] if plan else (0, 0)
        return min(saved) >= 0 and max(saved) > 0

    def score(self, item: Advice) -> float:
        """How large the saving is: shares of all parameters and of all multiply-adds, added."""
        return item.saves_params / max(self.anatomy.params, 1) + item.saves_macs / max(self.anatomy.macs, 1)


def names(layers: Iterable[Layer]) -> tuple[str, ...]:
    """Names, each once."""
    return tuple(dict.fromkeys(layer.name for layer in layers))


def positions(shape: Shape) -> int:
    """Positions of a map (B, C, ...)."""
    return prod(shape[2:])


def is_norm(layer: Layer) -> bool:
    return any("batch_norm" in operator for operator in layer.operators)


def percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "0 %"


def some(items: Sequence[str], most: int = 4) -> str:
    """The first few, and how many more."""
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
