"""A training that is killed with SIGKILL and continued ends in the same bits as one that never was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from neocog import fit, nets
from neocog.errors import RunError
from neocog.fit.run import read_json, read_tensors, records

# ema, momentum, balance, mixing and dropout-like randomness all have state that a resume must restore; the device is
# fixed, because on a busy machine the second training might measure otherwise and choose another
SCRIPT = """
import torch; torch.set_num_threads(1)
from neocog import fit
from neocog.fit import training
from neocog.fit.device import Device
training.choose = lambda *_, **__: Device("cpu", bf16={bf16}, channels_last=True, side_by_side=True)
fit.train("digits", out={out!r}, net="lenet5", recipe="standard", epochs=12, device="cpu", seed=3, diagnosis=False,
          save_every=0.2, progress=False, set=dict(ema=0.9, lookahead=0.2, mixup=0.2, optimizer={optimizer!r}, lr=0.01))
"""


def start(out: Path, optimizer: str) -> subprocess.Popen[bytes]:
    code = SCRIPT.format(out=str(out), optimizer=optimizer, bf16=optimizer == "muon")
    return subprocess.Popen([sys.executable, "-W", "error", "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "weights.safetensors")[0]


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_killed_and_resumed_is_bit_identical(tmp_path: Path, optimizer: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole, optimizer).wait() == 0
    process = start(killed, optimizer)
    deadline = time.monotonic() + 120
    while not (killed / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert process.poll() is None, "the training ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
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


def test_more_epochs_and_what_cannot_be_resumed(tmp_path: Path) -> None:
    pictures = torch.randint(0, 256, (80, 32, 32), dtype=torch.uint8).numpy()
    labels = [i % 2 for i in range(80)]
    run = fit.train((pictures, labels), out=tmp_path / "r", net="lenet5", epochs=1, device="cpu", progress=False)
    with pytest.raises(RunError, match=r"arrays in memory.*resume\(run, data="):
        fit.resume(run.folder, epochs=2, progress=False)
    longer = fit.resume(run.folder, epochs=2, data=(pictures, labels), progress=False)
    assert read_json(longer.folder / "run.json")["settings"]["epochs"] == 2
    assert records(longer.folder, "epoch")[-1]["epoch"] == 2
    with pytest.raises(RunError, match="have changed since"):
        fit.resume(run.folder, data=(255 - pictures, labels), progress=False)
    with pytest.raises(RunError, match="already holds a run"):
        fit.train((pictures, labels), out=run.folder, net="lenet5", epochs=1, progress=False)


def test_nan_stops_and_keeps_the_last_good_weights(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"loss became .*--set lr="):
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
    kept = tmp_path / "r" / "weights.safetensors"
    if kept.exists():
        assert all(torch.isfinite(v).all() for v in weights(tmp_path / "r").values())


def test_weights_that_a_step_has_spoiled_are_not_kept(tmp_path: Path) -> None:
    """The loss before a step may be fine and the weights after it lost: they must not overwrite the good ones."""
    with pytest.raises(RunError, match="loss became"):
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
