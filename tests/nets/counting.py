"""Parameters and MACs of a net, counted on the meta device by hooks, independently of the code under test."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from neocog.nets.local import LocallyConnected2d


def trainable(net: nn.Module) -> int:
    """Number of trainable parameters; one that is shared counts once."""
    return sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)


def multiply_adds(net: nn.Module, shape: Sequence[int] | Tensor, training: bool = False) -> int:
    """MACs of all convolutions and linear layers for one picture of `shape`; the net must be on the meta device."""
    total = 0

    def count(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal total
        if isinstance(layer, LocallyConnected2d):
            total += layer.weight.numel()  # every weight meets one input
        elif isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            total += layer.weight[0].numel() * given[0].numel()  # outputs of one input value, times input values
        else:
            total += layer.weight[0].numel() * out.numel()  # inputs of one output value, times output values

    kinds = (
        nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
        LocallyConnected2d,
    )  # fmt: skip
    hooks = [layer.register_forward_hook(count) for layer in net.modules() if isinstance(layer, kinds)]
    # PyTorch normalises shapes by a hundred steps of Python, and they stay what they are
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(_BatchNorm, "forward", lambda layer, x: x)
        net.train(training)(shape if isinstance(shape, Tensor) else torch.empty(1, *shape, device="meta"))
    for hook in hooks:
        hook.remove()
    return total
