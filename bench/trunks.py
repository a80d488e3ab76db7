"""Which pretrained trunk is the default: quality and speed of nets with ImageNet weights, in one run.

    NEOCOG_DATA=... [NEOCOG_WEIGHTS=...] python bench/trunks.py [NET ...] [--n 400]

top-1: the 200 ImageNet samples, which are training pictures, whole short side. by example, by word: `--n` pictures of
Flickr8k dev, as in bench/retrieval.py. transfer: 25 pictures for each of the seven classes of bench/transfer.py learned
by logistic regression on the features, tested on the others. pictures a second: net alone on batches of 16 of random
pixels, the nets in turns, the best of `--rounds`, so that other work on the machine decides little.

Writes bench/results/trunks.json and prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from retrieval import _mean, by_cosine, by_word, caption_nouns, features_of, flickr, pictures_of, quality, shared_nouns
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from transfer import photo_labels

from neocog import nets
from neocog.fit.device import hardware
from neocog.library.embed import Embedder

NETS = ("mobilenet_v1_075", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


def measured(embedder: Embedder, n: int) -> dict[str, Any]:
    """Return the quality of one trunk."""
    samples = pq.read_table(Path(os.environ["NEOCOG_DATA"]) / "imagenet_samples.parquet").to_pylist()
    _, chances = embedder.embed([row["image"]["bytes"] for row in samples])
    top1 = float((chances.argmax(1) == [row["label"] for row in samples]).mean())
    source = flickr()
    rows = pictures_of(source, None, n)
    relevant = shared_nouns(source, rows)
    features, chances = features_of(embedder, source, rows)
    nouns = [caption_nouns(source.sample(int(i)).captions) for i in rows]
    word = _mean([*by_word(chances, nouns).values()])
    labels = photo_labels(source)[rows]
    learn = np.concatenate([np.flatnonzero(labels == k)[:25] for k in range(labels.max() + 1)])
    test = np.setdiff1d(np.flatnonzero(labels >= 0), learn)
    scale = StandardScaler().fit(features[learn])
    head = LogisticRegression(C=0.01, max_iter=1000).fit(scale.transform(features[learn]), labels[learn])
    right = head.predict(scale.transform(features[test])) == labels[test]
    return {
        "top-1": top1, "by example": quality(by_cosine(features), lambda part: relevant[part], len(rows))["mAP"],
        "by word": word["mAP"], "transfer": float(right.mean()), "tests": len(test),
    }  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=NETS)
    parser.add_argument("--n", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=8)
    given = parser.parse_args()
    embedders = {name: Embedder(name, amount=200, device="cpu") for name in given.nets}
    best = dict.fromkeys(given.nets, 0.0)
    for _ in range(given.rounds):
        for name, one in embedders.items():
            size = one.preprocess.size
            pixels = np.random.default_rng(0).integers(0, 256, (16, 3, size, size), np.uint8)
            one.embed(pixels)
            begin = time.perf_counter()
            one.embed(pixels)
            best[name] = max(best[name], 16 / (time.perf_counter() - begin))
    found = []
    for name, one in embedders.items():
        macs = nets.facts(name).macs
        found.append({"net": name, "macs": macs, "pictures/s": best[name], **measured(one, given.n)})
        print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in found[-1].items()))
    whole = {"n": given.n, "rows": found, "hardware": hardware(), "date": time.strftime("%Y-%m-%d")}
    Path("bench/results/trunks.json").write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
