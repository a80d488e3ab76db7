"""`neocog serve`: the page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neocog.cli import terminal


def add_to(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(serve)


def serve(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[LIBRARY...] [RUN...]",
            help="Libraries and run folders; default: the library here, else the last one indexed. "
            "Runs in ./runs are always shown.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="H", help="Address to listen on; any but this machine's own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0 takes a free one.")] = 8080,
) -> None:
    """Open a page on this machine: search, teach, train, and look inside networks.

    Prints its address and serves until Ctrl-C. Its HTTP API is described at /docs.
    """
    with terminal.work():
        from neocog.errors import LibraryError
        from neocog.library import place
        from neocog.web import serve

        given = what or []
        runs = [one for one in given if (Path(one) / "run.json").is_file()]
        libraries: list[str | Path] = [one for one in given if one not in runs]
        if not given:
            try:
                libraries = [place.find()]
            except LibraryError:
                terminal.say("note: there is no library yet; 'neocog index FOLDER' makes one")
        serve(libraries, runs, host=host, port=port, say=terminal.say)
