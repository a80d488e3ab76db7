"""Geometry: a dot drawn at a known place of a file is where the warp says that it is, and answers come back to it."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from neocog.data.augment import Augment
from neocog.data.batches import Batch, Batches, Known, in_order
from neocog.data.kinds import NOT_LABELLED, Boxes, BoxSet, Masks, Points
from neocog.data.pictures import Held, Streamed
from neocog.data.source import Source
from neocog.data.warp import Warp
from neocog.records import Preprocess

CPU = torch.device("cpu")
PLAIN: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
CROP, PAD = Preprocess(48, 52, **PLAIN), Preprocess(48, 48, **PLAIN, fit="pad", shape=(48, 64))
_RADIUS = 3.0  # of the dot, in pixels of the input
# from the upright picture to what a file of that EXIF orientation holds
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip


@dataclass
class Dot:
    """A red dot on a grey picture, as a file, and where it is in the upright picture."""

    data: bytes | np.ndarray
    size: tuple[int, int]
    centre: tuple[float, float]  # x, y
    radius: float

    @property
    def disc(self) -> np.ndarray:
        """uint8 (H, W), 1 on the dot."""
        y, x = np.mgrid[: self.size[0], : self.size[1]] + 0.5
        return ((x - self.centre[0]) ** 2 + (y - self.centre[1]) ** 2 <= self.radius**2).astype(np.uint8)

    @property
    def corners(self) -> np.ndarray:
        (x, y), r = self.centre, self.radius
        return np.array([[x - r, y - r, x + r, y + r]], np.float32)


def dot(rng: np.random.Generator, short: int, how: str, turn: int = 1) -> Dot:
    """A dot anywhere but at the edge, in a picture with a short side of about `short` pixels, lying or standing."""
    size = [short + int(rng.integers(0, 7)), int(short * rng.uniform(1.1, 1.5))]
    if rng.random() < 0.5:
        size.reverse()
    scale = short / 48
    x, y = (float(rng.uniform(12 * scale, side - 12 * scale)) for side in size[::-1])
    made = Dot(b"", (size[0], size[1]), (x, y), _RADIUS * scale)
    pixels = np.full((*size, 3), 60, np.uint8)
    pixels[made.disc == 1] = (255, 40, 40)
    made.data = pixels
    if how == "jpeg":
        image, exif, out = Image.fromarray(pixels), Image.Exif(), io.BytesIO()
        exif[0x0112] = turn
        image = image.transpose(_TURNS[turn]) if turn > 1 else image
        image.save(out, "JPEG", quality=95, subsampling=0, exif=exif)
        made.data = out.getvalue()
    return made


class Dots(Source):
    """Pictures with a dot, and its point, box and mask in columns."""

    def __init__(self, dots: list[Dot]) -> None:
        n = len(dots)
        points = np.array([[(*one.centre, 2.0)] for one in dots], np.float32)
        nothing = np.zeros(1, bool)
        boxes = [BoxSet(one.corners, np.zeros(1, np.int32), nothing) for one in dots]
        columns = {
            "points": Points(points, ("dot",)),
            "boxes": Boxes.of(boxes, ("dot",)),
            "mask": Masks(lambda i: dots[i].disc, n, ("ground", "dot")),
        }
        super().__init__("dots", (), np.full(n, -1), np.full(n, -1), columns=columns)
        self.dots = dots

    def key(self, i: int) -> str:
        return f"dot {i}"

    def read(self, i: int) -> bytes | np.ndarray:
        return self.dots[i].data


def known(source: Source) -> Known:
    def collate(values: dict[str, Any], warp: Warp | None, valid: torch.Tensor) -> dict[str, Any]:
        assert warp is not None and len(warp) == len(valid) == len(values["points"])
        masks = [warp.mask(b, mask) for b, mask in enumerate(values["mask"])]
        return {"mask": torch.stack(masks), "points": values["points"], "boxes": values["boxes"]}

    return Known({k: source.columns[k] for k in ("points", "boxes", "mask")}, collate, warps=True)


def opened(source: Source, pre: Preprocess, kind: type) -> Held | Streamed:
    rows = np.arange(len(source))
    return Held(source, rows, pre, CPU) if kind is Held else Streamed(source, rows, pre)


def redness(x: torch.Tensor) -> torch.Tensor:
    """(C, H, W) -> (H, W), about 0.84 on the dot and 0 elsewhere."""
    return (x[0] - x[1]).float()


def centroid(weights: torch.Tensor) -> np.ndarray:
    """x, y of the middle of a map (H, W), pixel i covering [i, i + 1)."""
    w = weights.double()
    y, x = (torch.arange(n, dtype=torch.float64) + 0.5 for n in w.shape)
    return np.array([float((w.sum(0) * x).sum() / w.sum()), float((w.sum(1) * y).sum() / w.sum())])


def checked(source: Dots, batch: Batch, within: float = 1.0, reflected: int = 0) -> int:
    """Compare every picture of a batch with its warp; the number of dots that were wholly in the picture.

    `reflected`: so many pixels from the edge a dot may be seen twice, because what is outside is a reflection.
    """
    warp, found = batch.warp, 0
    assert warp is not None and warp.size == tuple(batch.x.shape[2:])
    height, width = warp.size
    for b, row in enumerate(batch.rows.tolist()):
        one, red = source.dots[row], redness(batch.x[b])
        assert warp.sizes[b].tolist() == list(one.size)
        assert np.allclose(batch.targets["points"][b][0, :2], one.centre)
        place = warp.points(b, np.array([[*one.centre, 2.0]], np.float32))[0]
        grown = np.linalg.svd(warp.matrix[b, :, :2].numpy(), compute_uv=False).max()
        reach = one.radius * grown + within
        mask, (boxes, good) = batch.targets["mask"][b], warp.boxes(b, one.corners)
        x, y = place[:2]
        assert warp.window is not None
        x0, y0, x1, y1 = warp.window[b].tolist()  # the part of the file that was not cut off
        (cx, cy), r, slack = one.centre, one.radius, 1.5 * one.size[0] / height
        gone = cx < x0 - r - slack or cy < y0 - r - slack or cx > x1 + r + slack or cy > y1 + r + slack
        if gone or not (-reach <= x <= width + reach and -reach <= y <= height + reach):
            assert red.max() < 0.3 and not (mask == 1).any() and place[2] == 0 and not good[0]
            continue
        edge = reach + reflected
        if not (edge <= x <= width - edge and edge <= y <= height - edge):
            continue  # cut by the edge: its middle is another
        if not (x0 + r + slack <= cx <= x1 - r - slack and y0 + r + slack <= cy <= y1 - r - slack):
            continue
        found += 1
        assert red.max() > 0.3
        red = red * (0.84 / red.max())  # colours may have been changed
        assert place[2] == 2 and good[0]
        assert np.abs(centroid((red - 0.3).clamp(min=0)) - place[:2]).max() < within
        assert np.abs(centroid((mask == 1).float()) - place[:2]).max() < within
        rows, columns = np.nonzero((red > 0.42).numpy())
        left, top, right, bottom = boxes[0]
        more = within if warp.field is None else 2.0  # a box is moved, not bent
        assert left - more <= columns.min() and columns.max() + 1 <= right + more
        assert top - more <= rows.min() and rows.max() + 1 <= bottom + more
        assert max(right - left, bottom - top) <= 2 * 1.5 * one.radius * grown + 2  # and not the whole picture
        if warp.field is None:
            _back(one, warp, b, place, boxes, red)
    return found


def _back(one: Dot, warp: Warp, b: int, place: np.ndarray, boxes: np.ndarray, red: torch.Tensor) -> None:
    """From the input to pixels of the file: the point, the box, the map."""
    file_pixel = 1 / np.linalg.svd(warp.matrix[b, :, :2].numpy(), compute_uv=False).min()
    assert np.allclose(warp.points_back(b, place[None])[0, :2], one.centre, atol=0.01 * file_pixel)
    (back,) = warp.boxes_back(b, boxes)
    assert (back[:2] <= one.corners[0, :2] + 0.01).all() and (back[2:] >= one.corners[0, 2:] - 0.01).all()
    maps = warp.maps_back(b, torch.stack((red, -red)))
    assert maps.shape == (2, *one.size)
    assert np.abs(centroid((maps[0] - 0.3).clamp(min=0)) - one.centre).max() < 1.0 * file_pixel
    coarse = torch.nn.functional.avg_pool2d(red[None], 4)  # a map over the input, of any resolution
    found = warp.maps_back(b, coarse)
    assert found.shape == (1, *one.size)
    y, x = divmod(int(found[0].argmax()), one.size[1])
    assert np.abs(np.array([x + 0.5, y + 0.5]) - one.centre).max() < 4.0 * file_pixel


def shown(source: Dots, pre: Preprocess, kind: type, how: Augment, steps: int) -> Iterator[Batch]:
    feed = Batches(opened(source, pre, kind), known(source), how, 12, seed=4, device=CPU)
    return itertools.islice(feed.stream(0), steps)


EVERY = {
    "nothing": Augment(),
    "flip": Augment(flip="random"),
    "translate": Augment(translate=4),
    "crop": Augment(crop=4),
    "resized crop": Augment(resized_crop=0.4),
    "zoom": Augment(zoom=0.4),
    "rotate": Augment(rotate=40.0),
    "elastic": Augment(elastic=1.5),
    "colour": Augment(flip="alternating", colour=0.15),
    "all": Augment(flip="random", crop=3, resized_crop=0.6, zoom=0.2, rotate=20.0),
    "all, bent": Augment(flip="random", crop=3, zoom=0.2, rotate=20.0, elastic=1.5),
}


@pytest.mark.parametrize("kind", [Held, Streamed])
@pytest.mark.parametrize("pre", [CROP, PAD], ids=["crop", "pad"])
@pytest.mark.parametrize("name", EVERY)
def test_a_dot_lies_where_the_warp_says(name: str, pre: Preprocess, kind: type) -> None:
    rng, how = np.random.default_rng(7), EVERY[name]
    source = Dots([dot(rng, 72, "array") for _ in range(24)])
    found, matrices = 0, []
    for batch in shown(source, pre, kind, how, 4):  # two epochs
        found += checked(source, batch, 1.5 if how.elastic else 1.0, reflected=2 * how.translate)
        assert batch.warp is not None
        matrices.append(batch.warp.matrix)
        part = batch.part(slice(3, 6))
        assert part.warp is not None and torch.equal(part.warp.matrix, batch.warp.matrix[3:6])
        assert (batch.warp.field is None) == (not how.elastic)
    assert found >= 16
    turned = torch.linalg.det(torch.cat(matrices)[:, :, :2]) < 0
    assert bool(turned.any()) == (how.flip != "none") and not turned.all()


@pytest.mark.parametrize("kind", [Held, Streamed])
@pytest.mark.parametrize("pre", [CROP, PAD], ids=["crop", "pad"])
def test_turned_files_are_upright_in_every_place(pre: Preprocess, kind: type) -> None:
    rng = np.random.default_rng(5)
    for turn in (1, *_TURNS):
        source = Dots([dot(rng, 72, "jpeg", turn) for _ in range(5)])
        found = [checked(source, b) for b in in_order(opened(source, pre, kind), 4, CPU, known=known(source))]
        assert len(found) == 2 and sum(found) >= 2, turn


@pytest.mark.parametrize("kind", [Held, Streamed])
@pytest.mark.parametrize("pre", [CROP, PAD], ids=["crop", "pad"])
@pytest.mark.parametrize("how", [None, EVERY["resized crop"], EVERY["all"]], ids=["plain", "resized crop", "all"])
def test_places_are_those_of_the_file_where_a_jpeg_is_decoded_smaller(
    how: Augment | None, pre: Preprocess, kind: type
) -> None:
    rng = np.random.default_rng(3)
    sides, turns = (131, 231, 437) * 4, itertools.cycle((1, 6))
    source = Dots([dot(rng, side, "jpeg", turn) for side, turn in zip(sides, turns, strict=False)])
    if how is None:
        batches: Iterator[Batch] = in_order(opened(source, pre, kind), 5, CPU, known=known(source))
    else:
        batches = shown(source, pre, kind, how, 4)
    assert sum(checked(source, batch) for batch in batches) >= 6


def test_what_lies_outside_the_picture_is_not_labelled() -> None:
    source = Dots([dot(np.random.default_rng(1), 72, "array")])
    (batch,) = in_order(opened(source, PAD, Held), 1, CPU, known=known(source))
    mask, warp = batch.targets["mask"][0], batch.warp
    assert warp is not None
    height, width = source.dots[0].size
    scale = min(PAD.input[0] / height, PAD.input[1] / width)
    inside = (mask != NOT_LABELLED).float()
    assert inside.sum() == round(height * scale) * round(width * scale) < mask.numel()
    assert np.abs(centroid(inside) - np.array(PAD.input[::-1]) / 2).max() <= 0.5


@pytest.mark.parametrize("kind", [Held, Streamed])
def test_what_was_cut_off_does_not_come_back(kind: type) -> None:
    """A crop that is then made smaller or turned has black borders, and nothing is labelled there."""
    source = Dots([dot(np.random.default_rng(2), 72, "array") for _ in range(12)])
    how, black = Augment(crop=4, resized_crop=0.4, zoom=0.4, rotate=15.0), 0
    for batch in shown(source, CROP, kind, how, 2):
        for x, mask in zip(batch.x, batch.targets["mask"], strict=True):
            border = x.amax(0) < 0.05
            black += int(border.sum())
            assert not (border & (mask != NOT_LABELLED)).any()
    assert black > 1000
