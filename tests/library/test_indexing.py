"""Indexing: new, changed, moved, deleted; interrupted anywhere; two at once; what cannot be read or written."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from library.tiny import Tiny, fill, paths_of, picture
from ready import Child, Ready

from neocog.errors import LibraryError, UsageError
from neocog.library import card, index_run
from neocog.library.indexing import index, watch
from neocog.library.lock import LibraryBusy
from neocog.library.rows import content_hash
from neocog.library.store import Store
from neocog.library.upkeep import problems, verify

WORKER = Path(__file__).with_name("worker.py")


class Shelf:
    """A folder of pictures with its library."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.files = fill(folder, count)
        self.store = Store.create(folder / ".neocog")
        self.net = Tiny()

    def index(self, **options) -> str:
        """Index, and return what was found, without the time."""
        return str(index(self.store, [self.folder], options.pop("net", self.net), **options)).split(" in ")[0]

    def whole(self) -> bool:
        """Whether the library is sound, says what lies in the folder, and has each file's own vector."""
        there = {p: p.read_bytes() for p in self.folder.rglob("*") if p.is_file() and p.parent.name in "ab"}
        unread = {problem.key for problem in problems(self.store)}
        expected = sorted(str(p.relative_to(self.folder)) for p in there)
        found = verify(self.store, deep=True)
        assert [str(one) for one in found] == []
        assert paths_of(self.store) == [path for path in expected if path not in unread]
        rows = self.store.rows(["hash", "paths"])
        assert len(set(rows.column("hash").to_pylist())) == len(rows)
        net = Tiny()
        from neocog.data.decode import prepare

        hashes, vectors = self.store.vectors("tiny")
        assert hashes.tolist() == rows.column("hash").to_pylist()
        for i in range(0, len(rows), 7):
            path = self.store.path_of(rows.column("paths")[i].as_py()[0])
            own = net.embed(prepare(path.read_bytes(), net.preprocess)[None])[0][0]
            np.testing.assert_allclose(vectors[i], own / np.linalg.norm(own), atol=2e-3)
        return True


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    made = Shelf(tmp_path / "pictures", 24)
    made.index()
    return made


def test_everything_is_found_once(shelf):
    assert shelf.net.seen == 24 and shelf.whole()
    rows = shelf.store.rows(["labels", "width", "height", "size", "name", "folder", "phash"]).to_pylist()
    for row in rows:
        path = shelf.folder / row["folder"] / row["name"]
        assert row["labels"] == [row["folder"]] and row["size"] == path.stat().st_size and row["phash"] is not None
        assert (row["width"], row["height"]) == (24, 24)
    chances = shelf.store.probabilities("tiny")[1]
    assert chances.shape == (24, 3) and chances.dtype == np.float16
    np.testing.assert_allclose(chances.astype(float).sum(1), 1, atol=2e-3)


def test_unchanged_files_are_not_opened(shelf, monkeypatch):
    monkeypatch.setattr(index_run, "read_steady", None)
    version = shelf.store.version()
    assert shelf.index() == "24 unchanged" and shelf.store.version() == version


def test_new_changed_moved_and_deleted(shelf):
    fill(shelf.folder, 3, start=24)
    assert shelf.index() == "3 new, 24 unchanged" and shelf.net.seen == 27
    picture(500).save(shelf.files[0])
    shelf.files[1].rename(shelf.folder / "a" / "renamed.jpg")
    shelf.files[2].unlink()
    assert shelf.index() == "1 changed, 1 moved, 1 gone, 24 unchanged" and shelf.net.seen == 28
    assert shelf.whole()


def test_a_move_keeps_what_is_known_and_takes_the_new_folders_label(shelf):
    hash = content_hash(shelf.files[1].read_bytes())
    import pyarrow as pa

    shelf.store.merge(pa.table({"hash": [hash], "tags": [["mine"]], "captions": [["seen by the sea"]]}))
    shelf.files[1].rename(shelf.folder / "a" / "x.jpg")
    shelf.index()
    by = {row["hash"]: row for row in shelf.store.rows(["hash", "paths", "labels", "tags", "captions"]).to_pylist()}
    assert by[hash] == {
        "hash": hash, "paths": ["a/x.jpg"], "labels": ["a"], "tags": ["mine"], "captions": ["seen by the sea"],
    }  # fmt: skip


def test_labels_that_the_user_gave_stay(shelf):
    hash = content_hash(shelf.files[1].read_bytes())
    import pyarrow as pa

    shelf.store.merge(pa.table({"hash": [hash], "labels": [["zebra"]]}))
    shelf.files[1].rename(shelf.folder / "a" / "x.jpg")
    shelf.index()
    assert {r["hash"]: r["labels"] for r in shelf.store.rows(["hash", "labels"]).to_pylist()}[hash] == ["zebra"]


def test_a_move_by_copying_is_known_by_its_content(shelf):
    """Another disk gives a new inode and perhaps a new time."""
    data = shelf.files[3].read_bytes()
    shelf.files[3].unlink()
    (shelf.folder / "a" / "elsewhere.jpg").write_bytes(data)
    assert shelf.index() == "1 moved, 23 unchanged" and shelf.net.seen == 24 and shelf.whole()


def test_copies_are_one_row_with_several_paths(shelf):
    shutil.copy(shelf.files[0], shelf.folder / "b" / "copy.png")
    shutil.copy(shelf.files[0], shelf.folder / "a" / "copy.png")
    assert shelf.index() == "2 copies, 24 unchanged" and shelf.net.seen == 24
    assert len(shelf.store) == 24 and len(paths_of(shelf.store)) == 26
    hash = content_hash(shelf.files[0].read_bytes())
    rows = {row["hash"]: row for row in shelf.store.rows(["hash", "paths", "labels"]).to_pylist()}
    assert rows[hash]["paths"] == ["a/0.png", "a/copy.png", "b/copy.png"] and rows[hash]["labels"] == ["a", "b"]
    shelf.files[0].unlink()
    assert shelf.index() == "1 gone, 25 unchanged" and len(shelf.store) == 24 and shelf.whole()


def test_two_files_that_change_places(shelf):
    a, b = shelf.files[0], shelf.files[4]
    contents = a.read_bytes(), b.read_bytes()
    a.write_bytes(contents[1])
    b.write_bytes(contents[0])
    shelf.index()
    assert shelf.net.seen == 24 and shelf.whole()


def test_what_was_away_comes_back_with_its_tags(shelf):
    import pyarrow as pa

    hash = content_hash(shelf.files[5].read_bytes())
    shelf.store.merge(pa.table({"hash": [hash], "tags": [["mine"]]}))
    away = shelf.folder.parent / "away.jpg"
    shutil.move(shelf.files[5], away)
    shelf.index()
    assert len(shelf.store) == 23 and shelf.store.rows(["hash"], gone=True).num_rows == 24
    shutil.copy(away, shelf.files[5])
    shelf.index()
    row = next(r for r in shelf.store.rows(["hash", "tags"]).to_pylist() if r["hash"] == hash)
    assert row["tags"] == ["mine"] and shelf.net.seen == 24 and shelf.whole()


def test_a_touched_file_costs_no_computing(shelf):
    os.utime(shelf.files[0], ns=(1, 1))
    assert shelf.index() == "24 unchanged" and shelf.net.seen == 24
    assert shelf.whole()


def test_a_second_net_adds_a_column_and_the_first_stays_until_it_is_done(shelf, monkeypatch):
    monkeypatch.setattr(index_run, "_BATCH", 4)
    second = Tiny("second")
    calls = iter([False, False, True])
    shelf.index(net=second, model="second", stop=lambda: next(calls, True))
    assert shelf.store.model == "tiny" and len(shelf.store.vectors("tiny")[0]) == 24
    assert shelf.index(net=second, model="second") == "24 unchanged"
    assert shelf.store.model == "second" and second.seen == 24
    assert set(shelf.store.models()) == {"tiny", "second"}
    query = np.asarray(shelf.store.vectors("tiny")[1][3], np.float32)
    assert shelf.store.nearest("tiny", query, 1)[0][0, 0] == shelf.store.vectors("tiny")[0][3]


def test_a_second_net_for_some_folders_is_not_searched_with(shelf):
    report = index(shelf.store, [shelf.folder / "a"], Tiny("second"), model="second")
    assert shelf.store.model == "tiny"
    assert any("12 pictures of other folders have no vectors of second" in note for note in report.notes)


def test_a_folder_inside_an_indexed_one_changes_no_label(shelf):
    fill(shelf.folder, 2, start=30)
    index(shelf.store, [shelf.folder / "b"], shelf.net)
    assert shelf.index() == "1 new, 25 unchanged"
    rows = shelf.store.rows(["labels", "folder"]).to_pylist()
    assert all(row["labels"] == [row["folder"]] for row in rows) and shelf.store.folders == ["."]


def test_other_folders_are_left_alone(shelf, tmp_path):
    fill(tmp_path / "more", 4, start=70)
    assert str(index(shelf.store, [tmp_path / "more"], shelf.net)).startswith("4 new in")
    assert len(shelf.store) == 28
    shutil.rmtree(tmp_path / "more")
    with pytest.raises(UsageError, match=r"expected a folder of pictures.*nothing was changed; if it is on another"):
        index(shelf.store, (), shelf.net)
    assert len(shelf.store) == 28 and shelf.index() == "24 unchanged"


def test_the_library_can_be_moved_with_its_pictures(shelf, tmp_path):
    shutil.move(shelf.folder, tmp_path / "other")
    moved = Store.open(tmp_path / "other")
    net = Tiny()
    assert str(index(moved, (), net)).startswith("24 unchanged") and net.seen == 0
    assert moved.path_of(paths_of(moved)[0]).is_file()
    assert verify(moved, deep=True) == []


def test_a_library_elsewhere_can_be_moved(tmp_path):
    fill(tmp_path / "pictures", 6)
    index(Store.create(tmp_path / "lib"), [tmp_path / "pictures"], Tiny())
    (tmp_path / "new place").mkdir()
    shutil.move(tmp_path / "lib", tmp_path / "new place" / "lib")
    moved = Store.open(tmp_path / "new place" / "lib")
    assert str(index(moved, (), Tiny())).startswith("6 unchanged") and verify(moved, deep=True) == []


def test_stopping_saves_what_was_computed(shelf, monkeypatch):
    monkeypatch.setattr(index_run, "_BATCH", 4)
    fill(shelf.folder, 20, start=100)
    calls = iter([False, False, True])
    report = index(shelf.store, [shelf.folder], shelf.net, stop=lambda: next(calls))
    assert report.interrupted and report.new == 12 and len(shelf.store) == 36
    assert shelf.index() == "8 new, 36 unchanged" and shelf.net.seen == 44 and shelf.whole()


class Beside(Tiny):
    """A net that several threads may use at once; it is not used by one alone."""

    concurrent = True

    def __init__(self, fail_at: int = 10**9) -> None:
        super().__init__()
        self.fail_at, self.threads = fail_at, set[int]()

    def beside_others(self, pictures):
        self.threads.add(threading.get_ident())
        time.sleep(0.02)
        found = self.embed(pictures)
        if self.seen > self.fail_at:
            raise MemoryError("no more")
        return found


def test_a_net_that_threads_share(tmp_path, monkeypatch):
    monkeypatch.setattr("neocog.library.index_run._BATCH", 4)
    fill(tmp_path / "p", 50)
    plain, shared = Store.create(tmp_path / "plain"), Store.create(tmp_path / "shared")
    index(plain, [tmp_path / "p"], Tiny())
    net = Beside()
    assert index(shared, [tmp_path / "p"], net, threads=3).computed == 50
    assert len(net.threads) > 1 and threading.get_ident() not in net.threads
    assert verify(shared, deep=True) == []
    for kind in ("vectors", "probabilities"):
        for a, b in zip(getattr(plain, kind)("tiny"), getattr(shared, kind)("tiny"), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_net_that_fails_in_a_thread(tmp_path, monkeypatch):
    monkeypatch.setattr("neocog.library.index_run._BATCH", 4)
    fill(tmp_path / "p", 40)
    store = Store.create(tmp_path / "lib")
    with pytest.raises(MemoryError, match="no more"):
        index(store, [tmp_path / "p"], Beside(fail_at=20), threads=2)
    assert index(store, [tmp_path / "p"], Tiny()).unreadable == 0
    assert len(store) == 40 and verify(store, deep=True) == []


def test_an_interrupt_saves_what_was_computed(shelf, monkeypatch):
    monkeypatch.setattr(index_run, "_BATCH", 4)
    fill(shelf.folder, 20, start=100)
    count = iter(range(100))

    def interrupt(done: int, total: int) -> None:
        if next(count) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index(shelf.store, [shelf.folder], shelf.net, progress=interrupt)
    assert len(shelf.store) == 36
    assert shelf.index() == "8 new, 36 unchanged" and shelf.whole()


# what cannot be read


def test_unreadable_files_are_listed_with_reasons_and_tried_again_when_they_change(shelf):
    bad = shelf.folder / "a" / "bad.jpg"
    bad.write_bytes(shelf.files[1].read_bytes()[:200])
    (shelf.folder / "a" / "empty.png").write_bytes(b"")
    (shelf.folder / "a" / "text.jpg").write_text("not a picture")
    (shelf.folder / "a" / "nowhere.jpg").symlink_to("/nowhere/at/all.jpg")
    assert shelf.index() == "24 unchanged, 4 unreadable"
    assert [(p.key, p.reason.split(" (")[0]) for p in problems(shelf.store)] == [
        ("a/bad.jpg", "truncated JPEG"), ("a/empty.png", "empty file"),
        ("a/nowhere.jpg", "link to nothing"), ("a/text.jpg", "not a picture: text"),
    ]  # fmt: skip
    assert shelf.index() == "27 unchanged"
    picture(77).save(bad)
    (shelf.folder / "a" / "empty.png").unlink()
    assert shelf.index() == "1 new, 25 unchanged"
    assert [p.key for p in problems(shelf.store)] == ["a/nowhere.jpg", "a/text.jpg"]


def test_a_picture_that_becomes_unreadable_is_no_hit_any_more(shelf):
    shelf.files[0].write_bytes(b"scribbled over")
    assert shelf.index() == "23 unchanged, 1 unreadable" and len(shelf.store) == 23
    assert shelf.whole()


def test_a_file_that_may_not_be_read_is_tried_again(shelf, monkeypatch):
    """Its time does not change when the right to read it comes."""
    (shelf.folder / "a" / "secret.jpg").write_bytes(b"")
    picture(78).save(shelf.folder / "a" / "secret.jpg")
    read = index_run.read_steady

    def refuse(path):
        if path.endswith("secret.jpg"):
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(index_run, "read_steady", refuse)
    assert shelf.index() == "24 unchanged, 1 unreadable"
    assert shelf.index() == "24 unchanged"
    monkeypatch.undo()
    assert shelf.index() == "1 new, 24 unchanged" and shelf.whole()


def test_a_failing_disk_takes_no_picture_out_of_the_library(shelf, monkeypatch):
    def fail(path):
        raise OSError(5, "Input/output error")

    for path in shelf.files[:3]:
        os.utime(path, ns=(1, 1))
    monkeypatch.setattr(index_run, "read_steady", fail)
    assert shelf.index() == "21 unchanged, 3 unreadable" and len(shelf.store) == 24
    monkeypatch.undo()
    assert shelf.index() == "24 unchanged" and problems(shelf.store) == [] and shelf.whole()


def test_a_file_that_changes_while_it_is_read(shelf, monkeypatch):
    """What is stored is the hash of the bytes that were seen; a file that never rests is tried again next time."""
    restless = shelf.folder / "a" / "restless.jpg"
    picture(79).save(restless)
    read = os.fstat
    changes = {"left": 2}

    def grow(number):
        status = read(number)
        if changes["left"] and status.st_size and os.readlink(f"/proc/self/fd/{number}").endswith("restless.jpg"):
            changes["left"] -= 1
            picture(80 + changes["left"]).save(restless)
        return status

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fstat", grow)
    assert shelf.index() == "1 new, 24 unchanged"
    changes["left"] = 1000
    os.utime(restless, ns=(1, 1))
    assert shelf.index() == "24 unchanged, 1 unreadable"
    assert "changed while it was read" in problems(shelf.store)[0].reason
    monkeypatch.undo()
    shelf.index()
    assert problems(shelf.store) == [] and shelf.whole()


def test_names_with_anything_in_them(tmp_path):
    folder = tmp_path / "pictures" / "b"
    folder.mkdir(parents=True)
    odd = [b"line\nbreak.jpg", b"quote'\".jpg", b"\xff\xfe not utf-8.jpg", b"semi;--.jpg", b"{brace}%s.jpg",
           b"caf\xc3\xa9.jpg", b"cafe\xcc\x81.jpg", b"dle\x10ff.jpg", b" space .jpg", b"back\\slash.jpg",
           "絵😀.jpg".encode(), b"A" * 240 + b".jpg"]  # fmt: skip
    written = {}
    for number, name in enumerate(odd):
        data = picture_bytes(number)
        (folder / os.fsdecode(name)).write_bytes(data)
        written[content_hash(data)] = os.path.join(os.fsencode(folder), name)
    (folder / os.fsdecode(b"bad \xff'\n.jpg")).write_bytes(b"x")
    store = Store.create(tmp_path / "pictures" / ".neocog")
    report = index(store, [tmp_path / "pictures"], Tiny())
    assert (report.new, report.unreadable) == (len(odd), 1)
    rows = store.rows(["hash", "paths"]).to_pylist()
    assert {row["hash"]: os.fsencode(store.path_of(row["paths"][0])) for row in rows} == written
    assert os.fsencode(problems(store)[0].key) == b"b/bad \xff'\n.jpg"
    assert str(index(store, (), Tiny())).startswith("13 unchanged")
    assert verify(store, deep=True) == []


def picture_bytes(number: int) -> bytes:
    import io

    out = io.BytesIO()
    picture(number).save(out, "JPEG")
    return out.getvalue()


def fuzzed(folder: Path, count: int) -> None:
    """Write damaged JPEG, PNG, GIF, WebP, TIFF and BMP files: bytes flipped, cut out, doubled or cut off."""
    import io

    rng = random.Random(0)
    folder.mkdir(parents=True)
    for number in range(count):
        kind = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")[number % 6]
        out = io.BytesIO()
        picture(number, 32).save(out, kind)
        data = bytearray(out.getvalue())
        for _ in range(rng.randint(1, 12)):
            at = rng.randrange(len(data))
            what = rng.randrange(4)
            if what == 0:
                data[at] = rng.randrange(256)
            elif what == 1:
                del data[at : at + rng.randint(1, 40)]
            elif what == 2:
                data[at:at] = data[at : at + rng.randint(1, 40)]
            elif number % 3 == 0 and at > 16:
                del data[at:]
            data = data or bytearray(b"x")
        (folder / f"{number:04}.{kind.lower() if kind != 'JPEG' else 'jpg'}").write_bytes(data)


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_files_never_stop_a_run(tmp_path, count):
    fuzzed(tmp_path / "p" / "b", count)
    store = Store.create(tmp_path / "p" / ".neocog")
    report = index(store, [tmp_path / "p"], Tiny())
    assert report.new + report.copies + report.unreadable == count and report.unreadable > count / 6
    assert len(problems(store)) == report.unreadable and all(p.reason for p in problems(store))
    assert verify(store, deep=True) == []
    again = index(store, (), Tiny())
    assert again.unchanged == count and not again.touched


def test_a_folder_that_cannot_be_listed_loses_nothing(shelf, monkeypatch):
    real = os.scandir

    def refuse(path):
        if os.fspath(path) in (str(shelf.folder / "b"), closed):
            raise PermissionError(13, "Permission denied")
        return real(path)

    closed = ""
    monkeypatch.setattr(os, "scandir", refuse)
    assert shelf.index() == "12 unchanged, 1 unreadable" and len(shelf.store) == 24
    assert problems(shelf.store)[0].reason == "folder cannot be listed: Permission denied"
    closed = str(shelf.folder)
    assert shelf.index() == "1 unreadable" and len(shelf.store) == 24
    monkeypatch.undo()
    assert shelf.index() == "24 unchanged" and problems(shelf.store) == [] and shelf.whole()


def test_links_hidden_files_and_other_libraries(shelf, tmp_path):
    fill(tmp_path / "other", 2, start=40)
    Store.create(tmp_path / "other" / "lib")
    fill(tmp_path / "other" / "lib", 2, start=50)  # nobody's pictures
    (shelf.folder / "b" / "loop").symlink_to(shelf.folder)
    (shelf.folder / "b" / "away").symlink_to(tmp_path / "other")
    (shelf.folder / "b" / "self.jpg").symlink_to(shelf.folder / "b" / "self.jpg")
    (shelf.folder / "b" / "link.jpg").symlink_to(shelf.files[1])
    fill(shelf.folder / ".hidden", 2, start=60)
    picture(70).save(shelf.folder / "b" / "._ghost.jpg")
    (shelf.folder / "b" / "notes.txt").write_text("no picture by its name")
    assert shelf.index() == "2 new, 24 unchanged, 1 unreadable"
    assert [one.key for one in problems(shelf.store)] == ["b/self.jpg"]


# interrupted, in each other's way, and without room


@pytest.fixture(scope="module")
def starts():
    """Start a run of indexing in a process that has LanceDB imported; what it says is its output."""
    server = Ready(("lancedb", "library.tiny", "neocog.library.indexing"), "default")

    def start(store: Path, folder: Path, *, rows: int = 16, wait: float = 0, limit: int = 0) -> Child:
        return server.start(WORKER, folder.parent, store, folder, rows, wait, limit)

    yield start
    server.close()


def end(process: Child) -> str:
    process.wait()
    assert process.stderr == ""
    return process.stdout.strip()


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_anywhere_it_continues(tmp_path, starts, kills):
    """Between the kills files come, change, move and go, too."""
    rng = random.Random(kills)
    shelf = Shelf(tmp_path / "pictures", 40)
    shutil.rmtree(shelf.folder / ".neocog")  # the first run makes it
    for number in range(kills):
        fill(shelf.folder, 40, start=1000 * (number + 1))
        run = starts(shelf.folder / ".neocog", shelf.folder, rows=8)
        time.sleep(rng.uniform(0, 0.6))
        run.kill()
        run.wait()
        if (shelf.folder / ".neocog" / "library.json").exists():
            damage = [str(one) for one in verify(Store.open(shelf.folder)) if one.damage]
            assert damage == [], f"after kill {number}"
        files = sorted(p for p in shelf.folder.rglob("*.*") if p.is_file() and p.parent.name in "ab")
        one, two, three = rng.sample(files, 3)
        one.unlink()
        two.rename(shelf.folder / "a" / f"moved{number}{two.suffix}")
        picture(10**6 + number).save(three)
    assert "in " in end(starts(shelf.folder / ".neocog", shelf.folder, rows=8))
    shelf.store = Store.open(shelf.folder)
    assert shelf.index(net=Tiny()).endswith("unchanged") and shelf.whole()


def test_two_processes_at_once(tmp_path, starts):
    fill(tmp_path / "pictures", 60)
    running = [starts(tmp_path / "lib", tmp_path / "pictures", wait=60) for _ in range(2)]
    said = sorted(end(process).split(" in ")[0] for process in running)
    assert said == ["60 new", "60 unchanged"]
    store = Store.open(tmp_path / "lib")
    assert len(store) == 60 and verify(store, deep=True) == []


def test_somebody_else_is_named(shelf):
    with shelf.store.indexing(), pytest.raises(LibraryBusy, match=f"process {os.getpid()} on .* is indexing it; wait"):
        shelf.index()


def test_tagging_while_indexing(shelf, monkeypatch):
    """Another writer changes rows between the commits of a run; both changes stay."""
    import pyarrow as pa

    monkeypatch.setattr(index_run, "COMMIT_ROWS", 4)
    monkeypatch.setattr(index_run, "_BATCH", 4)
    fill(shelf.folder, 20, start=100)
    other, tagged = Store.open(shelf.folder), []

    def tag(done: int, total: int) -> None:
        hash = other.rows(["hash"]).column("hash")[len(tagged)].as_py()
        other.merge(pa.table({"hash": [hash], "tags": [["t"]]}))
        tagged.append(hash)

    shelf.index(progress=tag)
    rows = shelf.store.rows(["hash", "tags"]).to_pylist()
    assert {row["hash"] for row in rows if row["tags"]} == set(tagged) and len(set(tagged)) >= 1
    assert len(rows) == 44 and shelf.whole()


def test_a_limit_on_file_sizes_is_reported_and_leaves_a_valid_library(tmp_path, starts):
    """A quota that the system enforces: EFBIG in the middle of LanceDB's own writing."""
    pytest.importorskip("resource")
    shelf = Shelf(tmp_path / "pictures", 20)
    shelf.index()
    fill(shelf.folder, 300, start=1000)
    said = end(starts(shelf.folder / ".neocog", shelf.folder, rows=256, limit=30_000))
    assert said.startswith("LibraryError: the disk is full") and said.endswith("to continue")
    damage = [str(one) for one in verify(Store.open(shelf.folder)) if one.damage]
    assert damage == [] and len(shelf.store) >= 20
    shelf.index()
    assert len(shelf.store) == 320 and shelf.whole()


@contextmanager
def small_disk(place: Path, size: str):
    """A file system of that size; the test is skipped where mounting one is not allowed."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_is_reported_and_leaves_a_valid_library(tmp_path):
    with small_disk(tmp_path / "disk", "600k") as disk:
        shelf = Shelf(tmp_path / "pictures", 20)
        store = Store.create(disk / "lib")
        index(store, [shelf.folder], Tiny())
        saved = 20
        for turn in range(1, 40):
            # room is taken away until indexing meets its end, the last of it as well
            with contextlib.suppress(OSError), open(disk / "ballast", "ab", 0) as out:
                out.write(b"0" * 20_000)
            fill(shelf.folder, 30, start=turn * 1000)
            try:
                index(store, [shelf.folder], Tiny())
                saved = len(store)
            except (LibraryError, OSError) as error:
                assert isinstance(error, LibraryError) and "the disk is full" in str(error)
                assert str(error).endswith("to continue")
                break
        else:
            raise AssertionError("the disk never became full")
        assert [str(one) for one in verify(Store.open(store.folder)) if one.damage] == []
        assert len(Store.open(store.folder)) >= saved
        (disk / "ballast").unlink()
        assert len(shelf.files) < saved and index(store, (), Tiny()).seconds
        assert len(store) == len(list(shelf.folder.glob("[ab]/*"))) and verify(store, deep=True) == []


class Rationed:
    """Stands for the disk: the n-th call that writes, of LanceDB or our own, finds it full; those after it do not."""

    def __init__(self, patch: pytest.MonkeyPatch, calls: int) -> None:
        self.left = calls
        table_of, write = Store._table, card.write_json
        patch.setattr(Store, "_table", lambda store, name: RationedTable(table_of(store, name), self))
        patch.setattr(card, "write_json", lambda path, value: (self.spend(), write(path, value)))

    def spend(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise OSError(28, "No space left on device")


class RationedTable:
    def __init__(self, table, disk: Rationed) -> None:
        self.table, self.disk = table, disk

    def __getattr__(self, name):
        if name in ("merge_insert", "delete", "add", "optimize"):
            self.disk.spend()
        return getattr(self.table, name)


def test_a_disk_that_is_full_at_any_point(tmp_path, monkeypatch):
    failures = 0
    for point in range(1, 40):
        shelf = Shelf(tmp_path / str(point), 8)
        with monkeypatch.context() as patch:
            disk = Rationed(patch, point)
            patch.setattr(index_run, "COMMIT_ROWS", 4)
            patch.setattr(index_run, "_BATCH", 4)
            try:
                shelf.index()
            except LibraryError as error:
                assert "the disk is full" in str(error)
                failures += 1
        assert [str(one) for one in verify(shelf.store) if one.damage] == []
        shelf.store = Store.open(shelf.folder)
        shelf.index()
        assert shelf.whole()
        if disk.left > 0:
            break
    assert failures >= 5


def test_a_library_that_may_not_be_written_is_searched_and_says_so(shelf, monkeypatch):
    """Rights do not bind root, so the system's refusal is played: every file that is opened for writing."""
    fill(shelf.folder, 2, start=50)
    real = os.open

    def refuse(path, flags, *more, **options):
        if flags & (os.O_WRONLY | os.O_RDWR) and ".neocog" in os.fspath(path):
            raise OSError(30, "Read-only file system")
        return real(path, flags, *more, **options)

    shutil.rmtree(shelf.folder / ".neocog" / "cache")
    monkeypatch.setattr(os, "open", refuse)
    store = Store.open(shelf.folder)
    with pytest.raises(LibraryError, match=r"cannot be written .Read-only file system.: you can search"):
        index(store, [shelf.folder], shelf.net)
    assert len(store) == 24
    assert len(store.nearest("tiny", store.vectors("tiny")[1][:1].astype(np.float32), 5)[0][0]) == 5


def test_a_library_on_a_read_only_disk(tmp_path):
    shelf = Shelf(tmp_path / "pictures", 12)
    index(Store.create(tmp_path / "lib"), [shelf.folder], Tiny())
    with small_disk(tmp_path / "disk", "4m") as disk:
        shutil.copytree(tmp_path / "lib", disk / "lib", ignore=shutil.ignore_patterns("cache"))
        if subprocess.run(["mount", "-o", "remount,ro", disk], capture_output=True).returncode:
            pytest.skip("remounting is not allowed here")
        store = Store.open(disk / "lib")
        assert store.read_only and len(store) == 12 and not verify(store, deep=True)
        assert store.nearest("tiny", store.vectors("tiny")[1][:1].astype(np.float32), 3)[0].shape == (1, 3)
        assert store.rows(["paths"]).num_rows == 12 and not (disk / "lib" / "cache").exists()
        fill(shelf.folder, 1, start=99)
        with pytest.raises(LibraryError, match="cannot be written"):
            index(store, (), Tiny())
        with pytest.raises(LibraryError, match="cannot be written"):
            store.save("taught", [])


# the net


def test_the_net_is_made_only_when_it_is_needed(shelf):
    def never(amount: int):
        raise AssertionError("nothing is to be computed")

    os.utime(shelf.files[0], ns=(1, 1))
    shelf.files[1].rename(shelf.folder / "a" / "x.jpg")
    assert shelf.index(net=never) == "1 moved, 23 unchanged"
    asked = []
    fill(shelf.folder, 3, start=40)
    index(shelf.store, (), lambda amount: asked.append(amount) or shelf.net)
    assert asked == [3]


def test_another_net_than_the_one_named_is_refused(shelf):
    fill(shelf.folder, 1, start=40)
    with pytest.raises(LibraryError, match="expected the net 'tiny', got 'other'; have its weights changed"):
        index(shelf.store, (), lambda amount: Tiny("other"))
    wrong = Tiny()
    wrong.dimension = 5
    with pytest.raises(LibraryError, match=r"another model 'tiny' .dimension differ; 12 numbers"):
        index(shelf.store, (), wrong)
    assert len(shelf.store) == 24 and shelf.index() == "1 new, 24 unchanged"


def test_a_zero_vector_is_kept(shelf):
    class Blank(Tiny):
        def embed(self, pictures):
            vectors, chances = super().embed(pictures)
            return vectors * 0, chances

    fill(shelf.folder, 1, start=60)
    assert shelf.index(net=Blank()) == "1 new, 24 unchanged"
    assert np.isfinite(shelf.store.vectors("tiny")[1]).all() and len(shelf.store.vectors("tiny")[0]) == 25


def test_thousands_of_unchanged_files(tmp_path):
    """All of one content; the row is large."""
    shelf = Shelf(tmp_path / "pictures", 1)
    data = shelf.files[0].read_bytes()
    for number in range(2_000):
        (shelf.folder / "a" / f"l{number}.png").write_bytes(data)
    shelf.index()
    assert shelf.index() == "2,001 unchanged"


def test_looking_through_unchanged_files_loads_no_net(shelf, python):
    code = (
        "import sys; from neocog.library.store import Store; from neocog.library.indexing import index\n"
        f"print(str(index(Store.open({str(shelf.folder)!r}))).split(' in ')[0])\n"
        "print([m for m in ('torch', 'lancedb') if m in sys.modules])"
    )
    assert python("-c", code).stdout.splitlines() == ["24 unchanged", "[]"]


def test_the_usual_net(tmp_path, weights_folder, monkeypatch):
    """Nobody chose one: the best at hand, which is told; later the one that the library has, made from its card."""
    monkeypatch.setenv("NEOCOG_WEIGHTS", str(weights_folder))
    fill(tmp_path / "p", 3)
    store, said = Store.create(tmp_path / "lib"), []
    assert index(store, [tmp_path / "p"], say=said.append).computed == 3
    assert said[0].startswith("net: ") and store.model in store.models()
    fill(tmp_path / "p", 1, start=9)
    assert index(store).computed == 1 and len(said) == 1
    assert store.vectors(store.model)[1].shape == (4, store.models()[store.model]["dimension"])


# following a folder


def test_watching(shelf):
    reports = watch(shelf.store, [shelf.folder], shelf.net, interval=0.05)
    assert next(reports).unchanged == 24
    fill(shelf.folder, 2, start=24)
    assert next(reports).new == 2
    shelf.files[0].unlink()
    assert next(reports).gone == 1
    assert shelf.whole()


def test_watching_waits_for_others_and_for_folders_that_are_away(shelf, tmp_path):
    said: list[str] = []
    steps = iter(range(1000))
    lock = shelf.store.indexing()

    def stop() -> bool:
        step = next(steps)
        if step == 3:
            lock.__enter__()
        if step == 12:
            lock.__exit__(None, None, None)
            shelf.folder.joinpath("b").rename(tmp_path / "aside")
        if step == 24:
            (tmp_path / "aside").rename(shelf.folder / "b")
        return step > 60

    store = Store.create(tmp_path / "lib")
    index(store, [shelf.folder / "b"], shelf.net)
    shelf.store = store
    lock = store.indexing()
    list(watch(store, [shelf.folder / "b"], shelf.net, interval=0.02, stop=stop, say=said.append))
    assert any("is indexing it" in one for one in said) and any("expected a folder" in one for one in said)
    assert len(store) == 12


@pytest.mark.parametrize("background", [False, True])
def test_a_large_run_tidies_up_afterwards(shelf, monkeypatch, background):
    done: list[int] = []
    monkeypatch.setattr(index_run, "COMMIT_ROWS", 8)
    monkeypatch.setattr(Store, "tidy", lambda store, say=None: done.append(len(store)))
    fill(shelf.folder, 8, start=300)
    index(shelf.store, (), shelf.net, background=background)
    for _ in range(100):
        time.sleep(0 if done else 0.02)
    assert done == [32]


def test_a_failure_to_tidy_up_is_told_and_no_more(shelf, monkeypatch):
    def fail(store, say=None):
        raise LibraryError("the disk is full: somewhere")

    monkeypatch.setattr(index_run, "COMMIT_ROWS", 8)
    monkeypatch.setattr(Store, "tidy", fail)
    fill(shelf.folder, 8, start=300)
    assert "tidying up failed: the disk is full" in index(shelf.store, (), shelf.net).notes[0]
    assert shelf.whole()


def test_nothing_to_index_says_so(tmp_path):
    store = Store.create(tmp_path / "lib")
    with pytest.raises(UsageError, match="no folder to index: name one"):
        index(store, (), Tiny())
    with pytest.raises(UsageError, match="is none; nothing was changed"):
        index(store, [tmp_path / "nowhere"], Tiny())
    (tmp_path / "empty").mkdir()
    assert str(index(store, [tmp_path / "empty"], Tiny())).startswith("nothing found in")
