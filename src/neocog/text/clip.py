"""CLIP's space of pictures and sentences, read without PyTorch: its transformer for texts, and what a cosine means.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", arXiv:2103.00020. In a
library it stands in the place of ``text.space.Space`` and answers the same questions; ``library/clip.py`` makes it of
weights that a user has. Its files are those of a space, with ``tokenizer.json`` beside them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file, save

from neocog.files import write_atomically
from neocog.text.tokens import normal

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KIND = "clip"  # what space.json says of it
_FILES = ("space.safetensors", "space.json", "tokenizer.json")
_ENDS = (("<|startoftext|>", "<|endoftext|>"), ("<start_of_text>", "<end_of_text>"))  # OpenAI's spelling, open_clip's
_AT_ONCE = 32  # texts that are read together
_REMEMBERED = 256  # texts
_BLOCK = "transformer.resblocks.{}."  # names of a layer
_WORDS = 12  # of a text, from which on no word is weighed: each is one more text
_EPS = 1e-5  # of layer normalisation


def shapes(words: int, width: int, layers: int, context: int, dimensions: int) -> dict[str, tuple[int, ...]]:
    """The arrays of the text tower by open_clip's names; with those of the picture tower, they are all of a CLIP's."""
    made: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (words, width),
        "positional_embedding": (context, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
        "text_projection": (width, dimensions),
        "logit_scale": (),
    }
    for k in range(layers):
        for layer, shape in (
            ("ln_1.", (width,)), ("ln_2.", (width,)), ("attn.in_proj_", (3 * width, width)),
            ("attn.out_proj.", (width, width)), ("mlp.c_fc.", (4 * width, width)), ("mlp.c_proj.", (width, 4 * width)),
        ):  # fmt: skip
            made |= {f"{_BLOCK.format(k)}{layer}weight": shape, f"{_BLOCK.format(k)}{layer}bias": shape[:1]}
    return made


def tokenizer_of(text: str) -> Tokenizer:
    """The tokenizer that a tokenizer.json describes. Raises: ValueError."""
    from tokenizers import Tokenizer

    try:
        made = Tokenizer.from_str(text)
    except Exception as error:  # it raises no other
        raise ValueError(f"no tokenizer: {error}") from None
    _ends(made)
    return made


def _ends(tokenizer: Tokenizer) -> tuple[int, int]:
    """The ids that a text begins and ends with. Raises: ValueError: it has none."""
    for spelled in _ENDS:
        start, end = map(tokenizer.token_to_id, spelled)
        if start is not None and end is not None:
            return start, end
    raise ValueError(f"no tokenizer of CLIP: it has no {' and '.join(_ENDS[0])}")


class ClipSpace:
    """Places of pictures and sentences of a CLIP, as ``text.space.Space`` gives those of another net.

    Args:
        weights: arrays by name: those of `shapes`, and ``bank`` (P, D), the places of everyday phrases, see
            `probability`.
        about: JSON-able: trunk, the picture tower's name in a library; heads, of a layer; quick, whether its layers
            use x sigmoid(1.702 x) for GELU; words, which it knows; common, those of the bank.
        tokenizer: whose ids the weights are for.
    """

    threshold = 0.5
    weighs_classes = False

    def __init__(self, weights: Mapping[str, np.ndarray], about: Mapping[str, Any], tokenizer: Tokenizer) -> None:
        self.weights, self.about, self._tokenizer = dict(weights), dict(about), tokenizer
        self._bank = self.weights["bank"].astype(np.float32)
        self._scale = math.exp(float(self.weights["logit_scale"]))
        self._remembered: dict[str, np.ndarray] = {}
        self._start, self._end = _ends(tokenizer)

    @classmethod
    def load(cls, folder: Path, about: Mapping[str, Any]) -> ClipSpace:
        """The space in a folder, of which space.json says `about`. Raises: as the files' readers."""
        return cls(load_file(folder / _FILES[0]), about, tokenizer_of((folder / _FILES[2]).read_text("utf-8")))

    def save(self, folder: Path) -> None:
        """Write the three files, each whole; the weights in half precision. Only with the last one it is a space."""
        folder.mkdir(parents=True, exist_ok=True)
        small = {name: np.ascontiguousarray(value, np.float16) for name, value in self.weights.items()}
        small["logit_scale"] = np.asarray(self.weights["logit_scale"], np.float32)  # a power of e
        write_atomically(folder / _FILES[0], save(small))
        write_atomically(folder / _FILES[2], self._tokenizer.to_str().encode())
        write_atomically(folder / _FILES[1], json.dumps(self.about, ensure_ascii=False).encode())

    def beside(self, phrases: Sequence[str]) -> ClipSpace:
        """The same with these phrases as its bank, as they are when they are asked for."""
        return ClipSpace({**self.weights, "bank": self.sentences(phrases)[:, :-1]}, self.about, self._tokenizer)

    @property
    def trunk(self) -> str:
        """The picture tower, as the library names it."""
        return str(self.about["trunk"])

    @property
    def dimensions(self) -> int:
        """Numbers in a vector: those of CLIP's places, and one for how near the bank is."""
        return self._bank.shape[1] + 1

    @cached_property
    def fingerprint(self) -> str:
        """Changes with what `pictures` does."""
        return hashlib.sha256(np.ascontiguousarray(self.weights["bank"], np.float16).tobytes()).hexdigest()[:32]

    # ---- places

    def pictures(self, features: np.ndarray) -> np.ndarray:
        """What the picture tower says of pictures, (N, D) -> float32 (N, D + 1): see `probability`."""
        x = _unit(np.asarray(features, np.float32))
        return np.concatenate((x, -(x @ self._bank.T).max(1, keepdims=True)), 1)

    def sentences(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (N, D + 1). A word alone is read as "a photo of" it, as CLIP's authors do (section 3.1.4)."""
        asked = [text if len(text.split()) != 1 else f"a photo of {text}" for text in texts]
        return np.concatenate((self.read(asked), np.ones((len(texts), 1), np.float32)), 1)

    def heads(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """None: CLIP's sentences are near pictures of single words, too; see ``Space.heads``."""
        return np.zeros((0, self.dimensions), np.float32), np.zeros((0, 2), np.float32)

    def probability(
        self, products: np.ndarray, text: str, seen: np.ndarray | None = None, heard: np.ndarray | None = None
    ) -> np.ndarray:
        """float32 (N,): the chance that pictures with these products (N,) with a text's vector show what it says.

        No captions say what a cosine means, so CLIP's own answer is taken. Of several texts, one belongs to a picture
        with the probability softmax(s c), where c are their cosines and s is the scale that CLIP learned. Beside the
        query stand some hundred everyday phrases, the bank. The nearest of them is the best that everyday words say of
        the picture, and has itself only a share of all; what is as near is to have 0.5. In odds that is the query's
        share over the nearest phrase's, exp(s c_query) / exp(s c_nearest): all else cancels. So a picture's place has
        one number more, minus its nearest cosine, a sentence's place 1, and a product is c_query - c_nearest.

        Args:
            seen, heard: what another net's classes and heads of words say; not used.
        """
        return (1 / (1 + np.exp(-(self._scale * np.asarray(products, np.float32)).clip(-30, 30)))).astype(np.float32)

    def contributions(self, text: str, picture: np.ndarray) -> list[tuple[str, float]]:
        """How much less the cosine of a text with a picture's vector (dimensions,) is without each of its words.

        The same for all where each is as well left out, or where there are too many.
        """
        words = text.split()
        without = [" ".join(words[:k] + words[k + 1 :]) for k in range(len(words))] if len(words) <= _WORDS else []
        cosines = self.sentences([text, *without]) @ picture
        lost = (cosines[0] - cosines[1:]).tolist()
        return list(zip(words, lost if max(lost, default=0) > 0 else [1.0] * len(words), strict=True))

    # ---- the text tower

    def read(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (N, D), of length 1: the places of texts, read as they are; the last ones are remembered."""
        made = dict(self._remembered)  # other threads may forget them
        new = [text for text in dict.fromkeys(texts) if text not in made]
        for first in range(0, len(new), _AT_ONCE):
            some = new[first : first + _AT_ONCE]
            made |= zip(some, self._computed(some), strict=True)
        self._remembered = dict(list(made.items())[-_REMEMBERED:])
        return (
            np.stack([made[text] for text in texts]) if len(texts) else np.zeros((0, self._bank.shape[1]), np.float32)
        )

    @cached_property
    def _w(self) -> dict[str, np.ndarray]:
        """The weights as float32, but for the table of tokens, of which few rows are read."""
        return {k: v if k == "token_embedding.weight" else v.astype(np.float32) for k, v in self.weights.items()}

    def _computed(self, texts: Sequence[str]) -> np.ndarray:
        w = self._w
        longest = len(w["positional_embedding"]) - 2
        encoded = [self._tokenizer.encode(normal(text), add_special_tokens=False).ids[:longest] for text in texts]
        last = np.array([len(ids) + 1 for ids in encoded])
        ids = np.array([[self._start, *one, *[self._end] * (last.max() - len(one))] for one in encoded])
        x = w["token_embedding.weight"][ids].astype(np.float32) + w["positional_embedding"][: ids.shape[1]]  # (N, L, W)
        later = np.triu(np.full((ids.shape[1], ids.shape[1]), -np.inf, np.float32), 1)
        k = 0
        while (block := _BLOCK.format(k)) + "ln_1.weight" in w:
            x = x + self._attended(block, self._normed(f"{block}ln_1.", x), later)
            h = self._linear(f"{block}mlp.c_fc.", self._normed(f"{block}ln_2.", x))
            x = x + self._linear(f"{block}mlp.c_proj.", _quick_gelu(h) if self.about["quick"] else _gelu(h))
            k += 1
        # what comes after a text's end was read by no token before it
        return _unit(self._normed("ln_final.", x[np.arange(len(x)), last]) @ w["text_projection"])

    def _attended(self, block: str, x: np.ndarray, later: np.ndarray) -> np.ndarray:
        """(N, L, W) -> (N, L, W): each token asks itself and those before it."""
        n, length, width = x.shape
        joined = self._linear(f"{block}attn.in_proj_", x).reshape(n, length, 3, self.about["heads"], -1)
        q, k, v = joined.transpose(2, 0, 3, 1, 4)  # each (N, heads, L, W / heads)
        scores = q @ k.swapaxes(2, 3) / math.sqrt(q.shape[3]) + later
        powers = np.exp(scores - scores.max(3, keepdims=True))
        found = powers / powers.sum(3, keepdims=True) @ v
        return self._linear(f"{block}attn.out_proj.", found.swapaxes(1, 2).reshape(n, length, width))

    def _linear(self, layer: str, x: np.ndarray) -> np.ndarray:
        weight = self._w[f"{layer}weight"]
        made = x.reshape(-1, x.shape[-1]) @ weight.T  # one product; numpy would make one for each text
        return made.reshape(*x.shape[:-1], len(weight)) + self._w[f"{layer}bias"]

    def _normed(self, layer: str, x: np.ndarray) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + _EPS)
        return x * self._w[f"{layer}weight"] + self._w[f"{layer}bias"]


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12)


def _quick_gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.tanh(0.851 * x)) / 2  # x sigmoid(1.702 x), which never overflows


def _gelu(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    return x * (1 + erf(x / math.sqrt(2))) / 2
