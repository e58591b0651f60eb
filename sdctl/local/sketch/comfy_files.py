"""ComfyUI's routes for files: what is uploaded, and what is shown again."""

from __future__ import annotations

import asyncio
import io
import mimetypes
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from aiohttp import web

from sdctl.local.sketch.comfy_reading import TroubleError, as_object, as_whole, loads
from sdctl.local.sketch.files import FOLDERS, FileRef, FileStore, OutsideFolderError, inside, split_annotation
from sdctl.local.sketch.pace import Pace

# Never sent as what a browser would run.
_ACTIVE_TYPES = (
    "text/html",
    "text/html-sandboxed",
    "application/xhtml+xml",
    "text/javascript",
    "text/css",
    "image/svg+xml",
)


class FileRoutes:
    """The routes /view, /upload/image and /upload/mask over one store."""

    def __init__(self, files: FileStore, pace: Pace) -> None:
        self._files, self._pace = files, pace

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/view", self._view), web.post("/upload/image", self._upload_image),
            web.post("/upload/mask", self._upload_mask),
        ]  # fmt: skip

    async def _view(self, request: web.Request) -> web.StreamResponse:
        name = request.query.get("filename", "")
        if not name:
            return web.Response(status=404)
        name, folder = split_annotation(name, request.query.get("type", "output"))
        if not name or name[0] == "/" or ".." in name or folder not in FOLDERS:
            return web.Response(status=400)
        try:
            subfolder = inside(request.query.get("subfolder", ""))
        except OutsideFolderError:
            return web.Response(status=403)
        base = name.rsplit("/", 1)[-1]
        data = self._files.get(FileRef(folder, subfolder, base))
        if data is None:
            return web.Response(status=404)
        kind = mimetypes.guess_type(base)[0] or "application/octet-stream"
        if "preview" in request.query:
            converted = await self._pace.run(partial(_smaller, data, request.query["preview"]))
            if converted is not None:
                data, kind = converted
        safe = re.sub(r'[\x00-\x1f"\\]', "_", base)
        headers = {"Content-Disposition": f'filename="{safe}"'}
        kind = "application/octet-stream" if kind in _ACTIVE_TYPES else kind
        return web.Response(body=data, content_type=kind, headers=headers)

    async def _upload_image(self, request: web.Request) -> web.Response:
        post = await request.post()
        return await self._stored_upload(dict(post), lambda data: data)

    async def _upload_mask(self, request: web.Request) -> web.Response:
        """Store a picture of ours again, with the alpha channel of what is sent."""
        post = dict(await request.post())
        reference = as_object(loads(str(post.get("original_ref", ""))))
        name, folder = split_annotation(
            str(reference.get("filename", "")), str(reference.get("type", "output"))
        )
        if not name or name[0] == "/" or ".." in name or folder not in FOLDERS:
            return web.Response(status=400)
        try:
            subfolder = inside(str(reference.get("subfolder", "")))
        except OutsideFolderError:
            return web.Response(status=403)
        original = self._files.get(FileRef(folder, subfolder, name))
        if original is None:
            return web.Response(status=400)
        return await self._stored_upload(post, lambda data: _with_alpha(original, data))

    async def _stored_upload(self, post: dict[str, Any], convert: Callable[[bytes], bytes]) -> web.Response:
        field = post.get("image")
        if field is None:
            return web.Response(status=400)
        folder = str(post.get("type") or "input")
        if not isinstance(field, web.FileField) or folder not in FOLDERS:
            raise TroubleError("no file name, or no such folder")
        if not field.filename:
            return web.Response(status=400)
        try:
            subfolder = inside(str(post.get("subfolder", "")))
            if inside(field.filename) != field.filename or "/" in field.filename:
                raise OutsideFolderError(field.filename)
        except OutsideFolderError:
            return web.Response(status=400)
        raw = await asyncio.to_thread(field.file.read)
        data = await self._pace.run(lambda: convert(raw))
        name = field.filename if str(post.get("overwrite", "")).lower() in ("true", "1") else self._free_name(
            folder, subfolder, field.filename, data)  # fmt: skip
        self._files.put(FileRef(folder, subfolder, name), data)
        return web.json_response({"name": name, "subfolder": subfolder, "type": folder})

    def _free_name(self, folder: str, subfolder: str, name: str, data: bytes) -> str:
        """Return the name itself where it is free or holds the same bytes, else `name (1).png` and so on."""
        stem, dot, suffix = name.rpartition(".")
        number, candidate = 0, name
        while (
            present := self._files.get(FileRef(folder, subfolder, candidate))
        ) is not None and present != data:
            number += 1
            candidate = f"{stem} ({number}){dot}{suffix}" if stem else f"{name} ({number})"
        return candidate


def _smaller(data: bytes, wish: str) -> tuple[bytes, str] | None:
    """Convert a picture as /view's `preview=webp;90` asks; None where it is no picture."""
    from sdctl.local.sketch.images import BadImageError, decode_image, rgb

    form, _, quality = wish.partition(";")
    form = form if form in ("webp", "jpeg") else "webp"
    buffer = io.BytesIO()
    try:
        rgb(decode_image(data)).save(buffer, form, quality=min(100, as_whole(quality or None) or 90))
    except BadImageError:
        return None
    return buffer.getvalue(), f"image/{form}"


def _with_alpha(original: bytes, mask: bytes) -> bytes:
    from sdctl.local.sketch.images import BadImageError, decode_image

    try:
        picture, alpha = (
            decode_image(original).convert("RGBA"),
            decode_image(mask).convert("RGBA").getchannel("A"),
        )
    except BadImageError as error:
        raise TroubleError("no picture") from error
    picture.putalpha(alpha.resize(picture.size))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
