"""Weights travel both ways between timm and this zoo: names, shapes and what is computed.

timm needs torchvision to be imported, which has no build that loads beside PyTorch for processors only. Where it is
missing, empty modules stand in for it: the nets tested here are timm's own code and use nothing of it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import logging
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from neocog import nets
from neocog.errors import NetError
from neocog.nets.hub import TIMM
from neocog.nets.weight_names import best_match
from neocog.nets.weights import timm_state

ALIKE = ("resnet18", "mobilenet_v1", "mobilenet_v2", "efficientnet_lite0", "vgg11")


class _Names(type):
    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"


class _Empty(types.ModuleType):
    __path__: Any = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Names(name, (), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if name.partition(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> Any:
        return _Empty(spec.name)

    def exec_module(self, module: Any) -> None:
        pass


@pytest.fixture(scope="module")
def timm() -> Iterator[Any]:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed: pip install timm")
    finder = _Finder()
    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.insert(0, finder)
    logging.disable(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield importlib.import_module("timm")
        finally:
            logging.disable(logging.NOTSET)
            if finder in sys.meta_path:
                sys.meta_path.remove(finder)


def test_every_net_that_timm_has_fits_both_ways(timm: Any) -> None:
    for ours, theirs in TIMM.items():
        with torch.device("meta"):
            own, other = nets.build(ours), timm.create_model(theirs)
        theirs_state = other.state_dict()
        match = best_match(*({k: tuple(v.shape) for k, v in one.items()} for one in (theirs_state, own.state_dict())))
        assert match.fits, ours
        made = timm_state(own)
        assert {k: v.shape for k, v in made.items()} == {k: v.shape for k, v in theirs_state.items()}, ours


@pytest.mark.slow
@pytest.mark.parametrize("name", ALIKE)
def test_timm_computes_the_same_with_our_weights(name: str, timm: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = nets.build(name, classes=7).eval()
    theirs = nets.save_for_timm(own, tmp_path / "w.safetensors")
    other = timm.create_model(theirs, num_classes=7, checkpoint_path=str(tmp_path / "w.safetensors")).eval()
    x = torch.randn(2, 3, *([224] * 2 if name == "vgg11" else [96] * 2))
    with torch.no_grad():
        torch.testing.assert_close(other(x), own(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
def test_what_is_written_for_timm_is_read_back(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = nets.build(name, classes=3)
    nets.save_for_timm(own, tmp_path / "w.safetensors")
    state = load_file(tmp_path / "w.safetensors")
    assert (set(state) == set(own.state_dict())) == (name == "resnet18")
    again = nets.build(name, classes=3)
    nets.load_weights(again, state)
    for key, value in own.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_the_names_of_vgg_are_read_back() -> None:
    with torch.device("meta"):
        own = nets.build("vgg11_bn", classes=3)
    given, wanted = ({k: tuple(v.shape) for k, v in one.items()} for one in (timm_state(own), own.state_dict()))
    assert "pre_logits.fc1.weight" in given and best_match(given, wanted).fits


def test_nets_that_timm_has_not_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NetError, match="timm has no lenet5"):
        nets.save_for_timm(nets.build("lenet5"), tmp_path / "w.safetensors")
    with pytest.raises(NetError, match=r"timm's resnet18 is built without stem='small'"):
        nets.save_for_timm(nets.build("resnet18", stem="small"), tmp_path / "w.safetensors")


@pytest.mark.slow
def test_timm_computes_the_same_with_the_net_of_clip(timm: Any) -> None:
    """timm has names of its own for it, and reads those of CLIP's authors."""
    torch.manual_seed(0)
    own = nets.build("clip_resnet50").eval()
    other = timm.create_model("resnet50_clip", num_classes=1024).eval()
    convert = importlib.import_module("timm.models.byobnet").checkpoint_filter_fn
    other.load_state_dict(convert({f"visual.{name}": value for name, value in own.state_dict().items()}, other))
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(other(x), own(x), rtol=1e-3, atol=1e-4)
