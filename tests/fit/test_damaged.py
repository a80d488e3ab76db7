"""JSON of a run that is damaged, edited or of a newer version: a clear error, and never a wrong answer."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import neocog
from neocog import fit
from neocog.cli import subject
from neocog.errors import NeocogError, RunError
from neocog.fit.plan import Plan
from neocog.fit.report import write_report
from neocog.fit.run import misfit, read_json, records

PICTURES = np.random.default_rng(0).integers(0, 256, (60, 32, 32), dtype=np.uint8), [i % 3 for i in range(60)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    how: dict[str, Any] = {"epochs": 1, "device": "cpu", "diagnosis": False, "progress": False, "set": {"min_steps": 1}}
    return fit.train(PICTURES, net="lenet5", out=tmp_path_factory.mktemp("runs") / "r", **how).folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "r"))


def change(file: Path, how: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(file.read_text())
    how(values)
    file.write_text(json.dumps(values))


def everything(run: Path, file: str) -> None:
    """What is done with a file of a run: predictions, the figures, anatomy, the report, resume."""
    opened = neocog.load(run)
    if file == "net.json":
        opened.predict(PICTURES[0][:2])
        opened.summary()
        subject.load(str(run), None)
        write_report(run)
    else:
        fit.resume(run, data=PICTURES, progress=False)


@pytest.mark.parametrize(("names", "count"), [(["0", "1"], 2), (["0", "1", "2", "3"], 4)])
def test_a_class_too_few_or_too_many(run: Path, names: list[str], count: int) -> None:
    change(run / "net.json", lambda card: card.update(classes=names))
    with pytest.raises(RunError, match=r"the classes of the task and of the net differ.*'neocog resume .*' writes it"):
        neocog.load(run)
    change(run / "net.json", lambda card: card["task"].update(classes=names))
    said = rf"names {count} class(es)? for a net with 3 outputs.*'[Nn]eocog resume .*' writes it again"
    with pytest.raises(RunError, match=said):
        neocog.load(run)
    with pytest.raises(RunError, match=said):
        subject.load(str(run), None)
    change(run / "net.json", lambda card: card["net"].update(classes=count))  # the weights know better
    with pytest.raises(RunError, match=said):
        neocog.load(run).predict(PICTURES[0][:2])
    again = fit.resume(run, data=PICTURES, progress=False)  # does what the message says
    assert again.classes == ("0", "1", "2") and len(again.predict(PICTURES[0][:2])) == 2


@pytest.mark.parametrize("file", ["net.json", "run.json"])
def test_a_newer_version_says_so(run: Path, file: str) -> None:
    change(run / file, lambda values: values.update(neocog="7.1.0"))
    with pytest.raises(RunError, match=rf"{file} was written by neocog 7\.1\.0, and this is {neocog.__version__}; up"):
        neocog.load(run)
    change(run / file, lambda values: values.update(neocog="0.0.9"))
    neocog.load(run)


@pytest.mark.parametrize("file", ["net.json", "run.json"])
@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "null", '"run"', "[" * 100_000, '{"a":' * 100_000, '{"settings": 3}', "\xff"]
)
def test_other_json_is_refused(run: Path, file: str, text: str) -> None:
    (run / file).write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=rf"{file} is damaged"):
        everything(run, file)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a JSON value."""
    if not isinstance(value, dict):
        return [at]
    return [at, *(place for key, one in value.items() for place in places(one, (*at, key)))]


def test_whatever_is_missing_or_of_another_type_is_no_crash(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def enough(*_: Any, **__: Any) -> None:
        raise RunError("resume has read run.json")

    monkeypatch.setattr(fit.training.Data, "open", enough)
    for file in ("net.json", "run.json"):
        whole = read_json(run / file)
        for place in places(whole):
            for other in ("text", {}, [[["deep"]]]):
                values = json.loads(json.dumps(whole))
                inner = values
                for key in place[:-1]:
                    inner = inner[key]
                if not place:
                    values = other
                elif other == {}:
                    del inner[place[-1]]
                else:
                    inner[place[-1]] = other
                (run / file).write_text(json.dumps(values))
                with contextlib.suppress(NeocogError):
                    everything(run, file)
        (run / file).write_text(json.dumps(whole))


@pytest.mark.parametrize("wrong", [{"weights": "text"}, {"temperature": "text"}, {"temperature": -1}, {"more": 1}])
def test_a_task_that_cannot_be_made(run: Path, wrong: dict[str, Any]) -> None:
    change(run / "net.json", lambda card: card["task"].update(wrong))
    with pytest.raises(RunError, match=r"net\.json is damaged: its task cannot be built"):
        neocog.load(run)
    change(run / "run.json", lambda values: values["settings"]["task"].update(wrong))
    with pytest.raises(RunError, match=r"run\.json is damaged: its task cannot be built"):
        fit.resume(run, data=PICTURES, progress=False)


def test_a_log_with_other_lines(run: Path) -> None:
    lines = (run / "log.jsonl").read_text() + '3\n[]\nnull\n"text"\n' + "[" * 100_000 + '\n{"kind": "end"}\n{"ki'
    (run / "log.jsonl").write_text(lines)
    assert all(isinstance(record, dict) for record in records(run))
    assert records(run)[-1] == {"kind": "end"}


def test_what_a_plan_may_hold(run: Path) -> None:
    plan = read_json(run / "run.json")["settings"]
    assert misfit(plan, Plan) == ""
    for field, other, said in (
        ("batch", "16", 'batch is "16" instead of a number'),
        ("batch", True, "batch is true instead of a number"),
        ("task", "abc", 'task is "abc" instead of an object'),
        ("columns", {"label": 1}, "columns.label is 1 instead of a text"),
        ("recipe", {**plan["recipe"], "lr": None}, "recipe.lr is null instead of a number"),
        ("recipe", {**plan["recipe"], "colours": 1}, "recipe has an unknown key 'colours'"),
        ("preprocess", {"size": 32}, "preprocess has no key 'resize'"),
        ("taps", 3, "taps is 3 instead of an object"),
    ):
        assert misfit({**plan, field: other}, Plan) == said
    assert misfit("abc", list[str], "classes") == 'classes is "abc" instead of a list'
    assert misfit(["a", 1], list[str], "classes") == "classes[1] is 1 instead of a text"
