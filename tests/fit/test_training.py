"""The main job on small real data: pictures in, a run folder out, predictions from it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import neocog
from neocog import fit
from neocog.data import open_source
from neocog.data.batches import Batch
from neocog.errors import DataError, RunError, UsageError
from neocog.fit import loop
from neocog.fit.choices import choose_net, choose_size, growing, make_recipe
from neocog.fit.ensembles import added, ensemble_page, greedy
from neocog.fit.evaluating import views
from neocog.fit.loop import judge
from neocog.fit.plan import Plan
from neocog.fit.recipes import recipe
from neocog.fit.run import read_json, read_tensors, records
from neocog.fit.schedules import Clock
from neocog.fit.state import State
from neocog.nets import build
from neocog.tasks import find

QUIET = {"progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of two classes, three times as many circles as squares, with bad files thrown in."""
    root = tmp_path_factory.mktemp("pictures")
    source = open_source("drawn:n=600,size=40,seed=5")
    counts = {"circle": 60, "square": 20}
    for i in range(len(source)):
        name = source.classes[source.labels[i]]
        if counts.get(name, 0) > 0:
            counts[name] -= 1
            (root / name).mkdir(exist_ok=True)
            Image.fromarray(source.read(i)).save(root / name / f"{i}.png")
    (root / "circle" / "empty.jpg").write_bytes(b"")
    (root / "circle" / "text.jpg").write_text("this is no picture")
    (root / "square" / "short.png").write_bytes(next((root / "square").glob("*.png")).read_bytes()[:100])
    return root


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> fit.Run:
    out = tmp_path_factory.mktemp("runs") / "shapes"
    return fit.train(folder, net="lenet5", recipe="standard", epochs=3, seed=1, out=out, **QUIET)


def test_bad_files_are_listed_and_never_stop_a_run(run: fit.Run) -> None:
    problems = {Path(p["key"]).name for p in read_json(run.folder / "problems.json", list)}
    assert problems == {"empty.jpg", "text.jpg", "short.png"}
    start = records(run.folder, "start")[0]
    assert start["train"] + start["val"] + run.metrics["test_n"] == 80


def test_the_run_folder_holds_what_it_promises(run: fit.Run, folder: Path) -> None:
    for name in ("run.json", "net.json", "weights.safetensors", "log.jsonl", "report.html", "test.safetensors"):
        assert (run.folder / name).stat().st_size > 0
    settings = read_json(run.folder / "run.json")
    assert Plan.from_dict(settings["settings"]).data == str(folder.resolve())
    assert settings["data"]["fingerprint"] and settings["versions"]["torch"] == torch.__version__
    assert run.classes == ("circle", "square")
    kinds = [r["kind"] for r in records(run.folder)]
    assert kinds[0] == "start" and kinds[-1] == "end" and kinds.count("epoch") == 3 and "diagnosis" in kinds
    names = {r["name"] for r in records(run.folder, "diagnosis")}
    assert {"initial loss", "overfit one batch", "update ratio", "dead units"} <= names
    text = run.report.read_text()
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text
    assert not list(run.folder.glob(".*part"))


def test_imbalance_is_told_and_weighed(run: fit.Run) -> None:
    notes = " ".join(records(run.folder, "start")[0]["notes"])
    assert "unbalanced" in notes and "--set balance=none" in notes


def test_splits_of_few_pictures_are_told(run: fit.Run) -> None:
    n = records(run.folder, "start")[0]["val"]
    (told,) = [t for t in records(run.folder, "start")[0]["notes"] if t.startswith("the val split has only")]
    assert f"only {n} pictures" in told and f"as low as {100 * lowest_share(n):.0f} %" in told


def lowest_share(n: int) -> float:
    """The p < 1 at which n of n is just 1.96 standard deviations off: n (1 - p) = 1.96^2 p."""
    low, high = 0.0, 1.0
    for _ in range(60):
        p = (low + high) / 2
        low, high = (p, high) if (1 - p) > 1.96 * (p * (1 - p) / n) ** 0.5 else (low, p)
    return low


def test_predictions(run: fit.Run, folder: Path) -> None:
    files = sorted((folder / "square").glob("*.png"))[:3]
    answers = list(fit.predict(run, [*files, folder / "circle" / "text.jpg", folder / "gone.jpg"], top=2))
    assert [a.key for a in answers[:3]] == [str(f) for f in files]
    for a in answers[:3]:
        if a.problem is None:
            assert a.label == a.top[0][0] and a.probability == a.top[0][1] and len(a.top) == 2
            assert sum(p for _, p in a.top) == pytest.approx(1.0, abs=1e-5)
    assert answers[3].problem and not answers[3].label
    assert "No such file" in (answers[4].problem or "")
    one = run.predict(files[0].read_bytes())
    assert len(one) == 1 and one[0].top[0][1] == pytest.approx(answers[0].probability, abs=1e-5)
    assert len(run.predict(folder)) == 83
    with pytest.raises(UsageError, match="--top needs at least 1"):
        list(fit.predict(run, files, top=0))


def test_a_net_is_the_same_after_loading(run: fit.Run) -> None:
    again = neocog.load(run.folder)
    pairs = zip(run.net().state_dict().values(), again.net().state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(RunError, match=r"has no run\.json"):
        neocog.load(run.folder / "nothing")


def test_ensembles_average_probabilities(
    run: fit.Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = fit.train(folder, net="lenet5", recipe="standard", epochs=1, seed=2, out=tmp_path / "b", **QUIET)
    both = fit.evaluate([run, other], folder, device="cpu")
    assert both["n"] == 80 and len(both["runs"]) == 2
    single = fit.evaluate([run], folder, device="cpu")
    assert single["ensemble"] is None and single["runs"][0]["accuracy"] == both["runs"][0]["accuracy"]
    learned = int((read_tensors(run.folder / "split.safetensors")[0]["codes"] == 0).sum())
    (note,) = single["notes"]
    assert f"was trained on {learned} of these 83 pictures" in note and str(run.report) in note and both["notes"][1:]
    same = fit.evaluate([run, run], folder, device="cpu")
    assert same["notes"] == [note]
    with monkeypatch.context() as changed:
        changed.setitem(run.settings["data"], "fingerprint", "of before")
        assert "which has changed since" in fit.evaluate([run], folder, device="cpu")["notes"][0]
    assert same["ensemble"]["accuracy"] == single["runs"][0]["accuracy"]
    assert same["ensemble"]["loss"] == pytest.approx(single["runs"][0]["loss"], rel=1e-4)
    halves = open_source(folder)
    halves.splits[:] = np.arange(len(halves)) % 2 + 1  # validation, test: the order is by one, the figures by the other
    found = fit.evaluate([run, other], halves, device="cpu")
    ensemble, alone = found["ensemble"], {one["run"]: one["accuracy"] for one in found["runs"]}
    n = int(re.fullmatch(r"accuracy on (\d+) pictures of the split val", ensemble["order"])[1])  # type: ignore[index]
    assert found["split"] == "test" and found["n"] + n == 80 and {one["n"] for one in found["runs"]} == {found["n"]}
    first, last = ensemble["one_by_one"]
    assert first["accuracy"] == alone[first["run"]] and last["accuracy"] == ensemble["accuracy"]
    assert {row["run"]: row["accuracy"] for row in ensemble["without"]} == dict(
        zip(alone, [*alone.values()][::-1], strict=True)
    )
    assert "standard error" in ensemble_page(found) and not found["notes"]
    with pytest.raises(DataError, match="do not know the class"):
        fit.evaluate([run], "digits", device="cpu")


def test_what_each_run_adds_to_the_mean() -> None:
    truth = np.array([0, 0, 1, 1, 1])
    sure, unsure, wrong = [0.9, 0.1], [0.6, 0.4], [0.2, 0.8]
    good = [sure, sure, wrong, wrong, sure]  # wrong in the last alone
    helps = [unsure, unsure, unsure, wrong, [0.05, 0.95]]
    poor = [wrong, wrong, sure, sure, sure]
    chances = np.array([poor, helps, good])
    order = greedy(chances, truth)
    assert order == [1, 2, 0]  # of equal accuracies the lower loss first; then what makes the mean best
    found = added(chances, truth, ["poor", "helps", "good"], order)
    steps = found["one_by_one"]
    assert [row["run"] for row in steps] == ["helps", "good", "poor"]
    assert [row["accuracy"] for row in steps] == [0.8, 1.0, 0.6]
    assert steps[0]["adds"] is None and steps[1]["adds"] == pytest.approx(0.2)
    assert steps[1]["error"] == pytest.approx(np.array([0, 0, 1, 0, 0]).std(ddof=1) / 5**0.5)
    assert {row["run"]: row["accuracy"] for row in found["without"]}["poor"] == 1.0
    assert found["without"][2]["adds"] == pytest.approx(-0.4)


def test_a_net_whose_last_layer_is_a_convolution_can_be_trained(tmp_path: Path) -> None:
    how = {"epochs": 1, "size": 20, "diagnosis": False, "set": {"min_steps": 1}}
    run = fit.train("drawn:n=400,size=24,seed=2", net="squeezenet1_1", out=tmp_path / "r", **how, **QUIET)
    assert run.metrics["test_n"] > 0 and read_json(run.folder / "net.json")["unknown"]["n"]["known"] > 0
    answers = run.predict(np.zeros((1, 24, 24, 3), np.uint8))
    assert len(answers) == 1 and answers[0].label in run.classes


@pytest.mark.slow
def test_pictures_can_grow_while_a_net_trains(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    plain = loop.gradients

    def gradients(net: torch.nn.Module, batch: Batch, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(batch.x.size(-1))
        return plain(net, batch, *rest)

    monkeypatch.setattr(loop, "gradients", gradients)
    how = {"recipe": "standard", "epochs": 10, "size": 32, "set": {"small": 0.5, "small_until": 0.5}}
    run = fit.train(folder, net="cifar_resnet20", out=tmp_path / "grown", **how, **QUIET)
    assert seen == sorted(seen) and set(seen) == {16, 20, 24, 28, 32} and seen.count(32) == len(seen) / 2
    assert 0 <= run.metrics["test_accuracy"] <= 1

    seen.clear()
    fixed = fit.train(folder, net="lenet5", out=tmp_path / "fixed", **{**how, "epochs": 1}, **QUIET)
    notes = records(fixed.folder, "start")[0]["notes"]
    assert "lenet5 is built for pictures of one size, so training does not begin with small pictures" in notes
    assert set(seen) == {32} and read_json(fixed.folder / "run.json")["settings"]["recipe"]["small"] == 1.0
    small = recipe("fast", small=0.5)
    assert growing(small, "speednet", 32) == (small, [])
    for net, size, compiled, why in (
        ("speednet", 12, False, "speednet needs pictures of at least 9x9"),
        ("speednet", 32, True, "compiled for pictures of one size"),
    ):
        whole, (note,) = growing(small, net, size, compiled=compiled)
        assert whole.small == 1.0 and why in note
    with pytest.raises(UsageError, match="--set small= is a share"):
        fit.train(folder, net="cifar_resnet20", out=tmp_path / "wrong", set={"small": 16}, **QUIET)


def test_another_test_set(folder: Path, tmp_path: Path) -> None:
    run = fit.train(folder, test=folder, net="lenet5", epochs=1, out=tmp_path / "a", diagnosis=False, **QUIET)
    assert run.metrics["test_n"] == 80
    with pytest.raises(DataError, match="classes that are not in the training data"):
        fit.train(folder, test="digits", net="lenet5", epochs=1, out=tmp_path / "b", **QUIET)


def test_wrong_calls_say_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--epochs or --minutes, not both"):
        fit.train("digits", epochs=1, minutes=1, **QUIET)
    with pytest.raises(UsageError, match="epochs must be more than 0"):
        fit.train("digits", epochs=0, **QUIET)
    with pytest.raises(UsageError, match="no device 'tpu'"):
        fit.train("digits", progress=False, device="tpu")
    with pytest.raises(DataError, match="has one class, 'a'; expected at least two"):
        fit.train((np.zeros((5, 40, 40, 3), np.uint8), ["a"] * 5), out=tmp_path / "x", **QUIET)
    for task, message in ((None, "nothing to learn.*Expected a folder for each class"),
                          ("label", "no label for the task 'label'.*expected a folder for each class")):  # fmt: skip
        with pytest.raises(DataError, match=message):
            fit.train((np.zeros((5, 40, 40, 3), np.uint8), None), task=task, out=tmp_path / "x", **QUIET)
    with pytest.raises(UsageError, match=r"unknown task 'labels' .did you mean 'label'"):
        fit.train("digits", task="labels", **QUIET)


def test_find_lr_suggests_a_rate_that_trains() -> None:
    scan = fit.find_lr("digits", net="lenet5", recipe="standard", device="cpu", progress=False, set={"clip": 0})
    assert 1e-3 < scan["suggested_lr"] < scan["recipe_lr"] * 30
    assert scan["set"].startswith("--set lr_filters=")
    losses = [p["smoothed"] for p in scan["points"]]
    assert min(losses) < losses[0]
    json.dumps(scan)


def test_views_add_up_and_mirror_only_when_allowed() -> None:
    x = torch.rand(2, 3, 8, 8)
    for kind, mirror, count in (("none", True, 1), ("flip", True, 2), ("flip", False, 1), ("shift", True, 6)):
        found = list(views(x, kind, mirror))
        assert len(found) == count and sum(w for w, _, _ in found) == pytest.approx(1.0)
        assert all(v.shape == x.shape for _, v, _ in found) and torch.equal(found[0][1], x)
        assert sum(mirrored for _, _, mirrored in found) == (count // 2 if mirror and kind != "none" else 0)
    weight, view, mirrored = list(views(x, "flip"))[1]
    assert torch.equal(view, x.flip(3)) and mirrored and weight == 0.5
    (only,) = views(x, "mirror")
    assert only[0] == 1.0 and torch.equal(only[1], x.flip(3)) and only[2]
    with pytest.raises(UsageError, match="unknown test-time views"):
        list(views(x, "many"))


def test_sizes() -> None:
    assert [choose_size(s, True) for s in (8, 32, 64, 375)] == [32, 32, 64, 128]
    assert choose_size(375, False) == 224


def test_small_pictures_get_a_net_and_a_recipe_for_their_task() -> None:
    segment, tags, label = (find(name) for name in ("segment", "tags", "label"))
    assert [choose_net(64, task) for task in (label, tags, segment)] == ["speednet", "speednet", "unet_small"]
    assert [choose_net(128, task) for task in (label, segment)] == ["resnet18", "resnet18"]
    assert make_recipe(None, "placenet", {}, find("detect")).zoom > 0 == make_recipe(None, "placenet", {}, segment).zoom
    assert make_recipe(None, "placenet", {}, tags).zoom == 0  # what is asked for may be cut off
    assert make_recipe(None, "placenet", {"zoom": "0.1"}, tags).zoom == 0.1
    assert make_recipe(None, "resnet18", {}, segment).name == "quick"


@pytest.mark.parametrize(("task", "name"), [("caption", "sentences-scratch"), ("match-captions", "towers-scratch")])
def test_from_random_weights_pictures_and_sentences_have_a_recipe_with_options_that_the_task_has(
    task: str, name: str
) -> None:
    kind = find(task)
    for net in ("placenet", "resnet18"):
        made = make_recipe(None, net, {}, kind)
        assert made.name == name and made.zoom == 0
        assert made.task_options and kind.options.keys() >= made.task_options.keys()
    assert make_recipe("quick", "placenet", {}, kind).name == "quick"


def test_clock_counts_steps_and_at_least_some() -> None:
    clock = Clock.for_epochs(2.5, 10)
    assert clock.steps == 25 and clock.progress(5) == pytest.approx(0.2) and clock.progress(99) == 1.0
    assert Clock.for_epochs(1, 3, at_least=40).steps == 40


def test_stalling_lowers_the_rate_and_early_stop_ends() -> None:
    state = State(build("lenet5"), recipe("paper-alexnet", stall=2), 32)
    answers = [judge(state, a, 1.0) for a in (0.5, 0.5, 0.5)]
    assert state.scale == pytest.approx(0.1) and not any(answers)
    ends = [judge(state, 0.5, 1.0) for _ in range(6)]
    assert ends[-1] is True
    state = State(build("lenet5"), recipe("standard", early_stop=2), 32)
    assert [judge(state, 0.5, loss) for loss in (1.0, 0.9, 0.95, 0.96)] == [False, False, False, True]
