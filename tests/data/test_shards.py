import io
import json
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from neocog.data import open_source
from neocog.data.open import expand
from neocog.errors import DataError


def shard(path, members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def samples(first, count, label=lambda i: str(i % 2).encode()):
    out = {}
    for i in range(first, first + count):
        out[f"{i:04d}.jpg"] = b"picture %d" % i
        out[f"{i:04d}.cls"] = label(i)
    return out


def test_members_of_one_base_name_are_one_sample(tmp_path):
    facts = json.dumps({"label": "ignored", "caption": "from json"}).encode()
    path = shard(
        tmp_path / "s.tar",
        {
            "a/0001.jpg": b"one", "a/0001.cls": b"dog\n", "a/0001.txt": "ein Käfer".encode(),
            "a/0002.seg.png": b"two", "a/0002.json": json.dumps({"label": "cat", "caption": ["x", "y"]}).encode(),
            "b/0002.JPG": b"three", "b/0002.json": facts,
            "c.webp": b"four",
            "lonely.cls": b"dog",
        },
    )  # fmt: skip
    source = open_source(path)
    assert [source.key(i) for i in range(4)] == [
        "s.tar/a/0001.jpg", "s.tar/a/0002.seg.png", "s.tar/b/0002.JPG", "s.tar/c.webp",
    ]  # fmt: skip
    assert [source.read(i) for i in range(4)] == [b"one", b"two", b"three", b"four"]
    assert [source.sample(i).label for i in range(4)] == ["dog", "cat", "ignored", None]
    assert source.sample(0).captions == ("ein Käfer",) and source.sample(1).captions == ("x", "y")
    assert any("1 samples" in note for note in source.notes) and source.path(0) is None


def test_patterns_folders_and_splits_from_names(tmp_path):
    for i in range(3):
        shard(tmp_path / f"train-{i:03d}.tar", samples(10 * i, 4))
    shard(tmp_path / "val-000.tar", samples(90, 2))
    folder = open_source(tmp_path)
    assert len(folder) == 14 and np.bincount(folder.splits).tolist() == [12, 2] and folder.classes == ("0", "1")
    assert folder.key(0) == "train-000.tar/0000.jpg"
    braces = open_source(f"{tmp_path}/train-{{000..002}}.tar")
    assert len(braces) == 12 and braces.read(4) == b"picture 10"
    assert len(open_source(f"{tmp_path}/*-000.tar")) == 6
    assert len(open_source(f"{tmp_path}/{{train,val}}-000.tar")) == 6
    with pytest.raises(DataError, match=r"1 of the files do not exist, the first is .*train-003.tar"):
        open_source(f"{tmp_path}/train-{{000..003}}.tar")
    assert expand(f"{tmp_path}/nothing-{{0..3}}.tar") == []


def test_numbers_get_names_from_the_call_or_a_file_beside(tmp_path):
    path = shard(tmp_path / "x.tar", samples(0, 4))
    assert open_source(path, classes=["even", "odd"]).sample(1).label == "odd"
    (tmp_path / "classes.txt").write_text("zero\none\n")
    source = open_source(path)
    assert source.classes == ("zero", "one") and any("classes.txt" in note for note in source.notes)


def test_several_labels_in_json(tmp_path):
    path = shard(tmp_path / "x.tar", {"1.png": b"p", "1.json": json.dumps({"labels": ["a", "b"]}).encode()})
    assert open_source(path).sample(0).labels == ("a", "b")


def test_random_access_from_threads_and_other_processes(tmp_path):
    for i in range(3):
        shard(tmp_path / f"{i}.tar", samples(50 * i, 50))
    source = open_source(tmp_path)
    order = np.random.default_rng(0).permutation(150)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda i: source.read(int(i)), order)) == [b"picture %d" % i for i in order]
    again = pickle.loads(pickle.dumps(source))
    assert again.read(149) == b"picture 149" and again.fingerprint() == source.fingerprint()


@pytest.mark.parametrize("cut", ["in a picture", "in a header", "end mark"])
def test_a_truncated_shard_gives_what_is_readable_and_a_problem(tmp_path, cut):
    path = shard(tmp_path / "x.tar", {f"{i}.jpg": bytes([i]) * 3000 for i in range(1, 5)})
    data = path.read_bytes()
    one = 512 + 3072  # header, and 3000 bytes in whole blocks
    keep = {"in a picture": 2 * one + 512 + 100, "in a header": 2 * one + 100, "end mark": 2 * one}[cut]
    path.write_bytes(data[:keep])
    source = open_source(path)
    assert [source.read(i) for i in range(len(source))] == [b"\1" * 3000, b"\2" * 3000]
    assert len(source.problems) == 1 and "truncated" in source.problems[0].reason
    assert source.problems[0].key.startswith("x.tar")


def test_compressed_empty_and_foreign_files_are_explained(tmp_path):
    shard(tmp_path / "packed.tar", samples(0, 1), mode="w:gz")
    with pytest.raises(DataError, match=r"compressed tar.*unpack it"):
        open_source(tmp_path / "packed.tar")
    (tmp_path / "empty.tar").write_bytes(b"")
    with pytest.raises(DataError, match="empty file"):
        open_source(tmp_path / "empty.tar")
    (tmp_path / "text.tar").write_bytes(b"hello" * 500)
    shard(tmp_path / "good.tar", samples(0, 2))
    source = open_source(tmp_path)
    assert len(source) == 2 and {p.key for p in source.problems} == {"packed.tar", "empty.tar", "text.tar"}


def test_long_and_strange_member_names(tmp_path):
    long = "d" * 150 + "/" + "n" * 120 + ".jpg"
    path = shard(tmp_path / "x.tar", {long: b"long", "ü ö.png": b"umlaut", "./dot/1.jpg": b"dot"})
    source = open_source(path)
    assert [source.read(i) for i in range(3)] == [b"long", b"umlaut", b"dot"]
    assert source.key(0) == f"x.tar/{long}" and len({source.key(i) for i in range(3)}) == 3


def test_a_shard_cut_after_opening_is_a_data_error(tmp_path):
    path = shard(tmp_path / "x.tar", {"1.jpg": b"1" * 2000})
    source = open_source(path)
    with open(path, "r+b") as file:
        file.truncate(600)
    with pytest.raises(DataError, match="has become shorter"):
        source.read(0)
