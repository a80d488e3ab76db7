"""What the commands about networks look at: a name of the zoo, a run, or any module in a file or a package."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neocog.errors import NeocogError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from neocog.records import Facts


@dataclass(frozen=True)
class Subject:
    """A network and an input for it. `input` is a shape without batch, or example arguments; None if not known."""

    name: str
    module: nn.Module
    input: Any
    facts: Facts | None = None


def load(named: str, size: str | None = None, options: Mapping[str, str] | None = None) -> Subject:
    """Make the network that a user named, without allocating its weights where possible.

    Args:
        named: a net of the zoo; a run folder; a net file (.json); ``file.py:Name`` or ``package.module:Name``,
            where Name is a module, a class, or a function without required arguments. The file may say
            ``NAME.example_input`` or have a function ``example_input()``: a shape, a tensor, a tuple of arguments or a
            dict of keyword arguments.
        size: the input, such as 3x224x224 or 224 (a square picture, or a vector for a module that reads no pictures);
            default: the net's usual input.
        options: keyword arguments for building it, as texts.

    Raises:
        UsageError: nothing of that name, or it cannot be built.
    """
    values = {key: value_of(text) for key, text in (options or {}).items()}
    if ":" in named and not Path(named).exists():
        return _other(named, size, values)
    if Path(named, "net.json").is_file():
        return _run(named, size, values)
    return _zoo(named, size, values)


def value_of(text: str) -> Any:
    """A Python value where the text is one (3, 1.5, True, [1, 2]); else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def shape_of(text: str, usual: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Read 3x224x224, or 224 where the rest is known from `usual`. Raises: UsageError."""
    if not re.fullmatch(r"\d+([xX,]\d+)*", text.strip()):
        raise UsageError(f"--input expects a shape such as 3x224x224, or one size such as 224; got {text!r}")
    sides = tuple(int(side) for side in re.split(r"[xX,]", text.strip()))
    if len(sides) == 1 and usual is not None and len(usual) > 1:
        return (*usual[:-2], *sides * 2) if len(usual) > 2 else (*usual[:-1], *sides)
    return sides


def amount(text: str, option: str) -> float:
    """Read 600M, 1.5G, 2k or a plain number. Raises: UsageError."""
    match = re.fullmatch(r"([\d.]+)\s*([kKmMgGbBtT]?)", text.strip())
    try:
        return float(match[1]) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}[match[2].lower()]  # type: ignore[index]
    except (TypeError, ValueError):
        raise UsageError(f"{option} expects a number such as 600M, 4.1G or 25000; got {text!r}") from None


def _zoo(named: str, size: str | None, values: dict[str, Any]) -> Subject:
    import torch

    from neocog import nets

    name, known = nets.in_file(named)
    facts = nets.facts(name)
    side = known.get("input_size", facts.input[-1])
    usual = facts.input if not known else (known.get("in_channels", facts.input[0]), *[side] * (len(facts.input) - 1))
    shape = usual if size is None else shape_of(size, usual)
    given = known.copy()
    if len(shape) == len(usual) and shape != usual:
        if shape[0] != usual[0]:
            given["in_channels"] = shape[0]
        if len(shape) < 3 or shape[-1] == shape[-2]:
            given["input_size"] = shape[-1]
    given |= values
    with torch.device("meta"):
        net = nets.build(name, **given)
        example = nets.example(net, 1) if getattr(net, "example", None) and size is None else None
    return Subject(named, net, shape if example is None else example, facts)


def _run(named: str, size: str | None, values: dict[str, Any]) -> Subject:
    import torch

    from neocog import nets
    from neocog.fit.predicting import Run

    if values:
        raise UsageError("--set cannot change a run; it is built as it was trained")
    run = Run(named)
    card, task = run.spec, run.task
    if card["name"] not in nets.names():
        raise UsageError(f"{named} has a net that only the task {task.name} makes; expected a run with one of the zoo")
    facts = nets.facts(card["name"])
    with torch.device("meta"):
        net = nets.build(**card)
    if (value := run.metrics.get(f"test_{task.goal[0]}")) is not None:
        name, n = run.settings["data"]["name"], run.metrics.get("test_n")
        facts = replace(facts, accuracy=f"{name} test {task.figure} {task.shown(value)} (n = {n:,})")
    usual = run.reader.shape if run.reader else (card["in_channels"], card["input_size"], card["input_size"])
    if size is None and getattr(net, "example", None):
        return Subject(named, net, nets.example(net), facts)
    return Subject(named, net, usual if size is None else shape_of(size, usual), facts)


def _other(named: str, size: str | None, values: dict[str, Any]) -> Subject:
    from torch import nn

    where, _, attribute = named.rpartition(":")
    home = _imported(where)
    try:
        thing: Any = home
        for part in attribute.split("."):
            thing = getattr(thing, part)
    except AttributeError:
        known = [k for k, v in vars(home).items() if inspect.isclass(v) and issubclass(v, nn.Module)]
        raise UsageError(
            f"{where} has no {attribute!r}" + (f"; modules in it: {', '.join(known[:10])}" if known else "")
        ) from None
    made = thing
    if not isinstance(made, nn.Module):
        try:
            made = thing(**values)
        except NeocogError:
            raise
        except Exception as error:
            raise UsageError(
                f"{named} could not be built: {type(error).__name__}: {error}; give its arguments with --set name=value"
            ) from error
    if not isinstance(made, nn.Module):
        raise UsageError(
            f"{named} gives a {type(made).__name__}; expected a torch.nn.Module, or a function that makes one"
        )
    example = getattr(made, "example_input", None) or getattr(home, "example_input", None)
    usual: Any = example() if callable(example) else example
    if size is not None:
        given: Any = tuple(usual.shape[1:]) if hasattr(usual, "shape") else usual
        plain = isinstance(given, tuple) and all(isinstance(n, int) for n in given)
        usual = shape_of(size, given if plain else None)
        if len(usual) == 1 and not plain:
            usual = _meant_by(usual[0], made)
    return Subject(attribute, made, usual)


def _meant_by(side: int, module: nn.Module) -> tuple[int, ...]:
    """The input that one number means: a picture with the channels of the first convolution, else 3, or a vector."""
    from torch import nn

    convs = [m for m in module.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    if convs:
        return (convs[0].in_channels or 3, *(side,) * len(convs[0].kernel_size))
    first = next((m for m in module.modules() if next(m.parameters(recurse=False), None) is not None), None)
    inputs = getattr(first, "in_features", side)  # a linear layer on all numbers of a picture, or on a vector
    channels = 3 if first is None else next((c for c in (3, 1) if inputs == c * side * side), 0)
    return (channels, side, side) if channels else (side,)


def _imported(where: str) -> Any:
    """The module in a file, or of a dotted name. Raises: UsageError."""
    try:
        if where.endswith(".py"):
            path = Path(where).resolve()
            spec = importlib.util.spec_from_file_location(path.stem, path)
            if spec is None or spec.loader is None or not path.is_file():
                raise UsageError(f"{where} is no Python file that can be read")
            sys.path.insert(0, str(path.parent))
            module = importlib.util.module_from_spec(spec)
            sys.modules.setdefault(path.stem, module)
            spec.loader.exec_module(module)
            return module
        return importlib.import_module(where)
    except NeocogError:
        raise
    except Exception as error:
        raise UsageError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error


def usable_input(subject: Subject) -> Any:
    """The input to trace with. Raises: UsageError if none is known."""
    if subject.input is None:
        raise UsageError(
            f"{subject.name} does not say what it takes; give --input 3x224x224, or add to its file a function "
            "example_input() that returns example arguments"
        )
    return subject.input


def with_numbers(subject: Subject) -> nn.Module:
    """The network with real weights (fresh ones, for a net of the zoo), for computations that need numbers."""
    from neocog import nets

    spec = getattr(subject.module, "spec", None)
    if any(p.is_meta for p in subject.module.parameters()) and isinstance(spec, dict):
        if Path(subject.name, "net.json").is_file():
            return nets.build(subject.facts.name, weights=subject.name)  # type: ignore[union-attr]
        return nets.build(**spec)
    return subject.module


def picture_shape(subject: Subject) -> tuple[int, ...]:
    """The input as (C, H, W). Raises: UsageError if it is not one picture."""
    given = usable_input(subject)
    shape = tuple(given.shape[1:]) if hasattr(given, "shape") else given
    if not isinstance(shape, tuple) or len(shape) != 3 or not all(isinstance(n, int) for n in shape):
        raise UsageError("--effective needs a net that reads one picture (C, H, W)")
    return shape
