"""A sentence space of a library's own: what is learned, what was gained, and what is thrown away."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import neocog
from neocog import Library
from neocog.cli import app
from neocog.data.source import Source
from neocog.errors import LibraryError
from neocog.library import learning, sentences
from neocog.library.captions import annotate
from neocog.library.view import view_of
from neocog.tasks.match_captions import MatchCaptions
from neocog.text.space import Space
from neocog.text.tokens import Subwords


def begun(trunk: str, width: int, *, towers: int = 1, seed: int = 0, hidden: bool = False) -> Space:
    """A space that knows nothing: random weights."""
    random = np.random.default_rng(seed)

    def some(*shape: int) -> np.ndarray:
        return random.normal(0, shape[-1] ** -0.5, shape).astype(np.float32)

    weights: dict[str, np.ndarray] = {}
    for n in range(towers):
        weights |= {
            f"{n}.tokens": np.array([5, 9], np.int32), f"{n}.learned": some(2, 8),
            f"{n}.windows.0.weight": some(24, 264, 1), f"{n}.windows.0.bias": some(24),
            f"{n}.windows.1.weight": some(24, 264, 3) / 2, f"{n}.windows.1.bias": some(24),
            f"{n}.out.weight": some(32, 48), f"{n}.out.bias": some(32),
            f"{n}.picture.weight": some(32, width), f"{n}.picture.bias": some(32),
        }  # fmt: skip
        if hidden:
            weights |= {f"{n}.hidden.weight": some(8, width), f"{n}.hidden.bias": some(8)}
            weights |= {f"{n}.more.weight": some(32, 8), f"{n}.more.bias": some(32)}
    calibration = {"shift": 0.0, "cosine": 4.0, "threshold": 0.3}
    about = {"format": 2, "trunk": trunk, "tokenizer": Subwords().to_json(), "calibration": calibration}
    return Space(weights, {**about, "words": {"red": 0.1}})


def written(source: Source, folder: Path, captions: list[str]) -> None:
    """The pictures of a source in folder/pictures, and their captions in folder/table.csv."""
    (folder / "pictures").mkdir()
    with open(folder / "table.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "caption"])
        for i, caption in enumerate(captions):
            Image.fromarray(source.read(i)).save(folder / f"pictures/{i:03}.png")
            table.writerow([f"pictures/{i:03}.png", caption])


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """100 drawn pictures with their captions, indexed with a net that learned shapes and colours a little."""
    folder = tmp_path_factory.mktemp("captioned")
    run = neocog.train(
        "drawn:n=64,size=32,task=shape", net="cifar_resnet20", epochs=1, out=folder / "run", progress=False
    )
    source = neocog.open_source("drawn:n=100,size=32,seed=5,task=colour")
    written(source, folder, [f"a {source.sample(i).label} thing" for i in range(len(source))])
    library = Library.beside(folder / "pictures")
    library.index(folder / "pictures", net=run.folder)
    return library


@pytest.fixture
def ships(captioned: Library, monkeypatch: pytest.MonkeyPatch) -> Space:
    store = captioned.store
    assert store.model is not None
    space = begun(store.model, store.models()[store.model]["dimension"])
    for room in (sentences, learning):
        monkeypatch.setattr(room, "shipped", lambda: space)
    return space


def test_a_net_that_begins_with_a_space_gives_its_vectors(tmp_path: Path) -> None:
    space = begun("cifar_resnet20", 64, hidden=True)
    space.save(tmp_path)
    space = Space.load(tmp_path)
    task = MatchCaptions(Subwords(), **{**MatchCaptions.options, **space.sizes, "space": str(tmp_path)})
    trunk = type("Trunk", (), {"channels": {8: 64}})()
    head = task.head(trunk).eval()
    texts, features = ["a red dog runs", "two men"], np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
    ids = torch.from_numpy(task.tokenizer.encode(texts))
    with torch.inference_mode():
        out = head({}, torch.from_numpy(features), texts=ids[None])
    assert np.allclose(out["pictures"].numpy(), space.pictures(features), atol=1e-5)
    assert np.allclose(out["texts"][0].numpy(), space.sentences(texts), atol=1e-3)
    assert "space" not in {k for k, v in task.to_json().items() if v}  # a trained net does not read it again


def test_too_few_captions_are_refused_with_advice(captioned: Library, ships: Space) -> None:
    with pytest.raises(LibraryError, match=r"0 pictures of .* have captions and vectors, at least 50"):
        captioned.learn_sentences()


def test_what_is_learned_is_used_and_can_be_forgotten(
    captioned: Library, ships: Space, run_cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(space: Space, source: learning.Captioned, rows: np.ndarray) -> np.ndarray:
        return np.full((len(rows), 2), float(space is not ships))  # what is learned finds all, what ships nothing

    monkeypatch.setattr(learning, "_found", found)
    table = captioned.folder.parent.parent / "table.csv"
    said = run_cli("learn-sentences", str(captioned.folder), "--captions", str(table), "--epochs", "2", "--quiet")
    assert "the new space is used" in said
    own = sentences.space_of(captioned.store)
    assert own is not None and own is not ships
    assert own.about["words"]["thing"] == 1 > own.about["words"]["red"] > 0 and "usual.pictures" in own.weights
    assert own.about["calibration"] == ships.about["calibration"]  # 20 pictures do not say what cosines mean
    assert not list(captioned.folder.glob(".learning-*")) and not list(captioned.folder.glob(".sentences*"))
    view = view_of(captioned.store)
    witness = sentences.witness_of(view)
    assert witness is not None and witness.knows("red thing")

    # the same once more finds no more, so nothing changes
    before = (captioned.folder / "sentences" / "space.safetensors").read_bytes()
    again = captioned.learn_sentences(epochs=2, say=lambda text: None)
    assert not again.kept and again.before == again.after and again.held_out > 5
    assert (captioned.folder / "sentences" / "space.safetensors").read_bytes() == before

    assert "is removed" in run_cli("learn-sentences", str(captioned.folder), "--forget")
    assert sentences.space_of(captioned.store) is ships and not captioned.forget_sentences()


def test_no_picture_is_read(captioned: Library, ships: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    source = learning.Captioned(view_of(captioned.store), str(captioned.store.model))
    assert len(source) == 100 and np.array_equal(source.features(np.array([3]))[0], source.vectors[3])
    assert {0, 1, 2} == set(source.splits.tolist())
    monkeypatch.setattr("neocog.data.pictures.Held.__init__", None)
    monkeypatch.setattr("neocog.data.pictures.Streamed.__init__", None)
    assert captioned.learn_sentences(epochs=1, say=lambda text: None).pictures > 50


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]):
    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as left:
            app(list(words))
        out = capsys.readouterr()
        assert left.value.code == 0, out.err
        return out.out

    return run


@pytest.mark.slow
def test_pictures_of_another_kind_are_learned(tmp_path: Path) -> None:
    """The space that ships knows photographs, and hardly anything of drawn shapes in relations."""
    source = neocog.open_source("drawn:n=300,size=64,seed=3")
    written(source, tmp_path, [source.sample(i).captions[1] for i in range(len(source))])
    library = Library.beside(tmp_path / "pictures")
    library.index(tmp_path / "pictures", net="efficientnet_lite0")
    annotate(library.store, tmp_path / "table.csv")
    learned = library.learn_sentences()
    assert learned.kept
    assert max(learned.before) < 0.4 and min(learned.after) > 0.6
