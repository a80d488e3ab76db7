"""Why a net answers as it does: a map of the picture for any answer of any task, by any of the methods in `maps`; and
one sheet of what it says of pictures, what speaks for it, and the units that they excite most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neocog.data.decode import decode
from neocog.errors import UsageError, closest
from neocog.look.early import maps_row
from neocog.look.maps import gradcam, gradient, integrated, occlusion, smoothgrad, tensor_of
from neocog.look.sheet import Row, Sheet, Tile, over, scaled, signed, warm
from neocog.look.subject import Subject, still, subject
from neocog.look.units import below, chosen_units, way_of
from neocog.nets.taps import tapped
from neocog.tasks.answer import Claim

METHODS = {
    "gradcam": "where the maps of a layer speak for the answer",
    "hirescam": "the same with the gradient of each place, for answers about a place",
    "occlusion": "what the answer loses when a square is covered",
    "gradient": "the size of the gradient of each pixel",
    "smoothgrad": "the mean gradient under noise",
    "integrated": "integrated gradients from grey to the picture: the share of each pixel",
    "guided": "guided backpropagation",
    "deconvnet": "DeconvNet",
}
CAMS = ("gradcam", "hirescam")
_GUESSES = 1  # further name that is explained, where a task gives several
_MOST = 6  # units
_TINTED = ("guided", "deconvnet")  # shown as the picture that they are


@dataclass(frozen=True, slots=True)
class Map:
    """What speaks for an answer.

    Attributes:
        values: float32 (H, W) in pixels of the net's input. Of gradcam, occlusion and integrated the sign counts.
        colours: float32 (H, W, C), where the method gives a number for each channel; else None.
        claim: what it speaks for. layer: the layer that it was made of, "" where none was.
        picture: uint8 (H, W, 3), what the net read.
    """

    method: str
    claim: str
    layer: str
    values: np.ndarray = field(repr=False)
    colours: np.ndarray | None = field(repr=False)
    picture: np.ndarray = field(repr=False)

    def draw(self) -> np.ndarray:
        """A picture uint8 (H, W, 3): over the input, or as it is where every pixel has its own value."""
        if self.method in (*CAMS, "occlusion"):
            return over(self.picture, self.values)
        if self.method in _TINTED and self.colours is not None:
            return signed(self.colours if self.colours.shape[2] == 3 else self.colours[..., 0])
        return warm(scaled(np.abs(self.values)))

    @property
    def peak(self) -> tuple[int, int]:
        """x and y, in pixels of the net's input, of the largest value."""
        y, x = np.unravel_index(int(self.values.argmax()), self.values.shape)
        return int(x), int(y)


def explain(
    net: Any,
    picture: Any,
    what: str | None = None,
    *,
    method: str | None = None,
    layer: str | None = None,
    other: Any = None,
    **options: Any,
) -> Map:
    """A map of what in a picture speaks for an answer.

    Args:
        net: see `subject`. picture: a path, encoded bytes, or uint8 (H, W, 3).
        what: a class, a tag, the number of a box, ...: see ``claims`` of the task; None: what it answers first.
        method: one of `METHODS`; None: gradcam, for a box, a pixel or a point hirescam.
        layer: for these two: dotted name; None: the deepest map with at least 4 positions each way.
        other: the picture to compare with, for the task match.
        options: of the function in `neocog.look.maps`, such as ``samples=50`` or ``window=24``.

    Raises: UsageError: no such method, answer or layer. DataError: the picture cannot be read.
    """
    seen = subject(net)
    batch = seen.read(picture)
    claim = seen.claim(batch, what, other)
    return of_claim(seen, batch.x, claim, method or usual(claim), layer, **options)


def usual(claim: Claim) -> str:
    """The method that fits a claim."""
    return "hirescam" if claim.local else "gradcam"


def of_claim(seen: Subject, x: Tensor, claim: Claim, method: str, layer: str | None = None, **options: Any) -> Map:
    """As `explain`, for a picture (1, C, H, W) that was read."""
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}{closest(method, METHODS)}; expected one of {', '.join(METHODS)}")
    if layer is not None and method not in CAMS:
        raise UsageError(f"{method} looks at the pixels; layer= is for gradcam and hirescam")

    def f(x: Tensor) -> Tensor:
        return claim.score(seen.outputs(x))

    used, colours = "", None
    try:
        with still(seen.net):
            if method in CAMS:
                used = seen.layer(layer).name
                values = gradcam(f, seen.net, x, seen.path(used), each=method == "hirescam", **options)[0]
            elif method == "occlusion":
                values = occlusion(f, x, **options)[0]
            else:
                rule = {"rule": method} if method in _TINTED else {}
                made: Any = {"smoothgrad": smoothgrad, "integrated": integrated}.get(method, gradient)
                each = made(f, x, **rule, **options)[0]  # (C, H, W)
                colours = each.permute(1, 2, 0).float().cpu().numpy()
                values = each.sum(0) if method == "integrated" else each.abs().amax(0)
    except TypeError as error:
        if options:
            raise UsageError(f"{method} has no option like {', '.join(options)}: {error}") from None
        raise
    with torch.no_grad():
        return Map(method, claim.name, used, values.float().cpu().numpy(), colours, seen.picture(x[0]))


# ---------------------------------------------------------------- a sheet


@dataclass(frozen=True, slots=True)
class Active:
    """A unit that a picture excites: its number, its largest activation, and where (x, y in pixels of the input)."""

    unit: int
    value: float
    at: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Looked:
    """One picture that was looked at: the task's answer, the maps, and the most active units of a layer."""

    key: str
    answer: Any
    maps: tuple[Map, ...]
    layer: str
    active: tuple[Active, ...]
    row: tuple[Row, ...] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Without pictures."""
        return {
            "picture": self.key,
            "answer": self.answer.to_json(),
            "maps": [
                {"what": m.claim, "method": m.method, "layer": m.layer or None, "peak": list(m.peak)} for m in self.maps
            ],
            "layer": self.layer,
            "units": [{"unit": a.unit, "value": a.value, "at": list(a.at)} for a in self.active],
        }


def look_at(
    net: Any,
    pictures: Sequence[Any],
    *,
    what: str | None = None,
    methods: Sequence[str] | None = None,
    layer: str | None = None,
    units: Sequence[int] | None = None,
    maps: bool = False,
    other: Any = None,
) -> tuple[Looked, ...]:
    """Look at pictures with a net.

    Args:
        net: see `subject`. pictures: paths, encoded bytes or uint8 arrays.
        what: the answer that is explained (see ``claims`` of the task); None: the first, and the next name.
        methods: see `METHODS`; None: the one that fits the answer, and guided.
        layer: whose units and maps are shown, and of which Grad-CAM and its like are made; None: see `Subject.layer`.
        units: channels that are shown; None: the six that are most active.
        maps: also show the maps of the layer.
        other: the picture to compare with, for the task match.

    Raises: UsageError: no such answer, method, layer or unit. DataError: a picture cannot be read.
    """
    seen = subject(net)
    shown = seen.layer(layer)
    chosen = None if units is None else chosen_units(units, shown.shape[0], shown.name)
    return tuple(
        _one(seen, p, i, what, methods, layer, shown.name, chosen, maps, other) for i, p in enumerate(pictures)
    )


def sheet_of(net: Any, looked: Sequence[Looked]) -> Sheet:
    """All that was looked at on one sheet."""
    seen = subject(net)
    notes = ". ".join(note[0].upper() + note[1:] for note in seen.notes)
    return Sheet(f"What {seen.name} sees", notes + "." if notes else "", [row for one in looked for row in one.row])


def _one(
    seen: Subject, picture: Any, number: int, what: str | None, methods: Sequence[str] | None, layer: str | None,
    shown: str, units: list[int] | None, maps: bool, other: Any,
) -> Looked:  # fmt: skip
    key = str(picture) if isinstance(picture, (str, Path)) else f"picture {number}"
    batch = seen.read(picture)
    answer = seen.answer(batch, key)
    claims = [seen.claim(batch, what, other)]
    if what is None:  # and what speaks for the other names that come to mind
        known = getattr(seen.task, "classes", ())
        others = [n for n, p in answer.tags() if n in known and p > 0.01 and n not in claims[0].name]
        claims += [seen.claim(batch, name) for name in others[:_GUESSES]]
    methods = methods or (usual(claims[0]), "guided")
    pairs = [*((claims[0], m) for m in methods), *((c, methods[0]) for c in claims[1:])]
    made = [of_claim(seen, batch.x, c, m, layer if m in CAMS else None) for c, m in pairs]
    file = Path(picture).read_bytes() if isinstance(picture, (str, Path)) else picture
    file = file if isinstance(file, np.ndarray) else decode(file)
    file = np.repeat(file[..., None], 3, 2) if file.ndim == 2 else file
    drawn = answer.draw(file) if answer.gives("draw") else file
    tiles = [Tile(drawn, answer.text())]
    for m in made:
        how = f"{m.method} of {m.layer}" if m.layer else m.method
        nothing = "" if np.any(m.values) else ": nothing speaks for it"
        tiles.append(Tile(m.draw(), f"{m.claim}\n{how}{nothing}"))
    active, unit_tiles, values = _active(seen, batch.x, shown, units)
    title = key if isinstance(picture, (str, Path)) else ""
    method = "DeconvNet" if way_of(seen) == "deconvnet" else "guided backpropagation"
    which = "The most active units" if units is None else "Units"
    text = f"{which} of {shown}: where, and under it what made the strongest place active ({method})."
    rows = [Row(Path(title).name, tiles, side=220), Row("", unit_tiles, side=302, text=text)]
    if maps:
        rows.append(maps_row(values, f"Maps of {shown}"))
    return Looked(key, answer, tuple(made), shown, active, tuple(rows))


def _active(
    seen: Subject, x: Any, layer: str, units: list[int] | None
) -> tuple[tuple[Active, ...], list[Tile], np.ndarray]:
    """The units, a tile for each, and all that the layer put out."""
    plain, path = seen.path(layer), seen.unit_path(layer)
    with torch.no_grad(), tapped(seen.net, list({plain, path}), apart=True) as found:
        seen.outputs(x)
    values = tensor_of(found, path)[0].float()
    maps = values if values.ndim == 3 else values[:, None, None]
    top, at = maps.flatten(1).max(1)
    chosen = units if units is not None else top.topk(min(_MOST, len(top))).indices.tolist()
    tiles, active, picture = [], [], seen.picture(x[0])
    some = torch.tensor(chosen, device=x.device)
    with still(seen.net):
        pixels = below(seen, path, x, some)
    for k, one in zip(chosen, pixels, strict=True):
        large = F.interpolate(maps[k][None, None].clamp(min=0), x.shape[-2:], mode="bilinear", align_corners=False)
        y, left = divmod(int(at[k]), maps.shape[2])
        place = (int((left + 0.5) * x.shape[-1] / maps.shape[2]), int((y + 0.5) * x.shape[-2] / maps.shape[1]))
        active.append(Active(k, float(top[k]), place))
        gap = np.full((4, picture.shape[1], 3), 255, np.uint8)
        both = np.concatenate([over(picture, large[0, 0].cpu().numpy()), gap, signed(one)])
        tiles.append(Tile(both, f"unit {k}: {float(top[k]):.3g}"))
    return tuple(active), tiles, tensor_of(found, plain)[0].float().cpu().numpy()
