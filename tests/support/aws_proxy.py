"""A door before the AWS emulator that sees every call, and spoils those that a test wants spoiled.

Listens on plain HTTP on loopback. What it answers instead of AWS is in the words of each service's protocol:
https://smithy.io/2.0/aws/protocols/index.html
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import parse_qs

from aiohttp import ClientError, ClientSession, ClientTimeout, web

_SCOPE = re.compile(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/")
_HOP_BY_HOP: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})
_KEPT_TEXT_CHARACTERS: Final = 4_000

Effect = Literal["throttle", "error", "expired", "denied", "drop", "lose", "slow", "none"]
_ERRORS: Final[dict[str, tuple[int, str, str]]] = {
    "throttle": (400, "Throttling", "Rate exceeded"),
    "error": (500, "InternalFailure", "We encountered an internal error. Please try again."),
    "expired": (403, "ExpiredToken", "The security token included in the request is expired"),
    "denied": (403, "AccessDenied", "User is not authorized to perform this action"),
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call as it came: `operation` is AWS's name, or `METHOD /path` where the protocol has none."""

    service: str
    operation: str
    text: str


@dataclass(slots=True)
class Rule:
    """What happens to some calls.

    `operation` and `contains` fit where they are part of the call's; `skip` calls pass before the first
    that is spoiled, then `times` are, or all. `drop` cuts the connection before the call arrives, `lose`
    after it was carried out. `then` is called at each, from another thread.
    """

    effect: Effect
    service: str = ""
    operation: str = ""
    contains: str = ""
    skip: int = 0
    times: int | None = 1
    delay_seconds: float = 0.0
    then: Callable[[], None] | None = None
    seen: int = field(default=0, init=False)

    def acts_on(self, call: Call) -> bool:
        if self.service not in ("", call.service) or self.operation not in call.operation:
            return False
        if self.contains not in call.text:
            return False
        self.seen += 1
        return self.skip < self.seen and (self.times is None or self.seen <= self.skip + self.times)


class FaultProxy:
    """The door, as a context manager; `rules` and `calls` may be read and changed at any time.

    Args:
        target: the emulator's URL.
        answer: answers instead of the emulator, where it has an answer.
    """

    def __init__(
        self, target: str, answer: Callable[[Call], web.Response | None] = lambda call: None
    ) -> None:
        self._answer = answer
        self.rules: list[Rule] = []
        self.calls: list[Call] = []
        self.url = ""
        self._problem: Exception | None = None
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None
        self._session: ClientSession | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        if error is None and self._problem is not None:
            raise AssertionError("the door could not answer") from self._problem

    def operations(self, service: str) -> list[str]:
        """List the operations of a service that were called, in order."""
        return [call.operation for call in self.calls if call.service == service]

    async def _start(self) -> None:
        self._session = ClientSession(timeout=ClientTimeout(total=120), auto_decompress=False)
        app = web.Application(client_max_size=256 << 20)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]

    async def _stop(self) -> None:
        assert self._session is not None
        assert self._runner is not None
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        call = identify(request.method, request.raw_path, dict(request.headers), body)
        self.calls.append(call)
        rule = next((rule for rule in list(self.rules) if rule.acts_on(call)), None)
        if rule is None:
            return await self._forward(request, body, call)
        if rule.then is not None:
            await asyncio.to_thread(rule.then)
        await asyncio.sleep(rule.delay_seconds)
        if rule.effect in _ERRORS:
            return refusal(call.service, dict(request.headers), *_ERRORS[rule.effect])
        if rule.effect != "drop":
            response = await self._forward(request, body, call)
            if rule.effect != "lose":
                return response
        assert request.transport is not None
        request.transport.abort()
        raise asyncio.CancelledError

    async def _forward(self, request: web.Request, body: bytes, call: Call) -> web.Response:
        assert self._session is not None
        try:
            own = self._answer(call)
        except Exception as problem:  # of the test's own: it must not look like one of AWS
            self._problem = problem
            raise
        if own is not None:
            return own
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        url = self._target + request.raw_path
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=body or None, allow_redirects=False,
                skip_auto_headers=("Content-Type", "User-Agent", "Accept", "Accept-Encoding"),
            ) as answer:  # fmt: skip
                content = await answer.read()
                kept = [(k, v) for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP]
                response = web.Response(status=answer.status, body=content)
                response.headers.clear()
                for name, value in kept:
                    response.headers.add(name, value)
                if request.method == "HEAD" and "Content-Length" in answer.headers:
                    response.headers["Content-Length"] = answer.headers["Content-Length"]
                return response
        except ClientError as error:
            return web.Response(status=502, text=str(error))


def identify(method: str, path: str, headers: dict[str, str], body: bytes) -> Call:
    """Tell which call a request is."""
    lower = {name.lower(): value for name, value in headers.items()}
    scope = _SCOPE.search(lower.get("authorization", ""))
    service = scope[1] if scope else ""
    text = f"{path} {body[:_KEPT_TEXT_CHARACTERS].decode(errors='replace')}"
    target = lower.get("x-amz-target", "")
    if target:
        return Call(service, target.rpartition(".")[2], text)
    if "smithy-protocol" in lower:
        return Call(service, path.rpartition("/operation/")[2], text)
    if lower.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        action = parse_qs(body.decode()).get("Action", [""])[0]
        if action:
            return Call(service, action, text)
    return Call(service, f"{method} {path.partition('?')[0]}", text)


def refusal(service: str, headers: dict[str, str], status: int, code: str, message: str) -> web.Response:
    """Build an error as the service's protocol has it."""
    lower = {name.lower() for name in headers}
    if "smithy-protocol" in lower:
        raise AssertionError(f"refusals of {service} would have to be CBOR")
    if service == "s3":
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    elif service == "ec2":
        error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        body = f"<Response><Errors>{error}</Errors></Response>"
    elif headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded"):
        inner = f"<Type>Sender</Type><Code>{code}</Code><Message>{message}</Message>"
        body = f"<ErrorResponse><Error>{inner}</Error></ErrorResponse>"
    else:
        document: dict[str, Any] = {"__type": code, "message": message}
        return web.json_response(document, status=status, headers={"x-amzn-errortype": code})
    return web.Response(status=status, text=f'<?xml version="1.0"?>{body}', content_type="text/xml")
