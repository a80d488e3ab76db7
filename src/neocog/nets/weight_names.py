"""Which tensor of a weights file belongs to which parameter of a net: maps between the names of several libraries.

Most nets here have torchvision's or timm's names already. `best_match` tries every map and keeps the one by which most
tensors find a place with a fitting shape.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod

Shape = tuple[int, ...]

# Heads that help in training only; a file may have them where the net has not, and the other way round.
_AUXILIARY = re.compile(r"(aux\d*|AuxLogits|aux_classifier)\.")


@dataclass(frozen=True, slots=True)
class Match:
    """How far a file fits a net. `placed`: name in the net -> (name in the file, order of the dimensions)."""

    names: str
    placed: dict[str, tuple[str, Shape]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)  # names in the net
    unexpected: list[str] = field(default_factory=list)  # names in the file
    reshaped: list[tuple[str, Shape, Shape]] = field(default_factory=list)  # name, shape in the net, in the file
    fresh: list[str] = field(default_factory=list)  # auxiliary parameters of the net that the file lacks

    @property
    def fits(self) -> bool:
        """True if nothing is wrong."""
        return not (self.missing or self.unexpected or self.reshaped)

    def fits_but(self, heads: tuple[str, ...]) -> bool:
        """True if nothing is wrong, except for the shapes of layers whose dotted names begin with one of `heads`."""
        prefixes = tuple(f"{head}." for head in heads)
        return not (self.missing or self.unexpected) and all(name.startswith(prefixes) for name, *_ in self.reshaped)


def best_match(given: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> Match:
    """Return how a file with the shapes `given` fits a net with the shapes `wanted`, by the map that does best.

    The count of batches that BN layers keep may be missing in the file, or superfluous there.
    """
    matches = [_match(label, rename, keras, given, wanted) for label, rename, keras in _MAPS]
    return max(matches, key=lambda match: (len(match.placed), -len(match.unexpected)))  # the first of equals


def _match(
    label: str, rename: Callable[[str], str], keras: bool, given: Mapping[str, Shape], wanted: Mapping[str, Shape]
) -> Match:
    match = Match(label)
    cut = _wrapper(given, wanted)
    sources: dict[str, str] = {}
    for name in given:
        ours = rename(name[cut:])
        if ours in wanted and ours not in sources:
            sources[ours] = name
        elif not ours.endswith(".num_batches_tracked") and not _AUXILIARY.match(ours):
            match.unexpected.append(name)
    for name, shape in wanted.items():
        if name in sources:
            order = _order(tuple(given[sources[name]]), tuple(shape), keras)
            if order is None:
                match.reshaped.append((name, tuple(shape), tuple(given[sources[name]])))
            else:
                match.placed[name] = sources[name], order
        elif _AUXILIARY.match(name):
            match.fresh.append(name)
        elif not name.endswith(".num_batches_tracked"):
            match.missing.append(name)
    return match


def _order(given: Shape, wanted: Shape, keras: bool) -> Shape | None:
    """Return the order of dimensions by which a tensor fits, or None.

    Keras keeps kernels as (height, width, in, out), those of depthwise layers as (height, width, channels, 1). A linear
    layer and a convolution over a whole map hold the same numbers in the same order, so each fits the other.
    """
    orders = [tuple(range(len(given)))]
    if keras and len(given) == 4:
        orders += [(3, 2, 0, 1), (2, 3, 0, 1)]
    for order in orders:
        shape = tuple(given[axis] for axis in order)
        flat = {len(shape), len(wanted)} == {2, 4} and shape[0] == wanted[0] and prod(shape) == prod(wanted)
        if shape == wanted or flat:
            return order
    return None


def _wrapper(given: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> int:
    """Return the length of what wrappers put before all names, such as "module." or "_orig_mod."."""
    inside = {name.partition(".")[0] for name in wanted}
    names, cut = list(given), 0
    while names:
        first, dot, _ = names[0][cut:].partition(".")
        if not dot or first in inside or not all(name.startswith(f"{first}.", cut) for name in names):
            break
        cut += len(first) + 1
    return cut


def _old_densenet(name: str) -> str:
    """The released DenseNet files write ``norm.1`` for ``norm1``."""
    return re.sub(r"(denselayer\d+)\.(norm|conv)\.([12])\.", r"\1.\2\3.", name)


def _timm_vgg(name: str) -> str:
    """timm writes VGG's fully connected layers as convolutions."""
    for theirs, ours in (("pre_logits.fc1.", "0."), ("pre_logits.fc2.", "3."), ("head.fc.", "6.")):
        if name.startswith(theirs):
            return f"classifier.{ours}{name[len(theirs) :]}"
    return name


_V2_BLOCKS = (1, 2, 3, 4, 3, 3, 1)  # blocks of each stage of MobileNet v2
_V2_OUTER = {
    "conv_stem": "features.0.0", "bn1": "features.0.1", "conv_head": "features.18.0", "bn2": "features.18.1",
    "classifier": "classifier.1",
}  # fmt: skip
_V2_FIRST = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}
_V2_OTHER = {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "conv_pwl": "2", "bn3": "3"}


def _timm_mobilenet_v2(name: str) -> str:
    if found := re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(\w+)\.(\w+)", name):
        stage, block, layer, kind = int(found[1]), int(found[2]), found[3], found[4]
        inner = (_V2_OTHER if stage else _V2_FIRST).get(layer)
        return f"features.{1 + sum(_V2_BLOCKS[:stage]) + block}.conv.{inner}.{kind}" if inner else name
    layer, _, kind = name.rpartition(".")
    return f"{_V2_OUTER[layer]}.{kind}" if layer in _V2_OUTER else name


_V1_PLACES = [(stage, block) for stage, blocks in enumerate((1, 2, 2, 6, 2)) for block in range(blocks)]
_KERAS = re.compile(
    r"(?P<layer>conv1|conv_preds|conv_(?P<kind>dw|pw)_(?P<number>\d+))(?P<bn>_bn)?/((?P=layer)(?P=bn)?/)?"
    r"(?P<value>depthwise_kernel|kernel|bias|gamma|beta|moving_mean|moving_variance)(:0)?"
)
_KERAS_VALUES = {
    "depthwise_kernel": "weight", "kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias",
    "moving_mean": "running_mean", "moving_variance": "running_var",
}  # fmt: skip


def _keras_mobilenet_v1(name: str) -> str:
    """``conv_dw_3_bn/gamma`` -> ``blocks.1.1.bn1.weight``; also as HDF5 files have it, ``layer/layer/gamma:0``."""
    found = _KERAS.fullmatch(name)
    if found is None:
        return name
    value = _KERAS_VALUES[found["value"]]
    if found["layer"] == "conv_preds":
        return f"classifier.{value}"
    if found["layer"] == "conv1":
        return f"{'bn1' if found['bn'] else 'conv_stem'}.{value}"
    number = int(found["number"])
    if not 1 <= number <= len(_V1_PLACES):
        return name
    stage, block = _V1_PLACES[number - 1]
    layer = {"dw": ("conv_dw", "bn1"), "pw": ("conv_pw", "bn2")}[found["kind"]][bool(found["bn"])]
    return f"blocks.{stage}.{block}.{layer}.{value}"


# what `_timm_vgg` and `_timm_mobilenet_v2` read: the layers that timm calls otherwise
_TIMM_LAYERS = (
    (_timm_vgg, ("pre_logits.fc1", "pre_logits.fc2", "head.fc")),
    (
        _timm_mobilenet_v2,
        (
            *_V2_OUTER,
            *(
                f"blocks.{stage}.{block}.{layer}"
                for stage, blocks in enumerate(_V2_BLOCKS)
                for block in range(blocks)
                for layer in (_V2_OTHER if stage else _V2_FIRST)
            ),
        ),
    ),
)
_VALUES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def timm_names(names: Iterable[str], net: str) -> dict[str, str]:
    """Our names of a net's tensors -> timm's: the maps above, backwards. `net`: what the net is called here."""
    theirs: dict[str, str] = {}
    for start, (rename, layers) in zip(("vgg", "mobilenet_v2"), _TIMM_LAYERS, strict=True):
        if net.startswith(start):
            theirs = {rename(f"{layer}.{value}"): f"{layer}.{value}" for layer in layers for value in _VALUES}
    return {name: theirs.get(name, name) for name in names}


KERAS = "Keras"

# whose names, from a name of theirs to ours, whether kernels may be in Keras's order
_MAPS: tuple[tuple[str, Callable[[str], str], bool], ...] = (
    ("its own", str, False),
    ("torchvision", _old_densenet, False),
    ("timm", _timm_vgg, False),
    ("timm", _timm_mobilenet_v2, False),
    (KERAS, _keras_mobilenet_v1, True),
)
