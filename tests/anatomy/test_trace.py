"""trace on modules that are not ours: any input, recurrent, attention, functional code, sharing, fallbacks, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from neocog.anatomy.record import Anatomy
from neocog.anatomy.trace import trace
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
    """PyTorch computes a complex convolution as three real ones (Gauss), and a complex product as one product."""
    anatomy = trace(nn.Conv1d(3, 4, 3, dtype=torch.complex64), torch.zeros(1, 3, 9, dtype=torch.complex64))
    assert (anatomy.macs, anatomy.outputs, anatomy.param_bytes) == (3 * 7 * 36, ((1, 4, 7),), 8 * 40)
    assert applied(lambda net, x: x @ x, torch.zeros(4, 4, dtype=torch.complex64)).macs == 64


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
