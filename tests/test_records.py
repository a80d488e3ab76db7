"""Numbers with their noun, as every message writes them."""

from __future__ import annotations

import numpy as np
import pytest

from neocog.fit.findings import _divergence, read_curves
from neocog.records import counted


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (1, "minute", "1 minute"), (1.0, "epoch", "1 epoch"), (0.5, "minute", "0.5 minutes"), (0, "step", "0 steps"),
        (2, "class", "2 classes"), (3, "copy", "3 copies"), (1234, "picture", "1,234 pictures"),
        (np.int64(12345), "picture", "12,345 pictures"), (np.int64(1), "process", "1 process"),
    ],
)  # fmt: skip
def test_one_is_singular(count: float, noun: str, text: str) -> None:
    assert counted(count, noun) == text


def test_a_verb_agrees_with_its_noun() -> None:
    assert counted(1, "row of the table", "was") == "1 row of the table was"
    assert counted(2, "row of the table", "was") == "2 rows of the table were"
    assert counted(3, "hash", "lacks") == "3 hashes lack" and counted(2, "key", "lies") == "2 keys lie"


def test_messages_about_one_epoch() -> None:
    """In the findings."""
    epoch = {"epoch": 1.0, "step": 900, "train_loss": 1.0}
    assert "in 1 epoch," in _divergence([epoch], [(1.0, 1.0)], [], False).evidence
    assert "in 2 epochs," in read_curves([epoch, epoch | {"epoch": 2.0}])[0].evidence
