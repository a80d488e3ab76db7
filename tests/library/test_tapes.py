"""Recordings in a library, beside pictures: their parts are found by example, with their times."""

from __future__ import annotations

import io
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from library.tiny import Tiny, fill, paths_of
from PIL import Image

import neocog
from neocog.cli import main
from neocog.data import sound
from neocog.data.places import read_place
from neocog.data.recordings import part, parts
from neocog.data.sound import decode, written
from neocog.data.stores import told
from neocog.errors import DecodeError, LibraryError, UsageError
from neocog.library import Library, copies, upkeep
from neocog.library.describe import describe
from neocog.library.folders import folders, forget
from neocog.library.gallery import original, thumbnail
from neocog.library.hearing import STATISTICS, Hearing
from neocog.library.indexing import index
from neocog.library.overview import picture
from neocog.library.searching import search
from neocog.library.sentences import missing_note
from neocog.library.sheet import sheet
from neocog.library.source import library_source
from neocog.library.store import Store
from neocog.library.teaching import teach
from neocog.library.upkeep import problems, verify
from neocog.library.view import view_of

RATE = 8000
TONES = neocog.open_source("drawn:n=24,kind=sound,seed=3")


def wave(i: int) -> np.ndarray:
    return decode(TONES.read(i), RATE)[0]


def kinds(label: str) -> list[int]:
    return np.flatnonzero(TONES.labels == TONES.classes.index(label)).tolist()


FALLING, WARBLING = kinds(TONES.classes[0]), kinds(TONES.classes[3])


def joined(*waves: np.ndarray, pause: float = 0.5) -> bytes:
    silence = np.zeros(round(pause * RATE), np.float32)
    return written(np.concatenate([piece for one in waves for piece in (silence, one)]), RATE)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tapes") / "things"
    fill(folder, 2)
    for i in (*FALLING[:3], *WARBLING[:2]):
        (folder / ("a" if i in WARBLING else "") / f"{i}.wav").write_bytes(written(wave(i), RATE))
    (folder / "long.wav").write_bytes(joined(wave(FALLING[3]), wave(WARBLING[2])))
    Store.create(folder / ".neocog")
    index(Store.open(folder / ".neocog"), [folder], Tiny(), threads=1)
    return folder


@pytest.fixture
def shelf(made, tmp_path) -> Store:
    shutil.copytree(made, tmp_path / "things")
    return Store.open(tmp_path / "things" / ".neocog")


def again(store: Store, **options) -> str:
    return str(index(store, [store.folder.parent], Tiny(), threads=1, **options)).split(" in ")[0]


def test_parts_lie_between_pauses_and_are_four_seconds_long_at_most(tmp_path):
    file = tmp_path / "a.wav"
    long = np.sin(np.arange(9 * RATE) / 3).astype(np.float32)
    file.write_bytes(joined(long[: RATE // 2], long, pause=0.4))
    found, problem = parts(file)
    assert problem == "" and np.allclose(found, [(0.4, 0.9), (1.3, 4.3), (4.3, 7.3), (7.3, 10.3)], atol=0.02)
    heard, rate = decode(part(file, 4.5))
    assert rate == RATE and len(heard) == pytest.approx(3 * RATE, abs=0.04 * RATE)
    assert part(file) == part(file, found[1][0]) == read_place(str(file))  # the longest
    assert read_place(f"{file}/{found[0][0]:.3f}") == part(file, 0.0)


@pytest.mark.parametrize(
    ("format", "subtype"), [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", None), ("WAV", "PCM_U8")]
)
def test_parts_are_read_from_files_of_all_formats(tmp_path, format, subtype):
    file, tone = tmp_path / f"a.{format.lower()}", np.sin(np.arange(RATE) / 3).astype(np.float32)
    silence = np.zeros(RATE, np.float32)
    both = np.concatenate([silence, tone, silence, 0.5 * tone])
    soundfile.write(file, np.stack([both, both], 1), RATE, format=format, subtype=subtype)
    found, problem = parts(file)
    assert problem == "" and np.allclose(found, [(1, 2), (3, 4)], atol=0.1)
    heard, _ = decode(read_place(f"{file}/{found[1][0]:.3f}"))
    assert heard.std() == pytest.approx(0.5 / 2**0.5, abs=0.06)  # of the second, not of the first


def test_a_recording_in_which_nothing_sounds_has_no_parts_and_a_broken_one_those_that_are_left(tmp_path):
    (tmp_path / "still.wav").write_bytes(written(np.zeros(RATE, np.float32), RATE))
    with pytest.raises(DecodeError, match="nothing sounds in it"):
        parts(tmp_path / "still.wav")
    (tmp_path / "text.wav").write_bytes(b"words")
    with pytest.raises(DecodeError, match="not a sound file that can be read"):
        parts(tmp_path / "text.wav")


@pytest.mark.parametrize(
    ("format", "share"), [("WAV", 0.5), ("AIFF", 0.5), ("AU", 0.5), ("FLAC", 0.9), ("MP3", 0.5), ("OPUS", 0.5)]
)
def test_a_recording_whose_end_is_missing_is_told_from_a_whole_one(tmp_path, format, share):
    made, tone = io.BytesIO(), np.sin(np.arange(16 * RATE) / 3).astype(np.float32)
    if format == "OPUS":
        soundfile.write(made, tone, RATE, format="OGG", subtype="OPUS")
    else:
        soundfile.write(made, tone, RATE, format=format)
    file, whole = tmp_path / f"a.{format.lower()}", made.getvalue()
    file.write_bytes(whole)
    assert parts(file)[1] == "" and len(decode(whole)[0]) > 15 * RATE
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DecodeError, match="broken sound file"):  # training leaves it out
        decode(file.read_bytes())
    found, problem = parts(file)  # a library keeps what is there
    assert problem and (format in ("FLAC", "OPUS") or re.fullmatch(r"it ends at \d\.\d s of 1[68]\.\d s", problem))
    assert found[-1][1] < 15


def test_a_header_that_knows_no_length_or_counts_a_little_more_is_no_fault(tmp_path):
    data = bytearray(written(wave(0), RATE))
    for size in (0x7FFFF000, 0xFFFFFFFF, 2 * len(wave(0)) + 100):  # espeak-ng, ffmpeg; and who counts a little more
        data[40:44] = size.to_bytes(4, "little")
        (tmp_path / "a.wav").write_bytes(data)
        assert parts(tmp_path / "a.wav")[1] == "" and len(decode(bytes(data))[0]) == len(wave(0))


def test_recordings_stand_beside_pictures_and_each_kind_has_vectors_of_its_own(shelf):
    assert [str(one) for one in verify(shelf, deep=True)] == [] and len(problems(shelf)) == 0
    places = [one for one in paths_of(shelf) if ".wav/" in one]
    assert len(places) == 7 and sum(one.startswith("long.wav/") for one in places) == 2
    assert (shelf.model, shelf.model_of(sounds=True)) == (Tiny().name, STATISTICS)
    assert view_of(shelf).scale(STATISTICS, "cosine") == view_of(shelf).pairs(STATISTICS, "cosine")
    assert len(shelf.vectors(STATISTICS)[0]) == 7 and len(shelf.vectors(Tiny().name)[0]) == len(shelf) - 7
    assert again(shelf) == f"{len(shelf)} unchanged"
    assert [one.path.endswith((".png", ".jpg")) for one in library_source(shelf).pictures] == [True] * 2  # to train on


def test_a_recording_is_searched_by_and_only_recordings_are_found(shelf, tmp_path):
    question = tmp_path / "question.wav"
    question.write_bytes(written(wave(FALLING[4]), RATE))
    found = search(shelf, like=[str(question)], threshold=0.0)
    assert len(found) == 7 and all(".wav/" in hit.path for hit in found)
    assert found[0].path.split("/")[-2:] in [[f"{i}.wav", "0.000"] for i in FALLING[:3]] + [["long.wav", "0.500"]]
    known = f"{shelf.folder.parent}/{FALLING[0]}.wav"
    assert search(shelf, like=[known])[0].path.startswith(known)  # itself, for certain
    second = max((one for one in paths_of(shelf) if one.startswith("long")), key=lambda one: float(one.split("/")[1]))
    (best, *_) = search(shelf, like=[f"{shelf.folder.parent}/{told(second)}"], threshold=0.0)
    assert best.path.endswith(second) and told(best.path).endswith("long.wav at 00:01")
    row = int(view_of(shelf).rows_of([best.hash])[0])
    assert search(shelf, like=[best.hash], threshold=0.0)[0].hash == str(view_of(shelf).hashes[row])


def test_of_a_kind_that_the_library_lacks_it_is_said(made, tmp_path):
    for name, kind, there in (("0.png", "picture", "recording"), (f"{FALLING[0]}.wav", "recording", "2 pictures")):
        folder = tmp_path / kind
        folder.mkdir()
        if kind == "picture":
            (folder / "a.wav").write_bytes(written(wave(FALLING[0]), RATE))
        else:
            fill(folder, 2)
        store = Store.create(folder / ".neocog")
        index(store, [folder], Tiny(), threads=1)
        example = next(made.rglob("*.png")) if kind == "picture" else made / name
        with pytest.raises(UsageError, match=rf"is a {kind}, and .* holds only .*{there}"):
            search(store, like=[str(example)])


def test_recordings_that_look_alike_are_no_copies_of_each_other(shelf, tmp_path):
    groups = copies.duplicates(shelf, "near")
    assert not [copy for group in groups for copy in group.copies if ".wav" in str(copy.path)]
    assert upkeep.export(shelf, tmp_path / "all.parquet", model=STATISTICS) == len(shelf)


def test_a_recording_is_described_as_one(shelf, monkeypatch):
    monkeypatch.setattr("neocog.library.describe._SAME", -1.0)
    said = describe(shelf, str(shelf.folder.parent / f"{FALLING[0]}.wav"))
    assert any("almost the same recording as" in text for text in said.unusual) and "picture" not in str(said.unusual)


def test_a_moment_behind_the_end_is_none(shelf):
    name = next(path for path in paths_of(shelf) if ".wav/" in path).rpartition("/")[0]
    assert search(shelf, like=[f"{name} at 00:00"], threshold=0)
    with pytest.raises(UsageError, match="there is no picture"):
        search(shelf, like=[f"{name} at 59:00"], threshold=0)


def test_recordings_are_not_missed_by_sentences(shelf):
    view = view_of(shelf)
    assert missing_note(view, None)
    pictures = np.array([".wav/" not in (view.paths(i) or ("",))[0] for i in range(len(view))])
    assert 0 < pictures.sum() < len(view)
    assert not missing_note(
        view, SimpleNamespace(space=SimpleNamespace(trunk="t"), away=len(view) - int(pictures.sum()))
    )


def test_pictures_and_recordings_are_not_compared(shelf, tmp_path):
    with pytest.raises(UsageError, match="expected pictures or recordings to compare with, got both"):
        search(shelf, like=[str(shelf.folder.parent / "a" / "0.png"), str(shelf.folder.parent / "long.wav")])
    assert all(
        ".wav/" not in hit.path for hit in search(shelf, like=[str(shelf.folder.parent / "a" / "0.png")], threshold=0)
    )
    Store.create(tmp_path / "empty")
    (tmp_path / "q.wav").write_bytes(written(wave(0), RATE))
    with pytest.raises(UsageError, match=r"no vectors yet to compare with .*q\.wav; type 'neocog index FOLDER'"):
        search(Store.open(tmp_path / "empty"), like=[str(tmp_path / "q.wav")])


def test_a_recording_is_shown_as_its_spectrogram_and_given_out_as_it_sounds(shelf, tmp_path):
    hits = search(shelf, like=[str(shelf.folder.parent / "long.wav")], threshold=0.0)
    with Image.open(sheet(hits, tmp_path / "sheet.png", side=100)) as page:
        shades = np.asarray(page.convert("L"))[52:90, 12:112]
    assert shades.std() > 20  # no grey field that says why there is no picture
    data, kind = original(shelf, hits[0].hash)
    assert kind == "audio/wav" and decode(data)[1] == RATE
    said = picture(shelf, hits[0].hash)
    assert said["sound"] and said["name"] == told(hits[0].path).rpartition("/")[2]
    assert thumbnail(shelf, hits[0].hash, 160).startswith(b"\xff\xd8")


def test_changed_renamed_deleted_and_forgotten_recordings_are_followed(shelf):
    top = shelf.folder.parent
    (top / f"{FALLING[0]}.wav").rename(top / "new name.wav")
    assert again(shelf) == f"1 moved, {len(shelf) - 1} unchanged"
    (top / "new name.wav").write_bytes(joined(wave(FALLING[0]), wave(WARBLING[3])))
    os.utime(top / "new name.wav", ns=(1, 10**18))
    assert again(shelf).startswith("2 new") and sum(one.startswith("new name") for one in paths_of(shelf)) == 2
    (top / f"{FALLING[1]}.wav").unlink()
    assert again(shelf).startswith("1 gone")
    assert [str(one) for one in verify(shelf, deep=True)] == []
    forget(shelf, top / "long.wav")
    assert not [one for one in paths_of(shelf) if one.startswith("long")]
    (top / "a" / "0.png").unlink()  # pictures are followed as before, and recordings stay
    assert again(shelf).startswith("2 new, 1 gone")


def test_the_last_recording_of_a_folder_may_be_deleted(tmp_path):
    fill(tmp_path, 1)
    (tmp_path / "a.wav").write_bytes(written(wave(0), RATE))
    store = Store.create(tmp_path / ".neocog")
    assert again(store) == "2 new"
    (tmp_path / "a.wav").unlink()
    report = index(store, [tmp_path], Tiny(), threads=1)
    assert (report.gone, report.away, len(store)) == (1, [], 1)


def test_a_bad_recording_stands_among_the_problems(shelf):
    top = shelf.folder.parent
    (top / "still.wav").write_bytes(written(np.zeros(RATE, np.float32), RATE))
    whole = written(np.tile(wave(0), 4), RATE)
    (top / "torn.wav").write_bytes(whole[: len(whole) // 2])
    report = index(shelf, [top], Tiny(), threads=1)
    assert report.unreadable == 2 and report.new == 1  # of the torn one there is what is left
    assert [one.reason for one in problems(shelf)] == ["nothing sounds in it", "it ends at 0.7 s of 1.5 s"]
    assert [note for note in report.notes if "cannot be read" in note] == [
        "2 files cannot be read; 'neocog library problems' lists the reasons"
    ]
    assert shelf.holds() == "2 pictures and 8 parts of 7 recordings" in str(upkeep.info(shelf))
    assert (shelf.holds(STATISTICS), shelf.holds(Tiny().name)) == ("8 parts of 7 recordings", "2 pictures")
    assert [one.holds for one in folders(shelf)] == [shelf.holds()]
    assert forget(shelf, top / "long.wav").told == "2 parts of 1 recording"


def test_what_cannot_be_compared_is_named_with_the_net(shelf, tmp_path):
    photo, still = str(shelf.folder.parent / "a" / "0.png"), tmp_path / "still.wav"
    still.write_bytes(written(np.zeros(RATE, np.float32), RATE))
    for asked, model, said in (
        (str(still), None, r"still\.wav cannot be read: nothing sounds in it"),
        (str(still), Tiny().name, rf"{Tiny().name} reads pictures, and .*still\.wav is a recording; .*: {STATISTICS}$"),
        (photo, STATISTICS, rf"{STATISTICS} reads recordings, and .*0\.png is a picture; .*: {Tiny().name}$"),
    ):
        with pytest.raises((DecodeError, UsageError), match=said):
            search(shelf, like=[asked], model=model)
        with pytest.raises((DecodeError, UsageError), match=said):
            describe(shelf, asked, model=model)
    with pytest.raises(UsageError, match=r"at least one picture that shows 'quiet'; .*still\.wav cannot be read: noth"):
        teach(shelf, "quiet", [str(still)])


def test_without_the_extra_recordings_are_skipped_and_the_report_says_so(tmp_path, monkeypatch):
    fill(tmp_path, 1)
    (tmp_path / "a.wav").write_bytes(written(wave(0), RATE))
    monkeypatch.setattr(sound, "find_spec", lambda name: None)
    store = Store.create(tmp_path / ".neocog")
    report = index(store, [tmp_path], Tiny(), threads=1)
    assert report.new == 1
    assert report.notes[0].startswith("1 recording such as ")
    assert (
        "skipped: recordings are read by soundfile; type pip install 'neocog[sound]', and index again"
        in report.notes[0]
    )


def test_the_net_of_a_run_makes_the_vectors_and_its_words_are_searched_for(tmp_path, capsys, monkeypatch):
    run = neocog.train("drawn:n=24,kind=sound", epochs=1, out=tmp_path / "tones", progress=False, set={"min_steps": 2})
    top = tmp_path / "recordings"
    top.mkdir()
    for i in (*FALLING[:2], *WARBLING[:2]):
        (top / f"{i}.wav").write_bytes(written(wave(i), RATE))
    library = Library.beside(top)
    assert library.index(top, net=tmp_path / "tones").new == 4
    with pytest.raises(UsageError, match="--layer and --size are for nets on pictures"):
        library.index(top, net=tmp_path / "tones", size=64)
    assert library.index(top).unchanged == 4 and len(library.store.models()) == 1
    name, card = next(iter(library.store.models().items()))
    assert card["concepts"] == list(run.classes) and card["classes"] == 4 and name.startswith("tones_")
    view = view_of(library.store)  # of few classes random pairs are often alike, so its cosines are taken as they are
    assert view.scale(name, "cosine") == (0, 1) != view.pairs(name, "cosine")
    zero, step = view.scale(name, "euclidean")
    assert (view.pairs(name, "euclidean")[0] - zero) / step == pytest.approx(0.507)
    said = {hit.path: hit.score for hit in library.search(run.classes[0], threshold=0.0)}
    told_by_net = {str(answer.key): dict(answer.top)[run.classes[0]] for answer in run.predict([str(top)], top=4)}
    order = sorted(said, key=lambda path: -said[path])
    assert [path.rpartition("/")[0] for path in order] == sorted(told_by_net, key=lambda path: -told_by_net[path])
    library.index(top, net=tmp_path / "tones")
    monkeypatch.setattr("sys.argv", ["neocog", "search", "--like", f"{top}/{FALLING[0]}.wav", "-l", str(top), "--all"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, None)
    assert f"{FALLING[0]}.wav at 00:00" in capsys.readouterr().out
    (tmp_path / "tones").rename(tmp_path / "elsewhere")
    with pytest.raises(LibraryError, match="which no longer exists; restore it, or index with another run"):
        Hearing.of(card)
