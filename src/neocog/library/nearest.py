"""The nearest vectors by comparing with all of them: exact, and the fastest way while they are few."""

from __future__ import annotations

import numpy as np

_MOST_SCORES = 64 << 20  # at a time: 256 MB
_BLOCK = 64 << 20  # bytes of float32 that are made of float16 vectors at a time


def exact_nearest(
    vectors: np.ndarray, queries: np.ndarray, k: int, norms: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the `k` best rows for each query and their scores, (Q, k) each, the best first.

    Args:
        vectors: (N, D) of length 1, float16 or float32.
        queries: float32 (Q, D).
        k: at most N.
        norms: float32 (N,), the lengths that the vectors had; with them the score is minus the Euclidean distance
            to the vectors as they were, else the product.
    """
    if len(queries) > 1 and len(queries) * len(vectors) > _MOST_SCORES:
        half = len(queries) // 2
        parts = [exact_nearest(vectors, part, k, norms) for part in (queries[:half], queries[half:])]
        return np.concatenate([best for best, _ in parts]), np.concatenate([score for _, score in parts])
    scores = np.empty((len(queries), len(vectors)), np.float32)
    step = max(1, _BLOCK // max(1, vectors.shape[1] * 4))
    for start in range(0, len(vectors), step):
        block = vectors[start : start + step]
        scores[:, start : start + step] = queries @ block.astype(np.float32, copy=False).T
    if norms is not None:
        squares = (queries * queries).sum(1)[:, None] + (norms * norms)[None] - 2 * scores * norms[None]
        scores = -np.sqrt(np.maximum(squares, 0))
    if k == 0:
        return np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
    if k < len(vectors):
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    else:
        best = np.tile(np.arange(k), (len(queries), 1))
    found = np.take_along_axis(scores, best, 1)
    order = np.lexsort((best, -found), axis=1)  # equal ones in the order of the table
    return np.take_along_axis(best, order, 1), np.take_along_axis(found, order, 1)
