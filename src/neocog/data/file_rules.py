"""What `check` says about files: broken, odd, doubled, leaking between splits."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from neocog.data.duplicates import as_groups, connected
from neocog.data.findings import KEPT, Example, Facts, Finding, Rule, counted
from neocog.records import SPLITS

# where a rule begins to speak
_LONG = 3.0  # long side against short side: a square crop from the middle shows a third
_SMALL, _LARGE = 4, 8  # times smaller, or larger, than the median side
_TELLS = 0.2  # share of pictures that the file's format classifies better than always saying the largest class
_NEAR_LEAK = 0.01  # share of a split that near duplicates may leak before it is an error


def broken(f: Facts) -> Iterator[Finding | None]:
    rows, n, severity = sorted(f.seen.reasons), len(f.source), "warning"
    advice = "Training skips them. Replace or delete them, so that no class loses pictures unnoticed."
    if len(rows) == n:
        severity, advice = "error", "Nothing is left to train on. Are these pictures, and is the copy complete?"
    title = f"{len(rows):,} of {counted(n)} cannot be read"
    yield f.finding("unreadable", severity, "", advice, rows, f.seen.reasons.__getitem__, title=title)


def odd(f: Facts) -> Iterator[Finding | None]:
    problems = f.source.problems
    if problems:
        shown = tuple((Example(-1, problem.key, note=problem.reason),) for problem in problems[:KEPT])
        yield Finding(
            "unlisted", "warning", f"{counted(len(problems), 'entry')} could not be used while listing", len(problems),
            "They are not part of the data. The reason is given for each.", shown, max(0, len(problems) - KEPT),
        )  # fmt: skip
    yield f.finding(
        "blank", "warning", "of a single colour",
        "A blank picture teaches nothing, and no label fits it. Delete them.",
        np.flatnonzero(f.seen.readable & f.seen.look.flat),
    )  # fmt: skip
    known = np.flatnonzero(f.seen.readable)
    if not len(known):
        return
    wide, high = f.seen.sizes[known].T
    short, long = np.minimum(wide, high), np.maximum(wide, high)
    typical = float(np.median(short))

    def size(i: int) -> str:
        return f"{f.seen.sizes[i, 0]} x {f.seen.sizes[i, 1]}"

    yield f.finding(
        "small", "warning", f"at least {_SMALL} times smaller than the median of {typical:.0f} pixels",
        "Enlarged, they are blurred and teach little; thumbnails often end up beside originals. Replace them.",
        known[short * _SMALL <= typical], size,
    )  # fmt: skip
    yield f.finding(  # a collection of strips is meant to be one: what is long is long beside the others
        "long_shape", "hint", "more than three times as long as wide, or as wide as long",
        "A net sees a square cut from the middle, never the ends. Cut such pictures into parts.",
        known[(long / short > _LONG) & (long / short > 1.5 * np.median(long / short))], size,
    )  # fmt: skip
    yield f.finding(
        "large", "hint", f"more than {_LARGE} times as large as the median",
        "They work, but decoding them takes most of the time. Scale them down once.",
        known[long > _LARGE * np.median(long)], size,
    )  # fmt: skip


def told_by_format(f: Facts) -> Iterator[Finding | None]:
    """Do format and colour mode alone predict the class? Then a net learns the camera, not the object."""
    rows = np.flatnonzero(f.seen.readable & (f.source.labels >= 0))
    k = len(f.source.classes)
    if not f.single or len(rows) < 20 or k < 2:
        return
    table = np.zeros((len(f.seen.kind_names), k), np.int64)
    np.add.at(table, (f.seen.kinds[rows], f.source.labels[rows]), 1)
    told, base = table.max(axis=1).sum() / len(rows), table.sum(axis=0).max() / len(rows)
    if told - base < _TELLS:
        return
    kinds = [f"{fmt} {mode}" for fmt, mode in f.seen.kind_names]
    best = [f"{kinds[i]} is mostly {f.source.classes[int(table[i].argmax())]!r}" for i in np.argsort(-table.sum(1))[:3]]
    yield Finding(
        "format_tells", "warning",
        f"the file format alone predicts the class of {told:.0%} of the pictures (guessing: {base:.0%})", len(rows),
        f"{'; '.join(best)}. A net can learn traces of the format instead of the object, and fails on pictures from "
        "elsewhere. Convert all pictures to one format and one colour mode.",
    )  # fmt: skip


def leaks(f: Facts) -> Iterator[Finding | None]:
    """Each picture that has a copy in an earlier split, said once."""
    told = np.empty(0, np.int64)
    for name, pairs, what in (
        ("exact", _all_exact(f), "an exact copy"),
        ("near", f.near, "a near copy (rescaled, recompressed, slightly cut)"),
        ("mirrored", f.mirrored, "a mirrored copy"),
    ):
        found = _leaked(f, pairs)
        new = ~np.isin(found[:, 0], told)
        if name != "exact":  # look-alikes of two classes make no test easier, see `conflict_near`
            labels = f.source.labels[found].reshape(-1, 2)
            new &= (labels[:, 0] == labels[:, 1]) | (labels < 0).any(1) | (not f.single)
        told = np.concatenate([told, found[:, 0]])
        yield _leak(f, f"leak_{name}", found[new], what)


def _leaked(f: Facts, pairs: np.ndarray) -> np.ndarray:
    """Return (picture, twin in an earlier split), once for each picture; train comes before val, val before test."""
    splits = f.source.splits[pairs]
    crossing = (splits >= 0).all(axis=1) & (splits[:, 0] != splits[:, 1])
    pairs, splits = pairs[crossing], splits[crossing]
    pairs = np.where((splits[:, 1] > splits[:, 0])[:, None], pairs[:, ::-1], pairs)
    pairs = pairs[np.argsort(f.source.splits[pairs[:, 1]], kind="stable")]  # a twin in train is the worst
    return pairs[np.unique(pairs[:, 0], return_index=True)[1]]


def _leak(f: Facts, name: str, pairs: np.ndarray, what: str) -> Finding | None:
    parts, severity = [], "error" if name == "leak_exact" else "warning"
    for code in (2, 1):
        mine = pairs[f.source.splits[pairs[:, 0]] == code]
        if not len(mine):
            continue
        size = int((f.source.splits == code).sum())
        if len(mine) > _NEAR_LEAK * size:
            severity = "error"
        where = " or ".join(SPLITS[c] for c in sorted(set(f.source.splits[mine[:, 1]].tolist())))
        parts.append(f"{len(mine):,} of {size:,} {SPLITS[code]} pictures have {what} in {where}")
    return f.finding(
        name, severity, "",
        "The net is tested on pictures that it was trained on, so the measured accuracy is too high. Delete the "
        "copies from the split that measures ('neocog check DATA --json' lists them), or put all pictures into class "
        "folders without split folders: neocog then divides them itself, with copies on one side.",
        list(pairs), title="; ".join(parts), count=len(pairs),
    )  # fmt: skip


def _all_exact(f: Facts) -> np.ndarray:
    """Pairs (first copy, copy), and also (first copy in each split, copy): a leak need not involve the first."""
    if not len(f.exact):
        return f.exact
    leader = np.arange(len(f.source))
    leader[f.exact[:, 1]] = f.exact[:, 0]
    members = np.unique(f.exact)
    _, at = np.unique(np.stack([leader[members], f.source.splits[members]], 1), axis=0, return_index=True)
    firsts = members[at]  # the first copy in each split of each set of copies
    order = np.argsort(leader[firsts], kind="stable")
    groups = np.split(firsts[order], np.flatnonzero(np.diff(leader[firsts][order])) + 1)
    by_leader = {int(leader[group[0]]): group for group in groups}
    pairs = [(int(one), int(m)) for m in members for one in by_leader[int(leader[m])] if one != m]
    return np.array(pairs, np.int64).reshape(-1, 2)


def conflicts(f: Facts) -> Iterator[Finding | None]:
    mirrored = ", or, if left and right make the difference, train with --set flip=none"
    for name, severity, pairs, what, more in (
        ("exact", "error", f.exact, "equal files", ""),
        ("near", "warning", f.near, "near copies", ""),
        ("mirrored", "warning", f.mirrored, "mirrored copies", mirrored),
    ):
        labels = f.source.labels[pairs]
        differ = (labels >= 0).all(axis=1) & (labels[:, 0] != labels[:, 1]) & f.single
        groups = _groups(f, pairs[differ])
        yield f.finding(
            f"conflict_{name}", severity, f"in {counted(len(groups), 'group')} of {what} with different labels",
            "At most one of the labels is right. Look at each group, keep the picture under the right label and delete "
            f"the others; if both are right, use a table with a column of several labels{more}.", groups,
        )  # fmt: skip


def _groups(f: Facts, pairs: np.ndarray) -> list[np.ndarray]:
    return as_groups(connected(len(f.source), pairs))


def copies(f: Facts) -> Iterator[Finding | None]:
    paths = [(f.source.path(a), f.source.path(b)) for a, b in f.exact.tolist()]
    linked = np.array([a is not None and b is not None and os.path.samefile(a, b) for a, b in paths], dtype=bool)
    pairs = f.exact[~linked]
    groups = _groups(f, pairs)
    yield f.finding(
        "copies_exact", "hint", "", "Copies count twice in training and in every figure. Keep one of each.", groups,
        title=f"{counted(len(pairs), 'superfluous copy')} of {counted(len(groups), 'file')}", count=len(pairs),
    )  # fmt: skip
    pairs = f.exact[linked]
    yield f.finding(
        "links", "hint", "",
        "Such a picture counts twice in training and in every figure. Open the folder with the links alone, or the one "
        "with the pictures.", _groups(f, pairs),
        title=f"{counted(len(pairs), 'link')} to pictures that are listed themselves", count=len(pairs),
    )  # fmt: skip
    groups = _groups(f, f.near)
    yield f.finding(
        "copies_near", "hint", f"in {counted(len(groups), 'group')} of near copies",
        "Where no split is declared, neocog keeps each group on one side, so nothing leaks. Series of one scene are "
        "worth less than their number: more variety helps more.", groups,
    )  # fmt: skip


def stored(f: Facts) -> Iterator[Finding | None]:
    yield f.finding(
        "rotated", "hint", "stored rotated or mirrored, with an EXIF orientation",
        "neocog turns them upright. Tools that ignore EXIF show and learn them rotated; "
        "'exiftran -ai FILES' (or jhead -autorot) rewrites the files.", np.flatnonzero(f.seen.rotated),
    )  # fmt: skip
    yield f.finding(
        "misnamed", "hint", "whose extension does not match the format",
        "neocog goes by the content. Tools that trust the extension will fail: rename them.",
        np.flatnonzero(f.seen.misnamed), lambda i: "is " + f.seen.kind_names[f.seen.kinds[i]][0],
    )  # fmt: skip
    yield f.finding(
        "animated", "hint", "with several frames or pages",
        "Only the first frame is used. If the others matter, save them as separate files.",
        np.flatnonzero(f.seen.animated),
    )  # fmt: skip


RULES: tuple[Rule, ...] = (broken, leaks, conflicts, odd, told_by_format, copies, stored)
