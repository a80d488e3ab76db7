"""``--minutes``: how much of what a user waits is left for training, after preparation and before evaluation."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from neocog.fit.evaluating import observed, usual_batch
from neocog.fit.finish import BANK, STRANGERS
from neocog.fit.job import Job
from neocog.fit.parallel import same_everywhere
from neocog.records import counted

_LEAST = 0.25  # of the minutes that training gets in any case
_AROUND = 2.0  # seconds to load Python and PyTorch, and to write weights and report


def seconds_to_train(job: Job) -> tuple[float, str]:
    """Return the seconds of the plan's minutes that are left for training, and a sentence about them.

    Evaluation is estimated from a batch that is put through the net.
    """
    minutes, world = float(job.plan.minutes or 0.0), job.world
    after = _AROUND + evaluation_seconds(job)
    before, whole = time.monotonic() - job.begin, 60 * minutes
    left = max(whole - before - after, _LEAST * whole)
    before, after, left = same_everywhere((before, after, left), world)
    asked = counted(minutes, "minute")
    if before + left + after <= whole + 0.1:
        return left, f"training takes {left / 60:.2g} of {asked}; the rest is for reading pictures and for evaluation"
    return left, (
        f"{asked} is too short: preparation took {before:.0f} s, and evaluation will take about {after:.0f} s. "
        f"Training gets {left:.1f} s anyway, so everything together will take about {before + left + after:.0f} s"
    )


def evaluation_seconds(job: Job) -> float:
    """About how long it takes to evaluate the net of a job as `finish` does."""
    plan, validating = job.plan, len(job.splits["val"])
    plain = _seconds_each(job, tta="none")
    viewed = plain
    if plan.recipe.tta != "none":
        viewed = _seconds_each(job, tta=plan.recipe.tta, mirror=plan.mirror)
    tested = len(job.data.testing()[1])
    others = 0
    if job.strangers:
        others = min(BANK, len(job.splits["train"])) + 2 * STRANGERS[plan.preprocess.size > 96]
    # validation pictures are also looked at after the last step, and twice to see whether mirroring misleads
    return viewed * (validating + tested) + plain * (3 * validating + others)


def _seconds_each(job: Job, **views: Any) -> float:
    """Seconds for one picture; of two passes the faster one, if the first, which sets things up, was quick."""
    split = job.splits["val" if len(job.splits["val"]) else "train"]
    chosen = np.arange(min(len(split), usual_batch(split.pictures[0])))
    how: dict[str, Any] = {"features": job.strangers, "chosen": chosen, "world": job.world}
    best = float("inf")
    for _ in range(2):
        begin = time.monotonic()
        observed(job.net, job.task, split, job.device, **how, **views)
        best = min(best, time.monotonic() - begin)
        if same_everywhere(best, job.world) > 1.0:
            break
    return best / max(1, len(chosen))
