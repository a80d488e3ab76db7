"""What a trace finds: one `Layer` for each step of the computation, and `Totals` over some of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
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


def summed(layers: Sequence[Layer]) -> dict[str, Any]:
    """Figures of several layers together: those that add up, and what the last one makes."""
    adding = ("params", "macs", "others", "output_bytes", "saved_bytes")
    return {
        "layers": tuple(layer.index for layer in layers),
        **{name: sum(getattr(layer, name) for layer in layers) for name in adding},
        **{name: getattr(layers[-1], name) for name in ("output", "field", "field_unknown")},
    }


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
