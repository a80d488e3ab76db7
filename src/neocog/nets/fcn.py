"""FCN: Fully Convolutional Networks for Semantic Segmentation. Long, Shelhamer, Darrell 2015, arXiv:1411.4038.

A classifier whose fully connected layers have become convolutions gives a map of scores; fixed bilinear filters
enlarge it, and the finer nets first add the scores of earlier, finer maps. Layer names are those of the authors' Caffe
files. The rewrite "fc-to-conv" of `neocog.anatomy` does the first half to any classifier that has learned already.

Output shapes of fcn8s_vgg16 for 3 x 500 x 500. The first convolution adds 100 pixels on every side, so that pictures
smaller than the field of view of fc6 (404 pixels) get a score, too; what that adds is cropped away:

    conv1_1, 1_2         B   64  698  698     score_fr, 1x1                B  21   16   16
    pool1, conv2         B  128  349  349     upscore2, 4x4/2              B  21   34   34
    pool2, conv3         B  256  175  175     + score_pool4, cropped at 5
    pool3, conv4         B  512   88   88     upscore_pool4, 4x4/2         B  21   70   70
    pool4, conv5         B  512   44   44     + score_pool3, cropped at 9
    pool5                B  512   22   22     upscore8, 16x16/8            B  21  568  568
    fc6 7x7, fc7 1x1     B 4096   16   16     score, cropped at 31         B  21  500  500

FCN on dilated ResNets, as torchvision has them. Long et al. 2015 (arXiv:1411.4038), He et al. 2015, and the dilation
of Yu and Koltun 2016: stages 3 and 4 keep the size of stage 2 and dilate their 3x3 convolutions instead.

Parameter names are torchvision's. Its weights, trained on the VOC classes of COCO, have on COCO val2017 a mean
intersection over union of 60.5 % (ResNet-50) and 63.7 % (ResNet-101). They have the auxiliary head (option
``auxiliary=True``): 35,322,218 and 54,314,346 parameters; torchvision computes it in evaluation as well, and so says
152.717 G and 232.738 G multiply-adds.

Output shapes of fcn_resnet50 for 3 x 520 x 520:

    backbone.conv1, 7x7/2           B   64  260  260
    backbone.maxpool, 3x3/2         B   64  130  130
    backbone.layer1                 B  256  130  130
    backbone.layer2                 B  512   65   65
    backbone.layer3, dilation 2     B 1024   65   65
    backbone.layer4, dilation 4     B 2048   65   65
    classifier, 3x3, 1x1            B   21   65   65
    bilinear interpolation          B   21  520  520
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .alexnet import Convolution, five_convolutions
from .layers import PadShortcut, WithAuxiliaries, check_dropout, check_input, conv_bn, he_init, named
from .registry import register
from .resnet import Bottleneck, ResNet
from .vgg import STAGES, WIDTHS

# Output channels of the 13 convolutions of VGG-16, stage by stage: ((64, 64), (128, 128), (256, 256, 256), ...).
VGG16 = tuple((width,) * number for width, number in zip(WIDTHS, STAGES[16], strict=True))


class BilinearUpsampling(nn.ConvTranspose2d):
    """Transposed convolution with frozen bilinear filters: (B, C, H, W) -> (B, C, s (H - 1) + k - 2 p, ...).

    As in the authors' files it is a full convolution, C x C filters of which only the diagonal is not zero; with
    ``groups=classes`` only the diagonal is kept. The filters are parameters without gradient, so they are saved.
    """

    def __init__(self, classes: int, kernel_size: int, stride: int, padding: int = 0, groups: int = 1) -> None:
        super().__init__(classes, classes, kernel_size, stride, padding, groups=groups, bias=False)
        self.weight.requires_grad_(False)

    def reset_parameters(self) -> None:
        size = self.kernel_size[0]
        factor = (size + 1) // 2
        centre = factor - 1 if size % 2 else factor - 0.5
        line = 1 - (torch.arange(size, device=self.weight.device, dtype=torch.float32) - centre).abs() / factor
        with torch.no_grad():
            self.weight.zero_()
            inputs = torch.arange(self.in_channels, device=self.weight.device)
            self.weight[inputs, inputs % self.weight.shape[1]] = torch.outer(line, line).to(self.weight.dtype)

    def with_classes(self, classes: int) -> BilinearUpsampling:
        groups = 1 if self.groups == 1 else classes
        with torch.device(self.weight.device):
            fresh = BilinearUpsampling(classes, self.kernel_size[0], self.stride[0], int(self.padding[0]), groups)
        return fresh.to(self.weight.dtype)


class FixedScale(nn.Module):
    """Multiplication with a constant; the gradient of what follows shrinks with it."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor

    def extra_repr(self) -> str:
        return f"{self.factor:g}"


def scaled(channels: int, width: float) -> int:
    """Return ``channels * width`` as an even number of at least 2 (some convolutions have two groups)."""
    if not width > 0:
        raise NetError(f"width is a factor above 0 for the number of channels, got {width!r}")
    return channels if width == 1 else max(2, 2 * round(channels * width / 2))


def vgg16_layers(
    in_channels: int, width: float, *, norm: bool = False, padding: int = 1, pools: int = 5, switches: bool = False
) -> tuple[dict[str, nn.Module], int]:
    """Return the convolutions of VGG-16, each with its ReLU (and BN), and what the last one puts out.

    They have a bias even where BN follows, as in the Caffe files of the nets here. With 3 of 5 `pools` the last stage
    is dilated by 2. Poolings round up, as Caffe does; with `switches` they say where the maxima were.
    """
    layers: dict[str, nn.Module] = {}
    channels = in_channels
    for number, widths in enumerate(VGG16, start=1):
        for index, wide in enumerate(widths, start=1):
            name, out = f"{number}_{index}", scaled(wide, width)
            layers[f"conv{name}"] = nn.Conv2d(channels, out, 3, 1, padding, dilation=2 if number == 5 > pools else 1)
            if norm:
                layers[f"bn{name}"] = nn.BatchNorm2d(out)
            layers[f"relu{name}"] = nn.ReLU(inplace=True)
            channels = out
        if number <= pools:
            layers[f"pool{number}"] = nn.MaxPool2d(2, ceil_mode=True, return_indices=switches)
    return layers, channels


def fc_layers(
    channels: int, units: int, kernel_size: int, dropout: float, dilation: int = 1, norm: bool = False
) -> dict[str, nn.Module]:
    """Return fc6 and fc7, the fully connected layers of a classifier as convolutions."""
    check_dropout(dropout)
    layers: dict[str, nn.Module] = {}
    for number, size in ((6, kernel_size), (7, 1)):
        layers[f"fc{number}"] = nn.Conv2d(channels, units, size, dilation=dilation if size > 1 else 1)
        if norm:
            layers[f"bn{number}"] = nn.BatchNorm2d(units)
        layers[f"relu{number}"] = nn.ReLU(inplace=True)
        if dropout:
            layers[f"drop{number}"] = nn.Dropout(dropout)
        channels = units
    return layers


def _vgg16_trunk(in_channels: int, width: float, dropout: float) -> nn.Sequential:
    layers, channels = vgg16_layers(in_channels, width)
    layers["conv1_1"] = nn.Conv2d(in_channels, scaled(64, width), 3, 1, 100)
    return named(layers | fc_layers(channels, scaled(4096, width), 7, dropout))


def _caffenet_trunk(in_channels: int, width: float, dropout: float) -> nn.Sequential:
    a, b, c, d = (scaled(channels, width) for channels in (96, 256, 384, 256))
    five = (
        Convolution(a, 11, 4, 100), Convolution(b, 5, 1, 2, 2), Convolution(c, 3, 1, 1), Convolution(c, 3, 1, 1, 2),
        Convolution(d, 3, 1, 1, 2),
    )  # fmt: skip
    layers = five_convolutions(five, in_channels, norm_first=False, ceil=3, norm="caffe")
    return named(layers | fc_layers(d, scaled(4096, width), 6, dropout))


_TRUNKS = {"vgg16": _vgg16_trunk, "caffenet": _caffenet_trunk}


class FCN(nn.Module):
    """Trunk, a 1x1 convolution that scores classes, and for each skip: enlarge, add the scores of an earlier map.

    Args:
        trunk: "vgg16" or "caffenet", with fc6 and fc7 as convolutions.
        skips: maps of the trunk whose scores are added, coarse to fine, each with its crop: ``(("pool4", 5), ...)``.
        last: name, kernel size, stride and crop of the last upsampling.
        scales: fixed factor for each skip (all learned at once), or none (learned in stages).
        dropout: probability of dropping an output of fc6 and of fc7.
        width: factor for the number of channels of the trunk.
        zero_init_score: start the layers that score classes at zero, as the authors do in fine-tuning.
    """

    head = "score_fr"

    def __init__(
        self,
        trunk: str,
        skips: Sequence[tuple[str, int]],
        last: tuple[str, int, int, int],
        scales: Sequence[float] = (),
        *,
        classes: int,
        in_channels: int,
        dropout: float = 0.5,
        width: float = 1.0,
        zero_init_score: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.zero_init_score = in_channels, zero_init_score
        self.trunk = _TRUNKS[trunk](in_channels, width, dropout)
        self.score_fr = nn.Conv2d(scaled(4096, width), classes, 1)
        self._skips: list[tuple[str, str, int]] = []  # map, upsampling before its scores are added, crop
        upscore = "upscore2"
        for number, (map_, crop) in enumerate(skips):
            self.add_module(upscore, BilinearUpsampling(classes, 4, 2))
            scale = FixedScale(scales[number]) if scales else nn.Identity()
            self.add_module(f"scale_{map_}", scale)
            channels = scaled(VGG16[int(map_[-1]) - 1][-1], width)
            self.add_module(f"score_{map_}", nn.Conv2d(channels, classes, 1))
            self._skips.append((map_, upscore, crop))
            upscore = f"upscore_{map_}"
        name, kernel_size, stride, self._crop = last
        self.add_module(name, BilinearUpsampling(classes, kernel_size, stride))
        self._last = name
        self.aux_heads = (*(f"score_{map_}" for map_, *_ in self._skips), *(up for _, up, _ in self._skips), name)
        he_init(self)
        for layer in (self.score_fr, *(self.get_submodule(f"score_{map_}") for map_, *_ in self._skips)):
            self.init_head(layer)

    def init_head(self, layer: nn.Module) -> None:
        """Initialise a layer that scores classes; the upsampling filters are left as they are."""
        if isinstance(layer, nn.Conv2d):
            if self.zero_init_score:
                nn.init.zeros_(layer.weight)
            else:
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="linear")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 4096, h, w): what score_fr reads."""
        check_input(x, self.in_channels)
        return self.trunk(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> logits (B, classes, H, W)."""
        check_input(x, self.in_channels)
        height, width = x.shape[2:]
        wanted, maps = {map_ for map_, *_ in self._skips}, {}
        for name, layer in self.trunk.named_children():
            x = layer(x)
            if name in wanted:
                maps[name] = x
        score = self.score_fr(x)  # (B, classes, h, w)
        for map_, upscore, crop in self._skips:
            score = self.get_submodule(upscore)(score)  # twice the size
            finer = self.get_submodule(f"score_{map_}")(self.get_submodule(f"scale_{map_}")(maps[map_]))
            score = score + _cropped(finer, crop, score.shape[2], score.shape[3])
        return _cropped(self.get_submodule(self._last)(score), self._crop, height, width)


def _cropped(x: Tensor, offset: int, height: int, width: int) -> Tensor:
    return x[:, :, offset : offset + height, offset : offset + width]


_PAPER = "Long et al. 2015, arXiv:1411.4038"
_VOC = "PASCAL VOC 2011 seg11valid mean IU {} % (authors' released model)"
_POOL4, _POOL3 = ("pool4", 5), ("pool3", 9)

# name, settings, parameters (trainable), MACs, published accuracy
_VARIANTS = [
    ("fcn32s_vgg16", {"trunk": "vgg16", "skips": (), "last": ("upscore", 64, 32, 19)},
     134_346_581, 181_365_854_976, _VOC.format("63.6")),
    ("fcn16s_vgg16", {"trunk": "vgg16", "skips": (_POOL4,), "last": ("upscore16", 32, 16, 27)},
     134_357_354, 181_448_086_272, _VOC.format("65.0")),
    ("fcn8s_vgg16", {"trunk": "vgg16", "skips": (_POOL4, _POOL3), "last": ("upscore8", 16, 8, 31)},
     134_362_751, 181_529_034_048, _VOC.format("65.5")),
    ("fcn8s_atonce_vgg16", {"trunk": "vgg16", "skips": (_POOL4, _POOL3), "last": ("upscore8", 16, 8, 31),
                            "scales": (0.01, 0.0001)}, 134_362_751, 181_529_034_048, _VOC.format("65.4")),
    ("fcn32s_alexnet", {"trunk": "caffenet", "skips": (), "last": ("upscore", 63, 32, 18)},
     56_954_261, 21_424_487_968, _VOC.format("48.0")),
]  # fmt: skip

for _name, _settings, _params, _macs, _accuracy in _VARIANTS:
    register(
        # with 100 pixels around it, even a single pixel has a score
        Facts(_name, "fcn", 2015, _PAPER, _params, _macs, (3, 500, 500), 21, 1, _accuracy, "segment"),
        **_settings,  # type: ignore[arg-type]
    )(FCN)


def dilate(stage: nn.Sequential, before: int, after: int) -> nn.Sequential:
    """Replace the stride of a stage of bottlenecks by dilation: `before` in the first block, `after` in the others.

    The weights stay as they are; the stage computes the same values as with its stride, and those between them.
    Returns the same stage.
    """
    for number, block in enumerate(stage):
        if not isinstance(block, Bottleneck):
            raise NetError(f"only stages of bottlenecks can be dilated, got a {type(block).__name__}")
        for layer in block.modules():
            if isinstance(layer, nn.Conv2d):
                layer.stride = (1, 1)
                if layer.kernel_size == (3, 3):
                    layer.dilation = layer.padding = (before if number == 0 else after,) * 2
            elif isinstance(layer, PadShortcut):
                layer.stride = 1
    return stage


class DilatedResNet(ResNet):
    """A ResNet up to its last stage, with a map 8 times smaller than the picture."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, stages: Sequence[int], in_channels: int, stride_on: str) -> None:
        planes = (64, 128, 256, 512)
        super().__init__("bottleneck", stages, planes, classes=1, in_channels=in_channels, stride_on=stride_on)
        del self.avgpool, self.dropout, self.fc
        dilate(self.layer3, 1, 2)
        dilate(self.layer4, 2, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(B, C, H, W) -> the maps of stage 3 and stage 4, (B, 1024, H/8, W/8) and (B, 2048, H/8, W/8)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        third = self.layer3(self.layer2(self.layer1(x)))
        return third, self.layer4(third)


def _scorer(channels: int, classes: int, dropout: float) -> nn.Sequential:
    between = channels // 4
    return nn.Sequential(*conv_bn(channels, between, relu=nn.ReLU), nn.Dropout(dropout), nn.Conv2d(between, classes, 1))


class FCNResNet(nn.Module):
    """Dilated ResNet, two convolutions, and bilinear interpolation to the size of the picture.

    Args:
        auxiliary: score the map of stage 3, too; in training the net then puts out WithAuxiliaries, weight 0.5.
        stride_on: "3x3" as torchvision, or "1x1"; see `resnet.convolutions`.
    """

    head = "classifier.4"

    def __init__(
        self,
        stages: Sequence[int],
        *,
        classes: int,
        in_channels: int,
        auxiliary: bool = False,
        dropout: float = 0.1,
        stride_on: str = "3x3",
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        self.backbone = DilatedResNet(stages, in_channels, stride_on)
        self.classifier = _scorer(2048, classes, dropout)
        self.aux_classifier = _scorer(1024, classes, dropout) if auxiliary else None
        self.aux_heads = ("aux_classifier.4",) if auxiliary else ()
        he_init(self.classifier)
        if self.aux_classifier is not None:
            he_init(self.aux_classifier)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 512, H/8, W/8): what the last convolution reads."""
        check_input(x, self.backbone.conv1.in_channels)
        return self.classifier[:4](self.backbone(x)[1])

    def forward(self, x: Tensor) -> Tensor | WithAuxiliaries:
        """(B, in_channels, H, W) -> logits (B, classes, H, W)."""
        check_input(x, self.backbone.conv1.in_channels)
        third, fourth = self.backbone(x)
        logits = _enlarged(self.classifier(fourth), x)
        if self.training and self.aux_classifier is not None:
            return WithAuxiliaries(logits, (_enlarged(self.aux_classifier(third), x),), weight=0.5)
        return logits


def _enlarged(scores: Tensor, picture: Tensor) -> Tensor:
    return F.interpolate(scores, size=picture.shape[2:], mode="bilinear", align_corners=False)


_FORM = "Long et al. 2015, arXiv:1411.4038 (torchvision's form)"
_COCO = "COCO val2017, VOC classes, mean IU {} % (torchvision weights)"

for _name, _stages, _params, _macs, _accuracy in (
    ("fcn_resnet50", (3, 4, 6, 3), 32_957_013, 142_725_772_800, "60.5"),
    ("fcn_resnet101", (3, 4, 23, 3), 51_949_141, 222_746_867_200, "63.7"),
):
    _facts = Facts(
        _name, "fcn_resnet", 2015, _FORM, _params, _macs, (3, 520, 520), 21, 32, _COCO.format(_accuracy), "segment"
    )
    register(_facts, stages=_stages)(FCNResNet)
