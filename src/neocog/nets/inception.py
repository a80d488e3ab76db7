"""Inception v2 and v3. Ioffe, Szegedy 2015, arXiv:1502.03167 (BN-Inception, v2); Szegedy et al. 2015, arXiv:1512.00567.

`inception_v2` is the net of the first paper's figure 5 as TF-Slim builds it: the 5x5 of GoogLeNet becomes two 3x3, BN
follows every convolution, and the first convolution is separable. `bn_inception` is the Caffe version of it (plain 7x7,
wider inception4c, 4d and 4e, convolution biases), `se_bn_inception` the same without those biases and with
squeeze-and-excitation (Hu et al. 2017, arXiv:1709.01507) behind each module. `inception_v3` splits 7x7 into 1x7 and
7x1; parameter names are torchvision's, whose weights expect pictures scaled to -1 .. 1: mean and std of 0.5.

Output shapes, inception_v2 for 3 x 224 x 224 (in brackets the Caffe version), inception_v3 for 3 x 299 x 299:

    conv1, 7x7/2             B   64  112  112            Conv2d_1a_3x3, 3x3/2     B   32  149  149
    pool1, 3x3/2             B   64   56   56            Conv2d_2a_3x3, 3x3       B   32  147  147
    conv2_reduce, 1x1        B   64   56   56            Conv2d_2b_3x3, 3x3       B   64  147  147
    conv2, 3x3               B  192   56   56            maxpool1, 3x3/2          B   64   73   73
    pool2, 3x3/2             B  192   28   28            Conv2d_3b_1x1, 1x1       B   80   73   73
    inception3a              B  256   28   28            Conv2d_4a_3x3, 3x3       B  192   71   71
    inception3b              B  320   28   28            maxpool2, 3x3/2          B  192   35   35
    inception3c, /2          B  576   14   14            Mixed_5b [5c, 5d]        B  256   35   35    [288]
    inception4a, 4b          B  576   14   14            Mixed_6a, /2, 6b to 6e   B  768   17   17
    inception4c, 4d          B  576   14   14    [608]   Mixed_7a, /2             B 1280    8    8
    inception4e, /2          B 1024    7    7    [1056]  Mixed_7b, 7c             B 2048    8    8
    inception5a, 5b          B 1024    7    7            avgpool                  B 2048
    avgpool                  B 1024
    fc                       B 1000                      fc                       B 1000
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..records import Facts
from .gates import SamePad, SEGate
from .layers import Classifier, WithAuxiliaryHeads, check_choice, check_dropout, check_input, he_init
from .registry import IMAGENET, TORCHVISION, register

Size = int | tuple[int, int]
# One step of a branch: a convolution (name, channels, kernel, stride 1 if not given), or the 3x3 pooling "average",
# "max" or "max/2", or several convolutions that read the same map and are concatenated.
Step = str | tuple[Any, ...]
Plan = tuple[tuple[Step, ...], ...]


def _v2(one: int, reduce3: int, three: int, reduce_double: int, double: int, pool: str, project: int) -> Plan:
    """Return the branches of a module of v2: 1x1; 1x1, 3x3; 1x1, 3x3, 3x3; pooling, 1x1. "max/2" halves the map."""
    stride = 2 if pool == "max/2" else 1
    inner: Plan = (
        (("branch3x3_1", reduce3, 1), ("branch3x3_2", three, 3, stride)),
        (("branch3x3dbl_1", reduce_double, 1), ("branch3x3dbl_2", double, 3), ("branch3x3dbl_3", double, 3, stride)),
    )
    if stride == 2:
        return (*inner, (pool,))
    return ((("branch1x1", one, 1),), *inner, (pool, ("branch_pool", project, 1)))


V2: dict[str, Plan] = {
    "inception3a": _v2(64, 64, 64, 64, 96, "average", 32),
    "inception3b": _v2(64, 64, 96, 64, 96, "average", 64),
    "inception3c": _v2(0, 128, 160, 64, 96, "max/2", 0),
    "inception4a": _v2(224, 64, 96, 96, 128, "average", 128),
    "inception4b": _v2(192, 96, 128, 96, 128, "average", 128),
    "inception4c": _v2(160, 128, 160, 128, 160, "average", 96),
    "inception4d": _v2(96, 128, 192, 160, 192, "average", 96),
    "inception4e": _v2(0, 128, 192, 192, 256, "max/2", 0),
    "inception5a": _v2(352, 192, 320, 160, 224, "average", 128),
    "inception5b": _v2(352, 192, 320, 192, 224, "max", 128),
}
CAFFE = {
    **V2,
    "inception4c": _v2(160, 128, 160, 128, 160, "average", 128),
    "inception4d": _v2(96, 128, 192, 160, 192, "average", 128),
}


def _v3_a(project: int) -> Plan:
    return (
        (("branch1x1", 64, 1),),
        (("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
        (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
        ("average", ("branch_pool", project, 1)),
    )


def _v3_c(width: int) -> Plan:
    wide, tall = (1, 7), (7, 1)
    double = ((width, 1), (width, tall), (width, wide), (width, tall), (192, wide))
    return (
        (("branch1x1", 192, 1),),
        (("branch7x7_1", width, 1), ("branch7x7_2", width, wide), ("branch7x7_3", 192, tall)),
        tuple((f"branch7x7dbl_{number}", *how) for number, how in enumerate(double, start=1)),
        ("average", ("branch_pool", 192, 1)),
    )


_V3_E: Plan = (
    (("branch1x1", 320, 1),),
    (("branch3x3_1", 384, 1), (("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1)))),
    (
        ("branch3x3dbl_1", 448, 1),
        ("branch3x3dbl_2", 384, 3),
        (("branch3x3dbl_3a", 384, (1, 3)), ("branch3x3dbl_3b", 384, (3, 1))),
    ),
    ("average", ("branch_pool", 192, 1)),
)

V3: dict[str, Plan] = {
    "Mixed_5b": _v3_a(32),
    "Mixed_5c": _v3_a(64),
    "Mixed_5d": _v3_a(64),
    "Mixed_6a": (
        (("branch3x3", 384, 3, 2),),
        (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3, 2)),
        ("max/2",),
    ),
    "Mixed_6b": _v3_c(128),
    "Mixed_6c": _v3_c(160),
    "Mixed_6d": _v3_c(160),
    "Mixed_6e": _v3_c(192),
    "Mixed_7a": (
        (("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2)),
        tuple((f"branch7x7x3_{k}", 192, *how) for k, how in enumerate(((1,), ((1, 7),), ((7, 1),), (3, 2)), start=1)),
        ("max/2",),
    ),
    "Mixed_7b": _V3_E,
    "Mixed_7c": _V3_E,
}


class CeilPool(nn.MaxPool2d):
    """3x3/2 maximum whose last window may hang over: (B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2)).

    As Caffe's where H and W are even. Where one is odd, Caffe's map is one smaller than that of the padded 3x3/2
    convolutions beside it and they cannot be concatenated; here it gets one more window.
    """

    def __init__(self) -> None:
        super().__init__(3, 2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        odd = (0, x.shape[3] % 2, 0, x.shape[2] % 2)
        return super().forward(F.pad(x, odd, value=float("-inf")) if any(odd) else x)


class Conv(nn.Sequential):
    """Convolution, BN, ReLU: (B, C, H, W) -> (B, out, H', W'), both sides of the map padded by `padding`.

    padding=None is TensorFlow's "SAME". A `multiplier` above 0 makes the convolution separable: so many filters for
    each input channel alone, and a 1x1 convolution behind them.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: Size,
        stride: int = 1,
        *,
        padding: Size | None,
        bias: bool = False,
        eps: float = 0.001,
        multiplier: int = 0,
        norm: bool = True,
    ) -> None:
        super().__init__()
        if padding is None:
            assert isinstance(kernel, int)
            self.pad = SamePad(kernel, stride)
        if multiplier:
            between = channels * multiplier
            self.depthwise = nn.Conv2d(channels, between, kernel, stride, padding or 0, groups=channels, bias=False)
            channels, kernel, stride, padding = between, 1, 1, 0
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding or 0, bias=bias)
        if norm:
            self.bn = nn.BatchNorm2d(out, eps)
        self.relu = nn.ReLU(inplace=True)


class Mixed(nn.Module):
    """An inception module: the branches of `plan` side by side, concatenated; (B, C, H, W) -> (B, channels, H', W').

    `conv` makes a convolution from (channels, out, kernel, stride), `pool` a pooling layer from "average", "max" or
    "max/2"; with `gate` squeeze and excitation stand behind the concatenation.
    """

    def __init__(
        self,
        inputs: int,
        plan: Plan,
        conv: Callable[[int, int, Size, int], nn.Module],
        pool: Callable[[str], nn.Module],
        gate: bool = False,
    ) -> None:
        super().__init__()
        self._names: list[list[list[str]]] = []  # branch -> step -> names of the modules that read the same map
        self.channels = 0
        for branch in plan:
            channels, names = inputs, []
            for step in branch:
                if isinstance(step, str):
                    self.pool = pool(step)
                    names.append(["pool"])
                    continue
                together = step if isinstance(step[0], tuple) else (step,)
                for name, out, kernel, *stride in together:
                    self.add_module(name, conv(channels, out, kernel, *(stride or [1])))
                names.append([name for name, *_ in together])
                channels = sum(out for _, out, *_ in together)
            self._names.append(names)
            self.channels += channels
        self.gate = SEGate(self.channels) if gate else None

    def forward(self, x: Tensor) -> Tensor:
        outs = []
        for branch in self._names:
            y = x
            for names in branch:
                parts = [self.get_submodule(name)(y) for name in names]
                y = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
            outs.append(y)
        y = torch.cat(outs, 1)
        return y if self.gate is None else self.gate(y)


class InceptionV2(Classifier):
    """Stem, ten inception modules, mean over the map, linear head.

    Args:
        plans, gates: the modules, and whether squeeze and excitation stand behind each.
        separable: begin with a depthwise 7x7 of 8 filters per channel (fewer above 8 channels) and a 1x1, else with a
            plain 7x7.
        padding: where a layer of stride 2 pads: "tensorflow" by its rule "SAME" (see gates.SamePad), which depends on
            the size of the map; "pytorch" the same on all sides; "caffe" as "pytorch", but maxima are not padded and
            their last window may hang over. Means count padding as zeros with "caffe", and leave it out otherwise.
        conv_bias: give convolutions a bias, although BN follows.
    """

    head = "fc"

    def __init__(
        self,
        plans: dict[str, Plan],
        gates: bool,
        eps: float,
        *,
        classes: int,
        in_channels: int,
        separable: bool = True,
        padding: str = "tensorflow",
        conv_bias: bool = False,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        check_choice("padding", padding, ("tensorflow", "pytorch", "caffe"))
        check_dropout(dropout)
        self.in_channels = in_channels
        self._plans = tuple(plans)

        def conv(channels: int, out: int, kernel: Size, stride: int, multiplier: int = 0) -> Conv:
            assert isinstance(kernel, int)
            sides = None if stride > 1 and padding == "tensorflow" else kernel // 2
            return Conv(channels, out, kernel, stride, padding=sides, bias=conv_bias, eps=eps, multiplier=multiplier)

        def pool(kind: str, beside: bool = True) -> nn.Module:
            if kind == "average":
                return nn.AvgPool2d(3, 1, 1, count_include_pad=padding == "caffe")
            if kind == "max":
                return nn.MaxPool2d(3, 1, 1)
            if padding == "tensorflow":
                return nn.Sequential(SamePad(3, 2, value=float("-inf")), nn.MaxPool2d(3, 2))
            if padding == "pytorch":
                return nn.MaxPool2d(3, 2, 1)
            return CeilPool() if beside else nn.MaxPool2d(3, 2, ceil_mode=True)

        self.conv1 = conv(in_channels, 64, 7, 2, multiplier=max(min(64 // in_channels, 8), 1) if separable else 0)
        self.pool1 = pool("max/2", beside=False)
        self.conv2_reduce = conv(64, 64, 1, 1)
        self.conv2 = conv(64, 192, 3, 1)
        self.pool2 = pool("max/2", beside=False)
        channels = 192
        for name, plan in plans.items():
            self.add_module(name, mixed := Mixed(channels, plan, conv, pool, gates))
            channels = mixed.channels
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, classes)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 1024)."""
        check_input(x, self.in_channels)
        x = self.pool1(self.conv1(x))
        x = self.pool2(self.conv2(self.conv2_reduce(x)))  # (B, 192, H/8, W/8)
        for name in self._plans:
            x = self.get_submodule(name)(x)
        return self.dropout(self.avgpool(x).flatten(1))


class AuxiliaryHead(nn.Module):
    """Mean over 5x5 windows 3 apart, 1x1, 5x5, mean, linear: (B, 768, 17, 17) -> logits (B, classes)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(5, 3)
        self.conv0 = Conv(channels, 128, 1, padding=0)
        self.conv1 = Conv(128, 768, 5, padding=0)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.avgpool(self.conv1(self.conv0(self.pool(x)))).flatten(1))


class InceptionV3(WithAuxiliaryHeads):
    """Stem without padding, eleven inception modules, mean over the map, linear head; an auxiliary head if asked for.

    Args:
        auxiliary: have the auxiliary head, which needs pictures of 299x299 or more. torchvision's weights have one.
    """

    head = "fc"
    weight = 0.4  # as in TF-Slim

    def __init__(self, *, classes: int, in_channels: int, auxiliary: bool = False, dropout: float = 0.5) -> None:
        super().__init__()
        check_dropout(dropout)
        self.in_channels, self.auxiliary = in_channels, auxiliary
        self.aux_heads = ("AuxLogits.fc",) if auxiliary else ()
        self.Conv2d_1a_3x3 = Conv(in_channels, 32, 3, 2, padding=0)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, padding=0)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, padding=1)
        self.maxpool1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1, padding=0)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, padding=0)
        self.maxpool2 = nn.MaxPool2d(3, 2)
        channels = 192
        for name, plan in V3.items():
            self.add_module(name, mixed := Mixed(channels, plan, self._conv, self._pool))
            channels = mixed.channels
        if auxiliary:
            self.AuxLogits = AuxiliaryHead(768, classes)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, classes)
        he_init(self)

    @staticmethod
    def _conv(channels: int, out: int, kernel: Size, stride: int) -> Conv:
        sides: Size = (kernel[0] // 2, kernel[1] // 2) if isinstance(kernel, tuple) else kernel // 2
        return Conv(channels, out, kernel, stride, padding=0 if stride > 1 else sides)

    @staticmethod
    def _pool(kind: str) -> nn.Module:
        return nn.MaxPool2d(3, 2) if kind == "max/2" else nn.AvgPool2d(3, 1, 1)

    @staticmethod
    def smallest_input(options: dict[str, object]) -> int | None:
        """The auxiliary head needs a map of 17x17: a 5x5 convolution follows its 5x5 windows 3 apart."""
        return 299 if options.get("auxiliary") else None

    def run(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, in_channels, H, W) -> features (B, 2048), and the map (B, 768, h, w) of the auxiliary head."""
        check_input(x, self.in_channels, 299 if self.auxiliary and self.training else _SMALLEST_V3)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(self.maxpool1(x)))
        x = self.maxpool2(x)  # (B, 192, 35, 35) of a picture of 299x299
        for name in V3:
            x = self.get_submodule(name)(x)
            if name == "Mixed_6e":
                inner = x
        return self.dropout(self.avgpool(x).flatten(1)), {"AuxLogits": inner}


_SMALLEST_V3 = 75  # its stem does not pad; a 1x1 map in Mixed_7a
_PAPER = "Ioffe and Szegedy 2015, arXiv:1502.03167"
_SLIM: dict[str, Any] = {"plans": V2, "gates": False, "eps": 0.001}
_CAFFE: dict[str, Any] = {"plans": CAFFE, "eps": 1e-5, "separable": False, "padding": "caffe", "dropout": 0.0}

# name, year, paper, settings, parameters, MACs, published accuracy
_VARIANTS: list[tuple[str, int, str, dict[str, Any], int, int, str]] = [
    ("inception_v2", 2015, _PAPER, _SLIM, 11_188_288, 1_934_857_216,
     "ImageNet top-1 73.9 %, top-5 91.8 % (TF-Slim weights, 1 crop)"),
    ("bn_inception", 2015, _PAPER, {**_CAFFE, "gates": False, "conv_bias": True}, 11_295_240, 2_032_600_064,
     "ImageNet top-1 74.8 %, top-5 92.2 % (paper, 1 crop)"),
    ("se_bn_inception", 2017, "Hu et al. 2017, arXiv:1709.01507", {**_CAFFE, "gates": True}, 11_931_622, 2_033_239_424,
     "ImageNet top-1 76.38 %, top-5 92.96 % (authors' README, 1 crop)"),
]  # fmt: skip

for _name, _year, _paper, _settings, _params, _macs, _accuracy in _VARIANTS:
    # 32: a 1x1 map in inception5a, and nowhere before
    _facts = Facts(_name, "inception", _year, _paper, _params, _macs, **IMAGENET, smallest=32, accuracy=_accuracy)
    register(_facts, **_settings)(InceptionV2)
_facts = Facts("inception_v3", "inception", 2015, "Szegedy et al. 2015, arXiv:1512.00567", 23_834_568, 5_713_216_096,
               (3, 299, 299), 1000, _SMALLEST_V3, TORCHVISION.format("77.29", "93.45"))  # fmt: skip
register(_facts)(InceptionV3)
