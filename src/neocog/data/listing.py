"""Which files of a folder are looked at: what is passed over, and what looks like a picture but cannot be read here.

Training, prediction and libraries ask the same questions here. Hidden files and `SKIPPED` are passed over; a file
``.neocogignore`` in any folder, with the syntax of ``.gitignore``, passes over more, or with ``!name`` less.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pathspec import GitIgnoreSpec

from neocog.data.columns import is_picture
from neocog.errors import UsageError
from neocog.records import counted

IGNORE_FILE = ".neocogignore"
SKIPPED = (  # names, in any letter case: what systems and programs put among pictures
    ".*",  # hidden: .thumbnails, .Trash-1000, .@__thumb, ._photo.jpg, the library itself
    "@eaDir", "@tmp", "@Recycle", "@Recently-Snapshot", "#recycle", "#snapshot",  # network storage (Synology, QNAP)
    "$RECYCLE.BIN", "RECYCLER", "System Volume Information", "FOUND.[0-9][0-9][0-9]", "Thumbs.db", "ehthumbs*.db",
    "desktop.ini",  # Windows
    "__MACOSX", "*.lrdata", "lost+found",  # zip files made on a Mac; Lightroom's previews; Linux
)  # fmt: skip
_SKIPPED = re.compile("|".join(map(fnmatch.translate, SKIPPED)), re.IGNORECASE)

_RAW = frozenset(
    (
        ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".k25", ".kdc", ".mef", ".mos",
        ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
    )
)  # fmt: skip


def unread(name: str | bytes) -> str | None:
    """Return why a file that is named like a picture cannot be read here, and what to type; None for all others.

    Formats that neocog may be able to read (HEIC, AVIF) are decided by their content: see `decode`.
    """
    stem, ending = os.path.splitext(os.fsdecode(name))
    if ending.lower() in _RAW:
        kind = ending[1:].upper()
        return f"not supported: camera raw ({kind}); convert it, such as: darktable-cli {stem}{ending} {stem}.jpg"
    if ending.lower() == ".jxl":
        return f"not supported: JPEG XL; convert it: djxl {stem}{ending} {stem}.png"
    return None


class Rules:
    """What is passed over in one folder."""

    def __init__(self, root: str, exclude: Sequence[str] = ()) -> None:
        """`exclude`: lines as in ``.gitignore``, relative to `root`; they count more than any ignore file.

        Raises: UsageError for a line that is no pattern.
        """
        self._files: tuple[tuple[int, GitIgnoreSpec], ...] = ()  # (characters of the folder's path, its rules)
        self._asked = ((_start(root), _spec(exclude, "--exclude")),) if exclude else ()

    def inside(self, folder: str) -> Rules:
        """Return the rules for what lies in `folder`, which may have an ignore file of its own.

        Raises: UsageError for an ignore file with a line that is no pattern; OSError where it cannot be read.
        """
        path = os.path.join(folder, IGNORE_FILE)
        if not os.path.isfile(path):
            return self
        lines = Path(path).read_text("utf-8-sig", "surrogateescape").splitlines()
        made = Rules(folder)
        made._files, made._asked = ((_start(folder), _spec(lines, path)), *self._files), self._asked
        return made

    def skip(self, path: str, name: str, is_folder: bool) -> bool:
        """Whether the file or folder `path`, called `name`, is passed over."""
        for start, spec in (*self._asked, *self._files):
            said = spec.check_file(path[start:] + "/" * is_folder).include
            if said is not None:
                return said
        return skipped(name)


def skipped(name: str) -> bool:
    """Whether a file or folder of that name is passed over unless an ignore file says otherwise."""
    return _SKIPPED.match(name) is not None


def _start(folder: str) -> int:
    return len(os.path.join(folder, ""))


def _spec(lines: Sequence[str], where: str) -> GitIgnoreSpec:
    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise UsageError(f"{where}: {error}; expected lines as in .gitignore, such as 'Screenshots/'") from None


def files_of(
    folder: str | os.PathLike[str], takes: Callable[[str], bool] = is_picture, kind: str = "picture"
) -> Iterator[Path]:
    """Yield the files below a folder that `takes` takes by their names, without what is passed over.

    Links to folders are not followed. Raises: UsageError: there is none, and so no `kind`.
    """
    top = os.fspath(folder)
    known, others, empty = {top: Rules(top)}, Counter[str](), True
    for parent, folders, files in os.walk(top):
        rules = known.pop(parent).inside(parent)
        folders[:] = sorted(one for one in folders if not rules.skip(os.path.join(parent, one), one, True))
        known |= {os.path.join(parent, one): rules for one in folders}
        for name in sorted(files):
            path = os.path.join(parent, name)
            if rules.skip(path, name, False):
                continue
            if takes(name):
                empty = False
                yield Path(path)
            else:
                others[os.path.splitext(name)[1].lower()] += 1
    if empty:
        only = "".join(f", but {counted(n, f'{ending} file'.lstrip())}" for ending, n in others.most_common(1))
        raise UsageError(f"expected {kind}s in {top}; found none{only}")
