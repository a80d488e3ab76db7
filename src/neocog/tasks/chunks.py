"""Chunks of rows of tags, and how many are right, as conlleval counts (Tjong Kim Sang and Buchholz 2000)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_TAG = re.compile(r"O|[BIESLU](-.+)?")


class Scheme(NamedTuple):
    """What tags say of chunks; arrays over the tags.

    Attributes:
        outside: bool, of no chunk. opens: bool, begins a chunk whatever stands before. closes: bool, ends one.
        kind: int, index into `kinds`, the names of the chunks; -1 outside.
        marked: tags are B-, I- and so on; otherwise each word is a chunk of its own.
    """

    outside: np.ndarray
    opens: np.ndarray
    closes: np.ndarray
    kind: np.ndarray
    kinds: tuple[str, ...]
    marked: bool

    @classmethod
    def of(cls, tags: Sequence[str]) -> Scheme:
        """The scheme of tags: BIO and its kin where all are such, else plain."""
        marked = all(map(_TAG.fullmatch, tags)) and any(tag[0] in "BI" for tag in tags)
        outside = np.array([tag == "O" for tag in tags], bool)
        letters = [tag[0] if marked else "S" for tag in tags]
        names = [(tag[2:] or "chunk") if marked else tag for tag in tags]
        kinds = tuple(sorted({name for name, out in zip(names, outside, strict=True) if not out}))
        kind = np.array([-1 if out else kinds.index(name) for name, out in zip(names, outside, strict=True)], np.int64)
        opens = np.array([one in "BSU" for one in letters], bool) & ~outside
        closes = np.array([one in "ESLU" for one in letters], bool) & ~outside
        return cls(outside, opens, closes, kind, kinds, marked)

    def starts(self, tags: np.ndarray, first: np.ndarray) -> np.ndarray:
        """bool (T,): where chunks begin in rows of tags, joined; `first`: bool (T,), where a sentence begins."""
        before = np.roll(tags, 1)
        opened = self.opens[tags] | first | self.closes[before] | (self.kind[before] != self.kind[tags])
        return np.asarray(~self.outside[tags] & opened)

    def chunks(self, tags: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int (T,): where the chunk that begins here ends (exclusive), 0: none begins; and its kind."""
        starts = self.starts(tags, first)
        stop = np.flatnonzero(starts | self.outside[tags] | first)
        at = np.flatnonzero(starts)
        ends = np.zeros(len(tags), np.int64)
        ends[at] = np.append(stop, len(tags))[np.searchsorted(stop, at, "right")]
        return ends, np.where(starts, self.kind[tags], -1)

    def allowed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """bool (K, K), which tag may follow which, (K,) which may come first, and (K,) last."""
        whole = bool(self.closes.any())  # E- and S- say where chunks end
        free = self.outside | self.opens
        inside = ~self.outside & ~self.closes  # a chunk may go on behind it
        on = inside[:, None] & ~free[None] & (self.kind[:, None] == self.kind[None])
        if not self.marked:
            return np.ones_like(on), np.ones_like(free), np.ones_like(free)
        behind = free[None] & (~inside[:, None] if whole else np.ones_like(inside)[:, None])
        return on | behind, free, ~inside if whole else np.ones_like(free)


def counts(scheme: Scheme, true: np.ndarray, found: np.ndarray, first: np.ndarray) -> dict[str, np.ndarray]:
    """Of each kind of chunk how many there are, were found, and are right: int64 (kinds,)."""
    (a, kind), (b, said) = scheme.chunks(true, first), scheme.chunks(found, first)
    right = (a > 0) & (a == b) & (kind == said)
    of = {"true": kind[a > 0], "found": said[b > 0], "right": kind[right]}
    return {name: np.bincount(values, minlength=len(scheme.kinds)) for name, values in of.items()}


def scores(true: Any, found: Any, right: Any) -> dict[str, float]:
    """Precision, recall and F1, each 0 where nothing is."""
    return {
        "precision": float(right / found) if found else 0.0,
        "recall": float(right / true) if true else 0.0,
        "f1": float(2 * right / (true + found)) if true + found else 0.0,
    }
