"""A training that is killed with SIGKILL and continued ends in the same bits as one that never was."""

from __future__ import annotations

import math
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from ready import Child, Ready

from neocog import fit, nets
from neocog.errors import RunError, UsageError
from neocog.fit.plan import Plan
from neocog.fit.recipes import recipe
from neocog.fit.run import read_json, read_tensors, records, write_tensors
from neocog.fit.state import CHECKPOINT, State
from neocog.tasks import Label

# ema, momentum, balance, mixing and dropout-like randomness all have state that a resume must restore; the device is
# fixed, because on a busy machine the second training might measure otherwise and choose another. The only checkpoint
# is in the first epoch, and the kill comes when the log has told of the second
SCRIPT = """
import os, signal
import torch; torch.set_num_threads(1)
from neocog import fit
from neocog.fit import training
from neocog.fit.device import Device
from neocog.fit.state import State
training.choose = lambda *_, **__: Device("cpu", bf16={bf16}, channels_last=True, side_by_side=True)
save, update = State.save, State.update_averages
def updated(state):
    if state.step == {kill}:
        os.kill(os.getpid(), signal.SIGKILL)
    update(state)
State.save = lambda state, folder: save(state, folder) if state.step == 7 else None
State.update_averages = updated
fit.train("digits", out={out!r}, net="lenet5", recipe="standard", epochs=3, device="cpu", seed=3, diagnosis=False,
          save_every=0.0, progress=False, set=dict(ema=0.9, lookahead=0.2, mixup=0.2, optimizer={optimizer!r}, lr=0.01))
"""


def start(ready: Ready, out: Path, optimizer: str, kill: int = 0) -> Child:
    script = out.with_suffix(".py")
    script.write_text(SCRIPT.format(out=str(out), optimizer=optimizer, bf16=optimizer == "muon", kill=kill))
    return ready.start(script, out.parent)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "weights.safetensors")[0]


@pytest.mark.parametrize("optimizer", ["muon", pytest.param("adamw", marks=pytest.mark.slow)])
def test_killed_and_resumed_is_bit_identical(tmp_path: Path, ready: Ready, optimizer: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(ready, whole, optimizer).wait() == 0
    last = records(whole, "epoch")[1]["step"] + 2
    assert start(ready, killed, optimizer, kill=last).wait() == -signal.SIGKILL
    assert [r["step"] for r in records(killed, "epoch")] == [r["step"] for r in records(whole, "epoch")][:2]
    assert not (killed / "weights.safetensors").exists()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fit.resume(killed, progress=False)
    finally:
        torch.set_num_threads(threads)
    a, b = weights(whole), weights(killed)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    # the log tells one story: no epoch twice, none missing
    assert [r["step"] for r in records(killed, "epoch")] == [r["step"] for r in records(whole, "epoch")]
    assert fit.Run(killed).metrics == fit.Run(whole).metrics


# is the upper half brighter? A quarter of the labels is wrong, and the net learns them by heart: validation goes up
# to epoch 2 and then down
_RANDOM = np.random.default_rng(4)
_SMALL = _RANDOM.integers(0, 256, (200, 4, 4), dtype=np.uint8)
_LABELS = (_SMALL[:, :2].mean((1, 2)) > _SMALL[:, 2:].mean((1, 2))) ^ (_RANDOM.random(200) < 0.25)
NOISE = np.kron(_SMALL, np.ones((1, 8, 8), np.uint8)), _LABELS.astype(int).tolist()
STOPPED = {"net": "lenet5", "recipe": "paper-resnet", "epochs": 20, "device": "cpu", "precision": "float32",
           "progress": False, "diagnosis": False, "set": {"early_stop": 3, "optimizer": "adamw", "lr": 0.005,
           "schedule": "constant", "flip": "none", "crop": 0}}  # fmt: skip


def test_early_stop_keeps_the_best_weights_and_says_so(tmp_path: Path) -> None:
    run = fit.train(NOISE, out=tmp_path / "r", **STOPPED)
    epochs, kept = records(run.folder, "epoch"), read_json(run.folder / "net.json")["kept"]
    best = max(epochs, key=lambda r: (r["val_accuracy"], -r["val_loss"]))
    assert epochs[-1]["epoch"] < 20 and best is not epochs[-1]
    assert (kept["step"], kept["epoch"], kept["of"]) == (best["step"], best["epoch"], epochs[-1]["epoch"])
    assert run.metrics["val_accuracy"] == best["val_accuracy"] > epochs[-1]["val_accuracy"]
    assert records(run.folder, "kept")[0]["why"] == kept["why"] and kept["why"].startswith("the weights of the best")
    assert f"Weights kept: epoch {kept['epoch']:g} of {kept['of']:g}, the weights of the best" in run.report.read_text()

    # stopped right after each checkpoint, the last one included, it ends in the same weights
    for number in (1, len(epochs) - 1):
        folder, save, count = tmp_path / str(number), State.save, iter(range(1, 99))

        def then_stop(state: State, where: Path) -> None:
            save(state, where)  # noqa: B023
            if next(count) == number:  # noqa: B023
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(State, "save", then_stop)
            fit.train(NOISE, out=folder, save_every=1e9, **STOPPED)
        again = fit.resume(folder, data=NOISE, progress=False)
        assert read_json(folder / "net.json")["kept"] == kept and again.metrics == run.metrics
        a, b = weights(folder), weights(run.folder)
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_settings_of_earlier_versions_are_understood() -> None:
    now = {"task": {"name": "label"}, "recipe": recipe("standard").as_dict(), "unlabelled": None}
    then = {**now, "recipe": {**now["recipe"], "sure": 0.95}}
    assert Plan.upgraded(then) == now == Plan.upgraded(now)
    with pytest.raises(RunError, match="cannot be continued; train a new one"):
        Plan.upgraded({**then, "unlabelled": {"data": "many"}})


def test_which_weights_are_kept() -> None:
    def kept(epochs: list[tuple[float, float]], n: int = 100, **fields: int) -> tuple[int, str]:
        state = State(nets.build("lenet5"), recipe("standard", ema=0, **fields), 32)
        first = next(iter(state.net.parameters()))
        for state.step, (figure, loss) in enumerate(epochs, 1):
            with torch.no_grad():
                first.fill_(state.step)
            state.note(figure, loss, Label("ab").error({"accuracy": figure, "n": n if math.isfinite(figure) else 0}))
        choice = state.choose("accuracy", 1.0)
        assert float(first.detach().flatten()[0]) == choice["step"]
        return choice["step"], choice["why"]

    nan = math.nan
    assert kept([(0.5, 1.0), (0.7, 1.0), (0.6, 1.0)], early_stop=2) == (
        2, "the weights of the best epoch (validation accuracy 0.7000, the last 0.6000)")  # fmt: skip
    assert kept([(0.5, 1.0), (0.7, 1.0), (0.69, 1.0)], stall=2)[0] == 2
    # nothing but the schedule ends it: the last, unless the best is better by more than two standard errors (0.097)
    last = (
        "the last weights; the best epoch is within two standard errors (validation accuracy 0.7000, the last 0.6100)"
    )
    assert kept([(0.5, 1.0), (0.7, 1.0), (0.61, 1.0)]) == (3, last)
    assert kept([(0.5, 1.0), (0.7, 1.0), (0.59, 1.0)])[0] == 2
    assert kept([(0.5, 1.0), (0.7, 1.0), (0.66, 1.0)], n=10_000)[0] == 2
    # of five pictures even all of them are luck
    assert kept([(0.2, 1.0), (1.0, 1.0), (0.6, 1.0)], n=5)[0] == 3
    # equal figures: the lower loss, then the later; what is no number is never the best
    assert kept([(0.7, 0.9), (0.7, 1.0), (0.6, 1.0)], early_stop=2)[0] == 1
    assert kept([(0.7, 1.0), (0.7, 1.0), (0.6, 1.0)], early_stop=2)[0] == 2
    assert kept([(0.7, nan), (0.7, 1.0), (0.7, nan), (nan, 0.1)], early_stop=2)[0] == 2
    assert kept([(0.7, 1.0), (nan, nan)])[0] == 1
    assert kept([(nan, nan), (nan, nan)]) == (2, "the last weights, because there is no validation figure")


def test_more_epochs_and_what_cannot_be_resumed(tmp_path: Path) -> None:
    pictures = torch.randint(0, 256, (80, 32, 32), dtype=torch.uint8).numpy()
    labels = [i % 2 for i in range(80)]
    run = fit.train((pictures, labels), out=tmp_path / "r", net="lenet5", epochs=1, device="cpu", progress=False)
    with pytest.raises(RunError, match=r"arrays in memory.*resume\(run, data="):
        fit.resume(run.folder, epochs=2, progress=False)
    longer = fit.resume(run.folder, epochs=2, data=(pictures, labels), progress=False)
    assert read_json(longer.folder / "run.json")["settings"]["epochs"] == 2
    assert records(longer.folder, "epoch")[-1]["epoch"] == 2
    with pytest.raises(UsageError, match="has had 2 epochs already"):
        fit.resume(run.folder, epochs=1, data=(pictures, labels), progress=False)
    with pytest.raises(RunError, match="have changed since"):
        fit.resume(run.folder, data=(255 - pictures, labels), progress=False)
    with pytest.raises(RunError, match="already holds a run"):
        fit.train((pictures, labels), out=run.folder, net="lenet5", epochs=1, progress=False)


def test_nan_before_the_first_checkpoint_keeps_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"loss became .*no weights were saved\. .*--set lr="):
        fit.train(
            "digits",
            out=tmp_path / "r",
            net="lenet5",
            recipe="standard",
            epochs=20,
            device="cpu",
            progress=False,
            diagnosis=False,
            save_every=0.0,
            set={"optimizer": "sgd", "lr": 1e30, "clip": 0, "schedule": "linear", "warmup": 0},
        )
    assert not (tmp_path / "r" / "weights.safetensors").exists()


def test_weights_that_a_step_has_spoiled_are_not_kept(tmp_path: Path) -> None:
    """The loss before a step may be fine and the weights after it lost: they must not overwrite the good ones."""
    with pytest.raises(RunError, match=r"loss became .*the last good weights are in"):
        fit.train(
            "digits",
            out=tmp_path / "r",
            net="lenet5",
            recipe="standard",
            epochs=20,
            device="cpu",
            progress=False,
            diagnosis=False,
            save_every=0.0,
            # fine for two epochs, then one step of an absurd penalty
            set={"optimizer": "sgd", "lr": 0.01, "clip": 0, "l1": 1e30, "penalty_from": 2.0},
        )
    net = nets.build(**read_json(tmp_path / "r" / "run.json")["settings"]["net"])
    net.load_state_dict(weights(tmp_path / "r"))
    x = torch.randn(8, net.spec["in_channels"], net.spec["input_size"], net.spec["input_size"])
    with torch.no_grad():
        assert net.eval()(x).isfinite().all()


def test_what_lies_beside_the_weights_is_read_from_older_checkpoints(tmp_path: Path) -> None:
    state = State(nets.build("lenet5"), recipe("play"), 4)
    state.beside = {"average": torch.ones(2), "played": torch.arange(3)}
    state.save(tmp_path)
    tensors, metadata = read_tensors(tmp_path / CHECKPOINT)
    old = {k.replace("beside/played", "feed/played"): v for k, v in tensors.items()}
    assert "feed/played" in old and "beside/average" in old
    write_tensors(tmp_path / CHECKPOINT, old, metadata)
    state.beside = {}
    state.load(tmp_path)
    assert {k: v.tolist() for k, v in state.beside.items()} == {"average": [1.0, 1.0], "played": [0, 1, 2]}
