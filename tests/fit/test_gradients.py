"""Gradients of convolutions: those of autograd, for every shape; and nothing else is touched."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from neocog import nets
from neocog.fit.device import Device, choose
from neocog.fit.gradients import FasterGradients, side_by_side


def gradients(net: nn.Module, x: Tensor, device: Device) -> list[Tensor]:
    net.zero_grad()
    x = x.clone().requires_grad_()
    with device.training():
        out = net(x)
    out.float().square().sum().backward()
    return [x.grad, *(p.grad for p in net.parameters() if p.grad is not None)]  # type: ignore[list-item]


@given(
    batch=st.integers(2, 11),
    ins=st.integers(1, 4),
    outs=st.integers(1, 4),
    height=st.integers(1, 9),
    width=st.integers(1, 8),
    size=st.sampled_from((3, 5, 7)),
    last=st.booleans(),
)
def test_gradients_are_those_of_autograd(
    batch: int, ins: int, outs: int, height: int, width: int, size: int, last: bool
) -> None:
    g = torch.Generator().manual_seed(0)
    layout = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(batch, ins, height, width, generator=g, dtype=torch.float64).contiguous(memory_format=layout)
    w = torch.randn(outs, ins, size, size, generator=g, dtype=torch.float64).contiguous(memory_format=layout)
    found = []
    for mode in (False, True):
        leaves = x.clone().requires_grad_(), w.clone().requires_grad_()
        with Device("cpu", side_by_side=mode).training():
            out = F.conv2d(*leaves, padding=size // 2)
        assert (out.grad_fn.name() == "_ConvolutionBackward") == mode  # type: ignore[union-attr]
        (out * torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)).sum().backward()
        found.append((out.detach(), leaves[0].grad, leaves[1].grad))
    for plain, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 2))
def test_maps_lie_side_by_side_with_zeros_between_them(batch: int, count: int, margin: int) -> None:
    maps = torch.arange(1, 1 + batch * 2 * 3 * 4.0).view(batch, 2, 3, 4)
    wide = side_by_side(maps, count, margin)
    assert wide.shape == (-(-batch // count), 2, 3, count * (4 + margin))
    for i, one in enumerate(maps):
        left = i % count * (4 + margin)
        assert torch.equal(wide[i // count, :, :, left : left + 4], one)
    assert wide.sum() == maps.sum()  # all else is zero


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 4, 1),
        nn.Conv2d(2, 4, 3),
        nn.Conv2d(2, 4, 3, padding=1, stride=2),
        nn.Conv2d(2, 4, 3, padding=2, dilation=2),
        nn.Conv2d(2, 4, 3, padding=1, groups=2),
        nn.Conv2d(2, 4, (3, 5), padding=(1, 2)),
        nn.Conv2d(2, 4, 3, padding="same"),
        nn.Conv2d(2, 4, 2, padding=1),
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"),
    ],
    ids=str,
)
def test_other_convolutions_are_left_alone(layer: nn.Module) -> None:
    x = torch.randn(3, 2, 6, 6)
    plain = gradients(layer, x, Device("cpu"))
    ours = gradients(layer, x, Device("cpu", side_by_side=True))
    assert all(torch.equal(a, b) for a, b in zip(plain, ours, strict=True))


def test_frozen_filters_large_maps_and_evaluation_are_left_alone() -> None:
    x, w = torch.randn(2, 3, 7, 7), torch.randn(4, 3, 3, 3)
    with FasterGradients():
        assert F.conv2d(x.requires_grad_(), w, padding=1).grad_fn.name() == "ConvolutionBackward0"  # type: ignore[union-attr]
        w.requires_grad_()
        large = F.conv2d(torch.randn(2, 3, 9, 9), w, padding=1)
        assert large.grad_fn.name() == "ConvolutionBackward0"  # type: ignore[union-attr]
        with torch.no_grad():
            assert F.conv2d(x, w, padding=1).grad_fn is None
        assert F.conv2d(x, w, padding=1).grad_fn.name() == "_ConvolutionBackward"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["speednet", "cifar_resnet20"])
def test_a_net_in_bfloat16_learns_the_same(name: str) -> None:
    torch.manual_seed(0)
    net = nets.build(name).train()
    x = torch.randn(12, 3, 32, 32)
    plain = gradients(net, x, Device("cpu", bf16=True, channels_last=True))
    ours = gradients(net, x, Device("cpu", bf16=True, channels_last=True, side_by_side=True))
    for a, b in zip(plain, ours, strict=True):
        assert a.dtype == b.dtype
        assert (a - b).norm() <= 0.02 * a.norm() + 1e-6


@given(
    channels=st.integers(2, 20),
    height=st.integers(5, 12),
    width=st.integers(5, 12),
    size=st.sampled_from((1, 3, 5)),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 2),
    trained=st.tuples(st.booleans(), st.booleans()).filter(any),
)
def test_gradients_of_depthwise_convolutions_are_those_of_float64(
    channels: int, height: int, width: int, size: int, stride: int, dilation: int, padding: int,
    trained: tuple[bool, bool],
) -> None:  # fmt: skip
    if dilation * (size - 1) >= min(height, width) + 2 * padding:
        return
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, channels, height, width, generator=g).bfloat16().float()
    w = torch.randn(channels, 1, size, size, generator=g).bfloat16().float()
    found = []
    for device, dtype in ((Device("cpu"), torch.float64), (Device("cpu", bf16=True, depthwise=True), torch.float32)):
        leaves = [t.to(dtype).requires_grad_(wanted) for t, wanted in zip((x, w), trained, strict=True)]
        with device.training():
            out = F.conv2d(*leaves, stride=stride, padding=padding, dilation=dilation, groups=channels)
        if device.depthwise and trained[1]:
            assert out.grad_fn.name() == "_ConvolutionBackward" and out.dtype == torch.bfloat16  # type: ignore[union-attr]
        weight = torch.linspace(-1, 1, out.numel()).view_as(out).bfloat16()
        (out * weight.to(out.dtype)).sum().backward()
        found.append([leaf.grad for leaf in leaves])
    for exact, ours in zip(*found, strict=True):
        assert (exact is None) == (ours is None)
        if exact is not None:
            assert (exact - ours).norm() <= 0.01 * exact.norm() + 1e-6


def test_only_depthwise_convolutions_without_bias_in_bfloat16_are_touched() -> None:
    x = torch.randn(2, 4, 16, 16)
    for layer, device, ours in (
        (nn.Conv2d(4, 4, 3, groups=4, bias=False), Device("cpu", bf16=True, depthwise=True), True),
        (nn.Conv2d(4, 4, 3, groups=4, bias=False), Device("cpu", depthwise=True), False),
        (nn.Conv2d(4, 4, 3, groups=4, bias=False), Device("cpu", bf16=True), False),
        (nn.Conv2d(4, 4, 3, groups=4), Device("cpu", bf16=True, depthwise=True), False),
        (nn.Conv2d(4, 8, 3, groups=4, bias=False), Device("cpu", bf16=True, depthwise=True), False),
        (nn.Conv2d(4, 4, 3, groups=2, bias=False), Device("cpu", bf16=True, depthwise=True), False),
        (nn.Conv2d(4, 4, 3, groups=4, bias=False, padding="same"), Device("cpu", bf16=True, depthwise=True), False),
    ):
        with device.training():
            assert ("_Convolution" in layer(x).grad_fn.name()) == ours, (layer, device)


def test_only_training_measures_whether_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neocog.fit.device.pays", lambda dtype, machine: True)
    monkeypatch.setattr("neocog.fit.device.depthwise_pays", lambda machine: True)
    assert not choose("cpu").side_by_side and choose("cpu", training=True).side_by_side
    assert Device.from_dict(choose("cpu", training=True).as_dict()).side_by_side  # so that resuming does the same
    low = choose("cpu", training=True, precision="bfloat16")
    assert low.depthwise and not choose("cpu", precision="bfloat16").depthwise
    assert not choose("cpu", training=True, precision="float32").depthwise
