"""Sentences by class: Kim's net with random and with given word vectors, beside TF-IDF with a linear SVM.

    python bench/texts.py                               # everything: bench/results/texts.json
    python bench/texts.py --sets trec --seeds 1         # a part; what is there already is not trained again

NEOCOG_DATA names the folder that holds sentences/{mr,sst2,trec}.parquet. SST-2 and TREC have their own splits. MR has
none: ten folds, stratified, the same for all; a seed's figure is the mean over the folds that were trained (--folds).
A validation split is cut from the training texts where none is declared; the test split is looked at once, at the end.
All is left as neocog does it by itself, but for the vectors.
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
from neocog import fit
from neocog.data.source import Source
from neocog.fit.device import hardware
from neocog.fit.run import write_json

OUT = Path(__file__).parent / "results" / "texts.json"
NETS: dict[str, dict[str, Any]] = {"random": {"net_options": {"vectors": "random"}}, "given": {}}
PUBLISHED = {  # Kim 2014, recalled: CNN-rand, the best of static, tuned and two channels
    "mr": {"random": 76.1, "given": 81.5},
    "sst2": {"random": 82.7, "given": 88.1},
    "trec": {"random": 91.2, "given": 93.6},
}  # fmt: skip


def open_set(name: str, fold: int) -> Source:
    """A set with its splits; of MR one fold is the test split."""
    source = neocog.open_source(Path(os.environ["NEOCOG_DATA"]) / "sentences" / f"{name}.parquet")
    if name == "mr":
        from sklearn.model_selection import StratifiedKFold

        folds = StratifiedKFold(10, shuffle=True, random_state=0).split(source.labels, source.labels)
        source.splits[:] = 0
        source.splits[next(test for k, (_, test) in enumerate(folds) if k == fold)] = 2
    return source


def svm(source: Source) -> float:
    """Accuracy of TF-IDF of words and pairs of words with a linear SVM, as scikit-learn has them."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    texts = [source.read(i) for i in range(len(source))]
    learned, asked = np.flatnonzero((source.splits == 0) | (source.splits == 1)), np.flatnonzero(source.splits == 2)
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
    made = make_pipeline(words, LinearSVC(random_state=0))
    made.fit([texts[i] for i in learned], source.labels[learned])
    return float((made.predict([texts[i] for i in asked]) == source.labels[asked]).mean())


def train(source: Source, name: str, seed: int) -> dict[str, Any]:
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run = fit.train(source, seed=seed, out=Path(folder) / "run", progress=False, device="cpu", **NETS[name])
        figures = {k: run.metrics[k] for k in ("val_accuracy", "test_accuracy", "test_n")}
        rounds = json.loads((run.folder / "run.json").read_text())["settings"]
    cpu = {"precision": "bfloat16" if rounds["device"].get("bf16") else "float32"}
    return {**figures, "seconds": round(time.monotonic() - begin, 1), **cpu}


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Of each set and net: mean and deviation over seeds (of MR of the means over folds), n of trainings, seconds."""
    made: dict[str, Any] = {}
    for key, one in found.items():
        name, kind, seed, _ = key.split("/")
        made.setdefault(name, {}).setdefault(kind, {}).setdefault(seed, []).append(one)
    for name, kinds in made.items():
        for kind, seeds in kinds.items():
            means = [100 * float(np.mean([one["test_accuracy"] for one in rows])) for rows in seeds.values()]
            every = [one for rows in seeds.values() for one in rows]
            kinds[kind] = {
                "accuracy": round(float(np.mean(means)), 2), "each": [round(m, 2) for m in means],
                "published": PUBLISHED[name].get(kind), "trainings": len(every),
                "seconds": round(float(np.median([one.get("seconds", 0.0) for one in every])), 1),
            }  # fmt: skip
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["trec", "sst2", "mr"])
    parser.add_argument("--nets", nargs="+", default=["svm", *NETS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=10)
    how = parser.parse_args()
    found: dict[str, Any] = json.loads(OUT.read_text())["trainings"] if OUT.exists() else {}
    for name in how.sets:
        for kind in how.nets:
            for seed in range(1 if kind == "svm" else how.seeds):
                for fold in range(how.folds if name == "mr" else 1):
                    key = f"{name}/{kind}/{seed}/{fold}"
                    if key in found:
                        continue
                    source = open_set(name, fold)
                    found[key] = {"test_accuracy": svm(source)} if kind == "svm" else train(source, kind, seed)
                    print(key, found[key], flush=True)
                    write_json(OUT, {
                        "script": "bench/texts.py", "neocog": neocog.__version__, "hardware": hardware(),
                        "summary": summary(found), "trainings": found,
                    })  # fmt: skip


if __name__ == "__main__":
    main()
