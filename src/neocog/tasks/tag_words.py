"""A tag for each word of a sentence: chunks, names, parts of speech; by windows of context (see ``nets.tagging``)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neocog.data.conll import Sentence
from neocog.data.word_columns import WordsReader, vocabularies
from neocog.errors import DataError, UsageError
from neocog.page import Html, table, text
from neocog.records import counted
from neocog.tasks.answer import Answer
from neocog.tasks.chunks import Scheme, counts, scores
from neocog.tasks.task import Batch, Losses, Reader, Section, Seen, Source, Targets, Task, Warp, register
from neocog.text.tokens import Subwords, padded

LOSSES = ("sentence", "word")
VECTORS = ("given", "random")
_DIMENSIONS = (100, 16, 32, 32)  # of the vectors of a word, its shape, its last two and three letters
_FURTHER = 32  # of a further column's


@dataclass(frozen=True, slots=True)
class Tagged(Answer):
    """The tags of a sentence.

    Attributes:
        words, labels: as many of each; the labels are the tags.
        chunks: kind, index of the first word, and of the one behind the last.
    """

    words: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    chunks: tuple[tuple[str, int, int], ...] = ()
    more: tuple[tuple[str, ...], ...] = ()

    def beside(self, raw: Any) -> Tagged:
        return dataclasses.replace(self, words=raw.words, more=raw.more) if isinstance(raw, Sentence) else self

    def row(self) -> dict[str, Any]:
        return {"words": " ".join(self.words), "tags": " ".join(self.labels)}

    def text(self) -> str:
        """With each chunk in brackets: ``[NP He] [VP runs] .``; else word/tag."""
        if all(end - begin == 1 for _, begin, end in self.chunks) and "O" not in self.labels:
            return " ".join(f"{word}/{tag}" for word, tag in zip(self.words, self.labels, strict=True))
        opens, closes = {begin: kind for kind, begin, _ in self.chunks}, {end - 1 for *_, end in self.chunks}
        return " ".join(
            (f"[{opens[k]} " if k in opens else "") + word + ("]" if k in closes else "")
            for k, word in enumerate(self.words)
        )

    def to_json(self) -> dict[str, Any]:
        found = [{"kind": k, "first": a, "end": b, "text": " ".join(self.words[a:b])} for k, a, b in self.chunks]
        return {"words": list(self.words), "tags": list(self.labels), "chunks": found}

    def conll(self) -> list[str]:
        """The lines of a CoNLL file, an empty one last."""
        return [*("\t".join(cells) for cells in zip(self.words, *self.more, self.labels, strict=True)), ""]

    def html(self, truth: Any = None) -> Html:
        """The words with their tags below; a wrong one with what was expected, if `truth` gives the tags."""
        true = self.labels if truth is None else truth
        cells = []
        for word, said, wanted in zip(self.words, self.labels, true, strict=True):
            right = said == wanted
            below = text(said) if right else Html(f'<b class="bad">{text(said)}</b><br>not {text(wanted)}')
            cells.append(
                f'<span style="display:inline-block;vertical-align:top;margin:.15rem .3rem;text-align:center">'
                f"{text(word)}<br>"
                f'<small style="color:var(--soft)">{below}</small></span>'
            )
        return Html(f'<p style="max-width:44rem">{"".join(cells)}</p>')


@register
class TagWords(Task):
    """A tag for each word.

    Args:
        classes: the tags.
        vocabularies: of each column, see `WordsReader`.
        more: how many further columns there are, such as parts of speech.
        strict: whether only such rows of tags are given as the scheme allows (I-NP behind B-NP or I-NP).
    """

    name = "tag-words"
    about = "a tag for each word: chunks, names, parts of speech"
    needs: ClassVar[Mapping[str, str]] = {"tokens": "sequence"}
    goal = ("f1", "max")
    figure = "F1 of chunks"
    inputs = ("text",)
    mirrors = False
    views_back = False
    recipe = "words"
    answer = Tagged
    choices = {"loss": LOSSES, "vectors": VECTORS}
    kept = ("classes", "vocabularies", "more", "strict")
    options = {
        "vectors": "given", "columns": True, "loss": "sentence", "window": 5, "layers": 2, "hidden": 300,
        "dropout": 0.25, "words": 0.05,
    }  # fmt: skip

    def __init__(
        self,
        classes: Sequence[str],
        vocabularies: Sequence[Sequence[str]],
        more: int = 0,
        strict: bool = True,
        **options: Any,
    ) -> None:
        self.classes, self.vocabularies, self.more, self.strict = tuple(classes), vocabularies, more, strict
        super().__init__(**options)
        if self.how["window"] < 1 or self.how["window"] % 2 == 0:
            raise UsageError(f"window is an odd number of words, got {self.how['window']}")

    @classmethod
    def plan(cls, source: Source, rows: np.ndarray, settings: Mapping[str, Any]) -> TagWords:
        found = [raw for i in rows if isinstance(raw := source.read(int(i)), Sentence)]
        if len(found) < len(rows):
            raise DataError(f"{source.name} does not give words; expected CoNLL's columns, or lists of words and tags")
        more = len(found[0].more) if settings["columns"] else 0
        kept, once = vocabularies(found, more)
        column = source.columns["tokens"]
        names: tuple[str, ...] = column.names  # type: ignore[attr-defined]
        scheme, codes = Scheme.of(names), column.select(rows)
        joined, first = codes.codes, _firsts(codes.ends)  # type: ignore[attr-defined]
        starts = scheme.starts(joined, first)
        odd = int((starts & ~scheme.opens[joined]).sum())
        task = cls(names, kept, more, bool(odd <= 0.01 * starts.sum()), **cls.chosen(settings))
        what = f"{len(scheme.kinds)} kinds of chunks in {len(names)} tags" if scheme.marked else f"{len(names)} tags"
        task.notes = (
            f"{len(rows):,} sentences with {len(joined):,} words to learn from: {len(kept[0]):,} different words, "
            f"{what}; of new texts about {once:.1%} of the words are not known",
        )
        if odd:
            how = "such rows are not given" if task.strict else "so it stands there in answers, too"
            task.notes += (f"{odd:,} of {int(starts.sum()):,} chunks begin with an I- tag; {how}",)
        return task

    # ---- the net and its steps

    @cached_property
    def scheme(self) -> Scheme:
        """What the tags say of chunks."""
        return Scheme.of(self.classes)

    def own_reader(self) -> Reader:
        return WordsReader(self.vocabularies, self.how["vectors"] == "given", self.more)

    def own_net(self) -> nn.Module:
        from neocog.nets.tagging import Tagger

        how, sizes = self.how, [len(one) + 2 for one in self.vocabularies]
        pieces = Subwords().size - 1 if how["vectors"] == "given" else 0
        net = Tagger(
            sizes, [*_DIMENSIONS, *[_FURTHER] * self.more], len(self.classes), pieces=pieces,
            **{k: how[k] for k in ("window", "hidden", "layers", "dropout", "words")},
        )  # fmt: skip
        net.spec = {"name": "tagger", "classes": len(self.classes), "in_channels": 1, "input_size": 1}  # type: ignore[assignment]
        return net

    def collate(self, values: dict[str, Any], warp: Warp | None, valid: Tensor) -> Targets:
        rows = [one if one is not None and ok else () for one, ok in zip(values["tokens"], valid.tolist(), strict=True)]
        return {"tags": torch.from_numpy(padded([[k + 1 for k in row] for row in rows]).astype(np.int64) - 1)}

    def losses(self, outputs: Any, batch: Batch) -> Losses:
        tags = _as_wide(batch.targets["tags"], outputs["scores"].shape[1])
        count = (tags >= 0).sum()
        right = ((outputs["scores"].detach().argmax(2) == tags) & (tags >= 0)).double().sum()
        loss = self._each(outputs, tags).sum() / count.clamp(min=1)
        return Losses({"loss": loss}, count, {"accuracy": right})

    def _each(self, outputs: Any, tags: Tensor) -> Tensor:
        """(B,): of each sentence the loss, summed over its words."""
        from neocog.nets.tagging import log_likelihood

        if self.how["loss"] == "sentence":
            return -log_likelihood(outputs, tags) * (tags >= 0).any(1)
        return F.cross_entropy(outputs["scores"].transpose(1, 2), tags, ignore_index=-1, reduction="none").sum(1)

    def _found(self, outputs: Any, there: Tensor) -> Tensor:
        from neocog.nets.tagging import best_path

        rules = [torch.from_numpy(one) for one in self.scheme.allowed()] if self.strict else [None] * 3
        return best_path(outputs, there, *rules)

    # ---- figures

    def observe(self, outputs: Any, batch: Batch) -> dict[str, Any]:
        tags = _as_wide(batch.targets["tags"], outputs["scores"].shape[1]).cpu()
        there = tags >= 0
        return {
            "rows": batch.rows,
            "losses": self._each(outputs, tags.to(outputs["scores"].device)),
            "each_row": batch.rows[:, None].expand_as(tags)[there],
            "each_true": tags[there],
            "each_found": self._found(outputs, batch.x[:, :, 0] > 0).cpu()[there],
        }

    def figures(self, seen: Seen) -> dict[str, Any]:
        if not len(seen.get("each_true", ())):
            return {"n": 0, "f1": math.nan, "loss": math.nan}
        found = self._counted(seen)
        whole = {name: int(values.sum()) for name, values in found.items()}
        return {
            "n": len(seen["rows"]),
            "words": len(seen["each_true"]),
            "chunks": whole["true"],
            **scores(**whole),
            "accuracy": float((seen["each_true"] == seen["each_found"]).mean()),
            "loss": float(seen["losses"].sum() / len(seen["each_true"])),
        }

    def _counted(self, seen: Seen) -> dict[str, np.ndarray]:
        row = seen["each_row"]
        return counts(self.scheme, seen["each_true"], seen["each_found"], np.append(True, row[1:] != row[:-1]))

    def error(self, figures: Mapping[str, Any]) -> float:
        p, n = figures["f1"], max(1, figures.get("chunks", 0))
        return math.sqrt(max(p * (1 - p), 0.0) / n) if math.isfinite(p) else 0.0

    def worst(self, seen: Seen) -> np.ndarray:
        wrong = _wrong(seen)
        return np.array(sorted((r for r, (bad, _) in wrong.items() if bad), key=lambda r: (-wrong[r][0], r)), np.int64)

    def caption(self, seen: Seen, row: int) -> str:
        bad, of = _wrong(seen)[row]
        return f"{bad} of {counted(of, 'tag')} wrong"

    def headline(self, figures: Mapping[str, Any]) -> str:
        return (
            f"F1 {figures['f1']:.2%} (precision {figures['precision']:.2%}, recall {figures['recall']:.2%}) of "
            f"{figures['chunks']:,} chunks, {figures['accuracy']:.2%} of {figures['words']:,} tags right "
            f"(n = {figures['n']:,} sentences)"
        )

    def shown(self, value: float) -> str:
        return f"{100 * value:.2f} %"

    def sections(self, seen: Seen, figures: Mapping[str, Any]) -> list[Section]:
        found = self._counted(seen)
        rows = [
            {"kind": kind, **scores(*one), "in the text": int(one[0]), "found": int(one[1])}
            for kind, *one in zip(self.scheme.kinds, *(found[k] for k in ("true", "found", "right")), strict=True)
        ]
        rows.sort(key=lambda row: -int(row["in the text"]))
        return [
            Section("Kinds of chunks", table(rows[:50], numeric=("precision", "recall", "f1", "in the text", "found")))
        ]

    # ---- answers

    def truth(self, columns: Mapping[str, Any], i: int) -> Any:
        return [self.classes[k] for k in columns["tokens"][i]]

    def answers(self, outputs: Any, batch: Batch, keys: Sequence[str], top: int = 5) -> list[Answer]:
        there = batch.x[:, :, 0] > 0
        found = self._found(outputs, there).cpu().numpy()
        made: list[Answer] = []
        for key, row, length in zip(keys, found, there.sum(1).tolist(), strict=True):
            tags = row[:length]
            ends, kinds = self.scheme.chunks(tags, np.arange(length) == 0)
            chunks = tuple((self.scheme.kinds[kinds[a]], int(a), int(ends[a])) for a in np.flatnonzero(ends))
            made.append(Tagged(key, (), tuple(self.classes[k] for k in tags), chunks))
        return made


def _firsts(ends: np.ndarray) -> np.ndarray:
    """bool (T,): where samples begin that are held flat."""
    made = np.zeros(int(ends[-1]), bool)
    made[ends[:-1][np.diff(ends) > 0]] = True
    return made


def _as_wide(tags: Tensor, length: int) -> Tensor:
    """Tags (B, L) of sentences that are padded to another length."""
    return F.pad(tags, (0, length - tags.shape[1]), value=-1)


def _wrong(seen: Seen) -> dict[int, tuple[int, int]]:
    """Of each row how many tags are wrong, of how many."""
    rows, at, of = np.unique(seen["each_row"], return_inverse=True, return_counts=True)
    bad = np.bincount(at, seen["each_true"] != seen["each_found"], len(rows)).astype(int)
    return dict(zip(rows.tolist(), zip(bad.tolist(), of.tolist(), strict=True), strict=True))
