"""What an exported file computes, and an exported folder as an object that answers like the run it was made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neocog.data.batches import Batch
from neocog.data.reader import Reader
from neocog.engine.engines import OnnxRuntime, OpenVino, Shared
from neocog.errors import MissingExtra, RunError
from neocog.export.given import Encoded, Pixels, given_to
from neocog.files import read_dict
from neocog.fit.card import read_card, task_in
from neocog.fit.evaluating import averaged
from neocog.fit.predicting import Run
from neocog.records import Preprocess
from neocog.tasks import Task

FEATURES, ONLY = "features", "output"
FILES = {"onnx": "model.onnx", "openvino": "model.xml", "torch": "model.pt2"}
_Runner = Callable[[np.ndarray], dict[str, np.ndarray]]


class Portable(nn.Module):
    """A run's net from bytes, or from what is read of texts and sounds, to outputs: the rest of the way is inside.

    Args:
        run: what is exported. Where its pictures are seen in tiles, only the net is inside: putting tiles together
            and averaging views stay with whoever calls it.

    What the last layer reads is given too, where the run recognises strangers by it.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.net, self.task, self.spec, self.given = run.net(), run.task, run.spec, given_to(run)
        self.views = run.views
        self.features = knows_strangers(run) and self.given.whole
        self.readings: tuple[str, ...] = ()  # names of outputs that say again what others do, for people

    def forward(self, given: Tensor) -> dict[str, Tensor]:
        """The graph's input (B, ...), see `given` -> outputs by name (see `named`), and ``features`` (B, D)."""
        x = self.given.into(given)
        if not self.given.whole:
            return named(self.net(x))
        none = torch.zeros(0)  # no annotations
        batch = Batch((x,), {}, none, none)
        outputs, traits = averaged(
            self.net, self.task, batch, self.views["tta"], self.views["mirror"], features=self.features
        )
        made = named(outputs)
        readings = self.task.readings(outputs, (x.shape[-2], x.shape[-1]))
        self.readings = tuple(readings)
        return made | readings | ({} if traits is None else {FEATURES: traits})


def knows_strangers(run: Run) -> bool:
    """Whether a run tells pictures unlike its training data."""
    return run.reader is None and run.task.knows_strangers and run.detector() is not None


def named(outputs: Any, before: str = "") -> dict[str, Tensor]:
    """Nested outputs as one dict: ``detect.boxes`` for a dict in a dict, ``output`` for a single tensor."""
    if isinstance(outputs, Tensor):
        return {before or ONLY: outputs}
    parts = outputs.items() if isinstance(outputs, Mapping) else enumerate(outputs)
    return {k: v for name, part in parts for k, v in named(part, f"{before}.{name}" if before else str(name)).items()}


def nested(flat: Mapping[str, Tensor]) -> Any:
    """The outputs that `named` made flat."""
    if set(flat) == {ONLY}:
        return flat[ONLY]
    made: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split(".")
        inner = made
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return _lists(made)


def _lists(made: Any) -> Any:
    if not isinstance(made, dict):
        return made
    inner = {name: _lists(value) for name, value in made.items()}
    return tuple(inner.values()) if all(name.isdigit() for name in inner) else inner


class Session(nn.Module):
    """An exported model, called like the run's net: with pictures (B, C, H, W) in 0 to 1, or what is read of others.

    Args:
        file: the model. outputs: what net.json says of them.
        side: of the only input it can have, None for any. margin: pixels that the net takes from each side (see
            ``nets.tiling``).
    """

    head = "read"

    def __init__(self, file: Path, outputs: list[dict[str, Any]], side: int | None = None, margin: int = 0) -> None:
        super().__init__()
        self.read, self.margin = nn.Identity(), margin
        self.fitting = int if side is None else lambda _side: side
        rows = all(one["shape"][:1] == ["B"] for one in outputs)  # so that parts of a batch can be joined
        self._run = runner(file, [one["name"] for one in outputs], rows)
        self._read = [one["name"] for one in outputs if one["read"]]

    def forward(self, x: Tensor) -> Any:
        """-> what the task reads, on the device of `x`."""
        if x.is_floating_point():  # pictures
            x = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        made = self._run(x.contiguous().cpu().numpy())
        found = {name: torch.from_numpy(made[name]).to(x.device) for name in self._read}
        if FEATURES in found:
            self.read(found.pop(FEATURES))  # where `evaluating.Reading` catches what the last layer reads
        return nested(found)


def runner(file: Path, names: list[str], rows: bool = False) -> _Runner:
    """A function from the input (B, ...) to all outputs by name; `rows`: a batch may be computed in parts.

    Raises: MissingExtra: its engine is not installed.
    """
    if file.suffix == ".pt2":
        net = torch.export.load(file).module()
        return lambda x: {k: v.numpy() for k, v in net(torch.from_numpy(x)).items()}
    try:
        engine = OpenVino(file) if file.suffix == ".xml" else OnnxRuntime(file)
    except ImportError:
        raise missing(f"{file.name} is computed") from None
    run = Shared(engine).run if rows else engine.run
    return lambda x: dict(zip(names, run(x), strict=True))


def missing(what: str) -> MissingExtra:
    """The error where an engine is not installed."""
    return MissingExtra(f"{what} by OpenVINO; to install it: pip install 'neocog[fast]'")


class Exported(Run):
    """An exported folder. It predicts and is evaluated as the run was; the model computes the outputs."""

    def __init__(self, path: str | Path) -> None:
        """`path`: the folder or the model in it. Raises: RunError if nothing was exported there."""
        self.folder = Path(path) if Path(path).is_dir() else Path(path).parent
        if not is_exported(path):
            raise RunError(
                f"{path} was not exported by neocog: {self.folder} has no net.json that says so; "
                "'neocog export RUN --to onnx' makes such a folder"
            )
        self._card = read_card(self.folder)
        self.about: dict[str, Any] = self._card["export"]
        self.settings, self._net, self._unknown = {}, None, None
        self.file = self.folder / self.about["file"]

    @property
    def preprocess(self) -> Preprocess:
        """How pictures become the model's input; it normalises them itself."""
        pre = super().preprocess
        return dataclasses.replace(pre, mean=(0.0,) * pre.channels, std=(1.0,) * pre.channels)

    @cached_property
    def reader(self) -> Reader | None:
        """What reads the inputs; None: they are pictures. What it does with batches is inside the model."""
        reader = super().reader
        if reader is not None:
            self.given = Encoded(reader, fixed=len(self.about["dynamic"]) == 1)
            reader.finish = self.given.shaped  # type: ignore[method-assign]
        return reader

    @cached_property
    def _whole(self) -> bool:
        return "reader" in self._card or Pixels(Preprocess.from_json(self._card["preprocess"])).whole

    @property
    def views(self) -> dict[str, Any]:
        """Test-time views that are not inside the model."""
        return {"tta": "none", "mirror": False} if self._whole else super().views

    @cached_property
    def task(self) -> Task:
        """What the model answers. What the task does with a net is inside."""
        task = task_in(self._card, self.folder / "net.json")
        if self._whole:
            task.run = lambda net, batch: net(batch.x)  # type: ignore[method-assign]
        return task

    def net(self) -> nn.Module:
        """The model, loaded when it is first needed."""
        if self._net is None:
            free = self.reader is not None or "height" in self.about["dynamic"]
            side = None if free else self.preprocess.size
            self._net = Session(self.file, self.about["outputs"], side, self.about["margin"])
        return self._net


def is_exported(path: str | Path) -> bool:
    """Whether a folder, or the model in it, was written by ``neocog export``."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    return (Path(path).is_dir() or Path(path).name in FILES.values()) and "export" in read_dict(folder / "net.json")


def load(path: str | Path) -> Run:
    """A run folder, or an exported folder or its model: what answers. Raises: RunError if it is neither."""
    if is_exported(path) or Path(path).is_file():
        return Exported(path)
    return Run(path)
