"""Clips: the same frames from files, folders and arrays; one change for all frames; lists of public sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from films import scene, write
from PIL import Image

from neocog.data import open_source
from neocog.data.clips import MOTIONS, frames_of, open_clips, read_clip
from neocog.data.read_clip import ClipReader
from neocog.errors import DataError, UsageError

pytest.importorskip("av")


def reader(**options) -> ClipReader:
    given = {**ClipReader.options, "size": 16, "frames": 4, **options}
    return ClipReader.plan(open_source("drawn:n=8,size=32,kind=clip"), np.arange(8), given)


def strip(folder: Path, frames) -> Path:
    folder.mkdir(parents=True)
    for i, one in enumerate(frames):
        Image.fromarray(one).save(folder / f"frame{i}.png")
    return folder


def test_a_clip_is_the_same_from_a_file_its_bytes_a_folder_and_an_array(tmp_path):
    frames = list(scene(1, 12))
    film = write(tmp_path / "a.mkv", frames, codec="ffv1", keys=12)
    folder = strip(tmp_path / "frames", frames)
    assert [Path(one).name for one in frames_of(folder)][9:] == ["frame9.png", "frame10.png", "frame11.png"]
    for every in (0.0, 0.08):
        array = read_clip(np.stack(frames), 4, every, 96)
        assert array.shape == (4, 96, 96, 3)
        np.testing.assert_array_equal(read_clip(folder, 4, every, 96), array)
        for raw in (film, str(film), film.read_bytes()):
            assert np.abs(read_clip(raw, 4, every, 96).astype(int) - array).mean() < 3  # colours are coded as YUV
    gif = write(tmp_path / "a.gif", frames, codec="gif")
    assert read_clip(gif, 3, 0.0, 24).shape == (3, 24, 24, 3)


def test_a_short_clip_stands_still_at_its_ends():
    clip = read_clip(np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8), 4, 0.2, 8)
    assert clip[:, 0, 0, 0].tolist() == [0, 0, 4, 4]


def test_a_folder_of_animated_pictures_is_a_clip_for_each(tmp_path):
    for name in ("a.gif", "b.gif"):
        first, *others = map(Image.fromarray, scene(1, 6))
        first.save(tmp_path / name, save_all=True, append_images=others)
    assert not frames_of(tmp_path)
    assert [Path(key).name for key, _ in reader().inputs([tmp_path])] == ["a.gif", "b.gif"]


def test_what_is_no_clip_is_refused(tmp_path):
    for raw in (np.zeros((4, 8, 8), np.uint8), b"no video", tmp_path):
        with pytest.raises(DataError):
            read_clip(raw, 4, 0.0, 16)
    for options in ({"size": 4}, {"frames": 0}, {"every": -1}):
        with pytest.raises(UsageError, match="--input-option size"):
            reader(**options)


def test_every_frame_is_changed_alike_and_the_middle_is_seen_afterwards():
    one = reader(flip=True)
    still = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 1, 18, 18), np.uint8)).repeat(1, 4, 1, 1)
    x = torch.stack([still, still])
    y = one.finish(x, torch.tensor([[0.0, 0.99, 0.9], [0.6, 0.2, 0.1]]))
    assert y.shape == (2, 3, 4, 16, 16) and all(torch.equal(y[:, :, 0], y[:, :, t]) for t in range(4))
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (one.mean, one.std))
    back = ((y * std + mean) * 255).round().byte()
    assert torch.equal(back[0], still[..., 0:16, 2:18]) and torch.equal(back[1], still[..., 1:17, 0:16].flip(-1))
    assert torch.equal(((one.finish(x)[0] * std + mean) * 255).round().byte(), still[..., 1:17, 1:17])
    plain = reader()
    assert torch.equal(plain.finish(x, torch.tensor([[0.5, 0.5, 0.0]] * 2)), plain.finish(x))  # never mirrored
    again = ClipReader.from_json(one.to_json())
    assert again.to_json() == one.to_json() and again.shape == (3, 4, 16, 16)


def test_drawn_clips_move_as_their_class_says_from_any_place():
    source = open_source("drawn:n=64,size=32,kind=clip")
    assert source.classes == MOTIONS and len(set(source.splits.tolist())) == 3
    for i in range(8):
        clip = source.read(i).astype(int)
        changed = np.abs(np.diff(clip, axis=0)).sum((0, 3)) > 0  # where something was
        way, speed = MOTIONS[source.labels[i]].split()
        rows, columns = changed.any(1).sum(), changed.any(0).sum()
        assert (columns > rows) == (way in ("left", "right")), MOTIONS[source.labels[i]]
        assert (max(rows, columns) == 32) == (speed == "fast") or max(rows, columns) > 24
    longer = open_source("drawn:n=80,size=32,kind=clip")
    np.testing.assert_array_equal(longer.labels[:64], source.labels)
    np.testing.assert_array_equal(longer.read(5), source.read(5))


def names(source) -> dict[str, tuple[str, int]]:
    return {
        Path(source.key(i)).stem: (source.classes[source.labels[i]], int(source.splits[i])) for i in range(len(source))
    }


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")


def test_lists_of_splits_of_ucf101_and_hmdb51(tmp_path):
    top = tmp_path / "UCF-101"
    touch(*(top / c / f"v_{c}_g0{g}_c01.avi" for c in ("Archery", "Biking") for g in (1, 2, 8)))
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\n2 Biking\n")
    for fold, test in ((1, 1), (2, 2)):
        rest = [g for g in (1, 2, 8) if g != test]
        for name, groups in (("train", rest), ("test", [test])):
            lines = [f"{c}/v_{c}_g0{g}_c01.avi" for c in ("Archery", "Biking") for g in groups]
            (lists / f"{name}list0{fold}.txt").write_text("".join(f"{line} 1\n" for line in lines))
    found = names(open_source(top))
    assert found["v_Archery_g01_c01"] == ("Archery", 2) and found["v_Biking_g08_c01"] == ("Biking", 0)
    assert names(open_clips(top, fold=2))["v_Archery_g01_c01"] == ("Archery", 0)
    with pytest.raises(UsageError, match="no list of splits number 3; there are"):
        open_clips(top, fold=3)
    top = tmp_path / "hmdb" / "videos"
    touch(*(top / c / f"{c}{i}.avi" for c in ("run", "sit") for i in range(3)))
    (top.parent / "splits").mkdir()
    for c in ("run", "sit"):
        (top.parent / "splits" / f"{c}_test_split1.txt").write_text(f"{c}0.avi 1 \n{c}1.avi 2 \n{c}2.avi 0 \n")
    assert names(open_source(top)) == {f"{c}{i}": (c, s) for c in ("run", "sit") for i, s in enumerate((0, 2, -1))}


def test_kth_is_split_by_person(tmp_path):
    touch(*(tmp_path / "all" / f"person{p:02}_{w}_d1_uncomp.avi" for p in (1, 2, 11) for w in ("boxing", "running")))
    found = names(open_source(tmp_path / "all"))
    assert found["person01_boxing_d1_uncomp"] == ("boxing", 1) and found["person02_running_d1_uncomp"][1] == 2
    assert found["person11_boxing_d1_uncomp"] == ("boxing", 0)


def test_folders_of_frames_and_split_folders(tmp_path):
    for split in ("train", "test"):
        for c in ("left", "up"):
            strip(tmp_path / split / c / "one", list(scene(1, 3)))
    source = open_source(f"clips:{tmp_path}")
    assert source.classes == ("left", "up") and sorted(source.splits.tolist()) == [0, 0, 2, 2]
    assert source.read(0).is_dir() and reader().encode(source.read(0)).shape == (3, 4, 18, 18)
    (_, path), *rest = reader().inputs([str(tmp_path / "train" / "up" / "one")])
    assert not rest and path.is_dir() and "<img" in reader().show(path)
    assert next(reader().inputs([np.zeros((2, 8, 8, 3), np.uint8)]))[0] == "clip 0"
