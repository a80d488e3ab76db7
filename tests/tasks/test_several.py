"""Several tasks on one trunk: their losses, what a picture without an annotation does, figures, answers, training."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from neocog import fit, tasks
from neocog.data import open_source
from neocog.data.augment import Augment
from neocog.data.batches import Batch, Batches, Known
from neocog.data.kinds import Category, Masks, Points
from neocog.data.pictures import Held
from neocog.data.source import Arrays, Source
from neocog.errors import DataError, UsageError
from neocog.fit.transfer import same_answers
from neocog.records import Preprocess
from neocog.tasks.combined import Together
from neocog.tasks.several import Several
from neocog.tasks.task import Meter, Task, build_net, load, saved

CPU = torch.device("cpu")
NET = {"name": "lenet5", "classes": 10, "in_channels": 3, "input_size": 32}
NAME = "label+segment+pose"
QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "diagnosis": False, "net": "cifar_resnet20", "size": 32}


def partly(n: int = 12) -> Source:
    """Drawn pictures of which some have no label, some no points, some no mask; all have something."""
    drawn = open_source(f"drawn:n={n},size=32")
    label = np.where(np.arange(n) % 3 == 0, -1, drawn.labels)
    points = drawn.columns["points"].values.copy()
    points[np.arange(n) % 4 == 1] = 0
    masks: Any = drawn.columns["mask"]
    return Arrays(
        [drawn.read(i) for i in range(n)],  # type: ignore[misc]
        columns={
            "label": Category(label, drawn.classes),
            "points": Points(points, drawn.columns["points"].names),  # type: ignore[attr-defined]
            "mask": Masks(lambda i: masks[i], n, masks.names, present=np.arange(n) % 5 != 2),
        },
    )


def planned(source: Source, name: str = NAME, **options: Any) -> Several:
    kind = tasks.find(name)
    made = kind.plan(source, np.arange(len(source)), {"label_smoothing": 0.0, **kind.options, **options})
    assert isinstance(made, Several)
    return made


def batch_of(task: Task, source: Source, count: int) -> Batch:
    known = Known({role: source.columns[role] for role in task.needs}, task.collate, task.geometry)
    held = Held(source, np.arange(len(source)), Preprocess(32, 32, fit=task.fit), CPU)
    order = lambda g: torch.arange(len(source))  # noqa: E731
    return next(Batches(held, known, Augment(), count, seed=0, device=CPU, order=order).stream(0))


def net_of(task: Task) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_net(task, NET).eval()


def test_a_name_with_a_plus_is_a_task() -> None:
    kind: Any = tasks.find(NAME)
    assert tasks.find(NAME) is kind and kind.name == NAME and NAME not in tasks.names()
    assert kind.needs == {"label": "category", "mask": "mask", "points": "points"}
    assert kind.goal == ("label_accuracy", "max") and tasks.find("pose+label").goal == ("pose_nme", "min")
    assert kind.fit == "pad" and kind.geometry and not kind.mixes and kind.recipe == "dense"
    assert {"weights", "learned", "pose.method", "segment.dice"} <= set(kind.options)


@pytest.mark.parametrize(
    ("name", "match"),
    [("label+", "different tasks"), ("label+label", "different tasks"), ("label+pos", "unknown task 'pos'.*'pose'")],
)
def test_names_that_make_no_sense_are_refused(name: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        tasks.find(name)


@pytest.mark.parametrize("weights", ["1,2", "1,x,2", "1,0,1"])
def test_weights_must_be_one_for_each_part(weights: str) -> None:
    with pytest.raises(UsageError, match=r"label, segment, pose, as in weights=1,0.5,0.5"):
        planned(partly(), weights=weights)


def test_json_gives_the_task_back() -> None:
    task = planned(partly(), weights="1,0.5,2", **{"pose.method": "regression"})
    text = json.dumps(saved(task))
    again: Any = load(json.loads(text))
    assert saved(again) == json.loads(text) and again.parts["pose"].method == "regression"


def test_the_loss_is_the_weighted_sum_of_the_parts_over_the_pictures_that_they_know() -> None:
    source = partly()
    task = planned(source, weights="1,0.5,2")
    batch, net = batch_of(task, source, 12), net_of(task)
    outputs = task.run(net, batch)
    found = task.losses(outputs, batch)
    for weight, (name, part) in zip((1, 0.5, 2), task.parts.items(), strict=True):
        rows = np.flatnonzero(type(part).known(source))
        assert 0 < len(rows) < 12
        alone = batch_of(part, source.select(rows), len(rows))
        wanted: Any = net(alone.x)[name]
        expected = weight * part.losses(wanted, alone).total * len(rows) / 12
        torch.testing.assert_close(found.parts[name], expected)
    assert found.count == 12


def test_a_batch_in_which_nobody_knows_a_part_adds_nothing_and_keeps_the_names() -> None:
    source = partly()
    task = planned(source)
    whole, net = batch_of(task, source, 12), net_of(task).train()
    first = task.losses(task.run(net, whole), whole)
    part = whole.part(slice(1, 2))  # no points
    found = task.losses(task.run(net, part), part)
    assert found.parts.keys() == first.parts.keys() and found.figures.keys() == first.figures.keys()
    assert found.parts["pose"] == 0 and found.parts["label"] > 0
    found.total.backward()
    nobody = Known({role: source.columns[role].select(np.array([1])) for role in task.needs}, task.collate, True)
    values = nobody.values(torch.tensor([0]))
    assert "pose.points" not in task.collate(values, whole.warp[slice(1, 2)], torch.tensor([True]))  # type: ignore[index]


def test_figures_leave_out_pictures_that_are_not_known_for_a_part() -> None:
    source = partly()
    task = planned(source, weights="1,0.5,2")
    net, meter = net_of(task), Meter(task)
    batch = batch_of(task, source, 12)
    with torch.no_grad():
        for first in (6, 0):  # in any order
            some = batch.part(slice(first, first + 6))
            meter.add(task.run(net, some), some)
    seen = meter.seen()
    figures = task.figures(seen)
    counts = {name: int(type(part).known(source).sum()) for name, part in task.parts.items()}
    assert {name: figures[f"{name}_n"] for name in counts} == counts and figures["n"] == 12
    assert figures["loss"] == pytest.approx(
        figures["label_loss"] + 0.5 * figures["segment_loss"] + 2 * figures["pose_loss"]
    )
    rows = task._seen(task.parts["pose"], seen)["rows"]
    assert rows.tolist() == [i for i in range(12) if i % 4 != 1]
    assert "label: " in task.headline(figures) and "pose: " in task.headline(figures)
    assert {"pose: Points", "segment: Classes"} <= {s.title for s in task.sections(seen, figures)}
    assert math.isnan(task.figures({})["label_accuracy"])


def test_learned_weights_are_those_of_kendall() -> None:
    source = partly()
    task = planned(source, "label+pose", weights="1,0.25", learned=True)
    batch, net = batch_of(task, source, 12), net_of(task)
    outputs = task.run(net, batch)
    s = outputs["log_variances"]
    torch.testing.assert_close(torch.exp(-s), torch.tensor([1.0, 0.25]))
    plain = planned(source, "label+pose").losses({k: v for k, v in outputs.items() if k != "log_variances"}, batch)
    found = task.losses(outputs, batch)
    share = {name: type(part).known(source).sum() / 12 for name, part in task.parts.items()}
    for k, (name, weight) in enumerate((("label", 1.0), ("pose", 0.25))):
        torch.testing.assert_close(found.parts[name], weight * plain.parts[name] + s[k] / 2 * share[name])
        assert found.figures[f"{name}_weight"].item() == pytest.approx(12 * weight)
    found.total.backward()
    gradient: Any = net.answer.log_variances.grad  # type: ignore[union-attr]
    expected = [share[n] / 2 - w * plain.parts[n].item() for n, w in (("label", 1.0), ("pose", 0.25))]
    assert gradient.tolist() == pytest.approx(expected, rel=1e-4)


def test_views_are_turned_back_by_part() -> None:
    source = partly()
    task = planned(source)
    outputs = task.run(net_of(task), batch_of(task, source, 12))
    turned = task.unmirrored(outputs)
    assert torch.equal(turned["label"], outputs["label"])
    assert torch.equal(turned["segment"], outputs["segment"].flip(-1))
    assert torch.equal(task.unmirrored(turned)["pose"], outputs["pose"])
    assert not torch.equal(turned["pose"], outputs["pose"])


def test_a_head_is_kept_only_if_all_parts_answer_the_same() -> None:
    task, other = planned(partly()), planned(partly(), **{"pose.method": "regression"})
    assert same_answers(saved(task), task) and not same_answers(saved(other), task)


def test_nothing_to_learn_for_a_part_is_refused() -> None:
    source = partly()
    rows = np.flatnonzero(~tasks.find("pose").known(source))
    with pytest.raises(DataError, match=r"no training picture.* has points for the task pose; remove pose from"):
        tasks.find(NAME).plan(source, rows, {})


def test_two_heads_train_on_drawn_pictures(tmp_path: Any) -> None:
    run = fit.train(
        "drawn:n=60,size=32", task="label+pose", epochs=1, out=tmp_path / "run", **QUIET,
        task_options={"weights": "1,0.5", "learned": "true", "pose.width": "16"}, set={"min_steps": 1},
    )  # fmt: skip
    assert {"test_label_accuracy", "test_pose_nme", "test_label_macro_f1", "test_loss"} <= set(run.metrics)
    loaded = fit.Run(run.folder)
    good, bad = loaded.predict([open_source("drawn:n=1,size=40").read(0), b"no picture"])
    assert isinstance(good, Together) and bad.problem and len(bad.parts) == 2
    assert good["label"].label in loaded.task.parts["label"].classes  # type: ignore[attr-defined]
    assert {"label_label", "label_probability", "pose_centre_x"} <= set(good.row())
    assert json.dumps(good.to_json()) and set(good.to_json()) == {"label", "pose"}
    assert any(word == good["label"].label for word, _ in good.tags())
    drawing = good.draw(np.zeros((40, 40, 3), np.uint8), {"pose": np.full((5, 3), 2.0)})
    assert drawing.shape[0] >= 320 and drawing.ndim == 3
    report = run.report.read_text()
    assert "pose: Points" in report and "test label: accuracy" in "\n".join(run.summary())
    assert (run.folder / "examples" / "0.jpg").is_file()
    kept = fit.evaluate([run], "drawn:n=20,size=32,seed=4")
    assert kept["n"] == 20 and "pose_nme" in kept["runs"][0]
