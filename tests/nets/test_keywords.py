"""TC-ResNet and the nets on waves: the sizes that the papers print, and that both learn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neocog import nets
from neocog.errors import NetError


@pytest.mark.parametrize(
    ("name", "thousands", "megaflops"),
    [("tc_resnet8", 66, 3.0), ("tc_resnet14", 137, 6.1), ("tc_resnet8_1.5", 145, 6.6), ("tc_resnet14_1.5", 305, 13.4)],
)
def test_tc_resnet_has_the_papers_sizes(name: str, thousands: int, megaflops: float) -> None:
    net = nets.build(name)
    running = sum(
        b.numel() for m in net.modules() if isinstance(m, nn.BatchNorm1d) for b in (m.running_mean, m.running_var)
    )  # type: ignore[union-attr]
    assert round((sum(p.numel() for p in net.parameters()) + running) / 1000) == thousands
    assert round(2 * nets.facts(name).macs / 1e6, 1) == megaflops


@pytest.mark.parametrize(
    ("name", "millions"), [("wave_m3", 0.2), ("wave_m5", 0.6), ("wave_m11", 1.8), ("wave_m18", 3.7)]
)
def test_nets_on_waves_have_the_papers_sizes(name: str, millions: float) -> None:
    assert round(nets.facts(name).params / 1e6, 1) == millions  # of M5 the paper cuts 0.56 to 0.5


def test_time_is_a_quarter_after_each_group_and_any_length_is_read() -> None:
    net = nets.build("wave_m11", classes=3, times=0.125).eval()
    assert net.layers(torch.zeros(1, 1, 32_000)).shape == (1, 64, 32)  # type: ignore[operator]
    assert net(torch.zeros(2, 1, 321)).shape == (2, 3)
    assert nets.build("tc_resnet8", in_channels=5)(torch.zeros(2, 5, 33)).shape == (2, 12)
    for name, wrong in (("tc_resnet8", torch.zeros(1, 39, 98)), ("wave_m3", torch.zeros(1, 2, 32_000))):
        with pytest.raises(NetError, match=r"expected sounds of shape \(B, (40|1), at least"):
            nets.build(name)(wrong)
