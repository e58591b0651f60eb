"""One HTTP exchange at a time over `http.client`: deadlines, bounded answers, no redirects.

Knows nothing of tasks. Every read is under the exchange's own deadline, so that a server that sends a
byte now and then cannot hold a command for ever.
"""

from __future__ import annotations

import functools
import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from sdctl.errors import ApiError, UsageError

CONNECT_TIMEOUT_SECONDS: Final = 10.0
CHUNK_BYTES: Final = 256 * 1024
_MAX_UPLOAD_ANSWER_BYTES: Final = 64 * 1024
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer: `headers` by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class UnreachableError(ApiError):
    """No complete answer came; whether the request was carried out is unknown."""

    code = "unreachable"


class _TimedReader(io.RawIOBase):
    """Reads a socket under one deadline for all reads, moved on by `stall_seconds` where that is set."""

    def __init__(self, sock: socket.socket, deadline: float, stall_seconds: float | None) -> None:
        self._sock = sock
        self._deadline = deadline
        self._stall_seconds = stall_seconds
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)
        count = self._raw.readinto(buffer)
        if self._stall_seconds is not None:
            self._deadline = time.monotonic() + self._stall_seconds
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(
        self, deadline: float, stall_seconds: float | None, sock: socket.socket, **keywords: Any
    ) -> None:
        super().__init__(sock, **keywords)
        plain, self.fp = self.fp, io.BufferedReader(_TimedReader(sock, deadline, stall_seconds))
        plain.close()


def split_url(url: str) -> SplitResult:
    """Take an address apart.

    Raises:
        UsageError: it is not an http or https address with a host and without a user name.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{_shown(url)} is not an address: {error}") from error
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc or port == 0:
        raise UsageError(f"{_shown(url)} is not an http:// or https:// address")
    if not url.isascii() or any(ord(char) <= 32 or ord(char) == 127 for char in url):
        raise UsageError(f"{_shown(url)} holds a character that an address cannot have")
    return parts


def _shown(url: str) -> str:
    """Show an address without its query, which may be a signature."""
    head = url.partition("?")[0]
    return repr(head if len(head) <= 200 else head[:199] + "…")


@contextmanager
def _reading(url: str) -> Iterator[None]:
    """Turn whatever goes wrong with a connection into one error that names the address."""
    try:
        yield
    except TimeoutError as error:
        raise UnreachableError(f"no complete answer from {_shown(url)} in time") from error
    except ssl.SSLError as error:
        raise UnreachableError(f"no trusted connection to {_shown(url)}: {error.reason or error}") from error
    except OSError as error:
        raise UnreachableError(f"cannot reach {_shown(url)}: {error.strerror or error}") from error
    except (http.client.HTTPException, ValueError) as error:
        text = f"{type(error).__name__} {error}".strip()
        raise UnreachableError(f"the answer of {_shown(url)} is not HTTP: {text[:200]}") from error


@dataclass(frozen=True, slots=True)
class Download:
    """A body that is still to be read: `size_bytes` is what the server announced, if it did."""

    url: str
    status: int
    size_bytes: int | None
    response: http.client.HTTPResponse
    close: Callable[[], None]

    def chunks(self) -> Iterator[bytes]:
        """Read the body in pieces to its announced end.

        Raises:
            UnreachableError: it stalled, or was cut short.
        """
        count = 0
        while True:
            with _reading(self.url):
                piece = self.response.read(CHUNK_BYTES)
            if not piece:
                break
            count += len(piece)
            yield piece
        if self.size_bytes is not None and count != self.size_bytes:
            raise UnreachableError(f"{_shown(self.url)} sent {count} of {self.size_bytes} bytes")


_Server = tuple[str, str, int]


def _server(parts: SplitResult) -> _Server:
    return parts.scheme, str(parts.hostname), parts.port or _PORTS[parts.scheme]


class Transport:
    """Keeps one connection a server open between exchanges.

    Args:
        env: environment, for the proxy variables; loopback addresses never go through a proxy.
    """

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self._env = env or {}
        self._open: dict[_Server, http.client.HTTPConnection] = {}

    def close(self) -> None:
        """Close every connection."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()

    def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        timeout_seconds: float,
        max_bytes: int,
    ) -> Reply:
        """Send one request and read its whole answer.

        Args:
            method: HTTP method.
            url: where; a redirect is returned, not followed.
            headers: as sent.
            body: what is sent.
            timeout_seconds: for the whole exchange.
            max_bytes: a longer answer is an error.

        Raises:
            UnreachableError: no complete answer came in time, or one that is not HTTP.
        """
        deadline = time.monotonic() + timeout_seconds
        with _reading(url):
            response = self._begin(method, url, headers, body, deadline=deadline)
            data = response.read(max_bytes + 1)
        self._finish(url, response)
        if len(data) > max_bytes:
            raise UnreachableError(f"{_shown(url)} answered more than {max_bytes} bytes")
        if response.length:
            raise UnreachableError(f"the answer of {_shown(url)} was cut short")
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, data)

    def upload(
        self, url: str, file: IO[bytes], size_bytes: int, headers: Mapping[str, str], *, stall_seconds: float
    ) -> Reply:
        """PUT a file of a known size; `stall_seconds` bounds each send and the wait for the answer."""
        deadline = time.monotonic() + CONNECT_TIMEOUT_SECONDS + stall_seconds
        sized = {**headers, "Content-Length": str(size_bytes)}
        with _reading(url):
            response = self._begin("PUT", url, sized, file, deadline=deadline, stall_seconds=stall_seconds)
            data = response.read(_MAX_UPLOAD_ANSWER_BYTES)
        self._finish(url, response)
        return Reply(response.status, {}, data)

    def download(self, url: str, *, stall_seconds: float) -> Download:
        """GET an address; each read of the body, which the caller does, is within `stall_seconds`."""
        deadline = time.monotonic() + CONNECT_TIMEOUT_SECONDS + stall_seconds
        with _reading(url):
            response = self._begin("GET", url, {}, None, deadline=deadline, stall_seconds=stall_seconds)
        return Download(url, response.status, response.length, response, lambda: self._finish(url, response))

    def _begin(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | IO[bytes] | None,
        *,
        deadline: float,
        stall_seconds: float | None = None,
    ) -> http.client.HTTPResponse:
        parts = split_url(url)
        connection = self._connected(_server(parts), deadline)
        connection.response_class = functools.partial(  # type: ignore[assignment]
            _Response, deadline, stall_seconds
        )
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request(method, target, body=body, headers=dict(headers))
            return connection.getresponse()
        except BaseException:
            self._open.pop(_server(parts)).close()
            raise

    def _finish(self, url: str, response: http.client.HTTPResponse) -> None:
        """Keep the connection for the next exchange where the answer was read to its end."""
        whole = response.isclosed() and not response.length and not response.will_close
        response.close()
        key = _server(split_url(url))
        if not whole and key in self._open:
            self._open.pop(key).close()

    def _connected(self, key: _Server, deadline: float) -> http.client.HTTPConnection:
        connection = self._open.get(key)
        if connection is not None and connection.sock is not None and _is_idle(connection.sock):
            connection.sock.settimeout(max(0.001, deadline - time.monotonic()))
            return connection
        if connection is not None:
            connection.close()
        connection = self._open[key] = self._new(*key)
        connection.connect()
        connection.sock.settimeout(max(0.001, deadline - time.monotonic()))
        return connection

    def _new(self, scheme: str, host: str, port: int) -> http.client.HTTPConnection:
        proxy = self._proxy(scheme, host)
        # A proxied plain request would need the absolute form; a tunnel serves both schemes alike.
        at = (proxy.hostname or "", proxy.port or _PORTS["http"]) if proxy else (host, port)
        if scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                *at, timeout=CONNECT_TIMEOUT_SECONDS, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(*at, timeout=CONNECT_TIMEOUT_SECONDS)
        if proxy:
            connection.set_tunnel(host, port, headers=_proxy_headers(proxy))
        return connection

    def _proxy(self, scheme: str, host: str) -> SplitResult | None:
        address = self._env.get(f"{scheme}_proxy") or self._env.get(f"{scheme.upper()}_PROXY")
        if not address or host in _LOOPBACK:
            return None
        skipped = self._env.get("no_proxy") or self._env.get("NO_PROXY") or ""
        domains = [word.strip().lstrip(".").lower() for word in skipped.split(",") if word.strip()]
        if any(one == "*" or f".{host}".endswith(f".{one}") for one in domains):
            return None
        return urlsplit(address if "://" in address else f"http://{address}")


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    from base64 import b64encode

    user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(user.encode()).decode()}"}


def _is_idle(sock: socket.socket) -> bool:
    """Tell whether a kept connection is still usable: the server neither closed it nor sent anything."""
    sock.setblocking(False)
    try:
        if isinstance(sock, ssl.SSLSocket):
            sock.read(1)
        else:
            sock.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False
    return False
