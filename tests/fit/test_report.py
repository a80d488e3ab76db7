"""report.html from run folders that are whole or odd."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from neocog.errors import DecodeError, RunError
from neocog.fit.report import write_report
from neocog.records import Preprocess
from neocog.tasks.label_report import GALLERY

CLASSES = ["cat", "dog", "<b>owl</b>", "newt"]


class Checker(HTMLParser):
    """Collects headings and what a page would load, and fails on tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.headings: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass  # SVG shapes

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def logits(n: int, seed: int = 0, shift: float = 3.0, classes: int = 4) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    values = random.normal(size=(n, classes)).astype(np.float32) * 2
    values[np.arange(n), labels] += shift
    return {"logits": values, "labels": labels, "index": np.arange(n) * 3}


def epoch(number: int, **more: Any) -> dict[str, Any]:
    share = 1 - 0.6**number
    return {
        "kind": "epoch", "epoch": float(number), "step": number * 10, "train_loss": 2 - share, "val_loss": 2.1 - share,
        "train_accuracy": share, "val_accuracy": share * 0.9, "lr": 0.1 / number, "seconds": 2.0,
        "pictures_per_second": 500.0, "waiting": 0.25, "update_ratio": {"conv.weight": 1e-3}, "dead": {"relu": 0.05},
    } | more  # fmt: skip


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A run folder with everything that a run may leave."""
    run = {
        "command": ["/somewhere/bin/neocog", "train", "my photos", "--seed", "7"],
        "settings": {"net": "resnet20", "recipe": {"name": "fast", "cutout": 8, "mixup": 0.0}, "epochs": 6, "seed": 7},
        "data": {"name": "pets & co", "spec": "photos/", "fingerprint": "f00d" * 16, "train": 900, "val": 120,
                 "test": 200, "classes": CLASSES},
        "versions": {"torch": "2.13.0"}, "hardware": {"cpu": "two cores"}, "device": "CPU, fp32", "git": "abc123",
    }  # fmt: skip
    net = {
        "neocog": "0.1.0", "net": {"name": "resnet20", "classes": 4, "in_channels": 3, "input_size": 32},
        "classes": CLASSES, "temperature": 1.7, "tta": "none", "mirror": True, "metrics": {},
        "preprocess": asdict(Preprocess(32, 32)),
        "unknown": {"method": "knn", "threshold": 0.4, "false_alarm": 0.05, "auroc": {"drawn": 0.987}},
    }  # fmt: skip
    log = [
        {"kind": "start", "train": 900, "val": 120, "test": 200, "params": 12345, "notes": ["split was cut"]},
        {
            "kind": "diagnosis",
            "name": "initial loss",
            "verdict": "bad",
            "evidence": "9.9 <here>",
            "advice": "shrink it",
        },
        *(epoch(number) for number in range(1, 7)),
        {"kind": "end", "metrics": {}, "seconds": 75.0},
    ]
    (tmp_path / "run.json").write_text(json.dumps(run))
    (tmp_path / "net.json").write_text(json.dumps(net))
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    (tmp_path / "problems.json").write_text(json.dumps([{"key": "bad.jpg", "reason": "truncated"}]))
    save_file(logits(200), tmp_path / "test.safetensors")
    save_file(logits(120, 1), tmp_path / "val.safetensors")
    return tmp_path


def read(folder: Path, pictures: Any = None) -> tuple[str, Checker]:
    path = write_report(folder, pictures)
    assert path == folder / "report.html"
    html = path.read_text("utf-8")
    checker = Checker()
    checker.feed(html)
    assert not checker.open
    assert all(load.startswith(("data:", "#")) for load in checker.loads)  # one file, nothing fetched
    return html, checker


def told(html: str) -> str:
    """The text of a page, without tags."""
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.S))


def test_a_whole_run(whole: Path) -> None:
    asked: list[int] = []

    def pictures(index: int) -> np.ndarray:
        asked.append(index)
        return np.full((8, 8, 3), index % 256, np.uint8)

    html, checker = read(whole, pictures)
    found = logits(200)
    right = (found["logits"].argmax(axis=1) == found["labels"]).mean()
    words = told(html)
    assert f"{right:.2%}" in words and "n = 200" in words and "Wilson" in words
    assert checker.headings == [
        "Result", "Diagnosis", "Curves", "Errors", "Classes", "Confusion matrix", "Calibration", "Unknown pictures",
        "Time", "Settings", "Notes and problems", "How to reproduce",
    ]  # fmt: skip
    for expected in (
        "resnet20 on pets &amp; co", "Temperature 1.700", "0.987", "split was cut", "bad.jpg", "truncated", "f00d",
        "abc123", "1 min 15 s", "25.0%", "12,345 parameters", "9.9 &lt;here&gt;", "shrink it", "overfitting",
        "neocog train &#x27;my photos&#x27; --seed 7", "update ratio", "dead units", "CPU, fp32",
    ):  # fmt: skip
        assert expected in words, expected
    assert "<b>owl</b>" not in html and "&lt;b&gt;owl" in html
    assert words.index("initial loss") < words.index("overfitting")  # bad before good
    # The gallery shows the most confident errors first, by their index in the source.
    shifted = np.exp(found["logits"] / 1.7)
    confidence = (shifted / shifted.sum(axis=1, keepdims=True)).max(axis=1)
    wrong = np.flatnonzero(found["logits"].argmax(axis=1) != found["labels"])
    expected_order = found["index"][wrong[np.argsort(-confidence[wrong])]][:GALLERY]
    assert asked == expected_order.tolist()
    assert len([load for load in checker.loads if load.startswith("data:image")]) == len(asked)


def test_pictures_may_be_bytes_and_may_be_gone(whole: Path) -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.zeros((300, 200, 3), np.uint8)).save(buffer, "JPEG")

    def pictures(index: int) -> bytes:
        if index % 2:
            raise DecodeError("truncated")
        return buffer.getvalue()

    found = logits(200)
    wrong = found["index"][found["logits"].argmax(axis=1) != found["labels"]]
    _, checker = read(whole, pictures)
    assert len([load for load in checker.loads if load.startswith("data:image")]) == min(
        GALLERY, (wrong % 2 == 0).sum()
    )


def test_without_pictures_it_is_said(whole: Path) -> None:
    html, checker = read(whole)
    assert "None of the pictures can be read" in html
    assert not any(load.startswith("data:image") for load in checker.loads)


def test_only_a_validation_split_is_said(whole: Path) -> None:
    (whole / "test.safetensors").unlink()
    words = told(read(whole)[0])
    assert "validation split" in words and "n = 120" in words and "There is no test split" in words


def test_damaged_files_are_named(whole: Path) -> None:
    (whole / "test.safetensors").write_bytes(b"not tensors")
    with pytest.raises(RunError, match=r"test\.safetensors is damaged"):
        write_report(whole)
    (whole / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run\.json is damaged: it is not valid JSON"):
        write_report(whole)


def test_a_resumed_epoch_counts_once(whole: Path) -> None:
    log = [epoch(1), epoch(2, seconds=1000.0), epoch(2, seconds=4.0)]
    (whole / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    assert "training epochs 6.0 s" in told(read(whole)[0])


def test_a_diverged_run(whole: Path) -> None:
    found = logits(20)
    found["logits"][3] = np.nan
    save_file(found, whole / "test.safetensors")
    with (whole / "log.jsonl").open("a") as log:
        log.write(json.dumps(epoch(7, train_loss=float("nan"), val_loss=None)) + "\n")
    words = told(read(whole)[0])
    assert "diverged" in words and "training loss became nan" in words


def test_perfect_and_unlabelled(whole: Path) -> None:
    found = logits(50, shift=50)
    found["labels"][:10] = -1
    save_file(found, whole / "test.safetensors")
    words = told(read(whole)[0])
    assert "100.00%" in words and "n = 40" in words and "None of the 40 pictures was misclassified" in words


def test_a_thousand_classes_stay_readable(whole: Path) -> None:
    card = json.loads((whole / "net.json").read_text())
    card |= {"classes": [f"class {k}" for k in range(1000)], "net": {**card["net"], "classes": 1000}}
    (whole / "net.json").write_text(json.dumps(card))
    save_file(logits(3000, shift=8, classes=1000), whole / "test.safetensors")
    html, _ = read(whole)
    words = told(html)
    assert "accuracy among the first five" in words and "The 60 weakest of" in words
    assert len(html) < 2_000_000


def test_figures_taken_once_are_no_curves(whole: Path) -> None:
    lines = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    once = [line for line in lines if line.get("epoch", 1) == 1]
    (whole / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in once))
    html, _ = read(whole)
    assert "There are no curves" in told(html) and "Update ratio" not in html


def test_a_part_of_the_loss_and_a_count_of_the_same_name_are_not_one_chart(whole: Path) -> None:
    more = [
        epoch(number) | {"train_boxes": 0.3 / number, "val_boxes": 40, "val_map_small": 0.1 * number}
        for number in (1, 2)
    ]
    (whole / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in more))
    words = told(read(whole)[0])
    assert "Loss: boxes" in words and "validation: 40" not in words and "mAP small" in words
