"""Making a sentence space of a trained run: its towers as arrays, and what its cosines mean.

A cosine says which of two pictures fits a sentence better, but not whether any does. So queries as people type them,
words and pairs of neighbouring words of captions, are asked of pictures that were not learned from; the chance that a
caption of a picture has the words is fitted to the cosine.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from neocog.errors import DataError
from neocog.text.space import LONG, Space, words_of

_FUNCTION_WORDS = frozenset(
    "a an the of to in on at by for from with and or is are was were be been being it its his her their he she they "
    "this that there while as up down out off over under into onto near next behind through across against around "
    "some one two three several other another each who which what has have having very".split()
)
_QUERIES = 600  # of one word, and as many of two
_USUAL, _REFUSED = 0.3, 0.97  # threshold if no absent queries are given; share of them for which nothing is found
# The least threshold. For 8 in 10 words and pairs of the captions of 500 photographs something is found with 0.02, of
# which every tenth has them in a caption; for 6 in 10 with 0.05, of which every sixth has.
_LEAST = 0.03
_USUALS = 256  # places of each side that say what is usual
_RANK, _PICTURES = 128, 8  # of the heads of words, and pictures that must have a word in a caption
_NUMBERS = {"two", "three", "four", "several"}
_AT_ONCE, _ROUNDS, _RATE, _DECAY = 256, 80, 2e-3, 0.02  # of learning them
_LENGTH = 25.0  # of a place, as they learn from it
_ENDS, _SHORTEST = {"ies": "y", "sses": "ss", "ing": "", "es": "", "s": "", "ed": ""}, 3
_SURE = 2  # captions of a picture that must have a query's words; with fewer, but some, nobody knows
# a tower's arrays -> the tensors of the head of match-captions
_NAMES = {
    "out": "texts.out",
    "windows": "texts.windows",
    "picture": "pictures.out",
    "hidden": "pictures.hidden",
    "more": "pictures.more",
}


def of_run(folder: Path | str, trunk: str, **about: Any) -> Space:
    """The towers of a finished run of the task match on captions, without a calibration.

    Args:
        trunk: what a library calls the weights whose features the run reads.
        about: further facts to be kept.

    Raises: DataError: another task, another tower, or a trunk that was trained, too.
    """
    net = json.loads((Path(folder) / "net.json").read_text("utf-8"))
    task, weights = net["task"], load_file(Path(folder) / "weights.safetensors")
    kind = task.get("tokenizer", {}).get("kind")
    if task.get("tower") != "sentence" or task.get("reads") != "mean" or kind != "subwords":
        raise DataError(
            f"{folder} cannot become a sentence space: expected the task match on captions with tower=sentence and "
            f"reads=mean, found {task.get('name')} with {task.get('tower')} and {task.get('reads')}"
        )
    learned = weights["answer.texts.learned.weight"]
    seen = np.flatnonzero(learned.any(1))  # those of tokens in no training text are still 0
    made = {"0.tokens": seen.astype(np.int32), "0.learned": learned[seen]}
    for own, theirs in _NAMES.items():
        start = f"answer.{theirs}."
        made |= {f"0.{own}.{k.removeprefix(start)}": v for k, v in weights.items() if k.startswith(start)}
    return Space(made, {"format": 2, "trunk": trunk, "tokenizer": task["tokenizer"], **about})


def tensors_of(space: Space, size: int) -> dict[str, np.ndarray]:
    """The first tower of a space as tensors of the head of a net that goes on from there, the inverse of `of_run`.

    `size`: number of tokens. What is learned of a token begins at 0 where the space has nothing of it.
    """
    learned = np.zeros((size, space.weights["0.learned"].shape[1]), np.float32)
    learned[space.weights["0.tokens"]] = space.weights["0.learned"]
    made = {"texts.learned.weight": learned}
    for name, value in space.weights.items():
        tower, _, rest = name.partition(".")
        first, _, last = rest.partition(".")
        if tower == "0" and first in _NAMES:
            made[f"{_NAMES[first]}.{last}"] = np.array(value, np.float32)
    return made


def joined(spaces: Sequence[Space]) -> Space:
    """One space of several for the same trunk: the cosines are their means."""
    made: dict[str, np.ndarray] = {}
    for n, space in enumerate(spaces):
        made |= {f"{n}.{k.split('.', 1)[1]}": v for k, v in space.weights.items() if k.startswith("0.")}
    return Space(made, spaces[0].about)


def evened(space: Space, features: np.ndarray, captions: Sequence[Sequence[str]]) -> Space:
    """The same space that knows what is usual (`Space._less_usual`): of `_USUALS` pictures that were learned from."""
    bare = Space({k: v for k, v in space.weights.items() if not k.startswith("usual.")}, space.about)
    some = np.random.default_rng(0).permutation(len(features))[:_USUALS]
    texts = [captions[i][k % len(captions[i])] for k, i in enumerate(some.tolist())]
    usual = {"usual.pictures": bare.pictures(features[some]), "usual.sentences": bare.sentences(texts)}
    return Space({**bare.weights, **usual}, bare.about)


def hearing(space: Space, features: np.ndarray, captions: Sequence[Sequence[str]]) -> Space:
    """The same space with a head of its own for each word that stands often in captions (`Space.heads`).

    A head learns by logistic regression (AdamW) how many captions of a picture have a form of the word; what they all
    read of a place is common. ``about["words"]`` must be there.

    Args:
        features: (views, N, F) of the pictures that `captions` belong to.
    """
    said = [[{_stem(word) for word in words_of(text)} for text in of] for of in captions]
    having = Counter(stem for of in said for stem in set().union(*of))
    barred = {_stem(word) for word in _FUNCTION_WORDS - _NUMBERS}
    stems = sorted(stem for stem, count in having.items() if count >= _PICTURES and stem not in barred)
    place = {stem: k for k, stem in enumerate(stems)}
    wanted = np.zeros((len(captions), len(stems)), np.float32)
    for row, of in enumerate(said):
        for text in of:
            wanted[row, [place[stem] for stem in text if stem in place]] += 1 / len(of)
    bare = Space({k: v for k, v in space.weights.items() if not k.startswith("words.")}, space.about)
    width = bare.dimensions - 2 * ("usual.sentences" in bare.weights)
    x = _LENGTH * np.stack([bare.pictures(view)[:, :width] for view in features])
    y = np.sqrt(wanted)  # half of the captions say nearly as much as all of them
    usual, random = y.mean(0), np.random.default_rng(0)
    inner = (random.standard_normal((_RANK, width)) / _LENGTH).astype(np.float32)
    outer = (random.standard_normal((len(stems), _RANK)) / 100).astype(np.float32)
    bias = np.log(usual / np.maximum(1 - usual, 1e-3)).astype(np.float32)
    steps = _ROUNDS * -(-len(captions) // _AT_ONCE)
    adam = [(np.zeros_like(one), np.zeros_like(one)) for one in (inner, outer, bias)]
    for step in range(1, steps + 1):
        rows = random.integers(len(captions), size=_AT_ONCE)
        seen = x[random.integers(len(x), size=_AT_ONCE), rows]
        read = seen @ inner.T
        off = (1 / (1 + np.exp(-(read @ outer.T + bias).clip(-30, 30))) - y[rows]) / _AT_ONCE
        slopes = ((off @ outer).T @ seen, off.T @ read, off.sum(0))
        rate = _RATE * min(10 * step / steps, (1 + math.cos(math.pi * step / steps)) / 2)
        for value, slope, (first, second) in zip((inner, outer, bias), slopes, adam, strict=True):
            first += 0.1 * (slope - first)
            second += 0.01 * (slope**2 - second)
            value *= 1 - rate * _DECAY
            value -= rate * first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
    made = {"inner": _LENGTH * inner, "outer": outer, "bias": bias, "usual": np.log(usual)}
    rows_of = np.array([place.get(_stem(word), -1) for word in space.about["words"]], np.int32)
    kept = {f"words.{name}": value for name, value in made.items()}
    return Space({**bare.weights, **kept, "words.of": rows_of}, space.about)


def _stem(word: str) -> str:
    """What forms of a word have in common: dog, dogs; run, runs, running."""
    for end, instead in _ENDS.items():
        if word.endswith(end) and len(word) - len(end) >= _SHORTEST:
            word = word[: -len(end)] + instead
            break
    if len(word) > _SHORTEST and word[-1] == word[-2] and word[-1] not in "ls":  # running
        word = word[:-1]
    return word[:-1] if len(word) > _SHORTEST + 1 and word.endswith("e") else word  # riding, ride


def calibrated(
    space: Space,
    features: np.ndarray,
    captions: Sequence[Sequence[str]],
    absent: Sequence[str] = (),
    seen: Callable[[str], np.ndarray | None] = lambda text: None,
) -> Space:
    """The same space with how its cosines become probabilities, and from which on a picture is shown.

    Args:
        features: (N, F) of pictures that were not learned from, and `captions` of each, several if possible.
        absent: queries that none of these pictures answers; for 97 in 100 of them nothing is to be found, which
            decides from which probability on a picture is shown.
        seen: for a text, what `Space.probability` takes as `seen` of these pictures.
    """
    from sklearn.linear_model import LogisticRegression

    pictures, words = space.pictures(features), [[words_of(text) for text in of] for of in captions]
    random = np.random.default_rng(0)
    queries = _queries(words, random)
    short, longer = len(queries), _longer(words, random) if "words.of" in space.weights else []
    rows, answers = [], []

    def told(query: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Products, and what the net's classes and the words say of all pictures."""
        heads, added = space.heads(query)
        heard = space.heard(pictures @ heads.T, added) if len(added) else None
        return pictures @ space.sentences([query])[0], seen(query), heard

    for k, query in enumerate(map(" ".join, [*queries, *longer])):
        counts = np.array([sum(set(query.split()) <= set(text) for text in of) for of in words])
        least = min(_SURE, min(map(len, words))) if k < short else 1
        known = (counts == 0) | (counts >= least)
        products, *more = told(query)
        rare = np.full(len(products), math.log(space.share(query)))
        said = np.full(len(products), min(LONG, len(space.heads(query)[1])))
        seen_heard = (np.zeros(len(products)) if one is None else one for one in more)
        columns = (products, rare, *seen_heard, said * products, said)
        rows.append(np.stack(columns, 1)[known])
        answers.append(counts[known] >= least)
    fitted = LogisticRegression(C=1e4, max_iter=500).fit(np.concatenate(rows), np.concatenate(answers))
    *found, of_length = map(float, fitted.coef_[0])
    about = {  # what a caption says in more words is less probable; but captions leave out most of what is to be seen
        "shift": float(fitted.intercept_[0]) + 2 * of_length,
        **dict(zip(("cosine", "rare", "seen", "heard", "longer"), found, strict=True)),
        "threshold": _USUAL, "queries": len(queries) + len(longer), "absent": len(absent), "pictures": len(features),
    }  # fmt: skip
    for k, name in ((2, "seen"), (3, "heard"), (4, "longer")):
        if not any(row[:, k].any() for row in rows):
            del about[name]
    made = Space(space.weights, {**space.about, "calibration": about})
    if len(absent):
        best = [made.probability(products, query, *more).max() for query in absent for products, *more in [told(query)]]
        about["threshold"] = max(_LEAST, float(np.quantile(best, _REFUSED)))
    return made


def shares(captions: Sequence[Sequence[str]], least: int) -> dict[str, float]:
    """Of each word that stands at least so often in captions: the share of the pictures that have it in one."""
    times = Counter(word for of in captions for text in of for word in words_of(text))
    having = Counter(word for of in captions for word in {word for text in of for word in words_of(text)})
    return {word: round(having[word] / len(captions), 5) for word in sorted(times) if times[word] >= least}


def _queries(captions: Sequence[Sequence[Sequence[str]]], random: np.random.Generator) -> list[tuple[str, ...]]:
    """Words and pairs of neighbouring words of captions that are no function words; as many rare as frequent ones."""
    singles: Counter[tuple[str, ...]] = Counter()
    pairs: Counter[tuple[str, ...]] = Counter()
    for of in captions:
        telling = [[w if w not in _FUNCTION_WORDS else "" for w in text] for text in of]
        singles.update({(w,) for text in telling for w in text if w})
        pairs.update({(a, b) for text in telling for a, b in pairwise(text) if a and b})
    found: list[tuple[str, ...]] = []
    for counts in (singles, pairs):
        several = sorted(query for query, count in counts.items() if count > 1)
        chosen = random.permutation(len(several))[:_QUERIES]
        found += [several[int(k)] for k in np.sort(chosen)]
    return found


def _longer(captions: Sequence[Sequence[Sequence[str]]], random: np.random.Generator) -> list[tuple[str, ...]]:
    """Three and four neighbouring telling words of captions, and whole captions, of each as many."""
    found: list[tuple[str, ...]] = []
    for count in (3, 4, LONG):
        made: set[tuple[str, ...]] = set()
        for of in captions:
            for text in of:
                telling = tuple(word for word in text if word not in _FUNCTION_WORDS)
                if len(telling) >= count:
                    first = int(random.integers(len(telling) - count + 1))
                    made.add(telling[first : first + count])
        some = sorted(made)
        found += [some[int(k)] for k in np.sort(random.permutation(len(some))[: _QUERIES // 2])]
    return found
