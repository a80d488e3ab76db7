"""Own words: teach a concept from a few pictures, tag the library with it, and learn from corrections.

Everything that the user said is data and kept as such: ``taught.json`` has the examples of each concept and what was
learned from them, ``corrections.json`` every "yes, this is" and "no, it is not" in the order in which it was said.
source.py makes labelled pictures of both, which a whole net can be trained on.
"""

from __future__ import annotations

import base64
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neocog.data.listing import files_of
from neocog.data.places import read_place
from neocog.errors import DecodeError, LibraryError, UsageError, closest
from neocog.library.concepts import normalise
from neocog.library.heads import Head, learn
from neocog.library.lock import Lock
from neocog.library.rows import content_hash
from neocog.library.store import Store
from neocog.library.view import View, find_picture, view_of

TAG_FROM = 0.5  # a picture gets the tag from this probability on
_LONGEST = 100  # characters of a name
_ALIKE = 0.97  # cosine from which one of two uncertain pictures is enough to ask about


@dataclass(frozen=True)
class Proposal:
    """A picture to ask about: is it the concept? The answer goes to `correct`."""

    hash: str
    path: str
    probability: float


@dataclass(frozen=True)
class Taught:
    """What teaching or correcting led to.

    Attributes:
        examples, negatives: pictures that were learned from, corrections included.
        tagged: pictures that carry the tag now; `changed` of them gained or lost it this time.
        share: estimated share of the library that shows it.
        quality: share of pairs (example, other picture) ranked right when the example was held out; nan below 3.
        uncertain: what to ask about next, the most uncertain first.
        notes: examples that could not be used, and why.
    """

    name: str
    model: str
    examples: int
    negatives: int
    tagged: int
    changed: int
    share: float
    quality: float
    uncertain: tuple[Proposal, ...]
    notes: tuple[str, ...]
    seconds: float


def teach(
    store: Store,
    name: str,
    examples: Iterable[Any],
    negatives: Iterable[Any] = (),
    *,
    model: str | None = None,
    ask: int = 12,
) -> Taught:
    """Teach a concept, or give one that is known more examples; tag the whole library with it.

    Args:
        name: as it will be searched for and shown, such as "our cat".
        examples: files, folders of files, hashes, or hits of a search; pictures need not be in the library.
        negatives: the same, of what it is not.
        ask: how many uncertain pictures are proposed.

    Raises: UsageError: no usable example, or a picture is both. LibraryError: nothing is indexed yet.
    """
    start = time.perf_counter()
    name = " ".join(name.split())
    if not normalise(name) or len(name) > _LONGEST or name != name.encode(errors="replace").decode():
        raise UsageError(
            f"a concept needs a name of at most {_LONGEST} characters, such as 'our cat', got {name[:60]!r}"
        )
    view = view_of(store)
    examples = [examples] if isinstance(examples, str | Path) else list(examples)
    if (chosen := view.model(model, [str(getattr(one, "hash", one)) for one in examples])) is None:
        raise LibraryError(
            f"{store.folder} has no vectors yet, so nothing can be taught; type 'neocog index FOLDER' first"
        )
    notes: list[str] = []
    yes, no = (_vectors(view, chosen, given, notes) for given in (examples, negatives))
    with _changing(store):
        whole = store.load("taught", {})
        name = next((known for known in whole if normalise(known) == normalise(name)), name)
        old = whole.get(name, {"yes": {}, "no": {}})
        if old.get("model", chosen) != chosen:
            if model is not None:
                raise UsageError(
                    f"{name!r} was taught with the model {old['model']!r}; omit --model, or forget {name!r} first"
                )
            raise LibraryError(f"{name!r} was taught with the model {old['model']!r}; forget it and teach it anew")
        entry = {"model": chosen, "yes": {**old["yes"], **yes}, "no": {**old["no"], **no}}
        if both := sorted(set(entry["yes"]) & set(entry["no"])):
            row = int(view.rows_of(both[:1])[0])
            first = (view.paths(row) if row >= 0 else None) or both
            raise UsageError(
                f"{len(both)} of the pictures are given both as {name!r} and as not {name!r}; the first is {first[0]}"
            )
        if not entry["yes"]:
            raise UsageError(
                f"expected at least one picture that shows {name!r}; {'; '.join(notes) or 'none was given'}"
            )
        whole[name] = entry
        return _learned(store, view, name, whole, ask, notes, start)


def correct(store: Store, picture: str, name: str, right: bool, *, ask: int = 12) -> Taught:
    """As `correct_all`, of one picture."""
    return correct_all(store, name, [(picture, right)], ask=ask)


def correct_all(store: Store, name: str, said: Iterable[tuple[str, bool]], *, ask: int = 12) -> Taught:
    """Say that pictures of the library (hash or path) are, or are not, what `name` says; learn from it at once.

    Raises: UsageError: no such picture or concept.
    """
    start = time.perf_counter()
    view = view_of(store)
    rows = [(find_picture(view, picture)[0], picture, right) for picture, right in said]
    for row, picture, _ in rows:
        if row < 0:
            raise UsageError(f"{picture} is not in the library; index its folder first, or teach it as an example")
    with _changing(store):
        whole = store.load("taught", {})
        name = known_name(whole, name)
        events = store.load("corrections", [])
        now = time.strftime("%Y-%m-%dT%H:%M:%S")
        for row, _, right in rows:
            events.append({"hash": str(view.hashes[row]), "name": name, "right": bool(right), "time": now})
        store.save("corrections", events)
        return _learned(store, view, name, whole, ask, [], start)


def take_back(store: Store, name: str, picture: str) -> Taught:
    """Forget the last correction of `name` on a picture (its hash), and learn it again without. Raises: UsageError."""
    start, view = time.perf_counter(), view_of(store)
    with _changing(store):
        whole, events = store.load("taught", {}), store.load("corrections", [])
        name = known_name(whole, name)
        places = [i for i, e in enumerate(events) if (e["hash"], e["name"]) == (picture, name)]
        if not places:
            raise UsageError(f"nothing was said about {name!r} on the picture {picture}")
        store.save("corrections", [e for i, e in enumerate(events) if i != places[-1]])
        return _learned(store, view, name, whole, 0, [], start)


def progress(store: Store, name: str, ask: int = 12) -> Taught:
    """Return how well a taught concept is known, as `teach` returned it, without learning. Raises: UsageError."""
    view, whole = view_of(store), store.load("taught", {})
    name = known_name(whole, name)
    entry, said = whole[name], said_of(store, name)
    yes, no = answers(entry, said)
    return _told(view, name, entry, said, ask, probabilities(view, entry, said), len(yes), len(no))


def lessons(store: Store, shown: int = 4) -> list[dict[str, Any]]:
    """Return each taught concept: name, examples and negatives (numbers), tagged, and the hashes of some examples."""
    view = view_of(store)
    tags = Counter(pc.list_flatten(view.table.column("tags")).to_pylist())
    found = []
    for name, entry in store.load("taught", {}).items():
        yes, no = answers(entry, said_of(store, name))
        rows = view.rows_of(yes)
        some = [h for h, row in zip(yes, rows, strict=True) if row >= 0][:shown]
        found.append({"name": name, "examples": len(yes), "negatives": len(no), "tagged": tags[name], "pictures": some})
    return found


def propose(store: Store, name: str, count: int = 12) -> tuple[Proposal, ...]:
    """Return the pictures whose probability of being `name` is nearest to one half, no two alike, none answered yet."""
    view, whole = view_of(store), store.load("taught", {})
    name = known_name(whole, name)
    entry, said = whole[name], said_of(store, name)
    return _uncertain(view, entry, said, count, probabilities(view, entry, said))


def forget(store: Store, name: str) -> None:
    """Remove a concept, its examples, corrections and tags."""
    with _changing(store):
        whole = store.load("taught", {})
        name = known_name(whole, name)
        view = view_of(store)
        _tag(store, view, name, np.zeros(len(view), bool))
        del whole[name]
        store.save("corrections", [e for e in store.load("corrections", []) if e["name"] != name])
        store.save("taught", whole)


def tag_again(store: Store) -> dict[str, int]:
    """Tag the library with every concept anew, after pictures came in; returns how many tags changed, by name."""
    view, changed = view_of(store), {}
    with _changing(store):
        for name, entry in store.load("taught", {}).items():
            if entry["model"] in store.models():
                p = probabilities(view, entry, said_of(store, name))
                changed[name] = _tag(store, view, name, p >= TAG_FROM)
                view = view_of(store)
    return changed


def concepts_of(store: Store) -> dict[str, dict[str, Any]]:
    """Return what was taught: name -> its entry, with "model", "yes", "no" and "head"."""
    return dict(store.load("taught", {}))


def said_of(store: Store, name: str) -> dict[str, bool]:
    """Return the corrections of a concept: hash -> the last that was said."""
    return {e["hash"]: bool(e["right"]) for e in store.load("corrections", []) if e["name"] == name}


def probabilities(view: View, entry: dict[str, Any], said: dict[str, bool]) -> np.ndarray:
    """Return float32 (N,): the probability of a taught concept for every picture; what the user said is certain."""
    out = np.zeros(len(view), np.float32)
    rows, vectors = view.vectors(entry["model"])
    out[rows] = Head.from_card(entry["head"])(vectors)
    shown, denied = answers(entry, said)
    for answer, hashes in ((0.99, shown), (0.01, denied)):
        found = view.rows_of(hashes)
        out[found[found >= 0]] = answer
    return out


def answers(entry: dict[str, Any], said: dict[str, bool]) -> tuple[list[str], list[str]]:
    """Return the hashes that show a concept and those that do not, as the user said; the last word counts."""
    last = {**dict.fromkeys(entry["yes"], True), **dict.fromkeys(entry["no"], False), **said}
    return [h for h, right in last.items() if right], [h for h, right in last.items() if not right]


def known_name(whole: dict[str, Any], name: str) -> str:
    """Return the name of a taught concept as it was taught. Raises: UsageError if there is none."""
    for known in whole:
        if normalise(known) == normalise(name):
            return known
    there = f"the taught ones are {', '.join(whole)}" if whole else "nothing was taught yet"
    raise UsageError(f"no concept {name!r} was taught{closest(name, whole)}; {there}")


# ---- inside


def _learned(
    store: Store, view: View, name: str, whole: dict[str, Any], ask: int, notes: Sequence[str], start: float
) -> Taught:
    """Learn `name` from its examples and corrections, keep what was learned, tag, and say what came of it."""
    entry, said = whole[name], said_of(store, name)
    yes, no = dict(entry["yes"]), dict(entry["no"])
    for key, right in said.items():
        (no if right else yes).pop(key, None)
        (yes if right else no)[key] = None
    if not yes:
        raise UsageError(
            f"every example of {name!r} was rejected by a correction; teach it with new ones, or forget it"
        )
    rows, vectors = view.vectors(entry["model"])
    place = np.full(len(view), -1)
    place[rows] = np.arange(len(rows))

    def gather(keys: dict[str, Any]) -> np.ndarray:
        found = []
        for key, kept in keys.items():
            row = int(view.rows_of([key])[0])
            if row >= 0 and place[row] >= 0:
                found.append(vectors[place[row]])
            elif isinstance(kept, dict):
                found.append(np.frombuffer(base64.b64decode(kept["vector"]), np.float16))
        return np.array(found, np.float16).reshape(len(found), vectors.shape[1])

    positive, negative = gather(yes), gather(no)
    if not len(positive):
        raise LibraryError(f"no example of {name!r} has a vector of {entry['model']!r} any more; teach it anew")
    known = view.rows_of([*yes, *no])
    free = ~np.isin(rows, known[known >= 0])
    rest = vectors[free] if not free.all() else vectors
    if not len(rest) and not len(negative):
        raise UsageError(
            f"{name!r} has nothing to be compared with; index more pictures, or give some that do not show it"
        )
    head = learn(positive, negative, rest)
    entry["head"] = head.card()
    store.save("taught", whole)
    p = probabilities(view, entry, said)
    changed = _tag(store, view, name, p >= TAG_FROM)
    told = _told(view, name, entry, said, ask, p, len(positive), len(negative))
    return replace(told, changed=changed, notes=tuple(notes), seconds=time.perf_counter() - start)


def _told(
    view: View, name: str, entry: dict[str, Any], said: dict[str, bool], ask: int, p: np.ndarray, yes: int, no: int
) -> Taught:
    head, uncertain = Head.from_card(entry["head"]), _uncertain(view, entry, said, ask, p)
    tagged = int((p >= TAG_FROM).sum())
    return Taught(name, entry["model"], yes, no, tagged, 0, head.share, head.quality, uncertain, (), 0.0)


def _tag(store: Store, view: View, name: str, wanted: np.ndarray) -> int:
    """Give the tag to the pictures where `wanted`, take it from the others; returns how many changed."""
    tags = view.table.column("tags").to_pylist()
    has = np.array([name in (t or ()) for t in tags], bool)
    rows = np.flatnonzero(has != wanted)
    if len(rows):
        new = [[t for t in (tags[i] or ()) if t != name] + [name] * bool(wanted[i]) for i in rows]
        hashes = pa.array([str(h) for h in view.hashes[rows]])
        store.merge(pa.table({"hash": hashes, "tags": pa.array(new, pa.list_(pa.string()))}))
    return len(rows)


def _uncertain(
    view: View, entry: dict[str, Any], said: dict[str, bool], count: int, p: np.ndarray
) -> tuple[Proposal, ...]:
    rows, vectors = view.vectors(entry["model"])
    answered = {*said, *entry["yes"], *entry["no"]}
    order = np.argsort(np.abs(p[rows] - 0.5), kind="stable")
    out: list[Proposal] = []
    seen: list[np.ndarray] = []
    for at in order[: 10 * count + len(answered)]:
        row = int(rows[at])
        vector = vectors[at].astype(np.float32)
        if str(view.hashes[row]) in answered or any(float(vector @ other) > _ALIKE for other in seen):
            continue
        if len(out) == count:
            break
        seen.append(vector)
        out.append(Proposal(str(view.hashes[row]), (view.paths(row) or ("",))[0], float(p[row])))
    return tuple(out)


def _vectors(view: View, model: str, given: Iterable[Any], notes: list[str]) -> dict[str, Any]:
    """hash -> None for a picture of the library, else its vector and path; what cannot be read goes to `notes`."""
    found: dict[str, Any] = {}
    outside: list[tuple[str, Path, bytes]] = []
    seen = set(view.rows_of(view.store.vectors(model)[0]).tolist())
    for one in [given] if isinstance(given, str | Path) else given:
        for file in _files(getattr(one, "hash", one)):
            try:
                row, path = find_picture(view, file)
            except DecodeError as error:
                notes.append(str(error))
                continue
            if row in seen:
                found[str(view.hashes[row])] = None
            elif path is not None:
                data = read_place(str(path))
                outside.append((content_hash(data), path, data))
    parts = [outside[start : start + 64] for start in range(0, len(outside), 64)]
    while parts:
        part = parts.pop(0)
        try:
            features = view.embed(model, [data for _, _, data in part])[0]
        except DecodeError as error:
            if len(part) > 1:
                parts[:0] = [[one] for one in part]
            else:
                notes.append(f"{part[0][1]}: {error}")
            continue
        for (key, path, _), vector in zip(part, features, strict=True):
            unit = (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float16)
            found[key] = {"path": str(path.absolute()), "vector": base64.b64encode(unit.tobytes()).decode()}
    return found


def _files(one: Any) -> list[str]:
    path = Path(one).expanduser()
    if not str(one) or not os.path.isdir(path):  # which also says no where a name is too long
        return [str(one)]
    return [str(one) for one in files_of(path)]


def _changing(store: Store) -> Lock:
    """One process teaches at a time: what it read must not change before it writes."""
    return Lock(store.folder / "taught.lock", "teaching it", wait=60)
