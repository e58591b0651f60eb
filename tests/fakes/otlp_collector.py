"""An OTLP/HTTP collector that keeps the spans it is sent, or behaves as badly as it is told."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Collector:
    """`spans` are the decoded ones; with `hangs` no request is ever answered."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.requests = 0
        self.url = ""
        self._hangs = hangs
        self._closed = threading.Event()

    def take(self, body: bytes) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        request = ExportTraceServiceRequest.FromString(body)
        for group in request.resource_spans:
            self.resources.append({a.key: a.value.string_value for a in group.resource.attributes})
            for scope in group.scope_spans:
                self.spans.extend(scope.spans)

    @contextlib.contextmanager
    def serve(self) -> Iterator[Collector]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                owner.requests += 1
                if owner._hangs:
                    owner._closed.wait(60)
                    return
                owner.take(body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.block_on_close = False
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield self
        finally:
            self._closed.set()
            server.shutdown()
            server.server_close()
