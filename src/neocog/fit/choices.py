"""What a training decides by itself where the user left it open: size, net, recipe, splits, mirroring, batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from neocog import nets
from neocog.data.kinds import Categories, Category, Numbers
from neocog.data.mirroring import Mirroring, by_names, by_texts, decide, decide_by_values
from neocog.data.reader import PICTURE
from neocog.data.reader import find as find_reader
from neocog.data.ready import free_memory
from neocog.data.source import Source
from neocog.data.split import complete_split, joined_groups
from neocog.errors import DataError, NeocogError, UsageError
from neocog.fit.recipes import Recipe, choose_batch, recipe
from neocog.fit.schedules import side
from neocog.records import SPLITS, Preprocess, counted
from neocog.tasks import Label, Task
from neocog.tasks.measures import wilson

_GROUPS_UP_TO = 200_000  # pictures; beyond that near-duplicates are not looked for without being asked
LEAKS_UP_TO = 20_000  # pictures beside a declared test split
_FEW = 30  # pictures of a split whose figures say little


def choose_size(side: int, on_cpu: bool) -> int:
    """The net's input for pictures whose usual short side is `side`: 32, 64, or 128 (224 on a GPU)."""
    if side <= 40:
        return 32
    if side <= 96:
        return 64
    return 128 if on_cpu or side < 180 else 224


def choose_net(size: int, task: type[Task] = Label) -> str:
    """The net for an input size: the task's usual one, or speednet for small pictures."""
    if name := task.usual_net(size):
        return name
    return "speednet" if size <= 64 else "resnet18"


def choose_recipe(net: str, task: type[Task] = Label) -> str:
    """The recipe for a net with random weights: the task's own for them, quick where its head reads maps, or the net's.

    A net of which only the last layer is fitted has that recipe.
    """
    if nets.engineered(net):
        return "features"
    if task.net is not None and task.recipe is not None:
        return task.recipe
    if task.scratch is not None:
        return task.scratch
    if net.startswith("placenet") or task.head is not Task.head:
        return "quick"
    own: str = getattr(nets.builder(net), "recipe", "standard")
    return task.recipe or ("fast" if net.startswith("speednet") else own)


def choose_shape(usual: tuple[int, int], size: int | None, step: int) -> tuple[int, int]:
    """Height and width for whole pictures that are usually of size `usual`, the short side near `size`.

    Both are multiples of `step`.
    """
    short = min(usual)
    scale = (size or short) / short
    return tuple(max(step, round(side * scale / step) * step) for side in usual)  # type: ignore[return-value]


def splits_of(
    source: Source,
    task: type[Task],
    r: Recipe,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    *,
    mirrored: bool | None = None,
) -> tuple[np.ndarray, list[str], Mirroring]:
    """A code for each picture (index into SPLITS, -1 = not used), what was done, and whether mirror images are alike.

    Declared splits are kept. Otherwise 80 % train, 10 % validate and 10 % test, stratified, near-duplicates together;
    where only validation is missing, the recipe says how much is cut from training.

    Args:
        mirrored: whether a mirror image keeps its class; None decides by the names of the classes and by looking.
    """
    notes: list[str] = []
    labelled, own = task.known(source), task.groups(source)
    groups = mirroring = None
    named = source.columns.get("group")
    declared = set(np.unique(source.splits[labelled]).tolist()) - {-1}
    # a validation split that is cut beside a declared test split only steers: there speed counts for more
    if source.kind != PICTURE:
        groups = find_reader(source.kind).groups(source) if own is None else None
        mirroring = Mirroring(False, f"a {source.kind} has no mirror image here")
    elif source.drawn and not task.classifies:
        pass  # no two are alike, and nothing is to be learned of mirror images
    elif len(source) <= (_GROUPS_UP_TO if 2 not in declared else LEAKS_UP_TO):
        from neocog.data.check import groups_and_mirroring

        alike = mirrored if task.classifies else True  # targets of places move with the mirror image
        groups, mirroring = groups_and_mirroring(source, np.arange(len(source)), progress, mirrored=alike)
    else:
        notes.append(
            f"near-duplicates were not searched for among {len(source):,} pictures ('neocog check' finds them)"
        )
    trained = int((labelled & (source.splits == 0)).sum())
    if SPLITS.index("test") in declared and trained:
        # a small share of few pictures would tell nothing: at least 1,000, or a tenth
        share = min(max(r.val_share, min(0.1, 1000 / trained)), r.val_most / trained)
        fractions = (1.0 - share, share, 0.0)
    else:
        fractions = (0.8, 0.1, 0.1)
    strata = task.strata(source)
    codes, more = complete_split(
        source,
        fractions=fractions,
        strata=np.zeros(len(source), np.int64) if strata is None else strata,
        groups=joined_groups(joined_groups(groups, own), named.codes if isinstance(named, Category) else None),
        seed=seed,
        used=labelled,
    )
    codes = np.where(labelled, codes, -1).astype(np.int8)
    several = source.several if task.classifies else 0
    if several:
        notes.append(f"{counted(several, 'picture with several labels', 'is')} not used; --task tags learns them all")
    if missing := int((~labelled).sum()) - several:
        what = "a label" if task.classifies else " and ".join(task.needs)
        notes.append(f"{counted(missing, f'picture without {what}', 'is')} not used")
    if mirrored is not None:
        mirroring = Mirroring(mirrored, "asked for")
    elif not task.classifies and source.kind == PICTURE:
        mirroring = _by_task(source, task)
    few = _too_few(codes) if task.classifies else []
    return codes, notes + more + leaks(codes, groups) + few, mirroring or decide(source)


def leaks(codes: np.ndarray, groups: np.ndarray | None) -> list[str]:
    """What near-duplicates (equal numbers in `groups`) across splits mean for the figures; nothing if none leaks."""
    notes: list[str] = []
    if groups is None:
        return notes
    for name, others in (("test", ("train", "val")), ("val", ("train",))):
        rows = groups[codes == SPLITS.index(name)]
        seen = int(np.isin(rows, groups[np.isin(codes, [SPLITS.index(other) for other in others])]).sum())
        if seen:
            notes.append(
                f"{seen:,} of {len(rows):,} {name} pictures have a near-copy in {' or '.join(others)}, so the {name} "
                "figures are too high ('neocog check' lists them)"
            )
    return notes


def _by_task(source: Source, task: type[Task]) -> Mirroring:
    """Whether a mirror image keeps its answer, by the names of what is asked for and by looking."""
    if not task.mirrors:
        return Mirroring(False, f"a mirror image has a different answer in the task {task.name}")
    for role in task.needs:
        column: Any = source.columns[role]
        if column.kind == "texts":
            some = np.linspace(0, len(column) - 1, min(2000, len(column))).astype(int)
            if said := by_texts(column[int(i)] for i in some):
                return said
            continue
        if any(period for period in getattr(column, "periods", ())):
            return Mirroring(False, "angles change in the mirror")
        paired = any(k != partner for k, partner in enumerate(getattr(column, "swap", ())))
        said = None if paired else by_names(getattr(column, "names", ()))
        if said is None and isinstance(column, (Numbers, Categories)):
            said = decide_by_values(source, column)
        if said is not None:
            return said
    if task.geometry:
        return Mirroring(True, "the answer moves with the picture")
    return Mirroring(True, "neither names nor a look at the pictures speak against it")


def mirror_as_decided(
    r: Recipe, found: Mirroring, classes: tuple[str, ...], asked: Collection[str]
) -> tuple[Recipe, bool, list[str]]:
    """The recipe with or without mirrored training pictures, whether test-time views may be mirrored, and a note.

    Args:
        asked: the recipe fields that the user set: they always win.
    """
    views = "tta" in asked and r.tta == "flip"
    if "flip" in asked:
        said = by_names(classes) if r.flip != "none" else None
        notes = [f"pictures are mirrored, as asked for, although {said.why}"] if said else []
        return r, found.allowed or views, notes
    used = [what for what, how in (("training pictures", r.flip), ("test-time views", r.tta)) if how != "none"]
    if found.allowed:
        note = f"{' and '.join(used)} are mirrored: {found.why} (--set flip=none leaves them as they are)"
        return r, True, [note] * bool(used)
    note = f"{found.why}, so pictures are not mirrored (--set flip=random mirrors them)"
    return r.changed(flip="none"), views, [note] * bool(used)


def _too_few(codes: np.ndarray) -> list[str]:
    """What figures on a few pictures are worth, even if all of them are right."""
    counts = {name: int((codes == SPLITS.index(name)).sum()) for name in ("val", "test")}
    return [
        f"the {name} split has only {n} picture{'s' * (n > 1)}: even if all are right, the accuracy may be as low as "
        f"{100 * wilson(n, n)[0]:.0f} % (95 % confidence)"
        for name, n in counts.items()
        if 0 < n < _FEW
    ]


def fits_in_memory(pictures: int, pre: Preprocess) -> bool:
    """Whether small pictures are held as one tensor: up to 96 pixels wide, and a quarter of the free memory."""
    if pre.fit == "tile" or max(pre.input) > 128 or pre.size > 96:
        return False
    return pictures * pre.input[0] * pre.input[1] * pre.channels <= free_memory() // 4


def make_recipe(name: str | None, net: str, fields: Mapping[str, Any], task: type[Task] = Label) -> Recipe:
    """The recipe by name (or the usual one of the net and the task) with changed fields.

    The usual one does not zoom pictures whose answer would not move with them: what is asked for may be cut off.
    With noisy labels there is no smoothing: sure answers hold the net best (78 % with, 84 % without it on digits
    half of whose labels were wrong, plain 59 %; 1 seed, the setting of bench/results/noisy-digits.json).
    """
    if name is None and not (task.geometry and task.zooms):
        fields = {"zoom": 0.0, **fields}
    made = recipe(name or choose_recipe(net, task), **fields)
    return made.changed(label_smoothing=0.0) if made.noisy and "label_smoothing" not in fields else made


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
    return r.changed(small=1.0), [f"{net} {why}, so training does not begin with small pictures"]


def make_batch(r: Recipe, pictures: int, world: int) -> int:
    """The batch for a recipe and a number of training pictures; see `choose_batch`."""
    if pictures < 1:
        raise DataError("no labelled picture to train on was found")
    if pictures < world:
        raise NeocogError(f"{counted(pictures, 'training picture', 'is')} too few for {world} processes")
    return choose_batch(r.batch_size, pictures, world)
