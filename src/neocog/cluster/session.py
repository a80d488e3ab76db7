"""A cluster: processes that Ray starts, watches and starts again, on this machine or on many.

Ray's actors do the work, and not Ray Data: bytes of this machine's files must travel with the batches, over a
connection ``ray://`` too, and the library's own commits say what is done, so a second plan of the work would only be
in the way. A batch is tried again when its process dies; a picture on which processes die again and again is listed
with the others that cannot be read, and tried again by the next run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

from neocog.cluster import worker
from neocog.data.columns import is_picture
from neocog.data.listing import Rules, skipped, unread
from neocog.data.places import members
from neocog.data.stores import Item, address, files_below, is_container, is_elsewhere, is_url, short
from neocog.errors import ClusterError, MissingExtra, NeocogError, UsageError
from neocog.library.changes import Embeds, Outcomes
from neocog.library.scan import Found, Scan, scan
from neocog.library.store import Store
from neocog.machine import usable_cores
from neocog.records import counted

Members = tuple[list[tuple[str, Item]], list[tuple[str, str]]]

_BATCH = 64  # pictures that travel together
_AHEAD = 2  # batches that wait at each process
_CPUS = 2  # of one process: it holds a net, so one for each core would need half a gigabyte for each
_DEATHS = 2  # times that Ray gives a batch again after its process died; then its pictures go one by one
_OBJECTS = 256 << 20  # bytes for batches on the way, of a cluster on this machine
_NOT_THERE = "does it run ('ray start --head'), with the same versions of Python and Ray as here? Or type --on local"
_AGAIN = "type the same command again: what was saved is kept"


class Cluster:
    """Processes for `Library.index(..., elsewhere=cluster)` and `predict`; used with ``with``.

    Args:
        on: "local" starts processes on this machine; "ray://host:10001" and "host:6379" use a cluster that is there.
        workers: processes; default: one for each two processors, or for each GPU.
        make: makes the net in each process, given a folder or None; default: the library's own. For nets of your own.

    Raises (on entering):
        MissingExtra: Ray is not installed. ClusterError: the cluster cannot be reached.
    """

    commit_rows = 16_384  # large commits make large fragments
    commit_seconds = 60.0

    def __init__(
        self,
        on: str = "local",
        *,
        workers: int | None = None,
        make: Callable[[Path | None], Embeds] | None = None,
        say: Callable[[str], object] | None = None,
    ) -> None:
        self.on, self.workers, self.make, self.say = on, workers, make, say or (lambda text: None)
        self.cpus, self.gpus, self._ray, self._ours = 1, 0, None, False  # type: tuple[int, int, Any, bool]

    def __enter__(self) -> Cluster:
        self._ray = ray = _ray()
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL + 1}
        if self.on == "local":
            quiet |= {"num_cpus": max(usable_cores(), self.workers or 1), "include_dashboard": False}
            quiet |= {"object_store_memory": _OBJECTS}
        try:
            self._ours = not ray.is_initialized()
            if self._ours:
                _reach(self.on)
                with warnings.catch_warnings():  # of LanceDB: what Ray starts are programs of their own
                    warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
                    ray.init(address=self.on, **quiet)
                _hush()  # connecting sets levels of its own
            there = ray.cluster_resources()
        except ImportError as error:
            raise MissingExtra(f"ray:// needs a package of Ray's: pip install 'neocog[cluster]' ({error})") from None
        except Exception as error:
            raise self._failure(error, _NOT_THERE) from error
        cpus, self.gpus = int(there.get("CPU", 1)), int(there.get("GPU", 0))
        wanted = self.workers or self.gpus or max(1, cpus // _CPUS)
        self.workers, self.cpus = wanted, max(1, cpus // wanted if self.gpus else min(_CPUS, cpus // wanted))
        self.say(f"cluster {self.on}: {counted(wanted, 'process')} with {counted(self.cpus, 'processor')} each")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._ours:
            with contextlib.suppress(Exception):  # it may be gone
                self._ray.shutdown()

    # what indexing asks for (`library.changes.Elsewhere`)

    def scan(self, roots: Sequence[str], store: Store, exclude: Sequence[str]) -> Scan:
        """List the pictures at some folders, URLs and containers, by stored path."""
        return self._scan(roots, store.text_of, os.fspath(store.folder), exclude)

    def photos(self, items: Sequence[tuple[str, Found]], card: dict[str, Any]) -> Iterator[Outcomes]:
        """Yield what is found of all items, in any order."""
        make = self.make or partial(worker.embedder, card, len(items))
        files = {} if self.on == "local" or self.make else worker.packed(card)
        for batch, done in self._spread(partial(worker.seeing, make), files, self._batches(items)):
            yield done if isinstance(done, list) else [(path, done) for path, *_ in batch]

    def predict(
        self, run: str | os.PathLike[str], sources: Sequence[str], *, top: int = 5, device: str | None = None
    ) -> Iterator[Any]:
        """Yield answers as `fit.predict`, in the order of names, then what could not be listed.

        `sources` are those of indexing, and picture files.

        Raises: RunError, UsageError, ClusterError.
        """
        from neocog.fit.predicting import Run

        folder = Path(os.path.abspath(run))
        trained = Run(folder)
        if trained.reader is not None:
            raise UsageError(f"a cluster is asked about pictures, and {run} reads {trained.kind}s: leave out --on")
        named = [address(one) for one in sources]
        listed = self._scan([one for one in named if is_elsewhere(one) or os.path.isdir(one)], str, "", ())
        found, unread = listed.files, {**listed.broken, **listed.closed}
        for one in named:
            if not is_elsewhere(one) and not os.path.isdir(one):
                try:
                    status = os.stat(one)
                except OSError as error:
                    raise UsageError(f"expected a picture, a folder or a URL; {one}: {error.strerror}") from None
                found[one] = Found(one, status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)
        if not found and not unread:
            raise UsageError(f"expected pictures in {', '.join(sources)}; found none")
        make = partial(worker.telling, folder, top, device)
        files = {} if self.on == "local" else worker.packed_run(folder)
        ready: dict[str, Any] = {}
        places = iter(sorted(found))
        wanted = next(places, None)
        for batch, done in self._spread(make, files, self._batches(sorted(found.items()))):
            if isinstance(done, Exception):
                done = [trained.task.unread(path, short(done)) for path, *_ in batch]
            ready |= {path: answer for (path, *_), answer in zip(batch, done, strict=True)}
            while wanted in ready:
                yield ready.pop(wanted)
                wanted = next(places, None)
        yield from (trained.task.unread(place, reason) for place, reason in sorted(unread.items()))

    # inside

    def _scan(self, roots: Sequence[str], text_of: Callable[[str], str], skip: str, exclude: Sequence[str]) -> Scan:
        return scan_places(roots, text_of, skip, exclude, self._look_into)

    def _look_into(self, containers: Iterable[Item]) -> Iterator[tuple[Item, Members]]:
        """List the members of containers: those of stores in the cluster, those of this machine here."""
        some = list(containers)
        here = [one for one in some if not is_url(one.full)]
        with ThreadPoolExecutor(4) as pool:
            yield from zip(here, pool.map(members, here), strict=True)
        there = [[one] for one in some if is_url(one.full)]
        for batch, done in self._spread(_listing, {}, iter(there)):
            reason = [([], [(batch[0].full, short(done))])] if isinstance(done, Exception) else done
            yield batch[0], reason[0]

    def _batches(self, items: Sequence[tuple[str, Found]]) -> Iterator[list[worker.Given]]:
        """Yield batches; for a cluster on other machines with the bytes of this machine's files in them."""
        remote = self.on != "local"
        with ThreadPoolExecutor(4) as pool:
            for start in range(0, len(items), _BATCH):
                some = items[start : start + _BATCH]
                data = pool.map(lambda one: _bytes(one[1]) if remote and not is_url(one[1].full) else None, some)
                yield [(path, found, one) for (path, found), one in zip(some, data, strict=True)]

    def _spread(
        self, make: Callable[..., worker.Work], files: dict[str, bytes], batches: Iterator[list[Any]]
    ) -> Iterator[tuple[list[Any], list[Any] | Exception]]:
        """Yield each batch with what was made of it, in any order; or with why nothing was, for a batch of one."""
        ray: Any = self._ray
        first = next(batches, None)
        if first is None:
            return
        died = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError)
        actors: list[Any] = []
        alone: list[list[Any]] = []  # pictures of batches on which processes died: which of them is to blame?
        running: dict[Any, tuple[Any, list[Any]]] = {}

        def give(actor: Any, some: Iterator[list[Any]]) -> None:
            if (batch := next(some, None)) is not None:
                running[actor.do.remote(batch)] = actor, batch

        try:
            kind = ray.remote(worker.Worker).options(
                num_cpus=self.cpus, num_gpus=min(1, self.gpus), max_restarts=-1, max_task_retries=_DEATHS
            )
            shipped = [ray.put(files)] if files else []  # in a list: a process that starts again fetches them again
            actors += [kind.remote(make, shipped, self.cpus) for _ in range(self.workers or 1)]
            for ahead, some in ((_AHEAD, chain([first], batches)), (1, iter(alone))):
                for actor in actors * ahead:
                    give(actor, some)
                while running:
                    for done in ray.wait(list(running))[0]:
                        actor, batch = running.pop(done)
                        made: list[Any] | Exception | None = None
                        try:
                            made = ray.get(done)
                        except died:
                            if not any(node["Alive"] for node in ray.nodes()):
                                raise ConnectionError("no machine of it is left") from None
                            if ahead == 1:
                                made = OSError("a process of the cluster died of it; the next run tries it again")
                            else:
                                alone += [[one] for one in batch]
                        give(actor, some)
                        if made is not None:
                            yield batch, made
        except NeocogError as error:  # of a worker: Ray hangs its traceback on it
            raise getattr(error, "cause", error) from None
        except (ray.exceptions.RayError, ConnectionError, RuntimeError) as error:
            raise self._failure(getattr(error, "cause", None) or error, _AGAIN) from error
        finally:
            with contextlib.suppress(Exception):
                for actor in actors if ray.is_initialized() else ():
                    ray.kill(actor)

    def _failure(self, error: BaseException, remedy: str) -> ClusterError:
        return ClusterError(f"the cluster {self.on} failed ({short(error)}); {remedy}")


def _bytes(found: Found) -> bytes | Exception:
    """The bytes of a file or member of this machine, or why there are none."""
    try:
        return worker.fetched(found)[0]
    except (NeocogError, OSError) as error:
        return FileNotFoundError(short(error)) if isinstance(error, FileNotFoundError) else OSError(short(error))


def _reach(on: str) -> None:
    """Raises: OSError where nobody listens: Ray would try for minutes."""
    host, _, port = on.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _listing(folder: Path | None, cpus: int) -> worker.Work:
    return lambda batch: [members(one) for one in batch]


def _hush() -> None:
    logging.getLogger("ray").setLevel(logging.CRITICAL + 1)
    logging.getLogger("ray.util.client.logsclient").disabled = True  # it has a way of its own


def _ray() -> Any:
    """Ray, silent: what it prints would end up among the user's results.

    Raises: MissingExtra.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # where a cluster is gone, Ray would look for another
    os.environ.setdefault("RAY_worker_niceness", "0")  # else 15: beside any other work they would hardly run
    try:
        import ray
    except ImportError:
        raise MissingExtra("--on needs Ray: pip install 'neocog[cluster]'") from None
    _hush()
    with contextlib.suppress(ImportError, AttributeError):  # messages of dying processes, which Ray prints on stdout
        from ray._private import worker as inside

        inside.print_to_stdstream = lambda *args, **options: None
    return ray


# --- listing ---------------------------------------------------------------------------------------------------------


def scan_places(
    roots: Sequence[str],
    text_of: Callable[[str], str],
    skip: str,
    exclude: Sequence[str],
    look_into: Callable[[Iterable[Item]], Iterator[tuple[Item, Members]]],
) -> Scan:
    """List the pictures at `roots`; as `library.scan.scan`, and `look_into` lists the members of containers.

    Hidden and excluded names are passed over in stores as in folders.

    Raises: UsageError: nothing is there. DataError: a store cannot be listed.
    """
    folders = [root for root in roots if not is_elsewhere(root) or os.path.isdir(root)]
    made = scan(folders, text_of, skip, exclude)
    for root in roots:
        if root not in folders:
            rules = Rules(root, exclude) if exclude else None
            for place, item in files_below(root):
                _note(made, root, place, item, text_of, rules)
    for container, (found, problems) in look_into(made.containers.values()):
        for place, item in found:
            made.files[text_of(place)] = Found(item.full, item.size, item.mtime_ns, 0, 0, item.part)
        for place, reason in problems:  # of a whole container: what was known of it stays
            (made.closed if place == container.full else made.broken)[text_of(place)] = reason
    return made


def _note(made: Scan, root: str, place: str, item: Item, text_of: Callable[[str], str], rules: Rules | None) -> None:
    parts = place[len(root) :].strip("/").split("/") if place != root else []
    name = place.rpartition("/")[2]
    if any(map(skipped, parts)) or (rules and parts and rules.skip(place, name, False)):
        return
    if is_container(name):
        made.containers[text_of(place)] = item
    elif is_picture(name):
        inode = 0 if is_url(place) else os.stat(place).st_ino
        made.files[text_of(place)] = Found(place, item.size, item.mtime_ns, inode, 0)
    elif reason := unread(name):
        made.broken[text_of(place)] = reason
