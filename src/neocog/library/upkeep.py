"""Maintaining a library: its contents, whether it is intact, what could not be read, and export."""

from __future__ import annotations

import contextlib
import csv
import os
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from neocog.data.places import read_place
from neocog.data.stores import file_of, is_elsewhere
from neocog.errors import DecodeError, LibraryError, UsageError
from neocog.library.films import can_read
from neocog.library.photo import read_steady
from neocog.library.rows import HASH, SCHEMA, content_hash, decode_path, matrix
from neocog.library.scan import scan
from neocog.library.store import Store
from neocog.names import json_text, shown
from neocog.records import Problem, counted

_FIX = "'neocog library verify --fix'"
_SHOWN = 5  # examples beside a finding


@dataclass(frozen=True, slots=True)
class Info:
    """What is in a library."""

    folder: str
    created: str
    pictures: int  # distinct contents of which a file is there; frames of videos and parts of recordings, too
    files: int
    gone: int  # contents of which no file is left; kept, so that they can come back with their tags
    problems: int
    folders: tuple[str, ...]
    labels: int  # different ones
    tagged: int  # pictures with a taught tag
    model: str | None  # that searches use
    models: dict[str, dict[str, int]]  # name -> dimension, classes, pictures, indexed
    bytes: int  # on disk
    cache_bytes: int  # of these, copies that can be deleted
    version: int
    read_only: bool
    holds: str  # `pictures` in words, by their kinds
    unfinished: str = ""  # what there is to say while the library is indexed for the first time

    def __str__(self) -> str:
        lines = [
            f"{self.holds} in {counted(self.files, 'file')}, {self.gone:,} gone, {self.problems:,} unreadable",
            f"folders: {', '.join(self.folders) or 'none'}",
            *([self.unfinished] if self.unfinished else []),
            f"{counted(self.labels, 'label')}; {self.tagged:,} with taught tags",
        ]
        for name, one in self.models.items():
            how = f"{one['indexed']:,} in an index" if one["indexed"] else "searched exactly"
            used = " (used for searching)" if name == self.model else ""
            lines.append(f"net {name}{used}: {one['pictures']:,} vectors of {one['dimension']} numbers, {how}")
        return "\n".join([*lines, f"{self.bytes / 1e6:,.1f} MB on disk, {self.cache_bytes / 1e6:,.1f} MB of it copies"])


def info(store: Store) -> Info:
    """Count what is in a library."""
    table = store.rows(["paths", "labels", "tags", "models", "state"], gone=True)
    ok = table.filter(pc.equal(table.column("state"), "ok"))
    with_vectors = Counter(name for row in ok.column("models").to_pylist() for name in row or ())
    models = {
        name: {key: card[key] for key in ("dimension", "classes")}
        | {"pictures": with_vectors[name], "indexed": store.index_state(name)["indexed"]}
        for name, card in store.models().items()
    }
    return Info(
        folder=str(store.folder),
        created=store.created,
        pictures=len(ok),
        files=len({file_of(path) for paths in ok.column("paths").to_pylist() for path in paths}),
        gone=len(table) - len(ok),
        problems=len(store.problems()),
        folders=tuple(map(store.name_of, store.folders)),
        labels=len({label for row in ok.column("labels").to_pylist() for label in row or ()}),
        tagged=sum(bool(tags) for tags in ok.column("tags").to_pylist()),
        model=store.model,
        models=models,
        bytes=_size(store.folder),
        cache_bytes=_size(store.folder / "cache"),
        version=store.version(),
        read_only=store.read_only,
        holds=store.holds(),
        unfinished=store.unfinished_note(),
    )


def _size(folder: Path) -> int:
    total = 0
    for here, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(here, name)).st_size
    return total


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `verify` found. `damage`: the library contradicts itself; else it only lags behind the files.

    `remedy` is what to type; `fixable` says that ``verify(store, fix=True)`` or indexing again mends it.
    """

    text: str
    remedy: str
    damage: bool = True
    fixable: bool = True
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = f" ({', '.join(self.examples)})" if self.examples else ""
        return f"{self.text}{shown}; {self.remedy}"


def verify(store: Store, *, deep: bool = False, fix: bool = False) -> list[Finding]:
    """Check that table, vectors and files agree; an empty list means that all is well.

    Args:
        deep: also read every file and compare its content with the hash.
        fix: mend the rows. Of what is in doubt (a path that stands twice, another content, a lost vector) the row
            forgets what it claimed, so that the next `neocog index` looks at the file again.

    Raises: LibraryError: the library is so damaged that it cannot be read at all; or `fix`, and it is read-only.
    """
    remedy = "restore the library from a copy, or delete its folder and index again"
    found = [Finding(text, remedy, fixable=False) for text in _tables(store)]
    for model in list(store.models()):
        found += _vectors(store, model, fix)
    found += _rows(store, fix)
    found += _files(store, deep, fix)
    return found


def _tables(store: Store) -> Iterator[str]:
    """Yield one sentence for each thing in the tables themselves that is damaged; reads all of it."""
    has: dict[str, set[str]] = {}
    count = 0
    try:
        for batch in store.stored("pictures", ["hash", "models"]):
            count += len(batch)
            columns = (batch.column(name).to_pylist() for name in ("hash", "models"))
            has |= {hash: set(models or ()) for hash, models in zip(*columns, strict=True)}
        deque(store.stored("problems", ["path"]), maxlen=0)
    except LibraryError as error:
        yield f"the rows cannot be read: {error}"
        return
    if len(has) < count:
        yield f"{count - len(has):,} hashes appear in the table twice"
    if odd := sum(not HASH.fullmatch(hash) for hash in has):
        yield f"{odd:,} hashes are not hashes"


def _vectors(store: Store, model: str, fix: bool) -> list[Finding]:
    seen: set[str] = set()
    good: set[str] = set()
    rows = 0
    try:
        for batch in store.stored(f"vectors_{model}", ["hash", f"v_{model}"]):
            hashes, column = np.array(batch.column(0).to_pylist(), object), batch.column(1)
            seen.update(hashes)
            rows += len(hashes)
            valid = np.asarray(column.is_valid())
            if valid.any():
                values = matrix(column.filter(pa.array(valid))).astype(np.float32)
                right = np.abs(np.linalg.norm(values, axis=1) - 1) < 0.01
                good.update(hashes[valid][right])
    except LibraryError as error:
        if fix:
            store.remove_model(model)
        remedy = f"{'removed' if fix else _FIX + ' removes them'}; then 'neocog index' with that net makes them again"
        return [Finding(f"the vectors of {model} cannot be read: {error}", remedy)]
    table = store.rows(["hash", "models"], gone=True)
    claims = zip(table.column("hash").to_pylist(), table.column("models").to_pylist(), strict=True)
    lost = [
        (hash, [m for m in models if m != model]) for hash, models in claims if model in models and hash not in good
    ]
    if fix and lost:
        texts = pa.list_(pa.string())
        store.merge(pa.table({"hash": [h for h, _ in lost], "models": pa.array([m for _, m in lost], texts)}))
    remedy = _remedy(fix)
    return [
        *_finding(rows - len(seen), "hash", f"has vectors of {model} twice", remedy, []),
        *_finding(len(lost), f"vector of {model}", "is missing, not finite or not of length 1", remedy, []),
    ]


def _remedy(fix: bool) -> str:
    return "repaired; now 'neocog index'" if fix else f"{_FIX}, then 'neocog index'"


def _finding(
    count: int, one: str, what: str, remedy: str, examples: Iterator[str] | list[str], **options: Any
) -> list[Finding]:
    """None where the count is 0; `what` begins with a verb."""
    if not count:
        return []
    verb, _, rest = what.partition(" ")
    shown = tuple(decode_path(one) for one, _ in zip(examples, range(_SHOWN), strict=False))
    return [Finding(f"{counted(count, one, verb)} {rest}", remedy, examples=shown, **options)]


def _rows(store: Store, fix: bool) -> list[Finding]:
    columns = ["hash", "paths", "mtimes", "inodes", "state", "size"]
    table = store.rows(columns, gone=True)
    owners = Counter(path for paths in table.column("paths").to_pylist() for path in paths or ())
    twice = sorted(path for path, count in owners.items() if count > 1)
    uneven: list[str] = []
    wrong: list[str] = []
    mended: list[dict[str, Any]] = []
    for row in table.to_pylist():
        paths, hash = row["paths"] or [], row["hash"]
        kept = list(zip(paths, row["mtimes"] or [], row["inodes"] or [], strict=False))
        if not len(paths) == len(row["mtimes"] or []) == len(row["inodes"] or []):
            uneven.append(hash)
            kept = []
        kept = [one for one in kept if owners[one[0]] == 1]
        if row["state"] != ("ok" if paths else "gone"):
            wrong.append(hash)
        if len(kept) != len(paths) or row["state"] != ("ok" if kept else "gone"):
            own = dict(zip(("paths", "mtimes", "inodes"), map(list, zip(*kept, strict=True)), strict=False))
            own = own or {"paths": [], "mtimes": [], "inodes": []}
            mended.append({"hash": hash, **own, "state": "ok" if kept else "gone"})
    if fix and mended:
        names = ("hash", "paths", "mtimes", "inodes", "state")
        store.merge(pa.Table.from_pylist(mended, pa.schema([SCHEMA.field(name) for name in names])))
    remedy = _remedy(fix)
    return [
        *_finding(len(twice), "path", "appears in two rows", remedy, twice),
        *_finding(len(uneven), "row", "has paths without times", remedy, uneven),
        *_finding(len(wrong), "row", "has a state that contradicts its paths", remedy, wrong),
    ]


def _files(store: Store, deep: bool, fix: bool) -> list[Finding]:
    roots = [os.fspath(store.path_of(text)) for text in store.folders if not is_elsewhere(text)]
    there = [root for root in roots if os.path.exists(root)]
    away = [root for root in roots if root not in there]
    walk = scan(there, store.text_of, os.fspath(store.folder), store.exclude)
    now = walk.files | {path: one for path, one in walk.videos.items() if can_read(path)}
    table = store.rows(["hash", "paths", "mtimes", "size", "models"])
    known, missing, changed, odd, empty = set(), [], [], [], []
    doubtful: dict[str, list[int]] = {}  # a time of -1 is that of no file
    for row in table.to_pylist():
        if store.models() and not row["models"]:
            empty.append(row["paths"][0])
        for path, mtime in zip(row["paths"] or [], row["mtimes"] or [], strict=False):
            file = file_of(path)
            known |= {path, file}
            if is_elsewhere(path):  # 'neocog index' looks at stores and shards
                continue
            full = store.path_of(file)
            if file in now:
                size, time = now[file].size, now[file].mtime_ns
            else:
                try:
                    status = os.stat(full)
                except OSError:
                    missing.append(path)
                    continue
                size, time = status.st_size, status.st_mtime_ns
            if time != mtime or (size != row["size"] and file == path):
                changed.append(path)
            elif deep and (file == path or can_read(file)):
                try:
                    name = store.name_of(path)
                    if content_hash(read_place(name) if file != path else read_steady(name)[0]) != row["hash"]:
                        odd.append(path)
                        doubtful[row["hash"]] = [-1] * len(row["mtimes"])
                except (OSError, DecodeError):
                    missing.append(path)
    if fix and doubtful:
        times = pa.array(list(doubtful.values()), pa.list_(pa.int64()))
        store.merge(pa.table({"hash": list(doubtful), "mtimes": times}))
    unread = {row["path"] for row in store.problems().to_pylist()}
    fresh = [path for path in now if path not in known and path not in unread]
    again = "'neocog index' brings the library up to date"
    return [
        *_finding(len(away), "indexed folder", "is not there",
                  "connect the disk, or record where they are: neocog library move OLD NEW", away,
                  damage=False, fixable=False),
        *_finding(len(missing), "file", "is gone or unreadable", again, missing, damage=False),
        *_finding(len(changed), "file", "has changed", again, changed, damage=False),
        *_finding(len(fresh), "file", "is not indexed yet", again, fresh, damage=False),
        *_finding(len(empty), "entry", "has no vector", again, empty, damage=False),
        *_finding(len(odd), "file", "has another content at the same size and time (a failing disk?)",
                  _remedy(fix), odd),
    ]  # fmt: skip


def problems(store: Store) -> list[Problem]:
    """The files that could not be read, and why, sorted by path."""
    rows = sorted(store.problems().to_pylist(), key=lambda row: row["path"])
    return [Problem(decode_path(row["path"]), row["reason"]) for row in rows]


def export(
    store: Store,
    path: str | os.PathLike[str],
    *,
    model: str | None = None,
) -> int:
    """Write the rows as Parquet or CSV, by the ending of `path`; returns how many pictures.

    Paths are absolute. `model` adds its vectors and probabilities (Parquet only). In CSV, lists are JSON. A byte of a
    name that is not UTF-8 stands as \\xe9 in Parquet, and in CSV as an escape of JSON, which leads back to the file.

    Raises:
        UsageError: another ending, or vectors for CSV. LibraryError: no such model, or the file cannot be written.
    """
    out = Path(path)
    kind = out.suffix.lower()
    if kind not in (".parquet", ".csv"):
        raise UsageError(f"expected a name that ends with .parquet or .csv, got {str(path)!r}")
    if model is not None and kind == ".csv":
        raise UsageError("vectors are exported to Parquet only; name a file that ends with .parquet")
    if model is not None:
        store.card_of(model)
    columns = [c for c in store.columns if c not in ("thumb", "inodes", "folder", "reason", "state", "models", "flat")]
    columns = [c for c in columns if c[:2] not in ("v_", "n_", "p_") or c[2:] == model]
    table = store.rows(columns)
    paths = [[store.name_of(p) for p in row] for row in table.column("paths").to_pylist()]
    readable = {
        "paths": pa.array([[shown(path) for path in row] for row in paths], pa.list_(pa.string())),
        "name": pa.array([shown(decode_path(name)) for name in table.column("name").to_pylist()], pa.string()),
    }
    for name, values in readable.items():
        table = table.set_column(columns.index(name), name, values)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        if kind == ".parquet":
            with open(part, "wb") as file:  # pyarrow refuses a name that is not UTF-8
                pq.write_table(table, file)
        else:
            with open(part, "w", encoding="utf-8", newline="") as text:
                writer = csv.writer(text)
                writer.writerow(columns)
                for row, own in zip(table.to_pylist(), paths, strict=True):
                    writer.writerow([_cell(value) for value in {**row, "paths": own}.values()])
        os.replace(part, out)
    except OSError as error:
        raise LibraryError(f"{out} cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return len(table)


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return json_text(value)
    return value.isoformat(sep=" ") if hasattr(value, "isoformat") else value
