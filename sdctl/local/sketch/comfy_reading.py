"""Reading requests as ComfyUI does: what it does not expect makes it fail with a bare 500."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web


class TroubleError(Exception):
    """What makes the real server fail with a bare 500."""


async def read_json(request: web.Request) -> Any:
    """Decode a request body, or raise TroubleError."""
    return loads(await request.read())


def loads(text: str | bytes) -> Any:
    """Decode JSON, or raise TroubleError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TroubleError("not JSON") from error


def as_object(value: Any) -> dict[str, Any]:
    """Return an object as it is, or raise TroubleError."""
    if not isinstance(value, dict):
        raise TroubleError("not an object")
    return value


def as_whole(text: str | None) -> int | None:
    """Return a whole number, or None where the text is none."""
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None
