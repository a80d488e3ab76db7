"""Every kind of picture file decodes to upright RGB or is refused with a reason; nothing else happens."""

import contextlib
import importlib
import io
import struct
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from neocog.data.decode import MAX_PIXELS, PictureInfo, decode, inspect, prepare, shrunk
from neocog.data.scaling import resized
from neocog.errors import DecodeError, UsageError
from neocog.records import Preprocess


def file_bytes(picture, format, **options):
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    out = io.BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()


def smooth(height, width, seed=0):
    """A smooth colour picture, uint8 (H, W, 3), that JPEG keeps within a few grey levels."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def png(width, height, bits, colour, rows, *chunks):
    """A PNG made by hand; `chunks` = (name, data) before IDAT."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = b"".join(chunk(*c) for c in chunks) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


# ---- formats


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_are_exact(format):
    picture = noise(13, 17)
    data = file_bytes(picture, format)
    assert np.array_equal(decode(data), picture)
    assert inspect(data) == PictureInfo(format, "RGB", 17, 13, False, 1)


@pytest.mark.parametrize("options", [{"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}])
def test_compressed_tiff(options):
    picture = noise(40, 30)
    assert np.array_equal(decode(file_bytes(picture, "TIFF", **options)), picture)


@pytest.mark.skipif(not features.check("webp"), reason="this Pillow was built without WebP")
def test_webp():
    picture = noise(13, 17)
    assert np.array_equal(decode(file_bytes(picture, "WEBP", lossless=True)), picture)
    assert inspect(file_bytes(picture, "WEBP")) == PictureInfo("WEBP", "RGB", 17, 13, False, 1)


@pytest.mark.skipif("avif" not in features.modules or not features.check("avif"), reason="this Pillow lacks AVIF")
def test_avif():
    picture = smooth(48, 64)
    assert np.abs(decode(file_bytes(picture, "AVIF", quality=95)).astype(int) - picture).mean() < 4


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg(progressive):
    picture = smooth(60, 80)
    data = file_bytes(picture, "JPEG", quality=95, progressive=progressive)
    got = decode(data)
    assert got.shape == (60, 80, 3) and np.abs(got.astype(int) - picture).mean() < 3
    assert inspect(data) == PictureInfo("JPEG", "RGB", 80, 60, False, 1)


def test_result_is_writable_contiguous_uint8():
    for data in (file_bytes(noise(8, 9), "PNG"), file_bytes(noise(8, 9)[:, :, 0], "PNG"), oriented("JPEG", 6)):
        got = decode(data)
        assert got.dtype == np.uint8 and got.flags.writeable and got.flags.c_contiguous


def test_any_bytes_like_object_and_nothing_else():
    data = file_bytes(noise(5, 6), "PNG")
    assert np.array_equal(decode(memoryview(data)), decode(bytearray(data)))
    with pytest.raises(UsageError, match="bytes of a picture file, got str"):
        decode("cat.jpg")


# ---- upright


def oriented(format, orientation, picture=None):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return file_bytes(smooth(48, 64) if picture is None else picture, format, exif=exif)


REFERENCE = {  # what has to be done to the stored pixels, from the EXIF standard's "row 0 is the visual ... side"
    1: lambda a: a,
    2: lambda a: np.fliplr(a),  # row 0 top, column 0 right
    3: lambda a: np.rot90(a, 2),  # bottom, right
    4: lambda a: np.flipud(a),  # bottom, left
    5: lambda a: np.transpose(a, (1, 0, 2)),  # row 0 is the left side, column 0 the top
    6: lambda a: np.rot90(a, -1),  # row 0 is the right side: turn clockwise
    7: lambda a: np.rot90(np.transpose(a, (1, 0, 2)), 2),  # row 0 right, column 0 bottom
    8: lambda a: np.rot90(a, 1),  # row 0 is the left side, column 0 the bottom: turn anticlockwise
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_upright(format, orientation):
    if format == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow was built without WebP")
    data = oriented(format, orientation)
    stored = decode(oriented(format, 1))
    upright = REFERENCE[orientation](stored)
    assert np.array_equal(decode(data), upright)
    info = inspect(data)
    assert (info.height, info.width) == upright.shape[:2] and info.rotated == (orientation != 1)


def test_orientation_with_draft():
    data = oriented("JPEG", 6, smooth(480, 640))
    got = decode(data, short_side=100)
    assert got.shape == (160, 120, 3)
    full = Image.fromarray(np.rot90(smooth(480, 640), -1)).resize((120, 160), Image.Resampling.BOX)
    assert np.abs(got.astype(int) - np.asarray(full)).mean() < 3


@pytest.mark.parametrize("orientation", [0, 9, 700])
def test_impossible_orientation_is_ignored(orientation):
    assert decode(oriented("JPEG", orientation)).shape == (48, 64, 3)
    assert not inspect(oriented("JPEG", orientation)).rotated


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"junk"]
)
def test_damaged_exif_is_ignored(exif):
    assert decode(file_bytes(smooth(48, 64), "JPEG", exif=exif)).shape == (48, 64, 3)


def test_orientation_from_xmp():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = file_bytes(smooth(48, 64), "JPEG", xmp=xmp)
    assert decode(data).shape == (64, 48, 3) and inspect(data).rotated


# ---- kinds of pixels


def test_grey():
    grey = noise(9, 11)[:, :, 0]
    assert np.array_equal(decode(file_bytes(grey, "PNG")), np.stack([grey] * 3, 2))
    assert decode(file_bytes(grey, "JPEG")).shape == (9, 11, 3)


def test_one_bit():
    bits = noise(9, 11)[:, :, 0] > 128
    for format in ("PNG", "TIFF", "BMP"):
        got = decode(file_bytes(Image.fromarray(bits), format))
        assert np.array_equal(got, np.stack([bits * np.uint8(255)] * 3, 2))


def test_palette():
    picture = Image.fromarray(smooth(20, 30)).quantize(16)
    assert np.array_equal(decode(file_bytes(picture, "PNG")), np.asarray(picture.convert("RGB")))
    assert np.array_equal(decode(file_bytes(picture, "GIF")), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_palette_with_a_transparent_colour(format):
    picture = Image.new("P", (4, 2), 0)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((3, 1), 1)
    got = decode(file_bytes(picture, format, transparency=1))
    assert got[1, 3].tolist() == [255, 255, 255] and got[0, 0].tolist() == [255, 0, 0]


def test_palette_with_alpha_for_each_colour():
    rows = b"\0\x00\x01\x02"  # three pixels, palette entries 0 1 2
    data = png(3, 1, 8, 3, rows, (b"PLTE", bytes([200, 0, 0, 0, 200, 0, 0, 0, 200])), (b"tRNS", bytes([255, 0, 128])))
    got = decode(data)[0].astype(int)
    assert got[:2].tolist() == [[200, 0, 0], [255, 255, 255]]
    assert np.abs(got[2] - [127, 127, 227]).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_alpha_is_laid_over_white(mode, format):
    stored = noise(12, 10)[:, :, : len(mode) - 1] if mode == "RGBA" else noise(12, 10)[:, :, :1]
    alpha = noise(12, 10, seed=1)[:, :, :1]
    picture = Image.fromarray(np.concatenate([stored, alpha], 2))
    assert picture.mode == mode
    expected = (stored * (alpha / 255.0) + 255 * (1 - alpha / 255.0)) * np.ones(3)
    assert np.abs(decode(file_bytes(picture, format)) - expected).max() <= 1


def test_webp_alpha():
    if not features.check("webp"):
        pytest.skip("this Pillow was built without WebP")
    stored = np.zeros((6, 6, 4), np.uint8)
    stored[:3] = (10, 20, 30, 255)
    got = decode(file_bytes(Image.fromarray(stored), "WEBP", lossless=True))
    assert (got[:3] == (10, 20, 30)).all() and (got[3:] == 255).all()


def test_transparent_colour_of_rgb_and_grey_png():
    got = decode(png(2, 1, 8, 2, b"\0\x01\x02\x03\x09\x09\x09", (b"tRNS", struct.pack(">HHH", 1, 2, 3))))
    assert got.tolist() == [[[255] * 3, [9] * 3]]
    got = decode(png(2, 1, 8, 0, b"\0\x07\x09", (b"tRNS", struct.pack(">H", 7))))
    assert got.tolist() == [[[255] * 3, [9] * 3]]
    got = decode(png(2, 1, 16, 0, b"\0" + struct.pack(">HH", 700, 257 * 9), (b"tRNS", struct.pack(">H", 700))))
    assert got.tolist() == [[[255] * 3, [9] * 3]]


def test_sixteen_bit_grey_is_divided_by_257():
    values = np.array([[0, 257, 257 * 100, 65535], [128, 129, 385, 386]], np.uint16)
    expected = [[0, 1, 100, 255], [0, 1, 1, 2]]
    for format in ("PNG", "TIFF"):
        assert decode(file_bytes(Image.fromarray(values), format))[:, :, 0].tolist() == expected
    pgm = b"P5 4 2 65535\n" + values.astype(">u2").tobytes()
    assert decode(pgm)[:, :, 0].tolist() == expected


def test_sixteen_bit_colour_keeps_the_high_byte():
    assert decode(png(1, 1, 16, 2, b"\0" + struct.pack(">HHH", 0x1234, 0xFF00, 0x00FF))).tolist() == [[[0x12, 0xFF, 0]]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 7, 255]], np.int32), [0, 7, 255]),
        (np.array([[0, 257 * 7, 65535]], np.int32), [0, 7, 255]),
        (np.array([[-100, 0, 100]], np.int32), [0, 128, 255]),
        (np.array([[0, 1 << 20, 1 << 21]], np.int32), [0, 128, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 7.0, 255.0]], np.float32), [0, 7, 255]),
        (np.array([[-1.0, 0.0, 3.0]], np.float32), [0, 64, 255]),
        (np.array([[np.nan, np.inf, 1.0]], np.float32), [0, 0, 255]),
        (np.array([[900.0, 900.0, 900.0]], np.float32), [0, 0, 0]),
    ],
)
def test_wide_tiff(values, expected):
    assert decode(file_bytes(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == expected


def cmyk_jpeg(stored, transform):
    """JPEG whose four stored channels are `stored` (H, W, 4), with the Adobe transform 0 (CMYK), 2 (YCCK) or none."""
    data = file_bytes(as_cmyk(255 - stored), "JPEG", quality=100)  # Pillow inverts what it writes
    at = data.index(b"Adobe")
    if transform is None:
        return data[: at - 4] + data[at - 4 + 16 :]
    return data[: at + 11] + bytes([transform]) + data[at + 12 :]


def as_cmyk(array):
    return Image.merge("CMYK", [Image.fromarray(np.ascontiguousarray(array[:, :, i])) for i in range(4)])


def flat(*values):
    return np.full((16, 16, 4), values, np.uint8)


def near(got, expected):
    return np.abs(got.astype(int) - expected).max() <= 3


def test_cmyk_jpeg_as_adobe_writes_it():
    # Adobe stores 255 - ink: cyan 255 and half black is stored as (0, 255, 255, 128) and shows as dark cyan
    got = decode(cmyk_jpeg(flat(0, 255, 255, 128), 0))
    assert near(got, [0, 128, 128])
    assert near(decode(cmyk_jpeg(flat(255, 255, 255, 255), 0)), [255, 255, 255])


def test_cmyk_jpeg_without_the_adobe_marker_is_not_inverted():
    assert near(decode(cmyk_jpeg(flat(255, 0, 0, 127), None)), [0, 128, 128])
    assert near(decode(cmyk_jpeg(flat(0, 0, 0, 0), None)), [255, 255, 255])


def test_ycck_jpeg():
    # Adobe keeps the YCbCr of (C, M, Y), and 255 - K: inks (200, 40, 90, 0) show as 255 minus them
    ycc = Image.new("RGB", (1, 1), (200, 40, 90)).convert("YCbCr").getpixel((0, 0))
    data = cmyk_jpeg(flat(*ycc, 255), 2)
    assert near(decode(data), [55, 215, 165])
    assert inspect(data).mode == "CMYK"


def test_cmyk_tiff():
    assert near(decode(file_bytes(as_cmyk(flat(255, 0, 0, 127)), "TIFF")), [0, 128, 128])


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame(format):
    if format == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow was built without WebP")
    frames = [Image.new("RGB", (20, 10), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if format == "WEBP" else {}
    data = file_bytes(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert (decode(data) == (255, 0, 0)).all()
    assert inspect(data).frames == 3


# ---- the JPEG decoder's own scaling


def test_draft_stays_large_enough_and_close():
    data = file_bytes(smooth(1500, 2000), "JPEG", quality=95)
    got = decode(data, short_side=64)
    assert 64 <= min(got.shape[:2]) < 1500 / 4
    full = Image.fromarray(decode(data)).resize((got.shape[1], got.shape[0]), Image.Resampling.BOX)
    assert np.abs(got.astype(int) - np.asarray(full)).mean() < 1


@pytest.mark.parametrize("short_side", [1, 63, 64, 65, 127, 128, 129, 255, 256, 257, 512, 5000])
def test_draft_never_below_the_short_side(short_side):
    got = decode(file_bytes(smooth(513, 700), "JPEG"), short_side=short_side)
    assert min(got.shape[:2]) >= min(short_side, 513)
    assert decode(file_bytes(noise(40, 40), "PNG"), short_side=8).shape == (40, 40, 3)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30}, {"restart_marker_rows": 1}], ids=str)
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("short_side", [None, 20, 40, 80])
def test_jpeg_has_the_pixels_that_pillow_gives(options, subsampling, short_side):
    data = file_bytes(noise(83, 121) // 4 + smooth(83, 121) // 2, "JPEG", subsampling=subsampling, **options)
    expected = Image.open(io.BytesIO(data))
    if short_side:
        expected.draft(None, (short_side, short_side))
    assert np.array_equal(decode(data, short_side=short_side), np.asarray(expected))


def test_a_jpeg_that_only_pillow_reads_is_read():
    data = file_bytes(smooth(40, 50), "JPEG", quality=95)
    spoilt = data[:-2] + b"\x00\x00" + data[-2:]  # simplejpeg refuses bytes that belong to nothing
    assert np.array_equal(decode(spoilt), decode(data))


# ---- resizing


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 90), st.integers(1, 90), st.integers(0, 9))
def test_resizing_is_pillows(height, width, rows, columns, seed):
    picture = noise(height, width, seed)
    expected = np.asarray(Image.fromarray(picture).resize((columns, rows), Image.Resampling.BILINEAR))
    picture.flags.writeable = False
    assert np.abs(resized(picture, rows, columns).astype(int) - expected).max() <= 2


# ---- refused


def test_bomb_is_refused_from_the_header():
    bomb = png(60_000, 60_000, 1, 0, b"\0")
    with pytest.raises(DecodeError, match=r"too large: PNG of 60000x60000 = 3,600 million pixels"):
        decode(bomb)
    assert inspect(bomb).width == 60_000
    screen, frame = struct.pack("<HH", 65535, 65535), struct.pack("<HHHH", 0, 0, 65535, 65535)
    gif = b"GIF89a" + screen + b"\0\0\0," + frame + b"\0\x02\0;"
    with pytest.raises(DecodeError, match="too large"):
        decode(gif)


def test_large_but_accepted_picture_gives_no_warning():
    assert Image.MAX_IMAGE_PIXELS < 12_000 * 8_000 < MAX_PIXELS  # where PIL.Image.open would warn
    got = decode(file_bytes(Image.new("1", (12_000, 8_000)), "PNG"))  # warnings are errors
    assert got.shape == (8_000, 12_000, 3)
    assert Image.MAX_IMAGE_PIXELS is not None


def test_limit_can_be_set():
    data = file_bytes(noise(10, 10), "PNG")
    assert decode(data, max_pixels=100).shape == (10, 10, 3)
    with pytest.raises(DecodeError, match="too large"):
        decode(data, max_pixels=99)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello, this is a note called cat.jpg\n", "not a picture: text"),
        ("Grüße aus Köln".encode() * 200, "not a picture: text"),
        ("hello".encode("utf-16"), "not a picture: text"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "not a picture: an HTML page"),
        (b"\n<html>", "not a picture: an HTML page"),
        (b'{"error": "not found"}', "not a picture: text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "Git LFS pointer"),
        (bytes(5000), "zero bytes only"),
        (bytes(range(256)), "not a picture: unknown content"),
        (b"\xfe\xff\xd8", "not a picture"),
        (b"<?xml version='1.0'?><svg xmlns='x'></svg>", "not supported: SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),  # damaged, or not supported where pillow-heif is missing
        (b"\0\0\0\x18ftypisom\0\0\0\0isomavc1", "not supported: MP4"),
        (b"%PDF-1.7\n", "not supported: PDF"),
        (b"RIFF\xff\0\0\0WAVEfmt ", "not supported: WAV recording"),
        (b"RIFF\xff\0\0\0AVI LIST", "not supported: AVI video"),
        (b'fLaC\0\0\0"', "not supported: FLAC recording"),
        (b"8BPS\0\1", "not supported: PSD"),
        (b"PK\x03\x04abc", "not supported: ZIP"),
        (b"\xff\xd8\xff", "truncated JPEG"),
        (b"\x89PNG\r\n\x1a\n", "truncated PNG"),
        (b"GIF89a", "truncated GIF"),
        (b"RIFF\xff\0\0\0WEBPVP8 ", "truncated WEBP"),
        (b"BM", "truncated BMP"),
        (b"II*\0", "TIFF"),
        (b"P6 4 4 255\nabc", "PPM"),
    ],
)
def test_reasons(data, reason):
    for read in (decode, inspect):
        if read is inspect and data.startswith(b"P6"):
            continue  # its header is good
        with pytest.raises(DecodeError) as caught:
            read(data)
        assert reason in str(caught.value) and len(str(caught.value)) < 160


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated(format, share):
    if format == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow was built without WebP")
    data = file_bytes(noise(64, 64), format)
    with pytest.raises(DecodeError, match=f"truncated {format}"):
        decode(data[: int(len(data) * share)])


# ---- anything at all


SEEDS = {
    format: file_bytes(smooth(24, 32), format, **options)
    for format, options in {
        "JPEG": {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"},
        "PNG": {"save_all": True, "append_images": [Image.new("RGB", (32, 24))]},
        "GIF": {"save_all": True, "append_images": [Image.new("RGB", (32, 24))]},
        "TIFF": {"compression": "tiff_lzw"},
        "BMP": {},
        "PPM": {},
        **({"WEBP": {}} if features.check("webp") else {}),
    }.items()
}


def mutate(data, rng):
    data = bytearray(data)
    for _ in range(rng.integers(1, 8)):
        at = int(rng.integers(0, len(data))) if rng.random() < 0.5 else int(rng.integers(0, min(len(data), 64)))
        choice = rng.integers(0, 4)
        if choice == 0:
            data[at] = rng.integers(0, 256)
        elif choice == 1:
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif choice == 2:
            del data[at : at + int(rng.integers(1, 9))]
        else:
            data[at:at] = rng.bytes(int(rng.integers(1, 9)))
        if not data:
            break
    return bytes(data[: rng.integers(0, len(data) + 1)] if rng.random() < 0.3 else data)


def test_mutated_files_decode_or_raise_decode_error():
    rng = np.random.default_rng(2)
    decoded = refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(60):
            for seed in SEEDS.values():
                data = mutate(seed, rng)
                try:
                    # a header may come to announce 200 Mpixel; that this is refused is tested above
                    got = decode(data, max_pixels=2_000_000)
                    assert got.dtype == np.uint8 and got.ndim == 3 and got.shape[2] == 3 and got.size
                    decoded += 1
                except DecodeError as error:
                    assert str(error)
                    refused += 1
                with contextlib.suppress(DecodeError):
                    inspect(data)
    assert decoded > 40 and refused > 40  # the mutations are neither harmless nor all fatal


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200), st.sampled_from([*SEEDS.values(), b""]), st.integers(0, 40))
def test_arbitrary_bytes(tail, seed, keep):
    with contextlib.suppress(DecodeError):
        decode(seed[:keep] + tail, max_pixels=2_000_000)


def test_threads_and_warning_filters():
    datas = [*SEEDS.values(), oriented("JPEG", 6), b"text", SEEDS["PNG"][:60]] * 6

    def result(data):
        try:
            return decode(data).tobytes()
        except DecodeError as error:
            return str(error)

    expected = [result(data) for data in datas]
    before = list(warnings.filters)
    start = threading.Barrier(4)

    def work(_):
        start.wait()
        return [result(data) for data in datas]

    with ThreadPoolExecutor(4) as pool:
        assert all(got == expected for got in pool.map(work, range(4)))
    assert warnings.filters == before


# ---- prepare


def test_prepare_leaves_pixels_of_the_right_size_alone():
    picture = noise(32, 32)
    got = prepare(picture, Preprocess(size=32, resize=32))
    assert got.shape == (3, 32, 32) and np.array_equal(got, picture.transpose(2, 0, 1))
    wide = noise(32, 51)
    assert np.array_equal(prepare(wide, Preprocess(24, 32)), wide[4:28, 13:37].transpose(2, 0, 1))
    assert got.flags.c_contiguous and got.flags.writeable


def test_prepare_grey():
    grey = noise(28, 28)[:, :, 0]
    one = Preprocess(28, 28, channels=1)
    assert np.array_equal(prepare(grey, one), grey[None])
    assert np.array_equal(prepare(grey[:, :, None], one), grey[None])
    assert np.array_equal(prepare(np.stack([grey] * 3, 2), one), grey[None])
    assert np.array_equal(prepare(grey, Preprocess(28, 28)), np.stack([grey] * 3))
    red = np.zeros((28, 28, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    assert (prepare(red, one) == 76).all()  # 0.299 * 255


@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 300), (37, 90), (20, 20), (3, 500), (1, 1), (64, 65)])
@pytest.mark.parametrize(("size", "resize"), [(64, 64), (56, 64), (224, 256)])
def test_prepare_is_resize_then_centre_cut(height, width, size, resize):
    picture = smooth(height, width)
    got = prepare(picture, Preprocess(size, resize)).transpose(1, 2, 0)
    scale = resize / min(height, width)
    grid = tuple(max(resize, int(side * scale + 0.5)) for side in (width, height))
    whole = np.asarray(Image.fromarray(picture).resize(grid, Image.Resampling.BILINEAR))
    top, left = (whole.shape[0] - size) // 2, (whole.shape[1] - size) // 2
    expected = whole[top : top + size, left : left + size].astype(int)
    assert got.shape == (size, size, 3)
    assert np.abs(got - expected).mean() < 0.6 and np.abs(got - expected).max() <= 8


@settings(deadline=None, max_examples=40)
@given(st.integers(20, 200), st.integers(20, 200), st.integers(8, 60), st.integers(0, 9))
def test_a_picture_that_is_shrunk_first_is_prepared_alike(height, width, size, extra):
    picture, pre = noise(height, width), Preprocess(size, size + extra)
    small = shrunk(picture, pre.resize)
    assert min(small.shape[:2]) == min(pre.resize, height, width) or max(height, width) > 3 * min(height, width)
    assert np.array_equal(prepare(small, pre), prepare(picture, pre))


def test_prepare_of_a_long_strip_is_cheap():
    strip = np.zeros((1, 65_000, 3), np.uint8)  # resized whole it would have 16,640,000 x 256 pixels
    got = prepare(strip, Preprocess(224, 256))
    assert got.shape == (3, 224, 224)


def test_prepare_bytes_and_array_agree():
    picture = noise(70, 90)
    pre = Preprocess(48, 56)
    assert np.array_equal(prepare(file_bytes(picture, "PNG"), pre), prepare(picture, pre))
    data = file_bytes(smooth(896, 1200), "JPEG", quality=95)
    assert np.abs(prepare(data, pre).astype(int) - prepare(decode(data), pre)).mean() < 1.5


def test_prepare_keeps_the_mean():
    picture = smooth(333, 517)
    got = prepare(picture, Preprocess(50, 50))
    side = picture[:, (517 - 333) // 2 : (517 + 333) // 2]
    assert np.abs(got.mean((1, 2)) - side.mean((0, 1))).max() < 1.5


def test_prepare_errors():
    with pytest.raises(UsageError, match="size=64, resize=32"):
        prepare(noise(9, 9), Preprocess(64, 32))
    with pytest.raises(UsageError, match=r"float64 \(9, 9, 3\)"):
        prepare(noise(9, 9) / 255, Preprocess(8, 8))
    with pytest.raises(UsageError, match=r"\(9, 9, 4\)"):
        prepare(np.zeros((9, 9, 4), np.uint8), Preprocess(8, 8))
    with pytest.raises(UsageError, match="at least 1x1"):
        prepare(np.zeros((0, 9, 3), np.uint8), Preprocess(8, 8))
    with pytest.raises(DecodeError, match="not a picture"):
        prepare(b"text", Preprocess(8, 8))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 64), st.integers(0, 30), st.sampled_from([1, 3]))
def test_prepare_always_gives_its_shape(height, width, size, extra, channels):
    got = prepare(np.full((height, width, 3), 77, np.uint8), Preprocess(size, size + extra, channels=channels))
    assert got.shape == (channels, size, size) and (got == 77).all()


def test_without_pytorch_pillow_resizes_to_the_same_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (45, 60, 3), np.uint8)
    importlib.import_module("torch")
    by_torch = resized(picture, 30, 40)
    monkeypatch.delitem(sys.modules, "torch")
    by_pillow = resized(picture, 30, 40)
    assert by_pillow.shape == (30, 40, 3) and "torch" not in sys.modules
    assert np.abs(by_pillow.astype(int) - by_torch).max() <= 2
