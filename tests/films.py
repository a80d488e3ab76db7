"""Small videos with known shots, for tests: textures that drift, cuts, dissolves, flashes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (160, 96)  # width, height


def scene(number: int, frames: int, *, speed: float = 0.3, noise: float = 2.0) -> Iterator[np.ndarray]:
    """Yield frames uint8 (96, 160, 3) of one texture, another for each number, that drifts by `speed` pixels."""
    random = np.random.default_rng(number)
    base = np.asarray(
        Image.fromarray(random.integers(0, 256, (7, 12, 3), np.uint8)).resize((320, 192), Image.Resampling.BICUBIC)
    )
    for i in range(frames):
        left = int(i * speed) % 150
        grain = random.normal(0, noise, (SIZE[1], SIZE[0], 1))
        yield np.clip(base[20 : 20 + SIZE[1], left : left + SIZE[0]] + grain, 0, 255).astype(np.uint8)


def dissolve(one: list[np.ndarray], two: list[np.ndarray], frames: int) -> list[np.ndarray]:
    """Two scenes, the end of the first mixed with the start of the second over so many frames."""
    mixed = [
        ((1 - w) * a.astype(np.float32) + w * b.astype(np.float32)).astype(np.uint8)
        for a, b, w in zip(one[-frames:], two[:frames], np.linspace(0, 1, frames), strict=True)
    ]
    return [*one[:-frames], *mixed, *two[frames:]]


def write(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    rate: int = 25,
    times: Iterable[int] | None = None,
    codec: str = "libx264",
    keys: int = 250,
    shape: tuple[int, int] = (1, 1),
    **options: Any,
) -> Path:
    """Write a video. `times`: milliseconds of each frame; `keys`: frames between two key packets, at most."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        if codec != "gif":
            stream.codec_context.gop_size = keys
        stream.sample_aspect_ratio = Fraction(*shape)
        stream.options = {k: str(v) for k, v in options.items()}
        when = None if times is None else iter(times)
        if when is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, pixels in enumerate(frames):
            if not i:
                stream.height, stream.width = pixels.shape[:2]
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts = i if when is None else next(when)
            frame.time_base = Fraction(1, rate) if when is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
