"""The application: routes, errors as JSON, the page's files. `neocog serve` runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

import neocog
from neocog.errors import MissingExtra, NeocogError
from neocog.library.gallery import NoPicture
from neocog.library.lock import LibraryBusy
from neocog.web import libraries, runs
from neocog.web.answers import Json
from neocog.web.guard import Guard
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
    status = (
        404
        if isinstance(error, (NotServed, NoPicture))
        else 409
        if isinstance(error, (LibraryBusy, MissingExtra))
        else 400
    )
    return Json({"error": str(error)}, status)


def _refused(request: Request, error: Any) -> Response:
    return Json({"error": str(error.detail)}, error.status_code, headers=error.headers)


def _invalid(request: Request, error: Any) -> Response:
    first = error.errors()[0]
    where = " ".join(str(part) for part in first["loc"] if part not in ("query", "body", "path"))
    return Json({"error": f"{where}: {first['msg']}".strip(": ")}, 400)
