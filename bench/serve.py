"""How does the page's server answer when 50 people use it at once?

    python bench/serve.py            # three minutes on two cores, 1.5 GB of disk
    python bench/serve.py --tiny     # small numbers, to see that it runs; nothing is written

A library of 100,000 generated rows: vectors of efficientnet_lite0's size, probabilities of 1,000 concepts, captions of
Flickr8k's length from a small vocabulary, and 400 pictures that are really there, for thumbnails. A server in a
process of its own, asked over loopback by clients in another:

    search      each client asks one query after the other, with a pause of two seconds (people look at what was found),
                for 30 seconds: half are words, half sentences, one in four the next page of the query before
    thumbnails  each client asks for one kept thumbnail after the other, without a pause, for 10 seconds
    made        400 thumbnails that are not kept yet, by 8 clients
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import scale
from PIL import Image

import neocog
from neocog.library.rows import content_hash, vector_column
from neocog.library.store import Store

MODEL = "efficientnet_lite0"
WHO = ("dog", "child", "man", "woman", "bird", "horse", "cat", "surfer", "cyclist", "team")
DOES = ("runs", "jumps", "sits", "plays", "sleeps", "climbs", "swims", "waits", "looks", "stands")
WHERE = ("on the beach", "in the snow", "in a park", "by the river", "on a street", "in the grass", "at night")
WORDS = (
    "dog",
    "beach",
    "bird",
    "horse",
    "snow",
    "tabby cat",
    "bicycle",
    "volcano",
    "pizza",
    "sailboat",
    "castle",
    "owl",
)


def fill(folder: Path, count: int, real: int) -> None:
    """Write the library and its real pictures."""
    store, rng = Store.create(folder / ".neocog"), np.random.default_rng(0)
    store.add_model(MODEL, scale.DIMENSION, {"weights": "generated", "concepts": "imagenet"}, classes=scale.CLASSES)
    store.note(folders=["."])
    for start in range(0, count, scale.ROWS):
        n = min(scale.ROWS, count - start)
        hashes, paths = [], []
        for i in range(start, start + n):
            if i < real:
                path = folder / f"real-{i}.jpg"
                blocks = rng.integers(0, 256, (24, 36, 3), np.uint8)
                Image.fromarray(blocks).resize((1536, 1024), Image.Resampling.BICUBIC).save(path, quality=85)
                hashes.append(content_hash(path.read_bytes()))
                paths.append([path.name])
            else:
                hashes.append(f"{(i + 1) * 0x9E3779B97F4A7C15 % 2**64:032x}")
                paths.append([f"{2000 + i % 24}/{i // 1000:06}/IMG_{i:09}.jpg"])
        captions = [
            [f"a {random.choice(WHO)} {random.choice(DOES)} {random.choice(WHERE)} with a {random.choice(WHO)}"]
            for _ in range(n)
        ]
        chances = rng.dirichlet(np.full(8, 0.3), n).astype(np.float32)
        whole = np.full((n, scale.CLASSES), 1e-5, np.float32)
        np.put_along_axis(whole, rng.integers(0, scale.CLASSES, (n, 8)), chances, 1)
        numbers = range(start, start + n)
        columns = {
            "hash": pa.array(hashes),
            "paths": pa.array(paths),
            "mtimes": pa.array([[i] for i in numbers], pa.list_(pa.int64())),
            "inodes": pa.array([[0]] * n, pa.list_(pa.int64())),
            "name": pa.array([one[0].rpartition("/")[2] for one in paths]),
            "size": pa.array(numbers, pa.int64()),
            "width": pa.array([1536] * n, pa.int32()),
            "height": pa.array([1024] * n, pa.int32()),
            "captions": pa.array(captions),
            "taken": pa.array(rng.integers(10**9, 17 * 10**8, n), pa.timestamp("s")),
            "phash": pa.array(rng.integers(1, 2**63, n).astype(np.uint64)),
            "flat": pa.array([False] * n),
            "thumb": pa.array([os.urandom(288)] * n),
            "models": pa.array([[MODEL]] * n),
            f"v_{MODEL}": vector_column(scale.block(start, n)),
            f"p_{MODEL}": vector_column(whole),
        }
        store.add(pa.table(columns))
    store.tidy(index_from=10**9)  # searching by words asks no index of vectors
    store.refresh()


def queries(seed: int) -> Any:
    """Yield (query, offset), half of them words."""
    chance = random.Random(seed)
    while True:
        if chance.random() < 0.5:
            asked = chance.choice(WORDS)
        else:
            asked = f"a {chance.choice(WHO)} {chance.choice(DOES)} {chance.choice(WHERE)}"
        yield asked, 0
        if chance.random() < 0.25:
            yield asked, 60


async def ask(port: int, path: str, kept: list[Any]) -> tuple[int, bytes]:
    """One GET over a connection that is kept open: status and body."""
    if not kept:
        kept[:] = await asyncio.open_connection("127.0.0.1", port)
    reader, writer = kept
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = int(head.partition("content-length: ")[2].split("\r\n")[0])
    return int(head.split(" ")[1]), await reader.readexactly(length)


async def searching(port: int, clients: int, seconds: float, pause: float) -> dict[str, Any]:
    """All clients, for so long."""
    from urllib.parse import urlencode

    taken: list[float] = []
    wrong = 0
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        nonlocal wrong
        kept: list[Any] = []
        await asyncio.sleep(pause * number / clients)
        for asked, offset in queries(number):
            if time.perf_counter() >= end:
                return
            begin = time.perf_counter()
            path = "/api/libraries/pictures/search?" + urlencode({"q": asked, "limit": 60, "offset": offset})
            status, body = await ask(port, path, kept)
            taken.append(1e3 * (time.perf_counter() - begin))
            wrong += status != 200 or b'"hits"' not in body
            await asyncio.sleep(pause)

    await asyncio.gather(*map(client, range(clients)))
    return {"answers": len(taken), "errors": wrong, **spread(taken), "answers_a_second": len(taken) / seconds}


async def thumbnails(port: int, ids: list[str], clients: int, seconds: float, size: int) -> dict[str, Any]:
    """Thumbnails, one after the other; `seconds` 0: each id once."""
    taken: list[float] = []
    wrong, begin = 0, time.perf_counter()
    left = iter(ids if not seconds else (random.choice(ids) for _ in range(10**9)))

    async def client() -> None:
        nonlocal wrong
        kept: list[Any] = []
        for one in left:
            start = time.perf_counter()
            if seconds and start - begin >= seconds:
                return
            status, body = await ask(port, f"/api/libraries/pictures/pictures/{one}/thumbnail?size={size}", kept)
            taken.append(1e3 * (time.perf_counter() - start))
            wrong += status != 200 or not body.startswith(b"\xff\xd8")

    await asyncio.gather(*(client() for _ in range(clients)))
    whole = time.perf_counter() - begin
    return {"thumbnails": len(taken), "errors": wrong, "a_second": len(taken) / whole, **spread(taken)}


def spread(taken: list[float]) -> dict[str, float]:
    """Percentiles in milliseconds."""
    if len(taken) < 2:
        return {}
    cut = statistics.quantiles(taken, n=100)
    return {"milliseconds_p50": cut[49], "milliseconds_p95": cut[94], "milliseconds_p99": cut[98]}


def resident(pid: int) -> float:
    """Memory of a process in MiB that is its own, without what it maps from files."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return float("nan")


def spent(pid: int) -> float:
    """Processor seconds of a process so far: unlike a latency, they do not depend on what else runs."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def clients(port: int, ids: list[str], args: argparse.Namespace, pid: int) -> dict[str, Any]:
    """All that is asked, in order."""
    found: dict[str, Any] = {"made": asyncio.run(thumbnails(port, ids, 8, 0, 320))}
    first = time.perf_counter()
    asyncio.run(ask(port, "/api/libraries/pictures/search?q=a+dog+runs", []))  # what is read once
    found["first_search_seconds"] = time.perf_counter() - first
    found["memory_mib"] = [resident(pid)]
    for _ in range(2):
        before = spent(pid)
        found["search"] = asyncio.run(searching(port, args.clients, args.seconds, args.pause))
        found["search"]["processor_milliseconds_each"] = 1e3 * (spent(pid) - before) / found["search"]["answers"]
        found["memory_mib"].append(resident(pid))
    before = spent(pid)
    found["thumbnails"] = asyncio.run(thumbnails(port, ids, args.clients, args.seconds / 3, 320))
    each = 1e3 * (spent(pid) - before) / found["thumbnails"]["thumbnails"]
    found["thumbnails"]["processor_milliseconds_each"] = each
    return found


def main() -> None:
    """Measure, and write results/serve.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--pause", type=float, default=2.0)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--keep", type=Path, help="A folder for the library, to use it again.")
    args = parser.parse_args()
    real = 400
    if args.tiny:
        args.count, args.clients, args.seconds, args.pause, real = 400, 4, 1.5, 0.05, 20
    random.seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = (args.keep or Path(name)) / "pictures"
        if not (folder / ".neocog" / "library.json").exists():
            folder.mkdir(parents=True)
            fill(folder, args.count, real)
        ids = [content_hash((folder / f"real-{i}.jpg").read_bytes()) for i in range(real)]
        for kept in (folder / ".neocog" / "cache" / "thumbnails").rglob("*.jpg"):
            kept.unlink()
        env = {**os.environ, "XDG_STATE_HOME": name}
        command = [sys.executable, "-m", "neocog", "serve", str(folder), "--port", "0"]
        begin = time.perf_counter()
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env, cwd=name)
        try:
            assert server.stderr
            address = server.stderr.readline()
            started = time.perf_counter() - begin
            port = int(address.rstrip("/\n").rpartition(":")[2])
            load = os.getloadavg()[0]
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found = pool.apply(clients, (port, ids, args, server.pid))
        finally:
            server.terminate()
            server.wait()
    result = {
        "pictures": args.count, "clients": args.clients, "pause_seconds": args.pause,
        "seconds_to_start": started, **found,
        "load_before": load, "cores": os.cpu_count(), "python": platform.python_version(), "neocog": neocog.__version__,
        "note": "other work ran on the same two cores; the load before is that of the whole machine",
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    if not args.tiny:
        (Path(__file__).parent / "results" / "serve.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
