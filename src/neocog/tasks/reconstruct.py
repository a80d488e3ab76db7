"""Pictures made again from a few numbers: an autoencoder of any trunk, with a decoder that mirrors its halvings.

Denoising (Vincent et al. 2008): the net sees pictures with `noise` and is asked for those without. Masked (after He et
al. 2021, arXiv:2111.06377): a share `mask` of the patches is hidden, and only what stands there is asked for. Figures
are of the same kind of damage, the same for every epoch; new pictures are read as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neocog.errors import UsageError
from neocog.nets.autoencoder import mirrored
from neocog.page import Html, paragraph
from neocog.records import Preprocess
from neocog.tasks.answer import Answer
from neocog.tasks.pixels import Pixels, Read, Remade, apart, as_bytes, chance, psnr, sheet, this_step
from neocog.tasks.task import Batch, Losses, Section, Seen, Trunk, register
from neocog.tasks.unknown import limit


class Autoencoder(nn.Module):
    """The head: a code of the deepest maps, and pictures of codes."""

    def __init__(self, trunk: Trunk, code: int) -> None:
        super().__init__()
        self.reads = "code"
        self.code = Read(trunk, code)
        spec = trunk.spec
        self.decoder = mirrored(trunk.widths(), spec["in_channels"], spec["input_size"], code, norm=True)

    def features(self, maps: Mapping[int, Tensor]) -> Tensor:
        """Maps by stride -> (B, code)."""
        return self.code(maps)  # type: ignore[no-any-return]

    def forward(self, maps: Mapping[int, Tensor], x: Tensor) -> dict[str, Tensor]:
        """``code`` (B, code) and ``made`` (B, C, H, W), normalised."""
        code = self.code(maps)
        return {"code": code, "made": self.decoder(code)}


@register
class Reconstruct(Pixels):
    """Autoencoders. Options: `code`, how many numbers a picture becomes; `noise`, the deviation of what is added to
    values from 0 to 1; `mask`, the share of patches of `patch` pixels that is hidden.
    """

    name = "reconstruct"
    about = "the picture again, from a few numbers (autoencoder)"
    goal = ("psnr", "max")
    figure = "PSNR in dB"
    recipe = "autoencoder"
    summed = frozenset({"sum", "square"})
    told = "code"
    options = {"code": 64, "noise": 0.0, "mask": 0.0, "patch": 4}
    answer = Remade
    asks = "code and patch of at least 1, noise of at least 0 and mask from 0 to below 1"

    def __init__(self, usual: float | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.noise, self.mask, self.patch = (self.how[name] for name in ("noise", "mask", "patch"))
        self.usual = math.inf if usual is None else usual

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "usual": self.usual if math.isfinite(self.usual) else None}

    def sound(self, code: int, noise: float, mask: float, patch: int) -> bool:  # type: ignore[override]
        return code >= 1 and patch >= 1 and noise >= 0 and 0 <= mask < 1

    def begin(self, pre: Preprocess, some: Callable[[int], Tensor]) -> None:
        """Raises: UsageError: patches do not divide the picture."""
        height, width = pre.input
        if self.mask and (height % self.patch or width % self.patch):
            good = [n for n in range(2, min(height, width)) if height % n == width % n == 0]
            near = min(good, key=lambda n: (abs(n - self.patch), n), default=1)
            raise UsageError(
                f"patches of {self.patch} pixels do not divide pictures of {height} x {width}; type --task-option "
                f"patch={near}, or another --size"
            )
        super().begin(pre, some)

    def head(self, trunk: Trunk) -> nn.Module:
        return Autoencoder(trunk, self.how["code"])

    def run(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        x = batch.x
        hidden = x.new_zeros(len(x), 1, *x.shape[2:])
        if batch.targets and (self.noise or self.mask):  # new pictures are not damaged
            x, hidden = self.damaged(x, batch.rows, this_step() if net.training else 0)
        made = net(x)
        if isinstance(made, Tensor):  # a net of the zoo that is an autoencoder
            made = {"made": made, "code": net.forward_features(x)}  # type: ignore[operator]
        return {**made, "read": x, "hidden": hidden}

    def damaged(self, x: Tensor, rows: Tensor, draw: int) -> tuple[Tensor, Tensor]:
        """Pictures with noise and hidden patches, and 1 where they are hidden (B, 1, H, W)."""
        b, channels, height, width = x.shape
        if self.noise:
            noise = chance(rows, channels * height * width, draw).view(x.shape).to(x)
            x = self.normalised(self.values(x) + self.noise * noise)
        if not self.mask:
            return x, x.new_zeros(b, 1, height, width)
        tall, wide = -(-height // self.patch), -(-width // self.patch)
        order = chance(rows, tall * wide, draw + 1, uniform=True).argsort(1).argsort(1)
        hidden = (order < round(self.mask * tall * wide)).view(b, 1, tall, wide)
        whole = hidden.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)[:, :, :height, :width].to(x)
        return x * (1 - whole), whole

    def losses(self, outputs: dict[str, Tensor], batch: Batch) -> Losses:
        asked = outputs["hidden"] if self.mask else torch.ones_like(outputs["hidden"])
        each = ((outputs["made"] - batch.x) ** 2 * asked).mean((1, 2, 3)) / asked.mean((1, 2, 3))
        count = batch.valid.sum()
        loss = each.masked_fill(~batch.valid, 0).sum() / count.clamp(min=1)
        return Losses({"squared error": loss}, count)

    def observe(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Any]:
        good = batch.valid
        true, made = self.values(batch.x), self.values(outputs["made"])
        seen: dict[str, Any] = {"rows": batch.rows[good.cpu()], "error": apart(made, true)[good]}
        flat = true[good].flatten(1).double()
        seen |= {"sum": flat.sum(0), "square": flat.square().sum()}
        seen["each_numbers"] = [outputs["code"].shape[1]]
        if (pca := self.pca(outputs["code"].shape[1])) is not None:
            read = 255 * self.values(outputs["read"])
            again = pca.remade(read.flatten(1)).view(read.shape) / 255
            seen["pca_error"] = apart(again, true)[good]
        return seen

    def figures(self, seen: Seen) -> dict[str, Any]:
        n = len(seen.get("rows", ()))
        if not n:
            return {"n": 0, "psnr": math.nan, "loss": math.nan}
        error, size = float(seen["error"].mean()), len(seen["sum"])
        total = float(np.sum(seen["square"])) / n - float(np.square(seen["sum"] / n).sum())  # about the mean picture
        made = {"n": n, "psnr": psnr(error), "loss": error, "squared_error": error}
        made["numbers"] = int(seen["each_numbers"][0])
        errors = {"explained": error}
        if "pca_error" in seen:
            errors["explained_pca"] = float(seen["pca_error"].mean())
        return {**made, **{k: 1 - v * size / max(total, 1e-12) for k, v in errors.items()}}

    def calibrate(self, seen: Seen) -> None:
        self.usual = limit(seen["error"]) if len(seen.get("error", ())) else math.inf

    def worst(self, seen: Seen) -> np.ndarray:
        return np.asarray(seen["rows"][np.argsort(-seen["error"], kind="stable")])

    def caption(self, seen: Seen, row: int) -> str:
        return f"PSNR {psnr(float(seen['error'][np.flatnonzero(seen['rows'] == row)[0]])):.1f} dB"

    def headline(self, figures: Mapping[str, Any]) -> str:
        pca = f", PCA {figures['explained_pca']:.1%}" if "explained_pca" in figures else ""
        return (
            f"PSNR {figures['psnr']:.2f} dB from {figures['numbers']} numbers, {figures['explained']:.1%} of the "
            f"variance explained{pca} (n = {figures['n']:,})"
        )

    def sections(self, seen: Seen, figures: Mapping[str, Any]) -> list[Section]:
        told = "Examples show what the net saw, what it made of it, and the difference. "
        if "explained_pca" in figures:
            told += (
                f"PCA with as many numbers ({figures['numbers']}), fitted on the same training pictures, explains "
                f"{figures['explained_pca']:.1%} of the variance, the net {figures['explained']:.1%}. "
            )
        if math.isfinite(self.usual):
            told += (
                f"A new picture with a squared error above {self.usual:.5f} (PSNR {psnr(self.usual):.1f} dB) is called "
                "unusual: so had a twentieth of the validation pictures."
            )
        return [Section("Reconstruction", Html(paragraph(told)))]

    def sheets(self, net: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
        made = self.run(net, batch)
        damaged = [made["read"]] if self.mask or self.noise else []
        rows = [self.values(x[:8]) for x in (batch.x, *damaged, made["made"])]
        return {"Pictures, and what was made of them": sheet(as_bytes(torch.cat(rows)))}

    def answers(self, outputs: dict[str, Tensor], batch: Batch, keys: Sequence[str], top: int = 5) -> list[Answer]:
        true, made = self.values(batch.x), self.values(outputs["made"])
        errors, seen, again = apart(made, true).tolist(), as_bytes(self.values(outputs["read"])), as_bytes(made)
        codes, known = outputs["code"].tolist(), math.isfinite(self.usual)
        return [
            Remade(key, seen[i], again[i], tuple(codes[i]), errors[i], errors[i] > self.usual if known else None)
            for i, key in enumerate(keys)
        ]
