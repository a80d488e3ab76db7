"""Where people begin: demo, the main job once, from pictures to predictions; and serve, the page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neocog.cli import terminal
from neocog.cli.terminal import echo
from neocog.records import counted

if TYPE_CHECKING:
    from neocog.fit import Run

# Real handwritten digits, and pictures that neocog draws itself: both are there without a network.
BUILT_IN = ("digits", "drawn:n=2000,size=32")
MINUTES = 1.0  # for each of the two built-in sets
MINUTES_YOURS = 3.0


def demo(
    data: Annotated[str | None, typer.Argument(metavar="[DATA]", help=terminal.DATA_HELP)] = None,
    minutes: Annotated[float | None, typer.Option(metavar="M", help="Training time for each data set.")] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the run folders.")] = Path("runs"),
    offline: terminal.Offline = False,
    quiet: terminal.Quiet = False,
) -> None:
    """Go through everything once, on built-in pictures or on yours.

    Checks the pictures, trains, evaluates, predicts.
    """
    each = minutes if minutes is not None else MINUTES if data is None else MINUTES_YOURS
    with terminal.resumable(lambda: None):
        runs = [_one(spec, each, out, offline, not quiet) for spec in ([data] if data else BUILT_IN)]
    echo("")
    echo("Reports, each one file for the browser:")
    for run in runs:
        echo(f"  {run.report}")
    echo("Next, with pictures of your own, in a folder with a folder for each class:")
    echo("  neocog check photos/    neocog train photos/    neocog predict RUN new.jpg")


def _one(spec: str, minutes: float, parent: Path, offline: bool, progress: bool) -> Run:
    from neocog.data import open_source
    from neocog.data.check import check
    from neocog.fit import train
    from neocog.fit.run import free_folder, read_tensors

    source = open_source(spec, offline=offline)
    echo("")
    echo(f"{source.name}: {counted(len(source))}")
    found = check(source)
    echo(found.summary)
    run = train(
        spec, minutes=minutes, out=free_folder(f"demo-{source.name}", parent), offline=offline, progress=progress
    )
    for line in run.summary():
        echo(line)
    tested = read_tensors(run.folder / "test.safetensors")[0]["index"].tolist()
    some = tested[:: max(1, len(tested) // 5)][:5]
    echo("some of the test pictures:")
    for i, answer in zip(some, run.predict([source.read(i) for i in some], top=1), strict=True):
        truth = f", which is {source.sample(i).label}" if run.task.classifies else ""
        echo(f"  {source.key(i)}{truth}: {answer.text()}")
    return run


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
