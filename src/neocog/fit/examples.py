"""Pictures in the run folder, for reports: those with a task's answers, the worst first, and those that a net makes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from neocog.data.decode import decode
from neocog.errors import NeocogError, UsageError
from neocog.fit.evaluating import batches_of, passes
from neocog.fit.job import Job, Split
from neocog.fit.run import write_atomically, write_json
from neocog.fit.words import decided, most_confident
from neocog.page import Html, gallery, paragraph, thumbnail
from neocog.tasks.task import Seen

FOLDER = "examples"
MOST = 24
_SIDE = 640  # of the longer side of a picture that is drawn on


def write_examples(job: Job, net: nn.Module, name: str, seen: Seen, views: dict[str, Any]) -> None:
    """Write ``examples/0.jpg`` and so on, and ``examples/examples.json`` with a line for each."""
    task, split = job.task, job.splits[name]
    worst = task.worst(seen) if job.reader is None else most_confident(task, seen)
    if not len(worst):
        return
    half = MOST // 2
    few = worst if len(worst) <= MOST else np.concatenate((worst[:half], worst[half :: len(worst) // half][:half]))
    lines: list[dict[str, Any]] = []
    (job.folder / FOLDER).mkdir(exist_ok=True)
    for batch, outputs, _ in passes(net, task, split, job.device, chosen=few, **views):
        keys = [split.source.key(int(split.rows[i])) for i in batch.rows]
        for row, answer in zip(batch.rows.tolist(), task.answers(outputs, batch, keys), strict=True):
            try:
                data = split.source.read(int(split.rows[row]))
                answer = answer.beside(data)
                own = None if job.reader is None else answer.html(task.truth(split.known.columns, row))
                shown = own if own is not None or job.reader is None else _shown(job, net, data)
                picture = decode(data) if isinstance(data, bytes) and shown is None else data
            except (NeocogError, OSError):
                continue  # it was there a moment ago
            place = int(np.flatnonzero(worst == row)[0])
            line = {"place": place, "key": answer.key, "line": task.caption(seen, row)}
            if shown is not None:
                true = seen["labels"][np.flatnonzero(seen["rows"] == row)[0]] if task.classifies else None
                more = line["line"] if true is None else f"true: {task.classes[int(true)]}"  # type: ignore[attr-defined]
                lines.append({**line, "file": "", "html": shown, "line": more if own else f"{answer.text()}\n{more}"})
                continue
            drawn = answer.draw(picture, task.truth(split.known.columns, row))
            out = io.BytesIO()
            image = Image.fromarray(drawn)
            image.thumbnail((2 * _SIDE, _SIDE))
            image.convert("RGB").save(out, "JPEG", quality=85)
            write_atomically(job.folder / FOLDER / f"{place}.jpg", out.getvalue())
            lines.append({**line, "file": f"{place}.jpg"})
    lines.sort(key=lambda line: int(line["place"]))
    write_json(job.folder / FOLDER / "examples.json", {"split": name, "of": len(worst), "examples": lines})


def _shown(job: Job, net: nn.Module, raw: Any) -> Html:
    """An input as its reader shows it; of a text also what its words add to the answer, where that is known."""
    assert job.reader is not None
    try:
        text = raw[0] if isinstance(raw, tuple) else raw
        return decided(job.task, net, job.reader, text).html()
    except UsageError:
        return job.reader.show(raw)


MADE = "made"  # the folder
_FEW = 16  # pictures that the task gets to show something of
_EPOCHS = 6  # that the report shows


@torch.inference_mode()
def write_sheets(job: Job, net: nn.Module, split: Split, step: int | None = None) -> None:
    """Write ``made/HEADING.png``, or ``made/HEADING@STEP.png`` after epochs 1, 2, 3, 4, 6, 8, 12, 16 and so on."""
    if not job.task.remakes or not len(split) or not job.world.first:
        return
    if step is not None:
        epoch, within = divmod(step, job.batches.steps_per_epoch)
        if within or epoch // (epoch & -epoch) not in (1, 3):
            return
    chosen = np.arange(min(_FEW, len(split)))
    for batch in batches_of(net, split.pictures, job.device, known=split.known, batch_size=_FEW, chosen=chosen):
        for heading, sheet in job.task.sheets(net, batch).items():
            name = heading if step is None else f"{heading}@{step}"
            write_png(job.folder / MADE / f"{name}.png", sheet)


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a picture, uint8 (H, W, 3), and make the folder that it is in."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, out.getvalue(), durable=False)


def sheets(folder: Path) -> Html | None:
    """What the net made at the end, and on the way there, by heading; None if nothing."""
    last = sorted(path for path in (folder / MADE).glob("*.png") if "@" not in path.stem)
    parts = []
    for path in last:
        parts += [f"<h3>{path.stem}</h3>", gallery([_sheet(path, 640, "")])]
        before = sorted((int(one.stem.rpartition("@")[2]), one) for one in path.parent.glob(f"{path.stem}@*.png"))
        if len(before) > 1:
            parts += [paragraph("On the way there, after so many steps:")]
            parts += [gallery([_sheet(one, 240, f"{step:,}") for step, one in before[:: -(-len(before) // _EPOCHS)]])]
    return Html("".join(parts)) if parts else None


def _sheet(path: Path, size: int, caption: str) -> Html:
    with Image.open(path) as image:
        return thumbnail(np.asarray(image.convert("RGB")), size=size, caption=caption, alt=path.stem)
