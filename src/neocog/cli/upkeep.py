"""`neocog library ...`: look after a library. Each command imports what it needs inside itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from neocog.cli import terminal, write
from neocog.cli.library import LIBRARY_HELP, LibraryFirst, LibraryOption, Model, open_library
from neocog.data.stores import told
from neocog.errors import LibraryError, UsageError
from neocog.records import counted

if TYPE_CHECKING:
    from neocog.library import Library
    from neocog.library.folders import Changed

_LibraryArgument = Annotated[str | None, typer.Argument(metavar="[LIB]", help=LIBRARY_HELP)]


upkeep = typer.Typer(cls=terminal.Group, help="Maintain a library.", no_args_is_help=True, rich_markup_mode=None)


def _opened(lib: str | None, library: str | None) -> Library:
    """Open what was named, as an argument or as the option that the other commands have."""
    if lib is not None and library is not None:
        raise UsageError(f"two libraries were named, {lib} and --library {library}; give one of them")
    return open_library(library if lib is None else lib)


@upkeep.command()
def info(lib: _LibraryArgument = None, library: LibraryOption = None, json: terminal.Json = False) -> None:
    """Count what is in it: pictures, vectors, labels, taught words, bytes."""
    with terminal.work():
        opened = _opened(lib, library)
        found = opened.info()
    taught = [f"taught: {', '.join(opened.taught)}"] if opened.taught else []
    write.show({**write.plain(found), "taught": opened.taught}, [opened.folder, found, *taught], json=json)


@upkeep.command()
def verify(
    lib: _LibraryArgument = None,
    library: LibraryOption = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every file, and compare its content.")] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Repair what can be repaired.")] = False,
    json: terminal.Json = False,
) -> None:
    """Check that the library is complete and agrees with the files. Exit status 1 means damage."""
    with terminal.work():
        found = _opened(lib, library).verify(deep=deep, fix=fix)
    lines = [f"{'damage' if one.damage else 'note'}: {one}" for one in found]
    write.show(found, lines or ["all is well"], json=json)
    if any(one.damage for one in found):
        raise typer.Exit(1)


@upkeep.command()
def problems(lib: _LibraryArgument = None, library: LibraryOption = None, json: terminal.Json = False) -> None:
    """List the files that could not be read, and why."""
    with terminal.work():
        found = _opened(lib, library).problems()
    write.show(found, [f"{one.key}: {one.reason}" for one in found] or ["none"], json=json)


@upkeep.command()
def export(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="Ends with .parquet or .csv.")],
    library: LibraryOption = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Also write the vectors of this net (Parquet only).")
    ] = None,
) -> None:
    """Write everything that the library knows to a table."""
    with terminal.work():
        count = open_library(library).export(out, model=model)
    terminal.echo(f"{counted(count, 'row')} written to {out}")


@upkeep.command()
def duplicates(
    lib: _LibraryArgument = None,
    library: LibraryOption = None,
    level: Annotated[
        Literal["exact", "near", "similar"],
        typer.Option(help="The same file; also the same picture; or the same scene."),
    ] = "near",
    threshold: Annotated[
        float | None,
        typer.Option(metavar="C", help="Least cosine of vectors that count as similar; default: measured."),
    ] = None,
    json: terminal.Json = False,
) -> None:
    """List groups of duplicates, the best picture of each first. Nothing is ever deleted."""
    with terminal.work():
        groups = _opened(lib, library).duplicates(level, threshold=threshold)
    if json:
        write.show_json(groups)
        return
    for group in groups:
        for i, copy in enumerate(group.copies):
            size = f"{copy.width}x{copy.height}, {copy.size:,} bytes"
            terminal.echo(f"{'keep ' if i == 0 else '     '} {told(str(copy.path))}  ({size})")
    spare = sum(group.superfluous for group in groups)
    terminal.echo(f"{counted(len(groups), 'group')}; all but the best are {spare / 1e6:,.1f} MB")


@upkeep.command()
def concepts(
    lib: _LibraryArgument = None,
    library: LibraryOption = None,
    like: Annotated[str | None, typer.Option(metavar="WORD", help="Which concepts a word stands for.")] = None,
    json: terminal.Json = False,
) -> None:
    """List the words that were taught, and what a word of a query stands for."""
    with terminal.work():
        from neocog.library.teaching import concepts_of
        from neocog.library.view import view_of

        opened = _opened(lib, library)
        if like is not None:
            view = view_of(opened.store)
            chosen = view.model()
            known = view.vocabulary(chosen) if chosen else None
            match = known.find(like) if known is not None else None
            if known is None or match is None:
                raise LibraryError(f"the net of {opened.folder} has no concept for {like!r}; teach it: 'neocog teach'")
            names = [known.classes[i] for i in match.concepts]
        taught = concepts_of(opened.store)
    if like is not None:
        write.show_json({"word": like, "concepts": names}) if json else terminal.echo(f"{match}\n{', '.join(names)}")
        return
    rows = [
        {"word": name, "net": one["model"], "examples": len(one["yes"]), "not": len(one["no"])}
        for name, one in taught.items()
    ]
    write.show_json(rows) if json else write.show_table(rows)


@upkeep.command()
def folders(lib: _LibraryArgument = None, library: LibraryOption = None, json: terminal.Json = False) -> None:
    """List the folders that were indexed, how much each holds, and whether it is there."""
    with terminal.work():
        opened = _opened(lib, library)
        found, exclude = opened.folders(), opened.store.exclude
    if json:
        write.show_json({"library": opened.folder, "folders": found, "exclude": exclude})
        return
    rows = ({**write.plain(one), "there": "yes" if one.there else "no"} for one in found)
    write.show_table({name: value for name, value in row.items() if name != "pictures"} for row in rows)
    if exclude:
        terminal.echo(f"excluded: {', '.join(exclude)}")


@upkeep.command()
def forget(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A folder of pictures, as 'neocog library folders' lists it.")
    ],
    library: LibraryOption = None,
    json: terminal.Json = False,
) -> None:
    """Remove a folder and its pictures from the library. No file is touched."""
    with terminal.work():
        done = open_library(library).forget_folder(folder)
    _tell_changed(done, f"forgot {counted(done.files, 'file')} of {folder}, with {done.told}", json)


@upkeep.command()
def move(
    old: Annotated[str, typer.Argument(metavar="OLD", help="The folder, as 'neocog library folders' lists it.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Where these pictures are now.")],
    library: LibraryOption = None,
    json: terminal.Json = False,
) -> None:
    """Say that a folder of the library was renamed, or is elsewhere now. Nothing is computed again."""
    from neocog.library import place

    with terminal.work():
        beside = new if library is None and place.is_library(place.beside(new)) else library
        done = open_library(beside).move_folder(old, new)
    _tell_changed(done, f"{counted(done.files, 'file')} of {old} now in {new}", json)


def _tell_changed(done: Changed, text: str, json: bool) -> None:
    write.show(done, [text], json=json)
    if not json:
        terminal.notes(done.notes)


@upkeep.command()
def unteach(library: LibraryFirst, name: Annotated[str, typer.Argument(metavar="NAME", help="A taught word.")]) -> None:
    """Remove a taught word with its examples, corrections and tags."""
    with terminal.work():
        open_library(library).forget(name)
    terminal.echo(f"forgot {name!r}")


@upkeep.command()
def calibrate(
    lib: _LibraryArgument = None, library: LibraryOption = None, model: Model = None, json: terminal.Json = False
) -> None:
    """Calibrate scores on the labels of this library, for better thresholds."""
    with terminal.work():
        from neocog.library.calibration import calibrate as learn

        learned = learn(_opened(lib, library).store, model)
    said = f"learned for: {', '.join(learned)}" if learned else "too few labels to learn from; nothing changed"
    write.show(learned, [said], json=json)
