"""Words, dates and places of pictures that an older neocog indexed, which did not read them yet."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from neocog.errors import DecodeError
from neocog.library.metadata import KINDS, READER, date_in_name
from neocog.library.photo import exif_of
from neocog.library.store import Store

_ROWS = 1024  # pictures in one commit
_ENOUGH = 1 << 20  # bytes of a JPEG file that hold all that is read here


def reread(
    store: Store, threads: int, say: Callable[[str], object] = lambda text: None, stop: Callable[[], bool] = bool
) -> int:
    """Read what the present `READER` reads of all pictures that it has not read yet; return how many.

    Pixels are not decoded, and the net sees nothing. A file that is away or was changed is left for the next time.
    """
    table = store.rows(["hash", "paths", "mtimes", "size", "taken", "reader"])
    rows = table.filter(pc.less(table.column("reader").fill_null(0), READER)).to_pylist()
    if not rows:
        return 0
    done = 0
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(rows), _ROWS):
            if stop():
                break
            some = rows[start : start + _ROWS]
            found = [
                {"hash": row["hash"], "taken": row["taken"], **facts}
                for row, facts in zip(some, pool.map(lambda row: _facts(store, row), some), strict=True)
                if facts is not None
            ]
            if found and not done:
                many = f"{len(rows):,} picture{'s' * (len(rows) > 1)}"
                say(f"reading keywords, titles and dates of {many} that an older neocog indexed")
            if found:
                texts = pa.list_(pa.string())
                columns: dict[str, Any] = {
                    name: pa.array([one.get(name, []) for one in found], texts) for name in KINDS
                }
                columns["hash"] = pa.array([one["hash"] for one in found], pa.string())
                columns["taken"] = pa.array([one["taken"] for one in found], pa.timestamp("s"))
                columns["reader"] = pa.array([READER] * len(found), pa.int32())
                store.merge(pa.table(columns))
            done += len(found)
    return done


def _facts(store: Store, row: dict[str, Any]) -> dict[str, Any] | None:
    """What one of the files of a row says; None if none is there as it was indexed."""
    for text, mtime in zip(row["paths"] or (), row["mtimes"] or (), strict=False):
        try:
            with open(store.path_of(text), "rb") as file:
                status = os.fstat(file.fileno())
                if (status.st_size, status.st_mtime_ns) != (row["size"], mtime):
                    continue
                data = file.read(_ENOUGH)
                if not data.startswith(b"\xff\xd8"):
                    data += file.read()
            facts = exif_of(data)
        except DecodeError:
            facts = {}
        except OSError:
            continue
        taken = row["taken"] or facts.get("taken") or date_in_name(text)
        return {**{kind: facts.get(kind, []) for kind in KINDS}, "taken": taken}
    return None
