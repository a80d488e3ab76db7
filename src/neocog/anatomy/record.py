"""What a trace finds: one `Layer` for each step of the computation, and the `Anatomy` of the whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any

Shape = tuple[int, ...]
Number = int | Fraction


@dataclass(frozen=True, slots=True)
class Field:
    """The receptive field of a layer, one entry per spatial axis (H, W of a picture), in pixels of the input.

    A unit at position x of the map sees the pixels from ``x * stride - padding`` to ``x * stride - padding + size - 1``
    (Araujo, Norris, Sim 2019, doi 10.23915/distill.00021). Behind branches it is the union over all paths; `aligned` is
    False when the centres of the paths differ, or they have different strides. `whole` is True where some path (a
    squeeze-and-excitation gate, attention) also sees the whole picture. Where positions differ (behind a transposed
    convolution, an interpolation, attention in windows) the size is that of the output position that sees most, and the
    padding puts the centre where it is on average over the positions. `at_least` is True where some path moves
    positions in a way that cannot be followed: there the field is that of the other paths.
    """

    size: tuple[int, ...]
    stride: tuple[Number, ...]
    padding: tuple[Number, ...]
    aligned: bool = True
    whole: bool = False
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """One step: a call of a module that contains no other, or one operator that a containing module calls itself."""

    index: int
    name: str  # dotted path of the module; "" is the root. Operators of a containing module: "layer1.0:add"
    module: str  # dotted path of the module whose code runs: "layer1.0" for "layer1.0:add"
    kind: str  # class of the module ("Conv2d"), or name of the operator ("add")
    inputs: tuple[Shape, ...]  # shapes of the activations that it reads, with the batch
    outputs: tuple[Shape, ...]  # shapes of what it makes, with the batch
    sources: tuple[int, ...]  # indices of the layers that made its inputs; -1 is the input of the net
    operators: tuple[str, ...]  # "aten.convolution", ...
    settings: dict[str, Any] = dataclasses.field(
        default_factory=dict
    )  # kernel, stride, padding, dilation, groups, transposed
    parameters: tuple[str, ...] = ()  # names of the parameters that it reads, also those counted elsewhere
    params: int = 0  # numbers in its parameters; shared ones count where they are used first
    frozen: int = 0  # of these, how many do not require a gradient
    shared: int = 0  # numbers that it reads, but that an earlier layer has counted
    weights: int = 0  # numbers of weights that enter a multiply-add (no biases); 0 where macs is 0
    macs: int = 0  # multiply-adds of convolutions and matrix products, for the whole batch
    others: int = 0  # other arithmetic operations: pooling, normalisation, activations, sums
    output_bytes: int = 0  # new memory that it fills (views and in-place operators fill none)
    saved_bytes: int = 0  # what training keeps of it for the backward pass (tensors that several keep count once)
    field: Field | None = None  # None where the output does not come from a picture, or `field_unknown`
    field_unknown: bool = False  # the output comes from the picture, but which pixels a position sees is not known
    reads: tuple[int, ...] = ()  # which inputs of the net it reads itself, where `sources` has -1

    @property
    def output(self) -> Shape:
        """Shape of the first output, with the batch; () if there is none."""
        return self.outputs[0] if self.outputs else ()

    @property
    def flops(self) -> int:
        """2 x MACs, as in the totals; `others` are not in it."""
        return 2 * self.macs

    @property
    def connections(self) -> int:
        """Output positions times weights (LeCun et al. 1998 without biases): the same as its multiply-adds."""
        return self.macs

    @property
    def functional(self) -> bool:
        """True for an operator that a containing module calls itself (a sum, a concatenation, attention)."""
        return ":" in self.name


@dataclass(frozen=True, slots=True)
class Totals:
    """Figures of a module and all that it contains."""

    name: str
    kind: str
    depth: int  # 0 for the root
    layers: tuple[int, ...]  # indices, in the order of the computation
    params: int
    macs: int
    others: int
    output_bytes: int
    saved_bytes: int
    output: Shape
    field: Field | None
    field_unknown: bool


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
        raise KeyError(f"no layer {name!r}; there are {', '.join(x.name for x in self.layers[:8])} ...")

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
                found.append(_totals(name, self.modules.get(name, ""), depth, layers))
        return found

    def as_dict(self) -> dict[str, Any]:
        """Everything, JSON-able; fractions become floats."""
        from .output import as_dict

        return as_dict(self)

    def _repr_html_(self) -> str:
        from .output import to_html

        return to_html(self, page=False)

    def __str__(self) -> str:
        from .output import to_text

        return to_text(self)


def _totals(name: str, kind: str, depth: int, layers: Iterable[Layer]) -> Totals:
    layers = list(layers)
    last = layers[-1]
    return Totals(
        name=name,
        kind=kind,
        depth=depth,
        layers=tuple(layer.index for layer in layers),
        params=sum(layer.params for layer in layers),
        macs=sum(layer.macs for layer in layers),
        others=sum(layer.others for layer in layers),
        output_bytes=sum(layer.output_bytes for layer in layers),
        saved_bytes=sum(layer.saved_bytes for layer in layers),
        output=last.output,
        field=last.field,
        field_unknown=last.field_unknown,
    )
