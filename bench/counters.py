"""Six counters of multiply-adds beside the closed form, on small modules: where they differ, and why.

    python bench/counters.py            # tools that are not installed are named and skipped
    python bench/counters.py --json bench/results/counters.json

MACs are multiply-adds of convolutions and matrix products, without biases. `FlopCounterMode` counts two FLOPs for each,
so its figure is halved; the other tools call what they count FLOPs, MACs or mult-adds, and mean one for each. Every
count is made on a copy of the module, in evaluation mode, with all that a tool does by default.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.metadata
import importlib.util
import io
import json
import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import neocog
from neocog import nets
from neocog.anatomy.trace import trace
from neocog.fit.device import hardware

Inputs = tuple[Tensor, ...]


class Tool(NamedTuple):
    """A counter: what must be installed, and how it is asked for its total."""

    name: str
    package: str
    total: Callable[[nn.Module, Inputs], float]

    @property
    def version(self) -> str | None:
        """Version that is installed; None where there is none."""
        if importlib.util.find_spec(self.package) is None:
            return None
        return neocog.__version__ if self.package == "neocog" else importlib.metadata.version(self.package)


def _neocog(net: nn.Module, inputs: Inputs) -> float:
    return trace(net, inputs, training_memory=False).macs


def _flop_counter_mode(net: nn.Module, inputs: Inputs) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(*inputs)
    return counter.get_total_flops() / 2


def _fvcore(net: nn.Module, inputs: Inputs) -> float:
    from fvcore.nn import FlopCountAnalysis

    counter = FlopCountAnalysis(net, inputs)
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    return counter.total()


def _ptflops(backend: str) -> Callable[[nn.Module, Inputs], float]:
    def count(net: nn.Module, inputs: Inputs) -> float:
        from ptflops import get_model_complexity_info

        # it gives a module one tensor, or keyword arguments, which its own hooks do not see
        module = net if len(inputs) == 1 else _Rest(net, inputs[1:])
        found = get_model_complexity_info(
            module, (1,), print_per_layer_stat=False, as_strings=False, input_constructor=lambda _: inputs[0],
            backend=backend,
        )[0]  # fmt: skip
        if found is None:
            raise RuntimeError("ptflops gave no count")
        return found

    return count


class _Rest(nn.Module):
    """A module that is given its first argument only; the others are there already."""

    def __init__(self, net: nn.Module, rest: Inputs) -> None:
        super().__init__()
        self.net, self.rest = net, rest

    def forward(self, x: Tensor) -> Any:
        return self.net(x, *self.rest)


def _thop(net: nn.Module, inputs: Inputs) -> float:
    from thop import profile

    return profile(net, inputs, verbose=False)[0]


def _torchinfo(net: nn.Module, inputs: Inputs) -> float:
    from torchinfo import summary

    return summary(net, input_data=inputs, verbose=0).total_mult_adds


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("neocog", "neocog", _neocog),
        Tool("FlopCounterMode", "torch", _flop_counter_mode),
        Tool("fvcore", "fvcore", _fvcore),
        Tool("ptflops", "ptflops", _ptflops("pytorch")),
        Tool("ptflops aten", "ptflops", _ptflops("aten")),
        Tool("thop", "thop", _thop),
        Tool("torchinfo", "torchinfo", _torchinfo),
    )
}


def present() -> dict[str, Tool]:
    """The tools that are installed; the others are named with the command that installs them."""
    missing = sorted({tool.package for tool in TOOLS.values() if tool.version is None})
    if missing:
        print(f"skipped, not installed: {', '.join(missing)} (pip install {' '.join(missing)})\n")
    return {name: tool for name, tool in TOOLS.items() if tool.version is not None}


@contextlib.contextmanager
def quietly() -> Any:
    """Without warnings, log lines and printed tracebacks of the tools."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), \
                contextlib.redirect_stderr(io.StringIO()):  # fmt: skip
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def count(tool: Tool, net: nn.Module, inputs: Inputs) -> int | str:
    """What a tool says of a copy of the module, or the name of the error that it ends with."""
    try:
        with quietly():
            found = tool.total(copy.deepcopy(net).eval(), inputs)
    except Exception as error:  # any failure is a result here
        return type(error).__name__
    return int(found)


# --- small modules -----------------------------------------------------------------------------------------------


class Applied(nn.Module):
    """A function of the inputs, as a module; `parts` are its submodules."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


class Attention(nn.Module):
    """One head of attention, written by hand."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return torch.softmax(q @ k.transpose(-2, -1), -1) @ v


class OwnConv(nn.Conv2d):
    """A user's class, derived from PyTorch's."""


def _twins() -> nn.Module:
    one, other = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
    other.weight = one.weight
    return nn.Sequential(one, other)


def _first(net: nn.Module, x: Tensor) -> Tensor:
    made: Tensor = net.get_submodule("layer")(x)[0]
    return made


class Case(NamedTuple):
    """A module, what it reads, and its MACs by hand."""

    name: str
    net: nn.Module
    inputs: Inputs
    macs: int


def parts_of_resnet() -> list[Case]:
    """The kinds of layers that ResNet-50 is made of, each alone on 8 maps of 6x6."""
    x, row = torch.randn(1, 8, 6, 6), torch.randn(1, 8)
    return [
        Case("Conv2d(8, 4, 3, padding=1, bias=False)", nn.Conv2d(8, 4, 3, padding=1, bias=False), (x,), 36 * 4 * 72),
        Case("Conv2d(8, 4, 3, padding=1)", nn.Conv2d(8, 4, 3, padding=1), (x,), 36 * 4 * 72),
        Case("Linear(8, 10, bias=False)", nn.Linear(8, 10, bias=False), (row,), 80),
        Case("Linear(8, 10)", nn.Linear(8, 10), (row,), 80),
        Case("BatchNorm2d(8)", nn.BatchNorm2d(8), (x,), 0),
        Case("ReLU()", nn.ReLU(), (x,), 0),
        Case("MaxPool2d(2)", nn.MaxPool2d(2), (x,), 0),
        Case("AvgPool2d(2)", nn.AvgPool2d(2), (x,), 0),
        Case("AdaptiveAvgPool2d(1)", nn.AdaptiveAvgPool2d(1), (x,), 0),
        Case("x + x", Applied(lambda net, x: x + x), (x,), 0),
        Case("torch.add(x, x)", Applied(lambda net, x: torch.add(x, x)), (x,), 0),
    ]


def harder() -> list[Case]:
    """Modules that some tool counts wrongly or in silence as nothing."""
    x, two = torch.randn(1, 8, 6, 6), torch.randn(2, 8, 6, 6)
    words, line, cube = torch.randn(1, 5, 8), torch.randn(1, 8, 6), torch.randn(1, 8, 4, 4, 4)
    heads = torch.randn(1, 2, 5, 4)
    conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
    kernel = nn.Parameter(torch.randn(4, 8, 3, 3))
    matrix = nn.Parameter(torch.randn(10, 8))
    return [
        Case("Conv2d, batch of 2", conv, (two,), 2 * 36 * 8 * 72),
        Case("Conv2d, groups=4", nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False), (x,), 36 * 8 * 18),
        Case("Conv1d(8, 4, 3)", nn.Conv1d(8, 4, 3, bias=False), (line,), 4 * 4 * 24),
        Case("Conv3d(8, 4, 3)", nn.Conv3d(8, 4, 3, bias=False), (cube,), 8 * 4 * 216),
        Case("ConvTranspose2d(8, 4, 2, stride=2)",
             nn.ConvTranspose2d(8, 4, 2, stride=2, bias=False), (x,), 36 * 8 * 16),
        Case(
            "ConvTranspose2d(8, 4, 2, stride=2, groups=4)",
            nn.ConvTranspose2d(8, 4, 2, stride=2, groups=4, bias=False), (x,), 36 * 8 * 4,
        ),
        Case("F.conv2d(x, weight)", Applied(lambda net, x: F.conv2d(x, net.w), w=kernel), (x,), 16 * 4 * 72),
        Case("a class derived from Conv2d", OwnConv(8, 8, 3, padding=1, bias=False), (x,), 36 * 8 * 72),
        Case("Conv2d with weight_norm", parametrizations.weight_norm(copy.deepcopy(conv)), (x,), 36 * 8 * 72),
        Case("Conv2d by layer.forward(x)", Applied(lambda net, x: net.layer.forward(x), layer=conv), (x,), 36 * 8 * 72),
        Case("one Conv2d, called twice", Applied(lambda net, x: net.c(net.c(x)), c=conv), (x,), 2 * 36 * 8 * 72),
        Case("two Linear that share a weight", _twins(), (torch.randn(1, 8),), 2 * 64),
        Case("Linear(8, 10) on (1, 5, 8)", nn.Linear(8, 10, bias=False), (words,), 5 * 80),
        Case("F.linear(x, weight)", Applied(lambda net, x: F.linear(x, net.w), w=matrix), (words,), 5 * 80),
        Case("x @ weight.T", Applied(lambda net, x: x @ net.w.T, w=matrix), (words,), 5 * 80),
        Case("torch.matmul(x, weight.T)", Applied(lambda net, x: torch.matmul(x, net.w.T), w=matrix), (words,), 5 * 80),
        Case("einsum('bnc,dc->bnd')",
             Applied(lambda net, x: torch.einsum("bnc,dc->bnd", x, net.w), w=matrix), (words,), 5 * 80),
        Case("cdist(x, x)", Applied(lambda net, x: torch.cdist(x, x)), (words,), 5 * 5 * 8),
        Case("Embedding(100, 8), 5 tokens", nn.Embedding(100, 8), (torch.arange(5)[None],), 0),
        Case("attention by hand, 5 x 8", Attention(8), (words,), 5 * 8 * 24 + 2 * 5 * 5 * 8),
        Case("F.scaled_dot_product_attention",
             Applied(lambda net, x: F.scaled_dot_product_attention(x, x, x)), (heads,), 2 * 2 * 5 * 5 * 4),
        Case("MultiheadAttention(8, 2)", Applied(lambda net, q, k, v: net.layer(q, k, v)[0],
             layer=nn.MultiheadAttention(8, 2, batch_first=True)), (words,) * 3, 5 * 8 * 32 + 2 * 5 * 5 * 8),
        Case("MultiheadAttention(8, 2), need_weights=False",
             Applied(lambda net, q, k, v: net.layer(q, k, v, need_weights=False)[0],
             layer=nn.MultiheadAttention(8, 2, batch_first=True)), (words,) * 3, 5 * 8 * 32 + 2 * 5 * 5 * 8),
        # 6 words: with 5, what fvcore counts for the two norms is just what it misses of the attention
        Case("TransformerEncoderLayer(8, 2, 16)", nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
             (torch.randn(1, 6, 8),), 6 * 8 * 32 + 2 * 6 * 6 * 8 + 2 * 6 * 8 * 16),
        Case("LSTM(8, 6), 5 steps", Applied(_first, layer=nn.LSTM(8, 6, batch_first=True)), (words,), 5 * 24 * (8 + 6)),
        Case("LSTM(8, 6), 2 layers, both ways",
             Applied(_first, layer=nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True)), (words,),
             5 * 2 * 24 * (8 + 6) + 5 * 2 * 24 * (12 + 6)),
        Case("GRU(8, 6), 5 steps", Applied(_first, layer=nn.GRU(8, 6, batch_first=True)), (words,), 5 * 18 * (8 + 6)),
        Case("LSTMCell(8, 6)", Applied(_first, layer=nn.LSTMCell(8, 6)), (torch.randn(1, 8),), 24 * (8 + 6)),
    ]  # fmt: skip


# --- what makes the totals of ResNet-50 differ -------------------------------------------------------------------


def differences(tools: dict[str, Tool], name: str) -> list[dict[str, Any]]:
    """Of each tool: its total, and by how much it exceeds the MACs, by kind of layer.

    Every layer is counted alone, too, at the shape that it has in the net. `rest` is what the layers do not explain.
    """
    net = nets.build(name).eval()
    x = torch.randn(1, 3, 224, 224)
    anatomy = trace(net, (x,), training_memory=False)
    modules = dict(net.named_modules())
    alone = [layer for layer in anatomy.layers if layer.name in modules]
    rows: list[dict[str, Any]] = []
    for tool in tools.values():
        total = count(tool, net, (x,))
        if isinstance(total, str):
            rows.append({"tool": tool.name, "total": total})
            continue
        more: dict[str, int] = {}
        known: dict[tuple[str, Any], int] = {}
        for layer in alone:
            key = (str(modules[layer.name]), layer.inputs)
            if key not in known:
                found = count(tool, modules[layer.name], tuple(torch.randn(s) for s in layer.inputs))
                known[key] = int(found) - layer.macs
            if known[key]:
                more[layer.kind] = more.get(layer.kind, 0) + known[key]
        rest = total - anatomy.macs - sum(more.values())
        rows.append({"tool": tool.name, "total": total, "more": total - anatomy.macs, "by_kind": more, "rest": rest})
    return rows


def changes(tool: Tool) -> list[str]:
    """What a tool leaves different in a module that was in training mode."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5))
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    attributes = [set(m.__dict__) for m in net.modules()]
    random = torch.get_rng_state()
    with quietly():
        tool.total(net, (torch.zeros(1, 3, 8, 8),))
    found = []
    if not all(m.training for m in net.modules()):
        found.append("evaluation mode")
    if extra := sorted(set(net.state_dict()) - set(before)):
        found.append(f"buffers {', '.join(extra[:3])}")
    if any(not torch.equal(net.state_dict()[name], value) for name, value in before.items()):
        found.append("running statistics")
    if extra := sorted(set().union(*(set(m.__dict__) - old for m, old in zip(net.modules(), attributes, strict=True)))):
        found.append(f"attributes {', '.join(extra[:3])}{' ...' if len(extra) > 3 else ''}")
    if not torch.equal(random, torch.get_rng_state()):
        found.append("random state")
    return found


# --- printing ----------------------------------------------------------------------------------------------------


def _cell(value: int | str, macs: int) -> str:
    return f"**{value:,}**" if value == macs else f"{value:,}" if isinstance(value, int) else value


def table(cases: list[Case], tools: dict[str, Tool]) -> list[dict[str, Any]]:
    """Print the cases as a table in Markdown, with the right figures in bold, and return them."""
    print(f"| module | MACs | {' | '.join(tools)} |")
    print("|---" * (len(tools) + 2) + "|")
    rows: list[dict[str, Any]] = []
    for case in cases:
        found = {name: count(tool, case.net, case.inputs) for name, tool in tools.items()}
        print(
            f"| `{case.name}` | {case.macs:,} | {' | '.join(_cell(v, case.macs) for v in found.values())} |", flush=True
        )
        rows.append({"module": case.name, "macs": case.macs, **found})
    print()
    return rows


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="resnet50", help="net whose totals are taken apart")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    tools = present()
    result: dict[str, Any] = {"parts": table(parts_of_resnet(), tools), "harder": table(harder(), tools)}
    result["differences"] = differences(tools, arguments.net)
    print(f"{arguments.net}: total, by how much it exceeds the MACs, which kinds of layers that is, and what is left\n")
    for row in result["differences"]:
        if isinstance(row["total"], str):
            print(f"- {row['tool']}: {row['total']}")
            continue
        kinds = ", ".join(f"{kind} {value:+,}" for kind, value in row["by_kind"].items()) or "nothing"
        print(f"- {row['tool']}: {row['total']:,} is {row['more']:+,}: {kinds}; left {row['rest']:+,}")
    print("\nWhat a tool leaves different in a module that was in training mode:\n")
    result["changes"] = {name: changes(tool) for name, tool in tools.items()}
    for name, found in result["changes"].items():
        print(f"- {name}: {'; '.join(found) or 'nothing'}")
    result["versions"] = {tool.package: tool.version for tool in tools.values()}
    result |= {"hardware": hardware(), "date": time.strftime("%Y-%m-%d")}
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
