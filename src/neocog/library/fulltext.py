"""Full text of a library: names of files and folders, labels, tags, captions, cameras, and what the files say
of themselves; ranked by BM25, all in memory.

BM25 (Robertson and Zaragoza 2009, "The probabilistic relevance framework: BM25 and beyond"), in the form for fields
(BM25F): a word in a label counts more than one in a file name, and counts are added before they saturate. Scores are
divided by the most that a query can reach, so that they lie in 0..1 and can be calibrated to probabilities.

`spelled` splits texts and queries alike. Words are runs of letters and digits; in scripts that are written without
spaces (Chinese, Japanese, Thai, ...) and in Korean, whose words carry endings, each character is one. Whatever splits
into several words (*merry-go-round*, *IMG_0002.jpg*, 12:30, 東京) is found where these stand side by side.
An apostrophe splits, and is left out as well: *d'été* is found by *été*, *O'Hare* by *ohare*.

Arrow splits whole columns: 7,200 pictures with five captions each take 0.2 s. That is a quarter of a whole search, so
the words and where they stand can be kept (`FullText(rows, keep)`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neocog.library.concepts import LETTERS, normalise, singulars
from neocog.library.rows import encode_path, whole

# How much a word counts by where it stands. Labels and tags were given on purpose; a net that describes is often wrong.
FIELDS = {
    "labels": 3.0, "tags": 3.0, "keywords": 3.0, "captions": 1.0, "texts": 1.0, "places": 1.0, "paths": 1.0,
    "camera": 0.5, "described": 0.3,
}  # fmt: skip
NAMES = {
    "labels": "label", "tags": "tag", "keywords": "keyword", "captions": "caption", "texts": "description",
    "places": "place", "paths": "path", "camera": "camera",
    "described": "machine-written caption",
}  # fmt: skip
K1, B = 1.2, 0.4  # B: long texts are held against a picture only a little; five captions are no worse than one


_FORM = 3  # of what is kept; one more whenever words are split, or fields weighed, in another way

# name of a table and how to make it -> the table, made or as it was kept
Keep = Callable[[str, Callable[[], pa.Table]], pa.Table]


class FullText:
    """The words of every picture, as rows of a table give them."""

    def __init__(self, rows: pa.Table, keep: Keep = lambda name, make: make()) -> None:
        """`rows` has the columns of `FIELDS`; row numbers are those of the table.

        `keep` may give back tables that it was given before for the same rows.
        """
        self.count, self._rows = len(rows), rows.select(list(FIELDS))
        self._known: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]] = {}  # what was found last
        table = keep(f"words{_FORM}", self._split)
        self._words: pa.Array = whole(table.column("word"))
        docs, fields = whole(table.column("docs")), whole(table.column("fields"))
        self._doc, self._field = np.asarray(docs.values), np.asarray(fields.values)
        self._starts = np.asarray(docs.offsets)
        lengths = np.asarray(whole(keep(f"lengths{_FORM}", self._lengths).column("length")))
        mean = float(lengths.mean()) if self.count else 1.0
        self._penalty = (1 - B + B * lengths / max(mean, 1e-9)).astype(np.float32)

    @cached_property
    def _shared(self) -> int:
        return common_folder(pc.list_flatten(whole(self._rows.column("paths"))))

    def _split(self) -> pa.Table:
        """Each word with the rows (`docs`) and the fields where it stands; a row as often as the word."""
        docs, tokens, fields = [], [], []
        for number, name in enumerate(FIELDS):
            owners, texts = _texts(self._rows, name, self._shared)
            quoted = pc.match_substring_regex(texts, "['’＇]")
            for at, some, has in (
                (owners, spelled(texts), "."),
                (owners[np.asarray(quoted)], _with_apostrophes(texts.filter(quoted)), "[^']'[^']"),
            ):
                words = pc.split_pattern(some, " ")
                flat = pc.list_flatten(words)
                there = pc.match_substring_regex(flat, has)
                docs.append(at[np.asarray(pc.list_parent_indices(words))][np.asarray(there)])
                tokens.append(pc.replace_substring(flat.filter(there), "'", ""))
                fields.append(np.full(len(tokens[-1]), number, np.uint8))
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
        weights = np.array(list(FIELDS.values()))[self._field]
        return pa.table({"length": np.bincount(self._doc, weights=weights, minlength=self.count)})

    @property
    def words(self) -> list[str]:
        """All different words."""
        return self._words.to_pylist()

    def knows(self, word: str) -> bool:
        """Whether any picture's text has the word, or its singular or plural."""
        return bool(len(self._found(word)[0]))

    def score(self, words: Iterable[str]) -> np.ndarray:
        """Return float32 (N,) in 0..1: how well the text of each picture answers to all of `words` together."""
        total, most = np.zeros(self.count, np.float32), 0.0
        weights = np.array(list(FIELDS.values()), np.float32)
        for word in words:
            counts = np.zeros(self.count, np.float32)
            doc, field = self._found(word)
            np.add.at(counts, doc, weights[field])
            df = int((counts > 0).sum())
            # rarer than half a picture is not possible; the + 1 keeps words of most pictures above zero
            rarity = float(np.log(1 + (self.count - df + 0.5) / (df + 0.5)))
            total += rarity * counts * (K1 + 1) / (counts + K1 * self._penalty)
            most += rarity * (K1 + 1)
        return total / most if most else total

    def where(self, words: Iterable[str], row: int, *, exactly: bool = False) -> tuple[str, ...]:
        """Return where in the text of one picture any of `words` stands: "label", "caption", ...

        `exactly`: as `phrase` finds them.
        """
        found: set[int] = set()
        for word in words:
            doc, field = self._found(word, exactly)
            found |= set(field[doc == row].tolist())
        names = list(FIELDS)
        return tuple(NAMES[names[i]] for i in sorted(found))

    def phrase(self, text: str) -> np.ndarray:
        """Return bool (N,): whose text has these words, whole, in this order, side by side, in one of its fields."""
        out = np.zeros(self.count, bool)
        out[self._found(text, exactly=True)[0]] = True
        return out

    def _found(self, text: str, exactly: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """(rows, fields) where a word stands, or several side by side; a row as often as they do.

        Unless `exactly`, the singular and the plural of the (last) word stand for it, too.
        """
        words = words_of(text)
        key = (*words, "" if exactly else "...") if words else (text, "")
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= 64:
                self._known.clear()
            found = self._known[key] = self._look(text, words, exactly)
        return found

    def _look(self, text: str, words: tuple[str, ...], exactly: bool) -> tuple[np.ndarray, np.ndarray]:
        if not words:
            return self._signs(text)
        last = words[-1:] if exactly else forms(words[-1])
        if len(words) == 1:
            parts = [self._postings(form) for form in last]
        else:
            parts = [self._side_by_side(words[:-1], last)]
            if not exactly and _APOSTROPHES.intersection(text):
                parts += [self._postings(form) for form in forms("".join(words))]
        docs, fields = zip(*parts, strict=True)
        return np.concatenate(docs), np.concatenate(fields)

    def _side_by_side(self, words: Sequence[str], last: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Where `words` and one of `last` follow each other: only texts of rows that have them all are read again."""
        there = np.zeros(self.count, bool)
        for form in last:
            there[self._postings(form)[0]] = True
        for word in set(words):
            has = np.zeros(self.count, bool)
            has[self._postings(word)[0]] = True
            there &= has
        rows = np.flatnonzero(there)
        start = " ".join(words)

        def there_are(texts: pa.Array) -> list[pa.Array]:
            padded = pc.binary_join_element_wise("", spelled(texts), "", " ")
            return [pc.match_substring(padded, f" {start} {form} ") for form in last]

        docs, fields = self._read_again(self._rows.take(pa.array(rows)), there_are)
        return rows[docs], fields

    def _signs(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Where a text without letters and digits stands, such as a heart."""
        wanted = _safe(text).replace(_VARIANT, "").strip()
        return self._read_again(
            self._rows if wanted else self._rows.slice(0, 0),
            lambda texts: [pc.match_substring(pc.replace_substring(texts, _VARIANT, ""), wanted)],
        )

    def _read_again(self, some: pa.Table, test: Callable[[pa.Array], list[pa.Array]]) -> tuple[np.ndarray, np.ndarray]:
        """(numbers of the rows, fields) whose texts meet one of some tests; a row as often as they do."""
        docs, fields = [np.zeros(0, np.int64)], [np.zeros(0, np.uint8)]
        for number, name in enumerate(FIELDS if len(some) else ()):
            owners, texts = _texts(some, name, self._shared)
            for met in test(texts):
                has = np.asarray(met).astype(bool)
                docs.append(owners[has])
                fields.append(np.full(int(has.sum()), number, np.uint8))
        return np.concatenate(docs), np.concatenate(fields)

    def _postings(self, word: str) -> tuple[np.ndarray, np.ndarray]:
        """(rows, fields) where one word stands; a row as often as the word."""
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


_APOSTROPHES = frozenset("'’＇")
_VARIANT = "\ufe0f"  # asks for the coloured form of a sign
# Scripts without spaces between words; and Korean, where endings are written onto words.
_UNSPACED = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー])"


def spelled(texts: pa.Array) -> pa.Array:
    """Return texts as their words: in one case, without marks, with one space between two."""
    plain = pc.string_is_ascii(texts)
    words = pc.replace_substring_regex(pc.ascii_lower(texts), "[^a-z0-9]+", " ")
    if not pc.all(plain, min_count=0).as_py():
        other = pc.invert(plain)
        some = _without_marks(texts.filter(other))
        some = pc.replace_substring_regex(some, _UNSPACED, r" \1 ")
        words = pc.replace_with_mask(words, other, pc.replace_substring_regex(some, r"[^\p{L}\p{N}\p{Mc}]+", " "))
    return pc.utf8_trim(words, " ")


def _with_apostrophes(texts: pa.Array) -> pa.Array:
    """As `spelled`, but an apostrophe is a letter."""
    some = pc.replace_substring(pc.replace_substring(_without_marks(texts), "’", "'"), "＇", "'")
    return pc.replace_substring_regex(some, r"[^\p{L}\p{N}\p{Mc}']+", " ")


def _without_marks(texts: pa.Array) -> pa.Array:
    """Texts in lower case without accents; Korean syllables stay whole."""
    texts = pc.replace_substring_regex(pc.utf8_normalize(texts, form="NFKD"), r"[\p{Mn}\p{Me}\p{Cf}]+", "")
    texts = pc.utf8_lower(pc.utf8_normalize(texts, form="NFC"))
    for letter, plain in LETTERS.items():
        texts = pc.replace_substring(texts, letter, plain)
    return texts


@lru_cache(maxsize=4096)
def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a text, as `spelled` splits it."""
    return tuple(spelled(pa.array([_safe(text)], pa.string()))[0].as_py().split())


def _safe(text: str) -> str:
    """A text that Arrow can hold: what a terminal gives for bytes that are not UTF-8, as paths are stored."""
    return encode_path(text).encode("utf-8", "replace").decode()


def _texts(rows: pa.Table, name: str, shared: int = 0) -> tuple[np.ndarray, pa.Array]:
    """(row numbers, texts) of a column of strings or lists of strings; of paths, all but the first `shared` letters."""
    column = whole(rows.column(name))
    if pa.types.is_list(column.type):
        owners, texts = np.asarray(pc.list_parent_indices(column)), pc.list_flatten(column)
    else:
        owners, texts = np.arange(len(column)), column
    keep = texts.is_valid()
    if name == "paths":
        texts = pc.replace_substring_regex(texts, r"/\d+\.\d{3}$", "")  # the time of a frame is no word
        texts = pc.utf8_slice_codeunits(texts, shared) if shared else texts
    return owners[np.asarray(keep)], texts.filter(keep)


def common_folder(paths: pa.Array) -> int:
    """Return how many characters the folders have that all paths share: /home/anna/Pictures says nothing of any."""
    present = paths.drop_null()
    if not len(present):
        return 0
    bounds = pc.min_max(present)
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    shared = 0
    for i, (a, b) in enumerate(zip(low, high, strict=False)):
        if a != b:
            break
        if a == "/":
            shared = i + 1
    return shared


def same_name(values: pa.Array | Sequence[str], wanted: str) -> list[str]:
    """Return the distinct values that are `wanted` but for case, marks and punctuation."""
    key = normalise(wanted)
    distinct = pc.unique(values).to_pylist() if isinstance(values, pa.Array | pa.ChunkedArray) else set(values)
    if not key:  # a name of signs alone, such as C++'s plus signs
        return [v for v in distinct if v is not None and v.strip() == wanted.strip()]
    return [v for v in distinct if v is not None and normalise(v) == key]
