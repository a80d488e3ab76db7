"""The task caption: figures, withheld sentences, what is shown, and sentences from a trained run."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import neocog
from neocog.data import open_source
from neocog.data.batches import Batch
from neocog.data.kinds import TextLists
from neocog.errors import DataError, UsageError
from neocog.fit.captioning import captioner, on_features
from neocog.fit.transfer import same_answers
from neocog.nets.language import START
from neocog.tasks.bleu import bleu
from neocog.tasks.caption import Caption, Described, Familiar, Writing, plain
from neocog.tasks.cider import cider
from neocog.tasks.task import Meter, saved
from neocog.text.tokens import Words

SENTENCES = ("a dog runs", "a dog runs fast", "the red ball is on the grass", "a ball")


def task(**options: Any) -> Caption:
    return Caption(Words.learn(SENTENCES).to_json(), **options)


def batch(rows: list[tuple[str, ...]], one: Caption, valid: list[bool] | None = None) -> Batch:
    good = torch.tensor(valid or [True] * len(rows))
    targets = one.collate({"captions": rows}, None, good)
    return Batch((torch.zeros(len(rows), 3, 8, 8),), targets, torch.arange(len(rows)), good)


@pytest.mark.parametrize(
    ("texts", "options", "kept"),
    [
        (SENTENCES * 2, {}, True),  # the same words, counted differently
        ((*SENTENCES, "a cat"), {}, False),
        ((*SENTENCES[:-1], "a cat"), {}, False),
        (SENTENCES, {"model": "lstm"}, False),
    ],
)
def test_a_head_is_kept_only_for_the_same_words(texts: tuple[str, ...], options: dict[str, Any], kept: bool) -> None:
    assert same_answers(saved(task()), Caption(Words.learn(texts).to_json(), **options)) is kept


def test_bleu_is_that_of_nltk() -> None:
    nltk = pytest.importorskip("nltk.translate.bleu_score")
    rng = np.random.default_rng(0)
    found = [
        rng.integers(0, 6, rng.integers(4, 12)).tolist() for _ in range(40)
    ]  # nltk counts missing n-grams as wrong
    references = [[rng.integers(0, 6, rng.integers(3, 12)).tolist() for _ in range(5)] for _ in found]
    for n, value in enumerate(bleu(found, references), 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert value == pytest.approx(nltk.corpus_bleu(references, found, weights=[1 / n] * n))


def test_bleu_of_a_known_case() -> None:
    # Papineni et al. 2002, example 2: "the" counts twice in a reference, so 2 of 7 words are right
    found = "the the the the the the the".split()
    references = ["the cat is on the mat".split(), "there is a cat on the mat".split()]
    assert bleu([found], [references], 1)[0] == pytest.approx(2 / 7)
    assert bleu([["a"]], [[["a", "b", "c"]]], 1)[0] == pytest.approx(math.exp(1 - 3))  # brevity
    assert bleu([["x", "y"]], [[["a", "b"]]], 2) == [0.0, 0.0]


def test_cider_is_that_of_its_authors() -> None:
    found = ["a dog runs on the grass", "two men play football football", "a red car"]
    references = [
        ["a brown dog runs", "the dog is on the grass"],
        ["two men play football", "men are playing"],
        ["a red car is parked", "the car"],
    ]
    split = [s.split() for s in found], [[s.split() for s in own] for own in references]
    assert cider(*split) == pytest.approx(3.413508521465936, abs=1e-12)  # pycocoevalcap 1.2
    one = [["a", "red", "car"], ["b"]]  # by hand: right for n = 1 to 3 (no four words), and n = 1
    assert cider(one, [[["a", "red", "car"]], [["b"]]]) == pytest.approx(10 * (3 / 4 + 1 / 4) / 2)
    assert cider([["a"]], [[["a"]]]) == 0.0 and math.isnan(cider([], []))


def test_captions_without_marks_and_with_their_ends() -> None:
    one = task()
    ids = batch([("A dog runs.", "a DOG, a ball!"), ("a ball",)], one).targets["ids"]
    assert ids.shape == (2, 2, 6)
    assert one.words.text(ids[0, 1].tolist()) == "a dog a ball" and one.words.text(ids[0, 0].tolist()) == "a dog runs"
    assert ids[0, 0, 0] == START and ids[1, 1].sum() == 0  # the second picture has one caption
    assert plain("A Dog's  t-shirt, 2 o'clock_") == "a dog's t shirt 2 o'clock"


def test_perplexity_is_two_to_the_mean_log_of_all_words_with_their_ends() -> None:
    one = task()
    some = batch([("a dog runs", "a ball"), ("a dog runs fast",)], one)
    log_p = -torch.rand(2, 2, some.targets["ids"].shape[2] - 1) * (some.targets["ids"][:, :, 1:] != 0)
    assert int((log_p != 0).sum()) == 4 + 3 + 5
    meter = Meter(one)
    meter.add({"log_p": log_p}, some)
    figures = one.figures(meter.seen())
    assert figures["words"] == 12
    assert figures["perplexity"] == pytest.approx(2 ** -(float(log_p.double().sum()) / math.log(2) / 12))
    assert one.losses({"log_p": log_p}, some).total.item() == pytest.approx(figures["loss"])


def seen(one: Caption, rows: list[tuple[str, ...]], written: list[str], sure: list[float]) -> dict[str, np.ndarray]:
    some = batch(rows, one)
    ids = one.words.encode(written)
    outputs = {
        "log_p": torch.zeros(len(rows), some.targets["ids"].shape[1], some.targets["ids"].shape[2] - 1),
        "written": torch.from_numpy(np.pad(ids, ((0, 0), (0, 25 - ids.shape[1]))).astype(np.int64))[:, None],
        "sure": torch.tensor(sure)[:, None],
        "strange": torch.zeros(len(sure), dtype=torch.bool),
    }
    meter = Meter(one)
    meter.add(outputs, some)
    return meter.seen()


def test_figures_of_what_was_written() -> None:
    one = task()
    rows = [("a dog runs", "a dog runs fast"), ("a ball",), ("the red ball is on the grass",)]
    got = one.figures(seen(one, rows, ["a dog runs", "a dog runs", "the red ball"], [-1.0, -2.0, -3.0]))
    assert got["same_as_a_caption"] == pytest.approx(1 / 3) and got["distinct"] == pytest.approx(2 / 3)
    assert got["fits"] == pytest.approx(2 / 3)  # the second has only the word 'a' in common
    refs = [[text.split() for text in row] for row in rows]
    assert got["bleu_1"] == pytest.approx(
        bleu([s.split() for s in ("a dog runs", "a dog runs", "the red ball")], refs)[0]
    )
    assert "BLEU" in one.headline(got) and got["withheld"] == 0


def test_sentences_are_withheld_below_the_sureness_from_which_seven_of_ten_fit() -> None:
    one = task()
    rows = [("a dog runs",)] * 60
    written = ["a dog runs"] * 35 + ["the red ball"] * 25
    found = seen(one, rows, written, [-k / 60 for k in range(60)])
    one.calibrate(found)
    # 35 that fit and 15 that do not are seven of ten
    assert one.sure == pytest.approx(-49 / 60)
    assert one.figures(found)["withheld"] == pytest.approx(10 / 60)
    again = Caption.from_json(json.loads(json.dumps(one.to_json())))
    assert again.sure == one.sure
    fresh = task()
    fresh.calibrate(seen(fresh, rows[:5], written[:5], [-1.0] * 5))  # of so few nothing is said
    assert fresh.sure == -math.inf and fresh.to_json()["sure"] is None


def test_answers_say_when_they_are_not_sure() -> None:
    sure, unsure = (
        Described("a.jpg", ("a dog",), (-1.0,), -2.0),
        Described("b.jpg", ("a cat", "a cow"), (-3.0, -4.0), -2.0),
    )
    assert sure.text() == "a dog" and unsure.text() == "(not sure) a cat"
    assert unsure.row() == {"caption": "a cat", "log2_p": -3.0, "withheld": True}
    assert [one["text"] for one in unsure.to_json()["captions"]] == ["a cat", "a cow"]
    drawn = sure.draw(np.zeros((20, 30, 3), np.uint8), ("A dog.", "An animal"))
    assert drawn.shape[0] > 9 * 20 and drawn.shape[1] == 9 * 30  # enlarged, with lines below


def test_pictures_unlike_those_that_were_learned_from_are_noticed() -> None:
    torch.manual_seed(0)
    like = torch.randn(300, 4) @ torch.randn(4, 32) + 3  # of 32 numbers they vary in four directions
    familiar = Familiar(32, 4).learn(like[:200], like[200:] + 0.01 * torch.randn(100, 32))
    assert 0.05 <= float(familiar(like[200:] + 0.01 * torch.randn(100, 32)).double().mean()) <= 0.2
    assert familiar(like[:50] + torch.randn(50, 32)).all()
    assert Described("a", ("a dog",), (-0.5,), -2.0, strange=True).withheld


def test_unknown_models_words_and_too_few_captions_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'lstm'"):
        task(model="lsmt")
    with pytest.raises(UsageError, match="word 'zebra'"):
        task().first_words("a zebra")
    source = open_source("drawn:n=2,size=32")
    with pytest.raises(DataError, match="least=1"):
        Caption.plan(source, np.arange(2), {**Caption.options, "least": 50})


@pytest.mark.parametrize("model", ["lstm", "mlbl-b", "mlbl-f", "conv", "attend"])
def test_every_model_learns_what_a_few_pictures_show(model: str) -> None:
    """One batch by heart, end to end: pictures, trunk, head, beam search."""
    from neocog.tasks.task import build_net

    source = open_source("drawn:n=6,size=32")
    one = Caption.plan(source, np.arange(6), {**Caption.options, "least": 1, "model": model, "dropout": 0.0, "grid": 2})
    torch.manual_seed(0)
    net = build_net(one, {"name": "cifar_resnet20", "classes": 10, "in_channels": 3, "input_size": 32})
    captions = [(source.columns["captions"][i][1],) for i in range(6)]
    some = batch(captions, one)
    some.inputs = (torch.from_numpy(np.stack([source.read(i) for i in range(6)])).permute(0, 3, 1, 2) / 128 - 1,)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = one.losses(one.run(net, some), some).total
        if loss < 0.05:
            break
        loss.backward()
        optimizer.step()
    net.train()  # statistics of so few batches are not those of this one
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    with torch.no_grad():
        found = one.run(net, Batch(some.inputs, {}, some.rows, some.valid))
    said = [answer.texts[0] for answer in one.answers(found, some, list("abcdef"))]  # type: ignore[attr-defined]
    assert said == [plain(row[0]) for row in captions]


@pytest.mark.slow
def test_sentences_about_unseen_pictures_are_exactly_right(tmp_path: Path) -> None:
    """bench/drawn.py in small: from random weights, with the usual recipe, about the colour alone."""
    source = open_source("drawn:n=600,size=16,task=colour")
    colours = [source.classes[k] for k in source.labels]
    source.columns = {"captions": TextLists([f"The largest shape is {colour}."] for colour in colours)}
    run = neocog.train(
        source, task="caption", epochs=15, out=tmp_path / "r", progress=False, diagnosis=False, device="cpu",
        task_options={"dimensions": 32, "width": 32, "grid": 1, "dropout": 0.0},
    )  # fmt: skip
    assert run.metrics["test_same_as_a_caption"] >= 0.85  # one in eight by chance


# ---------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> neocog.Run:
    folder = tmp_path_factory.mktemp("runs") / "told"
    return neocog.train(
        "drawn:n=120,size=32", task="caption", net="cifar_resnet20", epochs=2, out=folder, progress=False,
        diagnosis=False, device="cpu", task_options={"least": 1, "grid": 2}, set={"min_steps": 1, "batch_size": 16},
    )  # fmt: skip


def test_the_report_shows_sentences(run: neocog.Run) -> None:
    assert run.metrics["test_bleu_1"] >= 0 and "val_bleu_4" in run.metrics and 0 <= run.metrics["test_cider"] <= 10
    lines = json.loads((run.folder / "examples" / "examples.json").read_text())["examples"]
    assert lines and all("perplexity of its captions" in one["line"] for one in lines)


def test_caption_takes_pictures_of_any_kind_and_as_many_sentences_as_are_asked_for(
    run: neocog.Run, tmp_path: Path
) -> None:
    picture = open_source("drawn:n=1,size=32,seed=4").read(0)
    Image.fromarray(picture).save(tmp_path / "a.png")
    (one,) = neocog.caption(tmp_path / "a.png", run)
    (same,) = neocog.caption(picture, run.folder)
    assert one.texts == same.texts and len(one.texts) == 1
    (more,) = neocog.caption([picture], run, n=3)
    assert len(set(more.texts)) == 3 and more.sure[0] == pytest.approx(one.sure[0], abs=1e-4)
    first, second = (neocog.caption(picture, run, n=2, temperature=1.5, seed=s)[0].texts for s in (1, 2))
    assert first == neocog.caption(picture, run, n=2, temperature=1.5, seed=1)[0].texts and first != second
    (begun,) = neocog.caption(picture, run, first="The picture")
    assert begun.texts[0].startswith("the picture")
    with pytest.raises(UsageError, match="the word 'zebra'"):
        neocog.caption(picture, run, first="zebra")
    with pytest.raises(UsageError, match="at least 1"):
        neocog.caption(picture, run, n=0)
    assert neocog.caption([b"no picture"], run)[0].problem


def test_features_give_the_sentences_of_their_pictures(run: neocog.Run) -> None:
    pictures = [open_source("drawn:n=3,size=32,seed=4").read(i) for i in range(3)]
    net: Any = run.net()
    from neocog.data.decode import placed
    from neocog.fit.device import choose
    from neocog.fit.predicting import pictures_only

    made = [placed(one, run.preprocess) for one in pictures]
    some = pictures_only([(p.transpose(1, 2, 0), m, s) for p, m, s in made], run.preprocess, choose("cpu"))
    with torch.no_grad():
        features = net.answer.features(net.trunk.maps(some.x)).numpy()
    told = on_features(run, 7.0 * features, list("abc"))  # their length does not matter
    assert [one.texts for one in told] == [one.texts for one in neocog.caption(pictures, run)]


def test_what_else_chooses_sees_the_features_and_four_times_as_many_sentences(run: neocog.Run) -> None:
    net, asked = copy.deepcopy(run.net()), []
    answer: Any = net.answer
    x = torch.rand(2, answer.width)

    def fits(read: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        asked.append((read, ids))
        return torch.arange(ids.shape[1]) * 1e3 + torch.zeros(ids.shape[:2])  # the last one

    answer.fits = fits
    written = answer({}, x, write=Writing(n=2, beam=3))["written"]
    ((read, ids),) = asked
    assert torch.equal(read, x) and ids.shape[:2] == (2, 12)
    assert torch.equal(written[:, 0], ids[:, -1]) and torch.equal(written[:, 1], ids[:, -2])
    answer({}, x, write=Writing(temperature=1.0))
    assert len(asked) == 1  # what is drawn by chance is not chosen


def test_only_runs_that_write_sentences(tmp_path: Path) -> None:
    other = neocog.train(
        "drawn:n=24,size=32", net="lenet5", epochs=1, out=tmp_path / "r", progress=False, diagnosis=False, device="cpu",
        set={"min_steps": 1},
    )  # fmt: skip
    with pytest.raises(UsageError, match="task label, which writes no sentences"):
        captioner(other)


def test_the_model_that_comes_with_neocog() -> None:
    trained: Any = captioner("auto")
    assert sum(file.stat().st_size for file in trained.folder.iterdir()) < 5e6
    assert trained.task.name == "caption" and trained.vectors.startswith("efficientnet_lite0")
    picture = open_source("drawn:n=1,size=64").read(0)
    (told,) = neocog.caption(picture)
    assert told.texts[0] and told.withheld  # nothing of the kind was in its photographs
    assert set(told.texts[0].split()) <= set(trained.task.words.words)


def test_the_command(run: neocog.Run, tmp_path: Path) -> None:
    from neocog.cli import app

    picture = tmp_path / "a.png"
    Image.fromarray(open_source("drawn:n=1,size=32,seed=4").read(0)).save(picture)
    told = neocog.caption(picture, run)[0].texts[0]
    plainly = CliRunner().invoke(
        app, ["caption", str(picture), "--run", str(run.folder), "--draw", str(tmp_path / "d")]
    )
    assert plainly.exit_code == 0 and told in plainly.stdout and (tmp_path / "d" / "a.jpg").is_file()
    table = CliRunner().invoke(app, ["caption", str(picture), "--run", str(run.folder), "--format", "csv"])
    (row,) = csv.DictReader(io.StringIO(table.stdout))
    assert row["caption"] == told and row["withheld"] in ("0", "1")
    lines = CliRunner().invoke(app, ["caption", str(picture), "--run", str(run.folder), "-n", "3", "--format", "jsonl"])
    assert len(json.loads(lines.stdout)["captions"]) == 3
    (tmp_path / "b.jpg").write_bytes(b"nothing")
    bad = CliRunner().invoke(app, ["caption", str(tmp_path / "b.jpg"), "--run", str(run.folder)])
    assert bad.exit_code == 1 and "unreadable" in bad.stdout
