"""After the last step: the figures of every split, calibration, strangers, and the files of the run folder."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import neocog
from neocog.data import open_source
from neocog.data.batches import Held, Streamed
from neocog.fit import diagnose
from neocog.fit.device import Device
from neocog.fit.inputs import Data, Inputs
from neocog.fit.outputs import outputs_of
from neocog.fit.parallel import World
from neocog.fit.plan import Plan, fits_in_memory
from neocog.fit.run import Log, records, write_json, write_tensors
from neocog.fit.show import Show
from neocog.fit.state import State
from neocog.records import Problem, counted
from neocog.tasks.measures import auroc, fit_temperature
from neocog.tasks.unknown import Unknown, fit_unknown

BANK = 5000  # training pictures whose features describe what is known
STRANGERS = (1000, 200)  # pictures of each foreign collection, small (up to 96 pixels wide) and large
# names of kept features
_KEPT = {
    "known pictures": "train",
    "validation pictures": "val",
    "test pictures": "test",
    "strangers (drawn)": "drawn",
    "strangers (digits)": "digits",
}


def finish(
    made: Inputs,
    parts: Data,
    folder: Path,
    state: State,
    device: Device,
    world: World,
    show: Show,
    log: Log,
    begin: float,
) -> None:
    """Evaluate the trained net on validation and test pictures, and write weights, net.json and the rest."""
    plan, task, net, kept = made.plan, made.task, state.final_net, made.kept
    training, validation = made.training, made.validation
    views: dict[str, Any] = {"tta": plan.recipe.tta, "mirror": plan.mirror}

    def look(pictures: Held | Streamed, what: str, chosen: np.ndarray | None = None, **how: Any) -> Any:
        if kept is not None:  # the net has seen most of these pictures already
            return kept.outputs(pictures, _KEPT.get(what, ""), chosen)
        with show.bar(f"evaluating on {what}") as bar:
            return outputs_of(
                net, pictures, device, features=True, chosen=chosen, world=world, show=bar, **(how or views)
            )

    rows, val_logits, val_features = look(validation, "validation pictures")
    val_index = made.val_rows[rows]
    val_labels = parts.source.labels[val_index].astype(np.int64)
    # where pictures are few, cross-validation has answers for all but the test pictures, each unseen
    logits, labels = (val_logits, val_labels) if made.cross is None else (made.cross.logits, made.cross.labels)
    temperature = fit_temperature(logits, labels) if len(labels) else 1.0

    test_source, test_rows, test_labels = parts.labelled_test()
    unseen: Held | Streamed
    if fits_in_memory(len(test_rows), training.pre):
        unseen = Held(test_source, test_rows, training.pre, device.torch)
        test_rows, test_labels = test_rows[unseen.kept], test_labels[unseen.kept]
    else:
        unseen = Streamed(test_source, test_rows, training.pre)
    rows, test_logits, test_features = look(unseen, "test pictures")
    test_index, test_labels = test_rows[rows], test_labels[rows]

    metrics: dict[str, Any] = {}
    for split, logits, labels in (("test", test_logits, test_labels), ("val", val_logits, val_labels)):
        if len(labels):
            full = task.report(logits, labels, temperature)
            keep = ("n", "accuracy", "accuracy_interval", "top5_accuracy", "macro_f1", "loss", "ece")
            metrics |= {f"{split}_{k}": full[k] for k in keep if k in full}
    if made.cross is not None:
        metrics |= made.cross.figures()
    log.write("metrics", metrics=metrics, seconds=time.monotonic() - begin)  # pictures to figures, all told
    known = test_features if len(test_features) else val_features
    unknown, facts = _strangers(plan, training, made.train_labels.numpy(), val_features, known, look)

    if not world.first:
        return
    for split, index, logits, labels in (
        ("val", val_index, val_logits, val_labels),
        ("test", test_index, test_logits, test_labels),
    ):
        if len(labels):
            arrays = {"logits": logits.astype(np.float32), "labels": labels.astype(np.int64), "index": index}
            write_tensors(folder / f"{split}.safetensors", {k: torch.from_numpy(v) for k, v in arrays.items()})
    if unknown is not None:
        arrays = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in unknown.save().items()}
        write_tensors(folder / "unknown.safetensors", arrays)
    write_tensors(folder / "weights.safetensors", dict(net.state_dict()))
    write_json(
        folder / "net.json",
        {
            "neocog": neocog.__version__,
            "net": plan.net,
            **({"taps": plan.taps} if plan.taps else {}),
            "classes": list(plan.classes),
            "preprocess": asdict(training.pre),
            **views,
            "metrics": metrics,
            "temperature": temperature,
            "unknown": facts,
        },
    )
    problems: list[Problem] = [*training.problems, *validation.problems, *unseen.problems, *parts.source.problems]
    write_json(folder / "problems.json", [asdict(p) for p in problems])
    if problems:
        show.say(f"{counted(len(problems))} could not be read; see {folder / 'problems.json'}")
    epochs = records(folder, "epoch")
    if epochs:
        findings = diagnose.read_curves(epochs, plan.as_dict())
        middle = epochs[len(epochs) // 2]  # at the end the learning rate is zero
        if middle.get("update_ratio"):
            findings.append(diagnose.read_update_ratios(middle["update_ratio"], optimizer=plan.recipe.optimizer))
        if epochs[-1].get("dead"):
            findings.append(diagnose.read_dead(epochs[-1]["dead"]))
        for finding in findings:
            log.write("diagnosis", **finding.to_json())


def _strangers(
    plan: Plan, training: Held | Streamed, train_labels: np.ndarray, held_out: np.ndarray, known: np.ndarray, look: Any
) -> tuple[Unknown | None, dict[str, Any] | None]:
    """Fit the detector of unknown pictures, and measure it on drawn pictures and handwritten digits."""
    if len(held_out) < 20:
        return None, None  # a threshold for 5 % false alarms cannot be told from fewer
    chosen = np.linspace(0, len(training) - 1, min(BANK, len(training))).astype(np.int64)
    rows, _, features = look(training, "known pictures", chosen, tta="none")
    unknown = fit_unknown(features, train_labels[rows], len(plan.classes), held_out=held_out, seed=plan.seed)
    facts = {**unknown.facts(), "auroc": {}, "caught": {}, "n": {"known": len(known)}}
    ordinary = unknown.score(known)
    most = STRANGERS[training.pre.size > 96]
    for name in ("drawn", "digits"):
        if plan.data is not None and plan.data.startswith(name):
            continue
        source = open_source(f"drawn:n={most},size=64,seed=1" if name == "drawn" else name)
        strange = Streamed(source, np.arange(min(most, len(source))), training.pre)
        scores = unknown.score(look(strange, f"strangers ({name})", None, tta="none")[2])
        both = np.concatenate((ordinary, scores))
        facts["auroc"][name] = auroc(both, np.arange(len(both)) >= len(ordinary))
        facts["caught"][name] = float((scores > unknown.threshold).mean())
        facts["n"][name] = len(scores)
    return unknown, facts
