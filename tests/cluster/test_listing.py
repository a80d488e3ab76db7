"""Folders, shards and Parquet files as one list of pictures, and indexing what other processes found: without Ray."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from library.tiny import Tiny, fill, paths_of, picture

from neocog.cluster import worker
from neocog.cluster.session import scan_places
from neocog.data.places import members, read, read_place
from neocog.data.stores import Item, address, files_below, is_elsewhere
from neocog.errors import DataError, UsageError
from neocog.library.indexing import index
from neocog.library.searching import search
from neocog.library.store import Store


def encoded(number: int) -> bytes:
    out = io.BytesIO()
    picture(number).save(out, "PNG")
    return out.getvalue()


def shard(path: Path, numbers: range) -> Path:
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            for name, data in ((f"cat/{number}.png", encoded(number)), (f"cat/{number}.cls", b"3")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def table(path: Path, numbers: range) -> Path:
    rows = {"text": ["a"] * len(numbers), "image": [{"bytes": encoded(n), "path": None} for n in numbers]}
    pq.write_table(pa.table(rows), path, row_group_size=3)
    return path


class Here:
    """Stands for a cluster: the same work in this process, in batches of four, each given twice."""

    commit_rows, commit_seconds = 8, 1e9

    def __init__(self, fails_after: int = 10**9) -> None:
        self.see = worker.seeing(lambda folder: Tiny(), None, 1)
        self.left, self.done = fails_after, 0

    def scan(self, roots, store, exclude):
        def look_into(containers):
            return ((one, members(one)) for one in containers)

        return scan_places(roots, store.text_of, str(store.folder), exclude, look_into)

    def photos(self, items, card):
        for start in range(0, len(items), 4):
            if self.left <= 0:
                raise ConnectionError("the cluster is gone")
            self.left -= 1
            some = [(path, found, None) for path, found in items[start : start + 4]]
            self.done += len(some)
            yield self.see(some)
            yield self.see(some)


@pytest.fixture
def mixed(tmp_path) -> Path:
    """Twelve files, five members and seven rows, below one folder; a file and a member that cannot be read."""
    folder = tmp_path / "p"
    fill(folder, 12)
    (folder / "bad.jpg").write_text("no picture")
    shard(folder / "s.tar", range(100, 105))
    table(folder / "t.parquet", range(200, 207))
    return folder


def test_places(mixed):
    found, problems = members(Item(str(mixed / "s.tar"), 0, 1))
    assert [place for place, _ in found] == [f"{mixed}/s.tar/cat/{n}.png" for n in range(100, 105)] and not problems
    assert read(found[2][1]) == read_place(found[2][0]) == encoded(102)
    found, _ = members(Item(str(mixed / "t.parquet"), 0, 1))
    assert [one.part for _, one in found] == list(range(7))
    assert read(found[5][1]) == read_place(found[5][0]) == encoded(205)
    assert read_place(str(mixed / "bad.jpg")) == b"no picture"
    with pytest.raises(DataError, match="no member nothing"):
        read_place(f"{mixed}/s.tar/nothing")


def test_a_container_that_cannot_be_read_is_told(tmp_path):
    for name in ("a.tar", "a.parquet"):
        (tmp_path / name).write_bytes(b"no such thing" * 100)
        found, problems = members(Item(str(tmp_path / name), 0, 1))
        assert not found and problems[0][0] == str(tmp_path / name)


def test_a_store_of_fsspec(mixed):
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("a/1.png", "a/.hidden/2.png", "a/s.tar", "a/notes.txt"):
        memory.pipe(f"/{name}", (mixed / "s.tar").read_bytes() if name.endswith("tar") else encoded(1))
    names = [place for place, _ in files_below("memory://a")]
    assert names == ["memory://a/.hidden/2.png", "memory://a/1.png", "memory://a/notes.txt", "memory://a/s.tar"]
    made = scan_places(["memory://a"], str, "", (), lambda some: ((one, members(one)) for one in some))
    assert sorted(made.files) == ["memory://a/1.png", *(f"memory://a/s.tar/cat/{n}.png" for n in range(100, 105))]
    assert read_place("memory://a/s.tar/cat/103.png") == encoded(103) and read_place("memory://a/1.png") == encoded(1)
    with pytest.raises(UsageError, match="nothing at memory://b"):
        list(files_below("memory://b"))


def test_an_object_store(tmp_path, monkeypatch):
    """Folders, shards and Parquet files of a server that speaks S3."""
    moto = pytest.importorskip("moto.server", reason="pip install moto[s3] flask flask-cors, without constraints.txt")
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        settings = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
        for name, value in {**settings, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="photos")
        for number in range(5):
            client.put_object(Bucket="photos", Key=f"trip/a day/{number}.png", Body=encoded(number))
        for made in (shard(tmp_path / "s.tar", range(100, 105)), table(tmp_path / "t.parquet", range(200, 207))):
            client.upload_file(str(made), "photos", f"trip/{made.name}")
        store = Store.ensure(tmp_path / "lib")
        report = index(store, ["s3://photos/trip/"], Tiny(), elsewhere=Here())
        assert (report.new, report.unreadable) == (17, 0)
        assert {"s3://photos/trip/a day/3.png", "s3://photos/trip/s.tar/cat/103.png"} < set(paths_of(store))
        assert read_place("s3://photos/trip/s.tar/cat/103.png") == encoded(103)
        client.delete_object(Bucket="photos", Key="trip/a day/3.png")
        report = index(store, (), Tiny(), elsewhere=Here())
        assert (report.gone, report.unchanged, report.computed) == (1, 16, 0)
        with pytest.raises(UsageError, match="nothing at s3://photos/none"):
            index(store, ["s3://photos/none"], Tiny(), elsewhere=Here())
    finally:
        server.stop()


def test_what_is_elsewhere():
    assert is_elsewhere("s3://b/k.jpg") and is_elsewhere("/a/b.tar/1.jpg") and is_elsewhere("x.parquet")
    assert not is_elsewhere("/a/b.jpg") and not is_elsewhere("/a/b.target/1.jpg")
    assert address("s3://b/k/") == "s3://b/k" and address("/a/../b/") == "/b"


def test_files_members_and_rows_are_indexed_once(mixed):
    store = Store.ensure(mixed / ".neocog")
    report = index(store, [mixed], Tiny(), elsewhere=Here())
    assert (report.new, report.computed, report.unreadable, len(store)) == (24, 24, 1, 24)
    assert "s.tar/cat/102.png" in paths_of(store) and "t.parquet/6" in paths_of(store)
    labels = dict(
        zip(store.rows(["name"]).column(0).to_pylist(), store.rows(["labels"]).column(0).to_pylist(), strict=True)
    )
    assert labels["102.png"] == ["cat"] and labels["6"] == []
    again = Here()
    report = index(store, [mixed], Tiny(), elsewhere=again)
    assert (report.unchanged, report.computed, again.done) == (25, 0, 0)
    hit = next(one for one in search(store, "folder:s.tar", threshold=0.0).hits if one.path.endswith("102.png"))
    assert read_place(hit.path) == encoded(102)


def test_a_failure_loses_nothing_that_was_found_and_does_nothing_twice(mixed):
    store = Store.ensure(mixed / ".neocog")
    with pytest.raises(ConnectionError):
        index(store, [mixed], Tiny(), elsewhere=Here(fails_after=3))
    assert len(store) == 12 and store.unfinished
    rest = Here()
    report = index(store, [mixed], Tiny(), elsewhere=rest)
    assert (len(store), report.computed) == (24, 12) and rest.done == 13  # with the file that cannot be read
    hashes, vectors = store.vectors("tiny")
    assert len(set(hashes)) == len(vectors) == 24
    assert sum(len(batch) for batch in store.stored("vectors_tiny", ["hash"])) == 24


def test_indexing_without_a_cluster_leaves_stores_and_shards_alone(mixed):
    store = Store.ensure(mixed / ".neocog")
    index(store, [mixed], Tiny(), elsewhere=Here())
    report = index(store, [mixed], Tiny())
    assert report.gone == 0 and len(store) == 24
    (mixed / "s.tar").unlink()
    assert index(store, [mixed], Tiny(), elsewhere=Here()).gone == 5
    with pytest.raises(UsageError, match=r"neocog index .*t\.parquet --on local"):
        index(store, [mixed / "t.parquet"], Tiny())


def test_a_truncated_shard_keeps_what_was_known(mixed):
    store = Store.ensure(mixed / ".neocog")
    index(store, [mixed], Tiny(), elsewhere=Here())
    whole = (mixed / "s.tar").read_bytes()
    (mixed / "s.tar").write_bytes(whole[:3000])
    index(store, [mixed], Tiny(), elsewhere=Here())
    assert len(store) == 24
    assert any(row["path"] == "s.tar" and "truncated" in row["reason"] for row in store.problems().to_pylist())


def test_the_same_pictures_in_two_stores_are_two_places(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    store = Store.ensure(tmp_path / "lib")
    for folder in ("one", "two"):
        memory.pipe(f"/{folder}/1.png", encoded(1))
        index(store, [f"memory://{folder}"], Tiny(), elsewhere=Here())
    assert paths_of(store) == ["memory://one/1.png", "memory://two/1.png"] and len(store) == 1
    assert "neocog index memory://one --on local" in index(store, (), Tiny()).notes[0]


def test_workers_take_the_threads_that_they_were_given(python):
    code = "from neocog.cluster.worker import limit; limit(1); import torch; print(torch.get_num_threads())"
    assert python("-c", code, OMP_NUM_THREADS="4").stdout == "1\n"
