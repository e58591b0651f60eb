"""The door to a runtime's HTTP server: pooled connections, deadlines, bounded answers, no proxies.

The only module of the adapters that speaks HTTP. What goes wrong with the connection is always a
`RuntimeDownError`; what the server answers is the adapter's to judge.
"""

from __future__ import annotations

import contextvars
import json
import math
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlencode

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from sdctl_agent.errors import PermanentError, RuntimeDownError

CONNECT_TIMEOUT_SECONDS: Final = 10.0
# ComfyUI was seen to answer after up to a second just after a job; a loading server takes longer.
READ_TIMEOUT_SECONDS: Final = 60.0
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
CHUNK_BYTES: Final = 256 * 1024


class LazyText(Protocol):
    """A part of a body that is made while it is sent."""

    def __len__(self) -> int:
        """Return its length in bytes."""
        ...

    def __iter__(self) -> Iterator[bytes]:
        """Give its bytes from the start, in pieces."""
        ...


Body = bytes | Sequence[bytes | LazyText]


class ServerGoneError(RuntimeDownError):
    """Nothing listens there any more, or the connection broke: the server ended or restarted."""


class ServerSilentError(RuntimeDownError):
    """The server did not answer in time; it may still be alive."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: status code, media type without parameters, body."""

    status: int
    content_type: str
    body: bytes

    def json(self) -> Any:
        """Decode the body, or return None where it is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


class Call:
    """One long request that another thread may break off with `abort`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self.aborted = False

    def attach(self, connection: HTTPConnection | None) -> None:
        """Note which connection carries the call (none: it is over)."""
        with self._lock:
            self._connection = connection
            # A connection forgets its socket with the header of an answer that will close it.
            self._socket = getattr(connection, "sock", None)

    def is_disturbed(self) -> bool:
        """Tell whether the server has closed the connection or sent something, which it was not to yet."""
        with self._lock:
            raw = self._socket or getattr(self._connection, "sock", None)
        return raw is None or urllib3.util.wait_for_read(raw, timeout=0)

    def abort(self) -> None:
        """Break the connection, so that whoever waits for the answer is woken with an error."""
        with self._lock:
            self.aborted = True
            raw = self._socket or getattr(self._connection, "sock", None)
            if raw is not None:
                # Closing a socket wakes no reader in another thread; shutting it down does.
                with suppress(OSError):
                    raw.shutdown(socket.SHUT_RDWR)


_CALL: contextvars.ContextVar[Call | None] = contextvars.ContextVar("call", default=None)


@contextmanager
def calling(call: Call | None) -> Iterator[None]:
    """Let `call` know the connection that a pool of this module takes for a request made inside."""
    token = _CALL.set(call)
    try:
        yield
    finally:
        _CALL.reset(token)


class _Calls:
    """Tells the call of the context which socket carries it, and bounds the silence within an answer."""

    sock: Any

    def request(self, *args: Any, **kwargs: Any) -> None:
        self._attach()
        call = _CALL.get()
        if call is not None and call.aborted:
            raise ConnectionAbortedError  # before there was a connection to break
        super().request(*args, **kwargs)  # type: ignore[misc]

    def getresponse(self) -> Any:
        self._attach()
        connected = self.sock
        response = super().getresponse()  # type: ignore[misc]
        # An answer may take as long as the task; once it has begun the server has only to send it.
        if connected is not None and (connected.gettimeout() or math.inf) > READ_TIMEOUT_SECONDS:
            with suppress(OSError):
                connected.settimeout(READ_TIMEOUT_SECONDS)
        return response

    def _attach(self) -> None:
        call = _CALL.get()
        if call is not None:
            call.attach(self)  # type: ignore[arg-type]


class _Http(_Calls, HTTPConnection):
    pass


class _Https(_Calls, HTTPSConnection):
    pass


class HttpPool(HTTPConnectionPool):
    """Connections whose requests a `Call` can break off."""

    ConnectionCls = _Http


class HttpsPool(HTTPSConnectionPool):
    """As `HttpPool`, with TLS."""

    ConnectionCls = _Https


class Server:
    """One runtime's server at `base_url` (`http://host:port`, perhaps with a path in front of all paths)."""

    def __init__(self, base_url: str, *, connections: int = 16) -> None:
        self.base_url = base_url.rstrip("/")
        parts = urllib3.util.parse_url(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.host:
            raise ValueError(f"{base_url!r} is not http://host:port")
        self._prefix = parts.path or ""
        pool = HttpsPool if parts.scheme == "https" else HttpPool
        self._pool = pool(parts.host.strip("[]"), parts.port, maxsize=connections, block=False)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Body | None = None,
        content_type: str = "application/json",
        timeout_seconds: float = READ_TIMEOUT_SECONDS,
        limit_bytes: int = MAX_ANSWER_BYTES,
        call: Call | None = None,
    ) -> Answer:
        """Send a request and read its whole answer; `call` may break it off.

        Raises:
            ServerGoneError, ServerSilentError: there is no answer.
            PermanentError: the answer is larger than `limit_bytes`.
        """
        with self.stream(
            method,
            path,
            query=query,
            body=body,
            content_type=content_type,
            timeout_seconds=timeout_seconds,
            call=call,
        ) as reply:
            return reply.whole(limit_bytes)

    def post_json(self, path: str, value: Any, *, timeout_seconds: float = READ_TIMEOUT_SECONDS) -> Answer:
        """Send `value` as JSON and read the whole answer; errors as `request`."""
        return self.request("POST", path, body=json.dumps(value).encode(), timeout_seconds=timeout_seconds)

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Body | None = None,
        content_type: str = "application/json",
        timeout_seconds: float = READ_TIMEOUT_SECONDS,
        call: Call | None = None,
        gate: Callable[[], None] | None = None,
        sent: threading.Event | None = None,
    ) -> Iterator[Reply]:
        """Send a request and hand out its answer to be read in chunks; errors as `request`.

        The last byte of the body is not sent before `gate` has returned; what `gate` raises breaks the
        request off, which the server then cannot have begun to work on. `sent` is set after that byte.
        """
        url = self._prefix + path + ("?" + urlencode(query) if query else "")
        headers = {"Accept": "*/*"}
        if body is not None:
            parts = [body] if isinstance(body, bytes) else body
            headers |= {"Content-Type": content_type, "Content-Length": str(sum(map(len, parts)))}
        with _connection_errors(), calling(call):
            response = self._pool.urlopen(
                method,
                url,
                body=None if body is None else _pieces(parts, gate, sent),
                headers=headers,
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(
                    connect=min(CONNECT_TIMEOUT_SECONDS, timeout_seconds), read=timeout_seconds
                ),
                preload_content=False,
            )
        reply = Reply(response)
        try:
            yield reply
        finally:
            if call is not None:
                call.attach(None)
            reply.finish()

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()


class Reply:
    """An answer whose body is still to be read."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response
        self._ended = False
        self.status = response.status
        self.content_type = response.headers.get("content-type", "").split(";")[0].strip().lower()

    @property
    def size(self) -> int | None:
        """Length of the body in bytes, where the server says it and it is not encoded."""
        length = self._response.headers.get("content-length", "")
        plain = "content-encoding" not in self._response.headers
        return int(length) if length.isdecimal() and plain else None

    def chunks(self) -> Iterator[bytes]:
        """Read the body; a body that breaks off raises `ServerGoneError`."""
        with _connection_errors():
            yield from self._response.stream(CHUNK_BYTES, decode_content=True)
        self._ended = True

    def whole(self, limit_bytes: int = MAX_ANSWER_BYTES) -> Answer:
        """Read the body into memory.

        Raises:
            PermanentError: it is larger than `limit_bytes`.
        """
        body = bytearray()
        for chunk in self.chunks():
            body += chunk
            if len(body) > limit_bytes:
                raise PermanentError(
                    f"the runtime's answer exceeds {limit_bytes} bytes", code="runtime_error"
                )
        return Answer(self.status, self.content_type, bytes(body))

    def finish(self) -> None:
        """Give the connection back, or close it when the body was not read to its end."""
        if not self._ended:
            self._response.close()
        self._response.release_conn()


def _pieces(
    parts: Sequence[bytes | LazyText], gate: Callable[[], None] | None, sent: threading.Event | None
) -> Iterator[bytes]:
    """Give a body in pieces, its last byte only once `gate` allows it."""
    held = b""
    for part in parts:
        for piece in (part,) if isinstance(part, bytes) else part:
            if held:
                yield held
            held = piece
    if gate is not None:
        yield held[:-1]
        gate()
        held = held[-1:]
    yield held
    if sent is not None:
        sent.set()


@contextmanager
def _connection_errors() -> Iterator[None]:
    """Turn what urllib3 raises into the agent's errors; addresses of the library stay out of the text."""
    try:
        yield
    except urllib3.exceptions.NewConnectionError as error:
        # A refused connection; for urllib3 it is a kind of ConnectTimeoutError, so it comes first.
        raise ServerGoneError("the runtime cannot be reached") from error
    except (urllib3.exceptions.ConnectTimeoutError, urllib3.exceptions.ReadTimeoutError) as error:
        raise ServerSilentError("the runtime does not answer in time") from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise ServerGoneError(f"the connection to the runtime broke ({type(error).__name__})") from error
