"""Whether a picture shows the thing, and how the thing is turned, by one energy: the distance from a curve.

A net maps a picture to G, three coordinates for each number. Pictures of the thing belong on a circle, at the place of
their angle: F(t) = cos(t - a) for a = -60, 0 and 60 degrees. The energy is the distance from the nearest place of the
circle; that place is the answered angle, and above a threshold the picture does not show the thing. Things are learned
with the square of the distance from the place of their own angle, all other pictures with exp(-energy) (M. Osadchy,
Y. LeCun, M. L. Miller, "Synergistic face detection and pose estimation with energy-based models", JMLR 8, 2007; there
for one angle of half a circle, and for two).

The nearest place is known in closed form, because the vectors cos a and sin a have one length and a right angle:
t = atan2(G . sin a, G . cos a). A number without a period lies on half the circle, from three deviations below the
mean to three above. Several numbers have a circle each, and the squares of their distances are added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from neocog.charts import scatter_chart
from neocog.page import Html, paragraph
from neocog.records import counted
from neocog.tasks.answer import Answer, Claim, which
from neocog.tasks.at_once import Arrays
from neocog.tasks.canvas import PLAIN, captioned
from neocog.tasks.last_layers import Layers, ridge
from neocog.tasks.match import verification
from neocog.tasks.measured import Measured
from neocog.tasks.measures import auroc
from neocog.tasks.number import Number, turned
from neocog.tasks.task import Batch, Losses, Section, Seen, Source, register

_A = math.pi / 3 * torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
_COS, _SIN = _A.cos(), _A.sin()  # of length sqrt(1.5) each, at a right angle
_HALF = math.pi / 2 / 3  # of the circle, for a deviation of a number without a period
NEAR = math.pi / 12  # 15 degrees


@dataclass(frozen=True, slots=True)
class Placed(Measured):
    """Whether one picture shows the thing, and its numbers if it does.

    Attributes:
        energy: the distance from the curve. found: whether it is at most the threshold.
    """

    energy: float = math.nan
    found: bool = False

    def row(self) -> dict[str, Any]:
        own = Measured.row(self)
        return {"found": self.found, "energy": self.energy} | {k: v if self.found else None for k, v in own.items()}

    def to_json(self) -> dict[str, Any]:
        own = Measured.to_json(self) if self.found else {"numbers": None}
        return {"found": self.found, "energy": self.energy, **own}

    def draw(self, picture: np.ndarray, truth: Any = None) -> np.ndarray:
        """The numbers below the picture, or that it does not show the thing."""
        if self.found:
            return Measured.draw(self, picture, truth)
        return captioned(picture, [(f"not found (energy {self.energy:.3g})", PLAIN)])


@register
class Energy(Number):
    """Detection and regression by one distance.

    Args:
        share: of the training pictures, those that show the thing.
        threshold: the largest energy of what is found; None: every picture shows the thing.
    """

    name = "energy"
    about = "whether a picture shows the thing (those without a number do not), and its angle or number"
    inputs: ClassVar[tuple[str, ...]] = ("picture",)
    goal = ("right", "max")
    figure = "share of right answers"
    answer = Placed
    options: ClassVar[dict[str, Any]] = {}
    choices: ClassVar[dict[str, Any]] = {}
    kept: ClassVar[tuple[str, ...]] = (*Number.kept, "share", "threshold")

    def __init__(self, *args: Any, share: float = 1.0, threshold: float | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        self.goal, self.figure = type(self).goal, type(self).figure  # type: ignore[misc]
        self.share, self.threshold = share, threshold
        self._sizes = [3] * len(self.names)

    @classmethod
    def plan(cls, source: Source, rows: np.ndarray, settings: Mapping[str, Any]) -> Energy:
        made: Energy = super().plan(source, rows, settings)  # type: ignore[assignment]
        things = source.columns["numbers"].known[rows]
        made.share = float(things.mean())
        if things.all():
            told = (
                "every picture to learn from has a number, so every answer will be that it is there; add pictures "
                "of other things, without a number, or take --task number"
            )
        else:
            rest = counted(int((~things).sum()), f"picture of {len(rows):,} to learn from", "has")
            told = f"{rest} no number: they do not show the thing"
        made.notes = (told,)
        return made

    @classmethod
    def known(cls, source: Source) -> np.ndarray:
        return np.ones(len(source), dtype=bool)

    @classmethod
    def strata(cls, source: Source) -> np.ndarray:
        """Pictures that show the thing, and others."""
        return source.columns["numbers"].known.astype(np.int64)

    # ---- the curve

    def _angles(self, z: Tensor) -> Tensor:
        """Targets (N, D) as places on their circles, in radians; nan = not known."""
        halves = [p is None for p in self.periods]
        return torch.where(torch.tensor(halves, device=z.device), (z * _HALF).clamp(-math.pi / 2, math.pi / 2), z)

    def nearest(self, outputs: Tensor) -> Tensor:
        """The places (N, D) on the circles that are nearest to outputs (N, 3 D), in radians."""
        g = outputs.unflatten(1, (-1, 3))
        t = torch.atan2(g @ _SIN.to(g), g @ _COS.to(g))
        halves = [p is None for p in self.periods]
        return torch.where(torch.tensor(halves, device=g.device), t.clamp(-math.pi / 2, math.pi / 2), t)

    def energy(self, outputs: Tensor, z: Tensor | None = None) -> Tensor:
        """The distance (N,) from the nearest place, or, where targets `z` (N, D) are known, from theirs."""
        t = self.nearest(outputs)
        if z is not None:
            t = torch.where(z.isnan(), t, self._angles(z).to(t))
        place = t.cos()[..., None] * _COS.to(t) + t.sin()[..., None] * _SIN.to(t)
        return ((outputs.unflatten(1, (-1, 3)) - place).pow(2).sum((1, 2)) + 1e-12).sqrt()

    # ---- learning

    def losses(self, outputs: Tensor, batch: Batch) -> Losses:
        total, count = self._summed(outputs[batch.valid], batch.targets["numbers"][batch.valid])
        return Losses({"loss": total / count.clamp(min=1)}, count)

    def _summed(self, outputs: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Both kinds of pictures weigh the same, however many there are of each."""
        thing = ~z.isnan().all(1)
        energy = self.energy(outputs, z)
        one, other = (0.5 / self.share, 0.5 / (1 - self.share)) if self.share < 1 else (1.0, 0.0)
        each = torch.where(thing, one * energy**2, other * (-energy).exp())
        return each.sum(), torch.tensor(len(z), device=z.device)

    def fit_head(self, x: np.ndarray, targets: Arrays, strengths: Sequence[float], kind: str = "") -> Layers:
        """Least squares: things at their places, all else at the centre of the circle."""
        t = self._angles(torch.from_numpy(targets["numbers"]).double())[..., None]
        wanted = (t.cos() * _COS + t.sin() * _SIN).flatten(1).numpy()
        wanted[np.isnan(wanted).all(1)] = 0.0
        yield from ridge(x, wanted, np.ones(len(x)), strengths)

    # ---- figures

    def figures(self, seen: Seen) -> dict[str, Any]:
        made = super().figures(seen)
        if not made["n"]:
            return made
        energy, thing, near = self._judged(seen)
        found = energy <= self._limit(energy, thing)
        kinds = [one.mean() for one in ((found & near)[thing], ~found[~thing]) if len(one)]
        some = thing.any()
        return made | {
            "right": float(np.mean(kinds)),
            "auc": auroc(-energy, thing),
            "eer": verification(-energy, thing)["eer"],
            "found": float(found[thing].mean()) if some else math.nan,
            "refused": float((~found[~thing]).mean()) if not thing.all() else math.nan,
            "within_15_degrees": float(near[thing].mean()) if some else math.nan,
        }

    def _judged(self, seen: Seen) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N,) of each: the energy, whether it shows the thing, and whether all known numbers are near theirs."""
        outputs, z = (torch.from_numpy(np.asarray(seen[k], np.float64)) for k in ("outputs", "numbers"))
        off = np.abs(turned((self.nearest(outputs) - self._angles(z)).numpy()))
        return self.energy(outputs).numpy(), ~z.isnan().all(1).numpy(), (np.isnan(off) | (off <= NEAR)).all(1)

    def _limit(self, energy: np.ndarray, thing: np.ndarray) -> float:
        """The threshold; before it is chosen, that of these pictures' own equal error rate."""
        if self.threshold is not None:
            return self.threshold
        own = -verification(-energy, thing)["threshold"]
        return math.inf if math.isnan(own) else own

    def calibrate(self, seen: Seen) -> None:
        super().calibrate(seen)
        if len(seen.get("rows", ())):
            self.threshold = None  # of an earlier choice
            limit = self._limit(*self._judged(seen)[:2])
            self.threshold = limit if math.isfinite(limit) else None

    def headline(self, figures: Mapping[str, Any]) -> str:
        others = f", refused {figures['refused']:.1%} of the others (AUC {figures['auc']:.4f})"
        others = others if math.isfinite(figures["refused"]) else ""  # there are none
        return f"found {figures['found']:.1%} of the things{others}; {super().headline(figures)}"

    def shown(self, value: float) -> str:
        return f"{value:.2%}"

    def worst(self, seen: Seen) -> np.ndarray:
        energy, thing, near = self._judged(seen)
        limit = self._limit(energy, thing)
        far = np.where(thing, energy - limit, limit - energy)  # above 0: wrong
        return seen["rows"][np.argsort(-(far + 10 * (thing & ~near)), kind="stable")]

    def caption(self, seen: Seen, row: int) -> str:
        at = int(np.flatnonzero(seen["rows"] == row)[0])
        one = {k: v[at : at + 1] for k, v in seen.items()}
        energy, thing, _ = self._judged(one)
        own = f"shows it, {super().caption(seen, row)}" if thing[0] else "does not show it"
        return f"energy {energy[0]:.3g}; {own}"

    def sections(self, seen: Seen, figures: Mapping[str, Any]) -> list[Section]:
        energy, thing, _ = self._judged(seen)
        limit, made = self._limit(energy, thing), []
        if thing.any() and not thing.all():
            levels = np.quantile(energy, np.linspace(0, 1, 60))
            points = [(float((energy[~thing] <= e).mean()), float((energy[thing] <= e).mean())) for e in levels]
            said = (
                f"Found is what has an energy of at most {limit:.3g}. Right: found, with all numbers within 15 degrees "
                "of their places on the circle, or refused; both kinds of pictures weigh the same."
            )
            curve = scatter_chart(points, x="share of the others that passes", y="share of the things that is found")
            made = [Section("Found", Html(paragraph(said) + curve))]
        if thing.any():
            made += super().sections({k: v[thing] for k, v in seen.items()}, figures)
        return made

    # ---- answers

    def answers(self, outputs: Tensor, batch: Batch, keys: Sequence[str], top: int = 5) -> list[Answer]:
        limit = math.inf if self.threshold is None else self.threshold
        own = super().answers(outputs, batch, keys, top)
        return [
            Placed(one.key, one.names, one.values, one.intervals, e, e <= limit)  # type: ignore[attr-defined]
            for one, e in zip(own, self.energy(outputs).tolist(), strict=True)
        ]

    claims = "nothing: what speaks for the thing is shown"

    def claim(self, outputs: Tensor, batch: Batch, what: str | None = None, other: Any = None) -> Claim:
        """What makes the energy low."""
        which(what, ("found",), "answer", 0)
        return Claim("found", lambda out: -self.energy(out))

    reading = (
        "`energy` (B,) is low for pictures of the thing, `threshold` of the task is the largest of what is found; "
        "`numbers` (B, D) are its numbers in their own units."
    )

    def readings(self, outputs: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        t = self.nearest(outputs)
        numbers = [
            t[:, d] * (period / (2 * math.pi)) % period
            if period
            else t[:, d] / _HALF * float(self.deviation[d]) + float(self.mean[d])
            for d, period in enumerate(self.periods)
        ]
        return {"numbers": torch.stack(numbers, 1), "energy": self.energy(outputs)}
