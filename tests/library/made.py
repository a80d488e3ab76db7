"""A library made of rows, for tests of searching: no files, no net; what a picture shows is written down here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from neocog.library import view
from neocog.library.concepts import vocabulary
from neocog.library.rows import content_hash, encode_path, vector_column, whole_rows
from neocog.library.store import Store

DIMENSION = 32


@dataclass
class Picture:
    """A row: `shows` gives class names their probabilities, `kind` says near which centre the vector lies."""

    name: str
    shows: Mapping[str, float] = field(default_factory=dict)
    kind: int = 0
    labels: Sequence[str] = ()
    tags: Sequence[str] = ()
    captions: Sequence[str] = ()
    keywords: Sequence[str] = ()
    texts: Sequence[str] = ()
    places: Sequence[str] = ()
    position: tuple[float, float] | None = None
    taken: datetime | None = None
    camera: str | None = None
    phash: int | None = None
    vector: np.ndarray | None = None

    @property
    def hash(self) -> str:
        return content_hash(self.name.encode())


class Eye:
    """Stands for a net: the vector of a picture is that of its kind, which its first byte or pixel says."""

    def __init__(self, classes: int) -> None:
        self.classes, self.seen = classes, 0

    def embed(self, pictures: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        self.seen += len(pictures)
        kinds = [int(one[0]) if isinstance(one, bytes) else int(one[0, 0, 0]) for one in pictures]
        return np.stack([centre(k) * 5 for k in kinds]), np.full(
            (len(kinds), self.classes), 1 / self.classes, np.float32
        )


def centre(kind: int) -> np.ndarray:
    """A direction for a kind of picture, at right angles to those of other kinds below 16."""
    out = np.full(DIMENSION, 0.15, np.float32)  # all pictures have something in common, as a net's features do
    out[kind % DIMENSION] += 1
    return out


def made(folder: Path, pictures: Sequence[Picture], classes: str | Sequence[str] = "imagenet") -> Store:
    """Return a library of these pictures, below `folder`."""
    names = vocabulary(classes).classes
    place = {name: i for i, name in enumerate(names)}
    store = Store.create(folder / ".neocog")
    card = {"concepts": classes if isinstance(classes, str) else list(classes), "weights": "none"}
    store.add_model("toy", DIMENSION, card, classes=len(names))
    if not pictures:
        return store
    random = np.random.default_rng(0)
    vectors = np.stack(
        [centre(p.kind) + 0.1 * random.normal(size=DIMENSION) if p.vector is None else p.vector for p in pictures]
    ).astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1)
    chances = np.zeros((len(pictures), len(names)), np.float32)
    for row, picture in zip(chances, pictures, strict=True):
        for name, p in picture.shows.items():
            row[place[name]] = p
        row += max(0.0, 1 - row.sum()) / len(names)
    columns = {
        "hash": [p.hash for p in pictures],
        "paths": [[encode_path(p.name)] for p in pictures],
        "labels": [list(p.labels) for p in pictures],
        "tags": [list(p.tags) for p in pictures],
        "captions": [list(p.captions) for p in pictures],
        "keywords": [list(p.keywords) for p in pictures],
        "texts": [list(p.texts) for p in pictures],
        "places": [list(p.places) for p in pictures],
        "latitude": [p.position and p.position[0] for p in pictures],
        "longitude": [p.position and p.position[1] for p in pictures],
        "taken": pa.array([p.taken for p in pictures], pa.timestamp("s")),
        "camera": [p.camera for p in pictures],
        "phash": pa.array([p.phash for p in pictures], pa.uint64()),
        "width": pa.array([640 for _ in pictures], pa.int32()),
        "height": pa.array([480 for _ in pictures], pa.int32()),
        "flat": [False for _ in pictures],
        "state": ["ok" for _ in pictures],
        "models": [["toy"] for _ in pictures],
    }
    rows = whole_rows(columns, len(pictures))
    rows = rows.append_column("v_toy", vector_column(vectors / norms[:, None]))
    rows = rows.append_column("n_toy", pa.array(norms, pa.float32()))
    store.add(rows.append_column("p_toy", vector_column(chances)))
    return store


def seen_by(store: Store, eye: Eye) -> None:
    """Let a net of ours see the pictures that are not in the library."""
    view._nets[str(store.folder), "toy"] = eye


def names(hits: Sequence[Any]) -> list[str]:
    """The file names of hits, in order."""
    return [Path(hit.path).name for hit in hits]
