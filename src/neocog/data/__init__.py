"""Pictures in: sources, decoding, checking, splitting, augmentation, batches."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from neocog.lazily import of_rooms

if TYPE_CHECKING:
    from neocog.data.decode import decode, prepare
    from neocog.data.open import open_source
    from neocog.data.source import Arrays, Source
    from neocog.data.split import complete_split, make_split

__all__ = ["Arrays", "Source", "complete_split", "decode", "make_split", "open_source", "prepare"]

_HOMES = {
    "Arrays": "source",
    "Source": "source",
    "complete_split": "split",
    "decode": "decode",
    "make_split": "split",
    "open_source": "open",
    "prepare": "decode",
}

__getattr__, __dir__ = of_rooms(__name__, _HOMES)


class _Package(ModuleType):
    """`decode` is a module and a function in it; importing the module must not hide the function behind it."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOMES and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
