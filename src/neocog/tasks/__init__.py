"""Tasks: what is asked of a picture. What a task is says `task`; each is a file of its own."""

from neocog.tasks.label import Label, balance
from neocog.tasks.task import Answer, Losses, Meter, Section, Task, find, guess, names, register

__all__ = ["Answer", "Label", "Losses", "Meter", "Section", "Task", "balance", "find", "guess", "names", "register"]
