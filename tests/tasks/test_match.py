"""Twins: the layer that is fitted at once, figures of pairs, and a whole training from features."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from neocog import fit
from neocog.errors import UsageError
from neocog.fit.heads import choose
from neocog.fit.run import records
from neocog.records import Preprocess
from neocog.tasks.match import Match, verification

QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "precision": "float32"}


def people(classes: int = 12, each: int = 8, d: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of people who differ little in all directions, while pictures of one differ much in three of them."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    loud = np.where(np.arange(d) < 3, 8.0, 0.3)
    x = rng.normal(size=(classes, d))[labels] + loud * rng.normal(size=(len(labels), d))
    return x - x.mean(0), labels


def eer(vectors: np.ndarray, labels: np.ndarray) -> float:
    return float(Match().figures({"rows": np.arange(len(labels)), "vectors": vectors, "labels": labels})["eer"])


def test_the_layer_makes_pictures_of_one_class_vary_alike_in_all_directions() -> None:
    x, labels = people()
    ((weight, bias),) = Match(dimensions=20).fit_head(x, {"label": labels}, (1e-6,))
    z = x @ weight.T + bias
    within = z - np.stack([z[labels == c].mean(0) for c in labels])
    covariance = within.T @ within / len(x)
    assert covariance == pytest.approx(np.eye(20), abs=1e-3)


def test_the_layer_tells_classes_apart_that_it_has_not_seen() -> None:
    x, labels = people()
    new, whose = people(seed=1)
    ((weight, bias),) = Match().fit_head(x, {"label": labels}, (0.1,))
    assert weight.shape == (256, 20) and not weight[20:].any()
    assert eer(new, whose) > 0.3 and eer(new @ weight.T + bias, whose) < 0.1


def test_few_pictures_with_many_features_give_the_same_layer() -> None:
    x, labels = people()
    wide = np.concatenate((x, np.zeros((len(x), 200))), 1)
    (narrow,), (other,) = (Match().fit_head(one, {"label": labels}, (0.1,)) for one in (x, wide))
    a, b = x @ narrow[0].T, wide @ other[0].T
    assert a @ a.T == pytest.approx(b @ b.T, rel=1e-5, abs=1e-5)


def test_directions_that_are_left_out_are_those_that_tell_least() -> None:
    x, labels = people(classes=30)
    kept = [np.stack(Match(dimensions=d).fit_head(x, {"label": labels}, (0.1,)).__next__()[0]) for d in (17, 20)]
    few, most = (x @ weight.T for weight in kept)
    assert few.shape == (240, 17) and eer(few, labels) < eer(most, labels) + 0.02


def test_figures_of_all_pairs_are_those_of_the_definition() -> None:
    x, labels = people(4, 3)
    found = Match().figures({"rows": np.arange(12), "vectors": x, "labels": labels})
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines, hits, losses = z @ z.T, [], []
    for i in range(12):
        others = np.delete(np.arange(12), i)
        hits.append(labels[others[cosines[i, others].argmax()]] == labels[i])
        p = np.exp(16 * cosines[i, others]) / np.exp(16 * cosines[i, others]).sum()
        losses.append(-np.log(p[labels[others] == labels[i]]).mean())
    assert found["recall_at_1"] == pytest.approx(np.mean(hits)) and found["loss"] == pytest.approx(np.mean(losses))
    a, b = np.triu_indices(12, 1)
    assert found["pairs"] == 66 and found["eer"] == verification(cosines[a, b], labels[a] == labels[b])["eer"]


def test_figures_of_many_pictures_take_little_memory_and_see_enough_pairs_of_one_class() -> None:
    rng = np.random.default_rng(0)
    labels = np.append(rng.permutation(np.repeat(np.arange(1500), 2)), 1500)  # one of them is alone
    x = rng.normal(size=(1501, 8))[labels] + 0.2 * rng.normal(size=(3001, 8))
    tracemalloc.start()
    found = Match().figures({"rows": np.arange(3001), "vectors": x, "labels": labels})
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 200 << 20  # all cosines and their order at once would be 400 MiB
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    a, b = np.triu_indices(3001, 1)
    whole = verification((z @ z.T)[a, b], labels[a] == labels[b])
    assert found["eer"] == pytest.approx(whole["eer"], abs=0.003) and found["pairs"] == 200_000
    assert found["recall_at_1"] > 0.3


def test_of_two_layers_the_one_is_read_that_tells_new_classes_apart() -> None:
    x, labels = people(20)
    noise = np.random.default_rng(5).normal(size=(len(x), 10))
    how: dict[str, Any] = {"folds": labels % 5, "parts": (slice(0, 10), slice(10, 30))}
    head = choose(np.concatenate((noise, x), 1), {"label": labels}, Match(), **how)
    assert head.part == 1 and not head.weight[:, :10].any() and head.weight[:, 10:].any()


def test_mirror_images_are_learned_from_and_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = people(10)
    seen: list[int] = []

    def loss(self: Match, found: Any) -> float:
        seen.append(len(found["labels"]))
        return float(self.figures(found)["eer"])

    monkeypatch.setattr(Match, "head_loss", loss)
    twice, both = np.concatenate((x, x)), np.concatenate((labels, labels))
    choose(twice, {"label": both}, Match(), folds=both % 5, judged=np.arange(160) < 80)
    assert set(seen) == {16}


def test_where_no_fold_can_be_judged_the_strength_is_1() -> None:
    x, labels = people(4, 6)  # one class in each fold: no pairs of different ones
    head = choose(x, {"label": labels}, Match(), folds=labels)
    assert head.strength == 1.0 and head.chosen == "too few to choose it by"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> fit.Run:
    out = tmp_path_factory.mktemp("base") / "run"
    return fit.train("drawn:n=100,size=32", net="lenet5", epochs=1, out=out, set={"min_steps": 1}, **QUIET)


@pytest.fixture(scope="module")
def run(base: fit.Run, tmp_path_factory: pytest.TempPathFactory) -> fit.Run:
    out = tmp_path_factory.mktemp("match") / "run"
    return fit.train("drawn:n=240,size=32", task="match", start=base.folder, out=out, **QUIET)


def test_few_pictures_of_each_class_are_learned_from_a_finer_map_and_mirrored(run: fit.Run) -> None:
    assert run.settings["settings"]["start"]["regime"] == "features"
    assert run.taps is not None and len(run.taps["layers"]) == 2 and run.taps["layers"][1] == ""
    plain, mirrored = (
        load_file(run.folder / "features" / f"{name}-0.safetensors")["features"] for name in ("train", "train-mirrored")
    )
    assert plain.shape == mirrored.shape and abs(plain - mirrored).max() > 0
    (head,) = records(run.folder, "head")
    assert head["judge"] == "equal error rate" and "-fold cross-validation, as that it reads" in head["chosen"]
    assert head["pictures"] == len(plain)
    weight = run.net().get_submodule("classifier").weight
    used = (weight != 0).any(0)
    read = "the maps of" in head["chosen"]
    width = int(used.sum())
    assert 0 < width < len(used) and bool(used[:width].all() if read else used[-width:].all())
    first, second = run.predict([np.zeros((32, 32, 3), np.uint8)] * 2)
    assert first.alike(second) == pytest.approx(1, abs=1e-4)
    report = run.report.read_text()
    assert "equal error rate on other pictures" in report and "share of the pairs" in report


def test_mirror_images_are_left_out_where_that_was_asked(base: fit.Run, tmp_path: Path) -> None:
    how: dict[str, Any] = {"task": "match", "start": base.folder, "out": tmp_path / "run"}
    fit.train("drawn:n=120,size=32", set={"flip": "none"}, **how, **QUIET)
    assert not (tmp_path / "run" / "features" / "train-mirrored-0.safetensors").exists()
    how |= {"out": tmp_path / "no", "regime": "features"}
    with pytest.raises(UsageError, match="zoom has no effect in regime features"):
        fit.train("drawn:n=120,size=32", set={"zoom": 0.1}, **how, **QUIET)


def test_whole_pictures_are_seen_at_the_size_of_the_weights(run: fit.Run, tmp_path: Path) -> None:
    assert (run.preprocess.fit, run.preprocess.shape) == ("pad", (32, 32))
    rng = np.random.default_rng(0)
    wide = [rng.integers(0, 255, (20, 60, 3), dtype=np.uint8) for _ in range(24)]
    names = [f"writer {i % 4}" for i in range(24)]
    how: dict[str, Any] = {"net": "cifar_resnet20", "epochs": 1, "set": {"min_steps": 1}, "out": tmp_path / "run"}
    made = fit.train((wide, names), task="match", diagnosis=False, **how, **QUIET).preprocess
    assert isinstance(made, Preprocess) and made.shape is not None and made.shape[1] > 2 * made.shape[0]
