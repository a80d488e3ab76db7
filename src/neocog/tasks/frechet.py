"""How far new pictures are from true ones: a Frechet distance of features, and the nearest true pictures.

The distance of two normal distributions with the means and covariances of two sets of features (Dowson and Landau 1982;
Heusel et al. 2017, arXiv:1706.08500, with an Inception net). The features here are those of efficientnet_lite0 with
ImageNet weights on pictures scaled to 64x64, so values are not to be compared with published ones. Without its package
they are the pictures themselves at 8x8. With few pictures every distance is too large: compare only equal numbers.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neocog.nets.packages import DEFAULT, from_package, installed
from neocog.nets.weight_files import preprocess_for
from neocog.nets.weights import build

PLAIN = "pixels at 8x8"
_SIDE, _PASS = 64, 64


def features_at_hand() -> str:
    """What features are taken from: a net's name, or that there is none."""
    return DEFAULT if installed(DEFAULT) else PLAIN


@cache
def _net(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    pre = preprocess_for(from_package(name) or name, name)
    mean, std = (torch.tensor(v)[:, None, None] for v in (pre.mean, pre.std))
    return build(name, weights="imagenet", offline=True).eval(), mean, std


@torch.no_grad()
def features(pictures: Tensor, name: str) -> Tensor:
    """Features (B, F), float32 on the CPU, of values from 0 to 1 (B, 1 or 3, H, W)."""
    pictures = pictures.float().cpu()
    if name == PLAIN:
        return F.adaptive_avg_pool2d(pictures, 8).flatten(1)
    net, mean, std = _net(name)
    made = []
    for part in pictures.expand(-1, 3, -1, -1).split(_PASS):
        x = F.interpolate(part, (_SIDE, _SIDE), mode="bilinear", antialias=True)
        made.append(net.forward_features((x - mean) / std))  # type: ignore[operator]
    return torch.cat(made)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The Frechet distance of features (N, F) and (M, F), each of at least two pictures; else nan."""
    if min(len(a), len(b)) < 2:
        return float("nan")
    a, b = a.astype(np.float64), b.astype(np.float64)
    mean = float(np.square(a.mean(0) - b.mean(0)).sum())
    a, b = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    # the trace of the root of the product of covariances a'a and b'b is the sum of the singular values of a b'
    root = float(np.linalg.svd(a @ b.T, compute_uv=False).sum())
    return max(0.0, mean + float(np.square(a).sum() + np.square(b).sum()) - 2 * root)


def nearest(pictures: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest of `among` (M, ...) to each of `pictures` (N, ...): root mean squared difference, and which it is."""
    apart, which = torch.cdist(pictures.flatten(1), among.flatten(1)).min(1)
    return apart / pictures[0].numel() ** 0.5, which
