"""What can go wrong, as one exception tree, and the helper that guesses what a user meant.

Every message says three things: what was expected, what was given, and what to type.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NeocogError(Exception):
    """Base of every error that neocog raises on purpose; the command line prints it without a traceback."""


class UsageError(NeocogError):
    """A call or command is wrong: an unknown name, a value out of range, options that exclude each other."""


class DataError(NeocogError):
    """The data cannot be used: nothing found, no labels, ambiguous columns."""


class DecodeError(DataError):
    """One picture cannot be read; the message is the reason, in a few words."""


class FetchError(DataError):
    """A download failed, was forbidden by --offline, or arrived with a wrong checksum."""


class NetError(NeocogError):
    """A net cannot be built: unknown name, input too small, weights that do not fit."""


class RunError(NeocogError):
    """A run folder cannot be used, or a training had to stop."""


class LibraryError(NeocogError):
    """A library cannot be opened, read or changed."""


class ClusterError(NeocogError):
    """A cluster cannot be reached, or failed."""


class MissingExtra(NeocogError):
    """An optional dependency is not installed; the message names the command that installs it."""


def closest(name: str, names: Iterable[str]) -> str:
    """Return ``" (did you mean 'resnet50'?)"`` for the name nearest to `name`, or ``""`` if none is near."""
    near = difflib.get_close_matches(name.lower(), list(names), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""
