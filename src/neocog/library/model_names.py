"""Under which names a library keeps the vectors that nets make; imports no PyTorch."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from neocog.errors import LibraryError
from neocog.files import read_dict


def model_name(net: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None) -> str:
    """Return the name under which a library keeps what this net makes; imports no PyTorch.

    A net of the zoo with its ImageNet weights has its own name; any other has six digits of its weights' fingerprint.

    Raises: LibraryError: the weights cannot be read.
    """
    folder = Path(net)
    if weights in (None, "imagenet") and not (folder / "net.json").is_file():
        return str(net)
    if (folder / "net.json").is_file():
        file, stem = folder / "weights.safetensors", Path(os.path.abspath(folder)).name
    else:
        file, stem = Path(weights or ""), str(net)
        file = file / "weights.safetensors" if file.is_dir() else file
    clean = re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")[:48] or "net"
    return f"{clean if clean[0].isalpha() else 'net_' + clean}_{fingerprint(file)[:6]}"


def sound_run(net: Any) -> Path | None:
    """The folder of a run that was trained on recordings, None for any other net; imports no PyTorch."""
    if not isinstance(net, str | os.PathLike) or not (Path(net) / "net.json").is_file():
        return None
    return Path(net) if (read_dict(Path(net) / "net.json").get("reader") or {}).get("kind") == "sound" else None


def fingerprint(file: Path) -> str:
    """Return 32 hexadecimal digits for the content of a weights file. Raises: LibraryError if it cannot be read."""
    try:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()  # type: ignore[arg-type]
    except OSError as error:
        raise LibraryError(f"the weights {file} cannot be read: {error.strerror}") from None


def at_layer(model: str, layer: str) -> str:
    """Return the name under which a library keeps the vectors of another layer of a model's net."""
    return re.sub(r"[^a-z0-9]+", "_", f"{model}_at_{layer.lower()}")


def at_size(model: str, size: int) -> str:
    """Return the name under which a library keeps the vectors of pictures shown at a size that was asked for."""
    return f"{model}_{size}px"
