"""What is passed over while folders are listed, and what is named like a picture but cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from neocog.data import open_source
from neocog.data.listing import Rules, files_of, skipped, unread
from neocog.errors import UsageError

JUNK = ("@eaDir", "#recycle", "$RECYCLE.BIN", "$Recycle.Bin", "x Previews.lrdata", ".Trash-1000", ".thumbnails",
        "System Volume Information", "__MACOSX", "lost+found", "@Recycle")  # fmt: skip


def save(*paths: Path) -> None:
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 9, 9)).save(path, "PNG")


def names(found) -> list[str]:
    return sorted(Path(one).name for one in found)


@pytest.mark.parametrize("name", JUNK)
def test_what_systems_leave_behind_is_passed_over_for_training_and_below_folders(tmp_path, name):
    save(tmp_path / "cat" / "1.png", tmp_path / "cat" / name / "thumb.png", tmp_path / name / "2.png")
    assert skipped(name) and not skipped("cat")
    source = open_source(tmp_path)
    assert [source.key(i) for i in range(len(source))] == ["cat/1.png"] and source.classes == ("cat",)
    assert any("2 files or folders that are hidden, excluded or made by the system" in note for note in source.notes)
    assert names(files_of(tmp_path)) == ["1.png"]


def test_an_ignore_file_counts_for_its_folder_and_those_below(tmp_path):
    save(*(tmp_path / one for one in ("cat/1.png", "cat/draft-1.png", "cat/old/2.png", "dog/3.png", "dog/draft-2.png",
                                      "dog/@eaDir/4.png", "dog/old/5.png")))  # fmt: skip
    (tmp_path / ".neocogignore").write_text("# drafts\ndraft-*\n/cat/old/\n")
    (tmp_path / "dog" / ".neocogignore").write_text("!draft-2.png\n!@eaDir\n")
    expected = ["1.png", "3.png", "4.png", "5.png", "draft-2.png"]
    assert names(files_of(tmp_path)) == expected
    source = open_source(tmp_path)
    assert names(source.key(i) for i in range(len(source))) == expected


def test_what_was_asked_for_counts_more_than_an_ignore_file(tmp_path):
    (tmp_path / ".neocogignore").write_text("!a.png\nb.png\n")
    rules = Rules(str(tmp_path), ["a.png", "!b.png"]).inside(str(tmp_path))
    assert rules.skip(str(tmp_path / "a.png"), "a.png", False)
    assert not rules.skip(str(tmp_path / "b.png"), "b.png", False)


def test_a_line_that_is_no_pattern_is_named(tmp_path):
    (tmp_path / ".neocogignore").write_text("fine\n!\n")
    with pytest.raises(UsageError, match=r"neocogignore: .*'Screenshots/'"):
        open_source(tmp_path)
    with pytest.raises(UsageError, match="--exclude: "):
        Rules(str(tmp_path), ["!"])


def test_names_that_are_not_utf8_can_be_excluded(tmp_path):
    bad = os.fsdecode(b"caf\xe9.png")
    save(tmp_path / "cat" / bad, tmp_path / "cat" / "1.png")
    (tmp_path / ".neocogignore").write_bytes(b"caf\xe9.png\n")
    assert names(files_of(tmp_path)) == ["1.png"]


def test_raw_files_are_named_with_what_to_type(tmp_path):
    save(tmp_path / "cat" / "1.png", tmp_path / "dog" / "1.png")
    for name in ("IMG.CR2", "a.nef", "b.DNG", "c.jxl"):
        (tmp_path / "cat" / name).write_bytes(b"II*\0 not looked into")
    source = open_source(tmp_path)
    assert len(source) == 2
    reasons = {Path(one.key).name: one.reason for one in source.problems}
    assert set(reasons) == {"IMG.CR2", "a.nef", "b.DNG", "c.jxl"}
    assert reasons["IMG.CR2"] == "not supported: camera raw (CR2); convert it, such as: darktable-cli IMG.CR2 IMG.jpg"
    assert "djxl c.jxl c.png" in reasons["c.jxl"]
    assert unread("photo.jpg") is None and unread("notes.txt") is None
