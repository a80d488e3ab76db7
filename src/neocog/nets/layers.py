"""Layers that several families share and that PyTorch lacks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import NetError


def check_input(x: Tensor, channels: int, smallest: int = 1, side: int = 0) -> None:
    """Raise NetError unless `x` is (B, channels, H, W) with H and W of at least `smallest`, or of exactly `side`."""
    if x.dim() != 4 or x.shape[1] != channels:
        raise NetError(
            f"expected pictures of shape (B, {channels}, H, W), got {tuple(x.shape)}; "
            "build the net with in_channels=... to match the pictures"
        )
    if x.shape[2] < smallest or x.shape[3] < smallest:
        raise NetError(
            f"expected pictures of at least {smallest}x{smallest}, got {x.shape[2]}x{x.shape[3]}; "
            "resize them, or build the net with input_size=..."
        )
    if side and tuple(x.shape[2:]) != (side, side):
        raise NetError(
            f"this net was built for pictures of {side}x{side}, got {x.shape[2]}x{x.shape[3]}; "
            f"resize them, or build it with input_size={x.shape[2]}"
        )


def check_shape(x: Tensor, *shape: int) -> None:
    """Raise NetError unless `x` has the shape (B, *shape); for nets that are tied to the size of their input."""
    if tuple(x.shape[1:]) != shape:
        raise NetError(
            f"this net was built for inputs of shape (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}; "
            "resize them, or build the net with in_channels=... and input_size=..."
        )


def check_dropout(dropout: float, option: str = "dropout") -> None:
    """Raise NetError unless `dropout`, the value of an option of that name, is a probability below 1."""
    if not 0 <= dropout < 1:
        raise NetError(f"{option} is a probability from 0 up to, not including, 1, got {dropout!r}")


def check_choice(option: str, value: object, known: Sequence[str]) -> None:
    """Raise NetError unless the value of an option is one of those `known`."""
    if value not in known:
        raise NetError(f"{option} must be {', '.join(map(repr, known[:-1]))} or {known[-1]!r}, got {value!r}")


class Classifier(nn.Module):
    """A net that ends in one layer, which scores classes: (B, in_channels, H, W) -> logits (B, classes).

    A subclass names that layer, `head`, and `forward_features` makes what it reads of the input. What subclasses do not
    say of their arguments: `classes` are outputs, `in_channels` and `input_size` channels and side of the pictures,
    `dropout` is the probability of dropping a feature before the head. What cannot be built is refused with a NetError.
    """

    head: str

    def forward_features(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule(self.head)(self.forward_features(x))  # type: ignore[no-any-return]


class WithAuxiliaries(NamedTuple):
    """What a net with auxiliary heads puts out in training; the loss is that of `logits` + `weight` x the others."""

    logits: Tensor
    auxiliaries: tuple[Tensor, ...]
    weight: float = 0.3


class WithAuxiliaryHeads(Classifier):
    """A classifier with auxiliary heads, if `auxiliary`: then in training it puts out WithAuxiliaries.

    Otherwise, and always in evaluation, it puts out the logits. A subclass has `run`: (B, C, H, W) -> what the last
    layer reads, and what the auxiliary heads read, by their names.
    """

    auxiliary: bool
    weight = 0.3  # Szegedy et al. 2014, section 5

    def run(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def forward_features(self, x: Tensor) -> Tensor:
        return self.run(x)[0]

    def forward(self, x: Tensor) -> Tensor | WithAuxiliaries:  # type: ignore[override]
        features, maps = self.run(x)
        logits: Tensor = self.get_submodule(self.head)(features)
        if not (self.training and self.auxiliary):
            return logits
        others = tuple(self.get_submodule(name)(read) for name, read in maps.items())
        return WithAuxiliaries(logits, others, self.weight)


def named(layers: Mapping[str, nn.Module]) -> nn.Sequential:
    """Return an nn.Sequential whose layers have names."""
    return nn.Sequential(OrderedDict(layers))


def conv_bn(
    channels: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1, relu: type[nn.Module] | None = None
) -> list[nn.Module]:
    """Return a convolution that keeps the size of the map, BN, and the activation if there is one."""
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out), *([relu(inplace=True)] if relu else [])]


def he_init(net: nn.Module) -> None:
    """Draw all convolution weights from N(0, 2 / (k k C_out)), and set biases to 0, BN to scale 1 and shift 0.

    He et al. 2015 (arXiv:1502.01852), the fan-out form. Linear layers keep PyTorch's initial values.
    """
    if any(parameter.is_meta for parameter in net.parameters()):
        return  # nothing to draw; saves half the time of building a net of 1202 layers without memory
    for layer in net.modules():
        if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def draw_small(layer: nn.Module) -> None:
    """Draw the weights of a convolution or a linear layer from N(0, 0.01^2), and set its biases to 0; others stay.

    Krizhevsky et al. 2012, section 5, and many Caffe models.
    """
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(layer.weight, std=0.01)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class PadShortcut(nn.Module):
    """Shortcut without parameters ("option A"): subsample by `stride` and append channels of zeros.

    (B, C, H, W) -> (B, channels, ceil(H / stride), ceil(W / stride)). With ``average=True`` each value is the mean of
    its stride x stride window instead of the window's corner (Huang et al. 2016).
    """

    def __init__(self, channels: int, stride: int = 1, average: bool = False) -> None:
        super().__init__()
        self.channels, self.stride, self.average = channels, stride, average

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            corners = x[:, :, :: self.stride, :: self.stride]
            # ceil_mode gives the size that a padded 3x3 convolution gives
            x = F.avg_pool2d(x, self.stride, ceil_mode=True) if self.average else corners
        return F.pad(x, (0, 0, 0, 0, 0, self.channels - x.shape[1]))

    def extra_repr(self) -> str:
        return f"channels={self.channels}, stride={self.stride}, average={self.average}"


class StochasticDepth(nn.Module):
    """Residual addition whose branch is dropped at random in training, with survival probability `survival`.

    form="paper" (Huang et al. 2016, arXiv:1603.09382): one draw for the whole batch; a dropped branch is not even
    computed, which saves its time; nothing is scaled in training, and in evaluation the branch is multiplied by
    `survival`. form="scaled": one draw for each picture, survivors are divided by `survival`, and evaluation leaves
    the branch alone (as torchvision's "row" mode).

    The paper's form leaves the parameters of a dropped branch without a gradient; a data-parallel wrapper needs
    ``find_unused_parameters=True``.
    """

    def __init__(self, survival: float, form: str = "paper") -> None:
        super().__init__()
        if not 0 < survival <= 1:
            raise NetError(f"stochastic_depth is a survival probability above 0 and up to 1, got {survival!r}")
        check_choice("stochastic_depth_form", form, ("paper", "scaled"))
        self.survival, self.form = survival, form

    def forward(self, shortcut: Tensor, branch: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return ``shortcut + branch(x)`` with the branch dropped or scaled; all (B, C, H, W)."""
        if self.survival == 1:
            return shortcut + branch(x)
        if self.form == "paper":
            if not self.training:
                return shortcut + self.survival * branch(x)
            # the draw is made on the CPU, so that a GPU is never waited for
            return shortcut + branch(x) if torch.rand((), device="cpu").item() < self.survival else shortcut
        if not self.training:
            return shortcut + branch(x)
        keep = torch.empty(len(x), 1, 1, 1, dtype=shortcut.dtype, device=x.device).bernoulli_(self.survival)
        return shortcut + branch(x) * (keep / self.survival)

    def extra_repr(self) -> str:
        return f"survival={self.survival:g}, form={self.form!r}"


def multiple_of_8(channels: float) -> int:
    """Return the nearest multiple of 8, but never less than nine tenths of `channels`: how MobileNets are widened."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def survival_rule(blocks: int, last: float) -> list[float]:
    """Return p_l = 1 - l / L (1 - p_L) for l = 1 .. L: the linear decay rule of Huang et al. 2016."""
    return [1 - block / blocks * (1 - last) for block in range(1, blocks + 1)]


class PartialConv2d(nn.Module):
    """Convolution in which every output map reads only the input maps that a connection table names.

    `table` says for each output map which input maps it reads; filters are square, stride 1, no padding.

    The parameters are exactly the table's. Output maps that read equally many inputs are computed together, as one
    grouped convolution over gathered inputs, so no multiplication with a masked zero takes place. The gathering order
    is part of the state dict, so that a net built on the meta device is whole when it is loaded with assign=True.
    """

    inputs: Tensor
    outputs: Tensor | None

    def __init__(self, in_channels: int, table: Sequence[Sequence[int]], kernel_size: int) -> None:
        super().__init__()
        if any(not row or not set(row) <= set(range(in_channels)) for row in table):
            raise NetError(f"every row of a connection table names inputs from 0 to {in_channels - 1}, got {table!r}")
        self.in_channels, self.out_channels = in_channels, len(table)
        order = sorted(range(len(table)), key=lambda row: len(table[row]))  # stable, so equal rows keep their order
        self.convs = nn.ModuleList()
        for fan, same in groupby(order, key=lambda row: len(table[row])):
            maps = len(list(same))
            self.convs.append(nn.Conv2d(fan * maps, maps, kernel_size, groups=maps))
        inputs = [index for row in order for index in table[row]]
        self.register_buffer("inputs", torch.tensor(inputs))
        outputs = sorted(range(len(table)), key=order.__getitem__)
        back = None if outputs == sorted(outputs) else torch.tensor(outputs)
        self.register_buffer("outputs", back)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, len(table), H - k + 1, W - k + 1)."""
        gathered = x.index_select(1, self.inputs).split([conv.in_channels for conv in self.convs], dim=1)
        maps = torch.cat([conv(part) for conv, part in zip(self.convs, gathered, strict=True)], dim=1)
        return maps if self.outputs is None else maps.index_select(1, self.outputs)


class Subsampling(nn.Module):
    """Trainable subsampling: the sum of each size x size window, times a coefficient, plus a bias, one pair per map.

    (B, C, H, W) -> (B, C, H // size, W // size). LeCun et al. 1998, section II.B.
    """

    def __init__(self, channels: int, size: int = 2) -> None:
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, 1 / self.size**2)  # starts as the mean
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        total = F.avg_pool2d(x, self.size) * self.size**2  # ONNX knows no other divisor
        return total * self.weight[:, None, None] + self.bias[:, None, None]

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, size={self.size}"


class LocalResponseNorm(nn.Module):
    """Local response normalisation across channels, (B, C, ...) -> the same shape.

    form="paper" (Krizhevsky et al. 2012, section 3.3): ``b_i = a_i / (k + alpha * sum_j a_j^2)^beta`` over the `size`
    channels around i. form="mean" divides alpha by `size` (Caffe and PyTorch), so that alpha=1e-4 there is 2e-5 here.
    """

    def __init__(
        self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0, form: str = "paper"
    ) -> None:
        super().__init__()
        check_choice("form", form, ("paper", "mean"))
        self.size, self.alpha, self.beta, self.k, self.form = size, alpha, beta, k, form

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.alpha * self.size if self.form == "paper" else self.alpha
        return F.local_response_norm(x, self.size, alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha:g}, beta={self.beta:g}, k={self.k:g}, form={self.form!r}"
