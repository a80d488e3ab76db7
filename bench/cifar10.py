"""CIFAR-10 to 94 %: recipe fast and speednet, from files on disk to test accuracy, against two yardsticks.

1. The convolution limit: 0.36 PFLOP (the published record's convolutions, 9.9 epochs of KellerJordan/cifar10-airbench)
   at the rate that a large bfloat16 convolution reaches on this machine in this run.
2. The loop that a user would write: the same net, PyTorch's defaults, float32, a DataLoader with two workers.

    NEOCOG_DATA=... python bench/cifar10.py --seeds 3
    NEOCOG_DATA=... python bench/cifar10.py --recipe best --net speednet_deep --seeds 1 --target 0.955

The same script runs on a CUDA device. It writes bench/results/cifar10-<recipe>-<device>.json and prints a table.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from neocog import fit, nets
from neocog.data import open_source
from neocog.fit.device import choose, convolution_rate, hardware
from neocog.fit.run import read_json, records
from neocog.records import SPLITS

RECORD_PFLOP = 0.36


def large_convolution(device: torch.device) -> float:
    """TFLOP/s of a 3x3 convolution 128 -> 256 on 256 maps of 16x16, bfloat16, channels-last, forward and backward."""
    return convolution_rate(device, torch.bfloat16, True, batch=256, channels=(128, 256), size=16, seconds=2)


class _UserSet(torch.utils.data.Dataset):
    """What a user writes: decode, random crop with padding, flip, to tensor, normalise; a picture at a time."""

    def __init__(self) -> None:
        source = open_source("cifar10")
        rows = np.flatnonzero(source.splits == SPLITS.index("train"))
        self.items = [(source.read(int(i)), int(source.labels[i])) for i in rows]
        self.mean = torch.tensor([0.4914, 0.4822, 0.4465])[:, None, None]
        self.std = torch.tensor([0.2470, 0.2435, 0.2616])[:, None, None]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        data, label = self.items[index]
        picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        picture = np.pad(picture, ((2, 2), (2, 2), (0, 0)), mode="reflect")
        top, left = torch.randint(0, 5, (2,)).tolist()
        picture = picture[top : top + 32, left : left + 32]
        if torch.rand(()) < 0.5:
            picture = picture[:, ::-1]
        x = torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255
        return (x - self.mean) / self.std, label


def user_loop(net_name: str, batch: int, steps: int, device: torch.device) -> float:
    """Pictures per second of the plain loop over `steps` steps, after one that warms up."""
    # in a process of its own (see main), because neocog tells glibc to keep memory, which would help this loop, too
    net = nets.build(net_name).to(device)
    net.whiten.weight.data.normal_()  # type: ignore[union-attr,operator]
    optimizer = torch.optim.SGD((p for p in net.parameters() if p.requires_grad), lr=0.1, momentum=0.9)
    loader = torch.utils.data.DataLoader(_UserSet(), batch_size=batch, shuffle=True, num_workers=2)
    times: list[float] = []
    last = 0.0
    for step, (x, y) in enumerate(loader):
        x, y = x.to(device), y.to(device)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if step:
            times.append(now - last)
        last = now
        if step == steps:
            break
    return batch / statistics.median(times)


def train_once(seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One training from the files to the test accuracy."""
    fields = dict(pair.split("=", 1) for pair in arguments.set)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        fit.train(
            "cifar10",
            net=arguments.net,
            recipe=arguments.recipe,
            epochs=arguments.epochs,
            seed=seed,
            out=out,
            set=fields,
        )
        done = records(out, "metrics")[-1]
        epochs = records(out, "epoch")
        card = read_json(out / "net.json")
        return {
            "seed": seed,
            "accuracy": done["metrics"]["test_accuracy"],
            "seconds": done["seconds"],
            "training_seconds": epochs[-1]["elapsed"],
            "pictures_per_second": statistics.median(e["pictures_per_second"] for e in epochs),
            "waiting": statistics.median(e["waiting"] for e in epochs),
            "epochs": epochs[-1]["epoch"],
            "ece": done["metrics"]["test_ece"],
            "unknown": card["unknown"],
            "curve": [round(e["val_accuracy"], 4) for e in epochs],
        }


def main() -> None:
    """Run the benchmark and write its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--net", default="speednet")
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--epochs", type=float, default=None)
    parser.add_argument("--set", action="append", default=[], metavar="field=value")
    parser.add_argument("--target", type=float, default=0.94)
    parser.add_argument("--user-steps", type=int, default=5, help="steps of the plain loop; 0 leaves it out")
    parser.add_argument("--out", default="bench/results")
    parser.add_argument("--user-only", action="store_true", help="only the plain loop; print its pictures per second")
    arguments = parser.parse_args()
    if arguments.user_only:
        where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        print(user_loop(arguments.net, 2000, arguments.user_steps, where))
        return

    device = choose()
    rates = [large_convolution(device.torch)]
    rows = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        rows.append(train_once(seed, arguments))
        rates.append(large_convolution(device.torch))
        print(json.dumps({k: v for k, v in rows[-1].items() if k != "unknown"}), f"rate {rates[-1]:.3f}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    plain = None
    if arguments.user_steps:
        command = [sys.executable, __file__, "--user-only", "--net", arguments.net]
        command += ["--user-steps", str(arguments.user_steps)]
        plain = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])

    accuracies = [row["accuracy"] for row in rows]
    rate = statistics.median(rates)
    limit = RECORD_PFLOP * 1e3 / rate
    seconds = statistics.median(row["seconds"] for row in rows)
    speed = statistics.median(row["pictures_per_second"] for row in rows)
    result = {
        "recipe": arguments.recipe,
        "net": arguments.net,
        "n": len(rows),
        "mean_accuracy": statistics.mean(accuracies),
        "standard_deviation": statistics.stdev(accuracies) if len(rows) > 1 else None,
        "target": arguments.target,
        "median_seconds": seconds,
        "convolution_tflops": rate,
        "convolution_tflops_all": rates,
        "limit_seconds": limit,
        "seconds_over_limit": seconds / limit,
        "pictures_per_second": speed,
        "user_pictures_per_second": plain,
        "times_user_loop": speed / plain if plain else None,
        "peak_memory_gib": peak,
        "device": str(device),
        "hardware": hardware(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "runs": rows,
    }
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"cifar10-{arguments.recipe}-{device.kind}.json").write_text(json.dumps(result, indent=1) + "\n")
    spread = result["standard_deviation"]
    print(f"accuracy: mean {100 * result['mean_accuracy']:.2f} %" + (f" +- {100 * spread:.2f}" if spread else ""))
    print(f"n = {len(rows)}; target {100 * arguments.target:.1f} %")
    print(f"files to test accuracy: median {seconds:.0f} s; {RECORD_PFLOP} PFLOP at {rate:.3f} TFLOP/s: {limit:.0f} s")
    print(f"ratio to that limit: {seconds / limit:.2f}")
    if plain:
        print(f"pictures per second in training: {speed:.0f}; plain loop: {plain:.0f}; ratio {speed / plain:.2f}")
    print(f"peak memory {peak:.2f} GiB; {device}; torch {torch.__version__}")


if __name__ == "__main__":
    main()
