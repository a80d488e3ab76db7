"""AlexNet. Krizhevsky, Sutskever, Hinton 2012, NIPS 25: ImageNet Classification with Deep Convolutional Networks.

One net, ten crops: ImageNet validation error 40.7 % (top-1) and 18.2 % (top-5); seven nets, two of them pre-trained on
22,000 classes: 36.7 % and 15.4 %. The two groups of conv2, conv4 and conv5 are the two GPUs on which it was trained.

Output shapes of alexnet_original for 3 x 227 x 227 (the paper prints 224, which does not fit a stride of 4 without
padding); in brackets those of alexnet, the one tower of Krizhevsky 2014 (arXiv:1404.5997), for 3 x 224 x 224:

    conv1, 11x11/4              B   96  55  55    [ 64]
    norm1, pool1, 3x3/2         B   96  27  27    [ 64, no norm]
    conv2, 5x5, 2 groups        B  256  27  27    [192, 1 group]
    norm2, pool2, 3x3/2         B  256  13  13    [192, no norm]
    conv3, 3x3                  B  384  13  13
    conv4, 3x3, 2 groups        B  384  13  13    [256, 1 group]
    conv5, 3x3, 2 groups        B  256  13  13    [256, 1 group]
    pool5, 3x3/2                B  256   6   6
    fc6, fc7                    B 4096
    fc8                         B 1000

ZFNet. Zeiler and Fergus 2013: Visualizing and Understanding Convolutional Networks, arXiv:1311.2901.

AlexNet with smaller filters and steps in front, found by looking at what the first layers had learned. One net:
ImageNet validation error 16.5 % (top-5); with 512, 1024 and 512 maps in conv3, conv4 and conv5 ("wide"), 16.0 %.

Output shapes for 3 x 224 x 224:

    conv1, 7x7/2                B   96  110  110
    pool1, 3x3/2, norm1         B   96   55   55
    conv2, 5x5/2                B  256   26   26
    pool2, 3x3/2, norm2         B  256   13   13
    conv3, 3x3                  B  384   13   13    [ 512 in the wide one]
    conv4, 3x3                  B  384   13   13    [1024]
    conv5, 3x3                  B  256   13   13    [ 512]
    pool5, 3x3/2                B  256    6    6    [ 512]
    fc6, fc7                    B 4096
    fc8                         B 1000

The first two poolings count a last window that does not fit, which gives the sizes of the paper's figure 3. The paper
normalises contrast "across feature maps" without its constants; these are AlexNet's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .layers import Classifier, LocalResponseNorm, check_choice, check_dropout, check_input, draw_small, he_init, named
from .registry import IMAGENET, register


class AlexNet(Classifier):
    """One tower without normalisation, as in torchvision, whose names the state dict has.

    The map is averaged (or repeated) to 6 x 6 before the fully connected layers, so pictures of any size from 63 fit.

    Args:
        padding: of the first convolution; 0 gives the geometry of TF-Slim's alexnet_v2.
        dropout: probability of dropping an input of the first two fully connected layers.
    """

    head = "classifier.6"

    def __init__(self, *, classes: int, in_channels: int, padding: int = 2, dropout: float = 0.5) -> None:
        super().__init__()
        if isinstance(padding, bool) or not isinstance(padding, int) or not 0 <= padding <= 5:
            raise NetError(f"padding must be a whole number from 0 to 5 (half of the 11x11 filter), got {padding!r}")
        check_dropout(dropout)
        self.in_channels = in_channels
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 64, 11, 4, padding),  # (B, 64, 55, 55) for 224 x 224
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),  # (B, 64, 27, 27)
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),  # (B, 192, 13, 13)
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),  # (B, 256, 6, 6)
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, classes),
        )
        he_init(self)

    @staticmethod
    def smallest_input(options: dict[str, object]) -> int | None:
        """The last pooling needs a 3x3 map: 67 pixels, of which the padding gives some."""
        padding = options.get("padding", 2)
        return 67 - 2 * padding if isinstance(padding, int) else None

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 4096)."""
        check_input(x, self.in_channels)
        x = self.avgpool(self.features(x)).flatten(1)
        for layer in list(self.classifier)[:-1]:
            x = layer(x)
        return x


class Convolution(NamedTuple):
    """One convolution of a FiveConvolutions net."""

    channels: int
    kernel: int
    stride: int
    padding: int
    groups: int = 1


_NORMS: dict[str, dict[str, Any]] = {
    "paper": {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0, "form": "paper"},
    "caffe": {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 1.0, "form": "mean"},
}


def five_convolutions(
    convolutions: Sequence[Convolution], in_channels: int, norm_first: bool, ceil: int, norm: str
) -> dict[str, nn.Module]:
    """Return five convolutions with ReLU, and maxima after the first, second and fifth; see FiveConvolutions."""
    check_choice("norm", norm, (*_NORMS, "none"))
    layers: dict[str, nn.Module] = {}
    channels = in_channels
    for number, (out, kernel, stride, padding, groups) in enumerate(convolutions, start=1):
        layers[f"conv{number}"] = nn.Conv2d(channels, out, kernel, stride, padding, groups=groups)
        layers[f"relu{number}"] = nn.ReLU(inplace=True)
        channels = out
        if number in (1, 2):
            pool: tuple[str, nn.Module] = (f"pool{number}", nn.MaxPool2d(3, 2, ceil_mode=ceil >= number))
            normed = [(f"norm{number}", LocalResponseNorm(**_NORMS[norm]))] if norm != "none" else []
            layers |= dict([*normed, pool] if norm_first else [pool, *normed])
    return {**layers, "pool5": nn.MaxPool2d(3, 2, ceil_mode=ceil >= 3)}


class FiveConvolutions(Classifier):
    """Five convolutions, three overlapping maxima of 3x3/2 (after the first, second and fifth), three linear layers.

    The plan of AlexNet, CaffeNet and ZFNet. The layers have the names that the Caffe releases gave them.

    Args:
        convolutions: five of them, ReLU behind each.
        norm_first: normalise before pooling (AlexNet) or after it (CaffeNet, ZFNet).
        ceil: of the first so many poolings a last window that does not fit counts.
        bias: initial bias of conv2, conv4, conv5, fc6 and fc7; the paper set it to 1 to keep the ReLUs alive.
        norm: "paper" is local response normalisation with k = 2, n = 5, alpha = 1e-4, beta = 0.75; "caffe" has k = 1
            and divides alpha by n; "none" leaves it out.
        dropout: probability of dropping an output of fc6 and of fc7.
    """

    head = "classifier.fc8"
    init_head = staticmethod(draw_small)

    def __init__(
        self,
        convolutions: Sequence[Convolution],
        norm_first: bool,
        ceil: int,
        bias: float,
        *,
        classes: int,
        in_channels: int,
        input_size: int,
        norm: str = "paper",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        self.in_channels, self.input_size = in_channels, input_size
        self.features = named(five_convolutions(convolutions, in_channels, norm_first, ceil, norm))
        side = input_size
        for number, (_, kernel, stride, padding, _) in enumerate(convolutions, start=1):
            side = (side + 2 * padding - kernel) // stride + 1
            if number in (1, 2, 5):
                side = (side - 3 + (ceil >= number)) // 2 + 1
        if side < 1:
            raise NetError(f"input_size={input_size} leaves no map for the last pooling; choose a larger one")
        layers: dict[str, nn.Module] = {}
        for number, inputs in ((6, convolutions[-1].channels * side**2), (7, 4096)):
            layers[f"fc{number}"] = nn.Linear(inputs, 4096)
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
            layers[f"drop{number}"] = nn.Dropout(dropout)
        self.classifier = named({**layers, "fc8": nn.Linear(4096, classes)})
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                self.init_head(layer)
                if name.endswith(("conv2", "conv4", "conv5", "fc6", "fc7")):
                    nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 4096)."""
        check_input(x, self.in_channels, side=self.input_size)
        x = self.features(x).flatten(1)
        for layer in list(self.classifier)[:-1]:
            x = layer(x)
        return x


def _tower(first: int, widths: Sequence[int], groups: Sequence[int] = (1, 1, 1, 1, 1)) -> tuple[Convolution, ...]:
    """Return AlexNet's five convolutions with `first` and then `widths` channels."""
    return (
        Convolution(first, 11, 4, 0, groups[0]),
        Convolution(widths[0], 5, 1, 2, groups[1]),
        *(Convolution(width, 3, 1, 1, group) for width, group in zip(widths[1:], groups[2:], strict=True)),
    )


_TWO_GPUS = _tower(96, (256, 384, 384, 256), (1, 2, 1, 2, 2))
_PAPER = "Krizhevsky et al. 2012, NIPS 25"
_TRICK = "Krizhevsky 2014, arXiv:1404.5997"

register(
    Facts("alexnet", "alexnet", 2014, _TRICK, 61_100_840, 714_188_480, (3, 224, 224), 1000, smallest=63,
          accuracy="ImageNet top-1 56.52 %, top-5 79.07 % (torchvision weights, 1 crop)")
)(AlexNet)  # fmt: skip

# name, year, paper, convolutions, norm before pool, norm, initial bias, parameters, MACs, side, published accuracy
_VARIANTS = [
    ("alexnet_original", 2012, _PAPER, _TWO_GPUS, True, "paper", 1.0, 60_965_224, 724_406_816, 227,
     "ImageNet top-1 59.3 %, top-5 81.8 % (paper, 10 crops)"),
    ("caffenet", 2013, "Caffe's reference model, after " + _PAPER, _TWO_GPUS, False, "caffe", 1.0, 60_965_224,
     724_406_816, 227, "ImageNet top-1 57.4 %, top-5 80.4 % (Caffe release, 1 crop)"),
    # the listing of the Stanford lectures (CS231n), which has no groups
    ("alexnet_slides", 2012, _PAPER, _tower(96, (256, 384, 384, 256)), False, "paper", 1.0, 62_378_344, 1_135_256_096,
     227, ""),
    # TensorFlow-Slim's: one tower, 384 channels in conv4, and a 5x5 map before fc6
    ("alexnet_v2", 2014, _TRICK, _tower(64, (192, 384, 384, 256)), True, "none", 0.1, 50_303_912, 736_555_776, 224, ""),
]  # fmt: skip

for _name, _year, _paper, _convs, _first, _norm, _bias, _params, _macs, _size, _accuracy in _VARIANTS:
    _facts = Facts(_name, "alexnet", _year, _paper, _params, _macs, (3, _size, _size), 1000, 67, _accuracy)
    register(_facts, convolutions=_convs, norm_first=_first, ceil=0, bias=_bias, norm=_norm)(FiveConvolutions)

_ZEILER = "Zeiler and Fergus 2013, arXiv:1311.2901"
# the bias is 0, as the paper says; name, widths of conv3, conv4 and conv5, parameters, MACs, published accuracy
_ZFNETS = [
    ("zfnet", (384, 384, 256), 62_357_608, 1_168_032_896, "ImageNet top-5 83.5 % (paper, 1 net)"),
    ("zfnet_wide", (512, 1024, 512), 107_627_624, 2_476_704_896, "ImageNet top-5 84.0 % (paper, 1 net)"),
]

for _name, _widths, _params, _macs, _accuracy in _ZFNETS:
    _facts = Facts(_name, "zfnet", 2013, _ZEILER, _params, _macs, **IMAGENET, smallest=63, accuracy=_accuracy)
    _convs = (Convolution(96, 7, 2, 1), Convolution(256, 5, 2, 0), *(Convolution(w, 3, 1, 1) for w in _widths))
    register(_facts, convolutions=_convs, norm_first=False, ceil=2, bias=0.0)(FiveConvolutions)
