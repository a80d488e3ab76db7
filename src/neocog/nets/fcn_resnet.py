"""FCN on dilated ResNets, as torchvision has them. Long et al. 2015 (arXiv:1411.4038), He et al. 2015, and the dilation
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

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .layers import PadShortcut, WithAuxiliaries, check_dropout, check_input, conv_bn, he_init
from .registry import register
from .resnet import Bottleneck, ResNet


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
        stages: blocks in each stage of the ResNet.
        auxiliary: score the map of stage 3, too; in training the net then puts out WithAuxiliaries, weight 0.5.
        dropout: probability of dropping a value before the last convolution.
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


_PAPER = "Long et al. 2015, arXiv:1411.4038 (torchvision's form)"
_COCO = "COCO val2017, VOC classes, mean IU {} % (torchvision weights)"

for _name, _stages, _params, _macs, _accuracy in (
    ("fcn_resnet50", (3, 4, 6, 3), 32_957_013, 142_725_772_800, "60.5"),
    ("fcn_resnet101", (3, 4, 23, 3), 51_949_141, 222_746_867_200, "63.7"),
):
    _facts = Facts(
        _name, "fcn_resnet", 2015, _PAPER, _params, _macs, (3, 520, 520), 21, 32, _COCO.format(_accuracy), "segment"
    )
    register(_facts, stages=_stages)(FCNResNet)
