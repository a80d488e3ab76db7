"""The twin: one set of weights, the distances of pairs, and the contrastive loss of the paper."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from neocog import nets
from neocog.errors import NetError
from neocog.nets.siamese import contrastive_loss


@pytest.mark.parametrize("trunk", ["lenet5", "cifar_resnet20", "mlp", "tdnn"])
def test_any_trunk(trunk: str) -> None:
    torch.manual_seed(0)
    known = nets.facts(trunk)
    net = nets.build("siamese", trunk=trunk, dimensions=5, in_channels=known.input[0], input_size=known.input[-1])
    x = nets.example(net, 3)
    assert x.shape[1:] == known.input
    assert net.eval()(x).shape == (3, 5)
    assert net.trunk.spec["name"] == trunk
    with torch.device("meta"):
        again = nets.build(**net.spec)
    again.load_state_dict(net.state_dict(), strict=True, assign=True)
    assert torch.equal(again.eval()(x), net(x))


def test_distances_are_those_of_the_embeddings() -> None:
    torch.manual_seed(0)
    net = nets.build("siamese").double().eval()
    a, b = torch.randn(2, 4, 1, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(net.compare(a, b), (net(a) - net(b)).square().sum(1).sqrt())
    torch.testing.assert_close(net.compare(a, b), net.compare(b, a))
    near = net.compare(a, a)
    assert not near.any()
    near.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())
    lengths = nets.build("siamese", normalise=True).double()(a).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), min_size=1, max_size=8), st.floats(0.1, 2))
def test_contrastive_loss_is_the_papers(pairs: list[tuple[float, bool]], margin: float) -> None:
    distance = torch.tensor([pair[0] for pair in pairs], dtype=torch.float64)
    same = torch.tensor([pair[1] for pair in pairs])
    total = 0.0
    for d, together in pairs:
        y = 0 if together else 1
        total += (1 - y) * d**2 / 2 + y * max(0, margin - d) ** 2 / 2
    assert contrastive_loss(distance, same, margin).item() == pytest.approx(total / len(pairs), abs=1e-12)


def test_pairs_beyond_the_margin_are_left_alone() -> None:
    distance = torch.tensor([0.5, 2.0, 0.5], requires_grad=True)
    contrastive_loss(distance, torch.tensor([True, False, False])).backward()
    assert distance.grad.tolist() == pytest.approx([0.5 / 3, 0, -0.5 / 3])


def test_training_pulls_the_same_digits_together() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    chosen = (digits.target < 3).nonzero()[0][:90]
    pictures = torch.tensor(digits.images[chosen], dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target[chosen])
    net = nets.build("siamese", trunk="mlp", trunk_options={"hidden": [32]}, in_channels=1, input_size=8)
    left, right = torch.randint(0, 90, (2, 400))
    same = labels[left] == labels[right]

    def distances() -> torch.Tensor:
        return net.compare(pictures[left], pictures[right])

    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(100):
        optimizer.zero_grad()
        contrastive_loss(distances(), same).backward()
        optimizer.step()
    with torch.no_grad():
        assert distances()[same].mean() < 0.25 < 0.75 < distances()[~same].mean()


def test_wrong_values_are_named() -> None:
    with pytest.raises(NetError, match=r"must be a net that gives labels, got 'vae' \(vae\)"):
        nets.build("siamese", trunk="vae")
    with pytest.raises(NetError, match=r"unknown net 'lenet55' .did you mean 'lenet5'"):
        nets.build("siamese", trunk="lenet55")
    with pytest.raises(NetError, match="at least 16x16"):
        nets.build("siamese", input_size=8)
    net = nets.build("siamese")
    with pytest.raises(NetError, match="as many pictures on either side"):
        net.compare(torch.zeros(2, 1, 32, 32), torch.zeros(1, 1, 32, 32))
    with pytest.raises(NetError, match="one truth value per pair"):
        contrastive_loss(torch.zeros(3), torch.zeros(2))
    with pytest.raises(NetError, match="margin is a distance above 0, got 0"):
        contrastive_loss(torch.zeros(3), torch.zeros(3), 0)
