"""What lies in the folders of a library: every picture file with its size and times, without opening any."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from neocog.data.columns import is_picture

_SKIPPED = frozenset(("__MACOSX", "Thumbs.db", "desktop.ini"))  # what other systems leave behind


class Found(NamedTuple):
    """One file: where it is, and what tells that it is still the same."""

    full: str
    size: int
    mtime_ns: int
    inode: int


@dataclass
class Scan:
    """Files by stored text; folders that could not be listed, with reasons; links that lead nowhere."""

    files: dict[str, Found] = field(default_factory=dict)
    closed: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


def scan(roots: Sequence[str], text_of: Callable[[str], str], skip: str) -> Scan:
    """List the picture files below `roots` (absolute), except hidden ones and those in the folder `skip`.

    Links to folders are followed, each folder once. `text_of` makes the text under which a path is stored.
    """
    made = Scan()
    seen: set[tuple[int, int]] = set()
    for root in roots:
        for full, entry in _walk(root, skip, seen, made, text_of):
            try:
                status = entry.stat()
            except OSError as error:
                made.broken[text_of(full)] = (
                    "link to nothing" if entry.is_symlink() and error.errno == 2 else error.strerror or str(error)
                )
                continue
            made.files[text_of(full)] = Found(full, status.st_size, status.st_mtime_ns, status.st_ino)
    return made


def _walk(
    folder: str, skip: str, seen: set[tuple[int, int]], made: Scan, text_of: Callable[[str], str]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            status = os.stat(here)
            if (status.st_dev, status.st_ino) in seen and status.st_ino:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(here) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            made.closed[text_of(here)] = f"folder cannot be listed: {error.strerror}"
            continue
        folders = []
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _SKIPPED:
                continue
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file() or entry.is_symlink()
            except OSError:  # a link to itself
                is_folder, is_file = False, True
            if is_folder:
                if entry.path != skip and not os.path.isdir(os.path.join(entry.path, "pictures.lance")):
                    folders.append(entry.path)
            elif is_file and is_picture(entry.name):
                yield entry.path, entry
        waiting += reversed(folders)
