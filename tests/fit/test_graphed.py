"""A net computed by an engine: when it begins, the same answers, and what stays with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neocog.fit import graphed
from neocog.fit.device import Device
from neocog.fit.evaluating import Telling
from neocog.fit.extract import extract
from neocog.fit.features import Read, Taps
from neocog.fit.graphed import Graphed
from neocog.nets import build
from neocog.records import Preprocess

pytest.importorskip("onnxruntime")
CPU = Device("cpu", channels_last=True)


@pytest.fixture(autouse=True)
def _few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphed, "WORTH", 10)
    monkeypatch.setenv("NEOCOG_CACHE", str(tmp_path / "cache"))


def net() -> nn.Module:
    torch.manual_seed(0)
    return build("lenet5", classes=4).eval()


def pictures(count: int) -> Tensor:
    return torch.randn(count, 1, 32, 32, generator=torch.Generator().manual_seed(count))


@torch.no_grad()
def test_the_engine_comes_in_after_some_pictures_or_at_once() -> None:
    unknown, many, few = (Graphed(net(), CPU, ahead) for ahead in (None, 10, 9))
    for one in (unknown, many, few):
        for _ in range(3):
            x = pictures(6)
            torch.testing.assert_close(one(x), net()(x), rtol=1e-3, atol=1e-4)
    assert "PyTorch" not in unknown.how and unknown.how and many.how and not few.how
    first = Graphed(net(), CPU, 10)
    first(pictures(1))  # one picture is enough to begin with
    assert first.how
    torch.testing.assert_close(first(pictures(9)), net()(pictures(9)), rtol=1e-3, atol=1e-4)
    assert not unknown.training and not unknown.net.training


@torch.no_grad()
def test_outputs_and_features_come_together() -> None:
    both = Graphed(Telling(net()), CPU, 10)
    x = pictures(5)
    out, features = both(x)
    assert both.how and both.tells and isinstance(both(x), list)
    torch.testing.assert_close(out, net()(x), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(features, net().forward_features(x), rtol=1e-3, atol=1e-4)  # type: ignore[operator]


@torch.no_grad()
def test_layers_are_read() -> None:
    made = net()
    read = Graphed(Read(made, Taps(made, ["conv2"])), CPU, 10)
    x = pictures(5)
    torch.testing.assert_close(read(x), Taps(net(), ["conv2"])(x), rtol=1e-3, atol=1e-4)
    assert read.how


@torch.no_grad()
def test_other_weights_have_another_graph(tmp_path: Path) -> None:
    first, second = net(), net()
    Graphed(first, CPU, 10)(pictures(2))
    with torch.no_grad():
        next(second.parameters()).add_(1)
    x = pictures(4)
    torch.testing.assert_close(Graphed(second, CPU, 10)(x), second(x), rtol=1e-3, atol=1e-4)
    assert len(list((tmp_path / "cache" / "graphs").glob("*.onnx"))) == 2


@torch.no_grad()
def test_a_net_that_cannot_be_written_is_computed_as_before() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.svdvals(x[:, 0])

    said: list[str] = []
    one, x = Graphed(Odd(), CPU, 10, said.append), pictures(3)
    torch.testing.assert_close(one(x), Odd()(x))
    one(x)
    assert len(said) == 1 and "PyTorch computes: Odd cannot be written" in said[0] and not one.how


def test_extract_and_predict_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neocog import fit

    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (40, 32, 32), dtype=np.uint8), [i % 2 for i in range(40)]
    how: dict[str, Any] = {"epochs": 1, "device": "cpu", "diagnosis": False, "progress": False, "set": {"min_steps": 1}}
    run = fit.train(data, net="lenet5", out=tmp_path / "r", **how)
    chosen: list[str] = []
    choose = Graphed._choose

    def noted(self: Graphed, x: Tensor) -> None:
        choose(self, x)
        chosen.append(self.how)

    monkeypatch.setattr(Graphed, "_choose", noted)
    said: list[str] = []
    fast = list(fit.predict(run, list(data[0]), say=said.append))
    assert len(said) == 1 and said[0].endswith(" computes")
    found = extract(run, data)
    assert len(chosen) == 2 and all(chosen)
    monkeypatch.setattr(graphed, "WORTH", 10**6)
    slow, plain = run.predict(list(data[0])), extract(run, data)
    assert [a.label for a in fast] == [a.label for a in slow] and len(chosen) == 2
    np.testing.assert_allclose([a.probability for a in fast], [a.probability for a in slow], atol=1e-4)
    cosines = (found.values * plain.values).sum(1) / np.linalg.norm(found.values, axis=1)
    assert (cosines / np.linalg.norm(plain.values, axis=1)).min() > 0.999
    assert extract(net(), data, preprocess=Preprocess(32, 32, (0.5,), (0.5,), 1)).values.shape == (40, 84)
