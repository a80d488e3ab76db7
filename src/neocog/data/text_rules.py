"""What is wrong with a collection of texts, for `check`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neocog.data.findings import KEPT, Example, Finding
from neocog.data.source import Source
from neocog.records import SPLITS, counted

_LONG = 512  # words; of longer texts the end is not read unless the user says so


def text_findings(source: Source, texts: Sequence[str], unread: dict[int, str], groups: np.ndarray) -> list[Finding]:
    """What is wrong with texts.

    Args:
        texts: of each sample, "" where it cannot be read. unread: why some cannot.
        groups: int64 (N,), equal texts share a number.
    """
    found: list[Finding] = []

    def example(i: int) -> Example:
        label = source.classes[source.labels[i]] if source.labels[i] >= 0 else None
        split = SPLITS[source.splits[i]] if source.splits[i] >= 0 else None
        return Example(i, source.key(i), label, split, unread.get(i, "") or " ".join(texts[i][:200].split()))

    def finding(name: str, severity: str, what: str, every: Sequence[Sequence[int]], advice: str) -> None:
        if every:
            rows = sum(map(len, every))
            shown = tuple(tuple(map(example, some)) for some in every[:KEPT])
            title = f"{counted(rows, 'text')} {what}"
            found.append(Finding(name, severity, title, rows, advice, shown, max(0, len(every) - KEPT)))

    empty = [i for i, text in enumerate(texts) if not text.strip() and i not in unread]
    order = np.argsort(groups, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if len(order) else []
    same = [part.tolist() for part in parts if len(part) > 1 and texts[part[0]].strip()]
    against = [part for part in same if len(set(source.labels[part].tolist()) - {-1}) > 1]
    leaking = [part for part in same if len(set(source.splits[part].tolist()) - {-1}) > 1]
    finding("unreadable", "error", "cannot be read", [[i] for i in unread], "mend them, or leave them out")
    finding("empty", "warning", "are empty", [[i] for i in empty], "fill them, or leave them out")
    finding("contradictions", "warning", "are equal to another with a different label", against,
            "correct them: no net can learn both labels")  # fmt: skip
    finding("leaks", "error", "stand in several splits", leaking,
            "move equal texts to one split: figures on texts that were learned are too high")  # fmt: skip
    finding("copies", "hint", "are equal to another", [p for p in same if p not in against and p not in leaking],
            "keep one of each; a split that neocog makes keeps them together")  # fmt: skip
    finding("long", "hint", f"have more than {_LONG} words",
            [[i] for i, text in enumerate(texts) if text.count(" ") >= _LONG and len(text.split()) > _LONG],
            "the rest is not read, unless --input-option longest=N says so")  # fmt: skip
    finding("signs", "hint", "have signs that stand for letters that could not be read", [
        [i] for i, text in enumerate(texts) if "\ufffd" in text or "Ã¤" in text or "Ã©" in text or "â€" in text],
        "save the file as UTF-8 again, from the program that made it")  # fmt: skip
    return found
