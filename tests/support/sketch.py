"""Starts the built-in runtime as the process that it is, and talks HTTP to it."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from websockets.sync.client import ClientConnection, connect

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Answer:
    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Sketch:
    """One running server."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port
        self.url = f"http://127.0.0.1:{port}"

    def call(
        self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, **headers: str
    ) -> Answer:
        data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
        content_type = {"content-type": "application/json"} if data is not None else {}
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, data, {**content_type, **names}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return Answer(response.status, response.read(), dict(response.headers.items()))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read(), dict(error.headers.items()))

    def get(self, path: str, **query: str) -> Answer:
        return self.call("GET", f"{path}?{urllib.parse.urlencode(query)}" if query else path)

    def post(self, path: str, body: Any) -> Answer:
        return self.call("POST", path, body)

    def draw(self, **fields: Any) -> Any:
        answer = self.post(
            "/sdapi/v1/txt2img", {"prompt": "A dog", "width": 64, "height": 64, "seed": 1, **fields}
        )
        assert answer.status == 200, answer.body
        return answer.json

    def upload(self, name: str, data: bytes, route: str = "image", **fields: str) -> Answer:
        """Post a multipart upload; a name of None sends the field without one."""
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
        parts = [head.encode() + data + b"\r\n"]
        for key, value in fields.items():
            text = f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
            parts.append(text.encode())
        raw = b"".join(parts) + f"--{boundary}--\r\n".encode()
        return self.call(
            "POST", f"/upload/{route}", raw=raw, content_type=f"multipart/form-data; boundary={boundary}"
        )

    def socket(self, client_id: str) -> ClientConnection:
        return connect(f"ws://127.0.0.1:{self.port}/ws?clientId={client_id}", max_size=None, proxy=None)

    def run(self, graph: dict[str, Any], **body: Any) -> dict[str, Any]:
        """Queue a workflow and return its history entry once it has one."""
        answer = self.post("/prompt", {"prompt": graph, **body})
        assert answer.status == 200, answer.body
        return self.ended(answer.json["prompt_id"])

    def ended(self, prompt_id: str, seconds: float = 20) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            entry: dict[str, Any] | None = self.get(f"/history/{prompt_id}").json.get(prompt_id)
            if entry is not None:
                return entry
            time.sleep(0.01)
        raise AssertionError(f"{prompt_id} has not ended")

    def view(self, row: dict[str, str]) -> bytes:
        answer = self.get("/view", filename=row["filename"], subfolder=row["subfolder"], type=row["type"])
        assert answer.status == 200
        return answer.body


@contextmanager
def sketch(kind: str, *arguments: str) -> Iterator[Sketch]:
    """Start a server of a type on a free port; it is gone afterwards."""
    command = [sys.executable, "-m", "sdctl.local.sketch", "--type", kind, "--port", "0", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        yield Sketch(process, json.loads(line)["port"])
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def events(socket: ClientConnection, prompt_id: str, seconds: float = 20) -> list[tuple[str, Any]]:
    """Receive until the run has ended: (type, data) of text messages, ("binary", bytes) of the others."""
    found: list[tuple[str, Any]] = []
    while True:
        message = socket.recv(timeout=seconds)
        if isinstance(message, bytes):
            found.append(("binary", message))
            continue
        event = json.loads(message)
        found.append((event["type"], event["data"]))
        if event["type"] == "executing" and event["data"] == {"node": None, "prompt_id": prompt_id}:
            return found


def picture(text_or_bytes: str | bytes) -> Image.Image:
    data = base64.b64decode(text_or_bytes) if isinstance(text_or_bytes, str) else text_or_bytes
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def b64(image: Image.Image) -> str:
    return base64.b64encode(png(image)).decode()


def text_to_image(
    seed: int = 5, steps: int = 4, size: int = 64, batch: int = 1, prompt: str = "a cat"
) -> dict[str, Any]:
    """Return the editor's default workflow in API format."""
    return {
        "3": {"class_type": "KSampler", "_meta": {"title": "KSampler"}, "inputs": {
            "seed": seed, "steps": steps, "cfg": 8, "sampler_name": "euler", "scheduler": "normal",
            "denoise": 1,
            "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}},
        "4": {"class_type": "CheckpointLoaderSimple",
         "inputs": {"ckpt_name": "v1-5-pruned-emaonly.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": size, "height": size,
         "batch_size": batch}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": prompt, "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "text, watermark", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}},
    }  # fmt: skip


def memory_bytes(process: subprocess.Popen[str]) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert match
    return int(match[1]) * 1024
