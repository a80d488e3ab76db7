"""library.json: what makes a folder a library, which folders it covers, and which models have vectors in it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import uuid
from pathlib import Path
from typing import Any, TypedDict

from neocog.errors import LibraryError
from neocog.files import misfit, write_atomically
from neocog.names import json_text

_AGAIN = "restore it, or index again from scratch"
FORMAT = 1  # of the folder; a library with a higher number was made by a newer version of neocog
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")  # of models and of saved values


class _Box(TypedDict):
    text: str
    box: tuple[float, float, float, float]


class _Head(TypedDict):
    weights: list[float]
    bias: float
    line: tuple[float, float, float]
    share: float
    quality: float | None


class _Taught(TypedDict):
    model: str
    yes: dict[str, Any]
    no: dict[str, Any]
    head: _Head


class _Said(TypedDict):
    hash: str
    name: str
    right: bool


class _Edit(TypedDict):
    hash: str
    before: dict[str, list[Any]]


class _Line(TypedDict):
    slope: float
    shift: float


class _Model(TypedDict):
    dimension: int


class _Card(TypedDict):
    inside: bool
    folders: list[str]
    models: dict[str, _Model]


class _Map(TypedDict):
    model: str
    method: str
    ids: list[str]
    x: list[float]
    y: list[float]


FORMS: dict[str, Any] = {  # of the values that a library keeps beside its tables, by their names; see `files.misfit`
    "boxes": dict[str, list[_Box]],
    "calibration": dict[str, dict[str, _Line]],
    "corrections": list[_Said],
    "edits": list[_Edit],
    "map": _Map,
    "taught": dict[str, _Taught],
}


def new_card(folder: Path) -> dict[str, Any]:
    """The card of an empty library.

    ``inside``: the folder's name begins with a dot (``.neocog`` inside the pictures), so paths below its parent are
    kept relative, and pictures and library can be moved together.
    """
    return {
        "format": FORMAT,
        "id": uuid.uuid4().hex,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "inside": folder.name.startswith("."),
        "folders": [],
        "models": {},
    }


class Card:
    """library.json of one library, read again whenever another process has changed it."""

    def __init__(self, folder: Path, values: dict[str, Any] | None = None) -> None:
        """`values`: what a library that is being made says of itself. Raises: as `read_card`."""
        self.folder = folder
        self._stamp = self._now()
        self._values = read_card(folder) if values is None else values

    def read(self) -> dict[str, Any]:
        """Its current values. Raises: as `read_card`."""
        stamp = self._now()
        if stamp != self._stamp:
            self._values, self._stamp = read_card(self.folder), stamp
        return self._values

    def write(self, **changes: Any) -> None:
        """Change some of its values; to be called by one process at a time."""
        values = {**(read_card(self.folder) if (self.folder / "library.json").exists() else self._values), **changes}
        write_json(self.folder / "library.json", values)
        self._values, self._stamp = values, self._now()

    def _now(self) -> tuple[int, int, int]:
        with contextlib.suppress(OSError):
            status = os.stat(self.folder / "library.json")
            return status.st_mtime_ns, status.st_ino, status.st_size
        return 0, 0, 0


def read_card(folder: Path) -> dict[str, Any]:
    """Read library.json. Raises: LibraryError if there is none, it is damaged, or a newer version made it."""
    path = folder / "library.json"
    try:
        card = json.loads(path.read_text("utf-8"))
        made = int(card["format"])
        if made <= FORMAT and (wrong := misfit(card, _Card)):
            raise ValueError(wrong)
    except FileNotFoundError:
        raise LibraryError(f"no library in {folder}; 'neocog index FOLDER' makes one") from None
    except OSError as error:
        raise LibraryError(f"{path} cannot be read: {error.strerror}") from None
    except KeyError:
        raise LibraryError(f"{path} is damaged: it has no 'format'; {_AGAIN}") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise LibraryError(f"{path} is damaged: {error}; {_AGAIN}") from None
    if made > FORMAT:
        raise LibraryError(
            f"{folder} was made by a newer version of neocog (format {made}; this version reads up to {FORMAT}); "
            "update neocog: pip install --upgrade neocog"
        )
    return card  # type: ignore[no-any-return]


def read_versions(folder: Path) -> dict[str, dict[str, Any]]:
    """Of each table: its version that is read, a name for its copies, and the version after tidying; {} at first."""
    try:
        found = json.loads((folder / "versions.json").read_bytes())
    except (OSError, ValueError):  # none yet, or damaged: the next change writes it anew
        return {}
    tables = found.items() if isinstance(found, dict) else ()
    return {name: one for name, one in tables if isinstance(one, dict) and {"version", "key", "tidied"} <= one.keys()}


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON so that at every moment the old or the new content is there, whole."""
    write_atomically(path, json_text(value, indent=1).encode())


def difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The differences between two models, in words; "" if there are none. Where their files lie does not matter."""
    a, b = _identity(old), _identity(new)
    return ", ".join(key for key in a if a[key] != b[key])


def _identity(card: dict[str, Any]) -> dict[str, Any]:
    weights = card.get("weights")
    mark = weights.get("fingerprint") if isinstance(weights, dict) else weights
    same = {key: card.get(key) for key in ("dimension", "classes", "layer", "preprocess", "concepts", "sigmoid")}
    return {**same, "weights": mark}
