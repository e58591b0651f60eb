"""Many small files, quickly: AWS's native S3 client, which reads and sends them outside Python.

An option: without `awscrt`, behind a proxy or with certificates of one's own there is none, and what it
cannot store is left to botocore, whose errors say why.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from sdctl.clients.aws import Aws

_THREADS: Final = 2
_TIMEOUT_SECONDS: Final = 120.0
# Settings that the native client would not follow.
_CERTIFICATES: Final = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
_PROXIES: Final = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy")


def quick_puts(aws: Aws, bucket: str, env: Mapping[str, str] = os.environ) -> QuickPuts | None:
    """Return the native client for a bucket; None where it cannot take botocore's place."""
    own = aws.access.endpoint_url or env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL") or ""
    is_plain_http = own.startswith("http://")
    if any(env.get(name) for name in (_PROXIES if is_plain_http else (*_PROXIES, *_CERTIFICATES))):
        return None
    try:
        import awscrt.s3  # noqa: F401
    except ImportError:
        return None
    client = aws.client("s3")
    if own:
        return QuickPuts(aws, own, f"/{bucket}/")
    parts = urlsplit(client.meta.endpoint_url)
    is_plain = parts.hostname in (f"s3.{aws.region}.amazonaws.com", f"s3.{aws.region}.amazonaws.com.cn")
    if not is_plain or "." in bucket:
        return None
    return QuickPuts(aws, f"https://{bucket}.{parts.hostname}", "/")


class QuickPuts:
    """Stores files; safe to share between threads."""

    def __init__(self, aws: Aws, endpoint: str, prefix: str) -> None:
        """Make the client, with the session's credentials.

        Args:
            aws: the session.
            endpoint: scheme, host and port.
            prefix: what stands before a key in the path.
        """
        from awscrt.auth import AwsCredentials, AwsCredentialsProvider
        from awscrt.io import ClientBootstrap, DefaultHostResolver, EventLoopGroup
        from awscrt.s3 import S3Client, S3RequestTlsMode

        self._host, self._prefix = urlsplit(endpoint).netloc, prefix
        session = aws.session_credentials()

        def credentials() -> AwsCredentials:
            now = session.get_frozen_credentials()
            return AwsCredentials(now.access_key, now.secret_key, now.token)

        group = EventLoopGroup(_THREADS)
        is_tls = endpoint.startswith("https://")
        self._client = S3Client(
            bootstrap=ClientBootstrap(group, DefaultHostResolver(group)),
            region=aws.region,
            credential_provider=AwsCredentialsProvider.new_delegate(credentials),
            tls_mode=S3RequestTlsMode.ENABLED if is_tls else S3RequestTlsMode.DISABLED,
            throughput_target_gbps=10.0,
        )

    def put(
        self, key: str, path: Path, size_bytes: int, crc32: str, metadata: Mapping[str, str]
    ) -> str | None:
        """Store a file of this size and checksum; return its ETag, or None where it was not stored."""
        from awscrt.exceptions import AwsCrtError
        from awscrt.http import HttpHeaders, HttpRequest
        from awscrt.s3 import S3RequestType

        headers = HttpHeaders([
            ("host", self._host), ("content-length", str(size_bytes)),
            ("content-type", "binary/octet-stream"), ("x-amz-checksum-crc32", crc32),
            *((f"x-amz-meta-{name}", value) for name, value in metadata.items()),
        ])  # fmt: skip
        answer: dict[str, str] = {}

        def on_headers(headers: list[tuple[str, str]], **_rest: Any) -> None:
            answer.update((name.lower(), value) for name, value in headers)

        address = self._prefix + quote(key, safe="/~")
        sent = self._client.make_request(
            type=S3RequestType.DEFAULT, operation_name="PutObject",
            request=HttpRequest("PUT", address, headers), send_filepath=str(path.absolute()),
            on_headers=on_headers,
        )  # fmt: skip
        try:
            sent.finished_future.result(_TIMEOUT_SECONDS)
        except (AwsCrtError, TimeoutError):
            sent.cancel()
            return None
        return answer.get("etag", "").strip('"') or None
