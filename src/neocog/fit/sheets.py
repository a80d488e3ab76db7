"""Pictures that a net in training makes, kept for each epoch in the run folder, and their section of the report."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from neocog.data.batches import in_order
from neocog.fit.job import Job, Split
from neocog.fit.run import write_atomically
from neocog.page import Html, gallery, paragraph, thumbnail

FOLDER = "made"
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
    chosen = torch.arange(min(_FEW, len(split)))
    mode, layout = net.training, job.device.channels_last
    net.eval()
    for batch in in_order(
        split.pictures, _FEW, job.device.torch, known=split.known, channels_last=layout, chosen=chosen
    ):
        for heading, sheet in job.task.sheets(net, batch).items():
            name = heading if step is None else f"{heading}@{step}"
            write_png(job.folder / FOLDER / f"{name}.png", sheet)
    net.train(mode)


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a picture, uint8 (H, W, 3), and make the folder that it is in."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, out.getvalue(), durable=False)


def sheets(folder: Path) -> Html | None:
    """What the net made at the end, and on the way there, by heading; None if nothing."""
    last = sorted(path for path in (folder / FOLDER).glob("*.png") if "@" not in path.stem)
    parts = []
    for path in last:
        parts += [f"<h3>{path.stem}</h3>", gallery([_shown(path, 640, "")])]
        before = sorted((int(one.stem.rpartition("@")[2]), one) for one in path.parent.glob(f"{path.stem}@*.png"))
        if len(before) > 1:
            parts += [paragraph("On the way there, after so many steps:")]
            parts += [gallery([_shown(one, 240, f"{step:,}") for step, one in before[:: -(-len(before) // _EPOCHS)]])]
    return Html("".join(parts)) if parts else None


def _shown(path: Path, size: int, caption: str) -> Html:
    with Image.open(path) as image:
        return thumbnail(np.asarray(image.convert("RGB")), size=size, caption=caption, alt=path.stem)
