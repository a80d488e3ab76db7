"""The published figures: rows of zoo.csv and reference_outputs.json, which NEOCOG_FACTS points at."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from nets.counting import multiply_adds, trainable
from nets.reference import check_against_reference
from torch import nn

from neocog import nets
from neocog.anatomy.trace import trace

_FOLDER = Path(os.environ.get("NEOCOG_FACTS") or "no folder")
_A, _B = {"shortcut": "A"}, {"shortcut": "B"}
_AUX = {"auxiliary": True}
_MOBILE = {"1.0": "mobilenet_v1", "0.75": "mobilenet_v1_075", "0.5": "mobilenet_v1_050", "0.25": "mobilenet_v1_025"}

# arch -> (a word of variant_notes or input_chw, net, options), the first that fits; "" fits any row.
# An arch that is not here stands for the net of that name without options.
EXPRESSED: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "mlp": [
        ("3072-100-10", "mlp", {}),
        ("784-100-10", "mlp", {"in_channels": 1, "input_size": 28}),
        ("784-500-150-10", "mlp", {"in_channels": 1, "input_size": 28, "hidden": [500, 150]}),
    ],
    "lenet5_modern": [("", "lenet5", {})],
    "alexnet_slide_simplified": [("", "alexnet_slides", {})],
    "alexnet_one_tower": [("", "alexnet", {})],
    "nin_cifar10": [("", "nin_cifar", {})],
    "googlenet": [
        ("Caffe/original", "googlenet_original", {}),
        ("both aux heads", "googlenet_original", _AUX),
        ("no conv bias, no aux", "googlenet", {}),
        ("aux_logits=True", "googlenet", _AUX),
    ],
    "inception_v3": [("", "inception_v3", {})],
    "resnet18": [("projection", "resnet18", {}), ("option A", "resnet18", _A)],
    "resnet34": [("projection", "resnet34", {}), ("option A", "resnet34", _A)],
    **{f"resnet{n}": [("v1.5", f"resnet{n}", {}), ("v1 original", f"resnet{n}_v1", {})] for n in (50, 101, 152)},
    **{
        f"cifar_resnet{n}": [("option A", f"cifar_resnet{n}", {}), ("option B", f"cifar_resnet{n}", _B)]
        for n in (20, 32, 44, 56, 110, 1202)
    },
    "cifar_preresnet110": [("option A", "cifar_preresnet110", {}), ("option B", "cifar_preresnet110", _B)],
    **{
        f"se_resnet{n}": [("1x1", f"se_resnet{n}", {}), ("3x3", f"se_resnet{n}", {"stride_on": "3x3"})]
        for n in (50, 101, 152)
    },
    **{f"mobilenet_v1_{width}": [("", name, {})] for width, name in _MOBILE.items()},
    **{f"shufflenet_v1_{w}x_g3": [("", f"shufflenet_v1_{w.replace('.', '_')}x_g3", {})] for w in ("0.5", "1.5")},
    **{f"shufflenet_v2_x{w}": [("", f"shufflenet_v2_x{w[0]}_{w[2]}", {})] for w in ("0.5", "1.0", "1.5", "2.0")},
    "squeezenet1_0": [("3x227x227", "squeezenet1_0", {"head_padding": 1}), ("", "squeezenet1_0", {})],
    "fcn_alexnet": [("", "fcn32s_alexnet", {})],
    "segnet_vgg16": [("", "segnet", {"classes": 12})],
    "unet_in1_out1": [("", "unet_original", {"classes": 1})],
    "unet_padded_bn": [("", "unet", {})],
    "unet_zhixuhao_keras": [("", "unet_keras", {})],
    "dqn_nature": [(f"{n} actions", "dqn_2015", {"classes": n}) for n in (18, 6, 4)],
    "vae_kingma_mlp": [("", "vae", {})],
    "vae_pytorch_example": [("", "vae", {"hidden": 400})],
}  # fmt: skip

# Rows that the zoo cannot express, and why.
NOT_EXPRESSED = {
    r"slides:.*": "layers, not nets: test_formulas.py and test_local.py",
    r"googlenet_row:.*": "parts of a net: test_googlenet.py",
    r"neocognitron": "no numbers are published",
    r"fcn_googlenet": "rounded to millions, and no definition was released",
    r"fast.*rcnn.*|maskrcnn.*": "detection: no such head in the zoo",
    r"dssm|lbl|mlbl_b": "language and matching models: no pictures go in",
}
_COUNTED_IN_TRAINING = {"both aux heads"}  # Caffe's figure has the heads that evaluation leaves out


def resolve(row: dict[str, str]) -> tuple[str, dict[str, Any]] | None:
    """Net and options for a row of zoo.csv; None for a row that cannot be expressed."""
    arch = row["arch"]
    if any(re.fullmatch(pattern, arch) for pattern in NOT_EXPRESSED):
        return None
    for word, name, options in EXPRESSED.get(arch, [("", arch, {})]):
        if word in f"{row['variant_notes']} {row['input_chw']}":
            return name, options
    raise AssertionError(f"no net for {arch}: {row['variant_notes']!r}")


def _rows() -> list[Any]:
    file = _FOLDER / "zoo.csv"
    if not file.is_file():
        return [pytest.param(None, marks=pytest.mark.skip(reason="NEOCOG_FACTS is not set to a folder with zoo.csv"))]
    with file.open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if resolve(row) is not None]
    return [  # nets of 1000 layers have the code of their smaller ones
        pytest.param(
            row,
            id=f"{row['arch']}: {row['variant_notes'][:30]} {row['input_chw']}",
            marks=pytest.mark.slow if row["arch"].endswith(("1001", "1202")) else (),
        )
        for row in rows
    ]


@pytest.mark.parametrize("row", _rows())
def test_row_of_the_zoo(row: dict[str, str]) -> None:
    """Counted twice: by hooks on layers, and by the trace that users call."""
    found = resolve(row)
    assert found is not None
    name, options = found
    shape = tuple(int(side) for side in re.findall(r"\d+", row["input_chw"]))
    shape = shape if len(shape) > 1 else (1, 28, 28)
    with torch.device("meta"):
        net = nets.build(name, **{"input_size": shape[-1], **options} if shape[-1] == shape[-2] else options)
    wanted = [int(number) for number in re.findall(r"\d{4,}", row["params"])]
    if " / " in row["params"]:  # with and without auxiliary heads
        with torch.device("meta"):
            both = {trainable(net), trainable(nets.build(name, auxiliary=True))}
        assert both == set(wanted)
    else:
        assert trainable(net) == wanted[0]
    if row["macs"].endswith("connections"):
        assert f"{sum(net.connections().values())} connections" == row["macs"]
    elif row["macs"].isdigit():
        x = torch.empty(1, *shape, device="meta")
        training = any(word in row["variant_notes"] for word in _COUNTED_IN_TRAINING)
        assert multiply_adds(net, x, training=training) == int(row["macs"])
        if not training:
            assert trace(net, shape, training_memory=False).macs == int(row["macs"])


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "resnet101", "resnext50_32x4d", "wide_resnet50_2", "fcn_resnet50"]
)
def test_reference_outputs(name: str, facts_folder: Path) -> None:
    check_against_reference(name, name, facts_folder)


def test_facts_of_options() -> None:
    """Figures of options that have no name of their own (He et al.; pytorchcv), known without the facts folder."""
    for name, options, parameters, macs in (
        ("resnet18", {"shortcut": "A"}, 11_515_688, 1_794_805_760),
        ("cifar_resnet20", {"shortcut": "B"}, 272_474, 40_813_184),
        ("cifar_resnet56", {"shortcut": "B"}, 855_770, 125_747_840),
        ("cifar_resnet110", {"shortcut": "B"}, 1_730_714, 253_149_824),
        ("cifar_preresnet110", {"shortcut": "B"}, 1_730_522, 253_149_824),
    ):
        with torch.device("meta"):
            net: nn.Module = nets.build(name, **options)
        assert (trainable(net), multiply_adds(net, (3, *[nets.facts(name).input[1]] * 2))) == (parameters, macs), name
