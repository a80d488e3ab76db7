"""Files that appear whole, locks between processes, and the user's cache."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """Return where files are kept: NEOCOG_CACHE, else ``XDG_CACHE_HOME/neocog``, else ``~/.cache/neocog``."""
    if folder := os.environ.get("NEOCOG_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neocog"


def read_dict(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; {} where there is none, or none that can be read."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Put `data` into `path` so that at every moment the old or the new content is there, whole.

    `durable`: also after a power cut; a file that can be made again need not wait for the disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with open(temporary, "wb") as out:
            out.write(data)
            out.flush()
            if durable:
                os.fsync(out.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        flush_folder(path.parent)


def flush_folder(path: Path) -> None:
    """Let the names in a folder survive a power cut, where the system can."""
    if os.name == "posix":
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def locked(file: int, *, wait: bool = False, shared: bool = False) -> bool:
    """Lock an open file until it is closed or its process ends; False if another process has it locked.

    True, too, where the file system knows no locks.

    Args:
        wait: until the other process lets go. shared: beside others that share it (not on Windows).
    """
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            os.lseek(file, 1 << 30, os.SEEK_SET)  # a byte beyond the text, which must stay readable
            msvcrt.locking(file, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            return True
        except OSError:
            return False
        finally:
            os.lseek(file, 0, os.SEEK_SET)
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
