"""What runs in the processes of a cluster: reading, decoding and computing, with no more threads than Ray gave."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from neocog.data.places import read
from neocog.data.stores import Item, is_url, short
from neocog.errors import DataError, DecodeError
from neocog.library.changes import Embeds, Outcomes
from neocog.library.metadata import date_in_name
from neocog.library.photo import Photo, examine, look, read_steady
from neocog.library.scan import Found

Given = tuple[str, Found, Any]  # stored path, where it is, and its bytes, or why there are none; None: read it there
Work = Callable[[list[Any]], list[Any]]
_RUN_FILES = ("run.json", "net.json", "weights.safetensors", "unknown.safetensors")


class Worker:
    """One process of the cluster. Ray starts it anew wherever it dies, and gives it the same batch again."""

    def __init__(self, make: Callable[..., Work], shipped: list[Any], cpus: int) -> None:
        """`make` makes the work, given a folder with the files in the one Ray object of `shipped`, and the threads."""
        self.work: Work | None = None
        self.failed: Exception | None = None
        try:
            limit(cpus)
            folder = None
            for one in shipped:
                import ray

                self.folder = tempfile.TemporaryDirectory()  # goes with the process
                folder = Path(self.folder.name)
                for name, data in ray.get(one).items():
                    (folder / name).write_bytes(data)
            self.work = make(folder, cpus)
        except Exception as error:  # raised by `do`: Ray would only say that the process died
            self.failed = error

    def do(self, batch: list[Any]) -> list[Any]:
        """Do the work on one batch."""
        if self.work is None:
            raise self.failed or AssertionError
        return self.work(batch)


def limit(cpus: int) -> None:
    """Let numerical libraries use that many threads; PyTorch asks the environment when it is imported, later."""
    from threadpoolctl import threadpool_limits

    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(cpus)
    threadpool_limits(cpus)


def packed(card: dict[str, Any]) -> dict[str, bytes]:
    """The files that make the net of a library's model on a machine without them, as far as they are here."""
    run, file = Path(card["net"]["from"]), Path(card["weights"]["file"])
    if (run / "net.json").is_file():
        return packed_run(run)
    return {file.name: file.read_bytes()} if file.is_file() else {}


def packed_run(run: Path) -> dict[str, bytes]:
    """The files of a run that predict."""
    return {name: (run / name).read_bytes() for name in _RUN_FILES if (run / name).is_file()}


def embedder(card: dict[str, Any], amount: int, folder: Path | None) -> Embeds:
    """The embedder that a card describes; `folder` has its files, if they came along."""
    from neocog.library.embed import embedder_of

    if folder is not None:
        run = (folder / "net.json").is_file()
        name = "weights.safetensors" if run else Path(card["weights"]["file"]).name
        card = {**card, "weights": {**card["weights"], "file": str(folder / name)}}
        card = {**card, "net": {**card["net"], "from": str(folder)}} if run else card
    return embedder_of(card, amount=amount)


def seeing(make: Callable[[Path | None], Embeds], folder: Path | None, cpus: int) -> Work:
    """The work of indexing: `Given` to `Outcomes`."""
    net, pool = make(folder), ThreadPoolExecutor(cpus)

    def one(given: Given) -> Photo | Exception:
        path, found, data = given
        try:
            if isinstance(data, Exception):
                return data
            mtime_ns, inode = found.mtime_ns, found.inode
            if data is None:
                data, mtime_ns, inode = fetched(found)
            photo = examine(data, net.preprocess, "", mtime_ns, inode)
        except DecodeError as error:
            return DecodeError(str(error))
        except FileNotFoundError as error:
            return FileNotFoundError(short(error))
        except (DataError, OSError, MemoryError) as error:  # the store may be to blame: tried again the next time
            return OSError(short(error))
        photo.taken = photo.taken or date_in_name(path)
        return photo

    def see(batch: list[Given]) -> Outcomes:
        outcomes = list(pool.map(one, batch))
        photos = [one for one in outcomes if isinstance(one, Photo)]
        if photos:
            look(photos)
            seen = net.embed(np.stack([photo.pixels for photo in photos]))  # type: ignore[misc]
            for photo, vector, chances in zip(photos, *seen, strict=True):
                photo.pixels, photo.seen = None, (vector, chances)
        return [(path, outcome) for (path, _, _), outcome in zip(batch, outcomes, strict=True)]

    return see


def fetched(found: Found) -> tuple[bytes, int, int]:
    """Bytes, time and number of a file or member. Raises: OSError, DataError."""
    if found.part < 0 and not is_url(found.full):
        data, status = read_steady(found.full)
        return data, status.st_mtime_ns, status.st_ino
    return read(Item(found.full, found.size, found.mtime_ns, found.part)), found.mtime_ns, 0


def telling(run: Path, top: int, device: str | None, folder: Path | None, cpus: int) -> Work:
    """The work of prediction: `Given` to answers of the run's task, in their order."""
    from neocog.fit.predicting import Run, predict

    trained, pool = Run(folder or run), ThreadPoolExecutor(cpus)

    def bytes_of(given: Given) -> bytes | str:
        try:
            data = given[2] if given[2] is not None else fetched(given[1])[0]
        except (DataError, OSError) as error:
            return short(error)
        return short(data) if isinstance(data, Exception) else data

    def tell(batch: list[Given]) -> list[Any]:
        found = list(pool.map(bytes_of, batch))
        answers = predict(trained, [one for one in found if isinstance(one, bytes)], top=top, device=device)
        return [
            trained.task.unread(given[0], one) if isinstance(one, str) else replace(next(answers), key=given[0])
            for given, one in zip(batch, found, strict=True)
        ]

    return tell
