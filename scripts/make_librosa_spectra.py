#!/usr/bin/env python3
"""Write tests/data/librosa_spectra.json: what librosa makes of a chirp in noise, for `neocog.data.spectra`.

    PYTHONPATH=src:tests python scripts/make_librosa_spectra.py

It needs librosa, which neocog does not use. Of each array the file holds the shape, the first and last frame, and the
mean and deviation.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path

import librosa
import numpy as np
from data.chirps import SETTINGS, chirp

_OUT = Path(__file__).parents[1] / "tests" / "data" / "librosa_spectra.json"


def main() -> None:
    """Write the file."""
    found: list[dict[str, object]] = []
    for rate, window, hop, bands, coefficients in SETTINGS:
        wave = chirp(rate)
        power = np.abs(librosa.stft(wave, n_fft=window, hop_length=hop)) ** 2
        mel = librosa.feature.melspectrogram(y=wave, sr=rate, n_fft=window, hop_length=hop, n_mels=bands)
        logmel = librosa.power_to_db(mel)
        mfcc = librosa.feature.mfcc(S=logmel, sr=rate, n_mfcc=coefficients)
        for kind, made in (("spectrogram", librosa.power_to_db(power)), ("logmel", logmel), ("mfcc", mfcc)):
            frames = {name: made[:, k].round(4).tolist() for name, k in (("first", 0), ("last", -1))}
            size = {"shape": made.shape, "mean": float(made.mean()), "std": float(made.std())}
            found.append({"rate": rate, "window": window, "kind": kind, **size, **frames})
    about = (
        f"made by scripts/{Path(__file__).name} with librosa {librosa.__version__}, Python {platform.python_version()}"
    )
    lines = ",\n".join(json.dumps(one) for one in found)
    _OUT.write_text(f'{{"_about": {json.dumps(about)},\n"found": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
