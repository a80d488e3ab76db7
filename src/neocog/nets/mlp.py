"""A multi-layer perceptron: every unit reads every pixel. Rumelhart, Hinton, Williams, Nature 323, 1986.

What the lectures compare convolution with: one such unit has 3,072 weights for a picture of 3 x 32 x 32, and 120,000
for one of 3 x 200 x 200. LeCun et al. 1998 report 4.7 % test error on MNIST with one hidden layer of 300 units.

Output shapes of mlp, with one hidden layer of 100 units (308,310 parameters):

    pixels           B 3072
    hidden.fc1       B  100
    output           B   10
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .layers import Classifier, check_choice, check_dropout, check_shape
from .local import Maxout
from .registry import register

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


class MLP(Classifier):
    """Fully connected layers only.

    Args:
        hidden: units of each hidden layer; with none of them the net is a linear classifier.
        activation: "relu", "tanh", "sigmoid" or "maxout" (with `pieces` linear functions for each unit).
        dropout: probability to drop a unit of a hidden layer.
    """

    head = "output"

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int,
        input_size: int,
        hidden: Sequence[int] = (100,),
        activation: str = "relu",
        pieces: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice("activation", activation, (*_ACTIVATIONS, "maxout"))
        if any(isinstance(units, bool) or not isinstance(units, int) or units < 1 for units in hidden):
            raise NetError(f"hidden is a list of numbers of units, such as [500, 150], got {hidden!r}")
        check_dropout(dropout)
        self.shape = (in_channels, input_size, input_size)
        units = [in_channels * input_size**2, *hidden]
        self.hidden = nn.Sequential(nn.Flatten())
        for number, (before, after) in enumerate(zip(units, hidden, strict=False), start=1):
            if activation == "maxout":
                self.hidden.add_module(f"fc{number}", Maxout(before, after, pieces))
            else:
                self.hidden.add_module(f"fc{number}", nn.Linear(before, after))
                self.hidden.add_module(f"act{number}", _ACTIVATIONS[activation]())
            if dropout:
                self.hidden.add_module(f"drop{number}", nn.Dropout(dropout))
        self.output = nn.Linear(units[-1], classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, hidden[-1])."""
        check_shape(x, *self.shape)
        return self.hidden(x)  # type: ignore[no-any-return]


_facts = Facts("mlp", "mlp", 1986, "Rumelhart et al. 1986, Nature 323", 308_310, 308_200, (3, 32, 32), 10, smallest=1)
register(_facts)(MLP)
