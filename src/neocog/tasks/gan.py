"""Generative adversarial nets: new pictures that a critic cannot tell from true ones. Goodfellow et al. 2014.

The net asked for (``--net``, any trunk) becomes the critic, and the generator mirrors its halvings. `loss` says what
they learn:

    relativistic  that a true picture has a higher score than a made one, and the generator the opposite; the critic is
                  kept from being steep at both, with the weight `steep` (Huang et al. 2024, arXiv:2501.05441). How
                  steep it is, is asked by nudging every picture (Lin et al. 2025, arXiv:2501.08316): that needs no
                  gradients of gradients. The generator is that of ``nets.modulated``
    hinge         that a score is beyond a margin of 1 (Lim and Ye 2017), for a critic that spectral normalisation keeps
                  from being steep (Miyato et al. 2018): ``dcgan_spectral``, whose last layer has it here, too
    original      logistic regression, and the generator to be called true (the form that does not saturate, section 3
                  of Goodfellow et al.); true labels are 1 - `smooth` (Salimans et al. 2016)

The generator of the last two is DCGAN's.

Both learn in the same step, from gradients that are kept apart: the critic sees pictures through which no gradient
passes, and what the generator learns from it leaves the critic's weights as they are. `critic` is the factor on the
critic's learning rate (Heusel et al. 2017). Averaged weights (the recipe's ``ema``) make the pictures.

There is no loss that says how good it is. Figures are a Frechet distance of features (see ``tasks.frechet``), with that
of training pictures from the same test pictures beside it as the least to expect, and that of the normal distribution
that PCA fits; and how far samples are from the nearest training picture, against how far test pictures are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

from neocog.nets.dcgan import Generator
from neocog.nets.modulated import Modulated
from neocog.page import Html, paragraph
from neocog.tasks.answer import Answer
from neocog.tasks.frechet import distance, features, features_at_hand, nearest
from neocog.tasks.pixels import Pixels, Read, as_bytes, chance, sheet, this_step
from neocog.tasks.task import Batch, Losses, Section, Seen, Trunk, register

LOSSES = ("relativistic", "hinge", "original")
_NUDGE = 0.1  # standard deviation of the noise that asks how steep the critic is, of values from -1 to 1
_FEW = 256  # pictures of a split that an epoch's figures are of; the last are of _MOST
_MOST = 2000
_SHOWN = 64
_GAUSSIAN = 256  # directions of the normal distribution to compare with


@dataclass(frozen=True, slots=True)
class Judged(Answer):
    """How true the critic takes a picture to be: its score, higher is truer."""

    score: float = 0.0

    def row(self) -> dict[str, Any]:
        return {"score": round(self.score, 4)}

    def text(self) -> str:
        return f"score of the critic {self.score:.4g}: the higher, the truer to the training pictures"

    def to_json(self) -> dict[str, Any]:
        return {"score": self.score}


class Adversaries(nn.Module):
    """The head: the critic's last layer, and the generator. Forward gives scores (B, 1)."""

    def __init__(self, trunk: Trunk, latent: int, critic: float, loss: str) -> None:
        super().__init__()
        self.latent = latent
        self.score = Read(trunk, 1)
        if any(is_parametrized(module) for module in trunk.modules()):  # then no layer may be steep, the last included
            spectral_norm(self.score.line)
        kind = Modulated if loss == "relativistic" else Generator
        self.generator = kind(latent, trunk.spec["in_channels"], trunk.spec["input_size"], trunk.widths())
        for p in (*trunk.parameters(), *self.score.parameters()):
            p.lr_factor = critic  # type: ignore[attr-defined]

    def forward(self, maps: Mapping[int, Tensor], x: Tensor) -> Tensor:
        return self.score(maps)  # type: ignore[no-any-return]


@register
class Gan(Pixels):
    """Generative adversarial nets. Options: see the top of this file; `latent`, how many numbers become a picture."""

    name = "gan"
    about = "new pictures like those given (generative adversarial nets)"
    goal = ("frechet", "min")
    figure = "Frechet distance"
    recipe = "gan"
    net = "dcgan_plain"
    whole_batch = True
    adversarial = True
    told = "true"
    options = {"latent": 64, "loss": "relativistic", "steep": 0.1, "critic": 1.0, "smooth": 0.0}
    choices = {"loss": LOSSES}
    answer = Judged
    asks = "latent of at least 1, critic above 0, steep of at least 0 and smooth from 0 to below 0.5"

    def __init__(self, features: str = "", **settings: Any) -> None:
        super().__init__(**settings)
        self.read_by = features or features_at_hand()
        self._read: dict[tuple[int, float], Tensor] = {}  # features of pictures that every epoch asks for

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "features": self.read_by}

    def sound(  # type: ignore[override]
        self, latent: int, critic: float, steep: float, smooth: float, **more: Any
    ) -> bool:
        return latent >= 1 and critic > 0 and steep >= 0 and 0 <= smooth < 0.5

    def head(self, trunk: Trunk) -> nn.Module:
        return Adversaries(trunk, self.how["latent"], self.how["critic"], self.how["loss"])

    # ---- a step

    def run(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        if not batch.targets:
            return {"true": net(batch.x)}
        draw = this_step() if net.training else 0
        z = chance(batch.rows, self.how["latent"], draw).to(batch.x)
        made = self.normalised(self.pictures(net, z))
        outputs = {"true": net(batch.x), "false": net(made.detach())}
        if not net.training:
            return {**outputs, "fooled": outputs["false"], "made": made}
        if self.how["loss"] == "relativistic" and self.how["steep"]:
            noise = chance(batch.rows, made[0].numel(), draw + 1).to(made).view_as(made)
            nudge = self.normalised(_NUDGE / 2 * noise) - self.normalised(torch.zeros_like(noise))
            outputs |= {"true_nudged": net(batch.x + nudge), "false_nudged": net(made.detach() + nudge)}
        with _left_alone(net):
            return {**outputs, "fooled": net(made)}

    def pictures(self, net: nn.Module, z: Tensor) -> Tensor:
        return net.answer.generator(z) * 0.5 + 0.5  # type: ignore[union-attr, operator, no-any-return]

    def losses(self, outputs: dict[str, Tensor], batch: Batch) -> Losses:
        scores = {name: made.flatten() for name, made in outputs.items() if name != "made"}
        true, false, fooled = (scores[name] for name in ("true", "false", "fooled"))
        good, count = batch.valid, batch.valid.sum()

        def mean(each: Tensor) -> Tensor:
            return each.masked_fill(~good, 0).sum() / count.clamp(min=1)

        if self.how["loss"] == "relativistic":
            parts = {"critic": mean(F.softplus(false - true)), "generator": mean(F.softplus(true.detach() - fooled))}
        elif self.how["loss"] == "hinge":
            parts = {"critic": mean(F.relu(1 - true) + F.relu(1 + false)), "generator": mean(-fooled)}
        else:
            soft = torch.full_like(true, 1 - self.how["smooth"])
            critic = F.binary_cross_entropy_with_logits(true, soft, reduction="none") + F.softplus(false)
            parts = {"critic": mean(critic), "generator": mean(F.softplus(-fooled))}
        if "true_nudged" in scores:
            slopes = [(scores[f"{name}_nudged"] - scores[name]) / _NUDGE for name in ("true", "false")]
            parts["steep"] = self.how["steep"] / 2 * mean(slopes[0].square() + slopes[1].square())
        return Losses(parts, count, {"told_apart": (self.right(true, false) * good).sum().detach()})

    def right(self, true: Tensor, false: Tensor) -> Tensor:
        """Whether the critic takes pictures for what they are: 1 for a pair, or a half where it is right of one."""
        if self.how["loss"] == "relativistic":
            return (true > false).float()
        return 0.5 * ((true > 0).float() + (false < 0).float())

    # ---- figures

    def observe(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Any]:
        good = batch.valid
        rows = batch.rows[good.cpu()]
        told = self.right(outputs["true"], outputs["false"])[good].flatten()
        seen: dict[str, Any] = {"rows": rows, "told_apart": told}
        few = (rows < (_MOST if self._last else _FEW)).to(good.device)
        true, made = self.values(batch.x[good][few]), self.values(outputs["made"][good][few]).clamp(0, 1)
        key = (len(true), float(true.double().sum()))
        if key not in self._read:
            self._read[key] = features(true, self.read_by)
        seen["each_true"], seen["each_made"] = self._read[key], features(made, self.read_by)
        if self._last and self._some is not None:
            trained = self.values(self._some(_MOST)).to(true)
            if len(true):
                seen["each_true_apart"], seen["each_made_apart"] = (nearest(x, trained)[0] for x in (true, made))
            seen["each_trained"] = features(trained[rows[few.cpu()] % len(trained)], self.read_by)
            gaussian = self.pca(_GAUSSIAN)
            if gaussian is not None:
                values = gaussian.sample(_MOST)[rows[few.cpu()]].view(true.shape) / 255
                seen["each_gaussian"] = features(values.clamp(0, 1), self.read_by)
        return seen

    def figures(self, seen: Seen) -> dict[str, Any]:
        if not len(seen.get("rows", ())):
            return {"n": 0, "frechet": math.nan, "loss": math.nan}
        made: dict[str, Any] = {
            "n": len(seen["rows"]),
            "frechet": distance(seen["each_made"], seen["each_true"]),
            "of": len(seen["each_true"]),
            "told_apart": float(seen["told_apart"].mean()),
        }
        for name, key in (("trained", "frechet_training"), ("gaussian", "frechet_gaussian")):
            if f"each_{name}" in seen:
                made[key] = distance(seen[f"each_{name}"], seen["each_true"])
        for name, key in (("made", "nearest_training"), ("true", "nearest_training_of_data")):
            if f"each_{name}_apart" in seen:
                made[key] = float(np.median(seen[f"each_{name}_apart"]))
        return {**made, "loss": made["frechet"]}

    def error(self, figures: Mapping[str, Any]) -> float:
        return 0.05 * abs(figures["frechet"])

    def headline(self, figures: Mapping[str, Any]) -> str:
        more = f", training pictures {figures['frechet_training']:.4g}" if "frechet_training" in figures else ""
        return (
            f"Frechet distance {figures['frechet']:.4g} of {figures['of']:,} samples by {self.read_by}{more} "
            f"(n = {figures['n']:,})"
        )

    def sections(self, seen: Seen, figures: Mapping[str, Any]) -> list[Section]:
        told = (
            f"The Frechet distance is that of features of {self.read_by}, between {figures['of']:,} samples and as "
            f"many pictures of the split: {figures['frechet']:.4g}. It is no published FID, and grows as pictures "
            "become few. "
        )
        if "frechet_training" in figures:
            told += (
                f"As many training pictures are at {figures['frechet_training']:.4g} from the split, samples of the "
                f"normal distribution that PCA fits at {figures.get('frechet_gaussian', math.nan):.4g}. "
            )
        if "nearest_training" in figures:
            told += (
                f"The nearest training picture differs from a sample by {figures['nearest_training']:.4f} (root mean "
                f"square of values from 0 to 1, median), from a picture of the split by "
                f"{figures['nearest_training_of_data']:.4f}: samples that are much nearer are copies."
            )
        return [Section("Samples and data", Html(paragraph(told)))]

    # ---- pictures

    def sheets(self, net: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
        made = self.sample(net, _SHOWN)
        sheets = {"Samples": sheet(made)}
        if self._last and self._some is not None:
            trained = self.values(self._some(_MOST))
            values = torch.from_numpy(made[:32]).permute(0, 3, 1, 2) / 255
            found = as_bytes(trained[nearest(values, trained)[1]])
            pairs = np.stack((made[:32], found), 1).reshape(-1, *made.shape[1:])
            sheets["Samples, each with the nearest training picture to its right"] = sheet(pairs)
        return sheets

    def answers(self, outputs: dict[str, Tensor], batch: Batch, keys: Sequence[str], top: int = 5) -> list[Answer]:
        return [Judged(key, score) for key, score in zip(keys, outputs["true"].flatten().tolist(), strict=True)]


@contextmanager
def _left_alone(net: nn.Module) -> Iterator[None]:
    """Within this context nothing is asked of a net's weights: gradients pass through to what it reads alone."""
    asked = [p for p in net.parameters() if p.requires_grad]
    for p in asked:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in asked:
            p.requires_grad_(True)
