"""Files of this machine and objects of stores, through one interface.

Stores are reached through pyarrow's file systems (s3, gs)
or fsspec's (all others that are installed), which take endpoint, region and keys from the usual environment
variables; so do ``AWS_ENDPOINT_URL`` and ``AWS_REGION`` here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from neocog.errors import DataError, MissingExtra, UsageError
from neocog.records import counted

VIDEO_ENDINGS = frozenset(
    (
        ".mp4", ".m4v", ".mkv", ".mov", ".avi", ".webm", ".mpg", ".mpeg", ".mpe", ".wmv", ".flv", ".3gp", ".3g2",
        ".ogv", ".mts", ".m2ts", ".vob", ".asf", ".divx", ".mxf",
    )
)  # fmt: skip
SOUND_ENDINGS = frozenset((".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf"))
_LAST = "|".join(map(re.escape, sorted(VIDEO_ENDINGS | SOUND_ENDINGS | {".gif"})))
_MOMENT = re.compile(rf"(.+(?:{_LAST}))/(\d+\.\d{{3}})", re.I | re.S)
CONTAINED = re.compile(r"\.(tar|parquet)(/|$)", re.IGNORECASE)


class Item(NamedTuple):
    """One file, or one picture in a container: where it is, and what tells that it is still the same."""

    full: str  # the file, or the container
    size: int  # bytes; -1: not known before it is read
    mtime_ns: int  # of the file, or of the container
    part: int = -1  # of a tar: offset of the data; of a Parquet file: the row; -1: the file itself


def is_url(text: str) -> bool:
    """Whether a text names something in a store, and not a file of this machine."""
    return "://" in text


def is_container(name: str) -> bool:
    """Whether a file of that name holds many pictures."""
    return name.lower().endswith((".tar", ".parquet"))


def is_video(name: str) -> bool:
    """Whether a file is named like a video; an animated GIF is one by its content."""
    return os.path.splitext(name)[1].lower() in VIDEO_ENDINGS


def is_sound(name: str) -> bool:
    """Whether a file is named like a recording, or a place lies in one."""
    return os.path.splitext(file_of(name))[1].lower() in SOUND_ENDINGS


def has_moments(name: str) -> bool:
    """Whether a file of that name is a video or a recording: its parts are places, with their times."""
    return is_video(name) or is_sound(name)


def moment(place: str) -> tuple[str, float] | None:
    """Return (file, seconds) of a place in a video or a recording, such as ``holiday.mp4/12.480``; else None."""
    found = _MOMENT.fullmatch(place)
    return (found[1], float(found[2])) if found else None


def place_at(file: str, seconds: float) -> str:
    """The place of a frame, or of a part of a recording; see `moment`."""
    return f"{file}/{seconds:.3f}"


def file_of(place: str) -> str:
    """The file that a place lies in: itself, or the video or recording."""
    found = moment(place)
    return found[0] if found else place


def told(place: str) -> str:
    """A place as people read it: ``holiday.mp4 at 00:12``."""
    found = moment(place)
    return f"{found[0]} at {clock(found[1])}" if found else place


def holding(places: Iterable[str], pictures: int = 0) -> str:
    """How much is at some places, in words: "2 pictures, 15 frames of 1 video and 7 parts of 6 recordings".

    `pictures`: how many there are beside these.
    """
    found = list(places)
    frames = [at for at in map(moment, found) if at]
    pictures += len(found) - len(frames)
    kinds = {kind: [file for file, _ in frames if is_sound(file) == kind] for kind in (False, True)}
    said = [
        f"{counted(len(files), one)} of {counted(len(set(files)), whole)}"
        for files, one, whole in ((kinds[False], "frame", "video"), (kinds[True], "part", "recording"))
        if files
    ]
    said = [counted(pictures), *said] if pictures or not said else said
    return " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)


def clock(seconds: float) -> str:
    """A time as people say it: 00:12, 1:02:03."""
    whole = int(seconds)
    hours = f"{whole // 3600}:" if whole >= 3600 else ""
    return f"{hours}{whole // 60 % 60:02}:{whole % 60:02}"


def is_elsewhere(place: str) -> bool:
    """Whether a place is in a store or a container, and so no picture file of this machine."""
    return is_url(place) or CONTAINED.search(place) is not None


def address(given: str | os.PathLike[str]) -> str:
    """Return what a user typed as an absolute path, or as a URL without a slash at its end."""
    text = os.fspath(given)
    return text.rstrip("/") if is_url(text) else os.path.abspath(os.path.expanduser(text))


def file_system(place: str) -> tuple[Any, str]:
    """Return the pyarrow file system of a place, and what the place is called there.

    Raises: MissingExtra: a store that needs a package. UsageError: no such kind of store.
    """
    from pyarrow import fs

    scheme, found, rest = place.partition("://")
    if not found:
        return fs.LocalFileSystem(), place
    if scheme in ("s3", "gs", "file"):
        return _arrow(scheme, rest.partition("/")[0], os.environ.get("AWS_ENDPOINT_URL")), rest
    try:
        import fsspec
    except ImportError:
        raise MissingExtra(f"{scheme}:// is read by fsspec: pip install 'neocog[cluster]'") from None
    try:
        system, path = fsspec.core.url_to_fs(place)
    except ImportError as error:
        raise MissingExtra(f"{scheme}:// needs a package that is not installed ({error})") from None
    except ValueError as error:
        raise UsageError(f"{place}: {error}; expected a folder, s3://..., gs://..., or file://...") from None
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path


@lru_cache(16)
def _arrow(scheme: str, bucket: str, endpoint: str | None) -> Any:
    from pyarrow import fs

    if scheme == "file":
        return fs.LocalFileSystem()
    if scheme == "s3" and endpoint:
        return fs.S3FileSystem(endpoint_override=endpoint, region=os.environ.get("AWS_REGION", "us-east-1"))
    return fs.FileSystem.from_uri(f"{scheme}://{bucket}")[0]


def files_below(place: str) -> Iterator[tuple[str, Item]]:
    """Yield (place, item) of each file below a folder of a store, in the order of names; or of the one file.

    Raises: UsageError: there is nothing. DataError: the store cannot be listed.
    """
    from pyarrow import fs

    system, path = file_system(place)
    try:
        here = system.get_file_info(path)
        if here.type == fs.FileType.NotFound:
            raise UsageError(f"there is nothing at {place}; nothing was changed")
        below = system.get_file_info(fs.FileSelector(path, recursive=True)) if not here.is_file else [here]
    except OSError as error:
        raise DataError(f"{place} cannot be listed: {short(error)}") from None
    for info in sorted((one for one in below if one.is_file), key=lambda one: one.path):
        name = place + info.path[len(path) :] if not here.is_file else place
        yield name, Item(name, info.size, info.mtime_ns or 0)


def opened(place: str | os.PathLike[str]) -> Any:
    """Open a file for reading at any offset, as a pyarrow file. Raises: OSError."""
    if not isinstance(place, str) or not is_url(place):
        import pyarrow as pa

        return pa.OSFile(os.fsencode(place))  # takes names that are not UTF-8
    system, path = file_system(place)
    return system.open_input_file(path)


def short(error: BaseException) -> str:
    """What an error says, in one line."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip().splitlines()[0][:300]
