"""What is wrong with a table of pairs of texts, for `check`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from neocog.data.findings import KEPT, Example, Finding
from neocog.data.pairs import SAME, Pairs
from neocog.records import SPLITS, counted

_LONG = 50  # words; of longer texts the end may not be read


def pair_findings(source: Pairs) -> tuple[list[Finding], np.ndarray]:
    """What is wrong with pairs: rows that contradict each other, leaks between splits, copies, empty texts.

    Also int64 (N,): rows with equal texts share a number, -1 = alone.
    """
    pairs = [tuple(_plain(source.columns[role][i]) for role in ("first", "second")) for i in range(len(source))]
    said = source.columns["same"].codes if "same" in source.columns else np.full(len(source), -1)  # type: ignore[attr-defined]
    places: dict[tuple[str, ...], list[int]] = {}
    for i, pair in enumerate(pairs):
        places.setdefault(tuple(sorted(pair)), []).append(i)
    copies = [rows for rows in places.values() if len(rows) > 1]
    against = [rows for rows in copies if len(set(said[rows].tolist()) - {-1}) > 1]
    leaking = [rows for rows in copies if len(set(source.splits[rows].tolist()) - {-1}) > 1]
    counts = np.bincount(said[said >= 0], minlength=2)
    rarer = int(counts.min()) if counts.any() else -1

    def example(i: int) -> Example:
        split = SPLITS[source.splits[i]] if source.splits[i] >= 0 else None
        return Example(i, source.key(i), SAME[said[i]] if said[i] >= 0 else None, split, " | ".join(pairs[i])[:200])

    def finding(
        name: str, severity: str, title: Callable[[str], str], groups: Iterable[list[int]], advice: str
    ) -> None:
        every = list(groups)
        if every:
            shown = tuple(tuple(map(example, rows)) for rows in every[:KEPT])
            rows = sum(map(len, every))
            more = max(0, len(every) - KEPT)
            found.append(Finding(name, severity, title(counted(rows, "row")), rows, advice, shown, more))

    found: list[Finding] = []
    finding("contradictions", "error", lambda n: f"{n} have equal texts and different answers", against,
            "correct them: no net can learn both answers")  # fmt: skip
    finding("leaks", "error", lambda n: f"{n} with equal texts stand in different splits", leaking,
            "move them to one split: figures on texts that were learned are too high")  # fmt: skip
    finding("copies", "warning", lambda n: f"{n} have equal texts",
            [rows for rows in copies if rows not in against and rows not in leaking], "keep one of each")  # fmt: skip
    finding("itself", "hint", lambda n: f"{n} pair a text with itself",
            [[i] for i, (a, b) in enumerate(pairs) if a == b], "leave them out: there is nothing to learn")  # fmt: skip
    finding("long", "hint", lambda n: f"{n} have a text of more than {_LONG} words",
            [[i] for i, pair in enumerate(pairs) if max(len(text.split()) for text in pair) > _LONG],
            "only the beginning of a text is read: put what tells them apart there")  # fmt: skip
    if rarer == 0:
        which = SAME[int(counts.argmin())]
        found.append(Finding("one answer", "error", f"no pair is {which}", 0, f"add pairs that are {which}"))
    elif 0 < rarer < 0.1 * counts.sum():
        title = f"only {rarer:,} of {counts.sum():,} pairs are {SAME[int(counts.argmin())]}"
        found.append(Finding("imbalance", "hint", title, rarer, "look at F1 and AUC, not at the accuracy alone"))
    if source.problems:
        title = f"{counted(len(source.problems), 'row')} lack a text"
        found.append(Finding("empty", "warning", title, len(source.problems), "fill them, or leave them out"))
    groups = np.full(len(source), -1, np.int64)
    for number, rows in enumerate(copies):
        groups[rows] = number
    return found, groups


def _plain(texts: tuple[str, ...]) -> str:
    return " ".join(" ".join(texts).lower().split())
