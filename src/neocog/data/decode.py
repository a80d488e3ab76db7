"""Bytes of a picture file -> uint8 RGB pixels, upright: the one decoder and the one evaluation transform.

simplejpeg decodes JPEG in colour (libjpeg-turbo, as Pillow, and the same pixels, without Pillow's copies), and Pillow
all else, including what simplejpeg refuses. `PIL.Image.open` is not used: it warns about large pictures through the
process-wide warning filters, and tries every plugin it knows. Here the first bytes choose the plugin, the header is
checked against `MAX_PIXELS`, and only then pixels are decoded. No global state of Pillow is read or changed.

How each kind of pixel becomes RGB:

- grey, 1-bit, palette, YCbCr, Lab: Pillow's own conversion; ICC profiles are not applied.
- alpha or a transparent colour (LA, RGBA, PA, PNG tRNS, GIF): laid over white.
- CMYK and YCCK JPEG: as Adobe writes them (inverted) if the Adobe marker is there, else as the numbers say.
- 16-bit grey: divided by 257, so 65535 is white. 16-bit colour: the high byte.
- 32-bit integer: 0..255 as it is, 0..65535 divided by 257, anything else stretched from its range to 0..255.
- float: 0..1 times 255, 0..255 as it is, anything else stretched; NaN and infinities become 0.
- several frames or pages: the first (HEIC: the primary one).
- HEIC: libheif turns it upright, and brings more than 8 bits to 8.
"""

from __future__ import annotations

import importlib.util
import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

from neocog.data.scaling import pixels_of, resized, upright
from neocog.data.sniff import orientation, sniff
from neocog.errors import DecodeError, UsageError
from neocog.records import Preprocess

_GROUND = (124, 116, 104)  # what lies around a padded picture: the mean colour of photographs
_LONG = 3  # times as long as wide: such a picture is not resized whole
UNSUPPORTED = "not supported: "  # how the reason begins where a format has no reader
MAX_PIXELS = 200_000_000  # 200 Mpixel decode to 0.6 GB; the largest phone sensors make 200 Mpixel pictures


@dataclass(frozen=True, slots=True)
class PictureInfo:
    """What the header of a picture file says. `width` and `height` are those of the upright picture, in pixels."""

    format: str  # "JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF", "HEIC"
    mode: str  # Pillow's name of the stored pixels: "RGB", "L", "P", "CMYK", "I;16", ...
    width: int
    height: int
    rotated: bool  # EXIF (or XMP, or the TIFF tag) says that the stored pixels are not upright
    frames: int


class _Jpeg(JpegImagePlugin.JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Skip what Pillow does here: parsing all of EXIF for a resolution, with warnings when it is damaged."""


_READERS: dict[str, Any] = {
    "JPEG": _Jpeg,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}
if features.check("webp"):
    _READERS["WEBP"] = WebPImagePlugin.WebPImageFile
if features.check("jpg_2000"):
    _READERS["JPEG2000"] = Jpeg2KImagePlugin.Jpeg2KImageFile
if "avif" in features.modules and features.check("avif"):  # Pillow 11.3 and later
    from PIL import AvifImagePlugin

    _READERS["AVIF"] = AvifImagePlugin.AvifImageFile

_REMEDIES = {  # kind: what to type where there is no reader
    "HEIC": "pip install 'neocog[heic]'",
    "AVIF": "pip install --upgrade pillow",
    "WEBP": "pip install --upgrade pillow",
    "JPEG2000": "pip install --upgrade pillow",
}

_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_filters: warnings.catch_warnings | None = None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings that come from Pillow's modules; safe when several threads are inside at once.

    `warnings.catch_warnings` alone is not: two overlapping uses restore each other's filters. The first thread in
    sets the filter, the last one out restores it. Used only for the formats whose plugins warn.
    """
    global _quiet_depth, _quiet_filters
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0 and _quiet_filters is not None:
                _quiet_filters.__exit__(None, None, None)


def reads(kind: str) -> bool:
    """Whether there is a reader for a format; that of HEIC (pillow-heif, extra `heic`) is loaded when it is needed."""
    if kind == "HEIC" and kind not in _READERS and importlib.util.find_spec("pillow_heif") is not None:
        from pillow_heif import HeifImageFile

        _READERS[kind] = HeifImageFile
    return kind in _READERS


def now_readable(reason: str) -> bool:
    """Whether what `decode` could not read for this reason, because a reader was missing, can be read by now."""
    return reason.startswith(UNSUPPORTED) and reads(reason.removeprefix(UNSUPPORTED).partition(";")[0])


@contextmanager
def readable(data: bytes) -> Iterator[tuple[str, Any]]:
    """Yield (format, opened Pillow picture, header read only); whatever goes wrong inside becomes DecodeError."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise UsageError(f"expected the bytes of a picture file, got {type(data).__name__}; open_source reads paths")
    data = bytes(data)  # no copy if it is bytes already
    kind = sniff(data)
    if not reads(kind):
        remedy = f"; to read it: {_REMEDIES[kind]}" if kind in _REMEDIES else ""
        raise DecodeError(f"{UNSUPPORTED}{kind}{remedy}")
    warns = kind in ("TIFF", "GIF", "AVIF") or (kind == "PNG" and data.find(b"acTL", 0, 4096) >= 0)
    try:
        with quiet() if warns else nullcontext():
            picture = _READERS[kind](io.BytesIO(data), "")
            if min(picture.size) < 1:
                raise DecodeError(f"damaged {kind}: {picture.size[0]}x{picture.size[1]} pixels")
            yield kind, picture
    except DecodeError:
        raise
    except Image.DecompressionBombError:
        raise DecodeError(f"too large: {kind} announces more pixels than are accepted") from None
    except MemoryError:
        raise DecodeError(f"too large: {kind} does not fit into memory") from None
    except Exception as error:  # plugins raise OSError, SyntaxError, ValueError, struct.error, IndexError, ...
        raise DecodeError(_reason(kind, data, error)) from error


def _reason(kind: str, data: bytes, error: Exception) -> str:
    """A few words for what a Pillow plugin raised."""
    said = str(error).split("\n")[0][:80] or type(error).__name__
    cut = {
        "JPEG": b"\xff\xd9" not in data[-64:],
        "PNG": b"IEND" not in data[-64:],
        "GIF": not data.endswith(b";"),
        "WEBP": int.from_bytes(data[4:8], "little") + 8 > len(data),
        "BMP": max(26, int.from_bytes(data[2:6], "little")) > len(data),
    }
    if cut.get(kind) or isinstance(error, EOFError) or "truncated" in said.lower() or "not enough image" in said:
        return f"truncated {kind} ({len(data):,} bytes)"
    return f"damaged {kind}: {said}"


def decode(data: bytes, *, short_side: int | None = None, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode the bytes of a picture file to uint8 (H, W, 3): RGB, upright, first frame. Thread-safe.

    `short_side`: the JPEG decoder may scale down by 2, 4 or 8 (several times faster) as long as the short side
    stays at least this many pixels. `max_pixels` is checked on the header, before any pixel is decoded.
    Raises DecodeError with the reason in a few words: truncated, damaged, too large, not a picture, not supported.
    """
    return decoded(data, short_side=short_side, max_pixels=max_pixels)[0]


def decoded(
    data: bytes, *, short_side: int | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, tuple[int, int]]:
    """As `decode`, with the height and width of the upright picture before the decoder scaled it down."""
    with readable(data) as (kind, picture):
        width, height = picture.size
        if width * height > max_pixels:
            raise DecodeError(
                f"too large: {kind} of {width}x{height} = {width * height / 1e6:,.0f} million pixels, "
                f"{max_pixels / 1e6:,.0f} million are accepted (a decompression bomb?)"
            )
        if kind == "JPEG":
            turn = orientation(picture.info)
            size = (width, height) if turn > 4 else (height, width)
            pixels = _turbo(data, picture, short_side)
            if pixels is not None:
                return np.ascontiguousarray(upright(pixels, turn)), size
            if short_side:
                picture.draft(None, (short_side, short_side))
            picture.load()
            return _rgb(kind, picture), size
        picture.load()
        pixels = _rgb(kind, picture)
        return pixels, (pixels.shape[0], pixels.shape[1])


def _turbo(data: bytes, picture: Any, short_side: int | None) -> np.ndarray | None:
    """A colour JPEG as Pillow decodes it, pixel by pixel, in half the time; None for what only Pillow understands."""
    if picture.mode != "RGB":
        return None
    short, scale = min(picture.size), 1
    while short_side and scale < 8 and short // (2 * scale) >= short_side:
        scale *= 2
    least = {"min_width": -(-picture.width // scale), "min_height": -(-picture.height // scale)} if scale > 1 else {}
    try:
        if simplejpeg.decode_jpeg_header(data)[2] != "YCbCr":
            return None
        return simplejpeg.decode_jpeg(data, "RGB", **least)  # type: ignore[no-any-return]
    except ValueError:  # damaged: Pillow says whether, and how
        return None


def _rgb(kind: str, picture: Any) -> np.ndarray:
    """Loaded Pillow picture -> uint8 (H, W, 3), upright."""
    pixels = pixels_of(kind, picture)
    if kind != "TIFF":  # Pillow turns TIFF itself
        pixels = upright(pixels, orientation(picture.info))
    if pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], 3, axis=2)
    return np.ascontiguousarray(pixels)


def inspect(data: bytes) -> PictureInfo:
    """Read the header of a picture file; pixels are not decoded, so a damaged body is not noticed.

    Raises DecodeError like `decode`, except that a large picture is reported, not refused.
    """
    with readable(data) as (kind, picture):
        width, height = picture.size
        if kind == "TIFF":  # newer Pillow has swapped `size` already; the tags are what is stored
            tags = picture.tag_v2
            width, height, turn = int(tags[256]), int(tags[257]), tags.get(274, 1)
        else:
            turn = orientation(picture.info)
        if turn in (5, 6, 7, 8):
            width, height = height, width
        mode, frames = picture.mode, int(getattr(picture, "n_frames", 1))
    return PictureInfo(kind, mode, width, height, turn in range(2, 9), frames)


def prepare(picture: np.ndarray | bytes, pre: Preprocess) -> np.ndarray:
    """The evaluation transform: file bytes or uint8 (H, W), (H, W, 1), (H, W, 3) -> uint8 (C, H, W) of `pre.input`.

    The short side is resized to `pre.resize` (antialiased bilinear; a smaller picture is scaled up), the centre is
    cut out, and 1 channel means luma (ITU-R 601). Where the short side is `pre.resize` already, pixels are cut out
    unchanged. Used by validation, prediction and indexing, so that they can never disagree.
    Raises DecodeError for bytes that cannot be read, UsageError for any other input.
    """
    return placed(picture, pre)[0]


def placed(picture: np.ndarray | bytes, pre: Preprocess) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """As `prepare`, with where things went.

    Returns:
        The input uint8 (C, H, W); the affine map float64 (2, 3) from pixels of the upright file to pixels of the input
        (pixel i covers [i, i + 1)); height and width of the upright file.
    """
    if pre.size > pre.resize or pre.size < 1 or pre.channels not in (1, 3):
        raise UsageError(
            f"expected 1 <= size <= resize and 1 or 3 channels, got size={pre.size}, resize={pre.resize}, "
            f"channels={pre.channels}"
        )
    if isinstance(picture, np.ndarray):
        picture, size = _checked(picture), (picture.shape[0], picture.shape[1])
    else:
        picture, size = decoded(picture, short_side={"crop": pre.resize, "pad": min(pre.input)}.get(pre.fit))
    if pre.fit == "tile":
        cut, matrix = picture, np.eye(2, 3)
    elif pre.fit == "pad":
        cut, matrix = _padded(picture, size, pre)
    else:
        cut, matrix = _cut(picture, size, pre)
    if pre.channels == 1:
        grey = cut if cut.ndim == 2 else np.asarray(Image.fromarray(np.ascontiguousarray(cut)).convert("L"))
        return np.array(grey[None]), matrix, size
    if cut.ndim == 2:
        return np.repeat(cut[None], 3, axis=0), matrix, size
    return np.ascontiguousarray(cut.transpose(2, 0, 1)), matrix, size


def _cut(picture: np.ndarray, size: tuple[int, int], pre: Preprocess) -> tuple[np.ndarray, np.ndarray]:
    """The centre of a picture whose short side is brought to `pre.resize`, and where it came from.

    Of a long picture only the centre and a margin for the filter are computed: a panorama of 20,000 x 20 pixels would
    otherwise become one of 256,000 x 256.
    """
    height, width = picture.shape[:2]
    rows, columns = _grid(height, width, pre.resize)
    top, left = (rows - pre.size) // 2, (columns - pre.size) // 2
    matrix = np.array([[columns / size[1], 0.0, -left], [0.0, rows / size[0], -top]])
    if min(height, width) != pre.resize:
        if picture.ndim == 3 and max(rows, columns) <= _LONG * pre.resize:
            picture = resized(picture, rows, columns)
        else:
            spans: list[tuple[float, float, int, int]] = []  # per axis: source from, to, pixels made, pixels to skip
            for length, grid in ((height, rows), (width, columns)):
                scale = length / grid  # source pixels per result pixel
                margin = int(np.ceil((max(scale, 1.0) + 1) / scale))  # the triangle filter reaches max(scale, 1) pixels
                start = (grid - pre.size) // 2
                first, last = max(0, start - margin), min(grid, start + pre.size + margin)
                spans.append((first * scale, min(last * scale, length), last - first, start - first))
            (y0, y1, rows, top), (x0, x1, columns, left) = spans
            image = Image.fromarray(np.ascontiguousarray(picture))
            box = (x0, y0, x1, y1)
            picture = np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0))
    return picture[top : top + pre.size, left : left + pre.size], matrix


def _padded(picture: np.ndarray, size: tuple[int, int], pre: Preprocess) -> tuple[np.ndarray, np.ndarray]:
    """The whole picture inside `pre.input`, on the mean colour, and where it went."""
    height, width = pre.input
    scale = min(height / size[0], width / size[1])
    rows, columns = (max(1, min(most, round(side * scale))) for side, most in zip(size, (height, width), strict=True))
    top, left = (height - rows) // 2, (width - columns) // 2
    if picture.shape[:2] != (rows, columns):
        if picture.ndim == 3:
            picture = resized(picture, rows, columns)
        else:
            image = Image.fromarray(np.ascontiguousarray(picture))
            picture = np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR, reducing_gap=2.0))
    matrix = np.array([[columns / size[1], 0.0, left], [0.0, rows / size[0], top]])
    if (rows, columns) == (height, width):
        return picture, matrix
    made = np.empty((height, width, *picture.shape[2:]), dtype=np.uint8)
    made[:] = _GROUND if picture.ndim == 3 else _GROUND[1]
    made[top : top + rows, left : left + columns] = picture
    return made, matrix


def _checked(picture: np.ndarray) -> np.ndarray:
    """uint8 (H, W), (H, W, 1) or (H, W, 3) -> (H, W) or (H, W, 3). Raises: UsageError for anything else."""
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (1,), (3,)):
        raise UsageError(
            f"expected a uint8 picture of shape (H, W), (H, W, 1) or (H, W, 3), got {picture.dtype} {picture.shape}"
        )
    if min(picture.shape[:2]) < 1:
        raise UsageError(f"expected a picture of at least 1x1 pixel, got shape {picture.shape}")
    return picture[:, :, 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture


def shrunk(picture: np.ndarray, short_side: int) -> np.ndarray:
    """Return uint8 (H, W, 3) with this short side, or as it is where that is smaller already, or the picture is long.

    `prepare` then has nothing more to resize, and gives what it gives for the whole picture.
    """
    height, width = picture.shape[:2]
    rows, columns = _grid(height, width, short_side)
    if min(height, width) <= short_side or max(rows, columns) > _LONG * short_side:
        return picture
    return resized(picture, rows, columns)


def _grid(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(H, W) of a picture whose short side is brought to `short_side`; rounded half up."""
    short = min(height, width)
    rows, columns = ((2 * side * short_side + short) // (2 * short) for side in (height, width))
    return max(short_side, rows), max(short_side, columns)
