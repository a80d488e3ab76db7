"""Variational autoencoders. Kingma and Welling 2014, Auto-Encoding Variational Bayes, arXiv:1312.6114.

A net gives for a picture x a normal distribution q(z|x) of latent variables, and for a z of it the distribution p(x|z)
of every pixel; z is normal with mean 0 and variance 1. Learned is the lower bound on log p(x) (equation 10), with the
divergence weighed by `beta` (Higgins et al. 2017), which rises from 0 in the first share `warmup` of the training
(Sonderby et al. 2016). Reported is the bound from `draws` samples of q (Burda et al. 2015, arXiv:1509.00519, equation
8), in bits per dimension: minus log2 of the probability of the picture's bytes over their number. Less is better, and
the true value is at most that.

A pixel is one of 256 levels. With the likelihood ``logistic`` (Kingma et al. 2016, section 5.3.1 there) or ``gaussian``
its probability is what the distribution has between half a level below and half a level above; the net gives mean and
scale for every pixel. With ``bernoulli`` a pixel is 1 from level 128 on, else 0; that is another, far easier question,
so its bits are not to be compared with the others.

PCA's likelihood is that of its normal distribution (see ``tasks.pixels.Pca``) for the bytes plus uniform noise, which
is a bound of the same kind (Theis et al. 2015, arXiv:1511.01844, section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neocog.nets.autoencoder import kl_to_standard_normal, mirrored
from neocog.page import Html, paragraph
from neocog.tasks.answer import Answer
from neocog.tasks.pixels import Pixels, Read, Remade, apart, as_bytes, chance, psnr, sheet, this_step
from neocog.tasks.task import Batch, Losses, Section, Seen, Trunk, register

LIKELIHOODS = ("logistic", "gaussian", "bernoulli")
_SCALE = -2.0  # logarithm of the scale of each pixel's distribution at the beginning, as the net reads pixels
_NOISE = 1  # number of the first draw in evaluation
_WALKS, _STEPS = 6, 8  # in the report: pairs of pictures, and pictures on the way from one to the other


class Variational(nn.Module):
    """The head: mean and log-variance of q(z|x) from the deepest maps, and what p(x|z) needs of each pixel."""

    def __init__(self, trunk: Trunk, latent: int, outputs: int) -> None:
        super().__init__()
        self.reads = "means of the latent variables"
        self.latent = latent
        self.moments = Read(trunk, 2 * latent)
        self.decoder = mirrored(trunk.widths(), outputs, trunk.spec["input_size"], latent, norm=True)
        if outputs > trunk.spec["in_channels"]:  # scales begin near where they end: at an eighth of the deviation
            nn.init.constant_(self.decoder[-1].bias.data[outputs // 2 :], _SCALE)  # type: ignore[index, union-attr, arg-type]

    def features(self, maps: Mapping[int, Tensor]) -> Tensor:
        """Maps by stride -> the means of the latent variables (B, latent)."""
        return self.moments(maps)[:, : self.latent]  # type: ignore[no-any-return]

    def forward(self, maps: Mapping[int, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent variables, (B, latent) each."""
        mean, logvar = self.moments(maps).chunk(2, 1)
        return mean, logvar.clamp(-12, 12)


@register
class Vae(Pixels):
    """Variational autoencoders. Options: see the top of this file; `latent`, how many variables z has."""

    name = "vae"
    about = "what pictures are likely, and new ones (variational autoencoder)"
    goal = ("bits", "min")
    figure = "bits per dimension"
    recipe = "autoencoder"
    told = "mean"
    options = {"latent": 64, "likelihood": "logistic", "beta": 1.0, "warmup": 0.1, "draws": 32}
    choices = {"likelihood": LIKELIHOODS}
    answer = Remade
    asks = "latent and draws of at least 1, beta of at least 0 and a warmup from 0 to 1"

    def sound(self, latent: int, draws: int, beta: float, warmup: float, **more: Any) -> bool:  # type: ignore[override]
        return latent >= 1 and draws >= 1 and beta >= 0 and 0 <= warmup <= 1

    def head(self, trunk: Trunk) -> nn.Module:
        each = 1 if self.how["likelihood"] == "bernoulli" else 2
        return Variational(trunk, self.how["latent"], trunk.spec["in_channels"] * each)

    # ---- what is likely

    def run(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        x = batch.x
        if own := hasattr(net, "sample"):  # a VAE of the zoo, whose own likelihood counts
            x = (self.values(x) >= 0.5).to(x.dtype) if self._of(net) == "bernoulli" else x
        mean, logvar = net.encode(x) if own else net(x)  # type: ignore[operator]
        mean, logvar = _exact(mean), _exact(logvar)
        made = {"mean": mean, "divergence": kl_to_standard_normal(mean, logvar)}
        first = this_step() if net.training else _NOISE
        draws = self.how["draws"] if self._last and batch.targets and not net.training else 1
        weights = []
        for draw in range(first, first + draws):
            noise = chance(batch.rows, mean.shape[1], draw).to(mean)
            z = mean + (0.5 * logvar).exp() * noise
            surprise = self._surprise(net, batch.x, z)
            # log p(x|z) + log p(z) - log q(z|x); the constants of the two normal densities cancel
            weights.append(0.5 * (noise.square() + logvar - z.square()).sum(1) - surprise)
        made["surprise"] = surprise
        made["log_p"] = torch.stack(weights).logsumexp(0) - math.log(draws)
        if not net.training:
            made["made"] = self.pictures(net, mean)
        return made

    def _of(self, net: nn.Module) -> str:
        return str(getattr(net, "likelihood", self.how["likelihood"]))

    def _decoded(self, net: nn.Module, z: Tensor) -> tuple[Tensor, Tensor]:
        """What p(x|z) needs of each pixel: its mean (or logit) and the logarithm of its scale, (B, C, H, W) each."""
        decoder = net.decoder if hasattr(net, "decoder") else net.answer.decoder  # type: ignore[union-attr]
        out = _exact(decoder(z))  # type: ignore[operator]
        if out.shape[1] != 2 * len(self.mean):
            return out, torch.zeros_like(out)
        mean, scale = out.chunk(2, 1)
        return mean, scale.clamp(-7, 5)

    def _surprise(self, net: nn.Module, x: Tensor, z: Tensor) -> Tensor:
        """-log p(x|z) of normalised pictures, in nats (B,)."""
        mean, scale = self._decoded(net, z)
        if self._of(net) == "bernoulli":
            white = (self.values(x) >= 0.5).to(mean)
            return F.binary_cross_entropy_with_logits(mean, white, reduction="none").flatten(1).sum(1)
        levels = self.levels(x).to(mean)
        half = 0.5 / 255 / mean.new_tensor(self.std)[:, None, None]  # of a level, as the net reads it
        far = self.normalised(levels / 255) - mean
        return -_log_level(far, half, scale, levels, self._of(net)).flatten(1).sum(1)

    def pictures(self, net: nn.Module, z: Tensor) -> Tensor:
        """The means of p(x|z)."""
        mean, _ = self._decoded(net, z)
        return mean.sigmoid() if self._of(net) == "bernoulli" else self.values(mean).clamp(0, 1)

    # ---- learning and figures

    def losses(self, outputs: dict[str, Tensor], batch: Batch) -> Losses:
        warmup = self.how["warmup"]
        beta = self.how["beta"] * min(1.0, self.progress / warmup if warmup else 1.0)
        each = {"surprise": outputs["surprise"], "divergence": beta * outputs["divergence"]}
        count, per = batch.valid.sum(), 1 / (batch.x[0].numel() * math.log(2))
        parts = {
            name: value.masked_fill(~batch.valid, 0).sum() / count.clamp(min=1) * per for name, value in each.items()
        }
        return Losses(parts, count)

    def observe(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Any]:
        good, per = batch.valid, 1 / (batch.x[0].numel() * math.log(2))
        true = self.values(batch.x)
        seen = {
            "rows": batch.rows[good.cpu()],
            "bits": -outputs["log_p"][good] * per,
            "bound": (outputs["surprise"] + outputs["divergence"])[good] * per,
            "divergence": outputs["divergence"][good] * per,
            "error": apart(outputs["made"], true)[good],
        }
        if self.how["likelihood"] != "bernoulli" and (pca := self.pca(self.how["latent"])) is not None:
            levels = self.levels(batch.x).flatten(1)
            noise = chance(batch.rows, levels.shape[1], uniform=True).to(levels)
            seen["pca_bits"] = -pca.log_p(levels + noise)[good] * per
        return seen

    def figures(self, seen: Seen) -> dict[str, Any]:
        if not len(seen.get("rows", ())):
            return {"n": 0, "bits": math.nan, "loss": math.nan}
        mean: dict[str, float]
        mean = {name: float(seen[name].mean()) for name in ("bits", "bound", "divergence", "pca_bits") if name in seen}
        more = {"ahead_of_pca": mean["pca_bits"] - mean["bits"]} if "pca_bits" in mean else {}
        return {
            "n": len(seen["rows"]), **mean, **more, "loss": mean["bound"], "psnr": psnr(float(seen["error"].mean())),
            "latent": self.how["latent"],
        }  # fmt: skip

    def error(self, figures: Mapping[str, Any]) -> float:
        return 0.001 * abs(figures["bits"])

    def worst(self, seen: Seen) -> np.ndarray:
        return np.asarray(seen["rows"][np.argsort(-seen["bits"], kind="stable")])

    def caption(self, seen: Seen, row: int) -> str:
        return f"{float(seen['bits'][np.flatnonzero(seen['rows'] == row)[0]]):.3f} bits per dimension"

    def headline(self, figures: Mapping[str, Any]) -> str:
        pca = f", PCA {figures['pca_bits']:.3f}" if "pca_bits" in figures else ""
        return f"{figures['bits']:.3f} bits per dimension{pca} (n = {figures['n']:,})"

    def sections(self, seen: Seen, figures: Mapping[str, Any]) -> list[Section]:
        told = (
            f"The bound from {self.how['draws']} samples of q(z|x) for each picture is {figures['bits']:.4f} bits per "
            f"dimension, from one {figures['bound']:.4f}; {figures['divergence']:.4f} of those are the divergence from "
            f"the prior. The likelihood is {self.how['likelihood']}, with {self.how['latent']} latent variables. "
        )
        if "pca_bits" in figures:
            told += (
                f"PCA with as many components, fitted on the same training pictures, needs {figures['pca_bits']:.4f}. "
            )
        told += (
            "Pictures shown are means of p(x|z): without the noise of single pixels, so smoother than the data. Walks "
            "go in equal steps between the means of two pictures of the split."
        )
        return [Section("Likelihood", Html(paragraph(told)))]

    # ---- pictures

    def sheets(self, net: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
        made = self.run(net, batch)
        again = sheet(as_bytes(torch.cat([self.values(batch.x[:_STEPS]), made["made"][:_STEPS]])))
        shares = torch.linspace(0, 1, _STEPS)[:, None].to(made["mean"])
        pairs = [(k, k + 1) for k in range(0, min(2 * _WALKS, len(batch) - 1), 2)]
        ways = [made["mean"][a] * (1 - shares) + made["mean"][b] * shares for a, b in pairs]
        walks = {"Walks between pictures": sheet(as_bytes(self.pictures(net, torch.cat(ways))), _STEPS)} if ways else {}
        return {"Samples": sheet(self.sample(net, 64)), "Pictures, and what was made of them": again, **walks}

    def answers(self, outputs: dict[str, Tensor], batch: Batch, keys: Sequence[str], top: int = 5) -> list[Answer]:
        true, per = self.values(batch.x), 1 / (batch.x[0].numel() * math.log(2))
        errors = apart(outputs["made"], true).tolist()
        bits, codes = (-outputs["log_p"] * per).tolist(), outputs["mean"].tolist()
        seen, again = as_bytes(true), as_bytes(outputs["made"])
        return [Remade(key, seen[i], again[i], tuple(codes[i]), errors[i], None, bits[i]) for i, key in enumerate(keys)]


def _exact(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _log_level(far: Tensor, half: Tensor, log_scale: Tensor, levels: Tensor, kind: str) -> Tensor:
    """Log probability of each pixel's level: what lies within `half` of its distance `far` from the mean.

    The lowest level has all that lies below it, the highest all that lies above.
    """
    narrow = torch.exp(-log_scale)
    low, high, middle = (far - half) * narrow, (far + half) * narrow, far * narrow
    if kind == "logistic":
        log_below, log_above = F.logsigmoid(high), F.logsigmoid(-low)
        share = high.sigmoid() - low.sigmoid()
        density = -middle.abs() - 2 * F.softplus(-middle.abs())
    else:
        log_below, log_above = torch.special.log_ndtr(high), torch.special.log_ndtr(-low)
        share = torch.special.ndtr(high) - torch.special.ndtr(low)
        density = -0.5 * (middle.square() + math.log(2 * math.pi))
    # far from the mean the difference of two numbers near 0 or 1 is lost: there density times width
    inside = torch.where(share > 1e-5, share.clamp(min=1e-12).log(), density + torch.log(2 * half) - log_scale)
    return torch.where(levels < 0.5, log_below, torch.where(levels > 254.5, log_above, inside))
