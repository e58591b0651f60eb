"""Checks EKS tokens as EKS does, without botocore: takes the request apart and signs it again."""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64decode
from datetime import UTC, datetime, timedelta
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit

ACCESS_KEY = "testing"
SECRET_KEY = "testing"


def problem_with(
    token: str, cluster: str, *, now: datetime | None = None, access_key: str = ACCESS_KEY,
    secret_key: str = SECRET_KEY,
) -> str:  # fmt: skip
    """Return why a token is no good for a cluster; empty where it is good.

    Signature Version 4 in the query: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html
    """
    if not token.startswith("k8s-aws-v1."):
        return "no prefix"
    encoded = token.removeprefix("k8s-aws-v1.")
    if "=" in encoded:
        return "padded"
    url = urlsplit(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode())
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    if query.get("Action") != "GetCallerIdentity":
        return "not GetCallerIdentity"
    names = query["X-Amz-SignedHeaders"].split(";")
    if "x-k8s-aws-id" not in names or "host" not in names:
        return "the cluster's name is not signed"
    if not query["X-Amz-Credential"].startswith(f"{access_key}/"):
        return "an unknown access key"
    made_at = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    if not timedelta(minutes=-1) < (now or datetime.now(UTC)) - made_at < timedelta(minutes=15):
        return "too old, or from the future"
    if int(query["X-Amz-Expires"]) > 900:
        return "expires too late"
    signature = _signature(url, query, names, cluster, secret_key)
    return "" if signature == query["X-Amz-Signature"] else "wrong signature"


def is_good(
    token: str, cluster: str, *, access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY
) -> bool:  # fmt: skip
    try:
        return problem_with(token, cluster, access_key=access_key, secret_key=secret_key) == ""
    except (KeyError, ValueError):
        return False


def _signature(
    url: SplitResult, query: dict[str, str], names: list[str], cluster: str, secret_key: str
) -> str:  # fmt: skip
    headers = {"host": url.netloc, "x-k8s-aws-id": cluster}
    pairs = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
        for name, value in query.items()
        if name != "X-Amz-Signature"
    )
    canonical = "\n".join([
        "GET", url.path or "/", "&".join(f"{name}={value}" for name, value in pairs),
        *(f"{name}:{headers[name]}" for name in names), "", ";".join(names), hashlib.sha256(b"").hexdigest(),
    ])  # fmt: skip
    _, *scope = query["X-Amz-Credential"].split("/")
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", query["X-Amz-Date"], "/".join(scope), digest])
    key = f"AWS4{secret_key}".encode()
    for part in scope:
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
