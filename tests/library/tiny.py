"""What the library's tests share: a net of no weight, and folders of small pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from neocog.library.store import Store
from neocog.records import Preprocess


class Tiny:
    """Stands for `embed.Embedder`: the vector is the picture at 2x2 pixels, less grey; counts what it sees."""

    name, dimension, outputs = "tiny", 12, 3
    preprocess = Preprocess(16, 16, (0.0,) * 3, (1.0,) * 3)

    def __init__(self, name: str = "tiny") -> None:
        self.name = name
        self.seen = 0

    def card(self) -> dict[str, Any]:
        fields = {"size": 16, "resize": 16, "mean": [0.0] * 3, "std": [1.0] * 3, "channels": 3}
        return {"weights": self.name, "concepts": ["red", "green", "blue"], "preprocess": fields}

    def embed(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.seen += len(pictures)
        small = np.asarray(pictures, np.float32).reshape(len(pictures), 3, 2, 8, 2, 8).mean((3, 5))
        chances = np.exp(small.mean((2, 3)) / 50)
        return small.reshape(len(pictures), 12) - 100, chances / chances.sum(1, keepdims=True)


def picture(number: int, side: int = 24) -> Image.Image:
    """A smooth random picture, another for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


def fill(folder: Path, count: int, *, start: int = 0, side: int = 24) -> list[Path]:
    """Write pictures into class folders "a" and "b"; every fourth is a PNG."""
    made = []
    for number in range(start, start + count):
        path = folder / "ab"[number % 2] / f"{number}.{'png' if number % 4 == 0 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, side).save(path, quality=90)
        made.append(path)
    return made


def paths_of(store: Store) -> list[str]:
    """All paths of pictures that are there, sorted."""
    return sorted(path for row in store.rows(["paths"]).column("paths").to_pylist() for path in row)
