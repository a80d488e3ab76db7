"""Training, validation and test: stratified, reproducible, and whole groups (near duplicates) on one side.

Pictures with one label are divided class by class; those with several by iterative stratification (Sechidis,
Tsoumakas and Vlahavas 2011, "On the stratification of multi-label data", algorithm 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neocog.data.columns import LabelSets, count_splits
from neocog.data.duplicates import connected
from neocog.data.source import Source
from neocog.errors import UsageError
from neocog.records import counted

TRAIN, VAL, TEST = 0, 1, 2


def make_split(
    labels: np.ndarray | LabelSets,
    *,
    groups: np.ndarray | None = None,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> np.ndarray:
    """Divide pictures into training, validation and test.

    Each class is divided by `fractions`, to within one picture (or one group). A class with few pictures gives
    training first, then validation, then test; if that leaves test empty, every second such class gives its picture
    to test instead of validation. Where pictures have several labels, each label is divided as nearly so as the
    others allow, the rarest first.

    Args:
        labels: integers (N,), where -1 (unlabelled) counts as a class of its own; or the labels of each picture, where
            none at all counts as a label.
        groups: integers (N,); pictures with the same number >= 0 stay on one side, -1 = on its own.
        fractions: shares of training, validation and test; their sum is 1.
        seed: the same seed and data give the same split.

    Returns: int8 (N,): index into `records.SPLITS`.

    Raises: UsageError: lengths or fractions do not fit.
    """
    shares = _check_fractions(fractions)
    labels = labels if isinstance(labels, LabelSets) else np.asarray(labels)
    n = len(labels)
    if groups is None:
        groups = np.arange(n)
    groups = np.asarray(groups).astype(np.int64)
    if len(groups) != n:
        raise UsageError(f"{n} labels but {len(groups)} group numbers; give one for each picture")
    groups = np.where(groups < 0, max(int(groups.max(initial=0)), 0) + 1 + np.arange(n), groups)
    group_of, unit = np.unique(groups, return_inverse=True)  # unit: (N,) in 0..U-1
    sizes = np.bincount(unit, minlength=len(group_of))
    shuffled = np.random.default_rng(seed).permutation(len(group_of))
    if isinstance(labels, LabelSets):
        return _iteratively(labels, unit, sizes, shares, shuffled)[unit]
    unit_label = _majority(labels, unit, len(group_of))
    # by class, then largest group first, otherwise in the shuffled order
    order = shuffled[np.lexsort((-sizes[shuffled], unit_label[shuffled]))]
    classes = np.split(order, np.flatnonzero(np.diff(unit_label[order])) + 1) if n else []
    code = np.zeros(len(group_of), dtype=np.int8)
    lent: list[np.ndarray] = []  # validation units of classes that could not give test anything
    for units in classes:
        code[units] = _divide(sizes[units], shares)
        if not (code[units] == TEST).any() and (code[units] == VAL).any():
            lent.append(units[code[units] == VAL])
    if shares[TEST] > 0 and not (code == TEST).any():
        for units in lent[1::2]:
            code[units] = TEST
    if shares[TRAIN] > 0:
        _give_every_class_training(code, labels, unit, sizes)
    return code[unit]


def complete_split(
    source: Source,
    *,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    strata: np.ndarray | LabelSets | None = None,
    groups: np.ndarray | None = None,
    seed: int = 0,
    used: np.ndarray | None = None,
) -> tuple[np.ndarray, list[str]]:
    """Return (codes int8 (N,), notes): the declared splits, and what is missing made from training pictures.

    `strata`: integers (N,), pictures of one number are spread evenly; or several for each picture; None: the labels.
    `used`: bool (N,), the pictures that the notes count; None: all.

    Nothing declared, or only training: everything is divided by `fractions`. Test declared but no validation:
    validation is cut from training. Validation declared but no test: test stays empty and a note says so. Pictures
    without a split join training, or the side where their group is declared to be.
    """
    shares = _check_fractions(fractions)
    codes = source.splits.copy()
    strata = source.labels if strata is None else strata
    used = np.ones(len(codes), bool) if used is None else used
    has = [bool((codes == code).any()) for code in (TRAIN, VAL, TEST)]
    if not has[VAL] and not has[TEST]:
        codes = make_split(strata, groups=groups, fractions=fractions, seed=seed)
        why = "only training pictures are declared" if has[TRAIN] else "no split is declared"
        return codes, [f"{why}: divided into {count_splits(codes[used])} (seed {seed})"]

    notes = [f"declared splits kept: {count_splits(source.splits[used])}"]
    free = codes < 0
    if free.any():
        joined = _join_groups(codes, groups)
        if n := int((free & used).sum()):
            notes.append(f"{n} pictures without a split joined {count_splits(joined[free & used])}")
        codes = joined
    train = np.flatnonzero(codes == TRAIN)
    if not has[VAL] and len(train):
        share = shares[VAL] / (shares[TRAIN] + shares[VAL]) if shares[TRAIN] + shares[VAL] > 0 else 0.0
        inner = None if groups is None else np.asarray(groups)[train]
        some = strata.select(train) if isinstance(strata, LabelSets) else strata[train]
        cut = make_split(some, groups=inner, fractions=(1 - share, share, 0.0), seed=seed)
        codes[train] = cut
        moved = int(((cut == VAL) & used[train]).sum())
        notes.append(f"no validation split is declared: {counted(moved, 'training picture')} became validation")
    if not has[TEST]:
        notes.append(
            "no test split is declared: figures are those of the validation split, which also chose the network"
        )
    return codes, notes


def joined_groups(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    """Groups int64 (N,) in which pictures are together if they are in either of two; -1 = alone."""
    if first is None or second is None:
        return first if second is None else second
    n, offset, edges = len(first), 0, []
    for groups in (first, second):
        rows = np.flatnonzero(groups >= 0)
        edges.append(np.stack((rows, n + offset + groups[rows]), axis=1))
        offset += int(groups.max(initial=-1)) + 1
    return connected(n + offset, np.concatenate(edges))[:n]


def _iteratively(
    sets: LabelSets, unit: np.ndarray, sizes: np.ndarray, shares: np.ndarray, order: np.ndarray
) -> np.ndarray:
    """Return the split of each unit of pictures, int8 (U,).

    The label with the fewest pictures left comes first, of equal ones the rarer. Each unit that has it goes where most
    of that label is still wanted, of equal places where most pictures are. Large units come first, else `order` says.
    """
    none = int(sets.values.max(initial=-1)) + 1  # the label of pictures without one
    counts = np.diff(sets.ends)
    rows = np.concatenate((np.repeat(np.arange(len(sets)), counts), np.flatnonzero(counts == 0)))
    labels = np.concatenate((sets.values, np.full(int((counts == 0).sum()), none))).astype(np.int64)
    place = np.empty(len(order), np.int64)
    place[order[np.argsort(-sizes[order], kind="stable")]] = np.arange(len(order))
    pairs, number = np.unique(np.stack((place[unit[rows]], labels)), axis=1, return_counts=True)  # of unit and label
    total = np.bincount(labels, minlength=none + 1)
    left = total.copy()
    wanted, room = np.outer(total, shares), shares * len(sets)
    by_label = np.split(pairs[0][np.argsort(pairs[1], kind="stable")], np.cumsum(np.bincount(pairs[1]))[:-1])
    ends = np.concatenate(([0], np.cumsum(np.bincount(pairs[0], minlength=len(order)))))
    unit_at = np.argsort(place)
    code = np.full(len(order), -1, np.int8)
    closed = np.where(shares > 0, 0.0, -np.inf)  # a split of no share gets nothing
    while left.any():
        label = int(np.where(left > 0, left + total / (len(sets) + 1), np.inf).argmin())
        for at in by_label[label].tolist():
            one = unit_at[at]
            if code[one] >= 0:
                continue
            split = int(np.lexsort((room, np.round(wanted[label], 9) + closed))[-1])
            code[one] = split
            room[split] -= sizes[one]
            own = slice(ends[at], ends[at + 1])
            wanted[pairs[1][own], split] -= number[own]
            left[pairs[1][own]] -= number[own]
    return code


def _check_fractions(fractions: Sequence[float]) -> np.ndarray:
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.shape != (3,) or not (shares >= 0).all() or abs(shares.sum() - 1) > 1e-6:
        raise UsageError(
            f"fractions must be three shares >= 0 of train, val and test with sum 1, got {tuple(fractions)}; "
            "for example (0.8, 0.1, 0.1)"
        )
    return shares


def _majority(labels: np.ndarray, unit: np.ndarray, units: int) -> np.ndarray:
    """Return the most frequent label of each unit (units,); the smallest one where several are as frequent."""
    if units == len(labels):
        out = np.empty(units, dtype=np.int64)
        out[unit] = labels
        return out
    low = int(labels.min(initial=0))
    span = int(labels.max(initial=0)) - low + 1
    pairs, counts = np.unique(unit.astype(np.int64) * span + (labels.astype(np.int64) - low), return_counts=True)
    of_unit, label = pairs // span, pairs % span + low
    best = np.lexsort((label, -counts, of_unit))
    return label[best][np.unique(of_unit[best], return_index=True)[1]]


def _seats(n: int, shares: np.ndarray) -> np.ndarray:
    """Return how many of `n` pictures of a class each split gets, each within one of its share."""
    wanted = shares * n
    seats = np.floor(wanted + 1e-9).astype(np.int64)
    # equal remainders: training before validation before test (argsort is stable)
    rest = np.argsort(-np.round(wanted - seats, 9), kind="stable")
    for split in rest[: n - int(seats.sum())]:
        seats[split] += 1
    if shares[TRAIN] > 0 and seats[TRAIN] == 0 and n:
        seats[int(np.argmax(seats))] -= 1
        seats[TRAIN] += 1
    for split in (VAL, TEST):
        if shares[split] > 0 and not seats[split] and seats[TRAIN] > 1 and wanted[TRAIN] - seats[TRAIN] <= 1e-9:
            seats[TRAIN] -= 1
            seats[split] += 1
    return seats


def _divide(sizes: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the split of each unit of one class, int8 (U,); `sizes` (U,) is sorted, largest first."""
    need = _seats(int(sizes.sum()), shares).astype(np.int64)
    code = np.zeros(len(sizes), dtype=np.int8)
    large = int((sizes > 1).sum())
    for i in range(large):
        code[i] = int(np.argmax(need))
        need[code[i]] -= sizes[i]
    need = np.maximum(need, 0)
    while need.sum() > len(sizes) - large:
        need[int(np.argmax(need))] -= 1
    code[large:] = np.repeat(np.arange(3, dtype=np.int8), need)
    if large and shares[VAL] > 0 and not (code == VAL).any() and (code == TRAIN).sum() > 1:
        smallest = int(np.flatnonzero(code == TRAIN)[-1])
        if sizes[smallest] * 2 <= sizes.sum():
            code[smallest] = VAL
    return code


def _give_every_class_training(code: np.ndarray, labels: np.ndarray, unit: np.ndarray, sizes: np.ndarray) -> None:
    """Move the smallest group of a class to training where groups of mixed classes left that class without."""
    trained = np.unique(labels[code[unit] == TRAIN])
    for label in np.setdiff1d(np.unique(labels), trained):
        units = np.unique(unit[labels == label])
        if not (code[units] == TRAIN).any():
            code[units[int(np.argmin(sizes[units]))]] = TRAIN


def _join_groups(codes: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Return codes where a picture without a split has the highest declared split of its group, else training."""
    out = np.where(codes < 0, TRAIN, codes).astype(np.int8)
    if groups is None:
        return out
    groups = np.asarray(groups)
    grouped = groups >= 0
    if grouped.any():
        highest = np.full(int(groups.max()) + 1, -1, dtype=np.int8)
        np.maximum.at(highest, groups[grouped], codes[grouped])
        free = grouped & (codes < 0)
        out[free] = np.maximum(highest[groups[free]], TRAIN)
    return out
