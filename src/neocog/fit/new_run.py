"""The folder of a new run: its settings, splits, data, versions and hardware, written before anything is trained."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch

import neocog
from neocog.errors import RunError
from neocog.fit.device import Device, hardware
from neocog.fit.job import Data
from neocog.fit.plan import Plan
from neocog.fit.run import write_json, write_tensors
from neocog.records import SPLITS


def make_folder(folder: Path, plan: Plan, data: Data) -> None:
    """Make it, with run.json and split.safetensors. Raises: RunError if a run is there."""
    if (folder / "run.json").exists():
        raise RunError(
            f"{folder} already holds a run; continue it with 'neocog resume {folder}', or choose another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    counts = {split: len(data.rows(split)) for split in SPLITS} | {"test": len(data.testing()[1])}
    write_tensors(folder / "split.safetensors", {"codes": torch.from_numpy(data.codes)})
    write_json(
        folder / "run.json",
        {
            "neocog": neocog.__version__,
            "command": sys.argv,
            "settings": plan.as_dict(),
            "data": {
                "name": data.source.name,
                "spec": plan.data,
                "fingerprint": data.fingerprint(),
                **counts,
                "classes": list(plan.task.get("classes", ())),
                "notes": [*data.source.notes, *data.notes],
            },
            "versions": _versions(),
            "hardware": hardware(),
            "device": str(Device.from_dict(plan.device)),
            "git": _git_commit(),
            "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        },
    )


def _versions() -> dict[str, str]:
    packages = ("torch", "numpy", "pillow", "pyarrow", "safetensors")
    return {"neocog": neocog.__version__, "python": platform.python_version()} | {p: version(p) for p in packages}


def _git_commit() -> str | None:
    """The commit of the caller's working folder, with a + if something in it is not committed."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=5)
        return done.stdout.strip() + ("+" if dirty.stdout.strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None
