"""Parameters and MACs of a net, counted on the meta device by hooks, independently of the code under test."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def trainable(net: nn.Module) -> int:
    """Number of trainable parameters; one that is shared counts once."""
    return sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)


def multiply_adds(net: nn.Module, shape: tuple[int, int, int]) -> int:
    """MACs of all convolutions and linear layers for one picture of `shape`; the net must be on the meta device."""
    total = 0

    def count(layer: nn.Module, _: object, out: Tensor) -> None:
        nonlocal total
        total += layer.weight[0].numel() * out.numel()  # inputs of one output value, times output values

    hooks = [
        layer.register_forward_hook(count)
        for layer in net.modules()
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)
    ]
    with torch.no_grad():
        net.eval()(torch.empty(1, *shape, device="meta"))
    for hook in hooks:
        hook.remove()
    return total
