"""An SD WebUI server that behaves like AUTOMATIC1111, Forge or sd-server where they differ."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from fakes.agent_runtime import png
from fakes.http_thread import ServedApp


@dataclass
class WebuiScript:
    """How the server is to behave; may be changed while it runs."""

    flavour: str = "a1111"  # or "forge", "sdcpp"
    models: list[dict[str, Any]] = field(default_factory=list)
    loaded: str = "anime.safetensors"
    appears_on_refresh: dict[str, Any] | None = None
    images: list[bytes] = field(default_factory=lambda: [png()])
    data_url: bool = False
    info_model: str | None = None  # what `info` says instead of the truth
    answers: dict[str, tuple[int, str, bytes]] = field(default_factory=dict)
    lasts_seconds: float = 0.0
    progress_moves: bool = True
    other_job_waits: bool = False
    drop_connection: bool = False
    loading: threading.Event | None = None  # a model is loaded only when this is set


def model(name: str, digits: str = "") -> dict[str, Any]:
    """Make one entry of `/sd-models`; a hash shows in the title as AUTOMATIC1111 does it."""
    return {
        "title": f"{name} [{digits[:10]}]" if digits else name,
        "model_name": name.removesuffix(".safetensors").replace("/", "_"),
        "hash": digits[:10] or None,
        "sha256": digits or None,
        "filename": f"/data/models/Stable-diffusion/{name}",
        "config": None,
    }


class FakeWebui:
    """Serves `script`; `requests` holds (method, path, body text) in order."""

    def __init__(self, script: WebuiScript) -> None:
        self.script = script
        script.models = script.models or [model("anime.safetensors"), model("real.safetensors")]
        self.requests: list[tuple[str, str, str]] = []
        self.interrupted = 0
        self._job = ""
        self._jobs = 0
        self._polls = 0
        self._lock: asyncio.Lock | None = None
        self._stop: asyncio.Event | None = None
        app = web.Application(client_max_size=512 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self.served = ServedApp(app)
        self.served.start()

    @property
    def url(self) -> str:
        return self.served.url

    def posts(self, path: str) -> list[Any]:
        """Return the decoded bodies posted to a path below /sdapi/v1/."""
        return [
            json.loads(body or "null")
            for method, where, body in self.requests
            if method == "POST" and where == path
        ]

    def stop(self) -> None:
        self.served.stop()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = (await request.read()).decode()
        path = request.path.removeprefix("/sdapi/v1/")
        self.requests.append((request.method, path, body))
        if path in self.script.answers:
            status, content_type, data = self.script.answers[path]
            return web.Response(status=status, body=data, headers={"Content-Type": content_type})
        if path in ("txt2img", "img2img", "extra-single-image", "extra-batch-images"):
            return await self._generate(request, path, json.loads(body))
        handlers = {"options": self._options, "progress": self._progress, "interrupt": self._interrupt}
        if path == "sd-models":
            return web.json_response(self.script.models)
        if path == "refresh-checkpoints" and self.script.flavour != "sdcpp":
            if self.script.appears_on_refresh:
                self.script.models.append(self.script.appears_on_refresh)
            return web.json_response(None)
        if path == "/internal/pending-tasks" and self.script.flavour != "sdcpp":
            return web.json_response({"size": int(self.script.other_job_waits), "tasks": []})
        if path in handlers:
            while request.method == "POST" and self.script.loading and not self.script.loading.is_set():
                await asyncio.sleep(0.01)
            return handlers[path](request, body)
        return web.Response(status=404, body=b"") if self.script.flavour == "sdcpp" else web.json_response(
            {"detail": "Not Found"}, status=404
        )  # fmt: skip

    def _options(self, request: web.Request, body: str) -> web.Response:
        if request.method == "GET":
            return web.json_response({"samples_format": "png", "sd_model_checkpoint": self.script.loaded})
        if self.script.flavour == "sdcpp":
            return web.Response(status=404)
        wanted = json.loads(body)["sd_model_checkpoint"]
        known = [entry["title"] for entry in self.script.models]
        if wanted not in known:
            words = f"model '{wanted}' not found"
            return web.json_response(
                {"error": "RuntimeError", "detail": "", "body": "", "errors": words}, status=500
            )
        self.script.loaded = wanted
        return web.json_response(None)

    def _progress(self, request: web.Request, body: str) -> web.Response:
        if self.script.flavour == "sdcpp":
            return web.Response(status=404)
        self._polls += 1
        step = self._polls if self.script.progress_moves else 1
        state = {"job": self._job, "job_timestamp": f"2026010112000{self._jobs % 10}", "sampling_step": step}
        return web.json_response({"progress": min(0.9, step / 10), "state": state, "current_image": None})

    def _interrupt(self, request: web.Request, body: str) -> web.Response:
        if self.script.flavour == "sdcpp":
            return web.Response(status=404)
        self.interrupted += 1
        if self._stop is not None:
            self._stop.set()
        return web.json_response({})

    async def _generate(self, request: web.Request, path: str, body: dict[str, Any]) -> web.StreamResponse:
        self._lock = self._lock or asyncio.Lock()
        async with self._lock:
            self._stop = asyncio.Event()
            self._job, self._jobs = f"scripts_{path}", self._jobs + 1
            try:
                if self.script.drop_connection:
                    assert request.transport is not None
                    request.transport.abort()
                await asyncio.wait_for(self._stop.wait(), self.script.lasts_seconds or 0.0001)
            except TimeoutError:
                pass
            finally:
                self._job = ""
        return web.json_response(self._result(path, body))

    def _result(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        texts = [base64.b64encode(image).decode() for image in self.script.images]
        if self.script.data_url:
            texts = [f"data:image/png;base64,{text}" for text in texts]
        if path.startswith("extra"):
            html = "<p>Postprocess upscale by: 2.0</p>"
            return (
                {"html_info": html, "image": texts[0]}
                if "single" in path
                else {"html_info": html, "images": texts}
            )
        stem = self.script.loaded.split(" ")[0].rsplit("/", 1)[-1].removesuffix(".safetensors")
        info = {"prompt": body.get("prompt"), "seed": 1, "sd_model_name": self.script.info_model or stem}
        return {"images": texts, "parameters": body, "info": json.dumps(info)}
