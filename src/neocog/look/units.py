"""What excites the units of a layer: the pictures and patches of a collection, and pictures made from noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neocog.anatomy import Field
from neocog.data import open_source
from neocog.data.batches import in_order
from neocog.data.pictures import Streamed
from neocog.data.source import Source
from neocog.errors import DataError, UsageError
from neocog.fit.evaluating import usual_batch
from neocog.fit.show import Show
from neocog.look.maps import deconvolve, gradient
from neocog.look.sheet import Row, Sheet, Tile, signed, tiled
from neocog.look.subject import Subject, still, subject
from neocog.records import Problem, counted

_SHOWN, _CELL = 24, 64  # units on a sheet that were not chosen; pixels of a patch there


@dataclass(frozen=True, slots=True)
class Hit:
    """A picture that excites a unit.

    Attributes:
        row, key: of the collection. value: the activation, the largest in the picture.
        at: y and x in the map; (0, 0) for a layer without one.
        box: x0, y0, x1, y1 of the receptive field in pixels of the net's input; it may reach beyond the picture.
        patch: uint8 (h, w, 3), what lies in the box, or the whole picture where the field is as large; light outside.
        below: the same part of what the activation is made of (see `Top.way`).
    """

    row: int
    key: str
    value: float
    at: tuple[int, int]
    box: tuple[int, int, int, int]
    patch: np.ndarray = field(repr=False)
    below: np.ndarray = field(repr=False)


@dataclass(frozen=True, slots=True)
class Top:
    """What excites the units of a layer most.

    Attributes:
        units: number of the unit -> its hits, the strongest first; none where it is never active.
        way: how the pictures below were made: "deconvnet", or "guided" for a net without max-pooling, whose places a
            DeconvNet cannot know (Springenberg et al. 2014).
        n: pictures that were seen; `problems` are the others.
    """

    layer: str
    units: dict[int, tuple[Hit, ...]]
    way: str
    n: int
    problems: list[Problem]

    def sheet(self, title: str = "") -> Sheet:
        """The summary sheet of Zeiler and Fergus (2013, figure 2): for each unit patches, and what made it active."""
        how = "a DeconvNet" if self.way == "deconvnet" else "guided backpropagation (the net has no max-pooling)"
        text = f"Of {counted(self.n)} those that excite each unit most; right, what made it active, by {how}."
        tiles = []
        for unit, hits in self.units.items():
            if not hits:
                tiles.append(Tile(np.full((_CELL, _CELL, 3), 235, np.uint8), f"unit {unit}: never active"))
                continue
            span = f"{hits[0].value:.3g}" if len(hits) == 1 else f"{hits[-1].value:.3g} to {hits[0].value:.3g}"
            tiles.append(Tile(_pair(hits), f"unit {unit}: {span}"))
        return Sheet(title or f"Top patches of {self.layer}", "", [Row("", tiles, side=182, text=text)])


def _pair(hits: Sequence[Hit]) -> np.ndarray:
    columns = math.ceil(math.sqrt(len(hits)))
    left, right = (tiled([_square(getattr(h, name)) for h in hits], columns, 2) for name in ("patch", "below"))
    return np.concatenate([left, np.full((len(left), 6, 3), 255, np.uint8), right], 1)


def _square(picture: np.ndarray) -> np.ndarray:
    from PIL import Image

    how = Image.Resampling.NEAREST if max(picture.shape) <= _CELL // 2 else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(picture).resize((_CELL, _CELL), how))


def top_patches(
    net: Any,
    pictures: Any,
    layer: str | None = None,
    units: Sequence[int] | None = None,
    *,
    count: int = 9,
    progress: bool = False,
) -> Top:
    """The pictures and patches of a collection that excite the units of a layer most.

    The collection streams; of each unit the `count` strongest are kept, no two from one picture. A patch is what the
    unit sees: its exact receptive field (`neocog.anatomy`).

    Args:
        net: see `subject`. pictures: whatever ``open_source`` opens.
        layer: dotted name; None: see `Subject.layer`.
        units: channels; None: 24 evenly spread ones, or all if there are fewer.

    Raises: UsageError: no such layer or unit. DataError: no picture can be read.
    """
    seen = subject(net)
    shown = seen.layer(layer)
    chosen = chosen_units(units, shown.shape[0], shown.name)
    source, path, show = open_source(pictures), seen.unit_path(shown.name), Show(progress)
    streamed = Streamed(source, np.arange(len(source)), seen.preprocess)
    best = torch.full((len(chosen), 0), -math.inf)
    where, rows, n = best.long(), best.long(), 0
    with show.bar("looking") as bar, torch.no_grad():
        for batch in in_order(streamed, usual_batch(streamed), seen.device.torch, channels_last=False):
            maps = seen.put_out(batch.x, path)[:, chosen]
            value, at = maps.reshape(*maps.shape[:2], -1).float().cpu().max(2)  # (B, units)
            every = torch.cat((best, value.T), 1)
            best, order = every.topk(min(count, every.shape[1]), 1)
            where = torch.cat((where, at.T), 1).gather(1, order)
            rows = torch.cat((rows, batch.rows.expand(len(chosen), -1)), 1).gather(1, order)
            n += len(batch)
            bar(n / len(source), "")
    if not n:
        raise DataError(f"no picture of {source.name} can be read; 'neocog check' says why")
    hits = _hits(seen, source, shown.name, chosen, best, where, rows, shown.shape)
    return Top(shown.name, hits, way_of(seen), n, streamed.problems)


def chosen_units(units: Sequence[int] | None, channels: int, layer: str) -> list[int]:
    if units is None:
        return sorted({round(i) for i in np.linspace(0, channels - 1, min(_SHOWN, channels))})
    if wrong := [u for u in units if not 0 <= u < channels]:
        raise UsageError(f"{layer} has no unit {wrong[0]}; expected 0 to {channels - 1}")
    return list(units)


def _hits(
    seen: Subject, source: Source, layer: str, units: list[int], best: Tensor, where: Tensor, rows: Tensor,
    shape: tuple[int, ...],
) -> dict[int, tuple[Hit, ...]]:  # fmt: skip
    """The patches of the pictures that were kept, and what they are made of; one picture in memory at a time."""
    found: dict[int, list[Hit | None]] = {u: [None] * best.shape[1] for u in units}
    area, path = seen.field(layer), seen.unit_path(layer)
    with still(seen.net):
        for row in rows[best > 0].unique().tolist():
            places = ((rows == row) & (best > 0)).nonzero().tolist()
            x = seen.read(source.read(row)).x
            picture = seen.picture(x[0])
            some = torch.tensor([units[i] for i, _ in places], device=x.device)
            made = np.concatenate([below(seen, path, x, part) for part in some.split(8)])
            for (i, j), pixels in zip(places, made, strict=True):
                at = divmod(int(where[i, j]), shape[2]) if len(shape) == 3 else (0, 0)
                box = _box(area if len(shape) == 3 else None, at, picture.shape[:2])
                patch, source_of = (_cut(p, box) for p in (picture, signed(pixels)))
                found[units[i]][j] = Hit(row, source.key(row), float(best[i, j]), at, box, patch, source_of)
    return {u: tuple(h for h in hits if h is not None) for u, hits in found.items()}


def below(seen: Subject, path: str, x: Tensor, units: Tensor) -> np.ndarray:
    """What made the strongest place of each unit active in a picture (1, C, H, W), (units, H, W, 3)."""
    x = x.expand(len(units), -1, -1, -1)
    if way_of(seen) == "deconvnet":
        made = deconvolve(seen.outputs, seen.net, x, path, units)
    else:
        made = gradient(lambda x: strongest(seen, path, x, units), x, "guided")
    return made.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).float().cpu().numpy()  # type: ignore[no-any-return]


def way_of(seen: Subject) -> str:
    """How activations are traced to pixels: "deconvnet", or "guided" in a net without max-pooling (see `Top`)."""
    return "deconvnet" if any(isinstance(m, nn.MaxPool2d) for m in seen.net.modules()) else "guided"


def strongest(seen: Subject, path: str, x: Tensor, units: Tensor | int) -> Tensor:
    """The largest activation of a unit in each picture (B,), one unit for all or one for each."""
    maps = seen.put_out(x, path)
    return maps[torch.arange(len(x), device=x.device), units].flatten(1).amax(1)


def _box(area: Field | None, at: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a receptive field; the whole picture where it is as large, or not known."""
    if area is None or area.at_least or len(area.size) != 2:
        return 0, 0, size[1], size[0]
    ends = []
    for k in (1, 0):
        low = math.floor(at[k] * area.stride[k] - area.padding[k])
        ends.append((0, size[k]) if area.size[k] >= size[k] else (low, low + area.size[k]))
    return ends[0][0], ends[1][0], ends[0][1], ends[1][1]


def _cut(picture: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    x0, y0, x1, y1 = box
    made = np.full((y1 - y0, x1 - x0, 3), 225, np.uint8)
    inner = picture[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)]
    made[max(0, -y0) :, max(0, -x0) :][: inner.shape[0], : inner.shape[1]] = inner
    return made


# ---------------------------------------------------------------- from noise


def prefer(
    net: Any,
    unit: int | str,
    layer: str | None = None,
    *,
    steps: int = 128,
    rate: float = 0.03,
    jitter: int | None = None,
    decay: float = 0.01,
    seed: int = 0,
) -> np.ndarray:
    """A picture uint8 (h, w, 3), made from noise, that a unit or an answer prefers.

    Gradient ascent (Adam) with the usual priors: the picture is moved by chance before each step and drawn towards grey
    (Yosinski et al. 2015, arXiv:1506.06579), and it is smooth, because what is moved are its frequencies, each in
    proportion to its wavelength (Olah, Mordvintsev, Schubert 2017, doi 10.23915/distill.00007).

    Args:
        unit: a channel of `layer`, whose middle position is excited: the picture is its receptive field. A text is
            what ``Task.claim`` explains, such as a class, and the picture is the whole input; then `layer` is None.
        rate: of Adam. jitter: pixels; None: a sixteenth of the side. decay: share that is taken off at each step.
    """
    seen = subject(net)
    pre, area = seen.preprocess, None
    if isinstance(unit, str):
        if layer is not None:
            raise UsageError(f"{unit!r} is an answer, not a unit of {layer}; leave out the layer, or give a number")
        score = seen.claim(seen.read(np.full((*pre.input, 3), 127, np.uint8)), unit).score

        def wanted(x: Tensor) -> Tensor:
            return score(seen.outputs(x))
    else:
        shown = seen.layer(layer)
        (unit,) = chosen_units([unit], shown.shape[0], shown.name)
        path = seen.unit_path(shown.name)
        area = seen.field(shown.name) if len(shown.shape) == 3 else None

        def wanted(x: Tensor) -> Tensor:
            maps = seen.put_out(x, path)[:, unit]
            return maps[:, maps.shape[1] // 2, maps.shape[2] // 2] if maps.ndim == 3 else maps

    height, width = pre.input
    g, device = torch.Generator().manual_seed(seed), seen.device.torch
    mean, std = (torch.tensor(v[: pre.channels], device=device)[:, None, None] for v in (pre.mean, pre.std))
    waves = torch.fft.fftfreq(height)[:, None].square() + torch.fft.rfftfreq(width).square()
    scale = (waves.sqrt().clamp(min=1 / max(height, width)).reciprocal() / 4).to(device)
    start = 0.01 * torch.randn(1, pre.channels, height, width // 2 + 1, 2, generator=g)
    spectrum = start.to(device).requires_grad_()

    def picture() -> Tensor:
        made = torch.fft.irfft2(torch.view_as_complex(spectrum) * scale, s=(height, width), norm="ortho")
        return ((made.sigmoid() - mean) / std).contiguous()

    reach = max(1, min(height, width) // 16) if jitter is None else jitter
    if area is not None and max(area.size) < min(height, width):
        reach = min(reach, max(area.size) // 8)  # the middle unit must keep seeing the same place
    adam = torch.optim.Adam([spectrum], rate)
    with still(seen.net):
        for _ in range(steps):
            move = torch.randint(-reach, reach + 1, (2,), generator=g).tolist()
            x = picture().roll(move, (2, 3))
            slope = gradient(wanted, x)
            if not slope.any():  # the unit is not active: what would make its rectifiers so
                slope = gradient(wanted, x, "deconvnet")
            adam.zero_grad()
            x.backward(-slope / slope.norm().clamp(min=1e-12))
            adam.step()
            with torch.no_grad():
                spectrum.mul_(1 - decay)
    made = seen.picture(picture()[0])
    if area is None:
        return made
    return _cut(made, _box(area, (shown.shape[1] // 2, shown.shape[2] // 2), made.shape[:2]))
