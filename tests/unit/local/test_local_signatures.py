"""Signatures as botocore makes them are accepted; anything else is not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from sdctl.local import signatures
from sdctl.local.signatures import Request

KEY, SECRET = "123456789012", "a secret"
CREDENTIALS = Credentials(KEY, SECRET)
HOST = "127.0.0.1:4000"


def as_received(signed: Any) -> Request:
    """Turn botocore's request into what a server sees of it."""
    prepared = signed.prepare()
    parts = urlsplit(prepared.url)
    headers = {
        name.lower(): value.decode() if isinstance(value, bytes) else str(value)
        for name, value in prepared.headers.items()
    }
    return Request(prepared.method, parts.path.encode(), parts.query.encode(), {"host": HOST} | headers)


def is_valid(request: Request, body: bytes = b"", *, secret: str = SECRET, later_seconds: float = 0) -> bool:
    claim = signatures.read_claim(request)
    assert claim is not None
    now = datetime.now(UTC) + timedelta(seconds=later_seconds)
    return signatures.is_valid(request, claim, access_key=KEY, secret_key=secret, body=body, now=now)


@pytest.mark.parametrize(
    ("service", "path"),
    [
        ("sqs", "/"), ("apigateway", "/tags/arn%3Aaws%3Aapigateway%3A%3A%2Frestapis%2Fx%20y"),
        ("apigateway", "/restapis?limit=5&position=a%2Fb%20c&embed"),
        ("lambda", "/2015-03-31/functions/a~b_c/code"),
    ],
)  # fmt: skip
def test_a_signed_body_is_accepted_and_another_body_is_not(service: str, path: str) -> None:
    signed = AWSRequest("POST", f"http://{HOST}{path}", data=b"Action=x", headers={"X-Amz-Target": "a  b"})
    SigV4Auth(CREDENTIALS, service, "us-east-1").add_auth(signed)
    request = as_received(signed)
    assert signatures.needs_body(request, signatures.read_claim(request))  # type: ignore[arg-type]
    assert is_valid(request, b"Action=x")
    assert not is_valid(request, b"Action=y")
    assert not is_valid(request, b"Action=x", secret="another")


@pytest.mark.parametrize(
    "path", ["/bucket/a/b%20c%2B%C3%A9.txt", "/bucket/a//b?list-type=2&prefix=x%2F", "/"]
)
def test_an_s3_call_is_checked_without_its_body(path: str) -> None:
    signed = AWSRequest("PUT", f"http://{HOST}{path}", data=b"bytes")
    signed.context["payload_signing_enabled"] = True
    S3SigV4Auth(CREDENTIALS, "s3", "us-east-1").add_auth(signed)
    request = as_received(signed)
    assert not signatures.needs_body(request, signatures.read_claim(request))  # type: ignore[arg-type]
    assert is_valid(request)
    assert not is_valid(replace(request, raw_path=request.raw_path + b"x"))
    assert not is_valid(replace(request, method="DELETE"))


def test_a_presigned_url_is_valid_until_it_expires() -> None:
    signed = AWSRequest("GET", f"http://{HOST}/bucket/a%20b.png?response-content-disposition=x%3B%20y")
    S3SigV4QueryAuth(CREDENTIALS, "s3", "us-east-1", expires=60).add_auth(signed)
    request = as_received(signed)
    assert is_valid(request)
    assert not is_valid(request, later_seconds=70)
    assert not is_valid(replace(request, query=request.query + b"&x=y"))


def test_an_old_signature_is_refused() -> None:
    signed = AWSRequest("POST", f"http://{HOST}/", data=b"")
    SigV4Auth(CREDENTIALS, "sqs", "us-east-1").add_auth(signed)
    assert not is_valid(as_received(signed), later_seconds=16 * 60)


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"authorization": "Bearer x"}, {"authorization": "AWS4-HMAC-SHA256 Credential=a/b/c"},
        {"authorization": f"AWS4-HMAC-SHA256 Credential=k/d/r/s/aws4_request, SignedHeaders=x-amz-date, "
                          f"Signature={'0' * 64}"},
    ],
)  # fmt: skip
def test_what_is_no_complete_signature_makes_no_claim(headers: dict[str, str]) -> None:
    assert signatures.read_claim(Request("GET", b"/", b"Action=ListQueues", headers)) is None
    assert signatures.read_claim(Request("GET", b"/", b"X-Amz-Algorithm=AWS4-HMAC-SHA256", headers)) is None
