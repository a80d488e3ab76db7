"""What the first bytes of a file say that it is, a format or what somebody called .jpg by mistake; how it is turned."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any

from neocog.errors import DecodeError

_MAGIC = (  # (first bytes, name); decode answers those without a reader with "not supported: NAME"
    (b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"), (b"GIF87a", "GIF"), (b"GIF89a", "GIF"),
    (b"FUJIFILMCCD-RAW", "camera raw (RAF)"), (b"IIU\0", "camera raw (RW2)"), (b"IIRO", "camera raw (ORF)"),
    (b"IIRS", "camera raw (ORF)"), (b"II*\0\x10\0\0\0CR", "camera raw (CR2)"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"), (b"MM\0+", "TIFF"), (b"BM", "BMP"), (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"), (b"\xff\x0a", "JPEG XL"), (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\0\0\x01\0", "ICO"), (b"8BPS", "PSD"), (b"%PDF", "PDF"), (b"%!PS", "EPS"), (b"v/1\x01", "EXR"),
    (b"PK\x03\x04", "ZIP archive"), (b"\x1f\x8b", "gzip archive"), (b"\x1a\x45\xdf\xa3", "Matroska video"),
    (b"fLaC", "FLAC recording"), (b"OggS", "OGG recording or video"), (b"ID3", "MP3 recording"),
)  # fmt: skip
_CHUNKED = {
    b"WEBP": "WEBP", b"WAVE": "WAV recording", b"AVI ": "AVI video",
    b"AIFF": "AIFF recording", b"AIFC": "AIFF recording",
}  # fmt: skip
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def sniff(data: bytes) -> str:
    """Return the format that the first bytes announce, or raise DecodeError with what the data is instead."""
    if not data:
        raise DecodeError("empty file")
    if data[:4] in (b"RIFF", b"FORM") and len(data) >= 12:
        return _CHUNKED.get(data[8:12], "RIFF (sound or video)")
    if data[4:8] == b"ftyp" and len(data) >= 12:
        brands = {data[at : at + 4] for at in (8, *range(16, min(64, int.from_bytes(data[:4], "big"), len(data)), 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & {b"crx "}:
            return "camera raw (CR3)"
        return "HEIC" if brands & _HEIC_BRANDS else "MP4 or QuickTime video"
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if re.match(rb"P[1-6]\s", data):
        return "PPM"
    raise DecodeError(_what_else(data))


def _what_else(data: bytes) -> str:
    """Say what data without a picture's first bytes may be."""
    head = data[:2048]
    if not any(head):
        return "not a picture: it begins with zero bytes only (an interrupted copy or download?)"
    try:
        text = head.decode("utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8", "strict")
    except UnicodeDecodeError as error:
        if error.end < len(head) - 3:  # a character cut in two by `head` is no proof against text
            return "not a picture: unknown content"
        text = head[: error.start].decode("utf-8", "replace")
    if any(ord(c) < 32 and c not in "\t\n\r\f\x1b" for c in text):
        return "not a picture: unknown content"
    start = text.lstrip("\ufeff \t\r\n").lower()
    if "<svg" in start[:1024]:
        return "not supported: SVG"
    if start.startswith(("<!doctype html", "<html")) or "<html" in start[:1024]:
        return "not a picture: an HTML page (a failed download?)"
    if start.startswith("version https://git-lfs"):
        return "not a picture: a Git LFS pointer ('git lfs pull' fetches the picture)"
    return "not a picture: text"


def orientation(info: Mapping[Any, Any]) -> int:
    """EXIF orientation 1..8 from a Pillow info dictionary (EXIF bytes, else XMP); 1 if absent or damaged.

    Reads the one entry of IFD0 that matters, because Pillow's full EXIF parser warns about damaged entries.
    """
    exif = info.get("exif")
    raw = info.get("Raw profile type exif")  # how ImageMagick writes EXIF into PNG: hexadecimal text
    if not exif and isinstance(raw, str):
        try:
            exif = bytes.fromhex("".join(raw.split("\n")[3:]))
        except ValueError:
            exif = None
    if isinstance(exif, bytes):
        exif = exif[6:] if exif.startswith(b"Exif\0\0") else exif
        end = {b"II": "<", b"MM": ">"}.get(exif[:2])
        try:
            if end:
                (ifd,) = struct.unpack_from(end + "I", exif, 4)
                (count,) = struct.unpack_from(end + "H", exif, ifd)
                for at in range(ifd + 2, ifd + 2 + 12 * count, 12):
                    tag, _, _, value = struct.unpack_from(end + "HHIH", exif, at)
                    if tag == 0x0112:
                        return value if 1 <= value <= 8 else 1
        except struct.error:
            pass
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    xmp = xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp
    found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp) if isinstance(xmp, bytes) else None
    return int(found[1]) if found else 1
