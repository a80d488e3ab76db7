"""The commands about libraries: index, search, teach, correct and describe; upkeep.py has `neocog library ...`.

Each imports what it needs inside itself; a search by word loads no PyTorch.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from neocog.cli import terminal, write
from neocog.data.stores import told
from neocog.errors import UsageError
from neocog.names import shown
from neocog.records import counted

if TYPE_CHECKING:
    from neocog.library import Library
    from neocog.library.changes import Report

LIBRARY_HELP = (
    "A library, a folder of pictures that has one, or its name; default: the one here, else the last one indexed."
)
LibraryOption = Annotated[str | None, typer.Option("--library", "-l", metavar="LIB", help=LIBRARY_HELP)]
LibraryFirst = Annotated[str, typer.Argument(metavar="LIB", help="A library, or a folder of pictures that has one.")]
_Top = Annotated[int, typer.Option("--top", "-n", metavar="N", min=1, help="How many to show.")]
Model = Annotated[
    str | None, typer.Option(metavar="NAME", help="Whose vectors and concepts; 'neocog library info' lists them.")
]
_Sheet = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the hits as a contact sheet (.png).")]


def open_library(named: str | None) -> Library:
    """The library that an option or argument names, or the usual one."""
    from neocog.library import Library

    _spare_pandas()
    return Library(named)


def _spare_pandas() -> None:
    """Keep pyarrow from importing pandas where that is installed, which it does to tell a Series from a list.

    That took a quarter of a cold search. No command that opens a library gives pyarrow anything of pandas.
    """
    import pyarrow

    def find_spec(name: str, *rest: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)

    finder: Any = SimpleNamespace(find_spec=find_spec)
    sys.meta_path.insert(0, finder)
    pyarrow.scalar(0)  # it tries once
    sys.meta_path.remove(finder)


# --- index and search


def index(
    folders: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FOLDER...",
            help="Folders of pictures and videos, or a video; with --on also s3://... and the like, tar shards, "
            "Parquet files. Default: those indexed before.",
        ),
    ] = None,
    library: Annotated[
        str | None, typer.Option("--library", "-l", metavar="LIB", help="Default: .neocog in the first FOLDER.")
    ] = None,
    net: Annotated[
        str | None,
        typer.Option(metavar="NAME|RUN", help="The net that makes the vectors; default: the best available."),
    ] = None,
    weights: Annotated[str | None, typer.Option(metavar="FILE", help="Weights for a net of the zoo.")] = None,
    layer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Also make the vectors of this layer, for 'search --layer'.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(metavar="PIXELS", min=16, help="Size of the net's input; default: as it was trained."),
    ] = None,
    captions: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TABLE|auto|RUN",
            help="A table of captions and labels (columns path, caption, label); or a run of the task caption, or "
            "auto, that writes a sentence for each picture.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Skip these, as in .gitignore: 'Screenshots/'. Remembered until given again; '' clears it.",
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Keep running, and follow changes in the folders.")] = False,
    on: terminal.On = None,
    device: terminal.Device = None,
    json: terminal.Json = False,
    quiet: terminal.Quiet = False,
) -> None:
    """Index folders of pictures, so that they can be searched.

    Only what is new or changed is computed. It can be stopped, even by kill -9, and run again. With --json the result
    is one JSON document; with --watch one line of JSON for each change.
    """
    with _stoppable() as stopped:
        with terminal.work():
            _check(folders or [], library, on)
            options: dict[str, Any] = {"net": net, "weights": weights, "layer": layer, "size": size, "device": device}
            options |= {"stop": stopped, "wait": 86400.0, "say": (lambda text: None) if quiet else terminal.say}
            options["exclude"] = None if exclude is None else [one for one in exclude if one]
            rounds: Iterator[Report]
            if watch and on:
                raise UsageError("--watch follows folders on this machine, without --on; leave one of the two out")
            if on:
                from neocog.cluster import Cluster

                with Cluster(on, say=options["say"]) as cluster, terminal.bar("indexing", quiet=quiet) as progress:
                    opened = _opened_for(folders or [], library)  # only now, so that nothing is left without a cluster
                    options |= {"elsewhere": cluster, "progress": progress}
                    rounds = iter([opened.index(*(folders or ()), **options)])
            elif watch:
                opened = _opened_for(folders or [], library)
                terminal.say(f"library: {opened.folder}; Ctrl-C ends the watch")
                rounds = opened.watch(*(folders or ()), **options)
            else:
                opened = _opened_for(folders or [], library)
                with terminal.bar("indexing", quiet=quiet) as progress:
                    rounds = iter([opened.index(*(folders or ()), progress=progress, **options)])
            report = next(rounds, None)
            annotate(opened, captions or ())
        interrupted = False
        while report is not None:
            _tell_index(report, opened, json=json, line=watch)
            interrupted = report.interrupted
            with terminal.work():
                report = next(rounds, None)
    if interrupted and not watch:
        terminal.say("Stopped; all that was computed is kept. To continue, run the same command again")
        raise typer.Exit(130)


def _check(folders: list[str], library: str | None, on: str | None) -> None:
    """Raises: UsageError: what cannot be indexed."""
    from neocog.data.stores import has_moments, is_elsewhere, is_url

    for text in folders:
        path = Path(text).expanduser()
        if not on and is_elsewhere(text) and not path.is_dir():
            raise UsageError(f"{text} is looked into with --on, also on one machine: neocog index {text} --on local")
        if has_moments(text) and path.is_file():
            continue
        if not path.is_dir() and not (is_url(text) or (is_elsewhere(text) and path.is_file())):
            what = "is a file" if path.exists() else "does not exist"
            raise UsageError(f"expected a folder of pictures; {text} {what}")
    if folders and library is None and is_elsewhere(folders[0]) and not Path(folders[0]).is_dir():
        raise UsageError(f"say in which folder the library of {folders[0]} is to be: --library LIB")


def _opened_for(folders: list[str], library: str | None) -> Library:
    """The library that folders are indexed into; made if it is not there."""
    from neocog.data.stores import has_moments
    from neocog.library import Library, place

    if folders and library is None:
        return Library.beside(Path(folders[0]).parent if has_moments(folders[0]) else folders[0])
    if library is None or not folders or place.is_library(library) or place.is_library(place.beside(library)):
        return Library(library)
    return Library.at(library)


def annotate(opened: Library, tables: Iterable[str]) -> None:
    """Read what tables say of the pictures, or let a net say it."""
    for table in tables:
        from neocog.library.captions import annotate, describe

        if table == "auto" or (Path(table) / "net.json").is_file():
            with terminal.bar("describing") as progress:
                told = describe(opened.store, table, progress=progress)
            unread = f", {told.unreadable:,} could not be read" if told.unreadable else ""
            terminal.say(
                f"{table}: a sentence for {counted(told.written)}, none for {told.withheld:,} of which it was not sure"
                f"{unread}"
            )
            continue
        said = annotate(opened.store, table)
        terminal.say(
            f"{table}: {counted(said.captions, 'caption')} and {counted(said.labels, 'label')} "
            f"for {counted(said.changed)}"
        )
        terminal.notes(said.notes)


def _tell_index(report: Report, opened: Library, *, json: bool, line: bool) -> None:
    """Print what indexing found on stdout: as JSON (one line of it, if `line`), or for people."""
    if json:
        write.show_json({"library": opened.folder, **vars(report)}, line=line)
        return
    terminal.echo(str(report))
    terminal.notes(report.notes)
    if not line:
        terminal.echo(f"library: {opened.folder}, {opened.store.holds()}")


@contextlib.contextmanager
def _stoppable() -> Iterator[Any]:
    """Ctrl-C asks for an end between two batches, so that what was computed is saved; a second one ends at once."""
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        terminal.say("stopping after this batch; Ctrl-C again stops at once")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(asked)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGINT, before)


def search(
    query: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUERY",
            help='A sentence or words, "exact words", -not, OR, like:FILE, tag:, folder:, after:, near: ...',
        ),
    ] = None,
    like: Annotated[list[str] | None, typer.Option(metavar="FILE", help="Pictures that look like this one.")] = None,
    unlike: Annotated[list[str] | None, typer.Option(metavar="FILE", help="But not like this one.")] = None,
    library: LibraryOption = None,
    top: _Top = 20,
    all: Annotated[bool, typer.Option("--all", help="Also show hits that are more likely wrong than right.")] = False,
    threshold: Annotated[
        float | None, typer.Option(metavar="P", help="Least score of a hit, 0 to 1; default: calibrated.")
    ] = None,
    metric: Annotated[
        Literal["cosine", "euclidean"], typer.Option(help="How example pictures are compared.")
    ] = "cosine",
    layer: Annotated[
        str, typer.Option(metavar="NAME", help="Where examples are compared: features, output, or an indexed layer.")
    ] = "features",
    model: Model = None,
    sheet: _Sheet = None,
    teach: Annotated[
        str | None, typer.Option(metavar="NAME", help="Teach a concept from these hits: look at them first.")
    ] = None,
    json: terminal.Json = False,
) -> None:
    """Find pictures: by sentence, by word, by example, by date, folder and tag, and by all at once.

    Such as: neocog search two men playing football; or: neocog search dog -indoor folder:italy after:2023 like:a.jpg.
    Exit status 1: nothing was found.
    """
    if all and threshold is not None:
        raise UsageError("--all and --threshold exclude each other; give one of them")
    with terminal.work():
        opened = open_library(library)
        found = opened.search(
            " ".join(terminal.Wordy.words(query or ())),
            like=like or (),
            unlike=unlike or (),
            top=top,
            threshold=0.0 if all else threshold,
            model=model,
            metric=metric,
            layer=layer,
        )
        if sheet:
            from neocog.library.sheet import sheet as draw

            terminal.say(f"wrote {draw(found, sheet, title=str(found.query))}")
        taught = opened.teach(teach, list(found)) if teach is not None and len(found) else None
    if json:
        write.show_json({"library": opened.folder, **found.to_json()} | ({"taught": taught} if taught else {}))
    else:
        terminal.notes(found.notes)
        for hit in found:
            terminal.echo(f"{hit.score:.2f}  {told(hit.path)}")
            why = "; ".join(reason.text for reason in hit.reasons)
            if why:
                terminal.echo(f"      {why}")
        shown = f"{len(found):,} of {found.found:,} found" if found.found > len(found) else f"{len(found):,} found"
        terminal.say(f"{shown}, of {opened.store.holds()} in {opened.folder}")
        if taught is not None:
            _tell_taught(taught, opened)
    if not len(found):
        raise typer.Exit(1)


# --- own words


def teach(
    library: LibraryFirst,
    name: Annotated[str, typer.Argument(metavar="NAME", help='The word, such as "our cat".')],
    examples: Annotated[
        list[str], typer.Argument(metavar="PICTURES...", help="Pictures that show it: files or folders.")
    ],
    unlike: Annotated[
        list[str] | None, typer.Option("--not", metavar="FILE", help="Pictures that do not show it: a file or folder.")
    ] = None,
    ask: Annotated[int, typer.Option(metavar="N", min=0, help="How many uncertain pictures to propose.")] = 12,
    model: Model = None,
    sheet: _Sheet = None,
    json: terminal.Json = False,
) -> None:
    """Teach the library a word of your own from a few pictures; everything is tagged with it at once.

    Then say yes or no to the pictures that it proposes: neocog correct LIB NAME PICTURE... [--no]
    """
    with terminal.work():
        opened = open_library(library)
        taught = opened.teach(name, list(examples), list(unlike or ()), ask=ask, model=model)
    _tell_taught(taught, opened, json=json, sheet=sheet)


def correct(
    library: LibraryFirst,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A word that was taught.")],
    pictures: Annotated[
        list[str],
        typer.Argument(metavar="PICTURES...", help="Pictures of the library: paths, ends of paths, or hashes."),
    ],
    no: Annotated[bool, typer.Option("--no", help="They do not show it; default: they do.")] = False,
    ask: Annotated[int, typer.Option(metavar="N", min=0, help="How many uncertain pictures to propose.")] = 12,
    sheet: _Sheet = None,
    json: terminal.Json = False,
) -> None:
    """Say that pictures show what a taught word says, or do not (--no); the word is learned again at once."""
    with terminal.work():
        from neocog.library.teaching import correct_all

        opened = open_library(library)
        taught = correct_all(opened.store, shown(name), [(one, not no) for one in pictures], ask=ask)
    _tell_taught(taught, opened, json=json, sheet=sheet)


def _tell_taught(taught: Any, opened: Library, *, json: bool = False, sheet: Path | None = None) -> None:
    if sheet:
        from neocog.library.sheet import sheet as draw

        with terminal.work():
            from neocog.library.query import Filter, Query, Word

            tagged = Query((Filter("tag", taught.name), Word(taught.name)))  # ranked, the most probable first
            hits = opened.search(tagged, top=40, threshold=0.0)
            terminal.say(f"wrote {draw(hits, sheet, title=taught.name)}")
    if json:
        write.show_json(taught)
        return
    terminal.notes(taught.notes)
    quality = (
        "" if taught.quality != taught.quality else f"; held-out examples rank above {taught.quality:.1%} of others"
    )
    terminal.echo(
        f"{taught.name}: {counted(taught.examples, 'example')}, {taught.negatives:,} of what it is not; "
        f"{taught.tagged:,} of {opened.store.holds(taught.model)} tagged ({taught.changed:,} changed){quality}; "
        f"{taught.seconds:.2f} s"
    )
    if taught.uncertain:
        terminal.echo("most uncertain; say yes or no with 'neocog correct':")
        for one in taught.uncertain:
            terminal.echo(f"{one.probability:.2f}  {told(one.path)}")


def describe(
    picture: Annotated[str, typer.Argument(metavar="PICTURE", help="A file, or a picture of the library.")],
    library: LibraryOption = None,
    top: _Top = 8,
    model: Model = None,
    json: terminal.Json = False,
) -> None:
    """Say what a picture shows, which pictures are like it, and what is unusual about it."""
    with terminal.work():
        said = open_library(library).describe(picture, top=top, model=model)
    lines = [told(said.path)] + ["shows: nothing the net is sure of"] * (not (said.concepts or said.broader))
    for title, rows in (("shows", said.concepts), ("in general", said.broader), ("your words", said.believed)):
        lines += [f"{title}: " + ", ".join(f"{name} {p:.2f}" for name, p in rows)] * bool(rows)
    lines += [f"nearest ({one.cosine:.2f}): {told(one.path)}" for one in said.nearest]
    write.show(said, [*lines, *(said.unusual or ("nothing unusual",))], json=json)
