"""Three engines behind one call: PyTorch, ONNX Runtime and OpenVINO; none is imported before it is used.

Each computes one batch on one core, and any number of threads may call it at once: a batch in parts, each on a core of
its own, is faster than one that all cores share, and cores that decode pictures in between need not wait for each
other. `Shared` does that for a caller that has one batch and nothing else to do.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from neocog.machine import usable_cores

if TYPE_CHECKING:
    from torch import nn

# Pictures of 224x224 in one call of an engine. A call reads all weights, so nets with many want several: AlexNet
# (233 MB) takes 25 ms of a processor one by one, 15 four by four. In bfloat16 that is so for others, too: one by one
# MobileNet v1 0.75 takes 4.7 ms, four by four 4.1, EfficientNet-Lite0 6.4 and 5.6, ResNet-50 42 and 41 (AVX512-BF16,
# OpenVINO 2026.4). In float32 they are as fast one by one, and take less memory.
_HEAVY, _FEW, _ONE = 150 << 20, 4, 1
_VALUES, _MOST = 3 * 224 * 224, 64  # of smaller pictures as many more, up to so many


class Engine(Protocol):
    """A net that is ready to compute.

    Attributes:
        how: engine, version and precision, in a few words.
        part: pictures of 224x224 that are best computed together.
    """

    how: str
    part: int

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """Outputs (B, ...), in the graph's order, for inputs (B, ...); from any thread."""
        ...


def cores() -> int:
    """Cores that this process may use: OMP_NUM_THREADS, else those that the system leaves to it."""
    usable = usable_cores()
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(usable, int(wanted))) if wanted.isdecimal() else usable


def installed(package: str) -> str:
    """The version of an installed package, "" if it is not there; nothing is imported."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def silent(package: str) -> ModuleType:
    """Import an engine, or a part of one, without letting it report to its makers that it is used.

    Both do, unasked: ONNX Runtime 1.32 keeps a number of the machine in ~/.cache/Microsoft, OpenVINO 2026.4 one in
    ~/intel, and forks the process to send it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed
    return import_module(package)


class OnnxRuntime:
    """A graph computed by ONNX Runtime, in the precision that it is written in."""

    package, title = "onnxruntime", "ONNX Runtime"

    def __init__(self, graph: Path) -> None:
        onnxruntime: Any = silent("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what fails is raised, too
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self.part = _part(graph)
        self.how = f"{self.title} {onnxruntime.__version__}"

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        return self._session.run(None, {self._input: x})  # type: ignore[no-any-return]


class OpenVino:
    """A graph computed by OpenVINO, in float32 or bfloat16."""

    package, title = "openvino", "OpenVINO"

    def __init__(self, graph: Path, bf16: bool = False) -> None:
        openvino: Any = silent("openvino")
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "NUM_STREAMS": cores(), "INFERENCE_NUM_THREADS": cores(), "ENABLE_CPU_PINNING": False,
        }  # fmt: skip
        core = openvino.Core()
        self._net = core.compile_model(core.read_model(str(graph)), "CPU", settings)
        self._count, self.part = len(self._net.outputs), _FEW if bf16 else _part(graph)
        self._own = threading.local()  # a request belongs to one thread
        self.how = f"{self.title} {openvino.__version__.partition('-')[0]}{', bfloat16' * bf16}"

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        request = getattr(self._own, "request", None)
        if request is None:
            request = self._own.request = self._net.create_infer_request()
        found = request.infer({0: x})
        return [np.array(found[i]) for i in range(self._count)]  # the request's memory is used again


def _part(graph: Path) -> int:
    files = (graph, graph.with_suffix(".bin"))  # OpenVINO's format keeps weights in a file of their own
    return _FEW if sum(file.stat().st_size for file in files if file.is_file()) > _HEAVY else _ONE


class PyTorch:
    """A module computed by PyTorch, channels-last, on any device; always there."""

    package, title = "torch", "PyTorch"

    def __init__(self, net: nn.Module, device: str = "cpu", bf16: bool = False) -> None:
        import torch

        self._net = net.eval().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device, self._bf16, self._threads = device, bf16, torch.get_num_threads()
        self.part = 16 if device == "cpu" else 64
        self.how = f"{self.title} {torch.__version__}{', bfloat16' * bf16}"

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        import torch

        from neocog.engine.graph import leaves

        alone = self._device == "cpu" and threading.current_thread() is not threading.main_thread()
        if alone:
            torch.set_num_threads(1)  # of this thread; and of those that PyTorch meets later, so it is set back
        try:
            given = torch.from_numpy(x).to(self._device)
            if given.ndim == 4:
                given = given.contiguous(memory_format=torch.channels_last)
            kind = self._device.partition(":")[0]
            with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=self._bf16):
                out = leaves(self._net(given))
            return [one.float().cpu().numpy() if one.is_floating_point() else one.cpu().numpy() for one in out.values()]
        finally:
            if alone:
                torch.set_num_threads(self._threads)


class Shared:
    """An engine whose parts of a batch are computed by several threads, each on a core of its own."""

    def __init__(self, engine: Engine, threads: int | None = None) -> None:
        self.engine, self.threads = engine, threads or cores()
        self._pool: ThreadPoolExecutor | None = None

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """As `Engine.run`, for a batch of any length but 0, on all cores."""
        parts = self._parts(x, self.threads)
        if len(parts) == 1 or self.threads == 1:
            return _joined(list(map(self.engine.run, parts)))
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, "neocog-engine")
        return _joined(list(self._pool.map(self.engine.run, parts)))

    def run_here(self, x: np.ndarray) -> list[np.ndarray]:
        """The same in the calling thread alone: for as many threads as there are cores, which do other things too."""
        return _joined(list(map(self.engine.run, self._parts(x))))

    def _parts(self, x: np.ndarray, threads: int = 1) -> list[np.ndarray]:
        size = max(self.engine.part, min(_MOST, _VALUES // max(1, x[0].size), -(-len(x) // threads)))
        return [x[i : i + size] for i in range(0, len(x), size)]


def _joined(parts: Sequence[list[np.ndarray]]) -> list[np.ndarray]:
    return parts[0] if len(parts) == 1 else [np.concatenate(one) for one in zip(*parts, strict=True)]


def agreement(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """The cosine between what two engines answer, the mean over rows and the least of all outputs.

    -1 for other shapes, NaN and infinity.
    """
    if [one.shape for one in found] != [one.shape for one in expected]:
        return -1.0
    least = 1.0
    for one, other in zip(found, expected, strict=True):
        a, b = (np.asarray(v, np.float64).reshape(len(v), -1) for v in (one, other))
        if not np.isfinite(a).all():
            return -1.0
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        size = np.maximum(np.abs(a).max(1, initial=0), np.abs(b).max(1, initial=0))
        cosines = np.where(size < 1e-6, 1.0, (a * b).sum(1) / np.maximum(norms, 1e-30))
        least = min(least, float(cosines.mean())) if len(cosines) else least
    return least


GRAPHS: dict[str, tuple[type[OnnxRuntime] | type[OpenVino], bool]] = {  # what computes graphs: class, bfloat16
    "openvino bfloat16": (OpenVino, True),
    "openvino": (OpenVino, False),
    "onnxruntime": (OnnxRuntime, False),
}
