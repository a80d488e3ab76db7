"""From what a table says of a file to the file: its folder, its ending, its spelling."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from neocog.data.columns import split_code
from neocog.data.text import spellings


class Finder:
    """Turns a cell into the path of a file, relative to `root`: tries the table's folder, then its folders."""

    _ENDINGS = ("", ".jpg", ".png", ".jpeg", ".webp", ".JPG", ".tif", ".bmp")

    def __init__(self, folder: Path, root: Path, split: int) -> None:
        inside = sorted(one.name for one in os.scandir(folder) if one.is_dir() and not one.name.startswith("."))
        # train.csv beside train/ and test/ means the pictures in train/
        inside.sort(key=lambda name: split < 0 or split_code(name) != split)
        self._bases = ["", *inside]
        self._folder, self._root = folder, root
        self._base, self.ending, self._slashes = "", "", False  # as `choose` decided last
        self.notes: list[str] = []

    def choose(self, texts: Sequence[str]) -> int:
        """Decide which folder and ending lead to files for most `texts`; return for how many."""
        best = 0
        self._base, self.ending, self._slashes = "", "", False
        for base in self._bases:
            for ending in self._ENDINGS:
                for slashes in (False, True) if any("\\" in text for text in texts) else (False,):
                    if slashes and ending:
                        continue
                    hits = sum(self._file(base, ending, slashes, text) is not None for text in texts if text)
                    if hits > best:
                        best = hits
                        self._base, self.ending, self._slashes = base, ending, slashes
            if best == len(texts):
                break
        self.notes = []
        if self._base:
            self.notes.append(f"paths in the table are relative to the folder {self._base!r}")
        if self.ending:
            self.notes.append(f"the table's names have no extension: {self.ending!r} was added")
        return best

    def find(self, text: str) -> bytes | None:
        """Return the path of the file relative to `root`, or None if there is no such file."""
        full = self._file(self._base, self.ending, self._slashes, text) if text else None
        if full is None:
            return None
        top = os.path.join(str(self._root), "")
        full = os.path.normpath(full)
        return os.fsencode(full[len(top) :] if full.startswith(top) else full)

    def _file(self, base: str, ending: str, slashes: bool, text: str) -> str | None:
        """Return the path of the file that a cell names, in whatever spelling it has on disk, or None."""
        text = text.replace("\\", "/") if slashes else text
        for name in spellings(text):
            full = os.path.join(self._folder, base, name + ending)
            try:
                if os.path.isfile(full):
                    return full
            except ValueError:  # a NUL character, or half of one beyond 16 bits
                return None
        return None
