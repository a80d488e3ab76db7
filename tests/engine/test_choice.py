"""Which engine is taken: flags, one measurement that is kept, and none that disagrees; what is kept, and what goes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neocog.engine import choice, speed
from neocog.engine.choice import candidates, checked, ensure, graph_of, place
from neocog.errors import NetError

X = np.arange(12, dtype=np.float32).reshape(3, 4) + 1


class Fake:
    """An engine that doubles, a little wrongly."""

    def __init__(self, name: str, wrong: float) -> None:
        self.how, self.part, self.wrong = name, 8, wrong

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        if self.wrong < 0:
            raise RuntimeError("no kernel for Odd\nmore")
        made = 2 * x
        made[:, 0] += self.wrong * np.abs(made).max()
        return [made]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Engines as if installed: `wrong` by name, `flags` of the processor, and what was opened and timed."""
    state: dict[str, Any] = {"wrong": {}, "flags": "avx2", "opened": [], "timed": [], "there": {"openvino", "onnx"}}
    state["there"] |= {"onnxruntime"}
    monkeypatch.setenv("NEOCOG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "installed", lambda package: "1" if package in state["there"] else "")
    monkeypatch.setattr(choice, "cpuinfo", lambda field: state["flags"])

    def opened(name: str, path: Path) -> Fake:
        state["opened"].append(name)
        return Fake(name, state["wrong"].get(name, 0.0))

    def best_times(ways: dict[str, Any], seconds: float) -> dict[str, float]:
        state["timed"].append(list(ways))
        return {way: 1.0 / (1 + number) for number, way in enumerate(ways)}

    monkeypatch.setattr(choice, "_opened", opened)
    monkeypatch.setattr(speed, "best_times", best_times)
    return state


def pick(
    say: Callable[[str], object] = lambda text: None, fast: bool = True, name: str = "net", narrow: float = 0.0
) -> Any:
    """`narrow`: how wrong PyTorch itself is in bfloat16."""

    def reference(x: np.ndarray, bf16: bool) -> list[np.ndarray]:
        return Fake("", narrow if bf16 else 0.0).run(x)

    how: dict[str, Any] = {"structure": "s", "fast": fast, "say": say}
    return graph_of(place(name), lambda path: path.write_bytes(b"graph"), reference, X, **how)


def test_flags_decide_alone_where_they_can(asked: dict[str, Any]) -> None:
    asked["flags"] = "avx2 avx512_bf16"
    assert candidates(True)[0] == "openvino bfloat16" and candidates(False) == ["openvino", "onnxruntime"]
    assert pick().how == "openvino bfloat16" and not asked["timed"]
    assert asked["opened"] == ["openvino bfloat16", "onnxruntime"]  # the second is looked at for later searches


def test_what_they_leave_open_is_measured_once(asked: dict[str, Any]) -> None:
    assert pick().how == "onnxruntime" and asked["timed"] == [["openvino", "onnxruntime"]]
    asked["opened"].clear()
    assert pick().how == "onnxruntime" and len(asked["timed"]) == 1 and asked["opened"] == ["onnxruntime"]
    assert pick(name="another of this structure").how == "onnxruntime" and len(asked["timed"]) == 1
    asked["there"].discard("openvino")  # another machine, as it were
    assert pick().how == "onnxruntime" and len(asked["timed"]) == 1


def test_for_little_work_nothing_is_measured(asked: dict[str, Any]) -> None:
    asked["flags"] = "avx512_bf16"
    assert pick(fast=False).how == "onnxruntime" and asked["opened"] == ["onnxruntime"] and not asked["timed"]


def test_an_engine_that_disagrees_is_not_used_and_that_is_said(asked: dict[str, Any]) -> None:
    said: list[str] = []
    asked["wrong"] = {"openvino": 0.05}
    assert pick(said.append).how == "onnxruntime"
    assert "openvino is not used: its answers are not PyTorch's (cosine 0.9" in said[0] and not asked["timed"]
    asked["wrong"] = {"openvino": 0.05, "onnxruntime": 0.05}
    assert pick(name="other") is None
    assert checked(place("other")) is None and checked(place("net")) is not None


def test_bfloat16_may_be_a_little_further_away(asked: dict[str, Any]) -> None:
    asked["flags"], asked["wrong"] = "avx512_bf16", dict.fromkeys(choice.GRAPHS, 0.02)
    assert 0.999 < choice.agreement(Fake("", 0.02).run(X), [2 * X]) < 0.9999
    assert pick().how == "openvino bfloat16" and pick(fast=False, name="other") is None


def test_bfloat16_may_be_as_far_away_as_pytorch_is_in_it(asked: dict[str, Any]) -> None:
    asked["flags"], asked["wrong"] = "avx512_bf16", {"openvino bfloat16": 0.05}
    assert choice.agreement(Fake("", 0.05).run(X), [2 * X]) < 0.999
    assert pick(narrow=0.02).how == "openvino" and pick(narrow=0.05).how == "openvino bfloat16"
    asked["wrong"] = {"openvino bfloat16": 1.0}
    assert pick(narrow=1.0, name="other").how == "openvino"  # so far away that it is not the same net


def test_an_engine_that_fails_is_not_used(asked: dict[str, Any]) -> None:
    said: list[str] = []
    asked["wrong"] = {"openvino": -1}
    assert pick(said.append).how == "onnxruntime"
    assert said == ["OpenVINO is not used: it cannot compute this net (no kernel for Odd)"]


def test_a_kept_graph_is_opened_without_pytorch_only_where_it_was_checked(asked: dict[str, Any]) -> None:
    assert checked(place("net")) is None
    pick(fast=False)
    asked["opened"].clear()
    engine = checked(place("net"))
    assert engine is not None and engine.how == "onnxruntime" and asked["opened"] == ["onnxruntime"]
    asked["there"].discard("onnxruntime")
    assert checked(place("net")) is None  # OpenVINO never was compared
    asked["there"].add("onnxruntime")
    place("net").with_suffix(".json").write_text("{")
    assert checked(place("net")) is None


def test_a_damaged_graph_is_removed(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pick(fast=False)

    def broken(name: str, path: Path) -> Any:
        raise RuntimeError("protobuf parsing failed")

    monkeypatch.setattr(choice, "_opened", broken)
    assert checked(place("net")) is None and not place("net").exists()


def test_without_engines_pytorch_computes_with_one_hint(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_hinted", set())
    asked["there"].clear()
    said: list[str] = []
    assert pick(said.append) is None and pick(said.append) is None
    assert said == ["OpenVINO would compute this faster: pip install 'neocog[fast]'"] and not place("net").exists()


def test_a_net_that_cannot_be_written_is_computed_by_pytorch(asked: dict[str, Any]) -> None:
    def write(path: Path) -> None:
        raise NetError("odd cannot be written as an ONNX graph: aten::odd")

    said: list[str] = []
    assert graph_of(place(1), write, lambda x, bf16: [x], X, structure="s", fast=True, say=said.append) is None
    assert said == ["PyTorch computes: odd cannot be written as an ONNX graph: aten::odd"]


def test_a_cache_that_cannot_be_written_is_no_error(asked: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    said: list[str] = []
    assert pick(said.append) is None and "PyTorch computes: " in said[0]


def test_graphs_that_were_not_used_for_long_go(asked: dict[str, Any]) -> None:
    for i in range(choice._KEPT):
        ensure(place(i), lambda path: path.write_bytes(b""))
        place(i).with_suffix(".json").write_text("{}")
        os.utime(place(i), (i, i))
    ensure(place(0), lambda path: pytest.fail("it is there"))  # used again
    ensure(place("new"), lambda path: path.write_bytes(b""))
    left = {path.stem for path in place(0).parent.glob("*.onnx")}
    assert len(left) == choice._KEPT and place(0).stem in left and place(1).stem not in left
    assert not place(1).with_suffix(".json").exists()
