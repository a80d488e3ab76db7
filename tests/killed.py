"""What a kill leaves of a training."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def first_checkpoint_in(part: Path) -> Iterator[None]:
    """The first checkpoint that is written meanwhile leaves a copy of its run, as a kill right after it would."""
    from neocog.fit.state import State

    save = State.save

    def saving(state: State, folder: Path) -> None:
        save(state, folder)
        if not part.exists():
            shutil.copytree(folder, part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(State, "save", saving)
        yield
