"""What every task reaches on drawn pictures within three minutes, from random weights.

    python bench/drawn.py segment detect [--seed 0] [--minutes 3] [--pictures 4000] [--size 64] [--epochs E]
    python bench/drawn.py caption match-captions --size 32 --epochs 20

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
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import neocog
from neocog.data import open_source
from neocog.data.kinds import TextLists
from neocog.data.source import Source
from neocog.fit.device import hardware

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


def distinct(spec: str, most: int = 1000) -> Source:
    """Drawn pictures with one sentence each, which joins all; of the test pictures those that no other one is like."""
    source = open_source(spec)
    said = [" ".join(source.columns["captions"][i]) for i in range(len(source))]
    times = Counter(text for text, split in zip(said, source.splits, strict=True) if split == 2)
    alone = np.array([split != 2 or times[text] == 1 for text, split in zip(said, source.splits, strict=True)])
    alone &= np.cumsum(alone & (source.splits == 2)) <= most
    source.columns = {"captions": TextLists([text] for text in said)}
    return source.select(np.flatnonzero(alone))


def measure(task: str, out: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Train as a user would; figures on the test pictures."""
    length = {"epochs": asked.epochs} if asked.epochs else {"minutes": asked.minutes}
    source = f"drawn:n={asked.pictures},size={asked.size}"
    begin, before = time.monotonic(), sum(os.times()[:2])
    data = distinct(source) if task == "match-captions" else source
    more: dict[str, Any] = {"task_options": {"least": 1}} if task == "caption" else {}
    run = neocog.train(data, task=task, seed=asked.seed, out=out, progress=False, **length, **more)
    seconds, processor = time.monotonic() - begin, sum(os.times()[:2]) - before
    figures = {name: round(run.metrics[f"test_{name}"], 4) for name in FIGURES[task] if f"test_{name}" in run.metrics}
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in log if row["kind"] == "epoch"][-1]
    return {
        "command": f"neocog train {source} --task {task} " + " ".join(f"--{k} {v:g}" for k, v in length.items()),
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
    asked = parser.parse_args()
    path = Path(__file__).parent / "results" / "drawn.json"
    for task in asked.tasks:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(task, Path(folder) / "run", asked)
        results = json.loads(path.read_text()) if path.exists() else {}
        results[f"{task} seed {asked.seed}"] = {**found, "hardware": hardware()}
        print(task, found, flush=True)
        path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
