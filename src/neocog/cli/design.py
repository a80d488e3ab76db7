"""What to compare a net with: design searches for a smaller one, baseline does without one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from neocog.cli import terminal, write


def design(
    data: terminal.DataArgument,
    max_macs: Annotated[
        str | None, typer.Option(metavar="N", help="At most this many multiply-adds for a picture, such as 20M.")
    ] = None,
    max_params: Annotated[
        str | None, typer.Option(metavar="N", help="At most this many parameters, such as 1M.")
    ] = None,
    minutes: Annotated[float, typer.Option(metavar="M", help="How long to search.")] = 10.0,
    search: Annotated[
        Literal["tpe", "random"], typer.Option(help="How candidates are drawn: by what was judged so far, or not.")
    ] = "tpe",
    task: Annotated[str | None, typer.Option(metavar="NAME", help="What to learn, as for 'neocog train'.")] = None,
    recipe: Annotated[str | None, typer.Option(metavar="NAME", help="How candidates are trained.")] = None,
    changes: terminal.Changes = None,
    size: terminal.Size = None,
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
            search=search,
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


def baseline(
    data: terminal.DataArgument,
    test: terminal.Test = None,
    kinds: Annotated[
        str, typer.Option(metavar="KIND,KIND", help="Descriptors: colour, hog, lbp, sift.")
    ] = "colour,hog,lbp,sift",
    encoding: Annotated[
        str, typer.Option(metavar="NAME", help="Of SIFT: fisher, vlad, or words (on a spatial pyramid).")
    ] = "fisher",
    head: Annotated[
        str, typer.Option(metavar="NAME", help="The linear classifier: softmax, linear or svm.")
    ] = "softmax",
    size: terminal.Size = None,
    columns: terminal.Columns = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Of the splits; as 'neocog train' makes them.")] = 0,
    out: terminal.RunOut = None,
    device: terminal.Device = None,
    offline: terminal.Offline = False,
    json: terminal.Json = False,
    quiet: terminal.Quiet = False,
) -> None:
    """What engineered descriptors reach: the pipeline that convolutional nets replaced, on the splits that train makes.

    Each kind of descriptors alone, all joined, and their probabilities averaged, with weights from held-out pictures
    (late fusion). The average is written as a run, for predict, evaluate and compare.
    """
    with terminal.resumable(lambda: out), terminal.work():
        from neocog import fit
        from neocog.fit.run import records

        run = fit.train(
            data,
            test=test,
            task="label",
            net="descriptors",
            net_options={"kinds": kinds, "encoding": encoding, "fusion": "late"},
            set={"head": head},
            size=size,
            columns=terminal.columns(columns),
            seed=seed,
            out=out,
            device=device,
            offline=offline,
            progress=not quiet,
        )
        rows = records(run.folder, "parts")[-1]["rows"]
    if json:
        write.show_json({"run": run.folder, "metrics": run.metrics, "parts": rows})
        return
    words = {"val": "validation accuracy", "test": "test accuracy"}
    write.show_table(
        {"descriptors": row["part"], "features": row["features"], "weight": round(row["share"], 2)}
        | {word: run.task.shown(row[split]) if split in row else "" for split, word in words.items()}
        for row in rows
    )
    write.show_run(run, json=False)
