"""Features that are computed once for each picture, and kept in memory and on disk.

For a net whose trunk is not trained any more. Files lie in the run folder, ``features/train-0.safetensors`` and so on,
and carry a key that stands for everything that they depend on; runs that lie side by side use each other's.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from neocog import nets
from neocog.data.pictures import Held, Streamed
from neocog.fit.device import Device
from neocog.fit.features import features_of
from neocog.fit.job import Split
from neocog.fit.parallel import World, same_everywhere
from neocog.fit.run import read_tensors, write_tensors
from neocog.fit.show import Show
from neocog.tasks import Task
from neocog.tasks.at_once import as_seen
from neocog.tasks.task import Seen
from neocog.tasks.unknown import STRANGE

FOLDER = "features"
_PART = 4096  # pictures whose features are one file: a killed run loses no more than these


class Kept:
    """Features of pictures by a net whose trunk stays as it is.

    Args:
        net: in eval mode; ``net.forward_features`` is read.
        key: stands for everything that the features depend on; files with another key are not used.
        run: the run folder that files are written to.
        others: further run folders to look for them.
    """

    def __init__(
        self, net: nn.Module, key: str, run: Path, others: Iterable[Path], device: Device, world: World, show: Show
    ) -> None:
        self.net, self.key, self.run, self.others = net, key, run, tuple(others)
        self.device, self.world, self.show = device, world, show
        self.seen = 0  # pictures that the net has been run on
        # beside the features their pictures, so that no other object gets the same id
        self._memory: dict[tuple[int, bool], tuple[Held | Streamed, np.ndarray, np.ndarray]] = {}

    def of(self, pictures: Held | Streamed, name: str = "", mirrored: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Rows int64 (N,) and features float32 (N, D) of all that can be read; with a `name` they are kept on disk.

        `mirrored`: of the mirror images; they need a name of their own.
        """
        this = id(pictures), mirrored
        if this not in self._memory:
            rows, values = [np.zeros(0, np.int64)], []
            for first in range(0, len(pictures), _PART):
                part = self._read(name, first) or self._compute(pictures, name, first, mirrored)
                if len(part[0]):
                    rows.append(part[0])
                    values.append(part[1])
            made = np.concatenate(values) if values else np.zeros((0, 0), np.float32)
            self._memory[this] = pictures, np.concatenate(rows), made
        return self._memory[this][1:]

    def observed(
        self, task: Task, split: Split, name: str = "", chosen: np.ndarray | None = None
    ) -> tuple[Seen, np.ndarray]:
        """What the task keeps of a split, and its features, as `evaluating.observed` gives them, without the trunk."""
        rows, values = self.of(split.shown, name)
        if chosen is not None:
            wanted = np.isin(rows, chosen)
            rows, values = rows[wanted], values[wanted]
        if not len(rows):
            return {}, values
        head = copy.deepcopy(nets.head_of(self.net)).cpu()  # features.plain_head, features.Tapped or descriptors.Fused
        with torch.no_grad():
            outputs = head(torch.from_numpy(values))
        return {**as_seen(task, outputs.numpy(), split.targets(rows)), "rows": rows}, values

    def _read(self, name: str, first: int) -> tuple[np.ndarray, np.ndarray] | None:
        # the first process looks: another might see a file that was not there a moment ago
        file = next(self._files(name, first), None) if name and self.world.first else None
        file = same_everywhere(file, self.world)
        if file is None:
            return None
        tensors, _ = read_tensors(file)
        return tensors["rows"].numpy(), tensors["features"].numpy()

    def _files(self, name: str, first: int) -> Iterator[Path]:
        """Whole files with the right key."""
        for run in dict.fromkeys((self.run, *self.others)):
            file = run / FOLDER / f"{name}-{first}.safetensors"
            try:
                with safe_open(file, framework="np") as opened:
                    if (opened.metadata() or {}).get("key") == self.key:
                        yield file
            except (OSError, SafetensorError):
                continue  # not there or damaged: computed again

    def _compute(
        self, pictures: Held | Streamed, name: str, first: int, mirrored: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        chosen = np.arange(first, min(first + _PART, len(pictures)))
        plain: Callable[[Tensor], Tensor] = self.net.forward_features  # type: ignore[assignment]
        read = (lambda x: plain(x.flip(-1))) if mirrored else plain
        how: dict[str, Any] = {"chosen": chosen, "world": self.world}
        what = f"{STRANGE[name]}, which are to be called unknown" if name in STRANGE else f"{name or 'other'} pictures"
        with self.show.bar(f"features of {what}") as bar:
            before, share = first / len(pictures), len(chosen) / len(pictures)
            how["show"] = lambda done, text: bar(before + share * done, text)
            rows, values = features_of(self.net, read, pictures, self.device, **how)
        self.seen += len(rows)
        if name and self.world.first:
            (self.run / FOLDER).mkdir(parents=True, exist_ok=True)
            tensors = {"rows": torch.from_numpy(rows), "features": torch.from_numpy(values)}
            write_tensors(self.run / FOLDER / f"{name}-{first}.safetensors", tensors, {"key": self.key})
        return rows, values


def neighbours(run: Path) -> list[Path]:
    """Folders beside a run that hold features."""
    return sorted(folder.parent for folder in run.resolve().parent.glob(f"*/{FOLDER}"))


def fingerprint(tensors: Mapping[str, Tensor], without: Sequence[str] = ()) -> str:
    """sha256 hex over names and values of a state dict, leaving out the layers named in `without`."""
    digest = hashlib.sha256()
    prefixes = tuple(f"{name}." for name in without)
    for name in sorted(tensors):
        if prefixes and name.startswith(prefixes):
            continue
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return digest.hexdigest()
