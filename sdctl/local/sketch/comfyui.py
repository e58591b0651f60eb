"""The ComfyUI protocol, as version 0.33 speaks it: routes, and what each answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web

from sdctl.local.sketch import machine
from sdctl.local.sketch.comfy_files import FileRoutes
from sdctl.local.sketch.comfy_queue import Queue, history_entry, job_object, milliseconds
from sdctl.local.sketch.comfy_reading import TroubleError, as_object, as_whole, read_json
from sdctl.local.sketch.comfy_run import Prompt, Runner
from sdctl.local.sketch.comfy_schema import object_info
from sdctl.local.sketch.comfy_sockets import SERVER_FEATURES, Sockets
from sdctl.local.sketch.comfy_validate import simple_error, validate
from sdctl.local.sketch.files import (
    FileStore,
    OutsideFolderError,
    file_ref,
)
from sdctl.local.sketch.models import Models
from sdctl.local.sketch.notice import RUNTIME, SENTENCE
from sdctl.local.sketch.pace import Pace

_PROMPT_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_MODEL_FOLDERS = (
    "checkpoints", "configs", "loras", "vae", "text_encoders", "diffusion_models", "clip_vision",
    "style_models",
    "embeddings", "diffusers", "vae_approx", "controlnet", "gligen", "upscale_models", "custom_nodes",
    "hypernetworks", "photomaker", "classifiers",
)  # fmt: skip
_TROUBLE = "500 Internal Server Error\n\nServer got itself in trouble"


class ComfyUi:
    """The state behind the routes: files, queue, history, sockets."""

    def __init__(self, models: Models, pace: Pace, new_id: Callable[[], str] | None = None) -> None:
        self._models = models
        self._files = FileStore()
        self._sockets = Sockets()
        tag = "".join(random.SystemRandom().choice("abcdefghijklmnopqrstuvwxyz") for _ in range(5))
        self._pace = pace
        self._runner = Runner(pace, self._files, self._sockets, tag)
        self._queue = Queue(self._runner, self._sockets)
        self._number = 0
        self._new_id = new_id or (lambda: str(uuid.uuid4()))

    def attach(self, app: web.Application) -> None:
        """Add every route, each below /api too, and the task that works the queue off."""
        for route in self._routes():
            app.router.add_route(route.method, route.path, route.handler)
            app.router.add_route(route.method, f"/api{route.path}", route.handler)
        app.router.add_get("/api/jobs", self._jobs, allow_head=False)
        app.router.add_get("/api/jobs/{id}", self._job, allow_head=False)
        app.router.add_post("/api/jobs/{id}/cancel", self._cancel_job)
        app.middlewares.append(_bare_errors)
        app.cleanup_ctx.append(self._working)

    async def _working(self, _app: web.Application) -> AsyncIterator[None]:
        task = asyncio.get_running_loop().create_task(self._queue.work())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await self._sockets.close()

    def _routes(self) -> list[web.RouteDef]:
        return [
            web.get("/ws", self._ws), web.post("/prompt", self._post_prompt),
            web.get("/prompt", self._get_prompt), web.get("/history", self._get_history),
            web.get("/history/{id}", self._get_one_history), web.post("/history", self._post_history),
            web.get("/queue", self._get_queue), web.post("/queue", self._post_queue),
            web.post("/interrupt", self._interrupt), web.post("/free", self._free),
            web.get("/system_stats", self._system_stats),
            web.get("/object_info", self._object_info), web.get("/object_info/{name}", self._object_info),
            web.get("/features", self._features), web.get("/embeddings", self._empty_list),
            web.get("/extensions", self._empty_list), web.get("/models", self._model_folders),
            web.get("/models/{folder}", self._model_names),
            *FileRoutes(self._files, self._pace).routes(),
        ]  # fmt: skip

    async def _ws(self, request: web.Request) -> web.StreamResponse:
        return await self._sockets.handle(request, self._queue.remaining)

    async def _get_prompt(self, _request: web.Request) -> web.Response:
        return web.json_response({"exec_info": {"queue_remaining": self._queue.remaining}})

    async def _post_prompt(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        if not isinstance(body, (dict, list)):
            raise TroubleError("the body is neither an object nor an array")
        if "prompt" not in body or isinstance(body, list):
            message = "No prompt provided"
            return _refused(simple_error("no_prompt", message, message))
        prompt_id = body.get("prompt_id", self._new_id())
        if not isinstance(prompt_id, str) or not _PROMPT_ID.fullmatch(prompt_id):
            details = ("prompt_id must be a UUID string in canonical lowercase hyphenated form; "
                       "omit it to let the server generate one")  # fmt: skip
            return _refused(simple_error("invalid_prompt_id", "prompt_id must be a valid UUID", details))
        number = self._take_number(body)
        graph = body["prompt"]
        if not isinstance(graph, dict):
            raise TroubleError("the prompt is no object")
        self._models.refresh()
        checkpoints = [one.file_name for one in self._models.checkpoints]
        try:
            verdict = validate(graph, checkpoints, self._has_input)
        except (TypeError, AttributeError) as error:
            raise TroubleError("a node is no object") from error
        if verdict.error is not None:
            return _refused(verdict.error, verdict.node_errors)
        extra_data = body.get("extra_data", {})
        if not isinstance(extra_data, dict):
            raise TroubleError("extra_data is no object")
        if "client_id" in body:
            extra_data["client_id"] = body["client_id"]
        extra_data["create_time"] = milliseconds()
        self._queue.put(Prompt(number, prompt_id, graph, extra_data, verdict.outputs))
        return web.json_response(
            {"prompt_id": prompt_id, "number": number, "node_errors": verdict.node_errors}
        )

    def _take_number(self, body: dict[str, Any]) -> float:
        """Return the place in the queue: the caller's own, in front of all, or behind all."""
        if "number" in body:
            try:
                return float(body["number"])
            except (TypeError, ValueError) as error:
                raise TroubleError("number is no number") from error
        number = self._number
        self._number += 1
        return -number if body.get("front") else number

    def _has_input(self, name: str) -> bool:
        try:
            return self._files.get(file_ref(name)) is not None
        except OutsideFolderError:
            return False

    async def _get_history(self, request: web.Request) -> web.Response:
        prompts = list(self._queue.history.values())
        most, offset = (as_whole(request.query.get(name)) for name in ("max_items", "offset"))
        if offset is None or offset < 0:
            offset = len(prompts) - most if most is not None else 0
        chosen = prompts[max(0, offset) :][: most if most is not None else None]
        return web.json_response({prompt.id: history_entry(prompt) for prompt in chosen})

    async def _get_one_history(self, request: web.Request) -> web.Response:
        prompt = self._queue.history.get(request.match_info["id"])
        return web.json_response({prompt.id: history_entry(prompt)} if prompt else {})

    async def _post_history(self, request: web.Request) -> web.Response:
        body = as_object(await read_json(request))
        if body.get("clear"):
            self._queue.history.clear()
        for prompt_id in _ids(body):
            self._queue.history.pop(prompt_id, None)
        return web.Response()

    async def _get_queue(self, _request: web.Request) -> web.Response:
        running = [self._queue.running.listed()] if self._queue.running else []
        return web.json_response(
            {"queue_running": running, "queue_pending": [prompt.listed() for prompt in self._queue.pending()]}
        )

    async def _post_queue(self, request: web.Request) -> web.Response:
        body = as_object(await read_json(request))
        if body.get("clear"):
            self._queue.clear()
        for prompt_id in _ids(body):
            self._queue.delete(prompt_id)
        return web.Response()

    async def _interrupt(self, request: web.Request) -> web.Response:
        try:
            body = json.loads(await request.read() or b"{}")
        except ValueError:
            body = {}
        self._queue.interrupt(as_object(body).get("prompt_id") or None)
        return web.Response()

    async def _free(self, request: web.Request) -> web.Response:
        body = as_object(await read_json(request))
        if body.get("unload_models") or body.get("free_memory"):
            self._runner.forget()
        return web.Response()

    async def _system_stats(self, _request: web.Request) -> web.Response:
        total, free = machine.total_bytes(), machine.free_bytes()
        system = {
            "os": sys.platform, "ram_total": total, "ram_free": free, "comfyui_version": "0.33.0",
            "python_version": sys.version, "pytorch_version": "none", "embedded_python": False,
            "argv": [], "runtime": RUNTIME, "about": SENTENCE,
        }  # fmt: skip
        device = {
            "name": "cpu", "type": "cpu", "index": None, "vram_total": total, "vram_free": free,
            "torch_vram_total": total, "torch_vram_free": free,
        }  # fmt: skip
        return web.json_response({"system": system, "devices": [device]})

    async def _object_info(self, request: web.Request) -> web.Response:
        self._models.refresh()
        names = [one.file_name for one in self._models.checkpoints]
        return web.json_response(
            object_info(names, self._files.names("input"), request.match_info.get("name"))
        )

    async def _features(self, _request: web.Request) -> web.Response:
        return web.json_response(SERVER_FEATURES)

    async def _empty_list(self, _request: web.Request) -> web.Response:
        return web.json_response([])

    async def _model_folders(self, _request: web.Request) -> web.Response:
        return web.json_response(_MODEL_FOLDERS)

    async def _model_names(self, request: web.Request) -> web.Response:
        folder = request.match_info["folder"]
        if folder not in _MODEL_FOLDERS:
            return web.Response(status=404)
        self._models.refresh()
        names = {"checkpoints": [one.file_name for one in self._models.checkpoints],
                 "upscale_models": list(self._models.upscalers)}  # fmt: skip
        return web.json_response(names.get(folder, []))

    async def _jobs(self, request: web.Request) -> web.Response:
        jobs = [job_object(prompt, "pending") for prompt in self._queue.pending()]
        jobs += [job_object(self._queue.running, "in_progress")] if self._queue.running else []
        jobs += [job_object(prompt) for prompt in self._queue.history.values()]
        wanted = [name for name in request.query.get("status", "").split(",") if name]
        jobs = [job for job in jobs if not wanted or job["status"] in wanted]
        rising = request.query.get("sort_order", "desc") == "asc"
        jobs.sort(key=lambda job: (job["create_time"], job["priority"]), reverse=not rising)
        offset, limit = as_whole(request.query.get("offset")) or 0, as_whole(request.query.get("limit"))
        shown = jobs[offset:][: limit if limit is not None else None]
        more = offset + len(shown) < len(jobs)
        pagination = {"offset": offset, "limit": limit, "total": len(jobs), "has_more": more}
        return web.json_response({"jobs": shown, "pagination": pagination})

    async def _job(self, request: web.Request) -> web.Response:
        wanted = request.match_info["id"]
        if self._queue.running is not None and self._queue.running.id == wanted:
            return web.json_response(job_object(self._queue.running, "in_progress"))
        waiting = next((prompt for prompt in self._queue.pending() if prompt.id == wanted), None)
        if waiting is not None:
            return web.json_response(job_object(waiting, "pending"))
        ended = self._queue.history.get(wanted)
        if ended is None:
            return web.json_response({"error": "Job not found"}, status=404)
        return web.json_response(job_object(ended, whole=True))

    async def _cancel_job(self, request: web.Request) -> web.Response:
        wanted = request.match_info["id"]
        return web.json_response({"cancelled": self._queue.delete(wanted) or self._queue.interrupt(wanted)})


def _ids(body: dict[str, Any]) -> list[str]:
    ids = body.get("delete", [])
    return [one for one in ids if isinstance(one, str)] if isinstance(ids, list) else []


def _refused(error: dict[str, Any], node_errors: dict[str, Any] | None = None) -> web.Response:
    return web.json_response({"error": error, "node_errors": node_errors or {}}, status=400)


@web.middleware
async def _bare_errors(request: web.Request, handler: Any) -> web.StreamResponse:
    """Answer what the real server stumbles over with its bare 500, and unknown paths with its empty 404."""
    try:
        response: web.StreamResponse = await handler(request)
    except TroubleError:
        return web.Response(status=500, text=_TROUBLE)
    except web.HTTPNotFound:
        return web.Response(status=404, body=b"", content_type="application/octet-stream")
    return response
