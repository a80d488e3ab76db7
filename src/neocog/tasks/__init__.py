"""Tasks: what is asked of a picture. What a task is says `task`; each is a file of its own."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neocog.tasks.answer import Answer
    from neocog.tasks.label import Label, balance
    from neocog.tasks.task import Losses, Meter, Section, Task, find, guess, names, register

__all__ = ["Answer", "Label", "Losses", "Meter", "Section", "Task", "balance", "find", "guess", "names", "register"]


def __getattr__(name: str) -> Any:
    """Loaded when they are needed: a library finds pictures by `logistic` and `together` without PyTorch."""
    if name not in __all__:
        raise AttributeError(f"module 'neocog.tasks' has no attribute {name!r}")
    home = "label" if name in ("Label", "balance") else "task"
    value = getattr(importlib.import_module(f"neocog.tasks.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
