"""Names of a package that are imported when they are first used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy(package: str, homes: Mapping[str, tuple[str, str | None]]) -> tuple[Callable[[str], Any], Any]:
    """The ``__getattr__`` and the ``__dir__`` of a package.

    Args:
        package: its ``__name__``.
        homes: of each name the module, and what it is called there; None: the module itself.
    """

    def get(name: str) -> Any:
        if name not in homes:
            from neocog.errors import closest

            raise AttributeError(f"module {package!r} has no attribute {name!r}{closest(name, homes)}")
        module, attribute = homes[name]
        found = importlib.import_module(module)
        value = found if attribute is None else getattr(found, attribute)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *homes})


def of_rooms(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Any]:
    """`lazy` for names that files of the package have under the same name."""
    return lazy(package, {name: (f"{package}.{home}", name) for name, home in homes.items()})
