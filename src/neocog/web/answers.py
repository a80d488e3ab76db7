"""Answers as JSON that every browser reads."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

from neocog.names import json_text, plain


class Json(JSONResponse):
    """JSON that also carries names of files that are not UTF-8."""

    def render(self, content: Any) -> bytes:
        """See `as_json`."""
        return as_json(content).encode()


def as_json(value: Any) -> str:
    """Return a value as JSON; numbers that are none become null."""
    try:
        return json_text(value, strict=True)
    except ValueError:
        return json_text(plain(value))
