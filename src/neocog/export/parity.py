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
from neocog.data.source import Source
from neocog.errors import DataError, NeocogError, NetError, UsageError
from neocog.export.given import CPU, Given, given_to
from neocog.export.portable import knows_strangers, named
from neocog.fit.evaluating import averaged, observed
from neocog.fit.job import Data, open_split
from neocog.fit.predicting import Run
from neocog.fit.run import read_tensors
from neocog.fit.show import Show
from neocog.records import counted
from neocog.tasks import Task
from neocog.tasks.task import Answer

CLOSE = 0.01  # by which numbers of equal answers may differ
DIFFERENCE = 1e-3  # of the largest output; how far the outputs of a float32 model may be off
LEVELS = 1.0  # of 255, on average, by which the pixels of the small script may be off; or of 32,767 a wave's samples


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
    """Pictures, or texts, sounds and clips, to compare on. `data` is the run's own, where they are still there."""

    source: Source
    rows: np.ndarray
    said: str
    given: Given
    data: Data | None = None
    named: bool = False  # the user named them

    def raw(self, most: int) -> Iterator[Any]:
        """Up to `most` of them, evenly spread, those that cannot be read left out."""
        for i in self.rows[np.linspace(0, len(self.rows) - 1, min(most, len(self.rows))).astype(int)]:
            try:
                data = self.source.read(int(i))
                self.given.read(data)
            except (DataError, OSError):
                continue
            yield data

    def split(self, name: str) -> np.ndarray:
        """Rows of a split of the run's own pictures; none where those are not there."""
        return np.zeros(0, np.int64) if self.data is None else self.data.rows(name)


def pictures_of(run: Run, wanted: Any = None) -> Pictures:
    """The pictures `wanted`, else the run's own test (or validation) pictures, else drawn ones; so of other inputs.

    Raises: UsageError: inputs of another kind than the run reads.
    """
    given = given_to(run)
    kind = f"{given.kind}s"
    if wanted is not None:
        source = open_source(wanted)
        if source.kind != given.kind:
            raise UsageError(f"{run.folder.name} reads {kind}; {source.name} has {source.kind}s")
        return Pictures(source, np.arange(len(source)), f"{kind} of {source.name}", given, named=True)
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
                    return Pictures(source, rows, f"test {kind} of {source.name}", given, data)
                said = f"validation {kind} of {data.source.name}"
                return Pictures(data.source, data.rows("val"), said, given, data)
        except NeocogError:
            pass  # moved or deleted since
    like = f"size={min(256, max(run.preprocess.input))}" if run.reader is None else f"kind={given.kind}"
    source = open_source(f"drawn:n=32,{like},seed=3")
    return Pictures(source, np.arange(32), f"drawn {kind} (those of the run are not there)", given)


Answered = tuple[list[dict[str, np.ndarray]], list[Answer]]


@torch.inference_mode()
def answered(run: Run, raw: Sequence[Any], prepare: Callable[[Any], np.ndarray] | None = None) -> Answered:
    """Outputs of each batch, and the first answer for each input.

    `prepare`: what makes arrays of inputs instead of neocog; places are neocog's all the same.
    """
    net, task, given = run.net(), run.task, given_to(run)
    detector = run.detector() if knows_strangers(run) else None
    outputs, answers = [], list[Answer]()
    for first in range(0, len(raw), given.at_once):
        some = raw[first : first + given.at_once]
        read = [given.read(one) for one in some]
        batch = given.batch(read, list(map(given.array, read)) if prepare is None else [prepare(one) for one in some])
        out, traits = averaged(net, task, batch, run.views["tta"], run.views["mirror"], features=detector is not None)
        outputs.append({name: v.float().numpy() for name, v in named(out).items()})
        keys = [str(first + k) for k in range(len(some))]
        found: list[Any] = task.answers(out, batch, keys, 1)
        if detector is not None and traits is not None:
            distances = detector.score(traits.numpy()).tolist()
            found = [a.judged(d, detector.threshold) for a, d in zip(found, distances, strict=True)]
        answers += found
    return outputs, answers


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
    """The share of inputs with equal answers (see `alike`)."""
    return float(np.mean([alike(a, b, close) for a, b in zip(ours[1], theirs[1], strict=True)]))


def compared(run: Run, exported: Run, raw: Sequence[Any], expected: Answered, bounds: Bounds) -> dict[str, Any]:
    """What parity.json says. Raises: NetError if the model disagrees with the run."""
    found, kind = answered(exported, raw), given_to(run).kind
    largest, share = difference(expected, found)
    same = equal(expected, found, bounds.close)
    if bounds.worse or same < bounds.equal or not share <= bounds.difference:
        advice = "; leave out --int8" if bounds.difference > DIFFERENCE else ""
        off = f"{same:.1%} equal answers on {counted(len(raw), kind)}, outputs differ by {share:.2g} of the largest"
        why = f"{bounds.worse or off}; nothing was written{advice}"
        raise NetError(f"the model would not answer as {run.folder.name} does: {why}")
    return {f"{kind}s": len(raw), "largest_difference": largest, "relative_difference": share, "equal_answers": same}


def compared_script(exported: Run, raw: Sequence[Any], prepare: Callable[[Any], np.ndarray]) -> dict[str, float]:
    """How well the small script prepares inputs. Raises: NetError if it does it otherwise than neocog."""
    given = given_to(exported)
    usual = answered(exported, raw)
    same = equal(usual, answered(exported, raw, prepare), 10 * CLOSE)
    off, most = [_off(prepare(one), given.array(given.read(one))) for one in raw], LEVELS * (given.kind != "text")
    if np.mean(off) > most or same < 0.85:
        raise NetError(
            f"the script would not prepare {given.kind}s as neocog does: {same:.1%} equal answers, values differ by "
            f"{np.mean(off):.2f} on average; nothing was written"
        )
    return {"equal_answers": same, "mean_level": float(np.mean(off)), "worst_level": float(np.max(off))}


def _off(one: np.ndarray, other: np.ndarray) -> float:
    if one.shape != other.shape:
        return math.inf
    return float(np.abs(one.astype(np.int64) - other).mean())


def figures(run: Run, pictures: Pictures) -> dict[str, Any]:
    """Figures of a run or an exported model on the test (else validation) inputs of the run; {} without labels."""
    data = pictures.data
    if data is None:
        return {}
    task = run.task
    columns = data.columns_of(pictures.source, pictures.rows)
    split = open_split(columns, task, pictures.source, pictures.rows, run.preprocess, CPU, Show(False), "pictures")
    seen, _ = observed(run.net(), task, split, CPU, **run.views)
    return task.figures(seen)
