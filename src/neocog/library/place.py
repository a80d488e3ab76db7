"""Where a library is, when the user did not say so.

A library lies beside its pictures, as the folder ``.neocog`` in the first folder that was indexed. So that
``neocog search`` finds it from anywhere, the folders of libraries that were indexed are remembered in one small file of
the user's (``$XDG_STATE_HOME/neocog/libraries.json``), the last one first. Losing that file loses nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from neocog.errors import LibraryError, closest
from neocog.files import write_atomically

NAME = ".neocog"
_KEPT = 50  # libraries that are remembered


def beside(folder: str | os.PathLike[str]) -> Path:
    """Return where the library of a folder of pictures is by default."""
    return Path(os.path.abspath(folder)) / NAME


def is_library(folder: str | os.PathLike[str]) -> bool:
    """Whether there is a library in a folder."""
    return (Path(folder) / "library.json").is_file()


def find(named: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of the library that is meant.

    Args:
        named: a library, a folder of pictures with one, or the name of a remembered one (that of its folder of
            pictures). None looks at ``$NEOCOG_LIBRARY``, then for ``.neocog`` here and in the folders above, then takes
            the one that was indexed last.

    Raises: LibraryError: there is none; says what to type.
    """
    named = named or os.environ.get("NEOCOG_LIBRARY") or None
    if named is not None:
        for folder in (Path(named).expanduser(), beside(Path(named).expanduser())):
            if is_library(folder):
                return Path(os.path.abspath(folder))
        known = {called(folder): folder for folder in reversed(remembered())}
        if str(named) in known:
            return known[str(named)]
        raise LibraryError(f"there is no library at {named}{closest(str(named), known)}; type 'neocog index {named}'")
    here = Path.cwd()
    for folder in (here, *here.parents):
        if is_library(folder / NAME):
            return folder / NAME
    if is_library(here):
        return here
    last = next(iter(remembered()), None)
    if last is None:
        raise LibraryError("there is no library here; type 'neocog index FOLDER', or say which: --library LIB")
    return last


def remember(folder: str | os.PathLike[str]) -> None:
    """Note that a library was indexed now. Where that cannot be written, it is left."""
    folder = Path(os.path.abspath(folder))
    file = _file()
    known = [str(folder), *(str(one) for one in remembered() if one != folder)][:_KEPT]
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, f"{json.dumps(known, indent=1)}\n".encode(), durable=False)


def remembered() -> list[Path]:
    """Return the libraries that were indexed and are still there, the last one first."""
    try:
        known = json.loads(_file().read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return [Path(one) for one in known if isinstance(one, str) and is_library(one)] if isinstance(known, list) else []


def _file() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or str(Path("~/.local/state").expanduser())
    return Path(state) / "neocog" / "libraries.json"


def called(folder: Path) -> str:
    """Return the name of a library: that of its folder of pictures, where it lies in one."""
    return folder.parent.name if folder.name == NAME else folder.name
