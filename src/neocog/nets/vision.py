"""The first stages of the visual system as fixed filters: retina, simple, complex and hypercomplex cells.

Nothing here learns; the filters are formulas, kept as frozen parameters. Any of the stages, one after another, can be
put in front of any net (`front_end`).

    stage                 reads        gives (B, C, H, W) ->        stands for
    Retina                C            B, 2 C, H, W                 on-centre and off-centre ganglion cells
    SimpleCells           C            B, C x 2 phases x 32, H, W   lines and edges (8 orientations x 4 scales)
    ComplexCells          2 phases     B, half the maps, H', W'     the same, wherever exactly they are
    HypercomplexCells     complex      B, as many maps, H', W'      lines that end

Sources: Kuffler 1953 and Rodieck 1965 (difference of Gaussians), Hubel and Wiesel 1962 and 1965, Gabor 1946 and
Daugman 1985 (simple cells), Adelson and Bergen 1985 (energy). Sizes are in pixels, angles in radians counted from the
first axis, m (rightwards), towards the second, n (downwards).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .layers import check_input
from .registry import build, facts, register

ORIENTATIONS = 8
WAVELENGTHS = (4.0, 5.66, 8.0, 11.3)  # half an octave apart
SIGMA_PER_WAVELENGTH = 0.5  # a bandwidth of 1.1 octaves half way up, as in the visual cortex (De Valois 1982: 1 to 1.5)


def gaussian(sigma: float, radius: int) -> Tensor:
    """Return exp(-(m^2 + n^2) / 2 s^2) on a square of side 2 radius + 1, scaled to sum 1; float64."""
    m = torch.arange(-radius, radius + 1, dtype=torch.float64)
    line = torch.exp(-m.square() / (2 * sigma**2))
    return line[:, None] * line / line.sum() ** 2


def gabor(sigma: float, angle: float, wavelength: float) -> tuple[Tensor, Tensor]:
    """Return the even and odd part of a Gabor filter, which find lines and edges; (n, n), n = 2 ceil(4 sigma) + 1.

    ``exp(-(m^2 + n^2) / 2 s^2) / (2 pi s^2) * exp(2 pi i (m cos t + n sin t) / lambda)``, m = column, n = row; float64.
    As it stands, the even part answers to uniform light; `SimpleCells` sees to that.
    """
    radius = math.ceil(4 * sigma)
    m = torch.arange(-radius, radius + 1, dtype=torch.float64)
    envelope = torch.exp(-(m[:, None].square() + m.square()) / (2 * sigma**2)) / (2 * math.pi * sigma**2)
    phase = 2 * math.pi * (m * math.cos(angle) + m[:, None] * math.sin(angle)) / wavelength
    return envelope * phase.cos(), envelope * phase.sin()


class _Stage(nn.Module):
    in_channels: int  # maps that it reads
    channels: int  # and gives
    shown: ClassVar[tuple[str, ...]] = ("channels",)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.shown)


def _fixed(filters: Tensor, groups: int) -> nn.Conv2d:
    """Return a convolution with filters (C, n, n) that never learn; maps go on as their edge pixels do."""
    side = filters.shape[-1]
    conv = nn.Conv2d(groups, len(filters), side, 1, side // 2, groups=groups, bias=False, padding_mode="replicate")
    with torch.no_grad():
        conv.weight.copy_(filters[:, None])
    return conv.requires_grad_(False)


class Retina(_Stage):
    """Ganglion cells: a centre against its surround, difference of two Gaussians of equal volume.

    (B, C, H, W) -> (B, 2 C, H, W): first the on-centre, off-surround cells of all channels, then the off-centre ones.
    Uniform light gives exactly no response, also at the border.

    Args:
        sigma_centre, sigma_surround: in pixels; 1.6 apart comes near the Laplacian of a Gaussian (Marr, Hildreth 1980).
        rectify: cells do not fire less than not at all: on = max(0, d), off = max(0, -d). Otherwise d and -d.
    """

    def __init__(
        self, in_channels: int = 3, sigma_centre: float = 1.0, sigma_surround: float = 1.6, rectify: bool = True
    ) -> None:
        super().__init__()
        if not 0 < sigma_centre < sigma_surround:
            raise NetError(
                f"the surround must be wider than the centre, got sigma_centre={sigma_centre!r} and "
                f"sigma_surround={sigma_surround!r}"
            )
        self.in_channels, self.channels, self.rectify = in_channels, 2 * in_channels, rectify
        self.radius = math.ceil(4 * sigma_surround)
        difference = gaussian(sigma_centre, self.radius) - gaussian(sigma_surround, self.radius)
        self.filter = _fixed(difference.expand(in_channels, -1, -1), in_channels)

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, self.in_channels)
        d = self.filter(x)  # (B, C, H, W)
        both = torch.cat([d, -d], dim=1)
        return F.relu(both) if self.rectify else both


class SimpleCells(_Stage):
    """A bank of Gabor filters: lines (even phase) and edges (odd phase) of every orientation and scale.

    (B, C, H, W) -> (B, C x 2 x scales x orientations, H, W); for each input channel first all even filters, then all
    odd ones, each in the order of scales, then orientations (t = 0, pi/8, 2 pi/8 ...). Every filter has a sum of zero:
    of the even ones a multiple of the envelope is taken off.

    Args:
        orientations: their number, evenly spread over half a turn.
        wavelengths: in pixels, one for each scale; more than 2, which is the finest grating that pixels can show.
        sigmas: width of the envelope of each scale; default half the wavelength.
        rectify: give max(0, response) only.
    """

    shown = ("in_channels", "orientations", "wavelengths")

    def __init__(
        self,
        in_channels: int = 3,
        orientations: int = ORIENTATIONS,
        wavelengths: Sequence[float] = WAVELENGTHS,
        sigmas: Sequence[float] | None = None,
        rectify: bool = False,
    ) -> None:
        super().__init__()
        sigmas = [SIGMA_PER_WAVELENGTH * wavelength for wavelength in wavelengths] if sigmas is None else sigmas
        if orientations < 1 or not wavelengths or min(wavelengths) <= 2:
            raise NetError(
                f"expected at least one orientation and wavelengths above 2 pixels, got orientations={orientations!r} "
                f"and wavelengths={wavelengths!r}"
            )
        if len(sigmas) != len(wavelengths) or min(sigmas) <= 0:
            raise NetError(f"expected one sigma above 0 for each of {len(wavelengths)} wavelengths, got {sigmas!r}")
        self.in_channels, self.rectify = in_channels, rectify
        self.orientations, self.wavelengths, self.sigmas = orientations, tuple(wavelengths), tuple(sigmas)
        self.angles = tuple(math.pi * k / orientations for k in range(orientations))
        self.per_phase = len(wavelengths) * orientations
        self.channels = in_channels * 2 * self.per_phase
        # one convolution for each scale, each as large as its filters need: for each channel even, then odd
        self.scales = nn.ModuleList()
        for wavelength, sigma in zip(wavelengths, sigmas, strict=True):
            pairs = [gabor(sigma, angle, wavelength) for angle in self.angles]
            envelope = gaussian(sigma, math.ceil(4 * sigma))
            even = [line - line.sum() * envelope for line, _ in pairs]
            filters = torch.stack([*even, *(edge for _, edge in pairs)])
            self.scales.append(_fixed(filters.repeat(in_channels, 1, 1), in_channels))

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, self.in_channels)
        found = [conv(x).unflatten(1, (self.in_channels, 2, 1, self.orientations)) for conv in self.scales]
        maps = torch.cat(found, dim=3).flatten(1, 4)  # (B, C x 2 x scales x orientations, H, W)
        return F.relu(maps) if self.rectify else maps


class ComplexCells(_Stage):
    """Energy over the two phases, ``sqrt(even^2 + odd^2)``, then pooling over positions.

    (B, C x 2 x F, H, W), as `SimpleCells` without rectification gives them, -> (B, C x F, ceil(H / stride), ...).

    Args:
        per_phase: F, filters of one phase for each channel; default: half the maps, which is one channel.
        pool, stride: side of the pooled window, odd (1 does not pool), and its step.
        how: "max", "average", or "energy" (root of the mean of the squared energies).
    """

    shown = ("channels", "pool", "stride", "how")

    def __init__(
        self, in_channels: int, per_phase: int | None = None, pool: int = 3, stride: int = 1, how: str = "max"
    ) -> None:
        super().__init__()
        per_phase = in_channels // 2 if per_phase is None else per_phase
        if per_phase < 1 or in_channels % (2 * per_phase):
            raise NetError(f"expected maps in sets of {per_phase} even and {per_phase} odd ones, got {in_channels}")
        if pool < 1 or pool % 2 == 0 or how not in ("max", "average", "energy"):
            raise NetError(f"expected an odd window and one of max, average, energy; got pool={pool!r} and how={how!r}")
        self.in_channels, self.channels, self.per_phase = in_channels, in_channels // 2, per_phase
        self.pool, self.stride, self.how = pool, stride, how

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, self.in_channels)
        even, odd = x.unflatten(1, (-1, 2, self.per_phase)).unbind(2)  # (B, C, F, H, W) each
        power = (even.square() + odd.square()).flatten(1, 2)  # (B, C x F, H, W)
        if self.pool == 1:
            return power.sqrt()[:, :, :: self.stride, :: self.stride]
        if self.how == "max":
            return F.max_pool2d(power, self.pool, self.stride, self.pool // 2).sqrt()
        pooled = power.sqrt() if self.how == "average" else power
        pooled = F.avg_pool2d(pooled, self.pool, self.stride, self.pool // 2, count_include_pad=False)
        return pooled if self.how == "average" else pooled.sqrt()


class HypercomplexCells(_Stage):
    """End-stopped cells: answer to a line that ends within the field, and are inhibited where it goes on.

    (B, C, H, W), maps of complex cells, -> the same shape: ``max(0, u(x) - gain / 2 (u(x + d) + u(x - d)))`` with d
    along the cell's own orientation, u a little blurred there. On a line that goes on in both directions the
    inhibition equals the excitation (gain = 1) and the cell is silent; at an end half of it is missing.

    Args:
        wavelengths: of the scales; the inhibition comes from `distance` times the wavelength away.
        gain: strength of the inhibition.
    """

    shown = ("channels", "distance", "gain")

    def __init__(
        self,
        in_channels: int,
        orientations: int = ORIENTATIONS,
        wavelengths: Sequence[float] = WAVELENGTHS,
        distance: float = 1.5,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        sets = orientations * len(wavelengths)
        if sets == 0 or in_channels % sets or distance <= 0:
            raise NetError(
                f"expected a multiple of {orientations} orientations x {len(wavelengths)} scales, and a distance above "
                f"0, got {in_channels} maps and distance={distance!r}"
            )
        self.in_channels = self.channels = in_channels
        self.orientations, self.wavelengths, self.distance, self.gain = orientations, tuple(wavelengths), distance, gain
        self.scales = nn.ModuleList()
        for wavelength in wavelengths:
            filters = torch.stack([self._filter(wavelength, math.pi * k / orientations) for k in range(orientations)])
            filters = filters.repeat(in_channels // sets, 1, 1)
            self.scales.append(_fixed(filters, len(filters)))

    def _filter(self, wavelength: float, angle: float) -> Tensor:
        """Return excitation in the middle, inhibition at both sides along the line; sum 1 - gain. float64."""
        sigma, away = wavelength / 4, self.distance * wavelength
        radius = math.ceil(away + 3 * sigma)
        m = torch.arange(-radius, radius + 1, dtype=torch.float64)
        # the stripes of a filter of this angle run at right angles to it
        along = (-math.sin(angle) * away, math.cos(angle) * away)

        def blob(centre: float, middle: float) -> Tensor:
            spot = torch.exp(-((m - centre).square() + (m[:, None] - middle).square()) / (2 * sigma**2))
            return spot / spot.sum()

        return blob(0, 0) - self.gain / 2 * (blob(*along) + blob(-along[0], -along[1]))

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, self.in_channels)
        split = x.unflatten(1, (-1, len(self.wavelengths), self.orientations))  # (B, C, scales, orientations, H, W)
        found = [
            conv(split[:, :, scale].flatten(1, 2)).unflatten(1, (-1, 1, self.orientations))
            for scale, conv in enumerate(self.scales)
        ]
        return F.relu(torch.cat(found, dim=2).flatten(1, 3))


STAGES = ("retina", "simple", "complex", "hypercomplex")


class VisualSystem(nn.Sequential):
    """Stages one after another, of this file or others, with `in_channels` and `channels` like one stage."""

    def __init__(self, *stages: nn.Module) -> None:
        if not stages:
            raise NetError(f"expected at least one stage, such as {', '.join(STAGES)}; got none")
        for first, second in pairwise(stages):
            if first.channels != second.in_channels:
                raise NetError(
                    f"{type(first).__name__} gives {first.channels} maps, but {type(second).__name__} behind it "
                    f"reads {second.in_channels}"
                )
        super().__init__(*stages)
        self.in_channels: int = stages[0].in_channels  # type: ignore[assignment]
        self.channels: int = stages[-1].channels  # type: ignore[assignment]


def visual_system(
    layers: Iterable[str] = ("retina", "simple", "complex"), in_channels: int = 3, **options: dict[str, Any]
) -> VisualSystem:
    """Return the named stages, fitted to one another: any of "retina", "simple", "complex", "hypercomplex", in order.

    `options` are those of a stage, by its name: ``visual_system(("simple", "complex"), simple={"orientations": 4})``.
    """
    names = tuple(layers)
    known = [name for name in STAGES if name in names]
    if not names or list(names) != known:
        raise NetError(f"layers must be some of {', '.join(STAGES)}, in this order and once each; got {names!r}")
    if ("complex" in names and "simple" not in names) or ("hypercomplex" in names and "complex" not in names):
        raise NetError(f"complex cells read simple ones, and hypercomplex cells complex ones; got {names!r}")
    if wrong := set(options) - set(names):
        raise NetError(f"options for {', '.join(sorted(wrong))}, but the layers are {', '.join(names)}")
    stages: list[_Stage] = []
    kinds = {"retina": Retina, "simple": SimpleCells, "complex": ComplexCells, "hypercomplex": HypercomplexCells}
    channels, fitting = in_channels, dict[str, dict[str, Any]]()
    for name in names:
        stage = kinds[name](channels, **{**fitting.get(name, {}), **options.get(name, {})})
        if isinstance(stage, SimpleCells):
            bank = {"orientations": stage.orientations, "wavelengths": stage.wavelengths}
            fitting = {"complex": {"per_phase": stage.per_phase}, "hypercomplex": bank}
        stages.append(stage)
        channels = stage.channels
    return VisualSystem(*stages)


class ContrastGain(nn.Module):
    """Contrast gain control: all cells are divided by their common strength (Heeger 1992, Visual Neuroscience 9).

    (B, C, H, W) -> the same shape, ``u / sqrt(floor^2 + mean of u^2)``, the mean over maps and places of one picture:
    a faint picture excites what follows as much as a strong one. Uniform light still gives no response.
    """

    def __init__(self, floor: float = 1e-4) -> None:
        super().__init__()
        self.floor = floor

    def forward(self, x: Tensor) -> Tensor:
        strength = x.float().square().mean((1, 2, 3), keepdim=True)  # bf16 would lose the faint ones
        return (x / (self.floor**2 + strength).sqrt()).to(x.dtype)


class FrontEnd(nn.Module):
    """A net that sees through fixed cells: ``net(gain(front(x)))``. The front is frozen and part of the state dict.

    Between the two stands `ContrastGain`, because the cells' responses are a hundredth of what nets are initialised
    for. The head is that of the net behind, so that `change_head` and transfer work as ever. `gain` False: without it.
    """

    def __init__(self, front: nn.Module, net: nn.Module, gain: bool = True) -> None:
        super().__init__()
        self.front, self.net = front.requires_grad_(False), net
        self.gain = ContrastGain() if gain else nn.Identity()
        if isinstance(name := getattr(net, "head", None), str):
            self.head = f"net.{name}"
        self.aux_heads = tuple(f"net.{name}" for name in getattr(net, "aux_heads", ()))
        self.channels: int = front.channels  # type: ignore[assignment]  # that the net behind receives

    def forward_features(self, x: Tensor) -> Tensor:
        return self.net.forward_features(self.gain(self.front(x)))  # type: ignore[operator, no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.gain(self.front(x)))  # type: ignore[no-any-return]


def front_end(
    net: str | nn.Module, layers: Iterable[str] | nn.Module = ("retina", "simple", "complex"), in_channels: int = 3,
    **options: Any,
) -> FrontEnd:  # fmt: skip
    """Put cells of the visual system in front of a net.

        front_end("resnet18", layers=("retina",), in_channels=3, classes=10, input_size=32)

    Args:
        net: a name, built here with as many input channels as the cells give and with `options` (those of `build`);
            or a module whose first layer reads that many already.
        layers: names of stages (see `visual_system`) for pictures of `in_channels`, or a stage, or a `VisualSystem`.
    """
    front = layers if isinstance(layers, nn.Module) else visual_system(layers, in_channels)
    if isinstance(net, nn.Module):
        if options:
            raise NetError(f"{', '.join(options)}: options are for a net given by its name, not for a finished module")
        expected = getattr(net, "spec", {}).get("in_channels")  # None if it does not say
        if expected is not None and expected != front.channels:
            raise NetError(
                f"the cells give {front.channels} maps, but the net reads {expected} channels; "
                f"build it with in_channels={front.channels}"
            )
        return FrontEnd(front, net)
    return FrontEnd(front, build(net, in_channels=front.channels, **options))  # type: ignore[arg-type]


class EarlyVision(FrontEnd):
    """`front_end` as a net of the zoo: fixed cells in front of a trunk that learns.

    Args:
        trunk: name of a net of the zoo with task "label" and pictures as input.
        layers: stages of `visual_system`.
        stages, trunk_options: options of the stages by their names, such as ``{"simple": {"orientations": 4}}``.
    """

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int,
        input_size: int,
        trunk: str = "lenet5",
        layers: Sequence[str] = ("retina", "simple", "complex"),
        stages: dict[str, dict[str, Any]] | None = None,
        trunk_options: dict[str, Any] | None = None,
    ) -> None:
        if facts(trunk).task != "label" or len(facts(trunk).input) != 3:
            raise NetError(f"the trunk must be a net that labels pictures, got {trunk!r} ({facts(trunk).task})")
        front = visual_system(layers, in_channels, **(stages or {}))
        net = build(trunk, classes, front.channels, input_size, **(trunk_options or {}))
        super().__init__(front, net)

    @staticmethod
    def smallest_input(chosen: dict[str, Any]) -> int | None:
        """That of the trunk."""
        return facts(chosen["trunk"]).smallest if "trunk" in chosen else None


# the trunk's lenet5, whose first convolution reads 64 maps; the cells' weights are frozen and not counted
_PAPER = "Hubel and Wiesel 1962, J. Physiology 160:106-154"
register(Facts("early_vision", "vision", 1962, _PAPER, 71_156, 146_074_536, (1, 32, 32), 10, smallest=16))(EarlyVision)
