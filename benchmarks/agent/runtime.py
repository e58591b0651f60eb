"""A runtime with one GPU that takes an exact time a task, behind either protocol; it notes when it was busy.

`python -m agent.runtime --type sdwebui --port 8188 --seconds 0.5` from `benchmarks/`. `GET /busy` answers
`{"intervals": [[start, end], …]}` in seconds of the monotonic clock.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import os
import time
import uuid
import zlib
from typing import Any

from aiohttp import WSMsgType, web

IMAGE_BYTES = 400_000


def png(number: int, size: int = IMAGE_BYTES) -> bytes:
    """Return a valid PNG file of about `size` bytes, other for each number."""
    width = 512
    rows = size // (width * 3)
    noise = os.urandom(rows * width * 3)
    raw = b"".join(b"\0" + noise[row * width * 3 : (row + 1) * width * 3] for row in range(rows))

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + rows.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"tEXt", b"n\0%d" % number)
        + chunk(b"IDAT", zlib.compress(raw, 0)) + chunk(b"IEND", b"")
    )  # fmt: skip


class Gpu:
    """One task at a time, each of exactly `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.lock = asyncio.Lock()
        self.intervals: list[tuple[float, float]] = []

    async def run(self) -> None:
        async with self.lock:
            start = time.monotonic()
            await asyncio.sleep(self.seconds)
            self.intervals.append((start, time.monotonic()))


class WebUi:
    """The part of SD WebUI's API that an agent uses."""

    def __init__(self, gpu: Gpu, images: int, image_bytes: int) -> None:
        self.gpu = gpu
        data = [base64.b64encode(png(number, image_bytes)).decode() for number in range(images)]
        self.answer = json.dumps({"images": data, "parameters": {}, "info": json.dumps({"seed": 1})}).encode()

    def routes(self) -> list[web.RouteDef]:
        model = {
            "title": "model.safetensors [0123456789]", "model_name": "model", "hash": "0123456789",
            "sha256": "0" * 64, "filename": "/models/model.safetensors", "config": None,
        }  # fmt: skip
        state = {"job": "", "job_count": 0, "job_no": 0, "interrupted": False, "sampling_step": 0}
        progress = {"progress": 0.0, "eta_relative": 0.0, "state": state, "current_image": None}
        return [
            web.post("/sdapi/v1/txt2img", self.generate), web.post("/sdapi/v1/img2img", self.generate),
            web.get("/sdapi/v1/options", answer({"sd_model_checkpoint": model["title"]})),
            web.get("/sdapi/v1/sd-models", answer([model])),
            web.get("/sdapi/v1/progress", answer(progress)),
            web.get("/sdapi/v1/memory", answer({"ram": {}, "cuda": {}})),
            web.post("/sdapi/v1/interrupt", answer({})),
        ]  # fmt: skip

    async def generate(self, request: web.Request) -> web.Response:
        await request.read()
        await self.gpu.run()
        return web.Response(body=self.answer, content_type="application/json")


class Comfy:
    """The part of ComfyUI's API that an agent uses: queue, history, files and the websocket's events."""

    def __init__(self, gpu: Gpu, image_bytes: int) -> None:
        self.gpu = gpu
        self.pending: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self.waiting: dict[str, list[Any]] = {}
        self.running: dict[str, list[Any]] = {}
        self.history: dict[str, Any] = {}
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.numbers = itertools.count()
        self.image = png(0, image_bytes)
        self.worker: asyncio.Task[None] | None = None

    def routes(self) -> list[web.RouteDef]:
        done = answer({})
        stats = answer({"system": {"comfyui_version": "0.33.0"}, "devices": []})
        return [
            web.post("/prompt", self.prompt), web.get("/queue", self.queue), web.get("/ws", self.socket),
            web.get("/history/{id}", self.get_history), web.get("/view", self.view),
            web.post("/upload/image", self.upload), web.get("/system_stats", stats),
            web.post("/interrupt", done), web.post("/queue", done), web.post("/free", done),
        ]  # fmt: skip

    async def prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.worker is None:
            self.worker = asyncio.create_task(self.work())
        prompt_id = body.get("prompt_id") or str(uuid.uuid4())
        number = next(self.numbers)
        self.waiting[prompt_id] = [number, prompt_id, body["prompt"], body.get("extra_data", {}), ["9"]]
        await self.pending.put((prompt_id, body))
        return web.json_response({"prompt_id": prompt_id, "number": number, "node_errors": {}})

    async def work(self) -> None:
        while True:
            prompt_id, body = await self.pending.get()
            self.running[prompt_id] = self.waiting.pop(prompt_id)
            client = body.get("client_id", "")
            await self.tell(client, "execution_start", {"prompt_id": prompt_id})
            await self.tell(client, "executing", {"node": "9", "display_node": "9", "prompt_id": prompt_id})
            await self.gpu.run()
            output = {"images": [{"filename": f"{prompt_id}.png", "subfolder": "", "type": "output"}]}
            entry = self.running.pop(prompt_id)
            messages = [
                ["execution_start", {"prompt_id": prompt_id}],
                ["execution_success", {"prompt_id": prompt_id}],
            ]
            self.history[prompt_id] = {
                "prompt": entry, "outputs": {"9": output}, "meta": {},
                "status": {"status_str": "success", "completed": True, "messages": messages},
            }  # fmt: skip
            await self.tell(client, "executed", {"node": "9", "output": output, "prompt_id": prompt_id})
            await self.tell(client, "execution_success", {"prompt_id": prompt_id})
            await self.tell(client, "executing", {"node": None, "prompt_id": prompt_id})

    async def tell(self, client: str, kind: str, data: dict[str, Any]) -> None:
        socket = self.sockets.get(client)
        if socket is not None and not socket.closed:
            await socket.send_json({"type": kind, "data": data})

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        client = request.query.get("clientId", uuid.uuid4().hex)
        self.sockets[client] = socket
        status = {"status": {"exec_info": {"queue_remaining": 0}}, "sid": client}
        await socket.send_json({"type": "status", "data": status})
        async for message in socket:
            if message.type == WSMsgType.ERROR:
                break
        self.sockets.pop(client, None)
        return socket

    async def queue(self, _: web.Request) -> web.Response:
        return web.json_response(
            {"queue_running": list(self.running.values()), "queue_pending": list(self.waiting.values())}
        )

    async def get_history(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info["id"]
        return web.json_response({prompt_id: self.history[prompt_id]} if prompt_id in self.history else {})

    async def view(self, _: web.Request) -> web.Response:
        return web.Response(body=self.image, content_type="image/png")

    async def upload(self, request: web.Request) -> web.Response:
        name = ""
        async for part in await request.multipart():
            name = getattr(part, "filename", None) or name
            await part.read()  # type: ignore[union-attr]
        return web.json_response({"name": name, "subfolder": "", "type": "input"})


def answer(value: Any) -> Any:
    """Return a handler with one fixed answer."""

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response(value)

    return handle


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--type", choices=("sdwebui", "comfyui"), required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--image-bytes", type=int, default=IMAGE_BYTES)
    arguments = parser.parse_args()

    async def make() -> web.Application:
        gpu = Gpu(arguments.seconds)
        size = arguments.image_bytes
        served = WebUi(gpu, arguments.images, size) if arguments.type == "sdwebui" else Comfy(gpu, size)
        app = web.Application(client_max_size=200 * 1024 * 1024)
        app.add_routes(served.routes())

        async def busy(_: web.Request) -> web.Response:
            return web.json_response({"intervals": gpu.intervals})

        app.router.add_get("/busy", busy)
        return app

    web.run_app(make(), host="127.0.0.1", port=arguments.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
