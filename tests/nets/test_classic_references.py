"""Outputs of AlexNet, VGG and SqueezeNet for rule-made weights, which NEOCOG_FACTS holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from nets.test_published import filled

from neocog import nets

_LARGE = pytest.mark.slow


@pytest.mark.parametrize(
    "name",
    ["squeezenet1_0", *(pytest.param(name, marks=_LARGE) for name in ("alexnet", "vgg11", "vgg16", "vgg16_bn"))],
)
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
    with torch.no_grad():
        out = net.float().eval()(x.float()).flatten()
    assert len(out) == reference["output_shape_flat"]
    torch.testing.assert_close(out[:8], torch.tensor(reference["first"]), rtol=1e-4, atol=1e-4 * reference["std"])
    assert out.mean().item() == pytest.approx(reference["mean"], rel=1e-3, abs=1e-4 * reference["std"])
    assert out.std().item() == pytest.approx(reference["std"], rel=2e-3)  # with or without Bessel's correction
