"""The command that takes a trained net elsewhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from neocog.cli import terminal


class To(StrEnum):
    """Formats of models."""

    onnx = "onnx"
    openvino = "openvino"
    torch = "torch"


def add_to(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(export)


def export(
    subject: Annotated[
        str, typer.Argument(metavar="RUN|NET", help="A run folder, or a net of the zoo with its ImageNet weights.")
    ],
    to: Annotated[To, typer.Option(help="The format; torch is a torch.export program (.pt2).")] = To.onnx,
    int8: Annotated[
        bool, typer.Option("--int8", help="8-bit integers, calibrated on training pictures; for onnx and openvino.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A new folder; default: exported/NAME-FORMAT.")
    ] = None,
    pictures: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="What to compare on (and calibrate int8); default: the run's own pictures."),
    ] = None,
) -> None:
    """Write a model that runs without neocog, with what prepares pictures for it, a card, and a comparison.

    The model is compared with the run on real pictures; one that does not answer as the run does is not written.
    'neocog predict FOLDER PICTURES' uses it.
    """
    with terminal.work():
        from neocog import export as room

        made = room.export(subject, to.value, int8=int8, out=out, pictures=pictures, say=terminal.say)
    terminal.echo(str(made.folder))
