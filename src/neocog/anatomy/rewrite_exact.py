"""Rewrites that keep the function: folding BN, removing biases that BN cancels, removing what is never used.

Folding is the arithmetic of Jacob et al. 2018 (arXiv:1712.05877, section 3.2): behind a convolution, BN in evaluation
mode multiplies each channel by ``g = scale / sqrt(variance + eps)`` and adds ``shift - mean * g``, so the filters of
the channel can be multiplied by g once and for all. All sums are done in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import NetError
from .rewrite_flow import Call, Changes, Flow, ordinary, places_of, put, record

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TURNED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BN_FORWARD = nn.modules.batchnorm._BatchNorm.forward


def fold_bn(net: nn.Module, input: Any, layers: Sequence[str] | None = None) -> tuple[Changes, Changes]:
    """Fold every BN into the convolution or linear layer before it; an identity takes the place of the BN.

    Changes `net` itself. Returns what was changed, and which pairs were left alone and why.
    """
    changed: Changes = {}
    while True:  # a BN behind a BN becomes foldable when the first one is gone
        flow = record(net, input)
        pairs, left = _pairs(net, flow, layers, needs_statistics=True)
        if not pairs:
            return changed, left
        for name, norm_name in pairs:
            fold_into(net.get_submodule(name), net.get_submodule(norm_name))  # type: ignore[arg-type]
            put(net, norm_name, nn.Identity())
            changed[name] = f"{norm_name} folded into it"
        if _norms(record(net, input)) != _norms(flow) - len(pairs):
            raise NetError("a BN still runs after it was folded; the module keeps layers where PyTorch cannot see them")


def _norms(flow: Flow) -> int:
    return sum("batch_norm" in op.kind for op in flow.ops)


def remove_dead_bias(net: nn.Module, input: Any, layers: Sequence[str] | None = None) -> tuple[Changes, Changes]:
    """Remove biases directly before a normalisation that subtracts the mean; BN's running mean is shifted by them.

    The function stays the same in evaluation and in training. Changes `net` itself; returns as `fold_bn`.
    """
    pairs, left = _pairs(net, record(net, input), layers, needs_statistics=False)
    changed: Changes = {}
    for name, norm_name in pairs:
        layer, norm = net.get_submodule(name), net.get_submodule(norm_name)
        bias = layer.bias
        if bias is None:
            continue
        if isinstance(norm.running_mean, Tensor):
            with torch.no_grad():
                moved = norm.running_mean.double() - bias.double()  # type: ignore[operator]
                norm.running_mean.copy_(moved)
        layer.bias = None  # type: ignore[assignment]
        changed[name] = f"{bias.numel()} biases removed; {norm_name} subtracts the mean anyway"  # type: ignore[operator]
    return changed, left


def is_norm(module: nn.Module, instance: bool = False) -> bool:
    if module._forward_hooks or module._forward_pre_hooks or hasattr(module, "parametrizations"):
        return False
    if type(module) is nn.SyncBatchNorm:
        return True
    if instance and ordinary(module, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d):
        return not module.track_running_stats
    bn = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return isinstance(module, bn) and type(module).forward is _BN_FORWARD


def _pairs(
    net: nn.Module, flow: Flow, layers: Sequence[str] | None, needs_statistics: bool
) -> tuple[list[tuple[str, str]], Changes]:
    """(layer, BN) where all that becomes of the layer's output goes through that BN; and why other pairs do not fit."""
    found: list[tuple[str, str]] = []
    left: Changes = {}
    makers: dict[int, Call] = {}
    for call in flow.calls:
        module = net.get_submodule(call.name)  # the one in the flow may be a copy
        if ordinary(module, *_CONVS, *_TURNED, nn.Linear) and len(call.writes) == 1:
            makers[call.writes[0]] = call
        elif is_norm(module, instance=not needs_statistics) and call.reads:
            maker = makers.get(call.reads[0])
            if maker is None or (layers is not None and maker.name not in layers):
                continue
            if not needs_statistics and net.get_submodule(maker.name).bias is None:
                continue
            reason = _obstacle(net, flow, maker, call, needs_statistics)
            if reason:
                left[maker.name] = reason
            else:
                found.append((maker.name, call.name))
    return [pair for pair in found if pair[0] not in left], left


def _obstacle(net: nn.Module, flow: Flow, maker: Call, norm: Call, needs_statistics: bool) -> str:
    """Why the pair cannot be treated as one; "" if it can."""
    key = maker.writes[0]
    if norm.read_shapes[0] != maker.write_shapes[0]:
        return f"its output is reshaped before {norm.name}"
    if len(flow.of(maker.name)) > 1:
        return "it is called more than once"
    if len(flow.of(norm.name)) > 1:
        return f"{norm.name} is called more than once"
    if isinstance(maker.module, nn.Linear) and len(maker.write_shapes[0]) != 2:
        return f"{norm.name} normalises another dimension than the one that it makes"
    others = [c for c in flow.calls if key in c.reads and c is not norm and not any(c.module.children())]
    if key in flow.outputs or flow.users(key, (maker, norm)) or any(type(c.module) is not nn.Identity for c in others):
        return f"its output does not go to {norm.name} alone, and unchanged"
    own = {flow.parameters[f"{maker.name}.{p}"] for p, _ in maker.module.named_parameters(recurse=False)}
    bn = {flow.parameters[f"{norm.name}.{p}"] for p, _ in norm.module.named_parameters(recurse=False)}
    if any(flow.users(k, (maker,)) for k in own) or any(flow.users(k, (norm,)) for k in bn):
        return "its parameters are shared with another layer"
    shared = [p for p, k in flow.parameters.items() if k in own and not _same(net, p.rpartition(".")[0], maker.name)]
    if shared:
        return f"its parameters are shared with {shared[0]}"
    if needs_statistics and not isinstance(norm.module.running_mean, Tensor):
        return f"{norm.name} keeps no running statistics"
    return ""


def _same(net: nn.Module, a: str, b: str) -> bool:
    return net.get_submodule(a) is net.get_submodule(b)


@torch.no_grad()
def fold_into(layer: nn.Module, norm: nn.BatchNorm2d) -> None:
    weight: Tensor = layer.weight  # type: ignore[assignment]
    bias: Tensor | None = layer.bias  # type: ignore[assignment]
    mean, variance = norm.running_mean.double(), norm.running_var.double()  # type: ignore[union-attr]
    gain = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        gain = gain * norm.weight.double()
    shift = -mean * gain if bias is None else (bias.double() - mean) * gain
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    wide = weight.double()
    if isinstance(layer, _TURNED):  # (inputs, outputs / groups, ...); the outputs of a group belong to its inputs
        groups = layer.groups
        parts = wide.view(groups, wide.shape[0] // groups, wide.shape[1], *wide.shape[2:])
        folded = (parts * gain.view(groups, 1, -1, *(1,) * (wide.dim() - 2))).view_as(wide)
    else:
        folded = wide * gain.view(-1, *(1,) * (wide.dim() - 1))
    layer.weight = nn.Parameter(folded.to(weight.dtype), weight.requires_grad)
    layer.bias = nn.Parameter(shift.to(weight.dtype), weight.requires_grad)


def remove_unused(net: nn.Module, input: Any, layers: Sequence[str] | None = None) -> tuple[Changes, Changes]:
    """Remove modules and parameters that the computation reads neither in evaluation nor in training.

    What only training reads (auxiliary heads) stays, and is named. Changes `net` itself; returns as `fold_bn`.
    """
    evaluation = record(net, input)
    read_now, ran = _read(evaluation), {call.name for call in evaluation.calls}
    training = _training(net, input)
    read_ever, ran = read_now | _read(training), ran | {call.name for call in training.calls}
    names: dict[int, set[str]] = {}  # a parameter may have several names
    for name, parameter in net.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    dead = {name for same in names.values() if not same & read_ever for name in same}
    resting = {name for same in names.values() if not same & read_now for name in same} - dead
    left: Changes = dict.fromkeys(sorted(resting), "only training reads it")
    if layers is not None:
        dead = {name for name in dead if any(name == x or name.startswith(x + ".") for x in layers)}
    changed: Changes = {}
    for path, module in list(net.named_modules()):
        mine = [name for name, _ in module.named_parameters(prefix=path)]
        inside = any(path.startswith(done + ".") for done in changed)
        called_within = any(name == path or name.startswith(path + ".") for name in ran)
        if not path or inside or not mine or called_within or not set(mine) <= dead:
            continue
        count = sum(p.numel() for p in module.parameters())
        for parent, key in list(places_of(net, module)):
            holder = isinstance(parent, nn.Sequential | nn.ModuleList | nn.ModuleDict)
            parent._modules[key] = nn.Identity() if holder else None
        changed[path] = f"module with {count:,} unused parameters removed"
    for name, parameter in list(net.named_parameters()):
        if name in dead:
            path, _, key = name.rpartition(".")
            net.get_submodule(path)._parameters[key] = None
            changed[name] = f"parameter of {parameter.numel():,} unused numbers removed"
    if changed and record(net, input).signature() != evaluation.signature():
        raise NetError("the net computes something else without its unused parameters, so they are not unused")
    return changed, left


def _read(flow: Flow) -> set[str]:
    """Names of the parameters that an operator reads."""
    keys = {key for op in flow.ops for key in op.reads}
    return {name for name, key in flow.parameters.items() if key in keys}


def read_in_training(net: nn.Module, input: Any) -> set[str]:
    """Names of the parameters that training mode reads. Raises: NetError if it cannot be run."""
    return _read(_training(net, input))


def _training(net: nn.Module, input: Any) -> Flow:
    try:
        return record(net, input, training=True, batch=2)  # BN cannot learn from one picture with a 1x1 map
    except NetError:
        try:
            return record(net, input, training=True)
        except NetError as error:
            raise NetError(
                f"cannot see what training uses, so nothing is removed ({error}); give an input that training takes"
            ) from error
