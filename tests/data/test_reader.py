"""Inputs that are not pictures: held or streamed, for any number of processes, and what a reader makes of texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neocog.data import open_source, reader
from neocog.data import ready as ready_module
from neocog.data.augment import Augment
from neocog.data.batches import NOTHING, Batches, in_order, ordered
from neocog.data.check import check
from neocog.data.read_text import TextReader
from neocog.data.ready import Read
from neocog.data.source import Selected
from neocog.errors import DataError, UsageError
from neocog.records import Preprocess

CPU, PRE = torch.device("cpu"), Preprocess(1, 1, channels=1, mean=(0.0,), std=(1.0,))


class Broken(Selected):
    def read(self, i: int) -> Any:
        if i % 5 == 2:
            raise DataError("gone")
        return super().read(i)


class Changed(TextReader):
    """A reader that shows its random numbers."""

    draws = 2

    def finish(self, x: torch.Tensor, draws: torch.Tensor | None = None) -> torch.Tensor:
        return x.float() if draws is None else draws


def planned(kind: type[TextReader] = TextReader, **options: Any) -> TextReader:
    source = open_source("drawn:n=20,kind=text")
    return kind.plan(source, np.arange(20), {**TextReader.options, "tokens": "words", **options})


def test_streamed_inputs_are_those_that_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    source, one = Broken(open_source("drawn:n=20,kind=text"), np.arange(20)), planned()
    held = Read(source, np.arange(20), one, PRE)
    assert not held.streamed and len(held) == 16 and len(held.problems) == 4
    monkeypatch.setattr(ready_module, "free_memory", lambda: 0)
    streamed = Read(source, np.arange(20), one, PRE)
    assert streamed.streamed and len(streamed) == 20
    for a, b in zip(in_order(held, 8, CPU), in_order(streamed, 10, CPU), strict=True):
        assert b.rows.tolist() == held.kept[a.rows].tolist() and torch.equal(a.x, b.x)
    found = Batches(streamed, NOTHING, Augment(), 20, seed=0, device=CPU).stream(0)
    batch = next(found)
    found.close()  # type: ignore[attr-defined]
    assert (~batch.valid).sum() == 4 and not batch.x[~batch.valid].any() and len(streamed.problems) == 4


class Several(Selected):
    """Of each sample several texts, or none."""

    def read(self, i: int) -> tuple[str, ...]:
        return (("a", "a red circle"), (), ("the",))[i % 3]


def test_of_several_texts_one_is_shown() -> None:
    held = Read(Several(open_source("drawn:n=3,kind=text"), np.arange(3)), np.arange(3), planned(), PRE)
    rows = torch.arange(3)
    assert (held.at(rows, None) != 0).sum(1).tolist() == [1, 0, 1]
    assert (held.at(rows, torch.tensor([0.9, 0.0, 0.0])) != 0).sum(1).tolist() == [3, 0, 1]


def test_changes_are_a_function_of_seed_epoch_and_sample_for_any_number_of_processes() -> None:
    held = Read(open_source("drawn:n=20,kind=text"), np.arange(20), planned(Changed), PRE)

    def steps(rank: int, world: int) -> list[Any]:
        stream = Batches(held, NOTHING, Augment(), 10, seed=3, device=CPU, rank=rank, world=world).stream(1)
        return [next(stream) for _ in range(3)]

    whole, first, second = steps(0, 1), steps(0, 2), steps(1, 2)
    for one, a, b in zip(whole, first, second, strict=True):
        assert torch.equal(one.x, torch.cat([a.x, b.x])) and one.x.shape == (10, 2)
    assert not torch.equal(whole[0].x, whole[2].x)
    plain = next(iter(in_order(held, 20, CPU)))
    assert plain.x.shape[1] > 2  # evaluation changes nothing


def test_an_epoch_shows_each_text_once_with_others_of_its_length() -> None:
    held = Read(open_source("drawn:n=60,kind=text"), np.arange(60), planned(), PRE)
    order = ordered(None, held, 6, torch.Generator().manual_seed(0))
    assert order is not None and sorted(order.tolist()) == list(range(60))
    assert held.lengths is not None
    spread = held.lengths[order].view(10, 6).float().std(1).mean()
    assert spread < 0.5 * held.lengths.float().std()
    assert ordered(torch.arange(3), held, 6, torch.Generator()).tolist() == [0, 1, 2]  # the task's own


@pytest.mark.parametrize("tokens", ["words", "pieces", "characters", "subwords", "trigrams"])
def test_a_reader_comes_back_from_json(tokens: str) -> None:
    one = planned(tokens=tokens)
    again = reader.load(json.loads(json.dumps(reader.saved(one))))
    texts = ["A red circle lies left of a blue square.", "x"]
    made = [one.collate([r.encode(t) for t in texts]) for r in (one, again)]
    assert torch.equal(made[0], made[1]) and again.shape == one.shape and (made[0][1] != 0).any()
    assert torch.equal(made[0], torch.from_numpy(one.tokenizer.encode(texts, one.longest)))


def test_kinds_are_found_and_unknown_ones_refused() -> None:
    assert "text" in reader.kinds() and reader.commonest({".txt": 3, ".py": 9}) == "text"
    with pytest.raises(UsageError, match="already registered"):
        reader.register(TextReader)
    with pytest.raises(UsageError, match=r"unknown kind of input 'texd' .did you mean 'text'"):
        reader.find("texd")
    with pytest.raises(UsageError, match="unknown tokens"):
        planned(tokens="letters")


def test_what_a_user_hands_over_becomes_texts(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.txt").write_bytes("Grüße".encode("cp1252"))
    (tmp_path / "t.csv").write_text("review,label\na good film and more of it,1\na bad one if ever there was,0\n")
    one = planned()
    given = [str(tmp_path / "a"), "a text of its own", str(tmp_path / "t.csv")]
    found = dict(one.inputs(given))
    assert [k for k in found if "txt" in k] and found["a text of its own"] == "a text of its own"
    assert found["t#0"] == "a good film and more of it" and len(found) == 4
    with pytest.raises(UsageError, match=r"no\.txt does not exist"):
        list(one.inputs(["no.txt"]))
    with pytest.raises(DataError, match="zero bytes"):
        one.encode(b"\0\1\2\0" * 50)
    assert "Grüße" in one.show(tmp_path / "a" / "1.txt") and one.sections()


def test_tables_and_folders_of_texts_are_sources(tmp_path: Path) -> None:
    rows = [f"{k},this is review number {k} of a film,{'good' if k % 2 else 'bad'},{k / 7:.3f}" for k in range(30)]
    (tmp_path / "r.csv").write_text("\n".join(["id,review,sentiment label,stars", *rows]) + "\n")
    source = open_source(tmp_path / "r.csv", columns={"label": "sentiment label"})
    assert source.kind == "text" and source.read(3) == "this is review number 3 of a film"
    assert source.classes == ("bad", "good") and len(source) == 30
    assert any("texts are the column 'review'" in note for note in source.notes)
    other = open_source(tmp_path / "r.csv", columns={"text": "id", "label": "sentiment label"})
    assert other.read(3) == "3"
    with pytest.raises(UsageError, match=r"no column 'reviw' .did you mean 'review'"):
        open_source(tmp_path / "r.csv", columns={"text": "reviw"})
    (tmp_path / "sms.tsv").write_text(
        "ham\tsee you at the station at six then\nspam\tyou have won a prize call now please\n"
    )
    assert open_source(tmp_path / "sms.tsv").classes == ("ham", "spam")  # without a line of names
    with open(tmp_path / "l.jsonl", "w") as file:
        for k in range(8):
            file.write(json.dumps({"text": f"a text of some words {k}", "labels": ["a", "b"][: 1 + k % 2]}) + "\n")
    tagged = open_source(tmp_path / "l.jsonl")
    assert tagged.kind == "text" and tagged.columns["tags"][1].tolist() == [1, 1]
    for k, (label, encoding) in enumerate([("x", "utf-8"), ("y", "utf-16"), ("y", "cp1252")]):
        path = tmp_path / "folder" / label / f"{k}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("Ein schöner Käfer".encode(encoding))
    folder = open_source(tmp_path / "folder")
    assert folder.kind == "text" and folder.classes == ("x", "y")
    one = TextReader.plan(folder, np.arange(3), {**TextReader.options, "tokens": "words"})
    assert one.facts["unknown"] == 0.0 and any("3 different words are known" in note for note in one.notes)
    assert one.tokenizer.size == 4 + 3 and any("2 texts are not UTF-8" in note for note in one.notes)


def test_check_says_what_is_wrong_with_texts(tmp_path: Path) -> None:
    rows = [("a film that is good", "1", "train"), ("A film that is  good", "0", "train"),
            ("some other film", "1", "train"),
            ("some other film", "1", "test"), ("one more sentence here", "0", "test"), ("word " * 600, "1", "train"),
            ("a thing thatâ€™s odd", "0", "train")]  # fmt: skip
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"text": r[0], "label": r[1], "split": r[2]}) for r in rows))
    found = check(open_source(tmp_path / "t.jsonl"))
    assert {one.name for one in found.findings} >= {"contradictions", "leaks", "long", "signs", "few_pictures"}
    assert "7 texts in 2 classes" in found.summary and found.duplicates == {"exact_groups": 2, "exact_copies": 2}
    assert not any("picture" in one.title for one in found.findings) and found.to_json()
    assert check(open_source("drawn:n=6,kind=text")).unit == "text"


@pytest.mark.parametrize("kind", [kind for kind in reader.kinds() if reader.find(kind).endings])
def test_a_folder_of_another_kind_is_no_answer(kind: str, tmp_path: Path) -> None:
    made = reader.find(kind)
    read = made.plan(open_source(f"drawn:n=8,size=32,kind={kind}"), np.arange(8), made.options)
    for name in ("a.png", "a.txt", "a.wav", "a.mkv"):
        folder = tmp_path / name[2:]
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
        (folder / f"._{name}").write_bytes(b"left by a Mac")
        if read.takes(name):
            assert [key for key, _ in read.inputs([str(folder)])] == [str(folder / name)]
        else:
            with pytest.raises(UsageError, match=rf"expected {kind}s in .*; found none, but 1 {name[1:]} file"):
                list(read.inputs([str(folder)]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=f"expected {kind}s in .*; found none$"):
        list(read.inputs([str(tmp_path / "empty")]))


def test_a_table_of_other_things_is_no_text(tmp_path: Path) -> None:
    read = planned()
    (tmp_path / "pairs.csv").write_text("query,title\na red dog,the red dog\na sun,the sun\n")
    (tmp_path / "pictures.csv").write_text("path,label\na.png,a\n")
    (tmp_path / "a.png").write_bytes(b"x")
    for name, held in (("pairs.csv", "pairs of texts"), ("pictures.csv", "pictures")):
        with pytest.raises(UsageError, match=f"expected a table of texts.* holds {held}"):
            list(read.inputs([str(tmp_path / name)]))
    for name in ("gone.png", "gone.wav", "gone.csv", "gone.txt"):
        with pytest.raises(UsageError, match=f"{name} does not exist"):
            list(read.inputs([name]))
    assert [key for key, _ in read.inputs(["see the file gone.png"])] == ["see the file gone.png"]
