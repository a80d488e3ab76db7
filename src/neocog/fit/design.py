"""Architecture search: ``neocog design DATA --max-macs 20M`` finds a net for a budget, by short trainings.

A candidate is one of three known designs, or drawn from `SPACE` (by optuna's TPE: Bergstra et al. 2011). Its widths are
brought to the budget by exact counting, and what the advice for nets objects to is not built. The others are judged by
their figure on the validation pictures after a short training, and of three that were trained as long, the best is
trained on, three times as long: asynchronous successive halving (Li et al. 2020, arXiv:1810.05934). Test pictures are
never looked at.

Everything stands in one folder: ``search.journal`` (optuna's), a folder with checkpoint and log for each candidate, and
what was found. Any number of processes may work on it; each may be killed, and the same command continues.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import neocog
from neocog import anatomy
from neocog.data.reader import PICTURE
from neocog.errors import MissingExtra, RunError, UsageError
from neocog.files import locked, write_atomically
from neocog.fit.candidates import (
    KNOWN,
    REFUSED,
    described,
    design_of,
    design_page,
    fitted,
    known_choice,
    space,
    traced_as,
)
from neocog.fit.inputs import build, prepare
from neocog.fit.job import Job, Wishes
from neocog.fit.loop import Tally, fit, gradients
from neocog.fit.opening import planned
from neocog.fit.run import Log, free_folder, write_json
from neocog.fit.schedules import Clock
from neocog.fit.show import interruptible
from neocog.fit.state import CHECKPOINT, State
from neocog.fit.training import validated
from neocog.fit.watching import held
from neocog.nets.designed import DEFAULT

RUNGS, ETA = 3, 3  # trainings of 1, 3 and 9 units; one of three goes on
_CANDIDATES = 27  # that the time is to suffice for
_LEAST_STEPS = 10
_DRAWS = 100  # candidates that may be refused in turn


def design(
    data: Any,
    *,
    max_macs: float | None = None,
    max_params: float | None = None,
    minutes: float = 10.0,
    trainings: int | None = None,
    search: str = "tpe",
    rungs: int = RUNGS,
    task: str | None = None,
    recipe: str | None = None,
    set: Mapping[str, Any] | None = None,
    size: int | None = None,
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    device: str | None = None,
    precision: str | None = None,
    offline: bool = False,
    out: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Search for the net that learns most from these pictures within a budget, and write it as a net file.

    Args:
        max_macs, max_params: the budget: multiply-adds for one picture, and parameters; at least one of them.
        minutes: how long this call searches; `trainings`: how many short trainings it does at most.
        search: "tpe", which begins with known designs and learns from the candidates judged so far, or "random".
        rungs: how often the better ones are trained on; 1: all are trained equally long.
        task, recipe, set, size, columns, seed, device, precision, offline: as for `train`; the trainings' settings.
        out: the folder; one that holds a search is continued. None makes a new one under ``runs/``.

    Returns:
        ``{"net" (the file), "page", "goal", "value", "macs", "params", "candidates": [{"candidate", "steps", "value",
        "macs", "params", "net", "design"}] (the best first), "refused": {reason: count}, "unit" (steps of the shortest
        training)}``, also written as design.json.

    Raises:
        UsageError: no budget, one that nothing fits, or a folder of another search. MissingExtra: optuna is missing.
    """
    begin = time.monotonic()
    limits = {"macs": max_macs or math.inf, "params": max_params or math.inf}
    if min(limits.values()) == math.inf or min(limits.values()) <= 0:
        raise UsageError("a search needs a budget above 0: --max-macs 20M, --max-params 1M, or both")
    if search not in ("tpe", "random") or rungs < 1 or not minutes > 0:
        raise UsageError(f"expected --search tpe or random, and --minutes above 0; got {search!r}, {minutes:g}")
    optuna = _optuna()
    folder = Path(out) if out else free_folder("design")
    wishes = Wishes(task=task, net="designed", recipe=recipe, fields=dict(set or {}), seed=seed, size=size,
                    offline=offline, start="scratch")  # fmt: skip
    where: dict[str, Any] = {"columns": columns, "device": device, "precision": precision, "out": folder}
    job = planned(wishes, data, progress=progress, **where)
    if job.data.source.kind != PICTURE:
        raise UsageError(f"nets are designed for pictures, and {job.data.source.name} holds {job.data.source.kind}s")
    chosen = job.device
    prepare(job)
    job.device = chosen  # each candidate's gradients are looked at anew
    made = _Search(optuna, job, folder, limits, search, rungs)
    made.open(minutes)
    try:
        with interruptible() as asked:
            for _ in itertools.count() if trainings is None else range(trainings):
                if not made.step(begin + 60 * minutes, asked):
                    break
    except KeyboardInterrupt as stop:
        stop.run = folder  # type: ignore[attr-defined]  # the command line says how to go on
        if made.judged():
            made.report()
        raise
    return made.report()


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise MissingExtra("searching for nets needs the package optuna; type: pip install 'neocog[design]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process of a search at a time, so that no two take up the same candidate."""
    with open(path, "ab") as file:
        locked(file.fileno(), wait=True)
        yield


class _Search:
    """A search under way. Of optuna it takes the sampler and the storage; a trial is one training of one candidate."""

    def __init__(
        self, optuna: Any, job: Job, folder: Path, limits: Mapping[str, float], sampler: str, rungs: int
    ) -> None:
        self.optuna, self.job, self.folder, self.limits = optuna, job, folder, limits
        self.sampler, self.rungs = sampler, rungs
        self.shape = (job.plan.preprocess.channels, *job.plan.preprocess.input)
        self.space = space(min(self.shape[1:]))
        self.seconds = 0.0  # that a step of a training takes
        self.unit = 0

    def open(self, minutes: float) -> None:
        """Begin a search in the folder, or go on with the one that is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        storages = self.optuna.storages
        file = str(self.folder / "search.journal")
        lock = storages.journal.JournalFileOpenLock(file)
        job = self.job
        about = {
            "pictures": job.data.fingerprint(), "task": job.plan.task["name"], "recipe": job.plan.recipe.as_dict(),
            "input": list(self.shape), "seed": job.plan.seed, "search": self.sampler, "rungs": self.rungs,
            "limits": {name: most for name, most in self.limits.items() if most < math.inf},
        }  # fmt: skip
        with _alone(self.folder / "lock"):
            storage = storages.JournalStorage(storages.journal.JournalFileBackend(file, lock_obj=lock))
            self.study = self.optuna.create_study(
                storage=storage, study_name="design", direction="maximize", load_if_exists=True
            )
            known = self.study.user_attrs
            if "about" not in known:
                self._measure(60 * minutes)
                self.study.set_user_attr("unit", self.unit)
                self.study.set_user_attr("about", about)
            elif wrong := [name for name, value in about.items() if known["about"][name] != value]:
                raise UsageError(
                    f"{self.folder} holds a search with other {' and '.join(wrong)}; choose another --out, or repeat "
                    "the command that began it"
                )
            else:
                self.unit = known["unit"]

    def _measure(self, seconds: float) -> None:
        """Choose the shortest training, by how long steps take."""
        found = fitted(DEFAULT, self._spec(), self.shape, self.limits)
        if found is None:
            raise UsageError("nothing fits this budget; a larger --max-macs or --max-params is needed")
        made = self._built(found[0], self.folder)
        stream, net = made.batches.stream(0), made.net.train()
        for _ in range(3):  # the first one sets things up
            began = time.monotonic()
            batch = next(stream)
            gradients(net, batch, made.task, made.device, made.plan.recipe.chunk, Tally(made.device.torch))
            self.seconds = time.monotonic() - began
        stream.close()  # type: ignore[attr-defined]
        each = 1 + (1 - 1 / ETA) * (self.rungs - 1)  # units that a candidate takes on average
        whole = max(made.plan.recipe.epochs * made.batches.steps_per_epoch, made.plan.recipe.min_steps)
        steps = min(0.8 * seconds / self.seconds / (_CANDIDATES * each), whole / ETA ** (self.rungs - 1))
        self.unit = max(_LEAST_STEPS, int(steps))

    def _spec(self) -> dict[str, Any]:
        return {k: v for k, v in self.job.plan.net.items() if k != "design"}

    def _built(self, design: Mapping[str, Any], folder: Path) -> Job:
        """The training of one candidate."""
        plan = dataclasses.replace(self.job.plan, net={**self._spec(), "design": design})
        made = dataclasses.replace(self.job, plan=plan, folder=folder)
        build(made)
        return made

    def steps(self, rung: int) -> int:
        """How long a candidate is trained in all."""
        return self.unit * ETA**rung

    def _costs(self, rung: int) -> float:
        """About how many seconds a training takes."""
        return self.seconds * (self.steps(rung) - (self.steps(rung - 1) if rung else 0))

    def step(self, end: float, asked: Callable[[], bool]) -> bool:
        """Judge one candidate; False if the time is over."""
        with contextlib.ExitStack() as claim:
            with _alone(self.folder / "lock"):
                trial = self._next(end - time.monotonic())
                if trial is None:
                    return False
                number, told = trial
                place = self._place(told)
                place.mkdir(parents=True, exist_ok=True)
                locked(claim.enter_context(open(place / "lock", "ab")).fileno())
            job, steps = self._built(told["design"], place), self.steps(told["rung"])
            state = State(job.net, job.plan.recipe, job.plan.batch, job.device.dtype)
            if (place / CHECKPOINT).exists():
                state.load(place)
            first, began = state.step, time.monotonic()
            job.log = Log(place, keep=state.log_size)
            try:
                fit(job, state, Clock(steps), validate=partial(validated, job), interrupted=asked)
                value = state.last.get("figure", math.nan)
            except RunError:
                value = math.nan  # its loss became no number
            finally:
                job.log.close()
            if state.step > first:
                self.seconds = (time.monotonic() - began) / (state.step - first)
            failed = self.optuna.trial.TrialState.FAIL if math.isnan(value) else None
            self.study.tell(number, None if failed else value, state=failed)
        if not failed:
            best = max(one.value for one in self.judged())
            self.job.show.say(
                f"candidate {told['candidate']}: {told['macs'] / 1e6:.1f}M MACs, {told['params']:,} parameters; after "
                f"{steps:,} steps {self._shown(value)} (best {self._shown(best)}); {described(told['design'])}"
            )
        return True

    def _shown(self, value: float) -> str:
        return f"{self.job.task.figure} {self.job.task.shown(abs(value))}"

    def _place(self, told: Mapping[str, Any]) -> Path:
        return self.folder / "candidates" / f"{told['candidate']:04d}"

    def judged(self) -> list[Any]:
        """The trainings that came to an end."""
        return [one for one in self.study.get_trials(deepcopy=False) if one.state.name == "COMPLETE"]

    def _next(self, left: float) -> tuple[int, dict[str, Any]] | None:
        """The trial to work on, and what it is about: one that was left, a promotion, or a new candidate."""
        every = self.study.get_trials(deepcopy=False)
        for one in every:
            if one.state.name == "RUNNING":
                told = one.user_attrs.get("told")
                if told is None:  # its process was killed while it was drawn
                    self.study.tell(one.number, state=self.optuna.trial.TrialState.FAIL)
                elif not held(self._place(told) / "lock"):
                    return (one.number, told) if self._costs(told["rung"]) < left else None
        judged, top = self.judged(), self.rungs - 1
        for rung in reversed(range(top)):
            here = sorted((t for t in judged if _rung(t) == rung), key=lambda t: -t.value)
            begun = {t.user_attrs["told"]["candidate"] for t in every if _rung(t) > rung}
            for one in here[: len(here) // ETA]:
                told = {**one.user_attrs["told"], "rung": rung + 1}
                if told["candidate"] not in begun and self._costs(rung + 1) < left:
                    self.study.enqueue_trial(one.params, user_attrs={"told": told})
                    break
        if any(one.state.name == "WAITING" for one in self.study.get_trials(deepcopy=False)):
            trial = self.study.ask()
            return trial.number, trial.user_attrs["told"]
        return self._drawn(every) if self._costs(0) < left else None

    def _drawn(self, every: Sequence[Any]) -> tuple[int, dict[str, Any]] | None:
        """A new candidate that keeps the budget and the rules; None: the others are known already.

        Raises: UsageError: there is none at all.
        """
        kinds, samplers = self.optuna.distributions, self.optuna.samplers
        of = {
            # values in order are drawn by their place, so that neighbours are known to be alike
            name: kinds.CategoricalDistribution(values) if isinstance(values[0], str)
            else kinds.IntDistribution(0, len(values) - 1)
            for name, values in self.space.items()
        }  # fmt: skip
        known = [one.user_attrs["told"]["design"] for one in every if "told" in one.user_attrs]
        for number in range(len(every), len(every) + _DRAWS):
            seed = int(np.random.default_rng((self.job.plan.seed, number)).integers(2**31))
            self.study.sampler = (samplers.TPESampler if self.sampler == "tpe" else samplers.RandomSampler)(seed=seed)
            if self.sampler == "tpe" and number < len(KNOWN):
                begin = known_choice(self.space, number)
                self.study.enqueue_trial(
                    {k: v if isinstance(v, str) else self.space[k].index(v) for k, v in begin.items()}
                )
            trial = self.study.ask(of)
            chosen = {k: v if isinstance(v, str) else self.space[k][v] for k, v in trial.params.items()}
            found = fitted(design_of(chosen), self._spec(), self.shape, self.limits)
            if found is None:
                against = "budget"
            elif found[0] in known:
                against = "drawn before"
            else:
                against = next((one.rule for one in anatomy.advise(found[1], rules=REFUSED)), "")
            if found is not None and not against:
                told = {"candidate": trial.number, "rung": 0, "macs": found[1].macs, "params": found[1].params,
                        "design": found[0]}  # fmt: skip
                trial.set_user_attr("told", told)
                return trial.number, told
            trial.set_user_attr("refused", against)
            self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
        if known:  # all that keeps the budget is known by now
            return None
        raise UsageError(
            f"of {_DRAWS} nets in turn none keeps the budget and the rules {', '.join(REFUSED)}; a larger --max-macs "
            "or --max-params leaves more to choose from"
        )

    def report(self) -> dict[str, Any]:
        """Write what was found: the net file, its drawing, the table and the page."""
        job, task = self.job, self.job.task
        sign = 1 if task.goal[1] == "max" else -1
        of: dict[int, dict[str, Any]] = {}
        for one in sorted(self.judged(), key=_rung):
            told, value = one.user_attrs["told"], sign * one.value
            row = of.setdefault(told["candidate"], {**told, "net": described(told["design"]), "curve": []})
            row["curve"].append([self.steps(told["rung"]), value])
            row |= {"rung": told["rung"], "steps": self.steps(told["rung"]), "value": value}
        rows = sorted(of.values(), key=lambda row: (-row["rung"], -sign * row["value"]))
        if not rows:
            raise UsageError(f"no candidate was judged in this time; more --minutes with --out {self.folder} goes on")
        spec = {**self._spec(), "input_size": self.shape[-1], "design": rows[0]["design"]}
        traced = traced_as(spec["design"], spec, self.shape)
        every = self.study.get_trials(deepcopy=False)
        result = {
            "net": str(self.folder / "best.json"), "page": str(self.folder / "design.html"),
            "goal": f"val_{task.goal[0]}", **{k: rows[0][k] for k in ("value", "steps", "macs", "params")},
            "data": job.plan.data or "DATA", "task": task.name, "n_val": len(job.splits["val"]),
            "limits": {name: most for name, most in self.limits.items() if most < math.inf},
            "input": list(self.shape), "unit": self.unit, "candidates": rows,
            "refused": dict(Counter(one.user_attrs["refused"] for one in every if "refused" in one.user_attrs)),
        }  # fmt: skip
        found = {k: result[k] for k in ("macs", "params", "goal", "value", "steps", "data")}
        write_json(self.folder / "best.json", {"neocog": neocog.__version__, "net": spec, **found})
        write_json(self.folder / "design.json", result)
        write_atomically(self.folder / "best.svg", anatomy.to_svg(traced).encode())
        write_atomically(self.folder / "design.html", design_page(result, traced, task).encode())
        return result


def _rung(trial: Any) -> int:
    """How far the training of a trial goes; -1 for what was not trained."""
    return int(trial.user_attrs.get("told", {"rung": -1})["rung"])
