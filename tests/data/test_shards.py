import io
import json
import os
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
            "a/0002.rgb.png": b"two", "a/0002.json": json.dumps({"label": "cat", "caption": ["x", "y"]}).encode(),
            "b/0002.JPG": b"three", "b/0002.json": facts,
            "c.webp": b"four",
            "lonely.cls": b"dog",
        },
    )  # fmt: skip
    source = open_source(path)
    assert [source.key(i) for i in range(4)] == [
        "s.tar/a/0001.jpg", "s.tar/a/0002.rgb.png", "s.tar/b/0002.JPG", "s.tar/c.webp",
    ]  # fmt: skip
    assert [source.read(i) for i in range(4)] == [b"one", b"two", b"three", b"four"]
    assert [source.sample(i).label for i in range(4)] == ["dog", "cat", "ignored", None]
    assert source.sample(0).captions == ("ein Käfer",) and source.sample(1).captions == ("x", "y")
    assert any("1 samples" in note for note in source.notes) and source.path(0) is None


def test_a_picture_of_several_has_the_label_of_its_own_number(tmp_path):
    members = {"pic.0.png": b"zero", "pic.0.cls": b"dog", "pic.1.png": b"one", "pic.1.cls": b"cat"}
    members |= {"pic.1.txt": b"a cat", "more.0.png": b"two", "more.1.png": b"three", "more.cls": b"cow"}
    source = open_source(shard(tmp_path / "s.tar", members))
    assert [source.read(i) for i in range(4)] == [b"zero", b"one", b"two", b"three"]
    assert [source.sample(i).label for i in range(4)] == ["dog", "cat", "cow", "cow"]
    assert [source.sample(i).captions for i in range(2)] == [(), ("a cat",)]
    assert not source.notes and not source.problems


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


def listed(source):
    return {source.key(i).partition("/")[2]: (source.read(i), source.sample(i).label) for i in range(len(source))}


def raw(members):
    """The members one after the other, also where a name comes twice."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("order", ["one by one", "pictures first", "labels first"])
def test_members_of_a_sample_need_not_be_adjacent(tmp_path, order):
    pairs = [[(f"{i}.jpg", b"%d" % i), (f"{i}.cls", b"even" if i % 2 == 0 else b"odd")] for i in range(6)]
    pictures, labels = zip(*pairs, strict=True)
    members = {"one by one": [one for pair in pairs for one in pair], "pictures first": [*pictures, *labels]}.get(
        order, [*labels, *pictures]
    )
    (tmp_path / "x.tar").write_bytes(raw(members))
    assert listed(open_source(tmp_path / "x.tar")) == {
        f"{i}.jpg": (b"%d" % i, "even" if i % 2 == 0 else "odd") for i in range(6)
    }


def test_a_name_that_comes_again_is_a_sample_of_its_own(tmp_path):
    members = [("0.jpg", b"a"), ("0.cls", b"cat"), ("1.jpg", b"b"), ("1.cls", b"cow")]
    members += [("0.jpg", b"c"), ("0.cls", b"dog"), ("0.cls", b"fox"), ("0.jpg", b"d")]
    (tmp_path / "x.tar").write_bytes(raw(members))
    source = open_source(tmp_path / "x.tar")
    assert listed(source) == {
        "0.jpg": (b"a", "cat"), "1.jpg": (b"b", "cow"), "0.jpg#2": (b"c", "dog"), "0.jpg#3": (b"d", "fox"),
    }  # fmt: skip
    assert any("2 samples with the name of an earlier one" in note for note in source.notes)


@pytest.mark.parametrize(
    ("members", "kept"),
    [
        (("0.png", "0.seg.png"), {"0.png"}),
        (("0.seg.png", "0.depth.png", "0.jpg"), {"0.jpg"}),
        (("0.input.jpg", "0.target.jpg"), {"0.input.jpg"}),
        (("0.jpg", "0.png"), {"0.jpg"}),  # two columns of one sample, not two pictures of a class
        (("tour.2019.jpg", "tour.2020.jpg"), {"tour.2019.jpg", "tour.2020.jpg"}),  # plain names with dots
    ],
)
def test_a_column_of_several_words_is_no_picture_of_the_class(tmp_path, members, kept):
    stem = members[0].split(".")[0]
    (tmp_path / "x.tar").write_bytes(raw([*((name, b"p") for name in members), (f"{stem}.cls", b"cat")]))
    source = open_source(tmp_path / "x.tar")
    assert listed(source) == {name: (b"p", "cat") for name in kept}
    assert any("not the input" in note for note in source.notes) == (len(kept) < len(members))


def test_only_other_pictures_are_no_sample(tmp_path):
    (tmp_path / "x.tar").write_bytes(raw([("0.seg.png", b"m"), ("1.png", b"p"), ("0.cls", b"cat")]))
    source = open_source(tmp_path / "x.tar")
    assert set(listed(source)) == {"1.png"} and any("1 samples" in note for note in source.notes)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda data, one: data[: 2 * one], "truncated: the shard ends at byte"),  # the last picture ends in zeros
        (lambda data, one: data[: 2 * one + 512 + 100], "truncated: the shard ends inside"),
        (lambda data, one: data[: 2 * one] + b"x" * 512 + data[2 * one + 512 :], "damaged: no header at byte"),
        (lambda data, one: data + data, "more data follow the end mark"),
    ],
)
def test_no_shard_opens_as_if_it_were_whole(tmp_path, harm, reason):
    data = raw([(f"{i}.jpg", b"p" + bytes(3071)) for i in range(4)])
    (tmp_path / "x.tar").write_bytes(harm(data, 512 + 3072))
    source = open_source(tmp_path / "x.tar")
    assert len(source) >= 2 and [p.reason for p in source.problems if p.reason.startswith(reason)]


def test_links_and_sparse_files_are_problems(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo("0.jpg")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"p"))
        link = tarfile.TarInfo("1.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "0.jpg"
        tar.addfile(link)
    source = open_source(tmp_path / "x.tar")
    assert (
        len(source) == 1
        and source.problems[0].key == "x.tar/1.jpg"
        and "a link to '0.jpg'" in source.problems[0].reason
    )


def test_without_pread_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "pread")
    shard(tmp_path / "x.tar", samples(0, 40))
    source = open_source(tmp_path / "x.tar")
    order = np.random.default_rng(0).permutation(40)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda i: source.read(int(i)), order)) == [b"picture %d" % i for i in order]
    assert [source.sample(i).label for i in range(4)] == ["0", "1", "0", "1"]
    shard(tmp_path / "packed.tar", samples(0, 1), mode="w:gz")
    with pytest.raises(DataError, match="compressed tar"):
        open_source(tmp_path / "packed.tar")


def test_labels_and_names_of_classes_that_are_not_utf8(tmp_path):
    members = [("0.jpg", b"p"), ("0.cls", b"caf\xe9"), ("1.jpg", b"p"), ("1.cls", b"caf\xe8"), ("1.txt", b"\xfcber")]
    (tmp_path / "x.tar").write_bytes(raw(members))
    source = open_source(tmp_path / "x.tar")
    assert source.classes == ("cafè", "café") and source.sample(1).captions == ("über",)
    (tmp_path / "y.tar").write_bytes(raw([("0.jpg", b"p"), ("0.cls", b"0")]))
    (tmp_path / "classes.txt").write_bytes("Käse\n".encode("utf-16"))
    assert open_source(tmp_path / "y.tar").classes == ("Käse",)
