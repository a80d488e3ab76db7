"""Computations on masks: the agreement of borders, U-Net's weights at borders, the Dice loss, coloured pictures."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neocog.data.kinds import NOT_LABELLED
from neocog.tasks.canvas import in_colour

TOLERANCE = 0.0075  # of the picture's diagonal, by which borders may miss each other (Csurka et al. 2013)
SIGMA = 5.0  # pixels, of U-Net's weights between neighbours (Ronneberger et al. 2015)
_REACH = 4.5  # times sigma: farther pairs of borders add less than 4e-5 of the weight
_GROUND = ("ground", "background", "void", "other", "unlabelled", "unlabeled")
# colours that are told apart; the first is for the ground
COLOURS = (
    (30, 30, 30), (230, 60, 60), (60, 130, 230), (70, 180, 80), (240, 170, 40), (150, 80, 200), (60, 200, 200),
    (230, 110, 180), (150, 110, 70), (180, 200, 60), (120, 120, 120), (250, 220, 120), (100, 60, 120),
)  # fmt: skip
WRONG = (255, 40, 40)


def is_ground(name: str) -> bool:
    """Whether a class is what is left where nothing is."""
    return name.lower().strip("_ ") in _GROUND


# ---------------------------------------------------------------- borders


def borders(mask: Tensor, k: int) -> Tensor:
    """bool (H, W): pixels where class `k` meets another on the right, below or both (as the code of DAVIS has it)."""
    own, labelled = mask == k, mask != NOT_LABELLED
    made = torch.zeros_like(own)
    for dy, dx in ((0, 1), (1, 0), (1, 1)):
        here, there = (slice(0, own.shape[0] - dy), slice(0, own.shape[1] - dx)), (slice(dy, None), slice(dx, None))
        made[here] |= (own[here] != own[there]) & labelled[here] & labelled[there]
    return made


def border_f(found: Tensor, mask: Tensor, classes: int) -> Tensor:
    """F of the border pixels of each class in one picture, float64 (classes,); nan where neither mask has any.

    Precision is the share of found border pixels with a true one within the tolerance (0.75 % of the diagonal, rounded
    up), recall the share of true ones with a found one (Csurka et al. 2013; Perazzi et al. 2016).
    """
    found = torch.where(mask == NOT_LABELLED, NOT_LABELLED, found)
    made = torch.full((classes,), math.nan, dtype=torch.float64)
    there = [k for k in torch.unique(torch.cat((found, mask))).tolist() if k != NOT_LABELLED]
    if len(there) < 2:
        return made
    both = torch.stack([borders(m, k) for k in there for m in (found, mask)])
    near = _within(both, math.ceil(TOLERANCE * math.hypot(*mask.shape)))
    own, true = both[::2], both[1::2]
    hits = torch.stack([(own & near[1::2]).sum((1, 2)), (true & near[::2]).sum((1, 2))]).double().cpu()
    counts = torch.stack([own.sum((1, 2)), true.sum((1, 2))]).double().cpu()
    precision, recall = hits / counts.clamp(min=1)
    f = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    made[torch.tensor(there)] = torch.where(counts.sum(0) > 0, f, math.nan)
    return made


def _within(places: Tensor, radius: int) -> Tensor:
    """bool (N, H, W): what lies within `radius` pixels of a place: row by row of a disc, the widest row first."""
    height, width = places.shape[1:]
    wide, half, rows = places, 0, dict[int, Tensor]()
    for dy in range(radius, -1, -1):  # rows of the disc grow towards its middle
        for step in range(half + 1, math.isqrt(radius * radius - dy * dy) + 1):
            wide = wide.clone()
            wide[:, :, step:] |= places[:, :, : max(0, width - step)]
            wide[:, :, : max(0, width - step)] |= places[:, :, step:]
            half = step
        rows[dy] = wide
    made = rows[0].clone()
    for dy in range(1, min(radius, height - 1) + 1):
        made[:, : height - dy] |= rows[dy][:, dy:]
        made[:, dy:] |= rows[dy][:, : height - dy]
    return made


def border_weights(mask: np.ndarray, strength: float, sigma: float = SIGMA) -> np.ndarray:
    """``strength * exp(-(d1 + d2)^2 / (2 sigma^2))`` for each pixel of a mask (H, W), float32.

    d1 and d2 are the distances to the borders of the nearest and the second nearest object (Ronneberger et al. 2015,
    equation 2). Objects are the connected parts of every class but the first, which is what lies between them.
    """
    from scipy.ndimage import distance_transform_edt, find_objects, label

    reach = math.ceil(_REACH * sigma)
    nearest = np.full((2, *mask.shape), np.inf, dtype=np.float32)
    for k in np.unique(mask):
        if k in (0, NOT_LABELLED):
            continue
        parts, _ = label(mask == k, structure=np.ones((3, 3)))
        for number, (rows, columns) in enumerate(find_objects(parts), 1):
            # far from an object nothing changes, so distances are computed in a window around it
            window = (
                slice(max(0, rows.start - reach), rows.stop + reach),
                slice(max(0, columns.start - reach), columns.stop + reach),
            )
            own = parts[window] == number
            distance = distance_transform_edt(~own).astype(np.float32)
            if not own.all():
                # a border is between pixels, where the mask changes: inside, the picture's edge is none
                distance += np.where(own, distance_transform_edt(own), 0).astype(np.float32)
            first, second = nearest[(0, *window)], nearest[(1, *window)]
            second[...] = np.minimum(second, np.maximum(first, distance))
            first[...] = np.minimum(first, distance)
    made: np.ndarray = strength * np.exp(-((nearest[0] + nearest[1]) ** 2) / (2 * sigma**2))
    return made.astype(np.float32)


# ---------------------------------------------------------------- losses


def dice_loss(outputs: Tensor, mask: Tensor, labelled: Tensor) -> Tensor:
    """1 - twice the overlap over the sum, the mean over the classes of a picture (Milletari et al. 2016).

    Each picture counts by its labelled pixels, so that pieces of a batch add up to the whole.
    """
    k = outputs.shape[1]
    p = outputs.softmax(1) * labelled[:, None]
    truth = F.one_hot(mask.clamp(max=k - 1), k).movedim(-1, 1) * labelled[:, None]
    both, total, there = (p * truth).sum((2, 3)), (p + truth).sum((2, 3)), truth.sum((2, 3)) > 0
    each = 1 - (2 * both / total.clamp(min=1e-6) * there).sum(1) / there.sum(1).clamp(min=1)  # (B,)
    size = labelled.sum((1, 2)).to(each)
    return (each * size).sum() / size.sum().clamp(min=1)


# ---------------------------------------------------------------- pictures


def palette(classes: int, given: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    """Colours of classes, uint8 (classes, 3): those of the data, else chosen."""
    if given is not None and len(given) >= classes:
        return np.array(given[:classes], dtype=np.uint8)
    more = [
        tuple(int(255 * v) for v in colorsys.hsv_to_rgb(0.618 * k % 1, 0.5 + 0.25 * (k % 3), 0.95 - 0.25 * (k % 2)))
        for k in range(len(COLOURS), classes)
    ]
    return np.array([*COLOURS[:classes], *more], dtype=np.uint8)


def coloured(picture: np.ndarray, mask: np.ndarray, colours: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """A mask's colours laid over a picture, uint8 (H, W, 3), thinly where the ground is; unlabelled pixels stay."""
    table = np.zeros((256, 4), np.float32)
    for k, name in enumerate(classes):
        strength = 0.2 if is_ground(name) else 0.6
        table[k] = (*(strength * colours[k].astype(np.float32)), 1 - strength)
    table[NOT_LABELLED] = (0, 0, 0, 1)
    there = table[mask]
    return np.rint(in_colour(picture) * there[:, :, 3:] + there[:, :, :3]).astype(np.uint8)


def errors(picture: np.ndarray, mask: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Wrong pixels in red over the darkened picture; those without a label are left as they are."""
    wide = in_colour(picture)
    grey = np.repeat(wide.mean(2, keepdims=True) * 0.6, 3, 2)
    made = np.where((mask != truth)[:, :, None], 0.3 * wide + 0.7 * np.array(WRONG), grey)
    return np.where((truth == NOT_LABELLED)[:, :, None], wide, made).astype(np.uint8)


def with_legend(panels: Sequence[np.ndarray], entries: Sequence[tuple[str, Sequence[int]]]) -> np.ndarray:
    """Pictures of one size side by side, and below them a strip with the name of each colour."""
    from PIL import Image, ImageDraw, ImageFont

    # small pictures are enlarged: names need room
    times = max(1, -(-200 // min(panels[0].shape[:2])))
    gap = max(2, panels[0].shape[1] * times // 100)
    parts: list[np.ndarray] = []
    for panel in panels:
        large = panel.repeat(times, 0).repeat(times, 1)
        parts += [np.full((large.shape[0], gap, 3), 255, np.uint8)] * bool(parts) + [large]
    joined = np.concatenate(parts, axis=1)
    width = joined.shape[1]
    text = max(12, width // 32)
    font = ImageFont.load_default(size=text)
    places, x, y = [], text // 2, text // 2
    for name, colour in entries:
        long = 2 * text + int(font.getlength(name))
        if x + long > width and x > text // 2:
            x, y = text // 2, y + 3 * text // 2
        places.append((x, y, name, colour))
        x += long
    strip = Image.new("RGB", (width, y + 3 * text // 2), "white")
    pen = ImageDraw.Draw(strip)
    for x, y, name, colour in places:
        pen.rectangle((x, y, x + text, y + text), fill=tuple(int(v) for v in colour), outline=(90, 90, 90))
        pen.text((x + text * 1.3, y), name, fill=(0, 0, 0), font=font)
    return np.concatenate((joined, np.asarray(strip)), axis=0)
