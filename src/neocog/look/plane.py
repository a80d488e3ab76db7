"""The space of a collection's vectors, in two dimensions: principal components or t-SNE, drawn with the pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from neocog.data import open_source
from neocog.data.decode import decode
from neocog.errors import DataError, UsageError
from neocog.fit.depth import zoo_net
from neocog.fit.extract import extract
from neocog.look.sheet import COLOURS, LINE, PAPER, SOFT, saved
from neocog.look.subject import subject
from neocog.page import Html, data_uri, page, paragraph

LARGE = 5_000  # vectors from which on openTSNE is taken, where it is installed
_FIRST = 50  # principal components that t-SNE works on

Read = Callable[[int], Any]  # encoded bytes or uint8 array of a row


@dataclass(frozen=True, slots=True)
class Space:
    """Points of a collection.

    Attributes:
        places: float32 (N, 2), each axis from 0 to 1. vectors: float32 (N, D) that they stand for.
        keys: names. read: the picture of a row. groups: a name for each, or ().
        method: "pca" or "tsne". kept: share of the variance that the plane of "pca" keeps; None for t-SNE.
    """

    places: np.ndarray = field(repr=False)
    vectors: np.ndarray = field(repr=False)
    keys: Sequence[str] = field(repr=False)
    read: Read = field(repr=False)
    groups: Sequence[str] = field(repr=False)
    method: str
    kept: float | None = None

    def __len__(self) -> int:
        return len(self.places)

    def neighbours(self, row: int, count: int = 10) -> list[tuple[int, float]]:
        """The nearest other rows by the cosine of the vectors (not by the plane), the nearest first."""
        unit = self.vectors / np.linalg.norm(self.vectors, axis=1, keepdims=True).clip(1e-12)
        cosine = unit @ unit[row]
        cosine[row] = -2
        best = np.argsort(-cosine, kind="stable")[: min(count, len(self) - 1)]
        return [(int(i), float(cosine[i])) for i in best]

    @property
    def text(self) -> str:
        """What is seen, in a sentence."""
        how = "t-SNE: near means alike, distances between groups mean little"
        if self.method == "pca":
            how = f"the two principal components, which keep {self.kept:.0%} of the variance"
        return f"{len(self):,} pictures, {how}."

    def draw(self, side: int = 1600, thumb: int = 0) -> np.ndarray:
        """The map as one picture uint8 (side, side, 3): pictures where there is room, dots for the others.

        Frames and dots have the colours of the groups, if there are at most 7. `thumb`: pixels of a picture; 0: so
        that they fill about half of the map.
        """
        canvas = Image.new("RGB", (side, side), PAPER)
        pen, thumb = ImageDraw.Draw(canvas), thumb or self._thumb(side)
        at = (0.5 * thumb + 12 + self.places * (side - thumb - 24)).round().astype(int)
        colours = self._colours()
        shown = self._room(at, thumb)
        for i in sorted(set(range(len(self))) - set(shown)):
            x, y = at[i].tolist()
            pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colours.get(i, SOFT))
        for i in shown:
            small = Image.fromarray(_thumbnail(self.read, i, thumb))
            x, y = (at[i] - (small.width // 2, small.height // 2)).tolist()
            canvas.paste(small, (x, y))
            if i in colours:
                pen.rectangle((x - 2, y - 2, x + small.width + 1, y + small.height + 1), outline=colours[i], width=2)
        names = list(dict.fromkeys(sorted(self.groups))) if colours else []
        for k, name in enumerate(names):
            pen.text((14, side - 24 * (len(names) - k)), name, COLOURS[k], ImageFont.load_default(18))
        return np.asarray(canvas)

    def _thumb(self, side: int) -> int:
        return int(np.clip(side * 0.7 / np.sqrt(max(len(self), 1)), 28, 112))

    def _room(self, at: np.ndarray, thumb: int) -> list[int]:
        """Rows whose pictures cover at most a third of an earlier one; the order is by chance, always the same."""
        taken: dict[tuple[int, int], list[int]] = {}
        shown = []
        for i in np.random.default_rng(0).permutation(len(at)).tolist():
            x, y = at[i].tolist()
            cell = (x // thumb, y // thumb)
            near = [j for dx in (-1, 0, 1) for dy in (-1, 0, 1) for j in taken.get((cell[0] + dx, cell[1] + dy), ())]
            if all(np.abs(at[i] - at[j]).max() >= 0.65 * thumb for j in near):
                taken.setdefault(cell, []).append(i)
                shown.append(i)
        return shown

    def _colours(self) -> dict[int, tuple[int, int, int]]:
        names = list(dict.fromkeys(sorted(self.groups)))
        if not 1 < len(names) <= len(COLOURS):
            return {}
        return {i: COLOURS[names.index(g)] for i, g in enumerate(self.groups)}

    def to_html(self, title: str = "The space of the pictures", most: int = 2_000) -> str:
        """A page with the map: pictures grow under the pointer and say their name; `most` of them, by chance."""
        side, thumb = 1000, 44
        at, chosen = self.places * (side - thumb), np.random.default_rng(0).permutation(len(self))[:most]
        colours, parts = self._colours(), []
        for i in sorted(chosen.tolist()):
            uri = data_uri(_thumbnail(self.read, i, 2 * thumb), lossless=False)
            frame = f";outline:2px solid rgb{colours[i]}" if i in colours else ""
            name = Html(escape(f"{self.keys[i]}{' - ' + self.groups[i] if self.groups else ''}"))
            x, y = at[i].tolist()
            parts.append(f'<img src="{uri}" alt="{name}" title="{name}" style="left:{x:.0f}px;top:{y:.0f}px{frame}">')
        style = (
            f"<style>.space{{position:relative;width:{side}px;height:{side}px;border:1px solid rgb{LINE}}}"
            f".space img{{position:absolute;max-width:{thumb}px;max-height:{thumb}px}}"
            ".space img:hover{transform:scale(3);z-index:1}</style>"
        )
        left = f" {most:,} of them are shown." if len(self) > most else ""
        body = (
            paragraph(self.text + left) + f'{style}<div class="scroll"><div class="space">{"".join(parts)}</div></div>'
        )
        return page(title, [("", Html(body))])

    def save(self, path: str | os.PathLike[str], title: str = "The space of the pictures") -> Path:
        """Write .png, .jpg or .html and return where it is. Raises: UsageError: another ending."""
        return saved(path, lambda: self.to_html(title), self.draw)


def _thumbnail(read: Read, row: int, side: int) -> np.ndarray:
    """The picture, at most `side` pixels; a grey field for one that cannot be read."""
    try:
        data = read(row)
        picture = Image.fromarray(decode(data, short_side=side) if isinstance(data, bytes) else data).convert("RGB")
    except (DataError, OSError):
        return np.full((side, side, 3), 228, np.uint8)
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))


def space(
    vectors: np.ndarray,
    read: Read,
    keys: Sequence[str],
    groups: Sequence[str] = (),
    *,
    method: str = "tsne",
    seed: int = 0,
) -> Space:
    """Bring vectors (N, D) into a plane.

    Args:
        read: gives the picture of a row. groups: a name for each row, such as its label.
        method: "tsne" (scikit-learn's; of more than `LARGE` vectors openTSNE's) or "pca".

    Raises: UsageError: no such method, or openTSNE is needed and not installed. DataError: fewer than 3 vectors.
    """
    if method not in ("tsne", "pca"):
        raise UsageError(f"expected the method tsne or pca, got {method!r}")
    if len(vectors) < 3:
        raise DataError(f"a map needs at least 3 pictures, got {len(vectors)}")
    from sklearn.decomposition import PCA

    x = np.ascontiguousarray(vectors, dtype=np.float32)
    pca = PCA(min(_FIRST, len(x) - 1, x.shape[1]), random_state=seed).fit(x)
    first, kept = pca.transform(x), None
    if method == "pca" or first.shape[1] < 2:
        method, kept = "pca", float(pca.explained_variance_ratio_[:2].sum())
        plane = np.pad(first, ((0, 0), (0, 2)))[:, :2]
    else:
        plane = _tsne(first, seed)
    low, high = plane.min(0), plane.max(0)
    places = ((plane - low) / np.maximum(high - low, 1e-12)).astype(np.float32)
    return Space(places, x, keys, read, groups, method, kept)


def _tsne(x: np.ndarray, seed: int) -> np.ndarray:
    perplexity = float(min(30, max(2, (len(x) - 1) // 3)))
    if len(x) > LARGE:
        try:
            from openTSNE import TSNE as Large
        except ImportError:
            raise UsageError(
                f"t-SNE of {len(x):,} pictures needs openTSNE: pip install 'neocog[tsne]'; --method pca does without"
            ) from None
        made = Large(perplexity=perplexity, initialization="pca", random_state=seed, n_jobs=os.cpu_count() or 1).fit(x)
        return np.asarray(made)
    from sklearn.manifold import TSNE

    return np.asarray(TSNE(perplexity=min(perplexity, len(x) - 1), init="pca", random_state=seed).fit_transform(x))


def space_of(
    net: Any, pictures: Any, layer: str | None = None, *, method: str = "tsne", progress: bool = False
) -> Space:
    """The space of a collection by the features of a net: what its last layer reads, or a layer by name.

    Args:
        net: see `subject`. pictures: whatever ``open_source`` opens; their labels are the groups.
    """
    seen, source = subject(net), open_source(pictures)
    made = extract(zoo_net(seen.net), source, layer, preprocess=seen.preprocess, progress=progress)
    groups = [made.classes[k] if k >= 0 else "no label" for k in made.labels] if (made.labels >= 0).any() else []
    keys = [source.key(int(i)) for i in made.rows]
    return space(made.values, lambda i: source.read(int(made.rows[i])), keys, groups, method=method)
