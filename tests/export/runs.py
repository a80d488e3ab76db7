"""Run folders of nets that were never trained: what exporting needs of a run, in a moment."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import neocog
from neocog.data import open_source
from neocog.fit.job import Data
from neocog.fit.predicting import Run
from neocog.fit.recipes import recipe
from neocog.fit.run import write_json, write_tensors
from neocog.records import Preprocess
from neocog.tasks.task import build_net, find, saved
from neocog.tasks.unknown import fit_unknown

DATA = "drawn:n=40,size=48"


def untrained(
    folder: Path,
    task: str = "label",
    net: str = "cifar_resnet20",
    *,
    tta: str = "none",
    strangers: bool = False,
    data: str = DATA,
    options: dict[str, Any] | None = None,
    **preprocess: Any,
) -> Run:
    """A finished run of `task` with random weights; pictures of `data`, the last ten of them for testing."""
    source, kind = open_source(data), find(task)
    settings = {**recipe(kind.recipe or "standard").as_dict(), **kind.options, **(options or {})}
    planned = kind.plan(source, np.arange(len(source)), settings)
    channels, fit = preprocess.pop("channels", 3), preprocess.pop("fit", kind.fit)
    pre = Preprocess(32, 36 if fit == "crop" else 32, channels=channels, fit=fit, **preprocess)
    outputs = planned.outputs or planned.zoo_outputs or 10
    spec = {"name": net, "classes": outputs, "in_channels": channels, "input_size": 32}
    torch.manual_seed(0)
    made = build_net(planned, spec).eval()
    if task == "label":  # so that probabilities differ from picture to picture
        with torch.no_grad():
            planned.temperature = float(made(torch.randn(20, channels, 32, 32)).std()) / 2  # type: ignore[attr-defined]
    folder.mkdir(parents=True)
    codes = np.array([0] * (len(source) - 10) + [2] * 10, np.int8)
    write_tensors(folder / "split.safetensors", {"codes": torch.from_numpy(codes)})
    plan = {"data": data, "test": None, "columns": None, "task": saved(planned), "start": None}
    about = {
        "name": source.name,
        "train": len(source) - 10,
        "fingerprint": Data.open(data, None, True, None, task).fingerprint(),
    }
    write_json(folder / "run.json", {"neocog": neocog.__version__, "settings": plan, "data": about})
    write_tensors(folder / "weights.safetensors", dict(made.state_dict()))
    facts = None
    if strangers:
        with torch.no_grad():
            features = made.forward_features(torch.randn(60, channels, 32, 32)).numpy()
        unknown = fit_unknown(features[:30], np.arange(30) % outputs, outputs, held_out=features[30:])
        arrays = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in unknown.save().items()}
        write_tensors(folder / "unknown.safetensors", arrays)
        facts = unknown.facts()
    card = {
        "neocog": neocog.__version__, "task": saved(planned), "net": spec,
        "classes": list(getattr(planned, "classes", ())), "preprocess": asdict(pre), "tta": tta,
        "mirror": tta != "none", "metrics": {}, "temperature": getattr(planned, "temperature", 1.0), "unknown": facts,
    }  # fmt: skip
    write_json(folder / "net.json", card)
    return Run(folder)
