"""LeNet as published: its connection table, its numbers, its output codes, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from neocog import nets
from neocog.errors import NetError
from neocog.nets.lenet import C3_TABLE, H3_TABLE, LENET4_TABLE, RadialBasis, SquashingTanh, output_codes


def test_connections_of_lenet5_are_the_papers() -> None:
    net = nets.build("lenet5_original")
    counts = net.connections()
    assert counts == {"c1": 122304, "s2": 5880, "c3": 151600, "s4": 2000, "c5": 48120, "f6": 10164, "output": 840}
    assert sum(counts.values()) == 340_908
    per_layer = [
        sum(parameter.numel() for parameter in layer.parameters())
        for layer in (net.c1, net.s2, net.c3, net.s4, net.hidden.c5, net.hidden.f6, net.output)
    ]
    assert per_layer == [156, 12, 1516, 32, 48120, 10164, 0]


def test_connections_of_lenet1_are_the_papers() -> None:
    assert sum(nets.build("lenet1").connections().values()) == 98_442
    assert sum(map(len, H3_TABLE)) == 20


def test_lenet4_has_the_papers_layers_and_about_its_connections() -> None:
    net = nets.build("lenet4")
    assert (net.c1.out_channels, len(net.s2.weight), net.c3.out_channels, len(net.s4.weight)) == (4, 8, 16, 16)
    assert (net.hidden.c5.out_features, net.output.out_features) == (120, 10)
    assert sum(net.connections().values()) == 262_306  # "about 260,000"
    assert len(set(LENET4_TABLE)) == 16
    assert [sum(map_ in row for row in LENET4_TABLE) for map_ in range(8)] == [6] * 8


def test_subsampling_maps_of_lenet4_come_in_pairs() -> None:
    net, seen = nets.build("lenet4"), []
    net.c1.register_forward_hook(lambda layer, args, out: seen.append(out))
    net.s2.register_forward_hook(lambda layer, args, out: seen.append(args[0]))
    with torch.no_grad():
        net(torch.randn(2, 1, 32, 32))
    maps, pairs = seen
    assert torch.equal(pairs[:, ::2], SquashingTanh()(maps))
    assert torch.equal(pairs[:, 1::2], SquashingTanh()(maps))


def test_connection_table_has_the_papers_structure() -> None:
    assert [len(row) for row in C3_TABLE] == [3] * 6 + [4] * 9 + [6]
    assert len(set(C3_TABLE)) == 16  # every map of C3 sees another set, which breaks the symmetry
    assert [sum(map_ in row for row in C3_TABLE) for map_ in range(6)] == [10] * 6


def test_output_codes() -> None:
    digits = output_codes(10)
    assert digits.shape == (10, 84)
    assert set(digits.unique().tolist()) == {-1.0, 1.0}
    differing = (digits[:, None] != digits).sum(2)
    assert differing[~torch.eye(10, dtype=torch.bool)].min() >= 7
    one = digits[1].reshape(12, 7)
    assert (one[2:9, 3] == 1).all()  # the stroke of the 1
    many = output_codes(37)
    assert torch.equal(many, output_codes(37))
    assert ((many[:, None] != many).sum(2) + 84 * torch.eye(37)).min() >= 20


def test_output_is_minus_the_squared_distance_to_the_codes() -> None:
    layer = RadialBasis(10)
    x = torch.randn(4, 84)
    torch.testing.assert_close(layer(x), -torch.cdist(x, layer.codes).square())
    assert layer(layer.codes).argmax(1).tolist() == list(range(10))
    assert layer(layer.codes).diagonal().abs().max() == 0


def test_squashing_function_maps_one_to_one() -> None:
    out = SquashingTanh()(torch.tensor([-1.0, 0.0, 1.0, 100.0]))
    torch.testing.assert_close(out, torch.tensor([-1.0, 0.0, 1.0, 1.7159]), rtol=1e-4, atol=1e-4)


def test_other_sizes_and_channels() -> None:
    for name in nets.names("lenet"):
        for size in (16, 28, 33):
            net = nets.build(name, classes=4, in_channels=3, input_size=size)
            assert net(torch.zeros(2, 3, size, size)).shape == (2, 4)
    with pytest.raises(NetError, match=r"built for pictures of 33x33, got 40x40.*input_size=40"):
        net(torch.zeros(1, 3, 40, 40))
    with pytest.raises(NetError, match=r"\(B, 3, H, W\)"):
        net(torch.zeros(1, 1, 33, 33))


def test_options_of_the_modern_one() -> None:
    net = nets.build("lenet5", pool="average", activation="squash")
    assert isinstance(net.pool1, nn.AvgPool2d) and isinstance(net.act1, SquashingTanh)
    with pytest.raises(NetError, match="pool must be 'max' or 'average', got 'l2'"):
        nets.build("lenet5", pool="l2")
    caffe = nets.build("lenet_caffe")
    assert isinstance(caffe.act1, nn.Identity) and isinstance(caffe.hidden.act1, nn.ReLU)


@pytest.mark.parametrize("name", ["lenet5_original", "lenet1", "lenet4", "lenet5"])
def test_learns_real_digits(name: str) -> None:
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    size = nets.facts(name).input[1]
    small = torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    # the paper's range: background -0.1, ink 1.175
    x = nn.functional.interpolate(small, (size, size), mode="bilinear", align_corners=False) * 1.275 - 0.1
    y = torch.tensor(labels)
    order = torch.tensor(np.random.default_rng(0).permutation(len(y)))
    train, test = order[:1000], order[1000:]
    net = nets.build(name)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    accuracy = 0.0
    for _ in range(6):
        for batch in train[torch.randperm(len(train))].split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            accuracy = (net(x[test]).argmax(1) == y[test]).double().mean().item()
        if accuracy > 0.9:
            break
    assert accuracy > 0.9
