"""Tasks: what is asked of a picture. A task is loss, metrics and predict on top of a trunk and a head."""

from neocog.tasks.label import Label, balance
from neocog.tasks.task import Task

__all__ = ["Label", "Task", "balance"]
