"""One door: whatever names a set of pictures becomes a Source."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from neocog.data.columns import Texts
from neocog.data.fetch import tell
from neocog.data.layouts import Layout, is_generic, recognise
from neocog.data.source import ONE_LABEL, Arrays, Source
from neocog.data.text import TABLES
from neocog.errors import DataError, UsageError, closest
from neocog.records import counted

PLUGINS = "neocog.sources"  # entry points: how rooms above this one, and other packages, add sources


def open_source(
    spec: Any,
    *,
    offline: bool = False,
    columns: Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
    say: Callable[[str], object] = tell,
) -> Source:
    """Open pictures.

    Args:
        spec: a Source (returned as it is); a folder (of class folders, or annotated: COCO, Pascal VOC, YOLO, LabelMe,
            masks); a table (.csv, .tsv, .jsonl, .parquet) that lists pictures, or that holds texts; Parquet with
            embedded pictures, a file or a folder of files; CoNLL's columns, a word and its tag on a line, a file
            or a folder with train.txt and test.txt; tar shards, as a file, a folder, or a pattern with ``*`` or
            ``{000..099}``; a named set (``cifar10``, ``cifar100``, ``mnist``, ``fashion_mnist``, ``digits``, ``drawn``
            or ``drawn:n=2000,size=64,seed=1``); ``KIND:WHAT``, where an installed package has the entry point KIND in
            the group ``neocog.sources`` (neocog's own is ``library:FOLDER``), or ``clips:FOLDER`` (see
            `clips.open_clips`); a game, ``game:catch`` or ``atari:pong``; or a tuple (pictures, labels) of arrays.
        offline: never fetch anything.
        columns: which column of a table is what, for example ``{"path": "photo", "label": "kind"}``; roles are path,
            label, labels, caption, split, group (rows of one value stay in one split), boxes, mask, points, and numbers
            (one or several: ``"age, angle:360"``); of a table of texts text in the place of path; of one of
            pairs of texts first, second, label and split; of tagged words words and tags.
        classes: class names, where a table or shards hold numbers.
        say: is called with one line before anything is fetched.

    Raises:
        DataError: nothing usable there; the message says what to type.
        UsageError: the spec is not something that can be opened.
    """
    from neocog.data.named import NAMED, open_named

    if isinstance(spec, Source):
        return spec
    if isinstance(spec, tuple) and len(spec) == 2:
        return Arrays(spec[0], spec[1], classes)
    if not isinstance(spec, (str, os.PathLike)):
        raise UsageError(f"expected a path, a named set, a Source or (pictures, labels), got {type(spec).__name__}")
    text = os.fspath(spec)
    if isinstance(spec, str) and text.split(":", 1)[0] in NAMED:
        return open_named(text, offline=offline, say=say)
    kind, colon, _ = text.partition(":")
    if kind == "clips" and colon:
        from neocog.data.clips import open_clips

        return open_clips(text[len("clips:") :])
    if kind in ("game", "atari") and colon:
        from neocog.data.read_game import Episodes

        return Episodes(text)
    if colon and isinstance(spec, str):
        for found in entry_points(group=PLUGINS, name=kind):
            opened = found.load()(text)
            if not isinstance(opened, Source):
                raise UsageError(
                    f"{found.value} must return a neocog.data.Source, but returned {type(opened).__name__}"
                )
            return opened
    path = Path(text).expanduser()
    if path.is_dir():
        return _open_folder(path, columns, classes)
    suffix = path.suffix.lower()
    if path.is_file():
        name = path.stem
        if suffix in TABLES:
            return _open_tables([path], path.parent, name, columns, classes)
        if suffix == ".tar":
            from neocog.data.shards import open_shards

            return open_shards([path], root=path.parent, name=name, classes=classes)
        if layout := recognise(path):
            return _open_folder(layout.root, columns, classes)
        from neocog.data.conll import has_columns, open_columns

        if has_columns(path):
            return open_columns([path], name=name, columns=columns)
        raise DataError(
            f"{text!r} is a file, but not one that holds a set of pictures; expected a folder, {', '.join(TABLES)}, "
            ".tar, or columns of words as CoNLL's"
        )
    if files := expand(text):
        if all(one.suffix.lower() == ".parquet" for one in files):
            return _open_tables(files, _common(files), _common(files).name, columns, classes)
        from neocog.data.shards import open_shards

        return open_shards(files, root=_common(files), name=_common(files).name or "shards", classes=classes)
    raise DataError(f"no file, folder or named set {text!r}{closest(text, NAMED)}; named sets are {', '.join(NAMED)}")


def expand(pattern: str) -> list[Path]:
    """Return the existing files of a pattern with ``*``, ``?`` and braces (``{000..012}``, ``{train,val}``), sorted.

    Raises: DataError: a brace range names files that do not exist.
    """
    patterns = [pattern]
    while match := re.search(r"\{([^{}]*)\}", patterns[0]):
        inner = match.group(1)
        if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", inner):
            low, high = numbers.groups()
            parts = [str(i).zfill(len(low)) for i in range(int(low), int(high) + 1)]
        else:
            parts = inner.split(",")
        patterns = [re.sub(r"\{[^{}]*\}", lambda _, part=part: part, p, count=1) for p in patterns for part in parts]  # type: ignore[misc]
    files: set[Path] = set()
    missing = []
    for one in patterns:
        found = [Path(name) for name in glob.glob(os.path.expanduser(one))] if glob.has_magic(one) else []
        if not glob.has_magic(one) and os.path.isfile(os.path.expanduser(one)):
            found = [Path(one).expanduser()]
        if not found and len(patterns) > 1:
            missing.append(one)
        files.update(found)
    if files and missing:
        raise DataError(f"{pattern!r}: {len(missing)} of the files do not exist, the first is {missing[0]!r}")
    return sorted(files)


def _open_folder(path: Path, columns: Mapping[str, str] | None, classes: Sequence[str] | None) -> Source:
    from neocog.data.conll import column_files, open_columns
    from neocog.data.folder import open_folder
    from neocog.data.parquet import binary_columns

    path = Path(os.path.abspath(path))
    name = path.name or str(path)
    if files := column_files(path):
        return open_columns(files, name=name, columns=columns)
    parquets, tars = _packed(path)
    if parquets and binary_columns(parquets[0]):
        return _open_tables(parquets, path, name, columns, classes)
    if tars:
        from neocog.data.shards import open_shards

        return open_shards(tars, root=path, name=name, classes=classes)
    from neocog.data.manifest import find_manifests

    layout = recognise(path) if columns is None else None
    try:
        manifests, note = find_manifests(path, forced=columns is not None)
    except DataError:
        if layout is None:
            raise
        manifests, note = [], ""
    if manifests:
        try:
            source = _open_tables(manifests, path, name, columns, classes)
        except DataError as error:
            if columns is not None:
                raise
            try:
                source = open_folder(path) if layout is None else open_layout(layout)
            except DataError:
                raise error from None
            source.notes.append(f"a table beside the pictures was not used: {error}")
            return source
        if layout is None or (source.labels >= 0).any():
            if layout is not None:
                source.notes.append(f"the table was used; the folder also looks like {layout}")
            return source
        names = ", ".join(one.name for one in manifests[:3])
        note = f"{names} was not used, but the annotations; to use the table, open it by its own path"
    if layout is not None:
        source = open_layout(layout)
        source.notes += [note] if manifests else []
        return source
    source = open_folder(path)
    if note:
        source.notes.append(note)
    return source


def open_layout(layout: Layout) -> Source:
    """Open the pictures of a layout, without its masks, with its annotations as columns.

    Labelled only where class folders hold the pictures.
    """
    from neocog.data import coco, labelme, mask_files, voc, yolo
    from neocog.data.annotated import Pictures
    from neocog.data.folder import Folder, open_folder

    readers = {"coco": coco, "voc": voc, "yolo": yolo, "labelme": labelme, "masks": mask_files}
    listed = open_folder(layout.root)
    keys = [os.fsdecode(listed.keys.raw(i)) for i in range(len(listed))]
    rows = np.array([i for i, key in enumerate(keys) if not layout.is_mask(layout.root / key)], dtype=np.int64)
    pictures = Pictures(layout.root, [keys[i] for i in rows])
    found = readers[layout.kind].read(layout, pictures)
    if layout.kind != "masks" and "mask" not in found.columns and (layout.masks or layout.beside):
        more = mask_files.read(layout, pictures)
        found.columns.update(more.columns)
        found.notes += more.notes
        found.problems += more.problems
    used = sorted(set(listed.labels[rows].tolist()) - {-1})
    labelled = sum(not is_generic(listed.classes[i]) for i in used) >= 2  # class folders hold the pictures
    labels = np.full(len(rows), -1, dtype=np.int32)
    splits = pictures.splits()
    if labelled:
        labels = np.searchsorted(used, listed.labels[rows]).astype(np.int32)
        labels[listed.labels[rows] < 0] = -1
        splits = listed.splits[rows]
    elif found.splits is not None:
        splits = np.where(found.splits >= 0, found.splits, splits)
    left_out = [f"{counted(len(listed) - len(rows), 'mask', 'was')} left out"] if len(rows) < len(listed) else []
    what = ", ".join(role for role, column in found.columns.items() if column.known.any())
    notes = [f"{layout}" + (f": {what} read" if what else ""), *([] if "mask" in found.columns else left_out)]
    unfit = (
        f"{listed.name} looks like {layout}. {ONE_LABEL} To classify whole pictures, put each into a folder named "
        "after its class, or write a table with the columns path and label and open that."
    )
    if labelled:
        unfit = ""
        notes = [*listed.notes, *left_out, f"the folders were taken as classes, but this looks like {layout}"]
    source = Folder(
        layout.root,
        Texts(listed.keys.raw(int(i)) for i in rows),
        listed.name,
        [listed.classes[i] for i in used] if labelled else (),
        labels,
        splits,
        notes=[*notes, *found.notes],
        problems=[*listed.problems, *found.problems],
        columns=found.columns,
        unfit=unfit,
    )
    source.layout, source.said_sizes = layout, found.sizes
    return source


def _open_tables(
    files: Sequence[Path],
    root: Path,
    name: str,
    columns: Mapping[str, str] | None,
    classes: Sequence[str] | None,
) -> Source:
    if files[0].suffix.lower() == ".parquet":
        from neocog.data.parquet import binary_columns, open_parquet

        if binary_columns(files[0]):
            return open_parquet(files, root=root, name=name, columns=columns, classes=classes)
    from neocog.data.conll import has_columns, open_columns, open_lists
    from neocog.data.guess import NoPaths
    from neocog.data.manifest import open_manifest
    from neocog.data.pairs import open_pairs

    if all(map(has_columns, files)):
        return open_columns(files, name=name, columns=columns)
    if tagged := open_lists(files, name=name, columns=columns, classes=classes):
        return tagged
    if (
        columns is not None
        and {"first", "second"} & columns.keys()
        and (pairs := open_pairs(files, name=name, columns=columns))
    ):
        return pairs
    how: dict[str, Any] = {"root": root, "name": name, "columns": columns, "classes": classes}
    if columns is not None and "text" in columns:
        return open_manifest(files, **how, texts=True)
    try:
        return open_manifest(files, **how)
    except DataError as error:
        if columns is None and (pairs := open_pairs(files, name=name)):
            return pairs
        if not isinstance(error, NoPaths):
            raise
        try:
            return open_manifest(files, **how, texts=True)
        except DataError:
            raise error from None


def _packed(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the Parquet and tar files in `folder` and one step below it, in one pass over the names."""
    found: dict[str, list[Path]] = {".parquet": [], ".tar": []}
    folders = [""]
    for inner in folders:
        try:
            with os.scandir(folder / inner) as entries:
                for entry in entries:
                    ending = os.path.splitext(entry.name)[1].lower()
                    if ending in found and not entry.name.startswith("."):
                        found[ending].append(folder / inner / entry.name)
                    elif not inner and not entry.name.startswith(".") and entry.is_dir():
                        folders.append(entry.name)  # the loop goes on with what is added here
        except OSError:
            continue  # a folder that cannot be listed becomes a problem later
    return sorted(found[".parquet"]), sorted(found[".tar"])


def _common(files: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([one.parent for one in files]))
