"""Published figures and reference outputs as checks that several test files use."""

from __future__ import annotations

import csv
import json
from collections.abc import Container, Sequence
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neocog import nets


def rows_of(folder: Path, archs: Container[str]) -> list[dict[str, str]]:
    """Return the exact rows of zoo.csv for some values of its column `arch`."""
    with (folder / "zoo.csv").open(newline="", encoding="utf-8") as lines:
        return [row for row in csv.DictReader(lines) if row["arch"] in archs and "[EXACT" in row["how_counted"]]


def filled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Values by the rule that stands in reference_outputs.json, float64."""
    values = {}
    for k, name in enumerate(sorted(state)):
        shape = state[name].shape
        n = shape.numel()
        s = sines(n, 0.37 * (1 + 0.001 * k), k)
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


def sines(n: int, step: float, start: float) -> Tensor:
    """sin(step * i + start) of i below n, float64; sin(a + b) of 4,096 b at a time costs a fifth of so many sines."""
    b = step * torch.arange(min(n, 4096), dtype=torch.float64)
    a = step * torch.arange(0, n, 4096, dtype=torch.float64)[:, None] + start
    return torch.addcmul(a.sin() * b.cos(), a.cos(), b.sin()).flatten()[:n]


def picture(size: Sequence[int]) -> Tensor:
    """The input by the rule of reference_outputs.json, float64: (1, C, H, W)."""
    return torch.sin(0.013 * torch.arange(prod(size), dtype=torch.float64)).reshape(1, *size)


def shapes_of(net: nn.Module) -> dict[str, list[int]]:
    """Names and shapes of a state dict, sorted."""
    return {key: list(value.shape) for key, value in sorted(net.state_dict().items())}


def checksum(shapes: dict[str, list[int]]) -> str:
    """A short text that differs where names or shapes differ."""
    return sha256(json.dumps(shapes).encode()).hexdigest()[:16]


def check_against_reference(name: str, reference: str, folder: Path, **options: Any) -> None:
    """Build a net, fill it by the rule of reference_outputs.json, and compare names, shapes and outputs."""
    expected = json.loads((folder / "reference_outputs.json").read_text())[reference]
    with torch.device("meta"):
        net = nets.build(name, **options)
    state = net.state_dict()
    counters = "num_batches_tracked"  # which early checkpoints do not have
    shapes, known = (
        {key: shape for key, shape in given.items() if not key.endswith(counters)}
        for given in (shapes_of(net), expected["state"])
    )
    assert shapes == known
    net.load_state_dict(filled(state), strict=True, assign=True)
    with torch.no_grad():  # float32 as users compute; the figures were made in float64
        out = net.float().eval()(picture(expected["input"]).float()).flatten()
    assert len(out) == expected["output_shape_flat"]
    scale = expected["std"]
    torch.testing.assert_close(out[:8], torch.tensor(expected["first"]), rtol=1e-4, atol=1e-4 * scale)
    assert out.mean().item() == pytest.approx(expected["mean"], rel=1e-3, abs=1e-4 * scale)
    assert out.std().item() == pytest.approx(scale, rel=2e-3)
