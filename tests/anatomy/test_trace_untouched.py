"""trace leaves the module, its input and the process exactly as they were."""

from __future__ import annotations

import collections
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations

from neocog.anatomy.trace import trace
from neocog.errors import NetError

CHANNELS, SIZE = 4, 6


class Keeps(nn.Module):
    """Does what user code does in forward: keeps tensors, counts, fills a cache, changes buffers and its own mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(CHANNELS, 1, 1))
        self.plain = torch.zeros(2)
        self.calls, self.log, self.cache, self.names = 0, [], {"old": 1}, {"a"}

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = x
        self.log.append(x.sum())
        self.cache["new"] = x
        self.names.add("b")
        self.plain.add_(1)
        self.mean = self.mean * 0.9 + x.mean((0, 2, 3))[:, None, None] * 0.1
        self.eval()
        if not hasattr(self, "made"):
            self.made = nn.Parameter(torch.rand(1))
        return x + self.mean + torch.rand(1) * self.made


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        self.last = x
        raise ValueError("in the middle")


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
    "batch norm": lambda: nn.BatchNorm2d(CHANNELS),
    "instance norm": lambda: nn.InstanceNorm2d(CHANNELS, affine=True, track_running_stats=True),
    "relu": lambda: nn.ReLU(inplace=True),
    "dropout": lambda: nn.Dropout2d(0.5),
    "keeps": Keeps,
    "spectral": lambda: parametrizations.spectral_norm(nn.Conv2d(CHANNELS, CHANNELS, 1)),
    "weight norm": lambda: parametrizations.weight_norm(nn.Conv2d(CHANNELS, CHANNELS, 1)),
    "tree": lambda: nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.Sequential(nn.BatchNorm2d(CHANNELS), Keeps())),
    "fails": Fails,
}


def _hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output * 2


def _hook_before(module: nn.Module, args: Any) -> None:
    return None


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    net = nn.Sequential(*(BLOCKS[name]() for name in draw(st.lists(st.sampled_from(sorted(BLOCKS)), max_size=5))))
    for module in list(net.modules()):
        module.training = draw(st.booleans())
        if draw(st.booleans()):
            module.register_forward_hook(_hook)
        if draw(st.booleans()):
            module.register_forward_pre_hook(_hook_before)
    for parameter in net.parameters():
        parameter.requires_grad_(draw(st.booleans()))
        if draw(st.booleans()):
            parameter.grad = torch.rand_like(parameter)
    return net


def _value(value: Any) -> Any:
    """Something that is equal only if nothing has changed: identity of objects, content of containers and tensors."""
    if isinstance(value, Tensor):
        if value.device.type == "meta":
            return id(value), "meta"
        grad = (id(value.grad), value.grad.tolist()) if value.is_leaf and value.grad is not None else None
        return id(value), value.requires_grad, value.tolist(), grad
    if isinstance(value, dict):
        return id(value), [(key, _value(v)) for key, v in value.items()]
    if isinstance(value, list | tuple | collections.deque):
        return id(value), [_value(v) for v in value]
    if isinstance(value, set):
        return id(value), sorted(value, key=repr)
    if isinstance(value, SimpleNamespace):
        return id(value), _value(vars(value))
    if isinstance(value, Slotted):
        return id(value), value.old, hasattr(value, "x")
    if isinstance(value, Keeps):
        return id(value), _value(vars(value))
    return id(value) if callable(value) or isinstance(value, nn.Module) else value


def state_of(net: nn.Module) -> Any:
    """All attributes of all modules, in their order."""
    return [(id(m), [(k, _value(v)) for k, v in vars(m).items()]) for m in net.modules()]


def process() -> Any:
    """What a process has only one of."""
    return (
        torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2],
        torch.is_grad_enabled(), torch.get_default_dtype(), torch.backends.mha.get_fastpath_enabled(),
        len(torch_module._global_forward_hooks), len(torch_module._global_forward_pre_hooks),
    )  # fmt: skip


def check(net: nn.Module, given: Any, error: type[BaseException] | None = None) -> None:
    before, surroundings, ids = state_of(net), process(), {k: id(v) for k, v in net.state_dict(keep_vars=True).items()}
    if error is None:
        trace(net, given)
    else:
        with pytest.raises(error):
            trace(net, given)
    assert state_of(net) == before
    assert process() == surroundings
    assert {k: id(v) for k, v in net.state_dict(keep_vars=True).items()} == ids


@given(net=networks(), real=st.booleans())
@settings(max_examples=60)
def test_any_net_is_left_as_it_was(net: nn.Module, real: bool) -> None:
    fails = any(isinstance(m, Fails) for m in net.modules())
    x = torch.rand(2, CHANNELS, SIZE, SIZE)
    before = _value(x)
    check(net, x if real else (CHANNELS, SIZE, SIZE), NetError if fails else None)
    assert _value(x) == before


class Slotted:
    """A plain object without a dict of attributes."""

    __slots__ = ("old", "x")

    def __init__(self) -> None:
        self.old = None

    def put(self, x: Tensor) -> None:
        self.x = self.old = x


class Own(nn.Module):
    """Runs a function; `held` is what the module keeps."""

    def __init__(self, function: Callable[[Any, Tensor], Any], held: Any = None) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(CHANNELS, CHANNELS, 1), nn.BatchNorm2d(CHANNELS)
        self.function, self.held, self._held = function, held, [self.conv.weight]

    def forward(self, x: Tensor) -> Any:
        x = self.norm(self.conv(x))
        self.function(self, x)
        return x


DEEDS: dict[str, tuple[Callable[[Any, Tensor], Any], Callable[[], Any]]] = {
    "reads a number": (lambda net, x: float(x.mean()), lambda: None),
    "list of numbers": (lambda net, x: net.held.append(float(x.mean())), list),
    "deque": (lambda net, x: net.held.append(x), lambda: collections.deque(maxlen=2)),
    "list in a dict": (lambda net, x: net.held["k"].append(x), lambda: {"k": []}),
    "constant in a list": (lambda net, x: net.held[0].add_(1), lambda: [torch.zeros(2)]),
    "number into a tuple": (lambda net, x: net.held[0].add_(float(x.mean())), lambda: (torch.zeros(2),)),
    "object": (lambda net, x: setattr(net.held, "x", x), lambda: SimpleNamespace(x=None)),
    "module in a list": (lambda net, x: net.held[0](x), lambda: [Keeps()]),
    "object with slots": (lambda net, x: net.held.put(x), lambda: Slotted()),
    "tensor with gaps": (lambda net, x: net.held.add_(1), lambda: torch.zeros(4, 4)[:, ::2]),
    "weight in a list": (lambda net, x: net._held[0].data.mul_(2), lambda: None),
    "weight in place, after a number": (lambda net, x: net.conv.weight.data.mul_(float(x.mean())), lambda: None),
    "weight in place": (lambda net, x: net.conv.weight.data.mul_(2), lambda: None),
    "new weight": (lambda net, x: setattr(net.conv, "weight", nn.Parameter(net.conv.weight * 2)), lambda: None),
    "freezes": (lambda net, x: net.conv.weight.requires_grad_(False), lambda: None),
    "adds a module": (lambda net, x: net.add_module("new", nn.Linear(2, 2)), lambda: None),
    "removes a module": (lambda net, x: delattr(net, "conv"), lambda: None),
    "adds a hook": (lambda net, x: net.conv.register_forward_hook(_hook), lambda: None),
    "training mode": (lambda net, x: net.train(), lambda: None),
    "random numbers": (lambda net, x: (random.random(), np.random.rand(), torch.rand(1)), lambda: None),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_what_forward_does_is_undone(deed: str) -> None:
    function, held = DEEDS[deed]
    check(Own(function, held()), (CHANNELS, SIZE, SIZE))


def test_random_state_of_a_generator_that_the_module_holds() -> None:
    net = Own(lambda net, x: torch.rand(3, generator=net.held), torch.Generator())
    before = net.held.get_state()
    trace(net, (CHANNELS, SIZE, SIZE))
    assert torch.equal(net.held.get_state(), before)


@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState, random.Random])
def test_random_state_of_other_generators(make: Callable[[int], Any]) -> None:
    net = Own(lambda net, x: net.held["here"].random(), {"here": make(0)})
    trace(net, (CHANNELS, SIZE, SIZE))
    assert net.held["here"].random() == make(0).random()


def test_a_graph_that_waits_for_its_backward_pass_still_gets_it() -> None:
    """A copy onto a tensor counts as a change of it, also where the numbers are the same."""
    net = Own(lambda net, x: x * net.held, torch.ones(1))
    w = torch.ones(1, requires_grad=True)
    waiting = (w * net.held).sum()
    trace(net, (CHANNELS, SIZE, SIZE))
    waiting.backward()
    assert w.grad is not None


@pytest.mark.parametrize("error", [ValueError, RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("after_reading_a_number", [False, True])
def test_also_when_forward_fails(error: type[BaseException], after_reading_a_number: bool) -> None:
    def function(net: Any, x: Tensor) -> None:
        net.held.append(x)
        if after_reading_a_number:
            float(x.mean())
        raise error

    check(Own(function, []), (CHANNELS, SIZE, SIZE), KeyboardInterrupt if error is KeyboardInterrupt else NetError)


def test_the_input_is_left_as_it_was() -> None:
    """Also where the first layer writes into it, and where real numbers are computed."""
    x = torch.randn(2, CHANNELS, SIZE, SIZE, requires_grad=True)
    for function in (lambda net, x: None, lambda net, x: float(x.mean())):
        before = _value(x)
        trace(nn.Sequential(nn.ReLU(inplace=True), Own(function)), x.detach())
        trace(Own(function), x)
        assert _value(x) == before


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("traced", [False, True])
def test_torch_script_is_refused_and_not_harmed(inside: bool, traced: bool) -> None:
    net: nn.Module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    x = torch.rand(1, 3, 6, 6)
    net = torch.jit.trace(net, x) if traced else torch.jit.script(net)
    if inside:
        net = nn.Sequential(net, nn.ReLU())
    expected = net(x)
    with pytest.raises(NetError, match="TorchScript"):
        trace(net, (3, 6, 6))
    assert torch.equal(net(x), expected)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_still_compute(kind: Any) -> None:
    """They keep a list of their weights beside the parameters."""
    net = kind(3, 4, 2)
    x = torch.rand(5, 2, 3)
    expected = net(x)[0]
    check(net, x)
    assert torch.equal(net(x)[0], expected)
    assert all(a is b for a, b in zip(net._flat_weights, net.parameters(), strict=True))


def test_training_goes_on_as_if_nothing_had_happened() -> None:
    def steps(traced: bool) -> list[Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 2))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.rand(2, 3, 6, 6)).square().sum().backward()
            if traced:
                trace(net, (3, 6, 6))
            optimizer.step()
        return list(net.state_dict().values())

    assert all(torch.equal(a, b) for a, b in zip(steps(False), steps(True), strict=True))
