"""The commands about pictures before any training: check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neocog.cli import terminal, write


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (check,):
        app.command()(command)


def check(
    data: terminal.DataArgument,
    labels: Annotated[
        str | None,
        typer.Option(metavar="auto|RUN", help="Also find labels that are probably wrong, by other pictures or a run."),
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with thumbnails.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the JSON document to a file.")] = None,
    columns: terminal.Columns = None,
    offline: terminal.Offline = False,
    json: terminal.Json = False,
    quiet: terminal.Quiet = False,
) -> None:
    """Check pictures before any training.

    Counts, unreadable files, duplicates, leaks between splits, imbalance, suspicious labels.
    Exit status 1 means that something should be corrected.
    """
    with terminal.work():
        from neocog.data import open_source
        from neocog.data.check import check as look_over
        from neocog.data.check_page import check_page

        source = open_source(data, offline=offline, columns=terminal.columns(columns))
        doubts = None
        if labels:
            from neocog.fit.suspects import suspicious_labels

            doubts = suspicious_labels(labels, source)
        with terminal.bar("checking the pictures", quiet=quiet) as progress:
            found = look_over(source, progress=progress, suspicious=doubts)
        if html:
            with terminal.output(html) as page:
                page.write(check_page(found, source))
        if out:
            with terminal.output(out) as file:
                file.write(write.json_text(found) + "\n")
    write.show_json(found) if json else write.show_check(found)
    raise typer.Exit(found.exit_status)
