"""Spoken digits by the call that a user types, beside MFCC statistics and a support vector machine of scikit-learn.

    NEOCOG_DATA=... python bench/sounds.py split [--seed 0] [--net tc_resnet8] [--epochs N]
    NEOCOG_DATA=... python bench/sounds.py speakers [--only theo] [--seed 0]
    NEOCOG_DATA=... python bench/sounds.py spot

split: the set's own split, recordings 0 to 4 of each speaker and digit are the test. speakers: one of six people is
left out of the training and is the test, six trainings; validation is a tenth of the recordings of the other five.
spot: 60 test recordings of the own split, joined with pauses of 0.15 to 0.5 s in faint noise, are found again by
`fit.spot` with the net that `split --run FOLDER` left. Writes rows into bench/results/sounds.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import neocog
from neocog import fit
from neocog.data import open_source
from neocog.data.sound import decode, sounding, written
from neocog.data.source import Source
from neocog.data.spectra import Spectrum
from neocog.fit.device import hardware

OUT = Path(__file__).parent / "results" / "sounds.json"
SET = Path(os.environ["NEOCOG_DATA"]) / "digits_spoken" / "digits_spoken.parquet"
TEST, TRAIN = 2, 0


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["split", "speakers", "spot"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--net")
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--only", help="one speaker")
    parser.add_argument("--run", type=Path, help="the net of the own split, for spot")
    given = parser.parse_args()
    how = {name: value for name in ("net", "epochs") if (value := getattr(given, name)) is not None}
    source = open_source(SET, columns={"group": "speaker"})
    speakers = source.columns.pop("group")  # type: ignore[attr-defined]  # a split among the others is by chance
    if given.what == "spot":
        write([spotted(given.run, source)])
    elif given.what == "split":
        write([trained(source, "own split", given.seed, how, keep=given.run)])
    else:
        for k, name in enumerate(speakers.names):
            if given.only in (None, name):
                one = source.select(np.arange(len(source)))
                one.splits = np.where(speakers.codes == k, TEST, TRAIN).astype(np.int8)
                write([trained(one, f"without {name}", given.seed, how)])


def trained(source: Source, what: str, seed: int, how: dict[str, Any], keep: Path | None = None) -> dict[str, Any]:
    """A training with default settings, and the baseline on the same recordings."""
    with tempfile.TemporaryDirectory() as folder:
        begin, before = time.perf_counter(), time.process_time()
        run = neocog.train(source, seed=seed, out=keep or Path(folder) / "run", progress=False, **how)
        seconds, used = time.perf_counter() - begin, time.process_time() - before
        m, plan = run.metrics, json.loads((run.folder / "net.json").read_text())["net"]
    machine, _ = baseline(source)
    return {
        "what": what, "seed": seed, "net": plan["name"], **how, "test_accuracy": m["test_accuracy"], "n": m["test_n"],
        "seconds": round(seconds, 1), "processor_seconds": round(used, 1), "svm_accuracy": machine,
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }  # fmt: skip


def baseline(source: Source) -> tuple[float, Any]:
    """Mean and deviation over time of 20 MFCCs and their differences; an RBF machine, its C by 5 folds."""
    spectrum, rows = Spectrum(8000, 256, 80, "mfcc", 40, 20), []
    for i in range(len(source)):
        wave, rate = decode(source.read(i), 8000)  # type: ignore[arg-type]
        mfcc = spectrum(torch.from_numpy(wave[sounding(wave, rate)])[None])[0].numpy()
        change = np.diff(mfcc, axis=1, prepend=mfcc[:, :1])
        rows.append(np.concatenate([f(part, 1) for part in (mfcc, change) for f in (np.mean, np.std)]))
    x, test = np.stack(rows), source.splits == TEST
    grid = {"svc__C": [1, 10, 100]}
    machine = GridSearchCV(make_pipeline(StandardScaler(), SVC()), grid, cv=5)
    machine.fit(x[~test], source.labels[~test])
    return float(machine.score(x[test], source.labels[test])), machine


def spotted(run: Path, source: Source) -> dict[str, Any]:
    """Digits in a recording joined of test recordings: found again within 0.2 s, with the right label."""
    chance, rate = np.random.default_rng(0), 8000
    pieces: list[np.ndarray] = [np.zeros(rate // 2, np.float32)]
    truth, at = [], rate // 2
    for i in chance.choice(np.flatnonzero(source.splits == TEST), 60, replace=False):
        wave, _ = decode(source.read(int(i)))  # type: ignore[arg-type]
        wave = 0.5 * wave / np.abs(wave).max()
        truth.append((source.classes[source.labels[i]], (at + len(wave) / 2) / rate))
        pause = np.zeros(int(chance.uniform(0.15, 0.5) * rate), np.float32)
        pieces += [wave, pause]
        at += len(wave) + len(pause)
    whole = np.concatenate(pieces)
    whole += chance.normal(0, 0.001, len(whole)).astype(np.float32)
    begin = time.perf_counter()
    found = [one for one in fit.spot(run, [written(whole, rate)]) if one.label is not None]
    seconds, left, right = time.perf_counter() - begin, list(truth), 0
    for one in found:
        hit = next((t for t in left if t[0] == one.label and abs(t[1] - (one.begin + one.end) / 2) <= 0.2), None)
        if hit:
            left.remove(hit)
            right += 1
    return {
        "what": "spotting", "words": len(truth), "recording_seconds": round(len(whole) / rate, 1),
        "found": len(found), "right": right, "seconds": round(seconds, 1),
    }  # fmt: skip


def write(rows: list[dict[str, Any]]) -> None:
    """Add rows, in the place of those of the same name, seed and net."""
    made = json.loads(OUT.read_text()) if OUT.exists() else {}
    key = ("what", "seed", "net", "epochs")
    for row in rows:
        print(json.dumps(row), flush=True)
        kept = [old for old in made.get("rows", []) if any(old.get(k) != row.get(k) for k in key)]
        made = {"hardware": hardware(), "rows": [*kept, row]}
    OUT.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
