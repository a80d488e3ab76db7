"""Inception v2 and v3: published figures, receptive fields, TensorFlow's padding, and what the modules compute."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from nets.counting import multiply_adds, trainable
from nets.reference import rows_of
from torch import Tensor, nn

from neocog import nets
from neocog.errors import NetError
from neocog.nets.gates import SamePad, SEGate
from neocog.nets.inception import CAFFE, V2, V3, CeilPool
from neocog.nets.layers import WithAuxiliaries

_STEM = {"conv1": "Conv2d_1a_7x7", "pool1": "MaxPool_2a_3x3", "conv2_reduce": "Conv2d_2b_1x1",
         "conv2": "Conv2d_2c_3x3", "pool2": "MaxPool_3a_3x3"}  # fmt: skip
_MIXED = ("3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b", "5c")
# net -> our module -> TF-Slim's layer
SLIM = {
    "inception_v2": {**_STEM, **{name: f"Mixed_{slim}" for name, slim in zip(V2, _MIXED, strict=True)}},
    "inception_v3": {
        **{
            name: name for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
        },
        "maxpool1": "MaxPool_3a_3x3",
        "maxpool2": "MaxPool_5a_3x3",
        **{name: name for name in V3},
    },
}


def build(name: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return nets.build(name, **options)


def test_rows_of_the_zoo(facts_folder: Path) -> None:
    (bn,), (se,), (v3,) = (
        rows_of(facts_folder, [name]) for name in ("bn_inception", "se_bn_inception", "inception_v3")
    )
    net = build("bn_inception")
    published = float(re.match(r"[\d.]+", bn["macs"])[0]) * 1e6  # counts other operations too
    assert trainable(net) == int(bn["params"])
    assert 0.98 * published < multiply_adds(net, (3, 224, 224)) < published
    net = build("se_bn_inception")
    assert (trainable(net), multiply_adds(net, (3, 224, 224))) == (int(se["params"]), int(se["macs"]))
    plain, auxiliary = build("inception_v3"), build("inception_v3", auxiliary=True)
    assert f"{trainable(plain)} / {trainable(auxiliary)}" == v3["params"]
    assert multiply_adds(plain, (3, 299, 299)) == multiply_adds(auxiliary, (3, 299, 299)) == int(v3["macs"])


def test_figures_of_options() -> None:
    assert trainable(build("inception_v3", auxiliary=True)) == 27_161_264
    # a plain 7x7 of 3 x 64 filters for 24 filters of 7x7 and a 1x1 of 24 x 64
    separable, plain = build("inception_v2"), build("inception_v2", separable=False)
    assert trainable(plain) - trainable(separable) == 49 * 3 * 64 - (49 * 24 + 24 * 64)
    # 4.051 and 3.883 GFLOP of RECEPTIVE_FIELD_TABLE.md, two for each multiply-add
    saved = multiply_adds(plain, (3, 224, 224)) - multiply_adds(separable, (3, 224, 224))
    assert round(2 * saved / 1e9, 3) == 0.168
    # the paper's GoogLeNet table: 2.7 K weights and 34 M operations
    first = separable.conv1
    assert first.depthwise.weight.numel() + first.conv.weight.numel() == 2712


def skeleton(net: nn.Module) -> nn.Module:
    """Make every layer a mean over its window and over the channels, so that gradients show what a unit can see."""

    class Window(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            padding = layer.padding if isinstance(layer.padding, tuple) else (layer.padding,) * 2
            self.pool = nn.AvgPool2d(layer.kernel_size, layer.stride, ceil_mode=getattr(layer, "ceil_mode", False))
            self.around = (padding[1], padding[1], padding[0], padding[0])

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(F.pad(x.mean(1, keepdim=True), self.around))

    for name, layer in list(net.named_modules()):
        parent, _, last = name.rpartition(".")
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            setattr(net.get_submodule(parent), last, Window(layer))
        elif isinstance(layer, nn.BatchNorm2d | nn.ReLU | nn.Dropout):
            setattr(net.get_submodule(parent), last, nn.Identity())
        elif isinstance(layer, SamePad):
            layer.value = 0.0
    return net


def fields(net: nn.Module, modules: list[str], width: int, height: int) -> dict[str, tuple[int, int, int]]:
    """Receptive field, stride and padding of each module, along the width, found by gradients of three units."""
    skeleton(net)
    maps: dict[str, Tensor] = {}
    for name in modules:
        net.get_submodule(name).register_forward_hook(lambda _, args, out, name=name: maps.update({name: out}))
    x = torch.rand(1, 3, height, width, dtype=torch.float64, requires_grad=True)
    net.double().eval().forward_features(x)
    found = {}
    for name, out in maps.items():
        ends = []
        for unit in (out.shape[3] // 2, out.shape[3] // 2 + 1):
            (gradient,) = torch.autograd.grad(out[0, :, :, unit].sum(), x, retain_graph=True)
            seen = gradient[0].abs().sum((0, 1)).nonzero().flatten()
            assert seen[0] > 0 and seen[-1] < width - 1, "the picture is too small"
            ends.append((unit, seen[0].item(), seen[-1].item()))
        (unit, start, end), (_, second, _) = ends
        stride = second - start
        found[name] = (end - start + 1, stride, unit * stride - start)
    return found


@pytest.mark.parametrize(
    ("arch", "options", "size", "width"),
    # a wide strip whose maps are even and odd as those of pictures of the published size are
    [
        ("inception_v2", {}, "224", 224 + 32 * 50),
        ("inception_v2", {}, "321", 321 + 32 * 50),
        ("inception_v2-no-separable-conv", {"separable": False}, "224", 224 + 32 * 50),
        ("inception_v2-no-separable-conv", {"separable": False}, "321", 321 + 32 * 50),
        ("inception_v3", {}, "224", 224 + 32 * 80),
        ("inception_v3", {}, "321", 321 + 32 * 80),
    ],
)
def test_receptive_fields(arch: str, options: dict[str, Any], size: str, width: int, facts_folder: Path) -> None:
    name = arch.removesuffix("-no-separable-conv")
    with (facts_folder / "receptive_fields.csv").open(newline="", encoding="utf-8") as lines:
        table = {row["layer"]: row for row in csv.DictReader(lines) if row["arch"] == arch}
    found = fields(nets.build(name, **options), list(SLIM[name]), width, 75 if name == "inception_v3" else 32)
    found = {SLIM[name][module]: field for module, field in found.items()}
    expected = {
        layer: tuple(int(table[f"{layer} (input {size})"][key]) for key in ("receptive_field", "stride", "padding"))
        for layer in SLIM[name].values()
    }
    assert found == expected
    for layer, field in found.items():
        row = table[f"{layer} (any input)"]
        assert [str(number) for number in field][: 3 if row["padding"] else 2] == [
            row[key] for key in ("receptive_field", "stride", "padding") if row[key]
        ]
    assert len(table) - 3 * len(found) <= 1  # and the headline, which repeats the last layer at 224


def test_receptive_fields_with_padding_on_all_sides() -> None:
    modules = ["inception3b", "inception4a"]
    # 7/2, 3/2, 1, 3, 3/2: 27; two modules, each with two 3x3 (one in GoogLeNet); down to 1/16, and one more module.
    # Padding of one side in a layer of stride 2 shifts the map, so that of "pytorch" differs from TensorFlow's.
    found = fields(nets.build("inception_v2", padding="pytorch"), modules, 640, 32)
    assert found == {"inception3b": (91, 8, 45), "inception4a": (187, 16, 93)}
    found = fields(nets.build("bn_inception"), modules, 640, 32)
    assert {name: field[:2] for name, field in found.items()} == {"inception3b": (91, 8), "inception4a": (187, 16)}
    found = fields(nets.build("googlenet"), modules, 640, 32)
    assert {name: field[:2] for name, field in found.items()} == {"inception3b": (59, 8), "inception4a": (107, 16)}


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([(3, 2), (7, 2), (3, 1), (1, 2), (5, 3)]))
def test_same_padding_is_tensorflows(height: int, width: int, layer: tuple[int, int]) -> None:
    kernel, stride = layer
    x = torch.arange(height * width, dtype=torch.float64).reshape(1, 1, height, width) + 1
    out = F.conv2d(SamePad(kernel, stride)(x), torch.ones(1, 1, kernel, kernel, dtype=torch.float64), stride=stride)
    assert out.shape[2:] == (-(-height // stride), -(-width // stride))
    before = [max((-(-side // stride) - 1) * stride + kernel - side, 0) // 2 for side in (height, width)]

    def window(position: int, start: int, side: int) -> slice:
        return slice(max(position * stride - start, 0), min(position * stride - start + kernel, side))

    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            rows, columns = window(i, before[0], height), window(j, before[1], width)
            assert out[0, 0, i, j] == x[0, 0, rows, columns].sum()


@given(st.integers(1, 20), st.integers(1, 20))
def test_ceil_pool_fits_beside_padded_convolutions(height: int, width: int) -> None:
    x = -torch.rand(1, 2, height, width) - 1  # below zero, so that padding with zeros would be seen
    out = CeilPool()(x)
    assert out.shape[2:] == F.conv2d(x, torch.ones(1, 2, 3, 3), stride=2, padding=1).shape[2:]
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            assert torch.equal(out[..., i, j], x[..., 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].amax((2, 3)))
    if height % 2 == width % 2 == 0:
        assert torch.equal(out, F.max_pool2d(x, 3, 2, ceil_mode=True))


def test_channels_of_the_modules() -> None:
    def channels(name: str, plans: dict[str, Any]) -> list[int]:
        net = build(name)
        return [net.get_submodule(module).channels for module in plans]

    assert channels("inception_v2", V2) == [256, 320, 576, 576, 576, 576, 576, 1024, 1024, 1024]
    assert channels("bn_inception", CAFFE) == [256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024]
    assert channels("inception_v3", V3) == [256, 288, 288, 768, 768, 768, 768, 768, 1280, 2048, 2048]


def convolution(state: dict[str, Tensor], x: Tensor, name: str, stride: int = 1, padding: Any = 0) -> Tensor:
    bn = [state[f"{name}.bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
    out = F.conv2d(x, state[f"{name}.conv.weight"], state.get(f"{name}.conv.bias"), stride, padding)
    return F.batch_norm(out, *bn, eps=state["eps"].item()).relu()


def randomise(net: nn.Module, eps: float) -> dict[str, Tensor]:
    torch.manual_seed(0)
    for module in net.double().eval().modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    return {**net.state_dict(), "eps": torch.tensor(eps)}


def test_modules_compute_what_the_papers_draw() -> None:
    block = nets.build("inception_v3").Mixed_7b
    state = randomise(block, 1e-3)
    x = torch.randn(1, 1280, 4, 4, dtype=torch.float64)

    def conv(x: Tensor, name: str, padding: Any = 0) -> Tensor:
        return convolution(state, x, name, 1, padding)

    left = conv(x, "branch3x3_1")
    right = conv(conv(x, "branch3x3dbl_1"), "branch3x3dbl_2", 1)
    expected = [
        conv(x, "branch1x1"),
        conv(left, "branch3x3_2a", (0, 1)), conv(left, "branch3x3_2b", (1, 0)),
        conv(right, "branch3x3dbl_3a", (0, 1)), conv(right, "branch3x3dbl_3b", (1, 0)),
        conv(F.avg_pool2d(x, 3, 1, 1), "branch_pool"),
    ]  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(block(x), torch.cat(expected, 1))

    net = nets.build("se_bn_inception")
    for name, last in (("inception3c", ""), ("inception5b", "max")):
        block = net.get_submodule(name)
        state = randomise(block, 1e-5)
        x = torch.randn(2, block.branch3x3_1.conv.in_channels, 4, 4, dtype=torch.float64)
        stride = 1 if last else 2
        parts = [
            convolution(state, convolution(state, x, "branch3x3_1"), "branch3x3_2", stride, 1),
            convolution(
                state,
                convolution(state, convolution(state, x, "branch3x3dbl_1"), "branch3x3dbl_2", 1, 1),
                "branch3x3dbl_3", stride, 1,
            ),
        ]  # fmt: skip
        if last:
            pooled = convolution(state, F.max_pool2d(x, 3, 1, 1), "branch_pool")
            parts = [convolution(state, x, "branch1x1"), *parts, pooled]
        else:
            parts.append(F.max_pool2d(x, 3, 2, ceil_mode=True))
        y = torch.cat(parts, 1)
        hidden = (y.mean((2, 3)) @ state["gate.fc1.weight"][:, :, 0, 0].T + state["gate.fc1.bias"]).relu()
        scale = torch.sigmoid(hidden @ state["gate.fc2.weight"][:, :, 0, 0].T + state["gate.fc2.bias"])
        with torch.no_grad():
            torch.testing.assert_close(block(x), y * scale[:, :, None, None])


def test_means_count_padding_in_caffe_only() -> None:
    x = torch.ones(1, 1, 3, 3)
    corner = {name: build(name).inception3a.pool(x)[0, 0, 0, 0].item() for name in ("bn_inception", "inception_v2")}
    assert corner == pytest.approx({"bn_inception": 4 / 9, "inception_v2": 1.0})


def test_gates_squeeze_to_a_sixteenth() -> None:
    net = build("se_bn_inception")
    gates = [module for module in net.modules() if isinstance(module, SEGate)]
    assert [gate.fc1.out_channels for gate in gates] == [16, 20, 36, 36, 36, 38, 38, 66, 64, 64]
    assert not any(isinstance(module, SEGate) for module in build("bn_inception").modules())
    assert all(layer.bias is not None for layer in build("bn_inception").modules() if isinstance(layer, nn.Conv2d))


@pytest.mark.parametrize("padding", ["tensorflow", "pytorch", "caffe"])
def test_any_size_fits_with_any_padding(padding: str) -> None:
    net = build("inception_v2", padding=padding).eval()
    for size in (32, 75, 97, 224, 299):
        assert net(torch.empty(1, 3, size, size + 3, device="meta")).shape == (1, 1000)


def test_names_of_v3_are_torchvisions() -> None:
    state = build("inception_v3", auxiliary=True).state_dict()
    assert {
        "Conv2d_1a_3x3.conv.weight",
        "Conv2d_4a_3x3.bn.running_var",
        "Mixed_5b.branch5x5_2.conv.weight",
        "Mixed_5d.branch3x3dbl_3.bn.weight",
        "Mixed_6a.branch3x3.conv.weight",
        "Mixed_6c.branch7x7dbl_5.bn.bias",
        "Mixed_7a.branch7x7x3_4.conv.weight",
        "Mixed_7c.branch3x3dbl_3b.conv.weight",
        "Mixed_7c.branch_pool.bn.num_batches_tracked",
        "AuxLogits.conv0.conv.weight",
        "AuxLogits.conv1.bn.weight",
        "AuxLogits.fc.bias",
        "fc.weight",
    } <= set(state)
    assert len(state) == 96 * 6 + 4  # convolutions with BN, and two heads
    assert state["Mixed_6b.branch7x7_2.conv.weight"].shape == (128, 128, 1, 7)
    assert state["Mixed_6b.branch7x7dbl_2.conv.weight"].shape == (128, 128, 7, 1)


def test_auxiliary_head_of_v3() -> None:
    net = build("inception_v3", auxiliary=True, classes=6)
    x = torch.empty(2, 3, 299, 299, device="meta")
    out = net.train()(x)
    assert isinstance(out, WithAuxiliaries)
    assert (out.logits.shape, [logits.shape for logits in out.auxiliaries], out.weight) == ((2, 6), [(2, 6)], 0.4)
    assert net.eval()(x).shape == (2, 6)
    assert build("inception_v3").train()(x).shape == (2, 1000)
    nets.change_head(net, 9)
    assert (net.fc.out_features, net.AuxLogits.fc.out_features) == (9, 9)
    assert build(**json.loads(json.dumps(net.spec))).state_dict().keys() == net.state_dict().keys()
    with pytest.raises(NetError, match="at least 299x299"):
        nets.build("inception_v3", auxiliary=True, input_size=298)
    with pytest.raises(NetError, match="at least 299x299"):
        net.train()(x[:, :, 1:])


@pytest.mark.slow
def test_auxiliary_head_of_v3_learns() -> None:
    torch.manual_seed(0)
    net = nets.build("inception_v3", auxiliary=True, classes=3).train()
    out = net(torch.randn(2, 3, 299, 299))
    labels = torch.tensor([0, 2])
    (F.cross_entropy(out.logits, labels) + out.weight * F.cross_entropy(out.auxiliaries[0], labels)).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("inception_v2", {"padding": "same"}, "padding must be 'tensorflow', 'pytorch' or 'caffe', got 'same'"),
        ("inception_v2", {"dropout": 1.5}, "dropout is a probability"),
        ("inception_v3", {"dropout": -1}, "dropout is a probability"),
        ("bn_inception", {"gates": True}, "has no option 'gates'"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(NetError, match=message):
        build(name, **options)
