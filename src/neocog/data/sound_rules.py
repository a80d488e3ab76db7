"""What `check` says about recordings: broken, silent, clipped, very long, of several rates, copies of each other."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from neocog.data import sound
from neocog.data.findings import Facts, Finding, counted
from neocog.data.pictures import workers
from neocog.data.source import Source
from neocog.errors import DataError

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
    seconds, rates, peaks, clipped = (
        np.array([getattr(h, name) for h in every]) for name in ("seconds", "rate", "peak", "clipped")
    )
    middle, usual = (float(np.median(of[good])) if good.any() else 0.0 for of in (seconds, rates))
    copies: dict[bytes, list[int]] = {}
    for i in np.flatnonzero(good).tolist():
        copies.setdefault(every[i].mark, []).append(i)
    f = Facts(source, "recording")
    torn, leaking, others = f.copies([group for group in copies.values() if len(group) > 1], source.labels)
    found = [
        f.finding(
            "unreadable", "warning" if good.any() else "error", "",
            "Training skips them. Replace or delete them, so that no class loses recordings unnoticed.",
            np.flatnonzero(~good), lambda i: every[i].reason,
            title=f"{counted(int((~good).sum()), 'recording')} of {n:,} cannot be read",
        ),
        f.finding(
            "silent", "warning", "with nothing to hear",
            "No label fits silence. Delete them, or give them a class of their own.",
            np.flatnonzero(good & (peaks < _SILENT)), lambda i: f"largest value {peaks[i]:.2g} of 1",
        ),
        f.finding(
            "clipped", "hint", "recorded too loud: the tops of the wave are cut off",
            "They sound distorted. If others will be too, keep them; else record them again with less gain.",
            np.flatnonzero(clipped > _CLIPPED), lambda i: f"{clipped[i]:.1%} of the samples",
        ),
        f.finding(
            "long", "hint", f"more than {_LONG} times as long as the one in the middle ({middle:.2g} s)",
            "Training hears only a part of a long recording, anywhere in it, and a test the middle. Cut them into "
            "pieces.", np.flatnonzero(good & (seconds > _LONG * middle)), lambda i: f"{seconds[i]:.1f} s",
        ),
        f.finding(
            "rates", "hint", f"at another rate than {int(usual):,} samples a second",
            "All are resampled to one rate. If rates go with classes, a net may tell classes by what the lower rate "
            "lacks.", np.flatnonzero(good & (rates != int(usual))), lambda i: f"{rates[i]:,} samples a second",
        ),
        f.finding("conflict", "error", "are copies with different labels", "One of the labels is wrong.", torn),
        f.finding(
            "leak", "error", "are copies on both sides of a split",
            "A test on what was learned by heart says too much. Leave them in one split.", leaking,
        ),
        f.finding(
            "copies", "hint", "are copies of each other",
            "They count more than once. A split of neocog keeps them on one side.", others,
        ),
    ]  # fmt: skip
    return list(filter(None, found))


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
