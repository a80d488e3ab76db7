"""The answer of the task number: values with intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from neocog.tasks.answer import Answer
from neocog.tasks.canvas import PLAIN, RIGHT, WRONG, captioned


@dataclass(frozen=True, slots=True)
class Measured(Answer):
    """The numbers of one picture.

    Attributes:
        values: one for each of `names`.
        intervals: low and high for each, between which the truth is nine times out of ten; None: not known, there
            were too few validation pictures. In a number with a period low may be above high.
    """

    names: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
    intervals: tuple[tuple[float, float] | None, ...] = ()

    @property
    def value(self) -> float:
        """The first number."""
        return self.values[0]

    def row(self) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, value, interval in zip(self.names, self.values, self.intervals, strict=True):
            low, high = interval or (None, None)
            made |= {name: value, f"{name}_low": low, f"{name}_high": high}
        return made

    def to_json(self) -> dict[str, Any]:
        return {
            "numbers": [
                {"name": name, "value": value, "interval": None if interval is None else list(interval)}
                for name, value, interval in zip(self.names, self.values, self.intervals, strict=True)
            ]
        }

    def draw(self, picture: np.ndarray, truth: Any = None) -> np.ndarray:
        """The numbers below the picture; with the truth, green where it is inside the interval, else red."""
        words = []
        for k, (name, value, interval) in enumerate(zip(self.names, self.values, self.intervals, strict=True)):
            span = "" if interval is None else f" ({interval[0]:.4g} to {interval[1]:.4g})"
            words.append((f"{name} {value:.4g}{span}", PLAIN))
            if truth is not None and not math.isnan(truth[k]):
                low, high = interval or (value, value)
                inside = low <= truth[k] <= high if low <= high else truth[k] >= low or truth[k] <= high
                colour = PLAIN if interval is None else RIGHT if inside else WRONG
                words.append((f"truth {truth[k]:.4g}", colour))
        return captioned(picture, words)
