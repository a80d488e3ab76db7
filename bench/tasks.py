"""What the tasks reach on real data by the call that a user types, beside scikit-learn on the default trunk's features.

    NEOCOG_DATA=... python bench/tasks.py faces-label faces-match points [--seed 0] [--minutes M]

faces-label: 40 people, 5 pictures each to learn from, 5 to test; error. faces-match: twins learn on 30 people and are
judged on 10 others (equal error rate), beside the cosine of the trunk's features and Fisherfaces. points: 68 points of
faces, mean error over the distance between the eyes' outer corners. camvid, bccd: segment and detect with default
settings, starting from the default trunk.

Writes a row for each into bench/results/tasks.json.
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
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import neocog
from neocog.data import Arrays, open_source
from neocog.data.decode import decode
from neocog.fit.device import hardware
from neocog.fit.extract import extract
from neocog.fit.start import open_start
from neocog.tasks.match import verification

DATA = Path(os.environ["NEOCOG_DATA"])
TRUNK = "efficientnet_lite0"


def faces() -> tuple[list[np.ndarray], np.ndarray]:
    """Pictures and people."""
    source = open_source(DATA / "faces" / "faces.parquet")
    pictures = [one if isinstance(one := source.read(i), np.ndarray) else decode(one) for i in range(len(source))]
    people = source.labels.astype(int)
    return pictures, people


def features(pictures: list[np.ndarray]) -> np.ndarray:
    """What the default trunk makes of pictures: the input of its last layer, float32 (N, D)."""
    start = open_start(TRUNK, say=lambda _: None)
    pre = start.sized(None, min(pictures[0].shape[:2]))
    return extract(start.net, Arrays(pictures), preprocess=pre).values


def faces_label(out: Path, seed: int, minutes: float | None) -> dict[str, Any]:
    """Five pictures of each person to learn from (four, and one to validate), five to test."""
    pictures, people = faces()
    random = np.random.default_rng(seed)
    order = np.concatenate([random.permutation(10) for _ in range(40)])
    rank = np.empty(len(people), int)
    for person in range(40):
        rank[np.flatnonzero(people == person)] = order[person * 10 : person * 10 + 10]
    splits = np.where(rank < 4, 0, np.where(rank < 5, 1, 2))
    source = Arrays(pictures, [f"person {p}" for p in people], splits=splits, name="faces")
    run = neocog.train(source, start=TRUNK, seed=seed, out=out, minutes=minutes, progress=False)
    x, learn, test = features(pictures), splits < 2, splits == 2
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000)).fit(x[learn], people[learn])
    return {
        "error": 1 - run.metrics["test_accuracy"], "scikit-learn on features": 1 - plain.score(x[test], people[test]),
        "n": run.metrics["test_n"], "net": run.spec["name"],
    }  # fmt: skip


def faces_match(out: Path, seed: int, minutes: float | None) -> dict[str, Any]:
    """Twins: 26 people to learn from, 4 to validate, and always the same 10, on whom nothing was chosen, to test."""
    pictures, people = faces()
    strangers = np.random.default_rng(0).permutation(40)[30:]
    order = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(40), strangers))
    splits = np.where(np.isin(people, strangers), 2, np.where(np.isin(people, order[26:]), 1, 0))
    source = Arrays(pictures, [f"person {p}" for p in people], splits=splits, name="faces")
    run = neocog.train(source, task="match", start=TRUNK, seed=seed, out=out, minutes=minutes, progress=False)
    m = run.metrics
    learn, test = splits == 0, splits == 2
    a, b = np.triu_indices(int(test.sum()), 1)
    same = people[test][a] == people[test][b]

    def eer(x: np.ndarray) -> float:
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        return verification((x @ x.T)[a, b], same)["eer"]

    pixels = np.stack(pictures).astype(np.float32).mean(3).reshape(len(pictures), -1)
    fisher = make_pipeline(PCA(int(learn.sum()) - 26), LinearDiscriminantAnalysis()).fit(pixels[learn], people[learn])
    return {
        "eer": m["test_eer"],
        "cosine of features, eer": eer(features([p for p, t in zip(pictures, test, strict=True) if t])),
        "Fisherfaces (scikit-learn on pixels), eer": eer(fisher.transform(pixels[test])),
        "auc": m["test_auc"],
        "recall@1": m["test_recall_at_1"],
        "n": m["test_n"],
    }


def points(out: Path, seed: int, minutes: float | None) -> dict[str, Any]:
    """68 points; the test split is the file's own."""
    test = DATA / "points" / "test.parquet"
    run = neocog.train(
        DATA / "points" / "train.parquet", test=test, task="pose", seed=seed, out=out, minutes=minutes, progress=False
    )
    return {"nme": run.metrics["test_nme"], "n": run.metrics["test_n"], "net": run.spec["name"]}


def camvid(out: Path, seed: int, minutes: float | None) -> dict[str, Any]:
    """Street scenes, 11 classes."""
    run = neocog.train(DATA / "camvid", task="segment", seed=seed, out=out, minutes=minutes, progress=False)
    return {"miou": run.metrics["test_miou"], "n": run.metrics["test_n"], "net": run.spec["name"]}


def bccd(out: Path, seed: int, minutes: float | None) -> dict[str, Any]:
    """Blood cells."""
    run = neocog.train(DATA / "bccd", task="detect", seed=seed, out=out, minutes=minutes, progress=False)
    m = run.metrics
    return {"ap50": m["test_ap50"], "map": m["test_map"], "n": m["test_n"], "net": run.spec["name"]}


ROWS = {"faces-label": faces_label, "faces-match": faces_match, "points": points, "camvid": camvid, "bccd": bccd}


def main() -> None:
    """Measure what was named, print it, and put it into the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="+", choices=sorted(ROWS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float)
    asked = parser.parse_args()
    path = Path(__file__).parent / "results" / "tasks.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in asked.rows:
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = ROWS[name](Path(folder) / "run", asked.seed, asked.minutes)
        found |= {"seed": asked.seed, "minutes": asked.minutes, "seconds": round(time.monotonic() - begin)}
        results[f"{name} seed {asked.seed}"] = {**found, "hardware": hardware()}
        print(name, found, flush=True)
        path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
