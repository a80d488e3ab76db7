"""Files that appear whole, what is wrong with one that was edited, locks between processes, and the user's cache."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict


def cache_folder() -> Path:
    """Return where files are kept: NEOCOG_CACHE, else ``XDG_CACHE_HOME/neocog``, else ``~/.cache/neocog``."""
    if folder := os.environ.get("NEOCOG_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neocog"


def read_dict(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; {} where there is none, or none that can be read."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def misfit(value: Any, form: Any, at: str = "the file") -> str:
    """What is wrong with a value of a JSON file, "" if nothing.

    `form` is a type; a TypedDict stands for an object with these keys and perhaps others, a dataclass for one with
    its fields and no others.
    """
    origin, inner = get_origin(form), get_args(form)
    if form is Any:
        return ""
    if origin in (Union, UnionType):
        found = [misfit(value, one, at) for one in inner]
        return "" if "" in found else found[0]
    if is_typeddict(form) or is_dataclass(form):
        if wrong := misfit(value, dict, at):
            return wrong
        hints = get_type_hints(form)
        if is_dataclass(form):
            needed = {f.name for f in fields(form) if f.default is MISSING and f.default_factory is MISSING}
            if more := sorted(value.keys() - hints.keys()):
                return f"{at} has an unknown key {more[0]!r}"
        else:
            needed = form.__required_keys__
        if gone := sorted(needed - value.keys()):
            return f"{at} has no key {gone[0]!r}"
        parts = [(value[key], hints[key], key if at == "the file" else f"{at}.{key}") for key in hints if key in value]
        return next(filter(None, (misfit(*part) for part in parts)), "")
    if origin in (list, tuple, dict) and not misfit(value, dict if origin is dict else list, at):
        if origin is dict:
            parts = [(one, inner[1], key if at == "the file" else f"{at}.{key}") for key, one in value.items()]
        elif origin is tuple and inner[-1] is not Ellipsis:
            if len(value) != len(inner):
                return f"{at} has {len(value)} values instead of {len(inner)}"
            parts = [(one, part, f"{at}[{n}]") for n, (one, part) in enumerate(zip(value, inner, strict=True))]
        else:
            parts = [(one, inner[0], f"{at}[{n}]") for n, one in enumerate(value)]
        return next(filter(None, (misfit(*part) for part in parts)), "")
    plain = list if origin is tuple else origin or form
    fits = isinstance(value, (int, float) if plain is float else plain)
    if fits and not (isinstance(value, bool) and plain in (int, float)):
        return ""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    shown = names[type(value)] if isinstance(value, dict | list) else json.dumps(value)[:40]
    return f"{at} is {shown} instead of {names.get(plain, 'a number')}"


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Put `data` into `path` so that at every moment the old or the new content is there, whole.

    `durable`: also after a power cut; a file that can be made again need not wait for the disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with open(temporary, "wb") as out:
            out.write(data)
            out.flush()
            if durable:
                os.fsync(out.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        flush_folder(path.parent)


def flush_folder(path: Path) -> None:
    """Let the names in a folder survive a power cut, where the system can."""
    if os.name == "posix":
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def locked(file: int, *, wait: bool = False, shared: bool = False) -> bool:
    """Lock an open file until it is closed or its process ends; False if another process has it locked.

    True, too, where the file system knows no locks.

    Args:
        wait: until the other process lets go. shared: beside others that share it (not on Windows).
    """
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            os.lseek(file, 1 << 30, os.SEEK_SET)  # a byte beyond the text, which must stay readable
            msvcrt.locking(file, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            return True
        except OSError:
            return False
        finally:
            os.lseek(file, 0, os.SEEK_SET)
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
