"""How fast is a library? Indexing files, answering queries as it grows, learning a word, looking through old files.

    python bench/library.py                # everything but a million vectors
    python bench/library.py --most 1000000 # that, too: an hour on two cores
    python bench/library.py --tiny         # small numbers, to see that it runs

Indexing is compared with the loop that a user writes (Pillow's full decoding and resizing, float32 in eager PyTorch,
batches of 32) and, if onnxruntime is installed, with this very pipeline around ONNX Runtime. Rates of decoding alone
and of the net alone say how near to the limit it is. All in one run, the ways in turn, medians of their rates.

Vectors for the queries are generated: cluster centres plus noise, as features of photographs lie, half precision,
length 1. Each size is measured in a process of its own, whose memory is reported.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from neocog.library.indexing import index
from neocog.library.rows import vector_column
from neocog.library.store import Store

DIMENSION = 768


def write_folder(folder: Path, count: int) -> None:
    """JPEG files of 500x375 with the detail of photographs: smooth shapes and noise."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(count):
        shapes = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((500, 375))
        pixels = np.asarray(shapes).astype(np.float32) + rng.normal(0, 8, (375, 500, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.jpg", quality=85)


def weights_for(net: str, folder: Path) -> str | Path:
    """The ImageNet weights if they are at hand, else random ones, which take as long."""
    if (Path(os.environ.get("NEOCOG_WEIGHTS", "/nowhere")) / f"{net}.safetensors").exists():
        return "imagenet"
    from safetensors.torch import save_file

    from neocog.nets import build

    save_file(build(net).state_dict(), folder / "random.safetensors")
    return folder / "random.safetensors"


def user_loop(files: list[Path], net: str, weights: str | Path, size: int, resize: int) -> float:
    """Pictures per second of the loop that a user writes."""
    import torch

    from neocog.nets.weights import build_with_weights

    model = build_with_weights(net, weights, say=lambda text: None).eval()
    vectors = []
    begin = time.perf_counter()
    for start in range(0, len(files), 32):
        batch = []
        for path in files[start : start + 32]:
            picture = Image.open(path).convert("RGB")
            scale = resize / min(picture.size)
            picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.BILINEAR)
            left, top = (picture.width - size) // 2, (picture.height - size) // 2
            pixels = np.array(picture.crop((left, top, left + size, top + size)))
            batch.append(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
        with torch.no_grad():
            vectors.append(model.forward_features(torch.stack(batch)))
    return len(files) / (time.perf_counter() - begin)


def with_onnx(embedder: Any, folder: Path) -> Any:
    """The embedder with its net run by ONNX Runtime instead of PyTorch; None if that is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    import torch

    pre = embedder.preprocess

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = embedder._net

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return embedder._forward(x)

    file = folder / "net.onnx"
    example = torch.zeros(64, pre.channels, pre.size, pre.size)
    torch.onnx.export(
        Whole(), (example,), str(file), input_names=["x"], output_names=["features", "logits"],
        dynamic_axes={"x": {0: "n"}, "features": {0: "n"}, "logits": {0: "n"}}, dynamo=False,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def compute(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = session.run(None, {"x": x.contiguous().float().numpy()})
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])

    embedder._compute = compute
    return embedder


def indexing(count: int, repeats: int, net: str, compiled: bool, loop: int) -> dict[str, Any]:
    """Files to a searchable library, in several ways."""
    import torch

    from neocog.fit.device import hardware
    from neocog.library.embed import COMPILE_FROM, MEASURE_FROM, Embedder
    from neocog.library.photo import examine, read_steady

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folder(folder / "p", count)
        files = sorted((folder / "p").iterdir())
        weights = weights_for(net, folder)
        made: dict[str, Any] = {"plain": Embedder(net, weights, "cpu", amount=MEASURE_FROM)}
        seconds = 0.0
        if compiled:
            begin = time.perf_counter()
            made["compiled"] = Embedder(net, weights, "cpu", amount=COMPILE_FROM)
            seconds = time.perf_counter() - begin
        for size in (192, 160):
            made[f"{size} pixels"] = Embedder(net, weights, "cpu", size=size, amount=MEASURE_FROM)
        runtime = Embedder(net, weights, "cpu")
        onnx = with_onnx(runtime, folder)
        if onnx is not None:
            made["ONNX Runtime"] = onnx
        pre = made["plain"].preprocess
        rates: dict[str, list[float]] = {}

        def whole(embedder: Any) -> float:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                begin = time.perf_counter()
                report = index(Store.create(Path(place) / "lib"), [folder / "p"], embedder)
                assert report.computed == count
                return count / (time.perf_counter() - begin)

        def decoding() -> float:
            from concurrent.futures import ThreadPoolExecutor

            def one(path: Path) -> None:
                examine(read_steady(str(path))[0], pre)

            begin = time.perf_counter()
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(one, files))
            return count / (time.perf_counter() - begin)

        def computing(embedder: Any) -> float:
            side = embedder.preprocess.size
            pixels = np.random.default_rng(0).integers(0, 256, (64, pre.channels, side, side), np.uint8)
            batches = max(1, count // 64)
            begin = time.perf_counter()
            for _ in range(batches):
                embedder.embed(pixels)
            return 64 * batches / (time.perf_counter() - begin)

        ways: dict[str, Callable[[], float]] = {
            "user's loop": lambda: user_loop(files[:loop], net, weights, pre.size, pre.size * 8 // 7),
            "decoding alone": decoding,
        }
        for way, embedder in made.items():
            ways[f"index, {way}"] = lambda embedder=embedder: whole(embedder)
            ways[f"net alone, {way}"] = lambda embedder=embedder: computing(embedder)
        for _ in range(repeats):
            for way, run in ways.items():
                rates.setdefault(way, []).append(run())
                print(f"  {way}: {rates[way][-1]:.1f} pictures/s", flush=True)
        median = {way: statistics.median(found) for way, found in rates.items()}
        best = max(("index, plain", "index, compiled"), key=lambda way: median.get(way, 0.0))
        kilobytes = statistics.mean(f.stat().st_size for f in files) / 1e3
    result: dict[str, Any] = {
        "pictures": count,
        "kilobytes_each": kilobytes,
        "net": net,
        "repeats": repeats,
        "pictures_per_second": median,
        "all": rates,
        "seconds_to_compile": seconds,
        "best": best,
        "times_the_users_loop": median[best] / median["user's loop"],
        "how": made["plain"].how,
        "hardware": hardware(),
        "torch": torch.__version__,
    }
    if onnx is not None:
        result["times_onnx_runtime"] = median[best] / median["index, ONNX Runtime"]
    return result


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
    parser.add_argument("--pictures", type=int, default=2048)
    parser.add_argument("--loop", type=int, default=256, help="pictures for the user's loop, which is slow")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--net", default="mobilenet_v1_075")
    parser.add_argument("--most", type=int, default=100_000, help="the largest library that is asked")
    parser.add_argument("--only", choices=("index", "query", "teach", "again"))
    parser.add_argument("--out", default="bench/results")
    parser.add_argument("--ask", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ask:
        ask(arguments.ask[0], int(arguments.ask[1]))
        return
    from neocog.library.store import INDEX_FROM

    tiny, result = arguments.tiny, {"date": time.strftime("%Y-%m-%d")}
    if arguments.only in (None, "index"):
        count, loop = (70, 8) if tiny else (arguments.pictures, arguments.loop)
        result["index"] = indexing(count, 1 if tiny else arguments.repeats, arguments.net, not tiny, loop)
        print(json.dumps(result["index"], indent=1))
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
