"""Batches for the loop: pictures held as one uint8 tensor, or decoded as they are needed.

Which pictures an epoch shows, in which order and how changed, is a function of (seed, epoch) alone. So a training
can be continued at any step, and N processes see between them what one would see.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neocog.data import augment as aug
from neocog.data.decode import decode, prepare
from neocog.data.source import Source
from neocog.errors import DataError
from neocog.records import Preprocess, Problem

_TINY = 2e-4  # seconds to decode one picture; below that one thread is faster than several
IGNORED = -100  # label of a picture that could not be read: no loss, no metric


@dataclass(slots=True)
class Batch:
    """Normalised pictures (B, C, H, W), channels-last, and labels (B,); `partner` and `share` if they were mixed."""

    x: Tensor
    y: Tensor
    partner: Tensor | None = None
    share: float = 1.0


def workers() -> int:
    """Threads that decode: the processors this process may use, at most 16 (Pillow decodes outside the GIL)."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, usable))


class Held:
    """Some pictures of a source, decoded once, as one uint8 tensor (N, H, W, C) on the device.

    Unreadable pictures are left out and stand in `problems`; `kept` says which rows of `indices` are there.
    """

    def __init__(
        self,
        source: Source,
        indices: np.ndarray,
        pre: Preprocess,
        device: torch.device,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.problems: list[Problem] = []
        pixels = np.empty((len(indices), pre.size, pre.size, pre.channels), dtype=np.uint8)
        good = np.ones(len(indices), dtype=bool)

        def load(rows: range) -> None:
            for row in rows:
                index = int(indices[row])
                try:
                    pixels[row] = prepare(source.read(index), pre).transpose(1, 2, 0)
                except (DataError, OSError) as error:
                    good[row] = False
                    self.problems.append(Problem(source.key(index), str(error)))

        step = 256
        chunks = [range(i, min(i + step, len(indices))) for i in range(0, len(indices), step)]
        for done in _loaded(load, chunks):
            if progress:
                progress(min(done * step, len(indices)), len(indices))
        self.kept = np.flatnonzero(good)
        if len(self.kept) < len(indices):
            pixels = pixels[good]
        self.problems.sort(key=lambda p: p.key)
        self.pixels = torch.from_numpy(pixels).to(device)
        self.pre = pre

    def __len__(self) -> int:
        return len(self.pixels)

    def get(self, rows: Tensor, draws: aug.Draws | None, how: aug.Augment) -> Tensor:
        """Pictures (B, H, W, C) as bytes, moved and mirrored."""
        pictures = self.pixels[rows.to(self.pixels.device)]
        return pictures if draws is None else aug.shift_and_flip(pictures, draws, black=how.crop > how.translate)


def _loaded(load: Callable[[range], None], chunks: list[range]) -> Iterator[int]:
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

    def __init__(self, source: Source, indices: np.ndarray, pre: Preprocess) -> None:
        self.source, self.indices, self.pre = source, indices, pre
        self.problems: list[Problem] = []
        self._seen: set[int] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.indices)

    def picture(self, row: int, box: Tensor | None, smallest: float) -> np.ndarray | None:
        """One picture, uint8 (H, W, C); None (and a problem noted) if it cannot be read."""
        index = int(self.indices[row])
        try:
            data = self.source.read(index)
            if box is None or smallest <= 0:
                return prepare(data, self.pre).transpose(1, 2, 0)
            # a crop of share s is read at a scale where its own short side is about the net's input
            raw = decode(data, short_side=int(self.pre.size / smallest**0.5)) if isinstance(data, bytes) else data
            return _cropped(raw, box, self.pre, smallest)
        except (DataError, OSError) as error:
            with self._lock:
                if index not in self._seen:
                    self._seen.add(index)
                    self.problems.append(Problem(self.source.key(index), str(error)))
            return None


def _cropped(raw: np.ndarray, uniform: Tensor, pre: Preprocess, smallest: float) -> np.ndarray:
    from PIL import Image

    box = aug.crop_box(uniform, raw.shape[0], raw.shape[1], smallest)
    image = Image.fromarray(raw).convert("L" if pre.channels == 1 else "RGB")
    image = image.resize((pre.size, pre.size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    return np.array(image).reshape(pre.size, pre.size, pre.channels)  # a copy: PyTorch wants it writable


class Batches:
    """Training batches of `pictures`, for ever; `batch(step)` depends on nothing but its arguments.

    Args:
        pictures: Held or Streamed.
        labels: int64 (N,), one for each picture.
        batch_size: of all processes together; each gets its `rank`-th part.
        weights: how often each picture is to be drawn (None: each once in an epoch).
        dtype: of the pictures that come out.
    """

    def __init__(
        self,
        pictures: Held | Streamed,
        labels: Tensor,
        how: aug.Augment,
        batch_size: int,
        *,
        seed: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = True,
        weights: Tensor | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if len(pictures) == 0:
            raise DataError("no training picture is left; 'neocog check' tells what is wrong with them")
        self.pictures, self.labels, self.how, self.seed = pictures, labels, how, seed
        self.batch_size = min(batch_size, len(pictures))
        if self.batch_size % world:
            raise DataError(f"a batch of {self.batch_size} cannot be shared by {world} processes; use a multiple")
        self.steps_per_epoch = len(pictures) // self.batch_size
        self.device, self.dtype, self.weights = device, dtype, weights
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.rank, self.world = rank, world
        self.waited = 0.0  # seconds that the loop has waited for pictures
        pre = pictures.pre
        self._mean = torch.tensor(pre.mean[: pre.channels], device=device)[None, :, None, None]
        self._std = torch.tensor(pre.std[: pre.channels], device=device)[None, :, None, None]
        self._epoch = -1

    def _begin(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        n, g = len(self.pictures), aug.generator(self.seed, epoch, 0)
        if self.weights is None:
            self._order = torch.randperm(n, generator=g)
        else:
            self._order = torch.multinomial(self.weights, n, replacement=True, generator=g)
        self._draws = aug.draw(self.how, n, self.seed, epoch)
        self._epoch = epoch

    def _rows(self, step: int) -> tuple[Tensor, aug.Draws]:
        epoch, within = divmod(step, self.steps_per_epoch)
        self._begin(epoch)
        share = self.batch_size // self.world
        first = within * self.batch_size + self.rank * share
        rows = self._order[first : first + share]
        return rows, self._draws.at(rows)

    def stream(self, step: int) -> Iterator[Batch]:
        """Batches from `step` on, without end. Streamed pictures are decoded a few batches ahead."""
        if isinstance(self.pictures, Held):
            while True:
                begin = time.perf_counter()
                rows, draws = self._rows(step)
                batch = self._finish(self.pictures.get(rows, draws, self.how), self.labels[rows], draws, step)
                self.waited += time.perf_counter() - begin
                yield batch
                step += 1
        ahead: list[tuple[Tensor, aug.Draws, list]] = []  # type: ignore[type-arg]
        pool = ThreadPoolExecutor(workers(), thread_name_prefix="neocog-decode")
        try:
            coming = step
            while True:
                while len(ahead) < 3:
                    rows, draws = self._rows(coming)
                    boxes = draws.box if self.how.resized_crop else [None] * len(rows)
                    jobs = [
                        pool.submit(self.pictures.picture, int(r), b, self.how.resized_crop)
                        for r, b in zip(rows, boxes, strict=True)
                    ]
                    ahead.append((rows, draws, jobs))
                    coming += 1
                begin = time.perf_counter()
                rows, draws, jobs = ahead.pop(0)
                pixels, labels = _gathered([job.result() for job in jobs], self.labels[rows], self.pictures.pre)
                pixels = aug.shift_and_flip(pixels.to(self.device), draws, black=self.how.crop > self.how.translate)
                batch = self._finish(pixels, labels, draws, step)
                self.waited += time.perf_counter() - begin
                yield batch
                step += 1
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _finish(self, pixels: Tensor, labels: Tensor, draws: aug.Draws, step: int) -> Batch:
        """Bytes (B, H, W, C) to a normalised, augmented batch."""
        x = pixels.permute(0, 3, 1, 2).float() / 255.0  # (B, C, H, W); the strides make it channels-last
        if self.how.colour:
            x = aug.jitter_colour(x, draws)
        x = (x - self._mean) / self._std
        if self.how.resized_crop and isinstance(self.pictures, Held):
            x = aug.resized_crops(x, draws, self.how.resized_crop)
        if self.how.cutout:
            x = aug.cut_out(x, draws, self.how.cutout)
        x, partner, share = aug.mix(x, self.how, aug.generator(self.seed, step, 3))
        x = x.to(self.dtype).contiguous(memory_format=self.layout)
        return Batch(x, labels.to(self.device), partner, share)


def _gathered(pictures: list[np.ndarray | None], labels: Tensor, pre: Preprocess) -> tuple[Tensor, Tensor]:
    pixels = torch.zeros(len(pictures), pre.size, pre.size, pre.channels, dtype=torch.uint8)
    labels = labels.clone()
    for row, picture in enumerate(pictures):
        if picture is None:
            labels[row] = IGNORED
        else:
            pixels[row] = torch.from_numpy(picture)
    return pixels, labels


def in_order(
    pictures: Held | Streamed,
    batch_size: int,
    device: torch.device,
    *,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = True,
    chosen: Tensor | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every picture once (or those in `chosen`), unchanged: pairs of rows (B,) and normalised pictures (B, C, H, W).

    Pictures that cannot be read are left out; they stand in ``pictures.problems``.
    """
    how = aug.Augment()
    labels = torch.arange(len(pictures)) if chosen is None else chosen
    if len(labels) == 0:
        return
    plain = Batches(pictures, labels, how, batch_size, seed=0, device=device, dtype=dtype, channels_last=channels_last)
    pool = None if isinstance(pictures, Held) else ThreadPoolExecutor(workers())
    try:
        for begin in range(0, len(labels), batch_size):
            rows = labels[begin : begin + batch_size]
            if isinstance(pictures, Held):
                pixels, kept = pictures.get(rows, None, how), rows
            else:
                read = list(pool.map(lambda r: pictures.picture(int(r), None, 0.0), rows))  # type: ignore[union-attr]
                pixels, kept = _gathered(read, rows, pictures.pre)
                good = kept != IGNORED
                pixels, kept = pixels[good].to(device), kept[good]
            draws = aug.draw(how, len(kept), 0, 0)
            yield kept, plain._finish(pixels, kept, draws, 0).x
    finally:
        if pool:
            pool.shutdown()
