"""Download one file: announced, resumed after a cut, checked, and in place only when it is whole."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from neocog.errors import FetchError, UsageError
from neocog.files import flush_folder, locked

_CHUNK = 1 << 18


def tell(line: str) -> None:
    """Write one line for a person to standard error, so that standard output stays the result."""
    print(line, file=sys.stderr)


class _Cut(Exception):
    """The connection failed in a way that is worth another try."""


def fetch(
    url: str,
    target: str | os.PathLike[str],
    *,
    size: int | None = None,
    md5: str | None = None,
    offline: bool = False,
    say: Callable[[str], object] = tell,
    tries: int = 5,
    wait: float = 1.0,
) -> Path:
    """Fetch `url` to the file `target` and return its path; a target that is there and right is not fetched again.

    Bytes go to ``<target>.part``, which a later call continues where the server allows it. The file gets its name
    by an atomic rename after its size and checksums were verified and it was flushed to disk.

    Args:
        size: expected bytes; announced before the start.
        md5: expected checksum, hex.
        offline: refuse to fetch (the environment variable NEOCOG_OFFLINE=1 does the same).
        say: is called with one line before the download starts, and with one for each new try.
        tries: how often in a row a try may bring nothing new before giving up.
        wait: seconds before the second try; doubles with each further one.

    Raises: FetchError: forbidden, unreachable, refused, or wrong content; the message says what to do.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise UsageError(f"expected an http or https address, got {url!r}")
    target = Path(target)
    if target.is_file() and not _wrong(target, size, md5):
        return target
    if offline or os.environ.get("NEOCOG_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise FetchError(
            f"{target.name} is needed and not at {target}, but downloads are forbidden (--offline or NEOCOG_OFFLINE); "
            f"run once with network, or copy {url} to {target}"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        with open(part, "ab") as file:
            locked(file.fileno(), wait=True)  # so that two processes do not write one .part file
            file.seek(0, os.SEEK_END)
            if target.is_file() and not _wrong(target, size, md5):  # another process was quicker
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.stat(part), os.fstat(file.fileno())):
                        part.unlink()
                return target
            _download(url, file, target, size, say, tries, wait)
            file.flush()
            os.fsync(file.fileno())
            if problem := _wrong(part, size, md5):
                part.unlink()
                raise FetchError(
                    f"{url}: {problem}; the file was removed. Repeat the command; if it happens again, the file "
                    "has changed at the source or is altered in transit"
                )
            os.replace(part, target)
        flush_folder(target.parent)
    except OSError as error:
        raise FetchError(
            f"{target} cannot be written: {error.strerror or error}; choose another cache folder with NEOCOG_CACHE"
        ) from error
    return target


def _download(
    url: str,
    file,
    target: Path,
    size: int | None,
    say: Callable[[str], object],
    tries: int,
    wait: float,
) -> None:
    """Fill `file` (opened for appending) until it is whole; tries again after cuts."""
    have = best = file.tell()
    if size is not None and have > size:
        file.truncate(0)
        have = best = 0
    if size is not None:
        if have < size:
            _announce(say, url, target, size, have)
        free = shutil.disk_usage(target.parent).free
        if free < size - have:
            raise FetchError(
                f"{target.name} needs {_bytes(size - have)}, but only {_bytes(free)} are free in {target.parent}; "
                "make room or choose another folder with NEOCOG_CACHE"
            )
    announced = size is not None
    failures = 0
    while size is None or have < size:
        try:
            with _request(url, have) as (answer, start, total):
                if start != have:  # the server sent the whole file again
                    file.truncate(0)
                    have = 0
                if not announced:
                    _announce(say, url, target, total, have)
                    announced = True
                for chunk in _chunks(answer):
                    file.write(chunk)
                    have += len(chunk)
                    if size is not None and have > size:
                        return  # more than expected: the check that follows says so
                whole = size if total is None else total
                if whole is not None and have < whole:
                    raise _Cut(f"the connection ended after {_bytes(have)} of {_bytes(whole)}")
                return
        except _Cut as cut:
            file.flush()
            failures = 1 if have > best else failures + 1
            best = max(best, have)
            if failures >= tries:
                raise FetchError(
                    f"{url}: {cut} ({tries} tries); {_bytes(have)} are kept: repeat the command to continue"
                ) from cut
            say(f"{cut}; trying again")
            time.sleep(min(wait * 2 ** (failures - 1), 30.0))


@contextlib.contextmanager
def _request(url: str, start: int) -> Iterator[tuple[http.client.HTTPResponse, int, int | None]]:
    """Open `url` from byte `start`; yield (answer, first byte that it holds, bytes of the whole file or None)."""
    headers = {"User-Agent": "neocog", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            length = answer.headers.get("Content-Length")
            total = int(length) if length and length.isdigit() else None
            if answer.status != 206:
                yield answer, 0, total
                return
            unit, _, span = answer.headers.get("Content-Range", "").partition(" ")
            first, _, whole = span.partition("-")[0], None, span.rpartition("/")[2]
            if unit != "bytes" or first != str(start):
                raise FetchError(f"{url}: asked for bytes from {start}, got {unit} {span!r}; remove the .part file")
            yield answer, start, int(whole) if whole.isdigit() else (None if total is None else start + total)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing left to send: all is there, or the .part file is not of this file
            with _request(url, 0) as whole_file:
                if whole_file[2] == start:
                    yield io.BytesIO(), start, start  # type: ignore[misc]
                else:
                    yield whole_file
            return
        if error.code == 429 or error.code >= 500:
            raise _Cut(f"the server answered {error.code} {error.reason}") from error
        raise FetchError(
            f"{url}: the server answered {error.code} {error.reason}; check the address, or fetch the file by hand"
        ) from error
    except urllib.error.URLError as error:
        raise _Cut(f"no connection: {error.reason}") from error
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise _Cut(f"the connection failed: {error or type(error).__name__}") from error


def _chunks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = answer.read(_CHUNK)
        except http.client.IncompleteRead as error:
            if error.partial:
                yield error.partial
            raise _Cut("the connection was cut") from error
        except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
            raise _Cut(f"the connection was cut: {error or type(error).__name__}") from error
        if not chunk:
            return
        yield chunk


def _announce(say: Callable[[str], object], url: str, target: Path, size: int | None, have: int) -> None:
    large = "size unknown" if size is None else _bytes(size)
    rest = f", {_bytes(have)} are already here" if have else ""
    say(f"fetching {target.name} ({large}{rest}) from {url} to {target.parent}")


def _wrong(path: Path, size: int | None, md5: str | None) -> str:
    """Return what is wrong with the file, or ""."""
    actual = path.stat().st_size
    if size is not None and actual != size:
        return f"expected {size} bytes, got {actual}"
    if md5 is not None:
        with open(path, "rb") as file:
            got = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
        if got != md5.lower():
            return f"wrong checksum: expected md5 {md5.lower()}, got {got}"
    return ""


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
