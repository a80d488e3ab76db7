"""One sheet of pictures: what the net says of each, what speaks for it, and the units that it excites most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from neocog.data.decode import decode
from neocog.look.early import maps_row
from neocog.look.explaining import CAMS, Map, of_claim, usual
from neocog.look.maps import tensor_of
from neocog.look.sheet import Row, Sheet, Tile, over, signed
from neocog.look.subject import Subject, still, subject
from neocog.look.units import below, chosen_units, way_of
from neocog.nets.taps import tapped

_GUESSES = 1  # further name that is explained, where a task gives several
_MOST = 6  # units


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
