"""Optimizers: parameter groups from a recipe, and Muon for the filters of convolutions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neocog.errors import UsageError
from neocog.fit.recipes import Recipe
from neocog.fit.schedules import schedule, warmed


def orthogonalise(gradient: Tensor, steps: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    """Replace the singular values of a matrix by values near 1, with Newton-Schulz steps.

    Args:
        gradient: (M, N).
        steps: three are enough for convolution filters (airbench); the result's singular values lie near 0.7 to 1.2
            where the matrix has rank.
        dtype: in which the work is done; bfloat16 is exact enough, where it is faster.

    Source: Jordan et al. 2024, Muon; coefficients of the quintic from there.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = gradient.to(dtype)
    x = x / (x.norm() + 1e-7)
    wide = x.size(0) <= x.size(1)
    x = x if wide else x.T  # the smaller Gram matrix is cheaper
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.T).to(gradient.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised per layer; every weight tensor is held at norm sqrt(out_channels).

    For convolution filters and matrices that a normalisation follows: there the length of a filter does not
    change the function, so it is kept fixed and the learning rate is an angle. A group with ``own_norm`` holds its
    tensors at the norms that they began with, and steps in proportion: for weights that know something.

    Args:
        params: parameters of two or more dimensions; the first is the output.
        lr: step, in units of a spectral norm of about 1.
        momentum: of the gradient, Nesterov's form.
        dtype: in which directions are orthogonalised.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 0.24, momentum: float = 0.6, dtype: torch.dtype = torch.float32
    ) -> None:
        self.dtype = dtype
        super().__init__(params, {"lr": lr, "momentum": momentum, "own_norm": False})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step from the gradients that are there."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                    if group["own_norm"]:
                        own = weight.norm()
                        state["norm"] = torch.where(own > 0, own, len(weight) ** 0.5)
                buffer = state["momentum_buffer"]
                buffer.mul_(group["momentum"]).add_(weight.grad)
                direction = weight.grad.add(buffer, alpha=group["momentum"])
                usual = len(weight) ** 0.5
                norm = state.get("norm", usual)
                weight.mul_(norm / weight.norm().clamp_min(1e-12))  # one of zeros leaves them with its first step
                update = orthogonalise(direction.reshape(len(weight), -1), dtype=self.dtype).view_as(weight)
                weight.sub_(group["lr"] * (norm / usual) * update)


class RMSprop(torch.optim.Optimizer):
    """The gradient over the deviation that it had lately: lr * g / sqrt(mean(g^2) - mean(g)^2 + least).

    Source: Graves 2013 (arXiv:1308.0850), eq. 38 and following, without momentum, as DQN has it. PyTorch's optimizer of
    that name adds the least outside of the root.
    """

    def __init__(self, params: Iterable[Any], lr: float, decay: float = 0.95, least: float = 1e-5) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "least": least, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step from the gradients that are there."""
        for group in self.param_groups:
            for weight in group["params"]:
                if (g := weight.grad) is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["mean"], state["square"] = torch.zeros_like(weight), torch.zeros_like(weight)
                mean, square = state["mean"], state["square"]
                mean.lerp_(g, 1.0 - group["decay"])
                square.lerp_(g * g, 1.0 - group["decay"])
                root = (square - mean * mean + group["least"]).sqrt_()
                weight.addcdiv_(g, root, value=-group["lr"])


def optimizers(
    net: nn.Module, head: nn.Module, recipe: Recipe, batch: int, dtype: torch.dtype = torch.float32
) -> list[torch.optim.Optimizer]:
    """Return the optimizers of a recipe, one or two, with every trainable parameter in exactly one group.

    A parameter with the attribute ``train_until`` (share of the training) gets a group of its own, whose rate falls
    to zero there; one with ``lr_factor`` a group whose rate is that much of the others' (and Muon keeps its norm, see
    there). `batch` scales the rates of SGD when it is smaller than the recipe's (Goyal et al. 2017). `dtype` is that
    in which Muon orthogonalises.

    Raises:
        UsageError: the recipe names no known optimizer.
    """
    scale = min(1.0, batch / recipe.batch_size)
    muon, rest = recipe.optimizer in ("muon", "muon-adamw"), recipe.optimizer.removeprefix("muon-")
    apart = muon and (recipe.lr_head or rest == "adamw")
    head_ids = _answering(head) if rest == "adamw" else {id(p) for p in head.parameters()}
    groups: dict[tuple[str, float, float], list[nn.Parameter]] = {}
    for p in net.parameters():
        if not p.requires_grad:
            continue
        if apart and id(p) in head_ids:
            kind = "head"
        elif p.ndim < 2:
            kind = "vector"
        else:
            kind = "filter"
        groups.setdefault((kind, getattr(p, "train_until", 1.0), getattr(p, "lr_factor", 1.0)), []).append(p)

    made: list[dict[str, Any]] = []
    filters: list[dict[str, Any]] = []
    for (kind, until, factor), params in groups.items():
        if kind == "filter" and muon:
            rate = recipe.lr_filters * factor
            group = {"params": params, "lr": rate, "peak": rate, "until": until, "own_norm": factor != 1.0}
            filters.append(group)
            continue
        lr = (recipe.lr_head or recipe.lr) if kind == "head" else recipe.lr
        lr = lr if rest in ("adamw", "rmsprop") else lr * scale
        decay = recipe.weight_decay if kind != "vector" or recipe.decay_all else 0.0
        decay, lr = decay / lr if rest == "muon" else decay, lr * factor
        made.append({"params": params, "lr": lr, "peak": lr, "until": until, "weight_decay": decay})

    if recipe.optimizer not in ("sgd", "adamw", "rmsprop", "muon", "muon-adamw"):
        raise UsageError(
            f"unknown optimizer {recipe.optimizer!r}; expected 'sgd', 'adamw', 'rmsprop', 'muon' or 'muon-adamw'"
        )
    found: list[torch.optim.Optimizer] = []
    if made and rest == "adamw":
        found.append(torch.optim.AdamW(made, lr=recipe.lr, betas=(recipe.momentum, 0.999)))
    elif made and rest == "rmsprop":
        found.append(RMSprop(made, recipe.lr, recipe.momentum))
    elif made:
        nesterov = recipe.nesterov and recipe.momentum > 0
        found.append(torch.optim.SGD(made, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov))
    if filters:
        found.append(Muon(filters, momentum=recipe.momentum_filters, dtype=dtype))
    return found


def of_optimizers(opts: list[torch.optim.Optimizer]) -> dict[str, Any]:
    """What optimizers remember of each parameter, tensors and numbers by names such as ``opt/0/3/momentum_buffer``."""
    return {
        f"opt/{number}/{index}/{key}": value
        for number, opt in enumerate(opts)
        for index, values in opt.state_dict()["state"].items()
        for key, value in values.items()
        if value is not None
    }


def load_optimizers(opts: list[torch.optim.Optimizer], kept: Mapping[str, Any]) -> None:
    """Give optimizers what `of_optimizers` gave, among other things. Raises: ValueError: of other optimizers."""
    for number, opt in enumerate(opts):
        state: dict[int, dict[str, Any]] = {}
        for name, value in kept.items():
            if name.startswith(f"opt/{number}/"):
                _, _, index, key = name.split("/")
                state.setdefault(int(index), {})[key] = value
        opt.load_state_dict({"state": state, "param_groups": opt.state_dict()["param_groups"]})


def _answering(head: nn.Module) -> set[int]:
    """Ids of a head's parameters whose length matters: of its layers that no normalisation follows, which have a bias.

    A head of one linear layer counts as such, with a bias or without, and so do the vectors of words.
    """
    layers = [head, *head.modules()] if isinstance(head, nn.Linear) else list(head.modules())
    return {
        id(p)
        for layer in layers
        if getattr(layer, "bias", None) is not None
        or layer is head
        or isinstance(layer, (nn.Embedding, nn.EmbeddingBag))
        for p in layer.parameters(recurse=False)
    }


def set_rates(opts: list[torch.optim.Optimizer], recipe: Recipe, progress: float, scale: float = 1.0) -> float:
    """Set every group's learning rate for `progress` in [0, 1]; parameters past their ``train_until`` are frozen.

    Returns the factor on the peak rates that the schedule gave, times `scale`.
    """
    shape = schedule(recipe.schedule)
    factor = scale * warmed(shape(progress), progress, recipe.warmup)
    for opt in opts:
        for group in opt.param_groups:
            until = group["until"]
            if until >= 1.0:
                group["lr"] = group["peak"] * factor
            else:
                left = max(0.0, 1.0 - progress / until)
                group["lr"] = group["peak"] * left
                for p in group["params"]:
                    p.requires_grad_(left > 0)
                    if left == 0:
                        p.grad = None
    return factor
