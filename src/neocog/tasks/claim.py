"""What a net says of a picture, for what explains it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from neocog.errors import UsageError, closest


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing that a net says of a picture, for what explains it (`neocog.look`).

    Attributes:
        name: in words: "tabby cat", "box 2: dog".
        score: outputs of B pictures -> (B,), differentiable: how strongly they say the same of each. A claim about a
            place stays at that place of the net's input.
        box: x0, y0, x1, y1 of the place that is meant, in pixels of the file; None: the whole picture.
        local: whether the score is of some places of the maps only, and not a mean over all.
    """

    name: str
    score: Callable[[Any], Tensor]
    box: tuple[float, float, float, float] | None = None
    local: bool = False


def which(what: str | None, names: Sequence[str], kind: str, usual: int) -> int:
    """The index of a name; `usual` where none is given. Raises: UsageError if there is none of that name."""
    if what is None:
        return usual
    if what not in names:
        some = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
        raise UsageError(f"there is no {kind} {what!r}{closest(what, names)}; expected one of {some}")
    return list(names).index(what)
