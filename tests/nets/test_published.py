"""The published figures: rows of zoo.csv and reference_outputs.json, which NEOCOG_FACTS points at."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from nets.counting import multiply_adds, trainable
from torch import Tensor, nn

from neocog import nets

_FOLDER = Path(os.environ.get("NEOCOG_FACTS") or "no folder")
_A, _B = {"shortcut": "A"}, {"shortcut": "B"}

# (arch, a word of variant_notes) -> net and options. A row of zoo.csv whose arch is here must match one of its entries.
EXPRESSED: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "lenet5_original": [("", "lenet5_original", {})],
    "lenet5_modern": [("", "lenet5", {})],
    "lenet_caffe": [("", "lenet_caffe", {})],
    "resnet18": [("projection", "resnet18", {}), ("option A", "resnet18", _A)],
    "resnet34": [("projection", "resnet34", {}), ("option A", "resnet34", _A)],
    "resnet50": [("v1.5", "resnet50", {}), ("v1 original", "resnet50_v1", {})],
    "resnet101": [("v1.5", "resnet101", {}), ("v1 original", "resnet101_v1", {})],
    "resnet152": [("v1.5", "resnet152", {}), ("v1 original", "resnet152_v1", {})],
    **{f"preact_resnet{n}": [("", f"preact_resnet{n}", {})] for n in (18, 34, 50, 101, 152, 200)},
    **{
        f"cifar_resnet{n}": [("option A", f"cifar_resnet{n}", {}), ("option B", f"cifar_resnet{n}", _B)]
        for n in (20, 32, 44, 56, 110, 1202)
    },
    "cifar_preresnet110": [("option A", "cifar_preresnet110", {}), ("option B", "cifar_preresnet110", _B)],
    **{
        name: [("", name, {})]
        for name in (
            "cifar_preresnet164", "cifar_preresnet1001", "stochastic_depth_resnet110", "stochastic_depth_resnet1202",
            "resnext29_8x64d", "resnext29_16x64d", "resnext29_32x4d", "resnext50_32x4d", "resnext101_32x4d",
            "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2",
        )
    },
}  # fmt: skip


def _rows() -> list[Any]:
    file = _FOLDER / "zoo.csv"
    if not file.is_file():
        return [pytest.param(None, marks=pytest.mark.skip(reason="NEOCOG_FACTS is not set to a folder with zoo.csv"))]
    with file.open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if "[EXACT" in row["how_counted"] and row["arch"] in EXPRESSED]
    return [pytest.param(row, id=f"{row['arch']}: {row['variant_notes'][:30]}") for row in rows]


@pytest.mark.parametrize("row", _rows())
def test_row_of_the_zoo(row: dict[str, str]) -> None:
    matching = [(name, options) for word, name, options in EXPRESSED[row["arch"]] if word in row["variant_notes"]]
    assert len(matching) == 1, f"no single net for {row['variant_notes']!r}"
    name, options = matching[0]
    with torch.device("meta"):
        net = nets.build(name, **options)
    shape = tuple(int(side) for side in row["input_chw"].split("x"))
    assert trainable(net) == int(re.match(r"\d+", row["params"])[0])
    if row["macs"].endswith("connections"):
        assert f"{sum(net.connections().values())} connections" == row["macs"]
    else:
        assert multiply_adds(net, shape) == int(row["macs"])
    assert nets.facts(name).input == shape


def filled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Values by the rule that stands in reference_outputs.json, float64."""
    values = {}
    for k, name in enumerate(sorted(state)):
        shape = state[name].shape
        n = shape.numel()
        i = torch.arange(n, dtype=torch.float64)
        s = torch.sin(0.37 * i * (1 + 0.001 * k) + k)
        if name.endswith(".num_batches_tracked"):
            value = torch.zeros(n, dtype=torch.long)
        elif name.endswith(".running_var"):
            value = 1 + 0.5 * s.abs()
        elif name.endswith((".running_mean", ".bias")) and len(shape) < 2:
            value = 0.1 * s
        elif len(shape) > 1:
            value = s * 1.4 * (2 / (n / shape[0])) ** 0.5
        else:
            value = 1 + 0.1 * s
        values[name] = value.reshape(shape)
    return values


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101", "resnext50_32x4d", "wide_resnet50_2"])
def test_reference_outputs(name: str, facts_folder: Path) -> None:
    reference = json.loads((facts_folder / "reference_outputs.json").read_text())[name]
    with torch.device("meta"):
        net = nets.build(name)
    state = net.state_dict()
    assert {key: list(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")} == {
        key: shape for key, shape in reference["state"].items() if not key.endswith("num_batches_tracked")
    }
    net.load_state_dict(filled(state), strict=True, assign=True)
    size = torch.Size(reference["input"])
    x = torch.sin(0.013 * torch.arange(size.numel(), dtype=torch.float64)).reshape(1, *size)
    # float32 as users compute; the figures were made in float64
    with torch.no_grad():
        out = net.float().eval()(x.float()).flatten()
    expected = torch.tensor(reference["first"])
    assert len(out) == reference["output_shape_flat"]
    torch.testing.assert_close(out[:8], expected, rtol=1e-4, atol=1e-4 * reference["std"])
    assert out.mean().item() == pytest.approx(reference["mean"], rel=1e-3, abs=1e-4 * reference["std"])
    assert out.std().item() == pytest.approx(reference["std"], rel=2e-3)  # with or without Bessel's correction


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
