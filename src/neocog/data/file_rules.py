"""What `check` says about files: broken, odd, doubled, leaking between splits. Each rule makes one finding at most."""

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


def unreadable(f: Facts) -> Finding | None:
    rows = sorted(f.seen.reasons)
    if not rows:
        return None
    n = len(f.source)
    advice = "Training skips them. Replace or delete them, so that no class loses pictures unnoticed."
    severity = "warning"
    if len(rows) == n:
        severity, advice = "error", "Nothing is left to train on. Are these pictures, and is the copy complete?"
    title = f"{len(rows):,} of {counted(n)} cannot be read"
    return f.finding("unreadable", severity, title, len(rows), advice, rows, lambda i: f.seen.reasons[i])


def unlisted(f: Facts) -> Finding | None:
    problems = f.source.problems
    if not problems:
        return None
    shown = tuple((Example(-1, problem.key, note=problem.reason),) for problem in problems[:KEPT])
    return Finding(
        "unlisted", "warning", f"{counted(len(problems), 'entry')} could not be used while listing", len(problems),
        "They are not part of the data. The reason is given for each.", shown, max(0, len(problems) - KEPT),
    )  # fmt: skip


def blank(f: Facts) -> Finding | None:
    rows = np.flatnonzero(f.seen.readable & f.seen.look.flat)
    if not len(rows):
        return None
    return f.finding(
        "blank", "warning", f"{counted(len(rows))} of a single colour", len(rows),
        "A blank picture teaches nothing, and no label fits it. Delete them.", rows,
    )  # fmt: skip


def rotated(f: Facts) -> Finding | None:
    rows = np.flatnonzero(f.seen.rotated)
    if not len(rows):
        return None
    return f.finding(
        "rotated", "hint", f"{counted(len(rows))} stored rotated or mirrored, with an EXIF orientation", len(rows),
        "neocog turns them upright. Tools that ignore EXIF show and learn them rotated; "
        "'exiftran -ai FILES' (or jhead -autorot) rewrites the files.", rows,
    )  # fmt: skip


def animated(f: Facts) -> Finding | None:
    rows = np.flatnonzero(f.seen.animated)
    if not len(rows):
        return None
    return f.finding(
        "animated", "hint", f"{counted(len(rows))} with several frames or pages", len(rows),
        "Only the first frame is used. If the others matter, save them as separate files.", rows,
    )  # fmt: skip


def misnamed(f: Facts) -> Finding | None:
    rows = np.flatnonzero(f.seen.misnamed)
    if not len(rows):
        return None
    return f.finding(
        "misnamed", "hint", f"{counted(len(rows))} whose extension does not match the format", len(rows),
        "neocog goes by the content. Tools that trust the extension will fail: rename them.", rows,
        lambda i: "is " + f.seen.kind_names[f.seen.kinds[i]][0],
    )  # fmt: skip


def odd_sizes(f: Facts) -> Iterator[Finding]:
    known = np.flatnonzero(f.seen.readable)
    if not len(known):
        return
    wide, high = f.seen.sizes[known].T
    short, long = np.minimum(wide, high), np.maximum(wide, high)
    typical = float(np.median(short))

    def note(i: int) -> str:
        return f"{f.seen.sizes[i, 0]} x {f.seen.sizes[i, 1]}"

    # a collection of strips is meant to be one: what is long is long beside the others
    strip = known[(long / short > _LONG) & (long / short > 1.5 * np.median(long / short))]
    small = known[short * _SMALL <= typical]
    large = known[long > _LARGE * np.median(long)]
    found = (
        ("long_shape", "hint", strip, "more than three times as long as wide, or as wide as long",
         "A net sees a square cut from the middle, never the ends. Cut such pictures into parts."),
        ("small", "warning", small, f"at least {_SMALL} times smaller than the median of {typical:.0f} pixels",
         "Enlarged, they are blurred and teach little; thumbnails often end up beside originals. Replace them."),
        ("large", "hint", large, f"more than {_LARGE} times as large as the median",
         "They work, but decoding them takes most of the time. Scale them down once."),
    )  # fmt: skip
    for name, severity, rows, what, advice in found:
        if len(rows):
            yield f.finding(name, severity, f"{counted(len(rows))} {what}", len(rows), advice, rows, note)


def _odd(name: str) -> Rule:
    def rule(f: Facts) -> Finding | None:
        return next((finding for finding in odd_sizes(f) if finding.name == name), None)

    return rule


def format_tells(f: Facts) -> Finding | None:
    """Do format and colour mode alone predict the class? Then a net learns the camera, not the object."""
    rows = np.flatnonzero(f.seen.readable & (f.source.labels >= 0))
    k = len(f.source.classes)
    if not f.single or len(rows) < 20 or k < 2:
        return None
    table = np.zeros((len(f.seen.kind_names), k), np.int64)
    np.add.at(table, (f.seen.kinds[rows], f.source.labels[rows]), 1)
    told, base = table.max(axis=1).sum() / len(rows), table.sum(axis=0).max() / len(rows)
    if told - base < _TELLS:
        return None
    kinds = [f"{fmt} {mode}" for fmt, mode in f.seen.kind_names]
    best = [f"{kinds[i]} is mostly {f.source.classes[int(table[i].argmax())]!r}" for i in np.argsort(-table.sum(1))[:3]]
    return Finding(
        "format_tells", "warning",
        f"the file format alone predicts the class of {told:.0%} of the pictures (guessing: {base:.0%})", len(rows),
        f"{'; '.join(best)}. A net can learn traces of the format instead of the object, and fails on pictures from "
        "elsewhere. Convert all pictures to one format and one colour mode.",
    )  # fmt: skip


def _leaked(f: Facts, pairs: np.ndarray) -> np.ndarray:
    """Return (picture, twin in an earlier split), once for each picture; train comes before val, val before test."""
    splits = f.source.splits[pairs]
    crossing = (splits >= 0).all(axis=1) & (splits[:, 0] != splits[:, 1])
    pairs, splits = pairs[crossing], splits[crossing]
    pairs = np.where((splits[:, 1] > splits[:, 0])[:, None], pairs[:, ::-1], pairs)
    pairs = pairs[np.argsort(f.source.splits[pairs[:, 1]], kind="stable")]  # a twin in train is the worst
    return pairs[np.unique(pairs[:, 0], return_index=True)[1]]


def _leak(f: Facts, name: str, pairs: np.ndarray, what: str) -> Finding | None:
    if not len(pairs):
        return None
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
        name, severity, "; ".join(parts), len(pairs),
        "The net is tested on pictures that it was trained on, so the measured accuracy is too high. Delete the "
        "copies from the split that measures ('neocog check DATA --json' lists them), or put all pictures into class "
        "folders without split folders: neocog then divides them itself, with copies on one side.", list(pairs),
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


def leak_exact(f: Facts) -> Finding | None:
    return _leak(f, "leak_exact", _leaked(f, _all_exact(f)), "an exact copy")


def leak_near(f: Facts) -> Finding | None:
    told = _leaked(f, _all_exact(f))[:, 0]
    pairs = _leaked(f, f.near)
    pairs = pairs[~np.isin(pairs[:, 0], told) & _one_class(f, pairs)]
    return _leak(f, "leak_near", pairs, "a near copy (rescaled, recompressed, slightly cut)")


def leak_mirrored(f: Facts) -> Finding | None:
    told = np.concatenate([_leaked(f, _all_exact(f))[:, 0], _leaked(f, f.near)[:, 0]])
    pairs = _leaked(f, f.mirrored)
    pairs = pairs[~np.isin(pairs[:, 0], told) & _one_class(f, pairs)]
    return _leak(f, "leak_mirrored", pairs, "a mirrored copy")


def _one_class(f: Facts, pairs: np.ndarray) -> np.ndarray:
    """Which pairs have one label, or none: look-alikes of two classes make no test easier, see `conflict_near`."""
    labels = f.source.labels[pairs].reshape(-1, 2)
    return np.asarray((labels[:, 0] == labels[:, 1]) | (labels < 0).any(1) | (not f.single))


def _groups(pairs: np.ndarray, n: int) -> list[np.ndarray]:
    return as_groups(connected(n, pairs))


def _conflict(f: Facts, name: str, severity: str, pairs: np.ndarray, what: str, more: str = "") -> Finding | None:
    if not f.single or not len(pairs):
        return None
    labels = f.source.labels[pairs]
    pairs = pairs[(labels >= 0).all(axis=1) & (labels[:, 0] != labels[:, 1])]
    if not len(pairs):
        return None
    groups = _groups(pairs, len(f.source))
    count = sum(map(len, groups))
    return f.finding(
        name, severity, f"{counted(count)} in {counted(len(groups), 'group')} of {what} with different labels", count,
        "At most one of the labels is right. Look at each group, keep the picture under the right label and delete "
        f"the others; if both are right, use a table with a column of several labels{more}.", groups,
    )  # fmt: skip


def conflict_exact(f: Facts) -> Finding | None:
    return _conflict(f, "conflict_exact", "error", f.exact, "equal files")


def conflict_near(f: Facts) -> Finding | None:
    return _conflict(f, "conflict_near", "warning", f.near, "near copies")


def conflict_mirrored(f: Facts) -> Finding | None:
    more = ", or, if left and right make the difference, train with --set flip=none"
    return _conflict(f, "conflict_mirrored", "warning", f.mirrored, "mirrored copies", more)


def _linked(f: Facts) -> np.ndarray:
    """bool (P,): which pairs of equal files are one file under two names."""
    paths = [(f.source.path(a), f.source.path(b)) for a, b in f.exact.tolist()]
    return np.array([a is not None and b is not None and os.path.samefile(a, b) for a, b in paths], dtype=bool)


def copies_exact(f: Facts) -> Finding | None:
    pairs = f.exact[~_linked(f)]
    if not len(pairs):
        return None
    groups = _groups(pairs, len(f.source))
    title = f"{counted(len(pairs), 'superfluous copy')} of {counted(len(groups), 'file')}"
    return f.finding(
        "copies_exact", "hint", title, len(pairs),
        "Copies count twice in training and in every figure. Keep one of each.", groups,
    )  # fmt: skip


def links(f: Facts) -> Finding | None:
    pairs = f.exact[_linked(f)]
    if not len(pairs):
        return None
    return f.finding(
        "links", "hint", f"{counted(len(pairs), 'link')} to pictures that are listed themselves", len(pairs),
        "Such a picture counts twice in training and in every figure. Open the folder with the links alone, or the one "
        "with the pictures.", _groups(pairs, len(f.source)),
    )  # fmt: skip


def copies_near(f: Facts) -> Finding | None:
    if not len(f.near):
        return None
    groups = _groups(f.near, len(f.source))
    count = sum(map(len, groups))
    return f.finding(
        "copies_near", "hint", f"{counted(count)} in {counted(len(groups), 'group')} of near copies", count,
        "Where no split is declared, neocog keeps each group on one side, so nothing leaks. Series of one scene are "
        "worth less than their number: more variety helps more.", groups,
    )  # fmt: skip


RULES: tuple[Rule, ...] = (
    unreadable, leak_exact, leak_near, leak_mirrored, conflict_exact, conflict_near, conflict_mirrored, unlisted, blank,
    _odd("small"), _odd("long_shape"), _odd("large"), format_tells, copies_exact, links, copies_near, rotated, misnamed,
    animated,
)  # fmt: skip
