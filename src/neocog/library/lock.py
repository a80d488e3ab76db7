"""Locks between processes: a file that says who holds it, which a killed owner cannot keep.

The kernel's file lock decides on one machine and ends with its owner, however that ends. Between machines that share
a disk it may not reach, so the file also says who (process, host), and its time is renewed while the work goes on: a
lock of another host counts until it has not been renewed for `STALE` seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from neocog.errors import LibraryError
from neocog.files import locked

STALE = 120.0  # seconds without renewal after which the lock of another host is taken over


class LibraryBusy(LibraryError):
    """Another process is doing the same with this library."""


class Lock:
    """Used with ``with``; waits up to `wait` seconds for the present owner.

    Raises (on entering):
        LibraryBusy: somebody else holds it, with who. LibraryError: the file cannot be written.
    """

    def __init__(
        self, path: Path, what: str, *, wait: float = 0.0, waiting: Callable[[str], object] | None = None
    ) -> None:
        self.path, self.what, self.wait, self.waiting = path, what, wait, waiting
        self._file: int | None = None
        self._renewed = 0.0
        self.abandoned = False  # whether the owner before ended without giving it back

    def __enter__(self) -> Lock:
        end, told = time.monotonic() + self.wait, False
        while (owner := self._try()) is not None:
            if time.monotonic() >= end:
                raise LibraryBusy(
                    f"{self.path.parent} is in use: {owner} is {self.what}; wait until it has finished, or stop it"
                )
            if self.waiting and not told:
                self.waiting(f"waiting for {owner}, which is {self.what}")
                told = True
            time.sleep(0.05)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
            os.close(self._file)  # and with it the kernel's lock; the file stays, so that nobody locks a removed one
            self._file = None

    def renew(self) -> None:
        """Say that the owner still works; costs nothing more often than every ten seconds."""
        if self._file is not None and time.monotonic() - self._renewed > 10:
            self._renewed = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def _try(self) -> str | None:
        """Take the lock and return None, or return who has it."""
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            raise LibraryError(
                f"{self.path.parent} cannot be written ({error.strerror}): you can search, but not change it"
            ) from None
        try:
            free = locked(file)
            owner = _owner(os.pread(file, 4096, 0)) if hasattr(os, "pread") else _owner(os.read(file, 4096))
            away = owner.get("host") not in (None, socket.gethostname())
            fresh = time.time() - os.fstat(file).st_mtime < STALE
            if not free or (away and fresh):
                return _named(owner)
            self.abandoned = "pid" in owner
            text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}).encode()
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
            with contextlib.suppress(OSError):  # a full disk: the kernel's lock holds without a name
                os.write(file, text)
            self._file, file, self._renewed = file, -1, time.monotonic()
            return None
        finally:
            if file >= 0:
                os.close(file)


def holder(path: Path) -> str:
    """Who holds a lock, for a message; "" if nobody does. Does not touch it, and may be wrong for a moment."""
    try:
        owner, renewed = _owner(path.read_bytes()), os.stat(path).st_mtime
    except OSError:
        return ""
    if "pid" not in owner or time.time() - renewed > STALE:
        return ""
    if os.name == "posix" and owner.get("host") == socket.gethostname():
        try:
            os.kill(owner["pid"], 0)
        except ProcessLookupError:
            return ""
        except PermissionError:  # another user's
            pass
    return _named(owner)


def _owner(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _named(owner: dict[str, Any]) -> str:
    if "pid" not in owner:
        return "another process"
    return f"process {owner['pid']} on {owner.get('host', 'this machine')}"
