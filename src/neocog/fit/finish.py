"""After the last step: figures of every split, calibration, strangers, examples, and the files of the run folder."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import neocog
from neocog.data import open_source
from neocog.fit.evaluating import observed, usual_batch
from neocog.fit.examples import write_examples, write_sheets
from neocog.fit.findings import judged, read_mirrored
from neocog.fit.inputs import split_of
from neocog.fit.job import Job, Split, open_split
from neocog.fit.parallel import same_everywhere
from neocog.fit.run import records, write_json, write_tensors
from neocog.fit.state import State
from neocog.records import counted
from neocog.tasks.measures import auroc
from neocog.tasks.task import Seen, saved
from neocog.tasks.unknown import FEWEST, STRANGE, Unknown, fit_unknown

BANK = 5000  # training pictures whose features describe what is known
STRANGERS = (1000, 200)  # pictures of each foreign collection at the most, small (up to 96 pixels wide) and large


def finish(job: Job, state: State) -> None:
    """Evaluate the trained net on validation and test pictures, and write weights, net.json and the rest."""
    plan, task, folder, log, show = job.plan, job.task, job.folder, job.log, job.show
    chosen = None
    if plan.by_steps:
        sign, steps = 1.0 if task.goal[1] == "max" else -1.0, job.batches.steps_per_epoch
        choice = state.choose(task.figure, sign)
        chosen = {"epoch": choice["step"] / steps, "of": state.step / steps, **choice}
        log.write("kept", **chosen)
        show.say(f"kept: epoch {chosen['epoch']:.4g} of {chosen['of']:.4g}, {chosen['why']}")
    net = state.final_net
    task.thorough()
    views: dict[str, Any] = {"tta": plan.recipe.tta, "mirror": plan.mirror}

    def look(
        split: Split, name: str, what: str, chosen: np.ndarray | None = None, **how: Any
    ) -> tuple[Seen, np.ndarray]:
        if job.kept is not None:  # the net has seen most of these pictures already
            return job.kept.observed(task, split, name, chosen)
        with show.bar(f"evaluating on {what}") as bar:
            how = {"features": job.strangers, "chosen": chosen, "world": job.world, "show": bar, **(how or views)}
            return observed(net, task, split, job.device, **how)

    validation = job.splits["val"]
    mirrored = None
    flips = plan.recipe.tta != "none" or plan.recipe.flip != "none"
    if task.classifies and job.kept is None and plan.mirror and len(validation) and flips:
        plain, _ = look(validation, "", "validation pictures as they are", tta="none")
        turned, _ = look(validation, "", "mirrored validation pictures", tta="mirror")
        right = [found["logits"].argmax(1) == found["labels"] for found in (plain, turned)]
        mirrored = read_mirrored(*right, trained=plan.augment.flip != "none")
        if mirrored.verdict != "good":
            views["mirror"] = plan.mirror_asked
            show.say(f"{mirrored.name}: {mirrored.evidence}. {mirrored.advice}")
    val, val_features = look(validation, "val", "validation pictures")
    # where pictures are few, cross-validation has answers for all but the test pictures, each unseen
    task.calibrate(val if job.cross is None else job.cross.seen)

    if "test" not in job.splits:
        job.splits["test"] = split_of(job, *job.data.testing(), "test pictures")
    testing = job.splits["test"]
    test, test_features = look(testing, "test", "test pictures")
    metrics: dict[str, Any] = {}
    for split, seen in (("test", test), ("val", val)):
        if figures := task.figures(seen):
            metrics |= {f"{split}_{k}": v for k, v in figures.items() if figures["n"]}
    if job.cross is not None:
        metrics |= job.cross.figures()
    log.write("metrics", metrics=metrics, seconds=time.monotonic() - job.begin)  # from pictures to figures
    unknown, facts = None, None
    if job.strangers:
        known = test_features if len(test_features) else val_features
        unknown, facts = _strangers(job, val_features, known, look)

    if not job.world.first:
        return
    for name, seen in (("val", val), ("test", test)):
        if len(seen.get("rows", ())):
            write_seen(folder / f"{name}.safetensors", seen, job.splits[name])
    if unknown is not None:
        arrays = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in unknown.save().items()}
        write_tensors(folder / "unknown.safetensors", arrays)
    write_tensors(folder / "weights.safetensors", dict(net.state_dict()))
    write_json(
        folder / "net.json",
        {
            "neocog": neocog.__version__,
            "task": saved(task),
            "net": plan.net,
            **({"taps": plan.taps} if plan.taps else {}),
            "classes": list(getattr(task, "classes", ())),
            "preprocess": asdict(plan.preprocess),
            **({"reader": plan.reader} if plan.reader else {}),
            **views,
            **({"kept": chosen} if chosen else {}),
            "metrics": metrics,
            "temperature": getattr(task, "temperature", 1.0),
            "unknown": facts,
        },
    )
    for name, seen in (("test", test), ("val", val)):
        if len(seen.get("rows", ())):
            write_examples(job, net, name, seen, views)
            write_sheets(job, net, job.splits[name])
            break
    problems = [*(p for split in job.splits.values() for p in split.problems), *job.data.source.problems]
    write_json(folder / "problems.json", [asdict(p) for p in problems])
    if problems:
        show.say(f"{counted(len(problems))} could not be read; see {folder / 'problems.json'}")
    if mirrored is not None:
        log.write("diagnosis", **mirrored.to_json())
    for finding in judged(records(folder, "epoch"), plan.as_dict()):
        log.write("diagnosis", **finding.to_json())


def write_seen(path: Path, seen: Seen, split: Split) -> None:
    """What the task keeps of a split; ``index`` says which pictures of the source they are."""
    arrays = {k: v for k, v in seen.items() if k != "rows"} | {"index": split.rows[seen["rows"]]}
    single = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in arrays.items()}
    write_tensors(path, {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in single.items()})


def _strangers(
    job: Job, held_out: np.ndarray, known: np.ndarray, look: Any
) -> tuple[Unknown | None, dict[str, Any] | None]:
    """Fit the detector of unknown pictures, and measure it on drawn pictures and handwritten digits."""
    if len(held_out) < FEWEST:
        said = f"there are {len(held_out)}" if len(held_out) else "there is none"
        job.show.say(f"no picture will be called unknown: that takes {FEWEST} validation pictures, and {said}")
        return None, None
    plan, training, task = job.plan, job.splits["train"], job.task
    chosen = np.linspace(0, len(training) - 1, min(BANK, len(training))).astype(np.int64)
    seen, features = look(training, "train", "known pictures", chosen, tta="none")
    unknown = fit_unknown(features, seen["labels"], len(task.classes), held_out=held_out, seed=plan.seed)  # type: ignore[attr-defined]
    facts = {**unknown.facts(), "auroc": {}, "caught": {}, "n": {"known": len(known)}}
    ordinary = unknown.score(known)
    most = _foreign(job, len(known))
    for name, words in STRANGE.items():
        if plan.data is not None and plan.data.startswith(name):
            continue
        source = open_source(f"drawn:n={most},size=64,seed=1" if name == "drawn" else name)
        rows = np.arange(min(most, len(source)))
        columns: dict[str, Any] = {"label": source.columns["label"].select(rows)}
        strange = open_split(columns, task, source, rows, plan.preprocess, job.device, job.show, "other pictures")
        scores = unknown.score(
            look(strange, name, f"{words}, to see whether they are called unknown", None, tta="none")[1]
        )
        both = np.concatenate((ordinary, scores))
        facts["auroc"][name] = auroc(both, np.arange(len(both)) >= len(ordinary))
        facts["caught"][name] = float((scores > unknown.threshold).mean())
        facts["n"][name] = len(scores)
    return unknown, facts


def _foreign(job: Job, known: int) -> int:
    """How many pictures of each foreign collection: four for each known one, as more would hardly sharpen figures."""
    return min(STRANGERS[job.plan.preprocess.size > 96], max(100, 4 * known))


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
        others = min(BANK, len(job.splits["train"])) + 2 * _foreign(job, tested or validating)
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
