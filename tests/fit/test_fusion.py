"""Late fusion: what says something counts, what says nothing does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from neocog.errors import UsageError
from neocog.fit.heads import stratified_folds
from neocog.fit.learn_head import fuse
from neocog.nets.descriptors import Fused
from neocog.tasks import Label, find


@pytest.mark.parametrize("folded", [False, True])
def test_the_weights_are_those_of_held_out_pictures(folded: bool) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(80) % 2
    x = random.normal(size=(80, 6)).astype(np.float32)
    x[:, 3] += 3 * labels
    layer = Fused({"noise": slice(0, 3), "signal": slice(3, 6)}, classes=2)
    how: dict[str, Any] = {"kind": "softmax", "strength": 0.1, "judged": None}
    some = {"label": labels[:40]}
    if folded:
        how |= {"folds": stratified_folds(labels[:40], 5), "held_out": None}
    else:
        how |= {"folds": None, "held_out": (x[40:], {"label": labels[40:]})}
    head = fuse(layer, x[:40], some, Label(["a", "b"]), **how)
    assert float(layer.shares[1]) > 0.9 and abs(float(layer.shares.sum()) - 1) < 1e-5
    assert head.weight.shape == (2, 3) and "signal, which counts most" in head.chosen


def test_without_held_out_pictures_all_count_alike() -> None:
    layer = Fused({"a": slice(0, 1), "b": slice(0, 2)}, classes=2)
    x, y = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32), {"label": np.array([0, 1])}
    fuse(layer, x, y, Label(["a", "b"]), kind="softmax", strength=1.0, judged=None, folds=None, held_out=None)
    assert layer.shares.tolist() == [0.5, 0.5]


def test_what_has_no_probabilities_is_refused() -> None:
    with pytest.raises(UsageError, match="averages the probabilities of classes, and the task number"):
        fuse(Fused({"a": slice(0, 1)}, 1), np.zeros((2, 1)), {}, find("number"), held_out=None, folds=None, judged=None)
