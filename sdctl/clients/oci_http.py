"""HTTP as registries speak it: tokens, redirects, and another try when one is busy or the line breaks.

Addresses that a registry names are https, answers are bounded, and only a registry itself gets its password.
"""

from __future__ import annotations

import io
import re
import ssl
import time
from collections.abc import Mapping
from threading import Lock
from typing import Any, Final, Self
from urllib.parse import urlencode, urljoin, urlsplit

import urllib3

from sdctl.clients.registries import RegistryLogin, is_loopback
from sdctl.errors import RemoteError
from sdctl.polling import REAL_CLOCK, Clock

CONNECT_SECONDS: Final = 10.0
# Between two pieces of an answer or of an upload.
STALL_SECONDS: Final = 60.0
ATTEMPTS: Final = 5
_BACKOFF_SECONDS: Final = 0.5
_MAX_PAUSE_SECONDS: Final = 60.0
_BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS: Final = 5
_MAX_TOKEN_BYTES: Final = 64 * 1024
_MAX_REASON_BYTES: Final = 8 * 1024
# Public registries say how long a token is good; none gives less.
_TOKEN_SECONDS: Final = 50.0
_BLOCK_BYTES: Final = 256 * 1024
# What images are called after, and what answers for them.
_API_HOSTS: Final = {"docker.io": "registry-1.docker.io"}


class OciError(RemoteError):
    """A registry refused a request, or did not answer."""

    code = "registry"

    def __init__(self, message: str = "", *, status: int = 0, hint: str = "") -> None:
        """Keep the HTTP status (0: no answer) beside the message."""
        super().__init__(message, hint=hint)
        self.status = status


class Answer:
    """A registry's answer, whose body is read by the caller; a context manager that drops what is left."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def status(self) -> int:
        """Its HTTP status."""
        return self._response.status

    def header(self, name: str) -> str:
        """Return a header, empty where there is none."""
        return str(self._response.headers.get(name, ""))

    def read(self, limit_bytes: int) -> bytes:
        """Return the next bytes, none at the end.

        Raises:
            OciError: the line broke.
        """
        try:
            return self._response.read1(limit_bytes)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise OciError(f"the connection broke: {type(error).__name__}") from error

    def beginning(self) -> bytes:
        """Return the beginning of the body, for an error's reason."""
        pieces = b""
        while len(pieces) < _MAX_REASON_BYTES and (piece := self.read(_MAX_REASON_BYTES)):
            pieces += piece
        return pieces[:_MAX_REASON_BYTES]

    def close(self) -> None:
        """Give the connection back where the body is read, else close it."""
        if self._response.length_remaining == 0:
            self._response.drain_conn()  # nothing is left, but the connection must have been told so
            self._response.release_conn()
        else:
            self._response.close()


def body_of(answer: Answer, limit_bytes: int, action: str) -> bytes:
    """Read a whole body.

    Raises:
        OciError: it is longer than the limit, or takes longer than a minute.
    """
    pieces, size, deadline = [], 0, time.monotonic() + STALL_SECONDS
    while piece := answer.read(_BLOCK_BYTES):
        pieces.append(piece)
        size += len(piece)
        if size > limit_bytes:
            raise OciError(f"could not {action}: the answer is larger than {limit_bytes} bytes")
        if time.monotonic() > deadline:
            raise OciError(f"could not {action}: the answer did not end in time")
    return b"".join(pieces)


class OciHttp:
    """The connections to one registry; safe to share between threads.

    Args:
        host: with its port; on loopback it is spoken to in plain HTTP, as docker does.
        login: for a private registry.
        environment: for the proxy variables.
        clock: for the pauses between attempts, and for the age of tokens.
        authority: a file of certificates to trust instead of the system's.
    """

    def __init__(
        self,
        host: str,
        *,
        login: RegistryLogin | None = None,
        environment: Mapping[str, str] | None = None,
        clock: Clock = REAL_CLOCK,
        authority: str | None = None,
    ) -> None:
        self.host = host
        self._is_local = is_loopback(host)
        self.base = f"{'http' if self._is_local else 'https'}://{_API_HOSTS.get(host, host)}"
        self._login = login
        self._clock = clock
        self._authorizations: dict[str, tuple[str, float]] = {}
        self._lock = Lock()
        self._pool = _pool(host, environment or {}, authority)

    def close(self) -> None:
        """Close every connection."""
        self._pool.clear()

    def send(
        self,
        method: str,
        path: str,
        scope: str,
        *,
        action: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | io.RawIOBase | io.BytesIO | None = None,
        is_repeatable: bool = True,
    ) -> Answer:
        """Send one request, again where that can help, and return the answer; the caller closes it.

        Args:
            method: of HTTP.
            path: below the registry, with its query.
            scope: which rights the request needs, as the token protocol writes them.
            action: what is tried, for errors.
            headers: of the request.
            body: what is sent.
            is_repeatable: false for a body that can be read only once.

        Raises:
            OciError: no answer came.
        """
        is_renewed = False
        for attempt in range(1, ATTEMPTS + 1):
            is_last = attempt == ATTEMPTS or not is_repeatable
            try:
                answer = self._follow(method, self.base + path, scope, dict(headers or {}), body)
            except (urllib3.exceptions.HTTPError, ssl.SSLError, OSError) as error:
                if is_last:
                    reason = getattr(error, "reason", None) or error
                    text = str(reason).rpartition(": ")[2].rstrip("\"')") or type(error).__name__
                    hint = "is the network reachable? check HTTPS_PROXY and NO_PROXY"
                    raise OciError(
                        f"could not {action}: no answer from {self.host}: {text}", hint=hint
                    ) from error
                self._pause(attempt, "")
                continue
            if answer.status == 401 and not is_renewed and is_repeatable:
                is_renewed = True
                challenge = answer.header("WWW-Authenticate")
                answer.close()
                self._authorize(challenge, scope)
            elif answer.status in _BUSY and not is_last:
                self._pause(attempt, answer.header("Retry-After"))
                answer.close()
            else:
                return answer
        raise OciError(f"could not {action}: {self.host} does not accept the login", status=401)

    def _pause(self, attempt: int, retry_after: str) -> None:
        longest = _BACKOFF_SECONDS * 2 ** (attempt - 1)
        wanted = float(retry_after) if retry_after.isdecimal() else 0.0
        self._clock.sleep(min(_MAX_PAUSE_SECONDS, max(wanted, self._clock.uniform(longest / 2, longest))))

    def _follow(
        self,
        method: str,
        url: str,
        scope: str,
        headers: dict[str, str],
        body: bytes | io.RawIOBase | io.BytesIO | None,
    ) -> Answer:
        """Send, and follow where blobs lie: on another host, which gets no authorization."""
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=STALL_SECONDS)
        for _ in range(_MAX_REDIRECTS):
            own = url.startswith(f"{self.base}/")
            sent = headers | (self._authorization(scope) if own else {})
            response = self._pool.request(
                method, url, body=body, headers=sent, timeout=timeout, retries=False, redirect=False,
                preload_content=False, decode_content=False,
            )  # fmt: skip
            answer = Answer(response)
            if response.status not in _REDIRECTS or method not in ("GET", "HEAD"):
                return answer
            url = urljoin(url, answer.header("Location"))
            answer.close()
            self._check(url, "redirects")
        raise OciError(f"{self.host} redirects without end")

    def _check(self, url: str, verb: str) -> None:
        where = urlsplit(url)
        is_local = self._is_local and is_loopback(where.netloc)
        if not where.hostname or (where.scheme != "https" and not is_local):
            raise OciError(f"{self.host} {verb} to an address that is not https: {url[:200]}")

    def _authorization(self, scope: str) -> dict[str, str]:
        with self._lock:
            value, good_until = self._authorizations.get(scope, ("", 0.0))
        return {"Authorization": value} if value and self._clock.monotonic() < good_until else {}

    def _authorize(self, challenge: str, scope: str) -> None:
        """Get what a challenge asks for: the login itself, or a token for it or for anybody."""
        scheme, _, rest = challenge.partition(" ")
        fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        basic = ""
        if self._login is not None:
            basic = urllib3.make_headers(basic_auth=f"{self._login.user}:{self._login.password}")[
                "authorization"
            ]
        if scheme.lower() == "basic" and basic:
            value, good_for = basic, float("inf")
        elif scheme.lower() == "bearer":
            value, good_for = self._token(fields, scope, basic), _TOKEN_SECONDS
        else:
            raise OciError(f"{self.host} wants a login", status=401, hint="sign in to it first")
        with self._lock:
            self._authorizations[scope] = (value, self._clock.monotonic() + good_for)

    def _token(self, fields: Mapping[str, str], scope: str, basic: str) -> str:
        realm = fields.get("realm", "")
        self._check(realm, "sends for a token")
        query = [("service", fields["service"])] if "service" in fields else []
        query += [("scope", one) for one in scope.split(" ")]
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=STALL_SECONDS)
        response = self._pool.request(
            "GET", url, headers={"Authorization": basic} if basic else {}, timeout=timeout, retries=False,
            redirect=False, preload_content=False,
        )  # fmt: skip
        with Answer(response) as answer:
            body = body_of(answer, _MAX_TOKEN_BYTES, f"get a token for {self.host}")
        token = re.search(rb'"(?:access_)?token"\s*:\s*"([^"\\]+)"', body)
        if answer.status != 200 or token is None or not token[1].isascii():
            raise OciError(f"{self.host} gives no token ({answer.status})", status=answer.status)
        return f"Bearer {token[1].decode()}"


def _pool(host: str, environment: Mapping[str, str], authority: str | None) -> urllib3.PoolManager:
    options: dict[str, Any] = {"maxsize": 8, "block": False, "blocksize": _BLOCK_BYTES}
    if authority:
        options["ca_certs"] = authority
    proxy = environment.get("HTTPS_PROXY") or environment.get("https_proxy")
    named = (environment.get("NO_PROXY") or environment.get("no_proxy") or "").split(",")
    domains = [one for word in named if (one := word.strip().lstrip(".").lower())]
    name = host.rpartition(":")[0] or host
    is_direct = any(one == "*" or f".{name}".endswith(f".{one}") for one in domains)
    if not proxy or is_direct or is_loopback(host):
        return urllib3.PoolManager(**options)
    return urllib3.ProxyManager(proxy if "://" in proxy else f"http://{proxy}", **options)
