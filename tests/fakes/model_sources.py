"""Publishers of models on loopback: plain files, Hugging Face's and Civitai's interfaces, and their mishaps.

The server answers as `127.0.0.1` and as `localhost`, which are two origins: files may be redirected from one
to the other, as publishers do to their storage.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class File:
    """One file to be served, with what goes wrong with it.

    Each of `mishaps` spoils one request, in order: `("drop", n)` closes after n bytes, `("status", code,
    headers)` refuses, `("pause", seconds)` waits before the body. `announced` is a length that is not true;
    ranges that begin at `gone_from` or later are not served at the moment.
    """

    data: bytes
    etag: str = '"v1"'
    has_ranges: bool = True
    content_type: str = "application/octet-stream"
    disposition: str = ""
    announced: int | None = None
    has_length: bool = True
    needs_token: str = ""
    refusal: tuple[int, dict[str, str]] = (401, {})
    redirect: str = ""
    bytes_per_second: float = 0
    gone_from: int | None = None
    mishaps: list[tuple[Any, ...]] = field(default_factory=list)


@dataclass
class Asked:
    """One request that came."""

    host: str
    path: str
    token: str
    range: str


class Sources:
    """The server's content, and what it was asked."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.files: dict[str, File] = {}
        self.documents: dict[str, tuple[int, Any, dict[str, str]]] = {}
        self.asked: list[Asked] = []
        self.sent_bytes = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """The address of one origin."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage_url(self) -> str:
        """The address of the other."""
        return f"http://localhost:{self.port}"

    def add(self, path: str, data: bytes, **how: Any) -> str:
        """Serve a file; return its address."""
        self.files[path] = File(data, **how)
        return self.url + path

    def environment(self) -> dict[str, str]:
        """Return what points sdctl here."""
        return {"HF_ENDPOINT": self.url, "CIVITAI_ENDPOINT": self.url}

    def add_hugging_face(self, repo: str, files: dict[str, bytes], *, gated: str = "") -> None:
        """Publish a repository; `gated` is the token that opens it."""
        siblings: list[dict[str, Any]] = []
        for name, data in files.items():
            sha256 = hashlib.sha256(data).hexdigest()
            siblings.append(
                {"rfilename": name, "size": len(data), "lfs": {"sha256": sha256, "size": len(data)}}
            )
            storage = f"/storage/{sha256}"
            self.files[storage] = File(data, etag=f'"{sha256}"')
            self.files[f"/{repo}/resolve/{COMMIT}/{name}"] = File(
                b"", redirect=self.storage_url + storage + "?signature=secret", needs_token=gated,
                refusal=(401, {"x-error-code": "GatedRepo", "x-error-message": "Access is restricted."}),
            )  # fmt: skip
        document = {"sha": COMMIT, "siblings": siblings, "gated": "manual" if gated else False}
        self.documents[f"/api/models/{repo}/revision/main"] = (200, document, {})
        self.documents[f"/api/models/{repo}/revision/{COMMIT}"] = (200, document, {})

    def add_civitai(self, version: int, files: list[dict[str, Any]], data: bytes, **how: Any) -> None:
        """Publish a version; the served file is `data`."""
        document = {"id": version, "modelId": 7, "baseModel": "SD 1.5", "files": files}
        self.documents[f"/api/v1/model-versions/{version}"] = (200, document, {})
        how.setdefault("disposition", f'attachment; filename="{files[0]["name"]}"')
        self.files[f"/api/download/models/{version}"] = File(data, **how)

    def paths(self) -> list[str]:
        """The paths that were asked for."""
        return [one.path for one in self.asked]


def _handler(sources: Sources) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            token = self.headers.get("authorization", "").removeprefix("Bearer ")
            asked = Asked(self.headers.get("host", ""), path, token, self.headers.get("range", ""))
            with sources.lock:
                sources.asked.append(asked)
            if path in sources.documents:
                status, document, headers = sources.documents[path]
                self._answer(status, json.dumps(document).encode(), headers)
            elif path in sources.files:
                self._serve(sources.files[path], asked)
            else:
                self._answer(404, b"{}", {"x-error-code": "EntryNotFound"})

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _serve(self, file: File, asked: Asked) -> None:
            if file.needs_token and asked.token != file.needs_token:
                self._answer(file.refusal[0], b"{}", file.refusal[1])
                return
            if file.redirect:
                self._answer(302, b"", {"Location": file.redirect})
                return
            with sources.lock:
                mishap = file.mishaps.pop(0) if file.mishaps else ("none",)
            if mishap[0] == "status":
                self._answer(mishap[1], b"", mishap[2] if len(mishap) > 2 else {})
                return
            match = re.fullmatch(r"bytes=(\d+)-(\d+)", asked.range) if file.has_ranges else None
            first, last = (int(match[1]), int(match[2])) if match else (0, len(file.data) - 1)
            if file.gone_from is not None and first >= file.gone_from:
                self._answer(503, b"", {})
                return
            body = memoryview(file.data)[first : last + 1]
            self.send_response(206 if match else 200)
            if match:
                total = len(file.data) if file.announced is None else file.announced
                self.send_header("Content-Range", f"bytes {first}-{min(last, len(file.data) - 1)}/{total}")
            if file.has_length:
                length = len(body) if match or file.announced is None else file.announced
                self.send_header("Content-Length", str(length))
            else:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.send_header("ETag", file.etag)
            self.send_header("Content-Type", file.content_type)
            if file.disposition:
                self.send_header("Content-Disposition", file.disposition)
            self.end_headers()
            if mishap[0] == "pause":
                time.sleep(mishap[1])
            self._send(file, body, mishap[1] if mishap[0] == "drop" else None)

        def _send(self, file: File, body: memoryview, drop_after: int | None) -> None:
            step = 64 * 1024
            left = len(body) if drop_after is None else min(drop_after, len(body))
            for at in range(0, left, step):
                piece = body[at : min(at + step, left)]
                self.wfile.write(piece)
                with sources.lock:
                    sources.sent_bytes += len(piece)
                if file.bytes_per_second:
                    time.sleep(len(piece) / file.bytes_per_second)
            if drop_after is not None or (file.announced or 0) > len(body):
                self.close_connection = True
                self.wfile.flush()

        def log_message(self, *_arguments: Any) -> None:
            pass

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (ConnectionError, TimeoutError):
                self.close_connection = True

    return Handler


@contextmanager
def model_sources() -> Iterator[Sources]:
    """Run a server for as long as the context lasts."""
    sources = Sources(0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(sources))
    server.daemon_threads = True
    server.handle_error = lambda *_arguments: None  # type: ignore[method-assign]
    sources.port = server.server_address[1]
    thread = threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True)
    thread.start()
    try:
        yield sources
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
