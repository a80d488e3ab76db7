"""Pixels of any kind as 8 bits, by the rules in `decode`; and their resizing, several times faster where PyTorch can.

PyTorch has a vectorised kernel for three interleaved channels of 8 bits; its results are Pillow's to within 2 levels.
In a process that has not loaded PyTorch, Pillow resizes: loading it takes longer than some thousand pictures.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from PIL import Image


def resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return uint8 (H, W, 3) at another size, antialiased bilinear. Thread-safe."""
    if "torch" not in sys.modules:
        return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
    import torch
    from torch.nn.functional import interpolate

    writable = picture if picture.flags.writeable else picture.copy()
    x = torch.from_numpy(writable).permute(2, 0, 1)[None]  # channels-last, as the fast kernel wants it
    with torch.inference_mode():
        out = interpolate(x, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    return out[0].permute(1, 2, 0).numpy()


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo EXIF orientation on (H, W) or (H, W, 3); a view where possible."""
    if orientation in (3, 4, 6, 7):
        pixels = pixels[::-1]
    if orientation in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    return pixels.swapaxes(0, 1) if orientation > 4 else pixels


def _eight_bit(values: np.ndarray) -> np.ndarray:
    """Grey values of any integer or float type, (H, W) -> uint8 (H, W), by the rules of `decode`."""
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    floating = values.dtype.kind == "f"
    wide = values.astype(np.float64)
    if floating:
        wide[~np.isfinite(wide)] = 0
    low, high = float(wide.min()), float(wide.max())
    if low < 0 or high > (255 if floating else 65535):
        wide = (wide - low) * 255 / (high - low) if high > low else wide * 0
    elif high > 255:
        wide /= 257
    elif floating and high <= 1:
        wide *= 255
    return np.floor(wide + 0.5).astype(np.uint8)


def pixels_of(kind: str, picture: Any) -> np.ndarray:
    """Loaded Pillow picture -> uint8 (H, W) or (H, W, 3)."""
    mode = picture.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        values = np.asarray(picture)
        grey = _eight_bit(values)
        clear = picture.info.get("transparency")
        if isinstance(clear, int):
            grey[values == clear] = 255
        return grey
    if mode == "CMYK" and kind == "JPEG" and "adobe" not in picture.info:
        picture = Image.merge("CMYK", [band.point(range(255, -1, -1)) for band in picture.split()])
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or picture.has_transparency_data:
        if mode == "La":
            picture = picture.convert("LA")
        try:
            picture = picture.convert("RGBA")
        except (ValueError, TypeError, OverflowError):  # a tRNS colour that this bit depth cannot hold: none has it
            picture.info.pop("transparency", None)
            picture = picture.convert("RGBA")
        white = Image.new("RGB", picture.size, (255, 255, 255))
        white.paste(picture, mask=picture.getchannel("A"))
        return np.array(white)
    if mode in ("1", "L"):
        return np.array(picture.convert("L"))
    return np.array(picture if mode == "RGB" else picture.convert("RGB"))
