"""What comes before every route: who may ask, from where, how much at once; and what a browser may do with the answer.

docs/security.md has what is promised. Nothing here knows what the routes do.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.exceptions import HTTPException
from starlette.responses import Response

LARGEST = 32_000_000  # bytes of a request's body
SECONDS = 60.0  # in which a body must have come
AT_ONCE = 128  # requests that are answered at the same time; event streams count
COOKIE = "neocog"
_TOO_LARGE = f"a request may have {LARGEST / 1e6:,.0f} MB"

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; font-src 'self'; "
        "connect-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guard:
    """ASGI middleware.

    Args:
        host: what the server binds to, or a name that it is reached by.
        token: what every request must carry, "" for none: as ``Authorization: Bearer``, or as the cookie that
            opening ``/?token=...`` sets.
    """

    def __init__(self, app: Any, host: str = "127.0.0.1", token: str = "") -> None:
        self.app, self.token = app, token
        self.names = {"localhost", host.lower(), *([socket.gethostname().lower()] if token else [])}
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # no web sockets
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refused(scope, headers)
        if refused is None and self.running >= AT_ONCE:
            refused = 503, "too many requests at once; try again in a moment", {"retry-after": "1"}
        if refused is not None:
            status, error, more = (*refused, None)[:3]
            answer = Response(json.dumps({"error": error}) if error else "", status, more, "application/json")
            await answer(scope, receive, _with_headers(send))
            return
        self.running += 1
        try:
            await self.app(scope, _limited(receive), _with_headers(send))
        finally:
            self.running -= 1

    def _refused(self, scope: Scope, headers: dict[str, str]) -> tuple[Any, ...] | None:
        host = headers.get("host", "")
        if not self._known(host):
            return 421, f"this server is not reached as {host[:100]!r}; open it by its address or as localhost"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "a page of another site may not ask here"
        # pictures that another page embeds carry no Origin; browsers say where the request comes from
        elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        link = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
        if elsewhere and not (link and not scope["path"].startswith("/api")):
            return 403, "a page of another site may not ask here"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > LARGEST:
            return 413, _TOO_LARGE
        return self._stranger(scope, headers) if self.token else None

    def _known(self, host: str) -> bool:
        """An address is no name that a foreign name server could point here."""
        name = urlsplit(f"//{host}").hostname if host else None
        if name is None or any(c in host for c in "/@?#\\"):
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return True

    def _stranger(self, scope: Scope, headers: dict[str, str]) -> tuple[Any, ...] | None:
        cookies: Any = SimpleCookie()
        with contextlib.suppress(CookieError):
            cookies.load(headers.get("cookie", ""))
        given = headers.get("authorization", "").removeprefix("Bearer ")
        kept = cookies[COOKIE].value if COOKIE in cookies else ""
        if self._right(given) or self._right(kept):
            return None
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and self._right(asked):
            cookie = f"{COOKIE}={self.token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000"
            return 303, "", {"location": "/", "set-cookie": cookie}
        return 401, "open the address that 'neocog serve' printed: it carries the token", {"www-authenticate": "Bearer"}

    def _right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self.token.encode())


def _limited(receive: Receive) -> Receive:
    """The body's parts, as long as it is small enough and comes in time."""
    got, late, whole = 0, asyncio.get_running_loop().time() + SECONDS, False

    async def limited() -> MutableMapping[str, Any]:
        nonlocal got, whole
        if whole:  # only the end of the connection is waited for, which may take as long as it likes
            return await receive()
        try:
            async with asyncio.timeout_at(late):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, f"a request must arrive within {SECONDS:.0f} seconds") from None
        got += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if got > LARGEST:
            raise HTTPException(413, _TOO_LARGE)
        return message

    return limited


def _with_headers(send: Send) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message.get("headers", ())}
            more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in there]
            if b"cache-control" not in there:
                more.append((b"cache-control", b"no-store"))
            message["headers"] = [*message.get("headers", ()), *more]
        await send(message)

    return sending
