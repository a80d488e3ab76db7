"""Advice finds what history found, is silent where there is nothing to say, and saves what the rewrite saves."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from neocog import nets
from neocog.anatomy.advice import RULES, advise
from neocog.anatomy.advice_view import Advice
from neocog.anatomy.rewrite import REWRITES, rewrite
from neocog.anatomy.trace import trace
from neocog.anatomy.whole import Anatomy
from neocog.errors import UsageError


@cache
def of_zoo(name: str) -> tuple[nn.Module, Anatomy]:
    with torch.device("meta"):
        net = nets.build(name)
    return net, trace(net, nets.facts(name).input, training_memory=False)


def found(net: nn.Module, shape: tuple[int, ...], *rules: str, **thresholds: float) -> list[Advice]:
    return advise(trace(net, shape, training_memory=False), net, rules or None, **thresholds)


def one(net: nn.Module, shape: tuple[int, ...], rule: str, **thresholds: float) -> Advice:
    (item,) = found(net, shape, rule, **thresholds)
    return item


# --- what history found ----------------------------------------------------------------------------------------------


def test_vgg16():
    net, anatomy = of_zoo("vgg16")
    items = {item.rule: item for item in advise(anatomy, net)}
    assert set(items) == {"depthwise", "heavy-layer", "groups", "low-rank"}
    head = items["heavy-layer"]
    assert head.layers == ("classifier.0", "classifier.3", "classifier.6")
    assert "102,764,544 of 138,357,544 parameters (74 %)" in head.evidence
    assert "global average pooling" in head.change and head.rewrite == "global-pool"
    assert head.saves_params == 123_642_856 - 513_000
    assert len(items["depthwise"].layers) == 12  # one item, not twelve
    assert items["depthwise"].saves_macs > 0.8 * anatomy.macs
    assert "1/512 + 1/9" in items["depthwise"].change or "1/64 + 1/9" in items["depthwise"].change


def test_alexnet():
    net, anatomy = of_zoo("alexnet")
    items = advise(anatomy, net)
    assert items[0].rule == "heavy-layer" and items[0].rewrite == "global-pool"
    assert "37,752,832 of 61,100,840 parameters (62 %)" in items[0].evidence
    filters = {item.layers: item for item in items if item.rule == "large-filter"}
    assert set(filters) == {("features.3",)}  # a chain for the 11x11 filters would cost more: they read 3 channels
    assert "5x5" in filters["features.3",].evidence and filters["features.3",].saves_macs > 0
    assert {"groups", "depthwise", "low-rank"} < {item.rule for item in items}


@pytest.mark.parametrize(
    ("name", "most"), [("mobilenet_v2", 2), ("mobilenet_v1", 2), ("shufflenet_v2_x1_0", 2), ("resnet50", 5)]
)
def test_later_nets_get_little_advice(name: str, most: int):
    net, anatomy = of_zoo(name)
    items = advise(anatomy, net)
    assert len(items) <= most
    assert not any(item.rule in ("heavy-layer", "bottleneck", "activation", "dead-branch") for item in items)


@pytest.mark.parametrize(
    "name", ["alexnet", "vgg16_bn", "resnet50", "googlenet", "lenet5", "dqn_2015", "squeezenet1_0"]
)
def test_savings_are_those_of_the_rewrite(name: str):
    net, anatomy = of_zoo(name)
    for item in advise(anatomy, net):
        if item.rewrite:
            result = rewrite(net, item.rewrite, nets.facts(name).input, layers=item.layers)
            assert result.before is not None and result.after is not None
            saved = result.before.params - result.after.params, result.before.macs - result.after.macs
            assert (item.saves_params, item.saves_macs) == saved, item
            written = result.before.output_bytes - result.after.output_bytes
            assert item.saves_bytes == 4 * item.saves_params + written, item


@pytest.mark.parametrize(
    "name", ["alexnet", "zfnet", "resnet18", "googlenet", "lenet5", "squeezenet1_0", "caffe_cifar10_quick", "c3d"]
)
def test_nothing_is_proposed_that_costs_more(name: str):
    net, anatomy = of_zoo(name)
    for item in advise(anatomy, net):
        if item.rule not in ("bottleneck", "dilation", "channels"):  # better or faster, and their price is stated
            assert min(item.saves_params, item.saves_macs) >= 0, item


@pytest.mark.parametrize("rule", ["large-filter", "heavy-layer", "depthwise", "groups", "low-rank"])
def test_a_change_that_would_cost_more_is_left_out(rule: str):
    net = nn.Sequential(nn.Conv2d(1, 64, 5), nn.ReLU(), nn.Conv2d(64, 1, 3))
    limits = {"least_channels": 1, "dense_share": 0.01, "heavy_share": 0.01}
    for item in found(net, (1, 20, 20), rule, **limits):
        assert min(item.saves_params, item.saves_macs) >= 0
        assert rule != "large-filter"


# --- chains ----------------------------------------------------------------------------------------------------------


def test_linear_layers_without_activation_between():
    net = nn.Sequential(nn.Linear(20, 30), nn.Dropout(), nn.Linear(30, 10), nn.ReLU(), nn.Linear(10, 3))
    item = one(net, (20,), "linear-stack")
    assert item.layers == ("0", "2") and "no activation between" in item.evidence and "one layer" in item.change
    assert (item.saves_params, item.saves_macs) == (630 + 310 - 210, 600 + 300 - 200)
    two = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.ReLU())
    item = one(two, (8, 9, 9), "linear-stack")
    assert item.layers == ("0", "2") and item.saves_macs == 0 and "one layer" not in item.change
    assert one(nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)), (8, 9, 9), "linear-stack").saves_macs > 0


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (nn.Sequential(nn.Linear(20, 4), nn.Linear(4, 20)), (20,)),  # a factorisation
        (nn.Sequential(nn.Conv2d(8, 8, (3, 1)), nn.Conv2d(8, 8, (1, 3))), (8, 9, 9)),
        (nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1)), (8, 9, 9)),  # depthwise separable
        (nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 10)), (20,)),
        (nn.Sequential(nn.Conv2d(8, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3)), (8, 9, 9)),
        (nn.Sequential(nn.Sigmoid()), (20,)),
        (nn.Sequential(nn.Linear(20, 30), nn.Sigmoid(), nn.BatchNorm1d(30), nn.Linear(30, 1), nn.Sigmoid()), (20,)),
        (nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 3), nn.LogSoftmax(1)), (20,)),
        (nn.TransformerEncoderLayer(8, 2, batch_first=True), (5, 8)),
    ],
)  # fmt: skip
def test_chains_that_are_meant_so_are_left_alone(net: nn.Module, shape: tuple[int, ...]):
    assert found(net, shape, "linear-stack", "sigmoid-stack", "softmax-answer") == []


@pytest.mark.parametrize("name", ["mobilenet_v2", "se_resnet50", "shufflenet_v2_x1_0", "inception_v3", "vgg16"])
def test_published_chains_are_left_alone(name: str):
    net, anatomy = of_zoo(name)
    assert advise(anatomy, net, ["linear-stack", "sigmoid-stack", "softmax-answer"]) == []


def test_sigmoids_one_behind_another():
    layers = [layer for _ in range(3) for layer in (nn.Linear(8, 8), nn.Sigmoid())]
    item = one(nn.Sequential(*layers, nn.Linear(8, 2)), (8,), "sigmoid-stack")
    assert "3 sigmoids" in item.evidence and "0.016" in item.evidence
    assert found(nn.Sequential(*layers[:2], nn.Linear(8, 2)), (8,), "sigmoid-stack") == []
    assert one(nn.Sequential(nn.Linear(8, 1), nn.Sigmoid(), nn.Sigmoid()), (8,), "sigmoid-stack").layers == ("1", "2")


def test_a_softmax_at_the_end():
    net = nn.Sequential(nn.Linear(8, 10), nn.Softmax(1))
    item = one(net, (8,), "softmax-answer")
    assert item.layers == ("1",) and "logits" in item.change
    perfect = nn.functional.cross_entropy(torch.eye(10), torch.arange(10))  # what a softmax can give at best
    assert f"{perfect.item():.2f}" in item.evidence


def test_savings_are_of_the_whole_batch():
    net = nn.Sequential(nn.Conv2d(64, 64, 5, padding=2))
    single = one(net, (64, 9, 9), "large-filter")
    (many,) = advise(trace(net, torch.randn(3, 64, 9, 9), training_memory=False), rules=["large-filter"])
    assert (many.saves_params, many.saves_macs) == (single.saves_params, 3 * single.saves_macs)
    assert single.saves_params == 25 * 64**2 - 18 * 64**2 - 64


def test_larger_savings_come_first():
    net, anatomy = of_zoo("alexnet")
    shares = [i.saves_params / anatomy.params + i.saves_macs / anatomy.macs for i in advise(anatomy, net)]
    assert shares == sorted(shares, reverse=True)


# --- the guidelines, one by one --------------------------------------------------------------------------------------


def test_a_volume_that_falls_too_fast():
    conv = nn.Conv2d(3, 64, 3, padding=1)
    net = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(4), nn.Conv2d(64, 64, 3, padding=1))
    item = one(net, (3, 32, 32), "bottleneck")
    assert item.layers == ("2",) and "16.0 times fewer" in item.evidence
    assert found(net, (3, 32, 32), "bottleneck", fall=16) == []
    slow = nn.Sequential(conv, nn.MaxPool2d(2), nn.Conv2d(64, 128, 3, padding=1), nn.MaxPool2d(2))
    assert found(slow, (3, 32, 32), "bottleneck") == []


def test_a_skip_connection_relieves_a_bottleneck():
    class Block(nn.Module):
        def __init__(self, skip: bool) -> None:
            super().__init__()
            self.skip = skip
            self.stem, self.last = nn.Conv2d(3, 160, 1), nn.Conv2d(160, 4, 3)
            self.down, self.up = nn.Conv2d(160, 10, 1), nn.Conv2d(10, 160, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            y = self.up(self.down(x))
            return self.last(x + y if self.skip else y)

    assert one(Block(False), (3, 16, 16), "bottleneck").layers == ("down",)
    assert found(Block(True), (3, 16, 16), "bottleneck") == []


def test_a_receptive_field_that_is_too_small_or_far_too_large():
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)]
    pooled = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    item = one(pooled, (3, 32, 32), "receptive-field")
    assert "sees 5x5 of the 32x32 picture" in item.evidence and "add 6 3x3 layers" in item.change
    assert found(pooled, (3, 32, 32), "receptive-field", field_share=0.1) == []
    assert found(pooled, (3, 10, 10), "receptive-field") == []
    connected = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 32 * 32, 2))  # sees all of the map
    assert found(connected, (3, 32, 32), "receptive-field") == []
    (excess,) = [i for i in advise(trace(of_zoo("resnet50")[0], (3, 33, 33))) if i.rule == "receptive-field"]
    assert "of the 33x33 picture" in excess.evidence and "come later" in excess.evidence


def test_large_filters_of_one_size_are_one_item():
    net = nn.Sequential(nn.Conv2d(16, 16, 5, padding=2), nn.Conv2d(16, 16, 7, padding=3), nn.Conv2d(16, 16, 5))
    items = found(net, (16, 20, 20), "large-filter")
    assert [item.layers for item in items] == [("1",), ("0", "2")]
    assert found(net, (16, 20, 20), "large-filter", side=9) == []
    covering = nn.Sequential(nn.Conv2d(16, 16, 5))  # a fully connected layer in disguise
    assert found(covering, (16, 5, 5), "large-filter") == []


def test_a_heavy_convolution_and_a_heavy_linear_layer():
    item = one(nn.Sequential(nn.Conv2d(64, 64, 1), nn.Conv2d(64, 128, 3)), (64, 9, 9), "heavy-layer")
    assert item.layers == ("1",) and "1x1 convolution" in item.change
    wide = nn.Sequential(nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 10))
    item = one(wide, (400,), "heavy-layer")
    assert item.layers == ("0",) and item.rewrite == "low-rank"
    assert item.saves_params == 400 * 300 - 75 * 700
    assert found(wide, (400,), "heavy-layer", heavy_share=0.99) == []


def test_dense_outputs():
    class Segments(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            strided = [nn.Conv2d(3 if i == 0 else 8, 8, 3, 2, 1) for i in range(4)]
            self.down, self.score = nn.Sequential(*strided, nn.Conv2d(8, 8, 3, padding=1)), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.interpolate(self.score(self.down(x)), size=x.shape[2:], mode="bilinear")

    net = Segments()
    item = one(net, (3, 64, 64), "dilation")
    assert item.layers == ("down.3",) and "16 times" in item.evidence
    result = rewrite(net, item.rewrite, (3, 64, 64), layers=item.layers)
    assert result.before is not None and result.after is not None
    assert item.saves_macs == result.before.macs - result.after.macs < 0
    assert found(net, (3, 64, 64), "dilation", output_stride=16) == []
    assert one(of_zoo("fcn32s_vgg16")[0], (3, 224, 224), "dilation").layers == ("trunk.pool4", "trunk.pool5")
    assert found(of_zoo("vgg16")[0], (3, 224, 224), "dilation") == []


# --- dead weight -----------------------------------------------------------------------------------------------------


class Wasteful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 13, 3), nn.BatchNorm2d(13), nn.ReLU()
        self.pool, self.again = nn.MaxPool2d(2), nn.ReLU()
        self.gate = nn.Conv2d(13, 13, 1)
        self.side = nn.Conv2d(13, 5, 1)
        self.never = nn.Linear(10, 10)
        self.aux = nn.Linear(13, 4)
        self.fc = nn.Linear(13, 3)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.again(self.pool(self.relu(self.bn(self.conv(x)))))
        self.side(x)
        x = torch.relu(torch.sigmoid(self.gate(x))).mean((2, 3))
        return (self.fc(x), self.aux(x)) if self.training else self.fc(x)


def test_dead_weight():
    net = Wasteful()
    anatomy = trace(net, (3, 12, 12))
    items = {item.rule: item for item in advise(anatomy, net)}
    assert items["unused"].layers == ("never",) and items["unused"].saves_params == 110
    assert items["dead-bias"].layers == ("conv",) and items["dead-bias"].saves_params == 13
    assert items["activation"].layers == ("again", ":relu")
    assert items["dead-branch"].layers == ("side",)
    assert (items["dead-branch"].saves_params, items["dead-branch"].saves_macs) == (70, 13 * 5 * 25)
    assert items["channels"].layers == ("conv", "gate", "side")[: len(items["channels"].layers)]
    assert items["channels"].saves_params < 0

    without = {item.rule: item for item in advise(anatomy)}  # the module is not at hand
    assert without["unused"].layers == ("never", "aux") and "auxiliary" in without["unused"].change


def test_activations_that_do_something_are_left_alone():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Tanh(), nn.ReLU(),
        nn.ReLU6(), nn.AvgPool2d(2), nn.Sigmoid(), nn.ReLU6(),
    )  # fmt: skip
    assert one(net, (3, 12, 12), "activation").layers == ("7", "10")  # [0, 1] is within [0, 6]
    for name in ("resnet50", "densenet121", "googlenet", "mobilenet_v2", "se_resnet50"):
        assert advise(of_zoo(name)[1], rules=["activation", "dead-branch"]) == []


def test_weights_that_meet_padding_only():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1))
    assert one(net, (3, 2, 2), "padding-only").saves_params == 3 * 8 * 5 + 8 * 8 * 8
    assert found(net, (3, 4, 4), "padding-only") == []
    (item,) = advise(trace(of_zoo("resnet50")[0], (3, 32, 32)), rules=["padding-only"])
    assert len(item.layers) == 3 and all(name.startswith("layer4") for name in item.layers)


def test_channels_that_fit_no_matrix_unit():
    net = nn.Sequential(nn.Conv2d(3, 20, 3), nn.Conv2d(20, 20, 3, groups=20), nn.Conv2d(20, 32, 1), nn.Conv2d(32, 7, 1))
    item = one(net, (3, 9, 9), "channels")
    assert item.layers == ("0",) and "24" in item.change  # a filter per channel follows; 7 answers are what they are
    assert found(net, (3, 9, 9), "channels", multiple=4) == []


# --- switches, and nets of other kinds -------------------------------------------------------------------------------


def test_rules_are_switched_and_thresholds_checked():
    _, anatomy = of_zoo("alexnet")
    assert {item.rule for item in advise(anatomy, rules=["groups", "low-rank"])} == {"groups", "low-rank"}
    assert advise(anatomy, rules=[]) == []
    with pytest.raises(UsageError, match="did you mean 'groups'"):
        advise(anatomy, rules=["group"])
    with pytest.raises(UsageError, match="did you mean 'heavy_share'"):
        advise(anatomy, heavy_shares=0.1)
    with pytest.raises(UsageError, match="above 0"):
        advise(anatomy, fall=0)
    for key, rule in RULES.items():
        assert rule.key == key and rule.what and rule.source
        advise(anatomy, rules=[key], **rule.thresholds)
    assert all(item.rewrite in REWRITES for item in advise(anatomy) if item.rewrite)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 30, batch_first=True)
        self.out = nn.Linear(16, 3)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": self.out(self.layer(self.words(tokens)).mean(1))}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.out = nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cells(x)[0][:, -1])


@pytest.mark.parametrize(
    ("net", "given"),
    [
        (Attention(), {"tokens": torch.zeros(2, 7, dtype=torch.long)}),
        (Recurrent(), (5, 8)),
        (nn.Bilinear(3, 4, 5), [(3,), (4,)]),
        (nn.ReLU(), (3, 8, 8)),
        (nn.Sequential(), (3,)),
    ],
)
def test_any_module_can_be_advised(net: nn.Module, given: object):
    items = advise(trace(net, given), net)
    assert not any(item.rule in ("dead-branch", "unused", "activation", "bottleneck") for item in items)


def test_an_anatomy_alone_is_enough():
    _, anatomy = of_zoo("vgg16")
    assert advise(replace(anatomy)) == advise(anatomy, of_zoo("vgg16")[0])
