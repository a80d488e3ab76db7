"""Frozen records that several rooms use. No arithmetic lives here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

SPLITS = ("train", "val", "test")


_KIND = ContextVar("kind", default="picture")


def speak_of(kind: str) -> None:
    """From now on our sentences (see `worded`) are about inputs of this kind."""
    _KIND.set(kind)


def worded(sentence: str) -> str:
    """One of our sentences about pictures, about texts, sounds or clips where these are what it is about."""
    kind = _KIND.get()
    return sentence if kind == "picture" else re.sub(r"\b([Pp])icture(s?)\b", rf"{kind}\2", sentence)


_VERBS = {"is": "are", "was": "were", "has": "have", "lies": "lie"}  # others lose their s


def counted(count: float, one: str = "picture", verb: str = "") -> str:
    """Return "1 picture", "2,000 pictures", "3 copies", "2 classes", "0.5 epochs"; with a verb "1 row of it was"."""
    what, *of = re.split(r"(?= (?:of|with|without) )", one, maxsplit=1)
    plural = f"{what}es" if what.endswith(("s", "x", "sh")) else re.sub(r"(?<![aeiou])y$", "ie", what) + "s"
    plural = "".join([plural, *of])
    number = f"{count:,}" if isinstance(count, Integral) else f"{count:.4g}"
    said = (one, verb) if number == "1" else (plural, _VERBS.get(verb, verb.removesuffix("s")))
    return " ".join([number, *filter(None, said)])


def some_of(names: Sequence[str], most: int = 8) -> str:
    """``a, b, c``, with `` ...`` behind the first `most` if there are more."""
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels, corners (x0, y0) inclusive and (x1, y1) exclusive, with what is in it."""

    x0: float
    y0: float
    x1: float
    y1: float
    label: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """The annotations of one picture; the pixels are read from the Source when they are needed."""

    key: str
    label: str | None = None
    labels: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    mask: Any = None  # uint8 (H, W): index of the region that a pixel belongs to, 0 = background
    split: str | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """One picture that could not be used, and why."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Published figures of a net, beside the code that must reproduce them.

    `params` counts trainable numbers (biases and BN scale and shift, not running statistics); `macs` counts
    multiply-accumulates of convolutions and fully connected layers for one example of shape `input`: (C, H, W) of a
    picture, (C, L) of a sequence, (C, T, H, W) of a video. `smallest` is the smallest H = W (or L) that
    `build(..., input_size=...)` accepts. `task` is label, segment, reconstruct, vae, embed or play. `reads` is
    the kind of input: picture, text, sound or clip; a net of `input` (C, L) or (L,) for neither reads "sequence".
    """

    name: str
    family: str
    year: int
    paper: str
    params: int
    macs: int
    input: tuple[int, ...]
    classes: int
    smallest: int
    accuracy: str = ""
    task: str = "label"
    reads: str = ""

    def __post_init__(self) -> None:
        if not self.reads:
            usual = {3: "picture", 4: "clip"}.get(len(self.input), "sequence")
            object.__setattr__(self, "reads", usual)


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How a decoded picture becomes a net's input; saved beside the weights, used everywhere.

    With ``fit="crop"`` the short side is resized to `resize` (antialiased bilinear) and the centre `size` x `size` is
    cut out; with ``fit="pad"`` the whole picture is resized to fit into `shape` and laid in its middle, on grey;
    with ``fit="tile"`` it keeps its own size: training sees pieces of `shape`, and the task puts a net's answers for
    tiles of that size together.
    The bytes become ``(x / 255 - mean) / std`` for each of `channels` channels (1 = grey, 3 = RGB).
    """

    size: int
    resize: int
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channels: int = field(default=3)
    fit: str = "crop"
    shape: tuple[int, int] | None = None  # height and width of the input with fit="pad"; None: size x size

    @property
    def input(self) -> tuple[int, int]:
        """Height and width of the net's input."""
        return self.shape or (self.size, self.size)

    @staticmethod
    def from_json(values: Any) -> Preprocess:
        """The record that ``dataclasses.asdict`` made, as JSON gives it back."""
        lists = {k: tuple(values[k]) for k in ("mean", "std", "shape") if values.get(k) is not None}
        return Preprocess(**{**values, **lists})
