"""The words in a picture file's metadata (XMP, IPTC-IIM, EXIF, PNG), and the date in its name.

Keywords, titles, descriptions and names of places, from the fields that Lightroom, digiKam, Windows, macOS and phones
write. The blocks come from Pillow; XML with a DOCTYPE is refused, so that no entity is ever expanded. Whatever is
damaged or useless is silently left out: a picture with damaged metadata is still a good picture.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from datetime import date, datetime
from typing import Any
from xml.etree import ElementTree

READER = 1  # one more whenever more is read; 'neocog index' then reads these of all pictures again
KINDS = ("keywords", "texts", "places")
MARKS = (b"http://ns.adobe.com/xap/", b"Photoshop 3.0", b"XML:com.adobe.xmp", b"XMP ", b"rdf+xml", b"tEXt", b"iTXt")

_LONGEST, _MOST = 2000, 200  # characters of a text, and texts of a kind
_LARGEST = 4 << 20  # characters of XMP
_ADOBE, _IPTC = "http://ns.adobe.com/", "http://iptc.org/std/Iptc4xmp"
_DC, _EXT = "{http://purl.org/dc/elements/1.1/}", f"{{{_IPTC}Ext/2008-02-29/}}"
_LI = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"
_XMP = {
    f"{_DC}subject": "keywords",
    f"{{{_ADOBE}lightroom/1.0/}}hierarchicalSubject": "keywords",
    "{http://www.digikam.org/ns/1.0/}TagsList": "keywords",
    "{http://ns.microsoft.com/photo/1.0/}LastKeywordXMP": "keywords",
    f"{_EXT}PersonInImage": "keywords",
    "{http://www.metadataworkinggroup.com/schemas/regions/}Name": "keywords",
    f"{_DC}title": "texts",
    f"{_DC}description": "texts",
    f"{{{_ADOBE}photoshop/1.0/}}Headline": "texts",
    f"{{{_ADOBE}exif/1.0/}}UserComment": "texts",
    **{f"{{{_ADOBE}photoshop/1.0/}}{name}": "places" for name in ("City", "State", "Country")},
    f"{{{_IPTC}Core/1.0/xmlns/}}Location": "places",
    **{f"{_EXT}{n}": "places" for n in ("City", "ProvinceState", "CountryName", "Sublocation", "LocationName")},
}
_IIM = {25: "keywords", 5: "texts", 105: "texts", 120: "texts", 90: "places", 92: "places", 95: "places", 101: "places"}
_DESCRIPTION, _COMMENT = 0x010E, 0x9286
# XPTitle, XPComment, XPSubject, XPKeywords
_WINDOWS = {0x9C9B: "texts", 0x9C9C: "texts", 0x9C9F: "texts", 0x9C9E: "keywords"}
# What cameras and programs write into a description that nobody typed.
_JUNK = re.compile(
    r"(.* digital (still )?camera|sony dsc|dcim\\.*|exif[_ ]?jpeg([_ ]picture)?|created with .*|binary comment|<.*>"
    r"|charset=.*|default|untitled|\W*)\Z",
    re.IGNORECASE,
)


def words_in(picture: Any, exif: Any, details: Any) -> dict[str, list[str]]:
    """Return keywords, texts and places of an opened Pillow picture; `details`: the Exif part of its EXIF."""
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for kind, text in (*_from_xmp(picture.info.get("xmp")), *_from_iptc(picture), *_from_exif(exif, details)):
        found[kind].append(text)
    for name in ("Title", "Description"):  # of PNG
        if isinstance(picture.info.get(name), str):
            found["texts"].append(str(picture.info[name]))
    return {kind: _clean(texts) for kind, texts in found.items()}


def _from_xmp(packet: Any) -> Iterable[tuple[str, str]]:
    if isinstance(packet, bytes):
        wide = packet[:2] in (b"\xff\xfe", b"\xfe\xff")
        packet = packet.decode("utf-16" if wide else "utf-8-sig", "replace")
    if not isinstance(packet, str) or len(packet) > _LARGEST or "<!DOCTYPE" in packet or "<!ENTITY" in packet:
        return
    try:
        root = ElementTree.fromstring(packet.strip("\0 \t\r\n\ufeff"))
    except (ElementTree.ParseError, ValueError):
        return
    for element in root.iter():
        for name, value in element.attrib.items():
            if name in _XMP:
                yield _XMP[name], value
        if kind := _XMP.get(element.tag):
            for text in [one.text for one in element.iter(_LI)] or [element.text]:
                # a keyword with those above it, as Lightroom (|) and digiKam (/) write it
                parts = re.split(r"[|/]", text or "") if not element.tag.startswith(_DC) else [text or ""]
                yield from ((kind, part) for part in (parts if kind == "keywords" else [text or ""]))


def _from_iptc(picture: Any) -> Iterable[tuple[str, str]]:
    from PIL import IptcImagePlugin

    try:
        said = IptcImagePlugin.getiptcinfo(picture) or {}
    except Exception:  # on damaged blocks Pillow raises SyntaxError, struct.error, ValueError, ...
        return
    for (record, number), values in said.items():
        if record == 2 and number in _IIM:
            yield from ((_IIM[number], _decoded(one)) for one in (values if isinstance(values, list) else [values]))


def _from_exif(exif: Any, details: Any) -> Iterable[tuple[str, str]]:
    yield "texts", _decoded(exif.get(_DESCRIPTION, ""))
    for tag, kind in _WINDOWS.items():
        value = exif.get(tag)
        with contextlib.suppress(TypeError, ValueError):
            text = value if isinstance(value, str) else bytes(value or b"").decode("utf-16-le", "replace")
            text = text.partition("\0")[0]
            yield from ((kind, part) for part in (text.split(";") if kind == "keywords" else [text]))
    yield "texts", _comment(details.get(_COMMENT, b""), getattr(exif, "endian", None))


def _comment(value: Any, endian: str | None) -> str:
    """The text of EXIF's UserComment, which begins with the name of its character set."""
    if not isinstance(value, bytes):
        return str(value)
    mark, rest = value[:8], value[8:]
    if mark.startswith(b"UNICODE"):
        if rest[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return rest.decode("utf-16", "replace")
        # many write the order of their processor whatever the file's is: zeros show where the high bytes are
        high, low = rest[0::2].count(0), rest[1::2].count(0)
        big = endian == ">" if high == low else high > low
        return rest[: len(rest) // 2 * 2].decode("utf-16-be" if big else "utf-16-le", "replace")
    if mark.startswith(b"JIS"):
        return rest.decode("iso2022_jp", "replace")
    known = mark.startswith(b"ASCII") or not mark.strip(b"\0")
    return _decoded(rest if known else value)


def _decoded(value: Any) -> str:
    """Bytes, or a string that Pillow made of them as Latin-1, as UTF-8 if they are that, else as Windows' Latin."""
    if isinstance(value, str):
        try:
            value = value.encode("latin-1")
        except UnicodeEncodeError:
            return value
    if not isinstance(value, bytes):
        return ""
    value = value.partition(b"\0")[0]
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("cp1252", "replace")


def _clean(texts: Iterable[str]) -> list[str]:
    """Texts without signs that cannot be printed, each once."""
    found: dict[str, str] = {}
    for text in texts:
        text = text.encode("utf-8", "replace").decode()  # half a surrogate pair
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_LONGEST]
        if not _JUNK.match(text) and text.count("\ufffd") * 4 <= len(text):
            found.setdefault(text.casefold(), text)
    return list(found.values())[:_MOST]


# --- names of files

_DAY = r"(?P<year>(?:18|19|20)\d\d)(?P<sep>[-_.]?)(?P<month>0[1-9]|1[0-2])(?P=sep)(?P<day>0[1-9]|[12]\d|3[01])"
_TIME = (  # without signs between them, the seconds are needed: else it may be a running number
    r"(?:(?:[-_ T]|[-_ ]+(?:at|um|à|kl\.?)[-_ ]+)?(?P<hour>[01]\d|2[0-3]|\d(?=[.:]))(?P<colon>[-_.:h])?"
    r"(?P<minute>[0-5]\d)(?(colon)(?:(?P=colon)(?P<second>[0-5]\d))?|(?P<bare>[0-5]\d)\d{0,3})(?!\d)"
    r"(?:[\s ]*(?P<half>[AaPp])[Mm]\b)?)?"
)
_STAMP = re.compile(rf"(?<!\d){_DAY}(?:(?!\d)|(?=\d{{6}}(?!\d))){_TIME}")


def date_in_name(name: str) -> datetime | None:
    """Return the date, with the time if it is there, that the name of a picture file says; None if it says none.

    Year, month and day, as phones, cameras and chats write them: IMG_20190704_123456, IMG-20190704-WA0001,
    PXL_20230102_030405678, Screenshot_2021-05-06-12-34-56, signal-2020-01-01-123456, 2019-07-04 12.34.56.
    """
    for found in _STAMP.finditer(name.rpartition("/")[2]):
        year, month, day = int(found["year"]), int(found["month"]), int(found["day"])
        if not (1990 if not found["sep"] else 1826) <= year <= date.today().year + 1:
            continue
        hour, minute = int(found["hour"] or 0), int(found["minute"] or 0)
        second = int(found["second"] or found["bare"] or 0)
        if found["half"] and 1 <= hour <= 12:
            hour = hour % 12 + 12 * (found["half"] in "Pp")
        with contextlib.suppress(ValueError):
            return datetime(year, month, day, hour, minute, second)
    return None
