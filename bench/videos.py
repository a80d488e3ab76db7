"""Drawn clips by three nets, and what it takes to index a minute of video.

    python bench/videos.py clips [--n 5200]     # test accuracy: one frame at a time, two streams, 3-D convolution
    python bench/videos.py atari --folder F     # the same of clips of play, which scripts/make_atari_clips.py wrote
    python bench/videos.py index                # seconds for a minute of 1280x720, by the distance of key packets

Of the drawn clips a tenth is the test; what moves where, and how fast, no single frame tells (8 classes). The videos
are rendered here by PyAV: 15 shots of 4 seconds, large and small shapes with grain that drift by 25 pixels a second;
25 frames a second.
Writes into bench/results/videos.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

import neocog
from neocog.data.video import frames_at, look
from neocog.fit.device import hardware

NETS = ("clip_small", "clip_frames", "two_stream")
ATARI: dict[str, dict[str, Any]] = {  # the ball is one pixel or two: frames at half their size
    "games": {"epochs": 4.0, "set": {"min_steps": 120}, "input_options": {"frames": 8}},
    "ball": {"epochs": 5.0, "set": {"min_steps": 200}, "input_options": {"frames": 8, "size": 70}},
}


def clips(n: int, epochs: float, out: Path) -> Iterator[dict[str, Any]]:
    """A row for each net, with default settings but for the epochs."""
    for net in NETS:
        begin, used = time.perf_counter(), time.process_time()
        data = f"drawn:n={n},size=32,kind=clip"
        run = neocog.train(data, net=net, epochs=epochs, device="cpu", seed=0, out=out / net, progress=False)
        yield {
            "net": net,
            "test_accuracy": run.metrics["test_accuracy"],
            "n_test": run.metrics["test_n"],
            "clips": n,
            "epochs": epochs,
            "seconds": round(time.perf_counter() - begin, 1),
            "processor_seconds": round(time.process_time() - used, 1),
        }


def atari(folder: Path, nets: list[str], out: Path) -> Iterator[dict[str, Any]]:
    """A row for each question and net: processor seconds are of one thread."""
    for what, how in ATARI.items():
        for net in nets:
            used = time.process_time()
            run = neocog.train(
                f"clips:{folder / what}",
                net=net,
                device="cpu",
                seed=0,
                out=out / f"{what}-{net}",
                progress=False,
                **how,
            )
            yield {
                "clips": what,
                "net": net,
                **{name: run.metrics[name] for name in ("test_accuracy", "test_n")},
                **how,
                "processor_seconds": round(time.process_time() - used, 1),
            }


def minute(path: Path, codec: str, keys: int) -> None:
    """Render 60 seconds of 1280x720."""
    random = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options={"preset": "veryfast"} if "264" in codec else {})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        stream.codec_context.gop_size = keys
        for _ in range(15):
            whole = np.zeros((900, 1600, 3), np.int16)
            for side, much in ((4, 0.7), (40, 0.3)):  # large shapes, and small ones in them
                base = Image.fromarray(random.integers(0, 256, (side, 2 * side, 3), np.uint8))
                whole += (much * np.asarray(base.resize((1600, 900), Image.Resampling.BICUBIC))).astype(np.int16)
            whole = (whole + random.integers(-6, 7, (900, 1600, 1), np.int16)).clip(0, 255).astype(np.uint8)
            for i in range(100):
                part = np.ascontiguousarray(whole[i // 2 : i // 2 + 720, i : i + 1280])
                frame = av.VideoFrame.from_ndarray(part, "rgb24")
                container.mux(stream.encode(frame))
        container.mux(stream.encode())


def index(out: Path) -> Iterator[dict[str, Any]]:
    """A row for each kind of file: finding the shots, taking their frames, and the whole of `Library.index`."""
    for name, codec, keys in (("h264", "libx264", 250), ("h264-keys", "libx264", 25), ("mpeg4", "mpeg4", 12)):
        folder = out / name
        folder.mkdir()
        path = folder / f"{name}.mp4"
        minute(path, codec, keys)
        begin, used = time.perf_counter(), time.process_time()
        found = look(str(path))
        looked = time.perf_counter()
        for _ in frames_at(str(path), found.times, found.skip):
            pass
        taken = time.perf_counter()
        library = neocog.Library.beside(folder)
        report = library.index(folder)
        yield {
            "video": f"{codec}, 1280x720, 60 s, a key packet every {keys} frames at most",
            "megabytes": round(path.stat().st_size / 1e6, 1),
            "cuts_found": sum(abs(4 * k - s.start) < 0.5 for s in found.shots[1:] for k in range(1, 15)),
            "cuts": 14,
            "shots": len(found.shots),
            "pictures": report.new,
            "seconds_shots": round(looked - begin, 2),
            "seconds_frames": round(taken - looked, 2),
            "seconds_index": round(time.perf_counter() - taken, 2),
            "processor_seconds": round(time.process_time() - used, 2),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="+", choices=("clips", "atari", "index"))
    parser.add_argument("--n", type=int, default=5200)
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--folder", type=Path, help="of clips of play")
    parser.add_argument("--nets", nargs="+", default=["clip_small", "clip_frames"], help="for atari")
    options = parser.parse_args()
    file = Path(__file__).parent / "results" / "videos.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        for what in options.what:
            rows: list[dict[str, Any]] = []
            begin = {
                "clips": lambda: clips(options.n, options.epochs, Path(folder)),
                "atari": lambda: atari(options.folder, options.nets, Path(folder)),
                "index": lambda: index(Path(folder)),
            }
            for row in begin[what]():
                print(row, flush=True)
                rows.append(row)
                known[what] = {
                    "rows": rows,
                    "threads": torch.get_num_threads(),
                    "memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
                    "hardware": hardware(),
                    "versions": {"torch": torch.__version__, "av": av.__version__, "neocog": neocog.__version__},
                }
                file.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
