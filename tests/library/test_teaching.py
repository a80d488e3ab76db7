"""Own words: taught, tagged, proposed, corrected, kept, forgotten; and the data that they become."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from library.made import DIMENSION, Eye, Picture, centre, made, names, seen_by

import neocog
from neocog.data import open_source
from neocog.errors import LibraryError, UsageError
from neocog.library import place
from neocog.library.editing import change
from neocog.library.heads import Head, learn, logistic, share_of
from neocog.library.query import parse
from neocog.library.searching import search
from neocog.library.source import labelled, library_source
from neocog.library.store import Store
from neocog.library.teaching import (
    TAG_FROM,
    concepts_of,
    correct,
    correct_all,
    forget,
    propose,
    tag_again,
    teach,
)
from neocog.library.upkeep import verify
from neocog.library.view import view_of


def cats(count: int = 120) -> list[Picture]:
    """Pictures of which every sixth shows "our cat": kind 1; others are of kinds 2 to 6."""
    return [Picture(f"{i:04d}.jpg", {}, 1 + i % 6) for i in range(count)]


def hashes(pictures: list[Picture], kind: int = 1) -> list[str]:
    return [p.hash for p in pictures if p.kind == kind]


def tagged(store: Store, name: str) -> set[str]:
    table = store.rows(["hash", "tags"])
    return {
        h for h, t in zip(*(table.column(c).to_pylist() for c in ("hash", "tags")), strict=True) if name in (t or ())
    }


@pytest.fixture
def pictures() -> list[Picture]:
    return cats()


@pytest.fixture
def store(tmp_path: Path, pictures: list[Picture]) -> Store:
    return made(tmp_path, pictures)


def test_a_few_examples_tag_the_whole_library(store: Store, pictures: list[Picture]) -> None:
    ours = hashes(pictures)
    taught = teach(store, "our cat", ours[:6])
    assert taught.examples == 6
    assert taught.quality > 0.9  # against pictures of which some show it, too: 0.94 would be perfect
    found = tagged(store, "our cat")
    assert set(ours[:6]) <= found <= set(ours)
    assert len(found) >= 15
    assert taught.tagged == taught.changed == len(found)
    assert 0.05 < taught.share < 0.4
    assert not any(finding.damage and "tag" in finding.text for finding in verify(store))


def test_what_was_taught_is_searched_by_its_name(store: Store, pictures: list[Picture]) -> None:
    ours = hashes(pictures)
    teach(store, "our cat", ours[:6])
    found = search(store, "our cat", top=100)
    assert len(set(ours) & {hit.hash for hit in found}) >= 15
    assert len({hit.hash for hit in found} - set(ours)) <= 1
    assert "taught concept 'our cat'" in found[0].reasons[0].text
    assert {hit.hash for hit in search(store, "tag:our_cat", top=100)} == tagged(store, "our cat")
    best = search(store, "our cat", threshold=0, top=20)
    assert {hit.hash for hit in best} == set(ours)


def test_examples_may_be_hits_folders_and_files_from_elsewhere(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "examples" / "deep"
    folder.mkdir(parents=True)
    for i in range(5):
        (folder / f"{i}.jpg").write_bytes(bytes([1, i]))
    eye = Eye(1000)
    seen_by(store, eye)
    taught = teach(store, "our cat", [tmp_path / "examples"])
    assert (taught.examples, eye.seen) == (5, 5)
    assert taught.tagged >= 10
    correct(store, sorted(tagged(store, "our cat"))[0], "our cat", True)  # learns again without looking again
    assert eye.seen == 5
    found = search(store, "our cat", top=8)
    assert teach(store, "tabby", found).examples == 8


def test_corrections_are_learned_from_and_last(store: Store, pictures: list[Picture]) -> None:
    ours, other = hashes(pictures), hashes(pictures, 3)
    teach(store, "our cat", ours[:6])
    wrong = correct(store, ours[10], "our cat", False)
    assert ours[10] not in tagged(store, "our cat")
    assert wrong.negatives == 1
    correct_all(store, "OUR CAT", [(other[0], True), (ours[10], True)])
    assert {other[0], ours[10]} <= tagged(store, "our cat")
    again = Store.open(store.folder)
    assert [e["right"] for e in again.load("corrections")] == [False, True, True]
    assert ours[10] in {hit.hash for hit in search(again, "our cat", top=100)}


def test_who_says_no_outvotes_the_net(tmp_path: Path) -> None:
    pictures = [Picture(f"{i}.jpg", {"tabby": 0.9} if i < 4 else {}, 1 if i < 4 else 2 + i % 5) for i in range(60)]
    store = made(tmp_path, pictures)
    teach(store, "cat", [p.hash for p in pictures[:3]])
    assert pictures[3].hash in {hit.hash for hit in search(store, "cat")}
    correct(store, pictures[3].hash, "cat", False)
    assert pictures[3].hash not in {hit.hash for hit in search(store, "cat")}
    assert pictures[0].hash in {hit.hash for hit in search(store, "cat")}


def test_proposals_are_the_uncertain_ones_and_new(tmp_path: Path) -> None:
    pictures = cats()
    store = made(tmp_path, pictures)
    taught = teach(store, "our cat", hashes(pictures)[:6], hashes(pictures, 2)[:6])
    doubts = [abs(one.probability - 0.5) for one in taught.uncertain]
    assert doubts == sorted(doubts)
    first = taught.uncertain[0]
    correct(store, first.hash, "our cat", True)
    asked = {one.hash for one in propose(store, "our cat", 200)}
    assert first.hash not in asked
    assert not {*hashes(pictures)[:6], *hashes(pictures, 2)[:6]} & asked


def test_no_two_proposals_are_alike(tmp_path: Path) -> None:
    twin = (centre(1) + centre(2)).astype(np.float32)
    store = made(tmp_path, [*cats(60), *(Picture(f"twin{i}.jpg", vector=twin + i * 1e-3) for i in range(5))])
    teach(store, "our cat", hashes(cats(60))[:6])
    assert sum(Path(one.path).name.startswith("twin") for one in propose(store, "our cat", 50)) == 1


def test_new_pictures_are_tagged_afterwards(store: Store, pictures: list[Picture], tmp_path: Path) -> None:
    teach(store, "our cat", hashes(pictures)[:15])
    new = Picture("new.jpg", {}, 1, vector=centre(1) * 1.1)
    more = made(tmp_path / "more", [new])
    row = more.rows([*(c for c in more.columns if c not in ("thumb",))])
    store.add(row)
    assert new.hash not in tagged(store, "our cat")
    assert tag_again(store) == {"our cat": 1}
    assert new.hash in tagged(store, "our cat")


def test_forgetting_takes_tags_and_corrections_along(store: Store, pictures: list[Picture]) -> None:
    teach(store, "our cat", hashes(pictures)[:6])
    teach(store, "our dog", hashes(pictures, 3)[:6])
    correct(store, hashes(pictures)[8], "our cat", True)
    forget(store, "our cat")
    assert list(concepts_of(store)) == ["our dog"]
    assert store.load("corrections") == []
    assert not tagged(store, "our cat") and tagged(store, "our dog")
    with pytest.raises(UsageError, match="no concept 'our cat' was taught; the taught ones are our dog"):
        propose(store, "our cat")


def test_what_cannot_be_taught(store: Store, pictures: list[Picture], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, examples, negatives, said in (
        ("  ", hashes(pictures)[:3], [], "needs a name"),
        ("x" * 101, hashes(pictures)[:3], [], "at most 100 characters"),
        ("half \udcff", hashes(pictures)[:3], [], "needs a name"),
        ("cat", [], [], "at least one picture"),
        *(("cat", [odd], [], "there is no picture") for odd in ("", "\ud800", "d" * 5000)),
        ("cat", ["nowhere.jpg"], [], "there is no picture 'nowhere.jpg'"),
        ("cat", [tmp_path / "empty"], [], "expected pictures in"),
        ("cat", hashes(pictures)[:3], hashes(pictures)[2:4], "given both as 'cat' and as not 'cat'"),
    ):
        with pytest.raises(UsageError, match=said):
            teach(store, name, examples, negatives)
    assert concepts_of(store) == {}
    with pytest.raises(LibraryError, match="no vectors yet"):
        teach(Store.create(tmp_path / "other" / ".neocog"), "cat", hashes(pictures)[:1])
    teach(store, "cat", hashes(pictures)[:1])
    with pytest.raises(UsageError, match="rejected by a correction"):
        correct(store, hashes(pictures)[0], "cat", False)


def test_one_example_is_enough_to_begin_with(store: Store, pictures: list[Picture]) -> None:
    taught = teach(store, "our cat", hashes(pictures)[:1])
    assert np.isnan(taught.quality)
    found = [hit.hash for hit in search(store, "our cat", top=5)]
    assert set(found) <= set(hashes(pictures))
    json.dumps(concepts_of(store))


@pytest.mark.slow
def test_two_who_teach_at_once_lose_nothing(store: Store, pictures: list[Picture]) -> None:
    code = (
        "import sys\nfrom neocog.library.store import Store\nfrom neocog.library.teaching import teach\n"
        "teach(Store.open(sys.argv[1]), sys.argv[2], sys.argv[3:])"
    )
    source = Path(neocog.__file__).parents[1]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(store.folder), f"kind {kind}", *hashes(pictures, kind)[:4]],
            env={**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"},
        )
        for kind in (1, 2, 3)
    ]
    assert [one.wait(timeout=120) for one in running] == [0, 0, 0]
    assert set(concepts_of(store)) == {"kind 1", "kind 2", "kind 3"}
    for kind in (1, 2, 3):
        assert tagged(store, f"kind {kind}") >= set(hashes(pictures, kind)[:4])


# ---- heads


def test_logistic_regression_is_at_its_optimum() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(80, 5)).astype(np.float32)
    right = x @ [1, -2, 0.5, 0, 0] + 0.5 * random.normal(size=80) > 0.3
    weight = random.uniform(0.5, 2, 80)
    w, b = logistic(x, right, weight, 0.1)
    p = 1 / (1 + np.exp(-(x.astype(np.float64) @ w + b)))
    share = weight / weight.sum()
    gradient = x.T.astype(np.float64) @ (share * (p - right)) + 0.1 * w
    np.testing.assert_allclose(gradient, 0, atol=1e-3)
    assert abs((share * (p - right)).sum()) < 1e-3


@pytest.mark.parametrize("share", [0.01, 0.1, 0.4])
def test_the_share_of_a_concept_is_estimated(share: float) -> None:
    random = np.random.default_rng(1)
    shown = random.random(4000) < share
    scores = np.where(shown, random.normal(6, 1, 4000), random.normal(0, 1, 4000))
    found = share_of(random.normal(6, 1, 30), scores)
    assert 0.6 * share < found < 1.6 * share + 0.005


def test_probabilities_of_a_head_are_right_about_as_often_as_they_say() -> None:
    random = np.random.default_rng(2)

    def some(kind: int, count: int) -> np.ndarray:
        x = centre(kind) + 0.45 * random.normal(size=(count, DIMENSION))
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)

    library = np.concatenate([some(1, 100), *(some(k, 150) for k in range(2, 8))])
    shown = np.arange(len(library)) < 100
    head = learn(some(1, 20), library[:0], library)
    p = head(library)
    assert abs(p.sum() - 100) < 50
    sure = p > TAG_FROM
    assert shown[sure].mean() > 0.6
    assert sure[shown].mean() > 0.4
    again = Head.from_card(json.loads(json.dumps(head.card())))
    np.testing.assert_allclose(again(library), p, atol=1e-3)


@pytest.mark.slow
def test_ten_thousand_pictures(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    centres = random.normal(size=(12, 768)).astype(np.float32)
    pictures = [
        Picture(f"{i}.jpg", kind=i % 12, vector=centres[i % 12] + random.normal(size=768).astype(np.float32))
        for i in range(10_000)
    ]
    import library.made as toy

    toy_dimension, toy.DIMENSION = toy.DIMENSION, 768
    try:
        store = made(tmp_path, pictures, ["a", "b"])
    finally:
        toy.DIMENSION = toy_dimension
    taught = teach(store, "our cat", hashes(pictures, 1)[:20])  # bench/library.py has the time
    assert taught.tagged > 500
    assert correct(store, hashes(pictures, 2)[0], "our cat", False).tagged > 500


# ---- as data


def with_files(store: Store, pictures: list[Picture]) -> None:
    for one in pictures:
        (store.folder.parent / one.name).write_bytes(one.name.encode())


def test_a_concept_is_a_source_to_train_on(store: Store, pictures: list[Picture]) -> None:
    with_files(store, pictures)
    teach(store, "our cat", hashes(pictures)[:8])
    correct(store, hashes(pictures, 3)[0], "our cat", False)
    source = library_source(f"library:{store.folder}#our cat")
    assert source.classes == ("not our cat", "our cat")
    counts = np.bincount(source.labels)
    assert counts.tolist() == [8, 8]
    assert any("7 more of the library that very probably are not" in note for note in source.notes)
    assert source.read(0) == Path(source.key(0)).read_bytes()
    assert source.path(0) == Path(source.key(0))
    assert open_source(source) is source
    assert len(source.fingerprint()) == 64
    assert source.sample(int(np.flatnonzero(source.labels == 1)[0])).label == "our cat"


def test_several_concepts_are_classes_and_a_picture_may_have_two(store: Store, pictures: list[Picture]) -> None:
    with_files(store, pictures)
    teach(store, "our cat", hashes(pictures)[:5], hashes(pictures, 4)[:2])
    teach(store, "our dog", hashes(pictures, 3)[:5])
    source = library_source(store)
    assert source.classes == ("other", "our cat", "our dog")
    assert source.label_sets is None
    correct(store, hashes(pictures)[0], "our dog", True)
    both = library_source(store)
    assert both.classes == ("our cat", "our dog")
    assert both.label_sets is not None
    assert sorted(len(both.label_sets[i]) for i in range(len(both))) == [0, 0, *[1] * 9, 2]


def test_without_teaching_the_labels_are_taken(tmp_path: Path) -> None:
    pictures = [Picture(f"{i}.jpg", labels=["ab"[i % 2]]) for i in range(6)]
    store = made(tmp_path, pictures)
    with_files(store, pictures[:5])
    source = library_source(store)
    assert source.classes == ("a", "b")
    assert len(source) == 5
    assert len(source.problems) == 1
    with pytest.raises(LibraryError, match="has a label"):
        library_source(made(tmp_path / "none", [Picture("x.jpg")]))


def test_boxes_that_were_marked_are_learned_too(store: Store, pictures: list[Picture]) -> None:
    with_files(store, pictures)
    teach(store, "our cat", hashes(pictures)[:5], hashes(pictures, 4)[:5])
    teach(store, "our dog", hashes(pictures, 3)[:5])
    assert "boxes" not in library_source(store).columns
    first, other = hashes(pictures)[0], hashes(pictures)[7]
    change(store, first, boxes=[{"text": "ear", "box": [0.1, 0.2, 0.5, 0.6]}])
    change(store, other, boxes=[{"text": "tail", "box": [0, 0, 1, 1]}, {"text": "ear", "box": [0.5, 0.5, 1, 1]}])
    change(store, hashes(pictures)[1], boxes=[])
    source = library_source(store)
    rows = {source._signature(i).decode(): i for i in range(len(source))}
    marks = source.columns["boxes"]
    assert marks.names == ("ear", "tail")
    size = np.array([view_of(store).table.column(side)[0].as_py() for side in ("width", "height")] * 2)
    assert np.allclose(marks[rows[first]].corners, [size * [0.1, 0.2, 0.5, 0.6]])
    assert marks[rows[other]].labels.tolist() == [1, 0]
    assert len(marks[rows[hashes(pictures)[1]]].labels) == 0  # looked at, and nothing is there
    assert marks[rows[hashes(pictures, 3)[0]]] is None  # not looked at
    assert source.sample(rows[first]).label == "our cat"
    assert source.sample(rows[other]).label is None  # it may show either of them
    assert source.classes == ("other", "our cat", "our dog")
    assert "boxes" not in library_source(f"library:{store.folder}#our cat").columns


def test_boxes_alone_are_enough(tmp_path: Path) -> None:
    pictures = [Picture(f"{i}.jpg") for i in range(4)]
    store = made(tmp_path, pictures)
    with_files(store, pictures)
    here = str(view_of(store).hashes[2])
    for text, corners in (("", [0, 0, 1, 1]), (" ", [0, 0, 1, 1]), ("ear", [0, 0, 1]), ("ear", ["x", 0, 1, 1])):
        with pytest.raises(UsageError, match=r"expected (a box|what is in the box)"):
            change(store, here, boxes=[{"text": text, "box": corners}])
    change(store, here, boxes=[{"text": "ear", "box": [0, 0, 0.5, 0.5]}])
    source = library_source(store)
    assert len(source) == 1 and source.columns["boxes"].names == ("ear",)
    assert source.columns["tags"].names == ("ear",)


def test_a_source_is_named_by_library_concept_or_both(
    store: Store, pictures: list[Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_files(store, pictures)
    teach(store, "our cat", hashes(pictures)[:5])
    monkeypatch.setenv("NEOCOG_LIBRARY", str(store.folder))
    for spec in (f"library:{store.folder}", f"library:{store.folder.parent}#OUR CAT", "library:our cat", "library:"):
        assert "our cat" in library_source(spec).classes
    with pytest.raises(LibraryError, match="no library at nowhere"):
        library_source("library:nowhere")
    with pytest.raises(UsageError, match="no concept 'dog'"):
        library_source(f"library:{store.folder}#dog")
    assert labelled(store)[1] == ["our cat"]
    assert place.find(None) == store.folder


def test_names_that_look_like_numbers_stay_names(store: Store, pictures: list[Picture]) -> None:
    with_files(store, pictures)
    teach(store, "7", hashes(pictures)[:5])
    assert library_source(store).classes == ("7", "not 7")
    assert parse("tag:7").filters[0].value == "7"
    assert names(search(store, "7", top=3))
