"""What every registered task must do, on drawn pictures. A new task is tested by being registered."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from neocog import fit, tasks
from neocog.data import open_source
from neocog.data.augment import Augment
from neocog.data.batches import Batch, Batches, Known, in_order, normalised
from neocog.data.pictures import Held, Streamed
from neocog.data.source import Selected, Source
from neocog.errors import DataError, DecodeError, UsageError
from neocog.fit.evaluating import averaged, floated
from neocog.fit.optim import Muon  # noqa: F401  # loads fit's optimizers, as a training does
from neocog.fit.run import records
from neocog.records import Preprocess
from neocog.tasks.task import Meter, Task, build_net, find, load, saved

CPU = torch.device("cpu")
SIDE = 32
NET = {"name": "cifar_resnet20", "classes": 10, "in_channels": 3, "input_size": SIDE}
QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "precision": "float32", "diagnosis": False}
# of pictures; those of texts and of games alone: tests/tasks/test_match_texts.py, test_play.py
NAMES = tuple(name for name in tasks.names() if "picture" in (tasks.find(name).inputs or ("picture",)))


def drawn(n: int = 24, seed: int = 0) -> Source:
    return open_source(f"drawn:n={n},size={SIDE},seed={seed}")


def planned(name: str, source: Source, **options: Any) -> Task:
    kind = find(name)
    settings = {**fit.recipes.recipe(kind.recipe or "standard").as_dict(), **kind.options, **options}
    return kind.plan(source, np.arange(len(source)), settings)


def known(task: Task, source: Source) -> Known:
    rows = np.arange(len(source))
    return Known({role: source.columns[role].select(rows) for role in task.needs}, task.collate, task.geometry)


def first_batch(task: Task, source: Source, count: int, how: Augment | None = None) -> Batch:
    pre = Preprocess(SIDE, SIDE, fit=task.fit)
    held = Held(source, np.arange(len(source)), pre, CPU)
    task.begin(pre, lambda most: normalised(held.pixels[:most].permute(0, 3, 1, 2) / 255.0, pre))
    facts = known(task, source)
    order = lambda g: task.order(facts.columns, len(source), count, g)  # noqa: E731
    feed = Batches(held, facts, how or Augment(), count, seed=0, device=CPU, order=order)
    return next(feed.stream(0))


def net_of(task: Task) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_net(task, {**NET, "classes": task.outputs or NET["classes"]})


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_says_what_it_is(name: str) -> None:
    task = find(name)
    assert task.name == name and task.about and task.goal[1] in ("max", "min")
    assert task.needs or task.remakes, "a task that needs no column learns from the pictures themselves"
    with pytest.raises(UsageError, match="already registered"):
        tasks.register(task)


def test_json_gives_the_task_back(name: str) -> None:
    task = planned(name, drawn())
    text = json.dumps(saved(task))
    assert saved(load(json.loads(text))) == json.loads(text)


def test_learns_eight_pictures_by_heart(name: str) -> None:
    source = drawn(16)  # two of each class, for tasks that compare pictures
    task = planned(name, source)
    if task.adversarial:
        pytest.skip(f"the parts of a net of {name} work against each other, so its loss need not fall")
    batch = first_batch(task, source, 8)
    net = net_of(task).train()
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(60):
        torch.manual_seed(step)
        found = task.losses(floated(task.run(net, batch)), batch)
        losses.append(found.total.item())
        if step > 5 and losses[-1] < 0.65 * losses[0]:
            break
        optimizer.zero_grad()
        found.total.backward()
        optimizer.step()
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.7 * losses[0], losses


def test_unreadable_pictures_count_for_nothing(name: str) -> None:
    task, source = planned(name, drawn(24)), drawn(24)
    batch = first_batch(task, source, 12)
    values = known(task, source).values(batch.rows)
    bad = torch.zeros(12, dtype=torch.bool)
    bad[[3, 7]] = True
    spoiled = dataclasses.replace(batch, targets=task.collate(values, batch.warp, ~bad), valid=~bad)
    net = net_of(task).eval()
    with torch.no_grad():
        outputs = floated(task.run(net, batch))
        seen = task.observe(outputs, spoiled)
    other = [torch.as_tensor(v) for k, v in seen.items() if k == "rows"]
    assert other, "observe must say which rows it saw"
    net.train()
    found = task.losses(floated(task.run(net, spoiled)), spoiled)
    assert torch.isfinite(found.total)


class Broken(Selected):
    """A source of which some pictures cannot be read."""

    def read(self, i: int) -> Any:
        if i % 5 == 2:
            raise DataError("gone")
        return super().read(i)


def test_evaluation_leaves_unreadable_pictures_out(name: str) -> None:
    task = planned(name, drawn(20))
    source = Broken(drawn(20), np.arange(20))
    net, meter, pre = net_of(task).eval(), Meter(task), Preprocess(SIDE, SIDE, fit=task.fit)
    with torch.no_grad():
        for batch in in_order(Streamed(source, np.arange(20), pre), 6, CPU, known=known(task, source)):
            meter.add(floated(task.run(net, batch)), batch)
    seen = meter.seen()
    figures = task.figures(seen)
    assert figures["n"] == 16 and task.goal[0] in figures and "loss" in figures
    assert sorted(seen["rows"].tolist()) == [i for i in range(20) if i % 5 != 2]
    assert isinstance(task.headline(figures), str)
    json.dumps({k: v for k, v in figures.items()}, default=float)
    assert set(task.worst(seen)) <= set(seen["rows"].tolist())
    for section in task.sections(seen, figures):
        assert section.title and section.body


def test_no_picture_at_all_has_figures_that_are_not_numbers(name: str) -> None:
    task = planned(name, drawn())
    figures = task.figures(Meter(task).seen())
    assert figures["n"] == 0 and np.isnan(figures[task.goal[0]])


def test_mirror_views_of_the_outputs_are_undone(name: str) -> None:
    task, source = planned(name, drawn(24)), drawn(24)
    if not task.views_back:
        pytest.skip(f"{name} does not average views")
    batch = first_batch(task, source, 6)
    net = net_of(task).eval()
    with torch.no_grad():
        outputs = floated(task.run(net, batch))
    twice = task.unmirrored(task.unmirrored(outputs))
    for again, once in zip(tree_leaves(twice), tree_leaves(outputs), strict=True):
        assert torch.allclose(torch.as_tensor(again), torch.as_tensor(once), atol=1e-5)


def test_quarter_turns_of_the_outputs_are_undone(name: str) -> None:
    task, source = planned(name, drawn(24)), drawn(24)
    if not task.turns_back:
        pytest.skip(f"{name} does not look at turned pictures")

    def told(net: object, batch: Batch) -> torch.Tensor:  # outputs that are the pictures themselves
        return batch.x

    task.run = told  # type: ignore[method-assign, assignment]
    batch = first_batch(task, source, 3)
    outputs, _ = averaged(torch.nn.Identity(), task, batch, "turn", True, features=False)
    assert torch.allclose(outputs, batch.x, atol=1e-6)


def test_answers_are_in_the_files_own_pixels(name: str) -> None:
    task = planned(name, drawn(24))
    source = open_source("drawn:n=4,size=48")
    batch = next(iter(in_order(Streamed(source, np.arange(4), Preprocess(SIDE, SIDE, fit=task.fit)), 4, CPU,
                               known=known(task, source))))  # fmt: skip
    if batch.warp is None:
        pytest.skip(f"answers of {name} have no places")
    with torch.no_grad():
        answers = task.answers(floated(task.run(net_of(task).eval(), batch)), batch, [str(i) for i in range(4)])
    for i, answer in enumerate(answers):
        drawing = answer.draw(source.read(i), source.columns[next(iter(task.needs))][i])
        assert drawing.dtype == np.uint8 and drawing.shape[0] >= 48 and drawing.ndim == 3
        json.dumps(answer.to_json())
        assert all(isinstance(v, (str, int, float, bool, type(None))) for v in answer.row().values())


def test_trains_saves_loads_resumes_and_predicts(name: str, tmp_path: Path, first_checkpoint: Path) -> None:
    how: dict[str, Any] = {**QUIET, "task": name, "net": "cifar_resnet20", "size": SIDE, "seed": 3}
    how["set"] = {"min_steps": 1, "batch_size": 8}
    whole = fit.train(f"drawn:n=32,size={SIDE}", epochs=2, out=tmp_path / "whole", save_every=0.0, **how)
    part = first_checkpoint
    assert not (part / "weights.safetensors").exists()
    again = fit.resume(part, progress=False)
    assert len(records(part, "epoch")) == 2
    a, b = whole.net().state_dict(), again.net().state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    goal = whole.task.goal[0]
    assert whole.metrics[f"test_{goal}"] == pytest.approx(again.metrics[f"test_{goal}"], nan_ok=True)
    assert whole.report.is_file() and whole.summary()
    loaded = fit.Run(whole.folder)
    assert saved(loaded.task) == saved(whole.task)
    source = drawn(2, seed=9)
    good, bad = loaded.predict([source.read(0), b"no picture"])
    assert good.problem is None and bad.problem
    good.row(), good.to_json()


def test_data_without_what_it_needs_are_refused_with_advice(name: str) -> None:
    if not find(name).needs:
        pytest.skip(f"{name} needs nothing but pictures")

    class Nothing(Selected):
        @property
        def columns(self) -> Any:  # type: ignore[override]
            return {}

        @columns.setter
        def columns(self, value: Any) -> None:
            pass

    with pytest.raises((DataError, DecodeError), match=name):
        fit.train(Nothing(drawn(), np.arange(8)), task=name, **QUIET)
