"""Rewrites of the fully connected head: into the mean of each map and one linear layer, or into convolutions.

global-pool   Lin et al. 2013 (arXiv:1312.4400, section 3.2); GoogLeNet and all later nets do it. Train the net again.
fc-to-conv    a linear layer that reads a flattened C x H x W map is a convolution with H x W filters, a later one has
              filters of 1 x 1; larger pictures work (Long, Shelhamer, Darrell 2015, arXiv:1411.4038, section 3.1)
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ..errors import NetError
from .output import shape_text
from .rewrite_filters import Chain
from .rewrite_flow import RESHAPES, Call, Changes, Flow, ordinary, put, record
from .running import Shapes, arguments, shape_only
from .undo import as_it_was

_CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POINTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid,
    nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.Dropout, nn.AlphaDropout,
    nn.Identity,
)  # fmt: skip
_POINTWISE_FUNCTIONS = {
    F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.gelu, F.silu, F.sigmoid, F.tanh, F.hardtanh, F.hardswish, F.dropout,
    torch.relu, torch.sigmoid, torch.tanh, torch.relu_, F.relu_,
}  # fmt: skip
_ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_AVERAGE = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}


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
    leaves = flow.leaves()
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


# --- as convolutions -------------------------------------------------------------------------------------------------


def fc_to_conv(net: nn.Module, input: Any, average: bool = True) -> tuple[nn.Module, Changes]:
    """Return the net with its linear layers behind a flattened map as convolutions, so that it takes larger pictures.

    A larger picture gives a map of answers; with `average` their mean is put out, (B, classes), else the map,
    (B, classes, H', W'). At the original size the map is 1 x 1 and the function is the old one.

    The code of forward() flattens the map itself, so the computation is written anew, as a `torch.fx.GraphModule` with
    the same submodules. Branches of forward() are those of evaluation mode.
    """
    mode, tracer = net.training, _Tracer(net, input)
    with as_it_was(net), torch.no_grad():
        Shapes().swap(net)
        try:
            graph = tracer.trace(net)
        except Exception as error:
            raise NetError(
                f"the code of {type(net).__name__}.forward cannot be written down as a graph ({error}); "
                "expected tensors in, a tensor out, and no branches that depend on numbers"
            ) from error
    made = fx.GraphModule(net, graph, type(net).__name__)
    changed: Changes = {}
    for flat in [n for n in graph.nodes if _flat_shape(n, tracer) is not None]:
        changed |= _convert(made, flat, tracer, average)
    if not changed:
        raise NetError(
            f"{type(net).__name__} has no linear layer behind a flattened map of more than one position; "
            "either it already takes larger pictures, or no rewrite makes it do so"
        )
    graph.eliminate_dead_code()
    graph.lint()
    made.recompile()
    made.delete_all_unused_submodules()
    made.training = mode
    return made, changed


class _Proxy(fx.Proxy):
    """Knows how many numbers a shape has; the size of a batch stays open."""

    def __len__(self) -> int:
        value = self.tracer.values[self.node]  # type: ignore[attr-defined]
        return super().__len__() if isinstance(value, Tensor) else len(value)  # type: ignore[misc, no-any-return]


class _Tracer(fx.Tracer):
    """Follows forward() with shapes at hand, so that code which checks sizes can be followed, too."""

    def __init__(self, net: nn.Module, input: Any) -> None:
        super().__init__()
        args, kwargs = arguments(input, net)
        if kwargs or not all(isinstance(a, Tensor) for a in args):
            raise NetError("fc-to-conv takes nets whose arguments are tensors; give a shape or tensors as input")
        self.given = [shape_only(a) for a in args]
        self.values: dict[fx.Node, Any] = {}
        self.looking = False

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> fx.Proxy:
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        self.looking = True
        try:
            self.values[proxy.node] = self._value(proxy.node)
        finally:
            self.looking = False
        return proxy

    def _value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self.given.pop(0) if self.given else (node.args[0] if node.args else None)
        args = fx.node.map_arg(node.args, self.values.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, self.values.__getitem__)
        if node.op == "call_function":
            return node.target(*args, **kwargs)  # type: ignore[operator]
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.root)
        return args[0] if args else None

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self.looking else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, value: Any, cache: dict[str, fx.Proxy]) -> Any:
        return value if self.looking else super().getattr(attr, value, cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.values[obj.node])

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        value = self.values[obj.node]
        if isinstance(value, list | tuple):
            return iter([obj[i] for i in range(len(value))])  # type: ignore[index]
        return super().iter(obj)


def _flat_shape(node: fx.Node, tracer: _Tracer) -> tuple[int, ...] | None:
    """Shape of the map that this node flattens; None if it does something else."""
    value = tracer.values.get(node)
    if not node.all_input_nodes or not isinstance(value, Tensor) or value.dim() != 2:
        return None
    source = tracer.values.get(node.all_input_nodes[0])
    if not isinstance(source, Tensor) or source.dim() < 3 or prod(source.shape[2:]) < 2:
        return None
    if source.shape[0] != value.shape[0] or prod(source.shape[1:]) != value.shape[1]:
        return None
    return tuple(source.shape)


def _convert(made: fx.GraphModule, flat: fx.Node, tracer: _Tracer, average: bool) -> Changes:
    """Turn what follows `flat` into convolutions; returns nothing if no linear layer follows."""
    shape = _flat_shape(flat, tracer) or ()
    nodes = list(_tail(flat))
    linear = [n for n in nodes if n.op == "call_module" and type(made.get_submodule(str(n.target))) is nn.Linear]
    if not linear:
        return {}
    changed: Changes = {}
    axes = len(shape) - 2
    kernel = shape[2:]
    calls = [str(n.target) for n in made.graph.nodes if n.op == "call_module"]
    for node in nodes:
        if node.op == "output":
            continue
        module = made.get_submodule(str(node.target)) if node.op == "call_module" else None
        if type(module) is nn.Linear:
            if calls.count(str(node.target)) > 1:
                raise NetError(f"{node.target} is called more than once, so it cannot become a convolution")
            put(made, str(node.target), _as_convolution(module, kernel))
            changed[str(node.target)] = f"linear -> {shape_text(kernel, 'x')} convolution"
            kernel = (1,) * axes
        elif type(module) is nn.BatchNorm1d and kernel == (1,) * axes:
            put(made, str(node.target), _as_map_norm(module, axes))
        elif type(module) in (nn.Softmax, nn.LogSoftmax) and module.dim in (1, -1):  # type: ignore[union-attr, operator]
            put(made, str(node.target), type(module)(1))  # type: ignore[misc, arg-type]
        elif node.target in (F.softmax, F.log_softmax, torch.softmax, torch.log_softmax) and _over_classes(node):
            continue
        elif not isinstance(module, _POINTWISE) and node.target not in _POINTWISE_FUNCTIONS:
            what = type(module).__name__ if module is not None else getattr(node.target, "__name__", node.target)
            raise NetError(
                f"{what} ({node.name}) stands between the flattened map and the output; "
                "expected linear layers, activations, dropout and BN only"
            )
    source = _without_pooling(made, flat.all_input_nodes[0], tracer)
    flat.replace_all_uses_with(source)
    if average:
        (end,) = [n for n in nodes if n.op == "output"]
        with made.graph.inserting_before(end):
            scores = end.args[0]
            mean = made.graph.call_function(torch.mean, (scores, tuple(range(2, axes + 2))))
        end.args = (mean,)
    return changed


def _over_classes(node: fx.Node) -> bool:
    """Let a softmax over the last of two dimensions be one over the channels of a map."""
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if dim not in (1, -1):
        return False
    node.args, node.kwargs = (node.all_input_nodes[0],), {"dim": 1}
    return True


def _tail(node: fx.Node) -> Iterator[fx.Node]:
    """The nodes behind `node`, up to the output, if each has one reader."""
    while node.op != "output":
        readers = list(node.users)
        if len(readers) != 1:
            raise NetError(f"the result of {node.name} goes to {len(readers)} places; expected one chain to the output")
        node = readers[0]
        if node.op == "output" and not isinstance(node.args[0], fx.Node):
            raise NetError("the net outputs more than one tensor; fc-to-conv needs one")
        yield node


def _without_pooling(made: fx.GraphModule, source: fx.Node, tracer: _Tracer) -> fx.Node:
    """Take the adaptive pooling before the flattening away: it would shrink larger maps to the old size."""
    node = source
    while node.op == "call_module" and isinstance(made.get_submodule(str(node.target)), _POINTWISE):
        node = node.all_input_nodes[0]
    module = made.get_submodule(str(node.target)) if node.op == "call_module" else None
    if not isinstance(module, _ADAPTIVE) and node.target is not F.adaptive_avg_pool2d:
        if node.op == "call_method" and node.target in ("permute", "transpose", "view", "reshape", "contiguous"):
            raise NetError(f"the map is reshaped ({node.target}) before it is flattened; expected (B, C, H, W)")
        return source
    before, after = (tuple(tracer.values[n].shape[2:]) for n in (node.all_input_nodes[0], node))
    if before == after:
        node.replace_all_uses_with(node.all_input_nodes[0])
        return node.all_input_nodes[0] if node is source else source
    if any(b % a for a, b in zip(after, before, strict=True)):
        raise NetError(
            f"{node.target} pools {before} to {after} with windows of different sizes; "
            "give an input whose map is a multiple of that"
        )
    window = tuple(b // a for a, b in zip(after, before, strict=True))
    made.add_submodule(f"{node.name}_fixed", _AVERAGE[len(window)](window))  # type: ignore[arg-type]
    with made.graph.inserting_after(node):
        fixed = made.graph.call_module(f"{node.name}_fixed", (node.all_input_nodes[0],))
    node.replace_all_uses_with(fixed)
    return fixed if node is source else source


@torch.no_grad()
def _as_convolution(linear: nn.Linear, kernel: tuple[int, ...]) -> nn.Module:
    inputs = linear.in_features // prod(kernel)
    conv = _CONVS[len(kernel)](inputs, linear.out_features, kernel, device="meta")  # type: ignore[arg-type]
    weight = linear.weight.view(linear.out_features, inputs, *kernel)
    conv.weight = nn.Parameter(weight, linear.weight.requires_grad)
    conv.bias = linear.bias
    return conv


def _as_map_norm(norm: nn.BatchNorm1d, axes: int) -> nn.Module:
    new = _NORMS[axes](norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta")
    new._parameters, new._buffers = norm._parameters, norm._buffers
    return new
