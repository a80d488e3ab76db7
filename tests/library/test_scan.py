"""What a scan finds: links, hard links and folders that are reached twice are one file, under its real path."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path

import pytest
from library.tiny import Tiny, fill, paths_of, picture

from neocog.library.copies import LEVELS, duplicates
from neocog.library.indexing import index
from neocog.library.scan import scan
from neocog.library.store import Store
from neocog.library.upkeep import problems, verify


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    picture(1).save(folder / "z_original.jpg")
    return folder


def found(*roots: Path, exclude=()) -> list[str]:
    """The paths below the first root's parent."""
    made = scan([str(one) for one in roots], os.fspath, "", exclude)
    return sorted(os.path.relpath(path, roots[0].parent) for path in made.files)


def test_a_link_beside_its_photograph(photos):
    (photos / "a_link.jpg").symlink_to("z_original.jpg")
    (photos / "b_link.jpg").symlink_to(photos / "a_link.jpg")
    store = Store.create(photos / ".neocog")
    assert str(index(store, [photos], Tiny())).startswith("1 new in")
    assert paths_of(store) == ["z_original.jpg"]
    assert [duplicates(store, level) for level in LEVELS] == [[], [], []]
    assert verify(store) == []


def test_a_link_to_elsewhere_is_a_file_of_its_own_until_the_real_one_is_indexed(photos, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    picture(2).save(elsewhere / "x.jpg")
    (photos / "a.jpg").symlink_to(elsewhere / "x.jpg")
    store, net = Store.create(tmp_path / "lib"), Tiny()
    assert index(store, [photos], net).new == 2
    assert index(store, [elsewhere], net).moved == 1 and net.seen == 2
    assert paths_of(store) == sorted(map(str, (photos / "z_original.jpg", elsewhere / "x.jpg")))
    for folders in ([photos], [elsewhere], [photos, elsewhere], ()):
        assert not index(store, folders, net).touched
    assert duplicates(store, "exact") == [] and verify(store) == []


def test_hard_links_are_one_file(photos, tmp_path):
    os.link(photos / "z_original.jpg", photos / "a.jpg")
    store = Store.create(photos / ".neocog")
    assert index(store, [photos], Tiny()).new == 1 and len(paths_of(store)) == 1
    (tmp_path / "backup").mkdir()
    os.link(photos / "a.jpg", tmp_path / "backup" / "b.jpg")
    assert not index(store, [tmp_path / "backup"], Tiny()).touched and len(paths_of(store)) == 1
    (photos / "a.jpg").unlink()
    assert index(store, [photos], Tiny()).moved == 1 and paths_of(store) == ["z_original.jpg"]


def test_folders_that_are_reached_twice(photos, tmp_path):
    fill(photos / "sub", 4)
    (photos / "a_way").symlink_to(photos / "sub")
    (photos / "sub" / "up").symlink_to(photos)
    (tmp_path / "door").symlink_to(photos)
    expected = sorted(["photos/z_original.jpg", *(f"photos/sub/{'ab'[i % 2]}/{i}.{'png' if i == 0 else 'jpg'}"
                                                  for i in range(4))])  # fmt: skip
    assert found(photos) == expected
    for roots in ((photos, photos / "sub"), (photos / "sub", photos), (tmp_path / "door", photos), (photos,) * 2):
        made = scan([str(one) for one in roots], os.fspath, "")
        assert sorted(os.path.relpath(path, tmp_path) for path in made.files) == expected


def test_a_link_of_before_is_given_up(photos):
    """What a library has of links is mended by the next indexing."""
    store = Store.create(photos / ".neocog")
    shutil.copy(photos / "z_original.jpg", photos / "a_link.jpg")
    index(store, [photos], Tiny())
    (photos / "a_link.jpg").unlink()
    (photos / "a_link.jpg").symlink_to("z_original.jpg")
    assert index(store, [photos], Tiny()).gone == 1 and paths_of(store) == ["z_original.jpg"]


def test_system_folders_and_what_is_excluded_are_passed_over(photos):
    fill(photos / "@eaDir", 1)
    fill(photos / "Catalog Previews.lrdata", 1, start=10)
    fill(photos / "Screenshots", 2, start=20)
    fill(photos / "2019" / "raw", 2, start=30)
    assert len(found(photos)) == 5
    assert found(photos, exclude=["Screenshots/", "/2019/raw/a/"]) == [
        "photos/2019/raw/b/31.jpg",
        "photos/z_original.jpg",
    ]
    (photos / ".neocogignore").write_text("Screenshots/\n")
    assert len(found(photos)) == 3 and len(found(photos, exclude=["!Screenshots/"])) == 5


def test_what_is_excluded_is_remembered(photos):
    fill(photos / "shots", 2)
    store = Store.create(photos / ".neocog")
    assert index(store, [photos], Tiny(), exclude=["shots/"]).new == 1
    assert not index(store, (), Tiny()).touched and store.exclude == ["shots/"] and verify(store) == []
    assert index(store, (), Tiny(), exclude=[]).new == 2 and store.exclude == []
    assert index(store, (), Tiny(), exclude=["shots/"]).gone == 2


def test_raw_files_are_listed_as_problems_once(photos):
    (photos / "IMG_1.CR3").write_bytes(b"\0" * 64)
    store = Store.create(photos / ".neocog")
    assert index(store, [photos], Tiny()).unreadable == 1
    assert [(one.key, one.reason.split(";")[0]) for one in problems(store)] == [
        ("IMG_1.CR3", "not supported: camera raw (CR3)")
    ]
    assert not index(store, [photos], Tiny()).touched and verify(store) == []
    (photos / "IMG_1.CR3").unlink()
    index(store, [photos], Tiny())
    assert problems(store) == []


def test_what_a_missing_reader_could_not_read_is_tried_again_when_it_is_there(photos, monkeypatch):
    decode, there = importlib.import_module("neocog.data.decode"), []
    monkeypatch.setattr(decode, "reads", lambda kind: kind != "HEIC" or bool(there))
    monkeypatch.setitem(decode._READERS, "HEIC", decode._READERS["JPEG"])
    sniff = decode.sniff
    monkeypatch.setattr(decode, "sniff", lambda data: "HEIC" if data.endswith(b"a photo") else sniff(data))
    (photos / "IMG.HEIC").write_bytes((photos / "z_original.jpg").read_bytes() + b"a photo")
    store = Store.create(photos / ".neocog")
    assert index(store, [photos], Tiny()).unreadable == 1
    assert problems(store)[0].reason == "not supported: HEIC; to read it: pip install 'neocog[heic]'"
    assert not index(store, [photos], Tiny()).touched
    there.append(True)
    assert index(store, [photos], Tiny()).new == 1 and problems(store) == []
