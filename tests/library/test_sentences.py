"""Search by sentence: a space of pictures and sentences as one more witness; here it is made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from library.made import DIMENSION, Picture, centre, made, names

from neocog.library import sentences
from neocog.library.concepts import normalise
from neocog.library.rows import whole_rows
from neocog.library.searching import search
from neocog.library.sentences import witness_of
from neocog.library.sheet import _SOFT, _lines
from neocog.library.store import Store
from neocog.library.view import view_of
from neocog.text.space import Space

KINDS = {"football": 0, "men": 1, "swing": 2, "child": 3, "frisbee": 4, "snow": 5, "dog": 6}


class Toy:
    """What `neocog.text.space.Space` is to a library: each word has a direction, and so has each kind of picture."""

    trunk, dimensions, threshold, weighs_classes = "toy", DIMENSION, 0.5, False
    fingerprint = "0" * 32
    about = {"words": [*KINDS, "people"]}  # noqa: RUF012

    def __init__(self) -> None:
        self.seen = 0
        self.heard_of: dict[str, np.ndarray] = {}

    def pictures(self, features: np.ndarray) -> np.ndarray:
        self.seen += len(features)
        mean = np.mean([centre(k) / np.linalg.norm(centre(k)) for k in range(DIMENSION)], axis=0)
        return _unit(features - mean)

    def sentences(self, texts: list[str]) -> np.ndarray:
        return np.stack([self._of(text) for text in texts])

    def _of(self, text: str) -> np.ndarray:
        found = [np.eye(DIMENSION)[KINDS[word]] for word in normalise(text).split() if word in KINDS]
        return _unit(np.sum(found or [np.eye(DIMENSION)[-1]], axis=0)[None])[0]

    def heads(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Those of snow and dog: their directions, four times, so that the log-odds are 4 x cosine - 2."""
        some = np.eye(DIMENSION)[[KINDS[word] for word in text.split() if word in ("snow", "dog")]]
        return 4.0 * some, np.tile([-2.0, np.log(0.5)], (len(some), 1))

    heard = staticmethod(Space.heard)

    def probability(
        self, cosines: np.ndarray, text: str, seen: np.ndarray | None = None, heard: np.ndarray | None = None
    ) -> np.ndarray:
        if heard is not None:
            self.heard_of[text] = heard
        logit = 16 * (cosines - 0.65) + (0 if seen is None or not self.weighs_classes else seen)
        return (1 / (1 + np.exp(-logit))).astype(np.float32)

    def contributions(self, text: str, picture: np.ndarray) -> list[tuple[str, float]]:
        return [(word, float(self._of(word) @ picture)) for word in text.split()]


def _unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


PICTURES = [
    Picture("a.jpg", {}, vector=centre(0) + centre(1)),  # men who play football
    Picture("b.jpg", {}, vector=centre(2) + centre(3)),
    Picture("anna/0001.jpg", {}, 5),
    Picture("anna/0002.jpg", {}, 9),
    Picture("c.jpg", {"Sussex spaniel": 0.9}, 6),
    Picture("d.jpg", {"Sussex spaniel": 0.9}, 5),
    *(Picture(f"others/{i}.jpg", {}, 8 + i % 12) for i in range(20)),
]


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> Toy:
    toy = Toy()
    monkeypatch.setattr(sentences, "shipped", lambda: toy)
    return toy


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return made(tmp_path_factory.mktemp("pictures"), PICTURES)


def test_words_that_no_concept_knows_find_pictures_and_the_witness_is_named(library: Store, space: Toy) -> None:
    found = search(library, "men playing football")
    assert names(found) == ["a.jpg"] and found.not_understood == () and found.notes == ()
    (reason,) = found[0].reasons
    assert (reason.part, reason.kind) == ("men playing football", "sentence")
    assert reason.text == f"sentence {reason.value:.2f}: men, football"
    assert reason.value == pytest.approx(found[0].probability, rel=1e-3)
    assert json.loads(json.dumps(found.to_json()))["hits"][0]["reasons"][0]["kind"] == "sentence"
    assert (reason.text, _SOFT) in _lines(0, found[0], 120)  # on a contact sheet
    assert names(search(library, "football")) == ["a.jpg"]
    assert names(search(library, "frisbee")) == []  # not English, but a word of the space's captions: nothing shows it
    assert search(library, "frisbee").not_understood == ()


def test_without_a_space_the_words_are_judged_alone(library: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "shipped", lambda: None)
    found = search(library, "men playing football")
    assert "playing" in found.not_understood and not any("sentence" in note for note in found.notes)


def test_what_neither_knows_is_not_understood(library: Store, space: Toy) -> None:
    found = search(library, "football zxqwv")
    assert names(found) == ["a.jpg"] and found.not_understood == ("zxqwv",)
    assert search(library, "football")[0].score > 4 * found[0].score
    assert search(library, "zxqwv").found == 0 and "neocog teach" in search(library, "zxqwv").notes[0]
    assert "used 'footba'" not in str(search(library, "football").notes)


def test_a_name_in_a_text_leaves_the_rest_to_the_space(library: Store, space: Toy) -> None:
    found = search(library, "anna snow")
    assert names(found) == ["0001.jpg"]
    assert {reason.kind for reason in found[0].reasons} == {"word", "sentence"}
    assert found[0].reasons[0].part == "snow"


def test_a_concept_and_the_space_need_not_both_see_it(library: Store, space: Toy) -> None:
    assert set(names(search(library, "dog"))) == {"c.jpg", "d.jpg"}
    assert set(names(search(library, "snow"))) == {"0001.jpg", "d.jpg"}
    hit = search(library, "dog snow")[0]  # the concept sees the dog, the space the snow
    assert hit.path.endswith("d.jpg")


def test_a_space_can_weigh_the_classes_of_its_net(library: Store, space: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the concepts are no witness of their own, but part of one probability, and are still named."""
    alone = search(library, "snow", threshold=0)
    monkeypatch.setattr(space, "about", {"words": [*KINDS, "spaniel"]})
    monkeypatch.setattr(space, "weighs_classes", True)
    found = search(library, "spaniel", threshold=0)
    assert set(names(found)[:2]) == {"c.jpg", "d.jpg"}
    assert [reason.kind for reason in found[0].reasons] == ["sentence", "word"]
    assert "concepts 0.9" in found[0].reasons[1].text
    # the mean over the words: half of what the classes say of one word of two
    witness = witness_of(view_of(library))
    assert witness is not None
    one, two, none = (witness.seen(text) for text in ("spaniel", "spaniel snow", "snow"))
    assert none is None and one is not None and two is not None
    np.testing.assert_allclose(two, one / 2)
    assert one.max() == pytest.approx(np.log(0.9 / 0.1) + 6, abs=0.05) and (np.sort(one)[:-2] < 2).all()
    assert names(search(library, "snow", threshold=0)) == names(alone)


def test_the_words_of_each_text_are_heard_by_themselves(library: Store, space: Toy) -> None:
    view = view_of(library)
    witness = witness_of(view)
    assert witness is not None
    witness.ask(["men on a swing", "snow", "a dog in the snow"])
    assert set(space.heard_of) == {"snow", "a dog in the snow"}
    hashes, values = sentences.places(library, space)
    odds = 4 * values[:, [KINDS["dog"], KINDS["snow"]]].astype(np.float64) - 2
    said = np.log(1 / (1 + np.exp(-odds)) / 0.5)
    order = np.argsort(view.aligned(hashes))
    np.testing.assert_allclose(space.heard_of["snow"], said[order, 1], atol=0.03)
    np.testing.assert_allclose(space.heard_of["a dog in the snow"], said[order].mean(1), atol=0.03)


def test_not_asks_the_space_too(library: Store, space: Toy) -> None:
    assert names(search(library, "dog -snow")) == ["c.jpg"]
    assert search(library, "dog -snow").notes[0].startswith("'dog'")
    # captions call people by what they are: the picture of a child on a swing is not one of nobody
    assert names(search(library, "swing")) == names(search(library, "swing without men")) == ["b.jpg"]
    assert names(search(library, "swing with nobody on it")) == []
    assert "'nobody on it' is read as -people" in search(library, "swing with nobody on it").notes
    both = search(library, "football OR swing")
    assert set(names(both)) == {"a.jpg", "b.jpg"}
    assert [r.kind for hit in both for r in hit.reasons] == ["sentence", "sentence"]


def test_filters_exact_words_and_examples_still_hold(library: Store, space: Toy) -> None:
    assert names(search(library, "snow folder:anna")) == ["0001.jpg"]
    assert (
        names(search(library, '"snow"')) == [] and len(search(library, '"anna"')) == 2
    )  # exact words are those of a text
    swing = next(p for p in PICTURES if p.name == "b.jpg").hash
    assert names(search(library, f"child like:{swing}"))[0] == "b.jpg"


def test_where_the_best_picture_is_sure_others_that_are_less_sure_follow(library: Store, space: Toy) -> None:
    space.threshold = 0.8
    only = search(library, "football")  # about 0.7 for one picture
    assert len(only) == 0 and "nothing reaches 0.80; the best has 0." in only.notes[-1]
    space.threshold = 0.6
    assert names(search(library, "football")) == ["a.jpg"]
    witness = sentences.witness_of(view_of(library))
    assert witness is not None and (witness.needed("football"), witness.needed("frisbee")) == (0.3, 0.6)


def test_what_is_common_in_captions_needs_no_picture_beyond_doubt(library: Store, space: Toy) -> None:
    space.threshold = 0.8
    assert names(search(library, "football")) == []
    space.about = {"words": [*KINDS], "common": ["football"]}  # type: ignore[misc]
    before = sentences.witness_of(view_of(library))
    assert before is not None and before.needed("football") == 0.4  # a space of before
    space.about = {"words": {**dict.fromkeys(KINDS, 0.001), "football": 0.1}}  # type: ignore[dict-item, misc]
    witness = sentences.witness_of(view_of(library))
    assert witness is not None
    assert [witness.needed(text) for text in ("football", "a football", "football frisbee")] == [0.4, 0.4, 0.8]
    assert names(search(library, "football")) == ["a.jpg"]


def test_a_concept_of_the_net_knows_better_than_captions_without_the_word(library: Store, space: Toy) -> None:
    witness = sentences.witness_of(view_of(library))
    assert witness is not None and witness.knows("zebra") and not witness.knows("zebra", concept=True)
    assert witness.knows("frisbees", concept=True) and not witness.knows("zxqwv")


def test_a_weight_counts(library: Store, space: Toy) -> None:
    plain, heavy = (search(library, q, threshold=0, top=1)[0] for q in ("swing football", "swing^3 football"))
    assert plain.score != heavy.score


def test_places_are_computed_once_and_only_for_new_pictures(tmp_path: Path, space: Toy) -> None:
    folder = made(tmp_path, PICTURES).folder
    sentences.prepare(Store.open(folder))
    assert space.seen == len(PICTURES)
    search(Store.open(folder), "football")
    assert space.seen == len(PICTURES)
    space.fingerprint = "1" * 32  # another space
    search(Store.open(folder), "football")
    assert space.seen == 2 * len(PICTURES)
    assert {p.name.partition("-")[0] for p in (folder / "cache").glob("s_*")} == {f"s_toy_{'1' * 32}"}


def test_a_library_of_another_net_says_what_to_type(library: Store, space: Toy) -> None:
    space.trunk = "other"
    note = "to search by sentence, type 'neocog index --net other'"
    assert any(note in said for said in search(library, "dog in snow").notes)
    assert not any(note in said for said in search(library, "dog").notes)
    sentences.prepare(library)  # nothing to do
    assert "d.jpg" in names(search(library, "dog snow"))


def test_pictures_without_a_place_are_counted(tmp_path: Path, space: Toy) -> None:
    store = made(tmp_path, PICTURES)
    columns = {"hash": [Picture("new").hash], "paths": [["swing.jpg"]], "state": ["ok"], "models": [[]]}
    store.add(whole_rows(columns, 1))
    found = search(store, "child on a swing")
    assert any(note.startswith("1 picture of 27 is not found by sentence; to search") for note in found.notes)
    assert "b.jpg" in names(found)


def test_a_sentence_loads_neither_torch_nor_lancedb(library: Store, python: Callable) -> None:
    search(library, "dog")  # the copies that searching reads are there
    code = (
        "import sys\nfrom neocog.library.searching import search\nfrom neocog.library.store import Store\n"
        "from neocog.library import sentences\n"
        f"found = search(Store.open({str(library.folder)!r}), 'dog in snow')\n"
        "sentences.Space.load(None).sentences(['two men playing football'])\n"
        "print([m for m in ('torch', 'lancedb', 'wordllama') if m in sys.modules])"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_products_are_those_of_the_values_that_are_kept(
    library: Store, space: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, values = sentences.places(library, space)
    query = np.random.default_rng(0).normal(size=(values.shape[1], 3)).astype(np.float32)
    exact = values.astype(np.float32) @ query
    near = library.products("toy", space.fingerprint, values, query)
    worst = np.abs(values).max(1, keepdims=True) / 254 * np.abs(query).sum(0)  # every number off by half a step
    assert (np.abs(near - exact) <= 1.01 * worst + 1e-6).all()
    monkeypatch.setattr("neocog.library.mirror._MOST_KEPT", 0)
    np.testing.assert_allclose(library.products("toy", space.fingerprint, values, query), exact, rtol=1e-5, atol=1e-6)


def test_probabilities_are_summed_once_for_a_version(library: Store) -> None:
    view = view_of(library)
    one = view.probabilities("toy", (3, 5))
    assert view.probabilities("toy", [3, 5]) is one and not one.flags.writeable
    np.testing.assert_allclose(one, view.probabilities("toy", [3]) + view.probabilities("toy", [5]), atol=1e-3)
