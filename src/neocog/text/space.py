"""A space of pictures and sentences, read without PyTorch: what is near there belongs together.

A picture's place is a layer on what a trunk's own last layer reads; a sentence's place is found by windows over its
subwords (see ``nets.matching``, whose towers these are, trained by the task match). The cosine of the two says how well
they belong together. One space comes with neocog (``space.safetensors`` and ``space.json`` beside this file); others
are folders with the same two files.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from neocog.errors import DataError
from neocog.files import write_atomically
from neocog.text.clip import KIND, ClipSpace
from neocog.text.tokens import load_tokenizer
from neocog.text.vectors import word_vectors

FILES = ("space.safetensors", "space.json")
LONGEST = 64  # tokens of a sentence that are read
_HERE = Path(__file__).parent
_AT_ONCE = 4096  # pictures, or windows, that are computed together
_REMEMBERED = 64  # texts and towers
_SHARP = 15.0  # of what is usual: chosen with the half that is taken off on the first half of Flickr8k dev
LONG = 6  # words of a text from which on it is as long as any
_RAREST = 1e-4  # share of the training's pictures that is taken to have a word which none had


def words_of(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return re.findall(r"[^\W\d_]+", text.lower())


def _small(name: str, value: np.ndarray) -> dict[str, np.ndarray]:
    """An array as it is kept: matrices as 8-bit integers and a scale for each row, vectors in half precision."""
    if value.dtype == np.int32:
        return {name: value}
    if value.ndim < 2:
        return {name: value.astype(np.float16)}
    rows = tuple(range(1, value.ndim))
    scale = (np.abs(value).max(rows, keepdims=True) / 127).astype(np.float32).clip(1e-12)
    return {name: np.rint(value / scale).clip(-127, 127).astype(np.int8), f"{name}.scale": scale}


def _whole(kept: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    scaled = {k: v.astype(np.float32) * kept[f"{k}.scale"] for k, v in kept.items() if v.dtype == np.int8}
    return {k: scaled.get(k, v) for k, v in kept.items() if not k.endswith(".scale")}


class Space:
    """Places of pictures and sentences, vectors of length 1 whose cosine is compared.

    Args:
        weights: arrays by name; ``N`` counts the towers from 0, whose cosines are averaged:
            ``N.tokens`` int32 (U,), ``N.learned`` (U, 64), ``N.windows.K.weight`` (C, 64 + 256, width) and ``.bias``,
            ``N.out.weight`` (D, C in all), ``.bias``, ``N.picture.weight`` (D, F), ``.bias``, and where there is a
            hidden layer ``N.hidden.weight`` (H, F), ``.bias``, ``N.more.weight`` (D, H), ``.bias``; ``usual.sentences``
            and ``usual.pictures`` (M, D of all towers), places that were seen in training, see `_less_usual`; and of
            words that have one of their own (see `heads`) ``words.inner`` (R, D of all towers), ``words.outer``
            (V, R), ``words.bias`` (V,), ``words.usual`` (V,) and ``words.of`` int32, the place among these V of each of
            ``about["words"]``, or -1.
        about: the rest of it, JSON-able; see `about` of a space that was made (``scripts/make_sentence_space.py``).
    """

    def __init__(self, weights: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
        self.weights = {name: np.asarray(value) for name, value in weights.items()}
        self.about = dict(about)
        self._w = {
            name: value if value.dtype == np.int32 else value.astype(np.float32) for name, value in weights.items()
        }
        for name, value in self._w.items():
            if value.ndim == 3:  # windows (C, V, width) as (width, V, C), each matrix in one piece of memory
                self._w[name] = np.ascontiguousarray(value.transpose(2, 1, 0))
        self._towers = sorted({int(name.split(".")[0]) for name in weights if name[0].isdigit()})

    @classmethod
    def load(cls, folder: Path | str | None = None) -> Space:
        """The space in a folder; None: the one that comes with neocog. Raises: DataError: there is none, or damaged."""
        where = _HERE if folder is None else Path(folder)
        try:
            about = json.loads((where / FILES[1]).read_text("utf-8"))
            if about.get("kind") == KIND:
                return ClipSpace.load(where, about)  # type: ignore[return-value]  # it answers the same questions
            return cls(_whole(load_file(where / FILES[0])), about)
        except FileNotFoundError:
            raise DataError(f"no sentence space in {where}: expected {' and '.join(FILES)}") from None
        except (SafetensorError, ValueError, KeyError) as error:
            raise DataError(
                f"the sentence space in {where} is damaged ({error}); remove it and make it again"
            ) from None

    def save(self, folder: Path | str) -> None:
        """Write the two files, each whole; the weights as 8-bit integers with a scale for each row."""
        small: dict[str, np.ndarray] = {}
        for name, value in self.weights.items():
            small |= _small(name, value)
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_atomically(Path(folder) / FILES[0], save({k: np.ascontiguousarray(v) for k, v in small.items()}))
        text = json.dumps(self.about, indent=1, ensure_ascii=False) + "\n"
        write_atomically(Path(folder) / FILES[1], text.encode())

    @property
    def trunk(self) -> str:
        """The weights whose features are read, as a library names them, such as ``efficientnet_lite0``."""
        return str(self.about["trunk"])

    @property
    def dimensions(self) -> int:
        """Numbers in a vector."""
        return sum(len(self._w[f"{n}.out.bias"]) for n in self._towers) + 2 * ("usual.sentences" in self._w)

    @property
    def towers(self) -> int:
        """How many towers there are, whose cosines are averaged."""
        return len(self._towers)

    @property
    def sizes(self) -> dict[str, int]:
        """Of the first tower, as the task match calls them."""
        out = self.weights["0.out.weight"]
        learned, filters = self.weights["0.learned"].shape[1], self.weights["0.windows.0.bias"].shape[0]
        hidden = len(self.weights.get("0.hidden.bias", ()))
        return {"dimensions": out.shape[0], "learned": learned, "filters": filters, "hidden": hidden}

    def tower(self, n: int) -> Space:
        """The space that one tower makes alone, without what pictures' places are usual."""
        own = f"{self._towers[n]}."
        return Space({f"0.{k[len(own) :]}": v for k, v in self.weights.items() if k.startswith(own)}, self.about)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the pictures' towers: places that were computed with another one are not those of this space."""
        import hashlib

        digest = hashlib.sha256()
        of = (".picture.", ".hidden.", ".more.", "usual.sentences")
        for name in sorted(n for n in self.weights if any(part in n for part in of)):
            for kept in _small(name, self.weights[name]).values():
                digest.update(name.encode() + np.ascontiguousarray(kept).tobytes())
        return digest.hexdigest()[:32]

    # ---- places

    def pictures(self, features: np.ndarray) -> np.ndarray:
        """What the trunk's last layer reads of pictures, (N, F) -> float32 (N, dimensions)."""
        made = np.empty((len(features), self.dimensions), np.float32)
        for first in range(0, len(features), _AT_ONCE):
            x = np.asarray(features[first : first + _AT_ONCE], np.float32)
            if self.about.get("format", 1) > 1:
                x = np.sign(x) * np.sqrt(np.abs(x))
            x = x * (math.sqrt(x.shape[1]) / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12))
            places = self._joined([self._shown(n, x) for n in self._towers])
            made[first : first + _AT_ONCE] = self._less_usual(places, "usual.sentences")
        return made

    def _shown(self, n: int, x: np.ndarray) -> np.ndarray:
        w = self._w
        made = x @ w[f"{n}.picture.weight"].T + w[f"{n}.picture.bias"]
        if f"{n}.hidden.weight" in w:
            hidden = np.maximum(x @ w[f"{n}.hidden.weight"].T + w[f"{n}.hidden.bias"], 0)
            made += hidden @ w[f"{n}.more.weight"].T + w[f"{n}.more.bias"]
        return made

    def sentences(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (N, dimensions)."""
        made = np.empty((len(texts), self.dimensions), np.float32)
        for row, place in enumerate(self._places(texts)):
            made[row] = self._less_usual(place[None], "usual.pictures")[0]
        return made

    def meanings(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (N, D): places of sentences to compare with each other, less the mean of the training's sentences."""
        places = self._places(texts)
        return places - self._w["usual.sentences"].mean(0) if "usual.sentences" in self._w else places

    def _places(self, texts: Sequence[str]) -> np.ndarray:
        made = np.empty((len(texts), sum(len(self._w[f"{n}.out.bias"]) for n in self._towers)), np.float32)
        for row, ids in enumerate(self._tokens(texts)):
            made[row] = self._joined([self._remembered(n, ids)[1][None] for n in self._towers])[0]
        return made

    def _less_usual(self, places: np.ndarray, what: str) -> np.ndarray:
        """Places (N, D) -> (N, D + 2) where the space knows what is usual, so that a product loses half of it.

        Some pictures are near every sentence, and some sentences near every picture. How near, the logarithm of the
        mean of ``exp(15 x cosine)`` with those of the training, is taken off by half, of both sides (S. Bogolin et al.,
        "Cross modal retrieval with querybank normalisation", 2022).
        """
        if what not in self._w:
            return places
        usual = np.log(np.exp(_SHARP * (places @ self._w[what].T)).mean(1, keepdims=True)) / _SHARP
        both = (np.ones_like(usual), -usual / 2)
        return np.concatenate((places, *(both if what == "usual.pictures" else both[::-1])), 1)

    def contributions(self, text: str, picture: np.ndarray) -> list[tuple[str, float]]:
        """What each word of a text adds to its cosine with a picture's vector (dimensions,).

        The largest value of each window over the places goes on, so each number has one word that it comes from. What
        the constant part of the last layer adds is of no word and left out.
        """
        words, added = self._shares(text)
        return list(zip(words, (added @ picture).tolist(), strict=True))

    @cached_property
    def _shares(self) -> Callable[[str], tuple[list[str], np.ndarray]]:
        return lru_cache(_REMEMBERED)(self._share_of_words)

    def _share_of_words(self, text: str) -> tuple[list[str], np.ndarray]:
        """The words of a text, and what each adds to its vector (W, dimensions)."""
        (ids,) = self._tokens([text])
        words: list[str] = []
        of = []
        for token in self._tokenizer.tokens(ids) if any(ids) else ():
            if token.startswith("▁") or not words:
                words.append("")
            words[-1] += token.lstrip("▁")
            of.append(len(words) - 1)
        added = np.zeros((len(words), self.dimensions), np.float32)
        first = 0
        for n in self._towers if words else ():
            places, out = self._remembered(n, ids)
            weight = self._w[f"{n}.out.weight"] / (np.linalg.norm(out).clip(1e-12) * math.sqrt(len(self._towers)))
            spoken = np.where(np.asarray(of)[places.argmax(0)] == np.arange(len(words))[:, None], places.max(0), 0)
            added[:, first : first + len(out)] = spoken @ weight.T
            first += len(out)
        return words, added

    def _joined(self, parts: list[np.ndarray]) -> np.ndarray:
        """Vectors of the towers, each of length 1, as one of length 1: its cosines are the means of theirs."""
        each = [part / np.linalg.norm(part, axis=1, keepdims=True).clip(1e-12) for part in parts]
        return np.concatenate(each, 1) / math.sqrt(len(each))

    @cached_property
    def _heads(self) -> dict[str, int]:
        """The place of each word's head."""
        of = self._w.get("words.of", np.zeros(0, np.int32)).tolist()
        return {word: k for word, k in zip(self.about.get("words", ()), of, strict=False) if k >= 0}

    def heads(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Of each word of a text that has a head: float32 (K, dimensions) and (K, 2), for `heard`.

        The product of a picture's vector with the first, and the first of the others added, is the log-odds that a
        caption of the picture has the word, in any of its forms; the second is the logarithm of how usual that is. A
        sentence's vector is near pictures of whole sentences; these say more of queries of one or two words.
        """
        rows = self._rows(text)
        if not rows:
            return np.zeros((0, self.dimensions), np.float32), np.zeros((0, 2), np.float32)
        w = self._w
        vectors = w["words.outer"][rows] @ w["words.inner"]
        away = self.dimensions - vectors.shape[1]  # what is usual does not count here
        return np.pad(vectors, ((0, 0), (0, away))), np.stack((w["words.bias"][rows], w["words.usual"][rows]), 1)

    def _rows(self, text: str) -> list[int]:
        return list(dict.fromkeys(self._heads[word] for word in words_of(text) if word in self._heads))

    @staticmethod
    def heard(products: np.ndarray, added: np.ndarray) -> np.ndarray:
        """What the words of a text say of pictures, float32 (N,), by their products with its `heads` (N, K) -> (N,).

        The mean of the logarithms of how much more probable each word is than usual.
        """
        odds = products + added[:, 0]
        said = np.minimum(odds, 0) - np.log1p(np.exp(-np.abs(odds))) - added[:, 1]  # logaddexp takes 18 times as long
        return said @ np.full(len(added), 1 / len(added), np.float32)  # 20 times as fast as the mean of so few

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.about["tokenizer"])

    @cached_property
    def _remembered(self) -> Callable[[int, tuple[int, ...]], tuple[np.ndarray, np.ndarray]]:
        return lru_cache(_REMEMBERED)(self._read)

    def _tokens(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Ids of each text, at least one; what has no token counts as an empty one."""
        rows = self._tokenizer.encode(texts, LONGEST)
        return [tuple(row[: max(1, int((row > 0).sum()))].tolist()) for row in rows]

    def _read(self, n: int, tokens: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """What the windows of a tower say at each place (L, C), at least 0, and the vector (D,) that is made of it.

        The last texts are remembered (`_remembered`): all hits of a query are explained by the same one.
        """
        ids = np.array(tokens)
        w, there = self._w, ids > 0
        given = np.zeros((len(ids), word_vectors().shape[1]), np.float32)
        given[there] = word_vectors()[ids[there] - 1]
        own = w[f"{n}.tokens"]
        at = np.searchsorted(own, ids).clip(max=len(own) - 1)
        learned = w[f"{n}.learned"][at] * (own[at] == ids)[:, None]
        x = np.concatenate((learned, given), 1)
        said = []
        k = 0
        while f"{n}.windows.{k}.weight" in w:
            weight = w[f"{n}.windows.{k}.weight"]
            padded = np.pad(x, ((len(weight) // 2,) * 2, (0, 0)))
            z = sum(padded[i : i + len(x)] @ of_place for i, of_place in enumerate(weight))
            said.append(np.maximum(z + w[f"{n}.windows.{k}.bias"], 0) * there[:, None])
            k += 1
        places = np.concatenate(said, 1)
        return places, places.max(0) @ w[f"{n}.out.weight"].T + w[f"{n}.out.bias"]

    # ---- how probable it is that a picture shows what a sentence says

    def probability(
        self, products: np.ndarray, text: str, seen: np.ndarray | None = None, heard: np.ndarray | None = None
    ) -> np.ndarray:
        """float32 (N,): the chance that pictures with these products (N,) with a text's vector show what it says.

        Fitted by logistic regression on words and pairs of words of captions (``about["calibration"]`` says on how
        many): what is rare in the training's captions needs a larger product. The more words a text has, the more its
        vector counts, and the less each of them.

        Args:
            seen: float32 (N,): what the net's own classes say of it, see ``library.sentences.seen_in``; None: nothing.
            heard: float32 (N,): what its words say by themselves, see `heard`; None: nothing.
        """
        c = self.about["calibration"]
        logit = c["shift"] + self.weighed(products, text, seen, heard)
        if "rare" in c:
            logit += c["rare"] * math.log(self.share(text))
        return (1 / (1 + np.exp(-logit.clip(-30, 30)))).astype(np.float32)

    def weighed(
        self, products: np.ndarray, text: str, seen: np.ndarray | None = None, heard: np.ndarray | None = None
    ) -> np.ndarray:
        """float32 (N,): what `probability` adds up that differs between pictures; by it they are ranked."""
        c = self.about["calibration"]
        long = min(LONG, len(self._rows(text)))
        found = (c["cosine"] + c.get("longer", 0.0) * long) * np.asarray(products, np.float32)
        for name, said in (("seen", seen), ("heard", heard)):
            if said is not None:
                found += c.get(name, 0.0) * said
        return np.asarray(found, np.float32)

    def share(self, text: str) -> float:
        """The share of the training's pictures whose captions have the rarest word of a text."""
        known = self.about["words"]
        return min((known.get(word, _RAREST) for word in words_of(text)), default=_RAREST)

    @property
    def weighs_classes(self) -> bool:
        """Whether what the net's own classes say counts in `probability`."""
        return "seen" in self.about["calibration"]

    @property
    def threshold(self) -> float:
        """The probability from which a picture is worth showing: below it, nothing was found."""
        return float(self.about["calibration"]["threshold"])
