"""What nets say of texts: which words and windows of words decided, and answers about pairs of texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neocog.data import open_source
from neocog.data.batches import Batch
from neocog.data.read_text import TextReader, plain
from neocog.errors import DataError, UsageError
from neocog.fit.evaluating import floated
from neocog.page import Html, marked
from neocog.tasks import Task
from neocog.text.tokens import UNKNOWN, Words

_FEWEST = 12  # examples of a report, where there are so many


@dataclass(frozen=True)
class Decided:
    """What spoke for an answer.

    Attributes:
        name: what is explained, such as a class.
        words: the tokens that were read, unknown words in [], and what each adds to the score: its vector times the
            score's gradient. Up to the biases, what the words of a net of windows and maxima add is the score.
        windows: words side by side that a filter's maximum fell on, and what all filters there add, strongest first;
            empty where the net has no such maximum.
    """

    name: str
    words: tuple[tuple[str, float], ...]
    windows: tuple[tuple[str, float], ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-able."""
        lists = {"words": self.words, "windows": self.windows}
        made = {k: [{"text": word, "part": round(part, 6)} for word, part in v] for k, v in lists.items()}
        return {"of": self.name, **made}

    def text(self, most: int = 3) -> str:
        """A line for people: the strongest windows, or words."""
        strongest = self.windows or sorted(self.words, key=lambda one: -abs(one[1]))
        return f"{self.name}: " + ", ".join(f"{part:+.2f} {words!r}" for words, part in strongest[:most])

    def html(self) -> Html:
        """The text with what its words add as colour."""
        return marked(self.words)


def decided(task: Task, net: nn.Module, reader: Any, text: Any, what: str | None = None) -> Decided:
    """What decided that a net says `what` (None: what it says first) of a text.

    Raises:
        UsageError: the run reads no texts, or the net has no word vectors. DataError: the text cannot be read.
    """
    vectors = getattr(net, "embedding", None)
    if not isinstance(reader, TextReader) or vectors is None or not hasattr(reader.tokenizer, "tokens"):
        raise UsageError("which words decided can be said of nets with word vectors that read words or subwords")
    ids = reader.collate([reader.encode(text)]).to(next(net.parameters()).device)
    batch = Batch((ids,), {}, torch.arange(1), torch.ones(1, dtype=torch.bool))
    found: list[Tensor] = []

    def leaf(module: nn.Module, given: Any, out: Tensor) -> Tensor:
        found.append(out.detach().requires_grad_())
        return found[-1]

    hook = vectors.register_forward_hook(leaf)
    mode = net.training
    try:
        with torch.enable_grad():
            outputs = floated(task.run(net.eval(), batch))
            claim = task.claim(outputs, batch, what)
            (slope,) = torch.autograd.grad(claim.score(outputs).sum(), found[-1])
    finally:
        hook.remove()
        net.train(mode)
    parts = (found[-1] * slope).sum(1)[0].tolist()  # (L,)
    tokens = reader.tokenizer.tokens(ids[0].tolist())  # type: ignore[attr-defined]
    if isinstance(reader.tokenizer, Words):
        written = zip(ids[0].tolist(), reader.tokenizer.split([plain(text)])[0], strict=False)
        tokens = [f"[{word}]" if k == UNKNOWN else word for k, word in written]
    return Decided(claim.name, tuple(zip(tokens, parts, strict=False)), _windows(net, task, batch, claim, tokens))


def _windows(
    net: nn.Module, task: Task, batch: Batch, claim: Any, tokens: Sequence[str]
) -> tuple[tuple[str, float], ...]:
    """Spans of words with what the filters add whose maximum fell on them."""
    if not hasattr(net, "places") or getattr(net, "largest", 1) != 1:
        return ()
    with torch.no_grad():
        places = [one[0] for one in net.places(batch.x)]  # type: ignore[operator]  # (maps, windows) of each width
        values = torch.cat([one.amax(1) for one in places]).requires_grad_()
        room = net.widest - 1  # type: ignore[operator]
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(claim.score(floated(net.get_submodule(net.head)(values[None]))).sum(), values)  # type: ignore[arg-type]
    added, first = dict[tuple[int, int], float](), 0
    for one, conv in zip(places, net.convs, strict=True):  # type: ignore[arg-type]
        parts = (values * slope)[first : first + len(one)].tolist()
        first += len(one)
        for start, part in zip(one.argmax(1).tolist(), parts, strict=True):
            begin = start - room
            span = (max(0, begin), min(len(tokens), begin + conv.kernel_size[0]))
            if span[0] < span[1] and part:
                added[span] = added.get(span, 0.0) + part
    ranked = sorted(added.items(), key=lambda one: -abs(one[1]))
    return tuple((" ".join(tokens[a:b]), part) for (a, b), part in ranked)


def most_confident(task: Task, seen: dict[str, np.ndarray]) -> np.ndarray:
    """Rows of a split whose answers are worst: those that a task names, else the surest wrong labels, then, up to
    `_FEWEST` rows, the least sure right ones: who reads or listens wants to see some.
    """
    worst = task.worst(seen)
    if len(worst) or "logits" not in seen or "labels" not in seen:
        return worst
    known = np.flatnonzero(seen["labels"] >= 0)
    logits, labels = seen["logits"][known].astype(np.float64), seen["labels"][known].astype(int)
    at, own = np.arange(len(known)), logits[np.arange(len(known)), labels].copy()
    logits[at, labels] = -np.inf
    gaps = logits.max(1, initial=-np.inf) - own
    count = max(int((gaps > 0).sum()), min(_FEWEST, len(known)))
    return seen["rows"][known[np.argsort(-gaps, kind="stable")[:count]]]


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
        try:
            source, why = open_source(table), ""
        except DataError as error:
            source, why = None, f" ({error})"
        if source is None or "first" not in source.columns:
            raise UsageError(
                f"{table} holds no pairs of texts; expected a table with two columns such as query and title{why}"
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
