"""Rewrites that replace filters: chains of 3x3, depthwise, groups, low rank. The net must be trained (again).

chain-3x3   Simonyan, Zisserman 2014 (arXiv:1409.1556, section 2.3); for strided stems Szegedy et al. 2015
depthwise   Howard et al. 2017 (arXiv:1704.04861, section 3.1)
groups      Krizhevsky et al. 2012; Xie et al. 2016 (arXiv:1611.05431)
low-rank    Jaderberg et al. 2014 (arXiv:1405.3866, scheme 2), Denton et al. 2014 (arXiv:1404.0736)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import NetError
from . import rewrite_plans as plans
from .rewrite_flow import Changes, Flow, ordinary, put, record
from .rewrite_plans import Conv

_CLASSES: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def chain_3x3(
    net: nn.Module, input: Any, layers: Sequence[str] | None = None, side: int = 5, width: int | None = None
) -> tuple[Changes, Changes]:
    """Replace filters of at least `side` x `side` by chains of 3x3 with ReLU (and BN, if the net has any) between."""
    norm = _has_norm(net)
    return _replace(
        net, input, layers, lambda conv: plans.fits_chain(conv, side),
        lambda conv: plans.chain(conv, width, norm), "square odd filters of stride 1, 2, 3, 4 ...",
    )  # fmt: skip


def depthwise(
    net: nn.Module, input: Any, layers: Sequence[str] | None = None, channels: int = 64
) -> tuple[Changes, Changes]:
    """Replace dense filters by one filter per channel, (BN,) ReLU, and a 1x1 convolution."""
    norm = _has_norm(net)
    return _replace(
        net, input, layers, lambda conv: plans.fits_dense(conv, channels),
        lambda conv: plans.separable(conv, norm) if conv.groups == 1 else [], "dense filters larger than 1x1",
    )  # fmt: skip


def groups(
    net: nn.Module,
    input: Any,
    layers: Sequence[str] | None = None,
    channels: int = 64,
    groups: int | None = None,
    mix: bool = True,
) -> tuple[Changes, Changes]:
    """Replace dense filters by groups of filters and, with `mix`, a 1x1 convolution that mixes what the groups found.

    The mixing starts as a rotation, which keeps the size of the values.
    """
    return _replace(
        net, input, layers, lambda conv: plans.fits_dense(conv, channels),
        lambda conv: plans.grouped(conv, groups, mix) if conv.groups == 1 else [],
        f"dense filters whose inputs and outputs can be divided by {groups or '8, 4 or 2'}",
    )  # fmt: skip


def low_rank(
    net: nn.Module,
    input: Any,
    layers: Sequence[str] | None = None,
    channels: int = 64,
    rank: int | None = None,
) -> tuple[Changes, Changes]:
    """Replace k x k filters by k x 1 and 1 x k, and linear layers that are named in `layers` by two thinner ones.

    The two start as the nearest product of that rank to the old weights; the relative error (Frobenius) is reported.
    """
    changed: Changes = {}
    left: Changes = {}
    names = None if layers is None else list(layers)
    for name in list(names or ()):
        module = net.get_submodule(name)
        if ordinary(module, nn.Linear):
            new, error = _two_linear(module, rank)  # type: ignore[arg-type]
            put(net, name, new)
            changed[name] = f"rank {new.linear1.out_features}{_shown(error)}"  # type: ignore[union-attr]
            names.remove(name)  # type: ignore[union-attr]
    if names is not None and not names:
        return changed, left

    def fit(conv: Conv) -> list[Conv]:
        square = len(conv.kernel) == 2 and conv.groups == 1 and min(conv.kernel) > 1
        most = min(conv.inputs * conv.kernel[0], conv.outputs * conv.kernel[-1])
        return plans.split(conv, min(rank or most, most, rank or min(conv.inputs, conv.outputs))) if square else []

    more, left = _replace(
        net, input, names, lambda conv: len(conv.kernel) == 2 and plans.fits_dense(conv, channels), fit,
        "dense two-dimensional filters larger than 1x1", _from_svd,
    )  # fmt: skip
    return changed | more, left


# --- common ----------------------------------------------------------------------------------------------------------


def _convolutions(net: nn.Module, flow: Flow) -> dict[str, tuple[nn.Conv2d, Conv]]:
    """Ordinary convolutions that ran, with the size of the map that they read first."""
    found: dict[str, tuple[nn.Conv2d, Conv]] = {}
    for call in flow.calls:
        m: Any = net.get_submodule(call.name)
        if call.name in found or not ordinary(m, *_CLASSES.values()):
            continue
        padding = m.padding
        if padding == "same":
            if any(k % 2 == 0 for k in m.kernel_size):
                continue  # padded more on one side
            padding = [d * (k - 1) // 2 for d, k in zip(m.dilation, m.kernel_size, strict=True)]
        elif padding == "valid":
            padding = [0] * len(m.kernel_size)
        found[call.name] = m, Conv(
            m.in_channels, m.out_channels, tuple(m.kernel_size), tuple(m.stride), tuple(padding), tuple(m.dilation),
            m.groups, m.bias is not None, call.read_shapes[0][-len(m.kernel_size) :],
        )  # fmt: skip
    return found


def _has_norm(net: nn.Module) -> bool:
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())


def _replace(
    net: nn.Module,
    input: Any,
    layers: Sequence[str] | None,
    wanted: Callable[[Conv], bool],
    plan: Callable[[Conv], list[Conv]],
    needs: str,
    start: Callable[[list[nn.Module], nn.Conv2d], str] | None = None,
) -> tuple[Changes, Changes]:
    """Replace convolutions by plans; those named in `layers`, else all that are `wanted`."""
    changed: Changes = {}
    found = _convolutions(net, record(net, input))
    for name in layers or ():
        if name not in found:
            raise NetError(
                f"{name!r} is not an ordinary convolution that runs; the net has {', '.join(found) or 'none'}"
            )
    for name, (module, conv) in found.items():
        if not (wanted(conv) if layers is None else name in layers):
            continue
        steps = plan(conv)
        if not steps:
            if layers is None:
                continue
            raise NetError(f"{name} ({module}) cannot be rewritten in this way; expected {needs}")
        new = _built(steps, module)
        note = start([m for m in new if isinstance(m, nn.Conv2d)], module) if start else ""
        put(net, name, new)
        changed[name] = f"{conv.params:,} -> {plans.cost(steps).params:,} parameters{note}"
    return changed, {}


class Chain(nn.Sequential):
    """Layers in the place of one; the net's code may ask it for what the old layer knew of its inputs and outputs."""

    def __init__(self, old: nn.Module) -> None:
        super().__init__()
        for key in ("in_channels", "out_channels", "in_features", "out_features"):
            if hasattr(old, key):
                setattr(self, key, getattr(old, key))


def _built(steps: list[Conv], old: nn.Conv2d) -> Chain:
    axes = len(steps[0].kernel)
    where: dict[str, Any] = {"device": old.weight.device, "dtype": old.weight.dtype}
    made = Chain(old)
    for number, step in enumerate(steps, start=1):
        conv = _CLASSES[axes](
            step.inputs, step.outputs, step.kernel, step.stride, step.padding, step.dilation,  # type: ignore[arg-type]
            step.groups, step.bias, old.padding_mode, **where,
        )  # fmt: skip
        mixes = number == len(steps) > 1 and not steps[number - 2].relu
        if mixes and step.inputs == step.outputs:
            nn.init.orthogonal_(conv.weight) if not conv.weight.is_meta else None
        elif not conv.weight.is_meta:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out" if step.groups == 1 else "fan_in", nonlinearity="relu")
        if conv.bias is not None and not conv.bias.is_meta:
            nn.init.zeros_(conv.bias)
        conv.requires_grad_(old.weight.requires_grad)
        made.add_module(f"conv{number}", conv)
        if step.norm:
            made.add_module(f"norm{number}", _NORMS[axes](step.outputs, **where))
        if step.relu:
            made.add_module(f"relu{number}", nn.ReLU(inplace=True))
    return made


@torch.no_grad()
def _from_svd(convs: list[nn.Module], old: nn.Conv2d) -> str:
    down, across = convs
    weight = old.weight.detach()
    if weight.is_meta:
        return ""
    outputs, inputs, kh, kw = weight.shape
    matrix = weight.permute(1, 2, 3, 0).reshape(inputs * kh, kw * outputs)
    left, right, error = _factors(matrix, down.out_channels)  # type: ignore[arg-type]
    down.weight.copy_(left.t().reshape(-1, inputs, kh, 1))  # type: ignore[operator, union-attr]
    across.weight.copy_(right.reshape(-1, kw, outputs).permute(2, 0, 1).unsqueeze(2))  # type: ignore[operator, union-attr]
    if old.bias is not None:
        across.bias.copy_(old.bias)  # type: ignore[operator, union-attr]
    return _shown(error)


@torch.no_grad()
def _two_linear(old: nn.Linear, rank: int | None) -> tuple[Chain, float | None]:
    rank = min(rank or min(old.in_features, old.out_features) // 4 or 1, old.in_features, old.out_features)
    where: dict[str, Any] = {"device": old.weight.device, "dtype": old.weight.dtype}
    first = nn.Linear(old.in_features, rank, bias=False, **where)
    second = nn.Linear(rank, old.out_features, bias=old.bias is not None, **where)
    error = None
    if not old.weight.is_meta:
        left, right, error = _factors(old.weight.t(), rank)
        first.weight.copy_(left.t())
        second.weight.copy_(right.t())
        if old.bias is not None:
            second.bias.copy_(old.bias)
    made = Chain(old)
    made.add_module("linear1", first)
    made.add_module("linear2", second)
    return made.requires_grad_(old.weight.requires_grad), error


def _factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """(n, m) -> (n, rank), (rank, m) whose product is nearest, both of like size, and the relative error."""
    wide = matrix.double()
    turned = wide.shape[0] < wide.shape[1]
    tall = wide.t() if turned else wide
    # the leading eigenvectors of the small square are the right singular vectors: a quarter of the time of svd()
    vectors = torch.linalg.eigh(tall.t() @ tall).eigenvectors.flip(1)[:, :rank]  # (m, rank)
    left = tall @ vectors
    root = left.norm(dim=0).clamp_min(1e-30).sqrt()
    left, right = left / root, root[:, None] * vectors.t()
    if turned:
        left, right = right.t(), left.t()
    error = float((left @ right - wide).norm() / wide.norm().clamp_min(1e-300))
    return left.to(matrix.dtype), right.to(matrix.dtype), error


def _shown(error: float | None) -> str:
    return "" if error is None else f"; relative error of the filters {error:.3g}"
