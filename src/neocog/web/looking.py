"""What in a picture of a library speaks for a word."""

from __future__ import annotations

from typing import Any

import numpy as np

from neocog.data.decode import placed
from neocog.errors import UsageError
from neocog.library.gallery import read
from neocog.library.store import Store
from neocog.library.view import view_of

_opened: dict[str, Any] = {}
_SIDE = 320


def heatmap(store: Store, hash: str, what: str = "") -> np.ndarray:
    """Return uint8 (H, W, 4): warm and opaque where the picture speaks for a concept of the library's net.

    `what`: its name, as a search finds it; "" takes what the net says first. The map is made of what the net reads
    of the picture; beyond that it is transparent.

    Raises:
        UsageError: the net knows no such concept, or there is none. NoPicture: no such picture.
    """
    from PIL import Image

    from neocog.look import explain, subject
    from neocog.look.sheet import scaled, warm

    view = view_of(store)
    model = view.model()
    concepts = view.vocabulary(model) if model is not None else None
    if model is None or concepts is None:
        raise UsageError("the library's net has no concepts, so nothing can be said of what counted")
    card = store.models()[model]
    source = card["net"]["from"]
    if source not in _opened:
        _opened.clear()
        _opened[source] = subject(source)
    name = None
    if what:
        match = concepts.find(what)
        if match is None:
            raise UsageError(f"the library's net knows no concept {what[:80]!r}; it can only show what counted for one")
        hashes, values = store.probabilities(model)
        at = np.flatnonzero(hashes == hash)
        own = values[at[0]].astype(np.float32)[list(match.concepts)] if len(at) else np.ones(len(match.concepts))
        best = match.concepts[int(own.argmax())]
        name = _opened[source].task.classes[best]
    data = read(store, hash)
    found = explain(_opened[source], data, name)
    strength = scaled(np.maximum(found.values, 0))
    pixels = np.dstack([warm(strength), (230 * np.clip(strength, 0, 1)).astype(np.uint8)])
    _, matrix, (height, width) = placed(data, _opened[source].preprocess)
    scale = _SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    rows = (matrix @ np.diag([1 / scale, 1 / scale, 1])).reshape(-1)  # from pixels of the answer to those of the map
    laid = Image.fromarray(pixels).transform(size, Image.Transform.AFFINE, rows.tolist(), Image.Resampling.BILINEAR)
    return np.asarray(laid)
