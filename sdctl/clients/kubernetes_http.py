"""One exchange at a time with a Kubernetes API: deadlines, bounded answers, tokens, and another try.

A refused token is renewed once; what is safe to repeat (all that we send is) is repeated when the server is
busy or the connection breaks. Knows nothing of objects.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlencode

import urllib3

from sdctl.clients.cluster_access import ClusterAccess, TokenSource
from sdctl.errors import ConflictError, NotFoundError, RemoteError
from sdctl.polling import Clock

USER_AGENT: Final = "sdctl"
JSON: Final = "application/json"
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
CONNECT_TIMEOUT_SECONDS: Final = 10.0
_CHUNK_BYTES: Final = 256 * 1024
_ATTEMPTS: Final = 4
_RETRY_SECONDS: Final = 0.5
_MAX_RETRY_SECONDS: Final = 5.0
# Busy, or between two servers; the API server says "too many requests" to everyone when it restarts.
_PASSING_STATUSES: Final = frozenset({429, 500, 502, 503, 504})

Object = dict[str, Any]


class KubernetesError(RemoteError):
    """The Kubernetes API refused a request, or did not answer."""

    code = "kubernetes"

    def __init__(self, message: str = "", *, status: int = 0, reason: str = "", hint: str = "") -> None:
        """Keep the HTTP status (0: no answer) and Kubernetes' own reason beside the message."""
        super().__init__(message, hint=hint)
        self.status = status
        self.reason = reason


class ApiConnection:
    """The connections to one cluster; safe to share between threads."""

    def __init__(
        self,
        access: ClusterAccess,
        tokens: TokenSource,
        *,
        environment: Mapping[str, str],
        request_timeout_seconds: float,
        clock: Clock,
    ) -> None:
        """Prepare the connections; nothing is sent yet. The clock is for the pauses between attempts."""
        self._access = access
        self._tokens = tokens
        self._timeout_seconds = request_timeout_seconds
        self._clock = clock
        self._pool = _pool(access, environment)

    def close(self) -> None:
        """Close every connection."""
        self._pool.clear()

    def exchange(
        self,
        method: str,
        path: str,
        *,
        action: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Object:
        """Send one request, again where that can help, and read its answer.

        Args:
            method: of HTTP.
            path: with everything in it quoted.
            action: what is tried, as in `read Node x`, for errors.
            query: parameters; empty ones are left out.
            body: what is sent.
            content_type: of the body.
            accept: in which form the answer is wanted.

        Raises:
            NotFoundError: 404.
            ConflictError: 409.
            KubernetesError: any other refusal, or no answer.
        """
        url = self._access.endpoint.rstrip("/") + path
        pairs = {name: value for name, value in (query or {}).items() if value}
        url += f"?{urlencode(pairs)}" if pairs else ""
        headers = {"Accept": accept, "User-Agent": USER_AGENT}
        if body is not None:
            headers["Content-Type"] = content_type
        data = json.dumps(body).encode() if body is not None else None
        is_renewed = False
        for attempt in range(1, _ATTEMPTS + 1):
            token = self._tokens.current()
            sent = headers | {"Authorization": f"Bearer {token}"}
            try:
                status, answer = self._send(method, url, sent, data, action)
            except KubernetesError:
                if attempt == _ATTEMPTS:
                    raise
            else:
                if status == 401 and not is_renewed:
                    is_renewed = True
                    self._tokens.discard(token)
                    continue
                if status not in _PASSING_STATUSES or attempt == _ATTEMPTS:
                    return _read(status, answer, action)
            self._clock.sleep(self._pause_seconds(attempt))
        raise KubernetesError(f"could not {action}: the credentials are not accepted", status=401)

    def _pause_seconds(self, attempt: int) -> float:
        longest = min(_MAX_RETRY_SECONDS, _RETRY_SECONDS * 2 ** (attempt - 1))
        return self._clock.uniform(longest / 2, longest)

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], data: bytes | None, action: str
    ) -> tuple[int, bytes]:
        deadline = time.monotonic() + self._timeout_seconds
        timeout = urllib3.Timeout(
            connect=min(CONNECT_TIMEOUT_SECONDS, self._timeout_seconds), read=self._timeout_seconds
        )
        with _connection_errors(action, self._access.endpoint):
            response = self._pool.request(
                method, url, body=data, headers=dict(headers), timeout=timeout, retries=False, redirect=False,
                preload_content=False,
            )  # fmt: skip
            try:
                answer = _whole(response, deadline, action)
            except BaseException:
                response.close()
                raise
            response.release_conn()
            return response.status, answer


def _whole(response: urllib3.BaseHTTPResponse, deadline: float, action: str) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        # A single read, so that a server which sends a byte now and then meets the deadline too.
        piece = response.read1(_CHUNK_BYTES)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise KubernetesError(f"could not {action}: the answer is larger than {MAX_ANSWER_BYTES} bytes")
        if time.monotonic() > deadline:
            raise KubernetesError(f"could not {action}: the answer did not end in time")


def _pool(access: ClusterAccess, environment: Mapping[str, str]) -> urllib3.PoolManager:
    context = ssl.create_default_context(cadata=access.authority_pem)
    options: dict[str, Any] = {"ssl_context": context, "maxsize": 4, "block": False}
    proxy = environment.get("HTTPS_PROXY") or environment.get("https_proxy")
    if proxy and not _is_direct(access.endpoint, environment):
        return urllib3.ProxyManager(proxy if "://" in proxy else f"http://{proxy}", **options)
    return urllib3.PoolManager(**options)


def _is_direct(endpoint: str, environment: Mapping[str, str]) -> bool:
    """Tell whether NO_PROXY names the server: a host, or a domain and all below it."""
    host = urllib3.util.parse_url(endpoint).host or ""
    named = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    domains = [word.strip().lstrip(".").lower() for word in named.split(",") if word.strip()]
    return any(one == "*" or f".{host}".endswith(f".{one}") for one in domains)


@contextmanager
def _connection_errors(action: str, endpoint: str) -> Iterator[None]:
    try:
        yield
    except (urllib3.exceptions.HTTPError, ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        text = str(reason).rpartition(": ")[2] or type(error).__name__
        hint = "is this machine in publicAccessCidrs, or behind a proxy? sdctl doctor"
        raise KubernetesError(f"could not {action}: no answer from {endpoint}: {text}", hint=hint) from error


def _read(status: int, answer: bytes, action: str) -> Object:
    try:
        document = json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise KubernetesError(
            f"could not {action}: the answer ({status}) is no JSON", status=status
        ) from error
    if not isinstance(document, dict):
        raise KubernetesError(f"could not {action}: the answer ({status}) is no object", status=status)
    if 200 <= status < 300:
        return document
    reason, text = str(document.get("reason") or ""), str(document.get("message") or "no reason given")
    message = f"could not {action}: {text} ({reason or status})"
    if status == 404:
        raise NotFoundError(message)
    if status == 409:
        raise ConflictError(message)
    hint = _HINTS.get(status, "")
    raise KubernetesError(message, status=status, reason=reason, hint=hint)


_HINTS: Final = {
    401: "these credentials have no access entry in the cluster: use those that deployed it",
    403: "these credentials have too few rights in the cluster: use those that deployed it",
}
