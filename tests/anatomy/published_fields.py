"""Which module of which net each row of receptive_fields.csv speaks of."""

from __future__ import annotations

import re
from typing import Any

_SLIM = {"stride_at": "last", "stem": "tensorflow"}
_V2 = {
    "Conv2d_1a_7x7": "conv1", "MaxPool_2a_3x3": "pool1", "Conv2d_2b_1x1": "conv2_reduce", "Conv2d_2c_3x3": "conv2",
    "MaxPool_3a_3x3": "pool2", "Mixed_3b": "inception3a", "Mixed_3c": "inception3b", "Mixed_4a": "inception3c",
    "Mixed_4b": "inception4a", "Mixed_4c": "inception4b", "Mixed_4d": "inception4c", "Mixed_4e": "inception4d",
    "Mixed_5a": "inception4e", "Mixed_5b": "inception5a", "Mixed_5c": "inception5b", "final": "inception5b",
}  # fmt: skip
_V3 = {"MaxPool_3a_3x3": "maxpool1", "MaxPool_5a_3x3": "maxpool2", "final": "Mixed_7c"}
# 13 blocks of a depthwise and a pointwise convolution, in stages of 1, 2, 2, 6 and 2
_BLOCKS = ["bn1", *(f"blocks.{stage}.{i}" for stage, n in enumerate((1, 2, 2, 6, 2)) for i in range(n))]
_LENET = {"C1": "conv1", "S2": "pool1", "C3": "conv2", "S4": "pool2", "C5": "hidden.fc1"}

# Rows that are no layer of a net, and why.
NOT_A_LAYER = {
    "seed004_rule": "a formula: test_closed_forms",
    "unet_original": "no single field: the border lost is tested in tests/nets/test_unet.py",
    "dilated_3x3": "a stack of layers: test_closed_forms",
    "stack_2x_conv3x3": "a stack of layers: test_closed_forms",
    "stack_3x_conv3x3": "a stack of layers: test_closed_forms",
    "fcn_alexnet": "see tests/nets/test_fcn.py; the same 355 as alexnet_slide_227",
    "fcn_vgg16": "see tests/nets/test_fcn.py; the same 404 as vgg16",
}


def _vgg(layer: str, stages: tuple[int, ...]) -> str:
    if layer.startswith("fc6"):
        return "classifier.0"
    kind, stage, conv = re.fullmatch(r"(conv|pool)(\d)_?(\d?)", layer if layer != "final" else "pool5").groups()  # type: ignore[union-attr]
    before = sum(2 * n + 1 for n in stages[: int(stage) - 1])
    return f"features.{before + (2 * (int(conv) - 1) if kind == 'conv' else 2 * stages[int(stage) - 1])}"


def _stage(layer: str) -> str:
    return "layer" + (layer[-1] if "block" in layer else "4")


def where(arch: str, row: str) -> tuple[str, dict[str, Any], str]:
    """(net, options, module) of a row; the module may contain others, and then its last layer counts."""
    layer = re.sub(r" \((any input|input \d+|headline)\)$", "", row).rpartition("/")[2]
    if match := re.fullmatch(r"resnet_v([12])_(\d+)", arch):
        return ("resnet" if match[1] == "1" else "preact_resnet") + match[2], _SLIM, _stage(layer)
    if match := re.match(r"(torchvision|caffe)_resnet(\d+)", arch):
        caffe = match[1] == "caffe"
        return f"resnet{match[2]}{'_v1' * caffe}", {"stem": "tensorflow"} if caffe else {}, layer
    if arch.startswith("inception_v2"):
        return "inception_v2", {"separable": False} if "no-separable" in arch else {}, _V2[layer]
    if arch == "inception_v3":
        return arch, {}, _V3.get(layer, layer)
    if match := re.fullmatch(r"mobilenet_v1(_075)?(\(pad1\))?", arch):
        number = 13 if layer == "final" else int((re.findall(r"\d+", layer.removeprefix("Conv2d")) or ["0"])[0])
        options = {"padding": "pytorch" if match[2] else "tensorflow"}
        return f"mobilenet_v1{match[1] or ''}", options, _BLOCKS[number]
    if arch == "cifar_resnet20":
        parts = re.fullmatch(r"s(\d)\.(\d)\.(\d)", layer)
        return arch, {}, f"layer{parts[1]}.{parts[2]}.conv{parts[3]}" if parts else layer
    if arch == "lenet5":
        return arch, {}, _LENET[layer]
    if arch == "alexnet_v2":
        return arch, {}, "features." + ("pool5" if layer == "final" else layer)
    if arch == "alexnet_slide_227":
        named = {"pool3": "features.pool5", "fc6(as 6x6 conv)": "classifier.fc6"}
        return "alexnet_slides", {}, named.get(layer, f"features.{layer}")
    if arch == "torchvision_alexnet_224":
        order = {"conv1": 0, "pool1": 2, "conv2": 3, "pool2": 5, "conv3": 6, "conv4": 8, "conv5": 10, "pool5": 12}
        return "alexnet", {}, f"features.{order[layer]}"
    if arch in ("vgg11", "vgg16", "vgg_16"):
        name = arch.replace("_", "")
        return name, {}, _vgg(layer, (1, 1, 2, 2, 2) if name == "vgg11" else (2, 2, 3, 3, 3))
    raise AssertionError(f"no net for {arch}, {row}")
