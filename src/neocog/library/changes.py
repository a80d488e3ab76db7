"""What indexing needs (a net, perhaps other processes), what it says at the end, and what there is to do: what is
different between the folders of a library and its table, new, changed, moved and deleted files.

Nothing is opened for that. A file is unchanged if its size and time are; a renamed one is known by its inode.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from neocog.data.decode import now_readable
from neocog.data.stores import file_of, holding, is_elsewhere, is_sound
from neocog.library.films import can_read, known_films
from neocog.library.folders import Ledger, above, outermost, signed, within
from neocog.library.photo import Photo
from neocog.library.scan import EMPTY, Found, Scan
from neocog.library.store import Store
from neocog.records import Preprocess, counted

_MANY = 100  # pictures that do not become gone because a folder below an indexed one is empty: a disk may be away


class Embeds(Protocol):
    """What indexing needs of `embed.Embedder`."""

    name: str
    dimension: int
    outputs: int
    preprocess: Preprocess  # None: of recordings

    def card(self) -> dict[str, Any]: ...
    def embed(self, pictures: Any) -> tuple[np.ndarray, np.ndarray]: ...


Outcomes = list[tuple[str, "Photo | Exception"]]  # of some items: stored path, and what is known of it, or why not


class Elsewhere(Protocol):
    """Other processes that read and compute, and that can look into stores and shards: `cluster.workers.Workers`."""

    commit_rows: int  # as COMMIT_ROWS and COMMIT_SECONDS
    commit_seconds: float

    def scan(self, roots: Sequence[str], store: Store, exclude: Sequence[str]) -> Scan:
        """List the pictures at some folders, URLs and containers, by stored path."""
        ...

    def photos(self, items: Sequence[tuple[str, Found]], card: dict[str, Any]) -> Iterator[Outcomes]:
        """Yield what is found of all items, in any order, each once or, after a failure, again; `Photo.seen` is set."""
        ...


@dataclass
class Report:
    """What indexing found, in files."""

    new: int = 0
    changed: int = 0
    copies: int = 0  # new files whose content is there already
    moved: int = 0
    gone: int = 0
    unchanged: int = 0
    unreadable: int = 0  # that could not be read in this run
    computed: int = 0  # pictures that the net saw
    pictures: int = 0  # that the library has afterwards
    interrupted: bool = False
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    away: list[str] = field(default_factory=list)  # folders that look as if their disk were away, and what to type

    @property
    def touched(self) -> bool:
        """Whether anything changed."""
        return any((self.new, self.changed, self.copies, self.moved, self.gone, self.unreadable, self.computed))

    def __str__(self) -> str:
        names = ("new", "changed", "copies", "moved", "gone", "unchanged", "unreadable")
        parts = [f"{getattr(self, name):,} {name}" for name in names if getattr(self, name)]
        rate = f", {self.computed / self.seconds:,.0f} a second" if self.computed > 100 and self.seconds > 1 else ""
        return f"{', '.join(parts) or 'nothing found'} in {self.seconds:.1f} s{rate}"


def maker(
    store: Store,
    given: Embeds | Callable[[int], Embeds] | None,
    model: str | None,
    say: Callable[[str], object],
    sounds: bool = False,
) -> Callable[[int], Embeds]:
    """What makes the net when it is first needed, and gives the same one later; for pictures, or for recordings.

    That is `given` itself or what it makes; else the net of that name, which the library was indexed with or the zoo
    has; else the library's own, or the default.
    """
    made: list[Any] = [given] if hasattr(given, "embed") else []

    def once(amount: int) -> Embeds:
        if not made and callable(given):
            made.append(given(amount))
        elif not made:
            from neocog.library.embed import Embedder, embedder_of

            name, models = model or store.model_of(sounds=sounds), store.models()
            known = models.get(name or "")
            if known:
                made.append(embedder_of(known, amount=amount, say=say))
            elif sounds:
                from neocog.library.hearing import Hearing

                made.append(Hearing())
            else:
                made.append(Embedder(name, amount=amount, say=say))
        return made[0]  # type: ignore[no-any-return]

    return once


@dataclass
class Round:
    """What an index is asked to do: of pictures, or of recordings."""

    store: Store
    roots: list[str]
    exclude: list[str]
    found: Scan  # of both
    report: Report
    elsewhere: Elsewhere | None = None
    sounds: bool = False


class Changes:
    """What lies in the folders, what the table says, and which files must therefore be read."""

    def __init__(self, task: Round, model: str | None) -> None:
        self.store, self.roots, self.report, self.sounds = task.store, task.roots, task.report, task.sounds
        self.exclude, self.elsewhere, self.model = task.exclude, task.elsewhere, model
        store, self.found = task.store, task.found.of(sounds=task.sounds)
        others = task.found.of(sounds=not task.sounds)
        self._beside = others.files.keys() | others.videos.keys()
        self.below = [store.text_of(root) for root in task.roots]
        self.ledger = Ledger(store, [*self.below, *store.folders], task.sounds)
        self.problems = {row["path"]: row for row in store.problems().to_pylist()}
        self.new_problems: dict[str, dict[str, Any]] = {}
        self.solved: set[str] = set()
        self.to_read: list[str] = []
        self.absent: dict[str, list[str]] = {}  # known files that the scan did not find, by their content
        self.lost: set[str] = set()  # those of them that must be gone, as their folder was looked through
        self.films: dict[str, list[str]] = {}  # the frames that are known of each video

    def begin(self) -> None:
        """Note in the library what is passed over, and which folders are indexed for the first time."""
        store = self.store
        first = [one for one in self.below if not any(one == f or within(one, f) for f in store.folders)]
        store.note(exclude=self.exclude, unfinished=sorted({*store.unfinished, *first}))

    def sort(self) -> None:
        """Tell unchanged and renamed files from those that must be read, without opening any."""
        files, ledger = self.found.files, self.ledger
        self.films, followed = known_films(self.found, ledger)
        away = self._away()

        def scanned(path: str) -> bool:
            inside = is_sound(path) == self.sounds and any(within(path, root) for root in self.below)
            inside = inside and (self.elsewhere is not None or not is_elsewhere(path))
            return inside and not any(within(path, folder) for folder in (*self.found.closed, *away))

        self.lost = {path for path in ledger.files if path not in files and scanned(path)}
        for was, now in followed:
            if not self._missing(was):  # another way to a video that is known
                self.films.pop(file_of(now), None)
                continue
            hash = ledger.files[was]
            ledger.put(now, *ledger.contents[hash].places[was], hash)
            ledger.drop(was)
            self.lost.discard(was)
            self.report.moved += 1
        renamed: dict[tuple[int, int, int], str] = {}
        for hash, content in ledger.contents.items():
            for path, (mtime, inode) in content.places.items():
                known = files.get(path)
                if known is None:
                    self.absent.setdefault(hash, []).append(path)
                    if inode:
                        renamed[inode, content.size, mtime] = path
                elif known.mtime_ns == mtime and known.size in (content.size, -1) and self.model in content.models:
                    self.report.unchanged += 1
                else:
                    self.to_read.append(path)
        for path, one in (*files.items(), *self.found.videos.items()):
            if path in ledger.files or path in self.films or file_of(path) != path:
                continue
            problem = self.problems.get(path)
            same = problem and (problem["size"], problem["mtime_ns"]) == (one.size, one.mtime_ns)
            if problem and same and not now_readable(problem["reason"]):
                self.report.unchanged += 1
                continue
            old = renamed.get((signed(one.inode), one.size, one.mtime_ns))
            old = old if old in ledger.files else None
            if old is not None and not self._missing(old):
                better = self._better(one.full, old)
                if better is False:  # another way to a file that is known
                    continue
                old = old if better else None
            if old is not None:
                hash = ledger.files[old]
                ledger.put(path, one.mtime_ns, one.inode, hash)
                ledger.drop(old)  # after it, so that the label follows the file
                self.lost.discard(old)
                self.report.moved += 1
                if self.model not in ledger.contents[hash].models:
                    self.to_read.append(path)
            else:
                self.to_read.append(path)
        self.to_read = sorted({file_of(path) for path in self.to_read})
        if unread := [path for path in self.to_read if path in self.found.videos and not can_read(path)]:
            self.to_read = [path for path in self.to_read if path not in self.found.videos]
            what, by, extra = ("recording", "soundfile", "sound") if self.sounds else ("video", "PyAV", "video")
            self.report.notes.append(
                f"{counted(len(unread), what)} such as {self.store.name_of(unread[0])} skipped: {what}s are read by "
                f"{by}; type pip install 'neocog[{extra}]', and index again"
            )
        there = {**self.found.broken, **self.found.closed}
        seen = files.keys() | self.found.videos.keys() | there.keys()
        for path, reason in there.items():
            self._problem(path, reason, 0, 0)
        gone = [p for p in self.problems if p not in seen and scanned(p)]
        self.solved.update(gone)

    def _away(self) -> list[str]:
        """Folders that look as if their disk were away: their pictures are kept, and the report says so."""
        files, bare = self.found.files, dict(self.found.bare)
        missing = Counter(folder for path in self.ledger.files if path not in files for folder in above(path))
        for root in self.below:
            if not any(within(path, root) for paths in (files, self._beside) for path in paths):
                bare[root] = f"has no {'recordings' if self.sounds else 'pictures'} now"
        found = outermost(f for f, how in bare.items() if missing[f] >= (_MANY if how == EMPTY else 1))
        for folder in found:
            full = self.store.name_of(folder)
            known = holding(path for path in self.ledger.files if path not in files and within(path, folder))
            self.report.away.append(
                f"{full} {bare[folder]}, and the library knows {known} there, which are kept: is "
                f"the disk connected? If they were deleted: neocog library forget '{full}'"
            )
        self.report.notes += self.report.away
        return found

    def _better(self, new: str, old: str) -> bool | None:
        """Whether a path is real, and the stored one is a link to the same file; None where they are two files."""
        full = os.fspath(self.store.path_of(old))
        try:
            if not os.path.samefile(full, new):
                return None
        except OSError:
            return None
        return os.path.realpath(new) == new and os.path.realpath(full) != full

    def _missing(self, path: str) -> bool:
        """Whether a known file, which the scan did not find, is not there any more."""
        return path in self.lost or not (is_elsewhere(path) or os.path.lexists(self.store.path_of(file_of(path))))

    def _problem(self, path: str, reason: str, mtime_ns: int, size: int) -> None:
        old = self.problems.get(path)
        row = {"path": path, "reason": reason, "mtime_ns": mtime_ns, "size": size}
        if old != row:
            self.new_problems[path] = row
            self.report.unreadable += 1
        self.solved.discard(path)
