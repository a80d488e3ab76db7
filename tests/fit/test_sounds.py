"""Recordings in training and after it: nets for pictures on spectrograms, and what is heard when."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from neocog import fit
from neocog.data.read_sound import SoundReader
from neocog.data.sound import written
from neocog.data.spectra import Spectrum
from neocog.errors import UsageError
from neocog.fit.spotting import spot

QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "precision": "float32", "diagnosis": False, "seed": 3}
DATA = "drawn:n=16,size=32,kind=sound"


def test_a_net_for_pictures_reads_spectrograms(tmp_path: Path) -> None:
    how: dict[str, Any] = {**QUIET, "epochs": 1, "set": {"min_steps": 1, "batch_size": 8}}
    run = fit.train(DATA, net="mobilenet_v1_025", input_options={"seconds": 0.4}, out=tmp_path / "run", **how)
    assert isinstance(run.reader, SoundReader) and run.reader.shape == (1, 40, 41)
    assert run.net().spec["in_channels"] == 1
    with pytest.raises(
        UsageError, match=r"lenet5 needs square pictures of one size, and the inputs are 40x\d+; .*bands"
    ):
        fit.train(DATA, net="lenet5", out=tmp_path / "no", **how)
    with pytest.raises(UsageError, match="needs pictures of at least"):
        fit.train(DATA, net="mobilenet_v1_025", input_options={"features": "wave"}, out=tmp_path / "no", **how)


class HighOrLow(nn.Module):
    """Says by the middle of a window whether a tone is low or high."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        middle = x[:, :, x.shape[2] // 2 - 5 : x.shape[2] // 2 + 5].mean(2)
        return 3 * torch.stack([middle[:, :13].mean(1), middle[:, 20:].mean(1)], 1)


class Fake(fit.Run):
    """A run with that net."""

    def __init__(self, task: Any = None) -> None:
        spectrum = Spectrum(8000, 256, 80)
        self.__dict__["reader"] = SoundReader(spectrum, 3200)
        self.folder, self.__dict__["task"] = Path("a/run"), self

    classes, classifies = ("low", "high"), True

    def net(self) -> nn.Module:
        return HighOrLow()

    def run(self, net: nn.Module, batch: Any) -> torch.Tensor:
        return net(batch.x)

    def answers(self, outputs: torch.Tensor, batch: Any, keys: list[str], top: int) -> list[Any]:
        rows = outputs.softmax(1).tolist()
        return [SimpleNamespace(top=list(zip(("low", "high"), row, strict=True))) for row in rows]


def test_spots_are_where_the_pieces_were() -> None:
    rate, chance = 8000, np.random.default_rng(0)
    t = np.arange(round(0.3 * rate)) / rate
    pieces, truth, at = [], [], 0
    for label, pause in (("low", 0.5), ("high", 0.3), ("high", 0.4), ("low", 0.2)):
        pieces += [np.zeros(round(pause * rate)), 0.5 * np.sin(2 * np.pi * (400 if label == "low" else 2500) * t)]
        at += round(pause * rate)
        truth.append((label, at / rate, at / rate + 0.3))
        at += len(t)
    wave = np.concatenate([*pieces, np.zeros(rate)])
    wave = (wave + chance.normal(0, 1e-3, len(wave))).astype(np.float32)
    found = list(spot(Fake(), [wave, written(wave, rate), b"no", np.zeros(9000, np.float32)]))
    assert [one.label for one in found] == [label for label, *_ in truth] * 2 + [None, None]
    for one, (_, begin, end) in zip(found, truth, strict=False):
        assert begin - 0.1 <= one.begin < one.end <= end + 0.1 and one.probability > 0.5
    assert found[-2].problem and found[-1].problem is None and found[-1].text() == "nothing found"
    assert "low" in found[0].text() and set(found[0].row()) == {"begin", "end", "label", "probability"}


def test_spotting_needs_a_run_on_recordings() -> None:
    run = Fake()
    run.__dict__["reader"] = None
    with pytest.raises(UsageError, match="not trained to tell recordings apart"):
        list(spot(run, []))
    with pytest.raises(UsageError, match="least in"):
        list(spot(Fake(), [], least=0))


def test_a_report_lets_hear_the_surest_errors_and_then_the_least_sure_right_answers() -> None:
    from neocog.fit.words import most_confident

    logits = np.array([[0, 3.0], [0, 9], [2, 1], [0, 1], [5, 0]], np.float32)  # right by 3, 9; wrong by 1; unknown; 5
    seen = {"rows": np.arange(10, 15), "logits": logits, "labels": np.array([1, 1, 1, -1, 0])}
    task: Any = SimpleNamespace(worst=lambda seen: np.zeros(0, np.int64))
    assert most_confident(task, seen).tolist() == [12, 10, 14, 11]
    many = {"rows": np.arange(40), "logits": np.tile(logits[:2], (20, 1)), "labels": np.array([0, 1] * 20)}
    assert len(most_confident(task, many)) == 20  # all wrong ones
    assert len(most_confident(task, {**many, "labels": np.ones(40, int)})) == 12
