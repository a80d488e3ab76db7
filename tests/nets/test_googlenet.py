"""GoogLeNet, torchvision's and as published: published figures, auxiliary heads, and what the parts compute."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from nets.counting import multiply_adds, trainable
from nets.reference import check_against_reference, rows_of
from torch import Tensor, nn

from neocog import nets
from neocog.errors import NetError
from neocog.nets.googlenet import WIDTHS
from neocog.nets.layers import WithAuxiliaries


def multiply_adds_of_training(net: nn.Module, size: int) -> int:
    """MACs of all that runs in training, auxiliary heads too, for one picture; the net must be on the meta device."""
    total = 0

    def count(layer: nn.Module, _: object, out: Tensor) -> None:
        nonlocal total
        total += layer.weight[0].numel() * out.numel() // 2

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    net.train()(torch.empty(2, 3, size, size, device="meta"))  # two, because BN needs them
    return total


@pytest.mark.parametrize(
    ("word", "name", "auxiliary"),
    [
        ("Caffe/original 5x5", "googlenet_original", False),
        ("Caffe with both aux", "googlenet_original", True),
        ("in place of 5x5", "googlenet", False),
        ("aux_logits=True", "googlenet", True),
    ],
)
def test_rows_of_the_zoo(word: str, name: str, auxiliary: bool, facts_folder: Path) -> None:
    found = rows_of(facts_folder, ["googlenet"])
    assert len(found) == 4
    (row,) = [row for row in found if word in row["variant_notes"]]
    with torch.device("meta"):
        net = nets.build(name, auxiliary=auxiliary)
    both = auxiliary and name == "googlenet_original"  # torchvision's row does not count the heads
    macs = multiply_adds_of_training(net, 224) if both else multiply_adds(net, (3, 224, 224))
    assert (trainable(net), macs) == (int(row["params"]), int(row["macs"]))


def test_figures_with_auxiliary_heads() -> None:
    with torch.device("meta"):
        original, later = (nets.build(name, auxiliary=True) for name in ("googlenet_original", "googlenet"))
    assert (trainable(original), multiply_adds_of_training(original, 224)) == (13_378_280, 1_591_044_096)
    assert (trainable(later), multiply_adds(later, (3, 224, 224))) == (13_004_888, 1_498_376_192)


def weights(module: nn.Module) -> int:
    return sum(value.numel() for name, value in module.named_parameters() if name.endswith("weight"))


@pytest.mark.parametrize(
    ("row", "modules"),
    [
        ("conv1", ("conv1",)),
        ("conv2", ("conv2", "conv3")),
        *((name.removeprefix("inception"), (name,)) for name in WIDTHS),
        ("linear", ("fc",)),
    ],
)
def test_table_of_the_paper(row: str, modules: tuple[str, ...], facts_folder: Path) -> None:
    (facts,) = rows_of(facts_folder, [f"googlenet_row:{row}"])
    with torch.device("meta"):
        net = nets.build("googlenet_original")
    found = [net.get_submodule(name) for name in modules]
    assert sum(weights(module) for module in found) == int(facts["params"])
    sides: list[int] = []
    for module in found:
        module.register_forward_hook(lambda _, args, out: sides.append(out.shape[2] if out.dim() == 4 else 1))
    net(torch.empty(1, 3, 224, 224, device="meta"))
    assert sum(weights(module) * side**2 for module, side in zip(found, sides, strict=True)) == int(facts["macs"])


def test_widths_and_weights_without_the_facts_folder() -> None:
    with torch.device("meta"):
        net = nets.build("googlenet_original")
    assert [net.get_submodule(name).channels for name in WIDTHS] == [256, 480, 512, 512, 512, 528, 832, 832, 1024]
    assert [weights(net.get_submodule(name)) for name in WIDTHS] == [
        163_328, 388_096, 375_552, 448_512, 509_440, 604_672, 867_328, 1_042_432, 1_442_816,
    ]  # fmt: skip
    assert weights(net) == 6_990_272


def test_reference_outputs(facts_folder: Path) -> None:
    check_against_reference("googlenet", "googlenet", facts_folder, auxiliary=True)


def test_original_begins_as_published() -> None:
    torch.manual_seed(0)
    net = nets.build("googlenet_original").double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    read: list[Tensor] = []
    net.inception3a.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    state = net.state_dict()

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.conv.weight"]
        return F.conv2d(x, weight, state[f"{name}.conv.bias"], stride, weight.shape[2] // 2).relu()

    def normalised(x: Tensor) -> Tensor:  # over 5 channels, alpha divided by 5 as in Caffe
        squares = F.pad(x.square(), (0, 0, 0, 0, 2, 2))
        near = sum(squares[:, i : i + x.shape[1]] for i in range(5))
        return x / (1 + 1e-4 / 5 * near) ** 0.75

    with torch.no_grad():
        net(x)
        y = normalised(F.max_pool2d(conv(x, "conv1", 2), 3, 2, ceil_mode=True))
        y = normalised(conv(conv(y, "conv2"), "conv3"))
        torch.testing.assert_close(read[0], F.max_pool2d(y, 3, 2, ceil_mode=True))

        module = net.inception4e
        z = torch.randn(1, 528, 3, 3, dtype=torch.float64)
        path = "inception4e.branch"
        expected = [
            conv(z, path + "1"),
            conv(conv(z, path + "2.0"), path + "2.1"),
            conv(conv(z, path + "3.0"), path + "3.1"),
            conv(F.max_pool2d(z, 3, 1, 1), path + "4.1"),
        ]
        torch.testing.assert_close(module(z), torch.cat(expected, 1))
    assert module.branch3[1].conv.kernel_size == (5, 5)
    assert nets.build("googlenet").inception4e.branch3[1].conv.kernel_size == (3, 3)


@pytest.mark.parametrize(("name", "size"), [("googlenet", 64), ("googlenet_original", 96)])
def test_auxiliary_heads_learn_in_training_only(name: str, size: int) -> None:
    torch.manual_seed(0)
    net = nets.build(name, classes=5, input_size=size, auxiliary=True)
    x, labels = torch.randn(2, 3, size, size), torch.tensor([0, 4])
    out = net.train()(x)
    assert isinstance(out, WithAuxiliaries)
    assert out.weight == 0.3
    assert [logits.shape for logits in (out.logits, *out.auxiliaries)] == [(2, 5)] * 3
    loss = F.cross_entropy(out.logits, labels)
    loss = loss + out.weight * sum(F.cross_entropy(logits, labels) for logits in out.auxiliaries)
    loss.backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    with torch.no_grad():
        alone = net.eval()(x)
        assert alone.shape == (2, 5)
        torch.testing.assert_close(alone, net.fc(net.forward_features(x)))
        assert nets.build(name, classes=5, input_size=size).train()(x).shape == (2, 5)


def test_auxiliary_heads_read_4a_and_4d() -> None:
    net = nets.build("googlenet_original", auxiliary=True, input_size=96, classes=3).train()
    read: dict[str, int] = {}
    for name in ("inception4a", "inception4d"):
        net.get_submodule(name).register_forward_hook(
            lambda _, args, out, name=name: read.update({name: out.data_ptr()})
        )
    for name in ("aux1", "aux2"):
        net.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: read.update({name: args[0].data_ptr()})
        )
    net(torch.randn(1, 3, 96, 96))
    assert (read["aux1"], read["aux2"]) == (read["inception4a"], read["inception4d"])


def test_auxiliary_heads_change_with_the_head() -> None:
    net = nets.build("googlenet", auxiliary=True, input_size=32)
    nets.change_head(net, 4)
    assert [net.get_submodule(name).out_features for name in ("fc", "aux1.fc2", "aux2.fc2")] == [4, 4, 4]
    again = nets.build(**json.loads(json.dumps(net.spec)))
    again.load_state_dict(net.state_dict(), strict=True)
    with torch.device("meta"):
        plain = nets.change_head(nets.build("googlenet_original"), 4)
    assert not any(name.startswith("aux") for name, _ in plain.named_parameters())


def test_original_starts_as_the_release() -> None:
    torch.manual_seed(0)
    net = nets.build("googlenet_original", auxiliary=True)
    assert net.fc.bias.eq(0).all() and net.aux2.fc2.bias.eq(0).all()
    assert (
        net.conv1.conv.bias.eq(0.2).all() and net.aux1.fc1.bias.eq(0.2).all() and net.aux1.conv.conv.bias.eq(0.2).all()
    )
    bound = (3 / (192 * 9)) ** 0.5
    weight = nets.build("googlenet_original").inception5b.branch2[1].conv.weight
    assert weight.abs().max() <= bound and weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(NetError, match="at least 79x79"):
        nets.build("googlenet_original", auxiliary=True, input_size=78)
    with torch.device("meta"):
        net = nets.build("googlenet_original", auxiliary=True)
        assert nets.build("googlenet_original", auxiliary=True, input_size=79).aux1.fc1.in_features == 128
        with pytest.raises(NetError, match=r"built for 2048 values of a picture, got 512.*input_size"):
            net.train()(torch.empty(1, 3, 128, 128))
        assert net.eval()(torch.empty(1, 3, 128, 128)).shape == (1, 1000)
        for option in ("dropout", "auxiliary_dropout"):
            with pytest.raises(NetError, match=f"{option} is a probability"):
                nets.build("googlenet", **{option: 1.0})
