"""The commands that use a run on new pictures."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from neocog.cli import terminal, write
from neocog.records import counted


class Form(StrEnum):
    """How predictions are written."""

    table = "table"
    csv = "csv"
    jsonl = "jsonl"


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (predict,):
        app.command()(command)


def predict(
    run: terminal.RunArgument,
    inputs: Annotated[
        list[str], typer.Argument(metavar="PICTURES...", help="Files, folders, or - for one path a line on stdin.")
    ],
    form: Annotated[Form, typer.Option("--format", help="A table for people, csv or jsonl for programs.")] = Form.table,
    top: Annotated[int, typer.Option(metavar="K", min=1, help="How many guesses to show.")] = 5,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write there instead of to stdout.")] = None,
    device: terminal.Device = None,
) -> None:
    """Say what is in pictures.

    With calibrated probabilities, and 'unknown' for pictures unlike the training data.
    Exit status 1 means that some picture could not be read; all others are in the output.
    """
    with terminal.output(out) as stream, terminal.work():
        from neocog import fit

        trained = fit.Run(run)
        predictions = fit.predict(trained, terminal.picture_paths(inputs), top=top, device=device)
        unread = write.write_predictions(predictions, stream, form.value, trained.classes, top)
    if unread:
        terminal.say(f"{counted(unread)} could not be read; the reasons are in the output")
        raise typer.Exit(1)
