"""A task's answers as `neocog predict` writes them: lines, tables, COCO's JSON, vectors, masks, and drawn pictures."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from neocog import __version__, names
from neocog.cli import terminal
from neocog.cli.write import plain
from neocog.errors import DataError, UsageError
from neocog.records import counted

if TYPE_CHECKING:
    from neocog.tasks import Answer, Task

_VECTORS = ("npy", "parquet")
_ROWS = 1000  # vectors that are written to a Parquet file at once
Pair = tuple[Any, dict[str, str]]  # an answer, and the files that were made for it: {"mask": path}


def write_answers(
    answers: Iterable[Answer],
    task: Task,
    form: str,
    out: Path | None = None,
    *,
    masks: Places | None = None,
    drawn: Places | None = None,
    item: str = "picture",
) -> int:
    """Write one entry for each answer as it comes, on stdout or to a file; `masks` and `drawn` are places for files.

    `item`: what is answered about, by which the column of names is called.

    Returns: how many pictures could not be read.
    Raises: UsageError: the task's answers cannot be written like that.
    """
    check_form(task, form, out, masks=masks is not None)
    unread = 0

    def watched() -> Iterator[Pair]:
        nonlocal unread
        for answer in answers:
            unread += answer.problem is not None
            yield answer, _files(answer, masks, drawn)

    if form in _VECTORS:
        assert out is not None
        with terminal.output(out, binary=True) as stream, terminal.work():
            _npy(watched(), stream, out, item) if form == "npy" else _parquet(watched(), stream, item)
        return unread
    lines: dict[str, Callable[[Iterable[Pair]], Iterator[str]]] = {
        "table": lambda pairs: _table_lines(pairs, task), "csv": lambda pairs: _csv_lines(pairs, item),
        "jsonl": lambda pairs: _json_lines(pairs, item), "coco": lambda pairs: _coco_lines(pairs, task),
        "conll": lambda pairs: (line for answer, _ in pairs for line in answer.conll()),
    }  # fmt: skip
    with terminal.output(out) as stream, terminal.work():
        for line in lines[form](watched()):
            stream.write(line + "\n")
            stream.flush()  # whoever reads the pipe sees each picture when it is done
    return unread


def check_form(task: Task, form: str, out: Path | None, *, masks: bool) -> None:
    """Raises: UsageError: the task's answers cannot be written like that."""
    if form == "coco" and not _gives(task, "coco"):
        raise UsageError(
            f"the task {task.name} has no boxes, regions or points, so it cannot be written as COCO; "
            "--format csv or jsonl can"
        )
    if form == "conll" and not _gives(task, "conll"):
        raise UsageError(f"the task {task.name} has no tags of words; --format conll is for the task tag-words")
    if form in _VECTORS and not _has(task, "vector"):
        raise UsageError(f"the task {task.name} has no vectors to write as {form}; --format csv or jsonl can")
    if form in _VECTORS and out is None:
        raise UsageError(f"--format {form} is binary; add --out FILE, such as --out vectors.{form}")
    if masks and not _gives(task, "indexed"):
        raise UsageError(f"the task {task.name} has no masks; --masks is for the task segment")


def _has(task: Task, name: str) -> bool:
    return hasattr(task.unread("", ""), name)


def _gives(task: Task, what: str) -> bool:
    return task.unread("", "").gives(what)


# ---------------------------------------------------------------- files for each picture


class Places:
    """Names for files made from pictures: each lies below the folder as its picture lies below what the user named.

    Two pictures never get one name (the second is called ``name-2``), and no picture that was named is written over.

    Raises: UsageError: the folder lies among the pictures, where what is written would be read.
    """

    def __init__(self, folder: Path, suffix: str, named: Iterable[str]) -> None:
        self.folder, self.suffix = folder, suffix
        given = [Path(one) for one in named if one != "-"]
        self._roots = [one for one in given if one.is_dir()]
        for root in self._roots:
            if folder.resolve().is_relative_to(root.resolve()):
                raise UsageError(f"{folder} lies in {root}, whose pictures are read; choose another folder")
        self._used = {self._key(one) for one in given}

    @staticmethod
    def _key(path: Path) -> str:
        return str(path.absolute()).casefold()  # disks that ignore case exist

    def of(self, picture: str) -> Path:
        """The file for a picture; its folder is there then."""
        path = Path(picture)
        self._used.add(self._key(path))
        root = next((root for root in self._roots if path.is_relative_to(root)), path.parent)
        stem = self.folder / path.relative_to(root).with_suffix("")
        free = (stem.with_name(f"{stem.name}{f'-{n}' if n > 1 else ''}{self.suffix}") for n in itertools.count(1))
        made = next(one for one in free if self._key(one) not in self._used)
        self._used.add(self._key(made))
        made.parent.mkdir(parents=True, exist_ok=True)
        return made


def _files(answer: Any, masks: Places | None, drawn: Places | None) -> dict[str, str]:
    """Write the mask and the drawing of an answer."""
    if answer.problem is not None:
        return {}
    made = {}
    for what, places, picture in (("mask", masks, _mask_png), ("drawn", drawn, _drawn_jpeg)):
        if places is not None:
            from neocog.fit.run import write_atomically

            path = places.of(answer.key)
            write_atomically(path, picture(answer))
            made[what] = str(path)
    return made


def write_classes(folder: Path, classes: Sequence[str]) -> None:
    """Beside masks: ``classes.txt``, the name of each index on a line."""
    from neocog.fit.run import write_atomically

    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "classes.txt", ("\n".join(map(names.shown, classes)) + "\n").encode())


def _mask_png(answer: Any) -> bytes:
    """An indexed PNG: pixel values are indices of classes, 255 is not labelled."""
    import numpy as np
    from PIL import Image

    found = answer.indexed()
    palette = np.full((256, 3), 255, dtype=np.uint8)
    palette[: len(found.colours)] = found.colours
    image = Image.fromarray(found.mask)
    image.putpalette(palette.tobytes())
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _drawn_jpeg(answer: Any) -> bytes:
    """The answer on its picture, or below it in words."""
    from PIL import Image

    from neocog.data.decode import decode
    from neocog.tasks.canvas import PLAIN, captioned

    picture = decode(Path(answer.key).read_bytes())
    made = answer.draw(picture) if answer.gives("draw") else captioned(picture, [(answer.text(), PLAIN)])
    out = io.BytesIO()
    Image.fromarray(made).convert("RGB").save(out, "JPEG", quality=90)
    return out.getvalue()


# ---------------------------------------------------------------- lines


def _table_lines(pairs: Iterable[Pair], task: Task) -> Iterator[str]:
    pairs = iter(pairs)
    first = next(pairs, None)
    pairs = itertools.chain([] if first is None else [first], pairs)
    if task.classifies and (first is None or hasattr(first[0], "top")):
        yield from _label_lines(pairs, getattr(task, "classes", ()))
        return
    for answer, files in pairs:
        said = f"unreadable ({answer.problem})" if answer.problem is not None else answer.text()
        yield f"{answer.key}  {said}" + "".join(f"  {what}: {path}" for what, path in files.items())


def _label_lines(pairs: Iterable[Pair], classes: Sequence[str]) -> Iterator[str]:
    """The label first, in a column."""
    width = max(len(name) for name in ("unreadable", *classes))
    for p, files in pairs:
        if p.problem is not None:
            yield f"{'unreadable':<{width}}           {p.key}  ({p.problem})"
            continue
        first, chance = ("unknown", "       ") if p.unknown else (p.label, f"{p.probability:7.1%}")
        others = ", ".join(f"{name} {share:.1%}" for name, share in p.top[0 if p.unknown else 1 :])
        more = "".join(f"  {what}: {path}" for what, path in files.items())
        yield f"{first:<{width}}  {chance}  {p.key}" + (f"  ({others})" if others else "") + more


def _csv_lines(pairs: Iterable[Pair], item: str) -> Iterator[str]:
    """A header, then a line for each picture. The columns are known with the first picture that could be read."""
    buffer = io.StringIO()
    waiting: list[dict[str, Any]] = []
    writer: csv.DictWriter[str] | None = None

    def lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
        assert writer is not None
        for row in rows:
            buffer.seek(0)
            buffer.truncate()
            writer.writerow({name: _cell(value) for name, value in row.items()})
            yield buffer.getvalue()

    def begin(*columns: str) -> list[dict[str, Any]]:
        nonlocal writer
        every = [item, *columns, "problem"]
        writer = csv.DictWriter(buffer, every, restval="", lineterminator="")
        return [{name: name for name in every}, *waiting]

    for answer, files in pairs:
        if answer.problem is not None:
            row = {item: answer.key, "problem": answer.problem}
        else:
            row = {item: answer.key, **answer.row(), **files}
        if writer is None:
            if answer.problem is not None:
                waiting.append(row)
                continue
            yield from lines(begin(*list(row)[1:]))
        yield from lines([row])
    if writer is None:
        yield from lines(begin())


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return f"{value:.7g}" if isinstance(value, float) else value


def _json_lines(pairs: Iterable[Pair], item: str) -> Iterator[str]:
    for answer, files in pairs:
        record = {"problem": answer.problem} if answer.problem is not None else {**answer.to_json(), **files}
        yield names.json_text(plain({item: answer.key, **record}))


def _coco_lines(pairs: Iterable[Pair], task: Task) -> Iterator[str]:
    """COCO's JSON; the list of images stands last, so that annotations can be written as they come."""
    from neocog.data.decode import inspect

    images: list[str] = []
    yield "{"
    yield f'"info": {names.json_text({"description": f"found by neocog {__version__}, task {task.name}"})},'
    yield f'"categories": {names.json_text(task.categories())},'
    yield '"annotations": ['
    number, before = 0, ""
    for answer, _ in pairs:
        if answer.problem is not None:
            terminal.say(f"{names.shown(answer.key)}: {answer.problem}")
            continue
        info = inspect(Path(answer.key).read_bytes())
        image = {"id": len(images) + 1, "file_name": answer.key, "width": info.width, "height": info.height}
        images.append(names.json_text(image))
        for found in answer.coco(len(images)):
            number += 1
            if before:
                yield before + ","
            before = names.json_text(plain({"id": number, "image_id": len(images), "iscrowd": 0, **found}))
    if before:
        yield before
    yield "],"
    yield '"images": ['
    yield ",\n".join(images)
    yield "]}"


# ---------------------------------------------------------------- vectors


def _npy(pairs: Iterable[Pair], stream: IO[bytes], path: Path, item: str) -> None:
    """float32 (N, D), a row of not-a-number for what could not be read; ``.csv`` beside it says which row is which."""
    import numpy as np

    count, width, waiting = 0, 0, 0

    def header() -> None:
        stream.seek(0)
        shape = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
        np.lib.format.write_array_header_1_0(stream, shape)

    with terminal.output(path.with_suffix(".csv")) as beside:
        table = csv.writer(beside, lineterminator="\n")
        table.writerow(("row", item, "problem"))
        for answer, _ in pairs:
            table.writerow((count, answer.key, answer.problem or ""))
            count += 1
            if answer.problem is not None:
                waiting += 1
                continue
            vector = np.asarray(answer.vector, dtype="<f4")
            if not width:
                width = len(vector)
                header()  # space for it: numpy leaves room for a larger number of rows
            stream.write(np.full((waiting, width), np.nan, dtype="<f4").tobytes() + vector.tobytes())
            waiting = 0
        if not width:
            raise DataError(f"none of {counted(count, item)} could be read, so {path} was not written")
        stream.write(np.full((waiting, width), np.nan, dtype="<f4").tobytes())
        header()


def _parquet(pairs: Iterable[Pair], stream: IO[bytes], item: str) -> None:
    """Columns `item`, ``vector`` (list of float32, null if it could not be read) and ``problem``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    form = pa.schema([(item, pa.string()), ("vector", pa.list_(pa.float32())), ("problem", pa.string())])
    rows = (
        {
            item: names.shown(answer.key),
            "vector": list(answer.vector) if answer.problem is None else None,
            "problem": answer.problem,
        }
        for answer, _ in pairs
    )
    with pq.ParquetWriter(stream, form) as writer:
        while some := list(itertools.islice(rows, _ROWS)):
            writer.write_table(pa.Table.from_pylist(some, form))
