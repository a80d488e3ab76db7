"""Deep Q-network: Human-level control through deep reinforcement learning. Mnih et al., Nature 518, 2015.

And its predecessor, Playing Atari with Deep Reinforcement Learning (Mnih et al. 2013, arXiv:1312.5602).
Reads the last four frames of a game, grey and reduced to 84 x 84, and gives the value Q of each action.

Output shapes:

                          dqn_2015            dqn_2013
    frames             B  4  84  84        B  4  84  84
    conv1, 8x8/4       B 32  20  20        B 16  20  20
    conv2, 4x4/2       B 64   9   9        B 32   9   9
    conv3, 3x3         B 64   7   7        -
    fc                 B 512               B 256
    output             B actions           B actions
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..records import Facts
from .layers import check_shape
from .pooling import output_size
from .registry import register


class DQN(nn.Module):
    """Convolutions with large steps and no pooling, then one hidden layer.

    Args:
        layers: maps, kernel size and stride of each convolution.
        duelling: the value of what is seen, and what each action adds to it on average, by two hidden layers (Wang et
            al. 2016, Dueling Network Architectures for Deep Reinforcement Learning).
    """

    head = "output"

    def __init__(
        self,
        layers: Sequence[tuple[int, int, int]],
        hidden: int,
        *,
        classes: int,
        in_channels: int,
        input_size: int,
        duelling: bool = False,
    ) -> None:
        super().__init__()
        self.shape = (in_channels, input_size, input_size)
        self.features = nn.Sequential()
        maps, side = in_channels, input_size
        for number, (after, kernel, stride) in enumerate(layers, start=1):
            # PyTorch's initial weights are those of Torch 7, in which the authors' code is written
            self.features.add_module(f"conv{number}", nn.Conv2d(maps, after, kernel, stride))
            self.features.add_module(f"relu{number}", nn.ReLU())
            maps, side = after, output_size(side, kernel, stride)
        self.fc = nn.Linear(maps * side**2, hidden)
        self.relu = nn.ReLU()
        self.output = nn.Linear(hidden, classes)
        more = (nn.Linear(maps * side**2, hidden), nn.ReLU(), nn.Linear(hidden, 1)) if duelling else ()
        self.value = nn.Sequential(*more)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, hidden)."""
        return self.relu(self.fc(self._maps(x)))  # type: ignore[no-any-return]

    def _maps(self, x: Tensor) -> Tensor:
        check_shape(x, *self.shape)
        return self.features(x).flatten(1)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> the value of each action, (B, classes)."""
        if not len(self.value):
            return self.output(self.forward_features(x))  # type: ignore[no-any-return]
        maps = self._maps(x)
        each: Tensor = self.output(self.relu(self.fc(maps)))
        return each - each.mean(1, keepdim=True) + self.value(maps)  # type: ignore[no-any-return]


# name, convolutions, hidden units, year, paper, parameters, MACs, smallest input, published result
_VARIANTS: list[tuple[Any, ...]] = [
    ("dqn_2013", ((16, 8, 4), (32, 4, 2)), 256, 2013, "Mnih et al. 2013, arXiv:1312.5602", 677_172, 2_966_528, 20,
     "above a human expert in 3 of 7 Atari games"),
    ("dqn_2015", ((32, 8, 4), (64, 4, 2), (64, 3, 1)), 512, 2015, "Mnih et al. 2015, Nature 518", 1_686_180, 9_345_024,
     36, "above 75 % of the human score in 29 of 49 Atari games"),
]  # fmt: skip

for _name, _layers, _hidden, _year, _paper, _params, _macs, _least, _result in _VARIANTS:
    _facts = Facts(_name, "dqn", _year, _paper, _params, _macs, (4, 84, 84), 4, _least, _result, "play")
    register(_facts, layers=_layers, hidden=_hidden)(DQN)
