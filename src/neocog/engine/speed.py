"""Which of several ways to compute the same thing is the fastest here: measured once, then read from the user's cache.

The cache is ``speed.json`` in the folder that NEOCOG_CACHE names (see ``neocog.files.cache_folder``). It may be
deleted at any time; one that cannot be read or written is ignored.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from neocog.files import cache_folder, read_dict, write_atomically

SECONDS = 0.15  # for one question; at most three are asked of a machine, and one of a net
FILE = "speed.json"
_here: dict[tuple[str, str], dict[str, float]] = {}  # of this process, by file and question


def seconds_of(
    question: str, machine: str, ways: Mapping[str, Callable[[], object]], seconds: float = SECONDS
) -> dict[str, float]:
    """Seconds that each way takes: those that were measured before on this machine, or measured now.

    Args:
        question: what is computed, such as "convolution 8x64x16x16".
        machine: everything else that the answer depends on: processor, threads, versions.
    """
    path, key = cache_folder() / FILE, _key(question, machine)
    if (found := recalled(question, machine, ways)) is not None:
        return found
    measured = best_times(ways, seconds)
    if (found := recalled(question, machine, ways)) is not None:
        return found  # another process was first
    _here[str(path), key] = measured
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({**read_dict(path), key: measured}, indent=1).encode())
    except OSError:
        pass  # a home that is read-only: measured again next time
    return measured


def recalled(question: str, machine: str, ways: Collection[str]) -> dict[str, float] | None:
    """Seconds that each way was found to take before; None if that was not measured."""
    path, key = cache_folder() / FILE, _key(question, machine)
    # what this process has decided by stays, so that what is computed twice in it is the same to the last bit
    found: Any = _here.get((str(path), key)) or read_dict(path).get(key)
    if not (isinstance(found, dict) and found.keys() == set(ways) and all(map(_positive, found.values()))):
        return None
    _here[str(path), key] = found
    return found


def _key(question: str, machine: str) -> str:
    return f"{question} on {machine}"


def best_times(ways: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """The shortest time of each way, called in turns for about `seconds`, and each at least once.

    In turns, and the best of each, so that other work on the machine does not decide.
    """
    best = dict.fromkeys(ways, math.inf)
    begin = time.perf_counter()
    while True:
        for name, way in ways.items():
            if best[name] < math.inf and time.perf_counter() - begin + best[name] > seconds:
                return best
            called = time.perf_counter()
            way()
            best[name] = min(best[name], time.perf_counter() - called)


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 < value < math.inf


def processor() -> str:
    """The processor's name, as the system gives it."""
    return cpuinfo("model name") or platform.processor() or platform.machine()


def cpuinfo(field: str) -> str:
    """A line of Linux's description of the first processor; "" if there is none."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith(field):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return ""
