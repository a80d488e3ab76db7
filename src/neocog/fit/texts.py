"""Answers about pairs of texts, with a run whose task reads texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neocog.data.batches import Batch
from neocog.errors import UsageError
from neocog.fit.predicting import Run


@torch.inference_mode()
def match_texts(run: Run | str | Path, pairs: Sequence[tuple[str, str]], batch_size: int = 256) -> list[Any]:
    """Whether the texts of each pair belong together: cosine, the probability that they say the same, and the words.

    Args:
        run: of the task match, trained on a table of pairs of texts.

    Returns:
        A ``tasks.match_texts.Pair`` for each pair.

    Raises:
        UsageError: the run was trained on pictures.
    """
    run = run if isinstance(run, Run) else Run(run)
    task, found = run.task, list[Any]()
    if not task.reads:
        raise UsageError(f"{run.folder} was trained for the task {task.name} on pictures, not on pairs of texts")
    net: Any = run.net()
    for begin in range(0, len(pairs), batch_size):
        some = pairs[begin : begin + batch_size]
        valid = torch.ones(len(some), dtype=torch.bool)
        targets = task.collate({"first": [(a,) for a, _ in some], "second": [(b,) for _, b in some]}, None, valid)
        ids = torch.from_numpy(task.encode([a for a, _ in some]))
        batch = Batch((ids,), targets, torch.arange(len(some)), valid)
        outputs = task.run(net, batch)
        answers = task.answers(outputs, batch, [f"pair {begin + k}" for k in range(len(some))])
        sides = (
            (net.first, ids, outputs["second"][:, 0]),
            (net.second or net.first, targets["tokens"][:, 0], outputs["first"]),
        )
        words = [_words(task, *side) for side in sides]
        found += [dataclasses.replace(answer, words=tuple(w)) for answer, *w in zip(answers, *words, strict=True)]
    return found


def _words(task: Any, tower: Any, ids: Tensor, other: Tensor) -> list[tuple[tuple[str, float], ...]]:
    """The tokens of each text with what they add to the cosine; () where the tower cannot say it."""
    if not hasattr(tower, "parts") or not hasattr(task.tokenizer, "tokens"):
        return [()] * len(ids)
    lengths = tower(ids).norm(dim=1, keepdim=True).clamp(min=1e-9)
    parts = (tower.parts(ids, other) / lengths).tolist()
    every = [task.tokenizer.tokens(row) for row in ids.tolist()]
    return [tuple(zip(tokens, row, strict=False)) for tokens, row in zip(every, parts, strict=True)]
