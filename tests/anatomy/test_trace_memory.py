"""Memory: what training keeps against what PyTorch really allocates, and the peak against a slow reference."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from neocog import nets
from neocog.anatomy.trace import trace

Shapes = list[tuple[int, ...]]


def kept(net: nn.Module, shapes: Shapes) -> int:
    """Bytes that are allocated between the forward and the backward pass, by PyTorch's profiler.

    Inputs are made, and inputs and outputs are given up, while it measures: only what the graph holds is left.
    """
    net.train()
    net(*(torch.randn(shape) for shape in shapes))  # buffers that are made once
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        outputs = net(*(torch.randn(shape) for shape in shapes))
        graph = [t.grad_fn for t in pytree.tree_leaves(outputs) if isinstance(t, Tensor)]
        del outputs
    assert graph
    return sum(event.self_cpu_memory_usage for event in found.key_averages())


def in_zoo(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: nets.build(name, **options)


class Attends(nn.Module):
    """Self-attention by the one operator that PyTorch has for it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(32, 96)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v)


NETS: dict[str, tuple[Callable[[], nn.Module], Shapes]] = {
    "lenet5": (in_zoo("lenet5"), [(4, 1, 32, 32)]),
    "resnet18": (in_zoo("resnet18"), [(2, 3, 64, 64)]),
    "cifar_resnet20": (in_zoo("cifar_resnet20"), [(4, 3, 32, 32)]),
    "densenet40_k12": (in_zoo("densenet40_k12"), [(2, 3, 32, 32)]),
    "mobilenet_v2": (in_zoo("mobilenet_v2"), [(2, 3, 64, 64)]),
    "unet": (in_zoo("unet"), [(1, 3, 64, 64)]),
    "googlenet": (in_zoo("googlenet"), [(2, 3, 64, 64)]),
    "alexnet_original": (in_zoo("alexnet_original"), [(1, 3, 227, 227)]),
    "se_resnet50": (in_zoo("se_resnet50"), [(2, 3, 64, 64)]),
    "shufflenet_v1_1x_g3": (in_zoo("shufflenet_v1_1x_g3"), [(2, 3, 64, 64)]),
    "segnet": (in_zoo("segnet"), [(1, 3, 64, 64)]),
    "transformer layer": (lambda: nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), [(2, 24, 32)]),
    "transformer layer, no dropout": (
        lambda: nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0), [(2, 24, 32)],
    ),
    "attention": (Attends, [(1, 256, 32)]),
    "gru": (lambda: nn.GRU(16, 32, 2), [(12, 4, 16)]),
    "frozen trunk": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3).requires_grad_(False), nn.ReLU(), nn.Conv2d(8, 8, 3)),
        [(2, 3, 32, 32)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_training_memory_is_what_is_really_allocated(name: str) -> None:
    make, shapes = NETS[name]
    net = make()
    anatomy = trace(net, tuple(torch.randn(shape) for shape in shapes))
    assert anatomy.training_bytes == pytest.approx(kept(net, shapes), rel=0.1)
    shared_out = sum(layer.saved_bytes for layer in anatomy.layers)
    assert shared_out == pytest.approx(anatomy.training_bytes, rel=0.001)


def test_training_memory_in_closed_form() -> None:
    """A convolution keeps its input; ReLU its output, which the next convolution keeps, too; BN its two statistics."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.Flatten())
    anatomy = trace(net, torch.zeros(2, 3, 8, 8))
    maps = 2 * 4 * 36
    assert anatomy.training_bytes == 4 * (2 * 3 * 64 + maps + 2 * 4 + maps)
    assert trace(net, (3, 8, 8), training_memory=False).training_bytes is None


def test_training_memory_does_not_depend_on_the_mode_of_the_net() -> None:
    net = nets.build("cifar_resnet20")
    assert trace(net.train(), (3, 32, 32)) == trace(net.eval(), (3, 32, 32))


# --- peak ----------------------------------------------------------------------------------------------------------


class Alive(TorchDispatchMode):
    """Bytes of all tensors that are alive, by counting the tensors on every piece of memory."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.count: dict[int, int] = {}
        self.size: dict[int, int] = {}
        self.peak = 0
        self.fixed = {t.untyped_storage().data_ptr() for t in (*net.parameters(), *net.buffers())}

    def add(self, t: Tensor) -> None:
        key = t.untyped_storage().data_ptr()
        if key in self.fixed or not key:
            return
        self.count[key] = self.count.get(key, 0) + 1
        self.size[key] = t.untyped_storage().nbytes()
        weakref.finalize(t, self.drop, key)
        self.peak = max(self.peak, sum(self.size.values()))

    def drop(self, key: int) -> None:
        self.count[key] -= 1
        if not self.count[key]:
            del self.count[key], self.size[key]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {id(t) for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for t in pytree.tree_leaves(result):
            if isinstance(t, Tensor) and id(t) not in given:
                self.add(t)
        return result


def peak(net: nn.Module, *inputs: Tensor) -> int:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        mode = Alive(net.eval())
        with torch.no_grad():
            for x in inputs:
                mode.add(x)
            with mode:
                net(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    return mode.peak


@pytest.mark.parametrize("name", [name for name in NETS if name != "gru"])  # which is one operator on a processor
def test_peak_is_that_of_a_slow_reference(name: str) -> None:
    make, shapes = NETS[name]
    net = make()
    inputs = tuple(torch.randn(shape) for shape in shapes)
    assert trace(net, inputs, training_memory=False).peak_bytes == peak(net, *inputs)


class Cell(nn.Module):
    """A random cell: each step reads earlier maps, and they live as long as they are wanted."""

    def __init__(self, steps: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.steps = steps
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in steps)

    def forward(self, x: Tensor) -> Tensor:
        maps: list[Tensor | None] = [x]
        for (kind, a, b), conv in zip(self.steps, self.convs, strict=True):
            one, other = maps[a % len(maps)], maps[b % len(maps)]
            one, other = (x if m is None else m for m in (one, other))
            if kind == "drop":
                maps[a % len(maps)] = None
            elif kind == "conv":
                maps.append(conv(one))
            elif kind == "relu_":
                maps.append(F.relu(conv(one), inplace=True))
            elif kind == "add":
                maps.append(one + other)
            elif kind == "view":
                maps.append(one.flatten(1).view(one.shape))
            elif kind == "part":
                maps.append(torch.cat([one.chunk(2, 1)[0], other.chunk(2, 1)[1]], 1))
        return maps[-1] if maps[-1] is not None else x


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["conv", "relu_", "add", "view", "part", "drop"]), st.integers(0, 9), st.integers(0, 9)
        ),
        max_size=10,
    )
)
@settings(max_examples=80)
def test_peak_of_any_cell(steps: list[tuple[str, int, int]]) -> None:
    net, x = Cell(steps), torch.randn(2, 4, 5, 5)
    assert trace(net, x, training_memory=False).peak_bytes == peak(net, x)


def test_peak_in_closed_form() -> None:
    """Input and output of the largest step, and the picture, which the caller still holds."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 3, 1), nn.ReLU(inplace=True))
    anatomy = trace(net, (1, 10, 10))
    assert anatomy.peak_bytes == 4 * 100 * (1 + 2 + 3)
    assert anatomy.output_bytes == 4 * 100 * (2 + 2 + 3)
    assert trace(nn.Flatten(), (3, 4)).peak_bytes == 48


def test_a_memory_of_the_batch_is_in_proportion() -> None:
    net = nets.build("cifar_resnet20")
    one, four = trace(net, torch.zeros(1, 3, 32, 32)), trace(net, torch.zeros(4, 3, 32, 32))
    assert four.peak_bytes == 4 * one.peak_bytes
    assert four.macs == 4 * one.macs and four.params == one.params
    assert one.training_bytes is not None and four.training_bytes is not None
    assert four.training_bytes == pytest.approx(4 * one.training_bytes, rel=0.005)  # BN keeps statistics once
