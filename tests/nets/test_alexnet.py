"""AlexNet and its relatives: groups, normalisation, geometry, other sizes, and what TF-Slim and the slides counted."""

from __future__ import annotations

import pytest
import torch
from nets.counting import multiply_adds, trainable
from torch import Tensor, nn

from neocog import nets
from neocog.errors import NetError
from neocog.nets.alexnet import Convolution, FiveConvolutions


def on_meta(name: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        return nets.build(name, **options)  # type: ignore[arg-type]


def convolutions(net: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: layer for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d)}


def test_parameters_of_each_layer_are_the_published_ones() -> None:
    layers = dict(on_meta("alexnet_original").named_modules())
    counts = {name.split(".")[-1]: trainable(layer) for name, layer in layers.items() if hasattr(layer, "weight")}
    assert counts == {
        "conv1": 34944, "conv2": 307456, "conv3": 885120, "conv4": 663936, "conv5": 442624,
        "fc6": 37752832, "fc7": 16781312, "fc8": 4097000,
    }  # fmt: skip


def test_groups_are_the_two_gpus() -> None:
    for name in ("alexnet_original", "caffenet"):
        assert [conv.groups for conv in convolutions(on_meta(name)).values()] == [1, 2, 1, 2, 2]
    for name in ("alexnet", "alexnet_slides", "alexnet_v2"):
        assert {conv.groups for conv in convolutions(on_meta(name)).values()} == {1}


def test_groups_do_not_mix() -> None:
    conv2 = nets.build("alexnet_original", classes=2, input_size=67).features.conv2
    x = torch.randn(1, 96, 7, 7)
    changed = x.clone()
    changed[:, 48:] = 0
    with torch.no_grad():
        first, second = conv2(x), conv2(changed)
    assert torch.equal(first[:, :128], second[:, :128])
    assert not torch.equal(first[:, 128:], second[:, 128:])


@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("alexnet_original", {}, ["conv1", "relu1", "norm1", "pool1", "conv2", "relu2", "norm2", "pool2"]),
        ("caffenet", {}, ["conv1", "relu1", "pool1", "norm1", "conv2", "relu2", "pool2", "norm2"]),
        ("alexnet_slides", {}, ["conv1", "relu1", "pool1", "norm1", "conv2", "relu2", "pool2", "norm2"]),
        ("alexnet_original", {"norm": "none"}, ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2"]),
        ("alexnet_v2", {}, ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2"]),
    ],
)
def test_order_of_norm_and_pool(name: str, options: dict[str, str], order: list[str]) -> None:
    rest = ["conv3", "relu3", "conv4", "relu4", "conv5", "relu5", "pool5"]
    assert [key for key, _ in on_meta(name, **options).features.named_children()] == order + rest


@pytest.mark.parametrize(("name", "k", "alpha"), [("alexnet_original", 2, 1e-4), ("caffenet", 1, 1e-4 / 5)])
def test_norm_is_that_of_the_paper_or_of_caffe(name: str, k: float, alpha: float) -> None:
    norm = on_meta(name).features.norm1
    generator = torch.Generator().manual_seed(0)
    x = 100 * torch.rand(2, 7, 2, 3, dtype=torch.float64, generator=generator)
    expected = torch.empty_like(x)
    for i in range(7):
        near = x[:, max(0, i - 2) : i + 3].square().sum(1)  # five channels, fewer at the ends
        expected[:, i] = x[:, i] / (k + alpha * near) ** 0.75
    torch.testing.assert_close(norm(x), expected)


def sides(net: nn.Module, size: int) -> dict[str, tuple[int, ...]]:
    """Return channels and side of the output of each layer of the features."""
    found: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> object:
        def hook(layer: nn.Module, args: object, out: Tensor) -> None:
            found[name] = tuple(out.shape[1:3])

        return hook

    for name, layer in net.features.named_children():
        layer.register_forward_hook(note(name))  # type: ignore[arg-type]
    net.eval()(torch.empty(1, 3, size, size, device="meta"))
    return found


def test_shapes_are_the_slides() -> None:
    shapes = sides(on_meta("alexnet_slides"), 227)
    assert [shapes[name] for name in ("conv1", "pool1", "norm1", "conv2", "pool2", "norm2", "conv3", "conv4")] == [
        (96, 55), (96, 27), (96, 27), (256, 27), (256, 13), (256, 13), (384, 13), (384, 13),
    ]  # fmt: skip
    assert [shapes[name] for name in ("conv5", "pool5")] == [(256, 13), (256, 6)]
    # 55 x 55 x 96 + ... units, as the published listing adds up; the paper prints about 650,000
    units = sum(shapes[f"conv{n}"][0] * shapes[f"conv{n}"][1] ** 2 for n in range(1, 6)) + 4096 + 4096 + 1000
    assert units == 659_272


def test_one_tower_at_227_is_the_slides_figure() -> None:
    net = on_meta("alexnet")
    assert multiply_adds(net, (3, 227, 227)) == 716_767_232
    assert sides(net, 227)["0"] == (64, 56)
    assert multiply_adds(on_meta("alexnet_slides"), (3, 227, 227)) == 1_135_256_096


def test_operations_of_alexnet_v2_are_those_of_the_receptive_field_library() -> None:
    """It prints 2 x MACs in billions, up to and including each convolution (with biases, so a little more)."""
    for size, figures in ((224, (0.136, 0.552, 0.743, 1.125, 1.380)), (321, (0.283, 1.171, 1.602, 2.462, 3.036))):
        net = on_meta("alexnet_v2", input_size=size)
        shapes, total = sides(net, size), 0
        for figure, (name, conv) in zip(figures, convolutions(net).items(), strict=True):
            total += shapes[name.split(".")[-1]][1] ** 2 * conv.weight.numel()
            assert 2 * total / 1e9 == pytest.approx(figure, rel=4e-3)


def test_padding_0_has_the_geometry_of_alexnet_v2() -> None:
    for size in (67, 224, 321):
        one, other = sides(on_meta("alexnet", padding=0), size), sides(on_meta("alexnet_v2", input_size=size), size)
        assert [one[str(n)][1] for n in (0, 2, 3, 5, 6, 8, 10, 12)] == [
            other[name][1] for name in ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5")
        ]


def test_other_sizes() -> None:
    for size in (63, 64, 100, 300):
        net = on_meta("alexnet", input_size=size, classes=5)
        assert net(torch.empty(2, 3, size, size, device="meta")).shape == (2, 5)
        assert trainable(net) == 61_100_840 - 4097 * 995  # no layer depends on the size
    for size, side in ((67, 1), (99, 2), (227, 6), (300, 8)):
        net = on_meta("alexnet_original", input_size=size, in_channels=1)
        assert net.classifier.fc6.in_features == 256 * side**2
        assert net(torch.empty(2, 1, size, size, device="meta")).shape == (2, 1000)
    with pytest.raises(NetError, match=r"built for pictures of 300x300, got 227x227.*input_size=227"):
        net(torch.empty(1, 1, 227, 227, device="meta"))


def test_smallest_sizes_are_the_smallest() -> None:
    convs = [Convolution(8, 11, 4, 0), Convolution(8, 5, 1, 2), *[Convolution(8, 3, 1, 1)] * 3]
    with torch.device("meta"):
        FiveConvolutions(convs, True, False, 1.0, classes=2, in_channels=3, input_size=67)
        with pytest.raises(NetError, match="input_size=66 leaves no map"):
            FiveConvolutions(convs, True, False, 1.0, classes=2, in_channels=3, input_size=66)
    with pytest.raises(NetError, match="at least 63x63, got input_size=62"):
        on_meta("alexnet", input_size=62)
    with pytest.raises(NetError, match="at least 67x67, got input_size=63"):
        on_meta("alexnet", input_size=63, padding=0)
    with pytest.raises(RuntimeError, match="too small"):
        on_meta("alexnet")(torch.empty(1, 3, 62, 62, device="meta"))


def test_initial_values_are_the_papers() -> None:
    torch.manual_seed(0)
    net = nets.build("alexnet_original", classes=3, input_size=67)
    layers = {name.split(".")[-1]: layer for name, layer in net.named_modules() if hasattr(layer, "weight")}
    ones = {name for name, layer in layers.items() if (layer.bias == 1).all()}
    assert ones == {"conv2", "conv4", "conv5", "fc6", "fc7"}
    assert all((layer.bias == 0).all() for name, layer in layers.items() if name not in ones)
    assert {round(layer.weight.std().item(), 3) for layer in layers.values()} == {0.01}
    assert (nets.change_head(net, 7).classifier.fc8.bias == 0).all()


def test_dropout_stands_where_it_was() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 67, 67)
    net = nets.build("alexnet_original", classes=3, input_size=67)
    assert 0.4 < (net.forward_features(x) == 0).double().mean() < 0.6  # the last thing before fc8; biases of 1 are > 0
    net = nets.build("alexnet_original", classes=3, input_size=67, dropout=0.0)
    assert (net.forward_features(x) == 0).double().mean() < 0.1
    kinds = [type(layer).__name__ for layer in on_meta("alexnet").classifier]
    assert kinds == ["Dropout", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Linear"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("alexnet", {"padding": -1}, "padding must be a whole number from 0 to 5.*got -1"),
        ("alexnet", {"padding": "same"}, "padding must be a whole number"),
        ("alexnet", {"dropout": 1}, "dropout is a probability"),
        ("alexnet_original", {"dropout": -0.1}, "dropout is a probability"),
        ("caffenet", {"norm": "batch"}, "norm must be 'paper', 'caffe' or 'none', got 'batch'"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(NetError, match=message):
        on_meta(name, **options)


def test_other_channels_are_refused_with_the_remedy() -> None:
    for name in ("alexnet", "alexnet_original"):
        with pytest.raises(NetError, match=r"\(B, 3, H, W\), got \(1, 1, 227, 227\).*in_channels"):
            on_meta(name)(torch.empty(1, 1, 227, 227, device="meta"))
