"""Spoken digits by the call that a user types, beside MFCC statistics and a support vector machine of scikit-learn.

    NEOCOG_DATA=... python bench/sounds.py split [--seed 0] [--net tc_resnet8] [--epochs N]
    NEOCOG_DATA=... python bench/sounds.py speakers [--only theo] [--seed 0]
    NEOCOG_DATA=... python bench/sounds.py spot --run FOLDER
    NEOCOG_DATA=... python bench/sounds.py search

split: the set's own split, recordings 0 to 4 of each speaker and digit are the test. speakers: one of six people is
left out of the training and is the test, six trainings; validation is a tenth of the recordings of the other five.
spot: 60 test recordings of the own split, joined with pauses of 0.15 to 0.5 s in faint noise, are found again by
`fit.spot` with the net that `split --run FOLDER` left. search: the constants of library/calibration.py for recordings
(the threshold with the fewest examples that find nothing, of the same and of other people, and noises that find more),
learned on four people and half of the kinds of noises.py, and what they find: of the two other people, and of the other
kinds, which are in no library; with statistics of MFCCs, and with a net trained on the four (the line of such nets is
learned on two people with a net of the two others; 40 epochs). Writes rows into bench/results/sounds.json.
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
from noises import KINDS, RATE, noise
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
from neocog.library.calibration import RUN_ON_SOUNDS, fit_line
from neocog.library.hearing import Hearing
from neocog.library.indexing import index
from neocog.library.searching import search
from neocog.library.store import Store
from neocog.library.view import unit, view_of

OUT = Path(__file__).parent / "results" / "sounds.json"
SET = Path(os.environ["NEOCOG_DATA"]) / "digits_spoken" / "digits_spoken.parquet"
TEST, TRAIN = 2, 0


def main() -> None:
    """Run one of the four."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["split", "speakers", "spot", "search"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--net")
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--only", help="one speaker")
    parser.add_argument("--run", type=Path, help="the net of the own split, for spot")
    given = parser.parse_args()
    how = {name: value for name in ("net", "epochs") if (value := getattr(given, name)) is not None}
    source = open_source(SET, columns={"group": "speaker"})
    speakers = source.columns.pop("group")  # type: ignore[attr-defined]  # a split among the others is by chance
    if given.what == "search":
        with tempfile.TemporaryDirectory() as folder:
            people = np.array(speakers.names)[speakers.codes]
            write(searched(source, people, Path(folder), given.run or Path(folder) / "runs"))
    elif given.what == "spot":
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


def searched(source: Source, people: np.ndarray, folder: Path, nets: Path) -> list[dict[str, Any]]:
    """Lines and thresholds, and what they find; see above. `nets`: where runs are, or will be."""
    first, second, last = ("jackson", "theo"), ("nicolas", "lucas"), ("george", "yweweler")
    known, strange = ({kind: [noise(kind, i) for i in range(40)] for kind in KINDS[k::2]} for k in (0, 1))
    test = source.splits == TEST  # numbers 0 to 4 of each digit and person
    rows: list[dict[str, Any]] = []
    for what in ("mfcc_statistics", RUN_ON_SOUNDS):
        runs: list[Path | None] = [None, None]
        if what == RUN_ON_SOUNDS:
            runs = [_on(source, np.isin(people, who), nets / "-".join(who)) for who in (first, first + second)]
        learn = np.isin(people, second if runs[0] else first + second)
        store = _library(source, learn & (np.arange(len(learn)) % 2 == 0), folder / f"learn {what}", runs[0])
        view, model = view_of(store), store.model or ""
        aliens = view.embed(model, [written(one, RATE) for some in known.values() for one in some])
        lines = {}
        for layer, alien in zip(("features", "output")[: 2 if runs[0] else 1], aliens, strict=False):
            at, vectors = view.vectors(model, layer)
            names = [Path(view.paths(int(i))[0]).parent.stem.split("_") for i in at]
            labels = np.array([label for label, _ in names])
            who = people[[int(number) for _, number in names]]
            mean, spread = view.scale(model, "cosine", layer)
            a, b = np.triu_indices(len(at), 1)
            own = unit(vectors, layer)
            line = fit_line(((own @ own.T)[a, b] - mean) / spread, labels[a] == labels[b])
            strangers = unit(alien / np.linalg.norm(alien, axis=1, keepdims=True), layer)
            false = line(((strangers @ own.T).max(1) - mean) / spread)
            alike = line((own @ own.T - mean) / spread)
            same, other = (np.where(out, 0, alike).max(1) for out in (np.eye(len(at), dtype=bool), who[:, None] == who))
            steps = np.arange(1, 100) / 100
            missed = [((same < t).mean() + (other < t).mean()) / 2 for t in steps]
            wrong = [(false >= t).mean() for t in steps]
            limit = float(steps[np.argmin(np.add(missed, wrong))])
            lines["example" if layer == "features" else layer] = {
                "line": [float(f"{v:.3g}") for v in (line.slope, line.shift)], "pairs": line.n, "threshold": limit,
                "random pairs": [round(v, 3) for v in view.pairs(model, "cosine", layer)],
                "missed": round(missed[round(100 * limit) - 1], 3), "wrong": round(wrong[round(100 * limit) - 1], 3),
            }  # fmt: skip
        rows.append({"what": f"lines, {what}", **lines})
        limit, kept = (
            lines["example"]["threshold"],
            dict(zip(("slope", "shift"), lines["example"]["line"], strict=True)),
        )
        for asked, held in (("the same people", last), ("others", last[:1]), ("others", last[1:])):
            theirs = np.isin(people, held)
            store = _library(source, theirs & ~test, folder / f"{what} {held}", runs[1])
            store.save("calibration", {store.model: {"example": kept}})
            outside = (theirs if asked == "the same people" else np.isin(people, last) & ~theirs) & test
            rows.append(
                {"what": f"search, {what}, library of {' and '.join(held)}, asked by {asked}"}
                | _found(source, store, outside, limit, folder)
            )
            if asked == "the same people":
                made = [one for some in strange.values() for one in some]
                every = [search(store, like=[str(_put(folder, one))], threshold=limit) for one in made]
                wrong = [kind for kind, answer in zip(np.repeat(list(strange), 40), every, strict=True) if answer.found]
                rows.append({
                    "what": f"search, {what}, asked by sounds that are no words", "n": len(made),
                    "find something": len(wrong), "kinds": {str(k): wrong.count(k) for k in dict.fromkeys(wrong)},
                })  # fmt: skip
    return rows


def _on(source: Source, chosen: np.ndarray, folder: Path) -> Path:
    """A run of 40 epochs on some recordings, a tenth of which validates; made where it is not there."""
    if (folder / "net.json").exists():
        return folder
    one = source.select(np.flatnonzero(chosen))
    one.splits = np.zeros(len(one), np.int8)
    return neocog.train(one, seed=0, epochs=40, out=folder, progress=False).folder


def _library(source: Source, chosen: np.ndarray, folder: Path, run: Path | None) -> Store:
    folder.mkdir()
    for i in np.flatnonzero(chosen):
        (folder / f"{source.classes[source.labels[i]]}_{i}.wav").write_bytes(source.read(int(i)))  # type: ignore[arg-type]
    store = Store.create(folder / ".neocog")
    index(store, [folder], Hearing(run), sounds=True, threads=1)
    return store


def _put(folder: Path, wave: np.ndarray | bytes) -> Path:
    path = folder / "question.wav"
    path.write_bytes(wave if isinstance(wave, bytes) else written(wave, RATE))
    return path


def _found(source: Source, store: Store, asked: np.ndarray, threshold: float, folder: Path) -> dict[str, Any]:
    """Of examples: those that find something, and shares of right ones among the first ten, and among all hits."""
    first, shown, some, all_found, all_right = [], [], 0, 0, 0
    for i in np.flatnonzero(asked):
        label, path = source.classes[source.labels[i]], _put(folder, source.read(int(i)))  # type: ignore[arg-type]
        ten = [Path(hit.path).parent.name[0] == label for hit in search(store, like=[str(path)], top=10, threshold=0.0)]
        answer = search(store, like=[str(path)], top=1000, threshold=threshold)
        right = [Path(hit.path).parent.name[0] == label for hit in answer]
        first.append(np.mean(ten))
        shown += right[:10]
        some += bool(right)
        all_found, all_right = all_found + len(right), all_right + sum(right)
    n = len(first)
    return {
        "n": n, "right of the nearest ten": round(float(np.mean(first)), 3), "find something": some,
        "right of the first ten hits": round(float(np.mean(shown)), 3) if shown else None, "hits": all_found,
        "right hits": all_right,
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
