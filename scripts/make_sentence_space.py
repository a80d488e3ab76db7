"""Make the sentence space that comes with neocog: src/neocog/text/space.safetensors and space.json.

    NEOCOG_DATA=... python scripts/make_sentence_space.py WORK [--towers 1] [--epochs 20]

The folder flickr8k of NEOCOG_DATA holds train.parquet (6,000 photographs) and dev.parquet (1,000), each with five
captions. What learns is the task match-captions on what EfficientNet-Lite0's last layer reads, once for each of
`--towers` seeds; the cosines of several are averaged. The first half of dev chooses the epoch and the calibration; the
second half is only reported. What lies in WORK already, runs and features, is used again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import neocog
from neocog.data import open_source
from neocog.library.embed import Embedder
from neocog.text import space, space_making

TRUNK = "efficientnet_lite0"
TARGET = Path(space.__file__).parent
OPTIONS = {"tower": "sentence", "reads": "mean", "dimensions": 512, "dropout": 0.2, "words": 0.1}
RECIPE = {"batch_size": 512, "lr": 2e-3, "weight_decay": 0.05, "warmup": 0.1, "ema": 0.99}
# What no photograph of the first half of dev shows; none of these queries is among those of bench/flickr8k_queries.tsv.
ABSENT = """
    tiger, lion, kangaroo, whale, shark, octopus, crocodile, snake, frog, owl, peacock, butterfly, snail, scorpion,
    rocket, satellite, astronaut, tank, warship, locomotive, oil rig, wind turbine, factory, power plant, skyscraper at
    dawn, pyramid, mosque, church interior, library shelves, laboratory, operating room, dentist, x-ray machine,
    calculator, printer, screwdriver, hammer and nails, circuit board, washing machine, toaster, blender, teapot,
    wine glass, bowl of soup, cheese, mushrooms, broccoli, lemon, coins, passport, spreadsheet, floor plan, crossword,
    violin, harp, trumpet, globe, telescope, hourglass, cactus, iceberg, galaxy, lightning, tornado
"""
LEAST = 3  # times that a word must stand in the training's captions to count as known
COMMON = 0.01  # share of the training pictures of which a caption has a word, from which on the word is common
BATCH = 100


def prepared(work: Path) -> Path:
    """A folder with train, val (the first half of dev) and test (the second half)."""
    data, made = Path(os.environ["NEOCOG_DATA"]) / "flickr8k", work / "data"
    made.mkdir(parents=True, exist_ok=True)
    dev = pq.read_table(data / "dev.parquet")
    half = len(dev) // 2
    pq.write_table(dev.slice(0, half), made / "val.parquet")
    pq.write_table(dev.slice(half), made / "test.parquet")
    if not (made / "train.parquet").exists():
        (made / "train.parquet").symlink_to(data / "train.parquet")
    return made


def features(file: Path, kept: Path) -> np.ndarray:
    """What a library keeps of the pictures of a Parquet file, float32 (N, F)."""
    if kept.exists():
        return np.load(kept).astype(np.float32)
    source, parts = open_source(file), []
    embedder = Embedder(TRUNK, amount=len(source))
    for first in range(0, len(source), BATCH):
        pictures = [source.read(i) for i in range(first, min(first + BATCH, len(source)))]
        parts.append(embedder.embed(pictures)[0])
        print(f"\r{file.name}: {first:,} of {len(source):,}", end="", flush=True)
    np.save(kept, np.concatenate(parts).astype(np.float16))
    return np.load(kept).astype(np.float32)


def captions(file: Path) -> list[list[str]]:
    """The captions of each picture."""
    found: list[list[str]] = pq.read_table(file, columns=["captions"]).column(0).to_pylist()
    return found


def main() -> None:
    """Train, join, calibrate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--towers", type=int, default=1)
    parser.add_argument("--epochs", type=float, default=20)
    parser.add_argument("--out", type=Path, default=TARGET)
    given = parser.parse_args()
    data = prepared(given.work)
    begin, made = time.perf_counter(), []
    for seed in range(given.towers):
        run = given.work / f"tower-{seed}"
        if not (run / "weights.safetensors").exists():
            neocog.train(
                data, task="match-captions", net=TRUNK, start=TRUNK, regime="features", epochs=given.epochs, seed=seed,
                task_options=OPTIONS, set=RECIPE, out=run, offline=True,
            )  # fmt: skip
        made.append(space_making.of_run(run, TRUNK))
    train, val = captions(data / "train.parquet"), captions(data / "val.parquet")
    words = Counter(w for of in train for text in of for w in re.findall(r"[^\W\d_]+", text.lower()))
    pictures = Counter(w for of in train for w in {w for text in of for w in re.findall(r"[^\W\d_]+", text.lower())})
    said = {w for of in val for text in of for w in re.findall(r"[^\W\d_]+", text.lower())}
    absent = [" ".join(query.split()) for query in ABSENT.split(",")]
    absent = [query for query in absent if not set(query.split()) & said]
    joined = space_making.joined(made)
    joined.about |= {
        "data": "Flickr8k, official training split: 6,000 photographs with 30,000 captions in English",
        "words": sorted(w for w, n in words.items() if n >= LEAST),
        "common": sorted(w for w, n in pictures.items() if n >= COMMON * len(train)),
    }
    ready = space_making.calibrated(
        joined, features(data / "val.parquet", given.work / "val.npy"), val, absent,
    )  # fmt: skip
    ready.save(given.out)
    sizes = {name: (given.out / name).stat().st_size for name in space.FILES}
    print(
        json.dumps({"bytes": sizes, "calibration": ready.about["calibration"], "seconds": time.perf_counter() - begin})
    )


if __name__ == "__main__":
    main()
