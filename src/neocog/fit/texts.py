"""Answers about pairs of texts, with a run whose task reads texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from neocog.data import open_source
from neocog.data.batches import Batch
from neocog.errors import UsageError
from neocog.tasks import Task


@torch.inference_mode()
def of_pairs(task: Task, net: Any, pairs: Sequence[tuple[str, str]], batch_size: int = 256) -> list[Any]:
    """A ``tasks.match_texts.Pair`` for each pair: cosine, the probability that they say the same, and the words."""
    found, reader = list[Any](), task.own_reader()
    assert reader is not None
    for begin in range(0, len(pairs), batch_size):
        some = pairs[begin : begin + batch_size]
        valid = torch.ones(len(some), dtype=torch.bool)
        targets = task.collate({"first": [(a,) for a, _ in some], "second": [(b,) for _, b in some]}, None, valid)
        ids = reader.collate([reader.encode(a) for a, _ in some])
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


def of_tables(task: Task, net: Any, tables: Iterable[Any], batch_size: int = 256) -> Iterator[Any]:
    """Answers for the pairs of tables, in their order. Raises: UsageError: one holds no pairs of texts."""
    for table in tables:
        source = open_source(table)
        if "first" not in source.columns:
            raise UsageError(
                f"{table} holds no pairs of texts; expected a table with two columns such as query and title"
            )
        first, second = source.columns["first"], source.columns["second"]
        for begin in range(0, len(source), batch_size):
            rows = range(begin, min(begin + batch_size, len(source)))
            found = of_pairs(task, net, [(first[i][0], second[i][0]) for i in rows], batch_size)
            yield from (dataclasses.replace(one, key=source.key(i)) for i, one in zip(rows, found, strict=True))


def _words(task: Any, tower: Any, ids: Tensor, other: Tensor) -> list[tuple[tuple[str, float], ...]]:
    """The tokens of each text with what they add to the cosine; () where the tower cannot say it."""
    if not hasattr(tower, "parts") or not hasattr(task.tokenizer, "tokens"):
        return [()] * len(ids)
    lengths = tower(ids).norm(dim=1, keepdim=True).clamp(min=1e-9)
    parts = (tower.parts(ids, other) / lengths).tolist()
    every = [task.tokenizer.tokens(row) for row in ids.tolist()]
    return [tuple(zip(tokens, row, strict=False)) for tokens, row in zip(every, parts, strict=True)]
