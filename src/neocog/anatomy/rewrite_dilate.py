"""Replace the last strides by dilation: the map stays large, and the filters keep their weights.

Where a layer with stride s is made to look at every position, each later filter has to skip s - 1 positions to see what
it saw before. At every s-th position the values are exactly the old ones; between them there are new ones (Chen et al.
2014, arXiv:1412.7062, section 3.1; Yu, Koltun 2015, arXiv:1511.07122).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import NetError
from .rewrite_flow import Call, Changes, Flow, Key, Op, ordinary, put, record
from .rewrite_plans import Conv
from .shortcuts import spread

Rate = tuple[int, ...]

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_MAXIMA = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_MEANS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_CONV_OF = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_MAX_OF = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
# Operators that look at neighbours: where no module says which, they cannot skip positions.
_LOOKING = ("convolution", "pool", "pad", "unfold", "im2col", "pixel_shuffle", "pixel_unshuffle", "roll")


class DilatedMean(nn.Module):
    """Mean over a window whose positions are `dilation` apart: (B, C, ...) -> (B, C, ...), stride 1, no padding."""

    def __init__(self, kernel_size: Sequence[int], dilation: Sequence[int]) -> None:
        super().__init__()
        self.kernel_size, self.dilation = tuple(kernel_size), tuple(dilation)

    def forward(self, x: Tensor) -> Tensor:
        window = x.new_full((x.shape[1], 1, *self.kernel_size), 1 / prod(self.kernel_size))
        return _CONV_OF[len(self.kernel_size)](x, window, dilation=self.dilation, groups=x.shape[1])  # type: ignore[operator, no-any-return]

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, dilation={self.dilation}"


class DilatedMaximum(nn.Module):
    """Maximum over a window whose positions are `dilation` apart, stride 1, with any padding.

    PyTorch's own allows padding up to half of the window as if it were not dilated.
    """

    def __init__(self, kernel_size: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> None:
        super().__init__()
        self.kernel_size, self.padding, self.dilation = tuple(kernel_size), tuple(padding), tuple(dilation)

    def forward(self, x: Tensor) -> Tensor:
        around = [p for p in reversed(self.padding) for _ in range(2)]
        x = F.pad(x, around, value=float("-inf"))
        return _MAX_OF[len(self.kernel_size)](x, self.kernel_size, 1, dilation=self.dilation)  # type: ignore[operator, no-any-return]

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, padding={self.padding}, dilation={self.dilation}"


def dilate(net: nn.Module, input: Any, layers: Sequence[str] | None = None, stride: int = 8) -> tuple[Changes, Changes]:
    """Let the map shrink by `stride` at most; or let the layers called `layers` not shrink it. Changes `net` itself.

    Raises: NetError where a layer cannot follow (transposed convolutions, padding by reflection, windows that only fit
    because their last position is cut off), or where the net needs maps of a fixed size.
    """
    flow = record(net, input)
    plan = _Plan(net, flow, set(layers) if layers is not None else None, stride)
    plan.follow()
    if missing := (set(layers or ()) - set(plan.opened)):
        raise NetError(f"{', '.join(sorted(missing))} does not run, or has no stride that could be replaced")
    if not plan.opened:
        raise NetError(
            f"the map of {type(net).__name__} never shrinks by more than {stride}; give a smaller stride=... "
            "or the names of the layers to change"
        )
    changed: Changes = {}
    for name, rate in plan.rates.items():
        module = net.get_submodule(name)
        looks = prod(spread(module.kernel_size, len(rate))) > 1 or any(spread(module.padding, len(rate)))
        if name in plan.opened:
            changed[name] = "stride replaced"
        elif prod(rate) > 1 and looks:  # a 1x1 filter looks at no neighbours
            changed[name] = f"dilated by {'x'.join(map(str, rate))}"
        else:
            continue
        _apply(net, name, rate, name in plan.opened)
    try:
        record(net, input)
    except NetError as error:
        raise NetError(
            f"the net needs maps of a fixed size ({error}); rewrite it with 'fc-to-conv' first, or name other layers"
        ) from error
    return changed, {}


class _Plan:
    """How far apart are, in each tensor, the positions that the old net had; and how far it has shrunk."""

    def __init__(self, net: nn.Module, flow: Flow, layers: set[str] | None, most: int) -> None:
        self.net, self.flow, self.layers, self.most = net, flow, layers, most
        self.rate: dict[Key, Rate] = {}
        self.shrunk: dict[Key, Rate] = {}
        self.rates: dict[str, Rate] = {}  # for each layer with a window, the rate of what it reads
        self.opened: list[str] = []

    def follow(self) -> None:
        at = self.flow.leaves()
        for index, op in enumerate(self.flow.ops):
            rate = self._rate(op)
            shrunk = max((self.shrunk[k] for k in op.reads if k in self.shrunk), default=None)
            call = at.get(index)
            adaptive = op.kind.lstrip("_").startswith("adaptive")
            # PyTorch computes local response normalisation, which looks at channels, as padding and pooling
            channels = call is not None and "LocalResponseNorm" in type(call.module).__name__
            if any(word in op.kind for word in _LOOKING) and not adaptive and not channels:
                rate, shrunk = self._window(op, call, rate, shrunk)
            elif adaptive and rate and prod(rate) > 1 and prod(op.write_shapes[0][2:]) > 1:
                raise NetError(
                    f"{op.path} pools to a fixed size, which mixes old and new positions; "
                    "rewrite the net with 'fc-to-conv' first"
                )
            elif op.kind.startswith(("upsample", "grid_sampler")) and rate:
                rate = (1,) * len(rate)  # what is interpolated has a scale of its own
            for key in op.writes:
                if rate is not None:
                    self.rate[key] = rate
                if shrunk is not None:
                    self.shrunk[key] = shrunk

    def _rate(self, op: Op) -> Rate | None:
        """The rate of what the operator reads; None where nothing has one yet."""
        found = {self.rate[k] for k in op.reads if k in self.rate}
        if len(found) > 1:
            raise NetError(
                f"{op.kind} in {op.path!r} joins maps of which only some can be kept large; name other layers"
            )
        return found.pop() if found else None

    def _window(self, op: Op, call: Call | None, rate: Rate | None, shrunk: Rate | None) -> tuple[Rate, Rate]:
        axes = len(op.read_shapes[0]) - 2
        rate, shrunk = rate or (1,) * axes, shrunk or (1,) * axes
        module = None if call is None else self.net.get_submodule(call.name)
        if module is None or call is None or not ordinary(module, *_CONVS, *_MAXIMA, *_MEANS):
            if prod(rate) > 1:
                raise NetError(f"{op.kind} in {op.path!r} cannot skip positions; name other layers")
            return rate, shrunk
        step = spread(module.stride, axes)
        shrinks = prod(step) > 1
        if self.layers is not None:
            opens = shrinks and call.name in self.layers
        else:
            opens = shrinks and max(a * b for a, b in zip(shrunk, step, strict=True)) > self.most
        if self.rates.setdefault(call.name, rate) != rate:
            raise NetError(f"{call.name} is called at two scales, so it cannot be changed")
        if (opens or prod(rate) > 1) and (reason := _obstacle(module, op, axes, rate)):
            raise NetError(f"{call.name} cannot be dilated: {reason}")
        if opens:
            if call.name not in self.opened:
                self.opened.append(call.name)
            return tuple(a * b for a, b in zip(rate, step, strict=True)), shrunk
        if shrinks and prod(rate) > 1:
            raise NetError(f"{call.name} still has a stride behind layers that were opened; name it, too")
        return rate, tuple(a * b for a, b in zip(shrunk, step, strict=True))


def _obstacle(module: nn.Module, op: Op, axes: int, rate: Rate) -> str:
    if isinstance(module, _CONVS):
        if module.padding_mode != "zeros" and prod(rate) > 1:
            return f"its padding is {module.padding_mode!r}; expected zeros"
        return ""
    kernel, step, pad = (spread(v, axes) for v in (module.kernel_size, module.stride, module.padding))
    if module.ceil_mode:
        dilation, sizes = spread(getattr(module, "dilation", 1), axes), op.read_shapes[0][-axes:]
        if Conv(1, 1, kernel, step, pad, dilation, size=sizes).out != op.write_shapes[0][-axes:]:
            return f"its last window is cut off (ceil_mode) for a map of {sizes}; another input size may fit"
    if isinstance(module, _MEANS) and any(pad):
        return "a mean with padding"
    if getattr(module, "divisor_override", None):
        return "a mean with a divisor of its own"
    return ""


def _apply(net: nn.Module, name: str, rate: Rate, opened: bool) -> None:
    module = net.get_submodule(name)
    axes = len(rate)
    if isinstance(module, _MEANS):
        put(net, name, DilatedMean(spread(module.kernel_size, axes), rate))
        return

    def times(value: Any) -> Rate:
        return tuple(v * r for v, r in zip(spread(value, axes), rate, strict=True))

    if isinstance(module, _MAXIMA):
        kernel, dilation = spread(module.kernel_size, axes), times(module.dilation)
        if prod(rate) > 1 or not opened:
            put(net, name, DilatedMaximum(kernel, times(module.padding), dilation))
        else:
            module.stride, module.ceil_mode = (1,) * axes if axes > 1 else 1, False  # type: ignore[assignment]
        return
    module.dilation = times(module.dilation)  # type: ignore[assignment]
    if not isinstance(module.padding, str):
        padding = times(module.padding)
        module.padding = padding  # type: ignore[assignment]
        module._reversed_padding_repeated_twice = [p for p in reversed(padding) for _ in range(2)]  # type: ignore[assignment]
    if opened:
        module.stride = (1,) * axes  # type: ignore[assignment]
