"""`check`: every kind of trouble is found, counted and named, and nothing stops it."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neocog.data import Arrays, make_split, open_source
from neocog.data.check import check, fast_groups
from neocog.data.check_page import check_page
from neocog.data.duplicates import as_groups
from neocog.errors import DataError


def scene(seed: int, width: int = 96, height: int = 80) -> np.ndarray:
    """Coloured discs over a gradient; another picture for each seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    out = rng.uniform(40, 200, 3) + 50 * (x * rng.normal() + y * rng.normal())[..., None]
    for _ in range(9):
        cx, cy, r = rng.uniform(0, 1), rng.uniform(0, height / width), rng.uniform(0.05, 0.22)
        out[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.uniform(0, 255, 3)
    return out.clip(0, 255).astype(np.uint8)


def save(path: Path, picture: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, **options)
    return path


@pytest.fixture(scope="module")
def troubled(tmp_path_factory) -> Path:
    """A tree with split folders and one of everything that can be wrong."""
    top = tmp_path_factory.mktemp("troubled")
    for i in range(60):
        split = "train" if i % 10 < 8 else "test"
        save(top / split / ("cat" if i % 3 else "dog") / f"{i:03}.jpg", scene(i), quality=92)
    train, test = top / "train", top / "test"
    (test / "cat" / "same.jpg").write_bytes((train / "cat" / "001.jpg").read_bytes())
    again = Image.fromarray(scene(3)).resize((48, 40))
    again.save(test / "dog" / "again.jpg", quality=60)
    (train / "dog" / "conflict.jpg").write_bytes((train / "cat" / "004.jpg").read_bytes())
    save(train / "Dog " / "one.jpg", scene(100))
    save(test / "zebra" / "z.png", scene(101))
    whole = (train / "cat" / "002.jpg").read_bytes()
    (train / "cat" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (train / "cat" / "empty.jpg").write_bytes(b"")
    (train / "cat" / "text.jpg").write_text("this is not a picture")
    (train / "cat" / "page.png").write_text("<!doctype html><html><body>404</body></html>")
    save(train / "cat" / "white.png", np.full((80, 96, 3), 255, np.uint8))
    save(train / "cat" / "really.png", scene(102), format="JPEG")
    exif = Image.Exif()
    exif[274] = 6
    save(train / "cat" / "lying.jpg", np.rot90(scene(103)), exif=exif)
    save(train / "cat" / "small.png", scene(104, 16, 14))
    save(train / "cat" / "strip.png", scene(105, 500, 60))
    save(train / "cat" / "large.jpg", scene(106, 1000, 900))
    frames = [Image.fromarray(scene(k)) for k in (107, 108)]
    frames[0].save(train / "cat" / "moving.gif", save_all=True, append_images=frames[1:])
    return top


@pytest.fixture(scope="module")
def found(troubled):
    return check(open_source(troubled))


def keys(finding) -> list[list[str]]:
    return [[example.key.replace(os.sep, "/") for example in group] for group in finding.groups]


def test_unreadable_files_are_listed_with_their_reasons_and_stop_nothing(found):
    finding = found.find("unreadable")
    assert finding.count == 4 and finding.severity == "warning"
    reasons = {Path(problem.key).name: problem.reason for problem in found.unreadable}
    assert set(reasons) == {"cut.jpg", "empty.jpg", "text.jpg", "page.png"}
    assert "truncated" in reasons["cut.jpg"] and "empty" in reasons["empty.jpg"] and "HTML" in reasons["page.png"]
    assert found.readable == found.pictures - 4


def test_leaks_between_declared_splits_are_errors_and_name_both_pictures(found):
    assert keys(found.find("leak_exact")) == [["test/cat/same.jpg", "train/cat/001.jpg"]]
    assert keys(found.find("leak_near")) == [["test/dog/again.jpg", "train/dog/003.jpg"]]
    assert found.find("leak_exact").severity == "error"
    assert "1 of 15 test pictures have an exact copy in train" in found.find("leak_exact").title
    assert not found.ok and found.exit_status == 1


def test_equal_files_with_different_labels_are_errors(found):
    finding = found.find("conflict_exact")
    assert sorted(keys(finding)[0]) == ["train/cat/004.jpg", "train/dog/conflict.jpg"]
    assert {example.label for example in finding.groups[0]} == {"cat", "dog"} and finding.severity == "error"


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("blank", ["train/cat/white.png"]),
        ("misnamed", ["train/cat/really.png"]),
        ("rotated", ["train/cat/lying.jpg"]),
        ("small", ["train/cat/small.png"]),
        ("long_shape", ["train/cat/strip.png"]),
        ("large", ["train/cat/large.jpg"]),
        ("animated", ["train/cat/moving.gif"]),
        ("single_picture", ["test/zebra/z.png", "train/Dog /one.jpg"]),
    ],
)
def test_odd_pictures_are_named(found, name, files):
    assert sorted(key for group in keys(found.find(name)) for key in group) == files


def test_classes_are_judged(found):
    assert "'zebra'" in found.find("not_in_train").title and found.find("not_in_train").severity == "error"
    assert "'Dog ' and 'dog'" in found.find("similar_names").title
    assert found.find("imbalance").severity == "warning" and "'Dog '" in found.find("imbalance").title


def test_counts_add_up(found, troubled):
    source = open_source(troubled)
    assert found.pictures == len(source) == int(found.counts.sum()) == int(found.split_counts.sum())
    cat = found.counts[source.classes.index("cat")]
    assert cat.tolist() == [int(((source.labels == source.classes.index("cat")) & (source.splits == s)).sum())
                            for s in (0, 1, 2)] + [0]  # fmt: skip
    assert found.size_summary()["width"] == {"min": 16, "median": 96, "max": 1000}
    assert found.formats["JPEG"] > found.formats["GIF"] == 1
    assert sum(found.formats.values()) == found.readable


def test_the_json_document_is_plain_and_complete(found):
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["schema"] == 1 and document["ok"] is False
    assert sum(row["pictures"] for row in document["classes"]) + document["unlabelled"] == document["pictures"]
    for finding in document["findings"]:
        assert set(finding) == {"name", "severity", "title", "count", "advice", "examples", "more"}
        assert finding["severity"] in ("error", "warning", "hint") and finding["title"] and finding["advice"]
    order = [("error", "warning", "hint").index(finding["severity"]) for finding in document["findings"]]
    assert order == sorted(order)
    assert len(document["unreadable"]) == 4


def test_the_page_shows_every_finding_and_nothing_from_outside(found, troubled):
    html = check_page(found, open_source(troubled))
    for finding in found.findings:
        assert finding.title.replace("'", "&#x27;") in html
    assert html.count("<img") > 20 and "http://" not in html and "https://" not in html
    assert "train/cat/empty.jpg" in html.replace(os.sep, "/")


def test_groups_keep_copies_on_one_side_of_a_split(found, troubled):
    source = open_source(troubled)
    assert len(found.groups) == len(source)
    split = make_split(source.labels, groups=found.groups, seed=3)
    for group in as_groups(found.groups):
        assert len(set(split[group].tolist())) == 1
    by_key = {source.key(i).replace(os.sep, "/"): i for i in range(len(source))}
    assert found.groups[by_key["test/dog/again.jpg"]] == found.groups[by_key["train/dog/003.jpg"]]
    assert found.groups[by_key["test/cat/same.jpg"]] == found.groups[by_key["train/cat/001.jpg"]]


def test_without_near_only_equal_files_are_told(troubled):
    quick = check(troubled, near=False, workers=1)
    assert quick.find("leak_exact") and not quick.find("leak_near") and not quick.near


def test_fast_groups_agree_with_the_check_and_follow_the_order_asked_for(found, troubled):
    source = open_source(troubled)
    order = np.random.default_rng(0).permutation(len(source))
    seen: list[tuple[int, int]] = []
    groups = fast_groups(source, order, progress=lambda done, of: seen.append((done, of)))
    assert groups.dtype == np.int64 and seen[-1] == (len(source), len(source))
    asked = {frozenset(order[group].tolist()) for group in as_groups(groups)}
    assert asked == {frozenset(group.tolist()) for group in as_groups(found.groups)}


# --------------------------------------------------------------------------------- pictures in memory


def scenes(n: int, start: int = 0) -> list[np.ndarray]:
    return [scene(start + i, 40, 40) for i in range(n)]


def test_a_clean_collection_has_nothing_to_put_right():
    clean = check(Arrays(scenes(40), ["a", "b"] * 20))
    assert clean.findings == () and clean.ok and clean.exit_status == 0
    assert clean.summary == "40 pictures in 2 classes: no problems"


@pytest.mark.parametrize(("many", "severity"), [(25, None), (32, "hint"), (100, "warning")])
def test_imbalance_speaks_by_ratio(many, severity):
    labels = ["a"] * many + ["b"] * 10
    finding = check(Arrays(scenes(len(labels)), labels), near=False).find("imbalance")
    assert (finding.severity if finding else None) == severity


def test_missing_and_single_classes():
    unlabelled = check(Arrays(scenes(6)), near=False)
    assert unlabelled.find("unlabelled").count == 6
    one = check(Arrays(scenes(6), ["a"] * 6), near=False)
    assert one.find("one_class").severity == "error"
    some = check(Arrays(scenes(6), ["a", "b", None, "a", "b", None]), near=False)
    assert some.find("unlabelled").severity == "hint" and some.find("unlabelled").count == 2
    empty = check(Arrays(scenes(4), [0, 2, 0, 2], classes=["x", "y", "z"]), near=False)
    assert "'y'" in empty.find("empty_class").title


def test_copies_inside_one_split_are_only_a_hint():
    pictures = scenes(20)
    result = check(Arrays([*pictures, pictures[3], pictures[3]], ["a", "b"] * 11, splits=["train"] * 22))
    assert result.find("leak_exact") is None
    assert result.find("copies_exact").count == 2 and result.find("copies_exact").severity == "hint"
    assert result.duplicates["exact_groups"] == 1


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_are_not_superfluous_copies(tmp_path, link):
    for k, picture in enumerate(scenes(6)):
        path = tmp_path / "all" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    (tmp_path / "chosen").mkdir()
    link(tmp_path / "all" / "a" / "0.png", tmp_path / "chosen" / "0.png")
    shutil.copy(tmp_path / "all" / "b" / "1.png", tmp_path / "chosen" / "1.png")
    found = check(tmp_path, near=False)
    assert found.find("copies_exact").title == "1 superfluous copy of 1 file"
    assert found.find("links").title == "1 link to pictures that are listed themselves"
    assert [one.key for one in found.find("links").groups[0]] == ["all/a/0.png", "chosen/0.png"]


def test_numbers_and_boxes_of_one_class_are_not_asked_for_classes(tmp_path):
    for k, picture in enumerate(scenes(6)):
        Image.fromarray(picture).save(tmp_path / f"{k}.png")
    rows = "".join(f"{k}.png,{k * 7 + 20},{k}.5\n" for k in range(6))
    (tmp_path / "ages.csv").write_text("image,age,height\n" + rows)
    found = check(open_source(tmp_path / "ages.csv", columns={"numbers": "age,height"}), near=False)
    assert "6 pictures, 2 numbers of 6 pictures" in found.summary and "classes" not in found.summary
    (tmp_path / "boxes.csv").write_text(
        "image,xmin,ymin,xmax,ymax,label\n" + "".join(f"{k}.png,1,2,9,8,cell\n" for k in range(6))
    )
    found = check(tmp_path / "boxes.csv", near=False)
    assert found.ok and found.find("one_class") is None


def test_tags_that_nobody_gave_are_unknown_and_none_is_not(tmp_path):
    for k, picture in enumerate(scenes(4)):
        Image.fromarray(picture).save(tmp_path / f"{k}.png")
    (tmp_path / "tags.csv").write_text("image,tags\n0.png,a;b\n1.png,b\n2.png,\n3.png,[]\n")
    found = check(tmp_path / "tags.csv", near=False).find("unlabelled")
    assert found.count == 1 and [one.key for (one,) in found.groups] == ["2.png"] and "[]" in found.advice


def test_a_leak_is_found_in_whatever_order_the_copies_stand():
    pictures = scenes(12)
    copies = [pictures[0]] * 4
    splits = ["test", "train"] * 6 + ["test", "val", "train", "test"]
    finding = check(Arrays(pictures + copies, ["a", "b"] * 8, splits=splits)).find("leak_exact")
    assert "3 of 8 test pictures" in finding.title and "1 of 1 val pictures" in finding.title
    assert all(group[1].split == "train" for group in finding.groups)


def test_pictures_with_several_labels_count_for_each_and_never_conflict():
    picture = scenes(1)[0]
    result = check(Arrays([picture, picture, *scenes(3, 50)], [["a", "b"], ["b"], ["a"], [], ["b"]]))
    assert result.counts.sum(axis=1).tolist() == [2, 3, 1]
    assert result.pictures == 5 and result.find("conflict_exact") is None


def test_a_class_told_by_its_file_format_is_found(tmp_path):
    for i in range(24):
        save(tmp_path / ("a" if i % 2 else "b") / (f"{i}.png" if i % 2 else f"{i}.jpg"), scene(i, 40, 40))
    finding = check(tmp_path, near=False).find("format_tells")
    assert finding.severity == "warning" and "100%" in finding.title


def test_suspicious_labels_come_from_a_list_or_a_function():
    source = Arrays(scenes(20), ["a", "b"] * 10)
    doubts = [(4, "a", "b", 0.7), (7, 1, 0, 0.95)]
    for given in (doubts, lambda s: doubts):
        finding = check(source, suspicious=given).find("suspicious_label")
        assert [example.index for (example,) in finding.groups] == [4, 7]  # as given
        assert finding.groups[1][0].note == "labelled b, likelier a (95%)"


def test_a_source_that_fails_in_unforeseen_ways_stops_nothing():
    class Failing(Arrays):
        def read(self, i):
            if i % 3 == 0:
                raise OSError("the disk is gone")
            if i % 3 == 1:
                raise MemoryError
            return super().read(i)

    result = check(Failing(scenes(9), ["a", "b", "c"] * 3))
    assert result.readable == 3
    reasons = {problem.reason for problem in result.unreadable}
    assert reasons == {"OSError: the disk is gone", "MemoryError: MemoryError"}
    assert len(as_groups(result.groups)) == 0


def test_nothing_readable_is_an_error(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jpg").write_bytes(b"")
    result = check(tmp_path)
    assert result.find("unreadable").severity == "error" and result.size_summary() == {}
    assert "No picture could be read" in check_page(result, open_source(tmp_path))


def test_an_empty_selection_is_no_special_case():
    source = Arrays(scenes(4), ["a", "b"] * 2)
    result = check(source.select(np.zeros(0, np.int64)))
    assert result.pictures == 0 and len(result.groups) == 0
    assert fast_groups(source, np.zeros(0, np.int64)).tolist() == []
    with pytest.raises(DataError):
        check("/nowhere/at/all")
