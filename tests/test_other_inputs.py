"""Tasks that take any input do so: the contract of `test_every_task`, on inputs that are not pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from neocog import fit, tasks
from neocog.cli import app
from neocog.data import open_source, reader
from neocog.errors import DataError, UsageError
from neocog.tasks.task import saved

QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "precision": "float32", "diagnosis": False, "seed": 3}
ANY = [name for name in tasks.names() if tasks.find(name).inputs == ()]


# of which samples are drawn; a game has no annotations, so no other task is asked of it: tests/tasks/test_play.py
KINDS = [kind for kind in reader.kinds() if "drawn" in vars(reader.find(kind))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ANY)
def test_trains_saves_loads_resumes_and_predicts(task: str, kind: str, tmp_path: Path, first_checkpoint: Path) -> None:
    data = f"drawn:n=32,size=32,kind={kind}"
    how: dict[str, Any] = {**QUIET, "task": task, "epochs": 2, "set": {"min_steps": 1, "batch_size": 8}}
    whole = fit.train(data, out=tmp_path / "whole", **how, save_every=0.0)
    assert not (first_checkpoint / "weights.safetensors").exists()
    again = fit.resume(first_checkpoint, progress=False)
    a, b = whole.net().state_dict(), again.net().state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    loaded = fit.Run(whole.folder)
    assert saved(loaded.task) == saved(whole.task) and loaded.reader is not None and loaded.reader.kind == kind
    assert loaded.report.is_file() and loaded.summary() and fit.evaluate([loaded], data)["n"]
    told = CliRunner().invoke(app, ["evaluate", str(loaded.folder), data]).stdout
    assert f" {kind}" in told.split(":")[1] and "picture" not in told.split("\n")[0]
    compared = CliRunner().invoke(app, ["compare", str(loaded.folder), str(loaded.folder), "lenet5"])
    assert compared.exit_code == 0 and "lenet5" in compared.stdout, compared.output
    source = open_source(data)
    good, bad = loaded.predict([source.read(0), b"\0\0no" * 99])
    assert good.problem is None and bad.problem
    good.row(), good.to_json()


def test_what_only_pictures_have_is_refused(tmp_path: Path) -> None:
    data = "drawn:n=20,kind=text"
    for how, said in (
        ({"net": "resnet18"}, "resnet18 is a net for .*picture.* on texts"),
        ({"start": "efficientnet_lite0"}, "--from is for pictures"),
        ({"size": 32}, "--size is for pictures"),
        ({"set": {"flip": "random"}}, "--set flip= is for pictures"),
        ({"input_options": {"token": "words"}}, "no option 'token' .did you mean 'tokens'"),
    ):
        with pytest.raises(UsageError, match=said):
            fit.train(data, out=tmp_path / "run", **QUIET, **how)
    with pytest.raises(DataError, match="holds texts, and the task detect is for pictures"):
        fit.train(data, task="detect", out=tmp_path / "run", **QUIET)
    with pytest.raises(UsageError, match="--input-option is for texts"):
        fit.train("drawn:n=20,size=32", input_options={"tokens": "words"}, out=tmp_path / "run", **QUIET)
