"""The folders of a library, and which file in them has which content: as the table has it, and as a run of indexing
changes it. Folders are listed, forgotten, and said to be elsewhere now; files are never touched."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from neocog.data.stores import address, file_of, holding, is_container, is_sound, is_url, moment
from neocog.errors import UsageError
from neocog.library.rows import decode_path
from neocog.library.store import Store
from neocog.names import shown
from neocog.records import counted


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

    def __init__(self, store: Store, roots: Iterable[str], sounds: bool | None = None) -> None:
        """Read the table: of recordings, of all else, or (None) all of it.

        `roots`: stored texts of the indexed folders; their names are no labels.
        """
        self.roots = set(outermost(roots))
        self.contents: dict[str, Content] = {}
        self.files: dict[str, str] = {}
        self.dirty: set[str] = set()
        columns = ["hash", "paths", "mtimes", "inodes", "size", "labels", "models", "state"]
        table = store.rows(columns, gone=True)
        for hash, paths, mtimes, inodes, size, labels, models, state in zip(
            *(table.column(c).to_pylist() for c in columns), strict=True
        ):
            if sounds is not None and paths and is_sound(paths[0]) != sounds:
                continue
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


# ---- folders


@dataclass(frozen=True, slots=True)
class IndexedFolder:
    """A folder that was indexed. `there`: whether it is there now. `finished`: whether all of it was indexed."""

    path: Path | str  # a URL is text
    pictures: int  # files, frames of videos and parts of recordings
    holds: str  # the same in words, by their kinds
    problems: int
    there: bool
    finished: bool


@dataclass(frozen=True, slots=True)
class Changed:
    """What `forget` or `move` changed: files, and of these contents that the library has no other file of."""

    files: int
    pictures: int
    notes: tuple[str, ...] = ()
    told: str = ""  # `pictures` in words, by their kinds


def folders(store: Store) -> list[IndexedFolder]:
    """Return the indexed folders, sorted, with what the library knows of each."""
    paths = [path for row in store.rows(["paths"]).column("paths").to_pylist() for path in row]
    known, timed = Counter(f for path in paths for f in above(path)), [path for path in paths if moment(path)]
    unread = Counter(folder for row in store.problems().to_pylist() for folder in above(row["path"]))
    found = []
    for text in sorted({*store.folders, *store.unfinished}):
        path = store.name_of(text) if is_url(text) else store.path_of(text)
        there = is_url(text) or os.path.exists(path)  # nobody asks a store
        inside = [path for path in timed if within(path, text)]
        holds = holding(inside, known[text] - len(inside))
        found.append(IndexedFolder(path, known[text], holds, unread[text], there, text not in store.unfinished))
    return found


def forget(store: Store, folder: str | os.PathLike[str]) -> Changed:
    """Remove a folder and its pictures from the library, with their vectors and tags; copies elsewhere stay.

    Raises:
        UsageError: the library knows nothing in that folder. LibraryError: it cannot be written, or is being indexed.
    """
    text = _text(store, folder)
    with store.indexing():
        ledger = Ledger(store, store.folders)
        paths, unread = _known(store, ledger, text, folder)
        was = {ledger.files[path]: path for path in paths}
        for path in paths:
            ledger.drop(path)
        lost = [hash for hash in ledger.dirty if not ledger.contents[hash].places]
        told = holding(was[hash] for hash in lost)
        _write(store, ledger, sorted(ledger.dirty - set(lost)))
        store.delete(lost)
        store.set_problems([], unread)
        _note(store, lambda one: [] if _of(one, text) else [one])
    outer = next((f for f in store.folders if within(text, f)), None)
    notes: tuple[str, ...] = ()
    if outer is not None and os.path.isdir(store.path_of(text)):
        inside, name = store.path_of(outer), store.path_of(text)
        notes = (
            f"{name} lies in {inside}, which is indexed, so the next 'neocog index' finds it again; to exclude it, "
            f"write /{name.relative_to(inside).as_posix()}/ into {inside / '.neocogignore'}",
        )
    return Changed(len(set(map(file_of, paths))), len(lost), notes, told)


def move(store: Store, old: str | os.PathLike[str], new: str | os.PathLike[str]) -> Changed:
    """Say that what was in the folder `old` is in `new` now: renamed, on another disk, or mounted elsewhere.

    Nothing is computed again: a file of the same size and time is not opened by the next indexing; another is read and
    known by its content.

    Raises:
        UsageError: the library knows nothing in `old`, or `new` is no folder, or has none of these pictures.
        LibraryError: the library cannot be written, or is being indexed.
    """
    here, there = _text(store, old), _text(store, new)
    if not os.path.isdir(store.path_of(there)):
        raise UsageError(f"expected the folder where the pictures are now, but {str(new)!r} is none")
    with store.indexing():
        moved = outermost(_under(f, here, there) if _of(f, here) else f for f in (*store.folders, *store.unfinished))
        ledger = Ledger(store, [*store.folders, *moved])
        paths, unread = _known(store, ledger, here, old)
        files = sorted(set(map(file_of, paths)))
        found = sum(os.path.lexists(store.path_of(_under(file, here, there))) for file in files)
        if paths and not found:
            example = store.path_of(file_of(_under(paths[0], here, there)))
            raise UsageError(
                f"none of the {counted(len(files), 'file')} of {old} is in {new} (there is no {example}); nothing was "
                "changed"
            )
        for path in paths:
            target, hash = _under(path, here, there), ledger.files[path]
            if target not in ledger.files:
                ledger.put(target, *ledger.contents[hash].places[path], hash)
            ledger.drop(path)  # after it, so that the label follows the file
        changed = sorted(ledger.dirty)
        _write(store, ledger, changed)
        rows = [row for row in store.problems().to_pylist() if row["path"] in set(unread)]
        store.set_problems([{**row, "path": _under(row["path"], here, there)} for row in rows], unread)
        _note(store, lambda one: [_under(one, here, there)] if _of(one, here) else [one])
    missing = len(files) - found
    notes = (f"{missing:,} of them are not there; 'neocog index' will mark them as gone",) if missing else ()
    return Changed(len(files), len(changed), notes)


def _text(store: Store, folder: str | os.PathLike[str]) -> str:
    return store.text_of(address(folder))


def _of(path: str, folder: str) -> bool:
    return path == folder or within(path, folder)


def _known(store: Store, ledger: Ledger, text: str, folder: str | os.PathLike[str]) -> tuple[list[str], list[str]]:
    """Files, and files that cannot be read, in a folder. Raises: UsageError where the library never met it."""
    paths = sorted(path for path in ledger.files if within(path, text))
    unread = [row["path"] for row in store.problems().to_pylist() if _of(row["path"], text)]
    if not paths and not unread and not any(_of(one, text) for one in (*store.folders, *store.unfinished)):
        known = ", ".join(map(store.name_of, store.folders)) or "none"
        raise UsageError(f"the library {store.folder} has no folder {str(folder)!r}; its folders are {known}")
    return paths, unread


def _under(path: str, old: str, new: str) -> str:
    """A stored path in the folder `old`, or that folder itself, as it is called in `new`."""
    if path == old:
        return new
    rest = path if old == "." else path[len(old.rstrip("/")) + 1 :]
    return rest if new == "." else f"{new.rstrip('/')}/{rest}"


def _write(store: Store, ledger: Ledger, hashes: list[str]) -> None:
    if hashes:
        store.merge(pa.table({"hash": pa.array(hashes, pa.string()), **ledger.columns(hashes)}))


def _note(store: Store, become: Callable[[str], list[str]]) -> None:
    lists = {"folders": store.folders, "unfinished": store.unfinished}
    store.note(**{name: outermost(b for one in old for b in become(one)) for name, old in lists.items()})
