"""FCN: alignment of what is cropped and added, bilinear filters, and classifiers turned into convolutions."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets.counting import multiply_adds, trainable
from torch import Tensor, nn

from neocog import nets
from neocog.anatomy import rewrite
from neocog.errors import NetError
from neocog.nets.fcn import BilinearUpsampling, dilate
from neocog.nets.layers import WithAuxiliaries
from neocog.nets.resnet import ResNet

FCNS = ["fcn32s_vgg16", "fcn16s_vgg16", "fcn8s_vgg16", "fcn8s_atonce_vgg16", "fcn32s_alexnet"]


def frozen(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters() if not parameter.requires_grad)


def test_upsampling_filters_are_frozen_parameters() -> None:
    counts = {}
    for name in FCNS:
        with torch.device("meta"):
            counts[name] = frozen(nets.build(name))
    assert list(counts.values()) == [1_806_336, 458_640, 127_008, 127_008, 1_750_329]


@pytest.mark.parametrize(("name", "field"), [("fcn32s_vgg16", 404), ("fcn8s_vgg16", 404), ("fcn32s_alexnet", 355)])
def test_field_of_view_of_fc7_is_the_papers(name: str, field: int) -> None:
    with torch.device("meta"):
        net = nets.build(name)
    size, jump = 1, 1
    for layer in net.trunk:
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            kernel, stride = (
                (value,) if isinstance(value, int) else value for value in (layer.kernel_size, layer.stride)
            )
            size, jump = size + (kernel[0] - 1) * jump, jump * stride[0]
    assert (size, jump) == (field, 32)


# sizes at which no window of the trunk reads beyond the padding on one side only
@pytest.mark.parametrize(("name", "size"), [*((name, 58) for name in FCNS[:4]), ("fcn32s_alexnet", 59)])
def test_crops_leave_the_scores_above_their_pixels(name: str, size: int) -> None:
    """With symmetric filters, a mirrored picture has mirrored scores; a crop that is off by one would shift them."""
    torch.manual_seed(0)
    net = nets.build(name, width=1 / 32, classes=3, input_size=size).double().eval()
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.copy_(layer.weight + layer.weight.flip(2))
                layer.weight.copy_(layer.weight + layer.weight.flip(3))
        x = torch.randn(1, 3, size, size, dtype=torch.float64)
        scores = net(x)
        for axis in (2, 3):
            torch.testing.assert_close(net(x.flip(axis)), scores.flip(axis))
    assert scores.std() > 0


@pytest.mark.parametrize("name", FCNS)
def test_any_size_gives_scores_of_that_size(name: str) -> None:
    with torch.device("meta"):
        net = nets.build(name)
        for height, width in ((1, 1), (33, 500), (227, 90)):
            assert net(torch.empty(1, 3, height, width)).shape == (1, 21, height, width)


def only(net: nn.Module, kept: str, x: Tensor) -> Tensor:
    """Scores when one of the layers that score classes counts and the others are 0."""
    saved = {name: value.clone() for name, value in net.state_dict().items()}
    for name in ("score_fr", "score_pool4", "score_pool3"):
        if name != kept:
            nn.init.zeros_(net.get_submodule(name).weight)
    scores = net(x)
    net.load_state_dict(saved)
    return scores


def test_fcn8s_adds_scores_of_three_strides() -> None:
    torch.manual_seed(0)
    net = nets.build("fcn8s_vgg16", width=1 / 16, classes=3).double().eval()
    x = torch.randn(2, 3, 70, 45, dtype=torch.float64)
    with torch.no_grad():
        whole = net(x)
        parts = [only(net, name, x) for name in ("score_fr", "score_pool4", "score_pool3")]
        torch.testing.assert_close(whole, sum(parts))
    # the finer the map, the more its enlarged scores change from pixel to pixel, relative to their size
    roughness = [((part[..., 1:] - part[..., :-1]).norm() / part.norm()).item() for part in parts]
    assert all(coarse < 0.7 * fine for coarse, fine in pairwise(roughness))


def test_at_once_is_fcn8s_with_smaller_steps_for_the_skips() -> None:
    torch.manual_seed(0)
    staged = nets.build("fcn8s_vgg16", width=1 / 32).double().eval()
    once = nets.build("fcn8s_atonce_vgg16", width=1 / 32).double().eval()
    state = staged.state_dict()
    once.load_state_dict({**state, "score_pool4.weight": state["score_pool4.weight"] * 100,
                          "score_pool3.weight": state["score_pool3.weight"] * 1e4})  # fmt: skip
    x = torch.randn(1, 3, 40, 40, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(once(x), staged(x))


def test_scores_may_start_at_zero() -> None:
    net = nets.build("fcn16s_vgg16", width=1 / 32, zero_init_score=True)
    x = torch.randn(1, 3, 20, 20)
    assert not net(x).any()
    assert not nets.change_head(net, 5)(x).any()


@given(st.integers(1, 9), st.booleans())
def test_bilinear_filters_reproduce_ramps(stride: int, odd: bool) -> None:
    size = max(1, 2 * stride - odd)
    layer = BilinearUpsampling(2, size, stride).double()
    rows, columns = torch.meshgrid(*[torch.arange(6.0, dtype=torch.float64)] * 2, indexing="ij")
    ramp = torch.stack([3 * rows - columns + 1, 2 * columns])[None]
    out = layer(ramp)
    # where an output pixel lies, in pixels of the input; outside of 0 to 5 there is nothing to interpolate
    places = (torch.arange(out.shape[2], dtype=torch.float64) - (size - 1) / 2) / stride
    inside = (places >= 0) & (places <= 5)
    rows, columns = torch.meshgrid(places[inside], places[inside], indexing="ij")
    expected = torch.stack([3 * rows - columns + 1, 2 * columns])
    # the filters are made in float32
    torch.testing.assert_close(out[0][:, inside][:, :, inside], expected, rtol=0, atol=1e-5)


def test_bilinear_filters_follow_the_classes() -> None:
    x = torch.randn(1, 4, 5, 5)
    full, diagonal = BilinearUpsampling(4, 16, 8, 4), BilinearUpsampling(4, 16, 8, 4, groups=4)
    torch.testing.assert_close(full(x), diagonal(x))
    for layer, shape in ((full, (6, 6, 16, 16)), (diagonal, (6, 1, 16, 16))):
        fresh = layer.to(torch.bfloat16).with_classes(6)
        assert fresh.weight.shape == shape and not fresh.weight.requires_grad and fresh.weight.dtype == torch.bfloat16
        assert torch.equal(fresh.weight[5, -1], layer.weight[0, 0])


def test_wrong_options_are_named() -> None:
    with torch.device("meta"):
        with pytest.raises(NetError, match="dropout is a probability"):
            nets.build("fcn8s_vgg16", dropout=1)
        with pytest.raises(NetError, match="width is a factor above 0"):
            nets.build("fcn8s_vgg16", width=0)


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 100))
def test_every_logit_of_the_map_is_that_of_its_window(rows: int, columns: int, seed: int) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 2), nn.Flatten(),
        nn.Linear(27, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 5, bias=False),
    )  # fmt: skip
    for name, value in net.state_dict().items():
        if name.startswith("6.") and value.is_floating_point():
            value.uniform_(0.5, 1.5)
    net.double().eval()
    dense = rewrite(net, "fc-to-conv", torch.zeros(1, 2, 18, 18, dtype=torch.float64), average=False).module
    x = torch.randn(2, 2, 18 + 4 * rows, 18 + 4 * columns, dtype=torch.float64)
    with torch.no_grad():
        map_ = dense(x)
        assert map_.shape == (2, 5, rows + 1, columns + 1)
        for row in range(rows + 1):
            for column in range(columns + 1):
                window = x[:, :, 4 * row : 4 * row + 18, 4 * column : 4 * column + 18]
                torch.testing.assert_close(map_[:, :, row, column], net(window))


# FCN on ResNets


@pytest.mark.parametrize(
    ("name", "params", "billions"), [("fcn_resnet50", 35_322_218, 152.717), ("fcn_resnet101", 54_314_346, 232.738)]
)
def test_auxiliary_head_is_used_in_training(name: str, params: int, billions: float) -> None:
    with torch.device("meta"):
        net = nets.build(name, auxiliary=True)
        out = net.train()(torch.empty(2, 3, 64, 48))
        assert isinstance(out, WithAuxiliaries) and out.weight == 0.5
        assert out.logits.shape == out.auxiliaries[0].shape == (2, 21, 64, 48)
        assert net.eval()(torch.empty(2, 3, 64, 48)).shape == (2, 21, 64, 48)
        assert trainable(net) == params
        assert {"backbone.layer4.2.bn3.running_var", "classifier.4.bias", "aux_classifier.1.weight"} <= set(
            net.state_dict()
        )
        scorer = multiply_adds(net.aux_classifier, (1024, 65, 65))
        assert multiply_adds(net, (3, 520, 520)) + scorer == pytest.approx(billions * 1e9, abs=5e5)
        nets.change_head(net, 5)
        assert net.train()(torch.empty(2, 3, 32, 32)).auxiliaries[0].shape == (2, 5, 32, 32)


@pytest.mark.parametrize("planes", [(4, 8, 16, 32), (4, 4, 4, 4)])  # shortcuts with and without a convolution
def test_dilated_stages_compute_what_strided_ones_do_and_more(planes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    strided, dilated = (
        ResNet("bottleneck", (1, 1, 3, 2), planes, classes=1, in_channels=3).double().eval() for _ in range(2)
    )
    dilated.load_state_dict(strided.state_dict())
    dilate(dilated.layer3, 1, 2)
    dilate(dilated.layer4, 2, 4)
    x = torch.randn(2, 4 * planes[1], 13, 16, dtype=torch.float64)
    with torch.no_grad():
        third, fine = strided.layer3(x), dilated.layer3(x)
        assert fine.shape[2:] == x.shape[2:]
        torch.testing.assert_close(fine[:, :, ::2, ::2], third)
        torch.testing.assert_close(dilated.layer4(fine)[:, :, ::4, ::4], strided.layer4(third))
    with pytest.raises(NetError, match="only stages of bottlenecks"):
        dilate(nets.build("resnet18").layer3, 1, 2)
