"""What indexing needs, a net and perhaps other processes, and what it says at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from neocog.library.photo import Photo
from neocog.library.scan import Found, Scan
from neocog.library.store import Store
from neocog.records import Preprocess


class Embeds(Protocol):
    """What indexing needs of `embed.Embedder`."""

    name: str
    dimension: int
    outputs: int
    preprocess: Preprocess

    def card(self) -> dict[str, Any]: ...
    def embed(self, pictures: Any) -> tuple[np.ndarray, np.ndarray]: ...


Outcomes = list[tuple[str, "Photo | Exception"]]  # of some items: stored path, and what is known of it, or why not


class Elsewhere(Protocol):
    """Other processes that read and compute, and that can look into stores and shards: `cluster.workers.Workers`."""

    commit_rows: int  # as COMMIT_ROWS and COMMIT_SECONDS
    commit_seconds: float

    def scan(self, roots: Sequence[str], store: Store, exclude: Sequence[str]) -> Scan:
        """List the pictures at some folders, URLs and containers, by stored path."""
        ...

    def photos(self, items: Sequence[tuple[str, Found]], card: dict[str, Any]) -> Iterator[Outcomes]:
        """Yield what is found of all items, in any order, each once or, after a failure, again; `Photo.seen` is set."""
        ...


@dataclass
class Report:
    """What indexing found, in files."""

    new: int = 0
    changed: int = 0
    copies: int = 0  # new files whose content is there already
    moved: int = 0
    gone: int = 0
    unchanged: int = 0
    unreadable: int = 0  # that could not be read in this run
    computed: int = 0  # pictures that the net saw
    pictures: int = 0  # that the library has afterwards
    interrupted: bool = False
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    away: list[str] = field(default_factory=list)  # folders that look as if their disk were away, and what to type

    @property
    def touched(self) -> bool:
        """Whether anything changed."""
        return any((self.new, self.changed, self.copies, self.moved, self.gone, self.unreadable, self.computed))

    def __str__(self) -> str:
        names = ("new", "changed", "copies", "moved", "gone", "unchanged", "unreadable")
        parts = [f"{getattr(self, name):,} {name}" for name in names if getattr(self, name)]
        rate = f", {self.computed / self.seconds:,.0f} pictures/s" if self.computed > 100 and self.seconds > 1 else ""
        return f"{', '.join(parts) or 'no pictures'} in {self.seconds:.1f} s{rate}"


def maker(
    store: Store, given: Embeds | Callable[[int], Embeds] | None, model: str | None, say: Callable[[str], object]
) -> Callable[[int], Embeds]:
    """What makes the net when it is first needed, and gives the same one later.

    That is `given` itself or what it makes; else the net of that name, which the library was indexed with or the zoo
    has; else the library's own, or the default.
    """
    made: list[Any] = [given] if hasattr(given, "embed") else []

    def once(amount: int) -> Embeds:
        if not made and callable(given):
            made.append(given(amount))
        elif not made:
            from neocog.library.embed import Embedder, embedder_of

            name, models = model or store.model, store.models()
            known = models.get(name or "")
            made.append(embedder_of(known, amount=amount, say=say) if known else Embedder(name, amount=amount, say=say))
        return made[0]  # type: ignore[no-any-return]

    return once
