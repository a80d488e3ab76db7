"""Two processes compute for every task what one computes: the same weights after some steps, and the same figures."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ready import Ready

from neocog import tasks
from neocog.fit.run import read_tensors

NAMES = (*(name for name in tasks.names() if "picture" in (tasks.find(name).inputs or ("picture",))), "pose+label")

# float64, so that the order of additions is no excuse; half of the pictures with numbers are not known, and pictures
# have different numbers of boxes, so processes count different things
CODE = """
import json, os, sys, torch
from pathlib import Path
import numpy as np
from neocog.fit.recipes import recipe
from neocog.data import open_source
from neocog.data.augment import Augment
from neocog.data.batches import Batches, Held, Known, in_order
from neocog.fit.parallel import join, of_all, share_gradients, with_global_norms
from neocog.fit.run import write_tensors
from neocog.records import Preprocess
from neocog.tasks.task import Meter, build_net, find
torch.set_num_threads(1)
folder, names, rank, size, port = sys.argv[1:]
if int(size) > 1:  # what torchrun says to each process
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=size, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
world, cpu, folder = join(), torch.device("cpu"), Path(folder)
folder.mkdir(exist_ok=True)

def double(batch):
    more = lambda x: x.double() if torch.is_tensor(x) and x.is_floating_point() else x
    batch.inputs = tuple(map(more, batch.inputs))
    batch.targets = {k: more(v) for k, v in batch.targets.items()}
    return batch

for name in names.split(","):
    source, kind, rows = open_source("drawn:n=32,size=32"), find(name), np.arange(32)
    if "numbers" in kind.needs:
        source.columns["numbers"].values[1:30:2] = np.nan
    settings = {**recipe(kind.recipe or "standard").as_dict(), **kind.options, "width": 16,
                "dropout": 0.0, "words": 0.0, "tower": "cdssm"}  # what is dropped differs from process to process
    task = kind.plan(source, rows, settings)
    torch.manual_seed(0)
    net = build_net(task, {"name": "cifar_resnet20", "classes": task.outputs or 10, "in_channels": 3, "input_size": 32})
    net = with_global_norms(net.double(), world)
    columns = {role: source.columns[role] for role in task.needs}
    known = Known(columns, task.collate, task.geometry)
    pictures = Held(source, rows, Preprocess(32, 32, fit=task.fit), cpu)
    stream = Batches(pictures, known, Augment(flip="random" if task.mirrors else "none"), 8, seed=3, device=cpu,
                     dtype=torch.float64, order=lambda g: task.order(columns, 32, 8, g),
                     rank=world.rank, world=world.size).stream(0)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    for step in range(2):
        torch.manual_seed(step)
        batch = double(next(stream))
        found = task.losses(task.run(net, batch), batch)
        count = torch.as_tensor(found.count, dtype=torch.float64)
        (found.total * count).backward()
        share_gradients(net, count, world)
        optimizer.step()
        optimizer.zero_grad()
    net, meter = net.eval(), Meter(task)
    mine = torch.arange(14)[world.rank :: world.size]
    with torch.no_grad():
        for batch in in_order(pictures, 5, cpu, known=known, chosen=mine):
            meter.add(task.run(net, double(batch)), batch)
    figures = task.figures(meter.seen(lambda own: of_all(own, world)))
    if world.first:
        write_tensors(folder / f"{name}.safetensors", dict(net.state_dict()))
        (folder / f"{name}.json").write_text(json.dumps(figures, default=float))
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, ready: Ready) -> Path:
    """What one process and two wrote."""
    folder = tmp_path_factory.mktemp("both")
    (folder / "code.py").write_text(CODE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [
        ready.start(folder / "code.py", folder, folder / str(size), ",".join(NAMES), rank, size, port)
        for size in (1, 2)
        for rank in range(size)
    ]
    for child in children:
        assert child.wait() == 0, child.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_figures_are_those_of_one_process(both: Path, name: str) -> None:
    one, two = (read_tensors(both / n / f"{name}.safetensors")[0] for n in "12")
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=1e-5, atol=1e-8)
    one_figures, two_figures = (json.loads((both / n / f"{name}.json").read_text()) for n in "12")
    assert one_figures["n"] > 0
    assert _close(two_figures, one_figures), (one_figures, two_figures)


def _close(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_close(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_close, a, b))
    return a == b or bool(np.isclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True))
