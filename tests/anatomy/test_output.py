"""The table, the totals, JSON, CSV and pages of an Anatomy."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from fractions import Fraction
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neocog import nets
from neocog.anatomy import output
from neocog.anatomy.trace import trace
from neocog.anatomy.whole import Anatomy

VOID = {"meta", "br", "hr", "link", "input", "img"}
NASTY = "<script>alert('x')</script>&\"quoted\""


def zoo(name: str) -> Anatomy:
    with torch.device("meta"):
        net = nets.build(name)
    return trace(net, nets.facts(name).input, name=name)


class Outline(HTMLParser):
    """Checks nesting, collects tags and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize("name", ["lenet5", "resnet50", "googlenet", "unet_original"])
@pytest.mark.parametrize("depth", [1, 2, None])
@pytest.mark.parametrize("fold", [True, False])
def test_rows_add_up_to_the_totals(name: str, depth: int | None, fold: bool) -> None:
    a = zoo(name)
    rows = output.rows(a, depth, fold)
    assert max(row.level for row in rows) < (depth or 99)
    for figure in ("params", "macs", "others", "output_bytes", "saved_bytes"):
        top = sum(getattr(row, figure) for row in rows if row.level == 0)
        assert top == sum(getattr(layer, figure) for layer in a.layers)
    for k, row in enumerate(rows):  # and every module is the sum of what it contains
        inner = []
        for below in rows[k + 1 :]:
            if below.level <= row.level:
                break
            inner += [below] if below.level == row.level + 1 else []
        assert row.folds == bool(inner)
        if inner:
            assert row.macs == sum(x.macs for x in inner)
            assert row.params == sum(x.params for x in inner)
            assert sorted(row.layers) == sorted(i for x in inner for i in x.layers)


def test_identical_blocks_are_one_row() -> None:
    rows = output.rows(zoo("resnet50"), depth=2)
    named = {row.name: row for row in rows}
    assert [row.name for row in rows if row.level == 1 and row.name.startswith("layer3")] == [
        "layer3.0",
        "layer3.1 - layer3.5",
    ]
    folded = named["layer3.1 - layer3.5"]
    assert folded.label == "Bottleneck x5"
    assert folded.params == 5 * 1_117_184 and folded.macs == 5 * 218_365_952
    assert folded.cells()[:3] == ("  layer3.1 - layer3.5", "Bottleneck x5", "1024 x 14 x 14")
    assert len(folded.cells()) == len(output.COLUMNS)
    assert "layer3.4" in {row.name for row in output.rows(zoo("resnet50"), fold=False)}
    with pytest.raises(ValueError, match="from 1, got 0"):
        output.rows(zoo("lenet5"), depth=0)


def test_text_of_lenet() -> None:
    text = output.to_text(zoo("lenet5"))
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert lines["conv2"].split() == ["conv2", "Conv2d", "16", "x", "10", "x", "10", "2,416", "240,000", "6.25", "KiB",
                                      "4.59", "KiB", "14", "2", "0"]  # fmt: skip
    assert "61,706" in text and "416,520" in text and "833,040 (2 x MACs)" in text
    assert "receptive field" in text and "NOT COUNTED" not in text
    assert str(zoo("lenet5")) == text


class Odd(nn.Module):
    """Frozen, unused, shared and called twice; and an operator that a reader must be told of."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.idle = nn.Linear(4, 9)
        self.register_buffer("count", torch.zeros(7))

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(self.twice(self.twice(x)))


def test_totals_say_what_is_frozen_unused_and_for_how_many_examples() -> None:
    a = trace(Odd(), torch.zeros(3, 4), name="odd")
    a = dataclasses.replace(a, uncounted={"aten.frobnicate": 2, "aten.other": 1}, notes=("left out: nothing",))
    told = dict(output.summary(a))
    assert told["input"] == "4 (3 examples; operations and memory are for all of them)"
    assert told["parameters"] == "85 (340 B), 20 of them frozen"
    assert told["never read"] == "2 parameters: idle.weight, idle.bias"
    assert told["MACs"] == str(3 * 3 * 16)
    assert told["NOT COUNTED"].startswith("2 operators: aten.frobnicate x2, aten.other;")
    assert told["note"] == "left out: nothing"
    assert told["numbers in buffers"] == "7"
    labels = {row.name: row.label for row in output.rows(a)}
    assert labels == {"twice": "Linear, 2 calls", "frozen": "Linear"}
    for text in (output.to_text(a), output.to_html(a)):
        assert "aten.frobnicate" in text and "idle.weight" in text


def test_json_holds_everything_as_plain_numbers() -> None:
    a = zoo("unet_original")  # transposed convolutions
    assert any(isinstance(s, Fraction) for x in trace(_Grow(), (1, 8, 8)).layers if x.field for s in x.field.stride)
    found = json.loads(output.to_json(a))
    assert found == json.loads(json.dumps(a.as_dict()))
    assert found["params"] == 31_030_658 and found["macs"] == 150_428_424_448
    assert found["flops"] == 2 * found["macs"] == sum(layer["flops"] for layer in found["layers"])
    assert found["inputs"] == [[1, 1, 572, 572]]
    assert len(found["layers"]) == len(a.layers)
    first = found["layers"][0]
    assert first["settings"]["kernel"] == [3, 3] and first["field"]["size"] == [3, 3]
    half = json.loads(output.to_json(trace(_Grow(), (1, 8, 8))))
    assert half["layers"][-1]["field"]["stride"] == [0.5, 0.5]


class _Grow(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.ConvTranspose2d(1, 1, 2, 2))


def test_csv_has_a_line_for_each_layer() -> None:
    a = zoo("resnet18")
    lines = list(csv.DictReader(io.StringIO(output.to_csv(a))))
    assert len(lines) == len(a.layers)
    assert sum(int(line["macs"]) for line in lines) == a.macs
    assert sum(int(line["flops"]) for line in lines) == a.flops
    assert lines[0] | {"sources": "-1", "kernel": "7x7", "output": "64x112x112", "receptive_field": "7x7"} == lines[0]


@pytest.mark.parametrize("name", ["lenet5", "resnet18", "googlenet"])
def test_page_is_one_document_without_outside_resources(name: str) -> None:
    a = zoo(name)
    html = output.to_html(a)
    outline = Outline(html)
    assert html.startswith("<!DOCTYPE html>")
    for tag, attributes in outline.tags:
        assert tag not in ("script", "link", "img")
        for key in ("src", "href"):
            assert (attributes.get(key) or "#").startswith("#")
    assert [a_["id"] for tag, a_ in outline.tags if tag == "section"] == ["totals", "drawing", "layers"]
    assert sum(tag == "svg" for tag, _ in outline.tags) == 1
    assert sum(tag == "details" for tag, _ in outline.tags) == sum(row.folds for row in output.rows(a))
    shares = [a_["style"] for _, a_ in outline.tags if (a_.get("class") or "") == "num share"]
    assert all(0 <= float(str(s)[4:-1]) <= 100 for s in shares) and shares


def test_fragment_for_notebooks() -> None:
    html = zoo("lenet5")._repr_html_()
    outline = Outline(html)
    assert "<html" not in html and outline.tags[0][0] == "div"
    assert "lenet5" in outline.words
    assert "<svg" not in output.to_html(zoo("lenet5"), page=False, drawing=False)


def test_names_are_escaped() -> None:
    net = nn.Sequential()
    net.add_module(NASTY.replace(".", ""), nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()))
    html = output.to_html(trace(net, (1, 9, 9), name=NASTY))
    assert "<script" not in html
    assert NASTY in "".join(Outline(html).words)


@pytest.mark.parametrize("net", [nn.Identity(), nn.Sequential(), nn.Linear(3, 4)])
def test_the_smallest_nets_have_a_table(net: nn.Module) -> None:
    a = trace(net, (3,))
    assert output.to_text(a) and Outline(output.to_html(a)).tags
    assert sum(row.macs for row in output.rows(a)) == a.macs


def test_numbers_as_people_read_them() -> None:
    assert [output.bytes_text(n) for n in (0, 1023, 1024, 3 * 2**20, 5 * 2**31)] == [
        "0 B", "1023 B", "1.00 KiB", "3.00 MiB", "10.00 GiB",
    ]  # fmt: skip
    assert output.shape_text((64, 7, 7)) == "64 x 7 x 7" and output.shape_text(()) == "1"
