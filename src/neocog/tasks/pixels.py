"""What tasks have in common whose answer is pictures: values of pixels, chance by picture, PCA, sheets.

PCA is fitted in the same run, on the same pictures, with as many numbers as a code has. As a density it is the normal
distribution of Tipping and Bishop 1999 (Probabilistic principal component analysis, equations 6 to 9).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neocog.errors import UsageError
from neocog.records import Preprocess
from neocog.tasks.answer import Answer, Claim, which
from neocog.tasks.canvas import enlarged, in_colour
from neocog.tasks.task import Batch, Source, Targets, Task, Trunk, Warp

_LEARN = 5000  # training pictures that PCA is fitted on
_ROWS, _COLUMNS = 8, 8  # of a sheet


class Pixels(Task):
    """A task that learns from pictures alone and answers with pictures. `options` are its settings."""

    needs = {}
    views_back = False
    remakes = True
    net = "dcgan"
    unportable = "its answers are pictures, for which an exported model has no form"
    claims = "the number of a variable"
    kept = ("mean", "std")
    told: ClassVar[str]  # the output (B, K) whose numbers speak for an answer
    asks: ClassVar[str]  # which values of the options are good

    def __init__(self, mean: Sequence[float] = (0.0,) * 3, std: Sequence[float] = (1.0,) * 3, **options: Any) -> None:
        super().__init__(**options)
        if not self.sound(**self.how):
            raise UsageError(f"the task {self.name} needs {self.asks}, got {self.how}")
        self.mean, self.std = tuple(mean), tuple(std)
        self._some: Callable[[int], Tensor] | None = None
        self._pca: Pca | None = None
        self._last = False  # whether figures are those that are reported

    @classmethod
    def plan(cls, source: Source, rows: np.ndarray, settings: Mapping[str, Any]) -> Pixels:
        return cls(**cls.chosen(settings))

    @abstractmethod
    def sound(self, **options: Any) -> bool:
        """Whether options have such values as `asks` says."""

    def begin(self, pre: Preprocess, some: Callable[[int], Tensor]) -> None:
        self.mean, self.std = pre.mean[: pre.channels], pre.std[: pre.channels]
        self._some, self._pca = some, None

    def thorough(self) -> None:
        self._last = True

    def collate(self, values: dict[str, Any], warp: Warp | None, valid: Tensor) -> Targets:
        return {"there": valid}

    def claim(self, outputs: Any, batch: Batch, what: str | None = None, other: Any = None) -> Claim:
        values = outputs[self.told][0]
        k = which(what, [str(i) for i in range(len(values))], "variable", int(values.abs().argmax()))
        return Claim(f"{self.told} {k}", lambda out: out[self.told][:, k])

    def values(self, x: Tensor) -> Tensor:
        """Normalised pictures (B, C, H, W) as values from 0 to 1."""
        mean, std = (x.new_tensor(v)[: x.shape[1], None, None] for v in (self.mean, self.std))
        return x * std + mean

    def normalised(self, values: Tensor) -> Tensor:
        """Values from 0 to 1 (B, C, H, W) as the net reads them."""
        mean, std = (values.new_tensor(v)[: values.shape[1], None, None] for v in (self.mean, self.std))
        return (values - mean) / std

    def levels(self, x: Tensor) -> Tensor:
        """Normalised pictures as the levels of their bytes, whole numbers from 0 to 255."""
        return (255 * self.values(x)).round().clamp(0, 255)

    def pictures(self, net: nn.Module, z: Tensor) -> Tensor:
        """Pictures of numbers (B, latent), values from 0 to 1 (B, C, H, W)."""
        raise NotImplementedError

    @torch.inference_mode()
    def sample(self, net: nn.Module, n: int, seed: int = 0) -> np.ndarray:
        if "latent" not in self.how:
            return super().sample(net, n, seed)
        latent, g = getattr(net, "latent", self.how["latent"]), torch.Generator().manual_seed(seed)
        z = torch.randn(n, latent, generator=g).to(next(net.parameters()))
        return np.concatenate([as_bytes(self.pictures(net, part)) for part in z.split(256)])

    def pca(self, components: int) -> Pca | None:
        """PCA of training pictures as levels; None outside of the run that they belong to."""
        if self._pca is None and self._some is not None:
            x = self.levels(self._some(_LEARN)).flatten(1)
            self._pca = Pca(x + chance(torch.arange(len(x)), x.shape[1], uniform=True), components)
        return self._pca


@dataclass(frozen=True, slots=True)
class Remade(Answer):
    """A picture as it was `seen` and as it was `made` again, uint8 (H, W, C) both; `vector` is its code.

    `error`: mean squared difference of values from 0 to 1; `unusual`: more than the error of all but a twentieth of
    the validation pictures (None: not known). `bits`: of a dimension, where the net gives probabilities.
    """

    seen: np.ndarray | None = None
    made: np.ndarray | None = None
    vector: tuple[float, ...] = ()
    error: float = 0.0
    unusual: bool | None = None
    bits: float | None = None

    def row(self) -> dict[str, Any]:
        more: dict[str, Any] = {} if self.bits is None else {"bits": round(self.bits, 4)}
        if self.unusual is not None:
            more["unusual"] = self.unusual
        return {"error": round(self.error, 6), "psnr": round(psnr(self.error), 2), **more}

    def to_json(self) -> dict[str, Any]:
        return {**self.row(), "code": [round(v, 5) for v in self.vector]}

    def draw(self, picture: np.ndarray, truth: Any = None) -> np.ndarray:
        """Side by side what the net saw, what it made of it, and the difference."""
        if self.seen is None or self.made is None:
            return picture
        difference = np.abs(self.seen.astype(np.int16) - self.made).astype(np.uint8)
        return enlarged(np.concatenate([in_colour(one) for one in (self.seen, self.made, difference)], 1))[0]


def apart(made: Tensor, true: Tensor) -> Tensor:
    """Mean squared difference of each picture, (B,)."""
    return (made - true).square().flatten(1).mean(1)


def psnr(error: float) -> float:
    """Peak signal-to-noise ratio in decibels of a mean squared difference of values from 0 to 1."""
    return -10 * math.log10(max(error, 1e-10))


def as_bytes(values: Tensor) -> np.ndarray:
    """Values from 0 to 1 (B, C, H, W) -> uint8 (B, H, W, C)."""
    return (255 * values.detach().float().clamp(0, 1)).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def sheet(pictures: np.ndarray, columns: int = _COLUMNS) -> np.ndarray:
    """Pictures uint8 (N, H, W, C) in rows of `columns`, with a gap of 2 pixels: uint8 (h, w, 3)."""
    n, h, w = pictures.shape[:3]
    rows = -(-n // columns)
    made = np.full((rows, h + 2, columns, w + 2, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        made[i // columns, :h, i % columns, :w] = picture
    return made.reshape(rows * (h + 2), columns * (w + 2), 3)[:-2, :-2]


def chance(rows: Tensor, numbers: int, draw: int = 0, *, uniform: bool = False) -> Tensor:
    """Random numbers (B, numbers) for pictures: normal, or uniform from 0 to 1; a function of row and `draw` alone.

    So they do not depend on how pictures are put into batches or spread over processes.
    """
    g, make = torch.Generator(), torch.rand if uniform else torch.randn
    return torch.stack([make(numbers, generator=g.manual_seed(1_000_003 * draw + int(row))) for row in rows])


def this_step() -> int:
    """A number for `chance` that differs from step to step, drawn as dropout is."""
    return int(torch.randint(1 << 31, ()))


def pooled_width(trunk: Trunk) -> tuple[int, int]:
    """Side up to which a trunk's deepest maps are averaged (4 at most), and how many numbers they have then."""
    deepest = max(trunk.channels)
    side = min(4, max(1, int(trunk.spec["input_size"]) // deepest))
    return side, trunk.channels[deepest] * side**2


class Read(nn.Module):
    """Numbers from the deepest maps of a trunk, all their places: maps by stride -> (B, numbers)."""

    def __init__(self, trunk: Trunk, numbers: int) -> None:
        super().__init__()
        self.side, width = pooled_width(trunk)
        self.line = nn.Linear(width, numbers)

    def forward(self, maps: Mapping[int, Tensor]) -> Tensor:
        return self.line(F.adaptive_avg_pool2d(maps[max(maps)], self.side).flatten(1))  # type: ignore[no-any-return]


class Pca:
    """The first directions in which pictures vary, of levels (N, D), and the normal distribution that they make."""

    def __init__(self, x: Tensor, components: int) -> None:
        self.mean = x.mean(0)
        count = min(components, len(x) - 1, x.shape[1] - 1)
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            _, values, self.axes = torch.pca_lowrank(x, min(len(x), x.shape[1], count + 8), center=True, niter=4)
        variance = values.double() ** 2 / max(1, len(x) - 1)
        self.axes, self.variance = self.axes[:, :count], variance[:count]
        left = float(x.var(0).double().sum()) - float(self.variance.sum())
        self.rest = max(left / (x.shape[1] - count), 1e-3)  # of each direction that is left out

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates (B, K), and the squared length (B,) of what they leave over."""
        x = x - self.mean.to(x)
        inside = x @ self.axes.to(x)
        return inside, (x.square().sum(1) - inside.square().sum(1)).clamp(min=0)

    def remade(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        return self._split(x)[0] @ self.axes.to(x).T + self.mean.to(x)

    def log_p(self, x: Tensor) -> Tensor:
        """Log density in nats (B,) of (B, D); the directions that are left out have one variance."""
        inside, rest = (part.double() for part in self._split(x))
        variance = self.variance.to(x.device).clamp(min=self.rest)
        size, count = x.shape[1], len(variance)
        logs = size * math.log(2 * math.pi) + variance.log().sum() + (size - count) * math.log(self.rest)
        return -0.5 * (logs + (inside.square() / variance).sum(1) + rest / self.rest)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """New (n, D) of the distribution."""
        g = torch.Generator().manual_seed(seed)
        inside = torch.randn(n, len(self.variance), generator=g) * self.variance.sqrt().float()
        noise = torch.randn(n, len(self.mean), generator=g) * math.sqrt(self.rest)
        return self.mean + noise + (inside - noise @ self.axes) @ self.axes.T
