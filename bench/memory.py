"""Memory: of listing and streaming folders of 10,000 to 1,000,000 file names, and of a library's whole commands.

The file names are generated (every read gives the same JPEG), so that the million is real for the list, the labels, the
split and the order of an epoch, which are what could grow.

    python bench/memory.py
    NEOCOG_DATA=... python bench/memory.py --library 300    # photographs of Flickr8k dev

Commands: `neocog index` into a new library with an empty cache, again into another one with the graph that was kept,
and `neocog search` by an example that is not in it; each in a process of its own, whose peak memory the system reports.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (10_000, 100_000, 1_000_000)


def one(n: int) -> None:
    """List, split and stream `n` pictures, and print the peak memory over what the imports took."""
    import resource

    import numpy as np
    import torch
    from PIL import Image

    from neocog.data.augment import Augment
    from neocog.data.batches import Batches, Known
    from neocog.data.columns import Texts
    from neocog.data.folder import Folder
    from neocog.data.pictures import Streamed
    from neocog.data.split import complete_split
    from neocog.records import Preprocess
    from neocog.tasks import Label

    out = io.BytesIO()
    Image.new("RGB", (320, 240), (90, 120, 60)).save(out, "JPEG")
    jpeg = out.getvalue()

    class Generated(Folder):
        def read(self, i: int) -> bytes:
            return jpeg

    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    labels = np.arange(n, dtype=np.int32) % 1000
    keys = Texts(f"train/class{i % 1000:04d}/picture{i:08d}.jpg".encode() for i in range(n))
    names = tuple(f"class{k:04d}" for k in range(1000))
    source = Generated(Path("."), keys, "generated", names, labels, np.full(n, -1, np.int8))
    codes, _ = complete_split(source)
    listed = time.perf_counter() - begin
    rows = np.flatnonzero(codes == 0)
    pictures = Streamed(source, rows, Preprocess(size=64, resize=64))
    known = Known({"label": source.columns["label"].select(rows)}, Label(names).collate)
    batches = Batches(pictures, known, Augment(flip="random"), 64, seed=0, device=torch.device("cpu"))
    for _ in itertools.islice(batches.stream(0), 20):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"pictures": n, "mib_above_imports": (peak - before) / 1024, "seconds_to_list": listed}))


def command(*arguments: str) -> tuple[float, float]:
    """(peak MiB, seconds) of a neocog command."""
    begin = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "neocog", *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    assert status == 0, arguments
    return used.ru_maxrss / 1024, time.perf_counter() - begin


def photographs(n: int, folder: Path) -> None:
    """Write `n` photographs twice, and one more."""
    from retrieval import flickr, pictures_of

    source = flickr()
    for place in ("a", "b"):
        (folder / place).mkdir()
        for number, row in enumerate(pictures_of(source, None, n)):
            (folder / place / f"{number}.jpg").write_bytes(source.read(int(row)))
    (folder / "example.jpg").write_bytes(source.read(1))


def library(n: int) -> None:
    """Index and search `n` photographs. This process stays small, as its memory counts for its children."""
    with tempfile.TemporaryDirectory() as name:
        os.environ |= {"NEOCOG_CACHE": f"{name}/cache", "XDG_STATE_HOME": f"{name}/state"}
        subprocess.run([sys.executable, __file__, "--photographs", str(n), name], check=True)
        ways = {
            "index, empty cache": ("index", f"{name}/a"),
            "index, graph kept": ("index", f"{name}/b"),
            "search by example": ("search", "--library", f"{name}/a", "--like", f"{name}/example.jpg"),
        }
        found = {way: command(*given) for way, given in ways.items()}
    rows = {way: {"peak_mib": round(peak), "seconds": round(seconds, 2)} for way, (peak, seconds) in found.items()}
    print(json.dumps(rows, indent=1))
    file = Path("bench/results/memory.json")
    told = json.loads(file.read_text()) | {"library": {"pictures": n, "load average": os.getloadavg()[0], **rows}}
    file.write_text(json.dumps(told, indent=1) + "\n")


def main() -> None:
    """Measure each size in a process of its own."""
    if "--photographs" in sys.argv:
        photographs(int(sys.argv[2]), Path(sys.argv[3]))
        return
    if "--library" in sys.argv:
        library(int(sys.argv[-1]))
        return
    if len(sys.argv) > 1:
        one(int(sys.argv[1]))
        return
    rows = []
    for n in SIZES:
        done = subprocess.run([sys.executable, __file__, str(n)], capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout))
        print(rows[-1], flush=True)
    first, last = rows[0], rows[-1]
    each = (last["mib_above_imports"] - first["mib_above_imports"]) * 2**20 / (last["pictures"] - first["pictures"])
    print(f"{each:.0f} bytes for each further picture")
    Path("bench/results").mkdir(parents=True, exist_ok=True)
    file = Path("bench/results/memory.json")
    told = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**told, "rows": rows, "bytes_each": each}, indent=1) + "\n")


if __name__ == "__main__":
    main()
