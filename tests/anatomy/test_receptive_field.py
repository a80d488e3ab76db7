"""Receptive fields: against the pixels that really matter (by gradients), and against the published table."""

from __future__ import annotations

import csv
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from anatomy.published_fields import NOT_A_LAYER, where
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neocog import nets
from neocog.anatomy.record import Field
from neocog.anatomy.trace import trace


def seen(net: nn.Module, size: int, channels: int = 1) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """First pixel, last pixel and position of the middle unit of the last map, by rows and by columns; exactly.

    All weights are positive, so that no two paths cancel; a picture of positive numbers keeps every ReLU open.
    """
    for p in net.parameters():
        p.data = torch.rand(p.shape, dtype=torch.float64) + 0.1
    net.double().eval()
    x = torch.ones(1, channels, size, size, dtype=torch.float64, requires_grad=True)
    out = net(x)
    row, column = out.shape[2] // 2, out.shape[3] // 2
    (gradient,) = torch.autograd.grad(out[:, :, row, column].sum(), x)
    touched = gradient.abs().sum((0, 1)) > 0
    rows, columns = touched.any(1).nonzero().flatten(), touched.any(0).nonzero().flatten()
    return (int(rows[0]), int(columns[0])), (int(rows[-1]), int(columns[-1])), (row, column)


def agrees(net: nn.Module, size: int, channels: int = 1) -> Field:
    field = trace(net, (channels, size, size)).receptive_field
    assert field is not None
    first, last, middle = seen(net, size, channels)
    for axis in range(2):
        start = middle[axis] * field.stride[axis] - field.padding[axis]
        assert first[axis] == max(0, start)
        assert last[axis] == min(size - 1, start + field.size[axis] - 1)
    return field


class Sum(nn.Module):
    """Two paths with the same output size, added."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.other(x)


class Cat(Sum):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.one(x), self.other(x)), 1)


@st.composite
def layers(draw: st.DrawFn) -> nn.Module:
    parts: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 5))):
        k, s, d = draw(st.integers(1, 4)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
        p = draw(st.integers(0, k // 2))
        kind = draw(st.sampled_from(["conv", "average", "relu", "skip", "pad"]))
        if kind == "conv":
            parts.append(nn.Conv2d(1, 1, k, s, p, d, bias=False))
        elif kind == "average":
            parts.append(nn.AvgPool2d(k, s, p))
        elif kind == "relu":
            parts.append(nn.ReLU())
        elif kind == "pad":
            parts.append(nn.ZeroPad2d((p, 0, 1, 0)))
        else:
            k = 2 * draw(st.integers(0, 2)) + 1
            parts.append(Sum(nn.Conv2d(1, 1, k, s, k // 2, bias=False), nn.Conv2d(1, 1, 3, s, 1, bias=False)))
    return nn.Sequential(*parts)


@settings(max_examples=60)
@given(net=layers())
def test_field_is_the_pixels_that_matter(net: nn.Module) -> None:
    if trace(net, (1, 150, 150)).outputs[0][-1] > 2:
        agrees(net, 150)


def test_branches_keep_the_union() -> None:
    field = agrees(Cat(nn.Conv2d(1, 1, 5, padding=2, bias=False), nn.Conv2d(1, 1, 1, bias=False)), 20)
    assert (field.size, field.padding, field.aligned) == ((5, 5), (2, 2), True)
    field = agrees(Sum(nn.Conv2d(1, 1, 3, padding=2, bias=False), nn.Conv2d(1, 1, 1, padding=1, bias=False)), 20)
    assert (field.size, field.padding, field.aligned) == ((3, 3), (2, 2), True)
    field = agrees(Sum(nn.ZeroPad2d((2, 0, 2, 0)), nn.ZeroPad2d((0, 2, 0, 2))), 20)
    assert (field.size, field.padding, field.aligned) == ((3, 3), (2, 2), False)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(4, 2, 1), (2, 2, 0), (3, 1, 1), (16, 8, 4), (3, 2, 1)])
def test_transposed_convolution_sees_what_its_best_position_sees(kernel: int, stride: int, padding: int) -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3, bias=False), nn.ConvTranspose2d(1, 1, kernel, stride, padding, bias=False))
    field = trace(net, (1, 20, 20)).receptive_field
    assert field is not None
    seen(net, 20)
    x = torch.ones(1, 1, 20, 20, dtype=torch.float64, requires_grad=True)
    out = net(x)
    widths = []
    for column in range(out.shape[3] // 2, out.shape[3] // 2 + stride):
        (gradient,) = torch.autograd.grad(out[0, 0, out.shape[2] // 2, column], x, retain_graph=True)
        widths.append(int((gradient.abs().sum((0, 1, 2)) > 0).sum()))
    assert field.size[1] == max(widths)
    assert field.stride[1] * stride == 1
    # the centre is right on average over a rhythm of positions
    middles = []
    for column in range(4 * stride, 5 * stride):
        (gradient,) = torch.autograd.grad(out[0, 0, out.shape[2] // 2, column], x, retain_graph=True)
        touched = (gradient.abs().sum((0, 1, 2)) > 0).nonzero().flatten()
        start = column * field.stride[1] - field.padding[1]
        middles.append(float(touched[0] + touched[-1]) / 2 - float(start + Fraction(field.size[1] - 1, 2)))
    assert sum(middles) / len(middles) == pytest.approx(0)


@pytest.mark.parametrize("name", ["fcn8s_vgg16", "fcn16s_vgg16", "unet", "unet_original"])
def test_skips_of_segmentation_nets_are_centred(name: str) -> None:
    with torch.device("meta"):
        net = nets.build(name)
    field = trace(net, nets.facts(name).input, training_memory=False).receptive_field
    assert field is not None
    assert field.aligned
    assert field.stride == (1, 1)


def test_fully_connected_layer_sees_what_the_map_saw() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 5, 2, 2), nn.Flatten(), nn.Linear(4 * 8 * 8, 10))
    field = trace(net, (3, 16, 16)).layer("2").field
    assert field == Field((5 + 7 * 2,) * 2, (2, 2), (2, 2))


def test_a_gate_over_the_whole_picture_is_told() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return x * self.fc(x.mean((2, 3)))[:, :, None, None]

    field = trace(Gate(), (3, 16, 16)).receptive_field
    assert field == Field((3, 3), (1, 1), (1, 1), whole=True)


def test_dilated_convolutions_double_it() -> None:
    """Yu, Koltun 2016: dilations 1, 2, 4 see 3, 7, 15."""
    net = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=d, dilation=d) for d in (1, 2, 4)))
    sizes = [layer.field.size[0] for layer in trace(net, (1, 32, 32)).layers if layer.field]
    assert sizes == [3, 7, 15]


def test_bilinear_and_nearest_enlargement() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3, bias=False), nn.Upsample(scale_factor=2, mode="bilinear"))
    field = trace(net, (1, 20, 20)).receptive_field
    assert field == Field((4, 4), (Fraction(1, 2),) * 2, (Fraction(3, 4),) * 2)


def test_closed_forms() -> None:
    """Two 3x3 see 5x5, three 7x7 (Simonyan, Zisserman 2015, 2.3); L of KxK see 1 + L (K - 1)."""
    for length, kernel in ((2, 3), (3, 3), (4, 5), (7, 2)):
        net = nn.Sequential(*(nn.Conv2d(1, 1, kernel, padding="same") for _ in range(length)))
        field = trace(net, (1, 64, 64)).receptive_field
        assert field is not None
        assert field.size[0] == 1 + length * (kernel - 1)
        if kernel % 2:
            assert field.padding[0] == length * (kernel - 1) // 2


_FILE = Path(os.environ.get("NEOCOG_FACTS") or "no folder") / "receptive_fields.csv"


def _rows() -> list[Any]:
    if not _FILE.is_file():
        reason = "NEOCOG_FACTS is not set to a folder with receptive_fields.csv"
        return [pytest.param(None, None, marks=pytest.mark.skip(reason=reason))]
    groups: dict[tuple[str, int], list[dict[str, str]]] = {}
    with _FILE.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if row["arch"] not in NOT_A_LAYER:
                groups.setdefault((row["arch"], 321 if "input 321" in row["layer"] else 0), []).append(row)
    return [pytest.param(rows, size, id=f"{arch} {size or ''}") for (arch, size), rows in groups.items()]


@pytest.mark.parametrize(("rows", "size"), _rows())
def test_published_fields(rows: list[dict[str, str]], size: int) -> None:
    """Every row of the table: size, stride and padding; "any input" rows leave the padding open."""
    name, options, _ = where(rows[0]["arch"], rows[0]["layer"])
    usual = nets.facts(name).input
    side = size or (224 if usual[-1] > 224 and "alexnet" not in name else usual[-1])
    with torch.device("meta"):
        net = nets.build(name, input_size=side, **options)
    anatomy = trace(net, (usual[0], side, side), training_memory=False)
    fields = {total.name: total.field for total in anatomy.totals()}
    found = {row["layer"]: fields[where(row["arch"], row["layer"])[2]] for row in rows}
    for row in rows:
        field = found[row["layer"]]
        assert field is not None
        for column, value in (
            ("receptive_field", field.size),
            ("stride", field.stride),
            ("padding", field.padding),
        ):
            if row[column]:
                assert (value[0], value[1]) == (int(row[column]),) * 2, (row["layer"], column)
