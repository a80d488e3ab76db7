"""A tag for each word, by windows of context, and the best row of tags by a table of transitions.

Natural Language Processing (Almost) from Scratch. Collobert, Weston, Bottou, Karlen, Kavukcuoglu, Kuksa, JMLR 12, 2011,
sections 3.3.1 and 3.4: each word is a few vectors side by side (itself, its capitals, its ending), a window of five
words goes through a hidden layer, and a sentence is scored by its words' tags and the steps from tag to tag. Chunks
(CoNLL-2000): F1 90.33 from words and capitals, 94.32 with vectors of a language model and parts of speech.

Output shapes, CoNLL-2000, of the authors' sizes:

    ids, padded          B L 2
    vectors              B 55 L
    conv, 5              B 300 L
    fc                   B L 23

The hidden layer's units are ReLU here, not hard tanh, and a second layer of windows stands on the first. Learned from
3,000 of the sentences and judged on 936 others, F1 was 90.0 % with hard tanh and 90.4 % with ReLU (one layer, no given
vectors, one seed).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from .sentence import WordVectors


class Tagger(nn.Module):
    """Windows over the words of a sentence.

    Reads whole numbers (B, L, K): for each word K ids, 0 = padding, that of the word itself first. With `pieces`
    further ones are the subwords whose given vectors' mean the word has, too.

    Args:
        sizes: of each of the first ids, how many there are with the padding.
        pieces: how many subwords there are; 0: no given vectors.
        window, hidden: words that a filter sees (an odd number), and filters.
        layers: of windows one above the other; those after the first see three words and add to what they read.
        dropout: probability to drop a number of a word's vector, and a filter.
        words: share of the words that are taken for unknown ones at each step.
    """

    head = "fc"

    def __init__(
        self, sizes: Sequence[int], dimensions: Sequence[int], tags: int, *, pieces: int = 0, window: int = 5,
        hidden: int = 300, layers: int = 1, dropout: float = 0.0, words: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.tables = nn.ModuleList(
            nn.Embedding(size, width, padding_idx=0) for size, width in zip(sizes, dimensions, strict=True)
        )
        self.given = WordVectors(pieces, 0, "static") if pieces else None
        width = sum(dimensions) + (self.given.size if self.given else 0)
        self.words, self.dropout, self.relu = words, nn.Dropout(dropout), nn.ReLU()
        windows = [window, *[3] * (layers - 1)]
        self.convs = nn.ModuleList(
            nn.Conv1d(hidden if k else width, hidden, w, padding=w // 2) for k, w in enumerate(windows)
        )
        self.fc = nn.Linear(hidden, tags)
        self.steps = nn.Parameter(torch.zeros(tags, tags))  # from one tag to the next
        self.first, self.last = nn.Parameter(torch.zeros(tags)), nn.Parameter(torch.zeros(tags))
        for table in self.tables:
            nn.init.uniform_(table.weight, -0.25, 0.25)  # type: ignore[arg-type]
            with torch.no_grad():
                table.weight[0].zero_()  # type: ignore[index, operator]

    def take_vectors(self, make: Callable[[], Tensor], nothing: Iterable[int] = ()) -> None:
        """Begin with the directions of given vectors of subwords; ``make()`` gives them, float (ids, 256)."""
        if self.given is not None:
            self.given.give(make())

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """(B, L, K) -> ``scores`` (B, L, tags), ``steps`` (tags, tags), ``first`` and ``last`` (tags,)."""
        there = ids[:, :, 0] > 0
        word = ids[:, :, 0]
        if self.training and self.words:
            word = torch.where(there & (torch.rand(word.shape, device=word.device) < self.words), 1, word)
        columns = [word, *ids[:, :, 1 : len(self.tables)].unbind(2)]
        parts = [table(one.long()).transpose(1, 2) for table, one in zip(self.tables, columns, strict=True)]
        if self.given is not None:
            parts.append(self.given(ids[:, :, len(self.tables) :]))
        x = torch.cat(parts, 1)  # (B, width, L)
        for number, conv in enumerate(self.convs):
            y = self.relu(conv(self.dropout(x))) * there[:, None]  # behind the last word stays nothing
            x = x + y if number else y
        scores = self.fc(self.dropout(x).transpose(1, 2))
        return {"scores": scores, "steps": self.steps, "first": self.first, "last": self.last}


def log_likelihood(out: dict[str, Tensor], tags: Tensor) -> Tensor:
    """(B,): the logarithm of the probability of rows of tags int64 (B, L), -1 behind the last, among all rows."""
    scores, steps, first, last = out["scores"], out["steps"], out["first"], out["last"]
    there = tags >= 0
    own = tags.clamp(min=0)
    rows, ends = torch.arange(len(tags), device=tags.device), there.sum(1).clamp(min=1) - 1
    path = (scores.gather(2, own[:, :, None])[:, :, 0] * there).sum(1)
    path = path + (steps[own[:, :-1], own[:, 1:]] * there[:, 1:]).sum(1) + first[own[:, 0]] + last[own[rows, ends]]
    every, factors = first + scores[:, 0], steps.exp()
    for k in range(1, tags.shape[1]):
        top = every.detach().amax(1, keepdim=True)  # a product of matrices is faster than a sum of logarithms
        after = ((every - top).exp() @ factors).log() + top + scores[:, k]
        every = torch.where(there[:, k, None], after, every)
    return path - torch.logsumexp(every + last, 1)


@torch.no_grad()
def best_path(
    out: dict[str, Tensor], there: Tensor, allowed: Tensor | None = None, begins: Tensor | None = None,
    ends: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """int64 (B, L): the row of tags with the highest score (Viterbi); 0 where there is no word.

    Args:
        there: bool (B, L), where words are. allowed: bool (tags, tags), which tag may follow which.
        begins, ends: bool (tags,), which may come first and last.
    """
    scores = out["scores"]

    def only(values: Tensor, which: Tensor | None) -> Tensor:
        return values if which is None else values.masked_fill(~which.to(values.device), -1e4)

    steps, first, last = only(out["steps"], allowed), only(out["first"], begins), only(out["last"], ends)
    best, back = first + scores[:, 0], []
    same = torch.arange(scores.shape[2], device=scores.device).expand(len(scores), -1)
    for k in range(1, scores.shape[1]):
        values, by = (best[:, :, None] + steps).max(1)
        on = there[:, k, None]
        best, by = torch.where(on, values + scores[:, k], best), torch.where(on, by, same)
        back.append(by)
    at = (best + last).argmax(1)
    made = [at]
    for by in reversed(back):
        at = by.gather(1, at[:, None])[:, 0]
        made.append(at)
    return torch.stack(made[::-1], 1) * there
