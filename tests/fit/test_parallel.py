"""Two processes compute what one computes: the same weights for the same global batch (gloo, on the CPU)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from neocog.fit.run import read_json, read_tensors, records

# float64, so that the order of additions is no excuse: a net with BN, whose statistics are those of the whole
# batch, and pictures that are mixed
EXACT = """
import copy, sys, torch
from torch import nn
from neocog import nets
from neocog.data import open_source
from neocog.data.augment import Augment
from neocog.data.batches import Batches, Held, Known
from neocog.fit.parallel import World, join, share_gradients, with_global_norms
from neocog.fit.run import write_tensors
from neocog.records import Preprocess
from neocog.tasks import Label
from pathlib import Path
torch.set_num_threads(1)
world = join()
torch.manual_seed(0)
net = nets.build("cifar_resnet20").double()
single = copy.deepcopy(net)
source = open_source("drawn:n=48,size=32")
pictures = Held(source, torch.arange(48).numpy(), Preprocess(32, 32), torch.device("cpu"))
task = Label(source.classes, 0.1)
known = Known({"label": source.columns["label"]}, task.collate)

def train(net, world):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    stream = Batches(pictures, known, Augment(mixup=0.5, cutmix=1.0), 16, seed=3, device=torch.device("cpu"),
                     dtype=torch.float64, rank=world.rank, world=world.size).stream(0)
    for _ in range(6):
        batch = next(stream)
        found = task.losses(net(batch.x), batch)
        (found.total * found.count).backward()
        share_gradients(net, torch.tensor(float(found.count), dtype=torch.float64), world)
        optimizer.step()
        optimizer.zero_grad()
    return net.state_dict()

shared = train(with_global_norms(net, world), world)
for p in net.parameters():  # processes that count different things: the mean over all of them
    p.grad = torch.full_like(p, world.rank + 1.0)
whole = share_gradients(net, torch.tensor(1.0 + 2.0 * world.rank, dtype=torch.float64), world)
assert whole == 4.0 and all((p.grad == 0.75).all() for p in net.parameters())
if world.first:
    write_tensors(Path(sys.argv[1]), shared)
    write_tensors(Path(sys.argv[2]), train(single, World()))
"""

TRAINING = """
import sys, torch; torch.set_num_threads(1)
from neocog import fit
fit.train("drawn:n=240,size=32", out=sys.argv[1], net="lenet5", recipe="standard", epochs=2, device="cpu", seed=1,
          precision="float32", diagnosis=False, progress=False,
          set=dict(optimizer="sgd", batch_size=48, resized_crop=0, mixup=0.3, cutmix=1))
"""

GUIDED = """
import sys, torch; torch.set_num_threads(1)
from neocog import fit
how = dict(net="lenet5", recipe="standard", device="cpu", precision="float32", diagnosis=False, progress=False)
one = dict(optimizer="sgd", batch_size=16, resized_crop=0, min_steps=1)
data = "drawn:n=80,size=32"
teacher = fit.train(data, out=sys.argv[1] + "-teacher", epochs=1, seed=1, set=one, **how)
fit.train(data, out=sys.argv[1] + "-two-nets", epochs=2, noisy="coteach", set=one | dict(wrong=0.4), **how)
fit.train(data, out=sys.argv[1], epochs=3, noisy=True, teachers=[teacher], unlabelled="drawn:n=40,size=32,seed=2",
          set=one, **how)
"""

TWICE = """
import sys, torch; torch.set_num_threads(1)
from neocog import fit
how = dict(net="lenet5", epochs=1, device="cpu", diagnosis=False, progress=False, set=dict(min_steps=1))
first, second = (fit.train("drawn:n=240,size=32", out=f"{sys.argv[1]}/{n}", **how) for n in (1, 2))
fit.resume(second.folder, epochs=2, progress=False)
"""


WITH_NORMS = """
import sys, torch; torch.set_num_threads(1)
from neocog import fit
fit.train("drawn:n=240,size=32", out=sys.argv[1], net="speednet", epochs=1, device="cpu", progress=False,
          set=dict(min_steps=1))
"""


def run(script: Path, code: str, processes: int, *arguments: Path) -> None:
    script.write_text(code)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    command += [str(script), *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_gradients_and_batch_statistics_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    shared, single = tmp_path / "shared", tmp_path / "single"
    run(tmp_path / "exact.py", EXACT, 2, shared, single)
    a, b = read_tensors(shared)[0], read_tensors(single)[0]
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_a_training_by_two_processes_is_that_of_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run(tmp_path / "training.py", TRAINING, 1, one)
    run(tmp_path / "training.py", TRAINING, 2, two)
    a, b = read_tensors(one / "weights.safetensors")[0], read_tensors(two / "weights.safetensors")[0]
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        torch.testing.assert_close(b[name], tensor, rtol=1e-3, atol=1e-4)
    mine, theirs = records(one, "epoch")[-1], records(two, "epoch")[-1]
    assert theirs["train_loss"] == pytest.approx(mine["train_loss"], rel=1e-3)
    assert theirs["val_accuracy"] == mine["val_accuracy"]
    assert read_json(two / "net.json")["metrics"]["test_n"] == read_json(one / "net.json")["metrics"]["test_n"]


@pytest.mark.slow
def test_two_processes_learn_the_same_from_beside_the_labels(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run(tmp_path / "guided.py", GUIDED, 1, one)
    run(tmp_path / "guided.py", GUIDED, 2, two)
    a, b = (read_tensors(folder / "checkpoint.safetensors")[0] for folder in (one, two))
    for name in [n for n in a if n.startswith(("net/", "beside/"))]:
        torch.testing.assert_close(b[name], a[name], rtol=1e-3, atol=1e-4)
    assert (a["beside/average"].sum(1) > 0.29).all()  # each was seen once at least, in either process
    a, b = (read_tensors(tmp_path / f"{n}-two-nets" / "checkpoint.safetensors")[0] for n in ("one", "two"))
    for name in [n for n in a if n.startswith(("net/", "beside/"))]:
        torch.testing.assert_close(b[name], a[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_one_program_can_train_several_times(tmp_path: Path) -> None:
    run(tmp_path / "twice.py", TWICE, 2, tmp_path / "runs")
    assert [len(records(tmp_path / "runs" / n, "epoch")) for n in ("1", "2")] == [1, 2]


@pytest.mark.slow
def test_the_first_look_of_one_process_does_not_disturb_the_others(tmp_path: Path) -> None:
    run(tmp_path / "training.py", WITH_NORMS, 2, tmp_path / "run")
    names = [r["name"] for r in records(tmp_path / "run", "diagnosis")]
    assert names[:2] == ["initial loss", "overfit one batch"] and len(records(tmp_path / "run", "epoch")) == 1
