"""Which pixels speak for an answer: maps of what a scalar of a net's outputs owes to its input.

Every function here takes ``f``, which gives for pictures (B, C, H, W) one number each, (B,), differentiable, and
pictures `x`. Nets are expected in eval mode. Sources: gradient, Simonyan, Vedaldi, Zisserman 2013 (arXiv:1312.6034);
guided backpropagation, Springenberg et al. 2014 (arXiv:1412.6806); SmoothGrad, Smilkov et al. 2017 (arXiv:1706.03825);
integrated gradients, Sundararajan, Taly, Yan 2017 (arXiv:1703.01365); Grad-CAM, Selvaraju et al. 2016
(arXiv:1610.02391); occlusion and DeconvNet, Zeiler and Fergus 2013 (arXiv:1311.2901).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from neocog.errors import UsageError
from neocog.nets.taps import tapped

Score = Callable[[Tensor], Tensor]
_PIECE = 16  # pictures in one pass

# ---------------------------------------------------------------- other ways back through a rectifier

_RELUS = {
    F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6, F.hardtanh, F.hardtanh_,
    nn.functional.relu6, F.leaky_relu, F.leaky_relu_,
}  # fmt: skip
_CLAMPS = {torch.clamp, Tensor.clamp, Tensor.clamp_, torch.clamp_min, Tensor.clamp_min, Tensor.clamp_min_}


class _Past(torch.autograd.Function):
    """Forwards `y`; backwards the rectified gradient for `x`, whatever `y` was made with."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, rectify: bool) -> Tensor:
        ctx.rectify = rectify
        return y.clone()

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Any:
        return (given[0].clamp(min=0) if ctx.rectify else given[0]), None, None


class Backwards(TorchFunctionMode):
    """While it is entered, rectifiers (modules and functions alike, also in place) hand gradients back by a rule.

    Args:
        rule: "guided": only what is positive, where the unit was active (Springenberg et al.). "deconvnet": only what
            is positive, active or not; normalisation by neighbouring channels is passed as if it were not there.
    """

    def __init__(self, rule: str) -> None:
        super().__init__()
        if rule not in ("guided", "deconvnet"):
            raise UsageError(f"expected the rule guided or deconvnet, got {rule!r}")
        self.rule = rule

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        low = kwargs.get("min", args[1] if len(args) > 1 else None)
        rectifies = func in _RELUS or (func in _CLAMPS and isinstance(low, (int, float)) and low == 0)
        passes = func is F.local_response_norm and self.rule == "deconvnet"
        if not (rectifies or passes) or not torch.is_grad_enabled() or not args[0].requires_grad:
            return func(*args, **kwargs)
        x = args[0]
        named = getattr(func, "__name__", "")
        written = bool(kwargs.pop("inplace", False)) or named.endswith("_") or (True in args[1:] and named == "relu")
        if passes or self.rule == "deconvnet":
            with torch.no_grad():
                y = func(x.detach().clone(), *args[1:], **kwargs)
            made = _Past.apply(x, y, not passes)
        else:  # the usual gradient, then what is positive of it: the order makes no difference, for it only masks
            made = func(x.clone(), *args[1:], **kwargs)
            if made.requires_grad:
                made.register_hook(lambda g: g.clamp(min=0))
        return x.copy_(made) if written else made


# ---------------------------------------------------------------- maps of the input


def gradient(f: Score, x: Tensor, rule: str | None = None) -> Tensor:
    """The gradient of ``f`` (B, C, H, W); by a rule of `Backwards` the guided one, or that of a DeconvNet."""
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        if rule is None:
            return torch.autograd.grad(f(x).sum(), x)[0]
        with Backwards(rule):
            score = f(x).sum()
        return torch.autograd.grad(score, x)[0]


def smoothgrad(f: Score, x: Tensor, *, samples: int = 25, noise: float = 0.15, seed: int = 0) -> Tensor:
    """The mean gradient over `samples` pictures with normal noise; its deviation is `noise` times the range of `x`."""
    g, total = torch.Generator().manual_seed(seed), torch.zeros_like(x)
    deviation = noise * (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))
    for b in range(len(x)):
        for start in range(0, samples, _PIECE):
            n = min(_PIECE, samples - start)
            shaken = x[b] + deviation[b] * torch.randn(n, *x.shape[1:], generator=g).to(x)
            total[b] += gradient(f, shaken).sum(0)
    return total / samples


def integrated(f: Score, x: Tensor, *, baseline: Tensor | None = None, steps: int = 50) -> Tensor:
    """Integrated gradients (B, C, H, W): their sum over a picture is f(x) - f(baseline), up to the error of the sum.

    Args:
        baseline: what shows nothing, (B, C, H, W) or one for all; None: zeros, the mean colour.
        steps: of Gauss and Legendre's formula; nets with rectifiers have kinks, so more are nearer.
    """
    base = torch.zeros_like(x) if baseline is None else baseline.expand_as(x)
    places, weights = np.polynomial.legendre.leggauss(steps)
    a, w = ((torch.from_numpy(v).to(x) / 2)[:, None, None, None] for v in (places + 1, weights))
    total = torch.zeros_like(x)
    for b in range(len(x)):
        for some, share in zip(a.split(_PIECE), w.split(_PIECE), strict=True):
            total[b] += (share * gradient(f, base[b] + some * (x[b] - base[b]))).sum(0)
    return total * (x - base)


def occlusion(
    f: Score, x: Tensor, *, window: int | None = None, stride: int | None = None, fill: Tensor | float = 0.0
) -> Tensor:
    """How much ``f`` loses when a square is covered: for each pixel the mean over the squares that cover it, (B, H, W).

    Args:
        window: side of the square in pixels; None: a seventh of the shorter side. stride: None: half of it.
        fill: what it is covered with; 0 is the mean colour.
    """
    height, width = x.shape[-2:]
    window = window or max(1, min(height, width) // 7)
    stride = stride or max(1, window // 2)
    places = [(top, left) for top in _starts(height, window, stride) for left in _starts(width, window, stride)]
    lost, count = x.new_zeros(len(x), height, width), x.new_zeros(height, width)
    with torch.no_grad():
        for b in range(len(x)):
            whole = f(x[b : b + 1])[0]
            for start in range(0, len(places), _PIECE):
                some = places[start : start + _PIECE]
                covered = x[b : b + 1].repeat(len(some), 1, 1, 1)
                for one, (top, left) in zip(covered, some, strict=True):
                    one[:, top : top + window, left : left + window] = fill
                for drop, (top, left) in zip(whole - f(covered), some, strict=True):
                    lost[b, top : top + window, left : left + window] += drop
                    count[top : top + window, left : left + window] += b == 0
    return lost / count.clamp(min=1)


def _starts(side: int, window: int, stride: int) -> list[int]:
    """Where squares begin, the last one at the edge or cut off by it."""
    return list(range(0, max(1, side - window + stride), stride))


def gradcam(f: Score, net: nn.Module, x: Tensor, layer: str, *, each: bool = False) -> Tensor:
    """Grad-CAM (B, H, W), 0 or more: maps of a layer weighted by their mean gradients, enlarged to the picture.

    With `each`, every position is weighted by its own gradient (HiResCAM, Draelos and Carin 2020, arXiv:2011.08891):
    the same where ``f`` is linear in the mean of the maps, and right where it looks at one place only.

    `layer` is a dotted name in `net`, whose output is (B, K, h, w); ``f`` must run `net`.
    """
    maps, slopes = of_layer(f, net, x, layer)
    if maps.ndim != 4:
        raise UsageError(f"Grad-CAM needs a layer with a map (B, K, h, w); {layer!r} gives {tuple(maps.shape)}")
    cam = ((slopes if each else slopes.mean((2, 3), keepdim=True)) * maps).sum(1, keepdim=True).relu()
    return F.interpolate(cam, x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


# ---------------------------------------------------------------- layers


def of_layer(f: Score, net: nn.Module, x: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """What a layer put out for pictures, and the gradient of ``f`` for it, both of its shape, detached.

    Right also where what follows writes into the map (ReLU in place), and for one call of a module that is called
    several times ("relu#1"; without a number the last call). Of a tuple the first tensor counts.
    """
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad(), tapped(net, [layer], apart=True) as found:
        score = f(x).sum()
        maps = tensor_of(found, layer)
        (slopes,) = torch.autograd.grad(score, maps, allow_unused=True)
    return maps.detach(), torch.zeros_like(maps) if slopes is None else slopes.detach()


def tensor_of(found: Any, layer: str) -> Tensor:
    """The output of a layer in what `tapped` found. Raises: UsageError if it was not called, or gave no tensor."""
    if layer not in found:
        raise UsageError(f"the layer {layer!r} was not used in this pass")
    value = found[layer]
    value = value[0] if isinstance(value, tuple) else value
    if not isinstance(value, Tensor):
        raise UsageError(f"the layer {layer!r} gives a {type(value).__name__}; expected a tensor")
    return value


def deconvolve(run: Callable[[Tensor], Any], net: nn.Module, x: Tensor, layer: str, unit: int | Tensor) -> Tensor:
    """What the strongest activation of a unit is made of, in pixels (B, C, H, W): DeconvNet as published.

    All other activations of the layer are set to zero, and what is left is sent down: unpooled to where the maxima were
    (the switches of this picture), rectified, filtered with the transposed filters, down to the pixels. Where pooling
    windows overlap and two maxima share a place, their values add up.

    Args:
        run: computes `net` on pictures. layer: dotted name in `net`. unit: its channel, one for all or one for each.
    """
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad(), tapped(net, [layer], apart=True) as found:
        with Backwards("deconvnet"):
            run(x)
        maps = tensor_of(found, layer)
        seed, every = torch.zeros_like(maps), torch.arange(len(maps), device=maps.device)
        own = maps.detach()[every, unit].flatten(1)  # (B, positions)
        at = own.argmax(1)
        seed.flatten(2)[every, unit, at] = own[every, at] if maps.ndim > 2 else own[:, 0]
        return torch.autograd.grad(maps, x, seed)[0]
