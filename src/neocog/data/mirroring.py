"""Whether the mirror image of a picture still belongs to the picture's class: by the names of the classes, by looking.

Names: left and right, in many languages, single letters and digits, clockwise, brackets. Evidence: mirrored copies
that lie in other classes, and a small classifier (kernel ridge regression on thumbnails) that is fitted on pictures as
they are and then asked about mirror images that it has not seen. Where mirroring changes nothing, it tells two classes
apart on mirror images as well as on plain ones, or by chance. Where it takes one class for the other more often than
chance allows, mirroring turns one into the other. Numbers and tags are judged in the same way: where what it says of
mirror images runs against the value, mirroring reverses the value.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from neocog.data.duplicates import flipped_thumbs, near_and_mirrored
from neocog.data.kinds import Categories, Numbers
from neocog.data.source import Source
from neocog.data.survey import survey
from neocog.records import SPLITS, counted

LOOK_AT = 1000  # pictures that the classifier sees
_FEWEST = 10  # pictures of a class that can say anything
_MOST_CLASSES = 50  # that leaves 20 pictures each
_FALSE_ALARMS = 1e-4  # in data where mirroring changes nothing
_FOLDS = 3
_RIDGE = 0.02
_COPIES = 5  # mirrored copies in other classes from which on they are no accident

# What stands for left and for right: parts of words, without accents. A pair counts only if both names are there.
_SIDES = """
left right|link recht|gauche droit|gauche droite|izquierd derech|izq der|izda dcha|esquerd direit|esquerd dereit
sinistr destr|sx dx|esquerra dreta|stang dreapt|venstre højre|venstre høyre|venstre hojre|vanster hoger|vasen oikea
vasemma oikea|лев прав|лів прав|ляв дясн|лев десн|lew praw|lev prav|lijev desn|lev desn|bal jobb|sol sag|kair desin
vasak parem|ezker eskuin|αριστερ δεξι|שמאל ימין|يسار يمين|چپ راست|बाए दाए|बाय दाय|左 右|ひだり みぎ|왼 오른|좌 우
trai phai|kiri kanan|ซาย ขวา|maldekstr dekstr|sinister dexter|sinistral dextral|laevus dexter|port starboard
levo dextro|northeast northwest|southeast southwest|clockwise counterclockwise|clockwise counter clockwise
clockwise anticlockwise|clockwise anti clockwise|horaire antihoraire|horario antihorario|orario antiorario
slash backslash|< >|( )|[ ]|{ }|/ \\|« »
""".replace("\n", "|")
# ... as whole words only
_WORDS = "l r|os od|lhs rhs|lh rh|lt rt|cw ccw|ne nw|se sw|lt gt|leq geq|s z"
# ... only where the rest of the name says that a direction is meant: a species may be called after the east
_COMPASS = "east west|ost west|est ouest|este oeste|восток запад|東 西|东 西"
_ABOUT_DIRECTIONS = frozenset(
    "north south arrow arrows sign facing heading going bound wind lane direction view looking nord sud sued".split()
)
# Words that add nothing to a single letter: "lower_b", "digit 3"
_ABOUT_LETTERS = frozenset(
    "letter digit numeral character char glyph symbol lower upper small capital lowercase uppercase buchstabe ziffer "
    "lettre chiffre letra cifra lettera".split()
)
_FILLERS = frozenset("a an the to of on in at and is der die das la le les el il de du".split())


@dataclass(frozen=True)
class Mirroring:
    """Whether a mirror image keeps its class, and why, as a sentence's part."""

    allowed: bool
    why: str


def _pairs(text: str) -> list[tuple[str, str]]:
    """``"left right|clockwise counter clockwise"`` -> pairs; the first of a pair is one word."""
    both = (_bare(pair).split(" ", 1) for pair in text.split("|") if pair.strip())
    return [(first, second) for first, second in both]


def _bare(text: str) -> str:
    """Lower case, without accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))


_PARTS, _WHOLE, _DIRECTIONS = _pairs(_SIDES), _pairs(_WORDS), _pairs(_COMPASS)
_SIDED = 0.05  # share of samples whose sentences name a side, from which on mirror images contradict them


def by_texts(texts: Iterable[Sequence[str]]) -> Mirroring | None:
    """What the sentences of some pictures say of mirroring; None if hardly any names a side."""
    stems = [word for pair in _PARTS for word in pair if " " not in word and word.isalpha()]
    whole, beginnings = frozenset(stems), tuple(stem for stem in stems if len(stem) > 4)
    sided = [
        any(word in whole or word.startswith(beginnings) for text in of for word in re.findall(r"\w+", _bare(text)))
        for of in texts
    ]
    share = sum(sided) / max(1, len(sided))
    if share < _SIDED:
        return None
    return Mirroring(False, f"{100 * share:.0f} % of the sentences' pictures name a left or a right")


def _plain(name: str) -> str:
    """Lower case without accents, words separated by one space: "ArrowLeft", "arrow_left" -> "arrow left"."""
    name = re.sub(r"(?<=[a-zà-ÿ0-9])(?=[A-ZÀ-Þ])", " ", name)
    return " ".join(re.sub(r"[\s_.,;:\-]+", " ", _bare(name)).split())


def _without(name: str, side: str, *, part: bool) -> Iterator[tuple[str, ...]]:
    """What is left of a name, as sorted words, when a side is taken out of it: as a word, and if wanted in words."""
    if f" {side} " in f" {name} ":
        yield _rest(f" {name} ".replace(f" {side} ", " ◧ "))
    elif part and side in name:
        yield _rest(name.replace(side, "◧"))


def _rest(name: str) -> tuple[str, ...]:
    return tuple(sorted(word for word in name.split() if word not in _FILLERS))


def named_sides(classes: Sequence[str]) -> tuple[str, str] | None:
    """Two classes whose names differ by a side only, such as "turn left ahead" and "turn right ahead"; or None."""
    names = [_plain(name) for name in classes]
    for pairs, part, only in ((_PARTS, True, None), (_WHOLE, False, None), (_DIRECTIONS, False, _ABOUT_DIRECTIONS)):
        for left, right in pairs:
            found: dict[tuple[str, ...], int] = {}
            for i, name in enumerate(names):
                # "counterclockwise" holds "clockwise": the longer of the two is looked for first
                if part and len(right) > len(left) and left in right and right in name:
                    continue
                for rest in _without(name, left, part=part):
                    found[rest] = i
            for i, name in enumerate(names):
                for rest in _without(name, right, part=part):
                    if found.get(rest, i) != i and (only is None or set(rest) - {"◧"} <= only):
                        return classes[found[rest]], classes[i]
    return None


def characters(classes: Sequence[str]) -> bool:
    """Whether classes are letters or digits, whose mirror images are something else: "b", "digit 3", "lower_d"."""
    names = [[word for word in _plain(name).split() if word not in _ABOUT_LETTERS] for name in classes]
    single = sum(len(words) == 1 and len(words[0]) == 1 and words[0].isalnum() for words in names)
    numbered = any(word.isdigit() and len(word) > 1 for words in names for word in words)  # 0 to 19 are no digits
    return single > 1 and 2 * single >= len(classes) and not numbered


def by_names(classes: Sequence[str]) -> Mirroring | None:
    """What the names of the classes say; None if nothing."""
    if characters(classes):
        return Mirroring(False, "the classes are letters or digits")
    if pair := named_sides(classes):
        return Mirroring(False, f"by their names the classes {pair[0]!r} and {pair[1]!r} are mirror images")
    return None


def judge(classes: Sequence[str], labels: np.ndarray, thumbs: np.ndarray, copies: np.ndarray) -> Mirroring:
    """Decide by names, mirrored copies and looks.

    Args:
        labels: (N,), index into `classes`, -1 = not to be looked at.
        thumbs: uint8 (N, 288), see `duplicates.Look`.
        copies: pairs (P, 2) of rows of which one is a near copy of the other mirrored, and only so.
    """
    if said := by_names(classes):
        return said
    both = labels[copies]
    both = both[(both >= 0).all(axis=1)]
    swapped = int((both[:, 0] != both[:, 1]).sum())
    if swapped >= _COPIES and 2 * swapped > len(both):
        return Mirroring(
            False, f"{swapped:,} of {len(both):,} mirrored copies are in a different class from the original"
        )
    rows, part = _chosen(labels)
    if found := _swapped(labels[rows], thumbs[rows], part):
        first, second, share, n = found
        return Mirroring(
            False,
            f"of {n} pictures of {classes[first]!r} and {classes[second]!r} {share:.0%} look like the other class when "
            "mirrored",
        )
    looked = f"neither the class names nor a test on {counted(len(rows))} speaks against it"
    return Mirroring(True, looked if len(rows) else "the class names do not speak against it")


def to_look_at(source: Source, readable: np.ndarray, indices: np.ndarray | None = None) -> np.ndarray:
    """Labels (N,) of the pictures by which mirroring may be judged, -1 for others: unreadable or declared as test."""
    rows = np.arange(len(source)) if indices is None else indices
    return np.where(readable & (source.splits[rows] != SPLITS.index("test")), source.labels[rows], -1)


def decide(source: Source) -> Mirroring:
    """Decide by names and by a look at some of the pictures, if they have not been looked at anyway."""
    if said := by_names(source.classes):
        return said
    rows, _ = _chosen(to_look_at(source, np.ones(len(source), bool)))
    seen = survey(source, rows, details=False)
    _, copies = near_and_mirrored(seen.look)
    return judge(source.classes, to_look_at(source, seen.readable, rows), seen.look.thumbs, copies)


def _chosen(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows to look at, about as many of each class, always the same ones, and the fold of each."""
    order = np.random.default_rng(0).permutation(len(labels))
    order = order[labels[order] >= 0]
    order = order[np.argsort(labels[order], kind="stable")]
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    within = np.arange(len(order)) - np.repeat(starts, counts)
    usable = np.repeat(counts >= _FEWEST, counts)
    if (counts >= _FEWEST).sum() > _MOST_CLASSES:  # the classes with the most pictures
        floor = np.sort(counts)[-_MOST_CLASSES]
        usable &= np.repeat(counts >= floor, counts)
    kept = usable & (within < max(_FEWEST, LOOK_AT // max(1, len(np.unique(labels[order][usable])))))
    return order[kept], within[kept] % _FOLDS


def _swapped(labels: np.ndarray, thumbs: np.ndarray, fold: np.ndarray) -> tuple[int, int, float, int] | None:
    """The two classes that mirroring turns into each other most surely, the share of their pictures, and how many."""
    there, y = np.unique(labels, return_inverse=True)
    k, n = len(there), np.bincount(labels, minlength=1)[np.unique(labels)]
    if k < 2:
        return None
    scores, reference = _asked(thumbs, fold, np.eye(k, dtype=np.float32)[y] - 1 / k)
    # of the pictures of class a, the share of those that are taken for b rather than for a
    share, usual = (
        np.stack([(s[y == a] > s[y == a, a][:, None]).mean(axis=0) for a in range(k)]) for s in (scores, reference)
    )
    # the mean of both directions: a class that everything resembles wins one and loses the other
    share, usual = (share + share.T) / 2, (usual + usual.T) / 2
    sure = (share - 0.5) / (np.sqrt(0.25 / n[:, None] + 0.25 / n) / 2)
    sure = np.where(usual < 0.5, np.triu(sure, 1), 0)  # what cannot be told apart anyway says nothing
    a, b = np.unravel_index(int(sure.argmax()), sure.shape)
    if sure[a, b] <= math.sqrt(2 * math.log(max(1, k * (k - 1) // 2) / _FALSE_ALARMS)):
        return None
    return int(there[a]), int(there[b]), float(share[a, b]), int(n[a] + n[b])


def _asked(thumbs: np.ndarray, fold: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the classifier says of mirror images and of the pictures as they are, (N, K) each, none of which it saw."""
    plain, negative = features(thumbs), features(thumbs, negative=True)
    mirrored = flipped_thumbs(thumbs)
    mirrored, mirrored_negative = features(mirrored), features(mirrored, negative=True)
    scores, reference = np.empty(targets.shape, np.float32), np.empty(targets.shape, np.float32)
    for f in range(_FOLDS):
        seen, asked = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
        known, width = plain[seen], _width(plain[seen])
        ridge = _RIDGE * np.eye(len(seen), dtype=np.float32)
        weights = np.linalg.solve(_kernel(known, negative[seen], known, width) + ridge, targets[seen])
        scores[asked] = _kernel(mirrored[asked], mirrored_negative[asked], known, width) @ weights
        reference[asked] = _kernel(plain[asked], negative[asked], known, width) @ weights
    return scores, reference


def decide_by_values(source: Source, column: Numbers | Categories) -> Mirroring | None:
    """Decide for numbers or tags by a look at some of the pictures; None if nothing speaks against mirroring."""
    rows = np.flatnonzero(column.known & (source.splits != SPLITS.index("test")))
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:LOOK_AT])
    if len(rows) < 2 * _FEWEST:
        return None
    seen = survey(source, rows, details=False)
    values = np.array([column[i] for i in rows[seen.readable].tolist()], np.float64)
    found = reversed_value(values, seen.look.thumbs[seen.readable])
    if found is None:
        return None
    name = column.names[found]
    return Mirroring(False, f"of {len(values):,} pictures, {name!r} looks reversed when they are mirrored")


def reversed_value(values: np.ndarray, thumbs: np.ndarray) -> int | None:
    """The column of `values` (N, D; nan = not known) that mirroring reverses most surely, such as a steering angle.

    It can be told from pictures as they are, and what is told from their mirror images runs against it.
    """
    known = ~np.isnan(values)
    counts = known.sum(axis=0)
    scaled = np.where(known, values, 0) - np.where(known, values, 0).sum(axis=0) / counts.clip(1)
    scaled = np.where(known, scaled, 0)
    spread = np.sqrt((scaled**2).sum(axis=0) / counts.clip(1))
    scaled = (scaled / np.where(spread > 0, spread, 1)).astype(np.float32)
    fold = np.random.default_rng(0).permutation(len(values)) % _FOLDS
    alike = np.zeros((2, values.shape[1]))
    for row, said in enumerate(_asked(thumbs, fold, scaled)):
        for d in np.flatnonzero((spread > 0) & (counts >= 2 * _FEWEST)):
            told, there = said[known[:, d], d], scaled[known[:, d], d]
            alike[row, d] = np.corrcoef(told, there)[0, 1] if told.std() > 0 else 0.0
    sure = np.where(alike[1] > 0, -alike[0] * np.sqrt(counts), 0)
    best = int(sure.argmax())
    return best if sure[best] > math.sqrt(2 * math.log(len(sure) / _FALSE_ALARMS)) else None


def features(thumbs: np.ndarray, *, negative: bool = False) -> np.ndarray:
    """float32 (N, 360): brightness, edges by direction (in 4x4 cells, in cells around their centre, anywhere), colour.

    `negative`: of the same pictures with dark and light exchanged, in their colours.
    """
    n = len(thumbs)
    grey = thumbs[:, :256].astype(np.float32).reshape(n, 16, 16) * (-1 if negative else 1)
    down, across = (np.gradient(grey, axis=axis) for axis in (1, 2))
    strength = np.hypot(down, across)
    angle = np.arctan2(down, across) * 4 / np.pi  # in eighths of a turn
    edges = np.stack([strength * (1 - np.abs((angle - d + 4) % 8 - 4)).clip(0) for d in range(8)], axis=1)
    light = grey.reshape(n, 8, 2, 8, 2).mean((2, 4)).reshape(n, 64)
    parts = [
        light - light.mean(axis=1, keepdims=True),
        *(np.sqrt(e.reshape(n, 8, 4, 4, 4, 4).mean((3, 5))).reshape(n, 128) for e in (edges, _centred(edges))),
        np.sqrt(edges.mean((2, 3))),
    ]
    parts = [p / np.maximum(np.linalg.norm(p, axis=1, keepdims=True), 1e-6) for p in parts]
    return np.concatenate([*parts, (thumbs[:, 256:].astype(np.float32) - 128) / 64], axis=1).astype(np.float32)


def _centred(edges: np.ndarray) -> np.ndarray:
    """(N, 8, 16, 16): each moved so that the centre of its edges lies in the middle."""
    weight = (edges**2).sum(axis=1)
    weight /= np.maximum(weight.sum((1, 2), keepdims=True), 1e-9)
    i = np.arange(16)
    middle = ((weight.sum(axis).reshape(-1, 16) * i).sum(1) for axis in (2, 1))
    rows, columns = (i + np.rint(m - 7.5).astype(int)[:, None] for m in middle)
    padded = np.pad(edges, ((0, 0), (0, 0), (1, 1), (1, 1)))  # what comes in from outside is zero
    rows, columns = rows.clip(-1, 16) + 1, columns.clip(-1, 16) + 1
    moved = padded[np.arange(len(edges))[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.transpose(0, 3, 1, 2)


def _kernel(x: np.ndarray, negative: np.ndarray, known: np.ndarray, width: float) -> np.ndarray:
    """How alike pictures are, (N, M); a dark arrow on light ground is like a light one on dark ground."""
    return (np.exp(-_squares(x, known) / width) + np.exp(-_squares(negative, known) / width)) / 2


def _width(x: np.ndarray) -> float:
    return max(float(np.median(_squares(x, x))), 1e-6)


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances (N, M)."""
    return ((a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T).clip(0)
