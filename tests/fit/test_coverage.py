"""Splits that leak, and classes that a split lacks, are named in the training and in its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from neocog import fit
from neocog.data import open_source
from neocog.fit.run import records

HOW: dict[str, Any] = {"net": "lenet5", "epochs": 1, "device": "cpu", "diagnosis": False}


def pictures(root: Path, split: str, classes: dict[str, range]) -> None:
    """Drawn pictures by their numbers, in class folders."""
    source = open_source("drawn:n=200,size=40,seed=5")
    for name, numbers in classes.items():
        (root / split / name).mkdir(parents=True, exist_ok=True)
        for i in numbers:
            Image.fromarray(source.read(i)).save(root / split / name / f"{i}.png")


def notes(root: Path, out: Path, capsys: pytest.CaptureFixture[str], **how: Any) -> tuple[list[str], str, fit.Run]:
    """The notes of a training, checked to be printed and in the report, and the report."""
    run = fit.train(root, out=out, **HOW, **how)
    said = capsys.readouterr().err
    page = run.report.read_text()
    found = records(run.folder, "start")[0]["notes"]
    for note in found:
        assert f"note: {note}" in said and note.replace("'", "&#39;") in page.replace("&#x27;", "&#39;")
    return found, page, run


def test_declared_splits_that_leak_or_lack_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path / "d", "train", {"a": range(20), "b": range(20, 40), "c": range(40, 60)})
    pictures(tmp_path / "d", "val", {"a": range(60, 70), "z": range(70, 73)})
    # six copies from training, one from validation
    pictures(tmp_path / "d", "test", {"a": range(80, 90), "b": [*range(20, 26), 60]})  # type: ignore[dict-item]
    found, page, run = notes(tmp_path / "d", tmp_path / "r", capsys)
    assert [n for n in found if "near-copy" in n] == [
        "7 of 17 test pictures have a near-copy in train or val, so the test figures are too high ('neocog check' lists"
        " them)"
    ]
    assert "no training picture, but val pictures of 'z': every one of them counts as an error" in found
    assert any(n.startswith("no test picture of 'c': the test figures, macro-F1 too") for n in found)
    assert "2 of 4 classes have no picture here and are not measured" in page
    assert "Without a picture in this split: " in page
    assert run.metrics["test_classes"] == 2
    assert "macro-F1" in run.summary()[0] and "(2 of 4 classes have pictures)" in run.summary()[0]


def test_another_source_to_test_on_can_leak_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path / "d", ".", {"a": range(30), "b": range(30, 60)})
    pictures(tmp_path / "t", ".", {"a": range(60, 70), "b": range(30, 35)})
    found, _, _ = notes(tmp_path / "d", tmp_path / "r", capsys, test=tmp_path / "t")
    leaked = [n for n in found if "near-copy" in n]
    assert len(leaked) == 1 and 0 < int(leaked[0].split()[0]) <= 5 and "of 15 test pictures" in leaked[0]


def test_splits_without_fault_are_not_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path / "d", "train", {"a": range(20), "b": range(20, 40)})
    pictures(tmp_path / "d", "test", {"a": range(60, 80), "b": range(80, 100)})
    found, page, run = notes(tmp_path / "d", tmp_path / "r", capsys)
    assert not any("near-copy" in n or "no test picture" in n or "no training picture" in n for n in found)
    assert "are not measured" not in page and "classes have" not in run.summary()[0]
    assert np.isfinite(run.metrics["test_accuracy"])
