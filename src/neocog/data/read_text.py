"""Texts as inputs: words, subwords, characters or letter trigrams, as rows of integers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from neocog.charts import line_chart
from neocog.data.columns import is_picture
from neocog.data.findings import Finding
from neocog.data.reader import Reader, commonest, register
from neocog.data.source import Source
from neocog.data.text import TABLES, text_of
from neocog.data.text_rules import text_findings
from neocog.errors import DataError, UsageError, closest
from neocog.page import Html, pairs, text
from neocog.records import counted
from neocog.text.tokens import KINDS, Tokenizer, Words, learn, load_tokenizer, normal
from neocog.text.vectors import table_for

_MOST = 512  # tokens of a text that are read, where the user says nothing
_SHOWN = 280  # letters of a text in a report


@register
class TextReader(Reader):
    """Texts as ids, 0 = padding.

    Args:
        tokenizer: made of the training texts.
        longest: tokens of a text that are read; what follows is cut off.
        facts: of the training texts, for the report.
    """

    kind = "text"
    endings = frozenset((".txt", ".md"))
    about = "texts: words, subwords, characters or letter trigrams"
    options: ClassVar[Mapping[str, Any]] = {"tokens": "words", "longest": 0, "least": 1}
    net = "sentence_cnn"
    recipe = "texts"

    def __init__(self, tokenizer: Tokenizer, longest: int, facts: Mapping[str, Any] | None = None) -> None:
        self.tokenizer, self.longest, self.facts = tokenizer, longest, dict(facts or {})

    @classmethod
    def plan(cls, source: Source, rows: np.ndarray, options: Mapping[str, Any]) -> TextReader:
        kind, longest = str(options["tokens"]), int(options["longest"])
        if kind not in KINDS:
            raise UsageError(f"unknown tokens {kind!r}{closest(kind, KINDS)}; expected one of {', '.join(KINDS)}")
        odd: list[int] = []
        texts = list(texts_of(source, rows, odd=odd))
        if not any(one.strip() for one in texts):
            raise DataError(f"no text of {source.name} can be read; 'neocog check' says why")
        tokenizer = learn(kind, texts, int(options["least"]))
        lengths = np.array([_length(tokenizer.encode([one])[0]) for one in texts])
        cut = longest or int(min(_MOST, max(1, lengths.max())))
        made = cls(tokenizer, cut, {"texts": len(texts), "lengths": np.percentile(lengths, range(0, 101, 5)).tolist()})
        unit = "words" if kind in ("words", "pieces", "trigrams") else kind
        made.facts["unit"] = unit
        made.notes = (f"texts have {np.median(lengths):.0f} {unit} in the middle, {lengths.max():,} at most",)
        if isinstance(tokenizer, Words):
            # as many as were seen once, Good and Turing say
            share = made.facts["unknown"] = float((tokenizer.counts == 1).sum() / max(1, tokenizer.counts.sum()))
            known = (
                f"{tokenizer.size - 4:,} different {unit} are known, about {share:.1%} of those of new texts are not"
            )
            made.notes += (known + (" (--input-option tokens=pieces knows all)" if kind == "words" else ""),)
        if odd:
            made.notes += (f"{counted(len(odd), 'text', 'is')} not UTF-8, and read as UTF-16 or Windows-1252",)
        if over := int((lengths > cut).sum()):
            made.notes += (
                f"{counted(over, 'training text', 'is')} longer than {cut} {kind}: the rest is not read "
                "(--input-option longest=N)",
            )
        return made

    def to_json(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer.to_json(), "longest": self.longest, "facts": self.facts}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TextReader:
        return cls(load_tokenizer(values["tokenizer"]), values["longest"], values.get("facts"))

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.longest,)

    @property
    def net_options(self) -> Mapping[str, Any]:
        given = {"vectors": "tuned"} if self.tokenizer.kind in ("words", "pieces", "subwords") else {}
        return {"vocabulary": self.tokenizer.size - 1, **given}

    def begin(self, net: nn.Module) -> None:
        if take := getattr(net, "take_vectors", None):
            nothing = range(1, 4) if isinstance(self.tokenizer, Words) else ()  # what is not known says nothing
            take(lambda: torch.from_numpy(table_for(self.tokenizer)), nothing)

    def encode(self, raw: Any) -> np.ndarray:
        return self.tokenizer.encode([plain(raw)], self.longest)[0]

    def collate(self, arrays: Sequence[np.ndarray]) -> Tensor:
        made = np.zeros((len(arrays), *np.max([one.shape for one in arrays], 0)), np.int32)
        for row, one in zip(made, arrays, strict=True):
            row[tuple(map(slice, one.shape))] = one
        return torch.from_numpy(made)

    def inputs(self, given: Iterable[Any]) -> Iterator[tuple[str, Any]]:
        """As of any reader; a table gives its texts, and what is no path is a text itself."""
        for one in given:
            path = user_path(one)
            if path is not None and path.suffix.lower() in TABLES:
                from neocog.data.open import open_source

                source = open_source(path)
                if source.kind != self.kind or "first" in source.columns:
                    held = "pairs of texts" if source.kind == self.kind else f"{source.kind}s"
                    raise UsageError(f"expected a table of texts, each by itself; {path} holds {held}")
                yield from ((source.key(i), source.read(i)) for i in range(len(source)))
            elif path is not None or not isinstance(one, str):
                yield from super().inputs([one if path is None else path])
            elif _names_a_file(one):
                raise UsageError(f"expected a text, a file or a folder; {one} does not exist")
            else:
                yield one if len(one) <= 60 else f"{one[:57]}...", one

    def show(self, raw: Any) -> Html:
        whole = plain(raw[0] if isinstance(raw, tuple) else raw)
        return Html(f'<p style="max-width:24rem">{text(whole[:_SHOWN] + "…" * (len(whole) > _SHOWN))}</p>')

    def sections(self) -> list[tuple[str, Html]]:
        if not self.facts:
            return []
        points = [(float(v), p / 100) for p, v in zip(range(0, 101, 5), self.facts["lengths"], strict=True)]
        rows = {
            "tokens": self.tokenizer.kind,
            "different ones": f"{self.tokenizer.size:,}",
            "read": f"the first {self.longest}",
        }
        if "unknown" in self.facts:
            rows["not known of new texts, about"] = f"{self.facts['unknown']:.1%}"
        chart = line_chart({"texts": points}, x=self.facts["unit"], y="share of the training texts up to this length")
        return [("Texts", Html(pairs(rows) + chart))]

    @classmethod
    def drawn(cls, n: int, size: int, seed: int, task: str) -> Source:
        """What is said of drawn pictures."""
        from neocog.data.drawn import Drawn, DrawnTexts

        return DrawnTexts(Drawn(seed, size, task, range(n)))

    @classmethod
    def groups(cls, source: Source) -> np.ndarray:
        """Equal texts, whatever their case and spaces."""
        found = [" ".join(normal(one).split()) for one in texts_of(source, np.arange(len(source)))]
        place: dict[str, int] = {}
        return np.array([place.setdefault(one, len(place)) for one in found], np.int64)

    @classmethod
    def check(cls, source: Source) -> list[Finding]:
        unread: dict[int, str] = {}
        texts = list(texts_of(source, np.arange(len(source)), unread))
        return text_findings(source, texts, unread, cls.groups(source))


def plain(raw: Any) -> str:
    """A text of what a source or a user gives: a text, the bytes of a file, or a path. Raises: DataError, OSError."""
    if isinstance(raw, Path):
        raw = raw.read_bytes()
    if isinstance(raw, bytes):
        raw = text_of(raw)
    if not isinstance(raw, str):
        raise DataError(f"expected a text, got {type(raw).__name__}")
    if "\0" in raw:
        raise DataError("not a text: it holds zero bytes")
    return raw


def _names_a_file(word: str) -> bool:
    known = is_picture(word) or commonest({Path(word).suffix.lower(): 1}) is not None
    return " " not in word and (known or word.lower().endswith(TABLES))


def _utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _length(ids: np.ndarray) -> int:
    return int((ids.reshape(len(ids), -1) != 0).any(1).sum())


def texts_of(
    source: Source, rows: np.ndarray, unread: dict[int, str] | None = None, odd: list[int] | None = None
) -> Iterator[str]:
    """A text of each sample; "" where none can be read, and why in `unread`; files not in UTF-8 go to `odd`."""
    for i in rows:
        try:
            raw = source.read(int(i))
            if odd is not None and isinstance(raw, bytes) and not _utf8(raw):
                odd.append(int(i))
            yield plain((raw or ("",))[0] if isinstance(raw, tuple) else raw)
        except (DataError, OSError) as error:
            if unread is not None:
                unread[int(i)] = str(error)
            yield ""


def user_path(one: Any) -> Path | None:
    """The path that a user's word means, if there is such a file or folder."""
    try:
        path = Path(one) if isinstance(one, (str, Path)) else None
        return path if one != "" and path is not None and (isinstance(one, Path) or path.exists()) else None
    except (OSError, ValueError):  # longer than a name can be
        return None
