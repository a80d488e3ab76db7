"""What a row of a library says of one picture, and how paths become text."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neocog.errors import LibraryError, UsageError, closest

_TEXTS = pa.list_(pa.string())
_WHOLE = pa.list_(pa.int64())

# One row for each distinct content. paths, mtimes and inodes run parallel: one entry for each file of that content.
SCHEMA = pa.schema(
    [
        pa.field("hash", pa.string(), nullable=False),  # content_hash of the file's bytes
        ("paths", _TEXTS),  # see encode_path; relative to the library's parent where the library lies inside
        ("mtimes", _WHOLE),  # nanoseconds
        ("inodes", _WHOLE),  # with size and mtime, a renamed file is known without reading it
        ("folder", pa.string()),  # of the first path
        ("name", pa.string()),  # of the first path
        ("size", pa.int64()),  # bytes
        ("mtime_ns", pa.int64()),  # of the first path
        ("taken", pa.timestamp("s")),  # EXIF, the camera's clock, else the date in the file's name; null if unknown
        ("camera", pa.string()),
        ("latitude", pa.float64()),  # degrees, north positive
        ("longitude", pa.float64()),  # degrees, east positive
        ("width", pa.int32()),  # of the upright picture
        ("height", pa.int32()),
        ("labels", _TEXTS),  # given: by class folders or by the user
        ("tags", _TEXTS),  # concepts that were taught
        ("captions", _TEXTS),
        ("described", _TEXTS),  # a sentence that a net wrote; an empty one where it was not sure (captions.describe)
        ("keywords", _TEXTS),  # what the file says of itself: XMP, IPTC and EXIF (metadata.py)
        ("texts", _TEXTS),  # its titles and descriptions, likewise
        ("places", _TEXTS),  # names of places, likewise
        ("reader", pa.int32()),  # metadata.READER when these were read; null: by an older neocog, which did not
        ("phash", pa.uint64()),  # Look.hashes of data.duplicates
        ("flat", pa.bool_()),  # one even tone: its phash is noise
        ("thumb", pa.binary()),  # data.duplicates.Look.thumbs, 288 bytes
        ("state", pa.string()),  # "ok", or "gone": no file of this content is left
        ("reason", pa.string()),
        ("models", _TEXTS),  # whose vectors this row has
    ]
)
PROBLEMS = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        ("reason", pa.string()),
        ("mtime_ns", pa.int64()),
        ("size", pa.int64()),
    ]
)

HASH = re.compile(r"[0-9a-f]{32}")


def content_hash(data: bytes) -> str:
    """The identity of a picture: BLAKE2b of the file's bytes, 16 bytes as 32 hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


_ESCAPE = "\x10"  # DLE, which nobody types into a file name; doubled where somebody did
_SURROGATE = re.compile("[\udc80-\udcff\x10]")
_ESCAPED = re.compile("\x10(\x10|[89a-f][0-9a-f])")


def encode_path(path: str | os.PathLike[str]) -> str:
    """Return a path as text that can be stored: bytes that are not UTF-8 become DLE and two hexadecimal digits.

    Separators become "/". `decode_path` gives back the very same path.
    """
    text = os.fspath(path)
    if os.sep != "/":
        text = text.replace(os.sep, "/")
    return _SURROGATE.sub(lambda m: _ESCAPE + (_ESCAPE if m[0] == _ESCAPE else f"{ord(m[0]) - 0xDC00:02x}"), text)


def decode_path(text: str) -> str:
    """Undo `encode_path`."""
    path = _ESCAPED.sub(lambda m: _ESCAPE if m[1] == _ESCAPE else chr(0xDC00 + int(m[1], 16)), text)
    return path if os.sep == "/" else path.replace("/", os.sep)


def whole_rows(columns: dict[str, Any], count: int, schema: pa.Schema = SCHEMA) -> pa.Table:
    """Return `count` rows of `schema`; columns that are not given are null, lists are empty."""
    arrays = []
    for field in schema:
        value = columns.get(field.name, [[] if pa.types.is_list(field.type) else None] * count)
        arrays.append(value if isinstance(value, pa.Array | pa.ChunkedArray) else pa.array(value, field.type))
    return pa.table(arrays, schema=schema)


def completed(rows: pa.Table, schema: pa.Schema = SCHEMA) -> pa.Table:
    """Return rows with the columns that an older neocog did not know yet, empty."""
    for field in schema:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows


def vector_column(values: np.ndarray) -> pa.FixedSizeListArray:
    """Return numbers (N, D) as a column of half-precision vectors."""
    half = np.ascontiguousarray(values, dtype=np.float16)
    return pa.FixedSizeListArray.from_arrays(pa.array(half.reshape(-1)), half.shape[1])


def whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return a column in one piece, without copying if it is."""
    if isinstance(column, pa.ChunkedArray):
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return column


def matrix(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return a column of fixed-size lists without nulls as (N, D)."""
    array = whole(column)
    return np.asarray(array.flatten()).reshape(len(array), array.type.list_size)


def is_ok(rows: pa.Table) -> np.ndarray:
    """Return bool (N,): of which pictures a file is there."""
    return np.asarray(pc.equal(rows.column("state"), "ok")).astype(bool)


def has_model(rows: pa.Table, model: str) -> np.ndarray:
    """Return bool (N,): which pictures the model has seen."""
    models, out = rows.column("models"), np.zeros(len(rows), bool)
    is_it = np.asarray(pc.fill_null(pc.equal(pc.list_flatten(models), model), False)).astype(bool)
    out[np.asarray(pc.list_parent_indices(models))[is_it]] = True
    return out


def checked_hashes(hashes: list[Any]) -> list[str]:
    """Return the hashes. Raises: UsageError: one of them is none."""
    for one in hashes:
        if not isinstance(one, str) or not HASH.fullmatch(one):
            raise UsageError(f"expected hashes of 32 hexadecimal digits, got {one!r}")
    return hashes


def incoming(rows: pa.Table, models: dict[str, dict[str, Any]]) -> tuple[pa.Table, dict[str, pa.Table]]:
    """Bring rows into the tables' types, each hash once: those of pictures, and those of vectors for each model.

    Vectors are brought to length 1; the length that they had becomes n_NAME where it is not given.

    Raises:
        UsageError: no hashes, or a column that no table has. LibraryError: a vector of the wrong dimension, or one
            without a direction.
    """
    if "hash" not in rows.column_names:
        raise UsageError("rows need a column 'hash'")
    hashes = checked_hashes(rows.column("hash").to_pylist())
    last = {h: i for i, h in enumerate(hashes)}
    if len(last) < len(hashes):
        rows = rows.take(pa.array(list(last.values())))
    plain: dict[str, Any] = {}
    vectors: dict[str, dict[str, Any]] = {}
    for name in rows.column_names:
        if name in SCHEMA.names:
            plain[name] = rows.column(name).cast(SCHEMA.field(name).type)
            continue
        kind, _, model = name.partition("_")
        if kind not in ("v", "p", "n") or model not in models:
            known = [*SCHEMA.names, *(f"v_{m}" for m in models)]
            raise UsageError(f"no column {name!r}{closest(name, known)}; a model comes in with add_model")
        own = vectors.setdefault(model, {"hash": rows.column("hash").cast(pa.string())})
        if kind == "n":
            own[name] = rows.column(name).cast(pa.float32())
            continue
        values = _numbers(rows.column(name), kind, model, models[model])
        if kind == "v":
            norms = np.linalg.norm(values, axis=1)
            if not np.isfinite(norms).all() or not (norms > 0).all():
                raise LibraryError(f"{model!r} gave vectors that are zero or not finite; are its weights damaged?")
            values = values / norms[:, None]
            own.setdefault(f"n_{model}", pa.array(norms, pa.float32()))
        own[name] = vector_column(values)
    schema = pa.schema([SCHEMA.field(name) for name in plain])
    return pa.table(list(plain.values()), schema=schema), {model: pa.table(own) for model, own in vectors.items()}


def _numbers(column: pa.ChunkedArray, kind: str, model: str, card: dict[str, Any]) -> np.ndarray:
    """A column of vectors ("v") or probabilities ("p") as float32 (N, D), if it has the dimension of the model."""
    width, what = (card["dimension"], "numbers") if kind == "v" else (card["classes"], "probabilities")
    if not pa.types.is_fixed_size_list(column.type) or column.type.list_size != width:
        raise LibraryError(
            f"{model!r} has {width} {what} a picture in this library, got {column.type}; use the net that the library "
            "was indexed with, or index it with the new one"
        )
    if column.null_count:
        raise UsageError(f"{kind}_{model} has no value for {column.null_count} of {len(column)} pictures")
    return matrix(column).astype(np.float32)
