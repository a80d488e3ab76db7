"""The registry of nets: their facts, how they are built, and how their head is changed.

A family is one file in this folder; it calls `register` once per variant. Files are found by walking the folder,
so adding a family means adding a file and nothing else.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import NetError, closest
from ..records import Facts

# Facts that many nets share.
IMAGENET: dict[str, Any] = {"input": (3, 224, 224), "classes": 1000}
CIFAR: dict[str, Any] = {"input": (3, 32, 32), "classes": 10}
TORCHVISION = "ImageNet top-1 {} %, top-5 {} % (torchvision weights, 1 crop)"

# What build() itself takes or hands over; every other keyword with a default is an option of the net.
_GIVEN = ("classes", "in_channels", "input_size")

_Builder = TypeVar("_Builder", bound=Callable[..., nn.Module])


@dataclass(frozen=True, slots=True)
class _Entry:
    facts: Facts
    builder: Callable[..., nn.Module]
    settings: dict[str, Any]
    takes: frozenset[str]  # which of _GIVEN the builder takes
    options: dict[str, Any]  # name -> default


_entries: dict[str, _Entry] = {}
_found = False


def register(facts: Facts, **settings: Any) -> Callable[[_Builder], _Builder]:
    """Add a net under ``facts.name``; use it as a decorator, or call the result in a loop over variants.

    The builder (a class or a function) is called with ``classes``, ``in_channels`` and ``input_size``, as far as its
    signature has them, and with `settings`. Its other keywords with a default are the options that users of `build`
    may give; a setting for such a keyword changes the default, a setting for any other keyword is fixed. A builder
    whose options change the smallest input has a static method ``smallest_input(options: dict) -> int | None``.
    """
    if facts.name in _entries:
        taken = _entries[facts.name].builder
        raise NetError(
            f"a net named {facts.name!r} is already registered ({taken.__module__}.{taken.__qualname__}); "
            "give the new one another name"
        )
    if facts.smallest > facts.input[-1]:
        raise ValueError(f"{facts.name}: smallest input {facts.smallest} exceeds the usual one, {facts.input[-1]}")

    def add(builder: _Builder) -> _Builder:
        keywords = {
            key: parameter.default
            for key, parameter in inspect.signature(builder).parameters.items()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        }
        if unknown := set(settings) - set(keywords):
            raise ValueError(f"{facts.name}: {builder.__qualname__} takes no {', '.join(sorted(unknown))}")
        given = [key for key, default in keywords.items() if default is not inspect.Parameter.empty]
        options = {key: settings.get(key, keywords[key]) for key in given if key not in _GIVEN}
        _entries[facts.name] = _Entry(facts, builder, settings, frozenset(keywords).intersection(_GIVEN), options)
        return builder

    return add


def names(family: str | None = None, task: str | None = None) -> list[str]:
    """Return the names of all nets, or of one family or task, in natural order (resnet18 before resnet101)."""
    _find()
    every = chosen = [entry.facts for entry in _entries.values()]
    for value, kind, plural in ((family, "family", "families"), (task, "task", "tasks")):
        if value is not None:
            known = sorted({getattr(item, kind) for item in every})
            if value not in known:
                raise NetError(f"unknown {kind} {value!r}{closest(str(value), known)}; {plural}: {', '.join(known)}")
            chosen = [item for item in chosen if getattr(item, kind) == value]
    return sorted((item.name for item in chosen), key=_natural)


def facts(name: str) -> Facts:
    """Return the published figures of a net."""
    return _entry(name).facts


def options(name: str) -> dict[str, Any]:
    """Return the options that ``build(name, ...)`` takes besides classes and sizes, with their defaults."""
    return dict(_entry(name).options)


def one_size(name: str) -> bool:
    """Return whether a net is built for pictures of one size, as with linear layers on its maps; others take any."""
    entry = _entry(name)
    return "input_size" in entry.takes and not getattr(entry.builder, "any_size", False)


def engineered(name: str) -> bool:
    """Return whether nothing but a net's last layer is fitted to labels, as after engineered descriptors."""
    return bool(getattr(_entry(name).builder, "engineered", False))


def smallest_picture(name: str) -> int:
    """Return the smallest side of a picture whose map a net can make; `tiling` fills up what an input lacks."""
    entry = _entry(name)
    context = getattr(entry.builder, "context", None)
    return 2 if context and context(**entry.settings) else entry.facts.smallest


def builder(name: str) -> Callable[..., nn.Module]:
    """Return the class or function that builds a net."""
    return _entry(name).builder


def in_file(named: str) -> tuple[str, dict[str, Any]]:
    """Return the net of which a JSON file says "net", as a run's net.json and ``neocog design`` do: name, and the rest.

    The rest is what else `build` takes. A name that is no file (no ".json") is returned as it is, with nothing.
    """
    if not str(named).endswith(".json"):
        return named, {}
    try:
        spec = dict(json.loads(Path(named).read_text("utf-8"))["net"])
        name = spec.pop("name")
    except OSError as error:
        raise NetError(
            f"{named} cannot be read: {error.strerror}; expected a net file, as 'neocog design' writes it"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise NetError(f'{named} describes no net; expected {{"net": {{"name": "designed", ...}}}}') from None
    check_options(name, {key: value for key, value in spec.items() if key not in _GIVEN})
    return name, spec


def build(
    name: str, classes: int | None = None, in_channels: int | None = None, input_size: int | None = None, **options: Any
) -> nn.Module:
    """Build a net with fresh weights; see `weights.build`, which is ``neocog.nets.build``."""
    entry = _entry(name)
    check_options(name, options)
    given = {
        "classes": entry.facts.classes if classes is None else classes,
        "in_channels": entry.facts.input[0] if in_channels is None else in_channels,
        "input_size": entry.facts.input[-1] if input_size is None else input_size,
    }
    for key, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise NetError(f"{name}: {key} must be a whole number of at least 1, got {value!r}")
    smallest = entry.facts.smallest
    if rule := getattr(entry.builder, "smallest_input", None):
        smallest = rule({**entry.settings, **options}) or smallest
    if given["input_size"] < smallest:
        raise NetError(
            f"{name} needs pictures of at least {smallest}x{smallest}, got input_size={given['input_size']}; "
            f"resize them to {smallest} or more, or choose a net for smaller pictures"
        )
    if "in_channels" not in entry.takes and given["in_channels"] != entry.facts.input[0]:
        raise NetError(f"{name} takes {entry.facts.input[0]} channels only, got in_channels={given['in_channels']}")
    handed = {key: value for key, value in given.items() if key in entry.takes}
    net = entry.builder(**{**entry.settings, **handed, **options})
    net.spec = {"name": name, **given, **options}  # type: ignore[assignment]  # a plain dict, not a tensor
    return net


def example(net: nn.Module, batch: int = 1, input_size: int | None = None) -> Tensor:
    """Return a random input (batch, ...) that a net built here can take, on the CPU.

    Normal noise of the usual shape, `input_size` (default: that of ``net.spec``) wide; nets that read something else
    (token ids, say) define a static method ``example(spec, batch)``.
    """
    spec: dict[str, Any] = dict(net.spec)  # type: ignore[arg-type]
    if input_size is not None:
        spec["input_size"] = input_size
    if own := getattr(net, "example", None):
        return own(spec, batch)  # type: ignore[no-any-return]
    usual = facts(spec["name"]).input
    if len(usual) < 3:
        return torch.randn(batch, spec["in_channels"], spec["input_size"])
    width = spec["input_size"]
    return torch.randn(batch, spec["in_channels"], *usual[1:-2], max(1, width * usual[-2] // usual[-1]), width)


def head_of(net: nn.Module) -> nn.Module:
    """Return the last layer of a net of this zoo."""
    return net.get_submodule(_head_name(net))


def change_head(net: nn.Module, classes: int) -> nn.Module:
    """Give the net a freshly initialised last layer for `classes` classes; everything else keeps its weights.

    The new layer has the old one's device, type and mode, and a bias only if that had one. Auxiliary heads (class
    attribute `aux_heads`) change too. ``net.spec`` follows. Returns the same net.
    """
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise NetError(f"classes must be a whole number of at least 1, got {classes!r}")
    for name in (_head_name(net), *getattr(net, "aux_heads", ())):
        old = net.get_submodule(name)
        new = _same_layer(old, classes)
        if initialise := getattr(net, "init_head", None):
            initialise(new)
        new.train(old.training)
        parent, _, last = name.rpartition(".")
        setattr(net.get_submodule(parent), last, new)
    if spec := getattr(net, "spec", None):
        net.spec = {**spec, "classes": classes}  # type: ignore[assignment]
    return net


def _head_name(net: nn.Module) -> str:
    name = getattr(net, "head", None)
    if not isinstance(name, str):
        raise NetError(
            f"{type(net).__name__} does not name its last layer; expected a class attribute such as: head = 'fc'"
        )
    return name


def _same_layer(old: nn.Module, classes: int) -> nn.Module:
    """Return a fresh layer like `old` with `classes` outputs."""
    if hasattr(old, "with_classes"):  # a layer of ours that knows how to remake itself
        return old.with_classes(classes)  # type: ignore[operator, no-any-return]
    weight = getattr(old, "weight", None)
    how: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype} if weight is not None else {}
    if type(old) is nn.Linear:
        return nn.Linear(old.in_features, classes, old.bias is not None, **how)
    if type(old) is nn.Conv2d and old.kernel_size == (1, 1) and old.groups == 1:
        how |= {"stride": old.stride, "padding": old.padding, "bias": old.bias is not None}
        return nn.Conv2d(old.in_channels, classes, 1, **how)
    raise NetError(
        f"cannot change a head of type {type(old).__name__}; expected a linear layer, a 1x1 convolution, "
        "or a layer with a method with_classes(classes)"
    )


def check_options(name: str, options: dict[str, Any]) -> None:
    """Raise NetError for an option that the net does not have, or that cannot be saved as JSON."""
    entry = _entry(name)
    for key, value in options.items():
        if key not in entry.options:
            known = ", ".join(f"{k}={v!r}" for k, v in entry.options.items()) or "none"
            raise NetError(
                f"{entry.facts.name} has no option {key!r}{closest(key, entry.options)}; its options are: {known}"
            )
        try:
            json.dumps(value)
        except TypeError:
            raise NetError(
                f"{entry.facts.name}: option {key} must be a number, text, true or false, None or a list of those, "
                f"because it is saved as JSON; got {value!r}"
            ) from None


def _entry(name: str) -> _Entry:
    _find()
    if name not in _entries:
        raise NetError(f"unknown net {name!r}{closest(str(name), _entries)}; 'neocog nets' lists all {len(_entries)}")
    return _entries[name]


def _find() -> None:
    """Import every file of this folder once, so that each registers its nets."""
    global _found
    if _found:
        return
    package = importlib.import_module(__package__ or "neocog.nets")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package.__name__}.{module.name}")
    _found = True


def _natural(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]
