"""Captions of Flickr8k: trains the language models on features of the default trunk, measures them, and makes the model
that comes with neocog.

    python bench/captions.py CACHE                       # features (once), trainings, bench/results/captions.json
    python bench/captions.py CACHE --only mlbl-b --ship  # and src/neocog/text/teller
    python bench/captions.py CACHE --shipped             # then: its figures and its card, with the sentence space

NEOCOG_DATA names the folder that holds flickr8k/train.parquet and dev.parquet. Trained on train (6,000 photographs);
the length of sentences and from when on they are withheld are chosen on the first half of dev, the figures are those
of its second half, and of all of it. A plain loop: the features of plain and mirrored photographs, two captions of each
photograph at each step.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import neocog
from neocog.data.batches import Batch
from neocog.data.decode import prepare
from neocog.data.source import Source
from neocog.fit.captioning import SHIPPED, Shipped
from neocog.fit.run import write_json, write_tensors
from neocog.library.embed import Embedder
from neocog.nets.language import PAD, LanguageModel
from neocog.tasks.caption import Caption, Familiar, Teller, Writing, plain
from neocog.tasks.task import Meter, build_net, saved
from neocog.text.tokens import Words

NET = {"name": "efficientnet_lite0", "classes": 1000, "in_channels": 3, "input_size": 224}
MODELS: dict[str, dict[str, Any]] = {
    "mlbl-b": {"dimensions": 256, "width": 384, "lr": 2e-3, "epochs": 16},
    "mlbl-f": {"dimensions": 256, "width": 256, "lr": 2e-3, "epochs": 16},
    "lstm": {"dimensions": 256, "width": 256, "lr": 3e-3, "epochs": 14},
    "conv": {"dimensions": 256, "width": 256, "lr": 1e-3, "epochs": 12},
}
BATCH, EACH, LONGEST, HALF = 64, 2, 24, 500
RESULTS = Path(__file__).parent / "results" / "captions.json"


def open_split(name: str) -> Source:
    return neocog.open_source(Path(os.environ["NEOCOG_DATA"]) / "flickr8k" / f"{name}.parquet")


def features(cache: Path, name: str, source: Source) -> np.ndarray:
    """float32 (2, N, 1280): of the photographs, and of their mirror images."""
    file = cache / f"{name}.npz"
    if not file.exists():
        eye, views = Embedder(amount=2 * len(source)), ([], [])  # type: ignore[var-annotated]
        for first in range(0, len(source), 100):
            some = range(first, min(first + 100, len(source)))
            pixels = np.stack([prepare(source.read(i), eye.preprocess) for i in some])
            for view, x in zip(views, (pixels, np.ascontiguousarray(pixels[..., ::-1])), strict=True):
                view.append(eye.embed(x)[0].astype(np.float16))
        np.savez(file, plain=np.concatenate(views[0]), mirror=np.concatenate(views[1]))
    with np.load(file) as kept:
        return np.stack([kept["plain"], kept["mirror"]]).astype(np.float32)


def train(task: Caption, how: dict[str, Any], x: torch.Tensor, texts: list[torch.Tensor]) -> LanguageModel:
    """The language model of a task, after the plain loop. x (2, N, F); texts (T, L) of each photograph."""
    torch.manual_seed(0)
    model = teller(task).model.train()
    g, n, step = torch.Generator().manual_seed(1), len(texts), 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=how["lr"], weight_decay=0.0, betas=(0.9, 0.99))
    steps = how["epochs"] * (n // BATCH)
    for epoch in range(how["epochs"]):
        begin, order = time.perf_counter(), torch.randperm(n, generator=g)
        for first in range(0, n - BATCH + 1, BATCH):
            rows = order[first : first + BATCH]
            ids = torch.nn.utils.rnn.pad_sequence(
                [t for r in rows.tolist() for t in texts[r][torch.randperm(len(texts[r]), generator=g)[:EACH]]], True
            )
            ids = ids[:, : int((ids != PAD).sum(1).max())]
            view = torch.randint(2, (BATCH,), generator=g)
            seen, wanted = F.layer_norm(x[view, rows], x.shape[2:]).repeat_interleave(EACH, 0), ids[:, 1:]
            there = wanted != PAD
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(seen, ids[:, :-1], there)
            optimizer.zero_grad()
            F.cross_entropy(logits.float(), wanted[there]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            rate = how["lr"] * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            step += 1
        print(f"{task.how['model']}: epoch {epoch + 1}, {time.perf_counter() - begin:.1f} s", flush=True)
    return model.eval()


def teller(task: Caption) -> Teller:
    """The task's head, without a trunk's weights."""
    with torch.device("meta"):
        trunk: Any = build_net(task, NET).trunk
    made = task.head(trunk)
    assert isinstance(made, Teller)
    return made


def judge(task: Caption, head: Teller, x: np.ndarray, captions: list[tuple[str, ...]]) -> tuple[dict[str, Any], Any]:
    """Figures of photographs by their features, and what the task has seen of them."""
    task.thorough()
    meter, seconds = Meter(task), 0.0
    for first in range(0, len(x), 50):
        rows = torch.arange(first, min(first + 50, len(x)))
        good = torch.ones(len(rows), dtype=torch.bool)
        targets = task.collate({"captions": [captions[i] for i in rows]}, None, good)
        some = torch.from_numpy(x[first : first + 50])
        with torch.inference_mode():
            outputs = head({}, some, ids=targets["ids"])
            begin = time.perf_counter()
            outputs |= head({}, some, write=task.write)
            seconds += time.perf_counter() - begin
        meter.add(outputs, Batch((some,), targets, rows, good))
    seen = meter.seen()
    return {**task.figures(seen), "pictures_per_second": len(x) / seconds}, seen


def retrieved(task: Caption, head: Teller, x: np.ndarray, sentences: list[str]) -> dict[str, float]:
    """Photographs ranked for each sentence by how much likelier it is with them: sentence i belongs to photograph i."""
    ids = torch.from_numpy(task.words.encode([plain(s) for s in sentences], ends=True).astype(np.int64))
    every = torch.from_numpy(x)
    ranks = []
    with torch.inference_mode():
        for i, row in enumerate(ids):
            some = row[row != PAD].expand(len(every), 1, -1)
            scores = head({}, every, ids=some)["log_p"].sum((1, 2))
            ranks.append(int((scores > scores[i]).sum()) + 1)
    found = np.array(ranks)
    return {
        **{f"recall_at_{k}": float((found <= k).mean()) for k in (1, 5, 10)},
        "median_rank": float(np.median(found)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path, help="folder for features and trained models")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--ship", action="store_true", help="write the first of them into the package")
    parser.add_argument("--shipped", action="store_true", help="measure the model that comes with neocog")
    parser.add_argument("--sentences", type=int, default=100, help="that photographs are ranked for; 0: none")
    asked = parser.parse_args()
    asked.cache.mkdir(parents=True, exist_ok=True)
    if asked.shipped:
        return measure_shipped(asked.cache)
    sources = {name: open_split(name) for name in ("train", "dev")}
    x = {name: features(asked.cache, name, source) for name, source in sources.items()}
    captions = {name: [s.columns["captions"][i] for i in range(len(s))] for name, s in sources.items()}
    words = Words.learn((plain(t) for row in captions["train"] for t in row), least=5)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in asked.only:
        how = MODELS[name]
        task = Caption(words.to_json(), model=name, dimensions=how["dimensions"], width=how["width"], each=EACH)
        file, head = asked.cache / f"{name}.pt", teller(task)
        if file.exists():
            head.model.load_state_dict(torch.load(file, weights_only=True))
        else:
            texts = [
                torch.from_numpy(words.encode([plain(t) for t in row], ends=True).astype(np.int64))[:, :LONGEST]
                for row in captions["train"]
            ]
            head.model = train(task, how, torch.from_numpy(x["train"]), texts)
            torch.save(head.model.state_dict(), file)
        head.eval()
        like = [F.layer_norm(torch.from_numpy(one), one.shape[1:]) for one in (x["train"][0], x["dev"][0, :HALF])]
        torch.manual_seed(0)
        head.familiar = Familiar(like[0].shape[1]).learn(like[0], like[1])
        task.calibrate(judge(task, head, x["dev"][0, :HALF], captions["dev"][:HALF])[1])
        parts = {"second half of dev": slice(HALF, None), "all of dev": slice(None)}
        row: dict[str, Any] = {
            "parameters": sum(p.numel() for p in head.model.parameters()),
            **how,
            "withheld_below": task.sure,
        }
        for part, rows in parts.items():
            row[part], seen = judge(task, head, x["dev"][0, rows], captions["dev"][rows])
            shown = seen["sure"] >= task.sure
            row[part]["fits_of_shown"] = float((task._fits(seen)[shown] >= 0.5).mean())
        if asked.sentences:
            some = [row_[0] for row_ in captions["dev"][: asked.sentences]]
            row["retrieval"] = {"sentences": asked.sentences, **retrieved(task, head, x["dev"][0], some)}
        results[name] = row
        print(name, json.dumps(row, indent=1), flush=True)
        if asked.ship and name == asked.only[0]:
            ship(task, head, row)
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    results["measured on"] = {
        "processor": next(
            (line.split(": ")[1] for line in flags.splitlines() if "model name" in line), platform.machine()
        ),
        "avx512_bf16": "avx512_bf16" in flags,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "writing": asdict(Writing()),
    }
    write_json(RESULTS, results)


def measure_shipped(cache: Path) -> None:
    """Write figures of the model that comes with neocog, beside those of the trainings: in half precision, and with the
    sentence space that chooses among its sentences. From when on these are withheld is chosen anew."""
    dev = open_split("dev")
    x, captions = features(cache, "dev", dev)[0], [dev.columns["captions"][i] for i in range(len(dev))]
    run = Shipped()
    task: Any = run.task
    head: Any = run.net().answer
    task.calibrate(judge(task, head, x[:HALF], captions[:HALF])[1])
    row: dict[str, Any] = {"withheld_below": task.sure}
    for part, rows in {"second half of dev": slice(HALF, None), "all of dev": slice(None)}.items():
        row[part], seen = judge(task, head, x[rows], captions[rows])
        row[part]["fits_of_shown"] = float((task._fits(seen)[seen["sure"] >= task.sure] >= 0.5).mean())
        print(part, json.dumps(row[part], indent=1), flush=True)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    write_json(RESULTS, {**results, "shipped": row})
    figures = {f"val_{k}": v for k, v in row["second half of dev"].items() if isinstance(v, (int, float))}
    card = json.loads((SHIPPED / "net.json").read_text("utf-8"))
    write_json(SHIPPED / "net.json", {**card, "task": saved(task), "metrics": figures})


def ship(task: Caption, head: Teller, figures: dict[str, Any]) -> None:
    """Write the model that comes with neocog: half precision, and a card."""
    SHIPPED.mkdir(parents=True, exist_ok=True)
    half = {name: value.detach().half().contiguous() for name, value in head.state_dict().items()}
    write_tensors(SHIPPED / "weights.safetensors", half)
    eye = Embedder()
    dev = figures["second half of dev"]
    write_json(
        SHIPPED / "net.json",
        {
            "neocog": neocog.__version__,
            "task": saved(task),
            "net": NET,
            "classes": [],
            "preprocess": asdict(eye.preprocess),
            "tta": "none",
            "mirror": False,
            "metrics": {f"val_{k}": v for k, v in dev.items() if isinstance(v, (int, float))},
            "temperature": 1.0,
            "unknown": None,
            "vectors": eye.name,
            "card": {
                "learned from": "Flickr8k (Hodosh, Young and Hockenmaier 2013), official training split: 6,000 "
                "photographs of people and animals with five captions each",
                "figures": "of the second half of its development split, n = 500",
                "limits": "says of everything what was common there: people, dogs, snow, water, grass, shirts. Nothing "
                "that no caption had five times. Colours and counts are often wrong, and so is man or woman.",
                "made by": "bench/captions.py --only mlbl-b --ship, then --shipped",
            },
        },
    )


if __name__ == "__main__":
    main()
