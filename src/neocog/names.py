"""Text that is not valid Unicode: how names of files, which are bytes on disk, are shown and written.

Python keeps a byte of a file's name that is not UTF-8 as a lone surrogate (``bad\\xe9.png`` is ``'bad\\udce9.png'``),
so that the file can be opened; no encoding writes such a character. People read it as ``\\xe9`` (`shown`), programs as
the JSON escape ``\\udce9``, which leads back to the file (`json_text`).
"""

from __future__ import annotations

import codecs
import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from numbers import Rational
from typing import Any

STREAM_ERRORS = "neocog.shown"  # the error handler for text streams: any text can be written, in any encoding

_LONE = re.compile("[\ud800-\udfff]+")


def shown(text: str) -> str:
    """Return `text` with every byte that is not UTF-8 as ``\\xe9``; anything else is returned as it is."""
    return text if text.isascii() else _LONE.sub(lambda found: _visible(found[0]), text)


def json_text(
    value: Any, *, indent: int | None = None, default: Callable[[Any], Any] | None = None, strict: bool = False
) -> str:
    """Return `value` as JSON that every encoding of Unicode can write; reading it gives the same texts back.

    `strict`: a number that is none raises ValueError; else it is written as Python does, which browsers do not read.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=default, allow_nan=not strict)
    return text if text.isascii() else _LONE.sub(lambda found: _escaped(found[0]), text)


def plain(value: Any) -> Any:
    """Return `value` as JSON shows it: records as objects, numpy as numbers and lists, not-a-number as null.

    Numbers keep seven digits, as float32 does, and above 1 six decimals, so 1e-6 degrees or seconds; what has to be
    exact is written by `json_text` alone.
    """
    if hasattr(value, "to_json"):
        return plain(value.to_json())
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return (float(f"{value:.7g}") if abs(value) < 1 else round(value, 6)) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # the fields alone: asdict() would deep-copy arrays
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "tolist"):  # numpy scalars and arrays, tensors
        return plain(value.tolist())
    return plain(float(value)) if isinstance(value, Rational) else str(value)


def _visible(lone: str) -> str:
    try:
        # under an ASCII locale the bytes of a UTF-8 name are surrogates too
        return lone.encode("ascii", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return _escaped(lone)


def _escaped(text: str) -> str:
    r"""Return ``\u00e9`` escapes, as JSON has them, also where the character is beyond 16 bits."""
    return json.dumps(text)[1:-1]


def _write(error: UnicodeError) -> tuple[str, int]:
    """Replace what a stream cannot encode: bytes of names as `shown`, other characters by JSON's escape.

    JSON thus stays JSON on a terminal that knows ASCII alone.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return _escaped(_LONE.sub(lambda found: _visible(found[0]), text)).replace("\\\\", "\\"), error.end


codecs.register_error(STREAM_ERRORS, _write)
