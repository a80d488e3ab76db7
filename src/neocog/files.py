"""Files that appear whole, and the user's cache."""

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
    if not durable:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
