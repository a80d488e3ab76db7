"""The page and its HTTP API: routes without logic, each of which calls a function that Python users call too.

app.py makes the application, guard.py decides who may ask, jobs.py runs long work in processes of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neocog.web.app import make_app
    from neocog.web.serving import serve

__all__ = ["make_app", "serve"]


def __getattr__(name: str) -> Any:
    if name == "make_app":
        from neocog.web.app import make_app

        return make_app
    if name == "serve":
        from neocog.web.serving import serve

        return serve
    raise AttributeError(f"module 'neocog.web' has no attribute {name!r}")
