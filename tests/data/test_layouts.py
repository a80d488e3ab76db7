"""Layouts of annotated pictures and tables for other tasks: recognised, named, and never trained as something else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neocog.data import open_source
from neocog.data.check import check
from neocog.data.check_page import check_page
from neocog.data.layouts import recognise
from neocog.errors import DataError
from neocog.fit.job import Data

VOC = (
    "<annotation><object><name>dog</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
    "</object></annotation>"
)
PARTS = {"images": [{"id": 1, "file_name": "1.jpg"}], "categories": []}
COCO = json.dumps({"info": {}, **PARTS, "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1], "category_id": 1}]})
CAPTIONS = json.dumps({"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": "a dog"}]})
LABELME = json.dumps({"version": "5", "shapes": [{"label": "dog", "points": [[0, 0]]}], "imagePath": "1.jpg"})
BOX = "0 0.5 0.5 0.2 0.3\n1 0.1 0.1 0.05 0.05\n"
POLYGON = "0 0.1 0.1 0.2 0.2 0.3 0.1\n1 .1 .1 .2 .2 .3 .3 .4 .4\n"
POSE = "0 .5 .5 .2 .2 .1 .1 2 .2 .2 1 .3 .3 0\n"

# each file stands for three; what its name ends with says what is in it
LAYOUTS = {
    "yolo": ("yolo", "detect", {"images/train/*.jpg": "", "images/val/*.jpg": "", "labels/train/*.txt": BOX,
                                "labels/val/*.txt": BOX, "data.yaml": "path: .\ntrain: images/train\nnames: [a, b]\n"}),
    "yolo by split": ("yolo", "segment", {"train/images/*.jpg": "", "train/labels/*.txt": POLYGON,
                                          "valid/images/*.jpg": "", "valid/labels/*.txt": POLYGON}),
    "yolo in one folder": ("yolo", "points", {"*.jpg": "", "*.txt": POSE, "classes.txt": "a\nb\n"}),
    "voc": ("voc", "detect", {"VOC2012/JPEGImages/*.jpg": "", "VOC2012/Annotations/*.xml": VOC,
                              "VOC2012/SegmentationClass/*.png": "", "VOC2012/ImageSets/Main/train.txt": "0\n"}),
    "voc beside": ("voc", "detect", {"train/*.jpg": "", "train/*.xml": VOC, "test/*.jpg": "", "test/*.xml": VOC}),
    "coco": ("coco", "detect", {"train2017/*.jpg": "", "val2017/*.jpg": "",
                                "annotations/instances_train2017.json": COCO,
                                "annotations/captions_train2017.json": CAPTIONS}),
    "coco beside": ("coco", "detect", {"train/*.jpg": "", "train/_annotations.coco.json": COCO, "valid/*.jpg": ""}),
    "captions": ("coco", "caption", {"images/*.jpg": "", "captions.json": CAPTIONS}),
    "labelme": ("labelme", "segment", {"*.jpg": "", "*.json": LABELME}),
    "masks": ("masks", "segment", {"images/*.jpg": "", "masks/*.png": ""}),
    "masks by split": ("masks", "segment", {"train/images/*.jpg": "", "train/masks/*_mask.png": "",
                                            "val/images/*.jpg": "", "val/masks/*_mask.png": ""}),
    "camvid": ("masks", "segment", {"train/*.png": "", "trainannot/*.png": "", "val/*.png": "", "valannot/*.png": ""}),
    "masks beside": ("masks", "segment", {"*.png": "", "*_mask.png": ""}),
    "cityscapes": ("masks", "segment", {"leftImg8bit/train/a/*_leftImg8bit.png": "",
                                        "gtFine/train/a/*_gtFine_labelIds.png": "",
                                        "leftImg8bit/val/b/*_leftImg8bit.png": "",
                                        "gtFine/val/b/*_gtFine_labelIds.png": ""}),
    "carvana": ("masks", "segment", {"train/*.jpg": "", "train_masks/*_mask.png": ""}),
    "trimaps": ("masks", "segment", {"images/*.jpg": "", "annotations/trimaps/*.png": ""}),
}  # fmt: skip
CLASSES = {
    "captions beside": {"cat/*.jpg": "", "cat/*.txt": "a photo of 2 cats", "dog/*.jpg": "", "dog/*.txt": "1 dog"},
    "face masks": {"mask/*.jpg": "", "no_mask/*.jpg": ""},
    "names that say nothing": {"train/label/*.jpg": "", "train/logo/l*.jpg": "", "test/label/*.jpg": ""},
    "other json": {"a/*.jpg": "", "b/*.jpg": "", "a/*.json": '{"title": "x", "images": 3}'},
}


def make(root: Path, files: dict[str, str]) -> Path:
    for pattern, content in files.items():
        for i in range(3):
            path = root / pattern.replace("*", str(i))
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".png" and any(
                word in pattern for word in ("mask", "annot", "Segm", "trimaps", "gtFine")
            ):
                Image.fromarray(np.full((16, 24), i, np.uint8)).save(path)
            elif path.suffix in (".jpg", ".png"):
                pixels = np.random.default_rng([len(pattern), *pattern.encode(), i]).integers(0, 255, (16, 24, 3))
                Image.fromarray(pixels.astype("uint8")).save(path)
            else:
                path.write_text(content)
    return root


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_recognised_and_named_and_has_no_labels(name, tmp_path):
    kind, task, files = LAYOUTS[name]
    found = recognise(make(tmp_path / "set", files))
    assert found is not None and (found.kind, found.task) == (kind, task)
    assert all(one.is_dir() for one in found.pictures) and all(one.exists() for one in found.annotations)
    source = open_source(tmp_path / "set")
    pictures = {
        str(one.relative_to(tmp_path / "set"))
        for one in (tmp_path / "set").rglob("*")
        if one.suffix in (".jpg", ".png")
    }
    masks = {one for one in pictures if any(word in one for word in ("mask", "annot", "Segm", "trimaps", "gtFine"))}
    assert {source.key(i) for i in range(len(source))} == pictures - masks and source.layout == found
    assert source.classes == () and (source.labels == -1).all()
    if masks and "Segm" not in str(masks):  # each picture has its own: the i-th mask holds i
        column = source.columns["mask"]
        stems = [re.search(r"\d+", source.key(i).rsplit("/", 1)[-1]).group() for i in range(len(source))]
        assert [int(stem) for stem in stems] == [int(column[i].max()) for i in range(len(source))]
    with pytest.raises(DataError, match=re.escape(f"set looks like {found}")):
        Data.open(tmp_path / "set", None, True, task="label")
    looked = check(source, near=False)
    finding = looked.find("another_task")
    if any(column.known.any() for role, column in source.columns.items() if role != "captions"):
        assert finding is None
    else:  # captions alone, or annotations of which none can be used
        assert finding is not None and looked.exit_status == 1 and "one label for each picture" in finding.advice
        assert "Another task" in check_page(looked, source)


@pytest.mark.parametrize("name", CLASSES)
def test_class_folders_stay_class_folders(name, tmp_path):
    assert recognise(make(tmp_path, CLASSES[name])) is None
    source = open_source(tmp_path)
    assert len(source.classes) == 2 and source.unfit == "" and source.layout is None


def test_class_folders_with_masks_are_trained_without_the_masks(tmp_path):
    make(tmp_path, {"benign/*.png": "", "benign/*_mask.png": "", "malignant/*.png": "", "malignant/*_mask.png": ""})
    source = open_source(tmp_path)
    assert source.classes == ("benign", "malignant") and np.bincount(source.labels).tolist() == [3, 3]
    assert source.unfit == "" and any("6 masks were left out" in note for note in source.notes)


def test_a_table_of_labels_beside_annotations_is_used(tmp_path):
    make(tmp_path, LAYOUTS["labelme"][2])
    (tmp_path / "labels.csv").write_text("path,label\n0.jpg,a\n1.jpg,b\n2.jpg,a\n")
    source = open_source(tmp_path)
    assert source.classes == ("a", "b") and source.unfit == "" and "also looks like LabelMe" in source.notes[-1]
    (tmp_path / "labels.csv").write_text("path,bbox\n0.jpg,1 2 3 4\n")
    source = open_source(tmp_path)
    assert source.layout == recognise(tmp_path) and any("labels.csv was not used" in note for note in source.notes)


@pytest.mark.parametrize("file", ["data.yaml", "annotations/instances_train2017.json"])
def test_a_file_of_annotations_leads_to_its_folder(file, tmp_path):
    make(tmp_path, LAYOUTS["yolo" if file == "data.yaml" else "coco"][2])
    assert open_source(tmp_path / file).layout == recognise(tmp_path)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(DataError, match="not one that holds a set of pictures"):
        open_source(tmp_path / "other.json")


def test_splits_of_a_layout_come_from_its_folders(tmp_path):
    source = open_source(make(tmp_path, LAYOUTS["yolo"][2]))
    assert {source.key(i).split("/")[1]: source.sample(i).split for i in range(6)} == {"train": "train", "val": "val"}


# ---- tables


def table(folder: Path, head: str, row, n: int = 60) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(n):
        (folder / f"{i}.jpg").write_bytes(b"x")
        (folder / f"{i}_m.png").write_bytes(b"x")
    lines = [head, *(",".join(map(str, row(i))) for i in range(n))]
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    return folder / "t.csv"


@pytest.mark.parametrize(
    ("head", "row", "message"),
    [
        ("path,age", lambda i: (f"{i}.jpg", i + 20), "'age' holds 60 different whole numbers from 20 to 79"),
        ("path,score", lambda i: (f"{i}.jpg", i / 8), "'score' holds 60 different decimal numbers from 0 to 7.375"),
        ("path,label", lambda i: (f"{i}.jpg", i / 8), "'label' holds 60 different decimal numbers"),
        ("path,y", lambda i: (f"{i}.jpg", i * 37), "'y' holds 60 different whole numbers"),
        (
            "path,cat,dog",
            lambda i: (f"{i}.jpg", 1, int(i % 3 > 0)),
            r"several labels for a picture \(40 of 60 pictures",
        ),
        ("path,labels", lambda i: (f"{i}.jpg", "a;b"), r"several labels for a picture \(60 of 60 pictures; 2 labels"),
        ("path,mask", lambda i: (f"{i}.jpg", f"{i}_m.png"), r"holds masks \('mask'\): data for segmentation"),
        ("path,label", lambda i: (f"{i}.jpg", f"{i}_m.png"), r"holds masks \('label'\)"),
        (
            "path,xmin,ymin,xmax,ymax,class",
            lambda i: (f"{i // 2}.jpg", 1, 2, 3, 4, "ab"[i % 2]),
            "holds boxes .*object det",
        ),
        ("path,bbox", lambda i: (f"{i}.jpg", "1 2 3 4"), r"holds boxes \('bbox'\)"),
    ],
)
def test_a_table_for_another_task_says_so(tmp_path, head, row, message):
    path = table(tmp_path / "t", head, row)
    with pytest.raises(DataError, match=f"{message}.*The task label is one label for each picture.*--column"):
        Data.open(path, None, True, task="label")


@pytest.mark.parametrize(
    ("head", "row", "classes"),
    [
        ("path,count", lambda i: (f"{i}.jpg", i % 10), 10),  # few different numbers
        ("path,stars", lambda i: (f"{i}.jpg", i % 9 / 2), 9),
        ("path,class_id", lambda i: (f"{i}.jpg", i), 60),  # its name says that they are classes
        ("path,label", lambda i: (f"{i}.jpg", i * 3), 60),
        ("path,target", lambda i: (f"{i}.jpg", i % 30), 30),  # numbers that count on
        ("path,code", lambda i: (f"{i}.jpg", f"{i:03d}"), 60),
        ("path,cat,dog", lambda i: (f"{i}.jpg", i % 2, 1 - i % 2), 2),  # one of them each time
        ("path,cat,dog", lambda i: (f"{i}.jpg", i % 2 * 2 - 1, 1 - i % 2 * 2), 2),
        ("path,label,flipped,grey", lambda i: (f"{i}.jpg", "ab"[i % 2], 1, i % 3 % 2), 2),
        ("path,x1,y1,x2,y2,class", lambda i: (f"{i}.jpg", 1, 2, 3, 4, "ab"[i % 2]), 2),  # one box for each picture
    ],
)
def test_a_table_of_classes_is_left_alone(tmp_path, head, row, classes):
    source = open_source(table(tmp_path / "t", head, row))
    assert source.unfit == "" and len(source.classes) == classes and (source.labels >= 0).all()


def test_a_column_that_was_chosen_holds_classes(tmp_path):
    path = table(tmp_path / "t", "path,age", lambda i: (f"{i}.jpg", i + 20))
    assert len(open_source(path, columns={"label": "age"}).classes) == 60


def test_a_few_pictures_with_several_labels_are_said_and_left_out(tmp_path):
    from neocog.data.split import count_splits
    from neocog.fit.choices import splits_of
    from neocog.fit.recipes import recipe
    from neocog.tasks import Label

    rows = table(tmp_path / "t", "path,labels", lambda i: (f"{i}.jpg", "a;b" if i < 6 else "ab"[i % 2]))
    source = open_source(rows)
    assert source.unfit == "" and source.several == 6
    codes, notes, _ = splits_of(source, Label, recipe("fast"), 0)
    assert (codes[:6] == -1).all() and any("6 pictures with several labels are not used" in note for note in notes)
    assert not any("without a label" in note for note in notes)
    assert check(source, near=False).find("several_labels").count == 6
    used = count_splits(codes[codes >= 0])
    assert any(f"divided into {used} (seed" in note for note in notes)


@pytest.mark.parametrize(("several", "task"), [(1, "label"), (2, "tags")])
def test_tags_are_guessed_where_more_than_a_fiftieth_has_several(tmp_path, several, task):
    from neocog.tasks.task import guess

    rows = table(tmp_path / "t", "path,labels", lambda i: (f"{i}.jpg", "a;b" if i < several else "ab"[i % 2]))
    assert guess(open_source(rows)) == task


@pytest.mark.parametrize(("again", "task"), [(5, "label"), (6, "tags")])
def test_tags_are_guessed_where_more_than_a_tenth_is_named_again(tmp_path, again, task):
    from neocog.tasks.task import guess

    first = 60 - again
    rows = table(tmp_path / "t", "path,label", lambda i: (f"{i % first}.jpg", "ab"[(i % first + i // first) % 2]))
    assert guess(open_source(rows)) == task


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"label": [["a", "b"]] * 40}, "several labels for a picture"),
        ({"cat": [True] * 40, "dog": [True, False] * 20}, ""),
        ({"objects": [{"bbox": [1.0]}] * 40}, "holds boxes"),
        ({"label": [b"\x89PNG\r\n\x1a\n"] * 40}, "holds masks"),
        ({"label": [i / 7 for i in range(40)]}, "different decimal numbers"),
    ],
)
def test_parquet_with_pictures_for_another_task_says_so(tmp_path, column, message):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [b"x"] * 40, **column}), tmp_path / "p.parquet")
    source = open_source(tmp_path / "p.parquet")
    assert message in source.unfit and bool(message) == bool(source.unfit)


def test_a_large_folder_is_looked_at_in_part(tmp_path, monkeypatch):
    from neocog.data import layouts

    make(tmp_path, LAYOUTS["yolo"][2])
    for i in range(3, 20):
        (tmp_path / f"images/train/{i}.jpg").write_bytes(b"x")
        (tmp_path / f"labels/train/{i}.txt").write_text(BOX)
    monkeypatch.setattr(layouts, "_ENTRIES", 3)  # three labels, and three pictures that need not be theirs
    found = recognise(tmp_path)
    assert found is not None and tmp_path / "images/train" in found.pictures
