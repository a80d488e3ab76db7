"""Where weights are found, and the preprocessing that belongs to them. The hub is a fake: no network is used."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from neocog.errors import FetchError, MissingExtra, NetError
from neocog.nets import names
from neocog.nets.hub import REPOSITORIES
from neocog.nets.weights import load_weights, preprocess_for, resolve_weights
from neocog.records import Preprocess


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("NEOCOG_WEIGHTS", "HF_HUB_OFFLINE", "NEOCOG_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)


class FakeHub(ModuleType):
    """The part of huggingface_hub that is used, with a folder as the cache and another one as the net."""

    def __init__(self, folder: Path, content: bytes, checksum: str | None = None) -> None:
        super().__init__("huggingface_hub")
        self.remote = {"model.safetensors": content, "config.json": b'{"mean": [0], "std": [1]}'}
        self.cache = folder / "cache"
        self.cache.mkdir()
        self.checksum = checksum or hashlib.sha256(content).hexdigest()
        self.asked: list[str] = []

    def HfApi(self) -> Any:
        return self

    def model_info(self, repository: str, files_metadata: bool) -> Any:
        self.asked.append(f"info {repository}")
        assert files_metadata
        content = self.remote["model.safetensors"]
        weights = SimpleNamespace(
            rfilename="model.safetensors", size=len(content), lfs=SimpleNamespace(sha256=self.checksum)
        )
        config = SimpleNamespace(rfilename="config.json", size=9, lfs=None)
        return SimpleNamespace(id=repository, siblings=[config, weights])

    def hf_hub_download(self, repository: str, file: str, local_files_only: bool = False) -> str:
        path = self.cache / file
        if not path.is_file():
            if local_files_only:
                raise FileNotFoundError(file)
            self.asked.append(f"{repository} {file}")
            path.write_bytes(self.remote[file])
        return str(path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    made = FakeHub(tmp_path, b"x" * 1_234_567)
    monkeypatch.setitem(sys.modules, "huggingface_hub", made)
    return made


def test_local_weights_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: FakeHub) -> None:
    monkeypatch.setenv("NEOCOG_WEIGHTS", str(tmp_path))
    file = tmp_path / "resnet50.safetensors"
    file.write_bytes(b"")
    assert resolve_weights("resnet50", "imagenet") == file
    assert hub.asked == []


def test_the_hub_is_announced_checked_and_asked_once(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    path = resolve_weights("resnet50", "imagenet", say=said.append)
    assert path.read_bytes() == hub.remote["model.safetensors"]
    assert said == ["fetching the weights of resnet50 (1.2 MB) from the Hugging Face hub, timm/resnet50.tv_in1k"]
    asked = ["info timm/resnet50.tv_in1k"]
    asked += [f"timm/resnet50.tv_in1k {file}" for file in ("model.safetensors", "config.json")]
    assert hub.asked == asked
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve_weights("resnet50", "imagenet", say=said.append) == path
    assert (hub.asked, len(said)) == (asked, 1)


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "NEOCOG_OFFLINE", None])
def test_offline_is_respected(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, variable: str | None) -> None:
    if variable:
        monkeypatch.setenv(variable, "1")
    with pytest.raises(FetchError, match=r"resnet50\.tv_in1k is not in the hub's cache.*NEOCOG_WEIGHTS"):
        resolve_weights("resnet50", "imagenet", offline=None if variable else True)
    assert hub.asked == []


def test_a_wrong_checksum_removes_the_file(hub: FakeHub) -> None:
    hub.checksum = "0" * 64
    with pytest.raises(FetchError, match=r"expected sha256 0000.*the file was removed"):
        resolve_weights("resnet50", "imagenet", say=str)
    assert not (hub.cache / "model.safetensors").exists()


def test_a_failing_network_is_named(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no route")

    monkeypatch.setattr(hub, "model_info", fail)
    with pytest.raises(FetchError, match=r"timm/resnet50\.tv_in1k cannot be fetched: no route; .*NEOCOG_WEIGHTS"):
        resolve_weights("resnet50", "imagenet")


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"pip install 'neocog\[hub\]'"):
        resolve_weights("resnet50", "imagenet")


def test_nets_without_a_repository_say_so(hub: FakeHub) -> None:
    with pytest.raises(NetError, match=r"no ImageNet weights are known for 'cifar_resnet20'.*20\.safetensors"):
        resolve_weights("cifar_resnet20", "imagenet")
    with pytest.raises(NetError, match=r"unknown net 'resnet5o' .did you mean 'resnet50'"):
        resolve_weights("resnet5o", "imagenet")
    assert set(REPOSITORIES) <= set(names())


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NetError, match=r"weights not found: 'imagenett' .did you mean 'imagenet'"):
        resolve_weights("resnet50", "imagenett")
    with pytest.raises(
        NetError, match=r"not the folder of a finished training: weights.safetensors and net.json not found"
    ):
        resolve_weights("resnet50", tmp_path)
    with pytest.raises(NetError, match="expected weights='imagenet', a safetensors file or a run folder, got True"):
        resolve_weights("resnet50", True)  # type: ignore[arg-type]


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}, tmp_path / "w.pth")
    net = torch.nn.Linear(2, 2)
    with pytest.raises(NetError, match=r"not a safetensors file.*never loaded here.*weights_only=True"):
        load_weights(net, tmp_path / "w.pth")
    (tmp_path / "w.safetensors").write_text("no tensors")
    with pytest.raises(NetError, match=r"w\.safetensors is not a safetensors file"):
        load_weights(net, tmp_path / "w.safetensors")


def write(folder: Path, name: str, told: dict[str, Any] | None, inside: dict[str, str] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors", metadata=inside)
    if told is not None:
        (folder / name).write_text(json.dumps(told))
    return folder / "model.safetensors"


_PLAIN = {"size": 224, "resize": 256, "mean": [0.1, 0.2, 0.3], "std": [1, 2, 3]}
_TIMM = {"input_size": [3, 160, 160], "mean": [0.5] * 3, "std": [0.25] * 3, "crop_pct": 0.95}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"preprocess": _PLAIN}, Preprocess(224, 256, (0.1, 0.2, 0.3), (1, 2, 3))),
        ({"pretrained_cfg": _TIMM, "architecture": "x"}, Preprocess(160, 168, (0.5,) * 3, (0.25,) * 3)),
        (_TIMM, Preprocess(160, 168, (0.5,) * 3, (0.25,) * 3)),
        ({"input": "RGB, 224x224, x/127.5-1 (range -1..1)"}, Preprocess(224, 256, (0.5,) * 3, (0.5,) * 3)),
        ({"input": "grey 28x28, x/255"}, Preprocess(28, 32, (0.0,), (1.0,), 1)),
    ],
)
def test_preprocessing_is_read_from_what_lies_beside(
    told: dict[str, Any], expected: Preprocess, tmp_path: Path
) -> None:
    for name in ("model.json", "config.json"):
        assert preprocess_for(write(tmp_path / name, name, told)) == expected
    if "input" in told:
        assert preprocess_for(write(tmp_path, "", None, {"input": told["input"]})) == expected


def test_preprocessing_that_nobody_states_is_the_usual_one_of_the_net(tmp_path: Path) -> None:
    path = write(tmp_path, "", None)
    assert preprocess_for(path, "resnet50") == Preprocess(224, 256)
    assert preprocess_for(path, "inception_v3") == Preprocess(299, 341)
    with pytest.raises(
        NetError, match=r"the description of model.safetensors does not give its preprocessing.*model\.json"
    ):
        preprocess_for(path)
    (tmp_path / "model.json").write_text(json.dumps({"input": "BGR, 224x224, minus mean"}))
    with pytest.raises(NetError, match="input='BGR, 224x224, minus mean'"):
        preprocess_for(path, "resnet50")
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(NetError, match=r"model\.json should describe model\.safetensors as JSON"):
        preprocess_for(path, "resnet50")
    with pytest.raises(NetError, match="Give the net"):
        preprocess_for("imagenet")
