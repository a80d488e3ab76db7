"""Many people ask one library: answers are kept for a while, are given page by page, and name no file outside it."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from neocog.data.decode import decode, inspect
from neocog.data.sound import begins
from neocog.data.stores import is_sound, told
from neocog.errors import DecodeError, UsageError
from neocog.library.gallery import row_of
from neocog.library.query import Either, Example, Query, Region, parse
from neocog.library.searching import Hit, Ranking, rank
from neocog.library.store import Store
from neocog.library.view import View, find_picture, view_of
from neocog.names import shown

_KEPT = 8  # rankings, of about 20 MB for 100,000 pictures
_AT_ONCE = max(2, os.cpu_count() or 2)  # searches: more would only take memory from each other
MOST = 500  # hits of one page
LARGEST = 64_000_000  # pixels of an example picture


class Asking:
    """Searches one library for several threads at once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._kept: OrderedDict[Any, Ranking] = OrderedDict()
        self._lock = threading.Lock()
        self._turn = threading.BoundedSemaphore(_AT_ONCE)

    def page(
        self,
        text: str = "",
        *,
        like: str = "",
        box: tuple[float, float, float, float] | None = None,
        upload: bytes | None = None,
        name: str = "",
        model: str | None = None,
        threshold: float | None = None,
        offset: int = 0,
        limit: int = 60,
    ) -> dict[str, Any]:
        """Return a page of the hits of a query, JSON-able; without a query all pictures, the newest first.

        Args:
            like: hash of a picture of the library to look like. box: the part of it, or of `upload`, that counts:
                x0, y0, x1, y1 in fractions of width and height.
            upload: the bytes of an example from elsewhere, a picture or a recording. name: of its file.
            model: whose vectors and words are asked; None: the library's own, for recordings where `like` is one.

        Raises:
            UsageError: the query is wrong, or names a picture that is not in the library. NoPicture: so does `like`.
            LibraryError: no such model. DecodeError: `upload` is neither picture nor recording, or too large a picture.
        """
        if not 0 < limit <= MOST or offset < 0:
            raise UsageError(f"expected 1 to {MOST} hits from place 0 on, got {limit} from {offset}")
        given = None if upload is None else _given(upload, name, Region(*box) if box else None)
        ranked = self._ranked(text.strip(), like, box, given, threshold, model)
        view = view_of(self.store)
        unfinished = self.store.unfinished_note()
        hits, answer, total = ranked.hits(offset, offset + limit), ranked.answer, ranked.total
        return {
            "understood": str(answer.query),
            "notes": [*([unfinished] if unfinished else []), *answer.notes],
            "not_understood": list(answer.not_understood),
            "nothing": None if total else ranked.nothing or "no picture answers this",
            "threshold": answer.threshold,
            "best": answer.best,
            "total": total,
            "hits": _told(view, hits),
        }

    def _ranked(
        self, text: str, like: str, box: Any, given: Example | None, threshold: float | None, model: str | None
    ) -> Ranking:
        key = (_state(self.store), text, like, box, threshold, model) if given is None else None
        if (known := self._known(key)) is not None:
            return known
        with self._turn:
            if (known := self._known(key)) is not None:
                return known
            ranked = self._made(text, like, Region(*box) if box else None, given, threshold, model)
        if key is not None:
            with self._lock:
                self._kept[key] = ranked
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
        return ranked

    def _known(self, key: Any) -> Ranking | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _made(
        self, text: str, like: str, region: Region | None, given: Example | None, threshold: float | None,
        model: str | None,
    ) -> Ranking:  # fmt: skip
        view = view_of(self.store)
        asked = _inside(view, parse(text)) if text else Query()
        if like:
            row_of(view, like)
            asked = replace(asked, terms=(*asked.terms, Example(like, region)))
        if given is not None:
            ranked = rank(self.store, replace(asked, terms=(*asked.terms, given)), threshold=threshold, model=model)
            ranked.answer = replace(ranked.answer, query=asked)  # what was typed
            return ranked
        if not asked.terms and asked.duplicates is None:  # all pictures
            asked = replace(asked, duplicates=True)
        return rank(self.store, asked, threshold=threshold, model=model)


def _given(upload: bytes, name: str, region: Region | None) -> Example:
    """An example from elsewhere; the ending of its name says of which kind it is. Raises: DecodeError."""
    name = shown(name)[-100:] or "example"
    if begins(upload):
        return Example(name if is_sound(name) else f"{name}.wav", data=upload)
    info = inspect(upload)
    if info.width * info.height > LARGEST:
        raise DecodeError(
            f"too large: {info.width}x{info.height}; an example may have {LARGEST / 1e6:,.0f} million pixels"
        )
    decode(upload)  # damaged ones are told apart from a search that failed
    return Example(f"{name}.picture" if is_sound(name) else name, region, data=upload)


def _inside(view: View, asked: Query) -> Query:
    """The query with example pictures as hashes. Raises: UsageError: one that the library does not have."""

    def known(term: Any) -> Any:
        if isinstance(term, Either):
            return Either(tuple(tuple(map(known, one)) for one in term.alternatives))
        if not isinstance(term, Example):
            return term
        return replace(term, file=str(view.hashes[find_picture(view, term.file, files=False)[0]]))

    return replace(asked, terms=tuple(map(known, asked.terms)))


def _state(store: Store) -> tuple[Any, ...]:
    """What differs whenever an answer might."""
    files = [store.folder / f"{name}.json" for name in ("taught", "corrections", "calibration", "library")]
    return (store.version(), *(file.stat().st_mtime_ns if file.exists() else 0 for file in files))


def _told(view: View, hits: Sequence[Hit]) -> list[dict[str, Any]]:
    rows = view.rows_of([hit.hash for hit in hits])
    known = view.table.select(["width", "height", "taken"]).take(np.maximum(rows, 0)).to_pylist() if len(view) else []
    return [
        {
            "id": hit.hash,
            "name": shown(told(hit.path).rpartition("/")[2]),
            "score": hit.score if hit.reasons else None,
            "why": [{"witness": r.kind, "what": r.part, "text": r.text, "score": r.value} for r in hit.reasons],
            "near": list(hit.near),
            "width": one["width"],
            "height": one["height"],
            "date": one["taken"].isoformat() if one["taken"] else None,
        }
        for hit, one in zip(hits, known, strict=True)
    ]
