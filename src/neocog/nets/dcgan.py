"""DCGAN: Unsupervised Representation Learning with DCGANs. Radford, Metz and Chintala 2015, arXiv:1511.06434.

The critic is a net of the zoo like any other: it halves the picture until it is 4 to 7 pixels wide, and its last layer
reads all that is left. CIFAR-10 by features of a critic trained on ImageNet: 82.8 % (table 1). `Generator` is the way
back, from numbers to a picture; the task ``gan`` trains both.

dcgan_spectral has spectral normalisation (Miyato et al. 2018, arXiv:1802.05957) in the place of BN, so that no step of
the critic is steeper than 1: for the hinge loss. dcgan_plain has no normalisation, half of the maps, and filters drawn
as in He et al. 2015: for losses that themselves keep the critic from being steep.

Output shapes for 64x64:

    critic (2,765,568 parameters)          generator from 100 numbers (3,576,704 parameters)
    pixels    B   3  64  64                project  B 512   4   4
    layers.0  B  64  32  32                         B 256   8   8
    layers.1  B 128  16  16                         B 128  16  16
    layers.2  B 256   8   8                         B  64  32  32
    layers.3  B 512   4   4                         B   3  64  64
    score     B   1
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ..records import Facts
from .autoencoder import mirrored
from .layers import Classifier, check_choice, check_shape
from .registry import register

_LEAST = 4  # pixels: what is as small is not halved


def _halvings(size: int) -> int:
    return max(1, (size // _LEAST).bit_length() - 1)


def _draw(net: nn.Module) -> None:
    """The paper's initial values: N(0, 0.02); BN scales around 1."""
    for layer in net.modules():
        weight = getattr(layer, "weight", None)
        if weight is not None and not weight.is_meta:
            nn.init.normal_(weight, float(isinstance(layer, nn.BatchNorm2d)), 0.02)


class Critic(Classifier):
    """The critic: 4x4 convolutions of stride 2 and leaky ReLU.

    Args:
        classes: outputs; 1 says how real a picture looks.
        width: maps of the first layer; each further one has twice as many.
        norm: "batch" after all but the first layer, "spectral" in every convolution, or "none".
    """

    head = "score"

    def __init__(
        self, *, classes: int, in_channels: int, input_size: int, width: int = 64, norm: str = "batch"
    ) -> None:
        super().__init__()
        check_choice("norm", norm, ("batch", "spectral", "none"))
        self.shape = (in_channels, input_size, input_size)
        widths = [width << stage for stage in range(_halvings(input_size))]
        layers: list[nn.Sequential] = []
        for before, after in zip((in_channels, *widths), widths, strict=False):
            batch = [nn.BatchNorm2d(after)] if norm == "batch" and layers else []
            conv = nn.Conv2d(before, after, 4, 2, 1, bias=norm != "batch")
            layers.append(nn.Sequential(conv, *batch, nn.LeakyReLU(0.2)))
        self.layers = nn.Sequential(*layers)
        self.score = nn.Linear(widths[-1] * (input_size >> len(widths)) ** 2, classes, bias=norm != "batch")
        _draw(self)
        if norm == "spectral":
            for layer in layers:
                spectral_norm(layer[0])
        if norm == "none":  # N(0, 0.02) needs a norm that brings small maps to scale
            for weight in (p for p in self.layers.parameters() if p.ndim == 4):
                nn.init.kaiming_normal_(weight, 0.2)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, D): all that is left of the picture."""
        check_shape(x, *self.shape)
        return self.layers(x).flatten(1)  # type: ignore[no-any-return]


class Generator(nn.Module):
    """From numbers (B, latent) to pictures (B, channels, size, size) with values from -1 to 1.

    Args:
        widths: maps of each halving of the critic, the largest map first; the generator has them backwards.
    """

    def __init__(self, latent: int, channels: int, size: int, widths: Sequence[int]) -> None:
        super().__init__()
        way = mirrored(widths, channels, size, latent, norm=True, bias=False)
        self.layers = nn.Sequential(*way, nn.Tanh())
        _draw(self)

    def forward(self, z: Tensor) -> Tensor:
        """(B, latent) -> (B, channels, size, size)."""
        return self.layers(z)  # type: ignore[no-any-return]


_RADFORD = "Radford, Metz and Chintala 2015, arXiv:1511.06434"
_MIYATO = f"{_RADFORD}, with Miyato et al. 2018, arXiv:1802.05957"
register(Facts("dcgan", "dcgan", 2015, _RADFORD, 2_765_568, 103_817_216, (3, 64, 64), 1, smallest=4))(Critic)
_facts = Facts("dcgan_spectral", "dcgan", 2018, _MIYATO, 2_764_737, 103_817_216, (3, 64, 64), 1, smallest=4)
register(_facts, norm="spectral")(Critic)
_facts = Facts("dcgan_plain", "dcgan", 2015, _RADFORD, 694_241, 26_742_784, (3, 64, 64), 1, smallest=4)
register(_facts, norm="none", width=32)(Critic)
