"""Where and how to compute: the device, the precision and the memory layout.

What the processor says about itself decides first; the rest is measured once and kept in the user's cache.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from neocog.engine.speed import best_times, seconds_of
from neocog.engine.speed import cpuinfo as _cpuinfo
from neocog.engine.speed import processor as _processor
from neocog.errors import UsageError
from neocog.fit.gradients import FasterGradients, depthwise_pays, pays
from neocog.machine import usable_cores
from neocog.records import counted


@dataclass(frozen=True, slots=True)
class Device:
    """What was chosen. `rates` are the TFLOP/s (2 per multiply-accumulate) behind the choice, where it had to be
    measured."""

    kind: str  # cpu | cuda | mps
    index: int = 0
    bf16: bool = False
    channels_last: bool = False
    compile: bool = False
    side_by_side: bool = False  # gradients of filters on small maps (see fit.gradients)
    depthwise: bool = False  # gradients of depthwise convolutions in float32 (see there)
    rates: tuple[tuple[str, float], ...] = ()

    @property
    def torch(self) -> torch.device:
        """The device as PyTorch names it."""
        return torch.device(self.kind, self.index) if self.kind == "cuda" else torch.device(self.kind)

    @property
    def layout(self) -> Any:
        """The memory format of pictures and filters."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def placed(self, net: nn.Module) -> nn.Module:
        """A net on this device, its filters in this layout; in none where some have two and some three dimensions."""
        sides = {one.dim() for one in net.parameters()} & {4, 5}
        layout = self.layout if sides <= {4} or not self.channels_last else torch.channels_last_3d
        return net.to(self.torch).to(memory_format=torch.contiguous_format if len(sides) > 1 else layout)  # type: ignore[call-overload, no-any-return]

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
        faster = self.side_by_side or self.depthwise
        with self.autocast(), FasterGradients(self.side_by_side, self.depthwise) if faster else nullcontext():
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
            name += f", {counted(torch.get_num_threads(), 'thread')}"
        how = f"{'bfloat16' if self.bf16 else 'float32'}, {'channels-last' if self.channels_last else 'channels-first'}"
        rates = ", ".join(f"{k} {v:.3g}" for k, v in self.rates)
        return f"{self.kind} ({name}), {how}" + (f"; measured TFLOP/s: {rates}" if rates else "")


_WORTH = 1.15  # a way is taken if it is this many times as fast as the plain one
# instructions for bfloat16 with which a convolution is about twice as fast as in float32 (with AMX far more), and those
# with which it may be
_BF16_FAST, _BF16_MAYBE = {"amx_bf16", "avx512_bf16"}, {"bf16", "sve_bf16"}
_BATCH, _CHANNELS, _SIZE = 8, (64, 128), 16  # of the convolution that is timed


def place(wanted: str | None = None, *, local_rank: int = 0) -> tuple[str, int]:
    """Kind and number of the device to use; nothing is measured.

    Args:
        wanted: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``; None takes the best that is there.
        local_rank: number of this process on its machine; picks the GPU.

    Raises:
        UsageError: the wanted device is not there.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = {"cpu": True, "cuda": gpus > 0, "mps": torch.backends.mps.is_available()}
    name, _, number = (wanted or "").partition(":")
    if not name:
        name = "cuda" if there["cuda"] else "mps" if there["mps"] else "cpu"
    count = gpus if name == "cuda" else 1
    if not there.get(name, False) or (number and not (number.isdecimal() and int(number) < count)):
        have = [k for k, v in there.items() if v and k != "cuda"] + [f"cuda:{i}" for i in range(gpus)]
        raise UsageError(
            f"no device {wanted!r} on this machine; expected one of {', '.join(have)} (without --device, the best)"
        )
    return name, int(number) if number else local_rank % count


def prepare(wanted: str | None = None, *, local_rank: int = 0) -> int:
    """Set PyTorch up for a device (see `place`), and return its number."""
    name, index = place(wanted, local_rank=local_rank)
    if name == "cpu":
        _keep_memory()
    if name == "cuda":
        torch.cuda.set_device(index)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    return index


def check_precision(precision: str | None) -> None:
    """Raises: UsageError: no such precision."""
    if precision not in (None, "float32", "bfloat16"):
        raise UsageError(f"unknown precision {precision!r}; expected 'float32' or 'bfloat16'")


def choose(
    wanted: str | None = None, *, precision: str | None = None, local_rank: int = 0, training: bool = False
) -> Device:
    """Choose the device, and the precision and layout that are the fastest there.

    bfloat16 and channels-last are taken if the processor is known to be made for them, or if they are at least 1.15
    times as fast; see `speed.seconds_of`. A first measurement takes less than half a second.

    Args:
        wanted, local_rank: see `place`.
        precision: ``"float32"`` or ``"bfloat16"``; None takes what is faster.
        training: also decide what only matters for training.

    Raises:
        UsageError: the wanted device is not there, or no such precision.
    """
    check_precision(precision)
    name, _ = place(wanted, local_rank=local_rank)
    index = prepare(wanted, local_rank=local_rank)
    bf16 = _bf16(name, index) if precision is None else precision == "bfloat16"
    machine, device = _machine(name, index), torch.device(name, index) if name == "cuda" else torch.device(name)
    rates: dict[str, float] = {}
    last = True  # which bfloat16 always wants
    if bf16 is not True:
        ways = {"float32": (torch.float32, False), "float32 channels-last": (torch.float32, True)}
        if bf16 is None:
            ways["bfloat16 channels-last"] = (torch.bfloat16, True)
        calls = {way: _convolution(device, *how, _BATCH, _CHANNELS, _SIZE) for way, how in ways.items()}
        question = f"{' or '.join(ways)}, convolution of {_BATCH}x{_CHANNELS[0]}x{_SIZE}x{_SIZE}"
        taken = seconds_of(question, machine, calls)
        rates = {way: _operations(_BATCH, _CHANNELS, _SIZE) / s / 1e12 for way, s in taken.items()}
        bf16 = rates.get("bfloat16 channels-last", 0.0) > _WORTH * max(rates[k] for k in list(ways)[:2])
        last = bf16 or rates["float32 channels-last"] > _WORTH * rates["float32"]
    aside = training and name == "cpu" and pays(torch.bfloat16 if bf16 else torch.float32, machine)
    apart = training and name == "cpu" and bf16 and depthwise_pays(machine)
    return Device(name, index, bf16, last, name == "cuda", aside, apart, tuple(rates.items()))


def with_right_gradients(device: Device, net: nn.Module, shape: Sequence[int] = ()) -> Device:
    """The device, with float32 on a CPU where bfloat16 gives wrong gradients to the filters of `net`.

    Those of a dilated convolution, channels-last, of more than 16 channels, no multiple of 16, and those of a
    convolution over three frames where there are two: oneDNN, as PyTorch 2.13 calls it, makes NaN of them, or ends the
    process. `shape`: of one input, if that is a clip.
    """
    wrong = any(
        isinstance(m, nn.Conv2d) and max(m.dilation) > 1 and m.in_channels > 16 and m.in_channels % 16
        for m in net.modules()
    ) or 2 in _frames(net, shape)
    return replace(device, bf16=False) if wrong and device.bf16 and device.kind == "cpu" else device


def _frames(net: nn.Module, shape: Sequence[int]) -> set[int]:
    """How many frames each convolution of a net sees that reads three frames or more at a time."""
    convs = [m for m in net.modules() if isinstance(m, nn.Conv3d) and m.kernel_size[0] > 1]
    if not convs or len(shape) != 4:
        return set()
    seen: set[int] = set()
    hooks = [m.register_forward_pre_hook(lambda m, given: seen.add(given[0].shape[2])) for m in convs]
    before = net.training
    with torch.no_grad():
        net.eval()(torch.zeros(1, *shape, device=next(net.parameters()).device))
    net.train(before)
    for hook in hooks:
        hook.remove()
    return seen


def _bf16(kind: str, index: int) -> bool | None:
    """Whether bfloat16 is faster than float32, as far as the device says so itself; None: to be measured."""
    if kind == "mps":
        return False
    if kind == "cuda":
        return torch.cuda.get_device_capability(index) >= (8, 0)
    flags = _flags()
    if flags & _BF16_FAST:
        return True
    return None if not flags or flags & _BF16_MAYBE else False


def _flags() -> set[str]:
    """What the processor can do, by the names of Linux and of PyTorch, which agree here; empty if nothing says so."""
    if hasattr(torch.cpu, "get_capabilities"):  # newer than PyTorch 2.6
        return {name for name, has in torch.cpu.get_capabilities().items() if has is True}
    return set(_cpuinfo("flags").split()) or set(_cpuinfo("Features").split())  # x86, ARM


def _machine(kind: str, index: int) -> str:
    """Everything but the problem that a speed depends on."""
    if kind == "cuda":
        return f"{torch.cuda.get_device_name(index)}, torch {torch.__version__}"
    flags = ", ".join(sorted(_flags() & (_BF16_FAST | _BF16_MAYBE)))
    level = torch.backends.cpu.get_cpu_capability()
    return f"{kind}: {_processor()} ({level} {flags}), {torch.get_num_threads()} threads, torch {torch.__version__}"


def convolution_rate(
    device: torch.device,
    dtype: torch.dtype,
    channels_last: bool,
    *,
    batch: int = _BATCH,
    channels: tuple[int, int] = _CHANNELS,
    size: int = _SIZE,
    seconds: float = 0.5,
) -> float:
    """TFLOP/s of a 3x3 convolution forward and backward (6 operations per weight and position), measured now."""
    call = _convolution(device, dtype, channels_last, batch, channels, size)
    return _operations(batch, channels, size) / best_times({"": call}, seconds)[""] / 1e12


def _operations(batch: int, channels: tuple[int, int], size: int) -> int:
    return 6 * batch * size * size * channels[0] * channels[1] * 9


def _convolution(
    device: torch.device, dtype: torch.dtype, channels_last: bool, batch: int, channels: tuple[int, int], size: int
) -> Callable[[], None]:
    """A 3x3 convolution forward and backward; without autograd, which takes a second to load the first time."""
    ins, outs = channels
    layout = torch.channels_last if channels_last else torch.contiguous_format
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, ins, size, size, generator=g).to(device, dtype).contiguous(memory_format=layout)
    w = torch.randn(outs, ins, 3, 3, generator=g).to(device, dtype).contiguous(memory_format=layout)
    gradient = torch.ones(batch, outs, size, size, device=device, dtype=dtype).contiguous(memory_format=layout)

    def call() -> None:
        torch.conv2d(x, w, None, 1, 1)
        torch.ops.aten.convolution_backward(
            gradient, x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
        )
        if device.type != "cpu":
            getattr(torch, device.type).synchronize()

    return call


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


def hardware() -> dict[str, Any]:
    """What the machine is: for run.json and for the tables of bench/."""
    found: dict[str, Any] = {"processor": _processor(), "cores": usable_cores(), "system": platform.platform()}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found
