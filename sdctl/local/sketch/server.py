"""Runs one of the two protocols as an HTTP server until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from sdctl.local.sketch.models import Models
from sdctl.local.sketch.pace import Pace

log = logging.getLogger(__name__)
# ComfyUI's own limit; the SD WebUI has none.
MAX_BODY_BYTES = 100 * 1024 * 1024
_CLOSE_SECONDS = 0.3
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says."""

    type: str
    host: str = "127.0.0.1"
    port: int = 0
    checkpoints: tuple[str, ...] = field(default=())
    models_dir: Path | None = None
    seconds_per_image: float = 0.0


def make_app(settings: Settings, pace: Pace) -> web.Application:
    """Build the application of one protocol."""
    models = Models(settings.checkpoints, settings.models_dir)
    if settings.type == "sdwebui":
        from sdctl.local.sketch.webui import WebUi, errors_as_json

        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[own_origin_only, errors_as_json])
        app.add_routes(WebUi(models, pace).routes())
        return app
    from sdctl.local.sketch.comfyui import ComfyUi

    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[own_origin_only])
    ComfyUi(models, pace).attach(app)
    return app


@web.middleware
async def own_origin_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what a web page of another site makes a browser send, as ComfyUI does on loopback."""
    origin = request.headers.get("Origin")
    foreign = (
        origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("Host", "").lower()
    )
    if foreign or request.headers.get("Sec-Fetch-Site") == "cross-site":
        return web.Response(status=403)
    return await handler(request)


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    pace = Pace(settings.seconds_per_image)
    runner = web.AppRunner(make_app(settings, pace), access_log=None, shutdown_timeout=_CLOSE_SECONDS)
    await runner.setup()
    site = web.TCPSite(runner, settings.host, settings.port)
    await site.start()
    port = runner.addresses[0][1]
    log.info("listening", extra={"action": "listening", "port": port, "type": settings.type})
    # numpy and Pillow are imported while the port already answers.
    warm = loop.create_task(pace.run(_warm_up))
    await stop.wait()
    log.info("stopping", extra={"action": "stopping"})
    warm.cancel()
    pace.close()
    await runner.cleanup()


def _warm_up() -> None:
    """Import what drawing needs and draw once, so that the first picture is as quick as the others."""
    from sdctl.local.sketch import images
    from sdctl.local.sketch.drawing import Wish, draw
    from sdctl.local.sketch.png import encode_png

    encode_png(images.unfinished(draw(Wish("a dog by the sea", "", 0, 64, 64, "")), 0.5))
