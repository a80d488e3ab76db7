"""What lies in the folders of a library: every picture file, video and recording with its size and times,
without opening any.

Whatever can be reached on several ways is one file, under its real path: symbolic links are looked at after all that
is really there, and count only where they lead elsewhere; of several hard links the first counts.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from neocog.data.columns import is_picture
from neocog.data.listing import Rules, unread
from neocog.data.stores import Item, has_moments, is_container, is_sound

EMPTY = "is empty"


class Found(NamedTuple):
    """One file: where it is, and what tells that it is still the same."""

    full: str
    size: int
    mtime_ns: int
    inode: int
    device: int
    part: int = -1  # of a container; see `data.stores.Item`


@dataclass
class Scan:
    """Files by stored text; and, by stored text too, what could not be looked at, with reasons."""

    files: dict[str, Found] = field(default_factory=dict)
    closed: dict[str, str] = field(default_factory=dict)  # folders that could not be listed
    broken: dict[str, str] = field(default_factory=dict)  # links that lead nowhere, and pictures that nobody reads here
    videos: dict[str, Found] = field(default_factory=dict)  # and recordings: what has parts with times
    containers: dict[str, Item] = field(default_factory=dict)  # tar and Parquet files, which nobody looks into here
    bare: dict[str, str] = field(default_factory=dict)  # empty folders ("is empty"), and links that may be to folders

    def of(self, *, sounds: bool) -> Scan:
        """The recordings among what was found, or all else."""
        moving = {path: one for path, one in self.videos.items() if is_sound(path) == sounds}
        return replace(self, videos=moving, files={} if sounds else self.files)


def scan(roots: Sequence[str], text_of: Callable[[str], str], skip: str, exclude: Sequence[str] = ()) -> Scan:
    """List what lies below `roots` (absolute), except what is passed over and what is in `skip`.

    Links to folders are followed, each folder once. `text_of` makes the text under which a path is stored; `exclude`
    has lines as in ``.gitignore``, relative to each root (see `data.listing`).

    Raises: UsageError for a line of `exclude`, or of an ignore file, that is no pattern.
    """
    walk = _Walk(text_of, skip)
    for root in sorted(roots, key=lambda one: (os.path.realpath(one) != one, len(one))):
        if os.path.isfile(root):  # a video or a recording
            with os.scandir(os.path.dirname(root)) as entries:
                walk.add(next(one for one in entries if one.name == os.path.basename(root)))
        else:
            walk.down(root, Rules(root, exclude))
    while walk.links:
        walk.follow(*walk.links.popleft())
    return walk.made


class _Walk:
    """One scan while it goes on."""

    def __init__(self, text_of: Callable[[str], str], skip: str) -> None:
        self.text_of, self.skip, self.made = text_of, skip, Scan()
        self.links: deque[tuple[os.DirEntry[str], Rules]] = deque()
        self.folders: set[tuple[int, int]] = set()
        self.shared: set[tuple[int, int]] = set()  # files with several hard links; all files once a link is followed
        self.following = False

    def down(self, top: str, rules: Rules) -> None:
        """List everything below a folder but links, which are put aside."""
        waiting = [(top, rules)]
        while waiting:
            here, rules = waiting.pop()
            try:
                status = os.stat(here)
                if (status.st_dev, status.st_ino) in self.folders and status.st_ino:
                    continue
                self.folders.add((status.st_dev, status.st_ino))
                rules = rules.inside(here)
                with os.scandir(here) as listed:
                    entries = sorted(listed, key=lambda entry: entry.name)
            except OSError as error:
                self.made.closed[self.text_of(here)] = f"folder cannot be listed: {error.strerror}"
                continue
            if not entries:
                self.made.bare[self.text_of(here)] = EMPTY
            folders = []
            for entry in entries:
                is_folder = _is_folder(entry)
                if rules.skip(entry.path, entry.name, is_folder):
                    continue
                if entry.is_symlink():
                    self.links.append((entry, rules))
                elif is_folder:
                    if self._ours(entry.path):
                        folders.append((entry.path, rules))
                elif (is_picture(entry.name) or has_moments(entry.name)) and entry.is_file():
                    self.add(entry)
                elif reason := unread(entry.name):
                    self.made.broken[self.text_of(entry.path)] = reason
                elif is_container(entry.name):
                    status = entry.stat()
                    self.made.containers[self.text_of(entry.path)] = Item(
                        entry.path, status.st_size, status.st_mtime_ns
                    )
            waiting += reversed(folders)

    def follow(self, entry: os.DirEntry[str], rules: Rules) -> None:
        """Look where a link leads, unless that was seen already."""
        if _is_folder(entry):
            if self._ours(entry.path):
                self.down(entry.path, rules)
        elif is_picture(entry.name) or has_moments(entry.name):
            if not self.following:
                self.following = True
                every = (*self.made.files.values(), *self.made.videos.values())
                self.shared |= {(one.device, one.inode) for one in every}
            self.add(entry)
        elif reason := unread(entry.name):
            self.made.broken[self.text_of(entry.path)] = reason
        elif not os.path.exists(entry.path):
            self.made.bare[self.text_of(entry.path)] = "is a link to nothing"

    def add(self, entry: os.DirEntry[str]) -> None:
        """Note a picture file, a video or a recording, if it is not there already."""
        try:
            status = entry.stat()
        except OSError as error:
            gone = entry.is_symlink() and error.errno == 2
            self.made.broken[self.text_of(entry.path)] = "link to nothing" if gone else error.strerror or str(error)
            return
        identity = status.st_dev, status.st_ino
        if status.st_ino and identity in self.shared:
            return
        if self.following or status.st_nlink > 1:
            self.shared.add(identity)
        found = Found(entry.path, status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)
        (self.made.videos if has_moments(entry.name) else self.made.files)[self.text_of(entry.path)] = found

    def _ours(self, folder: str) -> bool:
        """Whether a folder holds pictures of its own, and no library."""
        return folder != self.skip and not os.path.isdir(os.path.join(folder, "pictures.lance"))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
