"""What is heard when in a long recording: a run on recordings, in a window that slides over it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neocog.data.batches import Batch
from neocog.data.read_sound import SoundReader
from neocog.errors import DataError, UsageError
from neocog.fit.evaluating import floated
from neocog.fit.predicting import Run, here
from neocog.tasks.answer import Answer

_BATCH = 256  # windows
_QUIET = 30.0  # decibels under the loudest at which the middle of a window counts as silence
_LEAST = 3  # windows in a row that say the same


@dataclass(frozen=True, slots=True)
class Spot(Answer):
    """What was heard from `begin` to `end`, in seconds; without a label nothing was heard in the recording."""

    label: str | None = None
    begin: float = 0.0
    end: float = 0.0
    probability: float = 0.0

    def row(self) -> dict[str, Any]:
        return {"begin": round(self.begin, 3), "end": round(self.end, 3), "label": self.label,
                "probability": round(self.probability, 4)}  # fmt: skip

    def text(self) -> str:
        if self.label is None:
            return "nothing found"
        return f"{self.begin:8.2f} s to {self.end:8.2f} s  {self.label}  {self.probability:.1%}"

    def to_json(self) -> dict[str, Any]:
        return self.row()


def spot(
    run: Run | str | Path,
    recordings: Iterable[Any],
    *,
    step: float = 0.04,
    smooth: int = 5,
    least: float = 0.5,
    device: str | None = None,
) -> Iterator[Spot]:
    """What is heard when in each recording, in order of time.

    A window as long as what the net hears slides over the recording. Its probabilities are averaged over `smooth`
    windows; where the middle of a window is silent, nothing is heard. What the same label has for three windows or more
    is one spot, from the first of their middles to the last; of spots nearer than half a window to each other the more
    probable one stays.

    Args:
        run: trained on recordings, for the task label.
        recordings: files, folders, bytes, or waves float (L,) at the rate of the net.
        step: seconds from one window to the next.
        least: probability from which something counts as heard.

    Raises: UsageError: the run is of another kind.
    """
    run = run if isinstance(run, Run) else Run(run)
    reader = run.reader
    if not isinstance(reader, SoundReader) or not run.task.classifies:
        raise UsageError(f"{run.folder} was not trained to tell recordings apart; windows are for such runs")
    if not 0 < least <= 1 or step <= 0 or smooth < 1:
        raise UsageError(
            f"expected least in (0, 1], step above 0, smooth from 1 on; got least={least}, step={step}, smooth={smooth}"
        )
    where = here(device)
    net = run.net().to(where.torch).eval()
    for key, raw in reader.inputs(recordings):
        try:
            wave = reader.wave(raw)
        except (DataError, OSError) as error:
            yield Spot(key, problem=str(error))
            continue
        hop = max(1, round(step * reader.spectrum.rate))
        found = _chances(run, net, reader, wave, hop, where)
        found = np.stack([np.convolve(one, np.ones(smooth) / smooth, "same") for one in found.T], 1)
        found[~_loud(wave, len(found), hop, reader.spectrum.rate)] = 0.0
        yield from _spots(key, found, run.classes, hop / reader.spectrum.rate, reader, least) or [Spot(key)]


def _chances(run: Run, net: Any, reader: SoundReader, wave: np.ndarray, hop: int, where: Any) -> np.ndarray:
    """Probabilities (W, K) of windows whose middles are at 0, `hop`, 2 `hop`, ..."""
    half = reader.samples // 2
    padded = np.pad(wave, (half, reader.samples - half))
    starts = range(0, len(wave), hop)
    place = {name: k for k, name in enumerate(run.classes)}
    made = np.zeros((len(starts), len(place)))
    plain = SoundReader.from_json({**reader.to_json(), "trim": 0.0})
    for first in range(0, len(starts), _BATCH):
        some = starts[first : first + _BATCH]
        windows = [plain.encode(padded[s : s + reader.samples]) for s in some]
        with torch.inference_mode(), where.autocast():
            x = plain.finish(plain.collate(windows).to(where.torch))
            batch = Batch((x,), {}, torch.arange(len(x)), torch.ones(len(x), dtype=torch.bool))
            outputs = floated(run.task.run(net, batch))
        answers: list[Any] = run.task.answers(outputs, batch, [""] * len(x), len(place))
        for i, answer in enumerate(answers):
            for name, chance in answer.top:
                made[first + i, place[name]] = chance
    return made


def _loud(wave: np.ndarray, count: int, hop: int, rate: int) -> np.ndarray:
    """bool (count,): where the tenth of a second around a window's middle is not silent."""
    half = rate // 20
    around = np.pad(wave.astype(np.float64) ** 2, (half, half + hop))
    sums = np.concatenate(([0.0], np.cumsum(around)))
    at = np.arange(count) * hop
    power = sums[np.minimum(at + 2 * half, len(around))] - sums[at]
    return power > power.max(initial=0.0) * 10 ** (-_QUIET / 10)


def _spots(
    key: str, chances: np.ndarray, classes: tuple[str, ...], step: float, reader: SoundReader, least: float
) -> list[Spot]:
    best = np.where(chances.max(1) >= least, chances.argmax(1), -1)
    found, at = [], 0
    for label, some in groupby(best.tolist()):
        count = len(list(some))
        if label >= 0 and count >= _LEAST:
            chance = float(chances[at : at + count, label].max())
            found.append(Spot(key, classes[label], at * step, (at + count - 1) * step, chance))
        at += count
    kept: list[Spot] = []
    near = reader.samples / reader.spectrum.rate / 2
    for one in sorted(found, key=lambda spot: -spot.probability * (spot.end - spot.begin) ** 0.5):
        if all(abs((one.begin + one.end) - (other.begin + other.end)) / 2 >= near for other in kept):
            kept.append(one)
    return sorted(kept, key=lambda spot: spot.begin)
