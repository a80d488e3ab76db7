"""What is read of one picture file: content hash, size, time, camera, place, words, how it looks, pixels for a net."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from neocog.data.decode import decode, inspect, prepare, quiet, readable, shrunk
from neocog.data.duplicates import at_side, look_at
from neocog.data.sound import begins
from neocog.data.sound import decode as sound
from neocog.errors import DecodeError
from neocog.library.metadata import MARKS, READER, words_in
from neocog.library.rows import content_hash
from neocog.records import Preprocess

_DATE_ORIGINAL, _DATE, _MAKE, _MODEL, _EXIF_IFD, _GPS_IFD = 0x9003, 0x0132, 0x010F, 0x0110, 0x8769, 0x8825
_HEAD = 262144  # bytes in which EXIF, XMP and IPTC begin: each may take 64 KB, and a colour profile more
_TRIES = 3  # at a file that changes while it is read


@dataclass(slots=True)
class Photo:
    """One picture. `pixels`, uint8 (C, size, size), are there until the net has seen them."""

    hash: str
    size: int
    mtime_ns: int
    inode: int
    width: int = 0
    height: int = 0
    taken: datetime | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    keywords: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    reader: int = READER  # of the three above
    small: np.ndarray | None = None  # uint8 (32, 32, 3), of which the next three are made, many at a time
    phash: int = 0
    flat: bool = False
    thumb: bytes = b""
    pixels: np.ndarray | None = None
    seen: tuple[np.ndarray, np.ndarray] | None = None  # features and probabilities, where another process made them


def read_steady(path: str) -> tuple[bytes, os.stat_result]:
    """Return the bytes of a file, and its status; both belong together even if it is being written.

    Raises: OSError: it cannot be read. DecodeError: it changed during each of three attempts.
    """
    for _ in range(_TRIES):
        with open(path, "rb") as file:
            before = os.fstat(file.fileno())
            data = file.read()
            after = os.fstat(file.fileno())
        if (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size) and len(data) == after.st_size:
            return data, after
    raise DecodeError("it changed while it was read; it is tried again next time")


def examine(data: bytes, pre: Preprocess, hash: str = "", mtime_ns: int = 0, inode: int = 0) -> Photo:
    """Decode a picture once, and return all that a library keeps of it but its `look`. Raises: DecodeError."""
    info = inspect(data)
    # the decoder's own down-scaling, but never below what the perceptual hash needs
    picture = decode(data, short_side=max(pre.resize, 64))
    if pre.resize >= 64:
        picture = shrunk(picture, pre.resize)
    photo = Photo(hash or content_hash(data), len(data), mtime_ns, inode, info.width, info.height)
    photo.small, photo.pixels = at_side(picture), prepare(picture, pre)
    if info.format not in ("GIF", "BMP", "PPM"):
        for name, value in exif_of(data).items():
            setattr(photo, name, value)
    return photo


def pixels_of(data: bytes, **how: Any) -> np.ndarray:
    """How a picture is shown, uint8 (H, W, 3): as `decode` has it; a part of a recording by its spectrogram."""
    if not begins(data):
        return decode(data, **how)
    from neocog.data.read_sound import picture_of

    return picture_of(*sound(data)).repeat(4, 0).repeat(2, 1)[:, :, None].repeat(3, 2)


def moves(data: bytes) -> bool:
    """Whether a file is a GIF of several pictures."""
    if not data.startswith(b"GIF8"):
        return False
    try:
        with readable(data) as (_, picture):
            return bool(getattr(picture, "is_animated", False))
    except DecodeError:
        return False


def look(photos: Sequence[Photo]) -> None:
    """Give photographs their perceptual hash and thumbnail: 0.5 ms for one alone, a tenth of it among 64."""
    made = look_at([photo.small for photo in photos])  # type: ignore[misc]
    for photo, hash, flat, thumb in zip(photos, made.hashes, made.flat, made.thumbs, strict=True):
        photo.phash, photo.flat, photo.thumb, photo.small = int(hash), bool(flat), thumb.tobytes(), None


def exif_of(data: bytes) -> dict[str, Any]:
    """Return what a file says of the time (the camera's clock), the camera, the place, and in words; {} if nothing."""
    tiff = data.startswith((b"II*\0", b"MM\0*"))
    jpeg = data.startswith(b"\xff\xd8")
    marks = (b"Exif", *MARKS[:2]) if jpeg else (b"Exif", b"eXIf", b"EXIF", *MARKS)
    marked = any(data.find(mark, 0, _HEAD) >= 0 for mark in marks)  # `re` takes 0.8 ms for this
    tail = max(0, len(data) - 65536)  # where WebP has it
    at_end = not jpeg and any(data.find(mark, tail) >= 0 for mark in (b"EXIF", b"XMP "))
    if not (tiff or marked or at_end):
        return {}
    try:
        with quiet(), readable(data) as (_, picture):
            exif = picture.getexif()
            details, place = exif.get_ifd(_EXIF_IFD), exif.get_ifd(_GPS_IFD)
            words = words_in(picture, exif, details)
    except (DecodeError, ValueError, TypeError, KeyError, OSError, SyntaxError):  # damaged EXIF is no damaged picture
        return {}
    made: dict[str, Any] = {kind: texts for kind, texts in words.items() if texts}
    taken = _time(details.get(_DATE_ORIGINAL)) or _time(exif.get(_DATE))
    if taken:
        made["taken"] = taken
    make, model = _text(exif.get(_MAKE)), _text(exif.get(_MODEL))
    if make or model:
        made["camera"] = model if model.lower().startswith(make.lower()) else f"{make} {model}".strip()
    latitude, longitude = _degrees(place.get(2), place.get(1), "S"), _degrees(place.get(4), place.get(3), "W")
    if latitude is not None and longitude is not None and abs(latitude) <= 90 and abs(longitude) <= 180:
        made |= {"latitude": latitude, "longitude": longitude}
    return made


def _text(value: Any) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:100]


def _time(value: Any) -> datetime | None:
    found = re.match(r"(\d{4})[:\-/.](\d\d)[:\-/.](\d\d)[ T](\d\d):(\d\d)(?::(\d\d))?", _text(value))
    if not found:
        return None
    try:
        made = datetime(*(int(part or 0) for part in found.groups()))  # type: ignore[arg-type]
    except ValueError:
        return None
    return made if made.year > 1825 else None  # before the first photograph: a clock that was never set


def _degrees(parts: Any, side: Any, negative: str) -> float | None:
    try:
        values = [float(part) for part in parts]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    total = sum(value / 60**i for i, value in enumerate(values[:3]))
    if not values or not math.isfinite(total) or total < 0:
        return None
    return -total if _text(side).upper().startswith(negative) else total
