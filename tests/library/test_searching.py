"""Searching: what is found, in which order, why; what is not found; filters; examples; and what is not imported."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from library.made import DIMENSION, Eye, Picture, centre, made, names, seen_by
from PIL import Image

from neocog.errors import LibraryError, UsageError
from neocog.library.calibration import UNKNOWN, calibrate
from neocog.library.searching import search
from neocog.library.store import Store

SPANIEL, LABRADOR, BEACH = "Sussex spaniel", "Labrador retriever", "seashore"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Store:
    day = datetime(2023, 7, 4, 12)
    pictures = [
        Picture("italy/spaniel.jpg", {SPANIEL: 0.9}, 0, ["dogs"], captions=["a dog runs on grass"], taken=day),
        Picture("italy/labrador.jpg", {LABRADOR: 0.8}, 0, captions=["our old lab"], taken=day.replace(2022)),
        Picture("italy/two dogs.jpg", {SPANIEL: 0.45, LABRADOR: 0.45}, 0, tags=["Our Holiday"], camera="Canon EOS 5D"),
        Picture("beach.jpg", {BEACH: 0.95}, 1, captions=["waves"], tags=["our holiday"], taken=day.replace(2021)),
        Picture("dog beach.jpg", {SPANIEL: 0.5, BEACH: 0.45}, 1, captions=["fun"], camera="Nikon"),
        Picture("night/street 'quoted' \" name.jpg", {"traffic light": 0.6}, 2),
        Picture("night/empty.jpg", {}, 3),
        *(Picture(f"others/{i}.jpg", {}, 4 + i % 8) for i in range(30)),
    ]
    return made(tmp_path_factory.mktemp("pictures"), pictures)


def test_a_word_finds_all_that_lies_under_it(library: Store) -> None:
    found = search(library, "dog")
    assert set(names(found)) == {"spaniel.jpg", "labrador.jpg", "two dogs.jpg", "dog beach.jpg"}
    assert found.hits == tuple(sorted(found, key=lambda hit: -hit.score))
    assert any("118 concepts" in note for note in found.notes)
    top = found[0].reasons[0]
    assert (top.part, top.kind, top.weight) == ("dog", "word", 1.0)
    assert "concepts 0.9" in top.text and "in its" in top.text


def test_probabilities_of_classes_that_exclude_each_other_are_added(library: Store) -> None:
    both = next(hit for hit in search(library, "dog") if hit.path.endswith("two dogs.jpg"))
    assert "concepts 0.91 (" in both.reasons[0].text  # 0.9 and its share of the rest


def test_words_are_split_once_for_each_version_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path, [Picture("a.jpg", captions=["a red boat"]), Picture("b.jpg", captions=["grass"])]).folder
    assert names(search(Store.open(folder), "boat")) == ["a.jpg"]
    with monkeypatch.context() as patch:
        patch.setattr("neocog.library.fulltext.pc.split_pattern", None)  # nothing is split again
        assert names(search(Store.open(folder), "boat")) == ["a.jpg"]
    other = Picture("b.jpg").hash
    changed = pa.table({"hash": [other], "captions": pa.array([["a blue boat"]], pa.list_(pa.string()))})
    Store.open(folder).merge(changed)
    assert set(names(search(Store.open(folder), "boat"))) == {"a.jpg", "b.jpg"}
    assert names(search(Store.open(folder), "grass", threshold=0.01)) == []


def test_words_are_conditions_that_must_all_hold(library: Store) -> None:
    assert names(search(library, "dog beach")) == ["dog beach.jpg"]
    hit = search(library, "dog beach")[0]
    parts = {reason.part: reason.value for reason in hit.reasons}
    assert hit.probability == pytest.approx(parts["dog"] * parts["beach"], rel=1e-4)
    assert hit.score == pytest.approx(hit.probability, rel=1e-4)
    weighted = search(library, "dog^3 beach")[0]
    assert weighted.score == pytest.approx(parts["dog"] ** 1.5 * parts["beach"] ** 0.5, rel=1e-4)


def test_not_leaves_out(library: Store) -> None:
    assert set(names(search(library, "dog -labrador"))) == {"spaniel.jpg", "two dogs.jpg", "dog beach.jpg"}
    assert "spaniel.jpg" not in names(search(library, "-dog", top=100))
    assert len(search(library, "-dog", top=100)) == len(library) - 4


_some = st.sampled_from("dog beach spaniel labrador waves fun grass traffic zebra".split())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(_some, min_size=1, max_size=3), _some, st.floats(0.1, 10))
def test_a_not_never_adds_a_hit_nor_raises_a_score(library: Store, words: list[str], less: str, weight: float) -> None:
    plain = {hit.hash: hit for hit in search(library, " ".join(words), top=100)}
    fewer = search(library, f"{' '.join(words)} -{less}^{weight:.2f}", top=100)
    for hit in fewer:
        assert hit.hash in plain
        assert hit.score <= plain[hit.hash].score + 1e-6


def test_the_name_of_one_concept_is_one_part(library: Store) -> None:
    found = search(library, "labrador retriever")
    assert [reason.part for reason in found[0].reasons] == ["labrador retriever"]


def test_words_that_only_join_others_are_taken_as_they_stand(library: Store) -> None:
    assert not search(library, "a our") and "no text has it as it stands" in search(library, "a our").notes[0]
    found = search(library, "on a")  # a dog runs on grass; nothing has these two side by side
    assert not found and found.not_understood == ("on a",)
    assert names(search(library, "our")) and names(search(library, "the dog")) == names(search(library, "dog"))


def test_typing_errors_are_noted(library: Store) -> None:
    found = search(library, "labradr")
    assert "labrador.jpg" in names(found)
    assert "'labradr' is not known; used 'labrador'" in found.notes[0]


def test_a_mistyped_word_of_a_text_is_found(library: Store) -> None:
    found = search(library, "waevs")
    assert len(found) == 0 and "did you mean 'waves'" in found.notes[0]  # too short to be sure
    assert names(search(library, "labradro")) == names(search(library, "labrador"))


def test_nothing_found_says_so(library: Store) -> None:
    unknown = search(library, "zxqwv")
    assert (len(unknown), unknown.found) == (0, 0)
    assert "no concept, no taught word" in unknown.notes[0] and "neocog teach" in unknown.notes[0]
    absent = search(library, "zebra")
    assert len(absent) == 0
    assert "nothing reaches 0.40" in absent.notes[-1]
    everything = search(library, "zebra", threshold=0, top=100)
    assert len(everything) == len(library)


def test_what_was_not_understood_lowers_the_score_and_is_said(library: Store) -> None:
    plain, found = search(library, "dog"), search(library, "dog zxqwv on qqrstuv")
    assert names(found) == names(plain)
    for before, after in zip(plain, found, strict=True):
        assert after.score == pytest.approx(before.score * UNKNOWN**2, rel=1e-3)
        assert after.probability == pytest.approx(before.probability * UNKNOWN**2, rel=1e-3)
        assert after.reasons[-1].text == "partly answered: zxqwv and qqrstuv were not understood"
        assert after.reasons[-1].kind == "unknown"
        assert not any("partly" in reason.text for reason in before.reasons)
    assert found.not_understood == ("zxqwv", "qqrstuv") and plain.not_understood == ()
    assert found.to_json()["not_understood"] == ["zxqwv", "qqrstuv"]
    assert any("zxqwv" in note for note in found.notes)
    one = search(library, "dog zxqwv")[0]
    assert one.reasons[-1].text == "partly answered: zxqwv was not understood"
    assert names(search(library, "dog zxqwv", threshold=0.5)) == []
    assert "nothing reaches 0.060; the best has" in search(library, "zebra zxqwv").notes[-1]
    assert len(search(library, "zxqwv folder:italy")) == 0
    assert names(search(library, "dog -zxqwv")) == names(plain)
    assert search(library, "dog -zxqwv")[0].score == plain[0].score


@pytest.mark.parametrize("query", ["a dog", "the dog of my", "dog & photos", "dog &", "dog, with"])
def test_words_that_only_join_others_are_no_conditions(library: Store, query: str) -> None:
    assert [(h.hash, h.score) for h in search(library, query)] == [(h.hash, h.score) for h in search(library, "dog")]
    assert "'dog" in search(library, query).notes[0] and "&" not in search(library, query).notes[0]


@pytest.mark.parametrize(
    ("query", "word"),
    [("without beach", "without"), ("labrador or spaniel", "or"), ("dog no", "no"), ("nobody dog", "nobody")],
)
def test_words_that_turn_the_meaning_are_not_passed_over(library: Store, query: str, word: str) -> None:
    found = search(library, query)
    assert found.not_understood == (word,)
    assert any(f"'{word}' was not understood; type" in note for note in found.notes)


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ("dog without beach", "dog -beach"),
        ("dog with no beach in it", "dog -beach"),
        ("a dog without a beach or grass", "dog -beach -grass"),
        ("dog not on a beach", "dog -beach"),
        ("dog with nobody in it", "dog -people"),
        ("dog and no one on the grass", "dog -people grass"),
        ("dog without beach -grass", "dog -beach -grass"),
        ("dog without beach without cat", "dog -beach -cat"),
        ("dog without beach, cat", "dog -beach -cat"),
        ("(dog OR cat) without beach", "(dog OR cat) -beach"),
        ("without beach folder:italy", "-beach folder:italy"),
    ],
)
def test_what_must_not_be_there_can_be_said_in_words(library: Store, said: str, typed: str) -> None:
    found, other = search(library, said, threshold=0), search(library, typed, threshold=0)
    assert [(h.hash, h.score) for h in found] == [(h.hash, h.score) for h in other]
    assert found.hits and not found.not_understood and any("is read as -" in note for note in found.notes)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("labrador OR beach", {"labrador.jpg", "two dogs.jpg", "beach.jpg", "dog beach.jpg"}),
        ("(spaniel beach) OR waves", {"dog beach.jpg", "beach.jpg"}),
        ("folder:italy (labrador OR grass)", {"labrador.jpg", "two dogs.jpg", "spaniel.jpg"}),
        ("labrador OR beach -folder:italy", {"beach.jpg", "dog beach.jpg"}),
        ("dog NOT beach", {"spaniel.jpg", "labrador.jpg", "two dogs.jpg"}),
        ("tag:our_holiday OR camera:nikon", {"two dogs.jpg", "beach.jpg", "dog beach.jpg"}),
        ('"runs on grass" OR fun', {"spaniel.jpg", "dog beach.jpg"}),
        ("(dog NOT beach) OR waves", {"spaniel.jpg", "labrador.jpg", "two dogs.jpg", "beach.jpg"}),
        ("grass OR zxqwv", {"spaniel.jpg"}),
        ("zxqwv OR qqrstuv", set()),
        ("taken:2021 OR taken:2023", {"spaniel.jpg", "beach.jpg"}),
    ],
)  # fmt: skip
def test_alternatives_and_not(library: Store, query: str, found: set[str]) -> None:
    assert set(names(search(library, query, top=100))) == found


def test_alternatives_are_joined_as_witnesses_and_the_better_one_is_the_reason(library: Store) -> None:
    both = {hit.hash: hit for hit in search(library, "dog OR beach", top=100)}
    one, other = ({hit.hash: hit for hit in search(library, query, top=100, threshold=0)} for query in ("dog", "beach"))
    for name, hit in both.items():
        a, b = one[name].score, other[name].score
        assert hit.score == pytest.approx(1 - (1 - a) * (1 - b), abs=1e-4)
    assert [r.part for r in both[Picture("beach.jpg").hash].reasons] == ["beach"]
    assert search(library, "grass OR zxqwv")[0].score == search(library, "grass")[0].score
    assert search(library, "grass OR zxqwv").not_understood == ("zxqwv",)


def test_text_that_has_a_word_is_always_a_hit(library: Store) -> None:
    assert names(search(library, "grass")) == ["spaniel.jpg"]
    assert "in its caption" in search(library, "grass")[0].reasons[0].text
    assert names(search(library, "empty")) == ["empty.jpg"]
    assert "spaniel.jpg" not in names(search(library, "dog -grass"))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ('"runs on grass"', {"spaniel.jpg"}),
        ('"grass runs"', set()),
        ('dog -"runs on grass"', {"labrador.jpg", "two dogs.jpg", "dog beach.jpg"}),
        ("tag:our_holiday", {"two dogs.jpg", "beach.jpg"}),
        ('tag:"Our holiday" dog', {"two dogs.jpg"}),
        ("label:DOGS", {"spaniel.jpg"}),
        ("folder:italy", {"spaniel.jpg", "labrador.jpg", "two dogs.jpg"}),
        ("dog -folder:italy", {"dog beach.jpg"}),
        ("camera:canon", {"two dogs.jpg"}),
        ("after:2022", {"spaniel.jpg", "labrador.jpg"}),
        ("after:2023-07-04T12:00", {"spaniel.jpg"}),
        ("before:2022", {"beach.jpg"}),
        ("taken:2022-07 dog", {"labrador.jpg"}),
        ("dog after:2024", set()),
        ("tag:nothing", set()),
        ("folder:night", {"street 'quoted' \" name.jpg", "empty.jpg"}),
    ],
)  # fmt: skip
def test_filters(library: Store, query: str, found: set[str]) -> None:
    assert set(names(search(library, query, top=100))) == found


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Store:
    pictures = [
        Picture("a/eiffel.jpg", position=(48.8584, 2.2945), places=["Paris", "France"], keywords=["Tour Eiffel"]),
        Picture("a/b/louvre.jpg", position=(48.8606, 2.3376), texts=["The Mona Lisa's room"]),
        Picture("london.jpg", position=(51.5, -0.12), tags=["trip"], captions=["a bridge"]),
        Picture("fiji west.jpg", position=(-17.0, 179.9)),
        Picture("fiji east.jpg", position=(-17.0, -179.9), taken=datetime(2020, 1, 1)),
        Picture("ab/nowhere.jpg"),
    ]
    return made(tmp_path_factory.mktemp("places"), pictures)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("near:48.8584,2.2945", {"eiffel.jpg", "louvre.jpg"}),
        ("near:48.8584,2.2945,3km", {"eiffel.jpg"}),
        ("near:48.8584,2.2945,3200m", {"eiffel.jpg", "louvre.jpg"}),
        ("near:48.8584,2.2945,2mi", {"eiffel.jpg", "louvre.jpg"}),
        ("near:-17,180,25km", {"fiji west.jpg", "fiji east.jpg"}),
        ("near:48.85,2.35,350km", {"eiffel.jpg", "louvre.jpg", "london.jpg"}),
        ("has:gps -near:48.85,2.35,10km", {"london.jpg", "fiji west.jpg", "fiji east.jpg"}),
        ("-has:gps", {"nowhere.jpg"}),
        ("has:date", {"fiji east.jpg"}),
        ("has:tag", {"eiffel.jpg", "london.jpg"}),
        ("has:caption", {"louvre.jpg", "london.jpg"}),
        ("place:paris", {"eiffel.jpg"}),
        ("has:place", {"eiffel.jpg"}),
        ("tag:tour_eiffel", {"eiffel.jpg"}),
        ("mona-lisa", {"louvre.jpg"}),
        ('"the mona lisa\'s room"', {"louvre.jpg"}),
        ("eiffel", {"eiffel.jpg"}),
        ("france OR bridge", {"eiffel.jpg", "london.jpg"}),
    ],
)  # fmt: skip
def test_places_and_what_the_files_say(places: Store, query: str, found: set[str]) -> None:
    assert set(names(search(places, query))) == found


def test_distances_are_said_and_pictures_without_a_place_are_advised(places: Store, library: Store) -> None:
    assert search(places, "near:48.8606,2.3376,1km")[0].reasons[0].text == "0 m from 48.8606,2.3376"
    assert any("3.2 km from" in hit.reasons[0].text for hit in search(places, "near:48.8606,2.3376"))
    assert "near:48.85,2.35,10km" in search(library, "place:paris").notes[0]
    assert "the library has France, Paris" in search(places, "place:rome").notes[0]
    assert "no picture of this library has a GPS position" in search(library, "near:1,2").notes[0]


def test_dates_that_nothing_has_are_said_to_be_missing(tmp_path: Path) -> None:
    undated = made(tmp_path, [Picture("a.jpg")])
    assert search(undated, "after:2020").notes == (
        "nothing in this library says when it was taken, so after: finds nothing",
    )


def test_a_folder_as_other_commands_print_it(places: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = places.folder.parent
    assert len(search(places, f"folder:{pictures}")) == len(places)
    assert len(search(places, f"folder:{pictures}/")) == len(places)
    assert len(search(places, f"folder:{pictures.parent}")) == len(search(places, "folder:/")) == len(places)
    assert set(names(search(places, f"folder:{pictures}/a"))) == {"eiffel.jpg", "louvre.jpg"}
    assert set(names(search(places, f"folder:{Path(search(places, 'mona')[0].path).parent}"))) == {"louvre.jpg"}
    assert len(search(places, f"-folder:{pictures}/a", top=100)) == 4
    assert set(names(search(places, "folder:/a"))) == {"eiffel.jpg", "louvre.jpg"}  # a name: there is no such path
    monkeypatch.chdir(pictures.parent)
    assert set(names(search(places, f"folder:./{pictures.name}/a/b"))) == {"louvre.jpg"}
    assert len(search(places, f"folder:{pictures}/nothing")) == 0


def test_filters_alone_give_the_newest_first(library: Store) -> None:
    assert names(search(library, "folder:italy"))[:2] == ["spaniel.jpg", "labrador.jpg"]


def test_an_unknown_tag_is_noted_with_those_there_are(library: Store) -> None:
    assert "the library has Our Holiday, our holiday" in search(library, "tag:trip").notes[0]


@pytest.mark.parametrize(
    "text", ["' OR 1=1 --", "x'; DROP TABLE pictures; --", "%", "_", ".*", "a' AND hash LIKE '%", "\\", "\x10", "${x}"]
)
def test_text_of_a_query_is_never_an_expression(library: Store, text: str) -> None:
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    for field in ("tag", "label", "camera"):
        assert len(search(library, f"{field}:{quoted}")) == 0
    search(library, f"folder:{quoted} {quoted}")
    with contextlib.suppress(UsageError):
        search(library, text, threshold=0)
    assert len(library) == 37


def test_by_example_from_the_library(library: Store) -> None:
    found = search(library, "like:spaniel.jpg", top=3)
    assert names(found)[0] == "spaniel.jpg"
    assert set(names(found)) == {"spaniel.jpg", "labrador.jpg", "two dogs.jpg"}
    assert "cosine 1.000" in found[0].reasons[0].text
    assert names(search(library, like=[str(library.path_of("beach.jpg"))]))[0] == "beach.jpg"
    by_hash = Picture("beach.jpg").hash
    assert names(search(library, f"like:{by_hash}"))[0] == "beach.jpg"


def test_several_examples_ask_for_what_they_have_in_common(library: Store) -> None:
    both = search(library, "like:spaniel.jpg like:beach.jpg", top=100, threshold=0)
    assert [reason.part for reason in both[0].reasons] == ["like:spaniel.jpg", "like:beach.jpg"]
    ranks = {name: i for i, name in enumerate(names(both))}
    assert ranks["labrador.jpg"] < ranks["empty.jpg"]
    assert ranks["dog beach.jpg"] < ranks["empty.jpg"]


def test_an_example_to_be_avoided(library: Store) -> None:
    plain = {hit.hash: hit.score for hit in search(library, "dog")}
    kept = {name: hit.score / plain[hit.hash] for hit in search(library, "dog unlike:beach.jpg", threshold=0, top=100)
            for name in names([hit]) if hit.hash in plain}  # fmt: skip
    assert min(kept, key=lambda name: kept[name]) == "dog beach.jpg"
    assert "beach.jpg" not in names(search(library, "unlike:beach.jpg", top=100))


@pytest.mark.parametrize(
    "options", [{"metric": "euclidean"}, {"layer": "output"}, {"layer": "output", "metric": "euclidean"}]
)
def test_other_metrics_and_layers(library: Store, options: dict[str, str]) -> None:
    found = search(library, "like:spaniel.jpg", top=3, threshold=0, **options)
    assert names(found)[0] == "spaniel.jpg"
    assert "two dogs.jpg" in names(found)
    assert ("distance 0.00" if "metric" in options else "cosine 1.000") in found[0].reasons[0].text


def test_distances_are_those_of_the_vectors(library: Store) -> None:
    hashes, vectors = library.vectors("toy")
    whole = vectors.astype(np.float64) * library.norms("toy")[:, None]
    query = whole[hashes == Picture("beach.jpg").hash]
    found = search(library, "like:beach.jpg", metric="euclidean", threshold=0, top=100)
    said = {hit.hash: float(hit.reasons[0].text.split("distance ")[1].split()[0]) for hit in found}
    assert len(said) == len(library)
    np.testing.assert_allclose([said[h] for h in hashes], np.linalg.norm(whole - query, axis=1), atol=2e-3)


def test_pictures_from_elsewhere_and_parts_of_them(library: Store, tmp_path: Path) -> None:
    eye = Eye(1000)
    seen_by(library, eye)
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, 30:] = 1  # the right half is of kind 1: the beach
    Image.fromarray(pixels).save(tmp_path / "half.png")
    whole = search(library, f'like:"{tmp_path}/half.png"@30,0,60,40', top=2)
    assert set(names(whole)) == {"beach.jpg", "dog beach.jpg"}
    left = search(library, f'like:"{tmp_path}/half.png"@0,0,0.5,1', top=3)
    assert set(names(left)) == {"spaniel.jpg", "labrador.jpg", "two dogs.jpg"}
    with pytest.raises(UsageError, match="outside the picture, which is 60 x 40"):
        search(library, f'like:"{tmp_path}/half.png"@100,0,200,40')


def test_what_cannot_be_asked(library: Store) -> None:
    for query, options, said in (
        ("like:nowhere.jpg", {}, "there is no picture 'nowhere.jpg'"),
        ("dog", {"top": 0}, "at least 1 hit"),
        ("dog", {"metric": "hamming"}, "cosine or euclidean"),
        ("dog", {"threshold": 2.0}, "between 0 and 1"),
        ("", {}, "the query is empty"),
    ):
        with pytest.raises(UsageError, match=said):
            search(library, query, **options)  # type: ignore[arg-type]
    with pytest.raises(LibraryError, match=r"no vectors of 'other'.*it has toy"):
        search(library, "dog", model="other")
    with pytest.raises(LibraryError, match=r"no vectors of the layer 'layer1'; use 'features' or 'output'"):
        search(library, "like:beach.jpg", layer="layer1")


def test_near_duplicates_are_folded_unless_asked(tmp_path: Path) -> None:
    vector = centre(0) + 0.01
    store = made(tmp_path, [
        Picture("a.jpg", {"zebra": 0.9}, phash=0xF0F0F0F0, vector=vector),
        Picture("copy.jpg", {"zebra": 0.8}, phash=0xF0F0F0F1, vector=vector),
        Picture("other.jpg", {"zebra": 0.7}, 1, phash=0x0F0F0F0F0F0F),
    ])  # fmt: skip
    found = search(store, "zebra")
    assert names(found) == ["a.jpg", "other.jpg"]
    assert found[0].near == (Picture("copy.jpg").hash,)
    assert any("1 near duplicate is folded away" in note for note in found.notes)
    assert names(search(store, "zebra duplicates:yes")) == ["a.jpg", "copy.jpg", "other.jpg"]


def test_an_empty_library(tmp_path: Path) -> None:
    store = made(tmp_path, [])
    assert len(search(store, "dog")) == 0
    assert len(search(store, "tag:x")) == 0
    assert len(search(store, '"a b" -c', threshold=0)) == 0


def test_a_library_without_a_net_is_searched_by_text(tmp_path: Path) -> None:
    store = Store.create(tmp_path / ".neocog")
    assert len(search(store, "dog")) == 0
    with pytest.raises(UsageError, match="no vectors yet"):
        search(store, "like:a.jpg")


def test_the_answer_is_json(library: Store) -> None:
    answer = json.loads(json.dumps(search(library, "dog -beach like:spaniel.jpg").to_json()))
    assert answer["query"] == "dog -beach like:spaniel.jpg"
    assert answer["hits"][0]["reasons"][0]["part"] == "dog"


def test_4000_characters_are_answered(library: Store) -> None:
    many = search(library, "dog " + " ".join(f"w{i}" for i in range(800))[:3990])  # words that nothing has
    assert set(names(many)) == set(names(search(library, "dog"))) and "w0" in " ".join(many.notes)
    assert names(search(library, "dog beach " * 400)) == ["dog beach.jpg"]
    assert not search(library, '"' + "x" * 3990 + '"').hits


def test_a_change_is_seen_by_the_next_search(tmp_path: Path) -> None:
    store = made(tmp_path, [Picture("a.jpg", {"zebra": 0.9})])
    assert len(search(store, "zebra")) == 1
    store.delete([Picture("a.jpg").hash])
    assert len(search(store, "zebra")) == 0


def test_a_library_learns_what_its_scores_mean(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pictures = [
        Picture(f"{i}.jpg", {"zebra": float(random.beta(5, 2) if i % 2 else random.beta(2, 5)) * 0.9}, i % 2,
                ["zebra" if i % 2 else "tennis ball"])
        for i in range(200)
    ]  # fmt: skip
    store = made(tmp_path, pictures)
    learned = calibrate(store)
    assert set(learned) == {"word", "example"}
    found = search(store, "zebra", threshold=0, top=200)
    said = np.array([hit.reasons[0].value for hit in found if "in its" not in hit.reasons[0].text])
    assert said.min() >= 0 and said.max() <= 1
    assert store.load("calibration")["toy"]["word"]["n"] == learned["word"].n


def test_a_word_search_imports_neither_torch_nor_lancedb(library: Store, python: Callable) -> None:
    search(library, "dog")  # the copies that searching reads are there
    code = (
        "import sys\nfrom neocog.library.store import Store\nfrom neocog.library.searching import search\n"
        f"found = search(Store.open({str(library.folder)!r}), 'dog tag:our_holiday labradr -zebra')\n"
        "assert len(found) == 1\n"
        "print([m for m in ('torch', 'lancedb', 'PIL', 'sklearn') if m in sys.modules])"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_whole_way_with_real_weights(tmp_path: Path, data_folder: Path, weights_folder: Path) -> None:
    from neocog.library.embed import Embedder
    from neocog.library.indexing import index

    rows = pq.read_table(data_folder / "imagenet_samples.parquet").to_pylist()[:60]
    for i, row in enumerate(rows):
        (tmp_path / f"{i:03d}.jpg").write_bytes(row["image"]["bytes"])
    store = Store.create(tmp_path / ".neocog")
    index(store, [tmp_path], Embedder("mobilenet_v1_075", weights_folder / "mobilenet_v1_075.safetensors"))
    from neocog.library.concepts import vocabulary

    for word in ("dog", "bird", "snake"):
        match = vocabulary("imagenet").find(word)
        assert match is not None
        right = {f"{i:03d}.jpg" for i, row in enumerate(rows) if row["label"] in match.concepts}
        found = set(names(search(store, word, top=100)))
        assert len(found & right) >= 0.8 * len(right), word
        assert len(found - right) <= 0.1 * max(len(found), 10), word
    assert len(search(store, "submarine")) == 0
    assert names(search(store, f"like:{tmp_path}/003.jpg"))[0] == "003.jpg"


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_what_is_all_but_the_same_comes_in_the_order_of_likeness(tmp_path: Path, metric: str) -> None:
    def turned(share: float) -> np.ndarray:
        return centre(0) + share * np.eye(DIMENSION, dtype=np.float32)[1]

    near = [Picture(f"{share:.2f}.jpg", vector=turned(share)) for share in (0.22, 0.0, 0.16, 0.1)]
    store = made(tmp_path, [*near, *(Picture(f"other {i}.jpg", kind=2 + i) for i in range(9))])
    found = search(store, like=[near[1].hash], metric=metric, top=4)
    assert names(found) == ["0.00.jpg", "0.10.jpg", "0.16.jpg", "0.22.jpg"]
    assert all(0.99 <= hit.score < 1 for hit in found) and len({hit.score for hit in found}) == 4


def test_an_empty_library_says_so(tmp_path):
    answer = search(Store.ensure(tmp_path / "lib"), "dog")
    assert answer.notes == ("the library has no pictures yet; 'neocog index FOLDER' puts them in",) and not answer.found
