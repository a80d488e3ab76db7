"""What a finding is, and the facts from which the rules of `check` make findings: in files ``*_rules.py``.

A rule is a generator: it yields findings, and None where there is nothing to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from neocog.data.columns import listed as listed
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
        made = asdict(self)
        made["examples"] = list(map(list, made.pop("groups")))
        return made


Rule = Callable[["Facts"], Iterator[Finding | None]]


@dataclass(frozen=True, eq=False)
class Facts:
    """All that the rules look at. `exact`, `near` and `mirrored` are pairs (P, 2) of rows, each in one of them only.

    `mirrored` is empty where a mirror image is something else (left and right).
    """

    source: Source
    unit: str = "picture"  # what is counted
    seen: Survey = None  # type: ignore[assignment]  # of pictures alone
    counts: np.ndarray = field(default_factory=lambda: np.zeros((1, 4), np.int64))
    exact: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    near: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    mirrored: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    doubts: list[Suspicion] = field(default_factory=list)
    masks: dict[int, tuple[str, str]] = field(default_factory=dict)  # see annotation_rules.wrong_masks

    @property
    def single(self) -> bool:
        """True if a picture has one label at most."""
        return self.source.label_sets is None

    def example(self, i: int, note: str = "") -> Example:
        """Return picture `i` as an example."""
        source = self.source
        label: Any = source.columns.get("same", source.columns["label"])  # of pairs, the answer
        codes = [label[i]] if label[i] >= 0 else () if source.label_sets is None else source.label_sets[i]
        split = SPLITS[source.splits[i]] if source.splits[i] >= 0 else None
        return Example(i, source.key(i), ", ".join(label.names[k] for k in codes) or None, split, note)

    def finding(
        self,
        name: str,
        severity: str,
        what: str,
        advice: str,
        groups: Sequence[Any] | np.ndarray,
        note: Callable[[int], str] = lambda i: "",
        *,
        title: str = "",
        count: int | None = None,
    ) -> Finding | None:
        """A finding about rows, or groups of rows; None if there are none.

        Args:
            what: follows "3 pictures" in the title.
            note: says something about each row.
            title, count: where they are not the number of all rows, and what that says.
        """
        if not len(groups):
            return None
        total = len(groups) if np.ndim(groups[0]) == 0 else sum(map(len, groups))
        shown = [tuple(self.example(int(i), note(int(i))) for i in np.atleast_1d(one)) for one in groups[:KEPT]]
        title, count = title or f"{counted(total, self.unit)} {what}", total if count is None else count
        return Finding(name, severity, title, count, advice, tuple(shown), max(0, len(groups) - KEPT))

    def of_classes(self, name: str, severity: str, what: str, advice: str, names: Sequence[str]) -> Finding | None:
        """A finding about classes; None if there are none."""
        title = f"{counted(len(names), 'class')} {what}: {listed(names)}"
        return Finding(name, severity, title, len(names), advice) if names else None

    def copies(
        self, groups: Sequence[list[int]], codes: np.ndarray
    ) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
        """Of groups of copies those of several `codes`, those of several splits, and the others; -1 is none."""

        def torn(of: np.ndarray) -> list[list[int]]:
            return [rows for rows in groups if len(set(of[rows].tolist()) - {-1}) > 1]

        against, leaking = torn(codes), torn(self.source.splits)
        return against, leaking, [rows for rows in groups if rows not in against and rows not in leaking]
