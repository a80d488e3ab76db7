"""What a chain of layers cannot learn, or learns slowly, each kind as a function of a trace."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, log, prod

from .advice_view import Advice, View, is_norm, names, some
from .record import Layer
from .rewrite_plans import Cost

_SIGMOIDS = ("sigmoid", "Sigmoid")
_SOFTMAXES = ("softmax", "Softmax", "Softmax2d")


def linear_stack(view: View) -> list[Advice]:
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
        return []
    first, second = pairs[0]
    merged = "; or one layer in place of each pair, which computes the same" if merges else ""
    more = f" ({len(pairs)} such pairs)" if len(pairs) > 1 else ""
    return [
        Advice(
            "linear-stack",
            names(x for pair in pairs for x in pair),
            f"{second.name} ({second.kind}) reads {first.name} ({first.kind}) with no activation between{more}: "
            "together they are one linear map",
            f"an activation such as ReLU between them{merged}",
            *(saved if merges else (0, 0, 0)),
        )
    ]


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


def sigmoid_stack(view: View, sigmoids: int) -> list[Advice]:
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
        return []
    return [
        Advice(
            "sigmoid-stack",
            names(longest),
            f"{len(longest)} sigmoids in a chain ({some(names(longest))}): each passes on at most a quarter of "
            f"the gradient, together {4.0 ** -len(longest):.2g}",
            "ReLU in place of those inside the net, or a normalisation in front of each; a sigmoid only for the answer",
        )
    ]


def softmax_answer(view: View) -> list[Advice]:
    """A net that ends in a softmax, where cross-entropy applies one itself."""
    found = list(_answers(view))
    if not found:
        return []
    layer = found[0]
    classes = layer.output[1] if len(layer.output) > 1 else 1
    least = log(1 + (classes - 1) * exp(-1.0))
    return [
        Advice(
            "softmax-answer",
            names(found),
            f"the net ends in {layer.name} ({layer.kind}), and nn.CrossEntropyLoss applies a softmax itself: behind "
            f"two of them the loss of {classes} classes cannot fall below {least:.2f}",
            "return what the softmax reads (logits), and apply softmax where probabilities are shown; or keep it, and "
            "train with nn.NLLLoss on its logarithm",
        )
    ]


def _answers(view: View) -> Iterator[Layer]:
    shapes = set(view.anatomy.outputs)
    for layer in view.layers:
        if layer.kind in _SOFTMAXES and not view.users[layer.index] and layer.output in shapes and view.last:
            yield layer
