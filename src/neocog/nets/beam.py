"""Sentences from a language model: beam search for many pictures at once, or sampling.

Beam search (as in Graves 2012, Sutskever et al. 2014): of all sentences that are one word longer the best `beam` are
kept; those that end are set aside. Sentences are compared by ``log P / words ** length`` (Wu et al. 2016, without their
offset), the end counted as a word: without it short ones would win.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .language import END, PAD, START, UNKNOWN, LanguageModel, State

LENGTH = 0.7  # power of the number of words that log P is divided by
_NEVER = -1e30  # a finite "impossible": differences of it are numbers


class Sentences(NamedTuple):
    """Of each picture `n` sentences, the best first: ids int64 (B, n, L) without the start, padded with 0 from the end
    on; log P float32 (B, n) with the end; and how many words that is a sum over (B, n). A sentence that was not found
    has log P below -1e29.
    """

    ids: Tensor
    log_p: Tensor
    words: Tensor

    @property
    def each(self) -> Tensor:
        """Mean log P of a word, (B, n)."""
        return self.log_p / self.words.clamp(min=1)


@torch.inference_mode()
def search(
    model: LanguageModel,
    features: Tensor,
    *,
    n: int = 1,
    beam: int = 5,
    longest: int = 25,
    length: float = LENGTH,
    first: Sequence[int] = (),
) -> Sentences:
    """The likeliest sentences found for pictures.

    Args:
        features: (B, F).
        n: sentences of each picture, at most `beam`.
        longest: most words, those of `first` and the end included; a sentence that does not end by then is cut there.
        length: power of the number of words; 0: sentences are compared by their probability alone.
        first: words that every sentence begins with; they do not count in log P.
    """
    b, beam = len(features), max(beam, n)
    state, log_p = _after(model, model.begin(features), features, first)
    lead = torch.tensor(first, dtype=torch.int64, device=features.device).expand(b, len(first))
    score, words = log_p.topk(min(beam, log_p.shape[1] - 3), 1)  # the first word: all sentences are still one
    k = score.shape[1]
    tokens = torch.cat((lead[:, None].expand(b, k, len(first)), words[:, :, None]), 2)  # (B, K, t)
    owner = torch.arange(b, device=features.device)[:, None]
    state = tuple(one[owner.expand(b, k).flatten()] for one in state)
    done = Sentences(tokens.new_zeros(b, n, longest), score.new_full((b, n), _NEVER), score.new_ones(b, n))
    over = words == END  # an empty sentence is none
    score = score.masked_fill(over, _NEVER)
    for t in range(1, longest - len(first)):
        log_p, state = _next(model, state, tokens)
        log_p = log_p.view(b, k, -1)
        whole = score[:, :, None] + log_p
        ended = whole[:, :, END].clone()
        whole[:, :, END] = _NEVER
        best, at = whole.flatten(1).topk(k, 1)
        done = _kept(done, tokens, ended.masked_fill(ended < best[:, -1:], _NEVER), t + 1, length)
        parent, word = at // log_p.shape[2], at % log_p.shape[2]
        tokens = torch.cat((tokens.gather(1, parent[:, :, None].expand(-1, -1, tokens.shape[2])), word[:, :, None]), 2)
        rows = (owner * k + parent).flatten()
        score, state = best, tuple(one[rows] for one in state)
        hope = score[:, 0] / (longest - len(first)) ** length  # what the best could still become
        if bool((done.log_p[:, -1] / done.words[:, -1] ** length > hope).all()):
            break
    return _kept(done, tokens, score, tokens.shape[2] - len(first), length)


@torch.inference_mode()
def sample(
    model: LanguageModel,
    features: Tensor,
    *,
    n: int = 1,
    temperature: float = 1.0,
    longest: int = 25,
    first: Sequence[int] = (),
    generator: torch.Generator | None = None,
) -> Sentences:
    """Sentences by chance, each word as likely as the model says after its logits are divided by `temperature`.

    log P is the model's own, at temperature 1; the sentences of a picture are in falling order of it.
    """
    b = len(features)
    features = features.repeat_interleave(n, 0)
    state, log_p = _after(model, model.begin(features), features, first)
    log_p[:, END] = _NEVER
    tokens = torch.tensor(first, dtype=torch.int64, device=features.device).expand(b * n, 1, len(first))
    total, count = features.new_zeros(b * n), features.new_zeros(b * n)
    running = torch.ones(b * n, dtype=torch.bool, device=features.device)
    for t in range(longest - len(first)):
        if t:
            log_p, state = _next(model, state, tokens)
        word = torch.multinomial((log_p / temperature).softmax(1), 1, generator=generator)[:, 0]
        total += torch.where(running, log_p.gather(1, word[:, None])[:, 0], 0.0)
        count += running
        word = torch.where(running, word, PAD)
        running &= word != END
        tokens = torch.cat((tokens, word[:, None, None]), 2)
        if not running.any():
            break
    ids = tokens[:, 0].where(tokens[:, 0] != END, PAD).view(b, n, -1)
    found = Sentences(ids, total.view(b, n), count.view(b, n))
    return _at(found, torch.sort(found.each, dim=1, descending=True, stable=True)[1])


def _after(model: LanguageModel, state: State, features: Tensor, first: Sequence[int]) -> tuple[State, Tensor]:
    """The state after the start and the first words, and log P (B, words) of the next."""
    logits = features
    for word in (START, *first):
        logits, state = model.step(state, torch.full((len(features),), word, device=features.device))
    return state, _allowed(logits)


def _next(model: LanguageModel, state: State, tokens: Tensor) -> tuple[Tensor, State]:
    """log P (B * K, words) of what follows tokens (B, K, t); no three words stand twice in a sentence."""
    tokens = tokens.flatten(0, 1)
    logits, state = model.step(state, tokens[:, -1])
    log_p = _allowed(logits)
    if tokens.shape[1] >= 3:
        twice = (tokens[:, :-2] == tokens[:, -2:-1]) & (tokens[:, 1:-1] == tokens[:, -1:])
        where, at = twice.nonzero(as_tuple=True)
        log_p[where, tokens[where, at + 2]] = _NEVER
    return log_p, state


def _allowed(logits: Tensor) -> Tensor:
    """log P of the next word; the marks that are no words never come."""
    log_p = logits.float().log_softmax(1)
    log_p[:, [PAD, UNKNOWN, START]] = _NEVER
    return log_p


def _kept(done: Sentences, tokens: Tensor, score: Tensor, words: int, length: float) -> Sentences:
    """The best n of the sentences that are done and of tokens (B, K, t), which have just ended."""
    n, longest = done.ids.shape[1:]
    own = torch.nn.functional.pad(tokens, (0, longest - tokens.shape[2]))
    ids = torch.cat((done.ids, own), 1)
    log_p = torch.cat((done.log_p, score), 1)
    count = torch.cat((done.words, torch.full_like(score, words)), 1)
    at = torch.where(log_p > _NEVER / 2, log_p / count**length, -math.inf).topk(n, 1)[1]
    return _at(Sentences(ids, log_p, count), at)


def best(found: Sentences, more: Tensor, n: int, length: float = LENGTH) -> Sentences:
    """The best `n` when `more` (B, N) is added to what `search` compares sentences (B, N, L) by."""
    score = torch.where(found.log_p > _NEVER / 2, found.log_p / found.words**length + more, -math.inf)
    return _at(found, score.topk(n, 1)[1])


def _at(found: Sentences, at: Tensor) -> Sentences:
    """Some of the sentences of each picture, int64 (B, n)."""
    ids = found.ids.gather(1, at[:, :, None].expand(-1, -1, found.ids.shape[2]))
    return Sentences(ids, found.log_p.gather(1, at), found.words.gather(1, at))
