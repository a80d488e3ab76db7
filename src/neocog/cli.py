"""The commands. Each imports what it needs inside itself and calls a function that Python users call too.

Exit status: 0 fine; 1 it ran, but found or met a failure; 2 wrong usage. Answers go to stdout, all else to stderr.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from neocog import __version__, answers, terminal
from neocog.errors import UsageError

app = typer.Typer(
    name="neocog",
    cls=terminal.Group,
    help="Train a convolutional network on your own pictures, and understand what you trained.",
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


_DATA_HELP = (
    "A folder with a folder for each class, a manifest (.csv .tsv .jsonl .parquet), tar shards, "
    "or cifar10, cifar100, mnist, fashion_mnist, digits, drawn."
)
_RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as 'neocog train' writes it.")]
_DataArgument = Annotated[str, typer.Argument(metavar="DATA", help=_DATA_HELP)]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; only the result.")]
_Offline = Annotated[bool, typer.Option("--offline", help="Never fetch anything from the network.")]
_Device = Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, mps; default: the fastest.")]
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
        typer.echo(f"neocog {__version__}")
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
    minutes: Annotated[float | None, typer.Option(metavar="M", help="Train for a time, instead of epochs.")] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="The same seed gives the same training.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="The run folder to write.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change one field of the recipe.")
    ] = None,
    size: Annotated[int | None, typer.Option(metavar="PIXELS", min=1, help="Height and width of the input.")] = None,
    columns: _Columns = None,
    device: _Device = None,
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16; default: what is faster.")] = None,
    find_lr: Annotated[bool, typer.Option("--find-lr", help="Scan learning rates instead of training.")] = False,
    offline: _Offline = False,
    json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Train a network on pictures.

    Writes a run folder with weights, log and report.
    Ctrl-C or even kill -9 loses nothing: 'neocog resume RUN' continues.
    """
    if epochs is not None and minutes is not None:
        raise UsageError("--epochs and --minutes exclude each other; give one of them")
    fields = terminal.settings(changes or [])
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
        )
    answers.show_run(run, json=json)


@app.command()
def resume(
    run: _RunArgument,
    epochs: Annotated[float | None, typer.Option(metavar="N", help="Train to this many epochs in all.")] = None,
    json: _Json = False,
    quiet: _Quiet = False,
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
    device: _Device = None,
    json: _Json = False,
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
    device: _Device = None,
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
        terminal.say(f"{unread} picture{'s' if unread > 1 else ''} could not be read; the reasons are in the output")
        raise typer.Exit(1)


@app.command()
def check(
    data: _DataArgument,
    run: Annotated[Path | None, typer.Option(metavar="RUN", help="A run: also finds suspicious labels.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with thumbnails.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the JSON document to a file.")] = None,
    columns: _Columns = None,
    offline: _Offline = False,
    json: _Json = False,
    quiet: _Quiet = False,
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


@app.command()
def nets(
    family: Annotated[str | None, typer.Option(metavar="NAME", help="Only the nets of one family.")] = None,
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="Only nets that label, segment, reconstruct, embed or control.")
    ] = None,
    max_macs: Annotated[str | None, typer.Option(metavar="N", help="At most so many multiply-adds: 600M.")] = None,
    max_params: Annotated[str | None, typer.Option(metavar="N", help="At most so many parameters: 5M.")] = None,
    since: Annotated[int | None, typer.Option(metavar="YEAR", help="Published in this year or later.")] = None,
    sort: Annotated[str, typer.Option(metavar="COLUMN", help="name, year, params or macs.")] = "name",
    json: _Json = False,
) -> None:
    """List the networks, with their published figures."""
    with terminal.work():
        from neocog import nets, subject

        facts = everything = [nets.facts(name) for name in nets.names(family, task)]
        if max_macs is not None:
            facts = [f for f in facts if f.macs <= subject.amount(max_macs, "--max-macs")]
        if max_params is not None:
            facts = [f for f in facts if f.params <= subject.amount(max_params, "--max-params")]
        facts = [f for f in facts if since is None or f.year >= since]
        if sort not in ("name", "year", "params", "macs"):
            raise UsageError(f"--sort expects name, year, params or macs; got {sort!r}")
        if sort != "name":
            facts.sort(key=lambda f: getattr(f, sort))
        if not facts:
            least = min(everything, key=lambda f: f.macs)
            terminal.say(f"none fits; {least.name} needs least: {least.macs:,} MACs, {least.params:,} parameters")
    answers.show_json(facts) if json else answers.show_nets(facts)


_NET_HELP = "A net ('neocog nets' lists them), a run folder, or any module: file.py:Name or package.module:Name."
_Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="An option of the net, or an argument.")
]
_Input = Annotated[
    str | None, typer.Option("--input", metavar="SHAPE", help="3x224x224, or 224; default: the usual input.")
]


@app.command()
def anatomy(
    net: Annotated[str, typer.Argument(metavar="NET", help=_NET_HELP)],
    input: _Input = None,
    options: _Set = None,
    depth: Annotated[
        int | None, typer.Option(metavar="N", help="Open so many levels of modules; default: 2; 0: all.")
    ] = 2,
    advice: Annotated[bool, typer.Option("--advice", help="What to improve, and what it would save.")] = False,
    time: Annotated[bool, typer.Option("--time", help="Run it, and time every layer on this machine.")] = False,
    effective: Annotated[
        bool, typer.Option("--effective", help="Measure the effective receptive field, with fresh weights.")
    ] = False,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the net, to scale.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page: drawing and table.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one line for each layer.")] = None,
    json: _Json = False,
) -> None:
    """Show what a network is made of: shapes, parameters, multiply-adds, memory and receptive fields."""
    with terminal.work():
        from neocog import anatomy as room
        from neocog import subject

        found = subject.load(net, input, terminal.settings(options or [], example="classes=10"))
        given = subject.usable_input(found)
        traced = room.trace(found.module, given, name=found.name)
        items = room.advise(traced, found.module) if advice else []
        for path, text in ((svg, room.to_svg), (html, room.to_html), (csv, room.to_csv)):
            if path:
                with terminal.output(path) as file:
                    file.write(text(traced))
                terminal.say(f"wrote {path}")
        measured: dict[str, object] = {}
        if time or effective:
            real = subject.with_numbers(found)
            if time:
                measured["times"] = room.time_layers(real, given)
            if effective:
                measured["effective"] = room.effective_receptive_field(real, subject.picture_shape(found))
    if json:
        document = {**traced.as_dict(), "misfits": room.misfits(traced)}
        answers.show_json({**document, **({"advice": items} if advice else {}), **measured})
        return
    if not advice and not measured:
        answers.show_anatomy(traced, depth or None)
        answers.show_misfits(room.misfits(traced))
    if advice:
        answers.show_advice(items, traced)
    answers.show_measured(traced, **measured)  # type: ignore[arg-type]


@app.command()
def compare(
    nets: Annotated[list[str], typer.Argument(metavar="NET...", help=_NET_HELP)],
    input: _Input = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Plot accuracy against multiply-adds.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page: plot and table.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the table.")] = None,
    json: _Json = False,
) -> None:
    """Set networks side by side: size, cost, memory, receptive field and published accuracy."""
    with terminal.work():
        from neocog import anatomy as room
        from neocog import subject

        found = [subject.load(name, input) for name in dict.fromkeys(nets)]
        traced = {s.name: room.trace(s.module, subject.usable_input(s), name=s.name) for s in found}
        result = room.compare(
            traced,
            {s.name: s.facts.accuracy for s in found if s.facts},
            {s.name: s.facts.year for s in found if s.facts},
        )
        for path, text in ((svg, result.to_svg), (html, result.to_html), (csv, result.to_csv)):
            if path:
                with terminal.output(path) as file:
                    file.write(text())
                terminal.say(f"wrote {path}")
    answers.show_json(result.as_dict()) if json else answers.show_table(result.rows())


@app.command()
def recipes(json: _Json = False) -> None:
    """List the recipes: how a training goes.

    'neocog train --set FIELD=VALUE' changes one field of a recipe.
    """
    with terminal.work():
        from neocog.fit.recipes import RECIPES
    answers.show_json(list(RECIPES.values())) if json else answers.show_recipes(RECIPES.values())


@app.command()
def demo(
    data: Annotated[str | None, typer.Argument(metavar="[DATA]", help=_DATA_HELP)] = None,
    minutes: Annotated[float | None, typer.Option(metavar="M", help="How long to train on each data set.")] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the run folders go.")] = Path("runs"),
    offline: _Offline = False,
    quiet: _Quiet = False,
) -> None:
    """The whole way once, on built-in pictures or on yours.

    Looks the pictures over, trains, measures, predicts.
    """
    with terminal.resumable(lambda: None):
        from neocog.demo import demo as show

        show(data, minutes=minutes, out=out, offline=offline, progress=not quiet)
