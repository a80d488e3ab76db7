"""What is wrong with a collection of texts, or of pairs of them, for `check`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neocog.data.findings import Facts, Finding
from neocog.data.pairs import SAME, Pairs
from neocog.data.source import Source
from neocog.records import counted

_LONG, _LONG_OF_PAIR = 512, 50  # words; of longer texts the end is not read unless the user says so


def text_findings(source: Source, texts: Sequence[str], unread: dict[int, str], groups: np.ndarray) -> list[Finding]:
    """What is wrong with texts.

    Args:
        texts: of each sample, "" where it cannot be read. unread: why some cannot.
        groups: int64 (N,), equal texts share a number.
    """
    f = Facts(source, "text")
    order = np.argsort(groups, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if len(order) else []
    same = [part.tolist() for part in parts if len(part) > 1 and texts[part[0]].strip()]
    against, leaking, others = f.copies(same, source.labels)

    def note(i: int) -> str:
        return unread.get(i, "") or " ".join(texts[i][:200].split())

    found = [
        f.finding("unreadable", "error", "cannot be read", "mend them, or leave them out", list(unread), note),
        f.finding("empty", "warning", "are empty", "fill them, or leave them out",
                  [i for i, text in enumerate(texts) if not text.strip() and i not in unread], note),
        f.finding("contradictions", "warning", "are equal to another with a different label",
                  "correct them: no net can learn both labels", against, note),
        f.finding("leaks", "error", "stand in several splits",
                  "move equal texts to one split: figures on texts that were learned are too high", leaking, note),
        f.finding("copies", "hint", "are equal to another",
                  "keep one of each; a split that neocog makes keeps them together", others, note),
        f.finding("long", "hint", f"have more than {_LONG} words",
                  "the rest is not read, unless --input-option longest=N says so",
                  [i for i, t in enumerate(texts) if t.count(" ") >= _LONG and len(t.split()) > _LONG], note),
        f.finding("signs", "hint", "have signs that stand for letters that could not be read",
                  "save the file as UTF-8 again, from the program that made it",
                  [i for i, t in enumerate(texts) if "\ufffd" in t or "Ã¤" in t or "Ã©" in t or "â€" in t], note),
    ]  # fmt: skip
    return list(filter(None, found))


def pair_findings(source: Pairs) -> tuple[list[Finding], np.ndarray]:
    """What is wrong with pairs: rows that contradict each other, leaks between splits, copies, empty texts.

    Also int64 (N,): rows with equal texts share a number, -1 = alone.
    """
    pairs = [tuple(_plain(source.columns[role][i]) for role in ("first", "second")) for i in range(len(source))]
    said = source.columns["same"].codes if "same" in source.columns else np.full(len(source), -1)  # type: ignore[attr-defined]
    places: dict[tuple[str, ...], list[int]] = {}
    for i, pair in enumerate(pairs):
        places.setdefault(tuple(sorted(pair)), []).append(i)
    f, copies = Facts(source, "row"), [rows for rows in places.values() if len(rows) > 1]
    against, leaking, others = f.copies(copies, said)

    def note(i: int) -> str:
        return " | ".join(pairs[i])[:200]

    found = [
        f.finding("contradictions", "error", "have equal texts and different answers",
                  "correct them: no net can learn both answers", against, note),
        f.finding("leaks", "error", "with equal texts stand in different splits",
                  "move them to one split: figures on texts that were learned are too high", leaking, note),
        f.finding("copies", "warning", "have equal texts", "keep one of each", others, note),
        f.finding("itself", "hint", "pair a text with itself", "leave them out: there is nothing to learn",
                  [i for i, (a, b) in enumerate(pairs) if a == b], note),
        f.finding("long", "hint", f"have a text of more than {_LONG_OF_PAIR} words",
                  "only the beginning of a text is read: put what tells them apart there",
                  [i for i, of in enumerate(pairs) if max(len(t.split()) for t in of) > _LONG_OF_PAIR], note),
    ]  # fmt: skip
    counts = np.bincount(said[said >= 0], minlength=2)
    which, rarer = SAME[int(counts.argmin())], int(counts.min())
    if counts.any() and rarer == 0:
        found.append(Finding("one answer", "error", f"no pair is {which}", 0, f"add pairs that are {which}"))
    elif 0 < rarer < 0.1 * counts.sum():
        title = f"only {rarer:,} of {counts.sum():,} pairs are {which}"
        found.append(Finding("imbalance", "hint", title, rarer, "look at F1 and AUC, not at the accuracy alone"))
    if source.problems:
        title = f"{counted(len(source.problems), 'row', 'lacks')} a text"
        found.append(Finding("empty", "warning", title, len(source.problems), "fill them, or leave them out"))
    groups = np.full(len(source), -1, np.int64)
    for number, rows in enumerate(copies):
        groups[rows] = number
    return list(filter(None, found)), groups


def _plain(texts: tuple[str, ...]) -> str:
    return " ".join(" ".join(texts).lower().split())
