"""Tones that neocog makes itself: which way does the pitch go? Recordings without a file, for trials and tests."""

from __future__ import annotations

import numpy as np

from neocog.data.columns import LabelSets
from neocog.data.kinds import Categories, Column, Numbers
from neocog.data.sound import written
from neocog.data.source import Source

RATE = 8000
GLIDES = ("falling", "rising", "steady", "warbling")


class DrawnTones(Source):
    """`n` tones of 0.3 to 0.6 seconds, each a function of (seed, number); WAV of 16 bit, at 8,000 samples a second."""

    kind = "sound"
    drawn = True

    def __init__(self, n: int, seed: int = 0) -> None:
        labels = np.arange(n) % len(GLIDES)
        columns: dict[str, Column] = {
            "tags": Categories(LabelSets(np.arange(n + 1), (labels > 1).astype(np.int32)), ("gliding", "staying")),
            "numbers": Numbers((labels == 1) * 1.0 - (labels == 0), ("rise",)),
        }
        super().__init__("drawn", GLIDES, labels, np.full(n, -1), columns=columns)
        self.seed = seed

    def key(self, i: int) -> str:
        return f"tone-{self.seed}#{i}"

    def read(self, i: int) -> bytes:
        return written(tone(GLIDES[self.labels[i]], np.random.default_rng((self.seed, i))), RATE)

    def _signature(self, i: int) -> bytes:
        return str(self.seed).encode()


def tone(glide: str, chance: np.random.Generator) -> np.ndarray:
    """One tone, float32 (L,): of some pitch, length, loudness and timbre, in faint noise, with silence around it."""
    count = int(RATE * chance.uniform(0.3, 0.6))
    part = np.linspace(0.0, 1.0, count)
    octaves = {"rising": part, "falling": -part, "steady": 0 * part, "warbling": 0.3 * np.sin(2 * np.pi * 5 * part)}
    pitch = chance.uniform(300, 900) * 2.0 ** (chance.uniform(0.6, 1.0) * octaves[glide])
    turns = 2 * np.pi * np.cumsum(pitch) / RATE
    wave = sum(chance.uniform(0.2, 1.0) / k * np.sin(k * turns) for k in (1, 2, 3)) * np.sin(np.pi * part) ** 0.3
    wave = np.pad(wave * chance.uniform(0.1, 0.4), tuple(chance.integers(0, 800, 2)))
    return (wave + chance.normal(0, 0.002, len(wave))).astype(np.float32)  # type: ignore[no-any-return]
