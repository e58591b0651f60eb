"""The SD WebUI protocol, as AUTOMATIC1111 1.10.1 speaks it: routes, and what each answers."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import logging
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from aiohttp import web

from sdctl.local.sketch import machine, webui_fields, webui_lists
from sdctl.local.sketch.models import Checkpoint, Models
from sdctl.local.sketch.notice import RUNTIME, SENTENCE, notice
from sdctl.local.sketch.pace import Pace
from sdctl.local.sketch.webui_extras import upscaled_answer
from sdctl.local.sketch.webui_fields import RefusedError, failure, read_fields, read_json
from sdctl.local.sketch.webui_jobs import Order, State, read_image, read_order, read_source

log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WebUi:
    """The state behind the routes: options, the loaded checkpoint, the one running job."""

    def __init__(self, models: Models, pace: Pace, draw_number: Callable[[], int] | None = None) -> None:
        self.models, self.pace = models, pace
        self.state = State()
        self._lock = asyncio.Lock()
        self._options = dict(webui_lists.OPTIONS)
        self._draw_number = draw_number or (lambda: random.SystemRandom().randrange(2**32 - 2))
        self._select(models.checkpoints[0])

    def routes(self) -> list[web.RouteDef]:
        """Return every route."""
        prefix = "/sdapi/v1/"
        posts: dict[str, Handler] = {
            "txt2img": self._txt2img, "img2img": self._img2img, "extra-single-image": self._extra_single,
            "extra-batch-images": self._extra_batch, "options": self._set_options, "png-info": self._png_info,
            "interrupt": self._interrupt, "skip": self._skip, "refresh-checkpoints": self._refresh,
            "refresh-vae": self._refresh, "refresh-loras": self._refresh,
            "refresh-embeddings": self._refresh, "unload-checkpoint": self._nothing,
            "reload-checkpoint": self._nothing,
        }  # fmt: skip
        gets: dict[str, Callable[[], Any]] = {
            "options": lambda: self._options, "cmd-flags": lambda: {"api": True, "runtime": RUNTIME},
            "sd-models": lambda: [self._listed(one) for one in self.models.checkpoints], "sd-vae": list,
            "samplers": webui_lists.samplers, "schedulers": webui_lists.schedulers,
            "upscalers": lambda: webui_lists.upscalers(self.models.upscalers),
            "latent-upscale-modes": lambda: [{"name": name} for name in webui_lists.LATENT_UPSCALERS],
            "loras": list, "hypernetworks": list, "face-restorers": list, "realesrgan-models": list,
            "prompt-styles": list, "embeddings": lambda: {"loaded": {}, "skipped": {}}, "memory": _memory,
            "scripts": lambda: {"txt2img": [], "img2img": []}, "script-info": list, "extensions": list,
        }  # fmt: skip
        routes = [web.post(prefix + name, handler) for name, handler in posts.items()]
        routes += [web.get(prefix + name, _getter(answer), allow_head=False) for name, answer in gets.items()]
        routes.append(web.get(prefix + "progress", self._progress, allow_head=False))
        paths: dict[str, Any] = {
            route.path: {route.method.lower(): {"responses": {"200": {}}}} for route in routes
        }
        about = {"openapi": "3.0.2", "info": {"title": RUNTIME, "version": "1.10.1", "description": SENTENCE}}
        return [
            *routes,
            web.get("/openapi.json", _getter(lambda: {**about, "paths": paths}), allow_head=False),
        ]

    def _select(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._options["sd_model_checkpoint"] = checkpoint.title
        self._options["sd_checkpoint_hash"] = checkpoint.sha256

    def _listed(self, one: Checkpoint) -> dict[str, Any]:
        folder = self.models.folder.as_posix() if self.models.folder else "models"
        return {
            "title": one.title, "model_name": one.model_name, "hash": one.short_hash, "sha256": one.sha256,
            "filename": f"{folder}/Stable-diffusion/{one.file_name}", "config": None,
        }  # fmt: skip

    async def _txt2img(self, request: web.Request) -> web.Response:
        values = await _fields(request, webui_fields.TXT2IMG)
        async with self._lock:
            return await self._generate(values, "scripts_txt2img", lambda order: order)

    async def _img2img(self, request: web.Request) -> web.Response:
        values = await _fields(request, webui_fields.IMG2IMG)
        # Decoded before the lock: a broken picture is told at once, not after the jobs before it.
        source = await self.pace.run(lambda: read_source(values))
        async with self._lock:
            return await self._generate(
                values, "scripts_img2img", lambda order: dataclasses.replace(order, source=source)
            )

    async def _generate(
        self, values: dict[str, Any], job: str, complete: Callable[[Order], Order]
    ) -> web.Response:
        """Run one job while holding the lock, and answer with its pictures."""
        before = self._checkpoint
        overrides = values["override_settings"] or {}
        wanted = overrides.get("sd_model_checkpoint")
        # One that does not exist is ignored without a word: only the info tells which was used.
        found = self.models.closest(wanted) if isinstance(wanted, str) else None
        order = complete(read_order(values, found or before, self._draw_number))
        if found is not None:
            self._select(found)
        self.state.begin(job, values["n_iter"])
        try:
            pngs = await self._pictures(order)
            info = order.info(len(pngs), self.state.job_timestamp)
        finally:
            self.state.end()
            if values["override_settings_restore_afterwards"]:
                self._select(before)
        shown = {**values, "sampler_index": values["sampler_index"]}
        if "init_images" in values and not values["include_init_images"]:
            shown |= {"init_images": None, "mask": None}
        images = [base64.b64encode(png).decode() for png in pngs] if values["send_images"] else []
        answer = {"images": images, "parameters": shown, "info": json.dumps(info)}
        return await self._json(answer)

    async def _pictures(self, order: Order) -> list[bytes]:
        """Draw batch after batch until done or interrupted; what is unfinished is returned as it is."""
        from sdctl.local.sketch.images import unfinished
        from sdctl.local.sketch.png import encode_png

        state, steps, size = self.state, order.values["steps"], order.values["batch_size"]
        pngs: list[bytes] = []
        for batch in range(order.values["n_iter"]):
            if state.skipped:
                state.skipped = False
                state.stop.clear()
            if state.interrupted:
                break
            state.job_no, state.sampling_step, state.sampling_steps = batch, 0, steps
            indices = range(batch * size, (batch + 1) * size)
            finals = [await self.pace.run(partial(order.paint, index)) for index in indices]
            state.preview = partial(self._preview, finals[0])
            done = await self.pace.steps(steps, size, state.stop, self._step_done) / steps
            for index, final in zip(indices, finals, strict=True):
                text = {"parameters": order.infotext(index), **notice()}
                left = await self.pace.run(partial(unfinished, final, done))
                pngs.append(await self.pace.run(partial(encode_png, left, text)))
            state.job_no = batch + 1
        return pngs

    def _preview(self, final: Any) -> bytes:
        """Return the running picture as it is after this step."""
        from sdctl.local.sketch.images import unfinished
        from sdctl.local.sketch.png import encode_png

        return encode_png(unfinished(final, self.state.sampling_step / max(1, self.state.sampling_steps)))

    def _step_done(self, step: int) -> None:
        self.state.sampling_step = step

    async def _extra_single(self, request: web.Request) -> web.Response:
        values = await _fields(request, webui_fields.EXTRA_SINGLE)
        html, images = await self._upscaled(values, [values["image"]])
        return await self._json({"html_info": html, "image": images[0]})

    async def _extra_batch(self, request: web.Request) -> web.Response:
        values = await _fields(request, webui_fields.EXTRA_BATCH)
        listed = values["imageList"]
        problems = [
            {
                "loc": ["body", "imageList", index, name],
                "msg": "field required",
                "type": "value_error.missing",
            }
            for index, item in enumerate(listed)
            for name in ("data", "name")
            if not isinstance(item, dict) or name not in item
        ]
        if problems:
            raise webui_fields.unprocessable(*problems)
        html, images = await self._upscaled(values, [item["data"] for item in listed])
        return await self._json({"html_info": html, "images": images})

    async def _upscaled(self, values: dict[str, Any], texts: list[Any]) -> tuple[str, list[str]]:
        names = [row["name"] for row in webui_lists.upscalers(self.models.upscalers)]
        async with self._lock:
            self.state.begin("extras", max(1, len(texts)))
            try:
                images = []
                html = "<p></p>"
                for text in texts:
                    source = await self.pace.run(partial(read_image, text))
                    html, png = await self.pace.run(partial(upscaled_answer, source, values, names))
                    await self.pace.steps(1, 1, self.state.stop, self._step_done)
                    images.append(base64.b64encode(png).decode())
                    self.state.job_no += 1
                return html, images
            finally:
                self.state.end()

    async def _png_info(self, request: web.Request) -> web.Response:
        values = await _fields(request, webui_fields.PNG_INFO)
        image = await self.pace.run(lambda: read_image(values["image"].strip()))
        items = {key: value for key, value in image.info.items() if isinstance(value, str)}
        return web.json_response({"info": items.get("parameters", ""), "items": items, "parameters": {}})

    async def _set_options(self, request: web.Request) -> web.Response:
        document = read_json(await request.read(), request.content_type)
        if not isinstance(document, dict):
            raise webui_fields.unprocessable(
                {"loc": ["body"], "msg": "value is not a valid dict", "type": "type_error.dict"}
            )
        wanted = document.get("sd_model_checkpoint")
        checkpoint = None
        if wanted is not None:
            checkpoint = self.models.exactly(wanted) if isinstance(wanted, str) else None
            if checkpoint is None:
                raise failure("RuntimeError", f"model {wanted!r} not found")
        unknown = next((key for key in document if key not in self._options), None)
        if unknown is not None:
            raise failure("KeyError", repr(unknown))
        self._options.update(document)
        self._select(checkpoint or self._checkpoint)
        return web.json_response(None)

    async def _progress(self, request: web.Request) -> web.Response:
        part, eta = self.state.progress()
        current = None
        preview = self.state.preview
        if (
            preview
            and self.state.sampling_step
            and request.query.get("skip_current_image", "").lower() not in ("true", "1")
        ):
            current = base64.b64encode(await asyncio.to_thread(preview)).decode()
        return web.json_response(
            {
                "progress": part,
                "eta_relative": eta,
                "state": self.state.shown(),
                "current_image": current,
                "textinfo": None,
            }
        )

    async def _interrupt(self, _request: web.Request) -> web.Response:
        self.state.interrupt()
        return web.json_response({})

    async def _skip(self, _request: web.Request) -> web.Response:
        self.state.skip()
        return web.json_response(None)

    async def _refresh(self, _request: web.Request) -> web.Response:
        self.models.refresh()
        return web.json_response(None)

    async def _nothing(self, _request: web.Request) -> web.Response:
        """Load or unload: there is no model that could be."""
        return web.json_response({})

    async def _json(self, answer: dict[str, Any]) -> web.Response:
        """Answer with much JSON, written off the event loop so that GET progress stays quick."""
        text = await self.pace.run(lambda: json.dumps(answer).encode())
        return web.Response(body=text, content_type="application/json")


async def _fields(request: web.Request, model: dict[str, webui_fields.Field]) -> dict[str, Any]:
    return read_fields(read_json(await request.read(), request.content_type), model)


def _getter(answer: Callable[[], Any]) -> Handler:
    async def handle(_request: web.Request) -> web.StreamResponse:
        return web.json_response(answer())

    return handle


def _memory() -> dict[str, Any]:
    free, used, total = machine.free_bytes(), machine.used_bytes(), machine.total_bytes()
    return {"ram": {"free": free, "used": used, "total": total}, "cuda": {"error": "unavailable"}}


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error as A1111 does: FastAPI's `detail` for routes, its own object for the rest."""
    try:
        return await handler(request)
    except RefusedError as error:
        return web.json_response(error.body, status=error.status)
    except web.HTTPNotFound:
        return web.json_response({"detail": "Not Found"}, status=404)
    except web.HTTPMethodNotAllowed as error:
        return web.json_response(
            {"detail": "Method Not Allowed"}, status=405, headers={"Allow": error.headers["Allow"]}
        )
    except web.HTTPException:
        raise
    except Exception as error:  # the boundary of one request
        log.exception("a request failed", extra={"action": "request_failed", "path": request.path})
        answer = failure(type(error).__name__, str(error))
        return web.json_response(answer.body, status=answer.status)
