"""Pictures of a library as others may see them: asked for by hash, and nothing but what was indexed is given out.

A file is read only if it lies, all links followed, in a folder of the library, and given out only if its content has
the hash that was asked for. Thumbnails are kept as files in the library's ``cache/thumbnails``, or in the user's cache
where the library cannot be written.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from neocog.data.decode import decode, inspect
from neocog.data.places import read_place
from neocog.data.sound import begins
from neocog.data.stores import file_of, is_url, is_video
from neocog.errors import DataError, LibraryError, MissingExtra
from neocog.files import cache_folder, write_atomically
from neocog.library.photo import pixels_of
from neocog.library.rows import HASH, content_hash
from neocog.library.store import Store
from neocog.library.view import View, view_of

SIDES = (160, 320, 640, 1600)  # pixels of the long side of a thumbnail
MAX_PIXELS = 200_000_000
_QUALITY = 82
_PLAIN = {"JPEG": "image/jpeg", "PNG": "image/png", "GIF": "image/gif", "WEBP": "image/webp", "AVIF": "image/avif"}


class NoPicture(LibraryError):
    """The library has no picture of that hash, or its file is not to be had."""


def row_of(view: View, hash: str) -> int:
    """Return the row of a picture. Raises: NoPicture: the library has none of that hash."""
    row = int(view.rows_of([hash])[0]) if HASH.fullmatch(hash) else -1
    if row < 0:
        raise NoPicture(
            f"the library has no picture {hash[:40]!r}; was its file removed, or is the library another one?"
        )
    return row


def read(store: Store, hash: str) -> bytes:
    """Return the bytes of a picture's file.

    Raises:
        NoPicture: it is not in the library, its files are gone or changed, or a link leads out of the library's
            folders.
    """
    view = view_of(store)
    why = "it has no file"
    for path in view.paths(row_of(view, hash)):
        try:
            if not _inside(store, path):
                why = "a link leads out of the folders that were indexed"
                continue
            data = read_place(path)
        except (OSError, DataError, MissingExtra) as error:
            why = getattr(error, "strerror", None) or str(error)
            continue
        if content_hash(data) == hash:
            return data
        why = "it has changed since it was indexed"
    raise NoPicture(f"the picture {hash} cannot be shown: {why}; 'neocog index' brings the library up to date")


def film(store: Store, hash: str) -> str:
    """Return the video file that a frame is of. Raises: NoPicture: it is of none, or the file is not to be had."""
    view = view_of(store)
    for path in view.paths(row_of(view, hash)):
        file = file_of(path)
        if is_video(file) and os.path.isfile(file) and _inside(store, file):
            return file
    raise NoPicture(f"{hash} is no frame of a video whose file is there")


def _inside(store: Store, path: str) -> bool:
    """Whether a file lies, all links followed, in a folder of the library; objects of stores do."""
    roots = [os.path.join(os.path.realpath(store.name_of(text)), "") for text in store.folders or store.unfinished]
    return is_url(path) or os.path.realpath(path).startswith(tuple(roots))


def original(store: Store, hash: str) -> tuple[bytes, str]:
    """Return a picture, or a part of a recording, as it is, and its media type; what browsers cannot show becomes JPEG.

    Raises: NoPicture, DecodeError.
    """
    data = read(store, hash)
    if begins(data):
        return data, "audio/wav"
    kind = inspect(data).format
    return (data, _PLAIN[kind]) if kind in _PLAIN else (_jpeg(decode(data, max_pixels=MAX_PIXELS), None), "image/jpeg")


def kept_thumbnail(store: Store, hash: str, side: int) -> Path:
    """Return the file where the thumbnail of a picture is, or will be. Raises: NoPicture: `hash` is none."""
    if not HASH.fullmatch(hash):
        raise NoPicture(f"expected the hash of a picture, 32 hexadecimal digits, got {hash[:40]!r}")
    folder = store.folder / "cache"
    if store.read_only:
        folder = cache_folder() / content_hash(os.fsencode(store.folder))
    return folder / "thumbnails" / str(side) / hash[:2] / f"{hash}.jpg"


def thumbnail(store: Store, hash: str, side: int) -> bytes:
    """Return a JPEG of a picture, at most `side` (one of `SIDES`) pixels wide and high; made once.

    Raises: NoPicture: see `read`. DecodeError: the file cannot be decoded.
    """
    if side not in SIDES:
        raise NoPicture(f"expected a thumbnail of {', '.join(map(str, SIDES))} pixels, got {side}")
    path = kept_thumbnail(store, hash, side)
    if path.is_file():
        row_of(view_of(store), hash)
        return path.read_bytes()
    made = _jpeg(pixels_of(read(store, hash), short_side=side, max_pixels=MAX_PIXELS), side)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, made, durable=False)
    except OSError:  # a full disk keeps nothing, and shows the picture nevertheless
        pass
    return made


def sample(store: Store, count: int, side: int = 320) -> list[bytes]:
    """Return thumbnails of up to `count` pictures, evenly spread; what cannot be read is left out."""
    hashes = view_of(store).hashes
    found = []
    for row in np.linspace(0, len(hashes) - 1, min(count, len(hashes))).astype(int):
        try:
            found.append(thumbnail(store, str(hashes[row]), side))
        except (NoPicture, DataError):
            continue
    return found


def _jpeg(pixels: Any, side: int | None) -> bytes:
    picture = Image.fromarray(pixels)
    if side is not None:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()
