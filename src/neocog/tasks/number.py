"""One number for each picture, or several: ages, counts, angles. Unknown numbers are ignored.

Numbers are learned in units of their deviation. Losses: squared, absolute and huber (Huber 1964, its bend at one
deviation), or ordinal, for whole numbers: for each value a yes or no whether the number is larger (Frank and Hall 2001,
with one net for all questions as in Niu et al. 2016); the answer has as many steps as are answered with yes.

A number with a period (an angle, a time of day) is learned as the cosine and sine of its angle.

Each answer has an interval that holds the truth nine times out of ten: the answer, less and plus a distance that
90 % of the validation pictures do not exceed (split conformal prediction, Papadopoulos et al. 2002; Lei et al. 2018,
theorem 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neocog.charts import scatter_chart
from neocog.data.kinds import Numbers
from neocog.errors import DataError, UsageError
from neocog.page import Html, paragraph, table
from neocog.tasks.answer import Answer, Claim, which
from neocog.tasks.at_once import Arrays, FitsAtOnce
from neocog.tasks.last_layers import Layers, logistics, ridge
from neocog.tasks.measured import Measured
from neocog.tasks.measures import conformal
from neocog.tasks.task import Batch, Losses, Section, Seen, Source, Targets, Task, Warp, register

LOSSES = ("squared", "absolute", "huber", "ordinal")
HELD = 0.9  # share of truths that intervals should hold
_LEVELS = 200  # values of an ordinal number, at most
_LOOK_AT = 5000  # samples of a column that has no array of values
_SHOWN = 600  # points of a scatter plot
_STRATA = 10


@register
class Number(FitsAtOnce, Task):
    """Regression.

    Args:
        names: of the numbers.
        mean, deviation, spread: (D,) of each over the training pictures: mean, standard deviation, and mean absolute
            distance from the median. Of a number with a period they are those of its angle in radians.
        periods: (D,), after how much a number begins anew, or None.
        levels: (D,), the values of an ordinal number, or None.
        loss: one of `LOSSES`.
        half: (D,), half the width of the intervals; None: not known.
    """

    name = "number"
    about = "one or several numbers for each picture, text, sound or clip"
    inputs = ()
    needs = {"numbers": "number"}
    goal = ("mae", "min")
    figure = "mean absolute error"
    answer = Measured
    options = {"loss": "huber"}
    choices = {"loss": LOSSES}
    kept = ("names", "mean", "deviation", "spread", "periods", "levels", "half")

    def __init__(
        self,
        names: Sequence[str],
        mean: Sequence[float],
        deviation: Sequence[float],
        spread: Sequence[float],
        periods: Sequence[float | None],
        levels: Sequence[Sequence[float] | None],
        half: Sequence[float | None] = (),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.names, self.loss = tuple(names), self.how.get("loss")
        self.mean, self.deviation, self.spread = (np.asarray(v, np.float64) for v in (mean, deviation, spread))
        self.periods = tuple(periods)
        self.levels = tuple(None if one is None else np.asarray(one, np.float64) for one in levels)
        self.half = tuple(half) or (None,) * len(self.names)
        # outputs of each number
        self._sizes = [
            2 if period else 1 if steps is None else len(steps) - 1
            for period, steps in zip(self.periods, self.levels, strict=True)
        ]
        # from units of the targets to those of the number
        self._unit = np.array([d if p is None else p / (2 * math.pi) for d, p in zip(deviation, periods, strict=True)])
        if len(self.names) > 1:  # numbers in different units have no common error in either
            self.goal = ("relative_mae", "min")  # type: ignore[misc]
            self.figure = "error relative to the median's"  # type: ignore[misc]

    @classmethod
    def plan(cls, source: Source, rows: np.ndarray, settings: Mapping[str, Any]) -> Number:
        column: Any = source.columns["numbers"]
        chosen = cls.chosen(settings)
        loss = chosen.get("loss")
        values, periods = _values(column, rows), tuple(column.periods)
        mean, deviation, spread, levels = [], [], [], []
        for name, own, period in zip(column.names, values.T, periods, strict=True):
            own = own[np.isfinite(own)]
            if len(np.unique(own)) < 2:
                what = f"always {own[0]:g}" if len(own) else "never known"
                raise DataError(f"the number {name!r} of {source.name} is {what} in the training pictures")
            steps = None
            if period:
                angle = 2 * math.pi * own / period
                middle = math.atan2(np.sin(angle).mean(), np.cos(angle).mean())
                far = np.abs(turned(angle - middle))
                mean.append(middle)
                deviation.append(float(np.sqrt((far**2).mean())))
                spread.append(float(far.mean()))
            else:
                mean.append(float(own.mean()))
                deviation.append(float(own.std()))
                spread.append(float(np.abs(own - np.median(own)).mean()))
                if loss == "ordinal":
                    steps = np.unique(own)
                    if (steps % 1).any() or len(steps) > _LEVELS:
                        raise UsageError(
                            f"loss=ordinal is for whole numbers of at most {_LEVELS} different values; {name!r} has "
                            f"{len(steps):,}, such as {steps[len(steps) // 2]:g}; loss=huber is for any number"
                        )
            levels.append(None if steps is None else steps.tolist())
        return cls(column.names, mean, deviation, spread, periods, levels, **chosen)

    @classmethod
    def strata(cls, source: Source) -> np.ndarray | None:
        """Tenths of the pictures by the first number."""
        column = source.columns["numbers"]
        if not isinstance(column, Numbers):
            return None
        first = column.values[:, 0]
        there = np.isfinite(first)
        found = np.full(len(first), -1, np.int64)
        few = max(2, min(_STRATA, int(there.sum()) // _STRATA))
        edges = np.quantile(first[there], np.linspace(0, 1, few + 1)[1:-1]) if there.any() else np.zeros(0)
        found[there] = np.searchsorted(edges, first[there], side="right")
        return found

    @property
    def outputs(self) -> int:
        return sum(self._sizes)

    @classmethod
    def support(cls, source: Source, rows: np.ndarray) -> tuple[np.ndarray, str]:
        """A tenth of the pictures, as if the numbers were ten classes."""
        return np.full(10, len(rows) // 10), "tenth of the numbers"

    def fit_head(self, x: np.ndarray, targets: Arrays, strengths: Sequence[float], kind: str = "") -> Layers:
        """Least squares, whatever the loss; logistic regression of each step of an ordinal number."""
        z, parts = targets["numbers"].astype(np.float64), []
        for d, (period, steps) in enumerate(zip(self.periods, self.levels, strict=True)):
            own = z[:, d : d + 1]
            if steps is not None:
                larger = np.where(np.isnan(own), np.nan, own > self._bounds(d))
                parts.append(logistics(x, larger, larger.shape[1], np.ones(larger.shape), strengths))
            else:
                wanted = np.concatenate((np.cos(own), np.sin(own)), 1) if period else own
                parts.append(ridge(x, wanted, np.ones(len(x)), strengths))
        for made in zip(*parts, strict=True):
            yield np.concatenate([w for w, _ in made]), np.concatenate([b for _, b in made])

    # ---- a batch: targets are numbers in deviations from the mean, or angles in radians

    def collate(self, values: dict[str, Any], warp: Warp | None, valid: Tensor) -> Targets:
        made = np.full((len(valid), len(self.names)), np.nan)
        for b, row in enumerate(values["numbers"]):
            if valid[b] and row is not None:
                made[b] = row
        return {"numbers": torch.from_numpy(self._standard(made).astype(np.float32))}

    def _standard(self, values: np.ndarray) -> np.ndarray:
        """Numbers (N, D) as targets."""
        made = np.where(np.isfinite(values), values, np.nan)
        for d, period in enumerate(self.periods):
            own = made[:, d]
            made[:, d] = turned(2 * math.pi * own / period) if period else (own - self.mean[d]) / self.deviation[d]
        return made

    def _natural(self, targets: np.ndarray) -> np.ndarray:
        """Targets (N, D) as numbers."""
        made = np.array(targets, np.float64)
        for d, period in enumerate(self.periods):
            own = made[:, d]
            made[:, d] = own * period / (2 * math.pi) % period if period else own * self.deviation[d] + self.mean[d]
        return made

    def _bounds(self, d: int) -> np.ndarray:
        """Half way between the values of an ordinal number, as targets."""
        steps = self.levels[d]
        assert steps is not None
        return ((steps[1:] + steps[:-1]) / 2 - self.mean[d]) / self.deviation[d]

    def losses(self, outputs: Tensor, batch: Batch) -> Losses:
        total, count = self._summed(outputs, batch.targets["numbers"])
        return Losses({"loss": total / count.clamp(min=1e-6)}, count)

    def _summed(self, outputs: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The loss summed over all numbers that are known, and how many pictures that is."""
        total = outputs.sum() * 0.0
        known = ~z.isnan()
        for d, made in enumerate(outputs.split(self._sizes, dim=1)):
            rows, own = known[:, d], z[:, d].nan_to_num(0.0)[:, None]
            if self.periods[d]:
                each = self._far((made - torch.cat((own.cos(), own.sin()), 1)).pow(2).sum(1, keepdim=True), True)
            elif self.levels[d] is not None:
                larger = (own > torch.from_numpy(self._bounds(d)).to(own)).to(made.dtype)
                each = F.binary_cross_entropy_with_logits(made, larger, reduction="none")
            else:
                each = self._far(made - own, False)
            total = total + (each.sum(1) * rows).sum()
        return total, known.sum() / len(self.names)

    def _far(self, difference: Tensor, squared: bool) -> Tensor:
        """The loss of differences, or of squares of differences."""
        square = difference if squared else difference**2
        if self.loss == "squared":
            return 0.5 * square
        far = (square + 1e-12).sqrt() if squared else difference.abs()
        return far if self.loss == "absolute" else torch.where(far < 1, 0.5 * square, far - 0.5)

    def _found(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs as numbers (N, D)."""
        return self.readings(torch.from_numpy(np.asarray(outputs, np.float64)), (0, 0))["numbers"].numpy()

    # ---- figures

    def _errors(self, seen: Seen) -> np.ndarray:
        """Absolute errors (N, D) in the numbers' own units; nan where the truth is not known."""
        far = self._found(seen["outputs"]) - self._natural(seen["numbers"])
        for d, period in enumerate(self.periods):
            if period:
                far[:, d] = turned(far[:, d], period)
        return np.abs(far)

    def figures(self, seen: Seen) -> dict[str, Any]:
        if not len(seen.get("rows", ())):
            return {"n": 0, self.goal[0]: math.nan, "loss": math.nan}
        error = self._errors(seen)
        total, count = self._summed(
            torch.from_numpy(np.asarray(seen["outputs"], np.float64)),
            torch.from_numpy(np.asarray(seen["numbers"], np.float64)),
        )
        rows: dict[str, dict[str, float]] = {}
        for d, name in enumerate(self.names):
            own = error[:, d][~np.isnan(error[:, d])]
            truth = seen["numbers"][:, d][~np.isnan(seen["numbers"][:, d])].astype(np.float64)
            made = {"mae": math.nan, "rmse": math.nan, "r2": math.nan, "relative_mae": math.nan}
            if len(own):
                around = truth - truth.mean()
                if self.periods[d]:
                    around = turned(truth - math.atan2(np.sin(truth).mean(), np.cos(truth).mean()))
                spread = self.spread[d] * (self._unit[d] if self.periods[d] else 1.0)
                whole = float(((around * self._unit[d]) ** 2).sum())
                made = {
                    "mae": float(own.mean()),
                    "rmse": float(np.sqrt((own**2).mean())),
                    "r2": 1 - float((own**2).sum()) / whole if whole > 0 else math.nan,
                    "relative_mae": float(own.mean()) / spread,
                }
                half = self.half[d]
                if half is not None:
                    made["coverage"] = float((own <= half).mean())
            rows[name] = made
        means = {
            k: float(np.mean(there)) if (there := [v[k] for v in rows.values() if not math.isnan(v[k])]) else math.nan
            for k in ("r2", "relative_mae", *(("mae", "rmse") if len(rows) == 1 else ()))  # else each in its own unit
        }
        covered = [row["coverage"] for row in rows.values() if "coverage" in row]
        return {
            "n": len(seen["rows"]),
            **means,
            **({"coverage": float(np.mean(covered))} if covered else {}),
            "loss": float(total / count.clamp(min=1e-6)),
            "per_number": rows,
        }

    def calibrate(self, seen: Seen) -> None:
        """Intervals: the distance that at least 90 % of all pictures do not exceed, as those of validation say."""
        if len(seen.get("rows", ())):
            self.half = tuple(conformal(own[~np.isnan(own)], HELD) for own in self._errors(seen).T)

    def headline(self, figures: Mapping[str, Any]) -> str:
        each = [
            f"{name}: mean absolute error {row['mae']:.4g}, R2 {row['r2']:.3f}"
            for name, row in figures["per_number"].items()
        ]
        held = f", {figures['coverage']:.1%} inside the {HELD:.0%} intervals" if "coverage" in figures else ""
        return f"{'; '.join(each)} (n = {figures['n']:,}{held})"

    # ---- the report

    def worst(self, seen: Seen) -> np.ndarray:
        error = self._errors(seen) / self._unit
        return seen["rows"][np.argsort(-np.nan_to_num(error, nan=0.0).max(1), kind="stable")]

    def caption(self, seen: Seen, row: int) -> str:
        at = int(np.flatnonzero(seen["rows"] == row)[0])
        error = self._errors({k: v[at : at + 1] for k, v in seen.items()})[0]
        several = len(self.names) > 1
        return "wrong by " + ", ".join(
            f"{v:.3g}{f' ({name})' if several else ''}"
            for name, v in zip(self.names, error, strict=True)
            if not math.isnan(v)
        )

    def sections(self, seen: Seen, figures: Mapping[str, Any]) -> list[Section]:
        rows = []
        for d, (name, row) in enumerate(figures["per_number"].items()):
            half = self.half[d]
            rows.append(
                {
                    "number": name,
                    "mean absolute error": row["mae"],
                    "root mean squared error": row["rmse"],
                    "R2": row["r2"],
                    "against the median": row["relative_mae"],
                    "interval": "-" if half is None else f"± {half:.3g}",
                    "inside it": f"{row['coverage']:.1%}" if "coverage" in row else "-",
                }
            )
        line = (
            "Against the median: the mean absolute error over that of always answering the training pictures' median; "
            f"1 means that nothing was learned. The intervals were chosen so that they hold {HELD:.0%} of the "
            "validation pictures."
        )
        parts = [Section("Numbers", Html(table(rows, numeric=tuple(rows[0])[1:]) + paragraph(line)))]
        truth, found = self._natural(seen["numbers"]), self._found(seen["outputs"])
        some = np.unique(np.linspace(0, len(truth) - 1, min(_SHOWN, len(truth))).astype(int))
        charts = [
            scatter_chart(
                [(float(truth[i, d]), float(found[i, d])) for i in some if not math.isnan(truth[i, d])],
                x=f"true {name}",
                y=f"answered {name}",
            )
            for d, name in enumerate(self.names)
        ]
        return [*parts, Section("Answers against the truth", Html("".join(charts)))]

    # ---- answers

    def answers(self, outputs: Tensor, batch: Batch, keys: Sequence[str], top: int = 5) -> list[Answer]:
        found: list[Answer] = []
        for key, row in zip(keys, self._found(outputs.cpu().numpy()).tolist(), strict=True):
            spans: list[tuple[float, float] | None] = []
            for value, half, period in zip(row, self.half, self.periods, strict=True):
                if half is None:
                    spans.append(None)
                elif period is None:
                    spans.append((value - half, value + half))
                elif 2 * half < period:
                    spans.append(((value - half) % period, (value + half) % period))
                else:
                    spans.append((0.0, period))
            found.append(Measured(key, self.names, tuple(row), tuple(spans)))
        return found

    claims = "the name of a number"

    def claim(self, outputs: Tensor, batch: Batch, what: str | None = None, other: Any = None) -> Claim:
        """What makes the number large; of an angle or a time of day, what says the one that was found."""
        d = which(what, self.names, "number", 0)
        found = outputs.detach().split(self._sizes, dim=1)[d][0]
        towards = found / found.norm().clamp(min=1e-9) if self.periods[d] else torch.ones_like(found)
        return Claim(self.names[d], lambda out: out.split(self._sizes, dim=1)[d] @ towards)

    reading = "`numbers` (B, D) are the numbers in their own units; `half` of the task is half of each interval."

    def readings(self, outputs: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        made = []
        for d, own in enumerate(outputs.split(self._sizes, dim=1)):
            steps, period = self.levels[d], self.periods[d]
            if period:
                made.append(torch.atan2(own[:, 1], own[:, 0]) * (period / (2 * math.pi)) % period)
            elif steps is not None:
                made.append(torch.from_numpy(np.asarray(steps)).to(own)[(own > 0).sum(1)])
            else:
                made.append(own[:, 0] * float(self.deviation[d]) + float(self.mean[d]))
        return {"numbers": torch.stack(made, 1)}


def turned(angle: Any, period: float = 2 * math.pi) -> Any:
    """Angles brought to half a period below and above 0."""
    return (angle + period / 2) % period - period / 2


def _values(column: Any, rows: np.ndarray) -> np.ndarray:
    """The numbers (N, D) of some samples; of `_LOOK_AT` of them where each has to be computed."""
    if isinstance(column, Numbers):
        return column.values[rows]
    some = rows[np.linspace(0, len(rows) - 1, min(_LOOK_AT, len(rows))).astype(int)]
    return np.stack([row for i in some if (row := column[int(i)]) is not None])
