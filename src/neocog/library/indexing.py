"""Bringing a library up to date with its folders: new, changed, moved and deleted files.

Every commit is one change of a table that leaves the library whole; whatever a kill interrupts is found again by the
next run, because a run asks only two things: what lies in the folders, and what does the table say. A file is
unchanged if its size and time are (it is not opened); a renamed one is known by its inode, a copied or moved one by
its content, and neither is computed again.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from neocog.data import video
from neocog.data.decode import now_readable
from neocog.data.stores import address, file_of, is_elsewhere, is_url, is_video
from neocog.errors import DecodeError, LibraryError, NeocogError, UsageError
from neocog.library.films import Film, Whole, known_films
from neocog.library.ledger import Content, Ledger, above, outermost, signed, within
from neocog.library.lock import LibraryBusy
from neocog.library.metadata import KINDS, date_in_name
from neocog.library.photo import Photo, examine, look, moves, read_steady
from neocog.library.place import is_library
from neocog.library.reread import reread
from neocog.library.rows import content_hash, has_model, vector_column, whole_rows
from neocog.library.scan import EMPTY, Found, Scan, scan
from neocog.library.sentences import prepare
from neocog.library.store import Store
from neocog.library.view import view_of
from neocog.records import Preprocess, counted

COMMIT_ROWS = 1024  # pictures in one commit; a commit costs about 0.1 s
COMMIT_SECONDS = 10.0  # so much work can be lost by a kill
_MANY = 100  # pictures that do not become gone because a folder below an indexed one is empty: a disk may be away
_BATCH = 64  # files that are waited for at a time, while twice as many are being decoded
_TASK = 16  # pictures that a net sees at a time in a thread beside decoding: few, so that no core waits at the end


class Embeds(Protocol):
    """What indexing needs of `embed.Embedder`."""

    name: str
    dimension: int
    outputs: int
    preprocess: Preprocess

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
        rate = f", {self.computed / self.seconds:,.0f} pictures/s" if self.computed > 100 and self.seconds > 1 else ""
        return f"{', '.join(parts) or 'no pictures'} in {self.seconds:.1f} s{rate}"


def index(
    store: Store,
    folders: Sequence[str | os.PathLike[str]] = (),
    embedder: Embeds | Callable[[int], Embeds] | None = None,
    *,
    model: str | None = None,
    exclude: Sequence[str] | None = None,
    threads: int | None = None,
    wait: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], object] | None = None,
    stop: Callable[[], bool] = lambda: False,
    background: bool = False,
    elsewhere: Elsewhere | None = None,
) -> Report:
    """Bring the library up to date with `folders` (default: all that were indexed before).

    Args:
        embedder: the net, or a function that makes it, given how many pictures are coming; it is called only if there
            is something to compute. None makes the one that the library was indexed with, or the default.
        model: the name of the net, where it is known without making it; default: that of `embedder`, else the model
            that the library has.
        exclude: what is passed over, as lines of ``.gitignore``, relative to each folder; remembered by the library,
            until other lines are given. None: those that it remembers.
        wait: seconds to wait for another process that is indexing the same library.
        progress: is called with (files done, files to do).
        stop: is asked between batches; True ends the run, with all that was computed saved.
        background: tidy up, and make the index of a large library, in a thread; for programs that live on.
        elsewhere: other processes that do the work; `folders` may then be URLs, tar shards and Parquet files, too.

    Raises:
        UsageError: a folder that is not there. LibraryError: the disk is full, somebody else is indexing, a net that
        gives other vectors than those in the library.
    """
    begin = time.monotonic()
    say = say or (lambda text: None)
    roots, passed = _roots(store, folders, elsewhere is not None)
    with store.indexing(wait, say) as lock:
        exclude = store.exclude if exclude is None else list(exclude)
        run = _Run(store, roots, embedder, model, say, exclude, elsewhere)
        run.report.notes += passed
        run.begin()
        run.sort()

        def ended() -> bool:
            lock.renew()
            return stop()

        progress = progress or (lambda done, total: None)
        if elsewhere is None:
            run.read(threads or _threads(), progress, ended)
        else:
            run.gather(elsewhere, progress, ended)
            run.read(threads or _threads(), progress, ended)  # videos
        run.finish()
        run.commits += reread(store, threads or _threads(), say, ended) > 0
    if run.report.computed >= COMMIT_ROWS or store.cluttered:
        # an index may take minutes: others may change the library meanwhile
        if background:
            threading.Thread(target=_tidy, args=(store, lambda text: None), daemon=True).start()
        elif failed := _tidy(store, say):
            run.report.notes.append(failed)
    if run.commits:
        store.refresh()
        prepare(store)
        _ = view_of(store).text  # kept on disk, so that the next search starts at once
    run.report.pictures, run.report.seconds = len(store), time.monotonic() - begin
    return run.report


def _tidy(store: Store, say: Callable[[str], object]) -> str:
    """Tidy the store up; return what went wrong, which harms nothing but speed."""
    try:
        store.tidy(say)
    except LibraryError as error:
        return f"everything is indexed, but tidying up failed: {error}"
    return ""


def watch(
    store: Store,
    folders: Sequence[str | os.PathLike[str]] = (),
    embedder: Embeds | Callable[[int], Embeds] | None = None,
    *,
    interval: float = 5.0,
    stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> Iterator[Report]:
    """Index again and again, `interval` seconds apart, and yield a report whenever something changed.

    The first report comes in any case. Folders are looked through each time (10,000 files take about 0.1 s); that
    works on every file system, network ones included. While another process indexes the library, or a folder or the
    library itself is away (a disk that was taken out), it waits and says so once. Options are those of `index`.

    Raises: as `index`, for the first time; later on only what waiting does not cure.
    """
    say = options.get("say") or (lambda text: None)
    known, first, last = _once(store, embedder, options.get("model"), say), True, ""
    while not stop():
        try:
            report = index(store, folders, known, stop=stop, background=True, **options)
            if first or report.touched:
                yield report
            first, now = False, "; ".join(report.away)
        except (NeocogError, OSError) as error:
            away = not is_library(store.folder)
            if (first and not isinstance(error, LibraryBusy)) or not (
                away or isinstance(error, LibraryBusy | UsageError)
            ):
                raise
            now = f"{store.folder} is not there (is the disk connected?)" if away else str(error)
            if away:
                store.forget_copies()
        if now and now != last:
            say(f"waiting: {now}")
        last = now
        end = time.monotonic() + interval
        while time.monotonic() < end and not stop():
            time.sleep(min(0.2, interval))


def _once(
    store: Store, embedder: Embeds | Callable[[int], Embeds] | None, model: str | None, say: Callable[[str], object]
) -> Embeds | Callable[[int], Embeds]:
    """The net itself, or what makes it when it is called first, and gives the same one later."""
    if embedder is not None and not _makes(embedder):
        return embedder
    make: Any = embedder or usual(store, say, model)
    made: list[Embeds] = []

    def once(amount: int) -> Embeds:
        if not made:
            made.append(make(amount))
        return made[0]

    return once


class _Run:
    """One run of `index`."""

    def __init__(
        self,
        store: Store,
        roots: list[str],
        embedder: Embeds | Callable[[int], Embeds] | None,
        model: str | None,
        say: Callable[[str], object],
        exclude: list[str],
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.store, self.roots, self.say, self.report = store, roots, say, Report()
        self.exclude, self.elsewhere = exclude, elsewhere
        self._given = embedder
        self._made: Embeds | None = None
        self.model = model or getattr(embedder, "name", None) or store.model
        skip = os.fspath(store.folder)
        self.found: Scan = (
            elsewhere.scan(roots, store, exclude) if elsewhere else scan(roots, store.text_of, skip, exclude)
        )
        self.below = [store.text_of(root) for root in roots]
        self.ledger = Ledger(store, [*self.below, *store.folders])
        self.problems = {row["path"]: row for row in store.problems().to_pylist()}
        self.new_problems: dict[str, dict[str, Any]] = {}
        self.solved: set[str] = set()
        self.to_read: list[str] = []
        self.absent: dict[str, list[str]] = {}  # known files that the scan did not find, by their content
        self.lost: set[str] = set()  # those of them that must be gone, as their folder was looked through
        self.waiting: list[Photo] = []  # the net has not seen them
        self.computing: deque[tuple[list[Photo], Future[Any]]] = deque()  # batches that threads compute, in order
        self.ready: list[tuple[Photo, np.ndarray, np.ndarray]] = []
        self.pending: dict[str, Photo] = {}  # contents that are not in the table yet
        self.commits, self.saved_at = 0, time.monotonic()
        self.films: dict[str, list[str]] = {}  # the frames that are known of each video
        self.whole: list[Whole] = []  # videos that were read to the end, until all their frames are in the table

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
            inside = any(within(path, root) for root in self.below)
            inside = inside and (self.elsewhere is not None or not is_elsewhere(path))
            return inside and not any(within(path, folder) for folder in (*self.found.closed, *away))

        self.lost = {path for path in ledger.files if path not in files and scanned(path)}
        for old, new in followed:
            if not self._missing(old):  # another way to a video that is known
                self.films.pop(file_of(new), None)
                continue
            place, hash = ledger.contents[ledger.files[old]].places[old], ledger.files[old]
            ledger.put(new, *place, hash)
            ledger.drop(old)
            self.lost.discard(old)
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
        if not video.have() and (unread := [path for path in self.to_read if path in self.found.videos]):
            self.to_read = [path for path in self.to_read if path not in self.found.videos]
            self.report.notes.append(
                f"{counted(len(unread), 'video')} such as {self.store.name_of(unread[0])} skipped: videos are read by "
                "PyAV; type pip install 'neocog[video]', and index again"
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
            if not any(within(path, root) for path in files):
                bare[root] = "has no pictures now"
        found = outermost(f for f, how in bare.items() if missing[f] >= (_MANY if how == EMPTY else 1))
        for folder in found:
            full = self.store.name_of(folder)
            self.report.away.append(
                f"{full} {bare[folder]}, and the library knows {missing[folder]:,} pictures there, which are kept: is "
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

    def preprocess(self) -> Preprocess:
        """How pictures are prepared; where the library knows it, the net need not be made."""
        card = self.store.models().get(self.model or "")
        if card is None or self._made is not None or "preprocess" not in card:
            return self.embedder().preprocess
        values = card["preprocess"]
        return Preprocess(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})

    def embedder(self) -> Embeds:
        """The net, made when it is needed; its columns are made too."""
        if self._made is None:
            make = self._given if self._given is not None else usual(self.store, self.say, self.model)
            made: Embeds = make(len(self.to_read)) if _makes(make) else make  # type: ignore[operator, assignment]
            if self.model not in (None, made.name):
                raise LibraryError(
                    f"expected the net {self.model!r}, got {made.name!r}; have its weights changed? Choose the net "
                    "to index with: --net NAME"
                )
            self.store.add_model(made.name, made.dimension, made.card(), classes=made.outputs)
            self.model, self._made = made.name, made
        return self._made

    def read(self, threads: int, progress: Callable[[int, int], None], stop: Callable[[], bool]) -> None:
        """Read, decode and compute what is new; decoding (threads) and computing (here, or there as well) overlap."""
        if not self.to_read:
            return
        pre, total = self.preprocess(), len(self.to_read)
        ahead: list[tuple[str, Future[Any]]] = []
        todo = iter(self.to_read)
        with ThreadPoolExecutor(threads) as pool:
            try:
                done = 0
                while True:
                    while len(ahead) < 2 * _BATCH + threads and (path := next(todo, None)) is not None:
                        ahead.append((path, pool.submit(self._look, path, pre)))
                    if not ahead:
                        break
                    now, ahead = ahead[:_BATCH], ahead[_BATCH:]
                    more = [film for path, future in now if (film := self._take(path, future))]
                    ahead[:0] = [(film.path, pool.submit(film.step, pre, self.ledger, self.model)) for film in more]
                    self._compute(pool, threads)
                    done += len(now) - len(more)
                    progress(done, total)
                    late = time.monotonic() - self.saved_at > COMMIT_SECONDS
                    if len(self.ready) >= COMMIT_ROWS or late:
                        self._compute()
                        self.commit()
                    if stop():
                        self.report.interrupted = True
                        break
            except KeyboardInterrupt:  # what is computed need not be computed again
                self.commit()
                raise
            else:
                self._compute()
                self.commit()
            finally:
                for _, future in ahead:
                    future.cancel()

    def gather(self, elsewhere: Elsewhere, progress: Callable[[int, int], None], stop: Callable[[], bool]) -> None:
        """Have what is new read and computed elsewhere, and save it in large commits; videos are left to read here."""
        pictures = [path for path in self.to_read if path in self.found.files]
        self.to_read = [path for path in self.to_read if path not in self.found.files]
        if not pictures:
            return
        card, total, done = self.embedder().card(), len(pictures), 0
        outcomes = elsewhere.photos([(path, self.found.files[path]) for path in pictures], card)
        left = set(pictures)
        try:
            for some in outcomes:
                for path, outcome in some:
                    if path in left:  # work that was done again after a failure counts once
                        left.discard(path)
                        self._take(path, _settled(outcome))
                self._compute()
                done = total - len(left)
                late = time.monotonic() - self.saved_at > elsewhere.commit_seconds
                if len(self.ready) >= elsewhere.commit_rows or late:
                    self.commit()
                progress(done, total)
                if stop():
                    self.report.interrupted, self.to_read = True, []
                    break
        finally:  # also after a failure of the cluster: what is computed need not be computed again
            self.commit()
            getattr(outcomes, "close", lambda: None)()

    def _look(self, path: str, pre: Preprocess) -> Photo | Film:
        """In a thread: read one file, and decode it if its content is new; of a video, the first frames."""
        full = self._found(path).full
        if not is_video(path):
            data, status = read_steady(full)
        if is_video(path) or (video.have() and moves(data)):
            return Film.begin(path, full).step(pre, self.ledger, self.model)
        hash = content_hash(data)
        known = self.ledger.contents.get(hash)
        if known is not None and (self.model in known.models or not known.saved):
            return Photo(hash, len(data), status.st_mtime_ns, status.st_ino)
        photo = examine(data, pre, hash, status.st_mtime_ns, status.st_ino)
        photo.taken = photo.taken or date_in_name(path)
        return photo

    def _found(self, path: str) -> Found:
        return self.found.videos.get(path) or self.found.files[path]

    def _take(self, path: str, future: Future[Any]) -> Film | None:
        """Note what a thread found: new contents, known ones, or a problem. Returns: a video that is not at its end."""
        ledger, found = self.ledger, self._found(path)
        known = [p for p in (path, *self.films.get(path, ())) if p in ledger.files]
        try:
            made: Photo | Film = future.result()
            whole = made.whole() if isinstance(made, Film) and not made.rest else None
        except FileNotFoundError:  # deleted since it was listed
            self.lost |= set(known)
            return None
        except (DecodeError, OSError, MemoryError) as error:
            if isinstance(error, DecodeError):  # else a picture that is known stays known: the disk may be to blame
                for one in known:
                    ledger.drop(one)
            reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()
            # A time of -1 is never met again: a file that changes all the time, or may not be read, is tried again.
            again = not isinstance(error, DecodeError) or "changes while" in reason
            self._problem(path, reason, -1 if again else found.mtime_ns, found.size)
            return None
        photos = made.photos if isinstance(made, Film) else [(path, made)]
        for place, photo in photos:
            self._note(place, photo)
        if isinstance(made, Film) and made.rest:
            return made
        for one in set(known) - set(whole.places if whole else [path]):  # of an older content
            ledger.drop(one)
        self.solved.add(path)
        if whole is not None:
            self.whole.append(whole)
            if reason := made.problem:  # type: ignore[union-attr]
                self._problem(path, reason, found.mtime_ns, found.size)
        return None

    def _note(self, path: str, photo: Photo) -> None:
        """Note one picture: a file, or a frame of a video."""
        ledger, report, was = self.ledger, self.report, self.ledger.files.get(path)
        content = ledger.contents.get(photo.hash)
        if content is None:
            ledger.contents[photo.hash] = Content({}, photo.size, [], [self.model or ""], saved=False)
            self.pending[photo.hash] = photo
            self.waiting.append(photo)
            if was:
                report.changed += 1
            else:
                report.new += 1
        else:
            shown = photo.pixels is not None or photo.seen is not None
            if content.saved and self.model not in content.models and shown:
                content.models.append(self.model or "")
                self.waiting.append(photo)
            if was == photo.hash:  # the same content, with another time or without vectors
                report.unchanged += 1
            elif was:
                report.changed += 1
            else:
                absent = self.absent.get(photo.hash, ())
                old = next((p for p in absent if ledger.files.get(p) == photo.hash and self._missing(p)), None)
                if old is not None:
                    ledger.put(path, photo.mtime_ns, photo.inode, photo.hash)
                    ledger.drop(old)
                    self.lost.discard(old)
                    report.moved += 1
                elif content.gone and not content.places:
                    report.moved += 1  # it was away for a while
                else:
                    report.copies += 1
        ledger.put(path, photo.mtime_ns, photo.inode, photo.hash)

    def _problem(self, path: str, reason: str, mtime_ns: int, size: int) -> None:
        old = self.problems.get(path)
        row = {"path": path, "reason": reason, "mtime_ns": mtime_ns, "size": size}
        if old != row:
            self.new_problems[path] = row
            self.report.unreadable += 1
        self.solved.discard(path)

    def _compute(self, pool: ThreadPoolExecutor | None = None, threads: int = 0) -> None:
        """Let the net see what is waiting, and keep what it said.

        With a pool, whole batches only, and the rest waits; a net that can, sees them in the pool's threads, each on a
        core of its own, where decoding and computing take turns and no core waits for another.
        """
        seen = [photo for photo in self.waiting if photo.seen is not None]
        self.waiting = [photo for photo in self.waiting if photo.seen is None]
        self._keep(seen, *([photo.seen[i] for photo in seen if photo.seen] for i in (0, 1)))
        size = min(_TASK, _BATCH) if pool and getattr(self._made, "concurrent", True) else _BATCH
        count = len(self.waiting) // size * size if pool else len(self.waiting)
        for start in range(0, count, size):
            now = self.waiting[start : start + size]
            embedder = self.embedder()
            if pool and getattr(embedder, "concurrent", False):
                self.computing.append((now, pool.submit(_seen, embedder.beside_others, now)))  # type: ignore[attr-defined]
            else:
                self._keep(now, *_seen(embedder.embed, now))
        self.waiting = self.waiting[count:]
        most = max(threads, threads * _BATCH // _TASK)
        while self.computing and (pool is None or len(self.computing) > most or self.computing[0][1].done()):
            photos, future = self.computing.popleft()
            self._keep(photos, *future.result())

    def _keep(self, photos: list[Photo], features: Iterable[np.ndarray], probabilities: Iterable[np.ndarray]) -> None:
        for photo, vector, chances in zip(photos, features, probabilities, strict=True):
            photo.pixels = photo.seen = None
            if not vector.any():  # a net may answer a black picture with zeros, which have no direction
                vector = np.full_like(vector, 1e-6)
            self.ready.append((photo, vector, chances))
        self.report.computed += len(photos)

    def commit(self) -> None:
        """Write what is known so far. Old owners give up a path before new ones get it: no path is ever twice."""
        ledger = self.ledger
        dirty = self._write_places()
        new = [one for one in self.ready if one[0].hash in self.pending]
        more = [one for one in self.ready if one[0].hash not in self.pending]
        if new:
            photos = [photo for photo, _, _ in new]
            hashes = [photo.hash for photo in photos]
            columns = {
                "hash": pa.array(hashes, pa.string()),
                **self.ledger.columns(hashes),
                **{name: [getattr(p, name) for p in photos] for name in _FACTS},
                "models": [ledger.contents[h].models for h in hashes],
            }
            rows = whole_rows(columns, len(new))
            self.store.add(self._with_vectors(rows, new))
        if more:
            hashes = [photo.hash for photo, _, _ in more]
            models = pa.array([ledger.contents[h].models for h in hashes], pa.list_(pa.string()))
            self.store.merge(self._with_vectors(pa.table({"hash": hashes, "models": models}), more))
        for photo, _, _ in new:
            ledger.contents[photo.hash].saved = True
            del self.pending[photo.hash]
            ledger.dirty.discard(photo.hash)
        if self.new_problems or self.solved & self.problems.keys():
            self.store.set_problems(list(self.new_problems.values()), sorted(self.solved & self.problems.keys()))
        whole, waiting = self.whole, []
        for one in whole:
            if all(ledger.contents[ledger.files[place]].saved for place in one.places if place in ledger.files):
                for place in one.places:
                    if place in ledger.files:
                        ledger.put(place, one.mtime_ns, one.inode, ledger.files[place])
            else:
                waiting.append(one)
        self.whole = waiting
        if len(waiting) < len(whole):
            self._write_places()
        self.commits += bool(dirty or new or more or len(waiting) < len(whole))
        self.ready, self.saved_at = [], time.monotonic()

    def _write_places(self) -> list[str]:
        """Write where contents that are in the table are now; return which had to be written."""
        ledger = self.ledger
        dirty = [h for h in sorted(ledger.dirty) if ledger.contents[h].saved]
        if dirty:
            self.store.merge(pa.table({"hash": pa.array(dirty, pa.string()), **ledger.columns(dirty)}))
        ledger.dirty -= set(dirty)
        return dirty

    def _with_vectors(self, rows: pa.Table, ready: list[tuple[Photo, np.ndarray, np.ndarray]]) -> pa.Table:
        vectors = np.stack([vector for _, vector, _ in ready]).astype(np.float32)
        norms = np.linalg.norm(vectors, axis=1)
        rows = rows.append_column(f"v_{self.model}", vector_column(vectors / norms[:, None]))
        rows = rows.append_column(f"n_{self.model}", pa.array(norms, pa.float32()))
        chances = np.stack([p for _, _, p in ready])
        return rows.append_column(f"p_{self.model}", vector_column(chances)) if chances.shape[1] else rows

    def finish(self) -> None:
        """Give up the paths that are lost, remember the folders, and say what remains to be said."""
        report, store = self.report, self.store
        if not report.interrupted:
            pairs = zip(self.below, self.roots, strict=True)
            now_away = [text for text, root in pairs if not is_elsewhere(text) and not _has_entries(root)]
            self.lost = {path for path in self.lost if not any(within(path, folder) for folder in now_away)}
            for path in self.lost:
                self.ledger.drop(path)
            report.gone += len(self.lost)
        self.commit()
        known = store.folders
        left = set(store.unfinished) - (set() if report.interrupted else set(self.below))
        store.note(folders=sorted({*known, *outermost([*known, *self.below])}), unfinished=sorted(left))
        if self.model in store.models() and not report.interrupted:
            rows = store.rows(["models"])
            without = len(rows) - int(has_model(rows, self.model or "").sum())
            if store.model is not None and store.models()[self.model or ""].get("layer"):
                pass  # vectors of another layer come in addition; searching goes on with the usual ones
            elif not without:
                store.use_model(self.model or "")
            elif store.model != self.model:
                report.notes.append(
                    f"{without:,} pictures of other folders have no vectors of {self.model} yet, so searching goes on "
                    f"with {store.model}; index all folders with --net {self.model}"
                )
        if report.unreadable:
            report.notes.append(
                f"{counted(report.unreadable, 'file')} cannot be read; 'neocog library problems' lists the reasons"
            )


def _seen(embed: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], photos: list[Photo]) -> tuple[Any, Any]:
    """Perceptual hashes for some photos, and the net's features and probabilities of them."""
    look(photos)
    return embed(np.stack([photo.pixels for photo in photos]))  # type: ignore[misc]


_FACTS = (
    "size", "taken", "camera", "latitude", "longitude", "width", "height", "phash", "flat", "thumb", *KINDS, "reader",
)  # fmt: skip


def _settled(outcome: Photo | Exception) -> Future[Photo]:
    """What a thread would have given."""
    future: Future[Photo] = Future()
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
    return future


def _has_entries(folder: str) -> bool:
    """Whether there is anything in a folder; a disk may have gone since it was looked through."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def _makes(embedder: Any) -> bool:
    return callable(embedder) and not hasattr(embedder, "embed")


def usual(store: Store, say: Callable[[str], object], model: str | None = None) -> Callable[[int], Embeds]:
    """What makes the net of that name: the one that the library was indexed with, else of the zoo; or the default."""

    def make(amount: int) -> Embeds:
        from neocog.library.embed import Embedder, embedder_of

        name, models = model or store.model, store.models()
        if name in models:
            return embedder_of(models[name], amount=amount, say=say)
        return Embedder(name, amount=amount, say=say)

    return make


def _threads() -> int:
    """Threads that decode: as `data.batches.workers`, which needs PyTorch to be imported."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, usable))


def _can_be_root(path: str) -> bool:
    return os.path.isdir(path) or (is_video(path) and os.path.isfile(path))


def _roots(store: Store, folders: Sequence[str | os.PathLike[str]], elsewhere: bool) -> tuple[list[str], list[str]]:
    """The folders to look through, absolute, and notes on those that are left out.

    Raises: UsageError for one that is not there, or that needs `elsewhere`.
    """
    if isinstance(folders, str | os.PathLike):
        folders = [folders]
    given = [address(one) for one in folders]
    known = [store.name_of(text) for text in outermost([*store.folders, *store.unfinished])]
    roots = [one if is_url(one) else os.path.normpath(one) for one in given or known]
    if not roots:
        raise UsageError("no folder to index: name one, such as 'neocog index ~/Pictures'")
    notes = []
    for root in list(roots):
        if not elsewhere and is_elsewhere(root) and not os.path.isdir(root):
            why = f"{root} is looked into with --on, also on one machine: neocog index {root} --on local"
            if given:
                raise UsageError(why)
            notes.append(f"not looked at: {why}")
            roots.remove(root)
        elif not (is_elsewhere(root) and (is_url(root) or os.path.exists(root))) and not _can_be_root(root):
            remedy = (
                ""
                if given
                else (
                    "; if it is on another disk, connect it, or name the existing folders; if it was renamed: "
                    f"neocog library move '{root}' NEW; if it was deleted: neocog library forget '{root}'"
                )
            )
            raise UsageError(f"expected a folder of pictures, but {root!r} is none; nothing was changed{remedy}")
    return roots, notes
