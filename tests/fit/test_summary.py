"""Sentences that carry a text's meaning: by nearness in a space, and by what they add to a net's answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from neocog import fit
from neocog.cli import app
from neocog.errors import DataError, UsageError
from neocog.fit.summary import nearness, summarise

QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "precision": "float32", "seed": 1, "diagnosis": False}
TEXT = "A dog runs over the grass. The stock market fell by a tenth. A brown dog plays with a ball. Two dogs run."


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> fit.Run:
    folder = tmp_path_factory.mktemp("films")
    rows = [f"{{\"text\": \"it was shown in may . the film is {w} . we had tea .\", \"label\": \"{label}\"}}\n"
            for _ in range(10) for label, words in (("good", "moving funny clever"), ("bad", "dull tired loud"))
            for w in words.split()]  # fmt: skip
    (folder / "films.jsonl").write_text("".join(rows))
    how: dict[str, Any] = {"net_options": {"vectors": "random", "maps": 16, "dimensions": 16, "dropout": 0.0},
                           "epochs": 8, "set": {"batch_size": 8, "min_steps": 1, "lr": 0.01}}  # fmt: skip
    return fit.train(folder / "films.jsonl", out=folder / "run", **QUIET, **how)


def test_without_a_run_the_sentences_near_the_others_are_kept() -> None:
    found = summarise(TEXT, sentences=2)
    assert 1 not in found.kept and len(found.kept) == 2 and list(found.kept) == sorted(found.kept)
    assert found.text().count("\n") == 1 and min(found.scores) == found.scores[1]
    vectors = np.array([[1.0, 0], [2.0, 0.1], [0, 1.0]])
    scores = nearness(["a", "b", "c"], lambda texts: vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert scores == pytest.approx(unit @ unit.mean(0) / np.linalg.norm(unit.mean(0)))


def test_with_a_run_those_are_kept_that_speak_for_its_answer(run: fit.Run) -> None:
    text = "We had tea . The film is dull . It was shown in may ."
    found = summarise(text, run, sentences=1)
    assert found.text() == "The film is dull ." and found.of == "bad"
    assert sum(found.scores) == pytest.approx(sum(part for _, part in run.decided(text).words), abs=1e-5)
    assert summarise(text, run, sentences=1, what="good").scores[1] < 0


def test_what_is_not_read_is_said_and_copies_are_kept_once(run: fit.Run) -> None:
    text = "The film is dull . " * 9
    found = summarise(text, run, sentences=5)
    assert len(found.kept) == 1 and found.unread > 0 and found.to_json()["sentences"][-1]["score"] is None
    with pytest.raises(DataError, match="nothing to summarise"):
        summarise(" ")
    with pytest.raises(UsageError, match="at least 1 sentence"):
        summarise(text, sentences=0)
    with pytest.raises(UsageError, match="only a net that answers"):
        summarise(text, what="good")


def test_the_command(run: fit.Run, tmp_path: Path) -> None:
    path, page = tmp_path / "a.txt", tmp_path / "a.html"
    path.write_text("We had tea . The film is dull . It was shown in may .")
    ask = CliRunner().invoke
    said = ask(app, ["summarise", str(run.folder), str(path), "--sentences", "1", "--all", "--html", str(page)])
    assert [line[:6] for line in said.stdout.splitlines()] == ["     1", "*    2", "     3"]
    assert "The film is dull ." in page.read_text() and page.read_text().count("<span") == 3
    found = json.loads(ask(app, ["summarise", str(path), "--sentences", "1", "--json"]).stdout)
    assert found["texts"][0]["of"] == "nearness to the whole" and len(found["texts"][0]["summary"]) == 1
    assert ask(app, ["summarise", str(tmp_path / "none.txt")]).exit_code == 2
    before = path.read_text()
    over = ask(app, ["summarise", str(path), "--html", str(path)])
    assert over.exit_code == 2 and "files that are read" in over.output and path.read_text() == before
    over = ask(app, ["predict", str(run.folder), str(path), "--out", str(path)])
    assert over.exit_code == 2 and "files that are read" in over.output and path.read_text() == before
    page.write_text("old")  # a long text is no path
    long = ask(app, ["predict", str(run.folder), "good film " * 500, "--format", "csv", "--out", str(page)])
    assert long.exit_code == 0 and page.read_text() != "old"


def test_a_run_that_answers_nothing_about_texts_is_refused(run: fit.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.task, "name", "pose", raising=False)
    with pytest.raises(UsageError, match="is of the task pose on texts; give a run of label, tags, number"):
        summarise("A film . It is good .", run)
