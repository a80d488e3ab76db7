"""Pictures and sentences: which files are read, what is a negative, and what --task match means for them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from neocog.data import open_source
from neocog.data.batches import Batch
from neocog.data.mirroring import by_texts
from neocog.fit.job import Data
from neocog.nets.matching import READS, PicturesAndTexts
from neocog.tasks.match_captions import MatchCaptions
from neocog.tasks.task import find
from neocog.tasks.towers import as_targets
from neocog.text.tokens import Words

CAPTIONS = {"a.png": ["a red dog", "one dog"], "b.png": ["two cats"], "c.png": ["a bird .", "Birds, one"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k, name in enumerate(CAPTIONS):
        Image.new("RGB", (32, 32), (80 * k, 0, 0)).save(tmp_path / name)
    return tmp_path


def _columns(folder: Path) -> Path:
    with open(folder / "t.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "caption_0", "caption_1"])
        rows.writerows([name, *texts, *[""] * (2 - len(texts))] for name, texts in CAPTIONS.items())
    return folder / "t.csv"


def _rows(folder: Path) -> Path:
    with open(folder / "t.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "text"])
        rows.writerows([name, text] for name, texts in CAPTIONS.items() for text in texts)
    return folder / "t.csv"


def _lines(folder: Path) -> Path:
    lines = [json.dumps({"path": name, "captions": texts}) for name, texts in CAPTIONS.items()]
    (folder / "t.jsonl").write_text("\n".join(lines))
    return folder / "t.jsonl"


def _parquet(folder: Path) -> Path:
    pictures = [{"bytes": (folder / name).read_bytes(), "path": name} for name in CAPTIONS]
    pq.write_table(pa.table({"image": pictures, "texts": list(CAPTIONS.values())}), folder / "t.parquet")
    return folder / "t.parquet"


@pytest.mark.parametrize("write", [_columns, _rows, _lines, _parquet])
def test_captions_are_read_from_every_kind_of_table(folder: Path, write: Any) -> None:
    data = Data.open(str(write(folder)), None, True, task="match")
    assert data.task is MatchCaptions
    column = data.source.columns["captions"]
    found = {Path(data.source.key(i)).name.split("#")[-1]: list(column[i]) for i in range(len(data.source))}
    assert list(found.values()) == list(CAPTIONS.values())
    assert Data.open(str(write(folder)), None, True).task is MatchCaptions  # the only task that they allow


def test_where_there_are_classes_match_means_classes() -> None:
    source = open_source("drawn:n=8,size=32")
    assert find("match").suited(source) is find("match")
    assert find("match-captions").suited(source) is MatchCaptions


def task(**options: Any) -> MatchCaptions:
    return MatchCaptions(Words.learn(["a red dog", "two cats"]), **options)


def test_every_text_of_a_batch_has_its_place() -> None:
    made = as_targets(Words.learn(["a red dog"]), [("a dog", "Dog"), (), ("dog ",)], 1)
    assert made["tokens"].shape == (3, 2, 2) and not made["tokens"][1].any()
    assert (made["codes"] != 0).tolist() == [[True, True], [False, False], [True, False]]
    assert made["codes"][0, 1] == made["codes"][2, 0]  # equal but for case and spaces
    assert as_targets(Words.learn(["a"]), [(), ()], 1)["tokens"].shape == (2, 1, 1)


def test_the_same_words_under_another_picture_are_no_negative() -> None:
    made, values = task(gamma=10.0), [("a red dog",), ("two cats",), ("a red dog",)]
    targets = made.collate({"captions": values}, None, torch.ones(3, dtype=torch.bool))
    batch = Batch((torch.zeros(3, 2),), targets, torch.arange(3), torch.ones(3, dtype=torch.bool))
    dog, cat = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    outputs = {"pictures": torch.stack([dog, cat, dog]), "gamma": torch.tensor(10.0)}
    outputs["texts"] = outputs["pictures"][:, None]
    found = made.losses(outputs, batch)
    assert found.total.item() == pytest.approx(np.log(1 + np.exp(-10)), rel=0.5)  # as if dog and cat alone were there
    assert found.figures["recall_at_1"].item() == 3


def test_sentences_that_name_sides_forbid_mirroring() -> None:
    assert by_texts([("a dog",), ("two cats",)]) is None
    said = by_texts([("a dog left of a cat",), ("two cats",)])
    assert said is not None and not said.allowed and "left or a right" in said.why


@pytest.mark.parametrize("reads", READS)
def test_what_is_read_of_a_picture_stands_for_it(reads: str) -> None:
    torch.manual_seed(0)
    head = PicturesAndTexts(6, torch.nn.Identity(), 8, reads=reads).eval()
    x, maps = torch.zeros(2, 3, 32, 32), torch.randn(2, 6, 8, 8)

    def found(of: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = head({4: of}, x)["pictures"]
        return made

    assert torch.allclose(found(maps), head({}, head.features({4: maps}))["pictures"])
    assert torch.allclose(found(maps).norm(dim=1), torch.ones(2))
    # the left and the right; and which colour a shape has: the same values, one channel at other places
    apart = maps.clone()
    apart[:, 0] = apart[:, 0].flip(1).flip(2)
    for other in (maps.flip(3), apart):
        assert torch.allclose(found(other), found(maps), atol=1e-5) == (reads in ("mean", "mean+max"))
