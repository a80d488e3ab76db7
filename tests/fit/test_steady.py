"""Regime features by steps: the loop runs on what the frozen trunk made of the pictures once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neocog import fit
from neocog.data import open_source
from neocog.data.augment import Augment
from neocog.data.batches import Batches, Known
from neocog.data.kinds import TextLists
from neocog.data.ready import Vectors, some_of
from neocog.data.source import Selected
from neocog.errors import DataError, UsageError
from neocog.fit import kept
from neocog.fit.run import read_tensors, records
from neocog.records import Preprocess

DATA = "drawn:n=64,size=32"
HOW: dict[str, Any] = {
    "task": "match-captions", "regime": "features", "epochs": 2, "seed": 3, "progress": False, "device": "cpu",
    "precision": "float32", "diagnosis": False, "task_options": {"tower": "cdssm", "dimensions": 16},
    "set": {"min_steps": 1, "batch_size": 16, "flip": "random"},
}  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a few steps."""
    folder = tmp_path_factory.mktemp("start") / "run"
    quiet: dict[str, Any] = {"progress": False, "device": "cpu", "precision": "float32", "diagnosis": False}
    fit.train(DATA, net="cifar_resnet20", epochs=1, set={"min_steps": 1}, out=folder, **quiet)
    return folder


def test_a_killed_training_goes_on_bit_for_bit_with_the_features_on_disk(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit.train(DATA, start=start, out=tmp_path / "a" / "whole", **HOW)
    assert (whole.folder / "features" / "train-mirrored-0.safetensors").exists()
    assert len(records(whole.folder, "epoch")) == 2
    part = fit.train(DATA, start=start, out=tmp_path / "b" / "part", save_every=0.0, **HOW)
    for file in ("net.json", "weights.safetensors"):
        (part.folder / file).unlink()

    def computed(*_: Any, **__: Any) -> Any:
        raise AssertionError("the features are on disk")

    monkeypatch.setattr(kept, "features_of", computed)
    again = fit.resume(part.folder, progress=False)
    a, b = whole.net().state_dict(), again.net().state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert whole.metrics == again.metrics
    beside = fit.train(DATA, start=start, out=tmp_path / "a" / "beside", **{**HOW, "seed": 3})  # a neighbour's features
    assert beside.metrics == whole.metrics
    more = fit.resume(beside.folder, epochs=3, progress=False)
    assert len(records(more.folder, "epoch")) == 3


def test_the_trunk_stays_and_takes_pictures_as_well(start: Path, tmp_path: Path) -> None:
    run = fit.train(DATA, start=start, out=tmp_path / "run", **{**HOW, "epochs": 1})
    given, _ = read_tensors(start / "weights.safetensors")
    now = run.net().state_dict()
    name = "layer1.0.conv1.weight"
    same = [k for k in now if k.endswith(name)]
    assert same and all(torch.equal(now[k], next(v for n, v in given.items() if n.endswith(name))) for k in same)
    source = open_source(DATA)
    seen, _ = read_tensors(run.folder / "test.safetensors")
    (answer,) = run.predict(source.read(int(seen["index"][0])))
    assert np.allclose(answer.vector, seen["pictures"][0].numpy(), atol=1e-5)
    figures = fit.evaluate([run], DATA, split="test")["runs"][0]
    assert figures["loss"] == pytest.approx(run.metrics["test_loss"], rel=5e-3)  # in bfloat16, where that is faster


def test_pictures_that_cannot_be_read_are_left_out(start: Path, tmp_path: Path) -> None:
    class Broken(Selected):
        def read(self, i: int) -> Any:
            if i % 7 == 3:
                raise DataError("gone")
            return super().read(i)

    source = Broken(open_source(DATA), np.arange(64))
    run = fit.train(source, start=start, out=tmp_path / "run", **{**HOW, "epochs": 1})
    good = [i for i in range(64) if i % 7 != 3]
    assert sum(read_tensors(run.folder / f"{s}.safetensors")[0]["index"].numel() for s in ("val", "test")) == sum(
        bool(i in good) for i in np.flatnonzero(open_source(DATA).splits > 0)
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"set": {"cutout": 4}}, "cutout has no effect on features"),
        ({"set": {"strength": 1.0}}, "strength has no effect on features"),
        ({"layer": "layer1", "regime": None}, "learns on features by steps"),
        ({"task_options": {"tower": "babel"}}, "expected one of sentence, dssm, cdssm"),
        ({"task_options": {"dimension": 8}}, "did you mean 'dimensions'"),
        ({"task_options": {"loss": "square"}}, "expected one of softmax, hinge, hardest"),
    ],
)
def test_wishes_without_meaning_are_refused(start: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fit.train(DATA, start=start, out=tmp_path / "run", **{**HOW, **change})


def test_views_and_texts_are_chosen_by_seed_and_epoch() -> None:
    values = np.stack([np.arange(8.0), -np.arange(8.0)])[..., None].astype(np.float32)
    vectors = Vectors(list(values), Preprocess(1, 1), [])
    column = TextLists([f"{i}{c}" for c in "abc"] for i in range(8))
    known = Known({"captions": column}, lambda values, warp, valid: {"said": values["captions"]})

    def epochs(seed: int, rank: int = 0, world: int = 1) -> list[tuple[list[float], list[Any]]]:
        feed = Batches(
            vectors, known, Augment(), 8, seed=seed, device=torch.device("cpu"), texts=2, rank=rank, world=world
        )
        stream = feed.stream(0)
        batches = [next(stream) for _ in range(3)]
        return [(b.x[:, 0].tolist(), b.targets["said"]) for b in batches]

    assert epochs(1) == epochs(1) != epochs(2)
    first, second, third = epochs(1)
    assert first != second != third
    assert {abs(v) for v in first[0]} == set(range(8)) and min(first[0]) < 0 < max(first[0])
    for x, said in (first, second):
        assert all(len(of) == 2 and {t[0] for t in of} == {str(int(abs(v)))} for v, of in zip(x, said, strict=True))
    halves = [epochs(1, rank, 2)[0] for rank in (0, 1)]
    assert (halves[0][0] + halves[1][0], halves[0][1] + halves[1][1]) == first


def test_some_of_several_texts_are_shown() -> None:
    assert some_of(("a", "b", "c"), 2, 0.9) == ("c", "a") and some_of((), 2, 0.5) == ()


PROCESSES = """
import sys, torch; torch.set_num_threads(1)
from neocog import fit
fit.train("drawn:n=96,size=32", start=sys.argv[1], out=sys.argv[2], task="match-captions", regime="features", epochs=2,
          progress=False, device="cpu", precision="float32", diagnosis=False, seed=1,
          task_options=dict(tower="cdssm", dimensions=16, dropout=0, words=0), set=dict(min_steps=1, batch_size=24))
"""


@pytest.mark.slow
def test_two_processes_train_on_features_as_one_does(start: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(PROCESSES)
    many = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    many += ["--rdzv-endpoint", "127.0.0.1:0"]
    for name, more in (("one", []), ("two", many)):
        command = [sys.executable, *more, str(script), str(start), str(tmp_path / name / "run")]
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    a, b = (read_tensors(tmp_path / n / "run" / "weights.safetensors")[0] for n in ("one", "two"))
    for name, tensor in a.items():
        torch.testing.assert_close(b[name], tensor, rtol=1e-3, atol=1e-4)
