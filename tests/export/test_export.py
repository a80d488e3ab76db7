"""Exported folders answer as the run does, hold what is needed without neocog, and are not left where they disagree."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from export.runs import DATA, untrained
from PIL import Image
from typer.testing import CliRunner, Result

from neocog import tasks
from neocog.cli import app
from neocog.data import open_source
from neocog.data.decode import decode, prepare
from neocog.errors import NetError, RunError, UsageError
from neocog.export import Exported, export, load
from neocog.export.parity import CPU, alike
from neocog.export.portable import Session
from neocog.export.script import script
from neocog.fit import evaluate, predict, predicting
from neocog.records import Preprocess
from neocog.tasks.label import Prediction

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def pictures(n: int = 4) -> list[Any]:
    source = open_source(f"drawn:n={n},size=48,seed=5")
    return [source.read(i) for i in range(n)]


def answers(run: Any, given: list[Any]) -> list[Any]:
    return list(predict(run, given, device="cpu"))


@pytest.fixture(scope="module")
def label(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run of the task label that knows strangers, and its export."""
    folder = tmp_path_factory.mktemp("label")
    run = untrained(folder / "run", strangers=True)
    said: list[str] = []
    return SimpleNamespace(run=run, made=export(run, out=folder / "made", say=said.append), said=said)


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in (*tasks.names(), "label+detect")
        if n != "label" and not (tasks.find(n).inputs == ("text",) or tasks.find(n).unportable)
    ],
)
def test_every_task_answers_as_its_run(name: str, tmp_path: Path) -> None:
    run = untrained(tmp_path / "run", name)
    made = export(run, out=tmp_path / "made")
    assert all(alike(a, b, 1e-3) for a, b in zip(answers(run, pictures()), answers(made, pictures()), strict=True))
    assert made.task.reading in (made.folder / "CARD.md").read_text("utf-8")


def test_sentences_are_not_exported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="task caption cannot be exported: sentences are found word by word"):
        export(untrained(tmp_path / "run", "caption"), out=tmp_path / "made")
    with pytest.raises(UsageError, match="task gan cannot be exported: its answers are pictures"):
        export(untrained(tmp_path / "gan", "gan"), out=tmp_path / "made")


def test_a_label_run_is_exported_with_its_strangers(label: SimpleNamespace) -> None:
    own, other = answers(label.run, pictures(8)), answers(label.made, pictures(8))
    assert [(a.label, a.unknown) for a in own] == [(a.label, a.unknown) for a in other]
    for a, b in zip(own, other, strict=True):
        assert b.probability == pytest.approx(a.probability, abs=1e-4)
        assert b.strangeness == pytest.approx(a.strangeness, abs=1e-4) and b.strangeness > 0
    assert {p.name for p in label.made.folder.iterdir()} == {
        "CARD.md", "model.onnx", "net.json", "parity.json", "prepare.py", "unknown.safetensors",
    }  # fmt: skip


def test_it_says_on_what_it_was_compared(label: SimpleNamespace) -> None:
    found = json.loads((label.made.folder / "parity.json").read_text("utf-8"))
    assert found["on"] == "test pictures of drawn" and found["pictures"] == 10 and found["equal_answers"] == 1.0
    assert 0 <= found["largest_difference"] < 1e-3 and found["script"]["mean_level"] < 1
    assert "compared on 10 test pictures of drawn: 100.0% equal answers" in label.said[-1]
    text = (label.made.folder / "CARD.md").read_text("utf-8")
    for part in ("30 pictures of drawn", "licence", "random weights", "unknown", "uint8", "`probabilities` (B, 8)"):
        assert part in text, part


def test_the_graph_alone_takes_bytes_of_any_number_and_size(label: SimpleNamespace) -> None:
    session = onnxruntime.InferenceSession(str(label.made.file))
    pixels = np.stack([prepare(one, label.run.preprocess).transpose(1, 2, 0) for one in pictures(5)])
    several = session.run(["probabilities"], {"pictures": pixels})[0]
    one = session.run(["probabilities"], {"pictures": pixels[:1]})[0]
    assert several.shape == (5, 8) and several.sum(1) == pytest.approx(1, abs=1e-5)
    assert one[0] == pytest.approx(several[0], abs=1e-5)
    own = answers(label.run, pictures(5))
    assert [label.run.classes[k] for k in several.argmax(1)] == [a.label if a.label else a.top[0][0] for a in own]
    assert label.made.about["dynamic"] == ["batch", "height", "width"]
    large = np.zeros((2, 64, 48, 3), np.uint8)
    assert session.run(["probabilities"], {"pictures": large})[0].shape == (2, 8)


def test_a_net_of_one_size_says_so(tmp_path: Path) -> None:
    made = export(untrained(tmp_path / "run", net="lenet5"), out=tmp_path / "made")
    assert made.about["dynamic"] == ["batch"]


def test_views_are_inside(tmp_path: Path) -> None:
    plain, run = untrained(tmp_path / "plain"), untrained(tmp_path / "run", tta="shift")
    made = export(run, out=tmp_path / "made")
    given = pictures(6)
    own, other, without = ([a.probability for a in answers(one, given)] for one in (run, made, plain))
    assert other == pytest.approx(own, abs=1e-5) and without != pytest.approx(own, abs=1e-3)
    assert made.views["tta"] == "none" and made.about["views"]["tta"] == "shift"


def test_grey_pictures_in_tiles(tmp_path: Path) -> None:
    run = untrained(tmp_path / "run", "segment", fit="tile", options={"tile": 32}, channels=1)
    made = export(run, out=tmp_path / "made")
    for a, b in zip(answers(run, pictures(2)), answers(made, pictures(2)), strict=True):
        assert a.mask.shape == b.mask.shape == (48, 48) and (a.mask == b.mask).mean() > 0.999


# ---------------------------------------------------------------- refused


def test_a_model_that_disagrees_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = untrained(tmp_path / "run")
    writing = importlib.import_module("neocog.export.writing")
    write = writing.write_graph

    def wrong(net: Any, *arguments: Any, **more: Any) -> Any:
        with torch.no_grad():
            net.net.fc.weight.add_(0.3 * torch.randn(net.net.fc.weight.shape))
        made = write(net, *arguments, **more)
        run._net = None  # the run reads its own weights again
        return made

    monkeypatch.setattr(writing, "write_graph", wrong)
    with pytest.raises(NetError, match=r"would not answer as run does.*nothing was written"):
        export(run, out=tmp_path / "there" / "made")
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"to": "onix"}, "unknown format 'onix' .did you mean 'onnx'"),
        ({"to": "torch", "int8": True}, "--int8 is for onnx and openvino"),
        ({"out": "."}, "is there already"),
    ],
)
def test_what_is_not_possible_is_said(label: SimpleNamespace, how: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        export(label.run, **how)


def test_wrong_subjects_are_named(label: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is exported already"):
        export(label.made, out=tmp_path / "made")
    with pytest.raises(UsageError, match=r"no run 'resnet5o' .did you mean 'resnet50'"):
        export("resnet5o", out=tmp_path / "made")
    with pytest.raises(NetError, match="no ImageNet weights are known for 'lenet5'"):
        export("lenet5", out=tmp_path / "made")
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(RunError, match=r"was not exported by neocog.*neocog export RUN"):
        load(tmp_path / "model.onnx")


def test_a_detector_with_a_loop_inside_is_refused(tmp_path: Path) -> None:
    run = untrained(tmp_path / "run", "detect", options={"head": "two"})
    with pytest.raises(UsageError, match=r"head=two chooses boxes inside the net.*--task-option head=one"):
        export(run, out=tmp_path / "made")


def test_numbers_of_answers_may_differ_a_little_and_words_may_not() -> None:
    one = Prediction("a", "cat", 0.8, (("cat", 0.8),))
    assert alike(one, Prediction("b", "cat", 0.805, (("cat", 0.805),)), 0.01)
    assert not alike(one, Prediction("b", "cat", 0.9, (("cat", 0.9),)), 0.01)
    assert not alike(one, Prediction("b", "dog", 0.8, (("dog", 0.8),)), 0.01)


# ---------------------------------------------------------------- other formats


def test_openvino_answers_as_the_run(label: SimpleNamespace, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    made = export(label.run, "openvino", out=tmp_path / "made")
    assert made.file.name == "model.xml" and not (made.folder / "model.onnx").exists()
    assert all(
        alike(a, b, 1e-3) for a, b in zip(answers(label.run, pictures()), answers(made, pictures()), strict=True)
    )


def test_a_torch_program_runs_without_neocog(tmp_path: Path) -> None:
    run = untrained(tmp_path / "run", net="lenet5")
    made = export(run, "torch", out=tmp_path / "made")
    code = (
        "import sys, torch\n"
        f"net = torch.export.load({str(made.file)!r}).module()\n"
        "sizes = [tuple(net(torch.zeros(n, 32, 32, 3, dtype=torch.uint8))['probabilities'].shape) for n in (1, 4)]\n"
        "print(sizes, 'neocog' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[(1, 8), (4, 8)] False", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["detect", "segment", "pose"])
def test_a_torch_program_of_maps(name: str, tmp_path: Path) -> None:
    """Maps are read by hooks that cut a pass short; a program is traced without that."""
    run = untrained(tmp_path / "run", name)
    made = export(run, "torch", out=tmp_path / "made")
    assert all(alike(a, b, 1e-3) for a, b in zip(answers(run, pictures()), answers(made, pictures()), strict=True))


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_int8_is_smaller_and_its_figures_are_told(label: SimpleNamespace, to: str, tmp_path: Path) -> None:
    pytest.importorskip(to)
    said: list[str] = []
    made = export(label.run, to, int8=True, out=tmp_path / "made", say=said.append)
    assert made.about["precision"] == "int8"
    assert any(line.startswith("accuracy ") and "in int8 (n = 10)" in line for line in said)
    assert "in int8 (n = 10)" in (made.folder / "CARD.md").read_text("utf-8")
    if to == "onnx":
        assert made.file.stat().st_size < 0.6 * label.made.file.stat().st_size


def test_int8_needs_pictures(tmp_path: Path) -> None:
    run = untrained(tmp_path / "run", data=DATA)
    run.settings["settings"]["data"] = str(tmp_path / "gone")
    with pytest.raises(UsageError, match=r"--int8 is calibrated on training pictures.*--pictures"):
        export(run, int8=True, out=tmp_path / "made")
    made = export(run, int8=True, pictures="drawn:n=20,size=48,seed=2", out=tmp_path / "made")
    assert json.loads((made.folder / "parity.json").read_text("utf-8"))["on"] == "pictures of drawn"


def test_pictures_that_are_gone_are_drawn(tmp_path: Path) -> None:
    run = untrained(tmp_path / "run")
    run.settings["settings"]["data"] = str(tmp_path / "gone")
    made = export(run, out=tmp_path / "made")
    assert "drawn pictures (those of the run are not there)" in (made.folder / "parity.json").read_text("utf-8")


def test_an_exported_model_is_evaluated_as_its_run(label: SimpleNamespace) -> None:
    own, other = (
        evaluate([one], "drawn:n=24,size=48,seed=9", device="cpu")["runs"][0] for one in (label.run, label.made)
    )
    # the run may compute in bfloat16 here
    assert other["loss"] == pytest.approx(own["loss"], rel=0.02) and other["n"] == own["n"] == 4  # the split "test"


def test_many_pictures_are_computed_by_the_model_too(label: SimpleNamespace) -> None:
    """A run's net is computed by an engine where there is much to do; what is exported is one already."""
    assert isinstance(predicting.ready(label.made, CPU, 1000), Session)
    assert not isinstance(predicting.ready(label.run, CPU, 1000), Session)


# ---------------------------------------------------------------- the small script


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("kind", ["large", "turned", "clear", "grey", "small", "long"])
def test_the_script_prepares_as_neocog_does(fit: str, kind: str, tmp_path: Path) -> None:
    pre = Preprocess(64, 72, fit=fit, shape=(64, 96) if fit == "pad" else None)
    y, x = np.mgrid[:300, :410] / 40.0
    waves = np.stack([np.sin(x + k) * np.cos(y - k) for k in range(3)], -1)
    picture = Image.fromarray((127 + 120 * waves).astype(np.uint8))
    file = tmp_path / ("picture.png" if kind == "clear" else "picture.jpg")
    more: dict[str, Any] = {}
    if kind == "turned":
        exif = Image.Exif()
        exif[274] = 6
        more["exif"] = exif
    if kind == "clear":
        picture.putalpha(Image.fromarray((x * 20 % 255).astype(np.uint8)))
    if kind == "grey":
        picture = picture.convert("L")
    if kind in ("small", "long"):
        picture = picture.resize((30, 40) if kind == "small" else (400, 75))
    picture.save(file, **({"quality": 95} if file.suffix == ".jpg" else {}), **more)
    space: dict[str, Any] = {"__name__": "prepare"}
    run = SimpleNamespace(reader=None, preprocess=pre, task=SimpleNamespace(name="label", classifies=True))
    exec(script(run, "onnx", {"file": "model.onnx"}), space)
    found = space["prepare"](file).astype(int)
    expected = prepare(file.read_bytes(), pre).transpose(1, 2, 0)
    assert found.shape == expected.shape == (*pre.input, 3)
    assert np.abs(found - expected).mean() < 0.6 and np.abs(found - expected).max() <= 8


def test_the_script_runs_without_neocog(label: SimpleNamespace, tmp_path: Path) -> None:
    for k, one in enumerate(pictures(3)):
        Image.fromarray(one if isinstance(one, np.ndarray) else decode(one)).save(tmp_path / f"{k}.png")
    files = sorted(map(str, tmp_path.glob("*.png")))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(label.made.folder / "prepare.py"), *files],
        capture_output=True, text=True, timeout=120, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    labels = [line.split()[1] for line in done.stdout.splitlines()]
    assert labels == [a.top[0][0] for a in answers(label.run, files)]
    assert "neocog" not in (label.made.folder / "prepare.py").read_text("utf-8").replace("neocog does", "")


# ---------------------------------------------------------------- commands


def test_the_commands(label: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Result:
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        return done

    for k, one in enumerate(pictures(3)):
        Image.fromarray(one if isinstance(one, np.ndarray) else decode(one)).save(tmp_path / f"{k}.png")
    done = call("export", str(label.run.folder), "--out", "made")
    assert done.stdout == "made\n" and "equal answers" in done.stderr
    files = [f"{k}.png" for k in range(3)]
    own, other = (
        call("predict", one, *files, "--format", "csv", "--device", "cpu")
        for one in (str(label.run.folder), "made/model.onnx")
    )
    first, second = (done.stdout.splitlines() for done in (own, other))
    assert first[0] == second[0] and len(second) == 4
    assert [line.split(",")[:2] for line in first] == [line.split(",")[:2] for line in second]


@pytest.mark.slow
def test_a_published_net_is_exported_with_its_names_and_licence(tmp_path: Path) -> None:
    made = export("efficientnet_lite0", out=tmp_path / "made")
    assert len(made.classes) == 1000 and "tench" in made.classes[0]
    text = (made.folder / "CARD.md").read_text("utf-8")
    assert "Apache-2.0" in text and "no figures of its own" in text


def test_a_folder_is_read_again(label: SimpleNamespace) -> None:
    for path in (label.made.folder, label.made.file):
        assert isinstance(load(path), Exported)
    assert not isinstance(load(label.run.folder), Exported)
