"""Arrays that a library keeps: values in few bytes, and what they may differ by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neocog.library import mirror
from neocog.library.mirror import Arrays


def test_eight_bits_say_what_the_products_of_unit_vectors_are_to_two_in_a_thousand(tmp_path: Path) -> None:
    random, kept = np.random.default_rng(0), Arrays(tmp_path)
    values = random.normal(size=(9000, 386)) * random.uniform(0.1, 3, (9000, 1))
    values = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)
    values[7] = 0
    query = random.normal(size=(386, 4)).astype(np.float32)
    query /= np.linalg.norm(query, axis=0)
    short, steps = kept.short("s", "1", values) or (None, None)
    assert short is not None and steps is not None and short.dtype == np.int8
    exact = values.astype(np.float64) @ query
    assert np.abs((short.astype(np.float64) @ query) * steps[:, None] - exact).max() < 0.002
    assert not short[7].any()
    assert (kept.short("s", "1", values) or ())[0] is short
    assert (kept.short("s", "2", values[:5]) or ())[0].shape == (5, 386)


def test_what_is_too_large_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "_MOST_KEPT", 100)
    assert Arrays(tmp_path).short("s", "1", np.zeros((11, 10), np.float16)) is None
