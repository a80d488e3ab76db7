"""A sound that scripts and tests make alike: a rising chirp in a little noise of whole numbers."""

from __future__ import annotations

import numpy as np

SETTINGS = ((8000, 256, 80, 40, 13), (16_000, 400, 160, 64, 20))  # rate, window, hop, bands, coefficients


def chirp(rate: int, seconds: float = 0.3) -> np.ndarray:
    """float32 (L,): 200 to 2,000 Hz, getting louder, after a tenth of silence."""
    t = np.arange(round(rate * seconds)) / rate
    noise = (np.arange(len(t)) * 7919 % 1009) / 1009 - 0.5
    wave = t / seconds * np.sin(2 * np.pi * (200 * t + 3000 * t**2)) + 0.01 * noise
    wave[: len(t) // 10] = 0
    return (0.5 * wave).astype(np.float32)
