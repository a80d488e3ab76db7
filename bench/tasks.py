"""What the tasks reach on real data by the call that a user types, beside scikit-learn on the default trunk's features.

    NEOCOG_DATA=... python bench/tasks.py faces-label faces-match points [--seed 0] [--minutes M]
    NEOCOG_DATA=... python bench/tasks.py camvid bccd em flickr8k-tags [--seed 0] [--minutes M]

faces-label: 40 people, 5 pictures each to learn from, 5 to test; error. faces-match: twins learn on 30 people and are
judged on 10 others (equal error rate), beside the cosine of the trunk's features and Fisherfaces. faces-energy: faces
turned by any angle in the picture's plane, and CIFAR-10's pictures as others; LeNet-5 from scratch says in 20 epochs
whether it is a face and its angle, beside the tasks label and number, each with a net of its own. points: 68 points of
faces, mean error over the distance between the eyes' outer corners, beside a ridge regression. camvid, bccd: segment
and detect (at 352 pixels), all else usual, starting from the default trunk; camvid beside a logistic regression of the
trunk's maps at each pixel. em: membranes and cells, 5-fold by blocks of six neighbouring slices, a U-Net of a quarter
of the published width from scratch (`--minutes` are those of a fold), beside gradient boosted trees on filters of the
pixels.
flickr8k-tags: nouns of the captions as tags, beside a logistic regression.

Writes a row for each into bench/results/tasks.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import neocog
from neocog.data import Arrays, open_source
from neocog.data.batches import normalised
from neocog.data.columns import LabelSets
from neocog.data.decode import decode
from neocog.data.kinds import Categories, Numbers
from neocog.fit.device import hardware
from neocog.fit.extract import extract
from neocog.fit.start import open_start
from neocog.nets.trunk import Trunk
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


def faces_energy(out: Path, seed: int, minutes: float | None, views: int = 6, epochs: int = 20) -> dict[str, Any]:
    """Faces in grey, 32 pixels, each turned `views` times; as many others; 22 people learn, 8 validate, 10 test."""
    pictures, people = faces()
    random, strangers = np.random.default_rng(0), np.random.default_rng(0).permutation(40)[30:]
    order = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(40), strangers))
    splits = np.where(np.isin(people, strangers), 2, np.where(np.isin(people, order[22:]), 1, 0))
    other = open_source(DATA / "cifar10" / "train.parquet")
    some = random.permutation(len(other))[: views * len(pictures)]
    both = [p for p in pictures for _ in range(views)] + [decode(other.read(int(i))) for i in some]
    angles = random.uniform(0, 360, len(both))

    def view(picture: np.ndarray, angle: float) -> np.ndarray:  # the square that stays inside when a square is turned
        upright = Image.fromarray(picture).convert("L").resize((64, 64), Image.Resampling.BILINEAR)
        return np.asarray(upright.rotate(angle, Image.Resampling.BILINEAR).crop((9, 9, 55, 55)).resize((32, 32)))

    half = views * len(pictures)
    source = Arrays(
        [view(p, a) for p, a in zip(both, angles, strict=True)],
        ["face"] * half + ["other"] * half,
        splits=np.tile(np.repeat(splits, views), 2),
        columns={"numbers": Numbers(np.where(np.arange(2 * half) < half, angles, np.nan), ("angle",), (360,))},
    )
    m = {}
    for task in ("energy", "label", "number"):
        how: dict[str, Any] = {"net": "lenet5", "epochs": epochs, "seed": seed, "progress": False}
        m[task] = neocog.train(source, task=task, out=out.with_name(task), **how).metrics
    e = m["energy"]
    return {
        "right": e["test_right"], "auc": e["test_auc"], "found": e["test_found"], "refused": e["test_refused"],
        "within 15 degrees": e["test_within_15_degrees"], "mae": e["test_mae"],
        "accuracy of a balanced test": (e["test_found"] + e["test_refused"]) / 2,
        "label alone, accuracy": m["label"]["test_accuracy"], "number alone, mae": m["number"]["test_mae"],
        "n": e["test_n"],
    }  # fmt: skip


def points(out: Path, seed: int, minutes: float | None) -> dict[str, Any]:
    """68 points; the test split is the file's own."""
    learn, test = (open_source(DATA / "points" / f"{name}.parquet") for name in ("train", "test"))
    run = neocog.train(
        DATA / "points" / "train.parquet",
        test=DATA / "points" / "test.parquet",
        task="pose",
        seed=seed,
        out=out,
        minutes=minutes,
        progress=False,
    )
    x, z = (features(_pictures(one)) for one in (learn, test))
    y, t = (np.stack([one.columns["points"][i][:, :2] for i in range(len(one))]) for one in (learn, test))
    plain = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 5, 11))).fit(x, y.reshape(len(y), -1))
    distance = np.linalg.norm(plain.predict(z).reshape(t.shape) - t, axis=2).mean(1)
    between = np.linalg.norm(t[:, 36] - t[:, 45], axis=1)
    return {
        "nme": run.metrics["test_nme"], "ridge on features, nme": float((distance / between).mean()),
        "n": run.metrics["test_n"], "net": run.spec["name"],
    }  # fmt: skip


def _pictures(source: Any) -> list[np.ndarray]:
    return [one if isinstance(one := source.read(i), np.ndarray) else decode(one) for i in range(len(source))]


def camvid(out: Path, seed: int, minutes: float | None) -> dict[str, Any]:
    """Street scenes, 11 classes."""
    run = neocog.train(DATA / "camvid", task="segment", seed=seed, out=out, minutes=minutes, progress=False)
    return {
        "miou": run.metrics["test_miou"], "val_miou": run.metrics["val_miou"],
        "pixel_accuracy": run.metrics["test_pixel_accuracy"],
        "logistic regression on maps, miou": _pixels(), "n": run.metrics["test_n"], "net": run.spec["name"],
    }  # fmt: skip


def _pixels(each: int = 150) -> float:
    """Mean IoU on CamVid's test pictures of a logistic regression of the default trunk's maps at each pixel."""
    start = open_start(TRUNK, say=lambda _: None)
    trunk, random = Trunk(start.net.eval()), np.random.default_rng(0)
    keep = [s for s in trunk.channels if s >= 4]

    def maps(picture: np.ndarray) -> torch.Tensor:
        """All maps from stride 4 on, brought to stride 4: (1, C, H / 4, W / 4)."""
        height, width = (side // 32 * 32 for side in picture.shape[:2])
        x = normalised(torch.from_numpy(picture[:height, :width].copy()).permute(2, 0, 1)[None] / 255, start.preprocess)
        with torch.inference_mode():
            found = trunk.maps(x)
        size = found[keep[0]].shape[-2:]
        return torch.cat([F.interpolate(found[s], size, mode="bilinear") for s in keep], 1)

    source = open_source(DATA / "camvid")
    x, y = [], []
    for i in np.flatnonzero(source.splits == 0):
        mask = source.columns["mask"][int(i)]
        at = maps(decode(source.read(int(i))))[0].flatten(1).T.numpy()
        rows, columns = (np.indices((mask.shape[0] // 32 * 8, mask.shape[1] // 32 * 8)) * 4 + 2).reshape(2, -1)
        true = mask[rows, columns]
        some = random.permutation(np.flatnonzero(true != 255))[:each]
        x.append(at[some])
        y.append(true[some])
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=100))
    plain.fit(np.concatenate(x), np.concatenate(y))
    seen, classes = np.zeros((256, 256)), len(source.columns["mask"].names)
    for i in np.flatnonzero(source.splits == 2):
        mask = source.columns["mask"][int(i)]
        found = maps(decode(source.read(int(i))))
        scores = plain.decision_function(found[0].flatten(1).T.numpy()).T.reshape(1, -1, *found.shape[-2:])
        large = F.interpolate(torch.from_numpy(scores), scale_factor=4, mode="bilinear").argmax(1)[0].numpy()
        true = mask[: large.shape[0], : large.shape[1]]
        np.add.at(seen, (true.ravel(), plain.classes_[large].ravel()), 1)
    seen = seen[:classes, :classes]
    hits = np.diag(seen)
    return float((hits / np.maximum(1, seen.sum(0) + seen.sum(1) - hits)).mean())


def bccd(out: Path, seed: int, minutes: float | None) -> dict[str, Any]:
    """Blood cells."""
    run = neocog.train(DATA / "bccd", task="detect", size=352, seed=seed, out=out, minutes=minutes, progress=False)
    m = run.metrics
    return {"ap50": m["test_ap50"], "map": m["test_map"], "n": m["test_n"], "net": run.spec["name"]}


def em(out: Path, seed: int, minutes: float | None, folds: int = 5) -> dict[str, Any]:
    """Membranes and cells, each fold's test slices a block of neighbours, the three before them for validation.

    Two figures: the share of wrong pixels, and the pixel error of the challenge of 2012, with which published ones are
    to be compared: 1 - the F-score of the cells.
    """
    source = open_source(DATA / "em")
    length: dict[str, Any] = {"minutes": minutes} if minutes else {"epochs": 21}
    errors, challenge, plain = [], [], []
    for fold in range(folds):
        source.splits[:] = 0
        held = np.arange(fold * 6, fold * 6 + 6)
        source.splits[(held[0] - np.arange(1, 4)) % len(source)] = 1
        source.splits[held] = 2
        run = neocog.train(
            source, task="segment", net="unet", net_options={"width": 0.25}, task_options={"tile": 256},
            set={"rotate": 180, "elastic": 8}, seed=seed, out=out.with_name(f"fold{fold}"),
            progress=False, **length,
        )  # fmt: skip
        errors.append(run.metrics["test_pixel_error"])
        overlap = run.metrics["test_per_class"]["cell"]
        challenge.append((1 - overlap) / (1 + overlap))
        plain.append(_trees(source))
        print(f"fold {fold}: {errors[-1]:.4f}, {challenge[-1]:.4f}, trees {plain[-1]:.4f}", flush=True)
    return {
        "pixel_error": float(np.mean(errors)), "folds": errors,
        "challenge_pixel_error": float(np.mean(challenge)), "challenge_folds": challenge, **length,
        "boosted trees on filters, pixel_error": float(np.mean(plain)), "n": 6 * folds, "net": "unet width 0.25",
    }  # fmt: skip


def _trees(source: Any, each: int = 4000) -> float:
    """Pixel error of gradient boosted trees on each pixel's smoothed values, gradients and Hessians."""

    def filtered(i: int) -> np.ndarray:
        grey = decode(source.read(int(i))).astype(np.float32)
        grey = grey.mean(2) if grey.ndim == 3 else grey
        made = [grey]
        for sigma in (1, 2, 4, 8):
            xx, xy, yy = (ndimage.gaussian_filter(grey, sigma, order) for order in ((0, 2), (1, 1), (2, 0)))
            root = np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
            made += [ndimage.gaussian_filter(grey, sigma), ndimage.gaussian_gradient_magnitude(grey, sigma)]
            made += [(xx + yy) / 2 + root, (xx + yy) / 2 - root]
        return np.stack(made, -1).reshape(-1, len(made))

    random, x, y = np.random.default_rng(0), [], []
    for i in np.flatnonzero(source.splits < 2).tolist():
        some = random.choice(512 * 512, each, replace=False)
        x.append(filtered(i)[some])
        y.append(source.columns["mask"][int(i)].ravel()[some])
    trees = HistGradientBoostingClassifier(random_state=0).fit(np.concatenate(x), np.concatenate(y))
    wrong = [
        (trees.predict(filtered(i)) != source.columns["mask"][int(i)].ravel()).mean()
        for i in np.flatnonzero(source.splits == 2).tolist()
    ]
    return float(np.mean(wrong))


def flickr8k_tags(out: Path, seed: int, minutes: float | None, tags: int = 80) -> dict[str, Any]:
    """The nouns that at least two of a photograph's captions have; 6,000 to learn from, 1,000 to test."""
    known = Counter[str]()
    for words, kinds in zip(
        *pq.read_table(DATA / "sentences/conll2000.parquet", columns=["words", "pos"]), strict=True
    ):
        for word, kind in zip(words.as_py(), kinds.as_py(), strict=True):
            known[word.lower()] += 1 if kind in ("NN", "NNS") else -1
    tables = [pq.read_table(DATA / "flickr8k" / f"{name}.parquet") for name in ("train", "dev")]
    nouns = [[_nouns(captions, known) for captions in one["captions"].to_pylist()] for one in tables]
    names = [word for word, _ in Counter(w for one in nouns[0] for w in one).most_common(tags)]
    pictures = [decode(one["bytes"]) for table in tables for one in table["image"].to_pylist()]
    own = [[w for w in one if w in names] for part in nouns for one in part]
    splits = np.repeat([0, 2], [len(one) for one in tables])
    ends, values = np.cumsum([0, *map(len, own)]), [names.index(w) for one in own for w in one]
    column = Categories(LabelSets(ends, np.array(values)), names)
    source = Arrays(pictures, splits=splits, name="flickr8k", columns={"tags": column})
    run = neocog.train(source, task="tags", start=TRUNK, seed=seed, out=out, minutes=minutes, progress=False)
    x, y = features(pictures), np.array([[name in one for name in names] for one in own])
    learn = splits == 0
    plain = make_pipeline(StandardScaler(), OneVsRestClassifier(LogisticRegression(C=0.001, max_iter=300)))
    scores = plain.fit(x[learn], y[learn]).predict_proba(x[~learn])
    return {
        "map": run.metrics["test_map"],
        "logistic regression on features, map": float(average_precision_score(y[~learn], scores, average="macro")),
        "tags": len(names), "n": run.metrics["test_n"], "net": run.spec["name"],
    }  # fmt: skip


def _nouns(captions: list[str], known: Counter[str]) -> list[str]:
    """Words that are mostly nouns in the corpus, in at least two captions, without the plural's s."""

    def base(word: str) -> str:
        return word[:-1] if word.endswith("s") and not word.endswith("ss") and word[:-1] in known else word

    seen = Counter[str]()
    for caption in captions:
        words = {w for w in re.findall("[a-z]+", caption.lower()) if known[w] > 0}
        seen.update({base(w) for w in words})
    return [w for w, times in seen.items() if times >= 2]


ROWS = {
    "faces-label": faces_label,
    "faces-match": faces_match,
    "faces-energy": faces_energy,
    "points": points,
    "camvid": camvid,
    "bccd": bccd,
    "em": em,
    "flickr8k-tags": flickr8k_tags,
}


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
