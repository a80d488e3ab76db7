"""The command that learns to search by sentence from a user's own captions: learn-sentences."""

from __future__ import annotations

from typing import Annotated

import typer

from neocog.cli import terminal, write
from neocog.cli.library import LibraryFirst, annotate, open_library
from neocog.errors import UsageError
from neocog.records import counted


def add_to(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("learn-sentences")(learn_sentences)


def learn_sentences(
    library: LibraryFirst,
    captions: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE", help="First read these captions into the library (columns path, caption)."),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(metavar="FOLDER|FILE|NAME", help="Search with these CLIP weights, or those of the hub, instead."),
    ] = None,
    epochs: Annotated[float, typer.Option(metavar="N", min=0.1, help="How often every picture is shown.")] = 8.0,
    seed: Annotated[int, typer.Option(metavar="N", help="Of everything random.")] = 0,
    forget: Annotated[bool, typer.Option("--forget", help="Remove what was learned instead.")] = False,
    json: terminal.Json = False,
    quiet: terminal.Quiet = False,
) -> None:
    """Learn to search by sentence from the captions of a library's pictures.

    It begins with the sentence space that comes with neocog. A fifth of the pictures is held out to say what was
    gained; a new space that does not find clearly more there is not used. With --clip nothing is learned: the pictures
    are looked at with CLIP's net, which can be stopped and run again.
    """
    if sum(map(bool, (forget, captions, clip))) > 1:
        raise UsageError("--forget, --captions and --clip exclude each other; give one of them")
    say = (lambda text: None) if quiet else terminal.say
    with terminal.work():
        opened = open_library(library)
        if forget:
            gone = opened.forget_sentences()
        elif clip:
            with terminal.bar("indexing", quiet=quiet) as progress:
                report = opened.learn_clip(clip, progress=progress, say=say, wait=86400.0)
        else:
            annotate(opened, captions or ())
            learned = opened.learn_sentences(epochs=epochs, seed=seed, progress=not quiet, say=say)
    if forget:
        said = "its own sentence space is removed" if gone else "it has no sentence space of its own"
        terminal.echo(f"{opened.folder}: {said}; the one that comes with neocog is used")
        return
    if json:
        write.show_json({"library": opened.folder, **vars(report if clip else learned)})
        return
    if clip:
        terminal.echo(f"{report}; sentences are found with {clip} from now on")
        for note in report.notes:
            terminal.say(f"note: {note}")
        return
    before, after = (f"{100 * one[0]:.1f} and {100 * one[1]:.1f} %" for one in (learned.before, learned.after))
    terminal.echo(
        f"learned from {counted(learned.captions, 'caption')} of {counted(learned.pictures)}; recall@10 from sentence "
        f"to picture and from picture to sentence, of {learned.held_out:,} others: before {before}, after {after}"
    )
    terminal.echo(
        "the new space is used from now on"
        if learned.kept
        else "no gain beyond its standard error, so the old space stays in use"
    )
