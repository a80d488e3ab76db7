"""The command that describes pictures in sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neocog.cli import answers, terminal
from neocog.cli.predict import Form
from neocog.records import counted


def add_to(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(caption)


def caption(
    inputs: Annotated[
        list[str], typer.Argument(metavar="PICTURES...", help="Files, folders, or - for one path a line on stdin.")
    ],
    run: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="A run of the task caption; default: the model that comes with neocog."),
    ] = None,
    n: Annotated[int, typer.Option("-n", metavar="N", min=1, help="Sentences of each picture (--format jsonl).")] = 1,
    beam: Annotated[int, typer.Option(metavar="K", min=1, help="Sentences that are followed at a time.")] = 5,
    temperature: Annotated[
        float, typer.Option(metavar="T", min=0.0, help="Above 0: by chance, the more freely the higher; 1 is usual.")
    ] = 0.0,
    first: Annotated[str, typer.Option(metavar="WORDS", help="Words that each sentence begins with.")] = "",
    seed: Annotated[int, typer.Option(help="Of chance, with --temperature.")] = 0,
    form: Annotated[Form, typer.Option("--format", help="A table for people, csv or jsonl for programs.")] = Form.table,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write there instead of to stdout.")] = None,
    draw: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write each picture there with the sentence below it.")
    ] = None,
    device: terminal.Device = None,
) -> None:
    """Describe pictures in sentences.

    '(not sure)' stands before those that are more likely wrong. 'neocog index FOLDER --captions auto' writes the
    sentences into a library, and 'neocog train TABLE --task caption' learns from your own.
    Exit status 1 means that some picture could not be read; all others are in the output.
    """
    with terminal.work():
        from neocog.fit import captioning

        trained = captioning.captioner(run)
        answers.check_form(trained.task, form.value, out, masks=False)
        places = answers.Places(draw, ".jpg", inputs) if draw else None
        found = captioning.captions(
            terminal.picture_paths(inputs), trained, n=n, beam=beam, temperature=temperature, first=first, seed=seed,
            device=device,
        )  # fmt: skip
    unread = answers.write_answers(found, trained.task, form.value, out, drawn=places)
    if unread:
        terminal.say(f"{counted(unread)} could not be read; the reasons are in the output")
        raise typer.Exit(1)
