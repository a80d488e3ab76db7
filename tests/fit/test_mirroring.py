"""Training on pictures whose mirror images are another class: arrows, under names that tell and names that do not."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import neocog
from neocog import fit
from neocog.data import check as checking
from neocog.data import mirroring, open_source
from neocog.data.mirroring import Mirroring
from neocog.fit.choices import splits_of
from neocog.fit.device import Device
from neocog.fit.evaluating import views
from neocog.fit.findings import read_curves, read_mirrored
from neocog.fit.job import Data, Wishes
from neocog.fit.parallel import World
from neocog.fit.plan import Plan, make_plan
from neocog.fit.recipes import RECIPES, recipe
from neocog.fit.run import read_json, records
from neocog.fit.show import Show
from neocog.tasks import Label

QUIET = {"progress": False, "device": "cpu", "diagnosis": False}


@pytest.fixture(scope="module")
def folders(
    arrows: Callable[..., tuple[np.ndarray, np.ndarray]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """160 arrows in folders of two names; or others, of another seed."""

    def write(*names: str, seed: int = 0) -> Path:
        root = tmp_path_factory.mktemp("arrows")
        for number, (picture, side) in enumerate(zip(*arrows(160, seed=seed, easy=True), strict=True)):
            (root / names[side]).mkdir(exist_ok=True)
            Image.fromarray(picture).save(root / names[side] / f"{number}.png")
        return root

    return write


def plan(data: Any, **fields: Any) -> tuple[Plan, list[str]]:
    parts = Data.open(data, None, True)
    made, _ = make_plan(Wishes(fields=fields), parts, Device("cpu"), World(), Show(False))
    return made, parts.notes


@pytest.fixture(scope="module")
def trained(folders: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> fit.Run:
    out = tmp_path_factory.mktemp("runs") / "arrows"
    return fit.train(folders("first", "second"), net="lenet5", epochs=10, out=out, **QUIET)


def test_arrows_are_learned_with_defaults(trained: fit.Run, folders: Callable[..., Path]) -> None:
    unseen = folders("first", "second", seed=1)
    assert neocog.evaluate([trained], unseen)["runs"][0]["accuracy"] > 0.75
    answers = trained.predict(sorted(unseen.glob("*/*.png")), top=1)
    assert np.mean([Path(p.key).parent.name == p.label for p in answers]) > 0.75


@pytest.mark.parametrize("names", [("left", "right"), ("a", "b"), ("first", "second")])
def test_arrows_are_not_mirrored_and_a_note_says_so(names: tuple[str, str], folders: Callable[..., Path]) -> None:
    found, notes = plan(folders(*names))
    assert found.augment.flip == "none" and not found.mirror
    said = [note for note in notes if "mirror" in note]
    assert len(said) == 1 and said[0].endswith("so pictures are not mirrored (--set flip=random mirrors them)")


def test_the_decision_is_in_the_run_and_in_the_report(trained: fit.Run) -> None:
    assert trained.views == {"tta": "flip", "mirror": False}
    settings = read_json(trained.folder / "run.json")["settings"]
    assert settings["recipe"]["flip"] == "none" and settings["mirror"] is False
    assert any("not mirrored" in note for note in records(trained.folder, "start")[0]["notes"])
    report = trained.report.read_text("utf-8")
    assert "so pictures are not mirrored" in report and "flip=random (if" not in report


def test_relations_of_drawings_are_not_mirrored() -> None:
    found, notes = plan("drawn:n=300,size=32,task=relation")
    assert found.augment.flip == "none" and not found.mirror
    assert any("'left' and 'right' are mirror images" in note for note in notes)


def test_what_is_alike_when_mirrored_is_mirrored_and_says_so() -> None:
    found, notes = plan("drawn:n=300,size=32")
    assert found.augment.flip == "alternating" and found.mirror and not found.mirror_asked
    said = [note for note in notes if "mirrored" in note]
    assert len(said) == 1 and said[0].startswith(
        "training pictures and test-time views are mirrored: neither the class names"
    )
    assert said[0].endswith("(--set flip=none leaves them as they are)")


def test_what_the_user_sets_wins(folders: Callable[..., Path]) -> None:
    sides, shapes = folders("left", "right"), "drawn:n=300,size=32"
    for data, fields, flip, mirror in (
        (sides, {"flip": "random"}, "random", True),
        (sides, {"tta": "flip"}, "none", True),
        (sides, {"tta": "shift"}, "none", False),
        (shapes, {"flip": "none"}, "none", False),
        (shapes, {"flip": "none", "tta": "flip"}, "none", True),
        (shapes, {"tta": "none"}, "alternating", True),
    ):
        found, notes = plan(data, **fields)
        assert (found.augment.flip, found.mirror, found.mirror_asked) == (flip, mirror, True), fields
        asked = [note for note in notes if "as asked for, although" in note]
        assert len(asked) == (fields == {"flip": "random"})
    assert Plan.from_dict(found.as_dict()) == found


@pytest.mark.parametrize("regime", ["all", "features"])
def test_weights_to_start_from_change_nothing(
    regime: str, trained: fit.Run, folders: Callable[..., Path], tmp_path: Path
) -> None:
    how = {} if regime == "features" else {"epochs": 1}
    data = folders("first", "second", seed=1)
    run = fit.train(data, start=trained, regime=regime, out=tmp_path / "run", **QUIET, **how)
    assert read_json(run.folder / "run.json")["settings"]["recipe"]["flip"] == "none" and not run.views["mirror"]


def test_what_was_decided_is_not_decided_again(
    trained: fit.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Mirroring:
        raise AssertionError("resume looked again")

    for place in (mirroring, checking):
        monkeypatch.setattr(place, "judge", never)
    shutil.copytree(trained.folder, tmp_path / "run")
    assert not fit.resume(tmp_path / "run", epochs=11, progress=False).views["mirror"]


def test_mirrored_copies_are_on_one_side_of_the_split(tmp_path: Path) -> None:
    source = open_source("drawn:n=120,size=48")
    for i in range(len(source)):
        place = tmp_path / source.classes[source.labels[i]]
        place.mkdir(exist_ok=True)
        Image.fromarray(source.read(i)).save(place / f"{i:03}.png")
        Image.fromarray(np.asarray(source.read(i))[:, ::-1]).save(place / f"{i:03}m.png")
    both = open_source(tmp_path)
    codes, _, found = splits_of(both, Label, recipe("fast"), seed=0)
    split = {Path(both.key(i)).stem: code for i, code in enumerate(codes.tolist())}
    assert found.allowed and set(split.values()) == {0, 1, 2}
    assert all(split[f"{i:03}"] == split[f"{i:03}m"] for i in range(len(source)))
    apart, _, _ = splits_of(both, Label, recipe("fast"), seed=0, mirrored=False)
    split = {Path(both.key(i)).stem: code for i, code in enumerate(apart.tolist())}
    assert any(split[f"{i:03}"] != split[f"{i:03}m"] for i in range(len(source)))


# ---------------------------------------------------------------- afterwards, on validation pictures


def test_answers_that_mirroring_spoils_are_told_from_chance() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(500) < 0.9
    assert read_mirrored(right, rng.random(500) < 0.9).verdict == "good"
    assert read_mirrored(~right, right).verdict == "good"  # better when mirrored harms nobody
    found = read_mirrored(right, right & (rng.random(500) < 0.5))
    assert found.verdict == "bad" and "--set flip=none" in found.advice and "500 validation pictures" in found.evidence
    assert "training pictures were mirrored too" in read_mirrored(right, right, trained=True).evidence
    assert read_mirrored(np.ones(8, bool), np.zeros(8, bool)).verdict == "good"  # too few to say


@pytest.mark.parametrize("asked", [False, True])
def test_views_that_spoil_answers_are_left_out_unless_asked_for(
    asked: bool, folders: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "judge", lambda *_: Mirroring(True, "nobody looked"))
    changed = dataclasses.replace(RECIPES["standard"], flip="none", val_share=0.5)
    monkeypatch.setitem(RECIPES, "standard", changed)
    root = tmp_path / "data"
    root.mkdir()
    (root / "train").symlink_to(folders("first", "second"))
    (root / "val").symlink_to(folders("first", "second", seed=1))
    monkeypatch.setattr(mirroring, "judge", lambda *_: Mirroring(True, "nobody looked"))
    fields = {"tta": "flip"} if asked else {}
    run = fit.train(root, net="lenet5", epochs=6, out=tmp_path / "run", set=fields, **QUIET)
    found = next(r for r in records(run.folder, "diagnosis") if r["name"] == "mirroring")
    assert found["verdict"] == "bad" and "flip=none" in found["advice"]
    assert run.views["mirror"] is asked
    assert "Mirroring seems to change what a picture shows" in run.report.read_text("utf-8")
    if not asked:
        assert run.metrics["val_accuracy"] > 0.7


def test_mirrored_views_alone() -> None:
    import torch

    x = torch.rand(2, 3, 8, 8)
    ((weight, view, mirrored),) = views(x, "mirror")
    assert weight == 1 and mirrored and torch.equal(view, x.flip(3))


def test_flips_are_not_proposed_where_they_were_ruled_out() -> None:
    epochs = [{"epoch": n, "train_loss": 1 / n, "val_loss": 1.0, "train_accuracy": 0.99, "val_accuracy": 0.6}
              for n in range(1, 9)]  # fmt: skip
    for mirror in (True, False):
        found = {f.name: f for f in read_curves(epochs, {"mirror": mirror, "recipe": {"flip": "none"}})}
        assert ("flip=random" in found["overfitting"].advice) is mirror
