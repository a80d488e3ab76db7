"""Videos and recordings in a library: the frames that show a video's shots are pictures, ``holiday.mp4/12.480`` and so
on, and what sounds between the pauses of a recording is as a frame is.

A video is not known before it was read to its end. Until all its frames are in the table they stand there with the time
-1, which no file has; then one change of the table gives all of them the file's own time. Whatever a kill interrupts is
read again, and what is known by its content is not computed again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from neocog.data import sound, video
from neocog.data.places import plain_bytes
from neocog.data.recordings import part, parts
from neocog.data.stores import is_sound, moment, place_at
from neocog.data.video import Video, frames_at, look
from neocog.errors import DecodeError
from neocog.library.folders import Ledger, signed
from neocog.library.metadata import date_in_name
from neocog.library.photo import Photo, examine
from neocog.library.rows import content_hash
from neocog.library.scan import Scan
from neocog.records import Preprocess

UNKNOWN = -1  # the time of a frame of a video that is not whole yet
_AT_ONCE = 8  # frames that are prepared before they are handed on: 150 KB each


@dataclass
class Film:
    """A video that is being read; `photos` are the frames of the last step, with their places."""

    path: str  # as it is stored
    full: str
    video: Video
    status: os.stat_result
    places: list[str] = field(default_factory=list)  # of all frames so far
    photos: list[tuple[str, Photo]] = field(default_factory=list)
    lost: int = 0  # frames that could not be decoded
    next: int = 0  # the first frame of the next step

    @classmethod
    def begin(cls, path: str, full: str) -> Film:
        """Find the shots of a video. Raises: DecodeError, OSError."""
        status = os.stat(full)
        return cls(path, full, cls.looked(full), status)

    looked = staticmethod(look)

    def pieces(self, times: Sequence[float]) -> Iterator[tuple[float, bytes | None]]:
        """What is there at some times, as the bytes of files; None where it cannot be decoded."""
        for seconds, picture in frames_at(self.full, times, self.video.skip):
            yield seconds, None if picture is None else plain_bytes(picture)

    def examined(self, data: bytes, pre: Preprocess | None, hash: str) -> Photo:
        """What is kept of one of them. Raises: DecodeError."""
        assert pre is not None
        return examine(data, pre, hash, UNKNOWN, self.status.st_ino)

    @property
    def rest(self) -> int:
        """How many frames are left."""
        return len(self.video.times) - self.next

    def step(self, pre: Preprocess | None, ledger: Ledger, model: str | None) -> Film:
        """Prepare the next few frames; of those that the library knows only the hash is needed."""
        times = self.video.times[self.next : self.next + _AT_ONCE]
        self.photos, self.next = [], self.next + len(times)
        for seconds, data in self.pieces(times):
            if data is None:
                self.lost += 1
                continue
            known = ledger.contents.get(hash := content_hash(data))
            if known is not None and (model in known.models or not known.saved):
                photo = Photo(hash, 0, UNKNOWN, self.status.st_ino)
            else:
                photo = self.examined(data, pre, hash)
                for name, value in self.video.facts.items():
                    setattr(photo, name, value)
                photo.taken = photo.taken or date_in_name(self.path)
            photo.size = self.status.st_size
            self.photos.append((place_at(self.path, seconds), photo))
        self.places += [place for place, _ in self.photos]
        return self

    def check(self) -> None:
        """At the end of a video. Raises: DecodeError: it changed while it was read, or no frame came of it."""
        now = os.stat(self.full)
        if (now.st_size, now.st_mtime_ns) != (self.status.st_size, self.status.st_mtime_ns):
            raise DecodeError("it changes while it is read; it is tried again next time")
        if not self.places:
            raise DecodeError("no picture of it can be decoded")

    @property
    def problem(self) -> str:
        """Why not all of it could be read; "" if it could."""
        return self.video.problem or (f"{self.lost} of its pictures cannot be decoded" if self.lost else "")


class Tape(Film):
    """A recording that is being read: its parts are what frames are of a video."""

    @staticmethod
    def looked(full: str) -> Video:
        """Find the parts. Raises: DecodeError, OSError."""
        found, problem = parts(full)
        return Video(full, times=[begin for begin, _ in found], problem=problem)

    def pieces(self, times: Sequence[float]) -> Iterator[tuple[float, bytes | None]]:
        for seconds in times:
            try:
                yield seconds, part(self.full, seconds)
            except DecodeError:
                yield seconds, None

    def examined(self, data: bytes, pre: Preprocess | None, hash: str) -> Photo:
        from neocog.library.hearing import heard

        return heard(data, hash, UNKNOWN, self.status.st_ino)


def can_read(path: str) -> bool:
    """Whether the extra is installed that reads a video, or a recording."""
    return sound.have() if is_sound(path) else video.have()


def known_films(found: Scan, ledger: Ledger) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    """Return the frames that are known of each video that is there, and (old, new) places of those that were renamed.

    In `found` each of these frames becomes a file with the time of its video, and a GIF that is known by its frames a
    video; so they are unchanged, or gone, as pictures are.
    """
    known: dict[str, list[str]] = {}
    for place in ledger.files:
        if (at := moment(place)) is not None:
            known.setdefault(at[0], []).append(place)
    there: dict[str, list[str]] = {}
    absent: dict[tuple[int, int], str] = {}
    for file, places in known.items():
        if file in found.files:
            found.videos[file] = found.files.pop(file)
        if file in found.videos:
            there[file] = places
        else:
            mtime, inode = ledger.contents[ledger.files[places[0]]].places[places[0]]
            if inode and mtime != UNKNOWN:
                absent[inode, mtime] = file
    renamed: list[tuple[str, str]] = []
    for file, one in found.videos.items():
        old = absent.get((signed(one.inode), one.mtime_ns)) if file not in there else None
        if old is not None:
            there[file] = [file + place[len(old) :] for place in known[old]]
            renamed += zip(known[old], there[file], strict=True)
    for file, places in there.items():
        found.files |= {place: found.videos[file]._replace(size=-1) for place in places}
    return there, renamed
