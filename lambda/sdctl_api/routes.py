"""Which operation a request asks for. Pure.

A request is served only where API Gateway matched the operation's own resource, the one that demands
the key. The catch-all demands none, so whatever comes through it is answered 404 or 405 by its path.
"""

from __future__ import annotations

import re
from typing import Final

from sdctl_api.exchange import ApiError, Request

SUBMIT_V1ALPHA1: Final = "POST /v1alpha1"
SUBMIT_V1ALPHA2: Final = "POST /v1alpha2"
LIST_TASKS: Final = "GET /v1alpha2/tasks"
GET_TASK: Final = "GET /v1alpha2/tasks/{id}"
CANCEL_TASK: Final = "POST /v1alpha2/tasks/{id}/cancel"
RETRY_TASK: Final = "POST /v1alpha2/tasks/{id}/retry"
REQUEST_UPLOAD: Final = "POST /v1alpha2/uploads"
ROUTES: Final = (
    SUBMIT_V1ALPHA1, SUBMIT_V1ALPHA2, LIST_TASKS, GET_TASK, CANCEL_TASK, RETRY_TASK, REQUEST_UPLOAD,
)  # fmt: skip
_METHOD_OF_RESOURCE: Final = {route.split(" ")[1]: route.split(" ")[0] for route in ROUTES}


def route_of(request: Request) -> str:
    """Return the operation of a request.

    Raises:
        ApiError: `not_found`, or `method_not_allowed` for a known path.
    """
    allowed = _METHOD_OF_RESOURCE.get(request.resource)
    if allowed == request.method:
        return f"{request.method} {request.resource}"
    allowed = allowed or _method_of_path(request.path)
    if allowed and allowed != request.method:
        raise ApiError("method_not_allowed", f"this path takes {allowed} only", headers={"Allow": allowed})
    raise ApiError("not_found", "there is nothing at this path")


def _method_of_path(path: str) -> str | None:
    for resource, method in _METHOD_OF_RESOURCE.items():
        pattern = "/".join("[^/]+" if part == "{id}" else re.escape(part) for part in resource.split("/"))
        if re.fullmatch(pattern, path.rstrip("/")):
            return method
    return None
