"""How good is searching: by example on CIFAR-10 and photographs, by word with a net's own concepts; what choices cost.

    NEOCOG_DATA=... NEOCOG_WEIGHTS=... python bench/retrieval.py [--run RUN] [--only cifar10 flickr sizes ablation int8]

**By example, CIFAR-10 test** (leave one out: each of the 10,000 pictures is a query for the 9,999 others; relevant: the
same class). Mean average precision over whole rankings, and the share of relevant ones among the first 10, for pixels
(32x32x3, less the mean, cosine), for the features of MobileNet v1 0.75 trained on ImageNet, and for a speednet trained
on CIFAR-10's training split (`--run`, a run folder; without it one is trained for `--epochs`).

**By example, Flickr8k dev** (1,000 photographs, five captions each). A picture's nouns are those of `NOUNS` that stand
in at least two of its captions, in singular or plural; words of one meaning count as one noun, all people are the noun
*person*, and colours, clothes, parts of the body and positions are left out. Two pictures are relevant to each other
if they share at least two nouns (*dog* and *grass*; *person* and *bike*). Queries without a relevant picture are left
out. Captions were written without knowing each other, so not even a perfect search finds all and only these.

**By word**: a class's name is searched by the probabilities that the net itself gives; CIFAR-10 test with the run's own
ten classes, and the 1,000 concepts of ImageNet mapped to the ten words by names and broader terms (*automobile*,
*deer* has none); Flickr8k dev with every noun of `NOUNS` that is a concept, relevant: it is among the picture's nouns.

**Sizes**: the figures for Flickr8k dev, when the net sees the centre of a picture, or its whole short side, at less
and less detail.

**int8**: the default trunk in 8-bit integers (as ``neocog export --int8`` writes it), on Flickr8k dev.

**Ablation**: the same by-example figures for MobileNet with another layer, pooling, metric, whitening, number type or
index; and for those that only approximate: the share of the ten nearest of exact float32 search that they find
(recall@10).

Writes bench/results/retrieval.json and prints tables. `--n` takes that many pictures of each set: to see that it runs.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neocog import fit
from neocog.data import open_source
from neocog.data.decode import prepare
from neocog.data.source import Source
from neocog.engine.engines import OnnxRuntime, OpenVino, Shared, agreement
from neocog.engine.graph import write_graph
from neocog.export.given import Pixels
from neocog.export.writing import quantise
from neocog.fit.device import hardware
from neocog.library.concepts import singulars, vocabulary
from neocog.library.embed import Embedder, _sample
from neocog.library.view import unit
from neocog.nets.packages import DEFAULT
from neocog.records import SPLITS

MOBILENET = "mobilenet_v1_075"
BATCH = 64
LAYERS = ["blocks.4.1", "blocks.4.0", "blocks.3.5", "blocks.2.1"]  # the last one, before it, ...

# Nouns of at least 20 of Flickr8k's training pictures; the words after a colon mean the same.
NOUNS = {
    name: (name, *also.split())
    for name, _, also in (
        entry.strip().partition(":")
        for entry in """
    person: man boy woman girl people child kid guy lady baby toddler player crowd couple adult rider surfer skier
    biker bicyclist cyclist climber hiker skateboarder snowboarder motorcyclist bride group team friend swimmer
    runner; dog: puppy greyhound shepherd terrier retriever poodle labrador collie; horse; bird: seagull duck;
    sheep; cow; cat; water; grass; snow; sand; dirt; mud; rock: boulder stone; mountain; hill; cliff; tree; forest:
    wood woods jungle; leaf; flower; river: stream creek; lake: pond; ocean: sea; beach: shore; wave: surf;
    waterfall; pool; puddle; ice; desert; sky; night; sun: sunset; rain; fire; smoke; field; path: trail; road:
    street; sidewalk; city; park; yard; playground; court; track; race; parade; wedding; game; football; soccer;
    basketball; baseball; tennis; volleyball; hockey; rugby; golf; ball; frisbee; stick; toy; bone; rope; leash;
    bubble; balloon; swing; slide; trampoline; hurdle; bike: bicycle; motorcycle: motorbike; car; truck; bus; train;
    boat: canoe kayak raft sailboat; tractor; cart; sled; skateboard; snowboard; ski; surfboard; ramp; rail:
    railing; stair: step; bench; chair; couch; table; bed; window; door; wall; fence; bridge; tunnel; tower;
    building; house; store: shop; restaurant; kitchen; dock: pier; fountain; statue; tent; flag; sign; graffiti;
    umbrella; camera; guitar; microphone; book; newspaper; phone: cellphone; bottle; cup; bag: backpack; food; cake;
    paint; mask; costume; instrument; drum; stage; market; subway; tube; pole; log; branch; bush; sprinkler; hose;
    bucket; shopping; fish: fishing; rodeo; gym; climbing; skating; trick
    """.replace("\n", " ").split(";")
    )
}


# ---- pictures and features


def pictures_of(source: Source, split: str | None, n: int | None) -> np.ndarray:
    """Return the rows of a split, or of `n` pictures spread over it."""
    rows = np.flatnonzero(source.splits == SPLITS.index(split)) if split else np.arange(len(source))
    return rows if n is None or n >= len(rows) else rows[np.linspace(0, len(rows) - 1, n).astype(int)]


def features_of(embedder: Embedder, source: Source, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return features float32 (N, D) and probabilities float32 (N, K)."""
    features, probabilities = [], []
    for start in range(0, len(rows), BATCH):
        one, two = embedder.embed([source.read(int(i)) for i in rows[start : start + BATCH]])
        features.append(one)
        probabilities.append(two)
        if start % (BATCH * 20) == 0:
            print(f"\r{embedder.name}: {start:,} of {len(rows):,}", end="", flush=True)
    print("\r", end="")
    return np.concatenate(features), np.concatenate(probabilities)


def pixels_of(source: Source, rows: np.ndarray) -> np.ndarray:
    """Return the pixels, float32 (N, 3072), less their mean over the set."""
    from neocog.data.decode import decode

    def pixels(i: int) -> np.ndarray:
        picture = source.read(i)
        return decode(picture) if isinstance(picture, bytes) else picture

    flat = np.stack([pixels(int(i)).reshape(-1) for i in rows]).astype(np.float32)
    return flat - flat.mean(axis=0)


def caption_nouns(captions: Sequence[str]) -> set[str]:
    """Return the nouns of `NOUNS` that stand in at least two captions."""
    meant = {word: noun for noun, words in NOUNS.items() for word in words}
    counts: dict[str, int] = {}
    for caption in captions:
        words = re.findall(r"[a-z]+", caption.lower())
        for noun in {meant[f] for word in words for f in (word, *singulars(word)) if f in meant}:
            counts[noun] = counts.get(noun, 0) + 1
    return {noun for noun, count in counts.items() if count >= 2}


def flickr(split: str = "dev") -> Source:
    """Return Flickr8k's official split, pictures and captions in Parquet."""
    import os

    return open_source(Path(os.environ["NEOCOG_DATA"]) / "flickr8k" / f"{split}.parquet")


def shared_nouns(source: Source, rows: np.ndarray) -> np.ndarray:
    """Return bool (N, N): which pictures share at least two nouns; the diagonal is False."""
    found = [caption_nouns(source.sample(int(i)).captions) for i in rows]
    names = sorted(NOUNS)
    table = np.array([[name in one for name in names] for one in found], np.float32)
    relevant = table @ table.T >= 2
    np.fill_diagonal(relevant, False)
    return relevant


# ---- measures


def quality(
    likeness: Callable[[slice], np.ndarray], relevant: Callable[[slice], np.ndarray], n: int, chunk: int = 500
) -> dict[str, float]:
    """Return mAP and P@10 over N leave-one-out queries.

    `likeness(queries)` float (Q, N) and `relevant(queries)` bool (Q, N) are asked for a slice of queries at a time. A
    query's own picture is taken out; queries with nothing relevant are not counted.
    """
    precisions, firsts = [], []
    for start in range(0, n, chunk):
        part = slice(start, min(start + chunk, n))
        scores, right = np.array(likeness(part), np.float32), np.array(relevant(part), bool)
        own = np.arange(part.start, part.stop)
        scores[own - start, own] = -np.inf
        right[own - start, own] = False
        order = np.argsort(-scores, axis=1, kind="stable")[:, : n - 1]
        hit = np.take_along_axis(right, order, axis=1)
        some = hit.any(axis=1)
        hit = hit[some]
        found = np.cumsum(hit, axis=1)
        at = found / np.arange(1, hit.shape[1] + 1)
        precisions.append((at * hit).sum(axis=1) / hit.sum(axis=1))
        firsts.append(hit[:, :10].mean(axis=1))
    precision, first = np.concatenate(precisions), np.concatenate(firsts)
    return {"mAP": float(precision.mean()), "P@10": float(first.mean()), "queries": len(precision)}


def by_cosine(vectors: np.ndarray) -> Callable[[slice], np.ndarray]:
    """Return the likeness function of the cosine."""
    whole = normalised(vectors)
    return lambda part: whole[part] @ whole.T


def by_distance(vectors: np.ndarray) -> Callable[[slice], np.ndarray]:
    """Return the likeness function of minus the squared Euclidean distance."""
    squares = (vectors**2).sum(axis=1)
    return lambda part: 2 * vectors[part] @ vectors.T - squares[None] - squares[part, None]


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Return vectors of length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def average_precision(scores: np.ndarray, right: np.ndarray) -> float:
    """Return the average precision of one ranking."""
    hit = right[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(hit) / np.arange(1, len(hit) + 1) * hit).sum() / hit.sum())


# ---- the parts


def cifar10(n: int | None, run: fit.Run, mobilenet: Embedder) -> list[dict[str, Any]]:
    """By example and by word on CIFAR-10 test."""
    source = open_source("cifar10")
    rows = pictures_of(source, "test", n)
    labels = source.labels[rows]

    def same(part: slice) -> np.ndarray:
        return labels[part, None] == labels[None]

    own = Embedder(run, amount=len(rows))
    general, concepts = features_of(mobilenet, source, rows)
    features, chances = features_of(own, source, rows)
    table: list[dict[str, Any]] = []
    for name, vectors in (
        ("pixels", pixels_of(source, rows)),
        (f"{MOBILENET} features", general),
        ("speednet features", features),
        ("speednet output", unit(chances, "output")),
    ):
        table.append({"task": "CIFAR-10 by example", "by": name, **quality(by_cosine(vectors), same, len(rows))})
    words = vocabulary("imagenet")
    for by, probabilities in (("speednet", chances), (f"{MOBILENET}, ImageNet's concepts", concepts)):
        for place, word in enumerate(source.classes):
            if by == "speednet":
                scores: np.ndarray = probabilities[:, run.classes.index(word)]
            else:
                match = words.find(word, typos=False)
                if match is None:
                    print(f"{word!r} is no concept of ImageNet; left out")
                    continue
                scores = probabilities[:, list(match.concepts)].sum(axis=1)
            right = labels == place
            if right.any():
                first = right[np.argsort(-scores, kind="stable")[:10]].mean()
                ap = average_precision(scores, right)
                table.append({"task": f"CIFAR-10 by word {word!r}", "by": by, "mAP": ap, "P@10": first, "queries": 1})
    for by in ("speednet", f"{MOBILENET}, ImageNet's concepts"):
        some = [row for row in table if row["by"] == by and "by word" in row["task"]]
        table.append({"task": "CIFAR-10 by word, mean", "by": by, **_mean(some)})
    return table


def photographs(n: int | None, mobilenet: Embedder) -> list[dict[str, Any]]:
    """By example and by word on Flickr8k dev."""
    source = flickr()
    rows = pictures_of(source, None, n)
    relevant = shared_nouns(source, rows)
    share = float(relevant.mean())
    features, chances = features_of(mobilenet, source, rows)
    chance = np.random.default_rng(0).normal(size=(len(rows), 64)).astype(np.float32)
    table: list[dict[str, Any]] = []
    for name, likeness in (
        (f"chance (relevant: {100 * share:.1f} %)", by_cosine(chance)),
        (f"{MOBILENET} features, cosine", by_cosine(features)),
        (f"{MOBILENET} features, Euclidean", by_distance(features)),
        (f"{MOBILENET} output", by_cosine(unit(chances, "output"))),
    ):
        found = quality(likeness, lambda part: relevant[part], len(rows))
        table.append({"task": "Flickr8k dev by example", "by": name, **found})
    nouns = [caption_nouns(source.sample(int(i)).captions) for i in rows]
    some = by_word(chances, nouns)
    for noun, found in some.items():
        count = sum(noun in one for one in nouns)
        table.append(
            {"task": f"Flickr8k dev by word {noun!r} ({count} pictures)", "by": "ImageNet's concepts", **found}
        )
    if some:
        table.append({"task": "Flickr8k dev by word, mean", "by": "ImageNet's concepts", **_mean([*some.values()])})
    return table


def by_word(chances: np.ndarray, nouns: Sequence[set[str]]) -> dict[str, dict[str, Any]]:
    """Return the figures for every noun of at least five pictures that is a concept of ImageNet."""
    words, some = vocabulary("imagenet"), {}
    for noun in NOUNS:
        match = words.find(noun, typos=False)
        right = np.array([noun in one for one in nouns])
        if match is None or right.sum() < 5:
            continue
        scores = chances[:, list(match.concepts)].sum(axis=1)
        first = float(right[np.argsort(-scores, kind="stable")[:10]].mean())
        some[noun] = {"mAP": average_precision(scores, right), "P@10": first, "queries": 1, "chance": right.mean()}
    return some


def sizes(n: int | None) -> list[dict[str, Any]]:
    """What the net sees of a picture: the crop that ImageNet nets are tested with, or the whole short side, smaller."""
    source = flickr()
    rows = pictures_of(source, None, n)
    relevant = shared_nouns(source, rows)
    nouns = [caption_nouns(source.sample(int(i)).captions) for i in rows]
    table: list[dict[str, Any]] = []
    for size, resize in ((224, 256), (224, 224), (192, 192), (176, 176), (160, 160), (144, 144), (128, 128)):
        embedder = Embedder(MOBILENET, size=size, resize=resize, amount=2_000)
        features, chances = features_of(embedder, source, rows)
        found = quality(by_cosine(features), lambda part: relevant[part], len(rows))
        word = _mean([*by_word(chances, nouns).values()])
        by = f"{size} of {resize} pixels"
        table.append({"task": "size", "by": by, **found, "word mAP": word["mAP"], "word P@10": word["P@10"]})
    return table


def eight_bits(n: int | None) -> list[dict[str, Any]]:
    """The default trunk in 8-bit integers, calibrated on 128 other photographs, beside float32 and bfloat16."""
    source, others = flickr(), flickr("train")
    rows = pictures_of(source, None, n)
    relevant = shared_nouns(source, rows)
    nouns = [caption_nouns(source.sample(int(i)).captions) for i in rows]
    embedder = Embedder(DEFAULT)
    pixels = [prepare(others.read(int(i)), embedder.preprocess) for i in pictures_of(others, None, 128)]
    table: list[dict[str, Any]] = []
    exact: Any = None
    with tempfile.TemporaryDirectory() as folder:
        plain, small = (Path(folder) / name for name in ("float32.onnx", "int8.onnx"))
        write_graph(embedder._seeing, _sample(embedder.preprocess), plain, inputs=[Pixels.name])
        small.write_bytes(plain.read_bytes())
        quantise(small, pixels)
        for by, engine in (
            ("float32, ONNX Runtime", OnnxRuntime(plain)),
            ("bfloat16, OpenVINO", OpenVino(plain, True)),
            ("int8, ONNX Runtime", OnnxRuntime(small)),
            ("int8, OpenVINO", OpenVino(small)),
        ):
            embedder._engine = Shared(engine)
            begin = time.process_time()
            features, chances = features_of(embedder, source, rows)
            used = 1e3 * (time.process_time() - begin) / len(rows)
            exact = exact or (features, chances)
            found = quality(by_cosine(features), lambda part: relevant[part], len(rows))
            word = _mean([*by_word(chances, nouns).values()])
            told = {"word mAP": word["mAP"], "word P@10": word["P@10"], "cosine": agreement([features], exact[:1])}
            told["same best concept"] = float((chances.argmax(1) == exact[1].argmax(1)).mean())
            table.append({"task": "int8", "by": by, **found, **told, "processor ms a picture, decoding too": used})
    return table


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    if not rows:
        return {"mAP": float("nan"), "P@10": float("nan"), "queries": 0}
    return {key: float(np.mean([row[key] for row in rows])) for key in ("mAP", "P@10")} | {"queries": len(rows)}


# ---- ablation


def maps_of(source: Source, rows: np.ndarray, layers: Sequence[str]) -> dict[str, np.ndarray]:
    """Return what MobileNet's layers give, pooled in several ways: "layer, pooling" -> float32 (N, D)."""
    from neocog.data.decode import prepare
    from neocog.nets.weights import build_with_weights, preprocess_for, resolve_weights

    file = resolve_weights(MOBILENET, "imagenet")
    pre = preprocess_for(file, MOBILENET)
    pre = replace(pre, resize=pre.size)  # as a library is indexed
    net = build_with_weights(MOBILENET, "imagenet").eval()
    caught: dict[str, torch.Tensor] = {}
    for layer in layers:
        net.get_submodule(layer).register_forward_hook(lambda m, given, out, name=layer: caught.update({name: out}))
    mean, std = (torch.tensor(v)[:, None, None] for v in (pre.mean, pre.std))
    found: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(rows), BATCH):
        pixels = np.stack([prepare(source.read(int(i)), pre) for i in rows[start : start + BATCH]])
        with torch.inference_mode():
            net((torch.from_numpy(pixels).float() / 255 - mean) / std)
        for layer in layers:
            out = caught[layer].float()
            pooled = {"as it is": out} if out.ndim == 2 else {
                "mean": out.mean((2, 3)),
                "max": out.amax((2, 3)),
                "generalised mean, p = 3": out.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3),
                "2 x 2 means": torch.nn.functional.adaptive_avg_pool2d(out, 2).flatten(1),
            }  # fmt: skip
            for how, values in pooled.items():
                found.setdefault(f"{layer}, {how}", []).append(values.numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def whitened(vectors: np.ndarray, fitted_on: np.ndarray, dimension: int, power: float = 1.0) -> np.ndarray:
    """Return PCA of vectors to `dimension`, each direction divided by its deviation to `power`; learned elsewhere."""
    centre = fitted_on.mean(axis=0)
    _, deviation, directions = np.linalg.svd(fitted_on - centre, full_matrices=False)
    deviation = deviation / np.sqrt(len(fitted_on))
    keep = min(dimension, int((deviation > 1e-4 * deviation[0]).sum()))
    return (vectors - centre) @ directions[:keep].T / np.maximum(deviation[:keep], 1e-9) ** power


def ablation(n: int | None, layers: Sequence[str]) -> list[dict[str, Any]]:
    """Flickr8k dev by example with one thing changed at a time; whitening is learned on training pictures."""
    dev, train = flickr("dev"), flickr("train")
    rows = pictures_of(dev, None, n)
    others = pictures_of(train, None, 2000 if n is None else 2 * n)
    relevant = shared_nouns(dev, rows)
    maps, base = maps_of(dev, rows, layers), f"{layers[0]}, mean"
    usual = maps[base]
    elsewhere = maps_of(train, others, layers[:1])[base]
    exact = _nearest_ten(by_cosine(usual), len(rows))
    table: list[dict[str, Any]] = []

    def add(what: str, likeness: Callable[[slice], np.ndarray], dimension: int, approximate: bool = False) -> None:
        found = quality(likeness, lambda part: relevant[part], len(rows))
        row: dict[str, Any] = {"task": "ablation", "by": what, **found, "numbers": dimension}
        if approximate:
            row["recall@10"] = _overlap(exact, _nearest_ten(likeness, len(rows)))
        table.append(row)
        print(_line(row))

    add(f"{base}, cosine, float32 (the base)", by_cosine(usual), usual.shape[1])
    for name, vectors in maps.items():
        if name != base:
            add(name, by_cosine(vectors), vectors.shape[1])
    add("Euclidean", by_distance(usual), usual.shape[1])
    add("scalar product", lambda part: usual[part] @ usual.T, usual.shape[1])
    add("square root of each number", by_cosine(np.sqrt(np.maximum(usual, 0))), usual.shape[1])
    add("less the mean", by_cosine(usual - elsewhere.mean(axis=0)), usual.shape[1])
    for dimension in (512, 256, 128, 64):
        add(f"PCA to {dimension}", by_cosine(whitened(usual, elsewhere, dimension, 0)), dimension)
        add(f"PCA to {dimension}, half whitened", by_cosine(whitened(usual, elsewhere, dimension, 0.5)), dimension)
        add(f"PCA to {dimension}, whitened", by_cosine(whitened(usual, elsewhere, dimension)), dimension)
    half = normalised(usual).astype(np.float16).astype(np.float32)
    add("half precision", by_cosine(half), usual.shape[1], approximate=True)
    for bits in (8, 4):
        levels = 2**bits - 1
        top = normalised(usual).max(axis=0)
        coarse = np.round(normalised(usual) / np.maximum(top, 1e-9) * levels) / levels * top
        add(f"{bits} bits a number", by_cosine(coarse.astype(np.float32)), usual.shape[1], approximate=True)
    table += indexes(normalised(usual), normalised(elsewhere), relevant)
    return table


def indexes(vectors: np.ndarray, others: np.ndarray, relevant: np.ndarray) -> list[dict[str, Any]]:
    """LanceDB's index types, filled with the pictures and `others` beside them: recall@10 against exact search.

    Only the query set's own pictures count in P@10; the others make the index large enough to be one.
    """
    import lancedb
    import pyarrow as pa

    from neocog.library.rows import vector_column

    whole = np.concatenate([vectors, others])
    exact = np.argsort(-(vectors @ whole.T) - 1e-9, axis=1, kind="stable")[:, 1:11]
    table: list[dict[str, Any]] = []
    kinds: dict[str, dict[str, Any]] = {
        "exact (no index)": {},
        "IVF_FLAT": {"index_type": "IVF_FLAT"},
        "IVF_PQ": {"index_type": "IVF_PQ", "num_sub_vectors": 48},
        "IVF_HNSW_SQ": {"index_type": "IVF_HNSW_SQ"},
        "IVF_HNSW_PQ": {"index_type": "IVF_HNSW_PQ", "num_sub_vectors": 48},
    }
    for kind, options in kinds.items():
        with tempfile.TemporaryDirectory() as folder:
            rows = pa.table({"id": np.arange(len(whole)), "v": vector_column(whole)})
            made = lancedb.connect(folder).create_table("t", rows)
            begin = time.perf_counter()
            if options:
                try:
                    made.create_index("cosine", vector_column_name="v", num_partitions=8, **options)
                except (RuntimeError, ValueError) as error:
                    print(f"{kind}: {error}")
                    continue
            built = time.perf_counter() - begin
            for refine in (None, 2) if options else (None,):
                found, times = [], []
                for query in vectors[: min(len(vectors), 300)]:
                    search: Any = made.search(query, vector_column_name="v")
                    search = search.distance_type("cosine").limit(11)
                    search = search.refine_factor(refine) if refine else search
                    begin = time.perf_counter()
                    ids = search.select(["id", "_distance"]).to_arrow().column("id").to_numpy()
                    times.append(time.perf_counter() - begin)
                    found.append(ids)
                mine = [ids[ids != i][:10] for i, ids in enumerate(found)]
                recall = float(np.mean([len(np.intersect1d(a, exact[i])) / 10 for i, a in enumerate(mine)]))
                row = {
                    "task": "ablation, index", "by": kind + (f", refine {refine}" if refine else ""),
                    "recall@10": recall, "ms": 1000 * float(np.median(times)), "build s": built, "rows": len(whole),
                    "queries": len(found),
                }  # fmt: skip
                table.append(row)
                print(_line(row))
    return table


def _nearest_ten(likeness: Callable[[slice], np.ndarray], n: int) -> np.ndarray:
    scores = np.array(likeness(slice(0, n)))
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :10]


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean([len(np.intersect1d(x, y)) / len(x) for x, y in zip(a, b, strict=True)]))


# ---- running it


def trained(epochs: float, folder: Path) -> fit.Run:
    """Train a speednet on CIFAR-10's training split."""
    fit.train("cifar10", net="speednet", recipe="fast", epochs=epochs, out=folder)
    return fit.Run(folder)


def _line(row: dict[str, Any]) -> str:
    numbers = [
        f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.items()
        if key not in ("task", "by")
    ]
    return f"{row['task']:<42} {row['by']:<52} {'  '.join(numbers)}"


def main() -> None:
    """Measure what was asked for."""
    parts = ("cifar10", "flickr", "sizes", "ablation", "int8")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--run", help="a run folder of a net trained on cifar10")
    parser.add_argument("--epochs", type=float, default=3, help="of the net that is trained if there is no --run")
    parser.add_argument("--layers", nargs="+", default=LAYERS, help="dotted names; the first is what the head reads")
    parser.add_argument("--n", type=int, help="pictures of each set, to see that it runs")
    parser.add_argument("--out", default="bench/results/retrieval.json")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    mobilenet: Any = None if given.only == ["int8"] else Embedder(MOBILENET, amount=2_000)
    begin = time.perf_counter()
    if "cifar10" in given.only:
        with tempfile.TemporaryDirectory() as folder:
            run = fit.Run(given.run) if given.run else trained(given.epochs, Path(folder) / "run")
            rows += cifar10(given.n, run, mobilenet)
    if "flickr" in given.only:
        rows += photographs(given.n, mobilenet)
    if "sizes" in given.only:
        rows += sizes(given.n)
    if "int8" in given.only:
        rows += eight_bits(given.n)
    for row in rows:
        print(_line(row))
    if "ablation" in given.only:
        rows += ablation(given.n, given.layers)
    result = {
        "net": MOBILENET, "n": given.n, "rows": rows,
        "run": Path(given.run).name if given.run else f"speednet, {given.epochs:g} epochs",
        "hardware": hardware(), "torch": torch.__version__, "seconds": time.perf_counter() - begin,
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    out = Path(given.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(out)


if __name__ == "__main__":
    main()
