"""The settings of a training: decided before the first step, saved in run.json, read again on resume."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from neocog import nets
from neocog.data.augment import Augment
from neocog.data.reader import PICTURE, Reader
from neocog.data.reader import find as find_reader
from neocog.data.reader import saved as saved_reader
from neocog.errors import RunError, UsageError
from neocog.fit import choices, transfer
from neocog.fit.device import Device
from neocog.fit.job import Data, Wishes, options_of, task_options
from neocog.fit.parallel import World, same_everywhere
from neocog.fit.recipes import Recipe, still
from neocog.fit.show import Show
from neocog.fit.start import Start
from neocog.fit.trial import trial
from neocog.records import Facts, Preprocess
from neocog.tasks import Task
from neocog.tasks.task import load, saved

_STEP = 32  # whole pictures are brought to multiples of this, the deepest stride of the usual nets


@dataclass(frozen=True)
class Plan:
    """The settings of a run. `data` and `test` are what the user typed (None for arrays in memory)."""

    data: str | None
    test: str | None
    task: dict[str, Any]  # see tasks.task.saved
    net: dict[str, Any]
    recipe: Recipe
    preprocess: Preprocess
    batch: int
    pieces: int = 1  # of each picture that an epoch shows, see data.batches
    seed: int = 0
    epochs: float | None = None
    minutes: float | None = None
    mirror: bool = True  # a mirror image keeps its answer: for test-time views, and for copies in splits
    mirror_asked: bool = False  # the user decided that
    columns: dict[str, str] | None = None
    device: dict[str, Any] = field(default_factory=dict)
    start: dict[str, Any] | None = None  # the weights that it starts from, see transfer.describe
    reader: dict[str, Any] | None = None  # of inputs that are not pictures, see data.reader.saved
    teachers: list[dict[str, Any]] = field(default_factory=list)  # see guides.described
    unlabelled: dict[str, Any] | None = None
    taps: dict[str, Any] | None = None  # the layers that a new head reads, see features.Tapped and nets.trunk

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Plan:
        """The plan that ``as_dict`` described."""
        recipe = Recipe(**values["recipe"])
        return Plan(**{**values, "recipe": recipe, "preprocess": Preprocess.from_json(values["preprocess"])})

    @staticmethod
    def upgraded(values: dict[str, Any]) -> dict[str, Any]:
        """What ``as_dict`` would have given, of the settings of a run of an earlier version.

        Raises: RunError: the run learned from pictures without labels in a way that is no more.
        """
        if not isinstance(values.get("recipe"), dict):
            return values
        if "sure" in values["recipe"]:  # the threshold of FixMatch
            if values.get("unlabelled"):
                raise RunError(
                    "this run began when --unlabelled learned in another way, and cannot be continued; train a new one"
                )
            values = {**values, "recipe": {k: v for k, v in values["recipe"].items() if k != "sure"}}
        if "task" in values:
            return values
        smoothing = values["recipe"].get("label_smoothing", 0.0)
        classes = values.get("classes", [])
        rest = {k: v for k, v in values.items() if k != "classes"}
        return {**rest, "task": {"name": "label", "classes": classes, "smoothing": smoothing}}

    @property
    def by_steps(self) -> bool:
        """Whether the net is trained by steps; in regime features a linear last layer is fitted at once."""
        return self.start is None or self.start["regime"] != "features" or self.on_features

    @property
    def on_features(self) -> bool:
        """Whether the steps run on features of the pictures."""
        return self.start is not None and bool(self.start.get("steps"))

    @property
    def augment(self) -> Augment:
        """What is done to the training pictures."""
        fields = {f.name: getattr(self.recipe, f.name) for f in dataclasses.fields(Augment)}
        return Augment(**fields) if self.mirror else Augment(**{**fields, "flip": "none"})


def make_plan(
    wishes: Wishes, data: Data, device: Device, world: World, show: Show, start: Start | None = None
) -> tuple[Plan, Task]:
    """Decide what was left open: the size, the net, the recipe, the splits and the batch; and say so.

    With a `start`, net and preprocessing are those of its weights, and the regime is decided, too.
    """
    source, kind = data.source, data.task
    usual, channels = data.usual
    side = min(usual)
    small = wishes.size or choices.choose_size(side, device.kind == "cpu")
    name = start.spec["name"] if start else wishes.net or choices.choose_net(small, kind)
    facts = nets.facts(name)
    _check_net(facts, kind)
    pre = _preprocess(wishes, data, start, facts, device)
    named = wishes.recipe or ((kind.recipe or "finetune") if start else None)
    r = choices.make_recipe(named, name, wishes.fields, kind)
    if r.name == "quick" and max(pre.input) > 128 and "batch_size" not in wishes.fields:
        r = r.changed(batch_size=8)  # maps of large pictures need much memory
    with show.bar("searching for near-duplicates") as bar:
        split = choices.splits_of(
            source, kind, r, wishes.seed, lambda done, of: bar(done / max(1, of), f"{done:,} of {of:,}"),
            mirrored=r.flip != "none" if "flip" in wishes.fields else None,
        )  # fmt: skip
    data.codes, data.notes, mirroring = same_everywhere(split, world)
    if pre.fit == "pad" and "tile" in kind.options and side > 1.5 * min(pre.input):
        data.notes.append(
            f"pictures are scaled from a usual {usual[1]}x{usual[0]} to {pre.input[1]}x{pre.input[0]}, so small things "
            "are lost (--size keeps more; --task-option tile=256 looks at them piece by piece, at their own scale)"
        )
    rows = data.rows("train")
    pieces = math.ceil(usual[0] * usual[1] / math.prod(pre.input)) if pre.fit == "tile" else 1
    options = task_options(kind, {**r.task_options, **wishes.task_options})
    task = kind.plan(source, rows, {**r.as_dict(), **options})
    net_options, taps, began = dict(wishes.net_options), None, None
    if start:
        attempt = partial(trial, start, task, data, pre, device, world, show, wishes.seed)
        decision = transfer.decide(start, task, data, wishes, attempt)
        taps, began, r = decision.taps, decision.start, decision.recipe.changed(val_share=r.val_share)
        data.notes += decision.notes
        if pre.channels < channels:
            data.notes.append("the weights are for grey pictures, so colours are not used")
    elif nets.engineered(name):
        r, began = transfer.without_weights(r, task, name, wishes)
    elif kind.classifies and transfer.each_class(np.bincount(source.labels[rows])) < transfer.FEW:
        data.notes.append(transfer.ONE_SPLIT)
    if r.dropout >= 0:
        if "dropout" in nets.options(name):
            net_options.setdefault("dropout", r.dropout)
        else:
            data.notes.append(f"{name} has no dropout, so the recipe's dropout of {r.dropout:g} is ignored")
    if r.rotate >= 90 and r.tta == "flip" and "tta" not in wishes.fields and pre.input[0] == pre.input[1]:
        r = r.changed(tta="turn")  # who turns the pictures that are learned from says that they have no top
    r, said = _as_the_task_can(r, task)
    data.notes += said
    r, said = choices.growing(r, name, pre.size, compiled=device.compile and "small" not in wishes.fields)
    data.notes += said
    if not start and min(pre.input) <= 64 and nets.options(name).get("stem") == "imagenet":
        net_options.setdefault("stem", "small")  # the ImageNet stem would leave 2x2 of a 64x64 picture at the end
    own = task.outputs if task.outputs is not None else task.zoo_outputs if facts.task == kind.name else None
    kept = (start.spec["classes"] if start else facts.classes) if own is None or taps else own
    spec = {
        **(start.spec if start else {}),
        "name": name,
        "classes": kept,
        "in_channels": pre.channels,
        "input_size": min(pre.input) if nets.one_size(name) or pre.shape is None else facts.input[-1],
        **net_options,
    }
    r, mirror, said = choices.mirror_as_decided(r, mirroring, _names(task), wishes.fields)
    data.notes += said
    data.notes += task.notes
    decided: dict[str, Any] = {
        "task": saved(task), "net": spec, "recipe": r, "preprocess": pre, "pieces": pieces, "mirror": mirror,
        "mirror_asked": bool({"flip", "tta"} & set(wishes.fields)), "start": began, "taps": taps,
        "batch": choices.make_batch(r, len(rows) * pieces, world.size),
    }  # fmt: skip
    return _made(wishes, data, device, show, decided), task


def _made(wishes: Wishes, data: Data, device: Device, show: Show, decided: dict[str, Any]) -> Plan:
    """The plan with what was `decided`; its notes are said."""
    for note in data.notes:
        show.say(f"note: {note}")
    given: dict[str, Any] = {name: getattr(wishes, name) for name in ("seed", "epochs", "minutes")}
    return Plan(data=data.spec, test=data.test_spec, columns=data.columns, device=device.as_dict(), **given, **decided)


def plan_inputs(wishes: Wishes, data: Data, device: Device, world: World, show: Show) -> tuple[Plan, Task]:
    """As `make_plan`, for inputs that are not pictures: with a reader in the place of a size and of first weights.

    Raises: UsageError: something was asked for that only pictures have.
    """
    kind, source, read = data.task, data.source, find_reader(data.source.kind)
    _refuse_pictures_wishes(wishes, kind, read)
    own = kind.own_net is not Task.own_net
    name = wishes.net or read.net
    seen = False
    if not own:
        seen = read.pictures and nets.facts(name).reads == PICTURE  # such as a spectrogram
        _check_net(nets.facts(name), kind, PICTURE if seen else read.kind)
    of_net = {} if own else vars(nets.builder(name))
    r = choices.make_recipe(wishes.recipe or kind.recipe or of_net.get("recipe", read.recipe), "", wishes.fields, kind)
    r = r.changed(**still(read.mixes))
    split = choices.splits_of(source, kind, r, wishes.seed)
    data.codes, data.notes, _ = same_everywhere(split, world)
    rows = data.rows("train")
    options = task_options(kind, {**r.task_options, **wishes.task_options})
    task = kind.plan(source, rows, {**r.as_dict(), **options})
    if (reader := task.own_reader()) is None:
        given = {**wishes.input_options, **({"size": wishes.size} if wishes.size else {})}
        usual = {**read.options, **of_net.get("reader", {}), **({"picture": True} if seen else {})}
        reader = read.plan(source, rows, options_of(f"the input {read.kind}", "--input-option", usual, given))
    data.notes += [*task.notes, *reader.notes]
    net = task.own_net() if own else None
    spec: dict[str, Any] = dict(net.spec) if net is not None else {"name": name, "classes": task.outputs}  # type: ignore[arg-type]
    if net is None:
        shape, has = reader.shape, nets.options(name)
        if seen:
            _check_picture(name, shape)
        spec |= {"in_channels": (shape if len(shape) > 1 else nets.facts(name).input)[0], "input_size": shape[-1]}
        spec |= {k: v for k, v in reader.net_options.items() if k in has} | dict(wishes.net_options)
        if r.dropout >= 0 and "dropout" in has:
            spec.setdefault("dropout", r.dropout)
        spec["input_size"] = max(spec["input_size"], _smallest(name, spec))
    decided: dict[str, Any] = {
        "task": saved(task), "net": spec, "recipe": r, "mirror": False, "reader": None if own else saved_reader(reader),
        "preprocess": Preprocess(1, 1, channels=1, mean=(0.0,), std=(1.0,)),
        "batch": choices.make_batch(r, len(rows), world.size),
    }  # fmt: skip
    return _made(wishes, data, device, show, decided), task


def _refuse_pictures_wishes(wishes: Wishes, task: type[Task], read: type[Reader]) -> None:
    asked = {"--net": wishes.net is not None and task.own_net is not Task.own_net, "--from": wishes.start is not None,
             "--regime": wishes.regime is not None,
             "--size": wishes.size is not None and "size" not in read.options}  # fmt: skip
    asked |= {f"--set {name}=": name in wishes.fields for name in still(read.mixes)}
    if option := next((name for name, given in asked.items() if given), None):
        own = "; its nets are chosen by --task-option tower=sentence, dssm or cdssm" if option == "--net" else ""
        raise UsageError(f"{option} is for pictures, and the task {task.name} reads {read.kind}s here{own}")


def _check_picture(name: str, shape: tuple[int, ...]) -> None:
    """Raises: UsageError: a net cannot read what a reader shows as a picture (C, H, W)."""
    least, size = nets.smallest_picture(name), "x".join(map(str, shape[1:]))
    if len(shape) != 3 or min(shape[1:]) < least or (nets.one_size(name) and shape[1] != shape[2]):
        square = "square pictures of one size" if nets.one_size(name) else f"pictures of at least {least}x{least}"
        raise UsageError(
            f"{name} needs {square}, and the inputs are {size}; take a net that reads any size (resnet18), or change "
            "them: --input-option bands=N, seconds=S, features=logmel"
        )


def _smallest(name: str, spec: Mapping[str, Any]) -> int:
    rule = getattr(nets.builder(name), "smallest_input", None)
    return int((rule({**nets.options(name), **spec}) if rule else None) or nets.facts(name).smallest)


def task_of(plan: Plan, data: Data) -> Task:
    """The task of a plan; that of a run of an older version is planned again."""
    if data.task.classifies and "weights" not in plan.task:
        return data.task.plan(data.source, data.rows("train"), plan.recipe.as_dict())
    return load(plan.task)


def _names(task: Task) -> tuple[str, ...]:
    return tuple(getattr(task, "classes", ()))


def _check_net(facts: Facts, task: type[Task], reads: str = PICTURE) -> None:
    if facts.reads != reads or facts.task not in ("label", "embed", task.name):
        raise UsageError(
            f"{facts.name} is a net for the task {facts.task!r} on inputs of shape {facts.input} ({facts.reads}), "
            f"and this training is for the task {task.name!r} on {reads}s; 'neocog nets --task label' lists nets"
        )
    if getattr(nets.builder(facts.name), "learns_by_itself", False):
        raise UsageError(
            f"{facts.name} learns by its own rule, not by gradients: call its method learn(pictures, labels)"
        )


def _preprocess(wishes: Wishes, data: Data, start: Start | None, facts: Facts, device: Device) -> Preprocess:
    usual, channels = data.usual
    side, kind = min(usual), data.task
    given, least = start.sized(wishes.size, side) if start else None, nets.smallest_picture(facts.name)
    shape: tuple[int, int]
    if tile := int(task_options(kind, wishes.task_options).get("tile", 0)):
        if wishes.size:
            raise UsageError(
                f"size={wishes.size} scales pictures, and with tile={tile} they keep their size; give one of both"
            )
        if tile < least:
            raise UsageError(f"{facts.name} needs tiles of at least {least}, not tile={tile}")
        fit, shape = "tile", (tile, tile)
    else:
        plain = given or _cut(wishes, facts, side, device)
        if nets.engineered(facts.name):  # descriptors are of the pictures' own values
            plain = dataclasses.replace(plain, mean=(0.0,) * 3, std=(1.0,) * 3)
        if kind.fit != "pad":
            return plain if given else dataclasses.replace(plain, channels=channels)
        usually = min(side, 64 if side <= 96 else 256 if device.kind == "cpu" else 512)
        size = wishes.size or kind.size or (usually if kind.geometry else plain.size)
        step, size = 8 if size <= 96 else _STEP, max(size, least)
        fit, shape = "pad", (size, size) if nets.one_size(facts.name) else choices.choose_shape(usual, size, step)
    made = Preprocess(min(shape), min(shape), channels=channels, fit=fit, shape=shape)
    if given is None:
        return made
    return dataclasses.replace(made, mean=given.mean, std=given.std, channels=given.channels)


def _cut(wishes: Wishes, facts: Facts, side: int, device: Device) -> Preprocess:
    """A square from the middle of pictures whose usual short side is `side`."""
    usually = choices.choose_size(side, device.kind == "cpu")
    size = wishes.size or (max(facts.smallest, min(facts.input[-1], usually)) if wishes.net else usually)
    return Preprocess(size=size, resize=size if size <= 96 else round(size * 256 / 224))


def _as_the_task_can(r: Recipe, task: Task) -> tuple[Recipe, list[str]]:
    """The recipe without what the task cannot do; notes say what was left out, if the recipe asked for it."""
    notes, changes = [], dict[str, Any]()
    if (r.mixup or r.cutmix) and (r.noisy or not task.mixes):
        changes |= {"mixup": 0.0, "cutmix": 0.0}
        why = "--noisy looks at single pictures" if r.noisy else f"the task {task.name} cannot learn from them"
        notes.append(f"pictures are not mixed: {why}")
    if (task.geometry or task.remakes) and r.small < 1.0:
        changes["small"] = 1.0
    if task.geometry:
        if r.tta == "shift":
            changes["tta"] = "flip"
    elif r.elastic:
        changes["elastic"] = 0.0
    if r.tta == "turn" and not task.turns_back:
        changes["tta"] = "flip"
    if r.tta != "none" and not task.views_back:
        changes["tta"] = "none"
    if task.whole_batch and r.chunk:
        changes["chunk"] = 0
    return r.changed(**changes), notes
