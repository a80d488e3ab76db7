"""Training from weights: what each regime changes and leaves, what is told, and that the result is an ordinary run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from neocog import fit, nets
from neocog.data import open_source
from neocog.errors import NetError, RunError, UsageError
from neocog.fit import transfer
from neocog.fit.depth import in_order, keep_still, last_stages, units
from neocog.fit.device import Device
from neocog.fit.extract import extract
from neocog.fit.features import Taps
from neocog.fit.optim import optimizers
from neocog.fit.recipes import recipe
from neocog.fit.run import read_json, read_tensors, records
from neocog.fit.start import open_start
from neocog.records import Preprocess

QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "diagnosis": False}
SHORT: dict[str, Any] = {**QUIET, "epochs": 1, "set": {"ema": 0.0}}
NET = "cifar_resnet20"


def write(root: Path, classes: tuple[str, ...], each: int, seed: int) -> Path:
    """A folder of drawn pictures."""
    source = open_source(f"drawn:n={each * 16},size=24,seed={seed}")
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in np.flatnonzero(source.labels == source.classes.index(name))[:each]:
            Image.fromarray(source.read(int(i))).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("pictures"), ("circle", "square", "star"), 24, 7)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> fit.Run:
    """A net with BN, trained a little on four other classes."""
    classes = open_source("drawn:n=8").classes
    others = tuple(c for c in classes if c not in ("circle", "square", "star"))[:4]
    data = write(tmp_path_factory.mktemp("base"), others, 16, 8)
    out = tmp_path_factory.mktemp("runs") / "base"
    return fit.train(data, net=NET, size=16, epochs=2, set={"ema": 0.0}, recipe="standard", out=out, **QUIET)


@pytest.fixture(scope="module")
def fitted(base: fit.Run, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> fit.Run:
    """Regime features, chosen by the number of pictures."""
    return fit.train(folder, start=base, out=tmp_path_factory.mktemp("runs") / "fitted", **QUIET)


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Names of tensors that differ, among those that both have in the same shape."""
    same = {k for k in before if k in after and before[k].shape == after[k].shape}
    return {k for k in same if not torch.equal(before[k], after[k])}


def notes(run: fit.Run) -> str:
    return "\n".join(records(run.folder, "start")[-1]["notes"])


# ---------------------------------------------------------------- choosing


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([3, 3], "features"), ([99] * 4, "features"), ([100, 100], "top"), ([999, 999], "top"), ([1000] * 3, "all")],
)
def test_the_regime_follows_the_number_of_pictures(counts: list[int], expected: str) -> None:
    regime, why = transfer.choose_regime(None, np.array(counts))
    assert regime == expected and f"about {counts[0]:,} pictures a class" in why


def test_wishes_are_followed_or_refused() -> None:
    few, many = np.array([5, 5, 0]), np.array([5000, 5000])
    assert transfer.choose_regime("all", few) == ("all", "asked for")
    assert transfer.choose_regime(None, many, layers=True)[0] == "features"
    assert transfer.choose_regime(None, many, recipe="features")[0] == "features"
    assert transfer.choose_regime(None, few, recipe="standard")[0] == "top"  # a recipe of steps was named


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"regime": "feature"}, "unknown regime 'feature' .did you mean 'features'"),
        ({"regime": "top", "layer": "conv1"}, "goes with --regime features, not top"),
        ({"regime": "features", "recipe": "standard"}, "is for gradient steps; choose --regime top or all"),
        ({"regime": "top", "recipe": "features"}, "trains more; omit --recipe"),
        ({"regime": "top", "set": {"head": "svm"}}, "head goes with --regime features, not with top"),
        ({"regime": "features", "set": {"lr": 0.1}}, "lr has no effect in regime features"),
        ({"regime": "features", "set": {"balance": "sampling"}}, "balance=weights instead"),
        ({"set": {"head": "sofmax"}}, "unknown head 'sofmax' .did you mean 'softmax'"),
        ({"set": {"pool": "max"}}, "needs the layer whose maps are pooled"),
        ({"layer": "conv9"}, "no layer 'conv9' .did you mean 'conv1'"),
        ({"net": "lenet5"}, "trained cifar_resnet20, not lenet5"),
    ],
)
def test_what_makes_no_sense_is_refused(
    base: fit.Run, folder: Path, tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        fit.train(folder, start=base, out=tmp_path / "r", **QUIET, **wrong)
    assert not (tmp_path / "r").exists()


def test_without_weights_there_is_no_regime(folder: Path, tmp_path: Path) -> None:
    for wrong in ({"regime": "top"}, {"layer": "conv1"}):
        with pytest.raises(UsageError, match="needs weights to start from"):
            fit.train(folder, net="lenet5", out=tmp_path / "r", **QUIET, **wrong)
    with pytest.raises(UsageError, match="folds needs weights to start from"):
        fit.train(folder, net="lenet5", out=tmp_path / "r", set={"folds": 3}, **QUIET)


# ---------------------------------------------------------------- what to start from


def test_weights_by_run_file_and_name(base: fit.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_start(base.folder)
    assert run.spec["name"] == NET and run.classes == base.classes and run.preprocess == base.preprocess
    assert run.path == base.folder.resolve()
    torch.manual_seed(0)
    net = nets.build("mobilenet_v1_025")
    file = tmp_path / "some.safetensors"
    save_file(net.state_dict(), file)
    told: list[str] = []
    found = open_start(file, say=told.append)
    assert found.spec["name"] == "mobilenet_v1_025" and told == ["some.safetensors fits mobilenet_v1_025"]
    assert found.classes is None and found.preprocess.size == 224
    named = tmp_path / "weights"
    named.mkdir()
    shutil.copy(file, named / "mobilenet_v1_025.safetensors")
    card = {"input": "RGB, 160x160, x/127.5-1"}
    (named / "mobilenet_v1_025.json").write_text(json.dumps(card))
    monkeypatch.setenv("NEOCOG_WEIGHTS", str(named))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mobilenet_v1_025").mkdir()  # a folder of that name that is no run
    for start, how in (("mobilenet_v1_025", {}), ("imagenet", {"net": "mobilenet_v1_025"})):
        found = open_start(start, **how)
        assert found.path == named / "mobilenet_v1_025.safetensors"
        assert found.preprocess.size == 160 and found.preprocess.mean == (0.5, 0.5, 0.5)
        assert not changed(net.state_dict(), found.net.state_dict())


def test_small_pictures_are_scaled_up_whole_and_large_ones_cut() -> None:
    start = open_start_of(Preprocess(224, 256))
    assert (start.sized(None, 32).size, start.sized(None, 32).resize) == (224, 224)
    assert (start.sized(None, 500).size, start.sized(None, 500).resize) == (224, 256)
    assert (start.sized(112, 500).size, start.sized(112, 500).resize) == (112, 128)


def open_start_of(pre: Preprocess) -> Any:
    from neocog.fit.start import Start

    return Start(Path("x"), nn.Identity(), {}, pre)


def test_starts_that_cannot_be(base: fit.Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no weights found for --from 'resnet5O' .did you mean 'resnet50'"):
        open_start("resnet5O")
    with pytest.raises(UsageError, match="Give the net: --from imagenet --net"):
        open_start("imagenet")
    with pytest.raises(UsageError, match=r"--net says lenet5; drop one"):
        open_start("resnet50", net="lenet5")
    with pytest.raises(UsageError, match="no weights found for --from"):
        open_start(tmp_path / "none.safetensors", net="lenet5")
    with pytest.raises(RunError, match=r"has no run\.json"):
        open_start(tmp_path)
    save_file({"a": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(NetError, match="fits no published net of the zoo"):
        open_start(tmp_path / "other.safetensors")


# ---------------------------------------------------------------- depth


def test_the_last_stages_of_well_known_nets() -> None:
    for name, first in (("resnet50", "layer4"), ("cifar_resnet20", "layer3"), ("mobilenet_v1_025", "blocks.")):
        with torch.no_grad():
            net = nets.build(name, **({"input_size": 64} if name != NET else {}))
        used = in_order(net)
        begin = last_stages(used)
        inside = [one.name for one in used[begin:] if one.weights]
        assert inside[0].startswith(first)
        sizes = {one.size for one in used[begin + 3 :] if one.size}
        assert sum(one.weights for one in used[begin:]) >= 0.1 * sum(one.weights for one in used)
        assert max(sizes) < max(one.size for one in used)
        assert sorted(i for group in units(used) for i in group) == list(range(len(used)))


def test_frozen_layers_stay_in_eval_mode_and_without_gradients() -> None:
    net = nets.build(NET, classes=3)
    used = in_order(net)
    begin = last_stages(used)
    keep_still(net, used[:begin])
    net.train()
    modes = {one.name: one.module.training for one in used}
    assert not any(modes[one.name] for one in used[:begin]) and all(modes[one.name] for one in used[begin:])
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net(torch.randn(8, 3, 32, 32)).square().sum().backward()
    early = {one.name for one in used[:begin]}
    moved = {k.rpartition(".")[0] for k in changed(before, net.state_dict())}
    assert moved and not moved & early  # only running statistics of later layers
    for name, p in net.named_parameters():
        assert (p.grad is None) == (name.rpartition(".")[0] in early)


# ---------------------------------------------------------------- the regimes


def test_regime_features_changes_nothing_but_the_last_layer(base: fit.Run, fitted: fit.Run) -> None:
    before, after = base.net().state_dict(), fitted.net().state_dict()
    assert changed(before, after) == set()  # BN statistics included; the head has another shape
    assert after["fc.weight"].shape[0] == 3 and before["fc.weight"].shape[0] == 4
    told = notes(fitted)
    assert "regime features: about" in told and "from 100 on it would be top" in told
    assert "the last layer of the weights, for 4 classes, is replaced by a new one for 3" in told
    head = records(fitted.folder, "head")[-1]
    assert head["seen"] > 0 and head["features"] == 64 and head["head"] == "softmax"


def test_the_scan_of_learning_rates_is_of_the_training_from_these_weights(
    base: fit.Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    plain = transfer.take_over

    def take_over(net: nn.Module, plan: Any, task: Any) -> None:
        taken.append(plan.start["regime"])
        plain(net, plan, task)

    monkeypatch.setattr(transfer, "take_over", take_over)
    how: dict[str, Any] = {"start": base.folder, "progress": False, "device": "cpu"}
    scan = fit.find_lr(folder, regime="top", steps=20, **how)
    assert taken == ["top"] and 1 < len(scan["points"]) <= 20
    with pytest.raises(UsageError, match=r"without a learning rate; --find-lr goes with --regime top or all"):
        fit.find_lr(folder, **how)


@pytest.mark.parametrize("regime", ["top", "all"])
def test_what_top_and_all_change(base: fit.Run, folder: Path, tmp_path: Path, regime: str) -> None:
    run = fit.train(folder, start=base.folder, regime=regime, out=tmp_path / "r", **SHORT)
    before, after = base.net().state_dict(), run.net().state_dict()
    owners = {k.rpartition(".")[0] for k in changed(before, after)}
    used = in_order(base.net())
    begin = last_stages(used)
    early = {one.name for one in used[:begin] if list(one.module.parameters(recurse=False))}
    last = {one.name for one in used[begin:] if list(one.module.parameters(recurse=False))}
    assert owners >= last
    assert owners & early == (set() if regime == "top" else early)
    moved = {k for k in changed(before, after) if "running" in k}
    assert any(k.rpartition(".")[0] in last for k in moved)  # BN of what learns adapts, BN of what is frozen does not
    assert ("bn1.running_mean" in moved) == (regime == "all")
    assert f"regime {regime}: asked for" in notes(run) and transfer.ONE_SPLIT in notes(run)
    trained = records(run.folder, "start")[0]["start"]["trained"]
    assert ("stay as they are" if regime == "top" else "learn at 0.01 of the rate") in trained


@pytest.mark.parametrize("name", ["finetune", "standard", "fast"])
def test_rates_of_last_stages_and_early_layers(name: str) -> None:
    net = nets.build(NET, classes=3)
    r = recipe(name)
    start = {"regime": "all", "head": "new"}
    transfer.prepare(net, _plan_of(r, start))
    peaks: dict[int, float] = {}
    for opt in optimizers(net, nets.head_of(net), r, r.batch_size):
        for group in opt.param_groups:
            peaks |= {id(p): group["peak"] for p in group["params"]}
    assert len(peaks) == len(list(net.parameters()))
    rates = {n: peaks[id(p)] for n, p in net.named_parameters()}
    plain: dict[str, float] = {}
    for opt in optimizers(fresh := nets.build(NET, classes=3), nets.head_of(fresh), r, r.batch_size):
        for group in opt.param_groups:
            plain |= {n: group["peak"] for n, p in fresh.named_parameters() if any(p is q for q in group["params"])}
    share = {n: rates[n] / plain[n] for n in plain}
    used = in_order(net)
    last = {one.name for one in used[last_stages(used) :]}
    for n, value in share.items():
        owner = n.rpartition(".")[0]
        assert value == pytest.approx(1.0 if owner == "fc" else 0.1 if owner in last else 0.01)


def _plan_of(r: Any, start: dict[str, Any]) -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(recipe=r, start=start)


def test_muon_keeps_the_size_of_weights_that_know_something() -> None:
    """A convolution that no normalisation follows would answer otherwise if its filters were brought to length 1."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    net[0].weight.data *= 7
    net[0].weight.lr_factor = 0.01  # type: ignore[assignment]
    norms = [layer.weight.norm().item() for layer in net]
    opts = optimizers(net, nn.Linear(1, 1), recipe("standard"), 128)
    for _ in range(3):
        net(torch.randn(2, 3, 8, 8)).square().mean().backward()
        for opt in opts:
            opt.step()
            opt.zero_grad()
    assert net[0].weight.norm().item() == pytest.approx(norms[0], rel=0.01)
    assert net[1].weight.norm().item() == pytest.approx(8**0.5, rel=0.2)


def test_the_last_layer_stays_where_the_classes_are_the_same(base: fit.Run, tmp_path: Path) -> None:
    data = read_json(base.folder / "run.json")["settings"]["data"]
    run = fit.train(data, start=base, regime="top", out=tmp_path / "r", **{**SHORT, "set": {"lr": 1e-9, "ema": 0.0}})
    assert "the last layer of the weights, for 4 classes, is kept" in notes(run)
    assert torch.allclose(run.net().state_dict()["fc.weight"], base.net().state_dict()["fc.weight"], atol=1e-6)


# ---------------------------------------------------------------- the result is a run like others


def check_run(run: fit.Run, folder: Path) -> None:
    """Predict, evaluate and the report agree with the figures of the run."""
    found = read_tensors(run.folder / "test.safetensors")[0]
    source = open_source(folder)
    paths = [source.path(int(i)) for i in found["index"]]
    said = run.predict(paths)
    best = [run.classes[int(k)] for k in found["logits"].argmax(1)]
    assert np.mean([p.label == b for p, b in zip(said, best, strict=True)]) >= 0.8  # figures may be of bfloat16
    whole = fit.evaluate([run], folder, device="cpu")["runs"][0]
    assert whole["n"] == 72 and 0 <= whole["accuracy"] <= 1
    page = run.report.read_text()
    assert "Start" in page and str(run.settings["settings"]["start"]["weights"]) in page
    assert not list(run.folder.glob(".*part"))


def test_regime_features_makes_an_ordinary_run(fitted: fit.Run, folder: Path) -> None:
    check_run(fitted, folder)
    m = fitted.metrics
    assert (m["cv_folds"], m["cv_repeats"]) == (5, 3) and m["cv_n"] == 72 - m["test_n"]
    low, high = m["cv_accuracy_interval"]
    assert low < m["cv_accuracy"] < high
    assert any(line.startswith("cross-validated accuracy") for line in fitted.summary())
    page = fitted.report.read_text()
    assert "Cross-validated accuracy" in page and "log loss on other pictures" in page and "No epoch" not in page


def test_it_is_resumed_from_what_was_computed(base: fit.Run, fitted: fit.Run, tmp_path: Path) -> None:
    """As after a kill between the features and the last file."""
    run = tmp_path / "killed"
    shutil.copytree(fitted.folder, run)
    for name in ("net.json", "weights.safetensors", "report.html", "test.safetensors"):
        (run / name).unlink()
    with pytest.raises(RunError, match="not finished"):
        fit.Run(run)
    again = fit.resume(run, progress=False)
    assert not changed(fitted.net().state_dict(), again.net().state_dict())
    assert again.metrics == fitted.metrics and again.report.exists()
    assert records(run, "head")[-1]["seen"] == 0 and len(records(run, "start")) == 1
    with pytest.raises(UsageError, match=r"no epochs to add.*--regime top"):
        fit.resume(run, epochs=3, progress=False)


def test_another_head_on_the_same_features(base: fit.Run, fitted: fit.Run, folder: Path) -> None:
    out = fitted.folder.parent / "svm"
    run = fit.train(folder, start=base, set={"head": "svm", "folds": 1}, out=out, **QUIET)
    head = records(run.folder, "head")[-1]
    assert head["head"] == "svm" and head["seen"] == 0
    assert "cv_accuracy" not in run.metrics and transfer.ONE_SPLIT in notes(run)


def test_features_of_named_layers(base: fit.Run, folder: Path, tmp_path: Path) -> None:
    names = [n for n, _ in base.net().named_modules() if n in ("layer2", "layer3")]
    how: dict[str, Any] = {"set": {"pool": "max", "strength": 0.1, "folds": 3}}
    run = fit.train(folder, start=base, layer=",".join(names), out=tmp_path / "r", **QUIET, **how)
    assert run.taps == {"layers": names, "pool": "max"} and "layers were named" in notes(run)
    assert records(run.folder, "head")[-1]["features"] == 96 and run.metrics["cv_folds"] == 3
    check_run(run, folder)
    # the run's own features are those that the trunk gives by name
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(run.net().forward_features(x), Taps(base.net(), names, "max")(x), atol=1e-5)  # type: ignore[operator]
    assert extract(run, folder, "layer2", device="cpu").values.shape == (72, 32)
    # and it is something to start from itself, as a whole
    more = fit.train(folder, start=run, regime="all", out=tmp_path / "more", **SHORT)
    assert more.taps == run.taps and "for 3 classes, is kept" in notes(more)
    assert "trunk.layer2.0.conv1.weight" in changed(run.net().state_dict(), more.net().state_dict())


def test_a_net_without_a_plain_last_layer_gets_one(folder: Path, tmp_path: Path) -> None:
    start = fit.train(folder, net="speednet", size=16, epochs=1, out=tmp_path / "s", **QUIET)
    run = fit.train(folder, start=start, out=tmp_path / "r", **QUIET)
    assert run.taps == {"layers": [""], "pool": "mean"}
    check_run(run, folder)
    # its own recipe, because it divides its logits and was made for Muon
    top = fit.train(folder, start=start, regime="top", epochs=1, out=tmp_path / "t", **QUIET)
    assert top.settings["settings"]["recipe"]["name"] == "fast" and top.taps is None


def test_weights_for_grey_pictures_and_another_size(folder: Path, tmp_path: Path) -> None:
    grey = fit.train("digits", net="lenet5", epochs=1, out=tmp_path / "grey", **QUIET)
    run = fit.train(folder, start=grey, out=tmp_path / "r", **QUIET)
    assert run.preprocess == grey.preprocess and "colours are not used" in notes(run)
    with pytest.raises(NetError, match="fit one size only, so omit --size"):
        fit.train(folder, start=grey, size=48, out=tmp_path / "s", **QUIET)


def test_weights_that_changed_meanwhile_are_noticed(base: fit.Run, folder: Path, tmp_path: Path) -> None:
    weights = tmp_path / "base"
    shutil.copytree(base.folder, weights)
    run = fit.train(folder, start=weights, out=tmp_path / "r", **QUIET)
    shutil.copy(run.folder / "weights.safetensors", tmp_path / "kept.safetensors")
    tensors = read_tensors(weights / "weights.safetensors")[0]
    save_file({k: v + 1 if k == "conv1.weight" else v for k, v in tensors.items()}, weights / "weights.safetensors")
    with pytest.raises(RunError, match="has changed since this run began"):
        fit.resume(run.folder, progress=False)


SCRIPT = """
import torch; torch.set_num_threads(1)
from neocog import fit
from neocog.fit import training
from neocog.fit.device import Device
training.choose = lambda *_, **__: Device("cpu", channels_last=True)  # measured, it may differ on a busy machine
fit.train({data!r}, start={base!r}, regime={regime!r}, out={out!r}, epochs=8, device="cpu", seed=3, diagnosis=False,
          save_every=0.1, progress=False, set={{"ema": 0.9, {more}}})
"""


def test_stopped_and_resumed_is_bit_identical(
    base: fit.Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tuning from weights adds to the state: rates and norms of its groups, and pictures that grow."""
    monkeypatch.setattr("neocog.fit.opening.choose", lambda *_, **__: Device("cpu", channels_last=True))
    changes = {"ema": 0.9, "optimizer": "muon", "lr_filters": 0.1, "small": 0.75}
    how: dict[str, Any] = {"start": base, "regime": "all", "epochs": 3, "seed": 3, "set": changes}
    whole = fit.train(folder, out=tmp_path / "whole", **how, **QUIET)
    asked = iter([False, False, True])
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("neocog.fit.training.interruptible", lambda on: nullcontext(lambda: next(asked)))
        fit.train(folder, out=tmp_path / "stopped", **how, **QUIET)
    assert not (tmp_path / "stopped" / "weights.safetensors").exists()
    again = fit.resume(tmp_path / "stopped", progress=False)
    a, b = (read_tensors(run.folder / "weights.safetensors")[0] for run in (whole, again))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert [r["step"] for r in records(again.folder, "epoch")] == [r["step"] for r in records(whole.folder, "epoch")]
    assert again.metrics == whole.metrics
    longer = fit.resume(again.folder, epochs=4, progress=False)  # and it can be trained for longer
    assert records(longer.folder, "epoch")[-1]["epoch"] == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("regime", "more"),
    [
        ("all", '"optimizer": "muon", "lr_filters": 0.1, "small": 0.75'),
        ("top", ""),
        ("all", '"lookahead": 0.2'),
    ],
)
def test_killed_and_resumed_is_bit_identical(
    base: fit.Run, folder: Path, tmp_path: Path, regime: str, more: str
) -> None:
    def start(out: Path) -> subprocess.Popen[bytes]:
        code = SCRIPT.format(data=str(folder), base=str(base.folder), regime=regime, out=str(out), more=more)
        return subprocess.Popen([sys.executable, "-W", "error", "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    both = [start(whole), start(killed)]
    deadline = time.monotonic() + 120
    while not (killed / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert both[1].poll() is None, "the training ended before it could be killed"
    both[1].send_signal(signal.SIGKILL)
    both[1].wait()
    assert both[0].wait() == 0 and not (killed / "weights.safetensors").exists()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        again = fit.resume(killed, progress=False)
    finally:
        torch.set_num_threads(threads)
    a, b = (read_tensors(path / "weights.safetensors")[0] for path in (whole, killed))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert [r["step"] for r in records(killed, "epoch")] == [r["step"] for r in records(whole, "epoch")]
    assert again.metrics == fit.Run(whole).metrics
    longer = fit.resume(killed, epochs=9, progress=False)  # and it can be trained for longer
    assert records(longer.folder, "epoch")[-1]["epoch"] == 9
