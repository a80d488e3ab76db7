import gzip
import io
import os
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from neocog.data import named, open_source
from neocog.errors import DataError, FetchError, UsageError

DATA = os.environ.get("NEOCOG_DATA", "")


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """No data folder, an empty cache, no network."""
    monkeypatch.delenv("NEOCOG_DATA", raising=False)
    monkeypatch.setenv("NEOCOG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NEOCOG_OFFLINE", "1")
    return tmp_path / "cache"


def idx(array, packed=True):
    data = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    return gzip.compress(data) if packed else data


def mnist_files(folder, packed=True):
    folder.mkdir(parents=True)
    pictures = np.arange(7 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(7, 28, 28)
    labels = np.arange(7, dtype=np.uint8)
    end = ".gz" if packed else ""
    for stem, part in (("train", slice(0, 5)), ("t10k", slice(5, 7))):
        (folder / f"{stem}-images-idx3-ubyte{end}").write_bytes(idx(pictures[part], packed))
        (folder / f"{stem}-labels-idx1-ubyte{end}").write_bytes(idx(labels[part], packed))
    return pictures


def cifar_rows(count, first, label_bytes):
    rows = np.zeros((count, label_bytes + 3072), np.uint8)
    rows[:, label_bytes - 1] = (np.arange(count) + first) % 10
    rows[:, label_bytes : label_bytes + 1024] = 11
    rows[:, label_bytes + 1024 : label_bytes + 2048] = 22
    rows[:, label_bytes + 2048 :] = 33
    rows[:, label_bytes + 1] = 99  # red, row 0, column 1
    return rows.tobytes()


def archive(path, members):
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_digits_are_real_grey_and_split_the_same_each_time():
    pytest.importorskip("sklearn")
    source, again = open_source("digits"), open_source("digits")
    assert len(source) == 1797 and source.classes == tuple("0123456789")
    picture = source.read(0)
    assert picture.shape == (8, 8) and picture.dtype == np.uint8
    assert max(int(source.read(i).max()) for i in range(20)) == 255
    assert (source.splits == again.splits).all() and set(source.splits.tolist()) == {0, 2}
    shares = [(source.splits[source.labels == c] == 2).mean() for c in range(10)]
    assert min(shares) > 0.19 and max(shares) < 0.21


@pytest.mark.skipif(not Path(DATA, "cifar10", "train.parquet").is_file(), reason="NEOCOG_DATA has no cifar10/*.parquet")
def test_cifar10_from_the_data_folder():
    source = open_source("cifar10", offline=True)
    assert source.name == "cifar10" and len(source) == 60_000
    assert source.classes[:3] == ("airplane", "automobile", "bird")
    assert np.bincount(source.splits).tolist() == [50_000, 0, 10_000] and (source.splits[:50_000] == 0).all()
    assert np.bincount(source.labels[source.splits == 2]).tolist() == [1000] * 10
    from neocog.data import decode

    assert decode(source.read(59_999)).shape == (32, 32, 3)


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_from_its_canonical_files(tmp_path, monkeypatch, packed):
    pictures = mnist_files(tmp_path / "mnist", packed)
    monkeypatch.setenv("NEOCOG_DATA", str(tmp_path))
    source = open_source("mnist", offline=True)
    assert (source.read(6) == pictures[6]).all() and source.splits.tolist() == [0] * 5 + [2] * 2
    assert source.classes == tuple("0123456789") and source.labels.tolist() == list(range(7))


def test_fashion_mnist_has_its_official_names(tmp_path, monkeypatch):
    mnist_files(tmp_path / "fashion_mnist")
    monkeypatch.setenv("NEOCOG_DATA", str(tmp_path))
    assert open_source("fashion_mnist").sample(5).label == "Sandal"


@pytest.mark.parametrize("unpacked", [True, False])
def test_cifar10_binary_version(empty, unpacked):
    members = {f"cifar-10-batches-bin/data_batch_{i}.bin": cifar_rows(2, 2 * i, 1) for i in range(1, 6)}
    members["cifar-10-batches-bin/test_batch.bin"] = cifar_rows(3, 0, 1)
    path = archive(empty / "cifar10" / "cifar-10-binary.tar.gz", members)
    if unpacked:
        with tarfile.open(path) as tar:
            tar.extractall(path.parent, filter="data")
        path.unlink()
    source = open_source("cifar10")
    picture = source.read(0)
    assert picture.shape == (32, 32, 3) and picture[0, 0].tolist() == [11, 22, 33] and picture[0, 1, 0] == 99
    assert source.labels[:3].tolist() == [2, 3, 4] and source.splits.tolist() == [0] * 10 + [2] * 3
    assert source.sample(0).label == "bird"


def test_cifar100_uses_fine_labels_and_their_names(empty):
    names = "\n".join(f"name{i}" for i in range(100)) + "\n"
    members = {
        "train.bin": cifar_rows(4, 1, 2),
        "test.bin": cifar_rows(2, 7, 2),
        "fine_label_names.txt": names.encode(),
    }
    archive(empty / "cifar100" / "cifar-100-binary.tar.gz", {f"cifar-100-binary/{k}": v for k, v in members.items()})
    source = open_source("cifar100")
    assert len(source.classes) == 100 and source.sample(0).label == "name1" and source.sample(4).label == "name7"
    assert source.read(0)[0, 0].tolist() == [11, 22, 33]


def test_damaged_files_say_which(tmp_path, empty):
    mnist_files(empty / "mnist")
    target = empty / "mnist" / "train-images-idx3-ubyte.gz"
    whole = target.read_bytes()
    target.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz is damaged"):
        open_source("mnist")
    target.write_bytes(gzip.compress(b"hello there"))
    with pytest.raises(DataError, match="expected an IDX file"):
        open_source("mnist")
    target.write_bytes(idx(np.zeros((3, 28, 28), np.uint8)))
    with pytest.raises(DataError, match="do not fit together"):
        open_source("mnist")
    folder = empty / "cifar10"
    folder.mkdir()
    (folder / "cifar-10-binary.tar.gz").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"cifar-10-binary.tar.gz is damaged"):
        open_source("cifar10")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion_mnist"])
def test_offline_and_absent_is_a_fetch_error(empty, name):
    with pytest.raises(FetchError, match=r"is needed.*forbidden"):
        open_source(name)


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_an_absent_set_is_fetched_with_size_and_sum_and_then_read(empty, monkeypatch, name):
    asked = []

    def fake(url, target, *, size, md5, offline, say):
        asked.append((url, size, md5))
        target.parent.mkdir(parents=True, exist_ok=True)
        if len(asked) == len(named._SETS[name].archives):
            if name == "mnist":
                target.parent.rmdir()
                mnist_files(target.parent)
            else:
                target.parent.rmdir()
                members = {f"data_batch_{i}.bin": cifar_rows(1, i, 1) for i in range(1, 6)}
                archive(target, {**members, "test_batch.bin": cifar_rows(1, 0, 1)})

    monkeypatch.setattr(named, "fetch", fake)
    source = open_source(name)
    assert len(source) == (7 if name == "mnist" else 6)
    assert all(url.startswith("http") and size > 1000 and len(md5) == 32 for url, size, md5 in asked)
    count = len(asked)
    open_source(name)
    assert len(asked) == count


def test_names_and_options_are_checked():
    with pytest.raises(UsageError, match="takes no options"):
        open_source("digits:n=3")
    with pytest.raises(UsageError, match=r"unknown data set 'cifar' .did you mean"):
        named.open_named("cifar")
    with pytest.raises(UsageError, match=r"unknown option 'sise=3' of 'drawn' .did you mean 'size'"):
        open_source("drawn:sise=3")


def test_drawn_takes_its_options():
    source = open_source("drawn:n=12,size=32,seed=4")
    assert len(source) == 12
