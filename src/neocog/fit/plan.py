"""What will be trained, on what and how: decided before the first step, saved in run.json, read again on resume."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from neocog import nets
from neocog.data.augment import Augment
from neocog.data.decode import inspect
from neocog.data.source import Source
from neocog.data.split import complete_split
from neocog.errors import DataError, NeocogError, UsageError
from neocog.fit.recipes import Recipe, choose_batch, recipe
from neocog.fit.schedules import side
from neocog.records import SPLITS, Preprocess, counted
from neocog.tasks.measures import wilson

_LOOK_AT = 256  # pictures whose headers are read to find the usual size
_GROUPS_UP_TO = 200_000  # pictures; beyond that near-duplicates are not looked for without being asked
_GROUPS_FOR_VALIDATION_UP_TO = 20_000
_FEW = 30  # pictures of a split whose figures say little


@dataclass(frozen=True)
class Plan:
    """The settings of a run. `data` and `test` are what the user typed (None for arrays in memory)."""

    data: str | None
    test: str | None
    net: dict[str, Any]
    recipe: Recipe
    classes: tuple[str, ...]
    preprocess: Preprocess
    batch: int
    seed: int = 0
    epochs: float | None = None
    minutes: float | None = None
    mirror: bool = True
    columns: dict[str, str] | None = None
    device: dict[str, Any] = field(default_factory=dict)
    start: dict[str, Any] | None = None  # the weights that it starts from, see transfer.describe
    taps: dict[str, Any] | None = None  # the layers that a new head reads, see features.Tapped

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Plan:
        """The plan that ``as_dict`` described."""
        pre = values["preprocess"]
        pre = Preprocess(**{**pre, "mean": tuple(pre["mean"]), "std": tuple(pre["std"])})
        return Plan(
            **{**values, "recipe": Recipe(**values["recipe"]), "preprocess": pre, "classes": tuple(values["classes"])}
        )

    @property
    def by_steps(self) -> bool:
        """Whether the net is trained by steps; in regime features its last layer is fitted at once."""
        return self.start is None or self.start["regime"] != "features"

    @property
    def augment(self) -> Augment:
        """What is done to the training pictures; no mirror images where they would be other pictures."""
        r = self.recipe
        return Augment(
            flip=r.flip if self.mirror else "none",
            translate=r.translate,
            crop=r.crop,
            resized_crop=r.resized_crop,
            cutout=r.cutout,
            colour=r.colour,
            mixup=r.mixup,
            cutmix=r.cutmix,
        )


def usual_size(source: Source, rows: np.ndarray) -> tuple[int, int]:
    """The median short side of some pictures, in pixels, and the number of their channels (1 if all are grey)."""
    sides, grey = [], True
    for i in rows[np.linspace(0, len(rows) - 1, min(_LOOK_AT, len(rows))).astype(int)]:
        try:
            data = source.read(int(i))
            if isinstance(data, bytes):
                info = inspect(data)
                sides.append(min(info.width, info.height))
                grey &= info.mode in ("L", "1", "I;16", "I")
            else:
                sides.append(min(data.shape[:2]))
                grey &= data.ndim == 2
        except (DataError, OSError):
            continue
    if not sides:
        raise DataError(f"no picture of {source.name} can be read; 'neocog check' says why")
    return int(np.median(sides)), 1 if grey else 3


def letters(classes: tuple[str, ...]) -> bool:
    """Whether the classes are single letters or digits, whose mirror images are something else."""
    return len(classes) > 1 and all(len(c) == 1 and c.isalnum() for c in classes)


def choose_size(side: int, on_cpu: bool) -> int:
    """The net's input for pictures whose usual short side is `side`: 32, 64, or 128 (224 on a GPU)."""
    if side <= 40:
        return 32
    if side <= 96:
        return 64
    return 128 if on_cpu or side < 180 else 224


def choose_net(size: int) -> str:
    """The net for an input size: speednet for small pictures, resnet18 for the others."""
    return "speednet" if size <= 64 else "resnet18"


def choose_recipe(net: str) -> str:
    """The recipe for a net: fast for the nets that it was made for."""
    return "fast" if net.startswith("speednet") else "standard"


def splits_of(
    source: Source, r: Recipe, seed: int, progress: Callable[[int, int], None] | None = None
) -> tuple[np.ndarray, list[str]]:
    """A code for each picture (index into SPLITS, -1 = not used), and what was done, in sentences.

    Declared splits are kept. Otherwise 80 % train, 10 % validate and 10 % test, stratified, near-duplicates together;
    where only validation is missing, the recipe says how much is cut from training.
    """
    notes: list[str] = []
    labelled = source.labels >= 0
    groups = None
    declared = set(np.unique(source.splits[labelled]).tolist()) - {-1}
    if not {1, 2} <= declared:
        # a validation split that is cut beside a declared test split only steers: there speed counts for more
        most = _GROUPS_UP_TO if 2 not in declared else _GROUPS_FOR_VALIDATION_UP_TO
        if len(source) <= most:
            from neocog.data.check import fast_groups

            groups = fast_groups(source, np.arange(len(source)), progress)
        else:
            notes.append(f"near-duplicates were not looked for among {counted(len(source))} ('neocog check' does)")
    trained = int((labelled & (source.splits == 0)).sum())
    if SPLITS.index("test") in declared and trained:
        # a small share of few pictures would tell nothing: at least 1,000, or a tenth
        share = min(max(r.val_share, min(0.1, 1000 / trained)), r.val_most / trained)
        fractions = (1.0 - share, share, 0.0)
    else:
        fractions = (0.8, 0.1, 0.1)
    codes, more = complete_split(source, fractions=fractions, groups=groups, seed=seed)
    codes = np.where(labelled, codes, -1).astype(np.int8)
    if not labelled.all():
        notes.append(f"{counted(int((~labelled).sum()))} without a label: not used")
    return codes, notes + more + _too_few(codes)


def _too_few(codes: np.ndarray) -> list[str]:
    """What figures on a few pictures are worth, even if all of them are right."""
    counts = {name: int((codes == SPLITS.index(name)).sum()) for name in ("val", "test")}
    return [
        f"the {name} split has only {counted(n)}: even if all are right, the accuracy may be as low as "
        f"{100 * wilson(n, n)[0]:.0f} % (95 % confidence)"
        for name, n in counts.items()
        if 0 < n < _FEW
    ]


def fits_in_memory(pictures: int, pre: Preprocess) -> bool:
    """Whether small pictures are held as one tensor: up to 96 pixels wide, and a quarter of the free memory."""
    if pre.size > 96:
        return False
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        free = 4 << 30
    return pictures * pre.size * pre.size * pre.channels <= free // 4


def make_recipe(name: str | None, net: str, fields: dict[str, Any] | None) -> Recipe:
    """The recipe by name (or the net's usual one) with changed fields."""
    return recipe(name or choose_recipe(net), **(fields or {}))


def growing(r: Recipe, net: str, size: int, *, compiled: bool = False) -> tuple[Recipe, list[str]]:
    """The recipe as the net can follow it: with pictures that are whole from the start if it cannot take smaller ones.

    Args:
        compiled: the net will be compiled, and for every size anew: not worth it unless it was asked for.

    Raises:
        UsageError: the recipe's `small` is no share.
    """
    if not 0.0 < r.small <= 1.0:
        raise UsageError(f"--set small= is a share of the pictures' side, more than 0 and at most 1, not {r.small:g}")
    first, smallest = side(size, r.small, r.small_until, 0.0), nets.facts(net).smallest
    if first == size:
        return r, []
    if nets.one_size(net):
        why = "is built for pictures of one size"
    elif first < smallest:
        why = f"needs pictures of at least {smallest}x{smallest}"
    elif compiled:
        why = "is compiled for pictures of one size (--set small= asks for more)"
    else:
        return r, []
    return r.changed(small=1.0), [f"{net} {why}, so it is not shown small ones first"]


def make_batch(r: Recipe, pictures: int, world: int) -> int:
    """The batch for a recipe and a number of training pictures; see `choose_batch`."""
    if pictures < 1:
        raise DataError("there is no labelled picture to train on")
    if pictures < world:
        raise NeocogError(f"{counted(pictures, 'training picture')} cannot be shared by {counted(world, 'process')}")
    return choose_batch(r.batch_size, pictures, world)
