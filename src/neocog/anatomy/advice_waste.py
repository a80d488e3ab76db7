"""What a net carries and does not need, and what chains of layers cannot learn; each kind a function of a trace."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, inf, log, prod

from ..errors import NetError
from .advice_view import Advice, View, is_norm, names, percent, some
from .output import shape_text
from .record import Layer
from .rewrite_exact import read_in_training
from .rewrite_plans import Cost

# Activations by what they leave alone: a value in this interval is put out as it is.
_IDENTITY_ON = {
    "relu": (0.0, inf), "ReLU": (0.0, inf), "relu6": (0.0, 6.0), "ReLU6": (0.0, 6.0), "LeakyReLU": (0.0, inf),
    "leaky_relu": (0.0, inf), "PReLU": (0.0, inf), "ELU": (0.0, inf), "elu": (0.0, inf), "CELU": (0.0, inf),
}  # fmt: skip
# ... and by the interval that their results are in.
_RANGE = {
    "relu": (0.0, inf), "ReLU": (0.0, inf), "relu6": (0.0, 6.0), "ReLU6": (0.0, 6.0), "sigmoid": (0.0, 1.0),
    "Sigmoid": (0.0, 1.0), "softmax": (0.0, 1.0), "Softmax": (0.0, 1.0), "Softmax2d": (0.0, 1.0),
    "hardsigmoid": (0.0, 1.0), "Hardsigmoid": (0.0, 1.0), "softplus": (0.0, inf), "Softplus": (0.0, inf),
    "tanh": (-1.0, 1.0), "Tanh": (-1.0, 1.0), "ELU": (-1.0, inf), "elu": (-1.0, inf),
}  # fmt: skip
_SIGMOIDS = ("sigmoid", "Sigmoid")
_SOFTMAXES = ("softmax", "Softmax", "Softmax2d")
_CLAMPS = ("relu", "ReLU", "relu6", "ReLU6")
_MAXIMA = ("max_pool", "adaptive_max_pool")
_MEANS = ("avg_pool", "mean")


def unused(view: View) -> Iterator[Advice]:
    """Parameters that the computation never reads; those that training reads (auxiliary heads) are said to be so."""
    found = list(view.anatomy.unused)
    total = view.anatomy.params - sum(layer.params for layer in view.layers)
    if view.module is not None and found:
        counts = {name: p.numel() for name, p in view.module.named_parameters()}
        try:
            read = read_in_training(view.module, [tuple(shape[1:]) for shape in view.anatomy.inputs])
        except NetError:
            read = set()
        found = [name for name in found if name not in read]
        total = sum(counts.get(name, 0) for name in found)
    if not found:
        return
    layers = tuple(dict.fromkeys(name.rpartition(".")[0] or name for name in found))
    only = "" if view.module is not None else "; if training reads them (auxiliary heads), only for inference"
    yield Advice(
        "unused",
        layers,
        f"{len(found)} parameters with {total:,} numbers ({percent(total, view.anatomy.params)}) are never read: "
        f"{some(found)}",
        f"remove them{only}",
        saves_params=total,
        saves_bytes=view.item * total,
        rewrite="remove-unused",
    )


def dead_bias(view: View) -> Iterator[Advice]:
    """Biases directly before BN, which subtracts the mean."""
    found: list[tuple[Layer, str]] = []
    count = 0
    for layer in view.weighted:
        users = view.users[layer.index]
        bias = layer.params - layer.weights
        if len(users) == 1 and bias == (layer.output[1] if len(layer.output) > 1 else 0) > 0:
            norm = view.layers[users[0]]
            if is_norm(norm) and norm.inputs[:1] == (layer.output,) and layer.index in norm.sources:
                found.append((layer, norm.name))
                count += bias
    if not found:
        return
    yield Advice(
        "dead-bias",
        names(x for x, _ in found),
        f"{count:,} biases of {len(found)} layers ({found[0][0].name} ...) go into a normalisation "
        f"({found[0][1]} ...) that subtracts the mean",
        "bias=False",
        saves_params=count,
        saves_bytes=view.item * count,
        rewrite="remove-dead-bias",
    )


def activation(view: View) -> Iterator[Advice]:
    """Activations that leave every value that can arrive as it is: ReLU behind ReLU, behind a sigmoid or a softmax."""
    ranges: dict[int, tuple[float, float]] = {}
    found: list[tuple[Layer, Layer]] = []
    for layer in view.layers:
        low, high = _joined(layer, [ranges.get(s, (-inf, inf)) for s in layer.sources])
        if (leaves := _IDENTITY_ON.get(layer.kind)) and leaves[0] <= low and high <= leaves[1] and layer.operators:
            made = view.sources[layer.index]
            source = view.layers[made[0]] if made and made[0] >= 0 else layer
            found.append((layer, source))
            ranges[layer.index] = (low, high)
        else:
            ranges[layer.index] = _passed(layer, low, high)
    if not found:
        return
    layer, source = found[0]
    yield Advice(
        "activation",
        names(x for x, _ in found),
        f"{layer.name} ({layer.kind}) gets only values from {source.name} ({source.kind}) that it does not change",
        "remove it",
        saves_bytes=sum(x.output_bytes for x, _ in found),
    )


def _joined(layer: Layer, given: list[tuple[float, float]]) -> tuple[float, float]:
    if not given:
        return -inf, inf
    if layer.kind in ("add", "add_"):
        return sum(low for low, _ in given), sum(high for _, high in given)
    return min(low for low, _ in given), max(high for _, high in given)


def _passed(layer: Layer, low: float, high: float) -> tuple[float, float]:
    """The interval of the results, from that of the inputs."""
    if layer.kind in _CLAMPS:
        least, most = _RANGE[layer.kind]
        return min(max(low, least), most), min(max(high, least), most)
    if layer.kind in _RANGE:
        return _RANGE[layer.kind]
    operators = [x.removeprefix("aten.").lstrip("_") for x in layer.operators]
    if not operators or layer.kind in ("cat", "stack", "Flatten", "PixelShuffle", "pixel_shuffle", "ChannelShuffle"):
        return low, high
    if len(operators) == 1 and operators[0].startswith(_MAXIMA):
        return low, high
    if len(operators) == 1 and operators[0].startswith((*_MEANS, "adaptive_avg_pool", "constant_pad")):
        return min(low, 0.0), max(high, 0.0)
    if layer.kind in ("add", "add_") and len(layer.sources) > 1:
        return low, high
    if layer.kind == "LocalResponseNorm" and low >= 0:
        return 0.0, inf
    return -inf, inf


def dead_branch(view: View) -> Iterator[Advice]:
    """Layers whose results reach no output."""
    wanted = list(view.anatomy.outputs)
    alive: set[int] = set()
    for layer in reversed(view.layers):
        if layer.index in alive or not layer.operators:
            if layer.index in alive:
                alive.update(layer.sources)
            continue
        # PyTorch tells which shapes come out, not which layer made them: the latest of each shape is taken
        same = [s for s in wanted if any(prod(s) == prod(o) for o in layer.outputs)]
        if not view.users[layer.index] and same:
            wanted.remove(same[0])
            alive.add(layer.index)
            alive.update(layer.sources)
    dead = [x for x in view.layers if x.operators and x.index not in alive]
    if wanted or not dead:  # an output that is also read on the way: which layers are dead cannot be told
        return
    params, macs = sum(x.params for x in dead), sum(x.macs for x in dead)
    yield Advice(
        "dead-branch",
        names(dead),
        f"the result of {dead[-1].name} reaches no output: {len(dead)} layers, {macs:,} multiply-adds for nothing "
        "in evaluation",
        "remove the branch, or use its result; if only training uses it, remove it for inference",
        params,
        macs,
        view.item * params + sum(x.output_bytes for x in dead),
    )


def padding_only(view: View) -> Iterator[Advice]:
    """Weights that never meet anything but padding, because the map is smaller than the filter."""
    found: list[tuple[Layer, int]] = []
    for layer, conv in view.convs:
        used = 1
        for k, n, s, p, d, out in zip(
            conv.kernel, conv.size, conv.stride, conv.padding, conv.dilation, conv.out, strict=True
        ):
            used *= sum(any(0 <= x * s - p + o * d < n for x in range(out)) for o in range(k))
        idle = layer.params and conv.weights - conv.weights * used // prod(conv.kernel)
        if idle:
            found.append((layer, idle))
    if not found:
        return
    total, layer = sum(n for _, n in found), found[0][0]
    yield Advice(
        "padding-only",
        names(x for x, _ in found),
        f"{total:,} weights ({percent(total, view.anatomy.params)}) meet padding only: {layer.name} has "
        f"{shape_text(layer.settings['kernel'], 'x')} filters on a map of {shape_text(layer.inputs[0][2:], 'x')}",
        "larger pictures, or fewer strides before these layers; or smaller filters there",
        saves_params=total,
        saves_bytes=view.item * total,
    )


def channels(view: View, multiple: int = 8) -> Iterator[Advice]:
    """Numbers of channels that `multiple` does not divide, inputs of the net and its answers left out."""
    found: list[tuple[Layer, int]] = []
    extra = [0, 0]
    for layer in view.weighted:
        depthwise = layer.settings.get("groups", 1) > 1 and layer.settings["groups"] == layer.inputs[0][1]
        linear = layer.kind in ("Linear", "linear")
        if layer.index in view.last or depthwise or not (linear or "groups" in layer.settings):
            continue
        made = layer.output[-1] if linear else layer.output[1]
        if short := -made % multiple:
            found.append((layer, made))
            extra = [extra[0] + layer.params * short // made, extra[1] + layer.macs * short // made]
    if not found:
        return
    counts = sorted({made for _, made in found})
    shown = some([str(n) for n in counts], 8)
    near = some([str(n + -n % multiple) for n in counts], 8)
    yield Advice(
        "channels",
        names(x for x, _ in found),
        f"{shown} channels are not multiples of {multiple}, so matrix units work on padding",
        f"round up to {near}: costs a little, and is as fast or faster in bf16",
        -extra[0],
        -extra[1],
        -view.item * extra[0],
    )


def linear_stack(view: View) -> Iterator[Advice]:
    """Two linear layers or dense convolutions with no activation between, where the pair is no cheap factorisation."""
    pairs: list[tuple[Layer, Layer]] = []
    saved = [0, 0, 0]
    merges = True
    for first in view.weighted:
        second = _read_alone(view, first)
        if second is None:
            continue
        one, other = _dense(view, first), _dense(view, second)
        if one is None or other is None or one[1] != other[0] or one[1] < min(one[0], other[1]):
            continue  # fewer numbers between are a factorisation, which saves weights
        point = 1 in (prod(one[2]), prod(other[2]))
        if not point and one[2] != other[2]:
            continue  # k x 1 and 1 x k
        pairs.append((first, second))
        weights, positions = one[0] * other[1] * prod(one[2]) * prod(other[2]), prod(second.output) // other[1]
        biases = other[1] * (first.params > first.weights or second.params > second.weights)
        batch = view.anatomy.batch
        new = Cost(weights + biases, weights * positions // batch, prod(second.output) // batch)
        gain = view.saved([first, second], new)
        merges = merges and point and min(gain) >= 0 and first.params > 0 < second.params
        saved = [a + b for a, b in zip(saved, gain, strict=True)]
    if not pairs:
        return
    first, second = pairs[0]
    merged = "; or one layer in place of each pair, which computes the same" if merges else ""
    more = f" ({len(pairs)} such pairs)" if len(pairs) > 1 else ""
    yield Advice(
        "linear-stack",
        names(x for pair in pairs for x in pair),
        f"{second.name} ({second.kind}) reads {first.name} ({first.kind}) with no activation between{more}: "
        "together they are one linear map",
        f"an activation such as ReLU between them{merged}",
        *(saved if merges else (0, 0, 0)),
    )


def _read_alone(view: View, layer: Layer) -> Layer | None:
    """The layer with weights that alone reads this one, directly or through BN; None if there is none."""
    users = view.users[layer.index]
    while len(users) == 1:
        user = view.layers[users[0]]
        if len(view.sources[user.index]) != 1:
            return None
        if user.weights:
            return user
        if not is_norm(user):
            return None
        users = view.users[user.index]
    return None


def _dense(view: View, layer: Layer) -> tuple[int, int, tuple[int, ...]] | None:
    """(inputs, outputs, kernel) of a linear layer or a convolution with all channels in every filter; else None."""
    if layer.kind in ("Linear", "linear"):
        return layer.inputs[0][-1], layer.output[-1], ()
    conv = next((conv for x, conv in view.convs if x is layer), None)
    return None if conv is None or conv.groups > 1 else (conv.inputs, conv.outputs, conv.kernel)


def sigmoid_stack(view: View, sigmoids: int = 2) -> Iterator[Advice]:
    """Sigmoids one behind another, with nothing on the way that lifts the gradient again: a sum, or a normalisation."""
    depth: dict[int, list[Layer]] = {}
    longest: list[Layer] = []
    for layer in view.layers:
        chain = max((depth.get(s, []) for s in view.sources[layer.index]), key=len, default=[])
        if layer.kind in _SIGMOIDS:
            chain = [*chain, layer]
            longest = max(longest, chain, key=len)
        elif len(view.sources[layer.index]) > 1 or "norm" in "".join(layer.operators):
            chain = []
        depth[layer.index] = chain
    if len(longest) < sigmoids:
        return
    yield Advice(
        "sigmoid-stack",
        names(longest),
        f"{len(longest)} sigmoids in a chain ({some(names(longest))}): each passes on at most a quarter of "
        f"the gradient, together {4.0 ** -len(longest):.2g}",
        "ReLU in place of those inside the net, or a normalisation in front of each; a sigmoid only for the answer",
    )


def softmax_answer(view: View) -> Iterator[Advice]:
    """A net that ends in a softmax, where cross-entropy applies one itself."""
    shapes = set(view.anatomy.outputs)
    found = [x for x in view.layers if x.kind in _SOFTMAXES and not view.users[x.index] and x.output in shapes]
    if not found or not view.last:
        return
    layer = found[0]
    classes = layer.output[1] if len(layer.output) > 1 else 1
    least = log(1 + (classes - 1) * exp(-1.0))
    yield Advice(
        "softmax-answer",
        names(found),
        f"the net ends in {layer.name} ({layer.kind}), and nn.CrossEntropyLoss applies a softmax itself: behind "
        f"two of them the loss of {classes} classes cannot fall below {least:.2f}",
        "return what the softmax reads (logits), and apply softmax where probabilities are shown; or keep it, and "
        "train with nn.NLLLoss on its logarithm",
    )
