"""Sound files as numbers: decoded through soundfile, mono, at one rate, without the silence around them."""

from __future__ import annotations

import io
import re
from importlib.util import find_spec
from typing import Any

import numpy as np

from neocog.errors import DecodeError, MissingExtra

_FRAME = 0.02  # seconds: how finely silence is found
_RATES = 100, 1_000_000  # samples a second
# what libsndfile notes of a chunk with samples that is longer in the header than in the file
_SHORT = re.compile(r"^\W*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_SPARE = 0.05  # seconds that may be missing: some recorders count a little more than they write
_UNKNOWN = 0x7FFF0000  # bytes from which on a header says no length: who wrote it into a pipe did not know it


def have() -> bool:
    """Whether the extra is installed."""
    try:
        return all(find_spec(name) is not None for name in ("soundfile", "soxr"))
    except ValueError:  # something else of that name, or a test that hides it
        return False


def begins(data: bytes) -> bool:
    """Tell whether a file that begins so is WAV, FLAC, OGG, MP3, AIFF or AU."""
    if data[:4] in (b"RIFF", b"FORM"):
        return data[8:12] in (b"WAVE", b"AIFF", b"AIFC")
    mp3 = data[:3] == b"ID3" or (data[:1] == b"\xff" and len(data) > 1 and data[1] & 0xE6 == 0xE2)
    return data[:4] in (b"fLaC", b"OggS", b".snd", b"RF64") or mp3


def decode(data: bytes, rate: int | None = None) -> tuple[np.ndarray, int]:
    """Decode WAV (8 to 32 bit, float), FLAC, OGG, MP3 and what else libsndfile reads.

    Args:
        data: the file.
        rate: samples a second that are wanted; None: those of the file.

    Returns: float32 (L,) in -1 to 1, the mean of all channels, and its rate.

    Raises: DecodeError: not a sound file, broken, empty, or not finite; MissingExtra: soundfile or soxr is not there.
    """
    if not data:
        raise DecodeError("empty file")
    with opened(io.BytesIO(data)) as file:
        try:
            samples, found = file.read(dtype="float32", always_2d=True), file.samplerate
        except RuntimeError as error:
            raise DecodeError(f"broken sound file: {error}") from error
        short = cut_short(file, len(samples))
    if not len(samples):
        raise DecodeError("a sound file without a sample")
    if short:
        raise DecodeError(f"broken sound file: {short}")
    wave = samples.mean(1)
    if not np.isfinite(wave).all():
        raise DecodeError("a sound file with values that are not finite")
    return (wave, found) if rate is None or rate == found else (resampled(wave, found, rate), rate)


def cut_short(file: Any, got: int) -> str:
    """Why an open sound file of which `got` samples were read is not whole: "it ends at 1.5 s of 3.0 s"; else ""."""
    announced, rate = file.frames, file.samplerate
    if found := _SHORT.search(file.extra_info):  # libsndfile then counts what is there
        said, there = map(int, found.groups())
        announced = round(announced * said / max(there, 1)) if there < said < _UNKNOWN else announced
    if announced - got > min(_SPARE * rate, announced // 2):
        return f"it ends at {got / rate:.1f} s of {announced / rate:.1f} s"
    return f"it is cut off at {got / rate:.1f} s" if "without an End-Of-Stream" in file.extra_info else ""


def resampled(wave: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """A recording float32 (L,) at another rate, through soxr. Raises: MissingExtra: no soxr."""
    try:
        import soxr
    except ImportError:
        raise _missing("soxr") from None
    return soxr.resample(wave, rate, wanted).astype(np.float32)  # type: ignore[no-any-return]


def sounding(wave: np.ndarray, rate: int, below: float = 40.0) -> slice:
    """The part of a recording (L,) from its first to its last frame of 20 ms that is not silent.

    A frame is silent where its power is more than `below` decibels under that of the loudest. All of it where nothing
    sounds.
    """
    size = max(1, round(_FRAME * rate))
    frames = np.pad(wave, (0, -len(wave) % size)).reshape(-1, size).astype(np.float64)
    power = (frames**2).mean(1)
    loud = np.flatnonzero(power > power.max(initial=0.0) * 10 ** (-below / 10))
    return slice(int(loud[0]) * size, min(len(wave), (int(loud[-1]) + 1) * size)) if len(loud) else slice(0, len(wave))


def written(wave: np.ndarray, rate: int) -> bytes:
    """A recording float32 (L,) as a WAV file of 16 bit: what browsers play."""
    import wave as container

    samples = (np.clip(wave, -1.0, 1.0) * 32767).round().astype("<i2")
    buffer = io.BytesIO()
    with container.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def opened(file: Any) -> Any:
    """A sound file that is open for reading, as soundfile has it. Raises: DecodeError, MissingExtra."""
    try:
        import soundfile
    except ImportError:
        raise _missing("soundfile") from None
    try:
        found = soundfile.SoundFile(file)
    except (RuntimeError, TypeError) as error:
        said = str(error).partition(": ")[2].rstrip(".")
        if not said or "does not exist" in said:  # so libsndfile says of MP3 files without a whole frame
            said = "it is damaged or cut off"
        raise DecodeError(f"not a sound file that can be read: {said}") from error
    if not _RATES[0] <= found.samplerate <= _RATES[1]:
        raise DecodeError(f"not a sound file that can be read: its header says {found.samplerate:,} samples a second")
    return found


def _missing(package: str) -> MissingExtra:
    return MissingExtra(f"recordings are read with the package {package}: pip install 'neocog[sound]'")
