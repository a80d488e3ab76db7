"""What `check` says about classes and labels."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from neocog.data.findings import Facts, Finding, Rule, counted
from neocog.data.source import ONE_LABEL
from neocog.records import SPLITS

_RATIO_HINT, _RATIO_WARNING = 3.0, 10.0  # largest class against smallest
_FEW = 10  # pictures of a class, below which a net sees hardly any variety


def _more(f: Facts) -> bool:
    """Whether there is something to learn beside a label for each picture."""
    return any(column.known.any() for role, column in f.source.columns.items() if role not in ("label", "captions"))


def doubtful(f: Facts) -> Iterator[Finding | None]:
    title, one_label, advice = f.source.unfit.partition(ONE_LABEL)
    if title and not _more(f):
        yield Finding("another_task", "error", title.strip(" ."), len(f.source), one_label + advice)

    def name(label: int | str) -> str:
        return label if isinstance(label, str) else f.source.classes[int(label)]

    told = {int(i): f"labelled {name(a)}, likelier {name(b)} ({float(p):.0%})" for i, a, b, p in f.doubts}
    yield f.finding(
        "suspicious_label", "warning", "whose label is probably wrong",
        "Look at them, the most doubtful first: each is a wrong label, or a picture that is hard to tell. Move the "
        "wrong ones to the right folder and train again.", list(told), told.__getitem__,
    )  # fmt: skip
    if not f.source.unfit and f.source.label_sets is not None:
        yield f.finding(
            "several_labels", "warning", "with more than one label",
            f"{ONE_LABEL} They are not used for that; the task tags learns all labels.",
            np.flatnonzero(np.diff(f.source.label_sets.ends) > 1),
        )  # fmt: skip


def classes(f: Facts) -> Iterator[Finding | None]:
    declared = bool(f.counts[:, 0].sum())
    total = f.counts[:-1].sum(axis=1)
    trained = f.counts[:-1, 0] if declared else total  # what training would see
    names = f.source.classes
    yield f.of_classes(
        "not_in_train", "error", "in val or test but not in train",
        "The net cannot learn them, and every such picture counts as an error. Move pictures to train; or is a name "
        "spelled differently there?",
        [names[i] for i in np.flatnonzero(declared & (trained == 0) & (f.counts[:-1, 1:3].sum(axis=1) > 0))],
    )  # fmt: skip
    if (total > 0).sum() == 1 and not _more(f):
        yield Finding(
            "one_class", "error", f"all labelled pictures are of one class, {names[int(total.argmax())]!r}", 1,
            "At least two classes are needed. Add a folder with pictures of something else ('other' will do).",
        )  # fmt: skip
    yield f.of_classes(
        "empty_class", "warning", "without a picture",
        "The net gets an output that is never trained. Add pictures, or remove the class.",
        [names[i] for i in np.flatnonzero(total == 0)],
    )  # fmt: skip
    alone = np.flatnonzero(total == 1)
    if f.single:
        yield f.finding(
            "single_picture", "warning", "",
            "It is either trained on or measured, never both. Add pictures, or merge the class with another.",
            np.flatnonzero(np.isin(f.source.labels, alone)),
            title=f"{counted(len(alone), 'class')} with a single picture", count=len(alone),
        )  # fmt: skip
    by_name: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for column in f.source.columns.values() for name in getattr(column, "names", ())):
        by_name.setdefault(re.sub(r"[\s_\-]+", " ", name).strip().casefold(), []).append(name)
    if groups := [same for same in by_name.values() if len(same) > 1]:
        told = "; ".join(" and ".join(map(repr, same)) for same in groups[:8])
        yield Finding(
            "similar_names", "warning", f"class names that differ only in case, spaces or dashes: {told}",
            sum(map(len, groups)), "If they mean the same, give them one name: move the pictures into one folder, or "
            "correct the annotations.",
        )  # fmt: skip
    some = trained[trained > 0]
    if len(some) > 1 and some.max() >= _RATIO_HINT * some.min():
        ratio = some.max() / some.min()
        most, least = names[int(trained.argmax())], names[int(np.where(trained > 0, trained, np.inf).argmin())]
        where = " in train" if declared else ""
        yield Finding(
            "imbalance", "warning" if ratio >= _RATIO_WARNING else "hint",
            f"{most!r} has {ratio:,.3g} times as many pictures as {least!r} ({some.max():,} and {some.min():,}{where})",
            len(some),
            "Training balances this automatically: rare classes weigh more in the loss. Look at the macro-F1 and the "
            "figures of each class, not at the accuracy alone.",
        )  # fmt: skip
    yield f.of_classes(
        "few_pictures", "hint", f"with fewer than {_FEW} pictures to train on",
        "Expect low accuracy on them. A few dozen different pictures make a large difference.",
        [f"{names[i]} ({trained[i]})" for i in np.flatnonzero((trained > 1) & (trained < _FEW))],
    )  # fmt: skip
    if declared and (held := [c for c in (1, 2) if f.counts[:, c].sum()]):
        yield f.of_classes(
            "not_measured", "hint", f"in train but missing in {' or '.join(SPLITS[c] for c in held)}",
            "How well they are recognised will not be measured. Move some of their pictures there.",
            [names[i] for i in np.flatnonzero((trained > 0) & (f.counts[:-1, held].min(axis=1) == 0))],
        )  # fmt: skip


def unlabelled(f: Facts) -> Iterator[Finding | None]:
    if f.source._unfit or f.source.kind == "game":
        return  # said already; or a game, which is learned by playing
    tagged, n = f.source.label_sets is not None, len(f.source)
    rows = np.flatnonzero(~f.source.columns["tags"].known if tagged else f.source.labels < 0)
    advice = "They are not used for training. Put each into the folder of its class, or complete the label column."
    severity, title = "hint", f"{len(rows):,} of {counted(n)} without a label"
    if tagged:
        advice = "An empty cell is unknown, so they are not used for training. Write [] where no label applies."
    if len(rows) == n:
        severity, title = "warning", "no picture has a label"
        advice = "A classifier needs labels: a folder for each class, or a table with the columns path and label."
    yield f.finding("unlabelled", severity, "", advice, rows, title=title)


RULES: tuple[Rule, ...] = (doubtful, classes, unlabelled)
