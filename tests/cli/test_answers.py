"""Tasks on the command line: training one, and its answers as tables, COCO, vectors, masks and drawn pictures."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from cli.test_commands import call
from PIL import Image
from test_every_task import CPU, NAMES, SIDE, drawn, known, net_of, planned

from neocog import fit, tasks
from neocog.cli import answers
from neocog.data import check, open_source
from neocog.data.batches import in_order
from neocog.data.decode import decode
from neocog.data.kinds import Boxes, BoxSet, Masks
from neocog.data.pictures import Streamed
from neocog.data.source import Arrays
from neocog.errors import DataError, UsageError
from neocog.fit.evaluating import floated
from neocog.fit.job import task_options
from neocog.records import Preprocess
from neocog.tasks.answer import Answer, coco_box, rle

TRAIN = ("--epochs", 2, "--set", "min_steps=1", "--set", "batch_size=8", "--device", "cpu", "--quiet")


def trained(folder: Path, *arguments: object) -> Path:
    result = call("train", "drawn:n=40,size=32", *arguments, *TRAIN, "--out", folder)
    assert result.exit_code == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def segment(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "segment"
    return trained(folder, "--task", "segment", "--net", "cifar_resnet20", "--task-option", "width=8")


@pytest.fixture(scope="module")
def twins(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "match", "--task", "match", "--net", "lenet5")


@pytest.fixture(scope="module")
def label(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "label", "--task", "label", "--net", "lenet5")


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two folders with pictures of the same names, one lying on its side as EXIF says, and one that is none."""
    source, folder = open_source("drawn:n=4,size=48,seed=5"), tmp_path / "photos"
    for k, name in enumerate(("a/1.png", "a/2.png", "b/1.png", "b/turned.jpg")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        lying = Image.Exif()
        if name.endswith(".jpg"):
            lying[0x112] = 6
        Image.fromarray(source.read(k)[:40]).save(folder / name, exif=lying)
    (folder / "bad.png").write_bytes(b"this is text")
    return folder


# -- training


def test_tasks_are_listed():
    rows = json.loads(call("tasks", "--json").stdout)
    assert [row["name"] for row in rows] == list(tasks.names())
    (one,) = [row for row in rows if row["name"] == "match"]
    assert one["needs"] == {"label": "category"} and (one["goal"], one["best"]) == ("eer", "min")
    assert one["options"]["loss"] == "softmax" and one["about"]
    table = call("tasks").stdout
    assert all(name in table for name in tasks.names()) and "miou" in table and "dimensions=256" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "sgment"), "unknown task 'sgment' (did you mean 'segment'?)"),
        (("--task", "match", "--task-option", "los=triplet"), "has no option 'los' (did you mean 'loss'?)"),
        (("--task", "match", "--task-option", "margin=much"), "--task-option margin= needs a value of type float"),
        (("--task", "match", "--task-option", "margin"), "--task-option expects field=value, such as loss=triplet"),
    ],
)
@pytest.mark.parametrize("scan", [False, True])
def test_a_wrong_task_or_option_is_refused_before_anything_is_made(tmp_path, arguments, message, scan):
    more = ("--find-lr",) if scan else ("--out", tmp_path / "run")
    result = call("train", "drawn:n=30,size=32", *arguments, *more)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr and not (tmp_path / "run").exists()


def test_options_of_a_task_are_kept_in_the_run(segment):
    assert json.loads((segment / "run.json").read_text())["settings"]["task"]["width"] == 8


def test_an_option_of_yes_or_no_is_no_text():
    class Asks(tasks.Label):
        options = MappingProxyType({"many": False, "size": 3})

    assert task_options(Asks, {"many": "false", "size": "4"}) == {"many": False, "size": 4}
    assert task_options(Asks, {"many": "true"})["many"] is True
    with pytest.raises(UsageError, match=r"--task-option many= needs a value of type bool, not 'maybe'"):
        task_options(Asks, {"many": "maybe"})


# -- predict


def test_regions_as_lines_masks_and_drawings(segment, photos, tmp_path):
    where = ("--masks", tmp_path / "masks", "--draw", tmp_path / "drawn")
    result = call("predict", segment, photos, "--format", "jsonl", *where)
    assert result.exit_code == 1 and "1 picture could not be read" in result.stderr
    records = {
        Path(r["picture"]).relative_to(photos).as_posix(): r for r in map(json.loads, result.stdout.splitlines())
    }
    assert set(records) == {"a/1.png", "a/2.png", "b/1.png", "b/turned.jpg", "bad.png"}
    assert "not a picture" in records["bad.png"]["problem"] and "mask" not in records["bad.png"]
    turned = records["b/turned.jpg"]
    assert (turned["height"], turned["width"]) == (48, 40), "the frame that EXIF turns it to"
    names = (tmp_path / "masks" / "classes.txt").read_text().splitlines()
    assert names == list(fit.Run(segment).classes)
    for name, record in records.items():
        if "problem" in record:
            continue
        assert Path(record["mask"]) == (tmp_path / "masks" / name).with_suffix(".png")
        with Image.open(record["mask"]) as image:
            assert image.mode == "P" and image.size == (record["width"], record["height"])
            mask = np.asarray(image)
        (found,) = fit.Run(segment).predict(photos / name)
        assert (mask == found.mask).mean() > 0.99  # a batch of one may round otherwise
        with Image.open(record["drawn"]) as image:
            assert image.format == "JPEG"
            assert image.size == found.draw(decode((photos / name).read_bytes())).shape[1::-1]
    assert len({record["mask"] for record in records.values() if "mask" in record}) == 4


def test_answers_as_csv_and_table(segment, photos):
    rows = list(csv.DictReader(io.StringIO(call("predict", segment, photos, "--format", "csv").stdout)))
    assert len(rows) == 5 and list(rows[0]) == ["picture", "regions", "problem"]
    assert [bool(row["problem"]) for row in rows] == [not row["regions"] for row in rows]
    lines = call("predict", segment, photos / "a").stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == [str(photos / "a" / name) for name in ("1.png", "2.png")]
    nothing = call("predict", segment, photos / "bad.png", "--format", "csv")
    assert nothing.exit_code == 1
    assert nothing.stdout.splitlines() == ["picture,problem", f"{photos / 'bad.png'},not a picture: text"]


def test_regions_as_coco(segment, photos, tmp_path):
    result = call("predict", segment, photos, "--format", "coco", "--out", tmp_path / "found.json")
    assert result.exit_code == 1 and "bad.png: not a picture" in result.stderr
    document = json.loads((tmp_path / "found.json").read_text())
    run = fit.Run(segment)
    assert [one["name"] for one in document["categories"]] == list(run.classes)
    images = {one["id"]: one for one in document["images"]}
    assert len(images) == 4 and {one["width"] for one in images.values()} == {40, 48}
    ids = [one["id"] for one in document["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    for one in images.values():
        (answer,) = run.predict(one["file_name"])
        height, width = answer.mask.shape
        assert (one["height"], one["width"]) == (height, width)
        for found in (a for a in document["annotations"] if a["image_id"] == one["id"]):
            flat = np.repeat(np.arange(len(found["segmentation"]["counts"])) % 2, found["segmentation"]["counts"])
            mask = flat.reshape(found["segmentation"]["size"], order="F").astype(bool)
            assert mask.shape == (height, width) and mask.sum() == found["area"]
            assert np.mean(answer.mask[mask] == found["category_id"] - 1) > 0.9
            x, y, w, h = map(int, found["bbox"])
            assert mask[y : y + h, x : x + w].sum() == mask.sum() and 0 < found["score"] <= 1


def test_coco_without_annotations_is_json(segment, photos):
    result = call("predict", segment, photos / "bad.png", "--format", "coco")
    document = json.loads(result.stdout)
    assert (document["annotations"], document["images"]) == ([], [])


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 2)])
def test_run_lengths_lead_back_to_the_mask(shape):
    rng = np.random.default_rng(0)
    for mask in (np.zeros(shape, bool), np.ones(shape, bool), *(rng.random((20, *shape)) < 0.5)):
        found = rle(mask)
        assert sum(found["counts"]) == mask.size and 0 not in found["counts"][1:]
        flat = np.repeat(np.arange(len(found["counts"])) % 2, found["counts"])
        assert (flat.reshape(found["size"], order="F") == mask).all()
    assert coco_box((1, 2, 4.5, 10)) == [1, 2, 3.5, 8]


def test_labels_are_written_below_drawn_pictures(label, photos, tmp_path):
    result = call("predict", label, photos / "a", "--draw", tmp_path / "drawn", "--top", 2, "--format", "csv")
    assert result.exit_code == 0, result.stderr
    for row in csv.DictReader(io.StringIO(result.stdout)):
        assert row["label_2"] and "label_3" not in row and row["problem"] == ""
        with Image.open(row["drawn"]) as image:
            made = np.asarray(image)
        assert made.shape[0] > made.shape[1] * 40 / 48 + 10, "there is a band below the picture"
        assert made[made.shape[1] * 40 // 48 :].max() > 150, "with words"


def test_what_a_task_does_not_give_is_refused_at_once(label, segment, twins, photos, tmp_path):
    for run, arguments, message in (
        (label, ("--format", "coco"), "the task label has no boxes, regions or points"),
        (label, ("--masks", tmp_path / "m"), "the task label has no masks"),
        (segment, ("--format", "npy", "--out", tmp_path / "v.npy"), "the task segment has no vectors"),
        (twins, ("--format", "npy"), "add --out FILE"),
        (segment, ("--masks", photos / "masks"), "lies in"),
        (segment, ("--draw", photos), "lies in"),
    ):
        result = call("predict", run, photos, *arguments)
        assert (result.exit_code, result.stdout) == (2, ""), result.stderr
        assert message in result.stderr
    assert not (tmp_path / "m").exists() and not (photos / "masks").exists()


def test_files_for_pictures_never_meet(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in ("x/1.jpg", "x/1.png", "y/1.jpg", "X.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    places = answers.Places(out, ".png", [str(folder)])
    made = [places.of(str(folder / name)).relative_to(out).as_posix() for name in ("x/1.jpg", "x/1.png", "y/1.jpg")]
    assert made == ["x/1.png", "x/1-2.png", "y/1.png"]
    single = answers.Places(out, ".png", [str(folder / "x/1.jpg"), str(folder / "y/1.jpg"), str(folder / "X.png")])
    assert [single.of(str(folder / n)).name for n in ("x/1.jpg", "y/1.jpg", "X.png")] == ["1.png", "1-2.png", "X.png"]
    beside = answers.Places(folder, ".png", [str(folder / "X.png"), str(folder / "x/1.png")])
    assert beside.of(str(folder / "X.png")) == folder / "X-2.png", "the picture itself is not written over"
    listed = answers.Places(folder, ".png", ["-"])
    assert listed.of(str(folder / "X.png")) == folder / "X-2.png"


@pytest.mark.parametrize("name", [*NAMES, "label+pose", "pose+locate"])
def test_every_task_is_written_in_every_form(name, tmp_path, capsys):
    task, source = planned(name, drawn(24)), open_source("drawn:n=3,size=48")
    task.thorough()  # sentences are written, too
    keys = [str(tmp_path / f"{i}.png") for i in range(3)]
    for i, key in enumerate(keys):
        Image.fromarray(source.read(i)).save(key)
    pictures = Streamed(source, np.arange(3), Preprocess(SIDE, SIDE, fit=task.fit))
    batch = next(iter(in_order(pictures, 3, CPU, known=known(task, source))))
    with torch.no_grad():
        found = task.answers(floated(task.run(net_of(task).eval(), batch)), batch, keys)
    found.append(task.unread(str(tmp_path / "gone.png"), "it is gone"))

    def written(form, **more):
        assert answers.write_answers(found, task, form, **more) == 1
        return capsys.readouterr()

    lines = written("table").out.splitlines()
    assert (
        len(lines) == 4
        and "it is gone" in lines[3]
        and all(key in line for key, line in zip(keys, lines[:3], strict=True))
    )
    rows = list(csv.DictReader(io.StringIO(written("csv").out)))
    assert [row["picture"] for row in rows[:3]] == keys and rows[3]["problem"] == "it is gone"
    assert [json.loads(line)["picture"] for line in written("jsonl").out.splitlines()[:3]] == keys
    places = answers.Places(tmp_path / "drawn", ".jpg", keys)
    written("csv", drawn=places)
    for i in range(3):
        with Image.open(tmp_path / "drawn" / f"{i}.jpg") as image:
            image.load()
    if found[0].gives("coco"):
        document = json.loads(written("coco").out)
        assert [one["file_name"] for one in document["images"]] == keys
        names = {one["id"]: one["name"] for one in document["categories"]}
        assert len(names) == len(document["categories"])
        assert {one["category_id"] for one in document["annotations"]} <= set(names)
        for one in document["annotations"]:
            assert ("keypoints" in one) == (names[one["category_id"]] == "object") and one["score"] <= 1
    else:
        with pytest.raises(UsageError, match=f"the task {re.escape(name)} has no boxes, regions or points"):
            answers.write_answers(found, task, "coco")


# -- twins


def test_vectors_as_npy_and_parquet(twins, photos, tmp_path):
    run = fit.Run(twins)
    paths = sorted(photos.rglob("*.*"))
    wanted = {str(path): answer for path, answer in zip(paths, run.predict(paths), strict=True)}
    result = call("predict", twins, photos, "--format", "npy", "--out", tmp_path / "v.npy")
    assert result.exit_code == 1 and "v.csv" in result.stderr
    vectors = np.load(tmp_path / "v.npy")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "v.csv").read_text())))
    assert vectors.dtype == np.float32 and vectors.shape == (5, 256)
    result = call("predict", twins, photos, "--format", "parquet", "--out", tmp_path / "v.parquet")
    assert result.exit_code == 1
    table = pq.read_table(tmp_path / "v.parquet").to_pylist()
    for vector, row, line in zip(vectors, rows, table, strict=True):
        assert row["picture"] == line["picture"] and (row["problem"] or None) == line["problem"]
        if row["problem"]:
            assert np.isnan(vector).all() and line["vector"] is None
        else:
            assert np.allclose(vector, wanted[row["picture"]].vector, atol=1e-5)
            assert np.allclose(line["vector"], vector)
    nothing = call("predict", twins, photos / "bad.png", "--format", "npy", "--out", tmp_path / "none.npy")
    assert nothing.exit_code == 1 and "none of 1 picture could" in nothing.stderr
    assert not (tmp_path / "none.npy").exists() and not (tmp_path / "none.csv").exists()


def test_match_says_same_or_different(twins, label, photos):
    a, b = photos / "a/1.png", photos / "b/turned.jpg"
    same = json.loads(call("match", twins, a, a, "--json").stdout)
    assert same["same"] is True and same["cosine"] == pytest.approx(1.0, abs=1e-5)
    other = json.loads(call("match", twins, a, b, "--json").stdout)
    run = fit.Run(twins)
    first, second = run.predict([a, b])
    assert other["cosine"] == pytest.approx(first.alike(second), abs=1e-5)
    assert other["same_from"] == pytest.approx(run.task.same, abs=1e-6)
    assert other["same"] == (other["cosine"] >= run.task.same)
    assert call("match", twins, a, a).stdout.startswith("same: cosine 1.0000, same from ")
    bad = call("match", twins, a, photos / "bad.png")
    assert bad.exit_code == 1 and "bad.png cannot be read: not a picture" in bad.stderr and bad.stdout == ""
    wrong = call("match", label, a, b)
    assert wrong.exit_code == 2 and "needs a run of the task match" in wrong.stderr


# -- evaluate and check


def test_evaluate_prints_the_figures_of_the_task(segment, twins):
    table = call("evaluate", segment, "drawn:n=12,size=32,seed=3", "--split", "train").stdout.splitlines()
    assert {"miou", "pixel_accuracy", "loss"} <= set(table[1].split()) and table[2].startswith(str(segment))
    document = json.loads(call("evaluate", twins, "drawn:n=30,size=32,seed=3", "--split", "train", "--json").stdout)
    assert 0 <= document["runs"][0]["eer"] <= 1 and document["n"] == document["runs"][0]["n"]


def test_evaluate_says_in_what_runs_differ(segment, twins, label, tmp_path):
    told = call("evaluate", label, segment, "drawn:n=12,size=32")
    assert told.exit_code == 1 and "whose tasks are the same" in told.stderr and "segment knows segment" in told.stderr
    others = trained(tmp_path / "others", "--task", "number", "--net", "lenet5")
    assert "tasks are the same" in call("evaluate", twins, others, "drawn:n=12,size=32").stderr
    told = call("evaluate", label, "drawn:n=12,size=32,kind=text")
    assert told.exit_code == 2 and "label reads pictures, and drawn holds texts" in told.stderr


def test_a_teacher_of_another_task_is_refused_by_its_task(segment, tmp_path):
    told = call("train", "drawn:n=12,size=32", "--teacher", segment, "--out", tmp_path / "run")
    assert told.exit_code == 2 and "segment knows the task segment on pictures" in told.stderr


def test_evaluate_heeds_the_order_of_classes(segment):
    plain = open_source("drawn:n=6,size=32,seed=3")
    column = plain.columns["mask"]

    def source(names):
        order = np.array([names.index(name) for name in column.names], np.uint8)
        masks = Masks(lambda i: order[column[i]], 6, names)
        return Arrays([plain.read(i) for i in range(6)], columns={"mask": masks})

    here = fit.evaluate([segment], source(column.names))
    there = fit.evaluate([segment], source(tuple(reversed(column.names))))
    assert here["runs"][0]["miou"] == pytest.approx(there["runs"][0]["miou"])
    with pytest.raises(DataError, match="classes that are not in the training data: cat"):
        fit.evaluate([segment], source((*column.names, "cat")))


def test_check_prints_the_columns_by_role(tmp_path):
    shown = call("check", "drawn:n=8,size=32").stdout
    assert "mask: mask of all pictures: ground, circle" in shown
    assert "numbers: number of all pictures: count, diameter" in shown
    document = json.loads(call("check", "drawn:n=8,size=32", "--json").stdout)
    assert {one["role"]: one["kind"] for one in document["columns"]}["points"] == "points"


def test_check_counts_what_is_known():
    one = BoxSet(np.array([[0, 0, 2, 2]], np.float32), np.zeros(1, np.int32), np.zeros(1, bool))
    boxes = Boxes.of([one, None, one], ("car",))
    pictures = [np.zeros((8, 8, 3), np.uint8)] * 3
    (found,) = check.known(Arrays(pictures, columns={"boxes": boxes}))
    assert (found.role, found.kind, found.pictures, found.things, found.names) == ("boxes", "boxes", 2, 2, ("car",))


def test_find_lr_asks_the_task():
    result = call("train", "drawn:n=30,size=32", "--task", "match", "--net", "lenet5", "--find-lr", "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["points"]


def test_an_answer_says_itself_in_a_line():
    class Count(Answer):
        key, problem = "x", None

        def __init__(self, row):
            self._row = row

        def row(self):
            return self._row

        def to_json(self):
            return self._row

    assert Count({"tags": "cat; dog"}).text() == "cat; dog"
    assert Count({"tags": ""}).text() == "nothing found"
    assert Count({"age": 31.23456, "height": 2}).text() == "age 31.23, height 2"
    assert Count({str(k): k for k in range(30)}).text().endswith(", 8 8, and 21 more")
    assert Count({}).coco(1) == [] and Count({}).indexed() is None
