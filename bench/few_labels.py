"""Features of an autoencoder, of random weights and of ImageNet's, where few labels are known.

    NEOCOG_DATA=... python bench/few_labels.py --data cifar10 --seeds 3 --out bench/results/few-labels.json

An autoencoder (`--task reconstruct`, net dcgan) learns from training pictures without their labels. Then the regime
features (`--regime features`) fits a last layer for few labelled ones, on what the autoencoder knows, on the same net
with random weights (an autoencoder after a single step at no rate), and on EfficientNet-Lite0. Accuracy on test
pictures; the labelled pictures are other ones for each seed.
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

import neocog
from neocog.data.source import Source
from neocog.fit.device import hardware


def few(source: Source, each: int, tests: int, seed: int) -> Source:
    """`each` training pictures of each class by chance, none of them declared for validation, and test pictures."""
    random = np.random.default_rng(seed)
    train = np.flatnonzero(source.splits == 0)
    chosen = [random.permutation(train[source.labels[train] == k])[:each] for k in range(len(source.classes))]
    test = np.random.default_rng(1).permutation(np.flatnonzero(source.splits == 2))[:tests]
    return source.select(np.sort(np.concatenate((*chosen, test))))


def main() -> None:
    """Train an autoencoder, then a last layer for each number of labels, seed and kind of features."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["digits", "cifar10"])
    parser.add_argument("--pictures", type=int, default=10_000, help="that the autoencoder learns from")
    parser.add_argument("--steps", type=int, default=1500, help="of the autoencoder")
    parser.add_argument("--labels", type=int, nargs="+", default=[5, 50], help="labelled pictures of each class")
    parser.add_argument("--tests", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for data in given.data:
        source = neocog.open_source(data)
        train = np.flatnonzero(source.splits == 0)
        pool = source.select(np.sort(np.random.default_rng(0).permutation(train)[: given.pictures]))
        with tempfile.TemporaryDirectory() as folder:
            starts: dict[str, Any] = {"EfficientNet-Lite0": "efficientnet_lite0"}
            for name, fields in (
                ("autoencoder", {"min_steps": given.steps, "epochs": 1}),
                ("random weights", {"min_steps": 1, "epochs": 0.001, "lr": 1e-12}),
            ):
                begin = time.process_time()
                run = neocog.train(
                    pool, task="reconstruct", set={"batch_size": 64, **fields}, seed=0, out=Path(folder) / name,
                    progress=False, diagnosis=False,
                )  # fmt: skip
                starts[name] = run.folder
                print(data, name, round(time.process_time() - begin), "s", run.metrics.get("val_explained"), flush=True)
            for each in given.labels:
                for name, start in starts.items():
                    found = [
                        neocog.train(
                            few(source, each, given.tests, seed), start=start, regime="features", seed=seed,
                            out=Path(folder) / f"{name}-{each}-{seed}", progress=False, diagnosis=False,
                        ).metrics["test_accuracy"]
                        for seed in range(given.seeds)
                    ]  # fmt: skip
                    mean = round(statistics.mean(found), 4)
                    rows.append({"data": data, "labels": each, "features": name, "mean": mean, "accuracy": found})
                    print(json.dumps(rows[-1]), flush=True)
    if given.out:
        asked = {k: v for k, v in vars(given).items() if k != "out"}
        about = {"hardware": hardware(), "date": time.strftime("%Y-%m-%d"), "asked": asked, "rows": rows}
        given.out.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
