"""Runs on texts, sounds and clips as folders: the model, and the small script that reads their files."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import neocog
from neocog.data import open_source
from neocog.data.sound import written
from neocog.data.spectra import powers
from neocog.errors import NetError, UsageError
from neocog.export import export, load
from neocog.export.given import given_to
from neocog.fit import predict
from neocog.fit.predicting import Run

onnxruntime = pytest.importorskip("onnxruntime")


def trained(folder: Path, kind: str, **how: Any) -> Run:
    if kind == "sound":
        pytest.importorskip("soundfile")
    if kind == "clip":
        pytest.importorskip("av")
    neocog.train(f"drawn:kind={kind},n=32", epochs=1, out=folder, progress=False, diagnosis=False, **how)
    return Run(folder)


def numbers(run: Run, given: list[Any]) -> list[dict[str, float]]:
    return [dict(one.top) for one in predict(run, given, top=9, device="cpu")]


def checked(run: Run, kind: str, made: Any) -> None:
    source = open_source(f"drawn:kind={kind},n=5,seed=8")
    given = [source.read(i) for i in range(5)]
    for own, other in zip(numbers(run, given), numbers(load(made.file), given), strict=True):
        assert other == pytest.approx(own, abs=1e-4)
    found = json.loads((made.folder / "parity.json").read_text("utf-8"))
    assert found[f"{kind}s"] and found["equal_answers"] == found["script"]["equal_answers"] == 1.0
    card, of = (made.folder / "CARD.md").read_text("utf-8"), made.about["input"]
    assert f"`{of['name']}` {of['type']} (B, " in card and "picture" not in card.replace("each picture", "")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run on texts, and its export."""
    folder = tmp_path_factory.mktemp("texts")
    run = trained(folder / "run", "text")
    return SimpleNamespace(run=run, made=export(run, out=folder / "made"))


def test_a_run_on_texts_is_exported(texts: SimpleNamespace) -> None:
    checked(texts.run, "text", texts.made)
    assert texts.made.about["dynamic"] == ["batch", "length"]
    assert "word vectors began as those of the package wordllama (MIT)" in (texts.made.folder / "CARD.md").read_text()


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        pytest.param("text", {"input_options": {"tokens": "trigrams"}}, marks=pytest.mark.slow),
        pytest.param("text", {"input_options": {"tokens": "pieces"}}, marks=pytest.mark.slow),
        pytest.param("text", {"input_options": {"tokens": "subwords"}}, marks=pytest.mark.slow),
        pytest.param("text", {"input_options": {"tokens": "characters"}}, marks=pytest.mark.slow),
        pytest.param("text", {"net": "sentence_dcnn"}, marks=pytest.mark.slow),
        pytest.param(  # equal windows of letters are many
            "text", {"net": "sentence_dcnn", "input_options": {"tokens": "characters"}}, marks=pytest.mark.slow
        ),
        ("sound", {}),
        pytest.param("sound", {"net": "wave_m3", "input_options": {"features": "wave"}}, marks=pytest.mark.slow),
        pytest.param("sound", {"input_options": {"features": "mfcc", "trim": 0}}, marks=pytest.mark.slow),
        ("clip", {"input_options": {"frames": 4}}),
    ],
)
def test_what_a_reader_reads_is_exported(kind: str, how: dict[str, Any], tmp_path: Path) -> None:
    run = trained(tmp_path / "run", kind, **how)
    made = export(run, out=tmp_path / "made")
    checked(run, kind, made)
    copied = (made.folder / "tokenizer.json").is_file()
    assert copied == (
        "is copied from the package wordllama (MIT, © 2024" in (made.folder / "CARD.md").read_text("utf-8")
    )
    if kind == "sound" and not how:
        _recordings_of_any_rate_and_length(made, tmp_path)
    if kind == "clip":
        _clips_of_any_kind(made, tmp_path)


def test_texts_are_prepared_without_neocog(texts: SimpleNamespace, tmp_path: Path) -> None:
    given = given_to(texts.made)
    prepare = runpy.run_path(str(texts.made.folder / "prepare.py"))["prepare"]
    for text in ("", "A red circle", "it's 'quoted', NOT\u00a0known \u4e2d\u6587 \ud800 x-ray", "circle " * 99):
        assert np.array_equal(prepare(text), given.array(given.read(text))), text
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for file, text in zip(files, ("a small red circle", "two stars"), strict=True):
        file.write_text(text, "utf-8")
    said = subprocess.run(
        [sys.executable, "-W", "error", str(texts.made.folder / "prepare.py"), *map(str, files)],
        capture_output=True, text=True, timeout=120,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert [line.split()[1] for line in said.stdout.splitlines()] == [a.top[0][0] for a in predict(texts.run, files)]
    assert "import neocog" not in (texts.made.folder / "prepare.py").read_text("utf-8")


def _recordings_of_any_rate_and_length(made: Any, folder: Path) -> None:
    given, chance = given_to(made), np.random.default_rng(0)
    prepare = runpy.run_path(str(made.folder / "prepare.py"))["prepare"]
    for k, (rate, length) in enumerate(((8000, 3001), (8000, 20_000), (22_050, 7000))):
        wave = (chance.normal(0, 0.2, length) * (np.arange(length) > length // 4)).astype(np.float32)
        file = folder / f"{k}.wav"
        file.write_bytes(written(wave, rate))
        assert np.array_equal(prepare(file), given.array(given.read(file))), (rate, length)


def _clips_of_any_kind(made: Any, folder: Path) -> None:
    given, chance = given_to(made), np.random.default_rng(0)
    prepare = runpy.run_path(str(made.folder / "prepare.py"))["prepare"]
    frames = [np.kron(chance.integers(0, 255, (6, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8)) for _ in range(11)]
    (folder / "frames").mkdir()
    for k, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / "frames" / f"f{k}.png")
    first, *others = map(Image.fromarray, frames)
    first.save(folder / "moving.gif", save_all=True, append_images=others, duration=100)
    for file in (folder / "frames", folder / "moving.gif"):
        off = np.abs(prepare(file).astype(int) - given.array(given.read(file)))
        assert off.max() <= 2, file.name


def test_the_convolution_in_a_graph_is_the_fourier_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    waves = torch.randn(2, 400, generator=torch.Generator().manual_seed(0))
    expected = powers(waves, 60, 25)
    monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)
    monkeypatch.delattr(torch, "stft")
    assert powers(waves, 60, 25).shape == expected.shape == (2, 31, 17)
    assert torch.allclose(powers(waves, 60, 25), expected, atol=1e-3)


def test_what_is_not_possible_is_said(texts: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--int8 is for nets on pictures"):
        export(texts.run, int8=True, out=tmp_path / "made")
    with pytest.raises(UsageError, match=r"run reads texts; drawn has pictures"):
        export(texts.run, pictures="drawn:n=4,size=32", out=tmp_path / "made")


@pytest.mark.slow
def test_words_of_parts_need_texts_of_any_length(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "text", input_options={"tokens": "trigrams"})
    with pytest.raises(NetError, match=r"texts of one length only.*tokens=words.*--to onnx"):
        export(run, "torch", out=tmp_path / "made")
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_a_torch_program_takes_texts_of_its_length(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "text", input_options={"longest": 6})
    made = export(run, "torch", out=tmp_path / "made")
    for own, other in zip(*(numbers(one, ["a red circle", "star"]) for one in (run, made)), strict=True):
        assert other == pytest.approx(own, abs=1e-4)
    prepare = runpy.run_path(str(made.folder / "prepare.py"))["prepare"]
    assert prepare("star").shape == tuple(made.about["input"]["shape"][1:]) == (6,)
