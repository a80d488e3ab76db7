"""Which pictures meet the filters and the exact words of a query."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import PurePath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neocog.data.stores import file_of
from neocog.errors import closest
from neocog.library.evidence import Reason
from neocog.library.fulltext import same_name, words_of
from neocog.library.query import Filter, Moment, Near, Phrase, Query, plain
from neocog.library.rows import encode_path, whole
from neocog.library.view import View, texts

_RADIUS = 6_371_008.8  # metres, the mean one of the Earth
_COLUMNS = {"tag": ("tags", "keywords"), "label": ("labels",), "place": ("places",), "camera": ("camera",)}
_HAS = {
    **_COLUMNS,
    "caption": ("captions", "texts"),
    "gps": ("latitude",),
    "date": ("taken",),
}


def filtered(view: View, query: Query, notes: list[str]) -> tuple[np.ndarray, list[Callable[[int], Reason]]]:
    """Return bool (N,): which pictures meet all filters and exact words; and how to say so for a row."""
    keep = np.ones(len(view), bool)
    reasons: list[Callable[[int], Reason]] = []
    for phrase in query.phrases:
        has = view.text.phrase(phrase.text)
        if not has.any() and not phrase.negative:
            notes.append(f"no text has the words {phrase}")
        keep &= ~has if phrase.negative else has

        def there(row: int, phrase: Phrase = phrase) -> Reason:
            where = " and ".join(view.text.where([phrase.text], row, exactly=True))
            return Reason(str(phrase), "text", 1.0, 0.0, f"{phrase} in its {where}" if where else str(phrase))

        reasons.append(there)
    for one in query.filters:
        has = _meets(view, one, notes)
        keep &= ~has if one.negative else has

        def met(row: int, one: Filter = one) -> Reason:
            return Reason(str(one), "filter", 1.0, 0.0, _said(view, one, row))

        reasons.append(met)
    return keep, reasons


def _meets(view: View, one: Filter, notes: list[str]) -> np.ndarray:
    out = np.zeros(len(view), bool)
    if isinstance(one.value, Moment):
        taken, known = view.taken, ~np.isnat(view.taken)
        if not known.any() and not one.negative:
            notes.append(f"nothing in this library says when it was taken, so {one.field}: finds nothing")
        start, end = np.datetime64(one.value.start, "s"), np.datetime64(one.value.end, "s")
        if one.field == "before":
            return known & (taken < start)
        return known & (taken >= start) & ((taken < end) if one.field == "taken" else True)
    if isinstance(one.value, Near):
        far = _distances(view.table, one.value)
        if np.isnan(far).all() and not one.negative:
            notes.append("no picture of this library has a GPS position, so near: finds nothing")
        return far <= one.value.metres
    if one.field == "has":
        for column in _HAS[one.value]:
            values = view.table.column(column)
            lists = pa.types.is_list(values.type)
            there = pc.greater(pc.list_value_length(values), 0) if lists else pc.is_valid(values)
            out |= np.asarray(pc.fill_null(there, False)).astype(bool)
        return out
    several = [texts(view, column) for column in _COLUMNS.get(one.field, ("paths",))]
    rows = np.concatenate([some for some, _ in several])
    values = pa.concat_arrays([whole(some) for _, some in several])
    if one.field in ("tag", "label"):
        names = same_name(values, one.value)
        if not names and not one.negative:
            notes.append(_no_name(one, pc.unique(values).to_pylist()))
    else:
        if one.field == "folder":
            below = _below(view, one.value, values)
            if below is not None:
                out[rows[below]] = True
                return out
            values = pc.replace_substring_regex(values, r"[^/]*(/\d+\.\d{3})?$", "")  # without the file's own name
            # stored relative to the indexed folder, whose own name is a folder's name as well
            below = pa.scalar(f"/{encode_path(view.store.folder.parent.name)}/", pa.string())
            values = pc.if_else(pc.starts_with(values, "/"), values, pc.binary_join_element_wise(below, values, ""))
        names = [v for v in pc.unique(values).to_pylist() if v is not None and _within(v, one)]
        if not names and not one.negative:
            if one.field != "place":
                notes.append(f"no {one.field} has {one.value!r} in its name")
            elif len(values):
                notes.append(_no_name(one, pc.unique(values).to_pylist()))
            else:
                notes.append(
                    "no picture of this library has a place name (IPTC or XMP city, country, location); by GPS: "
                    "near:48.85,2.35,10km"
                )
    met = np.asarray(pc.fill_null(pc.is_in(values, value_set=pa.array(names, pa.string())), False)).astype(bool)
    out[rows[met]] = True
    return out


def _below(view: View, folder: str, paths: pa.Array) -> np.ndarray | None:
    """Which paths, bool (N,), lie below a folder that is given as other commands print it; None: it is only a name."""
    if not folder.startswith(("/", "~", "./", "../")) and folder not in (".", "..") and not os.path.isabs(folder):
        return None
    whole = os.path.abspath(os.path.expanduser(folder))
    start = view.store.text_of(whole).rstrip("/") + "/"
    found: np.ndarray = np.asarray(pc.fill_null(pc.starts_with(paths, start), False)).astype(bool)
    if view.store.folder.parent.is_relative_to(whole):  # below it are all paths that are kept relative
        found |= ~np.asarray(pc.fill_null(pc.match_substring_regex(paths, "^(/|.:)"), True)).astype(bool)
    return found if found.any() or os.path.isdir(os.path.expanduser(folder)) else None


def _distances(table: pa.Table, place: Near) -> np.ndarray:
    """Metres, float64 (N,), between a place and where pictures were taken; nan where that is not known.

    On a sphere, by the haversine formula, which is right for small distances, too; the Earth's flattening makes 0.5 %.
    """
    north, east = (
        np.radians(np.asarray(table.column(name).to_numpy(), np.float64)) for name in ("latitude", "longitude")
    )
    latitude, longitude = np.radians(place.latitude), np.radians(place.longitude)
    half = np.sin((north - latitude) / 2) ** 2
    half = half + np.cos(north) * np.cos(latitude) * np.sin((east - longitude) / 2) ** 2
    found: np.ndarray = 2 * _RADIUS * np.arcsin(np.sqrt(np.clip(half, 0, 1)))
    return found


def _within(text: str, one: Filter) -> bool:
    """Whether the words of a filter stand in a name; those between slashes in folders that follow each other."""
    wanted = [f" {' '.join(words_of(part))} " for part in str(one.value).split("/") if words_of(part)]
    if not wanted:
        return str(one.value).strip("/") in text
    parts = text.split("/") if one.field == "folder" else [text]
    there = [f" {' '.join(words_of(part))} " for part in parts]
    return any(
        all(w in t for w, t in zip(wanted, there[start:], strict=False))
        for start in range(len(there) - len(wanted) + 1)
    )


def _said(view: View, one: Filter, row: int) -> str:
    if isinstance(one.value, Moment):
        return f"taken {view.table.column('taken')[row].as_py() or 'at an unknown time'}"
    if one.negative or one.field == "has":
        return str(one)
    if isinstance(one.value, Near):
        far = _distances(view.table.slice(row, 1), one.value)[0]
        there = f"{plain(one.value.latitude)},{plain(one.value.longitude)}"
        return f"{far / 1000:.1f} km from {there}" if far >= 1000 else f"{far:.0f} m from {there}"
    if one.field == "camera":
        return f"camera {view.table.column('camera')[row].as_py()}"
    if one.field == "folder":
        return f"in {PurePath(file_of((view.paths(row) or ('',))[0])).parent}"
    said = [name for column in _COLUMNS[one.field] for name in view.table.column(column)[row].as_py() or []]
    return f"{one.field} {', '.join(said)}"


def _no_name(one: Filter, names: list[str | None]) -> str:
    known = sorted(n for n in names if n)
    there = f"; the library has {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}" if known else ""
    return f"no picture has the {one.field} {one.value!r}{closest(str(one.value), known)}{there}"
