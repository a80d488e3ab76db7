"""The run folder: what one training leaves behind, and how it is read.

``run.json`` settings, versions, data fingerprint; ``net.json`` and ``weights.safetensors`` the trained net;
``log.jsonl`` one record a line; ``checkpoint.safetensors`` the state that a killed training continues from;
``report.html`` for people. Every file but the log appears by write-to-temporary, fsync, rename.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

import neocog
from neocog.errors import RunError
from neocog.files import locked, misfit, write_atomically
from neocog.fit.watching import free_folder, records
from neocog.names import json_text

__all__ = [
    "Log", "damaged", "free_folder", "load_state", "misfit", "read_json", "read_tensors", "records",
    "write_atomically", "write_json", "write_tensors",
]  # fmt: skip


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically."""
    write_atomically(path, (json_text(value, indent=1) + "\n").encode())


def read_json(path: Path, form: Any = dict) -> Any:
    """Read a JSON file of a run folder.

    Args:
        form: what must be in it, see `misfit`.

    Raises:
        RunError: it is not there, not JSON, of another form, or written by a newer neocog.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"{path.parent} has no {path.name}, so it is not a run folder; 'neocog train DATA --out FOLDER' makes one"
        ) from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"it is not valid JSON ({error})") from None
    written = value.get("neocog") if isinstance(value, dict) else None
    if isinstance(written, str) and _release(written) > _release(neocog.__version__):
        raise RunError(
            f"{path} was written by neocog {written}, and this is {neocog.__version__}; update neocog to use this run"
        )
    if wrong := misfit(value, form):
        raise damaged(path, wrong)
    return value


def damaged(path: Path, wrong: str) -> RunError:
    """The error for a file of a run folder that is not as neocog wrote it."""
    again = f"'neocog resume {path.parent}' writes it again" if path.name == "net.json" else "restore it from a copy"
    return RunError(f"{path} is damaged: {wrong}. Was it edited? {again[0].upper()}{again[1:]}, or train a new run")


def _release(version: str) -> tuple[int, ...]:
    """(1, 2) of "1.2.0.dev3"."""
    numbers = [int(n) for n in re.split(r"[^\d.]", version)[0].split(".") if n]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors (moved to the CPU, made contiguous) as safetensors, atomically."""
    plain = {k: v.detach().to("cpu", copy=False).contiguous().clone() for k, v in tensors.items()}
    write_atomically(path, save(plain, dict(metadata or {})))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: tensors and metadata.

    Raises:
        RunError: it is not there, or damaged.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        tensors = load(path.read_bytes())  # bytes: for torch, safe_open refuses a path that is not UTF-8
        return dict(sorted(tensors.items())), metadata  # its own order differs from process to process
    except FileNotFoundError:
        raise RunError(f"{path} is not there; has the training of this run reached its first checkpoint?") from None
    except SafetensorError as error:
        raise RunError(f"{path} is damaged ({error}); neocog did not write all of it") from None


class Log:
    """The log of a run: JSON records, one a line, flushed as they come; optionally also TensorBoard events."""

    def __init__(self, folder: Path | None, *, keep: int = 0) -> None:
        """Open the log; what stands behind the first `keep` bytes (written after the last checkpoint) is cut off.

        Without a folder nothing is written: only the first of several processes keeps a log.
        """
        self._board: Any = None
        self._file = None if folder is None else open(folder / "log.jsonl", "ab")  # noqa: SIM115
        if folder is None or self._file is None:
            return
        locked(self._file.fileno())  # as long as this process lives: `state_of` knows that the run is at work
        if self._file.tell() > keep:
            self._file.truncate(keep)
            self._file.seek(keep)
        with contextlib.suppress(ImportError, UnicodeEncodeError):  # it takes no path that is not UTF-8
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"))  # type: ignore[no-untyped-call]

    def write(self, kind: str, **values: Any) -> None:
        """Append one record."""
        if self._file is None:
            return
        line = json_text({"kind": kind, **values}, default=float) + "\n"
        self._file.write(line.encode())
        self._file.flush()
        if self._board is not None and kind == "epoch":
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(name, value, int(values["step"]))

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return 0 if self._file is None else self._file.tell()

    def close(self) -> None:
        """Flush to the disk and close."""
        if self._file is None:
            return
        os.fsync(self._file.fileno())
        self._file.close()
        if self._board is not None:
            self._board.close()


def load_state(net: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load a net's state strictly; says which names or shapes differ.

    Raises:
        RunError: the weights are not those of this net.
    """
    own = net.state_dict()
    missing = [k for k in own if k not in tensors]
    extra = [k for k in tensors if k not in own]
    shapes = [
        f"{k}: {tuple(own[k].shape)} here, {tuple(tensors[k].shape)} in the file"
        for k in own
        if k in tensors and own[k].shape != tensors[k].shape
    ]
    if missing or extra or shapes:
        parts = []
        for what, names in (("missing", missing), ("unexpected", extra), ("of another shape", shapes)):
            if names:
                parts.append(f"{len(names)} {what} ({'; '.join(names[:3])}{' ...' if len(names) > 3 else ''})")
        raise RunError(f"the weights in {where} do not fit the net: {', '.join(parts)}")
    net.load_state_dict(dict(tensors), strict=True)
