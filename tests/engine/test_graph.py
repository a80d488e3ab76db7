"""Nets written as graphs: equal answers at other batches and sizes, names, several outputs, what fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neocog.engine import graph
from neocog.engine.graph import leaves, rebuilt, write_graph
from neocog.errors import MissingExtra, NetError
from neocog.nets.registry import build, example
from neocog.nets.trunk import Headed, Trunk

onnxruntime = pytest.importorskip("onnxruntime")


def answers(path: Path, x: Tensor) -> list[Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})  # type: ignore[no-any-return]


def net() -> nn.Module:
    torch.manual_seed(0)
    return build("mobilenet_v1_025", classes=5, input_size=32).eval()


def test_a_graph_answers_as_the_net_at_any_batch(tmp_path: Path) -> None:
    made = net()
    with torch.autocast("cpu", torch.bfloat16):  # of the caller, which the graph does not take over
        assert write_graph(made, example(made, 2), tmp_path / "net.onnx") == ["output"]
    for count in (1, 2, 5):
        x = example(made, count)
        (got,) = answers(tmp_path / "net.onnx", x)
        np.testing.assert_allclose(got, made(x).detach(), atol=1e-4)


def test_size_may_be_free(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    write_graph(made, torch.randn(2, 3, 32, 32), tmp_path / "net.onnx", dynamic_size=True)
    x = torch.randn(3, 3, 40, 24)
    np.testing.assert_allclose(answers(tmp_path / "net.onnx", x)[0], made(x).detach(), atol=1e-5)


def test_a_fixed_batch_is_kept(tmp_path: Path) -> None:
    made = net()
    write_graph(made, example(made, 2), tmp_path / "net.onnx", dynamic_batch=False)
    with pytest.raises(Exception, match="Expected: 2"):
        answers(tmp_path / "net.onnx", example(made, 3))


class _Heads(nn.Module):
    def forward(self, maps: dict[int, Tensor], x: Tensor) -> dict[str, Any]:
        return {"map": maps[4], "more": [maps[8].mean((2, 3)), None, x[:, :1]]}


def test_several_outputs_keep_their_names_and_hooks_are_followed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = Headed(Trunk(build("resnet18", classes=3, input_size=32)), _Heads()).eval()
    assert write_graph(made, torch.randn(2, 3, 32, 32), tmp_path / "net.onnx") == ["map", "more_0", "more_2"]
    x = torch.randn(3, 3, 32, 32)
    for got, expected in zip(answers(tmp_path / "net.onnx", x), leaves(made(x)).values(), strict=True):
        np.testing.assert_allclose(got, expected.detach(), atol=1e-4)


class _Pair(NamedTuple):
    a: Tensor
    b: tuple[Tensor, None]


def test_leaves_and_rebuilt_are_inverse() -> None:
    out = {"x": torch.ones(1), "y": _Pair(torch.zeros(1), (torch.ones(2), None))}
    flat = leaves(out)
    assert list(flat) == ["x", "y_0", "y_1_0"]
    again = rebuilt(out, iter(flat.values()))
    assert isinstance(again["y"], _Pair) and again["y"].b[1] is None and again["x"] is out["x"]
    with pytest.raises(NetError, match="got str"):
        leaves("text")


def test_the_net_keeps_its_mode_and_numbers(tmp_path: Path) -> None:
    made = net().train()
    next(made.children()).eval()
    modes = [m.training for m in made.modules()]
    before = {k: v.clone() for k, v in made.state_dict().items()}
    write_graph(made, example(made, 2), tmp_path / "net.onnx")
    assert [m.training for m in made.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in made.state_dict().items())


class _Strange(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(x)


def test_what_onnx_lacks_is_told_and_nothing_is_left(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NetError, match=r"_Strange cannot be written as an ONNX graph: .*eigvalsh.* is not supported"):
        write_graph(_Strange(), torch.randn(2, 4, 4), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir()) and capfd.readouterr().out == ""


def test_without_onnx_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install onnx"):
        write_graph(net(), torch.randn(2, 3, 32, 32), tmp_path / "net.onnx")
