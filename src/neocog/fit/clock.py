"""How far a training is: counted in steps, or in time."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from neocog.fit.parallel import World, same_everywhere


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
    def for_epochs(epochs: float, steps_per_epoch: int, at_least: int = 0) -> Clock:
        """A clock of `epochs` epochs, or of more if these have fewer than `at_least` steps."""
        return Clock(max(math.ceil(epochs * steps_per_epoch), at_least, 1))

    @property
    def elapsed(self) -> float:
        """Seconds of training, over all sittings."""
        return self.before + time.monotonic() - self._begin

    def progress(self, step: int) -> float:
        """The share of the training that is over before `step`; the same in every process."""
        if self.seconds is None:
            return min(1.0, step / self.steps)
        return min(1.0, float(same_everywhere(self.elapsed, self.world)) / self.seconds)
