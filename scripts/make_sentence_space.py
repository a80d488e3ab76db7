"""Make the sentence space that comes with neocog: src/neocog/text/space.safetensors and space.json.

    NEOCOG_DATA=... python scripts/make_sentence_space.py WORK [--towers 2] [--epochs 8]

The folder flickr8k of NEOCOG_DATA holds train.parquet (6,000 photographs) and dev.parquet (1,000), each with five
captions. What learns is the task match-captions on what EfficientNet-Lite0's last layer reads of five views of each
photograph, once for each of `--towers` seeds; the cosines of several are averaged. The first half of dev chooses the
epoch and the calibration; the second half is only reported. Runs and features that lie in WORK are used again.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

import neocog
from neocog.data import open_source
from neocog.data.decode import prepare
from neocog.data.kinds import TextLists
from neocog.data.source import Source
from neocog.library.concepts import vocabulary
from neocog.library.embed import Embedder
from neocog.library.sentences import Seen, seen_in
from neocog.text import space, space_making

TRUNK = "efficientnet_lite0"
TARGET = Path(space.__file__).parent
OPTIONS = {
    "tower": "sentence", "reads": "mean", "dimensions": 384, "learned": 32, "filters": 512, "hidden": 256,
    "dropout": 0.3, "words": 0.1,
}  # fmt: skip
RECIPE = {"batch_size": 512, "lr": 2e-3, "weight_decay": 0.05, "warmup": 0.1, "ema": 0.995}
PARTS, SIDE = 3, 224  # parts of each training picture that are views of their own, and the pixels of their side
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
BATCH = 50


def file(split: str) -> Path:
    """The photographs and captions of a split."""
    return Path(os.environ["NEOCOG_DATA"]) / "flickr8k" / f"{split}.parquet"


class Views(Source):
    """Several views of each training picture, then dev, as data to train on; the vectors are the features.

    A view is what EfficientNet-Lite0's last layer reads of a picture, of its mirror image, or of a part of it. The two
    halves of dev, as they are, are the validation and the test data.
    """

    def __init__(self, train: np.ndarray, dev: np.ndarray, texts: list[list[str]], dev_texts: list[list[str]]) -> None:
        views, pictures, _ = train.shape
        self.counts, self.files = (pictures, views), [open_source(file(split)) for split in ("train", "dev")]
        self.vectors = np.concatenate((train.reshape(views * pictures, -1), dev)).astype(np.float32)
        half = len(dev) // 2
        splits = np.repeat([0, 1, 2], [views * pictures, half, len(dev) - half]).astype(np.int8)
        every = [tuple(of) for of in [*texts * views, *dev_texts]]
        super().__init__("flickr8k", (), np.full(len(splits), -1), splits, captions=TextLists(every))

    def features(self, rows: np.ndarray) -> np.ndarray:
        return self.vectors[rows]

    def key(self, i: int) -> str:
        return str(i)

    def read(self, i: int) -> bytes | np.ndarray:
        (count, views), (train, dev) = self.counts, self.files
        return train.read(i % count) if i < count * views else dev.read(i - count * views)


def cuts(picture: Image.Image, random: np.random.Generator) -> list[np.ndarray | bytes]:
    """Parts of a picture, `PARTS` of them: a third of it or more, not much wider or higher, half of them mirrored."""
    width, height = picture.size
    made: list[np.ndarray | bytes] = []
    for _ in range(PARTS):
        area, ratio = random.uniform(0.35, 1), np.exp(random.uniform(-0.25, 0.25))
        w = min(1, np.sqrt(area * ratio))
        h = min(1, area / w)
        x, y = random.uniform(0, 1 - w) * width, random.uniform(0, 1 - h) * height
        box = (x, y, x + w * width, y + h * height)
        part = picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box, reducing_gap=2)
        made.append(np.asarray(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else part))
    return made


def features(split: str, kept: Path, *, views: bool) -> np.ndarray:
    """What a library keeps of the pictures of a split, float16 (1, N, F); with `views` (2 + PARTS, N, F)."""
    if kept.exists():
        return np.load(kept)
    source, parts, random = open_source(file(split)), [], np.random.default_rng(7)
    embedder = Embedder(TRUNK, amount=len(source) * (2 + PARTS if views else 1))
    for first in range(0, len(source), BATCH):
        data = [source.read(i) for i in range(first, min(first + BATCH, len(source)))]
        plain = np.stack([prepare(one, embedder.preprocess) for one in data])  # (B, 3, H, W)
        of = [embedder.embed(plain)[0]]
        if views:
            of.append(embedder.embed(np.ascontiguousarray(plain[..., ::-1]))[0])
            cut = [part for one in data for part in cuts(Image.open(io.BytesIO(one)).convert("RGB"), random)]
            of += list(embedder.embed(cut)[0].reshape(len(data), PARTS, -1).transpose(1, 0, 2))
        parts.append(np.stack(of).astype(np.float16))
        print(f"\r{split}: {first:,} of {len(source):,}", end="", flush=True)
    np.save(kept, np.concatenate(parts, 1))
    return np.load(kept)


def classes(split: str, kept: Path) -> Seen:
    """What the trunk's classes say of the pictures of a split, as in a library."""
    source, embedder = open_source(file(split)), Embedder(TRUNK)
    if not kept.exists():
        some = [range(first, min(first + BATCH, len(source))) for first in range(0, len(source), BATCH)]
        np.save(kept, np.concatenate([embedder.embed([source.read(i) for i in of])[1] for of in some]))
    values = np.load(kept)
    return seen_in(vocabulary(embedder.concepts), lambda chosen: values[:, list(chosen)].sum(1))


def captions(split: str) -> list[list[str]]:
    """The captions of each picture."""
    found: list[list[str]] = pq.read_table(file(split), columns=["captions"]).column(0).to_pylist()
    return found


def main() -> None:
    """Train, join, calibrate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--towers", type=int, default=2)
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--out", type=Path, default=TARGET)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    begin, made = time.perf_counter(), []
    texts, dev_texts = captions("train"), captions("dev")
    train = features("train", given.work / "train.npy", views=True)
    dev = features("dev", given.work / "dev.npy", views=False)[0]
    spent = time.perf_counter() - begin
    source = Views(train, dev, texts, dev_texts)
    for seed in range(given.towers):
        run = given.work / f"tower-{seed}"
        if not (run / "weights.safetensors").exists():
            neocog.train(
                source, task="match-captions", start=TRUNK, regime="features", epochs=given.epochs, seed=seed,
                task_options=OPTIONS, set=RECIPE, out=run, offline=True, diagnosis=False,
            )  # fmt: skip
        made.append(space_making.of_run(run, TRUNK))
    half = len(dev) // 2
    val = dev_texts[:half]
    said = {word for of in val for text in of for word in space.words_of(text)}
    absent = [" ".join(query.split()) for query in ABSENT.split(",")]
    absent = [query for query in absent if not set(query.split()) & said]
    ready = space_making.evened(space_making.joined(made), train[0], texts)
    ready.about |= {
        "data": "Flickr8k, official training split: 6,000 photographs with 30,000 captions in English",
        "words": space_making.shares(texts, LEAST),
    }
    ready = space_making.hearing(ready, train, texts)
    seen = classes("dev", given.work / "dev-classes.npy")

    def seen_in_half(text: str) -> np.ndarray | None:
        return None if (found := seen(text)) is None else found[:half]

    space_making.calibrated(ready, dev[:half], val, absent, seen=seen_in_half).save(given.out)
    sizes = {name: (given.out / name).stat().st_size for name in space.FILES}
    seconds = {"features": spent, "all": time.perf_counter() - begin}
    print(json.dumps({"bytes": sizes, "calibration": space.Space.load(given.out).about["calibration"], **seconds}))


if __name__ == "__main__":
    main()
