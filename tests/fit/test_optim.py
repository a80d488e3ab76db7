"""Optimizers: Muon against a singular value decomposition, groups, rates and penalties."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neocog import nets
from neocog.errors import UsageError
from neocog.fit.loop import penalise
from neocog.fit.optim import Muon, optimizers, orthogonalise, set_rates
from neocog.fit.recipes import recipe
from neocog.fit.state import State


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24)])
def test_orthogonalise_keeps_the_singular_vectors_and_levels_the_values(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    g = torch.randn(shape)
    out = orthogonalise(g, steps=5)
    u, _, v = torch.linalg.svd(g, full_matrices=False)
    values = torch.diag(u.T @ out @ v.T)
    off = u.T @ out @ v.T - torch.diag(values)
    assert off.abs().max() < 1e-3  # an odd polynomial of the matrix changes the values only
    assert values.min() > 0.3 and values.max() < 1.35  # Muon's coefficients do not converge to exactly 1


def test_muon_keeps_the_norm_and_goes_downhill() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(8, 3, 3, 3))
    target = torch.randn(8, 3, 3, 3)
    opt = Muon([weight], lr=0.05, momentum=0.6)
    losses = []
    for _ in range(30):
        direction = weight / weight.norm() - target / target.norm()
        loss = direction.square().sum()
        loss.backward()
        losses.append(loss.item())
        opt.step()
        opt.zero_grad()
    assert losses[-1] < 0.2 * losses[0]
    assert weight.norm().item() == pytest.approx(8**0.5, rel=0.2)


@pytest.mark.parametrize("name", ["fast", "standard", "quick", "paper-resnet"])
def test_every_trainable_parameter_is_in_one_group(name: str) -> None:
    net = nets.build("speednet")
    opts = optimizers(net, nets.head_of(net), recipe(name), 2000)
    found = [id(p) for opt in opts for group in opt.param_groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in net.parameters() if p.requires_grad)


def test_muon_turns_the_filters_of_a_head_and_adamw_what_puts_out_answers() -> None:
    from neocog.nets.trunk import Headed, Trunk
    from neocog.tasks.segment import Decoder

    trunk = Trunk(nets.build("placenet"))
    net = Headed(trunk, Decoder(trunk.channels, 9, 32))
    r = recipe("quick")
    adam, muon = optimizers(net, nets.head_of(net), r, r.batch_size)
    assert isinstance(adam, torch.optim.AdamW) and isinstance(muon, Muon)
    of = {id(p): opt for opt in (adam, muon) for group in opt.param_groups for p in group["params"]}
    assert of[id(net.answer.last.weight)] is adam and of[id(net.answer.last.bias)] is adam
    assert of[id(net.answer.mix[0].weight)] is muon and of[id(trunk.net.stem[0].weight)] is muon
    plain = nets.build("placenet")
    opts = optimizers(plain, nets.head_of(plain), r, r.batch_size)
    assert any(p is plain.linear.weight for group in opts[0].param_groups for p in group["params"])


def test_rates_follow_the_schedule_and_the_whitening_bias_freezes() -> None:
    net = nets.build("speednet")
    r = recipe("fast")
    opts = optimizers(net, nets.head_of(net), r, r.batch_size)
    assert set_rates(opts, r, 0.25) == 0.75
    rates = {g["until"]: g["lr"] / g["peak"] for o in opts for g in o.param_groups}
    assert rates == {0.375: pytest.approx(1 / 3), 1.0: 0.75}
    set_rates(opts, r, 0.5)
    assert not net.whiten.bias.requires_grad and net.linear.weight.requires_grad


def test_small_batches_get_smaller_rates_with_sgd_and_not_with_adamw() -> None:
    net = nets.build("lenet5")
    for optimizer, factor in (("sgd", 0.25), ("adamw", 1.0)):
        r = recipe("standard", optimizer=optimizer, batch_size=128)
        opt = optimizers(net, nets.head_of(net), r, 32)[0]
        assert opt.param_groups[0]["peak"] == pytest.approx(factor * r.lr)
    with pytest.raises(UsageError, match="unknown optimizer 'adam'"):
        optimizers(net, nets.head_of(net), recipe("standard", optimizer="adam"), 32)


def test_the_elastic_net_begins_at_its_epoch() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    r = recipe("standard", l1=0.1, l2=0.01, penalty_from=2)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    penalise(net, r, 1.9)
    assert all((p.grad == 0).all() for p in net.parameters())
    penalise(net, r, 2.0)
    w = net[0].weight.detach()
    torch.testing.assert_close(net[0].weight.grad, 0.1 * w.sign() + 0.01 * w)
    assert (net[0].bias.grad == 0).all() and (net[1].weight.grad == 0).all()


def test_averages() -> None:
    net = nets.build("lenet5")
    state = State(net, recipe("standard", ema=0.9, lookahead=0.5), 32)
    first = next(net.parameters())
    start = first.detach().clone()
    state.step = 10_000  # past the warm-up of the average
    with torch.no_grad():
        first.add_(1.0)
    state.update_averages()  # a multiple of 5: lookahead pulls half-way back
    torch.testing.assert_close(first.detach(), start + 0.5)
    torch.testing.assert_close(next(state.final_net.parameters()).detach(), start + 0.1)


@pytest.mark.parametrize("own_norm", [False, True])
def test_muon_moves_a_weight_of_zeros(own_norm: bool) -> None:
    weight = nn.Parameter(torch.zeros(8, 4))
    muon = Muon([{"params": [weight], "own_norm": own_norm}])
    weight.grad = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    slope = weight.grad.clone()
    muon.step()
    assert weight.isfinite().all() and (weight * slope).sum() < 0
    weight.grad = torch.zeros(8, 4)
    muon.step()
    assert weight.isfinite().all() and weight.norm() > 0
