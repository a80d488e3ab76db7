"""The commands about nets of your own: design, which searches for one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from neocog.cli import terminal, write


class Search(StrEnum):
    """How candidates are drawn."""

    tpe = "tpe"
    random = "random"


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(design)


def design(
    data: terminal.DataArgument,
    max_macs: Annotated[
        str | None, typer.Option(metavar="N", help="At most this many multiply-adds for a picture, such as 20M.")
    ] = None,
    max_params: Annotated[
        str | None, typer.Option(metavar="N", help="At most this many parameters, such as 1M.")
    ] = None,
    minutes: Annotated[float, typer.Option(metavar="M", help="How long to search.")] = 10.0,
    search: Annotated[Search, typer.Option(help="How candidates are drawn: by what was judged so far, or not.")] = (
        Search.tpe
    ),
    task: Annotated[str | None, typer.Option(metavar="NAME", help="What to learn, as for 'neocog train'.")] = None,
    recipe: Annotated[str | None, typer.Option(metavar="NAME", help="How candidates are trained.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change one field of the recipe.")
    ] = None,
    size: Annotated[int | None, typer.Option(metavar="PIXELS", min=1, help="Height and width of the input.")] = None,
    columns: terminal.Columns = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Of the search and of every training.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The folder to write; one with a search is continued.")
    ] = None,
    device: terminal.Device = None,
    offline: terminal.Offline = False,
    json: terminal.Json = False,
    quiet: terminal.Quiet = False,
) -> None:
    """Search for a net of your own: the one that learns most from your pictures within a budget.

    Writes best.json, which 'neocog train DATA --net best.json' trains fully, its drawing, and a page of all candidates.
    The same command with the same --out goes on, also in several processes at once. Needs optuna (extra "design").
    """
    with terminal.resumable(lambda: out, "the same command with --out {}"), terminal.work():
        from neocog.cli import subject
        from neocog.fit.design import design as find

        found = find(
            data,
            max_macs=None if max_macs is None else subject.amount(max_macs, "--max-macs"),
            max_params=None if max_params is None else subject.amount(max_params, "--max-params"),
            minutes=minutes,
            search=search.value,
            task=task,
            recipe=recipe,
            set=terminal.settings(changes or []),
            size=size,
            columns=terminal.columns(columns),
            seed=seed,
            device=device,
            offline=offline,
            out=out,
            progress=not quiet,
        )
    if json:
        write.show_json(found)
        return
    goal = found["goal"].replace("_", " ")
    write.show_table(
        {"candidate": row["candidate"], "steps": row["steps"], goal: round(row["value"], 4), "MACs": row["macs"],
         "parameters": row["params"], "net": row["net"]}
        for row in found["candidates"][:10]
    )  # fmt: skip
    terminal.echo(f"page: {found['page']}")
    terminal.echo(f"train it fully: neocog train {data} --net {found['net']}")
