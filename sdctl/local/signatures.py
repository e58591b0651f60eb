"""Verifies AWS signatures on the emulator's door, which itself accepts any caller.

Whoever can open a loopback port could otherwise use the emulator: every local user, and through a
browser every web page. Signature Version 4 in the header or in the URL is what is accepted, made with the
deployment's one key pair: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote, unquote_to_bytes

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256 +Credential=(?P<credential>[^, ]+), *SignedHeaders=(?P<headers>[^, ]+), *"
    r"Signature=(?P<signature>[0-9a-f]{64})"
)
_CLOCK_SKEW: Final = timedelta(minutes=15)
_MAX_EXPIRY_SECONDS: Final = 7 * 24 * 3600
_UNSIGNED: Final = "UNSIGNED-PAYLOAD"


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came over the wire: header names in lower case, `raw_path` still encoded."""

    method: str
    raw_path: bytes
    query: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request says about its own signature; `seconds` is how long it stays valid."""

    access_key: str
    scope: tuple[str, str, str]
    signed_headers: tuple[str, ...]
    signature: str
    date: str
    seconds: int | None
    in_query: bool


def read_claim(request: Request) -> Claim | None:
    """Return the signature that a request carries in its header or URL, or None."""
    match = _AUTHORIZATION.fullmatch(request.headers.get("authorization", "").strip())
    if match:
        found, date, seconds = match.groupdict(), request.headers.get("x-amz-date", ""), None
    else:
        query = {name: _decoded(value) for name, value in _pairs(request.query)}
        if query.get("X-Amz-Algorithm") != _ALGORITHM or not query.get("X-Amz-Expires", "").isdecimal():
            return None
        found = {
            "credential": query.get("X-Amz-Credential", ""), "headers": query.get("X-Amz-SignedHeaders", ""),
            "signature": query.get("X-Amz-Signature", ""),
        }  # fmt: skip
        date, seconds = query.get("X-Amz-Date", ""), int(query["X-Amz-Expires"])
    key, *scope = found["credential"].split("/")
    if len(scope) != 4 or scope[3] != "aws4_request":
        return None
    headers = tuple(found["headers"].split(";"))
    if "host" not in headers:
        return None
    return Claim(
        key, (scope[0], scope[1], scope[2]), headers, found["signature"], date, seconds, match is None
    )


def needs_body(request: Request, claim: Claim) -> bool:
    """Tell whether the signature can be checked only with the request's body at hand."""
    return not claim.in_query and "x-amz-content-sha256" not in request.headers


def is_valid(
    request: Request, claim: Claim, *, access_key: str, secret_key: str, body: bytes, now: datetime
) -> bool:
    """Tell whether the claim was made with our key pair, for this request, and is of this time.

    A payload hash that the request states itself is not compared with the payload: the emulator is on
    loopback, so only who makes a request matters, not what lies on its way.
    """
    try:
        signed_at = datetime.strptime(claim.date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return False
    lifetime = _CLOCK_SKEW if claim.seconds is None else timedelta(seconds=claim.seconds)
    if lifetime > timedelta(seconds=_MAX_EXPIRY_SECONDS) or not -_CLOCK_SKEW <= now - signed_at <= lifetime:
        return False
    if not hmac.compare_digest(claim.access_key, access_key) or not claim.date.startswith(claim.scope[0]):
        return False
    if claim.in_query:
        payload = _UNSIGNED
    else:
        payload = request.headers.get("x-amz-content-sha256") or hashlib.sha256(body).hexdigest()
    expected = _signature(secret_key, claim, _canonical_request(request, claim, payload))
    return hmac.compare_digest(expected, claim.signature)


def _canonical_request(request: Request, claim: Claim, payload: str) -> str:
    """Render the canonical request: the path as sent for S3, encoded once more for other services."""
    path = request.raw_path.decode("ascii", "replace")
    if claim.scope[2] != "s3":
        path = quote(path, safe="/-_.~")
    pairs = sorted(
        (_canonical(name), _canonical(value))
        for name, value in _pairs(request.query)
        if name != "X-Amz-Signature"
    )
    headers = "".join(
        f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in claim.signed_headers
    )
    query = "&".join(f"{name}={value}" for name, value in pairs)
    return "\n".join((request.method, path, query, headers, ";".join(claim.signed_headers), payload))


def _signature(secret_key: str, claim: Claim, canonical: str) -> str:
    key = f"AWS4{secret_key}".encode()
    for part in (*claim.scope, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    scope = "/".join((*claim.scope, "aws4_request"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return hmac.digest(key, f"{_ALGORITHM}\n{claim.date}\n{scope}\n{digest}".encode(), "sha256").hex()


def _pairs(query: bytes) -> list[tuple[str, str]]:
    text = query.decode("ascii", "replace")
    return [(name, value) for name, _, value in (part.partition("=") for part in text.split("&") if part)]


def _decoded(value: str) -> str:
    return unquote_to_bytes(value.replace("+", " ")).decode("utf-8", "replace")


def _canonical(value: str) -> str:
    return quote(unquote_to_bytes(value.replace("+", " ")), safe="-_.~")
