"""SE nets: figures for both strides, timm's legacy names and outputs, and the gate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nets.counting import multiply_adds, trainable
from nets.reference import check_against_reference, rows_of

from neocog import nets
from neocog.errors import NetError
from neocog.nets.gates import SEGate

_ZOO = ("se_resnet34", "se_resnet50", "se_resnet152", "se_resnext50_32x4d", "senet154")


def test_rows_of_the_zoo(facts_folder: Path) -> None:
    rows = rows_of(facts_folder, _ZOO)
    assert len(rows) == 7
    for row in rows:
        options = {"stride_on": "3x3"} if "stride on 3x3" in row["variant_notes"] else {}
        with torch.device("meta"):
            net = nets.build(row["arch"], **options)
        figures = trainable(net), multiply_adds(net, (3, 224, 224))
        assert figures == (int(row["params"]), int(row["macs"])), row["variant_notes"]


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("se_resnet50", "legacy_seresnet50"),
        ("se_resnext50_32x4d", "legacy_seresnext50_32x4d"),
        pytest.param("senet154", "legacy_senet154", marks=pytest.mark.slow),
    ],
)
def test_reference_outputs(name: str, reference: str, facts_folder: Path) -> None:
    check_against_reference(name, reference, facts_folder)


def test_gates_cost_what_the_paper_says() -> None:
    """Two layers of C^2 / 16 weights each in every block, with biases: the rest is the net without gates."""
    for gated, plain, width in (("se_resnet50", "resnet50_v1", 4), ("se_resnet18", "resnet18", 1)):
        with torch.device("meta"):
            one, other = nets.build(gated), nets.build(plain)
        gates = [module for module in one.modules() if isinstance(module, SEGate)]
        sizes = [gate.fc2.out_channels for gate in gates]
        assert sizes[0] == 64 * width and sizes[-1] == 512 * width
        assert trainable(one) - trainable(other) == sum(2 * c * c // 16 + c // 16 + c for c in sizes)
        macs = [multiply_adds(net, (3, 224, 224)) for net in (one, other)]
        assert macs[0] - macs[1] == sum(2 * c * c // 16 for c in sizes)


def test_gate_multiplies_each_map_by_a_number() -> None:
    torch.manual_seed(0)
    gate = SEGate(32, reduction=4).double()
    x = torch.randn(2, 32, 5, 7, dtype=torch.float64)
    hidden = torch.relu(x.mean((2, 3)) @ gate.fc1.weight.flatten(1).T + gate.fc1.bias)
    factor = torch.sigmoid(hidden @ gate.fc2.weight.flatten(1).T + gate.fc2.bias)
    torch.testing.assert_close(gate(x), x * factor[:, :, None, None])
    with pytest.raises(NetError, match="at least 16 maps at reduction 16, got 8"):
        SEGate(8)


def test_stride_sits_where_it_is_told() -> None:
    with torch.device("meta"):
        old, new = nets.build("se_resnet50"), nets.build("se_resnet50", stride_on="3x3")
        next_ = nets.build("se_resnext50_32x4d")
    for net, strides in ((old, (2, 1)), (new, (1, 2)), (next_, (1, 2))):
        block = net.layer2[0]
        assert (block.conv1.stride[0], block.conv2.stride[0]) == strides
    assert next_.layer1[0].conv2.groups == 32


def test_the_papers_block_has_no_relu_before_the_gate() -> None:
    """The weights for SE-ResNet-18 and -34 were trained with one; without it a branch can lower its input."""
    for name, default in (("se_resnet18", True), ("se_resnet34", True), ("se_resnet50", False)):
        assert nets.options(name)["relu_before_gate"] is default
        torch.manual_seed(0)
        block = nets.build(name, relu_before_gate=False).layer1[1].eval()
        x = torch.randn(1, 64 if default else 256, 5, 5)
        seen = []
        block.se_module.register_forward_hook(lambda *arguments, seen=seen: seen.append(arguments[2].min().item()))
        with torch.no_grad():
            block(x)
            block.relu_before_gate = True
            block(x)
        assert seen[0] < 0 <= seen[1]
    assert nets.build("se_resnet18", relu_before_gate=False).spec["relu_before_gate"] is False


def test_senet154_has_the_papers_differences() -> None:
    """Section 6.4: stem of three 3x3, halved first 1x1, 3x3 shortcuts, dropout 0.2."""
    with torch.device("meta"):
        net = nets.build("senet154")
    assert [net.layer0.get_submodule(f"conv{n}").kernel_size for n in (1, 2, 3)] == [(3, 3)] * 3
    block = net.layer2[0]
    assert (block.conv1.out_channels, block.conv2.out_channels, block.conv2.groups) == (256, 512, 64)
    assert block.downsample[0].kernel_size == (3, 3) and net.layer1[0].downsample[0].kernel_size == (1, 1)
    assert net.dropout.p == 0.2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("se_resnet50", {"stride_on": "5x5"}, "stride_on must be '1x1' or '3x3', got '5x5'"),
        ("se_resnet18", {"stride_on": "1x1"}, "need bottleneck blocks"),
        ("senet154", {"dropout": 1.5}, "dropout is a probability"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(NetError, match=message), torch.device("meta"):
        nets.build(name, **options)
