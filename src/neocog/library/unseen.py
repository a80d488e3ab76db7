"""What a run's own unseen pictures say of its classes: by it a library counts how many pictures of each it has.

See ``calibration.shown_in``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

_FEWEST = 5  # pictures of a class, from which their median is that of the class; else it is that of all classes
Sure = list[tuple[float, float, float]]


def unseen(folder: Path, probabilities: Callable[[np.ndarray], np.ndarray]) -> Sure | None:
    """Return `surest` of the pictures that a run was tested on; `probabilities` makes them of its net's outputs."""
    found = []
    for file in (folder / "val.safetensors", folder / "test.safetensors"):
        kept = load_file(file) if file.is_file() else {}
        outputs, said = kept.get("logits", kept.get("outputs")), kept.get("labels", kept.get("tags"))
        if outputs is not None and said is not None:
            right = said == 1 if said.ndim == 2 else said[:, None] == np.arange(outputs.shape[1])
            found.append((probabilities(outputs), right))
    return surest(*(np.concatenate(one) for one in zip(*found, strict=True))) if found else None


def surest(p: np.ndarray, right: np.ndarray) -> Sure | None:
    """For each class of a run three numbers; None if there are too few pictures.

    They are the median of the probabilities that the class's pictures got, the share of them that reach it (more than
    half where many are the same), and the share of all pictures that are of the class.

    Args:
        p: probabilities (M, K). right: bool (M, K), which classes a picture has.
    """
    p = np.asarray(p, np.float16).astype(np.float64)  # as a library keeps them
    if right.sum() < _FEWEST:
        return None
    found = []
    for k, has in enumerate(right.T):
        own = p[has, k] if has.sum() >= _FEWEST else p[right]
        least = float(np.median(own))
        found.append((least, float((own >= least).mean()), float(has.mean())))
    return found
