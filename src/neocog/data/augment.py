"""Augmentation of whole batches, on the device where they are.

Every random number of an epoch is drawn at its start, on the CPU, from a generator seeded by (seed, epoch): an
epoch can be entered at any step, on any device and by any number of processes, and shows the same pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neocog.data.chance import ALL, GOLDEN
from neocog.data.chance import mix as mix64


@dataclass(frozen=True, slots=True)
class Augment:
    """What is done to training pictures. The fields are those of the recipe with the same names."""

    flip: str = "none"  # none | random | alternating
    translate: int = 0
    crop: int = 0
    resized_crop: float = 0.0
    cutout: int = 0
    colour: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    zoom: float = 0.0
    rotate: float = 0.0
    elastic: float = 0.0

    @property
    def moves(self) -> bool:
        """Whether whole batches are resampled: turned, scaled, bent."""
        return bool(self.zoom or self.rotate or self.elastic)


@dataclass(slots=True)
class Draws:
    """The random numbers of one epoch, one row for each of N pictures (all on the CPU)."""

    flip: Tensor  # bool (N,)
    shift: Tensor  # int64 (N, 2), rows and columns, within +-max(translate, crop)
    square: Tensor  # float32 (N, 2), centre of the cutout in [0, 1)
    colour: Tensor  # float32 (N, 3), brightness, contrast, saturation factors
    box: Tensor  # float32 (N, 4), uniform numbers for the random resized crop
    move: Tensor | None = None  # float32 (N, 4), uniform numbers in [-1, 1): scale, turn, place
    bend: Tensor | None = None  # float32 (N, 2, 3, 3), normal: displacements of a coarse grid

    def at(self, rows: Tensor) -> Draws:
        """The numbers of some pictures."""
        move, bend = (None if v is None else v[rows] for v in (self.move, self.bend))
        return Draws(
            self.flip[rows], self.shift[rows], self.square[rows], self.colour[rows], self.box[rows], move, bend
        )


def generator(*key: int) -> torch.Generator:
    """A CPU generator whose state is a function of the whole numbers in `key` (splitmix64 over them)."""
    state = GOLDEN
    for part in key:
        state = mix64((state ^ part) + GOLDEN & ALL)
    return torch.Generator().manual_seed(state >> 1)


def draw(how: Augment, pictures: int, seed: int, epoch: int) -> Draws:
    """Draw an epoch's random numbers for `pictures` pictures.

    With ``flip="alternating"`` a picture is mirrored in every other epoch, half of them beginning mirrored, so that
    two epochs show both sides of each (Jordan 2024, section 3.6).
    """
    if how.flip == "alternating":
        first = torch.rand(pictures, generator=generator(seed, -1)) < 0.5
        flip = first ^ (epoch % 2 == 1)
    else:
        flip = torch.rand(pictures, generator=generator(seed, epoch, 1)) < (0.5 if how.flip == "random" else 0.0)
    g = generator(seed, epoch, 2)
    reach = max(how.translate, how.crop)
    shift = torch.randint(-reach, reach + 1, (pictures, 2), generator=g)
    square = torch.rand(pictures, 2, generator=g)
    colour = 1.0 + how.colour * (2.0 * torch.rand(pictures, 3, generator=g) - 1.0)
    box = torch.rand(pictures, 4, generator=g)
    move = 2.0 * torch.rand(pictures, 4, generator=g) - 1.0 if how.moves else None
    bend = torch.randn(pictures, 2, 3, 3, generator=g) if how.elastic else None
    return Draws(flip, shift, square, colour, box, move, bend)


def shift_and_flip(pictures: Tensor, draws: Draws, *, black: bool) -> Tensor:
    """Move pictures (B, H, W, C) by ``draws.shift`` pixels and mirror them, as one gather.

    What comes in from outside is the reflection (as ``F.pad(mode="reflect")``), or black.
    """
    if not (draws.shift.any() or draws.flip.any()):
        return pictures
    _, h, w, _ = pictures.shape
    device = pictures.device
    rows = torch.arange(h) + draws.shift[:, :1]  # (B, H)
    columns = torch.arange(w).expand(len(draws.flip), w)
    columns = torch.where(draws.flip[:, None], w - 1 - columns, columns) + draws.shift[:, 1:]  # (B, W)
    inside = ((rows >= 0) & (rows < h))[:, :, None] & ((columns >= 0) & (columns < w))[:, None, :]
    rows, columns = _reflected(rows, h).to(device), _reflected(columns, w).to(device)
    which = torch.arange(len(pictures), device=device)[:, None, None]
    moved = pictures[which, rows[:, :, None], columns[:, None, :]]  # (B, H, W, C)
    return moved * inside.to(device)[..., None] if black else moved


def _reflected(index: Tensor, size: int) -> Tensor:
    if size == 1:
        return torch.zeros_like(index)
    period = 2 * size - 2
    index = index.remainder(period)
    return torch.minimum(index, period - index)


def cut_out(pictures: Tensor, draws: Draws, side: int) -> Tensor:
    """Set a square of `side` pixels in each picture (B, C, H, W, normalised) to 0, the mean (DeVries, Taylor 2017)."""
    _, _, h, w = pictures.shape
    centre = (draws.square * torch.tensor([h, w])).long().to(pictures.device)
    row = (torch.arange(h, device=pictures.device) - centre[:, :1] + side // 2) // side == 0  # (B, H)
    column = (torch.arange(w, device=pictures.device) - centre[:, 1:] + side // 2) // side == 0
    return pictures.masked_fill((row[:, :, None] & column[:, None, :])[:, None], 0.0)


def jitter_colour(pictures: Tensor, draws: Draws) -> Tensor:
    """Change brightness, contrast and saturation of pictures (B, C, H, W) in [0, 1] by ``draws.colour``."""
    brightness, contrast, saturation = (draws.colour[:, i].to(pictures)[:, None, None, None] for i in range(3))
    x = pictures * brightness
    x = (x - x.mean(dim=(1, 2, 3), keepdim=True)) * contrast + x.mean(dim=(1, 2, 3), keepdim=True)
    if x.size(1) == 3:
        weights = torch.tensor([0.299, 0.587, 0.114], device=x.device, dtype=x.dtype)[None, :, None, None]
        grey = (x * weights).sum(1, keepdim=True)
        x = (x - grey) * saturation + grey
    return x.clamp(0.0, 1.0)


def crop_box(uniform: Tensor, height: int, width: int, smallest: float) -> tuple[float, float, float, float]:
    """Inception's random resized crop: (left, top, right, bottom) in pixels, from 4 uniform numbers.

    The area is `smallest` to 1 of the picture, the ratio of the sides 3/4 to 4/3 (Szegedy et al. 2014, section 6).
    """
    area, ratio, across, down = (float(u) for u in uniform)
    share = smallest + (1.0 - smallest) * area
    shape = (3 / 4) * (16 / 9) ** ratio
    w = min(width, (share * height * width * shape) ** 0.5)
    h = min(height, (share * height * width / shape) ** 0.5)
    left, top = across * (width - w), down * (height - h)
    return left, top, left + w, top + h


def geometry(draws: Draws, how: Augment, height: int, width: int, *, cropped: bool = False) -> Tensor:
    """What augmentation does to places: affine maps float64 (B, 2, 3) from pixels of the prepared picture to the input.

    `cropped`: random resized crops were cut out when the pictures were decoded, so they are not part of it.
    """
    b = len(draws.flip)
    made = torch.zeros(b, 2, 3, dtype=torch.float64)
    sign = 1.0 - 2.0 * draws.flip.double()
    # shift_and_flip: the input's column x shows column x + s, or W - x + s where it is mirrored
    made[:, 0, 0], made[:, 1, 1] = sign, 1.0
    made[:, 0, 2] = torch.where(draws.flip, width + draws.shift[:, 1], -draws.shift[:, 1]).double()
    made[:, 1, 2] = -draws.shift[:, 0].double()
    if how.resized_crop and not cropped:
        made = compose(_crops(draws, how.resized_crop, height, width), made)
    if how.moves:
        made = compose(_moves(draws, how, height, width), made)
    return made


def left_over(draws: Draws, height: int, width: int) -> Tensor:
    """What `shift_and_flip` leaves of the prepared pictures: float64 (B, 4), x0 y0 x1 y1 in their pixels."""
    down, across = draws.shift.double().T
    first = (across.clamp(min=0), down.clamp(min=0))
    return torch.stack((*first, width + across.clamp(max=0), height + down.clamp(max=0)), 1)


def moved_points(matrix: Tensor, points: Tensor) -> Tensor:
    """Points (B, P, 2) moved by affine maps (B, 2, 3)."""
    return points @ matrix[:, :, :2].mT + matrix[:, None, :, 2]


def compose(second: Tensor, first: Tensor) -> Tensor:
    """The affine maps (B, 2, 3) that are `first`, then `second`."""
    linear = second[:, :, :2] @ first[:, :, :2]
    return torch.cat((linear, second[:, :, :2] @ first[:, :, 2:] + second[:, :, 2:]), 2)


def inverted(matrix: Tensor) -> Tensor:
    """The inverse affine maps of (B, 2, 3)."""
    linear = torch.linalg.inv(matrix[:, :, :2])
    return torch.cat((linear, -linear @ matrix[:, :, 2:]), 2)


def _crops(draws: Draws, smallest: float, height: int, width: int) -> Tensor:
    """Random resized crops, back to the same size, as affine maps (B, 2, 3)."""
    boxes = torch.tensor([crop_box(u, height, width, smallest) for u in draws.box], dtype=torch.float64)
    left, top, right, bottom = boxes.T
    made = torch.zeros(len(boxes), 2, 3, dtype=torch.float64)
    made[:, 0, 0], made[:, 1, 1] = width / (right - left), height / (bottom - top)
    made[:, 0, 2], made[:, 1, 2] = -left * made[:, 0, 0], -top * made[:, 1, 1]
    return made


def _moves(draws: Draws, how: Augment, height: int, width: int) -> Tensor:
    """Scaling by 1 / (1 + zoom) to 1 + zoom, turning by up to `rotate` degrees, and moving within the frame.

    A picture that was made larger is moved over the frame, one made smaller inside it.
    """
    assert draws.move is not None
    scale, turn, across, down = draws.move.double().T
    scale = (1.0 + how.zoom) ** scale
    angle = turn * how.rotate * torch.pi / 180
    cos, sin = angle.cos() * scale, angle.sin() * scale
    made = torch.stack((torch.stack((cos, -sin), -1), torch.stack((sin, cos), -1)), 1)  # (B, 2, 2)
    centre = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    room = (scale - 1.0).abs()[:, None] * centre
    to = centre + torch.stack((across, down), -1) * room
    return torch.cat((made, (to - (made @ centre))[:, :, None]), 2)


def bends(draws: Draws, how: Augment, height: int, width: int) -> Tensor | None:
    """Elastic displacements float32 (B, H, W, 2) in pixels, or None: normal numbers of a 3 x 3 grid, bicubic between.

    Ronneberger et al. 2015, section 3.1 (there with a deviation of 10 pixels for pictures of 512).
    """
    if draws.bend is None:
        return None
    coarse = draws.bend * how.elastic
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True).permute(
        0, 2, 3, 1
    )


def resampled(pictures: Tensor, matrix: Tensor, field: Tensor | None = None, *, padding: str = "zeros") -> Tensor:
    """Pictures (B, C, H, W) moved by affine maps (B, 2, 3) of their pixels, then bent, by bilinear sampling."""
    b, _, h, w = pictures.shape
    back = inverted(matrix)
    # to the coordinates of grid_sample, -1 to 1 from edge to edge
    theta = torch.empty(b, 2, 3, dtype=torch.float64)
    theta[:, 0, 0], theta[:, 0, 1] = back[:, 0, 0], back[:, 0, 1] * h / w
    theta[:, 1, 0], theta[:, 1, 1] = back[:, 1, 0] * w / h, back[:, 1, 1]
    middle = torch.tensor([w / 2, h / 2], dtype=torch.float64)
    shift = back[:, :, :2] @ middle + back[:, :, 2] - middle
    theta[:, :, 2] = shift / middle
    grid = torch.nn.functional.affine_grid(theta.float().to(pictures.device), list(pictures.shape), align_corners=False)
    if field is not None:
        linear = back[:, :, :2].float().to(pictures.device)
        offset = torch.einsum("bij,bhwj->bhwi", linear, field.to(pictures.device))
        grid = grid + offset / middle.float().to(pictures.device)
    return torch.nn.functional.grid_sample(pictures, grid.to(pictures.dtype), padding_mode=padding, align_corners=False)


def smaller(pictures: Tensor, side: int) -> Tensor:
    """Pictures (B, C, H, W) with a height of `side` (antialiased bilinear, the ratio of the sides kept)."""
    _, _, h, w = pictures.shape
    if side == h:
        return pictures
    size = (side, max(1, round(w * side / h)))
    small = torch.nn.functional.interpolate(
        pictures.float(), size=size, mode="bilinear", antialias=True, align_corners=False
    )
    last = pictures.is_contiguous(memory_format=torch.channels_last)
    return small.to(pictures.dtype, memory_format=torch.channels_last if last else torch.contiguous_format)


def mix(pictures: Tensor, how: Augment, g: torch.Generator) -> tuple[Tensor, Tensor | None, float]:
    """Mixup or CutMix of a batch (B, C, H, W), each picture with its neighbour: 0 with 1, 2 with 3, and so on.

    Epochs are shuffled, so neighbours are random pictures, as they would be in a shuffled copy of the batch. Pairs
    stay together when several processes share a batch: each mixes what one process would. The last picture of an odd
    number stays as it is.

    Returns: The pictures, the partner of each (B,) or None if nothing was mixed, and the share of the first picture.

    Source: Zhang et al. 2018 (mixup), Yun et al. 2019 (CutMix); with both set, one of them by a coin.
    """
    alphas = [(kind, a) for kind, a in (("mixup", how.mixup), ("cutmix", how.cutmix)) if a > 0]
    if not alphas:
        return pictures, None, 1.0
    kind, alpha = alphas[int(torch.randint(len(alphas), (1,), generator=g))]
    share = _beta(alpha, g)
    partner = (torch.arange(len(pictures)) ^ 1).clamp(max=len(pictures) - 1).to(pictures.device)
    if kind == "mixup":
        return pictures.lerp(pictures[partner], 1.0 - share), partner, share
    _, _, h, w = pictures.shape
    cut = (1.0 - share) ** 0.5
    y, x = (float(u) for u in torch.rand(2, generator=g))
    top, bottom = max(0, round(y * h - cut * h / 2)), min(h, round(y * h + cut * h / 2))
    left, right = max(0, round(x * w - cut * w / 2)), min(w, round(x * w + cut * w / 2))
    mixed = pictures.clone()
    mixed[:, :, top:bottom, left:right] = pictures[partner][:, :, top:bottom, left:right]
    return mixed, partner, 1.0 - (bottom - top) * (right - left) / (h * w)


def _beta(alpha: float, g: torch.Generator) -> float:
    """Beta(alpha, alpha) by Johnk's method: u^(1/a) / (u^(1/a) + v^(1/a)), given that the sum is at most 1."""
    for _ in range(1000):
        u, v = (float(x) for x in torch.rand(2, generator=g, dtype=torch.float64))
        a, b = u ** (1 / alpha), v ** (1 / alpha)
        if 0 < a + b <= 1:
            return a / (a + b)
    return 0.5
