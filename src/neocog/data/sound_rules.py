"""What `check` says about recordings: broken, silent, clipped, very long, of several rates, copies of each other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from neocog.data import sound
from neocog.data.findings import KEPT, Example, Finding, counted
from neocog.data.pictures import workers
from neocog.data.source import Source
from neocog.errors import DataError
from neocog.records import SPLITS

# where a rule begins to speak
_SILENT = 1e-3  # the largest value: 60 decibels under full scale
_CLIPPED = 1e-3  # share of samples that stand, with the one before, at the largest value that there is
_FULL = 0.99
_LONG = 10  # times the median


@dataclass(frozen=True, slots=True)
class Heard:
    """What is known of one recording; `reason`: why it cannot be read."""

    reason: str = ""
    rate: int = 0
    seconds: float = 0.0
    peak: float = 0.0
    clipped: float = 0.0
    mark: bytes = b""


def heard(data: bytes) -> Heard:
    """Decode a recording and measure it. Raises: MissingExtra."""
    try:
        wave, rate = sound.decode(data)
    except DataError as error:
        return Heard(str(error))
    size = np.abs(wave)
    full = size >= _FULL
    clipped = float((full[1:] & full[:-1]).mean()) if len(wave) > 1 else 0.0
    return Heard("", rate, len(wave) / rate, float(size.max()), clipped, hashlib.sha256(wave.tobytes()).digest())


def sound_findings(source: Source) -> list[Finding]:
    """Everything that is wrong with the recordings of a source."""

    def one(i: int) -> Heard:
        try:
            return heard(source.read(i))  # type: ignore[arg-type]
        except (DataError, OSError) as error:
            return Heard(str(error))

    with ThreadPoolExecutor(workers()) as pool:
        every = list(pool.map(one, range(len(source))))
    n, good = len(every), np.array([not h.reason for h in every], bool)
    seconds, rates = (np.array([getattr(h, name) for h in every]) for name in ("seconds", "rate"))
    middle = float(np.median(seconds[good])) if good.any() else 0.0
    found = []

    def say(
        name: str, severity: str, title: str, where: np.ndarray | Sequence[Sequence[int]], advice: str,
        note: Callable[[int], str],
    ) -> None:  # fmt: skip
        groups = [[int(i)] for i in np.flatnonzero(where)] if isinstance(where, np.ndarray) else where
        if not len(groups):
            return
        shown = tuple(tuple(_example(source, i, note(i)) for i in group) for group in groups[:KEPT])
        many = counted(sum(map(len, groups)), "recording")
        count = sum(map(len, groups))
        found.append(Finding(name, severity, title.format(many), count, advice, shown, max(0, len(groups) - KEPT)))

    say(
        "unreadable", "warning" if good.any() else "error", f"{{}} of {n:,} cannot be read", ~good,
        "Training skips them. Replace or delete them, so that no class loses recordings unnoticed.",
        lambda i: every[i].reason,
    )  # fmt: skip
    say(
        "silent", "warning", "{} with nothing to hear", good & np.array([h.peak < _SILENT for h in every]),
        "No label fits silence. Delete them, or give them a class of their own.",
        lambda i: f"largest value {every[i].peak:.2g} of 1",
    )  # fmt: skip
    say(
        "clipped", "hint", "{} recorded too loud: the tops of the wave are cut off",
        np.array([h.clipped > _CLIPPED for h in every]),
        "They sound distorted. If others will be too, keep them; else record them again with less gain.",
        lambda i: f"{every[i].clipped:.1%} of the samples",
    )  # fmt: skip
    say(
        "long", "hint", f"{{}} more than {_LONG} times as long as the one in the middle ({middle:.2g} s)",
        good & (seconds > _LONG * middle),
        "Training hears only a part of a long recording, anywhere in it, and a test the middle. Cut them into pieces.",
        lambda i: f"{seconds[i]:.1f} s",
    )  # fmt: skip
    usual = int(np.median(rates[good])) if good.any() else 0
    say(
        "rates", "hint", f"{{}} at another rate than {usual:,} samples a second", good & (rates != usual),
        "All are resampled to one rate. If rates go with classes, a net may tell classes by what the lower rate lacks.",
        lambda i: f"{rates[i]:,} samples a second",
    )  # fmt: skip
    copies: dict[bytes, list[int]] = {}
    for i in np.flatnonzero(good):
        copies.setdefault(every[i].mark, []).append(int(i))
    doubled = [group for group in copies.values() if len(group) > 1]
    torn = [group for group in doubled if len({int(source.labels[i]) for i in group}) > 1]
    leaking = [group for group in doubled if len({int(source.splits[i]) for i in group} - {-1}) > 1]
    say("conflict", "error", "{} are copies with different labels", torn, "One of the labels is wrong.", lambda i: "")
    say(
        "leak", "error", "{} are copies on both sides of a split", leaking,
        "A test on what was learned by heart says too much. Leave them in one split.", lambda i: "",
    )  # fmt: skip
    say(
        "copies", "hint", "{} are copies of each other", [g for g in doubled if g not in torn and g not in leaking],
        "They count more than once. A split of neocog keeps them on one side.", lambda i: "",
    )  # fmt: skip
    return found


def sound_copies(source: Source) -> np.ndarray:
    """int64 (N,): recordings with the same bytes share a number; those that cannot be read are alone, -1."""
    place: dict[bytes, int] = {}
    made = np.full(len(source), -1, np.int64)
    for i in range(len(source)):
        try:
            mark = hashlib.sha256(source.read(i)).digest()  # type: ignore[arg-type]
        except (DataError, OSError):
            continue
        made[i] = place.setdefault(mark, len(place))
    return made


def _example(source: Source, i: int, note: str) -> Example:
    label, split = int(source.labels[i]), int(source.splits[i])
    return Example(
        i, source.key(i), source.classes[label] if label >= 0 else None, SPLITS[split] if split >= 0 else None, note
    )
