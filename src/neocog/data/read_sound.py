"""Recordings as inputs: waves of one rate, without silence around them, as log-mel, MFCC, spectrogram or wave."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from neocog.charts import line_chart
from neocog.data import sound, sound_changes
from neocog.data.reader import Reader, register
from neocog.data.source import Source
from neocog.data.spectra import KINDS, Spectrum
from neocog.data.stores import SOUND_ENDINGS
from neocog.errors import DataError, UsageError
from neocog.page import Html, data_uri, pairs, paragraph

if TYPE_CHECKING:
    from neocog.data.findings import Finding

_LOOK_AT = 1000  # training recordings that are decoded for the plan
_FASTEST, _LONGEST = 16_000, 4.0  # samples a second, and seconds, that a net hears where the user says nothing
_WINDOW, _HOP = 0.032, 0.010  # seconds
_POINTS = 6  # between low and high, at which the timbre changes
_SHOWN = 4.0  # seconds that a report plays


@register
class SoundReader(Reader):
    """Recordings as spectra (rows, frames), or as waves.

    Args:
        spectrum: what frames are.
        samples: what the net hears, around the middle of a recording; a shorter one stands in silence.
        trim: decibels under the loudest 20 ms that count as silence, which is cut off at both ends; 0: nothing is cut.
        depth: decibels under the loudest that spectra keep: what is weaker counts as silence.
        centred: share of each band's mean over the recording that is taken away.
        picture: spectra are pictures of one channel, for nets that read those.
        changes: in training: seconds of `shift`, `speed` up to this share, `timbre` by up to so many decibels, `noise`
            at least so many decibels under the sound (0: none), and which share of bands and frames is `masked`.
        facts: of the training recordings, for the report.
    """

    kind = "sound"
    endings = SOUND_ENDINGS
    about = "recordings: log-mel, MFCC, spectrogram or the wave"
    options: ClassVar[Mapping[str, Any]] = {
        "features": "logmel", "bands": 40, "rate": 0, "seconds": 0.0, "trim": 40.0, "depth": 50.0, "centred": 0.5,
        "picture": False, "shift": 0.1, "speed": 0.15, "timbre": 6.0, "noise": 5.0,
        "masked": 0.125,
    }  # fmt: skip
    pictures = True
    net = "tc_resnet8"
    recipe = "sounds"
    draws = 10 + _POINTS
    mixes = True

    def __init__(
        self,
        spectrum: Spectrum,
        samples: int,
        *,
        trim: float = 40.0,
        depth: float = 50.0,
        centred: float = 0.5,
        picture: bool = False,
        changes: Mapping[str, float] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.spectrum, self.samples, self.trim, self.depth, self.picture = spectrum, samples, trim, depth, picture
        self.centred = centred
        self.changes, self.facts = dict(changes or {}), dict(facts or {})

    @classmethod
    def plan(cls, source: Source, rows: np.ndarray, options: Mapping[str, Any]) -> SoundReader:
        if options["features"] not in KINDS:
            raise UsageError(f"expected features={'|'.join(KINDS)}, got {options['features']!r}")
        rates, seconds = [], []
        for i in rows[np.linspace(0, len(rows) - 1, min(_LOOK_AT, len(rows))).astype(int)]:
            try:
                wave, rate = sound.decode(source.read(int(i)))  # type: ignore[arg-type]
            except (DataError, OSError):
                continue
            cut = sound.sounding(wave, rate, options["trim"]) if options["trim"] else slice(0, len(wave))
            rates.append(rate)
            seconds.append((cut.stop - cut.start) / rate)
        if not rates:
            raise DataError(f"no recording of {source.name} can be read; 'neocog check' says why")
        rate = int(options["rate"] or min(np.median(rates), _FASTEST))
        heard = options["seconds"] or min(_LONGEST, max(0.2, 1.1 * float(np.percentile(seconds, 98))))
        window, hop = round(_WINDOW * rate), round(_HOP * rate)
        spectrum = Spectrum(rate, window, hop, options["features"], options["bands"], options["bands"])
        made = cls(
            spectrum,
            max(window, round(heard * rate / hop) * hop),
            trim=options["trim"],
            depth=options["depth"],
            centred=options["centred"],
            picture=options["picture"] and options["features"] != "wave",
            changes={name: float(options[name]) for name in ("shift", "speed", "timbre", "noise", "masked")},
            facts={"seconds": np.percentile(seconds, range(0, 101, 5)).round(3).tolist()},
        )
        made.notes = (
            f"recordings of {np.median(seconds):.2g} s (median), {max(seconds):.2g} s at most, without silence around, "
            f"at {rate:,} samples a second; the net hears {heard:.2g} s",
        )
        if over := sum(one > 1.05 * heard for one in seconds):
            made.notes += (f"of {over:,} longer ones it hears a part, the middle (--input-option seconds=S)",)
        return made

    def to_json(self) -> dict[str, Any]:
        of_spectrum = asdict(self.spectrum)
        return {"spectrum": of_spectrum, **{n: getattr(self, n) for n in ("samples", *_KEPT)}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SoundReader:
        return cls(Spectrum(**values["spectrum"]), values["samples"], **{name: values[name] for name in _KEPT})

    @property
    def shape(self) -> tuple[int, ...]:
        of_frames = (self.spectrum.rows, self.spectrum.frames(self.samples))
        return (1, *of_frames) if self.picture else of_frames

    @classmethod
    def named(cls, names: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """LABEL_SPEAKER_NUMBER, as ``7_jackson_32.wav`` of the Free Spoken Digit Dataset."""
        found = [re.fullmatch(r"([^_]+)_([^_]+)_\d+", Path(name).stem) for name in names]
        if not all(found) or not 1 < len({one[1] for one in found if one}) <= len(names) / 2:
            return {}
        return {"label": [one[1] for one in found if one], "speaker": [one[2] for one in found if one]}

    @classmethod
    def begins(cls, data: bytes) -> bool:
        return sound.begins(data)

    @classmethod
    def groups(cls, source: Source) -> np.ndarray | None:
        from neocog.data.sound_rules import sound_copies

        return sound_copies(source)

    def encode(self, raw: Any) -> np.ndarray:
        """int16 (L,), as loud as can be: bytes of a file, a path, a wave at the net's rate, or (wave, rate)."""
        wave = self.wave(raw)
        if self.trim:
            wave = wave[sound.sounding(wave, self.spectrum.rate, self.trim)]
        loudest = float(np.abs(wave).max(initial=0.0)) or 1.0
        return (wave * (32767 / loudest)).round().astype(np.int16)  # type: ignore[no-any-return]

    def wave(self, raw: Any) -> np.ndarray:
        """A recording float32 (L,) at the rate of the net."""
        if isinstance(raw, Path):
            raw = raw.read_bytes()
        rate = self.spectrum.rate
        if isinstance(raw, bytes):
            return sound.decode(raw, rate)[0]
        wave, found = raw if isinstance(raw, tuple) else (raw, rate)
        if not isinstance(wave, np.ndarray) or wave.ndim != 1 or wave.dtype.kind != "f" or not len(wave):
            raise DataError(f"expected a sound file or a wave of floats (L,), got {getattr(wave, 'dtype', type(wave))}")
        return wave.astype(np.float32) if found == rate else sound.resampled(wave.astype(np.float32), found, rate)

    def collate(self, arrays: Sequence[np.ndarray]) -> Tensor:
        """int16 (B, L): each in the middle of silence; L is what the net hears, or more where recordings are longer."""
        longest = max(self.samples, *(len(one) for one in arrays))
        length = longest + (longest - self.samples) % 2
        made = np.zeros((len(arrays), length), np.int16)
        for row, one in zip(made, arrays, strict=True):
            first = (length - len(one)) // 2
            row[first : first + len(one)] = one
        return torch.from_numpy(made)

    def finish(self, x: Tensor, draws: Tensor | None = None) -> Tensor:
        """(B, rows, frames), or (B, 1, rows, frames) for nets that read pictures.

        Spectra are around their level (see `Spectrum.centred`); waves have a power of 1 where they sound.
        """
        waves, how = x.float() / 32768.0, self.changes
        u = draws.to(x.device) if draws is not None else None
        if u is None:
            waves = sound_changes.window(waves, self.samples)
        else:
            reach = (sound_changes.lengths(waves) - self.samples).clamp(min=0) / 2 + how["shift"] * self.spectrum.rate
            speed = (1.0 + how["speed"]) ** (2.0 * u[:, 1] - 1.0)
            waves = sound_changes.window(waves, self.samples, shift=(2.0 * u[:, 0] - 1.0) * reach, speed=speed)
        sounds = waves != 0
        if u is not None and how.get("timbre"):  # older runs have none
            waves = sound_changes.equalised(waves, self.spectrum.rate, how["timbre"], u[:, 10:])
        if u is not None and how["noise"]:
            waves = sound_changes.noisy(waves, how["noise"] + 40.0 * u[:, 2], u[:, 3:6])
        if self.spectrum.kind == "wave":
            power = waves.square().sum(1) / sounds.sum(1).clamp(min=1)
            return self.spectrum(waves / power.sqrt().clamp(min=1e-4)[:, None])
        spectra = self.spectrum.centred(self.spectrum(waves, self.depth), sounds, self.centred)
        if u is not None:
            spectra = sound_changes.masked(spectra, u[:, 6:8], round(how["masked"] * spectra.shape[1]), 1)
            spectra = sound_changes.masked(spectra, u[:, 8:10], round(how["masked"] * spectra.shape[2]), 2)
        return spectra[:, None] if self.picture else spectra

    def show(self, raw: Any) -> Html:
        return _shown(self.wave(raw), self.spectrum.rate)

    @classmethod
    def shown(cls, raw: Any) -> Html:
        return _shown(*sound.decode(raw))

    def sections(self) -> list[tuple[str, Html]]:
        if not self.facts:
            return []
        points = [(float(v), p / 100) for p, v in zip(range(0, 101, 5), self.facts["seconds"], strict=True)]
        of, ms = self.spectrum, 1000 / self.spectrum.rate
        rows = {
            "samples a second": f"{of.rate:,}",
            "the net hears": f"{self.samples / of.rate:.2f} s",
            "as": of.kind,
            "frames": f"{of.rows} numbers of {of.window * ms:.0f} ms every {of.hop * ms:.0f} ms",
            "silence": f"{self.trim:.0f} decibels under the loudest, cut off at both ends" if self.trim else "kept",
        }
        if of.kind == "wave":
            del rows["frames"]
        chart = line_chart({"recordings": points}, x="seconds", y="share of the training recordings up to this length")
        return [("Sounds", Html(pairs(rows) + chart + paragraph(" ".join(self.notes))))]

    @classmethod
    def drawn(cls, n: int, size: int, seed: int, task: str) -> Source:
        from neocog.data.drawn_tones import DrawnTones

        return DrawnTones(n, seed)

    @classmethod
    def check(cls, source: Source) -> list[Finding]:
        from neocog.data.sound_rules import sound_findings

        return sound_findings(source)


_KEPT = ("trim", "depth", "centred", "picture", "changes", "facts")


def _shown(wave: np.ndarray, rate: int) -> Html:
    """The spectrogram, and the sound to listen to: its first four seconds, at 8,000 samples a second at most."""
    wave, slow = wave[: round(_SHOWN * rate)], min(rate, 8000)
    heard = wave if rate == slow else sound.resampled(wave, rate, slow)
    audio = base64.b64encode(sound.written(heard, slow)).decode()
    picture = data_uri(picture_of(wave, rate), lossless=True)
    return Html(
        f'<img src="{picture}" alt="spectrogram" style="height:80px;width:160px;display:block">'
        f'<audio controls preload="none" style="width:160px;height:28px" src="data:audio/wav;base64,{audio}"></audio>'
    )


def picture_of(wave: np.ndarray, rate: int, depth: float = 60.0) -> np.ndarray:
    """A recording's log-mel spectrogram as a picture, uint8 (bands, frames), high above low."""
    mel = Spectrum(rate, round(_WINDOW * rate), round(_HOP * rate))
    made = mel(torch.from_numpy(wave)[None])[0].numpy()[::-1]
    return ((made - made.max() + depth) / depth * 255).clip(0, 255).astype(np.uint8)  # type: ignore[no-any-return]
