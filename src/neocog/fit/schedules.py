"""How far a training is, and what follows from it: factors on the peak learning rate, and the size of pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from neocog.errors import UsageError, closest
from neocog.fit.parallel import World, same_everywhere

Schedule = Callable[[float], float]


def constant(progress: float) -> float:
    """Always 1: the learning rate is changed by something else (``stall``), or not at all."""
    return 1.0


def linear(progress: float) -> float:
    """From 1 straight down to 0."""
    return 1.0 - progress


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter 2017, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def triangle(progress: float, peak: float = 0.2, start: float = 0.1) -> float:
    """From `start` up to 1 at progress `peak`, then straight down to 0 (one cycle, Smith 2018)."""
    if progress < peak:
        return start + (1.0 - start) * progress / peak
    return (1.0 - progress) / (1.0 - peak)


def steps(progress: float) -> float:
    """Divided by 10 at 1/2 and at 3/4 of the training (He et al. 2015, section 4.2: 32k and 48k of 64k steps)."""
    return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01


SCHEDULES: dict[str, Schedule] = {one.__name__: one for one in (constant, linear, cosine, triangle, steps)}


def schedule(name: str) -> Schedule:
    """Return the schedule called `name`.

    Raises:
        UsageError: no schedule has that name.
    """
    if name not in SCHEDULES:
        raise UsageError(f"unknown schedule {name!r}{closest(name, SCHEDULES)}; expected one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name]


def warmed(factor: float, progress: float, warmup: float) -> float:
    """Apply a linear warm-up over the first `warmup` share of the training to a schedule's factor."""
    return factor * min(1.0, (progress + 1e-3) / warmup) if warmup > 0 else factor


def side(whole: int, small: float, until: float, progress: float) -> int:
    """Side in pixels of the pictures shown at `progress`, out of `whole`: it grows from ``small * whole`` in eighths.

    Small pictures cost less arithmetic (about a half at 3/4), and a net that is far from done learns from them, too
    (progressive resizing: Howard 2018, DAWNBench). From progress `until` on pictures are whole.
    """
    if small >= 1.0 or progress >= until:
        return whole
    eighths = math.floor(8 * (small + (1.0 - small) * progress / until) + 1e-9)
    return max(1, round(whole * eighths / 8))


@dataclass
class Clock:
    """Progress in [0, 1] of a training of `steps` steps, or of `seconds` (then `steps` is ignored).

    `before` is the time, in seconds, that earlier sittings of the same training took.
    """

    steps: int
    seconds: float | None = None
    before: float = 0.0
    world: World = field(default_factory=World)
    _begin: float = field(default_factory=time.monotonic)

    @staticmethod
    def for_epochs(epochs: float, steps_per_epoch: int, at_least: int = 0, world: World | None = None) -> Clock:
        """A clock of `epochs` epochs, or of more if these have fewer than `at_least` steps."""
        return Clock(max(math.ceil(epochs * steps_per_epoch), at_least, 1), world=world or World())

    @property
    def elapsed(self) -> float:
        """Seconds of training, over all sittings."""
        return self.before + time.monotonic() - self._begin

    def progress(self, step: int) -> float:
        """The share of the training that is over before `step`; the same in every process."""
        if self.seconds is None:
            return min(1.0, step / self.steps)
        return min(1.0, float(same_everywhere(self.elapsed, self.world)) / self.seconds)
