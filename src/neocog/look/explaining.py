"""Why a net answers as it does: a map of the picture for any answer of any task, by any of the methods in `maps`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neocog.errors import UsageError, closest
from neocog.look import maps
from neocog.look.sheet import over, scaled, signed, warm
from neocog.look.subject import Subject, still, subject
from neocog.tasks.task import Claim

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
                values = maps.gradcam(f, seen.net, x, seen.path(used), each=method == "hirescam", **options)[0]
            elif method == "occlusion":
                values = maps.occlusion(f, x, **options)[0]
            else:
                rule = {"rule": method} if method in _TINTED else {}
                made: Any = {"smoothgrad": maps.smoothgrad, "integrated": maps.integrated}.get(method, maps.gradient)
                each = made(f, x, **rule, **options)[0]  # (C, H, W)
                colours = each.permute(1, 2, 0).float().cpu().numpy()
                values = each.sum(0) if method == "integrated" else each.abs().amax(0)
    except TypeError as error:
        if options:
            raise UsageError(f"{method} has no option like {', '.join(options)}: {error}") from None
        raise
    with torch.no_grad():
        return Map(method, claim.name, used, values.float().cpu().numpy(), colours, seen.picture(x[0]))
