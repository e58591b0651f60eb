"""Requests and answers: API Gateway's proxy events in, its proxy answers out, every error in one shape.

Event and answer: https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sdctl import contract
from sdctl.contract import InvalidTaskError, Problem

STATUS_OF_CODE: Final[Mapping[str, int]] = {
    "invalid_task": 400,
    "not_found": 404,
    "method_not_allowed": 405,
    "id_conflict": 409,
    "task_ended": 409,
    "too_large": 413,
    "unsupported_media_type": 415,
    "throttled": 429,
    "internal": 500,
    "queue_unavailable": 502,
}


# More than these nobody reads, and an answer has a limit of 6 MB.
MAX_PROBLEMS: Final = 100
MAX_PATH_CHARACTERS: Final = 200


class ApiError(Exception):
    """A request is answered with an error: `code` decides the HTTP status."""

    def __init__(
        self,
        code: str,
        message: str,
        problems: Iterable[Problem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.code = code
        self.problems = tuple(problems)
        self.headers = dict(headers or {})
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Request:
    """One request; header names are lower-case, the query holds each parameter's last value."""

    resource: str
    method: str
    path: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    is_base64: bool = False


def read_request(event: Mapping[str, Any]) -> Request:
    """Read a proxy event."""
    return Request(
        resource=str(event.get("resource") or ""),
        method=str(event.get("httpMethod") or "").upper(),
        path=str(event.get("path") or ""),
        parameters=event.get("pathParameters") or {},
        query=_last_values(event.get("queryStringParameters"), event.get("multiValueQueryStringParameters")),
        headers={
            name.lower(): value
            for name, value in _last_values(event.get("headers"), event.get("multiValueHeaders")).items()
        },
        body=event.get("body") or "",
        is_base64=bool(event.get("isBase64Encoded")),
    )


def _last_values(
    single: Mapping[str, str] | None, multiple: Mapping[str, list[str]] | None
) -> dict[str, str]:
    values = dict(single or {})
    for name, entries in (multiple or {}).items():
        if entries:
            values[name] = entries[-1]
    return values


def read_json(request: Request) -> Any:
    """Decode a request's JSON body.

    Raises:
        ApiError: wrong media type, too large, or not JSON.
    """
    media_type = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if media_type and media_type != "application/json":
        raise ApiError(
            "unsupported_media_type", f"{contract.found(media_type)} is not taken; send application/json"
        )
    # Four characters of base64 hold three bytes: what cannot fit is refused before it is decoded.
    if len(request.body) > contract.MAX_BODY_BYTES * (4 if request.is_base64 else 3) // 3 + 4:
        raise _too_large()
    data = _body_bytes(request)
    if len(data) > contract.MAX_BODY_BYTES:
        raise _too_large()
    try:
        return contract.decode_json(data.decode())
    except ValueError as error:
        reason = "not valid Unicode" if isinstance(error, UnicodeError) else str(error)
        raise invalid([Problem("", f"the body is not JSON: {reason}")]) from None


def _body_bytes(request: Request) -> bytes:
    if not request.is_base64:
        return request.body.encode(errors="surrogatepass")
    try:
        return base64.b64decode(request.body, validate=True)
    except binascii.Error:
        raise invalid([Problem("", "the body is not base64")]) from None


def _too_large() -> ApiError:
    return ApiError("too_large", f"the body is larger than {contract.MAX_BODY_BYTES} bytes")


def invalid(problems: Iterable[Problem]) -> ApiError:
    """Make the error of a request that breaks the contract, with all that is wrong with it."""
    every = tuple(problems)
    listed = [Problem(_shortened(problem.path), problem.message) for problem in every[:MAX_PROBLEMS]]
    if len(every) > len(listed):
        listed.append(Problem("", f"and {len(every) - len(listed)} more"))
    return ApiError("invalid_task", str(InvalidTaskError(listed)), listed)


def _shortened(path: str) -> str:
    return path if len(path) <= MAX_PATH_CHARACTERS else path[: MAX_PATH_CHARACTERS - 1] + "…"


def answer(
    status: int, document: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Render a proxy answer. Answers hold presigned URLs and states: nothing may keep them."""
    return {
        "statusCode": status,
        "headers": {"Content-Type": "application/json", "Cache-Control": "no-store", **(headers or {})},
        "body": json.dumps(document, ensure_ascii=False, separators=(",", ":")),
        "isBase64Encoded": False,
    }


def error_answer(error: ApiError) -> dict[str, Any]:
    """Render the contract's error object."""
    document = {
        "error": {
            "code": error.code,
            "message": str(error),
            "fields": [problem.as_dict() for problem in error.problems],
        }
    }
    return answer(STATUS_OF_CODE[error.code], document, error.headers)
