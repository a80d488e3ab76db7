"""What an exported model is given: pictures as bytes, or the arrays that a reader makes of texts, sounds and clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neocog.data.batches import Batch, normalised
from neocog.data.decode import placed
from neocog.data.read_clip import ClipReader
from neocog.data.read_sound import SoundReader
from neocog.data.read_text import TextReader
from neocog.data.reader import Reader
from neocog.data.sound_changes import window
from neocog.errors import UsageError
from neocog.fit.device import Device
from neocog.fit.predicting import Run, pictures_only
from neocog.records import Preprocess

CPU = Device("cpu", channels_last=True)


class Given(Protocol):
    """How a run's inputs come to its net, and into a graph.

    Attributes:
        kind: "picture", "text", "sound", "clip". name, type, layout: of the graph's input. axes: those that may be of
            any length, after that of the batch, if the net takes it. sizes: their names.
        whole: one graph leads from the input to the outputs. most, at_once: inputs to compare on, and in a batch.
        about: what the input is; limit: what it does not show to the net. Sentences, for the card.
    """

    kind: str
    name: str
    type: str
    layout: str
    axes: tuple[int, ...]
    sizes: tuple[str, ...]
    whole: bool
    most: int
    at_once: int
    about: str
    limit: str

    def read(self, raw: Any) -> Any:
        """What a source or a user gives, as prediction reads it. Raises: DataError, OSError: it cannot be read."""

    def array(self, read: Any) -> np.ndarray:
        """The same as the graph takes it, without the axis of the batch."""

    def batch(self, read: Sequence[Any], arrays: Sequence[np.ndarray]) -> Batch:
        """What the run's net gets for inputs; `arrays` count, `read` says where places of pictures are."""

    def into(self, x: Tensor) -> Tensor:
        """The graph's input (B, ...) as the net gets it."""

    def example(self, net: Any, more: int = 0) -> Tensor:
        """Three inputs of noise for the graph; `more`: by how much `axes` are to be longer."""


class Pixels:
    """Pictures, uint8 (B, H, W, C)."""

    kind, name, type, layout = "picture", "pictures", "uint8", "BHWC"
    axes: tuple[int, ...] = (1, 2)
    sizes: tuple[str, ...] = ("height", "width")

    def __init__(self, pre: Preprocess) -> None:
        self.pre, self.whole = pre, pre.fit != "tile"
        self.most, self.at_once = {"crop": (64, 8), "pad": (24, 8), "tile": (4, 1)}[pre.fit]
        side = "x".join(map(str, pre.input))
        inside = "Normalisation and test-time views are" if self.whole else "Normalisation is"
        self.about = f"RGB bytes. {inside} inside the model."
        self.limit = (
            f"Pictures are seen at {side} pixels; what is too small to be seen there is not found."
            if self.whole
            else f"Pictures are seen in tiles of {side} pixels at their own scale."
        )

    def read(self, raw: Any) -> Any:
        return placed(raw, self.pre)

    def array(self, read: Any) -> np.ndarray:
        return read[0].transpose(1, 2, 0)  # type: ignore[no-any-return]

    def batch(self, read: Sequence[Any], arrays: Sequence[np.ndarray]) -> Batch:
        made = [(np.array(one), *where) for one, (_, *where) in zip(arrays, read, strict=True)]
        return pictures_only(made, self.pre, CPU)

    def into(self, x: Tensor) -> Tensor:
        return normalised(x.permute(0, 3, 1, 2).float() / 255.0, self.pre)

    def example(self, net: Any, more: int = 0) -> Tensor:
        height, width = (side + more for side in self.pre.input)
        if not self.whole and hasattr(net, "fitting"):
            height, width = (net.fitting(side + 2 * net.margin) for side in (height, width))
        return _noise(0, 256, (3, height, width, self.pre.channels), torch.uint8)


class Encoded:
    """What a reader makes of texts (ids), sounds (waves) and clips (frames); the rest of its work is in the graph."""

    whole, most, at_once = True, 64, 8
    axes: tuple[int, ...] = ()
    sizes: tuple[str, ...] = ()

    def __init__(self, reader: Reader, fixed: bool = False) -> None:
        """`fixed`: only texts of the greatest length are taken."""
        self.reader, self.kind, self.fixed = reader, reader.kind, fixed
        if isinstance(reader, TextReader):
            self.name, self.type, self.layout = "tokens", "int32", "BL"
            if reader.tokenizer.kind in ("trigrams", "pieces"):
                self.layout = "BLT"
            self.axes = tuple(range(1, len(self.layout)))
            self.sizes = ("length", "parts")[: len(self.axes)]
            self.about = f"ids of {reader.tokenizer.kind}, 0 behind the last one."
            self.limit = f"Of a text the first {reader.longest} {reader.tokenizer.kind} are read."
        elif isinstance(reader, SoundReader):
            of = reader.spectrum
            self.name, self.type, self.layout = "waves", "int16", "BL"
            self.about = f"{reader.samples:,} samples, {of.rate:,} a second. What the net makes of them is inside."
            self.limit = f"Of a recording {reader.samples / of.rate:.2g} s are heard, those in the middle."
        else:
            assert isinstance(reader, ClipReader)
            self.name, self.type, self.layout = "clips", "uint8", "BCTHW"
            self.about = "RGB bytes of frames. Normalisation is inside."
            self.limit = f"Of a clip {reader.frames} frames are seen, at {reader.size}x{reader.size} pixels."

    def read(self, raw: Any) -> Any:
        if self.kind == "text" and isinstance(raw, tuple):  # several of one sample
            raw = (raw or ("",))[0]
        return self.reader.encode(raw)

    def array(self, read: Any) -> np.ndarray:
        return self.shaped(self.reader.collate([read]))[0].numpy()  # type: ignore[no-any-return]

    def batch(self, read: Sequence[Any], arrays: Sequence[np.ndarray]) -> Batch:
        x = self.reader.finish(self.reader.collate(arrays))
        return Batch((x,), {}, torch.arange(len(x)), torch.ones(len(x), dtype=torch.bool))

    def into(self, x: Tensor) -> Tensor:
        return self.reader.finish(x)

    def shaped(self, x: Tensor, draws: Tensor | None = None) -> Tensor:
        """What ``Reader.collate`` made, as the graph takes it; called like ``Reader.finish``."""
        if isinstance(self.reader, SoundReader):
            return window(x, self.reader.samples)
        if self.fixed and isinstance(self.reader, TextReader):
            return F.pad(x, (*[0, 0] * (x.ndim - 2), 0, self.reader.longest - x.shape[1]))
        return x

    def example(self, net: Any, more: int = 0) -> Tensor:
        if isinstance(self.reader, TextReader):
            shape = (3, self.reader.longest, 8)[: len(self.layout)]
            return _noise(1, self.reader.tokenizer.size, (3, *(n + more for n in shape[1:])), torch.int32)
        if isinstance(self.reader, SoundReader):
            return _noise(-20_000, 20_000, (3, self.reader.samples), torch.int16)
        return _noise(0, 256, (3, *self.reader.encode(np.zeros((1, 8, 8, 3), np.uint8)).shape), torch.uint8)


def _noise(low: int, high: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randint(low, high, shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def given_to(run: Run) -> Given:
    """What a run is given. Raises: UsageError: inputs for which an exported model has no form."""
    if run.reader is None:
        return Pixels(run.preprocess)
    if (own := getattr(run, "given", None)) is not None:  # of an exported one
        return own  # type: ignore[no-any-return]
    if run.task.own_reader() is not None or not isinstance(run.reader, (TextReader, SoundReader, ClipReader)):
        raise UsageError(
            f"a run of the task {run.task.name} on {run.reader.kind}s cannot be exported: how it reads them is not "
            "written into a folder yet; runs of label, tags and number on texts, sounds and clips can be"
        )
    return Encoded(run.reader)
