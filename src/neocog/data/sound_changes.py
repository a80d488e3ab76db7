"""How sounds are changed in training, whole batches on the device: shift, speed, timbre, noise, masks.

Each function takes numbers in [0, 1), a row for each recording, which are functions of (seed, epoch, sample).
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor


def window(waves: Tensor, samples: int, *, shift: Tensor | None = None, speed: Tensor | None = None) -> Tensor:
    """`samples` of waves (B, L), those around the middle, played `speed` (B,) times as fast and `shift` (B,) later.

    Where there is nothing is silence. Between two samples the line between them is taken.
    """
    b, length = waves.shape
    at = torch.arange(samples, device=waves.device, dtype=waves.dtype) - (samples - 1) / 2
    at = at.expand(b, samples)
    if shift is None and speed is None and (length - samples) % 2 == 0:
        first = (samples - length) // 2
        return torch.nn.functional.pad(waves, (first, first))
    at = at if shift is None else at - shift.to(at)[:, None]
    at = (at if speed is None else at * speed.to(at)[:, None]) + (length - 1) / 2
    left = at.floor()
    part = at - left
    padded = torch.nn.functional.pad(waves, (1, 2))  # what lies outside is read from here
    index = left.long().clamp(-1, length) + 1
    return padded.gather(1, index).lerp(padded.gather(1, index + 1), part)


def lengths(waves: Tensor) -> Tensor:
    """Samples (B,) of waves (B, L) that were laid into the middle of silence."""
    there = waves != 0
    before = there.to(torch.uint8).argmax(1)
    return torch.where(there.any(1), waves.shape[1] - 2 * before, 0)


def noisy(waves: Tensor, decibels: Tensor, chance: Tensor) -> Tensor:
    """Waves (B, L), three of four with white noise, `decibels` (B,) under their own power.

    `chance` (B, 3): which, whether also where there is silence (half of them), and what noise.
    """
    bank, length = _noise(waves.shape[1]), waves.shape[1]
    firsts = (chance[:, 2] * (len(bank) - length)).long().tolist()
    noise = torch.stack([bank[first : first + length] for first in firsts]).to(waves)
    sounds = waves != 0
    power = waves.square().sum(1) / sounds.sum(1).clamp(min=1)
    here = (chance[:, 0] < 0.75)[:, None] & (sounds | (chance[:, 1] < 0.5)[:, None])
    return waves + here * noise * (power * 10 ** (-decibels / 10)).sqrt()[:, None]


def equalised(waves: Tensor, rate: int, decibels: float, gains: Tensor) -> Tensor:
    """Waves (B, L) as another microphone or voice would have them: louder and softer by pitch, smoothly.

    From 100 Hz to half of `rate`, K points at equal ratios get up to `decibels` more or less, as `gains` (B, K) say,
    and what lies between them in between. FilterAugment, Nam et al. 2022, arXiv:2110.03282, in its linear form.
    """
    length, (b, k) = waves.shape[1], gains.shape
    pitch = torch.fft.rfftfreq(length, 1 / rate, device=waves.device).clamp(min=100.0)
    at = (pitch.log2() - math.log2(100.0)) / math.log2(rate / 200.0) * (k - 1)
    left = at.floor().long().clamp(max=k - 2)
    points = decibels * (2.0 * gains.to(waves) - 1.0)
    curve = points[:, left].lerp(points[:, left + 1], (at - left).expand(b, -1))
    changed = torch.fft.irfft(torch.fft.rfft(waves) * 10 ** (curve / 20), length)
    return torch.where(waves != 0, changed, 0.0)  # silence stays silence


def masked(spectra: Tensor, places: Tensor, widest: int, axis: int) -> Tensor:
    """Spectra (B, rows, frames) with 0 in up to `widest` neighbouring rows (axis 1) or frames (axis 2).

    `places` (B, 2): how many, and where they begin. SpecAugment, Park et al. 2019, arXiv:1904.08779.
    """
    size = spectra.shape[axis]
    count = (places[:, 0] * (min(widest, size) + 1)).floor()
    first = (places[:, 1] * (size - count + 1)).floor()
    at = torch.arange(size, device=spectra.device)
    hidden = (at >= first[:, None]) & (at < (first + count)[:, None])  # (B, size)
    return spectra.masked_fill(hidden.unsqueeze(3 - axis), 0.0)


@cache
def _noise(length: int) -> Tensor:
    return torch.randn(max(2 * length, 1 << 17), generator=torch.Generator().manual_seed(1))
