"""Spectrogram, log-mel and MFCC of waves in batches, on the device where they are; equal to librosa's.

Frames are centred (the wave is continued by zeros), with a periodic Hann window; powers, mel bands of Slaney's Auditory
Toolbox with equal areas, decibels down to 80 below the loudest of the recording, an orthonormal cosine transform.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from neocog.errors import UsageError

KINDS = ("logmel", "mfcc", "spectrogram", "wave")
_FLOOR, _RANGE = 1e-10, 80.0  # librosa's: the least power, and the decibels below the loudest that are kept


@dataclass(frozen=True, slots=True)
class Spectrum:
    """How a wave becomes frames.

    Args:
        kind: "logmel", "mfcc", "spectrogram" (decibels) or "wave" (as it is).
        rate: samples a second.
        window, hop: samples in a frame, and from one frame to the next.
        bands: mel bands from 0 to half the rate.
        coefficients: of the cosine transform that are kept, for "mfcc".
    """

    rate: int
    window: int
    hop: int
    kind: str = "logmel"
    bands: int = 40
    coefficients: int = 20

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"expected one of {', '.join(KINDS)} as what is made of sounds, got {self.kind!r}")
        if not 1 <= self.hop <= self.window:
            raise UsageError(f"expected a hop of 1 to {self.window} samples (the window), got {self.hop}")

    @property
    def rows(self) -> int:
        """Numbers in a frame."""
        return {"logmel": self.bands, "mfcc": self.coefficients, "spectrogram": self.window // 2 + 1, "wave": 1}[
            self.kind
        ]

    def frames(self, samples: int) -> int:
        """Frames of a wave of so many samples."""
        return samples if self.kind == "wave" else samples // self.hop + 1

    def __call__(self, waves: Tensor, depth: float = _RANGE) -> Tensor:
        """Waves float (B, L) as (B, rows, frames), down to `depth` decibels below the loudest of each."""
        if self.kind == "wave":
            return waves[:, None]
        power = powers(waves, self.window, self.hop)
        if self.kind == "spectrogram":
            return decibels(power, depth)
        mel = decibels(mel_bands(self.rate, self.window, self.bands).to(power) @ power, depth)
        return cosines(self.bands, self.coefficients).to(mel) @ mel if self.kind == "mfcc" else mel

    def centred(self, spectra: Tensor, sounds: Tensor, share: float = 0.5) -> Tensor:
        """Spectra (B, rows, frames) in units of 15 decibels from -3 on, around their level.

        The level of a row is between 30 decibels under the loudest of all (`share` 0) and its mean over the frames that
        sound, which a microphone and a room colour (`share` 1); of MFCCs it is the mean. `sounds` bool (B, L): what is
        not silence.
        """
        there = F.max_pool1d(sounds[:, None].to(spectra), self.hop, ceil_mode=True)  # (B, 1, frames)
        there = F.pad(there, (0, spectra.shape[2] - there.shape[2]))
        level = (spectra * there).sum(2, keepdim=True) / there.sum(2, keepdim=True).clamp(min=1)
        if self.kind != "mfcc":
            level = share * level + (1.0 - share) * (spectra.amax((1, 2), keepdim=True) - 30.0)
        return ((spectra - level) / 15.0).clamp(min=-3.0)


def powers(waves: Tensor, window: int, hop: int) -> Tensor:
    """Power of each frequency in each frame: (B, L) -> (B, window // 2 + 1, L // hop + 1)."""
    if torch.jit.is_tracing():  # graphs have no complex numbers: the same as a convolution
        waves_of = _waves_of(window).to(waves)
        made = F.conv1d(F.pad(waves, (window // 2, window // 2))[:, None], waves_of, stride=hop)
        return made.square().unflatten(1, (2, -1)).sum(1)
    made = torch.stft(
        waves, window, hop, window=torch.hann_window(window, device=waves.device, dtype=waves.dtype),
        center=True, pad_mode="constant", return_complex=True,
    )  # fmt: skip
    return made.real.square() + made.imag.square()


def _waves_of(window: int) -> Tensor:
    """(2 (window // 2 + 1), 1, window): cosines and sines of each frequency, under a Hann window."""
    turns = torch.arange(window // 2 + 1)[:, None] * torch.arange(window) % window  # whole, so nothing is rounded
    angles = turns.double() * (2 * math.pi / window)
    return (torch.cat([angles.cos(), angles.sin()]) * torch.hann_window(window, dtype=torch.float64))[:, None].float()


def decibels(power: Tensor, depth: float = _RANGE) -> Tensor:
    """Powers (B, rows, frames) in decibels, at most `depth` below the largest of each recording."""
    made = 10.0 * power.clamp(min=_FLOOR).log10()
    return made.maximum(made.amax((1, 2), keepdim=True) - depth)


@cache
def mel_bands(rate: int, window: int, bands: int) -> Tensor:
    """Triangular bands (bands, window // 2 + 1), evenly spaced in mels (Slaney 1998), each of the same area."""
    edges = torch.tensor([_hertz(_mel(rate / 2) * i / (bands + 1)) for i in range(bands + 2)], dtype=torch.float64)
    frequencies = torch.arange(window // 2 + 1, dtype=torch.float64) * rate / window
    slopes = edges[:, None] - frequencies[None]  # (bands + 2, frequencies)
    widths = edges.diff()
    rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
    triangles = rising.minimum(falling).clamp(min=0.0)
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).float()


@cache
def cosines(bands: int, coefficients: int) -> Tensor:
    """The first rows of the orthonormal cosine transform of type II: (coefficients, bands)."""
    k = torch.arange(coefficients, dtype=torch.float64)[:, None]
    made = torch.cos(math.pi / bands * (torch.arange(bands) + 0.5) * k) * math.sqrt(2.0 / bands)
    made[0] /= math.sqrt(2.0)
    return made.float()


def _mel(hertz: float) -> float:
    """Slaney's scale: linear up to 1,000 Hz, logarithmic above."""
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def _hertz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * math.exp((mel - 15) * math.log(6.4) / 27)
