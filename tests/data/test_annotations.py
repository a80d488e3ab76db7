"""Annotations in: COCO, Pascal VOC, YOLO, LabelMe, masks; and out again."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neocog.data import open_source
from neocog.data.annotated import swapped
from neocog.data.check import check
from neocog.data.check_page import check_page, overlay
from neocog.data.export import of_source, write_coco, write_masks, write_yolo
from neocog.data.kinds import BoxSet
from neocog.data.mask_files import voc_colours
from neocog.data.shapes import Runs, from_text, to_text
from neocog.data.source import Source
from neocog.errors import DataError
from neocog.tasks.task import find, fits, guess, possible

W, H = 40, 24


def picture(path: Path, size: tuple[int, int] = (W, H), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, *path.name.encode()]).integers(0, 255, (size[1], size[0], 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def row(source: Source, name: str) -> int:
    return next(i for i in range(len(source)) if source.key(i).endswith(name))


def boxes(source: Source, name: str) -> list[tuple[str, list[float]]] | None:
    column = source.columns["boxes"]
    found = column[row(source, name)]
    if found is None:
        return None
    return [(column.names[k], c) for k, c in zip(found.labels, found.corners.tolist(), strict=True)]


# ---------------------------------------------------------------- COCO


def coco(tmp_path: Path) -> Path:
    for name in ("train2017/1.jpg", "train2017/2.jpg", "train2017/3.jpg", "val2017/1.jpg"):
        picture(tmp_path / name)
    categories = [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}]
    square = [4, 2, 14, 2, 14, 12, 4, 12]
    runs = Runs.of(np.pad(np.ones((4, 6), bool), ((1, H - 5), (2, W - 8))))
    train = [
        {"id": 1, "image_id": 11, "category_id": 9, "bbox": [4, 2, 10, 10], "segmentation": [square], "iscrowd": 0},
        {"id": 2, "image_id": 11, "category_id": 3, "bbox": [2, 1, 6, 4], "iscrowd": 1,
         "segmentation": {"size": [H, W], "counts": runs.counts.tolist()}},
    ]  # fmt: skip
    images = [{"id": 10 + k, "file_name": f"{k}.jpg", "width": W, "height": H} for k in (1, 2)]
    write(tmp_path / "annotations/instances_train2017.json",
          {"images": images, "annotations": train, "categories": categories})  # fmt: skip
    val = [{"id": 1, "image_id": 7, "category_id": 9, "bbox": [0, 0, 5, 6], "iscrowd": 0}]
    write(tmp_path / "annotations/instances_val2017.json",
          {"images": [{"id": 7, "file_name": "1.jpg", "width": W, "height": H}], "annotations": val,
           "categories": categories})  # fmt: skip
    write(tmp_path / "annotations/captions_train2017.json",
          {"images": images, "annotations": [{"image_id": 12, "id": 1, "caption": "a dog "}]})  # fmt: skip
    return tmp_path


def test_coco_boxes_crowds_empty_pictures_splits_and_captions(tmp_path):
    source = open_source(coco(tmp_path))
    assert boxes(source, "train2017/1.jpg") == [("dog", [4, 2, 14, 12]), ("cat", [2, 1, 8, 5])]
    assert boxes(source, "val2017/1.jpg") == [("dog", [0, 0, 5, 6])]  # of the same file name
    assert boxes(source, "2.jpg") == [] and boxes(source, "3.jpg") is None  # listed and empty; not listed
    assert source.columns["boxes"].names == ("cat", "dog")  # by their numbers
    assert source.columns["boxes"][row(source, "train2017/1.jpg")].ignored.tolist() == [False, True]
    assert [source.sample(i).split for i in range(4)] == ["train", "train", "train", "val"]
    assert source.captions[row(source, "2.jpg")] == ("a dog",)
    tags = source.columns["tags"]
    assert tags[row(source, "train2017/1.jpg")].tolist() == [1, 1] and tags[row(source, "3.jpg")] is None
    said = " ".join(source.notes)
    assert "1 picture without a box: taken as empty" in said and "1 picture without an annotation" in said
    assert fits(find("segment"), source) and check(source, near=False).find("another_task") is None


def test_coco_polygons_and_runs_are_painted_small_over_large(tmp_path):
    source = open_source(coco(tmp_path))
    mask = source.columns["mask"][row(source, "train2017/1.jpg")]
    expected = np.zeros((H, W), np.uint8)
    expected[2:12, 4:14] = 2
    expected[1:5, 2:8] = 1
    assert (mask == expected).all() and source.columns["mask"].names == ("background", "cat", "dog")
    assert (source.columns["mask"].select(np.array([row(source, "train2017/1.jpg")]))[0] == expected).all()


def panoptic(tmp_path: Path) -> Path:
    for name in ("val2017/1.jpg", "val2017/2.jpg", "val2017/3.jpg"):
        picture(tmp_path / name)
    numbers = np.zeros((H, W), np.int64)
    numbers[:, 20:], numbers[4:8, 4:8], numbers[10:12, 4:8] = 70_000, 300, 5
    folder = tmp_path / "annotations/panoptic_val2017"
    folder.mkdir(parents=True)
    colours = np.stack([numbers >> (8 * k) & 255 for k in range(3)], -1).astype(np.uint8)
    Image.fromarray(colours).save(folder / "1.png")
    Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(folder / "2.png")
    segments = [{"id": 70_000, "category_id": 200}, {"id": 300, "category_id": 3, "iscrowd": 0}]
    write(tmp_path / "annotations/panoptic_val2017.json", {
        "images": [{"id": k, "file_name": f"{k}.jpg", "width": W, "height": H} for k in (1, 2, 3)],
        "annotations": [{"image_id": k, "file_name": f"{k}.png", "segments_info": segments if k == 1 else []}
                        for k in (1, 2, 3)],
        "categories": [{"id": 200, "name": "sky", "isthing": 0, "color": [70, 130, 180]},
                       {"id": 3, "name": "dog", "isthing": 1, "color": [1, 2, 3]}],
    })  # fmt: skip
    return tmp_path


def test_coco_panoptic_masks(tmp_path):
    source = open_source(panoptic(tmp_path))
    column = source.columns["mask"]
    assert len(source) == 3 and column.names == ("dog", "sky") and column.colours == ((1, 2, 3), (70, 130, 180))
    mask = column[row(source, "1.jpg")]
    assert mask.dtype == np.uint8 and (mask[:, 20:] == 1).all() and (mask[4:8, 4:8] == 0).all()
    assert (mask[10:12, 4:8] == 255).all() and mask[0, 0] == 255
    assert (column[row(source, "2.jpg")] == 255).all()
    assert column[row(source, "3.jpg")] is None and "3.png does not exist" in source.problems[0].reason
    assert source.splits.tolist() == [1, 1, 1] and guess(source) == "segment"
    found = check(source, near=False).find("mask_values")
    assert found.count == 1 and found.groups[0][0].note == "'segment 5' is of no class"


def test_a_coco_picture_whose_only_annotation_is_wrong_is_unknown_and_not_empty(tmp_path):
    for k in range(5):
        picture(tmp_path / f"images/{k}.jpg")
    named = [{"id": 1, "name": "face", "keypoints": ["left_eye", "right_eye"]}]
    good = {"category_id": 1, "bbox": [1, 1, 9, 9], "keypoints": [3, 3, 2, 7, 3, 2]}
    wrong = [{"bbox": [1, 2]}, {"category_id": 7}, {"keypoints": [1, 2]}]
    annotations = [{**good, **one, "id": k, "image_id": k} for k, one in enumerate([{}, *wrong])]
    images = [{"id": k, "file_name": f"{k}.jpg"} for k in range(6)]
    write(tmp_path / "a.json", {"images": images, "annotations": annotations, "categories": named})
    source = open_source(tmp_path)
    assert [boxes(source, f"{k}.jpg") for k in (1, 2, 4)] == [None, None, []] and boxes(source, "3.jpg")
    reasons = {problem.key: problem.reason for problem in source.problems}
    assert "2 numbers as a box, expected x, y, width, height" in reasons["images/1.jpg"]
    assert "2 numbers as keypoints, expected 6" in reasons["images/3.jpg"]
    assert "a.json lists 1 picture that cannot be found" in source.notes


def test_the_task_is_guessed_by_what_is_annotated(tmp_path):
    for k in range(3):
        picture(tmp_path / f"images/{k}.jpg")
    images = [{"id": k, "file_name": f"{k}.jpg"} for k in range(3)]
    boxed = [{"id": k, "image_id": k, "category_id": 1, "bbox": [1, 1, 9, 9]} for k in range(3)]
    named = [{"id": 1, "name": "face", "keypoints": ["left_eye", "right_eye"]}]
    pointed = [{**one, "keypoints": [3, 3, 2, 7, 3, 2]} for one in boxed]
    write(tmp_path / "a.json", {"images": images, "annotations": pointed, "categories": named})
    assert guess(open_source(tmp_path)) == "pose" and "detect" in possible(open_source(tmp_path))
    write(tmp_path / "a.json", {"images": images, "annotations": [*pointed[:2], boxed[2]], "categories": named})
    assert guess(open_source(tmp_path)) == "detect"
    outlined = [{**one, "segmentation": [[1, 1, 10, 1, 10, 10]]} for one in boxed]
    write(tmp_path / "a.json", {"images": images, "annotations": outlined, "categories": [{"id": 1, "name": "face"}]})
    assert guess(open_source(tmp_path)) == "detect" and "segment" in possible(open_source(tmp_path))


def test_boxes_of_one_class_in_a_table_are_no_labels(tmp_path):
    for k in range(3):
        picture(tmp_path / f"{k}.jpg")
    rows = "".join(f"{k}.jpg,1,1,9,9,cell\n" for k in range(3))
    write(tmp_path / "boxes.csv", "image,xmin,ymin,xmax,ymax,label\n" + rows)
    source = open_source(tmp_path / "boxes.csv")
    assert guess(source) == "detect" and "label" not in possible(source) and "locate" in possible(source)


def test_coco_keypoints_of_the_largest_thing_and_their_mirror_partners(tmp_path):
    picture(tmp_path / "images/1.jpg")
    names = ["nose", "left_eye", "right_eye"]
    people = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "keypoints": [1, 1, 2, 0, 0, 0, 3, 3, 1]},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "keypoints": [4, 4, 2, 5, 5, 2, 0, 0, 0]},
    ]
    write(tmp_path / "annotations/person_keypoints_train.json", {
        "images": [{"id": 1, "file_name": "1.jpg"}], "annotations": people,
        "categories": [{"id": 1, "name": "person", "keypoints": names}]})  # fmt: skip
    source = open_source(tmp_path)
    points = source.columns["points"]
    assert points[0].tolist() == [[4, 4, 2], [5, 5, 2], [0, 0, 0]]
    assert points.names == tuple(names) and points.swap == (0, 2, 1)
    assert any("those of the largest one are used" in note for note in source.notes)


def test_a_damaged_annotation_is_listed_and_the_others_are_used(tmp_path):
    folder = coco(tmp_path)
    path = folder / "annotations/instances_train2017.json"
    document = json.loads(path.read_text())
    document["annotations"].append({"id": 3, "image_id": 11, "category_id": 9, "bbox": [1, "x", 2, 3]})
    document["annotations"].append({"id": 4, "image_id": 11, "category_id": 77, "bbox": [1, 1, 2, 3]})
    document["images"].append({"id": 20, "file_name": "gone.jpg"})
    path.write_text(json.dumps(document))
    source = open_source(folder)
    assert len(boxes(source, "train2017/1.jpg")) == 2
    reasons = {problem.key: problem.reason for problem in source.problems}
    assert "annotation 3 of instances_train2017.json is skipped" in reasons["train2017/1.jpg"]
    assert "the picture does not exist" in reasons["gone.jpg"] and any("77" in note for note in source.notes)


def test_a_category_that_only_stands_above_others_is_no_class(tmp_path):
    picture(tmp_path / "train/1.jpg")
    write(tmp_path / "train/_annotations.coco.json", {
        "images": [{"id": 0, "file_name": "1.jpg"}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [1, 1, 2, 2]}],
        "categories": [{"id": 0, "name": "cells", "supercategory": "none"},
                       {"id": 1, "name": "RBC", "supercategory": "cells"},
                       {"id": 2, "name": "WBC", "supercategory": "cells"}]})  # fmt: skip
    assert open_source(tmp_path).columns["boxes"].names == ("RBC", "WBC")


# ---------------------------------------------------------------- VOC


def xml(*things: tuple[str, tuple[int, int, int, int], int]) -> str:
    objects = "".join(
        f"<object><name>{name}</name><difficult>{hard}</difficult><bndbox>"
        + "".join(f"<{side}>{v}</{side}>" for side, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        + "</bndbox><part><name>head</name></part></object>"
        for name, box, hard in things
    )
    return f"<annotation><filename>x</filename>{objects}</annotation>"


def voc(root: Path) -> Path:
    home = root / "VOC2007"
    for k in range(4):
        picture(home / f"JPEGImages/{k}.jpg")
    write(home / "Annotations/0.xml", xml(("dog", (1, 1, 10, 8), 0), ("person", (5, 5, W, H), 1)))
    write(home / "Annotations/1.xml", xml())
    write(home / "Annotations/2.xml", xml(("dog", (3, 2, 4, 9), 0)))
    write(home / "ImageSets/Main/train.txt", "0\n1\n")
    write(home / "ImageSets/Main/val.txt", "2\n")
    write(home / "ImageSets/Main/dog_train.txt", "0 1\n1 -1\n2 1\n")
    return root


def test_voc_boxes_count_from_one_and_include_both_corners(tmp_path):
    source = open_source(voc(tmp_path))
    assert boxes(source, "0.jpg") == [("dog", [0, 0, 10, 8]), ("person", [4, 4, W, H])]
    assert boxes(source, "1.jpg") == [] and boxes(source, "3.jpg") is None
    assert source.columns["boxes"][row(source, "0.jpg")].ignored.tolist() == [False, True]
    assert [source.sample(row(source, f"{k}.jpg")).split for k in range(4)] == ["train", "train", "val", None]


def test_voc_files_that_count_from_zero_are_taken_as_they_are(tmp_path):
    folder = voc(tmp_path)
    write(folder / "VOC2007/Annotations/1.xml", xml(("dog", (0, 3, 5, 6), 0)))
    source = open_source(folder)
    assert boxes(source, "1.jpg") == [("dog", [0, 3, 5, 6])] and boxes(source, "2.jpg") == [("dog", [3, 2, 4, 9])]
    assert any("counted from 0" in note for note in source.notes)


def test_a_negative_corner_does_not_say_how_voc_files_count(tmp_path):
    folder = voc(tmp_path)
    write(folder / "VOC2007/Annotations/1.xml", xml(("Dog", (-4, 3, 5, 6), 0)))
    source = open_source(folder)
    assert boxes(source, "0.jpg")[0] == ("dog", [0, 0, 10, 8]) and not any("from 0" in note for note in source.notes)
    assert "'Dog' and 'dog'" in check(source, near=False).find("similar_names").title


def test_voc_masks_have_vocs_classes_and_objects_are_no_classes(tmp_path):
    home = voc(tmp_path) / "VOC2007"
    palette = [v for colour in voc_colours() for v in colour]
    mask = np.zeros((H, W), np.uint8)
    mask[3:9, 4:20], mask[0] = 12, 255
    for kind, values in (("SegmentationClass", mask), ("SegmentationObject", (mask > 0).astype(np.uint8))):
        (home / kind).mkdir()
        for k in range(3):
            made = Image.fromarray(values)
            made.putpalette(palette)
            made.save(home / f"{kind}/{k}.png")
    column = open_source(tmp_path).columns["mask"]
    assert column.names[:2] == ("background", "aeroplane") and column.names[12] == "dog" and len(column.names) == 21
    assert (column[0] == mask).all() and column.colours[1] == (128, 0, 0) and column.known.tolist() == [1, 1, 1, 0]


def test_a_damaged_xml_makes_its_picture_unknown(tmp_path):
    folder = voc(tmp_path)
    write(folder / "VOC2007/Annotations/2.xml", "<annotation><object>")
    source = open_source(folder)
    assert boxes(source, "2.jpg") is None and "2.xml cannot be used" in source.problems[0].reason
    write(folder / "VOC2007/Annotations/9.xml", xml())
    assert "no picture, or more than one, has this name" in open_source(folder).problems[-1].reason


# ---------------------------------------------------------------- YOLO


def yolo(root: Path, yaml: str = "path: .\ntrain: images/train\nval: images/val\nnames: ['cat', \"dog's\"]\n") -> Path:
    for split, k in (("train", 1), ("train", 2), ("val", 1)):
        picture(root / f"images/{split}/{k}.jpg", (W, H) if k == 1 else (80, 20))
    write(root / "labels/train/1.txt", "0 0.5 0.5 0.5 0.25\n1 0.1 0.25 0.2 0.5\n")
    write(root / "labels/val/1.txt", "1 0.5 0.5 1 1\n")
    write(root / "data.yaml", yaml)
    return root


def test_yolo_boxes_are_in_pixels_of_their_own_picture(tmp_path):
    source = open_source(yolo(tmp_path))
    assert boxes(source, "train/1.jpg") == [("cat", [10, 9, 30, 15]), ("dog's", [0, 0, 8, 12])]
    assert boxes(source, "val/1.jpg") == [("dog's", [0, 0, W, H])]
    assert boxes(source, "2.jpg") == []  # no file: empty, as YOLO has it
    assert any("1 picture without a text file" in note for note in source.notes)
    assert [source.sample(row(source, f"{one}.jpg")).split for one in ("train/2", "val/1")] == ["train", "val"]


@pytest.mark.parametrize("yaml", [
    "names:\n  0: cat\n  1: dog  # a comment\ntrain: x\n",
    "nc: 2\nnames:\n- cat\n- dog\n", "nc: 2\nnames: [cat,\n  dog]\n",
    "nc: 2\nnames: {0: cat, 1: dog}\n",
])  # fmt: skip
def test_yolo_names_in_every_spelling(yaml, tmp_path):
    assert open_source(yolo(tmp_path, yaml)).columns["boxes"].names == ("cat", "dog")


def test_yolo_names_of_a_text_file_and_classes_beyond_the_names(tmp_path):
    folder = yolo(tmp_path, "")
    assert open_source(folder).columns["boxes"].names == ("0", "1")
    write(folder / "classes.txt", "cat\n")
    source = open_source(folder)
    assert source.columns["boxes"].names == ("cat", "1") and any("names are given for 1" in n for n in source.notes)


def test_yolo_polygons_become_masks_and_boxes(tmp_path):
    folder = yolo(tmp_path)
    write(folder / "labels/train/1.txt", "1 .25 .25 .75 .25 .75 .75 .25 .75\n")
    write(folder / "labels/val/1.txt", "0 0 0 1 0 1 1 0 1\n")
    source = open_source(folder)
    expected = np.zeros((H, W), np.uint8)
    expected[6:18, 10:30] = 2
    assert (source.columns["mask"][row(source, "train/1.jpg")] == expected).all()
    assert boxes(source, "train/1.jpg") == [("dog's", [10, 6, 30, 18])]


def test_yolo_poses(tmp_path):
    folder = yolo(tmp_path, "names: [a]\nkpt_shape: [2, 3]\nflip_idx: [1, 0]\n")
    write(folder / "labels/train/1.txt", "0 .5 .5 1 1 .25 .5 2 .75 .5 0\n")
    write(folder / "labels/val/1.txt", "0 .5 .5 1 1 .25 .5 2 .75 .5 1\n")
    points = open_source(folder).columns["points"]
    assert points.swap == (1, 0) and [points[i].tolist() for i in np.flatnonzero(points.known)] == [
        [[10, 12, 2], [30, 12, 0]], [[10, 12, 2], [30, 12, 1]],
    ]  # fmt: skip


def test_yolo_lines_that_are_damaged_make_their_picture_unknown(tmp_path):
    folder = yolo(tmp_path)
    write(folder / "labels/val/1.txt", "1 0.5 0.5 1\n")
    source = open_source(folder / "data.yaml")
    assert boxes(source, "val/1.jpg") is None and "1.txt cannot be used" in source.problems[0].reason


# ---------------------------------------------------------------- LabelMe


def test_labelme_shapes_points_and_ignored_regions(tmp_path):
    picture(tmp_path / "1.jpg")
    picture(tmp_path / "2.jpg")

    def shape(label: str, points: list[list[float]], kind: str) -> dict[str, object]:
        return {"label": label, "points": points, "shape_type": kind}

    shapes = [
        shape("dog", [[4, 2], [14, 2], [14, 12], [4, 12]], "polygon"),
        shape("cat", [[30, 20], [20, 15]], "rectangle"),
        shape("__ignore__", [[0, 0], [2, 2]], "rectangle"),
        shape("_background_", [[0, 0], [9, 9]], "rectangle"),
        shape("left paw", [[5, 6]], "point"),
        shape("right paw", [[7, 8]], "point"),
        shape("leash", [[7, 8], [9, 9]], "line"),
    ]
    write(tmp_path / "1.json", {"shapes": shapes, "imagePath": "1.jpg", "imageWidth": W, "imageHeight": H})
    write(tmp_path / "2.json", {"shapes": [], "imagePath": "..\\x\\2.jpg", "imageWidth": W, "imageHeight": H})
    source = open_source(tmp_path)
    assert boxes(source, "1.jpg")[:2] == [("dog", [4, 2, 14, 12]), ("cat", [20, 15, 30, 20])]
    assert boxes(source, "2.jpg") == []
    mask = source.columns["mask"][0]
    names = source.columns["mask"].names
    assert names == ("background", "cat", "dog") and mask[3, 5] == 2 and mask[16, 21] == 1 and mask[1, 1] == 255
    points = source.columns["points"]
    assert points.names == ("left paw", "right paw") and points.swap == (1, 0) and points[0].tolist()[0] == [5, 6, 2]
    assert "a line of 2 points covers nothing" in source.problems[0].reason


# ---------------------------------------------------------------- masks


def masks(root: Path, made: list[Image.Image], ending: str = "png") -> Source:
    for k, one in enumerate(made):
        picture(root / f"images/{k}.jpg")
        (root / "masks").mkdir(exist_ok=True)
        one.save(root / f"masks/{k}.{ending}")
    return open_source(root)


def half(low: int, high: int) -> np.ndarray:
    values = np.full((H, W), low, np.uint8)
    values[:, W // 2 :] = high
    return values


@pytest.mark.parametrize(("low", "high", "names", "right"), [
    (0, 255, ("background", "foreground"), 1),  # black and white
    (0, 1, ("background", "class 1"), 1),
    (0, 3, ("background", "class 1", "class 2", "class 3"), 3),
    (1, 2, ("class 1", "class 2"), 1),  # trimaps begin at 1
    (0, 128, ("background", "grey 128"), 1),
])  # fmt: skip
def test_grey_masks(low, high, names, right, tmp_path):
    column = masks(tmp_path, [Image.fromarray(half(low, high))] * 3).columns["mask"]
    assert column.names == names and column[0][0, 0] == 0 and column[0][0, -1] == right


def test_255_is_not_labelled_where_there_are_other_classes(tmp_path):
    values = half(0, 2)
    values[0] = 255
    source = masks(tmp_path, [Image.fromarray(values)] * 3)
    assert source.columns["mask"].names == ("background", "class 1", "class 2")
    assert (source.columns["mask"][1][0] == 255).all() and any("255 is not labelled" in note for note in source.notes)


def test_coloured_masks_by_a_file_of_names_by_vocs_colours_and_by_colour(tmp_path):
    colours = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)
    index = half(1, 2)
    index[0] = 0
    made = [Image.fromarray(colours[index])] * 3
    column = masks(tmp_path / "voc", made).columns["mask"]
    assert column.names[1:3] == ("aeroplane", "bicycle") and (column[0] == index).all()
    write(tmp_path / "named/label_colors.txt", "128 0 0\tRoof\n0 128 0\tTree\n0 0 0\tVoid\n")
    column = masks(tmp_path / "named", made).columns["mask"]
    assert column.names == ("Roof", "Tree") and column[0][0, 0] == 255 and column[0][5, 0] == 0
    write(tmp_path / "cvat/labelmap.txt", "# label:color_rgb:parts:actions\nroof:128,0,0::\ntree:0,128,0::\n")
    assert masks(tmp_path / "cvat", made).columns["mask"].names == ("roof", "tree")
    colours[1] = 7, 8, 9
    column = masks(tmp_path / "odd", [Image.fromarray(colours[index])] * 3).columns["mask"]
    assert column.names == ("background", "#008000", "#070809") and column[0][5, 0] == 2


def test_names_of_values_as_roboflow_writes_them(tmp_path):
    write(tmp_path / "_classes.csv", "Pixel Value, Class\n0, background\n2, roof\n")
    column = masks(tmp_path, [Image.fromarray(half(0, 2))] * 3).columns["mask"]
    assert column.names == ("background", "roof") and column[0][0, -1] == 1


def test_photographs_are_not_taken_for_masks(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (H, W, 3)).astype(np.uint8)
    source = masks(tmp_path, [Image.fromarray(pixels)] * 3)
    assert "mask" not in source.columns and any("so they are not masks" in note for note in source.notes)
    assert source.unfit


def test_a_mask_that_cannot_be_read_is_not_known_in_training_and_said_when_asked(tmp_path):
    from neocog.data.batches import Known

    source = masks(tmp_path, [Image.fromarray(half(0, 1))] * 3)
    os.truncate(tmp_path / "masks/1.png", 40)
    with pytest.raises(DataError, match="the mask cannot be read"):
        source.columns["mask"][1]
    import torch

    known = Known({"mask": source.columns["mask"]}, lambda values, warp, valid: {})
    values = known.values(torch.arange(3))["mask"]
    assert [one is None for one in values] == [False, True, False]


def test_masks_of_a_class_tree_are_there_for_who_asks(tmp_path):
    for name in ("a", "b"):
        for k in range(3):
            picture(tmp_path / f"{name}/{k}.png")
            Image.fromarray(half(0, 1)).save(tmp_path / f"{name}/{k}_mask.png")
    source = open_source(tmp_path)
    assert len(source) == 6 and source.classes == ("a", "b") and fits(find("segment"), source)


# ---------------------------------------------------------------- outlines


def test_runs_and_their_text_agree_with_cocos_own():
    mask = np.zeros((5, 7), bool)
    mask[1:4, 2:6] = True
    runs = Runs.of(mask)
    assert runs.counts.tolist() == [11, 3, 2, 3, 2, 3, 2, 3, 6] and (runs.mask() == mask).all()
    assert to_text(runs.counts) == ";32000004" and from_text(";32000004").tolist() == runs.counts.tolist()
    noise = np.random.default_rng(1).random((60, 70)) < 0.5
    noise[0, 0] = True
    assert (Runs(to_text(Runs.of(noise).counts), (60, 70)).mask() == noise).all()
    with pytest.raises(DataError, match="expected 5 x 7"):
        Runs([3, 4], (5, 7))
    with pytest.raises(DataError, match="truncated"):
        from_text("o")


@pytest.mark.parametrize(("name", "other"), [
    ("left_eye", "right_eye"), ("tail", "tail"), ("l hip", "r hip"), ("eyeLeft", "eyeRight"), ("LKnee", "RKnee"),
    ("lefteye", "righteye"), ("lip", "rip"),
])  # fmt: skip
def test_mirror_partners_by_name(name, other):
    assert swapped([name, other, "nose"]) == (None if name in ("tail", "lip") else (1, 0, 2))


# ---------------------------------------------------------------- out, and in again


@pytest.fixture(scope="module")
def drawn() -> Source:
    return open_source("drawn:n=12,size=48")


def number(source: Source, i: int) -> int:
    return int(source.key(i).rsplit("_", 1)[-1].split(".")[0])


@pytest.mark.parametrize("writer", [write_coco, write_yolo])
def test_boxes_out_and_in(drawn, writer, tmp_path):
    writer(tmp_path, *of_source(drawn))
    source = open_source(tmp_path)
    assert len(source) == len(drawn)
    for i in range(len(source)):
        j = number(source, i)
        assert [name for name, _ in boxes(source, source.key(i))] == [
            drawn.columns["boxes"].names[k] for k in drawn.columns["boxes"][j].labels
        ]
        assert np.allclose(source.columns["boxes"][i].corners, drawn.columns["boxes"][j].corners, atol=1e-3)
        assert np.allclose(source.columns["points"][i], drawn.columns["points"][j], atol=1e-3)
        assert source.sample(i).split == drawn.sample(j).split


def test_masks_out_and_in(drawn, tmp_path):
    write_masks(tmp_path, *of_source(drawn))
    source = open_source(tmp_path)
    assert source.columns["mask"].names == drawn.columns["mask"].names
    for i in range(len(source)):
        assert (source.columns["mask"][i] == drawn.columns["mask"][number(source, i)]).all()


@pytest.mark.parametrize("writer", [write_coco, write_yolo])
def test_outlines_out_and_in(writer, tmp_path):
    folder = yolo(tmp_path / "in")
    write(folder / "labels/train/1.txt", "1 .25 .25 .75 .25 .5 .75\n0 .1 .1 .9 .1 .9 .2 .1 .2\n")
    write(folder / "labels/val/1.txt", "0 0 0 1 0 1 1 0 1\n")
    source = open_source(folder)
    writer(tmp_path / "out", *of_source(source))
    again = open_source(tmp_path / "out")
    assert again.columns["mask"].names == source.columns["mask"].names and len(again) == 3
    for i in range(3):
        name = source.key(i).removeprefix("images/")  # train/1.jpg
        j = row(again, name.replace("/", "_") if writer is write_yolo else name)
        assert (again.columns["mask"][j] == source.columns["mask"][i]).all()
        assert again.sample(j).split == source.sample(i).split


# ---------------------------------------------------------------- check


def test_check_finds_what_is_wrong_with_boxes(tmp_path):
    folder = coco(tmp_path)
    path = folder / "annotations/instances_train2017.json"
    document = json.loads(path.read_text())
    more = [[30, 2, 15, 10], [10, 10, -5, 4], [4, 2, 10, 10]]
    document["annotations"] += [
        {"id": 10 + k, "image_id": 11, "category_id": 9, "bbox": box} for k, box in enumerate(more)
    ]
    document["categories"].append({"id": 12, "name": "emu"})
    path.write_text(json.dumps(document))
    (folder / "val2017/1.jpg").write_bytes((folder / "train2017/1.jpg").read_bytes())
    found = check(folder, near=False)
    assert not found.ok and "6 boxes of 3 classes" in found.summary and "0 classes" not in found.summary
    notes = {f.name: [one.note for group in f.groups for one in group] for f in found.findings}
    assert notes["boxes_outside"] == ["dog reaches beyond the edge by 5 pixels"]
    assert notes["boxes_inverted"] == ["dog from 10, 10 to 5, 14"] and notes["boxes_doubled"] == ["dog appears twice"]
    assert notes["unannotated"] == ["no annotation", "empty"] and "'emu'" in found.find("box_classes").title
    assert found.find("conflict_annotations").count == 2
    clean = check(voc(tmp_path / "voc"), near=False)
    assert {f.name for f in clean.findings} <= {"unannotated"} and clean.find("unannotated").count == 2


def test_check_finds_pictures_that_were_made_smaller_after_they_were_annotated(tmp_path):
    folder = coco(tmp_path)
    assert check(folder, near=False).find("resized") is None
    picture(folder / "train2017/1.jpg", (W // 2, H // 2))
    found = check(folder, near=False).find("resized")
    assert found.count == 1 and found.groups[0][0].note == "annotated as 40 x 24, is 20 x 12"


def test_check_finds_what_is_wrong_with_masks(tmp_path):
    masks(tmp_path, [Image.fromarray(half(0, k)) for k in (1, 1, 1, 2, 1)])
    write(tmp_path / "classes.txt", "ground\nroof\n")
    Image.fromarray(half(0, 1)[:9]).save(tmp_path / "masks/0.png")
    os.truncate(tmp_path / "masks/1.png", 40)
    Image.fromarray(half(255, 255)).save(tmp_path / "masks/2.png")
    found = check(tmp_path, near=False)
    notes = {f.name: f.groups[0][0].note for f in found.findings if f.name.startswith("mask")}
    assert notes["mask_size"] == f"the mask is {W} x 9, the picture {W} x {H}"
    assert "cannot be read" in notes["mask_unreadable"]
    assert notes["mask_values"] == "'2' is of no class" and notes["mask_bare"] == "no pixel is labelled"
    page = check_page(found, open_source(tmp_path))
    assert "Masks of another size" in page and "Annotations" in page


def test_boxes_are_drawn_on_thumbnails_also_outside_of_the_picture():
    grey = np.full((100, 200, 3), 128, np.uint8)
    corners = np.array([[20, 20, 60, 60], [160, 50, 240, 90]], np.float32)
    known = {"boxes": BoxSet(corners, np.array([0, 0]), np.zeros(2, bool))}
    drawn = overlay(grey, known, (200, 100)).astype(int)
    assert drawn.shape[1] > 200  # there is room for what is outside
    red, blue = (drawn == (235, 30, 30)).all(2), (drawn == (60, 150, 255)).all(2)
    assert red[:, 160:].any() and not red[:, :150].any() and blue[20, 20:60].all() and blue[20:60, 20].all()
    painted = overlay(grey, {"mask": np.pad(np.ones((100, 100), np.uint8), ((0, 0), (0, 100)))}, (200, 100))
    assert painted[50, 50, 0] > painted[50, 50, 1] + 50  # class 1 is red


DATA = Path(os.environ.get("NEOCOG_DATA", "/nowhere"))


@pytest.mark.parametrize("form", ["coco", "yolo", "voc", "csv"])
def test_blood_cells_are_the_same_in_every_form(form, tmp_path):
    """The same pictures of the reference data as a user would have them."""
    if not (DATA / "bccd").is_dir():
        pytest.skip("set NEOCOG_DATA to the folder of the reference data")
    known = open_source(DATA / "bccd").select(np.array([0, 1, 206, 293]))
    column = known.columns["boxes"]
    if form in ("coco", "yolo"):
        {"coco": write_coco, "yolo": write_yolo}[form](tmp_path, *of_source(known))
    lines = ["file,xmin,ymin,xmax,ymax,class,split"]
    for i in range(4) if form in ("voc", "csv") else ():
        name = f"{known.key(i).replace('#', '_').replace('.', '_')}"
        path = tmp_path / f"JPEGImages/{name}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(known.read(i))
        things = [(column.names[k], c.astype(int).tolist()) for c, k, _ in zip(*column[i], strict=True)]
        split = known.sample(i).split
        if form == "voc":
            counted = [(label, (c[0] + 1, c[1] + 1, c[2], c[3]), 0) for label, c in things]
            write(tmp_path / f"Annotations/{name}.xml", xml(*counted))
            listed = tmp_path / f"ImageSets/Main/{split}.txt"
            write(listed, (listed.read_text() if listed.exists() else "") + f"{name}\n")
        lines += [f"JPEGImages/{name}.jpg,{','.join(map(str, c))},{label},{split}" for label, c in things]
    if form == "csv":
        write(tmp_path / "boxes.csv", "\n".join(lines))
    source = open_source(tmp_path)
    assert len(source) == 4 and source.columns["boxes"].names == column.names
    for i in range(4):
        j = row(source, known.key(i).replace("#", "_").replace(".", "_") + ".jpg")
        assert source.sample(j).split == known.sample(i).split
        assert np.allclose(source.columns["boxes"][j].corners, column[i].corners, atol=1e-3)
        assert source.columns["boxes"][j].labels.tolist() == column[i].labels.tolist()


# ---------------------------------------------------------------- end to end


def test_a_folder_of_masks_is_trained(drawn, tmp_path):
    import neocog

    write_masks(tmp_path / "set", *of_source(drawn))
    run = neocog.train(tmp_path / "set", net="cifar_resnet20", epochs=1, out=tmp_path / "run", device="cpu")
    assert run.task.name == "segment" and run.task.classes == drawn.columns["mask"].names
    assert 0 <= run.metrics["test_miou"] <= 1


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400", "1e30"])
def test_numbers_that_are_no_place_are_problems_in_every_form(tmp_path, number):
    for k in range(2):
        for form in ("coco/images", "labelme", "voc/JPEGImages", "yolo/images"):
            picture(tmp_path / form / f"{k}.jpg")
    box, ring = f"[{number}, 5, 3, 3]", f"[[{number}, 2, 9, 2, 9, 9]]"
    of = '"image_id": 0, "category_id": 1'
    write(
        tmp_path / "coco/a.json",
        '{"images": [{"id": 0, "file_name": "0.jpg"}, {"id": 1, "file_name": "1.jpg"}], '
        f'"annotations": [{{"id": 1, {of}, "bbox": {box}}}, {{"id": 2, {of}, "bbox": [1, 1, 3, 3], '
        f'"segmentation": {ring}}}, {{"id": 3, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 3]}}], '
        '"categories": [{"id": 1, "name": "a"}]}',
    )
    for k in range(2):
        word = number if k == 0 else "3"
        shape = f'{{"label": "a", "shape_type": "rectangle", "points": [[{word}, 1], [9, 9]]}}'
        write(tmp_path / f"labelme/{k}.json", f'{{"imagePath": "{k}.jpg", "shapes": [{shape}]}}')
        write(tmp_path / f"voc/Annotations/{k}.xml", xml(("a", (word, 1, 9, 9), 0)))
        write(tmp_path / f"yolo/labels/{k}.txt", f"0 {'0.5' if k else number} 0.5 0.2 0.2\n")
    write(tmp_path / "yolo/data.yaml", "train: images\nnames: [a]\n")
    for form in ("coco", "labelme", "voc", "yolo"):
        source = open_source(tmp_path / form)
        assert np.isfinite(source.columns["boxes"].corners).all() and len(boxes(source, "1.jpg")) == 1, form
        assert not boxes(source, "0.jpg"), form
        assert re.search("is not a place in a picture|lacks one of", source.problems[0].reason), form
