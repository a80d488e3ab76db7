"""Loading weights: maps between names, what is said when they do not fit, and the pictures that they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from neocog import nets
from neocog.data.decode import prepare
from neocog.errors import NetError
from neocog.nets.weight_names import best_match
from neocog.nets.weights import build_with_weights, load_weights, nearest, preprocess_for
from neocog.records import Preprocess

_KERAS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def randomised(name: str, **options: Any) -> nn.Module:
    """A net in which no two values are equal, running statistics included."""
    torch.manual_seed(0)
    net = nets.build(name, **options).eval()
    for value in net.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    return net


def as_keras(net: nn.Module, name: str = "{layer}/{value}", transposed: bool = False) -> dict[str, Tensor]:
    """The state of a MobileNet v1 as Keras writes it: other names, and kernels (H, W, in, out)."""

    def kernel(conv: nn.Conv2d) -> Tensor:
        axes = (2, 3, 0, 1) if conv.groups > 1 else (2, 3, 1, 0)
        return conv.weight.detach() if transposed else conv.weight.detach().permute(axes)

    made: dict[str, Tensor] = {}

    def add(layer: str, value: str, tensor: Tensor) -> None:
        made[name.format(layer=layer, value=value)] = tensor.contiguous().clone()

    def norm(layer: str, module: nn.BatchNorm2d) -> None:
        for ours, theirs in _KERAS.items():
            add(layer, theirs, getattr(module, ours).detach())

    add("conv1", "kernel", kernel(net.conv_stem))
    norm("conv1_bn", net.bn1)
    for number, block in enumerate((block for stage in net.blocks for block in stage), start=1):
        add(f"conv_dw_{number}", "depthwise_kernel", kernel(block.conv_dw))
        norm(f"conv_dw_{number}_bn", block.bn1)
        add(f"conv_pw_{number}", "kernel", kernel(block.conv_pw))
        norm(f"conv_pw_{number}_bn", block.bn2)
    dense = net.classifier.weight.detach()[:, :, None, None]
    add("conv_preds", "kernel", dense if transposed else dense.permute(2, 3, 1, 0))
    add("conv_preds", "bias", net.classifier.bias.detach())
    return made


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("form", ["{layer}/{value}", "{layer}/{layer}/{value}:0"])
@pytest.mark.parametrize("transposed", [False, True])
def test_keras_names_and_kernels(form: str, transposed: bool) -> None:
    net, said = randomised("mobilenet_v1_025"), []
    other = nets.build("mobilenet_v1_025")
    loaded = load_weights(other, as_keras(net, form, transposed), say=said.append)
    assert same(net, other)
    assert (loaded.names, loaded.loaded, loaded.missing) == ("Keras", 137, ())
    assert (other.spec["padding"], other.bn1.eps) == ("tensorflow", 1e-3)  # how Keras trains them
    assert said == []
    again = nets.build(**other.spec)
    assert again.bn1.eps == 1e-3


def test_explicit_options_stay_and_that_is_said() -> None:
    state, said = as_keras(randomised("mobilenet_v1_025")), []
    net = nets.build("mobilenet_v1_025", padding="pytorch", bn_eps=1e-5)
    load_weights(net, state, say=said.append)
    assert (net.spec["padding"], net.bn1.eps) == ("pytorch", 1e-5)
    assert len(said) == 1 and "trained with padding='tensorflow'" in said[0] and "padding='pytorch'" in said[0]


def test_timm_names_of_mobilenet_v2() -> None:
    net = randomised("mobilenet_v2_035", classes=10)
    outer = {"features.0.0.": "conv_stem.", "features.0.1.": "bn1.", "features.18.0.": "conv_head.",
             "features.18.1.": "bn2.", "classifier.1.": "classifier."}  # fmt: skip
    number = 1
    for stage, blocks in enumerate((1, 2, 3, 4, 3, 3, 1)):
        for block in range(blocks):
            inner = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"]
            places = ["0.0", "0.1", "1.0", "1.1", "2", "3"]
            if stage == 0:
                inner, places = ["conv_dw", "bn1", "conv_pw", "bn2"], ["0.0", "0.1", "1", "2"]
            for layer, place in zip(inner, places, strict=True):
                outer[f"features.{number}.conv.{place}."] = f"blocks.{stage}.{block}.{layer}."
            number += 1
    state = {}
    for name, value in net.state_dict().items():
        (ours,) = [prefix for prefix in outer if name.startswith(prefix)]
        state[outer[ours] + name.removeprefix(ours)] = value
    other = nets.build("mobilenet_v2_035", classes=10)
    assert load_weights(other, state).names == "timm"
    assert same(net, other)


def test_timm_names_of_vgg() -> None:
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in nets.build("vgg11").state_dict().items()}
    given = {name: shape for name, shape in wanted.items() if name.startswith("features.")}
    given |= {"pre_logits.fc1.weight": (4096, 512, 7, 7), "pre_logits.fc1.bias": (4096,), "head.fc.bias": (1000,)}
    given |= {
        "pre_logits.fc2.weight": (4096, 4096, 1, 1),
        "pre_logits.fc2.bias": (4096,),
        "head.fc.weight": (1000, 4096),
    }
    match = best_match(given, wanted)
    assert match.fits and match.placed["classifier.3.weight"][0] == "pre_logits.fc2.weight"


def test_released_names_of_densenet() -> None:
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in nets.build("densenet121").state_dict().items()}
    old = {}
    for name, shape in wanted.items():
        head, layer, rest = name.partition("denselayer")
        for kind in ("norm", "conv"):
            rest = rest.replace(f".{kind}1.", f".{kind}.1.").replace(f".{kind}2.", f".{kind}.2.")
        old[head + layer + rest] = shape
    assert old.keys() != wanted.keys()
    assert best_match(old, wanted).fits


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.module."])
def test_wrappers_are_taken_off(prefix: str) -> None:
    net = randomised("cifar_resnet20")
    other = nets.build("cifar_resnet20")
    load_weights(other, {prefix + name: value for name, value in net.state_dict().items()})
    assert same(net, other)


def test_a_convolution_over_the_whole_map_is_a_linear_layer() -> None:
    net = nn.Sequential(nn.Linear(2 * 3 * 3, 4))  # any module will do
    conv = nn.Conv2d(2, 4, 3)
    load_weights(net, {"0.weight": conv.weight.detach(), "0.bias": conv.bias.detach()})
    x = torch.randn(5, 2, 3, 3)
    torch.testing.assert_close(net(x.flatten(1)), conv(x).flatten(1))


def test_values_take_type_and_device_of_the_net(tmp_path: Path) -> None:
    net = randomised("cifar_resnet20")
    half = {name: value.half() if value.is_floating_point() else value for name, value in net.state_dict().items()}
    save_file(half, tmp_path / "half.safetensors")
    with torch.device("meta"):
        other = nets.build("cifar_resnet20")
    load_weights(other, tmp_path / "half.safetensors")
    assert {value.dtype for value in other.parameters()} == {torch.float32}
    assert all(torch.equal(value, half[name].to(value.dtype)) for name, value in other.state_dict().items())
    assert all(parameter.requires_grad for parameter in other.parameters())


def test_the_net_does_not_share_memory_with_what_was_given() -> None:
    state = {name: value.clone() for name, value in randomised("cifar_resnet20").state_dict().items()}
    with torch.device("meta"):
        net = nets.build("cifar_resnet20")
    load_weights(net, state)
    state["fc.bias"].zero_()
    assert net.fc.bias.abs().min() > 0


def test_wrong_weights_say_what_differs_and_what_fits() -> None:
    state = nets.build("cifar_resnet32", classes=7).state_dict()
    net = nets.build("cifar_resnet20")
    before = net.fc.bias.detach().clone()
    with pytest.raises(NetError) as caught:
        load_weights(net, state)
    said = str(caught.value)
    assert "cannot be loaded into cifar_resnet20 (116 tensors): " in said
    assert "60 unexpected: layer1.3.conv1.weight, layer1.3.bn1.weight" in said and "and 57 more" in said
    assert "2 of another shape: fc.weight is (7, 64) instead of (10, 64), fc.bias is (7,) instead of (10,)" in said
    assert "They fit 'cifar_resnet32': build('cifar_resnet32', classes=7, weights=...)" in said
    assert torch.equal(net.fc.bias, before)  # nothing was changed

    del state["conv1.weight"]
    with pytest.raises(NetError, match=r"1 missing: conv1\.weight;.*They fit no published net of the zoo"):
        load_weights(nets.build("cifar_resnet32", classes=7), {**state, "stray": torch.zeros(1)})
    loaded = load_weights(net, state, strict=False)
    assert (loaded.missing, loaded.reshaped) == (("conv1.weight",), ("fc.weight", "fc.bias"))
    assert torch.equal(net.fc.bias, before) and torch.equal(net.bn1.bias, state["bn1.bias"])


def test_only_another_number_of_classes() -> None:
    state = nets.build("cifar_resnet20", classes=100).state_dict()
    with pytest.raises(NetError, match="Only the last layer differs: build the net with classes=100"):
        load_weights(nets.build("cifar_resnet20"), state)


_ANY = ("resnet18", "wide_resnet101_2", "mobilenet_v1_050", "shufflenet_v2_x1_5", "senet154", "vgg13_bn", "densenet169")


@settings(max_examples=12)
@given(st.sampled_from(_ANY), st.sampled_from([2, 1000]))
def test_nearest_finds_every_net(name: str, classes: int) -> None:
    with torch.device("meta"):
        state = nets.build(name, classes=classes).state_dict()
    assert nearest(state) == (name, classes)


def test_fewer_classes_replace_the_head_and_that_is_said(tmp_path: Path) -> None:
    net, said = randomised("cifar_resnet20", classes=100), []
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    made = build_with_weights("cifar_resnet20", tmp_path / "w.safetensors", classes=3, say=said.append)
    assert said == [
        "cifar_resnet20: the weights are for 100 classes, 3 were asked for: "
        "the last layer, fc, is new and must be trained"
    ]
    assert made.spec["classes"] == 3 and made.fc.weight.shape == (3, 64)
    assert torch.equal(made.layer3[2].conv2.weight, net.layer3[2].conv2.weight)
    all_of_them = build_with_weights("cifar_resnet20", str(tmp_path / "w.safetensors"), say=said.append)
    assert same(all_of_them, net) and all_of_them.spec["classes"] == 100 and len(said) == 1


def test_auxiliary_heads_may_be_on_one_side_only(tmp_path: Path) -> None:
    said: list[str] = []
    torch.manual_seed(0)
    net = nets.build("googlenet", classes=5, auxiliary=True)
    save_file(net.state_dict(), tmp_path / "with.safetensors")
    bare = build_with_weights("googlenet", tmp_path / "with.safetensors", say=said.append)
    assert torch.equal(bare.fc.weight, net.fc.weight) and said == []
    save_file(bare.state_dict(), tmp_path / "without.safetensors")
    made = build_with_weights("googlenet", tmp_path / "without.safetensors", auxiliary=True, say=said.append)
    assert not any(value.is_meta for value in made.state_dict().values())
    assert torch.equal(made.fc.weight, net.fc.weight)
    assert len(said) == 1 and "aux1, aux2 of googlenet starts with random weights" in said[0]


def write_run(folder: Path, net: nn.Module, pre: Preprocess) -> None:
    folder.mkdir()
    save_file(net.state_dict(), folder / "weights.safetensors")
    shown = {"size": pre.size, "resize": pre.resize, "mean": list(pre.mean), "std": list(pre.std), "channels": 1}
    (folder / "net.json").write_text(json.dumps({"net": net.spec, "classes": ["a", "b"], "preprocess": shown}))


def test_a_run_gives_its_options_and_preprocessing(tmp_path: Path) -> None:
    net = randomised("resnet18", classes=2, in_channels=1, input_size=24, stem="small")
    pre = Preprocess(24, 26, (0.3,), (0.2,), 1)
    write_run(tmp_path / "run", net, pre)
    made = build_with_weights("resnet18", tmp_path / "run")
    assert same(made, net) and made.spec == net.spec
    assert build_with_weights("resnet18", tmp_path / "run", classes=4, say=str).fc.out_features == 4
    assert preprocess_for(tmp_path / "run") == pre
    with pytest.raises(NetError, match=r"trained resnet18, not resnet34; type build\('resnet18'"):
        build_with_weights("resnet34", tmp_path / "run")


def test_keras_weights_of_the_pictures_are_understood(weights_folder: Path) -> None:
    file = weights_folder / "mobilenet_v1_075.safetensors"
    net = build_with_weights("mobilenet_v1_075", file)
    assert (net.spec["padding"], net.spec["bn_eps"]) == ("tensorflow", 1e-3)
    assert preprocess_for(file) == Preprocess(224, 256, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(NetError, match=r"read as Keras names.*They fit 'mobilenet_v1_075'"):
        build_with_weights("mobilenet_v1", file)


def named(net: nn.Module, pre: Preprocess, file: Path, number: int) -> tuple[int, int]:
    """How many of the first pictures are named right, and how many are among the five first answers."""
    table = pq.read_table(file).slice(0, number)
    pictures = torch.from_numpy(np.stack([prepare(image["bytes"], pre) for image in table["image"].to_pylist()]))
    labels = torch.tensor(table["label"].to_pylist())
    mean, std = (torch.tensor(values)[:, None, None] for values in (pre.mean, pre.std))
    with torch.inference_mode():
        logits = torch.cat([net.eval()((part / 255 - mean) / std) for part in pictures.split(20)])
    first = logits.argmax(1) == labels
    return int(first.sum()), int((logits.topk(5).indices == labels[:, None]).any(1).sum())


@pytest.mark.slow
def test_names_the_pictures(weights_folder: Path, data_folder: Path) -> None:
    """171 of 200 (85.5 %), and 194 among the first five; 143 if the borders are padded as PyTorch nets do."""
    file, pictures = weights_folder / "mobilenet_v1_075.safetensors", data_folder / "imagenet_samples.parquet"
    net = build_with_weights("mobilenet_v1_075", file)
    right, among_five = named(net, preprocess_for(file), pictures, 200)
    assert abs(right - 171) <= 1 and abs(among_five - 194) <= 1  # one for another way to round


def test_names_the_first_pictures(weights_folder: Path, data_folder: Path) -> None:
    file, pictures = weights_folder / "mobilenet_v1_075.safetensors", data_folder / "imagenet_samples.parquet"
    net = build_with_weights("mobilenet_v1_075", file)
    assert named(net, preprocess_for(file), pictures, 20)[0] >= 14
