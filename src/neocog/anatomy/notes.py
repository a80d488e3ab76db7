"""What a trace notes while it runs: of tensors where they come from, of layers what they are made of, of memory."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .place import Place
from .record import Layer, Shape
from .running import storage


class Ledger:
    """Bytes of activations that are alive, and the most there ever were."""

    __slots__ = ("live", "peak")

    def __init__(self) -> None:
        self.live = self.peak = 0

    def block(self, size: int) -> Block:
        self.live += size
        self.peak = max(self.peak, self.live)
        return Block(self, size)


class Block:
    """Memory that one or several tensors share; it is free when none of them is left."""

    __slots__ = ("ledger", "size")

    def __init__(self, ledger: Ledger, size: int) -> None:
        self.ledger, self.size = ledger, size

    def __del__(self) -> None:
        self.ledger.live -= self.size


class Note:
    """What the trace knows of a tensor."""

    __slots__ = ("block", "makers", "names", "place", "sources")

    def __init__(
        self,
        sources: tuple[int, ...],
        place: Place | None,
        block: Block | None,
        names: tuple[str, ...] = (),
        makers: tuple[int, ...] = (),
    ) -> None:
        self.sources, self.place, self.block = sources, place, block
        # of a tensor that is made of parameters and constants only: these parameters, and the layers that made it
        self.names, self.makers = names, makers


class Open:
    """A layer that is being filled."""

    def __init__(self, index: int, name: str, module: str, kind: str) -> None:
        self.index, self.name, self.module, self.kind = index, name, module, kind
        self.inputs: list[Shape] = []
        self.outputs: tuple[Shape, ...] = ()
        self.sources: list[int] = []
        self.operators: list[str] = []
        self.settings: dict[str, Any] = {}
        self.parameters: list[str] = []
        self.params = self.frozen = self.shared = self.weights = self.macs = self.others = 0
        self.output_bytes = self.saved_bytes = 0
        self.place: Place | None = None
        self.lost = False  # it comes from an input, and its place is not known

    def reads(self, makers: list[int]) -> None:
        """It reads what layers have made of parameters and constants only."""
        self.sources.extend(i for i in dict.fromkeys(makers) if i != self.index and i not in self.sources)

    def note(self, note: Note) -> None:
        self.place, self.lost = note.place, note.place is None and bool(note.sources)

    def finish(self) -> Layer:
        sources = tuple(dict.fromkeys(max(s, -1) for s in self.sources))  # -1 is the first input, -2 the second
        return Layer(
            self.index, self.name, self.module, self.kind, tuple(self.inputs), self.outputs, sources,
            tuple(self.operators), self.settings, tuple(self.parameters), self.params, self.frozen, self.shared,
            self.weights, self.macs, self.others, self.output_bytes, self.saved_bytes,
            None if self.place is None else self.place.field(), self.lost, tuple(-1 - s for s in self.sources if s < 0),
        )  # fmt: skip


def note_of(t: Tensor) -> Note | None:
    return getattr(t, "_neocog", None)


def from_picture(t: Tensor) -> bool:
    note = note_of(t)
    return note is not None and bool(note.sources)


def alias_of(result: Tensor, tensors: list[Tensor]) -> Tensor | None:
    """The tensor whose memory the result shares, if any."""
    key = storage(result)
    for t in tensors:
        if t is result or storage(t) == key:
            return t
    return None
