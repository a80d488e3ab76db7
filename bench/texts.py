"""Sentences by class: Kim's net with random and with given word vectors, beside TF-IDF with a linear SVM. Chunks of
CoNLL-2000. What is left of film reviews if a few of their sentences are kept.

    python bench/texts.py                               # everything: bench/results/texts.json
    python bench/texts.py --sets trec --seeds 1         # a part; what is there already is not trained again
    python bench/texts.py --sets reviews --folds 1

NEOCOG_DATA names the folder that holds sentences/{mr,sst2,trec,conll2000,reviews}.parquet. SST-2 and TREC have their
own splits. MR has none: ten folds, stratified, the same for all; a seed's figure is the mean over the folds that were
trained (--folds). A validation split is cut from the training texts where none is declared; the test split is looked at
once, at the end. All is left as neocog does it by itself, but for the vectors.

conll2000: F1 of the test split, "random" from words, capitals and endings, "given" also from given vectors and the
parts of speech that the set brings. reviews: of a fold's reviews 2, 5 or 10 sentences are kept by what they add to a
net's answer (gradient), by their nearness to the whole in the shipped space, or the first, the last, or random ones; a
linear SVM on TF-IDF that learned from whole reviews of the other folds is asked about what was kept.
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
from neocog.fit.summary import summarise

OUT = Path(__file__).parent / "results" / "texts.json"
NETS: dict[str, dict[str, Any]] = {"random": {"net_options": {"vectors": "random"}}, "given": {}}
TAGGING: dict[str, dict[str, Any]] = {
    "random": {"task_options": {"vectors": "random", "columns": False}},
    "given": {},
}
DOCUMENTS: dict[str, Any] = {  # reviews have 750 words: a net that is quick on them
    "net_options": {"vectors": "random", "dimensions": 64, "maps": 50}, "input_options": {"longest": 2000, "least": 2},
    "set": {"min_steps": 240},
}  # fmt: skip
KEPT = (2, 5, 10)
PUBLISHED = {  # Kim 2014, recalled: CNN-rand, the best of static, tuned and two channels; Collobert 2011
    "mr": {"random": 76.1, "given": 81.5},
    "sst2": {"random": 82.7, "given": 88.1},
    "trec": {"random": 91.2, "given": 93.6},
    "conll2000": {"random": 90.33, "given": 94.32},
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


def learned_svm(source: Source) -> Any:
    """TF-IDF of words and pairs of words with a linear SVM, as scikit-learn has them, on all but the test split."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    learned = np.flatnonzero(source.splits < 2).tolist()
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
    made = make_pipeline(words, LinearSVC(random_state=0))
    return made.fit([source.read(i) for i in learned], source.labels[learned])


def svm(source: Source) -> float:
    """Accuracy on the test split."""
    asked = np.flatnonzero(source.splits == 2).tolist()
    found = learned_svm(source).predict([source.read(i) for i in asked])
    return float((found == source.labels[asked]).mean())


def reviews(fold: int, seed: int) -> dict[str, float]:
    """Accuracy of the SVM on the kept sentences of a fold's reviews, by how they were chosen and how many are kept."""
    import pyarrow.parquet as pq

    begin, random = time.monotonic(), np.random.default_rng(seed)
    table = pq.read_table(Path(os.environ["NEOCOG_DATA"]) / "sentences" / "reviews.parquet").to_pylist()
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"text": "\n".join(row["sentences"]), "label": row["label"],
                 "split": "test" if row["fold"] == fold else "train"} for row in table]  # fmt: skip
        path = Path(folder) / "reviews.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = neocog.open_source(path)
        run = fit.train(
            source, seed=seed, out=Path(folder) / "run", progress=False, device="cpu", diagnosis=False, **DOCUMENTS
        )
        judge, asked = learned_svm(source), np.flatnonzero(source.splits == 2).tolist()
        kept: dict[str, list[str]] = {}
        for i in asked:
            by_answer, by_space = summarise(source.read(i), run, sentences=1), summarise(source.read(i), sentences=1)
            every, n = by_answer.sentences, len(by_answer.sentences)
            orders = {
                "gradient": np.argsort(-np.nan_to_num(by_answer.scores, nan=-np.inf), kind="stable"),
                "space": np.argsort(-np.array(by_space.scores), kind="stable"),
                "first": np.arange(n), "last": np.arange(n)[::-1], "random": random.permutation(n),
            }  # fmt: skip
            for name, order in orders.items():
                for k in KEPT:
                    kept.setdefault(f"{name}_{k}", []).append("\n".join(every[j] for j in sorted(order[:k])))
            kept.setdefault("whole", []).append(source.read(i))
        true = source.labels[asked]
        found = {name: float((judge.predict(texts) == true).mean()) for name, texts in kept.items()}
        net = run.metrics["test_accuracy"]
    return {**found, "net": net, "n": len(asked), "seconds": round(time.monotonic() - begin, 1)}


def train(source: Source, name: str, seed: int) -> dict[str, Any]:
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        how = TAGGING if "tokens" in source.columns else NETS
        run = fit.train(
            source, seed=seed, out=Path(folder) / "run", progress=False, device="cpu", diagnosis=False, **how[name]
        )
        wanted = ("val_f1", "test_f1") * (how is TAGGING) + ("val_accuracy", "test_accuracy", "test_n")
        figures: dict[str, Any] = {k: run.metrics[k] for k in wanted if k in run.metrics}
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
        if name == "reviews":
            every = [one for seeds in kinds.values() for rows in seeds.values() for one in rows]
            means = {k: round(100 * float(np.mean([one[k] for one in every])), 1) for k in every[0]}
            made[name] = {**means, "n": sum(one["n"] for one in every), "trainings": len(every)} | {
                "seconds": round(float(np.median([one["seconds"] for one in every])), 1)
            }
            continue
        goal = "test_f1" if name == "conll2000" else "test_accuracy"
        for kind, seeds in kinds.items():
            per_seed = [100 * float(np.mean([one[goal] for one in rows])) for rows in seeds.values()]
            every = [one for rows in seeds.values() for one in rows]
            kinds[kind] = {
                goal.removeprefix("test_"): round(float(np.mean(per_seed)), 2), "each": [round(m, 2) for m in per_seed],
                "published": PUBLISHED[name].get(kind), "trainings": len(every),
                "seconds": round(float(np.median([one.get("seconds", 0.0) for one in every])), 1),
            }  # fmt: skip
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["trec", "sst2", "mr", "conll2000", "reviews"])
    parser.add_argument("--nets", nargs="+", default=["svm", *NETS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=10)
    how = parser.parse_args()
    found: dict[str, Any] = json.loads(OUT.read_text())["trainings"] if OUT.exists() else {}
    for name in how.sets:
        kinds = {"reviews": ["kept"], "conll2000": [kind for kind in how.nets if kind != "svm"]}.get(name, how.nets)
        for kind in kinds:
            for seed in range(1 if kind in ("svm", "kept") else how.seeds):
                for fold in range(how.folds if name in ("mr", "reviews") else 1):
                    key = f"{name}/{kind}/{seed}/{fold}"
                    if key in found:
                        continue
                    if kind == "kept":
                        found[key] = reviews(fold, seed)
                    else:
                        source = open_set(name, fold)
                        found[key] = {"test_accuracy": svm(source)} if kind == "svm" else train(source, kind, seed)
                    print(key, found[key], flush=True)
                    write_json(OUT, {
                        "script": "bench/texts.py", "neocog": neocog.__version__, "hardware": hardware(),
                        "summary": summary(found), "trainings": found,
                    })  # fmt: skip


if __name__ == "__main__":
    main()
