"""Load weights into a net, from files of this project, torchvision, timm, or Keras (MobileNet v1).

net = build_with_weights("resnet50", "imagenet", classes=10)
load_weights(net, "resnet50.safetensors")
preprocess_for("resnet50.safetensors")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import NetError
from ..files import write_atomically
from . import registry
from .hub import TIMM, tell
from .registry import change_head, check_options, facts, names
from .weight_files import preprocess_for, read_weights, resolve_weights, trained_options, trained_spec
from .weight_names import KERAS, Match, best_match, timm_names

__all__ = ["Loaded", "build_with_weights", "load_weights", "preprocess_for", "resolve_weights", "save_for_timm"]

_SHOWN = 3  # names of each kind that an error shows
_TRIED = 24  # nets that are compared with a file that does not fit, nearest parameter count first


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was loaded. `names`: whose names the file has; the others are dotted names that were left as they were."""

    names: str
    loaded: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()


def load_weights(
    net: nn.Module,
    state: Mapping[str, Tensor] | str | os.PathLike[str],
    strict: bool = True,
    *,
    say: Callable[[str], object] = tell,
) -> Loaded:
    """Load tensors, or those of a safetensors file or run folder, into a net of any library; return what was loaded.

    The map between names is chosen by what fits. Values get the type and device of the net's own; a net on the meta
    device gets its values on the CPU. Auxiliary heads that only one side has are left out. MobileNet v1 takes over the
    padding and the BN epsilon of the weights, unless it was built with others explicitly. With ``strict=False`` what
    fits is loaded, and the rest left as it is.

    Raises: NetError if `strict` and anything is missing, unexpected or of another shape; nothing is changed then.
    """
    if isinstance(state, Mapping):
        return _load(net, {key: value.clone() for key, value in state.items()}, "the tensors given", {}, strict, say)
    path = resolve_weights(_name_of(net), state, say=say)
    return _load(net, read_weights(path), str(path), trained_options(path), strict, say)


def build(
    name: str,
    classes: int | None = None,
    in_channels: int | None = None,
    input_size: int | None = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    **options: Any,
) -> nn.Module:
    """Build a net, with fresh weights or with `weights`.

    `classes`, `in_channels` and `input_size` (H = W, in pixels) default to those of the published net. `options`
    differ from family to family; `neocog.nets.options(name)` lists them. Inside ``with torch.device("meta")`` the
    net takes no memory. The settings are kept in ``net.spec``.

    `weights` is a safetensors file (names of torchvision, timm and Keras' MobileNet are understood), a run folder, or
    "imagenet": the file ``<name>.safetensors`` in the folder that NEOCOG_WEIGHTS names, else those of an installed
    package, else fetched from the Hugging Face hub, unless `offline`. The head of the file is kept if `classes` is not
    given or the same, else replaced.

    Raises: NetError for an unknown name or option, a value that the net cannot have, or weights that do not fit.
    """
    name, known = registry.in_file(name)
    sizes = {"classes": classes, "in_channels": in_channels, "input_size": input_size}
    settings = {**known, **{key: value for key, value in sizes.items() if value is not None}, **options}
    if weights is None:
        return registry.build(name, **settings)
    check_options(name, options)
    return build_with_weights(name, weights, offline=offline, **settings)


def build_with_weights(
    name: str,
    weights: str | os.PathLike[str],
    *,
    classes: int | None = None,
    in_channels: int | None = None,
    input_size: int | None = None,
    offline: bool | None = None,
    say: Callable[[str], object] = tell,
    **options: Any,
) -> nn.Module:
    """Build a net with the weights that `resolve_weights` finds; the arguments are those of `build`.

    Without `classes` the net has as many as the weights. With another number, the last layer is new, and `say` gets a
    line about it. A run gives its own options too, where the caller gives none.
    """
    path = resolve_weights(name, weights, offline=offline, say=say)
    state = read_weights(path)
    spec = trained_spec(path)
    if spec.get("name", name) != name:
        raise NetError(
            f"{path.parent} trained {spec['name']}, not {name}; type build({spec['name']!r}, weights={str(weights)!r})"
        )
    sizes = {"in_channels": in_channels, "input_size": input_size}
    settings = {**spec, **{key: value for key, value in sizes.items() if value is not None}, **options, "name": name}
    with torch.device("meta"):
        net = registry.build(**settings)
        known = _classes_in(net, state)
        if known not in (None, net.spec["classes"]):  # type: ignore[index]
            settings["classes"] = known
            net = registry.build(**settings)
    if _match(net, state).fresh:  # auxiliary heads need initial values
        net = registry.build(**settings)
    _load(net, state, str(path), trained_options(path), True, say)
    net.to(torch.get_default_device())
    if classes is not None and classes != net.spec["classes"]:  # type: ignore[index]
        said = f"{name}: the weights are for {net.spec['classes']} classes"  # type: ignore[index]
        change_head(net, classes)
        say(f"{said}, {classes} were asked for: the last layer, {net.head}, is new and must be trained")
    return net


def save_for_timm(net: nn.Module, path: str | os.PathLike[str]) -> str:
    """Write a net's weights as safetensors under timm's names; return what timm calls the net.

    ``timm.create_model(NAME, num_classes=K, in_chans=C, checkpoint_path=PATH)`` loads them, strictly.

    Raises: NetError: timm has no such net, or its one pads or normalises otherwise than this one.
    """
    spec = dict(getattr(net, "spec", {}))
    name = str(spec.get("name", type(net).__name__))
    if name not in TIMM:
        raise NetError(f"timm has no {name} that is computed as the one here; it has {', '.join(TIMM)}")
    options = {key: value for key, value in spec.items() if key not in ("name", "classes", "in_channels", "input_size")}
    changed = {key: value for key, value in options.items() if value != registry.options(name)[key]}
    if changed:
        raise NetError(f"timm's {TIMM[name]} is built without {_spelt(changed)}, so it would not compute the same")
    made = {key: value.detach().cpu().contiguous() for key, value in timm_state(net).items()}
    write_atomically(Path(path), save(made))
    return TIMM[name]


def timm_state(net: nn.Module) -> dict[str, Tensor]:
    """The tensors of a net under timm's names and in its shapes."""
    state, name = net.state_dict(), str(net.spec["name"])  # type: ignore[index]
    made = {theirs: state[ours] for ours, theirs in timm_names(state, name).items()}
    for layer, side in (("pre_logits.fc1", 7), ("pre_logits.fc2", 1)):  # convolutions there
        if (weight := made.get(f"{layer}.weight")) is not None:
            made[f"{layer}.weight"] = weight.reshape(len(weight), -1, side, side)
    return made


def _load(
    net: nn.Module,
    state: dict[str, Tensor],
    where: str,
    options: dict[str, Any],
    strict: bool,
    say: Callable[[str], object],
) -> Loaded:
    match = _match(net, state)
    if strict and not match.fits:
        raise NetError(_complaint(net, state, where, match))
    own = net.state_dict()
    values = {
        name: state[source].permute(order).reshape(own[name].shape).to(own[name].dtype).contiguous()
        for name, (source, order) in match.placed.items()
    }
    for name, value in own.items():
        if name.endswith(".num_batches_tracked") and name not in values:
            values[name] = torch.zeros(value.shape, dtype=value.dtype, device="cpu")
    net.load_state_dict(values, strict=False, assign=any(value.is_meta for value in own.values()))
    if match.names == KERAS:
        options = {"padding": "tensorflow", **options}  # all nets of Keras pad so
    _adopt(net, options, say)
    if match.fresh:
        heads = ", ".join(sorted({name.partition(".")[0] for name in match.fresh}))
        say(f"{where} has no auxiliary heads: {heads} of {_name_of(net)} starts with random weights")
    reshaped = tuple(name for name, *_ in match.reshaped)
    missing = (*match.missing, *match.fresh)
    return Loaded(match.names, len(match.placed), missing, tuple(match.unexpected), reshaped)


def _match(net: nn.Module, state: Mapping[str, Tensor]) -> Match:
    given, wanted = ({name: tuple(value.shape) for name, value in one.items()} for one in (state, net.state_dict()))
    return best_match(given, wanted)


def _adopt(net: nn.Module, options: dict[str, Any], say: Callable[[str], object]) -> None:
    """Give MobileNet v1 the options that its weights were trained with, where the user chose none."""
    change = getattr(net, "set_padding", None)
    if change is None or not options:
        return
    chosen = dict(getattr(net, "spec", {}))
    kept = {key: chosen[key] for key, value in options.items() if chosen.get(key, value) != value}
    if kept:
        say(f"the weights were trained with {_spelt(options)}; {_spelt(kept)} was asked for and is kept")
    options = {**options, **kept}
    change(**options)
    if chosen:
        net.spec = {**chosen, **options}  # type: ignore[assignment]


def _spelt(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in options.items())


def _name_of(net: nn.Module) -> str:
    spec = getattr(net, "spec", None)
    return str(spec["name"]) if isinstance(spec, dict) else type(net).__name__


def _heads(net: nn.Module) -> tuple[str, ...]:
    return (*([net.head] if isinstance(getattr(net, "head", None), str) else []), *getattr(net, "aux_heads", ()))  # type: ignore[misc]


def _classes_in(net: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes that a file was trained for, as far as the net's last layer shows it."""
    match, head = _match(net, state), getattr(net, "head", None)
    for name, _, given in match.reshaped:
        if name in (f"{head}.bias", f"{head}.weight"):
            return given[0]
    return int(net.spec["classes"]) if f"{head}.weight" in match.placed else None  # type: ignore[index]


def _complaint(net: nn.Module, state: Mapping[str, Tensor], where: str, match: Match) -> str:
    """Say what is wrong with a file, the first few of each kind, and what it would fit."""
    total = len(net.state_dict())
    parts = [
        _some(match.missing, "missing"),
        _some(match.unexpected, "unexpected"),
        _some([f"{name} is {given} instead of {own}" for name, own, given in match.reshaped], "of another shape"),
    ]
    whose = "" if match.names == "its own" else f", read as {match.names} names"
    wrong = "; ".join(part for part in parts if part)
    text = f"{where} cannot be loaded into {_name_of(net)} ({total} tensors{whose}): {wrong}"
    if match.fits_but(_heads(net)):
        if known := _classes_in(net, state):
            return f"{text}. Only the last layer differs: build the net with classes={known}"
        return text
    found = nearest(state)
    if found is None:
        return f"{text}. They fit no published net of the zoo; 'neocog nets' lists all"
    name, known = found
    more = f", classes={known}" if known not in (None, facts(name).classes) else ""
    return f"{text}. They fit {name!r}: build({name!r}{more}, weights=...)"


def _some(listed: list[str], what: str) -> str:
    if not listed:
        return ""
    more = f", and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return f"{len(listed)} {what}: {', '.join(listed[:_SHOWN])}{more}"


def nearest(state: Mapping[str, Tensor]) -> tuple[str, int | None] | None:
    """Return the net of the zoo whose names and shapes fit these tensors, and for how many classes; None if none does.

    Nets as published, but for the number of classes, are compared on the meta device, those of the nearest parameter
    count first.
    """
    counted = sum(
        value.numel()
        for name, value in state.items()
        if not name.rstrip(":0").endswith(("running_mean", "running_var", "moving_mean", "moving_variance", "tracked"))
    )
    order = sorted(names(), key=lambda name: abs(log(max(counted, 1) / max(facts(name).params, 1))))
    for name in order[:_TRIED]:
        with torch.device("meta"):
            net = registry.build(name)
        match = _match(net, state)
        if match.fits_but(_heads(net)):
            return name, _classes_in(net, state)
    return None
