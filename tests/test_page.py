"""Self-contained HTML: nothing from outside, everything escaped, readable without seeing."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from neocog import charts, page

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Outline(HTMLParser):
    """Checks nesting, collects tags, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(html)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


NASTY = "<script>alert('x')</script>&\"quoted\""


def test_a_page_is_one_document_without_outside_resources():
    body = page.paragraph("hello") + page.thumbnail(np.zeros((8, 8, 3), np.uint8), caption="black")
    html = page.page("Report", [("One", body), ("Two", ""), ("One", ""), ("!!", "")], subtitle="all of it")
    outline = Outline(html)
    assert html.startswith("<!DOCTYPE html>")
    assert [a["id"] for a in outline.all("section")] == ["one", "two", "one-2", "section"]
    assert [a["href"] for a in outline.all("a")] == ["#one", "#two", "#one-2", "#section"]
    for _, attributes in outline.tags:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "url(" not in html and "@import" not in html and "prefers-color-scheme" in html and "@media print" in html


def test_everything_that_comes_from_outside_is_escaped():
    picture = np.zeros((4, 4), np.uint8)
    parts = [
        page.paragraph(NASTY),
        page.table([{NASTY: NASTY}]),
        page.thumbnail(picture, caption=NASTY),
        page.thumbnail(picture, alt=NASTY),
        charts.line_chart({NASTY: [(0, 1), (1, 2)]}, x=NASTY, y=NASTY),
        charts.bar_chart({NASTY: 3}, x=NASTY, y=NASTY),
        charts.bar_chart({NASTY: 3}, x=NASTY, y=NASTY, upright=True),
        charts.heatmap([[1, 2], [3, 4]], [NASTY, "b"], [NASTY, "b"]),
    ]
    html = page.page(NASTY, [(NASTY, "".join(parts))], subtitle=NASTY)
    outline = Outline(html)
    assert "<script" not in html
    assert not outline.all("script")
    assert NASTY in "".join(outline.words)


@given(st.text(max_size=30), st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3))
@settings(deadline=None, max_examples=60)
def test_any_text_gives_a_well_formed_table(title, row):
    Outline(page.page(title, [(title, page.table([row, {"a": title}]))], subtitle=title))


def test_tables_join_the_columns_of_all_rows_and_keep_html_cells():
    html = page.table([{"a": 1, "b": 0.123456}, {"c": page.Html("<b>x</b>"), "b": float("nan")}], numeric=("b",))
    outline = Outline(html)
    assert [a.get("scope") for a in outline.all("th")] == ["col"] * 3
    assert "0.1235" in html and "<b>x</b>" in html and '<td class="n">-</td>' in html
    assert len(outline.all("td")) == 6
    assert "Nothing" in page.table([])


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 3), (300, 200, 3), (300, 200), (1, 900, 3)])
def test_thumbnails_carry_the_picture_and_its_description(shape):
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    (image,) = Outline(page.thumbnail(picture, size=96, caption="a cat")).all("img")
    assert image["alt"] == "a cat"
    assert max(int(image["width"]), int(image["height"])) == 96
    kind, data = re.fullmatch(r"data:image/(\w+);base64,(.*)", image["src"]).groups()
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    if max(shape[:2]) <= 64:  # tiny pictures are shown exactly
        assert kind == "png" and (back == picture.reshape(back.shape)).all()
    else:
        assert max(back.shape[:2]) <= 192


def test_a_line_chart_shows_names_units_and_values():
    outline = Outline(charts.line_chart({"train": [(1, 2.5), (2, 1.25)], "val": [(1, 3.0)]}, x="epoch", y="loss"))
    words = outline.words
    assert {"train", "val", "epoch", "loss"} <= set(words)
    assert "train: 1.25 at epoch 2" in words
    assert "loss against epoch" in outline.all("svg")[0]["aria-label"]


def test_a_point_that_is_not_finite_breaks_the_line():
    points = [(0, 1.0), (1, 2.0), (2, float("nan")), (3, 2.0), (4, float("inf")), (5, 1.0), (6, 2.0)]
    (path,) = [a["d"] for a in Outline(charts.line_chart({"a": points}, x="x", y="y")).all("path") if "stroke" in a]
    assert path.count("M") == 3 and "nan" not in path and "inf" not in path
    assert "Nothing to draw" in charts.line_chart({"a": [(0, float("nan"))]}, x="x", y="y")
    assert "Nothing to draw" in charts.line_chart({}, x="x", y="y")


def test_logarithmic_axes_have_decades_and_leave_out_what_is_not_positive():
    points = [(10.0**e, 10.0 ** (e / 2)) for e in range(-6, 1)] + [(0.0, 1.0)]
    outline = Outline(charts.line_chart({"a": points}, x="lr", y="loss", log_x=True, log_y=True))
    assert {"1e-06", "0.01", "1"} <= set(outline.words)
    xs = [float(a["cx"]) for a in outline.all("circle")]
    assert len(xs) == 7
    assert np.allclose(np.diff(xs), np.diff(xs)[0], atol=0.11)  # equal ratios are equal distances


def test_a_scatter_chart_has_a_mark_for_each_point_and_the_line_where_both_are_equal():
    outline = Outline(charts.scatter_chart([(1.0, 2.0), (3.0, 3.0), (float("nan"), 1.0)], x="true <age>", y="answered"))
    marks = list(outline.all("circle"))
    assert len(marks) == 2
    (line,) = [a["d"] for a in outline.all("path") if "stroke" in a]
    (x0, y0), (x1, y1) = (map(float, end.split()) for end in line[1:].split("L"))
    cx, cy = float(marks[1]["cx"]), float(marks[1]["cy"])  # 3 answered for 3
    assert abs((cx - x0) * (y1 - y0) - (cy - y0) * (x1 - x0)) < 0.5 * abs(x1 - x0)
    assert abs((float(marks[0]["cx"]) - x0) * (y1 - y0) - (float(marks[0]["cy"]) - y0) * (x1 - x0)) > 5 * abs(x1 - x0)
    assert "true <age>" in " ".join(outline.words)
    assert "Nothing to draw" in charts.scatter_chart([], x="x", y="y")


def test_a_long_series_is_thinned_and_keeps_its_ends():
    outline = Outline(charts.line_chart({"a": [(i, i * i) for i in range(50_000)]}, x="step", y="y"))
    assert len(outline.all("circle")) <= 600
    assert "a: 0 at step 0" in outline.words and any("at step 49,999" in word for word in outline.words)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
@settings(deadline=None, max_examples=200)
def test_ticks_are_round_inside_and_of_a_useful_number(low, width):
    found = charts.ticks(low, low + width)
    if low + width / 100 <= low:
        return
    assert all(low - width * 1e-6 <= t <= low + width * (1 + 1e-6) for t in found)
    assert 2 <= len(found) <= 8
    step = found[1] - found[0]
    leading = step / 10.0 ** np.floor(np.log10(step) + 1e-9)
    assert min(abs(leading - m) for m in (1, 2, 5, 10)) < 1e-3 * max(1.0, abs(low) / width)


def test_bars_are_as_long_as_their_values():
    rects = Outline(charts.bar_chart({"a": 10.0, "b": 5.0, "none": 0.0}, x="class", y="pictures")).all("rect")
    widths = [float(a["width"]) for a in rects]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2) and widths[2] == 0
    rects = Outline(charts.bar_chart({"a": 10.0, "b": 5.0}, x="size", y="n", upright=True)).all("rect")
    assert float(rects[0]["height"]) == pytest.approx(2 * float(rects[1]["height"]), abs=0.2)


def test_a_small_confusion_matrix_shows_every_number_by_name():
    html = charts.heatmap([[9, 1], [0, 5]], ["cat", "dog"], ["cat", "dog"])
    outline = Outline(html)
    assert outline.all("td")[1]["title"] == "true cat, predicted dog: 1 (10.0%)"
    assert [a["scope"] for a in outline.all("th")] == ["col"] * 3 + ["row"] * 2
    shade = [float(re.search(r",([\d.]+)\)", a["style"])[1]) for a in outline.all("td")]
    assert shade[0] > shade[1] > shade[2] and shade[3] > shade[0]
    with pytest.raises(ValueError, match="shape"):
        charts.heatmap([[1, 2]], ["a", "b"], ["a", "b"])


def test_a_large_confusion_matrix_is_a_picture_and_its_worst_cells():
    k = 1200
    matrix = np.eye(k, dtype=int) * 50
    matrix[3, 7] = 20
    names = [f"class {i}" for i in range(k)]
    html = charts.heatmap(matrix, names, names)
    outline = Outline(html)
    assert len(outline.all("img")) == 1 and len(outline.all("tr")) == 2
    assert "class 3" in outline.words and "class 7" in outline.words and "20" in outline.words
    assert len(html) < 300_000
