"""Videos: shots with known cuts, frames at times, what is turned, uneven, cut off or no video at all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from films import SIZE, dissolve, scene, write

from neocog.data import video
from neocog.data.places import read_place
from neocog.data.shots import HEIGHT, WIDTH, Frames, shots
from neocog.data.stores import moment, told
from neocog.data.video import frame_at, frames_at, look
from neocog.errors import DecodeError, MissingExtra

av = pytest.importorskip("av")
FAST = {"preset": "ultrafast"}


def seen(frames, rate: float = 12.0, key: bool = True) -> Frames:
    """What `look` keeps of frames uint8 (96, 160, 3)."""
    made = Frames()
    for i, one in enumerate(frames):
        made.add(i / rate, one[: 8 * HEIGHT, : 8 * WIDTH], key)
    return made


def starts(frames, rate: float = 12.0) -> list[float]:
    return [round(shot.start, 2) for shot in shots(seen(frames, rate))][1:]


def test_cuts_are_found_where_they_are():
    frames = [f for n, count in enumerate((30, 20, 50, 6, 30)) for f in scene(n, count)]
    assert starts(frames) == pytest.approx([30 / 12, 50 / 12, 100 / 12, 106 / 12], abs=0.01)


def test_a_cut_stands_out_of_much_motion():
    frames = [*scene(1, 30, speed=4, noise=20), *scene(2, 30, speed=0)]
    assert starts(frames) == pytest.approx([30 / 12], abs=0.01)


@pytest.mark.parametrize("length", [6, 12, 24])
def test_a_dissolve_is_one_boundary_near_its_middle(length):
    frames = dissolve(list(scene(1, 48)), list(scene(2, 48)), length)
    assert starts(frames) == pytest.approx([(48 - length / 2) / 12], abs=0.5)


def test_a_flash_a_long_take_and_an_even_pan_are_no_cuts():
    take = list(scene(3, 60, speed=0.5))
    take[30] = take[31] = np.full_like(take[0], 250)
    assert starts(take) == []
    assert [len(shot.keys) for shot in shots(seen(scene(4, 60, speed=0), 1))] == [1]
    (long,) = shots(seen(scene(5, 80, speed=1.8), 2))
    assert 2 <= len(long.keys) <= 10  # what is seen at its end is another picture than at its start


def test_key_frames_are_sharp_and_not_black_nor_in_a_change():
    black = [np.zeros((SIZE[1], SIZE[0], 3), np.uint8)] * 12
    frames = seen([*scene(1, 24), *black, *scene(2, 24)])
    for i in (3, 4, 5):  # of the first shot these alone are sharp
        frames.sharp[i] *= 3
    made = shots(frames)
    assert [len(shot.keys) for shot in made] == [1, 0, 1] and made[0].keys[0] in (4, 5)
    assert [len(shot.keys) for shot in shots(seen(black))] == [1]  # better than none


def test_a_video_is_read_in_one_pass_and_its_frames_again_exactly(tmp_path):
    frames = [f for n, count in enumerate((75, 30, 45)) for f in scene(n, count)]
    path = write(tmp_path / "long.mp4", frames, **FAST)  # one key packet alone: what lies between is looked at
    dense = write(tmp_path / "dense.mkv", frames, keys=25, **FAST)
    for file, off, skip in ((path, 0.1, "NONREF"), (dense, 1.0, "NONKEY")):
        made = look(str(file))
        assert [round(s.start, 2) for s in made.shots][1:] == pytest.approx([3, 4.2], abs=off)
        assert len(made.times) == 3 and not made.problem and made.skip == skip
        for t, picture in frames_at(str(file), made.times, made.skip):
            assert np.abs(picture.astype(float) - frames[round(25 * t)]).mean() < 12
            np.testing.assert_array_equal(picture, frame_at(str(file), t))
    times = [0.0, 0.05, 0.07, 3.0, 3.3, 5.9, 99.0]  # the frame that is shown then; after the end the last one
    every = dict(frames_at(str(path), times))
    for t, i in zip(times, (0, 1, 1, 75, 82, 147, 149), strict=True):
        np.testing.assert_array_equal(every[t], frame_at(str(path), i / 25))


def test_uneven_frame_rates_go_by_presentation_time(tmp_path):
    frames = [f for n, count in enumerate((10, 6, 20)) for f in scene(n, count, speed=0)]
    gaps = [0] + [200] * 10 + [1000] * 6 + [50] * 19
    path = write(tmp_path / "uneven.mkv", frames, times=itertools.accumulate(gaps), **FAST)
    assert [round(s.start, 1) for s in look(str(path)).shots] == [0, 2.0, 8.0]
    np.testing.assert_array_equal(frame_at(str(path), 2.9), frame_at(str(path), 2.0))


def test_pictures_are_upright_and_have_square_pixels(tmp_path):
    wide = write(tmp_path / "wide.mp4", scene(1, 5), shape=(2, 1), **FAST)
    assert frame_at(str(wide), 0).shape == (96, 320, 3)
    turned, first = tmp_path / "turned.mp4", write(tmp_path / "first.mp4", scene(1, 5), **FAST)
    with av.open(str(first)) as old, av.open(str(turned), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        stream.set_display_rotation(90)  # counter-clockwise
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    np.testing.assert_array_equal(frame_at(str(turned), 0), np.rot90(frame_at(str(first), 0)))


def test_of_a_broken_video_what_can_be_read_is_kept(tmp_path):
    whole = write(tmp_path / "whole.mkv", [f for n in range(4) for f in scene(n, 50, noise=9)], keys=25, **FAST)
    data = whole.read_bytes()
    short = tmp_path / "short.mkv"
    short.write_bytes(data[: len(data) // 2])
    made = look(str(short))
    assert made.times and max(made.times) < 5 and made.problem.startswith("it ends at 00:0")
    torn = bytearray(data)
    torn[len(data) // 4 : len(data) // 2] = bytes(len(data) // 4)
    (tmp_path / "torn.mkv").write_bytes(torn)
    assert max(look(str(tmp_path / "torn.mkv")).times) > 5
    for name, content in (("no.mp4", b"x" * 999), ("empty.mov", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DecodeError, match="cannot be read as a video"):
            look(str(tmp_path / name))
    with pytest.raises(FileNotFoundError):
        look(str(tmp_path / "none.mp4"))


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(DecodeError, match="only sound"):
        look(str(path))


def test_a_place_names_a_frame(tmp_path):
    assert moment("/a/Film.MP4/12.480") == ("/a/Film.MP4", 12.48) and moment("/a/film.mp4") is None
    assert moment("/a/film.mp4/12.jpg") is None and moment("/a/cat.gif/0.000") == ("/a/cat.gif", 0.0)
    assert told("a/film.mkv/3723.400") == "a/film.mkv at 1:02:03" and told("a/b.jpg") == "a/b.jpg"
    path = write(tmp_path / "film.mp4", scene(1, 10), **FAST)
    data = read_place(f"{path}/0.120")
    assert data.startswith(b"P6 160 96 255\n") and data.endswith(frame_at(str(path), 0.12).tobytes())


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MissingExtra, match=r"pip install 'neocog\[video\]'"):
        look(__file__)
    assert not video.have()
