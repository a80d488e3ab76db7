"""SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation. Badrinarayanan, Kendall, Cipolla
2015, arXiv:1511.00561.

The 13 convolutions of VGG-16 with BN, and 13 more on the way back up, where each unpooling puts the values where the
maxima were found on the way down. In place of feature maps only those places are kept.

CamVid, 11 classes: mean intersection over union 60.1 % (the paper's table 3, 140,000 iterations).

Output shapes for 3 x 360 x 480. Pooling rounds up: 45 rows become 23, and the unpooling makes 45 of them again.

    conv1_1, 1_2, pool1       B   64  180  240      upsample5, conv5_3_D to 5_1_D    B  512   23   30
    conv2_1, 2_2, pool2       B  128   90  120      upsample4, conv4_3_D to 4_1_D    B  256   45   60
    conv3_1 to 3_3, pool3     B  256   45   60      upsample3, conv3_3_D to 3_1_D    B  128   90  120
    conv4_1 to 4_3, pool4     B  512   23   30      upsample2, conv2_2_D, 2_1_D      B   64  180  240
    conv5_1 to 5_3, pool5     B  512   12   15      upsample1, conv1_2_D             B   64  360  480
                                                    conv1_1_D                        B   12  360  480
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..records import Facts
from .deconvnet import decode, encode
from .fcn import VGG16, scaled, vgg16_layers
from .layers import Classifier, check_input, he_init, named
from .registry import register


class ScoringConv2d(nn.Conv2d):
    """A 3x3 convolution that scores classes and can be remade for other classes."""

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__(in_channels, classes, 3, padding=1)

    def with_classes(self, classes: int) -> ScoringConv2d:
        with torch.device(self.weight.device):
            return ScoringConv2d(self.in_channels, classes).to(self.weight.dtype)


class SegNet(Classifier):
    """Encoder, decoder with the encoder's pooling places, and a 3x3 convolution that scores the classes.

    Args:
        width: factor for the number of channels.
    """

    head = "conv1_1_D"

    def __init__(self, *, classes: int, in_channels: int, width: float = 1.0) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.encoder = named(vgg16_layers(in_channels, width, norm=True, switches=True)[0])
        layers: dict[str, nn.Module] = {}
        channels = scaled(512, width)
        for number in (5, 4, 3, 2, 1):
            layers[f"upsample{number}"] = nn.MaxUnpool2d(2)
            convolutions = len(VGG16[number - 1])
            for index in range(convolutions, 0, -1):
                if number == index == 1:
                    break  # that is the head
                # the last layer of a stage has as many channels as the stage above
                out = scaled(VGG16[number - 1 if index > 1 else number - 2][-1], width)
                name = f"{number}_{index}_D"
                layers[f"conv{name}"] = nn.Conv2d(channels, out, 3, padding=1)
                layers[f"bn{name}"] = nn.BatchNorm2d(out)
                layers[f"relu{name}"] = nn.ReLU(inplace=True)
                channels = out
        self.decoder = named(layers)
        self.conv1_1_D = ScoringConv2d(channels, classes)
        he_init(self)  # the paper's choice, too

    @staticmethod
    def example(spec: dict[str, int], batch: int) -> Tensor:
        """Return noise with the sides of CamVid's pictures, 3 : 4; input_size is the width."""
        width = spec["input_size"]
        return torch.randn(batch, spec["in_channels"], max(1, width * 3 // 4), width)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 64, H, W): what the last convolution reads."""
        check_input(x, self.in_channels)
        x, switches = encode(self.encoder, x)  # (B, 512, H / 32, W / 32)
        return decode(self.decoder, x, switches)


register(
    Facts("segnet", "segnet", 2015, "Badrinarayanan et al. 2015, arXiv:1511.00561", 29_449_932, 106_811_965_440,
          (3, 360, 480), 12, 1, "CamVid mean IU 60.1 % (paper)", "segment")
)(SegNet)  # fmt: skip
