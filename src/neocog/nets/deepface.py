"""DeepFace: Closing the Gap to Human-Level Performance in Face Verification. Taigman, Yang, Ranzato, Wolf, CVPR 2014.

Faces are aligned before they are shown, so that an eye is always at the same place, and three layers can do without
shared filters. Labeled Faces in the Wild: 97.00 % with one net, 97.35 % with several; people 97.53 %.

Output shapes of deepface; more than 95 % of the parameters are in the locally and fully connected layers:

                                           shape           parameters
    C1, 11x11                         B   32 142 142           11,648
    M2, max 3x3/2, ceil               B   32  71  71
    C3, 9x9                           B   16  63  63           41,488
    L4, locally connected 9x9         B   16  55  55       62,774,800
    L5, locally connected 7x7/2       B   16  25  25        7,850,000
    L6, locally connected 5x5         B   16  21  21        2,829,456
    F7, the representation            B 4096               28,905,472
    F8, people                        B 4030               16,510,910
"""

from __future__ import annotations

from torch import Tensor, nn

from ..records import Facts
from .layers import Classifier, check_dropout, check_shape
from .local import LocallyConnected2d
from .pooling import output_size
from .registry import register


class DeepFace(Classifier):
    """DeepFace as published, but for the normalisation of the representation, which follows training."""

    head = "f8"

    def __init__(self, *, classes: int, in_channels: int, input_size: int, dropout: float = 0.5) -> None:
        super().__init__()
        check_dropout(dropout)
        self.shape = (in_channels, input_size, input_size)
        side = output_size(output_size(input_size, 11), 3, 2, fit="ceil") - 8  # behind C3
        self.c1 = nn.Conv2d(in_channels, 32, 11)
        self.m2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.c3 = nn.Conv2d(32, 16, 9)
        self.l4 = LocallyConnected2d(16, 16, side, 9)
        self.l5 = LocallyConnected2d(16, 16, self.l4.output_size, 7, 2)
        self.l6 = LocallyConnected2d(16, 16, self.l5.output_size, 5)
        self.f7 = nn.Linear(16 * self.l6.output_size[0] ** 2, 4096)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.f8 = nn.Linear(4096, classes)
        for layer in self.modules():
            self.init_head(layer)

    @staticmethod
    def init_head(layer: nn.Module) -> None:
        """Draw weights from a normal distribution of deviation 0.01, and set biases to 0.5, as in the paper."""
        if isinstance(layer, nn.Conv2d | nn.Linear | LocallyConnected2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, 0.5)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> the representation (B, 4096)."""
        check_shape(x, *self.shape)
        x = self.m2(self.relu(self.c1(x)))  # (B, 32, 71, 71)
        x = self.relu(self.c3(x))  # (B, 16, 63, 63)
        for layer in (self.l4, self.l5, self.l6):
            x = self.relu(layer(x))  # (B, 16, 21, 21) at last
        return self.dropout(self.relu(self.f7(x.flatten(1))))  # type: ignore[no-any-return]


_facts = Facts("deepface", "deepface", 2014, "Taigman et al. 2014, CVPR", 118_923_774, 517_624_448, (3, 152, 152), 4030,
               72, "LFW 97.00 % (one net), 97.35 % (several nets)")  # fmt: skip
register(_facts)(DeepFace)
