"""A scripted SD WebUI server: takes as long and fails as it is told, and counts what it was asked."""

from __future__ import annotations

import base64
import contextlib
import json
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = {
    "title": "model.safetensors [0123456789]",
    "model_name": "model",
    "hash": "0123456789",
    "sha256": "0" * 64,
    "filename": "/m/model.safetensors",
}


def png(width: int = 8, height: int = 8, *, padding_bytes: int = 0) -> bytes:
    """Return a small valid PNG file, made longer by a text chunk where asked."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"\x40\x80\xc0" * width for _ in range(height))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + (chunk(b"tEXt", b"padding\0" + b"x" * padding_bytes) if padding_bytes else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


class ScriptedRuntime:
    """The server; `prompt` of a task is its name in `started` and `finished`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.images = [png()]
        self.refusal: tuple[int, dict[str, Any]] | None = None
        self.on_refusal: Callable[[], object] = lambda: None  # called once it was decided
        self.started: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.interrupts = 0
        self.at_work = threading.Event()
        self._interrupted = threading.Event()
        self._gpu = threading.Lock()
        self._job = ""
        self._server: ThreadingHTTPServer | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> ScriptedRuntime:
        """Listen, on the same port as before where there was one."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Without it each small answer waits for the client's delayed ACK.
            disable_nagle_algorithm = True

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                self.answer(*owner.get(self.path.partition("?")[0]))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                self.answer(*owner.post(self.path, json.loads(body or b"{}")))

            def answer(self, status: int, document: Any) -> None:
                data = json.dumps(document).encode()
                try:
                    self.send_response(status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    self.close_connection = True  # the agent was killed meanwhile

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            block_on_close = False

            def __init__(self) -> None:
                self.connections: set[Any] = set()
                super().__init__(("127.0.0.1", owner.port), Handler)

            def process_request(self, request: Any, client_address: Any) -> None:
                self.connections.add(request)
                super().process_request(request, client_address)

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._server = Server()
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Go away as a killed server does: every connection is cut."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.shutdown()
        server.server_close()
        for connection in server.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(2)
        self._interrupted.set()

    def get(self, path: str) -> tuple[int, Any]:
        if path == "/sdapi/v1/options":
            return 200, {"sd_model_checkpoint": "model.safetensors [0123456789]"}
        if path == "/sdapi/v1/sd-models":
            return 200, [MODEL]
        if path == "/sdapi/v1/progress":
            state = {
                "job": self._job,
                "job_timestamp": self._job,
                "sampling_step": int(time.monotonic() * 10),
            }
            return 200, {"progress": 0.05 if self._job else 0.0, "state": state, "current_image": None}
        return 404, {"detail": "Not Found"}

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/sdapi/v1/interrupt":
            self.interrupts += 1
            self._interrupted.set()
            return 200, {}
        if path not in ("/sdapi/v1/txt2img", "/sdapi/v1/img2img"):
            return 404, {"detail": "Not Found"}
        if self.refusal is not None:
            refusal = self.refusal
            self.on_refusal()
            return refusal
        name = str(body.get("prompt"))
        with self._gpu:
            self._interrupted.clear()
            self._job = f"job {name}"
            self.started[name] += 1
            self.at_work.set()
            self._interrupted.wait(self.seconds)
            self._job = ""
            self.finished[name] += 1
        images = [base64.b64encode(image).decode() for image in self.images]
        return 200, {"images": images, "parameters": {"prompt": name}, "info": json.dumps({"seed": 1})}
