"""Logistic regression, the one of this package: for the last layer of a net and for a concept of a library.

Newton's method, each step solved by conjugate gradients: it never forms the matrix of second derivatives, and a dozen
steps end at the optimum, where methods that see only gradients need hundreds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

_TINY = 2e7  # multiply-adds of a product up to which several threads cost more than they bring
_STEPS, _INNER = 50, 100


def logistic(
    x: np.ndarray,
    labels: np.ndarray,
    classes: int,
    counts: np.ndarray,
    strength: float,
    *,
    start: tuple[np.ndarray, np.ndarray] | None = None,
    tolerance: float = 1e-5,
    pull: float = 2e-6,
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights (K, D) and biases (K,), at the minimum of ``mean loss + strength / 2 * |weights|^2``.

    Args:
        x: float32 or float64 (N, D), in which the work is done; best with columns of about mean 0 and deviation 1.
        labels: int (N,), below `classes`: one class for each row, a softmax. Or float (N, K), 1, 0 or nan (not
            known): a yes or no for each class by itself, and the losses of the classes added.
        counts: (N,), how much each row counts in the mean; of yes and no (N, K), how much each of them does.
        start: weights and biases to begin with; the end is the same.
        tolerance: the largest part of the gradient that is left.
        pull: on biases, which keeps that of a class without rows finite.
    """
    # (N, D + 1): the bias is the weight of a feature that is always 1
    x = np.concatenate((x, np.ones((len(x), 1), x.dtype)), axis=1)
    apart = labels.ndim == 2
    if apart:
        known = ~np.isnan(labels)
        counts, labels = counts * known, np.nan_to_num(labels).astype(x.dtype)
        share = (counts / np.maximum(counts.sum(0), 1e-12)).astype(x.dtype)  # (N, K)
    else:
        share = (counts / counts.sum()).astype(x.dtype)
    ridge = np.full(x.shape[1], strength, x.dtype)
    ridge[-1] = pull
    t = np.zeros((classes, x.shape[1]), x.dtype)
    if start is not None:
        t[:, :-1], t[:, -1] = start
    rows = np.arange(len(x))
    enough = float(4 * np.finfo(x.dtype).eps)

    def loss(at: np.ndarray, z: np.ndarray) -> float:
        if apart:
            return float((share * (np.logaddexp(0, z) - labels * z)).sum()) + 0.5 * float((ridge * at * at).sum())
        high = z.max(1)
        each = np.log(np.exp(z - high[:, None]).sum(1)) + high - z[rows, labels]
        return float(share @ each) + 0.5 * float((ridge * at * at).sum())

    with few_threads(x.size * classes):
        z = x @ t.T  # (N, K)
        now = loss(t, z)
        for _ in range(_STEPS):
            if apart:
                p = 1 / (1 + np.exp(-np.clip(z, -60, 60)))
                wrong = (p - labels) * share
            else:
                p = np.exp(z - z.max(1, keepdims=True))
                p /= p.sum(1, keepdims=True)
                wrong = p * share[:, None]
                wrong[rows, labels] -= share
            gradient = wrong.T @ x + ridge * t
            if np.abs(gradient).max() <= tolerance:
                break

            def curvature(v: np.ndarray, p: np.ndarray = p) -> np.ndarray:
                """The second derivative of the loss along v."""
                change = x @ v.T
                if apart:
                    change *= p * (1 - p) * share
                else:
                    change -= (p * change).sum(1, keepdims=True)
                    change *= p
                    change *= share[:, None]
                return change.T @ x + ridge * v

            step = _solve(curvature, gradient)
            along, size, before = x @ step.T, 1.0, now
            while (now := loss(t - size * step, z - size * along)) > before and size > 1e-3:
                size /= 2
            if before - now <= enough * abs(before):
                break
            t, z = t - size * step, z - size * along
    return t[:, :-1], t[:, -1]


def _solve(product: Callable[[np.ndarray], np.ndarray], right: np.ndarray) -> np.ndarray:
    """Conjugate gradients, until a share of the right side is left that falls with its size."""
    x, residual = np.zeros_like(right), right.copy()
    direction, square = residual.copy(), float((residual * residual).sum())
    end = square * min(0.01, square**0.5)
    for _ in range(_INNER):
        if square <= end:
            break
        turned = product(direction)
        bend = float((direction * turned).sum())
        if bend <= 0:  # by rounding
            break
        length = square / bend
        x += length * direction
        residual -= length * turned
        square, old = float((residual * residual).sum()), square
        direction = residual + (square / old) * direction
    return x


@contextmanager
def few_threads(work: int) -> Iterator[None]:
    """Compute what is too small for several threads with one: on a busy machine they would wait for each other.

    `work`: multiply-adds of a product.
    """
    if work > _TINY:
        yield
        return
    with _pools().limit(limits=1):
        yield


@cache
def _pools() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
