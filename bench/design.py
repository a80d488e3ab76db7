"""Architecture search against random search in equal time, and against speednet cut to the same budget.

    NEOCOG_DATA=... python bench/design.py --seeds 3 --minutes 60 --pictures 45000 --epochs 20 --out FILE   (hours)
    ... python bench/design.py --minutes 2.5 --pictures 4000 --epochs 3      (about ten minutes on one core)

CIFAR-10. "halving" is `neocog design`; "random" draws without learning and trains every candidate equally long, for the
same time. What each found, and speednet with its widths scaled to the budget, is then trained for `--epochs` by the
recipe that is usual for it, and tested on 2,000 test pictures that the search never saw.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neocog import anatomy, fit, nets
from neocog.data import open_source
from neocog.data.source import Source
from neocog.fit.design import design
from neocog.fit.device import hardware

SHAPE = (3, 32, 32)


def pictures(count: int, seed: int) -> Source:
    """`count` training pictures by chance, and 2,000 test pictures that are the same for every seed."""
    source = open_source("cifar10")
    train, test = (np.flatnonzero(source.splits == code) for code in (0, 2))
    some = np.random.default_rng(seed).choice(train, count, replace=False)
    return source.select(np.concatenate((np.sort(some), np.random.default_rng(1).choice(test, 2000, replace=False))))


def cut_speednet(macs: float, params: float) -> dict[str, Any]:
    """Options of the widest speednet that keeps the budget."""
    for scale in range(64, 0, -1):
        widths = [scale * each for each in (1, 4, 4)]
        with torch.device("meta"):
            net = nets.build("speednet", widths=widths)
        traced = anatomy.trace(net, SHAPE)
        if traced.macs <= macs and traced.params <= params:
            return {"widths": widths}
    raise SystemExit("no speednet keeps this budget")


def main() -> None:
    """Measure, print a row for each, and write all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=2.5)
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--macs", type=float, default=10e6)
    parser.add_argument("--params", type=float, default=500e3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in range(given.seeds):
        data = pictures(given.pictures, seed)
        for arm in ("halving", "random", "speednet"):
            with tempfile.TemporaryDirectory() as folder:
                row: dict[str, Any] = {"arm": arm, "seed": seed}
                how: dict[str, Any] = {"net": "speednet", "net_options": cut_speednet(given.macs, given.params)}
                if arm != "speednet":
                    begin = time.monotonic()
                    found = design(
                        data, max_macs=given.macs, max_params=given.params, minutes=given.minutes, seed=seed,
                        search="tpe" if arm == "halving" else "random", rungs=3 if arm == "halving" else 1,
                        out=Path(folder) / "search", progress=False,
                    )  # fmt: skip
                    how = {"net": found["net"]}
                    row |= {
                        "search_seconds": round(time.monotonic() - begin), "candidates": len(found["candidates"]),
                        "unit": found["unit"], "most_steps": found["steps"], "refused": found["refused"],
                        "found": found["candidates"][0]["net"], "val_accuracy": found["value"],
                    }  # fmt: skip
                begin = time.monotonic()
                run = fit.train(
                    data,
                    seed=seed,
                    epochs=given.epochs,
                    out=Path(folder) / "run",
                    diagnosis=False,
                    progress=False,
                    **how,
                )
                with torch.device("meta"):
                    traced = anatomy.trace(nets.build(**run.spec), SHAPE)
                row |= {
                    "macs": traced.macs, "params": traced.params, "train_seconds": round(time.monotonic() - begin),
                    "test_accuracy": run.metrics["test_accuracy"], "interval": run.metrics["test_accuracy_interval"],
                }  # fmt: skip
            rows.append(row)
            print(json.dumps(row), flush=True)
            if given.out:
                settings = {key: value for key, value in vars(given).items() if key != "out"}
                made = {"hardware": hardware(), "settings": settings, "rows": rows}
                given.out.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
