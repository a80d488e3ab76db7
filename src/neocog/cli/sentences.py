"""The commands about sentences: caption, summarise, learn-sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neocog.cli import answers, terminal, write
from neocog.cli.library import LibraryFirst, annotate, open_library
from neocog.cli.predict import Form
from neocog.errors import UsageError
from neocog.records import counted


def caption(
    inputs: terminal.Pictures,
    run: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="A run of the task caption; default: the model that comes with neocog."),
    ] = None,
    n: Annotated[int, typer.Option("-n", metavar="N", min=1, help="Sentences of each picture (--format jsonl).")] = 1,
    beam: Annotated[int, typer.Option(metavar="K", min=1, help="Sentences that are followed at a time.")] = 5,
    temperature: Annotated[
        float, typer.Option(metavar="T", min=0.0, help="Above 0: by chance, the more freely the higher; 1 is usual.")
    ] = 0.0,
    first: Annotated[str, typer.Option(metavar="WORDS", help="Words that each sentence begins with.")] = "",
    seed: Annotated[int, typer.Option(help="Of chance, with --temperature.")] = 0,
    form: Annotated[Form, typer.Option("--format", help="A table for people, csv or jsonl for programs.")] = "table",
    out: terminal.FileOut = None,
    draw: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write each picture there with the sentence below it.")
    ] = None,
    device: terminal.Device = None,
) -> None:
    """Describe pictures in sentences.

    '(not sure)' stands before those that are more likely wrong. 'neocog index FOLDER --captions auto' writes the
    sentences into a library, and 'neocog train TABLE --task caption' learns from your own.
    Exit status 1 means that some picture could not be read; all others are in the output.
    """
    with terminal.work():
        from neocog.fit import captioning

        trained = captioning.captioner(run)
        answers.check_form(trained.task, form, out, masks=False)
        places = answers.Places(draw, ".jpg", inputs) if draw else None
        found = captioning.captions(
            terminal.picture_paths(inputs), trained, n=n, beam=beam, temperature=temperature, first=first, seed=seed,
            device=device,
        )  # fmt: skip
    unread = answers.write_answers(found, trained.task, form, out, drawn=places)
    if unread:
        terminal.say(f"{counted(unread)} could not be read; the reasons are in the output")
        raise typer.Exit(1)


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
                f"{name}: {counted(one.unread, f'sentence of {len(one.sentences)}', 'stands')} behind the last word "
                "that the net reads; train with --input-option longest=N for longer texts"
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
