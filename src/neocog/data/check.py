"""Look a collection over before any training: what is broken, doubled, leaking, out of balance, or suspicious."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from neocog.data import annotation_rules, file_rules, label_rules
from neocog.data.duplicates import connected, near_and_mirrored, split_groups
from neocog.data.findings import SEVERITIES, Facts, Finding, Suspicion
from neocog.data.kinds import Boxes, Categories, Column, Points, TextLists
from neocog.data.mirroring import Mirroring, judge, to_look_at
from neocog.data.pairs import Pairs
from neocog.data.reader import PICTURE
from neocog.data.reader import find as find_reader
from neocog.data.source import Source
from neocog.data.survey import Progress, Survey, survey
from neocog.data.text_rules import pair_findings
from neocog.records import SPLITS, Problem, speak_of, worded

SPLIT_COLUMNS = (*SPLITS, "undeclared")


@dataclass(frozen=True)
class Known:
    """The annotations in one column: of how many pictures, how many objects, and which names they have.

    `things`: how many labels, boxes, points or texts; None where there is one for each picture, or they are drawn late.
    """

    role: str
    kind: str
    pictures: int
    things: int | None
    names: tuple[str, ...]


def known(source: Source) -> tuple[Known, ...]:
    """What the columns of a source hold; those of which no picture has anything are left out."""
    found = []
    for role, column in source.columns.items():
        there = int(column.known.sum())
        if there:
            names = tuple(getattr(column, "names", ()))
            found.append(Known(role, column.kind, there, _things(column), names))
    return tuple(found)


def _things(column: Column) -> int | None:
    if isinstance(column, Categories):
        return len(column.sets.values)
    if isinstance(column, Boxes):
        return len(column.labels)
    if isinstance(column, Points):
        return int((column.values[:, :, 2] > 0).sum())
    return sum(len(column[i]) for i in range(len(column))) if isinstance(column, TextLists) else None


@dataclass(frozen=True, eq=False)
class Check:
    """What `check` found.

    `counts` int64 (classes + 1, 4): pictures for each class (last row: without a label) and split (train, val, test,
    undeclared). `groups` int64 (N,): near duplicates share a number; hand it to `make_split(..., groups=)`.
    `mirroring`: whether mirrored copies count as near duplicates.
    `split_counts` int64 (4,) counts a picture with several labels once. `sizes` int32 (N, 2): width and height, 0 if
    unreadable.
    """

    source: str
    pictures: int
    classes: tuple[str, ...]
    counts: np.ndarray
    split_counts: np.ndarray
    findings: tuple[Finding, ...]
    unreadable: tuple[Problem, ...]
    groups: np.ndarray
    sizes: np.ndarray
    mirroring: Mirroring
    formats: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    duplicates: dict[str, int] = field(default_factory=dict)
    near: bool = False
    columns: tuple[Known, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    annotated: str = ""  # ", 412 boxes of 3 classes"
    unit: str = "picture"  # or "pair", of texts; or another kind of input
    noise: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # class: how often which label; if judged

    @property
    def readable(self) -> int:
        """Number of pictures that could be decoded."""
        return self.pictures - len(self.unreadable)

    @property
    def ok(self) -> bool:
        """True if no finding is an error: training gives results that can be believed."""
        return not any(finding.severity == "error" for finding in self.findings)

    @property
    def exit_status(self) -> int:
        """0 if `ok`, else 1."""
        return 0 if self.ok else 1

    @property
    def summary(self) -> str:
        """One sentence with the numbers that matter."""
        found = [
            f"{n} {severity}{'s' if n > 1 else ''}"
            for severity in SEVERITIES
            if (n := sum(finding.severity == severity for finding in self.findings))
        ]
        said = ", ".join(found) if found else "no problems"
        missing = f" ({len(self.unreadable):,} unreadable)" if self.unreadable else ""
        used = int((self.counts[:-1].sum(axis=1) > 0).sum())
        classes = f" in {used:,} class{'es' if used != 1 else ''}" if used or not self.annotated else ""
        return f"{self.pictures:,} {self.unit}s{missing}{classes}{self.annotated}: {said}"

    def find(self, name: str) -> Finding | None:
        """Return the finding called `name`, or None."""
        return next((finding for finding in self.findings if finding.name == name), None)

    def size_summary(self) -> dict[str, dict[str, int]]:
        """Return {"width" | "height": {"min", "median", "max"}} in pixels over the readable pictures."""
        known = self.sizes[self.sizes[:, 0] > 0]
        if not len(known):
            return {}
        return {
            name: {"min": int(column.min()), "median": int(np.median(column)), "max": int(column.max())}
            for name, column in (("width", known[:, 0]), ("height", known[:, 1]))
        }

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, texts, lists and dictionaries; "schema" grows when a field changes its meaning."""
        names = (*self.classes, None)
        rows = [
            {"name": name, "pictures": int(row.sum()), **dict(zip(SPLIT_COLUMNS, row.tolist(), strict=True))}
            for name, row in zip(names, self.counts, strict=True)
        ]
        return {
            "schema": 1,
            "source": self.source,
            "ok": self.ok,
            "summary": self.summary,
            "pictures": self.pictures,
            "readable": self.readable,
            "classes": rows[:-1],
            "unlabelled": rows[-1]["pictures"],
            "columns": [{**vars(one), "names": list(one.names)} for one in self.columns],
            "splits": dict(zip(SPLIT_COLUMNS, self.split_counts.tolist(), strict=True)),
            "sizes": self.size_summary(),
            "formats": dict(self.formats),
            "modes": dict(self.modes),
            "near_duplicates_looked_for": self.near,
            "mirrored_copies_count": self.mirroring.allowed,
            "why_mirrored_copies_count": self.mirroring.why,
            "duplicates": dict(self.duplicates),
            "findings": [finding.to_json() for finding in self.findings],
            "noise": dict(self.noise),
            "unreadable": [{"key": problem.key, "reason": problem.reason} for problem in self.unreadable],
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }


def check(
    source: Any,
    *,
    workers: int | None = None,
    near: bool = True,
    progress: Progress | None = None,
    suspicious: Callable[[Source], Iterable[Suspicion]] | Iterable[Suspicion] | None = None,
    noise: Mapping[str, Mapping[str, float]] | None = None,
) -> Check:
    """Read every picture of a collection once and say what is wrong with it.

    Args:
        source: a Source, or anything that `open_source` takes: a folder, a table, tar shards, a named set.
        workers: threads; None uses every core.
        near: also look for near duplicates (rescaled, recompressed, slightly cropped), not only for equal files.
        progress: called with (pictures done, pictures in all).
        suspicious: (index, given label, likelier label, its probability) of pictures whose label is doubted,
            or a function that makes them from the source; labels by name or by index into the classes.
        noise: for each class the share of its pictures that carry each label, of who says so.

    Raises: DataError: the source cannot be opened. Pictures that cannot be read are a finding, not an error.
    """
    started = time.monotonic()
    if not isinstance(source, Source):
        from neocog.data.open import open_source

        source = open_source(source)
    speak_of(source.kind)
    counts = _counts(source)
    splits = np.bincount(np.where(source.splits < 0, len(SPLITS), source.splits), minlength=len(SPLIT_COLUMNS))
    more: dict[str, Any] = {"classes": source.classes, "counts": counts, "noise": noise or {}}
    if source.kind == PICTURE:
        seen = survey(source, workers=workers, progress=progress)
        doubts = list(suspicious(source) if callable(suspicious) else suspicious or ())
        found, of_pictures = _pictures(source, seen, counts, doubts, near)
        more |= of_pictures
    else:
        if isinstance(source, Pairs):
            found, groups = pair_findings(source)
            more |= {"classes": (), "counts": splits[None], "unit": "pair"}
        else:
            reader = find_reader(source.kind)
            copies = reader.groups(source)
            groups = np.full(len(source), -1) if copies is None else copies
            facts = Facts(source, counts=counts)
            labels = [one for rule in label_rules.RULES for one in rule(facts) if one is not None]
            labels = [replace(one, title=worded(one.title), advice=worded(one.advice)) for one in labels]
            found = [*reader.check(source), *labels]
            more["unit"] = source.kind
        times = np.unique(groups[groups >= 0], return_counts=True)[1]
        times = times[times > 1]
        unread = [e for one in found if one.name == "unreadable" for group in one.groups for e in group]
        more |= {
            "groups": groups, "unreadable": tuple(Problem(e.key, e.note) for e in unread),
            "sizes": np.zeros((len(source), 2), np.int32),
            "duplicates": {"exact_groups": len(times), "exact_copies": int(times.sum()) - len(times)},
            "mirroring": Mirroring(False, f"a {source.kind} has no mirror image here"),
        }  # fmt: skip
    return Check(
        source=source.name,
        pictures=len(source),
        split_counts=splits,
        findings=tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))),
        columns=known(source),
        notes=tuple(source.notes),
        seconds=time.monotonic() - started,
        **more,
    )


def _pictures(
    source: Source, seen: Survey, counts: np.ndarray, doubts: list[Suspicion], near: bool
) -> tuple[list[Finding], dict[str, Any]]:
    """What is said of pictures alone, and what a `Check` holds of them."""
    exact = seen.exact_pairs()
    pairs, across = _near_pairs(seen) if near else (np.empty((0, 2), np.int64),) * 2
    mirroring = judge(source.classes, to_look_at(source, seen.readable), seen.look.thumbs, across)
    across = across[: None if mirroring.allowed else 0]
    # equal files are near duplicates too, but are reported once, as what they are
    same = connected(len(source), exact)
    pairs = pairs[same[pairs[:, 0]] != same[pairs[:, 1]]]
    masks = annotation_rules.wrong_masks(source, seen.sizes)
    facts = Facts(source, "picture", seen, counts, exact, pairs, across, doubts, masks)
    rules = (*file_rules.RULES, *annotation_rules.RULES, *label_rules.RULES)
    kinds = {name: seen.kinds[seen.readable] == k for k, name in enumerate(seen.kind_names)}
    return [finding for rule in rules for finding in rule(facts) if finding is not None], {
        "unreadable": tuple(Problem(source.key(i), seen.reasons[i]) for i in sorted(seen.reasons)),
        "groups": split_groups(seen.look, np.concatenate([exact, pairs]), across),
        "sizes": seen.sizes,
        "formats": _tally((name[0], int(rows.sum())) for name, rows in kinds.items()),
        "modes": _tally((name[1], int(rows.sum())) for name, rows in kinds.items()),
        "duplicates": {
            "exact_groups": len(np.unique(exact[:, 0])),
            "exact_copies": len(exact),
            "near_pairs": len(pairs),
            "near_pictures": len(np.unique(pairs)),
            "mirrored_pairs": len(across),
        },
        "near": near,
        "mirroring": mirroring,
        "annotated": annotation_rules.counts(source),
    }


def fast_groups(
    source: Source, indices: np.ndarray, progress: Progress | None = None, *, mirrored: bool | None = None
) -> np.ndarray:
    """The numbers of `groups_and_mirroring`."""
    return groups_and_mirroring(source, indices, progress, mirrored=mirrored)[0]


def groups_and_mirroring(
    source: Source, indices: np.ndarray, progress: Progress | None = None, *, mirrored: bool | None = None
) -> tuple[np.ndarray, Mirroring]:
    """Return int64 (len(indices),): near duplicates among these pictures share a number, for a leak-free split.

    Only decodes and hashes. A picture that cannot be read is alone in its group.

    Args:
        mirrored: whether mirrored copies share a number, too; None decides by names and looks.

    Returns: The numbers, and what was decided.
    """
    seen = survey(source, indices, details=False, progress=progress)
    pairs, across = _near_pairs(seen)
    if mirrored is None:
        mirroring = judge(source.classes, to_look_at(source, seen.readable, indices), seen.look.thumbs, across)
    else:
        mirroring = Mirroring(mirrored, "asked for")
    return split_groups(seen.look, pairs, across if mirroring.allowed else None), mirroring


def _near_pairs(seen: Survey) -> tuple[np.ndarray, np.ndarray]:
    """`near_and_mirrored` over the readable pictures, as rows of the whole survey."""
    rows = np.flatnonzero(seen.readable)
    pairs, across = near_and_mirrored(type(seen.look)(*(column[rows] for column in seen.look)))
    return rows[pairs].reshape(-1, 2), rows[across].reshape(-1, 2)


def _counts(source: Source) -> np.ndarray:
    """int64 (classes + 1, 4): a picture with several labels counts for each of them."""
    columns = np.where(source.splits < 0, len(SPLITS), source.splits).astype(np.int64)
    k = len(source.classes)
    counts = np.zeros((k + 1, len(SPLIT_COLUMNS)), np.int64)
    if source.label_sets is None:
        np.add.at(counts, (np.where(source.labels < 0, k, source.labels), columns), 1)
        return counts
    several = np.diff(source.label_sets.ends)
    np.add.at(counts, (source.label_sets.values, np.repeat(columns, several)), 1)
    np.add.at(counts, (np.full(int((several == 0).sum()), k), columns[several == 0]), 1)
    return counts


def _tally(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    total = Counter[str]()
    for name, n in pairs:
        total[name] += n
    return dict(total.most_common())
