"""The page and its HTTP API: routes without logic, each of which calls a function that Python users call too.

app.py makes and runs the application, guard.py decides who may ask, jobs.py runs long work in processes of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neocog.web.app import make_app, serve

__all__ = ["make_app", "serve"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from neocog.web import app

        return getattr(app, name)
    raise AttributeError(f"module 'neocog.web' has no attribute {name!r}")
