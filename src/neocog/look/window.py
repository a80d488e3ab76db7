"""A trained run through a window: its layers, and what each of them makes of a picture, as JSON with pictures in it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neocog.anatomy import advise, to_svg
from neocog.anatomy.output import summary
from neocog.data import open_source
from neocog.data.decode import decode
from neocog.data.source import Arrays
from neocog.errors import DataError, NeocogError, UsageError
from neocog.fit.depth import zoo_net
from neocog.fit.run import read_json, read_tensors
from neocog.look.early import filters_picture
from neocog.look.explaining import of_claim, usual
from neocog.look.sheet import enlarged, scaled, warm
from neocog.look.subject import Shown, Subject, subject
from neocog.look.units import top_patches
from neocog.page import data_uri

_UNITS = 24  # of a layer that are shown, the most active first
_LISTENS = 8  # units of the layer before that are named
_SAMPLE = 200  # pictures in which top patches are looked for
_SIDE = 96  # pixels that a small map is enlarged to


class Window:
    """A finished run, opened for looking. One thread looks at a time.

    Raises: RunError: it is not finished, or damaged.
    """

    def __init__(self, run: str | Path) -> None:
        self.folder = Path(run)
        self.seen: Subject = subject(self.folder)
        self.lock = threading.Lock()

    def network(self) -> dict[str, Any]:
        """Return layers (name, kind, shape, params, macs, field), advice, facts, and the drawing as SVG."""
        with self.lock:
            traced, net = self.seen._traced, zoo_net(self.seen.net)
            params = {name: sum(p.numel() for p in m.parameters(recurse=False)) for name, m in net.named_modules()}
            cost: dict[str, int] = {}
            for layer in traced.layers if traced is not None else ():
                cost[layer.module] = cost.get(layer.module, 0) + layer.macs
            layers = [
                {
                    "name": one.name,
                    "kind": one.kind,
                    "shape": list(one.shape),
                    "params": params.get(one.name, 0),
                    "macs": cost.get(one.name, 0),
                    "field": self._field(one.name),
                }
                for one in self.seen.shapes
                if not any(other.name.startswith(f"{one.name}.") for other in self.seen.shapes)
            ]
            if traced is None:
                return {"layers": layers, "advice": [], "facts": {}, "svg": ""}
            found = [
                {"title": one.change, "text": one.evidence, "layers": list(one.layers)} for one in advise(traced, net)
            ]
            return {"layers": layers, "advice": found, "facts": dict(summary(traced)), "svg": to_svg(traced)}

    def look(
        self,
        picture: bytes,
        *,
        layer: str = "",
        unit: int | None = None,
        what: str | None = None,
        cover: tuple[float, float, float, float] | None = None,
    ) -> dict[str, Any]:
        """Return what the net says of a picture, what speaks for it, and the maps of a layer.

        Args:
            picture: encoded bytes. layer: whose units are shown; "" none. unit: whose map stands for the answer's.
            what: the answer that is explained; None: the first.
            cover: x0, y0, x1, y1 in fractions: a part that is also answered with grey over it.

        Raises: UsageError: no such layer, unit or answer. DecodeError: it is no picture.
        """
        with self.lock:
            seen, pixels = self.seen, decode(picture)
            batch = seen.read(pixels)
            made: dict[str, Any] = {"answers": self._answers(pixels), "covered": None, "units": []}
            if cover is not None:
                made["covered"] = self._answers(_covered(pixels, cover))
            if layer:
                made |= self._units(batch.x, seen.layer(layer), unit)
            if unit is None or not layer:
                claim = seen.claim(batch, what)
                found = of_claim(seen, batch.x, claim, usual(claim))
                how = f"{found.method} of {found.layer}" if found.layer else found.method
                made |= {
                    "map": data_uri(found.draw(), lossless=False),
                    "told": f"What speaks for {found.claim} ({how})",
                }
            return made

    def unit(self, layer: str, unit: int, pictures: Sequence[bytes] = (), count: int = 9) -> dict[str, Any]:
        """Return what a unit sees and likes: its field, the patches that excite it most, and what it listens to.

        Args:
            pictures: encoded, in which the patches are looked for; () takes those that the run was tested on.

        Raises: UsageError: no such layer or unit. DataError: there are no pictures.
        """
        with self.lock:
            shown = self.seen.layer(layer)
            if not 0 <= unit < shown.shape[0]:
                raise UsageError(f"{layer} has the units 0 to {shown.shape[0] - 1}, got {unit}")
            top = top_patches(self.seen, self._sample(pictures), layer, [unit], count=count)
            patches = [{"picture": data_uri(one.patch, lossless=False), "value": one.value} for one in top.units[unit]]
            return {"field": self._field(layer), "patches": patches, "weights": self._listens(shown, unit)}

    def _field(self, layer: str) -> str:
        field = self.seen.field(layer)
        return " × ".join(map(str, field.size)) if field is not None else ""

    def _answers(self, pixels: np.ndarray) -> list[dict[str, Any]]:
        answer = self.seen.answer(self.seen.read(pixels), "picture")
        tags = list(answer.tags()) or [(answer.text(), 1.0)]
        pairs = getattr(answer, "top", None) or tags
        return [{"name": str(name), "probability": float(p)} for name, p in pairs[:5]]

    def _units(self, x: torch.Tensor, layer: Shown, unit: int | None) -> dict[str, Any]:
        with torch.no_grad():
            values = self.seen.put_out(x, self.seen.path(layer.name))[0].float().cpu()
        maps = values if values.ndim == 3 else values[:, None, None]
        top = maps.flatten(1).amax(1)
        order = top.argsort(descending=True)[:_UNITS].tolist()
        units = [{"unit": k, "value": float(top[k]), "map": _map(maps[k].numpy())} for k in order]
        if unit is None:
            return {"units": units}
        if not 0 <= unit < len(maps):
            raise UsageError(f"{layer.name} has the units 0 to {len(maps) - 1}, got {unit}")
        return {
            "units": units,
            "map": _map(maps[unit].numpy(), 320),
            "told": f"Where unit {unit} of {layer.name} is active",
        }

    def _listens(self, layer: Shown, unit: int) -> list[dict[str, Any]]:
        """The channels before that a unit's weights are largest for; shares of the largest, with their sign."""
        module = self.seen.net.get_submodule(self.seen.path(layer.name).partition("#")[0])
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor) or weight.ndim < 2 or unit >= len(weight):
            return []
        sums = weight[unit].detach().float().flatten(1).sum(1) if weight.ndim > 2 else weight[unit].detach().float()
        names = [one.name for one in self.seen.shapes]
        before = self.seen.shapes[: names.index(layer.name)]
        source = next((one.name for one in reversed(before) if one.shape[0] == len(sums)), "the input")
        most = float(sums.abs().max().clamp(min=1e-12))
        return [
            {"unit": k, "layer": source, "share": float(sums[k]) / most}
            for k in sums.abs().argsort(descending=True)[:_LISTENS].tolist()
        ]

    def _sample(self, pictures: Sequence[bytes]) -> Any:
        if pictures:
            made = []
            for data in pictures[:_SAMPLE]:
                try:
                    made.append(decode(data, short_side=max(self.seen.preprocess.input)))
                except DataError:
                    continue
            return Arrays(made, name="the library")
        return _tested(self.folder, _SAMPLE)


def filters(run: str | Path) -> np.ndarray:
    """The first layer's filters of a run, finished or not, as they were last saved: uint8 (H, W, 3).

    Raises: UsageError: nothing is saved yet, or no convolution reads the picture.
    """
    folder = Path(run)
    file = next((folder / n for n in ("checkpoint.safetensors", "weights.safetensors") if (folder / n).exists()), None)
    if file is None:
        raise UsageError(f"{folder.name} has saved no weights yet")
    channels = read_json(folder / "run.json")["settings"]["net"].get("in_channels", 3)
    tensors = {
        k.removeprefix("net/"): v for k, v in read_tensors(file)[0].items() if not k.startswith(("opt/", "slow/"))
    }
    first = [k for k, v in tensors.items() if v.ndim == 4 and v.shape[1] == channels and min(v.shape[2:]) > 1]
    if not first:
        raise UsageError(f"{folder.name} has no convolution that reads the picture")
    weights = tensors[min(first, key=lambda k: (k.startswith(("average/", "top/")), len(k), k))].float().numpy()
    return filters_picture(weights, max(2, 48 // weights.shape[2]), min(16, len(weights)))


def errors(run: str | Path, most: int = 36) -> list[dict[str, Any]]:
    """The surest wrong answers of a run that labels: picture, key, said, probability, true; [] for others.

    While it is being trained they are those of the last epoch, on validation pictures.

    Raises: RunError: damaged.
    """
    from neocog.fit.report_results import seen_of

    folder = Path(run)
    split, seen = seen_of(folder)
    settings = read_json(folder / "run.json")["settings"]
    classes = (settings.get("task") or settings).get("classes", ())
    if split is None or "logits" not in seen or "labels" not in seen or seen["logits"].ndim != 2:
        return []
    logits = seen["logits"].astype(np.float64)
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    said = chances.argmax(1)
    wrong = np.flatnonzero((said != seen["labels"]) & (seen["labels"] >= 0))
    wrong = wrong[np.argsort(-chances[wrong, said[wrong]], kind="stable")][:most]
    source = _source(settings, test=split == "test")
    found = []
    for row in wrong.tolist():
        try:
            data = source.read(int(seen["index"][row]))
            pixels = decode(data, short_side=160) if isinstance(data, bytes) else data
        except (NeocogError, OSError, LookupError):
            continue
        found.append(
            {
                "picture": data_uri(pixels, lossless=max(pixels.shape) <= 96),
                "key": source.key(int(seen["index"][row])),
                "said": classes[said[row]],
                "probability": float(chances[row, said[row]]),
                "true": classes[int(seen["labels"][row])],
            }
        )
    return found


def _tested(folder: Path, most: int | None = None) -> Any:
    """The pictures that a run was tested on, as a source; `most` of them, evenly spread."""
    source = _source(read_json(folder / "run.json")["settings"], test=True)
    if most is None or len(source) <= most:
        return source
    return source.select(np.linspace(0, len(source) - 1, most).astype(int))


def _source(settings: Mapping[str, Any], test: bool) -> Any:
    """The pictures that a run was trained on, or (`test`) those that it was tested on."""
    spec = (settings.get("test") if test else None) or settings.get("data")
    if not spec:
        raise DataError("this run was trained on pictures in memory, which are not here any more")
    return open_source(spec, offline=True, columns=settings.get("columns"))


def _map(values: np.ndarray, side: int = _SIDE) -> str:
    scale = max(1, side // max(values.shape))
    return data_uri(enlarged(warm(scaled(values)), scale), lossless=True)


def _covered(pixels: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = (round(v * n) for v, n in zip(box, (width, height, width, height), strict=True))
    out = pixels.copy()
    out[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = 128
    return out
