"""The command that finds the sentences which carry a text's meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neocog.cli import terminal, write
from neocog.errors import UsageError


def add_to(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(summarise)


def summarise(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="[RUN] TEXTS...", help="Text files; before them, if there is one, a run on texts."),
    ],
    sentences: Annotated[int, typer.Option(metavar="N", min=1, help="How many sentences are kept of each text.")] = 5,
    what: Annotated[
        str | None, typer.Option(metavar="CLASS", help="With a run: what the sentences speak for; default: its answer.")
    ] = None,
    whole: Annotated[
        bool, typer.Option("--all", help="Print every sentence, with * before those that are kept.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the texts there with the kept sentences marked.")
    ] = None,
    json: terminal.Json = False,
) -> None:
    """Keep the sentences that carry a text's meaning.

    Without a run, those nearest to the whole in the sentence space that comes with neocog, or in that of a run of the
    task match-texts. With a run that answers about texts, those that speak most for its answer.
    """
    with terminal.work():
        from neocog import export
        from neocog.fit.summary import as_page, summarise

        run = export.load(Path(inputs[0])) if Path(inputs[0]).is_dir() else None
        files = [Path(one) for one in inputs[run is not None :]]
        if missing := [str(one) for one in files if not one.is_file()]:
            raise UsageError(f"expected text files, after a run if there is one; {missing[0]} is none")
        if not files:
            raise UsageError(f"expected text files after the run {inputs[0]}")
        terminal.not_over(html, files, "--html")
        found = [(str(path), summarise(path, run, sentences=sentences, what=what)) for path in files]
        if html:
            from neocog.files import write_atomically

            html.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(html, as_page(found).encode())
            terminal.say(f"wrote {html}")
    for name, one in found:
        if one.unread:
            terminal.say(
                f"{name}: {one.unread} of {len(one.sentences)} sentences stand behind the last word that the net "
                "reads; train with --input-option longest=N for longer texts"
            )
    if json:
        write.show_json({"texts": [{"file": name, **one.to_json()} for name, one in found]})
        return
    for name, one in found:
        if len(found) > 1:
            terminal.echo(f"{name}:")
        for k in range(len(one.sentences)) if whole else one.kept:
            mark = ("* " if k in one.kept else "  ") if whole else ""
            terminal.echo(f"{mark}{k + 1:>4}  {one.scores[k]:+.3f}  {' '.join(one.sentences[k].split())}")
