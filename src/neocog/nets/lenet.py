"""LeNet: Gradient-Based Learning Applied to Document Recognition. LeCun, Bottou, Bengio, Haffner, Proc. IEEE 1998.

LeNet-1 is the earlier net of LeCun et al., NIPS 1989 ("Handwritten Digit Recognition with a Back-Propagation Network").

LeNet-4 stands between them (Bottou et al. 1994; section III of the 1998 paper; MNIST test error 1.1 %): 4 maps, 8
subsampling maps "in pairs", 16 maps, 16 subsampling maps, 120 units, 10 outputs. Not published is which maps the third
layer reads; here each of the 16 reads three of the eight, which gives 262,306 connections, where the paper says "about
260,000". The "about 17,000" free parameters of the paper cannot come from these layers: 120 units that see 16 maps of
5 x 5 have 48,120 by themselves. lenet4 has 50,698.

Output shapes of lenet5_original, which has 60,000 trainable parameters and 340,908 connections:

                                           shape           parameters   connections
    C1, 5x5                             B   6  28  28             156       122,304
    S2, trainable 2x2 subsampling       B   6  14  14              12         5,880
    C3, 5x5, partial table              B  16  10  10           1,516       151,600
    S4, trainable 2x2 subsampling       B  16   5   5              32         2,000
    C5, 5x5                             B 120   1   1          48,120        48,120
    F6                                  B  84                  10,164        10,164
    output, radial basis functions      B  10                       0           840
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..records import Facts
from .layers import Classifier, PartialConv2d, Subsampling, check_choice, check_input
from .registry import register

# Table I of the paper: which maps of S2 (0 to 5) each of the 16 maps of C3 reads.
C3_TABLE = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)  # fmt: skip
# LeNet-1: which of 4 maps each of the 12 maps of the second layer reads.
H3_TABLE = ((0,), (0, 1), (0, 1), (1,), (0, 1), (0, 1), (2,), (2, 3), (2, 3), (3,), (2, 3), (2, 3))
# LeNet-4: our choice, see above. Sixteen different triples of 8 maps (2i and 2i + 1 come from the same map), each map
# read six times.
LENET4_TABLE = tuple(
    tuple(sorted((first + step) % 8 for step in steps)) for steps in ((0, 1, 3), (0, 2, 3)) for first in range(8)
)

# The targets of the output units: stylised characters of 7 x 12 pixels, written as 12 rows of 7 bits.
_DIGITS = """
.#####. ...#... .#####. .#####. ....##. ####### ..####. ####### .#####. .#####.
##...## ..##... ##...## ##...## ...###. ##..... .##.... ##...## ##...## ##...##
##...## .###... .....## .....## ..####. ##..... ##..... .....## ##...## ##...##
##..### ...#... .....## .....## .##.##. ##..... ##..... ....##. ##...## ##...##
##.#.## ...#... ....##. ..####. ##..##. ######. ######. ....##. .#####. .######
##.#.## ...#... ...##.. .....## ##..##. .....## ##...## ...##.. ##...## .....##
###..## ...#... ..##... .....## ####### .....## ##...## ...##.. ##...## .....##
##...## ...#... .##.... .....## ....##. .....## ##...## ..##... ##...## .....##
##...## ...#... ##..... ##...## ....##. ##...## ##...## ..##... ##...## ....##.
.#####. .#####. ####### .#####. ....##. .#####. .#####. ..##... .#####. .####..
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
"""


def output_codes(classes: int) -> Tensor:
    """Return the fixed codes of the output units, (classes, 84) of -1 and +1.

    Ten classes get pictures of the digits 0 to 9; any other number gets codes drawn once with a fixed seed.
    """
    if classes == 10:
        rows = [line.split() for line in _DIGITS.split("\n") if line]
        bits = [[1.0 if dot == "#" else -1.0 for row in rows for dot in row[digit]] for digit in range(10)]
        return torch.tensor(bits)
    generator = torch.Generator(device="cpu").manual_seed(1998)
    drawn = torch.randint(0, 2, (classes, 84), generator=generator, device="cpu") * 2.0 - 1.0
    return drawn.to(torch.get_default_device())


class SquashingTanh(nn.Module):
    """1.7159 tanh(2/3 a): the paper's squashing function, with f(1) = 1 and f(-1) = -1."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(2 / 3 * x)


class RadialBasis(nn.Module):
    """Output layer with fixed codes: the score of a class is minus the squared distance to its code.

    (B, 84) -> (B, classes). Nothing is trained here. Minus, so that the nearest code has the largest score and
    cross-entropy can be applied: it then equals the paper's discriminative criterion without the rubbish class.
    """

    codes: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("codes", output_codes(classes))

    def forward(self, x: Tensor) -> Tensor:
        # differences, not |x|^2 - 2 x c + |c|^2, which loses the small distances in bf16
        x = x.to(self.codes.dtype) if x.dtype in (torch.bfloat16, torch.float16) else x
        return -(x[:, None] - self.codes).square().sum(2)

    def with_classes(self, classes: int) -> RadialBasis:
        return RadialBasis(classes).to(self.codes)

    def extra_repr(self) -> str:
        return f"codes={tuple(self.codes.shape)}"


class LeNet(Classifier):
    """LeNet as published: partial connection table, trainable subsampling, squashing after every layer.

    Args:
        maps: feature maps of the first convolution.
        table: connection table of the second.
        hidden: units of the layers between the last subsampling and the output.
        output: "rbf" (needs 84 hidden units at the end) or "linear".
        copies: subsampling maps for each map of the first convolution, each with its own coefficient and bias.
    """

    head = "output"

    def __init__(
        self,
        maps: int,
        table: Sequence[Sequence[int]],
        hidden: Sequence[int],
        output: str,
        copies: int,
        *,
        classes: int,
        in_channels: int,
        input_size: int,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        side = _side(input_size)
        self.c1 = nn.Conv2d(in_channels, maps, 5)
        self.copies = copies
        self.s2 = Subsampling(maps * copies)
        self.c3 = PartialConv2d(maps * copies, table, 5)
        self.s4 = Subsampling(len(table))
        # C5 is a convolution in the paper; on the picture's usual size it sees the whole map, so it is fully connected
        units = [len(table) * side**2, *hidden]
        self.hidden = nn.Sequential()
        for number, (before, after) in enumerate(zip(units, hidden, strict=False)):
            name = f"c{number + 5}" if number == 0 else f"f{number + 5}"
            self.hidden.add_module(name, nn.Linear(before, after))
            self.hidden.add_module(f"squash{number + 5}", SquashingTanh())
        self.squash = SquashingTanh()
        self.output: nn.Module = RadialBasis(classes) if output == "rbf" else nn.Linear(units[-1], classes)
        for layer in self.modules():
            self.init_head(layer)

    @staticmethod
    def init_head(layer: nn.Module) -> None:
        """Draw weights and biases uniformly within 2.4 / F, F = inputs of a unit (appendix A of the paper)."""
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 2.4 / layer.weight[0].numel()
            nn.init.uniform_(layer.weight, -bound, bound)
            if layer.bias is not None:
                nn.init.uniform_(layer.bias, -bound, bound)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, D), D = 84 for LeNet-5."""
        check_input(x, self.c1.in_channels, side=self.input_size)
        x = self.squash(self.c1(x))  # (B, 6, 28, 28)
        if self.copies > 1:
            x = x.repeat_interleave(self.copies, dim=1)
        x = self.squash(self.s2(x))  # (B, 6, 14, 14)
        x = self.squash(self.s4(self.squash(self.c3(x))))  # (B, 16, 5, 5)
        return self.hidden(x.flatten(1))

    def connections(self) -> dict[str, int]:
        """Return the paper's number of connections for each layer; it counts biases as well as weights.

        A unit of a subsampling layer has size x size inputs and one bias.
        """
        first, second = self.input_size - 4, (self.input_size - 4) // 2 - 4  # sides of the maps of C1 and C3

        def numbers(layer: nn.Module) -> int:
            return sum(parameter.numel() for parameter in layer.parameters())

        counts = {
            "c1": numbers(self.c1) * first**2,
            "s2": len(self.s2.weight) * (self.s2.size**2 + 1) * (first // 2) ** 2,
            "c3": numbers(self.c3) * second**2,
            "s4": len(self.s4.weight) * (self.s4.size**2 + 1) * (second // 2) ** 2,
        }
        counts |= {name: numbers(layer) for name, layer in self.hidden.named_children() if isinstance(layer, nn.Linear)}
        output = self.output
        return counts | {"output": output.codes.numel() if isinstance(output, RadialBasis) else numbers(output)}


_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "squash": SquashingTanh}
_POOLS: dict[str, type[nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


class PlainLeNet(Classifier):
    """LeNet of today: full connection, pooling without parameters, linear output.

    Args:
        maps: feature maps of the two convolutions.
        activation: "relu", "tanh", or "squash" (the paper's scaled tanh).
        pool: "max" or "average".
        activate_maps: apply the activation behind the convolutions too (Caffe's LeNet does not).
    """

    head = "output"

    def __init__(
        self,
        maps: tuple[int, int],
        hidden: Sequence[int],
        *,
        classes: int,
        in_channels: int,
        input_size: int,
        activation: str = "relu",
        pool: str = "max",
        activate_maps: bool = True,
    ) -> None:
        super().__init__()
        check_choice("activation", activation, tuple(_ACTIVATIONS))
        check_choice("pool", pool, tuple(_POOLS))
        active = _ACTIVATIONS[activation]
        self.input_size = input_size
        self.conv1 = nn.Conv2d(in_channels, maps[0], 5)
        self.act1 = active() if activate_maps else nn.Identity()
        self.pool1 = _POOLS[pool](2)
        self.conv2 = nn.Conv2d(maps[0], maps[1], 5)
        self.act2 = active() if activate_maps else nn.Identity()
        self.pool2 = _POOLS[pool](2)
        units = [maps[1] * _side(input_size) ** 2, *hidden]
        self.hidden = nn.Sequential()
        for number, (before, after) in enumerate(zip(units, hidden, strict=False), start=1):
            self.hidden.add_module(f"fc{number}", nn.Linear(before, after))
            self.hidden.add_module(f"act{number}", active())
        self.output = nn.Linear(units[-1], classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, hidden[-1])."""
        check_input(x, self.conv1.in_channels, side=self.input_size)
        x = self.pool1(self.act1(self.conv1(x)))  # (B, 6, 14, 14)
        x = self.pool2(self.act2(self.conv2(x)))  # (B, 16, 5, 5)
        return self.hidden(x.flatten(1))


def _side(input_size: int) -> int:
    """Return the side of the map behind two 5x5 convolutions and two 2x2 subsamplings."""
    return ((input_size - 4) // 2 - 4) // 2


_PAPER = "LeCun et al. 1998, Proc. IEEE 86(11)"

# name, builder, year, paper, settings, parameters, MACs, side, published accuracy; lenet4 is reconstructed, see the top
# of this file; the 840 fixed connections of lenet5_original's output are differences, and no MACs
_VARIANTS: list[tuple[Any, ...]] = [
    ("lenet1", LeNet, 1989, "LeCun et al. 1989, NIPS 2",
     {"maps": 4, "table": H3_TABLE, "hidden": (), "output": "linear", "copies": 1}, 2_578, 91_520, 28, ""),
    ("lenet4", LeNet, 1994, "Bottou et al. 1994, ICPR 12",
     {"maps": 4, "table": LENET4_TABLE, "hidden": (120,), "output": "linear", "copies": 2}, 50_698, 247_600, 32,
     "MNIST 98.9 %"),
    ("lenet5_original", LeNet, 1998, _PAPER,
     {"maps": 6, "table": C3_TABLE, "hidden": (120, 84), "output": "rbf", "copies": 1}, 60_000, 325_680, 32,
     "MNIST 99.05 % (99.2 % with distortions)"),
    ("lenet5", PlainLeNet, 1998, _PAPER, {"maps": (6, 16), "hidden": (120, 84)}, 61_706, 416_520, 32, ""),
    ("lenet_caffe", PlainLeNet, 2014, "Caffe's MNIST example, after " + _PAPER,
     {"maps": (20, 50), "hidden": (500,), "activate_maps": False}, 431_080, 2_293_000, 28, ""),
]  # fmt: skip

for _name, _builder, _year, _paper, _settings, _params, _macs, _size, _accuracy in _VARIANTS:
    _facts = Facts(_name, "lenet", _year, _paper, _params, _macs, (1, _size, _size), 10, 16, _accuracy)
    register(_facts, **_settings)(_builder)
