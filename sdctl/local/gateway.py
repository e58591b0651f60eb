"""The emulator's front door: decides which requests reach it, and tells when its state may have changed.

An ASGI layer inside the emulator's own process, so that it costs no hop. It lets through calls of the
task API (which has its own keys), health checks, and what is signed with the deployment's key pair;
everything else, the emulator's own administration above all, is refused. Requests for another host name
are refused, too: a web page that points its name at 127.0.0.1 gets nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final

from sdctl.local import signatures

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]

HEALTH_PATH: Final = "/_ministack/health"
API_PREFIX: Final = "/_aws/execute-api/"
# API Gateway takes 10 MB: https://docs.aws.amazon.com/apigateway/latest/developerguide/limits.html
MAX_API_BODY_BYTES: Final = 10 * 1024 * 1024
# Signed bodies are held in memory to check them; S3 uploads state their hash and are not.
MAX_SIGNED_BODY_BYTES: Final = 64 * 1024 * 1024
# What is refused for its size is read and dropped first: a client that is still sending, as most are, would
# meet a closed connection and never see the answer.
MAX_DROPPED_BYTES: Final = 64 * 1024 * 1024
DROP_SECONDS: Final = 10.0
DROP_IDLE_SECONDS: Final = 0.5
_LONG_POLL: Final = ".ReceiveMessage"


class _TooLargeError(Exception):
    """A body exceeds what the door takes."""


class Gateway:
    """Guards an ASGI application; calls `on_change` after each request that may have changed its state."""

    def __init__(
        self,
        application: Application,
        *,
        port: int,
        access_key: str,
        secret_key: str,
        on_change: Callable[[], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._application = application
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self._access_key = access_key
        self._secret_key = secret_key
        self._on_change = on_change
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = _request(scope)
        path = str(scope["path"])
        if request.headers.get("host") not in self._hosts:
            await _refuse(send, 421, "misdirected_request", "this address serves 127.0.0.1 only")
            return
        try:
            if path.startswith(API_PREFIX):
                receive = _replay(await _body(request, receive, MAX_API_BODY_BYTES), receive)
            elif path != HEALTH_PATH:
                checked = await self._checked(request, receive)
                if checked is None:
                    await _refuse(send, 403, "forbidden", "not signed with this deployment's key pair")
                    return
                receive = checked
        except _TooLargeError:
            await _drop(receive)
            await _refuse(send, 413, "too_large", "the body is too large")
            return
        if request.headers.get("x-amz-target", "").endswith(_LONG_POLL):
            await self._poll(scope, await _body(request, receive, MAX_SIGNED_BODY_BYTES), receive, send)
        else:
            await self._application(scope, receive, send)
        if scope["method"] not in ("GET", "HEAD"):
            self._on_change()

    async def _poll(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Serve a long poll and give it up with its client: the next message is for one who still listens."""
        gone = asyncio.create_task(_disconnected(receive))
        poll = asyncio.create_task(self._application(scope, _replay(body, receive), send))
        await asyncio.wait((poll, gone), return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        poll.cancel()  # nothing happens to one that is done
        if poll.done():
            poll.result()

    async def _checked(self, request: signatures.Request, receive: Receive) -> Receive | None:
        claim = signatures.read_claim(request)
        if claim is None or request.raw_path.startswith(b"/_"):
            return None
        body = b""
        if signatures.needs_body(request, claim):
            body = await _body(request, receive, MAX_SIGNED_BODY_BYTES)
            receive = _replay(body, receive)
        valid = signatures.is_valid(
            request,
            claim,
            access_key=self._access_key,
            secret_key=self._secret_key,
            body=body,
            now=self._now(),
        )
        return receive if valid else None


def _request(scope: Scope) -> signatures.Request:
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    raw_path = scope.get("raw_path") or str(scope["path"]).encode()
    return signatures.Request(scope["method"], raw_path.partition(b"?")[0], scope["query_string"], headers)


async def _body(request: signatures.Request, receive: Receive, limit_bytes: int) -> bytes:
    stated = request.headers.get("content-length", "0")
    if not stated.isdecimal() or int(stated) > limit_bytes:
        raise _TooLargeError
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b""  # the client is gone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit_bytes:
            raise _TooLargeError
        if not message.get("more_body"):
            return b"".join(parts)


async def _drop(receive: Receive) -> None:
    """Read what a client still sends, within bounds of size and time."""
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DROP_SECONDS):
            while size <= MAX_DROPPED_BYTES:
                message = await asyncio.wait_for(receive(), DROP_IDLE_SECONDS)
                size += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return


def _replay(body: bytes, following: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else await following()

    return receive


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse(send: Send, status: int, code: str, message: str) -> None:
    body = json.dumps({"error": {"code": code, "message": message, "fields": []}}).encode()
    headers = [
        (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]  # fmt: skip
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
