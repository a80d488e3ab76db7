"""Finding, building and changing nets by name."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from neocog import nets
from neocog.errors import NetError
from neocog.nets import registry
from neocog.records import Facts


class Tiny(nn.Module):
    head = "parts.last"
    aux_heads = ("parts.side",)

    def __init__(
        self, width: int, *, classes: int, in_channels: int, slope: float = 0.1, points: object = None
    ) -> None:
        super().__init__()
        self.slope, self.points = slope, points
        self.parts = nn.ModuleDict(
            {
                "first": nn.Linear(in_channels, width),
                "side": nn.Conv2d(width, classes, 1, bias=False),
                "last": nn.Linear(width, classes, bias=False),
            }
        )

    def forward_features(self, x: Tensor) -> Tensor:
        return self.parts["first"](x.mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.parts["last"](self.forward_features(x))


def tiny_facts(name: str) -> Facts:
    return Facts(name, "tiny", 2000, "none", 1, 1, (3, 16, 16), 5, smallest=4)


@pytest.fixture
def tiny() -> Iterator[Callable[..., nn.Module]]:
    nets.names()
    before = dict(registry._entries)
    nets.register(tiny_facts("tiny"), width=6, slope=0.3)(Tiny)
    yield lambda **options: nets.build("tiny", **options)
    registry._entries.clear()
    registry._entries.update(before)


def test_defaults_are_the_published_ones(tiny: Callable[..., nn.Module]) -> None:
    net = tiny()
    assert net.spec == {"name": "tiny", "classes": 5, "in_channels": 3, "input_size": 16}
    assert net(torch.zeros(2, 3, 16, 16)).shape == (2, 5)
    assert net.slope == 0.3  # a setting changes an option's default
    assert nets.options("tiny") == {"slope": 0.3, "points": None}


def test_options_reach_the_net_and_the_spec(tiny: Callable[..., nn.Module]) -> None:
    net = tiny(classes=2, in_channels=1, input_size=4, slope=0.5)
    assert net.slope == 0.5
    assert net.spec == {"name": "tiny", "classes": 2, "in_channels": 1, "input_size": 4, "slope": 0.5}
    assert nets.build(**net.spec).spec == net.spec


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"classes": 0}, "classes must be a whole number of at least 1, got 0"),
        ({"classes": 2.0}, "classes must be a whole number"),
        ({"in_channels": True}, "in_channels must be a whole number"),
        ({"input_size": 3}, "at least 4x4, got input_size=3"),
        ({"slop": 1}, "tiny has no option 'slop' .did you mean 'slope'.*slope=0.3, points=None"),
        ({"width": 7}, "tiny has no option 'width'"),  # required arguments belong to the variant
        ({"points": {1}}, "saved as JSON"),
    ],
)
def test_wrong_values_are_named(tiny: Callable[..., nn.Module], wrong: dict[str, object], message: str) -> None:
    with pytest.raises(NetError, match=message):
        tiny(**wrong)


def test_unknown_names_get_the_closest() -> None:
    number = len(nets.names())
    with pytest.raises(
        NetError, match=f"unknown net 'resnet5o' .did you mean 'resnet50'..; 'neocog nets' lists all {number}"
    ):
        nets.build("resnet5o")
    with pytest.raises(NetError, match="unknown net"):
        nets.facts("zzz")
    with pytest.raises(NetError, match=r"unknown family 'lennet' .did you mean 'lenet'.*resnet"):
        nets.names("lennet")


def test_names_are_in_natural_order() -> None:
    resnets = nets.names("resnet")
    assert resnets.index("resnet18") < resnets.index("resnet101")
    assert set(resnets) < set(nets.names())
    assert nets.facts("resnet18").family == "resnet"


def test_a_name_is_taken_once(tiny: Callable[..., nn.Module]) -> None:
    with pytest.raises(NetError, match=r"'tiny' is already registered.*Tiny"):
        nets.register(tiny_facts("tiny"), width=6)


def test_a_setting_that_nobody_takes_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="takes no depht"):
        nets.register(tiny_facts("tiny2"), width=6, depht=3)(Tiny)
    assert "tiny2" not in nets.names()


def test_fixed_channels(tiny: Callable[..., nn.Module]) -> None:
    def build_grey(*, classes: int) -> nn.Module:
        return Tiny(2, classes=classes, in_channels=3)

    nets.register(tiny_facts("tiny_fixed"))(build_grey)
    nets.build("tiny_fixed")
    with pytest.raises(NetError, match="takes 3 channels only, got in_channels=1"):
        nets.build("tiny_fixed", in_channels=1)


def test_change_head_reaches_nested_and_auxiliary_heads(tiny: Callable[..., nn.Module]) -> None:
    net = tiny().double().eval()
    first = net.parts["first"].weight
    nets.change_head(net, 9)
    last, side = nets.head_of(net), net.parts["side"]
    assert (last.out_features, side.out_channels) == (9, 9)
    assert last.bias is None
    assert last.weight.dtype == side.weight.dtype == torch.float64
    assert not last.training
    assert net.parts["first"].weight is first
    assert net.spec["classes"] == 9


def test_change_head_calls_the_nets_own_initialisation(tiny: Callable[..., nn.Module]) -> None:
    net = tiny()
    net.init_head = lambda layer: nn.init.constant_(layer.weight, 3.0)
    nets.change_head(net, 2)
    assert (nets.head_of(net).weight == 3).all()


def test_a_new_head_is_drawn_like_a_first_one() -> None:
    torch.manual_seed(0)
    built = nets.build("cifar_resnet20", classes=1000)
    changed = nets.change_head(nets.build("cifar_resnet20"), 1000)
    first, new = nets.head_of(built).weight.detach(), nets.head_of(changed).weight.detach()
    assert new.std().item() == pytest.approx(first.std().item(), rel=0.05)


def test_modules_without_a_head_are_refused() -> None:
    with pytest.raises(NetError, match="Linear does not name its last layer"):
        nets.head_of(nn.Linear(2, 2))
    net = nets.build("cifar_resnet20")
    net.fc = nn.Sequential(nn.Linear(64, 10))
    with pytest.raises(NetError, match="cannot change a head of type Sequential"):
        nets.change_head(net, 3)
    with pytest.raises(NetError, match="classes must be"):
        nets.change_head(net, 0)


def test_building_on_the_meta_device_takes_no_memory() -> None:
    for name in ("wide_resnet101_2", "preact_resnet200", "lenet5_original"):
        with torch.device("meta"):
            net = nets.build(name, classes=3)
        tensors = [*net.parameters(), *net.buffers()]
        assert all(tensor.is_meta for tensor in tensors)


FAMILY = """
from torch import nn
from neocog.records import Facts
from .registry import register

@register(Facts("brandnew", "brandnew", 2030, "none", 30, 30, (3, 1, 1), 10, smallest=1))
class BrandNew(nn.Sequential):
    head = "1"
    def __init__(self, classes):
        super().__init__(nn.Flatten(), nn.Linear(3, classes))
"""
ASK = """
from neocog import nets
nets.__path__.append("more")
assert nets.names("brandnew") == ["brandnew"] and "resnet18" in nets.names()
print(nets.change_head(nets.build("brandnew"), 4).spec)
"""


def test_a_family_is_one_new_file(tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "brandnew.py").write_text(FAMILY)
    done = python("-c", ASK)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "{'name': 'brandnew', 'classes': 4, 'in_channels': 3, 'input_size': 1}\n"


def test_the_same_seed_gives_the_same_net() -> None:
    for name in ("lenet5_original", "cifar_preresnet110"):
        torch.manual_seed(5)
        first = nets.build(name).state_dict()
        torch.manual_seed(5)
        assert all(torch.equal(value, first[key]) for key, value in nets.build(name).state_dict().items())
