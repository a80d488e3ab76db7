"""Outputs of AlexNet, VGG and SqueezeNet for rule-made weights, which NEOCOG_FACTS holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from nets.reference import check_against_reference

_LARGE = pytest.mark.slow


@pytest.mark.parametrize(
    "name",
    ["squeezenet1_0", *(pytest.param(name, marks=_LARGE) for name in ("alexnet", "vgg11", "vgg16", "vgg16_bn"))],
)
def test_reference_outputs(name: str, facts_folder: Path) -> None:
    check_against_reference(name, name, facts_folder)
