"""Transfer learning from few pictures: accuracy and seconds of the three regimes against training from scratch.

Two collections, with 5, 10 and 50 training pictures a class (and validation cut from them, as for any user):

- CIFAR-10: 2,000 of its test pictures to test on.
- Photographs: Flickr8k, which has captions and no classes. A photo belongs to a class when at least four of its five
  captions use a word of that class, and none a word of another (`WORDS`). That is how five people saw the picture, not
  how a net did; seven classes have enough photos. What is not taken for training is tested on, at most 60 a class.

Descriptors is the pipeline that convolutional nets replaced (``nets/descriptors.py``), with a linear classifier.
Scratch is what `neocog train` does by itself with these pictures (for 32x32 speednet, which is made for few small
pictures); "same" trains the net of the weights from scratch; features, top and all start from MobileNet v1 0.75
(ImageNet, so that photographs like these are not new to it). Seconds are those of the whole call, testing and report
included; "learned" those until the last weight was set.

    NEOCOG_DATA=... NEOCOG_WEIGHTS=... python bench/transfer.py --seeds 3    (hours; what is done is kept and skipped)
    ... python bench/transfer.py --quick        one seed, 5 pictures a class, scratch and features, 200 tests (minutes)
    ... python bench/transfer.py --headline     2,000 CIFAR-10 pictures, all 10,000 tests: features against scratch
    ... python bench/transfer.py --command      `neocog train photos/` as typed on a new machine: 600 photographs in
                                                folders, an empty home, no variable set; other photographs are predicted
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neocog import fit
from neocog.data import open_source
from neocog.data.source import Source
from neocog.fit.device import choose, hardware
from neocog.fit.run import records
from neocog.records import SPLITS

WEIGHTS = "mobilenet_v1_075"
REGIMES = ("descriptors", "scratch", "same", "features", "top", "all")
WORDS = {
    "dog": "dogs? pupp(?:y|ies)",
    "ball game": "soccer football basketball tennis baseball volleyball rugby",
    "bicycle": "bikes? bicycles? bikers? bicyclists? cyclists? bmx biking bicycling",
    "snow": "snow snowy skis? skiing skiers? snowboard(?:s|er|ers|ing)? sled sledding",
    "water": "surf(?:s|er|ers|ing|board)? waves? ocean swimming pool swims? swimmers?",
    "skateboard": "skateboard(?:s|er|ers|ing)?",
    "climbing": "climb(?:s|er|ers|ing)?",
}


class Chosen(Source):
    """Some pictures of a source with classes and splits of their own."""

    def __init__(self, base: Source, name: str, classes: list[str], train: np.ndarray, test: np.ndarray, labels: Any):
        self.base, self.indices = base, np.concatenate((train, test))
        splits = np.repeat([SPLITS.index("train"), SPLITS.index("test")], [len(train), len(test)])
        super().__init__(name, classes, labels[self.indices], splits)

    def key(self, i: int) -> str:
        return self.base.key(int(self.indices[i]))

    def read(self, i: int) -> bytes | np.ndarray:
        return self.base.read(int(self.indices[i]))


def photo_labels(source: Source) -> np.ndarray:
    """The class of each photo by its captions, -1 for most."""
    patterns = [re.compile(rf"\b(?:{'|'.join(words.split())})\b", re.IGNORECASE) for words in WORDS.values()]
    labels = np.full(len(source), -1)
    for i in range(len(source)):
        captions = source.sample(i).captions
        said = [sum(bool(pattern.search(caption)) for caption in captions) for pattern in patterns]
        there = [k for k, count in enumerate(said) if count]
        if len(there) == 1 and said[there[0]] >= 4:
            labels[i] = there[0]
    return labels


def draw(name: str, each: int, tests: int, seed: int) -> Source:
    """`each` training pictures a class, chosen by `seed`, and test pictures that are the same for every seed."""
    source = open_source(name if name == "cifar10" else Path(os.environ["NEOCOG_DATA"]) / name)
    random, fixed = np.random.default_rng(seed), np.random.default_rng(12345)
    if name == "cifar10":
        labels, classes = source.labels, list(source.classes)
        test = fixed.permutation(np.flatnonzero(source.splits == SPLITS.index("test")))[:tests]
        pool = source.splits == SPLITS.index("train")
    else:
        labels, classes = photo_labels(source), list(WORDS)
        order = [fixed.permutation(np.flatnonzero(labels == k)) for k in range(len(classes))]
        test = np.concatenate([o[: min(60, len(o) - 50, -(-tests // len(classes)))] for o in order])
        pool = np.isin(np.arange(len(labels)), test, invert=True)
    train = [random.choice(np.flatnonzero(pool & (labels == k)), each, replace=False) for k in range(len(classes))]
    return Chosen(source, f"{name}-{each}", classes, np.sort(np.concatenate(train)), np.sort(test), labels)


def train_once(data: Source, regime: str, seed: int) -> dict[str, Any]:
    """Train, and return what came of it."""
    how: dict[str, Any] = {"start": WEIGHTS, "regime": regime}
    if regime in ("descriptors", "scratch", "same"):
        net = {"same": WEIGHTS, "descriptors": "descriptors"}.get(regime)
        how = {"start": "scratch", **({"net": net} if net else {})}
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        run = fit.train(data, seed=seed, out=Path(folder) / "run", diagnosis=False, progress=False, **how)
        seconds = time.monotonic() - begin
        epochs, head = records(run.folder, "epoch"), records(run.folder, "head")
        learned = head[-1]["feature_seconds"] + head[-1]["fit_seconds"] if head else epochs[-1]["elapsed"]
        metrics = {k: run.metrics[k] for k in ("test_accuracy", "test_n")}
        crossed = {k: v for k, v in run.metrics.items() if k.startswith("cv_")}
        return {"seed": seed, **metrics, "seconds": seconds, "learned": learned, "net": run.spec["name"], **crossed}


def command(seed: int) -> dict[str, Any]:
    """Type `neocog train` and `neocog predict` for 600 photographs and others, and return what came of it."""
    source = open_source(Path(os.environ["NEOCOG_DATA"]) / "flickr8k")
    labels, random, count = photo_labels(source), np.random.default_rng(seed), len(WORDS)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "home").mkdir()
        for k, word in enumerate(WORDS):
            each = 600 // count + (k < 600 % count)
            for number, row in enumerate(random.permutation(np.flatnonzero(labels == k))[: each + 60]):
                file = place / ("photos" if number < each else "others") / word / f"{row}.jpg"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(source.read(int(row)))
        found: dict[str, Any] = {"seed": seed}
        for what, arguments in (
            ("train", ("train", "photos", "--out", "run")),
            ("predict", ("predict", "run", "others", "--format", "csv", "--out", "answers.csv")),
        ):
            begin, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                [sys.executable, "-m", "neocog", *arguments], cwd=place, check=True, stdout=subprocess.DEVNULL,
                env={"HOME": str(place / "home"), "PATH": os.defpath, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
            )  # fmt: skip
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            processor = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
            found |= {f"{what}_seconds": time.monotonic() - begin, f"{what}_processor_seconds": processor}
        with open(place / "answers.csv", encoding="utf-8") as answers:
            right = [Path(row["picture"]).parent.name == row["label"] for row in csv.DictReader(answers)]
        metrics = fit.Run(place / "run").metrics
        found |= {key: metrics[key] for key in ("test_accuracy", "test_n")}
        return found | {"others_accuracy": statistics.mean(right), "others_n": len(right)}


def table(rows: list[dict[str, Any]]) -> str:
    """Mean accuracy (standard deviation), and median seconds, a line for each data set and number of pictures."""
    lines = ["| data | pictures a class | " + " | ".join(REGIMES) + " |", "|---|---|" + "---|" * len(REGIMES)]
    for data, each in dict.fromkeys((row["data"], row["each"]) for row in rows):
        cells = []
        for regime in REGIMES:
            found = [r for r in rows if (r["data"], r["each"], r["regime"]) == (data, each, regime)]
            shares = [100 * r["test_accuracy"] for r in found]
            spread = f" ± {statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
            seconds = statistics.median(r["seconds"] for r in found) if found else 0.0
            told = f"{statistics.mean(shares):.1f} %{spread} (n = {len(found)}), {seconds:.0f} s" if found else "-"
            cells.append(told)
        lines.append(f"| {data} | {each} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is not there yet, and write the table after each training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--counts", type=int, nargs="+", default=[5, 10, 50])
    parser.add_argument("--data", nargs="+", default=["cifar10", "flickr8k"])
    parser.add_argument("--regimes", nargs="+", default=list(REGIMES), choices=REGIMES)
    parser.add_argument("--tests", type=int, default=2000)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--headline", action="store_true")
    parser.add_argument("--command", action="store_true")
    parser.add_argument("--out", default="bench/results")
    a = parser.parse_args()
    what = "transfer"
    if a.quick:
        what, a.seeds, a.counts, a.tests, a.regimes = "transfer-quick", 1, [5], 200, ["scratch", "features"]
    if a.headline:
        what, a.seeds, a.counts, a.tests = "transfer-headline", 1, [200], 10_000
        a.data, a.regimes = ["cifar10"], ["features", "same", "scratch"]
    if a.command:
        made: dict[str, Any] = {"hardware": hardware(), "torch": torch.__version__, "runs": []}
        for seed in range(a.seeds):
            made["runs"].append({**command(seed), "load average": os.getloadavg()[0]})
            print(json.dumps(made["runs"][-1]), flush=True)
            made["date"] = time.strftime("%Y-%m-%d")
            (Path(a.out) / "transfer-command.json").write_text(json.dumps(made, indent=1) + "\n")
        return
    device = choose()
    path = Path(a.out) / f"{what}-{device.kind}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = json.loads(path.read_text())["runs"] if path.exists() else []
    for seed in range(a.seeds):
        for data in a.data:
            for each in a.counts:
                for regime in a.regimes:
                    cell = {"data": data, "each": each, "regime": regime}
                    if any(cell.items() <= row.items() and row["seed"] == seed for row in rows):
                        continue
                    rows.append({**cell, **train_once(draw(data, each, a.tests, seed), regime, seed)})
                    print(json.dumps(rows[-1]), flush=True)
                    told: dict[str, Any] = {"weights": WEIGHTS, "words": WORDS, "device": str(device)}
                    told["hardware"] = hardware()
                    told |= {"torch": torch.__version__, "date": time.strftime("%Y-%m-%d"), "runs": rows}
                    path.write_text(json.dumps(told, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
