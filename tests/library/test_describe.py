"""Describing a picture: its concepts, what is like it, and what is unusual about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from library.made import Eye, Picture, made, seen_by
from typer.testing import CliRunner

from neocog.cli import app
from neocog.errors import LibraryError, UsageError
from neocog.library.describe import describe
from neocog.library.searching import search
from neocog.library.store import Store
from neocog.library.teaching import correct, teach

PICTURES = [
    *(Picture(f"dogs/{i}.jpg", {"Sussex spaniel": 0.6, "beagle": 0.3}, 1, ["dogs"]) for i in range(30)),
    *(Picture(f"cats/{i}.jpg", {"tabby": 0.9}, 2, ["cats"]) for i in range(30)),
    Picture("cats/really a dog.jpg", {"Sussex spaniel": 0.8}, 1, ["cats"]),
    Picture("alone.jpg", {"submarine": 0.95}, 9),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return made(tmp_path_factory.mktemp("pictures"), PICTURES)


def test_concepts_and_what_they_amount_to(library: Store) -> None:
    said = describe(library, "dogs/3.jpg")
    assert [name for name, _ in said.concepts] == ["Sussex spaniel"]  # it is no beagle: 0.3
    hit = next(hit for hit in search(library, "sussex spaniel", top=100) if hit.hash == said.hash)
    assert f"calibrated {said.concepts[0][1]:.2f}" in hit.reasons[0].text
    assert dict(said.broader)["hunting dog"] == pytest.approx(0.79, abs=0.02)
    assert said.hash == Picture("dogs/3.jpg").hash
    assert said.path.endswith("dogs/3.jpg")


def test_nothing_is_named_that_is_not_believed(tmp_path: Path) -> None:
    woman = Picture("woman.jpg", {"Afghan hound": 0.14, "wig": 0.1}, 3, labels=["people"])
    store = made(tmp_path, [*PICTURES, woman])
    said = describe(store, "woman.jpg")
    assert said.concepts == () and said.broader == ()
    assert not any("Afghan" in one for one in said.unusual)
    teach(store, "Rex", [p.hash for p in PICTURES[:4]])
    said = describe(store, "woman.jpg")
    assert said.taught[0][1] < 0.5 and said.believed == ()
    assert describe(store, "dogs/0.jpg").believed == (("Rex", 0.99),)
    shown = CliRunner().invoke(app, ["describe", "woman.jpg", "--library", str(store.folder)])
    assert "nothing the net is sure of" in shown.output
    assert "Afghan" not in shown.output and "Rex" not in shown.output


def test_the_nearest_are_near_and_not_itself(library: Store) -> None:
    said = describe(library, "dogs/3.jpg", top=5)
    assert len(said.nearest) == 5
    assert said.hash not in {one.hash for one in said.nearest}
    assert [one.cosine for one in said.nearest] == sorted((one.cosine for one in said.nearest), reverse=True)
    assert all("dog" in one.path for one in said.nearest)


def test_an_ordinary_picture_has_nothing_unusual(library: Store) -> None:
    quiet = [name for i in range(30) if not describe(library, name := f"dogs/{i}.jpg").unusual]
    assert len(quiet) >= 25


def test_what_is_alone_and_rare_is_said(library: Store) -> None:
    said = describe(library, "alone.jpg")
    assert said.strangeness > 0.95
    assert "few pictures resemble it" in said.unusual[0]
    assert not any("rare" in one for one in describe(library, "really a dog.jpg").unusual)
    assert not any("submarine is rare" in one for one in describe(library, "cats/1.jpg").unusual)


def test_a_label_that_its_neighbours_do_not_have_is_said(library: Store) -> None:
    said = describe(library, "really a dog.jpg")
    assert any("it is labelled cats, but" in one and "dogs" in one for one in said.unusual)


def test_a_picture_that_is_not_in_the_library(library: Store, tmp_path: Path) -> None:
    (tmp_path / "new.jpg").write_bytes(bytes([2, 7]))
    seen_by(library, Eye(1000))
    said = describe(library, tmp_path / "new.jpg")
    assert said.hash == ""
    assert all("cats" in one.path for one in said.nearest)
    assert json.loads(json.dumps(said.to_json()))["path"] == str(tmp_path / "new.jpg")


def test_taught_concepts_are_told(tmp_path: Path) -> None:
    store = made(tmp_path, PICTURES)
    teach(store, "Rex", [p.hash for p in PICTURES[:4]])
    assert describe(store, "dogs/0.jpg").taught == (("Rex", 0.99),)
    correct(store, PICTURES[10].hash, "Rex", False)
    assert describe(store, "dogs/10.jpg").taught == (("Rex", 0.01),)
    assert describe(store, "alone.jpg").taught[0][1] < 0.5


def test_what_cannot_be_described(library: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no picture 'nowhere.jpg'"):
        describe(library, "nowhere.jpg")
    with pytest.raises(UsageError, match=r"pictures of the library are called '1.jpg'; type more of the path"):
        describe(library, "1.jpg")
    with pytest.raises(LibraryError, match="no vectors yet"):
        describe(Store.create(tmp_path / ".neocog"), "x.jpg")


def test_small_libraries(tmp_path: Path) -> None:
    one = made(tmp_path / "one", [Picture("a.jpg", {"zebra": 0.9})])
    said = describe(one, "a.jpg")
    assert said.nearest == ()
    assert said.to_json()["strangeness"] is None
    assert said.unusual == ()
