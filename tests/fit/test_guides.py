"""What is learned from beside labels: averages of earlier answers, teachers, unlabelled pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from neocog import fit
from neocog.cli import app
from neocog.data.batches import Batch
from neocog.errors import RunError, UsageError
from neocog.fit import guides, learn_head
from neocog.fit.findings import read_curves
from neocog.fit.guides import (
    Bootstrap,
    Corrected,
    Coteaching,
    Guide,
    Memory,
    Teachers,
    Unlabelled,
    class_shares,
    reread,
)
from neocog.fit.inputs import prepare
from neocog.fit.job import Job, Wishes
from neocog.fit.loop import judge
from neocog.fit.opening import planned
from neocog.fit.parallel import World
from neocog.fit.recipes import Recipe, recipe
from neocog.fit.run import read_tensors, records
from neocog.fit.state import State
from neocog.nets import build
from neocog.records import Preprocess
from neocog.tasks import Label, Losses

HOW: dict[str, Any] = {"net": "lenet5", "epochs": 2, "device": "cpu", "precision": "float32", "progress": False,
                       "diagnosis": False}  # fmt: skip
DATA = "drawn:n=80,size=32"
PLAIN: dict[str, Any] = {"device": "cpu", "precision": "float32", "progress": False}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> fit.Run:
    return fit.train(DATA, out=tmp_path_factory.mktemp("teacher") / "run", seed=5, **HOW)


def of(rows: list[int], labels: list[int]) -> Batch:
    n = len(rows)
    return Batch((torch.zeros(n, 1),), {"label": torch.tensor(labels)}, torch.tensor(rows), torch.ones(n) > 0)


def losses() -> Losses:
    return Losses({"loss": torch.tensor(1.0)}, 2)


def test_the_memory_is_a_running_average_and_its_term_that_of_the_paper() -> None:
    memory, logits = Memory(5, 3, weight=2.0, keep=0.7, device=torch.device("cpu")), torch.tensor([[2.0, 0, 0]] * 2)
    p, found = logits.softmax(1)[0], losses()
    memory.add(found, logits, logits[:0], of([3, 1], [0, -100]))  # the second picture could not be read
    torch.testing.assert_close(memory.average[3], 0.3 * p)
    assert not memory.average[[0, 1, 2, 4]].any()
    torch.testing.assert_close(found.parts["early"], 2.0 * torch.log(1 - 0.3 * (p * p).sum()) / 2)
    memory.add(losses(), logits[:1], logits[:0], of([3], [0]))
    torch.testing.assert_close(memory.average[3], 0.7 * 0.3 * p + 0.3 * p)


def test_the_term_pulls_towards_what_was_said_before() -> None:
    memory = Memory(1, 2, weight=3.0, keep=0.9, device=torch.device("cpu"))
    memory.average[0] = torch.tensor([0.9, 0.1])
    logits = torch.zeros(1, 2, requires_grad=True)
    found = Losses({"loss": logits.sum() * 0}, 1)
    memory.add(found, logits, logits[:0], of([0], [1]))
    found.total.backward()
    assert logits.grad is not None and logits.grad[0, 0] < 0 < logits.grad[0, 1]  # the label says 1


def added(guide: Guide, task: Label, logits: torch.Tensor, batch: Batch) -> Losses:
    found = task.losses(logits, batch)
    guide.add(found, logits, logits[:0], batch)
    return found


LOGITS = torch.tensor([[2.0, 1.0, -1.0], [0.5, 0.0, 0.1], [0.0, 3.0, 0.0]])
LABELS = torch.tensor([1, 2, -100])  # the third picture could not be read
ABC = Label(("a", "b", "c"))


@pytest.mark.parametrize(("soft", "trust"), [(False, 0.8), (True, 0.95), (True, 0.5)])
def test_bootstrapped_targets_are_a_share_of_the_label_and_of_what_the_net_says(soft: bool, trust: float) -> None:
    p = LOGITS.softmax(1)
    own = p if soft else F.one_hot(p.argmax(1), 3)
    target = trust * F.one_hot(LABELS.clamp(min=0), 3) + (1 - trust) * own
    expected = -(target * p.log()).sum(1)[:2].sum() / 3
    guide = Bootstrap(0.0 if trust > 0.5 else trust, soft)  # 0: the paper's
    torch.testing.assert_close(added(guide, ABC, LOGITS, of([0, 1, 2], LABELS.tolist())).total, expected)


def test_a_corrected_loss_is_that_of_the_labels_that_the_classes_would_get() -> None:
    noise = torch.tensor([[0.7, 0.3, 0.0], [0.0, 1.0, 0.0], [0.2, 0.2, 0.6]])
    said = LOGITS.softmax(1) @ noise
    expected = -(said[0, 1].log() + said[1, 2].log()) / 3
    batch = of([0, 1, 2], LABELS.tolist())
    torch.testing.assert_close(added(Corrected(ABC, noise), ABC, LOGITS, batch).total, expected)
    torch.testing.assert_close(
        added(Corrected(ABC, torch.eye(3)), ABC, LOGITS, batch).total, ABC.losses(LOGITS, batch).total
    )
    # what is least for a class under its noise is to answer the class: a third of its labels say b, and that is right
    logits = torch.zeros(1000, 3, requires_grad=True)
    labels = [0] * 700 + [1] * 300  # all are pictures of a
    for _ in range(300):
        (step,) = torch.autograd.grad(added(Corrected(ABC, noise), ABC, logits, of([0] * 1000, labels)).total, logits)
        logits.data -= 5.0 * step.sum(0)
    assert logits.softmax(1)[0, 0] > 0.95


def test_each_of_two_nets_learns_what_the_other_finds_easy() -> None:
    job = planned(Wishes(net="lenet5", fields={"noisy": "coteach", "wrong": 0.5}), DATA, **PLAIN)
    prepare(job)
    guide, batch, task = job.guides[0], next(job.batches.stream(0)), job.task
    assert isinstance(guide, Coteaching)
    a, b = (torch.cat([p.flatten() for p in net.parameters()]) for net in (job.net, guide.net))
    assert not torch.equal(a, b)
    task.progress = 0.1  # half of the way to a share of one half
    with torch.no_grad():
        first, second = job.net.train()(batch.x), guide.net(batch.x)
    found = task.losses(first.requires_grad_(), batch)
    guide.add(found, first, first[:0], batch)
    mine, theirs = (F.cross_entropy(out, batch.targets["label"], reduction="none") for out in (first, second))
    few = round(0.75 * len(batch))
    torch.testing.assert_close(found.total, mine[theirs.argsort()[:few]].mean())
    expected = torch.autograd.grad(
        F.cross_entropy(guide.net(batch.x), batch.targets["label"], reduction="none")[mine.argsort()[:few]].mean(),
        list(guide.net.parameters()),
    )
    for p, g in zip(guide.net.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g * len(batch))
    guide.share(job.world)
    assert not torch.equal(b, torch.cat([p.flatten() for p in guide.net.parameters()]))


def test_teachers_take_their_share_from_what_noisy_makes_of_the_labels(teacher: fit.Run) -> None:
    job = planned(Wishes(net="lenet5", teachers=(teacher,), fields={"noisy": "bootstrap"}), DATA, **PLAIN)
    prepare(job)
    bootstrap, teachers = job.guides
    assert isinstance(teachers, Teachers)
    batch, logits = next(job.batches.stream(0)), torch.randn(16, 8)
    own = job.task.losses(logits, batch)
    bootstrap.add(own, logits, logits[:0], batch)
    soft = F.kl_div((logits / 2).log_softmax(1), teachers.say(batch.x), reduction="batchmean") * 4
    both = dataclasses.replace(own, parts=dict(own.parts))
    teachers.add(both, logits, logits[:0], batch)
    torch.testing.assert_close(both.total, 0.1 * own.total + 0.9 * soft)


def test_runs_of_the_time_when_noisy_had_one_way_are_read() -> None:
    assert Recipe("x", noisy=True).noisy == recipe("fast", noisy="true").noisy == "early"  # type: ignore[arg-type]
    assert Recipe("x", noisy=False).noisy == ""  # type: ignore[arg-type]


def test_a_judge_of_other_classes_is_refused(teacher: fit.Run) -> None:
    job = planned(Wishes(net="lenet5", fields={"noisy": "correct", "judge": str(teacher.folder)}), DATA, **PLAIN)
    job.task.classes = (*job.task.classes[:-1], "unheard of")
    with pytest.raises(UsageError, match=r"--set judge=.* knows circle"):
        prepare(job)


def test_other_processes_averages_are_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(3, 2, 1.0, 0.5, torch.device("cpu"))
    memory.add(losses(), torch.zeros(1, 2), torch.zeros(0, 2), of([0], [1]))
    others = iter([torch.tensor([2]), torch.tensor([[0.1, 0.9]])])
    monkeypatch.setattr(guides, "gathered", lambda own, world: torch.cat((own, next(others))))
    memory.share(World(0, 2))
    torch.testing.assert_close(memory.average, torch.tensor([[0.25, 0.25], [0, 0], [0.1, 0.9]]))


def test_noisy_stops_by_accuracy_because_the_loss_on_wrong_labels_rises() -> None:
    for noisy, stops in ((False, True), (True, False)):
        state = State(build("lenet5"), recipe("standard", early_stop=2, noisy=noisy), 32)
        found = [judge(state, figure, loss) for figure, loss in ((0.5, 1.0), (0.6, 1.1), (0.7, 1.2))]
        assert found[-1] is stops


def test_noisy_is_not_blamed_for_a_rising_loss() -> None:
    epochs = [
        {
            "epoch": n,
            "step": 100 * n,
            "train_loss": 1 / n,
            "val_loss": 0.5 * n,
            "val_accuracy": 0.5,
            "train_accuracy": 0.5,
        }
        for n in range(1, 6)
    ]
    names = [{f.name for f in read_curves(epochs, {"recipe": {"noisy": noisy}})} for noisy in (False, True)]
    assert names[0] - names[1] == {"over-confidence"}


def test_the_command_passes_on_what_is_beside_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}

    def train(data: str, **given: Any) -> None:
        told.update(given)
        raise UsageError("enough")

    monkeypatch.setattr(fit, "train", train)
    beside = ["--noisy", "coteach", "--teacher", "a", "--teacher", "b", "--unlabelled", "c"]
    of_net = ["--net-option", "width=8", "--net-option", "dropout=0.5", "--net-option", "duelling=true"]
    CliRunner().invoke(app, ["train", "x", *beside, *of_net])
    assert told["net_options"] == {"width": 8, "dropout": 0.5, "duelling": True}
    assert (told["noisy"], told["teachers"], told["unlabelled"]) == ("coteach", [Path("a"), Path("b")], "c")
    for alone in (["x", "--noisy"], ["--noisy", "--epochs", "2", "x"], ["x", "--noisy=early"]):
        CliRunner().invoke(app, ["train", *alone])
        assert told["noisy"] == "early"
    CliRunner().invoke(app, ["train", "x"])
    assert told["noisy"] is False
    assert (
        "'cotech' is not one of 'early', 'coteach'"
        in CliRunner().invoke(app, ["train", "x", "--noisy", "cotech"]).output
    )


def test_teachers_say_the_classes_in_the_order_of_the_pictures(teacher: fit.Run) -> None:
    job = planned(Wishes(net="lenet5", teachers=(teacher,)), DATA, **PLAIN)
    prepare(job)
    guide = job.guides[0]
    assert isinstance(guide, Teachers)
    x = next(job.batches.stream(0)).x
    pre = teacher.preprocess
    shown = reread(x, job.plan.preprocess, pre)
    with torch.no_grad():
        expected = (teacher.net()(shown) / 2.0).softmax(1)
    torch.testing.assert_close(guide.say(x), expected)
    job.task.classes = job.task.classes[::-1]
    torch.testing.assert_close(Teachers([teacher], job).say(x), expected.flip(1))


def test_pictures_are_read_again_as_another_net_reads_them() -> None:
    ours = Preprocess(8, 8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    plain = torch.rand(2, 3, 8, 8)
    x = (plain - torch.tensor(ours.mean)[None, :, None, None]) / torch.tensor(ours.std)[None, :, None, None]
    assert reread(x, ours, ours) is x
    theirs = dataclasses.replace(ours, mean=(0.0,) * 3, std=(1.0,) * 3)
    torch.testing.assert_close(reread(x, ours, theirs), plain)
    grey = Preprocess(4, 4, channels=1, mean=(0.0,), std=(1.0,))
    assert reread(x, ours, grey).shape == (2, 1, 4, 4)


def test_a_teacher_of_other_classes_is_refused(teacher: fit.Run) -> None:
    with pytest.raises(UsageError, match=r"knows circle.*, and the pictures have 0, 1, 2, 3, 4, 5, 6, 7 \.\.\.: train"):
        fit.train("digits", teachers=[teacher], **HOW)


@pytest.mark.parametrize(
    ("data", "asked", "said"),
    [
        (DATA, {"task": "segment", "noisy": True}, "--noisy is for the task label"),
        (DATA, {"net": "descriptors", "teachers": ["x"]}, "--teacher needs gradient steps"),
        (DATA, {"net": "descriptors", "noisy": "coteach"}, "--noisy coteach needs gradient steps"),
        (
            DATA,
            {"noisy": "cotech"},
            r"unknown way --noisy cotech \(did you mean 'coteach'\?\); expected one of early, ",
        ),
        (DATA, {"noisy": "coteach", "set": {"wrong": 1.5}}, "--set wrong= is a share from 0 to below 1, got 1.5"),
        ("drawn:n=80,kind=text", {"net": None, "noisy": "correct"}, "texts are judged by a trained run, not by auto"),
        (DATA, {"unlabelled": DATA, "regime": "features", "start": "x"}, "--unlabelled needs gradient steps"),
        (DATA, {"unlabelled": "drawn:n=8,kind=text"}, "holds texts, and pictures are needed"),
    ],
)
def test_what_cannot_be_learned_beside_labels_is_refused(data: str, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fit.train(data, **{**HOW, "epochs": None, **asked})


@pytest.fixture
def beside() -> tuple[Job, Unlabelled]:
    """A job with pictures without labels."""
    job = planned(Wishes(net="lenet5", unlabelled="drawn:n=40,size=32,seed=2"), DATA, **PLAIN)
    prepare(job)
    (guide,) = job.guides
    assert isinstance(guide, Unlabelled)
    guide.begin(0)
    job.net.train()
    return job, guide


def test_what_a_net_says_of_a_picture_is_learned_for_the_same_picture_changed(beside: tuple[Job, Unlabelled]) -> None:
    job, guide = beside
    batch, (weak, strong) = next(job.batches.stream(0)), [next(feed.stream(0)) for feed in guide.feeds]
    assert torch.equal(weak.rows, strong.rows) and not torch.equal(weak.x, strong.x)
    assert torch.equal(guide.beside(job.net, batch), strong.x)
    assert job.net.training and job.plan.recipe.label_smoothing == 0.0
    with torch.no_grad():
        assert torch.equal(guide.labels, job.net.eval()(weak.x).argmax(1))  # no class has been said too often yet
    outputs, found = torch.randn(len(strong), 8), losses()
    for progress, weight in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.9, 1.0)):
        job.task.progress = progress
        guide.add(found, outputs[:16], outputs, batch)
        torch.testing.assert_close(found.parts["unlabelled"], weight * F.cross_entropy(outputs, guide.labels))
    guide.valid[3:] = False  # pictures that could not be read
    guide.add(found, outputs[:16], outputs, batch)
    few = F.cross_entropy(outputs[:3], guide.labels[:3], reduction="sum") / len(outputs)
    torch.testing.assert_close(found.parts["unlabelled"], few)


def test_a_class_that_was_said_too_often_is_said_less(beside: tuple[Job, Unlabelled]) -> None:
    job, guide = beside
    p = torch.tensor([0.4, 0.3, 0.1, 0.05, 0.05, 0.04, 0.03, 0.03])

    class Always(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return p.log().expand(len(x), 8)

    batch, first = next(job.batches.stream(0)), guide.said.clone()
    guide.beside(Always(), batch)
    assert (guide.labels == 0).all()
    for _ in range(20):
        guide.share(job.world)
    torch.testing.assert_close(guide.said, p + 0.99**20 * (first - p))
    guide.beside(Always(), batch)
    assert (guide.labels == 0).all()
    guide.said[0] = 2 * guide.said[1]  # of late twice as often, and now four times in three
    guide.beside(Always(), batch)
    assert (guide.labels == 1).all()


@pytest.mark.parametrize(
    ("counts", "shares"),
    [
        ([5, 5], [0.5, 0.5]),
        ([6, 4], [0.5, 0.5]),  # chance
        ([1, 0, 0], [1.0, 0.0, 0.0]),
        ([6000, 4000], [0.6, 0.4]),
        ([50, 0], [1.0, 0.0]),
        ([40, 20], [0.6441, 0.3559]),  # the share of chance: (1 - 5/9) / (59 * 1/18)
    ],
)
def test_shares_of_classes_are_equal_where_only_chance_speaks_against_it(
    counts: list[int], shares: list[float]
) -> None:
    np.testing.assert_allclose(class_shares(np.array(counts)), shares, atol=1e-3)


@pytest.mark.parametrize(
    ("way", "part"),
    [("early", "early"), ("coteach", "noisy"), ("correct", "noisy"), ("teachers", "teachers"),
     ("unlabelled", "unlabelled")],
)  # fmt: skip
def test_stopped_and_resumed_it_ends_in_the_same_bits(tmp_path: Path, teacher: fit.Run, way: str, part: str) -> None:
    beside = {"teachers": [teacher], "unlabelled": "drawn:n=40,size=32,seed=2"}
    asked = {way: beside[way]} if way in beside else {"noisy": way}
    how = {**HOW, **asked, "set": {"wrong": 0.3, "judge": str(teacher.folder)}}
    whole = fit.train(DATA, out=tmp_path / "whole", **how)
    save = State.save

    def then_stop(state: State, where: Path) -> None:
        save(state, where)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(State, "save", then_stop)
        fit.train(DATA, out=tmp_path / "stopped", **how)
    kept = read_tensors(tmp_path / "stopped" / "checkpoint.safetensors")[0]
    for name, by in (
        ("average", "early"),
        ("noise", "correct"),
        ("second/conv1.weight", "coteach"),
        ("said", "unlabelled"),
    ):
        assert (f"beside/{name}" in kept) == (way == by)
    again = fit.resume(tmp_path / "stopped", progress=False)
    a, b = (read_tensors(run.folder / "checkpoint.safetensors")[0] for run in (whole, again))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert all(record[f"train_{part}"] != 0 for record in records(again.folder, "epoch"))


def test_another_teacher_than_at_the_beginning_is_refused(teacher: fit.Run) -> None:
    job = planned(Wishes(net="lenet5", teachers=(teacher,)), DATA, **PLAIN)
    job.plan = dataclasses.replace(job.plan, teachers=[{**job.plan.teachers[0], "fingerprint": "x"}])
    with pytest.raises(RunError, match="has other weights than when the training began"):
        prepare(job)


def test_a_last_layer_that_is_fitted_at_once_leaves_doubted_labels_out(
    tmp_path: Path, teacher: fit.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    random, true = np.random.default_rng(0), np.arange(100) % 2  # bright or dark, every fifth label wrong
    pictures = (random.integers(0, 100, (100, 32, 32, 3)) + 100 * true[:, None, None, None]).astype(np.uint8)
    how = {**HOW, "net": None, "epochs": None, "start": teacher, "regime": "features", "noisy": True}
    run = fit.train((pictures, np.where(np.arange(100) % 5, true, 1 - true).tolist()), out=tmp_path / "run", **how)
    (head,) = records(run.folder, "head")
    wrong = (np.flatnonzero(read_tensors(run.folder / "split.safetensors")[0]["codes"] == 0) % 5 == 0).sum()
    assert wrong - 2 <= head["doubted"] <= wrong + 2

    monkeypatch.setattr(learn_head, "doubted", lambda p, labels: (np.arange(len(p)), labels))  # as of useless features
    run = fit.train((pictures, true.tolist()), out=tmp_path / "all", **how)
    assert records(run.folder, "head")[0]["doubted"] == 0
