"""U-Net: sizes of the unpadded net, seamless tiles, and the numbers of its variants."""

from __future__ import annotations

import pytest
import torch
from nets.counting import multiply_adds, trainable
from torch import nn

from neocog import nets
from neocog.errors import NetError


@pytest.mark.parametrize("tiles", [8, 9, 12, 32])
def test_unpadded_net_loses_92_pixels_on_each_side(tiles: int) -> None:
    side = 16 * tiles + 60
    with torch.device("meta"):
        net = nets.build("unet_original", input_size=side)
        assert net(torch.empty(1, 1, side, side + 32)).shape == (1, 2, side - 2 * 92, side + 32 - 2 * 92)


def test_tiles_fit_together_without_a_seam() -> None:
    """A tile's output is the same as that part of the output of the whole picture: no pixel from outside is missing."""
    torch.manual_seed(0)
    net = nets.build("unet_original", width=1 / 16, input_size=188).double().eval()
    x = torch.randn(1, 1, 252, 220, dtype=torch.float64)
    with torch.no_grad():
        whole = net(x)
        assert whole.shape == (1, 2, 68, 36)
        for top in (0, 16, 64):
            for left in (0, 32):
                tile = net(x[:, :, top : top + 188, left : left + 188])
                torch.testing.assert_close(tile, whole[:, :, top : top + 4, left : left + 4])


def test_sizes_that_do_not_tile_are_refused_with_the_next_one() -> None:
    with torch.device("meta"):
        net = nets.build("unet_original")
        for height, width, near in ((573, 572, 572), (572, 580, 572), (512, 512, 508), (188, 60, 188)):
            with pytest.raises(NetError, match=rf"got {height}x{width}; cut or mirror them to {near}, or choose unet"):
                net(torch.empty(1, 1, height, width))
        with pytest.raises(NetError, match=r"got 256x256; cut or mirror them to 252"):
            nets.build("unet_original", input_size=256)


@pytest.mark.parametrize(
    ("name", "settings", "params", "macs"),
    [
        ("unet_original", {"classes": 1}, 31_030_593, 150_418_789_632),
        ("unet_keras", {}, 31_031_685, None),
        ("unet", {"in_channels": 1, "classes": 1}, 31_036_481, None),
    ],
)
def test_numbers_of_variants(name: str, settings: dict[str, int], params: int, macs: int | None) -> None:
    with torch.device("meta"):
        net = nets.build(name, **settings)
    assert trainable(net) == params
    if macs:
        assert multiply_adds(net, nets.facts(name).input) == macs


def test_original_has_23_convolutions() -> None:
    with torch.device("meta"):
        net = nets.build("unet_original")
    convs = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convs) == 23
    assert sum(layer.bias.numel() for layer in convs) == 6_850


@pytest.mark.parametrize("name", ["unet", "unet_keras"])
def test_padded_nets_keep_any_size(name: str) -> None:
    net = nets.build(name, width=1 / 16).eval()
    channels, classes = nets.facts(name).input[0], nets.facts(name).classes
    for height, width in ((16, 16), (37, 53), (64, 31)):
        assert net(torch.randn(1, channels, height, width)).shape == (1, classes, height, width)
    with pytest.raises(NetError, match="at least 16x16, got 16x15"):
        net(torch.randn(1, channels, 16, 15))


@pytest.mark.parametrize("name", ["unet_original", "unet", "unet_keras"])
def test_weights_start_as_the_paper_says(name: str) -> None:
    """N(0, 2 / N), N = inputs of one output value."""
    torch.manual_seed(0)
    net = nets.build(name)
    down, up = net.down[3][0], net.up[1].convs[0]
    assert down.weight.std().item() == pytest.approx((2 / (9 * down.in_channels)) ** 0.5, rel=0.01)
    assert up.weight.std().item() == pytest.approx((2 / (9 * up.in_channels)) ** 0.5, rel=0.01)
    larger = next(layer for layer in net.up[0].up.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d))
    inputs = 1024 * (1 if isinstance(larger, nn.ConvTranspose2d) else 4)
    assert larger.weight.std().item() == pytest.approx((2 / inputs) ** 0.5, rel=0.01)


def test_dropout_stands_at_the_end_of_the_way_down() -> None:
    torch.manual_seed(0)
    net = nets.build("unet_original", width=1 / 16, input_size=188)
    assert net.dropout.p == 0.5 and nets.build("unet", width=1 / 16).dropout.p == 0
    x = torch.randn(1, 1, 188, 188)
    with torch.no_grad():
        assert not torch.equal(net(x), net(x))
