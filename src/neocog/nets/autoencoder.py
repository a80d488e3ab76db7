"""Autoencoders, which learn to give back what they read through a few numbers, and variational ones.

conv_autoencoder: three convolutions with step 2, a layer of 128 numbers, and the same backwards. After Masci et al.,
Stacked Convolutional Auto-Encoders, ICANN 2011, with steps in place of pooling; the sizes are this project's own.

vae: Auto-Encoding Variational Bayes. Kingma and Welling 2014, arXiv:1312.6114, with 500 hidden units and 20 latent
variables, for pictures with values from 0 to 1. vae_conv has the convolutions of conv_autoencoder instead.

Output shapes:

    conv_autoencoder                     vae                           vae_conv
    pixels         B   3  32  32         B   1  28  28                 B   3  32  32
    encoder        B 128   4   4         B 500                         B 128   4   4
    code           B 128                 mean, logvar: B 20 each       mean, logvar: B 128 each
    decoder        B   3  32  32         B   1  28  28                 B   3  32  32
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .layers import check_choice, check_shape
from .registry import register


def _encoder(widths: Sequence[int], in_channels: int, input_size: int) -> tuple[nn.Sequential, int]:
    """Return convolutions of 4x4 with step 2, which halve the side, and how many numbers they put out."""
    if not widths or any(isinstance(width, bool) or not isinstance(width, int) or width < 1 for width in widths):
        raise NetError(f"widths is a list of numbers of maps, such as [32, 64, 128], got {widths!r}")
    _check_halvings(widths, input_size)
    layers: list[nn.Module] = []
    for before, after in zip((in_channels, *widths), widths, strict=False):
        layers += [nn.Conv2d(before, after, 4, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten()), widths[-1] * (input_size >> len(widths)) ** 2


def _check_halvings(widths: Sequence[int], size: int) -> None:
    if size >> len(widths) < 1:
        raise NetError(f"{len(widths)} halvings need pictures of at least {2 ** len(widths)}, got {size}")


def mirrored(
    widths: Sequence[int], in_channels: int, input_size: int, code: int, *, norm: bool = False, bias: bool = True
) -> nn.Sequential:
    """Return the way back: (B, code) -> (B, in_channels, input_size, input_size); with `norm` BN between layers."""
    _check_halvings(widths, input_size)
    side = input_size >> len(widths)
    layers: list[nn.Module] = [nn.Linear(code, widths[-1] * side**2, bias=bias), nn.ReLU()]
    layers.insert(1 if norm else 2, nn.Unflatten(1, (widths[-1], side, side)))
    if norm:
        layers.insert(2, nn.BatchNorm2d(widths[-1]))
    maps = (in_channels, *widths)
    for stage in range(len(widths), 0, -1):
        odd = (input_size >> (stage - 1)) % 2  # a row and a column that halving lost
        up = nn.ConvTranspose2d(maps[stage], maps[stage - 1], 4, 2, 1, odd, bias=bias)
        layers += [up, *([nn.BatchNorm2d(maps[stage - 1])] if norm and stage > 1 else []), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class ConvAutoencoder(nn.Module):
    """Convolutional autoencoder; forward gives the reconstruction, `encode` the code.

    Args:
        widths: maps of each convolution; each halves the side.
        code: how many numbers a picture becomes.
    """

    def __init__(
        self, *, in_channels: int, input_size: int, widths: Sequence[int] = (32, 64, 128), code: int = 128
    ) -> None:
        super().__init__()
        self.shape = (in_channels, input_size, input_size)
        self.encoder, numbers = _encoder(widths, in_channels, input_size)
        self.code = nn.Linear(numbers, code)
        self.decoder = mirrored(widths, in_channels, input_size, code)

    def encode(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, code)."""
        check_shape(x, *self.shape)
        return self.code(self.encoder(x))  # type: ignore[no-any-return]

    def decode(self, code: Tensor) -> Tensor:
        """(B, code) -> (B, in_channels, H, W)."""
        return self.decoder(code)  # type: ignore[no-any-return]

    forward_features = encode

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> its reconstruction, of the same shape."""
        return self.decode(self.encode(x))


def kl_to_standard_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(N(mean, exp(logvar)) || N(0, 1)) in nats, summed over the last axis; appendix B of the paper."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(-1)


class VariationalAutoencoder(nn.Module):
    """Encoder q(z|x) = N(mean, exp(logvar)), decoder p(x|z), and the prior p(z) = N(0, 1).

    Forward gives the reconstruction: in training through a random z of q(z|x), in evaluation through its mean.

    Args:
        decoder: (B, latent) -> (B, C, H, W), the logits or the mean of the pixels.
        likelihood: "bernoulli", for pixels from 0 to 1, or "gaussian" of variance 1, for any.
    """

    def __init__(
        self, encoder: nn.Module, units: int, decoder: nn.Module, latent: int, shape: tuple[int, ...], likelihood: str
    ) -> None:
        super().__init__()
        check_choice("likelihood", likelihood, ("bernoulli", "gaussian"))
        self.latent, self.shape, self.likelihood = latent, shape, likelihood
        self.encoder = encoder
        self.mean = nn.Linear(units, latent)
        self.logvar = nn.Linear(units, latent)
        self.decoder = decoder

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> mean and log-variance of the latent variables, (B, latent) each."""
        check_shape(x, *self.shape)
        hidden = self.encoder(x)
        return self.mean(hidden), self.logvar(hidden)

    def decode(self, z: Tensor) -> Tensor:
        """(B, latent) -> the mean of p(x|z), (B, C, H, W); from 0 to 1 if the likelihood is Bernoulli's."""
        out: Tensor = self.decoder(z)
        return out.sigmoid() if self.likelihood == "bernoulli" else out

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the means of the latent variables, (B, latent)."""
        return self.encode(x)[0]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> its reconstruction, of the same shape."""
        mean, logvar = self.encode(x)
        return self.decode(_draw(mean, logvar) if self.training else mean)

    def sample(self, number: int) -> Tensor:
        """Return `number` new pictures, (number, C, H, W): the means of p(x|z) for z drawn from the prior."""
        weight = self.mean.weight
        return self.decode(torch.randn(number, self.latent, dtype=weight.dtype, device=weight.device))

    def loss(self, x: Tensor, draws: int = 1) -> Tensor:
        """Return minus the evidence lower bound in nats, averaged over the pictures.

        The divergence is exact (closed form), the reconstruction a mean over `draws` random z for each picture. An
        upper bound, in expectation, of minus the log-likelihood. Pixels that Bernoulli's cannot have raise a NetError.
        """
        if self.likelihood == "bernoulli" and not x.is_meta and not 0 <= x.min() <= x.max() <= 1:
            raise NetError(
                f"the Bernoulli likelihood needs pixels from 0 to 1, got {x.min():.3g} to {x.max():.3g}; "
                "give pictures that are not normalised, or build the net with likelihood='gaussian'"
            )
        mean, logvar = self.encode(x)
        total = kl_to_standard_normal(mean, logvar)  # (B,)
        for _ in range(draws):
            total = total + self._surprise(x, self.decoder(_draw(mean, logvar))) / draws
        return total.mean()

    def _surprise(self, x: Tensor, out: Tensor) -> Tensor:
        """Return -log p(x|z) of each picture, (B,); `out` is what the decoder put out for z."""
        if self.likelihood == "bernoulli":
            return F.binary_cross_entropy_with_logits(out, x, reduction="none").flatten(1).sum(1)
        return 0.5 * ((x - out).square() + math.log(2 * math.pi)).flatten(1).sum(1)


def _draw(mean: Tensor, logvar: Tensor) -> Tensor:
    """Return a random z of N(mean, exp(logvar)) through which gradients pass to both."""
    return mean + (0.5 * logvar).exp() * torch.randn_like(mean)


def mlp_vae(
    *, in_channels: int, input_size: int, hidden: int = 500, latent: int = 20, likelihood: str = "bernoulli"
) -> VariationalAutoencoder:
    """The paper's: one hidden layer of tanh units in the encoder and in the decoder."""
    shape = (in_channels, input_size, input_size)
    pixels = math.prod(shape)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden), nn.Tanh())
    decoder = nn.Sequential(nn.Linear(latent, hidden), nn.Tanh(), nn.Linear(hidden, pixels), nn.Unflatten(1, shape))
    net = VariationalAutoencoder(encoder, hidden, decoder, latent, shape, likelihood)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)  # "N(0, 0.01)": the second number is a variance throughout the paper
    return net


def conv_vae(
    *,
    in_channels: int,
    input_size: int,
    widths: Sequence[int] = (32, 64, 128),
    latent: int = 128,
    likelihood: str = "bernoulli",
) -> VariationalAutoencoder:
    """With the convolutions of `ConvAutoencoder`."""
    encoder, units = _encoder(widths, in_channels, input_size)
    decoder = mirrored(widths, in_channels, input_size, latent)
    shape = (in_channels, input_size, input_size)
    return VariationalAutoencoder(encoder, units, decoder, latent, shape, likelihood)


_OWN = "after Masci et al. 2011, ICANN"
_VAE = "Kingma and Welling 2014, arXiv:1312.6114"

# builder, name, year, paper, parameters, MACs, usual input, smallest input, task
_VARIANTS: list[tuple[Any, ...]] = [
    (ConvAutoencoder, "conv_autoencoder", 2011, _OWN, 857_539, 9_699_328, (3, 32, 32), 8, "reconstruct"),
    (mlp_vae, "vae", 2014, _VAE, 815_824, 814_000, (1, 28, 28), 1, "vae"),
    (conv_vae, "vae_conv", 2014, "after " + _VAE, 1_119_811, 9_961_472, (3, 32, 32), 8, "vae"),
]

for _builder, _name, _year, _paper, _params, _macs, _input, _least, _task in _VARIANTS:
    register(Facts(_name, "autoencoder", _year, _paper, _params, _macs, _input, 1, _least, task=_task))(_builder)
