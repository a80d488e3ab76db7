"""Recordings to vectors: by the net of a run, or, without one, by statistics of their spectrum that nobody trained."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from neocog.data import sound
from neocog.data.duplicates import SIDE
from neocog.data.read_sound import SoundReader
from neocog.data.recordings import LONGEST
from neocog.data.spectra import Spectrum
from neocog.errors import LibraryError, UsageError
from neocog.library.model_names import fingerprint, model_name
from neocog.library.photo import Photo, pixels_of
from neocog.nets import head_of

if TYPE_CHECKING:
    from neocog.fit.predicting import Run

STATISTICS = "mfcc_statistics"
RATE = 16_000  # samples a second of what is held and heard
_SPECTRUM = Spectrum(8000, 256, 80, "mfcc", 40, 20)  # up to 4 kHz: what recordings of any rate have
_VERSION = 2  # of the statistics


def heard(data: bytes, hash: str, mtime_ns: int, inode: int) -> Photo:
    """What a library keeps of a part of a recording; `pixels` are its samples, int16 (64,000,), silence behind it.

    Raises: DecodeError.
    """
    picture = pixels_of(data)
    photo = Photo(hash, len(data), mtime_ns, inode, picture.shape[1], picture.shape[0])
    photo.small = np.zeros((SIDE, SIDE, 3), np.uint8)  # of no use for recordings; see copies.duplicates
    photo.pixels = _samples(data)
    return photo


def _samples(data: bytes) -> np.ndarray:
    wave, _ = sound.decode(data, RATE)
    made = np.zeros(round(LONGEST * RATE), np.int16)
    made[: len(wave)] = (wave[: len(made)] * 32767).clip(-32767, 32767).round()
    return made


class Hearing:
    """What makes the vectors of recordings; as `embed.Embedder` is for pictures.

    Attributes:
        name, dimension, outputs, concepts: as there.
        how: one line on what computes.
    """

    preprocess: Any = None
    concurrent = False

    def __init__(self, run: Run | str | os.PathLike[str] | None = None, device: str | None = None) -> None:
        """The net of a run on recordings: what its last layer reads; None: statistics of MFCCs.

        Raises: UsageError: the run reads something else. RunError: there is none.
        """
        self.name = STATISTICS
        self.concepts: str | list[str] = ""
        self._run, source, file = None, STATISTICS, None
        self._own = threading.local()  # the page asks in several threads
        if run is not None:
            from neocog.fit.device import place
            from neocog.fit.predicting import Run as Opened

            run = run if isinstance(run, Opened) else Opened(Path(run))
            if not isinstance(run.reader, SoundReader):
                raise UsageError(f"{run.folder} was not trained on recordings")
            self._run, self._reader, self._net = run, run.reader, run.net()
            kind, number = place(device)
            self._device = torch.device(f"cuda:{number}" if kind == "cuda" else kind)
            head_of(self._net.to(self._device)).register_forward_pre_hook(self._catch)
            self.name, source, file = model_name(run.folder), os.path.abspath(run.folder), run.folder
            self.concepts = list(run.classes) if run.task.name == "label" else ""
        vectors, chances = self.embed([np.zeros(RATE, np.int16) + 1])
        self.dimension, self.outputs = vectors.shape[1], chances.shape[1]
        self.how = f"{self.name}: {self.dimension} numbers for each part of a recording"
        weights = file and {"file": os.path.abspath(file / "weights.safetensors")}
        self._card = {
            "name": self.name, "kind": "sound", "net": {"from": source, "version": _VERSION}, "layer": None,
            "concepts": self.concepts,
            "weights": weights and {**weights, "fingerprint": fingerprint(Path(weights["file"]))},
        }  # fmt: skip

    @classmethod
    def of(cls, card: dict[str, Any], device: str | None = None) -> Hearing:
        """Make what a library's model was made with. Raises: LibraryError: its run is gone, or was trained again."""
        known = card["weights"]
        if known is None and card["net"].get("version") != _VERSION:
            raise LibraryError(
                "the recordings were indexed by an older neocog, which heard them in another way; delete the library's "
                "folder and index again"
            )
        if known is not None and not Path(known["file"]).is_file():
            raise LibraryError(
                f"the recordings were indexed with {card['net']['from']}, which no longer exists; restore it, or index "
                "with another run: --net RUN"
            )
        if known is not None and fingerprint(Path(known["file"])) != known["fingerprint"]:
            raise LibraryError(f"{known['file']} has changed since the library was indexed; index again: --net RUN")
        return cls(card["net"]["from"] if known else None, device)

    def card(self) -> dict[str, Any]:
        """What a library keeps, so that `of` makes the same again; JSON-able."""
        return dict(self._card)

    def embed(self, sounds: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return features float32 (B, D) and probabilities float32 (B, K).

        `sounds`: int16 (L,) at `RATE` each, or the bytes of sound files, of which the first four seconds are heard.

        Raises: DecodeError: bytes that cannot be read.
        """
        held = [_samples(one) if isinstance(one, bytes) else one for one in sounds]
        waves = [one[: int(np.flatnonzero(one)[-1]) + 1 if one.any() else 1] / np.float32(32767) for one in held]
        if self._run is None:
            nothing = np.zeros((len(waves), 0), np.float32)
            return np.stack([_statistics(one) for one in waves]), nothing
        given = self._reader.collate([self._reader.encode((one, RATE)) for one in waves]).to(self._device)
        with torch.inference_mode():
            logits = self._net(self._reader.finish(given)).float()
        vectors = self._own.caught.flatten(2).mean(2) if self._own.caught.ndim > 2 else self._own.caught
        chances = (logits / self._run.temperature).softmax(1) if self.concepts else logits[:, :0]
        return vectors.float().cpu().numpy(), chances.cpu().numpy()

    def _catch(self, module: Any, given: tuple[Tensor, ...]) -> None:
        self._own.caught = given[0]


def _statistics(wave: np.ndarray) -> np.ndarray:
    """float32 (114,): of liftered MFCCs, means in four parts of the time, half around their mean, and how much they
    and their changes deviate: logarithms, around their mean, since all sounds deviate.
    """
    heard = torch.from_numpy(sound.resampled(wave, RATE, _SPECTRUM.rate))
    mfcc = _SPECTRUM(heard[None])[0, 1:]  # without the first, which is how loud it is
    mfcc = mfcc * (1 + 11 * torch.sin(torch.pi * torch.arange(1, 20) / 22))[:, None]  # as HTK weighs them, L = 22
    means = nn.functional.adaptive_avg_pool1d(mfcc - 0.5 * mfcc.mean(1, keepdim=True), 4).flatten()
    spread = [one.std(1, correction=0).log1p() for one in (mfcc, mfcc.diff(dim=1, prepend=mfcc[:, :1]))]
    parts = zip((1.0, 0.5, 0.5), (means, *(one - one.mean() for one in spread)), strict=True)
    return torch.cat([weight * one / (one.norm() + 1e-6) for weight, one in parts]).numpy()  # type: ignore[no-any-return]
