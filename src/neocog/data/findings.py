"""What a finding is, and the facts from which the rules in `file_rules` and `label_rules` make findings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from neocog.data.source import Source
from neocog.data.survey import Survey
from neocog.records import SPLITS
from neocog.records import counted as counted

SEVERITIES = ("error", "warning", "hint")
KEPT = 1000  # groups of pictures that a finding names; its count goes on

Suspicion = tuple[int, int | str, int | str, float]  # index, given label, likelier label, its probability


@dataclass(frozen=True, slots=True)
class Example:
    """One picture that a finding is about. `index` is its row in the source, -1 if it was never listed."""

    index: int
    key: str
    label: str | None = None
    split: str | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a plain dictionary."""
        return {"index": self.index, "key": self.key, "label": self.label, "split": self.split, "note": self.note}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    `name` is stable, for programs; `title` says it with numbers, `advice` what to do. `count` counts pictures
    (classes, where the finding is about classes), `groups` holds up to 1000 examples: pictures that belong together
    (copies of each other) are one group, anything else is a group of one.
    """

    name: str
    severity: str
    title: str
    count: int
    advice: str
    groups: tuple[tuple[Example, ...], ...] = ()
    more: int = 0  # groups beyond those kept

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary; "examples" is a list of groups."""
        return {
            "name": self.name,
            "severity": self.severity,
            "title": self.title,
            "count": self.count,
            "advice": self.advice,
            "examples": [[example.to_json() for example in group] for group in self.groups],
            "more": self.more,
        }


class Facts(NamedTuple):
    """All that the rules look at. `exact`, `near` and `mirrored` are pairs (P, 2) of rows, each in one of them only.

    `mirrored` is empty where a mirror image is something else (left and right).
    """

    source: Source
    seen: Survey
    counts: np.ndarray
    exact: np.ndarray
    near: np.ndarray
    mirrored: np.ndarray
    doubts: list[Suspicion]
    masks: dict[int, tuple[str, str]]  # what is wrong with masks, see annotation_rules.wrong_masks

    @property
    def single(self) -> bool:
        """True if a picture has one label at most."""
        return self.source.label_sets is None

    def example(self, i: int, note: str = "") -> Example:
        """Return picture `i` as an example."""
        source = self.source
        several = () if source.label_sets is None else source.label_sets[i]
        codes = [source.labels[i]] if source.labels[i] >= 0 else several
        label = ", ".join(source.classes[k] for k in codes) or None
        split = SPLITS[source.splits[i]] if source.splits[i] >= 0 else None
        return Example(i, source.key(i), label, split, note)

    def finding(
        self,
        name: str,
        severity: str,
        title: str,
        count: int,
        advice: str,
        groups: Sequence[Any] | np.ndarray,
        note: Callable[[int], str] | None = None,
    ) -> Finding:
        """Make a finding from rows, or groups of rows; `note(row)` says something about each."""
        shown = [
            tuple(self.example(int(i), note(int(i)) if note else "") for i in np.atleast_1d(group))
            for group in groups[:KEPT]
        ]
        return Finding(name, severity, title, count, advice, tuple(shown), max(0, len(groups) - KEPT))


Rule = Callable[[Facts], Finding | None]


def listed(names: Sequence[str], most: int = 8) -> str:
    """Return the first names, quoted, and how many more there are."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
