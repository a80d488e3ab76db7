"""The folders of a library: listed, forgotten, moved; and disks that are away."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from library.tiny import Tiny, fill, paths_of, picture

from neocog import Library
from neocog.errors import LibraryError, UsageError
from neocog.library import changes, folders, index_run
from neocog.library.indexing import index, watch
from neocog.library.store import Store
from neocog.library.upkeep import info, problems, verify


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    fill(tmp_path / "photos", 8)
    return tmp_path / "photos"


@pytest.fixture
def store(photos: Path, tmp_path: Path) -> Store:
    """A library outside its two folders; one picture is in both, one file cannot be read."""
    fill(tmp_path / "more", 4, start=50)
    shutil.copy(photos / "a" / "0.png", tmp_path / "more" / "copy.png")
    (photos / "a" / "bad.jpg").write_bytes(b"no picture")
    made = Store.create(tmp_path / "lib")
    index(made, [photos, tmp_path / "more"], Tiny())
    return made


def test_they_are_listed(store, photos, tmp_path):
    found = {one.path: (one.pictures, one.problems, one.there, one.finished) for one in folders.folders(store)}
    assert found == {photos: (8, 1, True, True), tmp_path / "more": (5, 0, True, True)}
    photos.rename(tmp_path / "renamed")
    assert [one.there for one in folders.folders(store)] == [True, False]


def test_one_is_forgotten_with_its_pictures(store, photos, tmp_path):
    done = folders.forget(store, photos)
    assert (done.files, done.pictures, done.notes) == (8, 7, ())  # of one there is a copy in the other
    assert store.folders == [str(tmp_path / "more")] and problems(store) == []
    assert len(store) == 5 and len(store.vectors("tiny")[0]) == 5 and len(store.rows(["hash"], gone=True)) == 5
    assert all(path.startswith(str(tmp_path / "more")) for path in paths_of(store)) and verify(store, deep=True) == []
    assert not index(store, (), Tiny()).touched and photos.is_dir()
    with pytest.raises(UsageError, match=r"has no folder .*photos.*its folders are .*more"):
        folders.forget(store, photos)


def test_a_folder_inside_comes_back_unless_it_is_kept_out(store, photos):
    done = folders.forget(store, photos / "b")
    assert done.files == 4 and "write /b/ into" in done.notes[0]
    (photos / ".neocogignore").write_text("/b/\n")
    assert not index(store, (), Tiny()).touched and len(store) == 8
    (photos / ".neocogignore").unlink()
    assert index(store, (), Tiny()).new == 4


def test_one_that_was_renamed_is_moved_and_nothing_is_opened(store, photos, tmp_path, monkeypatch):
    hash = store.rows(["hash", "paths"]).to_pylist()[0]["hash"]
    store.merge(pa.table({"hash": [hash], "tags": [["mine"]]}))
    photos.rename(tmp_path / "renamed")
    done = folders.move(store, photos, tmp_path / "renamed")
    assert (done.files, done.notes) == (8, ())
    assert store.folders == sorted(map(str, (tmp_path / "more", tmp_path / "renamed")))
    assert [one.key for one in problems(store)] == [str(tmp_path / "renamed" / "a" / "bad.jpg")]
    monkeypatch.setattr(index_run, "read_steady", None)
    assert str(index(store, (), None)).startswith("14 unchanged in") and verify(store) == []
    rows = {row["hash"]: row for row in store.rows(["hash", "tags", "labels", "paths"]).to_pylist()}
    assert rows[hash]["tags"] == ["mine"]
    assert all(row["labels"] == [Path(row["paths"][0]).parent.name] for row in rows.values() if len(row["paths"]) == 1)


def test_pictures_right_in_the_folder_get_no_label_by_moving_it(tmp_path):
    fill(tmp_path / "p", 2)
    picture(9).save(tmp_path / "p" / "top.png")
    store = Store.create(tmp_path / "lib")
    index(store, [tmp_path / "p"], Tiny())
    (tmp_path / "p").rename(tmp_path / "q")
    folders.move(store, tmp_path / "p", tmp_path / "q")
    assert sorted(map(tuple, store.rows(["labels"]).column("labels").to_pylist())) == [(), ("a",), ("b",)]


def test_one_that_was_copied_to_another_disk_computes_nothing(store, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "disk", copy_function=shutil.copyfile)  # other inodes and times
    shutil.rmtree(photos)
    (tmp_path / "disk" / "b" / "1.jpg").unlink()
    done = folders.move(store, photos, tmp_path / "disk")
    assert "1 of them are not there" in done.notes[0]
    net = Tiny()
    report = index(store, (), net)
    assert (net.seen, report.unchanged, report.gone) == (0, 12, 1) and verify(store, deep=True) == []


def test_one_whose_new_place_was_indexed_already(store, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "new")
    index(store, [tmp_path / "new"], Tiny())
    shutil.rmtree(photos)
    folders.move(store, photos, tmp_path / "new")
    assert len(paths_of(store)) == 13 and str(photos) not in store.folders and verify(store, deep=True) == []


def test_a_library_inside_its_pictures(photos, tmp_path):
    store = Store.create(photos / ".neocog")
    fill(tmp_path / "disk", 2, start=70)
    index(store, [photos, tmp_path / "disk"], Tiny())
    (photos / "b").rename(photos / "c")
    assert folders.move(store, photos / "b", photos / "c").files == 4
    assert {tuple(row) for row in store.rows(["labels"]).column("labels").to_pylist()} == {("a",), ("b",), ("c",)}
    shutil.move(tmp_path / "disk", photos / "disk")
    assert folders.move(store, tmp_path / "disk", photos / "disk").files == 2
    assert store.folders == ["."] and not index(store, (), Tiny()).touched and verify(store) == []
    assert folders.forget(store, photos).files == 10 and store.folders == [] and len(store) == 0


def test_what_cannot_be_moved_changes_nothing(store, photos, tmp_path):
    before = store.version()
    (tmp_path / "empty").mkdir()
    for old, new, message in (
        (photos, tmp_path / "nowhere", "expected the folder where the pictures are now"),
        (
            photos,
            tmp_path / "empty",
            r"none of the 8 files of .*\(there is no .*empty/a/0\.png\); nothing was changed",
        ),
        (tmp_path / "unknown", tmp_path / "more", "has no folder"),
    ):
        with pytest.raises(UsageError, match=message):
            folders.move(store, old, new)
    with store.indexing(), pytest.raises(LibraryError, match="is in use"):
        folders.move(store, photos, tmp_path / "more")
    assert store.version() == before


# disks that are away


def test_a_folder_that_is_empty_now_keeps_its_pictures(store, photos, tmp_path):
    photos.rename(tmp_path / "unplugged")
    photos.mkdir()
    report = index(store, (), Tiny())
    assert report.gone == 0 and len(store) == 12 and [str(photos) in one for one in report.away] == [True]
    assert "knows 8 pictures there, which are kept" in report.notes[0] and "neocog library forget" in report.notes[0]
    photos.rmdir()
    (tmp_path / "unplugged").rename(photos)
    assert not index(store, (), Tiny()).touched
    (photos / "a" / "0.png").unlink()  # a file that was deleted is gone as ever
    assert index(store, (), Tiny()).gone == 1


def test_a_disk_below_an_indexed_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(changes, "_MANY", 4)
    fill(tmp_path / "p" / "disk", 8)
    fill(tmp_path / "p" / "few", 2, start=20)
    fill(tmp_path / "far", 1, start=30)
    picture(40).save(tmp_path / "p" / "top.png")
    (tmp_path / "p" / "link").symlink_to(tmp_path / "far")
    store = Store.create(tmp_path / "lib")
    index(store, [tmp_path / "p"], Tiny())
    for name in ("disk", "few"):
        shutil.rmtree(tmp_path / "p" / name)
        (tmp_path / "p" / name).mkdir()
    (tmp_path / "far").rename(tmp_path / "unplugged")
    report = index(store, (), Tiny())
    assert report.gone == 2 and sorted(Path(one.split()[0]).name for one in report.away) == ["disk", "link"]
    assert len(store) == 10


def test_a_disk_that_goes_while_it_is_indexed(store, photos, tmp_path, monkeypatch):
    for path in (photos / "a").iterdir():
        os.utime(path, (1e9, 1e9))

    def read(path: str, read=index_run.read_steady):
        if photos.is_dir():
            photos.rename(tmp_path / "unplugged")
        return read(path)

    monkeypatch.setattr(index_run, "read_steady", read)
    assert index(store, (), Tiny()).gone == 0 and len(store) == 12


def test_watching_survives_a_disk_with_the_library_on_it(photos, tmp_path):
    said: list[str] = []
    steps = iter(range(1000))
    store = Store.create(photos / ".neocog")

    def stop() -> bool:
        step = next(steps)
        if step == 6:
            photos.rename(tmp_path / "unplugged")
        if step == 12:
            photos.mkdir()  # the place where it is mounted stays
        if step == 20:
            photos.rmdir()
            fill(tmp_path / "unplugged", 1, start=90)
            (tmp_path / "unplugged").rename(photos)
        return step > 60

    reports = list(watch(store, (photos,), Tiny(), interval=0.02, stop=stop, say=said.append))
    assert [(one.new, one.gone) for one in reports] == [(8, 0), (1, 0)]
    assert sum("is not there (is the disk connected?)" in one for one in said) == 1
    assert len(Store.open(photos / ".neocog")) == 9 and verify(store, deep=True) == []


# the first indexing


def test_a_search_during_the_first_indexing_says_so(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(index_run, "_BATCH", 2)
    monkeypatch.setattr(index_run, "COMMIT_ROWS", 2)
    library = Library.at(tmp_path / "lib")
    notes: list[str] = []

    def progress(done: int, total: int) -> None:
        notes.extend(Library(library.folder).search("folder:photos").notes[:1])
        if done == 4:
            assert not folders.folders(library.store)[0].finished
            assert f"process {os.getpid()}" in str(info(library.store))
            with pytest.raises((UsageError, LibraryError), match="is indexing this for the first time"):
                library.search(like="nothing.jpg")

    report = library.index(photos, net=None, embedder=Tiny(), progress=progress)
    assert report.new == 8 and len(notes) == 4
    assert all(f"{photos}: process {os.getpid()} on" in one for one in notes)
    assert "is indexing this for the first time; 4 pictures are in the library so far" in notes[2]
    assert not any("first time" in note for note in library.search("folder:photos").notes)
    fill(photos, 2, start=30)
    later: list[str] = []
    index(library.store, [photos], Tiny(), progress=lambda done, total: later.extend(library.search("dog").notes))
    assert later and not any("first time" in note for note in later)


def test_a_first_indexing_that_was_interrupted_is_said_and_continued(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(index_run, "_BATCH", 2)
    library = Library.at(tmp_path / "lib")
    with pytest.raises(MemoryError):
        index(library.store, [photos], Tiny(), stop=lambda: (_ for _ in ()).throw(MemoryError))
    note = library.search("folder:photos").notes[0]
    assert "was interrupted" in note and note.endswith("To continue: neocog index")
    assert index(library.store, (), Tiny()).touched and library.store.unfinished == []
    np.testing.assert_equal(len(library), 8)
