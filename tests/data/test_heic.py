"""HEIC, which is read with pillow-heif where that is installed (extra `heic`), and named where it is not."""

from __future__ import annotations

import importlib
import io

import numpy as np
import pytest
from PIL import Image

from neocog.data import open_source
from neocog.errors import DecodeError
from neocog.library.photo import exif_of

decoding = importlib.import_module("neocog.data.decode")
HEADER = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + b"\0" * 64


def heic(picture: Image.Image, **options) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    out = io.BytesIO()
    pillow_heif.from_pillow(picture).save(out, quality=95, **options)
    return out.getvalue()


def halves(size: tuple[int, int]) -> Image.Image:
    """Red above, blue below."""
    picture = Image.new("RGB", size, (200, 20, 20))
    picture.paste((20, 20, 200), (0, size[1] // 2, *size))
    return picture


def test_pixels_and_header():
    data = heic(halves((96, 64)))
    pixels = decoding.decode(data)
    assert pixels.shape == (64, 96, 3) and pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels[8, 8].astype(int), (200, 20, 20), atol=12)
    np.testing.assert_allclose(pixels[56, 88].astype(int), (20, 20, 200), atol=12)
    found = decoding.inspect(data)
    assert (found.format, found.width, found.height) == ("HEIC", 96, 64)


def test_it_is_upright_and_its_time_and_camera_are_read():
    exif = Image.Exif()
    exif[0x0112], exif[0x0110] = 6, "Camera 7"
    exif.get_ifd(0x8769)[0x9003] = "2023:05:17 10:11:12"
    stored = halves((96, 64))
    data = heic(stored, exif=exif.tobytes())
    pixels, found = decoding.decode(data), decoding.inspect(data)
    assert pixels.shape[:2] == (found.height, found.width) == (96, 64)
    assert pixels[48, 56, 0] > 150 and pixels[48, 8, 2] > 150, "turned to the right: what was above is on the right"
    said = exif_of(data)
    assert said["camera"] == "Camera 7" and said["taken"].year == 2023


def test_a_transparent_one_lies_on_white():
    assert decoding.decode(heic(Image.new("RGBA", (64, 64), (0, 0, 0, 0)))).min() > 240


@pytest.mark.parametrize("cut", [40, 200, -30])
def test_a_damaged_one_is_a_problem(cut):
    with pytest.raises(DecodeError, match="HEIC"):
        decoding.decode(heic(halves((96, 64)))[:cut])


def test_a_folder_of_them_is_data(tmp_path):
    for name in ("a/1.heic", "b/2.HEIF"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(heic(halves((32, 32))))
    source = open_source(tmp_path)
    assert source.classes == ("a", "b") and decoding.decode(source.read(1)).shape == (32, 32, 3)


def test_without_pillow_heif_the_reason_says_what_to_type(monkeypatch, tmp_path):
    monkeypatch.setattr(decoding.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(decoding._READERS, "HEIC", raising=False)
    with pytest.raises(DecodeError, match=r"not supported: HEIC; to read it: pip install 'neocog\[heic\]'"):
        decoding.decode(HEADER)
    assert not decoding.now_readable("not supported: HEIC; to read it: pip install 'neocog[heic]'")
    monkeypatch.setitem(decoding._READERS, "HEIC", object)
    assert decoding.now_readable("not supported: HEIC; to read it: pip install 'neocog[heic]'")
    assert not decoding.now_readable("not supported: PSD") and not decoding.now_readable("truncated HEIC (9 bytes)")


@pytest.mark.parametrize(
    ("start", "kind"),
    [(b"FUJIFILMCCD-RAW 0201", "RAF"), (b"IIU\0", "RW2"), (b"IIRO", "ORF"), (b"II*\0\x10\0\0\0CR\2\0", "CR2"),
     (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "CR3")],
)  # fmt: skip
def test_camera_raw_by_its_content(start, kind):
    """Also where it is called .jpg or .tif: a thumbnail must not pass for the picture."""
    with pytest.raises(DecodeError, match=rf"not supported: camera raw \({kind}\)"):
        decoding.decode(start + b"\0" * 100)
