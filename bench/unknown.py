"""Which distance tells strangers? AUROC of every method on a CIFAR-10 run, against drawn pictures and digits.

NEOCOG_DATA=... python bench/unknown.py RUN     # a run trained on cifar10
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from neocog.data import open_source
from neocog.data.batches import Known
from neocog.data.pictures import Streamed
from neocog.data.source import Source
from neocog.fit import Run
from neocog.fit.device import choose, hardware
from neocog.fit.evaluating import observed
from neocog.fit.job import Split
from neocog.fit.run import read_tensors
from neocog.tasks.unknown import compare


def main() -> None:
    """Measure and print, one row a method."""
    run = Run(sys.argv[1])
    device = choose()
    net = run.net().to(device.torch).to(memory_format=device.layout)  # type: ignore[call-overload]
    codes = read_tensors(run.folder / "split.safetensors")[0]["codes"].numpy()
    source = open_source("cifar10")

    def features(source: Source, rows: np.ndarray) -> np.ndarray:
        known = Known({"label": source.columns["label"].select(rows)}, run.task.collate)
        split = Split((Streamed(source, rows, run.preprocess),), source, rows, known)
        return observed(net, run.task, split, device, features=True)[1]

    def of(split: int, most: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.flatnonzero(codes == split)
        rows = rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]
        return features(source, rows), source.labels[rows]

    known, labels = of(0, 5000)
    held_out, test = of(1, 1000)[0], of(2, 5000)[0]
    strangers = {}
    for name, spec in (("drawn", "drawn:n=1000,size=64,seed=1"), ("digits", "digits")):
        other = open_source(spec)
        strangers[name] = features(other, np.arange(min(1000, len(other))))
    rows = compare(known, labels, len(run.classes), held_out, strangers, known=test)
    for row in rows:
        print(json.dumps(row))
    result = {
        "n": {"bank": 2000, "test": len(test), **{k: len(v) for k, v in strangers.items()}},
        "rows": rows,
        "hardware": hardware(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    Path("bench/results").mkdir(parents=True, exist_ok=True)
    Path("bench/results/unknown.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
