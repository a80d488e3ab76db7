"""Sentences that a net writes into a library: marked, searchable with less weight, and written once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from library.tiny import Tiny, fill

import neocog
from neocog.library import Library
from neocog.library.captions import describe
from neocog.library.fulltext import FIELDS
from neocog.library.indexing import index
from neocog.library.view import view_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> neocog.Run:
    return neocog.train(
        "drawn:n=64,size=32", task="caption", net="cifar_resnet20", epochs=2, progress=False, diagnosis=False,
        out=tmp_path_factory.mktemp("runs") / "told", device="cpu", task_options={"least": 1},
        set={"min_steps": 1, "batch_size": 16},
    )  # fmt: skip


@pytest.fixture
def library(tmp_path: Path, run: neocog.Run) -> Library:
    folder = tmp_path / "pictures"
    fill(folder, 4)
    opened = Library.beside(folder)
    index(opened.store, [folder], Tiny())
    return opened


def sentences(library: Library) -> list[Any]:
    return library.store.rows(["described"]).column("described").to_pylist()


def test_every_picture_gets_a_sentence_once(library: Library, run: neocog.Run) -> None:
    run.task.sure = -math.inf  # type: ignore[attr-defined]
    assert not any(sentences(library))
    told = describe(library.store, run)
    assert (told.written, told.withheld, told.unreadable) == (4, 0, 0)
    said = sentences(library)
    paths = [library.store.path_of(one[0]) for one in library.store.rows(["paths"]).column("paths").to_pylist()]
    assert said == [[one.texts[0]] for one in neocog.caption(paths, run)]
    assert describe(library.store, run).written == 0 and describe(library.store, run, again=True).written == 4


def test_sentences_that_the_net_is_not_sure_of_are_withheld_and_not_written_again(
    library: Library, run: neocog.Run
) -> None:
    run.task.sure = 0.0  # type: ignore[attr-defined]  # nothing is as sure as that
    told = describe(library.store, run)
    assert (told.written, told.withheld) == (0, 4) and sentences(library) == [[""]] * 4
    assert describe(library.store, run).withheld == 0


def test_they_are_searched_with_less_weight_and_named_for_what_they_are(library: Library, run: neocog.Run) -> None:
    run.task.sure = -math.inf  # type: ignore[attr-defined]
    describe(library.store, run)
    text = view_of(library.store).text
    word = sentences(library)[0][0].split()[-1]
    assert text.knows(word) and "machine-written caption" in text.where([word], 0)
    assert 0 < FIELDS["described"] < min(v for k, v in FIELDS.items() if k != "described")
    hits = library.search(f'"{sentences(library)[0][0]}"', threshold=0.0)
    assert any("machine-written" in str(reason) for hit in hits for reason in hit.reasons)


def test_a_file_that_is_gone_is_counted(library: Library, run: neocog.Run) -> None:
    run.task.sure = -math.inf  # type: ignore[attr-defined]
    library.store.path_of(library.store.rows(["paths"]).column("paths")[0].as_py()[0]).unlink()
    told = describe(library.store, run)
    assert (told.written, told.unreadable) == (3, 1) and sum(not one for one in sentences(library)) == 1
