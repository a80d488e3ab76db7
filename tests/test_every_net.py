"""What every registered net must do. A new net is tested by being registered."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch
from nets.counting import multiply_adds, trainable
from safetensors.torch import load, save
from torch import Tensor, nn

from neocog import nets
from neocog.errors import NetError
from neocog.nets.layers import StochasticDepth

CLASSES = 7
# Nets whose forward() is not exactly the head applied to the features, with the reason.
SCALED = {"speednet": "divides its logits by the number of features"}


# Nets that are computed in the slow tests only: more than 40 million parameters, or 1000 layers. The others of their
# families have the same code; figures and shapes of all are always tested.
GIANTS = {name for name in nets.names() if nets.facts(name).params > 40e6 or name.endswith(("1001", "1202"))}


@pytest.mark.parametrize("name", nets.names())
def test_figures_are_the_published_ones(name: str) -> None:
    facts = nets.facts(name)
    with torch.device("meta"):
        net = nets.build(name)
    assert (trainable(net), multiply_adds(net, facts.input)) == (facts.params, facts.macs)

    nets.change_head(net, CLASSES)
    x = torch.empty(2, facts.input[0], facts.input[1], facts.input[2], device="meta")
    features = net.forward_features(x)
    assert features.dim() == 2
    assert nets.head_of(net)(features).shape == (2, CLASSES)


@pytest.mark.parametrize("name", nets.names())
def test_smaller_pictures_are_refused_with_the_smallest_size(name: str) -> None:
    smallest = nets.facts(name).smallest
    with pytest.raises(NetError, match=f"at least {smallest}x{smallest}"):
        nets.build(name, input_size=smallest - 1)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Such small maps gain nothing from a second thread, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name in GIANTS else ()) for name in nets.names()],
)
def net(request: pytest.FixtureRequest) -> Iterator[nn.Module]:
    """One net at the smallest input; the running statistics of its BN layers fit the pictures of `pictures`."""
    torch.manual_seed(0)
    name = request.param
    made = nets.build(name, classes=CLASSES, input_size=nets.facts(name).smallest)
    made.eval()
    norms = [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:  # untrained running statistics would let the values of a deep net overflow
        norm.train()
        norm.momentum, norm.usual = None, norm.momentum  # None: the plain mean over batches
    with torch.no_grad():
        made(pictures(made, 8))
    for norm in norms:
        norm.eval()
        norm.momentum = norm.usual
    yield made


def pictures(net: nn.Module, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    size = net.spec["input_size"]
    return torch.randn(number, net.spec["in_channels"], size, size, generator=generator)


def test_evaluation_is_deterministic_and_sees_pictures_one_by_one(net: nn.Module) -> None:
    x = pictures(net, 2)
    with torch.no_grad():
        first, second, alone = net(x), net(x), net(x[:1])
    assert first.shape == (2, CLASSES)
    assert first.isfinite().all()
    assert torch.equal(first, second)
    assert (first[0] != first[1]).any()  # it looks at the pictures
    torch.testing.assert_close(alone, first[:1], rtol=0.02, atol=0.02)


def test_head_works_on_features(net: nn.Module) -> None:
    x = pictures(net, 2)
    with torch.no_grad():
        features, logits = net.forward_features(x), net(x)
        expected = nets.head_of(net)(features)
    assert features.dim() == 2
    if nets.facts(net.spec["name"]).family in SCALED:
        expected = expected * (logits.norm() / expected.norm())
    torch.testing.assert_close(logits, expected)


def test_learns_in_every_parameter(net: nn.Module) -> None:
    net.train()
    for module in net.modules():
        if isinstance(module, StochasticDepth):
            module.eval()  # a dropped block rightly has no gradient
    x = pictures(net, 2)
    nn.functional.cross_entropy(net(x), torch.tensor([0, 1])).backward()
    missing = [
        name
        for name, parameter in net.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.isfinite().all())
    ]
    net.zero_grad(set_to_none=True)
    net.eval()
    assert missing == []


def test_spec_and_safetensors_give_the_net_back(net: nn.Module) -> None:
    with torch.device("meta"):  # loading needs no second copy of the weights, and no initial values
        again = nets.build(**json.loads(json.dumps(net.spec))).eval()
    again.load_state_dict(load(save(net.state_dict())), strict=True, assign=True)
    x = pictures(net, 2)
    with torch.no_grad():
        assert torch.equal(again(x), net(x))


def test_bf16_channels_last_is_near(net: nn.Module) -> None:
    x = pictures(net, 4)
    with torch.no_grad():
        exact = net(x)
        net.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            near = net(x.contiguous(memory_format=torch.channels_last)).float()
        net.to(memory_format=torch.contiguous_format)
        # a net of random weights and 100 layers enlarges any error; so the scale is what rounding the weights does
        weights = [parameter.clone() for parameter in net.parameters()]
        for parameter in net.parameters():
            parameter.copy_(parameter.bfloat16())
        rounded = net(x)
        for parameter, value in zip(net.parameters(), weights, strict=True):
            parameter.copy_(value)
    assert near.isfinite().all()
    assert (near - exact).norm() < 5 * (rounded - exact).norm()


def test_changes_its_head_and_nothing_else(net: nn.Module) -> None:
    old = nets.head_of(net)
    before = net.state_dict(keep_vars=True)
    versions = {name: value._version for name, value in before.items()}
    assert nets.change_head(net, CLASSES + 4) is net
    after = net.state_dict(keep_vars=True)
    logits = net(pictures(net, 2))
    spec = net.spec
    parent, _, last = net.head.rpartition(".")
    setattr(net.get_submodule(parent), last, old)
    net.spec = {**net.spec, "classes": CLASSES}

    assert logits.shape == (2, CLASSES + 4)
    assert spec["classes"] == CLASSES + 4
    with torch.device("meta"):
        fresh = nets.build(**spec).state_dict()
    assert {name: value.shape for name, value in fresh.items()} == {name: value.shape for name, value in after.items()}
    for name, value in after.items():
        if not name.startswith(net.head + "."):
            assert value is before[name]
            assert value._version == versions[name]  # nothing was written into it
