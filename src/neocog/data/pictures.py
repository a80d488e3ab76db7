"""The pictures of a split as bytes of one size: all held as one tensor, or decoded by threads as they are needed."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neocog.data import augment as aug
from neocog.data.decode import decoded, placed
from neocog.data.source import Source
from neocog.errors import DataError
from neocog.machine import usable_cores
from neocog.records import Preprocess, Problem

_STEP = 256
_TINY = 2e-4  # seconds to decode one picture; below that one thread is faster than several
Placed = tuple[np.ndarray, np.ndarray, tuple[int, int]]  # uint8 (H, W, C), and what `decode.placed` says of it


def workers() -> int:
    """Threads that decode: the processors this process may use, at most 16 (Pillow decodes outside the GIL)."""
    return min(16, usable_cores())


class Gathered(NamedTuple):
    """Inputs of a batch: of pictures bytes (B, H, W, C); which could be read; and where they went (decode.placed)."""

    pixels: Tensor
    valid: Tensor
    places: Tensor
    sizes: Tensor


class Input(ABC):
    """The inputs of some samples.

    Attributes:
        problems: those that cannot be read.
        streamed: whether threads read them when their batch comes near: then they have no `held`.
        mixes: whether two of them can be mixed, number by number.
    """

    streamed: bool = False
    mixes: bool = False

    def __init__(self, pre: Preprocess, problems: list[Problem] | None = None) -> None:
        self.pre, self.problems = pre, [] if problems is None else problems
        self._noted: set[int] = set()
        self._noting = threading.Lock()

    @abstractmethod
    def __len__(self) -> int: ...

    def held(self, rows: Tensor, choice: Tensor | None = None) -> Gathered:
        """Some of them; `choice`: float (B,) in [0, 1), of several views that one."""
        raise NotImplementedError

    def read(self, row: int, box: Tensor | None = None, smallest: float = 0.0) -> Any:
        """One of them, for `gathered`; None (and a problem noted) if it cannot be read. Thread-safe."""
        raise NotImplementedError

    def gathered(self, read: list[Any], choice: Tensor | None = None) -> Gathered:
        """What threads have read, as a batch."""
        raise NotImplementedError

    def unread(self, source: Source, index: int, error: Exception) -> None:
        """Note that an input cannot be read, once."""
        with self._noting:
            if index not in self._noted:
                self._noted.add(index)
                self.problems.append(Problem(source.key(index), str(error)))


class Held(Input):
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
        super().__init__(pre)
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
                    self.unread(source, index, error)

        load_all(load, len(indices), progress)
        self.kept = np.flatnonzero(good)
        if len(self.kept) < len(indices):
            pixels, matrices, sizes = pixels[good], matrices[good], sizes[good]
        self.places = torch.from_numpy(matrices)  # float64 (N, 2, 3), see decode.placed
        self.sizes = torch.from_numpy(sizes)
        self.problems.sort(key=lambda p: p.key)
        self.pixels = torch.from_numpy(pixels).to(device)

    def __len__(self) -> int:
        return len(self.pixels)

    def held(self, rows: Tensor, choice: Tensor | None = None) -> Gathered:
        pixels = self.pixels[rows.to(self.pixels.device)]
        return Gathered(pixels, torch.ones(len(rows), dtype=torch.bool), self.places[rows], self.sizes[rows])


def load_all(load: Callable[[range], None], count: int, progress: Callable[[int, int], None] | None) -> None:
    """Load `count` rows, 256 at a time, by threads unless they are tiny.

    Decoding a tiny picture is mostly Python, where threads only wait for each other: 137 us for a picture of CIFAR-10
    with two of them, 100 with one.
    """
    chunks = [range(i, min(i + _STEP, count)) for i in range(0, count, _STEP)]
    if not chunks:
        return
    load(chunks[0][:1])  # opens the file
    begin = time.perf_counter()
    load(chunks[0][1:])
    tiny = time.perf_counter() - begin < _TINY * (len(chunks[0]) - 1)
    with ThreadPoolExecutor(1 if tiny else workers()) as pool:
        for chunk, _ in zip(chunks, (map if tiny else pool.map)(load, [range(0), *chunks[1:]]), strict=True):
            if progress:
                progress(chunk.stop, count)


class Streamed(Input):
    """Some pictures of a source, decoded by threads when their batch comes near; memory does not grow with N."""

    mixes = streamed = True

    def __init__(self, source: Source, indices: np.ndarray, pre: Preprocess) -> None:
        super().__init__(pre)
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, row: int, box: Tensor | None = None, smallest: float = 0.0) -> Placed | None:
        """One picture, uint8 (H, W, C), and where it went; cut out by `box`, uniform numbers."""
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
            self.unread(self.source, index, error)
            return None

    def gathered(self, read: list[Placed | None], choice: Tensor | None = None) -> Gathered:
        return gathered_pictures(read, self.pre)


def gathered_pictures(pictures: list[Placed | None], pre: Preprocess) -> Gathered:
    """Pictures of one size as a batch; those that could not be read are black."""
    b = len(pictures)
    size = next((picture[0].shape[:2] for picture in pictures if picture is not None), pre.input)
    pixels = torch.zeros(b, *size, pre.channels, dtype=torch.uint8)
    places, sizes = torch.eye(2, 3, dtype=torch.float64).repeat(b, 1, 1), torch.ones(b, 2, dtype=torch.int64)
    valid = torch.tensor([picture is not None for picture in pictures], dtype=torch.bool)
    for row, picture in enumerate(pictures):
        if picture is not None:
            pixels[row] = torch.from_numpy(picture[0])
            places[row], sizes[row] = torch.from_numpy(picture[1]), torch.tensor(picture[2])
    return Gathered(pixels, valid, places, sizes)


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
