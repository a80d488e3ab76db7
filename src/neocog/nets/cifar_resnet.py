"""ResNet for pictures of 32x32. He et al. 2015, arXiv:1512.03385, section 4.2: 6n + 2 layers, shortcuts "A".

And with stochastic depth (Huang et al. 2016, arXiv:1603.09382: conv biases, averaging shortcuts, p_L = 0.5), and
ResNeXt-29 (Xie et al. 2017, arXiv:1611.05431). The pre-activation nets for 32x32 are in preact_resnet.py.

CIFAR-10 test accuracy: 20 layers 91.25 %, 32 92.49 %, 44 92.83 %, 56 93.03 %, 110 93.57 %, 1202 92.07 %;
with stochastic depth 110 94.75 %, 1202 95.09 %; ResNeXt-29 8x64d 96.35 %, 16x64d 96.42 %.

Output shapes for 3 x 32 x 32, n = (layers - 2) / 6:

    conv1, 3x3            B  16  32  32
    layer1, n blocks      B  16  32  32
    layer2, n blocks      B  32  16  16
    layer3, n blocks      B  64   8   8
    avgpool               B  64
    fc                    B  10

A bottleneck's stages (ResNeXt-29) put out 256, 512 and 1024 channels.
"""

from __future__ import annotations

from ..records import Facts
from .registry import CIFAR, register
from .resnet import SMALLEST, ResNet

_PAPER = "He et al. 2015, arXiv:1512.03385"
_DEPTH = "Huang et al. 2016, arXiv:1603.09382"
_NEXT = "Xie et al. 2017, arXiv:1611.05431"

_PLAIN: dict[str, object] = {"block": "basic", "planes": (16, 32, 64), "shortcut": "A"}
_DROPPED: dict[str, object] = {**_PLAIN, "shortcut": "average", "stochastic_depth": 0.5}
_BROAD: dict[str, object] = {"block": "bottleneck", "planes": (64, 128, 256), "shortcut": "B"}

# name, year, paper, blocks per stage, settings, parameters, MACs, published test accuracy on CIFAR-10
_VARIANTS = [
    ("cifar_resnet20", 2015, _PAPER, 3, _PLAIN, 269_722, 40_551_040, "91.25 %"),
    ("cifar_resnet32", 2015, _PAPER, 5, _PLAIN, 464_154, 68_862_592, "92.49 %"),
    ("cifar_resnet44", 2015, _PAPER, 7, _PLAIN, 658_586, 97_174_144, "92.83 %"),
    ("cifar_resnet56", 2015, _PAPER, 9, _PLAIN, 853_018, 125_485_696, "93.03 %"),
    ("cifar_resnet110", 2015, _PAPER, 18, _PLAIN, 1_727_962, 252_887_680, "93.57 %"),
    ("cifar_resnet1202", 2015, _PAPER, 200, _PLAIN, 19_421_274, 2_829_238_912, "92.07 %"),
    ("stochastic_depth_resnet110", 2016, _DEPTH, 18, {**_DROPPED, "conv_bias": True}, 1_732_010, 252_887_680,
     "94.75 %"),
    ("stochastic_depth_resnet1202", 2016, _DEPTH, 200, _DROPPED, 19_421_274, 2_829_238_912, "95.09 %"),
    ("resnext29_32x4d", 2017, _NEXT, 3, {**_BROAD, "groups": 32, "width": 4}, 4_775_754, 774_055_936, ""),
    ("resnext29_8x64d", 2017, _NEXT, 3, {**_BROAD, "groups": 8}, 34_426_698, 5_387_266_048, "96.35 %"),
    ("resnext29_16x64d", 2017, _NEXT, 3, {**_BROAD, "groups": 16}, 68_155_210, 10_688_866_304, "96.42 %"),
]  # fmt: skip

for _name, _year, _paper, _blocks, _settings, _params, _macs, _accuracy in _VARIANTS:
    _accuracy = f"CIFAR-10 {_accuracy}" if _accuracy else ""
    _facts = Facts(
        _name, "cifar_resnet", _year, _paper, _params, _macs, **CIFAR, smallest=SMALLEST["small"], accuracy=_accuracy
    )
    register(_facts, stages=(_blocks,) * 3, stem="small", **_settings)(ResNet)
