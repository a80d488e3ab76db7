"""Wrong labels: speednet as it is against the ways of `--noisy`, for the same number of steps; and what is found.

    NEOCOG_DATA=... python bench/noisy.py --seeds 3 --epochs 60 --out bench/results/noisy.json    # CIFAR-10
    NEOCOG_DATA=... python bench/noisy.py --pictures 250 --noise none --ways plain,unlabelled --seeds 3 --epochs 100
    python bench/noisy.py --data digits --size 16 --widths 24,96,96 --epochs 40 --set tta=none --set small=1 \
        --set translate=1 --seeds 1 --ways plain,early,coteach,correct,bootstrap,bootstrap-soft \
        --noise "symmetric 0.5" --noise "asymmetric 0.4"

The labels of the training pictures (those kept for validation among them) are made wrong as labels.py says there, by
a generator seeded with the seed; test labels are right. Accuracy is on test pictures: of the last epoch's
weights ("at the end"), and of those that neocog keeps, which a noisy validation chose. Found wrong labels: by
`neocog check --labels RUN` of the noisy runs, over the pictures that they were trained on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from labels import NOISE, noisy, score

from neocog import fit
from neocog.data import open_source
from neocog.data.source import Source
from neocog.fit.device import choose, hardware
from neocog.fit.extract import logits_of
from neocog.fit.recipes import NOISY
from neocog.fit.run import load_state, read_json, read_tensors, records
from neocog.fit.suspects import suspicious_labels

ASKED = {"symmetric 0.2": 8, "symmetric 0.5": 15, "asymmetric 0.4": 6}  # points that it is to be better by


def main() -> None:
    """Train, print a row for each training, then the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", default="cifar10", help="or digits")
    parser.add_argument("--pictures", type=int, default=0, help="training pictures (0: all)")
    parser.add_argument("--tests", type=int, default=0, help="test pictures (0: all)")
    parser.add_argument("--size", type=int, default=None, help="pixels that pictures are brought to")
    parser.add_argument("--epochs", type=float, default=None)
    parser.add_argument("--widths", default="64,256,256", help="of speednet")
    parser.add_argument("--noise", action="append", choices=list(NOISE), help="default: the three that are asked for")
    ways = f"plain, {', '.join(NOISY)}, or unlabelled: with all training pictures beside"
    parser.add_argument("--ways", default="plain,early", help=ways)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="of all")
    parser.add_argument("--robust", action="append", default=[], metavar="FIELD=VALUE", help="of the noisy ones")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for noise in arguments.noise or ASKED:
        for seed in range(arguments.seeds):
            for way in arguments.ways.split(","):
                rows.append({"noise": noise, "seed": seed, "way": way, **once(noise, seed, way, arguments)})
                print(json.dumps(rows[-1]), flush=True)
    means = [gain(rows, noise) for noise in dict.fromkeys(row["noise"] for row in rows)]
    for mean in means:
        print(json.dumps(mean))
    if arguments.out:
        asked = {k: v for k, v in vars(arguments).items() if k != "out"}
        about = {"hardware": hardware(), "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
        arguments.out.write_text(json.dumps({"asked": asked, "rows": rows, "means": means, **about}, indent=1) + "\n")


def once(noise: str, seed: int, way: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One training on labels some of which are wrong."""
    source = open_source(arguments.data)
    random = np.random.default_rng(1000 + seed)
    train = np.flatnonzero(source.splits == 0)
    if arguments.pictures:
        train = np.sort(random.permutation(train)[: arguments.pictures])
    tests = np.flatnonzero(source.splits == 2)[: arguments.tests or None]
    source = source.select(np.concatenate((train, tests)))
    true = source.labels.copy()
    source.labels[: len(train)] = noisy(true[: len(train)], *NOISE[noise], random)
    fields = dict(pair.split("=", 1) for pair in arguments.set + arguments.robust * (way in NOISY))
    with tempfile.TemporaryDirectory() as folder:
        begin, used = time.perf_counter(), time.process_time()
        run = fit.train(
            source,
            net="speednet",
            net_options={"widths": tuple(map(int, arguments.widths.split(",")))},
            epochs=arguments.epochs,
            size=arguments.size,
            seed=seed,
            out=Path(folder) / "run",
            set=fields,
            noisy=way if way in NOISY else False,
            unlabelled=arguments.data if way == "unlabelled" else None,
            start="scratch",
            diagnosis=False,
            progress=False,
        )
        epochs = records(run.folder, "epoch")
        row = {
            "kept_accuracy": round(run.metrics["test_accuracy"], 4),
            "kept": read_json(run.folder / "net.json")["kept"]["epoch"],
            "train_accuracy": round(epochs[-1]["train_accuracy"], 4),
            "epochs": epochs[-1]["epoch"],
            "training_seconds": round(epochs[-1]["elapsed"], 1),
            "seconds": round(time.perf_counter() - begin, 1),
            "processor_seconds": round(time.process_time() - used, 1),  # of this and all threads
        }
        if way in NOISY:
            learned = source.select(np.arange(len(train)))
            learned.labels[:] = source.labels[: len(train)]  # what is selected again has the first labels
            found = np.array([i for i, *_ in suspicious_labels(run, learned)], dtype=np.int64)
            row["wrong"] = score(found, learned.labels != true[: len(train)])
        row["last_accuracy"] = round(last(fit.Run(run.folder), source, np.arange(len(train), len(source))), 4)
    return row


def last(run: fit.Run, source: Source, rows: np.ndarray) -> float:
    """Test accuracy with the weights of the last epoch."""
    tensors, _ = read_tensors(run.folder / "checkpoint.safetensors")
    first = "average/" if any(name.startswith("average/") for name in tensors) else "net/"
    weights = {name.removeprefix(first): value for name, value in tensors.items() if name.startswith(first)}
    load_state(run.net(), weights, "the checkpoint")
    found, logits = logits_of(run, source, rows, choose(None))
    return float((logits.argmax(1) == source.labels[rows[found]]).mean())


def gain(rows: list[dict[str, Any]], noise: str) -> dict[str, Any]:
    """Means over the seeds, and by how many points the other way is better than plain."""
    found = {
        f"{way}_{which}": statistics.mean(
            row[f"{which}_accuracy"] for row in rows if (row["noise"], row["way"]) == (noise, way)
        )
        for way in dict.fromkeys(row["way"] for row in rows)
        for which in ("last", "kept")
    }
    points = {
        f"points_{which}": round(100 * (value - found[f"plain_{which}"]), 2)
        for way, which in (name.split("_") for name in found)
        if way != "plain" and f"plain_{which}" in found
        for value in (found[f"{way}_{which}"],)
    }
    return {"noise": noise, **found, **points, "asked": ASKED.get(noise)}


if __name__ == "__main__":
    main()
