"""Recordings: decoded, resampled, trimmed; spectra as librosa's; what training changes; what `check` says."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from data.chirps import SETTINGS, chirp

from neocog.data import open_source, reader, sound
from neocog.data import sound_changes as change
from neocog.data.read_sound import SoundReader
from neocog.data.sound_rules import sound_findings
from neocog.data.spectra import Spectrum
from neocog.errors import DataError, DecodeError, MissingExtra, UsageError

WAVE = chirp(8000)


def file_of(wave: np.ndarray, rate: int = 8000, format: str = "WAV", subtype: str | None = None) -> bytes:
    made = io.BytesIO()
    soundfile.write(made, wave, rate, format=format, subtype=subtype)
    return made.getvalue()


@pytest.mark.parametrize(
    ("format", "subtype", "error"),
    [
        ("WAV", "PCM_U8", 8e-3), ("WAV", "PCM_16", 5e-5), ("WAV", "PCM_24", 1e-6), ("WAV", "PCM_32", 1e-6),
        ("WAV", "FLOAT", 0.0), ("WAV", "ULAW", 0.02), ("FLAC", "PCM_16", 5e-5), ("AIFF", "PCM_16", 5e-5),
        ("OGG", "VORBIS", 0.1), ("MP3", "MPEG_LAYER_III", None),
    ],
)  # fmt: skip
def test_decodes_what_people_have(format: str, subtype: str, error: float | None) -> None:
    data = file_of(WAVE, format=format, subtype=subtype)
    assert sound.begins(data)
    made, rate = sound.decode(data)
    assert made.dtype == np.float32 and rate == 8000
    if error is None:  # MP3 adds silence before and behind
        assert len(WAVE) <= len(made) <= len(WAVE) + 3500 and 0.4 < np.abs(made).max() < 0.6
    else:
        assert len(made) == len(WAVE) and np.abs(made - WAVE).max() <= error


def test_channels_are_averaged_and_rates_changed() -> None:
    made, _ = sound.decode(file_of(np.stack([WAVE, 0 * WAVE], 1)))
    np.testing.assert_allclose(made, WAVE / 2, atol=1e-4)
    made, rate = sound.decode(file_of(chirp(16_000), 16_000), 8000)
    assert rate == 8000 and len(made) == len(WAVE)
    middle = slice(400, -100)
    assert np.corrcoef(made[middle], WAVE[middle])[0, 1] > 0.99


def test_what_is_no_sound_is_said() -> None:
    good = file_of(WAVE)
    for data, said in (
        (b"", "empty file"), (b"no sound" * 99, "not a sound file that can be read"),
        (file_of(WAVE[:0]), "without a sample"), (file_of(WAVE * np.nan, subtype="FLOAT"), "not finite"),
        (good[:20], "not a sound file"), (good[:24] + b"\1\0\0\0" + good[28:], "header says 1 samples a second"),
        (file_of(WAVE, format="MP3")[:60], "damaged or cut off"),
    ):  # fmt: skip
        with pytest.raises(DecodeError, match=said):
            sound.decode(data)


def test_a_missing_extra_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    data = file_of(WAVE)
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(MissingExtra, match=r"soxr: pip install 'neocog\[sound\]'"):
        sound.decode(data, 4000)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(MissingExtra, match=r"soundfile: pip install 'neocog\[sound\]'"):
        sound.decode(data)


def test_silence_at_both_ends_is_found() -> None:
    quiet = np.random.default_rng(0).normal(0, 1e-4, 8000).astype(np.float32)
    quiet[3000:5000] += WAVE[:2000]  # its own first tenth is silence
    found = sound.sounding(quiet, 8000)
    assert 3000 <= found.start <= 3700 and 4900 <= found.stop <= 5160
    assert sound.sounding(np.zeros(100, np.float32), 8000) == slice(0, 100)


def test_spectra_are_librosas() -> None:
    found = json.loads((Path(__file__).parent / "librosa_spectra.json").read_text())["found"]
    settings = {(one[0], one[1]): one for one in SETTINGS}
    for one in found:
        rate, window, hop, bands, coefficients = settings[one["rate"], one["window"]]
        waves = torch.from_numpy(np.stack([chirp(rate), 0.01 * chirp(rate)]))
        made = Spectrum(rate, window, hop, one["kind"], bands, coefficients)(waves)
        assert list(made.shape[1:]) == one["shape"] == [*made.shape[1:]]
        for k, name in ((0, "first"), (-1, "last")):
            np.testing.assert_allclose(made[0, :, k].numpy(), one[name], atol=2e-3)
        assert made[0].mean().item() == pytest.approx(one["mean"], abs=1e-3)
        assert made[0].std(correction=0).item() == pytest.approx(one["std"], abs=1e-3)
        if one["kind"] != "mfcc":  # a hundredth as loud: 40 decibels less, also in a batch
            high = made[0] > made[0].max() - 20
            torch.testing.assert_close(made[1][high], made[0][high] - 40, atol=0.01, rtol=0)
    with pytest.raises(UsageError, match="logmel, mfcc"):
        Spectrum(8000, 256, 80, "mel")


def test_shift_and_speed_move_a_wave() -> None:
    wave = torch.zeros(3, 1000)
    wave[:, 500] = 1.0
    plain = change.window(wave, 600)
    assert plain[0].argmax() == 300 and plain.shape == (3, 600) and torch.equal(plain[0], wave[0, 200:800])
    assert change.window(wave, 1400)[0].argmax() == 700
    moved = change.window(wave, 600, shift=torch.tensor([0.0, 100.0, -50.0]))
    assert [one.argmax().item() for one in moved] == [300, 400, 250]
    turns = torch.sin(torch.arange(2000) * 2 * torch.pi * 0.05)[None]
    fast = change.window(turns, 1000, speed=torch.tensor([1.2]))
    assert torch.fft.rfft(fast[0]).abs().argmax().item() / 1000 == pytest.approx(0.06, abs=0.001)


def test_noise_is_as_loud_as_asked_and_a_function_of_its_numbers() -> None:
    wave = torch.zeros(4, 8000)
    wave[:, 2000:6000] = torch.sin(torch.arange(4000) * 0.3)
    chance = torch.tensor([[0.9, 0.0, 0.5], [0.1, 0.9, 0.5], [0.1, 0.1, 0.5], [0.1, 0.1, 0.5]])
    made = change.noisy(wave, torch.full((4,), 20.0), chance)
    assert torch.equal(made[0], wave[0]) and torch.equal(made[2], made[3])
    noise = made - wave
    assert not noise[1, :2000].any() and noise[2, :2000].any()  # within the sound alone, or everywhere
    power = (noise[2, 2000:6000].square().mean() / wave[2, 2000:6000].square().mean()).item()
    assert 10 * np.log10(power) == pytest.approx(-20, abs=0.5)


def test_another_timbre_is_so_many_decibels_more_or_less_of_each_pitch() -> None:
    rate, at = 8000, torch.arange(8000) / 8000
    tones = [200.0, 800.0, 3200.0]  # a quarter of the way from 100 to 4,000 Hz is 251 Hz
    wave = torch.stack([sum(torch.sin(2 * torch.pi * f * at) for f in tones)] * 3)
    wave[:, :1000] = 0
    gains = torch.tensor([[0.5] * 5, [0.0, 0.25, 0.5, 0.75, 1.0], [1.0, 1.0, 1.0, 0.0, 0.0]])
    made = change.equalised(wave, rate, 6.0, gains)
    assert not made[:, :1000].any()
    torch.testing.assert_close(made[0], wave[0], atol=1e-4, rtol=0)
    before, after = (torch.fft.rfft(one[:, 2000:7000] * torch.hann_window(5000)).abs() for one in (wave, made))
    bins = [round(f * 5000 / rate) for f in tones]
    decibels = (20 * (after[:, bins] / before[:, bins]).log10()).tolist()
    tilt = [-6 + 12 * math.log(f / 100) / math.log(40) for f in tones]
    assert decibels[1] == pytest.approx(tilt, abs=0.1)
    assert decibels[2][0] == pytest.approx(6, abs=0.1) and decibels[2][2] == pytest.approx(-6, abs=0.1)


@pytest.mark.parametrize("axis", [1, 2])
def test_bands_and_times_are_masked(axis: int) -> None:
    spectra = torch.ones(3, 8, 8)
    made = change.masked(spectra, torch.tensor([[0.0, 0.5], [0.999, 0.0], [0.999, 0.999]]), 3, axis)
    gone = (made == 0).all(3 - axis)
    assert gone.tolist() == [[False] * 8, [True] * 3 + [False] * 5, [False] * 5 + [True] * 3]
    assert (made != 0).sum().item() == 64 * 3 - 48


def planned(**options: Any) -> SoundReader:
    source = open_source("drawn:n=12,kind=sound")
    return SoundReader.plan(source, np.arange(12), {**SoundReader.options, **options})


@pytest.mark.parametrize("features", ["logmel", "mfcc", "spectrogram", "wave"])
def test_a_reader_hears_alike_after_json_and_at_any_rate(features: str) -> None:
    one = planned(features=features)
    again = reader.load(json.loads(json.dumps(reader.saved(one))))
    file, other = file_of(WAVE), file_of(0.3 * chirp(16_000), 16_000)
    x = one.finish(one.collate([one.encode(file), one.encode(other), one.encode(WAVE)]))
    assert torch.equal(x, again.finish(again.collate([again.encode(r) for r in (file, other, WAVE)])))
    assert x.shape[1:] == one.shape and x.isfinite().all()
    near = torch.corrcoef(torch.stack([x[0].flatten(), x[1].flatten(), x[2].flatten()]))
    assert near[0].min() > 0.95  # quieter, and at another rate, is the same
    draws = torch.rand(3, one.draws, generator=torch.Generator().manual_seed(0))
    raw = one.collate([one.encode(r) for r in (file, other, WAVE)])
    changed = one.finish(raw, draws)
    assert torch.equal(changed, one.finish(raw, draws)) and not torch.equal(changed, x)
    torch.testing.assert_close(one.finish(raw[1:], draws[1:]), changed[1:])  # whatever else is in the batch
    assert "<audio" in one.show(file) and "data:audio/wav" in one.show(file) and one.sections()


def test_of_a_long_recording_the_middle_is_heard_and_in_training_any_part() -> None:
    one = planned(features="wave", trim=0.0, noise=0.0, speed=0.0)
    wave = np.full(8 * one.samples, 1e-3, np.float32)
    wave[4 * one.samples - 10 : 4 * one.samples + 10] = 0.5
    raw = one.collate([one.encode(wave)])
    assert abs(int(one.finish(raw)[0, 0].argmax()) - one.samples // 2) <= 10
    draws = torch.full((1, one.draws), 0.5)
    for where, peak in ((0.5, True), (0.9, False), (0.1, False)):
        draws[0, 0] = where
        made = one.finish(raw, draws)
        assert bool(made.max() > 5) == peak and made.min() > 0  # nothing from outside the recording


def test_silence_and_recordings_of_one_sample_give_numbers() -> None:
    for features in ("logmel", "mfcc", "wave"):
        one = planned(features=features)
        raw = one.collate([one.encode(np.zeros(50, np.float32)), one.encode(np.ones(1, np.float32))])
        assert one.finish(raw).isfinite().all()
        assert one.finish(raw, torch.rand(2, one.draws)).isfinite().all()
    with pytest.raises(DataError, match="expected a sound file or a wave of floats"):
        one.encode(np.zeros((2, 9), np.float32))


def test_check_says_what_is_wrong_with_recordings(tmp_path: Path) -> None:
    loud = np.clip(8 * WAVE, -1, 1)
    for name, data in {
        "a/1.wav": file_of(WAVE), "a/2.wav": file_of(0.7 * WAVE), "a/3.wav": file_of(WAVE[200:]),
        "a/broken.wav": b"RIFF no", "a/silent.wav": file_of(np.zeros(2000)), "b/clipped.wav": file_of(loud),
        "b/long.wav": file_of(np.tile(0.5 * WAVE, 30)), "b/rate.flac": file_of(chirp(16_000), 16_000, "FLAC"),
        "b/1 again.wav": file_of(WAVE), "b/2 again.ogg": file_of(0.3 * WAVE, format="OGG"),
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    source = open_source(tmp_path)
    assert source.kind == "sound" and source.classes == ("a", "b")
    found = {f.name: f for f in sound_findings(source)}
    where = {name: [Path(e.key).name for group in f.groups for e in group] for name, f in found.items()}
    assert where == {
        "unreadable": ["broken.wav"], "silent": ["silent.wav"], "clipped": ["clipped.wav"], "long": ["long.wav"],
        "rates": ["rate.flac"], "conflict": ["1.wav", "1 again.wav"],
    }  # fmt: skip
    assert found["conflict"].severity == "error" and found["long"].groups[0][0].note == "9.0 s"
    assert found["unreadable"].title == "1 recording of 10 cannot be read"


def test_tables_name_recordings_and_groups_that_stay_together(tmp_path: Path) -> None:
    rows = ["file,word,speaker"]
    for i in range(12):
        (tmp_path / f"{i}.wav").write_bytes(file_of(WAVE[: 2400 - i]))
        rows.append(f"{i}.wav,{'yes' if i % 2 else 'no'},s{i // 4}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    source = open_source(tmp_path / "t.csv", columns={"label": "word", "group": "speaker"})
    assert source.kind == "sound" and source.classes == ("no", "yes")
    assert source.columns["group"].names == ("s0", "s1", "s2")  # type: ignore[attr-defined]
    from neocog.fit.choices import splits_of
    from neocog.fit.recipes import RECIPES
    from neocog.tasks import find

    codes, *_ = splits_of(source, find("label"), RECIPES["sounds"], 0)
    assert len(set(codes)) > 1 and all(len(set(codes[4 * k : 4 * k + 4])) == 1 for k in range(3))


def test_parquet_holds_recordings(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [{"bytes": file_of(WAVE[i:]), "path": f"{i}.wav"} for i in range(4)]
    table = pa.table({"audio": cells, "label": ["a", "b"] * 2, "speaker": ["x", "x", "y", None]})
    pq.write_table(table, tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet", columns={"group": "speaker"})
    assert source.kind == "sound" and source.classes == ("a", "b")
    assert source.columns["group"].codes.tolist() == [0, 0, 1, -1]  # type: ignore[attr-defined]
    assert len(sound.decode(source.read(0))[0]) == 2400  # type: ignore[arg-type]


def test_file_names_say_label_and_speaker(tmp_path: Path) -> None:
    for i, name in enumerate(("7_theo_0", "7_ann_1", "3_theo_0", "3_ann_12")):
        (tmp_path / f"{name}.wav").write_bytes(file_of(WAVE[i:]))
    source = open_source(tmp_path)
    said = {Path(source.key(i)).stem: source.classes[source.labels[i]] for i in range(4)}
    assert said == {"7_theo_0": "7", "7_ann_1": "7", "3_theo_0": "3", "3_ann_12": "3"}
    assert source.columns["speaker"].names == ("ann", "theo")  # type: ignore[attr-defined]
    assert any("read from the file names" in note for note in source.notes)
    (tmp_path / "noise.wav").write_bytes(file_of(WAVE))
    assert not open_source(tmp_path).classes
