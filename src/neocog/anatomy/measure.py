"""What only real numbers show (the effective receptive field, the time of each layer), and what a size spoils."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import NetError
from .output import shape_text
from .record import Field, Layer, Shape
from .running import arguments, unwrapped, watching, with_numbers
from .trace import trace
from .undo import as_it_was
from .whole import Anatomy


@dataclass(frozen=True, slots=True)
class EffectiveField:
    """Where a unit really looks: mean size of the gradient of the middle unit of `layer` for each pixel."""

    layer: str
    theoretical: tuple[int, ...]  # receptive field of the layer, in pixels; the picture, where it is not known
    heat: Tensor  # (H, W), largest value 1
    size: float  # side in pixels of a square with as many pixels as lie above 4.55 % of the largest
    share: float  # part of the theoretical field (inside the picture) that these pixels cover


def effective_receptive_field(
    module: nn.Module, shape: Shape, layer: str | None = None, *, samples: int = 8, seed: int = 0
) -> EffectiveField:
    """Measure the effective receptive field of Luo, Li, Urtasun, Zemel 2016 (arXiv:1701.04128, section 3).

    The gradient of the middle unit of a layer's map (all channels together) is taken to `samples` pictures of normal
    noise, and its size averaged over pictures and channels; pixels above 1 - 95.45 % of the largest value count.

    Args:
        module: the net, with the weights that it has; it is left as it was.
        shape: of one picture, (C, H, W).
        layer: dotted name of a module; default: the last one with several positions.

    Raises: NetError if the layer does not exist or has no map.
    """
    module = unwrapped(module)
    anatomy = trace(module, shape, training_memory=False)
    if layer is None:
        spatial = [x for x in anatomy.layers if x.field and len(x.output) == 4 and prod(x.output[2:]) > 1]
        if not spatial:
            raise NetError(f"{anatomy.name} has no layer with a map; give a module's name with layer=...")
        layer = [x for x in spatial if not x.functional][-1].name
    known = {name: child for name, child in module.named_modules() if name}
    if layer not in known:
        raise NetError(f"no module {layer!r}; the net has {', '.join(list(known)[:8])} ...")
    field = next((x.field for x in reversed(anatomy.layers) if f"{x.module}.".startswith(f"{layer}.")), None)
    parameter = next(module.parameters(), torch.empty(()))
    maps: list[Tensor] = []
    generator = torch.Generator().manual_seed(seed)
    with ExitStack() as stack:
        stack.enter_context(as_it_was(module, values=True))
        hook = known[layer].register_forward_hook(lambda _, __, out: maps.append(out))
        stack.callback(hook.remove)
        stack.enter_context(torch.enable_grad())
        x = torch.randn(samples, *shape, generator=generator).to(parameter.device, parameter.dtype)
        x.requires_grad_()
        module(x)
        out = maps[0]
        if not isinstance(out, Tensor) or out.dim() != 4:
            raise NetError(f"{layer!r} does not output a map (B, C, H, W); choose a convolution")
        middle = out[:, :, out.shape[2] // 2, out.shape[3] // 2]
        # random signs, so that channels do not cancel each other
        signs = torch.randint(0, 2, middle.shape, generator=generator).to(middle) * 2 - 1
        (gradient,) = torch.autograd.grad((middle * signs).sum(), x)
    heat = gradient.float().abs().mean((0, 1)).cpu()
    heat = heat / heat.max().clamp(min=1e-30)
    above = int((heat > 1 - 0.9545).sum())
    followed = field is not None and not field.whole and not field.at_least
    theoretical = field.size if field is not None and followed else tuple(shape[1:])
    seen = prod(min(r, n) for r, n in zip(theoretical, shape[1:], strict=True))
    return EffectiveField(layer, theoretical, heat, above**0.5, above / seen)


@dataclass(frozen=True, slots=True)
class Timing:
    """Time of one layer: median over the repetitions, in seconds."""

    name: str
    kind: str
    seconds: float
    share: float  # of the sum over all layers


def time_layers(module: nn.Module, input: Any, *, repeats: int = 5, warmup: int = 2) -> list[Timing]:
    """Run the module for real, where its parameters are, and take the time of every module that contains no other.

    `input` as for `trace`; shapes become normal noise. On a GPU every layer is waited for, so the sum is more than the
    net takes when it runs freely. Operators that a containing module calls itself are not in any layer's time.
    """
    module = unwrapped(module)
    device = next(module.parameters(), torch.empty(())).device
    args, kwargs = pytree.tree_map_only(Tensor, lambda t: with_numbers(t).to(device), arguments(input, module))
    taken: dict[str, list[float]] = {}
    kinds = {path: type(m).__name__ for path, m in module.named_modules() if not any(True for _ in m.children())}
    started: list[float] = []

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def entered(m: nn.Module, path: str, _: Any) -> None:
        if path in kinds:
            started.append(now())

    def left(m: nn.Module, path: str, _: Any, out: Any) -> None:
        if path in kinds:
            run[path] = run.get(path, 0.0) + now() - started.pop()

    with ExitStack() as stack:
        stack.enter_context(as_it_was(module, values=True))
        stack.enter_context(torch.no_grad())
        stack.enter_context(watching(module, entered, left))
        for repeat in range(warmup + repeats):
            run: dict[str, float] = {}
            module(*args, **kwargs)
            if repeat >= warmup:
                for path, seconds in run.items():
                    taken.setdefault(path, []).append(seconds)
    medians = {path: statistics.median(values) for path, values in taken.items()}
    total = sum(medians.values()) or 1.0
    return [Timing(path, kinds[path], seconds, seconds / total) for path, seconds in medians.items()]


def intensity(layer: Layer, anatomy: Anatomy) -> float:
    """Arithmetic intensity of a layer: operations for each byte of its inputs, weights and outputs that moves."""
    width = anatomy.param_bytes / anatomy.params if anatomy.params else 4.0
    numbers = sum(prod(s) for s in layer.inputs) + sum(prod(s) for s in layer.outputs) + layer.params + layer.shared
    return (layer.flops + layer.others) / (numbers * width) if numbers else 0.0


@dataclass(frozen=True, slots=True)
class Misfit:
    """Something that the size of the input spoils, from `layer` on."""

    kind: str  # "cropped", "beyond", "one-pixel"
    layer: str
    text: str


def misfits(anatomy: Anatomy) -> list[Misfit]:
    """Say what is useless or lost at the size that was traced.

    - "cropped": a convolution or pooling whose windows do not reach the last rows or columns;
    - "one-pixel": a k x k filter on a map of one pixel, where only its middle weight meets a number;
    - "beyond": a receptive field larger than the picture: from there on a unit sees all of it and padding.
    """
    return list(_misfits(anatomy))


def _misfits(anatomy: Anatomy) -> Iterator[Misfit]:
    picture = next((s[2:] for s in anatomy.inputs if len(s) >= 3), ())
    beyond: list[tuple[str, Field]] = []
    for layer in anatomy.layers:
        kernel, name = layer.settings.get("kernel"), layer.name
        if not kernel or not layer.inputs or layer.settings.get("transposed"):
            continue
        sides, windows = layer.inputs[0][-len(kernel) :], shape_text(kernel, "x")
        stride, padding = layer.settings["stride"], layer.settings["padding"]
        dilation = layer.settings.get("dilation", (1,) * len(kernel))
        lost = [
            max(0, (n + 2 * p - d * (k - 1) - 1) % s - p) if _floored(n, d * (k - 1) + 1, s, p, o) else 0
            for n, k, d, s, p, o in zip(
                sides, kernel, dilation, stride, padding, layer.output[-len(kernel) :], strict=True
            )
        ]
        if any(lost):
            what = " and ".join(f"{v} {w}" for v, w in zip(lost, _AXES[len(lost)], strict=True) if v)
            where = f"at stride {shape_text(stride, 'x')} do not fit {shape_text(sides, 'x')}"
            yield Misfit("cropped", name, f"{name}: {windows} windows {where}; the last {what} are never read")
        if not layer.weights or max(kernel) == 1:
            continue
        if all(n == 1 for n in sides):
            dead = f"so {1 - 1 / prod(kernel):.0%} of its weights only ever meet padding"
            yield Misfit("one-pixel", name, f"{name}: its {windows} filters run over a map of one pixel, {dead}")
        field = layer.field
        known = field is not None and len(field.size) == len(picture) > 0
        if field and known and all(r > n for r, n in zip(field.size, picture, strict=True)):
            beyond.append((name, field))
    if beyond:
        name, field = beyond[0]
        more = f", and {len(beyond) - 1} after it" if len(beyond) > 1 else ""
        size = f"{shape_text(field.size, 'x')}, is larger than the picture, {shape_text(picture, 'x')}"
        why = "every unit sees all of it, and padding"
        yield Misfit("beyond", name, f"{name}{more}: the receptive field, {size}: {why}")


_AXES = {1: ("positions",), 2: ("rows", "columns"), 3: ("frames", "rows", "columns")}


def _floored(n: int, reach: int, stride: int, padding: int, out: int) -> bool:
    """False for sizes that are rounded up (Caffe's pooling reads everything), and for mere sampling (1x1, stride 2)."""
    return reach >= stride and out == (n + 2 * padding - reach) // stride + 1
