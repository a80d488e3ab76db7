"""Tasks: what is asked of a picture. What a task is says `task`; each is a file of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neocog.lazily import of_rooms

if TYPE_CHECKING:
    from neocog.tasks.answer import Answer
    from neocog.tasks.label import Label, balance
    from neocog.tasks.task import Losses, Meter, Section, Task, find, guess, names, register

__all__ = ["Answer", "Label", "Losses", "Meter", "Section", "Task", "balance", "find", "guess", "names", "register"]

# loaded when they are needed: a library finds pictures by `logistic` and `together` without PyTorch
_HOMES = {"Answer": "answer", "Label": "label", "balance": "label"}
__getattr__, __dir__ = of_rooms(__name__, {name: _HOMES.get(name, "task") for name in __all__})
