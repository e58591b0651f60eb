"""`--runtime-url`: a server that is not there, or is another, is told at the deploy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from aiohttp import web

from fakes.http_thread import ServedApp
from sdctl.config.load import Overrides, load_config
from sdctl.errors import UsageError
from sdctl.local.apply import read_runtime_urls, runtime_url_problems
from sdctl.local.state import free_port

WEBUI = load_config(None, Overrides(), {}).config
COMFYUI = load_config(None, Overrides(runtime_type="comfyui"), {}).config


@pytest.fixture
def webui() -> Iterator[str]:
    async def options(_: web.Request) -> web.Response:
        return web.json_response({})

    app = web.Application()
    app.router.add_get("/sdapi/v1/options", options)
    served = ServedApp(app)
    served.start()
    yield served.url
    served.stop()


def test_a_server_of_the_right_type_is_fine(webui: str) -> None:
    assert runtime_url_problems({"sdruntime": f"{webui}/"}, WEBUI) == []
    assert runtime_url_problems({"sdruntime": f"{webui}/sdapi/v1/"}, WEBUI) == []


def test_a_server_of_another_type_is_told(webui: str) -> None:
    (problem,) = runtime_url_problems({"sdruntime": webui}, COMFYUI)
    assert problem == f"sdruntime: {webui} answers 404 to /system_stats; is it a comfyui server?"


def test_a_server_that_is_not_there_is_told() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    (problem,) = runtime_url_problems({"sdruntime": url}, WEBUI)
    assert problem == (
        f"sdruntime: {url} does not answer yet (Connection refused); its tasks wait until it does"
    )


@pytest.mark.parametrize("url", ["http://host:99999", "http://host:x", "http://host:0", "http://:80"])
def test_an_address_without_a_usable_host_and_port_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="not an http://host:port address"):
        read_runtime_urls([url], WEBUI)
