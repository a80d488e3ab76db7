"""What is looked at: a net with the way that pictures take into it, and the task that its answers belong to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neocog import nets
from neocog.anatomy import Field, trace
from neocog.data.batches import Batch
from neocog.data.decode import placed
from neocog.errors import DataError, NetError, UsageError, closest
from neocog.fit.depth import inside, zoo_net
from neocog.fit.device import Device, choose
from neocog.fit.predicting import Run, pictures_only
from neocog.look.maps import tensor_of
from neocog.nets.taps import tapped
from neocog.nets.weight_files import at_hand
from neocog.records import Preprocess
from neocog.tasks import Label, Task
from neocog.tasks.answer import Claim

_LEAST = 4  # positions each way that a map must have to show where something is


@dataclass(frozen=True, slots=True)
class Shown:
    """A module whose output can be looked at: dotted name, class, and shape (C, H, W) or (D,) for one picture."""

    name: str
    kind: str
    shape: tuple[int, ...]


class Subject:
    """A net to look into, in eval mode.

    Args:
        net: any module that reads pictures (B, C, H, W).
        preprocess: how pictures become its input.
        task: whose answers it gives; None: a label for each output.
        name: for people. notes: what they should know about it.
        device: where it is computed; None: on a GPU if there is one.
    """

    def __init__(
        self,
        net: nn.Module,
        preprocess: Preprocess,
        task: Task | None = None,
        *,
        name: str = "",
        notes: Sequence[str] = (),
        device: str | None = None,
    ) -> None:
        self.device = choose(device) if device not in (None, "cpu") or torch.cuda.is_available() else Device("cpu")
        self.net, self.preprocess, self.notes = net.to(self.device.torch).eval(), preprocess, tuple(notes)
        self.name = name or type(net).__name__
        if task is None:
            with torch.no_grad():
                made = net(self.blank())
            if not isinstance(made, Tensor) or made.ndim != 2:
                raise UsageError(f"{self.name} does not give one number for each class; train it, and look at the run")
            task = Label([f"class {k}" for k in range(made.shape[1])])
        self.task = task

    def __repr__(self) -> str:
        return f"Subject({self.name!r})"

    # ---- pictures

    def blank(self) -> Tensor:
        """A picture of the mean colour, zeros (1, C, H, W)."""
        return torch.zeros(1, self.preprocess.channels, *self.preprocess.input, device=self.device.torch)

    def read(self, *pictures: Any) -> Batch:
        """Pictures (paths, encoded bytes, uint8 arrays) as a batch. Raises: DataError if one cannot be read."""
        read = []
        for one in pictures:
            named = isinstance(one, (str, Path))
            try:
                made, matrix, size = placed(Path(one).read_bytes() if named else one, self.preprocess)
            except (OSError, DataError) as error:
                why = getattr(error, "strerror", None) or error
                raise DataError(f"{one if named else 'a picture'} cannot be read: {why}") from None
            read.append((made.transpose(1, 2, 0), matrix, size))
        return pictures_only(read, self.preprocess, self.device)

    def picture(self, x: Tensor) -> np.ndarray:
        """One input (C, H, W), as the net reads it, as a picture uint8 (H, W, 3); of a stack of frames the last."""
        mean, std = (torch.tensor(v[: len(x)])[:, None, None] for v in (self.preprocess.mean, self.preprocess.std))
        made = (x.detach().float().cpu() * std + mean).clamp(0, 1)
        made = made if len(made) == 3 else made[-1:].expand(3, -1, -1)
        return (255 * made).round().byte().permute(1, 2, 0).numpy()

    # ---- answers

    def outputs(self, x: Tensor) -> Any:
        """What the net gives for pictures (B, C, H, W), as its task runs it."""
        every = torch.arange(len(x))
        return self.task.run(self.net, Batch((x,), {}, every, torch.ones(len(x), dtype=torch.bool)))

    def put_out(self, x: Tensor, path: str) -> Tensor:
        """What one of the modules (see `path`) puts out for pictures, differentiable."""
        with tapped(self.net, [path], apart=True) as found:
            self.outputs(x)
        return tensor_of(found, path)

    def claim(self, batch: Batch, what: str | None = None, other: Any = None) -> Claim:
        """What is to be explained of the first picture (see ``Task.claim``); `other` is a picture to compare with."""
        with torch.no_grad():
            against = None if other is None else self.outputs(self.read(other).x)
            return self.task.claim(self.outputs(batch.x), batch, what, against)

    def answer(self, batch: Batch, key: str = "", top: int = 5) -> Any:
        """What is said of the first picture."""
        with torch.no_grad():
            outputs = self.outputs(batch.x[:1])
        return self.task.answers(outputs, batch.part(slice(1)), [key], top)[0]

    # ---- layers

    @cached_property
    def _prefix(self) -> str:
        """Where the net of the zoo stands inside one with a head for a task: "trunk.net." or ""."""
        zoo = zoo_net(self.net)
        return next(f"{name}." if name else "" for name, module in self.net.named_modules() if module is zoo)

    @cached_property
    def shapes(self) -> tuple[Shown, ...]:
        """Modules that give one tensor, in the order in which they are done, named as in the net of the zoo.

        What a head makes of the maps comes last, under its own name.
        """
        found: dict[str, Shown] = {}

        def note(name: str, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim in (2, 4) and len(output) == 1:
                found.pop(name, None)  # the last call counts
                short = name.removeprefix(self._prefix)
                found[name] = Shown(short, type(self.net.get_submodule(name)).__name__, tuple(output.shape[1:]))

        names = [name for name, _ in self.net.named_modules() if name and name != self._prefix.rstrip(".")]
        with torch.no_grad(), tapped(self.net, names, keep=note):
            self.outputs(self.blank())
        return tuple(found.values())

    def layer(self, name: str | None = None) -> Shown:
        """A layer by its dotted name; None: the one whose map shows best where something is.

        That is the last module at the smallest map that has at least 4 positions each way: deep, but still a map.

        Raises: UsageError if there is none of that name, or no map.
        """
        if name is None:
            heads = [str(getattr(zoo_net(self.net), "head", "")), *([] if not self._prefix else ["answer"])]
            maps = [s for s in self.shapes if len(s.shape) == 3 and not inside(s.name, heads)]
            usual = [s for s in maps if min(s.shape[1:]) >= _LEAST] or [s for s in maps if max(s.shape[1:]) > 1]
            if not usual:
                raise UsageError(f"{self.name} has no layer with a map; expected a convolutional net")
            smallest = min(s.shape[1] * s.shape[2] for s in usual)
            return [s for s in usual if s.shape[1] * s.shape[2] == smallest][-1]
        there = {s.name: s for s in self.shapes}
        if (path := name.partition("#")[0]) not in there:
            listed = ", ".join(list(there)[:8])
            raise UsageError(f"{self.name} has no layer {name!r}{closest(path, there)}; it has {listed} ...")
        return Shown(name, there[path].kind, there[path].shape)

    def path(self, layer: str) -> str:
        """The dotted name of a layer in `net`."""
        full = self._prefix + layer
        try:
            self.net.get_submodule(full.partition("#")[0])
        except AttributeError:
            return layer
        return full

    def unit_path(self, layer: str) -> str:
        """As `path`, for looking at one unit: of a rectifier what it reads, which tells strong from stronger at an
        upper bound (ReLU6), and has a gradient where the unit is not active."""
        path = self.path(layer)
        module = self.net.get_submodule(path.partition("#")[0])
        return f"<{path}" if isinstance(module, nn.ReLU | nn.Hardtanh) else path

    def levels(self) -> list[Shown]:
        """The last layer at each size of map, from fine to coarse, and what comes after the maps."""
        best: dict[tuple[int, ...], Shown] = {}
        for s in self.shapes:
            if len(s.shape) == 3 and max(s.shape[1:]) > 1 and s.name.partition(".")[0] != "answer":
                best[s.shape[1:]] = s
        made = sorted(best.values(), key=lambda s: -s.shape[1] * s.shape[2])
        return [*made, *[s for s in self.shapes if len(s.shape) == 1][-1:]]

    @cached_property
    def _traced(self) -> Any:
        try:
            shape = (self.preprocess.channels, *self.preprocess.input)
            return trace(zoo_net(self.net), shape, training_memory=False)
        except NetError:
            return None

    def field(self, layer: str) -> Field | None:
        """The exact receptive field of a layer; None where it cannot be followed (then it is the whole picture)."""
        path = layer.partition("#")[0]
        if self._traced is None or path not in {s.name for s in self.shapes}:
            return None
        own = [x for x in self._traced.layers if x.module == path or x.module.startswith(f"{path}.")]
        return own[-1].field if own else None


@contextmanager
def still(net: nn.Module) -> Iterator[None]:
    """While maps are made: parameters want no gradients; all is as it was afterwards."""
    wanted = [p for p in net.parameters() if p.requires_grad]
    for p in wanted:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in wanted:
            p.requires_grad_(True)


def subject(
    named: Any, *, preprocess: Preprocess | None = None, classes: Sequence[str] | None = None, device: str | None = None
) -> Subject:
    """Open a net to look into.

    Args:
        named: a `Run` or its folder; the name of a net of the zoo, with its ImageNet weights if they are at hand, else
            with fresh ones; a module, together with `preprocess`; or a `Subject`.
        classes: names of a module's outputs.

    Raises: UsageError: a module without its preprocessing, or a net that is not for pictures. NetError: no such net.
    """
    if isinstance(named, Subject):
        return named
    if isinstance(named, Run) or (isinstance(named, (str, Path)) and Path(named, "net.json").is_file()):
        run = named if isinstance(named, Run) else Run(named)
        return Subject(run.net(), run.preprocess, run.task, name=str(run.folder), device=device)
    if isinstance(named, nn.Module):
        if preprocess is None:
            raise UsageError("a module needs its preprocessing: look.subject(net, preprocess=Preprocess(...))")
        task = None if classes is None else Label(list(classes))
        return Subject(named, preprocess, task, device=device)
    facts, notes = nets.facts(str(named)), []
    if len(facts.input) != 3:
        raise UsageError(f"{named} does not read pictures; its input is {'x'.join(map(str, facts.input))}")
    if at_hand(facts.name):
        net = nets.build(facts.name, weights="imagenet", offline=True)
        preprocess = preprocess or nets.preprocess_for("imagenet", facts.name)
    else:
        net, side = nets.build(facts.name), facts.input[-1]
        notes.append(f"no trained weights of {named} are here: it is shown with random ones")
        preprocess = preprocess or Preprocess(side, side, channels=facts.input[0])
    task = Label(list(classes or _imagenet(net))) if facts.classes == 1000 and facts.task == "label" else None
    return Subject(net, preprocess, task, name=facts.name, notes=notes, device=device)


def _imagenet(net: nn.Module) -> list[str]:
    """Names of the 1,000 classes, from the file with WordNet's terms (data only; the room above owns it)."""
    file = Path(__file__).parents[1] / "library" / "wordnet.json"
    known: list[Any] = json.loads(file.read_text("utf-8"))["classes"]
    names, seen = [], set[str]()
    for wnid, (name, *others), _ in known:  # two classes are called crane, two maillot
        made = next((n for n in (name, *others) if n not in seen), f"{name} ({wnid})")
        seen.add(made)
        names.append(made)
    return names
