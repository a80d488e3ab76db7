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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from neocog.data.stores import address, has_moments, is_elsewhere, is_url
from neocog.errors import DecodeError, LibraryError, NeocogError, UsageError
from neocog.library.changes import Elsewhere, Embeds, Report, Round, maker
from neocog.library.folders import outermost
from neocog.library.index_run import Run
from neocog.library.lock import LibraryBusy
from neocog.library.metadata import KINDS, READER, date_in_name
from neocog.library.photo import exif_of
from neocog.library.place import is_library
from neocog.library.scan import scan
from neocog.library.sentences import prepare
from neocog.library.store import Store
from neocog.library.view import view_of
from neocog.machine import usable_cores
from neocog.records import counted

_ROWS = 1024  # pictures in one commit
_ENOUGH = 1 << 20  # bytes of a JPEG file that hold all that is read here


def index(
    store: Store,
    folders: Sequence[str | os.PathLike[str]] = (),
    embedder: Embeds | Callable[[int], Embeds] | None = None,
    *,
    model: str | None = None,
    sounds: bool = False,
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
        sounds: whether `embedder` and `model` are for recordings; what is not given is chosen as for None.
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
        skip, report = os.fspath(store.folder), Report(notes=passed)
        found = elsewhere.scan(roots, store, exclude) if elsewhere else scan(roots, store.text_of, skip, exclude)

        def ended() -> bool:
            lock.renew()
            return stop()

        progress, threads = progress or (lambda done, total: None), threads or _threads()
        commits = 0
        for kind in (True, False):  # recordings, and all else
            if kind and not (found.of(sounds=True).videos or store.models_of(sounds=True)):
                continue
            asked = (embedder, model) if kind == sounds else (None, None)
            run = Run(Round(store, roots, exclude, found, report, elsewhere, kind), *asked, say)
            if report.interrupted:
                break
            run.begin()
            run.sort()
            if elsewhere is not None and not kind:
                run.gather(elsewhere, progress, ended)  # all but videos
            run.read(threads, progress, ended)
            run.finish()
            commits += run.commits
        if report.unreadable:
            report.notes.append(
                f"{counted(report.unreadable, 'file')} cannot be read; 'neocog library problems' lists the reasons"
            )
        commits += reread(store, threads, say, ended) > 0
    if run.long or store.cluttered:
        # an index may take minutes: others may change the library meanwhile
        if background:
            threading.Thread(target=_tidy, args=(store, lambda text: None), daemon=True).start()
        elif failed := _tidy(store, say):
            report.notes.append(failed)
    if commits:
        store.refresh()
        prepare(store)
        _ = view_of(store).text  # kept on disk, so that the next search starts at once
    report.pictures, report.seconds = len(store), time.monotonic() - begin
    return report


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
    first, last = True, ""
    options["model"] = options.get("model") or getattr(embedder, "name", None)
    known = maker(store, embedder, options["model"], say, options.get("sounds", False))
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


def _threads() -> int:
    """Threads that decode: as `data.batches.workers`, which needs PyTorch to be imported."""
    return min(16, usable_cores())


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
        elif not (
            os.path.isdir(root)
            or (has_moments(root) and os.path.isfile(root))
            or (is_elsewhere(root) and (is_url(root) or os.path.exists(root)))
        ):
            why = f"expected a folder of pictures, but {root!r} is none; nothing was changed"
            if not given:
                why += (
                    "; if it is on another disk, connect it, or name the existing folders; if it was renamed: "
                    f"neocog library move '{root}' NEW; if it was deleted: neocog library forget '{root}'"
                )
            raise UsageError(why)
    return roots, notes


# ---- what an older neocog did not read


def reread(
    store: Store, threads: int, say: Callable[[str], object] = lambda text: None, stop: Callable[[], bool] = bool
) -> int:
    """Read what the present `READER` reads of all pictures that it has not read yet; return how many.

    Pixels are not decoded, and the net sees nothing. A file that is away or was changed is left for the next time.
    """
    table = store.rows(["hash", "paths", "mtimes", "size", "taken", "reader"])
    rows = table.filter(pc.less(table.column("reader").fill_null(0), READER)).to_pylist()
    if not rows:
        return 0
    done = 0
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(rows), _ROWS):
            if stop():
                break
            some = rows[start : start + _ROWS]
            found = [
                {"hash": row["hash"], "taken": row["taken"], **facts}
                for row, facts in zip(some, pool.map(lambda row: _facts(store, row), some), strict=True)
                if facts is not None
            ]
            if found and not done:
                many = f"{len(rows):,} picture{'s' * (len(rows) > 1)}"
                say(f"reading keywords, titles and dates of {many} that an older neocog indexed")
            if found:
                texts = pa.list_(pa.string())
                columns: dict[str, Any] = {
                    name: pa.array([one.get(name, []) for one in found], texts) for name in KINDS
                }
                columns["hash"] = pa.array([one["hash"] for one in found], pa.string())
                columns["taken"] = pa.array([one["taken"] for one in found], pa.timestamp("s"))
                columns["reader"] = pa.array([READER] * len(found), pa.int32())
                store.merge(pa.table(columns))
            done += len(found)
    return done


def _facts(store: Store, row: dict[str, Any]) -> dict[str, Any] | None:
    """What one of the files of a row says; None if none is there as it was indexed."""
    for text, mtime in zip(row["paths"] or (), row["mtimes"] or (), strict=False):
        try:
            with open(store.path_of(text), "rb") as file:
                status = os.fstat(file.fileno())
                if (status.st_size, status.st_mtime_ns) != (row["size"], mtime):
                    continue
                data = file.read(_ENOUGH)
                if not data.startswith(b"\xff\xd8"):
                    data += file.read()
            facts = exif_of(data)
        except DecodeError:
            facts = {}
        except OSError:
            continue
        taken = row["taken"] or facts.get("taken") or date_in_name(text)
        return {**{kind: facts.get(kind, []) for kind in KINDS}, "taken": taken}
    return None
