"""The sentence space: the same numbers as the towers it was made of, what it writes, and what it says of cosines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from neocog.errors import DataError
from neocog.nets.matching import PicturesAndTexts, Windows
from neocog.text import space_making
from neocog.text.space import FILES, Space
from neocog.text.tokens import Subwords
from neocog.text.vectors import table_for

TEXTS = ["a dog runs on the beach .", "Two men", "frisbee", ""]
WIDTH = 12


def _run(folder: Path, seed: int = 0, hidden: int = 3, **task: object) -> PicturesAndTexts:
    """The files of a run as far as a space is made of them, and its head."""
    torch.manual_seed(seed)
    tokenizer = Subwords()
    texts = Windows(tokenizer.size, 8, torch.from_numpy(table_for(tokenizer)), learned=4, filters=6)
    seen = torch.from_numpy(np.unique(tokenizer.encode(TEXTS[:2]))).long()
    with torch.no_grad():
        texts.learned.weight[seen[seen > 0]] = torch.randn(int((seen > 0).sum()), 4)
    head = PicturesAndTexts(WIDTH, texts, 8, hidden=hidden).eval()
    folder.mkdir(exist_ok=True)
    save_file({f"answer.{k}": v for k, v in head.state_dict().items()}, folder / "weights.safetensors")
    settings = {
        "name": "match-captions",
        "tower": "sentence",
        "reads": "mean",
        "tokenizer": tokenizer.to_json(),
        **task,
    }
    (folder / "net.json").write_text(json.dumps({"task": settings}))
    return head


def test_the_same_numbers_as_the_towers(tmp_path: Path) -> None:
    heads = [_run(tmp_path / str(k), k) for k in range(2)]
    made = space_making.joined([space_making.of_run(tmp_path / str(k), "t") for k in range(2)])
    ids = torch.from_numpy(Subwords().encode(TEXTS)).long()
    features = torch.rand(5, WIDTH)
    with torch.no_grad():
        cosines = [F.normalize(h.pictures(features), dim=1) @ F.normalize(h.texts(ids), dim=1).T for h in heads]
    assert made.dimensions == 16
    found = made.pictures(features.numpy()) @ made.sentences(TEXTS).T
    np.testing.assert_allclose(found, torch.stack(cosines).mean(0).numpy(), atol=2e-5)


def test_only_learned_tokens_are_kept(tmp_path: Path) -> None:
    _run(tmp_path / "r")
    made = space_making.of_run(tmp_path / "r", "t")
    ids = np.unique(Subwords().encode(TEXTS[:2]))
    assert made.weights["0.tokens"].tolist() == ids[ids > 0].tolist()
    assert made.weights["0.learned"].shape == (len(ids) - 1, 4)


def test_what_cannot_become_a_space_is_refused(tmp_path: Path) -> None:
    _run(tmp_path / "r", reads="quarters")
    with pytest.raises(DataError, match="expected the task match on captions"):
        space_making.of_run(tmp_path / "r", "t")
    with pytest.raises(DataError, match="no sentence space"):
        Space.load(tmp_path)
    (tmp_path / FILES[1]).write_text("{")
    with pytest.raises(DataError, match="damaged"):
        Space.load(tmp_path)


def test_contributions_add_up(tmp_path: Path) -> None:
    _run(tmp_path / "r")
    made = space_making.of_run(tmp_path / "r", "t")
    picture = made.pictures(np.random.default_rng(0).random((1, WIDTH), np.float32))[0]
    said = made.contributions("a dog on the beach", picture)
    assert [word for word, _ in said] == ["a", "dog", "on", "the", "beach"]
    vector = made._read(0, made._tokens(["a dog on the beach"])[0])[1]
    constant = float(made._w["0.out.bias"] @ picture / np.linalg.norm(vector))
    cosine = float(made.sentences(["a dog on the beach"])[0] @ picture)
    assert sum(value for _, value in said) + constant == pytest.approx(cosine, abs=1e-5)


def _toy(folder: Path, noise: float = 1.0, seen: bool = False) -> Space:
    """A calibrated space in which a picture is near one of three words: its features are what the word gives.

    `seen`: a net has the words as classes.
    """
    _run(folder, hidden=0)
    made = space_making.of_run(folder, "t")
    made.about["words"] = {"dog": 0.3, "beach": 0.3, "men": 0.3}
    random, words = np.random.default_rng(0), ["dog", "beach", "men"]
    places = made.sentences(words)
    weight = made._w["0.picture.weight"]
    which = np.arange(90) % 3
    roots = np.linalg.lstsq(weight, places[which].T, rcond=None)[0].T * 10
    features = np.sign(roots) * roots**2 + noise * random.normal(size=roots.shape).astype(np.float32)
    spoken = [[f"a {words[k]}", f"the {words[k]} ."] for k in which]
    odds = {word: np.where(which == k, 5.0, -1.0) + random.normal(size=90) for k, word in enumerate(words)}
    return space_making.calibrated(
        made, features, spoken, ["piano", "volcano"], seen=odds.get if seen else lambda text: None
    )


def test_the_classes_of_a_net_count_by_how_much_they_say(tmp_path: Path) -> None:
    without, made = _toy(tmp_path / "a", noise=30), _toy(tmp_path / "b", noise=30, seen=True)
    assert made.weighs_classes and not without.weighs_classes
    assert made.about["calibration"]["seen"] > 0.5
    product, odds = np.array([0.5], np.float32), np.array([5.0], np.float32)
    assert made.probability(product, "dog", odds) > made.probability(product, "dog") > 0
    assert made.probability(product, "dog", 0 * odds) == made.probability(product, "dog")
    assert without.probability(product, "dog", odds) == without.probability(product, "dog")


def test_a_probability_says_what_is_there(tmp_path: Path) -> None:
    made = _toy(tmp_path / "r")
    made.save(tmp_path / "s")
    again = Space.load(tmp_path / "s")
    dog, beach = again.sentences(["dog", "beach"])
    cosines = np.array([dog @ dog, beach @ dog], np.float32)
    high, low = again.probability(cosines, "dog")
    assert high > low
    assert high > again.threshold > 0
    assert made.share("a dog with an oboe") < made.share("men") == 0.3
    assert again.fingerprint == made.fingerprint
    np.testing.assert_allclose(again.sentences(TEXTS), made.sentences(TEXTS), atol=0.02)
    assert sum((tmp_path / "s" / name).stat().st_size for name in FILES) < 50_000


def test_what_is_near_everything_is_less_near(tmp_path: Path) -> None:
    made = _toy(tmp_path / "r")
    random = np.random.default_rng(1)
    features, texts = random.random((40, WIDTH)).astype(np.float32), [["a dog"], ["two men", "men"]] * 20
    even = space_making.evened(made, features, texts)
    assert even.dimensions == made.dimensions + 2
    cosines, products = (space.pictures(features) @ space.sentences(["a dog", "frisbee"]).T for space in (made, even))
    usual = {k: even.weights[f"usual.{k}"] for k in ("pictures", "sentences")}
    off = [
        np.log(np.exp(15 * place @ usual[k].T).mean(1)) / 30
        for k, place in (("sentences", made.pictures(features)), ("pictures", made.sentences(["a dog", "frisbee"])))
    ]
    np.testing.assert_allclose(products, cosines - off[0][:, None] - off[1][None], atol=1e-5)
    assert even.fingerprint != made.fingerprint
    even.save(tmp_path / "s")
    assert Space.load(tmp_path / "s").fingerprint == even.fingerprint
    np.testing.assert_allclose(space_making.evened(even, features, texts).pictures(features), even.pictures(features))


def test_words_have_heads_of_their_own(tmp_path: Path) -> None:
    _run(tmp_path / "r", hidden=0)
    made = space_making.of_run(tmp_path / "r", "t")
    made.about["words"] = {"dog": 0.5, "dogs": 0.1, "oboe": 0.0, "running": 0.5, "the": 1.0}
    random, there = np.random.default_rng(0), np.arange(80) % 2 == 0
    features = random.random((2, 80, WIDTH)).astype(np.float32)
    features[:, there, :4] *= 20
    captions = [
        [f"the {('dog', 'dogs')[k % 4 // 2]} runs", "a dog running"] if k % 2 == 0 else ["sand"] for k in range(80)
    ]
    heard = space_making.hearing(made, features, captions)
    heard.save(tmp_path / "s")
    again = Space.load(tmp_path / "s")
    for space in (heard, again):
        vectors, added = space.heads("The dog, and the oboe")
        assert vectors.shape == (1, space.dimensions) and added.shape == (1, 2)
        np.testing.assert_array_equal(space.heads("dogs dog")[0], vectors)
        assert len(space.heads("dog is running")[1]) == 2 and not len(space.heads("the oboe")[1])
        assert added[0, 1] == pytest.approx(np.log(0.5), abs=0.02)  # half of the pictures: all captions
    pictures = heard.pictures(features[0])
    vectors, added = heard.heads("dog running")
    said = heard.heard(pictures @ vectors.T, added)
    probable = 1 / (1 + np.exp(-(pictures.astype(np.float64) @ vectors.T + added[:, 0])))
    np.testing.assert_allclose(said, np.log(probable / np.exp(added[:, 1])).mean(1), atol=1e-4)
    assert np.median(said[there]) > said[~there].max()
    assert made.fingerprint == heard.fingerprint  # pictures are where they were
    found = space_making.calibrated(heard, features[1], captions)
    assert found.about["calibration"]["heard"] > 0
    ranked = found.probability(pictures @ found.sentences(["dog"])[0], "dog", heard=said)
    assert np.median(ranked[there]) > ranked[~there].max()


def test_a_space_of_before_reads_features_as_they_are(tmp_path: Path) -> None:
    _run(tmp_path / "r", hidden=0)
    made = space_making.of_run(tmp_path / "r", "t")
    features = np.random.default_rng(0).random((3, WIDTH)).astype(np.float32)
    old = Space(made.weights, {**made.about, "format": 1})
    np.testing.assert_allclose(made.pictures(features**2), old.pictures(features), atol=1e-5)


def test_no_torch_is_imported() -> None:
    code = "import sys; from neocog.text.space import Space; Space({}, {}); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_a_text_is_read_once_for_all_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    space, count, computed = Space.load(), [], Space._read
    monkeypatch.setattr(Space, "_read", lambda self, n, ids: count.append(n) or computed(self, n, ids))
    pictures = space.pictures(np.random.default_rng(0).random((3, 1280), np.float32))
    said = [space.contributions("two dogs in snow", picture) for picture in (*pictures, pictures[0])]
    assert len(count) == len(set(count))  # once for each tower
    assert said[0] == said[3] != said[1]


def test_texts_without_a_word_and_broken_ones() -> None:
    space = Space.load()
    picture = space.pictures(np.random.default_rng(0).random((1, 1280), np.float32))[0]
    for text in ("", "  ", "\ud800"):
        assert space.contributions(text, picture) == []
    assert [word for word, _ in space.contributions("dog\udcff", picture)] == ["dog"]
    for text in ("", "?!", "xqzzv", "dog " * 500, "\ud800", "東京"):
        assert np.isfinite(space.sentences([text])).all() and 0 < space.share(text) <= 1
    np.testing.assert_array_equal(space.sentences(["dog\udcff"]), space.sentences(["dog"]))
    assert space.sentences([]).shape == (0, space.dimensions)
