"""Transfer learning: starting from pretrained weights, in three regimes.

=========  ==========================================================================================
regime     what is trained
=========  ==========================================================================================
features   nothing but a new last layer, on features that are computed once (see learn_head.py)
top        the last stages and the last layer; earlier stages stay as they are
all        everything: the last layer at the full learning rate, the last stages at a tenth of it, the
           earlier ones at a hundredth
=========  ==========================================================================================

Statistics of batch normalisation: frozen layers keep those of the weights and use them in training, too, as they will
in use; layers that learn, at whatever rate, normalise by the batch and move their running statistics as in any
training. So nothing moves in regime features, the last stages' statistics in top, and all in all.

A stage is what lies between two reductions of the map, see `depth.last_stages`. How far features of a depth carry was
measured by Yosinski et al. 2014; `transferability.transferability` repeats it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from neocog import nets
from neocog.errors import NetError, RunError, UsageError, closest
from neocog.fit import features
from neocog.fit.choices import choose_recipe, make_recipe
from neocog.fit.depth import count_parameters, heads_of, in_order, inside, keep_still, last_stages, units
from neocog.fit.heads import check_kind
from neocog.fit.kept import fingerprint
from neocog.fit.recipes import Recipe
from neocog.fit.start import Start, open_start
from neocog.nets.taps import LAST
from neocog.nets.trunk import Headed, levels_of
from neocog.records import counted
from neocog.tasks import Task
from neocog.tasks.at_once import FitsAtOnce
from neocog.tasks.task import load, saved

if TYPE_CHECKING:
    from neocog.fit.job import Data, Wishes
    from neocog.fit.plan import Plan
    from neocog.fit.trial import Trial

REGIMES = ("features", "top", "all")
FEW = 50  # training pictures a class below which one split tells little: regime features cross-validates then
ONE_SPLIT = (
    f"there are fewer than {FEW} training pictures a class, and the accuracy is that of one split: another split may "
    "give a very different one (--from WEIGHTS --regime features repeats cross-validation)"
)
_TOP_FROM, _ALL_FROM = 100, 1000  # training pictures a class
_HEAD_FIELDS = frozenset({"head", "strength", "pool", "folds"})  # of recipes, for regime features
_RATE_FIELDS = frozenset({"lr_last", "lr_early"})  # for the other two
_PICTURE_FIELDS = frozenset(
    "translate crop resized_crop cutout colour mixup cutmix zoom rotate elastic small tta lr_last lr_early".split()
)
_ALWAYS = frozenset({"balance", "noisy", "val_share", "val_most"})


@dataclass(frozen=True)
class Decision:
    """How a training starts from weights. `start` is what a plan keeps of it, JSON-able; `notes` tell the user."""

    recipe: Recipe
    taps: dict[str, Any] | None
    start: dict[str, Any]
    notes: list[str]


def decide(
    start: Start, task: Task, data: Data, wishes: Wishes, attempt: Callable[[], Trial | None] = lambda: None
) -> Decision:
    """Choose what is left open of regime and recipe; `attempt` is the trial (see fit.trial), where it may change that.

    Raises:
        UsageError: names that do not exist, or wishes that exclude each other.
    """
    recipe, fields, layers = wishes.recipe, wishes.fields, wishes.layers
    pictures = len(data.rows("train"))
    if isinstance(task, FitsAtOnce):
        counts, word = task.support(data.source, data.rows("train"))
        # fields for steps ask for steps; where the weights were asked for as well, that is a contradiction
        steps = wishes.start is None and not set(fields) <= _HEAD_FIELDS | _ALWAYS
        named = recipe or ("finetune" if steps else None)
        regime, why = choose_regime(wishes.regime, counts, word, layers=bool(layers), recipe=named)
        if not (wishes.regime or layers or named) and (found := attempt()):
            regime, why = found.judged(regime, why)
    else:
        regime, why = _by_steps(task, pictures, wishes)
    at_once = regime == "features" and isinstance(task, FitsAtOnce)
    _check_recipe(regime, recipe, fields, task, at_once=at_once)
    name = start.spec["name"]
    # speednet divides its logits and was made for Muon; its own recipe fits it, and no other
    usual = "features" if at_once else task.recipe
    usual = usual or ("fast" if choose_recipe(name) == "fast" else "finetune")
    r = make_recipe(recipe or usual, name, fields)
    if isinstance(task, FitsAtOnce):
        r = _with_head(r, task, fields if at_once else {"flip"})
    taps = _plan_taps(start, regime, layers, r.pool, task)
    began = describe(start, regime, why, taps, task)
    notes = [f"regime {regime}: {why}", began["told"]]
    if at_once and (wishes.epochs or wishes.minutes):
        notes.append("regime features fits a last layer in one step, so epochs and minutes do not apply")
    if task.classifies and each_class(counts) < FEW and (regime != "features" or r.folds == 1):
        notes.append(ONE_SPLIT)
    return Decision(r, taps, began, notes)


def without_weights(r: Recipe, task: Task, name: str, wishes: Wishes) -> tuple[Recipe, dict[str, Any]]:
    """The recipe, and what a plan keeps, of a net whose features need no weights: a last layer is fitted on them.

    Raises: UsageError: the task needs steps, or something else than that was asked for.
    """
    if not isinstance(task, FitsAtOnce):
        raise UsageError(
            f"{name} is fitted at once, and the task {task.name} needs gradient steps; --net chooses another net"
        )
    _check_recipe("features", wishes.recipe, wishes.fields, task, at_once=True)
    why = f"nothing else of {name} is learned from labels"
    return _with_head(r, task, wishes.fields), {
        "weights": "",
        "fingerprint": "",
        "regime": "features",
        "why": why,
        "head": "new",
        "told": "",
    }


def _with_head(r: Recipe, task: Any, asked: Collection[str]) -> Recipe:
    """The recipe, mirrored where a head learns from mirror images, too. Raises: UsageError: no such head."""
    check_kind(r.head, task)
    return r.changed(flip="random") if task.fits_mirrored and "flip" not in asked else r


def _by_steps(task: Task, pictures: int, wishes: Wishes) -> tuple[str, str]:
    """The regime of a task that cannot be fitted at once, and why."""
    if wishes.layers or wishes.recipe == "features" or (wishes.regime == "features" and not task.on_features):
        if task.on_features:
            raise UsageError(
                f"the task {task.name} learns on features by steps, and its options say which: omit --layer and "
                f"--recipe features; --recipe {task.recipe} is the usual one"
            )
        raise UsageError(
            f"the task {task.name} needs gradient steps, so regime features is not available; --regime top trains the "
            "last stages, --regime all trains every layer"
        )
    if wishes.regime:
        return wishes.regime, "asked for"
    if task.on_features:
        return "features", "what the trunk makes of the pictures is computed once; --regime top trains its last stages"
    if task.outputs is None:
        return "all", "answers with places need every layer"
    if pictures < _TOP_FROM:
        return "top", f"{pictures:,} training pictures are few; from {_TOP_FROM:,} on it would be all"
    return "all", f"{pictures:,} pictures are enough for every layer"


def check_wishes(starts: bool, regime: str | None, layers: Sequence[str], fields: Collection[str]) -> None:
    """Check the wishes before any data are read; `starts`: whether there are weights to start from.

    Raises:
        UsageError: a wish that has no meaning without weights, an unknown regime, or layers for a regime without use
            for them.
    """
    if not starts:
        wishes = ["a regime"] * bool(regime) + ["a layer"] * bool(layers)
        if wishes := wishes + sorted(set(fields) & (_HEAD_FIELDS | _RATE_FIELDS)):
            raise UsageError(
                f"{wishes[0]} needs weights to start from: --from RUN, a safetensors file, or the name of a net"
            )
    if regime is not None and regime not in REGIMES:
        raise UsageError(f"unknown regime {regime!r}{closest(regime, REGIMES)}; expected one of {', '.join(REGIMES)}")
    if layers and regime not in (None, "features"):
        raise UsageError(f"--layer names features for a new head, so it goes with --regime features, not {regime}")


def each_class(counts: np.ndarray) -> float:
    """The median number of pictures over the classes that have any."""
    there = counts[counts > 0]
    return float(np.median(there)) if len(there) else 0.0


def choose_regime(
    wanted: str | None, counts: np.ndarray, word: str = "class", *, layers: bool = False, recipe: str | None = None
) -> tuple[str, str]:
    """Return the regime and why, from the numbers of pictures to learn each class from (K,); `word`: for a class."""
    if wanted:
        return wanted, "asked for"
    if layers:
        return "features", "layers were named"
    if recipe == "features":
        return "features", "its recipe was named"
    each = each_class(counts)
    said = f"about {counted(round(each))} a {word} to learn from: that is"
    if each < _TOP_FROM and not recipe:
        return "features", f"{said} too few to change the trunk; from {_TOP_FROM} on it would be top"
    if each < _ALL_FROM:
        why = f"{said} enough for the last stages; from {_ALL_FROM:,} on it would be all"
        return "top", why if each >= _TOP_FROM else f"recipe {recipe} was named, though {said} few"
    return "all", f"{said} enough for every layer"


def _check_recipe(regime: str, recipe: str | None, fields: Mapping[str, Any], task: Task, *, at_once: bool) -> None:
    if regime == "features" and not at_once:
        if useless := sorted(set(fields) & (_HEAD_FIELDS | _PICTURE_FIELDS)):
            raise UsageError(
                f"{useless[0]} has no effect on features that are computed once; choose --regime top or all"
            )
        return
    if at_once:
        if recipe not in (None, "features"):
            raise UsageError(
                f"regime features fits only a last layer, and recipe {recipe!r} is for gradient steps; choose --regime "
                "top or all"
            )
        allowed = _HEAD_FIELDS | _ALWAYS | ({"flip"} if getattr(task, "fits_mirrored", False) else set())
        if useless := sorted(set(fields) - allowed):
            raise UsageError(
                f"{useless[0]} has no effect in regime features, which fits a last layer on pictures as they are; "
                f"use {', '.join(sorted(allowed))}, or choose --regime top or all"
            )
        if fields.get("balance") == "sampling":
            raise UsageError("regime features sees every picture once: --set balance=weights instead of sampling")
        return
    if recipe == "features":
        raise UsageError(f"recipe 'features' fits only a last layer, and regime {regime} trains more; omit --recipe")
    if useless := sorted(set(fields) & _HEAD_FIELDS):
        raise UsageError(f"{useless[0]} goes with --regime features, not with {regime}")


def _plan_taps(start: Start, regime: str, layers: Sequence[str], pool: str, task: Task) -> dict[str, Any] | None:
    """Which layers the new head reads, None for what the net's own last layer reads."""
    if regime != "features" or not isinstance(task, FitsAtOnce):
        return start.taps
    if layers:
        features.check_layers(start.trunk, layers, pool)
        return {"layers": list(layers), "pool": pool}
    if pool != "mean":
        raise UsageError(f"pool={pool} needs the layer whose maps are pooled: --layer NAME")
    if task.finer and not start.taps and len(found := sorted(levels_of(start.trunk).items())) > 1:
        return {"layers": [found[-2][1], LAST], "pool": pool}
    if start.taps or features.plain_head(start.net):
        return start.taps
    return {"layers": [LAST], "pool": "mean"}  # its own last layer cannot hold any linear function


def describe(start: Start, regime: str, why: str, taps: dict[str, Any] | None, task: Task) -> dict[str, Any]:
    """What a plan keeps of a start, JSON-able."""
    steps = regime == "features" and not isinstance(task, FitsAtOnce)
    fitting = (regime != "features" or steps) and taps == start.taps
    if not task.classifies:
        kept = fitting and start.task is not None and same_answers(start.task, task)
        said = f"the head of the weights is {'kept' if kept else f'replaced by one for the task {task.name}'}"
    else:
        classes: tuple[str, ...] = task.classes  # type: ignore[attr-defined]
        known = len(start.classes) if start.classes is not None else int(start.spec["classes"])
        same = start.classes == classes if start.classes is not None else known == len(classes)
        kept = fitting and same and not isinstance(start.net, Headed)
        whose = "of the same names" if start.classes is not None else "whose names the weights do not have"
        done = f"is kept: there are as many here, {whose}" if kept else f"is replaced by a new one for {len(classes)}"
        said = f"the last layer of the weights, for {known} classes, {done}"
    return {
        "weights": str(start.path),
        "fingerprint": fingerprint(start.net.state_dict()),
        "regime": regime,
        **({"steps": True} if steps else {}),
        "why": why,
        "head": "kept" if kept else "new",
        "told": said,
    }


def same_answers(first: Mapping[str, Any], task: Task) -> bool:
    """Whether a saved task has the outputs of another one, so that its head can be kept."""
    return load(first).outputs == task.outputs and _same(first, saved(task))


def _same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    alike = ("name", "classes", "names", "method", "width", "dimensions", "model")
    if any(first.get(key) != second.get(key) for key in alike):
        return False
    if any(_vocabulary(first, key) != _vocabulary(second, key) for key in ("words", "tokenizer")):
        return False
    return all(_same(one, other) for one, other in zip(first.get("parts", ()), second.get("parts", ()), strict=True))


def _vocabulary(task: Mapping[str, Any], key: str) -> Any:
    """What a saved tokenizer makes of texts, without what it counted."""
    values = task.get(key)
    if not isinstance(values, Mapping):
        return None
    return {k: v for k, v in values.items() if k != "counts" and not isinstance(v, int)}


# ---------------------------------------------------------------- before the first step


def take_over(net: nn.Module, plan: Plan, task: Task) -> None:
    """Give a new net the weights that its plan starts from.

    Raises:
        RunError: the weights have changed since the plan was made. NetError: they do not fit.
    """
    start = plan.start or {}
    opened = open_start(start["weights"], net=plan.net["name"], say=lambda line: None)
    state: dict[str, Tensor] = opened.net.state_dict()
    if fingerprint(state) != start["fingerprint"]:
        raise RunError(
            f"{start['weights']} has changed since this run began, so it cannot be continued; train a new run"
        )
    if isinstance(net, features.Tapped) and (plan.taps != opened.taps or isinstance(opened.net, Headed)):
        state = _of_trunk(opened.trunk, net.trunk, "trunk.")
    elif isinstance(net, Headed) and start["head"] == "new":
        state = _of_trunk(opened.trunk, net.trunk.net, "trunk.net.")
    elif isinstance(opened.net, Headed) and not isinstance(net, Headed):
        state = {k: v for k, v in opened.trunk.state_dict().items() if not inside(k, heads_of(net))}
    elif start["head"] == "new":
        left = (str(net.head), *getattr(net, "aux_heads", ()))  # a trunk that is read keeps its own
        state = {k: v for k, v in state.items() if not inside(k, left)}
    if (first := start.get("first")) is not None:  # transferability: only so many layers are taken over
        used = in_order(net)
        wanted = [used[i].name for group in units(used)[:first] for i in group]
        state = {k: v for k, v in state.items() if inside(k, wanted)}
    _load(net, state, start["weights"])


def _of_trunk(given: nn.Module, trunk: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The tensors of a zoo net for another of its kind, whose last layer is not used, and may have another size."""
    own, left = trunk.state_dict(), heads_of(trunk)
    return {
        prefix + k: v
        for k, v in given.state_dict().items()
        if not inside(k, left) or (k in own and own[k].shape == v.shape)
    }


def _load(net: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    own = net.state_dict()
    for name, value in tensors.items():
        if name not in own or own[name].shape != value.shape:
            there = tuple(own[name].shape) if name in own else "missing"
            raise NetError(
                f"{where}: {name} is {tuple(value.shape)} in the weights and {there} in the net; layers that see the "
                "whole picture fit one size only, so omit --size"
            )
    net.load_state_dict(dict(tensors), strict=False)


def prepare(net: nn.Module, plan: Plan) -> str:
    """Make a net ready for its plan's regime: what is frozen, and how fast the rest learns. Says what is trained.

    Rates are put as attribute ``lr_factor`` on parameters, for `optim.optimizers`.
    """
    start, recipe = plan.start or {}, plan.recipe
    used = in_order(net)
    if isinstance(net, features.Tapped):  # what lies behind the layers that are read has no part in it
        read = {one.name for one in used}
        for name, p in net.trunk.named_parameters(prefix="trunk"):
            p.requires_grad_(p.requires_grad and name.rpartition(".")[0] in read)
    whole = count_parameters(net)
    begin = last_stages(used)
    last = {one.name for one in used[begin:]}
    trunk = [(name.rpartition(".")[0], p) for name, p in net.named_parameters() if not inside(name, heads_of(net))]
    for owner, p in trunk:
        p.lr_factor = recipe.lr_last if owner in last else recipe.lr_early  # type: ignore[attr-defined]
    first = start.get("first")
    if start["regime"] == "features":
        head = {id(p) for p in nets.head_of(net).parameters()}
        for p in net.parameters():
            p.requires_grad_(id(p) in head)
    elif first is not None:
        keep_still(net, [used[i] for group in units(used)[:first] for i in group] if start["frozen"] else ())
    elif start["regime"] == "top":
        keep_still(net, used[:begin])
        for owner, p in trunk:  # also what the net uses without calling the module that holds it
            p.requires_grad_(p.requires_grad and owner in last)
    return _told(net, plan, whole, next((one.name for one in used[begin:] if one.weights), ""))


def _told(net: nn.Module, plan: Plan, whole: int, last: str) -> str:
    start, recipe = plan.start or {}, plan.recipe
    share = f"{count_parameters(net):,} of {whole:,} parameters are"
    if start["regime"] == "features":
        return f"{share} {'trained, those of the head' if start.get('steps') else 'fitted, those of the last layer'}"
    if (first := start.get("first")) is not None:
        return f"{share} trained; {first} layers were transferred{' and stay as they are' if start['frozen'] else ''}"
    early = "stay as they are" if start["regime"] == "top" else f"learn at {recipe.lr_early:g} of the rate"
    return (
        f"{share} trained: the last layer at the full rate, from {last} on at {recipe.lr_last:g} of it; the layers "
        f"before {early}"
    )
