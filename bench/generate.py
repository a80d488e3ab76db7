"""New pictures of single drawn shapes by a GAN and a VAE, beside a normal distribution and PCA; and a VAE on digits.

    python bench/generate.py namer vae reconstruct digits [--minutes 4.5] [--out FOLDER]
    python bench/generate.py gan --n 16000 --minutes 25     # after namer; a sheet of its samples is FOLDER/gan.png

namer: a classifier of the shapes, which says of samples what they show. Target: it names 90 % of a GAN's samples with a
probability of at least 0.9, and all eight classes are among them. The same is said of true pictures, of samples of PCA
(64 numbers, the rest noise) and of a normal distribution (512 directions), fitted on the same training pictures.
reconstruct: share of variance explained from 64 numbers, against PCA.
digits: scikit-learn's, 8x8. Stated before the first training: the bound of a VAE with 16 latent variables is at least
0.5 bits per dimension below what PCA needs with 16 components.

Drawn pictures with one shape, 32x32, grounds and light as always. Each training gets the minutes by the clock, which
say little on a busy machine; the seconds of the processor stand beside them. Writes into bench/results/generate.json.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import neocog
from neocog.data.decode import decode
from neocog.data.source import Source
from neocog.fit.device import hardware
from neocog.fit.examples import write_png
from neocog.fit.run import records
from neocog.tasks.pixels import Pca, sheet

SAMPLES, SURE = 500, 0.9
SETTINGS: dict[str, dict[str, Any]] = {
    "gan": {"task": "gan"},
    "vae": {"task": "vae", "net": "dcgan", "net_options": {"width": 24}, "set": {"batch_size": 32}},
    "reconstruct": {"task": "reconstruct", "net": "dcgan", "net_options": {"width": 24}, "set": {"batch_size": 32}},
    "digits": {"task": "vae", "size": 8, "net": "dcgan", "net_options": {"width": 64}, "task_options": {"latent": 16}},
    "namer": {"task": "label", "net": "dcgan", "net_options": {"width": 24}, "set": {"label_smoothing": 0.0}},
}  # fmt: skip


def shapes(n: int) -> Source:
    """About n drawn pictures with one shape."""
    source = neocog.open_source(f"drawn:n={4 * n},size=32,task=count")
    one = np.flatnonzero(source.labels == source.classes.index("1"))
    return neocog.open_source(f"drawn:n={4 * n},size=32").select(one)


def named(namer: neocog.Run, pictures: np.ndarray) -> dict[str, Any]:
    """What the classifier says of pictures uint8 (N, H, W, 3)."""
    found = namer.predict(list(pictures))
    sure = [one.label for one in found if one.probability >= SURE]
    return {
        "sure": round(len(sure) / len(found), 4),
        "n": len(found),
        "classes": {name: sure.count(name) for name in namer.classes},
    }


def pictures(source: Source, split: int, most: int) -> np.ndarray:
    rows = np.flatnonzero(source.splits == split)[:most]
    return np.stack([decode(raw) if isinstance(raw := source.read(int(i)), bytes) else raw for i in rows])


def baselines(source: Source, namer: neocog.Run, folder: Path) -> dict[str, Any]:
    """What the classifier says of test pictures, and of samples of two normal distributions."""
    trained = torch.from_numpy(pictures(source, 0, 5000)).flatten(1).float()
    made = {"test pictures": pictures(source, 2, SAMPLES)}
    for name, directions in (("PCA with 64 numbers", 64), ("normal distribution, 512 directions", 512)):
        found = Pca(trained, directions).sample(SAMPLES).round().clamp(0, 255).byte().numpy()
        made[name] = found.reshape(-1, 32, 32, 3)
        write_png(folder / f"{name}.png", sheet(made[name][:64]))
    return {name: named(namer, some) for name, some in made.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="+", choices=tuple(SETTINGS))
    parser.add_argument("--minutes", type=float, default=4.5)
    parser.add_argument("--n", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=Path("runs/generate"))
    options = parser.parse_args()
    file = Path(__file__).parent / "results" / "generate.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    source = shapes(options.n)
    for what in options.what:
        begin, used, load = time.perf_counter(), time.process_time(), os.getloadavg()[1]
        data: Any = "digits" if what == "digits" else source
        run = neocog.train(
            data, minutes=options.minutes, out=options.out / what, progress=False, device="cpu",
            diagnosis=False, **SETTINGS[what],
        )  # fmt: skip
        row: dict[str, Any] = {
            "figures": {k: v for k, v in run.metrics.items() if k.startswith("test_") and isinstance(v, int | float)},
            "steps": records(run.folder, "epoch")[-1]["step"],
            "seconds": round(time.perf_counter() - begin, 1),
            "processor_seconds": round(time.process_time() - used, 1),
            "load": [round(load, 1), round(os.getloadavg()[1], 1)],
            "settings": SETTINGS[what],
        }
        if what == "namer":
            row["named"] = baselines(source, run, options.out)
        elif what in ("gan", "vae"):
            made = run.sample(SAMPLES)
            row["named"] = named(neocog.load(options.out / "namer"), made)
            write_png(options.out / f"{what}.png", sheet(made[:64]))
        known[what] = {
            **row,
            "threads": torch.get_num_threads(),
            "hardware": hardware(),
            "versions": {"torch": torch.__version__, "neocog": neocog.__version__},
        }
        print(what, json.dumps(row), flush=True)
        file.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
