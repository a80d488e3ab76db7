"""Weights on disk: which file is meant, what it contains, and the preprocessing that belongs to it.

A description lies beside a weights file: ``NAME.json`` beside ``NAME.safetensors``, ``net.json`` in a run folder,
``config.json`` of a hub repository, or the metadata inside the file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import NetError, closest
from ..records import Preprocess
from .hub import from_hub, tell
from .packages import PACKAGES, from_package, installed
from .registry import facts

_WEIGHTS, _CARD = "weights.safetensors", "net.json"  # the files of a run folder


def resolve_weights(
    name: str, weights: str | os.PathLike[str], *, offline: bool | None = None, say: Callable[[str], object] = tell
) -> Path:
    """Return the safetensors file that `weights` means for the net `name`.

    Args:
        weights: a file, the folder of a finished training, or "imagenet": ``NAME.safetensors`` in the folder that the
            environment variable NEOCOG_WEIGHTS names, else from an installed package (see `packages`), else from the
            Hugging Face hub (extra ``hub``; see `hub.from_hub` for what that raises).
        offline: never fetch; default: as HF_HUB_OFFLINE or NEOCOG_OFFLINE say.
        say: is called with a line before anything is fetched.

    Raises: NetError: there is no such file or run, or no such weights are known.
    """
    if not isinstance(weights, str | os.PathLike):
        raise NetError(f"expected weights='imagenet', a safetensors file or a run folder, got {weights!r}")
    if weights == "imagenet":
        facts(name)  # an unknown net is named as such
        folder = os.environ.get("NEOCOG_WEIGHTS")
        local = Path(folder) / f"{name}.safetensors" if folder else None
        if local and local.is_file():
            return local
        return from_package(name) or from_hub(name, offline=offline, say=say)
    path = Path(weights).expanduser()
    if path.is_dir():
        lacking = [file for file in (_WEIGHTS, _CARD) if not (path / file).is_file()]
        if lacking:
            raise NetError(
                f"{path} is not the folder of a finished training: {' and '.join(lacking)} not found; give such a "
                "folder, a safetensors file, or weights='imagenet'"
            )
        return path / _WEIGHTS
    if not path.is_file():
        raise NetError(
            f"weights not found: {str(path)!r}{closest(str(weights), ['imagenet'])}; expected 'imagenet', "
            "a safetensors file or the folder of a finished training"
        )
    return path


# Nets whose ImageNet weights are looked for where nobody names a net, the better ones first (top-1 of the weights).
_PREFERRED = (
    "efficientnet_lite2", "efficientnet_lite1", "resnet50", "efficientnet_lite0", "densenet121", "mobilenet_v2",
    "mobilenet_v1", "mobilenet_v1_075", "mobilenet_v1_050",
)  # fmt: skip


def at_hand(name: str | None = None) -> tuple[str, str] | None:
    """Return the best net (or `name` alone) whose ImageNet weights need no download, and where they are, in words."""
    folder = os.environ.get("NEOCOG_WEIGHTS")
    for one in (name,) if name else _PREFERRED:
        if folder and (Path(folder) / f"{one}.safetensors").is_file():
            return one, f"in {folder}"
        if installed(one):
            return one, f"of the package {PACKAGES[one].distribution}"
    return None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file. Raises: NetError if it is none."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except SafetensorError as error:
        raise NetError(f"{path} is not a safetensors file ({error}){_remedy(path)}") from None


def _remedy(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(2)
    if start not in (b"PK", b"\x80\x02"):  # what torch.save writes, now and before 2020
        return ""
    return (
        "; it looks like a pickle, which can run any code and is never loaded here. If you trust it, convert it once: "
        "python -c \"import torch, safetensors.torch as s; s.save_file(torch.load('IN', weights_only=True), "
        "'OUT.safetensors')\""
    )


def description(path: Path) -> dict[str, Any]:
    """Return what is written beside or inside a weights file, {} if nothing. Raises: NetError if it is damaged."""
    beside = [path.with_suffix(".json")]
    if path.name == _WEIGHTS:
        beside.append(path.with_name(_CARD))
    if path.name == "model.safetensors":
        beside.append(path.with_name("config.json"))
    for file in beside:
        if file.is_file():
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
            except (ValueError, RecursionError) as error:
                raise NetError(f"{file} should describe {path.name} as JSON, but cannot be read: {error}") from None
            if isinstance(found, dict):
                return found
    try:
        with safe_open(path, "pt") as tensors:
            return dict(tensors.metadata() or {})
    except SafetensorError:
        return {}


def trained_spec(path: Path) -> dict[str, Any]:
    """Return the spec (see `registry.build`) of the net that a run trained, {} if the file is from no run."""
    spec = description(path).get("net") if path.name == _WEIGHTS else None
    return dict(spec) if isinstance(spec, dict) else {}


def trained_options(path: Path | None) -> dict[str, Any]:
    """Return the options of MobileNet v1 in a description: {"padding": ..., "bn_eps": ...} or less."""
    note = description(path) if path else {}
    made: dict[str, Any] = {}
    if "SAME" in str(note.get("padding", "")):
        made["padding"] = "tensorflow"
    with contextlib.suppress(KeyError, TypeError, ValueError):
        made["bn_eps"] = float(note["batch_norm_eps"])
    return made


def preprocess_for(weights: str | os.PathLike[str], name: str | None = None) -> Preprocess:
    """Return how pictures are prepared for the net that `weights` (as for `resolve_weights`) were trained for.

    It is read from the description: an object ``preprocess`` with the fields of `Preprocess` (a run has it), timm's
    ``mean``, ``std``, ``crop_pct``, ``input_size``, or a text ``input`` such as "RGB, 224x224, x/127.5-1". A `resize`
    that is not given is `size` / 0.875: 256 for 224. If there is no description, the preprocessing of torchvision's
    nets (the defaults of `Preprocess`) is taken for the net `name`, at its usual size; for MobileNet v1, x / 127.5 - 1,
    with which Google's and timm's weights were trained.
    """
    if weights == "imagenet" and name is None:
        raise NetError("whose ImageNet weights? Give the net: preprocess_for('imagenet', 'resnet50')")
    path = resolve_weights(name or "", weights)
    note = description(path)
    made = _from_fields(note) or _from_timm(note) or _from_text(note)
    if made is not None:
        return made
    if note.get("input") or name is None:
        raise NetError(
            f"the description of {path.name} does not give its preprocessing"
            f"{': input=' + repr(note['input']) if 'input' in note else ''}; write it into {path.stem}.json beside the "
            'file, such as {"preprocess": {"size": 224, "resize": 256, "mean": [0.485, 0.456, 0.406], '
            '"std": [0.229, 0.224, 0.225]}}, or name the net for its usual preprocessing'
        )
    size = facts(name).input[-1]
    usual = Preprocess(size=size, resize=_resize(size))
    half = (0.5, 0.5, 0.5)
    return replace(usual, mean=half, std=half) if name.startswith("mobilenet_v1") else usual


def _resize(size: int, share: float = 0.875) -> int:
    return max(size, int(size / share))


def _from_fields(note: Mapping[str, Any]) -> Preprocess | None:
    fields = note.get("preprocess")
    if not isinstance(fields, dict):
        return None
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    try:
        return Preprocess(**values)
    except TypeError as error:
        raise NetError(f"the preprocessing {fields!r} is not understood: {error}") from None


def _from_timm(note: Mapping[str, Any]) -> Preprocess | None:
    fields = note.get("pretrained_cfg", note)
    if not isinstance(fields, dict) or not {"mean", "std", "input_size"} <= set(fields):
        return None
    channels, _, size = fields["input_size"]
    resize = _resize(size, float(fields.get("crop_pct") or 0.875))
    return Preprocess(size, resize, tuple(fields["mean"]), tuple(fields["std"]), channels)


def _from_text(note: Mapping[str, Any]) -> Preprocess | None:
    text = str(note.get("input", ""))
    size, scale = re.search(r"(\d+)x\1\b", text), re.search(r"x\s*/\s*(127\.5\s*-\s*1|255)(?!\d)", text)
    if size is None or scale is None or "BGR" in text:
        return None
    channels = 1 if re.search(r"gr[ea]y", text, re.IGNORECASE) else 3
    half = 0.5 if scale[1].startswith("127.5") else 0.0  # x / 127.5 - 1 = (x / 255 - 0.5) / 0.5
    side = int(size[1])
    return Preprocess(side, _resize(side), (half,) * channels, (half or 1.0,) * channels, channels)
