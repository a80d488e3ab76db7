"""Looking after a library: info, verify, problems, export, duplicates."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from library.tiny import Tiny, fill, picture
from PIL import Image, ImageFilter

from neocog.errors import LibraryError, UsageError
from neocog.library import copies
from neocog.library.copies import duplicates
from neocog.library.indexing import index
from neocog.library.photo import exif_of
from neocog.library.store import Store
from neocog.library.upkeep import export, info, problems, verify


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path / "p", 12)
    return tmp_path / "p"


@pytest.fixture
def store(folder: Path) -> Store:
    made = Store.create(folder / ".neocog")
    index(made, [folder], Tiny())
    return made


def said(store: Store, **options) -> list[str]:
    return [one.text for one in verify(store, **options)]


# info


def test_info_counts(store, folder):
    shutil.copy(folder / "a" / "0.png", folder / "b" / "copy.png")
    (folder / "a" / "2.jpg").unlink()
    (folder / "a" / "bad.jpg").write_bytes(b"")
    index(store, (), Tiny())
    hashes = store.rows(["hash"]).column("hash").to_pylist()
    store.merge(pa.table({"hash": hashes[:3], "tags": [["x"]] * 3}))
    found = info(store)
    assert (found.pictures, found.files, found.gone, found.problems, found.labels, found.tagged) == (11, 12, 1, 1, 2, 3)
    assert found.model == "tiny" and found.folders == (str(folder),) and not found.read_only
    assert found.models == {"tiny": {"dimension": 12, "classes": 3, "pictures": 11, "indexed": 0}}
    assert 0 < found.cache_bytes < found.bytes
    assert "11 pictures in 12 files, 1 gone, 1 unreadable" in str(found)
    one = str(dataclasses.replace(found, holds="1 picture", files=1, labels=1, tagged=1))
    assert "1 picture in 1 file, " in one and "1 label; 1 with taught tags" in one
    assert "net tiny (used for searching): 11 vectors of 12 numbers, searched exactly" in str(found)
    empty = info(Store.create(folder.parent / "empty"))
    assert empty.pictures == 0 and empty.model is None and "folders: none" in str(empty)


# verify


def test_a_sound_library_has_no_findings(store):
    assert verify(store, deep=True) == [] and verify(store, fix=True) == []


def test_what_lags_behind_is_no_damage(store, folder):
    fill(folder, 2, start=20)
    (folder / "a" / "0.png").unlink()
    picture(99).save(folder / "b" / "1.jpg")
    found = verify(store)
    assert not any(one.damage for one in found)
    assert [one.text for one in found] == [
        "1 file is gone or unreadable", "1 file has changed", "2 files are not indexed yet",
    ]  # fmt: skip
    assert all("neocog index" in str(one) for one in found) and found[2].examples
    index(store, (), Tiny())
    assert verify(store) == []
    folder.joinpath("a").rename(folder.parent / "aside")
    shutil.rmtree(folder / "b")
    assert said(store) == ["13 files are gone or unreadable"]


def test_a_disk_that_rots_is_noticed_by_looking_deep(store, folder):
    path = folder / "a" / "0.png"
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert verify(store) == []
    (one,) = verify(store, deep=True)
    assert one.damage and "another content at the same size and time" in one.text and one.examples == ("a/0.png",)
    verify(store, deep=True, fix=True)
    assert index(store, (), Tiny()).touched and verify(store, deep=True) == []


def test_rows_that_contradict_themselves_are_mended(store, folder):
    rows = store.rows(["hash", "paths", "mtimes", "inodes"]).to_pylist()
    whole = pa.list_(pa.int64())
    changed = pa.table(
        {
            "hash": [rows[0]["hash"], rows[1]["hash"], rows[2]["hash"]],
            "paths": [rows[3]["paths"], rows[1]["paths"], rows[2]["paths"]],
            "mtimes": pa.array([rows[3]["mtimes"], [], rows[2]["mtimes"]], whole),
            "inodes": pa.array([rows[3]["inodes"], [], rows[2]["inodes"]], whole),
            "state": ["ok", "ok", "gone"],
        }
    )
    store.merge(changed)
    texts = said(store)
    assert "1 path appears in two rows" in texts and "1 row has paths without times" in texts
    assert "1 row has a state that contradicts its paths" in texts
    verify(store, fix=True)
    index(store, (), Tiny())
    assert verify(store, deep=True) == [] and len(store) == 12


def test_lost_vectors_are_noticed_and_can_be_made_again(store):
    hashes = store.rows(["hash"]).column("hash").to_pylist()
    store._table("vectors_tiny").delete(f"hash IN ('{hashes[0]}', '{hashes[1]}')")
    assert "2 vectors of tiny are missing, not finite or not of length 1" in said(store)
    fixed = verify(store, fix=True)
    assert any("neocog index" in one.remedy for one in fixed)
    net = Tiny()
    index(store, (), net)
    assert net.seen == 2 and verify(store, deep=True) == []


def test_damaged_tables_are_told(store):
    for data in (store.folder / "vectors_tiny.lance" / "data").iterdir():
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    again = Store.open(store.folder)
    (one, *_rest) = verify(again)
    assert one.damage and "vectors of tiny cannot be read" in one.text and "--fix" in one.remedy
    verify(again, fix=True)
    assert again.models() == {} and len(again) == 12
    index(again, (), Tiny())
    assert verify(again, deep=True) == []


def test_problems_are_sorted_and_have_their_real_names(store, folder):
    (folder / "b" / os.fsdecode(b"\xff.jpg")).write_bytes(b"x")
    (folder / "a" / "z.jpg").write_bytes(b"")
    index(store, (), Tiny())
    assert [one.key for one in problems(store)] == ["a/z.jpg", os.fsdecode(b"b/\xff.jpg")]


# export


def test_export_to_parquet(store, tmp_path):
    assert export(store, tmp_path / "out.parquet", model="tiny") == 12
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column("hash").to_pylist() == store.vectors("tiny")[0].tolist()
    values = np.array(table.column("v_tiny").to_pylist(), np.float16)
    np.testing.assert_array_equal(values, store.vectors("tiny")[1])
    assert all(Path(row[0]).is_file() for row in table.column("paths").to_pylist())
    assert "v_tiny" not in (export(store, tmp_path / "o.parquet"), pq.read_schema(tmp_path / "o.parquet").names)[1]


def test_export_to_csv(store, tmp_path):
    hashes = store.rows(["hash"]).column("hash").to_pylist()
    nasty = ['a, "quoted"', "line\nbreak"]
    store.merge(pa.table({"hash": hashes[:1], "captions": [nasty], "taken": [datetime(2023, 5, 1, 12)]}))
    assert export(store, tmp_path / "out.csv") == 12
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["hash"] for row in rows] == hashes
    assert json.loads(rows[0]["captions"]) == nasty and rows[0]["taken"] == "2023-05-01 12:00:00"
    assert Path(json.loads(rows[3]["paths"])[0]).is_file()


def test_export_says_what_it_cannot(store, tmp_path):
    with pytest.raises(UsageError, match=r"ends with \.parquet or \.csv, got '.*out\.txt'"):
        export(store, tmp_path / "out.txt")
    with pytest.raises(UsageError, match="to Parquet only"):
        export(store, tmp_path / "out.csv", model="tiny")
    with pytest.raises(LibraryError, match="no vectors of 'other'; it has tiny"):
        export(store, tmp_path / "out.parquet", model="other")
    with pytest.raises(LibraryError, match="cannot be written"):
        export(store, tmp_path / "nowhere" / "out.csv")
    assert not list(tmp_path.glob(".*.part"))


# duplicates


class Eye(Tiny):
    """The picture at 8x8 pixels, so that vectors of different pictures differ."""

    name, dimension = "eye", 192

    def __init__(self) -> None:
        super().__init__("eye")

    def embed(self, pictures):
        small = np.asarray(pictures, np.float32).reshape(len(pictures), 3, 8, 2, 8, 2).mean((3, 5))
        return small.reshape(len(pictures), 192) - 128, super().embed(pictures)[1]


def detailed(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), np.uint8)
    return Image.fromarray(pixels).resize((200, 160), Image.Resampling.BICUBIC)


@pytest.fixture
def album(tmp_path: Path) -> Store:
    """Six pictures; of the first: a copy, one recompressed, a smaller one, a blurred one; of the second a cut."""
    folder = tmp_path / "album"
    folder.mkdir()
    for number in range(6):
        detailed(number).save(folder / f"{number}.png")
    shutil.copy(folder / "0.png", folder / "0 copy.png")
    os.utime(folder / "0 copy.png", (2e9, 2e9))
    detailed(0).save(folder / "0 small.jpg", quality=50)
    detailed(0).resize((100, 80)).save(folder / "0 half.png")
    detailed(0).filter(ImageFilter.GaussianBlur(1.5)).save(folder / "0 blurred.png")
    made = Store.create(folder / ".neocog")
    index(made, [folder], Eye())
    return made


def names(group) -> list[str]:
    return [copy.path.name for copy in group.copies]


def test_exact_duplicates_the_oldest_first(album):
    (group,) = duplicates(album, "exact")
    assert names(group) == ["0.png", "0 copy.png"] and group.best.path.name == "0.png"
    assert group.superfluous == group.copies[1].size > 0


@pytest.mark.parametrize("level", copies.LEVELS)
def test_exact_copies_are_duplicates_at_every_level(album, level):
    """Also of a picture that has no near duplicates: those of 0 are in its group, the copy of 5 makes one."""
    folder = album.folder.parent
    shutil.copy(folder / "5.png", folder / "5 copy.png")
    os.utime(folder / "5 copy.png", (2e9, 2e9))
    index(album, [folder], Eye())
    found = {group.best.path.name: group for group in duplicates(album, level)}
    assert names(found["5.png"]) == ["5.png", "5 copy.png"] and found["5.png"].level == "exact"
    assert found["5.png"].superfluous == (folder / "5.png").stat().st_size
    assert sum("0 copy.png" in names(group) and "0.png" in names(group) for group in found.values()) == 1


def test_near_duplicates_the_largest_and_sharpest_first(album):
    (group,) = duplicates(album, "near")
    assert set(names(group)) == {"0.png", "0 copy.png", "0 small.jpg", "0 half.png", "0 blurred.png"}
    assert group.best.path.name in ("0.png", "0 small.jpg") and names(group)[-1] == "0 half.png"
    sharpness = {copy.path.name: copy.sharpness for copy in group.copies}
    assert sharpness["0.png"] > sharpness["0 blurred.png"] > 0
    assert group.copies[0].similarity == 1 and all(copy.similarity > 0.75 for copy in group.copies)


def test_similar_pictures_by_their_vectors(album):
    (group,) = duplicates(album, "similar", threshold=0.9)
    assert len(group.copies) == 5
    assert duplicates(album, "similar", threshold=0.99999) == [] or len(duplicates(album, "similar")[0].copies) >= 2
    everything = duplicates(album, "similar", threshold=1e-6)
    places = [copy.path for one in everything for copy in one.copies]
    assert len(places) == len(set(places)), "a picture is in one group only"


def test_nothing_is_deleted(album):
    before = sorted(album.folder.parent.iterdir())
    for level in copies.LEVELS:
        duplicates(album, level)
    assert sorted(album.folder.parent.iterdir()) == before


def test_duplicates_say_what_is_wrong(album, store, tmp_path):
    with pytest.raises(UsageError, match=r"unknown level 'nera' .did you mean 'near'"):
        duplicates(album, "nera")
    with pytest.raises(UsageError, match="a cosine above 0 and at most 1, got 90"):
        duplicates(album, "similar", threshold=90)
    empty = Store.create(tmp_path / "empty")
    assert duplicates(empty, "exact") == duplicates(empty, "near") == []
    with pytest.raises(UsageError, match="the library has none; type 'neocog index FOLDER'"):
        duplicates(empty, "similar")


def test_too_many_similar_pairs_are_refused(album, monkeypatch):
    monkeypatch.setattr(copies, "_MOST_PAIRS", 2)
    with pytest.raises(UsageError, match=r"more than 2 pairs .* --threshold above 0.5"):
        duplicates(album, "similar", threshold=0.5)


# what a photograph says of itself


def test_exif(tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0112] = "NIKON", "NIKON D90", 6
    exif.get_ifd(0x8769)[0x9003] = "2023:07:14 12:30:05"
    exif.get_ifd(0x8825).update({1: "S", 2: (33.0, 51.0, 30.0), 3: "E", 4: (151.0, 12.0, 0.0)})
    folder = tmp_path / "p"
    folder.mkdir()
    for kind in ("jpg", "png", "webp"):
        detailed(ord(kind[0])).save(folder / f"x.{kind}", exif=exif)
    store = Store.create(folder / ".neocog")
    index(store, [folder], Tiny())
    rows = store.rows(["name", "taken", "camera", "latitude", "longitude", "width", "height"]).to_pylist()
    assert len(rows) == 3
    for row in rows:
        assert row["taken"] == datetime(2023, 7, 14, 12, 30, 5) and row["camera"] == "NIKON D90", row["name"]
        assert row["latitude"] == pytest.approx(-33.858333) and row["longitude"] == pytest.approx(151.2)
        assert (row["width"], row["height"]) == (160, 200)


@pytest.mark.parametrize("date", ["0000:00:00 00:00:00", "2023:13:40 99:00:00", "", "yesterday", "0001:01:01 00:00:00"])
def test_dates_that_are_none(date):
    exif = Image.Exif()
    exif[0x0132] = date
    out = io.BytesIO()
    detailed(1).save(out, "JPEG", exif=exif)
    assert "taken" not in exif_of(out.getvalue())


def test_damaged_exif_is_no_damaged_picture():
    exif = Image.Exif()
    exif[0x010F], exif[0x0132] = "NIKON", "2023:07:14 12:30:05"
    out = io.BytesIO()
    detailed(1).save(out, "JPEG", exif=exif)
    data, rng = out.getvalue(), np.random.default_rng(0)
    at = data.index(b"Exif")
    for _ in range(300):
        broken = bytearray(data)
        for place in rng.integers(at + 6, at + 90, 4):
            broken[place] = rng.integers(256)
        assert isinstance(exif_of(bytes(broken)), dict)
