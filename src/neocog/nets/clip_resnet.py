"""The residual nets of CLIP: Learning Transferable Visual Models From Natural Language Supervision.

Radford, Kim, Hallacy, Ramesh, Goh, Agarwal, Sastry, Askell, Mishkin, Clark, Krueger, Sutskever 2021, arXiv:2103.00020,
section 2.4, and the authors' code. They differ from ResNet in three places: three 3x3 convolutions are the stem, a
window's mean comes before what would have a stride (antialiasing: Zhang 2019, arXiv:1904.11486), and attention stands
where the mean over the map was. A net puts a picture in a space that it shares with sentences; ``neocog learn-sentences
--clip`` has the other half. Parameter names are those of the authors and of open_clip, without ``visual.``.

ImageNet top-1 without training on it, by the names of the classes, table 11 of the paper: 59.6, 62.2 and 65.8 %.

Output shapes of clip_resnet50 for 3 x 224 x 224:

    conv1, 3x3/2                 B   32  112  112
    conv2, conv3, 3x3            B   64  112  112
    avgpool, 2x2/2               B   64   56   56
    layer1, 3 blocks             B  256   56   56
    layer2, 4 blocks             B  512   28   28
    layer3, 6 blocks             B 1024   14   14
    layer4, 3 blocks             B 2048    7    7
    attnpool                     B 1024
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .layers import check_input, he_init
from .registry import register

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of its pictures, in 0..1
_HEAD = 64  # numbers in a head of the attention


class AntialiasedBottleneck(nn.Module):
    """1x1, 3x3, mean, 1x1, and a shortcut with the same mean: (B, C, H, W) -> (B, 4 planes, H / stride, W / stride)."""

    def __init__(self, channels: int, planes: int, stride: int) -> None:
        super().__init__()
        out = 4 * planes
        self.conv1, self.bn1 = nn.Conv2d(channels, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False), nn.BatchNorm2d(planes)
        self.relu2 = nn.ReLU(inplace=True)
        self.avgpool = _mean(stride)
        self.conv3, self.bn3 = nn.Conv2d(planes, out, 1, bias=False), nn.BatchNorm2d(out)
        self.relu3 = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride > 1 or channels != out:
            conv, norm = nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out)
            self.downsample = nn.Sequential(OrderedDict([("pool", _mean(stride)), ("0", conv), ("1", norm)]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.avgpool(self.relu2(self.bn2(self.conv2(y))))
        return self.relu3(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


def _mean(size: int) -> nn.Module:
    return nn.AvgPool2d(size) if size > 1 else nn.Identity()


class AttentionPool(nn.Module):
    """The map's mean asks the map: (B, C, side, side) -> (B, dimensions).

    One layer of attention with several heads (Vaswani et al. 2017) whose only query is the mean over the places; keys
    and values are the mean and all places. Each of them has a vector of its place added.
    """

    def __init__(self, channels: int, side: int, dimensions: int) -> None:
        super().__init__()
        self.side, self.heads = side, channels // _HEAD
        self.positional_embedding = nn.Parameter(torch.empty(side * side + 1, channels))
        nn.init.uniform_(self.positional_embedding, -((3 / channels) ** 0.5), (3 / channels) ** 0.5)  # variance 1 / C
        self.k_proj, self.q_proj = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.v_proj, self.c_proj = nn.Linear(channels, channels), nn.Linear(channels, dimensions)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != (self.side, self.side):
            raise NetError(
                f"this net was built for maps of {self.side}x{self.side} at its end, got {x.shape[2]}x{x.shape[3]}; "
                f"resize the pictures to about {32 * self.side}x{32 * self.side}, or build it with input_size=..."
            )
        x = x.flatten(2).transpose(1, 2)  # (B, places, C)
        x = torch.cat((x.mean(1, keepdim=True), x), 1) + self.positional_embedding
        q, k, v = (
            layer(of).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, places, C / heads)
            for layer, of in ((self.q_proj, x[:, :1]), (self.k_proj, x), (self.v_proj, x))
        )
        weights = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(3)  # (B, heads, 1, places)
        return self.c_proj((weights @ v).transpose(1, 2).flatten(1))  # type: ignore[no-any-return]


class ClipResNet(nn.Module):
    """Stem, four stages of antialiased bottlenecks, attention over the map: the place of a picture, of any length.

    Args:
        in_channels, input_size: channels, and side of the pictures; the attention knows each place, so no other fits.
        stages: blocks in each stage.
        width: channels of the stem; the map at the end has 32 times as many, a multiple of 64.
        dimensions: numbers in a place.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        input_size: int,
        stages: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        dimensions: int = 1024,
    ) -> None:
        super().__init__()
        half = width // 2
        self.conv1, self.bn1 = nn.Conv2d(in_channels, half, 3, 2, 1, bias=False), nn.BatchNorm2d(half)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(half, half, 3, padding=1, bias=False), nn.BatchNorm2d(half)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3, self.bn3 = nn.Conv2d(half, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu3 = nn.ReLU(inplace=True)
        self.avgpool = nn.AvgPool2d(2)
        channels, side = width, (input_size + 1) // 4
        for number, blocks in enumerate(stages):
            planes, stride = width << number, 2 if number else 1
            made = []
            for index in range(blocks):
                made.append(AntialiasedBottleneck(channels, planes, 1 if index else stride))
                channels = 4 * planes
            self.add_module(f"layer{number + 1}", nn.Sequential(*made))
            side //= stride
        self._stages = len(stages)
        self.attnpool = AttentionPool(channels, side, dimensions)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, input_size, input_size) -> (B, dimensions)."""
        check_input(x, self.conv1.in_channels)
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        x = self.avgpool(self.relu3(self.bn3(self.conv3(x))))
        for number in range(1, self._stages + 1):
            x = getattr(self, f"layer{number}")(x)
        return self.attnpool(x)  # type: ignore[no-any-return]

    forward_features = forward


_ACCURACY = "ImageNet top-1 {} % (zero-shot, by the names of the classes)"

# name, stages, width, dimensions, size, parameters, MACs, published accuracy
_VARIANTS = [
    ("clip_resnet50", (3, 4, 6, 3), 64, 1024, 224, 38_316_896, 5_792_948_224, "59.6"),
    ("clip_resnet101", (3, 4, 23, 3), 64, 512, 224, 56_259_936, 9_504_120_832, "62.2"),
    ("clip_resnet50x4", (4, 6, 10, 6), 80, 640, 288, 87_137_080, 20_580_628_480, "65.8"),
]

for _name, _stages, _width, _dimensions, _size, _params, _macs, _top1 in _VARIANTS:
    register(
        Facts(
            _name, "clip", 2021, "Radford et al. 2021, arXiv:2103.00020", _params, _macs, (3, _size, _size), 1, 32,
            _ACCURACY.format(_top1), task="embed",
        ),
        stages=_stages,
        width=_width,
        dimensions=_dimensions,
    )(ClipResNet)  # fmt: skip
