import os
import tracemalloc

import numpy as np
import pytest

from neocog.data import folder as folder_module
from neocog.data import open_source
from neocog.data.folder import open_folder
from neocog.errors import DataError


def make(root, *names, content=b"x"):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content + str(name).encode("utf-8", "surrogateescape"))
    return root


def keys(source):
    return [source.key(i) for i in range(len(source))]


def told(source):
    return " | ".join(source.notes)


def test_class_folders_with_deeper_pictures(tmp_path):
    make(tmp_path, "dog/2.jpg", "dog/1.JPEG", "cat/a.png", "cat/deep/er/b.webp")
    source = open_source(tmp_path)
    assert source.classes == ("cat", "dog") and source.name == tmp_path.name
    assert keys(source) == ["cat/a.png", "cat/deep/er/b.webp", "dog/1.JPEG", "dog/2.jpg"]
    assert source.labels.tolist() == [0, 0, 1, 1] and source.labels.dtype == np.int32
    assert source.splits.tolist() == [-1] * 4 and source.splits.dtype == np.int8
    assert source.read(3) == b"xdog/2.jpg" and source.path(3) == tmp_path / "dog/2.jpg"


@pytest.mark.parametrize(
    ("names", "codes"),
    [(("train", "val", "test"), [0, 1, 2]), (("Training", "VALID", "Testing"), [0, 1, 2]), (("TRAIN", "dev"), [0, 1])],
)
def test_split_folders_under_their_usual_names(tmp_path, names, codes):
    for name in names:
        make(tmp_path, f"{name}/cat/1.jpg", f"{name}/dog/1.jpg")
    make(tmp_path, f"{names[-1]}/eel/1.jpg")
    source = open_folder(tmp_path)
    assert source.classes == ("cat", "dog", "eel")
    assert sorted(set(source.splits.tolist())) == codes
    assert source.splits.tolist() == sorted(source.splits.tolist())
    assert names[0] in told(source)


def test_split_folders_inside_a_single_folder(tmp_path):
    make(tmp_path, "data/train/cat/1.jpg", "data/test/cat/2.jpg", "data/train/dog/1.jpg")
    source = open_folder(tmp_path)
    assert source.classes == ("cat", "dog") and source.key(0) == "data/train/cat/1.jpg"
    assert "found inside 'data'" in told(source)


def test_train_beside_other_vehicles_is_a_class(tmp_path):
    make(tmp_path, "bus/1.jpg", "car/1.jpg", "train/1.jpg")
    source = open_folder(tmp_path)
    assert source.classes == ("bus", "car", "train") and (source.splits == -1).all()
    assert "'train' treated as class folders" in told(source)


def test_other_folders_beside_split_folders_are_left_out_and_told(tmp_path):
    make(tmp_path, "train/a/1.jpg", "test/a/1.jpg", "raw/9.jpg")
    source = open_folder(tmp_path)
    assert len(source) == 2 and "'raw'" in told(source)


def test_other_files_are_ignored_and_counted(tmp_path):
    make(tmp_path, "a/1.jpg", "b/1.jpg", "a/readme.txt", "a/.hidden.jpg", ".git/x.jpg", "b/Thumbs.db", "b/noend")
    (tmp_path / "empty").mkdir()
    source = open_folder(tmp_path)
    assert keys(source) == ["a/1.jpg", "b/1.jpg"] and source.classes == ("a", "b")
    assert "2 files not of this kind (1 .txt, 1 no ending)" in told(source)
    assert "hidden" in told(source) and "'empty'" in told(source)


def test_flat_folder_is_unlabelled(tmp_path):
    make(tmp_path, "1.jpg", "2.png")
    source = open_source(tmp_path)
    assert source.classes == () and source.labels.tolist() == [-1, -1] and "unlabelled" in told(source)


def test_loose_pictures_beside_class_folders(tmp_path):
    make(tmp_path, "a/1.jpg", "b/1.jpg", "loose.jpg")
    source = open_folder(tmp_path)
    assert source.labels.tolist() == [0, 1, -1] and "1 picture lies outside" in told(source)


def test_strange_names_survive(tmp_path):
    names = ["two words/pic 1.jpg", "Größe/naïve 图.jpg", "line/new\nline.jpg", os.fsdecode(b"raw/\xff\xfe.jpg")]
    make(tmp_path, *names)
    source = open_folder(tmp_path)
    assert sorted(keys(source)) == sorted(names)
    for i in range(len(source)):
        assert source.read(i).endswith(os.fsencode(source.key(i)))
        assert source.path(i).exists()
    assert "Größe" in source.classes
    assert len(source.fingerprint()) == 64


def test_symlink_loops_end_and_links_to_files_and_folders_work(tmp_path):
    make(tmp_path, "a/1.jpg", "b/1.jpg", "b/more/2.jpg")
    os.symlink(tmp_path, tmp_path / "a/up")
    os.symlink(tmp_path / "b", tmp_path / "b/more/again")
    os.symlink("self", tmp_path / "a/self")
    os.symlink("loop.jpg", tmp_path / "a/loop.jpg")
    os.symlink(tmp_path / "gone.jpg", tmp_path / "a/broken.jpg")
    os.symlink(tmp_path / "b/1.jpg", tmp_path / "a/link.jpg")
    os.symlink(tmp_path / "b", tmp_path / "c")
    source = open_folder(tmp_path)
    assert keys(source) == ["a/1.jpg", "a/link.jpg", "b/1.jpg", "b/more/2.jpg", "c/1.jpg", "c/more/2.jpg"]
    assert source.classes == ("a", "b", "c")
    assert sorted(p.key for p in source.problems) == ["a/broken.jpg", "a/loop.jpg"]
    assert "not followed again" in told(source)


def test_a_removed_file_is_a_data_error_and_changes_the_fingerprint(tmp_path):
    make(tmp_path, "a/1.jpg", "b/1.jpg")
    source = open_folder(tmp_path)
    before = source.fingerprint()
    assert before == open_folder(tmp_path).fingerprint()
    (tmp_path / "a/1.jpg").unlink()
    with pytest.raises(DataError, match=r"a/1.jpg: No such file"):
        source.read(0)
    assert source.fingerprint() != before


def test_nothing_found_says_what_was_expected(tmp_path):
    make(tmp_path, "a/1.xyz")
    with pytest.raises(DataError, match=r"no pictures found.*1 \.xyz.*expected class folders"):
        open_folder(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        open_folder(tmp_path / "nowhere")


def test_memory_for_each_picture_stays_small(tmp_path, monkeypatch):
    """The listing of many generated names, without the files: a million pictures must cost tens of MB."""
    count, classes = 20_000, 20
    for i in range(classes):
        (tmp_path / f"n{i:08d}").mkdir()

    def entries(listing, folder):
        if not folder:
            yield from ((b"n%08d" % i, "folder") for i in range(classes))
        else:
            yield from ((b"ILSVRC2012_val_%08d.JPEG" % i, "file") for i in range(count // classes))

    monkeypatch.setattr(folder_module._Listing, "_entries", entries)
    open_folder(tmp_path)  # imports and caches are not what is measured
    tracemalloc.start()
    try:
        source = open_folder(tmp_path)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(source) == count and source.key(count - 1).endswith("00000999.JPEG")
    assert held / count < 100
    assert peak / count < 200
