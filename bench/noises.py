"""Sounds that are no words, made: for tests of what is found where nothing is."""

from __future__ import annotations

import numpy as np

RATE = 8000


def noise(kind: str, seed: int) -> np.ndarray:
    """A sound of one of `KINDS`, 0.3 to 1.5 s long: float32 (L,) at `RATE`."""
    chance = np.random.default_rng((seed, sum(map(ord, kind))))
    n = int(RATE * chance.uniform(0.3, 1.5))
    t = np.arange(n) / RATE
    white = chance.normal(0, 1, n)
    if kind == "sine":
        wave = np.sin(2 * np.pi * chance.uniform(150, 2500) * t)
    elif kind == "sweep":
        first, last = chance.uniform(100, 3000, 2)
        wave = np.sin(2 * np.pi * np.cumsum(np.geomspace(first, last, n)) / RATE)
    elif kind == "white":
        wave = white
    elif kind == "clicks":
        wave = 1e-3 * white
        wave[:: int(RATE / chance.uniform(4, 40))] = 1
    elif kind == "chord":
        wave = np.sum([_tone(f, t, 1.0) for f in chance.uniform(100, 400) * 2 ** (np.array([0, 4, 7]) / 12)], 0)
    elif kind == "melody":
        wave, base = np.zeros(n), chance.uniform(150, 500)
        for b in range(0, n, int(0.15 * RATE)):
            later = t[: n - b]
            wave[b:] += np.exp(-8 * later) * _tone(base * 2 ** (chance.choice([0, 2, 4, 5, 7, 9, 12]) / 12), later, 1.5)
    elif kind == "pink":
        wave = np.fft.irfft(np.fft.rfft(white) / np.sqrt(np.maximum(np.arange(n // 2 + 1), 1)), n)
    elif kind == "square":
        wave = np.sign(np.sin(2 * np.pi * chance.uniform(80, 600) * t))
    elif kind == "beats":
        wave = np.sin(2 * np.pi * chance.uniform(200, 1500) * t) * (1 + np.sin(2 * np.pi * chance.uniform(3, 12) * t))
    elif kind == "engine":
        wave = _tone(chance.uniform(40, 120), t, 1.0, 20) + 0.3 * white
    elif kind == "drum":
        wave = np.zeros(n)
        for b in range(0, n, int(RATE * chance.uniform(0.12, 0.3))):
            later, low = t[: n - b], chance.uniform(60, 200)
            wave[b:] += np.exp(-25 * later) * (chance.uniform() * white[: n - b] + np.sin(2 * np.pi * low * later))
    else:  # rain
        spectrum = np.fft.rfft(white)
        spectrum[: len(spectrum) // 3] *= 0.1
        wave = np.fft.irfft(spectrum, n) * (1 + 0.3 * chance.normal(0, 1, n))
    wave = wave * np.minimum(1, np.minimum(t, t[::-1]) / 0.01)
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


def _tone(pitch: float, t: np.ndarray, fall: float, parts: int = 6) -> np.ndarray:
    return np.sum([np.sin(2 * np.pi * k * pitch * t) / k**fall for k in range(1, parts + 1)], 0)


KINDS = (
    "sine", "sweep", "white", "clicks", "chord", "melody", "pink", "square", "beats", "engine", "drum", "rain",
)  # fmt: skip
