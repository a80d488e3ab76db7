"""Recordings in parts: what sounds between two pauses, at most four seconds long, as the bytes of a WAV file.

A pause is a quarter of a second that is 40 decibels under the loudest 20 ms. A stretch that is too long is cut into
equal parts. A recording is read in blocks, so an hour of it takes no more memory than a minute.
"""

from __future__ import annotations

import io
import os
from functools import lru_cache
from itertools import pairwise
from typing import BinaryIO

import numpy as np

from neocog.data.sound import cut_short, opened, written
from neocog.errors import DecodeError

LONGEST = 4.0  # seconds of a part
_FRAME, _PAUSE, _LEAST = 0.02, 0.25, 0.04  # seconds: how finely silence is found, of a pause, and of what is no click
_QUIET = 1e-4  # of the loudest frame's power
_BLOCK = 50  # frames that are read at a time; of a damaged file the last of them is lost
Parts = tuple[tuple[float, float], ...]


def parts(file: str | os.PathLike[str]) -> tuple[Parts, str]:
    """The parts of a recording as (begin, end) in seconds, and what is wrong with it ("" if it is whole).

    Raises: DecodeError: nothing of it can be read, or nothing sounds. OSError. MissingExtra: no soundfile.
    """
    status = os.stat(file)
    return _parts(os.fspath(file), status.st_size, status.st_mtime_ns)


def part(file: str | os.PathLike[str] | bytes, seconds: float | None = None) -> bytes:
    """The part that sounds at a time, or began last before it; by default the longest. Raises: as `parts`.

    `file`: its path, or its content.
    """
    found, _ = _cut(io.BytesIO(file)) if isinstance(file, bytes) else parts(file)
    if seconds is None:
        begin, end = max(found, key=lambda one: round(one[1] - one[0], 3))  # the first of them
    else:
        begin, end = next((one for one in reversed(found) if one[0] <= seconds + 1e-3), found[0])
    with io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb") as data, opened(data) as sound:
        rate = sound.samplerate
        try:
            sound.seek(round(begin * rate))
            wave = sound.read(round((end - begin) * rate), dtype="float32", always_2d=True).mean(1)
        except RuntimeError as error:
            raise DecodeError(f"broken sound file: {error}") from error
    return written(wave, rate)


@lru_cache(64)
def _parts(file: str, size: int, mtime_ns: int) -> tuple[Parts, str]:
    with open(file, "rb") as data:
        return _cut(data)


def _cut(data: BinaryIO) -> tuple[Parts, str]:
    powers, problem = [np.zeros(0)], ""
    with opened(data) as sound:
        rate, got = sound.samplerate, 0
        frame = max(1, round(_FRAME * rate))
        try:
            # `blocks` of soundfile gives what its memory held before where a file ends early
            while len(block := sound.read(_BLOCK * frame, dtype="float32", always_2d=True)):
                wave = np.pad(block.mean(1), (0, -len(block) % frame)).reshape(-1, frame)
                powers.append((wave.astype(np.float64) ** 2).mean(1))
                got += len(block)
        except RuntimeError as error:
            problem = f"broken sound file: {error}"
        problem = problem or cut_short(sound, got)
    power = np.concatenate(powers)
    if not np.isfinite(power).all():
        raise DecodeError("a sound file with values that are not finite")
    loud = np.flatnonzero(power > power.max(initial=0.0) * _QUIET)
    if not len(loud):
        raise DecodeError(problem or "nothing sounds in it")
    starts = [0, *(np.flatnonzero(np.diff(loud) * _FRAME > _PAUSE) + 1), len(loud)]
    stretches = [(int(loud[a]) * frame / rate, (int(loud[b - 1]) + 1) * frame / rate) for a, b in pairwise(starts)]
    whole = [one for one in stretches if one[1] - one[0] > _LEAST] or stretches[:1]
    made = []
    for begin, end in whole:
        end = min(end, got / rate)
        edges = np.linspace(begin, end, max(1, int(np.ceil((end - begin) / LONGEST - 1e-6))) + 1)
        made += [(float(a), float(b)) for a, b in pairwise(edges)]
    return tuple(made), problem
