"""What does each step of a large library cost, and how does it grow with the number of pictures?

    python bench/scale.py --counts 10000 100000   # minutes on two cores
    python bench/scale.py --counts 1000000        # more than an hour, 20 GB of disk
    python bench/scale.py --tiny                  # small numbers, to see that it runs; nothing is written

Vectors and probabilities are generated, in the sizes of efficientnet_lite0 (1,280 and 1,000 numbers, half precision),
and the rows have what rows of files have. Reading, decoding and computing are left out: they do not depend on how many
there are. Each step runs in a process of its own: its processor seconds (of all threads), seconds and peak memory.

    fill     commits of 16,384 rows, as a cluster's index makes them; the first and the last tell how they grow
    ledger   what a run of indexing reads first: which file has which content
    tidy     joining fragments, and the search index of vectors
    ask      a resident process: opening, and queries by example, one after the other
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from library import peak_mib

from neocog.library.folders import Ledger
from neocog.library.rows import vector_column
from neocog.library.store import Store

DIMENSION, CLASSES, ROWS = 1280, 1000, 16_384


def block(start: int, count: int) -> np.ndarray:
    """Vectors float32 (count, 1280) of length 1: 1,000 centres, and noise as large as they are."""
    centres = np.random.default_rng(1).normal(size=(1000, DIMENSION)).astype(np.float32)
    rng = np.random.default_rng((0, start))
    made = centres[rng.integers(0, 1000, count)] + rng.standard_normal((count, DIMENSION), np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def fill(folder: Path, count: int) -> dict[str, Any]:
    """Write the library in large commits."""
    store = Store.create(folder)
    store.add_model("m", DIMENSION, {"weights": "generated"}, classes=CLASSES)
    chances = vector_column(np.full((ROWS, CLASSES), 1 / CLASSES, np.float32))
    commits = []
    for start in range(0, count, ROWS):
        n = min(ROWS, count - start)
        numbers = range(start, start + n)
        columns = {
            "hash": pa.array([f"{i * 0x9E3779B97F4A7C15 % 2**64:032x}" for i in numbers]),
            "paths": pa.array([[f"s3://photos/2024/{i // 1000:06}/IMG_{i:09}.jpg"] for i in numbers]),
            "mtimes": pa.array([[i] for i in numbers], pa.list_(pa.int64())),
            "inodes": pa.array([[0]] * n, pa.list_(pa.int64())),
            "name": pa.array([f"IMG_{i:09}.jpg" for i in numbers]),
            "size": pa.array(numbers, pa.int64()),
            "thumb": pa.array([os.urandom(288)] * n),
            "models": pa.array([["m"]] * n),
            "v_m": vector_column(block(start, n)),
            "p_m": chances.slice(0, n),
        }
        begin = time.process_time()
        store.add(pa.table(columns))
        commits.append(time.process_time() - begin)
    whole = commits[:-1] if count % ROWS else commits
    return {"commits": len(commits), "first_commit": (whole or commits)[0], "last_commit": (whole or commits)[-1]}


def ledger(folder: Path, count: int) -> dict[str, Any]:
    """Read which file has which content."""
    store = Store.open(folder)
    return {"contents": len(Ledger(store, []).contents)}


def tidy(folder: Path, count: int) -> dict[str, Any]:
    """Join fragments, and make the search index where it pays."""
    store = Store.open(folder)
    store.tidy()
    store.refresh()
    size = {name: _bytes(folder / name) for name in ("pictures.lance", "vectors_m.lance", "cache")}
    return {"indexed": store.index_state("m")["indexed"], "bytes": size}


def ask(folder: Path, count: int) -> dict[str, Any]:
    """Open the library, and ask it 100 times for the ten nearest of pictures that are slightly changed."""
    begin = time.perf_counter(), time.process_time()
    store = Store.open(folder)
    rng = np.random.default_rng(9)
    n = min(count, 100)
    queries = block(0, min(count, ROWS))[:n]
    queries = queries + 0.3 / DIMENSION**0.5 * rng.standard_normal(queries.shape, np.float32)
    first = store.nearest("m", queries[0], 10)
    opened = time.perf_counter() - begin[0], time.process_time() - begin[1]
    waited, cost, right = [], [], 0
    for i, query in enumerate(queries):
        begin = time.perf_counter(), time.process_time()
        hashes, _ = store.nearest("m", query, 10)
        waited.append(1e3 * (time.perf_counter() - begin[0]))
        cost.append(1e3 * (time.process_time() - begin[1]))
        right += hashes[0, 0] == f"{i * 0x9E3779B97F4A7C15 % 2**64:032x}"
    assert len(first[0][0]) == min(10, count)
    return {
        "first_answer_seconds": opened[0], "first_answer_processor_seconds": opened[1], "found_itself": right / n,
        "milliseconds_p50": statistics.median(waited), "processor_milliseconds_p50": statistics.median(cost),
    }  # fmt: skip


STEPS = {step.__name__: step for step in (fill, ledger, tidy, ask)}


def step(name: str, folder: Path, count: int) -> None:
    """Run one step in this process, and print what it cost."""
    before, begin = peak_mib(), (time.perf_counter(), time.process_time())
    told = STEPS[name](folder, count)
    seconds, processor = time.perf_counter() - begin[0], time.process_time() - begin[1]
    print(
        json.dumps(
            {"seconds": seconds, "processor_seconds": processor, "peak_mib": peak_mib(), "start_mib": before} | told
        )
    )


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main() -> None:
    """Measure, print, and write the results after each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", default="bench/results/scale.json")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        step(arguments.step[0], Path(arguments.step[1]), int(arguments.step[2]))
        return
    from neocog.fit.device import hardware

    out = Path(arguments.out)
    result: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        result = json.loads(out.read_text())
    result |= {"date": time.strftime("%Y-%m-%d"), "hardware": hardware(), "dimension": DIMENSION, "classes": CLASSES}
    for count in [200] if arguments.tiny else arguments.counts:
        with tempfile.TemporaryDirectory() as name:
            for one in STEPS:
                command = [sys.executable, __file__, "--step", one, str(Path(name) / "lib"), str(count)]
                told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                print(f"{count:,} {one}: {told}", flush=True)
                result.setdefault("counts", {}).setdefault(str(count), {})[one] = told
                if not arguments.tiny:
                    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
