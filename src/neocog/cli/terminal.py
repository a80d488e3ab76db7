"""What the command line prints: answers on stdout, everything else on stderr, errors in one readable message.

Nothing heavy is imported here: `neocog --help` passes through this file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import IO, Annotated, Any

import typer
import typer.core

from neocog.errors import NeocogError, UsageError
from neocog.names import STREAM_ERRORS

# options that several commands have
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1 or mps; default: the fastest.")]
On = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="CLUSTER",
        help="Do it in processes that Ray starts: local, or ray://HOST:10001 (many machines).",
    ),
]
DATA_HELP = (
    "A folder with a folder for each class, annotations (COCO, Pascal VOC, YOLO, LabelMe), pictures beside masks, "
    "a table (.csv .tsv .jsonl .parquet), tar shards, folders or tables of texts, sounds or clips, CoNLL columns, "
    "cifar10, cifar100, mnist, fashion_mnist, digits, drawn, "
    "game:NAME, atari:NAME, or library:LIB (what was taught to a library, and the boxes that were marked in it)."
)
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as 'neocog train' writes it.")]
AnsweringArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run, or what 'neocog export' wrote.")]
DataArgument = Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP)]
Offline = Annotated[bool, typer.Option("--offline", help="Never fetch anything from the network.")]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="ROLE=NAME",
        help="Which column of a table is the path, label, labels, caption, split, boxes, mask, points or numbers.",
    ),
]
Test = Annotated[str | None, typer.Option(metavar="DATA", help="Test pictures from elsewhere.")]
RecipeName = Annotated[str | None, typer.Option(metavar="NAME", help="'neocog recipes' lists them.")]
NetName = Annotated[
    str | None, typer.Option(metavar="NAME", help="'neocog nets' lists them; default: by picture size.")
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change one field of the recipe.")
]
Size = Annotated[int | None, typer.Option(metavar="PIXELS", min=1, help="Height and width of the input.")]
RunOut = Annotated[Path | None, typer.Option(metavar="RUN", help="The run folder to write.")]
FileOut = Annotated[Path | None, typer.Option(metavar="FILE", help="Write there instead of to stdout.")]
Pictures = Annotated[
    list[str], typer.Argument(metavar="PICTURES...", help="Files, folders, or - for one path a line on stdin.")
]


class Group(typer.core.TyperGroup):
    """The command group that turns errors into a message and an exit status (0 fine, 1 failed, 2 wrong usage).

    ``NEOCOG_DEBUG=1`` shows the traceback as well.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            # as a path it would be the folder that one is in; after an option it may mean nothing
            if any(not one and not before.startswith("-") for before, one in pairwise(["", *ctx.args])):
                raise UsageError("an argument is empty; expected a name or a text (is a variable of the shell unset?)")
            result = super().invoke(ctx)
            sys.stdout.flush()  # a closed pipe is met here, and not while the interpreter shuts down
            return result
        except NeocogError as error:
            _debug()
            complain(str(error), usage=isinstance(error, UsageError))
            raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None
        except BrokenPipeError:
            # `| head` has read what it wanted. What is still in the buffer goes nowhere, without a message.
            _close_stdout()
            raise typer.Exit(0) from None
        except OSError as error:
            _debug()
            where = f": {error.filename}" if error.filename else ""
            advice = ". Free some, and go on: of a training, 'neocog resume RUN'" if error.errno == errno.ENOSPC else ""
            complain(f"{error.strerror or error}{where}{advice}")
            raise typer.Exit(1) from None


class Wordy(typer.core.TyperCommand):
    """A command whose words may begin with a minus: ``-indoor`` is a word of a query, ``-q`` and ``--top`` are options.

    `words` gives the arguments back as they were typed.
    """

    _MARK = "\u2060"  # stands before such a word while options are read; nobody can type it

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [self._MARK + one if re.match(r"-[^\W\d_][^=]", one) else one for one in args])

    @classmethod
    def words(cls, given: Iterable[str]) -> list[str]:
        return [one.removeprefix(cls._MARK) for one in given]


class Learning(typer.core.TyperCommand):
    """A command whose option ``--noisy`` may stand alone, for its first value: where none of them follows."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        from neocog.fit.recipes import NOISY

        alone = [
            one == "--noisy" and not get_close_matches(after, NOISY)  # a slip is told, DATA is left alone
            for one, after in pairwise([*args, ""])
        ]
        return super().parse_args(ctx, [one + f"={NOISY[0]}" * first for one, first in zip(args, alone, strict=True)])


def rank() -> int:
    """The number of this process under torchrun; 0 when it is the only one."""
    return int(os.environ.get("RANK") or 0)


def prepare() -> None:
    """Prepare the standard streams: every file name can be printed, and only the first process prints."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=STREAM_ERRORS)
    if hasattr(sys.stdin, "reconfigure"):  # what comes in are names of files
        sys.stdin.reconfigure(encoding=sys.getfilesystemencoding(), errors=sys.getfilesystemencodeerrors())
    if rank() != 0:
        _close_stdout()


def echo(message: object = "", *, err: bool = False) -> None:
    """Print a line on stdout or stderr. Unlike `typer.echo` it keeps the encoding that the user's terminal has."""
    print(message, file=sys.stderr if err else sys.stdout, flush=True)


def complain(message: str, *, usage: bool = False) -> None:
    """Print an error on stderr.

    A usage error is the same in every process of a torchrun, so only the first says it; any other failure may be
    known to one process alone, so that process says it, with its number.
    """
    if rank() == 0:
        echo(f"neocog: {message}", err=True)
    elif not usage:
        echo(f"neocog, process {rank()}: {message}", err=True)


def say(message: str) -> None:
    """Print a remark on stderr, from the first process only."""
    if rank() == 0:
        echo(message, err=True)


def notes(of: Iterable[str]) -> None:
    """Print notes on stderr, a line each."""
    for note in of:
        say(f"note: {note}")


@contextlib.contextmanager
def work() -> Iterator[None]:
    """While work is done, whatever it prints goes to stderr: stdout carries the answer and nothing else."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def bar(what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """Progress on stderr (see `Show.bar`): a function (done, of) for long work. None where nobody would see it."""
    if quiet or rank() != 0:
        yield None
        return
    from neocog.fit.show import Show

    with Show().count(what) as move:
        yield move


@contextlib.contextmanager
def resumable(folder: Callable[[], Path | str | None], how: str = "neocog resume {}") -> Iterator[None]:
    """Turn Ctrl-C into a sentence that says how to continue, and exit status 130."""
    try:
        yield
    except KeyboardInterrupt as error:
        _debug()
        known = getattr(error, "run", None) or folder()
        say("")
        if known and Path(known).is_dir():
            say(f"Stopped. To continue where it stopped: {how.format(known)}")
        else:
            say(f"Stopped. To continue where it stopped: {how.format('RUN')}, with the folder that was named above")
        raise typer.Exit(130) from None


def settings(pairs: Sequence[str], option: str = "--set", example: str = "lr=0.05") -> dict[str, str]:
    """Split ``field=value`` texts. Raises: UsageError for one without ``=``, or a field given twice."""
    result: dict[str, str] = {}
    for pair in pairs:
        field, equals, value = pair.partition("=")
        field = field.strip()
        if not equals or not field:
            raise UsageError(f"{option} expects field=value, such as {example}; got {pair!r}")
        if field in result:
            raise UsageError(f"{option} {field}= is given twice: {result[field]!r} and {value.strip()!r}")
        result[field] = value.strip()
    return result


def columns(pairs: list[str] | None) -> dict[str, str] | None:
    return settings(pairs, "--column", "label=kind") if pairs else None


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Read ``1,2,4``. Raises: UsageError for anything else."""
    try:
        return tuple(int(one) for one in text.split(","))
    except ValueError:
        raise UsageError(f"{option} expects whole numbers, such as 1,2,4; got {text!r}") from None


def picture_paths(inputs: Iterable[str]) -> Iterator[Path]:
    """Yield the pictures that the user named, one at a time: files, those inside folders, and ``-`` for stdin.

    A file that was named is yielded whatever its ending; inside a folder only the usual endings of pictures count,
    and hidden files and folders are left out.

    Raises: UsageError for a path that does not exist, or a folder without a picture.
    """
    for name in inputs:
        if name == "-":
            for line in sys.stdin:
                if path := line.rstrip("\r\n"):
                    yield Path(path)  # one that does not exist is reported with the others that cannot be read
            continue
        path = Path(name)
        if path.is_dir():
            from neocog.data.listing import files_of

            yield from files_of(path)
        elif path.exists():
            yield path
        else:
            raise UsageError(f"expected a picture, a folder or -; {name} does not exist")


def lines_for(inputs: Iterable[str]) -> Iterator[str]:
    """The words that the user typed, with the lines of stdin in the place of ``-``."""
    for one in inputs:
        yield from (line.rstrip("\r\n") for line in sys.stdin) if one == "-" else (one,)


@contextlib.contextmanager
def output(path: Path | None, *, binary: bool = False) -> Iterator[IO[Any]]:
    """Stdout, or a file that appears under its name only when it is complete."""
    if path is None:
        yield sys.stdout
        return
    text: dict[str, Any] = {} if binary else {"encoding": "utf-8", "errors": STREAM_ERRORS, "newline": ""}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb" if binary else "w", **text) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _debug() -> None:
    if os.environ.get("NEOCOG_DEBUG"):
        import traceback

        traceback.print_exc()


def _close_stdout() -> None:
    """Let stdout lead nowhere from now on, also for libraries that write to it by themselves."""
    with contextlib.suppress(OSError, ValueError):  # stdout may be no real file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def not_over(out: Path | None, inputs: Iterable[str | Path], option: str) -> None:
    """Raises: UsageError: what is to be written would take the place of a file that is read."""
    if out is None or not out.exists():
        return
    if any(os.path.exists(one) and out.samefile(one) for one in inputs):  # a long text is no path, and no error either
        raise UsageError(f"{option} {out} is one of the files that are read; choose another name")
