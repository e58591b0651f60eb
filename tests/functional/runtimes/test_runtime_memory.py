"""What is read of a server's memory, from answers as real servers give them, and from nonsense."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from fakes.http_thread import ServedApp
from sdctl_agent.runtimes.base import RuntimeOptions
from sdctl_agent.runtimes.comfyui import ComfyUiRuntime
from sdctl_agent.runtimes.memory import Memory, TellsMemory
from sdctl_agent.runtimes.sdwebui import SdWebuiRuntime


class StatsServer:
    """Answers every GET with `document`; keeps what is posted."""

    def __init__(self) -> None:
        self.document: Any = {}
        self.status = 200
        self.posted: list[tuple[str, Any]] = []
        app = web.Application()
        app.router.add_get("/{path:.*}", self._get)
        app.router.add_post("/{path:.*}", self._post)
        self.app = ServedApp(app)

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(self.document, status=self.status)

    async def _post(self, request: web.Request) -> web.Response:
        self.posted.append((request.path, await request.json()))
        return web.Response(status=self.status)


@pytest.fixture
def server() -> Iterator[StatsServer]:
    stats = StatsServer()
    stats.app.start()
    yield stats
    stats.app.stop()


@pytest.fixture
def comfyui(server: StatsServer) -> Iterator[ComfyUiRuntime]:
    runtime = ComfyUiRuntime(RuntimeOptions(server.app.url))
    yield runtime
    runtime.close()


@pytest.fixture
def webui(server: StatsServer) -> Iterator[SdWebuiRuntime]:
    runtime = SdWebuiRuntime(RuntimeOptions(server.app.url))
    yield runtime
    runtime.close()


def test_both_adapters_tell_memory(comfyui: ComfyUiRuntime, webui: SdWebuiRuntime) -> None:
    assert isinstance(comfyui, TellsMemory)
    assert isinstance(webui, TellsMemory)


def test_comfyui_tells_what_is_free(server: StatsServer, comfyui: ComfyUiRuntime) -> None:
    gpu = {"name": "cuda:0", "type": "cuda", "index": 0, "vram_total": 800, "vram_free": 500}
    server.document = {"system": {"os": "linux", "ram_total": 1000, "ram_free": 400}, "devices": [gpu]}
    assert comfyui.memory() == Memory(600, 1000, 300, 800)
    gpu["type"] = "cpu"  # its "GPU" is the same RAM once more
    assert comfyui.memory() == Memory(600, 1000)


def test_webui_tells_what_its_process_uses(server: StatsServer, webui: SdWebuiRuntime) -> None:
    server.document = {
        "ram": {"free": 600.0, "used": 400, "total": 1000.0},
        "cuda": {"system": {"free": 100, "used": 700, "total": 800}, "events": {"retries": 0, "oom": 0}},
    }
    assert webui.memory() == Memory(400, 1000, 700, 800)
    server.document["cuda"] = {"error": "unavailable"}
    assert webui.memory() == Memory(400, 1000)


@pytest.mark.parametrize(
    "document",
    [
        {}, [], None, "x", {"ram": []}, {"ram": {"used": "1", "total": True}},
        {"system": None, "devices": [7]},
        {"ram": {"used": -1, "total": 1e300}}, {"system": {"ram_total": float("nan")}, "devices": {}},
    ],
)  # fmt: skip
def test_nonsense_is_no_reading(
    server: StatsServer, comfyui: ComfyUiRuntime, webui: SdWebuiRuntime, document: Any
) -> None:
    server.document = document
    assert comfyui.memory() is None
    assert webui.memory() is None


def test_a_server_that_is_gone_or_has_no_such_request_tells_nothing(
    server: StatsServer, comfyui: ComfyUiRuntime, webui: SdWebuiRuntime
) -> None:
    server.status = 404
    assert (webui.memory(), comfyui.memory(), comfyui.free_memory()) == (None, None, False)
    server.app.run(server.app._runner.cleanup())  # type: ignore[union-attr]
    assert (webui.memory(), comfyui.memory(), comfyui.free_memory()) == (None, None, False)


def test_comfyui_is_asked_to_unload_models_and_to_empty_its_caches(
    server: StatsServer, comfyui: ComfyUiRuntime
) -> None:
    assert comfyui.free_memory()
    assert server.posted == [("/free", {"unload_models": True, "free_memory": True})]


def test_webui_has_nothing_to_free(server: StatsServer, webui: SdWebuiRuntime) -> None:
    assert not webui.free_memory()
    assert server.posted == []
