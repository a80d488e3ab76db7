"""Pictures that are no files of their own: objects of a store, members of tar shards, rows of Parquet files, frames.

A *place* is the text that names one: ``s3://bucket/holiday/1.jpg`` for an object, ``s3://bucket/train-0.tar/0001.jpg``
and ``/data/train.parquet/17`` for a member of a container, ``/home/ann/holiday.mp4/12.480`` for a frame of a video.
"""

from __future__ import annotations

import io
import os
import tarfile
from functools import lru_cache
from typing import Any

import numpy as np

from neocog.data.stores import CONTAINED, Item, file_of, is_sound, moment, opened, short
from neocog.errors import DataError

_BUFFER = 1 << 20  # bytes that are fetched at once while headers are read
_KEPT_OPEN = 16  # shards, or Parquet files


def members(container: Item) -> tuple[list[tuple[str, Item]], list[tuple[str, str]]]:
    """Return the pictures in a container as (place, item), and (place, reason) of what cannot be read in it."""
    full = container.full
    try:
        if full.lower().endswith(".parquet"):
            count = len(_rows(full, container.mtime_ns))
            return [(f"{full}/{i}", Item(full, -1, container.mtime_ns, i)) for i in range(count)], []
        from neocog.data.shards import pictures_in  # loads what decodes pictures, which a search by word does not need

        with opened(full) as file:
            found, problems = pictures_in(io.BufferedReader(file, _BUFFER), full)
    except (OSError, DataError) as error:
        return [], [(full, short(error))]
    made = [(f"{full}/{name}", Item(full, size, container.mtime_ns, offset)) for name, offset, size in found]
    return made, [(one.key, one.reason) for one in problems]


def read(item: Item) -> bytes:
    """Return the bytes of a picture. Raises: OSError, DataError."""
    if item.part < 0:
        with opened(item.full) as file:
            return file.read()  # type: ignore[no-any-return]
    if item.full.lower().endswith(".parquet"):
        return _rows(item.full, item.mtime_ns).read(item.part)
    data: bytes = _shard(item.full, item.mtime_ns).read_at(item.size, item.part)
    if len(data) < item.size:
        raise DataError("the shard has become shorter since it was listed")
    return data


def read_place(place: str) -> bytes:
    """Return the bytes of one picture by its place; a tar is searched for it, a video from the key packet before it.

    Of a recording a part as a WAV file: the one at that time, or the longest.

    Raises: OSError, DataError; MissingExtra: a video or recording, without the extra that reads it.
    """
    if is_sound(place):
        from neocog.data.recordings import part

        return part(*(moment(place) or (place,)))
    if (found := moment(place)) is not None:
        from neocog.data.video import frame_at

        return plain_bytes(frame_at(*found))
    end = next((m.end(1) for m in CONTAINED.finditer(place) if m.end() < len(place)), None)
    if end is None:
        return read(Item(place, -1, 0))
    full, name = place[:end], place[end + 1 :]
    if full.lower().endswith(".parquet"):
        return read(Item(full, -1, 0, int(name)))
    with opened(full) as file, tarfile.open(fileobj=io.BufferedReader(file, _BUFFER), mode="r:") as tar:
        try:
            member = tar.extractfile(name)
        except KeyError:
            raise DataError(f"{full} has no member {name}") from None
        return member.read() if member else b""


def plain_bytes(picture: np.ndarray) -> bytes:
    """A picture, uint8 (H, W, 3), as the bytes of a file: PPM, which costs no time."""
    return b"P6 %d %d 255\n" % (picture.shape[1], picture.shape[0]) + picture.tobytes()


def is_there(place: str) -> bool:
    """Whether the file of a place is on this machine."""
    return os.path.isfile(file_of(place))


@lru_cache(_KEPT_OPEN)
def _shard(full: str, mtime_ns: int) -> Any:
    return opened(full)


@lru_cache(_KEPT_OPEN)
def _rows(full: str, mtime_ns: int) -> Any:
    from neocog.data.parquet import picture_rows

    return picture_rows(full)
