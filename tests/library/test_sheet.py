"""Contact sheets and captions from tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from library.made import Picture, made, names
from PIL import Image

from neocog.errors import DataError, LibraryError, UsageError
from neocog.library.captions import annotate
from neocog.library.evidence import Reason
from neocog.library.searching import search
from neocog.library.sheet import _lines, sheet
from neocog.library.store import Store


@dataclass
class Shown:
    path: str
    score: float = 0.5
    reasons: tuple[Reason, ...] = ()


def test_a_sheet_shows_every_hit(tmp_path: Path) -> None:
    hits = []
    for i, colour in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255))):
        Image.new("RGB", (80, 40), colour).save(tmp_path / f"{i}.png")
        hits.append(
            Shown(str(tmp_path / f"{i}.png"), 1 - i / 10, (Reason("x", "word", 0.9, 1.0, "a long reason " * 9),))
        )
    out = sheet(hits, tmp_path / "sheet.png", columns=2, side=64, title="dog on grass")
    with Image.open(out) as drawn:
        pixels = np.asarray(drawn)
    assert pixels.shape[1] == 2 * (64 + 12) + 12
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255)):
        assert ((pixels == colour).all(axis=2)).sum() == 64 * 32
    assert (pixels < 100).all(axis=2).any()  # ink


def test_what_was_not_understood_has_a_line_of_its_own(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (200, 200, 200)).save(tmp_path / "a.png")
    known = Reason("dog", "word", 0.9, 1.0, "dog: concepts 0.90")
    unknown = Reason("red", "unknown", 0.15, 1.0, "partly answered: red was not understood")
    assert [text for text, _ in _lines(0, Shown("x/a.png", 0.5, (known, unknown)), 200)] == [
        "1.  0.50", "a.png", "dog: concepts 0.90", "partly answered: red was not", "understood",
    ]  # fmt: skip
    heights = []
    for reasons in ((known,), (known, unknown)):
        with Image.open(sheet([Shown(str(tmp_path / "a.png"), 0.5, reasons)], tmp_path / "s.png", side=64)) as drawn:
            heights.append(drawn.height)
    assert heights[1] == heights[0] + 16 * 3


def test_what_is_gone_leaves_a_field_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    out = sheet([Shown(str(tmp_path / "gone\n犬.jpg")), Shown(str(tmp_path / "bad.jpg"))], tmp_path / "s.jpg", side=100)
    with Image.open(out) as drawn:
        assert drawn.width == 2 * 112 + 12


def test_no_hits_are_a_page_that_says_so(tmp_path: Path) -> None:
    with Image.open(sheet([], tmp_path / "s.png", side=100, title="unicorn")) as drawn:
        assert drawn.width == 5 * 112 + 12
        top, below = drawn.crop((0, 0, drawn.width, 40)), drawn.crop((0, 40, drawn.width, drawn.height))
        assert all(part.getextrema()[0][0] < 255 for part in (top, below)), "the title, and a line below it"


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"such as sheet\.png"):
        sheet([Shown("x.jpg")], tmp_path / "s.what")
    with pytest.raises(UsageError, match="cannot be written"):
        sheet([Shown("x.jpg")], tmp_path / "none" / "s.png")
    with pytest.raises(UsageError, match="1 to 50 columns"):
        sheet([Shown("x.jpg")], tmp_path / "s.png", columns=0)
    with pytest.raises(UsageError, match="more columns"):
        sheet([Shown("x.jpg")] * 1000, tmp_path / "s.png", columns=1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    pictures = [Picture(f"{i}.jpg", {}, i, labels=["old"] if i == 0 else []) for i in range(4)]
    for one in pictures:
        Image.new("RGB", (8, 8)).save(tmp_path / one.name)
    return made(tmp_path, pictures)


def test_captions_and_labels_come_from_a_table(store: Store, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(
        'file,caption,label\n0.jpg,a red ball,toy\n0.jpg,on grass,toy\n1.jpg,"waves, sea",\n', "utf-8"
    )
    done = annotate(store, tmp_path / "table.csv")
    assert (done.pictures, done.changed, done.captions, done.missing) == (2, 2, 3, 0)
    assert names(search(store, '"red ball" label:toy label:old')) == ["0.jpg"]
    assert names(search(store, "sea")) == ["1.jpg"]
    again = annotate(store, tmp_path / "table.csv")
    assert again.changed == 0
    (tmp_path / "table.csv").write_text("file,caption\n0.jpg,a blue ball\n", "utf-8")
    assert annotate(store, tmp_path / "table.csv", replace=True).changed == 1
    assert names(search(store, '"red ball"')) == []
    assert names(search(store, '"blue ball"')) == ["0.jpg"]


def test_tables_that_do_not_fit(store: Store, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "other" / "9.jpg")
    (tmp_path / "other" / "table.csv").write_text("file,caption\n9.jpg,x\n", "utf-8")
    with pytest.raises(LibraryError, match=r"none of the 1 picture of .* is in"):
        annotate(store, tmp_path / "other" / "table.csv")
    with pytest.raises(DataError):
        annotate(store, tmp_path / "none.csv")
