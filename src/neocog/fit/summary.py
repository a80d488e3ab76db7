"""The sentences that carry a text's meaning.

- By a net that reads whole texts: what a sentence's words add to the score of the net's answer, to first order, which
  is each word's vector times the gradient (M. Denil, A. Demiraj, N. Kalchbrenner, P. Blunsom, N. de Freitas,
  "Modelling, visualising and summarising documents with a single convolutional neural network", 2014,
  arXiv:1406.3830).
- By a space of texts: how near a sentence's place is to the mean of all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neocog.data.read_text import plain
from neocog.errors import DataError, UsageError
from neocog.page import Html, marked, page, paragraph
from neocog.records import counted
from neocog.text.sentences import sentence_spans

if TYPE_CHECKING:
    from neocog.fit.predicting import Run

SPACE = "nearness to the whole"


@dataclass(frozen=True)
class Summary:
    """A text with what each of its sentences says of the whole.

    Attributes:
        sentences: as they stand in the text. scores: of each; nan where a net did not read so far.
        kept: indices of those that are kept, in the order of the text.
        of: what the scores are about: "nearness to the whole", or the net's answer.
    """

    sentences: tuple[str, ...]
    scores: tuple[float, ...]
    kept: tuple[int, ...]
    of: str

    @property
    def unread(self) -> int:
        """How many sentences the net did not read, as they stand behind the last word that it reads."""
        return int(np.isnan(self.scores).sum())

    def text(self) -> str:
        """The kept sentences, one a line."""
        return "\n".join(self.sentences[k] for k in self.kept)

    def to_json(self) -> dict[str, Any]:
        """JSON-able: the kept sentences, and the score of every one."""
        scores = [None if np.isnan(one) else round(one, 6) for one in self.scores]
        every = [
            {"text": text, "score": s, "kept": k in self.kept}
            for k, (text, s) in enumerate(zip(self.sentences, scores, strict=True))
        ]
        return {"of": self.of, "summary": [self.sentences[k] for k in self.kept], "sentences": every}

    def html(self) -> Html:
        """The whole text, the kept sentences on colour, darker where the score is higher."""
        low = min((s for s in self.scores if not np.isnan(s)), default=0.0)
        parts = [(one, 0.0) for one in self.sentences]
        for k in self.kept:
            parts[k] = (self.sentences[k], max(self.scores[k] - low, 1e-6))
        return marked(parts, width=48)


ANSWERING = ("label", "tags", "number")  # tasks whose answers about a text are explained by its words


def summarise(text: Any, run: Run | None = None, *, sentences: int = 5, what: str | None = None) -> Summary:
    """The sentences that carry a text's meaning.

    Args:
        text: a text, the bytes of a file, or a Path.
        run: of the task label, tags or number on texts, whose answer is explained; or of match-texts, in whose space
            sentences are compared; None: in the space that comes with neocog.
        sentences: so many are kept, at most.
        what: of a net's answers the one that is explained, such as a class; None: the first.

    Raises:
        DataError: no text. UsageError: a run of another kind; `sentences` below 1.
    """
    if sentences < 1:
        raise UsageError(f"expected at least 1 sentence to keep, got {sentences}")
    if run is not None and not run.reads_pairs and (run.task.name not in ANSWERING or run.kind != "text"):
        raise UsageError(
            f"{run.folder} is of the task {run.task.name} on {run.kind}s; give a run of {', '.join(ANSWERING)} or "
            "match-texts on texts, or none"
        )
    whole = plain(text)
    spans = sentence_spans(whole)
    if not spans:
        raise DataError("the text is empty: nothing to summarise")
    every = [whole[a:b] for a, b in spans]
    if run is None or run.reads_pairs:
        if what is not None:
            raise UsageError(f"only a net that answers can be asked about {what!r}: give a run on texts")
        scores, of = nearness(every, _places(run)), SPACE
    else:
        scores, of = _added(run, whole, spans, what)
    order, seen = list[int](), set[str]()
    for k in np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable").tolist():
        if every[k].lower() not in seen and not np.isnan(scores[k]):
            order.append(k)
            seen.add(every[k].lower())
    return Summary(tuple(every), tuple(scores.tolist()), tuple(sorted(order[:sentences])), of)


def nearness(sentences: Sequence[str], places: Callable[[Sequence[str]], np.ndarray]) -> np.ndarray:
    """float (N,): the cosine of each sentence's place with the mean of all."""
    found = places(sentences).astype(np.float64)
    found /= np.linalg.norm(found, axis=1, keepdims=True).clip(1e-12)
    mean = found.mean(0)
    return np.asarray(found @ mean / max(float(np.linalg.norm(mean)), 1e-12))


def _places(run: Run | None) -> Callable[[Sequence[str]], np.ndarray]:
    """What finds the places of sentences (N, D)."""
    if run is None:
        from neocog.text.space import Space

        return Space.load().meanings
    import torch

    net, reader = run.net(), run.reader
    assert reader is not None

    @torch.inference_mode()
    def of(texts: Sequence[str]) -> np.ndarray:
        return np.asarray(net.first(reader.collate([reader.encode(one) for one in texts])).numpy())  # type: ignore[operator, union-attr]

    return of


def _added(run: Run, whole: str, spans: Sequence[tuple[int, int]], what: str | None) -> tuple[np.ndarray, str]:
    """What each sentence adds to the score of a net's answer, and which answer that is."""
    found = run.decided(whole, what)  # refuses other runs
    parts = np.array([part for _, part in found.words])
    encode = run.reader.tokenizer.encode  # type: ignore[union-attr]
    # tokens up to the end of each sentence, so that any tokenizer's count is right
    ends = [int((ids.reshape(len(ids), -1) != 0).any(1).sum()) for b in spans for ids in encode([whole[: b[1]]])]
    begins = [0, *ends[:-1]]
    scores = [parts[a:b].sum() if a < len(parts) else np.nan for a, b in zip(begins, ends, strict=True)]
    return np.array(scores), found.name


def as_page(summaries: Sequence[tuple[str, Summary]]) -> str:
    """An HTML page of several texts by name."""

    def body(one: Summary) -> Html:
        told = f"{len(one.kept)} of {counted(len(one.sentences), 'sentence')} marked, by {one.of}."
        return Html(paragraph(told) + one.html())

    return page("Summary", [(name, body(one)) for name, one in summaries])
