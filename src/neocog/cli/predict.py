"""The commands that use a run: predict, match, sample, play, export."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from neocog.cli import answers, terminal, write
from neocog.errors import DataError, UsageError
from neocog.records import counted

if TYPE_CHECKING:
    from neocog.fit import Run


Form = Literal["table", "csv", "jsonl", "coco", "conll", "npy", "parquet"]  # how answers are written


def predict(
    run: terminal.AnsweringArgument,
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="PICTURES...", help="Files, folders, or - for one path a line on stdin; texts."),
    ],
    form: Annotated[
        Form,
        typer.Option(
            "--format",
            help="A table for people; for programs csv, jsonl, coco (boxes, regions, points), conll (tags of words), "
            "npy, parquet (vectors).",
        ),
    ] = "table",
    top: Annotated[int, typer.Option(metavar="K", min=1, help="How many guesses to show.")] = 5,
    out: terminal.FileOut = None,
    masks: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write a mask of each picture there, as an indexed PNG.")
    ] = None,
    draw: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write each picture there with the answer drawn on it.")
    ] = None,
    windows: Annotated[
        bool, typer.Option("--windows", help="Of long recordings: what is heard when, from second to second.")
    ] = False,
    why: Annotated[bool, typer.Option("--why", help="Of texts also the words that decided.")] = False,
    device: terminal.Device = None,
    on: terminal.On = None,
) -> None:
    """Say what is in pictures (or texts, sounds, clips): labels, tags, numbers, boxes, points, regions, vectors.

    Labels have calibrated probabilities, and 'unknown' for pictures unlike the training data.
    Places are in the file's own pixels, once it is turned upright as EXIF says.
    Exit status 1 means that some picture could not be read; all others are in the output.
    """
    if why:
        with terminal.work():
            from neocog import export

            lines = list(_explained(export.load(run), inputs, top))
        for line in lines:
            terminal.echo(line)
        return
    with contextlib.ExitStack() as until_written:
        with terminal.work():
            from neocog import export, fit

            terminal.not_over(out, inputs, "--out")
            if on and (masks or draw):
                raise UsageError("--masks and --draw are for pictures on this machine; leave out --on")
            trained = export.load(run)
            if windows and (on or masks or draw or form not in ("table", "csv", "jsonl")):
                raise UsageError("--windows gives a table of times: --format table, csv or jsonl, on this machine")
            answers.check_form(trained.task, form, out, masks=masks is not None)
            places = [answers.Places(f, end, inputs) if f else None for f, end in ((masks, ".png"), (draw, ".jpg"))]
            if masks:
                answers.write_classes(masks, trained.classes)
            if windows:
                found = fit.spot(trained, terminal.lines_for(inputs), device=device)
            elif on:
                from neocog.cluster import Cluster

                cluster = until_written.enter_context(Cluster(on, say=terminal.say))
                found = cluster.predict(run, inputs, top=top, device=device)
            else:
                given = terminal.picture_paths(inputs) if trained.reader is None else terminal.lines_for(inputs)
                found = fit.predict(trained, given, top=top, device=device, say=terminal.say)
        item = trained.kind
        unread = answers.write_answers(found, trained.task, form, out, masks=places[0], drawn=places[1], item=item)
    if unread:
        where = {"coco": "above", "npy": f"in {out and out.with_suffix('.csv')}"}.get(form, "in the output")
        terminal.say(f"{counted(unread, item)} could not be read; the reasons are {where}")
        raise typer.Exit(1)


def _explained(run: Run, given: list[str], top: int) -> Iterator[str]:
    """The answer for each text, and what decided."""
    if run.reader is None:
        raise UsageError("--why is for runs on texts; 'neocog look' explains what a net sees in pictures")
    for key, text in run.reader.inputs(terminal.lines_for(given)):
        (answer,) = run.predict([text], top=top)
        decided = "" if answer.problem else f"\n  {run.decided(text).text()}"
        yield f"{key}  {answer.problem or answer.text()}{decided}"


def match(
    run: terminal.AnsweringArgument,
    first: Annotated[str, typer.Argument(metavar="A", help="A picture; or a text, in quotes.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another picture or text.")],
    device: terminal.Device = None,
    json: terminal.Json = False,
) -> None:
    """Say whether two pictures show the same thing, or two texts say it, with a run of the task match.

    Prints the cosine of their vectors, and 'same' or 'different': the threshold was chosen on the validation split.
    Of two texts also the words that brought them near, or kept them apart.
    """
    with terminal.work():
        from neocog import export, fit

        trained: Run = export.load(run)
        if trained.reads_pairs:
            (found,) = fit.match_texts(trained, [(first, second)])
            pair = []
        elif trained.task.name != "match":
            raise UsageError(
                f"{run} was trained for the task {trained.task.name}; 'neocog match' needs a run of the task match: "
                "neocog train DATA --task match"
            )
        else:
            pair = list(fit.predict(trained, [Path(first), Path(second)], device=device))
        for answer in pair:
            if answer.problem is not None:
                raise DataError(f"{answer.key} cannot be read: {answer.problem}")
    if pair:
        cosine, least = pair[0].alike(pair[1]), pair[0].same
        document = {"cosine": cosine, "same_from": least, "same": cosine >= least}
        lines = [f"{'same' if cosine >= least else 'different'}: cosine {cosine:.4f}, same from {least:.4f}"]
    else:
        document, lines = found.to_json(), [found.text()]
        lines += ["  " + " ".join(f"{token} {part:+.3f}" for token, part in side) for side in found.words]
    write.show({"a": first, "b": second, **document}, lines, json=json)


def sample(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run of the task vae or gan.")],
    n: Annotated[int, typer.Option("--n", "-n", metavar="N", min=1, help="How many pictures.")] = 64,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="All of them on one sheet; default: samples.png, without --each."),
    ] = None,
    each: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Also each as a file of its own there.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same pictures.")] = 0,
) -> None:
    """Make new pictures, with a run of the task vae or gan."""
    with terminal.work():
        import math

        from neocog import fit
        from neocog.fit.examples import write_png
        from neocog.tasks.canvas import in_colour
        from neocog.tasks.pixels import sheet

        out = out or (None if each else Path("samples.png"))
        if out and out.suffix.lower() != ".png":
            raise UsageError(f"--out {out} has to end in .png")
        names = [Path(each or "") / f"{number:0{len(str(n - 1))}d}.png" for number in range(n)] if each else []
        if there := next((name for name in names if name.exists()), None):
            raise UsageError(f"{there} is there already; choose another folder for --each")
        made = fit.Run(run).sample(n, seed=seed)
        if out:
            write_png(out, sheet(made, math.ceil(math.sqrt(n))))
        for name, picture in zip(names, made, strict=False):
            write_png(name, in_colour(picture))
    terminal.say(f"{counted(n)}: {' and '.join(str(one) for one in (out, each) if one)}")


def play(
    run: terminal.RunArgument,
    episodes: Annotated[int, typer.Option(metavar="N", min=1, help="Games that are played.")] = 10,
    seed: Annotated[int, typer.Option(metavar="S", min=0, help="Of the first game; the others follow.")] = 0,
    gif: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the first game as a GIF.")] = None,
    look: Annotated[
        bool, typer.Option("--look", help="In the GIF (play.gif), show beside each frame what speaks for the action.")
    ] = False,
    method: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The same by a method of 'neocog look', such as gradcam; usual: occlusion."),
    ] = None,
    device: terminal.Device = None,
    json: terminal.Json = False,
) -> None:
    """Let a run of the task play play new games: their rewards, a GIF, and what the net looks at."""
    with terminal.work():
        from neocog import fit
        from neocog.look import film
        from neocog.look.playing import NEW

        trained = fit.Run(run)
        method = method or ("occlusion" if look else None)
        file = gif or (Path("play.gif") if method else None)
        if file is not None:
            made = film(trained, NEW + seed, method=method, device=device)
            terminal.say(f"wrote {made.save(file)}")
        games = list(fit.predict(trained, range(NEW + seed, NEW + seed + episodes), device=device))
    rows = [{"game": seed + k, **one.row()} for k, one in enumerate(games)]
    rewards = [one.reward for one in games]
    mean = sum(rewards) / len(rewards)
    if json:
        write.show_json({"run": str(run), "mean_reward": mean, "games": rows})
        return
    write.show_table(rows)
    terminal.echo(f"mean reward {mean:.4g} (n = {counted(len(rewards), 'game')}, {min(rewards):g} to {max(rewards):g})")


def export(
    subject: Annotated[
        str, typer.Argument(metavar="RUN|NET", help="A run folder, or a net of the zoo with its ImageNet weights.")
    ],
    to: Annotated[
        Literal["onnx", "openvino", "torch"], typer.Option(help="The format; torch is a torch.export program (.pt2).")
    ] = "onnx",
    int8: Annotated[
        bool, typer.Option("--int8", help="8-bit integers, calibrated on training pictures; for onnx and openvino.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A new folder; default: exported/NAME-FORMAT.")
    ] = None,
    pictures: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="What to compare on (and calibrate int8); default: the run's own pictures."),
    ] = None,
) -> None:
    """Write a model that runs without neocog, with what prepares pictures for it, a card, and a comparison.

    The model is compared with the run on real pictures; one that does not answer as the run does is not written.
    'neocog predict FOLDER PICTURES' uses it.
    """
    with terminal.work():
        from neocog import export as room

        made = room.export(subject, to, int8=int8, out=out, pictures=pictures, say=terminal.say)
    terminal.echo(str(made.folder))
