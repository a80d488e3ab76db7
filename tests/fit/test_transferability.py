"""The experiment of Yosinski et al. 2014, tiny: its runs, its table, its plot, and that it goes on where it stopped."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neocog import fit
from neocog.data import open_source
from neocog.errors import UsageError
from neocog.fit.run import read_json, read_tensors
from neocog.fit.transferability import KINDS, transferability

HOW: dict[str, Any] = {"net": "lenet5", "size": 16, "epochs": 1, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("experiment") / "t"
    return transferability("drawn:n=160,size=16,seed=2", depths=[3, 1], kinds=("BnB", "AnB", "AnB+"), out=out, **HOW)


def weights(result: dict[str, Any], run: str) -> dict[str, torch.Tensor]:
    return read_tensors(Path(result["page"]).parent / run / "weights.safetensors")[0]


def test_layers_are_taken_over_and_frozen_or_not(result: dict[str, Any]) -> None:
    assert result["layers"] == ["conv1", "conv2", "hidden.fc1", "hidden.fc2"]
    for kind in ("A", "B"):
        base, three = weights(result, f"base-{kind}"), weights(result, f"{kind}nB-3")
        taken = {"conv1", "conv2", "hidden.fc1"}
        same = {k for k in base if base[k].shape == three[k].shape and torch.equal(base[k], three[k])}
        assert {k.rpartition(".")[0] for k in same} == taken and len(same) == 6
    one, base = weights(result, "AnB-1"), weights(result, "base-A")
    assert torch.equal(one["conv1.weight"], base["conv1.weight"])
    assert not torch.equal(one["conv2.weight"], base["conv2.weight"])
    tuned = weights(result, "AnB-tuned-3")  # learns on, from there: near the base, and not the same
    distance = (tuned["conv2.weight"] - base["conv2.weight"]).norm() / base["conv2.weight"].norm()
    assert 0 < distance < 0.9


def test_the_halves_share_no_class_and_all_runs_test_on_the_same_pictures(result: dict[str, Any]) -> None:
    assert not set(result["A"]) & set(result["B"])
    assert sorted(result["A"] + result["B"]) == sorted(open_source("drawn:n=8").classes)
    folder = Path(result["page"]).parent
    tested = [read_tensors(folder / run / "test.safetensors")[0]["index"] for run in ("base-B", "BnB-1", "AnB-tuned-3")]
    assert all(torch.equal(tested[0], other) for other in tested)
    # what begins anew does not begin as what the base grew from
    seeds = {run: read_json(folder / run / "run.json")["settings"]["seed"] for run in ("base-A", "base-B", "BnB-1")}
    assert seeds == {"base-A": 0, "base-B": 0, "BnB-1": 1}


def test_the_table_the_page_and_the_plot(result: dict[str, Any]) -> None:
    assert [(row["n"], row["kind"]) for row in result["rows"]] == [
        (n, kind) for n in (1, 3) for kind in ("BnB", "AnB", "AnB+")
    ]
    for row in result["rows"]:
        run = fit.Run(Path(result["page"]).parent / f"{row['kind'].replace('+', '-tuned')}-{row['n']}")
        assert row["accuracy"] == run.metrics["test_accuracy"] and run.report.exists()
        assert row["interval"][0] <= row["accuracy"] <= row["interval"][1]
    assert json.loads(Path(result["page"]).with_suffix(".json").read_text()) == result
    page = Path(result["page"]).read_text()
    assert "layers transferred" in page and "hidden.fc1" in page and "https://" not in page
    plot = Path(result["plot"]).read_text()
    root = ElementTree.fromstring(plot)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and "var(" not in plot
    lines = [e for e in root.iter() if e.get("class") == "line"]
    assert len(lines) == 4  # the base and three kinds
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 2 + 3 * 3


def test_what_is_done_is_kept(result: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "again"
    shutil.copytree(Path(result["page"]).parent, folder)
    shutil.rmtree(folder / "AnB-3")
    (folder / "BnB-1" / "net.json").unlink()  # killed at its end
    data = "drawn:n=160,size=16,seed=2"
    again = transferability(data, depths=[3, 1], kinds=("BnB", "AnB", "AnB+"), out=folder, **HOW)
    assert again["rows"] == result["rows"] and again["base"] == result["base"]


def test_what_cannot_be(tmp_path: Path) -> None:
    pictures = np.zeros((30, 16, 16), np.uint8)
    with pytest.raises(UsageError, match="at least 4 classes"):
        transferability((pictures, [i % 3 for i in range(30)]), out=tmp_path / "t", **HOW)
    with pytest.raises(UsageError, match="unknown kind 'AnBB'; expected one of BnB"):
        transferability("drawn:n=80", kinds=("AnBB",), out=tmp_path / "t", **HOW)
    with pytest.raises(UsageError, match="depth 5 is not one of the net's layers before its last, 1 to 4"):
        transferability("drawn:n=80", depths=[5], out=tmp_path / "t", **HOW)
    assert not (tmp_path / "t").exists() and len(KINDS) == 4
