"""Pretrained word vectors: those of wordllama (MIT), 256 numbers for each of Llama 2's 32,000 subwords.

They are the input embeddings of a language model, brought to 256 numbers by training on pairs of sentences (D. Miller,
"WordLlama: recycled token embeddings from large language models", 2024). The mean of a word's subwords is its vector.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from neocog.errors import UsageError
from neocog.text.tokens import Subwords, Tokenizer, Words, package_file

DIMENSIONS = 256


def word_vectors() -> np.ndarray:
    """float16 (32000, 256), mapped from its file: only the rows that are used are read. Raises: MissingExtra."""
    return _mapped(package_file("weights/l2_supercat_256.safetensors"))


@cache
def _mapped(path: Path) -> np.ndarray:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        (values,) = json.loads(file.read(length)).values()  # the one tensor
    start = 8 + length + values["data_offsets"][0]
    return np.memmap(path, np.float16, "r", offset=start, shape=tuple(values["shape"]))


def mean_vectors(texts: Sequence[str]) -> np.ndarray:
    """float32 (N, 256): the mean of the vectors of each text's subwords; zeros if it is empty. Raises: MissingExtra."""
    table, made = word_vectors(), np.zeros((len(texts), DIMENSIONS), np.float32)
    for row, ids in enumerate(Subwords().encode(texts)):
        if own := [k - 1 for k in ids.tolist() if k]:
            made[row] = table[own].astype(np.float32).mean(0)
    return made


def table_for(tokenizer: Tokenizer) -> np.ndarray:
    """float32 (tokenizer.size, 256): a vector for each id, zeros for padding and for what is no word.

    Raises: UsageError: for trigrams, which have none; MissingExtra.
    """
    if isinstance(tokenizer, Subwords):
        return np.concatenate((np.zeros((1, DIMENSIONS), np.float32), word_vectors().astype(np.float32)))
    if isinstance(tokenizer, Words):
        return np.concatenate((np.zeros((4, DIMENSIONS), np.float32), mean_vectors(tokenizer.words)))
    raise UsageError(f"there are no pretrained vectors of {tokenizer.kind}; expected words or subwords")
