"""DenseNet: published figures, growth of the maps, and what a layer computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from nets.counting import multiply_adds, trainable
from nets.reference import check_against_reference, rows_of
from torch import Tensor, nn

from neocog import nets
from neocog.errors import NetError
from neocog.nets.densenet import DenseLayer, DenseNet


@pytest.mark.parametrize(
    "name",
    [
        "densenet121", "densenet161", "densenet40_k12", "densenet100_k12", "densenet_bc100_k12", "densenet_bc190_k40",
    ],
)  # fmt: skip
def test_rows_of_the_zoo(name: str, facts_folder: Path) -> None:
    (row,) = rows_of(facts_folder, [name])
    with torch.device("meta"):
        net = nets.build(name)
    shape = nets.facts(name).input
    assert "x".join(map(str, shape)) == row["input_chw"]
    assert (trainable(net), multiply_adds(net, shape)) == (int(row["params"]), int(row["macs"]))


@pytest.mark.parametrize(
    ("name", "millions"),
    [  # table 2 of the paper
        ("densenet40_k12", 1.0), ("densenet100_k12", 7.0), ("densenet100_k24", 27.2),
        ("densenet_bc100_k12", 0.8), ("densenet_bc250_k24", 15.3), ("densenet_bc190_k40", 25.6),
    ],
)  # fmt: skip
def test_parameters_as_in_the_paper(name: str, millions: float) -> None:
    with torch.device("meta"):
        assert round(trainable(nets.build(name)) / 1e6, 1) == millions


@pytest.mark.parametrize("name", ["densenet121", "densenet161"])
def test_reference_outputs(name: str, facts_folder: Path) -> None:
    check_against_reference(name, name, facts_folder)


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.integers(1, 9),
    st.integers(1, 20),
    st.sampled_from([(0, 1.0), (4, 0.5), (0, 0.5), (2, 1.0)]),
)
def test_maps_grow_by_k_in_every_layer(layers: list[int], growth: int, first: int, form: tuple[int, float]) -> None:
    bottleneck, compression = form
    with torch.device("meta"):
        net = DenseNet(layers, growth, first, bottleneck, compression, classes=3, in_channels=1, stem="small")
    channels, expected = first, 9 * first  # what a block puts out, and all parameters
    for number, depth in enumerate(layers):
        for _ in range(depth):
            wide = bottleneck * growth
            if bottleneck:
                expected += 2 * channels + wide * channels + 2 * wide + 9 * growth * wide
            else:
                expected += 2 * channels + 9 * growth * channels
            channels += growth
        if number < len(layers) - 1:
            kept = int(channels * compression)
            expected += 2 * channels + kept * channels
            channels = kept
    expected += 2 * channels + 3 * channels + 3
    assert net.classifier.in_features == channels
    assert trainable(net) == expected


@pytest.mark.parametrize("bottleneck", [0, 4])
def test_a_layer_keeps_what_it_reads_and_adds_to_it(bottleneck: int) -> None:
    torch.manual_seed(0)
    layer = DenseLayer(7, 3, bottleneck, 0.0).double().eval()
    for norm in layer.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.weight, 0.5, 2)
    state = layer.state_dict()

    def step(x: Tensor, number: int) -> Tensor:
        bn = [state[f"norm{number}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        weight = state[f"conv{number}.weight"]
        return F.conv2d(F.batch_norm(x, *bn).relu(), weight, padding=weight.shape[2] // 2)

    x = torch.randn(2, 7, 5, 5, dtype=torch.float64)
    before = x.clone()
    out = layer(x)
    new = step(step(x, 1), 2) if bottleneck else step(x, 1)
    torch.testing.assert_close(out, torch.cat([before, new], 1))
    assert torch.equal(x, before)


def test_names_are_torchvisions() -> None:
    with torch.device("meta"):
        state = nets.build("densenet169").state_dict()
        basic = nets.build("densenet40_k12").state_dict()
    assert {
        "features.conv0.weight",
        "features.norm0.running_var",
        "features.denseblock3.denselayer32.norm2.bias",
        "features.denseblock4.denselayer32.conv2.weight",
        "features.transition3.conv.weight",
        "features.norm5.weight",
        "classifier.bias",
    } <= set(state)
    assert len(state) == 168 + 5 * 169 + 2  # convolutions, BN layers and the head of a net of 169 layers
    assert "features.denseblock1.denselayer1.conv2.weight" not in basic


def test_dropout_stands_behind_every_convolution_but_the_first() -> None:
    net = nets.build("densenet_bc100_k12", dropout=0.2)
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    dropped = [module for module in net.modules() if isinstance(module, nn.Dropout)]
    assert len(dropped) == len(convolutions) - 1 == 98
    assert not any(isinstance(module, nn.Dropout) for module in nets.build("densenet_bc100_k12").modules())
    with torch.device("meta"):
        again = nets.build("densenet_bc100_k12")
    assert again.state_dict().keys() == net.state_dict().keys()


def test_small_stem_halves_nothing() -> None:
    with torch.device("meta"):
        net = nets.build("densenet121", classes=10, input_size=8, stem="small")
        sides = []
        for number in range(1, 5):
            block = net.get_submodule(f"features.denseblock{number}")
            block.register_forward_hook(lambda _, args, out: sides.append(out.shape[2]))
        assert net(torch.empty(1, 3, 32, 32)).shape == (1, 10)
    assert sides == [32, 16, 8, 4]
    with pytest.raises(NetError, match="at least 8x8"):
        nets.build("densenet121", input_size=7, stem="small")
    with pytest.raises(NetError, match="at least 16x16"):
        nets.build("densenet40_k12", input_size=15, stem="imagenet")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": "huge"}, "stem must be 'imagenet' or 'small', got 'huge'"),
        ({"dropout": -0.1}, "dropout is a probability"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(NetError, match=message), torch.device("meta"):
        nets.build("densenet121", **options)
