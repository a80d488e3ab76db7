"""Which file has which content: as a library's table has it, and as a run of indexing changes it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from neocog.data.stores import file_of, is_container, is_url
from neocog.library.rows import decode_path
from neocog.library.store import Store
from neocog.names import shown


class Place(NamedTuple):
    """What identifies an unchanged file, together with its size."""

    mtime_ns: int
    inode: int


@dataclass(slots=True)
class Content:
    """One row, as far as files are concerned."""

    places: dict[str, Place]  # by stored path
    size: int
    labels: list[str]
    models: list[str]
    follows: bool | None = None  # whether the labels are those that the folders give; None: not asked yet
    saved: bool = True  # stands in the table; else it comes in with the next commit
    gone: bool = False  # there was no file of it when the run began


class Ledger:
    """Contents by hash, and the hash of each file by its stored path; `dirty` rows are not written yet."""

    def __init__(self, store: Store, roots: Iterable[str]) -> None:
        """Read the table. `roots`: stored texts of the indexed folders; their names are no labels."""
        self.roots = set(outermost(roots))
        self.contents: dict[str, Content] = {}
        self.files: dict[str, str] = {}
        self.dirty: set[str] = set()
        columns = ["hash", "paths", "mtimes", "inodes", "size", "labels", "models", "state"]
        table = store.rows(columns, gone=True)
        for hash, paths, mtimes, inodes, size, labels, models, state in zip(
            *(table.column(c).to_pylist() for c in columns), strict=True
        ):
            known = {p: Place(t, i) for p, t, i in zip(paths or [], mtimes or [], inodes or [], strict=False)}
            self.contents[hash] = Content(known, size or 0, labels or [], models or [], gone=state != "ok")
            for path in known:
                self.files[path] = hash

    def label(self, path: str) -> list[str]:
        """The label that a file's folder gives it: the folder's name, unless it is an indexed folder itself."""
        parent = file_of(path).rpartition("/")[0]
        if parent in self.roots or not parent or is_container(parent):
            return []
        return [unicodedata.normalize("NFC", shown(decode_path(parent.rpartition("/")[2])))]

    def put(self, path: str, mtime_ns: int, inode: int, hash: str) -> None:
        """The file `path` has the content `hash`."""
        self.drop(path)
        content = self._changing(hash)
        content.places[path] = Place(mtime_ns, signed(inode))
        self.files[path] = hash

    def drop(self, path: str) -> None:
        """The file `path` is not there any more, or has another content now."""
        hash = self.files.pop(path, None)
        if hash is not None:
            del self._changing(hash).places[path]

    def _changing(self, hash: str) -> Content:
        content = self.contents[hash]
        if content.follows is None:  # labels that a user gave are others than the folders'
            content.follows = not content.labels or sorted(content.labels) == self._labels(content)
        self.dirty.add(hash)
        return content

    def _labels(self, content: Content) -> list[str]:
        return sorted({label for path in content.places for label in self.label(path)})

    def columns(self, hashes: Sequence[str]) -> dict[str, pa.Array]:
        """The columns that files decide, for some rows."""
        contents = [self.contents[h] for h in hashes]
        texts, whole = pa.list_(pa.string()), pa.list_(pa.int64())
        for content in contents:
            content.places = dict(sorted(content.places.items()))
            if content.follows and content.places:  # a picture that is gone keeps its labels
                content.labels = self._labels(content)
        first = [next(iter(content.places.items()), ("", Place(0, 0))) for content in contents]
        first = [(file_of(path), place) for path, place in first]
        return {
            "paths": pa.array([list(c.places) for c in contents], texts),
            "mtimes": pa.array([[place.mtime_ns for place in c.places.values()] for c in contents], whole),
            "inodes": pa.array([[place.inode for place in c.places.values()] for c in contents], whole),
            "folder": pa.array([path.rpartition("/")[0] for path, _ in first], pa.string()),
            "name": pa.array([path.rpartition("/")[2] for path, _ in first], pa.string()),
            "mtime_ns": pa.array([place.mtime_ns for _, place in first], pa.int64()),
            "labels": pa.array([c.labels for c in contents], texts),
            "state": pa.array(["ok" if c.places else "gone" for c in contents], pa.string()),
            "reason": pa.array(
                [None if c.places else "no file of this content is left" for c in contents], pa.string()
            ),
        }


def within(path: str, folder: str) -> bool:
    """Whether a stored path lies in a folder, or in a folder of that folder; "." is the library's parent."""
    if folder == ".":
        return not path.startswith("/") and path[1:2] != ":" and not is_url(path)
    return path.startswith(folder.rstrip("/") + "/")


def above(path: str) -> Iterator[str]:
    """Yield the folders that a stored path lies in, the nearest first; for `within`, each of them holds it."""
    relative = within(path, ".")
    while "/" in path.rstrip("/"):
        path = path.rpartition("/")[0] or "/"
        yield path
    if relative:
        yield "."


def outermost(folders: Iterable[str]) -> list[str]:
    """The folders that lie in none of the others, sorted; each once."""
    whole = sorted(set(folders))
    return [one for one in whole if not any(other != one and within(one, other) for other in whole)]


def signed(inode: int) -> int:
    """A file number as the table holds it: some file systems use all 64 bits."""
    return inode - (1 << 64) if inode >= 1 << 63 else inode
