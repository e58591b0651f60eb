"""The HTTP side of `METRICS_PORT`: Prometheus' scrape, and what Kubernetes asks.

| path | answer |
|---|---|
| `/metrics` | the metrics |
| `/livez`, `/healthz` | 200 while the agent's own threads turn, else 503: restart it |
| `/readyz` | 200 while the runtime answers and the agent takes tasks, else 503 |

It listens on every address, since both come from outside the pod; it tells numbers and states only, takes
no input, and serves a few connections at a time, each for a few seconds.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MAX_CONNECTIONS = 8
CONNECTION_SECONDS = 5.0
_TEXT = "text/plain; charset=utf-8"

Exposition = Callable[[str], tuple[str, bytes]]
log = logging.getLogger(__name__)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], family: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = family
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # IPv4 as well
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        log.debug("a scrape was broken off", exc_info=True, extra={"action": "scrape_failed"})


def serve(port: int, exposition: Exposition, checks: Mapping[str, Callable[[], bool]]) -> int:
    """Serve metrics and checks from a thread of its own; return the port (another one for 0).

    Args:
        port: to listen on.
        exposition: renders the metrics for an `Accept` header: content type and body.
        checks: path -> whether to answer 200.

    Raises:
        OSError: the port cannot be had.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = CONNECTION_SECONDS
        server_version = "sd-queue-agent"
        sys_version = ""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, *exposition(self.headers.get("accept", "")))
            elif path in checks:
                is_fine = checks[path]()
                self._answer(200 if is_fine else 503, _TEXT, b"ok\n" if is_fine else b"not ok\n")
            else:
                self._answer(404, _TEXT, b"not found\n")

        do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: probes come every few seconds."""

    server = _bound(port, Handler)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return int(server.server_address[1])


def _bound(port: int, handler: type[BaseHTTPRequestHandler]) -> _Server:
    """Listen on every IPv4 and IPv6 address, or on every IPv4 one where the machine has no IPv6."""
    if socket.has_dualstack_ipv6():
        try:
            return _Server(("::", port), socket.AF_INET6, handler)
        except OSError as error:
            log.debug("no IPv6: %s", error, extra={"action": "metrics_ipv4"})
    return _Server(("0.0.0.0", port), socket.AF_INET, handler)  # noqa: S104 - scraped from outside the pod
