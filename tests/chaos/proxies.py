"""The two places where faults are injected: before the AWS services, and before a runtime.

Runs as a process of its own (`python -m chaos.proxies`), so that a busy test cannot slow it. Every
choice comes from the seed given.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import time
import urllib.parse
from pathlib import Path

import aiohttp
from aiohttp import web

HOP_HEADERS = {"connection", "transfer-encoding", "content-length", "host", "expect", "content-encoding"}
FAULTS = ("error-before", "error-after", "reset-before", "reset-after", "throttle", "slow")
# How often a throttling burst begins with a call, how long it lasts, and the share of calls it refuses.
BURST_RATE, BURST_SECONDS, BURST_SHARE = 0.001, (1.0, 5.0), 0.6


def told_task(request: web.Request, body: bytes) -> tuple[str, str] | None:
    """Tell the task of a `publish`, of the `record` that it was published, or of a `claim`."""
    target = request.headers.get("x-amz-target", "")
    if target.endswith("UpdateItem"):
        document = json.loads(body)
        values = document.get("ExpressionAttributeValues", {})
        task_id = document["Key"]["id"]["S"]
        if values.get(":notified") == {"BOOL": True}:
            return "record", task_id
        return ("claim", task_id) if ":claim" in values else None
    if request.method == "POST" and not target:
        form = urllib.parse.parse_qs(body.decode("utf-8", "replace"))
        if form.get("Action") == ["Publish"]:
            return "publish", json.loads(form["Message"][0])["id"]
    return None


class AwsProxy:
    """Passes AWS calls on, failing some before and some after they took effect."""

    def __init__(self, target: str, rate: float, seed: int, journal: Path) -> None:
        self.target = target
        self.rate = rate
        self.random = random.Random(seed)
        self.journal = journal.open("a", buffering=1)
        self.burst_until = 0.0
        self.session: aiohttp.ClientSession | None = None

    def choose(self) -> str:
        """Choose what goes wrong with a call, or nothing."""
        now = time.monotonic()
        if self.random.random() < BURST_RATE:
            self.burst_until = now + self.random.uniform(*BURST_SECONDS)
        if now < self.burst_until and self.random.random() < BURST_SHARE:
            return "throttle"
        return self.random.choice(FAULTS) if self.random.random() < self.rate else ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        fault, body = self.choose(), await request.read()
        told = told_task(request, body)
        answer, took_effect = await self.answer(request, fault)
        if told is not None:
            entry = {
                "operation": told[0], "id": told[1], "fault": fault, "took_effect": took_effect,
                "time": time.time(),
            }  # fmt: skip
            self.journal.write(json.dumps(entry) + "\n")
        return answer

    async def answer(self, request: web.Request, fault: str) -> tuple[web.StreamResponse, bool]:
        """Answer a call; tell, too, whether it took effect."""
        if fault == "slow":
            await asyncio.sleep(self.random.uniform(0.05, 1.5))
        elif fault == "reset-before":
            return self.reset(request), False
        elif fault == "error-before":
            return self.error(500, "InternalError"), False
        elif fault == "throttle":
            status = 400 if "x-amz-target" in request.headers else 503
            return self.error(status, "ThrottlingException"), False
        answer = await self.forward(request)
        took_effect = answer.status < 300
        if fault == "reset-after":
            return self.reset(request), took_effect
        return self.error(500, "InternalError") if fault == "error-after" else answer, took_effect

    async def forward(self, request: web.Request) -> web.Response:
        assert self.session is not None
        body = await request.read()
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP_HEADERS}
        headers["Host"] = request.headers["Host"]
        try:
            async with self.session.request(
                request.method, self.target + request.raw_path, data=body, headers=headers
            ) as answer:
                kept = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_HEADERS}
                return web.Response(status=answer.status, headers=kept, body=await answer.read())
        except aiohttp.ClientError:
            return self.error(503, "ServiceUnavailable")

    def reset(self, request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    def error(self, status: int, code: str) -> web.Response:
        return web.json_response(
            {"__type": code, "message": "injected"}, status=status, headers={"x-amzn-errortype": code}
        )


class RuntimeProxy:
    """Relays bytes to a runtime; some websockets fall silent, some connections are cut in mid-answer."""

    def __init__(self, port: int, rate: float, seed: int) -> None:
        self.port = port
        self.rate = rate
        self.random = random.Random(seed)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.transport.abort()
            return
        fault = self.random.random() < self.rate
        silent_after = self.random.randrange(200, 5_000) if fault else None
        await asyncio.gather(
            self.relay(reader, upstream_writer, None, first=True),
            self.relay(upstream_reader, writer, silent_after),
            return_exceptions=True,
        )

    async def relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        limit: int | None,
        *,
        first: bool = False,
    ) -> None:
        passed = 0
        is_websocket = False
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65_536):
                if not first and passed == 0:
                    is_websocket = chunk.startswith(b"HTTP/1.1 101")
                passed += len(chunk)
                if limit is not None and passed > limit:
                    if is_websocket:
                        continue
                    writer.transport.abort()
                    return
                writer.write(chunk)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()


async def serve(arguments: argparse.Namespace) -> None:
    aws = AwsProxy(arguments.aws_target, arguments.aws_rate, arguments.seed, arguments.journal)
    app = web.Application(client_max_size=200 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", aws.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", arguments.aws_port).start()
    for number, pair in enumerate(arguments.runtime):
        listen, target = (int(part) for part in pair.split("="))
        proxy = RuntimeProxy(target, arguments.runtime_rate, arguments.seed + 1 + number)
        await asyncio.start_server(proxy.handle, "127.0.0.1", listen)
    timeout = aiohttp.ClientTimeout(total=60)
    connector = aiohttp.TCPConnector(limit=200)
    async with aiohttp.ClientSession(
        timeout=timeout, connector=connector, auto_decompress=False
    ) as aws.session:
        print("ready", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--aws-port", type=int, required=True)
    parser.add_argument("--aws-target", required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--aws-rate", type=float, default=0.02)
    parser.add_argument("--runtime", action="append", default=[], help="LISTEN=TARGET ports")
    parser.add_argument("--runtime-rate", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
