"""How fast is a library? Answering queries as it grows, learning a word, looking through old files.

    python bench/library.py                # everything but a million vectors
    python bench/library.py --most 1000000 # that, too: an hour on two cores
    python bench/library.py --tiny         # small numbers, to see that it runs

How fast files are indexed: bench/engines.py.

Vectors for the queries are generated: cluster centres plus noise, as features of photographs lie, half precision,
length 1. Each size is measured in a process of its own, whose memory is reported.
"""

from __future__ import annotations

import argparse
import contextlib
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
import pyarrow as pa
from PIL import Image

from neocog.library.indexing import index
from neocog.library.rows import vector_column
from neocog.library.store import Store

DIMENSION = 768


def generated(count: int, seed: int = 0) -> Any:
    """Yield blocks of vectors float32 (n, 768) of length 1: 1,000 centres, noise as large as they are."""
    centres = np.random.default_rng(1).normal(size=(1000, DIMENSION)).astype(np.float32)
    for start in range(0, count, 20_000):
        rng = np.random.default_rng((seed, start))
        n = min(20_000, count - start)
        block = centres[rng.integers(0, 1000, n)] + rng.normal(size=(n, DIMENSION)).astype(np.float32)
        yield start, block / np.linalg.norm(block, axis=1, keepdims=True)


def asking(count: int, queries: int, index_from: int) -> dict[str, Any]:
    """Queries against a library of that many generated vectors; run in a process of its own."""
    asked = np.concatenate([block for _, block in generated(queries, seed=7)])
    with tempfile.TemporaryDirectory() as name:
        store = Store.create(Path(name) / "lib")
        store.add_model("m", DIMENSION, {"weights": "generated"})
        best = np.full((queries, 10), -2.0, np.float32)  # the exact answer, gathered while the library is filled
        whose = np.zeros((queries, 10), np.int64)
        begin = time.perf_counter()
        exact = 0.0
        for start, block in generated(count):
            hashes = [f"{i:032x}" for i in range(start, start + len(block))]
            empty = pa.array([[]] * len(block), pa.list_(pa.int64()))
            rows = {"hash": hashes, "models": [["m"]] * len(block), "mtimes": empty, "inodes": empty}
            store.add(pa.table({**rows, "v_m": vector_column(block)}))
            pause = time.perf_counter()
            half = block.astype(np.float16).astype(np.float32)
            scores = np.concatenate([best, asked @ half.T], 1)
            ids = np.concatenate([whose, np.tile(np.arange(start, start + len(block)), (queries, 1))], 1)
            order = np.argsort(-scores, 1)[:, :10]
            best, whose = np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)
            exact += time.perf_counter() - pause
        filled = time.perf_counter() - begin - exact
        begin = time.perf_counter()
        store.tidy(index_from=index_from)
        store.refresh()
        tidied = time.perf_counter() - begin
        state = store.index_state("m")
        answer = subprocess.run(
            [sys.executable, __file__, "--ask", str(store.folder), str(queries)], capture_output=True, text=True
        )
        if answer.returncode:
            raise RuntimeError(answer.stderr)
        told = json.loads(answer.stdout)
        found = [{int(hash, 16) for hash in row} for row in told.pop("found")]
        k = min(10, count)
        right = sum(len(set(true[:k].tolist()) & row) for true, row in zip(whose, found, strict=True))
        size = sum(f.stat().st_size for f in store.folder.rglob("*") if f.is_file())
        cache = sum(f.stat().st_size for f in (store.folder / "cache").rglob("*") if f.is_file())
    return {
        "vectors": count, "indexed": state["indexed"], "seconds_to_fill": filled, "seconds_to_index": tidied,
        "megabytes": size / 1e6, "megabytes_of_copies": cache / 1e6, "recall_at_10": right / (k * queries), **told,
    }  # fmt: skip


def teaching(count: int, repeats: int) -> dict[str, Any]:
    """Teach a word from 20 pictures of one cluster in a library of generated vectors, each time in a fresh process.

    Seconds are those of `teach`: learn the head, put the tag on all pictures that have it, propose uncertain ones.
    """
    with tempfile.TemporaryDirectory() as name:
        store = Store.create(Path(name) / "lib")
        store.add_model("m", DIMENSION, {"weights": "generated"})
        rng = np.random.default_rng(3)
        kind = rng.integers(0, 40, count)
        centres = rng.normal(size=(40, DIMENSION))
        vectors = (centres[kind] + rng.normal(size=(count, DIMENSION))).astype(np.float32)
        hashes = np.array([f"{i:032x}" for i in range(count)])
        empty = pa.array([[]] * count, pa.list_(pa.int64()))
        rows = {"hash": hashes, "models": [["m"]] * count, "mtimes": empty, "inodes": empty}
        store.add(pa.table({**rows, "v_m": vector_column(vectors)}))
        store.refresh()
        of_kind = hashes[kind == 0].tolist()
        seconds = []
        for i in range(repeats):
            code = (
                "import sys, time; from neocog.library.store import Store; from neocog.library.teaching import teach\n"
                "store = Store.open(sys.argv[1]); begin = time.perf_counter()\n"
                "done = teach(store, sys.argv[2], sys.argv[3:]); print(time.perf_counter() - begin, done.tagged)"
            )
            command = [sys.executable, "-c", code, str(store.folder), f"kind {i}", *of_kind[:20]]
            answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            seconds.append(float(answer[0]))
    return {
        "vectors": count, "examples": 20, "of_that_kind": len(of_kind), "tagged": int(answer[1]),
        "seconds": statistics.median(seconds), "all": seconds,
    }  # fmt: skip


def peak_mib() -> float:
    """The most memory that this process had so far, mapped files included."""
    with contextlib.suppress(OSError):  # ru_maxrss counts what the parent had when it forked
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ask(folder: str, count: int) -> None:
    """Open a library as a user's process does, and ask it; prints latencies and memory as JSON."""
    asked = np.concatenate([block for _, block in generated(count, seed=7)])
    before = peak_mib()
    begin = time.perf_counter()
    store = Store.open(folder)
    store.nearest("m", asked[:1], 10)
    first = time.perf_counter() - begin
    for query in asked[: min(20, count)]:
        store.nearest("m", query, 10)
    times, found = [], []
    for query in asked:
        begin = time.perf_counter()
        found.append(store.nearest("m", query, 10)[0][0].tolist())
        times.append(1e3 * (time.perf_counter() - begin))
    peak = peak_mib()
    result = {
        "milliseconds_p50": float(np.percentile(times, 50)), "milliseconds_p95": float(np.percentile(times, 95)),
        "milliseconds_first": 1e3 * first, "mib": peak, "mib_above_start": peak - before,
    }  # fmt: skip
    print(json.dumps({**result, "found": found}))


class Nothing:
    """A net of no cost, so that only files and rows are measured."""

    name, dimension, outputs = "nothing", 8, 0

    def __init__(self) -> None:
        from neocog.records import Preprocess

        self.preprocess = Preprocess(8, 8, (0.0,) * 3, (1.0,) * 3)

    def card(self) -> dict[str, Any]:
        fields = {"size": 8, "resize": 8, "mean": [0.0] * 3, "std": [1.0] * 3, "channels": 3}
        return {"weights": "none", "preprocess": fields}

    def embed(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        flat = np.asarray(pictures, np.float32).reshape(len(pictures), -1)[:, ::24] + 1
        return flat, np.zeros((len(pictures), 0), np.float32)


def again(count: int) -> dict[str, Any]:
    """Index files, then look through them once more, unchanged; both with a net of no cost."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "p"
        for i in range(count):
            place = folder / str(i // 1000)
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (i % 256, i // 256 % 256, 7)).save(place / f"{i}.png")
        store = Store.create(folder / ".neocog")
        begin = time.perf_counter()
        index(store, [folder], Nothing())
        first = time.perf_counter() - begin
        times = []
        for _ in range(3):
            fresh = Store.open(folder)
            begin = time.perf_counter()
            report = index(fresh, (), Nothing())
            times.append(time.perf_counter() - begin)
            assert report.unchanged == count
    return {"files": count, "seconds_first": first, "seconds_again": statistics.median(times)}


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small numbers, to see that it runs; nothing is written")
    parser.add_argument("--most", type=int, default=100_000, help="the largest library that is asked")
    parser.add_argument("--only", choices=("query", "teach", "again"))
    parser.add_argument("--out", default="bench/results")
    parser.add_argument("--ask", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ask:
        ask(arguments.ask[0], int(arguments.ask[1]))
        return
    from neocog.library.vectors import INDEX_FROM

    tiny = arguments.tiny
    result: dict[str, Any] = {"date": time.strftime("%Y-%m-%d")}
    if arguments.only in (None, "query"):
        sizes = [1000, 2000] if tiny else [n for n in (1000, 10_000, 100_000, 1_000_000) if n <= arguments.most]
        result["query"] = []
        for count in sizes:
            result["query"].append(asking(count, 20 if tiny else 200, 2000 if tiny else INDEX_FROM))
            print(json.dumps(result["query"][-1]), flush=True)
    if arguments.only in (None, "teach"):
        result["teach"] = teaching(300 if tiny else 10_000, 1 if tiny else 5)
        print(result["teach"])
    if arguments.only in (None, "again"):
        result["again"] = again(200 if tiny else 10_000)
        print(result["again"])
    if not tiny:
        out = Path(arguments.out) / "library-cpu.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError, ValueError):  # parts are measured one at a time
            result = {**json.loads(out.read_text()), **result}
        out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
