"""Whether annotated places lie in their pictures: looked at before a training, which would learn nothing of others."""

from __future__ import annotations

import numpy as np

from neocog.data.decode import inspect
from neocog.data.kinds import BoxSet
from neocog.data.source import Source
from neocog.errors import DataError
from neocog.records import counted

_LOOK_AT = 100  # pictures whose size is read
_MANY = 0.1  # share of places outside from which on it is told


def check_inside(source: Source, rows: np.ndarray, role: str) -> list[str]:
    """Notes on places of the column `role`, boxes or points, that lie outside of the pictures `rows`.

    Raises:
        DataError: all do.
    """
    column = source.columns[role]
    known = [] if source.drawn else [int(i) for i in rows if (one := column[int(i)]) is not None and len(_corners(one))]
    inside, every = 0, 0
    for k in np.unique(np.linspace(0, len(known) - 1, min(_LOOK_AT, len(known))).astype(int)):
        try:
            data = source.read(known[k])
            size = data.shape[1::-1] if isinstance(data, np.ndarray) else (inspect(data).width, inspect(data).height)
        except (DataError, OSError):
            continue  # told elsewhere
        corners = _corners(column[known[k]])
        cut = np.clip(corners, 0, np.array((*size, *size)))
        least = 0 if role == "points" else 1e-6  # a box that is empty, or the wrong way round, has nothing inside
        there = (cut[:, 2:] - cut[:, :2] >= least).all(1) & (corners[:, :2] < size).all(1) & (corners[:, 2:] > 0).all(1)
        inside, every = inside + int(there.sum()), every + len(there)
    if every and not inside:
        raise DataError(
            f"all {counted(every, 'place')} in {role} of {source.name} that were looked at are outside of the pictures "
            "or empty; were the pictures scaled down after they were annotated, or are the corners given in another "
            "order? 'neocog check' shows them"
        )
    if every - inside > _MANY * every:
        share = (every - inside) / every
        return [f"{share:.0%} of the {role} are outside of the pictures or empty ('neocog check' shows them)"]
    return []


def _corners(value: BoxSet | np.ndarray) -> np.ndarray:
    """x0, y0, x1, y1 of each box, or of each labelled point."""
    if isinstance(value, BoxSet):
        return np.asarray(value.corners)[~value.ignored]
    labelled = value[value[:, 2] > 0, :2]
    return np.concatenate((labelled, labelled), 1)
