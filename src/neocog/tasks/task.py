"""What a task is: one kind of question about a picture. A task is a file in this folder that calls `register`.

A task says what it needs of a sample (`needs`: role -> kind of column), gives the net its head, and knows the loss,
the figures, the answers, and the sections of the report that are its own. Everything else (reading, augmentation,
the loop, processes, resuming, the run folder) is the same for all tasks and knows none of them by name.

The way of a batch: ``collate`` makes targets from the columns' values, ``run`` gives outputs, ``losses`` makes the
loss of them; in evaluation ``observe`` keeps what ``figures`` needs, and ``answers`` says what was found.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from neocog.data.batches import Batch, Feed
from neocog.data.columns import LabelSets
from neocog.data.reader import Reader
from neocog.data.source import Source
from neocog.data.warp import Warp
from neocog.errors import UsageError, closest
from neocog.nets.trunk import Headed, Trunk
from neocog.page import Html
from neocog.records import Preprocess
from neocog.tasks.answer import Answer, Claim, which
from neocog.tasks.measures import words
from neocog.tasks.meter import Losses, Meter, Seen, by_rows
from neocog.tasks.registry import find, fits, guess, joins, load, names, possible, register, saved

__all__ = [
    "Answer", "Batch", "Claim", "LabelSets", "Losses", "Meter", "Reader", "Section", "Seen", "Source", "Targets",
    "Task", "Trunk", "Warp", "build_net", "by_rows", "find", "fits", "guess", "joins", "load", "names", "possible",
    "register", "saved", "which", "words",
]  # fmt: skip

Targets = dict[str, Any]  # name -> tensor (B, ...) or list of B values


# of a row: uint8 (H, W, 3) or (H, W), or how another input is shown; None where it cannot be read
Picture = Callable[[int], "np.ndarray | Html | None"]


@dataclass(frozen=True)
class Section:
    """A part of a report; the body of one that shows pictures is made of them."""

    title: str
    body: Html | Callable[[Picture], Html]


class Task(ABC):
    """One kind of question. Subclasses say what differs; the class attributes say what a task can take.

    Without further words a task is made of its `options`, which are then in ``how`` with all their values.
    """

    name: ClassVar[str]  # as it is typed after --task
    about: ClassVar[str] = ""  # one line for people
    needs: ClassVar[Mapping[str, str]]  # role of a column -> its kind (see ``neocog.data.kinds``)
    goal: ClassVar[tuple[str, str]] = ("accuracy", "max")  # the figure by which trainings are judged, and its best end
    figure: ClassVar[str] = "accuracy"  # a short name of `goal` for people
    answer: ClassVar[type[Any]]  # the class of its answers
    options: ClassVar[Mapping[str, Any]] = {}  # names of what --task-option may set -> default
    choices: ClassVar[Mapping[str, Sequence[str]]] = {}  # options that have one of some values -> these
    kept: ClassVar[tuple[str, ...]] = ()  # attributes that a run folder keeps beside the options, see `to_json`
    fit: ClassVar[str] = "crop"  # how a picture is brought to the net's input: "crop" (the centre), "pad" (whole)
    geometry: ClassVar[bool] = False  # whether targets move with the picture; batches then carry a warp
    zooms: ClassVar[bool] = True  # whether the usual recipe shows pictures at other scales, where targets move along
    mixes: ClassVar[bool] = False  # whether two pictures may be mixed (then the loss heeds ``batch.mix``)
    mirrors: ClassVar[bool] = True  # whether a mirror image has the picture's answer, once targets have moved with it
    # whether the loss compares the pictures of a batch, so that it is never computed in pieces
    whole_batch: ClassVar[bool] = False
    # whether features tell pictures unlike the training data (then answers have ``judged``)
    knows_strangers: ClassVar[bool] = False
    classifies: ClassVar[bool] = False  # whether a picture has exactly one of `classes`, and the net a logit for each
    # whether the head takes features of pictures in their place: steps can then run on features that are computed once
    # (regime features; see ``nets.trunk.Headed``)
    on_features: ClassVar[bool] = False
    variants: ClassVar[tuple[str, ...]] = ()  # names of tasks that are this one for other columns, see `suited`
    inputs: ClassVar[tuple[str, ...]] = ("picture",)  # the kinds of inputs that it can be asked of; empty: all
    shown_texts: int = 0  # of the texts that a sample has, so many are shown at each step; 0: all
    # whether ``unmirrored`` undoes a mirror view of the outputs, so that views can be averaged
    views_back: bool = True
    recipe: ClassVar[str | None] = None  # the usual recipe; None: chosen by the net
    scratch: ClassVar[str | None] = None  # the usual one of nets of the zoo with random weights; None: the net's
    size: ClassVar[int | None] = None  # the usual short side of the net's input; None: chosen by the pictures
    net: ClassVar[str | None] = None  # the usual net, for which `recipe` is made; None: see `usual_net`
    precision: ClassVar[str | None] = None  # that it is learned in by itself; None: what is faster
    remakes: ClassVar[bool] = False  # whether pictures of the input's size are made, so none may be shown smaller
    adversarial: ClassVar[bool] = False  # whether parts of the net work against each other: the loss need not fall
    progress: float = 1.0  # the share of the training that is over, which the loop sets before each step

    def __init__(self, **options: Any) -> None:
        self.how = self.chosen(options)

    @classmethod
    def chosen(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The `options` as they are set. Raises: UsageError: a value is not among its `choices`."""
        made = {name: type(usual)(settings.get(name, usual)) for name, usual in cls.options.items()}
        for name, known in cls.choices.items():
            if (value := made[name]) not in known:
                raise UsageError(
                    f"unknown {name} {value!r} of the task {cls.name}{closest(value, known)}; expected one of "
                    f"{', '.join(known)}"
                )
        return made

    # ---- before training

    @classmethod
    def usual_net(cls, size: int) -> str | None:
        """The net for pictures of a size where none is named; None: one that is good at telling pictures apart."""
        return cls.net or ("placenet" if cls.head is not Task.head and size <= 96 else None)

    @classmethod  # noqa: B027  # for most tasks the columns that they need are enough
    def check(cls, source: Source) -> None:
        """Refuse a source to train on by its columns alone, before a picture is read. Raises: DataError."""

    @classmethod
    def completed(cls, source: Source, options: Mapping[str, Any], names: Sequence[str] = ()) -> Source:
        """The source, or one with columns that the task makes of others, as its `options` say.

        `names`: of the classes, where they are known.
        """
        return source

    @classmethod
    def suited(cls, source: Source) -> type[Task]:
        """This task, or the first of its variants for whose columns a source has something, if it has none for this."""
        others = [] if fits(cls, source) else [find(name) for name in cls.variants]
        return next((one for one in others if fits(one, source)), cls)

    @classmethod
    @abstractmethod
    def plan(cls, source: Source, rows: np.ndarray, settings: Mapping[str, Any]) -> Task:
        """The task for a source: classes, weights, notes.

        Args:
            rows: indices of the training samples.
            settings: the fields of the recipe (label_smoothing, balance, ...), and above them the task's own `options`
                with what the user gave; unknown names are refused before this is called.

        Raises:
            DataError: the source lacks what is needed; says what was expected and what to type.
        """

    notes: tuple[str, ...] = ()  # what the user should know, one sentence each

    def to_json(self) -> dict[str, Any]:
        """What the run folder keeps, without the name: `kept` and the options, of which `from_json` makes the task."""
        return {**{name: _plain(getattr(self, name)) for name in self.kept}, **self.how}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Task:
        """The task that `to_json` described."""
        return cls(**values)

    @classmethod
    def known(cls, source: Source) -> np.ndarray:
        """bool (N,): samples that can be learned from or judged, those of which all needs are known."""
        good = np.ones(len(source), dtype=bool)
        for role in cls.needs:
            good &= source.columns[role].known
        return good

    @classmethod
    def strata(cls, source: Source) -> np.ndarray | LabelSets | None:
        """int (N,): samples of one number are spread evenly over splits, -1 = no matter; or several for each sample.

        None: by chance.
        """
        return None

    @classmethod
    def groups(cls, source: Source) -> np.ndarray | None:
        """int (N,): samples of one number must be in one split, -1 = alone; None: all alone."""
        return None

    # ---- the net

    def own_reader(self) -> Reader | None:
        """What reads the inputs of a task that plans this itself, as it has its `own_net`; None: one is planned."""
        return None

    def own_net(self) -> nn.Module | None:
        """The net with fresh weights of a task that no net of the zoo answers, with a `spec`; None: one of the zoo."""
        return None

    @property
    def outputs(self) -> int | None:
        """How many numbers the net's own last layer gives; None where the task has a head of its own (see `head`)."""
        return None

    @property
    def zoo_outputs(self) -> int | None:
        """How many outputs (maps, say) a net of the zoo that is made for this task gives."""
        return None

    def head(self, trunk: Trunk) -> nn.Module:
        """The head: a module with ``forward(maps: dict[int, Tensor], x: Tensor)``, maps by stride, x the input."""
        raise NotImplementedError(f"task {self.name} has no head of its own")

    def run(self, net: nn.Module, batch: Batch) -> Any:
        """The net's outputs for a batch: a tensor, or a tuple or dict of tensors."""
        return net(*batch.inputs)

    @property
    def chance(self) -> int | None:
        """Among how many classes of one loss a net without an opinion would guess; None where that means nothing."""
        return None

    def begin(self, pre: Preprocess, some: Callable[[int], Tensor]) -> None:  # noqa: B027  # most need not know
        """Learn, before the net is built, how pictures are normalised, and how to get some of those trained on.

        Args:
            some: gives up to so many training pictures, normalised, float32 (N, C, H, W).
        """

    # ---- a batch

    def feed(self, net: nn.Module, device: Any, *, batch: int, seed: int, folder: Path) -> Feed | None:
        """Where batches come from, if not from the samples of the source: what the net finds out by itself.

        Args:
            net: on its device; its weights change between two batches.
            device: a ``fit.device.Device``.
            batch: samples in a batch.
            folder: of the run; what is too large for a checkpoint can be kept there.
        """
        return None

    @abstractmethod
    def collate(self, values: dict[str, Any], warp: Warp | None, valid: Tensor) -> Targets:
        """Targets of a batch, on the CPU.

        Args:
            values: role -> int64 tensor (B,) for a category, else a list of the B values of the column.
            warp: what was done to the pictures, if `geometry`.
            valid: bool (B,), which pictures could be read; the others must not count in any loss or figure.
        """

    def order(self, columns: Mapping[str, Any], n: int, batch: int, g: torch.Generator) -> Tensor | None:
        """The order of an epoch, int64 (n // batch * batch or more,); None: by chance, each once."""
        return None

    @abstractmethod
    def losses(self, outputs: Any, batch: Batch) -> Losses:
        """The loss of a batch; outputs are float32."""

    def truth(self, columns: Mapping[str, Any], i: int) -> Any:
        """What ``Answer.draw`` gets as the truth of sample `i`: the value of the first need."""
        return columns[next(iter(self.needs))][i] if self.needs else None

    def unmirrored(self, outputs: Any) -> Any:
        """Outputs for a mirror view, as they would be for the picture itself; left out where `views_back` is false."""
        return outputs

    turns_back: ClassVar[bool] = False  # whether `unturned` undoes quarter turns of the pictures

    def unturned(self, outputs: Any, quarter: int) -> Any:
        """Outputs for a picture turned so many quarters to the left, as they would be for the picture itself."""
        return outputs

    # ---- figures

    summed: ClassVar[frozenset[str]] = frozenset()  # of what `observe` gives: added up, while all else is joined

    def observe(self, outputs: Any, batch: Batch) -> dict[str, Any]:
        """What figures need of a batch of evaluation: arrays or tensors by name, small enough to keep for a split.

        Pictures that are not ``batch.valid`` are left out of everything. ``batch.rows`` says which pictures they are.
        Without further words it is the outputs, one tensor, and the targets.
        """
        return {"rows": batch.rows, "outputs": outputs, **batch.targets}

    @abstractmethod
    def figures(self, seen: Seen) -> dict[str, Any]:
        """Figures of a split by their plain names; `n`, `loss` and the goal are always among them."""

    def thorough(self) -> None:  # noqa: B027  # most figures are cheap
        """From now on compute in evaluation also what takes too long for every epoch: the figures are reported."""

    def sheets(self, net: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
        """Pictures of what the net makes, uint8 (H, W, 3), by a heading; on the way, and at the end.

        `net` is in evaluation mode; `batch` has some pictures of the validation split, at the end of the test split.
        """
        return {}

    def sample(self, net: nn.Module, n: int, seed: int = 0) -> np.ndarray:
        """New pictures, uint8 (n, H, W, 1 or 3). Raises: UsageError: the task makes none."""
        raise UsageError(f"a net of the task {self.name} makes no pictures; train one with --task vae or --task gan")

    def error(self, figures: Mapping[str, Any]) -> float:
        """A standard error of the goal: smaller differences between epochs do not count."""
        return 0.01 * abs(figures[self.goal[0]])

    def calibrate(self, seen: Seen) -> None:  # noqa: B027  # most tasks have nothing to choose
        """Choose from the validation split what is chosen after training: a temperature, thresholds, intervals."""

    def worst(self, seen: Seen) -> np.ndarray:
        """Rows (as in ``seen["rows"]``) of a split, the worst answers first, for the report's examples."""
        return np.zeros(0, np.int64)

    def caption(self, seen: Seen, row: int) -> str:
        """A line under the example of row `row`: how good the answer is."""
        return ""

    def headline(self, figures: Mapping[str, Any]) -> str:
        """One line that says how good it is, for the terminal and the report."""
        name, _ = self.goal
        return f"{self.figure} {figures[name]:.4g} (n = {figures['n']:,})"

    def shown(self, value: float) -> str:
        """A value of the goal as people read it."""
        return f"{value:.4g}"

    def result(self, seen: Seen, figures: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
        """For the top of the report: what follows the number of pictures, and the figures beside the goal, written."""
        rows = {
            words(key): f"{v:.4f}" if isinstance(v, float) else f"{v:,}"
            for key, v in figures.items()
            if isinstance(v, (int, float)) and not isinstance(v, bool) and key not in ("n", self.goal[0])
        }
        return "", rows

    def sections(self, seen: Seen, figures: Mapping[str, Any]) -> list[Section]:
        """Sections of the report about the split that it shows (test, else validation)."""
        return []

    # ---- answers

    def categories(self) -> list[dict[str, Any]]:
        """COCO's categories, ids from 1 in the order of the classes; a task of points adds ``keypoints``."""
        names = getattr(self, "classes", ()) or ("object",)
        return [{"id": k, "name": name} for k, name in enumerate(names, 1)]

    @abstractmethod
    def answers(self, outputs: Any, batch: Batch, keys: Sequence[str], top: int = 5) -> list[Answer]:
        """What is said of each picture of a batch; boxes, points and masks in pixels of the file (``batch.warp``).

        `top`: how many guesses are wanted where there are several.
        """

    claims: ClassVar[str] = "the number of an output"  # what `what` may be, for people

    def claim(self, outputs: Any, batch: Batch, what: str | None = None, other: Any = None) -> Claim:
        """What is to be explained of the first picture of a batch.

        Args:
            what: see `claims`; None: what the answer says first.
            other: outputs for another picture, for a task that compares two.

        Raises:
            UsageError: there is no such thing in the answer.
        """
        if not isinstance(outputs, Tensor):
            raise UsageError(f"what speaks for an answer of the task {self.name} is not known")
        flat = outputs[0].flatten()
        k = which(what, [str(i) for i in range(len(flat))], "output", int(flat.argmax()))
        return Claim(f"output {k}", lambda out: out.flatten(1)[:, k])

    def unread(self, key: str, problem: str) -> Answer:
        """The answer for a picture that could not be read."""
        return self.answer(key, problem=problem)  # type: ignore[no-any-return]

    unportable: ClassVar[str] = ""  # why a net of this task cannot be exported; empty: it can
    reading: ClassVar[str] = ""  # how the outputs of an exported model are read, for people

    def readings(self, outputs: Any, size: tuple[int, int]) -> dict[str, Tensor]:
        """What the outputs say, as tensors by name, for who uses an exported model without neocog.

        Places are in pixels of an input of `size`, height and width. Traced: plain operations on tensors.
        """
        return {}


def build_net(task: Task, spec: Mapping[str, Any]) -> nn.Module:
    """The net of a task with fresh weights, of what ``neocog.nets.build`` makes of `spec`.

    A net of the zoo whose last layer answers, or that is made for this task; else a trunk with the task's head.
    """
    from neocog import nets

    if (own := task.own_net()) is not None:
        return own
    net = nets.build(**spec)
    if task.outputs is not None or nets.facts(spec["name"]).task == task.name:
        return net
    trunk = Trunk(net)
    return Headed(trunk, task.head(trunk))


def _plain(value: Any) -> Any:
    """Tensors, arrays and tuples as lists."""
    value = value.tolist() if isinstance(value, (Tensor, np.ndarray)) else value
    return [_plain(one) for one in value] if isinstance(value, (tuple, list)) else value
