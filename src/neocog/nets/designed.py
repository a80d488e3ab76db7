"""Designed nets: a stem, stages of equal blocks and a head, all of them data, for `neocog design` and for your own.

A design is JSON-able:

    {"stem": {"width": 32, "kernel": 3, "stride": 2},
     "stages": [{"width": 64, "depth": 2, "stride": 2, "kernel": 3, "expand": 4, "group": 1, "gate": 4}, ...],
     "head": {"width": 0}}

A stage is `depth` blocks, of which the first has the stage's stride; a block is (with k for `kernel`)

==========  =======  ==================================  ====================================================
expand      group    convolutions                        as in
==========  =======  ==================================  ====================================================
0           0        k x k, k x k                        ResNet's basic block (He et al. 2015, 1512.03385)
0           1        k x k of each map, 1x1              MobileNet v1 (Howard et al. 2017, 1704.04861)
e           0, 1, n  1x1, k x k, 1x1                     a bottleneck (e < 1), MobileNet v2 (Sandler et al. 2018,
                                                         1801.04381; group 1), RegNet (Radosavovic et al. 2020,
                                                         2003.13678; e = 1, group n)
==========  =======  ==================================  ====================================================

where `expand` times the width is what the middle convolution has, and `group` is how many maps each of its filters
reads (0: all). BN follows every convolution, ReLU all but the last; then an SE gate with C / `gate` values between (0:
none), the shortcut, and ReLU. Where a block changes size, its shortcut is averaged and filled up with zeros.
After the stages come a 1x1 convolution (head width 0: none), the mean over the map, and a linear layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..errors import NetError, closest
from ..records import Facts
from .gates import SEGate
from .layers import Classifier, PadShortcut, check_input, conv_bn, he_init, multiple_of_8
from .registry import IMAGENET, register

Design = Mapping[str, Any]

# what each part takes: the value where a design leaves it out, and the least that it may be
_PARTS: dict[str, dict[str, tuple[float, float]]] = {
    "stem": {"width": (32, 1), "kernel": (3, 1), "stride": (2, 1)},
    "stage": {"width": (64, 1), "depth": (1, 1), "stride": (2, 1), "kernel": (3, 1), "expand": (0, 0), "group": (0, 0),
              "gate": (0, 0)},
    "head": {"width": (0, 0)},
}  # fmt: skip

DEFAULT: Design = {
    "stem": {"width": 32, "kernel": 3, "stride": 2},
    "stages": [
        {"width": width, "depth": depth, "stride": 2, "kernel": 3, "expand": 4, "group": 1, "gate": 4}
        for width, depth in ((32, 1), (64, 2), (96, 3), (160, 2))
    ],
    "head": {"width": 512},
}


def checked(design: Any) -> dict[str, Any]:
    """A design with what it leaves out. Raises: NetError: it is none; says what is wrong."""
    if not isinstance(design, Mapping) or not isinstance(design.get("stages"), list) or not design["stages"]:
        raise NetError(f'a design is {{"stem": {{...}}, "stages": [{{...}}, ...], "head": {{...}}}}, got {design!r}')
    if unknown := sorted(set(design) - {"stem", "stages", "head"}):
        raise NetError(f"a design has no {unknown[0]!r}; it has stem, stages, head")
    stages = [_part("stage", one, f"stages[{k}]") for k, one in enumerate(design["stages"])]
    return {
        "stem": _part("stem", design.get("stem", {}), "stem"),
        "stages": stages,
        "head": _part("head", design.get("head", {}), "head"),
    }


def _part(kind: str, given: Any, where: str) -> dict[str, Any]:
    known = _PARTS[kind]
    if not isinstance(given, Mapping):
        raise NetError(f"{where} of a design is an object with {', '.join(known)}, got {given!r}")
    made: dict[str, Any] = {name: usual for name, (usual, _) in known.items()} | dict(given)
    for name, value in made.items():
        if name not in known:
            raise NetError(f"{where} of a design has no {name!r}{closest(name, known)}; it has {', '.join(known)}")
        kinds = (int, float) if name == "expand" else int
        if isinstance(value, bool) or not isinstance(value, kinds) or value < known[name][1]:
            raise NetError(f"{where}: {name} must be a number of at least {known[name][1]:g}, got {value!r}")
    if made.get("kernel", 1) % 2 == 0:
        raise NetError(f"{where}: kernel must be odd, so that maps stay in their place, got {made['kernel']}")
    if made.get("expand") == 0 and made["group"] > 1:
        raise NetError(f"{where}: group={made['group']} needs expand above 0 (1, for one); with expand=0 it is 0 or 1")
    return made


def scaled(design: Design, factor: float) -> dict[str, Any]:
    """The design with all widths times `factor`, as multiples of 8 (of 16 where filters read 16 maps, say)."""
    made = checked(design)
    for part in (made["stem"], *made["stages"], made["head"]):
        if part["width"]:
            unit = max(8, part.get("group", 0), part.get("gate", 0))
            part["width"] = max(unit, round(part["width"] * factor / unit) * unit)
    return made


class Block(nn.Module):
    """(B, C, H, W) -> (B, width, H / stride, W / stride); see the head of this file."""

    def __init__(
        self, channels: int, width: int, *, stride: int, kernel: int, expand: float, group: int, gate: int
    ) -> None:
        super().__init__()
        if expand:
            inner = multiple_of_8(expand * width)
            if group and inner % group:
                raise NetError(f"{inner} maps cannot be read {group} at a time; choose a width that {group} divides")
            steps = [
                conv_bn(channels, inner, 1),
                conv_bn(inner, inner, kernel, stride, inner // group if group else 1),
                conv_bn(inner, width, 1),
            ]
        elif group:
            steps = [conv_bn(channels, channels, kernel, stride, channels), conv_bn(channels, width, 1)]
        else:
            steps = [conv_bn(channels, width, kernel, stride), conv_bn(width, width, kernel)]
        layers = [layer for step in steps for layer in (*step, nn.ReLU(inplace=True))][:-1]
        self.branch = nn.Sequential(*layers, *([SEGate(width, min(gate, width))] if gate else []))
        same = stride == 1 and channels == width
        self.shortcut = nn.Identity() if same else PadShortcut(width, stride, average=True)
        self.joined = width >= channels  # there is no shortcut to fewer maps
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        return self.relu(y + self.shortcut(x) if self.joined else y)


class Designed(Classifier):
    """The net that a design describes.

    Args:
        design: see the head of this file; None: `DEFAULT`.
    """

    head = "linear"
    recipe = "compact"

    def __init__(self, *, classes: int, in_channels: int, design: Design | None = None) -> None:
        super().__init__()
        plan = checked(DEFAULT if design is None else design)
        stem, self.in_channels = plan["stem"], in_channels
        self.stem = nn.Sequential(*conv_bn(in_channels, stem["width"], stem["kernel"], stem["stride"], relu=nn.ReLU))
        channels, stages = stem["width"], []
        for stage in plan["stages"]:
            how = {k: stage[k] for k in ("kernel", "expand", "group", "gate")}
            blocks = []
            for number in range(stage["depth"]):
                blocks.append(Block(channels, stage["width"], stride=1 if number else stage["stride"], **how))
                channels = stage["width"]
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.last = nn.Sequential()
        if width := plan["head"]["width"]:
            self.last = nn.Sequential(*conv_bn(channels, width, 1, relu=nn.ReLU))
            channels = width
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, classes)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, width of the head)."""
        check_input(x, self.in_channels)
        return self.pool(self.last(self.stages(self.stem(x)))).flatten(1)


_PAPER = "neocog; blocks after He et al. 2015, Howard et al. 2017, Sandler et al. 2018, Radosavovic et al. 2020"
register(Facts("designed", "designed", 2026, _PAPER, 1_326_408, 236_169_984, **IMAGENET, smallest=16))(Designed)
