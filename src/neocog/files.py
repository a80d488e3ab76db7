"""Files that appear whole, and the user's cache."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where neocog keeps what it fetched or made: NEOCOG_CACHE, else ``XDG_CACHE_HOME/neocog`` (``~/.cache``)."""
    if folder := os.environ.get("NEOCOG_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neocog"


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` into `path` so that at every moment the old or the new content is there, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
