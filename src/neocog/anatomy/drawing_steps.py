"""What is drawn: layers as steps with a volume, a kind and a label.

Layers that only change values (normalisation, activation, dropout, padding) join the step that they follow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from .record import Layer, Shape

if TYPE_CHECKING:
    from .whole import Anatomy

INPUT, CONV, UP, POOL, FULL, SUM, PRODUCT, CONCAT, OTHER = (
    "input", "convolution", "enlarging", "pooling", "fully connected", "sum", "product", "concatenation", "other",
)  # fmt: skip
TO, FROM = "to", "from"  # the two ends of a connection that is written, not drawn
START = "start"  # before several inputs; not drawn

_LAST = ("Linear", "LayerNorm", "Embedding", "linear", "layer_norm", "embedding", "matmul", "softmax")
_SHAPING = frozenset(("constant_pad_nd", "slice", "reflection_pad2d", "replication_pad2d", "index", "narrow"))
_VIEWS = frozenset("view _unsafe_view reshape t transpose permute expand squeeze unsqueeze clone".split())
_WORD = 12  # letters of a line under an arrow


@dataclass(frozen=True, slots=True)
class Volume:
    """A map: channels, height and width (1 where there is none), and the whole extent of its positions."""

    channels: int
    height: int = 1
    width: int = 1
    extent: Shape = ()

    @property
    def upright(self) -> bool:
        """True for what has one position: drawn as a bar."""
        return self.height == self.width == 1

    @property
    def size(self) -> str:
        """The extent, such as "56×56"; "" for a single position."""
        return "" if prod(self.extent) <= 1 else "×".join(map(str, self.extent))


@dataclass(slots=True, eq=False)
class Step:
    """One thing that is drawn, with all layers that belong to it."""

    number: int
    kind: str
    volume: Volume
    label: tuple[str, ...] = ()  # lines under the arrow that leads here
    layers: list[Layer] = field(default_factory=list)
    parts: tuple[int, ...] = ()  # channels that a concatenation joins
    last: bool = False  # channels are the last dimension
    new_size: bool = True  # the map is not as large as the one before: its size is written

    @property
    def path(self) -> str:
        """Path of the module that contains the layer."""
        if not self.layers:
            return ""
        first = self.layers[0]
        return first.module if first.functional else first.name.rpartition(".")[0]


def steps_of(anatomy: Anatomy) -> tuple[dict[int, Step], dict[int, list[int]]]:
    """Steps by number, and the steps that each one reads. Inputs come first: -1, or from -1 downwards if several."""
    readers: dict[int, Layer] = {}
    for layer in anatomy.layers:
        for k in _read_by(layer):
            readers.setdefault(k, layer)
    used = sorted(k for k in readers if k < len(anatomy.inputs)) or [0]
    steps: dict[int, Step] = {}
    for k in used:
        # the first layer takes the last dimension of its input for the channels
        last = k in readers and any(word in readers[k].kind for word in _LAST)
        name = "input" if len(used) == 1 else f"input {k + 1}"
        shape = anatomy.inputs[k] if anatomy.inputs else ()
        steps[-1 - k] = Step(-1 - k, INPUT, _volume(shape, last), (name,), last=last)
    if len(used) == 1 and used != [0]:
        steps = {-1: next(iter(steps.values()))}
    before: dict[int, list[int]] = {number: [] for number in steps}
    of = {-1 - k: -1 if len(used) == 1 else -1 - k for k in used}
    joined: dict[int, list[int]] = {}  # what each concatenation joins
    for layer in anatomy.layers:
        made_by = [s for s in layer.sources if s >= 0] + [-1 - k for k in _read_by(layer)]
        sources = list(dict.fromkeys(of[s] for s in sorted(made_by, key=lambda s: (s >= 0, abs(s))) if s in of))
        if not sources:
            continue  # made of parameters alone
        kind = _kind(layer, len(sources))
        if kind is None:
            of[layer.index] = sources[0]
            steps[sources[0]].layers.append(layer)
            continue
        earlier = [steps[s] for s in sources]
        shape, last = _laid_out(layer, earlier, anatomy.batch)
        step = Step(layer.index, kind, _volume(shape, last), _label(layer, kind), [layer], last=last)
        if kind == CONCAT:
            parts = tuple(s.volume.channels for s in earlier)
            step.parts = parts if sum(parts) == step.volume.channels else ()  # else it joins positions
            joined[layer.index] = sources
            sources = _nested(sources, joined)
        of[layer.index] = layer.index
        steps[layer.index] = step
        before[layer.index] = sources
    return steps, before


def _read_by(layer: Layer) -> tuple[int, ...]:
    """Numbers of the inputs that a layer reads."""
    return layer.reads or ((0,) if -1 in layer.sources else ())


def _nested(sources: list[int], joined: dict[int, list[int]]) -> list[int]:
    """Sources of a concatenation, where those that an earlier one has joined are replaced by its result."""
    inner = [n for n, parts in joined.items() if 1 < len(parts) < len(sources) and set(parts) <= set(sources)]
    if not inner:
        return sources
    best = max(inner, key=lambda n: len(joined[n]))
    return [best, *(s for s in sources if s not in joined[best])]


def _laid_out(layer: Layer, earlier: Sequence[Step], batch: int) -> tuple[Shape, bool]:
    """Shape of what a layer makes, with the batch, and whether channels are its last dimension.

    Views are no layers, so the dimension that has as many numbers as there were channels before is taken for them.
    """
    shape, before = layer.output, earlier[0]
    if "kernel" in layer.settings or any("pool" in op or "batch_norm" in op for op in layer.operators):
        return shape, False
    if layer.kind == "attention" and len(shape) == 4:  # (B, heads, N, D): the heads are joined again
        return (shape[0], shape[2], shape[1] * shape[3]), True
    extent = before.volume.extent
    if len(shape) == 2:  # a linear layer on all positions of a batch
        spread = before.last and layer.weights and shape[0] == batch * prod(extent) > batch
        return ((batch, *extent, shape[1]) if spread else shape), bool(spread)
    if any(word in layer.kind for word in _LAST):
        return shape, len(shape) > 2
    given = layer.inputs[0] if layer.inputs else ()
    first, last = (len(given) > 2 and given[axis] == before.volume.channels for axis in (1, -1))
    return shape, before.last if first == last else last


def _volume(shape: Shape, last: bool) -> Volume:
    inner = shape[1:]
    if not inner:
        return Volume(1)
    channels, extent = (inner[-1], inner[:-1]) if last else (inner[0], inner[1:])
    sides = extent[-2:]
    return Volume(channels, sides[0] if sides else 1, sides[1] if len(sides) > 1 else 1, extent)


def _kind(layer: Layer, sources: int) -> str | None:
    """What a layer is drawn as; None if it only changes values of the step before."""
    names = {op.rpartition(".")[2].rstrip("_") for op in layer.operators}
    word = layer.kind.lower()
    if layer.macs and "kernel" in layer.settings:
        return UP if layer.settings.get("transposed") else CONV
    if layer.macs:
        simple = names - _VIEWS <= {"addmm", "mm", "linear", "bmm", "matmul", "add", "baddbmm"}
        return FULL if layer.params + layer.shared and simple else OTHER
    if any(part in name for name in names for part in ("unpool", "upsample", "pixel_shuffle")):
        return UP
    if any("pool" in name for name in names) or "pool" in word:
        # local response normalisation sums with a pooling operator; adaptive pooling may find nothing to do
        same = layer.inputs[:1] == layer.outputs[:1]
        return None if same and ("pool" not in word or "kernel" not in layer.settings) else POOL
    if names & {"cat", "stack"} and (sources > 1 or (names <= {"cat", "stack"} and layer.inputs[:1] != layer.outputs)):
        return CONCAT
    if sources > 1 and names & {"mul", "div"}:
        return PRODUCT
    if sources > 1:
        return SUM if names & {"add", "sub", "maximum", "minimum"} else OTHER
    if layer.inputs[:1] == layer.outputs[:1] or not layer.outputs or names <= _SHAPING:
        return None
    if names & {"mean", "sum", "amax"} and len(layer.inputs[0]) > 2:
        return POOL
    return OTHER if prod(layer.inputs[0]) != prod(layer.output) or layer.params else None


def _label(layer: Layer, kind: str) -> tuple[str, ...]:
    """Lines such as ("3×3", "/2", "g32"): kernel, stride, dilation, groups."""
    word = layer.kind.lower()
    kernel, stride = layer.settings.get("kernel", ()), layer.settings.get("stride", ())
    lines: list[str] = []
    if kind == POOL:
        name = next((n for n in ("max", "avg", "l2", "mean") if n in word), "pool")
        lines.append("mean" if name == "avg" else name)
    if kernel:
        lines.append("×".join(map(str, kernel)) if len(kernel) < 3 else _cube(kernel))
    if any(s != 1 for s in stride):
        text = str(stride[0]) if len(set(stride)) == 1 else "×".join(map(str, stride))
        lines.append(f"×{text}" if kind == UP else f"/{text}")
    if kind in (CONV, UP) and kernel:
        dilation, groups = layer.settings.get("dilation", ()), layer.settings.get("groups", 1)
        if any(d != 1 for d in dilation):
            lines.append(f"dil {max(dilation)}")
        if groups > 1:
            channels = layer.inputs[0][1] if layer.inputs and len(layer.inputs[0]) > 1 else 0
            lines.append("dw" if groups == channels else f"g {groups}")
        lines[1:] = [" ".join(lines[1:])] if lines[1:] else []
    elif kind == UP:
        lines.append("unpool" if "unpool" in word else "resize")
    elif kind == OTHER:
        words = re.findall(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+", layer.kind) or [layer.kind]
        lines += [word if len(word) <= _WORD else word[: _WORD - 1] + "…" for word in words[:3]]
    return tuple(lines)


def _cube(kernel: Sequence[int]) -> str:
    return f"{kernel[0]}³" if len(set(kernel)) == 1 else "×".join(map(str, kernel))
