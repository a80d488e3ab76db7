"""Videos in a library: their key frames are pictures with a time, through every change and interruption."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from films import scene, write
from library.tiny import Tiny, fill, paths_of
from PIL import Image

from neocog.cli import main
from neocog.data import video
from neocog.data.decode import inspect, prepare
from neocog.data.places import read_place
from neocog.data.stores import file_of
from neocog.fit.predicting import _placed
from neocog.library import films, index_run
from neocog.library.copies import duplicates
from neocog.library.folders import forget, move
from neocog.library.gallery import original
from neocog.library.indexing import index, watch
from neocog.library.searching import search
from neocog.library.sheet import sheet
from neocog.library.source import Labelled, LibrarySource
from neocog.library.store import Store
from neocog.library.upkeep import problems, verify
from neocog.library.view import find_picture, view_of
from neocog.records import Preprocess

pytest.importorskip("av")


def film(path: Path, *numbers: int, **options) -> Path:
    """A video of shots of 1.2 seconds, with a key packet every 0.4 s."""
    options = {"codec": "gif"} if path.suffix == ".gif" else {"keys": 10, "preset": "ultrafast", **options}
    return write(path, [f for n in numbers for f in scene(n, 30)], **options)


class Shelf:
    def __init__(self, folder: Path) -> None:
        self.folder, self.net = folder, Tiny()
        fill(folder, 2)
        film(folder / "a" / "one.mp4", 1, 2, 3)
        film(folder / "two.mkv", 4, 5)
        self.store = Store.create(folder / ".neocog")

    def index(self, **options) -> str:
        return str(index(self.store, [self.folder], self.net, threads=2, **options)).split(" in ")[0]

    def shots(self) -> dict[str, int]:
        """How many frames of each video are known; all is well beside."""
        assert [str(one) for one in verify(self.store, deep=True)] == []
        found: dict[str, int] = {}
        for path in paths_of(self.store):
            if path != file_of(path):
                found[file_of(path)] = found.get(file_of(path), 0) + 1
        return found


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    shelf = Shelf(tmp_path_factory.mktemp("films") / "pictures")
    shelf.index()
    return shelf.folder


@pytest.fixture
def shelf(made, tmp_path) -> Shelf:
    """A copy of one that was indexed; files keep their times, and so nothing of it is new."""
    shutil.copytree(made, tmp_path / "pictures", symlinks=True)
    shelf = Shelf.__new__(Shelf)
    shelf.folder, shelf.net = tmp_path / "pictures", Tiny()
    shelf.store = Store.open(shelf.folder / ".neocog")
    return shelf


def test_each_shot_is_a_picture_with_its_time(shelf):
    assert shelf.shots() == {"a/one.mp4": 3, "two.mkv": 2} and len(shelf.store) == 7
    rows = {row["paths"][0]: row for row in shelf.store.rows(["hash", "paths", "labels", "name", "width"]).to_pylist()}
    hashes, vectors = shelf.store.vectors("tiny")
    for path, row in rows.items():
        if path == file_of(path):
            continue
        assert row["name"] == file_of(path).rpartition("/")[2] and row["width"] == 160
        assert row["labels"] == (["a"] if path.startswith("a/") else [])
        own = shelf.net.embed(prepare(read_place(f"{shelf.folder}/{path}"), shelf.net.preprocess)[None])[0][0]
        np.testing.assert_allclose(vectors[hashes == row["hash"]][0], own / np.linalg.norm(own), atol=2e-3)
        pixels, _, size = _placed(f"{shelf.folder}/{path}", Preprocess(32, 32))  # a run can be asked about it
        assert pixels.shape == (32, 32, 3) and pixels.any() and size[1] == 160
    assert shelf.index() == "7 unchanged"


def test_a_changed_video_has_its_new_frames_only(shelf):
    film(shelf.folder / "a" / "one.mp4", 1, 9)
    shelf.net.seen = 0
    assert shelf.index().endswith("unchanged") and shelf.shots() == {"a/one.mp4": 2, "two.mkv": 2}
    assert shelf.net.seen == 1  # the first shot is what it was
    (shelf.folder / "two.mkv").write_bytes(b"no video any more")
    assert "1 unreadable" in shelf.index() and shelf.shots() == {"a/one.mp4": 2}
    assert [(p.key, p.reason[:26]) for p in problems(shelf.store)] == [("two.mkv", "cannot be read as a video:")]
    film(shelf.folder / "two.mkv", 4)
    shelf.index()
    assert shelf.shots() == {"a/one.mp4": 2, "two.mkv": 1} and not problems(shelf.store)


def test_renamed_copied_deleted_and_gone_for_a_while(shelf):
    os.rename(shelf.folder / "two.mkv", shelf.folder / "b" / "renamed.mkv")
    shelf.net.seen = 0
    shelf.index()  # the copy of the fixture has other inodes: known by content
    os.rename(shelf.folder / "b" / "renamed.mkv", shelf.folder / "b" / "again.mkv")
    assert shelf.index() == "2 moved, 7 unchanged"
    shutil.copy(shelf.folder / "b" / "again.mkv", shelf.folder / "copy.mkv")
    assert shelf.index() == "2 copies, 7 unchanged" and shelf.net.seen == 0
    groups = duplicates(shelf.store)
    assert [len(group.copies) for group in groups] == [2]  # the videos, not each of their shots
    os.remove(shelf.folder / "copy.mkv")
    os.rename(shelf.folder / "a" / "one.mp4", shelf.folder.parent / "one.mp4")
    assert shelf.index() == "5 gone, 4 unchanged" and shelf.shots() == {"b/again.mkv": 2}
    os.rename(shelf.folder.parent / "one.mp4", shelf.folder / "a" / "one.mp4")
    assert shelf.index() == "3 moved, 4 unchanged" and shelf.net.seen == 0


def test_forgotten_and_recorded_elsewhere(shelf):
    (shelf.folder / "a").rename(shelf.folder / "c")
    assert move(shelf.store, shelf.folder / "a", shelf.folder / "c").files == 2
    assert shelf.shots() == {"c/one.mp4": 3, "two.mkv": 2} and shelf.index() == "7 unchanged"
    assert forget(shelf.store, shelf.folder / "two.mkv").pictures == 2
    assert {file_of(p) for p in paths_of(shelf.store)} == {"b/1.jpg", "c/0.png", "c/one.mp4"}


@pytest.mark.parametrize("at", range(3))
def test_killed_between_any_two_changes_nothing_is_lost(shelf, monkeypatch, at):
    """Every change of a table is whole or not there; here the process ends before the change number `at`."""
    film(shelf.folder / "a" / "one.mp4", 3, 6, 1, 7)
    monkeypatch.setattr(films, "_AT_ONCE", 1)
    monkeypatch.setattr(index_run, "COMMIT_ROWS", 1)
    done = iter(range(100))

    def until(own):
        def change(store, rows):
            if next(done) >= at:
                raise KeyboardInterrupt
            return own(store, rows)

        return change

    for name in ("add", "merge"):
        monkeypatch.setattr(Store, name, until(getattr(Store, name)))
    with pytest.raises(KeyboardInterrupt):
        shelf.index()
    monkeypatch.undo()
    shelf.store = Store.open(shelf.folder / ".neocog")
    shelf.index()
    assert shelf.shots() == {"a/one.mp4": 4, "two.mkv": 2} and shelf.index() == "8 unchanged"


def test_a_gif_that_moves_is_a_video_and_another_a_picture(shelf):
    film(shelf.folder / "cat.gif", 1, 2)
    Image.open(shelf.folder / "b" / "1.jpg").save(shelf.folder / "still.gif")
    shelf.index()
    assert shelf.shots()["cat.gif"] == 2 and "still.gif" in paths_of(shelf.store)
    Image.open(shelf.folder / "b" / "1.jpg").save(shelf.folder / "cat.gif")
    shelf.index()
    assert "cat.gif" not in shelf.shots() and "cat.gif" in paths_of(shelf.store)


def test_without_the_extra_videos_are_skipped_once_and_what_is_known_stays(shelf, monkeypatch):
    monkeypatch.setattr(video, "have", lambda: False)
    film(shelf.folder / "new.mp4", 7)
    film(shelf.folder / "two.mkv", 8)
    report = index(shelf.store, [shelf.folder], shelf.net)
    assert str(report).startswith("5 unchanged") and len(paths_of(shelf.store)) == 7 and not problems(shelf.store)
    (note,) = report.notes
    assert note.startswith("2 videos such as") and "pip install 'neocog[video]'" in note


def test_half_a_video_is_kept_and_told(shelf):
    whole = film(shelf.folder / "half.mkv", *range(10, 18))
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    shelf.index()
    assert 2 <= shelf.shots()["half.mkv"] <= 5
    assert [p.reason[:10] for p in problems(shelf.store)] == ["it ends at"]
    assert shelf.index() == f"{7 + shelf.shots()['half.mkv']} unchanged"


def test_watching_follows_a_video(shelf):
    (shelf.folder / "a" / "one.mp4").unlink()
    rounds = watch(shelf.store, [shelf.folder], shelf.net, interval=0)
    assert next(rounds).gone == 3
    film(shelf.folder / "late.mp4", 8)
    assert next(rounds).new == 1
    rounds.close()


def test_a_moment_is_found_shown_and_taken_as_an_example(shelf, tmp_path, capsys, monkeypatch):
    view = view_of(shelf.store)
    place = next(p for p in paths_of(shelf.store) if p.startswith("two.mkv/"))
    row, path = find_picture(view, f"two.mkv at 00:0{int(float(place.partition('/')[2]))}")
    assert str(path) == str(shelf.folder / place) and str(view.hashes[row])
    found = search(shelf.store, like=[str(path)], threshold=0.0)
    assert found[0].path == str(path)
    hit = found.to_json()["hits"][0]
    assert hit["file"] == str(shelf.folder / "two.mkv") and hit["seconds"] == float(place.partition("/")[2])
    assert "file" not in next(one for one in found.to_json()["hits"] if one["path"].endswith("png"))
    assert search(shelf.store, "folder:a", threshold=0.0).found == 4  # a picture and three shots
    assert search(shelf.store, "folder:two", threshold=0.0).found == 0  # a video is no folder
    assert sheet(found, tmp_path / "sheet.png").stat().st_size > 5000
    monkeypatch.setattr("sys.argv", ["neocog", "search", "--like", str(path), "-l", str(shelf.folder), "--all"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, None) and "two.mkv at 00:0" in capsys.readouterr().out


def test_frames_are_samples_to_learn_from(shelf):
    place = next(p for p in paths_of(shelf.store) if p.startswith("two.mkv/"))
    source = LibrarySource("x", [Labelled("0" * 32, str(shelf.folder / place), ("cat",))], None, ())
    assert source.read(0).startswith(b"P6") and json.dumps(source.key(0))


def test_the_page_shows_a_frame(shelf):
    row = next(r for r in shelf.store.rows(["hash", "paths"]).to_pylist() if r["paths"][0].startswith("two.mkv/"))
    data, kind = original(shelf.store, row["hash"])
    assert kind == "image/jpeg" and inspect(data).width == 160


def test_a_video_may_be_named_itself(tmp_path):
    path = film(tmp_path / "p" / "one.mp4", 1, 2)
    film(tmp_path / "p" / "two.mp4", 3)
    store, net = Store.create(tmp_path / "library"), Tiny()
    assert index(store, [path], net).new == 2 and index(store, [], net).unchanged == 2
    assert index(store, [path.parent], net).new == 1
