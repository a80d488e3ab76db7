"""The classical pipeline that convolutional nets replaced: engineered descriptors, a codebook, a linear classifier.

Nothing but the last layer is fitted to labels; the codebook (axes and a mixture of Gaussians) is found from pictures
without labels by `prepare`. Everything is computed in batches of tensors, on any device:

- colour: joint RGB histogram, 4 x 4 x 4 bins, of the whole picture and its four quarters.
- hog: histograms of oriented gradients (Dalal & Triggs 2005): 9 unsigned orientations in 8 x 8 cells, blocks of 2 x 2
  cells normalised by L2-Hys.
- lbp: local binary patterns of the eight neighbours (Ojala et al. 1996), the 58 uniform ones and the rest, in 4 x 4
  cells.
- sift: dense SIFT (Lowe 2004) at three scales, as RootSIFT (Arandjelovic & Zisserman 2012), on 64 principal axes and
  with its place (Sanchez et al. 2012), encoded by a codebook: an improved Fisher vector (Perronnin et al. 2010), a VLAD
  (Jegou et al. 2010) or a bag of words on a spatial pyramid (Lazebnik et al. 2006).

Each descriptor is brought to length 1 on square roots (signed), so that its inner products are those of the Hellinger
kernel, and they are joined. With fusion="late" each descriptor, and all of them joined, has a linear layer of its own,
and their probabilities are averaged (Snoek et al. 2005, "Early versus late fusion in semantic video analysis").
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neocog.errors import NetError, closest
from neocog.nets.layers import Classifier, check_input
from neocog.nets.registry import register
from neocog.records import Facts

KINDS = ("colour", "hog", "lbp", "sift")
ENCODINGS = ("fisher", "vlad", "words")
_LEAST = 64  # smaller pictures are scaled up to this side
_BINS = (4, 6, 8)  # pixels of one of SIFT's 4 x 4 cells, for each scale
_STEP = 6  # pixels between SIFT descriptors
_AXES = 64
_SAMPLE = 50_000  # descriptors that the codebook is found from


class Fused(nn.Module):
    """Late fusion: features (B, D) -> the logarithm of the weighted mean of several layers' probabilities (B, classes).

    Args:
        parts: which columns of the features each layer reads, by name.
    """

    shares: Tensor
    temperatures: Tensor

    def __init__(self, parts: Mapping[str, slice], classes: int) -> None:
        super().__init__()
        self.named = dict(parts)
        self.layers = nn.ModuleList(nn.Linear(part.stop - part.start, classes) for part in parts.values())
        self.register_buffer("shares", torch.full((len(parts),), 1 / len(parts)))
        self.register_buffer("temperatures", torch.ones(len(parts)))

    @property
    def names(self) -> list[str]:
        return list(self.named)

    @property
    def parts(self) -> list[slice]:
        return list(self.named.values())

    def with_classes(self, classes: int) -> Fused:
        """A fresh layer like this one with other classes."""
        return Fused(self.named, classes).to(self.shares)

    def forward(self, x: Tensor) -> Tensor:
        logits = [layer(x[:, part]) for layer, part in zip(self.layers, self.parts, strict=True)]
        of_parts = (torch.stack(logits) / self.temperatures[:, None, None]).log_softmax(2)
        return (of_parts + self.shares.clamp(min=1e-30).log()[:, None, None]).logsumexp(0)


class Descriptors(Classifier):
    """(B, 3, H, W) in 0 to 1 -> (B, classes).

    Args:
        kinds: which descriptors, some of `KINDS`, joined by commas.
        encoding: of SIFT, one of `ENCODINGS`.
        words: Gaussians of the codebook.
        fusion: "early", one linear layer on all descriptors, or "late", see `Fused`.
    """

    head = "fc"
    engineered = True  # `prepare` finds what is not fitted with the last layer
    any_size = True
    axes: Tensor
    centre: Tensor
    shares: Tensor
    means: Tensor
    variances: Tensor

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int,
        kinds: str = "colour,hog,lbp,sift",
        encoding: str = "fisher",
        words: int = 64,
        fusion: str = "early",
    ) -> None:
        super().__init__()
        self.kinds, self.encoding, self.in_channels = tuple(kinds.split(",")), encoding, in_channels
        for name, known in (*((one, KINDS) for one in self.kinds), (encoding, ENCODINGS)):
            if name not in known:
                raise NetError(f"unknown descriptor {name!r}{closest(name, known)}; expected {', '.join(known)}")
        d = _AXES + 2
        self.register_buffer("axes", torch.eye(128, _AXES))
        self.register_buffer("centre", torch.zeros(128))
        self.register_buffer("shares", torch.full((words,), 1 / words))
        self.register_buffer("means", torch.linspace(-1, 1, words)[:, None].expand(words, d).contiguous())
        self.register_buffer("variances", torch.ones(words, d))
        codes = {"fisher": 2 * words * d, "vlad": words * d, "words": 21 * words}[encoding]
        sizes = {"colour": 5 * 64, "hog": 49 * 36, "lbp": 16 * 59, "sift": codes}
        ends = list(accumulate(sizes[one] for one in self.kinds))
        self.fc: nn.Module = nn.Linear(ends[-1], classes)
        if fusion == "late":
            each = {name: slice(end - sizes[name], end) for name, end in zip(self.kinds, ends, strict=True)}
            self.fc = Fused({**each, "joined": slice(0, ends[-1])} if len(each) > 1 else each, classes)
        elif fusion != "early":
            raise NetError(f"fusion must be early or late, got {fusion!r}")

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in 0 to 1 -> (B, D)."""
        check_input(x, self.in_channels)
        made = {"colour": colour, "hog": hog, "lbp": lbp, "sift": self._coded}
        kind = "cpu" if x.device.type == "meta" else x.device.type
        with torch.autocast(kind, enabled=False):  # histograms need float32
            ready = _prepared(x)
            return torch.cat([_rooted(made[one](ready)) for one in self.kinds], 1).to(x.dtype)

    def prepare(self, pictures: Tensor) -> None:
        """Find the codebook from pictures (N, C, H, W)."""
        if "sift" not in self.kinds:
            return
        from sklearn.decomposition import PCA
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        g = torch.Generator().manual_seed(0)
        each = max(1, _SAMPLE // len(pictures))
        some = []
        for part in pictures.split(100):
            found, places = sift(_prepared(part))
            joined = torch.cat((found, places.expand(len(found), -1, -1)), 2)
            some.append(joined[:, torch.randperm(joined.shape[1], generator=g)[:each]].flatten(0, 1))
        sample = torch.cat(some)
        sample = sample[torch.randperm(len(sample), generator=g)[:_SAMPLE]]
        pca = PCA(_AXES, svd_solver="covariance_eigh").fit(sample[:, :128].double().numpy())
        self.axes.copy_(torch.from_numpy(pca.components_.T))
        self.centre.copy_(torch.from_numpy(pca.mean_))
        x = torch.cat(((sample[:, :128] - self.centre) @ self.axes, sample[:, 128:]), 1).double().numpy()
        mixture = GaussianMixture(
            len(self.shares), covariance_type="diag", max_iter=30, tol=1e-2, random_state=0, init_params="k-means++"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # thirty rounds are enough for a codebook
            mixture.fit(x)
        self.shares.copy_(torch.from_numpy(mixture.weights_))
        self.means.copy_(torch.from_numpy(mixture.means_))
        self.variances.copy_(torch.from_numpy(mixture.covariances_))

    def _coded(self, x: Tensor) -> Tensor:
        found, places = sift(x)
        x = torch.cat(((found - self.centre) @ self.axes, places.expand(len(found), -1, -1)), 2)  # (B, N, d)
        if self.encoding == "words":
            return _pyramid(self._belong(x), places[0])
        return fisher(x, self._belong(x), self.shares, self.means, self.variances, self.encoding == "vlad")

    def _belong(self, x: Tensor) -> Tensor:
        """(B, N, K): the probability that each descriptor came of each Gaussian."""
        inverse = 1 / self.variances
        logs = -0.5 * ((x**2) @ inverse.T - 2 * x @ (self.means * inverse).T + (self.means**2 * inverse).sum(1))
        return (logs + self.shares.log() - 0.5 * self.variances.log().sum(1)).softmax(2)


def _prepared(x: Tensor) -> Tensor:
    """(B, 3, H, W) float32 in 0 to 1, the short side at least `_LEAST`."""
    x = x.float().clamp(0, 1)
    x = x if x.shape[1] == 3 else x[:, :1].expand(-1, 3, -1, -1)
    sides = [int(side) for side in x.shape[2:]]
    scale = _LEAST / min(sides)
    return F.interpolate(x, [round(scale * side) for side in sides], mode="bilinear") if scale > 1 else x


def _rooted(x: Tensor) -> Tensor:
    return F.normalize(x.sign() * x.abs().sqrt(), dim=1)


def grey(x: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, H, W), by ITU-R 601."""
    return (x * torch.tensor([0.299, 0.587, 0.114], device=x.device)[:, None, None]).sum(1)


def _counted(codes: Tensor, kinds: int, cells: int) -> Tensor:
    """int64 (B, H, W) -> shares (B, kinds * cells * cells) of each code in each cell of a grid."""
    b, (h, w) = len(codes), map(int, codes.shape[1:])
    row = torch.arange(h, device=codes.device) * cells // h
    column = torch.arange(w, device=codes.device) * cells // w
    place = (row[:, None] * cells + column) * kinds + codes
    counts = torch.zeros(b, cells * cells * kinds, device=codes.device)
    counts.scatter_add_(1, place.flatten(1), torch.ones_like(place.flatten(1), dtype=counts.dtype))
    return counts / (h * w)


def colour(x: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 320)."""
    level = (x * 4).long().clamp(max=3)
    codes = (level[:, 0] * 4 + level[:, 1]) * 4 + level[:, 2]
    return torch.cat((_counted(codes, 64, 1), _counted(codes, 64, 2)), 1)


def hog(x: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1764); of each pixel the gradient of the channel where it is longest counts."""
    side = 8 * max(8, min(int(side) for side in x.shape[2:]) // 8)
    x = F.interpolate(x, (side, side), mode="bilinear") if x.shape[2:] != (side, side) else x
    dx, dy = torch.zeros_like(x), torch.zeros_like(x)
    dx[..., 1:-1] = x[..., 2:] - x[..., :-2]
    dy[..., 1:-1, :] = x[..., 2:, :] - x[..., :-2, :]
    length, at = (dx**2 + dy**2).sqrt().max(1, keepdim=True)
    dx, dy = dx.gather(1, at)[:, 0], dy.gather(1, at)[:, 0]
    turn = torch.rad2deg(torch.atan2(dy, dx)) % 180
    bins = (turn / 20).long().clamp(max=8)
    maps = F.one_hot(bins, 9).permute(0, 3, 1, 2) * length
    cells = F.avg_pool2d(maps, side // 8)  # (B, 9, 8, 8)
    blocks = torch.cat([cells[:, :, i : 7 + i, j : 7 + j] for i in (0, 1) for j in (0, 1)], 1)  # (B, 36, 7, 7)
    blocks = blocks / (blocks.square().sum(1, keepdim=True) + 1e-10).sqrt()
    blocks = blocks.clamp(max=0.2)
    blocks = blocks / (blocks.square().sum(1, keepdim=True) + 1e-10).sqrt()
    return blocks.flatten(1)


def uniform_patterns() -> Tensor:
    """int64 (256,): the number of each uniform pattern (at most two changes around the circle), 58 for all others."""
    turns = [bin(code ^ ((code >> 1) | ((code & 1) << 7))).count("1") for code in range(256)]
    table, made = torch.full((256,), 58), 0
    for code, changes in enumerate(turns):
        if changes <= 2:
            table[code], made = made, made + 1
    return table


def lbp(x: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 944)."""
    g = grey(x)
    middle = g[:, 1:-1, 1:-1]
    around = ((0, 1), (0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (1, 2), (0, 2))
    h, w = middle.shape[1:]
    codes = sum((g[:, i : i + h, j : j + w] >= middle).long() << k for k, (i, j) in enumerate(around))
    return _counted(uniform_patterns().to(x.device)[codes], 59, 4)


def sift(x: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) -> RootSIFT (B, N, 128) and their places (1, N, 2) in -0.5 to 0.5.

    A cell counts its eight orientations with a triangle as window, as bilinear interpolation between cells does.
    """
    g, found, places = grey(x)[:, None], [], []
    h, w = map(int, g.shape[2:])
    for size in _BINS:
        smooth = _smoothed(g, size / 6)
        dx = F.pad(smooth, (1, 1, 0, 0), mode="replicate")
        dy = F.pad(smooth, (0, 0, 1, 1), mode="replicate")
        dx, dy = dx[..., 2:] - dx[..., :-2], dy[..., 2:, :] - dy[..., :-2, :]
        length, turn = (dx**2 + dy**2).sqrt(), (torch.atan2(dy, dx) / (2 * math.pi) % 1) * 8
        low, share = turn.floor(), turn - turn.floor()
        angles = torch.arange(8, device=x.device)[None, :, None, None]
        maps = length * ((low % 8 == angles) * (1 - share) + ((low + 1) % 8 == angles) * share)  # (B, 8, H, W)
        triangle = 1 - torch.arange(1 - size, size, device=x.device).abs() / size
        maps = F.conv2d(maps.flatten(0, 1)[:, None], triangle[None, None, None], padding=(0, size - 1))
        maps = F.conv2d(maps, triangle[None, None, :, None], padding=(size - 1, 0)).view(-1, 8, h, w)
        top = torch.arange(size // 2, h - 3 * size - size // 2 + 1, _STEP, device=x.device)
        left = torch.arange(size // 2, w - 3 * size - size // 2 + 1, _STEP, device=x.device)
        grid = [maps[:, :, top + i * size][..., left + j * size] for i in range(4) for j in range(4)]
        one = torch.stack(grid, 1).flatten(1, 2).flatten(2).transpose(1, 2)  # (B, N, 128)
        one = F.normalize(F.normalize(one, dim=2).clamp(max=0.2), p=1, dim=2)
        found.append(one.sqrt())
        y, across = torch.meshgrid((top + 1.5 * size) / h - 0.5, (left + 1.5 * size) / w - 0.5, indexing="ij")
        places.append(torch.stack((across, y), 2).flatten(0, 1))
    return torch.cat(found, 1), torch.cat(places)[None]


def _smoothed(x: Tensor, sigma: float) -> Tensor:
    reach = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    x = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="replicate"), kernel[None, None, None])
    return F.conv2d(F.pad(x, (0, 0, reach, reach), mode="replicate"), kernel[None, None, :, None])


def fisher(x: Tensor, belong: Tensor, shares: Tensor, means: Tensor, variances: Tensor, first: bool = False) -> Tensor:
    """The Fisher vector (Perronnin et al. 2010, equations 8 and 9) of descriptors x (B, N, d): (B, 2 K d).

    `first`: only the gradients of the means, with each descriptor in its likeliest Gaussian: a VLAD, (B, K d).
    """
    if first:
        belong = F.one_hot(belong.argmax(2), len(shares)).to(x.dtype)
    n, deviation, total = x.shape[1], variances.sqrt(), belong.sum(1)[..., None]  # (B, K, 1)
    one, two = belong.transpose(1, 2) @ x, belong.transpose(1, 2) @ x**2  # (B, K, d)
    mean = (one - total * means) / deviation / n
    if first:
        return mean.flatten(1)
    spread = ((two - 2 * one * means + total * means**2) / variances - total) / n
    weight = shares.sqrt()[:, None]
    return torch.cat((mean / weight, spread / (weight * math.sqrt(2))), 1).flatten(1)


def _pyramid(belong: Tensor, places: Tensor) -> Tensor:
    """(B, N, K), (N, 2) -> (B, 21 K): sums over the picture, its quarters and sixteenths, weighted 1/4, 1/4, 1/2."""
    parts = []
    for cells, weight in ((1, 0.25), (2, 0.25), (4, 0.5)):
        at = ((places + 0.5) * cells).long().clamp(0, cells - 1)
        inside = F.one_hot(at[:, 1] * cells + at[:, 0], cells * cells).to(belong.dtype)  # (N, cells^2)
        parts.append(weight * (inside.T @ belong).flatten(1) / len(places))
    return torch.cat(parts, 1)


_PAPER = "Perronnin, Sanchez & Mensink 2010, Improving the Fisher kernel for large-scale image classification"
_facts = Facts("descriptors", "descriptors", 2010, _PAPER, 1_147_700, 1_147_600, (3, 128, 128), 100, smallest=16)
register(_facts)(Descriptors)
