"""The constants of library/calibration.py: lines from raw scores to probabilities, and thresholds for "nothing found".

    NEOCOG_DATA=... [NEOCOG_WEIGHTS=...] python bench/calibration.py [--net efficientnet_lite0] [--fit 1500]

Lines are learned on 1,500 of Flickr8k's training pictures and half of the 200 ImageNet samples; everything is measured
on others: Flickr8k dev (1,000 pictures) and the other half, through `searching.search` on libraries of these pictures.

word: a name or broader term of ImageNet's concepts, searched by the concepts it stands for. On a Flickr8k picture it
    is *right* if at least two captions have a word that is it or lies under it (a spaniel is a dog), *wrong* if no
    caption has a word that shares a concept with it; all else (one caption; *animal* where *dog* was asked) is not
    judged. On an ImageNet sample it is right if the sample's class lies under it. Both sets weigh the same; words with
    nothing right in a set are left out of fitting: people look for what they believe to be there. A word has *no
    answer* in a library if it is wrong for each of its pictures.
example, output: pairs of Flickr8k pictures, right if they share two caption nouns (bench/retrieval.py). Pictures
    without an answer in Flickr8k are the ImageNet samples of animals other than those that Flickr8k's nouns name.
text: a word of one caption of a picture (the first), right if one of its other captions has it.

Writes bench/results/calibration-NET.json, and prints what to copy.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from retrieval import caption_nouns

from neocog.fit.device import hardware
from neocog.library.calibration import Line, fit_line, log_odds
from neocog.library.concepts import Match, vocabulary
from neocog.library.embed import Embedder
from neocog.library.indexing import index
from neocog.library.query import Query, Word
from neocog.library.searching import search
from neocog.library.store import Store
from neocog.library.view import View, unit, view_of

DATA = Path(os.environ.get("NEOCOG_DATA", "data"))
WORDS = vocabulary("imagenet")
SEVERAL = 3  # right pictures that a Flickr8k word needs to be judged


class Set:
    """A library of pictures, with what is right: `judged` int8 (N, Q), 1 right, 0 wrong, -1 not judged."""

    def __init__(self, folder: Path, pictures: Sequence[bytes], embedder: Embedder) -> None:
        (folder / "x").mkdir(parents=True)  # names without words: only what the pictures show is to count
        for i, data in enumerate(pictures):
            (folder / "x" / f"{i:05d}.jpg").write_bytes(data)
        self.store, self.net = Store.create(folder / ".neocog"), embedder.name
        index(self.store, [folder / "x"], embedder)
        self.view: View = view_of(self.store)
        # duplicates have one row, and rows are in the order of hashes
        self.order = np.array([int(Path(self.view.paths(row)[0]).stem) for row in range(len(self.view))])
        self.judged = np.zeros((len(self.view), 0), np.int8)


def expected_error(p: np.ndarray, right: np.ndarray, bins: int = 10) -> float:
    """Return the expected calibration error: mean |share right - mean p| over bins of p, weighted by their size."""
    p, right = np.asarray(p, np.float64), np.asarray(right, np.float64)
    place = np.minimum((p * bins).astype(int), bins - 1)
    gaps = [abs(right[place == b].mean() - p[place == b].mean()) * (place == b).mean() for b in np.unique(place)]
    return float(np.sum(gaps))


def queries() -> list[tuple[str, Match]]:
    """Every name and broader term that stands for another set of concepts, with that set."""
    found: dict[tuple[int, ...], tuple[str, Match]] = {}
    for name in WORDS.spellings:
        match = WORDS.find(name, typos=False)
        if match is not None and match.how in ("name", "broader"):
            found.setdefault(match.concepts, (name, match))
    return list(found.values())


def judge_captions(rows: Sequence[Sequence[str]], asked: Sequence[tuple[str, Match]]) -> np.ndarray:
    """Return int8 (N, Q) for pictures with these captions (see above)."""
    sets: dict[frozenset[int], int] = {}
    cache: dict[str, int | None] = {}

    def meaning(text: str) -> int | None:
        if text not in cache:
            match = WORDS.find(text, typos=False)
            good = match is not None and match.how in ("name", "broader")
            cache[text] = sets.setdefault(frozenset(match.concepts), len(sets)) if good and match else None
        return cache[text]

    spoken: list[list[set[int]]] = []
    for captions in rows:
        own = []
        for caption in captions:
            words = re.findall(r"[a-z]+", caption.lower())
            texts = [" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)]
            own.append({m for t in texts if (m := meaning(t)) is not None})
        spoken.append(own)
    wanted = [frozenset(match.concepts) for _, match in asked]
    under = np.array([[one <= whole for whole in wanted] for one in sets], bool)
    touch = np.array([[bool(one & whole) for whole in wanted] for one in sets], bool)
    out = np.full((len(rows), len(asked)), -1, np.int8)
    for i, own in enumerate(spoken):
        said = np.array([under[list(s)].any(axis=0) if s else np.zeros(len(asked), bool) for s in own])
        related = np.array([touch[list(s)].any(axis=0) if s else np.zeros(len(asked), bool) for s in own])
        out[i, ~related.any(axis=0)] = 0
        out[i, said.sum(axis=0) >= 2] = 1
    return out


def judge_labels(labels: Sequence[int], asked: Sequence[tuple[str, Match]]) -> np.ndarray:
    """Return int8 (N, Q) for pictures of these classes."""
    return np.array([[label in match.concepts for _, match in asked] for label in labels], np.int8)


def fit_words(sets: Sequence[tuple[Set, int]], asked: Sequence[tuple[str, Match]]) -> Line:
    """Return the line for words, each set weighing the same; a word counts in a set with so many right pictures."""
    xs, rights, weights = [], [], []
    for one, least in sets:
        x, right = [], []
        for q, (_, match) in enumerate(asked):
            judged = one.judged[:, q]
            if (judged == 1).sum() >= least:
                some = judged >= 0
                x.append(log_odds(one.view.probabilities(one.net, match.concepts)[some]))
                right.append(judged[some] == 1)
        xs.append(np.concatenate(x))
        rights.append(np.concatenate(right))
        weights.append(np.full(len(xs[-1]), 1 / len(xs[-1])))
    return fit_line(np.concatenate(xs), np.concatenate(rights), np.concatenate(weights))


def measure_words(one: Set, least: int, asked: Sequence[tuple[str, Match]], line: Line, steps: Sequence[float]) -> dict:
    """Return what each threshold finds, and the calibration error, on pictures that were not learned from."""
    one.store.save("calibration", {one.net: {"word": {"slope": line.slope, "shift": line.shift, "n": line.n}}})
    found = {t: {"right": 0, "wrong": 0, "silent": 0} for t in steps}
    answered = unanswered = all_right = 0
    said, truth = [], []
    for q, (name, match) in enumerate(asked):
        judged = one.judged[:, q]
        if (judged == 0).all():
            kind = "none"
            unanswered += 1
        elif (judged == 1).sum() >= least:
            kind = "some"
            answered += 1
            all_right += int((judged == 1).sum())
            p = line(log_odds(one.view.probabilities(one.net, match.concepts)))
            said.append(p[judged >= 0])
            truth.append(judged[judged >= 0] == 1)
        else:
            continue
        query = Query((Word(name),), duplicates=True)
        hits = search(one.store, query, threshold=min(steps), top=len(one.view))
        rows = one.view.rows_of([hit.hash for hit in hits])
        scores = np.array([hit.score for hit in hits])
        for t in steps:
            reached = judged[rows[scores >= t]] if len(rows) else judged[:0]
            if kind == "none":
                found[t]["silent"] += len(reached) == 0
            else:
                found[t]["right"] += int((reached == 1).sum())
                found[t]["wrong"] += int((reached == 0).sum())
    rows_out = [
        {
            "threshold": t,
            "found of what is there": f["right"] / max(all_right, 1),
            "right among hits": f["right"] / max(f["right"] + f["wrong"], 1),
            "nothing found where nothing is": f["silent"] / max(unanswered, 1),
        }
        for t, f in found.items()
    ]
    error = expected_error(np.concatenate(said), np.concatenate(truth))
    return {"words with answer": answered, "words without": unanswered, "calibration error": error, "rows": rows_out}


def alike(one: Set, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (z float (N, N), rows): likeness of all pairs, less that of random pairs, over its deviation."""
    rows, vectors = one.view.vectors(one.net, layer)
    mean, spread = one.view.pairs(one.net, "cosine", layer)
    whole = unit(vectors, layer)
    return (whole @ whole.T - mean) / spread, rows


def shared(nouns: Sequence[set[str]]) -> np.ndarray:
    """Return bool (N, N): which pictures share two nouns."""
    names = sorted({n for one in nouns for n in one})
    table = np.array([[n in one for n in names] for one in nouns], np.float32)
    return table @ table.T >= 2


def measure_examples(one: Set, right: np.ndarray, layer: str, line: Line, strangers: np.ndarray) -> dict:
    """Return what thresholds do for the pictures of a set as examples, and for those that have no answer in it."""
    z, _ = alike(one, layer)
    p = line(z)
    np.fill_diagonal(p, 0)
    pairs = np.triu_indices(len(p), 1)
    mean, spread = one.view.pairs(one.net, "cosine", layer)
    foreign = line((strangers @ unit(one.view.vectors(one.net, layer)[1], layer).T - mean) / spread)
    relevant = right & ~np.eye(len(right), dtype=bool)
    some = relevant.any(axis=1)
    rows = []
    for t in np.round(np.arange(0.04, 0.42, 0.02), 2):
        hit = p >= t
        rows.append(
            {
                "threshold": float(t),
                "find something": float(hit[some].any(axis=1).mean()),
                "find something right": float((hit & relevant)[some].any(axis=1).mean()),
                "right among hits": float((hit & relevant).sum() / max(hit.sum(), 1)),
                "nothing found where nothing is": float((~(foreign >= t).any(axis=1)).mean()),
            }
        )
    return {
        "examples": int(some.sum()),
        "without answer": len(strangers),
        "calibration error": expected_error(p[pairs], right[pairs]),
        "rows": rows,
    }


def fit_text(captions: Sequence[Sequence[str]], one: Set) -> Line:
    """Return the line for text, from a library whose pictures have their first caption only."""
    import pyarrow as pa

    from neocog.library.concepts import STOP_WORDS
    from neocog.library.fulltext import FullText, words_of

    table = one.view.table
    first = pa.array([[captions[i][0]] for i in one.order], pa.list_(pa.string()))
    text = FullText(table.set_column(table.column_names.index("captions"), "captions", first))
    others = [{w for c in captions[i][1:] for w in words_of(c)} for i in one.order]
    x, right = [], []
    for word in sorted({w for i in one.order for w in words_of(captions[i][0])} - STOP_WORDS):
        score = text.score([word])
        rows = np.flatnonzero(score > 0)
        x.append(score[rows])
        right.append(np.array([word in others[r] for r in rows]))
    return fit_line(np.concatenate(x), np.concatenate(right))


def not_understood(captions: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Measure how often a word that the net does not know holds, where another word of its caption does.

    For each picture's first caption, each pair of a word that is a concept and one that is none: of the other pictures
    whose captions have the first, the share whose captions have the second (`calibration.UNKNOWN`).
    """
    from neocog.library.concepts import STOP_WORDS
    from neocog.library.fulltext import words_of

    has: dict[str, set[int]] = {}
    for i, several in enumerate(captions):
        for word in {w for caption in several for w in words_of(caption)}:
            has.setdefault(word, set()).add(i)
    known = {word: WORDS.find(word, typos=False) is not None for word in has}
    shares = []
    for i, several in enumerate(captions):
        words = set(words_of(several[0])) - STOP_WORDS
        for one in (w for w in words if known[w]):
            others = has[one] - {i}
            shares += [len(others & has[w]) / len(others) for w in words if others and not known[w]]
    return {"pictures": len(captions), "pairs": len(shares), "share": round(float(np.mean(shares)), 4)}


def flickr(split: str, n: int | None) -> tuple[list[bytes], list[list[str]]]:
    """Return pictures and captions, `n` of them spread over the split."""
    table = pq.read_table(DATA / "flickr8k" / f"{split}.parquet")
    rows = np.arange(len(table)) if n is None else np.linspace(0, len(table) - 1, min(n, len(table))).astype(int)
    some = table.take(rows).to_pylist()
    return [row["image"]["bytes"] for row in some], [row["captions"] for row in some]


def main() -> None:
    """Learn, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=int, default=1500, help="Flickr8k training pictures to learn from")
    parser.add_argument("--test", type=int, help="Flickr8k dev pictures to measure on; default: all")
    parser.add_argument("--net", default="mobilenet_v1_075", help="with ImageNet weights")
    parser.add_argument("--out")
    given = parser.parse_args()
    embedder = Embedder(given.net, amount=2_000)
    samples = pq.read_table(DATA / "imagenet_samples.parquet").to_pylist()
    asked = queries()
    with tempfile.TemporaryDirectory() as folder:
        sets = {}
        for name, split, n in (("fit", "train", given.fit), ("test", "dev", given.test)):
            pictures, captions = flickr(split, n)
            one = sets["flickr", name] = Set(Path(folder) / f"flickr-{name}", pictures, embedder)
            one.judged = judge_captions([captions[i] for i in one.order], asked)
            one.captions = captions  # type: ignore[attr-defined]
            half = samples[name == "test" :: 2]
            two = sets["imagenet", name] = Set(
                Path(folder) / f"imagenet-{name}", [row["image"]["bytes"] for row in half], embedder
            )
            two.labels = [half[i]["label"] for i in two.order]  # type: ignore[attr-defined]
            two.judged = judge_labels(two.labels, asked)  # type: ignore[attr-defined]
        lines = {"word": fit_words([(sets["flickr", "fit"], SEVERAL), (sets["imagenet", "fit"], 1)], asked)}
        steps = [round(t, 2) for t in np.arange(0.1, 0.75, 0.05)]
        result: dict[str, Any] = {
            "word that is not known": {
                name: not_understood(
                    pq.read_table(DATA / "flickr8k" / f"{name}.parquet").column("captions").to_pylist()
                )
                for name in ("train", "dev")
            },
            "word, ImageNet": measure_words(sets["imagenet", "test"], 1, asked, lines["word"], steps),
            "word, Flickr8k": measure_words(sets["flickr", "test"], SEVERAL, asked, lines["word"], steps),
        }
        nouns = {
            name: shared([caption_nouns(one.captions[i]) for i in one.order])  # type: ignore[attr-defined]
            for name in ("fit", "test")
            for one in (sets["flickr", name],)
        }
        foreign = WORDS.find("animal")
        known = [WORDS.find(w) for w in ("dog", "cat", "bird", "horse", "cow", "sheep", "duck", "fish")]
        assert foreign is not None
        strange = set(foreign.concepts) - {c for match in known if match for c in match.concepts}
        for kind, layer in (("example", "features"), ("output", "output")):
            z, _ = alike(sets["flickr", "fit"], layer)
            a, b = np.triu_indices(len(z), 1)
            lines[kind] = fit_line(z[a, b], nouns["fit"][a, b])
            parts = []
            for name in ("fit", "test"):  # neither was learned from here
                one = sets["imagenet", name]
                rows, vectors = one.view.vectors(one.net, layer)
                mine = [i for i, r in enumerate(rows) if one.labels[r] in strange]  # type: ignore[attr-defined]
                parts.append(unit(vectors[mine], layer))
            result[kind] = measure_examples(
                sets["flickr", "test"], nouns["test"], layer, lines[kind], np.concatenate(parts)
            )
        lines["text"] = fit_text(sets["flickr", "fit"].captions, sets["flickr", "fit"])  # type: ignore[attr-defined]
    for name, found in result.items():
        print(name, {k: v for k, v in found.items() if k != "rows"})
        for row in found.get("rows", ()):
            print("   ", "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    print(f"{given.net}: {{")
    for kind, line in lines.items():
        print(f'    "{kind}": Line({line.slope:.3g}, {line.shift:.3g}, {line.n:_}),')
    print("}")
    whole = {
        "net": given.net, "fit": given.fit, "test": given.test or 1000, "queries": len(asked),
        "lines": {k: [v.slope, v.shift, v.n] for k, v in lines.items()}, "measured": result,
        "hardware": hardware(), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    out = Path(given.out or f"bench/results/calibration-{given.net}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
