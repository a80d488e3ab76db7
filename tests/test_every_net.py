"""What every registered net must do. A new net is tested by being registered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from nets.counting import multiply_adds, trainable
from safetensors.torch import load, save
from torch import Tensor, nn

from neocog import nets
from neocog.errors import NetError
from neocog.fit.evaluating import features_read
from neocog.nets.layers import StochasticDepth, WithAuxiliaries
from neocog.nets.taps import LAST, tapped

CLASSES = 7
# Nets whose forward() is not exactly the head applied to the features, with the reason.
SCALED = {"speednet": "divides its logits by the number of features"}
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

# Nets that are computed in the slow tests only: more than 40 million parameters, 1000 layers, or 10 G multiply-adds for
# the smallest input. The others of their families have the same code; figures and shapes of all but the nets of 1000
# layers are always tested.
GIANTS = {name for name in nets.names() if nets.facts(name).params > 40e6 or name.endswith(("1001", "1202"))}
GIANTS |= {
    name
    for name in nets.names()
    if nets.facts(name).macs * (nets.facts(name).smallest / nets.facts(name).input[-1]) ** 2 > 10e9
}

# Those that differ only in numbers (depth, width, growth) from one that is computed: in the slow tests only, too.
SIBLINGS = {
    "cifar_preresnet110", "cifar_resnet32", "cifar_resnet44", "cifar_resnet110", "densenet100_k12", "densenet100_k24",
    "densenet161", "densenet169", "densenet201", "densenet_bc190_k40", "densenet_bc250_k24", "efficientnet_lite1",
    "efficientnet_lite2", "efficientnet_lite3", "efficientnet_lite4", "mobilenet_v1_050", "mobilenet_v1_075",
    "mobilenet_v2_035", "mobilenet_v2_050", "mobilenet_v2_075", "preact_resnet34", "resnet34", "resnext29_8x64d",
    "se_resnet34", "shufflenet_v1_0_5x_g3", "shufflenet_v1_1_5x_g3", "shufflenet_v1_1_5x_g8", "shufflenet_v1_1x_g2",
    "shufflenet_v1_1x_g4", "shufflenet_v1_1x_g8", "shufflenet_v1_2x_g3", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5",
}  # fmt: skip


def has_classes(name: str) -> bool:
    return nets.facts(name).task not in ("reconstruct", "vae", "embed")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name.endswith(("1001", "1202")) else name for name in nets.names()],
)
def test_figures_are_the_published_ones(name: str) -> None:
    facts = nets.facts(name)
    with torch.device("meta"):
        net = nets.build(name)
    x = nets.example(net, 1).to("meta")
    with tapped(net, [LAST] if facts.task == "label" else []) as read:  # one pass for all: it is what takes the time
        assert (trainable(net), multiply_adds(net, x)) == (facts.params, facts.macs)
    assert x.shape[1:] == facts.input

    if has_classes(name):
        nets.change_head(net, CLASSES)
        made = nets.head_of(net)(read[LAST]) if facts.task == "label" else net.eval()(x)
        assert made.shape[:2] == (1, CLASSES)
    if facts.task == "label" and name in GIANTS | SIBLINGS:  # of the others see below
        features = net.forward_features(x)
        assert nets.head_of(net)(features).shape[:2] == (1, CLASSES)


@pytest.mark.parametrize("name", nets.names())
def test_smaller_pictures_are_refused_with_the_smallest_size(name: str) -> None:
    smallest = nets.facts(name).smallest
    if smallest > 1:
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
    params=[pytest.param(name, marks=pytest.mark.slow if name in GIANTS | SIBLINGS else ()) for name in nets.names()],
)
def net(request: pytest.FixtureRequest) -> Iterator[nn.Module]:
    """One net at the smallest input; the running statistics of its BN layers fit the pictures of `pictures`, and stay.

    `answers`: what it makes of two of them.
    """
    torch.manual_seed(0)
    name = request.param
    changed: dict[str, Any] = {"classes": CLASSES} if has_classes(name) else {}
    made = nets.build(name, input_size=nets.facts(name).smallest, **changed)
    made.eval()
    norms = [module for module in made.modules() if isinstance(module, NORMS)]
    for norm in norms:  # untrained running statistics would let the values of a deep net overflow
        norm.train()
        norm.momentum = None  # the plain mean over batches
    with torch.no_grad():
        made(pictures(made, 8 if norms else 2))
    for norm in norms:
        norm.eval()
        norm.momentum = 0.0
    for module in made.modules():
        if hasattr(module, "n_power_iterations"):  # spectral normalisation, whose estimates change in training, too
            module.n_power_iterations = 0
    with torch.no_grad():
        made.answers = made(pictures(made, 2))
    yield made


def task_of(net: nn.Module) -> str:
    return nets.facts(net.spec["name"]).task


def pictures(net: nn.Module, number: int) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nets.example(net, number)


def test_evaluation_is_deterministic_and_sees_pictures_one_by_one(net: nn.Module) -> None:
    x = pictures(net, 2)
    with torch.no_grad():
        first, second, alone = net.answers, net(x), net(x[:1])
    task = task_of(net)
    if task in ("label", "play"):
        assert first.shape == (2, CLASSES)
    elif task == "segment":
        assert first.shape[:2] == (2, CLASSES) and first.dim() == 4
    elif task in ("reconstruct", "vae"):
        assert first.shape == x.shape
    else:
        assert first.dim() == 2 and len(first) == 2
    assert first.isfinite().all()
    assert torch.equal(first, second)
    assert (first[0] != first[1]).any()  # it looks at the pictures
    torch.testing.assert_close(alone, first[:1], rtol=0.02, atol=0.02)


def test_one_pass_gives_features_and_the_head_works_on_them(net: nn.Module) -> None:
    if task_of(net) != "label":
        pytest.skip(f"task {task_of(net)!r} has no single linear head")
    x = pictures(net, 2)
    with torch.no_grad():
        with tapped(net, [LAST]) as read:
            logits = net(x)
        torch.testing.assert_close(logits, net.answers)
        features = net.forward_features(x)
        torch.testing.assert_close(features_read(net, read, x), features.reshape(*features.shape[:2], -1).mean(-1))
        assert not nets.head_of(net)._forward_pre_hooks
        expected = nets.head_of(net)(features)
    assert len(features) == 2
    if features.dim() > 2:  # a convolution is the head; what follows has no parameters
        assert expected.shape[:2] == (2, CLASSES)
        return
    if nets.facts(net.spec["name"]).family in SCALED:
        expected = expected * (logits.norm() / expected.norm())
    torch.testing.assert_close(logits, expected)


def outputs_of(made: Any) -> list[Tensor]:
    """The tensors that a net puts out in training."""
    if isinstance(made, WithAuxiliaries):
        return [made.logits, *made.auxiliaries]
    return [made]


def test_learns_in_every_parameter(net: nn.Module) -> None:
    if getattr(net, "learns_by_itself", False):
        pytest.skip("learns by its own rule, not by gradients")
    net.train()
    for module in net.modules():
        if isinstance(module, StochasticDepth):
            module.eval()  # a dropped block rightly has no gradient
        if isinstance(module, nn.Dropout) and module.p > 0:
            module.eval()  # half of few features can leave a filter without a gradient
    x = pictures(net, 2)
    made = net(x)
    losses = []
    for out in outputs_of(made):
        if task_of(net) in ("label", "play"):
            assert out.shape == (2, CLASSES)
            losses.append(nn.functional.cross_entropy(out, torch.tensor([0, 1])))
        elif task_of(net) == "segment":
            target = torch.arange(out[:, 0].numel()).reshape(out[:, 0].shape) % CLASSES
            losses.append(nn.functional.cross_entropy(out, target))
        else:
            losses.append((out.float() - 0.3).square().mean())
    sum(losses).backward()
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
    with torch.no_grad():
        assert torch.equal(again(pictures(net, 2)), net.answers)


def test_bf16_channels_last_is_near(net: nn.Module) -> None:
    if getattr(net, "learns_by_itself", False):
        pytest.skip("its cells compare small differences; it runs in float32")
    x = pictures(net, 2)
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim(), torch.contiguous_format)
    exact = net.answers
    with torch.no_grad():
        if x.dim() == 4:
            net.to(memory_format=layout)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            near = net(x.contiguous(memory_format=layout)).float()
        net.to(memory_format=torch.contiguous_format)
        # a net of random weights and 100 layers enlarges any error; so the scale is what rounding the weights does
        weights = [parameter.clone() for parameter in net.parameters()]
        for parameter in net.parameters():
            parameter.copy_(parameter.bfloat16())
        rounded = net(x)
        for parameter, value in zip(net.parameters(), weights, strict=True):
            parameter.copy_(value)
    assert near.isfinite().all()
    assert (near - exact).norm() < 5 * (rounded - exact).norm() + 0.01 * exact.norm()


def test_changes_its_head_and_nothing_else(net: nn.Module) -> None:
    if not has_classes(net.spec["name"]):
        with pytest.raises(NetError, match="head"):
            nets.change_head(net, CLASSES + 4)
        return
    heads = (net.head, *getattr(net, "aux_heads", ()))
    old = {name: net.get_submodule(name) for name in heads}
    before = net.state_dict(keep_vars=True)
    versions = {name: value._version for name, value in before.items()}
    assert nets.change_head(net, CLASSES + 4) is net
    after = net.state_dict(keep_vars=True)
    with torch.no_grad():
        out = net(pictures(net, 2))
    spec = net.spec
    for name, module in old.items():
        parent, _, last = name.rpartition(".")
        setattr(net.get_submodule(parent), last, module)
    net.spec = {**net.spec, "classes": CLASSES}

    assert out.shape[:2] == (2, CLASSES + 4)
    assert spec["classes"] == CLASSES + 4
    with torch.device("meta"):
        fresh = nets.build(**spec).state_dict()
    assert {name: value.shape for name, value in fresh.items()} == {name: value.shape for name, value in after.items()}
    for name, value in after.items():
        if not name.startswith(tuple(f"{head}." for head in heads)):
            assert value is before[name]
            assert value._version == versions[name]  # nothing was written into it
