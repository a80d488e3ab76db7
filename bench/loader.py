"""Does decoding keep up? A folder of JPEG files at 224x224, ResNet-18, and the share of time spent waiting.

    python bench/loader.py            # writes 512 JPEG files of 500x375 into a temporary folder

In the same run: how fast pictures are decoded alone, and how fast the net trains on pictures that are there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from neocog import nets
from neocog.data import open_source
from neocog.data.augment import Augment
from neocog.data.batches import Batch, Batches, Known
from neocog.data.drawn import drawn_source
from neocog.data.pictures import Streamed
from neocog.fit.device import choose, hardware
from neocog.fit.loop import Tally, gradients
from neocog.fit.parallel import World, share_gradients
from neocog.fit.recipes import recipe
from neocog.fit.state import State
from neocog.records import Preprocess
from neocog.tasks import Label


def write_folder(folder: Path, pictures: int) -> None:
    """JPEG files of 500x375, of a size that photographs of that many pixels have (noise is added), in 8 classes."""
    source = drawn_source(n=pictures, size=375, seed=0)
    noise = np.random.default_rng(0)
    for i in range(pictures):
        picture = np.asarray(Image.fromarray(source.read(i)).resize((500, 375))).astype(np.int16)
        picture = np.clip(picture + noise.normal(0, 8, picture.shape), 0, 255).astype(np.uint8)
        target = folder / source.classes[source.labels[i]]
        target.mkdir(exist_ok=True)
        Image.fromarray(picture).save(target / f"{i}.jpg", quality=85)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--out", default="bench/results")
    arguments = parser.parse_args()
    device = choose()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folder(folder, arguments.pictures)
        size = statistics.mean(f.stat().st_size for f in folder.rglob("*.jpg"))
        source = open_source(folder)
        pre = Preprocess(size=224, resize=256)
        how = Augment(flip="random", resized_crop=0.35, colour=0.2)
        task = Label(source.classes)
        known = Known({"label": source.columns["label"]}, task.collate)

        def batches() -> Batches:
            pictures = Streamed(source, np.arange(len(source)), pre)
            return Batches(
                pictures,
                known,
                how,
                arguments.batch,
                seed=0,
                device=device.torch,
                dtype=torch.bfloat16 if device.bf16 else torch.float32,
                channels_last=device.channels_last,
            )

        alone = batches()
        begin = time.perf_counter()
        for _ in itertools.islice(alone.stream(0), arguments.steps):
            pass
        decoding = arguments.steps * arguments.batch / (time.perf_counter() - begin)

        net = nets.build("resnet18", classes=len(source.classes)).to(device.torch)
        net = net.to(memory_format=device.layout)  # type: ignore[call-overload]
        r = recipe("standard", ema=0.0)
        state = State(net, r, arguments.batch)
        net.train()

        def step(batch: Batch) -> None:
            _, count = gradients(net, batch, task, device, 0, Tally(device.torch))
            share_gradients(net, count, World())
            for opt in state.opts:
                opt.step()
                opt.zero_grad(set_to_none=True)

        ready = next(batches().stream(0))
        step(ready)
        begin = time.perf_counter()
        for _ in range(arguments.steps):
            step(ready)
        computing = arguments.steps * arguments.batch / (time.perf_counter() - begin)

        both = batches()
        stream = both.stream(0)
        step(next(stream))
        both.waited = 0.0
        begin = time.perf_counter()
        for _ in range(arguments.steps):
            step(next(stream))
        seconds = time.perf_counter() - begin
        together = arguments.steps * arguments.batch / seconds
    result = {
        "pictures": arguments.pictures,
        "kilobytes_each": size / 1e3,
        "batch": arguments.batch,
        "steps": arguments.steps,
        "decode_and_augment_alone_per_second": decoding,
        "train_alone_per_second": computing,
        "together_per_second": together,
        "share_of_time_waiting": both.waited / seconds,
        "device": str(device),
        "hardware": hardware(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"loader-{device.kind}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
