"""How fast is a search by sentence? A library of generated vectors, the space that comes with neocog.

    python bench/sentences.py [--count 100000] [--queries 30]

Vectors are generated as in bench/library.py: centres plus noise, 1,280 numbers. Queries are asked in
one process, after a first one (warm); the whole command is one process each (files in the page cache).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from neocog.library.rows import vector_column
from neocog.library.sentences import places, space_of
from neocog.library.store import Store

WORDS = "two a brown men dog girl red playing running football beach snow on grass in water child swing".split()
WIDTH = 1280


def made(folder: Path, count: int) -> Store:
    """A library of that many generated vectors of the space's trunk."""
    store = Store.create(folder)
    store.add_model("efficientnet_lite0", WIDTH, {"weights": "generated"})
    centres = np.random.default_rng(1).normal(size=(1000, WIDTH)).astype(np.float32)
    for start in range(0, count, 20_000):
        random, n = np.random.default_rng(start), min(20_000, count - start)
        block = np.maximum(centres[random.integers(0, 1000, n)] + random.normal(size=(n, WIDTH)).astype(np.float32), 0)
        empty = pa.array([[]] * n, pa.list_(pa.int64()))
        rows = {"hash": [f"{i:032x}" for i in range(start, start + n)], "models": [["efficientnet_lite0"]] * n}
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        store.add(pa.table({**rows, "mtimes": empty, "inodes": empty, "v_efficientnet_lite0": vector_column(block)}))
    store.refresh()
    return store


def asked(folder: str, queries: int) -> None:
    """Print the milliseconds of each query of a process, the first one apart, and its memory."""
    from neocog.library.searching import search

    store, random, spent = Store.open(folder), np.random.default_rng(0), []
    for _ in range(queries + 1):
        text = " ".join(random.choice(WORDS, 4, replace=False))
        begin = time.perf_counter()
        search(store, text)
        spent.append(1000 * (time.perf_counter() - begin))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"first_ms": spent[0], "p50_ms": statistics.median(spent[1:]), "most_mib": memory}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=30)
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ask:
        asked(given.ask, given.queries)
        return
    with tempfile.TemporaryDirectory() as name:
        store = made(Path(name) / "lib", given.count)
        space = space_of(store)
        assert space is not None
        begin = time.perf_counter()
        places(store, space)
        seconds = time.perf_counter() - begin
        command = [sys.executable, __file__, "--ask", str(store.folder), "--queries", str(given.queries)]
        told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        whole = []
        for _ in range(5):
            begin = time.perf_counter()
            command = [sys.executable, "-m", "neocog", "search", "--library", str(store.folder), "two men on grass"]
            subprocess.run(command, capture_output=True, check=False)
            whole.append(time.perf_counter() - begin)
    load = os.getloadavg()[0]
    print(json.dumps({"pictures": given.count, "seconds_of_places": seconds, **told, "command_s": whole, "load": load}))


if __name__ == "__main__":
    main()
