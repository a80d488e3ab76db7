"""Full text of a library: file and folder names, labels, tags, captions, cameras; ranked by BM25, all in memory.

BM25 (Robertson and Zaragoza 2009, "The probabilistic relevance framework: BM25 and beyond"), in the form for fields
(BM25F): a word in a label counts more than one in a file name, and counts are added before they saturate. Scores are
divided by the most that a query can reach, so that they lie in 0..1 and can be calibrated to probabilities.

Splitting into words is done by Arrow for whole columns: 10,000 pictures with five captions each take about a tenth
of a second, so nothing is kept on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neocog.library.concepts import normalise, singulars

# How much a word counts by where it stands. Labels and tags were given on purpose.
FIELDS = {"labels": 3.0, "tags": 3.0, "captions": 1.0, "paths": 1.0, "camera": 0.5}
NAMES = {"labels": "label", "tags": "tag", "captions": "caption", "paths": "path", "camera": "camera"}
K1, B = 1.2, 0.4  # B: long texts are held against a picture only a little; five captions are no worse than one


class FullText:
    """The words of every picture, as rows of a table give them."""

    def __init__(self, rows: pa.Table) -> None:
        """`rows` has the columns of `FIELDS`; row numbers are those of the table."""
        self.count = len(rows)
        docs, tokens, fields = [], [], []
        self._texts: dict[str, tuple[np.ndarray, pa.Array]] = {}
        for number, name in enumerate(FIELDS):
            owners, texts = _texts(rows, name)
            self._texts[name] = (owners, texts)
            words = pc.split_pattern(texts, " ")
            inside = np.asarray(pc.list_parent_indices(words))
            flat = pc.list_flatten(words)
            docs.append(owners[inside])
            tokens.append(flat)
            fields.append(np.full(len(flat), number, np.uint8))
        encoded = pa.chunked_array(tokens, pa.string()).combine_chunks().dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.chunk(0) if encoded.num_chunks else pa.array([], pa.string()).dictionary_encode()
        self._words: pa.Array = encoded.dictionary
        codes = np.asarray(encoded.indices)
        doc, field = np.concatenate(docs), np.concatenate(fields)
        order = np.argsort(codes, kind="stable")
        self._doc, self._field = doc[order].astype(np.int32), field[order]
        self._starts = np.searchsorted(codes[order], np.arange(len(self._words) + 1))
        lengths = np.bincount(doc, weights=np.array(list(FIELDS.values()))[field], minlength=self.count)
        mean = float(lengths.mean()) if self.count else 1.0
        self._penalty = (1 - B + B * lengths / max(mean, 1e-9)).astype(np.float32)
        self._place: dict[str, int] | None = None

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
        if self._place is None:
            self._place = {w: i for i, w in enumerate(self._words.to_pylist())}
        at = self._place.get(word)
        if at is None:
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


def _texts(rows: pa.Table, name: str) -> tuple[np.ndarray, pa.Array]:
    """(row numbers, texts) of a column of strings or lists of strings: normalised, empty ones left out."""
    column = rows.column(name)
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
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
