"""Where named points lie: parts of a face, joints of a body.

- heatmap: the trunk's maps are joined at stride 4 (or the next that there is), and a 1x1 convolution gives a map for
  each point (Tompson et al. 2014; the joining is that of Lin et al. 2017). The softmax over the places of a map is a
  distribution; its target is a Gaussian around the point, the loss the Kullback-Leibler divergence. A point is read
  from the mean of the distribution within 3 deviations of its highest place (a soft-argmax, Sun et al. 2018, of the
  neighbourhood), which is finer than a cell; the confidence is the probability of that neighbourhood.
- regression: coordinates from the deepest maps, pooled to 4x4, with the Wing loss (Feng et al. 2018, equation 5, w = 10
  and epsilon = 2 pixels of a picture of 256) or smooth L1. The confidence is the share of validation points of that
  name that were found within a tenth of the points' box.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neocog.charts import line_chart
from neocog.errors import DataError, UsageError
from neocog.nets.pyramid import Joined, conv_norm
from neocog.page import Html, paragraph, table
from neocog.tasks.answer import Answer, Claim, which
from neocog.tasks.inside import check_inside
from neocog.tasks.keypoints import Keypoints, skeleton
from neocog.tasks.task import Batch, Losses, Section, Seen, Source, Targets, Task, Trunk, Warp, register

METHODS, LOSSES = ("heatmap", "regression"), ("wing", "smooth_l1")
_FINEST = 4  # stride of heatmaps
_GRID = 4  # regression reads the deepest maps as so many places across and down
_SCALE = 256.0  # regression's errors are pixels of a picture whose longer side has so many
NORMS = {
    "eyes": "the distance between the eyes' outer corners",
    "box": "the diagonal of the points' box",
}


class Heatmaps(nn.Module):
    """Maps of all strides -> logits of the place of each point."""

    def __init__(self, channels: Mapping[int, int], points: int, width: int) -> None:
        super().__init__()
        self.joined = Joined(channels, width, finest=_FINEST)
        self.last = nn.Conv2d(width, points, 1)

    def forward(self, maps: Mapping[int, Tensor], x: Tensor) -> Tensor:
        """-> (B, P, h, w) over pictures (B, C, H, W)."""
        return self.last(self.joined(maps))  # type: ignore[no-any-return]


class Coordinates(nn.Module):
    """The deepest maps -> coordinates as shares of the picture's width and height."""

    def __init__(self, channels: Mapping[int, int], points: int, width: int) -> None:
        super().__init__()
        self.deepest = max(channels)
        self.narrow = conv_norm(channels[self.deepest], width, 1)
        self.last = nn.Linear(width * _GRID**2, 2 * points)

    def forward(self, maps: Mapping[int, Tensor], x: Tensor) -> Tensor:
        """-> (B, P, 2) of pictures (B, C, H, W)."""
        pooled = F.adaptive_avg_pool2d(self.narrow(maps[self.deepest]), _GRID)
        return 0.5 + self.last(pooled.flatten(1)).unflatten(1, (-1, 2))  # type: ignore[no-any-return]


@register
class Pose(Task):
    """Named points by heatmaps or by regression.

    Args:
        names: of the points, in the order of the outputs.
        swap: for each point its partner in the mirror image.
        method: one of `METHODS`. loss: of the regression, one of `LOSSES`.
        width: channels of the head.
        sigma: deviation of the heatmaps' Gaussians, in cells of the map.
        trust: (P,), regression's confidence in each point, from validation.
    """

    name = "pose"
    about = "where named points lie"
    needs = {"points": "points"}
    goal = ("nme", "min")
    figure = "mean point error"
    fit = "pad"
    geometry = True
    recipe = "dense"
    answer = Keypoints
    choices = {"method": METHODS, "loss": LOSSES}
    kept = ("names", "swap", "trust", "norm")
    options = {"method": "heatmap", "loss": "wing", "width": 128, "sigma": 1.0}
    summed = frozenset({"loss_sum"})

    def __init__(
        self,
        names: Sequence[str],
        swap: Sequence[int] = (),
        trust: Sequence[float] = (),
        norm: str = "",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        sigma, width = self.how["sigma"], self.how["width"]
        if not sigma > 0 or width < 1:
            raise UsageError(f"the task pose needs a sigma above 0 and a width of at least 1, got {sigma} and {width}")
        self.names, self.method, self.sigma, self.trust = tuple(names), self.how["method"], sigma, tuple(trust)
        self.known_as = skeleton(self.names, swap)
        self.swap = self.known_as.swap
        self.norm = norm or ("eyes" if self.known_as.eyes else "box")

    @classmethod
    def check(cls, source: Source) -> None:
        column: Any = source.columns["points"]
        if not len(column.names):
            raise DataError(f"{source.name} has points without names; expected one name for each point")

    @classmethod
    def plan(cls, source: Source, rows: np.ndarray, settings: Mapping[str, Any]) -> Pose:
        column: Any = source.columns["points"]
        made = cls(column.names, column.swap, **cls.chosen(settings))
        made.notes = tuple(check_inside(source, rows, "points"))
        return made

    def head(self, trunk: Trunk) -> nn.Module:
        made = Heatmaps if self.method == "heatmap" else Coordinates
        return made(trunk.channels, len(self.names), self.how["width"])

    # ---- a batch

    def collate(self, values: dict[str, Any], warp: Warp | None, valid: Tensor) -> Targets:
        """`points` (B, P, 3) in pixels of the input, `truth` (B, P, 3) in those of the file."""
        assert warp is not None
        shape, mirrored = (len(valid), len(self.names), 3), warp.mirrored
        points, truth = torch.zeros(shape), torch.zeros(shape)
        for b, known in enumerate(values["points"]):
            if valid[b] and known is not None:
                moved = warp.points(b, known)
                points[b] = torch.from_numpy(moved[list(self.swap)] if mirrored[b] else moved)
                truth[b] = torch.from_numpy(known)
        return {"points": points, "truth": truth}

    def losses(self, outputs: Tensor, batch: Batch) -> Losses:
        each, known = self._each(outputs, batch)
        count = known.sum()
        return Losses({self.method: each.sum() / count.clamp(min=1)}, count)

    def _each(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss of each point (B, P), 0 where it is not known, and which are known."""
        points = batch.targets["points"]
        height, width = batch.x.shape[-2:]
        known = points[..., 2] > 0
        if self.method == "heatmap":
            rows, columns = outputs.shape[-2:]
            across = gaussian(points[..., 0] * (columns / width), columns, self.sigma)
            down = gaussian(points[..., 1] * (rows / height), rows, self.sigma)
            return divergence(outputs, across, down) * known, known
        longer = max(height, width)
        scale = torch.tensor([width, height], device=outputs.device) * (_SCALE / longer)
        error = outputs * scale - points[..., :2] * (_SCALE / longer)
        each = wing(error) if self.how["loss"] == "wing" else F.smooth_l1_loss(error, error * 0, reduction="none")
        return each.sum(-1) * known, known

    def unmirrored(self, outputs: Tensor) -> Tensor:
        if self.method == "heatmap":
            return outputs.flip(-1)[:, list(self.swap)]
        return torch.stack((1 - outputs[..., 0], outputs[..., 1]), -1)[:, list(self.swap)]

    def places(self, outputs: Tensor, size: tuple[int, int]) -> np.ndarray:
        """float32 (B, P, 3): x, y in pixels of an input of `size` (height, width), and confidence."""
        return self._points(outputs, size).float().cpu().numpy()

    def _points(self, outputs: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = size
        if self.method == "heatmap":
            rows, columns = outputs.shape[-2:]
            x, y, confidence = decoded(outputs.float(), self.sigma)
            x, y = x * (width / columns), y * (height / rows)
        else:
            x, y = outputs[..., 0] * width, outputs[..., 1] * height
            confidence = torch.tensor(self.trust or [1.0] * len(self.names), device=x.device).expand_as(x)
        return torch.stack((x, y, confidence), -1)

    # ---- figures

    def observe(self, outputs: Tensor, batch: Batch) -> dict[str, Any]:
        assert batch.warp is not None
        each, known = self._each(outputs, batch)
        truth = batch.targets["truth"].cpu().numpy()
        found = self.places(outputs, batch.warp.size)
        here = np.stack([batch.warp.points_back(b, one) for b, one in enumerate(found)])
        error = np.linalg.norm(here[..., :2] - truth[..., :2], axis=-1)
        error[truth[..., 2] == 0] = np.nan
        scales = np.array([self._scales(one) for one in truth], dtype=np.float32).reshape(-1, 4)
        good = batch.valid.cpu().numpy()
        return {
            "rows": batch.rows[batch.valid.cpu()],
            "error": error[good].astype(np.float32),  # in pixels of the file
            **{name: scales[good, k] for k, name in enumerate(("scale", "side", "area", "head"))},
            "loss_sum": torch.stack((each.sum(), known.sum())).double(),
        }

    def _scales(self, truth: np.ndarray) -> tuple[float, float, float, float]:
        """Of one picture's points (P, 3): the scale of errors, side and area of their box, the head's length."""

        def apart(pair: tuple[int, int] | None) -> float:
            if pair is None or not (truth[list(pair), 2] > 0).all():
                return math.nan
            return float(np.linalg.norm(truth[pair[0], :2] - truth[pair[1], :2])) or math.nan

        there = truth[truth[:, 2] > 0, :2]
        if not len(there):
            return math.nan, math.nan, math.nan, math.nan
        across, down = there.max(0) - there.min(0)
        diagonal = float(np.hypot(across, down)) or math.nan
        scale = apart(self.known_as.eyes) if self.norm == "eyes" else diagonal
        return scale, float(max(across, down)) or math.nan, float(across * down) or math.nan, apart(self.known_as.head)

    def figures(self, seen: Seen) -> dict[str, Any]:
        means = self._means(seen)
        n = int(np.isfinite(means).sum())
        if not n:
            return {"n": 0, "nme": math.nan, "loss": math.nan}
        judged = means[np.isfinite(means)]
        error, known = seen["error"], np.isfinite(seen["error"])
        by_side = (error / seen["side"][:, None])[known & np.isfinite(seen["side"])[:, None]]
        made = {
            "n": n,
            "nme": float(judged.mean()),
            "nme_median": float(np.median(judged)),
            "nme_standard_error": float(judged.std() / math.sqrt(n)),
            "failures_08": float((judged > 0.08).mean()),
            "failures_10": float((judged > 0.1).mean()),
            "pck_10": float((by_side < 0.1).mean()) if len(by_side) else math.nan,
            "pck_20": float((by_side < 0.2).mean()) if len(by_side) else math.nan,
            "loss": float(seen["loss_sum"][0] / max(1.0, seen["loss_sum"][1])),
            "per_point": {
                name: float(v) for name, v in zip(self.names, _mean(error / seen["scale"][:, None], 0), strict=True)
            },
        }
        if self.known_as.sigmas:  # of the points' box, which is smaller than the object that COCO's area is of
            spread = 2 * np.array(self.known_as.sigmas)[None] ** 2 * 4 * seen["area"][:, None].astype(np.float64)
            made["oks"] = float(np.nanmean(_mean(np.exp(-(error.astype(np.float64) ** 2) / spread), 1)))
        if np.isfinite(seen["head"]).any():
            by_head = error / seen["head"][:, None]
            made["pckh_50"] = float((by_head[np.isfinite(by_head)] < 0.5).mean())
        return made

    def _means(self, seen: Seen) -> np.ndarray:
        """The mean error of each picture over its scale, nan where either is not known."""
        if not len(seen.get("rows", ())):
            return np.zeros(0)
        return _mean(seen["error"], 1) / seen["scale"]

    def error(self, figures: Mapping[str, Any]) -> float:
        return float(figures.get("nme_standard_error", 0.0))

    def calibrate(self, seen: Seen) -> None:
        if self.method == "regression" and len(seen.get("rows", ())):
            error = seen["error"] / seen["side"][:, None]
            good = np.where(np.isfinite(error), error < 0.1, np.nan)
            self.trust = tuple(round(float(v), 4) for v in np.nan_to_num(_mean(good, 0)))

    def worst(self, seen: Seen) -> np.ndarray:
        means = self._means(seen)
        order = np.argsort(-np.nan_to_num(means, nan=-1.0), kind="stable")
        return seen["rows"][order[np.isfinite(means)[order]]] if len(means) else np.zeros(0, np.int64)

    def caption(self, seen: Seen, row: int) -> str:
        of = "eye distance" if self.norm == "eyes" else "diagonal"
        return f"error {self._means(seen)[seen['rows'] == row][0]:.1%} of the {of}; orange the answer, green the truth"

    def headline(self, figures: Mapping[str, Any]) -> str:
        if not figures["n"]:
            return "no picture with known points"
        return (
            f"mean point error {figures['nme']:.2%} of {NORMS[self.norm]} (n = {figures['n']:,}), "
            f"PCK@0.1 {figures['pck_10']:.1%}, above 10 %: {figures['failures_10']:.1%} of the pictures"
        )

    def sections(self, seen: Seen, figures: Mapping[str, Any]) -> list[Section]:
        means = self._means(seen)
        means = np.sort(means[np.isfinite(means)])
        if not len(means):
            return []
        curve = [(100 * float(v), (k + 1) / len(means)) for k, v in enumerate(means)]
        chart = line_chart({"pictures": curve}, x=f"mean error, percent of {NORMS[self.norm]}", y="share of pictures")
        error, side = seen["error"], seen["side"][:, None]
        near = _mean(np.where(np.isfinite(error), error / side < 0.1, np.nan), 0)
        per_point = np.array([figures["per_point"][name] for name in self.names])
        rows = [
            {
                "point": self.names[k],
                "mean error": "not known" if np.isnan(per_point[k]) else f"{per_point[k]:.2%}",
                "PCK@0.1": "" if np.isnan(near[k]) else f"{near[k]:.1%}",
                "n": f"{int(np.isfinite(error[:, k]).sum()):,}",
            }
            for k in np.argsort(-np.nan_to_num(per_point, nan=-1.0), kind="stable")
        ]
        said = paragraph(
            f"Errors are shares of {NORMS[self.norm]}. PCK@0.1: share of points nearer to the truth than a tenth of "
            "the longer side of the points' box."
        )
        return [
            Section("How many pictures have which error", chart),
            Section("Points", Html(said + table(rows, numeric=("mean error", "PCK@0.1", "n")))),
        ]

    # ---- answers

    def categories(self) -> list[dict[str, Any]]:
        """The one category of COCO that has these points."""
        lines = [[one + 1, other + 1] for one, other in self.known_as.lines]
        return [{"id": 1, "name": "object", "keypoints": list(self.names), "skeleton": lines}]

    def answers(self, outputs: Tensor, batch: Batch, keys: Sequence[str], top: int = 5) -> list[Answer]:
        assert batch.warp is not None
        places = self.places(outputs, batch.warp.size)
        return [
            Keypoints(key, self.names, batch.warp.points_back(b, places[b]), self.known_as.lines)
            for b, key in enumerate(keys)
        ]

    claims = "a point"

    def claim(self, outputs: Tensor, batch: Batch, what: str | None = None, other: Any = None) -> Claim:
        """The log-probability of the place that was found; of coordinates, what moves the point right and down."""
        found = outputs[0].detach()
        sure = self._points(outputs[:1].detach(), batch.x.shape[-2:])[0, :, 2]  # type: ignore[arg-type]
        k = which(what, self.names, "point", int(sure.argmax()))
        (answer,) = self.answers(outputs[:1].detach(), batch.part(slice(1)), [""])
        x, y = answer.points[k, :2].tolist()  # type: ignore[attr-defined]
        if self.method == "heatmap":
            cell = int(found[k].argmax())
            return Claim(self.names[k], lambda out: out[:, k].flatten(1).log_softmax(1)[:, cell], (x, y, x, y), True)
        # at the place itself a distance has no gradient; the sum of both coordinates has
        return Claim(f"{self.names[k]} (further right and down)", lambda out: out[:, k, :2].sum(1), (x, y, x, y))

    reading = "`points` (B, P, 3) are x, y and confidence of each point."

    def readings(self, outputs: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        return {"points": self._points(outputs, size)}


def gaussian(at: Tensor, cells: int, sigma: float) -> Tensor:
    """Places (...) on a line of cells, cell i covering [i, i + 1) -> a normalised Gaussian (..., cells) around each."""
    centres = torch.arange(cells, device=at.device) + 0.5
    return (-((centres - at[..., None]) ** 2) / (2 * sigma**2)).softmax(-1)


def divergence(logits: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Kullback-Leibler divergence (B, P) of softmax(logits (B, P, h, w)) from `down` (B, P, h) times `across`."""
    cross = logits.flatten(2).logsumexp(-1) - torch.einsum("bphw,bph,bpw->bp", logits, down, across)
    return cross + torch.xlogy(across, across).sum(-1) + torch.xlogy(down, down).sum(-1)


def decoded(logits: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Points of maps (B, P, h, w): x, y in cells (cell i covers [i, i + 1)) and confidence, each (B, P).

    The neighbourhood of the highest place, 3 `sigma` each way, holds so much probability: the confidence; and has a
    mean: the point is where a Gaussian must lie to have that mean there. So a point near the edge of the map, where
    half of its Gaussian is cut off, is not drawn inwards.
    """
    rows, columns = logits.shape[-2:]
    p = logits.flatten(2).softmax(-1)
    best = p.argmax(-1)
    reach = math.ceil(3 * sigma)
    near = [
        (torch.arange(cells, device=p.device) - place[..., None]).abs() <= reach
        for cells, place in ((rows, best // columns), (columns, best % columns))
    ]
    p = p.view_as(logits) * near[0][..., None] * near[1][..., None, :]
    x, y = _matched(p.sum(-2), near[1], sigma), _matched(p.sum(-1), near[0], sigma)
    return x, y, p.sum((-2, -1))


def _matched(p: Tensor, near: Tensor, sigma: float) -> Tensor:
    """Where Gaussians must lie to have the means of `p` (..., cells) among the cells `near`; Newton's method."""
    centres = torch.arange(p.shape[-1], device=p.device) + 0.5
    wanted = (p * centres).sum(-1) / p.sum(-1).clamp(min=1e-12)
    at = wanted
    for _ in range(5):
        cells = (-((centres - at[..., None]) ** 2) / (2 * sigma**2)).masked_fill(~near, -math.inf).softmax(-1)
        mean = (cells * centres).sum(-1)
        variance = (cells * (centres - mean[..., None]) ** 2).sum(-1)
        at = (at + (wanted - mean) * sigma**2 / variance.clamp(min=0.05 * sigma**2)).clamp(0.0, p.shape[-1])
    return at


def wing(error: Tensor, width: float = 10.0, epsilon: float = 2.0) -> Tensor:
    """w ln(1 + |e| / epsilon) up to w, |e| - C beyond (Feng et al. 2018, equation 5)."""
    size = error.abs()
    constant = width - width * math.log(1 + width / epsilon)
    return torch.where(size < width, width * torch.log1p(size / epsilon), size - constant)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean of what is not nan; nan where all is."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(known, values, 0).sum(axis) / known.sum(axis))
