"""The web sockets of ComfyUI: who gets which message, with the real server's own peculiarities."""

from __future__ import annotations

import asyncio
import json
import struct
import uuid
from typing import Any

from aiohttp import WSMsgType, web

# A client that reads nothing loses its socket after this many messages; previews are left out earlier.
_MAX_WAITING = 4000
_MAX_WAITING_FOR_PREVIEWS = 20
PREVIEW, PREVIEW_WITH_METADATA = 1, 4
JPEG, PNG = 1, 2
SERVER_FEATURES = {
    "supports_preview_metadata": True, "supports_model_type_tags": True, "max_upload_size": 100 * 1024 * 1024,
    "extension": {}, "node_replacements": False, "assets": False,
}  # fmt: skip


class Client:
    """One socket, written to by a task of its own so that a slow reader delays nobody."""

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport | None) -> None:
        self._socket, self._transport = socket, transport
        self._waiting: asyncio.Queue[str | bytes] = asyncio.Queue(_MAX_WAITING)
        self.wants_metadata = False

    def put(self, message: str | bytes) -> None:
        """Queue a message; a client that does not read is cut off."""
        try:
            self._waiting.put_nowait(message)
        except asyncio.QueueFull:
            if self._transport is not None:
                self._transport.abort()

    def put_preview(self, message: bytes) -> None:
        """Queue a preview unless older ones still wait."""
        if self._waiting.qsize() < _MAX_WAITING_FOR_PREVIEWS:
            self.put(message)

    async def write(self) -> None:
        """Send what is queued, in order, until the socket closes."""
        while not self._socket.closed:
            message = await self._waiting.get()
            try:
                if isinstance(message, str):
                    await self._socket.send_str(message)
                else:
                    await self._socket.send_bytes(message)
            except ConnectionError:
                return


class Sockets:
    """All sockets by client id.

    As in the real server an id belongs to its newest socket, and is forgotten when any of its sockets
    closes: the newest one then gets nothing more.
    """

    def __init__(self) -> None:
        self._clients: dict[str, Client] = {}
        self._open: set[web.WebSocketResponse] = set()
        # Whose prompt runs, and at which node: what a reconnecting client is told.
        self.running_client: str | None = None
        self.running_node: str | None = None

    async def handle(self, request: web.Request, queue_remaining: int) -> web.WebSocketResponse:
        """Serve one socket until it closes."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        client = Client(socket, request.transport)
        sid = request.query.get("clientId", "") or uuid.uuid4().hex
        self._clients[sid] = client
        self._open.add(socket)
        writer = asyncio.get_running_loop().create_task(client.write())
        status = {"status": {"exec_info": {"queue_remaining": queue_remaining}}, "sid": sid}
        client.put(_text("status", status))
        if self.running_client == sid and self.running_node is not None:
            client.put(_text("executing", {"node": self.running_node}))
        first = True
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT and first:
                    first = False
                    self._features(client, message.data)
        finally:
            writer.cancel()
            self._open.discard(socket)
            self._clients.pop(sid, None)
        return socket

    def _features(self, client: Client, text: str) -> None:
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            return
        if isinstance(message, dict) and message.get("type") == "feature_flags":
            data = message.get("data")
            client.wants_metadata = isinstance(data, dict) and data.get("supports_preview_metadata") is True
            client.put(_text("feature_flags", SERVER_FEATURES))

    def send(self, event: str, data: dict[str, Any], sid: str | None) -> None:
        """Send a message to one client, or to every one where `sid` is None."""
        text = _text(event, data)
        for client in self._to(sid):
            client.put(text)

    def send_preview(self, jpeg: bytes, facts: dict[str, Any], sid: str | None) -> None:
        """Send a half-finished picture, with its metadata to those that can read it."""
        header = json.dumps({**facts, "image_type": "image/jpeg"}).encode()
        for client in self._to(sid):
            if client.wants_metadata:
                client.put_preview(struct.pack(">II", PREVIEW_WITH_METADATA, len(header)) + header + jpeg)
            else:
                client.put_preview(struct.pack(">II", PREVIEW, JPEG) + jpeg)

    def send_png(self, png: bytes, sid: str | None) -> None:
        """Send a finished picture, as SaveImageWebsocket does."""
        for client in self._to(sid):
            client.put(struct.pack(">II", PREVIEW, PNG) + png)

    def anyone(self, sid: str | None) -> bool:
        """Say whether a message to `sid` would reach a client."""
        return bool(self._to(sid))

    def _to(self, sid: str | None) -> list[Client]:
        if sid is None:
            return list(self._clients.values())
        client = self._clients.get(sid)
        return [client] if client else []

    async def close(self) -> None:
        """Close every socket."""
        await asyncio.gather(*(socket.close(code=1001) for socket in list(self._open)))


def _text(event: str, data: dict[str, Any]) -> str:
    return json.dumps({"type": event, "data": data})
