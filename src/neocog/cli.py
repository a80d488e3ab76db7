"""The commands. Each imports what it needs inside itself and calls a function that Python users call too.

Exit status: 0 fine; 1 it ran, but found or met a failure; 2 wrong usage. Answers go to stdout, all else to stderr.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from neocog import __version__, answers, cli_library, cli_nets, cli_upkeep, terminal
from neocog.errors import UsageError
from neocog.records import counted

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


class Form(StrEnum):
    """How predictions are written."""

    table = "table"
    csv = "csv"
    jsonl = "jsonl"


class SplitName(StrEnum):
    """The parts of a data set."""

    train = "train"
    val = "val"
    test = "test"


class Regime(StrEnum):
    """What of a pretrained net is trained."""

    features = "features"
    top = "top"
    all = "all"


class Head(StrEnum):
    """What is learned on fixed features."""

    softmax = "softmax"
    linear = "linear"
    svm = "svm"


_DATA_HELP = (
    "A folder with a folder for each class, a manifest (.csv .tsv .jsonl .parquet), tar shards, "
    "cifar10, cifar100, mnist, fashion_mnist, digits, drawn, or library:LIB (what a library was taught)."
)
_RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as 'neocog train' writes it.")]
_DataArgument = Annotated[str, typer.Argument(metavar="DATA", help=_DATA_HELP)]
_Offline = Annotated[bool, typer.Option("--offline", help="Never fetch anything from the network.")]
_Columns = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="ROLE=NAME", help="Which column of a table is path, label, caption or split."),
]


def _columns(pairs: list[str] | None) -> dict[str, str] | None:
    return terminal.settings(pairs, "--column", "label=kind") if pairs else None


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


@app.command()
def train(
    data: _DataArgument,
    test: Annotated[str | None, typer.Option(metavar="DATA", help="Test pictures that live somewhere else.")] = None,
    net: Annotated[str | None, typer.Option(metavar="NAME", help="'neocog nets' lists them; default: fits.")] = None,
    recipe: Annotated[str | None, typer.Option(metavar="NAME", help="'neocog recipes' lists them.")] = None,
    epochs: Annotated[float | None, typer.Option(metavar="N", help="How often each picture is seen.")] = None,
    minutes: Annotated[float | None, typer.Option(metavar="M", help="Time for everything, instead of epochs.")] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="The same seed gives the same training.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="The run folder to write.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change one field of the recipe.")
    ] = None,
    size: Annotated[int | None, typer.Option(metavar="PIXELS", min=1, help="Height and width of the input.")] = None,
    columns: _Columns = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="WEIGHTS",
            help="Start from a run, a weights file, a net's ImageNet weights, or scratch; default: fits.",
        ),
    ] = None,
    regime: Annotated[
        Regime | None, typer.Option(help="What is trained after --from; default: chosen by the number of pictures.")
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A layer whose features a new last layer reads.")
    ] = None,
    head: Annotated[Head | None, typer.Option(help="The new last layer of --regime features.")] = None,
    folds: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Cross-validation; default: 5 where pictures are few; 1: none."),
    ] = None,
    device: terminal.Device = None,
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16; default: what is faster.")] = None,
    find_lr: Annotated[bool, typer.Option("--find-lr", help="Scan learning rates instead of training.")] = False,
    offline: _Offline = False,
    json: terminal.Json = False,
    quiet: terminal.Quiet = False,
) -> None:
    """Train a network on pictures.

    Writes a run folder with weights, log and report.
    Ctrl-C or even kill -9 loses nothing: 'neocog resume RUN' continues.
    """
    if epochs is not None and minutes is not None:
        raise UsageError("--epochs and --minutes exclude each other; give one of them")
    fields = terminal.settings(changes or [])
    for field, value in (("head", head.value if head else None), ("folds", folds)):
        if value is not None:
            fields[field] = str(value)
    if find_lr:
        with terminal.work():
            from neocog import fit

            scan = fit.find_lr(data, net=net, recipe=recipe, seed=seed, set=fields, device=device, offline=offline)
        answers.show_json(scan) if json else answers.show_scan(scan)
        return
    with terminal.resumable(lambda: out), terminal.work():
        from neocog import fit

        run = fit.train(
            data,
            test=test,
            net=net,
            recipe=recipe,
            epochs=epochs,
            minutes=minutes,
            seed=seed,
            out=out,
            set=fields,
            size=size,
            columns=_columns(columns),
            device=device,
            precision=precision,
            offline=offline,
            progress=not quiet,
            start=start,
            regime=regime.value if regime else None,
            layer=layer,
        )
    answers.show_run(run, json=json)


@app.command()
def resume(
    run: _RunArgument,
    epochs: Annotated[float | None, typer.Option(metavar="N", help="Train to this many epochs in all.")] = None,
    json: terminal.Json = False,
    quiet: terminal.Quiet = False,
) -> None:
    """Continue a training that was stopped.

    With --epochs, a finished one is trained for longer.
    """
    with terminal.resumable(lambda: run), terminal.work():
        from neocog import fit

        result = fit.resume(run, epochs=epochs, progress=not quiet)
    answers.show_run(result, json=json)


@app.command()
def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders; several make an ensemble.")],
    data: _DataArgument,
    split: Annotated[SplitName | None, typer.Option(help="The part of DATA; default: test if there is one.")] = None,
    device: terminal.Device = None,
    json: terminal.Json = False,
) -> None:
    """Measure runs on pictures with labels.

    Each alone, and the average of their predicted probabilities.
    """
    with terminal.work():
        from neocog import fit

        result = fit.evaluate(list(runs), data, split=split.value if split else None, device=device)
    answers.show_json(result) if json else answers.show_evaluation(result)


@app.command()
def predict(
    run: _RunArgument,
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
        unread = answers.write_predictions(predictions, stream, form.value, trained.classes, top)
    if unread:
        terminal.say(f"{counted(unread)} could not be read; the reasons are in the output")
        raise typer.Exit(1)


@app.command()
def check(
    data: _DataArgument,
    run: Annotated[Path | None, typer.Option(metavar="RUN", help="A run: also finds suspicious labels.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with thumbnails.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the JSON document to a file.")] = None,
    columns: _Columns = None,
    offline: _Offline = False,
    json: terminal.Json = False,
    quiet: terminal.Quiet = False,
) -> None:
    """Look pictures over before any training.

    Counts, unreadable files, duplicates, leaks between splits, imbalance, suspicious labels.
    Exit status 1 means that something was found that should be put right.
    """
    with terminal.work():
        from neocog.data import open_source
        from neocog.data.check import check as look_over
        from neocog.data.check import check_page

        source = open_source(data, offline=offline, columns=_columns(columns))
        doubts = None
        if run:
            from neocog.fit.suspects import suspicious_labels

            doubts = suspicious_labels(run, source)
        with terminal.bar("looking the pictures over", quiet=quiet) as progress:
            found = look_over(source, progress=progress, suspicious=doubts)
        if html:
            with terminal.output(html) as page:
                page.write(check_page(found, source))
        if out:
            with terminal.output(out) as file:
                file.write(answers.json_text(found) + "\n")
    answers.show_json(found) if json else answers.show_check(found)
    raise typer.Exit(found.exit_status)


cli_nets.add_to(app)
cli_library.add_to(app)
app.add_typer(cli_upkeep.upkeep, name="library")


@app.command()
def recipes(json: terminal.Json = False) -> None:
    """List the recipes: how a training goes.

    'neocog train --set FIELD=VALUE' changes one field of a recipe.
    """
    with terminal.work():
        from neocog.fit.recipes import RECIPES
    answers.show_json(list(RECIPES.values())) if json else answers.show_recipes(RECIPES.values())


@app.command()
def transferability(
    data: _DataArgument,
    net: Annotated[str | None, typer.Option(metavar="NAME", help="'neocog nets' lists them; default: fits.")] = None,
    depths: Annotated[
        str | None, typer.Option(metavar="N,N", help="How many layers are transferred; default: some of each depth.")
    ] = None,
    kinds: Annotated[str, typer.Option(metavar="KIND,KIND", help="B from B or A; + is tuned.")] = "BnB,BnB+,AnB,AnB+",
    recipe: Annotated[str | None, typer.Option(metavar="NAME", help="'neocog recipes' lists them.")] = None,
    epochs: Annotated[float | None, typer.Option(metavar="N", help="Of every training.")] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="The same seed gives the same result.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where table, plot and page go.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change one field of the recipe.")
    ] = None,
    size: Annotated[int | None, typer.Option(metavar="PIXELS", min=1, help="Height and width of the input.")] = None,
    device: terminal.Device = None,
    offline: _Offline = False,
    json: terminal.Json = False,
    quiet: terminal.Quiet = False,
) -> None:
    """How well do the first n layers serve other classes? Repeats Yosinski et al. 2014 on your pictures.

    Splits the classes in two, trains a net on each half, and moves its first n layers, frozen or tuned, to the other.
    A run that was stopped continues with the same --out.
    """
    with terminal.resumable(lambda: None), terminal.work():
        from neocog.fit.transferability import transferability as measure

        result = measure(
            data,
            net=net,
            depths=terminal.numbers(depths, "--depths") if depths else None,
            kinds=tuple(kind.strip() for kind in kinds.split(",")),
            recipe=recipe,
            epochs=epochs,
            set=terminal.settings(changes or []),
            size=size,
            seed=seed,
            device=device,
            offline=offline,
            out=out,
            progress=not quiet,
        )
    if json:
        answers.show_json(result)
        return
    answers.show_table(answers.by_depth(result["rows"]))
    for half, accuracy in result["base"].items():
        terminal.echo(f"trained on {half} alone: {answers.number(accuracy)}")
    terminal.echo(f"page: {result['page']}")


@app.command()
def demo(
    data: Annotated[str | None, typer.Argument(metavar="[DATA]", help=_DATA_HELP)] = None,
    minutes: Annotated[float | None, typer.Option(metavar="M", help="How long each data set takes.")] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the run folders go.")] = Path("runs"),
    offline: _Offline = False,
    quiet: terminal.Quiet = False,
) -> None:
    """The whole way once, on built-in pictures or on yours.

    Looks the pictures over, trains, measures, predicts.
    """
    with terminal.resumable(lambda: None):
        from neocog.demo import demo as show

        show(data, minutes=minutes, out=out, offline=offline, progress=not quiet)
