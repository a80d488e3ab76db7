"""The page and its HTTP API: routes without logic, each of which calls a function that Python users call too.

app.py makes and runs the application, guard.py decides who may ask, jobs.py runs long work in processes of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neocog.lazily import of_rooms

if TYPE_CHECKING:
    from neocog.web.app import make_app, serve

__all__ = ["make_app", "serve"]

__getattr__, __dir__ = of_rooms(__name__, dict.fromkeys(__all__, "app"))
