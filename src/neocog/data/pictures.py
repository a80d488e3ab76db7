"""The pictures of a split as bytes of one size: all held as one tensor, or decoded by threads as they are needed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from neocog.data import augment as aug
from neocog.data.decode import decoded, placed
from neocog.data.source import Source
from neocog.errors import DataError
from neocog.records import Preprocess, Problem

_TINY = 2e-4  # seconds to decode one picture; below that one thread is faster than several
Placed = tuple[np.ndarray, np.ndarray, tuple[int, int]]  # uint8 (H, W, C), and what `decode.placed` says of it


def workers() -> int:
    """Threads that decode: the processors this process may use, at most 16 (Pillow decodes outside the GIL)."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, usable))


class Held:
    """Some pictures of a source, decoded once, as one uint8 tensor (N, H, W, C) on the device.

    Unreadable pictures are left out and stand in `problems`; `kept` says which rows of `indices` are there.
    """

    mixes = True

    def __init__(
        self,
        source: Source,
        indices: np.ndarray,
        pre: Preprocess,
        device: torch.device,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.problems: list[Problem] = []
        pixels = np.empty((len(indices), *pre.input, pre.channels), dtype=np.uint8)
        matrices, sizes = np.empty((len(indices), 2, 3)), np.empty((len(indices), 2), np.int64)
        good = np.ones(len(indices), dtype=bool)

        def load(rows: range) -> None:
            for row in rows:
                index = int(indices[row])
                try:
                    made, matrices[row], sizes[row] = placed(source.read(index), pre)
                    pixels[row] = made.transpose(1, 2, 0)
                except (DataError, OSError) as error:
                    good[row] = False
                    self.problems.append(Problem(source.key(index), str(error)))

        step = 256
        chunks = [range(i, min(i + step, len(indices))) for i in range(0, len(indices), step)]
        for done in loaded(load, chunks):
            if progress:
                progress(min(done * step, len(indices)), len(indices))
        self.kept = np.flatnonzero(good)
        if len(self.kept) < len(indices):
            pixels, matrices, sizes = pixels[good], matrices[good], sizes[good]
        self.places = torch.from_numpy(matrices)  # float64 (N, 2, 3), see decode.placed
        self.sizes = torch.from_numpy(sizes)
        self.problems.sort(key=lambda p: p.key)
        self.pixels = torch.from_numpy(pixels).to(device)
        self.pre = pre

    def __len__(self) -> int:
        return len(self.pixels)


def loaded(load: Callable[[range], None], chunks: list[range]) -> Iterator[int]:
    """Load every chunk, by threads unless pictures are tiny; yields how many chunks are done.

    Decoding a tiny picture is mostly Python, where threads only wait for each other: 137 us for a picture of CIFAR-10
    with two of them, 100 with one.
    """
    if not chunks:
        return
    load(chunks[0][:1])  # opens the file
    begin = time.perf_counter()
    load(chunks[0][1:])
    tiny = time.perf_counter() - begin < _TINY * (len(chunks[0]) - 1)
    yield 1
    if tiny:
        for done, chunk in enumerate(chunks[1:], 2):
            load(chunk)
            yield done
        return
    with ThreadPoolExecutor(workers()) as pool:
        yield from (done for done, _ in enumerate(pool.map(load, chunks[1:]), 2))


class Streamed:
    """Some pictures of a source, decoded by threads when their batch comes near; memory does not grow with N."""

    mixes = True

    def __init__(self, source: Source, indices: np.ndarray, pre: Preprocess) -> None:
        self.source, self.indices, self.pre = source, indices, pre
        self.problems: list[Problem] = []
        self._seen: set[int] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.indices)

    def picture(self, row: int, box: Tensor | None, smallest: float) -> Placed | None:
        """One picture, uint8 (H, W, C), and where it went; None (and a problem noted) if it cannot be read."""
        index = int(self.indices[row])
        try:
            data = self.source.read(index)
            if box is not None and self.pre.fit == "tile":
                return _piece(data, box, self.pre)
            if box is None or smallest <= 0:
                made, matrix, size = placed(data, self.pre)
                return made.transpose(1, 2, 0), matrix, size
            return _cropped(data, box, self.pre, smallest)
        except (DataError, OSError) as error:
            with self._lock:
                if index not in self._seen:
                    self._seen.add(index)
                    self.problems.append(Problem(self.source.key(index), str(error)))
            return None


def _piece(data: bytes | np.ndarray, uniform: Tensor, pre: Preprocess) -> Placed:
    """A piece of the picture at its own scale, anywhere in it; one that is smaller is continued by its mirror image."""
    whole, matrix, size = placed(data, pre)
    room = [have - want for have, want in zip(size, pre.input, strict=True)]
    top, left = (int(float(u) * (free + 1)) if free >= 0 else free // 2 for u, free in zip(uniform, room, strict=False))
    (height, width), (y, x) = pre.input, (max(0, top), max(0, left))
    piece = whole[:, y : y + height, x : x + width].transpose(1, 2, 0)
    around = [(max(0, -start), max(0, -free + start)) for start, free in ((top, room[0]), (left, room[1]))]
    around = [(before, after) if free < 0 else (0, 0) for (before, after), free in zip(around, room, strict=True)]
    matrix[:, 2] = -left, -top
    return np.pad(piece, (*around, (0, 0)), mode="reflect"), matrix, size


def _cropped(data: bytes | np.ndarray, uniform: Tensor, pre: Preprocess, smallest: float) -> Placed:
    """A random resized crop, cut out of the decoded picture."""
    from PIL import Image

    height, width = pre.input
    # a crop of share s is read at a scale where its own short side is about the net's input
    if isinstance(data, bytes):
        raw, size = decoded(data, short_side=int(min(height, width) / smallest**0.5))
    else:
        raw, size = data, (data.shape[0], data.shape[1])
    left, top, right, bottom = aug.crop_box(uniform, raw.shape[0], raw.shape[1], smallest)
    image = Image.fromarray(raw).convert("L" if pre.channels == 1 else "RGB")
    image = image.resize((width, height), Image.Resampling.BILINEAR, box=(left, top, right, bottom), reducing_gap=2.0)
    across, down = width / (right - left), height / (bottom - top)
    matrix = np.array(
        [[across * raw.shape[1] / size[1], 0.0, -left * across], [0.0, down * raw.shape[0] / size[0], -top * down]]
    )
    return np.array(image).reshape(height, width, pre.channels), matrix, size  # a copy: PyTorch wants it writable
