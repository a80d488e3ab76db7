"""Comparisons: what is read from published accuracies, the table, and a plot that can be read."""

from __future__ import annotations

import csv
import io
import json
import math
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neocog import nets
from neocog.anatomy.compare import Comparison, Published, compare, place_labels, published
from neocog.anatomy.trace import trace
from neocog.anatomy.whole import Anatomy
from neocog.errors import UsageError

SVG = "{http://www.w3.org/2000/svg}"
NAMES = "alexnet vgg16 googlenet resnet18 resnet50 mobilenet_v1 lenet5 cifar_resnet20".split()


@pytest.fixture(scope="module")
def anatomies() -> dict[str, Anatomy]:
    found = {}
    for name in NAMES:
        with torch.device("meta"):
            net = nets.build(name)
        found[name] = trace(net, nets.facts(name).input, name=name)
    return found


@pytest.fixture(scope="module")
def comparison(anatomies: dict[str, Anatomy]) -> Comparison:
    facts = {name: nets.facts(name) for name in NAMES}
    return compare(anatomies, {n: f.accuracy for n, f in facts.items()}, {n: f.year for n, f in facts.items()})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ImageNet top-1 76.13 %, top-5 92.86 % (torchvision weights, 1 crop)", Published("ImageNet", 76.13)),
        ("ImageNet top-1 75.3 %, top-5 92.2 % (Caffe release, 1 crop)", Published("ImageNet", 75.3)),
        ("ImageNet top-1 78.8 % (authors' README, 1 crop)", Published("ImageNet", 78.8)),
        ("ImageNet top-5 92.2 %, top-1 75.3 %", Published("ImageNet", 75.3)),
        ("CIFAR-10 91.25 %", Published("CIFAR-10", 91.25)),
        ("CIFAR-10 94.76 % with augmentation (paper)", Published("CIFAR-10", 94.76)),
        ("MNIST 99.05 % (99.2 % with distortions)", Published("MNIST", 99.05)),
        ("ImageNet, top-1 error 23.9%", Published("ImageNet", 76.1)),
        ("SVHN error 1.59 %", Published("SVHN", 98.41)),
        ("LFW 97.00 % (one net), 97.35 % (several nets)", Published("LFW", 97.0)),
        ("Sports-1M 60.0 % of videos, 84.4 % in the top five", Published("Sports-1M", 60.0)),
        ("B, D, G of three speakers 98.5 %", Published("B, D, G of three speakers", 98.5)),
        ("ImageNet top-5 83.5 % (paper, 1 net)", None),
        ("PASCAL VOC 2011 seg11valid mean IU 65.5 % (authors' released model)", None),
        ("ISBI cell tracking 2015, PhC-U373, IU 92 %", None),
        ("above 75 % of the human score in 29 of 49 Atari games", None),
        ("above a human expert in 3 of 7 Atari games", None),
        ("", None),
        ("ImageNet top-1 176 %", None),
    ],
)
def test_published_accuracies_are_read(text: str, expected: Published | None) -> None:
    assert published(text) == expected


def test_every_string_of_the_resnets_is_read() -> None:
    told = {name: published(nets.facts(name).accuracy) for name in nets.names() if nets.facts(name).family == "resnet"}
    with_text = {name for name in told if nets.facts(name).accuracy}
    assert {name for name, value in told.items() if value is not None} == with_text
    assert {value.data for value in told.values() if value} == {"ImageNet"}
    assert told["resnet152"] == Published("ImageNet", 78.31)
    assert told["resnext101_64x4d"] == Published("ImageNet", 79.6)


@given(st.text())
def test_no_text_breaks_the_reading(text: str) -> None:
    found = published(text)
    assert found is None or 0 <= found.top1 <= 100


def test_table(comparison: Comparison) -> None:
    rows = {row["net"]: row for row in comparison.rows()}
    assert list(rows) == NAMES
    assert rows["resnet50"] | {
        "year": "2015", "input": "3 x 224 x 224", "parameters": "25,557,032", "MACs": "4,089,184,256",
        "receptive field": "427", "layers with weights": "54",
    } == rows["resnet50"]  # fmt: skip
    assert "ImageNet top-1 71.59 %" in rows["vgg16"]["accuracy"]
    text = comparison.to_text()
    assert all(name in text for name in NAMES) and "15,470,264,320" in text
    found = json.loads(comparison.to_json())
    assert [entry["macs"] for entry in found["entries"]][:2] == [714_188_480, 15_470_264_320]
    assert found["entries"][1]["published"] == {"data": "ImageNet", "top1": 71.59}
    lines = list(csv.DictReader(io.StringIO(comparison.to_csv())))
    assert [line["name"] for line in lines] == NAMES and lines[4]["top1"] == "76.13"


def test_figures_are_for_one_example() -> None:
    net = torch.nn.Linear(4, 2)
    one, many = (compare([trace(net, torch.zeros(n, 4), name="net")]).entries[0] for n in (1, 16))
    assert (one.macs, one.params, one.peak_bytes) == (many.macs, many.params, many.peak_bytes)


def circles(svg: str) -> dict[str, tuple[float, float, float]]:
    """Circles by the name in their tooltip."""
    found = {}
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        title, circle = group[0].text or "", group[1]
        found[title.split(":")[0]] = (
            float(circle.get("cx", "")),
            float(circle.get("cy", "")),
            float(circle.get("r", "")),
        )
    return found


def test_plot_is_to_scale(comparison: Comparison) -> None:
    svg = comparison.to_svg()
    assert svg == comparison.to_svg()
    at = circles(svg)
    assert set(at) == set(NAMES) - {"lenet5", "cifar_resnet20"}
    per_decade = (at["vgg16"][0] - at["resnet18"][0]) / math.log10(15_470_264_320 / 1_814_073_344)
    assert at["resnet50"][0] - at["alexnet"][0] == pytest.approx(
        per_decade * math.log10(4_089_184_256 / 714_188_480), abs=0.3
    )
    per_percent = (at["alexnet"][1] - at["resnet50"][1]) / (76.13 - 56.52)
    assert at["alexnet"][1] - at["vgg16"][1] == pytest.approx(per_percent * (71.59 - 56.52), abs=0.3)
    assert (at["alexnet"][2] / at["vgg16"][2]) ** 2 == pytest.approx(61_100_840 / 138_357_544, rel=0.02)
    words = "\n".join(node.text or "" for node in ElementTree.fromstring(svg).iter(f"{SVG}text"))
    assert "lenet5" in words and "cifar_resnet20" in words and "CIFAR-10 91.25 %" in words  # below the plot
    assert "ImageNet top-1 accuracy against MACs" in words


def test_nets_without_any_accuracy_are_listed(anatomies: dict[str, Anatomy]) -> None:
    svg = compare({"lenet5": anatomies["lenet5"]}).to_svg()
    assert not circles(svg) and "lenet5" in svg


def test_one_net_and_nasty_names(anatomies: dict[str, Anatomy]) -> None:
    nasty = "<b>&\"'"
    found = compare({nasty: anatomies["resnet18"]}, {nasty: "ImageNet top-1 69.76 % <i>"})
    texts = {node.text for node in ElementTree.fromstring(found.to_svg()).iter(f"{SVG}text")}
    assert nasty in texts
    assert "<b>" not in found.to_html() and "<i>" not in found.to_html()


def test_lists_instead_of_names(anatomies: dict[str, Anatomy]) -> None:
    a = anatomies["resnet18"]
    found = compare([a, a], ["ImageNet top-1 1 %", ""], [2015, None])
    assert [e.name for e in found.entries] == ["resnet18", "resnet18 (2)"]
    assert found.entries[0].published == Published("ImageNet", 1.0) and found.entries[1].year is None
    with pytest.raises(UsageError, match="as many years as nets \\(2\\), got 1"):
        compare([a, a], years=[2015])
    with pytest.raises(UsageError, match="got none"):
        compare({})


@given(
    st.lists(
        st.tuples(
            st.floats(70, 820), st.floats(60, 460), st.floats(3, 38), st.text("abcdefgh_012", min_size=1, max_size=18)
        ),
        max_size=25,
    )
)
def test_labels_never_overlap(nets_: list[tuple[float, float, float, str]]) -> None:
    taken = [(700.0, 380.0, 830.0, 470.0)]
    placed = place_labels([n[:3] for n in nets_], [n[3] for n in nets_], taken)
    everything = placed + taken
    for k, a in enumerate(everything):
        for b in everything[k + 1 :]:
            assert not (a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])


def test_a_label_stands_beside_a_lonely_circle() -> None:
    ((left, top, right, bottom),) = place_labels([(300.0, 200.0, 10.0)], ["net"])
    assert left == pytest.approx(312) and top < 200 < bottom and right > left
