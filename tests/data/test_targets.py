"""Tables that say more than one label: boxes, masks, points, numbers, tags."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from neocog.data import Source, open_source
from neocog.errors import UsageError
from neocog.tasks.task import find, fits, guess

W, H = 40, 24
NAN = float("nan")


def table(root: Path, text: str, name: str = "t.csv", n: int = 3) -> Path:
    root.mkdir(exist_ok=True)
    for k in range(n):
        pixels = np.random.default_rng(k).integers(0, 255, (H, W, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{k}.jpg")
    (root / name).write_text(text)
    return root / name


def found(source: Source) -> list[list[tuple[str, list[float]]] | None]:
    column: Any = source.columns["boxes"]
    rows = [column[i] for i in range(len(source))]
    return [
        None if row is None else [(column.names[k], c) for k, c in zip(row.labels, row.corners.tolist(), strict=True)]
        for row in rows
    ]


WANTED = [[("a", [4, 6, 24, 18]), ("b", [0, 0, 4, 6])], [], [("b", [8, 12, 40, 24])]]


@pytest.mark.parametrize("text", [
    "path,xmin,ymin,xmax,ymax,class\n0.jpg,4,6,24,18,a\n0.jpg,0,0,4,6,b\n1.jpg,,,,,\n2.jpg,8,12,40,24,b\n",
    "file;left;top;width;height;label\n0.jpg;4;6;20;12;a\n0.jpg;0;0;4;6;b\n1.jpg;;;;;\n2.jpg;8;12;32;12;b\n",
    "file,x_center,y_center,width,height,class\n0.jpg,.35,.5,.5,.5,a\n0.jpg,.05,.125,.1,.25,b\n1.jpg,,,,,\n"
    "2.jpg,.6,.75,.8,.5,b\n",
])  # fmt: skip
def test_a_row_for_each_box(text, tmp_path):
    source = open_source(table(tmp_path / "t", text))
    assert [[(n, np.round(c, 3).tolist()) for n, c in one] for one in found(source)] == WANTED
    assert any("1 picture without a box: taken as empty" in note for note in source.notes) and source.unfit
    tags = source.columns["tags"]
    assert tags.names == ("a", "b") and [tags[i].tolist() for i in range(3)] == [[1, 1], [0, 0], [0, 1]]


@pytest.mark.parametrize("cells", [
    [[{"label": "a", "x0": 4, "y0": 6, "x1": 24, "y1": 18}, {"label": "b", "x0": 0, "y0": 0, "x1": 4, "y1": 6}], [],
     [{"label": "b", "x0": 8, "y0": 12, "x1": 40, "y1": 24}]],
    [[{"category": "a", "bbox": [4, 6, 20, 12]}, {"category": "b", "bbox": [0, 0, 4, 6]}], [],
     [{"category": "b", "bbox": [8, 12, 32, 12]}]],
    [{"bbox": [[4, 6, 20, 12], [0, 0, 4, 6]], "category": ["a", "b"]}, {"bbox": [], "category": []},
     {"bbox": [[8, 12, 32, 12]], "category": ["b"]}],
])  # fmt: skip
def test_boxes_in_one_cell(cells, tmp_path):
    lines = [json.dumps({"image": f"{k}.jpg", "objects": cell}) for k, cell in enumerate(cells)]
    assert found(open_source(table(tmp_path / "t", "\n".join(lines), "t.jsonl"))) == WANTED


def test_boxes_without_a_class_and_cells_that_are_no_boxes(tmp_path):
    path = table(tmp_path / "t", 'path,bbox\n0.jpg,"[1, 2, 3, 4]"\n1.jpg,"4 5 6 7"\n2.jpg,"[[1, 2], 3]"\n')
    source = open_source(path)
    assert found(source) == [[("object", [1, 2, 3, 4])], [("object", [4, 5, 6, 7])], None]
    assert any("'bbox' hold no readable box in 1 row" in note for note in source.notes)


def test_an_angle_without_a_period_is_noticed(tmp_path):
    text = "path,age,tilt,width_of_turn\n" + "".join(
        f"{k}.jpg,{k + 20.5},{a},{a}\n" for k, a in enumerate((1, 170.5, 359))
    )
    path = table(tmp_path / "t", text)
    said = "'tilt' may be an angle that begins anew at 360: then type --column numbers=age,tilt:360"
    assert said in open_source(path, columns={"numbers": "age,tilt"}).notes
    assert said not in open_source(path, columns={"numbers": "age,tilt:360"}).notes


def test_a_row_of_which_a_corner_is_no_number_is_unknown_and_not_empty(tmp_path):
    text = "path,xmin,ymin,xmax,ymax,label\n0.jpg,1,2,3,4,a\n1.jpg,1,2,x,4,a\n2.jpg,,,,,\n"
    source = open_source(table(tmp_path / "t", text))
    assert found(source) == [[("a", [1, 2, 3, 4])], None, []]
    assert any("'xmin' to 'ymax' hold no readable box in 1 row" in note for note in source.notes)


def test_a_column_of_mask_files(tmp_path):
    path = table(tmp_path / "t", "path,mask\n0.jpg,m0.png\n1.jpg,gone.png\n2.jpg,m2.png\n")
    for k in (0, 2):
        Image.fromarray(np.full((H, W), k // 2, np.uint8)).save(path.parent / f"m{k}.png")
    source = open_source(path)
    column = source.columns["mask"]
    assert column.known.tolist() == [True, False, True] and column[2].max() == 1 and guess(source) == "segment"


def test_of_two_tables_one_may_lack_the_numbers(tmp_path):
    table(tmp_path / "t", "path,age\n" + "".join(f"{k}.jpg,{k}.5\n" for k in range(30)), "train.csv", n=40)
    (tmp_path / "t/test.csv").write_text("path,age\n" + "".join(f"{k}.jpg,\n" for k in range(30, 40)))
    column = open_source(tmp_path / "t", columns={"numbers": "age"}).columns["numbers"]
    assert column.known.tolist() == [True] * 30 + [False] * 10 or column.known.tolist() == [False] * 10 + [True] * 30
    (tmp_path / "t/test.csv").write_text("path,mask\n30.jpg,m.png\n31.jpg,\n")
    Image.fromarray(np.ones((H, W), np.uint8)).save(tmp_path / "t/m.png")
    assert len(open_source(tmp_path / "t")) == 32


def test_points_in_pairs_of_columns(tmp_path):
    text = "path,left_eye_x,left_eye_y,right_eye_x,right_eye_y,nose_x,nose_y\n"
    text += "0.jpg,1,2,3,4,5,6\n1.jpg,,,3,4,5,6\n2.jpg,,,,,,\n"
    points = open_source(table(tmp_path / "t", text)).columns["points"]
    assert points.names == ("left_eye", "right_eye", "nose") and points.swap == (1, 0, 2)
    assert points[0].tolist() == [[1, 2, 2], [3, 4, 2], [5, 6, 2]] and points[1][0].tolist() == [0, 0, 0]
    assert points[2] is None


@pytest.mark.parametrize(("cell", "right"), [
    ([1, 2, 3, 4], [[1, 2, 2], [3, 4, 2]]), ([1, 2, 2, 3, 4, 0], [[1, 2, 2], [3, 4, 0]]),
    ([[1, 2], [3, 4], [5, 6]], [[1, 2, 2], [3, 4, 2], [5, 6, 2]]),
    ([1.5, 2, 3, 4, 5, 6], [[1.5, 2, 2], [3, 4, 2], [5, 6, 2]]),
])  # fmt: skip
def test_points_in_one_cell(cell, right, tmp_path):
    lines = [json.dumps({"image": f"{k}.jpg", "keypoints": cell}) for k in range(3)]
    assert open_source(table(tmp_path / "t", "\n".join(lines), "t.jsonl")).columns["points"][1].tolist() == right


def test_numbers_that_are_no_classes(tmp_path):
    rows = "".join(f"{k}.jpg,{k * 3 + 0.5}\n" for k in range(39)) + "39.jpg,\n"
    source = open_source(table(tmp_path / "t", "path,age\n" + rows, n=40))
    column = source.columns["numbers"]
    assert column.names == ("age",) and column[2].tolist() == [6.5] and column[39] is None
    assert not (source.labels >= 0).any() and "looks like a quantity" in source.unfit


def test_numbers_below_nought_are_numbers(tmp_path):
    rows = "".join(f"{k}.jpg,{k / 2 - 10}\n" for k in range(40))
    column = open_source(table(tmp_path / "t", "path,label\n" + rows, n=40)).columns["numbers"]
    assert column[0].tolist() == [-10] and column.known.all()


def test_several_numbers_and_their_periods(tmp_path):
    rows = "".join(f"{k}.jpg,{'ab'[k % 2]},{k},{k * 9},{k / 3}\n" for k in range(40))
    path = table(tmp_path / "t", "path,label,age,angle,weight\n" + rows, n=40)
    assert "numbers" not in open_source(path).columns  # a label is there
    source = open_source(path, columns={"numbers": "age, angle:360"})
    column = source.columns["numbers"]
    assert column.names == ("age", "angle") and column.periods == (None, 360.0) and column[3].tolist() == [3, 27]
    assert source.classes == ("a", "b")  # is kept beside it
    path.write_text("path,age,angle\n" + "".join(f"{k}.jpg,{k}.5,{k * 9}\n" for k in range(40)))
    assert open_source(path).columns["numbers"].names == ("age", "angle")
    with pytest.raises(UsageError, match=r"no column 'agee'.*did you mean 'age'"):
        open_source(path, columns={"numbers": "agee"})


def tags(source: Source) -> list[list[float] | None]:
    column: Any = source.columns["tags"]
    return [None if column[i] is None else column[i].tolist() for i in range(len(source))]


def test_columns_of_nought_and_one_with_gaps(tmp_path):
    source = open_source(table(tmp_path / "t", "path,cat,dog\n0.jpg,1,1\n1.jpg,0,\n2.jpg,,\n"))
    assert source.columns["tags"].names == ("cat", "dog")
    assert np.array_equal(tags(source)[:2], [[1, 1], [0, NAN]], equal_nan=True) and tags(source)[2] is None
    source = open_source(table(tmp_path / "t", "path,cat,dog\n0.jpg,1,-1\n1.jpg,0,1\n2.jpg,1,1\n"))
    assert np.array_equal(tags(source), [[1, NAN], [0, 1], [1, 1]], equal_nan=True)
    source = open_source(table(tmp_path / "t", "path,cat,dog\n0.jpg,1,-1\n1.jpg,-1,1\n2.jpg,1,1\n"))
    assert tags(source) == [[1, 0], [0, 1], [1, 1]]


def test_lists_of_labels(tmp_path):
    source = open_source(table(tmp_path / "t", "path,labels\n0.jpg,a;b\n1.jpg,b\n2.jpg,\n"))
    assert tags(source) == [[1, 1], [0, 1], None]
    lines = [json.dumps({"image": f"{k}.jpg", "labels": x}) for k, x in enumerate((["a", "b"], [], None))]
    assert tags(open_source(table(tmp_path / "j", "\n".join(lines), "t.jsonl"))) == [[1, 1], [0, 0], None]


# ---------------------------------------------------------------- Parquet


def parquet(root: Path, columns: dict[str, list[Any]], metadata: dict[str, str] | None = None) -> Source:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    n = len(next(iter(columns.values())))
    file = io.BytesIO()
    Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(file, "PNG")
    made = pa.table({"image": [{"bytes": file.getvalue(), "path": None}] * n, **columns})
    pq.write_table(made.replace_schema_metadata(metadata or {}), root / "p.parquet", row_group_size=2)
    return open_source(root / "p.parquet")


def test_parquet_boxes_and_class_names_of_the_metadata(tmp_path):
    rows = [[{"label": "b", "x0": 1.0, "y0": 2.0, "x1": 3.0, "y1": 4.0}], [], None]
    source = parquet(tmp_path, {"boxes": rows}, {"classes": '["z", "b"]'})
    assert found(source) == [[("b", [1, 2, 3, 4])], [], None] and source.columns["boxes"].names == ("z", "b")
    assert source.classes == () and source.unfit


def test_parquet_masks_are_read_late_and_by_row_group(tmp_path):
    import io

    cells = []
    for k in range(3):
        file = io.BytesIO()
        Image.fromarray(np.full((H, W), [0, 2, 255][k], np.uint8)).save(file, "PNG")
        cells.append({"bytes": file.getvalue(), "path": None})
    source = parquet(tmp_path, {"mask": cells}, {"classes": '["x", "y", "z"]'})
    column = source.columns["mask"]
    assert [int(column[i][0, 0]) for i in range(3)] == [0, 2, 255] and column.names == ("x", "y", "z")
    assert int(column.select(np.array([1]))[0][0, 0]) == 2 and guess(source) == "segment"


def test_parquet_numbers_and_gaps_in_tags(tmp_path):
    ages = [float(k) if k else None for k in range(40)]
    source = parquet(tmp_path, {"age": ages, "weight": [k / 2 for k in range(40)]})
    assert source.columns["numbers"].names == ("age", "weight")
    assert source.columns["numbers"].known.all() and np.isnan(source.columns["numbers"][0][0])
    source = parquet(tmp_path, {"cat": [True, None, False], "dog": [True, None, True]})
    assert np.array_equal(tags(source)[0], [1, 1]) and tags(source)[1] is None


DATA = Path(os.environ.get("NEOCOG_DATA", "/nowhere"))


@pytest.mark.parametrize(("name", "role", "count"), [
    ("bccd", "boxes", 364), ("camvid", "mask", 701), ("em", "mask", 30), ("points", "points", 4232),
])  # fmt: skip
def test_reference_data(name, role, count):
    if not (DATA / name).is_dir():
        pytest.skip("set NEOCOG_DATA to the folder of the reference data")
    source = open_source(DATA / name)
    column: Any = source.columns[role]
    assert column.known.sum() == count == len(source)
    if role == "mask":
        assert fits(find("segment"), source) and set(np.unique(column[0])) <= {*range(len(column.names)), 255}
    if role == "boxes":
        assert column.names == ("Platelets", "RBC", "WBC") and column[0].corners[0].tolist() == [67, 314, 286, 480]
    if role == "points":
        swap = np.array(column.swap)
        assert (swap[swap] == np.arange(68)).all() and swap[36] == 45 and swap[33] == 33
        mean = column.values[:, :, :2].mean(0)
        mirrored = mean[swap] * (-1, 1)
        centred = mean - mean.mean(0)
        assert np.abs(mirrored - mirrored.mean(0) - centred).max() < 2  # a mean face is its own mirror image
