"""Recipes: how to train, as data. A recipe is a frozen record; ``--set field=value`` changes one field."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from neocog.errors import UsageError, closest

NOISY = ("early", "coteach", "correct", "bootstrap", "bootstrap-soft")  # ways to learn from wrong labels, see guides


def noisy_way(value: object) -> str:
    """One of `NOISY`, or "" for none; True is the first. Raises: UsageError: it is none of them."""
    way = {"true": NOISY[0], "false": "", "none": ""}.get(str(value).lower(), str(value))
    if way and way not in NOISY:
        raise UsageError(f"unknown way --noisy {way}{closest(way, NOISY)}; expected one of {', '.join(NOISY)}")
    return way


@dataclass(frozen=True, slots=True)
class Recipe:
    """All the settings of a training, apart from the net, the data and the seed.

    Learning rates are for the mean loss over a batch of `batch_size` pictures. When the data are too few for
    that batch (`choose_batch`), the learning rates of SGD fall in proportion; Muon's and AdamW's steps do not
    depend on the size of the gradient and stay.
    """

    name: str
    about: str = ""
    # length
    epochs: float = 30.0
    min_steps: int = 400  # few pictures are shown more often, until there were this many steps
    batch_size: int = 128
    chunk: int = 0  # on a CPU: pictures in one pass (0: the batch); BN statistics are those of a chunk
    early_stop: int = 0  # stop after this many epochs without a lower validation loss (0: never); the best is kept
    # optimizer
    # sgd | adamw | rmsprop | muon (filters by Muon, the rest by SGD) | muon-adamw (the rest by AdamW)
    optimizer: str = "sgd"
    lr: float = 0.1
    lr_filters: float = 0.24  # muon, muon-adamw
    lr_head: float = 0.0  # muon only; 0: by Muon, too
    momentum: float = 0.9
    momentum_filters: float = 0.6  # muon, muon-adamw
    nesterov: bool = True
    weight_decay: float = 5e-4  # muon: the share of a weight that one step at the peak rate takes away
    decay_all: bool = False  # also biases and normalisation
    schedule: str = "triangle"
    warmup: float = 0.0
    stall: int = 0  # divide the learning rate by 10 after this many epochs without a better validation accuracy
    clip: float = 0.0  # largest norm of the gradient (0: no limit)
    # starting from weights that know something (see neocog.fit.transfer)
    lr_last: float = 0.1  # factor on the learning rates of the last stages
    lr_early: float = 0.01  # factor on those of the stages before
    head: str = "softmax"  # regime features: softmax | linear | svm
    strength: float = 0.0  # regime features: of the pull of the head's weights towards 0 (0: chosen)
    pool: str = "mean"  # regime features: mean | max | spatial, for maps of the layers named
    folds: int = 0  # regime features: of cross-validation (0: 5 below 50 pictures a class, else none; 1: never)
    # regularisation
    label_smoothing: float = 0.0
    dropout: float = -1.0  # -1: as the net has it
    l1: float = 0.0  # l1 * sum |w| in the loss; with l2 together: elastic net
    l2: float = 0.0  # l2 / 2 * sum w^2 in the loss
    penalty_from: float = 0.0  # l1 and l2 begin at this epoch
    balance: str = "auto"  # auto | weights | sampling | none
    # beside the labels (see neocog.fit.guides)
    noisy: str = ""  # many labels may be wrong: early | coteach | correct | bootstrap | bootstrap-soft
    early: float = 3.0  # noisy early: weight of the regularisation
    memory: float = 0.7  # noisy early: what stays of a picture's average prediction when it is seen again
    judge: str = "auto"  # noisy coteach, correct: who says which labels are wrong: auto (other pictures), or a run
    wrong: float = 0.0  # noisy coteach: share of the labels that are wrong (0: estimated)
    trust: float = 0.0  # noisy bootstrap: share of the label in what is learned (0: 0.8, soft 0.95)
    teach: float = 0.9  # --teacher: share of the teachers in the loss
    soften: float = 2.0  # --teacher: temperature of the probabilities
    beside: int = 3  # --unlabelled: pictures for each labelled one
    # averaging
    ema: float = 0.0  # decay per step of the averaged weights that are evaluated and saved
    lookahead: float = 0.0  # pull towards slow weights every 5 steps (Zhang et al. 2019), with this rate
    # pictures
    flip: str = "random"  # random | alternating | none
    translate: int = 0  # pixels, filled by reflection (crop: by black)
    crop: int = 0
    resized_crop: float = 0.0  # smallest share of the area (Inception's random resized crop; 0: off)
    cutout: int = 0  # side of a square that is blanked
    colour: float = 0.0  # strength of brightness, contrast and saturation jitter
    mixup: float = 0.0  # alpha of the Beta distribution
    cutmix: float = 0.0
    zoom: float = 0.0  # pictures are shown larger or smaller by up to this share, places with them
    rotate: float = 0.0  # and turned by up to so many degrees
    elastic: float = 0.0  # and bent: deviation in pixels of a 3x3 grid of displacements (Ronneberger et al. 2015)
    small: float = 1.0  # side of the pictures at the beginning, as a share; it grows in eighths (1: always whole)
    small_until: float = 0.7  # share of the training after which pictures are whole
    # evaluation
    tta: str = "none"  # none | flip | shift (flip and two shifts by a pixel) | turn (flips of four quarter turns)
    val_share: float = 0.1  # cut from the training split when no validation split is declared
    val_most: int = 5000
    task_options: dict[str, Any] = dataclasses.field(default_factory=dict)  # that go with it

    def __post_init__(self) -> None:
        object.__setattr__(self, "noisy", noisy_way(self.noisy))
        for name in ("wrong", "trust"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"--set {name}= is a share from 0 to below 1, got {getattr(self, name)}")

    def changed(self, **fields: Any) -> Recipe:
        """Return a copy with other values; text is converted to the field's type (for the command line).

        Raises:
            UsageError: no such field, or a value of the wrong type.
        """
        known = {f.name: f.type for f in dataclasses.fields(self)}
        values: dict[str, Any] = {}
        for key, value in fields.items():
            if key not in known:
                raise UsageError(f"a recipe has no field {key!r}{closest(key, known)}; it has {', '.join(known)}")
            values[key] = converted("--set", key, value, type(getattr(self, key)))
        return dataclasses.replace(self, **values)

    def as_dict(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        return dataclasses.asdict(self)


def converted(option: str, key: str, value: Any, kind: type) -> Any:
    """A value as `kind`, of what was typed after `option`. Raises: UsageError: it is none."""
    try:
        if kind is bool and isinstance(value, str):
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[value.lower()]
        return kind(value)
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{option} {key}= needs a value of type {kind.__name__}, not {value!r}") from None


# fields of a recipe that change pictures, as they are where there are none
_STILL: dict[str, Any] = {
    "flip": "none", "tta": "none", "small": 1.0, "chunk": 0, "translate": 0, "crop": 0, "resized_crop": 0.0,
    "cutout": 0, "colour": 0.0, "mixup": 0.0, "cutmix": 0.0, "zoom": 0.0, "rotate": 0.0, "elastic": 0.0,
}  # fmt: skip


def still(mixes: bool) -> dict[str, Any]:
    """What is for pictures alone, off; of inputs that can be mixed without mixup."""
    return {name: value for name, value in _STILL.items() if not (name == "mixup" and mixes)}


# what recipes have in common, and are no recipes themselves
_BASES = {
    "": Recipe(""),
    "cosine": Recipe("", optimizer="adamw", schedule="cosine", warmup=0.05, clip=5.0, ema=0.99),
}
# name: the recipe that it is a variant of, what it is for, and the fields that differ
_VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "fast": (
        "",
        "time to accuracy: Muon, linear decay, growing pictures; made for speednet, 94 % on CIFAR-10",
        {
            "epochs": 10.0, "min_steps": 200, "batch_size": 2000, "chunk": 500, "optimizer": "muon", "momentum": 0.85,
            "lr": 106.0,  # 0.053 for each picture of the batch of 2000
            "lr_head": 1340.0,  # 0.67 for each picture
            "weight_decay": 0.004, "decay_all": True, "schedule": "linear", "label_smoothing": 0.2,
            "flip": "alternating", "translate": 2, "small": 0.75, "small_until": 0.5, "tta": "shift", "val_share": 0.02,
        },
    ),
    "best": (
        "fast",
        "accuracy: the fast recipe for longer, with cutout; use it with speednet_deep, 95.8 % on CIFAR-10",
        {"epochs": 27.0, "cutout": 10, "translate": 4, "small": 1.0},
    ),
    "standard": (
        "",
        "for any net: Muon for the filters, one cycle, label smoothing, averaged weights",
        {
            "epochs": 20.0, "optimizer": "muon", "lr_filters": 0.1, "lr_head": 0.2, "label_smoothing": 0.1, "clip": 5.0,
            "ema": 0.995, "resized_crop": 0.35, "colour": 0.2, "tta": "flip",
        },
    ),
    "finetune": (
        "",
        "for pretrained weights: SGD, the last stages at 1/10 of the rate, earlier ones at 1/100",
        {
            "epochs": 12.0, "min_steps": 200, "batch_size": 64, "lr": 0.05, "weight_decay": 1e-4, "schedule": "cosine",
            "warmup": 0.1, "label_smoothing": 0.1, "clip": 5.0, "ema": 0.98, "resized_crop": 0.5, "colour": 0.2,
            "tta": "flip",
        },
    ),
    "dense": (
        "cosine",
        "for answers with places from pretrained weights: AdamW, zoomed and mirrored pictures, EMA",
        {
            "epochs": 40.0, "batch_size": 8, "lr": 1e-3, "weight_decay": 0.02, "zoom": 0.5, "colour": 0.2,
            "lr_last": 0.5, "lr_early": 0.2, "tta": "flip",
        },
    ),
    "towers": (
        "cosine",
        "for pictures and sentences on features that are computed once: AdamW, a cosine, averaged weights",
        {"epochs": 12.0, "min_steps": 200, "lr": 1e-3, "weight_decay": 0.01},
    ),
    "sentences": (
        "cosine",
        "for sentences about pictures, word by word: AdamW, a cosine, averaged weights",
        {"epochs": 32.0, "min_steps": 1500, "batch_size": 64, "lr": 2e-3, "weight_decay": 0.0},  # of two captions
    ),
    "clips": (
        "cosine",
        "for nets that read clips: AdamW, a cosine, averaged weights",
        {"epochs": 12.0, "min_steps": 500, "batch_size": 32, "lr": 3e-3, "weight_decay": 0.02, "flip": "none"},
    ),
    "texts": (
        "cosine",
        "for nets that read texts: AdamW, a cosine, averaged weights",
        {
            "epochs": 5.0, "min_steps": 600, "batch_size": 50, "lr": 2e-3, "weight_decay": 0.01, "balance": "none",
            "flip": "none",
        },
    ),
    "words": (
        "texts",
        "for a tag of each word: AdamW, a cosine, averaged weights",
        {"batch_size": 32, "lr": 3e-3},
    ),
    "sounds": (
        "cosine",
        "for nets that read recordings: AdamW, a cosine, averaged weights",
        {
            "epochs": 100.0, "min_steps": 600, "batch_size": 64, "lr": 4e-3, "weight_decay": 0.05, "flip": "none",
            "dropout": 0.2, "mixup": 0.3,
        },
    ),
    "play": (
        "",
        "for games: AdamW at a constant rate",
        {
            "epochs": 20.0, "batch_size": 32, "optimizer": "adamw", "lr": 1e-4, "weight_decay": 0.0,
            "schedule": "constant", "clip": 10.0, "flip": "none",
        },
    ),
    "quick": (
        "",
        "made for placenet: masks, boxes, points on small pictures; Muon for filters, AdamW for the rest",
        {
            "epochs": 20.0, "min_steps": 600, "batch_size": 32, "optimizer": "muon-adamw", "lr": 3e-3,
            "lr_filters": 0.1, "weight_decay": 0.01, "clip": 5.0, "ema": 0.99, "zoom": 0.25, "colour": 0.1,
            "tta": "flip",
        },
    ),
    "sentences-scratch": (
        "quick",
        "for sentences about pictures from random weights: as quick, and every word looks at parts of the picture",
        {"epochs": 10.0, "zoom": 0.0, "task_options": {"model": "attend", "grid": 4, "dropout": 0.1}},
    ),
    "towers-scratch": (
        "quick",
        "for pictures and sentences in one space from random weights: as quick, and parts of the picture are read",
        {
            "epochs": 12.0, "batch_size": 128, "zoom": 0.0,
            "task_options": {"reads": "parts", "hidden": 512, "dropout": 0.1, "words": 0.0},
        },
    ),
    "autoencoder": (
        "cosine",
        "for pictures made again from numbers: AdamW, a cosine, averaged weights, no mirror images",
        {"min_steps": 1000, "batch_size": 64, "lr": 2e-3, "weight_decay": 0.0, "warmup": 0.02, "flip": "none"},
    ),
    "gan": (
        "",
        "for nets that compete: Adam without momentum, a cosine, averaged weights",
        {
            "epochs": 100.0, "min_steps": 15000, "batch_size": 32, "optimizer": "adamw", "lr": 1e-3, "momentum": 0.0,
            "weight_decay": 0.0, "schedule": "cosine", "ema": 0.999, "flip": "none",
        },
    ),
    "gan-hinge": (
        "gan",
        "for dcgan_spectral, hinge loss: Adam with a memory of two steps, a constant rate",
        {
            "min_steps": 3000, "batch_size": 64, "lr": 2e-4, "momentum": 0.5, "schedule": "constant",
            "task_options": {"loss": "hinge", "critic": 2.0},
        },
    ),
    "paper-dcgan": (
        "gan",
        "Radford et al. 2015, section 4: batches of 128, Adam at 2e-4 with a memory of two steps; for net dcgan",
        {
            "min_steps": 3000, "batch_size": 128, "lr": 2e-4, "momentum": 0.5, "schedule": "constant",
            "task_options": {"loss": "original"},
        },
    ),
    "compact": (
        "quick",
        "made for designed nets: as quick, in batches of 64, and pictures are shifted",
        {"batch_size": 64, "zoom": 0.0, "translate": 2},
    ),
    "features": (
        "",
        "regime features: only a new last layer, fitted on features of unaugmented pictures",
        {"flip": "none"},
    ),
    "paper-alexnet": (
        "",
        "Krizhevsky 2012, section 5: batch 128, momentum 0.9, 1e-2 divided by 10 when validation stalls",
        {
            "epochs": 90.0, "lr": 0.01, "nesterov": False, "decay_all": True, "schedule": "constant", "stall": 3,
            "dropout": 0.5, "crop": 4,
        },
    ),
    "paper-resnet": (
        "",
        "He et al. 2015, section 4.2: batch 128, 0.1 divided by 10 at 1/2 and 3/4, crops of 4 and flips",
        {"epochs": 164.0, "nesterov": False, "weight_decay": 1e-4, "decay_all": True, "schedule": "steps", "crop": 4},
    ),
    "paper-dqn-2015": (
        "play",
        "Mnih et al. 2015, extended data table 1: RMSProp at 2.5e-4, replay of a million frames, 50 million frames",
        {
            "epochs": 200.0,  # of 250,000 frames
            "optimizer": "rmsprop",  # its 0.01 in the root is of gradients summed over the batch: 0.01 / 32^2 of means
            "lr": 2.5e-4, "momentum": 0.95, "clip": 0.0,
            "task_options": {
                "frames": 4, "games": 1, "acts": 4, "replay": 1_000_000, "start": 50_000, "explore": 1_000_000,
                "least": 0.1, "tested": 0.05, "target": 10_000, "discount": 0.99, "steps": 1, "double": False,
                "prioritised": False, "clip_rewards": True, "clip_errors": True, "lives": True, "epoch": 62_500,
            },
        },
    ),
    "paper-dqn-2013": (
        "paper-dqn-2015",
        "Mnih et al. 2013: as 2015 without a target net of its own, errors as they are; 10 million frames",
        {  # epochs of 50,000 steps, one each frame
            "task_options": {
                "acts": 1, "target": 1, "clip_errors": False, "epoch": 50_000, "start": 32, "lives": False,
            },
        },
    ),
}  # fmt: skip


def _recipes() -> dict[str, Recipe]:
    made = dict(_BASES)
    for name, (base, about, fields) in _VARIANTS.items():
        options = {**made[base].task_options, **fields.get("task_options", {})}
        made[name] = dataclasses.replace(
            made[base], **{**fields, "name": name, "about": about, "task_options": options}
        )
    return {name: made[name] for name in _VARIANTS}


RECIPES: dict[str, Recipe] = _recipes()


def recipe(name: str, **fields: Any) -> Recipe:
    """Return the recipe called `name`, with `fields` changed.

    Raises:
        UsageError: no such recipe or field.
    """
    if name not in RECIPES:
        raise UsageError(f"unknown recipe {name!r}{closest(name, RECIPES)}; expected one of {', '.join(RECIPES)}")
    return RECIPES[name].changed(**fields)


def choose_batch(wanted: int, pictures: int, world: int = 1) -> int:
    """The batch for `pictures` training pictures: `wanted`, or less so that an epoch has about 20 steps, at least 16.

    Always a multiple of `world` (the number of processes), and never more than there are pictures. Several processes
    get an even number each if possible, because pictures are mixed in pairs.
    """
    batch = min(wanted, max(16, pictures // 20), pictures)
    shares = 2 * world if world > 1 and batch >= 2 * world else world
    return max(world, batch // shares * shares)
