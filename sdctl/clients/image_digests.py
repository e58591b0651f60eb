"""Which image a tag means today: its digest, asked of the registry; nothing is downloaded.

https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#checking-if-content-exists-in-the-registry
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from sdctl.clients.aws import Aws
from sdctl.clients.registries import ecr_login, is_ecr, is_loopback
from sdctl.errors import ToolError

_ACCEPTED: Final = ", ".join((
    "application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json",
))  # fmt: skip
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_CONNECT_SECONDS: Final = 5.0
_READ_SECONDS: Final = 10.0
_MAX_TOKEN_BYTES: Final = 64 * 1024


def image_digest(aws: Aws, image: str, environment: Mapping[str, str], *, tag: str = "latest") -> str:
    """Ask a registry for the digest of a tag, as `sha256:…`.

    Args:
        aws: the session, for a private ECR registry.
        image: with its registry, as `public.ecr.aws/bingjiao/sd-on-eks/sdwebui`.
        environment: for the proxy variables.
        tag: which one.

    Raises:
        ToolError: the registry cannot be reached, or has no such image.
        AwsError: ECR gives no login.
    """
    import urllib3

    host, _, name = image.partition("/")
    base = f"{'http' if is_loopback(host) else 'https'}://{host}"
    proxy = environment.get("HTTPS_PROXY") or environment.get("https_proxy")
    timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS)
    options: dict[str, Any] = {"timeout": timeout, "retries": urllib3.Retry(2, redirect=3)}
    is_direct = not proxy or is_loopback(host)
    pool = urllib3.PoolManager(**options) if is_direct else urllib3.ProxyManager(str(proxy), **options)
    url, headers = f"{base}/v2/{name}/manifests/{tag}", {"Accept": _ACCEPTED}
    with pool:
        try:
            answer = pool.request("HEAD", url, headers=headers)
            if answer.status == 401:
                challenge = answer.headers.get("WWW-Authenticate", "")
                headers["Authorization"] = _authorization(pool, aws, host, challenge)
                answer = pool.request("HEAD", url, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise ToolError(f"the registry {host} cannot be asked for {image}: {error}") from error
    digest = answer.headers.get("Docker-Content-Digest", "")
    if answer.status != 200 or not _DIGEST.fullmatch(digest):
        raise ToolError(f"the registry {host} has no {image}:{tag} (it answers {answer.status})")
    return digest


def _authorization(pool: Any, aws: Aws, host: str, challenge: str) -> str:
    """Get what the challenge asks for: ECR's login, or a token for anybody."""
    import urllib3

    scheme, _, rest = challenge.partition(" ")
    if is_ecr(host):
        login = ecr_login(aws, host)
        return str(urllib3.make_headers(basic_auth=f"{login.user}:{login.password}")["authorization"])
    fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
    realm = urlsplit(fields.pop("realm", ""))
    # A registry may name any address: only its own company's, and never in the clear.
    if scheme.lower() != "bearer" or realm.scheme != "https" or not realm.hostname:
        raise ToolError(f"the registry {host} wants a login")
    answer = pool.request("GET", f"{realm.geturl()}?{urlencode(fields)}", preload_content=False)
    body = answer.read(_MAX_TOKEN_BYTES)
    answer.release_conn()
    token = re.search(rb'"(?:access_)?token"\s*:\s*"([^"\\]+)"', body)
    if answer.status != 200 or token is None:
        raise ToolError(f"the registry {host} gives no token (it answers {answer.status})")
    return f"Bearer {token[1].decode('ascii')}"
