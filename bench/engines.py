"""Which engine is how fast: nets alone, and files to a searchable library, in one run.

    NEOCOG_DATA=... [NEOCOG_WEIGHTS=...] python bench/engines.py [NET ...]
    python bench/engines.py --avx2    # PyTorch limited to AVX2, no bfloat16, no OpenVINO: it fails under that limit

(ONNX Runtime cannot be limited: under --avx2 compare it, its pipeline and neocog, which computes with it then.)

Net alone: uint8 pictures of noise. Index: photographs of Flickr8k dev as JPEG files. The ways:

    plain loop              Pillow, PyTorch float32, no_grad, batches of 32
    channels-last loop      the same with channels-last and inference_mode; alone also in bfloat16
    ONNX Runtime pipeline   threads decode with the decoder's own scaling while a session with all cores computes
    OpenVINO pipeline       the same, with an asynchronous queue and OpenVINO's throughput settings, in the precision
                            that neocog chose (OpenVINO's own choice is bfloat16 where there is such; alone, both)
    neocog                  `index`, with all that it keeps: hashes, thumbnails, words, a table on disk; alone: `embed`

The ways take turns, `--rounds` times; rates are medians. "limit" is what decoding alone and the net alone leave where
they share the cores: 1 / (1 / decoding + 1 / net). Random weights where none are at hand, which take as long.
Writes bench/results/engines.json (engines-avx2.json) and prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

if "--avx2" in sys.argv:  # before anything is loaded
    os.environ |= {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}

import numpy as np
import onnxruntime
import openvino
import torch
from PIL import Image
from retrieval import flickr, pictures_of

from neocog.engine import choice
from neocog.engine.graph import write_graph
from neocog.fit.device import hardware
from neocog.library.embed import MEASURE_FROM, Embedder
from neocog.library.indexing import index
from neocog.library.photo import examine, read_steady
from neocog.library.store import Store
from neocog.nets import build
from neocog.nets.weights import build_with_weights

NETS = {"mobilenet_v1_075": 512, "efficientnet_lite0": 512, "resnet50": 64}  # pictures in one turn of a way
SIZE, BATCH = 224, 32
CORES = len(os.sched_getaffinity(0))
Way = Callable[[], Any]


def opened(file: Path, scaled: bool) -> np.ndarray:
    """A photograph as float32 (3, SIZE, SIZE), the short side whole; `scaled`: the JPEG decoder scales first."""
    with Image.open(file) as read:
        if scaled:
            read.draft("RGB", (SIZE, SIZE))
        picture = read.convert("RGB")
        scale = SIZE / min(picture.size)
        size = (max(SIZE, round(picture.width * scale)), max(SIZE, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        left, top = (size[0] - SIZE) // 2, (size[1] - SIZE) // 2
        pixels = np.asarray(picture.crop((left, top, left + SIZE, top + SIZE)), np.float32)
    return ((pixels - 127) / 128).transpose(2, 0, 1)


def loop(net: torch.nn.Module, files: list[Path], last: bool) -> None:
    """The loop that a user writes."""
    with torch.inference_mode() if last else torch.no_grad():
        for start in range(0, len(files), BATCH):
            x = torch.from_numpy(np.stack([opened(file, False) for file in files[start : start + BATCH]]))
            net(x.contiguous(memory_format=torch.channels_last) if last else x)


def pipeline(compute: Callable[[np.ndarray], object], files: list[Path]) -> None:
    """Threads decode the next batches while one is computed."""
    with ThreadPoolExecutor(CORES) as pool:
        batches = [files[i : i + BATCH] for i in range(0, len(files), BATCH)]
        ahead = [[pool.submit(opened, file, True) for file in batch] for batch in batches[:2]]
        for number in range(len(batches)):
            x = np.stack([one.result() for one in ahead[number]])
            if number + 2 < len(batches):
                ahead.append([pool.submit(opened, file, True) for file in batches[number + 2]])
            compute(x)


def openvino_ways(graph: Path, **settings: str) -> tuple[Callable[[np.ndarray], object], Callable[[], object]]:
    """(starts computing a batch, waits for all), as OpenVINO's manual advises for throughput."""
    net = openvino.Core().compile_model(str(graph), "CPU", {"PERFORMANCE_HINT": "THROUGHPUT", **settings})
    queue = openvino.AsyncInferQueue(net)

    def start(x: np.ndarray) -> None:
        for i in range(0, len(x), 8):
            queue.start_async({0: x[i : i + 8]})

    return start, queue.wait_all


def ways_of(name: str, folder: Path, files: list[Path], count: int) -> tuple[dict[str, Way], dict[str, Way], Embedder]:
    """(ways alone, ways to index, neocog's embedder) for one net."""
    try:
        net = build_with_weights(name, "imagenet").eval()
        weights: Any = "imagenet"
    except Exception:  # no weights at hand
        from safetensors.torch import save_file

        net = build(name).eval()
        weights = folder / f"{name}.safetensors"
        save_file(net.state_dict(), weights)
    graph = folder / f"{name}.onnx"
    write_graph(net, torch.randn(2, 3, SIZE, SIZE), graph)
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    kinds: dict[str, Any] = {}
    if "openvino" in choice.GRAPHS:
        kinds["OpenVINO, float32"] = openvino_ways(graph, INFERENCE_PRECISION_HINT="f32")
        kinds["OpenVINO"] = openvino_ways(graph)
    embedder = Embedder(name, weights, "cpu", amount=MEASURE_FROM, size=SIZE)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count // 2, 3, SIZE, SIZE), np.uint8)
    embedder.embed([file.read_bytes() for file in files[:8]])  # the engine is chosen
    x = (pixels.astype(np.float32) - 127) / 128
    parts = [x[i : i + BATCH] for i in range(0, len(x), BATCH)]
    last = build(name).eval()
    last.load_state_dict(net.state_dict())
    last = last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def torch_alone(net: torch.nn.Module, last: bool, bf16: bool) -> None:
        with torch.inference_mode() if last else torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            for part in parts:
                given = torch.from_numpy(part)
                net(given.contiguous(memory_format=torch.channels_last) if last else given)

    def openvino_alone(kind: str) -> None:
        start, wait = kinds[kind]
        for part in parts:
            start(part)
        wait()

    def by_openvino() -> None:
        start, wait = kinds["OpenVINO" if "bfloat16" in embedder.how else "OpenVINO, float32"]
        pipeline(start, files)
        wait()

    def by_neocog() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            report = index(Store.create(Path(place) / "lib"), [files[0].parent], embedder)
            assert report.computed == len(files)

    def decoding() -> None:
        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(lambda file: examine(read_steady(str(file))[0], embedder.preprocess), files))

    alone: dict[str, Way] = {
        "plain loop": partial(torch_alone, net, False, False),
        "channels-last loop": partial(torch_alone, last, True, False),
        "channels-last loop, bfloat16": partial(torch_alone, last, True, True),
        "ONNX Runtime": lambda: [session.run(None, {"input": part}) for part in parts],
        **{kind: partial(openvino_alone, kind) for kind in kinds},
        "neocog": lambda: embedder.embed(pixels),
    }
    if not choice._BF16:
        del alone["channels-last loop, bfloat16"]
    whole: dict[str, Way] = {
        "plain loop": partial(loop, net, files[: count // 4], False),
        "channels-last loop": partial(loop, last, files[: count // 4], True),
        "ONNX Runtime pipeline": lambda: pipeline(lambda x: session.run(None, {"input": x}), files),
        **({"OpenVINO pipeline": by_openvino} if kinds else {}),
        "neocog": by_neocog,
        "decoding alone": decoding,
    }
    return alone, whole, embedder


def in_turns(ways: dict[str, Way], counts: dict[str, int], rounds: int) -> dict[str, float]:
    """Median pictures a second of each way; the first round is not counted."""
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, run in ways.items():
            begin = time.perf_counter()
            run()
            if turn:
                rates[way].append(counts[way] / (time.perf_counter() - begin))
    return {way: statistics.median(found) for way, found in rates.items()}


def measured(name: str, folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """The rates of one net, and their ratios."""
    source = flickr()
    photos = folder / "photos" / str(count)
    photos.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(pictures_of(source, None, count)):
        (photos / f"{number}.jpg").write_bytes(source.read(int(row)))
    files = sorted(photos.iterdir())
    alone, whole, embedder = ways_of(name, folder, files, count)
    rates = in_turns(alone, dict.fromkeys(alone, count // 2), rounds)
    loops = {"plain loop", "channels-last loop"}
    indexed = in_turns(whole, {way: count // 4 if way in loops else count for way in whole}, rounds)
    limit = 1 / (1 / indexed["decoding alone"] + 1 / rates["neocog"])
    wide = {"neocog"} if "bfloat16" in embedder.how else {"neocog", "channels-last loop, bfloat16", "OpenVINO"}
    best = max(rate for way, rate in rates.items() if way not in wide)
    ratios = {"ONNX Runtime pipeline", "OpenVINO pipeline"} & indexed.keys()
    return {
        "net": name, "how": embedder.how, "pictures": count, "net alone": rates, "index": indexed, "limit": limit,
        "net alone, times the best other of that precision": rates["neocog"] / best,
        **{f"index, times the {way}": indexed["neocog"] / indexed[way] for way in sorted(ratios)},
        "index, times the limit": indexed["neocog"] / limit,
    }  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=list(NETS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, help="in one turn; default: by net")
    parser.add_argument("--avx2", action="store_true", help="as on a processor with AVX2 only, as far as that goes")
    parser.add_argument("--out", default="bench/results")
    given = parser.parse_args()
    if given.avx2:
        choice._BF16 = set()
        for engine in [name for name in choice.GRAPHS if name.startswith("openvino")]:
            del choice.GRAPHS[engine]
    torch.set_num_threads(CORES)
    os.environ["OMP_NUM_THREADS"] = str(CORES)  # what neocog's engines go by
    found = []
    with tempfile.TemporaryDirectory() as name:
        os.environ["NEOCOG_CACHE"] = f"{name}/cache"
        for net in given.nets:
            found.append(measured(net, Path(name), given.pictures or NETS.get(net, 64), given.rounds))
            print(json.dumps(found[-1], indent=1), flush=True)
    versions = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__, "openvino": openvino.__version__}
    table = {"rows": found, "rounds": given.rounds, "hardware": hardware(), "versions": versions}
    table |= {"load average": os.getloadavg()[0], "avx2 only": given.avx2, "date": time.strftime("%Y-%m-%d")}
    file = Path(given.out) / ("engines-avx2.json" if given.avx2 else "engines.json")
    file.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
