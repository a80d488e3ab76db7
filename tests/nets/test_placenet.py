"""PlaceNet: maps that lie exactly over the picture, cell by cell."""

from __future__ import annotations

import pytest
import torch

from neocog import nets
from neocog.nets.trunk import Trunk


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96)])
def test_maps_lie_over_the_picture(height: int, width: int) -> None:
    trunk = Trunk(nets.build("placenet")).eval()
    maps = trunk.maps(torch.zeros(1, 3, height, width))
    assert {stride: tuple(m.shape[-2:]) for stride, m in maps.items()} == {
        stride: (height // stride, width // stride) for stride in (1, 2, 4, 8, 16)
    }


def test_a_cell_is_centred_on_its_pixels() -> None:
    """What a cell sees reaches equally far to both sides of its middle."""
    net = nets.build("placenet").eval()
    for p in net.parameters():
        p.data.abs_()  # so that nothing is cut off by ReLU
    trunk, x = Trunk(net), torch.ones(1, 3, 64, 64, requires_grad=True)
    trunk.maps(x)[4][0, :, 8, 8].sum().backward()
    seen = torch.nonzero(x.grad[0].abs().sum(0))  # type: ignore[index]
    assert ((seen.min(0).values + seen.max(0).values + 1).double() / 2).tolist() == [34.0, 34.0]  # cell 8 of stride 4
