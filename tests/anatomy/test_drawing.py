"""Drawings: to scale, complete, readable, and the same every time."""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neocog import nets
from neocog.anatomy.drawing import to_svg
from neocog.anatomy.drawing_items import Chain, Fan, Item, Repeat, Tangle, walk
from neocog.anatomy.drawing_marks import text_width
from neocog.anatomy.drawing_plan import plan
from neocog.anatomy.drawing_steps import FROM, INPUT, TO, Step
from neocog.anatomy.record import Layer
from neocog.anatomy.trace import trace
from neocog.anatomy.whole import Anatomy

SVG = "{http://www.w3.org/2000/svg}"
ZOO = (
    "lenet5 lenet5_original alexnet_original vgg16 googlenet resnet18 resnet152 densenet121 mobilenet_v1_025 segnet "
    "inception_v3 se_resnet50 shufflenet_v2_x1_0 fcn8s_vgg16 c3d deepface tdnn unet_original cifar_resnet110 vae"
).split()
_traced: dict[str, Anatomy] = {}


def anatomy(name: str) -> Anatomy:
    if name not in _traced:
        with torch.device("meta"):
            net = nets.build(name)
        _traced[name] = trace(net, nets.facts(name).input, name=name, training_memory=False)
    return _traced[name]


def texts(svg: str) -> list[tuple[float, float, float, float, str]]:
    """(left, top, right, bottom, text) of every text; widths are estimates."""
    found = []
    for node in ElementTree.fromstring(svg).iter(f"{SVG}text"):
        css = node.get("class", "").split()
        size = 16 if "h" in css else 11 if "b" in css else 9 if {"s", "k"} & {*css} else 10
        x, y, w = float(node.get("x", "")), float(node.get("y", "")), 0.9 * text_width(node.text or "", size)
        left = x - w / 2 if "m" in css else x - w if "e" in css else x
        found.append((left, y - 0.7 * size, left + w, y, node.text or ""))
    return found


def faces(svg: str, kind: str) -> list[tuple[float, float]]:
    """(width, height) of the front of every box of a kind."""
    fronts = [node[1].get("d", "") for node in ElementTree.fromstring(svg).iter(f"{SVG}g") if node.get("class") == kind
              and len(node) > 3]  # fmt: skip
    return [(float(m[1]), float(m[2])) for d in fronts if (m := re.search(r"h([\d.]+)v([\d.]+)h", d))]


@pytest.mark.parametrize("name", ZOO)
def test_every_drawing_is_well_formed_small_and_readable(name: str) -> None:
    svg = to_svg(anatomy(name))
    root = ElementTree.fromstring(svg)
    assert len(svg.encode()) < 100_000
    assert svg == to_svg(anatomy(name))
    assert svg.count("http") == 1  # the name of SVG itself: nothing is fetched
    assert "<script" not in svg and "url(" not in svg
    _, _, width, height = map(float, root.get("viewBox", "").split())
    shown = texts(svg)
    for left, top, right, bottom, text in shown:
        assert left >= 0 and top >= 0 and right <= width and bottom <= height, text
    for k, a in enumerate(shown):
        for b in shown[k + 1 :]:
            assert not (a[0] < b[2] - 1 and b[0] < a[2] - 1 and a[1] < b[3] - 1 and b[1] < a[3] - 1), (a[4], b[4])


@pytest.mark.parametrize("name", ZOO)
def test_every_convolution_is_drawn_once_without_folding(name: str) -> None:
    drawn = [layer.index for step in walk(plan(anatomy(name), fold=False)) for layer in step.layers]
    assert len(set(drawn)) == len(drawn)
    computing = {layer.index for layer in anatomy(name).layers if layer.macs}
    assert computing <= set(drawn)


def test_lenet_is_proportional() -> None:
    svg = to_svg(anatomy("lenet5"))
    heights = [faces(svg, kind)[0][1] for kind in ("in", "co", "po")] + [faces(svg, "po")[1][1]]
    assert [h / heights[0] for h in heights] == pytest.approx([1, 28 / 32, 14 / 32, 5 / 32], rel=0.02)
    bars = [h for _, h in faces(svg, "fc")]  # channels range from 1 to 120: square roots
    assert [b / bars[0] for b in bars] == pytest.approx([1, math.sqrt(84 / 120), math.sqrt(10 / 120)], rel=0.02)
    assert "(proportional)" in svg and "(square-root scale)" in svg
    assert {"1", "6", "16", "120", "84", "10", "32×32", "28×28", "14×14", "10×10", "5×5", "/2"} <= {
        t[4] for t in texts(svg)
    }


def test_a_wide_range_of_sizes_is_drawn_by_square_roots() -> None:
    svg = to_svg(anatomy("vgg16"))
    heights = sorted({h for _, h in faces(svg, "po")}, reverse=True)
    assert [h / heights[0] for h in heights] == pytest.approx(
        [math.sqrt(n / 112) for n in (112, 56, 28, 14, 7)], rel=0.02
    )
    thick = sorted({w for w, _ in faces(svg, "co")})
    assert [t / thick[-1] for t in thick] == pytest.approx([math.sqrt(n / 512) for n in (64, 128, 256, 512)], rel=0.03)


def test_resnet152_is_folded_and_can_be_unfolded() -> None:
    folded = to_svg(anatomy("resnet152"))
    words = {t[4] for t in texts(folded)}
    assert {"×2", "×7", "×35", "layer3.1 – 35 Bottleneck"} <= words
    assert len(faces(to_svg(anatomy("resnet152"), fold=False), "co")) == 155
    assert len(faces(folded, "co")) < 40


def test_wrapping_keeps_to_the_width() -> None:
    for name in ("resnet18", "googlenet", "vgg16", "mobilenet_v1_025"):
        for width in (700, 1100, 1600):
            root = ElementTree.fromstring(to_svg(anatomy(name), width=width))
            assert float(root.get("width", "")) <= width + 20


def branches(chain: Chain) -> list[list[int]]:
    """Steps in each branch of every fan, outermost first."""
    found = []
    for item in chain.items:
        if isinstance(item, Fan):
            found.append(sorted(sum(1 for _ in walk(b)) for b in item.branches))
            for branch in item.branches:
                found += branches(branch)
    return found


def test_blocks_become_branches() -> None:
    assert branches(plan(anatomy("resnet18"), fold=False)) == [
        [0, 2],
        [0, 2],
        [1, 2],
        [0, 2],
        [1, 2],
        [0, 2],
        [1, 2],
        [0, 2],
    ]
    assert branches(plan(anatomy("googlenet"), fold=False)) == [[1, 2, 2, 2]] * 9
    assert branches(plan(anatomy("unet_original"))) == [[0, 25], [0, 18], [0, 11], [0, 4]]


class Dense(nn.Module):
    """A dense block whose every layer joins the list of all maps before."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(4 + 4 * i, 4, 3, padding=1) for i in range(4))

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self.layers:
            maps.append(layer(torch.cat(maps, 1)))
        return torch.cat(maps, 1)


def test_growing_lists_of_maps_are_nested_branches() -> None:
    chain = plan(trace(Dense(), (4, 8, 8)), fold=False)
    assert branches(chain) == [[0, 1]] * 4
    assert not any(isinstance(item, Tangle) for item in chain.items)


class Residual(nn.Module):
    """A U whose short way starts at a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.down, self.up = nn.Conv2d(4, 8, 2, 2), nn.ConvTranspose2d(8, 4, 2, 2)
        self.inner = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1 + k, dilation=1 + k) for k in range(9)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x)
        return self.last(x + self.up(self.inner(self.down(x))))


def test_a_long_way_round_hangs_below_the_short_one() -> None:
    root = ElementTree.fromstring(to_svg(trace(Residual(), (4, 32, 32))))
    sums = [node.get("transform", "") for node in root.iter(f"{SVG}g") if node.get("class") == "op"]
    heights = {float(s.split()[1].rstrip(")")) for s in sums}
    assert len(sums) == 2 and len(heights) == 1  # the short way is straight


def test_names_are_escaped() -> None:
    nasty = "<script>&\"'</svg>"
    ElementTree.fromstring(to_svg(trace(nn.Linear(2, 2), (2,), name="null \0 and \ud800")))
    net = nn.Sequential()
    net.add_module(nasty.replace(".", ""), nn.Conv2d(1, 2, 3))
    svg = to_svg(trace(net, (1, 9, 9), name=nasty), title=nasty)
    assert nasty in {t[4] for t in texts(svg)}


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (nn.Identity(), (3,)),
        (nn.Sequential(), (3, 8, 8)),
        (nn.Linear(3, 1), (3,)),
        (nn.LSTM(8, 16, batch_first=True), (5, 8)),
        (nn.TransformerEncoderLayer(16, 2, batch_first=True), (5, 16)),
        (nn.Conv1d(2, 1000, 3), (2, 50)),
        (nn.Conv3d(1, 2, 3), (1, 9, 9, 9)),
        (nn.Bilinear(3, 4, 5), [(3,), (4,)]),
    ],
)  # fmt: skip
def test_unusual_nets_can_be_drawn(net: nn.Module, shape: object) -> None:
    ElementTree.fromstring(to_svg(trace(net, shape)))


def by_hand(sources: list[tuple[int, ...]]) -> Anatomy:
    """A net of 1x1 convolutions with these connections; -1 is the first input, -2 the second."""
    shape = (1, 8, 4, 4)
    layers = tuple(
        Layer(i, f"l{i}", f"l{i}", "Conv2d", (shape,) * len(s), (shape,), tuple(dict.fromkeys(max(n, -1) for n in s)),
              ("aten.convolution",), {"kernel": (1, 1), "stride": (1, 1)}, macs=i + 1, params=i + 1,
              reads=tuple(-1 - n for n in s if n < 0))
        for i, s in enumerate(sources)
    )  # fmt: skip
    modules = {"": "Net"} | {layer.name: "Conv2d" for layer in layers}
    inputs = (shape,) * -min(-1, *(n for s in sources for n in s))
    return Anatomy("net", inputs, (shape,), layers, modules, 1, 1, 0, (), 4, 4, None, {})


def arrows(chain: Chain) -> Counter[tuple[Step, Step]]:
    """Connections that a plan shows."""
    found: Counter[tuple[Step, Step]] = Counter()

    def follow(item: Item | Chain, ends: list[Step]) -> list[Step]:
        if isinstance(item, Step):
            found.update((end, item) for end in ends if item.kind != INPUT)
            return [item]
        if isinstance(item, Fan):
            return [end for b in item.branches for end in (follow(b, ends) if b.joined else follow(b, ends)[:0])]
        if isinstance(item, Tangle):
            inside = {step.number: step for step in walk(item)}
            for a, b in item.edges:
                found.update((end, inside[b]) for end in (ends if a == -1 else [inside[a]]) if inside[b].kind != INPUT)
            return [inside[n] for n in item.ends]
        assert not isinstance(item, Repeat)
        for inner in item.items:
            ends = follow(inner, ends)
        return ends

    follow(chain, [])
    return found


@st.composite
def graphs(draw: st.DrawFn) -> list[tuple[int, ...]]:
    """What each step reads; the inputs are -1, -2, ..."""
    count, inputs = draw(st.integers(1, 14)), draw(st.integers(1, 3))
    return [
        tuple(sorted(draw(st.sets(st.integers(-inputs, i - 1), min_size=1, max_size=3), label=f"sources of {i}")))
        for i in range(count)
    ]


@given(graphs())
@settings(max_examples=200)
def test_a_plan_shows_every_step_and_every_connection_once(sources: list[tuple[int, ...]]) -> None:
    net = by_hand(sources)
    chain = plan(net, fold=False)
    steps = list(walk(chain))
    several = len({s for some in sources for s in some if s < 0}) > 1
    names: dict[int, object] = {}  # by id: one that stands for a map elsewhere has its name
    for step in steps:
        number = -int(step.label[0][6:]) if step.kind == INPUT and several else -1
        names[id(step)] = step.label[0] if step.kind in (TO, FROM) else step.layers[0].index if step.layers else number
    drawn = [names[id(s)] for s in steps if s.kind not in (TO, FROM)]
    used = {s for some in sources for s in some if s < 0} if several else {-1}
    assert sorted(drawn) == sorted(used) + list(range(len(sources)))  # type: ignore[type-var]
    pairs = arrows(chain)
    named = {names[id(b)]: names[id(a)] for a, b in pairs if b.kind == TO}
    shown: Counter[tuple[object, object]] = Counter()
    for (a, b), times in pairs.items():
        if b.kind not in (TO, FROM):
            shown[named.get(names[id(a)], names[id(a)]), names[id(b)]] += times
    expected = Counter((s if several else max(s, -1), i) for i, some in enumerate(sources) for s in some)
    assert shown == expected
    ElementTree.fromstring(to_svg(net))


@pytest.mark.parametrize("count", [2000])
def test_a_very_long_net_is_planned_in_time_and_stays_small(count: int) -> None:
    chain = by_hand([(i - 1,) for i in range(count)])
    svg = to_svg(chain)
    assert len(svg.encode()) < 300_000
    skipping = by_hand([(i - 1,) if i % 3 else (i - 1, max(-1, i - 3)) for i in range(600)])
    assert len(to_svg(skipping).encode()) < 300_000


# --- several inputs, tokens ------------------------------------------------------------------------------------------


def lines(svg: str) -> list[list[tuple[float, float]]]:
    """Corners of every wire."""
    paths = [node.get("d", "") for node in ElementTree.fromstring(svg).iter(f"{SVG}path") if node.get("class") == "w"]
    return [[(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)(?=[LQ]|$)", d)] for d in paths]


def fronts(svg: str) -> list[tuple[float, float, float, float]]:
    """(left, top, right, bottom) of the front of every box."""
    found = []
    for node in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        if len(node) > 3 and (m := re.match(r"M([\d.]+) ([\d.]+)h([\d.]+)v([\d.]+)", node[1].get("d", ""))):
            x, y, w, h = map(float, m.groups())
            found.append((x, y, x + w, y + h))
    return found


@pytest.mark.parametrize(("layers", "same"), [(6, False), (6, True), (1, True)])
def test_a_transformer_is_two_chains(layers: int, same: bool) -> None:
    """The encoder, and the decoder, whose layers name the encoder's result; both are folded."""
    net = nn.Transformer(32, 4, layers, layers, 64, batch_first=True)
    svg = to_svg(trace(net, [(10, 32), (10 if same else 20, 32)]))
    words = Counter(t[4] for t in texts(svg))
    assert words["input 1"] == words["input 2"] == 1
    assert words["encoder"] == 2  # where it is made, and in the one decoder layer that is drawn
    assert words["×6"] == (2 if layers == 6 else 0)
    chain = plan(trace(net, [(10, 32), (20, 32)]))
    assert not any(isinstance(item, Tangle) for item in chain.items)
    assert len(faces(svg, "fc")) == 4 + 7
    for wire in lines(svg):
        for (ax, ay), (bx, by) in pairwise(wire):
            for left, top, right, bottom in fronts(svg):
                through = (min(ax, bx) < left and right < max(ax, bx) and top < ay < bottom and ay == by) or (
                    ax == bx and left < ax < right and min(ay, by) < bottom and max(ay, by) > top
                )
                assert not through
    shown = texts(svg)
    for k, a in enumerate(shown):
        for b in shown[k + 1 :]:
            assert not (a[0] < b[2] - 1 and b[0] < a[2] - 1 and a[1] < b[3] - 1 and b[1] < a[3] - 1), (a[4], b[4])


class Conditioned(nn.Module):
    """Every block adds a projection of a second input."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.blocks = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(blocks))
        self.projections = nn.ModuleList(nn.Linear(16, 4) for _ in range(blocks))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = self.embed(t)
        for block, projection in zip(self.blocks, self.projections, strict=True):
            x = torch.relu(block(x) + projection(t)[:, :, None, None])
        return x


def test_an_input_that_is_read_in_many_places_is_named_there() -> None:
    net = trace(Conditioned(3), [(4, 8, 8), (8,)])
    chain = plan(net, fold=False)
    assert [step.label[0] for step in walk(chain) if step.kind in (TO, FROM)] == ["embed"] * 4
    assert not any(isinstance(item, Tangle) for item in chain.items)
    folded = to_svg(net)
    assert "×3" in {t[4] for t in texts(folded)} and len(faces(folded, "co")) == 1


def test_inputs_that_join_once_are_branches() -> None:
    chain = plan(trace(nn.Bilinear(3, 4, 5), [(3,), (4,)]))
    assert branches(chain) == [[1, 1]]
    assert [(s.label, s.volume.channels) for s in walk(chain)][:2] == [(("input 1",), 3), (("input 2",), 4)]


class Tokens(nn.Module):
    """A picture as tokens with one more in front, as in ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 24, 4, 4)
        self.extra = nn.Parameter(torch.zeros(1, 1, 24))
        self.attend = nn.MultiheadAttention(24, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.extra.expand(len(x), -1, -1), x], 1)
        return x + self.attend(x, x, x, need_weights=False)[0]


def test_channels_stay_channels_when_they_become_the_last_dimension() -> None:
    steps = {s.layers[0].kind: s.volume for s in walk(plan(trace(Tokens(), (3, 16, 16)))) if s.layers}
    assert (steps["cat"].channels, steps["cat"].extent) == (24, (17,))
    assert (steps["attention"].channels, steps["attention"].extent) == (24, (17,))
    assert (steps["linear"].channels, steps["linear"].extent) == (24, (17,))


def test_names_below_a_drawing_are_those_of_one_module() -> None:
    words = {t[4] for t in texts(to_svg(anatomy("densenet121")))}
    assert {f"denseblock{k}.denselayer1 – {n} DenseLayer" for k, n in enumerate((6, 12, 24, 16), start=1)} <= words
