"""What was done to the geometry of pictures on their way into a net: applied to targets alike, undone for answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neocog.data.augment import compose, inverted
from neocog.data.kinds import NOT_LABELLED

_SLACK = 1e-3  # pixels that a place may lie outside by rounding
LEAST_VISIBLE = 0.3  # a box of which a smaller share is left inside the picture is no longer a target


@dataclass(slots=True)
class Warp:
    """Maps of B pictures from pixels of the upright file to pixels of the net's input, and back.

    Coordinates are x to the right, y down, pixel i covering [i, i + 1).

    Attributes:
        matrix: float64 (B, 2, 3) on the CPU: ``input = matrix[:, :2] @ file + matrix[:, 2]``.
        sizes: int64 (B, 2), height and width of the files' upright pictures.
        size: height and width of the input.
        field: float32 (B, H, W, 2) or None: an elastic displacement. The input's pixel (x, y) shows what the affine
            map puts at (x, y) + field. Only used in training; answers have none.
        window: float64 (B, 4) x0 y0 x1 y1 or None: the part of the file that is left in the input. What was cut off
            does not come back where a picture is made smaller or turned afterwards. Answers have none.
    """

    matrix: Tensor
    sizes: Tensor
    size: tuple[int, int]
    field: Tensor | None = None
    window: Tensor | None = None

    def __len__(self) -> int:
        return len(self.matrix)

    def __getitem__(self, rows: slice | Tensor) -> Warp:
        field, window = (None if v is None else v[rows] for v in (self.field, self.window))
        return Warp(self.matrix[rows], self.sizes[rows], self.size, field, window)

    @property
    def mirrored(self) -> Tensor:
        """bool (B,): which pictures are mirror images."""
        return torch.linalg.det(self.matrix[:, :, :2]) < 0

    def then(self, matrix: Tensor, size: tuple[int, int] | None = None) -> Warp:
        """This, followed by affine maps (B, 2, 3) of the input's pixels, into an input of `size`."""
        return Warp(compose(matrix, self.matrix), self.sizes, size or self.size, window=self.window)

    def inverse(self) -> Tensor:
        """float64 (B, 2, 3): from pixels of the input to pixels of the file."""
        return inverted(self.matrix)

    # ---- into the input

    def points(self, b: int, points: np.ndarray) -> np.ndarray:
        """Points (P, 3) or (P, 2) of picture `b`, in pixels of the input; what falls outside becomes 'not known'."""
        moved = np.array(points, dtype=np.float32)
        xy = _moved(self.matrix[b], points[:, :2])
        if self.field is not None:
            xy = xy - _sampled(self.field[b], xy)
        moved[:, :2] = xy
        if moved.shape[1] == 3:
            height, width = self.size
            outside = (xy[:, 0] < 0) | (xy[:, 0] >= width) | (xy[:, 1] < 0) | (xy[:, 1] >= height)
            if self.window is not None:
                low, high = self.window[b].numpy().reshape(2, 2)
                outside |= (points[:, :2] < low - _SLACK).any(1) | (points[:, :2] > high + _SLACK).any(1)
            moved[outside, 2] = 0
        return moved

    def boxes(self, b: int, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (M, 4) of picture `b` in pixels of the input, cut at its edges, and which are left (bool (M,))."""
        corners = np.asarray(corners, dtype=np.float64).reshape(-1, 4)
        there = corners
        if self.window is not None:
            low, high = self.window[b].numpy().reshape(2, 2)
            there = corners.clip(np.tile(low, 2), np.tile(high, 2))
        whole, kept = hull(self.matrix[b], corners), hull(self.matrix[b], there)
        if self.field is not None and len(whole):
            centres = (kept[:, :2] + kept[:, 2:]) / 2
            kept = kept - np.tile(_sampled(self.field[b], centres), 2)
        height, width = self.size
        cut = kept.clip(0, [width, height, width, height])
        area = (whole[:, 2:] - whole[:, :2]).clip(0).prod(1)
        left = (cut[:, 2:] - cut[:, :2]).clip(0).prod(1)
        good = (left > LEAST_VISIBLE * area) & (cut[:, 2:] - cut[:, :2] >= 1.0).all(1)
        good &= (there[:, 2:] > there[:, :2]).all(1)
        return cut.astype(np.float32), good

    def mask(self, b: int, mask: np.ndarray) -> Tensor:
        """A mask uint8 (h, w) of picture `b` as the input shows it: uint8 (H, W), by the nearest pixel, else 255."""
        height, width = self.size
        back = inverted(self.matrix[b : b + 1])[0]
        x0, y0, x1, y1 = (0, 0, mask.shape[1], mask.shape[0])
        if self.window is not None:
            low, high = self.window[b].reshape(2, 2).tolist()
            x0, y0, x1, y1 = max(x0, low[0]), max(y0, low[1]), min(x1, high[0]), min(y1, high[1])
        if self.field is None and back[0, 1] == 0 and back[1, 0] == 0:
            x = back[0, 0] * (torch.arange(width) + 0.5) + back[0, 2]
            y = back[1, 1] * (torch.arange(height) + 0.5) + back[1, 2]
            columns, rows = x.floor().long(), y.floor().long()
            inside = ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))
            made = torch.from_numpy(
                mask[rows.clamp(0, mask.shape[0] - 1).numpy()][:, columns.clamp(0, mask.shape[1] - 1).numpy()]
            )
            return made.masked_fill(~inside, NOT_LABELLED)
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        xy = torch.stack((x, y), -1).double()  # (H, W, 2)
        if self.field is not None:
            xy = xy + self.field[b].cpu().double()
        xy = xy @ back[:, :2].T + back[:, 2]
        inside = (xy[..., 0] >= x0) & (xy[..., 1] >= y0) & (xy[..., 0] < x1) & (xy[..., 1] < y1)
        there = xy.floor().long()
        columns, rows = (there[..., 0].clamp(0, mask.shape[1] - 1), there[..., 1].clamp(0, mask.shape[0] - 1))
        return torch.from_numpy(mask[rows.numpy(), columns.numpy()]).masked_fill(~inside, NOT_LABELLED)

    # ---- back to the file

    def points_back(self, b: int, points: np.ndarray) -> np.ndarray:
        """Points (P, 2 or more columns) of the input, in pixels of the file."""
        moved = np.array(points, dtype=np.float32)
        moved[:, :2] = _moved(self.inverse()[b], moved[:, :2])
        return moved

    def boxes_back(self, b: int, corners: np.ndarray) -> np.ndarray:
        """Boxes (M, 4) of the input, in pixels of the file, cut at its edges."""
        height, width = (int(side) for side in self.sizes[b])
        return hull(self.inverse()[b], corners).clip(0, [width, height, width, height]).astype(np.float32)

    def maps_back(self, b: int, maps: Tensor) -> Tensor:
        """Maps (C, h, w) over the input (of any resolution), as float32 (C, H, W) in pixels of the file, bilinear."""
        height, width = (int(side) for side in self.sizes[b])
        m = self.matrix[b]
        if maps.shape[1:] == self.size == (height, width) and torch.equal(m, torch.eye(2, 3, dtype=m.dtype)):
            return maps.float()
        y, x = torch.meshgrid(
            torch.arange(height, device=maps.device) + 0.5, torch.arange(width, device=maps.device) + 0.5, indexing="ij"
        )
        m = m.to(maps.device, torch.float32)
        across = m[0, 0] * x + m[0, 1] * y + m[0, 2]
        down = m[1, 0] * x + m[1, 1] * y + m[1, 2]
        grid = torch.stack((2 * across / self.size[1] - 1, 2 * down / self.size[0] - 1), -1)[None]
        return F.grid_sample(maps[None].float(), grid, padding_mode="border", align_corners=False)[0]


def hull(matrix: Tensor, corners: np.ndarray) -> np.ndarray:
    """The upright boxes float64 (M, 4) around boxes (M, 4) moved by an affine map (2, 3)."""
    corners = np.asarray(corners, dtype=np.float64).reshape(-1, 4)
    four = corners[:, [0, 1, 2, 1, 0, 3, 2, 3]].reshape(-1, 2)
    moved = _moved(matrix, four).reshape(-1, 4, 2)
    return np.concatenate((moved.min(1), moved.max(1)), 1)


def _moved(matrix: Tensor, points: np.ndarray) -> np.ndarray:
    m = matrix.numpy()
    return np.asarray(points, dtype=np.float64) @ m[:, :2].T + m[:, 2]


def _sampled(field: Tensor, points: np.ndarray) -> np.ndarray:
    """The displacement (H, W, 2) at points (P, 2) in pixels, the nearest."""
    height, width = field.shape[:2]
    values = field.cpu().numpy()
    x = points[:, 0].astype(int).clip(0, width - 1)
    y = points[:, 1].astype(int).clip(0, height - 1)
    return values[y, x]
