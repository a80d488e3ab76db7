"""trace on modules that are not ours: any input, recurrent, attention, functional code, sharing, fallbacks, errors."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._higher_order_ops import while_loop
from torch.nn.utils import parametrizations, parametrize

from neocog.anatomy import advise
from neocog.anatomy.trace import trace
from neocog.anatomy.whole import Anatomy
from neocog.errors import NetError


class Applied(nn.Module):
    """A function of the module and its arguments; `parts` become attributes."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def applied(function: Callable[..., Any], given: Any, **parts: Any) -> Anatomy:
    return trace(Applied(function, **parts), given)


# --- inputs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "given", "shapes", "macs"),
    [
        (lambda net, x: net.conv(x), (3, 8, 8), [(1, 3, 8, 8)], 36 * 108),
        (lambda net, x: net.conv(x), [3, 8, 8], [(1, 3, 8, 8)], 36 * 108),
        (lambda net, x: net.conv(x), torch.zeros(2, 3, 8, 8), [(2, 3, 8, 8)], 2 * 36 * 108),
        (lambda net, x: net.conv(x), (torch.zeros(2, 3, 8, 8),), [(2, 3, 8, 8)], 2 * 36 * 108),
        (lambda net, x: net.conv(x), {"x": (3, 8, 8)}, [(1, 3, 8, 8)], 36 * 108),
        (lambda net, a, b: a @ b, [(4, 5), (5, 3)], [(1, 4, 5), (1, 5, 3)], 60),
        (lambda net, a, b: a @ b, (torch.zeros(4, 5), torch.zeros(5, 3)), [(4, 5), (5, 3)], 60),
        (lambda net, *, a, b: a @ b, {"a": (4, 5), "b": torch.zeros(1, 5, 3)}, [(1, 4, 5), (1, 5, 3)], 60),
        (lambda net, d: d["a"] @ d["b"], ({"a": torch.zeros(4, 5), "b": torch.zeros(5, 3)},), [(4, 5), (5, 3)], 60),
        (lambda net, x, mask=None: x @ x, (torch.zeros(4, 4), None), [(4, 4)], 64),
        (lambda net, x, twice: x @ x @ x if twice else x, {"x": torch.zeros(4, 4), "twice": True}, [(4, 4)], 128),
        (lambda net, ids: net.words(ids) @ net.words.weight.T, torch.zeros(2, 7, dtype=torch.long), [(2, 7)], 14 * 80),
    ],
)
def test_any_input(function: Callable[..., Any], given: Any, shapes: list[tuple[int, ...]], macs: int) -> None:
    anatomy = applied(function, given, conv=nn.Conv2d(3, 4, 3), words=nn.Embedding(10, 8))
    assert (list(anatomy.inputs), anatomy.macs, anatomy.notes) == (shapes, macs, ())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_bytes_are_those_of_the_type(dtype: torch.dtype) -> None:
    anatomy = trace(nn.Conv1d(3, 4, 3, dtype=dtype), torch.zeros(1, 3, 9, dtype=dtype))
    size = torch.empty(0, dtype=dtype).element_size()
    assert anatomy.macs == 7 * 36
    assert anatomy.layers[0].output_bytes == 28 * size
    assert anatomy.param_bytes == (36 + 4) * size
    assert anatomy.peak_bytes == (27 + 28) * size


def test_a_shape_takes_the_type_of_the_parameters() -> None:
    assert trace(nn.Conv1d(3, 4, 3).half(), (3, 9)).peak_bytes == 2 * (27 + 28)


def test_complex_numbers() -> None:
    """A product of complex numbers is three real ones (Gauss), as PyTorch computes convolutions, whatever the layer."""
    anatomy = trace(nn.Conv1d(3, 4, 3, dtype=torch.complex64), torch.zeros(1, 3, 9, dtype=torch.complex64))
    assert (anatomy.macs, anatomy.outputs, anatomy.param_bytes) == (3 * 7 * 36, ((1, 4, 7),), 8 * 40)
    assert applied(lambda net, x: x @ x, torch.zeros(4, 4, dtype=torch.complex64)).macs == 3 * 64
    assert trace(nn.Linear(3, 4, dtype=torch.complex64), torch.zeros(9, 3, dtype=torch.complex64)).macs == 3 * 9 * 12
    one = trace(nn.Conv1d(3, 4, 1, dtype=torch.complex64), torch.zeros(1, 3, 9, dtype=torch.complex64))
    assert one.macs == 3 * 9 * 12


def test_integers_and_truth_values() -> None:
    anatomy = applied(lambda net, i, b: torch.where(b, i + 1, i), (torch.ones(3, dtype=torch.long), torch.ones(3) > 0))
    assert (anatomy.macs, anatomy.outputs, anatomy.uncounted) == (0, ((3,),), {})


def test_the_same_tensor_given_twice_stays_the_same() -> None:
    """nn.MultiheadAttention asks `query is key` and then uses one product for all three."""
    x = torch.zeros(3, 4)

    def forward(net: Any, a: Tensor, b: Tensor) -> Tensor:
        return a @ net.w if a is b else a @ net.w + b @ net.w

    w = nn.Parameter(torch.zeros(4, 5))
    assert applied(forward, (x, x), w=w).macs == 60
    assert applied(forward, (x, x.clone()), w=w).macs == 120
    assert trace(nn.MultiheadAttention(8, 2), (torch.zeros(5, 1, 8),) * 3).layers[0].macs == 5 * 8 * 24


# --- closed forms ------------------------------------------------------------------------------------------------


def _recurrent(gates: int, features: int, hidden: int, layers: int, ways: int, projected: int = 0) -> int:
    """Multiply-adds of one step: gates from the input and the state below, and from the own state."""
    own = projected or hidden
    below = [features] + [own * ways] * (layers - 1)
    return sum(ways * (gates * hidden * (b + own) + projected * hidden) for b in below)


@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_recurrent(kind: Any, gates: int, layers: int, both: bool, first: bool) -> None:
    net = kind(6, 5, layers, bidirectional=both, batch_first=first)
    x = torch.zeros(2, 7, 6) if first else torch.zeros(7, 2, 6)
    anatomy = trace(net, x)
    assert anatomy.macs == 14 * _recurrent(gates, 6, 5, layers, 1 + both)
    assert anatomy.uncounted == {} and anatomy.unused == () and anatomy.notes == ()
    assert anatomy.outputs[0] == (*x.shape[:2], 5 * (1 + both))


def test_recurrent_with_projection_without_bias_and_packed() -> None:
    assert trace(nn.LSTM(6, 5, 2, proj_size=3), torch.zeros(7, 2, 6)).macs == 14 * _recurrent(4, 6, 5, 2, 1, 3)
    assert trace(nn.GRU(6, 5, bias=False), torch.zeros(7, 2, 6)).macs == 14 * _recurrent(3, 6, 5, 1, 1)

    def packed(net: Any, x: Tensor, lengths: Tensor) -> Tensor:
        sequence = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(net.lstm(sequence)[0], batch_first=True)[0]

    anatomy = applied(packed, (torch.zeros(2, 7, 6), torch.tensor([7, 4])), lstm=nn.LSTM(6, 5, batch_first=True))
    assert anatomy.macs == (7 + 4) * _recurrent(4, 6, 5, 1, 1)  # only the steps that are there
    assert anatomy.uncounted == {}


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_a_cell_in_a_loop_counts_every_step(cell: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        state = None
        for step in x:
            state = net.cell(step, state)
        return state[0] if isinstance(state, tuple) else state

    gates = {nn.RNNCell: 1, nn.GRUCell: 3, nn.LSTMCell: 4}[cell]
    anatomy = applied(forward, torch.zeros(7, 2, 6), cell=cell(6, 5))
    assert anatomy.macs == 14 * _recurrent(gates, 6, 5, 1, 1)
    assert [layer.name for layer in anatomy.layers if layer.macs] == ["cell"] * 7
    assert (
        anatomy.params
        == sum(layer.params for layer in anatomy.layers)
        == sum(p.numel() for p in cell(6, 5).parameters())
    )


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize(("n", "m", "heads"), [(5, 5, 2), (5, 9, 4), (1, 3, 1)])
def test_multi_head_attention(n: int, m: int, heads: int, weights: bool) -> None:
    d, batch = 8, 3
    net = Applied(
        lambda net, q, k: net.layer(q, k, k, need_weights=weights)[0], layer=nn.MultiheadAttention(d, heads)
    )  # fmt: skip
    anatomy = trace(net, (torch.zeros(n, batch, d), torch.zeros(m, batch, d)))
    assert anatomy.macs == batch * (2 * n * d * d + 2 * m * d * d + 2 * n * m * d)
    assert anatomy.params == 4 * d * d + 4 * d
    assert anatomy.unused == () and anatomy.uncounted == {}


def test_attention_of_three_kinds_costs_the_same() -> None:
    def by_hand(net: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.transpose(-2, -1) / 2, -1) @ v

    def by_einsum(net: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("bhnd,bhmd->bhnm", q, k).softmax(-1)
        return torch.einsum("bhnm,bhmd->bhnd", scores, v)

    def at_once(net: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    given = (torch.zeros(2, 3, 5, 4), torch.zeros(2, 3, 7, 4), torch.zeros(2, 3, 7, 6))
    for way in (by_hand, by_einsum, at_once):
        anatomy = applied(way, given)
        assert anatomy.macs == 2 * 3 * 5 * 7 * (4 + 6), way.__name__
        assert anatomy.outputs == ((2, 3, 5, 6),)
    grouped = applied(
        lambda net, q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        (torch.zeros(1, 8, 5, 4), torch.zeros(1, 2, 5, 4), torch.zeros(1, 2, 5, 4)),
    )
    assert grouped.macs == 2 * 8 * 5 * 5 * 4


def test_transformer_shows_its_layers() -> None:
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False)
    anatomy = trace(net, torch.zeros(3, 5, 8))
    one = 15 * 8 * 32 + 3 * 2 * 5 * 5 * 8 + 2 * 15 * 8 * 16
    assert anatomy.macs == 2 * one
    assert {"layers.0.linear1", "layers.0.norm1", "layers.1.linear2"} <= {x.name for x in anatomy.layers}
    by_name = {t.name: t for t in anatomy.totals()}
    assert by_name["layers.0"].macs == by_name["layers.1"].macs == one
    assert by_name["layers.0"].params == sum(p.numel() for p in net.layers[0].parameters())


@pytest.mark.parametrize(
    ("function", "shapes", "macs"),
    [
        (lambda net, a, b: a @ b, [(7, 1, 3, 4), (5, 4, 2)], 7 * 5 * 3 * 4 * 2),
        (lambda net, a, b: torch.tensordot(a, b, 2), [(2, 3, 4), (3, 4, 5)], 2 * 12 * 5),
        (lambda net, a, b: torch.einsum("ij,kj,k->i", a, b, b[:, 0]), [(3, 4), (5, 4)], None),
        (lambda net, a, b: torch.baddbmm(a, a, b), [(2, 3, 3), (2, 3, 3)], 2 * 27),
        (lambda net, a, b: torch.addmv(b, a, b), [(4, 4), (4,)], 16),
        (lambda net, a, b: a @ b, [(4, 4), (4,)], 16),
        (lambda net, a, b: a @ b, [(4,), (4,)], 4),
        (lambda net, a, b: F.unfold(a, 3).transpose(1, 2) @ b, [(1, 3, 8, 8), (27, 4)], 36 * 27 * 4),
        (lambda net, a, b: F.conv_transpose2d(a, b, stride=2, groups=2), [(1, 4, 5, 5), (4, 3, 3, 3)], 25 * 108),
        (lambda net, a, b: F.conv1d(a, b, dilation=2), [(2, 3, 9), (4, 3, 3)], 2 * 5 * 36),
        (lambda net, a, b: F.conv3d(a, b), [(1, 2, 4, 5, 6), (3, 2, 2, 2, 2)], 3 * 4 * 5 * 48),
        (lambda net, a, b: torch.cdist(a, b), [(5, 8), (7, 8)], 5 * 7 * 8),
    ],
)
def test_functional_products(function: Callable[..., Any], shapes: list[tuple[int, ...]], macs: int | None) -> None:
    anatomy = applied(function, tuple(torch.zeros(s) for s in shapes))
    assert anatomy.uncounted == {}
    if macs is not None:
        assert anatomy.macs == macs


def test_a_net_of_functions_alone_is_taken_apart() -> None:
    """A root without submodules is not one layer, because there would be nothing to read."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(F.conv2d(x, net.one)), 2)
        return F.linear(F.conv2d(x, net.two).flatten(1), net.three)

    one, two = nn.Parameter(torch.zeros(4, 3, 3, 3)), nn.Parameter(torch.zeros(5, 4, 2, 2))
    anatomy = applied(forward, (3, 10, 10), one=one, two=two, three=nn.Parameter(torch.zeros(6, 45)))
    kinds = [layer.kind for layer in anatomy.layers]
    assert kinds[:4] == ["convolution", "relu", "max_pool2d", "convolution"]
    assert [layer.macs for layer in anatomy.layers if layer.macs] == [64 * 108, 9 * 80, 6 * 45]
    assert anatomy.layers[3].field is not None and anatomy.layers[3].field.size == (6, 6)
    assert anatomy.params == sum(layer.params for layer in anatomy.layers) == 108 + 80 + 270


# --- parameters --------------------------------------------------------------------------------------------------


def test_a_module_called_twice_counts_macs_twice_and_parameters_once() -> None:
    conv = nn.Conv2d(3, 3, 3, padding=1)
    anatomy = trace(nn.Sequential(conv, nn.ReLU(), conv), (3, 8, 8))
    assert anatomy.macs == 2 * 64 * 81
    assert anatomy.params == 84
    assert [(x.params, x.shared) for x in anatomy.layers if x.kind == "Conv2d"] == [(84, 0), (0, 84)]


def test_tied_weights_count_once() -> None:
    words, out = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
    out.weight = words.weight
    anatomy = trace(nn.Sequential(words, out), torch.zeros(2, 5, dtype=torch.long))
    assert (anatomy.params, anatomy.macs) == (40, 400)
    assert [(x.params, x.shared) for x in anatomy.layers] == [(40, 0), (0, 40)]


def test_frozen_and_unused_parameters() -> None:
    net = Applied(lambda net, x: net.b(net.a(x)), a=nn.Linear(3, 4), b=nn.Linear(4, 5), never=nn.Linear(2, 2))
    net.a.weight.requires_grad_(False)
    anatomy = trace(net, (3,))
    assert (anatomy.params, anatomy.trainable, anatomy.frozen) == (16 + 25 + 6, 4 + 25 + 6, 12)
    assert anatomy.unused == ("never.weight", "never.bias")
    assert [(x.params, x.frozen) for x in anatomy.layers] == [(16, 12), (25, 0)]


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrized_weights(norm: Any) -> None:
    net = norm(nn.Conv2d(3, 4, 3, bias=False))
    anatomy = trace(nn.Sequential(net, nn.ReLU()), (3, 8, 8))
    layer = anatomy.layers[0]
    assert (layer.name, anatomy.unused) == ("0", ())
    assert layer.params == anatomy.params == sum(p.numel() for p in net.parameters())
    assert anatomy.macs >= 36 * 108  # a norm of the weights may cost products of its own


def test_a_parametrization_by_the_user() -> None:
    class Symmetric(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return w.triu() + w.triu(1).transpose(-1, -2)

    net = nn.Sequential(nn.Linear(4, 4))
    parametrize.register_parametrization(net[0], "weight", Symmetric())
    anatomy = trace(net, (4,))
    assert (anatomy.macs, anatomy.params, anatomy.unused) == (16, 20, ())


# --- what has no formula, and what shapes cannot tell ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda net, x: torch.fft.fft2(x).abs(), "aten._fft_c2c"),
        (lambda net, x: torch.linalg.inv(x), "aten.linalg_inv_ex"),
        (lambda net, x: torch.linalg.svd(x)[1], "aten._linalg_svd"),
        (lambda net, x: torch.linalg.cholesky(x @ x.T + torch.eye(4)), "aten.linalg_cholesky_ex"),
    ],
)
def test_operators_without_a_formula_are_named(function: Callable[..., Any], named: str) -> None:
    anatomy = applied(lambda net, x: function(net, net.fc(x)) + 1, torch.rand(4, 4), fc=nn.Linear(4, 4))
    assert anatomy.uncounted == {named: 1}
    assert anatomy.macs >= 64


def test_ordinary_code_leaves_nothing_uncounted() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = F.interpolate(F.avg_pool2d(F.pad(x, (1, 1, 1, 1), "reflect"), 2), scale_factor=2, mode="bilinear")
        y = torch.cat([y.roll(1, -1), y.flip(2)], 1).split(3, 1)[0] * torch.sigmoid(y.mean((2, 3), keepdim=True))
        y = F.layer_norm(y.permute(0, 2, 3, 1), (3,)).argmax(-1)
        return F.one_hot(y, 3).float().cumsum(1).topk(2).values.std() + torch.arange(3).sum()

    assert applied(forward, (3, 8, 8)).uncounted == {}


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: net.conv(x) * float(x.mean()),
        lambda net, x: net.conv(x) if x.sum() > -1e9 else x,
        lambda net, x: net.conv(x)[x[:, :1, 1:-1, 1:-1].expand(-1, 4, -1, -1) > 0],
        lambda net, x: net.conv(torch.from_numpy(x.numpy())),
        lambda net, x: net.conv(x) + len(x.flatten().tolist()),
    ],
)
def test_code_that_reads_numbers_is_computed(function: Callable[..., Any]) -> None:
    x = torch.rand(1, 3, 8, 8)
    before = x.clone()
    anatomy = applied(function, x, conv=nn.Conv2d(3, 4, 3))
    assert anatomy.macs == 36 * 108 and anatomy.params == 112
    assert any("real random numbers" in note for note in anatomy.notes)
    assert torch.equal(x, before)


def test_constants_that_the_module_makes_may_be_read() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        sizes = torch.tensor([2, 3]) * 2
        return x.repeat(1, int(sizes.sum())) if bool((sizes > 0).all()) else x

    anatomy = applied(forward, (4,))
    assert (anatomy.notes, anatomy.outputs) == ((), ((1, 40),))


def test_a_net_on_the_meta_device() -> None:
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    assert trace(net, (3, 8, 8)).macs == 36 * 108 + 288


# --- tensors that are no arguments -----------------------------------------------------------------------------------


@dataclass
class Graph:
    x: Tensor
    edges: Tensor


class Slotted:
    __slots__ = ("graph",)

    def __init__(self, graph: Any) -> None:
        self.graph = graph


def _message(net: Any, given: Any) -> Tensor:
    graph = given["batch"][0].graph if isinstance(given, dict) else getattr(given, "graph", given)
    h = torch.relu(net.one(graph.x))
    return net.two(torch.zeros_like(h).index_add(0, graph.edges[1], h[graph.edges[0]]))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda graph: graph,
        lambda graph: SimpleNamespace(graph=graph),
        Slotted,
        lambda graph: {"batch": [Slotted(graph)]},
        lambda graph: UserDict(batch=[Slotted(graph)]).data,
    ],
)
def test_tensors_in_an_object_are_inputs(wrap: Callable[[Any], Any]) -> None:
    graph = Graph(torch.rand(5, 4), torch.tensor([[0, 1, 2], [1, 2, 0]]))
    before = graph.x.clone()
    anatomy = applied(_message, (wrap(graph),), one=nn.Linear(4, 6), two=nn.Linear(6, 2))
    assert anatomy.unused == ()
    assert sum(layer.params for layer in anatomy.layers) == anatomy.params == 30 + 14
    assert anatomy.macs == 5 * 4 * 6 + 5 * 6 * 2
    assert anatomy.others == 5 * 6 + 5 * 6  # the ReLU, and the sum of the messages
    assert anatomy.inputs == ((5, 4), (2, 3))
    assert torch.equal(graph.x, before) and set(vars(graph.x)) == set()


def test_tensors_that_are_made_inside_are_inputs() -> None:
    def text(net: Any, words: str) -> Tensor:
        return net.head(torch.relu(net.words(torch.tensor([ord(c) % 8 for c in words]))).mean(0))

    anatomy = applied(text, ("hello",), words=nn.Embedding(8, 4), head=nn.Linear(4, 2))
    assert (anatomy.unused, anatomy.macs, anatomy.others) == ((), 8, 5 * 4 + 5 * 4)

    def array(net: Any, pixels: Any) -> Tensor:
        x = torch.relu(net.conv(torch.from_numpy(pixels)[None] / 255))
        return net.head(net.norm(x).mean((2, 3)))

    parts = {"conv": nn.Conv2d(3, 4, 3), "norm": nn.BatchNorm2d(4), "head": nn.Linear(4, 2)}
    inside, outside = (
        applied(array, (numpy.ones((3, 8, 8), numpy.float32),), **parts),
        applied(lambda net, x: net.head(net.norm(torch.relu(net.conv(x / 255))).mean((2, 3))), (3, 8, 8), **parts),
    )
    assert (inside.unused, inside.macs, inside.others) == ((), outside.macs, outside.others)
    assert inside.params == sum(layer.params for layer in inside.layers)


def test_a_branch_of_constants_is_read() -> None:
    net = {"one": nn.Linear(3, 5), "two": nn.Linear(5, 4), "never": nn.Linear(2, 2)}
    anatomy = applied(lambda net, x: x + net.two(torch.relu(net.one(torch.ones(1, 3)))), torch.ones(2, 4), **net)
    assert anatomy.unused == ("never.weight", "never.bias")
    assert [(x.name, x.params, x.macs, x.others, x.sources) for x in anatomy.layers] == [
        ("one", 20, 15, 0, ()), (":relu", 0, 0, 5, (0,)), ("two", 24, 20, 0, (1,)), (":add", 0, 0, 8, (-1, 2)),
    ]  # fmt: skip
    assert "dead-branch" not in {item.rule for item in advise(anatomy)}


# --- operators of other kinds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "named", "others"),
    [
        (lambda w: torch.linalg.inv(w), {"aten.linalg_inv_ex": 1}, 0),
        (lambda w: torch.fft.fft(w).real, {"aten._fft_r2c": 1}, 0),
        (lambda w: w.exp(), {}, 16),
        (lambda w: (w - w.mean()) / w.std(), {}, 16 + 4 * 16 + 16 + 16),
    ],
)
def test_operators_on_parameters_alone_count(function: Callable[..., Any], named: Any, others: int) -> None:
    anatomy = applied(lambda net, x: x @ function(net.w), torch.rand(4, 4), w=nn.Parameter(torch.eye(4)))
    assert (anatomy.uncounted, anatomy.others, anatomy.macs, anatomy.unused) == (named, others, 64, ())
    assert anatomy.layer(":matmul").params == 16


@pytest.mark.parametrize(
    ("left", "right", "offsets", "macs"),
    [
        ((8, 16), (3, 16, 32), [2, 4, 8], 8 * 16 * 32),
        ((3, 8, 16), (3, 16, 32), None, 3 * 8 * 16 * 32),
        ((8, 16), (16, 32), [4, 16], 8 * 16 * 32),
        ((2, 8, 16), (16, 32), [8, 32], 8 * 16 * 32),
    ],
)
def test_a_mixture_of_experts(left: Any, right: Any, offsets: Any, macs: int) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        offs = None if offsets is None else torch.tensor(offsets, dtype=torch.int32)
        return torch._grouped_mm(x, net.w, offs=offs)

    w = nn.Parameter(torch.zeros(right, dtype=torch.bfloat16))
    anatomy = applied(forward, torch.zeros(left, dtype=torch.bfloat16), w=w)
    assert (anatomy.macs, anatomy.uncounted) == (macs, {})


def test_bilinear() -> None:
    """One multiply-add for each weight and example; the products of both inputs and the bias are other operations."""
    anatomy = applied(lambda net, a, b: net.layer(a, b), [(4,), (5,)], layer=nn.Bilinear(4, 5, 3))
    assert (anatomy.macs, anatomy.others, anatomy.uncounted) == (3 * 4 * 5, 4 * 5 + 3, {})


@pytest.mark.parametrize("sparse", [Tensor.to_sparse, Tensor.to_sparse_csr])
@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning", "ignore:Sparse invariant:UserWarning")
def test_sparse_parameters(sparse: Callable[[Tensor], Tensor]) -> None:
    w = nn.Parameter(sparse(torch.eye(4)))
    anatomy = applied(lambda net, x: net.w @ x, torch.ones(4, 5), w=w)
    assert (anatomy.params, anatomy.macs, anatomy.unused, anatomy.uncounted) == (4, 4 * 5, (), {})
    assert "sparse parameters" in anatomy.notes[0]


def test_flex_attention() -> None:
    from torch.nn.attention.flex_attention import flex_attention

    x = torch.rand(1, 2, 16, 8)
    plain = applied(lambda net, x: flex_attention(net.fc(x), x, x), x, fc=nn.Linear(8, 8))
    assert (plain.macs, plain.uncounted) == (32 * 64 + 2 * 32 * 16 * 8, {})
    shifted = applied(lambda net, x: flex_attention(x, x, x, score_mod=lambda s, b, h, i, j: s + i - j), x)
    assert (shifted.macs, shifted.uncounted) == (2 * 32 * 16 * 8, {"flex_attention.score_mod": 1})


def test_branches_and_loops_as_operators() -> None:
    def branch(net: Any, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: net.fc(x), lambda x: x * 2, (x,))

    taken = applied(branch, torch.ones(2, 4), fc=nn.Linear(4, 4))
    assert (taken.macs, taken.unused, taken.uncounted) == (32, (), {})
    left = applied(branch, -torch.ones(2, 4), fc=nn.Linear(4, 4))
    assert (left.macs, left.unused) == (0, ())  # the other branch may read them
    assert any("torch.cond" in note for note in left.notes)

    def loop(net: Any, x: Tensor) -> Tensor:
        start = (torch.tensor(0), x)
        return while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, net.fc(x)), start)[1]

    assert applied(loop, torch.ones(2, 4), fc=nn.Linear(4, 4)).macs == 3 * 32


def test_an_operator_that_takes_functions_and_has_no_formula_is_named() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return torch._higher_order_ops.map(lambda row: row * net.w, x)

    assert applied(forward, torch.ones(2, 4), w=nn.Parameter(torch.ones(4))).uncounted == {"higher_order.map_impl": 1}


def test_an_operator_of_another_package_is_not_taken_for_one_of_pytorch() -> None:
    library = torch.library.Library("neocog_test", "DEF")
    library.define("linear(Tensor x) -> Tensor")
    library.impl("linear", lambda x: x * 2, "CPU")
    anatomy = applied(lambda net, x: torch.ops.neocog_test.linear(net.fc(x)), torch.ones(2, 4), fc=nn.Linear(4, 4))
    assert anatomy.uncounted == {"neocog_test.linear": 1}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantized_layers() -> None:
    from torch.ao import quantization

    net = nn.Sequential(quantization.QuantStub(), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))
    net = nn.Sequential(*net, quantization.DeQuantStub()).eval()
    net.qconfig = quantization.get_default_qconfig(torch.backends.quantized.engine)
    quantization.prepare(net, inplace=True)
    net(torch.randn(1, 3, 8, 8))
    quantization.convert(net, inplace=True)
    anatomy = trace(net, torch.randn(1, 3, 8, 8))
    assert (anatomy.macs, anatomy.uncounted) == (36 * 108 + 144 * 5, {})
    moving = quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 4)), {nn.Linear}, dtype=torch.qint8)
    assert trace(moving, torch.randn(3, 8)).macs == 3 * 32


# --- wrappers ------------------------------------------------------------------------------------------------------


def _wrapped() -> dict[str, Callable[[nn.Module], nn.Module]]:
    return {
        "DataParallel": nn.DataParallel,
        "compile": lambda net: torch.compile(net, backend="eager"),  # type: ignore[return-value]
        "both": lambda net: nn.DataParallel(torch.compile(net, backend="eager")),  # type: ignore[arg-type]
    }


@pytest.mark.parametrize("wrapper", _wrapped())
def test_wrappers_are_taken_off(wrapper: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    plain, wrapped = trace(net, (3, 8, 8)), trace(_wrapped()[wrapper](net), (3, 8, 8))
    assert wrapped == plain


@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")
def test_a_compiled_part_is_seen_as_it_was_written() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), torch.compile(nn.Sequential(nn.ReLU(), nn.Conv2d(4, 5, 1)), backend="eager")
    )
    anatomy = trace(net, (3, 8, 8))
    assert [layer.kind for layer in anatomy.layers] == ["Conv2d", "ReLU", "Conv2d"]
    assert anatomy.macs == 36 * (108 + 20)
    function = torch.compile(lambda x: x @ x, backend="eager")
    assert applied(lambda net, x: function(x), torch.zeros(3, 3)).macs == 27


def test_fx_and_exported_programs() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    assert trace(torch.fx.symbolic_trace(net), (3, 8, 8)).macs == 36 * 108


# --- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("net", "given", "message"),
    [
        (nn.Conv2d(3, 4, 3), (5, 8, 8), r"Conv2d cannot compute an input of shape \(1, 5, 8, 8\).*3 channels"),
        (nn.Conv2d(3, 4, 3), (3, 2, 2), "Kernel size can't be greater"),
        (nn.Linear(3, 4), (5,), r"trace\(module, \(3, 224, 224\)\)"),
        (nn.Linear(3, 4), [(3,), (3,)], "Linear cannot compute"),
        (nn.Linear(3, 4), "3x224x224", "got str"),
        (nn.Linear(3, 4), 3, "got int"),
        (nn.Sequential(nn.LazyConv2d(4, 3)), (3, 8, 8), r"'0.weight' has no shape yet"),
        (nn.Sequential(nn.LazyBatchNorm2d(affine=False)), (3, 8, 8), "has no shape yet"),
    ],
)
def test_what_cannot_be_traced_is_said(net: nn.Module, given: Any, message: str) -> None:
    with pytest.raises(NetError, match=message):
        trace(net, given)
