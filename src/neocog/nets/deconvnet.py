"""DeconvNet: Learning Deconvolution Network for Semantic Segmentation. Noh, Hong, Han 2015, arXiv:1505.04366.

VGG-16 with BN down to one 1x1 map, and its mirror image back up: unpooling puts each value where the maximum was found
on the way down ("switches"), transposed convolutions fill what is between.

PASCAL VOC 2012 test, mean intersection over union, one net on object proposals: 69.6 %, with a CRF 70.5 %.

Output shapes for 3 x 224 x 224:

    conv1_1, 1_2, pool1    B   64  112  112      fc6_deconv, 7x7               B  512    7    7
    conv2_1, 2_2, pool2    B  128   56   56      unpool5, deconv5_1 to 5_3     B  512   14   14
    conv3_1 to 3_3, pool3  B  256   28   28      unpool4, deconv4_1 to 4_3     B  256   28   28
    conv4_1 to 4_3, pool4  B  512   14   14      unpool3, deconv3_1 to 3_3     B  128   56   56
    conv5_1 to 5_3, pool5  B  512    7    7      unpool2, deconv2_1, 2_2       B   64  112  112
    fc6, 7x7               B 4096    1    1      unpool1, deconv1_1, 1_2       B   64  224  224
    fc7, 1x1               B 4096    1    1      score, 1x1                    B   21  224  224

SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation. Badrinarayanan, Kendall, Cipolla
2015, arXiv:1511.00561.

The 13 convolutions of VGG-16 with BN, and 13 more on the way back up. Of feature maps only the switches are kept.

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
from .fcn import VGG16, fc_layers, scaled, vgg16_layers
from .layers import Classifier, check_input, draw_small, he_init, named
from .registry import register

# For each pooling on the way down: the places of the maxima, (B, C, h, w), and the height and width before it.
Switches = list[tuple[Tensor, torch.Size]]


def encode(encoder: nn.Sequential, x: Tensor) -> tuple[Tensor, Switches]:
    """Return the last map and the switches of all poolings."""
    switches: Switches = []
    for layer in encoder:
        if isinstance(layer, nn.MaxPool2d):
            size = x.shape[2:]
            x, places = layer(x)
            switches.append((places, size))
        else:
            x = layer(x)
    return x, switches


def decode(decoder: nn.Sequential, x: Tensor, switches: Switches) -> Tensor:
    """Return the map after the last layer of `decoder`, whose unpoolings use up the switches from the end."""
    switches = list(switches)
    for layer in decoder:
        if isinstance(layer, nn.MaxUnpool2d):
            places, size = switches.pop()
            x = layer(x, places, output_size=[int(side) for side in size])  # numbers, also while it is traced
        else:
            x = layer(x)
    return x


class DeconvNet(Classifier):
    """Convolution network, two convolutions in place of the fully connected layers, deconvolution network.

    Args:
        input_size: side of the pictures; below 224, where the last map is smaller than 7x7, the filters of fc6 and
            fc6_deconv have the size of that map. Larger pictures, square or not, fit any net.
        width: factor for the number of channels.
    """

    head = "score"
    init_head = staticmethod(draw_small)  # as the authors draw the upper half of the net

    def __init__(self, *, classes: int, in_channels: int, input_size: int, width: float = 1.0) -> None:
        super().__init__()
        self.kernel_size = min(7, -(-input_size // 32))
        self.in_channels = in_channels
        self.encoder = named(vgg16_layers(in_channels, width, norm=True, switches=True)[0])
        channels, units = scaled(512, width), scaled(4096, width)
        middle = fc_layers(channels, units, self.kernel_size, dropout=0, norm=True)
        middle["fc6_deconv"] = nn.ConvTranspose2d(units, channels, self.kernel_size)
        middle["fc6_debn"] = nn.BatchNorm2d(channels)
        middle["fc6_derelu"] = nn.ReLU(inplace=True)
        self.middle = named(middle)
        layers: dict[str, nn.Module] = {}
        for number in (5, 4, 3, 2, 1):
            # PyTorch's own layer, because its windows do not overlap here, and it keeps the memory format
            layers[f"unpool{number}"] = nn.MaxUnpool2d(2)
            # as wide as the stage on the way down, but the last layer as the stage above
            above = VGG16[max(number - 2, 0)][-1]
            for index, wide in enumerate((*VGG16[number - 1][1:], above), start=1):
                out = scaled(wide, width)
                layers[f"deconv{number}_{index}"] = nn.ConvTranspose2d(channels, out, 3, padding=1)
                layers[f"debn{number}_{index}"] = nn.BatchNorm2d(out)
                layers[f"derelu{number}_{index}"] = nn.ReLU(inplace=True)
                channels = out
        self.decoder = named(layers)
        self.score = nn.Conv2d(channels, classes, 1)
        he_init(self)
        for layer in self.modules():
            if isinstance(layer, nn.ConvTranspose2d):
                self.init_head(layer)
        self.init_head(self.score)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 64, H, W): what the last convolution reads."""
        # the last map must not be smaller than the filters of fc6
        check_input(x, self.in_channels, 32 * (self.kernel_size - 1) + 1)
        x, switches = encode(self.encoder, x)  # (B, 512, H / 32, W / 32)
        return decode(self.decoder, self.middle(x), switches)


register(
    Facts("deconvnet", "deconvnet", 2015, "Noh et al. 2015, arXiv:1505.04366", 251_805_653, 32_745_979_904,
          (3, 224, 224), 21, 1, "PASCAL VOC 2012 test mean IU 69.6 % (paper)", "segment")
)(DeconvNet)  # fmt: skip


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

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 64, H, W): what the last convolution reads."""
        check_input(x, self.in_channels)
        x, switches = encode(self.encoder, x)  # (B, 512, H / 32, W / 32)
        return decode(self.decoder, x, switches)


register(
    Facts("segnet", "segnet", 2015, "Badrinarayanan et al. 2015, arXiv:1511.00561", 29_449_932, 106_811_965_440,
          (3, 360, 480), 12, 1, "CamVid mean IU 60.1 % (paper)", "segment")
)(SegNet)  # fmt: skip
