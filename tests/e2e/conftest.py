"""One farm for all end-to-end tests: both runtime types, deployed once by the real command."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator

import pytest

from support.farm import Farm

CONFIG = """\
stackName: sdoneks
modelsRuntime:
  - name: sdruntime
    namespace: default
    type: sdwebui
    modelFilename: v1-5-pruned-emaonly.safetensors
    dynamicModel: false
  - name: comfy
    namespace: comfy
    type: comfyui
  - name: dynamic
    namespace: dynamic
    type: sdwebui
    modelFilename: sdxl-base.safetensors
    dynamicModel: true
queueAgent:
  inputAllowlist: ["127.0.0.1:{port}"]
"""


class Images(http.server.BaseHTTPRequestHandler):
    """A web server that inputs may come from: `/endless` never ends, `/huge` says that it has 2 GB."""

    def do_GET(self) -> None:
        """Serve an image's beginning, or 404."""
        if self.path not in ("/endless.png", "/huge.png"):
            self.send_error(404)
            return
        self.send_response(200)
        if self.path == "/huge.png":
            self.send_header("content-length", str(2 << 30))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(b"\x89PNG\r\n\x1a\n")
            for _ in range(2 << 10):
                self.wfile.write(bytes(1 << 20))

    def log_message(self, *arguments: object) -> None:
        """Stay quiet."""


@pytest.fixture(scope="session")
def images_url() -> Iterator[str]:
    """Return the URL of a server that the farm's configuration allows inputs from."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Images)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def farm(tmp_path_factory: pytest.TempPathFactory, images_url: str) -> Iterator[Farm]:
    """Return the deployed farm; it is destroyed at the end, and must then be gone."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "sdctl.yaml").write_text(CONFIG.replace("{port}", images_url.rpartition(":")[2]))
    farm = Farm(folder, tmp_path_factory.mktemp("home") / "sdctl")
    try:
        farm.deploy()
        yield farm
    finally:
        farm.destroy()
