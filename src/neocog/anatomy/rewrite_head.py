"""Rewrite of the fully connected head: into the mean over each map and one linear layer.

Lin et al. 2013 (arXiv:1312.4400, section 3.2); GoogLeNet and all later nets do it. The net must be trained again.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor, nn

from ..errors import NetError
from .rewrite_exact import Changes
from .rewrite_filters import Chain
from .rewrite_flow import RESHAPES, Call, Flow, ordinary, put, record


class MeanOfMap(nn.Module):
    """Mean over all positions of a map that has been flattened: (B, channels * positions) -> (B, channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self.channels, -1).mean(2)

    def extra_repr(self) -> str:
        return f"channels={self.channels}"


def global_pool(net: nn.Module, input: Any, layers: Sequence[str] | None = None) -> tuple[Changes, Changes]:
    """Replace the linear layers of the head by the mean over each map and one linear layer, which starts fresh.

    The last linear layer keeps its name; what stood between becomes identities, except dropout. Changes `net` itself.
    """
    flow = record(net, input)
    first, shape = _head(net, flow, layers)
    chain = _linear_chain(net, flow, first)
    last = net.get_submodule(chain[-1].name)
    if not isinstance(last, nn.Linear):
        raise NetError("expected a linear layer at the end of the head")
    fresh = nn.Linear(
        shape[1], last.out_features, last.bias is not None, device=last.weight.device, dtype=last.weight.dtype
    ).requires_grad_(last.weight.requires_grad)
    names = [call.name for call in chain]
    changed: Changes = {}
    for name in names:
        module = net.get_submodule(name)
        if name == names[0] == names[-1]:
            both = Chain(module)
            both.add_module("mean", MeanOfMap(shape[1]))
            both.add_module("linear", fresh)
            put(net, name, both)
        elif name == names[0]:
            put(net, name, MeanOfMap(shape[1]))
        elif name == names[-1]:
            put(net, name, fresh)
        elif not isinstance(module, nn.Dropout):
            put(net, name, nn.Identity())
        else:
            continue
        changed[name] = f"{type(module).__name__} -> {type(net.get_submodule(name)).__name__}"
    return changed, {}


def _head(net: nn.Module, flow: Flow, layers: Sequence[str] | None) -> tuple[Call, tuple[int, ...]]:
    """The linear layer that reads a flattened map, and the shape of the map."""
    for call in flow.calls:
        module = net.get_submodule(call.name)
        if not ordinary(module, nn.Linear) or (layers is not None and call.name not in layers):
            continue
        if (shape := _flattened(flow, call)) is not None:
            return call, shape
    wanted = f" among {', '.join(layers)}" if layers else ""
    raise NetError(
        f"{type(net).__name__} has no linear layer{wanted} that reads a flattened map of more than one position, "
        "so there is nothing to replace"
    )


def _flattened(flow: Flow, call: Call) -> tuple[int, ...] | None:
    """Shape of the map whose flattened form the call reads; None if it reads something else."""
    if len(call.read_shapes[0]) != 2:
        return None
    key, numbers = call.reads[0], call.read_shapes[0][1]
    for op in reversed(flow.ops[: call.start]):
        if key not in op.writes:
            continue
        for k, shape in zip(op.reads, op.read_shapes, strict=True):
            fits = len(shape) > 2 and prod(shape[1:]) == numbers and prod(shape[2:]) > 1
            if fits and op.kind in RESHAPES:
                return shape
            if k != key and shape == call.read_shapes[0]:
                key = k  # dropout or an activation between
                break
    return None


def _linear_chain(net: nn.Module, flow: Flow, first: Call) -> list[Call]:
    """Calls from `first` to the last linear layer, if they follow one another without branches up to the output."""
    leaves = {i: c for c in flow.calls if not any(c.module.children()) for i in range(c.start, c.stop)}
    chain, position, key = [first], first.stop, first.writes[0]
    past: set[int] = set()
    while position < len(flow.ops):
        op, call = flow.ops[position], leaves.get(position)
        if past & set(op.reads):
            raise NetError(f"the head branches: {op.kind} in {op.path!r} reads what a linear layer reads, too")
        position += 1
        if key not in op.reads:
            continue
        past.add(key)
        if call is not None and call.reads[:1] == (key,) and len(call.writes) == 1:
            chain.append(call)
            position, key = call.stop, call.writes[0]
        elif op.write_shapes and op.write_shapes[0] == op.read_shapes[op.reads.index(key)]:
            key = op.writes[0]
        else:
            raise NetError(f"the head does more than linear layers and activations: {op.kind} in {op.path!r}")
        past.discard(key)  # in place
    if key not in flow.outputs:
        raise NetError("the linear layers do not lead to the output of the net")
    while not ordinary(net.get_submodule(chain[-1].name), nn.Linear):
        chain.pop()
    return chain
