"""The first layer's filters and their tuning, the maps of any layer, and what a change of the picture does to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neocog.errors import UsageError
from neocog.look.maps import tensor_of
from neocog.look.sheet import Row, Sheet, Tile, chart, enlarged, scaled, signed, tiled, warm
from neocog.look.subject import Subject, subject
from neocog.nets.taps import tapped
from neocog.nets.vision import ORIENTATIONS, SimpleCells, gabor

_MAPS = 48  # of a layer on a sheet
_WAVES = (2.5, 3.0, 4.0, 5.66, 8.0, 11.3)  # wavelengths of the bank, in pixels of the first layer's input


def first_filters(net: Any) -> np.ndarray:
    """The filters of the first convolution, float32 (O, C, kh, kw). Raises: UsageError: the net has none."""
    seen = subject(net)
    for m in seen.net.modules():
        if isinstance(m, nn.Conv2d) and not isinstance(m, SimpleCells) and m.in_channels == seen.preprocess.channels:
            return m.weight.detach().float().cpu().numpy()  # type: ignore[no-any-return]
    raise UsageError(f"{seen.name} has no convolution that reads the picture")


def filters_picture(weights: np.ndarray, scale: int, columns: int) -> np.ndarray:
    """Filters float32 (O, C, kh, kw), each pixel `scale` pixels wide, as one picture uint8 (H, W, 3)."""
    colours = [w.transpose(1, 2, 0) if w.shape[0] == 3 else w.mean(0) for w in weights]
    return tiled([enlarged(signed(one), scale) for one in colours], columns, 2)


def filters_sheet(net: Any) -> Sheet:
    """All filters of the first layer as the colours that excite them, and what each is tuned to."""
    seen, w = subject(net), first_filters(net)
    size = 8 if w.shape[-1] > 8 else 16
    drawn = filters_picture(w, size, max(1, min(len(w), 1100 // (size * w.shape[-1] + 2))))
    found = tuning(seen)
    shape = "x".join(map(str, w.shape))
    rows = [
        Row("Filters", [Tile(drawn)], side=len(drawn) + 2,
            text=f"{shape}, each scaled to its largest weight; grey is zero."),
        Row("Tuning", [Tile(found.draw(), "")], side=300, text=found.text()),
    ]  # fmt: skip
    return Sheet(f"First layer of {seen.name}", "", rows)


@dataclass(frozen=True, slots=True)
class Tuning:
    """What first-layer units answer to, against a bank of Gabor filters (``neocog.nets.vision``).

    Attributes:
        responses: float32 (O, waves, orientations): energy of the two phases, ``sqrt(even^2 + odd^2)``, of products
            with Gabor filters of length 1, as a share of the filter's own length; 1 for a Gabor filter itself.
        angles: in radians, from the x axis towards y (downwards), across the stripes. wavelengths: in pixels.
        colour: (O,) share of a filter's energy that is not the same in all channels, 0 to 1.
    """

    responses: np.ndarray = field(repr=False)
    angles: tuple[float, ...]
    wavelengths: tuple[float, ...]
    colour: np.ndarray = field(repr=False)

    @property
    def best(self) -> list[tuple[float, float, float]]:
        """For each unit the angle in degrees, the wavelength in pixels, and how well the best Gabor filter fits."""
        made = []
        for one in self.responses:
            wave, angle = np.unravel_index(int(one.argmax()), one.shape)
            made.append((math.degrees(self.angles[angle]), self.wavelengths[wave], float(one.max())))
        return made

    def text(self) -> str:
        fit = np.array([b[2] for b in self.best])
        return (
            "Each dot is a unit: the direction across its stripes, and their wavelength. "
            f"{int((fit > 0.7).sum())} of {len(fit)} units have a Gabor filter that fits by 0.7 or more (the share of "
            "their length; small filters fit easily), filled; "
            f"{int((self.colour > 0.5).sum())} see mostly colour, orange."
        )

    def draw(self) -> np.ndarray:
        """Units by orientation (across) and wavelength (up), uint8 (H, W, 3)."""
        from PIL import Image, ImageDraw, ImageFont

        width, height, left, down = 1200, 600, 110, 500
        canvas = Image.new("RGB", (width, height), (255, 255, 255))
        pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(24)
        waves = self.wavelengths
        for k in range(5):
            x = left + (width - left - 40) * k / 4
            pen.line((x, 30, x, down), (217, 222, 227), 2)
            pen.text((x, down + 14), f"{45 * k}°", (113, 113, 122), font, anchor="ma")
        pen.text(((left + width) / 2, down + 56), "direction across the stripes", (113, 113, 122), font, anchor="ma")
        for k, wave in enumerate(waves):
            y = down - 30 - (down - 80) * k / (len(waves) - 1)
            pen.line((left, y, width - 40, y), (217, 222, 227), 2)
            pen.text((left - 12, y), f"{wave:g} px", (113, 113, 122), font, anchor="rm")
        shake = np.random.default_rng(0)
        for (angle, wave, fit), hue in zip(self.best, self.colour, strict=True):
            x = left + (width - left - 40) * angle / 180 + shake.uniform(-16, 16)
            y = down - 30 - (down - 80) * waves.index(wave) / (len(waves) - 1) + shake.uniform(-14, 14)
            ink = (194, 65, 12) if hue > 0.5 else (11, 98, 196)
            pen.ellipse((x - 8, y - 8, x + 8, y + 8), fill=ink if fit > 0.7 else None, outline=ink, width=3)
        return np.asarray(canvas)


def tuning(net: Any, *, orientations: int = 2 * ORIENTATIONS, wavelengths: Sequence[float] | None = None) -> Tuning:
    """Orientation and frequency tuning of the first layer's units.

    Args:
        wavelengths: in pixels; None: from 2.5 to twice the side of the filters.
    """
    w = torch.from_numpy(first_filters(net)).double()  # (O, C, k, k)
    side = max(w.shape[2:])
    waves = tuple(wavelengths or [v for v in _WAVES if v <= 2 * side])
    angles = tuple(math.pi * k / orientations for k in range(orientations))
    mean = w.mean(1, keepdim=True)
    colour = (w - mean).square().sum((1, 2, 3)) / w.square().sum((1, 2, 3)).clamp(min=1e-12)
    flat = w - w.mean((2, 3), keepdim=True)  # uniform light says nothing of stripes
    length = flat.flatten(1).norm(dim=1).clamp(min=1e-12)
    made = torch.zeros(len(w), len(waves), len(angles))
    for i, wave in enumerate(waves):
        for j, angle in enumerate(angles):
            pair = [_cut_to(g, w.shape[2:]) for g in gabor(min(0.5 * wave, side / 3), angle, wave)]
            parts = []
            for g in pair:
                g = (g - g.mean()) / (g - g.mean()).norm().clamp(min=1e-12)
                parts.append(torch.einsum("ochw,hw->oc", flat, g).norm(dim=1))  # stripes of any colour
            a, b = (g - g.mean() for g in pair)
            # on so few pixels two phases may not be at right angles: then their energies may not be added
            alike = (a * b).sum().abs() > 0.05 * a.norm() * b.norm()
            made[:, i, j] = torch.maximum(*parts) if alike else torch.stack(parts).norm(dim=0)
            made[:, i, j] /= length
    return Tuning(made.clamp(max=1).numpy(), angles, waves, colour.float().numpy())


def _cut_to(g: Tensor, size: Any) -> Tensor:
    """The middle of a filter, or the filter in the middle of zeros."""
    for dim, side in ((0, int(size[0])), (1, int(size[1]))):
        more = max(0, side - g.shape[dim])
        pad = [more // 2, more - more // 2]
        g = F.pad(g, [*pad, 0, 0] if dim == 1 else [0, 0, *pad])
        g = g.narrow(dim, (g.shape[dim] - side) // 2, side)
    return g


# ---------------------------------------------------------------- maps


def activations(net: Any, picture: Any, layer: str | None = None) -> np.ndarray:
    """What a layer puts out for a picture: float32 (C, h, w), or (D,) for one without a map."""
    seen = subject(net)
    with torch.no_grad():
        found = seen.put_out(seen.read(picture).x, seen.path(seen.layer(layer).name))
    return found[0].float().cpu().numpy()  # type: ignore[no-any-return]


def maps_row(values: np.ndarray, name: str) -> Row:
    """The maps of a layer beside each other, the strongest first if there are too many."""
    if values.ndim == 1:
        values = values[:, None, None]
    top = values.reshape(len(values), -1).max(1)
    chosen = np.sort(np.argsort(-top, kind="stable")[:_MAPS])
    cell = max(1, 84 // max(values.shape[1:]))
    shown = [enlarged(warm(scaled(values[k].clip(0), 100)), cell) for k in chosen]
    columns = max(1, min(len(shown), 1120 // (shown[0].shape[1] + 2)))
    which = "all" if len(chosen) == len(values) else f"the {len(chosen)} strongest"
    silent = int((top <= 0).sum())
    more = f"; {silent} are never above 0 here" if silent else ""
    c, h, w = values.shape
    side = -(-len(shown) // columns) * (shown[0].shape[0] + 2)
    return Row(
        name, [Tile(tiled(shown, columns, 2))], side=side, text=f"{c} maps of {h}x{w}, {which}, each by itself{more}."
    )


# ---------------------------------------------------------------- invariance


@dataclass(frozen=True, slots=True)
class Invariance:
    """How far the output of layers moves when the picture changes.

    Attributes:
        change: "shift", "turn" or "scale". amounts: by how much: shares of the width, degrees, factors.
        curves: layer -> (amounts,) mean over the pictures of ``|a - b| / sqrt(|a|^2 + |b|^2)``: 0 for the same output,
            1 for one at right angles to it. What a layer puts out for a blank picture is taken off first.
    """

    change: str
    amounts: tuple[float, ...]
    curves: dict[str, np.ndarray]
    n: int

    def draw(self) -> np.ndarray:
        """The curves, uint8 (H, W, 3)."""
        lines = {name: list(zip(self.amounts, map(float, c), strict=True)) for name, c in self.curves.items()}
        says = {"shift": "shift, percent of the width", "turn": "turn, degrees", "scale": "scale, factor"}
        return chart(lines, x=says[self.change], y="change of the output", top=1.0)


def invariance(
    net: Any, pictures: Sequence[Any], change: str = "shift", *, layers: Sequence[str] | None = None, points: int = 9
) -> Invariance:
    """How the outputs of layers move when pictures shift, turn or grow (Zeiler and Fergus 2013, figure 5).

    What comes into the picture from outside is its edge, continued. Maps are not moved back: one that only follows the
    picture changes, too.

    Args:
        change: "shift" up to a fifth of the width, "turn" up to 180 degrees, "scale" from a half to two.
        layers: dotted names; None: the last at each size of map, and what comes after the maps.
    """
    amounts = {
        "shift": np.linspace(0, 20, points),
        "turn": np.linspace(0, 180, points),
        "scale": 2 ** np.linspace(-1, 1, points),
    }.get(change)
    if amounts is None:
        raise UsageError(f"expected shift, turn or scale, got {change!r}")
    seen = subject(net)
    names = [seen.layer(n).name for n in layers] if layers else [s.name for s in seen.levels()]
    paths = {name: seen.path(name) for name in names}
    total = {name: np.zeros(points) for name in names}
    for picture in pictures:
        x = seen.read(picture).x
        with torch.no_grad(), tapped(seen.net, list(paths.values()), apart=True) as found:
            seen.outputs(torch.cat([x, *[changed(x, change, float(a)) for a in amounts], seen.blank()]))
        for name, path in paths.items():
            a = tensor_of(found, path).flatten(1).double()
            a = a[:-1] - a[-1]
            length = (a[0].square().sum() + a[1:].square().sum(1)).clamp(min=1e-24).sqrt()
            total[name] += ((a[1:] - a[0]).norm(dim=1) / length).cpu().numpy()
    curves = {name: (t / max(1, len(pictures))).astype(np.float32) for name, t in total.items()}
    return Invariance(change, tuple(map(float, amounts)), curves, len(pictures))


def changed(x: Tensor, change: str, amount: float) -> Tensor:
    """Pictures (B, C, H, W) shifted by percent of the width, turned by degrees, or enlarged by a factor."""
    a = math.radians(amount) if change == "turn" else 0.0
    s = 1 / amount if change == "scale" else 1.0
    height, width = x.shape[-2:]
    ratio = height / width
    matrix = torch.tensor([
        [s * math.cos(a), s * math.sin(a) * ratio, -2 * amount / 100 if change == "shift" else 0.0],
        [-s * math.sin(a) / ratio, s * math.cos(a), 0.0],
    ])  # fmt: skip
    grid = F.affine_grid(matrix.to(x).expand(len(x), -1, -1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def invariance_rows(seen: Subject, pictures: Sequence[Any]) -> list[Row]:
    """The three changes as charts."""
    tiles = [Tile(invariance(seen, pictures, change).draw(), change) for change in ("shift", "turn", "scale")]
    text = "By layer. 0: the output stays the same; 1: it is as different as one at right angles to it."
    return [Row("When the picture moves", tiles, side=215, text=text)]
