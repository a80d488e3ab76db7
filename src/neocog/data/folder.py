"""A folder tree of pictures: class folders, with or without split folders above them."""

from __future__ import annotations

import os
import stat
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from neocog.data.columns import Texts, count_splits, is_picture, listed, split_code
from neocog.data.kinds import Category, Column
from neocog.data.listing import Rules, unread
from neocog.data.reader import commonest
from neocog.data.reader import find as find_reader
from neocog.data.source import Source
from neocog.errors import DataError
from neocog.records import SPLITS, Problem, counted


class Folder(Source):
    """Pictures, or inputs of another kind, that are files below one folder.

    `keys` holds the path of each, relative to `root`.
    """

    def __init__(self, root: Path, keys: Texts, *args, kind: str = "picture", **options) -> None:
        self.root, self.keys, self.kind = root, keys, kind
        self._root = os.fsencode(root)
        super().__init__(*args, **options)

    def key(self, i: int) -> str:
        return os.fsdecode(self.keys.raw(i))

    def path(self, i: int) -> Path:
        return Path(os.fsdecode(self._file(i)))

    def read(self, i: int) -> bytes:
        try:
            with open(self._file(i), "rb") as file:
                return file.read()
        except OSError as error:
            raise DataError(f"{self.key(i)}: {error.strerror or error}") from error

    def _file(self, i: int) -> bytes:
        return os.path.join(self._root, self.keys.raw(i))

    def _signature(self, i: int) -> bytes:
        try:
            return str(os.stat(self._file(i)).st_size).encode()
        except OSError:
            return b"gone"


def open_folder(root: str | os.PathLike[str], kind: str = "picture") -> Folder:
    """List the pictures below `root`, or where there is none the files of the `kind` of input that is commonest there.

    Where split folders (train, val, test and their other names, in any letter case) hold the pictures, the folders
    in them are the classes; otherwise the folders of `root` are. Pictures deeper down belong to the top class
    folder. A folder without class folders gives unlabelled pictures.

    Raises: DataError: `root` is not a folder, or there is no picture below it.
    """
    top = Path(os.path.abspath(root))
    if not top.is_dir():
        raise DataError(f"expected a folder of pictures, but {str(root)!r} is not a folder")
    name = top.name or str(top)
    listing = _Listing(os.fsencode(top), is_picture if kind == "picture" else find_reader(kind).takes)
    notes: list[str] = []
    prefix = b""
    folders, loose = listing.look(b"")
    if len(folders) == 1 and not loose and split_code(os.fsdecode(folders[0])) < 0:
        inner, inner_loose = listing.look(folders[0])
        if not inner_loose and inner and all(split_code(os.fsdecode(one)) >= 0 for one in inner):
            prefix, folders = folders[0], inner
            notes.append(f"split folders were found inside {_names([prefix])}")

    splits = {one: split_code(os.fsdecode(one)) for one in folders}
    declared = [one for one in folders if splits[one] >= 0]
    others = [one for one in folders if splits[one] < 0]
    in_splits = bool(declared)
    if declared and others:
        # `train` beside `bus` and `car` is a class; beside folders of classes it is a split
        in_splits = all(listing.look(os.path.join(prefix, one))[0] for one in declared)
        if in_splits:
            notes.append(f"skipped, because they are not split folders: {_names(others)}")
        else:
            notes.append(f"{_names(declared)} treated as class folders, because other class folders are beside them")

    if in_splits:
        for one in sorted(declared, key=lambda one: (splits[one], one)):
            base = os.path.join(prefix, one)
            for folder in listing.look(base)[0]:
                listing.add(os.path.join(base, folder), os.fsdecode(folder), splits[one])
            listing.add(base, None, splits[one], deep=False)
    else:
        for folder in folders:
            listing.add(os.path.join(prefix, folder), os.fsdecode(folder), -1)
        listing.add(prefix, None, -1, deep=False)
    if not len(listing.keys) and kind == "picture" and (other := commonest(listing.ignored)):
        return open_folder(root, other)
    if not len(listing.keys) and not listing.problems:
        raise DataError(
            f"no pictures found below {str(root)!r}{listing.ignored_text()}; expected class folders with .jpg, .png, "
            ".webp, .bmp, .gif or .tiff files, or split folders (train, val, test) of class folders"
        )
    classes, labels, more = listing.finish()
    codes = np.frombuffer(listing.splits, dtype=np.int8).copy()
    if in_splits:
        found = ", ".join(f"{os.fsdecode(one)} = {SPLITS[splits[one]]}" for one in declared)
        notes.append(f"split folders: {found} ({count_splits(codes)})")
    columns: dict[str, Column] = {}
    if (
        not classes
        and kind != "picture"
        and (said := find_reader(kind).named([os.fsdecode(listing.keys[i]) for i in range(len(listing.keys))]))
    ):
        columns = {role: Category.of(cells) for role, cells in said.items()}
        label = columns.pop("label")
        classes, labels = label.names, label.codes  # type: ignore[attr-defined]
        more = [f"{' and '.join(said)} are read from the file names, such as {listing.keys[0]}"]
    made = Folder(
        top, listing.keys, name, classes, labels, codes,
        notes=notes + more, problems=listing.problems, kind=kind, columns=columns,
    )  # fmt: skip
    return made if kind == "picture" else find_reader(kind).arranged(made)


class _Listing:
    """Columns that grow while folders are walked: one key, label and split per picture."""

    def __init__(self, root: bytes, takes: Callable[[bytes], bool]) -> None:
        self.root, self.takes = root, takes
        self.keys = Texts()
        self.labels = array("i")
        self.splits = array("b")
        self.classes: dict[str, int] = {}
        self.problems: list[Problem] = []
        self.rules: dict[bytes, Rules] = {}  # of each folder that was entered
        self.ignored: Counter[str] = Counter()
        self.hidden = 0
        self.loops = 0
        self.empty: list[bytes] = []

    def look(self, folder: bytes) -> tuple[list[bytes], bool]:
        """Return the names of the folders in `folder`, sorted, and whether pictures lie in it directly."""
        folders, pictures = [], False
        for name, kind in self._entries(folder):
            if kind == "folder":
                folders.append(name)
            pictures = pictures or (kind == "file" and self.takes(name))
        return sorted(folders), pictures

    def add(self, folder: bytes, label: str | None, split: int, *, deep: bool = True) -> None:
        """Add the pictures in `folder` (and below it if `deep`) with one label and split."""
        code = -1
        if label is not None:
            # macOS writes é as two characters, Linux as one; they are one class
            label = unicodedata.normalize("NFC", label)
            code = self.classes.setdefault(label, len(self.classes))
        before = len(self.keys)
        # folders on the way down, so that a link upwards is seen; each folder once, so that links cannot multiply it
        seen = {_identity(self.root), _identity(os.path.dirname(os.path.join(self.root, folder)))}
        for key in self._walk(folder, deep, seen):
            self.keys.append(key)
        count = len(self.keys) - before
        self.labels.extend(array("i", [code]) * count)
        self.splits.extend(array("b", [split]) * count)
        if label is not None and not count:
            self.empty.append(folder)

    def _walk(self, folder: bytes, deep: bool, seen: set[tuple[int, int]]) -> Iterator[bytes]:
        place = os.path.join(self.root, folder)
        if deep:
            identity = _identity(place)
            if identity in seen:
                self.loops += 1
                return
            seen.add(identity)
        names: list[bytes] = []
        folders: list[bytes] = []
        try:
            for name, kind in self._entries(folder):
                if kind == "hidden":
                    self.hidden += 1
                elif kind == "folder":
                    folders.append(name)
                elif reason := unread(name):
                    self.problems.append(Problem(os.fsdecode(os.path.join(folder, name)), reason))
                elif not self.takes(name):
                    self.ignored[os.path.splitext(os.fsdecode(name))[1].lower() or "no ending"] += 1
                elif kind == "file":
                    names.append(name)
                else:
                    self.problems.append(Problem(os.fsdecode(os.path.join(folder, name)), kind))
        except OSError as error:
            self.problems.append(Problem(os.fsdecode(folder), f"folder cannot be listed: {error.strerror}"))
            return
        names.sort()
        for name in names:
            yield os.path.join(folder, name)
        del names
        if deep:
            for name in sorted(folders):
                yield from self._walk(os.path.join(folder, name), True, seen)

    def _entries(self, folder: bytes) -> Iterator[tuple[bytes, str]]:
        """Yield (name, kind): kind is "folder", "file", "hidden" (passed over), or the reason why it is neither."""
        place = os.path.join(self.root, folder)
        if folder not in self.rules:
            above = self.rules.get(os.path.dirname(folder)) or Rules(os.fsdecode(self.root))
            self.rules[folder] = above.inside(os.fsdecode(place))
        with os.scandir(place) as entries:
            for entry in entries:
                try:
                    kind = "folder" if entry.is_dir() else "file" if entry.is_file() else "not a plain file"
                    if kind == "not a plain file" and entry.is_symlink():
                        kind = "link to nothing"
                except OSError as error:  # ELOOP: a link to itself
                    kind = f"link cannot be followed: {error.strerror}"
                skip = self.rules[folder].skip(os.fsdecode(entry.path), os.fsdecode(entry.name), kind == "folder")
                yield entry.name, "hidden" if skip else kind

    def finish(self) -> tuple[tuple[str, ...], np.ndarray, list[str]]:
        """Return sorted class names, labels into them, and notes. Classes without a picture are left out."""
        found = np.frombuffer(self.labels, dtype=np.int32)
        used = np.bincount(found[found >= 0], minlength=len(self.classes))
        names = list(self.classes)
        kept = sorted((name for i, name in enumerate(names) if used[i]))
        place = {name: i for i, name in enumerate(kept)}
        lookup = np.array([place.get(name, -1) for name in names] + [-1], dtype=np.int32)  # last: label -1
        labels = lookup[found]
        notes = []
        if self.empty:
            notes.append(f"folders without a picture, skipped: {_names(self.empty)}")
        if not kept:
            notes.append("no class folders: the pictures are unlabelled, usable for prediction but not for training")
        elif len(kept) == 1:
            notes.append(f"only one class, {kept[0]!r}; if its folders are the classes, open that folder instead")
        unlabelled = int((labels < 0).sum())
        if kept and unlabelled:
            notes.append(f"{counted(unlabelled, verb='lies')} outside class folders, without a label")
        if self.ignored or self.hidden:
            notes.append("ignored" + self.ignored_text()[1:])
        if self.loops:
            notes.append(f"{self.loops} links to a folder that was already listed were not followed again")
        return tuple(kept), labels, notes

    def ignored_text(self) -> str:
        """Return ", 3 files that are not pictures (2 .txt, 1 .csv)", or "" if there was none."""
        parts = []
        if self.ignored:
            kinds = ", ".join(f"{n} {ending}" for ending, n in self.ignored.most_common(5))
            parts.append(f"{counted(sum(self.ignored.values()), 'file')} not of this kind ({kinds})")
        if self.hidden:
            parts.append(f"{self.hidden} files or folders that are hidden, excluded or made by the system")
        return ", " + " and ".join(parts) if parts else ""


def _identity(folder: bytes) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError:
        return (0, hash(folder))
    assert stat.S_ISDIR(status.st_mode)
    return status.st_dev, status.st_ino


def _names(names: Iterable[bytes]) -> str:
    return listed([os.fsdecode(name) for name in names])
