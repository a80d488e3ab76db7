"""The design guidelines of the lecture slides, each as a function of a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import ceil, prod

from . import rewrite_plans as plans
from .advice_view import Advice, View, names, percent, positions, some
from .output import shape_text
from .record import Layer
from .rewrite_plans import Conv, Cost


def bottleneck(view: View, fall: float = 8.0) -> Iterator[Advice]:
    """The numbers that are alive (what later layers will still read) fall by more than `fall` in one layer."""
    layers = [layer for layer in view.layers if layer.operators]
    last_use = {-1: -1}
    for layer in layers:
        for source in view.sources[layer.index]:
            last_use[source] = layer.index
    size = {-1: sum(prod(shape) for shape in view.anatomy.inputs)}
    alive, before = {-1}, size[-1]
    found: list[tuple[float, Layer, int, int]] = []
    for layer in layers:
        size[layer.index] = sum(prod(shape) for shape in layer.outputs)
        alive = {i for i in alive if last_use.get(i, -1) > layer.index} | {layer.index}
        after = sum(size[i] for i in alive)
        spatial = layer.field is not None and len(layer.output) > 2 and positions(layer.output) > 1
        scores = layer.weights and layer.output[1:2] in [shape[1:2] for shape in view.anatomy.outputs]
        answers = scores or layer.index in view.last
        if spatial and not answers and after and before > fall * after:
            found.append((before / after, layer, before, after))
        before = after
    if not found:
        return
    worst, layer, old, new = max(found, key=lambda item: item[0])
    extra = [item[0] / fall - 1 for item in found]
    params = -sum(int(f * item[1].params) for f, item in zip(extra, found, strict=True))
    macs = -sum(int(f * item[1].macs) for f, item in zip(extra, found, strict=True))
    yield Advice(
        "bottleneck",
        names(item[1] for item in found),
        f"{layer.name} leaves {new:,} of {old:,} numbers: {worst:.1f} times fewer in one step (limit {fall:g})",
        f"shrink in two steps with a layer between, or give it {worst / fall:.1f} times the channels; or let a "
        "strided convolution and pooling run side by side and join them",
        params,
        macs,
        view.item * params,
    )


def receptive_field(view: View, field_share: float = 0.5, field_excess: float = 12.0) -> Iterator[Advice]:
    """A position of the last map sees too little of the picture; or far more than there is."""
    picture = view.anatomy.inputs[0] if view.anatomy.inputs else ()
    spatial = [x for x in view.layers if x.field and len(x.output) > 2 and positions(x.output) > 1 and x.operators]
    if not spatial or len(picture) < 3 or view.anatomy.field_lost_at is not None:
        return
    last = spatial[-1]
    field = last.field
    assert field is not None
    sides = picture[2:]
    if len(field.size) != len(sides) or field.whole:
        return
    shares = [n / side for n, side in zip(field.size, sides, strict=True)]
    seen = f"a position of {last.name} sees {shape_text(field.size, 'x')} of the {shape_text(sides, 'x')} picture"
    if min(shares) > field_excess:
        first = next(x for x in spatial if x.field and all(n >= s for n, s in zip(x.field.size, sides, strict=True)))
        macs = sum(x.macs for x in view.layers[first.index + 1 :])
        yield Advice(
            "receptive-field",
            (last.name,),
            f"{seen}; {first.name} already sees all of it, and {percent(macs, view.anatomy.macs)} of the "
            "multiply-adds come later",
            "use larger pictures, fewer early strides, or fewer layers",
        )
        return
    if min(shares) >= field_share or any(_sees_all(view, x) for x in view.layers[last.index + 1 :]):
        return
    axis = shares.index(min(shares))
    step = max(int(x.field.stride[axis]) for x in spatial if x.field is not None)
    missing = ceil((field_share * sides[axis] - field.size[axis]) / (2 * step))
    yield Advice(
        "receptive-field",
        (last.name,),
        f"{seen}: {percent(min(shares), 1)} (at least {percent(field_share, 1)} expected); "
        "larger objects cannot be recognised",
        f"add {missing} 3x3 layers where the stride is {step}, or dilate the existing ones, or stride earlier",
    )


def _sees_all(view: View, layer: Layer) -> bool:
    """True for a layer with weights for every position of a map."""
    covers = "groups" in layer.settings and positions(layer.output) == 1 and prod(layer.settings["kernel"]) > 1
    return bool(layer.weights) and (covers or view.flattened(layer) is not None)


def large_filter(view: View, side: int = 5) -> Iterator[Advice]:
    """Filters of `side` or more that a cheaper chain of 3x3 replaces: 25 C C against 18 C C. An item for each size."""
    by_side: dict[int, list[tuple[Layer, Conv]]] = {}
    for layer, conv in view.convs:
        links = plans.chain(conv, norm=view.norm) if plans.fits_chain(conv, side) else []
        if links and view.cheaper(layer, links):
            by_side.setdefault(conv.kernel[0], []).append((layer, conv))
    for k, chosen in by_side.items():
        who, saved = view.replaced(chosen, lambda conv: plans.chain(conv, norm=view.norm))
        conv = chosen[0][1]
        links = plans.chain(conv, norm=view.norm)
        new = sum(step.weights for step in links)
        old = sum(c.weights for _, c in chosen)
        steps = shape_text([step.stride[0] for step in links], ", ")
        strides = "" if conv.stride[0] == 1 else f", strides {steps}"
        yield Advice(
            "large-filter",
            who,
            f"{k}x{k} filters: {old:,} weights, {sum(x.macs for x, _ in chosen):,} multiply-adds; {who[0]} "
            f"({conv.inputs} -> {conv.outputs} channels) has {conv.weights:,} weights, a chain {new:,}",
            f"{len(links)} convolutions of 3x3 with ReLU between{strides}: the same receptive field, with more "
            "non-linearity",
            *saved,
            rewrite="chain-3x3",
        )


def heavy_layer(view: View, heavy_share: float = 0.2, least_channels: int = 64) -> Iterator[Advice]:
    """Layers that hold more than `heavy_share` of all parameters."""
    total = view.anatomy.params
    wide: list[tuple[Layer, Conv]] = []
    linear: list[tuple[Layer, int]] = []
    done: set[int] = set()
    convs = {layer.index: conv for layer, conv in view.convs}
    squeeze = partial(plans.squeezed, norm=view.norm)
    for layer in view.weighted:
        if layer.index in done or layer.params <= heavy_share * total:
            continue
        conv = convs.get(layer.index)
        if (source := view.flattened(layer)) is not None:
            yield _pooled_head(view, layer, source, _holds([layer], total))
            done |= {x.index for x in view.behind(layer)}
        elif conv and plans.fits_dense(conv, least_channels) and view.cheaper(layer, squeeze(conv)):
            wide.append((layer, conv))
        elif layer.kind == "Linear" and len(layer.output) == 2 and layer.index not in view.last:
            rank = max(min(layer.inputs[0][-1], layer.output[-1]) // 4, 1)
            if rank * (layer.inputs[0][-1] + layer.output[-1]) < layer.weights:
                linear.append((layer, rank))
    if wide:
        who, saved = view.replaced(wide, squeeze)
        change = "a 1x1 convolution to a quarter of the channels in front (GoogLeNet, ResNet)"
        yield Advice("heavy-layer", who, _holds([x for x, _ in wide], total), change, *saved)
    if linear:
        layers = [x for x, _ in linear]
        weights = sum(n * (x.inputs[0][-1] + x.output[-1]) for x, n in linear)
        biases = sum(x.params - x.weights for x in layers)
        saved = view.saved(layers, Cost(weights + biases, weights, sum(x.output[-1] + n for x, n in linear)))
        change = f"two linear layers with {' or '.join(str(n) for _, n in linear)} numbers between, in place of each"
        yield Advice("heavy-layer", names(layers), _holds(layers, total), change, *saved, rewrite="low-rank")


def _holds(layers: Sequence[Layer], total: int) -> str:
    params = sum(x.params for x in layers)
    verb = "holds" if len(layers) == 1 else "hold"
    return f"{some(names(layers))} {verb} {params:,} of {total:,} parameters ({percent(params, total)})"


def _pooled_head(view: View, layer: Layer, source: Layer, evidence: str) -> Advice:
    behind = list(view.behind(layer))
    head = [layer, *behind]
    linear = [x for x in head if x.weights]
    simple = all(x.kind == "Linear" and len(x.output) == 2 for x in linear) and all(
        len(view.users[x.index]) <= 1 for x in head
    )
    channels = source.output[1]
    last = linear[-1]
    answers = last.output[-1] if simple else layer.output[-1]
    bias = last.params > last.weights if simple else layer.params > layer.weights
    weights = channels * answers
    new = Cost(weights + answers * bias, weights, answers + channels)
    saved = view.saved([x for x in head if x.index <= last.index] if simple else [layer], new)
    return Advice(
        "heavy-layer",
        names(linear) if simple else (layer.name,),
        f"{evidence}: a weight for each of {channels} x {shape_text(source.output[2:], 'x')} numbers",
        f"the mean over each of the {channels} maps, then one linear layer to {answers} "
        "(global average pooling; Network in Network, GoogLeNet)",
        *saved,
        rewrite="global-pool" if simple else "",
    )


Chosen = list[tuple[Layer, Conv]]


def _dense(
    view: View, rule: str, least_channels: int, dense_share: float, plan: Callable[[Conv], list[Conv]],
    change: Callable[[Chosen], str], axes: Sequence[int] = (1, 2, 3),
) -> Iterator[Advice]:  # fmt: skip
    """Dense filters that `plan` makes cheaper, if together they take more than `dense_share` of the multiply-adds."""
    chosen = [(x, c) for x, c in view.convs if plans.fits_dense(c, least_channels) and len(c.kernel) in axes]
    chosen = [(x, c) for x, c in chosen if view.cheaper(x, plan(c))]
    macs, params = sum(x.macs for x, _ in chosen), sum(x.params for x, _ in chosen)
    if macs <= dense_share * view.anatomy.macs:
        return
    who, saved = view.replaced(chosen, plan)
    kernels = " and ".join(dict.fromkeys(shape_text(c.kernel, "x") for _, c in chosen))
    many = "dense convolutions read" if len(chosen) > 1 else "dense convolution reads"
    evidence = (
        f"{len(chosen)} {kernels} {many} all channels with every filter: {macs:,} multiply-adds "
        f"({percent(macs, view.anatomy.macs)}), {params:,} parameters ({percent(params, view.anatomy.params)})"
    )
    yield Advice(rule, who, evidence, change(chosen), *saved, rewrite=rule)


def depthwise(view: View, least_channels: int = 64, dense_share: float = 0.1) -> Iterator[Advice]:
    """Dense filters -> one filter per channel, and a 1x1 convolution: 1/K + 1/9 of the weights for 3x3."""

    def change(chosen: Chosen) -> str:
        most = max(chosen, key=lambda item: item[0].macs)[1]
        left = 1 / most.outputs + 1 / prod(most.kernel)
        return (
            f"one filter per channel and a 1x1 convolution (MobileNet): at {most.inputs} -> {most.outputs} channels "
            f"1/{most.outputs} + 1/{prod(most.kernel)} = {left:.3f} of the weights"
        )

    return _dense(view, "depthwise", least_channels, dense_share, partial(plans.separable, norm=view.norm), change)


def groups(view: View, least_channels: int = 64, dense_share: float = 0.1) -> Iterator[Advice]:
    """Dense filters -> groups of filters, and a 1x1 convolution that mixes them."""

    def change(chosen: Chosen) -> str:
        many = sorted({plans.grouped(conv)[0].groups for _, conv in chosen}, reverse=True)
        return f"filters in {' or '.join(map(str, many))} groups (AlexNet, ResNeXt), and a 1x1 convolution to mix them"

    return _dense(view, "groups", least_channels, dense_share, plans.grouped, change)


def low_rank(view: View, least_channels: int = 64, dense_share: float = 0.1) -> Iterator[Advice]:
    """k x k -> k x 1 and 1 x k."""
    change = "a vertical and a horizontal filter (k x 1, 1 x k) in place of each; they can start from the old weights"
    return _dense(view, "low-rank", least_channels, dense_share, plans.split, lambda _: change, axes=(2,))


def dilation(view: View, output_stride: int = 8) -> Iterator[Advice]:
    """A net that answers for every position shrinks its map by more than `output_stride`, and enlarges it again."""
    outputs = view.anatomy.outputs
    picture = view.anatomy.inputs[0] if view.anatomy.inputs else ()
    if not outputs or len(outputs[0]) < 4 or positions(outputs[0]) <= 1 or len(picture) != len(outputs[0]):
        return
    strides = {-1: 1.0} | {x.index: float(max(x.field.stride)) for x in view.layers if x.field is not None}
    grown = [
        x
        for x in view.layers
        if x.index in strides and any(strides.get(s, 0) > strides[x.index] for s in view.sources[x.index])
    ]
    coarse = [x for x in view.layers if strides.get(x.index, 0) > output_stride and positions(x.output) > 1]
    if not grown or not coarse:
        return
    smallest = max(coarse, key=lambda x: strides[x.index])
    worst = strides[smallest.index]
    axes = len(outputs[0]) - 2
    times = {x.index: (strides[x.index] / output_stride) ** axes - 1 for x in coarse}
    first = [
        x
        for x in coarse
        if all(strides.get(s, 1.0) < strides[x.index] for s in view.sources[x.index]) and x not in grown
    ] or coarse[:1]
    joins = any(len(view.sources[x.index]) > 1 and x.index > grown[0].index for x in view.layers)
    turned = any(x.settings.get("transposed") or "unpool" in "".join(x.operators) for x in view.layers)
    yield Advice(
        "dilation",
        names(first),
        f"the map shrinks {worst:g} times ({shape_text(smallest.output[2:], 'x')}) and is "
        f"enlarged again by {some(names(grown))}: smaller details are lost on the way"
        + (", as far as no skip connection carries it" if joins else ""),
        f"stop at stride {output_stride}: stride 1 in these layers, and dilated filters behind them; same weights, "
        "same receptive field" + ("; the layers that enlarge the map shrink or go" if turned else ""),
        saves_macs=-sum(int(times[x.index] * x.macs) for x in coarse),
        saves_bytes=-sum(int(times[x.index] * x.output_bytes) for x in coarse),
        rewrite="" if turned else "dilate",
    )
