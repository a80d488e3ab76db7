import json
import os
import shutil
import unicodedata

import numpy as np
import pytest

from neocog.data import open_source
from neocog.errors import DataError, UsageError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def pictures(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" + str(name).encode())


def rows(source):
    return {source.key(i): source.sample(i) for i in range(len(source))}


def told(source):
    return " | ".join(source.notes)


@pytest.fixture
def three(tmp_path):
    pictures(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    return tmp_path


def test_csv_with_guessed_columns_is_told(three):
    (three / "table.csv").write_text(
        "filename,label,split,caption\n1.jpg,cat,train,a cat\n2.jpg,dog,valid,\n3.jpg,,,x\n"
    )
    source = open_source(three / "table.csv")
    assert source.classes == ("cat", "dog") and source.labels.tolist() == [0, 1, -1]
    assert source.splits.tolist() == [0, 1, -1] and source.name == "table"
    assert source.sample(0).captions == ("a cat",) and source.sample(1).captions == ()
    assert source.read(1) == b"x2.jpg" and source.path(1) == three / "2.jpg"
    assert "'filename' as path" in told(source) and "'label' as label" in told(source)


@pytest.mark.parametrize("mark", ["\t", ";", ","])
def test_separators_and_byte_order_mark(three, mark):
    ending = ".tsv" if mark == "\t" else ".csv"
    text = mark.join(["image", "category"]) + "\r\n" + mark.join(["2.jpg", "Käfer, groß" if mark != "," else "Käfer"])
    (three / f"t{ending}").write_text("\ufeff" + text, encoding="utf-8", newline="")
    source = open_source(three / f"t{ending}")
    assert source.key(0) == "2.jpg" and source.classes[0].startswith("Käfer")


def test_jsonl_with_lists_and_a_bad_line(three):
    lines = [
        json.dumps({"file_name": "1.jpg", "labels": ["a", "b"], "captions": ["one", "two"]}),
        "{broken",
        json.dumps({"file_name": "2.jpg", "labels": []}),
        json.dumps({"file_name": "3.jpg", "labels": ["b"]}),
    ]
    (three / "m.jsonl").write_text("\n".join(lines))
    source = open_source(three / "m.jsonl")
    found = rows(source)
    assert found["1.jpg"].labels == ("a", "b") and found["1.jpg"].captions == ("one", "two")
    assert found["2.jpg"].labels == () and found["3.jpg"].labels == ("b",)
    assert [source.label_sets[i].tolist() for i in range(3)] == [[0, 1], [], [1]]
    assert [(p.key, p.reason) for p in source.problems] == [("m.jsonl, line 2", "not a JSON object")]


@pytest.mark.parametrize(
    ("header", "cell"), [("label", "a;b"), ("labels", "a|b"), ("tags", "['a', 'b']"), ("tags", "a, b")]
)
def test_several_labels_in_one_cell(three, header, cell):
    (three / "m.csv").write_text(f'file,{header}\n1.jpg,"{cell}"\n2.jpg,b\n')
    source = open_source(three / "m.csv")
    assert source.classes == ("a", "b") and rows(source)["1.jpg"].labels == ("a", "b")
    assert source.labels.tolist() == [-1, 1]


def test_a_comma_in_a_column_of_one_label_is_part_of_a_name(three):
    (three / "m.csv").write_text('file,label\n1.jpg,a;b\n2.jpg,"crane, bird"\n')
    assert open_source(three / "m.csv").classes == ("a", "b", "crane, bird")


def test_ages_with_typing_errors_and_without_values_are_numbers(three):
    odd = {7: "3o", 8: "nan", 9: "inf", 10: "about 4", 11: "unknown", 12: "-inf", 13: "n/a", 14: "?"}
    for k in range(20):
        shutil.copy(three / "1.jpg", three / f"x{k}.jpg")
    (three / "m.csv").write_text("file,age\n" + "".join(f"x{k}.jpg,{odd.get(k, k + 0.5)}\n" for k in range(20)))
    source = open_source(three / "m.csv")
    column = source.columns["numbers"]
    assert column.names == ("age",) and np.isnan(column.values).sum() == len(odd) and not source.classes
    assert not np.isinf(column.values).any()
    assert "cells of 'age' that are no number are not used: '3o', 'nan', 'inf', ..." in source.notes
    assert any("'age' as numbers" in note for note in source.notes)
    assert not any("'age' as label" in note for note in source.notes)


def test_parquet_manifest_with_integer_labels_and_given_classes(three):
    table = pa.table({"path": ["1.jpg", "2.jpg", "3.jpg"], "label": [2, 0, -1]})
    pq.write_table(table, three / "m.parquet")
    source = open_source(three / "m.parquet", classes=["x", "y", "z"])
    assert source.classes == ("x", "y", "z") and source.labels.tolist() == [2, 0, -1]
    assert open_source(three / "m.parquet").classes == ("0", "2")
    with pytest.raises(DataError, match="2 is not one of the 2 classes"):
        open_source(three / "m.parquet", classes=["x", "y"])


def test_numbers_and_their_names_in_two_columns(three):
    (three / "m.csv").write_text("file,label,class_name\n1.jpg,1,dog\n2.jpg,0,zebra\n3.jpg,1,dog\n")
    source = open_source(three / "m.csv")
    assert source.classes == ("zebra", "dog") and source.labels.tolist() == [1, 0, 1]


def test_missing_files_become_problems(three):
    (three / "m.csv").write_text("file,label\n1.jpg,a\nnope.jpg,b\n,a\n2.jpg,b\n")
    source = open_source(three / "m.csv")
    assert list(rows(source)) == ["1.jpg", "2.jpg"] and "2 rows of the table were skipped" in told(source)
    assert [p.key for p in source.problems] == ["nope.jpg", "m.csv, row 3"]
    (three / "m.csv").write_text("file,label\n1.jpg,a\nnope.jpg,b\n2.jpg,b\n")
    assert "1 row of the table was skipped" in told(open_source(three / "m.csv"))


def test_no_file_exists(tmp_path):
    (tmp_path / "m.csv").write_text("file,label\nnope.jpg,b\n")
    with pytest.raises(DataError, match=r"none of the files in column 'file' exists, for example 'nope.jpg'"):
        open_source(tmp_path / "m.csv")


def test_ambiguous_columns_are_named_with_what_to_type(three):
    (three / "m.csv").write_text("file,category,species\n1.jpg,a,x\n2.jpg,b,y\n")
    with pytest.raises(DataError, match=r"'category' and 'species' could each be the label.*columns=\{'label': 'cat"):
        open_source(three / "m.csv")
    source = open_source(three / "m.csv", columns={"label": "species"})
    assert source.classes == ("x", "y")
    (three / "p.csv").write_text("before,after,label\n1.jpg,2.jpg,a\n2.jpg,3.jpg,b\n")
    with pytest.raises(DataError, match=r"'before' and 'after' could each be the path"):
        open_source(three / "p.csv")
    assert open_source(three / "p.csv", columns={"path": "after"}).key(0) == "2.jpg"


def test_wrong_columns_keyword(three):
    (three / "m.csv").write_text("file,kind\n1.jpg,a\n2.jpg,b\n")
    with pytest.raises(UsageError, match=r"unknown column role 'lable' .did you mean 'label'"):
        open_source(three / "m.csv", columns={"lable": "kind"})
    with pytest.raises(UsageError, match=r"no column 'kinds' .did you mean 'kind'"):
        open_source(three / "m.csv", columns={"label": "kinds"})


def test_a_column_is_the_path_when_its_cells_lead_to_files(three):
    (three / "m.csv").write_text("path,thing,label\ninternal-1,1.jpg,a\ninternal-2,2.jpg,b\n")
    assert list(rows(open_source(three / "m.csv"))) == ["1.jpg", "2.jpg"]


def test_table_without_header(three):
    (three / "m.csv").write_text("1.jpg,cat\n2.jpg,dog\n")
    source = open_source(three / "m.csv")
    assert source.classes == ("cat", "dog") and len(source) == 2


def test_names_without_ending_in_a_folder_beside(tmp_path):
    pictures(tmp_path, "train/a1.jpg", "train/a2.jpg", "test/a1.jpg")
    (tmp_path / "train.csv").write_text("id,breed\na1,pug\na2,boxer\n")
    (tmp_path / "test.csv").write_text("id,breed\na1,pug\n")
    source = open_source(tmp_path)
    assert list(rows(source)) == ["test/a1.jpg", "train/a1.jpg", "train/a2.jpg"]
    assert source.classes == ("boxer", "pug") and source.splits.tolist() == [2, 0, 0]
    assert "'.jpg' was added" in told(source)


def test_flat_folder_with_a_manifest_inside_uses_it(three):
    (three / "labels.csv").write_text("image,label\n1.jpg,a\n2.jpg,b\n")
    source = open_source(three)
    assert source.classes == ("a", "b") and len(source) == 2 and source.name == three.name


def test_images_folder_with_a_manifest_beside_it(tmp_path):
    pictures(tmp_path, "images/1.jpg", "images/2.jpg")
    (tmp_path / "metadata.csv").write_text("file_name,label\n1.jpg,a\n2.jpg,b\n")
    source = open_source(tmp_path)
    assert list(rows(source)) == ["images/1.jpg", "images/2.jpg"] and "'images'" in told(source)


def test_manifests_inside_split_folders(tmp_path):
    pictures(tmp_path, "train/1.jpg", "test/2.jpg")
    for split, name in (("train", "1.jpg"), ("test", "2.jpg")):
        (tmp_path / split / "metadata.jsonl").write_text(json.dumps({"file_name": name, "label": "a" + split}))
    found = rows(open_source(tmp_path))
    assert found["train/1.jpg"].split == "train" and found["test/2.jpg"].label == "atest"


def test_class_folders_win_over_a_table_and_it_is_told(tmp_path):
    pictures(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "labels.csv").write_text("image,label\na/1.jpg,z\nb/1.jpg,y\n")
    source = open_source(tmp_path)
    assert source.classes == ("a", "b") and "labels.csv" in told(source)
    assert open_source(tmp_path / "labels.csv").classes == ("y", "z")


def test_a_table_that_lists_no_pictures_does_not_hide_them(three):
    (three / "prices.csv").write_text("item,price\nbread,3\n")
    source = open_source(three)
    assert len(source) == 3 and "was not used" in told(source)


def test_several_tables_without_a_usual_name(three):
    for name in ("x.csv", "y.csv"):
        (three / name).write_text("image,label\n1.jpg,a\n")
    with pytest.raises(DataError, match=r"2 tables could list.*open one by its path"):
        open_source(three)


def test_rows_that_repeat_a_picture_are_joined(three):
    (three / "captions.csv").write_text("image,caption\n1.jpg,first\n2.jpg,other\n1.jpg,second\n1.jpg,first\n")
    source = open_source(three / "captions.csv")
    found = rows(source)
    assert len(source) == 2 and found["1.jpg"].captions == ("first", "second") and found["2.jpg"].captions == ("other",)
    assert "2 rows repeat a picture" in told(source)


def test_numbered_caption_columns_are_one_role(three):
    (three / "m.csv").write_text("image,caption_1,caption_2\n1.jpg,one,two\n2.jpg,three,\n")
    found = rows(open_source(three / "m.csv"))
    assert found["1.jpg"].captions == ("one", "two") and found["2.jpg"].captions == ("three",)


def test_backslashes_absolute_paths_and_quoted_newlines(tmp_path):
    pictures(tmp_path, "sub/1.jpg", "new\nline.jpg")
    (tmp_path / "w.csv").write_text("file,label\nsub\\1.jpg,a\n")
    assert open_source(tmp_path / "w.csv").key(0) == "sub/1.jpg"
    (tmp_path / "a.csv").write_text(f'file,label\n{tmp_path}/sub/1.jpg,a\n"new\nline.jpg",b\n')
    source = open_source(tmp_path / "a.csv")
    assert [source.key(i) for i in range(2)] == ["sub/1.jpg", "new\nline.jpg"]
    elsewhere = tmp_path / "tables"
    elsewhere.mkdir()
    (elsewhere / "m.csv").write_text(f"file,label\n{tmp_path}/sub/1.jpg,a\n")
    assert open_source(elsewhere / "m.csv").read(0) == b"xsub/1.jpg"


def test_unreadable_tables_are_data_errors(tmp_path):
    (tmp_path / "m.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match="expected a Parquet file"):
        open_source(tmp_path / "m.parquet")
    (tmp_path / "m.csv").write_text("")
    with pytest.raises(DataError, match="no rows with pictures"):
        open_source(tmp_path / "m.csv")
    (tmp_path / "n.csv").write_text("a,b\n1,2\n")
    with pytest.raises(
        DataError, match=r"no column with the pictures' paths or with sentences among a, b; name it: columns="
    ):
        open_source(tmp_path / "n.csv")


# Parquet with the pictures inside


def embedded(path, count, *, first=0, group=4, plain=False, **columns):
    data = [b"picture %d" % (first + i) for i in range(count)]
    image = pa.array(data) if plain else pa.array([{"bytes": one, "path": None} for one in data])
    metadata = columns.pop("metadata", None)
    table = pa.table({"image": image, **columns}).replace_schema_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return path


@pytest.mark.parametrize("plain", [True, False])
def test_embedded_pictures_read_in_any_order(tmp_path, plain):
    path = embedded(tmp_path / "all.parquet", 11, plain=plain, label=[i % 3 for i in range(11)])
    source = open_source(path)
    for i in np.random.default_rng(0).permutation(11):
        assert source.read(int(i)) == b"picture %d" % i and source.key(int(i)) == f"all.parquet#{i}"
    assert source.classes == ("0", "1", "2") and source.path(0) is None
    assert source.splits.tolist() == [-1] * 11
    with pytest.raises(IndexError):
        source.read(11)


def test_folder_of_parquet_files_takes_splits_from_names_and_classes_from_metadata(tmp_path):
    metadata = {"classes": json.dumps(["cat", "dog"])}
    embedded(tmp_path / "train-00000-of-00002.parquet", 5, label=[0, 1, 0, 1, 0], metadata=metadata)
    embedded(tmp_path / "train-00001-of-00002.parquet", 3, first=5, label=[1, 1, -1], metadata=metadata)
    embedded(tmp_path / "dev.parquet", 2, first=8, label=[0, 0], metadata=metadata)
    source = open_source(tmp_path)
    assert source.classes == ("cat", "dog") and source.splits.tolist() == [0] * 8 + [1] * 2
    assert [source.read(i) for i in range(10)] == [b"picture %d" % i for i in range(10)]
    assert source.key(6) == "train-00001-of-00002.parquet#1" and source.labels.tolist() == [
        0,
        1,
        0,
        1,
        0,
        1,
        1,
        -1,
        0,
        0,
    ]


def test_class_names_that_data_hubs_write(tmp_path):
    features = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path = embedded(tmp_path / "test" / "0.parquet", 2, label=[1, 0], metadata=metadata)
    source = open_source(path.parent.parent)
    assert source.classes == ("no", "yes") and source.sample(0).label == "yes" and source.sample(0).split == "test"


def test_caption_lists_label_lists_and_split_column(tmp_path):
    path = embedded(
        tmp_path / "x.parquet", 2, captions=[["a", "b"], []], tags=[["t", "u"], ["u"]], split=["validation", "train"]
    )
    source = open_source(path)
    assert source.sample(0).captions == ("a", "b") and source.sample(1).captions == ()
    assert source.sample(0).labels == ("t", "u") and source.sample(1).label == "u"
    assert source.splits.tolist() == [1, 0]


def test_missing_bytes_read_as_empty_and_strings_as_labels(tmp_path):
    table = pa.table({"jpg": pa.array([b"one", None, b"three"]), "category": ["b", None, "a"]})
    pq.write_table(table, tmp_path / "x.parquet")
    source = open_source(tmp_path / "x.parquet")
    assert [source.read(i) for i in range(3)] == [b"one", b"", b"three"]
    assert source.classes == ("a", "b") and source.labels.tolist() == [1, -1, 0]


def test_several_picture_columns_must_be_told_apart(tmp_path):
    table = pa.table({"left": [b"1"], "right": [b"2"], "label": [0]})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match="'left' and 'right' could each be the path"):
        open_source(tmp_path / "x.parquet")
    assert open_source(tmp_path / "x.parquet", columns={"path": "right"}).read(0) == b"2"


def test_large_sets_keep_few_row_groups_and_stay_right_under_threads(tmp_path, monkeypatch):
    import pickle
    from concurrent.futures import ThreadPoolExecutor

    from neocog.data import parquet

    monkeypatch.setattr(parquet, "_WHOLE", 100)
    monkeypatch.setattr(parquet, "_CACHE", 200)
    source = open_source(embedded(tmp_path / "x.parquet", 400, group=10))
    order = np.random.default_rng(1).permutation(400)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda i: source.read(int(i)), order)) == [b"picture %d" % i for i in order]
    assert len(source._cache) <= 3
    again = pickle.loads(pickle.dumps(source))
    assert again.read(399) == b"picture 399" and again.fingerprint() == source.fingerprint()


ENCODED = "path;label;caption\nété.jpg;Käse;naïve façade\nb.jpg;Rübe;plain\n"


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-8", ""), ("utf-8-sig", ""), ("utf-16", "is in UTF-16"), ("utf-16-le", "is in UTF-16-LE"),
        ("utf-16-be", "is in UTF-16-BE"), ("utf-32", "is in UTF-32"), ("cp1252", "not UTF-8: it was read as Windows"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("on_disk", ["utf-8", "latin-1", "decomposed"])
def test_a_table_in_any_encoding_finds_files_whose_names_are_in_another(tmp_path, encoding, said, on_disk):
    name = unicodedata.normalize("NFD", "été.jpg").encode() if on_disk == "decomposed" else "été.jpg".encode(on_disk)
    for one in (name, b"b.jpg"):
        with open(os.path.join(os.fsencode(tmp_path), one), "wb") as file:
            file.write(b"picture")
    (tmp_path / "t.csv").write_bytes(ENCODED.encode(encoding))
    source = open_source(tmp_path / "t.csv")
    assert source.classes == ("Käse", "Rübe") and len(source) == 2 and not source.problems
    assert source.sample(0).captions == ("naïve façade",) and source.read(0) == b"picture"
    assert os.fsencode(source.key(0)) == name
    assert any(said in note for note in source.notes) if said else not any("t.csv is" in note for note in source.notes)


def test_one_broken_line_leaves_the_others_as_they_are(tmp_path):
    for one in ("é.jpg".encode(), b"bad\xe9.jpg"):
        with open(os.path.join(os.fsencode(tmp_path), one), "wb") as file:
            file.write(b"picture")
    (tmp_path / "t.csv").write_bytes("path,label\né.jpg,thé\n".encode() + b"bad\xe9.jpg,caf\xe9\n")
    source = open_source(tmp_path / "t.csv")
    assert source.classes == ("café", "thé") and source.key(1) == "bad\udce9.jpg"


def test_jsonl_with_half_a_character_and_latin_1(tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"picture")
    row = {"path": "1.jpg", "label": "\ud83d", "caption": "cut \ud83d"}
    (tmp_path / "t.jsonl").write_bytes(json.dumps(row).encode() + b'\n{"path": "\\ud83d", "label": "caf\xe9"}\n')
    source = open_source(tmp_path / "t.jsonl")
    assert source.sample(0).label == r"\ud83d" and source.sample(0).captions == (r"cut \ud83d",)
