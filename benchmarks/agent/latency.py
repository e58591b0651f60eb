"""Makes the emulated account as far away as the real one: a delay for each request, by service.

Also serves distinct input images (`/input/N`) after a delay of their own, as a web server elsewhere.
`GET /counts` answers the requests passed on by service and the time of the first receive.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import time

import aiohttp
from aiohttp import web

from agent.runtime import png

HOP_HEADERS = {"connection", "transfer-encoding", "content-length", "host", "expect", "content-encoding"}


def service_of(request: web.Request) -> str:
    """Tell the service from the credential scope that every signed request names."""
    scope = request.headers.get("authorization", "").partition("Credential=")[2].split("/")
    return scope[3] if len(scope) > 3 else "s3"


class Latency:
    """Passes requests on after the delay of their service."""

    def __init__(self, target: str, delays: dict[str, float], input_delay: float, input_bytes: int) -> None:
        self.target = target
        self.delays = delays
        self.input_delay = input_delay
        self.counts: collections.Counter[str] = collections.Counter()
        self.first_receive: float | None = None
        self.input = png(0, input_bytes)
        self.session: aiohttp.ClientSession | None = None

    async def handle(self, request: web.Request) -> web.Response:
        assert self.session is not None
        body = await request.read()
        service = service_of(request)
        action = request.headers.get("x-amz-target", request.method).rpartition(".")[2]
        self.counts[f"{service} {action}"] += 1
        if action == "ReceiveMessage" and self.first_receive is None:
            self.first_receive = time.monotonic()
        await asyncio.sleep(self.delays.get(service, 0))
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP_HEADERS}
        headers["Host"] = request.headers["Host"]
        async with self.session.request(
            request.method, self.target + request.raw_path, data=body, headers=headers
        ) as answer:
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_HEADERS}
            return web.Response(status=answer.status, headers=kept, body=await answer.read())

    async def serve_input(self, request: web.Request) -> web.Response:
        await asyncio.sleep(self.input_delay)
        # What follows a PNG's end is ignored, and makes each input another file.
        body = self.input + request.match_info["number"].encode()
        return web.Response(body=body, content_type="image/png")

    async def tell(self, _: web.Request) -> web.Response:
        return web.json_response({"counts": self.counts, "first_receive": self.first_receive})


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until killed."""
    delays = {"s3": 0.05, "sqs": 0.01, "sns": 0.01, "dynamodb": 0.005}
    latency = Latency(arguments.target, delays, arguments.input_delay, arguments.input_bytes)
    app = web.Application(client_max_size=200 * 1024 * 1024)
    app.router.add_get("/input/{number}", latency.serve_input)
    app.router.add_get("/counts", latency.tell)
    app.router.add_route("*", "/{path:.*}", latency.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", arguments.port).start()
    async with aiohttp.ClientSession(auto_decompress=False) as latency.session:
        print("ready", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--input-delay", type=float, default=0.2)
    parser.add_argument("--input-bytes", type=int, default=1_000_000)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
