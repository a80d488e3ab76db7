"""The run folder: what one training leaves behind, and how it is read.

``run.json`` settings, versions, data fingerprint; ``net.json`` and ``weights.safetensors`` the trained net;
``log.jsonl`` one record a line; ``checkpoint.safetensors`` the state that a killed training continues from;
``report.html`` for people. Every file but the log appears by write-to-temporary, fsync, rename.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from neocog.errors import RunError
from neocog.names import json_text


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` into `path` so that at every moment the old or the new content is there, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically."""
    write_atomically(path, (json_text(value, indent=1) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file of a run folder.

    Raises:
        RunError: it is not there or not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"{path.parent} has no {path.name}, so it is not the folder of a run; "
            "'neocog train DATA --out FOLDER' makes one"
        ) from None
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON ({error}); was it edited?") from None


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
        return load(path.read_bytes()), metadata  # bytes: for torch, safe_open refuses a path that is not UTF-8
    except FileNotFoundError:
        raise RunError(f"{path} is not there; has the training of this run reached its first checkpoint?") from None
    except SafetensorError as error:
        raise RunError(f"{path} is damaged ({error}); it cannot have been written by neocog whole") from None


class Log:
    """The log of a run: JSON records, one a line, flushed as they come; optionally also TensorBoard events."""

    def __init__(self, folder: Path | None, *, keep: int = 0) -> None:
        """Open the log; what stands behind the first `keep` bytes (written after the last checkpoint) is cut off.

        Without a folder nothing is written: only the first of several processes keeps a log.
        """
        self._file = open(os.devnull if folder is None else folder / "log.jsonl", "ab")  # noqa: SIM115
        self._board: Any = None
        if folder is None:
            return
        if self._file.tell() > keep:
            self._file.truncate(keep)
            self._file.seek(keep)
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"))  # type: ignore[no-untyped-call]

    def write(self, kind: str, **values: Any) -> None:
        """Append one record."""
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
        return self._file.tell()

    def close(self) -> None:
        """Flush to the disk and close."""
        with contextlib.suppress(OSError):  # the null device cannot be synchronised
            os.fsync(self._file.fileno())
        self._file.close()
        if self._board is not None:
            self._board.close()


def records(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The records of a run's log, a half-written last line left out."""
    path = folder / "log.jsonl"
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if kind is None or record.get("kind") == kind:
            found.append(record)
    return found


def free_folder(stem: str, parent: Path = Path("runs")) -> Path:
    """The first of runs/stem, runs/stem-2, runs/stem-3 ... that is not there yet."""
    number = 1
    while (folder := parent / (stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return folder


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
