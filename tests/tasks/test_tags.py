"""Tags: what is not known counts for nothing; figures as scikit-learn has them; thresholds and probabilities."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from typer.testing import CliRunner

from neocog import fit
from neocog.cli import app
from neocog.data.batches import Batch, Mix
from neocog.data.columns import LabelSets
from neocog.data.kinds import Categories
from neocog.data.source import Source
from neocog.errors import DataError, UsageError
from neocog.tasks.canvas import MISSED, RIGHT, WRONG
from neocog.tasks.tag_measures import asymmetric, best_threshold, counts, f1_scores, per_tag_ap, platt
from neocog.tasks.tags import LOSSES, Tagged, Tags

NAN = math.nan


def batch_of(y: torch.Tensor, mix: Mix | None = None) -> Batch:
    n = len(y)
    return Batch((), {"tags": y}, torch.arange(n), torch.ones(n, dtype=torch.bool), None, mix)


def column(rows: list[list[int]], names: str = "abc", unknown: list[list[int]] | None = None) -> Categories:
    def sets(lists: list[list[int]]) -> LabelSets:
        ends = np.cumsum([0, *map(len, lists)])
        return LabelSets(ends, np.array([v for row in lists for v in row], np.int32))

    return Categories(sets(rows), tuple(names), None if unknown is None else sets(unknown))


def source_of(tags: Categories) -> Source:
    source = Source("made", (), np.full(len(tags), -1), np.full(len(tags), -1))
    source.columns = {"tags": tags}
    return source


def planned(tags: Categories, **settings: Any) -> Tags:
    return Tags.plan(source_of(tags), np.arange(len(tags)), settings)


def seen_of(outputs: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    return {"rows": np.arange(len(y)), "outputs": outputs.astype(np.float32), "tags": y.astype(np.float32)}


# ---- the losses


@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_not_known_counts_for_nothing(loss: str) -> None:
    g = torch.Generator().manual_seed(0)
    task = Tags("abc", loss=loss, weights=[1.0, 2.0, 3.0], prior=[-1.0, 0.0, 1.0])
    outputs = torch.randn(4, 3, generator=g).requires_grad_()
    y = torch.tensor([[1, 0, NAN], [NAN, NAN, NAN], [0, NAN, 1], [1, 1, 0]])
    found = task.losses(outputs, batch_of(y))
    found.total.backward()
    assert found.count == pytest.approx(7 / 3)
    assert (outputs.grad[y.isnan()] == 0).all() and (outputs.grad[~y.isnan()] != 0).all()
    alone = [
        task.losses(outputs.detach()[b : b + 1], batch_of(y[b : b + 1])) for b in range(4) if not y[b].isnan().all()
    ]
    joined = sum(one.total * one.count for one in alone) / sum(one.count for one in alone)
    assert found.total.item() == pytest.approx(float(joined), rel=1e-5)


def test_the_losses_are_what_their_papers_say() -> None:
    z, y = torch.tensor([[0.3, -1.2]]).double(), torch.tensor([[1.0, 0.0]]).double()
    p = [1 / (1 + math.exp(-v)) for v in (0.3, -1.2)]
    bce = Tags("ab", loss="bce", weights=[3.0, 3.0]).losses(z, batch_of(y)).total.item()
    assert bce == pytest.approx(-3 * math.log(p[0]) - math.log(1 - p[1]), rel=1e-6)
    squared = Tags("ab", loss="squared").losses(z, batch_of(y)).total.item()
    assert squared == pytest.approx(0.5 * ((0.3 - 1) ** 2 + 1.2**2))
    q = p[1] - 0.05
    focal = Tags("ab", loss="asymmetric").losses(z, batch_of(y)).total.item()
    assert focal == pytest.approx(-math.log(p[0]) - q**4 * math.log(1 - q), rel=1e-6)


def test_gradients_of_the_asymmetric_loss_are_those_of_its_formula() -> None:
    z = torch.linspace(-8, 8, 41, dtype=torch.float64).repeat(2, 1).requires_grad_()
    y = torch.stack((torch.ones(41), torch.zeros(41))).double()
    (found,) = torch.autograd.grad(asymmetric(z, y).sum(), z)
    p = torch.sigmoid(z)
    q = (p - 0.05).clamp(min=0)
    (wanted,) = torch.autograd.grad(-(y * torch.log(p) + (1 - y) * q**4 * torch.log(1 - q)).sum(), z)
    assert torch.allclose(found, wanted, atol=1e-12)
    far = torch.tensor([[200.0, -200.0]], requires_grad=True)  # where p is 1 or 0 in float32
    (grad,) = torch.autograd.grad(asymmetric(far, torch.tensor([[0.0, 1.0]])).sum(), far)
    assert torch.isfinite(grad).all()
    easy = torch.tensor([[-4.0]], requires_grad=True)  # p below the margin: an absence that is learned
    assert torch.autograd.grad(asymmetric(easy, torch.zeros(1, 1)).sum(), easy)[0].item() == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_mixed_pictures_count_for_both_answers(loss: str) -> None:
    g = torch.Generator().manual_seed(1)
    task, outputs = Tags("abc", loss=loss), torch.randn(4, 3, generator=g)
    y = torch.tensor([[1.0, 0, NAN], [0, 0, 1], [1, 1, 0], [0, NAN, 0]])
    partner = torch.tensor([2, 3, 0, 1])
    mixed = task.losses(outputs, batch_of(y, Mix(partner, 0.7)))
    first, second = task.losses(outputs, batch_of(y)), task.losses(outputs, batch_of(y[partner]))
    total = 0.7 * first.total * first.count + 0.3 * second.total * second.count
    assert mixed.count == pytest.approx(float(0.7 * first.count + 0.3 * second.count))
    assert (mixed.total * mixed.count).item() == pytest.approx(total.item(), rel=1e-5)


# ---- planning


def test_an_untaught_net_says_how_frequent_each_tag_is() -> None:
    tags = column([[0], [], [], [0, 1], [0], [0, 1], [0], [0]])
    for loss in ("bce", "squared"):
        for balance in ("none", "auto", "weights") if loss == "bce" else ("none", "auto"):
            task = planned(tags, loss=loss, balance=balance)
            p = task.probabilities(np.zeros((1, 3)))[0]
            if loss == "bce":
                assert p == pytest.approx([6.5 / 9, 2.5 / 9, 0.5 / 9], abs=1e-3)
            z = torch.zeros(8, 3, requires_grad=True)
            y = torch.from_numpy(np.stack([tags[i] for i in range(8)]))
            task.losses(z, batch_of(y)).total.backward()
            pull = z.grad.sum(0) / z.grad.abs().sum(0)  # ups and downs are in balance, but for half a picture
            assert pull.abs()[:2].max() < 0.2


def test_rare_tags_count_more_within_bounds() -> None:
    tags = column([[0]] * 50 + [[1]] + [[]] * 149)
    full = planned(tags, balance="weights").weights
    assert planned(tags).weights.tolist() == planned(tags, balance="none").weights.tolist() == [1, 1, 1]
    assert full[0] == pytest.approx(3, abs=0.05) and 1 < full[0] < full[1] <= 10
    assert full[0] == pytest.approx(3, abs=0.1) and full[1] == full[2] == 10
    with pytest.raises(UsageError, match="balance=weights"):
        planned(tags, balance="sampling")
    assert planned(tags, loss="squared").weights.tolist() == [1, 1, 1]
    with pytest.raises(UsageError, match="bce and asymmetric"):
        planned(tags, loss="squared", balance="weights")


def test_counts_heed_what_is_not_known() -> None:
    tags = column([[0], [0, 1], [2]], unknown=[[1], [], [0, 1]])
    yes, known = counts(tags, np.arange(3))
    assert yes.tolist() == [2, 1, 1] and known.tolist() == [2, 1, 3]

    class Plain:  # a column that has nothing but values
        names = tags.names

        def __getitem__(self, i: int) -> Any:
            return tags[i]

    again = counts(Plain(), np.arange(3))
    assert again[0].tolist() == yes.tolist() and again[1].tolist() == known.tolist()
    said = " ".join(planned(tags).notes)
    assert "33.3% of all pairs of picture and tag are unknown" in said


def test_tags_that_tell_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="no tag that some training pictures have and others lack"):
        planned(column([[0], [0]]))
    with pytest.raises(UsageError, match="expected one of bce, asymmetric, squared"):
        planned(column([[0], []]), loss="focal")


def test_every_tag_counts_for_the_splits() -> None:
    found = Tags.strata(source_of(column([[0], [], [0, 2]])))
    assert found is not None
    assert [found[i].tolist() for i in range(3)] == [[0], [], [0, 2]]


# ---- figures


def test_average_precision_and_f1_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 12, (80, 6)) / 12  # many are equal
    y = (rng.random((80, 6)) < 0.3).astype(float)
    y[rng.random((80, 6)) < 0.2] = NAN
    y[:, 5] = np.where(np.isnan(y[:, 5]), NAN, 0)
    found = per_tag_ap(scores, y)
    f1, micro = f1_scores(scores >= 0.6, y)
    for k in range(5):
        known = ~np.isnan(y[:, k])
        assert found[k] == pytest.approx(average_precision_score(y[known, k], scores[known, k]))
        assert f1[k] == pytest.approx(f1_score(y[known, k], scores[known, k] >= 0.6))
    assert math.isnan(found[5])
    known = ~np.isnan(y)
    assert micro == pytest.approx(f1_score(y[known], scores[known] >= 0.6))
    figures = Tags("abcdef").figures(seen_of(scores, y))
    assert figures["map"] == pytest.approx(float(np.mean(found[:5])), abs=1e-6)
    assert figures["tags"] == 5 and figures["known"] == pytest.approx(known.mean())
    assert math.isnan(figures["per_tag"]["f"])


def test_the_loss_among_the_figures_is_that_of_the_training() -> None:
    rng = np.random.default_rng(3)
    outputs = rng.normal(size=(9, 3)).astype(np.float32)
    y = np.where(rng.random((9, 3)) < 0.2, NAN, rng.random((9, 3)) < 0.5).astype(np.float32)
    for loss in LOSSES:
        task = Tags("abc", loss=loss, weights=[1.0, 4.0, 2.0])
        wanted = task.losses(torch.from_numpy(outputs), batch_of(torch.from_numpy(y))).total.item()
        assert task.figures(seen_of(outputs, y))["loss"] == pytest.approx(wanted, rel=1e-5)


def test_the_threshold_has_the_best_f1_there_is() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        p, yes = rng.integers(0, 8, 20) / 8, rng.random(20) < 0.4
        if not yes.any():
            continue
        every = [f1_score(yes, p >= t) for t in (np.unique(p) - 1e-3)]
        assert f1_score(yes, p >= best_threshold(p, yes)) == pytest.approx(max(every))


def test_a_tag_with_too_few_validation_pictures_takes_the_common_threshold() -> None:
    rng = np.random.default_rng(2)
    y = np.zeros((200, 3))
    y[:100, 0], y[:3, 1], y[:60, 2] = 1, 1, 1
    outputs = 2.0 * y + rng.normal(size=y.shape)
    outputs[:, 2] -= 2.0
    task = Tags("abc")
    task.calibrate(seen_of(outputs, y))
    p = task.probabilities(outputs)
    assert task.thresholds[1] == pytest.approx(best_threshold(p.ravel(), y.ravel() == 1), abs=1e-4)
    assert task.thresholds[0] == pytest.approx(best_threshold(p[:, 0], y[:, 0] == 1), abs=1e-4)
    assert task.thresholds[0] != task.thresholds[2]
    again = Tags.from_json(json.loads(json.dumps(task.to_json())))
    assert (again.thresholds == task.thresholds).all() and again.scale == task.scale and again.shift == task.shift
    assert again.figures(seen_of(outputs, y)) == task.figures(seen_of(outputs, y))


def test_probabilities_are_calibrated_whatever_the_loss_did_to_them() -> None:
    rng = np.random.default_rng(4)
    z = rng.normal(-1, 2, 4000)
    yes = rng.random(4000) < 1 / (1 + np.exp(-z))
    scale, shift = platt(3 * z - 2, yes)  # logits three times too large, and shifted
    assert scale == pytest.approx(1 / 3, rel=0.1) and shift == pytest.approx(2 / 3, abs=0.1)
    assert platt(-z, yes) == (1.0, 0.0)  # a net that is worse than chance is not turned around
    assert platt(np.ones(10), yes[:10]) == (1.0, 0.0)
    outputs, y = (3 * z - 2).reshape(-1, 4), yes.reshape(-1, 4).astype(float)
    task = Tags("abcd", weights=[1.0, 5.0, 2.0, 9.0])
    before = task.figures(seen_of(outputs, y))["log_loss"]
    task.calibrate(seen_of(outputs, y))
    assert task.figures(seen_of(outputs, y))["log_loss"] < before
    assert task.probabilities(outputs).mean() == pytest.approx(yes.mean(), abs=0.01)


def test_nothing_to_calibrate_on_changes_nothing() -> None:
    task = Tags("abc")
    task.calibrate({})
    task.calibrate(seen_of(np.ones((3, 3)), np.zeros((3, 3))))
    task.calibrate(seen_of(np.ones((3, 3)), np.full((3, 3), NAN)))
    assert (task.scale, task.shift, set(task.thresholds)) == (1.0, 0.0, {0.5})


# ---- answers and the report


def test_answers_are_the_tags_above_their_thresholds() -> None:
    task = Tags("abc", thresholds=[0.5, 0.9, 0.2])
    outputs = torch.logit(torch.tensor([[0.6, 0.8, 0.3], [0.1, 0.1, 0.1]]))
    first, second = task.answers(outputs, batch_of(torch.zeros(2, 3)), ["1", "2"], top=2)
    assert isinstance(first, Tagged) and isinstance(second, Tagged)
    assert [name for name, _ in first.found] == ["a", "c"] == [name for name, _ in first.tags()]
    assert [name for name, _ in first.top] == ["b", "a"]
    assert first.row() == {"tags": "a; c"} and second.row() == {"tags": ""} and second.tags() == ()
    assert first.to_json()["found"][0] == {"tag": "a", "probability": pytest.approx(0.6)}
    picture = np.zeros((40, 30, 3), np.uint8)
    without = first.draw(picture)
    told = first.draw(picture, np.array([1.0, 1.0, 0.0]))
    assert told.shape[0] >= without.shape[0] > 240 and told.dtype == np.uint8
    words = told[240:].reshape(-1, 3).astype(int)
    for colour in (RIGHT, WRONG, MISSED):
        assert (abs(words - colour).sum(1) < 30).any()
    assert first.draw(picture[:, :, 0]).ndim == 3


def test_the_worst_picture_is_the_one_with_the_least_probable_truth() -> None:
    y = np.array([[1, 0, NAN], [1, 0, 0], [NAN, NAN, NAN]])
    outputs = np.array([[3.0, -3, -9], [-2, -3, -3], [9, 9, 9]])
    task, seen = Tags("abc"), seen_of(outputs, y)
    assert task.worst(seen).tolist() == [1, 0, 2]
    assert task.caption(seen, 1) == "0 right, 0 wrong, 1 missed"
    (section,) = task.sections(seen, task.figures(seen))
    assert "average precision" in section.body and "are unknown" in section.body


def test_tags_from_captions_are_learned_continued_and_evaluated(tmp_path: Path) -> None:
    how: dict[str, Any] = {"net": "lenet5", "device": "cpu", "precision": "float32", "progress": False}
    told = CliRunner().invoke(
        app,
        ["train", "drawn:n=60,size=32", "--from-text", "--task-option", "from_text=20", "--net", "lenet5",
         "--epochs", "1", "--device", "cpu", "--set", "min_steps=1", "--out", str(tmp_path / "run")],
    )  # fmt: skip
    assert told.exit_code == 0 and "tags from texts, the words of at least 20 of 60 pictures (" in told.output
    run = fit.resume(tmp_path / "run", epochs=2, progress=False)
    classes = run.task.classes  # type: ignore[attr-defined]
    assert "red" in classes and "tags from texts" in run.report.read_text("utf-8")
    figures = fit.evaluate([run], "drawn:n=30,size=32,seed=3")["runs"][0]
    assert figures["per_tag"].keys() <= set(classes) and math.isfinite(figures["map"])
    with pytest.raises(UsageError, match="the task label has no option 'from_text'"):
        fit.train("drawn:n=60,size=32", task="label", task_options={"from_text": "auto"}, **how)
