"""Data sets that have a name: found in NEOCOG_DATA or the cache, else fetched from where their authors put them.

CIFAR: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009 (the binary archives, because the
Python ones are pickles). MNIST: Y. LeCun et al., 1998. Fashion-MNIST: H. Xiao et al., 2017. digits: the 1,797 8x8
digits of scikit-learn (E. Alpaydin, C. Kaynak, 1998). drawn: pictures that neocog draws itself.
"""

from __future__ import annotations

import gzip
import inspect
import os
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neocog.data.fetch import fetch, tell
from neocog.data.source import Arrays, Source
from neocog.errors import DataError, UsageError, closest
from neocog.files import cache_folder

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"


@dataclass(frozen=True)
class _Archive:
    """One file at its canonical source, with its size in bytes and its published md5."""

    url: str
    md5: str
    size: int

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class _Set:
    archives: tuple[_Archive, ...]
    classes: tuple[str, ...]
    label_bytes: int = 0  # CIFAR: label bytes before each picture (the last one is the label used); 0: an IDX set


_SETS = {
    "cifar10": _Set(
        (_Archive(_CIFAR_URL + "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", 170_052_171),),
        _CIFAR10,
        label_bytes=1,
    ),
    "cifar100": _Set(
        (_Archive(_CIFAR_URL + "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", 168_513_733),),
        (),  # their names are in the archive
        label_bytes=2,
    ),
    "mnist": _Set(
        (
            _Archive(_MNIST_URL + "train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422),
            _Archive(_MNIST_URL + "train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432", 28_881),
            _Archive(_MNIST_URL + "t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3", 1_648_877),
            _Archive(_MNIST_URL + "t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c", 4_542),
        ),
        tuple("0123456789"),
    ),
    "fashion_mnist": _Set(
        (
            _Archive(_FASHION_URL + "train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26_421_880),
            _Archive(_FASHION_URL + "train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe", 29_515),
            _Archive(_FASHION_URL + "t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79", 4_422_102),
            _Archive(_FASHION_URL + "t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310", 5_148),
        ),
        _FASHION,
    ),
}
NAMED = (*_SETS, "digits", "drawn")


def open_named(spec: str, *, offline: bool = False, say: Callable[[str], object] = tell) -> Source:
    """Open a named set: one of `NAMED`, or ``drawn:n=2000,size=64,seed=1,task=shape``.

    The folder NEOCOG_DATA/<name> is used if it holds the set, as Parquet with embedded pictures or as the canonical
    archives, packed or unpacked; then the cache; else the archives are fetched into the cache.

    Raises:
        UsageError: unknown name or option.
        FetchError: the download failed, is forbidden, or does not match its checksum.
        DataError: a file found is damaged.
    """
    name, _, text = spec.partition(":")
    if name not in NAMED:
        raise UsageError(f"unknown data set {name!r}{closest(name, NAMED)}; named sets are {', '.join(NAMED)}")
    if name == "drawn":
        return _drawn(text)
    if text:
        raise UsageError(f"{name!r} takes no options, got {text!r}; type just {name}")
    if name == "digits":
        return _digits()
    if (source := _found(name)) is None:
        folder = cache_folder() / name
        for one in _SETS[name].archives:
            fetch(one.url, folder / one.name, size=one.size, md5=one.md5, offline=offline, say=say)
        source = _from_archives(name, folder)
        assert source is not None
    return source


def at_hand() -> list[str]:
    """Return the sets that open without fetching anything: those drawn or built in, and those that lie here."""
    return ["digits", "drawn", *(name for name in _SETS if any(home.is_dir() for home in _homes(name)))]


def _homes(name: str) -> list[Path]:
    given = os.environ.get("NEOCOG_DATA")
    return [*([Path(given) / name] if given else []), cache_folder() / name]


def _found(name: str) -> Source | None:
    """Open the set from NEOCOG_DATA or the cache, or return None."""
    for folder in filter(Path.is_dir, _homes(name)):
        if files := sorted([*folder.glob("*.parquet"), *folder.glob("*/*.parquet")]):
            return _from_parquet(name, folder, files)
        source = _from_archives(name, folder)
        if source is not None:
            return source
    return None


def _from_parquet(name: str, folder: Path, files: list[Path]) -> Source:
    import pyarrow.parquet as pq

    from neocog.data.parquet import open_parquet

    fine = "fine_label" in pq.read_schema(files[0]).names
    classes = _SETS[name].classes or None
    source = open_parquet(
        files, root=folder, name=name, columns={"label": "fine_label"} if fine else None, classes=classes
    )
    source.notes = [f"{name} read from {folder}"]
    return source


def _from_archives(name: str, folder: Path) -> Source | None:
    kind = _SETS[name]
    parts = _cifar(folder, kind) if kind.label_bytes else _idx(folder, kind)
    if parts is None:
        return None
    pictures, labels, train, classes = parts
    splits = np.full(len(labels), 2, dtype=np.int8)
    splits[:train] = 0
    source = Arrays(pictures, labels, classes, splits, name=name)
    source.notes.append(f"{name} read from {folder}")
    return source


_Parts = tuple[np.ndarray, np.ndarray, int, tuple[str, ...]]


def _cifar(folder: Path, kind: _Set) -> _Parts | None:
    """Read the binary version, packed or unpacked: rows of label bytes, then 3072 bytes, channels first."""
    train = [f"data_batch_{i}.bin" for i in range(1, 6)] if kind.label_bytes == 1 else ["train.bin"]
    test = "test_batch.bin" if kind.label_bytes == 1 else "test.bin"
    wanted = [*train, test, *(["fine_label_names.txt"] if not kind.classes else [])]
    found = {one.name: one.read_bytes() for one in [*folder.glob("*"), *folder.glob("*/*")] if one.name in wanted}
    archive = folder / kind.archives[0].name
    if set(found) != set(wanted):
        if not archive.is_file():
            return None
        try:
            with tarfile.open(archive, "r:gz") as tar:
                for member in tar:
                    base = member.name.rsplit("/", 1)[-1]
                    if base in wanted and (file := tar.extractfile(member)) is not None:
                        found[base] = file.read()
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise DataError(f"{archive} is damaged ({error}); remove it to download it again") from error
        if missing := sorted(set(wanted) - set(found)):
            raise DataError(f"{archive}: expected {', '.join(missing)} in it; remove it to download it again")
    row = kind.label_bytes + 3072
    batches = []
    for one in [*train, test]:
        if not found[one] or len(found[one]) % row:
            raise DataError(f"{folder}: {one} has {len(found[one])} bytes, expected a multiple of {row}; fetch it anew")
        batches.append(np.frombuffer(found[one], dtype=np.uint8).reshape(-1, row))
    parts = [batch[:, kind.label_bytes :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for batch in batches]
    pictures = np.concatenate(list(map(np.ascontiguousarray, parts)))
    labels = np.concatenate([batch[:, kind.label_bytes - 1] for batch in batches]).astype(np.int32)
    classes = kind.classes or tuple(found["fine_label_names.txt"].decode().split())
    return pictures, labels, len(labels) - len(batches[-1]), classes


def _idx(folder: Path, kind: _Set) -> _Parts | None:
    """Read the four IDX files, packed or unpacked."""
    arrays = []
    for archive in kind.archives:
        places = [folder / archive.name, folder / archive.name.removesuffix(".gz")]
        path = next((one for one in places if one.is_file()), None)
        if path is None:
            return None
        arrays.append(read_idx(path))
    for pictures, labels, what in ((arrays[0], arrays[1], "train"), (arrays[2], arrays[3], "t10k")):
        if pictures.ndim != 3 or labels.shape != pictures.shape[:1]:
            raise DataError(f"{folder}: {what} pictures {pictures.shape} and labels {labels.shape} do not fit together")
    return np.concatenate(arrays[::2]), np.concatenate(arrays[1::2]), len(arrays[1]), kind.classes


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of bytes (http://yann.lecun.com/exdb/mnist): magic 0 0 8 d, then d sizes, then the values.

    Raises: DataError: not IDX, or cut off.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}); remove it to download it again") from error
    if len(data) < 4 or data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise DataError(f"{path}: expected an IDX file of bytes, got {data[:4]!r}; remove it to download it again")
    shape = tuple(int(size) for size in np.frombuffer(data, dtype=">u4", count=data[3], offset=4))
    values = np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * data[3])
    if values.size != int(np.prod(shape)):
        raise DataError(f"{path}: expected {shape} values, got {values.size}; remove it to download it again")
    return values.reshape(shape)


def _digits() -> Source:
    """scikit-learn's digits: grey 8x8, 0..16 scaled to 0..255; a fixed stratified fifth is the test split."""
    from sklearn.datasets import load_digits

    from neocog.data.split import make_split

    data = load_digits()
    pictures = np.rint(data.images * (255 / 16)).astype(np.uint8)
    labels = data.target.astype(np.int32)
    splits = make_split(labels, fractions=(0.8, 0.0, 0.2), seed=0)
    return Arrays(pictures, labels, tuple("0123456789"), splits, name="digits")


def _drawn(text: str) -> Source:
    from neocog.data.drawn import drawn_source

    known = list(inspect.signature(drawn_source).parameters)
    options: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or key not in known:
            raise UsageError(
                f"unknown option {part!r} of 'drawn'{closest(key, known)}; options are {', '.join(known)}, "
                "for example drawn:n=2000,size=64,seed=1"
            )
        options[key] = _number(value.strip())
    return drawn_source(**options)


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
