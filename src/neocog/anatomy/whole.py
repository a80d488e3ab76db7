"""What a network is made of, as a whole: the steps that a trace found, their sums, and how they are written down."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from . import output
from .record import Field, Layer, Shape, Totals, summed


@dataclass(frozen=True)
class Anatomy:
    """What a network is made of; made by `neocog.anatomy.trace`."""

    name: str
    inputs: tuple[Shape, ...]  # with the batch
    outputs: tuple[Shape, ...]
    layers: tuple[Layer, ...]
    modules: dict[str, str]  # dotted path -> class, every module that ran, in the order of definition; "" is the root
    params: int  # numbers in all parameters, also those that the computation never reads
    trainable: int
    buffers: int
    unused: tuple[str, ...]  # parameters that the computation never reads
    param_bytes: int
    peak_bytes: int  # most memory that activations take at one time, in evaluation
    training_bytes: int | None  # activations kept for the backward pass; None if it could not be found
    uncounted: dict[str, int]  # operators with arithmetic that there is no formula for -> how often they ran
    notes: tuple[str, ...] = ()  # what a reader should know: how it was traced, what was left out

    @property
    def batch(self) -> int:
        """Examples in the traced input (its first dimension)."""
        return self.inputs[0][0] if self.inputs and self.inputs[0] else 1

    @property
    def frozen(self) -> int:
        """Numbers in parameters that do not require a gradient."""
        return self.params - self.trainable

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and matrix products, whole batch."""
        return sum(layer.macs for layer in self.layers)

    @property
    def others(self) -> int:
        """Other arithmetic operations, whole batch."""
        return sum(layer.others for layer in self.layers)

    @property
    def flops(self) -> int:
        """2 x MACs: what most papers call FLOPs when they do not mean MACs. `others` are not in it."""
        return 2 * self.macs

    @property
    def output_bytes(self) -> int:
        """Sum of all maps that are written, in evaluation; `peak_bytes` is what must be there at one time."""
        return sum(layer.output_bytes for layer in self.layers)

    @property
    def receptive_field(self) -> Field | None:
        """That of the last layer with several positions, before they are summed up; None if it is not known."""
        last = self.last_map
        return None if last is None else last.field

    @property
    def field_lost_at(self) -> Layer | None:
        """The first layer whose receptive field is unknown or only a lower bound; None where all are known."""
        return next((x for x in self.layers if x.field_unknown or (x.field and x.field.at_least)), None)

    @property
    def last_map(self) -> Layer | None:
        """The last layer with several positions that come from the picture."""
        spatial = [x for x in self.layers if (x.field is not None or x.field_unknown) and len(x.output) >= 3]
        several = [x for x in spatial if prod(x.output[2:]) > 1]
        return (several or spatial)[-1] if spatial else None

    def layer(self, name: str) -> Layer:
        """Return the first layer called `name`. Raises: KeyError if there is none."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"no layer {name!r}; it has {', '.join(x.name for x in self.layers[:8])} ...")

    def totals(self, most_depth: int | None = None) -> list[Totals]:
        """Figures of every module that ran, root first, each before what it contains."""
        order: dict[str, list[Layer]] = {name: [] for name in self.modules}
        for layer in self.layers:
            path = layer.module
            while True:
                order.setdefault(path, []).append(layer)
                if not path:
                    break
                path = path.rpartition(".")[0]
        found = []
        for name, layers in order.items():
            depth = name.count(".") + 1 if name else 0
            if layers and (most_depth is None or depth <= most_depth):
                found.append(Totals(name, self.modules.get(name, ""), depth, **summed(layers)))
        return found

    def as_dict(self) -> dict[str, Any]:
        """Everything, JSON-able; fractions become floats."""
        return output.as_dict(self)

    def _repr_html_(self) -> str:
        return output.to_html(self, page=False)

    def __str__(self) -> str:
        return output.to_text(self)
