"""A contact sheet: the hits of a search as one picture; under each its score, name, strongest reason, and what was not
understood."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from neocog.data.places import read_place
from neocog.data.stores import told
from neocog.errors import DataError, MissingExtra, UsageError
from neocog.library.photo import pixels_of

_INK, _SOFT, _PAPER, _BLANK = (24, 24, 27), (113, 113, 122), (255, 255, 255), (228, 228, 231)
_GAP = 12  # pixels between pictures
_LARGEST = 20_000  # pixels of the sheet's height


def sheet(
    hits: Sequence[Any], path: str | os.PathLike[str], *, columns: int = 5, side: int = 200, title: str = ""
) -> Path:
    """Draw hits (see `searching.Hit`), or anything with a `path`, into one picture file and return where it is.

    A file that is gone or cannot be read leaves a grey field that says so, and no hits a page that says so; the format
    is that of the file's ending.

    Raises: UsageError: sizes that cannot be drawn, or an ending that Pillow does not know.
    """
    if not 1 <= columns <= 50 or not 32 <= side <= 2000:
        raise UsageError(f"expected 1 to 50 columns of 32 to 2,000 pixels, got {columns} of {side}")
    small, large = ImageFont.load_default(12), ImageFont.load_default(18)
    columns = min(columns, len(hits) or columns)
    lines = max((len(_lines(i, hit, side)) for i, hit in enumerate(hits)), default=2)
    head = 40 if title else _GAP
    cell = side + 16 * lines + _GAP
    width = columns * (side + _GAP) + _GAP
    height = head + (-(-len(hits) // columns) or 1) * cell + _GAP
    if height > _LARGEST:
        raise UsageError(
            f"{len(hits)} hits make a sheet of {height:,} pixels in height, {_LARGEST:,} are accepted; take more "
            "columns, smaller pictures or fewer hits"
        )
    page = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(page)
    if title:
        draw.text((_GAP, 10), _fitting(title, width - 2 * _GAP, large), _INK, large)
    if not len(hits):
        draw.text((_GAP, head), _fitting("Nothing was found; --all shows the nearest.", width, small), _SOFT, small)
    for i, hit in enumerate(hits):
        left, top = _GAP + i % columns * (side + _GAP), head + i // columns * cell
        picture = _thumbnail(str(hit.path), side)
        if isinstance(picture, str):
            draw.rectangle((left, top, left + side - 1, top + side - 1), _BLANK)
            draw.text((left + 6, top + side // 2 - 6), _fitting(picture, side - 12, small), _SOFT, small)
        else:
            page.paste(picture, (left + (side - picture.width) // 2, top + (side - picture.height) // 2))
        for line, (text, ink) in enumerate(_lines(i, hit, side)):
            draw.text((left, top + side + 3 + 16 * line), _fitting(text, side, small), ink, small)
    out = Path(os.path.abspath(path))
    try:
        page.save(out)
    except ValueError:
        raise UsageError(f"expected a picture file such as sheet.png, got {out.name!r}") from None
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror or error}") from None
    return out


def _lines(i: int, hit: Any, side: int) -> list[tuple[str, tuple[int, int, int]]]:
    score = getattr(hit, "score", getattr(hit, "probability", getattr(hit, "cosine", None)))
    said = [(f"{i + 1}." if score is None else f"{i + 1}.  {score:.2f}", _INK), (Path(told(hit.path)).name, _SOFT)]
    reasons = [reason for reason in getattr(hit, "reasons", ()) if reason.kind != "unknown"]
    if reasons and reasons[0].kind == "sentence":  # it speaks for all words
        said.append((reasons[0].text, _SOFT))
    elif reasons:  # what was looked for before what it is not
        said.append(
            (max(reasons, key=lambda r: (not r.part.startswith(("-", "unlike")), r.weight > 0, r.value)).text, _SOFT)
        )
    unknown = [reason.text for reason in getattr(hit, "reasons", ()) if reason.kind == "unknown"]
    said += [(line, _SOFT) for text in unknown for line in wrap(text, max(8, side // 6), max_lines=3)]
    return said


def _thumbnail(path: str, side: int) -> Image.Image | str:
    """The picture, at most `side` pixels wide and high, or why there is none."""
    try:
        picture = Image.fromarray(pixels_of(read_place(path), short_side=side))
    except OSError as error:
        return error.strerror or "not readable"
    except (DataError, MissingExtra) as error:
        return str(error)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


def _fitting(text: str, width: int, font: Any) -> str:
    """Text cut off with dots where it is too long, and without what cannot be drawn on a line."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:  # the longest beginning that fits
        middle = (low + high + 1) // 2
        if font.getlength(text[:middle] + "...") <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low] + "..."
