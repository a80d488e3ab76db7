"""What files say of themselves: XMP, IPTC and EXIF in every format and encoding, damaged ones, dates in names."""

from __future__ import annotations

import io
import struct
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from library.made import names
from library.tiny import Tiny
from PIL import Image, PngImagePlugin

from neocog.library.indexing import index
from neocog.library.metadata import READER, date_in_name
from neocog.library.photo import exif_of
from neocog.library.searching import search
from neocog.library.store import Store

XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:lr="http://ns.adobe.com/lightroom/1.0/" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"
 photoshop:City="Zürich" photoshop:Country="Schweiz">
<dc:subject><rdf:Bag><rdf:li>Holiday 2019</rdf:li><rdf:li>été</rdf:li></rdf:Bag></dc:subject>
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">Boats &amp; lake</rdf:li></rdf:Alt></dc:title>
<dc:description><rdf:Alt><rdf:li xml:lang="x-default">Two boats on the lake</rdf:li></rdf:Alt></dc:description>
<lr:hierarchicalSubject><rdf:Bag><rdf:li>Animals|Birds|Heron</rdf:li></rdf:Bag></lr:hierarchicalSubject>
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""
FROM_XMP = {
    "keywords": ["Holiday 2019", "été", "Animals", "Birds", "Heron"],
    "texts": ["Boats & lake", "Two boats on the lake"],
    "places": ["Zürich", "Schweiz"],
}


def saved(format: str = "JPEG", seed: int = 0, **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format, **options)
    return out.getvalue()


def iptc(*fields: tuple[int, int, bytes]) -> bytes:
    """A JPEG file with IPTC-IIM datasets (record, number, value) in an APP13 segment."""
    block = b"".join(b"\x1c" + struct.pack(">BBH", r, n, len(value)) + value for r, n, value in fields)
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(block)) + block + b"\0" * (len(block) % 2)
    segment = b"Photoshop 3.0\0" + resource
    data = saved()
    return data[:2] + b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def words(data: bytes) -> dict[str, list[str]]:
    return {kind: texts for kind, texts in exif_of(data).items() if kind in ("keywords", "texts", "places")}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_xmp_in_every_format(format: str) -> None:
    options: dict[str, Any] = {"xmp": XMP.encode()}
    if format == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP)
        options = {"pnginfo": info}
    if format == "TIFF":
        options = {"tiffinfo": {700: XMP.encode()}}
    assert words(saved(format, **options)) == FROM_XMP


def test_xmp_behind_large_blocks_and_in_utf16() -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    late = saved(exif=exif, icc_profile=b"\1" * 120_000, xmp=XMP.encode())
    assert words(late)["keywords"] == FROM_XMP["keywords"]
    assert words(saved(xmp=XMP.encode("utf-16")))["places"] == FROM_XMP["places"]


@pytest.mark.parametrize(
    "packet",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>' + XMP.replace("été", "&b;"),
        '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>' + XMP.replace("été", "&f;"),
        XMP[:400],
        "",
        "\0\1\2",
        "<a/>",
    ],
)
def test_entities_and_damaged_xmp_give_nothing(packet: str) -> None:
    assert words(saved(xmp=packet.encode())) == {}
    assert words(saved(xmp=packet.encode("utf-16"))) == {}


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
@pytest.mark.parametrize("marked", [True, False])
def test_iptc(encoding: str, marked: bool) -> None:
    data = iptc(
        *([(1, 90, b"\x1b%G")] if marked and encoding == "utf-8" else []),
        (2, 5, "Fête".encode(encoding)),
        (2, 25, b"wedding"),
        (2, 25, "Jürgen".encode(encoding)),
        (2, 120, "The bride’s “garden”".encode(encoding)),
        (2, 90, "Köln".encode(encoding)),
    )
    assert words(data) == {
        "texts": ["Fête", "The bride’s “garden”"],
        "keywords": ["wedding", "Jürgen"],
        "places": ["Köln"],
    }
    assert words(iptc((2, 25, b"alone"))) == {"keywords": ["alone"]}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_words(format: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "Grandma’s garden".encode()
    exif[0x9C9B] = "Titel ü".encode("utf-16-le") + b"\0\0"
    exif[0x9C9E] = "sea;Großmutter; \0".encode("utf-16-le")
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "東京".encode("utf-16-be")
    found = words(saved(format, exif=exif))
    assert found["keywords"] == ["sea", "Großmutter"]
    assert found["texts"][:2] == ["Grandma’s garden", "Titel ü"]
    assert found["texts"][2:] == ([] if format == "TIFF" else ["東京"])  # Pillow does not write it into TIFF


@pytest.mark.parametrize(
    ("comment", "text"),
    [
        (b"ASCII\0\0\0a dog", ["a dog"]),
        (b"\0\0\0\0\0\0\0\0un caf\xe9", ["un café"]),
        (b"UNICODE\0" + "a dog".encode("utf-16-le"), ["a dog"]),
        (b"UNICODE\0" + "a dog".encode("utf-16-be"), ["a dog"]),
        (b"UNICODE\0" + "a dog".encode("utf-16"), ["a dog"]),
        (b"JIS\0\0\0\0\0" + "東京".encode("iso2022_jp"), ["東京"]),
        (b"ASCII\0\0\0" + b" " * 40, []),
        (b"", []),
    ],
)
def test_user_comments(comment: bytes, text: list[str]) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    exif[0x010F] = "Canon"
    assert words(saved(exif=exif)).get("texts", []) == text


@pytest.mark.parametrize("junk", ["OLYMPUS DIGITAL CAMERA", "SONY DSC", "DCIM\\100GOPRO", "Exif_JPEG_PICTURE", "   "])
def test_what_cameras_write_by_themselves_is_no_text(junk: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = junk
    assert words(saved(exif=exif)) == {}


def test_titles_of_png() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "A lighthouse")
    info.add_itxt("Description", "Ein Leuchtturm bei Büsum")
    assert words(saved("PNG", pnginfo=info)) == {"texts": ["A lighthouse", "Ein Leuchtturm bei Büsum"]}


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_damaged_blocks_are_no_damaged_picture(seed: int, count: int) -> None:
    exif = Image.Exif()
    exif[0x010E], exif[0x9C9E] = "text", "a;b".encode("utf-16-le")
    data = bytearray(saved(exif=exif, xmp=XMP.encode()))
    data[2:2] = iptc((2, 25, b"word"))[2:80]
    random = np.random.default_rng(seed)
    for at in random.integers(2, min(len(data), 2500), count):
        data[at] = random.integers(0, 256)
    assert isinstance(exif_of(bytes(data)), dict)


@pytest.mark.parametrize(
    ("name", "date"),
    [
        ("IMG-20190704-WA0001.jpg", "2019-07-04T00:00:00"),
        ("PXL_20230102_030405678.jpg", "2023-01-02T03:04:05"),
        ("Screenshot_2021-05-06-12-34-56-789_com.app.jpg", "2021-05-06T12:34:56"),
        ("Screenshot_20210506-123456.png", "2021-05-06T12:34:56"),
        ("Screenshot 2021-05-06 at 3.04.05\u202fPM.png", "2021-05-06T15:04:05"),
        ("Bildschirmfoto 2021-05-06 um 12.34.56.png", "2021-05-06T12:34:56"),
        ("IMG_20190704_123456.jpg", "2019-07-04T12:34:56"),
        ("2019-07-04 12.34.56.jpg", "2019-07-04T12:34:56"),
        ("signal-2020-01-01-123456.jpg", "2020-01-01T12:34:56"),
        ("signal-2020-01-01-12-34-56-789.jpg", "2020-01-01T12:34:56"),
        ("photo_2021-05-06_12-34-56.jpg", "2021-05-06T12:34:56"),
        ("WhatsApp Image 2019-07-04 at 12.34.56.jpeg", "2019-07-04T12:34:56"),
        ("20190704123456.jpg", "2019-07-04T12:34:56"),
        ("1956-08-12 Opa.jpg", "1956-08-12T00:00:00"),
        ("2019-07-04-001.jpg", "2019-07-04T00:00:00"),
        ("19991231_235960.jpg", "1999-12-31T00:00:00"),
        ("2019-02-30 then 2019-03-01.jpg", "2019-03-01T00:00:00"),
        ("IMG_20191304_123456.jpg", None),
        ("2019-02-30.jpg", None),
        ("20480102.jpg", None),
        ("12019070412.jpg", None),
        ("1920x1080.jpg", None),
        ("IMG_0002.jpg", None),
        ("2021-05-06/a.jpg", None),
    ],
)
def test_dates_in_names(name: str, date: str | None) -> None:
    assert date_in_name(name) == (date and datetime.fromisoformat(date))


@given(st.text(max_size=30) | st.from_regex(r"[0-9_\-. :T]{8,24}", fullmatch=True))
def test_any_name_has_a_date_or_none(name: str) -> None:
    assert isinstance(date_in_name(name), datetime | None)


def pictures(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0132] = "2001:02:03 04:05:06"
    folder.mkdir()
    (folder / "IMG_20190704_123456.jpg").write_bytes(saved(seed=1, xmp=XMP.encode()))
    (folder / "IMG-20200102-WA0001.jpg").write_bytes(saved(seed=2, exif=exif))
    (folder / "plain.png").write_bytes(saved("PNG", seed=3))


def test_they_are_indexed_and_searched(tmp_path: Path) -> None:
    pictures(tmp_path / "p")
    store = Store.create(tmp_path / "p" / ".neocog")
    index(store, [tmp_path / "p"], Tiny())
    lake = "IMG_20190704_123456.jpg"
    for query in ("tag:heron", "été", "place:zurich", '"boats on the lake"', "taken:2019-07-04T12:34", "Holiday-2019"):
        assert names(search(store, query)) == [lake], query
    assert names(search(store, "taken:2001")) == ["IMG-20200102-WA0001.jpg"]  # EXIF comes first
    assert names(search(store, "has:date -has:tag")) == ["IMG-20200102-WA0001.jpg"]


def test_a_library_of_an_older_neocog_is_read_again_without_the_net(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neocog.library import rows

    new = ("keywords", "texts", "places", "reader")
    older = rows.pa.schema([field for field in rows.SCHEMA if field.name not in new])
    pictures(tmp_path / "p")
    with monkeypatch.context() as patch:
        for module in ("rows", "store", "tables"):
            patch.setattr(f"neocog.library.{module}.SCHEMA", older)
        patch.setattr("neocog.library.tables._MIRRORED", rows.pa.schema([f for f in older if f.name != "thumb"]))
        patch.setattr("neocog.library.rows.whole_rows.__defaults__", (older,))
        patch.setattr("neocog.library.index_run._FACTS", ("size", "width", "height", "phash", "flat", "thumb"))
        patch.setattr("neocog.library.indexing.reread", lambda *given: 0)
        patch.setattr("neocog.library.indexing.view_of", lambda store: type("none", (), {"text": None}))
        index(Store.create(tmp_path / "p" / ".neocog"), [tmp_path / "p"], Tiny())
    store = Store.open(tmp_path / "p")
    assert not set(new) & set(store._table("pictures").schema.names)
    assert names(search(store, "zurich")) == [] and len(search(store, "folder:p")) == 3  # it can be searched as it is
    said: list[str] = []
    tiny = Tiny()
    report = index(store, [tmp_path / "p"], tiny, say=said.append)
    assert (report.unchanged, report.computed) == (3, 0)
    assert any("3 pictures that an older neocog indexed" in one for one in said)
    assert names(search(store, "zurich")) == ["IMG_20190704_123456.jpg"]
    assert names(search(store, "taken:2019")) == ["IMG_20190704_123456.jpg"]
    assert set(store.rows(["reader"]).column("reader").to_pylist()) == {READER}
    said.clear()
    index(store, [tmp_path / "p"], tiny, say=said.append)
    assert said == []
