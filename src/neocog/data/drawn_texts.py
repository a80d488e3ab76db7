"""Texts that neocog makes itself: what is said of drawn pictures, with the labels of these."""

from __future__ import annotations

from neocog.data.drawn import Drawn
from neocog.data.source import Source


class DrawnTexts(Source):
    """A sentence or more about each drawn picture, in its place."""

    kind = "text"
    drawn = True

    def __init__(self, pictures: Drawn) -> None:
        self.pictures, self.name, self.splits = pictures, pictures.name, pictures.splits
        self.notes, self.problems = [], []
        self.columns = {role: pictures.columns[role] for role in ("label", "tags", "numbers")}

    def key(self, i: int) -> str:
        return self.pictures.key(i)

    def read(self, i: int) -> str:
        return " ".join(self.pictures.captions[i])  # type: ignore[index]

    def fingerprint(self) -> str:
        return f"texts {self.pictures.fingerprint()}"
