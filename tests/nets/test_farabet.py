"""Farabet's multiscale net: its pyramid, its normalisation, and how far it sees."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from neocog import nets
from neocog.nets.farabet import laplacian, local_norm, table


def test_bands_add_up_to_the_picture() -> None:
    x = torch.rand(2, 3, 21, 34)
    bands = laplacian(x)
    assert [tuple(b.shape[2:]) for b in bands] == [(21, 34), (11, 17), (6, 9)]
    whole = bands[-1]
    for band in reversed(bands[:-1]):
        whole = band + F.interpolate(whole, band.shape[2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(whole, x)


def test_neighbourhoods_have_mean_0_and_deviation_1() -> None:
    x = 5 + 3 * torch.randn(1, 2, 60, 60)
    y = local_norm(x)
    assert y.mean().abs() < 0.05 and abs(y.std() - 1) < 0.1
    torch.testing.assert_close(local_norm(7 + 2 * x), y, atol=1e-3, rtol=1e-3)


def test_connections_are_drawn_once_and_for_all() -> None:
    rows = table(64, 16, 8, 2)
    assert rows == table(64, 16, 8, 2) and rows != table(64, 16, 8, 3)
    assert all(len(set(row)) == 8 and max(row) < 16 for row in rows)


def test_a_feature_of_the_finest_scale_sees_46_pixels() -> None:
    net = nets.build("farabet", input_size=120).eval()
    x = torch.randn(1, 3, 120, 120, requires_grad=True)
    stages = net.stage3(net.stage2(net.stage1(x)))
    stages[0, :, 15, 15].sum().backward()
    assert x.grad is not None
    rows, columns = x.grad.abs().sum((0, 1)).nonzero().T
    assert rows.max() - rows.min() + 1 <= 46 and columns.max() - columns.min() + 1 <= 46
    # a pooling passes on one of its four pixels, so the outermost may be unused
    assert rows.max() - rows.min() + 1 >= 42


def test_all_scales_share_their_filters() -> None:
    net = nets.build("farabet", classes=3)
    assert sum(p.numel() for p in net.parameters()) == 434_062 - 5 * 769
    assert net.forward_features(torch.randn(2, 3, 24, 32)).shape == (2, 768, 6, 8)
    assert nets.build("farabet", in_channels=1)(torch.randn(1, 1, 24, 32)).shape == (1, 8, 24, 32)
