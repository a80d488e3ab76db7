"""``--minutes``: how much of what a user waits is left for training, after preparation and before evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from neocog.data.batches import Streamed
from neocog.fit.device import Device
from neocog.fit.finish import BANK, STRANGERS
from neocog.fit.inputs import Data, Inputs
from neocog.fit.outputs import outputs_of, usual_batch
from neocog.fit.parallel import World, same_everywhere
from neocog.records import counted

_LEAST = 0.25  # of the minutes that training gets in any case
_AROUND = 2.0  # seconds to load Python and PyTorch, and to write weights and report


def seconds_to_train(
    made: Inputs, parts: Data, device: Device, world: World, minutes: float, prepared: Callable[[], float]
) -> tuple[float, str]:
    """Return the seconds of `minutes` that are left for training, and a sentence about them.

    `prepared()`: seconds since the beginning. Evaluation is estimated from a batch that is put through the net.
    """
    after = _AROUND + evaluation_seconds(made, parts, device, world)
    before, whole = prepared(), 60 * minutes
    left = max(whole - before - after, _LEAST * whole)
    before, after, left = same_everywhere((before, after, left), world)
    asked = counted(minutes, "minute")
    if before + left + after <= whole + 0.1:
        return left, f"training takes {left / 60:.2g} of {asked}; the rest is for reading pictures and for evaluation"
    return left, (
        f"{asked} is too short: preparation took {before:.0f} s, and evaluation will take about {after:.0f} s. "
        f"Training gets {left:.1f} s all the same, so the whole will take about {before + left + after:.0f} s"
    )


def evaluation_seconds(made: Inputs, parts: Data, device: Device, world: World) -> float:
    """About how long it takes to evaluate the net of `made` as `finish` does."""
    plan, validating = made.plan, len(made.validation)
    rows = made.val_rows if validating else made.train_rows
    sample = Streamed(parts.source, rows[: usual_batch(made.training)], plan.preprocess)
    plain = _seconds_each(made.net, sample, device, world, tta="none")
    viewed = plain
    if plan.recipe.tta != "none":
        viewed = _seconds_each(made.net, sample, device, world, tta=plan.recipe.tta, mirror=plan.mirror)
    tested = len(parts.labelled_test()[1])
    strange = 2 * STRANGERS[plan.preprocess.size > 96]
    known = min(BANK, len(made.training))
    # validation pictures are also looked at after the last step, and twice to see whether mirroring misleads
    return viewed * (validating + tested) + plain * (3 * validating + known + strange)


def _seconds_each(net: Any, pictures: Streamed, device: Device, world: World, **views: Any) -> float:
    """Seconds for one picture; of two passes the faster one, if the first, which sets things up, was quick."""
    best = float("inf")
    for _ in range(2):
        begin = time.monotonic()
        outputs_of(net, pictures, device, features=True, world=world, **views)
        best = min(best, time.monotonic() - begin)
        if same_everywhere(best, world) > 1.0:
            break
    return best / max(1, len(pictures))
