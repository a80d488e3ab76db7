"""Whether an exported model says what the run says, on real pictures; and which pictures those are."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from neocog.data import open_source
from neocog.data.decode import placed
from neocog.data.source import Source
from neocog.errors import DataError, NeocogError, NetError
from neocog.export.portable import named
from neocog.fit.device import Device
from neocog.fit.evaluating import averaged, observed
from neocog.fit.job import Data, open_split
from neocog.fit.predicting import Run, pictures_only
from neocog.fit.run import read_tensors
from neocog.fit.show import Show
from neocog.records import Preprocess, counted
from neocog.tasks import Task
from neocog.tasks.task import Answer

CPU = Device("cpu", channels_last=True)
MOST = {"crop": 64, "pad": 24, "tile": 4}  # pictures that are compared
CLOSE = 0.01  # by which numbers of equal answers may differ
DIFFERENCE = 1e-3  # of the largest output; how far the outputs of a float32 model may be off
LEVELS = 1.0  # of 255, on average, by which the pixels of the small script may be off


@dataclass(frozen=True)
class Bounds:
    """What a model must keep to, so that it is not refused.

    Attributes:
        equal: share of equal answers, at least. close: see `alike`. difference: see `DIFFERENCE`.
        worse: what is wrong with its figures, "" if nothing. said: its figures beside the run's, in words.
    """

    equal: float = 0.95
    close: float = CLOSE
    difference: float = DIFFERENCE
    worse: str = ""
    said: str = ""

    @staticmethod
    def of_int8(task: Task, before: Mapping[str, Any], after: Mapping[str, Any]) -> Bounds:
        """Those of 8 bits: the figures may fall by two standard errors or 2 %; without figures answers are counted."""
        name, better = task.goal
        if not before.get("n"):
            return Bounds(0.85, 0.1, math.inf)
        fall = (before[name] - after[name]) * (1 if better == "max" else -1)
        said = f"{task.figure} {before[name]:.4g} in float32, {after[name]:.4g} in int8 (n = {before['n']:,})"
        good = fall <= max(2 * task.error(before), 0.02 * abs(before[name])) or math.isnan(before[name])
        return Bounds(0.0, 0.1, math.inf, "" if good else said, said)


@dataclass
class Pictures:
    """Pictures to compare on. `data` is the run's own, where they are still there."""

    source: Source
    rows: np.ndarray
    said: str
    pre: Preprocess
    data: Data | None = None
    given: bool = False  # the user named them

    def raw(self, most: int) -> Iterator[bytes | np.ndarray]:
        """Up to `most` of them, evenly spread, those that cannot be read left out."""
        for i in self.rows[np.linspace(0, len(self.rows) - 1, min(most, len(self.rows))).astype(int)]:
            try:
                data = self.source.read(int(i))
                placed(data, self.pre)
            except (DataError, OSError):
                continue
            yield data

    def split(self, name: str) -> np.ndarray:
        """Rows of a split of the run's own pictures; none where those are not there."""
        return np.zeros(0, np.int64) if self.data is None else self.data.rows(name)


def pictures_of(run: Run, given: Any = None) -> Pictures:
    """The pictures `given`, else the run's own test (or validation) pictures, else drawn ones."""
    pre = run.preprocess
    if given is not None:
        source = open_source(given)
        return Pictures(source, np.arange(len(source)), f"pictures of {source.name}", pre, given=True)
    settings = run.settings.get("settings", {})
    if settings.get("data"):
        try:
            task = settings["task"]
            data = Data.open(settings["data"], settings["test"], True, settings["columns"], task["name"], task)
            codes = read_tensors(run.folder / "split.safetensors")[0]["codes"].numpy()
            if len(codes) == len(data.codes):
                data.codes = codes
                source, rows = data.testing()
                if len(rows):
                    return Pictures(source, rows, f"test pictures of {source.name}", pre, data)
                said = f"validation pictures of {data.source.name}"
                return Pictures(data.source, data.rows("val"), said, pre, data)
        except NeocogError:
            pass  # moved or deleted since
    side = min(256, max(pre.input))
    source = open_source(f"drawn:n=32,size={side},seed=3")
    return Pictures(source, np.arange(32), "drawn pictures (those of the run are not there)", pre)


Answered = tuple[list[dict[str, np.ndarray]], list[Answer]]


@torch.inference_mode()
def answered(run: Run, pictures: Sequence[Any], pixels: Callable[[Any], np.ndarray] | None = None) -> Answered:
    """Outputs of each batch, and the first answer for each picture.

    `pixels`: what prepares a picture instead of ``decode.placed``; places are those of `placed` all the same.
    """
    net, task, pre = run.net(), run.task, run.preprocess
    detector = run.detector() if task.knows_strangers else None
    outputs, answers, size = [], list[Answer](), 1 if pre.fit == "tile" else 8
    for first in range(0, len(pictures), size):
        made = []
        for one in pictures[first : first + size]:
            prepared, matrix, whole = placed(one, pre)
            made.append((prepared.transpose(1, 2, 0) if pixels is None else np.array(pixels(one)), matrix, whole))
        batch = pictures_only(made, pre, CPU)
        out, traits = averaged(net, task, batch, run.views["tta"], run.views["mirror"], features=detector is not None)
        outputs.append({name: v.float().numpy() for name, v in named(out).items()})
        keys = [str(first + k) for k in range(len(made))]
        found: list[Any] = task.answers(out, batch, keys, 1)
        if detector is not None and traits is not None:
            distances = detector.score(traits.numpy()).tolist()
            found = [a.judged(d, detector.threshold) for a, d in zip(found, distances, strict=True)]
        answers += found
    return outputs, answers


def prepared(picture: Any, pre: Preprocess) -> np.ndarray:
    """uint8 (H, W, C), as ``data.decode`` prepares it."""
    return placed(picture, pre)[0].transpose(1, 2, 0)


def alike(a: Answer, b: Answer, close: float) -> bool:
    """Whether two answers have the same words, and numbers that differ by at most `close` (of numbers above 1)."""
    one, other = ("\n".join(map(str, answer.row().values())) for answer in (a, b))
    if _NUMBER.split(one) != _NUMBER.split(other):
        return False
    x, y = (np.array(_NUMBER.findall(text), float) for text in (one, other))
    return bool((np.abs(x - y) <= close * np.maximum(1, np.abs(x))).all())


_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def difference(ours: Answered, theirs: Answered) -> tuple[float, float]:
    """The largest difference of any output, and the same over the largest value of that output."""
    largest, share = 0.0, 0.0
    for one, two in zip(ours[0], theirs[0], strict=True):
        for name, value in one.items():
            off = float(np.abs(value - two[name]).max(initial=0))
            largest, share = max(largest, off), max(share, off / max(1.0, float(np.abs(value).max(initial=0))))
    return largest, share


def equal(ours: Answered, theirs: Answered, close: float) -> float:
    """The share of pictures with equal answers (see `alike`)."""
    return float(np.mean([alike(a, b, close) for a, b in zip(ours[1], theirs[1], strict=True)]))


def compared(run: Run, exported: Run, raw: Sequence[Any], expected: Answered, bounds: Bounds) -> dict[str, Any]:
    """What parity.json says. Raises: NetError if the model disagrees with the run."""
    found = answered(exported, raw)
    largest, share = difference(expected, found)
    same = equal(expected, found, bounds.close)
    if bounds.worse or same < bounds.equal or not share <= bounds.difference:
        advice = "; leave out --int8" if bounds.difference > DIFFERENCE else ""
        off = f"{same:.1%} equal answers on {counted(len(raw))}, outputs differ by {share:.2g} of the largest"
        why = f"{bounds.worse or off}; nothing was written{advice}"
        raise NetError(f"the model would not answer as {run.folder.name} does: {why}")
    return {"pictures": len(raw), "largest_difference": largest, "relative_difference": share, "equal_answers": same}


def compared_script(exported: Run, raw: Sequence[Any], prepare: Callable[[Any], np.ndarray]) -> dict[str, float]:
    """How well the small script prepares pictures. Raises: NetError if it does it otherwise than neocog."""
    usual = answered(exported, raw)
    same = equal(usual, answered(exported, raw, prepare), 10 * CLOSE)
    off = [np.abs(prepare(one).astype(np.int16) - prepared(one, exported.preprocess)).mean() for one in raw]
    if np.mean(off) > LEVELS or same < 0.85:
        raise NetError(
            f"the script would not prepare pictures as neocog does: {same:.1%} equal answers, pixels differ by "
            f"{np.mean(off):.2f} of 255 on average; nothing was written"
        )
    return {"equal_answers": same, "mean_level": float(np.mean(off)), "worst_level": float(np.max(off))}


def figures(run: Run, pictures: Pictures) -> dict[str, Any]:
    """Figures of a run or an exported model on the test (else validation) pictures of the run; {} without labels."""
    data = pictures.data
    if data is None:
        return {}
    task = run.task
    columns = data.columns_of(pictures.source, pictures.rows)
    split = open_split(columns, task, pictures.source, pictures.rows, run.preprocess, CPU, Show(False), "pictures")
    seen, _ = observed(run.net(), task, split, CPU, **run.views)
    return task.figures(seen)
