"""Every repository of ImageNet weights computes the same function as the net here that loads it.

scripts/make_timm_outputs.py made the outputs with timm, for weights and pictures by a rule.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from nets.reference import checksum, filled, picture, shapes_of
from safetensors.torch import save_file

from neocog import nets
from neocog.nets.hub import REPOSITORIES
from neocog.nets.weights import load_weights, preprocess_for

_KNOWN = json.loads(Path(__file__).with_name("timm_outputs.json").read_text(encoding="utf-8"))
_LARGE = 60_000_000  # parameters; half a gigabyte in float64


@pytest.mark.parametrize("name", REPOSITORIES)
def test_pictures_are_prepared_as_in_timm_also_without_a_description(name: str, tmp_path: Path) -> None:
    """The hub's config.json is fetched beside the weights, but a copied file may have nothing beside it."""
    save_file({"weight": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    found = preprocess_for(tmp_path / f"{name}.safetensors", name)
    assert [found.size, found.resize, list(found.mean), list(found.std)] == _KNOWN[name]["preprocess"]


def test_the_outputs_of_every_repository_are_known() -> None:
    assert set(_KNOWN) - {"_about"} == set(REPOSITORIES)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if nets.facts(name).params > _LARGE else ()) for name in REPOSITORIES],
)
def test_repositories_compute_what_timm_computes(name: str) -> None:
    known = _KNOWN[name]
    with torch.device("meta"):
        net = nets.build(name).double()
    if "state" in known:  # other names than here
        state = {key: torch.empty(shape, device="meta") for key, shape in known["state"].items()}
    else:
        state = net.state_dict()
        assert checksum(shapes_of(net)) == known["checksum"]
    load_weights(net, filled(state))
    net.eval()
    for expected in known["outputs"]:
        with torch.no_grad():
            out = net(picture(expected["input"])).flatten()
        scale = expected["std"]
        assert len(out) == 1000
        assert out[:4].tolist() == pytest.approx(expected["first"], rel=1e-6, abs=1e-6 * scale)
        assert out.mean().item() == pytest.approx(expected["mean"], rel=1e-6, abs=1e-6 * scale)
        assert out.std().item() == pytest.approx(scale, rel=1e-6)
