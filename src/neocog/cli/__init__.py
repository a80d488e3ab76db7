"""The command line. Each command imports what it needs inside itself and calls a function that Python users call too.

Exit status: 0 fine; 1 it ran, but found or met a failure; 2 wrong usage. Answers go to stdout, all else to stderr.
"""

from __future__ import annotations

from typing import Annotated

import typer

from neocog import __version__
from neocog.cli import demo, design, library, look, nets, predict, sentences, terminal, train, upkeep

__all__ = ["app", "main"]

app = typer.Typer(
    name="neocog",
    cls=terminal.Group,
    help="Train a convolutional network on your own pictures, understand it, and search your pictures with it.",
    epilog="'neocog COMMAND --help' explains a command. A first try: neocog demo",
    no_args_is_help=True,
    add_completion=False,
    # rich takes longer to load than all the rest of the help together
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line and leave with its exit status."""
    terminal.prepare()
    app(prog_name="neocog")


def _version(wanted: bool) -> None:
    if wanted:
        terminal.echo(f"neocog {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version and leave.")
    ] = False,
) -> None:
    pass


for _command in (
    train.train, train.resume, train.evaluate, train.tasks, train.recipes, train.transferability, design.design,
    design.baseline, predict.predict, predict.match, predict.sample, predict.play, sentences.caption,
    sentences.summarise, predict.export, train.check, nets.nets, nets.anatomy, nets.compare, look.look, library.index,
    library.search, library.teach, library.correct, library.describe, demo.serve, sentences.learn_sentences, demo.demo,
):  # fmt: skip
    app.command(cls={library.search: terminal.Wordy, train.train: terminal.Learning}.get(_command))(_command)
app.add_typer(upkeep.upkeep, name="library")
