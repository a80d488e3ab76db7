"""Multiply-adds against the closed form, PyTorch's own counter, and the other tools where they are installed.

Why the others differ is in docs; bench/counters.py prints the table. What is claimed there is tested here.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from neocog import nets
from neocog.anatomy.trace import trace


def _load() -> ModuleType:
    path = Path(__file__).parents[2] / "bench" / "counters.py"
    spec = importlib.util.spec_from_file_location("bench_counters", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_counters"] = module
    spec.loader.exec_module(module)
    return module


counters = _load()
CASES = {case.name: case for case in (*counters.parts_of_resnet(), *counters.harder())}
RESNET50 = 4_089_184_256


def flops(net: nn.Module, *inputs: Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.eval()(*inputs)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("name", CASES)
def test_macs_of_small_modules_are_those_of_the_closed_form(name: str) -> None:
    case = CASES[name]
    assert trace(case.net, case.inputs).macs == case.macs


# --- PyTorch's own counter -----------------------------------------------------------------------------------------

ZOO = (
    "resnet18 googlenet densenet121 mobilenet_v2 unet c3d fcn8s_vgg16 shufflenet_v1_1x_g3 sentence_cnn tdnn "
    "conv_autoencoder segnet se_resnext50_32x4d alexnet_original vae"
).split()


@pytest.mark.parametrize("name", ZOO)
def test_flop_counter_mode_counts_two_for_each_multiply_add(name: str) -> None:
    with torch.device("meta"):
        net = nets.build(name)
    x = nets.example(net, 1).to("meta")
    assert flops(net, x) == 2 * trace(net, x, training_memory=False).macs


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), [(2, 7, 16)]),
        (lambda: nn.TransformerDecoderLayer(16, 4, 32, batch_first=True), [(2, 7, 16), (2, 5, 16)]),
        (lambda: nn.MultiheadAttention(16, 4, batch_first=True), [(2, 7, 16), (2, 5, 16), (2, 5, 16)]),
        (lambda: nn.LSTM(6, 5, num_layers=2, bidirectional=True), [(7, 2, 6)]),
        (lambda: nn.GRU(6, 5), [(7, 2, 6)]),
        (lambda: nn.RNN(6, 5), [(7, 2, 6)]),
        (lambda: nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1, groups=2), [(2, 8, 5, 6)]),
    ],
)  # fmt: skip
def test_flop_counter_mode_agrees_on_shapes(make: Callable[[], nn.Module], shapes: list[tuple[int, ...]]) -> None:
    """On the meta device, where no fast path hides the products from either."""
    with torch.device("meta"):
        net = make()
        inputs = tuple(torch.empty(shape) for shape in shapes)
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        assert flops(net, *inputs) == 2 * trace(net, inputs, training_memory=False).macs > 0
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("F.scaled_dot_product_attention", 400),
        ("MultiheadAttention(8, 2)", 1680),
        ("TransformerEncoderLayer(8, 2, 16)", 3648),
        ("LSTM(8, 6), 5 steps", 1680),
    ],
)
def test_what_flop_counter_mode_does_not_see_on_a_processor(name: str, macs: int) -> None:
    """There these are single operators without a formula. If this fails, PyTorch has learnt them: change the docs."""
    case = CASES[name]
    assert flops(case.net, *case.inputs) < 2 * macs
    assert trace(case.net, case.inputs).macs == macs


def test_flop_counter_mode_agrees_on_random_functional_code() -> None:
    def forward(net: Any, x: Tensor, w: Tensor) -> Tensor:
        y = F.conv2d(x, w, stride=2, padding=1)
        y = y.flatten(2).transpose(1, 2) @ y.flatten(2)
        return torch.einsum("bij,bkj->bik", y, y) + torch.baddbmm(y, y, y)

    net = counters.Applied(forward)
    x, w = torch.randn(2, 3, 9, 9), torch.randn(4, 3, 3, 3)
    assert flops(net, x, w) == 2 * trace(net, (x, w)).macs


# --- the other tools: what the docs say of them ----------------------------------------------------------------------


def tool(name: str) -> Any:
    found = counters.TOOLS[name]
    if found.version is None:
        pytest.skip(f"{found.package} is not installed")
    return found


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("FlopCounterMode", RESNET50),
        ("fvcore", 4_111_512_576),
        ("ptflops", 4_132_436_968),
        ("ptflops aten", 4_089_185_256),
        ("thop", 4_133_742_592),
        ("torchinfo", 4_089_238_376),
    ],
)
@pytest.mark.slow
def test_totals_of_resnet50_are_explained_to_the_last_operation(name: str, total: int) -> None:
    """PyTorch's own counter runs everywhere; the others only where they are installed."""
    (row,) = counters.differences({name: tool(name)}, "resnet50")
    assert row["total"] == total
    assert row["more"] == total - RESNET50
    assert row["rest"] == 0


# numbers in all maps that BN writes, that ReLU writes, that the two pools read; parameters of BN; biases
BN, RELU, MAX, AVERAGE, BN_PARAMS, BIASES = 11_113_984, 9_608_704, 802_816, 100_352, 53_120, 1_000


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("fvcore", 2 * BN + AVERAGE),
        ("ptflops", 2 * BN + 2 * (RELU + MAX + AVERAGE) + BIASES),
        ("ptflops aten", BIASES),
        ("thop", 4 * BN + AVERAGE + 2048),
        ("torchinfo", BN_PARAMS + BIASES),
    ],
)
@pytest.mark.slow
def test_formulas_of_the_differences(name: str, more: int) -> None:
    found = counters.count(tool(name), nets.build("resnet50"), (torch.randn(1, 3, 224, 224),))
    assert found - RESNET50 == more


def test_the_formulas_are_those_of_the_layers() -> None:
    """The figures above, from the trace; they need no other tool."""
    with torch.device("meta"):
        layers = trace(nets.build("resnet50"), (3, 224, 224)).layers

    def written(kind: str) -> int:
        return sum(torch.Size(x.output).numel() for x in layers if x.kind == kind)

    def read(kind: str) -> int:
        return sum(torch.Size(x.inputs[0]).numel() for x in layers if x.kind == kind)

    assert (written("BatchNorm2d"), written("ReLU"), read("MaxPool2d")) == (BN, RELU, MAX)
    assert read("AdaptiveAvgPool2d") == AVERAGE
    assert sum(x.params for x in layers if x.kind == "BatchNorm2d") == BN_PARAMS
    assert sum(x.output[-1] for x in layers if x.kind == "Linear") == BIASES


# (tool, module) -> what it says, for the rows that docs/ quotes
QUOTED = [
    ("fvcore", "BatchNorm2d(8)", 576),
    ("ptflops", "BatchNorm2d(8)", 576),
    ("thop", "BatchNorm2d(8)", 1152),
    ("torchinfo", "BatchNorm2d(8)", 16),
    ("ptflops", "ReLU()", 576),
    ("ptflops", "MaxPool2d(2)", 576),
    ("ptflops", "Linear(8, 10)", 90),
    ("torchinfo", "Linear(8, 10)", 90),
    ("torchinfo", "Linear(8, 10) on (1, 5, 8)", 80),
    ("torchinfo", "ConvTranspose2d(8, 4, 2, stride=2)", 18_432),
    ("thop", "ConvTranspose2d(8, 4, 2, stride=2)", 18_432),
    ("torchinfo", "Embedding(100, 8), 5 tokens", 800),
    ("ptflops", "a class derived from Conv2d", 0),
    ("thop", "a class derived from Conv2d", 0),
    ("ptflops", "F.conv2d(x, weight)", 0),
    ("thop", "F.conv2d(x, weight)", 0),
    ("torchinfo", "F.conv2d(x, weight)", 0),
    ("ptflops", "MultiheadAttention(8, 2)", 2380),
    ("fvcore", "MultiheadAttention(8, 2), need_weights=False", 1280),
    ("fvcore", "TransformerEncoderLayer(8, 2, 16)", 3552),
    ("thop", "MultiheadAttention(8, 2)", 0),
    ("fvcore", "LSTM(8, 6), 5 steps", 0),
]


@pytest.mark.parametrize(("name", "module", "says"), QUOTED)
def test_quoted_figures(name: str, module: str, says: int) -> None:
    case = CASES[module]
    assert counters.count(tool(name), case.net, case.inputs) == says
