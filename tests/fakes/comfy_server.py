"""A ComfyUI server that queues, runs, fails and forgets prompts as versions 0.3.64 and 0.33 do."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from fakes.agent_runtime import png
from fakes.http_thread import ServedApp

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# What each output node reports, as (key of the report, file ending, folder type).
SAVERS = {
    "SaveImage": ("images", "png", "output"),
    "PreviewImage": ("images", "png", "temp"),
    "SaveAnimatedWEBP": ("images", "webp", "output"),
    "SaveVideo": ("images", "mp4", "output"),
    "VHS_VideoCombine": ("gifs", "mp4", "output"),
    "SaveAudio": ("audio", "flac", "output"),
    "SaveLatent": ("latents", "latent", "output"),
    "EchoInput": ("images", "png", "input"),
}
FILES = {
    "png": png(),
    "webp": b"RIFF\x24\0\0\0WEBPVP8X" + b"\0" * 32,
    "mp4": b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41" + b"\0" * 32,
    "flac": b"fLaC\0\0\0\x22" + b"\0" * 64,
    "latent": b"\x40\0\0\0\0\0\0\0" + b'{"latent_tensor":{}}',
}
OUTPUT_NODES = (*SAVERS, "PreviewAny", "SaveImageWebsocket", "Silent")
PLAIN_NODES = (
    "Draw",
    "Sleep",
    "Raise",
    "Die",
    "LoadImage",
    "LoadVideo",
    "LoadAudio",
    "CheckpointLoaderSimple",
)


@dataclass
class ComfyScript:
    """How the server is to behave; may be changed while it runs."""

    version: str = "0.33"
    socket: str = "well"  # "silent", "refused", "drops" (after the first event of a prompt)
    history_lag_seconds: float = 0.0
    preview_bytes: int = 0
    extra_queue: list[str] = field(default_factory=list)  # other people's prompts that run for ever
    own_ids: bool = False  # answers with ids of its own, as old servers do
    checkpoints: tuple[str, ...] = ("tiny.safetensors",)
    answers: dict[str, tuple[int, str, bytes]] = field(default_factory=dict)


@dataclass
class Prompt:
    id: str
    graph: dict[str, Any]
    client_id: str
    extra_data: dict[str, Any]
    outputs: dict[str, Any] = field(default_factory=dict)
    messages: list[Any] = field(default_factory=list)


class FakeComfy:
    """Serves `script`; `prompts` holds what was posted, `uploads` what was uploaded, by name."""

    def __init__(self, script: ComfyScript, port: int = 0) -> None:
        self.script = script
        self.prompts: list[dict[str, Any]] = []
        self.uploads: dict[str, bytes] = {}
        self.files: dict[tuple[str, str], bytes] = {}
        self.views: list[str] = []
        self.calls: list[tuple[str, Any]] = []
        self.executed: list[str] = []
        self._pending: list[Prompt] = []
        self._running: Prompt | None = None
        self._history: dict[str, Any] = {}
        self._cache: dict[str, dict[str, Any]] = {}
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._work = asyncio.Event()
        self._interrupt = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        app = web.Application(client_max_size=100 * 1024 * 1024)
        app.router.add_get("/ws", self._socket)
        app.router.add_post("/prompt", self._post_prompt)
        app.router.add_get("/queue", self._get_queue)
        app.router.add_post("/queue", self._post_queue)
        app.router.add_get("/history/{id}", self._get_history)
        app.router.add_post("/interrupt", self._post_interrupt)
        app.router.add_get("/view", self._view)
        app.router.add_post("/upload/image", self._upload)
        app.router.add_get("/system_stats", self._stats)
        self.served = ServedApp(app, port)
        self.served.start()
        self.served.run(self._begin())

    @property
    def url(self) -> str:
        return self.served.url

    def stop(self) -> None:
        self.served.stop()

    def restart(self) -> None:
        """Lose queue, history and sockets, as a killed and restarted server has."""
        self.served.run(self._restart())

    def finish_foreign(self) -> None:
        self.script.extra_queue.clear()

    @property
    def is_running(self) -> bool:
        return self._running is not None

    @property
    def waiting(self) -> int:
        return len(self._pending)

    async def _begin(self) -> None:
        self._worker = asyncio.create_task(self._run_all())

    async def _restart(self) -> None:
        assert self._worker is not None
        self._worker.cancel()
        self._pending.clear()
        self._history.clear()
        self._cache.clear()
        self._running = None
        for socket in list(self._sockets.values()):
            await socket.close()
        await self._begin()

    # -- requests --------------------------------------------------------------------------------------

    def _scripted(self, path: str) -> web.Response | None:
        if path not in self.script.answers:
            return None
        status, content_type, body = self.script.answers[path]
        return web.Response(status=status, body=body, headers={"Content-Type": content_type})

    async def _stats(self, request: web.Request) -> web.Response:
        return web.json_response({"system": {"comfyui_version": self.script.version}})

    async def _post_prompt(self, request: web.Request) -> web.Response:
        scripted = self._scripted("/prompt")
        if scripted is not None:
            return scripted
        body = await request.json()
        self.prompts.append(body)
        prompt_id = body.get("prompt_id") or str(uuid.uuid4())
        if self.script.version == "0.33" and not UUID.fullmatch(prompt_id):
            return _refused("invalid_prompt_id", "prompt_id must be a valid UUID", "canonical form only")
        if self.script.own_ids:
            prompt_id = str(uuid.uuid4())
        graph = body["prompt"]
        for node_id, node in graph.items():
            if node["class_type"] not in (*OUTPUT_NODES, *PLAIN_NODES):
                words = f"Node '{node_id}' not found. The custom node may not be installed."
                return _refused("missing_node_type", words, f"Node ID '#{node_id}'", {"node_id": node_id})
        errors = self._node_errors(graph)
        bad = {output for report in errors.values() for output in report["dependent_outputs"]}
        good = [key for key, node in graph.items() if node["class_type"] in OUTPUT_NODES and key not in bad]
        if not good and not errors:
            return _refused("prompt_no_outputs", "Prompt has no outputs", "")
        if not good:
            error = {
                "type": "prompt_outputs_failed_validation",
                "message": "Prompt outputs failed validation",
            }
            document = {"error": error | {"details": "", "extra_info": {}}, "node_errors": errors}
            return web.json_response(document, status=400)
        kept = {key: node for key, node in graph.items() if key not in bad and key not in errors}
        prompt = Prompt(prompt_id, kept, str(body.get("client_id")), body.get("extra_data") or {})
        self._pending.append(prompt)
        self._work.set()
        return web.json_response({"prompt_id": prompt_id, "number": len(self.prompts), "node_errors": errors})

    def _node_errors(self, graph: dict[str, Any]) -> dict[str, Any]:
        errors: dict[str, Any] = {}
        for node_id, node in graph.items():
            inputs = node.get("inputs", {})
            if (
                node["class_type"] == "CheckpointLoaderSimple"
                and inputs["ckpt_name"] not in self.script.checkpoints
            ):
                details = f"ckpt_name: '{inputs['ckpt_name']}' not in {list(self.script.checkpoints)}"
                errors[node_id] = _node_error(
                    graph, node_id, "value_not_in_list", "Value not in list", details
                )
            if node["class_type"] == "LoadImage" and inputs["image"] not in self.uploads:
                details = f"image - Invalid image file: {inputs['image']}"
                words = "Custom validation failed for node"
                errors[node_id] = _node_error(graph, node_id, "custom_validation_failed", words, details)
        return errors

    async def _get_queue(self, request: web.Request) -> web.Response:
        scripted = self._scripted("/queue")
        if scripted is not None:
            return scripted
        running = [[0, name, {}, {}, []] for name in self.script.extra_queue]
        if self._running is not None:
            running.append([0, self._running.id, self._running.graph, {}, []])
        pending = [[1, prompt.id, prompt.graph, {}, []] for prompt in self._pending]
        return web.json_response({"queue_running": running, "queue_pending": pending})

    async def _post_queue(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.calls.append(("queue", body))
        self._pending = [prompt for prompt in self._pending if prompt.id not in body.get("delete", ())]
        return web.Response()

    async def _get_history(self, request: web.Request) -> web.Response:
        scripted = self._scripted("/history")
        if scripted is not None:
            return scripted
        prompt_id = request.match_info["id"]
        entry = self._history.get(prompt_id)
        return web.json_response({} if entry is None else {prompt_id: entry})

    async def _post_interrupt(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else {}
        self.calls.append(("interrupt", body))
        wanted = body.get("prompt_id")
        if self._running is not None and (wanted is None or wanted == self._running.id):
            self._interrupt.set()
        return web.Response()

    async def _view(self, request: web.Request) -> web.Response:
        scripted = self._scripted("/view")
        if scripted is not None:
            return scripted
        name, subfolder = request.query["filename"], request.query.get("subfolder", "")
        self.views.append(name)
        path = f"{subfolder}/{name}" if subfolder else name
        data = self.files.get((request.query.get("type", "output"), path))
        return web.Response(status=404) if data is None else web.Response(body=data)

    async def _upload(self, request: web.Request) -> web.Response:
        scripted = self._scripted("/upload/image")
        if scripted is not None:
            return scripted
        form = await request.post()
        file = form["image"]
        assert isinstance(file, web.FileField)
        data, name = file.file.read(), file.filename
        if self.uploads.get(name, data) != data:
            name = name.replace(".", " (1).")
        self.uploads[name] = data
        return web.json_response({"name": name, "subfolder": "", "type": "input"})

    # -- socket ------------------------------------------------------------------------------------------

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        if self.script.socket == "refused":
            return web.Response(status=404)
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        sid = request.query.get("clientId", "")
        self._sockets[sid] = socket
        if self.script.socket != "silent":
            await socket.send_json({"type": "status", "data": {"status": {}, "sid": sid}})
        async for message in socket:
            if message.type == WSMsgType.ERROR:
                break
        self._sockets.pop(sid, None)
        return socket

    async def _send(self, prompt: Prompt, kind: str, data: dict[str, Any]) -> None:
        socket = self._sockets.get(prompt.client_id)
        if socket is None or self.script.socket == "silent" or socket.closed:
            return
        await socket.send_json({"type": kind, "data": data | {"prompt_id": prompt.id}})
        if self.script.socket == "drops" and kind == "executing":
            await socket.close()

    async def _send_frame(self, prompt: Prompt, image: bytes, kind: int) -> None:
        socket = self._sockets.get(prompt.client_id)
        if socket is not None and self.script.socket != "silent" and not socket.closed:
            await socket.send_bytes((1).to_bytes(4, "big") + kind.to_bytes(4, "big") + image)

    # -- the worker --------------------------------------------------------------------------------------

    async def _run_all(self) -> None:
        while True:
            while not self._pending or self.script.extra_queue:
                self._work.clear()
                try:
                    await asyncio.wait_for(self._work.wait(), 0.02)
                except TimeoutError:
                    continue
            prompt = self._running = self._pending.pop(0)
            self._interrupt.clear()
            if not await self._run(prompt):
                return  # the worker is dead, the prompt stays where it is

    async def _run(self, prompt: Prompt) -> bool:
        key = json.dumps(prompt.graph, sort_keys=True)
        cached = self._cache.get(key)
        await self._send(prompt, "execution_start", {})
        await self._send(prompt, "execution_cached", {"nodes": list(prompt.graph) if cached else []})
        status = "success"
        if cached is not None:
            prompt.outputs = cached
        else:
            for node_id in prompt.graph:
                await self._send(prompt, "executing", {"node": node_id, "display_node": node_id})
                node = prompt.graph[node_id]
                if node["class_type"] == "Die":
                    return False
                if not await self._run_node(prompt, node_id, node):
                    status = "error"
                    break
                state = {"state": "finished", "value": 1, "max": 1}
                await self._send(prompt, "progress_state", {"nodes": {node_id: state}})
        if status == "success":
            self.executed.append(prompt.id)
            self._cache[key] = prompt.outputs
            prompt.messages.append(["execution_success", {"prompt_id": prompt.id}])
            await self._send(prompt, "execution_success", {})
        await asyncio.sleep(self.script.history_lag_seconds)
        self._history[prompt.id] = {
            "prompt": [1, prompt.id, prompt.graph, {}, []],
            "outputs": prompt.outputs,
            "status": {"status_str": status, "completed": status == "success", "messages": prompt.messages},
        }
        self._running = None
        await self._send(prompt, "executing", {"node": None})
        return True

    async def _run_node(self, prompt: Prompt, node_id: str, node: dict[str, Any]) -> bool:
        kind, inputs = node["class_type"], node.get("inputs", {})
        if self.script.preview_bytes and prompt.extra_data.get("preview_method") != "none":
            await self._send_frame(prompt, b"\xff\xd8\xff" + b"\0" * self.script.preview_bytes, 1)
        if kind == "Sleep":
            try:
                await asyncio.wait_for(self._interrupt.wait(), inputs["seconds"])
            except TimeoutError:
                return True
            message = {"prompt_id": prompt.id, "node_id": node_id, "node_type": kind, "executed": []}
            prompt.messages.append(["execution_interrupted", message])
            await self._send(prompt, "execution_interrupted", message)
            return False
        if kind == "Raise":
            message = {
                "node_id": node_id, "node_type": kind, "executed": [], "exception_type": inputs["type"],
                "exception_message": inputs["message"], "current_inputs": {"x": ["tensor([1.0])"]},
                "traceback": ['  File "/srv/ComfyUI/execution.py", line 545, in execute\n'],
            }  # fmt: skip
            prompt.messages.append(["execution_error", {"prompt_id": prompt.id} | message])
            await self._send(prompt, "execution_error", message)
            return False
        if kind == "SaveImageWebsocket":
            for _ in range(inputs.get("count", 1)):
                await self._send_frame(prompt, FILES["png"], 2)
        if kind == "PreviewAny":
            prompt.outputs[node_id] = {"text": [inputs["text"]]}
        if kind in SAVERS:
            prompt.outputs[node_id] = self._saved(prompt, node_id, kind, inputs)
            await self._send(prompt, "executed", {"node": node_id, "output": prompt.outputs[node_id]})
        return True

    def _saved(self, prompt: Prompt, node_id: str, kind: str, inputs: dict[str, Any]) -> dict[str, Any]:
        key, ending, folder = SAVERS[kind]
        subfolder = inputs.get("subfolder", "")
        report = []
        for number in range(inputs.get("count", 1)):
            name = f"{inputs.get('prefix', 'out')}_{len(self.executed)}_{node_id}_{number}_.{ending}"
            self.files[folder, f"{subfolder}/{name}" if subfolder else name] = FILES[ending]
            report.append({"filename": name, "subfolder": subfolder, "type": folder})
        return {key: report} | ({"animated": [True]} if kind in ("SaveVideo", "SaveAnimatedWEBP") else {})


def _refused(kind: str, message: str, details: str, extra: dict[str, Any] | None = None) -> web.Response:
    error = {"type": kind, "message": message, "details": details, "extra_info": extra or {}}
    return web.json_response({"error": error, "node_errors": {}}, status=400)


def _node_error(graph: dict[str, Any], node_id: str, kind: str, message: str, details: str) -> dict[str, Any]:
    """Report a node; the outputs that depend on it are those that link to it."""
    outputs = [
        key
        for key, node in graph.items()
        if any(
            isinstance(value, list) and value[:1] == [node_id] for value in node.get("inputs", {}).values()
        )
    ]
    extra = {"input_name": "x", "input_config": None, "traceback": ['File "/srv/ComfyUI/execution.py"']}
    return {
        "errors": [{"type": kind, "message": message, "details": details, "extra_info": extra}],
        "dependent_outputs": outputs,
        "class_type": graph[node_id]["class_type"],
    }
