"""The engines: equal to PyTorch, at odd batches, from several threads, with several outputs; how alike two are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neocog.engine.engines import GRAPHS, OpenVino, PyTorch, Shared, agreement, cores, installed
from neocog.engine.graph import write_graph


class Small(nn.Module):
    """Two answers of different kinds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = torch.relu(self.norm(self.conv(x.float() / 255)))
        return {"maps": maps, "logits": self.head(maps.mean((2, 3)))}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "small.onnx"
    write_graph(Small(), pictures(2), path)
    return path


def pictures(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", [*GRAPHS, "torch"])
def test_every_engine_answers_as_pytorch(graph: Path, name: str) -> None:
    if name == "torch":
        engine = Shared(PyTorch(Small()), 2)
    else:
        kind, bf16 = GRAPHS[name]
        pytest.importorskip(kind.package)
        engine = Shared(kind(graph, bf16) if bf16 else kind(graph), 2)  # type: ignore[call-arg]
    with torch.inference_mode():
        for count in (1, 3, engine.engine.part, engine.engine.part + 1, 3 * engine.engine.part - 1):
            x = pictures(count)
            expected = [one.numpy() for one in Small().eval()(x).values()]
            for found in (engine.run(x.numpy()), engine.run_here(x.numpy())):
                assert agreement(found, expected) > (0.999 if "bfloat16" in name else 0.99999)
                assert [one.dtype for one in found] == [np.float32] * 2
    with ThreadPoolExecutor(4) as pool:  # from several threads at once, with other batches each
        several = list(pool.map(lambda n: engine.run_here(pictures(n).numpy()), [5, 9, 17, 5]))
    assert agreement(several[0], several[3]) > 0.99999 and [len(one[0]) for one in several] == [5, 9, 17, 5]
    assert installed(type(engine.engine).package).partition("+")[0] in engine.engine.how  # type: ignore[attr-defined]


def test_answers_stay_when_the_next_batch_is_computed(graph: Path) -> None:
    pytest.importorskip("openvino")
    kind, _ = GRAPHS["openvino"]
    engine = kind(graph)
    first = engine.run(pictures(3).numpy())
    kept = [one.copy() for one in first]
    engine.run(255 - pictures(3).numpy())
    assert all(np.array_equal(a, b) for a, b in zip(first, kept, strict=True))


def test_engines_report_to_nobody_and_leave_nothing_at_home(graph: Path, python: Any, tmp_path: Path) -> None:
    names = [kind.__name__ for kind in {kind for kind, _ in GRAPHS.values()} if installed(kind.package)]
    code = (
        f"import numpy as np\nfrom pathlib import Path\nfrom neocog.engine.engines import {', '.join(names)}\n"
        f"for kind in [{', '.join(names)}]:\n    kind(Path({str(graph)!r})).run(np.zeros((1, 3, 16, 16), np.uint8))"
    )
    python("-c", code, HOME=str(tmp_path)).check_returncode()
    assert not list(tmp_path.iterdir())


def test_a_batch_is_computed_in_parts(graph: Path) -> None:
    engine = Shared(PyTorch(Small()), 2)
    engine.engine.part = 1
    assert [len(one) for one in engine._parts(np.zeros((3, 3, 224, 224), np.uint8))] == [1, 1, 1]
    assert [len(one) for one in engine._parts(np.zeros((60, 3, 32, 32), np.uint8))] == [49, 11]
    assert [len(one) for one in engine._parts(np.zeros((60, 3, 32, 32), np.uint8), 2)] == [30, 30]


def test_bfloat16_wants_several_pictures_at_once(graph: Path) -> None:
    pytest.importorskip("openvino")
    assert OpenVino(graph, True).part == 4 and OpenVino(graph).part == 1


def test_pytorch_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    engine = PyTorch(Small())
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda n: engine.run(pictures(n).numpy()), [1, 2, 3]))
    assert torch.get_num_threads() == before


def test_agreement() -> None:
    a = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)
    assert agreement([a], [a]) == 1.0
    assert agreement([a], [a[:, ::-1]]) == 0.0
    assert agreement([a, a], [a]) == agreement([a], [a[:1]]) == -1.0
    assert agreement([a * np.nan], [a]) == agreement([np.full_like(a, np.inf)], [a]) == -1.0
    assert agreement([a * 0], [a * 0]) == 1.0 and agreement([a * 0], [a]) == 0.0
    worse = a.copy()
    worse[1] = [1, 1]
    assert agreement([worse], [a]) == pytest.approx((1 + 2**-0.5) / 2)


def test_cores_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert cores() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    assert cores() >= 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert cores() >= 1
