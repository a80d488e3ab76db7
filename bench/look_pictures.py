"""Make the pictures of docs/look.md, of the two photographs that come with scikit-learn (CC BY 2.0).

python bench/look_pictures.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from neocog import look
from neocog.data.source import Arrays

IMG = Path(__file__).parents[1] / "docs" / "img"
PIECE = 128


def write(name: str, sheet: look.Sheet) -> None:
    Image.fromarray(sheet.draw()).save(IMG / name, quality=85)


def main() -> None:
    photographs = load_sample_images().images  # a temple, a flower
    net = look.subject("efficientnet_lite0")
    write("look.jpg", look.sheet_of(net, look.look_at(net, [photographs[1]])))
    tiles = [look.Tile(look.explain(net, photographs[1], method=m).draw(), m) for m in look.METHODS]
    write("methods.jpg", look.Sheet("Eight maps of one answer", "", [look.Row("", tiles, side=130)]))
    pieces = [
        p[y : y + PIECE, x : x + PIECE]
        for p in photographs
        for y in range(0, p.shape[0] - PIECE, PIECE)
        for x in range(0, p.shape[1] - PIECE, PIECE)
    ]
    source = Arrays(np.stack(pieces), np.zeros(len(pieces), np.int64), ("piece",), name="pieces")
    write("patches.jpg", look.top_patches(net, source, "blocks.3.0.relu1", [0, 5, 15], count=4).sheet())


if __name__ == "__main__":
    main()
