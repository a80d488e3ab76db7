"""Files of the package wordllama, found without importing it: its import takes seconds and wants the network."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from neocog.errors import MissingExtra


@cache
def package_file(name: str) -> Path:
    """The path of a file of wordllama. Raises: MissingExtra: it is not installed, or has no such file."""
    found = find_spec("wordllama")
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (path := Path(folder) / name).exists():
            return path
    what = "is not installed" if found is None else f"has no {name}: another version is installed"
    raise MissingExtra(f"the word vectors come with the package wordllama, which {what}; pip install 'wordllama>=0.4'")
