"""What every task reaches on drawn pictures within three minutes, from random weights.

    python bench/drawn.py segment detect [--seed 0] [--minutes 3] [--pictures 4000] [--size 64] [--epochs E]
    python bench/drawn.py caption match-captions --pictures 20000 --minutes 0  # as long as the recipe says

A row is what a user gets who types `neocog train drawn:n=4000,size=64 --task NAME --minutes 3`: 80 % of the pictures
are learned from, 10 % validate and 10 % test. On a machine that does other things, too, `--epochs` makes the work the
same whatever the clock says; the processor's seconds then say how long it would take alone.

Writes a row for each into bench/results/drawn.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import neocog
from neocog.data.source import Source
from neocog.fit.device import hardware
from neocog.fit.run import read_tensors
from neocog.tasks.caption import plain

# the figures that are reported, the first is the one that says whether a task is solved
FIGURES = {
    "label": ("accuracy",),
    "tags": ("map", "micro_f1"),
    "number": ("r2", "mae"),
    "locate": ("iou50", "miou", "class_accuracy"),
    "pose": ("pck_10", "nme"),
    "segment": ("miou", "pixel_accuracy", "boundary_f"),
    "detect": ("ap50", "map"),
    "match": ("auc", "eer"),
    "caption": ("same_as_a_caption", "bleu_4", "cider", "distinct", "perplexity"),
    "match-captions": ("sentence_to_picture_recall_at_1", "picture_to_sentence_recall_at_1", "mean_recall"),
}


def begun(run: neocog.Run, source: Source, rows: np.ndarray) -> dict[str, float]:
    """How many sentences are exactly right that had to begin like each of the drawing's own sentences."""
    pictures = [source.read(int(i)) for i in rows]
    told = [[plain(text) for text in source.columns["captions"][int(i)]] for i in rows]
    made = {}
    for k, what in enumerate(("number and background", "relation")):
        right: list[bool] = []
        firsts = np.array([of[k].split()[0] if k else "the picture shows" for of in told])
        for first in sorted(set(firsts)):
            some = np.flatnonzero(firsts == first)
            answers = neocog.caption([pictures[i] for i in some], run, first=str(first))
            right += [answer.texts[0] in told[i] for answer, i in zip(answers, some, strict=True)]
        made[f"exactly right, {what}"] = round(float(np.mean(right)), 4)
    return made


def among(run: neocog.Run, source: Source, rows: np.ndarray) -> dict[str, float]:
    """Figures of a search among 1,000 of the test pictures, with a sentence that is about one of them alone."""
    found = neocog.evaluate([run], source.select(rows[:1000]))["runs"][0]
    return {name: round(found[name], 4) for name in FIGURES["match-captions"]} | {"searched": found["n"]}


def measure(task: str, out: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Train as a user would; figures on the test pictures."""
    length = {"epochs": asked.epochs} if asked.epochs else {"minutes": asked.minutes} if asked.minutes else {}
    source = f"drawn:n={asked.pictures},size={asked.size}{',distinct=1' * (task == 'match-captions')}"
    begin, before = time.monotonic(), sum(os.times()[:2])
    run = neocog.train(source, task=task, seed=asked.seed, out=out, progress=False, **length)
    seconds, processor = time.monotonic() - begin, sum(os.times()[:2]) - before
    figures = {name: round(run.metrics[f"test_{name}"], 4) for name in FIGURES[task] if f"test_{name}" in run.metrics}
    if more := {"caption": begun, "match-captions": among}.get(task):
        figures |= more(run, neocog.open_source(source), read_tensors(out / "test.safetensors")[0]["index"].numpy())
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in log if row["kind"] == "epoch"][-1]
    return {
        "command": " ".join((f"neocog train {source} --task {task}", *(f"--{k} {v:g}" for k, v in length.items()))),
        **figures, "n": run.metrics["test_n"], "net": run.spec["name"], "steps": steps, "seed": asked.seed,
        "seconds": round(seconds), "processor seconds": round(processor),
    }  # fmt: skip


def main() -> None:
    """Measure what was named, print it, and put it into the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="+", choices=sorted(FIGURES))
    for name, kind, usual in (("seed", int, 0), ("minutes", float, 3.0), ("pictures", int, 4000), ("size", int, 64)):
        parser.add_argument(f"--{name}", type=kind, default=usual)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--out", type=Path, help="folder in which the runs are kept")
    asked = parser.parse_args()
    path = Path(__file__).parent / "results" / "drawn.json"
    for task in asked.tasks:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(task, (asked.out or Path(folder)) / task, asked)
        results = json.loads(path.read_text()) if path.exists() else {}
        results[f"{task} seed {asked.seed}"] = {**found, "hardware": hardware()}
        print(task, found, flush=True)
        path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
