"""A real HTTP server that behaves like the task API and its bucket, on a loopback port.

Tasks are checked with the real contract. `script` says which states a task passes through: each GET
of it moves one on. `answer` replaces the next answers, to play a broken server.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sdctl import contract

KEY = "the-key"
RUNTIMES = {
    "sdruntime": contract.RuntimeInfo("sdruntime", "sdwebui", checkpoint="v1-5.safetensors"),
    "comfy": contract.RuntimeInfo("comfy", "comfyui"),
}


def png(width: int, height: int) -> bytes:
    """Make a real PNG of one colour gradient."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes((x * 3 + y) % 256 for x in range(width * 3)) for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


class TaskApiServer:
    """State of the server, and what tests ask it to do."""

    def __init__(self) -> None:
        self.tasks: dict[str, dict[str, Any]] = {}
        self.hashes: dict[str, str] = {}
        self.bodies: list[dict[str, Any]] = []
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.script: list[dict[str, Any]] = [{"status": "running", "progress": 0.5}, {"status": "completed"}]
        self.answers: list[Callable[[Handler], None]] = []
        self.link: Callable[[str, str], str | None] = lambda base, key: f"{base}/objects/{key}"
        self._steps: dict[str, int] = {}
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.state = self  # type: ignore[attr-defined]

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    @property
    def env(self) -> dict[str, str]:
        return {"SDCTL_ENDPOINT": f"{self.base}/prod/", "SDCTL_API_KEY": KEY}

    def add(self, task_id: str, **fields: Any) -> dict[str, Any]:
        task = {
            "id": task_id, "runtime": "sdruntime", "tasktype": "text-to-image", "status": "queued",
            "progress": None, "attempts": 0, "submitted_at": "2026-01-02T03:04:05.000Z", "started_at": None,
            "finished_at": None, "image_url": [], "output_url": None, "context": None, "error": None,
        }  # fmt: skip
        self.tasks[task_id] = task | fields
        return self.tasks[task_id]

    def step(self, task: dict[str, Any]) -> None:
        """Move a task one state on along the script."""
        if task["status"] in contract.END_STATUSES:
            return
        number = self._steps.get(task["id"], 0)
        if number < len(self.script):
            self._steps[task["id"]] = number + 1
            task.update(self.script[number])
            if task["status"] == "completed":
                self.complete(task)

    def complete(self, task: dict[str, Any]) -> None:
        content = task.get("_content", {})
        size = (content.get("width", 512), content.get("height", 512))
        if "upscaling_resize" in content:
            size = (int(512 * content["upscaling_resize"]), int(512 * content["upscaling_resize"]))
        key = f"output/{task['id']}/{task['id']}-0a1b-1.png"
        self.objects[key] = png(*size)
        task.update(progress=1, image_url=[f"s3://bucket/{key}"], output_url=f"s3://bucket/{key[:-6]}.out")

    def shown(self, task: dict[str, Any]) -> dict[str, Any]:
        links = [self.link(self.base, url.removeprefix("s3://bucket/")) for url in task["image_url"]]
        public = {name: value for name, value in task.items() if not name.startswith("_")}
        return public | {"image_links": links, "output_link": None}

    def submit(self, body: Any, version: str) -> tuple[int, dict[str, Any]]:
        parse = contract.parse_v1alpha2 if version == "v1alpha2" else contract.parse_v1alpha1
        try:
            task = parse(body, RUNTIMES)
        except contract.InvalidTaskError as error:
            fields = [problem.as_dict() for problem in error.problems]
            return 400, {
                "error": {"code": "invalid_task", "message": "the task is invalid", "fields": fields}
            }
        self.bodies.append(body)
        known = self.hashes.get(task.id)
        if known not in (None, task.content_hash):
            return 409, failure("id_conflict", f"{task.id} was used for another task")
        self.hashes[task.id] = task.content_hash
        if known is None:
            self.add(
                task.id,
                runtime=task.runtime,
                tasktype=task.tasktype,
                context=task.context,
                _content=task.content,
            )
        location = f"s3://bucket/{task.prefix}/{task.id}"
        if version == "v1alpha1":
            name = body["alwayson_scripts"]["sd_model_checkpoint"]
            return 200, {"id_task": task.id, "sd_model_checkpoint": name, "output_location": location}
        return 200, {
            "id_task": task.id, "id": task.id, "runtime": task.runtime, "status": "queued",
            "output_location": location, "replayed": known is not None,
        }  # fmt: skip


def failure(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "fields": []}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def state(self) -> TaskApiServer:
        return self.server.state  # type: ignore[attr-defined,no-any-return]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def reply(self, status: int, body: Any, content_type: str = "application/json", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def handle_one(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.state.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        parts = urlsplit(self.path)
        if parts.path.startswith("/objects/"):
            return self.objects(parts.path.removeprefix("/objects/"))
        if self.state.answers:
            return self.state.answers.pop(0)(self)
        if self.headers.get("x-api-key") != KEY:
            return self.reply(401, failure("unauthorized", "the API key is missing or wrong"))
        return self.route(parts.path.removeprefix("/prod/").split("/"), parse_qs(parts.query))

    do_GET = do_POST = do_PUT = handle_one

    def objects(self, key: str) -> None:
        if self.headers.get("x-api-key"):
            return self.reply(400, b"the key must not come here", "text/plain")
        if self.command == "PUT":
            self.state.objects[key] = self.body
            return self.reply(200, b"")
        if key not in self.state.objects:
            return self.reply(404, b"<Error/>", "application/xml")
        return self.reply(200, self.state.objects[key], "image/png")

    def route(self, path: list[str], query: dict[str, list[str]]) -> None:
        state = self.state
        match (self.command, path):
            case ("POST", ["v1alpha2" | "v1alpha1" as version]):
                return self.reply(*state.submit(json.loads(self.body), version))
            case ("POST", ["v1alpha2", "uploads"]):
                asked = json.loads(self.body)
                key = f".sdctl/uploads/{asked['sha256']}/{asked['filename']}"
                urls = {
                    "upload_url": f"{state.base}/objects/{key}?signature=x",
                    "input_url": f"s3://bucket/{key}",
                }
                return self.reply(200, urls)
            case ("GET", ["v1alpha2", "tasks"]):
                return self.reply(200, self.page(query))
            case (_, ["v1alpha2", "tasks", task_id, *action]):
                task = state.tasks.get(task_id)
                if task is None:
                    return self.reply(404, failure("not_found", f"there is no task {task_id}"))
                return self.task(task, action)
        return self.reply(404, failure("not_found", "there is no such path"))

    def page(self, query: dict[str, list[str]]) -> dict[str, Any]:
        wanted = [
            task
            for task in reversed(self.state.tasks.values())
            if query.get("status", [task["status"]])[0] == task["status"]
            and query.get("runtime", [task["runtime"]])[0] == task["runtime"]
        ]
        start, limit = int(query.get("cursor", ["0"])[0]), int(query["limit"][0])
        end = start + min(limit, 2)
        cursor = str(end) if end < len(wanted) else None
        return {"tasks": [self.state.shown(task) for task in wanted[start:end]], "cursor": cursor}

    def task(self, task: dict[str, Any], action: list[str]) -> None:
        state = self.state
        if not action:
            state.step(task)
            return self.reply(200, state.shown(task))
        is_ended = task["status"] in contract.END_STATUSES
        if action == ["cancel"] and not is_ended:
            task["status"] = "cancelled"
        elif action == ["retry"] and task["status"] in contract.RETRYABLE_STATUSES:
            task.update(status="queued", attempts=task["attempts"] + 1, error=None)
        else:
            return self.reply(409, failure("task_ended", f"the task is {task['status']}"))
        return self.reply(202, state.shown(task))


@contextlib.contextmanager
def running_server() -> Iterator[TaskApiServer]:
    """Run a server for the block."""
    state = TaskApiServer()
    thread = threading.Thread(target=state.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.http.shutdown()
        state.http.server_close()
        thread.join(5)


def free_port() -> int:
    """Return a port where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Serve until killed, printing the endpoint: for benchmarks and by hand."""
    with running_server() as state:
        print(json.dumps(state.env), flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
