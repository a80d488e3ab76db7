"""Nets for clips: convolution over space and time, frame by frame, or in two streams.

C3D: Learning Spatiotemporal Features with 3D Convolutional Networks. Tran, Bourdev, Fergus, Torresani, Paluri 2015,
arXiv:1412.0767. Sports-1M, one net trained from scratch: 44.9 % of clips, 60.0 % of videos (84.4 % in the top five).
Two-Stream Convolutional Networks for Action Recognition in Videos. Simonyan and Zisserman 2014, arXiv:1406.2199.
UCF-101, mean of three splits: 73.0 % from single frames, 83.7 % from stacks of optical flow, 88.0 % from both (SVM).
Here differences of frames stand for flow, which they follow up to the slope of the picture (the equation of optical
flow, Horn and Schunck 1981), and cost nothing.
Large-scale Video Classification with Convolutional Neural Networks. Karpathy et al. 2014: fusion of frames.
Quo Vadis, Action Recognition? Carreira and Zisserman 2017, arXiv:1705.07750: a net for pictures inflated to clips, its
filters repeated over time and divided by their number, so that a clip that stands still gets the picture's answer.

Output shapes, 16 frames of 32x32:

    clip_small                        clip_frames, each frame alone     two_stream, differences as channels
    conv1, pool 1x2x2  B  8 16 16 16  conv1, pool  B*16  16 16 16       temporal.conv1, pool  B  16 16 16   (3 x 15 in)
    conv2, pool 2x2x2  B 24  8  8  8  conv2, pool  B*16  32  8  8       temporal.conv2, pool  B  32  8  8
    conv3, pool 2x2x2  B 48  4  4  4  conv3, pool  B*16  64  4  4       temporal.conv3, pool  B  64  4  4
    conv4              B 96  4  4  4  mean         B*16  64             spatial: as clip_frames
    mean               B 96           mean         B     64             both                  B 128
    fc                 B   K          fc           B     K              fc                    B   K

Output shapes of c3d; all convolutions are 3x3x3 with padding 1, all pooling is 2x2x2 but for the first, 1x2x2, so that
the frames are not merged too early:

    16 frames          B    3  16 112 112
    conv1a, pool1      B   64  16  56  56
    conv2a, pool2      B  128   8  28  28
    conv3a, 3b, pool3  B  256   4  14  14
    conv4a, 4b, pool4  B  512   2   7   7
    conv5a, 5b, pool5  B  512   1   4   4      sizes are rounded up, as Caffe does
    fc6, fc7           B 4096
    fc8                B  487
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .layers import Classifier, check_dropout, check_shape
from .registry import build, facts, head_of, register


class _Clips(Classifier):
    """What nets for clips have in common; `frames` is the number of pictures in a clip."""

    head = "fc"

    def __init__(self, shape: tuple[int, int, int], least: int) -> None:
        super().__init__()
        frames = shape[1]
        if isinstance(frames, bool) or not isinstance(frames, int) or frames < least:
            raise NetError(f"frames is the number of pictures in a clip, at least {least}, got {frames!r}")
        self.shape = (*shape, shape[-1])

    @staticmethod
    def example(spec: dict[str, Any], batch: int) -> Tensor:
        """Return random clips, (batch, in_channels, frames, input_size, input_size)."""
        side = spec["input_size"]
        return torch.randn(batch, spec["in_channels"], spec.get("frames", 16), side, side)


# maps of the convolutions of each stage; every stage ends with pooling
_C3D = ((64,), (128,), (256, 256), (512, 512), (512, 512))


class C3D(_Clips):
    """C3D as published."""

    head = "fc8"

    def __init__(
        self, *, classes: int, in_channels: int, input_size: int, frames: int = 16, dropout: float = 0.5
    ) -> None:
        super().__init__((in_channels, frames, input_size), 1)
        check_dropout(dropout)
        self.features = nn.Sequential()
        maps, time, side = in_channels, frames, input_size
        for stage, widths in enumerate(_C3D, start=1):
            for letter, width in zip("ab", widths, strict=False):
                conv = nn.Conv3d(maps, width, 3, padding=1)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
                self.features.add_module(f"conv{stage}{letter}", conv)
                self.features.add_module(f"relu{stage}{letter}", nn.ReLU())
                maps = width
            depth = 1 if stage == 1 else 2
            self.features.add_module(f"pool{stage}", nn.MaxPool3d((depth, 2, 2), ceil_mode=True))
            time, side = -(-time // depth), -(-side // 2)
        self.fc6 = nn.Linear(maps * time * side**2, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.fc8 = nn.Linear(4096, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, frames, H, W) -> (B, 4096)."""
        check_shape(x, *self.shape)
        x = self.features(x).flatten(1)  # (B, 8192)
        x = self.dropout(self.relu(self.fc6(x)))
        return self.dropout(self.relu(self.fc7(x)))  # type: ignore[no-any-return]


class ClipSmall(_Clips):
    """Four 3-D convolutions, 3x3x3, each with batch normalisation; for small clips."""

    def __init__(
        self, *, classes: int, in_channels: int, input_size: int, frames: int = 16, dropout: float = 0.0
    ) -> None:
        super().__init__((in_channels, frames, input_size), 4)
        self.features = nn.Sequential()
        maps = in_channels
        for number, width in enumerate((8, 24, 48, 96), start=1):
            self.features.add_module(f"conv{number}", nn.Conv3d(maps, width, 3, padding=1, bias=False))
            self.features.add_module(f"norm{number}", nn.BatchNorm3d(width))
            self.features.add_module(f"relu{number}", nn.ReLU())
            if number < 4:
                self.features.add_module(f"pool{number}", nn.MaxPool3d((1 if number == 1 else 2, 2, 2)))
            maps = width
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(maps, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, frames, H, W) -> (B, 96)."""
        check_shape(x, *self.shape)
        return self.dropout(self.features(x).mean((2, 3, 4)))  # type: ignore[no-any-return]


def _stream(maps: int) -> nn.Sequential:
    """A small 2-D net: (B, maps, H, W) -> (B, 64)."""
    made = nn.Sequential()
    for number, width in enumerate((16, 32, 64), start=1):
        made.add_module(f"conv{number}", nn.Conv2d(maps, width, 3, padding=1, bias=False))
        made.add_module(f"norm{number}", nn.BatchNorm2d(width))
        made.add_module(f"relu{number}", nn.ReLU())
        made.add_module(f"pool{number}", nn.MaxPool2d(2))
        maps = width
    made.add_module("mean", nn.AdaptiveAvgPool2d(1))
    made.add_module("flat", nn.Flatten())
    return made


class ClipFrames(_Clips):
    """Every frame by itself, and the mean of what they say: late fusion, which does not see motion.

    The mean of what a linear layer says is what it says of the mean.
    """

    def __init__(self, *, classes: int, in_channels: int, input_size: int, frames: int = 16) -> None:
        super().__init__((in_channels, frames, input_size), 1)
        self.frame = _stream(in_channels)
        self.fc = nn.Linear(64, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, frames, H, W) -> (B, 64)."""
        check_shape(x, *self.shape)
        each = self.frame(x.transpose(1, 2).flatten(0, 1))  # (B * frames, 64)
        return each.view(x.shape[0], x.shape[2], -1).mean(1)  # type: ignore[no-any-return]


class TwoStream(_Clips):
    """What frames show, and what changes between them, each by a 2-D net; one linear layer on both."""

    def __init__(self, *, classes: int, in_channels: int, input_size: int, frames: int = 16) -> None:
        super().__init__((in_channels, frames, input_size), 2)
        self.spatial = _stream(in_channels)
        self.temporal = _stream(in_channels * (frames - 1))
        self.fc = nn.Linear(128, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, frames, H, W) -> (B, 128)."""
        check_shape(x, *self.shape)
        middle = x[:, :, x.shape[2] // 2]
        changes = (x[:, :, 1:] - x[:, :, :-1]).flatten(1, 2)  # (B, in_channels * (frames - 1), H, W)
        return torch.cat((self.spatial(middle), self.temporal(changes)), 1)


class Inflated(nn.Module):
    """A convolution over three frames, made of one over pictures: (B * frames, C, H, W) -> (B * frames, C', H', W').

    Its three filters are convolutions of their own, whose results are added up; before the first frame and behind the
    last one the clip stands still, so what holds for one frame holds at the borders, too.
    """

    def __init__(self, conv: nn.Conv2d, frames: int) -> None:
        super().__init__()
        self.frames, self.in_channels, self.out_channels = frames, conv.in_channels, conv.out_channels
        self.taps = nn.ModuleList(deepcopy(conv) for _ in range(3))
        for number, tap in enumerate(self.taps):
            tap.weight = nn.Parameter(conv.weight.detach() / 3)
            if number != 1:
                tap.register_parameter("bias", None)  # once is enough

    def forward(self, x: Tensor) -> Tensor:
        before, now, after = (tap(x).unflatten(0, (-1, self.frames)) for tap in self.taps)
        before = torch.cat((before[:, :1], before[:, :-1]), 1)
        after = torch.cat((after[:, 1:], after[:, -1:]), 1)
        return (before + now + after).flatten(0, 1)


class ClipTrunk(_Clips):
    """A net for pictures on every frame, and the mean of what its last layer reads; inflated, it sees motion.

    Args:
        inflate: every filter larger than 1x1 spans three frames.
        trunk: a net of the zoo that ends in a linear layer on a vector.
        start: "imagenet", the weights with which training begins, or "random".
    """

    recipe = "finetune"
    reader: ClassVar[dict[str, Any]] = {"size": 112, "frames": 8}

    def __init__(
        self,
        inflate: bool,
        *,
        classes: int,
        in_channels: int,
        input_size: int,
        frames: int = 16,
        trunk: str = "efficientnet_lite0",
        start: str = "imagenet",
    ) -> None:
        super().__init__((in_channels, frames, input_size), 1)
        if start not in ("imagenet", "random"):
            raise NetError(f"expected start=imagenet or random, got {start!r}")
        self._inflate, self._start = inflate, start
        self._frames = frames
        self._size: dict[str, Any] = {"in_channels": in_channels, "input_size": input_size}
        made = build(trunk, classes=1, **self._size)
        width = getattr(head_of(made), "in_features", None)
        if width is None or facts(trunk).reads != "picture":
            raise NetError(
                f"expected as trunk a net for pictures that ends in a linear layer, such as resnet18, got {trunk}"
            )
        self._name, self.trunk = trunk, self._of_frames(made)
        self.fc = nn.Linear(width, classes)

    def take_weights(self) -> None:
        """Begin with ImageNet weights, where the net was built for them. Raises: NetError: there are none."""
        if self._start == "imagenet":
            from .weights import build_with_weights

            self.trunk = self._of_frames(build_with_weights(self._name, "imagenet", **self._size))

    def _of_frames(self, net: Any) -> nn.Module:
        net.set_submodule(net.head, nn.Identity())
        if self._inflate:
            wide = [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
            for name in wide:
                net.set_submodule(name, Inflated(net.get_submodule(name), self._frames))
        return net  # type: ignore[no-any-return]

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, frames, H, W) -> (B, F)."""
        check_shape(x, *self.shape)
        each = self.trunk.forward_features(x.transpose(1, 2).flatten(0, 1))  # type: ignore[operator]
        return each.unflatten(0, (-1, self._frames)).mean(1)  # type: ignore[no-any-return]


register(
    # 17 is the smallest side at which the last pooling still has more than one value to choose from
    Facts("c3d", "c3d", 2015, "Tran et al. 2015, arXiv:1412.0767", 79_991_015, 38_548_959_232, (3, 16, 112, 112), 487,
          smallest=17, accuracy="Sports-1M 60.0 % of videos, 84.4 % in the top five (one net, from scratch)"),
)(C3D)  # fmt: skip

for _name, _builder, _year, _paper, _params, _macs in (
    ("clip_small", ClipSmall, 2015, "after Tran et al. 2015, arXiv:1412.0767", 162_480, 55_739_136),
    ("clip_frames", ClipFrames, 2014, "after Karpathy et al. 2014", 24_216, 44_827_136),
    ("two_stream", TwoStream, 2014, "after Simonyan and Zisserman 2014, arXiv:1406.2199", 54_472, 11_797_504),
):
    register(Facts(_name, "clips", _year, _paper, _params, _macs, (3, 16, 32, 32), 8, smallest=8))(_builder)

for _name, _inflate, _year, _paper, _params, _macs in (
    ("clip_averaged", False, 2014, "after Karpathy et al. 2014", 3_381_256, 1_689_787_648),
    ("clip_inflated", True, 2017, "after Carreira and Zisserman 2017, arXiv:1705.07750", 3_747_016, 2_066_376_448),
):
    _facts = Facts(_name, "clips", _year, _paper, _params, _macs, (3, 16, 112, 112), 8, smallest=32)
    register(_facts, inflate=_inflate)(ClipTrunk)
