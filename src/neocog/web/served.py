"""What a server shows: libraries and runs by name, and the jobs; names are the only way to them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from neocog.errors import RunError, closest
from neocog.library import Library
from neocog.library.asking import Asking
from neocog.web.jobs import Jobs, NotServed


class Served:
    """Libraries and runs of one server.

    Args:
        libraries: folders, as ``Library`` takes them.
        runs: run folders.
        beside: a folder whose run folders are shown as well, whenever they appear, and where new ones are made; None:
            none.
        jobs: where the jobs are kept; None: see `jobs_folder`.
    """

    def __init__(
        self,
        libraries: Sequence[str | Path] = (),
        runs: Sequence[str | Path] = (),
        beside: Path | None = None,
        jobs: Path | None = None,
    ) -> None:
        """Raises: LibraryError, RunError: one of them is none."""
        self.libraries: dict[str, Asking] = {}
        for one in libraries:
            store = Library(one).store
            parent = store.folder.parent if store.folder.name == ".neocog" else store.folder
            self.libraries[_free(parent.name, self.libraries)] = Asking(store)
        self.beside = beside
        self.jobs = Jobs(jobs)
        self._runs: dict[str, Path] = {}
        for run in runs:
            folder = Path(os.path.abspath(run))
            if not (folder / "run.json").is_file():
                raise RunError(f"{run} is no run folder; 'neocog train DATA --out FOLDER' makes one")
            self.add_run(folder)

    def library(self, name: str) -> Asking:
        """Return a library by its name. Raises: NotServed."""
        if name not in self.libraries:
            raise NotServed(f"no library {name[:80]!r} is served{closest(name, self.libraries)}")
        return self.libraries[name]

    @property
    def runs(self) -> dict[str, Path]:
        """The run folders by name."""
        if self.beside is not None and self.beside.is_dir():
            for folder in sorted(self.beside.iterdir()):
                if (folder / "run.json").is_file():
                    self.add_run(folder)
        return {name: folder for name, folder in self._runs.items() if folder.is_dir()}

    def add_run(self, folder: Path) -> str:
        """Show a run folder from now on; returns its name."""
        folder = Path(os.path.abspath(folder))
        for name, known in self._runs.items():
            if known == folder:
                return name
        name = _free(folder.name, self._runs)
        self._runs[name] = folder
        return name

    def run(self, name: str) -> Path:
        """Return the folder of a run by its name. Raises: NotServed."""
        runs = self.runs
        if name not in runs:
            raise NotServed(f"no run {name[:80]!r} is served{closest(name, runs)}")
        return runs[name]


def _free(name: str, taken: object) -> str:
    name = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "pictures"
    number, found = 1, name
    while found in taken:  # type: ignore[operator]
        number += 1
        found = f"{name}-{number}"
    return found
