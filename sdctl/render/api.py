"""The REST API's routes and its gateway responses, as the front's template wants them."""

from __future__ import annotations

import json
from typing import Any, Final

# Path of each resource, and the verb that needs a key there. Every resource also gets a keyless ANY: a
# wrong method is answered by the function with 405, where API Gateway's own answer would be 403.
_ROUTES: Final[tuple[tuple[str, str], ...]] = (
    ("v1alpha1", "POST"),
    ("v1alpha2", "POST"),
    ("v1alpha2/tasks", "GET"),
    ("v1alpha2/tasks/{id}", "GET"),
    ("v1alpha2/tasks/{id}/cancel", "POST"),
    ("v1alpha2/tasks/{id}/retry", "POST"),
    ("v1alpha2/uploads", "POST"),
    ("{proxy+}", ""),
)

# (response type, status, code, message). Types and their own statuses:
# https://docs.aws.amazon.com/apigateway/latest/developerguide/supported-gateway-response-types.html
_NO_KEY: Final = (401, "unauthorized", "send the API key in the header x-api-key")
_NOT_FOUND: Final = (404, "not_found", "there is nothing at this path")
_THROTTLED: Final = (429, "throttled", "too many requests; try again in a moment")
_RESPONSES: Final[tuple[tuple[str, tuple[int, str, str]], ...]] = (
    ("INVALID_API_KEY", _NO_KEY),
    ("UNAUTHORIZED", _NO_KEY),
    ("ACCESS_DENIED", _NO_KEY),
    ("INVALID_SIGNATURE", _NO_KEY),
    ("EXPIRED_TOKEN", _NO_KEY),
    ("MISSING_AUTHENTICATION_TOKEN", _NOT_FOUND),
    ("RESOURCE_NOT_FOUND", _NOT_FOUND),
    ("THROTTLED", _THROTTLED),
    ("QUOTA_EXCEEDED", _THROTTLED),
    ("REQUEST_TOO_LARGE", (413, "too_large", "the body is larger than 4 MiB")),
    ("UNSUPPORTED_MEDIA_TYPE", (415, "unsupported_media_type", "send JSON, content-type application/json")),
    ("DEFAULT_4XX", (400, "invalid_task", "the request could not be read")),
    ("DEFAULT_5XX", (500, "internal", "the service failed; the request may be sent again")),
)


def api_context() -> dict[str, Any]:
    """Return `resources`, `methods` and `gateway_responses` of the API, each with its logical id."""
    resources: dict[str, dict[str, str]] = {}
    methods = [{"logical": "ApiRootAny", "resource": "", "verb": "ANY", "needs_key": False}]
    for path, verb in _ROUTES:
        parent, _, part = path.rpartition("/")
        logical = _logical(path)
        resources[path] = {"logical": logical, "parent": _logical(parent) if parent else "", "part": part}
        if verb:
            methods.append(
                {"logical": f"{logical}{verb.title()}", "resource": logical, "verb": verb, "needs_key": True}
            )
        methods.append({"logical": f"{logical}Any", "resource": logical, "verb": "ANY", "needs_key": False})
    return {
        "resources": list(resources.values()),
        "methods": methods,
        "gateway_responses": [_gateway_response(kind, *answer) for kind, answer in _RESPONSES],
    }


def _logical(path: str) -> str:
    return "Api" + "".join(part.strip("{}+").title() for part in path.split("/"))


def _gateway_response(kind: str, status: int, code: str, message: str) -> dict[str, str]:
    body = {"error": {"code": code, "message": message, "fields": []}}
    return {
        "logical": "ApiAnswer" + kind.title().replace("_", ""),
        "type": kind,
        "status": str(status),
        "body": json.dumps(body, separators=(",", ":")),
    }
