"""Tags of words: where they come from, chunks and how they are counted, the best row of tags, and the whole way."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from seqeval.metrics.sequence_labeling import get_entities
from typer.testing import CliRunner

from neocog import fit
from neocog.cli import app
from neocog.data import open_source
from neocog.data.check import check
from neocog.data.conll import Sentence, has_columns
from neocog.errors import DataError, UsageError
from neocog.nets.tagging import Tagger, best_path, log_likelihood
from neocog.tasks import guess
from neocog.tasks.chunks import Scheme, counts, scores
from neocog.tasks.tag_words import Tagged
from neocog.tasks.task import load, saved

QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "precision": "float32", "seed": 1, "diagnosis": False}
SMALL = {"vectors": "random", "hidden": 32}


def sentences(n: int, seed: int) -> list[list[tuple[str, str, str]]]:
    """The word, its part of speech and its tag: "the red dog sees Anna ."."""
    random, made = np.random.default_rng(seed), []
    for _ in range(n):
        thing = [("the", "DT", "B-NP"), (str(random.choice(["red", "old", "big"])), "JJ", "I-NP")]
        thing.append((str(random.choice(["dog", "cat", "car"])), "NN", "I-NP"))
        verb = [(str(random.choice(["sees", "likes", "takes"])), "VBZ", "B-VP")]
        other = [(str(random.choice(["Anna", "Ben", "Cora"])), "NNP", "B-NP")]
        made.append([*(thing if random.random() < 0.5 else other), *verb, *other, (".", ".", "O")])
    return made


def conll(path: Path, rows: list[list[tuple[str, str, str]]]) -> Path:
    path.write_text("".join("".join(" ".join(cells) + "\n" for cells in one) + "\n" for one in rows))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chunks")
    conll(path / "train.txt", sentences(60, 0))
    conll(path / "test.txt", sentences(20, 1))
    return path


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> fit.Run:
    out = tmp_path_factory.mktemp("runs") / "run"
    how: dict[str, Any] = {"task_options": SMALL, "epochs": 6, "set": {"min_steps": 1, "batch_size": 8}}
    return fit.train(folder, out=out, **QUIET, **how)


# ---- where they come from


def test_columns_lists_and_tables_give_the_same(folder: Path, tmp_path: Path) -> None:
    rows = [(one, "train") for one in sentences(60, 0)] + [(one, "test") for one in sentences(20, 1)]
    lists = [{"tokens": [w for w, _, _ in one], "pos": [p for _, p, _ in one], "tags": [t for *_, t in one], "split": s}
             for one, s in rows]  # fmt: skip
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lists))
    pq.write_table(pa.Table.from_pylist(lists), tmp_path / "all.parquet")
    for data in (folder, tmp_path / "all.jsonl", tmp_path / "all.parquet"):
        source = open_source(data)
        order = np.argsort(-source.splits, kind="stable") if data != folder else np.arange(80)  # test before train
        assert guess(source) == "tag-words" and source.columns["tokens"].names == ("B-NP", "B-VP", "I-NP", "O")
        found = [source.select(order).read(i) for i in (0, 20)]
        assert found == [" ".join(w for w, _, _ in one) for one in (rows[60][0], rows[0][0])]
        assert found[0].more == (tuple(p for _, p, _ in rows[60][0]),)
        codes = source.select(order).columns["tokens"][20]
        assert [source.columns["tokens"].names[k] for k in codes] == [t for *_, t in rows[0][0]]
        assert not [one for one in check(source).findings if one.name == "unreadable"]


def test_other_columns_are_named_and_remarks_left_out(tmp_path: Path) -> None:
    path = tmp_path / "names.conll"
    path.write_text("# sent 1\n1\tAnna\tB-PER\n2\truns\tO\n\n# sent 2\n1\tBen\tB-PER\n2\tsits\tO\n#\tpound\tO\n\n")
    source = open_source(path, columns={"words": "2"})
    assert source.read(0) == "Anna runs" and source.read(1) == "Ben sits pound"
    with pytest.raises(UsageError, match="a column from 1 to 3"):
        open_source(path, columns={"words": "4"})


def test_a_plain_text_holds_no_columns(tmp_path: Path) -> None:
    for text in ("One fine day.\n\nAnother day came.\n", "one two\n\nthree four\n\nfive six\n", "a b\na b\n", ""):
        (tmp_path / "train.txt").write_text(text)
        assert not has_columns(tmp_path / "train.txt"), text


# ---- chunks


@pytest.mark.parametrize("letters", ["BI", "BIES"])
def test_chunks_are_those_of_seqeval(letters: str) -> None:
    names = ["O", *(f"{a}-{b}" for a in letters for b in ("NP", "VP", "X-Y"))]
    scheme, random = Scheme.of(names), np.random.default_rng(0)
    rows = [random.integers(0, len(names), random.integers(1, 12)) for _ in range(300)]
    said = [np.where(random.random(len(row)) < 0.3, random.integers(0, len(names), len(row)), row) for row in rows]
    first = np.concatenate([np.arange(len(row)) == 0 for row in rows])
    true, found = ({(k, *one) for k, row in enumerate(every) for one in get_entities([names[c] for c in row])}
                   for every in (rows, said))  # fmt: skip
    ends, kinds = scheme.chunks(np.concatenate(rows), first)
    starts = np.cumsum(first) - 1
    begins = np.flatnonzero(first)[starts]
    own = {(starts[a], scheme.kinds[kinds[a]], a - begins[a], ends[a] - 1 - begins[a]) for a in np.flatnonzero(ends)}
    assert own == true
    made = counts(scheme, np.concatenate(rows), np.concatenate(said), first)
    whole = {name: int(values.sum()) for name, values in made.items()}
    assert whole == {"true": len(true), "found": len(found), "right": len(true & found)}
    assert scores(**whole)["f1"] == pytest.approx(2 * len(true & found) / (len(true) + len(found)))


def test_tags_that_mark_no_chunks_are_each_their_own() -> None:
    scheme = Scheme.of(["NN", "VB", "-LRB-"])
    found = counts(scheme, np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2]), np.array([True, False, False, False]))
    assert not scheme.marked and {k: int(v.sum()) for k, v in found.items()} == {"true": 4, "found": 4, "right": 3}
    assert scheme.allowed()[0].all()


def test_what_may_follow_what() -> None:
    names = ["O", "B-A", "I-A", "B-B", "I-B"]
    after, first, last = Scheme.of(names).allowed()
    assert {(names[i], names[j]) for i, j in np.argwhere(~after)} == {
        ("O", "I-A"), ("O", "I-B"), ("B-A", "I-B"), ("I-A", "I-B"), ("B-B", "I-A"), ("I-B", "I-A"),
    }  # fmt: skip
    assert first.tolist() == [True, True, False, True, False] and last.all()
    names = ["O", "B-A", "I-A", "E-A", "S-A"]
    after, first, last = Scheme.of(names).allowed()
    assert {names[j] for j in np.flatnonzero(after[1])} == {"I-A", "E-A"}
    assert {names[j] for j in np.flatnonzero(after[3])} == {"O", "B-A", "S-A"}
    assert first.tolist() == [True, True, False, False, True] and last.tolist() == [True, False, False, True, True]


# ---- rows of tags


def test_likelihood_and_best_row_are_those_of_all_rows_tried() -> None:
    torch.manual_seed(0)
    lengths, tags = (4, 1, 3), 3
    out = {"scores": torch.randn(3, 4, tags), "steps": torch.randn(tags, tags), "first": torch.randn(tags),
           "last": torch.randn(tags)}  # fmt: skip
    there = torch.arange(4) < torch.tensor(lengths)[:, None]
    allowed = torch.ones(tags, tags, dtype=torch.bool)
    allowed[0, 1] = False
    best, strict = best_path(out, there), best_path(out, there, allowed)
    for row, length in enumerate(lengths):
        value = {
            path: float(out["first"][path[0]] + out["last"][path[-1]]
                        + sum(out["scores"][row, k, t] for k, t in enumerate(path))
                        + sum(out["steps"][a, b] for a, b in itertools.pairwise(path)))
            for path in itertools.product(range(tags), repeat=length)
        }  # fmt: skip
        assert tuple(best[row, :length].tolist()) == max(value, key=value.__getitem__)
        fine = {p: v for p, v in value.items() if (0, 1) not in itertools.pairwise(p)}
        assert tuple(strict[row, :length].tolist()) == max(fine, key=fine.__getitem__)
        path = next(iter(value))
        given = torch.tensor([[*path, *[-1] * (4 - length)]])
        one = log_likelihood({**out, "scores": out["scores"][row : row + 1]}, given)
        assert one.item() == pytest.approx(value[path] - np.logaddexp.reduce(list(value.values())), abs=1e-5)


def test_a_sentence_alone_and_among_longer_ones_gets_the_same_scores() -> None:
    torch.manual_seed(0)
    net = Tagger([9, 5], [6, 3], 4, hidden=8, layers=2).eval()
    short, long = torch.randint(1, 5, (1, 3, 2)), torch.randint(1, 5, (1, 7, 2))
    both = torch.cat((torch.nn.functional.pad(short, (0, 0, 0, 4)), long))
    assert torch.allclose(net(both)["scores"][0, :3], net(short)["scores"][0], atol=1e-6)


# ---- the whole way


def test_a_net_learns_and_its_report_shows_tags(run: fit.Run) -> None:
    assert run.metrics["test_f1"] > 0.9 and run.metrics["test_n"] == 20
    assert saved(load(saved(run.task))) == saved(run.task)
    page = run.report.read_text()
    assert "Kinds of chunks" in page and "<td>NP</td>" in page and "Blue words" not in page
    html = Tagged("a", ("Anna", "sees"), ("B-NP", "O")).html(["B-NP", "B-VP"])
    assert html.count("<b ") == 1 and "not B-VP" in html


def test_it_resumes_bit_for_bit(folder: Path, run: fit.Run, tmp_path: Path) -> None:
    how: dict[str, Any] = {
        "task_options": {**SMALL, "loss": "word"},
        "epochs": 2,
        "set": {"min_steps": 1, "batch_size": 8},
    }
    whole = fit.train(folder, out=tmp_path / "a", **QUIET, **how)
    part = fit.train(folder, out=tmp_path / "b", **QUIET, **how, save_every=0.0)
    for file in ("net.json", "weights.safetensors"):
        (part.folder / file).unlink()
    a, b = whole.net().state_dict(), fit.resume(part.folder, progress=False).net().state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert fit.evaluate([run], folder, split="test")["runs"][0]["f1"] == pytest.approx(run.metrics["test_f1"])


def test_files_and_sentences_are_tagged(run: fit.Run, tmp_path: Path) -> None:
    rows = sentences(3, 9)
    path = conll(tmp_path / "new.txt", rows)
    found = run.predict(path)
    assert [one.words for one in found] == [tuple(w for w, _, _ in one) for one in rows]
    assert found[1].key == f"{path}#2" and found[0].chunks[0][1] == 0
    (one,) = run.predict(Sentence(["Anna", "sees", "Ben", "."], [["NNP", "VBZ", "NNP", "."]]))
    assert one.text() == "[NP Anna] [VP sees] [NP Ben] ."
    (bad,) = run.predict("Anna sees Ben.")
    assert "reads 2 columns for each word" in (bad.problem or "")
    (tmp_path / "bytes.txt").write_bytes(b"\0\1" * 99)
    assert "zero bytes" in (run.predict(tmp_path / "bytes.txt")[0].problem or "")
    lines = CliRunner().invoke(app, ["predict", str(run.folder), str(path), "--format", "conll"]).stdout.splitlines()
    assert [line.split("\t")[:2] for line in lines[:2]] == [list(cells[:2]) for cells in rows[0][:2]]
    assert lines[0].split("\t")[2] in run.classes and lines.count("") == 3


def test_words_alone_do_where_the_other_columns_were_not_learned(folder: Path, tmp_path: Path) -> None:
    options = {**SMALL, "columns": False}
    how: dict[str, Any] = {"task_options": options, "epochs": 1, "set": {"min_steps": 1}}
    run = fit.train(folder, out=tmp_path / "run", **QUIET, **how)
    path = tmp_path / "text.txt"
    path.write_text("Anna sees Ben. The dog\nlikes Cora!")
    assert [one.words for one in run.predict(path)] == [
        ("Anna", "sees", "Ben", "."),
        ("The", "dog", "likes", "Cora", "!"),
    ]
    with pytest.raises(DataError, match="classes that are not in the training data: B-XP"):
        fit.evaluate([run], conll(tmp_path / "test.txt", [[("a", "X", "B-XP")], [("b", "X", "B-XP")]]))
    for options, said in (({"loss": "words"}, "did you mean 'word'"), ({"window": 4}, "an odd number of words")):
        with pytest.raises(UsageError, match=said):
            fit.train(folder, out=tmp_path / "no", **QUIET, task_options=options)
