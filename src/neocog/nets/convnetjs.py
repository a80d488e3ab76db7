"""ConvNetJS's net for CIFAR-10, which its page trained in the browser; its layers can be chosen. Karpathy 2014.

Output shapes for 3 x 32 x 32, each convolution followed by a rectifier:

    conv1, 5x5, pool1, maximum 2x2/2    B  16  16  16
    conv2, 5x5, pool2                   B  20   8   8
    conv3, 5x5, pool3                   B  20   4   4
    classifier                          B  10
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .layers import Classifier, check_input, he_init
from .registry import register

_LAYERS = ((16, 5, 1), (20, 5, 1), (20, 5, 1))


class ConvNetJS(Classifier):
    """Convolutions with rectifiers and pooling in between, and one linear layer on the last map.

    Args:
        layers: for each convolution its filters, the side of its window (odd), and 1 where 2x2 pooling follows, else 0.
    """

    head = "classifier"

    def __init__(
        self, layers: Sequence[Sequence[int]] = _LAYERS, *, classes: int, in_channels: int, input_size: int
    ) -> None:
        super().__init__()
        self.in_channels, self.input_size, before, side = in_channels, input_size, in_channels, input_size
        self.features = nn.Sequential()
        for number, (filters, size, pool) in enumerate(layers, start=1):
            if filters < 1 or size < 1 or size % 2 == 0:
                raise NetError(f"layer {number}: expected filters and an odd window, got {filters} of {size}x{size}")
            self.features.add_module(f"conv{number}", nn.Conv2d(before, filters, size, padding=size // 2))
            self.features.add_module(f"relu{number}", nn.ReLU(inplace=True))
            if pool:
                self.features.add_module(f"pool{number}", nn.MaxPool2d(2))
            before, side = filters, side // 2 if pool else side
        if side < 1:
            raise NetError(f"pictures of {input_size}x{input_size} are too small for so much pooling; leave some out")
        self.classifier = nn.Linear(before * side**2, classes)
        he_init(self)

    @staticmethod
    def smallest_input(options: dict[str, Any]) -> int:
        """Each pooling halves the map."""
        return 2 ** sum(bool(pool) for _, _, pool in options.get("layers", _LAYERS))  # type: ignore[no-any-return]

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 320) for 32 x 32."""
        check_input(x, self.in_channels, side=self.input_size)
        return self.features(x).flatten(1)  # type: ignore[no-any-return]


_PAGE = "Karpathy 2014, ConvNetJS, cs.stanford.edu/people/karpathy/convnetjs/demo/cifar10.html"
register(Facts("convnetjs", "convnetjs", 2014, _PAGE, 22_466, 3_920_000, (3, 32, 32), 10, smallest=8))(ConvNetJS)
