"""What the disk and the database raise, turned into one sentence that says what to do."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from neocog.errors import LibraryError, NeocogError

# LanceDB passes the system's errors on as text.
_FULL = re.compile(r"no space left|disk quota|file too large|os error (28|122|27)\b", re.IGNORECASE)
_FORBIDDEN = re.compile(r"permission denied|read-only file system|not permitted|os error (13|30|1)\b", re.IGNORECASE)


@contextlib.contextmanager
def told(folder: Path) -> Iterator[None]:
    """Turn what LanceDB or the disk raises into a LibraryError about the library in `folder`."""
    try:
        yield
    except NeocogError:
        raise
    except (OSError, RuntimeError, ValueError, pa.ArrowException) as error:
        raise LibraryError(sentence(folder, error)) from error


def sentence(folder: Path, error: Exception) -> str:
    """What went wrong, and what to do."""
    text, number = str(error), getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or _FULL.search(text):
        return (
            f"the disk is full: {folder} could not be written. What was saved before is intact; free some space "
            "and run the same command again to continue"
        )
    if number in (errno.EACCES, errno.EROFS, errno.EPERM) or _FORBIDDEN.search(text):
        return f"{folder} cannot be written (no permission); you can search, but not change it"
    return f"{folder}: {text.splitlines()[0][:300] if text else type(error).__name__}"
