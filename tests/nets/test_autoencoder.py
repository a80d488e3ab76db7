"""Autoencoders: shapes at any size, the lower bound against Monte Carlo and closed forms, and that they learn."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

from neocog import nets
from neocog.errors import NetError
from neocog.nets.autoencoder import VariationalAutoencoder, kl_to_standard_normal


def tiny_vae(likelihood: str = "bernoulli") -> VariationalAutoencoder:
    torch.manual_seed(0)
    made = nets.build("vae", input_size=3, hidden=6, latent=2, likelihood=likelihood)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(5)  # far from the prior, so that no term is near 0
    return made.double().eval()


@given(st.integers(8, 40))
def test_the_decoder_gives_back_every_size(size: int) -> None:
    with torch.device("meta"):
        for name in ("conv_autoencoder", "vae_conv"):
            net = nets.build(name, input_size=size, widths=[2, 3, 4])
            x = torch.empty(2, 3, size, size)
            assert net(x).shape == x.shape
            assert net.forward_features(x).shape == (2, 128)


def test_codes_go_both_ways() -> None:
    net = nets.build("conv_autoencoder", in_channels=1, input_size=28, code=10).eval()
    x = torch.randn(2, 1, 28, 28)
    code = net.encode(x)
    assert code.shape == (2, 10)
    assert torch.equal(net.decode(code), net(x))
    vae = nets.build("vae").eval()
    mean, logvar = vae.encode(x)
    assert mean.shape == logvar.shape == (2, 20)
    assert torch.equal(vae.decode(mean), vae(x))
    assert vae(x).min() >= 0 and vae(x).max() <= 1


def test_divergence_is_that_of_torch() -> None:
    torch.manual_seed(0)
    mean, logvar = torch.randn(2, 5, 3, dtype=torch.float64)
    prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = kl_divergence(Normal(mean, (logvar / 2).exp()), prior).sum(1)
    torch.testing.assert_close(kl_to_standard_normal(mean, logvar), expected)
    assert not kl_to_standard_normal(torch.zeros(3, 4), torch.zeros(3, 4)).any()


def log_likelihood(net: VariationalAutoencoder, x: Tensor, z: Tensor) -> Tensor:
    """log p(x|z) of pictures (B, ...) for z (B, draws, latent), by torch's distributions."""
    mean = net.decode(z.flatten(0, 1)).reshape(*z.shape[:2], -1)
    known = Bernoulli(mean) if net.likelihood == "bernoulli" else Normal(mean, torch.ones_like(mean))
    return known.log_prob(x.flatten(1)[:, None]).sum(2)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_loss_is_minus_the_lower_bound(likelihood: str) -> None:
    net = tiny_vae(likelihood)
    x = torch.rand(4, 1, 3, 3, dtype=torch.float64).round()
    with torch.no_grad():
        loss = torch.stack([net.loss(x, draws=100) for _ in range(20)])
        mean, logvar = net.encode(x)
        q = Normal(mean[:, None], (logvar / 2).exp()[:, None])
        z = q.sample(torch.Size([20_000])).transpose(0, 2)[0]  # (B, draws, latent)
        prior = Normal(torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
        # E_q[log p(x|z) + log p(z) - log q(z|x)], without any closed form
        terms = log_likelihood(net, x, z) + prior.log_prob(z).sum(2) - q.log_prob(z).sum(2)
        error = math.hypot(loss.std() / 20**0.5, (terms.std(1) / 20_000**0.5).norm() / 4)
        assert loss.mean().item() == pytest.approx(-terms.mean().item(), abs=5 * error)
        assert error < 0.05
        # log p(x) by a dense grid over z, and the bound lies below it
        line = torch.linspace(-7, 7, 141, dtype=torch.float64)
        grid = torch.cartesian_prod(line, line)
        area = math.log((line[1] - line[0]).item()) * 2
        inside = log_likelihood(net, x, grid.expand(4, -1, 2)) + prior.log_prob(grid).sum(1)
        evidence = (inside.logsumexp(1) + area).mean()
        assert -loss.mean() < evidence
        # importance sampling closes the gap
        assert (terms.logsumexp(1) - math.log(20_000)).mean().item() == pytest.approx(evidence.item(), abs=0.05)


def test_loss_in_closed_form_where_the_decoder_sees_nothing() -> None:
    net = tiny_vae()
    with torch.no_grad():
        net.decoder[2].weight.zero_()
        x = torch.rand(4, 1, 3, 3, dtype=torch.float64)
        shown = net.decoder[2].bias.sigmoid().reshape(1, 1, 3, 3).expand_as(x)
        surprise = F.binary_cross_entropy(shown, x, reduction="sum") / 4
        expected = surprise + kl_to_standard_normal(*net.encode(x)).mean()
        torch.testing.assert_close(net.loss(x), expected)


def test_training_draws_and_evaluation_does_not() -> None:
    net = tiny_vae()
    x = torch.rand(1, 1, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(net(x), net(x))
        net.train()
        assert not torch.equal(net(x), net(x))
        mean, logvar = net.encode(x)
        seen = torch.cat([net(x) for _ in range(4000)])
        z = mean + (logvar / 2).exp() * torch.randn(4000, 2, dtype=torch.float64)
        torch.testing.assert_close(seen.mean(0), net.decode(z).mean(0), atol=0.04, rtol=0)


def test_new_pictures() -> None:
    torch.manual_seed(0)
    for name in ("vae", "vae_conv"):
        net = nets.build(name, input_size=16)
        made = net.sample(3)
        assert made.shape == (3, nets.facts(name).input[0], 16, 16)
        assert made.min() >= 0 and made.max() <= 1
        assert not torch.equal(made[0], made[1])


def squares(number: int) -> Tensor:
    """Pictures of 8x8 with one bright square."""
    x = torch.zeros(number, 1, 8, 8)
    for picture, place in enumerate(torch.randint(0, 6, (number, 2)).tolist()):
        x[picture, 0, place[0] : place[0] + 3, place[1] : place[1] + 3] = 1
    return x


@pytest.mark.parametrize("name", ["conv_autoencoder", "vae", "vae_conv"])
def test_learns_to_give_back_what_it_sees(name: str) -> None:
    torch.manual_seed(0)
    net = nets.build(name, in_channels=1, input_size=8, **({} if name == "vae" else {"widths": [8, 16]}))
    x = squares(64)

    def loss() -> Tensor:
        return F.mse_loss(net(x), x) if name == "conv_autoencoder" else net.loss(x)

    first = loss().item()
    optimizer = torch.optim.Adam(net.parameters(), 0.005)
    for _ in range(100):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < first / 2
    with torch.no_grad():
        assert F.mse_loss(net.eval()(x), x) < 0.6 * x.var()


def test_wrong_values_are_named() -> None:
    net = tiny_vae()
    with pytest.raises(NetError, match=r"pixels from 0 to 1, got -1 to 1; .*likelihood='gaussian'"):
        net.loss(torch.tensor([-1.0, 1.0, 0] * 3, dtype=torch.float64).reshape(1, 1, 3, 3))
    with pytest.raises(NetError, match="'bernoulli' or 'gaussian', got 'poisson'"):
        nets.build("vae", likelihood="poisson")
    with pytest.raises(NetError, match="widths is a list of numbers of maps"):
        nets.build("vae_conv", widths=[])
    with pytest.raises(NetError, match="4 halvings need pictures of at least 16, got 8"):
        nets.build("conv_autoencoder", widths=[2, 2, 2, 2], input_size=8)
    with pytest.raises(NetError, match=r"\(B, 3, 32, 32\), got \(1, 1, 28, 28\)"):
        nets.build("conv_autoencoder")(torch.zeros(1, 1, 28, 28))
