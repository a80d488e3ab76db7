"""The application: routes, errors as JSON, the page's files; and the server that runs it."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

import neocog
from neocog.errors import MissingExtra, NeocogError, UsageError
from neocog.library.gallery import NoPicture
from neocog.library.lock import LibraryBusy
from neocog.web import libraries, runs
from neocog.web.answers import Json
from neocog.web.guard import AT_ONCE, Guard
from neocog.web.jobs import NotServed
from neocog.web.served import Served

STATIC = Path(__file__).parent / "static"


def make_app(served: Served, *, host: str = "127.0.0.1", token: str = "") -> Any:
    """Return the ASGI application that shows libraries and runs, with its guard (see guard.py) in front."""
    app = FastAPI(
        title="neocog",
        version=neocog.__version__,
        description="Search, correct, train and look inside: all that the page does.",
        docs_url=None,  # FastAPI's page would fetch scripts from elsewhere
        redoc_url=None,
        openapi_url="/api/openapi.json",
        default_response_class=Json,
        responses={status: {"description": text, "model": libraries.Problem} for status, text in _STATUS.items()},
    )
    app.state.served = served
    app.include_router(libraries.router, prefix="/api")
    app.include_router(runs.router, prefix="/api")

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    @app.get("/docs", include_in_schema=False)
    def docs() -> Response:
        return FileResponse(STATIC / "docs.html", headers={"cache-control": "no-cache"})

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(NeocogError, _failed)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    return Guard(app, host, token)


_STATUS = {400: "the request is wrong", 404: "there is no such thing", 409: "it cannot be done now"}


def _failed(request: Request, error: Exception) -> Response:
    missing, busy = isinstance(error, (NotServed, NoPicture)), isinstance(error, (LibraryBusy, MissingExtra))
    return Json({"error": str(error)}, 404 if missing else 409 if busy else 400)


def _refused(request: Request, error: Any) -> Response:
    return Json({"error": str(error.detail)}, error.status_code, headers=error.headers)


def _invalid(request: Request, error: Any) -> Response:
    first = error.errors()[0]
    where = " ".join(str(part) for part in first["loc"] if part not in ("query", "body", "path"))
    return Json({"error": f"{where}: {first['msg']}".strip(": ")}, 400)


def serve(
    libraries: Sequence[str | Path] = (),
    runs: Sequence[str | Path] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    say: Callable[[str], object] = print,
) -> None:
    """Serve the page and its API until Ctrl-C.

    Beyond this machine every request needs a token, which is made for each start and is part of the address that
    `say` gets.

    Raises:
        LibraryError, RunError: one of them is none. UsageError: the port is taken.
    """
    import numpy  # noqa: F401  # whose library is told below
    import uvicorn
    from threadpoolctl import threadpool_limits

    served = Served(libraries, runs, Path("runs").absolute())
    token = "" if is_loopback(host) else secrets.token_urlsafe(24)
    config = uvicorn.Config(
        make_app(served, host=host, token=token), host=host, port=port, log_level="warning", access_log=False,
        server_header=False, ws="none", lifespan="off", backlog=256, limit_concurrency=2 * AT_ONCE,
        timeout_keep_alive=15, h11_max_incomplete_event_size=32_768, timeout_graceful_shutdown=2,
    )  # fmt: skip
    try:
        socket = config.bind_socket()
    except SystemExit:
        raise UsageError(f"port {port} of {host} cannot be had; choose another: --port {port + 1}") from None
    shown = f"[{host}]" if ":" in host else host
    say(f"http://{shown}:{socket.getsockname()[1]}/{f'?token={token}' if token else ''}")
    threadpool_limits(1, user_api="blas")  # several requests are answered at once: more threads would only wait
    uvicorn.Server(config).run([socket])


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches what is bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
