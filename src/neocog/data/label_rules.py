"""What `check` says about classes and labels. Each rule makes one finding at most."""

from __future__ import annotations

import re

import numpy as np

from neocog.data.findings import Facts, Finding, Rule, counted, listed
from neocog.data.source import ONE_LABEL
from neocog.records import SPLITS

_RATIO_HINT, _RATIO_WARNING = 3.0, 10.0  # largest class against smallest
_FEW = 10  # pictures of a class, below which a net sees hardly any variety


def _trained(f: Facts) -> tuple[np.ndarray, bool]:
    """Pictures of each class that training would see, and whether a training split is declared."""
    declared = bool(f.counts[:, 0].sum())
    return (f.counts[:-1, 0] if declared else f.counts[:-1].sum(axis=1)), declared


def _more(f: Facts) -> bool:
    """Whether there is something to learn beside a label for each picture."""
    return any(column.known.any() for role, column in f.source.columns.items() if role not in ("label", "captions"))


def another_task(f: Facts) -> Finding | None:
    if _more(f):
        return None
    title, one_label, advice = f.source.unfit.partition(ONE_LABEL)
    return Finding("another_task", "error", title.strip(" ."), len(f.source), one_label + advice) if title else None


def several_labels(f: Facts) -> Finding | None:
    if f.source.unfit or not f.source.several:
        return None
    rows = np.flatnonzero(np.diff(f.source.label_sets.ends) > 1)  # type: ignore[union-attr]
    return f.finding(
        "several_labels", "warning", f"{counted(len(rows))} with more than one label", len(rows),
        f"{ONE_LABEL} They are not used for that; the task tags learns all labels.", rows,
    )  # fmt: skip


def unlabelled(f: Facts) -> Finding | None:
    if f.source._unfit:
        return None  # said already
    tagged = f.source.label_sets is not None
    rows = ~f.source.columns["tags"].known if tagged else f.source.labels < 0
    n, missing = len(f.source), int(rows.sum())
    if not missing:
        return None
    advice = "They are not used for training. Put each into the folder of its class, or complete the label column."
    if tagged:
        advice = "An empty cell is unknown, so they are not used for training. Write [] where no label applies."
    if missing == n:
        advice = "A classifier needs labels: a folder for each class, or a table with the columns path and label."
    title = "no picture has a label" if missing == n else f"{missing:,} of {counted(n)} without a label"
    severity = "warning" if missing == n else "hint"
    return f.finding("unlabelled", severity, title, missing, advice, np.flatnonzero(rows))


def one_class(f: Facts) -> Finding | None:
    used = int((f.counts[:-1].sum(axis=1) > 0).sum())
    if used >= 2 or not f.counts[:-1].sum() or _more(f):
        return None
    only = f.source.classes[int(f.counts[:-1].sum(axis=1).argmax())]
    return Finding(
        "one_class", "error", f"all labelled pictures are of one class, {only!r}", 1,
        "At least two classes are needed. Add a folder with pictures of something else ('other' will do).",
    )  # fmt: skip


def not_in_train(f: Facts) -> Finding | None:
    trained, declared = _trained(f)
    elsewhere = f.counts[:-1, 1:3].sum(axis=1)
    rows = np.flatnonzero((trained == 0) & (elsewhere > 0)) if declared else np.zeros(0, int)
    if not len(rows):
        return None
    names = [f.source.classes[i] for i in rows]
    title = f"{counted(len(rows), 'class')} in val or test but not in train: {listed(names)}"
    return Finding(
        "not_in_train", "error", title, len(rows),
        "The net cannot learn them, and every such picture counts as an error. Move pictures to train; or is a name "
        "spelled differently there?",
    )  # fmt: skip


def not_measured(f: Facts) -> Finding | None:
    trained, declared = _trained(f)
    held = [c for c in (1, 2) if f.counts[:, c].sum()]
    if not declared or not held:
        return None
    rows = np.flatnonzero((trained > 0) & (f.counts[:-1, held].min(axis=1) == 0))
    if not len(rows):
        return None
    names = [f.source.classes[i] for i in rows]
    where = " or ".join(SPLITS[c] for c in held)
    title = f"{counted(len(rows), 'class')} in train but missing in {where}: {listed(names)}"
    return Finding(
        "not_measured", "hint", title, len(rows),
        "How well they are recognised will not be measured. Move some of their pictures there.",
    )  # fmt: skip


def empty_classes(f: Facts) -> Finding | None:
    rows = np.flatnonzero(f.counts[:-1].sum(axis=1) == 0)
    if not len(rows):
        return None
    names = [f.source.classes[i] for i in rows]
    return Finding(
        "empty_class", "warning", f"{counted(len(rows), 'class')} without a picture: {listed(names)}", len(rows),
        "The net gets an output that is never trained. Add pictures, or remove the class.",
    )  # fmt: skip


def single_picture(f: Facts) -> Finding | None:
    classes = np.flatnonzero(f.counts[:-1].sum(axis=1) == 1)
    if not len(classes) or not f.single:
        return None
    rows = np.flatnonzero(np.isin(f.source.labels, classes))
    return f.finding(
        "single_picture", "warning", f"{counted(len(classes), 'class')} with a single picture", len(classes),
        "It is either trained on or measured, never both. Add pictures, or merge the class with another.",
        rows,
    )  # fmt: skip


def few_pictures(f: Facts) -> Finding | None:
    trained, _ = _trained(f)
    rows = np.flatnonzero((trained > 1) & (trained < _FEW))
    if not len(rows):
        return None
    names = [f"{f.source.classes[i]} ({trained[i]})" for i in rows]
    title = f"{counted(len(rows), 'class')} with fewer than {_FEW} pictures to train on: {listed(names)}"
    return Finding(
        "few_pictures", "hint", title, len(rows),
        "Expect low accuracy on them. A few dozen different pictures make a large difference.",
    )  # fmt: skip


def imbalance(f: Facts) -> Finding | None:
    trained, declared = _trained(f)
    some = trained[trained > 0]
    if len(some) < 2 or some.max() < _RATIO_HINT * some.min():
        return None
    ratio = some.max() / some.min()
    most = f.source.classes[int(trained.argmax())]
    least = f.source.classes[int(np.where(trained > 0, trained, trained.max() + 1).argmin())]
    where = " in train" if declared else ""
    return Finding(
        "imbalance", "warning" if ratio >= _RATIO_WARNING else "hint",
        f"{most!r} has {ratio:,.3g} times as many pictures as {least!r} ({some.max():,} and {some.min():,}{where})",
        int((trained > 0).sum()),
        "Training balances this automatically: rare classes weigh more in the loss. Look at the macro-F1 and the "
        "figures of each class, not at the accuracy alone.",
    )  # fmt: skip


def similar_names(f: Facts) -> Finding | None:
    by_name: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for column in f.source.columns.values() for name in getattr(column, "names", ())):
        by_name.setdefault(re.sub(r"[\s_\-]+", " ", name).strip().casefold(), []).append(name)
    groups = [names for names in by_name.values() if len(names) > 1]
    if not groups:
        return None
    told = "; ".join(" and ".join(repr(name) for name in names) for names in groups[:8])
    return Finding(
        "similar_names", "warning", f"class names that differ only in case, spaces or dashes: {told}",
        sum(map(len, groups)), "If they mean the same, give them one name: move the pictures into one folder, or "
        "correct the annotations.",
    )  # fmt: skip


def suspicious_labels(f: Facts) -> Finding | None:
    if not f.doubts:
        return None

    def name(label: int | str) -> str:
        return label if isinstance(label, str) else f.source.classes[int(label)]

    told = {int(i): f"labelled {name(a)}, likelier {name(b)} ({float(p):.0%})" for i, a, b, p in f.doubts}
    rows = list(told)
    return f.finding(
        "suspicious_label", "warning", f"{counted(len(rows))} whose label is probably wrong", len(rows),
        "Look at them, the most doubtful first: each is a wrong label, or a picture that is hard to tell. Move the "
        "wrong ones to the right folder and train again.", rows, told.__getitem__,
    )  # fmt: skip


RULES: tuple[Rule, ...] = (
    another_task, suspicious_labels, several_labels,
    not_in_train, one_class, empty_classes, single_picture, similar_names, imbalance, few_pictures,
    not_measured, unlabelled,
)  # fmt: skip
