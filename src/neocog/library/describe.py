"""Describe one picture: what it shows, which pictures resemble it, and what is unusual about it in the library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neocog.data.places import is_there
from neocog.errors import LibraryError
from neocog.library.calibration import counts, hears, lines_from, log_odds, shift_of, sigmoid, threshold_of
from neocog.library.heads import Head
from neocog.library.store import Store
from neocog.library.teaching import answers, concepts_of, said_of
from neocog.library.view import View, find_picture, seen, view_of

_NEIGHBOURS = 5  # whose mean likeness says how crowded a place in feature space is
_SAMPLE = 256  # pictures of the library that a picture is compared with
_SAME = 0.985  # cosine from which two pictures are called almost the same
_COMMON = 0.02  # share of what a library shows from which a kind of thing is no rarity
_BELIEVED = 0.5  # probability from which a picture is called what was taught


@dataclass(frozen=True)
class Neighbour:
    """A picture of the library that is like the one described."""

    hash: str
    path: str
    cosine: float


@dataclass(frozen=True)
class Description:
    """What can be said of a picture.

    Attributes:
        path: its file, or its path in the library. hash: "" if it is not in the library.
        concepts: (name, probability) of the net's classes, the most probable first; those only that a search for their
            name would find, so none if the net is not sure. Probabilities are calibrated, as those of a search.
        broader: (term, probability) of what these amount to, the most special first; likewise.
        taught: (name, probability) of every concept that the user taught.
        nearest: the pictures most similar to it.
        strangeness: share of the library's pictures that have more like them than this one has (0.5 = ordinary,
            0.99 = nearly alone); nan if the library is too small to say.
        unusual: sentences; empty if nothing is.
    """

    path: str
    hash: str
    concepts: tuple[tuple[str, float], ...]
    broader: tuple[tuple[str, float], ...]
    taught: tuple[tuple[str, float], ...]
    nearest: tuple[Neighbour, ...]
    strangeness: float
    unusual: tuple[str, ...]

    @property
    def believed(self) -> tuple[tuple[str, float], ...]:
        """The taught concepts that it more likely shows than not."""
        return tuple((name, p) for name, p in self.taught if p >= _BELIEVED)

    def to_json(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        whole = asdict(self)
        whole["strangeness"] = None if np.isnan(self.strangeness) else self.strangeness
        return whole


def describe(store: Store, picture: str | Path, *, top: int = 8, model: str | None = None) -> Description:
    """Describe a file, or a picture of the library given by its hash or path.

    Raises: UsageError: no such picture. DecodeError: it cannot be read. LibraryError: nothing is indexed yet.
    """
    view = view_of(store)
    chosen = view.model(model, [str(picture)])
    if chosen is None:
        raise LibraryError(f"{store.folder} has no vectors yet, which describing needs; type 'neocog index FOLDER'")
    row, path = find_picture(view, str(picture))
    vector, shown = _seen(view, chosen, row, path)
    unit = vector / max(float(np.linalg.norm(vector)), 1e-12)
    nearest = nearest_to(view, chosen, unit, row, top)
    concepts, broader = _concepts(view, chosen, shown)
    strangeness = _strangeness(view, chosen, unit, row)
    taught = []
    for name, entry in concepts_of(store).items():
        if entry["model"] == chosen:
            own = str(view.hashes[row]) if row >= 0 else ""
            shows, denied = answers(entry, said_of(store, name))
            fixed = 0.99 if own in shows else 0.01 if own in denied else None
            taught.append((name, float(Head.from_card(entry["head"])(unit[None])[0]) if fixed is None else fixed))
    return Description(
        path=str(path or (view.paths(row) or ("",))[0]),
        hash=str(view.hashes[row]) if row >= 0 else "",
        concepts=concepts,
        broader=broader,
        taught=tuple(sorted(taught, key=lambda t: -t[1])),
        nearest=nearest,
        strangeness=strangeness,
        unusual=tuple(_unusual(view, chosen, row, shown, nearest, strangeness, bool(concepts))),
    )


def _seen(view: View, model: str, row: int, path: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Vector (D,) and probabilities (K,), from the library if it has them, else from the net."""
    hashes, vectors = view.store.vectors(model)
    at: np.ndarray = np.flatnonzero(hashes == view.hashes[row]) if row >= 0 else np.zeros(0, np.int64)
    if len(at):
        known = view.store.models()[model].get("classes", 0)
        shown = view.store.probabilities(model)[1][at[0]] if known else np.zeros(0)
        return vectors[at[0]].astype(np.float32), shown.astype(np.float32)
    if path is None or not is_there(str(path)):
        raise LibraryError(f"the file is gone and {model!r} has not seen it; restore the file, or index again")
    return seen(view, model, str(path))


def nearest_to(view: View, model: str, unit: np.ndarray, row: int, top: int) -> tuple[Neighbour, ...]:
    """Return the pictures most like a vector (D,) of length 1, but for the one in `row` (-1: none)."""
    if not len(view.store.vectors(model)[0]):
        return ()
    hashes, alike = view.store.nearest(model, unit, top + 1)
    own = str(view.hashes[row]) if row >= 0 else ""
    found = []
    for one, cosine in zip(hashes[0], alike[0], strict=True):
        place = int(view.rows_of([one])[0])
        if str(one) != own and place >= 0:
            found.append(Neighbour(str(one), (view.paths(place) or ("",))[0], float(cosine)))
    return tuple(found[:top])


def _concepts(
    view: View, model: str, shown: np.ndarray
) -> tuple[tuple[tuple[str, float], ...], tuple[tuple[str, float], ...]]:
    concepts = view.vocabulary(model)
    if concepts is None or len(shown) != len(concepts):
        return (), ()
    counted = counts(view.store.models()[model])
    line = lines_from(view.store.load("calibration"), model, counted=counted).get("word")
    least = threshold_of("word", model, counted=counted)
    if line is None:  # those that may be named
        some = np.flatnonzero(shown >= 0.01)
        shifts = np.array([shift_of(view, model, int(k)) for k in some], np.float32)
        shown = shown.astype(np.float32)
        shown[some] = sigmoid(log_odds(shown[some]) + shifts)

    def judged(p: Any) -> float:
        return float(line(log_odds(np.array(p)))) if line is not None else float(p)

    order = np.argsort(-shown, kind="stable")[:5]
    named = {concepts.classes[i]: judged(shown[i]) for i in order}
    named = {name: p for name, p in named.items() if p >= least}
    broader = ((term, judged(p)) for term, p in concepts.summary(shown) if term not in named)
    return tuple(named.items()), tuple([one for one in broader if one[1] >= least][:4])


def _strangeness(view: View, model: str, unit: np.ndarray, row: int) -> float:
    """Share of pictures whose neighbours are nearer than this one's: 1 - density's rank, by the mean of k cosines."""
    hashes, vectors = view.store.vectors(model)
    if len(hashes) < 4 * _NEIGHBOURS:
        return float("nan")
    some = np.unique(np.linspace(0, len(hashes) - 1, min(_SAMPLE, len(hashes))).astype(int))
    if row >= 0:
        some = some[hashes[some] != view.hashes[row]]
    queries = np.concatenate([unit[None], vectors[some].astype(np.float32)])
    own = np.array([view.hashes[row] if row >= 0 else "", *hashes[some]])
    found, alike = view.store.nearest(model, queries, _NEIGHBOURS + 1)
    likeness = []
    for me, names, values in zip(own, found, alike, strict=True):
        others = values[names != me][:_NEIGHBOURS]
        likeness.append(float(others.mean()))
    return float(np.mean(np.array(likeness[1:]) > likeness[0]))


def _unusual(
    view: View,
    model: str,
    row: int,
    shown: np.ndarray,
    nearest: Sequence[Neighbour],
    strangeness: float,
    sure: bool,
) -> list[str]:
    said, kind = [], "recording" if hears(view.store.models()[model]) else "picture"
    if strangeness >= 0.95:
        said.append(f"few {kind}s resemble it: {100 * strangeness:.0f} % of the library's have nearer neighbours")
    if nearest and nearest[0].cosine >= _SAME:
        said.append(f"it is almost the same {kind} as {nearest[0].path} (cosine {nearest[0].cosine:.3f})")
    concepts = view.vocabulary(model)
    if concepts is not None and len(shown) == len(concepts) and len(view) >= 50:
        values = view.store.probabilities(model)[1]
        step = max(1, len(values) // 2000)
        usual = values[::step].astype(np.float32).mean(axis=0)
        best = int(shown.argmax())
        kinds = (concepts.find(term, typos=False) for term in concepts.broader(best))
        # one breed of 118 is always rare; a terrier is not where there are dogs
        known = any(
            kind is not None and 5 * len(kind.concepts) <= len(concepts) and usual[list(kind.concepts)].sum() >= _COMMON
            for kind in kinds
        )
        if sure and usual[best] < 0.005 and not known:
            share = f"{100 * usual[best]:.2f} %" if usual[best] >= 5e-5 else "almost nothing"
            said.append(f"{concepts.classes[best]} is rare here: {share} of what the library shows")
    if row >= 0:
        labels, places = view.table.column("labels"), view.rows_of([one.hash for one in nearest])
        own = set(labels[row].as_py() or ())
        around = Counter(label for place in places.tolist() for label in set(labels[place].as_py() or ()))
        if own and around:
            label, count = around.most_common(1)[0]
            if label not in own and 2 * count > len(nearest):
                mine = " and ".join(sorted(own))
                said.append(f"it is labelled {mine}, but {count} of the {len(nearest)} most similar {kind}s {label}")
    return said
