"""One pass over all pictures of a source: header, pixels once, fingerprints; what `check` and the split judge.

Columns, not objects: 350 bytes for each picture, so a million pictures take 350 MB and nothing more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from neocog.data.decode import decode, inspect
from neocog.data.duplicates import THUMB, Look, content_hash, look_at
from neocog.data.source import Source
from neocog.errors import NeocogError
from neocog.machine import usable_cores

Progress = Callable[[int, int], None]  # pictures done, pictures in all

_BLOCK = 64  # pictures for one task of a thread: their reduced pixels are held together
_numbering = threading.Lock()
_DECODE_SIDE = 64  # the hash needs 32; twice that leaves nothing of the JPEG decoder's own scaling to see

_ENDINGS = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"), "PNG": ("png",), "GIF": ("gif",), "WEBP": ("webp",),
    "TIFF": ("tif", "tiff"), "BMP": ("bmp", "dib"), "PPM": ("ppm", "pgm", "pbm", "pnm"), "AVIF": ("avif",),
    "JPEG2000": ("jp2", "j2k"),
}  # fmt: skip
_KNOWN = {ending for endings in _ENDINGS.values() for ending in endings}


@dataclass(frozen=True)
class Survey:
    """What one pass over N pictures found. Rows of unreadable pictures are zero and in no `groups`.

    `sizes` int32 (N, 2): width and height, upright. `kinds` int16 (N,): index into `kind_names`, pairs of (format,
    mode). `content` uint64 (N, 2): the first half of the content's sha256.
    """

    readable: np.ndarray
    sizes: np.ndarray
    kinds: np.ndarray
    kind_names: list[tuple[str, str]]
    rotated: np.ndarray
    animated: np.ndarray
    misnamed: np.ndarray
    content: np.ndarray
    look: Look
    reasons: dict[int, str] = field(default_factory=dict)

    def exact_pairs(self) -> np.ndarray:
        """Return pairs (first, other), int64 (P, 2), of pictures with the same bytes."""
        rows = np.flatnonzero(self.readable)
        _, first, inverse = np.unique(self.content[rows], axis=0, return_index=True, return_inverse=True)
        pairs = np.stack([rows[first[inverse.reshape(-1)]], rows], axis=1)
        return pairs[pairs[:, 0] != pairs[:, 1]]


def survey(
    source: Source,
    indices: np.ndarray | None = None,
    *,
    workers: int | None = None,
    details: bool = True,
    progress: Progress | None = None,
) -> Survey:
    """Read and decode every picture of `source` (or `indices` of it) once; a bad file never stops it.

    Args:
        source: where the pictures come from.
        indices: rows of the source; the result's rows are theirs, in this order. All if None.
        workers: threads; None uses every core.
        details: also what only a header or all bytes tell (size, format, rotation, content hash); False is faster.
        progress: called with (pictures done, pictures in all), from the calling thread.
    """
    chosen = np.arange(len(source)) if indices is None else np.asarray(indices, dtype=np.int64)
    n = len(chosen)
    hashes, thumbs = np.zeros((2, n), np.uint64), np.zeros((n, THUMB), np.uint8)
    look = Look(hashes[0], thumbs, np.zeros(n, bool), np.zeros(n, bool), hashes[1])
    found = Survey(
        readable=np.zeros(n, bool),
        sizes=np.zeros((n, 2), np.int32),
        kinds=np.full(n, -1, np.int16),
        kind_names=[],
        rotated=np.zeros(n, bool),
        animated=np.zeros(n, bool),
        misnamed=np.zeros(n, bool),
        content=np.zeros((n, 2), np.uint64),
        look=look,
    )
    kinds: dict[tuple[str, str], int] = {}

    def work(start: int) -> int:
        stop = min(start + _BLOCK, n)
        rows, pictures = [], []
        for row in range(start, stop):
            try:
                picture = _one(source, int(chosen[row]), row, found, kinds, details)
            except Exception as error:  # a plugin, the disk, memory: whatever it was, the other pictures go on
                found.reasons[row] = _reason(source, int(chosen[row]), error)
                continue
            rows.append(row)
            pictures.append(picture)
        # rows of different tasks never overlap, so threads may write into the columns
        for column, values in zip(found.look, look_at(pictures), strict=True):
            column[rows] = values
        found.readable[rows] = True
        return stop

    pool = ThreadPoolExecutor(max_workers=workers or usable_cores(), thread_name_prefix="survey")
    try:
        for done in pool.map(work, range(0, n, _BLOCK)):
            if progress is not None:
                progress(done, n)
    finally:
        pool.shutdown(cancel_futures=True)
    found.kind_names.extend(sorted(kinds, key=kinds.__getitem__))
    return found


def _one(
    source: Source, index: int, row: int, found: Survey, kinds: dict[tuple[str, str], int], details: bool
) -> np.ndarray:
    """Read one picture, write what its header says into `row`, and return its pixels, at least 64 on the short side."""
    data = source.read(index)
    if isinstance(data, np.ndarray):
        picture, kind = data, ("pixels", "RGB" if data.ndim == 3 and data.shape[2] == 3 else "L")
        found.sizes[row] = data.shape[1], data.shape[0]
    else:
        picture = decode(data, short_side=_DECODE_SIDE)
        if details:
            info = inspect(data)
            kind = (info.format, info.mode)
            found.sizes[row] = info.width, info.height
            found.rotated[row], found.animated[row] = info.rotated, info.frames > 1
            ending = source.key(index).rpartition(".")[2].lower()
            found.misnamed[row] = ending in _KNOWN and ending not in _ENDINGS.get(info.format, (ending,))
    if details:
        with _numbering:  # two threads that meet two new kinds at once must not give both one number
            found.kinds[row] = kinds.setdefault(kind, len(kinds))
        half = bytes.fromhex(content_hash(data)[:32])
        found.content[row] = np.frombuffer(half, np.uint64)
    return picture


def _reason(source: Source, index: int, error: Exception) -> str:
    said = str(error).strip() or type(error).__name__
    if not isinstance(error, NeocogError):
        said = f"{type(error).__name__}: {said}"[:200]
    return said.removeprefix(f"{source.key(index)}: ")
