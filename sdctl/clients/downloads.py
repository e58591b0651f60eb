"""Files that others serve over HTTP: opened, read by ranges from several threads, taken up after a break.

A server may drop the connection, ask to wait, redirect elsewhere, answer with a page, or tell a wrong
length: the first two are waited out, the others are errors. A token goes to the host it is meant for alone.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urljoin, urlsplit

from sdctl.errors import RemoteError, UsageError

if TYPE_CHECKING:
    import urllib3

T = TypeVar("T")

CONNECT_SECONDS: Final = 10.0
READ_SECONDS: Final = 60.0
ATTEMPTS: Final = 6
# A server that has not answered even once is more likely misspelt, or behind a door, than on its way back.
FIRST_ATTEMPTS: Final = 3
BACKOFF_SECONDS: Final = 0.5
MAX_WAIT_SECONDS: Final = 120.0
MAX_REDIRECTS: Final = 10
MAX_DOCUMENT_BYTES: Final = 16 * 1024**2
_OBJECT: Final = re.compile(r"^<?\w+\(host=[^)]*\)[^:]*: ")
_TRY_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


class SourceError(RemoteError):
    """A source did not give its file."""

    code = "source"

    def __init__(self, message: str = "", *, status: int = 0, reason: str = "", hint: str = "") -> None:
        """Keep the HTTP status and the publisher's own error code beside the message."""
        super().__init__(message, hint=hint)
        self.status = status
        self.reason = reason


class BrokenError(Exception):
    """The line broke, or the server asks to come again in so many seconds; `attempts` are worth it."""

    def __init__(self, reason: str, wait_seconds: float | None = None, attempts: int = ATTEMPTS) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds
        self.attempts = attempts


@dataclass(frozen=True, slots=True)
class Token:
    """A publisher's token, and the one host that it may be sent to."""

    origin: str
    value: str

    def header_for(self, url: str) -> dict[str, str]:
        """Return the header for an address, none where it is another host's."""
        return (
            {"Authorization": f"Bearer {self.value}"} if self.value and origin_of(url) == self.origin else {}
        )


NO_TOKEN: Final = Token("", "")


def origin_of(url: str) -> str:
    """Return scheme, host and port of an address."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def check_url(url: str) -> None:
    """Refuse what is not https, or http to this very machine.

    Raises:
        UsageError: it is not.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise UsageError(f"{shown(url)} is not an address: {error}") from error
    if any(ord(char) <= 32 or ord(char) == 127 for char in url) or not host or "@" in parts.netloc:
        raise UsageError(f"{shown(url)} is not an address")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        raise UsageError(f"{shown(url)} is not https://: what comes over plain HTTP may be anyone's")


def shown(url: str) -> str:
    """Show an address without its query, which may be a signature."""
    head = url.partition("?")[0]
    return head if len(head) <= 200 else head[:199] + "…"


class Downloads:
    """The one way to other people's servers; safe to share between threads."""

    def __init__(
        self,
        env: Mapping[str, str],
        *,
        on_wait: Callable[[str, float], None] = lambda _reason, _seconds: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Keep proxies of the environment; nothing is connected.

        Args:
            env: the environment.
            on_wait: is told, from several threads, why and how many seconds will be waited.
            sleep: how to wait.
        """
        self._env = env
        self._on_wait = on_wait
        self._sleep = sleep
        self._answered: set[str] = set()
        self._pools: dict[str, Any] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            pool.clear()

    def document(self, url: str, token: Token = NO_TOKEN) -> Any:
        """Fetch a JSON document.

        Raises:
            SourceError: it does not come, or is not JSON.
        """
        import json

        def fetch() -> bytes:
            import urllib3

            response, _ = self.get(url, token, {"Accept": "application/json"})
            try:
                body: bytes = response.read(MAX_DOCUMENT_BYTES + 1)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                response.close()
                raise BrokenError(f"the connection broke: {said(error)}") from error
            response.release_conn()
            return body

        body = self.patiently(fetch, url)
        if len(body) > MAX_DOCUMENT_BYTES:
            raise SourceError(f"the answer of {shown(url)} is too long")
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"the answer of {shown(url)} is not JSON") from error

    def get(self, url: str, token: Token, headers: Mapping[str, str]) -> tuple[urllib3.BaseHTTPResponse, str]:
        """Send a GET and follow redirects; return the response, unread, and its address.

        Raises:
            SourceError: refused for good.
            BrokenError: worth another try.
        """
        import urllib3

        at = url
        for _ in range(MAX_REDIRECTS):
            sent = {"Accept-Encoding": "identity", "User-Agent": "sdctl", **headers, **token.header_for(at)}
            try:
                response = self._pool(at).request(
                    "GET", at, headers=sent, preload_content=False, redirect=False, retries=False,
                    timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
                )  # fmt: skip
            except (urllib3.exceptions.HTTPError, OSError) as error:
                attempts = ATTEMPTS if origin_of(at) in self._answered else FIRST_ATTEMPTS
                raise BrokenError(
                    f"no connection to {origin_of(at)}: {said(error)}", attempts=attempts
                ) from error
            self._answered.add(origin_of(at))
            if response.status not in _REDIRECTS:
                if response.status >= 400:
                    self._refuse(response, at)
                return response, at
            target = urljoin(at, response.headers.get("location", ""))
            response.close()  # its body may be anything
            check_url(target)
            at = target
        raise SourceError(f"{shown(url)} redirects without end")

    def patiently(self, fetch: Callable[[], T], url: str) -> T:
        """Call until the line holds, a few times, and as the server asks.

        Raises:
            SourceError: it never did.
        """
        attempt = 0
        while True:
            try:
                return fetch()
            except BrokenError as error:
                attempt += 1
                if attempt >= error.attempts:
                    raise gave_up(url, error) from error
                self.wait(attempt, error)

    def wait(self, attempt: int, error: BrokenError) -> None:
        """Wait before the next attempt: as long as the server asks, else ever longer."""
        seconds = error.wait_seconds
        if seconds is None:
            seconds = random.uniform(0.6, 1.2) * BACKOFF_SECONDS * 2.0**attempt  # noqa: S311
        self._on_wait(str(error), seconds)
        self._sleep(seconds)

    def _refuse(self, response: urllib3.BaseHTTPResponse, url: str) -> None:
        status, headers = response.status, response.headers
        reason = headers.get("x-error-code", "")
        told = headers.get("x-error-message", "")[:200]
        response.close()
        if status in _TRY_AGAIN:
            raise BrokenError(
                f"{origin_of(url)} answers {status}", _retry_after(headers.get("retry-after", ""))
            )
        raise SourceError(
            f"{shown(url)} answers {status}{f': {told}' if told else ''}", status=status, reason=reason
        )

    def _pool(self, url: str) -> Any:
        import urllib3

        proxy = self._proxy(url)
        with self._lock:
            if proxy not in self._pools:
                self._pools[proxy] = (
                    urllib3.ProxyManager(proxy, maxsize=32) if proxy else urllib3.PoolManager(maxsize=32)
                )
            return self._pools[proxy]

    def _proxy(self, url: str) -> str:
        """Find the proxy for an address as other programs do, by `https_proxy` and `no_proxy`."""
        parts = urlsplit(url)
        names = (f"{parts.scheme}_proxy", "all_proxy")
        found = next(
            (self._env[one] for name in names for one in (name, name.upper()) if self._env.get(one)), ""
        )
        excepted = self._env.get("no_proxy") or self._env.get("NO_PROXY") or ""
        host = f".{parts.hostname}"
        suffixes = [one.strip().lower().lstrip("*") for one in excepted.split(",") if one.strip()]
        is_excepted = any(not one or host.endswith(f".{one.lstrip('.')}") for one in suffixes)
        return "" if is_excepted or parts.hostname in _LOOPBACK else found


def gave_up(url: str, error: BrokenError) -> SourceError:
    """Word that every attempt failed."""
    has_answered = error.attempts == ATTEMPTS
    return SourceError(
        f"{shown(url)} does not give the file: {error} ({error.attempts} attempts)",
        hint="what has arrived is kept: the same command goes on from there" if has_answered
        else "check the address, this machine's connection, and HTTPS_PROXY",
    )  # fmt: skip


def said(error: Exception) -> str:
    """Word what a library says of a connection, without the name of its object."""
    if len(error.args) == 2 and isinstance(error.args[1], Exception):
        # urllib3 keeps its own words and the cause, and would show both as a tuple.
        words, inner = str(error.args[0]), said(error.args[1])
        return words if inner in words else f"{words}: {inner}"[:200]
    text = str(error) or type(error).__name__
    return _OBJECT.sub("", text)[:200]


def _retry_after(text: str) -> float | None:
    """Read a Retry-After, in seconds or as a date: https://www.rfc-editor.org/rfc/rfc9110#field.retry-after."""
    if text.isdecimal():
        return min(float(text), MAX_WAIT_SECONDS)
    if not text:
        return None
    try:
        left = parsedate_to_datetime(text).timestamp() - time.time()
    except ValueError:
        return None
    return min(max(left, 0.0), MAX_WAIT_SECONDS)
