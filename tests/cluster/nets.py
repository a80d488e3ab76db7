"""What processes of a cluster make in tests: a net of no weight. They import it by its name."""

from __future__ import annotations

import os
from pathlib import Path

from library.tiny import Tiny


class Deadly(Tiny):
    """Its process dies of pictures that are white."""

    def embed(self, pictures):
        if (pictures > 250).all((1, 2, 3)).any():
            os._exit(9)
        return super().embed(pictures)


def tiny(folder: Path | None) -> Tiny:
    return Tiny()


def deadly(folder: Path | None) -> Tiny:
    return Deadly()


def none(folder: Path | None) -> Tiny:
    raise OSError("no net here")
