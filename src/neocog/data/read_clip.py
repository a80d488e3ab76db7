"""Clips as inputs: frames of a video, a GIF or a folder, all changed in the same way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from neocog.data.clips import ENDINGS, DrawnClips, arranged, frames_of, read_clip
from neocog.data.folder import Folder
from neocog.data.reader import Reader, register
from neocog.data.source import Source
from neocog.errors import DataError, UsageError
from neocog.page import Html, thumbnail

_MEASURED = 64  # training clips from which mean and deviation are taken
_ROOM = 8 / 7  # of a frame's side to that of what is cut out of it, as C3D has it: 128 to 112
_SHOWN = 6  # frames of a clip in a report


@register
class ClipReader(Reader):
    """Clips as uint8 (3, T, H, W), cut at random places and mirrored, or from the middle, and normalised.

    Args:
        size, frames: sides of what the net sees.
        every: seconds between two frames; 0 spreads them over the whole clip.
        flip: mirror at random in training. A mirrored clip moves the other way: not where left and right are classes.
        mean, std: of each channel, of values from 0 to 1.
    """

    kind = "clip"
    endings = ENDINGS
    about = "clips: frames of a video, a GIF or a folder"
    options: ClassVar[Mapping[str, Any]] = {"size": 32, "frames": 16, "every": 0.0, "flip": False}
    net = "clip_small"
    recipe = "clips"
    draws = 3
    kept = ("size", "frames", "every", "flip", "mean", "std")

    def __init__(
        self, size: int, frames: int, every: float, flip: bool, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.size, self.frames, self.every, self.flip = size, frames, every, flip
        self.mean, self.std = tuple(mean), tuple(std)

    @classmethod
    def plan(cls, source: Source, rows: np.ndarray, options: Mapping[str, Any]) -> ClipReader:
        size, frames, every = int(options["size"]), int(options["frames"]), float(options["every"])
        if size < 8 or frames < 1 or every < 0:
            raise UsageError(
                f"expected --input-option size of at least 8, frames of at least 1 and every (seconds) of at least 0, "
                f"got {size}, {frames} and {every:g}"
            )
        made = cls(size, frames, every, bool(options["flip"]), (0.0,) * 3, (1.0,) * 3)
        sums, squares, count, why = np.zeros(3), np.zeros(3), 0, ""
        for i in rows[np.unique(np.linspace(0, len(rows) - 1, min(_MEASURED, len(rows))).astype(int))]:
            try:
                x = made.encode(source.read(int(i))).reshape(3, -1) / 255
            except (DataError, OSError) as error:
                why = str(error)
                continue
            sums, squares, count = sums + x.mean(1), squares + (x * x).mean(1), count + 1
        if not count:
            raise DataError(f"no clip of {source.name} can be read: {why}")
        made.mean = tuple((sums / count).round(4).tolist())
        spread = np.sqrt(np.maximum(squares / count - (sums / count) ** 2, 1e-4))
        made.std = tuple(spread.round(4).tolist())
        step = f"{every:g} s apart" if every else "spread over each clip"
        made.notes = (f"{frames} frames of {size}x{size}, {step} (--input-option frames=N every=SECONDS size=PIXELS)",)
        return made

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, self.frames, self.size, self.size)

    @property
    def net_options(self) -> Mapping[str, Any]:
        return {"frames": self.frames}

    def begin(self, net: nn.Module) -> None:
        if take := getattr(net, "take_weights", None):
            take()

    def encode(self, raw: Any) -> np.ndarray:
        clip = read_clip(raw, self.frames, self.every, round(_ROOM * self.size))  # (T, H, W, 3)
        return np.ascontiguousarray(clip.transpose(3, 0, 1, 2))

    def collate(self, arrays: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(arrays))

    def finish(self, x: Tensor, draws: Tensor | None = None) -> Tensor:
        """(B, 3, T, H, W) uint8 -> float (B, 3, T, size, size): every frame of a clip is cut at the same place."""
        room = x.shape[-1] - self.size
        if draws is None:
            cut = x[..., room // 2 : room // 2 + self.size, room // 2 : room // 2 + self.size]
        else:
            top, left = (((room + 1) * draws[:, k]).long().clamp(max=room) for k in (0, 1))
            cut = torch.stack(
                [one[..., t : t + self.size, s : s + self.size] for one, t, s in zip(x, top, left, strict=True)]
            )
        if draws is not None and self.flip:
            turned = (draws[:, 2] < 0.5).to(x.device)
            cut = torch.where(turned[:, None, None, None, None], cut.flip(-1), cut)
        mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1, 1) for v in (self.mean, self.std))
        return (cut.float() / 255 - mean) / std

    def inputs(self, given: Iterable[Any]) -> Iterator[tuple[str, Any]]:
        """As of any reader; a folder of frames without folders is one clip."""
        for one in given:
            path = Path(one) if isinstance(one, (str, Path)) else None
            if path is not None and path.is_dir() and len(frames_of(path)) > 1:
                yield str(one), path
            else:
                yield from super().inputs([one])

    def show(self, raw: Any) -> Html:
        """A strip of frames, the first on the left."""
        clip = read_clip(raw, _SHOWN, self.every * self.frames / _SHOWN, max(self.size, 64))
        apart = np.pad(clip, ((0, 0), (0, 0), (0, clip.shape[2] // 32), (0, 0)), constant_values=255)
        return thumbnail(np.concatenate(list(apart), 1), size=66 * _SHOWN)

    @classmethod
    def drawn(cls, n: int, size: int, seed: int, task: str) -> Source:
        """Shapes of which one moves."""
        return DrawnClips(n, size, seed)

    @classmethod
    def arranged(cls, source: Folder) -> Folder:
        return arranged(source)
