"""Random numbers as functions of whole numbers, the same on every machine: SplitMix64 (Steele, Lea and Flood 2014)."""

from __future__ import annotations

from typing import Any

import numpy as np

ALL = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(z: Any) -> Any:
    """Scramble 64 bits (SplitMix64's finaliser): of one Python integer, or of an array uint64."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & ALL
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & ALL
    return z ^ (z >> 31)


def draws(count: int, *key: int | np.ndarray) -> np.ndarray:
    """`count` numbers in [0, 1) as a function of the key, float64 (count,), or (N, count) for keys of shape (N,)."""
    with np.errstate(over="ignore"):
        x = np.zeros(np.broadcast_shapes(*(np.shape(one) for one in key)), np.uint64)
        for one in key:
            x = mix(x + np.asarray(one).astype(np.uint64) + np.uint64(GOLDEN))
        x = mix(x[..., None] + np.arange(count, dtype=np.uint64) + np.uint64(GOLDEN))
        return np.asarray((x >> np.uint64(11)) / float(1 << 53))
