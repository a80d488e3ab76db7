"""Full text of a library: file and folder names, labels, tags, captions, cameras; ranked by BM25, all in memory.

BM25 (Robertson and Zaragoza 2009, "The probabilistic relevance framework: BM25 and beyond"), in the form for fields
(BM25F): a word in a label counts more than one in a file name, and counts are added before they saturate. Scores are
divided by the most that a query can reach, so that they lie in 0..1 and can be calibrated to probabilities.

Splitting into words is done by Arrow for whole columns: 7,000 pictures with five captions each take 0.2 s. That is a
quarter of a whole search, so the words and where they stand can be kept (`FullText(rows, keep)`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neocog.library.concepts import normalise, singulars

# How much a word counts by where it stands. Labels and tags were given on purpose.
FIELDS = {"labels": 3.0, "tags": 3.0, "captions": 1.0, "paths": 1.0, "camera": 0.5}
NAMES = {"labels": "label", "tags": "tag", "captions": "caption", "paths": "path", "camera": "camera"}
K1, B = 1.2, 0.4  # B: long texts are held against a picture only a little; five captions are no worse than one


_FORM = 1  # of what is kept; one more whenever words are split, or fields weighed, in another way

# name of a table and how to make it -> the table, made or as it was kept
Keep = Callable[[str, Callable[[], pa.Table]], pa.Table]


class FullText:
    """The words of every picture, as rows of a table give them."""

    def __init__(self, rows: pa.Table, keep: Keep = lambda name, make: make()) -> None:
        """`rows` has the columns of `FIELDS`; row numbers are those of the table.

        `keep` may give back tables that it was given before for the same rows.
        """
        self.count, self._rows = len(rows), rows
        table = keep(f"words{_FORM}", self._split)
        self._words: pa.Array = _whole(table.column("word"))
        docs, fields = _whole(table.column("docs")), _whole(table.column("fields"))
        self._doc, self._field = np.asarray(docs.values), np.asarray(fields.values)
        self._starts = np.asarray(docs.offsets)
        lengths = np.asarray(_whole(keep(f"lengths{_FORM}", self._lengths).column("length")))
        mean = float(lengths.mean()) if self.count else 1.0
        self._penalty = (1 - B + B * lengths / max(mean, 1e-9)).astype(np.float32)

    @cached_property
    def _texts(self) -> dict[str, tuple[np.ndarray, pa.Array]]:
        """For each field: (row numbers, normalised texts)."""
        return {name: _texts(self._rows, name) for name in FIELDS}

    def _split(self) -> pa.Table:
        """Each word with the rows (`docs`) and the fields where it stands; a row as often as the word."""
        docs, tokens, fields = [], [], []
        for number, (owners, texts) in enumerate(self._texts.values()):
            words = pc.split_pattern(texts, " ")
            flat = pc.list_flatten(words)
            docs.append(owners[np.asarray(pc.list_parent_indices(words))])
            tokens.append(flat)
            fields.append(np.full(len(flat), number, np.uint8))
        encoded = pa.concat_arrays(tokens).dictionary_encode()
        codes = np.asarray(encoded.indices)
        order = np.argsort(codes, kind="stable")
        starts = np.searchsorted(codes[order], np.arange(len(encoded.dictionary) + 1)).astype(np.int32)
        return pa.table(
            {
                "word": encoded.dictionary,
                "docs": pa.ListArray.from_arrays(starts, np.concatenate(docs)[order].astype(np.int32)),
                "fields": pa.ListArray.from_arrays(starts, np.concatenate(fields)[order]),
            }
        )

    def _lengths(self) -> pa.Table:
        """The weighted number of words of each picture."""
        weights = np.array(list(FIELDS.values()))[self._field]
        return pa.table({"length": np.bincount(self._doc, weights=weights, minlength=self.count)})

    @property
    def words(self) -> list[str]:
        """All different words."""
        return self._words.to_pylist()

    def knows(self, word: str) -> bool:
        """Whether any picture's text has the word, or its singular or plural."""
        return any(len(self._postings(form)[0]) for form in forms(normalise(word)))

    def score(self, words: Iterable[str]) -> np.ndarray:
        """Return float32 (N,) in 0..1: how well the text of each picture answers to all of `words` together."""
        total, most = np.zeros(self.count, np.float32), 0.0
        weights = np.array(list(FIELDS.values()), np.float32)
        for word in words:
            counts = np.zeros(self.count, np.float32)
            for form in forms(normalise(word)):
                doc, field = self._postings(form)
                np.add.at(counts, doc, weights[field])
            df = int((counts > 0).sum())
            # rarer than half a picture is not possible; the + 1 keeps words of most pictures above zero
            rarity = float(np.log(1 + (self.count - df + 0.5) / (df + 0.5)))
            total += rarity * counts * (K1 + 1) / (counts + K1 * self._penalty)
            most += rarity * (K1 + 1)
        return total / most if most else total

    def where(self, words: Iterable[str], row: int) -> tuple[str, ...]:
        """Return where in the text of one picture any of `words` stands: "label", "caption", ..."""
        found: set[int] = set()
        for word in words:
            for form in forms(normalise(word)):
                doc, field = self._postings(form)
                found |= set(field[doc == row].tolist())
        names = list(FIELDS)
        return tuple(NAMES[names[i]] for i in sorted(found))

    def phrase(self, text: str) -> np.ndarray:
        """Return bool (N,): whose text has these words, whole, in this order, side by side, in one of its fields."""
        out = np.zeros(self.count, bool)
        wanted = normalise(text)
        if wanted:
            for owners, texts in self._texts.values():
                padded = pc.binary_join_element_wise("", texts, "", " ")
                out[owners[np.asarray(pc.match_substring(padded, f" {wanted} "))]] = True
        return out

    def _postings(self, word: str) -> tuple[np.ndarray, np.ndarray]:
        """(rows, fields) where a normalised word stands; a row as often as the word."""
        at = pc.index(self._words, word).as_py()
        if at < 0:
            return self._doc[:0], self._field[:0]
        span = slice(self._starts[at], self._starts[at + 1])
        return self._doc[span], self._field[span]


def forms(key: str) -> tuple[str, ...]:
    """Return a normalised word with its singulars and plurals."""
    if not key or not key.isalpha():
        return (key,) if key else ()
    plural = (
        key[:-1] + "ies" if key.endswith("y") else key + ("es" if key.endswith(("s", "x", "z", "ch", "sh")) else "s")
    )
    return tuple(dict.fromkeys((key, *singulars(key), plural)))


def words_of(text: str) -> list[str]:
    """Return the normalised words of a text."""
    return normalise(text).split()


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece, without copying if it is."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _texts(rows: pa.Table, name: str) -> tuple[np.ndarray, pa.Array]:
    """(row numbers, texts) of a column of strings or lists of strings: normalised, empty ones left out."""
    column = _whole(rows.column(name))
    if pa.types.is_list(column.type):
        owners, texts = np.asarray(pc.list_parent_indices(column)), pc.list_flatten(column)
    else:
        owners, texts = np.arange(len(column)), column
    if name == "paths":
        texts = without_common(texts)
    if not pc.all(pc.string_is_ascii(pc.fill_null(texts, ""))).as_py():
        texts = pc.utf8_lower(pc.replace_substring_regex(pc.utf8_normalize(texts, form="NFKD"), r"\p{Mn}+", ""))
        for letter, plain in (("ß", "ss"), ("ς", "σ"), ("’", "")):  # as in `normalise`
            texts = pc.replace_substring(texts, letter, plain)
    texts = pc.replace_substring(pc.utf8_lower(texts), "'", "")
    texts = pc.utf8_trim(pc.replace_substring_regex(texts, r"[^\p{L}\p{N}]+", " "), " ")
    keep = np.asarray(pc.fill_null(pc.greater(pc.binary_length(texts), 0), False)).astype(bool)
    return owners[keep], texts.filter(pa.array(keep))


def without_common(paths: pa.Array) -> pa.Array:
    """Cut the folders off that all paths share: /home/anna/Pictures says nothing of any picture."""
    present = paths.drop_null()
    if not len(present):
        return paths
    bounds = pc.min_max(present)
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    shared = 0
    for i, (a, b) in enumerate(zip(low, high, strict=False)):
        if a != b:
            break
        if a == "/":
            shared = i + 1
    return pc.utf8_slice_codeunits(paths, shared) if shared else paths


def same_name(values: pa.Array | Sequence[str], wanted: str) -> list[str]:
    """Return the distinct values that are `wanted` but for case, marks and punctuation."""
    key = normalise(wanted)
    distinct = pc.unique(values).to_pylist() if isinstance(values, pa.Array | pa.ChunkedArray) else set(values)
    if not key:  # a name of signs alone, such as C++'s plus signs
        return [v for v in distinct if v is not None and v.strip() == wanted.strip()]
    return [v for v in distinct if v is not None and normalise(v) == key]
