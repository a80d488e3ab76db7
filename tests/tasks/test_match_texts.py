"""Pairs of texts: the tables they come from, training by the same loop, figures, and what is said of two texts."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from neocog import fit
from neocog.cli import app
from neocog.data import open_source
from neocog.data.check import check
from neocog.data.pairs import pair_columns
from neocog.errors import DataError, UsageError
from neocog.fit.job import Data
from neocog.nets.dssm import CDSSM, DSSM
from neocog.nets.matching import TwoTexts, Windows
from neocog.tasks.match_texts import MatchPairs, MatchTexts
from neocog.tasks.ranking import graded
from neocog.tasks.task import load, saved
from neocog.text.pairs import SHARED, shared
from neocog.text.tokens import Trigrams

COLOURS, THINGS = ("red", "green", "blue", "black", "white", "yellow"), ("dog", "cat", "car", "boat", "bird", "tree")
QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "precision": "float32", "seed": 2}


def write(path: Path, head: list[str], rows: list[list[Any]]) -> str:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return str(path)


@pytest.fixture
def queries(tmp_path: Path) -> str:
    rows = [[f"{c} {t}", f"a {t} that is {c}"] for c in COLOURS for t in THINGS]
    return write(tmp_path / "pairs.csv", ["query", "title"], rows)


@pytest.fixture
def labelled(tmp_path: Path) -> str:
    random, rows = np.random.default_rng(0), []
    for k in range(80):
        c, t, other = COLOURS[k % 6], THINGS[random.integers(6)], THINGS[random.integers(6)]
        same = k % 2 == 0 or t == other
        rows.append(
            [f"the {c} {t} sleeps here", f"here sleeps the {c} {t}" if same else f"nobody saw any {other}", int(same)]
        )
    return write(tmp_path / "same.csv", ["sentence1", "sentence2", "is_duplicate"], rows)


def test_a_table_of_pairs_is_recognised_by_its_columns(queries: str, labelled: str) -> None:
    source = open_source(queries)
    assert {role: column.kind for role, column in source.columns.items()} == {
        "label": "category", "first": "texts", "second": "texts",
    }  # fmt: skip
    assert source.columns["first"][0] == ("red dog",) and source.columns["second"][0] == ("a dog that is red",)
    assert Data.open(queries, None, True, task="match").task is MatchTexts
    assert Data.open(labelled, None, True, task="match").task is MatchPairs
    assert Data.open(labelled, None, True).task is MatchPairs
    assert pair_columns(["id", "Text_A", "text_b", "same", "split"]) == {
        "first": "Text_A", "second": "text_b", "label": "same", "split": "split",
    }  # fmt: skip
    assert pair_columns(["path", "label"]) is None


def test_columns_can_be_named_and_bad_rows_are_told(tmp_path: Path) -> None:
    rows = [["w", "x", "train"], ["", "y", "train"], ["z", "v", "test"]]
    table = write(tmp_path / "t.csv", ["from", "to", "split"], rows)
    with pytest.raises((DataError, UsageError)):
        open_source(table)
    source = open_source(table, columns={"first": "from", "second": "to"})
    assert len(source) == 2 and source.splits.tolist() == [0, 2]
    assert source.problems[0].key == "t.csv, row 2" and any("1 row was skipped" in note for note in source.notes)
    with pytest.raises(UsageError, match=r"no column 'form' .did you mean 'from'"):
        open_source(table, columns={"first": "form", "second": "to"})
    odd = write(tmp_path / "o.csv", ["question", "answer", "label"], [["a", "b", "maybe"], ["c", "d", "1"]])
    source = open_source(odd)
    assert "same" not in source.columns and any("it holds 'maybe', not 0 and 1" in note for note in source.notes)


@pytest.mark.parametrize("tower", ["sentence", "cdssm", "dssm"])
def test_pairs_are_learned_and_a_killed_training_goes_on_bit_for_bit(queries: str, tmp_path: Path, tower: str) -> None:
    how: dict[str, Any] = {**QUIET, "task": "match", "task_options": {"tower": tower, "dimensions": 32}, "epochs": 3}
    how["set"] = {"min_steps": 1, "batch_size": 12}
    whole = fit.train(queries, out=tmp_path / "whole", **how)
    part = fit.train(queries, out=tmp_path / "part", save_every=0.0, **how)
    for file in ("net.json", "weights.safetensors"):
        (part.folder / file).unlink()
    again = fit.resume(part.folder, progress=False)
    a, b = whole.net().state_dict(), again.net().state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a) and whole.metrics == again.metrics
    loaded = fit.Run(whole.folder)
    assert saved(loaded.task) == saved(load(json.loads(json.dumps(saved(whole.task)))))
    assert {"val_first_to_second_ndcg_at_10", "val_second_to_first_mrr"} <= whole.metrics.keys()
    assert whole.report.is_file() and whole.summary()
    near, far = fit.match_texts(loaded, [("red dog", "a dog that is red"), ("red dog", "a boat that is green")])
    assert -1 <= far.cosine <= 1 and near.same is None and near.answer is None
    again_near, _ = fit.match_texts(loaded, [("red dog", "a dog that is red"), ("x", "y")])
    assert again_near.cosine == pytest.approx(near.cosine, abs=1e-5)  # alone or among others


def test_what_belongs_together_comes_near(queries: str, tmp_path: Path) -> None:
    how: dict[str, Any] = {**QUIET, "diagnosis": False, "task_options": {"dimensions": 32}, "epochs": 12}
    run = fit.train(queries, out=tmp_path / "run", set={"batch_size": 12, "min_steps": 1}, **how)
    near, far = fit.match_texts(run, [("red dog", "a dog that is red"), ("red dog", "a boat that is green")])
    assert near.cosine > far.cosine + 0.2
    for side in near.words:
        assert [token.strip("▁") for token, _ in side] and np.isfinite([part for _, part in side]).all()
    figures = fit.evaluate([run], queries)["runs"][0]
    assert figures["n"] == 36 and figures["first_to_second_recall_at_10"] > 0.5


def test_two_texts_are_called_the_same_or_not(labelled: str, tmp_path: Path) -> None:
    how: dict[str, Any] = {**QUIET, "diagnosis": False, "task_options": {"dimensions": 8}, "epochs": 12}
    run = fit.train(labelled, out=tmp_path / "run", task="match", set={"batch_size": 8}, **how)
    assert run.metrics["val_accuracy"] > 0.8 and {"test_f1", "test_auc", "test_majority"} <= run.metrics.keys()
    asked = ["the red car sleeps here", "here sleeps the red car"]
    yes, no = fit.match_texts(run, [(asked[0], asked[1]), (asked[0], "nobody saw any tree")])
    assert yes.answer and not no.answer and yes.same > no.same
    done = CliRunner().invoke(app, ["match", str(run.folder), *asked, "--json"])
    said = json.loads(done.stdout)
    assert done.exit_code == 0 and said["same"] is True and said["probability"] == pytest.approx(yes.same, abs=1e-4)
    done = CliRunner().invoke(app, ["match", str(run.folder), *asked])
    assert done.exit_code == 0 and "same" in done.stdout and "▁sle" in done.stdout


@pytest.mark.parametrize(
    ("how", "said"),
    [({"net": "resnet18"}, "--net is for pictures"), ({"start": "efficientnet_lite0"}, "--from is for pictures"),
     ({"task_options": {"tower": "x"}}, "expected one of sentence, dssm, cdssm")],
)  # fmt: skip
def test_what_only_pictures_have_is_refused(queries: str, tmp_path: Path, how: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fit.train(queries, out=tmp_path / "run", **QUIET, **how)


def test_pairs_without_an_answer_to_learn_are_refused(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", ["text_a", "text_b", "same"], [[f"a {k}", f"b {k}", 1] for k in range(12)])
    with pytest.raises(DataError, match="expected at least two of each"):
        fit.train(table, out=tmp_path / "run", **QUIET)


def test_equal_texts_stay_in_one_split(tmp_path: Path) -> None:
    rows = [[f"question {k // 4}", f"answer {k}"] for k in range(80)]
    source = open_source(write(tmp_path / "t.csv", ["question", "answer"], rows))
    assert MatchTexts.groups(source).tolist() == [k // 4 for k in range(80)]


def test_towers_read_trigrams_as_the_papers_say() -> None:
    torch.manual_seed(0)
    tokens = Trigrams.learn(["a good dog", "dog good a"])
    ids = torch.from_numpy(tokens.encode(["a good dog", "dog good a", "a good dog"]))
    dssm = DSSM(tokens.size, 8)
    y = dssm(ids)
    assert y.shape == (3, 8) and torch.allclose(y[0], y[1], atol=1e-6)  # the order of the words does not matter
    counts = torch.stack([torch.bincount(row[row > 0].long(), minlength=tokens.size) for row in ids.flatten(1)]).float()
    plain = torch.tanh(counts @ dssm.table.weight + dssm.bias)
    for layer in dssm.layers:
        plain = torch.tanh(layer(plain))
    assert torch.allclose(plain, y, atol=1e-5)
    windows = CDSSM(tokens.size, 8)
    z = windows(ids)
    assert not torch.allclose(z[0], z[1]) and torch.allclose(z[0], z[2])
    longer = torch.nn.functional.pad(ids, (0, 0, 0, 2))  # padding says nothing
    assert torch.allclose(windows(longer), z, atol=1e-6) and torch.isfinite(windows(torch.zeros_like(ids))).all()


def test_what_each_token_adds_is_the_cosine_but_for_the_bias() -> None:
    torch.manual_seed(0)
    tower, ids = Windows(20, 6, torch.randn(20, 5), dropout=0.0).eval(), torch.tensor([[3, 4, 5, 0], [7, 0, 0, 0]])
    toward = torch.randn(2, 6)
    whole = ((tower(ids) - tower.out.bias) * toward).sum(1)
    parts = tower.parts(ids, toward)
    assert torch.allclose(parts.sum(1), whole, atol=1e-5) and not parts[:, 3].any() and not parts[1, 1:].any()
    with_an_empty_one = torch.cat([ids, torch.zeros_like(ids[:1])])
    asked = tower(with_an_empty_one)
    assert torch.allclose(tower.train()(with_an_empty_one), asked, atol=1e-5)  # training reads all texts in one row


def test_both_sides_can_have_a_tower_of_their_own() -> None:
    same = DSSM(9, 4)
    one, two = TwoTexts(same, same), TwoTexts(DSSM(9, 4), DSSM(9, 4))
    assert sum(p.numel() for p in two.parameters()) > 1.9 * sum(p.numel() for p in one.parameters())


def test_ndcg_and_ranks_where_a_text_has_several_answers() -> None:
    first, second = np.eye(2, dtype=np.float32), np.array([[0.9, 0], [0.8, 0.9], [0.7, 0.8], [0, 0.1]], np.float32)
    found = graded(first, second, np.array([0, 0, 1]), np.array([0, 2, 3]))
    assert found.ranks.tolist() == [1, 3]
    of_0 = (1 + 1 / np.log2(4)) / (1 + 1 / np.log2(3))
    assert found.ndcg[1] == pytest.approx(1 / 2) and found.ndcg[3] == pytest.approx((of_0 + 1 / 2) / 2)


def test_what_two_texts_share_is_the_same_both_ways() -> None:
    a, b = ["The dog ran 3 miles.", "one"], ["3 miles the dog ran", "two words"]
    one, two = shared(a, b), shared(b, a)
    assert one.shape == (2, len(SHARED)) and np.allclose(one, two, atol=1e-6)
    assert one[0, SHARED.index("numbers shared")] == 1 and one[0].mean() > one[1].mean()
    assert np.isfinite(shared([""], [""])).all()


def test_check_says_what_is_wrong_with_a_table_of_pairs(tmp_path: Path) -> None:
    rows = [
        ["a dog", "one dog", 1, "train"], ["A  dog", "one dog", 0, "train"], ["a cat", "one cat", 1, "train"],
        ["one cat", "a cat", 1, "test"], ["same", "same", 1, "train"], ["x " * 60, "y", 1, "train"],
        ["", "z", 1, "test"],
    ]  # fmt: skip
    found = check(write(tmp_path / "t.csv", ["text_a", "text_b", "same", "split"], rows))
    assert {one.name: one.severity for one in found.findings} == {
        "contradictions": "error", "leaks": "error", "empty": "warning", "itself": "hint", "long": "hint",
    }  # fmt: skip
    assert not found.ok and found.summary.startswith("6 pairs") and json.dumps(found.to_json())
    done = CliRunner().invoke(app, ["check", str(tmp_path / "t.csv")])
    assert done.exit_code == 1 and "2 rows have equal texts and different answers" in done.stdout
    good = check(write(tmp_path / "g.csv", ["query", "title"], [["a", "b"], ["c", "d"]]))
    assert good.ok and not good.findings
    one = check(write(tmp_path / "o.csv", ["text_a", "text_b", "same"], [["a", "b", 1], ["c", "d", 1]]))
    assert [f.name for f in one.findings] == ["one answer"] and "no pair is different" in one.findings[0].title


def test_predict_answers_for_a_table(labelled: str, tmp_path: Path) -> None:
    how: dict[str, Any] = {**QUIET, "diagnosis": False, "task_options": {"dimensions": 8}, "epochs": 1}
    run = fit.train(labelled, out=tmp_path / "run", set={"batch_size": 16, "min_steps": 1}, **how)
    done = CliRunner().invoke(app, ["predict", str(run.folder), labelled, "--format", "csv"])
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert done.exit_code == 0 and len(rows) == 80 and {"cosine", "same", "probability"} <= rows[0].keys()
    assert next(iter(rows[0])) == "text" and "picture" not in rows[0]
    with pytest.raises(UsageError, match="holds no pairs of texts"):
        list(fit.predict(run, ["drawn:n=4,size=32"]))
