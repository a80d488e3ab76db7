"""The tables of a library on disk, as LanceDB keeps them: opened, read through copies in memory, changed one at a time.

Every change of a table is one transaction: a reader, or the next process after a kill, sees all of it or nothing. A
kill between a change and versions.json leaves readers with what was there before, until the next process that changes
something, or begins to index, finds the lock of the killed one. Reading takes no lock, needs no right to write, and
while it finds its copies, no LanceDB: importing that takes a second.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neocog.errors import LibraryError, NeocogError
from neocog.library.card import Card, read_versions, write_json
from neocog.library.lock import Lock
from neocog.library.mirror import Arrays, mapped_table
from neocog.library.rows import SCHEMA, completed, is_ok
from neocog.names import shown

_READ = ("pictures", "problems")  # tables of which versions.json names the version
_HEAVY = ("thumb",)  # columns that are not mirrored
_MIRRORED = pa.schema([field for field in SCHEMA if field.name not in _HEAVY])
# LanceDB passes the system's errors on as text.
_FULL = re.compile(r"no space left|disk quota|file too large|os error (28|122|27)\b", re.IGNORECASE)
_FORBIDDEN = re.compile(r"permission denied|read-only file system|not permitted|os error (13|30|1)\b", re.IGNORECASE)


class Tables:
    """The tables of one library: pictures, problems, and one of vectors for each model."""

    def __init__(self, folder: Path, values: dict[str, Any] | None = None) -> None:
        """`values`: what library.json is to say of a library that is being made."""
        self.folder = folder
        self._card = Card(folder, values)
        self._db: Any = None
        self._tables: dict[str, Any] = {}
        self._mirrors: dict[str, tuple[str, pa.Table]] = {}
        self._arrays = Arrays(folder / "cache")
        self._lock = threading.RLock()  # of what is kept in memory
        self._changing = threading.RLock()  # of changes; never waited for while `_lock` is held
        self._depth = 0

    def version(self) -> int:
        """A number that grows with every change of the pictures' table."""
        return self._key("pictures")[0]

    def kept(self, name: str, version: int, make: Callable[[], pa.Table]) -> pa.Table:
        """Return what `make` makes of a version of the pictures' table; kept on disk, if that is still the newest."""
        newest, key = self._key("pictures")
        return mapped_table(self.folder / "cache", name, key, make) if newest == version else make()

    def stored(self, name: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield rows of a table as they are stored, not from the copies, in no order: for checking.

        Raises: LibraryError: the table is damaged.
        """
        with told(self.folder):
            yield from self._table(name).search().select(list(columns)).to_batches()

    def forget_copies(self) -> None:
        """Open everything anew when it is needed: the disk was away."""
        with self._lock:
            self._db = None
            self._tables.clear()
            self._mirrors.clear()
        self._arrays.clear()

    # inside

    def _connect(self) -> Any:
        if self._db is None:
            # Lance would print a warning about index statistics for every search that asks for them
            os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")
            import lancedb

            self._db = lancedb.connect(self._address(), read_consistency_interval=timedelta(0))
        return self._db

    def _address(self) -> str:
        """The library's folder in a form that LanceDB takes, which is UTF-8 only."""
        address = str(self.folder)
        if shown(address) == address:
            return address
        if not os.path.isdir("/proc/self/fd"):
            raise LibraryError(
                f"LanceDB cannot write into {shown(address)}, whose name is not UTF-8; put the library elsewhere: "
                "neocog index FOLDER --library LIB"
            )
        folder = os.open(self.folder, os.O_RDONLY)
        weakref.finalize(self, os.close, folder)
        return f"/proc/self/fd/{folder}"

    def _table(self, name: str) -> Any:
        with self._lock:
            if name not in self._tables:
                try:
                    self._tables[name] = self._connect().open_table(name)
                except Exception as error:
                    raise LibraryError(
                        f"the table {name!r} of {self.folder} cannot be opened "
                        f"({str(error).splitlines()[0][:200]}); restore it from a copy, or index again from scratch"
                    ) from error
            return self._tables[name]

    def _forget(self, name: str) -> None:
        with self._lock:
            self._tables.pop(name, None)
        self._arrays.clear()

    def _key(self, name: str) -> tuple[int, str]:
        """The version of a table that is read, and a name that no other state of it has."""
        known = read_versions(self.folder).get(name)
        if known is not None:
            return known["version"], known["key"]
        version = self._table(name).version  # an older neocog made it, and nothing was changed since
        return version, f"version{version}"

    def _point(self, *, tidied: bool = False) -> None:
        """Note the newest versions of the tables that are open; called by who holds the lock of changes."""
        known = read_versions(self.folder)
        now = {name: self._tables[name].version for name in _READ if name in self._tables}
        changed = {
            name: {"tidied": 0, **known.get(name, {}), "version": version, "key": uuid.uuid4().hex[:12]}
            for name, version in now.items()
            if known.get(name, {}).get("version") != version
        }
        for name, entry in {**known, **changed}.items() if tidied else ():
            if name in now:
                changed[name] = {**entry, "tidied": now[name]}
        if changed:
            write_json(self.folder / "versions.json", {**known, **changed})

    def _mirror(self, name: str) -> pa.Table:
        """The table's columns without vectors, up to date."""
        with self._lock, told(self.folder):
            for attempt in range(3):
                version, key = self._key(name)
                known = self._mirrors.get(name)
                if known is not None and known[0] == key:
                    return known[1]
                try:
                    read = functools.partial(self._read, name, version)
                    table = mapped_table(self.folder / "cache", name, key, read)
                except (RuntimeError, OSError, ValueError):  # a version that was cleaned up under our feet
                    if attempt == 2:
                        raise
                else:
                    self._mirrors[name] = (key, completed(table, _MIRRORED) if name == "pictures" else table)
        return self._mirrors[name][1]

    def _read(self, name: str, version: int) -> pa.Table:
        self._table(name)  # says so if it is damaged
        table = self._connect().open_table(name)
        table.checkout(version)
        columns = [c for c in table.schema.names if c not in _HEAVY]
        found = table.search().select(columns).to_arrow()
        # LanceDB moves rows that change to the end; an order of our own keeps the copies of vectors valid
        return found.take(pc.sort_indices(found.column(columns[0])))

    def _present(self) -> np.ndarray:
        return is_ok(self._mirror("pictures"))

    def _heavy(self, name: str, hashes: pa.ChunkedArray) -> pa.Array:
        """A column that is not mirrored, in the order of `hashes`; null where there is none."""
        table = self._table("pictures" if name in SCHEMA.names else f"vectors_{name[2:]}")
        found = table.search().select(["hash", name]).to_arrow()
        return found.column(name).combine_chunks().take(pc.index_in(hashes, found.column("hash")))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the lock of a single change, waiting for other threads and processes."""
        with self._changing:
            if self._depth:
                yield
                return
            with Lock(self.folder / "write.lock", "writing to it", wait=600) as lock:
                self._depth += 1
                try:
                    if lock.abandoned and (self.folder / "library.json").exists():
                        for name in _READ:
                            self._table(name)
                    yield
                except BaseException:
                    with contextlib.suppress(Exception):  # the first failure is the one to tell
                        self._point()
                    raise
                else:
                    with told(self.folder):
                        self._point()
                finally:
                    self._depth -= 1


@contextlib.contextmanager
def told(folder: Path) -> Iterator[None]:
    """Turn what LanceDB or the disk raises into a LibraryError about the library in `folder`."""
    try:
        yield
    except NeocogError:
        raise
    except (OSError, RuntimeError, ValueError, pa.ArrowException) as error:
        raise LibraryError(_sentence(folder, error)) from error


def _sentence(folder: Path, error: Exception) -> str:
    text, number = str(error), getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or _FULL.search(text):
        return (
            f"the disk is full: {folder} could not be written. What was saved before is intact; free some space "
            "and run the same command again to continue"
        )
    if number in (errno.EACCES, errno.EROFS, errno.EPERM) or _FORBIDDEN.search(text):
        return f"{folder} cannot be written (no permission); you can search, but not change it"
    return f"{folder}: {text.splitlines()[0][:300] if text else type(error).__name__}"
