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
from .layers import Classifier
from .local import Maxout
from .registry import register

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


def check_shape(x: Tensor, *shape: int) -> None:
    """Raise NetError unless `x` has the shape (B, *shape); for nets that are tied to the size of their input."""
    if tuple(x.shape[1:]) != shape:
        raise NetError(
            f"this net was built for inputs of shape (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}; "
            "resize them, or build the net with in_channels=... and input_size=..."
        )


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
        if activation != "maxout" and activation not in _ACTIVATIONS:
            raise NetError(f"activation must be one of {', '.join(_ACTIVATIONS)} or maxout, got {activation!r}")
        if any(isinstance(units, bool) or not isinstance(units, int) or units < 1 for units in hidden):
            raise NetError(f"hidden is a list of numbers of units, such as [500, 150], got {hidden!r}")
        if not 0 <= dropout < 1:
            raise NetError(f"dropout is a probability of at least 0 and below 1, got {dropout!r}")
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
