"""Whether mirrored pictures keep their class: by names, by looking, and what that means for copies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neocog.data import Arrays as ArrayPictures
from neocog.data import open_source
from neocog.data.check import check, groups_and_mirroring
from neocog.data.columns import LabelSets
from neocog.data.duplicates import as_groups, flipped_thumbs, look_at
from neocog.data.kinds import Categories, Category, Numbers
from neocog.data.mirroring import by_names, characters, decide, decide_by_values, named_sides
from neocog.data.source import Selected, Source

Arrows = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.mark.parametrize(
    "classes",
    [
        ("left", "right"), ("arrow_left", "arrow_right", "stop"), ("arrowLeft", "arrowRight"),
        ("arrowleft", "arrowright"), ("turn left ahead", "turn right ahead"), ("turn left", "right turn"),
        ("to the left of", "right of"), ("bright left", "bright right"), ("links", "rechts"),
        ("linker Fuß", "rechter Fuß"), ("gauche", "droite"), ("pied gauche", "pied droit"), ("izquierda", "derecha"),
        ("mano izquierda", "mano derecha"), ("esquerda", "direita"), ("sinistra", "destra"), ("左", "右"),
        ("左转", "右转", "直行"), ("влево", "вправо"), ("левый ботинок", "правый ботинок"), ("w lewo", "w prawo"),
        ("vänster", "höger"), ("hoger", "vanster"), ("venstre", "højre"), ("vasen", "oikea"), ("왼쪽", "오른쪽"),
        ("يسار", "يمين"), ("ซ้าย", "ขวา"), ("बाएँ", "दाएँ"), ("sol", "sağ"), ("clockwise", "counterclockwise"),
        ("counter-clockwise", "clockwise"), ("cw", "ccw"), ("shoe_L", "shoe_R"), ("eye OD", "eye OS"),
        ("east", "west"), ("facing east", "facing west"), ("NorthEast", "NorthWest"), ("<", ">"),
        ("alone", "inside", "left", "right", "above", "below"),
    ],
)  # fmt: skip
def test_names_that_differ_by_a_side_are_mirror_images(classes: tuple[str, ...]) -> None:
    found = named_sides(classes)
    assert found is not None and set(found) <= set(classes) and found[0] != found[1]
    assert named_sides(classes[::-1]) is not None


@pytest.mark.parametrize(
    "classes",
    [
        ("copyright", "trademark"), ("bright", "dark"), ("left_shoe", "hat"), ("left", "straight"), ("cat", "dog"),
        ("right whale", "left luggage"), ("Eastern bluebird", "Western bluebird"), ("one", "two", "three"),
        ("East Siberian Laika", "West Siberian Laika"), ("beast", "west"), ("hepatitis b", "hepatitis d"),
        ("solid", "sagging"), ("link", "chain"), ("clockwise", "still"), ("0",),
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ],
)  # fmt: skip
def test_names_that_only_contain_a_side_say_nothing(classes: tuple[str, ...]) -> None:
    assert by_names(classes) is None


def test_letters_and_digits_are_known_by_their_names() -> None:
    for classes in (("0", "1"), ("a", "B"), ("b", "d", "other"), ("p", "q"), ("digit 3", "digit 5"), ("lower_b", "d")):
        assert characters(classes), classes
    assert not characters(("cat", "dog")) and not characters(("0",)) and not characters(("a", "cat", "dog", "cow"))
    assert not characters(tuple(map(str, range(20)))) and not characters(("class 1", "class 2"))


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Write pictures into the folders that stand beside them."""

    def write(*pictures: tuple[str, np.ndarray]) -> Path:
        for number, (where, picture) in enumerate(pictures):
            (tmp_path / where).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(tmp_path / where / f"{number:03}.png")
        return tmp_path

    return write


def test_arrows_under_names_that_say_nothing_are_told_by_looking(folder: Callable[..., Path], arrows: Arrows) -> None:
    pictures, sides = arrows(160, seed=1)
    source = open_source(folder(*zip(np.array(["first", "second"])[sides], pictures, strict=True)))
    found = decide(source)
    assert not found.allowed and "'first' and 'second'" in found.why and "when mirrored" in found.why
    assert groups_and_mirroring(source, np.arange(len(source)))[1].why == found.why
    assert not check(source).mirroring.allowed


def test_arrows_and_their_mirror_images_in_one_class_may_be_mirrored(
    folder: Callable[..., Path], arrows: Arrows
) -> None:
    pictures, _ = arrows(160, seed=1)
    names = np.array(["first", "second"])[np.arange(160) // 80]  # each class points both ways
    assert decide(open_source(folder(*zip(names, pictures, strict=True)))).allowed


@pytest.mark.parametrize("task", ["shape", "colour"])
def test_drawings_may_be_mirrored(task: str) -> None:
    found = decide(open_source(f"drawn:n=600,size=32,task={task}"))
    assert found.allowed and "nor a test on" in found.why


def named(source: Source, names: list[str]) -> Source:
    """The same pictures with other names of classes."""
    view = Selected(source, np.arange(len(source)))
    view.columns = {"label": Category(source.labels, names)}
    return view


def test_relations_of_drawings_are_told_by_looking_too() -> None:
    source = open_source("drawn:n=1200,size=32,task=relation")
    assert "'left' and 'right'" in decide(source).why
    source = named(source, "first second third fourth fifth sixth".split())
    assert by_names(source.classes) is None and not decide(source).allowed


def test_digits_without_names_are_told_by_looking() -> None:
    source = open_source("digits")
    source = named(source, [f"heap number {'abcdefghij'[i]}{i}" for i in range(10)])
    assert by_names(source.classes) is None and not decide(source).allowed


def test_photographs_may_be_mirrored(data_folder: Path) -> None:
    assert decide(open_source(data_folder / "cifar10")).allowed
    assert decide(open_source(data_folder / "faces")).allowed


def test_chance_alone_never_speaks_against_mirroring() -> None:
    source = open_source("drawn:n=60,size=32")
    pictures = np.stack([source.read(i) for i in range(len(source))])
    for seed in range(20):
        labels = np.random.default_rng(seed).integers(0, 2, len(source))
        assert decide(ArrayPictures(pictures, labels, classes=["first", "second"])).allowed


def test_declared_test_pictures_are_not_looked_at(folder: Callable[..., Path], arrows: Arrows) -> None:
    pictures, sides = arrows(160, seed=1)
    known = open_source("drawn:n=60,size=48")
    train = [(f"train/{('first', 'second')[i % 2]}", known.read(i)) for i in range(60)]
    test = [(f"test/{('first', 'second')[side]}", p) for side, p in zip(sides, pictures, strict=True)]
    assert decide(open_source(folder(*train, *test))).allowed


# ---------------------------------------------------------------- mirrored copies


def drawings(n: int, seed: int = 0) -> list[np.ndarray]:
    source = open_source(f"drawn:n={n},size=64,seed={seed}")
    return [np.asarray(source.read(i)) for i in range(n)]


def test_the_hash_and_thumbnail_of_a_mirror_image_are_known_without_it() -> None:
    pictures = drawings(40)
    plain, mirrored = look_at(pictures), look_at([p[:, ::-1] for p in pictures])
    apart = np.bitwise_count(plain.mirrored ^ mirrored.hashes)
    assert apart.max() <= 2  # rounding
    assert np.abs(flipped_thumbs(plain.thumbs).astype(int) - mirrored.thumbs.astype(int)).max() <= 1


def test_mirrored_copies_stay_together_where_mirroring_keeps_the_class(folder: Callable[..., Path]) -> None:
    pictures = drawings(30)
    both = [(f"kind{i % 2}", p) for i, p in enumerate(pictures)]
    both += [(f"kind{i % 2}", p[:, ::-1]) for i, p in enumerate(pictures)]
    source = open_source(folder(*both))
    groups, mirroring = groups_and_mirroring(source, np.arange(len(source)))
    number = {source.key(i)[-7:-4]: i for i in range(len(source))}
    assert mirroring.allowed
    for i in range(30):
        assert groups[number[f"{i:03}"]] == groups[number[f"{i + 30:03}"]]
    assert len(as_groups(groups_and_mirroring(source, np.arange(len(source)), mirrored=False)[0])) == 0


def test_a_large_group_of_mirrored_copies_is_not_cut_apart(folder: Callable[..., Path]) -> None:
    """A group of more than 50 is checked again, and strictly: mirrored pairs as what they are."""
    one = drawings(1, seed=3)[0]
    rng = np.random.default_rng(0)

    def noisy(picture: np.ndarray) -> np.ndarray:
        return (picture + rng.normal(0, 1, picture.shape)).clip(0, 255).astype(np.uint8)

    many = [(f"kind{i % 2}", noisy(one[:, :: 1 - 2 * (i // 40)])) for i in range(80)]
    source = open_source(folder(*many))
    groups = groups_and_mirroring(source, np.arange(len(source)), mirrored=True)[0]
    assert len(np.unique(groups)) == 1


def test_check_calls_a_mirrored_copy_across_splits_a_leak(folder: Callable[..., Path]) -> None:
    pictures = drawings(40)
    there = [(f"{'train' if i < 30 else 'test'}/kind{i % 2}", p) for i, p in enumerate(pictures)]
    # the second is in another class than its like: a conflict, and no leak
    found = check(folder(*there, ("test/kind0", pictures[0][:, ::-1]), ("test/kind1", pictures[2][:, ::-1])))
    leak, conflict = found.find("leak_mirrored"), found.find("conflict_mirrored")
    assert conflict is not None and conflict.severity == "warning"
    assert leak is not None and leak.count == 1 and leak.severity == "error"
    assert "1 of 12 test pictures have a mirrored copy in train" in leak.title
    assert found.find("leak_near") is None and found.to_json()["duplicates"]["mirrored_pairs"] == 2


def test_left_and_right_mirrored_are_no_copies(folder: Callable[..., Path]) -> None:
    pictures = drawings(20)
    pairs = [(f"{'train' if i < 15 else 'test'}/left", p) for i, p in enumerate(pictures)]
    pairs += [(f"{'train' if i % 2 else 'test'}/right", p[:, ::-1]) for i, p in enumerate(pictures)]
    found = check(folder(*pairs))
    assert not found.mirroring.allowed and not as_groups(found.groups)
    assert found.find("leak_mirrored") is None and found.find("conflict_mirrored") is None
    assert found.to_json()["mirrored_copies_count"] is False


def test_mirrored_copies_in_another_class_mean_left_and_right(folder: Callable[..., Path]) -> None:
    pictures = drawings(8)
    both = [("here", p) for p in pictures] + [("there", p[:, ::-1]) for p in pictures]
    found = check(folder(*both))
    assert not found.mirroring.allowed
    assert found.mirroring.why == "8 of 8 mirrored copies are in a different class from the original"


def test_a_few_mirrored_copies_in_another_class_are_wrong_labels(folder: Callable[..., Path]) -> None:
    pictures = drawings(30)
    there = [(f"kind{i % 2}", p) for i, p in enumerate(pictures)]
    found = check(folder(*there, ("kind1", pictures[0][:, ::-1]), ("kind0", pictures[1][:, ::-1])))
    conflict = found.find("conflict_mirrored")
    assert found.mirroring.allowed and conflict is not None and conflict.count == 4
    assert "--set flip=none" in conflict.advice


def test_blank_and_symmetrical_pictures_say_nothing_about_mirroring(folder: Callable[..., Path]) -> None:
    blank = [(f"kind{i % 2}", np.full((40, 40, 3), 90, np.uint8)) for i in range(20)]
    found = check(folder(*blank, *((f"kind{i % 2}", p) for i, p in enumerate(drawings(20)))))
    assert found.mirroring.allowed and found.find("conflict_mirrored") is None


def _leaning(n: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Lines that lean by a number from -1 to 1: pictures (N, 32, 32, 3) and the numbers."""
    rng = np.random.default_rng(seed)
    lean, rows = rng.uniform(-1, 1, n), np.arange(32)
    pictures = rng.integers(0, 40, (n, 32, 32, 3), dtype=np.uint8)
    for picture, one in zip(pictures, lean, strict=True):
        across = np.rint(16 + one * (31 - rows) * 0.45).astype(int)
        for wide in (-1, 0, 1):
            picture[rows, (across + wide).clip(0, 31)] = 220
    return pictures, lean


def test_a_number_that_mirroring_reverses_is_seen() -> None:
    pictures, lean = _leaning(60)
    source = ArrayPictures(pictures, np.zeros(60, np.int64), classes=("x",))
    found = decide_by_values(source, Numbers(np.stack([np.full(60, 3.0), lean], axis=1), ("flat", "angle")))
    assert found is not None and not found.allowed and "'angle' looks reversed" in found.why
    assert decide_by_values(source, Numbers(abs(lean), ("size",))) is None
    assert decide_by_values(source, Numbers(np.random.default_rng(5).random(60), ("noise",))) is None
    assert decide_by_values(source, Numbers(np.where(np.arange(60) < 9, lean, np.nan), ("few",))) is None


def test_a_tag_that_mirroring_turns_into_another_is_seen() -> None:
    pictures, lean = _leaning(60, seed=1)
    source = ArrayPictures(pictures, np.zeros(60, np.int64), classes=("x",))
    each = np.arange(61)  # one tag for each picture
    found = decide_by_values(source, Categories(LabelSets(each, (lean > 0).astype(np.int32)), ("alpha", "beta")))
    assert found is not None and not found.allowed
    wide = LabelSets(each, (abs(lean) > 0.5).astype(np.int32))
    assert decide_by_values(source, Categories(wide, ("upright", "slanted"))) is None
