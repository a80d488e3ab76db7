"""The commands about trainings: check, train, resume, evaluate, tasks, recipes, transferability."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from neocog.cli import terminal, write
from neocog.cli.subject import value_of
from neocog.errors import UsageError


def check(
    data: terminal.DataArgument,
    labels: Annotated[
        str | None,
        typer.Option(metavar="auto|RUN", help="Also find labels that are probably wrong, by other pictures or a run."),
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with thumbnails.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the JSON document to a file.")] = None,
    columns: terminal.Columns = None,
    offline: terminal.Offline = False,
    json: terminal.Json = False,
    quiet: terminal.Quiet = False,
) -> None:
    """Check pictures before any training.

    Counts, unreadable files, duplicates, leaks between splits, imbalance, suspicious labels.
    Exit status 1 means that something should be corrected.
    """
    with terminal.work():
        from neocog.data import open_source
        from neocog.data.check import check as look_over
        from neocog.data.check_page import check_page

        source = open_source(data, offline=offline, columns=terminal.columns(columns))
        judge: dict[str, Any] = {}
        if labels:
            from neocog.fit.suspects import judged

            said = judged(labels, source)
            judge = {"suspicious": said.suspicions, "noise": said.noise}
        with terminal.bar("checking the pictures", quiet=quiet) as progress:
            found = look_over(source, progress=progress, **judge)
        if html:
            with terminal.output(html) as page:
                page.write(check_page(found, source))
        if out:
            with terminal.output(out) as file:
                file.write(write.json_text(found) + "\n")
    write.show_json(found) if json else write.show_check(found)
    raise typer.Exit(found.exit_status)


def train(
    data: terminal.DataArgument,
    test: terminal.Test = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What to learn; 'neocog tasks' lists the tasks; default: by the annotations."
        ),
    ] = None,
    task_options: Annotated[
        list[str] | None, typer.Option("--task-option", metavar="KEY=VALUE", help="Change one option of the task.")
    ] = None,
    from_text: Annotated[
        bool, typer.Option("--from-text", help="Of the task tags: the words of captions are the tags.")
    ] = False,
    net: terminal.NetName = None,
    net_options: Annotated[
        list[str] | None, typer.Option("--net-option", metavar="KEY=VALUE", help="Change one option of the net.")
    ] = None,
    input_options: Annotated[
        list[str] | None,
        typer.Option(
            "--input-option", metavar="KEY=VALUE", help="How texts, sounds or clips are read: tokens=subwords."
        ),
    ] = None,
    recipe: terminal.RecipeName = None,
    epochs: Annotated[float | None, typer.Option(metavar="N", help="Passes over the training pictures.")] = None,
    minutes: Annotated[float | None, typer.Option(metavar="M", help="Total time, instead of epochs.")] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="The same seed gives the same training.")] = 0,
    out: terminal.RunOut = None,
    changes: terminal.Changes = None,
    size: terminal.Size = None,
    columns: terminal.Columns = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="WEIGHTS",
            help="Start from a run, a weights file, a net's ImageNet weights, or scratch; default: ImageNet weights "
            "for photographs.",
        ),
    ] = None,
    regime: Annotated[
        Literal["features", "top", "all"] | None,
        typer.Option(help="What is trained after --from; default: by the number of pictures."),
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A layer whose features the new last layer reads.")
    ] = None,
    head: Annotated[
        Literal["softmax", "linear", "svm"] | None, typer.Option(help="The new last layer of --regime features.")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Cross-validation; default: 5 if there are few pictures; 1: none."),
    ] = None,
    noisy: Annotated[
        Literal["early", "coteach", "correct", "bootstrap", "bootstrap-soft"] | None,
        typer.Option(help="Many labels may be wrong: do not learn them by heart. --noisy alone is early."),
    ] = None,
    teachers: Annotated[
        list[Path] | None,
        typer.Option("--teacher", metavar="RUN", help="Learn from a run's answers, too; repeat it for several."),
    ] = None,
    unlabelled: Annotated[
        str | None, typer.Option(metavar="DATA", help="Learn from pictures without labels, too.")
    ] = None,
    device: terminal.Device = None,
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16; default: the faster one.")] = None,
    find_lr: Annotated[bool, typer.Option("--find-lr", help="Scan learning rates instead of training.")] = False,
    offline: terminal.Offline = False,
    json: terminal.Json = False,
    quiet: terminal.Quiet = False,
) -> None:
    """Train a network on pictures: labels, tags, numbers, boxes, points, regions or twins, as --task says.

    Writes a run folder with weights, log and report.
    Ctrl-C or even kill -9 loses nothing: 'neocog resume RUN' continues.
    """
    if epochs is not None and minutes is not None:
        raise UsageError("--epochs and --minutes exclude each other; give one of them")
    fields = terminal.settings(changes or [])
    chosen = terminal.settings(task_options or [], "--task-option", "loss=triplet")
    if from_text:
        task, chosen = task or "tags", {"from_text": "auto", **chosen}
    of_net = {k: value_of(v) for k, v in terminal.settings(net_options or [], "--net-option", "dropout=0.5").items()}
    of_input = terminal.settings(input_options or [], "--input-option", "tokens=subwords")
    for field, value in (("head", head), ("folds", folds)):
        if value is not None:
            fields[field] = str(value)
    if find_lr and (teachers or unlabelled or noisy == "coteach"):
        raise UsageError("--find-lr scans one net on labels alone; omit --teacher, --unlabelled and --noisy coteach")
    common: dict[str, Any] = {
        "task": task, "task_options": chosen, "net": net, "recipe": recipe, "seed": seed, "set": fields, "size": size,
        "columns": terminal.columns(columns), "device": device, "precision": precision, "offline": offline,
        "start": start, "regime": regime, "progress": not quiet,
    }  # fmt: skip
    if find_lr:
        fields |= {"noisy": noisy} if noisy else {}
        with terminal.work():
            from neocog import fit

            scan = fit.find_lr(data, **common)
        write.show_json(scan) if json else write.show_scan(scan)
        return
    with terminal.resumable(lambda: out), terminal.work():
        from neocog import fit

        run = fit.train(
            data, test=test, net_options=of_net, input_options=of_input, epochs=epochs, minutes=minutes, out=out,
            layer=layer, noisy=noisy or False, teachers=teachers or (), unlabelled=unlabelled, **common,
        )  # fmt: skip
    write.show_run(run, json=json)


def resume(
    run: terminal.RunArgument,
    epochs: Annotated[float | None, typer.Option(metavar="N", help="New total number of epochs.")] = None,
    json: terminal.Json = False,
    quiet: terminal.Quiet = False,
) -> None:
    """Continue a training that was stopped.

    With --epochs, a finished one is trained for longer.
    """
    with terminal.resumable(lambda: run), terminal.work():
        from neocog import fit

        result = fit.resume(run, epochs=epochs, progress=not quiet)
    write.show_run(result, json=json)


def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders; several make an ensemble.")],
    data: terminal.DataArgument,
    split: Annotated[
        Literal["train", "val", "test"] | None, typer.Option(help="The split of DATA; default: test if there is one.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page: what each of the runs adds.")] = None,
    device: terminal.Device = None,
    json: terminal.Json = False,
) -> None:
    """Measure runs on annotated pictures.

    Each run alone; for labels, also the average of their probabilities, and what each run adds to it.
    """
    with terminal.work():
        from neocog import export, fit
        from neocog.fit.ensembles import ensemble_page

        loaded = [export.load(run) for run in runs]
        if html and (len(loaded) < 2 or not loaded[0].task.classifies):
            raise UsageError("--html shows what each run adds to their average: give several runs of the task label")
        result = fit.evaluate(loaded, data, split=split, device=device)
        if html:
            with terminal.output(html) as page:
                page.write(ensemble_page(result))
    write.show_json(result) if json else write.show_evaluation(result)


def tasks(json: terminal.Json = False) -> None:
    """List the tasks: the questions that a net can learn to answer.

    'neocog train DATA --task NAME' asks; --task-option KEY=VALUE changes one option.
    """
    with terminal.work():
        from neocog.tasks import find, names

        every = [find(name) for name in names()]
    write.show_json([write.task_facts(one) for one in every]) if json else write.show_tasks(every)


def recipes(json: terminal.Json = False) -> None:
    """List the recipes: the settings of a training.

    'neocog train --set FIELD=VALUE' changes one field of a recipe.
    """
    with terminal.work():
        from neocog.fit.recipes import RECIPES
    write.show_json(list(RECIPES.values())) if json else write.show_recipes(RECIPES.values())


def transferability(
    data: terminal.DataArgument,
    net: terminal.NetName = None,
    depths: Annotated[
        str | None, typer.Option(metavar="N,N", help="How many layers are transferred; default: several depths.")
    ] = None,
    kinds: Annotated[str, typer.Option(metavar="KIND,KIND", help="B from B or A; + is tuned.")] = "BnB,BnB+,AnB,AnB+",
    recipe: terminal.RecipeName = None,
    epochs: Annotated[float | None, typer.Option(metavar="N", help="Epochs of every training.")] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="The same seed gives the same result.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder for table, plot and page.")] = None,
    changes: terminal.Changes = None,
    size: terminal.Size = None,
    device: terminal.Device = None,
    offline: terminal.Offline = False,
    json: terminal.Json = False,
    quiet: terminal.Quiet = False,
) -> None:
    """How well do the first n layers serve other classes? Repeats Yosinski et al. 2014 on your pictures.

    Splits the classes in two, trains a net on each half, and moves its first n layers, frozen or tuned, to the other.
    A run that was stopped continues with the same --out.
    """
    with terminal.resumable(lambda: out, "the same command with --out {}"), terminal.work():
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
        write.show_json(result)
        return
    write.show_table(write.by_depth(result["rows"]))
    for half, accuracy in result["base"].items():
        terminal.echo(f"trained on {half} alone: {write.number(accuracy)}")
    terminal.echo(f"page: {result['page']}")
