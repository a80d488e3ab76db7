"""ZFNet. Zeiler and Fergus 2013: Visualizing and Understanding Convolutional Networks, arXiv:1311.2901.

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

from ..records import Facts
from .alexnet import Convolution, FiveConvolutions
from .registry import IMAGENET, register

_PAPER = "Zeiler and Fergus 2013, arXiv:1311.2901"

# name, widths of conv3, conv4 and conv5, parameters, MACs, published accuracy
_VARIANTS = [
    ("zfnet", (384, 384, 256), 62_357_608, 1_168_032_896, "83.5 %"),
    ("zfnet_wide", (512, 1024, 512), 107_627_624, 2_476_704_896, "84.0 %"),
]

for _name, _widths, _params, _macs, _accuracy in _VARIANTS:
    _accuracy = f"ImageNet top-5 {_accuracy} (paper, 1 net)"
    register(
        Facts(_name, "zfnet", 2013, _PAPER, _params, _macs, **IMAGENET, smallest=63, accuracy=_accuracy),
        convolutions=(Convolution(96, 7, 2, 1), Convolution(256, 5, 2, 0), *(Convolution(w, 3, 1, 1) for w in _widths)),
        norm_first=False,
        ceil=2,
        bias=0.0,  # as the paper says
    )(FiveConvolutions)
