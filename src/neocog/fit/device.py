"""Where and how to compute: the device, the precision and the memory layout, chosen by a moment's measurement."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch

from neocog.errors import UsageError
from neocog.fit.small_maps import SideBySide, pays


@dataclass(frozen=True, slots=True)
class Device:
    """What was chosen. `rates` are the measured TFLOP/s (2 per multiply-accumulate) behind the choice."""

    kind: str  # cpu | cuda | mps
    index: int = 0
    bf16: bool = False
    channels_last: bool = False
    compile: bool = False
    side_by_side: bool = False  # gradients of filters on small maps (see fit.small_maps)
    rates: tuple[tuple[str, float], ...] = ()

    @property
    def torch(self) -> torch.device:
        """The device as PyTorch names it."""
        return torch.device(self.kind, self.index) if self.kind == "cuda" else torch.device(self.kind)

    @property
    def layout(self) -> Any:
        """The memory format of pictures and filters."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def dtype(self) -> Any:
        """The type in which large products are computed."""
        return torch.bfloat16 if self.bf16 else torch.float32

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which the forward pass is computed."""
        return torch.autocast(self.kind, torch.bfloat16) if self.bf16 else nullcontext()

    @contextmanager
    def training(self) -> Iterator[None]:
        """The context in which a forward pass is computed of which gradients are wanted."""
        with self.autocast(), SideBySide() if self.side_by_side else nullcontext():
            yield

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; ``Device.from_dict`` reads it."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Device:
        """The device that ``as_dict`` described."""
        return Device(**{**values, "rates": tuple((str(k), float(v)) for k, v in values["rates"])})

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.index) if self.kind == "cuda" else _processor()
        if self.kind == "cpu":
            name += f", {torch.get_num_threads()} threads"
        how = f"{'bfloat16' if self.bf16 else 'float32'}, {'channels-last' if self.channels_last else 'channels-first'}"
        rates = ", ".join(f"{k} {v:.3g}" for k, v in self.rates)
        return f"{self.kind} ({name}), {how}" + (f"; measured TFLOP/s: {rates}" if rates else "")


_ROUNDS = 4


def choose(
    wanted: str | None = None, *, precision: str | None = None, local_rank: int = 0, training: bool = False
) -> Device:
    """Choose the device, and measure which precision and layout are the fastest there.

    A plain 3x3 convolution, forward and backward, is timed for about a second; bfloat16 and channels-last are
    taken only if they are at least 1.15 times as fast (on a processor without bfloat16 arithmetic they are slower).

    Args:
        wanted: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``; None takes the best that is there.
        precision: ``"float32"`` or ``"bfloat16"``; None takes what is faster.
        local_rank: number of this process on its machine; picks the GPU.
        training: measure what only training needs, too.

    Raises:
        UsageError: the wanted device is not there, or no such precision.
    """
    if precision not in (None, "float32", "bfloat16"):
        raise UsageError(f"unknown precision {precision!r}; there are 'float32' and 'bfloat16'")
    name, _, number = (wanted or "").partition(":")
    if not name:
        mps = getattr(torch.backends, "mps", None)
        name = "cuda" if torch.cuda.is_available() else "mps" if mps and mps.is_available() else "cpu"
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(name, False):
        have = ", ".join(k for k, v in there.items() if v)
        raise UsageError(f"no device {wanted!r} on this machine; it has {have} (leave --device away to choose)")
    index = int(number) if number else (local_rank % max(1, torch.cuda.device_count()) if name == "cuda" else 0)
    if name == "cpu":
        _keep_memory()
    if name == "cuda":
        torch.cuda.set_device(index)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    device = torch.device(name, index) if name == "cuda" else torch.device(name)
    ways = {"float32": (torch.float32, False), "float32 channels-last": (torch.float32, True)}
    if name != "mps":
        ways["bfloat16 channels-last"] = (torch.bfloat16, True)
    rates = dict.fromkeys(ways, 0.0)
    for _ in range(_ROUNDS):  # in turns, and the best of each: other work on the machine then spoils no choice
        for way, (dtype, last) in ways.items():
            rates[way] = max(rates[way], convolution_rate(device, dtype, last, repeats=2))
    last = rates["float32 channels-last"] > 1.15 * rates["float32"]
    best_float = max(rates["float32"], rates["float32 channels-last"])
    bf16 = rates.get("bfloat16 channels-last", 0.0) > 1.15 * best_float
    if precision is not None:
        bf16 = precision == "bfloat16"
    aside = training and name == "cpu" and pays(torch.bfloat16 if bf16 else torch.float32)
    return Device(name, index, bf16, last or bf16, name == "cuda", aside, tuple(rates.items()))


def convolution_rate(
    device: torch.device,
    dtype: torch.dtype,
    channels_last: bool,
    *,
    batch: int = 32,
    channels: tuple[int, int] = (64, 128),
    size: int = 16,
    repeats: int = 5,
) -> float:
    """TFLOP/s of a 3x3 convolution forward and backward (6 operations per weight and position), best of `repeats`."""
    ins, outs = channels
    layout = torch.channels_last if channels_last else torch.contiguous_format
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, ins, size, size, generator=g).to(device, dtype).contiguous(memory_format=layout)
    w = torch.randn(outs, ins, 3, 3, generator=g).to(device, dtype).contiguous(memory_format=layout)
    x.requires_grad_()
    w.requires_grad_()
    with torch.no_grad():
        gradient = torch.ones_like(torch.nn.functional.conv2d(x, w, padding=1))
    times = []
    for _ in range(repeats + 2):
        _wait(device)
        begin = time.perf_counter()
        torch.nn.functional.conv2d(x, w, padding=1).backward(gradient)
        _wait(device)
        times.append(time.perf_counter() - begin)
    return 6 * batch * size * size * outs * ins * 9 / min(times[2:]) / 1e12


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _keep_memory() -> None:
    """Let glibc keep freed memory: a step's large maps are otherwise unmapped and faulted in again every step.

    Measured on two cores with speednet: a plain float32 step of 512 pictures fell from 2.6 s to 2.0 s.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    m_trim_threshold, m_top_pad, m_mmap_max, m_arena_max = -1, -2, -4, -8
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, 2**31 - 1)
    libc.mallopt(m_top_pad, 64 << 20)
    libc.mallopt(m_arena_max, 1)  # those of other threads are of 64 MB, and given back whenever their end is free


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def hardware() -> dict[str, Any]:
    """What the machine is: for run.json and for the tables of bench/."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {"processor": _processor(), "cores": cores, "system": platform.platform()}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found
