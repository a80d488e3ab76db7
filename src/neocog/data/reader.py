"""What reads inputs that are not pictures. A kind of input is a file ``data/read_KIND.py`` that calls `register`.

A source says of which kind its inputs are (``Source.kind``), and ``Source.read`` gives one as it lies on disk: bytes of
a file, a text, an array. A `Reader` says how that becomes the net's input. It is planned from the training samples,
stands in net.json beside the weights ("reader"), and is the same in training, evaluation and prediction. Pictures have
theirs since before (``records.Preprocess`` with ``data.decode``).

The way of an input: `encode` makes an array of one raw input, once, by threads, kept while all fit into memory, else as
batches come near; `collate` makes a batch of arrays of several lengths; `finish` does the rest on the device: in
training it also changes the inputs at random, as told by numbers that are functions of (seed, epoch, sample).
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neocog.data.listing import files_of
from neocog.errors import UsageError, closest
from neocog.page import Html

if TYPE_CHECKING:
    from torch import Tensor, nn

    from neocog.data.findings import Finding
    from neocog.data.folder import Folder
    from neocog.data.source import Source

PICTURE = "picture"


class Reader(ABC):
    """How inputs of one kind become what a net reads.

    Attributes:
        kind: "text", "sound", "clip": the ``kind`` of sources, and ``Facts.reads`` of the nets for them.
        endings: of the files of such inputs, in small letters, with the dot: folders of them are such sources.
        about: one line for people.
        options: names of what --input-option may set -> default (``size`` among them: also --size sets it). A net that
            wants other defaults has them in a class attribute ``reader``, such as ``{"features": "mfcc"}``.
        net, recipe: what is taken where the user names none. A net's class attribute ``recipe`` comes before it.
        mixes: what `finish` gives is numbers that can be averaged, so that mixup makes sense.
        pictures: nets for pictures can read what it makes, too.
        draws: how many random numbers of a sample `finish` takes in training.
        kept: the arguments, which are attributes too, that net.json keeps; or `to_json` and `from_json` say it.
        notes: what the user should know of the inputs, one sentence each; made by `plan`.
    """

    kind: ClassVar[str]
    endings: ClassVar[frozenset[str]] = frozenset()
    about: ClassVar[str] = ""
    options: ClassVar[Mapping[str, Any]] = {}
    net: ClassVar[str]
    recipe: ClassVar[str] = "standard"
    draws: int = 0
    mixes: ClassVar[bool] = False
    pictures: ClassVar[bool] = False
    kept: ClassVar[tuple[str, ...]] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    @abstractmethod
    def plan(cls, source: Source, rows: np.ndarray, options: Mapping[str, Any]) -> Reader:
        """The reader for a source, from its training samples `rows` alone; `options`: all of them, with values.

        Inputs that cannot be read are passed over. Raises: DataError: none can be read.
        """

    def to_json(self) -> dict[str, Any]:
        """What net.json keeps; `from_json` makes the same reader of it."""
        return {name: getattr(self, name) for name in self.kept}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Reader:
        """The reader that `to_json` described."""
        return cls(**values)

    # ---- for the net

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of one input as the net gets it, its usual length last, as ``Facts.input``: (L,), (C, L), (C, T, H, W).

        The net is built with ``in_channels`` from the first number and ``input_size`` from the last.
        """

    @property
    def net_options(self) -> Mapping[str, Any]:
        """Options that the net is built with, as far as it has them: ``{"vocabulary": 18765}``."""
        return {}

    def begin(self, net: nn.Module) -> None:  # noqa: B027  # most begin at random
        """Set fresh weights that come from what is known of the inputs, such as word vectors."""

    # ---- one input, and a batch

    @abstractmethod
    def encode(self, raw: Any) -> np.ndarray:
        """One input: what ``Source.read`` gives (bytes, a text, an array), or a path, as an array. Thread-safe.

        A text column may hold several texts of a sample; each is encoded by itself and one is shown (see `ready.Read`).
        Raises: DataError, OSError: it cannot be read.
        """

    @abstractmethod
    def collate(self, arrays: Sequence[np.ndarray]) -> Tensor:
        """Arrays of B inputs as one tensor (B, ...) on the CPU, padded."""

    def finish(self, x: Tensor, draws: Tensor | None = None) -> Tensor:
        """What the net gets of a collated batch, on its device: normalised, as features, changed at random.

        `draws`: float (B, draws) in [0, 1) on the CPU in training, a row for each sample, the same for any number of
        processes; None: unchanged. Noise comes of a generator that such a number seeds.
        """
        return x

    # ---- for people

    def inputs(self, given: Iterable[Any]) -> Iterator[tuple[str, Any]]:
        """(key, what `encode` takes) of everything that a user hands to predict, lazily.

        As it stands: files, those inside folders with the kind's `endings`, and all else (arrays, bytes) as it is.
        Raises: UsageError: a folder holds none of this kind.
        """
        for number, one in enumerate(given):
            if not isinstance(one, (str, Path)):
                yield f"{self.kind} {number}", one
                continue
            path = Path(one)
            if one != "" and path.is_dir():  # Path("") is the folder that one is in
                yield from ((str(file), file) for file in files_of(path, self.takes, self.kind))
            else:
                yield str(one), path

    @classmethod
    def shown(cls, raw: Any) -> Html:
        """As `show`, before any reader is planned; "" shows nothing. Raises: as `encode`."""
        return Html("")

    @abstractmethod
    def show(self, raw: Any) -> Html:
        """A raw input for the report, small: a text, a spectrogram with <audio>, some frames. Raises: as `encode`."""

    def sections(self) -> list[tuple[str, Html]]:
        """Sections of the report about the inputs: title and body."""
        return []

    # ---- before training

    @classmethod
    def drawn(cls, n: int, size: int, seed: int, task: str) -> Source:
        """`n` inputs that are made by neocog (``drawn:kind=...``), with the label that `task` asks for."""
        raise UsageError(f"no inputs of the kind {cls.kind} are drawn")

    @classmethod
    def arranged(cls, source: Folder) -> Folder:
        """A folder of such inputs with what lies beside them, such as lists of splits."""
        return source

    @classmethod
    def takes(cls, name: str | bytes) -> bool:
        """Whether a file so called is such an input."""
        return os.path.splitext(os.fsdecode(name))[1].lower() in cls.endings

    @classmethod
    def named(cls, names: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """What the names of files that lie in no class folder say of each, by role: "label" and others; {}: nothing."""
        return {}

    @classmethod
    def begins(cls, data: bytes) -> bool:
        """Whether a file that begins so is such an input; for files without a name, as in Parquet."""
        return False

    @classmethod
    def groups(cls, source: Source) -> np.ndarray | None:
        """int64 (N,): samples of one number are copies of each other and stay in one split; None: there are none."""
        return None

    @classmethod
    def check(cls, source: Source) -> list[Finding]:
        """What `neocog check` says of the inputs: broken, empty, silent, copies with other labels."""
        return []


_readers: dict[str, type[Reader]] = {}


def register(reader: type[Reader]) -> type[Reader]:
    """Add a kind of input; a class decorator. Raises: UsageError if there is one of that kind."""
    if reader.kind in _readers:
        raise UsageError(f"a reader of the kind {reader.kind!r} is already registered")
    _readers[reader.kind] = reader
    return reader


def kinds() -> tuple[str, ...]:
    """All kinds of inputs but pictures."""
    package = importlib.import_module("neocog.data")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.startswith("read_"):
            importlib.import_module(f"neocog.data.{module.name}")
    return tuple(sorted(_readers))


def find(kind: str) -> type[Reader]:
    """The reader of a kind. Raises: UsageError if there is none."""
    if kind not in kinds():
        raise UsageError(
            f"unknown kind of input {kind!r}{closest(kind, kinds())}; expected one of {', '.join(kinds())}"
        )
    return _readers[kind]


def kind_of(data: bytes) -> str:
    """The kind of input that a file is, by its first bytes: a picture where no reader knows them."""
    return next((kind for kind in kinds() if _readers[kind].begins(data)), PICTURE)


def commonest(endings: Mapping[str, int]) -> str | None:
    """The kind of input of which there are most files, by numbers of files for each ending; None: there is none."""
    counts = {kind: sum(endings.get(one, 0) for one in _readers[kind].endings) for kind in kinds()}
    best = max(counts, key=lambda kind: counts[kind], default=None)
    return best if best is not None and counts[best] else None


def load(values: Mapping[str, Any]) -> Reader:
    """The reader that `saved` described."""
    return find(values["kind"]).from_json({k: v for k, v in values.items() if k != "kind"})


def saved(reader: Reader) -> dict[str, Any]:
    """What a run folder keeps of a reader."""
    return {"kind": reader.kind, **reader.to_json()}
